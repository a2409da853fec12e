"""Volumes and runs of the R package: its files are read, and files are written for it."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel as untyped_nibabel
import numpy as np
import pytest
import xarray

import fmristore as fs
from fmristore.formats.opening import open_handle
from fmristore_stores.errors import (
    FmristoreError,
    InvalidInputError,
    MetadataError,
    UnknownFormatError,
)
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray
from tests.images import load_npz

nibabel: Any = untyped_nibabel

AFFINE = np.array([[-2.0, 0.1, 0, 30], [0, 2.5, -0.2, -40], [0.1, 0, 3.0, -20], [0, 0, 0, 1]])
IMAGES = [
    "neurovec_binary",
    "neurovec_double_c0",
    "neurovec_float_c4",
    "neurovec_float_nbit",
    "neurovec_float_smallchunk",
    "neurovec_float_special",
    "neurovec_int_c9",
    "neurovec_no_affine",
    "neurovec_one_timepoint",
    "neurovec_short_default",
    "neurovec_sparse_as_h5",
    "neurovol_char",
    "neurovol_double_c0",
    "neurovol_float_c4",
    "neurovol_float_default",
    "neurovol_from_logical",
    "neurovol_int_c9",
    "neurovol_short_chunked",
    "neurovol_uint8",
]


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Path:
    """Files that the R package wrote, and what it reads from them."""
    return shared_data / "golden" / "r-fmristore"


def numbers(shape: tuple[int, ...] = (7, 6, 5, 9), dtype: Any = "i2") -> AnyArray:
    """Numbers that are all different where the type allows."""
    count = int(np.prod(shape))
    return (np.arange(count) - count // 3).reshape(shape, order="F").astype(dtype)


def store(url: Path, values: AnyArray, **options: Any) -> Any:
    """Store an array and open it as an image."""
    cls = fs.NeuroVec if values.ndim == 4 else fs.NeuroVol
    return cls.create(values, url, **({"space": AFFINE} | options))


def as_r(path: Path) -> tuple[str, AnyArray, AnyArray]:
    """Class, numbers and affine as the R package finds them: by path and position alone."""
    with h5py.File(path) as file:
        node = file["data"]
        if isinstance(node, h5py.Group):
            node = file["data/elements"]
        (rtype,) = np.ravel(file.attrs["rtype"])
        dim = tuple(file["space/dim"][...].tolist())
        values = node[...].T
        assert values.shape == dim
        affine = file["space/trans"][...].T
        np.testing.assert_array_equal(file["space/origin"][...], affine[:3, 3])
        np.testing.assert_allclose(
            file["space/spacing"][...], np.linalg.norm(affine[:3, :3], axis=0)
        )
        return rtype.decode() if isinstance(rtype, bytes) else rtype, values, affine


# R's files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGES)
def test_r_files_read_as_in_r(golden: Path, name: str) -> None:
    facts = json.loads((golden / f"{name}.expected.json").read_text())["arrays"]
    expected = load_npz(golden / f"{name}.expected.npz")
    full = expected["full"]
    with fs.open(golden / f"{name}.h5") as image:
        assert image.format_name == ("neurovec" if full.ndim == 4 else "neurovol")
        assert image.shape == full.shape == tuple(expected["space_dim"])
        np.testing.assert_array_equal(np.asarray(image).astype("f8"), full)
        np.testing.assert_array_equal(image.affine, expected["space_trans"])
        np.testing.assert_allclose(image.spacing, expected["space_spacing"], rtol=1e-6)
        np.testing.assert_array_equal(image.origin, expected["space_origin"])
        if isinstance(image, fs.NeuroVec):
            np.testing.assert_array_equal(image[..., -1].astype("f8"), expected["volume_last"])
            index = np.array(facts["series_linear"]["index"]["i"]) - 1
            voxels = np.stack(np.unravel_index(index, full.shape[:3], order="F"), axis=1)
            series = image.series(voxels).astype("f8")
            np.testing.assert_array_equal(series, expected["series_linear"].reshape(series.shape))
            voxels = np.array(facts["series_coords"]["index"]["coords"]) - 1
            series = image.series(voxels).astype("f8")
            np.testing.assert_array_equal(series, expected["series_coords"].reshape(series.shape))
        else:
            np.testing.assert_array_equal(image[:, :, 1].astype("f8"), expected["plane_z2"])


@pytest.mark.parametrize("name", ["neurovec_short_default", "neurovec_float_nbit"])
def test_r_files_are_images_in_every_respect(golden: Path, tmp_path: Path, name: str) -> None:
    full = load_npz(golden / f"{name}.expected.npz")["full"]
    with fs.open(golden / f"{name}.h5") as image:
        again = pickle.loads(pickle.dumps(image))
        np.testing.assert_array_equal(again[3, 2, 1].astype("f8"), full[3, 2, 1])
        again.close()
        assert image.tr is None
        assert "7 x 5 x 4 x 11" in repr(image)
        assert image.plan[..., 3].chunks > 0
        image.to_nifti(tmp_path / "back.nii")
        np.testing.assert_array_equal(image.to_nibabel().get_fdata(), full)
    back = nibabel.load(tmp_path / "back.nii")
    np.testing.assert_array_equal(back.get_fdata(), full)
    fs.transcode(golden / f"{name}.h5", tmp_path / "new.zarr")
    fs.transcode(tmp_path / "new.zarr", tmp_path / "again.h5")
    for path in (tmp_path / "new.zarr", tmp_path / "again.h5"):
        with fs.open(path, format="neurovec") as image:
            np.testing.assert_array_equal(np.asarray(image).astype("f8"), full)
    assert fs.verify(golden / f"{name}.h5", deep=True).ok


def test_a_run_may_be_the_node_data_itself(golden: Path, tmp_path: Path) -> None:
    shutil.copy(golden / "neurovec_int_c9.h5", tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5", "r+") as file:
        file.move("data/elements", "elements")
        del file["data"]
        file.move("elements", "data")
        del file.attrs["rtype"]
    with fs.open(tmp_path / "new.h5") as image:
        full = load_npz(golden / "neurovec_int_c9.expected.npz")["full"]
        np.testing.assert_array_equal(image[...], full)


def format_of(path: Path) -> str:
    """Format that a file of R is opened as."""
    with open_handle(Handle(locate(path))) as opened:
        return str(opened.format_name)


def test_every_file_of_r_is_recognised(golden: Path) -> None:
    kinds = {
        "cluster": ("parcellatedmultiscan",),
        "labeled": ("labeledvolumeset",),
        "latent": ("latentneurovec",),
        "neurovec": ("neurovec",),
        "neurovecseq": ("neurovecseq",),
        "neurovol": ("neurovol",),
        "parcel": ("parcellatedscan", "parcellatedscansummary", "parcellatedmultiscan"),
    }
    files = sorted(golden.glob("*.h5"))
    assert files
    for path in files:
        assert format_of(path) in kinds[path.name.split("_")[0]], path.name


@pytest.mark.parametrize("prefix", ["latent_dense_offset", "neurovecseq_float_c4", "neurovol_char"])
def test_files_of_r_are_recognised_without_attributes(
    golden: Path, tmp_path: Path, prefix: str
) -> None:
    (source,) = golden.glob(f"{prefix}*.h5")
    shutil.copy(source, tmp_path / "new.h5")
    kind = format_of(source)
    with h5py.File(tmp_path / "new.h5", "r+") as file:
        for name in list(file.attrs):
            del file.attrs[name]
    assert format_of(tmp_path / "new.h5") == kind


@pytest.mark.parametrize("names", [[], ["data"], ["labels"], ["scans"], ["data", "space"]])
def test_files_of_others_are_not_taken_for_r(tmp_path: Path, names: list[str]) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        for name in names:
            file[name] = np.zeros((3, 3, 3))
    fs.transcode(tmp_path / "other.h5", tmp_path / "other.zarr")
    for path in (tmp_path / "other.h5", tmp_path / "other.zarr"):
        with pytest.raises(UnknownFormatError, match="no format"):
            fs.open(path)


def test_a_format_can_be_insisted_on(golden: Path) -> None:
    with pytest.raises(UnknownFormatError, match="expected format 'neurovec'"):
        fs.open(golden / "neurovol_char.h5", format="neurovec")
    fs.open(golden / "neurovol_char.h5", format="neurovol").close()


def _replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _replace("space/trans", None),
        _replace("space/trans", np.eye(3)),
        _replace("space/trans", np.full((4, 4), np.nan)),
        _replace("space/trans", np.zeros((4, 4))),
        _replace("space/trans", np.zeros((4, 400))),
        _replace("space/trans", "text"),
        _replace("space/dim", [7, 5, 4, 12]),
        _replace("space/dim", [7, 5, 4]),
        _replace("space/dim", "text"),
        _replace("space", None),
        _replace("data/elements", None),
        _replace("data/elements", np.zeros((4, 5))),
        _replace("data/elements", np.zeros((11, 4, 5, 0))),
        _replace("data/elements", np.array([[["text"]]], object)),
        _replace("data/elements", h5py.SoftLink("/data/elements")),
        _replace("data/elements", h5py.ExternalLink("/etc/passwd", "/x")),
        _replace("data", None),
    ],
)
def test_damaged_files_of_r_are_refused(
    golden: Path, tmp_path: Path, change: Callable[[h5py.File], None]
) -> None:
    shutil.copy(golden / "neurovec_int_c9.h5", tmp_path / "bad.h5")
    with h5py.File(tmp_path / "bad.h5", "r+") as file:
        change(file)
    with pytest.raises(FmristoreError) as caught:
        fs.open(tmp_path / "bad.h5")
    assert "bad.h5" in str(caught.value)


# Files of our own that R reads ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("rank", [3, 4])
def test_hdf5_files_are_readable_in_r(tmp_path: Path, dtype: str, rank: int) -> None:
    values = numbers((7, 6, 5, 9)[:rank], dtype)
    store(tmp_path / "new.h5", values).close()
    rtype, found, affine = as_r(tmp_path / "new.h5")
    assert rtype == ("DenseNeuroVec" if rank == 4 else "DenseNeuroVol")
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(affine, AFFINE)
    with h5py.File(tmp_path / "new.h5") as file:
        assert file["0"] == (file["data"] if rank == 4 else file["data/elements"])


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("i2", {"slope": 0.5}),
        ("i2", {"slope": np.linspace(1, 2, 9)}),
        ("i2", {"order": "auto"}),
        ("i2", {"codec": "dual"}),
        ("c8", {}),
        ([("R", "u1"), ("G", "u1"), ("B", "u1")], {}),
    ],
)
def test_images_that_r_would_misread_look_like_none(
    tmp_path: Path, dtype: Any, options: dict[str, Any]
) -> None:
    values = numbers().astype("u1") if isinstance(dtype, list) else numbers(dtype=dtype)
    if isinstance(dtype, list):
        values = np.stack([values] * 3, axis=-1).view(dtype)[..., 0]
    store(tmp_path / "new.h5", values, **options).close()
    with h5py.File(tmp_path / "new.h5") as file:
        assert not {"data", "space"} & set(file)
        assert "rtype" not in file.attrs


@pytest.mark.parametrize(
    ("dtype", "value", "named"),
    [
        ("i8", 2**53 - 1, True),
        ("i8", -(2**53) + 1, True),
        ("i8", 2**53, False),
        ("i8", -(2**53), False),
        ("i8", 2**53 + 1, False),
        ("i8", -(2**63), False),
        ("i4", 2**31 - 1, True),
        ("i4", -(2**31) + 1, True),
        ("i4", -(2**31), False),  # R's NA
        ("u4", 1, False),
        ("u8", 1, False),
    ],
)
@pytest.mark.parametrize("rank", [3, 4])
def test_names_for_r_depend_on_the_integers(
    tmp_path: Path, dtype: str, value: int, named: bool, rank: int
) -> None:
    values = np.zeros((7, 6, 5, 9)[:rank], dtype)
    values[(-1,) * rank] = value
    store(tmp_path / "new.h5", values).close()
    with h5py.File(tmp_path / "new.h5") as file:
        assert {"data", "space"} & set(file) == ({"data", "space"} if named else set())
        assert ("rtype" in file.attrs) is named
    with fs.open(tmp_path / "new.h5") as image:
        np.testing.assert_array_equal(image[...], values)
        if not named:
            return
    np.testing.assert_array_equal(as_r(tmp_path / "new.h5")[1], values)


def test_names_for_r_where_nothing_is_finite(tmp_path: Path) -> None:
    store(tmp_path / "new.h5", np.full((3, 4, 5, 6), np.nan)).close()
    assert np.isnan(as_r(tmp_path / "new.h5")[1]).all()


def test_names_for_r_do_no_harm(tmp_path: Path) -> None:
    values = numbers()
    for rank in (3, 4):
        part = values[..., 0] if rank == 3 else values
        path = tmp_path / f"{rank}.h5"
        store(path, part).close()
        report = fs.verify(path, deep=True)
        assert report.ok
        assert not report.notes
        with xarray.open_dataset(path, engine="h5netcdf") as dataset:
            np.testing.assert_array_equal(dataset["0"].transpose(*"xyzt"[:rank]), part)
        with xarray.open_datatree(path, engine="h5netcdf") as tree:
            assert tree["space/trans"].shape == (4, 4)
        fs.transcode(path, tmp_path / f"{rank}.zarr")
        fs.transcode(tmp_path / f"{rank}.zarr", tmp_path / f"{rank}-back.h5", codec="portable")
        with fs.open(tmp_path / f"{rank}.zarr") as image:
            np.testing.assert_array_equal(image[...], part)
            assert "data" not in image._handle.store.root.children() or rank == 3
        np.testing.assert_array_equal(as_r(tmp_path / f"{rank}-back.h5")[1], part)
        fs.transcode(tmp_path / f"{rank}-back.h5", tmp_path / f"{rank}-again.zarr")
        with fs.open(tmp_path / f"{rank}-again.zarr") as image:
            np.testing.assert_array_equal(image[...], part)


def test_the_name_for_r_goes_where_its_promise_cannot_be_kept(tmp_path: Path) -> None:
    values = numbers((7, 6, 5, 40))
    store(tmp_path / "a.h5", values).close()
    fs.transcode(tmp_path / "a.h5", tmp_path / "b.h5", access="time", codec="dual")
    fs.transcode(tmp_path / "a.h5", tmp_path / "c.zarr", access="time", codec="dual")
    fs.transcode(tmp_path / "c.zarr", tmp_path / "d.h5", codec="keep")
    for name in ("b.h5", "d.h5"):
        with h5py.File(tmp_path / name) as file:
            assert file["0"].shape != (40, 5, 6, 7)
            assert "data" not in file
    for name in ("b.h5", "c.zarr", "d.h5"):
        with fs.open(tmp_path / name) as image:
            np.testing.assert_array_equal(image[...], values)
    fs.transcode(tmp_path / "c.zarr", tmp_path / "e.h5", access="time", codec="portable")
    np.testing.assert_array_equal(as_r(tmp_path / "e.h5")[1], values)


# The profile "r" -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("rank", [3, 4])
def test_the_profile_writes_the_layout_of_r(
    golden: Path, tmp_path: Path, dtype: str, rank: int
) -> None:
    values = numbers((7, 6, 5, 9)[:rank], dtype)
    image = store(tmp_path / "new.h5", values, profile="r")
    np.testing.assert_array_equal(image[...], values)
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.dtype == np.dtype("f8" if dtype == "i8" else dtype)
    image.close()
    model = golden / ("neurovec_float_c4.h5" if rank == 4 else "neurovol_float_c4.h5")
    assert _tree(tmp_path / "new.h5") == _tree(model) - ({"data/elements"} if rank == 4 else set())
    _, found, affine = as_r(tmp_path / "new.h5")
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(affine, AFFINE)
    with h5py.File(tmp_path / "new.h5") as file, h5py.File(model) as other:
        assert file.attrs["rtype"].shape == other.attrs["rtype"].shape
        assert file.attrs["rtype"].tolist() == other.attrs["rtype"].tolist()
        for name in ("dim", "origin", "spacing", "trans"):
            assert file["space"][name].shape == other["space"][name].shape
            assert file["space"][name].dtype == other["space"][name].dtype


def _tree(path: Path) -> set[str]:
    names: list[str] = []
    with h5py.File(path) as file:
        file.visit(names.append)
    return set(names)


@pytest.mark.parametrize("codec", ["portable", "none"])
@pytest.mark.parametrize("slope", [0.25, np.linspace(0.5, 2, 9)])
def test_the_profile_scales_numbers(tmp_path: Path, slope: Any, codec: str) -> None:
    values = numbers()
    options = {"slope": slope, "inter": -3.5, "profile": "r", "codec": codec}
    with store(tmp_path / "new.h5", values, **options) as image:
        expected = values.astype("f4") * np.asarray(slope, "f4") + np.float32(-3.5)
        assert image.dtype == np.float32
        assert image.slope is None
        np.testing.assert_array_equal(image[...], expected)


@pytest.mark.parametrize(
    ("dtype", "extremes"),
    [
        ("u4", [0, 2**32 - 1]),
        ("i8", [-(2**53) + 1, 2**53 - 1]),
        ("u8", [0, 2**53 - 1]),
    ],
)
def test_wide_integers_become_exact_floats(tmp_path: Path, dtype: str, extremes: list[int]) -> None:
    values = abs(numbers()).astype(dtype)
    values[0, 0, 0, :2] = extremes
    with store(tmp_path / "new.h5", values, profile="r") as image:
        assert image.dtype == np.float64
        np.testing.assert_array_equal(image[...].astype(dtype), values)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("i8", 2**53),
        ("i8", -(2**53)),
        ("i8", 2**53 + 1),
        ("i8", -(2**63)),
        ("u8", 2**64 - 1),
        ("i4", -(2**31)),
    ],
)
def test_integers_that_r_does_not_have_are_refused(tmp_path: Path, dtype: str, value: int) -> None:
    values = np.zeros((7, 6, 5, 9), dtype)
    values[3, 2, 1, 8] = value
    with pytest.raises(InvalidInputError, match=f"no whole number {value} in"):
        store(tmp_path / "new.h5", values, profile="r")
    runs = {"a": values[..., :4] * 0, "b": values}
    with pytest.raises(InvalidInputError, match=f"no whole number {value} in"):
        fs.NeuroVecSeq.create(runs, tmp_path / "seq.h5", space=AFFINE, profile="r")
    assert not list(tmp_path.iterdir())


def test_nifti_converts_to_the_layout_of_r(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(numbers(), AFFINE)
    content = bytearray(image.to_bytes())
    struct.pack_into("<2f", content, 112, 0.5, 10.0)
    (tmp_path / "a.nii").write_bytes(content)
    fs.convert(tmp_path / "a.nii", tmp_path / "a.h5", profile="r", max_memory=1 << 20)
    np.testing.assert_array_equal(as_r(tmp_path / "a.h5")[1], numbers() * np.float32(0.5) + 10)


@pytest.mark.parametrize(
    ("name", "dtype", "options", "message"),
    [
        ("a.zarr", "i2", {}, r"end in \.h5"),
        ("a.h5", "i2", {"codec": "dual"}, "plug-in"),
        ("a.h5", "i2", {"codec": "fast", "order": "canonical"}, "plug-in"),
        ("a.h5", "i2", {"order": "auto"}, "position"),
        ("a.h5", "i2", {"profile": "matlab"}, "unknown profile"),
        ("a.h5", "c8", {}, "complex64"),
        ("a.h5", "u8", {}, "no whole number"),
        ("a.h5", [("R", "u1"), ("G", "u1"), ("B", "u1")], {}, "colours"),
    ],
)
def test_what_r_cannot_read_is_refused(
    tmp_path: Path, name: str, dtype: Any, options: dict[str, Any], message: str
) -> None:
    values = numbers((4, 3, 2, 5), "u1") if isinstance(dtype, list) else numbers(dtype=dtype)
    if isinstance(dtype, list):
        values = np.stack([values] * 3, axis=-1).view(dtype)[..., 0]
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(InvalidInputError, match=message):
        store(tmp_path / name, values, overwrite=True, **({"profile": "r"} | options))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"old"


def test_missing_parts_are_named(golden: Path, tmp_path: Path) -> None:
    shutil.copy(golden / "neurovol_char.h5", tmp_path / "bad.h5")
    with h5py.File(tmp_path / "bad.h5", "r+") as file:
        del file["space/trans"]
    with pytest.raises(MetadataError, match="space/trans"):
        fs.open(tmp_path / "bad.h5")
