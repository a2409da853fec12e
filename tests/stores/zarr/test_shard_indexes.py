"""Indexes of shards share one room in the process, and are loaded some at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fmristore_stores.chunks.cache import ENTRY_NBYTES
from fmristore_stores.grid import ChunkKey
from fmristore_stores.protocol import ChunkRefs
from fmristore_stores.spec import ArraySpec, ChunkLayout
from fmristore_stores.zarr import shards
from fmristore_stores.zarr.shards import SHARD_INDEXES
from fmristore_stores.zarr.store import ZarrStore

SPEC = ArraySpec(
    shape=(64,), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(2,), shards=(8,)), dims=("x",)
)
INDEX = 4 * 16
KEYS: list[ChunkKey] = [(n,) for n in range(32)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        for name in "abc":
            store.root.create_array(name, SPEC).write(None, np.arange(64, dtype="i2"))
    return tmp_path / "a.zarr"


def test_arrays_share_the_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SHARD_INDEXES.clear()
    monkeypatch.setattr(SHARD_INDEXES, "limit", 10 * (INDEX + ENTRY_NBYTES))
    with ZarrStore(str(folder), mode="r") as store:
        arrays = [cast("ChunkRefs", store.root.array(name)) for name in "abc"]
        first = [array.refs(KEYS) for array in arrays]
        assert SHARD_INDEXES.nbytes == SHARD_INDEXES.limit
        assert [array.refs(KEYS) for array in arrays] == first
        assert len({ref.range.source for refs in first for ref in refs if ref}) == 24


def test_many_indexes_are_loaded_some_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[int] = []
    load = shards.ChunkLocator._load

    def counted(self: Any, units: Any, count: int) -> Any:
        loaded.append(len(list(units)))
        return load(self, units, count)

    SHARD_INDEXES.clear()
    with ZarrStore(str(folder), mode="r") as store:
        expected = cast("ChunkRefs", store.root.array("a")).refs(KEYS)
    monkeypatch.setattr(shards.ChunkLocator, "_load", counted)
    monkeypatch.setattr(shards, "_LOADED", 3 * INDEX)
    with ZarrStore(str(folder), mode="r") as store:
        mixed = [*KEYS[1::2], *KEYS[::2]]
        found = cast("ChunkRefs", store.root.array("a")).refs(mixed)
    assert found == [expected[key[0]] for key in mixed]
    assert loaded == [3, 3, 2]
