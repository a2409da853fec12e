"""Long random histories of every store against the store in memory."""

from __future__ import annotations

from pathlib import Path

from hypothesis import settings

from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.protocol import Store
from fmristore_stores.testing import Mode, StoreMachine
from fmristore_stores.zarr.store import ZarrStore

MODEST = settings(
    max_examples=max(5, settings().max_examples // 4), stateful_step_count=25, deadline=None
)


class HDF5Machine(StoreMachine):
    def open_store(self, folder: Path, mode: Mode) -> Store:
        return HDF5Store(str(folder / "store.h5"), mode=mode)


class ZarrMachine(StoreMachine):
    def open_store(self, folder: Path, mode: Mode) -> Store:
        return ZarrStore(str(folder / "store.zarr"), mode=mode)


TestHDF5Histories = HDF5Machine.TestCase
TestHDF5Histories.settings = MODEST

TestZarrHistories = ZarrMachine.TestCase
TestZarrHistories.settings = MODEST
