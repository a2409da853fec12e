"""Places of the encoded chunks of an HDF5 dataset in its file."""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fmristore_stores.errors import CorruptDataError, SelectionError
from fmristore_stores.grid import ChunkKey, grid_shape, number_steps
from fmristore_stores.hdf5.files import Session
from fmristore_stores.protocol import ByteRange, ChunkRef
from fmristore_stores.spec import ArraySpec

__all__ = ["ChunkFinder", "ChunkIndex"]

_OUTSIDE = "the chunk table points beyond the end of the file ({} bytes)"


_LOOKUPS = 64
"""Chunks that are looked up one by one before the whole table is read."""
_FEW = 8
"""Chunks that are found one by one in a table that is known."""
_MOST_KEPT = 1 << 16
"""Chunks of all arrays whose tables stay with the file: 32 bytes each."""


class ChunkFinder:
    """Locates chunks of one dataset; the caller sees to the errors of h5py.

    Parameters
    ----------
    session : Session
        The file.
    opener : callable
        Opens the dataset.
    spec : ArraySpec
        Its spec.
    path : str
        Where it is in the file.
    chunked : bool
        Whether the dataset consists of chunks, rather than of one piece.
    local : bool
        Whether the first chunks may be looked up one by one, because reading a node of the table
        costs no request.
    piece : (int, int), optional
        Where in the file a dataset of one piece lies, and how long it is, if that is known.

    Notes
    -----
    The table is complete before it is assigned; two threads may both build it. That of an array of
    not too many chunks stays with the file that is read, for whoever opens the array again.
    """

    def __init__(
        self,
        session: Session,
        opener: Callable[[], Any],
        spec: ArraySpec,
        *,
        path: str,
        chunked: bool,
        local: bool,
        piece: tuple[int, int] | None = None,
    ) -> None:
        self._session = session
        self._opener = opener
        self._piece = piece
        self._spec = spec
        self._path = path
        self._grid = grid_shape(spec.shape, spec.layout.chunks)
        self._chunked = chunked
        self._remembers = chunked and not session.writable
        """True if the table is remembered: that of a file that is changed would be an old one."""
        self._lookups = _LOOKUPS if local and chunked else 0
        self._looked_up = 0
        known = None if session.writable else session.tables.get(path)
        self._index: ChunkIndex | None = known
        self._plain_offsets: memoryview | None = None

    def refs(self, keys: Sequence[ChunkKey]) -> list[ChunkRef | None]:
        """Locate chunks; None for one that was never written.

        Raises
        ------
        SelectionError
            If a key is outside the grid.
        CorruptDataError
            If the table of chunks is damaged, or points beyond the end of the file.
        """
        if self.known:
            return self.index.refs(keys)
        self._looked_up += len(keys)
        few = self._looked_up <= self._lookups
        if self._chunked and (few or not self._remembers):
            size, path = self._session.size, self._session.path
            node, grid, chunks = self._opener(), self._grid, self._spec.layout.chunks
            return [_look_up(node, grid, chunks, path, size, key) for key in keys]
        if self._chunked or len(keys) != 1 or any(keys[0]) or len(keys[0]) != len(self._spec.shape):
            return self.index.refs(keys)
        offset, size = self._checked_piece()
        return [ChunkRef(ByteRange(self._session.path, offset, size), 0) if size else None]

    def _checked_piece(self) -> tuple[int, int]:
        """Offset and length of a dataset of one piece; no length if it was never written."""
        if self._piece is None:
            node = self._opener()
            self._piece = int(node.get_offset() or 0), int(node.get_storage_size())
        _check_piece(self._piece, self._spec, self._session.size)
        return self._piece

    @property
    def known(self) -> bool:
        """True if the HDF5 library is not asked for any chunk any more."""
        return self._index is not None and self._remembers

    @property
    def plain_offsets(self) -> memoryview | None:
        """Place of each chunk by number, if it is known that all lie in the file unencoded."""
        if self._plain_offsets is None and (self.known or self._piece is not None):
            self._plain_offsets = self._find_plain_offsets()
        return self._plain_offsets or None

    def _find_plain_offsets(self) -> memoryview:
        """The same, once it is known; empty if they do not."""
        if not self._spec.codecs and not self._session.writable:
            with contextlib.suppress(CorruptDataError):  # chunk by chunk it is said what is wrong
                return self.index.plain_offsets(self._spec.chunk_nbytes)
        return memoryview(b"")

    @property
    def index(self) -> ChunkIndex:
        """The whole table of chunks, read when it is first asked for."""
        if self._index is None:
            path = self._session.path
            if self._chunked:
                size = self._session.size
                self._index = _index_chunked(self._opener(), self._spec, path, size)
                if not self._session.writable:
                    self._keep(self._index)
            else:
                self._index = _index_contiguous(self._checked_piece(), self._spec, path)
        return self._index

    def _keep(self, index: ChunkIndex) -> None:
        """Leave the table with the file, in place of those before if they are many chunks."""
        tables = self._session.tables
        if sum(map(len, list(tables.values()))) + len(index) > _MOST_KEPT:
            tables.clear()
        if len(index) <= _MOST_KEPT:
            tables[self._path] = index


class ChunkIndex:
    """Byte ranges of the chunks of one dataset, 32 bytes for each.

    Parameters
    ----------
    source : str
        Name of the file.
    grid : tuple of int
        Number of chunks along each axis.
    rows : ndarray of int64, shape (chunks, 4)
        Number of a chunk (last axis fastest), offset, size and filter mask, in any order.

    Notes
    -----
    Nothing changes after construction, so that any number of threads may ask at once.
    """

    def __init__(self, source: str, grid: tuple[int, ...], rows: np.ndarray[Any, Any]) -> None:
        self._source = source
        self._grid = grid
        self._most = math.prod(grid)
        self._steps = number_steps(grid)
        if len(rows) > 1:
            rows = rows[np.argsort(rows[:, 0], kind="stable")]
            if (np.diff(rows[:, 0]) == 0).any():
                raise CorruptDataError("the chunk table lists a chunk twice")
        numbers, offsets, sizes, masks = np.ascontiguousarray(rows.T)
        # Memory views hand out Python integers several times faster than arrays do.
        self._numbers = memoryview(numbers)
        self._offsets = memoryview(offsets)
        self._sizes = memoryview(sizes)
        self._masks = memoryview(masks)

    def __len__(self) -> int:
        return len(self._numbers)

    def plain_offsets(self, nbytes: int) -> memoryview:
        """Place of each chunk by number; empty unless all are there, each of so many bytes."""
        lengths, masks = np.asarray(self._sizes), np.asarray(self._masks)
        whole = len(self) == self._most and (lengths == nbytes).all() and not masks.any()
        return self._offsets if whole else memoryview(b"")

    @property
    def numbers(self) -> np.ndarray[Any, Any]:
        """Numbers of the chunks, sorted: int64, (chunks,)."""
        return np.array(self._numbers, np.int64)

    @property
    def rows(self) -> np.ndarray[Any, Any]:
        """Number, offset, size and filter mask of each chunk, by number: int64, (chunks, 4)."""
        columns = (self._numbers, self._offsets, self._sizes, self._masks)
        return np.array(columns, np.int64).T.reshape(-1, 4)

    def refs(self, keys: Sequence[ChunkKey]) -> list[ChunkRef | None]:
        """Locate chunks; None for one that was never written.

        Raises
        ------
        SelectionError
            If a key is outside the grid.
        """
        if len(keys) < _FEW or len(self._numbers) != self._most:
            return [self._ref(key) for key in keys]
        try:  # rows of a table that lacks none are numbers of chunks
            rows = np.ravel_multi_index(tuple(np.array(keys, np.int64).T), self._grid)
        except (ValueError, OverflowError):
            return [self._ref(key) for key in keys]  # which says what is wrong
        columns = (self._offsets, self._sizes, self._masks)
        offsets, sizes, masks = (np.asarray(column)[rows].tolist() for column in columns)
        return list(
            map(ChunkRef, map(ByteRange, itertools.repeat(self._source), offsets, sizes), masks)
        )

    def _ref(self, key: ChunkKey) -> ChunkRef | None:
        _check_key(key, self._grid)
        number = sum(map(operator.mul, key, self._steps))
        numbers = self._numbers
        complete = len(numbers) > number and numbers[number] == number
        row = number if complete else bisect_left(numbers, number)
        if row == len(numbers) or numbers[row] != number:
            return None
        return ChunkRef(
            ByteRange(self._source, self._offsets[row], self._sizes[row]), self._masks[row]
        )


def _check_key(key: ChunkKey, grid: tuple[int, ...]) -> None:
    if len(key) != len(grid) or min(key, default=0) < 0 or not all(map(operator.lt, key, grid)):
        raise SelectionError(f"chunk {key} is not in a grid of {grid}")


def _look_up(
    node: Any,
    grid: tuple[int, ...],
    chunks: tuple[int, ...],
    source: str,
    file_size: int,
    key: ChunkKey,
) -> ChunkRef | None:
    """Locate one chunk of a chunked dataset without reading the rest of the table.

    Raises
    ------
    SelectionError
        If the key is outside the grid.
    CorruptDataError
        If the entry lies outside the file.
    """
    _check_key(key, grid)
    info = node.get_chunk_info_by_coord(tuple(map(operator.mul, key, chunks)))
    if not info.byte_offset:
        return None
    offset, size = int(info.byte_offset), int(info.size)
    if offset < 0 or size < 0 or size > file_size - offset:
        raise CorruptDataError(_OUTSIDE.format(file_size))
    return ChunkRef(ByteRange(source, offset, size), int(info.filter_mask))


def _index_chunked(node: Any, spec: ArraySpec, source: str, file_size: int) -> ChunkIndex:
    """Read the chunk table of a chunked dataset.

    Parameters
    ----------
    node : h5py.h5d.DatasetID
        The dataset.
    spec : ArraySpec
        Its spec.
    source : str
        Name of the file.
    file_size : int
        Its length in bytes.

    Returns
    -------
    ChunkIndex

    Raises
    ------
    CorruptDataError
        If an entry lies outside the array or the file.

    Notes
    -----
    One pass over the table, about 2 microseconds for each chunk.
    """
    chunks = spec.layout.chunks
    grid = grid_shape(spec.shape, chunks)
    limit = min(math.prod(grid), file_size)
    found: list[Any] = []

    def note(info: Any) -> bool | None:
        found.append(info)
        return True if len(found) > limit else None

    if limit:
        node.chunk_iter(note)
    if len(found) > limit:
        raise CorruptDataError("the chunk table has more entries than the array has chunks")
    starts = np.array([info.chunk_offset for info in found], np.uint64).reshape(-1, len(chunks))
    lengths = np.array(chunks, np.uint64)
    positions = starts // lengths
    if (starts % lengths).any() or (positions >= np.array(grid, np.uint64)).any():
        raise CorruptDataError("the chunk table lists a chunk outside the array")
    numbers = np.zeros(len(found), np.int64)
    for axis, count in enumerate(grid):
        numbers = numbers * count + positions[:, axis].astype(np.int64)
    rows = np.array(
        [(0, info.byte_offset or 0, info.size, info.filter_mask) for info in found], np.int64
    ).reshape(-1, 4)
    rows[:, 0] = numbers
    _check_ranges(rows, file_size)
    return ChunkIndex(source, grid, rows[rows[:, 1] > 0])


def _check_piece(piece: tuple[int, int], spec: ArraySpec, file_size: int) -> None:
    """Check where the one piece of a dataset lies, unless it was never written.

    Raises
    ------
    CorruptDataError
        If it lies outside the file, or is not as long as it should be.
    """
    offset, stored = piece
    if (stored or offset) and stored != spec.nbytes:
        msg = f"{stored} bytes are stored where the array has {spec.nbytes}"
        raise CorruptDataError(msg)
    if stored and not 0 <= offset <= file_size - stored:
        raise CorruptDataError(_OUTSIDE.format(file_size))


def _index_contiguous(piece: tuple[int, int], spec: ArraySpec, source: str) -> ChunkIndex:
    """The one chunk of a dataset that lies in one piece, unless it was never written."""
    rows = np.array([(0, *piece, 0)] if piece[1] else [], np.int64).reshape(-1, 4)
    return ChunkIndex(source, (1,) * len(spec.shape), rows)


def _check_ranges(rows: np.ndarray[Any, Any], file_size: int) -> None:
    offsets, sizes = rows[:, 1], rows[:, 2]
    if (offsets < 0).any() or (sizes < 0).any() or (sizes > file_size - offsets).any():
        raise CorruptDataError(_OUTSIDE.format(file_size))
