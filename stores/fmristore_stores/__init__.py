"""Chunked stores under one interface: HDF5 and Zarr, local and remote, without any fMRI.

`open_store` and `create_store` are the doors; `ChunkReader` and `write` read and write regions in
parallel. What a store, a group and an array can do is said in `fmristore_stores.protocol`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fmristore_stores._version import __version__

if TYPE_CHECKING:
    from fmristore_stores.chunks.cache import CHUNK_CACHE, ChunkCache
    from fmristore_stores.chunks.reader import ChunkReader
    from fmristore_stores.chunks.writer import write
    from fmristore_stores.hdf5.store import HDF5Store
    from fmristore_stores.io.ranges import ReadCost
    from fmristore_stores.opening import Handle, Locator, locate, open_store
    from fmristore_stores.protocol import Array, Capability, Group, Store
    from fmristore_stores.publishing.publish import create_store
    from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout, CodecSpec
    from fmristore_stores.testing.memory import MemoryStore
    from fmristore_stores.testing.wrappers import CountingStore, LatencyStore, ReadOnlyStore
    from fmristore_stores.zarr.store import ZarrStore

__all__ = [
    "CHUNK_CACHE",
    "STRING",
    "Array",
    "ArraySpec",
    "Capability",
    "ChunkCache",
    "ChunkLayout",
    "ChunkReader",
    "CodecSpec",
    "CountingStore",
    "Group",
    "HDF5Store",
    "Handle",
    "LatencyStore",
    "Locator",
    "MemoryStore",
    "ReadCost",
    "ReadOnlyStore",
    "Store",
    "ZarrStore",
    "__version__",
    "create_store",
    "locate",
    "open_store",
    "write",
]

_HOME = {
    "CHUNK_CACHE": "chunks.cache",
    "STRING": "spec",
    "Array": "protocol",
    "ArraySpec": "spec",
    "Capability": "protocol",
    "ChunkCache": "chunks.cache",
    "ChunkLayout": "spec",
    "ChunkReader": "chunks.reader",
    "CodecSpec": "spec",
    "CountingStore": "testing.wrappers",
    "Group": "protocol",
    "HDF5Store": "hdf5.store",
    "Handle": "opening",
    "LatencyStore": "testing.wrappers",
    "Locator": "opening",
    "MemoryStore": "testing.memory",
    "ReadCost": "io.ranges",
    "ReadOnlyStore": "testing.wrappers",
    "Store": "protocol",
    "ZarrStore": "zarr.store",
    "create_store": "publishing.publish",
    "locate": "opening",
    "open_store": "opening",
    "write": "chunks.writer",
}


def __getattr__(name: str) -> Any:
    """Import on first use: h5py and zarr are loaded only by what needs them."""
    if name not in _HOME:
        raise AttributeError(f"module 'fmristore_stores' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"fmristore_stores.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
