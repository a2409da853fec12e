"""What went in as NIfTI comes out byte for byte, through every store and layout."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore.nifti import read_header
from fmristore.planning import rechunk
from fmristore.planning.layout import Access
from fmristore_stores.errors import MemoryLimitError, MetadataError
from tests.images import (
    LAYOUTS,
    SCALED,
    STORES,
    Scales,
    make_values,
    nibabel,
    store,
    write_nifti,
)
from tests.nifti_images import REFUSED, Recipe, content, real_images, recipes

ALL = list(itertools.product(STORES, LAYOUTS))
BIG = 15_000_000
"""Bytes of uncompressed images that go through one store and layout each."""
MIDDLE = 250_000
"""Bytes of those that go through one layout in both stores."""
ALIKE = re.compile(r"(sub-1_run-|con_)(?!01)")
"""Files that differ from others in nothing but their data."""

pytestmark = pytest.mark.filterwarnings("ignore::fmristore.model.space.HeaderWarning")


def uncompressed(path: Path) -> list[bytes]:
    """Content of the file of an image, or of both."""
    if ".hdr" not in path.name:
        return [content(path)]
    return [content(path), content(path.with_name(path.name.replace(".hdr", ".img")))]


def export(url: Path, source: Path, name: str, **options: Any) -> list[bytes]:
    """Uncompressed content of an image exported in the form of its source."""
    back = url.with_name(f"{name}{'.hdr' if '.hdr' in source.name else '.nii'}")
    with fs.open(url) as image:
        image.to_nifti(back, overwrite=True, **options)
    return uncompressed(back)


class TestRealFiles:
    def combinations(self, source: Path, number: int) -> list[tuple[str, Access]]:
        """Stores and layouts to send a file through."""
        size = read_header(source).data_nbytes
        if size > BIG or ALIKE.match(source.name):
            return [ALL[number % len(ALL)]]
        half = len(ALL) // len(STORES)
        return [ALL[number % half], ALL[half + number % half]] if size > MIDDLE else ALL

    @pytest.mark.parametrize("part", range(8))
    def test_export_gives_the_source(self, shared_data: Path, tmp_path: Path, part: int) -> None:
        for number, source in list(enumerate(real_images(shared_data)))[part::8]:
            wanted = uncompressed(source)
            for kind, access in self.combinations(source, number):
                url = tmp_path / f"{number}-{access}.{kind}"
                fs.convert(source, url, access=access)
                assert export(url, source, f"{number}") == wanted, source.name

    @pytest.mark.once
    @pytest.mark.parametrize("part", range(4))
    def test_also_after_moving_to_the_other_store_and_back(
        self, shared_data: Path, tmp_path: Path, part: int
    ) -> None:
        files = [
            path
            for path in real_images(shared_data)
            if read_header(path).data_nbytes <= BIG // 3 and not ALIKE.match(path.name)
        ]
        for number, source in list(enumerate(files))[part::4]:
            kind, access = ALL[number % len(ALL)]
            other = STORES[1 - STORES.index(kind)]
            first, there, back = (
                tmp_path / f"{number}.{end}" for end in (kind, f"there.{other}", f"back.{kind}")
            )
            fs.convert(source, first, access=access)
            fs.transcode(first, there)
            fs.transcode(there, back)
            wanted = uncompressed(source)
            assert export(there, source, f"{number}-there") == wanted, source.name
            assert export(back, source, f"{number}-back") == wanted, source.name
            with fs.open(first) as a, fs.open(there) as b, fs.open(back) as c:
                assert a.space == b.space == c.space
                assert a.digest == b.digest == c.digest == c.compute_digest()

    def test_a_large_run_moves_too(self, shared_data: Path, tmp_path: Path) -> None:
        source = shared_data / "data/real/bold/sub-prisma_run-2_acq-pasl2d.nii.gz"
        fs.convert(source, tmp_path / "a.ome.zarr")
        fs.transcode(tmp_path / "a.ome.zarr", tmp_path / "b.h5")
        assert export(tmp_path / "b.h5", source, "back") == uncompressed(source)

    def test_values_are_those_of_nibabel(self, shared_data: Path, tmp_path: Path) -> None:
        for number, source in enumerate(real_images(shared_data)):
            header = read_header(source)
            if header.data_nbytes > BIG // 3 or header.colors or ALIKE.match(source.name):
                continue
            kind, access = ALL[number % len(ALL)]
            url = tmp_path / f"{number}.{kind}"
            fs.convert(source, url, access=access)
            loaded = nibabel.load(source)
            with fs.open(url) as image:
                wanted = np.asanyarray(loaded.dataobj).reshape(image.shape, order="F")
                found = np.asarray(image)
                # One rounding to float32 where the data are scaled 16-bit integers.
                np.testing.assert_allclose(found, wanted, rtol=2e-7, atol=1e-7 * _largest(wanted))
                np.testing.assert_allclose(image.affine, image.space.affine)

    def test_refused_files_leave_nothing(self, shared_data: Path, tmp_path: Path) -> None:
        for name, error in REFUSED.items():
            for kind in STORES:
                with pytest.raises(getattr(fs.errors, error)) as caught:
                    fs.convert(shared_data / "data/real/odd" / name, tmp_path / f"a.{kind}")
                assert name.split(".")[0] in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def _largest(values: Any) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


@settings(max_examples=25)
@given(recipe=recipes(), place=st.sampled_from(ALL), codec=st.sampled_from([None, "dual", "none"]))
def test_any_image_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Recipe,
    place: tuple[str, Access],
    codec: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = recipe.write(folder)
    kind, access = place
    fs.convert(source, folder / f"a.{kind}", access=access, codec=codec)
    assert export(folder / f"a.{kind}", source, "back") == list(recipe.files().values())


@pytest.mark.parametrize("kind", STORES)
class TestForms:
    """A source of one form, exported in another, holds the same image."""

    def test_compressed(self, tmp_path: Path, kind: str) -> None:
        source = write_nifti(tmp_path / "a.nii.gz", make_values(), scales=SCALED)
        fs.convert(source, tmp_path / f"a.{kind}")
        with fs.open(tmp_path / f"a.{kind}") as image:
            image.to_nifti(tmp_path / "b.nii.gz")
            image.to_nifti(tmp_path / "c.nii.gz")
        assert content(tmp_path / "b.nii.gz") == content(source)
        assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()

    def test_pair_and_single_file(self, tmp_path: Path, kind: str) -> None:
        for recipe in (Recipe(single=False), Recipe()):
            folder = tmp_path / str(recipe.single)
            folder.mkdir()
            source = recipe.write(folder)
            fs.convert(source, folder / f"a.{kind}")
            with fs.open(folder / f"a.{kind}") as image:
                image.to_nifti(folder / "single.nii")
                image.to_nifti(folder / "pair.img")
            wanted = nibabel.load(source)
            for name in ("single.nii", "pair.hdr"):
                found = nibabel.load(folder / name)
                assert_array_equal(found.get_fdata(), wanted.get_fdata())
                assert_array_equal(found.affine, wanted.affine)

    def test_arrays_get_a_header_that_says_the_same(self, tmp_path: Path, kind: str) -> None:
        values = make_values()
        with store(tmp_path / f"a.{kind}", values, scales=SCALED) as image:
            image.to_nifti(tmp_path / "a.nii")
            space = image.space
            wanted = np.asarray(image, "f8")
        loaded = nibabel.load(tmp_path / "a.nii")
        np.testing.assert_allclose(loaded.get_fdata(), wanted)
        np.testing.assert_allclose(loaded.affine, space.affine, atol=1e-6)
        assert loaded.header.get_zooms()[3] == np.float32(1.5)
        assert loaded.header.get_xyzt_units() == ("mm", "sec")

    def test_images_of_nibabel(self, tmp_path: Path, kind: str) -> None:
        values = make_values()
        source = write_nifti(tmp_path / "a.nii.gz", values, scales=SCALED)

        loaded = nibabel.load(source)
        fs.convert(loaded, tmp_path / f"file.{kind}")
        assert export(tmp_path / f"file.{kind}", source, "back") == uncompressed(source)

        affine = loaded.affine @ np.diag([2, 1, 1, 1.0])
        moved = nibabel.Nifti1Image(loaded.dataobj, affine, loaded.header)
        fs.convert(moved, tmp_path / f"moved.{kind}")
        with fs.open(tmp_path / f"moved.{kind}") as image:
            assert_array_equal(np.asarray(image), loaded.get_fdata())
            assert_array_equal(image.affine, affine)

        memory = nibabel.Nifti1Image(values, loaded.affine)
        fs.convert(memory, tmp_path / f"memory.{kind}")
        with fs.open(tmp_path / f"memory.{kind}") as image:
            assert image.stored_dtype == np.int16
            assert_array_equal(np.asarray(image), values)

        pair = nibabel.load(Recipe(single=False, slope=0.5, inter=3.0).write(tmp_path))
        fs.convert(pair, tmp_path / f"pair.{kind}")
        with fs.open(tmp_path / f"pair.{kind}") as image:
            np.testing.assert_allclose(np.asarray(image), pair.get_fdata())
            assert image.slope == 0.5

    def test_a_header_edited_in_memory_counts(self, tmp_path: Path, kind: str) -> None:
        source = write_nifti(tmp_path / "a.nii", make_values(), scales=SCALED)
        loaded = nibabel.load(source)
        loaded.header.set_zooms((2, 2.5, 3, 7.5))
        fs.convert(loaded, tmp_path / f"a.{kind}")
        with fs.open(tmp_path / f"a.{kind}") as image:
            assert image.tr == 7.5
            assert_array_equal(np.asarray(image), loaded.get_fdata())

    def test_overwriting_the_file_an_image_came_from(self, tmp_path: Path, kind: str) -> None:
        source = write_nifti(tmp_path / "a.nii", make_values())
        fs.convert(source, tmp_path / f"a.{kind}")
        before = source.read_bytes()
        with fs.open(tmp_path / f"a.{kind}") as image:
            image.to_nifti(source, overwrite=True)
        assert source.read_bytes() == before


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("access", LAYOUTS)
@pytest.mark.parametrize("dtype", ["i2", "f8"])
def test_through_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, access: Access, dtype: str
) -> None:
    """Bands, scratch files and pieces of volumes, with a limit far below the size of the run."""
    for name in ("_CHUNK_BYTES", "_PORTABLE_BYTES"):
        small: Any = dict.fromkeys(LAYOUTS, 4096) if name == "_CHUNK_BYTES" else 4096
        monkeypatch.setattr(f"fmristore.planning.layout.{name}", small)
    monkeypatch.setattr("fmristore.planning.chunking._SHARD_BYTES", (16 * 1024, 16 * 1024))
    values = make_values((24, 22, 20, 40), dtype)
    source = write_nifti(tmp_path / "a.nii", values, scales=Scales(0.5, 2.0))
    limit = values.nbytes // 8
    fs.convert(source, tmp_path / f"a.{kind}", access=access, max_memory=limit)
    assert export(tmp_path / f"a.{kind}", source, "b", max_memory=limit) == uncompressed(source)
    with fs.open(tmp_path / f"a.{kind}") as image:
        assert image.compute_digest(max_memory=limit // 8) == image.digest
        reader = image._data.reader
        axes = [reader.spec.dims.index(d) for d in "tzyx"]
        if access == "time":
            assert rechunk.uses_scratch(reader, axes, (1, 20, 22, 24), limit)


def test_a_limit_that_cannot_be_kept(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "a.nii", make_values((64, 64, 20, 20)))
    for kind in STORES:
        with pytest.raises(MemoryLimitError, match=r"max_memory|allowed"):
            fs.convert(source, tmp_path / f"a.{kind}", max_memory=1000)
    fs.convert(source, tmp_path / "a.h5")
    with (
        fs.open(tmp_path / "a.h5") as image,
        pytest.raises(MemoryLimitError, match="max_memory"),
    ):
        image.to_nifti(tmp_path / "b.nii", max_memory=1000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "a.nii"]


@pytest.mark.parametrize("kind", STORES)
def test_progress_reaches_the_end(tmp_path: Path, kind: str) -> None:
    values = make_values((16, 16, 10, 30))
    source = write_nifti(tmp_path / "a.nii", values)
    told: list[tuple[int, int]] = []

    def tell(done: int, whole: int) -> None:
        told.append((done, whole))

    def check() -> None:
        assert told[-1] == (values.nbytes, values.nbytes)
        assert told == sorted(told)
        told.clear()

    fs.convert(source, tmp_path / f"a.{kind}", max_memory=1 << 20, progress=tell)
    check()
    with fs.open(tmp_path / f"a.{kind}") as image:
        image.to_nifti(tmp_path / "b.nii", progress=tell)
    check()


def test_a_stored_header_of_other_numbers_is_not_exported(tmp_path: Path) -> None:
    import h5py

    values = make_values()
    store(tmp_path / "a.h5", values).close()
    store(tmp_path / "other.h5", values.astype("f4")).close()
    with h5py.File(tmp_path / "a.h5", "r+") as file, h5py.File(tmp_path / "other.h5") as other:
        file["nifti"][...] = other["nifti"][...]
    with fs.open(tmp_path / "a.h5") as image:
        with pytest.raises(MetadataError, match="other data"):
            image.to_nifti(tmp_path / "a.nii")
        assert_array_equal(np.asarray(image.to_nibabel().dataobj), values)
    assert not (tmp_path / "a.nii").exists()
