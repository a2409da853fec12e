"""Scattered points in chunks that are not encoded: which bytes hold them, found for all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmristore_stores.chunks.elements import Part
from fmristore_stores.grid import ChunkKey, Region
from fmristore_stores.protocol import AnyArray, Buffer

__all__ = ["PointRead", "Points", "Spans"]

Numbers = NDArray[np.int64]

_GAP = 8 * 1024
"""Bytes between two points that are read along: asking for the second one takes as long."""


class PointRead(NamedTuple):
    """One place along the other axes, and the chunks there that hold points."""

    keys: list[ChunkKey]
    """Chunks, as `Points.keys` gives them."""
    rest: Part
    """Elements that are wanted at each point, along the other axes."""
    target: Region
    """Place in the result, along the axes behind that of the points."""


class Spans(NamedTuple):
    """Runs of bytes that hold all points, in the order of the points."""

    rows: Numbers
    """Number of the first point of each, and behind the last one the number of all points."""
    chunks: Numbers
    """Number of the chunk that each lies in."""
    starts: Numbers
    """Bytes from the first element of the chunk that is wanted of points to the begin of each."""
    lengths: Numbers


class Points:
    """Points along some axes of an array, by chunk and place within it.

    Parameters
    ----------
    axes : sequence of int
        Axes of the points.
    points : ndarray of int64, (n, k)
        At least one.
    chunks, strides : sequence of int
        Lengths of a chunk, and bytes from one of its elements to the next, along all axes.
    """

    def __init__(
        self,
        axes: Sequence[int],
        points: Numbers,
        chunks: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        self._axes = sorted(axes)  # as chunks follow each other in files
        points = points[:, np.argsort(axes)]
        places, inside = np.divmod(points, [chunks[a] for a in self._axes])
        starts = inside @ np.array([strides[a] for a in self._axes], np.int64)
        self._rows: Numbers = np.lexsort((starts, *places.T[::-1]))
        places = places[self._rows]
        new = np.ones(len(points), bool)
        new[1:] = (places[1:] != places[:-1]).any(axis=1)
        self._starts: Numbers = starts[self._rows]
        self._chunks: Numbers = np.cumsum(new) - 1
        self._places: Numbers = places[new]
        self._known: dict[int, Spans] = {}

    def keys(self, others: Sequence[int], key: ChunkKey) -> list[ChunkKey]:
        """Chunks that hold points, each once, at a place `key` of the grid along the other axes."""
        found = np.empty((len(self._places), len(self._axes) + len(others)), np.int64)
        found[:, self._axes] = self._places
        found[:, list(others)] = key
        return list(map(tuple, found.tolist()))

    def spans(self, length: int) -> Spans:
        """Runs of bytes to read where so many are wanted from each point on."""
        found = self._known.get(length)
        if found is None:
            starts, chunks = self._starts, self._chunks
            new = np.ones(len(starts), bool)
            new[1:] = starts[1:] > starts[:-1] + (length + _GAP)
            new[1:] |= chunks[1:] != chunks[:-1]
            first = np.flatnonzero(new)
            rows = np.append(first, len(starts))
            lengths = starts[rows[1:] - 1] + length - starts[first]
            found = self._known[length] = Spans(rows, chunks[first], starts[first], lengths)
        return found

    def taken(
        self, data: Buffer, some: slice, rest: Part, dtype: np.dtype[Any]
    ) -> tuple[Numbers, AnyArray]:
        """Values at the points of some spans.

        Parameters
        ----------
        data : bytes-like
            Bytes of the spans, one behind the other.
        some : slice
            Which of the spans for `rest.length`.
        rest : Part
            What is wanted at each point.
        dtype : dtype
            Of the values.

        Returns
        -------
        rows, values : ndarray of int64, (m,), and ndarray, (m, ...)
            Rows of the points, and what is wanted at each.
        """
        spans = self.spans(rest.length)
        lengths, rows = spans.lengths[some], spans.rows[some.start : some.stop + 1]
        begin, end = int(rows[0]), int(rows[-1])
        moved = np.cumsum(lengths) - lengths - spans.starts[some]
        places = self._starts[begin:end] + np.repeat(moved, np.diff(rows))
        count = int(lengths.sum()) - rest.length + 1
        windows: AnyArray = np.ndarray((count,), f"V{rest.length}", data, 0, (1,))
        taken = windows[places]
        values: AnyArray = np.ndarray(
            (len(taken), *rest.shape), dtype, taken, 0, (rest.length, *rest.strides)
        )
        return self._rows[begin:end], values
