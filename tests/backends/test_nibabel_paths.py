"""Paths of stores in nibabel and nilearn, and objects handed to nilearn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from nibabel.imageclasses import all_image_classes
from nibabel.tests import test_image_api as image_api
from nilearn import glm, maskers, masking, plotting, regions, reporting, surface
from nilearn import image as nilearn_image
from nilearn.decomposition import CanICA, DictLearning
from nilearn.glm.first_level import FirstLevelModel
from nilearn.glm.second_level import SecondLevelModel
from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
from numpy.testing import assert_allclose, assert_array_equal

import fmristore as fs
from fmristore.backends.nibabel import StoredImage
from fmristore_stores.errors import ClosedError, InvalidInputError, UnknownFormatError
from tests.conftest import S3Server
from tests.every_format import LABELS, MASK, RUN, SPACE, WRITERS, write
from tests.images import (
    RAW,
    SCALED,
    STORES,
    make_values,
    nibabel,
    run_python,
    store,
    write_nifti,
)

IMAGES = sorted(set(WRITERS) - {"parcellatedmultiscan", "parcellatedscansummary"})
"""Formats of images on a grid."""

validator: Any = image_api.LoadImageAPI


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """Nibabel's list with stores in it, for the time of a test."""
    before = StoredImage in all_image_classes  # fmristore.nilearn was imported
    if before:
        all_image_classes.remove(StoredImage)
    fs.register()
    fs.register()
    assert all_image_classes.count(StoredImage) == 1
    yield
    if not before:
        all_image_classes.remove(StoredImage)


@pytest.fixture(params=STORES)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A scaled NIfTI run, and the path of its store."""
    source = write_nifti(tmp_path / "run.nii.gz", make_values(), scales=SCALED)
    url = tmp_path / f"run.{request.param}"
    fs.convert(source, url).close()
    return source, url


class TestImageValidator(validator):  # type: ignore[misc]
    """nibabel's own suite for images that were loaded from a path."""

    klass = StoredImage
    loader = staticmethod(nibabel.load)
    has_scaling = True
    can_save = True
    standard_extension = ".nii"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.example_images = []
        for kind in STORES:
            for scales in (RAW, SCALED):
                url = tmp_path / f"{scales.slope}.{kind}"
                values = make_values()
                with store(url, values, scales=scales) as image:
                    self.example_images.append(
                        {
                            "fname": str(url),
                            "data": scales.apply(values),
                            "shape": values.shape,
                            "affine": image.affine,
                            "dtype": image.dtype.type,
                            "is_proxy": True,
                        }
                    )

    def obj_params(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for params in self.example_images:
            yield lambda params=params: self.loader(params["fname"]), params


class TestLoad:
    def test_as_the_source(self, run: tuple[Path, Path]) -> None:
        source, url = run
        for path in (url, str(url)):
            found, wanted = nibabel.load(path), nibabel.load(source)
            assert type(found) is type(wanted)
            assert not found.in_memory
            assert_array_equal(found.affine, wanted.affine)
            assert found.header.get_zooms() == wanted.header.get_zooms()
            assert found.header["descrip"] == wanted.header["descrip"]
            assert_allclose(found.get_fdata(), wanted.get_fdata(), rtol=1e-6)
            assert_allclose(found.dataobj[..., 3], wanted.dataobj[..., 3], rtol=1e-6)

    @pytest.mark.parametrize("kind", STORES)
    @pytest.mark.parametrize("name", IMAGES)
    def test_every_format_of_images(self, tmp_path: Path, name: str, kind: str) -> None:
        url = write(name, tmp_path / f"a.{kind}")
        with fs.open(url) as stored:
            found = nibabel.load(url, mmap=False)
            assert_array_equal(found.get_fdata(dtype=np.float32), np.asarray(stored, np.float32))
            assert_array_equal(found.affine, stored.affine)

    @pytest.mark.parametrize("name", sorted(set(WRITERS) - set(IMAGES)))
    def test_what_is_no_image(self, tmp_path: Path, name: str) -> None:
        url = write(name, tmp_path / "a.h5")
        with pytest.raises(InvalidInputError, match=r"a\.h5.*not an image.*fmristore\.open"):
            nibabel.load(url)

    def test_a_reference_file(self, tmp_path: Path) -> None:
        source = write_nifti(tmp_path / "run.nii", make_values(), scales=SCALED)
        url = tmp_path / "run.h5"
        fs.convert(source, url).close()
        fs.virtualize(url)
        found = nibabel.load(f"{url}.refs.json")
        assert_allclose(found.get_fdata(), nibabel.load(source).get_fdata(), rtol=1e-6)

    def test_other_files_are_left_to_nibabel(self, tmp_path: Path) -> None:
        (tmp_path / "a.h5").write_bytes(b"no store" * 100)
        (tmp_path / "b.txt").write_text("text")
        (tmp_path / "folder").mkdir()
        for name in ("a.h5", "b.txt", "folder"):
            with pytest.raises(nibabel.filebasedimages.ImageFileError, match="Cannot work out"):
                nibabel.load(tmp_path / name)
        with pytest.raises(FileNotFoundError):
            nibabel.load(tmp_path / "missing.h5")

    def test_a_store_of_other_software(self, tmp_path: Path) -> None:
        import h5py

        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["x"] = [1.0]
        with pytest.raises(UnknownFormatError, match="holds no format"):
            nibabel.load(tmp_path / "a.h5")

    def test_only_after_the_call(self, run: tuple[Path, Path]) -> None:
        code = (
            "import sys, fmristore, nibabel\n"
            "try: nibabel.load(sys.argv[1])\n"
            "except nibabel.filebasedimages.ImageFileError: pass\n"
            "fmristore.register()\n"
            "print(nibabel.load(sys.argv[1]).shape)\n"
        )
        done = run_python(code, run[1])
        assert done.stdout.strip() == str(make_values().shape), done.stderr


@pytest.mark.parametrize("suffix", ["h5", "ome.zarr"])
def test_save(run: tuple[Path, Path], tmp_path: Path, suffix: str) -> None:
    image = nibabel.load(run[0])
    for _ in range(2):  # replaces, as nibabel does
        nibabel.save(image, tmp_path / f"saved.{suffix}")
    with fs.open(tmp_path / f"saved.{suffix}") as saved:
        assert_array_equal(saved.raw, make_values())
        assert (saved.slope, saved.inter) == (SCALED.slope, SCALED.inter)


@pytest.mark.filterwarnings("ignore:::nilearn")
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*Generation of a mask:RuntimeWarning")
class TestNilearn:
    """Functions of nilearn on the path of a store, against the same on the NIfTI file."""

    def test_functions_of_images(self, run: tuple[Path, Path]) -> None:
        source, url = run
        functions: list[Any] = [
            nilearn_image.load_img,
            nilearn_image.mean_img,
            lambda path: nilearn_image.smooth_img(path, 4),
            lambda path: nilearn_image.index_img(path, slice(2, 5)),
            lambda path: nilearn_image.resample_img(
                path, np.diag([4.0, 4, 4]), interpolation="nearest"
            ),
            lambda path: nilearn_image.clean_img(path, standardize=None),
            lambda path: nilearn_image.math_img("a * 2", a=path),
        ]
        for function in functions:
            for path in (url, str(url)):
                found, wanted = function(path), function(source)
                assert_array_equal(found.affine, wanted.affine)
                assert_allclose(found.get_fdata(), wanted.get_fdata(), rtol=1e-4, atol=1e-3)

    def test_several_paths_and_wildcards(self, run: tuple[Path, Path]) -> None:
        _, url = run
        many = nilearn_image.concat_imgs([str(url), str(url)])
        assert many.shape[3] == 2 * make_values().shape[3]
        found = nilearn_image.load_img(str(url.parent / f"r*{url.suffix}"))
        assert_array_equal(found.get_fdata(), nibabel.load(url).get_fdata())

    def test_maskers(self, tmp_path: Path) -> None:
        url = write("neurovec", tmp_path / "run.zarr")
        labels = nibabel.Nifti1Image(LABELS, np.diag([2.0, 2, 3, 1]))
        mask = nibabel.Nifti1Image(MASK.astype(np.uint8), labels.affine)
        values = RUN * 0.5 + 1.0
        found = NiftiMasker(mask).fit_transform(str(url))
        assert_allclose(found, values[MASK].T, rtol=1e-6)
        means = NiftiLabelsMasker(labels, standardize=None).fit_transform(str(url))
        wanted = np.stack([values[i == LABELS].mean(0) for i in (1, 2, 3)], axis=1)
        assert_allclose(means, wanted, rtol=1e-6)

    def test_a_store_as_mask_and_labels(self, tmp_path: Path) -> None:
        run = write("neurovec", tmp_path / "run.h5")
        affine = np.diag([2.0, 2, 3, 1])
        for name, values in {"labels": LABELS, "mask": MASK.astype(np.uint8)}.items():
            fs.NeuroVol.create(values, tmp_path / f"{name}.h5", space=affine).close()
        found = NiftiLabelsMasker(
            str(tmp_path / "labels.h5"), mask_img=str(tmp_path / "mask.h5"), standardize=None
        ).fit_transform(str(run))
        assert found.shape == (RUN.shape[3], 3)

    def test_first_level_model(self, tmp_path: Path) -> None:
        url = write("neurovec", tmp_path / "run.h5")
        mask = nibabel.Nifti1Image(MASK.astype(np.uint8), np.diag([2.0, 2, 3, 1]))
        design = np.column_stack([np.arange(RUN.shape[3]) % 2, np.ones(RUN.shape[3])])
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(design, columns=["on", "constant"])
        model = FirstLevelModel(mask_img=mask, minimize_memory=True, signal_scaling=False)
        found = model.fit(str(url), design_matrices=frame).compute_contrast("on")
        assert np.isfinite(found.get_fdata()[MASK]).all()


INNER = np.zeros((9, 8, 7), bool)
INNER[1:8, 1:7, 1:6] = True


def _design(length: int) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"on": np.arange(length) % 2, "constant": 1.0})


FURTHER: dict[str, Any] = {
    "resample_to_img": lambda at: nilearn_image.resample_to_img(
        at("stat"), at("mask"), interpolation="nearest"
    ),
    "threshold_img": lambda at: nilearn_image.threshold_img(at("stat"), 0.5),
    "high_variance_confounds": lambda at: nilearn_image.high_variance_confounds(at("run")),
    "compute_epi_mask": lambda at: masking.compute_epi_mask(at("run")),
    "apply_mask": lambda at: masking.apply_mask(at("run"), at("mask")),
    "unmask": lambda at: masking.unmask(np.ones(INNER.sum()), at("mask")),
    "NiftiMapsMasker": lambda at: maskers.NiftiMapsMasker(
        at("maps"), standardize=None
    ).fit_transform(at("run")),
    "NiftiSpheresMasker": lambda at: maskers.NiftiSpheresMasker(
        [(9.0, 9.0, 9.0)], radius=7, standardize=None
    ).fit_transform(at("run")),
    "img_to_signals_labels": lambda at: regions.img_to_signals_labels(at("run"), at("labels"))[0],
    "connected_label_regions": lambda at: regions.connected_label_regions(at("labels")),
    "RegionExtractor": lambda at: (
        regions.RegionExtractor(at("maps"), min_region_size=1, standardize=None)
        .fit()
        .transform(at("run"))
    ),
    "CanICA": lambda at: (
        CanICA(n_components=2, mask=at("mask"), random_state=0, n_init=1, threshold=None)
        .fit([at("run")])
        .components_
    ),
    "DictLearning": lambda at: (
        DictLearning(n_components=2, mask=at("mask"), random_state=0, alpha=0.1)
        .fit([at("run")])
        .components_
    ),
    "plot_epi": lambda at: plotting.plot_epi(nilearn_image.index_img(at("run"), 0)).close(),
    "plot_stat_map": lambda at: plotting.plot_stat_map(at("stat"), bg_img=at("mask")).close(),
    "plot_carpet": lambda at: plotting.plot_carpet(at("run"), at("mask"), t_r=2).clear(),
    "find_parcellation_cut_coords": lambda at: plotting.find_parcellation_cut_coords(at("labels")),
    "binarize_img": lambda at: nilearn_image.binarize_img(at("stat"), 0.5),
    "intersect_masks": lambda at: masking.intersect_masks([at("mask"), at("mask")]),
    "FirstLevelModel": lambda at: (
        FirstLevelModel(mask_img=at("mask"), t_r=2)
        .fit(at("run"), design_matrices=_design(20))
        .compute_contrast("on")
    ),
    "SecondLevelModel": lambda at: (
        SecondLevelModel(mask_img=at("mask"))
        .fit([at("stat")] * 4, design_matrix=_design(4))
        .compute_contrast("on", output_type="effect_size")
    ),
    "crop_img": lambda at: nilearn_image.crop_img(at("stat")),
    "largest_connected_component_img": lambda at: nilearn_image.largest_connected_component_img(
        at("stat")
    ),
    "new_img_like": lambda at: nilearn_image.new_img_like(at("stat"), np.ones(INNER.shape)),
    "swap_img_hemispheres": lambda at: nilearn_image.swap_img_hemispheres(at("stat")),
    "reorder_img": lambda at: nilearn_image.reorder_img(at("stat")),
    "get_data": lambda at: nilearn_image.get_data(at("stat")),
    "concat_imgs": lambda at: nilearn_image.concat_imgs([at("run"), at("run")]),
    "iter_img": lambda at: np.stack(
        [volume.get_fdata() for volume in nilearn_image.iter_img(at("run"))]
    ),
    "compute_multi_epi_mask": lambda at: masking.compute_multi_epi_mask([at("run")]),
    "MultiNiftiMasker": lambda at: maskers.MultiNiftiMasker(
        at("mask"), standardize=None
    ).fit_transform([at("run")]),
    "connected_regions": lambda at: regions.connected_regions(at("stat"), min_region_size=1)[0],
    "Parcellations": lambda at: (
        regions.Parcellations(
            "kmeans", n_parcels=2, mask=at("mask"), standardize=None, random_state=0
        )
        .fit(at("run"))
        .labels_img_
    ),
    "threshold_stats_img": lambda at: glm.threshold_stats_img(
        at("stat"), threshold=0.5, height_control=None
    )[0],
    "get_clusters_table": lambda at: reporting.get_clusters_table(at("stat"), 0.5)[
        ["X", "Y", "Z"]
    ].to_numpy(float),
    "vol_to_surf": lambda at: surface.vol_to_surf(
        at("stat"),
        surface.InMemoryMesh(
            np.array([[9.0, 9, 9], [12, 9, 9], [9, 12, 9]]), np.array([[0, 1, 2]])
        ),
    ),
}
"""Functions of nilearn that are given images by a function from names to paths."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its mask, labels, maps and a map, as NIfTI and stored."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    labels = np.where(INNER, 1, 0).astype(np.int16)
    labels[4:] *= 2
    wave = 40 * np.sin(np.arange(20) / 3) * (labels == 2)[..., None]
    values = {
        "run": (60 + 500 * INNER[..., None] + wave + 20 * rng.normal(size=(*INNER.shape, 20))),
        "mask": INNER,
        "labels": labels,
        "maps": np.stack([(labels == i) * rng.random(INNER.shape) for i in (1, 2)], axis=3),
        "stat": INNER * rng.normal(size=INNER.shape),
    }
    types = {"run": "i2", "mask": "u1", "labels": "i2", "maps": "f4", "stat": "f4"}
    for name, array in values.items():
        image = nibabel.Nifti1Image(array.astype(types[name]), np.diag([3.0, 3, 3, 1]))
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, folder / f"{name}.nii.gz")
        kind = "zarr" if name in ("mask", "maps") else "h5"
        fs.convert(folder / f"{name}.nii.gz", folder / f"{name}.store.{kind}").close()
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FURTHER)
def test_further_functions_of_nilearn(images: Path, name: str) -> None:
    pytest.importorskip("matplotlib").use("agg")
    use = FURTHER[name]
    wanted = use(lambda one: str(images / f"{one}.nii.gz"))
    stored = {path.name.split(".")[0]: path for path in images.glob("*.store.*")}
    lazy = {one: fs.open(path).to_nibabel() for one, path in stored.items()}
    for found in (use(lambda one: str(stored[one])), use(lazy.__getitem__)):
        if wanted is None:
            continue
        if hasattr(wanted, "get_fdata"):
            assert_array_equal(found.affine, wanted.affine)
            assert_array_equal(found.get_fdata(), wanted.get_fdata())
        elif isinstance(wanted, np.ndarray | list):
            assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


CLASS_FIRST: dict[str, tuple[Any, str]] = {
    "threshold_img": (FURTHER["threshold_img"], r"'img' should be .* Got NeuroVol"),
    "threshold_img, mask_img": (
        lambda at: nilearn_image.threshold_img(at("file"), 0.5, mask_img=at("mask")),
        "'mask' must be of type",
    ),
    "binarize_img": (FURTHER["binarize_img"], r"'img' should be .* Got NeuroVol"),
    "new_img_like": (FURTHER["new_img_like"], r"should be a niimg\. NeuroVol"),
    "copy_img": (lambda at: nilearn_image.copy_img(at("stat")), r"'img' must be(.|\n)*'NeuroVol'"),
    "clean_img, mask_img": (
        lambda at: nilearn_image.clean_img(at("run_file"), standardize=None, mask_img=at("mask")),
        "'mask' must be of type",
    ),
    "intersect_masks": (FURTHER["intersect_masks"], r"mask_imgs\[0\] = NeuroVol"),
    "get_clusters_table": (FURTHER["get_clusters_table"], r"'img' should be .* Got NeuroVol"),
    "plot_img_comparison": (
        lambda at: plotting.plot_img_comparison([at("stat")], [at("stat")], plot_hist=False),
        r"NeuroVol",
    ),
    "plot_stat_map, transparency": (
        lambda at: plotting.plot_stat_map(at("file"), bg_img=None, transparency=at("mask")).close(),
        "Got: 'NeuroVol'",
    ),
    "FirstLevelModel.fit": (
        lambda at: FirstLevelModel(t_r=2).fit(at("run"), design_matrices=_design(20)),
        r"'run_imgs' must be(.|\n)*NeuroVec",
    ),
    "FirstLevelModel, mask_img": (
        lambda at: FirstLevelModel(t_r=2, mask_img=at("mask")).fit(
            at("run_file"), design_matrices=_design(20)
        ),
        "'mask' must be of type",
    ),
    "SecondLevelModel.fit": (
        lambda at: SecondLevelModel().fit([at("stat")] * 4, design_matrix=_design(4)),
        r"'second_level_input' must be(.|\n)*NeuroVol",
    ),
    "SecondLevelModel, mask_img": (
        lambda at: SecondLevelModel(mask_img=at("mask")).fit(
            [at("file")] * 4, design_matrix=_design(4)
        ),
        "'mask' must be of type",
    ),
    "CanICA, mask": (FURTHER["CanICA"], "'mask' must be of type"),
    "DictLearning, mask": (FURTHER["DictLearning"], "'mask' must be of type"),
    "Parcellations, mask": (FURTHER["Parcellations"], "'mask' must be of type"),
}
"""Uses of nilearn that look at the class of an image before anything else, and what it says."""

FIRST = {name.partition(",")[0].removesuffix(".fit") for name in CLASS_FIRST}
FIRST -= {"CanICA", "DictLearning", "Parcellations"}  # these look at the class of a mask only


@pytest.mark.filterwarnings("ignore")
class TestObjects:
    """An opened store is no image of nibabel: the refusal must say what to give."""

    @pytest.mark.parametrize("name", sorted(FURTHER.keys() - FIRST))
    def test_every_way_in_names_the_cure(self, images: Path, name: str) -> None:
        pytest.importorskip("matplotlib").use("agg")
        stored: dict[str, Any] = {
            path.name.split(".")[0]: fs.open(path) for path in images.glob("*.store.*")
        }
        if name in ("CanICA", "DictLearning", "Parcellations"):  # look at the class of a mask
            stored["mask"] = images / "mask.nii.gz"
        with pytest.raises(InvalidInputError, match=r"nilearn.*to_nibabel\(\)"):
            FURTHER[name](stored.__getitem__)

    @pytest.mark.parametrize("name", CLASS_FIRST)
    def test_nilearn_refuses_the_class_in_its_words(self, images: Path, name: str) -> None:
        pytest.importorskip("matplotlib").use("agg")
        use, words = CLASS_FIRST[name]
        stored: dict[str, Any] = {
            path.name.split(".")[0]: fs.open(path) for path in images.glob("*.store.*")
        }
        stored |= {"file": images / "stat.nii.gz", "run_file": images / "run.nii.gz"}
        with pytest.raises(TypeError, match=words):
            use(stored.__getitem__)
        if name not in FURTHER:  # those are tried with images of objects above
            use(
                {
                    key: value if isinstance(value, Path) else value.to_nibabel()
                    for key, value in stored.items()
                }.__getitem__
            )

    def test_what_nibabel_asks_for_names_the_cure(
        self, run: tuple[Path, Path], tmp_path: Path
    ) -> None:
        uses: list[Any] = [
            lambda image: nibabel.save(image, tmp_path / "a.nii"),
            nibabel.four_to_three,
            lambda image: image.as_reoriented([[0, -1], [1, 1], [2, 1]]),
            lambda image: image.get_fdata(),
        ]
        with fs.open(run[1]) as bold:
            assert not hasattr(bold, "get_fdata")
            for use in uses:
                with pytest.raises(AttributeError, match=r"image\.to_nibabel\(\)\.[a-z_]+"):
                    use(bold)
            with pytest.raises(AttributeError, match="'NeuroVec' object has no attribute 'masks'"):
                use = bold.masks

    def test_the_image_of_an_object_outlives_it(self, run: tuple[Path, Path]) -> None:
        with fs.open(run[1]) as bold:
            image = bold.to_nibabel()
        assert_array_equal(image.get_fdata(), nibabel.load(run[1]).get_fdata())

    def test_the_image_of_a_part_outlives_the_whole(self, tmp_path: Path) -> None:
        with fs.open(write("neurovecseq", tmp_path / "runs.h5")) as runs:
            image = runs.run("task").to_nibabel()
            closed = runs.run("rest")
        assert_array_equal(image.get_fdata(), RUN[..., :8])
        with pytest.raises(ClosedError):
            closed.to_nibabel()


@pytest.mark.filterwarnings("ignore:::nilearn")
class TestURLs:
    """nibabel asks ``os.stat`` and nilearn ``glob`` for a path before any image class is asked."""

    def test_urls_are_no_paths(self, s3: S3Server) -> None:
        url = s3.url("run.ome.zarr")
        fs.NeuroVec.create(RUN, url, space=SPACE, storage_options=s3.options).close()
        with pytest.raises(FileNotFoundError, match="No such file"):
            nibabel.load(url)
        with pytest.raises(ValueError, match="File not found"):
            nilearn_image.load_img(url)

    @pytest.mark.parametrize("kind", STORES)
    def test_the_image_of_an_object_is_taken(self, s3: S3Server, kind: str) -> None:
        url = s3.url(f"image.{kind}")
        fs.NeuroVec.create(RUN, url, space=SPACE, storage_options=s3.options).close()
        with fs.open(url, storage_options=s3.options) as bold:
            image = bold.to_nibabel()
        assert nilearn_image.load_img(image) is image
        assert_array_equal(nilearn_image.mean_img(image).get_fdata(), RUN.mean(3, dtype="f8"))
        mask = nibabel.Nifti1Image(MASK.astype(np.uint8), image.affine)
        found = NiftiMasker(mask, standardize=None).fit_transform(image)
        assert_allclose(found, RUN[MASK].T)

    def test_a_local_reference_file_is_a_path(
        self, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = s3.url("referred.h5")
        fs.NeuroVec.create(RUN, url, space=SPACE, storage_options=s3.options).close()
        path = tmp_path / "run.refs.json"
        fs.virtualize(url, path, storage_options=s3.options)
        monkeypatch.setitem(fsspec.config.conf, "s3", dict(s3.options))  # how the bucket is reached
        for found in (nibabel.load(path), nilearn_image.load_img(str(path))):
            assert_array_equal(found.get_fdata(), RUN)
