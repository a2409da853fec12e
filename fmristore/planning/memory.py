"""How `max_memory` is shared out among what is in memory at once while an array is written.

- a sixteenth for each of three blocks of the source: one being read, one being taken, one kept
- a third for a write unit (a shard, or a chunk where there are none) and a third for its encoded
  chunks, or else
- what is left beside a unit being encoded, for volumes that are gathered in memory
"""

from __future__ import annotations

import math

from fmristore_stores.errors import MemoryLimitError
from fmristore_stores.spec import ArraySpec

__all__ = ["UNIT_SHARE", "block_share", "gathering_share", "require_unit", "unit_nbytes"]

UNIT_SHARE = 3
"""Part of the memory, as a divisor, that one write unit may take."""
_BLOCK_SHARE = 16
_PLANE_SHARE = 8


def unit_nbytes(spec: ArraySpec) -> int:
    """Bytes of the largest write unit of an array, as far as it lies in the array."""
    lengths = zip(spec.layout.units, spec.shape, strict=True)
    return math.prod(max(1, min(unit, length)) for unit, length in lengths) * spec.dtype.itemsize


def block_share(max_memory: int, plane: int) -> int:
    """Bytes of a block to ask a source for, which is a plane at least.

    Parameters
    ----------
    max_memory : int
        Bytes that there are for the whole.
    plane : int
        Bytes of a plane of constant z and t.

    Raises
    ------
    MemoryLimitError
        If a plane takes more than an eighth.
    """
    if _PLANE_SHARE * plane > max_memory:
        raise MemoryLimitError(
            f"a plane has {plane} bytes: raise max_memory from {max_memory} to at least "
            f"{_PLANE_SHARE * plane} bytes"
        )
    return max(1, plane, max_memory // _BLOCK_SHARE)


def gathering_share(spec: ArraySpec, max_memory: int) -> int:
    """Bytes that may be gathered in memory beside a write unit that is being encoded."""
    return max(0, min(max_memory // 2, 2 * max_memory // 3 - unit_nbytes(spec)))


def require_unit(spec: ArraySpec, max_memory: int) -> None:
    """Refuse to write an array whose write units are too large for the memory.

    Parameters
    ----------
    spec : ArraySpec
        The array.
    max_memory : int
        Bytes that writing it may take.

    Raises
    ------
    MemoryLimitError
        With the least that is needed.
    """
    unit = unit_nbytes(spec)
    if UNIT_SHARE * unit > max_memory:
        what = "chunk" if spec.layout.shards is None else "shard"
        raise MemoryLimitError(
            f"a {what} of {unit} bytes must be in memory at once, as it is and encoded: raise "
            f"max_memory from {max_memory} to at least {UNIT_SHARE * unit} bytes"
        )
