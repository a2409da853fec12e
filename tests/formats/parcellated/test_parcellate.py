"""From a run to one series for each parcel, against nilearn and numpy."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import h5py
import nibabel as nibabel_package
import numpy as np
import pytest

import fmristore as fs
from fmristore import NeuroSpace
from fmristore.formats import series_blocks
from fmristore.formats.parcellated.reduce import (
    accumulate,
    make_reduction,
    reduce_whole,
    result_dtype,
)
from fmristore.formats.series_blocks import SeriesBlock
from fmristore.planning.layout import Access
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.errors import (
    AlreadyExistsError,
    InvalidInputError,
    MemoryLimitError,
    NotFoundError,
    UnknownFormatError,
)

NILEARN = {
    "mean": "mean",
    "median": "median",
    "sum": "sum",
    "min": "minimum",
    "max": "maximum",
    "std": "standard_deviation",
}
NUMPY: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "median": np.median,
    "sum": np.sum,
    "min": np.min,
    "max": np.max,
    "std": np.std,
}
SHAPE = (9, 8, 7)
TIMES = 20
SPACE = NeuroSpace(spatial_shape=SHAPE, affine=np.diag([2.0, 3, 4, 1]), time_points=TIMES, tr=1.5)
LABELS = np.random.default_rng(0).choice([0, 4, 5, 900], SHAPE)
RUN = np.random.default_rng(1).normal(1000, 3, (*SHAPE, TIMES)).astype("f4")

nibabel: Any = nibabel_package

pytestmark = pytest.mark.filterwarnings(
    "ignore::fmristore.sources.parcellation.ParcellationWarning"
)


def expected(statistic: str, run: Any = RUN) -> Any:
    ids = np.unique(LABELS)[1:]
    return np.column_stack([NUMPY[statistic](run[i == LABELS].astype("f8"), axis=0) for i in ids])


def image(tmp_path: Path, dtype: str = "i2") -> Path:
    """A NIfTI run with a slope."""
    made = nibabel.Nifti1Image(RUN.astype("f8"), SPACE.affine)
    made.header.set_zooms((2, 3, 4, 1.5))
    made.header.set_xyzt_units("mm", "sec")
    made.set_data_dtype(dtype)
    path = tmp_path / "run.nii.gz"
    nibabel.save(made, path)
    return path


@pytest.mark.parametrize(
    ("statistic", "run"),
    [(name, f"sub-1_run-{(1, 7)[k % 2]:02}_bold") for k, name in enumerate(NILEARN)],
)
def test_haxby_as_nilearn(shared_data: Path, tmp_path: Path, statistic: str, run: str) -> None:
    folder = shared_data / "data" / "real" / "bold" / "haxby2001_25mm"
    bold, labels = folder / f"{run}.nii.gz", folder / "mask-hoc.nii.gz"
    with fs.parcellate(bold, labels, tmp_path / "o.h5", statistic=statistic) as found:
        np.testing.assert_allclose(
            found.to_numpy(), _nilearn(bold, labels, statistic), rtol=2e-7, atol=1e-12
        )
        assert found.tr == 2.5
        assert found.statistic == statistic


@pytest.mark.parametrize("statistic", ["mean", "median", "std"])
def test_oneback_as_nilearn_and_numpy(shared_data: Path, tmp_path: Path, statistic: str) -> None:
    real = shared_data / "data" / "real"
    bold = real / "bold" / "sub-02_task-oneback_run-1_bold.nii.gz"
    atlas = real / "atlases" / "sub-02_task-oneback_desc-schaefer200notregistered_dseg.nii.gz"
    if statistic == "mean":
        wanted = _nilearn(bold, atlas, statistic)
    else:
        loaded: Any = nibabel.load(bold)
        run, labels = loaded.get_fdata(), np.asarray(nibabel.load(atlas).dataobj)
        ids = np.unique(labels)[1:]
        wanted = np.column_stack([NUMPY[statistic](run[labels == i], axis=0) for i in ids])
    with fs.parcellate(
        bold,
        atlas,
        tmp_path / "o.zarr",
        names=real / "atlases" / "schaefer_200_labels.csv",
        statistic=statistic,
    ) as found:
        present = found.parcellation.sizes > 0
        assert found.shape == (156, 200)
        assert present.sum() == wanted.shape[1] == 197
        assert np.isnan(found.to_numpy()[:, ~present]).all()
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(
            found.to_numpy()[:, present], wanted, rtol=2e-7, atol=2e-7 * scale
        )


def _nilearn(bold: Path, labels: Path, statistic: str) -> Any:
    from nilearn.maskers import NiftiLabelsMasker

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masker = NiftiLabelsMasker(
            labels, strategy=NILEARN[statistic], standardize=None, resampling_target=None
        )
        return masker.fit_transform(bold)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same run in every form."""
    tmp_path = tmp_path_factory.mktemp("sources")
    path = image(tmp_path, "f4")
    made: dict[str, Any] = {"nifti": path, "nibabel": nibabel.load(path), "text": str(path)}
    made["memory"] = nibabel.Nifti1Image(RUN, SPACE.affine)
    for access in get_args(Access)[:2]:
        for ending in ("h5", "zarr"):
            url = tmp_path / f"{access}.{ending}"
            fs.convert(path, url, access=access)
            made[url.name] = url
    made["object"] = fs.open(tmp_path / "time.h5")
    made["masked"] = fs.MaskedNeuroVec.create(path, tmp_path / "m.h5", mask=np.ones(SHAPE, bool))
    made["voxels"] = fs.ParcellatedScan.create(path, tmp_path / "p.zarr", parcellation=LABELS)
    return made


@pytest.mark.parametrize("statistic", NILEARN)
def test_sources_of_any_kind(tmp_path: Path, sources: dict[str, Any], statistic: str) -> None:
    for number, (name, source) in enumerate(sources.items(), list(NILEARN).index(statistic)):
        with fs.parcellate(
            source,
            LABELS,
            tmp_path / "o.h5",
            statistic=statistic,
            overwrite=True,
            max_memory=(2**28, 300_000)[number % 2],
        ) as found:
            np.testing.assert_allclose(
                found.to_numpy(), expected(statistic), rtol=1e-6, err_msg=name
            )


def test_arrays_and_options(tmp_path: Path) -> None:
    with fs.parcellate(
        RUN,
        LABELS,
        tmp_path / "o.zarr",
        space=SPACE,
        names=["a", "b", "c"],
        scan="rest \u03b1",
        metadata={"task": "rest"},
        dtype="f8",
    ) as found:
        np.testing.assert_allclose(found.to_numpy(), expected("mean"), rtol=1e-12)
        assert found.name == "rest \u03b1"
        assert found.names == ("a", "b", "c")
        assert found.metadata["task"] == "rest"
        assert found.dtype == np.float64
        assert found.tr == 1.5
    with fs.parcellate(RUN, LABELS, tmp_path / "p.h5", space=SPACE.affine, tr=2.0) as found:
        assert found.tr == 2.0
    mask = LABELS != 5
    with fs.parcellate(RUN, LABELS, tmp_path / "q.h5", space=SPACE, mask=mask) as found:
        assert np.isnan(found.to_numpy()[:, 1]).all()
        np.testing.assert_allclose(found[:, 0], expected("mean")[:, 0], rtol=1e-6)
    with fs.parcellate(
        RUN, LABELS, tmp_path / "r.h5", space=SPACE, statistic=lambda v: v.max(axis=1)
    ) as found:
        np.testing.assert_allclose(found.to_numpy(), expected("max"), rtol=1e-6)
        assert found.statistic == "<lambda>"
    weights = np.where(LABELS == 4, np.arange(LABELS.size).reshape(SHAPE), 1)
    with fs.parcellate(RUN, LABELS, tmp_path / "s.h5", space=SPACE, weights=weights) as found:
        inside = LABELS == 4
        wanted = np.average(RUN[inside].astype("f8"), axis=0, weights=weights[inside])
        np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-6)
        np.testing.assert_allclose(found[:, 1:], expected("mean")[:, 1:], rtol=1e-6)
        assert found.statistic == "weighted mean"


def test_many_parcels(tmp_path: Path) -> None:
    """As many parcels as voxels, with ids far apart."""
    labels = (np.arange(LABELS.size).reshape(SHAPE) + 1) * 4_000_000
    for statistic in ("mean", "median", "std"):
        with fs.parcellate(
            RUN, labels, tmp_path / "o.h5", space=SPACE, statistic=statistic, overwrite=True
        ) as found:
            wanted = np.zeros_like(RUN) if statistic == "std" else RUN
            np.testing.assert_array_equal(found.to_numpy(), wanted.reshape(-1, TIMES).T)


def test_into_a_store_of_several_scans(tmp_path: Path) -> None:
    out = tmp_path / "multi.h5"
    fs.ParcellatedMultiScan.create({}, out, parcellation=LABELS, space=SPACE).close()
    nifti = image(tmp_path, "f4")
    with fs.parcellate(nifti, None, out, scan="one") as found:
        np.testing.assert_allclose(found.to_numpy(), expected("mean"), rtol=1e-6)
    fs.parcellate(nifti, LABELS, out, scan="two", statistic="max").close()
    with fs.open(out) as multi:
        assert multi.scan_names == ("one", "two")
        assert multi["two"].statistic == "max"
    with pytest.raises(AlreadyExistsError):
        fs.parcellate(nifti, None, out, scan="two")
    with pytest.raises(InvalidInputError, match="not those of the store"):
        fs.parcellate(nifti, np.flip(LABELS), out, scan="three")
    with pytest.raises(AlreadyExistsError):
        fs.parcellate(nifti, LABELS, out)
    with pytest.raises(InvalidInputError, match="only for a new store"):
        fs.parcellate(nifti, None, out, scan="three", dtype="f8")
    fs.convert(nifti, tmp_path / "run.h5")
    with pytest.raises(AlreadyExistsError, match="NeuroVec"):
        fs.parcellate(nifti, LABELS, tmp_path / "run.h5", scan="three")
    with fs.open(out) as multi:
        assert multi.scan_names == ("one", "two")


def test_bad_input_writes_nothing(tmp_path: Path) -> None:
    nifti = image(tmp_path)
    before = sorted(tmp_path.iterdir())
    moved = nibabel.Nifti1Image(LABELS.astype("i2"), np.eye(4))
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(nifti.read_bytes()[:3000])
    before.append(broken)
    for source, labels, options, error, message in (
        ("none.nii.gz", LABELS, {}, NotFoundError, None),
        (nifti, "none.nii.gz", {}, NotFoundError, None),
        (nifti, None, {}, InvalidInputError, "labels are needed"),
        (nifti, LABELS[1:], {}, InvalidInputError, "shape"),
        (nifti, moved, {}, InvalidInputError, "mm apart"),
        (nifti, LABELS * 0, {}, InvalidInputError, "no voxel has a label"),
        (nifti, LABELS * np.nan, {}, InvalidInputError, "no voxel has a label"),
        (nifti, LABELS / 2, {}, InvalidInputError, "whole numbers"),
        (nifti, LABELS, {"mask": np.zeros(SHAPE)}, InvalidInputError, "no voxel is in the mask"),
        (nifti, LABELS, {"statistic": "mode"}, InvalidInputError, "unknown statistic"),
        (nifti, LABELS, {"statistic": None}, InvalidInputError, "statistic"),
        (nifti, LABELS, {"names": "none.csv"}, NotFoundError, None),
        (nifti, LABELS, {"names": ["a"]}, InvalidInputError, "1 names for 3"),
        (nifti, LABELS, {"codec": "zip"}, InvalidInputError, "zip"),
        (nifti, LABELS, {"space": SPACE}, InvalidInputError, "for arrays"),
        (nifti, LABELS, {"profile": "matlab"}, InvalidInputError, "profile"),
        (RUN, LABELS, {}, InvalidInputError, "space="),
        (RUN[..., 0], LABELS, {"space": SPACE.without_time()}, InvalidInputError, "x, y, z, t"),
        (broken, LABELS, {}, fs.errors.FmristoreError, None),
        (tmp_path, LABELS, {}, (UnknownFormatError, fs.errors.FmristoreError), None),
    ):
        with pytest.raises(error, match=message):
            fs.parcellate(source, labels, tmp_path / "o.h5", **options)
        assert sorted(tmp_path.iterdir()) == sorted(before)
    with pytest.raises(fs.errors.FmristoreError):
        fs.parcellate(broken, LABELS, tmp_path / "no" / "o.h5")
    assert not (tmp_path / "no").exists()
    with pytest.raises(InvalidInputError, match="must end in"):
        fs.parcellate(nifti, LABELS, tmp_path / "o.csv")
    kept = tmp_path / "kept.h5"
    fs.parcellate(nifti, LABELS, kept).close()
    content = kept.read_bytes()
    with pytest.raises(fs.errors.FmristoreError):
        fs.parcellate(broken, LABELS, kept, overwrite=True)
    assert kept.read_bytes() == content


def test_colours_are_no_run(tmp_path: Path) -> None:
    colours = np.zeros((*SHAPE, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(InvalidInputError, match="colours"):
        fs.parcellate(colours, LABELS, tmp_path / "o.h5", space=SPACE.affine)


def test_function_needs_its_parcel_in_memory(tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError, match="raise max_memory"):
        fs.parcellate(
            RUN,
            LABELS,
            tmp_path / "o.h5",
            space=SPACE,
            statistic=lambda v: v[:, 0],
            max_memory=20_000,
        )


@pytest.mark.once
@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("kind", ["array", "stored"])
def test_memory_stays_bounded(tmp_path: Path, statistic: str, kind: str) -> None:
    CHUNK_CACHE.clear()
    shape, times = (40, 40, 20), 200
    space = NeuroSpace(spatial_shape=shape, affine=np.eye(4), time_points=times)
    rng = np.random.default_rng(0)
    run = rng.integers(0, 2000, (*shape, times)).astype("i2")  # 12.8 MB, 51 MB as float64
    labels = rng.integers(0, 30, shape)
    source: Any = run
    options: dict[str, Any] = {"space": space}
    if kind == "stored":
        source, options = fs.NeuroVec.create(run, tmp_path / "r.h5", space=space), {}
    limit = 8_000_000
    parcels = fs.Parcellation.from_labels(labels, space=space)
    tracemalloc.start()
    try:
        with fs.parcellate(
            source,
            parcels,
            tmp_path / "o.h5",
            statistic=statistic,
            max_memory=limit,
            **options,
        ) as found:
            _, peak = tracemalloc.get_traced_memory()
            assert peak < limit
            assert CHUNK_CACHE.nbytes < run.nbytes // 20  # small arrays alone
    finally:
        tracemalloc.stop()
    with fs.open(tmp_path / "o.h5") as found:
        wanted = NUMPY[statistic](run[labels == 7], axis=0)
        np.testing.assert_allclose(found.series(7), wanted, rtol=1e-6)


def test_a_stored_run_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk is decoded once, those without labelled voxels never."""
    from fmristore_stores.codecs import pipeline as codecs

    shape = (32, 32, 16)
    space = NeuroSpace(spatial_shape=shape, affine=np.eye(4), time_points=300)
    run = np.random.default_rng(0).normal(size=(*shape, 300)).astype("f4")
    labels = np.zeros(shape, int)
    labels[:8] = 1
    labels[8:16] = 2
    bold = fs.NeuroVec.create(run, tmp_path / "r.zarr", space=space)
    touched = len(
        {
            tuple(cell)
            for cell in (
                np.argwhere(labels)
                // [bold.spec.layout.chunks[bold.spec.dims.index(d)] for d in "xyz"]
            ).tolist()
        }
    )
    reads: list[int] = []
    original = codecs.decode

    def count(*args: Any, **options: Any) -> Any:
        reads.append(1)
        return original(*args, **options)

    monkeypatch.setattr(codecs, "decode", count)
    monkeypatch.setattr(series_blocks, "_BLOCK_BYTES", 1)
    fs.parcellate(bold, labels, tmp_path / "o.h5", statistic="std").close()
    assert len(reads) <= touched + 10


def test_a_stored_run_without_chunks_is_read_in_parts(tmp_path: Path) -> None:
    """One piece of the file as large as the limit: no reason to refuse, or to read all of it."""
    shape, times = (30, 20, 10), 200
    space = NeuroSpace(spatial_shape=shape, affine=np.eye(4), time_points=times)
    run = np.random.default_rng(0).integers(0, 2000, (*shape, times)).astype("i2")
    labels = np.random.default_rng(1).integers(0, 30, shape)
    fs.NeuroVec.create(run, tmp_path / "r.h5", space=space).close()
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        dims = [dim.label for dim in file["0"].dims]
        values = file["0"][()]
        del file["0"]
        for dim, name in zip(file.create_dataset("0", data=values).dims, dims, strict=True):
            dim.label = name
    limit = run.nbytes
    for create in (fs.ParcellatedScan.create, fs.ParcellatedScanSummary.create):
        options: Any = {"parcellation": labels, "max_memory": limit, "overwrite": True}
        with create(tmp_path / "r.h5", tmp_path / "o.h5", **options) as found:
            wanted = run[labels == 7].T
            if isinstance(found, fs.ParcellatedScanSummary):
                np.testing.assert_allclose(found.series(7), wanted.mean(axis=1), rtol=1e-6)
            else:
                np.testing.assert_array_equal(np.sort(found.parcel(7)), np.sort(wanted))


def test_progress(tmp_path: Path) -> None:
    for statistic in ("mean", "median"):
        seen: list[tuple[int, int]] = []

        def note(done: int, total: int, seen: list[tuple[int, int]] = seen) -> None:
            seen.append((done, total))

        fs.parcellate(
            RUN,
            LABELS,
            tmp_path / "o.h5",
            space=SPACE,
            statistic=statistic,
            overwrite=True,
            progress=note,
        ).close()
        assert seen
        assert seen[-1][0] == seen[-1][1]


# The arithmetic ------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ["mean", "sum", "min", "max", "std"])
@pytest.mark.parametrize("seed", range(4))
def test_pieces_in_any_order(statistic: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parcel_of = np.sort(rng.choice([0, 1, 3, 4], 57))
    values = rng.normal(1e6, 1, (11, 57))
    pieces = []
    groups = rng.integers(0, 4, 57)
    for group in range(4):
        columns = np.flatnonzero(groups == group)
        for start in range(0, 11, 4):
            times = slice(start, min(start + 4, 11))
            pieces.append(SeriesBlock(times, columns, values[times][:, columns]))
    rng.shuffle(pieces)
    reduction = make_reduction(statistic, None, values.dtype, 57)
    found = accumulate(pieces, reduction, parcel_of, (11, 6), values.dtype)
    for k in range(6):
        inside = values[:, parcel_of == k]
        if inside.shape[1]:
            np.testing.assert_allclose(found[:, k], NUMPY[statistic](inside, axis=1), rtol=1e-8)
        else:
            assert np.isnan(found[:, k]).all()


def test_functions_of_numpy_are_understood() -> None:
    for name, function in NUMPY.items():
        assert make_reduction(function, None, np.dtype("f4"), 3).statistic == name
    reduction = make_reduction(lambda v: v.T, None, np.dtype("f4"), 3)
    with pytest.raises(InvalidInputError, match="returned"):
        reduce_whole(reduction, np.ones((4, 3)))


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("u1", "f4"), ("i2", "f4"), ("f4", "f4"), ("i4", "f8"), ("f8", "f8"), ("c8", "c8")],
)
def test_types_of_summaries(dtype: str, wanted: str) -> None:
    assert result_dtype(np.dtype(dtype)) == np.dtype(wanted)
