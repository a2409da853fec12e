"""What the tests of the HDF5 store share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np

from fmristore_stores.codecs.pipeline import decode
from fmristore_stores.grid import chunk_region, grid_shape
from fmristore_stores.hdf5.store import HDF5Array
from fmristore_stores.protocol import AnyArray, Capability
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec

DEFLATE = (CodecSpec.of("deflate", level=4),)


def spec(
    shape: tuple[int, ...],
    dtype: Any = "i2",
    *,
    chunks: tuple[int, ...] | None = None,
    dims: tuple[str, ...] = (),
    codecs: tuple[CodecSpec, ...] = (),
    fill: Any = None,
    order: tuple[int, ...] = (),
    shards: tuple[int, ...] | None = None,
) -> ArraySpec:
    return ArraySpec(
        shape=shape,
        dtype=np.dtype(dtype),
        dims=dims,
        layout=ChunkLayout(
            chunks=chunks or tuple(max(n, 1) for n in shape), order=order, shards=shards
        ),
        codecs=codecs,
        fill_value=fill,
    )


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )


def by_references(array: HDF5Array) -> AnyArray:
    """The whole array, from the bytes of its chunks."""
    spec = array.spec
    out = np.full(spec.shape, spec.fill, spec.dtype)
    for key in np.ndindex(grid_shape(spec.shape, spec.layout.chunks)):
        (ref,) = array.refs([key])
        if ref is not None:
            (data,) = array.fetch([ref.range])
            chunk = decode(spec.codecs, data, spec.chunk_nbytes, skip=ref.skip)
            region = chunk_region(key, spec.shape, spec.layout.chunks)
            inside = tuple(slice(0, s.stop - s.start) for s in region)
            out[region] = np.frombuffer(chunk, spec.dtype).reshape(spec.layout.chunks)[inside]
    return out


def located(array: HDF5Array) -> bool:
    return Capability.CHUNK_REFS in array.capabilities
