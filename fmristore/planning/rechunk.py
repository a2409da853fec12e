"""Reading a stored array in blocks of another shape than its chunks, decoding each chunk once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fmristore.planning.blocks import block_shape, cut_into_blocks, overlap_count
from fmristore.planning.scratch import Scratch
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.grid import Region
from fmristore_stores.protocol import AnyArray

__all__ = ["read_in_blocks", "uses_scratch"]

_REPEATS = 1.5
"""Decoding the chunks up to this many times is cheaper than going through a scratch file."""


def _pick(values: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(values[a] for a in axes)


def _direct(shape: tuple[int, ...], size: tuple[int, ...], chunk: tuple[int, ...]) -> bool:
    touched = overlap_count(shape, size, chunk)
    return touched <= _REPEATS * math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))


def uses_scratch(
    reader: ChunkReader, axes: Sequence[int], unit: tuple[int, ...], max_memory: int
) -> bool:
    """Return whether `read_in_blocks` would need a scratch file."""
    shape = _pick(reader.spec.shape, axes)
    if reader.spec.nbytes <= max_memory // 3:
        return False
    size = block_shape(shape, unit, reader.spec.dtype.itemsize, max_memory, share=3)
    return not _direct(shape, size, _pick(reader.chunks, axes))


def read_in_blocks(
    reader: ChunkReader, axes: Sequence[int], unit: tuple[int, ...], max_memory: int
) -> Iterator[tuple[Region, AnyArray]]:
    """Read a whole array in blocks of whole units.

    An array that fits is read at once. Otherwise blocks are read one by one if that decodes
    hardly any chunk twice, and else by way of an uncompressed scratch file.

    Parameters
    ----------
    reader : ChunkReader
        Of the array.
    axes : sequence of int
        Axes of the array in the order that the blocks shall have.
    unit : tuple of int
        Shape, in the order of `axes`, of what blocks must consist of.
    max_memory : int
        Bytes that blocks may take; decoding takes a chunk for each worker besides.

    Yields
    ------
    region, values : Region, ndarray
        In the order of `axes`; blocks come with the last axis fastest.

    Raises
    ------
    MemoryLimitError
        If a unit or chunk does not fit.
    """
    spec = reader.spec
    shape = _pick(spec.shape, axes)
    chunk = _pick(reader.chunks, axes)
    back = tuple(axes.index(a) for a in range(len(axes)))
    room = max(1, max_memory // 3)

    def read(block: Region) -> AnyArray:
        return reader.read(tuple(block[b] for b in back)).transpose(axes)

    if spec.nbytes <= room:
        whole = tuple(slice(0, n, 1) for n in shape)
        yield whole, read(whole)
        return
    size = block_shape(shape, unit, spec.dtype.itemsize, max_memory, share=3)
    if _direct(shape, size, chunk):
        for block in cut_into_blocks(shape, size):
            yield block, read(block)
        return
    chunks = block_shape(shape, chunk, spec.dtype.itemsize, max_memory, share=3)
    with Scratch(shape, spec.dtype, max_memory=0, blocks=chunks) as scratch:
        for block in cut_into_blocks(shape, chunks):
            scratch.write(block, read(block))
        for block in cut_into_blocks(shape, size):
            yield block, scratch.read(block)
