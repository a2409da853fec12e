"""Windows of runs of every format, and batches of them."""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.sampling import Batches, Windows
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.errors import InvalidInputError, MemoryLimitError, SelectionError
from fmristore_stores.protocol import AnyArray
from tests.conftest import S3Server
from tests.every_format import LABELS, MASK, RUN, SHAPE, SPACE, WRITERS
from tests.images import make_values, write_nifti

RUNS = ["maskedneurovec", "neurovec", "latentneurovec", "parcellatedscan"]
"""Formats that are one run on a grid."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("windows")


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[Path]:
    """Two runs of other values, stored for volumes, one in each store."""
    paths = [folder / "a.h5", folder / "b.ome.zarr"]
    for number, path in enumerate(paths):
        fs.NeuroVec.create(RUN + number, path, space=SPACE, access="volume").close()
    return paths


def all_values(windows: Windows) -> list[AnyArray]:
    """Values of all windows, by slicing runs in memory."""
    whole = [run.stored.to_numpy() for run in windows.sources]
    found = []
    for number in range(len(windows)):
        run, region = windows.where(number)
        found.append(windows.finish(run, whole[run][region]))
    return found


def check_batches(batches: Batches) -> AnyArray:
    """Every window comes once, with its values; the order of their numbers."""
    expected = all_values(batches.windows)
    seen = []
    for values, numbers in batches:
        assert values.shape == (len(numbers), *batches.windows.shape)
        assert values.dtype == batches.windows.dtype
        for value, number in zip(values, numbers.tolist(), strict=True):
            np.testing.assert_array_equal(value, expected[number])
        seen += numbers.tolist()
    assert sorted(seen) == list(range(len(batches.windows)))
    return np.array(seen)


@pytest.mark.parametrize("ending", [".h5", ".zarr"])
@pytest.mark.parametrize("name", RUNS)
def test_windows_of_every_format(folder: Path, name: str, ending: str) -> None:
    path = folder / f"{name}{ending}"
    stored = WRITERS[name](path)
    with stored, Windows(stored, length=4, stride=3, patch=(3, 5, 2)) as windows:
        whole = stored.to_numpy()
        assert windows.shape == (3, 5, 2, 4)
        assert len(windows) == windows.lattice(0)[0] * 2 * 1 * 2
        place = itertools.product(range(0, stored.shape[3] - 3, 3), (0, 3), (0,), (0, 2))
        for number, (t, x, y, z) in enumerate(place):
            part = whole[x : x + 3, y : y + 5, z : z + 2, t : t + 4]
            np.testing.assert_array_equal(windows[number], part)
        np.testing.assert_array_equal(windows[-1], part)
        with pytest.raises(SelectionError):
            windows[len(windows)]
        check_batches(Batches(windows, batch_size=5, max_memory="1MB"))


@pytest.mark.parametrize("name", ["neurovecseq", "parcellatedmultiscan"])
def test_runs_of_containers_follow_each_other(folder: Path, name: str) -> None:
    stored = WRITERS[name](folder / f"{name}.h5")
    if name == "parcellatedmultiscan":
        with pytest.raises(InvalidInputError, match="t, parcel"):
            Windows(stored, length=4)  # one scan of voxels, one of parcels
        stored.close()
        return
    windows = Windows(stored, length=8)
    stored.close()
    assert len(windows) == 2 + 1
    assert windows.runs[1].endswith("#task")
    np.testing.assert_array_equal(windows[2], windows.sources[1].stored.to_numpy())
    check_batches(Batches(windows, batch_size=2))
    windows.close()


def test_windows_of_parcels_by_name(folder: Path) -> None:
    stored = WRITERS["parcellatedscansummary"](folder / "summary.h5")
    whole = stored.to_numpy()
    with stored, Windows(stored, length=6, stride=2) as windows:
        assert windows.shape == (6, 3)
        np.testing.assert_array_equal(windows[1], whole[2:8])
        check_batches(Batches(windows, batch_size=3))
    with Windows(folder / "summary.h5", length=6, parcels=["Insula", 1]) as windows:
        np.testing.assert_array_equal(windows[0], whole[:6, [2, 0]])
        check_batches(Batches(windows))
    other = folder / "other.h5"
    names = {1: "a", 2: "b", 3: "c"}
    fs.parcellate(RUN, LABELS, other, names=names, space=SPACE).close()
    with pytest.raises(InvalidInputError, match="other parcels"):
        Windows([folder / "summary.h5", other], length=6)


def test_windows_of_the_voxels_of_a_mask(runs: list[Path]) -> None:
    with Windows(runs, length=5, mask=MASK) as windows:
        assert windows.shape == (5, int(MASK.sum()))
        np.testing.assert_array_equal(windows[1], RUN[..., 5:10][MASK].T)
        check_batches(Batches(windows, batch_size=4))
    with pytest.raises(InvalidInputError, match="patches, or"):
        Windows(runs, length=5, mask=MASK, patch=2)


def test_scaled_stored_and_converted_values(folder: Path) -> None:
    path = folder / "scaled.h5"
    fs.NeuroVec.create(RUN, path, space=SPACE, slope=0.5, inter=1.0).close()
    with Windows(path, length=20) as windows, Windows(path, length=20, raw=True) as raw:
        np.testing.assert_array_equal(windows[0], RUN * np.float32(0.5) + 1)
        np.testing.assert_array_equal(raw[0], RUN)
        assert raw.dtype == np.int16
    with Windows(path, dtype=np.float64) as windows:
        assert next(iter(Batches(windows))).values.dtype == np.float64


def test_what_has_no_windows_is_refused_by_name(folder: Path, runs: list[Path]) -> None:
    write_nifti(folder / "run.nii.gz", RUN)
    with pytest.raises(InvalidInputError, match=r"run\.nii\.gz.*NIfTI|NIfTI") as refused:
        Windows([runs[0], folder / "run.nii.gz"], length=4)
    assert "fmristore.convert" in str(refused.value)
    for name in ("neurovol", "labeledvolumeset"):
        with (
            WRITERS[name](folder / f"no-{name}.h5") as stored,
            pytest.raises(InvalidInputError, match="no windows in time"),
        ):
            Windows(stored, length=4)
    with pytest.raises(InvalidInputError, match="ndarray"):
        Windows([RUN], length=4)
    short = folder / "short.h5"
    fs.NeuroVec.create(RUN[..., :3], short, space=SPACE.with_time(3, tr=1.5)).close()
    with pytest.raises(InvalidInputError, match=r"short\.h5"):
        Windows([runs[0], short], length=4)
    for wrong in ({"length": 0}, {"length": 2.5}, {"length": 4, "patch": (2, 2)}, {"patch": 9}):
        with pytest.raises(InvalidInputError):
            Windows(runs, **wrong)
    with pytest.raises(InvalidInputError, match="at least one run"):
        Windows([])


# Batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("memory", ["60kB", "10MB"])
def test_batches_hold_every_window_once(
    runs: list[Path], size: int, memory: str, *, shuffle: bool
) -> None:
    with Windows(runs, length=4, stride=3, patch=(4, 5, 4)) as windows:
        try:
            batches = Batches(windows, batch_size=size, shuffle=shuffle, max_memory=memory)
        except MemoryLimitError:
            assert (size, memory) == (50, "60kB")
            return
        order = check_batches(batches)
        assert len(batches) == -(-len(windows) // size)
        if not shuffle:
            assert order.tolist() == list(range(len(windows)))
            return
        again = Batches(windows, batch_size=size, max_memory=memory)
        assert check_batches(again).tolist() == order.tolist()
        assert check_batches(again).tolist() != order.tolist()  # the next epoch
        other = Batches(windows, batch_size=size, max_memory=memory, seed=1)
        assert check_batches(other).tolist() != order.tolist()


@pytest.mark.parametrize("memory", ["40kB", "10MB"])
def test_batches_of_runs_that_are_stored_in_different_ways(tmp_path: Path, memory: str) -> None:
    """Scaled integers, values that are stored as they are, and a format without a grid."""
    paths = [tmp_path / name for name in ("integers.h5", "floats.ome.zarr", "masked.zarr")]
    fs.NeuroVec.create(RUN, paths[0], space=SPACE, slope=0.5, inter=1.0).close()
    fs.NeuroVec.create(RUN.astype("f4"), paths[1], space=SPACE, access="volume").close()
    fs.MaskedNeuroVec.create(RUN.astype("f4"), paths[2], mask=MASK, space=SPACE).close()
    with Windows(paths, length=4, stride=3, patch=(3, 5, 2), dtype="f4") as windows:
        check_batches(Batches(windows, batch_size=3, max_memory=memory))
        check_batches(Batches(windows, batch_size=3, max_memory=memory, shuffle=False))
    with Windows(paths, length=4, stride=3, mask=MASK, dtype="f8") as windows:
        check_batches(Batches(windows, batch_size=2, max_memory="10MB"))


@pytest.mark.parametrize("shuffle", [False, True])
def test_buffers_are_the_windows_of_an_epoch(runs: list[Path], *, shuffle: bool) -> None:
    with Windows(runs, length=4, stride=3, patch=(4, 5, 4)) as windows:
        batches = Batches(windows, batch_size=3, shuffle=shuffle, max_memory="12kB")
        buffers = [numbers.tolist() for numbers in batches.buffers()]
        assert len(buffers) > 1
        found = [numbers.tolist() for _, numbers in batches]
    assert list(itertools.chain(*buffers)) == list(itertools.chain(*found))


def test_a_last_batch_may_be_left_out(runs: list[Path]) -> None:
    with Windows(runs, length=6) as windows:
        batches = Batches(windows, batch_size=4, drop_last=True)
        assert [len(numbers) for _, numbers in batches] == [4]
        assert len(batches) == 1


@pytest.mark.parametrize("access", ["volume", "time", "balanced", "both"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stride", [2, 10])
def test_no_chunk_is_decoded_twice_for_a_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access: Any, stride: int, *, shuffle: bool
) -> None:
    monkeypatch.setattr(CHUNK_CACHE, "limit", 0)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 900, (24, 20, 16, 40)).astype(np.int16)
    path = tmp_path / "a.h5"
    fs.NeuroVec.create(values, path, space=np.eye(4), tr=2.0, access=access).close()
    patch: dict[str, Any] = {"patch": 8, "patch_stride": 4} if stride == 2 else {}
    with Windows(path, length=10, stride=stride, **patch) as windows:
        stored = windows.sources[0].stored
        chunks = np.prod([-(-n // c) for n, c in zip(stored.shape, stored.chunks, strict=True)])
        batches = Batches(windows, batch_size=7, shuffle=shuffle)
        with stored.stats.watch() as read:
            seen = sum(len(numbers) for _, numbers in batches)
        assert seen == len(windows) >= 4
        assert 1 <= read.chunks <= chunks


def test_one_window_more_than_memory_says_what_is_needed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 900, (24, 20, 16, 200)).astype(np.int16)
    path = tmp_path / "a.h5"
    fs.NeuroVec.create(values, path, space=np.eye(4), tr=2.0, access="time").close()
    with (
        Windows(path, length=2) as windows,
        pytest.raises(MemoryLimitError, match="access='volume'"),
    ):
        Batches(windows, max_memory="1MB")


@pytest.mark.once
@pytest.mark.parametrize("memory", [2_000_000, 8_000_000])
def test_memory_is_bounded(tmp_path: Path, memory: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 900, (32, 32, 20, 200)).astype(np.int16)
    path = tmp_path / "a.h5"
    fs.NeuroVec.create(values, path, space=np.eye(4), slope=0.5, access="volume").close()
    with Windows(path, length=3, stride=2) as windows:
        batches = Batches(windows, batch_size=2, max_memory=memory)
        next(iter(batches))
        tracemalloc.start()
        try:
            count = sum(len(numbers) for _, numbers in batches)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert count == len(windows) - 2
    assert peak < memory + 1_000_000  # threads that decode, and bookkeeping


# Going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_an_iteration_is_taken_up_where_it_was_left(
    runs: list[Path], stop: int, *, shuffle: bool
) -> None:
    options: dict[str, Any] = {"batch_size": 3, "shuffle": shuffle, "max_memory": "100kB"}
    with Windows(runs, length=4, stride=2, patch=(3, 5, 4)) as windows:
        whole = [numbers.tolist() for _, numbers in Batches(windows, **options)]
        first = Batches(windows, **options)
        begun = [numbers.tolist() for _, numbers in itertools.islice(first, stop)]
        state = json.loads(json.dumps(first.state_dict()))
        rest = Batches(windows, **options)
        rest.load_state_dict(state)
        found = begun + [numbers.tolist() for _, numbers in rest]
        assert found == whole
        assert rest.epoch == 1
        for other in ({"seed": 4}, {"batch_size": 2}, {"max_memory": "120kB"}):
            with pytest.raises(InvalidInputError, match="order differs"):
                Batches(windows, **options | other).load_state_dict(state)
        with pytest.raises(InvalidInputError, match="state_dict"):
            rest.load_state_dict({"epoch": 1})


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [2, 5])
def test_workers_share_an_epoch_out(runs: list[Path], workers: int, *, shuffle: bool) -> None:
    with Windows(runs, length=4, stride=2, patch=(3, 5, 4)) as windows:
        shares = []
        for worker in range(workers):
            batches = Batches(windows, batch_size=3, shuffle=shuffle)
            batches.set_worker(worker, workers)
            shares.append([numbers.tolist() for _, numbers in batches])
            batches.set_epoch(0)
            assert batches.count(worker, workers) == len(shares[-1])
        numbers = [n for share in shares for batch in share for n in batch]
        assert sorted(numbers) == list(range(len(windows)))
        if not shuffle:
            turns = [batch for turn in itertools.zip_longest(*shares) for batch in turn if batch]
            assert [n for batch in turns for n in batch] == list(range(len(windows)))
        batches = Batches(windows)
        next(iter(batches))
        with pytest.raises(InvalidInputError, match="begun as worker 0 of 1"):
            batches.set_worker(1, 2)


def _sums(windows: Windows) -> list[float]:
    return [float(values.sum()) for values, _ in Batches(windows, shuffle=False)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_the_stores_for_themselves(runs: list[Path], method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    with Windows(runs, length=10) as windows:
        expected = _sums(windows)
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(_sums, (windows,)) == expected


def test_copies_and_pickles(runs: list[Path]) -> None:
    windows = Windows(runs, length=10)
    twins = [copy.copy(windows), pickle.loads(pickle.dumps(windows))]
    expected = windows[1]
    windows.close()
    np.testing.assert_array_equal(twins[1][1], expected)
    twins[1].close()
    assert set(RUNS) <= set(WRITERS)
    assert expected.shape == (*SHAPE[:3], 10)


def test_windows_of_a_store_on_object_storage(s3: S3Server) -> None:
    """Batches are equal, go on where they were left, and fetch no chunk twice for a buffer."""
    url = s3.url("run.zarr")
    values = make_values((5, 4, 3, 24), "i2", seed=3)
    fs.NeuroVec.create(
        values, url, space=np.eye(4), access="volume", storage_options=s3.options
    ).close()
    options: Any = {"length": 6, "stride": 3, "storage_options": s3.options}
    with Windows(url, **options) as windows:
        batches = Batches(windows, batch_size=2, seed=4)
        with windows.sources[0].stored.stats.watch() as read:
            found = [(batch.values, batch.numbers) for batch in batches]
        assert read.chunks == 24
        for batch, numbers in found:
            for one, number in zip(batch, numbers.tolist(), strict=True):
                np.testing.assert_array_equal(one, values[windows.where(number).region])
    first = Batches(Windows(url, **options), batch_size=2, seed=4)
    next(iter(first))
    second = Batches(Windows(url, **options), batch_size=2, seed=4)
    second.load_state_dict(first.state_dict())
    np.testing.assert_array_equal(next(iter(second)).numbers, found[1][1])
    first.windows.close()
    second.windows.close()
