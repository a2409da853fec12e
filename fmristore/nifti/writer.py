"""Writing NIfTI images as a stream, byte for byte as their source was."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self, TypedDict, Unpack

import numpy as np

from fmristore.nifti.fields import HEADER_SIZE, end_of_extensions
from fmristore.nifti.files import ImageName, require_suffix, translated
from fmristore.nifti.header import NiftiHeader, parse_header
from fmristore_stores.errors import (
    ClosedError,
    InvalidInputError,
    LossyError,
)
from fmristore_stores.io.flushing import sync
from fmristore_stores.io.location import exists, filesystem, is_local, normalise
from fmristore_stores.io.owners import hidden_name, own_mark
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.publish import publish_file
from fmristore_stores.publishing.turns import take_turn

__all__ = ["NiftiWriter", "WriteOptions", "reframe", "write_nifti"]

Progress = Callable[[int], None]

_BUFFER = 256 << 10
_SLICE = 1 << 20
"""Bytes that are swapped or compressed at a time."""

_MAGIC_AT = {1: 344, 2: 4}
_OFFSET_AT = {1: (108, "f"), 2: (168, "q")}


class WriteOptions(TypedDict, total=False):
    """Options of `write_nifti`; see `NiftiWriter`."""

    level: int
    overwrite: bool
    storage_options: Mapping[str, Any] | None
    progress: Progress | None


class NiftiWriter:
    """Write an image in pieces; it appears at its destination whole or not at all.

    The bytes go to temporary files beside the destination, which are flushed to disk and renamed
    by `finish`; leaving the context without `finish` removes them, and whatever was at the
    destination stays. For a remote destination the temporary files are local, and uploaded. Of two
    writers of one name, neither of which may replace anything, one gets an error.

    The two files of a pair cannot appear at once. So when a pair is replaced the old header is
    removed first, then the image is put in its place, then the header: a writer that is killed in
    between leaves a pair without a header, never an image under the header of another one.

    The header bytes are written as they are. Only if a single file is written from a pair's
    header, or a pair from a single file's, does the header change: magic and vox_offset are set
    for the new form, the extension flag is added where it is missing, and zeros between the
    extensions and the data are added or dropped.

    Parameters
    ----------
    url : str or path
        Destination: ``.nii``, ``.hdr`` or ``.img``, or these with ``.gz`` to compress. Either
        name of a pair stands for both files.
    header_bytes : bytes
        As in `NiftiHeader.raw`, or from `make_header`.
    level : int, optional
        Of gzip compression: 0 to 3 are ISA-L's (fast), 4 to 9 zlib's (small, slow). No name
        and no time are stored in the gzip header: equal input gives equal files.
    overwrite : bool, optional
        Replace what is at the destination.
    storage_options : mapping, optional
        Passed to fsspec.
    progress : callable, optional
        Called after each `write` with the number of bytes written so far, before compression.

    Raises
    ------
    AlreadyExistsError
        If the destination (for a pair, either file) exists and `overwrite` is false.
    InvalidInputError
        If the name does not end like that of a NIfTI file, or `level` is not 0 to 9.
    LossyError
        If a pair is asked for and a single file's header has bytes after its extensions that are
        not zero.
    FormatError, LayoutNotSupportedError
        If the header bytes are refused by `parse_header`.
    NotFoundError
        If the folder is no folder; one that is missing is made.
    StorageError
        If the destination cannot be written.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        header_bytes: bytes,
        *,
        level: int = 2,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        if not 0 <= level <= 9:
            raise InvalidInputError(f"compression level {level}: expected 0 to 9")
        target = normalise(url)
        name = require_suffix(target)
        single = name.suffix.lower() == ".nii"
        self._header = reframe(parse_header(header_bytes), single=single)
        self._urls = [target] if single else _pair_names(name)
        self._stem = name.stem
        self._level = level if name.compressed else None
        self._overwrite = overwrite
        self._options = storage_options
        self._progress = progress
        self._done = 0
        self._closed = True
        self._cleanup = ExitStack()
        self._publications: list[AbstractContextManager[str]] = []
        try:
            self._temporary = [self._stage(name) for name in self._urls]
            self._sink = self._open()
        except BaseException:
            self.close()
            raise
        self._closed = False

    @property
    def header(self) -> NiftiHeader:
        """The header that is written."""
        return self._header

    def write(self, values: AnyArray) -> None:
        """Append values in stored order.

        Parameters
        ----------
        values : ndarray, (t, z, y, x) or (t, z, y, x, c)
            Of the header's dtype in any byte order (bool passes as uint8). Whole planes: the last
            axes must be those of the image, the number of planes and volumes is free. An array
            in C order is not copied whole.

        Raises
        ------
        InvalidInputError
            If dtype or shape do not fit the header, or these are more values than it promises.
        StorageError
            If writing fails.
        """
        self._require_open()
        header = self._header
        given = values.view(np.uint8) if values.dtype == np.bool_ else values
        plane = header.stream_shape[2:]
        if given.dtype.newbyteorder("<") != header.dtype or given.shape[-len(plane) :] != plane:
            msg = (
                f"values of type {values.dtype} and shape {values.shape}: expected "
                f"{header.dtype} and (t, z, {', '.join(map(str, plane))})"
            )
            raise InvalidInputError(msg, url=self._urls[0])
        if self._done + given.nbytes > header.data_nbytes:
            msg = f"more values than the header's shape {header.stored_shape} has"
            raise InvalidInputError(msg, url=self._urls[0])
        flat = np.ascontiguousarray(given).reshape(-1)
        step = _SLICE // flat.itemsize
        with translated(self._urls[-1]):
            for start in range(0, flat.size, step):
                piece = flat[start : start + step].astype(header.disk_dtype, copy=False)
                self._sink.write(piece.view(np.uint8).data)
        self._done += flat.nbytes
        if self._progress is not None:
            self._progress(self._done)

    def finish(self, *, trailer: bytes = b"") -> None:
        """Complete the image and publish it.

        Parameters
        ----------
        trailer : bytes, optional
            Written after the data, as `VolumeStream.trailer` gave them.

        Raises
        ------
        InvalidInputError
            If values are missing.
        AlreadyExistsError
            If something appeared at the destination meanwhile and may not be replaced.
        StorageError
            If writing, renaming or uploading fails.
        """
        self._require_open()
        if self._done != self._header.data_nbytes:
            msg = f"{self._done} bytes of values were written: expected {self._header.data_nbytes}"
            raise InvalidInputError(msg, url=self._urls[0])
        with translated(self._urls[-1]):
            self._sink.write(trailer)
            self._sink.close()
            self._publish()
        self.close()

    def close(self) -> None:
        """Remove temporary files; without `finish` before, nothing is written."""
        self._closed = True
        self._cleanup.close()
        while self._publications:
            self._give_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise ClosedError("the image was finished or given up", url=self._urls[0])

    def _stage(self, url: str) -> Path:
        """Begin to publish a file; the path that its bytes go to until `finish`."""
        publication = publish_file(url, overwrite=self._overwrite, storage_options=self._options)
        path = Path(publication.__enter__())
        self._publications.append(publication)
        return path

    def _give_up(self) -> None:
        """Do not publish the last of the files that are not published yet."""
        reason = _GivenUpError()
        with suppress(_GivenUpError):
            self._publications.pop().__exit__(type(reason), reason, None)

    def _open(self) -> _Sink:
        """Write what precedes the data; return what the data go to."""
        header = self._header
        with translated(self._urls[0]):
            sinks = [self._sink_to(path) for path in self._temporary]
            sinks[0].write(header.raw)
            if not header.single:
                sinks[0].close()
                sinks[1].write(bytes(header.data_offset))
            return sinks[-1]

    def _sink_to(self, path: Path) -> _Sink:
        file = path.open("xb", buffering=_BUFFER)
        self._cleanup.callback(_give_up, file)
        return _Plain(file) if self._level is None else _Gzip(file, self._level)

    def _publish(self) -> None:
        """Let the files appear."""
        if len(self._publications) == 1:
            self._publications.pop().__exit__(None, None, None)
            return
        # Writers of one pair take turns, or the header of one could come to lie over the image of
        # the other; each of the files has a turn of its own besides.
        with take_turn(self._stem, self._options):
            self._publish_pair()

    def _publish_pair(self) -> None:
        """Let both files appear, the header last."""
        header, image = self._urls
        if not self._overwrite:
            self._publications.pop().__exit__(None, None, None)
            try:
                self._publications.pop().__exit__(None, None, None)
            except BaseException:
                _take_away(image, self._options)  # nobody else had it: it is ours
                raise
            return
        with ExitStack() as undo:
            undo.enter_context(_put_back(image))
            undo.enter_context(_put_back(header))
            _take_away(header, self._options)
            self._publications.pop().__exit__(None, None, None)
            self._publications.pop().__exit__(None, None, None)


@contextmanager
def _put_back(url: str) -> Iterator[None]:
    """If the block fails, put a local file back that is there now; it takes no space meanwhile."""
    path = Path(url)
    if not is_local(url) or not path.is_file():
        yield
        return
    with own_mark() as mark:
        kept = path.with_name(hidden_name(path.name, mark, "partial"))
        with suppress(OSError):  # there are no hard links on every file system
            os.link(path, kept)
        try:
            yield
        except BaseException:
            with suppress(FileNotFoundError):
                kept.replace(path)
            raise
        finally:
            kept.unlink(missing_ok=True)


def _take_away(url: str, options: Mapping[str, Any] | None) -> None:
    """Remove a file or object if there is one."""
    if is_local(url):
        path = Path(url)
        path.unlink(missing_ok=True)
        sync(str(path.parent))
    elif exists(url, options):
        fs, remote = filesystem(url, options)
        fs.rm_file(remote)


class _GivenUpError(Exception):
    """The image is not to be published."""


def write_nifti(
    url: str | os.PathLike[str],
    header_bytes: bytes,
    blocks: Iterable[AnyArray],
    *,
    trailer: bytes | Callable[[], bytes] = b"",
    **options: Unpack[WriteOptions],
) -> None:
    """Write an image from blocks of values; it appears whole or not at all.

    Parameters
    ----------
    url : str or path
        Destination, named as for `NiftiWriter`.
    header_bytes : bytes
        As in `NiftiHeader.raw`, or from `make_header`.
    blocks : iterable of ndarray, (t, z, y, x) or (t, z, y, x, c)
        Values in stored order, as `VolumeBlock.values`. One at a time is in memory.
    trailer : bytes or callable, optional
        What follows the data; a callable is asked after the last block.
    **options
        ``level``, ``overwrite``, ``storage_options``, ``progress``: see `NiftiWriter`.

    Raises
    ------
    AlreadyExistsError
        If the destination exists and `overwrite` is false.
    InvalidInputError
        If an option cannot be used, or the blocks do not fit the header.
    LossyError, FormatError, LayoutNotSupportedError
        If the header cannot be written in the form the name asks for, or is refused.
    StorageError
        If the destination cannot be written.
    """
    with NiftiWriter(url, header_bytes, **options) as writer:
        for values in blocks:
            writer.write(values)
        writer.finish(trailer=trailer() if callable(trailer) else trailer)


def reframe(header: NiftiHeader, *, single: bool) -> NiftiHeader:
    """Turn a single file's header into a pair's, or the other way; unchanged if it is right.

    Raises
    ------
    LossyError
        If bytes that are not zero would be lost.
    """
    if header.single == single:
        return header
    if single:
        body = bytearray(header.raw)
        body += bytes(max(HEADER_SIZE[header.version] + 4 - len(body), 0))
        body += bytes(-len(body) % 16)
    else:
        end = end_of_extensions(header.raw, header.version, header.endianness)
        if any(header.raw[end:]):
            msg = "bytes between the header's extensions and the data have no place in a pair"
            raise LossyError(msg)
        body = bytearray(header.raw[:end])
    offset = len(body) if single else 0
    at, code = _OFFSET_AT[header.version]
    struct.pack_into(f"{header.endianness}{code}", body, at, offset)
    at = _MAGIC_AT[header.version]
    body[at : at + 2] = b"n+" if single else b"ni"
    # "n+1" and "ni1": the digit stays.
    return replace(header, raw=bytes(body), single=single, data_offset=offset)


class _Sink(Protocol):
    def write(self, data: bytes | memoryview) -> object: ...

    def close(self) -> None: ...


class _Plain:
    """A file as it is."""

    def __init__(self, file: BinaryIO | io.BufferedWriter) -> None:
        self._file = file

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)

    def close(self) -> None:
        self._file.close()


class _Gzip(_Plain):
    """The same, compressed, without name and time in its header."""

    def __init__(self, file: BinaryIO | io.BufferedWriter, level: int) -> None:
        from isal import isal_zlib

        super().__init__(file)
        make = isal_zlib.compressobj if level <= 3 else zlib.compressobj
        self._compressor: Any = make(level, wbits=31)

    def write(self, data: bytes | memoryview) -> None:
        super().write(self._compressor.compress(data))

    def close(self) -> None:
        super().write(self._compressor.flush())
        super().close()


def _pair_names(name: ImageName) -> list[str]:
    suffixes = (".HDR", ".IMG") if name.suffix.isupper() else (".hdr", ".img")
    return ["".join(name._replace(suffix=suffix)) for suffix in suffixes]


def _give_up(file: BinaryIO) -> None:
    """Close a file; what is still in its buffer may not fit on the disk, and is not wanted."""
    with suppress(OSError):
        file.close()
