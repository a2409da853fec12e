"""Stored parcellated scans, against numpy in memory and the files of the R package."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fmristore as fs
from fmristore import NeuroSpace, ParcellatedMultiScan, ParcellatedScan, ParcellatedScanSummary
from fmristore.formats import new_arrays
from fmristore.formats.parcellated import edit as parcellated_change
from fmristore.formats.voxel_source import voxel_reader
from fmristore.sources.door import as_source
from fmristore.sources.parcellation import ParcellationWarning
from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    ClosedError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    MemoryLimitError,
    MetadataError,
    ReadOnlyError,
    SelectionError,
    StorageError,
)
from fmristore_stores.opening import open_store
from tests.conftest import S3Server
from tests.images import load_npz

SHAPE = (7, 6, 5)
TIMES = 13
AFFINE = np.array([[-2.0, 0.1, 0, 11], [0.1, 3, 0, -7], [0, 0, 4, 2.5], [0, 0, 0, 1]])
SPACE = NeuroSpace(spatial_shape=SHAPE, affine=AFFINE, time_points=TIMES, tr=1.5)
IDS = (2, 3, 9, 40)
NAMES = {2: "Left V1", 3: "S\u00fcd \u03b2", 9: "a/b", 40: "..", 41: "empty"}

pytestmark = pytest.mark.filterwarnings(
    "ignore::fmristore.sources.parcellation.ParcellationWarning"
)


def make_labels(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, *IDS], SHAPE, p=[0.4, 0.3, 0.15, 0.1, 0.05])
    labels.flat[:4] = IDS
    return labels


def make_run(seed: int = 1, times: int = TIMES, dtype: str = "f4") -> Any:
    rng = np.random.default_rng(seed)
    return (rng.normal(100, 20, (*SHAPE, times))).astype(dtype)


LABELS = make_labels()
RUN = make_run()
INSIDE = np.where((LABELS != 0)[..., None], RUN, 0)


def expected(statistic: Callable[..., Any] = np.mean, run: Any = RUN) -> Any:
    columns = [statistic(run[number == LABELS].astype("f8"), axis=0) for number in IDS]
    return np.column_stack([*columns, np.full(run.shape[3], np.nan)])


def environment() -> dict[str, str]:
    """Lets another process import what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(params=["h5", "zarr"])
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scan(tmp_path: Path, ending: str) -> Iterator[ParcellatedScan]:
    with ParcellatedScan.create(
        RUN,
        tmp_path / f"scan.{ending}",
        parcellation=LABELS,
        names=NAMES,
        space=SPACE,
        name="rest / run 1",
        metadata={"task": "rest", "dummies": 4, "fd": [0.5, 0.25], "nested": {"a": [1, None]}},
    ) as made:
        yield made


@pytest.fixture
def multi(tmp_path: Path, ending: str) -> Iterator[ParcellatedMultiScan]:
    with ParcellatedMultiScan.create(
        {}, tmp_path / f"multi.{ending}", parcellation=LABELS, names=NAMES, space=SPACE
    ) as made:
        yield made


# One scan of voxels --------------------------------------------------------------------------


def test_scan_is_what_went_in(scan: ParcellatedScan) -> None:
    np.testing.assert_array_equal(np.asarray(scan), INSIDE)
    assert scan.shape == RUN.shape
    assert scan.ndim == 4
    assert scan.dtype == np.float32
    assert scan.name == "rest / run 1"
    assert dict(scan.metadata) == {
        "task": "rest",
        "dummies": 4,
        "fd": [0.5, 0.25],
        "nested": {"a": [1, None]},
    }
    assert scan.tr == 1.5
    assert scan.space == SPACE
    np.testing.assert_array_equal(scan.affine, AFFINE)
    assert scan.ids.tolist() == [2, 3, 9, 40, 41]
    assert scan.names == tuple(NAMES.values())
    assert scan.indptr[-1] == len(scan.voxels) == (LABELS != 0).sum()
    assert len(scan) == 7
    text = repr(scan)
    assert "rest / run 1" in text
    assert "7 x 6 x 5 x 13" in text
    assert "<table" in scan._repr_html_()


def test_parcels(scan: ParcellatedScan) -> None:
    for number in IDS:
        values = scan.parcel(number)
        voxels = scan.voxels[scan.parcellation.rows(number)]
        np.testing.assert_array_equal(values, RUN[tuple(voxels.T)].T)
        np.testing.assert_array_equal(scan.parcel(NAMES[number]), values)
        np.testing.assert_array_equal(
            scan.parcel(number, times=slice(9, 2, -3), dtype="f8"), values[9:2:-3]
        )
    assert scan.parcel("empty").shape == (TIMES, 0)
    with pytest.raises(SelectionError, match="no parcel"):
        scan.parcel("nope")
    with pytest.raises(SelectionError):
        scan.parcel(2, times=3)


@pytest.mark.parametrize("max_memory", [2**28, 60_000, 6_000])
def test_map_parcels(scan: ParcellatedScan, max_memory: int) -> None:
    if max_memory == 6_000:
        with pytest.raises(MemoryLimitError, match="Left V1"):
            scan.map_parcels(np.sum, max_memory=max_memory)
        return
    found = scan.map_parcels(lambda values: values.sum(dtype="f8"), max_memory=max_memory)
    assert list(found) == list(IDS)
    for number in IDS:
        assert found[number] == pytest.approx(RUN[number == LABELS].sum(dtype="f8"))


@settings(max_examples=60)
@given(data=st.data())
def test_indexing_like_numpy(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    entries = st.one_of(
        st.integers(-5, 4), st.slices(7), st.just(Ellipsis), st.just(slice(None)), st.none()
    )
    index = data.draw(st.lists(entries, max_size=5).map(tuple))
    scan = _shared_scan(tmp_path_factory, data.draw(st.sampled_from(["h5", "zarr"])))
    try:
        wanted = INSIDE[index]
    except IndexError:
        with pytest.raises(SelectionError):
            scan[index]
        return
    found = scan[index]
    assert np.shape(found) == np.shape(wanted)
    np.testing.assert_array_equal(found, wanted)


_scans: dict[str, ParcellatedScan] = {}


def _shared_scan(factory: pytest.TempPathFactory, ending: str) -> ParcellatedScan:
    if ending not in _scans:
        path = factory.mktemp("shared") / f"scan.{ending}"
        _scans[ending] = ParcellatedScan.create(RUN, path, parcellation=LABELS, space=SPACE)
    return _scans[ending]


def test_series(scan: ParcellatedScan) -> None:
    points = [(0, 0, 0), (-1, 2, 3), (6, 5, 4), (0, 0, 0), (3, 3, 3)]
    wanted = INSIDE[tuple(np.array(points).T)].T
    np.testing.assert_array_equal(scan.series(points), wanted)
    np.testing.assert_array_equal(scan.series(points[1]), wanted[:, 1])
    np.testing.assert_array_equal(scan.series(points, times=slice(None, None, -2)), wanted[::-2])
    assert scan.series(np.empty((0, 3), int)).shape == (TIMES, 0)
    outside = np.argwhere(LABELS == 0)[0]
    assert not scan.series(outside).any()
    mask = LABELS == 9
    chosen = np.argwhere(mask)
    np.testing.assert_array_equal(scan.series(mask=mask), RUN[tuple(chosen.T)].T)
    for wrong in ((7, 0, 0), [(0, 0, -6)], [(0.5, 0, 0)], [1, 2], "x"):
        with pytest.raises(SelectionError):
            scan.series(wrong)
    with pytest.raises(InvalidInputError, match="either"):
        scan.series()
    with pytest.raises(InvalidInputError, match="shape"):
        scan.series(mask=mask[1:])


def test_iterating_and_copying(scan: ParcellatedScan) -> None:
    with pytest.raises(InvalidInputError, match="plane"):
        iter(scan)
    with pytest.raises(InvalidInputError, match="copy"):
        np.array(scan, copy=False)
    np.testing.assert_array_equal(scan[np.array([1, 2])], scan[1:3])


STATISTICS: dict[str, Callable[..., Any]] = {
    "mean": np.mean,
    "median": np.median,
    "sum": np.sum,
    "min": np.min,
    "max": np.max,
    "std": np.std,
}


@pytest.mark.parametrize("name", STATISTICS)
def test_summaries_in_bounded_memory(scan: ParcellatedScan, name: str) -> None:
    for max_memory in (2**28, 3000):
        np.testing.assert_allclose(
            scan.summary(name, max_memory=max_memory), expected(STATISTICS[name]), rtol=1e-12
        )


def test_summaries_by_function_and_weight(scan: ParcellatedScan) -> None:
    found = scan.summary(lambda values: values[:, 0] * 2)
    first = [RUN[tuple(scan.voxels[scan.indptr[k]])] * 2.0 for k in range(4)]
    np.testing.assert_array_equal(found[:, :4], np.column_stack(first))
    assert np.isnan(found[:, 4]).all()
    weights = np.random.default_rng(3).random(SHAPE)
    wanted = [
        (RUN[number == LABELS] * weights[number == LABELS][:, None]).sum(0)
        / weights[number == LABELS].sum()
        for number in IDS
    ]
    for given_weights in (weights, weights[scan.parcellation.labels != 0]):
        found = scan.summary("mean", weights=given_weights)
        np.testing.assert_allclose(found[:, :4], np.column_stack(wanted), rtol=1e-6)
    zero = np.where(LABELS == 9, 0.0, 1.0)
    assert np.isnan(scan.summary("mean", weights=zero)[:, 2]).all()
    np.testing.assert_allclose(
        scan.to_dataframe()["Left V1"].to_numpy(), expected()[:, 0], rtol=1e-12
    )
    for statistic, bad, message in (
        ("mode", None, "unknown statistic"),
        ("median", weights, "weights are for"),
        ("mean", -weights, "negative"),
        ("mean", weights * np.nan, "finite"),
        ("mean", weights[1:], "shape"),
        ("mean", [1.0, 2.0], "shape"),
        (lambda values: values, None, "returned"),
        (lambda values: ["a"] * len(values), None, "returned"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            scan.summary(statistic, weights=bad)


def test_nan_stays_in_its_parcel(tmp_path: Path) -> None:
    run = RUN.copy()
    at = tuple(np.argwhere(LABELS == 9)[0])
    run[(*at, 4)] = np.nan
    made = ParcellatedScan.create(run, tmp_path / "n.h5", parcellation=LABELS, space=SPACE)
    for statistic in STATISTICS:
        wrong = np.argwhere(np.isnan(made.summary(statistic)))
        assert wrong.tolist() == [[4, 2]], statistic


def test_scaled_integers_stay_integers(tmp_path: Path, ending: str) -> None:
    stored = np.random.default_rng(0).integers(-3000, 3000, RUN.shape).astype("i2")
    slopes = np.linspace(0.5, 2, TIMES)
    for slope, inter in ((0.25, 10.0), (slopes, slopes * 3)):
        path = tmp_path / f"s{np.ndim(slope)}.{ending}"
        made = ParcellatedScan.create(
            stored, path, parcellation=LABELS, space=SPACE, slope=slope, inter=inter
        )
        with made, open_store(path) as store:
            assert store.root.array("scans/scan/0").spec.dtype == np.int16
            wanted = np.where((LABELS != 0)[..., None], stored * slope + inter, 0)
            assert made.dtype == np.float32
            np.testing.assert_allclose(made[...], wanted, rtol=1e-6)
            np.testing.assert_allclose(made[..., 3:9:2], wanted[..., 3:9:2], rtol=1e-6)
            np.testing.assert_allclose(
                made.summary("max")[:, 1], wanted[LABELS == 3].max(0), rtol=1e-6
            )


@pytest.mark.parametrize("kind", ["masked", "sequence", "scan", "dense", "per volume"])
def test_stored_numbers_are_kept(tmp_path: Path, ending: str, kind: str) -> None:
    stored = np.random.default_rng(0).integers(-3000, 3000, RUN.shape).astype("i2")
    options: dict[str, Any] = {"space": SPACE, "slope": 0.3, "inter": 1.0}
    if kind == "per volume":
        options["slope"] = np.linspace(0.5, 2, TIMES)
    dense = fs.NeuroVec.create(stored, tmp_path / f"dense.{ending}", **options)
    path = tmp_path / f"source.{ending}"
    source: Any = dense
    if kind in ("masked", "per volume"):
        source = fs.MaskedNeuroVec.create(dense, path, mask=LABELS)
    elif kind == "sequence":
        source = fs.NeuroVecSeq.create([dense, dense], path)
    elif kind == "scan":
        source = ParcellatedScan.create(dense, path, parcellation=LABELS)
    for number, which in enumerate((source, source.url)):
        made = ParcellatedScan.create(
            which, tmp_path / f"made{number}.{ending}", parcellation=LABELS
        )
        assert made.stored_dtype == np.int16
        np.testing.assert_array_equal(made.slope, dense.slope)
        np.testing.assert_array_equal(made.inter, dense.inter)
        inside = np.where((LABELS != 0)[..., None], dense[...], 0)
        np.testing.assert_array_equal(made[..., :TIMES], inside)
        raw = np.where((LABELS != 0)[..., None], stored, 0)
        np.testing.assert_array_equal(made.raw[..., :TIMES], raw)
        np.testing.assert_array_equal(made.series((0, 0, 0), raw=True)[:TIMES], raw[0, 0, 0])
        for max_memory in (1 << 20,) if kind == "dense" else (1 << 20, 100):
            with (
                as_source(which) as run,
                voxel_reader(run, made.parcellation.voxel_set).matrix(max_memory) as numbers,
            ):
                assert numbers.matrix.dtype == np.int16
                series = numbers.read(slice(3, 9, 1), slice(2, 5, 1))
            np.testing.assert_array_equal(series, made.series(made.voxels[3:9])[2:5])


def test_voxels_that_are_not_stored_have_the_fill_of_their_source(tmp_path: Path) -> None:
    mask = LABELS == 2
    stored = RUN.astype("i2")
    masked = fs.MaskedNeuroVec.create(
        stored, tmp_path / "m.h5", mask=mask, space=SPACE, slope=0.3, inter=1.0, fill=5
    )
    made = ParcellatedScan.create(masked, tmp_path / "s.h5", parcellation=LABELS)
    assert made.stored_dtype == made.dtype == np.float32
    np.testing.assert_array_equal(made[...], np.where((LABELS != 0)[..., None], masked[...], 0))


@pytest.mark.parametrize("dtype", ["u1", "i4", "f8", "c8"])
def test_other_types(tmp_path: Path, ending: str, dtype: str) -> None:
    run = make_run(dtype=dtype)
    made = ParcellatedScan.create(run, tmp_path / f"d.{ending}", parcellation=LABELS, space=SPACE)
    assert made.dtype == run.dtype
    np.testing.assert_array_equal(made[...], np.where((LABELS != 0)[..., None], run, 0))
    if dtype == "c8":
        np.testing.assert_allclose(made.summary("mean")[:, 0], run[LABELS == 2].mean(0), rtol=1e-5)
        with pytest.raises(InvalidInputError, match="complex"):
            made.summary("median")


def test_memory_limit_and_scratch_file(tmp_path: Path, ending: str) -> None:
    run = make_run(times=60)
    space = SPACE.with_time(60)
    peaks = []
    for max_memory in (2**28, 150_000):
        made = ParcellatedScan.create(
            run,
            tmp_path / f"m{max_memory}.{ending}",
            parcellation=LABELS,
            space=space,
            codec="portable",
            max_memory=max_memory,
        )
        peaks.append(made[...])
    np.testing.assert_array_equal(*peaks)


# Summaries -----------------------------------------------------------------------------------


@pytest.fixture
def summary(tmp_path: Path, ending: str) -> Iterator[ParcellatedScanSummary]:
    with ParcellatedScanSummary.create(
        RUN, tmp_path / f"sum.{ending}", parcellation=LABELS, names=NAMES, space=SPACE
    ) as made:
        yield made


def test_summary(summary: ParcellatedScanSummary) -> None:
    wanted = expected().astype("f4")
    np.testing.assert_allclose(summary.to_numpy(), wanted, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(summary), summary.to_numpy())
    assert summary.shape == wanted.shape == (TIMES, 5)
    assert summary.dtype == np.float32
    assert summary.statistic == "mean"
    assert summary.name == "scan"
    assert len(summary) == TIMES
    np.testing.assert_array_equal(summary[3:9:2, ::-1], summary.to_numpy()[3:9:2, ::-1])
    assert summary[2, 1] == summary.to_numpy()[2, 1]
    np.testing.assert_array_equal(summary["a/b"], summary.to_numpy()[:, 2])
    np.testing.assert_array_equal(summary.series(9), summary["a/b"])
    np.testing.assert_array_equal(
        summary.series(["..", 2], times=slice(2, 5)), summary.to_numpy()[2:5][:, [3, 0]]
    )
    np.testing.assert_array_equal(summary[["..", 2]], summary.to_numpy()[:, [3, 0]])
    kept = [t % 2 == 0 for t in range(TIMES)]
    np.testing.assert_array_equal(summary[kept], np.asarray(summary)[kept])
    assert summary[[9]].shape == (TIMES, 1)
    for wrong in ("nope", 5):
        with pytest.raises(SelectionError):
            summary.series(wrong)
        with pytest.raises(SelectionError, match="no parcel"):
            summary[[wrong]]
    np.testing.assert_array_equal(summary[1:4, ["a/b", ".."]], summary[1:4, [2, 3]])
    np.testing.assert_array_equal(summary[1:4, "a/b"], summary[1:4, 2])
    with pytest.raises(SelectionError, match="no parcel"):
        summary[:, ["nope"]]
    with pytest.raises(SelectionError):
        summary[0, 0, 0]
    frame = summary.to_dataframe()
    assert list(frame.columns) == list(NAMES.values())
    assert frame.index.name == "time"
    assert frame.index[2] == 3.0
    np.testing.assert_array_equal(frame.to_numpy(), summary.to_numpy())
    assert "mean" in repr(summary)


@pytest.mark.parametrize("name", ["mean", "std", "var", "min", "max"])
def test_statistics_of_summaries_are_those_of_numpy(
    summary: ParcellatedScanSummary, name: str
) -> None:
    values = summary.to_numpy().astype("f8")
    for axis in (None, 0, 1, -1, (0, 1)):
        found = getattr(summary, name)(axis, max_memory="3KB")
        np.testing.assert_allclose(found, getattr(np, name)(values, axis=axis), rtol=1e-6)
    with pytest.raises(SelectionError, match="no axis 3 of 2"):
        getattr(summary, name)(3)


def test_no_pandas(summary: ParcellatedScanSummary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(fs.errors.DependencyError, match=r"fmristore\[tables\]"):
        summary.to_dataframe()


def test_series_given_as_they_are(tmp_path: Path, ending: str) -> None:
    given_matrix = np.random.default_rng(0).normal(size=(6, 5))
    with ParcellatedScanSummary.create(
        given_matrix,
        tmp_path / f"g.{ending}",
        parcellation=LABELS,
        names=NAMES,
        space=SPACE,
        tr=0.8,
    ) as made:
        np.testing.assert_array_equal(made.to_numpy(), given_matrix)
        assert made.tr == 0.8
        assert made.dtype == np.float64
        again = ParcellatedScanSummary.create(
            made, tmp_path / f"again.{ending}", parcellation=made.parcellation
        )
        np.testing.assert_array_equal(again.to_numpy(), given_matrix)
        assert again.tr == 0.8
    with pytest.raises(InvalidInputError, match="one column"):
        ParcellatedScanSummary.create(
            given_matrix[:, 1:], tmp_path / "no.h5", parcellation=LABELS, names=NAMES, space=SPACE
        )
    with pytest.raises(InvalidInputError, match="matrix"):
        ParcellatedScan.create(given_matrix, tmp_path / "no.h5", parcellation=LABELS, space=SPACE)
    assert not (tmp_path / "no.h5").exists()


# Any object ----------------------------------------------------------------------------------


def test_pickle_close_and_formats(
    scan: ParcellatedScan, summary: ParcellatedScanSummary, multi: ParcellatedMultiScan
) -> None:
    for made in (scan, summary, multi):
        again = pickle.loads(pickle.dumps(made))
        assert repr(again) == repr(made)
        assert isinstance(fs.open(made.url), type(made))
        assert fs.open(made.url, format=made.format_name).url == made.url
        assert again.parcellation.same_as(made.parcellation)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scan))[...], INSIDE)
    scan.close()
    with pytest.raises(ClosedError):
        scan[0, 0, 0]
    with pytest.raises(ClosedError):
        pickle.dumps(scan)


def test_import_is_light() -> None:
    code = (
        "import sys, fmristore as fs\n"
        "fs.Parcellation\n"
        "assert not {'pandas', 'h5py', 'zarr', 'scipy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


@pytest.mark.parametrize("first", ["h5", "zarr"])
def test_transcoding_both_ways(tmp_path: Path, first: str) -> None:
    second = "zarr" if first == "h5" else "h5"
    source, there, back = (
        tmp_path / f"{n}.{e}" for n, e in zip("abc", (first, second, first), strict=True)
    )
    with ParcellatedMultiScan.create(
        {"full / 1": RUN}, source, parcellation=LABELS, names=NAMES, space=SPACE, codec="dual"
    ) as made:
        made.add_scan("mean", RUN, statistic="mean", tr=1.5, metadata={"x": "\u03b1"})
    fs.transcode(source, there)
    fs.transcode(there, back)
    for path in (there, back):
        with fs.open(path) as found:
            assert found.scan_names == ("full / 1", "mean")
            np.testing.assert_array_equal(found["full / 1"][...], INSIDE)
            np.testing.assert_allclose(found["mean"].to_numpy(), expected(), rtol=1e-6)
            assert dict(found["mean"].metadata) == {"x": "\u03b1"}
            assert found.names == tuple(NAMES.values())
        assert fs.verify(path, deep=True).ok


def test_axes_and_attributes_say_what_the_format_asks_for(scan: ParcellatedScan) -> None:
    with open_store(scan.url) as store:
        root = store.root
        attributes = root.read_attributes()
        assert attributes["fmristore_format"] == "parcellatedscan"
        assert attributes["scans"] == ["rest / run 1"]
        group = root.group("scans/rest %2F run 1")
        assert group.read_attributes()["name"] == "rest / run 1"
        assert group.read_attributes()["kind"] == "full"
        assert group.group("metadata").read_attributes()["task"] == "rest"
        assert group.array("0").spec.dims == ("voxel", "t")
        np.testing.assert_allclose(group.array("t").read(), np.arange(TIMES) * 1.5)
        parcels = root.group("parcellation")
        assert parcels.array("labels").spec.dims == ("z", "y", "x")
        assert parcels.array("labels").spec.dtype == np.int32
        np.testing.assert_array_equal(parcels.array("labels").read().T, LABELS)
        np.testing.assert_array_equal(parcels.array("mask").read().T, LABELS != 0)
        np.testing.assert_array_equal(parcels.array("ids").read(), [*IDS, 41])
        np.testing.assert_array_equal(parcels.array("voxels").read(), scan.voxels)
        np.testing.assert_array_equal(parcels.array("indptr").read(), scan.indptr)
        assert parcels.array("names").read().tolist() == list(NAMES.values())


def test_the_parcellation_is_compressed(tmp_path: Path, ending: str) -> None:
    labels = np.repeat(np.arange(1, 51), 2000).reshape(50, 50, 40)
    run = np.ones((*labels.shape, 2), "f4")
    path = tmp_path / f"s.{ending}"
    with ParcellatedScanSummary.create(run, path, parcellation=labels, space=AFFINE) as made:
        np.testing.assert_array_equal(made.parcellation.labels, labels)
        assert made.stored_bytes is not None
        assert made.stored_bytes < labels.size * 12 / 4
    with open_store(path) as store:
        for name in ("labels", "mask", "voxels", "indptr"):
            spec = store.root.array(f"parcellation/{name}").spec
            assert spec.codecs
            assert spec.layout.chunks == spec.shape


def test_columns_are_kept(tmp_path: Path, ending: str) -> None:
    table = {
        "index": list(IDS),
        "name": ["a", "b", "c", "d"],
        "z/weird": [1.5, 2.5, 3.5, 4.5],
        "colour": ["red", "", "\u03b2", "blue"],
        "order": [4, 3, 2, 1],
    }
    path = tmp_path / f"c.{ending}"
    with ParcellatedScanSummary.create(
        RUN, path, parcellation=LABELS, names=table, space=SPACE
    ) as made:
        columns = made.table.columns
        assert list(columns) == ["z/weird", "colour", "order"]
        assert columns["colour"].tolist() == ["red", "", "\u03b2", "blue"]
        np.testing.assert_array_equal(columns["order"], [4, 3, 2, 1])
        np.testing.assert_array_equal(columns["z/weird"], table["z/weird"])


# Several scans -------------------------------------------------------------------------------


def test_adding_and_reading(multi: ParcellatedMultiScan) -> None:
    assert len(multi) == 0
    assert list(multi.scan_names) == []
    other = make_run(5, times=9)
    multi.add_scan("task-b", RUN, metadata={"task": "b"}, tr=2.0)
    multi.add_scan("task-a", other, statistic="median")
    multi.add_scans({"../x": RUN, "\u03b1" * 300: RUN}, statistic=np.mean)
    assert list(multi.scan_names) == ["task-b", "task-a", "../x", "\u03b1" * 300]
    assert list(multi) == list(multi.keys()) == list(multi.scan_names)
    assert "task-a" in multi
    assert "nope" not in multi
    full, short = multi["task-b"], multi["task-a"]
    assert isinstance(full, ParcellatedScan)
    assert isinstance(short, ParcellatedScanSummary)
    np.testing.assert_array_equal(full[...], INSIDE)
    assert full.tr == 2.0
    np.testing.assert_allclose(short.to_numpy(), expected(np.median, other), rtol=1e-6)
    assert short.statistic == "median"
    assert short.tr is None
    assert [type(s).__name__ for s in multi.values()] == [
        "ParcellatedScan",
        *["ParcellatedScanSummary"] * 3,
    ]
    assert dict(multi.items())["../x"].name == "../x"
    with fs.open(multi.url) as again:
        assert again.scan_names == multi.scan_names
    np.testing.assert_array_equal(full[...], INSIDE)  # opened before nothing more was added
    with pytest.raises(SelectionError, match="no scan is called"):
        multi["nope"]
    with pytest.raises(SelectionError):
        multi[0]  # type: ignore[index]
    assert "4 scans" in repr(multi)


def test_scans_opened_before_stay_readable(multi: ParcellatedMultiScan) -> None:
    multi.add_scan("one", RUN)
    one = multi["one"]
    multi.add_scan("two", RUN, statistic="mean")
    np.testing.assert_array_equal(one[...], INSIDE)
    multi.close()
    with pytest.raises(ClosedError):
        one[...]


def test_removing(multi: ParcellatedMultiScan) -> None:
    multi.add_scans({"one": RUN, "two": RUN})
    multi.remove_scan("one")
    assert list(multi.scan_names) == ["two"]
    with fs.open(multi.url) as again, open_store(multi.url) as store:
        assert again.scan_names == ("two",)
        assert list(store.root.group("scans").children()) == ["two"]
    with pytest.raises(SelectionError):
        multi.remove_scan("one")
    multi.add_scan("one", make_run(9))
    assert list(multi.scan_names) == ["two", "one"]
    np.testing.assert_array_equal(multi["two"][...], INSIDE)


def test_opening_one_scan_touches_no_other(tmp_path: Path) -> None:
    path = tmp_path / "m.zarr"
    ParcellatedMultiScan.create(
        {"one": RUN, "two": RUN}, path, parcellation=LABELS, space=SPACE
    ).close()
    shutil.rmtree(path / "scans" / "two")
    with fs.open(path) as multi:
        np.testing.assert_array_equal(multi["one"][...], INSIDE)
        with pytest.raises(MetadataError, match="not there"):
            multi["two"]


def test_concatenating(multi: ParcellatedMultiScan) -> None:
    with pytest.raises(InvalidInputError, match="no such scan"):
        multi.concat()
    other = make_run(5, times=9)
    multi.add_scan("a", RUN, tr=1.5)
    multi.add_scan("b", other, statistic="mean")
    joined = multi.concat()
    np.testing.assert_allclose(
        joined.values, np.concatenate([expected(), expected(run=other)]), rtol=1e-6
    )
    assert joined.boundaries.tolist() == [0, 13, 22]
    assert joined.scan_names == ("a", "b")
    assert joined.columns == multi.names
    assert joined.split()["b"].shape == (9, 5)
    assert np.asarray(joined).shape == joined.shape == (22, 5)
    frame = joined.to_dataframe()
    assert frame.index.names == ["scan", "volume"]  # scan b was an array, of unknown times
    assert frame.loc[("b", 3), "Left V1"] == joined.values[16, 0]
    assert (joined.trs, joined.tr) == ((1.5, None), None)
    multi.add_scan("c", RUN[..., :4], statistic="mean", tr=0.5)
    timed = multi.concat(["a", "c"])
    assert (timed.trs, timed.tr) == ((1.5, 0.5), None)
    assert timed.to_dataframe().loc[("c", 1.5), "a/b"] == timed.values[16, 2]
    assert timed.to_dataframe().index.names == ["scan", "time"]
    assert multi.concat(["a", "a"]).tr == 1.5
    np.testing.assert_array_equal(joined["a/b"], joined.values[:, 2])
    np.testing.assert_array_equal(joined[["..", 2]], joined.values[:, [3, 0]])
    np.testing.assert_array_equal(joined[3:5, 1], joined.values[3:5, 1])
    with pytest.raises(SelectionError, match="did you mean 'Left V1'"):
        joined["Left V2"]
    assert multi.concat(["b"]).shape == (9, 5)
    at = tuple(np.argwhere(LABELS == 9)[0])
    voxels = multi.series(at)
    np.testing.assert_array_equal(voxels.values, RUN[at])
    assert voxels.scan_names == ("a",)
    assert voxels.tr == 1.5
    np.testing.assert_array_equal(voxels[[1, 2]], voxels.values[[1, 2]])
    with pytest.raises(InvalidInputError, match="holds no voxels"):
        multi.series(at, scans=["b"])
    with pytest.raises(SelectionError):
        multi.concat(["nope"])
    with pytest.raises(InvalidInputError, match="list of names"):
        multi.concat("a")


def state(url: str) -> Any:
    """All that a reader sees of a store."""
    with ParcellatedMultiScan.open(url) as found:
        return {name: np.nan_to_num(found[name].to_numpy()).tolist() for name in found}


def no_left_overs(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.suffix in (".partial", ".old")]


@pytest.mark.parametrize("moment", ["source", "writing", "list", "check", "interrupt"])
def test_what_fails_leaves_everything_as_it_was(
    multi: ParcellatedMultiScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    multi.add_scan("one", RUN, statistic="mean")
    before = state(multi.url)

    def fail(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt if moment == "interrupt" else StorageError("disk full")

    source: Any = RUN
    if moment == "source":
        source = np.ones((2, 2, 2, 3), "f4")
    elif moment == "check":
        monkeypatch.setattr(parcellated_change, "_check_scans", fail)
    elif moment == "list":
        monkeypatch.setattr(parcellated_change, "_list", fail)
    else:
        monkeypatch.setattr(new_arrays, "write", fail)
    if moment == "check" and multi.url.endswith("zarr"):
        return  # the new scan is complete and visible by then
    with pytest.raises((FmristoreError, KeyboardInterrupt)):
        multi.add_scan("two", source)
    monkeypatch.undo()
    assert list(multi.scan_names) == ["one"]
    assert state(multi.url) == before
    assert no_left_overs(tmp_path)
    multi.add_scan("two", RUN)
    np.testing.assert_array_equal(multi["two"][...], INSIDE)
    assert list(multi.scan_names) == ["one", "two"]


def test_killed_while_adding(tmp_path: Path, ending: str) -> None:
    """A process that ends in the middle leaves a readable store, to which scans can be added."""
    url = tmp_path / f"k.{ending}"
    ParcellatedMultiScan.create(
        {"one": RUN}, url, parcellation=LABELS, space=SPACE, statistic="mean"
    ).close()
    before = state(str(url))
    code = (
        "import os, sys, numpy as np, fmristore as fs\n"
        "from fmristore.formats.parcellated import edit\n"
        "edit._list = lambda *_: os._exit(7)\n"
        "fs.open(sys.argv[1]).add_scan('two', np.ones((7, 6, 5, 4), 'f4'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(url)], check=False, env=environment())
    assert done.returncode == 7
    assert state(str(url)) == before
    with fs.open(url) as multi:
        multi.add_scan("two", RUN)
        assert list(multi.scan_names) == ["one", "two"]
        np.testing.assert_array_equal(multi["two"][...], INSIDE)


def test_two_writers(multi: ParcellatedMultiScan) -> None:
    with fs.open(multi.url) as other:
        other.add_scan("one", RUN, statistic="mean")
    with pytest.raises(AlreadyExistsError):
        multi.add_scan("one", RUN)
    multi.add_scan("two", RUN, statistic="mean")
    assert multi.scan_names == ("one", "two")
    assert list(state(multi.url)) == ["one", "two"]
    with fs.open(multi.url) as other:
        other.remove_scan("one")
    multi.remove_scan("two")
    assert list(state(multi.url)) == []


def test_two_writers_one_of_whom_puts_another_store_there(multi: ParcellatedMultiScan) -> None:
    """Series of voxels are those of the parcels that the writer knows."""
    labels = LABELS.copy()
    labels[labels == labels.max()] = 0
    ParcellatedMultiScan.create(
        {"a": RUN},
        multi.url,
        parcellation=labels,
        space=SPACE,
        statistic="mean",
        overwrite=True,
    ).close()
    with pytest.raises(ChangedError, match="open it again"):
        multi.add_scan("two", RUN)
    assert list(state(multi.url)) == ["a"]


def test_what_cannot_be_added(multi: ParcellatedMultiScan) -> None:
    multi.add_scan("one", RUN, statistic="mean")
    moved = fs.NeuroSpace(spatial_shape=SHAPE, affine=np.eye(4), time_points=TIMES)
    nibabel: Any = pytest.importorskip("nibabel")
    for source, options, error, message in (
        (RUN, {"name": "one"}, AlreadyExistsError, "already"),
        (RUN, {"name": ""}, InvalidInputError, "empty"),
        (RUN, {"name": "nul\x00"}, InvalidInputError, "NUL"),
        (RUN, {"statistic": "mode"}, InvalidInputError, "unknown statistic"),
        (RUN, {"weights": np.ones(SHAPE)}, InvalidInputError, "weights"),
        (RUN, {"metadata": {"x": object()}}, InvalidInputError, "JSON"),
        (RUN, {"metadata": {"x": float("nan")}}, InvalidInputError, "JSON"),
        (RUN, {"codec": "zip"}, InvalidInputError, "zip"),
        (RUN[1:], {}, InvalidInputError, "shape"),
        (RUN[..., 0], {}, InvalidInputError, ""),
        (np.ones((3, 2)), {}, InvalidInputError, "one column"),
        (nibabel.Nifti1Image(RUN, moved.affine), {}, InvalidInputError, "mm apart"),
        ("nowhere.nii.gz", {}, fs.errors.NotFoundError, ""),
        (np.full((*SHAPE, 2), "a"), {}, InvalidInputError, ""),
    ):
        with pytest.raises(error, match=message or None):
            multi.add_scan(**{"name": "two", "source": source, **options})  # type: ignore[arg-type]
    assert list(state(multi.url)) == ["one"]
    with pytest.raises(AlreadyExistsError):
        ParcellatedMultiScan.create({}, multi.url, parcellation=LABELS, space=SPACE)
    with pytest.raises(InvalidInputError, match="no scan"):
        ParcellatedMultiScan.create(
            {}, "x.h5", parcellation=LABELS, space=SPACE, metadata={"nope": {}}
        )


def test_on_object_storage(s3: S3Server, ending: str) -> None:
    url = s3.url(f"multi.{ending}")
    with ParcellatedMultiScan.create(
        {}, url, parcellation=LABELS, names=NAMES, space=SPACE, storage_options=s3.options
    ) as multi:
        multi.add_scan("one", RUN)
        multi.add_scan("two", RUN, statistic="mean")
        multi.remove_scan("one")
        multi.add_scan("one", RUN)
    with fs.open(url, storage_options=s3.options) as found:
        assert found.scan_names == ("two", "one")
        np.testing.assert_array_equal(found["one"][...], INSIDE)
        np.testing.assert_allclose(found["two"].to_numpy(), expected(), rtol=1e-6)
        assert found.stored_bytes is not None
        assert found.stored_bytes > 1000


# Damage --------------------------------------------------------------------------------------


def damaged(scan: ParcellatedScan, change: Callable[[Any], None]) -> None:
    with open_store(scan.url, "r+") as store:
        change(store.root)
    with fs.open(scan.url) as found:
        found[...]


def _replace(root: Any, path: str, values: Any) -> None:
    from fmristore.formats.new_arrays import write_plain

    parent, _, name = path.rpartition("/")
    group = root.group(parent) if parent else root
    dims = group.array(name).spec.dims
    group.remove(name)
    write_plain(group, name, dims, values)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root.write_attributes(root.read_attributes() | {"scans": "one"}),
        lambda root: root.write_attributes(root.read_attributes() | {"scans": ["a", "a"]}),
        lambda root: root.write_attributes(root.read_attributes() | {"scans": ["a"]}),
        lambda root: root.write_attributes(root.read_attributes() | {"scans": []}),
        lambda root: root.group("parcellation").remove("labels"),
        lambda root: root.group("parcellation").remove("names"),
        lambda root: root.write_attributes(root.read_attributes() | {"affine": None}),
        lambda root: root.write_attributes(root.read_attributes() | {"affine": [0.0] * 16}),
        lambda root: _replace(root, "parcellation/ids", np.array([3, 2, 9, 40, 41])),
        lambda root: _replace(root, "parcellation/ids", np.array([-2, 3, 9, 40, 41])),
        lambda root: _replace(root, "parcellation/ids", np.array([2, 3, 9, 41])),
        lambda root: _replace(root, "parcellation/ids", np.array([2, 3, 9, 42, 43])),
        lambda root: _replace(root, "parcellation/indptr", np.arange(6)),
        lambda root: _replace(
            root,
            "parcellation/voxels",
            np.full_like(root.array("parcellation/voxels").read(), 10**6),
        ),
        lambda root: _replace(
            root, "parcellation/voxels", root.array("parcellation/voxels").read()[::-1].copy()
        ),
        lambda root: _replace(root, "parcellation/mask", np.zeros(SHAPE[::-1], "u1")),
        lambda root: _replace(root, "scans/rest %2F run 1/0", np.zeros((3, TIMES))),
        lambda root: root.group("scans/rest %2F run 1").write_attributes({"kind": "odd"}),
        lambda root: root.group("scans/rest %2F run 1").write_attributes({"kind": "summary"}),
        lambda root: root.group("scans/rest %2F run 1").write_attributes(
            {"kind": "full", "repetition_time": -1}
        ),
        lambda root: root.group("scans").remove("rest %2F run 1"),
    ],
)
def test_damage_is_told(scan: ParcellatedScan, change: Callable[[Any], None]) -> None:
    scan.close()
    with pytest.raises(MetadataError) as caught:
        damaged(scan, change)
    assert caught.value.url


def test_missing_chunk(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    ParcellatedScan.create(RUN, path, parcellation=LABELS, space=SPACE).close()
    shutil.rmtree(path / "scans" / "scan" / "0" / "c")
    with fs.open(path) as found, pytest.raises(CorruptDataError):
        found[...]


# The R package -------------------------------------------------------------------------------


R_FILES = [
    "cluster_result_full",
    "cluster_result_summary",
    "parcel_background_zero_first",
    "parcel_background_zero_later",
    "parcel_multiscan_from_clusteredneurovec",
    "parcel_multiscan_full",
    "parcel_multiscan_full_c0_defaults",
    "parcel_multiscan_mixed_metadata",
    "parcel_multiscan_summary_mean",
    "parcel_multiscan_summary_median",
    "parcel_scan_full",
    "parcel_scan_full_c0",
    "parcel_scan_summary",
    "parcel_scan_summary_defaults_c0",
    "parcel_unicode_metadata",
]


def _golden(shared_data: Path, name: str) -> tuple[Any, Any, Any]:
    folder = shared_data / "golden" / "r-fmristore"
    meta = json.loads((folder / f"{name}.expected.json").read_text())
    return fs.open(folder / f"{name}.h5"), load_npz(folder / f"{name}.expected.npz"), meta


def _check_run(run: Any, prefix: str, values: Any, arrays: Any) -> None:
    """Compare a run with everything that R read of it."""

    def index(name: str) -> Any:
        return arrays[f"{prefix}{name}"].get("index", {})

    if f"{prefix}full" in values:
        np.testing.assert_array_equal(run[...], values[f"{prefix}full"])
    order = np.argwhere(run.parcellation.mask.transpose(2, 1, 0))[:, ::-1]
    if f"{prefix}voxels" in values:
        np.testing.assert_array_equal(run.series(order), values[f"{prefix}voxels"].T)
    if f"{prefix}series" in values:
        chosen = order[np.array(index("series")["i"]) - 1]
        np.testing.assert_array_equal(run.series(chosen), values[f"{prefix}series"])
    if f"{prefix}series_coords" in values:
        chosen = np.array(index("series_coords")["coords"]) - 1
        np.testing.assert_array_equal(run.series(chosen), values[f"{prefix}series_coords"])
    if f"{prefix}slice" in values:
        box = [np.atleast_1d(index("slice")[axis]) - 1 for axis in "ijkl"]
        np.testing.assert_array_equal(run[...][np.ix_(*box)], values[f"{prefix}slice"])
    if f"{prefix}matrix" in values:
        np.testing.assert_array_equal(run.to_numpy(), values[f"{prefix}matrix"])


@pytest.mark.parametrize("name", R_FILES)
def test_files_of_the_r_package(shared_data: Path, name: str) -> None:
    opened, values, expectation = _golden(shared_data, name)
    meta = expectation["meta"]
    with opened:
        parcels = opened.parcellation
        if "mask_space_trans" in values and isinstance(opened, ParcellatedMultiScan):
            np.testing.assert_allclose(opened.affine, values["mask_space_trans"], atol=1e-6)
        if "cluster_map" in values:
            order = np.argwhere(parcels.mask.transpose(2, 1, 0))[:, ::-1]
            np.testing.assert_array_equal(parcels.mask, values["mask"])
            np.testing.assert_array_equal(parcels.labels[tuple(order.T)], values["cluster_map"])
        if isinstance(opened, ParcellatedMultiScan):
            assert list(opened.scan_names) == meta.get("scan_names", ["s0"])
            runs = {f"run{i + 1}_": run for i, run in enumerate(opened.values())}
        else:
            assert opened.name == meta["scan_name"]
            assert opened.time_points == meta["n_time"]
            runs = {"": opened}
        for prefix, run in runs.items():
            _check_run(run, prefix, values, expectation["arrays"])
            if f"{prefix}n_time" in meta:
                assert run.time_points == meta[f"{prefix}n_time"]
            if f"{prefix}class" in meta:
                assert meta[f"{prefix}class"].removeprefix("H5") == type(run).__name__
            if f"{prefix}cluster_ids" in meta:
                assert run.ids.tolist() == meta[f"{prefix}cluster_ids"]
        again = pickle.loads(pickle.dumps(opened))
        assert repr(again) == repr(opened)
        if not name.startswith("parcel_background"):
            assert parcels.ids.tolist() == [3, 7, 12, 40, 41]


def test_concatenating_as_r_does(shared_data: Path) -> None:
    opened, values, meta = _golden(shared_data, "parcel_multiscan_full")
    chosen = np.array(meta["arrays"]["series_concat"]["index"]["mask_idx"]) - 1
    order = np.argwhere(opened.parcellation.mask.transpose(2, 1, 0))[:, ::-1]
    np.testing.assert_array_equal(opened.series(order[chosen]).values, values["series_concat"])
    opened, values, _ = _golden(shared_data, "parcel_multiscan_summary_mean")
    np.testing.assert_array_equal(opened.concat().values, values["matrix_concat"])
    with pytest.raises(ReadOnlyError, match="R package"):
        opened.add_scan("x", RUN)


def test_metadata_of_the_r_package(shared_data: Path) -> None:
    opened, _, meta = _golden(shared_data, "parcel_multiscan_mixed_metadata")
    for name, wanted in meta["meta"]["scan_metadata"].items():
        assert dict(opened[name].metadata) == wanted
    assert opened["rest_run-01"].tr == 2.0
    table = meta["meta"]["cluster_metadata"]
    assert list(opened.names) == table["name"]
    assert list(opened.table.columns) == ["hemi", "n_voxels", "weight"]
    assert opened.table.columns["hemi"].tolist() == table["hemi"]
    np.testing.assert_allclose(opened.table.columns["weight"], table["weight"])
    opened, _, meta = _golden(shared_data, "parcel_unicode_metadata")
    assert list(opened.names) == meta["meta"]["cluster_metadata_as_written"]["name"]
    assert opened["task-nback_run-01"].metadata["task"] == "r\u00e9st \u03b1"


def _structure(path: Path) -> dict[str, Any]:
    """Nodes of an HDF5 file, with shapes, kinds of values and names of other attributes."""
    import h5py

    found: dict[str, Any] = {}
    with h5py.File(path) as file:

        def visit(name: str, node: Any) -> None:
            attributes = sorted(
                a for a in node.attrs if a not in ("DIMENSION_LIST", "REFERENCE_LIST", "digest")
            )
            shape = getattr(node, "shape", None)
            kind = None if shape is None else node.dtype.kind + str(node.dtype.itemsize)
            found[name] = (shape, kind, attributes)

        visit("/", file)
        file.visititems_links(lambda name, _: visit(name, file[name]))
    return found


_META = "clusters/cluster_meta"
_SECOND_NAMES = {_META} | {
    f"{_META}/{name}" for name in ("cluster_id", "name", "hemi", "n_voxels", "weight")
}
"""What single scans have besides: R keeps the table there in files of several scans only."""


@pytest.mark.parametrize(
    "name",
    [
        "parcel_multiscan_full",
        "parcel_multiscan_summary_mean",
        "parcel_multiscan_mixed_metadata",
        "parcel_scan_full",
        "parcel_scan_summary",
    ],
)
def test_written_as_the_r_package_does(shared_data: Path, tmp_path: Path, name: str) -> None:
    opened, _, _ = _golden(shared_data, name)
    with opened:
        parcels = opened.parcellation
        path = tmp_path / "r.h5"
        if isinstance(opened, ParcellatedMultiScan):
            sources = {
                n: s.to_numpy() if isinstance(s, ParcellatedScanSummary) else s
                for n, s in opened.items()
            }
            made: Any = ParcellatedMultiScan.create(
                sources,
                path,
                parcellation=parcels,
                metadata={n: s.metadata for n, s in opened.items()},
                profile="r",
            )
            assert made.scan_names == opened.scan_names
            for n, scan in opened.items():
                np.testing.assert_array_equal(np.asarray(made[n]), np.asarray(scan))
                assert dict(scan.metadata).items() <= dict(made[n].metadata).items()
        else:
            made = type(opened).create(
                opened.to_numpy() if isinstance(opened, ParcellatedScanSummary) else opened,
                path,
                parcellation=parcels,
                name=opened.name,
                metadata=opened.metadata,
                profile="r",
            )
            np.testing.assert_array_equal(np.asarray(made), np.asarray(opened))
        assert made.parcellation.same_as(parcels)
        made.close()
    theirs = _structure(shared_data / "golden" / "r-fmristore" / f"{name}.h5")
    ours = _structure(path)
    extra = {node for node in set(ours) - set(theirs) if "metadata" not in node}
    assert extra == (_SECOND_NAMES if "scan_name" in ours["/"][2] else set())
    assert not set(theirs) - set(ours)
    for node, wanted in theirs.items():
        assert ours[node] == wanted or node.endswith("metadata/ok"), node


def test_the_r_profile_keeps_the_affine(tmp_path: Path) -> None:
    rotated = np.array(
        [[-1.9, 0.3, 0.2, 90], [0.28, 2.8, -0.5, -120], [0.1, 0.5, 2.9, -70], [0, 0, 0, 1]]
    )
    left, _, right = np.linalg.svd(rotated[:3, :3])
    rotated[:3, :3] = left @ right * [2.0, 3.0, 3.5]
    for affine in (rotated, AFFINE, np.diag([2.0, 2, 2, 1])):
        path = tmp_path / "r.h5"
        with ParcellatedMultiScan.create(
            {"full": RUN, "e": RUN},
            path,
            parcellation=LABELS,
            names=NAMES,
            space=NeuroSpace(spatial_shape=SHAPE, affine=affine),
            profile="r",
            overwrite=True,
        ) as made:
            np.testing.assert_allclose(made.affine, affine, atol=1e-9)
            assert made.ids.tolist() == list(IDS)  # those without voxels are left out
            np.testing.assert_array_equal(made["full"][...], INSIDE)
    with pytest.raises(InvalidInputError, match=r"\.h5"):
        ParcellatedMultiScan.create(
            {}, tmp_path / "r.zarr", parcellation=LABELS, space=SPACE, profile="r"
        )


def test_the_r_profile_says_utf8_and_streams(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "r.h5"
    with ParcellatedScan.create(
        RUN,
        path,
        parcellation=LABELS,
        names=NAMES,
        space=SPACE,
        metadata={"task": "r\u00e9st"},
        profile="r",
        max_memory=100_000,
    ) as made:
        np.testing.assert_array_equal(made[...], INSIDE)
        assert made.metadata["n_time"] == TIMES
        assert made.tr == 1.5
    with h5py.File(path) as file:
        assert file["clusters/name"].id.get_type().get_cset() == h5py.h5t.CSET_UTF8
        assert file["scans/scan/clusters/cluster_2"].dtype == np.float64
        assert file.attrs["fmristore_class"].tolist() == ["H5ParcellatedScan"]


@pytest.mark.parametrize("cls", [ParcellatedScan, ParcellatedScanSummary])
def test_single_scans_have_their_table_where_r_looks_for_it(
    tmp_path: Path, cls: type[ParcellatedScan] | type[ParcellatedScanSummary]
) -> None:
    import h5py

    table = {"index": list(IDS), "name": list("abcd"), "größe": [1, 2, 3, 4], "w": [0.5] * 4}
    path = tmp_path / "r.h5"
    with cls.create(RUN, path, parcellation=LABELS, names=table, space=SPACE, profile="r") as made:
        columns = dict(made.table.columns)
        assert sorted(columns) == ["größe", "w"]
        assert columns["größe"].tolist() == [1, 2, 3, 4]
        assert made.names == ("a", "b", "c", "d")
    again = {"cluster_id": "cluster_ids"} | {n: n for n in ("name", "gr%C3%B6%C3%9Fe", "w")}
    with h5py.File(path, "r+") as file:
        clusters = file["clusters"]
        assert set(clusters) == {*again.values(), "cluster_meta"}
        assert set(clusters["cluster_meta"]) == set(again)
        for name, beside in again.items():
            assert clusters["cluster_meta"][name] == clusters[beside]
        del clusters["cluster_meta"]
    with fs.open(path) as made:
        assert sorted(made.table.columns) == ["größe", "w"]
        assert made.names == ("a", "b", "c", "d")


def test_names_that_r_lists_are_ascii(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "r.h5"
    table = {"index": list(IDS), "größe-°": [1, 2, 3, 4]}
    metadata = {"größe": "ß", "plain": 1, "empty": [], "big": 2**53, "bigs": [1, -(2**60)]}
    with ParcellatedMultiScan.create(
        {"é scan": RUN},
        path,
        parcellation=LABELS,
        names=table,
        space=SPACE,
        metadata={"é scan": metadata},
        profile="r",
    ) as made:
        assert list(made.scan_names) == ["é scan"]
        assert list(made.table.columns) == ["größe-°"]
        found = dict(made["é scan"].metadata)
    texts = {"empty": "[]", "big": str(2**53), "bigs": ["1", str(-(2**60))]}
    assert found == metadata | texts | {"n_time": TIMES, "TR": 1.5}
    with h5py.File(path, "r+") as file:
        items = file["scans/é scan/metadata"]
        assert set(items) == {"gr%C3%B6%C3%9Fe", *metadata, "n_time", "TR"} - {"größe"}
        assert items["empty"].shape == ()
        assert set(file["clusters/cluster_meta"]) == {
            "cluster_id",
            "name",
            "gr%C3%B6%C3%9Fe-%C2%B0",
        }
        for name in ("50%", "a%20b", "%C3%B6 a%2Fb", "%C3%28", "%c3%b6"):
            items[name] = 1
    with fs.open(path) as made:  # names that only look alike stay what they are
        assert {"50%", "a%20b", "%C3%B6 a%2Fb", "%C3%28", "%c3%b6"} < set(made["é scan"].metadata)
    with pytest.raises(InvalidInputError, match="255 bytes"):
        ParcellatedMultiScan.create(
            {"a": RUN},
            tmp_path / "long.h5",
            parcellation=LABELS,
            space=SPACE,
            metadata={"a": {"ß" * 60: 1}},
            profile="r",
        )
    assert [child.name for child in tmp_path.iterdir()] == ["r.h5"]


def test_r_gets_the_length_of_a_scan_whatever_metadata_say(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    with ParcellatedMultiScan.create(
        {"a": RUN, "b": RUN[..., :5]},
        path,
        parcellation=LABELS,
        space=SPACE,
        metadata={"a": {"n_time": 5, "TR": "two"}, "b": {"n_time": 99}},
        profile="r",
    ) as made:
        assert dict(made["a"].metadata) == {"n_time": TIMES, "TR": 1.5}
        assert dict(made["b"].metadata) == {"n_time": 5, "TR": 1.5}


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8", "u8"])
def test_integers_are_exact_in_r(tmp_path: Path, dtype: str) -> None:
    import h5py

    values = np.full((*SHAPE, TIMES), 2**31 - 1 if dtype == "i4" else 2**32 - 1, dtype)
    values[..., ::2] -= 2
    inside = np.where((LABELS != 0)[..., None], values, 0)
    path = tmp_path / "r.h5"
    with ParcellatedMultiScan.create(
        {"a": values, "b": values.astype("i2")}, path, parcellation=LABELS, space=SPACE, profile="r"
    ) as made:
        np.testing.assert_array_equal(made["a"][...].astype(dtype), inside)
    with h5py.File(path) as file:
        assert file["scans/a/clusters/cluster_2"].dtype == np.float64
        assert file["scans/b/clusters/cluster_2"].dtype == np.float32
    path.unlink()
    if dtype in ("i4", "u4"):
        return
    values[tuple(np.argwhere(LABELS)[0])] = 2**53
    for cls in (ParcellatedMultiScan, ParcellatedScan):
        source: Any = {"a": values} if cls is ParcellatedMultiScan else values
        with pytest.raises(InvalidInputError, match=f"no whole number {2**53} in"):
            cls.create(source, path, parcellation=LABELS, space=SPACE, profile="r")
    table = {"index": list(IDS), "code": [1, 2, 3, 2**53]}
    with pytest.raises(InvalidInputError, match=f"no whole number {2**53} in"):
        ParcellatedMultiScan.create(
            {}, path, parcellation=LABELS, names=table, space=SPACE, profile="r"
        )
    assert not list(tmp_path.iterdir())


def test_warnings_name_the_parcels() -> None:
    with pytest.warns(ParcellationWarning, match="empty"):
        fs.Parcellation.from_labels(LABELS, names=NAMES, space=SPACE)


def test_warnings_point_at_the_line_of_the_caller(tmp_path: Path) -> None:
    options: dict[str, Any] = {"names": NAMES, "space": SPACE}
    calls: list[Callable[[], object]] = [
        lambda: fs.Parcellation.from_labels(LABELS, **options),
        lambda: fs.parcellate(RUN, LABELS, tmp_path / "a.h5", **options).close(),
        lambda: ParcellatedMultiScan.create({}, tmp_path / "b.h5", parcellation=LABELS, **options),
    ]
    for call in calls:
        with pytest.warns(ParcellationWarning) as found:
            call()
        assert [warning.filename for warning in found] == [__file__]
