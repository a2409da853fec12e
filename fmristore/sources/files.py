"""Image files that are not NIfTI: read by nibabel, or refused by name with what to do."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
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
    InvalidInputError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.io.local_files import check_ordinary
from fmristore_stores.io.location import exists, filesystem, is_local, name_of
from fmristore_stores.io.sources import storage_error

__all__ = ["is_foreign", "open_foreign", "open_unnamed", "refuse_surface", "refuse_surface_object"]

_END = r"(?=$|::|\?)"
"""Ends a path; in a URL the rest of a chain (``zip://a.mgz::b.zip``) or a query may follow."""
_FOREIGN = re.compile(
    rf"\.(?:mgz|mgh(?:\.gz)?|mnc(?:\.gz)?|(?:head|brik)(?:\.gz|\.bz2)?|par|rec){_END}",
    re.IGNORECASE,
)
_NIFTI = re.compile(r"\.(?:nii|hdr|img)(?:\.gz)?$", re.IGNORECASE)
_PAIRS = {".head": (".brik", ".brik.gz", ".brik.bz2"), ".par": (".rec",)}
_PAIRS |= {".brik": (".head",), ".rec": (".par",), ".hdr": (".img", ".img.gz", ".mat")}
_PAIRS |= {".img": (".hdr", ".hdr.gz", ".mat")}
_CIFTI = re.compile(
    r"\.(?:dconn|dtseries|dscalar|dlabel|dpconn|dfan|dfansamp|dfibersamp|pconn|pconnseries"
    rf"|pconnscalar|ptseries|pscalar|plabel|pdconn)\.nii(?:\.gz)?{_END}",
    re.IGNORECASE,
)
_MGH_HEAD = struct.Struct(">6i")
_MGH_TYPES = frozenset({0, 1, 3, 4, 10})
"""Of values: uint8, int32, float32, int16, uint16."""
_GIFTI = re.compile(rf"\.gii(?:\.gz)?{_END}", re.IGNORECASE)


def is_foreign(url: str) -> bool:
    """Return whether a name is that of an image of FreeSurfer, AFNI, MINC or Philips.

    In a URL with a query the path comes first, and a name in the query after that.
    """
    path = name_of(url)
    if _NIFTI.search(path):
        return False
    return _FOREIGN.search(path) is not None or _FOREIGN.search(url) is not None


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


def refuse_surface_object(given: Any) -> None:
    """Refuse objects of nibabel that hold no image of voxels.

    Raises
    ------
    InvalidInputError
        If it is a CIFTI or GIFTI image.
    """
    kind = type(given).__name__
    if not type(given).__module__.startswith("nibabel.") or not kind.startswith(
        ("Cifti2", "Gifti")
    ):
        return
    what = "grayordinates" if kind.startswith("Cifti2") else "a surface"
    raise InvalidInputError(
        f"an object of nibabel ({kind}) with values of {what}, and no image of voxels: give its "
        "volume part as a NIfTI image (wb_command -cifti-separate, -metric-to-volume-mapping)"
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


@contextlib.contextmanager
def open_unnamed(url: str, storage_options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Open an image of FreeSurfer whose name does not say it, as URLs with a query may have.

    Parameters
    ----------
    url : str
        Normalised. The file is copied, decompressed, for as long as the image is open.
    storage_options : mapping, optional
        Passed to fsspec.

    Yields
    ------
    nibabel image, or None
        None if the first bytes are not those of such an image.
    """
    import nibabel

    from fmristore.nifti.files import open_decoded

    library: Any = nibabel
    if is_local(url) and Path(url).is_dir():
        yield None
        return
    with contextlib.ExitStack() as stack:
        with open_decoded(url, storage_options) as (file, _):
            head = file.read(_MGH_HEAD.size)
            if not _is_mgh(head):
                yield None
                return
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fmristore-"))
            copy = stack.enter_context(Path(folder, "image.mgh").open("w+b"))
            copy.write(head)
            shutil.copyfileobj(file, copy, 1 << 20)
        copy.seek(0)
        with _translated(url):
            image = library.MGHImage.from_file_map({"image": library.FileHolder(fileobj=copy)})
        yield image


def _is_mgh(head: bytes) -> bool:
    """True if a header is that of FreeSurfer: version 1, positive lengths, a type that it has.

    https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat
    """
    if len(head) < _MGH_HEAD.size:
        return False
    version, *lengths, kind = _MGH_HEAD.unpack(head)
    return version == 1 and min(lengths) > 0 and kind in _MGH_TYPES


def _load(path: str, url: str) -> Any:
    import nibabel

    library: Any = nibabel
    with _translated(url):
        check_ordinary(path, url)
        # Kept open, a compressed file is read once, front to back.
        image = library.load(path)
        for holder in image.file_map.values():
            if holder.filename and os.path.lexists(holder.filename):
                check_ordinary(holder.filename, url)
    return image


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    """Turn what nibabel raises on opening an image into errors of our own tree."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.freesurfer.mghformat import MGHError
    from nibabel.parrec import PARRECError
    from nibabel.spatialimages import HeaderDataError, ImageDataError
    from nibabel.tripwire import TripWireError
    from nibabel.wrapstruct import WrapStructError

    try:
        yield
    except FmristoreError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(
            f"not there, or its counterpart is missing: {error}", url=url
        ) from error
    except (TripWireError, ImportError) as error:
        raise DependencyError(f"nibabel cannot read it: {error}", url=url) from error
    except (ImageFileError, HeaderDataError, ImageDataError, WrapStructError) as error:
        raise UnknownFormatError(f"nibabel cannot read it: {error}", url=url) from error
    except (MGHError, PARRECError) as error:
        raise CorruptDataError(f"damaged, or no such image: {error}", url=url) from error
    except (EOFError, zlib.error, struct.error, ValueError, KeyError, TypeError) as error:
        said = str(error) if error.args != (None,) else type(error).__name__
        raise CorruptDataError(f"damaged or truncated: {said}", url=url) from error
    except OSError as error:
        raise storage_error(error, url) from error


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
