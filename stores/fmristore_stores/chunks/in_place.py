"""Small reads of chunks that lie unencoded in one local file: arithmetic, and bytes from there.

They take a fraction of the steps of other reads and give the same. What is not simple is left to
`fmristore_stores.chunks.loader`: long reads, chunks that are missing or whose places are not known
yet, and all errors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmristore_stores.chunks.elements import Part
from fmristore_stores.grid import Overlap, grid_shape, number_steps
from fmristore_stores.io.memory import aligned, copy_values, scratch
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import AnyArray, InPlace, LocalBytes, Room
from fmristore_stores.spec import ArraySpec

__all__ = ["INLINE_COPY", "SHORT", "InPlaceArray", "InPlaceReads"]

INLINE_COPY = 8 * 1024 * 1024
"""Bytes below which handing copies to another thread costs more than it saves."""
SHORT = 16 * 1024
"""Bytes of a part of a chunk up to which fresh memory costs nothing to speak of."""
_MOST_CHUNKS = 32
"""Chunks of a region that is read so; one of more is left to other reads."""
_MOST_POINTS = 128
"""Points from which it pays to find those that lie together."""
_EVERY = slice(None)
_SLICE = frozenset({slice})
_INTEGERS = frozenset({int, np.int64, np.int32})
_STEPS = (None, 1)


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


Place: TypeAlias = tuple[int, int, int, int, list[int], list[int]]
"""Place of what an index asks for: number of chunks, and of the first one; bytes from its begin to
the first element, and from there to the end of the last one; shape and strides. All but the numbers
hold if it is one chunk."""


Places: TypeAlias = tuple[LocalBytes, memoryview]
"""A file, and where each chunk begins in it."""


class InPlaceArray:
    """An array without codecs, as it is indexed.

    Parameters
    ----------
    array : InPlace
        The array.
    spec : ArraySpec
        Its spec.
    strides : tuple of int
        Bytes from one element of a chunk to the next along each axis.
    order : sequence of int, optional
        Its axes in the order in which it is indexed.
    """

    def __init__(
        self,
        array: InPlace,
        spec: ArraySpec,
        strides: Sequence[int],
        order: Sequence[int] | None = None,
    ) -> None:
        order = range(len(spec.shape)) if order is None else list(order)
        chunks = spec.layout.chunks
        steps = number_steps(grid_shape(spec.shape, chunks))
        stored = list(zip(spec.shape, chunks, steps, strides, strict=True))
        self._array = array
        self._places: Places | None = None
        self.dtype = spec.dtype
        self.chunk_nbytes = spec.chunk_nbytes
        self._width = spec.dtype.itemsize
        self._along = tuple(map(stored.__getitem__, order))
        """Of each axis: length, length of a chunk, chunks and bytes from one to the next."""
        self._chunks = tuple([chunk for _, chunk, _, _ in self._along])
        self._strides = tuple([stride for *_, stride in self._along])
        self._axes = tuple(map(order.index, spec.layout.axes))
        self._inverse = np.argsort(self._axes).tolist()

    @property
    def holds_series(self) -> bool:
        """True if the last axis lies within one chunk, and that is not too large."""
        length, chunk, _, _ = self._along[-1]
        return length <= chunk and self.chunk_nbytes <= LIMITS.chunk

    def find(self, index: Sequence[Any]) -> Place | None:
        """Find out where what is wanted lies; None if that is not simple.

        Parameters
        ----------
        index : sequence of int or slice
            One for each axis; Python refuses to compute with anything else.
        """
        chunks, number, first, length = 1, 0, 0, self._width
        shape: list[int] = []
        strides: list[int] = []
        for part, (most, chunk, step, stride) in zip(index, self._along, strict=True):
            if type(part) is slice:
                start, stop = part.start, part.stop
                if start is None:
                    start = 0
                if stop is None:
                    stop = most
                if not 0 <= start < stop <= most or part.step not in _STEPS:
                    return None
                extent = stop - start
                length += (extent - 1) * stride
                shape.append(extent)
                strides.append(stride)
            elif type(part) in _INTEGERS and -most <= part < most:
                start = int(part) % most
                stop = start + 1
            else:
                return None
            at = start // chunk
            number += at * step
            first += (start - at * chunk) * stride
            chunks *= (stop - 1) // chunk - at + 1
        return (chunks, number, first, length, shape, strides) if shape else None

    def one(self, place: Place) -> AnyArray | None:
        """Read from one chunk."""
        _, number, first, length, shape, strides = place
        places = self._places or self._find_places()
        if places is None:
            return None
        file, offsets = places
        dense = math.prod(shape) * self._width == length
        room: Room
        if length < SHORT:
            room = bytearray(length)
        else:
            room = (aligned(length) if dense else scratch(length)[:length]).data
        if not file.peek(offsets[number] + first, room):
            return None
        values: AnyArray = np.ndarray(shape, self.dtype, room, 0, strides)
        return values if dense else values.copy(order="K")

    def _find_places(self) -> Places | None:
        self._places = self._array.places()
        return self._places

    def several(self, index: Sequence[Any], number: int) -> AnyArray | None:
        """Read from a few chunks, of which the first one has that number."""
        places = self._places or self._find_places()
        if places is None:
            return None
        region = [_as_slice(part, n) for part, (n, *_) in zip(index, self._along, strict=True)]
        count = self._count_run(region)
        result = self._run(places, number, count) if count else self._pieced(places, region)
        if result is None or _SLICE.issuperset(map(type, index)):
            return result
        return result[tuple([_EVERY if type(part) is slice else 0 for part in index])]

    def _count_run(self, region: Sequence[slice]) -> int:
        """Number of chunks that a region is made of, if their elements lie one behind the other."""
        first = self._axes[0]
        for axis, (part, chunk) in enumerate(zip(region, self._chunks, strict=True)):
            if (
                part.start % chunk
                or part.stop % chunk
                or (axis != first and part.stop - part.start != chunk)
            ):
                return 0
        begin, end = region[first].start, region[first].stop
        return int(end - begin) // self._chunks[first]

    def _run(self, places: Places, number: int, count: int) -> AnyArray | None:
        """Read whole chunks that follow each other in the result."""
        file, offsets = places
        first, nbytes = self._axes[0], self.chunk_nbytes
        size = count * nbytes
        if self._along[first][2] != 1 or size > INLINE_COPY:
            return None
        room = aligned(size)
        done = 0
        while done < count:  # most follow each other in the file as well
            begin, together = offsets[number + done], 1
            while done + together < count and (
                offsets[number + done + together] == begin + together * nbytes
            ):
                together += 1
            part = room[done * nbytes : (done + together) * nbytes]
            if not file.peek(begin, part.data, together):
                return None
            done += together
        shape = [self._chunks[axis] for axis in self._axes]
        shape[0] *= count
        return room.view(self.dtype).reshape(shape).transpose(self._inverse)

    def _pieced(self, places: Places, region: Sequence[slice]) -> AnyArray | None:
        """Read parts of chunks, each by itself."""
        along = list(itertools.starmap(_pieces, zip(region, self._along, strict=True)))
        if not 1 < math.prod(map(len, along)) <= _MOST_CHUNKS:
            return None
        file, offsets = places
        combined = list(itertools.product(*along))
        lengths = [self._width + sum([piece.length for piece in pieces]) for pieces in combined]
        if sum(lengths) > INLINE_COPY:
            return None
        shape = [region[axis].stop - region[axis].start for axis in self._axes]
        result = aligned(shape, self.dtype).transpose(self._inverse)
        for pieces, length in zip(combined, lengths, strict=True):
            numbers, firsts, _, extents, target = zip(*pieces, strict=True)
            room = scratch(length)[:length].data
            if not file.peek(offsets[sum(numbers)] + sum(firsts), room):
                return None
            values: AnyArray = np.ndarray(extents, self.dtype, room, 0, self._strides)
            copy_values(result, target, values, self._axes)
        return result

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
        known = self._places or self._find_places()
        if not parts or known is None:
            return False
        file, offsets = known
        _, chunks, steps, strides = np.array([self._along[axis] for axis in axes], np.int64).T
        places, inside = np.divmod(points, chunks)
        numbers, firsts = places @ steps, inside @ strides
        for overlap, (first, length, shape, between) in zip(rest, parts, strict=True):
            number = sum([k * self._along[a][2] for k, a in zip(overlap.key, others, strict=True)])
            begins = np.asarray(offsets)[numbers + number] + (firsts + first)
            found = file.peek_many(begins.tolist(), length, len(set(numbers.tolist())))
            if found is None:
                return False
            values: AnyArray = np.ndarray(
                (len(points), *shape), self.dtype, b"".join(found), 0, (length, *between)
            )
            at: Any = (slice(None), *overlap.target)
            result[at] = values
        return True

    def series(self, points: NDArray[np.int64]) -> AnyArray | None:
        """Read all of the last axis at a few points along the others; see `InPlaceReads`."""
        places = self._places or self._find_places()
        length = self._along[-1][0] * self._width
        if places is None or length >= SHORT or self._strides[-1] != self._width:
            return None
        file, offsets = places
        lengths, chunks, steps, strides = self._columns
        if (points < 0).any() or (points >= lengths).any():
            return None
        keys, inside = np.divmod(points, chunks)
        numbers = keys @ steps
        begins = np.asarray(offsets)[numbers] + inside @ strides
        found = file.peek_many(begins.tolist(), length, len(set(numbers.tolist())))
        if found is None:
            return None
        return np.ndarray((len(points), self._along[-1][0]), self.dtype, bytearray().join(found))

    @cached_property
    def _columns(self) -> NDArray[np.int64]:
        """Facts of all axes but the last one, in rows of `_along`."""
        return np.array(self._along[:-1], np.int64).T

    def cost_points(
        self, count: int, others: Sequence[int], rest: Sequence[Overlap]
    ) -> tuple[int, int] | None:
        """Reads of so many points, and the bytes that they give; None if `points` leaves them."""
        parts = self._parts(count, others, rest)
        return (count * len(parts), count * sum([part.length for part in parts])) if parts else None

    def _parts(self, count: int, others: Sequence[int], rest: Sequence[Overlap]) -> Sequence[Part]:
        """Parts of chunks that are wanted at each of `count` points; none if it is not simple."""
        if count * len(rest) > _MOST_POINTS or self.chunk_nbytes > LIMITS.chunk:
            return ()
        strides = [self._strides[axis] for axis in others]
        parts = [Part.of(overlap.source, strides, self._width) for overlap in rest]
        return parts if all(part.length < SHORT for part in parts) else ()


class InPlaceReads:
    """Small reads of one array, or of several that hold the same values.

    Parameters
    ----------
    arrays : sequence of InPlaceArray
        All indexed alike; the smallest chunks first.
    """

    def __init__(self, arrays: Sequence[InPlaceArray]) -> None:
        self._arrays = tuple(arrays)

    def read(self, index: Sequence[Any]) -> AnyArray | None:
        """Read what an index asks for from the array that has the fewest bytes to read for it.

        Parameters
        ----------
        index : sequence
            One entry for each axis; anything but integers and slices is left to other reads.

        Returns
        -------
        ndarray or None
            A new array without the axes that are given as integers, whose elements lie in memory
            as in the chunks. None if it is not simple.
        """
        best, least = None, (math.inf, math.inf)
        try:
            for array in self._arrays:
                place = array.find(index)
                if place is None or array.chunk_nbytes > LIMITS.chunk:
                    return None
                chunks, number, _, length, *_ = place
                if type(number + length) is not int:  # a slice of other numbers
                    return None
                if chunks == 1:
                    return array.one(place)
                cost = chunks * array.chunk_nbytes, chunks
                if cost < least:
                    best, least = (array, number), cost
        except (TypeError, ValueError):  # other reads say what is wrong
            return None
        return None if best is None else best[0].several(index, best[1])

    def series(self, points: AnyArray) -> AnyArray | None:
        """Read all of the last axis at a few points along the others.

        Parameters
        ----------
        points : ndarray of int, (n, k)
            Points that lie outside of the array are left to other reads.

        Returns
        -------
        ndarray, (n, length of the last axis), or None
            None if it is not simple.
        """
        if not 0 < len(points) <= _MOST_POINTS:
            return None
        whole = next((array for array in self._arrays if array.holds_series), None)
        return None if whole is None else whole.series(points)


def _as_slice(part: Any, length: int) -> slice:
    """All of an entry of an index as a slice with bounds."""
    if type(part) is not slice:
        start = int(part) % length
        return slice(start, start + 1, 1)
    start, stop = part.start, part.stop
    return slice(0 if start is None else start, length if stop is None else stop, 1)


def _pieces(part: slice, along: tuple[int, int, int, int]) -> list[_Piece]:
    """Parts of a slice that lie in one chunk each; none if there are many."""
    _, chunk, step, stride = along
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
