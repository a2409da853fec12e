"""Maskers that read only their voxels: equal to nilearn's, and no volume is put together."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nilearn import maskers as theirs
from numpy.testing import assert_allclose, assert_array_equal

import fmristore as fs
from fmristore import nilearn as ours
from fmristore_stores.io.stats import stats_of
from fmristore_stores.protocol import AnyArray
from tests.images import RAW, Scales, nibabel, write_nifti

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

GRID = (13, 11, 9)
TIMES = 25
AFFINE = np.array([[-3.0, 0, 0, 15], [0, 3, 0, -15], [0, 0, 3, -12], [0, 0, 0, 1]])
SOURCES = ("run.h5", "run.zarr", "volumes.h5", "run.nii.gz")
KINDS = ("scaled", "integers", "floats", "doubles")


def _values(kind: str) -> AnyArray:
    rng = np.random.default_rng(0)
    if kind in ("scaled", "integers"):
        return rng.integers(-300, 900, (*GRID, TIMES)).astype(np.int16)
    values = rng.normal(500, 30, (*GRID, TIMES))
    values[4, 4, 4, 3], values[9, 9, 5, :] = np.nan, np.inf
    return values.astype(np.float32 if kind == "floats" else np.float64)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one kind of values, as NIfTI and stored."""
    path = tmp_path_factory.mktemp("direct")
    scales = Scales(0.25, 3.0) if request.param == "scaled" else RAW
    write_nifti(path / "run.nii.gz", _values(request.param), scales=scales, affine=AFFINE)
    for name in ("run.h5", "run.zarr"):
        fs.convert(path / "run.nii.gz", path / name).close()
    fs.convert(path / "run.nii.gz", path / "volumes.h5", access="volume").close()
    return path


def _atlas(background: int = 0, affine: AnyArray = AFFINE) -> Any:
    ids = np.full(GRID, background, np.int16)
    ids[3:6, 2:9, 2:8], ids[6:9, 2:9, 2:8] = 30, 7
    ids[9:12, 2:10, 2:8] = -2  # not in order of place
    return nibabel.Nifti1Image(ids, affine)


def _mask(*, part: bool = True) -> Any:
    inside = np.ones(GRID, np.uint8)
    inside[5:8, 5:] = 0
    if part:
        inside[9:12] = 0
    return nibabel.Nifti1Image(inside, AFFINE)


def _equal(found: AnyArray, wanted: AnyArray) -> None:
    assert found.dtype == wanted.dtype
    # float32: one step of it
    rtol = 1e-12 if wanted.dtype == np.float64 else 2e-7
    assert_allclose(found, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "strategy", ["mean", "sum", "minimum", "maximum", "standard_deviation", "median", "variance"]
)
def test_strategies(folder: Path, strategy: str, source: str) -> None:
    options = {"strategy": strategy, "standardize": None}
    wanted = theirs.NiftiLabelsMasker(_atlas(), **options).fit()
    found = ours.NiftiLabelsMasker(_atlas(), **options).fit()
    expected = wanted.transform(str(folder / "run.nii.gz"))
    _equal(found.transform(folder / source), expected)
    assert found.region_ids_ == wanted.region_ids_


LABELS: dict[str, dict[str, Any]] = {
    "masked": {"mask_img": _mask(part=False)},
    "one is masked away": {"mask_img": _mask()},
    "and kept": {"mask_img": _mask(), "keep_masked_labels": True},
    "background": {"labels_img": _atlas(-1), "background_label": -1},
    "resampled": {"labels_img": _atlas(affine=AFFINE @ np.diag([1.3, 1.2, 1.1, 1]))},
    "the run is resampled": {
        "labels_img": _atlas(affine=AFFINE @ np.diag([1.3, 1.2, 1.1, 1])),
        "resampling_target": "labels",
    },
    "typed": {"dtype": np.float32},
}


@pytest.mark.parametrize("case", LABELS)
def test_options_of_labels(folder: Path, case: str) -> None:
    options = {"labels_img": _atlas(), "standardize": None} | LABELS[case]
    wanted = theirs.NiftiLabelsMasker(**options).fit()
    found = ours.NiftiLabelsMasker(**options).fit()
    expected = wanted.transform(str(folder / "run.nii.gz"))
    _equal(found.transform(folder / "run.h5"), expected)
    assert found.region_ids_ == wanted.region_ids_
    atlases = [m.region_atlas_.get_fdata() for m in (found, wanted)]
    assert_array_equal(*atlases)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("options", [{}, {"dtype": np.float32}, {"smoothing_fwhm": 4}])
def test_voxels_of_a_mask(folder: Path, source: str, options: dict[str, Any]) -> None:
    options = options | {"standardize": None}
    wanted = theirs.NiftiMasker(_mask(), **options).fit_transform(str(folder / "run.nii.gz"))
    found = ours.NiftiMasker(_mask(), **options).fit().transform(folder / source)
    assert found.dtype == wanted.dtype
    if "smoothing_fwhm" in options:
        assert_allclose(found, wanted, rtol=1e-5)
    else:
        assert_array_equal(found, wanted)


SPHERES: dict[str, dict[str, Any]] = {
    "one": {"seeds": [(-3, 0, 0)], "radius": 7},
    "apart": {"seeds": [(6, 0, 0), (-9, 3, 6), (0, 9, 9)], "radius": 4.5},
    "touching": {"seeds": [(6, 0, 0), (0, 0, 0)], "radius": 3.5, "allow_overlap": True},
    "overlapping": {"seeds": [(6, 0, 0), (3, 0, 0)], "radius": 7, "allow_overlap": True},
    "one in another": {"seeds": [(6, 0, 0), (6, 0, 0)], "radius": 7, "allow_overlap": True},
    "voxels": {"seeds": [(6, 0, 0), (-9, 3, 6)], "radius": None},
    "between voxels": {"seeds": [(5.2, 1.1, 0.9), (-8.0, 3.7, 6.2)], "radius": 0.5},
    "masked": {"seeds": [(0, 0, 0)], "radius": 7, "mask_img": _mask()},
    "typed": {"seeds": [(-3, 0, 0)], "radius": 7, "dtype": np.float32},
}


@pytest.mark.parametrize("source", ["run.h5", "run.nii.gz"])
@pytest.mark.parametrize("case", SPHERES)
def test_spheres(folder: Path, case: str, source: str) -> None:
    options = SPHERES[case] | {"standardize": None}
    wanted = theirs.NiftiSpheresMasker(**options).fit_transform(str(folder / "run.nii.gz"))
    found = ours.NiftiSpheresMasker(**options).fit().transform(folder / source)
    _equal(found, wanted)


def test_spheres_share_no_voxel(folder: Path) -> None:
    options = {"seeds": [(6, 0, 0), (3, 0, 0)], "radius": 7}
    with pytest.raises(ValueError, match="Overlap"):
        ours.NiftiSpheresMasker(**options).fit().transform(folder / "run.h5")


class TestWhatIsRead:
    """nilearn sees one volume of zeros, and no chunk is decoded that lies apart from the voxels."""

    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("read")
        values = np.tile(_values("scaled"), 10)  # of more than one chunk
        write_nifti(path / "run.nii", values, scales=Scales(0.5, 1), affine=AFFINE)
        fs.convert(path / "run.nii", path / "run.h5").close()
        return path / "run.h5"

    @pytest.mark.parametrize("kind", ["labels", "mask"])
    def test_chunks(self, run: Path, kind: str) -> None:
        inside = np.zeros(GRID, np.int16)
        inside[1:6, 1:3, 3:5], inside[7:9, 1:4, 5:8] = 1, 2
        image = nibabel.Nifti1Image(inside, AFFINE)
        if kind == "labels":
            masker = ours.NiftiLabelsMasker(image, standardize=None)
        else:
            masker = ours.NiftiMasker(nibabel.Nifti1Image(inside.clip(max=1), AFFINE))
        masker.fit()
        with fs.open(run) as opened:
            chunk, nbytes = np.array(opened.chunks[:3]), 2 * int(np.prod(opened.chunks))
        cells = np.unique(np.argwhere(inside) // chunk, axis=0)
        around = np.prod(np.ptp(cells, axis=0) + 1)
        assert around < np.prod(-(-np.array(GRID) // chunk)) / 3
        stats = stats_of(str(run))
        before = stats.counts
        masker.transform(run)
        decoded = (stats.counts - before).bytes_decoded - 1000  # without the affine, and the like
        assert (len(cells) - 1) * nbytes < decoded < around * nbytes

    @pytest.mark.parametrize("kind", ["labels", "mask", "spheres"])
    def test_volumes(self, run: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        name = f"Nifti{kind.title()}Masker" if kind != "mask" else "NiftiMasker"
        cls = getattr(theirs, name)
        nilearns = cls.transform_single_imgs
        seen = []

        def watched(self: Any, imgs: Any, *args: Any, **options: Any) -> Any:
            seen.append(np.asarray(imgs.dataobj))
            return nilearns(self, imgs, *args, **options)

        monkeypatch.setattr(cls, "transform_single_imgs", watched)
        given = {"labels": _atlas(), "mask": _mask(), "spheres": [(-3, 0, 0)]}[kind]
        masker = getattr(ours, name)(given, standardize=None).fit()
        masker.transform(run)
        assert [values.shape[:3] for values in seen] == [GRID]
        assert seen[0].size == np.prod(GRID)
        assert seen[0].any() == (kind == "spheres")  # of which it sees the places

    def test_labels_are_resampled_once(self, run: Path) -> None:
        masker = ours.NiftiLabelsMasker(LABELS["resampled"]["labels_img"], max_memory=60_000).fit()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            masker.transform(run)
        assert sum("Resampling labels" in str(one.message) for one in caught) == 1
