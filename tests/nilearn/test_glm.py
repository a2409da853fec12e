"""The streamed first-level model against nilearn's own."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nilearn import maskers
from nilearn.glm import first_level as theirs
from nilearn.glm.second_level import SecondLevelModel
from numpy.testing import assert_allclose
from sklearn.base import clone

import fmristore as fs
from fmristore import nilearn as ours
from fmristore_stores.errors import InvalidInputError, NotFoundError
from tests.every_format import write
from tests.images import Scales as Scaling
from tests.images import nibabel, write_nifti

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

GRID = (8, 7, 6)
TIMES = 60
AFFINE = np.array([[-3.0, 0, 0, 12], [0, 3, 0, -9], [0, 0, 3.3, -9], [0, 0, 0, 1]])
SMALL = 200_000
"""Bytes for which such a run is fitted in many blocks."""
KINDS = ("z_score", "stat", "p_value", "effect_size", "effect_variance")


def make_run(path: Path, seed: int, scales: Scaling) -> str:
    """A run whose voxels answer to one condition, above noise of which each has its own colour."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(*GRID, TIMES))
    share = rng.random(GRID) * 0.7
    for t in range(1, TIMES):
        noise[..., t] += share * noise[..., t - 1]
    signal = (np.arange(TIMES) // 10 % 2) * rng.random((*GRID, 1)) * 30
    baseline = 500 + 400 * rng.random((*GRID, 1))
    values = (baseline + signal + 12 * noise).astype(np.int16)
    write_nifti(path, values, scales=scales, affine=AFFINE)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs as NIfTI and in both stores, as one sequence, and a mask."""
    path = tmp_path_factory.mktemp("glm")
    scales = [Scaling(0.25, 3.0), Scaling()]
    names = [f"sub-01_task-blocks_run-{i}_bold" for i in (1, 2)]
    for seed, (name, scale) in enumerate(zip(names, scales, strict=True)):
        make_run(path / f"{name}.nii.gz", seed, scale)
        for suffix in ("h5", "zarr"):
            fs.convert(path / f"{name}.nii.gz", path / f"{name}.{suffix}").close()
    fs.convert([path / f"{name}.nii.gz" for name in names], path / "both.h5").close()
    inside = np.zeros(GRID, np.uint8)
    inside[1:7, 1:6, 1:5] = 1
    nibabel.save(nibabel.Nifti1Image(inside, AFFINE), path / "mask.nii")
    return path


def runs_of(folder: Path, suffix: str) -> list[str]:
    return [str(folder / f"sub-01_task-blocks_run-{i}_bold.{suffix}") for i in (1, 2)]


EVENTS = pd.DataFrame(
    {
        "onset": np.arange(5, 115, 10.0),
        "duration": 6.0,
        "trial_type": ["face", "house", "cat"] * 3 + ["face", "house"],
    }
)
CONTRASTS: list[Any] = ["face - 0.5*house", np.eye(2, 3)]


def make_model(module: Any, folder: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"t_r": 2.0, "mask_img": str(folder / "mask.nii")}
    return module.FirstLevelModel(**given | options)


def check_same(found: Any, wanted: Any, contrasts: Any = None, rtol: float = 1e-6) -> None:
    """Compare labels, designs and all maps of contrasts."""
    mask = wanted.masker_.mask_img_.get_fdata()
    assert (found.masker_.mask_img_.get_fdata() == mask).all()
    assert found.n_elements_ == wanted.n_elements_
    for one, other in zip(found.design_matrices_, wanted.design_matrices_, strict=True):
        pd.testing.assert_frame_equal(one, other)
    for one, other in zip(found.labels_, wanted.labels_, strict=True):
        assert (one == other).all()
    for contrast in CONTRASTS if contrasts is None else contrasts:
        expected = wanted.compute_contrast(contrast, output_type="all")
        maps = found.compute_contrast(contrast, output_type="all")
        assert maps.keys() == expected.keys() == set(KINDS)
        for name, image in expected.items():
            values = image.get_fdata()
            assert (maps[name].affine == image.affine).all()
            atol = rtol * np.abs(values).max()
            assert_allclose(maps[name].get_fdata(), values, rtol=rtol, atol=atol, err_msg=name)


FIT: dict[str, dict[str, Any]] = {
    "sample masks": {"sample_masks": [np.arange(3, TIMES), np.arange(TIMES) % 11 != 5]},
    "confounds": {
        "confounds": [
            pd.DataFrame(np.random.default_rng(i).normal(size=(TIMES, 2)), columns=["a", "b"])
            for i in (0, 1)
        ]
    },
}
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "ols": {"noise_model": "ols"},
    "no scaling": {"signal_scaling": False},
    "standardized": {"signal_scaling": False, "standardize": "zscore_sample"},
    "percent": {"signal_scaling": False, "standardize": "psc"},
    "grand mean": {"signal_scaling": (0, 1)},
    "smoothed": {"smoothing_fwhm": 6},
    "resampled": {"mask_img": None, "target_affine": np.diag([4.0, 4, 4])},
    "no mask": {"mask_img": False},
    "polynomial": {"drift_model": "polynomial", "drift_order": 2, "hrf_model": "spm + derivative"},
    "high pass": {"high_pass": 0.03, "min_onset": -10, "slice_time_ref": 0.5},
    "fir": {"hrf_model": "fir", "fir_delays": [0, 1, 2], "drift_model": None},
}


@pytest.mark.parametrize("case", [*OPTIONS, *FIT])
def test_the_maps_are_nilearns(folder: Path, case: str) -> None:
    options, given = OPTIONS.get(case, {}), FIT.get(case, {})
    runs, events = runs_of(folder, "nii.gz"), [EVENTS, EVENTS]
    wanted = make_model(theirs, folder, **options).fit(runs, events, **given)
    found = make_model(ours, folder, **options, max_memory=SMALL).fit(runs, events, **given)
    contrasts = [np.eye(1, 3), np.eye(2, 3)] if case == "fir" else None
    # The mean of all voxels of the run without scaling is a float32 in nilearn, a sum of many.
    check_same(found, wanted, contrasts, rtol=1e-4 if case == "grand mean" else 1e-6)


class TestSources:
    @pytest.fixture(scope="class")
    def wanted(self, folder: Path) -> Any:
        return make_model(theirs, folder).fit(runs_of(folder, "nii.gz"), [EVENTS, EVENTS])

    @pytest.mark.parametrize("suffix", ["h5", "zarr"])
    def test_stores(self, folder: Path, wanted: Any, suffix: str) -> None:
        model = make_model(ours, folder, max_memory=SMALL)
        check_same(model.fit(runs_of(folder, suffix), [EVENTS, EVENTS]), wanted)

    def test_objects_and_images(self, folder: Path, wanted: Any) -> None:
        model = make_model(ours, folder, max_memory=SMALL)
        first, second = runs_of(folder, "h5")
        with fs.open(first) as run:
            check_same(model.fit([run, nibabel.load(second)], [EVENTS, EVENTS]), wanted)

    def test_the_runs_of_a_sequence(self, folder: Path, wanted: Any) -> None:
        model = make_model(ours, folder, max_memory=SMALL)
        check_same(model.fit(folder / "both.h5", [EVENTS, EVENTS]), wanted)
        with fs.open(folder / "both.h5") as runs:
            check_same(model.fit(runs, [EVENTS, EVENTS]), wanted)

    def test_urls(self, folder: Path) -> None:
        import fsspec

        library: Any = fsspec
        memory = library.filesystem("memory")
        source = runs_of(folder, "h5")[0]
        memory.pipe("/glm/run.h5", Path(source).read_bytes())
        try:
            wanted = make_model(theirs, folder).fit(runs_of(folder, "nii.gz")[0], EVENTS)
            model = make_model(ours, folder, max_memory=SMALL)
            check_same(model.fit("memory://glm/run.h5", EVENTS), wanted)
        finally:
            memory.rm("/glm", recursive=True)

    def test_a_masked_run(self, folder: Path) -> None:
        run = runs_of(folder, "nii.gz")[0]
        url = folder / "masked.h5"
        fs.MaskedNeuroVec.create(url, run, mask=folder / "mask.nii").close()
        wanted = make_model(theirs, folder).fit(run, EVENTS)
        check_same(make_model(ours, folder, max_memory=SMALL).fit(url, EVENTS), wanted)

    def test_what_cannot_be_fitted(self, folder: Path, tmp_path: Path) -> None:
        model = make_model(ours, folder)
        with pytest.raises(NotFoundError):
            model.fit(tmp_path / "missing.h5", EVENTS)
        with pytest.raises(InvalidInputError, match="run of volumes"):
            model.fit(write("neurovol", tmp_path / "a.h5"), EVENTS)
        runs = [runs_of(folder, "h5")[0], write("neurovec", tmp_path / "b.h5")]
        with pytest.raises(InvalidInputError, match="different grids"):
            model.fit(runs, [EVENTS, EVENTS])
        with pytest.raises(ValueError, match="events or design matrices"):
            model.fit(runs_of(folder, "h5"))


class TestDesigns:
    @pytest.mark.parametrize("noise", ["ols", "ar1"])
    def test_given_and_without_a_constant(self, folder: Path, noise: str) -> None:
        rng = np.random.default_rng(3)
        design = pd.DataFrame(rng.normal(size=(TIMES, 3)) + 0.5, columns=["face", "house", "cat"])
        options = {"noise_model": noise, "signal_scaling": False}
        run = runs_of(folder, "nii.gz")[0]
        wanted = make_model(theirs, folder, **options).fit(run, design_matrices=design)
        model = make_model(ours, folder, **options, max_memory=SMALL)
        check_same(model.fit(run, design_matrices=design), wanted)

    def test_more_coefficients(self, folder: Path) -> None:
        options = {"noise_model": "ar2", "random_state": 0}
        run = runs_of(folder, "nii.gz")[0]
        wanted = make_model(theirs, folder, **options).fit(run, EVENTS, bins=5)
        found = make_model(ours, folder, **options, max_memory=SMALL).fit(run, EVENTS, bins=5)
        check_same(found, wanted)

    def test_a_fitted_masker(self, folder: Path) -> None:
        options = {"smoothing_fwhm": 4, "detrend": True, "standardize": None}
        run = runs_of(folder, "nii.gz")[0]
        models = []
        for module in (theirs, ours):
            masker = maskers.NiftiMasker(str(folder / "mask.nii"), **options).fit()
            model = make_model(module, folder, mask_img=masker, signal_scaling=False)
            models.append(model.fit(run, EVENTS))
            assert models[-1].masker_ is masker
        check_same(models[1], models[0])

    def test_a_voxel_that_never_changes(self, folder: Path, tmp_path: Path) -> None:
        values = np.asarray(nibabel.load(runs_of(folder, "nii.gz")[1]).dataobj).copy()
        values[3, 3, 3] = 7
        write_nifti(tmp_path / "run.nii", values, affine=AFFINE)
        fitted = make_model(ours, folder).fit(str(tmp_path / "run.nii"), EVENTS)
        maps = fitted.compute_contrast("face", output_type="all")
        assert maps["effect_size"].get_fdata()[3, 3, 3] == pytest.approx(0, abs=1e-9)
        assert all(np.isfinite(image.get_fdata()).all() for image in maps.values())


class TestAsNilearns:
    def test_parameters(self, folder: Path) -> None:
        model = make_model(ours, folder, hrf_model="spm", max_memory="8MiB")
        twin = clone(model)
        assert type(twin) is ours.FirstLevelModel
        assert twin.get_params()["max_memory"] == "8MiB"
        known = make_model(theirs, folder).get_params()
        assert model.get_params().keys() == known.keys() | {"max_memory", "storage_options"}
        fitted = make_model(ours, folder, mask_img=False).fit(runs_of(folder, "h5")[0], EVENTS)
        assert fitted.mask_img is False
        assert isinstance(fitted, theirs.FirstLevelModel)

    def test_reports(self, folder: Path) -> None:
        model = make_model(ours, folder).fit(runs_of(folder, "zarr"), [EVENTS, EVENTS])
        text = str(model.generate_report("face", bg_img=None))
        assert "face" in text
        assert "ar1" in text.lower()

    def test_second_level_models_take_it(self, folder: Path) -> None:
        maps = []
        for module, suffix in ((theirs, "nii.gz"), (ours, "h5")):
            subjects = [
                make_model(module, folder, subject_label=f"{number:02}").fit(run, EVENTS)
                for number, run in enumerate(runs_of(folder, suffix))
            ]
            group = SecondLevelModel(mask_img=str(folder / "mask.nii")).fit(subjects)
            contrast = group.compute_contrast(first_level_contrast="face", output_type="stat")
            maps.append(contrast.get_fdata())
        assert_allclose(maps[1], maps[0], rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(
        ("options", "cure"),
        [
            ({"minimize_memory": False}, "to_nibabel"),
            ({"signal_scaling": 1}, r"\(0, 1\)"),
            ({"noise_model": "arx"}, "'ols', 'ar1'"),
        ],
    )
    def test_what_is_refused(self, folder: Path, options: dict[str, Any], cure: str) -> None:
        model = make_model(ours, folder, **options)
        with pytest.raises(InvalidInputError, match=cure):
            model.fit(runs_of(folder, "h5")[0], EVENTS)


def test_real_runs(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "data" / "real" / "bold" / "haxby2001_25mm"
    runs = [str(folder / f"sub-1_run-{i:02}_bold.nii.gz") for i in (1, 2)]
    fs.convert(runs, tmp_path / "runs.h5").close()
    options = {"t_r": 2.5}  # the mask is computed from the runs
    wanted = theirs.FirstLevelModel(**options).fit(runs, [EVENTS, EVENTS])
    for source in (runs, tmp_path / "runs.h5"):
        found = ours.FirstLevelModel(**options, max_memory="1MiB").fit(source, [EVENTS, EVENTS])
        check_same(found, wanted)


@pytest.mark.once
def test_memory_is_a_tenth_of_nilearns(tmp_path: Path) -> None:
    shape = (20, 20, 14, 140)
    rng = np.random.default_rng(0)
    values = rng.integers(500, 900, shape, dtype=np.int16)
    source = write_nifti(tmp_path / "run.nii", values, scales=Scaling(0.5, 1.0), affine=AFFINE)
    fs.convert(source, tmp_path / "run.h5").close()
    del values
    mask = nibabel.Nifti1Image(np.ones(shape[:3], np.uint8), AFFINE)
    design = pd.DataFrame({"a": np.arange(140) // 10 % 2, "constant": 1.0})

    def peak(module: Any, run: Path, **options: Any) -> int:
        model = module.FirstLevelModel(mask_img=mask, **options)
        tracemalloc.start()
        try:
            model.fit(str(run), design_matrices=design)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    most = peak(theirs, source)
    for name in ("run.nii", "run.h5"):
        assert peak(ours, tmp_path / name, max_memory="2MiB") <= most / 10, name
