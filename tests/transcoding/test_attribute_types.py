"""Attributes of foreign HDF5 files keep their types in HDF5, and what Zarr cannot say is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

import fmristore as fs

EXACT: dict[str, Any] = {
    "int8": np.int8(-3),
    "uint64": np.uint64(2**63),
    "float16": np.float16(1.5),
    "float32": np.float32(0.1),
    "big-endian": np.array(5, ">i4"),
    "one": np.array([7], "i2"),
    "matrix": np.arange(6, dtype="i2").reshape(2, 3),
    "no elements": np.zeros(0, "f4"),
    "nan": np.array([np.nan, np.inf]),
    "boolean": np.array([True, False]),
    "fixed": np.array([b"a", b"bcd"]),
    "variable": np.array(["a", "bcd"], h5py.string_dtype()),
    "text": "kept",
}
"""Attributes that Zarr can hold too, apart from how wide they are."""

ENUM = h5py.enum_dtype({"OFF": 0, "ON": 1}, basetype="i1")
TYPED: dict[str, Any] = {
    "compound": np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
    "complex": np.complex64(1 + 2j),
    "opaque": np.void(b"a\0b"),
    "extended": np.longdouble("1.25"),
}
"""Attributes that JSON has no values for."""


def foreign(path: Path, **attributes: Any) -> Path:
    """A file of other software with these attributes of its root, a group and an array."""
    with h5py.File(path, "w") as file:
        for node in (file, file.create_group("group"), file.create_dataset("group/data", data=[1])):
            for name, value in attributes.items():
                node.attrs[name] = value
    return path


def stored(path: Path, node: str = "/") -> dict[str, Any]:
    """Type, shape and value of each attribute; the JSON bookkeeping of fmristore is none."""
    found = {}
    with h5py.File(path) as file:
        attributes = file[node].attrs
        for name in attributes:
            identifier = attributes.get_id(name)
            found[name] = (identifier.get_type(), identifier.shape, repr(attributes[name]))
    return found


def test_hdf5_keeps_them(tmp_path: Path) -> None:
    source = foreign(
        tmp_path / "a.h5", **EXACT, **TYPED, empty=h5py.Empty("f4"), none=h5py.Empty("S1")
    )
    with h5py.File(source, "r+") as file:
        file.attrs.create("enumeration", 1, dtype=ENUM)
    report = fs.transcode(source, tmp_path / "b.h5")
    assert not report.plan.losses
    for node in ("/", "group", "group/data"):
        assert stored(tmp_path / "b.h5", node) == stored(source, node)


def test_zarr_names_what_it_cannot_say(tmp_path: Path) -> None:
    source = foreign(tmp_path / "a.h5", complex=TYPED["complex"], empty=h5py.Empty("f4"), **EXACT)
    with h5py.File(source, "r+") as file:
        file.attrs.create("enumeration", 1, dtype=ENUM)
    with pytest.raises(fs.errors.LossyError) as caught:
        fs.transcode(source, tmp_path / "b.zarr")
    allow = ["attribute-type", "attributes", "non-finite-attribute"]
    assert f"allow {allow}" in str(caught.value)
    report = fs.transcode(source, tmp_path / "b.zarr", allow=allow)
    said = {loss.reason for loss in report.plan.losses if not loss.path}
    assert any("enumeration" in reason and "OFF, ON" in reason for reason in said)
    assert any("'empty' is empty" in reason for reason in said)
    assert any("'complex' is of type complex64" in reason for reason in said)
    kept: Any = zarr.open_group(tmp_path / "b.zarr", mode="r")["group/data"].attrs.asdict()
    assert kept["text"] == "kept"  # only those that were named are missing
    assert kept["matrix"] == [[0, 1, 2], [3, 4, 5]]
    assert kept.keys() == {*EXACT, "empty"}


def test_an_empty_text_is_one_in_zarr(tmp_path: Path) -> None:
    source = foreign(tmp_path / "a.h5", history=h5py.Empty("S1"))
    fs.transcode(source, tmp_path / "b.zarr")
    assert zarr.open_group(tmp_path / "b.zarr", mode="r").attrs["history"] == ""


@pytest.mark.parametrize("name", TYPED)
def test_only_what_was_allowed_is_left_out(tmp_path: Path, name: str) -> None:
    source = foreign(tmp_path / "a.h5", **{name: TYPED[name]}, text="kept", number=np.int16(5))
    fs.transcode(source, tmp_path / "b.zarr", allow=["attributes"])
    root = zarr.open_group(tmp_path / "b.zarr", mode="r")
    assert dict(root.attrs) == {"text": "kept", "number": 5}


def test_stores_of_this_package_keep_attributes_of_others(tmp_path: Path) -> None:
    source = tmp_path / "a.h5"
    fs.NeuroVol.create(np.zeros((2, 3, 4), "f4"), source, space=np.eye(4)).close()
    with h5py.File(source, "r+") as file:
        file["nifti"].attrs["of others"] = TYPED["compound"]
    fs.transcode(source, tmp_path / "b.h5", access="volume")
    kept = [stored(path, "nifti")["of others"] for path in (source, tmp_path / "b.h5")]
    assert kept[0] == kept[1]
    with fs.open(source) as one, fs.open(tmp_path / "b.h5") as other:
        assert np.array_equal(one, other)


def test_references_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["points to"] = file.create_dataset("data", data=[1]).ref
        kind = np.dtype([("where", h5py.ref_dtype)])
        file.attrs["in a table"] = np.array([(file["data"].ref,)], kind)
    with pytest.raises(fs.errors.LossyError, match=r"\['attributes', 'reference'\]"):
        fs.transcode(tmp_path / "a.h5", tmp_path / "b.h5")
