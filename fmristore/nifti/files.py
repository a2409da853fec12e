"""The files of a NIfTI image: their names, and their bytes in order, decompressed."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from fmristore_stores.errors import (
    CorruptDataError,
    DependencyError,
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
_BZIP2_MAGIC = b"BZh"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")
_LARGEST_ZSTD = 1 << 30
"""Bytes that are decoded at once where no library decodes them piece by piece."""


@dataclass(frozen=True, slots=True)
class NiftiFiles:
    """Files that hold the bytes of an image.

    Parameters
    ----------
    header_url : str
        File that holds the header.
    data_url : str
        File that holds the data; the same one unless the image is a pair.
    storage_options : mapping, optional
        What fsspec needs to reach them.
    """

    header_url: str
    data_url: str
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def is_pair(self) -> bool:
        """True if header and data are two files."""
        return self.header_url != self.data_url


def is_nifti_name(url: str | os.PathLike[str]) -> bool:
    """Return whether a name ends like that of a NIfTI image, whatever the case of its letters."""
    return _SUFFIX.search(os.fspath(url)) is not None


class ImageName(NamedTuple):
    """The parts of a file's name; joined they are the name."""

    stem: str
    suffix: str
    """``.nii``, ``.hdr`` or ``.img``, in upper or lower case as it is written."""
    compressed: str
    """``.gz`` as it is written, or nothing."""
    tail: str
    """Rest of a URL behind the path."""


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
    suffixes = dict.fromkeys(
        (other.upper() if suffix.isupper() else other, other, other.upper(), other.capitalize())
    )
    candidates = [
        f"{stem}{of_other}{ending}{tail}"
        for ending in ((compressed, ".gz", ".GZ", "") if compressed else ("", ".gz", ".GZ"))
        for of_other in suffixes
    ]
    for candidate in candidates:
        if exists(candidate, storage_options):
            pair = (named, candidate) if other == ".img" else (candidate, named)
            return NiftiFiles(*pair, storage_options)
    what = "data" if other == ".img" else "header"
    msg = f"the image is a pair of files and its {what} file is missing: expected {candidates[0]}"
    if what == "header":
        msg += (
            "; values without one are read with numpy.fromfile(name, dtype).reshape(shape, "
            'order="F") and given as an array with its affine (space=)'
        )
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
        if str(error) == "Invalid data stream":  # of bz2
            raise CorruptDataError(f"damaged bzip2 data: {error}", url=url) from error
        raise storage_error(error, url) from error
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise CorruptDataError(f"damaged zstd data: {error}", url=url) from error
        if is_local(url):
            raise
        # The clients of storage services raise classes of their own.
        raise storage_error(error, url) from error


@contextmanager
def open_decoded(
    url: str, storage_options: Mapping[str, Any] | None = None
) -> Iterator[tuple[BinaryIO, bool]]:
    """Open a file to read it front to back, decompressed as its first bytes say.

    Known are gzip, bzip2 and zstd.

    Yields
    ------
    file : BinaryIO
        With ``read`` and ``readinto``; all members of a gzip file follow each other, and
        their checksums are tested.
    compressed : bool
        Whether the file is compressed.

    Raises
    ------
    NotFoundError, AccessDeniedError, StorageError
        If the file cannot be opened or read.
    CorruptDataError
        If the compressed data are damaged or end too early.
    DependencyError
        If they are zstd of a size that only a library that is not installed can decode.
    """
    with (
        translated(url),
        _open_raw(url, storage_options) as raw,
        # One buffer for all sources: it gives `peek`, and large reads pass through it.
        io.BufferedReader(raw, _READ_BUFFER) as buffered,
    ):
        decoded = _decoded(buffered, url)
        if decoded is None:
            yield buffered, False
            return
        with decoded:
            yield decoded, True


def _decoded(file: io.BufferedReader, url: str) -> Any:
    """The file decompressed; None if it is not compressed."""
    head = file.peek(18)[:18]
    if head.startswith(_GZIP_MAGIC):
        return io.BufferedReader(_Gzip(file, url), _READ_BUFFER)
    if head.startswith(_BZIP2_MAGIC):
        return bz2.BZ2File(file, "rb")
    if head.startswith(_ZSTD_MAGIC):
        for name in _ZSTD_MODULES:
            with contextlib.suppress(ImportError):
                library: Any = importlib.import_module(name)
                return library.ZstdFile(file, "rb")
        return _decoded_at_once(file, _zstd_size(head), url)
    return None


class _Gzip(io.RawIOBase):
    """A gzip file of which everything is read that precedes what is no gzip, as nibabel does."""

    def __init__(self, file: io.BufferedReader, url: str) -> None:
        from isal import igzip

        gzip_file: Any = igzip.IGzipFile
        self._file = file
        self._url = url
        self._decoded = gzip_file(fileobj=file, mode="rb")
        self._again: Iterator[bytes] | None = None
        self._position = 0
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Docstring inherited."""
        return True

    def readinto(self, target: Any) -> int:
        """Docstring inherited."""
        if self._again is None:
            try:
                count = int(self._decoded.readinto(target))
            except (EOFError, gzip.BadGzipFile) as error:
                if isinstance(error, gzip.BadGzipFile) and "Not a gzipped" not in str(error):
                    raise
                self._begin_again()
            else:
                self._position += count
                return count
        view = memoryview(target)
        part = self._rest[: len(view)]
        while not len(part) and (more := next(self._again or iter(()), None)) is not None:
            self._rest = memoryview(more)
            part = self._rest[: len(view)]
        view[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)

    def _begin_again(self) -> None:
        """Decode from the start, to where reading was, member by member."""
        self._again = _members(self._file, self._url)
        while self._position:
            part = next(self._again)
            self._rest = memoryview(part)[self._position :]
            self._position = max(0, self._position - len(part))

    def close(self) -> None:
        """Docstring inherited."""
        self._decoded.close()
        super().close()


def _members(file: io.BufferedReader, url: str) -> Iterator[bytes]:
    """Decoded bytes of the members of a gzip file, up to what is none."""
    from isal import igzip_lib

    library: Any = igzip_lib
    file.seek(0)
    decoder: Any = None
    rest = b""
    while data := rest or file.read(1 << 16):
        if decoder is None:
            data = data.lstrip(b"\0")  # zeros fill up the blocks of a tape
            rest = b""
            if not data:
                continue
            data += file.read(1) if len(data) == 1 else b""
            if not data.startswith(_GZIP_MAGIC):
                return
            decoder = library.IgzipDecompressor(flag=library.DECOMP_GZIP)
        yield decoder.decompress(data)
        rest = b""
        if decoder.eof:
            rest, decoder = decoder.unused_data, None
    if decoder is not None:
        raise CorruptDataError("truncated: the gzip data end within a member", url=url)


def _zstd_size(head: bytes) -> int | None:
    """Bytes of a decoded zstd frame, if it says so (RFC 8878, 3.1.1.1)."""
    flags = head[4] if len(head) > 4 else 0
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    start = 6 - single + (0, 1, 2, 4)[flags & 3]
    if not width or len(head) < start + width:
        return None
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)


def _decoded_at_once(file: io.BufferedReader, size: int | None, url: str) -> io.BytesIO:
    if size is None or size > _LARGEST_ZSTD:
        raise DependencyError(
            "zstd data of a size that is not known, or above 1 GiB, are decoded piece by piece by "
            "a library that is not installed: pip install 'fmristore[zstd]'",
            url=url,
        )
    from numcodecs import Zstd

    encoded = file.read(size + (1 << 20) + 1)
    try:
        return io.BytesIO(Zstd().decode(encoded))
    except (RuntimeError, ValueError) as error:
        raise CorruptDataError(f"damaged or truncated zstd data: {error}", url=url) from error


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
