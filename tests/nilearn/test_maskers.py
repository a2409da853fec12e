"""Streamed maskers against nilearn's own."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pandas as pd
import pytest
from nilearn import maskers as theirs
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fmristore as fs
from fmristore import nilearn as ours
from fmristore.nilearn.runs import find_runs
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.errors import InvalidInputError, NotFoundError
from tests.every_format import write
from tests.images import Scales as Scaling
from tests.images import nibabel, run_python, write_nifti

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

GRID = (12, 11, 10)
TIMES = 40
AFFINE = np.array([[-3.0, 0, 0, 15], [0, 3, 0, -15], [0, 0, 3, -12], [0, 0, 0, 1]])
SMALL = 120_000
"""Bytes for which this run passes in many blocks."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as NIfTI and in both stores, labels, a mask, maps and confounds."""
    path = tmp_path_factory.mktemp("maskers")
    rng = np.random.default_rng(0)
    values = rng.integers(100, 900, (*GRID, TIMES)).astype(np.int16)
    values[3:9] += (200 * np.sin(np.arange(TIMES) / 3)).astype(np.int16)
    write_nifti(path / "run.nii.gz", values, scales=Scaling(0.25, 3.0), affine=AFFINE)
    for name in ("run.h5", "run.zarr"):
        fs.convert(path / "run.nii.gz", path / name).close()
    labels = np.zeros(GRID, np.int16)
    labels[2:5, 2:9, 2:8], labels[5:8, 2:9, 2:8], labels[8:11, 2:9, 2:8] = 1, 2, 7
    maps = np.stack([rng.random(GRID) * (labels == i) for i in (1, 2, 7)], axis=3)
    for name, array in {
        "labels": labels,
        "mask": (labels > 0).astype(np.uint8),
        "maps": maps.astype(np.float32),
    }.items():
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path / f"{name}.nii")
    return path


SOURCES = ("run.h5", "run.zarr", "run.nii.gz")
CLEANING: dict[str, dict[str, Any]] = {
    "as it is": {"standardize": None},
    "cleaned": {
        "standardize": "zscore_sample",
        "detrend": True,
        "low_pass": 0.2,
        "high_pass": 0.01,
        "t_r": 1.5,
    },
    "percent": {"standardize": "psc", "smoothing_fwhm": 5},
    "typed": {"standardize": None, "dtype": np.float32},
}


def make(module: Any, kind: str, folder: Path, **options: Any) -> Any:
    """A masker of one of the two modules."""
    if kind == "labels":
        return module.NiftiLabelsMasker(str(folder / "labels.nii"), **options)
    if kind == "mask":
        return module.NiftiMasker(str(folder / "mask.nii"), **options)
    if kind == "maps":
        return module.NiftiMapsMasker(str(folder / "maps.nii"), **options)
    seeds = [(6.0, 0.0, 0.0), (-9.0, 3.0, 6.0)]
    return module.NiftiSpheresMasker(seeds, radius=5, **options)


KINDS = ("labels", "mask", "maps", "spheres")


@pytest.mark.parametrize("cleaning", CLEANING)
@pytest.mark.parametrize("kind", KINDS)
def test_the_series_are_nilearns(folder: Path, kind: str, cleaning: str) -> None:
    options = CLEANING[cleaning]
    wanted = make(theirs, kind, folder, **options).fit_transform(str(folder / "run.nii.gz"))
    for source in SOURCES:
        masker = make(ours, kind, folder, max_memory=SMALL, **options)
        found = masker.fit_transform(folder / source)
        assert found.dtype == wanted.dtype
        assert_allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())


NOISE = np.random.default_rng(4).normal(size=(TIMES, 2))
MOVED = np.arange(TIMES) % 9 != 4
BAND = {"t_r": 1.5, "low_pass": 0.2, "high_pass": 0.02}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "z scores": ({"standardize": "zscore_sample"}, {}),
    "percent, detrended": ({"standardize": "psc", "detrend": True}, {}),
    "as before": ({"standardize": True}, {}),
    "detrended": ({"standardize": None, "detrend": True}, {}),
    "low pass": ({"standardize": None, "t_r": 1.5, "low_pass": 0.1}, {}),
    "band pass": ({"standardize": None, **BAND}, {}),
    "cosines": (
        {"standardize": None, "t_r": 1.5, "high_pass": 0.02, "clean_args": {"filter": "cosine"}},
        {},
    ),
    "runs": ({"standardize": "zscore_sample"}, {"runs": np.repeat([0, 1], TIMES // 2)}),
    "confounds": ({"standardize": None, "detrend": True}, {"confounds": NOISE}),
    "confounds as they are": (
        {"standardize": None, "standardize_confounds": False},
        {"confounds": pd.DataFrame(NOISE, columns=["a", "b"])},
    ),
    "filtered and scrubbed": ({"standardize": None, **BAND}, {"sample_mask": MOVED}),
    "all at once": (
        {"standardize": "zscore_sample", "detrend": True, "smoothing_fwhm": 4, **BAND},
        {"confounds": NOISE, "sample_mask": np.flatnonzero(MOVED)},
    ),
    "variance": ({"standardize": None, "high_variance_confounds": True}, {}),
    "double": ({"standardize": None, "dtype": np.float64}, {}),
}
"""Parameters of a masker, and of its ``transform`` (but ``runs``, which some have at the start)."""


@pytest.mark.parametrize("case", OPTIONS)
def test_options_of_cleaning(folder: Path, case: str) -> None:
    options, given = (dict(part) for part in OPTIONS[case])
    kind = "mask" if case in ("runs", "z scores", "all at once") else "labels"
    if "runs" in given:
        options["runs"] = given.pop("runs")
    wanted = make(theirs, kind, folder, **options).fit()
    found = make(ours, kind, folder, max_memory=SMALL, **options).fit()
    series = found.transform(folder / "run.h5", **given)
    expected = wanted.transform(str(folder / "run.nii.gz"), **given)
    assert series.dtype == expected.dtype
    assert_allclose(series, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["spheres", "maps"])
def test_real_runs(shared_data: Path, tmp_path: Path, kind: str) -> None:
    bold = shared_data / "data" / "real" / "bold" / "haxby2001_25mm"
    run = str(bold / "sub-1_run-01_bold.nii.gz")
    fs.convert(run, tmp_path / "run.h5").close()
    inside = nibabel.load(bold / "mask-brain.nii.gz")
    series = []
    for module, source in ((theirs, run), (ours, run), (ours, tmp_path / "run.h5")):
        options: dict[str, Any] = {"standardize": "zscore_sample", "detrend": True}
        if module is ours:
            options["max_memory"] = "1MiB"
        if kind == "spheres":
            places = np.argwhere(inside.get_fdata() > 0)[5:60:9]
            seeds = [tuple(inside.affine[:3, :3] @ p + inside.affine[:3, 3]) for p in places]
            masker = module.NiftiSpheresMasker(seeds, radius=26, allow_overlap=True, **options)
        else:
            values = np.stack([np.roll(inside.get_fdata(), k, axis=1) for k in range(3)], axis=3)
            maps = nibabel.Nifti1Image(values.astype(np.float32), inside.affine)
            masker = module.NiftiMapsMasker(maps, **options)
        series.append(masker.fit_transform(source))
    for found in series[1:]:
        assert_allclose(found, series[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_confounds_and_scrubbing(folder: Path, kind: str) -> None:
    confounds = np.random.default_rng(1).normal(size=(TIMES, 3))
    keep = np.delete(np.arange(TIMES), [0, 7, 8])
    given = {"confounds": confounds, "sample_mask": keep}
    options: dict[str, Any] = {"standardize": "zscore_sample"}
    wanted = make(theirs, kind, folder, **options).fit_transform(
        str(folder / "run.nii.gz"), **given
    )
    masker = make(ours, kind, folder, max_memory=SMALL, **options).fit()
    found = masker.transform(folder / "run.h5", **given)
    assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


def of_other_grid(module: Any, kind: str, folder: Path, **options: Any) -> Any:
    """A masker that brings the run onto the grid of its own image."""
    affine = AFFINE @ np.diag([0.8, 0.8, 0.8, 1])
    ids = np.zeros(GRID, np.int16)
    ids.flat[::3] = np.arange(len(ids.flat[::3])) % 100
    options["standardize"] = None
    if kind == "mask":
        inside = nibabel.Nifti1Image((ids > 0).astype(np.uint8), affine)
        return module.NiftiMasker(inside, **options)
    if kind == "labels":
        image = nibabel.Nifti1Image(ids, affine)
        return module.NiftiLabelsMasker(image, resampling_target="labels", **options)
    if kind == "maps":
        maps = np.stack([ids == 1, ids == 2], axis=3).astype(np.float32)
        image = nibabel.Nifti1Image(maps, affine)
        return module.NiftiMapsMasker(image, resampling_target="maps", **options)
    mask = str(folder / "mask.nii")
    return module.NiftiMasker(mask, target_affine=np.diag([2.5, 2.5, 2.5]), **options)


@pytest.mark.parametrize("kind", ["mask", "labels", "maps", "target"])
def test_resampled_runs_are_clipped_to_the_extremes_of_the_run(folder: Path, kind: str) -> None:
    run = str(folder / "run.nii.gz")
    wanted = of_other_grid(theirs, kind, folder).fit_transform(run)
    found = of_other_grid(ours, kind, folder, max_memory=SMALL).fit_transform(run)
    assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_passes_through_once_is_not_kept(folder: Path, kind: str) -> None:
    CHUNK_CACHE.clear()
    make(ours, kind, folder, max_memory=SMALL).fit_transform(folder / "run.h5")
    with fs.open(folder / "run.zarr") as run:
        run.mean(axis=3, max_memory="1MiB")
    assert CHUNK_CACHE.nbytes == 0


class TestPictures:
    """The volume that a fitted masker shows in its report."""

    @pytest.mark.parametrize("name", ["run.h5", "run.nii.gz", "run.nii", "both.h5"])
    def test_it_is_the_volume_of_that_number(self, folder: Path, name: str) -> None:
        if name == "run.nii":
            (folder / name).write_bytes(gzip.decompress((folder / "run.nii.gz").read_bytes()))
        if name == "both.h5" and not (folder / name).exists():
            fs.convert([folder / "run.nii.gz"] * 2, folder / name).close()
        values = nibabel.load(folder / "run.nii.gz").get_fdata()
        run = find_runs(folder / name, None)[0][0]
        for number in (0, 21, TIMES - 1):
            found = run.volume(number + (TIMES if name == "both.h5" else 0), SMALL)
            assert found.shape == (*GRID, 1)
            assert_allclose(found.get_fdata()[..., 0], values[..., number], rtol=1e-6)
            assert (found.affine == AFFINE).all()

    def test_of_an_image_in_memory(self, folder: Path) -> None:
        values = np.random.default_rng(2).normal(size=(*GRID, 5)).astype(np.float32)
        found = find_runs(nibabel.Nifti1Image(values, AFFINE), None)[0][0].volume(3, SMALL)
        assert (found.get_fdata()[..., 0] == values[..., 3]).all()

    def test_a_report_of_several_runs(self, folder: Path) -> None:
        runs = [folder / "run.h5", folder / "run.zarr"]
        masker = make(ours, "mask", folder, max_memory=SMALL).fit(runs)
        assert masker.transform(runs).shape[0] == 2 * TIMES
        assert "data:image" in str(masker.generate_report())


class TestSources:
    def test_objects_images_and_several_runs(self, folder: Path) -> None:
        wanted = make(theirs, "labels", folder).fit_transform(str(folder / "run.nii.gz"))
        masker = make(ours, "labels", folder, max_memory=SMALL).fit()
        with fs.open(folder / "run.h5") as run:
            sources = [run, run.to_nibabel(), nibabel.load(folder / "run.nii.gz")]
            for source in sources:
                assert_allclose(masker.transform(source), wanted, rtol=1e-6)
            twice = masker.transform([run, folder / "run.zarr"])
        assert_allclose(twice, np.concatenate([wanted, wanted]), rtol=1e-6)

    def test_an_image_in_memory(self, folder: Path) -> None:
        values = np.random.default_rng(2).normal(size=(*GRID, 5)).astype(np.float32)
        image = nibabel.Nifti1Image(values, AFFINE)
        found = make(ours, "mask", folder).fit_transform(image)
        wanted = make(theirs, "mask", folder).fit_transform(image)
        assert_allclose(found, wanted, rtol=1e-6)

    def test_a_single_volume(self, folder: Path) -> None:
        image = nibabel.load(folder / "run.nii.gz").slicer[..., 3]
        wanted = make(theirs, "labels", folder).fit_transform(image)
        found = make(ours, "labels", folder).fit_transform(image)
        assert found.shape == wanted.shape == (3,)
        assert_allclose(found, wanted)

    def test_urls(self, folder: Path) -> None:
        import fsspec

        library: Any = fsspec
        memory = library.filesystem("memory")
        memory.pipe("/maskers/run.nii.gz", (folder / "run.nii.gz").read_bytes())
        memory.pipe("/maskers/run.h5", (folder / "run.h5").read_bytes())
        try:
            wanted = make(theirs, "labels", folder).fit_transform(str(folder / "run.nii.gz"))
            for name in ("run.nii.gz", "run.h5"):
                masker = make(ours, "labels", folder, max_memory=SMALL, reports=False)
                found = masker.fit_transform(f"memory://maskers/{name}")
                assert_allclose(found, wanted, rtol=1e-6)
        finally:
            memory.rm("/maskers", recursive=True)

    def test_every_run_of_a_sequence(self, tmp_path: Path) -> None:
        url = write("neurovecseq", tmp_path / "runs.h5")
        with fs.open(url) as runs:
            mask = nibabel.Nifti1Image(np.ones(runs.shape[:3], np.uint8), runs.affine)
            found = ours.NiftiMasker(mask, standardize=None).fit_transform(runs)
            assert_allclose(found, np.asarray(runs).reshape(-1, runs.shape[3]).T)

    def test_what_cannot_be_read(self, folder: Path, tmp_path: Path) -> None:
        masker = make(ours, "labels", folder).fit()
        with pytest.raises(NotFoundError):
            masker.transform(tmp_path / "missing.h5")
        with pytest.raises(InvalidInputError, match="not an image on a grid"):
            masker.transform(write("parcellatedscansummary", tmp_path / "a.h5"))
        with pytest.raises(InvalidInputError, match="different grids"):
            masker.transform([folder / "run.h5", write("neurovec", tmp_path / "b.h5")])


class TestFit:
    def test_a_mask_from_the_run(self, folder: Path) -> None:
        for strategy in ("background", "epi"):
            options = {"mask_strategy": strategy, "mask_args": {"opening": False}}
            wanted = theirs.NiftiMasker(**options).fit(str(folder / "run.nii.gz"))
            found = ours.NiftiMasker(**options, max_memory=SMALL).fit(folder / "run.zarr")
            assert (found.mask_img_.get_fdata() == wanted.mask_img_.get_fdata()).all()

    def test_what_was_learned_is_there(self, folder: Path) -> None:
        wanted = make(theirs, "labels", folder).fit(str(folder / "run.nii.gz"))
        wanted.transform(str(folder / "run.nii.gz"))
        found = make(ours, "labels", folder, max_memory=SMALL).fit(folder / "run.h5")
        found.transform(folder / "run.h5")
        assert found.region_ids_ == wanted.region_ids_
        assert found.n_elements_ == wanted.n_elements_ == 3
        back = found.inverse_transform(np.eye(3))
        assert_allclose(back.get_fdata(), wanted.inverse_transform(np.eye(3)).get_fdata())


class TestScikitLearn:
    @pytest.mark.parametrize("kind", KINDS)
    def test_parameters(self, folder: Path, kind: str) -> None:
        masker = make(ours, kind, folder, detrend=True, max_memory="8MiB")
        twin = clone(masker)
        assert type(twin) is type(masker)
        assert twin.get_params()["max_memory"] == "8MiB"
        assert twin.get_params()["detrend"] is True
        known = make(theirs, kind, folder).get_params()
        assert masker.get_params().keys() == known.keys() | {"max_memory", "storage_options"}
        assert twin.set_params(max_memory=1 << 20).max_memory == 1 << 20

    def test_pipeline(self, folder: Path) -> None:
        pipeline = make_pipeline(make(ours, "labels", folder), StandardScaler())
        found = pipeline.fit_transform(folder / "run.h5")
        assert_allclose(found.mean(axis=0), 0, atol=1e-6)

    @pytest.mark.parametrize("kind", KINDS)
    def test_frames(self, folder: Path, kind: str) -> None:
        wanted = make(theirs, kind, folder).set_output(transform="pandas")
        found = make(ours, kind, folder, max_memory=SMALL).set_output(transform="pandas")
        frame = found.fit_transform(folder / "run.h5")
        expected = wanted.fit_transform(str(folder / "run.nii.gz"))
        pd.testing.assert_frame_equal(frame, expected, check_exact=False, rtol=1e-6)

    @pytest.mark.parametrize("kind", ["mask", "maps"])
    def test_reports(self, folder: Path, kind: str) -> None:
        pytest.importorskip("matplotlib")
        masker = make(ours, kind, folder, max_memory=SMALL)
        masker.fit_transform(folder / "run.h5")
        text = str(masker.generate_report())
        assert type(masker).__name__ in text

    def test_the_signature_is_nilearns_and_ours(self) -> None:
        text = str(joblib.hash(ours.NiftiLabelsMasker("a.nii")))
        assert text == joblib.hash(ours.NiftiLabelsMasker("a.nii"))
        assert "max_memory" in str(ours.NiftiLabelsMasker.__init__.__signature__)


def test_without_nilearn() -> None:
    code = (
        "import sys; sys.modules['nilearn'] = None\n"
        "import fmristore as fs\n"
        "try: import fmristore.nilearn\n"
        "except fs.errors.DependencyError as error: print(error)\n"
    )
    assert "fmristore[nilearn]" in run_python(code).stdout


@pytest.mark.once
def test_memory_is_a_tenth_of_nilearns(tmp_path: Path) -> None:
    shape = (48, 48, 30, 120)
    values = np.random.default_rng(0).integers(0, 900, shape).astype(np.int16)
    labels = np.arange(np.prod(shape[:3])).reshape(shape[:3]) // 2000
    source = write_nifti(tmp_path / "run.nii", values, scales=Scaling(0.5, 1.0), affine=AFFINE)
    for name in ("run.h5", "run.zarr"):
        fs.convert(source, tmp_path / name).close()
    del values
    image = nibabel.Nifti1Image(labels.astype(np.int16), AFFINE)

    def peak(masker: Any, run: Path) -> int:
        masker.fit()
        tracemalloc.start()
        try:
            masker.transform(run)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    most = peak(theirs.NiftiLabelsMasker(image, standardize=None), source)
    for name in ("run.nii", "run.h5", "run.zarr"):
        masker = ours.NiftiLabelsMasker(image, standardize=None, max_memory="6MiB")
        assert peak(masker, tmp_path / name) <= most / 10, name
