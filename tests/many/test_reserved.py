"""One store that many processes write, and that is published at once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs

import fmristore as fs
from fmristore.planning import layout
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    InvalidInputError,
    LayoutNotSupportedError,
    MemoryLimitError,
    RunsError,
    StorageError,
)
from tests.conftest import S3Server
from tests.images import snapshot
from tests.many import calls

SHAPE = (6, 5, 4, 18)
WHOLE = tuple(slice(0, n, 1) for n in SHAPE)
RUN = calls.ramp(WHOLE)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
GIVEN: Any = {"shape": SHAPE, "dtype": "i2", "space": AFFINE, "tr": 0.5, "access": "volume"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of five volumes, so that a small run has four of them."""
    monkeypatch.setattr(
        layout, "shard_shape", lambda _, chunks, __: (5, *chunks[1:]) if chunks[0] == 1 else None
    )


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def times(start: int, stop: int) -> tuple[slice, ...]:
    return (*WHOLE[:3], slice(start, stop, 1))


def test_regions_are_written_in_any_order_and_published_at_once(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    url = tmp_path / "big.ome.zarr"
    with fs.reserve(url, **GIVEN, metadata={"task": "rest"}) as new:
        assert new.unit == (6, 5, 4, 5)
        assert new.regions() == [times(0, 5), times(5, 10), times(10, 15), times(15, 18)]
        assert new.write(times(15, 18), RUN[..., 15:]) == RUN[..., 15:].nbytes
        copy = pickle.loads(pickle.dumps(new))
        copy.write(times(0, 10), RUN[..., :10])
        with pytest.raises(ClosedError, match="another process"):
            copy.publish()
        copy.discard()
        with pytest.raises(StorageError, match=r"5 of 18 chunks .* \[0:6, 0:5, 0:4, 10:11\]"):
            new.publish()
        assert not url.exists()
        report = new.fill(calls.ramp, regions=[times(10, 15)], executor=pool)
        assert report.ok
        with new.publish(executor=pool) as run:
            np.testing.assert_array_equal(run[...], RUN)
            assert run.digest == run.compute_digest()
            assert (run.tr, run.metadata["task"], run.access) == (0.5, "rest", "volume")
            assert run.root_attributes["value_range"] == [RUN.min(), RUN.max()]
        with pytest.raises(ClosedError):
            new.publish()
    assert fs.verify(url, deep=True).ok
    assert [path.name for path in tmp_path.iterdir()] == [url.name]


def test_it_is_the_store_that_one_process_makes(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with fs.NeuroVec.create(
        RUN, tmp_path / "one.zarr", space=AFFINE, tr=0.5, access="volume"
    ) as one:
        with fs.reserve(tmp_path / "many.zarr", **GIVEN) as new:
            new.fill(one.url, executor=pool)
            with new.publish() as many:
                assert many.digest == one.digest
                assert many.spec == one.spec
                assert many.header_bytes == one.header_bytes
        other: Any = {**GIVEN, "shape": (6, 5, 4, 20)}
        with (
            fs.reserve(tmp_path / "other.zarr", **other) as new,
            pytest.raises(RunsError, match="expected an image of"),
        ):
            new.fill(one.url)
    assert not (tmp_path / "other.zarr").exists()


def test_a_worker_that_fails_leaves_nothing(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    fs.NeuroVec.create(RUN + 1, tmp_path / "run.zarr", space=AFFINE).close()
    before = snapshot(tmp_path)
    new = fs.reserve(tmp_path / "run.zarr", **GIVEN, overwrite=True)
    with new, pytest.raises(RunsError, match="4 runs: 3 done, 0 unchanged, 1 failed"):
        new.fill(calls.ramp_but_one, executor=pool)
    assert snapshot(tmp_path) == before
    with fs.reserve(tmp_path / "run.zarr", **GIVEN, overwrite=True) as new:
        new.fill(calls.ramp)
        with new.publish() as run:
            np.testing.assert_array_equal(run[...], RUN)


def test_what_is_refused(tmp_path: Path) -> None:
    for region in (times(0, 4), times(3, 8), (slice(0, 3, 1), *times(0, 5)[1:])):
        with (
            fs.reserve(tmp_path / "a.zarr", **GIVEN) as new,
            pytest.raises(InvalidInputError, match="cuts through a shard: it must begin at"),
        ):
            new.write(region, RUN[region])
    with fs.reserve(tmp_path / "a.zarr", **GIVEN) as new:
        with pytest.raises(InvalidInputError, match="for a region of"):
            new.write(times(0, 5), RUN[..., :4])
        with pytest.raises(InvalidInputError, match="cannot hold"):
            new.write(times(0, 5), RUN[..., :5] + 0.5)
        with pytest.raises(InvalidInputError, match="sent to every worker"):
            new.fill(RUN)
    with pytest.raises(LayoutNotSupportedError, match="one process"):
        fs.reserve(tmp_path / "a.h5", **GIVEN)
    with pytest.raises(InvalidInputError, match="one layout"):
        fs.reserve(tmp_path / "a.zarr", **{**GIVEN, "access": "both"})
    with pytest.raises(InvalidInputError, match="shape is"):
        fs.reserve(tmp_path / "a.zarr", **{**GIVEN, "shape": (3, 4)})
    assert list(tmp_path.iterdir()) == []
    fs.NeuroVec.create(RUN, tmp_path / "a.zarr", space=AFFINE).close()
    with pytest.raises(AlreadyExistsError):
        fs.reserve(tmp_path / "a.zarr", **GIVEN)


def test_a_worker_takes_three_times_its_region(tmp_path: Path) -> None:
    """As it is, encoded, and read back."""
    with fs.reserve(tmp_path / "a.zarr", **GIVEN) as new:
        shard = 5 * 2 * 6 * 5 * 4
        with pytest.raises(MemoryLimitError, match=f"at least {3 * shard} bytes"):
            new.fill(calls.ramp, max_memory=3 * shard - 1)
        assert len(new.fill(calls.ramp, max_memory=3 * shard)) == 4


def test_a_region_that_does_not_read_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmristore.many import reserved as named

    reserved: Any = named
    real = reserved.write

    def wrong(array: Any, region: Any, values: Any) -> None:
        real(array, region, values + 1)

    monkeypatch.setattr(reserved, "write", wrong)
    with (
        fs.reserve(tmp_path / "a.zarr", **GIVEN) as new,
        pytest.raises(StorageError, match="does not read back"),
    ):
        new.write(times(0, 5), RUN[..., :5])


def test_a_volume(tmp_path: Path) -> None:
    given: Any = {"shape": SHAPE[:3], "dtype": "f4", "space": AFFINE}
    with fs.reserve(tmp_path / "map.zarr", **given) as new:
        new.write(WHOLE[:3], RUN[..., 0].astype("f4"))
        with new.publish() as volume:
            assert isinstance(volume, fs.NeuroVol)
            np.testing.assert_array_equal(volume[...], RUN[..., 0])


def test_on_object_storage(s3: S3Server, pool: ThreadPoolExecutor) -> None:
    url = s3.url("big.zarr")
    with fs.reserve(url, **GIVEN, storage_options=s3.options) as new:
        with pytest.raises(RunsError):
            new.fill(calls.ramp_but_one, executor=pool)
        with pytest.raises(fs.errors.FmristoreError):
            fs.open(url, storage_options=s3.options)
    assert s3fs.S3FileSystem(**s3.options).find(s3.bucket) == []
    with fs.reserve(url, **GIVEN, storage_options=s3.options) as new:
        new.fill(calls.ramp, executor=pool)
        with new.publish(executor=pool) as run:
            np.testing.assert_array_equal(run[...], RUN)
    assert fs.verify(url, storage_options=s3.options, deep=True).ok
