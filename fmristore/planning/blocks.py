"""Cutting an array into blocks that fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fmristore.planning.memory import too_little
from fmristore_stores.grid import Region

__all__ = ["block_shape", "cut_into_blocks", "overlap_count"]


def block_shape(
    shape: tuple[int, ...],
    unit: tuple[int, ...],
    itemsize: int,
    max_memory: int,
    *,
    share: int = 1,
) -> tuple[int, ...]:
    """Shape of the largest block made of whole units, grown along the last axes first.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    unit : tuple of int
        Shape of a chunk or shard; blocks consist of whole ones (clipped at the array's end).
    itemsize : int
        Bytes of an element.
    max_memory : int
        Bytes of memory that there are.
    share : int
        Part of it, as a divisor, that a block may take.

    Raises
    ------
    MemoryLimitError
        If not even one unit fits.
    """
    limit = max_memory // share // itemsize
    sizes = [max(1, min(u, n)) for u, n in zip(unit, shape, strict=True)]
    if math.prod(sizes) > limit:
        nbytes = math.prod(sizes) * itemsize
        what = f"a shard or chunk of {nbytes} bytes must be in memory at once"
        raise too_little(what, max_memory, nbytes * share)
    for axis in reversed(range(len(sizes))):
        most = limit // (math.prod(sizes) // sizes[axis])
        sizes[axis] = min(shape[axis] or 1, max(sizes[axis], most // unit[axis] * unit[axis]))
    return tuple(sizes)


def cut_into_blocks(shape: tuple[int, ...], size: tuple[int, ...]) -> Iterator[Region]:
    """Cut an array into blocks of one size, clipped at its end; last axis fastest."""
    counts = (-(-n // s) for n, s in zip(shape, size, strict=True))
    for index in np.ndindex(*counts):
        yield tuple(
            slice(i * s, min((i + 1) * s, n), 1) for i, s, n in zip(index, size, shape, strict=True)
        )


def overlap_count(shape: tuple[int, ...], size: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    """Count how many times chunks are touched when an array is read block by block."""
    count = 1
    for n, s, c in zip(shape, size, chunk, strict=True):
        count *= sum(-(-min(i + s, n) // c) - i // c for i in range(0, n, s))
    return count
