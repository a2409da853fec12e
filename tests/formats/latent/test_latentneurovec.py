"""Latent representations: sliced as 4D, in both stores."""

from __future__ import annotations

import builtins
import math
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis.extra.numpy import basic_indices

import fmristore as fs
from fmristore.formats.latent import factor_matrix
from fmristore.formats.latent.factors import make_factors
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    DependencyError,
    InvalidInputError,
    SelectionError,
)
from tests.formats.latent.latent_data import (
    AFFINE,
    BASIS,
    COMPONENTS,
    FULL,
    GRID,
    LENGTHS,
    LOADINGS,
    MASK,
    NAMES,
    OFFSET,
    STACKED,
    VOXELS,
    make,
    rng,
)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, fs.LatentNeuroVec]:
    """The same data in both stores, dense and sparse."""
    folder = tmp_path_factory.mktemp("latent")
    kinds = {"dense": LOADINGS, "sparse": scipy.sparse.csc_array(LOADINGS)}
    return {
        f"{kind}-{name}": make(folder / f"{kind}-{name}", loadings=loadings)
        for kind, loadings in kinds.items()
        for name in NAMES
    }


make_image: Any = nibabel.Nifti1Image

ALL = [f"{kind}-{name}" for kind in ("dense", "sparse") for name in NAMES]


# Reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ALL)
def test_what_it_is(stored: dict[str, fs.LatentNeuroVec], which: str) -> None:
    lat = stored[which]
    assert lat.shape == FULL.shape
    assert lat.ndim == 4
    assert len(lat) == GRID[0]
    assert lat.dtype == np.float64
    assert lat.n_components == COMPONENTS
    assert lat.n_voxels == len(VOXELS)
    assert lat.scan_names == tuple(LENGTHS)
    assert lat.scan_lengths == tuple(LENGTHS.values())
    assert lat.tr == 2.0
    assert lat.space.tr == 2.0
    np.testing.assert_array_equal(lat.affine, AFFINE)
    np.testing.assert_array_equal(lat.mask, MASK)
    np.testing.assert_array_equal(lat.voxels, VOXELS)
    np.testing.assert_array_equal(lat.basis, STACKED)
    np.testing.assert_array_equal(lat.loadings, LOADINGS)
    np.testing.assert_array_equal(np.asarray(lat.offset), OFFSET)
    assert lat.loadings.is_sparse is which.startswith("sparse")
    assert lat.loadings.shape == LOADINGS.shape
    assert "3 sparse components" in repr(lat) or which.startswith("dense")
    assert "3 scans" in lat._repr_html_()
    assert "x 3 float64" in repr(lat.loadings)
    assert lat.reconstruction_error is None
    assert lat.voxel_error is None
    assert lat.format_name == "latentneurovec"
    assert isinstance(fs.open(lat.url), fs.LatentNeuroVec)


@pytest.mark.parametrize("which", ALL)
@given(index=basic_indices(FULL.shape, allow_newaxis=True, allow_ellipsis=True))
def test_indexing(stored: dict[str, fs.LatentNeuroVec], which: str, index: Any) -> None:
    found, expected = stored[which][index], FULL[index]
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("which", ALL)
@given(index=basic_indices(LOADINGS.shape))
def test_loadings_are_indexed(stored: dict[str, fs.LatentNeuroVec], which: str, index: Any) -> None:
    np.testing.assert_array_equal(stored[which].loadings[index], LOADINGS[index])


@pytest.mark.parametrize("name", NAMES)
def test_sparse_and_dense_give_the_same_bits(
    stored: dict[str, fs.LatentNeuroVec], name: str
) -> None:
    dense, sparse = stored[f"dense-{name}"], stored[f"sparse-{name}"]
    for index in [..., (3, 2), (slice(None), 2, 1, slice(2, 9)), (..., 4)]:
        np.testing.assert_array_equal(dense[index], sparse[index])


@pytest.mark.parametrize("which", ALL)
def test_series(stored: dict[str, fs.LatentNeuroVec], which: str) -> None:
    lat = stored[which]
    for voxel in [tuple(VOXELS[3]), (-1, 0, -2), tuple(np.argwhere(~MASK)[0])]:
        np.testing.assert_allclose(lat.series(voxel), FULL[voxel])
        np.testing.assert_allclose(lat.reconstruction(voxel=voxel), FULL[voxel])
    points = np.array([[0, 0, 0], [3, 2, 1], [6, 4, 3], [3, 2, 1], [-1, -1, -1]])
    expected = FULL[tuple(points.T)].T
    np.testing.assert_allclose(lat.series(points), expected)
    np.testing.assert_allclose(lat.series(points, times=slice(9, 2, -2)), expected[9:2:-2])
    assert lat.series([]).shape == (FULL.shape[3], 0)
    region = np.zeros(GRID)
    region[2:5, 1:3] = 1
    order = np.argwhere(region)
    np.testing.assert_allclose(lat.series(mask=region), FULL[tuple(order.T)].T)
    np.testing.assert_allclose(lat.reconstruction(roi=region), FULL[tuple(order.T)].T)
    np.testing.assert_allclose(lat.reconstruction(volume=-2), FULL[..., -2])
    image = make_image(region.astype(np.uint8), np.diag([2.0, 3, 4, 1]))
    with pytest.raises(InvalidInputError, match="mm apart"):
        lat.series(mask=image)


def test_types(tmp_path: Path) -> None:
    small = {name: values.astype(np.float32) for name, values in BASIS.items()}
    lat = make(
        tmp_path / "a.h5", basis=small, loadings=LOADINGS.astype("f4"), offset=OFFSET.astype("f2")
    )
    assert lat.dtype == lat[0, 0, 0].dtype == lat.series((1, 1, 1)).dtype == np.float32
    np.testing.assert_allclose(lat, FULL, rtol=1e-2, atol=0.1)
    assert lat.read(dtype=np.float64).dtype == np.float64
    assert np.asarray(lat, np.float16).dtype == np.float16
    lat = make(tmp_path / "b.h5", basis=small, loadings=LOADINGS.astype("i2"), offset=None)
    assert lat.dtype == np.float32
    assert lat.offset is None
    assert lat.loadings.dtype == np.float32
    with pytest.raises(InvalidInputError, match="floating-point"):
        lat.read(dtype=int)


def test_selection_errors(stored: dict[str, fs.LatentNeuroVec]) -> None:
    lat = stored["dense-lat.h5"]
    for index in [99, (0, 0, 0, 0, 0), ([1, 2], [1, 2]), (..., ...), True]:
        with pytest.raises(SelectionError):
            lat[index]
    for voxels in [(7, 0, 0), [[0, 0]], [[0.5, 0, 0]], "x", [[0, 0, 0], [0, -6, 0]]]:
        with pytest.raises(SelectionError):
            lat.series(voxels)
    with pytest.raises(InvalidInputError, match="either voxels or mask"):
        lat.series()
    with pytest.raises(InvalidInputError, match="either voxels or mask"):
        lat.series((0, 0, 0), mask=MASK)
    with pytest.raises(SelectionError, match="slice"):
        lat.series((0, 0, 0), times=3)
    with pytest.raises(InvalidInputError, match="one of"):
        lat.reconstruction()
    with pytest.raises(InvalidInputError, match="one of"):
        lat.reconstruction(voxel=(0, 0, 0), volume=1)
    with pytest.raises(SelectionError):
        lat.reconstruction(voxel=[[0, 0, 0], [1, 1, 1]])
    with pytest.raises(InvalidInputError, match="iterating"):
        iter(lat)
    with pytest.raises(InvalidInputError, match="without a copy"):
        np.asarray(lat, copy=False)
    with pytest.raises(InvalidInputError, match="without a copy"):
        np.asarray(lat.loadings, copy=False)


@pytest.mark.parametrize("which", ALL)
def test_scans(stored: dict[str, fs.LatentNeuroVec], which: str) -> None:
    lat, first = stored[which], 0
    for name, length in LENGTHS.items():
        scan = lat.scan(name)
        assert scan.name == name
        assert scan.shape == (*GRID, length)
        assert scan.metadata == {}
        assert repr(name) in repr(scan)
        np.testing.assert_allclose(scan, FULL[..., first : first + length])
        np.testing.assert_array_equal(scan.basis, BASIS[name])
        again = pickle.loads(pickle.dumps(scan))
        np.testing.assert_array_equal(again[3, 2], scan[3, 2])
        first += length
    with pytest.raises(InvalidInputError, match="no scan is called 'nope'"):
        lat.scan("nope")


def test_repetition_times(tmp_path: Path) -> None:
    with make(tmp_path / "a.h5", tr={"task": 1.5}) as lat:
        assert lat.tr is None
        assert lat.scan("task").tr == 1.5
        assert lat.scan("übung%").tr is None
    space = fs.NeuroSpace(spatial_shape=GRID, affine=AFFINE, time_points=4, tr=0.8)
    with make(tmp_path / "b.h5", basis=STACKED[:4], space=space) as lat:
        assert lat.tr == 2.0
    with make(tmp_path / "c.h5", basis=STACKED[:4], space=space, tr=None) as lat:
        assert lat.space == space


@pytest.mark.parametrize("which", ALL)
def test_pickling_and_closing(stored: dict[str, fs.LatentNeuroVec], which: str) -> None:
    with fs.open(stored[which].url) as lat:
        data = pickle.dumps(lat)
        lat[3, 2]
        assert pickle.dumps(lat) == data
        again = pickle.loads(data)
        scan = lat.scan("task")
    with pytest.raises(ClosedError):
        lat[3, 2, 1]
    with pytest.raises(ClosedError):
        scan[3, 2, 1]
    np.testing.assert_allclose(again[3, 2], FULL[3, 2])
    again.close()


def test_reads_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One voxel takes one row of loadings, and one volume one row of the basis."""
    lat = make(tmp_path / "a.h5")
    taken: list[int] = []
    times: list[list[int]] = []
    take, read = lat.loadings.read, lat._scans[0].basis.read

    def noting_rows(rows: Any, columns: Any) -> Any:
        taken.append(len(rows))
        return take(rows, columns)

    def noting_times(rows: Any, columns: Any) -> Any:
        times.append(rows.tolist())
        return read(rows, columns)

    monkeypatch.setattr(lat.loadings, "read", noting_rows)
    monkeypatch.setattr(lat._scans[0].basis, "read", noting_times)
    lat.voxel_set  # noqa: B018 - reads the voxels, once
    taken.clear()
    lat[tuple(VOXELS[5])]
    assert taken == [1]
    taken.clear()
    times.clear()
    lat[..., 4]
    assert taken == [len(VOXELS)]
    assert times == [[4]]
    taken.clear()
    x, y, z = np.argwhere(~MASK)[0]
    assert not lat[x, y, z].any()
    assert taken == []
    lat[2:4, 1:3, 2]
    assert taken == [int(MASK[2:4, 1:3, 2].sum())]


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_scattered_rows_of_many(tmp_path: Path, kind: str) -> None:
    """More voxels than lie in one chunk, read one by one and all over the place."""
    grid = (40, 40, 30)
    values = rng.normal(size=(math.prod(grid), 8)) * (rng.random((math.prod(grid), 8)) < 0.2)
    basis = rng.normal(size=(9, 8))
    full = (values @ basis.T).reshape(*grid, 9)
    given_as = scipy.sparse.coo_array(values) if kind == "sparse" else values
    lat = fs.LatentNeuroVec.create(
        basis, given_as, tmp_path / "a.zarr", mask=np.ones(grid), space=AFFINE
    )
    points = rng.integers(0, grid, (50, 3))
    np.testing.assert_allclose(lat.series(points), full[tuple(points.T)].T, atol=1e-12)
    np.testing.assert_allclose(lat[::13, 1::17, ::-11, 2:], full[::13, 1::17, ::-11, 2:])
    if kind == "sparse":
        matrix: Any = lat.loadings
        np.testing.assert_array_equal(matrix.to_scipy().toarray(), values)
        assert matrix.density == pytest.approx(np.count_nonzero(values) / values.size)
    lat.close()


def test_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results do not depend on how many voxels are computed at a time."""
    monkeypatch.setattr(factor_matrix, "_BLOCK_BYTES", 500)
    with make(tmp_path / "a.h5") as lat:
        np.testing.assert_allclose(lat, FULL)
        np.testing.assert_allclose(lat.series(VOXELS[::-1]), FULL[tuple(VOXELS[::-1].T)].T)


def test_memory_of_a_volume(tmp_path: Path) -> None:
    """The 4D array is never made: one volume of 2000 takes a small part of its memory."""
    grid = (32, 32, 16)
    loadings = rng.normal(size=(math.prod(grid), 16)).astype("f4")
    basis = rng.normal(size=(2000, 16)).astype("f4")
    with fs.LatentNeuroVec.create(
        basis, loadings, tmp_path / "a.h5", mask=np.ones(grid), space=AFFINE
    ) as lat:
        lat[0, 0, 0]
        tracemalloc.start()
        volume = lat[..., 1234]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        expected = (loadings @ basis[1234]).reshape(grid)
        np.testing.assert_allclose(volume, expected, rtol=1e-4, atol=1e-4)
        assert peak < 4 * math.prod(grid) * 2000 / 10
        assert lat.compression_ratio > 50


# Writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_voxels_in_any_order(tmp_path: Path, name: str) -> None:
    order = rng.permutation(len(VOXELS))
    lat = make(
        tmp_path / name,
        mask=None,
        voxels=VOXELS[order],
        space=fs.NeuroSpace(spatial_shape=GRID, affine=AFFINE),
        loadings=LOADINGS[order],
        offset=OFFSET[order],
    )
    np.testing.assert_array_equal(lat.voxels, VOXELS[order])
    np.testing.assert_allclose(lat, FULL)


def test_sources_of_the_grid(tmp_path: Path) -> None:
    image = make_image(MASK.astype(np.uint8), AFFINE)
    nibabel.save(image, tmp_path / "mask.nii.gz")
    for number, mask in enumerate([image, tmp_path / "mask.nii.gz"]):
        lat = make(tmp_path / f"{number}.h5", mask=mask, space=None)
        np.testing.assert_allclose(lat.affine, AFFINE, atol=1e-6)
        np.testing.assert_allclose(lat, FULL)
    fs.convert(image, tmp_path / "mask.h5")
    with fs.open(tmp_path / "mask.h5") as mask:
        lat = make(tmp_path / "n.h5", mask=mask, space=None)
        assert lat.space.without_time() == mask.space


def test_sparse_forms(tmp_path: Path) -> None:
    """Any sparse form is kept sparse; duplicates are summed, and the caller's matrix stays."""
    twice = scipy.sparse.coo_array(
        (np.ones(3), ([0, 0, 1], [2, 2, 0])), shape=(len(VOXELS), COMPONENTS)
    )
    lat = make(tmp_path / "a.h5", loadings=twice)
    np.testing.assert_array_equal(lat.loadings, twice.toarray())
    rows = scipy.sparse.csr_array((np.ones(3), [2, 2, 0], [0, 2, *[3] * (len(VOXELS) - 1)]))
    rows.resize(len(VOXELS), COMPONENTS)
    assert rows.nnz == 3
    lat = make(tmp_path / "b.h5", loadings=rows)
    assert rows.nnz == 3
    assert lat.loadings.nnz == 2  # type: ignore[attr-defined]
    empty = scipy.sparse.csc_matrix((len(VOXELS), COMPONENTS))
    for name in NAMES:
        lat = make(tmp_path / f"empty-{name}", loadings=empty, offset=None)
        assert not np.asarray(lat).any()


def test_without_scipy(
    stored: dict[str, fs.LatentNeuroVec], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with fs.open(stored["sparse-lat.h5"].url) as lat:
        np.testing.assert_allclose(lat, FULL)
        with pytest.raises(DependencyError, match=r"fmristore\[latent\]"):
            lat.loadings.to_scipy()


@pytest.mark.parametrize("codec", ["portable", "dual", "fast", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_codecs(tmp_path: Path, name: str, codec: str) -> None:
    np.testing.assert_allclose(make(tmp_path / name, codec=codec), FULL)


def test_a_memory_map_is_read_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmristore.formats.latent.factors._BAND_BYTES", 1)
    np.save(tmp_path / "loadings.npy", LOADINGS)
    mapped = np.load(tmp_path / "loadings.npy", mmap_mode="r")
    np.testing.assert_allclose(make(tmp_path / "a.h5", loadings=mapped), FULL)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "transposed": ({"loadings": LOADINGS.T}, "transpose"),
    "too few rows": ({"loadings": LOADINGS[1:]}, "one row for each"),
    "other components": ({"basis": STACKED[:, 1:]}, "3 columns"),
    "no time": ({"basis": STACKED[:0]}, "one row for each time"),
    "vector": ({"basis": STACKED[:, 0]}, "columns"),
    "no scans": ({"basis": {}}, "no scans"),
    "offset": ({"offset": OFFSET[1:]}, "offset of shape"),
    "NaN basis": ({"basis": STACKED * np.nan}, "not finite"),
    "NaN loadings": ({"loadings": np.where(LOADINGS == 0, np.nan, LOADINGS)}, "not finite"),
    "NaN sparse": (
        {"loadings": scipy.sparse.csr_array(np.where(LOADINGS == 0, 0, np.inf))},
        "not finite",
    ),
    "NaN offset": ({"offset": OFFSET * np.inf}, "not finite"),
    "complex": ({"loadings": LOADINGS * 1j}, "real numbers"),
    "text": ({"offset": ["x"] * len(OFFSET)}, "real numbers"),
    "ragged": ({"basis": [[1, 2, 3], [1]]}, "not an array"),
    "wide": ({"basis": STACKED.astype(np.longdouble)}, "64 bits"),
    "empty mask": ({"mask": np.zeros(GRID)}, "no voxel"),
    "mask of another shape": ({"mask": MASK[1:]}, "row"),
    "flat mask": ({"mask": MASK[0]}, "shape"),
    "affine of a file": ({"mask": "mask.nii"}, "leave space= out"),
    "no grid": ({"space": None}, "space="),
    "both": ({"voxels": VOXELS}, "either mask or voxels"),
    "neither": ({"mask": None}, "either mask or voxels"),
    "voxels without shape": ({"mask": None, "voxels": VOXELS}, "NeuroSpace"),
    "voxels without grid": ({"mask": None, "voxels": VOXELS, "space": None}, "space="),
    "affine": ({"space": np.zeros((4, 4))}, "affine"),
    "tr": ({"tr": -1}, "positive"),
    "tr text": ({"tr": "fast"}, "not a number"),
    "tr of nobody": ({"tr": {"nope": 1.0}}, "nope"),
    "empty name": ({"basis": {"": STACKED}}, "name"),
    "NUL in a name": ({"basis": {"a\0b": STACKED}}, "NUL"),
    "name that is no text": ({"basis": {3: STACKED}}, "text"),
    "codec": ({"codec": "magic"}, "magic"),
    "profile": ({"profile": "matlab"}, "matlab"),
    "time points": (
        {"space": fs.NeuroSpace(spatial_shape=GRID, affine=AFFINE, time_points=99)},
        "99 time points",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_bad_input_leaves_nothing(tmp_path: Path, name: str, case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(InvalidInputError, match=message):
        make(tmp_path / name, **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_overwriting(tmp_path: Path, name: str) -> None:
    make(tmp_path / name).close()
    with pytest.raises(AlreadyExistsError):
        make(tmp_path / name)
    with pytest.raises(InvalidInputError):
        make(tmp_path / name, loadings=LOADINGS * np.nan, overwrite=True)
    with fs.open(tmp_path / name) as lat:
        np.testing.assert_allclose(lat, FULL)
    with make(tmp_path / name, overwrite=True, offset=None) as lat:
        np.testing.assert_allclose(lat.series(VOXELS), STACKED @ LOADINGS.T)


def test_hostile_names(tmp_path: Path) -> None:
    names = [
        "..",
        "/etc/passwd",
        "../../up",
        "a\\b",
        "x" * 10_000,
        "__meta",
        "zarr.json",
        " ",
        "CON",
    ]
    basis = {name: STACKED[:2] + n for n, name in enumerate(names)}
    for store in NAMES:
        lat = make(tmp_path / store, basis=basis)
        assert list(lat.scan_names) == names
        for n, name in enumerate(names):
            np.testing.assert_array_equal(lat.scan(name).basis, STACKED[:2] + n)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


# Elsewhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ALL)
def test_to_dense_and_nifti(
    tmp_path: Path, stored: dict[str, fs.LatentNeuroVec], which: str
) -> None:
    lat = stored[which]
    for name in ("dense.h5", "dense.ome.zarr"):
        lat.to_dense(tmp_path / name, max_memory=1 << 20)
        with fs.open(tmp_path / name, format="neurovec") as dense:
            assert dense.space == lat.space
            np.testing.assert_allclose(dense, FULL)
    steps: list[tuple[int, int]] = []
    lat.to_nifti(tmp_path / "a.nii.gz", max_memory=5000, progress=lambda *step: steps.append(step))
    assert steps[-1] == (FULL.size * 8, FULL.size * 8)
    assert len(steps) > 3
    image: Any = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.get_fdata(), FULL)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert image.header.get_zooms()[3] == 2.0
    with pytest.raises(AlreadyExistsError):
        lat.to_nifti(tmp_path / "a.nii.gz")
    lazy = lat.to_nibabel()
    np.testing.assert_allclose(lazy.get_fdata(), FULL)
    np.testing.assert_allclose(lazy.slicer[..., 3:5].get_fdata(), FULL[..., 3:5])
    np.testing.assert_array_equal(lazy.affine, AFFINE)
    lat.scan("task").to_nifti(tmp_path / "b.nii")
    image = nibabel.load(tmp_path / "b.nii")
    np.testing.assert_allclose(image.get_fdata(), FULL[..., 11:17])


@pytest.mark.parametrize("which", ALL)
def test_transcoding(tmp_path: Path, stored: dict[str, fs.LatentNeuroVec], which: str) -> None:
    lat = stored[which]
    other, back = ("b.zarr", "c.h5") if which.endswith("h5") else ("b.h5", "c.zarr")
    fs.transcode(lat.url, tmp_path / other)
    fs.transcode(tmp_path / other, tmp_path / back)
    for name in (other, back):
        with fs.open(tmp_path / name) as again:
            assert again.scan_names == lat.scan_names
            assert again.space == lat.space
            np.testing.assert_array_equal(again, lat)
            assert fs.verify(tmp_path / name, deep=True).ok


def test_factors_keep_small_types() -> None:
    factors = make_factors(
        STACKED.astype("f4"), LOADINGS.astype("i1"), mask=MASK, space=AFFINE, offset=OFFSET
    )
    assert factors.loadings_dtype == np.float32
    assert factors.scans["scan_1"].basis.dtype == np.float32
    assert factors.offset is not None
    assert factors.offset.dtype == np.float64
