"""Files that users hand in by path: what nibabel reads is read, what is no image is named."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numcodecs
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore.sources.files import is_foreign
from fmristore_stores.errors import (
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.io.location import filesystem

nibabel: Any = untyped_nibabel
DATA = Path(untyped_nibabel.__file__).parent / "tests" / "data"
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0])
LABELS = np.arange(4 * 5 * 3, dtype="i2").reshape(4, 5, 3) % 3


def write(folder: Path, name: str) -> Path:
    """Write the labels in the form that a name asks for."""
    path = folder / name
    nifti = nibabel.Nifti1Image(LABELS, AFFINE).to_bytes()
    if name.endswith(".bz2"):
        path.write_bytes(bz2.compress(nifti))
    elif name.endswith(".zst"):
        path.write_bytes(numcodecs.Zstd(1).encode(nifti))
    elif name.endswith((".mgz", ".mgh")):
        nibabel.save(nibabel.MGHImage(LABELS.astype("i4"), AFFINE), path)
    else:
        nibabel.save(nibabel.Spm99AnalyzeImage(LABELS, AFFINE), path)
    return path


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(  # nibabel leaves closing an .mgh file to the garbage collector
    "name", ["a.mgz", "a.mgh", "a.nii.bz2", "a.nii.zst", "analyze.hdr", "analyze.img"]
)
def test_a_path_gives_what_nibabel_reads(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    with fs.convert(path, tmp_path / "a.h5") as image:
        assert_array_equal(image[...], LABELS)
        assert_array_equal(image.affine, AFFINE)
        assert_array_equal(image.unmask(np.ones(np.count_nonzero(LABELS)), path), LABELS != 0)
    assert_array_equal(fs.Parcellation.from_labels(path).labels, LABELS)


@pytest.mark.parametrize("name", ["a.mgz", "a.nii.bz2", "b.hdr"])
def test_a_url_gives_the_same(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    remote = filesystem("memory://given")[0]
    for path in tmp_path.iterdir():
        remote.pipe_file(f"/given/{path.name}", path.read_bytes())
    found = fs.Parcellation.from_labels(f"memory://given/{name}")
    assert_array_equal(found.labels, LABELS)


@pytest.mark.parametrize("name", ["scaled+tlrc.HEAD", "scaled+tlrc.BRIK", "minc1_4d.mnc"])
def test_images_of_other_programs(tmp_path: Path, name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip("nibabel came without its test data")
    for path in DATA.glob(f"{name.partition('.')[0]}.*"):
        shutil.copy(path, tmp_path)
    image = nibabel.load(tmp_path / name)
    with fs.convert(tmp_path / name, tmp_path / "a.h5") as stored:
        np.testing.assert_allclose(stored[...], np.asarray(image.dataobj), rtol=1e-6)
        np.testing.assert_allclose(stored.affine, image.affine)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.dscalar.nii", "CIFTI"), ("a.dtseries.nii", "CIFTI"), ("a.func.gii", "GIFTI")],
)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    for read in (
        lambda: fs.convert(tmp_path / name, tmp_path / "a.h5"),
        lambda: fs.Parcellation.from_labels(tmp_path / name),
    ):
        with pytest.raises(UnknownFormatError, match=f"{kind}.*wb_command"):
            read()
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    ("name", "content", "cure"),
    [
        ("a.dcm", b"", "dcm2niix"),
        ("IM0001", bytes(128) + b"DICM", "dcm2niix"),
        ("a.nrrd", b"NRRD0004", "SimpleITK"),
        ("a.nhdr", b"NRRD0004", "SimpleITK"),
        ("a.mif", b"mrtrix image", "mrconvert a.mif image.nii.gz"),
        ("a.mif.gz", gzip.compress(b"mrtrix image", mtime=0), "mrconvert a.mif.gz"),
        ("a.npy", b"\x93NUMPY", "numpy.load.*space=affine"),
        ("a.npz", b"PK\3\4", "numpy.load.*space=affine"),
        ("a.mat", b"MATLAB 5.0", "scipy.io.loadmat"),
        ("a.img", bytes(400), "a.hdr; .*numpy.fromfile"),
        ("a.nc", b"CDF\1", "xarray"),
        ("a.rds", gzip.compress(b"X\n", mtime=0), "RNifti"),
        ("lh.pial", b"", "mri_surf2vol"),
        ("a.tck", b"mrtrix tracks", "tckmap"),
        ("a.csv", b"1,2", "names="),
        ("a.zip", b"PK\3\4", "zip://"),
        ("a.h5", b"<Error>", "not downloaded whole"),
        ("lfs.nii.gz", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("annex.nii.gz", b"/annex/objects/MD5E-s1--0.nii.gz", "datalad get"),
        ("login.nii.gz", b"<!DOCTYPE html><html>", "web server"),
        ("a.bin", bytes(400), "its own library"),
    ],
)
def test_other_kinds_of_files_are_named_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, cure: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FmristoreError, match=cure):
        fs.convert(path, tmp_path / "new.h5")
    if name != "a.img":  # a name of NIfTI, for which fs.open says convert
        with pytest.raises(UnknownFormatError, match="no zarr.json" if name == "a.bin" else cure):
            fs.open(path)
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_every_argument_names_other_kinds_of_files(tmp_path: Path) -> None:
    path = str(tmp_path / "a.npy")
    np.save(path, LABELS)
    run = np.zeros((*LABELS.shape, 4), "i2")
    calls: list[Any] = [
        lambda url: fs.MaskedNeuroVec.create(run, url, mask=path, space=AFFINE),
        lambda url: fs.parcellate(run, path, url, space=AFFINE),
        lambda url: fs.parcellate(run, LABELS, url, space=AFFINE, weights=path),
        lambda url: fs.LabeledVolumeSet.create({"a": path}, url, mask=LABELS, space=AFFINE),
        lambda url: fs.NeuroVecSeq.create([path], url),
        lambda _: fs.Parcellation.from_labels(path),
        lambda _: fs.NeuroVec.open(path),
    ]
    for k, call in enumerate(calls):
        with pytest.raises(UnknownFormatError, match=r"numpy\.load"):
            call(tmp_path / f"{k}.h5")


def test_folders_and_names_that_lead_nowhere_say_what_to_do(tmp_path: Path) -> None:
    for name, inside, cure in [
        ("series", "1.dcm", "dcm2niix"),
        ("study", "dataset_description.json", "convert_bids"),
        ("images", "a.nii.gz", "name the image"),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / inside).write_bytes(b"")
        with pytest.raises(UnknownFormatError, match=cure):
            fs.convert(folder, tmp_path / "a.h5")


@pytest.mark.skipif(os.name == "nt", reason="no such names, and links need a privilege")
def test_patterns_and_links_that_lead_nowhere_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="glob"):
        fs.convert(tmp_path / "sub-*_bold.nii.gz", tmp_path / "a.h5")
    (tmp_path / "link.nii.gz").symlink_to(".git/annex/objects/x")
    with pytest.raises(NotFoundError, match="datalad get"):
        fs.convert(tmp_path / "link.nii.gz", tmp_path / "a.h5")


def test_a_name_in_a_query_comes_after_the_path(tmp_path: Path) -> None:
    remote = filesystem("memory://queried")[0]
    assert not is_foreign("https://host/b.nii.gz?file=a.mgz")
    assert is_foreign("https://host/get?file=a.mgz")
    remote.pipe_file("/queried/bad.mgz", gzip.compress(b"\0\0\0\1" + bytes(300)))
    with pytest.raises(CorruptDataError, match="damaged"):
        fs.convert("memory://queried/bad.mgz", tmp_path / "a.h5")


@pytest.mark.parametrize("name", ["T1", "T1?file=T1.mgz", "x?file=T1.mgz&token=1", "T1.orig"])
def test_freesurfer_images_whose_names_do_not_say_it(tmp_path: Path, name: str) -> None:
    data = write(tmp_path, "a.mgz").read_bytes()
    remote = filesystem("memory://unnamed")[0]
    for content in (data, gzip.decompress(data)):
        if ".mgz" not in name or content is data:
            remote.pipe_file(f"/unnamed/{name}", content)
            url = f"memory://unnamed/{name}"
            assert_array_equal(fs.Parcellation.from_labels(url).labels, LABELS)
            with fs.convert(url, tmp_path / "a.h5", overwrite=True) as image:
                assert_array_equal(image[...], LABELS)


def test_objects_of_surfaces_are_named(tmp_path: Path) -> None:
    grey = nibabel.cifti2.BrainModelAxis.from_mask(LABELS > 0, affine=AFFINE, name="thalamus_left")
    rows = nibabel.cifti2.SeriesAxis(0, 1, 2)
    for given in (
        nibabel.Cifti2Image(np.zeros((2, len(grey)), "f4"), (rows, grey)),
        nibabel.GiftiImage(),
    ):
        with pytest.raises(InvalidInputError, match=r"no image of voxels.*wb_command"):
            fs.convert(given, tmp_path / "a.h5")
        with pytest.raises(InvalidInputError, match="no image of voxels"):
            fs.Parcellation.from_labels(given)


def test_arrays_and_reference_files_are_converted(tmp_path: Path) -> None:
    with fs.convert(LABELS, tmp_path / "a.h5", space=AFFINE) as image:
        assert_array_equal(image.affine, AFFINE)
    with pytest.raises(InvalidInputError, match="'affine'; did you mean 'space'"):
        fs.convert(LABELS, tmp_path / "b.h5", affine=AFFINE)  # type: ignore[call-overload]
    fs.virtualize(tmp_path / "a.h5", tmp_path / "a.json")
    with fs.convert(tmp_path / "a.json", tmp_path / "b.h5") as image:
        assert_array_equal(image[...], LABELS)
    assert_array_equal(fs.Parcellation.from_labels(tmp_path / "a.json").labels, LABELS)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(FmristoreError, match=r"other\.json"):
        fs.convert(tmp_path / "other.json", tmp_path / "c.h5")


def test_damaged_and_missing_files_of_other_programs(tmp_path: Path) -> None:
    path = write(tmp_path, "a.mgz")
    short = gzip.decompress(path.read_bytes())[:300]
    path.write_bytes(gzip.compress(short))
    with pytest.raises(CorruptDataError):
        fs.convert(path, tmp_path / "a.h5")
    bad = write(tmp_path, "b.nii.bz2")
    bad.write_bytes(bad.read_bytes()[:-20])
    with pytest.raises(CorruptDataError):
        fs.convert(bad, tmp_path / "a.h5")
    bad = write(tmp_path, "b.nii.zst")
    bad.write_bytes(bad.read_bytes()[:-20])
    with pytest.raises(CorruptDataError):
        fs.convert(bad, tmp_path / "a.h5")
    with pytest.raises(NotFoundError):
        fs.convert(tmp_path / "none.mgz", tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("rest", [b"junk", b"\x1f", bytes(1000) + b"junk", bytes(70_000)])
@pytest.mark.parametrize("size", [8, 200])
def test_what_follows_the_gzip_data_is_passed_over(tmp_path: Path, rest: bytes, size: int) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (size, size, 9)).astype("i2")
    raw = nibabel.Nifti1Image(values, AFFINE).to_bytes()
    path = tmp_path / "a.nii.gz"
    half = len(raw) // 2
    path.write_bytes(gzip.compress(raw[:half]) + gzip.compress(raw[half:]) + rest)
    with fs.convert(path, tmp_path / "a.h5") as image:
        assert_array_equal(image[...], values)
    damaged = bytearray(path.read_bytes())
    damaged[-len(rest) - 5] ^= 1  # of the checksum
    path.write_bytes(bytes(damaged))
    with pytest.raises(CorruptDataError):
        fs.convert(path, tmp_path / "b.h5")


@pytest.mark.parametrize("kind", ["path", "object"])
def test_what_is_stored_with_parcels_stands_for_them(tmp_path: Path, kind: str) -> None:
    run = np.random.default_rng(0).normal(size=(4, 5, 3, 6)).astype("f4")
    space = fs.NeuroSpace(spatial_shape=(4, 5, 3), affine=AFFINE, time_points=6)
    with fs.parcellate(run, LABELS, tmp_path / "s.h5", space=space) as summary:
        given = summary.url if kind == "path" else summary
        found = fs.Parcellation.from_labels(given)
        assert found.same_as(summary.parcellation)
