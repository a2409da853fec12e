"""The files of a NIfTI image: their names, and their bytes in order, decompressed."""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from fmristore_stores.errors import (
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.io.location import exists, filesystem, is_local, normalise
from fmristore_stores.io.sources import storage_error

__all__ = [
    "NIFTI_SUFFIXES",
    "ImageName",
    "NiftiFiles",
    "file_size",
    "is_nifti_name",
    "locate",
    "open_decoded",
    "require_suffix",
    "split_name",
    "translated",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")

_SUFFIX = re.compile(r"(\.(?:nii|hdr|img))(\.gz)?(?=$|::|\?)", re.IGNORECASE)
"""Ends a path; in a URL the rest of a chain (``zip://a.nii::b.zip``) or a query may follow."""

_READ_BUFFER = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class NiftiFiles:
    """Where the bytes of an image lie.

    Parameters
    ----------
    header_url : str
        File that holds the header.
    data_url : str
        File that holds the numbers; the same one unless the image is a pair.
    storage_options : mapping, optional
        What fsspec needs to reach them.
    """

    header_url: str
    data_url: str
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def is_pair(self) -> bool:
        """Whether header and data are two files."""
        return self.header_url != self.data_url


def is_nifti_name(url: str | os.PathLike[str]) -> bool:
    """Whether a name ends like that of a NIfTI image, whatever the case of its letters."""
    return _SUFFIX.search(os.fspath(url)) is not None


class ImageName(NamedTuple):
    """The parts of a file's name; joined they are the name."""

    stem: str
    suffix: str
    """``.nii``, ``.hdr`` or ``.img``, in upper or lower case as it is written."""
    compressed: str
    """``.gz`` as it is written, or nothing."""
    tail: str
    """What follows the path in a URL."""


def split_name(url: str) -> ImageName | None:
    """Split the name of an image, None if it does not end like one."""
    match = _SUFFIX.search(url)
    if match is None:
        return None
    return ImageName(url[: match.start()], match[1], match[2] or "", url[match.end() :])


def locate(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> NiftiFiles:
    """Find the file or the two files of an image from the name of either.

    Raises
    ------
    NotFoundError
        If the named file or its counterpart is missing.
    UnknownFormatError
        If the name is that of a folder.
    """
    named = normalise(url)
    if not exists(named, storage_options):
        raise NotFoundError("there is no such file or object", url=named)
    if is_local(named) and os.path.isdir(named):  # noqa: PTH112 - a string is what we have
        raise UnknownFormatError("a folder: expected a NIfTI file", url=named)
    parts = split_name(named)
    if parts is None or parts.suffix.lower() == ".nii":
        return NiftiFiles(named, named, storage_options)
    stem, suffix, compressed, tail = parts
    other = ".img" if suffix.lower() == ".hdr" else ".hdr"
    spellings = dict.fromkeys(
        (other.upper() if suffix.isupper() else other, other, other.upper(), other.capitalize())
    )
    candidates = [
        f"{stem}{spelling}{ending}{tail}"
        for ending in ((compressed, ".gz", ".GZ", "") if compressed else ("", ".gz", ".GZ"))
        for spelling in spellings
    ]
    for candidate in candidates:
        if exists(candidate, storage_options):
            pair = (named, candidate) if other == ".img" else (candidate, named)
            return NiftiFiles(*pair, storage_options)
    what = "data" if other == ".img" else "header"
    msg = f"the image is a pair of files and its {what} file is missing: expected {candidates[0]}"
    raise NotFoundError(msg, url=named)


def file_size(url: str, storage_options: Mapping[str, Any] | None = None) -> int | None:
    """Length of a file in bytes as it is stored, None if the service does not tell."""
    with translated(url):
        if is_local(url):
            return os.stat(url).st_size  # noqa: PTH116 - a string is what we have
        fs, path = filesystem(url, storage_options)
        size = fs.info(path).get("size")
        return None if size is None else int(size)


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn what reading or writing a file raises into errors of our own tree."""
    from isal import isal_zlib

    damage: Any = isal_zlib.IsalError
    try:
        yield
    except FmristoreError:
        raise
    except (EOFError, gzip.BadGzipFile, damage) as error:
        msg = f"damaged or truncated gzip data: {error}"
        raise CorruptDataError(msg, url=url) from error
    except OSError as error:
        raise storage_error(error, url) from error
    except Exception as error:
        if is_local(url):
            raise
        # The clients of storage services raise classes of their own.
        raise storage_error(error, url) from error


@contextmanager
def open_decoded(
    url: str, storage_options: Mapping[str, Any] | None = None
) -> Iterator[tuple[BinaryIO, bool]]:
    """Open a file to read it front to back, decompressed if its first bytes are gzip's.

    Yields
    ------
    file : BinaryIO
        With ``read`` and ``readinto``; all members of a gzip file follow each other, and their
        checksums are tested.
    compressed : bool
        Whether the file is compressed.

    Raises
    ------
    NotFoundError, AccessDeniedError, StorageError
        If the file cannot be opened or read.
    CorruptDataError
        If the compressed data are damaged or end too early.
    """
    from isal import igzip

    gzip_file: Any = igzip.IGzipFile
    with (
        translated(url),
        _open_raw(url, storage_options) as raw,
        # One buffer for all sources: it gives `peek`, and large reads pass through it.
        io.BufferedReader(raw, _READ_BUFFER) as buffered,
    ):
        if buffered.peek(2)[:2] != _GZIP_MAGIC:
            yield buffered, False
            return
        with gzip_file(fileobj=buffered, mode="rb") as decoded:
            yield decoded, True


@contextmanager
def _open_raw(url: str, storage_options: Mapping[str, Any] | None) -> Iterator[Any]:
    """Open the bytes as stored; a file system that holds its own descriptor stays alive."""
    if is_local(url):
        with io.FileIO(open_ordinary(url), "rb") as file:
            yield file
    else:
        fs, path = filesystem(url, storage_options)
        with fs.open(path, "rb") as file:
            yield file


def require_suffix(url: str) -> ImageName:
    """Split the name of an image to be written.

    Raises
    ------
    InvalidInputError
        If it does not end in one of `NIFTI_SUFFIXES`.
    """
    parts = split_name(url)
    if parts is None:
        msg = f"a NIfTI file must be named with one of {', '.join(NIFTI_SUFFIXES)}"
        raise InvalidInputError(msg, url=url)
    return parts
