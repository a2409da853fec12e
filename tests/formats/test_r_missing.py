"""R's missing integers are NaN, in every format that R stores, and on every way out of it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import CorruptDataError, InvalidInputError, LossyError, MetadataError

NA = -(2**31)
SHAPE = (3, 2, 2)
VALUES = np.arange(1, 49, dtype="i4").reshape(4, *SHAPE[::-1])  # (t, z, y, x)
VALUES[1, 0, 1, 2] = VALUES[3, 1, 1, 0] = NA
EXPECTED = np.where(VALUES == NA, np.nan, VALUES).T
HEADER = {
    "dim": np.array([4, *SHAPE, 4, 1, 1, 1], "i4"),
    "pixdim": np.array([0, 2, 2, 2, 1, 0, 0, 0], "f8"),
    **{f"srow_{a}": np.eye(4)[i] * 2 for i, a in enumerate("xyz")},
}

Nodes = Mapping[str, Any]


def write(path: Path, nodes: Nodes, **attributes: Any) -> Path:
    """A file as R arranges it."""
    with h5py.File(path, "w") as file:
        for name, values in nodes.items():
            file[name] = values
        for name, value in attributes.items():
            file.attrs[name] = [value]
    return path


def space(*shape: int) -> Nodes:
    return {"space/dim": np.array(shape, "i4"), "space/trans": np.eye(4)}


def volume(path: Path) -> Path:
    nodes = {"data/elements": VALUES[1], **space(*SHAPE)}
    return write(path, nodes, rtype="DenseNeuroVol")


def run(path: Path) -> Path:
    return write(path, {"data/elements": VALUES, **space(*SHAPE, 4)}, rtype="DenseNeuroVec")


def sequence(path: Path) -> Path:
    runs = {"scans/a/data": VALUES[:1], "scans/b/data": VALUES[1:]}
    return write(path, {**runs, **space(*SHAPE)}, rtype="NeuroVecSeq")


def maps(path: Path) -> Path:
    flat = VALUES.reshape(4, -1)
    nodes: dict[str, Any] = {f"data/m{k}": flat[k] for k in range(4)}
    nodes |= {f"header/{name}": value for name, value in HEADER.items()}
    nodes |= {"mask": np.ones(SHAPE[::-1], "u1"), "labels": [f"m{k}" for k in range(4)]}
    return write(path, nodes, fmristore_class="LabeledVolumeSet")


def parcels(path: Path, *, kind: str = "full") -> Path:
    ids = np.tile(np.array([1, 2], "i4"), 6)
    flat = VALUES.reshape(4, -1)
    nodes: dict[str, Any] = {f"header/{name}": value for name, value in HEADER.items()}
    nodes |= {"mask": np.ones(SHAPE[::-1], "u1"), "cluster_map": ids}
    nodes |= {"clusters/cluster_ids": np.array([1, 2], "i4")}
    if kind == "full":
        nodes |= {f"scans/s/clusters/cluster_{k}": flat[:, ids == k] for k in (1, 2)}
    else:
        nodes |= {"scans/s/clusters_summary/summary_data": flat[:, :2].T}
    return write(path, nodes, fmristore_class="H5ParcellatedMultiScan")


def test_missing_voxels_are_nan(tmp_path: Path) -> None:
    for make, index in ((volume, 1), (run, slice(None)), (sequence, slice(None))):
        with fs.open(make(tmp_path / f"{make.__name__}.h5")) as image:
            wanted = EXPECTED[..., index]
            assert image.dtype == np.float64
            assert image.stored_dtype == np.int32
            np.testing.assert_array_equal(np.asarray(image), wanted)
            np.testing.assert_array_equal(image[2, 1, 0], wanted[2, 1, 0])
            np.testing.assert_array_equal(image[[2, 0], 1, 0], wanted[[2, 0], 1, 0])
            np.testing.assert_array_equal(image.raw[...], VALUES.T[..., index])
            assert image.raw.dtype == np.int32
            assert fs.verify(image.url).ok
            assert pickle.loads(pickle.dumps(image)).dtype == np.float64
            np.testing.assert_array_equal(image.to_nibabel().get_fdata(), wanted)
            with pytest.raises(LossyError, match="missing values"):
                image.read(dtype="i4")
            assert image.read((0, 0, 0), dtype="i4").dtype == np.int32


def test_series_of_missing_voxels(tmp_path: Path) -> None:
    for make in (run, sequence):
        with fs.open(make(tmp_path / f"{make.__name__}.h5")) as image:
            voxels = [(2, 1, 0), (0, 1, 1), (0, 0, 0)]
            wanted = np.stack([EXPECTED[v] for v in voxels], axis=-1)
            np.testing.assert_array_equal(image.series(voxels), wanted)


def test_missing_values_of_maps(tmp_path: Path) -> None:
    with fs.open(maps(tmp_path / "a.h5")) as stored:
        assert stored.dtype == np.float64
        np.testing.assert_array_equal(np.asarray(stored), EXPECTED)
        np.testing.assert_array_equal(stored["m1"][...], EXPECTED[..., 1])
        np.testing.assert_array_equal(stored.raw[...], VALUES.T)
        assert pickle.loads(pickle.dumps(stored)).dtype == np.float64
        with pytest.raises(LossyError, match="missing values"):
            stored.read(dtype="i4")


def test_missing_values_of_parcels(tmp_path: Path) -> None:
    flat = EXPECTED.T.reshape(4, -1)
    with fs.open(parcels(tmp_path / "full.h5")) as stored:
        np.testing.assert_array_equal(np.asarray(stored["s"]), EXPECTED)
        np.testing.assert_array_equal(stored["s"].parcel(1), flat[:, ::2])
    with fs.open(parcels(tmp_path / "means.h5", kind="summary")) as stored:
        np.testing.assert_array_equal(np.asarray(stored["s"]), flat[:, :2])


@pytest.mark.parametrize("make", [volume, run, sequence, maps, parcels])
@pytest.mark.parametrize("options", [{}, {"profile": "r"}], ids=["ours", "r"])
def test_missing_values_stay_missing_in_copies(
    make: Callable[[Path], Path], options: dict[str, Any], tmp_path: Path
) -> None:
    with (
        fs.open(make(tmp_path / "a.h5")) as image,
        image.save(tmp_path / "b.h5", **options) as copy,
    ):
        one, other = (np.asarray(x["s"] if make is parcels else x) for x in (image, copy))
        assert np.isnan(one).any()
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", [run, maps])
def test_missing_values_stay_missing_elsewhere(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    with fs.open(make(tmp_path / "a.h5")) as image:
        image.to_nifti(tmp_path / "a.nii")
        fs.transcode(image.url, tmp_path / "a.zarr")
        with fs.open(tmp_path / "a.zarr") as moved:
            np.testing.assert_array_equal(np.asarray(moved), EXPECTED)
        with image.to_dense(tmp_path / "dense.zarr") as dense:
            np.testing.assert_array_equal(np.asarray(dense), EXPECTED)
    with fs.NeuroVec.create(tmp_path / "a.nii", tmp_path / "back.h5") as back:
        np.testing.assert_array_equal(np.asarray(back), EXPECTED)


def test_reductions_see_that_values_are_missing(tmp_path: Path) -> None:
    labels = np.ones(SHAPE, "i4")
    with fs.open(run(tmp_path / "a.h5")) as image:
        means = fs.parcellate(
            image, fs.Parcellation.from_labels(labels, space=image.space), tmp_path / "m.h5"
        )
        with means:
            wanted = EXPECTED.reshape(-1, 4).mean(axis=0)
            np.testing.assert_array_equal(np.isnan(np.asarray(means)[:, 0]), np.isnan(wanted))


def test_what_fmristore_wrote_keeps_its_type(tmp_path: Path) -> None:
    values = np.arange(24, dtype="i4").reshape(*SHAPE, 2)
    with fs.NeuroVec.create(values, tmp_path / "a.h5", space=np.eye(4), profile="r") as image:
        assert image.dtype == np.int32
        np.testing.assert_array_equal(np.asarray(image), values)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["data"][0, 0, 0, 0] = NA
    with fs.open(tmp_path / "a.h5") as image:
        with pytest.raises(CorruptDataError, match="changed since"):
            np.asarray(image)
        assert image.raw[0, 0, 0, 0] == NA
    values[0, 0, 0, 0] = NA
    with pytest.raises(InvalidInputError, match="no whole number"):
        fs.NeuroVec.create(values, tmp_path / "b.h5", space=np.eye(4), profile="r")


def test_integers_of_64_bits_that_are_missing(tmp_path: Path) -> None:
    values = VALUES.astype("i8")
    values[values == NA] = -(2**63)
    write(tmp_path / "a.h5", {"data/elements": values, **space(*SHAPE, 4)}, rtype="DenseNeuroVec")
    with fs.open(tmp_path / "a.h5") as image:
        assert image[0, 0, 0].dtype == np.int64
        with pytest.raises(LossyError, match="raw=True"):
            np.asarray(image)
        np.testing.assert_array_equal(image.raw[...], values.T)


def test_smaller_integers_have_no_missing_values(tmp_path: Path) -> None:
    values = np.full((1, *SHAPE[::-1]), -(2**15), "i2")
    write(tmp_path / "a.h5", {"data/elements": values, **space(*SHAPE, 1)}, rtype="DenseNeuroVec")
    with fs.open(tmp_path / "a.h5") as image:
        assert image.dtype == np.int16
        assert image[0, 0, 0, 0] == -(2**15)


@pytest.mark.parametrize("make", [maps, parcels])
def test_a_mask_with_missing_values_is_refused(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    with h5py.File(make(tmp_path / "a.h5"), "r+") as file:
        del file["mask"]
        mask = np.ones(SHAPE[::-1], "i4")
        mask[0, 0, 0] = NA
        file["mask"] = mask
    stored = fs.open(tmp_path / "a.h5")
    with stored, pytest.raises(MetadataError, match="missing values"):
        np.asarray(stored["s"] if make is parcels else stored)


def test_an_affine_with_missing_values_is_refused(tmp_path: Path) -> None:
    trans = np.eye(4).astype("i4")
    trans[3, 0] = NA
    nodes = {"data/elements": VALUES, **space(*SHAPE, 4), "space/trans": trans}
    write(tmp_path / "a.h5", nodes, rtype="DenseNeuroVec")
    with pytest.raises(MetadataError, match="space"):
        fs.open(tmp_path / "a.h5")


def test_missing_metadata_and_names(tmp_path: Path) -> None:
    path = parcels(tmp_path / "a.h5")
    logical = h5py.enum_dtype({"FALSE": 0, "TRUE": 1, "NA": 2}, "u1")
    with h5py.File(path, "r+") as file:
        meta = file.create_group("scans/s/metadata")
        meta["TR"] = np.array(NA, "i4")
        meta["runs"] = np.array([1, NA, 3], "i4")
        meta["seen"] = np.array([0, 1, -128], "i1")
        meta["levels"] = np.array([5, -128], "i1")
        meta.create_dataset("flags", data=[0, 2, 1], dtype=logical)
        file["clusters/cluster_meta/name"] = ["NA", "V1"]
        file.create_dataset("clusters/cluster_meta/left", data=[1, 2], dtype=logical)
    with fs.open(path) as stored, stored.save(tmp_path / "b.h5", profile="r") as again:
        for found in (stored, again):
            metadata = found["s"].metadata
            assert found["s"].space.tr is None
            assert metadata.get("TR") is None
            assert metadata["runs"] == [1, None, 3]
            assert metadata["seen"] == [0, 1, None]
            assert metadata["levels"] == [5, -128]
            assert metadata["flags"] == [0, None, 1]
            assert found["s"].names == ("NA", "V1")  # the text that R writes for a missing one
            np.testing.assert_array_equal(found["s"].table.columns["left"], [1, np.nan])
