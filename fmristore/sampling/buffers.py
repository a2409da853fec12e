"""Buffers of the windows that are handed out: blocks of whole chunks, each read once.

Windows are gathered in groups of neighbours, groups in buffers. All chunks that the windows of a
buffer touch are found, joined to the largest blocks that are made of them and nothing else, and
each block is read at once. So no chunk is decoded twice for one buffer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fmristore.planning.memory import too_little
from fmristore.sampling.runs import Run
from fmristore.sampling.windows import Windows
from fmristore_stores.protocol import AnyArray

__all__ = ["Buffer", "Group", "Groups", "gather"]


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

    start: tuple[int, ...]
    stop: tuple[int, ...]
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
        self._cells: dict[int, AnyArray] = {}
        self._nbytes: dict[int, int] = {}
        self._blocks: dict[int, list[_Block]] = {}
        self._corners: dict[int, tuple[AnyArray, AnyArray]] = {}
        self.numbers: list[AnyArray] = []
        """Numbers of the windows of each group."""

    def takes(self, group: Group) -> bool:
        """Add a group if its chunks fit; the first one always does."""
        run = self._windows.sources[group.run]
        cells = np.union1d(self._cells.get(group.run, []), self._touched(group)).astype(np.int64)
        nbytes = self._nbytes | {group.run: _nbytes(run, cells)}
        if self.numbers and sum(nbytes.values()) > self._limit:
            return False
        self._nbytes = nbytes
        self._cells[group.run] = cells
        self.numbers.append(self._numbers_of(group))
        return True

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

    def _apart(self, number: int) -> bool:
        """True if no two windows of a run share a chunk, so that each can be read on its own."""
        run = self._windows.sources[number]
        facts = zip(
            self._windows.lattice(number),
            _time_first(run, run.chunks),
            self._windows.size,
            self._windows.strides,
            strict=True,
        )
        return all(n == 1 or (w <= step and step % c == 0) for n, c, w, step in facts)

    def load(self) -> None:
        """Read all chunks that windows share, in blocks as large as the memory allows.

        Raises
        ------
        CorruptDataError
            If a chunk is damaged or missing.
        """
        for number, cells in self._cells.items():
            if self._apart(number):
                continue
            run = self._windows.sources[number]
            time = run.axes.index("t")
            chunks, lengths = _time_first(run, run.chunks), _time_first(run, run.shape)
            most = max(1, self._limit // 2 // (math.prod(chunks) * run.width))
            blocks = []
            for low, high in _joined(cells, lengths, chunks, most):
                start = [a * c for a, c in zip(low, chunks, strict=True)]
                stop = [min(b * c, n) for b, c, n in zip(high, chunks, lengths, strict=True)]
                for corner in (start, stop):  # back to the order of the run
                    corner.insert(time, corner.pop(0))
                region = [slice(a, b, 1) for a, b in zip(start, stop, strict=True)]
                blocks.append(_Block(tuple(start), tuple(stop), run.read_once(region)))
            self._blocks[number] = blocks
            self._corners[number] = (
                np.array([block.start for block in blocks]),
                np.array([block.stop for block in blocks]),
            )

    def empty(self, count: int) -> AnyArray:
        """An array of `count` regions of windows, elements in memory as they are read."""
        windows = self._windows
        order = windows.sources[next(iter(self._cells))].memory_axes
        shape = [part.stop for part in windows.region((0,) * len(order))]
        memory = np.empty((count, *(shape[axis] for axis in order)), windows.dtype)
        return memory.transpose(0, *(1 + np.argsort(order)))

    def place(self, number: int, out: AnyArray) -> None:
        """Put the values of one window, of its whole region, into an array."""
        window = self._windows.where(number)
        if window.run not in self._blocks:
            self._windows.sources[window.run].read_into(window.region, out)
            return
        starts, stops = self._corners[window.run]
        begin = [part.start for part in window.region]
        end = [part.stop for part in window.region]
        for index in np.flatnonzero(((starts < end) & (stops > begin)).all(axis=1)).tolist():
            block = self._blocks[window.run][index]
            target, source = [], []
            for low, high, a, b in zip(block.start, block.stop, begin, end, strict=True):
                first, last = max(low, a), min(high, b)
                target.append(slice(first - a, last - a))
                source.append(slice(first - low, last - low))
            out[tuple(target)] = block.values[tuple(source)]


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
