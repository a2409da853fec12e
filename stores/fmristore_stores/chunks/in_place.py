"""Small reads of chunks that lie unencoded in one local file: arithmetic, and bytes from there.

They take a fraction of the steps of other reads and give the same. What is not simple is left to
`fmristore_stores.chunks.loader`: long reads, chunks that are missing or whose places are not known
yet, and all errors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmristore_stores.chunks.elements import Part
from fmristore_stores.grid import Overlap, Region, grid_shape, number_steps, whole_run
from fmristore_stores.io.memory import aligned, copy_values, scratch
from fmristore_stores.io.stats import Stats
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import AnyArray, InPlace
from fmristore_stores.spec import ArraySpec

__all__ = ["INLINE_COPY", "SHORT", "InPlaceReads"]

INLINE_COPY = 8 * 1024 * 1024
"""Bytes below which handing copies to another thread costs more than it saves."""
SHORT = 16 * 1024
"""Bytes of a part of a chunk up to which fresh memory costs nothing to speak of."""
_MOST_CHUNKS = 32
"""Chunks of a region that is read so; one of more is left to other reads."""
_MOST_POINTS = 128
"""Points from which it pays to find those that lie together."""


class _Piece(NamedTuple):
    """Part of a region along one axis that lies in one chunk."""

    number: int
    """Part of the number of the chunk."""
    first: int
    """Bytes from the begin of the chunk to the first element."""
    length: int
    """Bytes from the first element to the last one."""
    extent: int
    """Number of elements."""
    target: slice


class InPlaceReads:
    """Small reads of one array.

    Parameters
    ----------
    array : InPlace
        The array.
    spec : ArraySpec
        Its spec, without codecs.
    strides : tuple of int
        Bytes from one element of a chunk to the next along each axis.
    stats : Stats
        Where chunks are counted.
    """

    def __init__(
        self, array: InPlace, spec: ArraySpec, strides: tuple[int, ...], stats: Stats
    ) -> None:
        self._array = array
        self._stats = stats
        self._dtype = spec.dtype
        self._width = spec.dtype.itemsize
        self._chunk_nbytes = spec.chunk_nbytes
        self._axes = spec.layout.axes
        self._inverse = np.argsort(self._axes).tolist()
        self._strides = strides
        self._chunks = chunks = spec.layout.chunks
        steps = number_steps(grid_shape(spec.shape, chunks))
        self._along = tuple(zip(chunks, steps, strides, spec.shape, strict=True))
        """Of each axis: length of a chunk, chunks and bytes from one to the next, length."""

    def region(self, region: Region) -> AnyArray | None:
        """Read a region, as `ChunkReader.read`.

        Returns
        -------
        ndarray or None
            A new array whose elements lie in memory as in the chunks; None if it is not simple.
        """
        if len(region) != len(self._along) or self._chunk_nbytes > LIMITS.chunk:
            return None
        number = first = 0
        length = self._width
        shape = []
        several = False
        for part, (chunk, step, stride, most) in zip(region, self._along, strict=True):
            start, stop = part.start, part.stop
            if part.step != 1 or start is None or stop is None or not 0 <= start < stop <= most:
                return None
            extent = stop - start
            at = start // chunk
            start -= at * chunk
            several |= start + extent > chunk
            number += at * step
            first += start * stride
            length += (extent - 1) * stride
            shape.append(extent)
        if several:
            return self._several(region, number)
        room = None if length < SHORT else aligned(length)
        data = self._array.peek(number, first, length, room)
        if data is None:
            return None
        self._stats.add(chunks=1, bytes_decoded=length)
        values: AnyArray = np.ndarray(shape, self._dtype, data, 0, self._strides)
        if room is not None and values.nbytes == length:
            return values
        return values.copy(order="K")

    def _several(self, region: Region, number: int) -> AnyArray | None:
        """Read a region of a few chunks, of which the first one has that number."""
        along = list(itertools.starmap(_pieces, zip(region, self._along, strict=True)))
        if not 1 < math.prod(map(len, along)) <= _MOST_CHUNKS:
            return None
        keys = whole_run(region, self._chunks, self._axes)
        if keys:
            return self._run(number, len(keys))
        combined = list(itertools.product(*along))
        lengths = [self._width + sum([piece.length for piece in pieces]) for pieces in combined]
        if sum(lengths) > INLINE_COPY:
            return None
        shape = [region[axis].stop - region[axis].start for axis in self._axes]
        result = aligned(shape, self._dtype).transpose(self._inverse)
        for pieces, length in zip(combined, lengths, strict=True):
            numbers, firsts, _, extents, target = zip(*pieces, strict=True)
            room = scratch(length)[:length]
            data = self._array.peek(sum(numbers), sum(firsts), length, room)
            if data is None:
                return None
            values: AnyArray = np.ndarray(extents, self._dtype, data, 0, self._strides)
            copy_values(result, target, values, self._axes)
        self._stats.add(chunks=len(combined), bytes_decoded=sum(lengths))
        return result

    def _run(self, number: int, count: int) -> AnyArray | None:
        """Read whole chunks that follow each other in the result, if they do in the file."""
        first = self._axes[0]
        size = count * self._chunk_nbytes
        if self._along[first][1] != 1 or size > INLINE_COPY:
            return None
        room = aligned(size)
        if self._array.peek(number, 0, size, room, count) is None:
            return None
        self._stats.add(chunks=count, bytes_decoded=size)
        shape = [self._chunks[axis] for axis in self._axes]
        shape[0] *= count
        return room.view(self._dtype).reshape(shape).transpose(self._inverse)

    def points(
        self,
        axes: Sequence[int],
        points: NDArray[np.int64],
        others: Sequence[int],
        rest: Sequence[Overlap],
        result: AnyArray,
    ) -> bool:
        """Read a few points, each by itself.

        Parameters
        ----------
        axes, others : sequence of int
            Axes that points are given along, and all others.
        points : ndarray of int64, (n, k)
            Places along `axes`, which lie in the array.
        rest : sequence of Overlap
            What is wanted along `others`, chunk by chunk.
        result : ndarray
            For each point, what is wanted along `others`.

        Returns
        -------
        bool
            False if it is not simple; what is in `result` then has no meaning.
        """
        parts = self._parts(len(points), others, rest)
        if not parts:
            return False
        chunks, steps, strides, _ = np.array([self._along[axis] for axis in axes], np.int64).T
        places, inside = np.divmod(points, chunks)
        numbers, firsts = places @ steps, inside @ strides
        for overlap, (first, length, shape, between) in zip(rest, parts, strict=True):
            number = sum([k * self._along[a][1] for k, a in zip(overlap.key, others, strict=True)])
            found = self._array.peek_many(numbers + number, firsts + first, length)
            if found is None:
                return False
            values: AnyArray = np.ndarray(
                (len(points), *shape), self._dtype, b"".join(found), 0, (length, *between)
            )
            at: Any = (slice(None), *overlap.target)
            result[at] = values
            self._stats.add(chunks=len(set(numbers.tolist())), bytes_decoded=len(points) * length)
        return True

    def cost_points(
        self, count: int, others: Sequence[int], rest: Sequence[Overlap]
    ) -> tuple[int, int] | None:
        """Reads of so many points, and the bytes that they give; None if `points` leaves them."""
        parts = self._parts(count, others, rest)
        return (count * len(parts), count * sum([part.length for part in parts])) if parts else None

    def _parts(self, count: int, others: Sequence[int], rest: Sequence[Overlap]) -> Sequence[Part]:
        """Parts of chunks that are wanted at each of `count` points; none if it is not simple."""
        if count * len(rest) > _MOST_POINTS or self._chunk_nbytes > LIMITS.chunk:
            return ()
        strides = [self._strides[axis] for axis in others]
        parts = [Part.of(overlap.source, strides, self._width) for overlap in rest]
        return parts if all(part.length < SHORT for part in parts) else ()


def _pieces(part: slice, along: tuple[int, int, int, int]) -> list[_Piece]:
    """Parts of a slice that lie in one chunk each; none if there are many."""
    chunk, step, stride, _ = along
    start, stop = part.start, part.stop
    if stop - start > chunk * _MOST_CHUNKS:
        return []
    pieces = []
    for number in range(start // chunk, -(-stop // chunk)):
        origin = number * chunk
        begin, end = max(start, origin), min(stop, origin + chunk)
        first, extent = (begin - origin) * stride, end - begin
        target = slice(begin - start, end - start)
        pieces.append(_Piece(number * step, first, (extent - 1) * stride, extent, target))
    return pieces
