"""Tables and labelled arrays go by their labels, and values of voxels find their way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import InvalidInputError

xr: Any = pytest.importorskip("xarray")
pd: Any = pytest.importorskip("pandas")

LIBRARY: Any = nibabel
SHAPE = (4, 4, 4)  # a cube: its axes cannot be told apart by their lengths
AFFINE = np.diag([2.0, 2, 2, 1])
VALUES = np.random.default_rng(1).random((*SHAPE, 3)).astype("f4")
MASK = VALUES[..., 0] > 0.3
GRID = fs.NeuroSpace(spatial_shape=SHAPE, affine=AFFINE)
NAMES = ["a", "b", "c"]
VOXELS = int(MASK.sum())


def test_axes_of_maps_go_by_their_names(tmp_path: Path) -> None:
    turned = {
        name: xr.DataArray(VALUES[..., i].transpose(2, 1, 0), dims=("z", "y", "x"))
        for i, name in enumerate(NAMES)
    }
    together = xr.DataArray(VALUES.transpose(3, 2, 1, 0), dims=("label", "z", "y", "x"))
    named = together.assign_coords(label=["c", "a", "b"])
    maps = fs.LabeledVolumeSet
    one = maps.create(turned, tmp_path / "one.h5", space=AFFINE)
    two = maps.create(together, tmp_path / "two.h5", labels=NAMES, space=GRID)
    three = maps.create(named, tmp_path / "three.h5", labels=NAMES, space=GRID)
    np.testing.assert_array_equal(one[:], VALUES)
    np.testing.assert_array_equal(two[:], VALUES)
    np.testing.assert_array_equal(three["c"], VALUES[..., 0])
    np.testing.assert_array_equal(three["a"], VALUES[..., 1])
    one.add("d", turned["a"])
    np.testing.assert_array_equal(one["d"], VALUES[..., 0])
    with pytest.raises(InvalidInputError, match=r"called 'c', 'a', 'b'.* by their coordinate"):
        maps.create(named, tmp_path / "four.h5", labels=["a", "b", "z"], space=GRID)
    with pytest.raises(InvalidInputError, match="axes are called z, y, other"):
        maps.create({"a": turned["a"].rename(x="other")}, tmp_path / "four.h5", space=GRID)
    for stored in (one, two, three):
        stored.close()


def test_values_of_voxels_go_by_positions(tmp_path: Path) -> None:
    stored = fs.MaskedNeuroVec.create(VALUES, tmp_path / "a.h5", mask=MASK, space=GRID.with_time(3))
    values = pd.Series(np.arange(VOXELS, dtype=float))
    expected = np.zeros(SHAPE)
    expected[MASK] = values
    np.testing.assert_array_equal(stored.unmask(values.sort_values(ascending=False)), expected)
    frame = pd.DataFrame([values, values + 1])
    np.testing.assert_array_equal(
        stored.unmask(frame.iloc[:, ::-1]), stored.unmask(frame.to_numpy())
    )
    with pytest.raises(InvalidInputError, match=r"labelled 1, 2, 3, \.\.\.: expected positions"):
        stored.unmask(pd.concat([values[1:], pd.Series([0.0], index=[99])]))
    table = pd.DataFrame({"z": [0, 1], "x": [3, 2], "y": [1, 1]})
    np.testing.assert_array_equal(stored.series(table), stored.series([[3, 1, 0], [2, 1, 1]]))
    with pytest.raises(InvalidInputError, match="expected x, y, z"):
        stored.series(table.rename(columns={"z": "depth"}))
    stored.close()


def test_components_go_by_their_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    loadings = pd.DataFrame(rng.random((VOXELS, 3)), columns=NAMES)
    basis = pd.DataFrame(rng.random((5, 3)), columns=NAMES)
    offset = pd.Series(rng.random(VOXELS)).sort_values()
    create = fs.LatentNeuroVec.create
    expected = basis.to_numpy() @ loadings.to_numpy().T + offset.sort_index().to_numpy()
    for number, courses in enumerate((basis[["c", "a", "b"]], {"one": basis[["b", "c", "a"]]})):
        with create(
            courses, loadings, tmp_path / f"{number}.h5", mask=MASK, space=GRID, offset=offset
        ) as found:
            np.testing.assert_allclose(found.series(mask=MASK), expected, rtol=1e-6)
    with pytest.raises(InvalidInputError, match="name their columns differently"):
        create(basis.rename(columns={"a": "z"}), loadings, tmp_path / "b.h5", mask=MASK, space=GRID)


def test_the_way_back_agrees_with_numpy_and_nilearn(tmp_path: Path) -> None:
    maskers: Any = pytest.importorskip("nilearn.maskers")
    image: Any = LIBRARY.Nifti1Image(VALUES, AFFINE)
    mask: Any = LIBRARY.Nifti1Image(MASK.astype("u1"), AFFINE)
    series = np.random.default_rng(3).random((3, VOXELS)).astype("f4")
    masker = maskers.NiftiMasker(mask, standardize=None).fit()
    expected = masker.inverse_transform(series).get_fdata(dtype="f4")
    volume = np.zeros(SHAPE, "f4")
    volume[MASK] = series[0]
    np.testing.assert_array_equal(expected[..., 0], volume)
    masked = fs.MaskedNeuroVec.create(image, tmp_path / "masked.h5", mask=mask)
    maps = fs.LabeledVolumeSet.create(image, tmp_path / "maps.h5", labels=NAMES, mask=mask)
    latent = fs.LatentNeuroVec.create(
        np.ones((3, 2)), np.ones((VOXELS, 2)), tmp_path / "latent.h5", mask=mask
    )
    inside = fs.NeuroVol.create(mask, tmp_path / "mask.h5")
    for stored in (masked, maps, latent, inside):
        np.testing.assert_array_equal(stored.unmask(series), expected)
        np.testing.assert_array_equal(stored.inverse_transform(series), expected)
        np.testing.assert_array_equal(stored.inverse_transform(series[0]), volume)
    found = masked.series(mask=mask)
    np.testing.assert_array_equal(masker.transform(masked.to_nibabel()), found)
    np.testing.assert_array_equal(masked.unmask(found), masked.to_numpy())
    for stored in (masked, maps, latent, inside):
        stored.close()


def test_values_of_parcels_come_back_as_nilearn_has_them(tmp_path: Path) -> None:
    maskers: Any = pytest.importorskip("nilearn.maskers")
    labels = np.where(MASK, 1 + np.arange(64).reshape(SHAPE) % 3, 0).astype("i2")
    atlas: Any = LIBRARY.Nifti1Image(labels, AFFINE)
    with fs.parcellate(VALUES, labels, tmp_path / "a.h5", space=AFFINE, tr=2.0) as summary:
        masker = maskers.NiftiLabelsMasker(atlas, standardize=None).fit()
        series = np.asarray(summary)
        expected = masker.inverse_transform(series).get_fdata(dtype="f4")
        np.testing.assert_array_equal(summary.inverse_transform(), expected)
        np.testing.assert_array_equal(summary.inverse_transform(series[0]), expected[..., 0])
        parcels = summary.parcellation
        np.testing.assert_array_equal(parcels.inverse_transform(series), expected)
        np.testing.assert_array_equal(parcels.to_volume(series), expected)
        back = parcels.to_nibabel(series, tr=2.0)
        np.testing.assert_array_equal(back.get_fdata(dtype="f4"), expected)
        np.testing.assert_allclose(masker.transform(back), series, rtol=1e-6)


def test_one_map_is_an_array(tmp_path: Path) -> None:
    stored = fs.LabeledVolumeSet.create(VALUES, tmp_path / "a.h5", labels=NAMES, space=GRID)
    one = stored.part("b")
    assert (len(one), one.ndim, one.shape) == (4, 3, SHAPE)
    np.testing.assert_array_equal(np.asarray(one), VALUES[..., 1])
    np.testing.assert_array_equal(one.to_numpy(), VALUES[..., 1])
    stored.close()


def test_axes_of_masks_labels_and_weights_go_by_their_names(tmp_path: Path) -> None:
    shape = (6, 5, 4)
    run = np.random.default_rng(3).random((*shape, 3))
    labels = np.arange(120).reshape(shape) % 3
    weights = np.random.default_rng(4).random(shape)

    def turned(values: Any) -> Any:
        return xr.DataArray(values.transpose(2, 0, 1), dims=("z", "x", "y"))

    with fs.MaskedNeuroVec.create(
        run, tmp_path / "a.h5", mask=turned(labels > 0), space=AFFINE
    ) as masked:
        np.testing.assert_array_equal(masked.series(mask=turned(labels == 1)), run[labels == 1].T)
    options: dict[str, Any] = {"space": AFFINE, "statistic": "mean"}
    with (
        fs.parcellate(run, labels, tmp_path / "b.h5", weights=weights, **options) as one,
        fs.parcellate(
            run, turned(labels), tmp_path / "c.h5", weights=turned(weights), **options
        ) as two,
    ):
        np.testing.assert_array_equal(one.to_numpy(), two.to_numpy())
