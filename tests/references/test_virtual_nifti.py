"""Uncompressed NIfTI files read in place: by fmristore, zarr-python over fsspec, and xarray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
import pytest
import xarray
import zarr
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore_stores.errors import (
    ChangedError,
    LayoutNotSupportedError,
    UnknownFormatError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import ChunkRefs
from tests.images import Scales, nibabel, write_nifti

AFFINE = np.array([[-2.0, 0, 0, 9], [0, 2, 0, -7], [0, 0, 3, 4], [0, 0, 0, 1]])
VALUES = np.random.default_rng(0).integers(-900, 900, (6, 5, 4, 7)).astype(np.int16)


def _write(path: Path, dtype: str = "<i2", *, scaled: bool = True, volumes: bool = True) -> Any:
    values = (VALUES if volumes else VALUES[..., 0]).astype(dtype)
    header = nibabel.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(np.dtype(dtype))
    image = nibabel.Nifti1Image(values, AFFINE, header)
    if volumes:
        image.header.set_zooms((2, 2, 3, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    if scaled:
        image.header.set_slope_inter(0.5, 3.0)
    nibabel.save(image, path)
    return nibabel.load(path)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", ">u2"])
@pytest.mark.parametrize("volumes", [True, False])
def test_a_nifti_file_is_read_in_place(tmp_path: Path, dtype: str, *, volumes: bool) -> None:
    path = tmp_path / "a.nii"
    image = _write(path, dtype, volumes=volumes)
    (tmp_path / "a.json").write_text(json.dumps({"TaskName": "rest"}))
    report = fs.virtualize(path)
    assert report.referred == ("0",)
    assert report.chunks == (7 if volumes else 1)
    expected = image.get_fdata()
    with fs.open(f"{path}.refs.json") as ours:
        np.testing.assert_allclose(ours[...], expected, rtol=1e-6)
        np.testing.assert_array_equal(ours.affine, image.affine)
        assert (ours.slope, ours.inter) == (0.5, 3.0)
        assert getattr(ours, "tr", None) == (1.5 if volumes else None)
        assert ours.metadata["TaskName"] == "rest"
        np.testing.assert_array_equal(ours.raw[2, 3], image.dataobj.get_unscaled()[2, 3])
        ours.to_nifti(tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes() == path.read_bytes()
    assert fs.verify(f"{path}.refs.json").ok


def test_bytes_come_straight_to_memory_that_is_given(tmp_path: Path) -> None:
    _write(tmp_path / "a.nii")
    fs.virtualize(tmp_path / "a.nii")
    with open_store(tmp_path / "a.nii.refs.json") as store:
        array = cast("ChunkRefs", store.root.array("0"))
        refs = array.refs([(volume, 0, 0, 0) for volume in (3, 4, 1)])
        ranges = [ref.range for ref in refs if ref is not None]
        rooms = [np.zeros(item.length, np.uint8) for item in ranges]
        found = array.fetch(ranges, [rooms[0], None, rooms[2]])
        for data, volume in zip(found, (3, 4, 1), strict=True):
            np.testing.assert_array_equal(
                np.frombuffer(data, "<i2"), VALUES[..., volume].ravel("F")
            )
        np.testing.assert_array_equal(rooms[0].view("<i2"), VALUES[..., 3].ravel("F"))
        np.testing.assert_array_equal(rooms[2].view("<i2"), VALUES[..., 1].ravel("F"))
        assert not rooms[1].any()


def test_other_readers_see_the_values_of_nibabel(tmp_path: Path) -> None:
    expected = _write(tmp_path / "a.nii").get_fdata().T
    url = str(tmp_path / "a.nii.refs.json")
    fs.virtualize(tmp_path / "a.nii", url)
    with xarray.open_dataset(url, engine="kerchunk") as found:
        np.testing.assert_array_equal(found["0"].values, expected)
        assert found["0"].dims == ("t", "z", "y", "x")
        np.testing.assert_array_equal(np.reshape(found.attrs["affine"], (4, 4)), AFFINE)
    references = fsspec.filesystem("reference", fo=url, asynchronous=True)
    group = zarr.open_group(zarr.storage.FsspecStore(references), mode="r")
    raw: Any = group["0"]
    np.testing.assert_array_equal(raw[:], VALUES.T)


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.nii")
    fs.virtualize(tmp_path / "a.nii", tmp_path / "a.json", relative=True)
    with fs.open(tmp_path / "a.json") as image:
        assert image.shape == VALUES.shape
    _write(tmp_path / "a.nii", "<f4")
    with pytest.raises(ChangedError), fs.open(tmp_path / "a.json") as image:
        image.to_numpy()


def test_what_cannot_be_referred_to(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", VALUES, scales=Scales(0.5, 3.0))
    nibabel.save(nibabel.Nifti1Pair(VALUES, AFFINE), tmp_path / "a.hdr")
    for name in ("a.nii.gz", "a.hdr", "a.img"):
        with pytest.raises(UnknownFormatError, match="convert"):
            fs.virtualize(tmp_path / name)
    (tmp_path / "b.nii").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    with pytest.raises(UnknownFormatError, match="compressed"):
        fs.virtualize(tmp_path / "b.nii")
    colors = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colors, AFFINE), tmp_path / "c.nii")
    with pytest.raises(LayoutNotSupportedError, match="colours"):
        fs.virtualize(tmp_path / "c.nii")
    (tmp_path / "d.nii").write_bytes(b"not an image")
    with pytest.raises(UnknownFormatError, match="magic"):
        fs.virtualize(tmp_path / "d.nii")
    assert not list(tmp_path.glob("*.refs.json"))


def test_large_volumes_are_referred_to_in_parts_and_the_command_line_does_it(
    tmp_path: Path,
) -> None:
    values = np.random.default_rng(1).integers(0, 99, (256, 256, 80, 2)).astype(np.int16)
    write_nifti(tmp_path / "a.nii", values)
    done = CliRunner().invoke(app, ["virtualize", str(tmp_path / "a.nii"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["chunks"] > 2
    with fs.open(tmp_path / "a.nii.refs.json") as image:
        np.testing.assert_array_equal(image[100, 20, 70], values[100, 20, 70])
