"""The parallel chunk reader: regions and scattered points of an array, through chunk references.

One reader serves one array of any store. It finds the chunks that a read touches, has them loaded
(see `fmristore_stores.chunks.loader`) and copies what was asked for into one result. Arrays without
chunk references are read through their store.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.elements import Part
from fmristore_stores.chunks.in_place import InPlaceArray, InPlaceReads
from fmristore_stores.chunks.loader import ChunkLoader, ChunkRead, Loaded
from fmristore_stores.chunks.points import PointRead, Points
from fmristore_stores.errors import MemoryLimitError, SelectionError
from fmristore_stores.grid import (
    ChunkKey,
    Overlap,
    Region,
    grouped_overlaps,
    only_overlap,
    overlap_count,
    overlaps,
    parse_region,
    region_shape,
    shifted,
    whole_run,
)
from fmristore_stores.io.memory import aligned, copy_values
from fmristore_stores.io.ranges import ReadCost
from fmristore_stores.limits import check_result
from fmristore_stores.protocol import AnyArray, Array

__all__ = ["ChunkReader"]

Item = TypeVar("Item")

_MANY_CHUNKS = 1 << 12
"""Chunks whose bookkeeping takes a noticeable time, after which none of them may be there."""
_MOST_CHUNKS = 1 << 21
"""Chunks that one read may touch: a file may claim any number, and each takes a little memory."""


class ChunkReader:
    """Reads regions and points of one array.

    Parameters
    ----------
    array : Array
        Of any store. Read directly through chunk references where it has them.
    cache : ChunkCache, optional
        Where decoded chunks are kept; the process-wide one by default.
    missing : {"fill", "error"}
        What a chunk that was never written means: the fill value, or damage.
    url : str, optional
        Where the array is, for messages.

    Attributes
    ----------
    array : Array
        What is read.
    spec : ArraySpec
        Its spec.
    decodes : bool
        False if chunks lie in local files as their values lie in memory.

    Notes
    -----
    Chunks of an array that is open for writing are not kept, for they may change.
    """

    def __init__(
        self,
        array: Array,
        *,
        cache: ChunkCache | None = None,
        missing: Literal["fill", "error"] = "fill",
        url: str | None = None,
    ) -> None:
        self.array = array
        self.spec = array.spec
        self._url = url
        self._loader = ChunkLoader(array, cache=cache, missing=missing, url=url)
        self.decodes = not self._loader.plain
        self._in_place = None if self.decodes else self._loader.in_place()
        self._reads = None if self._in_place is None else InPlaceReads([self._in_place])
        self._direct = self._loader.direct
        self._shape = self.spec.shape
        self._axes = self.spec.layout.axes
        self._chunks = self._loader.chunks
        self._memory_chunks = tuple(map(self._chunks.__getitem__, self._axes))

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of what is read at once: a chunk, or a part of a large one without codecs."""
        return self._chunks

    def in_place(self, order: Sequence[int]) -> InPlaceArray | None:
        """The array for reads in place, its axes in an order; None if its chunks are encoded."""
        return self._loader.in_place(order)

    # Whole regions --------------------------------------------------------------------------

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Read a region.

        Parameters
        ----------
        region : tuple of slice, optional
            One slice per axis with a positive step; everything by default.
        out : ndarray, optional
            Of the region's shape and the array's dtype.

        Returns
        -------
        ndarray
            `out`, or a new array whose elements lie in memory as they do in the chunks: see
            `fmristore_stores.spec.ChunkLayout.order`.

        Raises
        ------
        SelectionError
            If the region does not fit the array.
        CorruptDataError
            If a chunk is damaged, or missing and `missing` is ``"error"``.
        MemoryLimitError
            If there is not enough memory for the result, or it touches absurdly many chunks.
        """
        if self._reads is not None and out is None and region is not None:
            found = self._reads.read(region)
            if found is not None:
                return found
        region = parse_region(region, self._shape)
        if out is None and self._direct:
            only = only_overlap(region, self._chunks)
            if only is not None:
                return self._read_one(*only)
        shape = region_shape(region)
        if out is not None:
            self._check_out(out, shape)
        if not self._direct:
            return self.array.read(region, out)
        result = self._empty(shape, self._axes) if out is None else out
        count = overlap_count(region, self._chunks)
        few = count <= _MANY_CHUNKS
        if few and self._read_whole(region, result):
            return result
        self._check_count(count)
        if not few:
            self._loader.require_first(
                tuple(s.start // c for s, c in zip(region, self._chunks, strict=True))
            )
        whole = self._in_runs(shape)
        touched = overlaps(region, self._chunks, self._axes)
        reads = [self._region_read(overlap, result, whole=whole) for overlap in touched]
        self._loader.run(reads, result.nbytes, in_order=True)
        return result

    def _read_whole(self, region: Region, out: AnyArray) -> bool:
        """Read chunks that are not encoded where they lie in `out` one after the other."""
        if not self._loader.plain:
            return False
        memory = out.transpose(self._axes)
        keys = whole_run(region, self._chunks, self._axes)
        if not keys or not memory.flags.c_contiguous:
            return False
        self._loader.run_whole(keys, memory.reshape(-1).view(np.uint8))
        return True

    def read_regions(self, regions: Sequence[Region], outs: Sequence[AnyArray]) -> None:
        """Read several regions; each chunk is loaded once, however many of them it lies in.

        Parameters
        ----------
        regions : sequence of Region
            As of `read`; they may overlap.
        outs : sequence of ndarray
            One for each, of its shape and the array's dtype.

        Raises
        ------
        SelectionError
            If a region does not fit the array, or `outs` do not fit the regions.
        CorruptDataError
            If a chunk is damaged, or missing and `missing` is ``"error"``.
        MemoryLimitError
            If they touch absurdly many chunks.
        """
        checked = [parse_region(region, self.spec.shape) for region in regions]
        for region, out in zip(checked, outs, strict=True):
            self._check_out(out, region_shape(region))
        if not self._direct:
            for region, out in zip(checked, outs, strict=True):
                self.array.read(region, out)
            return
        self._check_count(sum(overlap_count(region, self._chunks) for region in checked))
        pairs = zip(checked, outs, strict=True)
        left = [(region, out) for region, out in pairs if not self._read_whole(region, out)]
        if not left:
            return
        checked, outs = map(list, zip(*left, strict=True))
        found = grouped_overlaps(checked, self._chunks)
        reads = [self._shared_read(key, found[key], outs) for key in sorted(found)]
        self._loader.run(reads, sum(out.nbytes for out in outs))

    def _shared_read(
        self, key: ChunkKey, wanted: Sequence[tuple[int, Overlap]], outs: Sequence[AnyArray]
    ) -> ChunkRead:
        """Read of one chunk that lies in several regions."""
        if len(wanted) == 1:
            number, overlap = wanted[0]
            whole = self._in_runs(outs[number].shape)
            return self._region_read(overlap, outs[number], whole=whole)

        def place(loaded: Loaded | None) -> None:
            for number, overlap in wanted:
                if loaded is None:
                    outs[number][overlap.target] = self.spec.fill
                else:
                    values = loaded.values[_within(overlap.source, loaded)]
                    copy_values(outs[number], overlap.target, values, self._axes)

        along = zip(*(overlap.source for _, overlap in wanted), strict=True)
        block = tuple(
            slice(min([part.start for part in parts]), max([part.stop for part in parts]), 1)
            for parts in along
        )
        return ChunkRead(key, block, place)

    def _check_out(self, out: AnyArray, shape: tuple[int, ...]) -> None:
        if out.shape != shape or out.dtype != self.spec.dtype:
            raise SelectionError(
                f"out has shape {out.shape} and dtype {out.dtype}; "
                f"the region has {shape} and {self.spec.dtype}"
            )

    def _read_one(self, key: ChunkKey, block: Region) -> AnyArray:
        loaded = self._loader.one(key, block)
        if loaded is None:
            return np.full(region_shape(block), self.spec.fill, self.spec.dtype)
        values = loaded.values
        if not loaded.exact:
            values = values[_within(block, loaded)]
        if loaded.fresh and values.shape == loaded.values.shape:
            return values
        return values.copy(order="K")  # never a view of what others will read

    def cost(self, region: Region | None = None) -> ReadCost:
        """Cost of `read` of a region; no data are read.

        Locating the chunks may read an index (once per array or shard, then remembered).
        """
        region = parse_region(region, self.spec.shape)
        wanted = [(overlap.key, overlap.source) for overlap in self._overlaps(region, self._chunks)]
        returned = math.prod(region_shape(region)) * self.spec.dtype.itemsize
        return self._loader.cost(wanted, returned)

    def _region_read(self, overlap: Overlap, result: AnyArray, *, whole: bool) -> ChunkRead:
        """Read of one chunk that a region needs; `whole` if it may fill a run of the result."""
        key, source, target = overlap

        def place(loaded: Loaded | None) -> None:
            if loaded is None:
                result[target] = self.spec.fill
            else:
                values = loaded.values if loaded.exact else loaded.values[_within(source, loaded)]
                copy_values(result, target, values, self._axes)

        return ChunkRead(key, source, place, self._room(target, result) if whole else None)

    def _in_runs(self, shape: tuple[int, ...]) -> bool:
        """Return whether the bytes of a whole chunk may lie in one run of a result."""
        lengths = map(shape.__getitem__, self._axes)
        pairs = list(zip(lengths, self._memory_chunks, strict=True))
        first = next((n for n, (_, chunk) in enumerate(pairs) if chunk > 1), len(pairs))
        across, inner = pairs[: first + 1], pairs[first + 1 :]
        return all(n >= chunk for n, chunk in across) and all(n == chunk for n, chunk in inner)

    def _room(self, target: Region, result: AnyArray) -> AnyArray | None:
        """Bytes of the result that are those of a whole chunk, None if they are scattered."""
        part: Any = (*target, ...)  # which gives an array also of no axes
        place: AnyArray = result[part].transpose(self._axes)
        if place.shape != self._memory_chunks or not place.flags.c_contiguous:
            return None
        return place.reshape(-1).view(np.uint8)

    # Scattered points -----------------------------------------------------------------------

    def read_points(
        self, axes: Sequence[int], points: AnyArray, region: Region | None = None
    ) -> AnyArray:
        """Read many positions along some axes, with a region of the other axes at each of them.

        Every chunk is fetched and decoded once, however many points lie in it.

        Parameters
        ----------
        axes : sequence of int
            The k axes that points are given along.
        points : ndarray of int, shape (n, k)
            Non-negative positions.
        region : tuple of slice, optional
            One slice for every other axis, in the array's order; everything by default.

        Returns
        -------
        ndarray, shape (n, ...)
            One row per point, the other axes in the array's order.

        Raises
        ------
        SelectionError
            If a point lies outside the array.
        """
        axes = tuple(axes)
        others, region = self._other_axes(axes, region)
        points = np.asarray(points, np.int64).reshape(-1, len(axes))
        lengths = [self.spec.shape[a] for a in axes]
        if (points < 0).any() or (points >= lengths).any():
            raise SelectionError(f"a point lies outside the axes of lengths {lengths}")
        if len(points) == 1 and self._direct:
            values = self.read(_around(axes, points[0], others, region))
            found: AnyArray = values.transpose(axes + others)[(0,) * len(axes)][None]
            return found
        result = self._empty((len(points), *region_shape(region)))
        if not len(points):
            return result
        if not self._direct:
            return self._read_points_plainly(axes, points, region, result)
        rest = list(self._overlaps(region, tuple(self._chunks[a] for a in others)))
        in_place = self._in_place
        if in_place is not None and in_place.points(axes, points, others, rest, result):
            return result
        if self._at_once(points, rest):
            self._loader.run_points(*self._plain_points(axes, others, points, rest), result)
            return result
        order = axes + others
        back = np.argsort(order).tolist()
        reads = [
            self._points_read(group, overlap, result, order, back)
            for group in self._groups(axes, points)
            for overlap in rest
        ]
        self._loader.run(reads, result.nbytes)
        return result

    def cost_points(
        self, axes: Sequence[int], points: AnyArray, region: Region | None = None
    ) -> ReadCost:
        """Cost of `read_points`; no data are read."""
        axes = tuple(axes)
        others, region = self._other_axes(axes, region)
        points = np.asarray(points, np.int64).reshape(-1, len(axes))
        if len(points) == 1:
            return self.cost(_around(axes, points[0], others, region))
        in_place = self._in_place
        rest = list(self._overlaps(region, tuple(self._chunks[a] for a in others)))
        returned = len(points) * math.prod(region_shape(region)) * self.spec.dtype.itemsize
        if len(points) and self._at_once(points, rest):
            cost = self._loader.cost_points(
                *self._plain_points(axes, others, points, rest), returned
            )
            each = in_place and in_place.cost_points(len(points), others, rest)
            if not each or cost.missing:
                return cost
            return replace(cost, requests=each[0], encoded_bytes=each[1], fetched_bytes=each[1])
        back = np.argsort(axes + others).tolist()
        wanted = [
            (
                _reordered((*group.chunk, *overlap.key), back),
                _reordered((*group.block, *overlap.source), back),
            )
            for group in (self._groups(axes, points) if len(points) else ())
            for overlap in rest
        ]
        return self._loader.cost(wanted, returned)

    def _at_once(self, points: AnyArray, rest: Sequence[Overlap]) -> bool:
        """Return whether it pays to find all bytes of points at once, at each place of `rest`."""
        return not self.decodes and len(points) >= len(rest)

    def _plain_points(
        self,
        axes: tuple[int, ...],
        others: tuple[int, ...],
        points: AnyArray,
        rest: Sequence[Overlap],
    ) -> tuple[Points, list[PointRead]]:
        """Points of chunks that are not encoded, and what is wanted at each of them."""
        strides, width = self._loader.strides, self.spec.dtype.itemsize
        found = Points(axes, points, self._chunks, strides)
        along = [strides[a] for a in others]
        reads = [
            PointRead(found.keys(others, key), Part.of(source, along, width), target)
            for key, source, target in rest
        ]
        return found, reads

    def _other_axes(
        self, axes: tuple[int, ...], region: Region | None
    ) -> tuple[tuple[int, ...], Region]:
        others = tuple(a for a in range(len(self.spec.shape)) if a not in axes)
        return others, parse_region(region, tuple(self.spec.shape[a] for a in others))

    def _groups(self, axes: tuple[int, ...], points: AnyArray) -> Iterator[_Group]:
        """Points by the chunk that they lie in."""
        chunks, inside = np.divmod(points, [self._chunks[a] for a in axes])
        order = np.lexsort(chunks.T[::-1])
        chunks, inside = chunks[order], inside[order]
        changes = np.flatnonzero((np.diff(chunks, axis=0) != 0).any(axis=1)) + 1
        starts = np.concatenate(([0], changes))
        low = np.minimum.reduceat(inside, starts).tolist()
        high = np.maximum.reduceat(inside, starts).tolist()
        ends = [*changes.tolist(), len(points)]
        keys = chunks[starts].tolist()
        bounds = zip(starts.tolist(), ends, strict=True)
        columns = list(np.ascontiguousarray(inside.T))
        for key, least, most, (start, end) in zip(keys, low, high, bounds, strict=True):
            block = tuple([slice(a, b + 1, 1) for a, b in zip(least, most, strict=True)])
            if end - start == 1:
                yield _Group(tuple(key), block, int(order[start]), tuple(least))
            else:
                at = tuple([column[start:end] for column in columns])
                yield _Group(tuple(key), block, order[start:end], at)

    def _points_read(
        self,
        group: _Group,
        overlap: Overlap,
        result: AnyArray,
        order: tuple[int, ...],
        back: Sequence[int],
    ) -> ChunkRead:
        """Read of one chunk that points need.

        `order` has their axes first, then the others; `back` undoes it.
        """
        count = len(group.block)

        def place(loaded: Loaded | None) -> None:
            if loaded is None:
                result[_index(group.rows, *overlap.target)] = self.spec.fill
                return
            source, inside = overlap.source, group.inside
            if loaded.origin is not None:
                first = [loaded.origin[axis] for axis in order]
                source = shifted(source, first[count:])
                inside = tuple(map(operator.sub, inside, first[:count]))
            if loaded.exact:
                source = (slice(None),) * len(source)
            values = loaded.values.transpose(order)
            result[_index(group.rows, *overlap.target)] = values[_index(*inside, *source)]

        block = _reordered((*group.block, *overlap.source), back)
        return ChunkRead(_reordered((*group.chunk, *overlap.key), back), block, place)

    def _read_points_plainly(
        self, axes: tuple[int, ...], points: AnyArray, region: Region, result: AnyArray
    ) -> AnyArray:
        """Read points through the store itself: the block around the points of each chunk."""
        others = tuple(a for a in range(len(self.spec.shape)) if a not in axes)
        for group in self._groups(axes, points):
            rows = np.atleast_1d(group.rows)
            low, high = points[rows].min(axis=0), points[rows].max(axis=0) + 1
            block: dict[int, slice] = dict(zip(others, region, strict=True))
            block |= {a: slice(int(b), int(e), 1) for a, b, e in zip(axes, low, high, strict=True)}
            values = self.array.read(tuple(block[a] for a in sorted(block))).transpose(
                axes + others
            )
            result[rows] = values[tuple((points[rows] - low).T)]
        return result

    # Fetching and decoding ------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], order: Sequence[int] = ()) -> AnyArray:
        """An array whose last axis in `order` varies fastest in memory, the last one by default."""
        check_result(math.prod(shape) * self.spec.dtype.itemsize, self._url, self.array.path)
        try:
            if not order:
                return aligned(shape, self.spec.dtype)
            axes = tuple(order)
            memory = aligned([shape[a] for a in axes], self.spec.dtype)
            return memory.transpose(sorted(range(len(axes)), key=axes.__getitem__))
        except (MemoryError, ValueError) as error:
            msg = f"a result of shape {shape} does not fit into memory; read a smaller part"
            raise MemoryLimitError(msg, url=self._url, node=self.array.path) from error

    def _overlaps(self, region: Region, chunks: tuple[int, ...]) -> Iterator[Overlap]:
        self._check_count(overlap_count(region, chunks))
        return overlaps(region, chunks)

    def _check_count(self, count: int) -> None:
        if count > _MOST_CHUNKS:
            msg = f"{count} chunks would be touched; read a smaller part"
            raise MemoryLimitError(msg, url=self._url, node=self.array.path)


def _within(part: Region, loaded: Loaded) -> Region:
    """A part of a chunk as one of the elements that were decoded of it."""
    return part if loaded.origin is None else shifted(part, loaded.origin)


def _around(axes: Sequence[int], point: AnyArray, others: Sequence[int], region: Region) -> Region:
    """The region of an array at one point along some axes."""
    parts = dict(zip(others, region, strict=True))
    parts |= {axis: slice(at, at + 1, 1) for axis, at in zip(axes, point.tolist(), strict=True)}
    return tuple([parts[axis] for axis in range(len(parts))])


class _Group(NamedTuple):
    """Points that lie in one chunk."""

    chunk: tuple[int, ...]
    """Number of the chunk along the axes of the points."""
    block: Region
    """Smallest block within the chunk that holds them."""
    rows: AnyArray | int
    """Their row numbers; a number if it is one point."""
    inside: tuple[AnyArray | int, ...]
    """Places within the chunk, for each axis of the points."""


def _reordered(parts: tuple[Item, ...], order: Sequence[int]) -> tuple[Item, ...]:
    return tuple([parts[i] for i in order])


def _index(*parts: Any) -> Any:
    """Make one index of arrays and slices, a mixture that numpy's types cannot express."""
    return parts
