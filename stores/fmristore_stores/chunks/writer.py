"""Parallel writing: chunks are encoded on worker threads and stored as they are."""

from __future__ import annotations

import itertools
import math
import operator
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fmristore_stores.chunks.threads import for_each, worker_count
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.grid import (
    ChunkKey,
    Region,
    chunk_region,
    grid_shape,
    parse_region,
    region_shape,
)
from fmristore_stores.protocol import AnyArray, Array, Buffer, Capability, RawWrite
from fmristore_stores.spec import ArraySpec

__all__ = ["encode_chunk", "unit_chunks", "units_of", "write"]


def units_of(region: Region, spec: ArraySpec) -> list[ChunkKey] | None:
    """Write units (shards, or chunks) that a region consists of, None if it cuts through one."""
    spans = []
    for part, length, unit in zip(region, spec.shape, spec.layout.units, strict=True):
        if part.step != 1 or part.start % unit or (part.stop % unit and part.stop != length):
            return None
        spans.append(range(part.start // unit, -(-part.stop // unit)))
    return list(itertools.product(*spans))


def unit_chunks(unit: ChunkKey, spec: ArraySpec) -> list[ChunkKey | None]:
    """Chunks of a write unit, last axis fastest; None where the unit reaches beyond the array."""
    layout = spec.layout
    if layout.shards is None:
        return [unit]
    inner = tuple(u // c for u, c in zip(layout.units, layout.chunks, strict=True))
    grid = grid_shape(spec.shape, layout.chunks)
    spans = [range(u * n, (u + 1) * n) for u, n in zip(unit, inner, strict=True)]
    keys = itertools.product(*spans)
    if all(span.stop <= g for span, g in zip(spans, grid, strict=True)):
        return list(keys)
    return [key if all(map(operator.lt, key, grid)) else None for key in keys]


def encode_chunk(spec: ArraySpec, values: AnyArray) -> Buffer:
    """Encode the part of a chunk that lies inside the array, padded with the fill value.

    Parameters
    ----------
    spec : ArraySpec
        The array's spec.
    values : ndarray
        Axes as in the spec; no longer than the chunk along any axis.
    """
    axes = spec.layout.axes
    inside = values.transpose(axes)
    shape = tuple(spec.layout.chunks[a] for a in axes)
    if inside.shape == shape:
        return codecs.encode(spec.codecs, np.ascontiguousarray(inside, spec.dtype))
    padded = np.full(shape, spec.fill, spec.dtype)
    padded[tuple(slice(0, n) for n in inside.shape)] = inside
    return codecs.encode(spec.codecs, padded)


def write(
    array: Array,
    region: Region | None,
    values: Any,
    *,
    observe: Callable[[ChunkKey, AnyArray], None] | None = None,
) -> None:
    """Write a region, in parallel where it consists of whole write units.

    Parameters
    ----------
    array : Array
        Of any store, opened for writing.
    region : tuple of slice, optional
        One slice per axis; everything by default.
    values : array_like
        Broadcastable to the region's shape; converted to the array's dtype as by numpy.
    observe : callable, optional
        Called with the position of each chunk in the grid and its values, from any thread; the
        region must consist of whole chunks then.

    Raises
    ------
    SelectionError
        If the region does not fit the array.
    InvalidInputError
        If the values cannot be converted or broadcast; nothing changes then.

    Notes
    -----
    Holds the encoded chunks of the shards in work besides `values`. A region that cuts through a
    chunk or shard goes through the store's own library, which reads and rewrites it.
    """
    spec = array.spec
    region = parse_region(region, spec.shape)
    units = units_of(region, spec) if _raw(array) else None
    if units is None or not spec.shape:
        array.write(region, values)
        if observe is not None:
            values = _converted(array, region, values)
            whole = replace(spec, layout=replace(spec.layout, shards=None))
            for key in units_of(region, whole) or ():
                observe(key, values[_inside(key, region, spec)])
        return
    values = _converted(array, region, values)
    raw = cast("RawWrite", array)

    def jobs() -> Iterator[tuple[_Unit, int]]:
        for unit in units:
            parts = _Unit(unit, spec)
            for number in parts.numbers:
                yield parts, number

    def work(job: tuple[_Unit, int]) -> None:
        parts, number = job
        key = parts.keys[number]
        assert key is not None
        inside = values[_inside(key, region, spec)]
        if observe is not None:
            observe(key, inside)
        if parts.put(number, encode_chunk(spec, inside)):
            raw.write_encoded(parts.unit, parts.encoded)
            parts.encoded = []

    count = len(units) * math.prod(spec.layout.units) // math.prod(spec.layout.chunks)
    for_each(work, jobs(), workers=min(count, worker_count()))


def _converted(array: Array, region: Region, values: Any) -> AnyArray:
    """Values of the array's type and the region's shape."""
    dtype, shape = array.spec.dtype, region_shape(region)
    try:
        return np.broadcast_to(np.asarray(values).astype(dtype, copy=False), shape)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"the values do not fit a region of {dtype}{shape}: {error}"
        raise InvalidInputError(msg, node=array.path) from error


def _inside(key: ChunkKey, region: Region, spec: ArraySpec) -> Region:
    """Place of a chunk in a region that it is a part of."""
    chunk = chunk_region(key, spec.shape, spec.layout.chunks)
    return tuple(
        slice(c.start - r.start, c.stop - r.start) for c, r in zip(chunk, region, strict=True)
    )


def _raw(array: Array) -> bool:
    return Capability.RAW_WRITE in array.capabilities and codecs.supported(array.spec.codecs)


class _Unit:
    """A write unit while its chunks are being encoded."""

    def __init__(self, unit: ChunkKey, spec: ArraySpec) -> None:
        self.unit = unit
        self.keys = unit_chunks(unit, spec)
        self.numbers = [n for n, key in enumerate(self.keys) if key is not None]
        self.encoded: list[Buffer | None] = [None] * len(self.keys)
        self._left = len(self.numbers)
        self._lock = threading.Lock()

    def put(self, number: int, data: Buffer) -> bool:
        """Take an encoded chunk; True if it was the last one of the unit."""
        with self._lock:
            self.encoded[number] = data
            self._left -= 1
            return self._left == 0
