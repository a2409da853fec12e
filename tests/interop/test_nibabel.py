"""Stored images as lazy nibabel images: nibabel's own expectations, and nilearn's."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import pytest
from nibabel import arrayproxy
from nibabel.tests import test_proxy_api as proxy_api
from nilearn import image as nilearn_image
from nilearn.maskers import NiftiLabelsMasker, NiftiMasker
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore.model.space import NeuroSpace
from fmristore_stores import opening
from fmristore_stores.errors import ClosedError, InvalidInputError, MetadataError
from fmristore_stores.protocol import Store
from fmristore_stores.testing.wrappers import CountingStore
from tests.images import (
    AFFINE,
    LAYOUTS,
    RAW,
    SCALED,
    SHAPE,
    STORES,
    Scales,
    make_values,
    nibabel,
    run_python,
    store,
    write_nifti,
)
from tests.nifti_images import Recipe

library: Any = arrayproxy
base: Any = proxy_api._TestProxyAPI


class TestWhatNibabelAsks(base):  # type: ignore[misc]
    """nibabel's own suite for array proxies, on every store, layout, type and scaling."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.opened: list[Any] = []
        yield
        for image in self.opened:
            image.close()

    def obj_params(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for number, (kind, dtype, scales, shape) in enumerate(
            itertools.product(STORES, ("u1", "i2", "f4"), (RAW, SCALED), ((5, 6, 7), (5, 6, 7, 3)))
        ):
            access = LAYOUTS[number % 3]
            values = (np.arange(np.prod(shape)).reshape(shape) % 100).astype(dtype)
            url = self.folder / f"{number}-{id(object())}.{kind}"
            image = store(url, values, scales=scales, access=access)
            self.opened.append(image)
            proxy = image.to_nibabel().dataobj

            def make(proxy: Any = proxy, image: Any = image) -> tuple[Any, str, Any]:
                return proxy, "", image.to_nibabel().header

            arr_out = scales.apply(values)
            yield make, {"dtype_out": arr_out.dtype, "arr_out": arr_out, "shape": shape}


@pytest.fixture(params=STORES)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A scaled run, converted from NIfTI."""
    source = write_nifti(tmp_path / "run.nii.gz", make_values(), scales=SCALED)
    url = tmp_path / f"run.{request.param}"
    fs.convert(source, url)
    with fs.open(url) as image:
        yield image


class TestProxy:
    def test_an_index_of_integers_gives_a_numpy_scalar(self, run: Any) -> None:
        proxy = run.to_nibabel().dataobj
        assert library.is_proxy(proxy)
        assert library.get_obj_dtype(proxy) == proxy.dtype == np.float32

    def test_stored_numbers_and_their_factors(self, run: Any) -> None:
        proxy = run.to_nibabel().dataobj
        assert (proxy.slope, proxy.inter) == (1.0, 0.0)
        assert (proxy.stored_slope, proxy.stored_inter) == (SCALED.slope, SCALED.inter)
        assert_array_equal(proxy.get_unscaled(), make_values())

    def test_factors_where_there_are_none(self, tmp_path: Path) -> None:
        with store(tmp_path / "a.h5", make_values()) as image:
            proxy = image.to_nibabel().dataobj
            assert (proxy.stored_slope, proxy.stored_inter) == (1.0, 0.0)

    def test_reshape(self, run: Any) -> None:
        found = run.to_nibabel().dataobj.reshape((-1, SHAPE[3]))
        assert_array_equal(found, SCALED.apply(make_values()).reshape(-1, SHAPE[3]))

    def test_no_array_without_a_copy(self, run: Any) -> None:
        with pytest.raises(InvalidInputError, match="copy"):
            np.array(run.to_nibabel().dataobj, copy=False)
        assert_array_equal(np.array(run.to_nibabel().dataobj, copy=True), np.asarray(run))

    def test_outlives_the_object(self, run: Any) -> None:
        image, again = run.to_nibabel(), run.to_nibabel()
        values = np.asarray(run)
        run.close()
        assert image.shape == SHAPE
        assert_array_equal(image.dataobj[0], values[0])
        del image
        assert_array_equal(again.get_fdata(), values)
        with pytest.raises(ClosedError):
            run.to_nibabel()

    def test_only_what_is_asked_for_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counting: list[CountingStore] = []
        plainly = opening._open

        def open_counting(*arguments: Any, **options: Any) -> Store:
            counting.append(CountingStore(plainly(*arguments, **options)))
            return counting[-1]

        monkeypatch.setattr(opening, "_open", open_counting)
        with store(tmp_path / "a.h5", make_values(), access="volume") as image:
            lazy = image.to_nibabel()
            assert counting[0].counts["0"].chunks_fetched <= 1
            assert not nilearn_image.load_img(lazy).in_memory
            assert counting[0].counts["0"].chunks_fetched <= 1
            volume = lazy.slicer[..., 4:5]
            assert_array_equal(volume.get_fdata()[..., 0], make_values()[..., 4])
            assert counting[0].counts["0"].chunks_fetched <= 2


class TestHeader:
    @pytest.mark.parametrize("kind", STORES)
    @pytest.mark.parametrize("version", [1, 2])
    def test_as_nibabel_loads_the_source(self, tmp_path: Path, kind: str, version: int) -> None:
        source = write_nifti(tmp_path / "run.nii", make_values(), scales=SCALED, version=version)
        loaded = nibabel.load(source)
        fs.convert(source, tmp_path / f"run.{kind}")
        with fs.open(tmp_path / f"run.{kind}") as image:
            lazy: Any = image.to_nibabel()
            assert type(lazy) is type(loaded)
            assert_array_equal(lazy.affine, loaded.affine)
            assert lazy.shape == loaded.shape
            for name in ("get_zooms", "get_xyzt_units", "get_sform", "get_qform"):
                found, wanted = getattr(lazy.header, name)(), getattr(loaded.header, name)()
                assert_array_equal(found, wanted)
            for name in ("descrip", "sform_code", "qform_code", "intent_code", "dim"):
                assert_array_equal(lazy.header[name], loaded.header[name])
            assert lazy.get_data_dtype() == np.float32
            assert lazy.header.get_slope_inter() == (None, None)
            np.testing.assert_allclose(lazy.get_fdata(), loaded.get_fdata(), rtol=1e-6)

    def test_editing_a_header_changes_nothing_stored(self, run: Any) -> None:
        lazy = run.to_nibabel()
        lazy.header["descrip"] = b"edited"
        lazy.header.set_data_dtype("u1")
        run.header["descrip"] = b"edited"
        assert run.header["descrip"] == b"made up"
        assert run.to_nibabel().header["descrip"] == b"made up"
        assert_array_equal(np.asarray(lazy.dataobj), np.asarray(run))

    def test_saving_with_nibabel(self, run: Any, tmp_path: Path) -> None:
        nibabel.save(run.to_nibabel(), tmp_path / "saved.nii.gz")
        saved = nibabel.load(tmp_path / "saved.nii.gz")
        assert_array_equal(saved.get_fdata(), np.asarray(run))
        assert_array_equal(saved.affine, run.affine)
        assert saved.header.get_zooms()[3] == 1.5

    def test_extensions_stay(self, tmp_path: Path) -> None:
        source = Recipe(extensions=(b"first", b"second")).write(tmp_path)
        fs.convert(source, tmp_path / "a.h5")
        with fs.open(tmp_path / "a.h5") as image:
            found = [e.text.rstrip("\0") for e in image.to_nibabel().header.extensions]
            assert found == ["first", "second"]

    def test_a_pair_becomes_a_single_image_with_the_same_header(self, tmp_path: Path) -> None:
        source = Recipe(single=False, slope=0.5, extensions=(b"text",)).write(tmp_path)
        loaded = nibabel.load(source)
        fs.convert(source, tmp_path / "a.h5")
        with fs.open(tmp_path / "a.h5") as image:
            lazy: Any = image.to_nibabel()
            assert type(lazy) is nibabel.Nifti1Image
            assert lazy.header.get_xyzt_units() == loaded.header.get_xyzt_units()
            assert lazy.header.get_zooms() == loaded.header.get_zooms()
            assert lazy.header["sform_code"] == loaded.header["sform_code"]
            assert len(lazy.header.extensions) == 1
            np.testing.assert_allclose(lazy.get_fdata(), loaded.get_fdata())

    @pytest.mark.parametrize(
        ("units", "factor", "time"),
        [(("micron", "msec"), 1e-3, 2.0), (("meter", "usec"), 1e3, 0.002), (("mm", "sec"), 1, 2e3)],
    )
    def test_lengths_in_mm_and_times_in_seconds(
        self, tmp_path: Path, units: tuple[str, str], factor: float, time: float
    ) -> None:
        image = nibabel.Nifti1Image(make_values(), np.diag([2.0, 3, 4, 1]))
        image.header.set_zooms((2, 3, 4, 2000))
        image.header.set_xyzt_units(*units)
        image.header.set_sform(np.diag([2.0, 3, 4, 1]), 1)
        (tmp_path / "a.nii").write_bytes(image.to_bytes())
        fs.convert(tmp_path / "a.nii", tmp_path / "a.h5")
        with fs.open(tmp_path / "a.h5") as stored:
            assert stored.tr == time
            lazy: Any = stored.to_nibabel()
            np.testing.assert_allclose(
                lazy.affine, np.diag([2 * factor, 3 * factor, 4 * factor, 1])
            )
            zooms = (2 * factor, 3 * factor, 4 * factor, time)
            np.testing.assert_allclose(lazy.header.get_zooms(), zooms, rtol=1e-6)
            assert lazy.header.get_xyzt_units() == ("mm", "sec")
            told = NeuroSpace.from_nibabel(lazy)
            assert told.same_grid(stored.space)
            assert told.tr == pytest.approx(time)

    def test_volumes_that_are_not_times_have_no_tr(self, tmp_path: Path) -> None:
        source = Recipe(shape=(4, 5, 6, 1, 7)).write(tmp_path)
        fs.convert(source, tmp_path / "a.h5")
        with fs.open(tmp_path / "a.h5") as image:
            assert image.tr is None
            lazy = image.to_nibabel()
            assert lazy.shape == (4, 5, 6, 7)
            assert NeuroSpace.from_nibabel(lazy).tr is None

    @pytest.mark.parametrize("kind", STORES)
    def test_arrays_without_a_source(self, tmp_path: Path, kind: str) -> None:
        with store(tmp_path / f"a.{kind}", make_values()) as image:
            lazy = image.to_nibabel()
            assert lazy.get_data_dtype() == np.int16
            assert_array_equal(lazy.affine, AFFINE)
            assert lazy.header.get_zooms()[3] == 1.5
            np.testing.assert_allclose(lazy.header.get_zooms()[:3], image.spacing, rtol=1e-6)

    def test_colours(self, tmp_path: Path) -> None:
        values = make_values(SHAPE[:3], [(n, "u1") for n in "RGB"])
        with store(tmp_path / "a.ome.zarr", values) as image:
            lazy = image.to_nibabel()
            assert lazy.get_data_dtype().names == ("R", "G", "B")
            assert_array_equal(np.asarray(lazy.dataobj), values)

    def test_damage(self, tmp_path: Path) -> None:
        import h5py

        store(tmp_path / "a.h5", make_values()).close()
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            file["nifti"][...] = 0
        with fs.open(tmp_path / "a.h5") as image:
            for use in (lambda: image.header, image.to_nibabel):
                with pytest.raises(MetadataError, match=r"a\.h5.*nifti.*header is damaged"):
                    use()


class TestTravelling:
    def test_deepcopy_and_pickle(self, run: Any) -> None:
        lazy = run.to_nibabel()
        for other in (copy.deepcopy(lazy), pickle.loads(pickle.dumps(lazy)), copy.copy(lazy)):
            assert other.dataobj.is_proxy
            assert_array_equal(np.asarray(other.dataobj), np.asarray(run))
            assert_array_equal(other.affine, lazy.affine)
        for image in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
            assert_array_equal(image[3, 2, 1], run[3, 2, 1])
            image.close()
        assert_array_equal(run[3, 2, 1], SCALED.apply(make_values())[3, 2, 1])

    def test_pickles_are_small_and_equal(self, run: Any) -> None:
        first = pickle.dumps(run)
        assert len(first) < 4000
        run[0, 0, 0]
        run.to_nibabel().get_fdata()
        assert run.header_bytes
        assert run.trailer_bytes == b""
        assert pickle.dumps(run) == first

    def test_joblib_finds_equal_images_equal_and_others_not(self, run: Any, tmp_path: Path) -> None:
        first = joblib.hash(run.to_nibabel())
        run.to_nibabel().get_fdata()
        assert joblib.hash(run.to_nibabel()) == first
        with fs.open(run.url) as again:
            assert joblib.hash(again.to_nibabel()) == first
        with store(tmp_path / "other.h5", make_values(seed=1)) as other:
            assert joblib.hash(other.to_nibabel()) != first

    def test_a_replaced_store_has_another_hash(self, tmp_path: Path) -> None:
        for kind in STORES:
            hashes = set()
            for seed in range(2):
                url = tmp_path / f"a.{kind}"
                with store(url, make_values(seed=seed), overwrite=True) as image:
                    hashes.add(joblib.hash(image.to_nibabel()))
            assert len(hashes) == 2

    def test_in_a_fresh_process(self, run: Any, tmp_path: Path) -> None:
        (tmp_path / "image.pickle").write_bytes(pickle.dumps(run.to_nibabel()))
        code = (
            "import pickle, sys\n"
            "image = pickle.load(open(sys.argv[1], 'rb'))\n"
            "print(image.dataobj[3, 2, 1].tolist())\n"
        )
        done = run_python(code, tmp_path / "image.pickle")
        assert done.stdout.strip() == str(run[3, 2, 1].tolist()), done.stderr

    def test_after_a_fork(self, run: Any) -> None:
        lazy = run.to_nibabel()
        lazy.get_fdata()
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)

        def child() -> None:
            sender.send((run[3, 2, 1], np.asarray(lazy.dataobj[..., 4]), run.series([(3, 2, 1)])))

        with warnings.catch_warnings():
            # Newer Pythons warn of forks while there are threads.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = context.Process(target=child)
            process.start()
        assert receiver.poll(300)
        series, volume, points = receiver.recv()
        process.join(300)
        assert process.exitcode == 0
        assert_array_equal(series, run[3, 2, 1])
        assert_array_equal(volume, run[..., 4])
        assert_array_equal(points[:, 0], series)


@pytest.fixture(scope="module")
def haxby(shared_data: Path) -> Path:
    return shared_data / "data/real/bold/haxby2001_25mm"


@pytest.fixture(scope="module", params=STORES)
def stored_haxby(
    request: pytest.FixtureRequest, haxby: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    url = tmp_path_factory.mktemp("haxby") / f"run.{request.param}"
    fs.convert(haxby / "sub-1_run-01_bold.nii.gz", url)
    with fs.open(url) as image:
        yield image.to_nibabel()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
class TestNilearn:
    """nilearn gives the same data from a stored image as from the file."""

    def source(self, haxby: Path) -> str:
        return str(haxby / "sub-1_run-01_bold.nii.gz")

    def test_load_index_and_mean(self, haxby: Path, stored_haxby: Any) -> None:
        source = self.source(haxby)
        assert nilearn_image.load_img(stored_haxby).shape == (6, 10, 10, 121)
        for wanted, found in (
            (nilearn_image.index_img(source, 7), nilearn_image.index_img(stored_haxby, 7)),
            (
                nilearn_image.index_img(source, slice(3, 9)),
                nilearn_image.index_img(stored_haxby, slice(3, 9)),
            ),
            (nilearn_image.mean_img(source), nilearn_image.mean_img(stored_haxby)),
        ):
            np.testing.assert_allclose(found.get_fdata(), wanted.get_fdata(), rtol=1e-6)
            assert_array_equal(found.affine, wanted.affine)

    @pytest.mark.parametrize("masker", ["voxels", "labels"])
    def test_maskers(self, haxby: Path, stored_haxby: Any, masker: str, tmp_path: Path) -> None:
        def make() -> Any:
            if masker == "voxels":
                return NiftiMasker(mask_img=haxby / "mask-vt.nii.gz", standardize=None, t_r=2.5)
            return NiftiLabelsMasker(
                haxby / "mask-hoc.nii.gz", standardize=None, memory=str(tmp_path), memory_level=5
            )

        wanted = make().fit_transform(self.source(haxby))
        found = make().fit_transform(stored_haxby)
        assert wanted.shape[0] == 121
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        if masker == "voxels":
            with fs.open(stored_haxby.dataobj._image.url) as image:
                series = image.series(mask=haxby / "mask-vt.nii.gz")
            assert_array_equal(np.sort(series, axis=1), np.sort(wanted, axis=1))

    def test_scaled_numbers(self, tmp_path: Path) -> None:
        source = write_nifti(tmp_path / "a.nii", make_values(), scales=Scales(0.01, 5.0))
        mask = nibabel.Nifti1Image(np.ones(SHAPE[:3], "u1"), AFFINE)
        fs.convert(source, tmp_path / "a.ome.zarr")
        with fs.open(tmp_path / "a.ome.zarr") as image:
            found = NiftiMasker(mask_img=mask, standardize=None).fit_transform(image.to_nibabel())
        wanted = NiftiMasker(mask_img=mask, standardize=None).fit_transform(str(source))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
