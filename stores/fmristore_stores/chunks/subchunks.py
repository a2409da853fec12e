"""Subchunks, which can be read on their own: runs of consecutive elements of a chunk."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from fmristore_stores.spec import ArraySpec

__all__ = ["Run", "contiguous_run", "last_subchunk_shape", "subchunk_shape"]

Run: TypeAlias = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Consecutive elements of a chunk: the number of the first, their shape, their position."""

_LARGE_BYTES = 1024 * 1024
_SUBCHUNK_BYTES = 64 * 1024


def subchunk_shape(spec: ArraySpec) -> tuple[int, ...]:
    """Shape of the subchunks in which chunks that are not encoded are read, as if they were chunks.

    Many HDF5 files have arrays that lie in one large chunk.

    Parameters
    ----------
    spec : ArraySpec
        Without codecs, axes in the order of the bytes.

    Returns
    -------
    tuple of int
        That of a whole chunk up to 1 MiB, else of a run of about 64 KiB of consecutive elements.
        Subchunks tile every chunk; where there is one chunk along an axis, the last subchunk may be
        shorter.
    """
    chunk = spec.layout.chunks
    if spec.chunk_nbytes <= _LARGE_BYTES:
        return chunk
    subchunk = [1] * len(chunk)
    room = max(1, _SUBCHUNK_BYTES // spec.dtype.itemsize)
    for axis in reversed(range(len(chunk))):
        length = chunk[axis]
        if length <= room:
            subchunk[axis] = length
            room //= length
            continue
        alone = length >= spec.shape[axis]
        subchunk[axis] = room if alone else next(n for n in range(room, 0, -1) if length % n == 0)
        if 8 * subchunk[axis] < room:
            subchunk[axis] = length
        break
    return tuple(subchunk)


def last_subchunk_shape(subchunk: Sequence[int], chunk: Sequence[int]) -> list[int]:
    """Shape of the last subchunk of a chunk, with -1 for the axis along which it was cut."""
    cut = max(axis for axis, (p, c) in enumerate(zip(subchunk, chunk, strict=True)) if p < c)
    return [*subchunk[:cut], -1, *subchunk[cut + 1 :]]


def contiguous_run(block: Sequence[slice], shape: Sequence[int]) -> Run | None:
    """Smallest run of consecutive elements of a C-ordered array that holds a block.

    Returns
    -------
    start, run, origin : int, tuple of int, tuple of int
        Number of the run's first element, the run's shape, and its position in the array; None
        if the run is more than half of the array.
    """
    start = 0
    stride = math.prod(shape)
    for axis, part in enumerate(block):
        first, length = part.start, part.stop - part.start
        stride //= shape[axis]
        start += first * stride
        if length > 1 or axis == len(shape) - 1:
            if 2 * length * stride > math.prod(shape):
                return None
            before = [part.start for part in block[:axis]]
            run = (*[1] * axis, length, *shape[axis + 1 :])
            return start, run, (*before, first, *[0] * (len(shape) - axis - 1))
    return None
