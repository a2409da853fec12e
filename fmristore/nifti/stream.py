"""Reading the data of a NIfTI image once, front to back, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from fmristore.nifti.files import NiftiFiles, open_decoded, translated
from fmristore.nifti.header import MAX_TRAILER_BYTES, NiftiHeader
from fmristore_stores.errors import (
    ChangedError,
    CorruptDataError,
    InvalidInputError,
    MemoryLimitError,
    MetadataError,
)
from fmristore_stores.io.memory import aligned
from fmristore_stores.protocol import AnyArray

__all__ = ["VolumeBlock", "VolumeStream", "stream_volumes"]

Progress = Callable[[int], None]

_SKIP = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class VolumeBlock:
    """Neighbouring volumes, or neighbouring planes of one volume.

    Parameters
    ----------
    t0 : int
        Index of the first volume.
    z0 : int
        Index of the first plane along z; 0 unless a volume is larger than a block may be.
    values : ndarray, (t, z, y, x) or (t, z, y, x, c)
        Values as stored, not scaled; little-endian, C-contiguous, writable, the caller's own.
    """

    t0: int
    z0: int
    values: AnyArray


class VolumeStream(Iterator[VolumeBlock]):
    """Blocks of an image, each once and in order; made by `stream_volumes`.

    A context manager: leaving it, or `close`, ends the reading.
    """

    def __init__(self, blocks: Generator[VolumeBlock, None, bytes]) -> None:
        self._blocks = blocks
        self._trailer: bytes | None = None

    def __next__(self) -> VolumeBlock:
        try:
            return next(self._blocks)
        except StopIteration as end:
            if self._trailer is None:
                self._trailer = end.value
            raise

    @property
    def trailer(self) -> bytes:
        """Bytes that follow the data in the file, usually none.

        Raises
        ------
        InvalidInputError
            If the stream has not been read to its end.
        """
        if self._trailer is None:
            raise InvalidInputError("the trailer is known only after the last block was read")
        return self._trailer

    def close(self) -> None:
        """Stop reading and close the file; waits for the block being read."""
        self._blocks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def stream_volumes(
    header: NiftiHeader, *, max_bytes: int = 64 << 20, progress: Progress | None = None
) -> VolumeStream:
    """Read the data of an image once, front to back.

    While the caller works on a block, one thread reads and decompresses the next. So at most
    two blocks exist at a time (and a third for as long as the caller keeps an old one): memory is
    bounded by ``2 * max_bytes`` and a few MiB.

    Parameters
    ----------
    header : NiftiHeader
        From `read_header`.
    max_bytes : int, optional
        Size of a block: as many whole volumes as fit, or as many planes of constant z if not
        even one volume fits.
    progress : callable, optional
        Called before each block is handed out with the number of bytes decoded so far, of
        ``header.data_nbytes``.

    Returns
    -------
    VolumeStream
        Iterator of `VolumeBlock`; after its end, `VolumeStream.trailer` has what follows the
        numbers. While it is read, it raises `CorruptDataError` if the file ends too early or its
        compression is damaged, `MetadataError` if more than 1 MiB follows the data,
        `ChangedError` if its header is no longer the one that was read, and `StorageError` if
        reading fails.

    Raises
    ------
    MemoryLimitError
        If one plane has more than `max_bytes`.
    InvalidInputError
        If the header did not come from a file.

    Examples
    --------
    >>> header = read_header("bold.nii.gz")                                    # doctest: +SKIP
    >>> with stream_volumes(header, max_bytes=16 << 20) as stream:             # doctest: +SKIP
    ...     for block in stream:
    ...         print(block.t0, block.values.shape)
    """
    if header.files is None:
        raise InvalidInputError("this header came from bytes: there is no file to read from")
    if header.plane_nbytes > max_bytes:
        msg = f"one plane has {header.plane_nbytes} bytes: more than the {max_bytes} allowed"
        raise MemoryLimitError(msg, url=header.files.data_url)
    return VolumeStream(_blocks(header, header.files, max_bytes, progress))


def _blocks(
    header: NiftiHeader, files: NiftiFiles, max_bytes: int, progress: Progress | None
) -> Generator[VolumeBlock, None, bytes]:
    """Yield all blocks, the next one being read meanwhile; return the trailer."""
    places = _places(header, max_bytes)
    done = 0
    with (
        open_decoded(files.data_url, files.storage_options) as (file, _),
        ThreadPoolExecutor(1, "fmristore-nifti") as pool,
    ):
        reader = _Reader(header, files, file)
        reader.skip()
        pending = pool.submit(reader.block, *next(places))
        while True:
            block = pending.result()
            place = next(places, None)
            if place is not None:
                pending = pool.submit(reader.block, *place)
            done += block.values.nbytes
            if progress is not None:
                progress(done)
            yield block
            if place is None:
                return reader.trailer()


def _places(header: NiftiHeader, max_bytes: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """First volume, first plane and shape of each block."""
    volumes, planes, *plane = header.stream_shape
    many = max_bytes // header.volume_nbytes
    if many:
        for t0 in range(0, volumes, many):
            yield t0, 0, (min(many, volumes - t0), planes, *plane)
        return
    many = max_bytes // header.plane_nbytes
    for t0 in range(volumes):
        for z0 in range(0, planes, many):
            yield t0, z0, (1, min(many, planes - z0), *plane)


class _Reader:
    """Reads an opened data file in order."""

    def __init__(self, header: NiftiHeader, files: NiftiFiles, file: BinaryIO) -> None:
        self._header = header
        self._files = files
        self._file = file
        self._position = 0

    def skip(self) -> None:
        """Pass over what precedes the data, and check that it is what was read before."""
        offset = self._header.data_offset
        if self._header.single:
            if self._file.read(offset) != self._header.raw:
                msg = "the header is no longer the one that was read"
                raise ChangedError(msg, url=self._files.data_url)
            return
        while offset:
            gap = self._file.read(min(offset, _SKIP))
            if any(gap):
                msg = f"the {self._header.data_offset} bytes before the data are not all zero"
                raise MetadataError(msg, url=self._files.data_url)
            if not gap:
                self._truncated()
            offset -= len(gap)

    def block(self, t0: int, z0: int, shape: tuple[int, ...]) -> VolumeBlock:
        """Read the next block."""
        values = aligned(shape, self._header.disk_dtype)
        target = values.reshape(-1).view(np.uint8).data
        with translated(self._files.data_url):
            while target:
                count = self._file.readinto(target)  # type: ignore[attr-defined]
                if not count:
                    self._truncated()
                self._position += count
                target = target[count:]
        if values.dtype != self._header.dtype:
            values = values.byteswap(inplace=True).view(self._header.dtype)
        return VolumeBlock(t0, z0, values)

    def trailer(self) -> bytes:
        """Read what follows the data."""
        with translated(self._files.data_url):
            rest = self._file.read(MAX_TRAILER_BYTES + 1)
        if len(rest) > MAX_TRAILER_BYTES:
            msg = f"the file has more than {MAX_TRAILER_BYTES} unexpected bytes after its data"
            raise MetadataError(msg, url=self._files.data_url)
        return rest

    def _truncated(self) -> None:
        msg = (
            f"truncated: expected {self._header.data_nbytes} bytes of values, "
            f"found {self._position}"
        )
        raise CorruptDataError(msg, url=self._files.data_url)
