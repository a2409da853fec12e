"""The conformance suite that any store must pass; needs pytest and hypothesis.

Subclass `StoreTests` in a test module and say how to open the store::

    class TestMyStore(StoreTests):
        def open_store(self, folder: Path, mode: Mode) -> Store:
            return MyStore(folder / "store", mode)

and the same for `StoreMachine`, which compares long random histories with `MemoryStore`::

    class MyStoreMachine(StoreMachine):
        open_store = TestMyStore.open_store

    TestMyStoreHistories = MyStoreMachine.TestCase

A capability that the store lacks is not skipped: the suite checks that the store says so with the
right error.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "fmristore_stores.testing.arrays",
    "fmristore_stores.testing.chunks",
    "fmristore_stores.testing.compare",
    "fmristore_stores.testing.machine",
    "fmristore_stores.testing.modes",
    "fmristore_stores.testing.tree",
)

from fmristore_stores.testing.arrays import ArrayTests  # noqa: E402  after the registration
from fmristore_stores.testing.base import Mode  # noqa: E402
from fmristore_stores.testing.chunks import ChunkTests  # noqa: E402
from fmristore_stores.testing.machine import StoreMachine  # noqa: E402
from fmristore_stores.testing.modes import ModeTests  # noqa: E402
from fmristore_stores.testing.tree import AttributeTests, TreeTests  # noqa: E402

__all__ = ["Mode", "StoreMachine", "StoreTests"]


class StoreTests(TreeTests, AttributeTests, ArrayTests, ModeTests, ChunkTests):
    """Everything that a store must do, as one class to subclass.

    A subclass defines `open_store`, and `peek` where another library can read the store.
    """
