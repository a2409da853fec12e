"""The conformance suite over every store and every wrapper."""

from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import zarr

from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.protocol import AnyArray, Store
from fmristore_stores.spec import STRING
from fmristore_stores.testing import Mode, StoreTests
from fmristore_stores.testing.memory import MemoryStore
from fmristore_stores.testing.wrappers import CountingStore, LatencyStore, ReadOnlyStore
from fmristore_stores.zarr.store import ZarrStore


class MemoryBacked(StoreTests):
    """Stores in memory, kept per test so that they can be opened again."""

    @pytest.fixture(autouse=True)
    def _stores(self) -> None:
        self.opened: dict[Path, MemoryStore] = {}

    def open_store(self, folder: Path, mode: Mode) -> Store:
        if mode == "w":
            self.opened[folder] = MemoryStore()
        return self.opened[folder].view(readonly=mode == "r")


@pytest.mark.once
class TestMemory(MemoryBacked):
    """Ours alone: nothing of another library is behind it."""


class TestHDF5(StoreTests):
    """A local file."""

    def open_store(self, folder: Path, mode: Mode) -> Store:
        return HDF5Store(str(folder / "store.h5"), mode=mode)

    def peek(self, folder: Path, path: str) -> AnyArray | None:
        with h5py.File(folder / "store.h5") as file:
            dataset = file[path]
            if h5py.check_string_dtype(dataset.dtype):
                return np.asarray(dataset.asstr()[...], STRING)
            return np.asarray(dataset[...])


class TestZarr(StoreTests):
    """A local directory."""

    def open_store(self, folder: Path, mode: Mode) -> Store:
        return ZarrStore(str(folder / "store.zarr"), mode=mode)

    def peek(self, folder: Path, path: str) -> AnyArray | None:
        array = zarr.open_array(folder / "store.zarr", path=path, mode="r")
        return np.asarray(array[...], STRING if array.dtype.kind == "T" else array.dtype)


class TestZarrOnFsspec(StoreTests):
    """A filesystem of fsspec, as object storage is reached."""

    def open_store(self, folder: Path, mode: Mode) -> Store:
        return ZarrStore(f"{folder}/store.zarr", mode=mode, fs=fsspec.filesystem("memory"))


# Wrappers, over the store in memory alone: what they hand on does not depend on the store behind
# them, and their own tests are in test_wrappers.py.


@pytest.mark.wrapped
class TestReadOnly(MemoryBacked):
    """Opened for reading, it stands around a store that could be written."""

    def open_store(self, folder: Path, mode: Mode) -> Store:
        inner = super().open_store(folder, "r+" if mode == "r" else mode)
        return ReadOnlyStore(inner) if mode == "r" else inner


@pytest.mark.wrapped
class TestCounting(MemoryBacked):
    def open_store(self, folder: Path, mode: Mode) -> Store:
        return CountingStore(super().open_store(folder, mode))


@pytest.mark.wrapped
class TestLatency(MemoryBacked):
    def open_store(self, folder: Path, mode: Mode) -> Store:
        return LatencyStore(super().open_store(folder, mode), 0)
