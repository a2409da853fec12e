"""A plain array to turn data around in: in memory, or in a temporary file when it is too large."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from fmristore_stores.errors import StorageError
from fmristore_stores.grid import Region, chunk_region, overlaps, region_shape
from fmristore_stores.io.flushing import MOST_WRITTEN
from fmristore_stores.io.memory import aligned
from fmristore_stores.protocol import AnyArray

__all__ = ["Scratch"]

_POSITIONED = hasattr(os, "pwrite") and hasattr(os, "preadv")
"""True if files are read and written at a place without moving to it, which takes half the time."""


_NEAR_BYTES = 256 * 1024
"""Bytes of values that stay in the processor's cache while they are turned."""
_FEW_BYTES = 4096
"""Bytes of a part up to which it takes no longer to copy it with others."""


def _turn(turned: AnyArray, values: AnyArray) -> None:
    """Copy values in parts that lie near each other, however the copy lies."""
    farthest = max(range(values.ndim), key=lambda a: (values.shape[a] > 1) * abs(values.strides[a]))
    if values.nbytes <= max(_NEAR_BYTES, _FEW_BYTES * values.shape[farthest]):
        turned[...] = values
        return
    parts = zip(np.moveaxis(turned, farthest, 0), np.moveaxis(values, farthest, 0), strict=True)
    for to, part in parts:
        _turn(to, part)


class Scratch:
    """An uncompressed array that is written and read by regions.

    Parameters
    ----------
    shape : tuple of int
        Lengths of the axes, slowest first.
    dtype : dtype
        Type of the data.
    max_memory : int
        A larger array lies in an unnamed temporary file (in ``TMPDIR``), which costs disk space
        but no memory: it is not mapped.
    blocks : tuple of int, optional
        Shape of the blocks that it is written in, one whole block at a time. Each lies in the file
        in one piece, which takes far fewer calls where rows of a block are short.

    Raises
    ------
    StorageError
        If no temporary file can be made.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        max_memory: int,
        blocks: tuple[int, ...] | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._blocks = blocks
        self._array: AnyArray | None = None
        self._file: Any = None
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes <= max_memory:
            self._array = np.empty(shape, dtype)
        else:
            try:
                self._file = tempfile.TemporaryFile(prefix="fmristore-", buffering=0)  # noqa: SIM115
            except OSError as error:
                raise StorageError(
                    f"no folder for scratch data: {error}; set TMPDIR to a folder with room, or "
                    "raise max_memory"
                ) from error
            self._descriptor = self._file.fileno()

    @property
    def in_memory(self) -> bool:
        """True if regions are views of an array in memory."""
        return self._array is not None

    def write(self, region: Region, values: AnyArray) -> None:
        """Store the data of a region.

        Raises
        ------
        StorageError
            If the temporary directory is full.
        """
        if self._array is not None:
            self._array[region] = values
            return
        if not values.flags.c_contiguous:
            turned = np.empty(values.shape, self.dtype)
            _turn(turned, values)
            values = turned
        flat = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data
        done = 0
        runs = self._runs(region, self.shape)
        if self._blocks is not None:
            runs = iter([(self._begin(region), len(flat))])
        try:
            for offset, length in runs:
                self._put(flat[done : done + length], offset)
                done += length
        except OSError as error:
            raise StorageError(
                f"cannot write scratch data in {tempfile.gettempdir()}: {error}; "
                "set TMPDIR to a folder with room, or raise max_memory"
            ) from error

    def read(self, region: Region) -> AnyArray:
        """Data of a region; a view where the array is in memory.

        Raises
        ------
        StorageError
            If the temporary file cannot be read.
        """
        if self._array is not None:
            return self._array[region]
        if self._blocks is None:
            return self._read(self._runs(region, self.shape), region_shape(region))
        out = aligned(region_shape(region), self.dtype)
        for part in overlaps(region, self._blocks):
            block = chunk_region(part.key, self.shape, self._blocks)
            runs = self._runs(part.source, region_shape(block), self._begin(block))
            out[part.target] = self._read(runs, region_shape(part.source))
        return out

    def _read(self, runs: Iterator[tuple[int, int]], shape: tuple[int, ...]) -> AnyArray:
        out = aligned(shape, self.dtype)
        flat = out.reshape(-1).view(np.uint8).data
        done = 0
        for offset, length in runs:
            if self._take(flat[done : done + length], offset) != length:
                raise StorageError("a scratch file ended before the data that it must hold")
            done += length
        return out

    def _begin(self, block: Region) -> int:
        """Place of a block in the file: behind all that come before it, the last axis fastest."""
        before, across = 0, 1
        for axis, part in enumerate(block):
            before += part.start * across * math.prod(self.shape[axis + 1 :])
            across *= part.stop - part.start
        return before * self.dtype.itemsize

    def _put(self, data: memoryview, offset: int) -> None:
        while data:
            some = data[:MOST_WRITTEN]
            if _POSITIONED:
                written = os.pwrite(self._descriptor, some, offset)
            else:
                self._file.seek(offset)
                written = self._file.write(some)
            data, offset = data[written:], offset + written

    def _take(self, into: memoryview, offset: int) -> int:
        """Fill a buffer from the file; how many bytes there were."""
        done = 0
        while done < len(into):
            try:
                if _POSITIONED:
                    found = os.preadv(self._descriptor, [into[done:]], offset + done)
                else:
                    self._file.seek(offset + done)
                    found = self._file.readinto(into[done:])
            except OSError as error:
                raise StorageError(f"cannot read scratch data: {error}") from error
            if not found:
                break
            done += found
        return done

    def close(self) -> None:
        """Free the memory, or delete the file."""
        self._array = None
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _runs(
        self, region: Region, shape: tuple[int, ...], begin: int = 0
    ) -> Iterator[tuple[int, int]]:
        """Byte offset and length of the contiguous runs of a region of an array, in its order."""
        width = self.dtype.itemsize
        outer = len(region)
        while outer and region[outer - 1] == slice(0, shape[outer - 1], 1):
            outer -= 1
        run = math.prod(shape[outer:]) * width
        if outer:
            run *= region[outer - 1].stop - region[outer - 1].start
        strides = [math.prod(shape[axis + 1 :]) * width for axis in range(len(region))]
        base = begin
        base += sum(part.start * stride for part, stride in zip(region, strides, strict=True))
        counts = region_shape(region)[: max(0, outer - 1)]
        if not counts:
            yield base, run
            return
        *above, many = counts
        step = strides[len(above)]
        for index in np.ndindex(*above):
            first = base + sum(i * stride for i, stride in zip(index, strides, strict=False))
            for offset in range(first, first + many * step, step):
                yield offset, run
