"""Image files that are not NIfTI: read by nibabel, or refused by name with what to do."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fmristore_stores.errors import (
    CorruptDataError,
    DependencyError,
    FmristoreError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.io.local_files import check_ordinary
from fmristore_stores.io.location import exists, filesystem, is_local, name_of
from fmristore_stores.io.sources import storage_error

__all__ = ["is_foreign", "open_foreign", "refuse_surface"]

_END = r"(?=$|::|\?)"
"""Ends a path; in a URL the rest of a chain (``zip://a.mgz::b.zip``) or a query may follow."""
_FOREIGN = re.compile(
    rf"\.(?:mgz|mgh(?:\.gz)?|mnc(?:\.gz)?|(?:head|brik)(?:\.gz|\.bz2)?|par|rec){_END}",
    re.IGNORECASE,
)
_PAIRS = {".head": (".brik", ".brik.gz", ".brik.bz2"), ".par": (".rec",)}
_PAIRS |= {".brik": (".head",), ".rec": (".par",), ".hdr": (".img", ".img.gz", ".mat")}
_PAIRS |= {".img": (".hdr", ".hdr.gz", ".mat")}
_CIFTI = re.compile(
    r"\.(?:dconn|dtseries|dscalar|dlabel|dpconn|dfan|dfansamp|dfibersamp|pconn|pconnseries"
    rf"|pconnscalar|ptseries|pscalar|plabel|pdconn)\.nii(?:\.gz)?{_END}",
    re.IGNORECASE,
)
_GIFTI = re.compile(rf"\.gii(?:\.gz)?{_END}", re.IGNORECASE)


def is_foreign(url: str) -> bool:
    """Whether a name is that of an image of FreeSurfer, AFNI, MINC or Philips."""
    return _FOREIGN.search(url) is not None


def refuse_surface(url: str) -> None:
    """Refuse files that hold no image of voxels.

    Raises
    ------
    UnknownFormatError
        If the name is that of a CIFTI or GIFTI file.
    """
    if _CIFTI.search(url):
        raise UnknownFormatError(
            "a CIFTI file by its name, values of grayordinates and no image of voxels: extract its "
            "volume part first, for example with wb_command -cifti-separate",
            url=url,
        )
    if _GIFTI.search(url):
        raise UnknownFormatError(
            "a GIFTI file by its name, a surface and no image of voxels: map it to a volume first, "
            "for example with wb_command -metric-to-volume-mapping or -label-to-volume-mapping",
            url=url,
        )


@contextlib.contextmanager
def open_foreign(url: str, storage_options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Open an image with nibabel; its values are read when they are asked for.

    Parameters
    ----------
    url : str
        Normalised. What is not local is copied to a temporary folder first, for as long as the
        image is open.
    storage_options : mapping, optional
        Passed to fsspec.

    Yields
    ------
    nibabel image

    Raises
    ------
    NotFoundError
        If there is no such file, or its counterpart is missing.
    UnknownFormatError
        If nibabel cannot read it.
    CorruptDataError
        If it is damaged, also while it is read.
    """
    with contextlib.ExitStack() as stack:
        path = url if is_local(url) else stack.enter_context(_copied(url, storage_options))
        image = _load(path, url)
        try:
            yield image
        except FmristoreError:
            raise
        except (OSError, EOFError, ValueError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise storage_error(error, url) from error
            raise CorruptDataError(f"damaged or truncated: {error}", url=url) from error


def _load(path: str, url: str) -> Any:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.tripwire import TripWireError
    from nibabel.wrapstruct import WrapStructError

    library: Any = nibabel
    try:
        check_ordinary(path, url)
        # Kept open, a compressed file is read once, front to back.
        image = library.load(path)
        for holder in image.file_map.values():
            if holder.filename and os.path.lexists(holder.filename):
                check_ordinary(holder.filename, url)
    except FmristoreError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(
            f"not there, or its counterpart is missing: {error}", url=url
        ) from error
    except (TripWireError, ImportError) as error:
        raise DependencyError(f"nibabel cannot read it: {error}", url=url) from error
    except (ImageFileError, HeaderDataError, WrapStructError) as error:
        raise UnknownFormatError(f"nibabel cannot read it: {error}", url=url) from error
    except (EOFError, zlib.error, struct.error, ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"damaged or truncated: {error}", url=url) from error
    except OSError as error:
        raise storage_error(error, url) from error
    return image


@contextlib.contextmanager
def _copied(url: str, storage_options: Mapping[str, Any] | None) -> Iterator[str]:
    """Local copies of a remote file and of what belongs to it."""
    match = _FOREIGN.search(url) or re.search(rf"\.(?:hdr|img)(?:\.gz)?{_END}", url, re.IGNORECASE)
    assert match is not None
    stem, ending, tail = url[: match.start()], match[0], url[match.end() :]
    first = f".{ending.split('.')[1]}"
    others = _PAIRS.get(first.lower(), ())
    if first.isupper():  # of AFNI, whose ending of compression stays as it is
        others = tuple(re.sub(r"^\.\w+", lambda found: found[0].upper(), o) for o in others)
    with tempfile.TemporaryDirectory(prefix="fmristore-") as folder:
        name = Path(name_of(stem)).name or "image"
        for suffix in (ending, *others):
            remote = f"{stem}{suffix}{tail}"
            if suffix != ending and not exists(remote, storage_options):
                continue
            fs, path = filesystem(remote, storage_options)
            try:
                fs.get_file(path, str(Path(folder, f"{name}{suffix}")))
            except Exception as error:  # the clients of storage services raise classes of their own
                raise storage_error(error, url) from error
        yield str(Path(folder, f"{name}{ending}"))
