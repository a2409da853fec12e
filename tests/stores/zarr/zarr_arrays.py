"""Arrays, layouts and ways of reading that the tests of Zarr stores share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.grid import chunk_region, grid_shape
from fmristore_stores.protocol import AnyArray, Capability, ChunkRefs
from fmristore_stores.spec import ArraySpec, ChunkLayout
from fmristore_stores.zarr.store import ZarrArray, ZarrStore

DTYPES = ["bool", "float16", "float32", "float64", "complex64", "complex128"]
DTYPES += [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
LAYOUTS = {
    "plain": ChunkLayout(chunks=(4, 4, 2)),
    "transposed": ChunkLayout(chunks=(4, 4, 2), order=(2, 0, 1)),
    "sharded": ChunkLayout(chunks=(4, 4, 2), shards=(8, 8, 4)),
    "both": ChunkLayout(chunks=(4, 4, 2), shards=(8, 8, 4), order=(1, 2, 0)),
}
SHAPE = (9, 10, 5)


def random_values(dtype: str, shape: tuple[int, ...] = SHAPE) -> AnyArray:
    rng = np.random.default_rng(7)
    if dtype == "bool":
        return rng.random(shape) > 0.5
    numbers = rng.integers(0, 100, shape).astype(dtype)
    return (
        numbers + numbers.dtype.type(1j) * numbers[::-1] if numbers.dtype.kind == "c" else numbers
    )


def decoded(array: ChunkRefs) -> AnyArray:
    """The whole array, by its references and our own codecs."""
    assert Capability.CHUNK_REFS in array.capabilities
    spec = array.spec
    out = np.full(spec.shape, spec.fill, spec.dtype)
    keys = list(np.ndindex(*grid_shape(spec.shape, spec.layout.chunks)))
    for key, ref in zip(keys, array.refs(keys), strict=True):
        if ref is None:
            continue
        raw = codecs.decode(spec.codecs, array.fetch([ref.range])[0], spec.chunk_nbytes)
        axes = spec.layout.axes
        stored = np.frombuffer(raw, spec.dtype).reshape([spec.layout.chunks[a] for a in axes])
        region = chunk_region(key, spec.shape, spec.layout.chunks)
        inside = tuple(slice(0, part.stop - part.start) for part in region)
        out[region] = stored.transpose(np.argsort(axes))[inside]
    return out


def encoded(spec: ArraySpec, values: AnyArray, key: tuple[int, ...]) -> bytes:
    """One chunk as `write_encoded` takes it, padded with zeros."""
    chunk = np.zeros(spec.layout.chunks, spec.dtype)
    region = chunk_region(key, spec.shape, spec.layout.chunks)
    chunk[tuple(slice(0, part.stop - part.start) for part in region)] = values[region]
    stored = np.ascontiguousarray(chunk.transpose(spec.layout.axes))
    return bytes(codecs.encode(spec.codecs, stored))


def make(dtype: str = "int16", layout: str = "plain", **fields: Any) -> ArraySpec:
    kind = np.dtype(dtype)
    arguments: dict[str, Any] = {
        "shape": SHAPE,
        "dtype": kind,
        "dims": ("z", "y", "x"),
        "layout": LAYOUTS[layout],
        "codecs": codecs.preset("dual", kind),
    }
    return ArraySpec(**(arguments | fields))


def reopened(folder: Path, path: str) -> ZarrArray:
    return ZarrStore(str(folder)).root.array(path)
