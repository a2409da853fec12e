"""Several runs in one store, read as one long run or run by run."""

from __future__ import annotations

import copy
import pickle
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as untyped_nibabel
import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

import fmristore as fs
from fmristore.formats import opening
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from tests.images import load_npz

nibabel: Any = untyped_nibabel

STORES = ("h5", "zarr")
GRID = (5, 4, 3)
AFFINE = np.array([[-2.0, 0.1, 0, 30], [0, 2.5, -0.2, -40], [0.1, 0, 3.0, -20], [0, 0, 0, 1]])
LENGTHS = (7, 1, 4)
NAMES = ("rest", "task: Faces > Houses/1", "..")


def make_runs(dtype: Any = "i2", grid: tuple[int, ...] = GRID) -> dict[str, AnyArray]:
    """Runs of different length, their data all different."""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(-9999, 9999, (*grid, length)).astype(dtype)
        for name, length in zip(NAMES, LENGTHS, strict=True)
    }


def joined(runs: dict[str, AnyArray]) -> AnyArray:
    """The runs as one."""
    return np.concatenate(list(runs.values()), axis=-1)


def create(url: Path, runs: Any = None, **options: Any) -> Any:
    """Store runs; arrays by default."""
    options = {"space": AFFINE, "tr": [2.0, 2.0, 1.5] if runs is None else None} | options
    return fs.NeuroVecSeq.create(make_runs() if runs is None else runs, url, **options)


def write_nifti(path: Path, values: AnyArray, *, slope: float = 0.0, tr: float = 2.0) -> Path:
    """Write stored values as a NIfTI file, with a slope in its header."""
    image = nibabel.Nifti1Image(values, AFFINE, dtype=values.dtype)
    image.header.set_zooms((2.0, 2.5, 3.0, tr)[: values.ndim])
    image.header.set_xyzt_units("mm", "sec")
    content = bytearray(image.to_bytes())
    struct.pack_into("<2f", content, 112, slope, 1.0 if slope else 0.0)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module", params=STORES)
def seq(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three stored runs."""
    return create(tmp_path_factory.mktemp("seq") / f"seq.{request.param}", order="auto")


# Reading -------------------------------------------------------------------------------------


def test_facts(seq: Any) -> None:
    assert seq.runs == NAMES
    assert seq.lengths == LENGTHS
    assert seq.boundaries == (0, 7, 8, 12)
    assert seq.shape == (*GRID, 12)
    assert seq.dtype == seq.stored_dtype == np.int16
    assert seq.ndim == 4
    assert seq.size == 5 * 4 * 3 * 12
    assert len(seq) == 5
    assert seq.trs == (2.0, 2.0, 1.5)
    assert seq.tr is None
    assert seq.space.shape == seq.shape
    np.testing.assert_array_equal(seq.affine, AFFINE)
    assert "3 runs" in repr(seq)
    assert "Faces &gt; Houses" in seq._repr_html_()
    assert seq.root_attributes["fmristore_format"] == "neurovecseq"
    np.testing.assert_array_equal(np.asarray(seq), joined(make_runs()))
    np.testing.assert_array_equal(np.asarray(seq, "f8"), joined(make_runs()).astype("f8"))


_INDEX = st.tuples(
    *[
        st.one_of(
            st.integers(-n, n - 1),
            st.builds(
                slice,
                st.none() | st.integers(-n - 2, n + 2),
                st.none() | st.integers(-n - 2, n + 2),
                st.none() | st.integers(-5, 5).filter(bool),
            ),
        )
        for n in (*GRID, sum(LENGTHS))
    ]
)


@given(_INDEX)
def test_indexing_is_that_of_numpy(seq: Any, index: Any) -> None:
    expected = joined(make_runs())[index]
    found = seq[index]
    assert np.shape(found) == np.shape(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    times = index[3]
    if isinstance(times, slice):
        series = seq.series([(0, 1, 2), (-1, 0, 0)], times=times)
        np.testing.assert_array_equal(series, joined(make_runs())[[0, -1], [1, 0], [2, 0]].T[times])


def test_series(seq: Any) -> None:
    values = joined(make_runs())
    np.testing.assert_array_equal(seq.series((1, 2, 0)), values[1, 2, 0])
    assert seq.series(np.empty((0, 3), int)).shape == (12, 0)
    mask = values[..., 0] > 0
    expected = values[mask].T
    np.testing.assert_array_equal(seq.series(mask=mask), expected)
    np.testing.assert_array_equal(seq.series((0, 0, 0), dtype="f4"), values[0, 0, 0].astype("f4"))
    keep = np.arange(12) % 3 != 1
    np.testing.assert_array_equal(seq.series(mask=mask, times=keep), expected[keep])
    np.testing.assert_array_equal(
        seq.series((1, 2, 0), times=[11, 0, -2]), values[1, 2, 0, [11, 0, 10]]
    )


@pytest.mark.parametrize(
    "index", [(5,), (0, 0, 0, 12), (0, 0, 0, 0, 0), [0.5, 1], "no such run", 1.5, (..., ...)]
)
def test_indices_that_do_not_fit(seq: Any, index: Any) -> None:
    with pytest.raises(SelectionError):
        seq[index]


def test_series_that_do_not_fit(seq: Any) -> None:
    for arguments in ({}, {"voxels": (0, 0, 0), "mask": np.ones(GRID)}, {"mask": np.ones((5, 4))}):
        with pytest.raises(InvalidInputError):
            seq.series(**arguments)
    for voxels, times in (((5, 0, 0), None), ((0, 0, 0), 3), ([[0.5, 0, 0]], None)):
        with pytest.raises(SelectionError):
            seq.series(voxels, times=times)


def test_only_the_runs_touched_are_read(seq: Any) -> None:
    assert seq.plan[0, 0, 0, :7].chunks == seq.run(0).plan[0, 0, 0].chunks
    whole = seq.plan[...]
    assert whole.chunks == sum(image.plan[...].chunks for image in seq.images)
    assert whole.chunks == whole.chunks_in_all
    assert seq.plan[..., 7:7].chunks == 0
    assert seq.plan[..., 6:9].shape == (*GRID, 3)


def test_runs(seq: Any) -> None:
    for number, (name, values) in enumerate(make_runs().items()):
        for image in (seq[name], seq.run(name), seq.run(number), seq.run(number - 3)):
            assert isinstance(image, fs.NeuroVec)
            assert image.tr == seq.trs[number]
            np.testing.assert_array_equal(image[...], values)
            np.testing.assert_array_equal(image.series((1, 1, 1)), values[1, 1, 1])
            assert image.digest == image.compute_digest()
            image.close()
            with pytest.raises(ClosedError):
                image[0]
    np.testing.assert_array_equal(seq[...], joined(make_runs()))
    for which in (3, -4, "run-1"):
        with pytest.raises(SelectionError):
            seq.run(which)
    with pytest.raises(InvalidInputError):
        iter(seq)


@pytest.mark.parametrize("kind", STORES)
def test_closing_pickling_copying(tmp_path: Path, kind: str) -> None:
    sequence = create(tmp_path / f"a.{kind}")
    image = sequence["rest"]
    copies = [
        pickle.loads(pickle.dumps(sequence)),
        copy.deepcopy(sequence),
        copy.copy(sequence),
    ]
    sequence[...]
    assert pickle.dumps(sequence) == pickle.dumps(copies[0])
    for again in copies[:2]:
        np.testing.assert_array_equal(again[...], joined(make_runs()))
    alone = pickle.loads(pickle.dumps(image))
    with sequence:
        pass
    assert sequence.closed
    assert image.closed
    for closed in (lambda: sequence[0], lambda: image[0], lambda: pickle.dumps(image)):
        with pytest.raises(ClosedError):
            closed()
    np.testing.assert_array_equal(alone[...], make_runs()["rest"])
    for opened in (alone, *copies[:2]):
        opened.close()


# Creating ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
def test_runs_of_every_origin(tmp_path: Path, kind: str) -> None:
    values = make_runs()["rest"]
    path = write_nifti(tmp_path / "a.nii", values, slope=0.5)
    per_volume = np.linspace(1, 2, 7)
    stored = fs.NeuroVec.create(
        values, tmp_path / "b.zarr", space=AFFINE, tr=1.5, slope=per_volume, inter=1.0
    )
    image = nibabel.Nifti1Image(values.astype("f4"), AFFINE)
    runs: dict[str, Any] = {"path": path, "stored": stored, "nibabel": image}
    runs |= {"array": values.astype("f8"), "store": stored.url}
    expected = {
        "path": values.astype("f4") * np.float32(0.5) + 1,
        "stored": stored[...],
        "nibabel": values.astype("f4"),
        "array": values.astype("f8"),
        "store": stored[...],
    }
    trs = [None, None, None, 3.0, None]
    with create(tmp_path / f"seq.{kind}", runs, tr=trs) as sequence:
        assert sequence.dtype == np.float64
        assert sequence.trs == (2.0, 1.5, 1.0, 3.0, 1.5)
        for name, numbers in expected.items():
            assert sequence[name].dtype == numbers.dtype
            np.testing.assert_array_equal(sequence[name][...], numbers)
        np.testing.assert_array_equal(sequence[...], joined(expected))
        np.testing.assert_array_equal(sequence.read(raw=True), np.concatenate([values] * 5, -1))
        sequence["path"].to_nifti(tmp_path / "back.nii")
    assert (tmp_path / "back.nii").read_bytes() == path.read_bytes()
    with create(tmp_path / f"one.{kind}", runs, tr=3.0) as sequence:
        assert sequence.trs == (3.0,) * 5
        np.testing.assert_array_equal(sequence[...], joined(expected))
    stored.close()


def test_what_is_opened_as_a_source_is_closed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "a.h5", tmp_path / "b.zarr"]
    for path, values in zip(paths, make_runs().values(), strict=False):
        fs.NeuroVec.create(values, path, space=AFFINE).close()
    made: list[Handle] = []

    class Noted(Handle):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(opening, "Handle", Noted)
    fs.NeuroVecSeq.create(paths, tmp_path / "seq.h5").close()
    assert [handle.closed for handle in made] == [True, True]
    made.clear()
    with pytest.raises(NotFoundError):
        fs.NeuroVecSeq.create([*paths, tmp_path / "missing.zarr"], tmp_path / "no.h5")
    assert [handle.closed for handle in made] == [True, True]


@pytest.mark.parametrize("kind", STORES)
def test_runs_without_names(tmp_path: Path, kind: str) -> None:
    values = list(make_runs().values())
    space = fs.NeuroSpace(spatial_shape=GRID, affine=AFFINE, space_name="MNI")
    with create(tmp_path / f"a.{kind}", values, tr=2.0, space=space) as sequence:
        assert sequence.runs == ("run-1", "run-2", "run-3")
        assert sequence.tr == 2.0
        assert sequence.space.space_name == sequence["run-2"].space.space_name == "MNI"
    many = [np.zeros((1, 1, 1, 1), "u1")] * 12
    with create(tmp_path / f"b.{kind}", many, tr=None) as sequence:
        assert sequence.runs[0] == "run-01"
        assert list(sequence.runs) == sorted(sequence.runs)
        assert "..." in repr(sequence)


@pytest.mark.parametrize("kind", STORES)
def test_names_never_reach_the_file_system(tmp_path: Path, kind: str) -> None:
    names = ["../../up", "/etc/passwd", "a/b", "..", ".", "zarr.json", "x" * 10_000, "naïve 脑"]
    values = {name: np.full((2, 2, 2, 1), number) for number, name in enumerate(names)}
    folder = tmp_path / "here"
    folder.mkdir()
    with create(folder / f"a.{kind}", values, tr=None) as sequence:
        assert sequence.runs == tuple(names)
        for number, name in enumerate(names):
            assert sequence[name][0, 0, 0, 0] == number
        assert len(repr(sequence)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert [path.name for path in folder.iterdir()] == [f"a.{kind}"]
    with fs.open(folder / f"a.{kind}", format="neurovecseq") as sequence:
        assert sequence.runs == tuple(names)


def test_transcoding_both_ways(tmp_path: Path) -> None:
    for order in ("canonical", "auto"):
        create(tmp_path / f"{order}.h5", order=order).close()
        fs.transcode(tmp_path / f"{order}.h5", tmp_path / f"{order}.zarr")
        fs.transcode(tmp_path / f"{order}.zarr", tmp_path / f"{order}-back.h5")
        for name in (f"{order}.h5", f"{order}.zarr", f"{order}-back.h5"):
            with fs.open(tmp_path / name) as sequence:
                assert sequence.runs == NAMES
                assert sequence.trs == (2.0, 2.0, 1.5)
                np.testing.assert_array_equal(sequence[...], joined(make_runs()))
                assert [i.digest for i in sequence.images] == [
                    i.compute_digest() for i in sequence.images
                ]
            report = fs.verify(tmp_path / name, deep=True)
            assert report.ok
            assert not report.notes


@pytest.mark.parametrize("kind", STORES)
def test_other_software_reads_the_runs(tmp_path: Path, kind: str) -> None:
    runs = {"a": make_runs()["rest"]}
    create(tmp_path / f"a.{kind}", runs, tr=2.0).close()
    engine: Any = {"h5": "h5netcdf", "zarr": "zarr"}[kind]
    with xarray.open_dataset(tmp_path / f"a.{kind}", group="runs/a", engine=engine) as dataset:
        found = dataset["0"].transpose("x", "y", "z", "t")
        np.testing.assert_array_equal(found, runs["a"])
        np.testing.assert_array_equal(found["t"], np.arange(7) * 2.0)


def test_progress_goes_through_all_runs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    create(tmp_path / "a.h5", progress=lambda *done: seen.append(done)).close()
    total = joined(make_runs()).nbytes
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert {t for _, t in seen} == {total}


@pytest.mark.once
def test_memory_is_bounded(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 99, (48, 48, 24, 80), "i2")
    path = write_nifti(tmp_path / "a.nii", values)
    limit = 1 << 22
    tracemalloc.start()
    sequence = create(tmp_path / "b.h5", [path, path], max_memory=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit + (1 << 20) < values.nbytes
    with create(tmp_path / "c.h5", list(sequence.images), max_memory=limit) as again:
        assert [image.digest for image in again.images] == [sequence.run(0).digest] * 2
    sequence.close()


# What cannot be stored -----------------------------------------------------------------------

_SHIFTED = AFFINE + np.outer([1, 0, 0, 0], [0, 0, 0, 1])
_RGB = np.zeros((*GRID, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ({}, {}, "at least one run"),
        ([], {}, "at least one run"),
        ("a.nii", {}, "mapping"),
        (3, {}, "mapping"),
        ({"": np.zeros((*GRID, 1))}, {}, "not empty"),
        ({3: np.zeros((*GRID, 1))}, {}, "must be text"),
        ({"a\0b": np.zeros((*GRID, 1))}, {}, "NUL"),
        ({"a": np.zeros(GRID)}, {"tr": None}, "X, Y, Z, T"),
        ({"a": _RGB}, {}, "in colour"),
        ({"a": np.zeros((*GRID, 0))}, {}, "time points"),
        ([np.zeros((*GRID, 1)), np.zeros((5, 4, 2, 1))], {}, "one grid"),
        ([np.zeros((*GRID, 1)), nibabel.Nifti1Image(np.zeros((*GRID, 1)), _SHIFTED)], {}, "1 mm"),
        ([np.zeros((*GRID, 1))], {"space": None}, "needs space"),
        ([np.zeros((*GRID, 1))], {"tr": [1.0, 2.0]}, "2 repetition times for 1 run"),
        ([np.zeros((*GRID, 1))], {"tr": -1.0}, "positive"),
        ([np.zeros((*GRID, 1))], {"codec": "zip"}, "zip"),
        ([np.zeros((*GRID, 1))], {"access": "often"}, "often"),
        ([np.zeros((*GRID, 1))], {"profile": "spm"}, "unknown profile"),
        ({"b": np.zeros((*GRID, 1)), "a": np.zeros((*GRID, 1))}, {"profile": "r"}, "in order of"),
        ({"a/b": np.zeros((*GRID, 1))}, {"profile": "r"}, "cannot be the name"),
    ],
)
def test_bad_input_leaves_what_was_there(
    tmp_path: Path, runs: Any, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "a.h5").write_bytes(b"old")
    with pytest.raises(InvalidInputError, match=message):
        create(tmp_path / "a.h5", runs, **({"overwrite": True} | options))
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert (tmp_path / "a.h5").read_bytes() == b"old"


def test_missing_runs_and_existing_stores(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        create(tmp_path / "a.h5", [tmp_path / "none.nii"])
    with pytest.raises(InvalidInputError, match=r"\.h5"):
        create(tmp_path / "a.txt")
    assert not list(tmp_path.iterdir())
    create(tmp_path / "a.h5").close()
    before = (tmp_path / "a.h5").read_bytes()
    with pytest.raises(AlreadyExistsError):
        create(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == before


def _set(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value

    return change


def _in_run(action: Callable[[h5py.Group], object]) -> Callable[[h5py.File], object]:
    return lambda file: action(file["runs/rest"])


_TEXT = h5py.string_dtype()


@pytest.mark.parametrize(
    "change",
    [
        _set("runs", None),
        _set("runs", "rest"),
        _set("runs", np.array(["rest"], _TEXT)),
        _set("runs", np.array(["rest", "rest", "rest"], _TEXT)),
        _set("runs", np.array(["rest", "..", "../.."], _TEXT)),
        _set("runs", np.array(["rest", "none", "gone"], _TEXT)),
        _set("lengths", None),
        _set("lengths", [7, 1, 5]),
        _set("lengths", [7, 1, -4]),
        _set("lengths", [7.0, 1.0, 4.0]),
        lambda file: file.attrs.__delitem__("affine"),
        lambda file: file.__delitem__("runs"),
        _set("affine", np.full(16, np.nan)),
        _in_run(lambda run: run.__delitem__("0")),
        _in_run(lambda run: run.attrs.__setitem__("repetition_time", -2.0)),
        _in_run(lambda run: run.attrs.__setitem__("repetition_time", "soon")),
        _in_run(lambda run: run.attrs.__setitem__("name", "..")),
        _in_run(lambda run: run["0"].attrs.__setitem__("scale_factor", 0.0)),
        _in_run(lambda run: run["0"].attrs.__setitem__("scaling", "per-volume")),
    ],
)
def test_damage_is_told(tmp_path: Path, change: Callable[[h5py.File], object]) -> None:
    create(tmp_path / "a.h5").close()
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        change(file)
    with pytest.raises(FmristoreError) as caught:
        fs.open(tmp_path / "a.h5")
    assert "a.h5" in str(caught.value)


# The R package -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["double_c0", "float_c4", "float_defaultchunk", "float_defaultchunk_big", "int_c9_as_h5"],
)
def test_sequences_of_the_r_package(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / "golden" / "r-fmristore" / f"neurovecseq_{name}.h5"
    expected = load_npz(path.with_suffix(".expected.npz"))
    runs = [expected[key] for key in sorted(expected) if key.startswith("hdf5r_scan")]
    fs.transcode(path, tmp_path / "new.zarr")
    for url in (path, tmp_path / "new.zarr"):
        with fs.open(url, format="neurovecseq") as sequence:
            assert sequence.lengths == tuple(run.shape[3] for run in runs)
            assert sequence.runs[:2] == ("rest_run-01", "task-nback_run-01")
            if name == "float_c4":
                assert sequence.trs == (2.0, 0.72, 1.5)
            np.testing.assert_array_equal(sequence.affine, expected["hdf5r_space_trans"])
            np.testing.assert_array_equal(sequence[...], np.concatenate(runs, axis=-1))
            for number, run in enumerate(runs):
                np.testing.assert_array_equal(sequence.run(number)[1:, 2, :, -1], run[1:, 2, :, -1])
            again = pickle.loads(pickle.dumps(sequence))
            np.testing.assert_array_equal(again[0, 0, 0, ::3], sequence[0, 0, 0, ::3])
            again.close()


def test_the_profile_writes_the_layout_of_r(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "golden" / "r-fmristore" / "neurovecseq_float_c4.h5"
    with fs.open(path) as model:
        runs = {name: model[name] for name in model.runs}
        with create(tmp_path / "new.h5", runs, profile="r") as sequence:
            assert sequence.runs == model.runs
            assert sequence.trs == model.trs
            assert sequence.dtype == model.dtype
            np.testing.assert_array_equal(sequence.affine, model.affine)
            np.testing.assert_array_equal(sequence[...], model[...])
    with h5py.File(path) as theirs, h5py.File(tmp_path / "new.h5") as ours:
        assert ours.attrs["rtype"].tolist() == theirs.attrs["rtype"].tolist()
        assert ours.attrs["n_scans"].tolist() == theirs.attrs["n_scans"].tolist()
        names: set[str] = set()
        theirs.visit(names.add)
        found: set[str] = set()
        ours.visit(found.add)
        only_theirs = {name for name in names if "/metadata/" in name and name[-3:] != "/TR"}
        assert found == names - only_theirs | {"space/spacing"}
        for name in ours["scans"]:
            scan, model_scan = ours["scans"][name], theirs["scans"][name]
            assert scan.attrs["n_time"].tolist() == model_scan.attrs["n_time"].tolist()
            np.testing.assert_array_equal(scan["data"][...], model_scan["data"][...])
        for name in ("dim", "origin", "trans"):
            np.testing.assert_array_equal(ours["space"][name], theirs["space"][name])


def test_the_profile_scales_numbers(tmp_path: Path) -> None:
    values = make_runs()["rest"]
    path = write_nifti(tmp_path / "a.nii", values, slope=0.5)
    with create(tmp_path / "a.h5", [path], profile="r") as sequence:
        assert sequence.dtype == np.float32
        np.testing.assert_array_equal(sequence[...], values * np.float32(0.5) + 1)


@pytest.mark.parametrize(
    "name", ["scans", "scans/rest_run-01/data", "space/trans", "scans/task-nback_run-02/data"]
)
def test_damaged_sequences_of_the_r_package(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / "golden" / "r-fmristore" / "neurovecseq_double_c0.h5"
    for value in (None, np.zeros((3, 4, 5)), np.zeros((2, 3, 4, 5)), "text"):
        shutil.copy(path, tmp_path / "bad.h5")
        with h5py.File(tmp_path / "bad.h5", "r+") as file:
            del file[name]
            if value is not None:
                file[name] = value
        with pytest.raises(FmristoreError) as caught:
            fs.open(tmp_path / "bad.h5")
        assert "bad.h5" in str(caught.value)


@pytest.mark.parametrize("max_memory", [1, 1000, "1MiB"])
@pytest.mark.parametrize("dtype", [None, "f8"])
def test_volumes_one_after_the_other(tmp_path: Path, dtype: Any, max_memory: Any) -> None:
    """Of each run in turn, in the type of the sequence."""
    runs = make_runs()
    runs[NAMES[1]] = runs[NAMES[1]].astype("f4")
    with create(tmp_path / "a.h5", runs, tr=2.0) as sequence:
        found = list(sequence.iter_volumes(dtype=dtype, max_memory=max_memory))
        assert {volume.dtype for volume in found} == {np.dtype(dtype or sequence.dtype)}
    np.testing.assert_array_equal(np.stack(found, axis=-1), joined(runs))
