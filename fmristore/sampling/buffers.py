"""Buffers of the windows that are handed out: blocks of whole chunks, each read once.

Windows are gathered in groups of neighbours, groups in buffers. Where all windows of a buffer fit
into memory each chunk is copied to them as soon as it is decoded, and not kept. Where they overlap
too much for that, all chunks that they touch are held: joined to the largest blocks that are made
of them and nothing else, each read at once. So no chunk is decoded twice for one buffer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmristore.planning.memory import too_little
from fmristore.sampling.memory import Memory
from fmristore.sampling.runs import Run
from fmristore.sampling.windows import Windows
from fmristore_stores.chunks.threads import for_each
from fmristore_stores.protocol import AnyArray

__all__ = ["Buffer", "Group", "Groups", "gather"]

_LARGE_BYTES = 512 * 1024
"""Bytes of a window from which copying is worth several threads."""


class Group(NamedTuple):
    """Neighbouring windows of one run: a block of the lattice of windows, time first."""

    run: int
    places: tuple[range, ...]

    @property
    def size(self) -> int:
        """Number of its windows."""
        return math.prod(map(len, self.places))


class Groups:
    """All windows, in groups that share chunks.

    Parameters
    ----------
    windows : Windows
        What is grouped.
    limit : int
        Bytes that the chunks of one group may take.

    Raises
    ------
    MemoryLimitError
        If the chunks of a single window take more.
    """

    def __init__(self, windows: Windows, limit: int) -> None:
        self._windows = windows
        self._shapes = [
            _group_shape(windows, number, run, limit) for number, run in enumerate(windows.sources)
        ]
        self._grids = [
            tuple(-(-n // g) for n, g in zip(windows.lattice(number), shape, strict=True))
            for number, shape in enumerate(self._shapes)
        ]
        sizes = [math.prod(grid) for grid in self._grids]
        self._bounds = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, number: int) -> Group:
        run = int(np.searchsorted(self._bounds, number, side="right")) - 1
        at = np.unravel_index(number - int(self._bounds[run]), self._grids[run])
        lattice, shape = self._windows.lattice(run), self._shapes[run]
        places = tuple(
            range(int(a) * g, min((int(a) + 1) * g, n))
            for a, g, n in zip(at, shape, lattice, strict=True)
        )
        return Group(run, places)


def _time_first(run: Run, values: Sequence[int]) -> tuple[int, ...]:
    time = run.axes.index("t")
    return (values[time], *values[:time], *values[time + 1 :])


def _group_shape(windows: Windows, number: int, run: Run, limit: int) -> tuple[int, ...]:
    """Windows of a group along each axis: those that begin in the same chunk, or within a window.

    Fewer where their chunks would take too much memory.
    """
    chunks, lengths = _time_first(run, run.chunks), _time_first(run, run.shape)
    size, strides = windows.size, windows.strides
    shape = [
        max(1, min(n, -(-max(c, w) // step)))
        for n, c, w, step in zip(windows.lattice(number), chunks, size, strides, strict=True)
    ]

    def nbytes() -> int:
        spans = [w + (g - 1) * step for w, g, step in zip(size, shape, strides, strict=True)]
        held = [
            min(n, (-(-(span - 1) // c) + 1) * c)
            for n, c, span in zip(lengths, chunks, spans, strict=True)
        ]
        return math.prod(held) * run.dtype.itemsize

    while nbytes() > limit:
        axis = shape.index(max(shape))
        if shape[axis] == 1:
            whole = tuple(min(c, n) for c, n in zip(run.chunks, run.shape, strict=True))
            what = (
                f"{run.name}: the chunks of one window, {whole} long along {', '.join(run.axes)}, "
                "do not fit; stores for windows in time are made with access='volume' or 'both'"
            )
            raise too_little(what, 2 * limit, 2 * nbytes())
        shape[axis] = -(-shape[axis] // 2)
    return tuple(shape)


class _Block(NamedTuple):
    """A block of whole chunks of a run, and its values."""

    start: AnyArray
    stop: AnyArray
    values: AnyArray


class Buffer:
    """Windows whose chunks are in memory together.

    Parameters
    ----------
    windows : Windows
        What they are windows of.
    limit : int
        Bytes that the chunks may take.
    """

    def __init__(self, windows: Windows, limit: int) -> None:
        self._windows = windows
        self._limit = limit
        self._groups: list[Group] = []
        self._count = 0
        """Windows of all groups."""
        self._counted = 0
        """Groups whose chunks are known."""
        self._cells: dict[int, AnyArray] = {}
        self._held: dict[int, list[_Block]] | None = None
        self.numbers: list[AnyArray] = []
        """Numbers of the windows of each group."""

    def takes(self, group: Group) -> bool:
        """Add a group if its windows fit, or else if its chunks do; the first one always does."""
        count = self._count + group.size
        if self.numbers and not self._fits(count) and not self._chunks_fit(count, group):
            return False
        self._count = count
        self._groups.append(group)
        self.numbers.append(self._numbers_of(group))
        return True

    def _fits(self, count: int) -> bool:
        """True if so many windows can be filled at once, and some memory is left for decoding."""
        return 2 * count * self._windows.held_nbytes <= 3 * self._limit

    def _chunks_fit(self, count: int, group: Group) -> bool:
        """True if the chunks of all groups can be held, with those of one more."""
        windows = self._windows
        shared = math.prod(
            -(-w // step) for w, step in zip(windows.size, windows.strides, strict=True)
        )
        least = count * math.prod(windows.size) // shared * windows.dtype.itemsize
        if least > self._limit:  # no value lies in more than `shared` windows
            return False
        before = self._counted, self._cells
        self._groups.append(group)
        self._count_chunks()
        self._groups.pop()
        nbytes = sum(_nbytes(windows.sources[n], cells) for n, cells in self._cells.items())
        if nbytes > self._limit:
            self._counted, self._cells = before
        return nbytes <= self._limit

    def _count_chunks(self) -> None:
        """Find the chunks that windows touch, which takes a while where there are many groups."""
        touched: dict[int, list[AnyArray]] = {}
        for group in self._groups[self._counted :]:
            touched.setdefault(group.run, []).append(self._touched(group))
        found = {
            run: np.unique(np.concatenate([*cells, self._cells.get(run, cells[0])]))
            for run, cells in touched.items()
        }
        self._cells = self._cells | found
        self._counted = len(self._groups)

    def _touched(self, group: Group) -> AnyArray:
        """Numbers of the chunks that windows of a group touch, in the grid of chunks of the run."""
        run = self._windows.sources[group.run]
        chunks, lengths = _time_first(run, run.chunks), _time_first(run, run.shape)
        size, strides = self._windows.size, self._windows.strides
        along = []
        for places, step, width, chunk in zip(group.places, strides, size, chunks, strict=True):
            starts = np.arange(places.start, places.stop) * step
            first, last = starts // chunk, (starts + width - 1) // chunk
            spans = [
                np.arange(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True)
            ]
            along.append(np.unique(np.concatenate(spans)))
        grid = [-(-n // c) for n, c in zip(lengths, chunks, strict=True)]
        found: AnyArray = np.ravel_multi_index(np.ix_(*along), grid).ravel()
        return found

    def _numbers_of(self, group: Group) -> AnyArray:
        places = [np.arange(part.start, part.stop) for part in group.places]
        lattice = self._windows.lattice(group.run)
        inside = np.ravel_multi_index(np.ix_(*places), lattice).ravel()
        return self._windows.first(group.run) + inside

    def load(self, count: int) -> bool:
        """Read the chunks now if they are not read while all of so many windows are filled.

        Returns
        -------
        bool
            True if so many windows are to be filled at once; if not, any number at a time.

        Raises
        ------
        CorruptDataError
            If a chunk is damaged or missing.
        """
        if self._made_of_chunks():
            return False
        if self._fits(count):
            return True
        self._count_chunks()
        self._held = {number: list(self._blocks(number)) for number in self._cells}
        return False

    def _made_of_chunks(self) -> bool:
        """True if chunks are not decoded, and windows take them whole: each is read on its own."""
        windows = self._windows
        runs = [windows.sources[number] for number in {group.run for group in self._groups}]
        return not any(
            run.decodes
            or any(w < c for w, c in zip(windows.size, _time_first(run, run.chunks), strict=True))
            for run in runs
        )

    def _blocks(self, number: int) -> Iterator[_Block]:
        """Read all chunks of a run that windows touch, in blocks as large as the memory allows."""
        run = self._windows.sources[number]
        time = run.axes.index("t")
        chunks, lengths = _time_first(run, run.chunks), _time_first(run, run.shape)
        most = max(1, self._limit // 2 // (math.prod(chunks) * run.width))
        for low, high in _joined(self._cells[number], lengths, chunks, most):
            start = [a * c for a, c in zip(low, chunks, strict=True)]
            stop = [min(b * c, n) for b, c, n in zip(high, chunks, lengths, strict=True)]
            for corner in (start, stop):  # back to the order of the run
                corner.insert(time, corner.pop(0))
            region = [slice(a, b, 1) for a, b in zip(start, stop, strict=True)]
            yield _Block(np.array(start), np.array(stop), run.read_once(region))

    def empty(self, memory: Memory, count: int, run: int, dtype: np.dtype[Any]) -> AnyArray:
        """An array of `count` regions of windows, elements in memory as those of a run are read."""
        order = self._windows.sources[run].memory_axes
        shape = self._windows.region_shape
        found = memory.empty((count, *(shape[axis] for axis in order)), dtype)
        return found.transpose(0, *(1 + np.argsort(order)))

    def rows(self, memory: Memory, numbers: AnyArray) -> list[AnyArray]:
        """Memory for the regions of windows, as their runs hold them."""
        runs = self._windows.runs_of(numbers)
        found = zip(*np.unique(runs, return_counts=True), strict=True)
        arrays = {
            run: iter(self.empty(memory, count, run, self._windows.sources[run].held_dtype))
            for run, count in ((int(run), int(count)) for run, count in found)
        }
        return [next(arrays[run]) for run in runs.tolist()]

    def fill(self, numbers: AnyArray, rows: Sequence[AnyArray]) -> None:
        """Put the regions of windows into arrays, one for each."""
        windows = self._windows
        runs = windows.runs_of(numbers)
        for number in np.unique(runs).tolist():
            mine = np.flatnonzero(runs == number)
            starts = windows.starts(number, numbers[mine])
            wanted = [rows[index] for index in mine.tolist()]
            run = windows.sources[number]
            if self._held is None and run.reads_regions:
                size = windows.region_shape
                run.read_regions(
                    [
                        tuple(slice(a, a + w, 1) for a, w in zip(start, size, strict=True))
                        for start in starts.tolist()
                    ],
                    wanted,
                )
                continue
            if self._held is None:
                self._count_chunks()
            for block in self._blocks(number) if self._held is None else self._held[number]:
                _copy(block, starts, windows.region_shape, wanted)


def _copy(block: _Block, starts: AnyArray, size: Sequence[int], rows: Sequence[AnyArray]) -> None:
    """Copy from a block to the regions that it lies in, which begin at `starts`."""
    first, last = np.maximum(starts, block.start), np.minimum(starts + size, block.stop)
    inside = np.flatnonzero((first < last).all(axis=1))
    bounds = np.stack([first - starts, last - starts, first - block.start, last - block.start])
    parts = zip(inside.tolist(), bounds[:, inside].transpose(1, 0, 2).tolist(), strict=True)

    def copy(part: tuple[int, list[list[int]]]) -> None:
        index, (begin, end, low, high) = part
        rows[index][tuple(map(slice, begin, end))] = block.values[tuple(map(slice, low, high))]

    nbytes = math.prod(size) * block.values.itemsize
    for_each(copy, list(parts), workers=1 if nbytes < _LARGE_BYTES else None)


def _nbytes(run: Run, cells: AnyArray) -> int:
    """Bytes of the values of chunks; those at the end of an axis may be shorter."""
    chunks, lengths = _time_first(run, run.chunks), _time_first(run, run.shape)
    grid = [-(-n // c) for n, c in zip(lengths, chunks, strict=True)]
    total = np.full(len(cells), run.dtype.itemsize, np.int64)
    for at, c, n in zip(np.unravel_index(cells, grid), chunks, lengths, strict=True):
        total *= np.minimum(c, n - at * c)
    return int(total.sum())


_Corners = tuple[tuple[int, ...], tuple[int, ...]]


def _joined(
    cells: AnyArray, lengths: Sequence[int], chunks: Sequence[int], most: int
) -> list[_Corners]:
    """Blocks that hold the given cells and no others, each of `most` cells at most.

    Neighbours are joined along the last axis first, where they lie closest together.
    """
    grid = [-(-n // c) for n, c in zip(lengths, chunks, strict=True)]
    at = np.stack(np.unravel_index(cells, grid), axis=1).tolist()
    blocks: list[_Corners] = [(tuple(one), tuple(a + 1 for a in one)) for one in at]
    for axis in reversed(range(len(grid))):
        by_place: dict[tuple[tuple[int, ...], ...], list[_Corners]] = {}
        for block in sorted(blocks):
            across = tuple(corner[:axis] + corner[axis + 1 :] for corner in block)
            by_place.setdefault(across, []).append(block)
        blocks = [
            joined for alike in by_place.values() for joined in _chain(iter(alike), axis, most)
        ]
    return blocks


def _chain(blocks: Iterator[_Corners], axis: int, most: int) -> Iterator[_Corners]:
    """Join blocks that follow each other along an axis."""
    low, high = next(blocks)
    for start, stop in blocks:
        longer = (*high[:axis], stop[axis], *high[axis + 1 :])
        if start[axis] == high[axis] and _cells(low, longer) <= most:
            high = longer
            continue
        yield low, high
        low, high = start, stop
    yield low, high


def _cells(low: Sequence[int], high: Sequence[int]) -> int:
    return math.prod(b - a for a, b in zip(low, high, strict=True))


def gather(windows: Windows, groups: Iterator[Group], limit: int) -> Iterator[Buffer]:
    """Buffers of as many groups as fit, in their order; none is loaded yet."""
    buffer = Buffer(windows, limit)
    for group in groups:
        if buffer.takes(group):
            continue
        yield buffer
        buffer = Buffer(windows, limit)
        buffer.takes(group)
    if buffer.numbers:
        yield buffer
