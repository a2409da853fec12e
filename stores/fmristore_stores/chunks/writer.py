"""Parallel writing: chunks are encoded on worker threads and stored as they are."""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
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
    shifted,
)
from fmristore_stores.io.memory import CACHE_LINE, aligned, copy_values
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
        return codecs.encode(spec.codecs, _gathered(inside, spec.dtype))
    padded = np.full(shape, spec.fill, spec.dtype)
    padded[tuple(slice(0, n) for n in inside.shape)] = inside
    return codecs.encode(spec.codecs, padded)


def _gathered(values: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    """Values in one piece, copied where they do not lie so."""
    if values.dtype != dtype or values.flags.c_contiguous:
        return np.ascontiguousarray(values, dtype)
    gathered = np.empty(values.shape, dtype)
    copy_values(gathered, (slice(None),) * values.ndim, values, range(values.ndim))
    return gathered


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
    across = _across(values, spec)
    near = contextlib.nullcontext if across is None else _Near(spec.layout.axes[-1])

    def work(row: list[tuple[_Unit, ChunkKey]]) -> None:
        places = [_inside(key, region, spec) for _, key in row]
        together = tuple(slice(a.start, b.stop) for a, b in zip(places[0], places[-1], strict=True))
        start = [part.start for part in together]
        with near(values[together]) as copied:
            for (unit, key), place in zip(row, places, strict=True):
                inside = copied[shifted(place, start)]
                if observe is not None:
                    observe(key, inside)
                if unit.put(key, encode_chunk(spec, inside)):
                    raw.write_encoded(unit.unit, unit.encoded)
                    unit.encoded = []

    count = len(units) * math.prod(spec.layout.units) // math.prod(spec.layout.chunks)
    for_each(work, _rows(units, spec, across), workers=min(count, worker_count()))


def _across(values: AnyArray, spec: ArraySpec) -> int | None:
    """Axis along which values lie side by side in memory, if it is not that of the chunks."""
    apart = [
        (abs(stride), axis)
        for axis, (stride, length) in enumerate(zip(values.strides, values.shape, strict=True))
        if stride and length > 1
    ]
    if not apart or CACHE_LINE % values.itemsize:
        return None
    nearest = min(apart)[1]
    return None if nearest == spec.layout.axes[-1] else nearest


def _rows(
    units: list[ChunkKey], spec: ArraySpec, across: int | None
) -> Iterator[list[tuple[_Unit, ChunkKey]]]:
    """Chunks to encode, those together that are neighbours along an axis, if one is given."""
    if across is None:
        for unit in units:
            parts = _Unit(unit, spec)
            yield from ([(parts, key)] for key in parts.numbers)
        return

    def beside(key: ChunkKey) -> ChunkKey:
        return (*key[:across], *key[across + 1 :])

    def rows(keys: Iterable[ChunkKey]) -> Iterator[list[ChunkKey]]:
        for _, row in itertools.groupby(sorted(keys, key=lambda k: (beside(k), k)), beside):
            yield list(row)

    most = max(1, _ROW_BYTES // (math.prod(spec.layout.chunks) * spec.dtype.itemsize))
    for line in rows(units) if spec.layout.shards is None else ([unit] for unit in units):
        parts_of = {key: parts for parts in (_Unit(u, spec) for u in line) for key in parts.numbers}
        for row in rows(parts_of):
            for first in range(0, len(row), most):
                yield [(parts_of[key], key) for key in row[first : first + most]]


_ROW_BYTES = 2 << 20
"""Bytes of the values of neighbouring chunks that one thread encodes together."""


class _Near:
    """Copies of values in their order in memory, from which an axis is gathered quickly.

    To gather values that lie far apart takes a line of the processor's cache for each, and where
    they are a multiple of 4096 bytes apart, as in images of 64 x 64 voxels, all these lines compete
    for the same few places of the cache. So they lie an odd number of lines apart here.

    Parameters
    ----------
    axis : int
        The one that is gathered.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._rooms: list[AnyArray] = []

    @contextlib.contextmanager
    def __call__(self, values: AnyArray) -> Iterator[AnyArray]:
        """Copy values, into memory that is used again when the block ends."""
        order = sorted(range(values.ndim), key=lambda a: (a != self._axis, -abs(values.strides[a])))
        inside = values.transpose(order)
        size = math.prod(inside.shape[1:])
        pitch = (-(-size * values.itemsize // CACHE_LINE) | 1) * CACHE_LINE
        room = self._room(len(inside) * pitch)
        lines = room[: len(inside) * pitch].view(values.dtype).reshape(len(inside), -1)
        near = lines[:, :size].reshape(inside.shape)
        np.copyto(near, inside)
        yield near.transpose(np.argsort(order))
        self._rooms.append(room)

    def _room(self, nbytes: int) -> AnyArray:
        with contextlib.suppress(IndexError):
            room = self._rooms.pop()
            if room.nbytes >= nbytes:
                return room
        return aligned(nbytes)


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
    return shifted(chunk, [part.start for part in region])


def _raw(array: Array) -> bool:
    return Capability.RAW_WRITE in array.capabilities and codecs.supported(array.spec.codecs)


class _Unit:
    """A write unit while its chunks are being encoded."""

    def __init__(self, unit: ChunkKey, spec: ArraySpec) -> None:
        self.unit = unit
        keys = unit_chunks(unit, spec)
        self.numbers = {key: number for number, key in enumerate(keys) if key is not None}
        self.encoded: list[Buffer | None] = [None] * len(keys)
        self._left = len(self.numbers)
        self._lock = threading.Lock()

    def put(self, key: ChunkKey, data: Buffer) -> bool:
        """Take an encoded chunk; True if it was the last one of the unit."""
        with self._lock:
            self.encoded[self.numbers[key]] = data
            self._left -= 1
            return self._left == 0
