"""Arrays and masks of other libraries: taken for what they are, or refused with what to do."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore.formats.parcellated.inputs import voxel_weights
from fmristore.model.space import HeaderWarning
from fmristore.sources.masks import mask_array
from fmristore_stores.errors import InvalidInputError

LIBRARY: Any = nibabel
AFFINE = np.diag([2.0, 2, 2, 1])
RUN = np.random.default_rng(0).integers(0, 99, (4, 5, 3, 6)).astype("i2")
MASK = RUN[..., 0] > 50
GRID = fs.NeuroSpace(spatial_shape=(4, 5, 3), affine=AFFINE)


class Tensor:
    """As tensors of torch are: a type of values that numpy does not know."""

    shape = RUN.shape
    dtype = "torch.int16"

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return RUN if dtype is None else RUN.astype(dtype)


@pytest.mark.parametrize(
    "given",
    [
        np.asfortranarray(RUN),
        RUN.astype(">i2"),
        RUN[::-1][::-1],
        RUN.astype("i8") + 2**53 + 1,
        RUN.astype("u8") + 2**63,
        RUN.tolist(),
        np.ma.array(RUN),
        memoryview(RUN.tobytes()).cast("B").cast("h", RUN.shape),
        Tensor(),
    ],
    ids=["Fortran", "big-endian", "views", "i8", "u8", "list", "masked", "buffer", "tensor"],
)
def test_arrays_of_any_kind(tmp_path: Path, given: Any) -> None:
    with fs.NeuroVec.create(given, tmp_path / "a.h5", space=AFFINE) as stored:
        np.testing.assert_array_equal(stored[...], np.asarray(given))


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (RUN.astype("f2"), r"astype\(numpy\.float32"),
        (RUN.astype(object), r"astype\(numpy\.float32"),
        (RUN.astype("M8[s]"), r"astype\(numpy\.float32"),
        (RUN[..., None], r"data\[:, :, :, 0\] or data\[\.\.\., 0\]"),
        (RUN[MASK].T, r"nilearn\.masking\.unmask"),
        (b"run.nii.gz", "path or URL as text"),
        (object(), "path or URL as text"),
    ],
)
def test_what_is_no_array_of_an_image(tmp_path: Path, given: Any, cure: str) -> None:
    with pytest.raises(InvalidInputError, match=cure):
        fs.NeuroVec.create(given, tmp_path / "a.h5", space=AFFINE)
    assert not (tmp_path / "a.h5").exists()


def test_dask_arrays_of_unknown_length_and_datasets(tmp_path: Path) -> None:
    dask: Any = pytest.importorskip("dask.array")
    xarray: Any = pytest.importorskip("xarray")
    lazy = dask.from_array(RUN)
    some = lazy[..., dask.from_array(np.arange(6) % 2 == 0)]
    with pytest.raises(InvalidInputError, match="compute_chunk_sizes"):
        fs.NeuroVec.create(some, tmp_path / "a.h5", space=AFFINE)
    dataset = xarray.Dataset({"data": (("x", "y", "z", "time"), RUN)})
    with pytest.raises(InvalidInputError, match=r"variables data: .*dataset\['data'\]"):
        fs.NeuroVec.create(dataset, tmp_path / "a.h5", space=AFFINE)
    placed = dataset["data"].assign_coords(x=[0, 2, 4, 6.0], y=np.arange(5))
    with pytest.raises(InvalidInputError, match=r"x run from 6 to 0, .*sortby\('x'\)"):
        fs.NeuroVec.create(placed[::-1], tmp_path / "a.h5", space=AFFINE)
    turned = placed.transpose("time", "z", "y", "x")
    with fs.NeuroVec.create(turned, tmp_path / "a.h5", space=AFFINE) as stored:
        np.testing.assert_array_equal(stored[...], RUN)


def test_coordinates_must_be_those_of_the_mask_that_gives_the_grid(tmp_path: Path) -> None:
    xarray: Any = pytest.importorskip("xarray")
    mask = LIBRARY.Nifti1Image(np.ones(RUN.shape[:3], "u1"), np.diag([2.0, 2, 2, 1]))
    data = xarray.DataArray(RUN, dims=("x", "y", "z", "time"))
    index = np.arange(RUN.shape[0])
    wrong: Any
    for k, wrong in enumerate((90 + 2 * index, 3.0 * index, 2 * index[::-1])):
        placed = data.assign_coords(x=wrong).transpose("time", "z", "y", "x")
        with pytest.raises(InvalidInputError, match=r"coordinates x run from .* space="):
            fs.MaskedNeuroVec.create(placed, tmp_path / f"{k}.h5", mask=mask)
        with pytest.raises(InvalidInputError, match=r"coordinates x run from .* space="):
            fs.LabeledVolumeSet.create({"a": placed[0]}, tmp_path / f"{k}.h5", mask=mask)
    shifted, space = data.assign_coords(x=90 + 2 * index), mask.affine
    parcels: dict[str, Any] = {"parcellation": mask, "space": space}
    multi = fs.ParcellatedMultiScan.create({"a": shifted}, tmp_path / "m.h5", **parcels)
    with pytest.raises(InvalidInputError, match="coordinates x run from"):
        multi.add_scans({"b": shifted})
    multi.add_scan("c", data.values)
    multi.close()
    for k, right in enumerate((index, 2 * index + 1e-6, (2 * index).astype("f4"))):
        placed = data.assign_coords(x=right)
        with fs.MaskedNeuroVec.create(placed, tmp_path / f"{k}.h5", mask=mask) as stored:
            np.testing.assert_array_equal(stored.space.affine, mask.affine)


def test_what_is_no_space_and_what_is_no_tr(tmp_path: Path) -> None:
    wrong: Any
    for wrong in ("MNI", LIBRARY.Nifti1Image(RUN, AFFINE)):
        with pytest.raises(InvalidInputError, match=r"image\.affine"):
            fs.NeuroVec.create(RUN, tmp_path / "a.h5", space=wrong)


TR_MS: tuple[Any, ...] = (2000, np.array(2000.0), "2000", np.float32(2000))


@pytest.mark.parametrize("tr", TR_MS, ids=["int", "array", "text", "float32"])
def test_a_tr_in_milliseconds_is_warned_of_wherever_it_is_given(tmp_path: Path, tr: Any) -> None:
    labels = np.zeros(RUN.shape[:3], "i2")
    labels[0] = 1
    matrix, rows, every = np.ones((6, 1)), np.ones((60, 1)), np.ones(RUN.shape[:3], bool)
    grid = GRID.with_time(6, tr=tr)
    image = LIBRARY.Nifti1Image(RUN, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    LIBRARY.save(image, tmp_path / "run.nii")
    parcels = {"parcellation": LIBRARY.Nifti1Image(labels, AFFINE)}
    summary, scan = fs.ParcellatedScanSummary, fs.ParcellatedScan
    calls: list[Any] = [
        lambda url: fs.NeuroVec.create(RUN, url, space=AFFINE, tr=tr),
        lambda url: fs.NeuroVec.create(RUN, url, space=grid),
        lambda url: fs.convert(tmp_path / "run.nii", url, tr=tr),
        lambda url: fs.MaskedNeuroVec.create(RUN, url, mask=MASK, space=grid),
        lambda url: summary.create(matrix, url, tr=tr, **parcels),
        lambda url: summary.create(matrix, url, space=grid, **parcels),
        lambda url: scan.create(RUN, url, space=grid, **parcels),
        lambda url: fs.LatentNeuroVec.create(matrix, rows, url, mask=every, space=grid),
    ]
    for k, call in enumerate(calls):
        with pytest.warns(HeaderWarning, match=r"milliseconds .* tr=2$"):
            stored = call(tmp_path / f"{k}.h5")
        assert stored.tr == 2000
        stored.close()


@pytest.mark.parametrize("kind", ["bool", "u1", "f4", "nan", "negative", "list"])
def test_voxels_that_are_not_zero_are_in_a_mask(kind: str) -> None:
    given: Any = {
        "nan": np.where(MASK, 1, np.nan),
        "negative": np.where(MASK, -1, 0),
        "list": MASK.tolist(),
    }.get(kind)
    given = MASK.astype(kind) * (255 if kind == "u1" else 1) if given is None else given
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(mask_array(given, GRID), MASK)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (MASK.astype(object), r"astype\(bool\)"),
        (MASK.ravel(), "reshape"),
        (np.argwhere(MASK), "give them as voxels"),
        (np.stack([MASK, MASK], -1), r"values\[\.\.\., 0\]"),
        (np.ones((9, 9, 9)), "resample_to_img"),
        (np.zeros(MASK.shape), "all its values are 0"),
        (MASK * np.random.default_rng(1).random(MASK.shape), r"not whole numbers.*values > 0\.5"),
        (np.where(MASK, 1.0, 1e-20) * (np.arange(3) > 0), r"not whole numbers.*values > 0\.5"),
        (MASK + 1, r"from 1 to 2 and 0 nowhere.*values > 1,"),
        (np.random.default_rng(1).random(MASK.shape), r"values > 0\.5"),
        (LIBRARY.Nifti1Image(MASK.astype("u1"), np.diag([-2.0, 2, 2, 1])), "as_closest_canonical"),
    ],
)
def test_what_is_no_mask_says_what_to_do(given: Any, cure: str) -> None:
    with pytest.raises(InvalidInputError, match=cure):
        mask_array(given, GRID)


def test_coordinates_of_masks_labels_and_weights_must_be_those_of_the_grid() -> None:
    xarray: Any = pytest.importorskip("xarray")
    index = np.arange(4)
    volume = xarray.DataArray(np.arange(60).reshape(4, 5, 3) % 4, dims=("x", "y", "z"))
    parcels = fs.Parcellation.from_labels(volume, space=GRID)
    for wrong in (90 + 2 * index, 3.0 * index, 2 * index[::-1]):
        placed = volume.assign_coords(x=wrong)
        with pytest.raises(InvalidInputError, match="coordinates x run from"):
            mask_array(placed, GRID)
        with pytest.raises(InvalidInputError, match="coordinates x run from"):
            fs.Parcellation.from_labels(placed, space=GRID)
        with pytest.raises(InvalidInputError, match="coordinates x run from"):
            voxel_weights(placed, parcels)
    for right in (index, 2.0 * index):
        placed = volume.assign_coords(x=right)
        np.testing.assert_array_equal(mask_array(placed, GRID), volume.values != 0)
        labels = fs.Parcellation.from_labels(placed.transpose("z", "x", "y"), space=GRID).labels
        np.testing.assert_array_equal(labels, volume.values)
        assert voxel_weights(placed, parcels) is not None
