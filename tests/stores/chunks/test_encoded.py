"""Encoded chunks as they lie in a store, and checksums of them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from fmristore_stores.chunks.encoded import Room, checksum, fetch_encoded
from fmristore_stores.chunks.writer import write
from fmristore_stores.codecs.pipeline import preset
from fmristore_stores.io.stats import stats_of
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import ChunkRefs
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout


@pytest.mark.parametrize("kind", ["h5", "zarr"])
@pytest.mark.parametrize("shards", [None, (4, 10)])
def test_memory_is_used_again(tmp_path: Path, kind: str, shards: tuple[int, ...] | None) -> None:
    layout = ChunkLayout(chunks=(2, 5), shards=shards if kind == "zarr" else None)
    kinds = np.dtype("<i4")
    spec = ArraySpec(
        shape=(6, 10), dtype=kinds, layout=layout, codecs=preset("dual", kinds, series=False)
    )
    with create_store(tmp_path / f"a.{kind}") as new:
        array = new.root.create_array("0", spec)
        write(array, None, np.arange(60).reshape(6, 10))
    keys = [(2, 1), (0, 0), (0, 1), (1, 0)]
    room = Room()
    with open_store(tmp_path / f"a.{kind}") as store:
        refs = cast("ChunkRefs", store.root.array("0"))
        fresh = [item for item in fetch_encoded(refs, keys) if item is not None]
        for some in (keys[:1], keys, keys[2:]):
            found = [item for item in fetch_encoded(refs, some, room) if item is not None]
            expected = [fresh[keys.index(key)] for key in some]
            assert [item.ref for item in found] == [item.ref for item in expected]
            assert [bytes(item.data) for item in found] == [bytes(i.data) for i in expected]
            assert [checksum(i.data) for i in found] == [checksum(i.data) for i in expected]
    assert len({checksum(item.data) for item in fresh}) == len(keys)
    assert checksum(None) == bytes(12) != checksum(b"")


def test_chunks_behind_each_other_are_read_at_once(tmp_path: Path) -> None:
    """In whatever order they are asked for."""
    layout, kinds = ChunkLayout(chunks=(2, 5), shards=(4, 10)), np.dtype("<i4")
    spec = ArraySpec(
        shape=(8, 10), dtype=kinds, layout=layout, codecs=preset("dual", kinds, series=False)
    )
    with create_store(tmp_path / "a.zarr") as new:
        write(new.root.create_array("0", spec), None, np.arange(80).reshape(8, 10))
    with open_store(tmp_path / "a.zarr") as store:
        refs, room = cast("ChunkRefs", store.root.array("0")), Room()
        for keys, runs in (
            ([(2, 1), (0, 1), (1, 1), (3, 0), (0, 0), (1, 0), (3, 1), (2, 0)], 2),
            ([(1, 1), (0, 0), (0, 1)], 2),  # (1, 0) lies between them
        ):
            expected = [bytes(item.data) for item in fetch_encoded(refs, keys) if item]
            with stats_of(store.url).watch() as read:
                found = [bytes(item.data) for item in fetch_encoded(refs, keys, room) if item]
            assert found == expected
            assert read.requests == runs
