"""Reading text of HDF5 files within a limit."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fmristore_stores.errors import MemoryLimitError
from fmristore_stores.grid import Region, region_shape
from fmristore_stores.hdf5.attributes import decode_text
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import STRING

__all__ = ["fixed_rows_at_once", "read_text", "rows_at_once"]

_FEWEST = 16
"""Texts that are read at once however large the file is."""
_FIXED = 16 * 1024 * 1024
"""Bytes of texts of fixed length that are read at once."""


def rows_at_once(shape: tuple[int, ...], file_size: int) -> int:
    """Rows of an array of texts that can be read at once if each is as long as the file.

    Any number of texts of variable length may be one and the same long text of the file.
    """
    at_once = max(_FEWEST, LIMITS.text // 4 // max(1, file_size))
    return max(1, at_once // max(1, math.prod(shape[1:])))


def fixed_rows_at_once(shape: tuple[int, ...], width: int) -> int:
    """Rows of an array of texts of fixed length that are read at once."""
    return max(1, _FIXED // max(1, width * math.prod(shape[1:])))


def read_text(
    read: Callable[[Region], AnyArray], region: Region, shape: tuple[int, ...], rows: int
) -> AnyArray:
    """Read texts of a region, some rows at a time.

    Parameters
    ----------
    read : callable
        Returns the elements of a region, as HDF5 has them.
    region : tuple of slice
        What is wanted.
    shape : tuple of int
        Of the region.
    rows : int
        Rows, along the first axis, that are read at once.

    Raises
    ------
    MemoryLimitError
        If the texts have more than ``LIMITS.text`` letters.
    """
    result = np.empty(shape, STRING)
    total = 0
    for start in range(0, shape[0] if shape else 1, rows):
        part = _rows(region, start, rows)
        texts = [decode_text(item) for item in read(part).reshape(-1).tolist()]
        total += sum(map(len, texts))
        if total > LIMITS.text:
            msg = f"these texts have more than {LIMITS.text} letters; read fewer of them"
            raise MemoryLimitError(msg)
        found = np.array(texts, STRING).reshape(region_shape(part))
        result[slice(start, start + rows) if shape else ()] = found
    return result


def _rows(region: Region, start: int, count: int) -> Region:
    """Some rows of a region: a part of its first axis."""
    if not region:
        return region
    first = region[0]
    begin = first.start + start * first.step
    stop = min(first.stop, first.start + (start + count) * first.step)
    return (slice(begin, stop, first.step), *region[1:])
