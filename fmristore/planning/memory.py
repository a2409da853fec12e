"""Shares of `max_memory` for all that is in memory at once while an array is written.

- a sixteenth for each of three blocks of the source: one being read, one being taken, one kept
- a third for a write unit (a shard, or a chunk where there are none) and a third for its encoded
  chunks, or else
- what is left beside a unit being encoded, for volumes that are gathered in memory
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from fmristore_stores.errors import MemoryLimitError
from fmristore_stores.spec import ArraySpec

__all__ = [
    "UNIT_SHARE",
    "block_share",
    "gathering_share",
    "require_unit",
    "too_little",
    "unit_nbytes",
    "within",
]

UNIT_SHARE = 3
"""Part of the memory, as a divisor, that one write unit may take."""
_BLOCK_SHARE = 16
_PLANE_SHARE = 8


def too_little(what: str, max_memory: int, least: int) -> MemoryLimitError:
    """Error for work that does not fit.

    Parameters
    ----------
    what : str
        What does not fit.
    max_memory, least : int
        Bytes that there are, and that are needed.
    """
    error = MemoryLimitError(
        f"{what}: raise max_memory from {max_memory} to at least {least} bytes"
    )
    error.needs = what, max_memory, least
    return error


@contextlib.contextmanager
def within(max_memory: int, part: int) -> Iterator[None]:
    """Let errors of work that may take a part of the memory name the whole that is needed.

    Parameters
    ----------
    max_memory, part : int
        Bytes that there are for the whole, and that the work was given.
    """
    try:
        yield
    except MemoryLimitError as error:
        if error.needs is None or part == max_memory:
            raise
        what, given, least = error.needs
        if given != part:  # of something else
            raise
        raise too_little(what, max_memory, -(-least * max_memory // max(1, part))) from error


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
        raise too_little(f"a plane has {plane} bytes", max_memory, _PLANE_SHARE * plane)
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
        what = f"a {what} of {unit} bytes must be in memory at once, as it is and encoded"
        raise too_little(what, max_memory, UNIT_SHARE * unit)
