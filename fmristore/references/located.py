"""Places of the encoded chunks of arrays: in an HDF5 file, and in the objects of a Zarr store."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fmristore_stores.errors import CodecError
from fmristore_stores.grid import grid_shape
from fmristore_stores.hdf5.store import HDF5Array
from fmristore_stores.io.location import is_local
from fmristore_stores.protocol import AnyArray, ByteRange, Capability, ChunkRefs
from fmristore_stores.zarr.store import ZarrStore

__all__ = ["Located", "in_hdf5", "in_zarr"]

_MOST_ASKED = 2**22
"""Chunks that are looked for one by one; of more, those that a listing finds are taken."""


class Located(NamedTuple):
    """Places of the chunks of one array."""

    stored: np.dtype[Any]
    """Of the bytes, with their order."""
    rows: AnyArray
    """Number, offset, length and skipped codecs of each: int64, (chunks, 4), by number."""
    places: list[str]
    """Object that each lies in, relative to the store; empty where all lie in one file."""
    fetch: Callable[[str, int, int], bytes]
    """Bytes at a place, offset and length."""


def in_hdf5(array: HDF5Array) -> Located | None:
    """Places in an HDF5 file; None where the data do not lie in it in pieces of their own."""
    found = array.located()
    if found is None:
        return None

    def fetch(_: str, offset: int, length: int) -> bytes:
        return bytes(array.fetch_stored([ByteRange("", offset, length)])[0])

    stored, index = found
    return Located(stored, index.rows, [], fetch)


def in_zarr(store: ZarrStore) -> Callable[[Any], Located | None]:
    """Function that finds places in the objects of a Zarr store, whole or in shards.

    Parameters
    ----------
    store : ZarrStore
        Open for reading.
    """
    place = store.place
    root = f"{(os.path.realpath(place) if is_local(store.url) else place).rstrip('/')}/"

    def find(array: ChunkRefs) -> Located | None:
        if Capability.CHUNK_REFS not in array.capabilities:
            return None
        with array.reading():
            return _find(array, root)

    return find


def _find(array: ChunkRefs, root: str) -> Located:
    spec = array.spec
    grid = grid_shape(spec.shape, spec.layout.chunks)
    count = int(np.prod(grid, dtype=np.int64))
    numbers: Any = np.arange(count) if count <= _MOST_ASKED else array.stored()
    if numbers is None:
        raise CodecError(f"it has {count} chunks, and the server lists none")
    places = np.stack(np.unravel_index(numbers, grid or (1,)), axis=1)[:, : len(grid)]
    refs = array.refs([tuple(key) for key in places.tolist()])
    there = [at for at, ref in enumerate(refs) if ref is not None]
    kept = [ref for ref in refs if ref is not None]
    outside = next((ref for ref in kept if not ref.range.source.startswith(root)), None)
    if outside is not None:
        raise CodecError(f"a chunk lies at {outside.range.source}, which is not below the store")
    axes = spec.layout.axes
    turned = places[there][:, axes] if grid else places[there]
    order = tuple(grid[axis] for axis in axes)
    number = np.ravel_multi_index(tuple(turned.T), order) if grid else np.zeros(len(there))
    rows = np.array(
        [(n, *ref.range[1:], ref.skip) for n, ref in zip(number, kept, strict=True)], np.int64
    ).reshape(-1, 4)
    by_number = np.argsort(rows[:, 0], kind="stable")

    def fetch(at: str, offset: int, length: int) -> bytes:
        return bytes(array.fetch([ByteRange(root + at, offset, length)])[0])

    objects = [kept[at].range.source.removeprefix(root) for at in by_number.tolist()]
    return Located(spec.dtype, rows[by_number], objects, fetch)
