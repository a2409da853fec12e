"""Masked runs: what is stored by voxel reads as the whole grid would."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import nibabel as untyped_nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fmristore as fs
from fmristore.formats.masked.run import MaskedNeuroVec
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import Access
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray
from tests.old_affine import with_affine_array

nibabel: Any = untyped_nibabel

SHAPE = (7, 5, 4, 11)
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 2.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])
SPACE = NeuroSpace(spatial_shape=SHAPE[:3], affine=AFFINE, time_points=11, tr=1.5)
MASK = np.random.default_rng(7).random(SHAPE[:3]) < 0.5
DATA = np.random.default_rng(8).integers(-300, 300, SHAPE).astype("i2")
STORES = ["h5", "zarr"]


def on_grid(values: AnyArray, fill: float = 0, mask: AnyArray = MASK) -> AnyArray:
    return np.where(mask[..., None], values, np.asarray(fill, values.dtype))


def make(folder: Path, kind: str, data: Any = DATA, **options: Any) -> MaskedNeuroVec:
    options = {"mask": MASK, "space": SPACE, **options}
    return MaskedNeuroVec.create(data, folder / f"run.{kind}", **options)


@pytest.fixture(scope="module", params=STORES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MaskedNeuroVec:
    return make(tmp_path_factory.mktemp("run"), request.param)


def entries(length: int) -> st.SearchStrategy[Any]:
    return st.one_of(st.integers(-length, length - 1), st.slices(length))


# Reading -------------------------------------------------------------------------------------


def test_facts(run: MaskedNeuroVec) -> None:
    assert run.shape == SHAPE
    assert run.ndim == 4
    assert run.dtype == run.stored_dtype == np.int16
    assert run.space == SPACE
    assert run.tr == 1.5
    assert run.spec.shape == (int(MASK.sum()), 11)
    assert run.spec.dims == ("voxel", "t")
    assert np.array_equal(run.mask, MASK)
    assert np.array_equal(run.voxels, np.argwhere(MASK.T)[:, ::-1])
    assert f"{MASK.sum()} of 140 voxels" in repr(run)
    assert "140 voxels" in run._repr_html_()
    with pytest.raises(InvalidInputError, match="plane by plane"):
        iter(run)


@given(index=st.tuples(*map(entries, SHAPE)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_indexing(run: MaskedNeuroVec, index: Any) -> None:
    expected = on_grid(DATA)[index]
    found = run[index]
    assert np.shape(found) == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index", [..., (..., 3), (2,), (None, 2, ..., 1), np.s_[::-2, :, 1:1]])
def test_other_indexes(run: MaskedNeuroVec, index: Any) -> None:
    np.testing.assert_array_equal(run[index], on_grid(DATA)[index])


def test_whole(run: MaskedNeuroVec) -> None:
    np.testing.assert_array_equal(np.asarray(run), on_grid(DATA))
    np.testing.assert_array_equal(run.series(run.voxels).T, DATA[tuple(run.voxels.T)])
    assert np.asarray(run, np.float64).dtype == np.float64


@given(
    points=st.lists(st.tuples(*(st.integers(-n, n - 1) for n in SHAPE[:3])), max_size=12),
    times=st.one_of(st.none(), st.slices(11)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_series(run: MaskedNeuroVec, points: list[tuple[int, int, int]], times: Any) -> None:
    expected = on_grid(DATA)[..., times or slice(None)]
    found = run.series(points, times=times)
    columns = [expected[p] for p in points]
    assert found.shape == (expected.shape[3], len(points))
    for column, series in enumerate(columns):
        np.testing.assert_array_equal(found[:, column], series)


def test_series_of_one_voxel_and_of_a_mask(run: MaskedNeuroVec) -> None:
    inside, outside = tuple(np.argwhere(MASK)[3]), tuple(np.argwhere(~MASK)[3])
    np.testing.assert_array_equal(run.series(inside), DATA[inside])
    np.testing.assert_array_equal(run.series(outside), np.zeros(11))
    region = np.zeros(SHAPE[:3])
    region[2:5] = 1
    order = np.argwhere(region)
    np.testing.assert_array_equal(run.series(mask=region), on_grid(DATA)[tuple(order.T)].T)


def test_plan_counts_only_chunks_with_voxels(tmp_path: Path) -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[:20] = True
    data = np.zeros((*mask.shape, 60), "f4")
    run = MaskedNeuroVec.create(data, tmp_path / "a.zarr", mask=mask, space=np.eye(4))
    everything, one, nothing = run.plan[...], run.plan[1, 2, 3], run.plan[30, 2, 3]
    assert one.chunks == 1
    assert nothing.chunks == 0
    assert everything.chunks == everything.chunks_in_all > 1
    assert one.shape == (60,)


# Scaling and fill ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("fill", [0, -3, 0.5, float("nan"), float("-inf")])
def test_scaled_numbers_are_stored_as_they_came(tmp_path: Path, kind: str, fill: float) -> None:
    run = make(tmp_path, kind, slope=0.5, inter=2.0, fill=fill)
    with fs.open(run.url) as again:
        expected = on_grid(DATA * np.float32(0.5) + np.float32(2), fill)
        np.testing.assert_array_equal(np.asarray(again), expected)
        assert again.stored_dtype == np.int16
        assert again.dtype == np.float32
        assert (again.slope, again.inter) == (0.5, 2.0)
        np.testing.assert_array_equal(again.raw[...], on_grid(DATA))
        np.testing.assert_array_equal(again.matrix[...], DATA[tuple(again.voxels.T)])
        outside = tuple(np.argwhere(~MASK)[0])
        np.testing.assert_array_equal(again.series(outside), np.full(11, fill, "f4"))
        np.testing.assert_array_equal(again.with_fill(7)[outside], np.full(11, 7))
        dense = again.to_dense(tmp_path / f"dense.{kind}")
        np.testing.assert_array_equal(np.asarray(dense), expected)
        again.to_nifti(tmp_path / "back.nii")
        np.testing.assert_array_equal(nibabel.load(tmp_path / "back.nii").get_fdata(), expected)


@pytest.mark.parametrize("kind", STORES)
def test_a_slope_for_each_volume(tmp_path: Path, kind: str) -> None:
    slope, inter = np.arange(1, 12) / 4, np.arange(11.0)
    run = make(tmp_path, kind, slope=slope, inter=inter)
    expected = on_grid((DATA * slope + inter).astype("f4"))
    np.testing.assert_array_equal(np.asarray(run), expected)
    np.testing.assert_array_equal(run[..., ::-3], expected[..., ::-3])
    np.testing.assert_array_equal(
        run.series((1, 2, 3), times=slice(2, 9, 2)), expected[1, 2, 3, 2:9:2]
    )
    run.to_nifti(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(nibabel.load(tmp_path / "back.nii.gz").get_fdata(), expected)


def test_stored_numbers_survive_the_way_back_where_fill_is_one(tmp_path: Path) -> None:
    run = make(tmp_path, "h5", slope=0.5, inter=2.0, fill=0)
    dense = run.to_dense(tmp_path / "dense.zarr", access="volume")
    assert dense.stored_dtype == np.int16
    assert dense.slope == 0.5
    inside = tuple(run.voxels.T)
    np.testing.assert_array_equal(dense.raw[...][inside], DATA[inside])
    odd = run.with_fill(0.3).to_dense(tmp_path / "odd.h5")
    assert odd.stored_dtype == np.float32


# Other sources and other places ----------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
def test_sources_give_the_same_run(tmp_path: Path, kind: str) -> None:
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.header.set_zooms((2, 2.5, 3, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "run.nii.gz")
    roi = nibabel.Nifti1Image(MASK.astype("u1"), AFFINE)
    nibabel.save(roi, tmp_path / "mask.nii")
    dense = fs.NeuroVec.create(tmp_path / "run.nii.gz", tmp_path / f"dense.{kind}")
    masked = MaskedNeuroVec.create(dense, tmp_path / f"all.{kind}", mask=np.ones(SHAPE[:3]))
    volume = fs.NeuroVol.create(tmp_path / "mask.nii", tmp_path / f"mask.{kind}")
    cases = [
        (tmp_path / "run.nii.gz", tmp_path / "mask.nii"),
        (str(tmp_path / "run.nii.gz"), roi),
        (image, volume),
        (dense, MASK),
        (masked, str(tmp_path / "mask.nii")),
    ]
    for number, (source, mask) in enumerate(cases):
        run = MaskedNeuroVec.create(source, tmp_path / f"{number}.{kind}", mask=mask)
        np.testing.assert_array_equal(np.asarray(run), on_grid(DATA))
        assert run.dtype == (np.int16 if source is image else dense.dtype)
        assert run.tr == 1.5
        assert run.space.same_grid(SPACE)


def test_scaling_of_a_stored_source_is_kept(tmp_path: Path) -> None:
    dense = fs.NeuroVec.create(DATA, tmp_path / "a.h5", space=SPACE, slope=0.25, inter=1.0)
    run = MaskedNeuroVec.create(dense, tmp_path / "b.zarr", mask=MASK)
    assert run.stored_dtype == np.int16
    np.testing.assert_array_equal(np.asarray(run), on_grid(np.asarray(dense)))


@pytest.mark.parametrize("slope", [0.3, np.linspace(0.5, 2, SHAPE[3])])
def test_stored_numbers_go_from_one_masked_run_to_another(tmp_path: Path, slope: Any) -> None:
    first = make(tmp_path, "h5", slope=slope, inter=1.0)
    run = first.save(tmp_path / "b.zarr")
    assert run.stored_dtype == np.int16
    np.testing.assert_array_equal(run.slope, first.slope)
    np.testing.assert_array_equal(np.asarray(run), np.asarray(first))
    wider = MaskedNeuroVec.create(first, tmp_path / "c.h5", mask=np.ones(SHAPE[:3]))
    np.testing.assert_array_equal(np.asarray(wider), np.asarray(first))


@pytest.mark.parametrize("kind", STORES)
def test_stored_bytes(tmp_path: Path, kind: str) -> None:
    run = make(tmp_path, kind)
    path = Path(run.url)
    files = [path] if kind == "h5" else [p for p in path.rglob("*") if p.is_file()]
    assert run.stored_bytes == sum(file.stat().st_size for file in files)
    sequence = fs.NeuroVecSeq.create([run], tmp_path / f"seq.{kind}")
    assert sequence.images[0].stored_bytes == sequence.stored_bytes
    if kind == "h5":
        path.unlink()
        with pytest.raises(NotFoundError):
            run.stored_bytes  # noqa: B018


def test_what_has_a_mask_stands_for_it(tmp_path: Path) -> None:
    grid = SPACE.without_time()
    run = make(tmp_path, "h5")
    maps = fs.LabeledVolumeSet.create(
        {"a": DATA[..., 0]}, tmp_path / "maps.h5", mask=MASK, space=grid
    )
    parcels = fs.Parcellation.from_labels(MASK * 3, space=grid)
    dense = fs.NeuroVec.create(DATA, tmp_path / "dense.h5", space=SPACE)
    for mask in (run, maps, parcels):
        np.testing.assert_array_equal(dense.series(mask=mask), dense.series(mask=MASK))
        made = MaskedNeuroVec.create(dense, tmp_path / "made.h5", mask=mask, overwrite=True)
        np.testing.assert_array_equal(made.mask, MASK)
    moved = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=np.diag([2.0, 2, 2, 1]))
    with pytest.raises(InvalidInputError, match="mm apart"):
        dense.series(mask=fs.Parcellation.from_labels(MASK * 3, space=moved))


def test_a_stored_source_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    fs.NeuroVec.create(DATA, path, space=SPACE, slope=0.25).close()
    mask = fs.NeuroVol.create(MASK.astype("u1"), tmp_path / "mask.zarr", space=SPACE.without_time())
    run = MaskedNeuroVec.create(path, tmp_path / "b.h5", mask=mask)
    np.testing.assert_array_equal(run, on_grid(DATA) * np.float32(0.25))
    assert run.stored_dtype == np.int16
    again = fs.NeuroVec.create(str(path), tmp_path / "c.zarr")
    np.testing.assert_array_equal(again, DATA * np.float32(0.25))
    with pytest.raises(NotFoundError):
        fs.NeuroVec.create(tmp_path / "missing.h5", tmp_path / "d.h5")
    with pytest.raises(InvalidInputError, match="axes x, y, z"):
        fs.NeuroVol.create(path, tmp_path / "d.h5")
    assert not (tmp_path / "d.h5").exists()


def test_a_masked_source_is_read_with_its_fill(tmp_path: Path) -> None:
    inner = make(tmp_path, "h5", fill=-7)
    run = MaskedNeuroVec.create(inner, tmp_path / "b.h5", mask=np.ones(SHAPE[:3]))
    np.testing.assert_array_equal(np.asarray(run), on_grid(DATA, -7))


@pytest.mark.parametrize("dtype", ["u1", "i4", "i8", "f4", "f8", "c8", ">i2", ">f8"])
def test_types(tmp_path: Path, dtype: str) -> None:
    data = np.abs(DATA // 2).astype(dtype)
    for kind in STORES:
        run = MaskedNeuroVec.create(data, tmp_path / f"a.{kind}", mask=MASK, space=SPACE)
        assert run.dtype == np.dtype(dtype).newbyteorder("<")
        np.testing.assert_array_equal(np.asarray(run), on_grid(data))


def test_nibabel_is_lazy(run: MaskedNeuroVec) -> None:
    image: Any = run.to_nibabel()
    np.testing.assert_array_equal(np.asarray(image.dataobj[..., 4]), on_grid(DATA)[..., 4])
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.shape == SHAPE
    assert image.header.get_zooms()[3] == 1.5
    np.testing.assert_array_equal(image.slicer[2:4].get_fdata(), on_grid(DATA)[2:4])


@pytest.mark.parametrize(("kind", "other"), [("h5", "zarr"), ("zarr", "h5")])
def test_transcoding_there_and_back(tmp_path: Path, kind: str, other: str) -> None:
    run = make(tmp_path, kind, slope=0.5, fill=float("nan"), codec="dual")
    fs.transcode(run.url, tmp_path / f"there.{other}")
    fs.transcode(tmp_path / f"there.{other}", tmp_path / f"back.{kind}")
    for name in (f"there.{other}", f"back.{kind}"):
        with fs.open(tmp_path / name) as again:
            assert isinstance(again, MaskedNeuroVec)
            np.testing.assert_array_equal(np.asarray(again), np.asarray(run))
            np.testing.assert_array_equal(again.voxels, run.voxels)
            assert again.space == run.space
            assert np.isnan(again.fill)
        assert fs.verify(tmp_path / name, deep=True).ok


def test_pickling_and_closing(tmp_path: Path) -> None:
    run = make(tmp_path, "zarr")
    before = pickle.dumps(run)
    np.testing.assert_array_equal(run[2], on_grid(DATA)[2])
    assert pickle.dumps(run) == before
    again = pickle.loads(before)
    np.testing.assert_array_equal(np.asarray(again), on_grid(DATA))
    with run:
        pass
    with pytest.raises(ClosedError):
        run[0]


@pytest.mark.once
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CHUNK_CACHE, "limit", 0)  # has a limit of its own
    shape, limit = (20, 30, 30, 300), 4 << 20
    mask = np.ones(shape[:3], bool)
    path = tmp_path / "run.nii"
    values = np.random.default_rng(1).integers(0, 9, shape).astype("i2")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    checks = values[3, 4], values[..., 7].copy()
    size = values.nbytes
    del values
    assert size > 2 * limit + (1 << 21)
    tracemalloc.start()
    run = MaskedNeuroVec.create(path, tmp_path / "a.h5", mask=mask, max_memory=limit)
    dense = run.to_dense(tmp_path / "dense.h5", max_memory=limit)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit + (1 << 22)  # encoded chunks and buffers of the libraries besides
    np.testing.assert_array_equal(run[3, 4], checks[0])
    np.testing.assert_array_equal(dense[..., 7], checks[1])


@pytest.mark.parametrize("access", get_args(Access))
def test_a_stored_source_is_decoded_once_and_not_kept(tmp_path: Path, access: Access) -> None:
    shape, limit = (24, 26, 30, 120), 4 << 20
    values = np.random.default_rng(1).integers(0, 999, shape).astype("i2")
    assert values.nbytes > limit
    source = fs.NeuroVec.create(values, tmp_path / "dense.zarr", space=np.eye(4), access=access)
    first = source.primary_arrays[0].reader.spec
    chunks = np.prod([-(-n // c) for n, c in zip(first.shape, first.layout.chunks, strict=True)])
    mask = np.random.default_rng(2).random(shape[:3]) < 0.3
    CHUNK_CACHE.clear()
    with source.stats.watch() as read:
        run = MaskedNeuroVec.create(source, tmp_path / "a.h5", mask=mask, max_memory=limit)
    assert CHUNK_CACHE.nbytes < values.nbytes // 20  # small arrays alone
    assert chunks <= read.chunks <= 1.5 * chunks
    np.testing.assert_array_equal(np.asarray(run), on_grid(values, mask=mask))


def test_runs_longer_than_a_chunk(tmp_path: Path) -> None:
    data = np.random.default_rng(2).normal(size=(3, 2, 2, 9000)).astype("f8")
    mask = np.array([1, 0, 1, 1] * 3).reshape(3, 2, 2)
    for kind in STORES:
        run = MaskedNeuroVec.create(
            data, tmp_path / f"a.{kind}", mask=mask, space=np.eye(4), max_memory=4 << 20
        )
        expected = on_grid(data, mask=mask > 0)
        np.testing.assert_array_equal(np.asarray(run), expected)
        np.testing.assert_array_equal(run[..., 8100:8300:7], expected[..., 8100:8300:7])


def test_voxels_in_another_order_are_read(tmp_path: Path) -> None:
    run = make(tmp_path, "h5")
    order = np.random.default_rng(3).permutation(len(run.voxels))
    voxels, numbers = run.voxels[order], run.series(run.voxels).T[order]
    run.close()
    with open_store(run.url, "r+") as store:
        store.root.array("voxels").write(None, voxels)
        store.root.array("voxels").write_attributes({"order": "shuffled"})
        store.root.array("0").write(None, numbers)
    with fs.open(run.url) as again:
        np.testing.assert_array_equal(again.voxels, voxels)
        np.testing.assert_array_equal(np.asarray(again), on_grid(DATA))
        np.testing.assert_array_equal(again[1:4, 2:, ::2, 3], on_grid(DATA)[1:4, 2:, ::2, 3])
        np.testing.assert_array_equal(again.to_dense(tmp_path / "d.h5")[...], on_grid(DATA))


# Bad input -----------------------------------------------------------------------------------

SHIFTED = AFFINE + np.array([[0, 0, 0, 1.0], *np.zeros((3, 4))])
RGB = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
BAD: dict[str, tuple[Any, dict[str, Any]]] = {
    "three axes": (DATA[..., 0], {"space": AFFINE}),
    "no space": (DATA, {"space": None}),
    "another shape": (DATA[:3], {}),
    "colours": (RGB, {}),
    "empty mask": (DATA, {"mask": np.zeros(SHAPE[:3])}),
    "mask of NaN": (DATA, {"mask": np.full(SHAPE[:3], np.nan)}),
    "mask of another shape": (DATA, {"mask": MASK[:3]}),
    "mask off the grid": (DATA, {"mask": nibabel.Nifti1Image(MASK.astype("u1"), SHIFTED)}),
    "mask of text": (DATA, {"mask": np.full(SHAPE[:3], "in")}),
    "fill that the type has not": (DATA, {"fill": float("nan")}),
    "fill beyond the type": (DATA, {"fill": 40000}),
    "fill that is no number": (DATA, {"fill": "zero"}),
    "fill of many": (DATA, {"fill": [1, 2]}),
    "slope 0": (DATA, {"slope": 0.0}),
    "zero length": (DATA[..., :0], {"space": AFFINE}),
    "unknown codec": (DATA, {"codec": "best"}),
    "not an array": ([[1], [2, 3]], {}),
}


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("case", BAD)
def test_bad_input_leaves_nothing(tmp_path: Path, kind: str, case: str) -> None:
    data, options = BAD[case]
    with pytest.raises(InvalidInputError):
        make(tmp_path, kind, data, **options)
    assert not list(tmp_path.iterdir())


def test_bad_files_leave_what_was_there(tmp_path: Path) -> None:
    run = make(tmp_path, "h5")
    (tmp_path / "cut.nii").write_bytes(b"\x5c\x01\0\0" + bytes(400))
    whole = tmp_path / "whole.nii"
    nibabel.save(nibabel.Nifti1Image(DATA, AFFINE), whole)
    whole.write_bytes(whole.read_bytes()[:-100])
    for data in (tmp_path / "none.nii", tmp_path / "cut.nii", whole):
        with pytest.raises(FmristoreError):
            make(tmp_path, "h5", data, space=None, overwrite=True)
    with pytest.raises(AlreadyExistsError):
        make(tmp_path, "h5")
    with pytest.raises(InvalidInputError, match="must end in"):
        make(tmp_path, "txt")
    with pytest.raises(InvalidInputError, match="for arrays"):
        make(tmp_path, "zarr", run, space=SPACE)
    np.testing.assert_array_equal(np.asarray(fs.open(run.url)), on_grid(DATA))
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


@pytest.mark.parametrize(
    "points", [(7, 0, 0), (0, 0), [(0, 0, 4)], [(0.5, 1, 1)], [[(0, 0, 0)]], "abc"]
)
def test_bad_voxels(run: MaskedNeuroVec, points: Any) -> None:
    with pytest.raises(SelectionError):
        run.series(points)


def test_bad_selections(run: MaskedNeuroVec) -> None:
    for index in ((7,), (0, 0, 0, 11), (0,) * 5, ([0, 1], [0, 1]), "name"):
        with pytest.raises(SelectionError):
            run[index]
    with pytest.raises(InvalidInputError):
        run.series()
    with pytest.raises(InvalidInputError):
        run.series((0, 0, 0), mask=MASK)
    with pytest.raises(SelectionError):
        run.series((0, 0, 0), times=3)
    with pytest.raises(InvalidInputError):
        run.with_fill(float("nan"))


def damage(path: str, node: str, values: Any = None, attributes: Any = None) -> None:
    with open_store(path, "r+") as store:
        array = store.root.array(node)
        if values is not None:
            array.write(None, values)
        if attributes is not None:
            array.write_attributes(attributes)


@pytest.mark.parametrize("kind", STORES)
def test_damage_is_found(tmp_path: Path, kind: str) -> None:
    wrong = np.ones(SHAPE[2::-1], "u1")
    cases: list[tuple[str, Any, Any]] = [
        ("mask", wrong, None),
        ("voxels", np.full((MASK.sum(), 3), -1), {}),
        ("voxels", np.zeros((MASK.sum(), 3)), {}),
        ("affine", np.zeros((4, 4)), None),
        ("0", None, {"fill": "plenty"}),
        ("0", None, {"fill": [1, 2]}),
        ("0", None, {"scale_factor": 0.0}),
    ]
    for number, (node, values, attributes) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = make(folder, kind)
        run.close()
        if node == "affine":
            with_affine_array(run.url)
        damage(run.url, node, values, attributes)
        with pytest.raises(MetadataError), fs.open(run.url) as again:
            again[0]


def test_a_missing_chunk_is_damage(tmp_path: Path) -> None:
    run = make(tmp_path, "zarr")
    run.close()
    (chunk,) = [p for p in (Path(run.url) / "0" / "c").rglob("*") if p.is_file()]
    chunk.unlink()
    with fs.open(run.url) as again, pytest.raises(CorruptDataError):
        np.asarray(again)
