"""Files that users hand in by path: what nibabel reads is read, what is no image is named."""

from __future__ import annotations

import bz2
import gzip
import shutil
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numcodecs
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore_stores.errors import CorruptDataError, NotFoundError, UnknownFormatError
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
