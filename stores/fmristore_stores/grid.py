"""Arithmetic on chunk grids: which chunks a region touches, and where each one lands.

Everything here is a pure function of shapes; nothing reads or writes.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fmristore_stores.errors import SelectionError

__all__ = [
    "ChunkKey",
    "Overlap",
    "Region",
    "chunk_region",
    "grid_shape",
    "grouped_overlaps",
    "number_steps",
    "only_overlap",
    "overlap_count",
    "overlaps",
    "parse_region",
    "region_shape",
    "shifted",
    "whole_run",
]


Region = tuple[slice, ...]
"""One slice per axis with ``0 <= start <= stop <= length`` and ``step >= 1``."""

ChunkKey = tuple[int, ...]
"""Position of a chunk in its grid, one integer per axis."""


class Overlap(NamedTuple):
    """The part of a region that lies in one chunk."""

    key: ChunkKey
    source: Region
    """Within the chunk, relative to its first element."""
    target: Region
    """Within the result of the region."""


def grid_shape(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Number of chunks along each axis, partial edge chunks included."""
    return tuple([-(-n // c) for n, c in zip(shape, chunks, strict=True)])


def number_steps(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Steps along each axis from the number of one chunk to the next, last axis fastest."""
    return tuple([math.prod(grid[axis + 1 :]) for axis in range(len(grid))])


def chunk_region(key: ChunkKey, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Region:
    """Region of the array that chunk `key` covers, clipped at the array's edge."""
    return tuple(
        slice(k * c, min((k + 1) * c, n)) for k, c, n in zip(key, chunks, shape, strict=True)
    )


def region_shape(region: Region) -> tuple[int, ...]:
    """Shape of the array that `region` selects."""
    return tuple([len(range(s.start, s.stop, s.step or 1)) for s in region])


def shifted(region: Region, origin: Sequence[int]) -> Region:
    """A region counted from `origin`, as a part of what begins there."""
    pairs = zip(region, origin, strict=True)
    return tuple([slice(s.start - o, s.stop - o, s.step) for s, o in pairs])


def parse_region(region: Region | None, shape: tuple[int, ...]) -> Region:
    """Check a region against a shape; ``None`` means everything.

    Raises
    ------
    SelectionError
        If the rank differs, a bound is outside the array or a step is not positive.
    """
    if region is None:
        return tuple(slice(0, n, 1) for n in shape)
    if len(region) != len(shape):
        msg = f"a region of {len(region)} slices does not fit an array of shape {shape}"
        raise SelectionError(msg)
    parsed = []
    for item, length in zip(region, shape, strict=True):
        start = 0 if item.start is None else item.start
        stop = length if item.stop is None else item.stop
        step = 1 if item.step is None else item.step
        if step < 1 or not 0 <= start <= stop <= length:
            msg = f"slice({start}, {stop}, {step}) does not fit an axis of length {length}"
            raise SelectionError(msg)
        parsed.append(slice(start, stop, step))
    return tuple(parsed)


_Columns = tuple[Sequence[int], Sequence[slice], Sequence[slice]]
"""Chunks along one axis: their numbers, and slices within each and within the result."""


def _axis_overlaps(item: slice, chunk: int) -> _Columns:
    """Overlaps along one axis, without chunks that a step jumps over."""
    start, stop, step = item.start, item.stop, item.step or 1
    if start >= stop:
        return (), (), ()
    if step > 1:
        return _stepped_overlaps(start, stop, step, chunk)
    first, last = start // chunk, (stop - 1) // chunk
    origin, end = first * chunk, stop - last * chunk
    bounds = [0, *range(origin + chunk - start, stop - start, chunk), stop - start]
    sources = [slice(0, chunk, 1)] * (last - first + 1)
    sources[-1] = slice(0, end, 1)
    sources[0] = slice(start - origin, end if first == last else chunk, 1)
    return range(first, last + 1), sources, list(map(slice, bounds, bounds[1:]))


def _stepped_overlaps(start: int, stop: int, step: int, chunk: int) -> _Columns:
    numbers, sources, targets = [], [], []
    done = 0
    position = start
    while position < stop:
        number = position // chunk
        end = min((number + 1) * chunk, stop)
        count = len(range(position, end, step))
        numbers.append(number)
        sources.append(slice(position - number * chunk, end - number * chunk, step))
        targets.append(slice(done, done + count))
        done += count
        position += count * step
    return numbers, sources, targets


def overlap_count(region: Region, chunks: tuple[int, ...]) -> int:
    """Number of the chunks that `overlaps` walks, without walking them."""
    count = 1
    for item, chunk in zip(region, chunks, strict=True):
        start, stop, step = item.start, item.stop, item.step
        if start >= stop:
            return 0
        if step is None or step == 1:
            count *= (stop - 1) // chunk - start // chunk + 1
        elif step < chunk:
            count *= range(start, stop, step)[-1] // chunk - start // chunk + 1
        else:
            count *= len(range(start, stop, step))
    return count


def only_overlap(region: Region, chunks: tuple[int, ...]) -> tuple[ChunkKey, Region] | None:
    """The chunk that `region` touches, and the part of it, if it is a single one; else None."""
    key, source = [], []
    for item, chunk in zip(region, chunks, strict=True):
        start, stop, step = item.start, item.stop, item.step
        number = start // chunk
        origin = number * chunk
        if not start < stop <= origin + chunk:
            return None
        key.append(number)
        source.append(slice(start - origin, stop - origin, step) if origin else item)
    return tuple(key), tuple(source)


def whole_run(
    region: Region, chunks: tuple[int, ...], axes: Sequence[int]
) -> list[ChunkKey] | None:
    """Chunks that a region is made of, if their elements follow each other in memory.

    Parameters
    ----------
    region : Region
        Already checked by `parse_region`.
    chunks : tuple of int
        Shape of a chunk.
    axes : sequence of int
        Axes in the order of the elements in memory, the one that varies fastest last.

    Returns
    -------
    list of tuple of int
        One after the other along the first of `axes`; None if the region cuts chunks, or has
        several along another axis.
    """
    if not axes:
        return None
    for part, chunk in zip(region, chunks, strict=True):
        if part.step != 1 or part.start % chunk or part.stop % chunk:
            return None
    spans = [
        range(part.start // chunk, part.stop // chunk)
        for part, chunk in zip(region, chunks, strict=True)
    ]
    if any(len(spans[axis]) != 1 for axis in axes[1:]):
        return None
    return list(itertools.product(*spans))


def overlaps(
    region: Region, chunks: tuple[int, ...], order: Sequence[int] = ()
) -> Iterator[Overlap]:
    """Walk the chunks that `region` touches.

    Parameters
    ----------
    region : Region
        Already checked by `parse_region`.
    chunks : tuple of int
        Shape of a chunk.
    order : sequence of int
        Axes, the one along which the walk goes first last; as they are by default.

    Yields
    ------
    Overlap
        A chunk that holds none of the selected elements (a step may jump over it) is left out.
    """
    axes = [_axis_overlaps(item, chunk) for item, chunk in zip(region, chunks, strict=True)]
    if not axes:  # an array of a single value
        yield Overlap((), (), ())
        return
    walk = map(Overlap, *(itertools.product(*column) for column in zip(*axes, strict=True)))
    if any(map(operator.gt, order, order[1:])):
        place = operator.itemgetter(*order)
        yield from sorted(walk, key=lambda overlap: place(overlap.key))
    else:
        yield from walk


def grouped_overlaps(
    regions: Sequence[Region], chunks: tuple[int, ...]
) -> dict[ChunkKey, list[tuple[int, Overlap]]]:
    """Find the chunks that several regions touch, and for each what it holds of which of them.

    Parameters
    ----------
    regions : sequence of Region
        Already checked by `parse_region`. Windows of a lattice have few different slices along an
        axis, each of which is looked at once.
    chunks : tuple of int
        Shape of a chunk.

    Returns
    -------
    dict
        Positions in `regions`, and the overlaps, by chunk.
    """
    found: dict[ChunkKey, list[tuple[int, Overlap]]] = {}
    known: list[dict[Any, _Columns]] = [{} for _ in chunks]
    for number, region in enumerate(regions):
        axes = []
        for item, chunk, seen in zip(region, chunks, known, strict=True):
            name = (item.start, item.stop, item.step)
            if name not in seen:
                seen[name] = _axis_overlaps(item, chunk)
            axes.append(seen[name])
        columns = [itertools.product(*column) for column in zip(*axes, strict=True)]
        for overlap in map(Overlap, *columns):
            found.setdefault(overlap.key, []).append((number, overlap))
    return found
