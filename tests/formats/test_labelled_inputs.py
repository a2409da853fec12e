"""Tables and labelled arrays go by their labels, and values of voxels find their way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import InvalidInputError, SelectionError

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


def test_an_array_has_the_grid_of_its_mask_or_labels(tmp_path: Path) -> None:
    image = LIBRARY.Nifti1Image(MASK.astype("u1"), AFFINE)
    path = tmp_path / "mask.nii"
    LIBRARY.save(image, path)
    parcels = fs.Parcellation.from_labels(image)
    calls: list[Any] = [
        lambda url: fs.MaskedNeuroVec.create(VALUES, url, mask=image, tr=2.0),
        lambda url: fs.MaskedNeuroVec.create(VALUES, url, mask=path, tr=2.0),
        lambda url: fs.ParcellatedScan.create(VALUES, url, parcellation=parcels, tr=2.0),
        lambda url: fs.ParcellatedScan.create(VALUES, url, parcellation=str(path), tr=2.0),
        lambda url: fs.LatentNeuroVec.from_pca(VALUES, url, n_components=2, mask=image, tr=2.0),
        lambda url: fs.parcellate(VALUES, image, url, tr=2.0),
        lambda url: fs.LabeledVolumeSet.create(VALUES, url, labels=NAMES, mask=path),
        lambda url: fs.LabeledVolumeSet.create({"a": VALUES[..., 0]}, url, mask=image),
    ]
    for k, call in enumerate(calls):
        with call(tmp_path / f"{k}.h5") as stored:
            np.testing.assert_array_equal(stored.affine, AFFINE)
            if k < 5:
                assert stored.tr == 2.0
            if k < 4:
                np.testing.assert_array_equal(stored[...][MASK], VALUES[MASK])
    with pytest.raises(InvalidInputError, match=r"array needs space=.*image\.affine"):
        fs.MaskedNeuroVec.create(VALUES, tmp_path / "x.h5", mask=MASK)
    with pytest.raises(InvalidInputError, match=r"mask has shape"):
        fs.MaskedNeuroVec.create(VALUES[:3], tmp_path / "x.h5", mask=MASK, space=AFFINE)
    with pytest.raises(InvalidInputError, match=r"nilearn\.masking\.unmask"):
        fs.MaskedNeuroVec.create(VALUES[MASK].T, tmp_path / "x.h5", mask=image)


def test_linear_indices_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with fs.NeuroVec.create(VALUES, tmp_path / "a.h5", space=AFFINE) as stored:
        places = np.flatnonzero(MASK)[:5]
        with pytest.raises(SelectionError, match=r"numpy\.unravel_index.*indices - 1"):
            stored.series(places)
        found = stored.series(np.stack(np.unravel_index(places, stored.shape[:3]), axis=1))
        np.testing.assert_array_equal(found, VALUES[MASK][:5].T)


@pytest.mark.parametrize("name", ["a (50%)", "100%", "a%20b", "a:b", "rest 1"])
def test_names_that_r_writes_are_written_for_it(tmp_path: Path, name: str) -> None:
    labels = LIBRARY.Nifti1Image(MASK.astype("u1"), AFFINE)
    multi = fs.ParcellatedMultiScan
    with multi.create({name: VALUES}, tmp_path / "m.h5", parcellation=labels, profile="r"):
        pass
    with fs.open(tmp_path / "m.h5", format="parcellatedmultiscan") as scans:
        assert list(scans) == [name]
    with fs.NeuroVecSeq.create(
        {name: VALUES}, tmp_path / "s.h5", space=AFFINE, profile="r"
    ) as runs:
        assert list(runs.runs) == [name]
    with pytest.raises(InvalidInputError, match=r"cannot be the name of a run.*rename it"):
        fs.NeuroVecSeq.create({"a/b": VALUES}, tmp_path / "x.h5", space=AFFINE, profile="r")


def test_indices_as_numpy_gives_them(tmp_path: Path) -> None:
    with fs.NeuroVec.create(VALUES, tmp_path / "a.h5", space=AFFINE) as stored:
        found = stored.series(np.nonzero(MASK))
        np.testing.assert_array_equal(found, VALUES[MASK].T)
        three = np.zeros(SHAPE, bool)
        three[0, 1, 2] = three[1, 2, 3] = three[3, 0, 0] = True
        with pytest.raises(SelectionError, match=r"rows or columns.*numpy\.argwhere"):
            stored.series(np.nonzero(three))
        kept = pd.Series([True, False, True], index=[2, 0, 1])  # volumes 2 and 1
        np.testing.assert_array_equal(
            stored.series([[0, 0, 0]], times=kept)[:, 0], VALUES[0, 0, 0, 1:]
        )


def test_values_of_parcels_in_types_of_pandas_and_by_name(tmp_path: Path) -> None:
    labels = np.where(MASK, 1 + np.arange(64).reshape(SHAPE) % 3, 0)
    parcels = fs.Parcellation.from_labels(labels, space=GRID, names=dict(enumerate(NAMES, 1)))
    series = np.arange(6.0).reshape(2, 3)
    frame = pd.DataFrame(series, columns=NAMES).astype("Float64")
    frame.iloc[0, 0] = pd.NA
    with fs.ParcellatedScanSummary.create(
        frame[NAMES[::-1]], tmp_path / "a.h5", parcellation=parcels
    ) as stored:
        np.testing.assert_array_equal(stored.to_numpy(), np.where(series == 0, np.nan, series))
    with pytest.raises(InvalidInputError, match=r"astype\(float\)"):
        fs.ParcellatedScanSummary.create(frame.astype(str), tmp_path / "b.h5", parcellation=parcels)
    by_name = {"c": 3.0, "a": 1.0, "b": 2.0}
    np.testing.assert_array_equal(parcels.to_volume(by_name), np.where(MASK, labels, 0.0))
    with pytest.raises(InvalidInputError, match="called a, b, x"):
        parcels.to_volume({"a": 1, "b": 2, "x": 3})
    with pytest.raises(InvalidInputError, match=r"astype\(float\)"):
        parcels.to_volume(["1", "2", "3"])
    large = np.array([2**53 + 1, 1, 2])
    assert np.asarray(parcels.to_nibabel(large).dataobj).max() == 2**53 + 1


def test_what_is_no_weight_and_no_run(tmp_path: Path) -> None:
    labels = MASK.astype("u1")
    for wrong, cure in ((VALUES[..., 0] + 1j, "real numbers"), (-VALUES[..., 0], "clip")):
        with pytest.raises(InvalidInputError, match=cure):
            fs.parcellate(VALUES, labels, tmp_path / "a.h5", space=AFFINE, weights=wrong)
    volumes = [LIBRARY.Nifti1Image(VALUES[..., k], AFFINE) for k in range(3)]
    with pytest.raises(InvalidInputError, match="concat_images"):
        fs.convert(volumes, tmp_path / "a.h5")
    swapped = pd.Series(["a", "b", "c"], index=[2, 1, 0])
    with fs.LabeledVolumeSet.create(
        VALUES, tmp_path / "a.h5", labels=swapped, space=AFFINE
    ) as maps:
        assert maps.labels == ("c", "b", "a")
