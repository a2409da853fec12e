"""Arrays and their chunks as plain numpy: what a store is expected to hold.

Chunks are taken apart and put together here by plain loops, so that a store and the package's
reader cannot be wrong in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.grid import ChunkKey, Region, chunk_region, grid_shape, parse_region
from fmristore_stores.protocol import AnyArray, ChunkRefs
from fmristore_stores.spec import ArraySpec

__all__ = ["assemble", "chunks_of_unit", "encoded", "full", "keys_of", "part_of"]


def full(spec: ArraySpec) -> AnyArray:
    """The array as it reads before anything was written."""
    return np.full(spec.shape, spec.fill, spec.dtype)


def part_of(values: AnyArray, region: Region | None) -> AnyArray:
    """A region of a numpy array, as a view."""
    index: tuple[Any, ...] = (*parse_region(region, values.shape), ...)
    part: AnyArray = values[index]
    return part


def keys_of(shape: tuple[int, ...]) -> list[ChunkKey]:
    """All positions of a grid, last axis fastest."""
    return list(itertools.product(*map(range, shape)))


def assemble(array: ChunkRefs) -> AnyArray:
    """Read an array through its chunk references, one chunk after the other."""
    spec = array.spec
    values = full(spec)
    axes = spec.layout.axes
    for key in keys_of(grid_shape(spec.shape, spec.layout.chunks)):
        [ref] = array.refs([key])
        if ref is None:
            continue
        [data] = array.fetch([ref.range])
        assert memoryview(data).nbytes == ref.range.length
        raw = codecs.decode(spec.codecs, data, spec.chunk_nbytes, skip=ref.skip)
        stored = np.frombuffer(raw, spec.dtype).reshape([spec.layout.chunks[a] for a in axes])
        chunk = stored.transpose([axes.index(a) for a in range(len(axes))])
        inside = part_of(values, chunk_region(key, spec.shape, spec.layout.chunks))
        inside[...] = part_of(chunk, tuple(slice(0, n) for n in inside.shape))
    return values


def encoded(spec: ArraySpec, values: AnyArray, key: ChunkKey) -> bytes:
    """One chunk of `values` as a store must hold it: whole, in its order, encoded."""
    chunk = np.full(spec.layout.chunks, spec.fill, spec.dtype)
    inside = part_of(values, chunk_region(key, spec.shape, spec.layout.chunks))
    part_of(chunk, tuple(slice(0, n) for n in inside.shape))[...] = inside
    stored = np.ascontiguousarray(chunk.transpose(spec.layout.axes))
    return bytes(codecs.encode(spec.codecs, stored))


def chunks_of_unit(spec: ArraySpec, unit: ChunkKey) -> Iterator[ChunkKey | None]:
    """Keys of the chunks in a shard (or of the one chunk), None for those beyond the array."""
    layout = spec.layout
    inner = tuple(u // c for u, c in zip(layout.units, layout.chunks, strict=True))
    grid = grid_shape(spec.shape, layout.chunks)
    for offset in keys_of(inner):
        key = tuple(u * n + o for u, n, o in zip(unit, inner, offset, strict=True))
        yield key if all(k < g for k, g in zip(key, grid, strict=True)) else None
