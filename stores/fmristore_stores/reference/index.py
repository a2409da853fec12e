"""Places of the chunks of an array of a reference file: as a table, and packed into text."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from fmristore_stores.errors import CorruptDataError, SelectionError
from fmristore_stores.grid import ChunkKey
from fmristore_stores.protocol import AnyArray, ByteRange, ChunkRef

__all__ = ["INLINE", "WHOLE", "ChunkTable", "pack_rows", "unpack_rows"]

INLINE = ""
"""Name of the source of chunks that are part of the reference file itself."""
WHOLE = -1
"""Length of a chunk that is a whole file."""
_COLUMNS = 3


def pack_rows(rows: AnyArray) -> str:
    """Pack a table into text, a few bytes for each row.

    Parameters
    ----------
    rows : ndarray of int64, shape (chunks, 3)
        Number of the chunk, offset and length.

    Returns
    -------
    str
        Base64 of a zlib stream of the differences between rows, column by column, each column
        with the bytes of equal significance together (little-endian int64).
    """
    steps = np.diff(rows, axis=0, prepend=np.zeros((1, _COLUMNS), np.int64)).astype("<i8")
    shuffled = np.ascontiguousarray(steps.T).view(np.uint8).reshape(_COLUMNS, -1, 8)
    return base64.b64encode(zlib.compress(shuffled.transpose(0, 2, 1).tobytes(), 6)).decode()


def unpack_rows(text: Any, count: Any, most: int) -> AnyArray:
    """Undo `pack_rows`.

    Parameters
    ----------
    text : str
        What was packed.
    count : int
        Number of rows.
    most : int
        Rows that there can be at most.

    Raises
    ------
    CorruptDataError
        If the text is damaged or does not have that many rows.
    """
    if not isinstance(text, str) or type(count) is not int or not 0 <= count <= most:
        raise CorruptDataError("the packed chunk index is not understood")
    size = count * _COLUMNS * 8
    try:
        engine = zlib.decompressobj()
        data = engine.decompress(base64.b64decode(text, validate=True), size + 1)
    except (zlib.error, binascii.Error, ValueError) as error:
        raise CorruptDataError(f"the packed chunk index is damaged: {error}") from error
    if len(data) != size:
        raise CorruptDataError(f"the packed chunk index does not have {count} entries")
    shuffled = np.frombuffer(data, np.uint8).reshape(_COLUMNS, 8, count)
    steps = np.ascontiguousarray(shuffled.transpose(0, 2, 1)).view("<i8").reshape(_COLUMNS, count)
    return np.cumsum(steps, axis=1, dtype=np.int64).T


class ChunkTable:
    """Byte ranges of the chunks of one array.

    Parameters
    ----------
    grid : tuple of int
        Number of chunks along each axis.
    rows : ndarray of int64, shape (chunks, 4)
        Number of a chunk (last axis fastest), number of its source, offset and length; in any
        order. The length is `WHOLE` for a chunk that is all of its source.
    sources : sequence of str
        Names of the sources.

    Raises
    ------
    CorruptDataError
        If a chunk is listed twice, does not lie in the grid, or has an absurd place.
    """

    def __init__(self, grid: tuple[int, ...], rows: AnyArray, sources: Sequence[str]) -> None:
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        numbers, origin, offsets, lengths = np.ascontiguousarray(rows.T)
        if len(numbers) and (
            numbers[0] < 0 or int(numbers[-1]) >= math.prod(grid) or (np.diff(numbers) == 0).any()
        ):
            raise CorruptDataError("the reference file lists a chunk twice, or outside the array")
        if (offsets < 0).any() or (lengths < WHOLE).any() or (offsets > 2**62).any():
            raise CorruptDataError("the reference file has an impossible byte range")
        self._grid = grid
        self._sources = tuple(sources)
        # Memory views hand out Python integers several times faster than arrays do.
        self._numbers = memoryview(numbers)
        self._origin = memoryview(origin)
        self._offsets = memoryview(offsets)
        self._lengths = memoryview(lengths)

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def numbers(self) -> AnyArray:
        """Numbers of the chunks, sorted: int64, (chunks,)."""
        return np.array(self._numbers, np.int64)

    def renamed(self, name: Callable[[str], str]) -> Self:
        """The table with other names for its sources."""
        self._sources = tuple(name(source) for source in self._sources)
        return self

    def refs(self, keys: Sequence[ChunkKey]) -> list[ChunkRef | None]:
        """Locate chunks; None for one that is not listed.

        Raises
        ------
        SelectionError
            If a key is outside the grid.
        """
        return [self._ref(key) for key in keys]

    def _ref(self, key: ChunkKey) -> ChunkRef | None:
        if len(key) != len(self._grid) or not all(
            0 <= k < n for k, n in zip(key, self._grid, strict=True)
        ):
            raise SelectionError(f"chunk {key} is not in a grid of {self._grid}")
        number = 0
        for position, length in zip(key, self._grid, strict=True):
            number = number * length + position
        numbers = self._numbers
        complete = len(numbers) > number and numbers[number] == number
        row = number if complete else bisect_left(numbers, number)
        if row == len(numbers) or numbers[row] != number:
            return None
        source = self._sources[self._origin[row]]
        return ChunkRef(ByteRange(source, self._offsets[row], self._lengths[row]))
