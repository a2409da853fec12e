"""Maps over all voxels against nilearn on series in memory, and what takes a masker's series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nilearn import maskers as theirs
from nilearn.connectome import ConnectivityMeasure
from nilearn.decomposition import CanICA, DictLearning
from numpy.testing import assert_allclose

import fmristore as fs
from fmristore import nilearn as ours
from fmristore_stores.errors import InvalidInputError
from tests.images import Scales as Scaling
from tests.images import nibabel, write_nifti

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

GRID = (10, 9, 8)
TIMES = 40
AFFINE = np.diag([3.0, 3, 3, 1])
SMALL = 400_000
CLEANING: dict[str, Any] = {"standardize": "zscore_sample", "detrend": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three regions, as NIfTI and in both stores; labels and a mask."""
    path = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    ids = np.zeros(GRID, np.int16)
    ids[1:4, 1:8, 1:7], ids[4:7, 1:8, 1:7], ids[7:9, 1:8, 1:7] = 1, 2, 3
    courses = np.concatenate([np.zeros((1, TIMES)), rng.normal(size=(3, TIMES))])
    values = 600 + 30 * courses[ids] + 10 * rng.normal(size=(*GRID, TIMES))
    write_nifti(path / "run.nii", values.astype(np.int16), scales=Scaling(0.5, 2), affine=AFFINE)
    for name in ("run.h5", "run.zarr"):
        fs.convert(path / "run.nii", path / name).close()
    nibabel.save(nibabel.Nifti1Image(ids, AFFINE), path / "labels.nii")
    inside = (ids > 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(inside, AFFINE), path / "mask.nii")
    return path


def make_masker(module: Any, folder: Path, **options: Any) -> Any:
    return module.NiftiMasker(str(folder / "mask.nii"), **CLEANING | options).fit()


@pytest.mark.parametrize("kind", ["correlation", "partial correlation", "tangent"])
def test_connectivity_takes_the_series(folder: Path, kind: str) -> None:
    labels = str(folder / "labels.nii")
    matrices = []
    for module, name in ((theirs, "run.nii"), (ours, "run.h5")):
        series = module.NiftiLabelsMasker(labels, **CLEANING).fit_transform(str(folder / name))
        halves = [series[:20], series[20:]]
        measure = ConnectivityMeasure(kind=kind, standardize="zscore_sample")
        matrices.append(measure.fit_transform(halves))
    assert matrices[0].shape == (2, 3, 3)
    assert_allclose(matrices[1], matrices[0], rtol=1e-6, atol=1e-9)


class TestCorrelationMaps:
    @pytest.mark.parametrize("name", ["run.nii", "run.h5", "run.zarr"])
    def test_of_parcels(self, folder: Path, name: str) -> None:
        parcels = ours.NiftiLabelsMasker(str(folder / "labels.nii"), **CLEANING)
        seeds = parcels.fit_transform(folder / name)
        masker = make_masker(theirs, folder)
        series = masker.transform(str(folder / "run.nii"))
        wanted = masker.inverse_transform(
            (series.T @ seeds / (TIMES - 1)).T
        )  # as nilearn's example
        found = ours.correlation_maps(
            folder / name, seeds, make_masker(ours, folder), max_memory=SMALL
        )
        assert found.shape == (*GRID, 3)
        assert_allclose(found.get_fdata(), wanted.get_fdata(), atol=1e-6)

    def test_of_a_seed_in_a_smoothed_scrubbed_run(self, folder: Path) -> None:
        keep = np.delete(np.arange(TIMES), [3, 4, 20])
        given: dict[str, Any] = {
            "confounds": np.random.default_rng(1).normal(size=(TIMES, 2)),
            "sample_mask": keep,
        }
        sphere = ours.NiftiSpheresMasker([(6.0, 12.0, 9.0)], radius=4, **CLEANING).fit()
        seed = sphere.transform(folder / "run.h5", **given)[:, 0]
        masker = make_masker(theirs, folder, smoothing_fwhm=5)
        series = masker.transform(str(folder / "run.nii"), **given)
        wanted = [np.corrcoef(one, seed)[0, 1] for one in series.T]
        found = ours.correlation_maps(folder / "run.h5", seed, masker, **given, max_memory=SMALL)
        assert found.shape == GRID
        inside = masker.mask_img_.get_fdata() > 0
        assert_allclose(found.get_fdata()[inside], wanted, atol=2e-6)

    def test_a_voxel_that_never_changes(self, folder: Path) -> None:
        values = np.asarray(nibabel.load(folder / "run.nii").dataobj)
        values[3, 3, 3] = 7.0
        masker = make_masker(ours, folder, standardize=None, detrend=False)
        image = nibabel.Nifti1Image(values, AFFINE)
        found = ours.correlation_maps(image, np.arange(TIMES), masker).get_fdata()
        assert found[3, 3, 3] == 0
        assert np.isfinite(found).all()
        assert np.abs(found).max() <= 1 + 1e-12

    def test_what_is_refused(self, folder: Path) -> None:
        masker = make_masker(ours, folder)
        run = folder / "run.h5"
        for seeds in (np.ones(TIMES), np.full(TIMES, np.nan), np.zeros((TIMES, 2, 2))):
            with pytest.raises(InvalidInputError, match="series"):
                ours.correlation_maps(run, seeds, masker)
        with pytest.raises(InvalidInputError, match=r"seeds of 5 volumes .* 40"):
            ours.correlation_maps(run, np.arange(5), masker)
        with pytest.raises(InvalidInputError, match="2 runs: give one"):
            ours.correlation_maps([run, run], np.arange(TIMES), masker)


class TestReducedRun:
    def test_it_holds_the_largest_components(self, folder: Path) -> None:
        masker = make_masker(ours, folder)
        series = masker.transform(folder / "run.nii")
        _, sizes, maps = np.linalg.svd(series, full_matrices=False)
        found = ours.reduced_run(folder / "run.zarr", masker, 4, max_memory=SMALL)
        reduced = found.get_fdata()[masker.mask_img_.get_fdata() > 0].T
        wanted = sizes[:4, None] * maps[:4]
        signs = np.sign((reduced * wanted).sum(axis=1, keepdims=True))
        assert_allclose(reduced * signs, wanted, atol=1e-5 * sizes[0])
        with pytest.raises(InvalidInputError, match=r"n_components=41 .* 40"):
            ours.reduced_run(folder / "run.h5", masker, 41)

    @pytest.mark.parametrize("model", [CanICA, DictLearning])
    def test_decompositions_take_it(self, folder: Path, model: Any) -> None:
        masker = make_masker(ours, folder)
        cleaned = masker.inverse_transform(masker.transform(folder / "run.nii"))
        short = ours.reduced_run(folder / "run.h5", masker, 3, max_memory=SMALL)
        found = []
        for image in (cleaned, short):
            options = {"mask": masker.mask_img_, "n_components": 3, "smoothing_fwhm": None}
            options |= {"standardize": False, "detrend": False, "random_state": 0}
            if model is DictLearning:
                options["alpha"] = 1
            found.append(model(**options).fit([image]).components_)
        likeness = np.abs(np.corrcoef(*found)[:3, 3:])
        assert (likeness.max(axis=1) > 0.99).all()
