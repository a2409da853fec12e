"""Reads in place through images that are not compressed, against numpy."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fmristore as fs
from fmristore_stores import opening
from fmristore_stores.chunks import in_place
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import ChangedError, ClosedError, MemoryLimitError, SelectionError
from fmristore_stores.io.stats import stats_of
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import AnyArray

RUN = np.random.default_rng(0).integers(-99, 99, (24, 20, 16, 30)).astype("i2")
VOXELS = np.argwhere(RUN[..., 0] > 90)[:30]


def stored(path: Path, **options: Any) -> fs.NeuroVec:
    """A run of which it is known where all chunks of all copies lie."""
    fs.NeuroVec.create(RUN, path, space=np.eye(4), codec="none", **options).close()
    image = fs.open(path, format="neurovec")
    know_places(image)
    return image


def know_places(image: fs.NeuroVec) -> None:
    """Do what some dozens of reads do."""
    _ = image[1, 2, 3]
    for array in image._replicas.arrays:
        array.reader.array.stored()  # type: ignore[attr-defined]


@pytest.fixture(params=["time", "volume", "balanced", "both"], name="image")
def _image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[fs.NeuroVec]:
    with stored(tmp_path / "a.h5", access=request.param) as image:
        yield image


@pytest.fixture(name="run")
def _run(tmp_path: Path) -> Iterator[fs.NeuroVec]:
    with stored(tmp_path / "a.h5", access="both") as image:
        yield image


@pytest.fixture
def only_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all other reads of arrays fail."""

    def read(*_: object, **__: object) -> AnyArray:
        raise AssertionError("this is not read in place")

    monkeypatch.setattr(ChunkReader, "read", read)
    monkeypatch.setattr(ChunkReader, "read_points", read)


@st.composite
def indices(draw: st.DrawFn) -> Any:
    """An index as users write it: whole numbers, slices, '...', fewer entries than axes."""
    count = draw(st.integers(1, 4))
    last = draw(st.booleans())
    entries: list[Any] = []
    for length in RUN.shape[-count:] if last else RUN.shape[:count]:
        number = st.integers(-length, length - 1)
        bound = st.none() | st.integers(-length - 2, length + 2)
        step = st.sampled_from([None, None, 1, 2, -1])
        part = st.builds(slice, bound, bound, step) | st.just(slice(None))
        entries.append(draw(number | number.map(np.int64) | part))
    if last:
        entries.insert(0, ...)
    elif draw(st.booleans()):
        entries.append(...)
    return entries[0] if len(entries) == 1 else tuple(entries)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=indices())
def test_indices_are_those_of_numpy(image: fs.NeuroVec, index: Any) -> None:
    found, expected = image[index], RUN[index]
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    if found.ndim:
        assert found.flags.writeable
        found[...] = 0
        np.testing.assert_array_equal(image[index], expected)


@pytest.mark.parametrize(
    "index",
    [
        np.s_[1, 2, 3],
        np.s_[-1, np.int64(2), 3, :],
        np.s_[..., 3],
        np.s_[:, :, :, -1],
        np.s_[3:9, 3:9, 3:9],
        np.s_[..., 4:9],
        np.s_[...],
    ],
    ids=str,
)
def test_which_reads_are_in_place(run: fs.NeuroVec, index: Any, only_in_place: None) -> None:
    np.testing.assert_array_equal(run[index], RUN[index])


def test_chunks_in_any_order_in_the_file(
    run: fs.NeuroVec, only_in_place: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = run._replicas.in_place(run._handle)
    assert reads is not None
    array = reads._arrays[0]  # the copy for volumes
    places = array._find_places()
    assert places is not None
    file, offsets = places
    assert len(offsets) == 30
    order = [*range(5), 7, 6, 5, *range(8, 30)]
    moved = np.asarray(offsets)[order].data
    monkeypatch.setattr(array, "_places", (file, moved))
    np.testing.assert_array_equal(run[..., 1:20], RUN[..., order[1:20]])
    np.testing.assert_array_equal(run[..., 3:7], RUN[..., order[3:7]])


@pytest.mark.parametrize(
    "index",
    [
        np.s_[1.0:4, 2, 3],
        np.s_["a":"b", 2, 3],
        np.s_[:: np.array([1, 1]), 2, 3],
        np.s_[np.array([1, 2]) :, 2, 3],
        np.s_[True, 2, 3],
        np.s_[1, 2, 99],
        np.s_[1, 2, 3, 4, 5],
        np.s_[..., 1, ...],
    ],
    ids=str,
)
def test_what_is_no_index(run: fs.NeuroVec, index: Any) -> None:
    with pytest.raises(SelectionError):
        run[index]


@pytest.mark.parametrize("slope", [0.5, np.linspace(0.5, 2, 30)], ids=["one", "of each volume"])
@pytest.mark.parametrize("dtype", [None, "f4", "f8"])
def test_scaled_values(tmp_path: Path, slope: Any, dtype: Any) -> None:
    with stored(tmp_path / "a.h5", access="both", slope=slope, inter=3.0) as image:
        whole = image.to_numpy()
        assert whole.dtype == image.dtype
        for index in (np.s_[1, 2, 3], np.s_[..., 5], np.s_[2:9, 3:8, 1:4, 3:9]):
            found = image.read(index, dtype=dtype)
            assert found.dtype == np.dtype(dtype or image.dtype)
            np.testing.assert_allclose(found, whole[index], rtol=1e-5)
            raw = image.read(index, raw=True, dtype=dtype)
            assert raw.dtype == np.dtype(dtype or "i2")
            np.testing.assert_array_equal(raw, RUN[index])
        series = image.series(VOXELS, dtype=dtype)
        assert series.dtype == np.dtype(dtype or image.dtype)
        np.testing.assert_allclose(series, whole[tuple(VOXELS.T)].T, rtol=1e-5)


def test_series(run: fs.NeuroVec, only_in_place: None) -> None:
    with stats_of(run.url).watch() as counted:
        found = run.series(VOXELS)
    np.testing.assert_array_equal(found, RUN[tuple(VOXELS.T)].T)
    assert (counted.requests, counted.bytes_fetched) == (len(VOXELS), len(VOXELS) * 60)
    found[...] = 0  # it is the caller's own
    np.testing.assert_array_equal(run.series(VOXELS[:1]), RUN[tuple(VOXELS[:1].T)].T)


@pytest.mark.parametrize(
    "voxels",
    [
        VOXELS.astype(np.uint8),
        VOXELS.astype(np.uint64),
        VOXELS.tolist(),
        VOXELS - np.array([24, 20, 16]),
        np.argwhere(RUN[..., 1] > 50)[:500],
        VOXELS[:0],
    ],
    ids=["uint8", "uint64", "lists", "from the end", "many", "none"],
)
def test_series_of_other_voxels(image: fs.NeuroVec, voxels: Any) -> None:
    expected = RUN[tuple(np.asarray(voxels).astype(int).reshape(-1, 3).T)].T
    np.testing.assert_array_equal(image.series(voxels), expected.reshape(30, -1))


@pytest.mark.parametrize("voxel", [[24, 0, 0], [0, -21, 0]])
def test_a_voxel_outside(run: fs.NeuroVec, voxel: list[int]) -> None:
    with pytest.raises(SelectionError, match="outside"):
        run.series(np.array([[1, 2, 3], voxel]))


def test_a_closed_image_beside_an_open_one(tmp_path: Path) -> None:
    with stored(tmp_path / "a.h5") as one, fs.open(one.url, format="neurovec") as other:
        know_places(other)
        one.close()
        for read in (lambda: one[1, 2, 3], lambda: one.series(VOXELS)):
            with pytest.raises(ClosedError):
                read()
        np.testing.assert_array_equal(other[1, 2, 3], RUN[1, 2, 3])


def test_files_are_closed_that_were_not_used_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_MOST_OPEN", 1)
    with stored(tmp_path / "a.h5") as one:
        assert one._replicas.in_place(one._handle) is not None
        assert np.array_equal(one[1, 2, 3], RUN[1, 2, 3])
        with stored(tmp_path / "b.h5") as other:
            assert one._replicas._reads() is None  # nothing keeps the file open
            np.testing.assert_array_equal(one[1, 2, 3], RUN[1, 2, 3])
            np.testing.assert_array_equal(other[1, 2, 3], RUN[1, 2, 3])


def test_pickles_and_children_of_the_process(run: fs.NeuroVec) -> None:
    again = pickle.loads(pickle.dumps(run))
    with again:
        np.testing.assert_array_equal(again[1, 2, 3], RUN[1, 2, 3])
        know_places(again)
        np.testing.assert_array_equal(again[1, 2, 3], RUN[1, 2, 3])
    child = os.fork()
    if not child:
        good = np.array_equal(run[1, 2, 3], RUN[1, 2, 3])
        os._exit(0 if good and np.array_equal(run[..., 2], RUN[..., 2]) else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(run[1, 2, 3], RUN[1, 2, 3])


@pytest.mark.parametrize("index", [np.s_[1, 2, 3], np.s_[..., 3], np.s_[3:9, 3:9, 3:9]], ids=str)
def test_a_file_that_is_written_over(run: fs.NeuroVec, index: Any) -> None:
    assert np.array_equal(run[index], RUN[index])
    with Path(run.url).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    with pytest.raises(ChangedError):
        run[index]
    with pytest.raises(ChangedError):
        run.series(VOXELS)


def test_chunks_that_are_too_large(run: fs.NeuroVec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIMITS, "chunk", 1000)
    for read in (lambda: run[1, 2, 3], lambda: run.series(VOXELS)):
        with pytest.raises(MemoryLimitError):
            read()


def test_large_results_go_other_ways(run: fs.NeuroVec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "INLINE_COPY", 1000)
    np.testing.assert_array_equal(run[..., 4:9], RUN[..., 4:9])
    np.testing.assert_array_equal(run[3:20, 2:11], RUN[3:20, 2:11])


@pytest.mark.parametrize("colours", ["RGB", "RGBA"])
@pytest.mark.parametrize("access", ["time", "volume", "both"])
def test_colours_go_other_ways(tmp_path: Path, colours: str, access: Any) -> None:
    dtype = np.dtype([(name, "u1") for name in colours])
    size = dtype.itemsize * 24 * 20 * 16 * 5
    values = np.arange(size).astype("u1").view(dtype).reshape(24, 20, 16, 5)
    path = tmp_path / "a.h5"
    fs.NeuroVec.create(values, path, space=np.eye(4), access=access, codec="none").close()
    with fs.open(path, format="neurovec") as image:
        for _ in range(2):
            know_places(image)
            np.testing.assert_array_equal(image[1, 2, 3], values[1, 2, 3])
            np.testing.assert_array_equal(image[..., 3], values[..., 3])
            np.testing.assert_array_equal(image.series(VOXELS), values[tuple(VOXELS.T)].T)
