"""Going through the volumes of runs whose chunks are long in time."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.planning import scratch
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.io.stats import stats_of
from tests.images import AFFINE

SHAPE = (16, 14, 11, 60)
RUN = np.random.default_rng(0).integers(0, 900, SHAPE).astype("i2")


@pytest.fixture(params=["h5", "ome.zarr"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(CHUNK_CACHE, "limit", 0)
    scaled = np.where(np.arange(SHAPE[3]) < 20, 0.5, 2.0)
    with fs.NeuroVec.create(
        RUN, tmp_path / f"a.{request.param}", space=AFFINE, tr=1.0, slope=scaled, access="time"
    ) as made:
        assert made.chunks[3] == SHAPE[3]
        assert made.chunks[:3] != SHAPE[:3]
        yield made


@pytest.mark.parametrize("dtype", [None, "f4"])
@pytest.mark.parametrize("max_memory", [1, 20_000, 1 << 20])
def test_volumes_are_those_of_the_run(run: Any, max_memory: int, dtype: Any) -> None:
    found = list(run.iter_volumes(max_memory=max_memory, dtype=dtype))
    wanted = run.to_numpy(dtype=dtype)
    assert {volume.dtype for volume in found} == {wanted.dtype}
    np.testing.assert_array_equal(np.stack(found, axis=3), wanted)


def test_chunks_are_decoded_once(run: Any) -> None:
    before = stats_of(run.url).bytes_decoded
    for _ in run.iter_volumes(max_memory=1):
        pass
    assert stats_of(run.url).bytes_decoded - before < 3 * RUN.nbytes


def test_without_room_for_a_temporary_file(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")
    for t, volume in enumerate(run.iter_volumes(max_memory=1)):
        np.testing.assert_array_equal(volume, run[..., t])
    assert t == SHAPE[3] - 1


def test_a_disk_that_is_full_half_way(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly, left = scratch.Scratch.write, [1]

    def write(self: Any, region: Any, values: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise fs.errors.StorageError("full")
        plainly(self, region, values)

    monkeypatch.setattr(scratch.Scratch, "write", write)
    found = list(run.iter_volumes(max_memory=1))
    np.testing.assert_array_equal(np.stack(found, axis=3), np.asarray(run))


def test_a_temporary_file_that_cannot_be_read(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> int:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(scratch, "_POSITIONED", True)
    monkeypatch.setattr(os, "preadv", fail, raising=False)
    found = list(run.iter_volumes(max_memory=1))
    monkeypatch.undo()
    np.testing.assert_array_equal(np.stack(found, axis=3), np.asarray(run))


def test_an_error_of_the_store_is_raised_as_it_is(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly, left = ChunkReader.read, [1]

    def read(self: Any, *args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == -1:
            raise fs.errors.StorageError("the server is gone")
        return plainly(self, *args, **options)

    monkeypatch.setattr(ChunkReader, "read", read)
    with pytest.raises(fs.errors.StorageError, match="the server is gone"):
        list(run.iter_volumes(max_memory=1))
    assert left[0] < 0
