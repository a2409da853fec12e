"""Latent representations of the R package: its files, and files for it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse

import fmristore as fs
from fmristore_stores.errors import (
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
    UnknownFormatError,
)
from tests.formats.latent.latent_data import (
    AFFINE,
    GRID,
    LOADINGS,
    OFFSET,
    STACKED,
    VOXELS,
    make,
    rng,
)
from tests.images import load_npz

GOLDEN = [
    "dense_c0",
    "dense_k1",
    "dense_nooffset_double",
    "dense_offset",
    "dense_write_vec",
    "sparse_nooffset",
    "sparse_offset",
]


@pytest.fixture
def golden(shared_data: Path) -> Path:
    return shared_data / "golden" / "r-fmristore"


@pytest.mark.parametrize("case", GOLDEN)
def test_files_of_r(golden: Path, case: str) -> None:
    expected = load_npz(golden / f"latent_{case}.expected.npz")
    facts = json.loads((golden / f"latent_{case}.expected.json").read_text())
    with fs.open(golden / f"latent_{case}.lv.h5") as lat:
        assert isinstance(lat, fs.LatentNeuroVec)
        assert lat.n_components == expected["input_basis"].shape[1]
        assert lat.loadings.is_sparse is case.startswith("sparse")
        np.testing.assert_array_equal(lat.mask, expected["input_mask"])
        np.testing.assert_allclose(lat.affine, expected["input_space_trans"], rtol=1e-6)
        np.testing.assert_allclose(lat.spacing, expected["input_space_spacing"], rtol=1e-5)
        np.testing.assert_allclose(lat.origin, expected["input_space_origin"], rtol=1e-5)
        np.testing.assert_allclose(lat.loadings, expected["input_loadings"], rtol=1e-6)
        np.testing.assert_allclose(lat.basis, expected["input_basis"], rtol=1e-6)
        assert (lat.offset is None) is ("input_offset" not in expected)
        offset = 0 if lat.offset is None else expected["input_offset"]
        full = np.zeros(lat.shape)
        product = expected["input_basis"] @ expected["input_loadings"].T + offset
        full[tuple(lat.voxels.T)] = product.T
        np.testing.assert_allclose(lat, full, rtol=1e-6, atol=1e-5)
        if "full" not in expected:
            assert case == "dense_k1"
            return
        np.testing.assert_allclose(lat, expected["full"], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(
            lat.read(dtype=np.float64), expected["full"], rtol=1e-12, atol=1e-12
        )
        rows = np.array(facts["arrays"]["series"]["index"]["i"]) - 1
        points = np.stack(np.unravel_index(rows, lat.shape[:3], order="F"), axis=1)
        np.testing.assert_allclose(lat.series(points), expected["series"], rtol=1e-6, atol=1e-5)
        assert lat.scan_names == (facts["meta"]["label"],)
        assert pickle.loads(pickle.dumps(lat)).shape == lat.shape


def test_scans_of_r(golden: Path) -> None:
    expected = load_npz(golden / "latent_multiscan_handmade.expected.npz")
    with fs.open(golden / "latent_multiscan_handmade.lv.h5") as lat:
        assert lat.scan_names == ("aaa_second", "subject_01_rest_run")
        first, second = (lat.scan(name) for name in lat.scan_names)
        np.testing.assert_array_equal(first.basis, expected["basis_default"])
        np.testing.assert_array_equal(second.basis, expected["basis_named"])
        np.testing.assert_allclose(first, expected["full_default"], rtol=1e-6, atol=1e-5)
        assert second.tr == 2.5


@pytest.mark.parametrize("case", GOLDEN)
def test_transcoding_files_of_r(tmp_path: Path, golden: Path, case: str) -> None:
    source = golden / f"latent_{case}.lv.h5"
    fs.transcode(source, tmp_path / "a.zarr")
    with fs.open(source) as lat, fs.open(tmp_path / "a.zarr") as again:
        assert again.space == lat.space
        np.testing.assert_array_equal(again, lat)


def tree(file: h5py.File) -> dict[str, tuple[Any, ...]]:
    """Shapes and types of everything in a file, and the forms of attributes but for the digest."""
    found: dict[str, tuple[Any, ...]] = {}

    def visit(name: str, node: Any) -> None:
        attributes = {key: np.shape(value) for key, value in node.attrs.items()}
        attributes.pop("digest", None)
        if isinstance(node, h5py.Dataset):
            found[name] = (node.shape, node.dtype.kind, node.dtype.itemsize, attributes)
        else:
            found[name] = (attributes,)

    file.visititems(visit)
    found[""] = ({key: np.shape(value) for key, value in file.attrs.items()},)
    return found


@pytest.mark.parametrize("case", [case for case in GOLDEN if case != "dense_k1"])
def test_profile_has_the_tree_of_r(tmp_path: Path, golden: Path, case: str) -> None:
    expected = load_npz(golden / f"latent_{case}.expected.npz")
    with fs.open(golden / f"latent_{case}.lv.h5") as lat:
        written = fs.LatentNeuroVec.create(
            {lat.scan_names[0]: lat.basis},
            np.asarray(lat.loadings),
            tmp_path / "a.lv.h5",
            voxels=lat.voxels,
            space=lat.space.without_time(),
            tr=lat.tr,
            offset=lat.offset,
            profile="r",
        )
        assert written.space == lat.space
        assert written.scan_names == lat.scan_names
        np.testing.assert_array_equal(written, lat)
    with (
        h5py.File(golden / f"latent_{case}.lv.h5") as theirs,
        h5py.File(tmp_path / "a.lv.h5") as ours,
    ):
        assert tree(ours) == tree(theirs)
        for name in ("mask", "voxel_coords", *[f"header/{n}" for n in theirs["header"]]):
            if name.removeprefix("header/") in ("descrip", "xyzt_units") or "qoffset" in name:
                continue
            if ours[name].dtype.kind == "O":
                assert ours[name][()] == theirs[name][()], name
            else:
                np.testing.assert_allclose(ours[name][()], theirs[name][()], atol=2e-6)
        offset = [ours[f"header/qoffset_{axis}"][()] for axis in "xyz"]
        np.testing.assert_allclose(offset, expected["input_space_origin"], rtol=1e-5)
        text = h5py.check_string_dtype(ours["header/descrip"].dtype)
        assert text is not None
        assert text.encoding == "utf-8"


@pytest.mark.parametrize("loadings", ["dense", "sparse"])
def test_profile_with_voxels_in_another_order(tmp_path: Path, loadings: str) -> None:
    """R's order is that of the mask."""
    order = rng.permutation(len(VOXELS))
    rows: Any = LOADINGS[order] + (loadings == "dense")
    given_as = scipy.sparse.csr_array(rows) if loadings == "sparse" else rows
    lat = fs.LatentNeuroVec.create(
        {"a": STACKED[:5], "b": STACKED[5:10]},
        given_as,
        tmp_path / "a.h5",
        voxels=VOXELS[order],
        space=fs.NeuroSpace(spatial_shape=GRID, affine=AFFINE),
        offset=OFFSET[order],
        profile="r",
    )
    full = np.zeros((*GRID, 10))
    full[tuple(VOXELS[order].T)] = rows @ STACKED[:10].T + OFFSET[order, None]
    np.testing.assert_array_equal(lat.voxels, VOXELS[np.lexsort(VOXELS.T)])
    np.testing.assert_allclose(lat, full)
    assert lat.loadings.is_sparse is (loadings == "sparse")
    with fs.open(tmp_path / "a.h5", format="latentneurovec") as again:
        np.testing.assert_array_equal(again, lat)
    with pytest.raises(UnknownFormatError):
        fs.open(tmp_path / "a.h5", format="neurovec")


def _part(box: Any, *, cut: bool = False) -> dict[str, Any]:
    """Arguments for the voxels of a block, in a grid of its own if `cut`."""
    mask = np.zeros(GRID, bool)
    mask[box] = True
    count = int(mask.sum())
    return {
        "mask": mask[box] if cut else mask,
        "loadings": np.ones((count, LOADINGS.shape[1])),
        "offset": None,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basis": STACKED[:, :1], "loadings": LOADINGS[:, :1]}, "single component"),
        ({"basis": {"b": STACKED, "a": STACKED}}, "order of their names"),
        ({"basis": {"a": STACKED, "b": STACKED[1:]}}, "number of time points"),
        ({"basis": {"a/b": STACKED}}, "name of a scan"),
        ({"basis": {"größe": STACKED}}, "ASCII"),
        ({"basis": {"a": STACKED[:1]}}, "single time point"),
        ({"basis": STACKED} | _part(np.s_[3:4, 2:3, 1:2]), "single voxel"),
        ({"basis": STACKED} | _part(np.s_[1:2], cut=True), "single slice"),
        ({"basis": STACKED} | _part(np.s_[:, 2:3], cut=True), "single slice"),
        ({"basis": STACKED} | _part(np.s_[:, :, 3:], cut=True), "single slice"),
        ({"basis": STACKED, "codec": "dual"}, "plug-in"),
        ({"basis": STACKED, "loadings": LOADINGS * np.nan}, "not finite"),
    ],
)
def test_profile_refuses_what_r_cannot_read(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make(tmp_path / "a.h5", profile="r", **changes)
    with pytest.raises(InvalidInputError, match="HDF5"):
        make(tmp_path / "a.zarr", profile="r")
    assert list(tmp_path.iterdir()) == []


def r_file(path: Path) -> Path:
    make(path, basis=STACKED, profile="r", overwrite=True).close()
    return path


@pytest.mark.parametrize(
    "node",
    [
        "header",
        "mask",
        "voxel_coords",
        "scans",
        "scans/scan_1/embedding",
        "basis/basis_matrix/indptr",
    ],
)
def test_missing_nodes_of_r(tmp_path: Path, node: str) -> None:
    url = r_file(tmp_path / "a.h5")
    with h5py.File(url, "r+") as file:
        del file[node.replace("basis_matrix", "basis_matrix_sparse")]
    with pytest.raises(MetadataError):
        fs.open(url)


def test_damaged_headers_of_r(tmp_path: Path) -> None:
    url = r_file(tmp_path / "a.h5")
    with h5py.File(url, "r+") as file:
        for axis in "xyz":
            del file[f"header/srow_{axis}"]
    with fs.open(url) as lat:  # the quaternion has no shear
        np.testing.assert_allclose(lat.origin, AFFINE[:3, 3])
        np.testing.assert_allclose(lat.spacing, np.sqrt((AFFINE[:3, :3] ** 2).sum(0)))
        np.testing.assert_allclose(lat.affine, AFFINE, atol=0.2)
    with h5py.File(url, "r+") as file:
        file["header/pixdim"][...] = 0
    with pytest.raises(MetadataError, match="affine"):
        fs.open(url)
    with h5py.File(r_file(url), "r+") as file:
        file["header/dim"][1] = 99
    with pytest.raises(MetadataError, match="dim"):
        fs.open(url)
    with h5py.File(r_file(url), "r+") as file:
        file["basis/basis_matrix_sparse"].attrs["storage"] = "csr"
    with pytest.raises(LayoutNotSupportedError, match="csc"):
        fs.open(url)
    with h5py.File(r_file(url), "r+") as file:
        file["scans/scan_1/metadata/task"][()] = "nback"
        file["scans/scan_1/metadata/number"] = 3
    with fs.open(url) as lat:
        assert lat.scan("scan_1").metadata == {"task": "nback", "number": 3}
