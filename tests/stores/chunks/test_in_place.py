"""Small reads of unencoded chunks in a local HDF5 file against numpy, and against other reads."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    ChangedError,
    ClosedError,
    CorruptDataError,
    MemoryLimitError,
    StorageError,
)
from fmristore_stores.hdf5.files import Session
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.io.stats import stats_of
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import AnyArray

DTYPES = ["i1", "<i2", "<u2", "<f4", "<f8", "<c8"]


def written(path: Path, values: AnyArray, chunks: tuple[int, ...], **options: Any) -> HDF5Store:
    """A file as h5py writes it, of which it is known where all chunks lie."""
    with h5py.File(path, "w") as file:
        file.create_dataset("0", data=values, chunks=chunks, **options)
    return opened(path)


def opened(path: Path) -> HDF5Store:
    store = HDF5Store(str(path), mode="r")
    store.root.array("0").stored()
    return store


def reader(store: HDF5Store, *, in_place: bool = True) -> ChunkReader:
    found = ChunkReader(store.root.array("0"), cache=ChunkCache(0), url=store.url)
    if in_place:
        assert found._reads is not None
    else:
        found._in_place = found._reads = None
    return found


@st.composite
def cases(draw: st.DrawFn) -> tuple[AnyArray, tuple[int, ...], tuple[slice, ...]]:
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple))
    chunks = tuple(draw(st.integers(1, length)) for length in shape)
    starts = [draw(st.integers(0, length)) for length in shape]
    region = tuple(
        slice(start, draw(st.integers(start, length)), draw(st.sampled_from([1, 1, 1, 2])))
        for start, length in zip(starts, shape, strict=True)
    )
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    return values, chunks, region


def steps(values: AnyArray) -> list[int]:
    """Bytes from one element to the next along the axes that have several."""
    return [s for s, n in zip(values.strides, values.shape, strict=True) if n > 1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_regions_are_those_of_other_reads(
    case: tuple[AnyArray, tuple[int, ...], tuple[slice, ...]], tmp_path: Path
) -> None:
    values, chunks, region = case
    with written(tmp_path / f"{uuid.uuid4()}.h5", values, chunks) as store:
        quick, general = reader(store), reader(store, in_place=False)
        with stats_of(store.url).watch() as counted:
            found = quick.read(region)
        with stats_of(store.url).watch() as wanted:
            expected = general.read(region)
        np.testing.assert_array_equal(found, values[region])
        assert found.dtype == expected.dtype
        assert steps(found) == steps(expected)
        assert found.flags.writeable
        assert counted.counts == wanted.counts
        if found.size:
            found[...] = 0
            np.testing.assert_array_equal(quick.read(region), values[region])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), data=st.data())
def test_points_are_those_of_other_reads(
    case: tuple[AnyArray, tuple[int, ...], tuple[slice, ...]], data: st.DataObject, tmp_path: Path
) -> None:
    values, chunks, region = case
    axes = tuple(data.draw(st.permutations(range(values.ndim))))
    axes = axes[: data.draw(st.integers(1, values.ndim))]
    others = [axis for axis in range(values.ndim) if axis not in axes]
    rest = tuple(slice(region[a].start, region[a].stop, 1) for a in others)
    point = st.tuples(*(st.integers(0, values.shape[axis] - 1) for axis in axes))
    points = np.array(data.draw(st.lists(point, min_size=1, max_size=12)))
    with written(tmp_path / f"{uuid.uuid4()}.h5", values, chunks) as store:
        found = reader(store).read_points(axes, points, rest)
        expected = reader(store, in_place=False).read_points(axes, points, rest)
        np.testing.assert_array_equal(found, expected)
        along = values.transpose(*axes, *others)[(*points.T, *rest)]
        np.testing.assert_array_equal(found, along)
        assert found.flags.writeable


VALUES = np.arange(30 * 30 * 30 * 40, dtype="i2").reshape(30, 30, 30, 40)
SERIES = np.s_[3:4:1, 4:5:1, 5:6:1, 0:40:1]
PATCH = np.s_[8:15:1, 8:15:1, 8:15:1, 0:40:1]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    written(tmp_path / "a.h5", VALUES, (10, 10, 10, 40)).close()
    return tmp_path / "a.h5"


def count_peeks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of what is read in place, and number of places."""
    found: list[int] = []
    for name in ("peek", "peek_many"):
        plain = getattr(Session, name)

        def noted(*arguments: Any, plain: Callable[..., Any] = plain) -> Any:
            result = plain(*arguments)
            if result:
                found.append(len(arguments[2]) if result is True else len(result))
            return result

        monkeypatch.setattr(Session, name, noted)
    return found


@pytest.mark.parametrize(
    ("region", "pieces"),
    [
        (SERIES, [80]),
        (np.s_[0:10:1, 10:20:1, 20:30:1, 0:40:1], [80_000]),
        (PATCH, None),
        (np.s_[0:30:2, 4:5:1, 5:6:1, 0:40:1], []),
        (np.s_[0:0:1, 4:5:1, 5:6:1, 0:40:1], []),
    ],
    ids=["series", "chunk", "patch", "steps", "nothing"],
)
def test_what_is_read_in_place(
    path: Path, region: Any, pieces: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    peeks = count_peeks(monkeypatch)
    with opened(path) as store:
        np.testing.assert_array_equal(reader(store).read(region), VALUES[region])
    assert len(peeks) == 8 if pieces is None else peeks == pieces


def test_points_cost_what_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peeks = count_peeks(monkeypatch)
    points = np.argwhere(np.ones((4, 4, 4)))
    with opened(path) as store:
        read = reader(store)
        with stats_of(store.url).watch() as counted:
            found = read.read_points((0, 1, 2), points)
        cost = read.cost_points((0, 1, 2), points)
    np.testing.assert_array_equal(found, VALUES[tuple(points.T)])
    assert peeks == [64]
    assert (cost.requests, cost.fetched_bytes) == (64, 64 * 80)
    assert (counted.requests, counted.bytes_fetched) == (64, 64 * 80)
    assert counted.chunks == cost.chunks == 1


def test_not_before_it_is_known_where_chunks_lie(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peeks = count_peeks(monkeypatch)
    with HDF5Store(str(path), mode="r") as store:
        np.testing.assert_array_equal(reader(store).read(SERIES), VALUES[SERIES])
    assert peeks == []


def test_not_where_a_chunk_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peeks = count_peeks(monkeypatch)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("0", (20, 20), "i2", chunks=(10, 10), fillvalue=-7)[:10] = 1
    with opened(tmp_path / "a.h5") as store:
        found = reader(store).read(np.s_[9:11:1, 0:2:1])
    assert found.tolist() == [[1, 1], [-7, -7]]
    assert peeks == []


READS: dict[str, Callable[[ChunkReader], object]] = {
    "one chunk": lambda read: read.read(SERIES),
    "chunks": lambda read: read.read(PATCH),
    "points": lambda read: read.read_points((0, 1, 2), np.array([[1, 2, 3], [11, 2, 3]])),
}


@pytest.fixture(params=READS)
def work(request: pytest.FixtureRequest) -> Callable[[ChunkReader], object]:
    """One read."""
    return READS[request.param]


def test_a_closed_store_is_not_read(path: Path, work: Callable[[ChunkReader], object]) -> None:
    with opened(path) as store:
        read = reader(store)
    with pytest.raises(ClosedError):
        work(read)


def test_a_file_that_is_written_over_is_seen(
    path: Path, work: Callable[[ChunkReader], object]
) -> None:
    with opened(path) as store:
        read = reader(store)
        work(read)
        with path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"more")
        with pytest.raises(ChangedError):
            work(read)


def test_a_file_that_is_cut_off_is_seen(path: Path, work: Callable[[ChunkReader], object]) -> None:
    with opened(path) as store:
        read = reader(store)
        os.truncate(path, 5000)
        with pytest.raises((ChangedError, CorruptDataError)):
            work(read)


def test_a_disk_that_fails_is_named(
    path: Path, work: Callable[[ChunkReader], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    with opened(path) as store:
        read = reader(store)
        monkeypatch.setattr(os, "pread", failing)
        monkeypatch.setattr(os, "preadv", failing)
        with pytest.raises(StorageError, match="Input/output error"):
            work(read)


def test_chunks_that_are_too_large_are_refused(
    path: Path, work: Callable[[ChunkReader], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as store:
        read = reader(store)
        monkeypatch.setattr(LIMITS, "chunk", 1000)
        with pytest.raises(MemoryLimitError):
            work(read)
