"""HDF5 files that others wrote."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fmristore_stores.errors import (
    LayoutNotSupportedError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.protocol import Child
from fmristore_stores.spec import STRING
from tests.stores.hdf5.hdf5_helpers import by_references, located

VALUES = np.arange(35).reshape(5, 7)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file.h5")


# Datasets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (2, 3)},
        {"chunks": (2, 3), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (8, 8), "maxshape": (None, None), "compression": "gzip"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["<i2", "<f8", "i1", "?", "<c8", "<f2"])
def test_common_datasets_are_located(
    path: str, dtype: str, options: dict[str, Any], userblock: int
) -> None:
    values = (VALUES % 2).astype(dtype)
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file.create_dataset("0", data=values, **options)
    with HDF5Store(path, mode="r") as store:
        array = store.root.array("0")
        assert located(array)
        np.testing.assert_array_equal(by_references(array), values)
        np.testing.assert_array_equal(array.read(), values)
        assert array.spec.layout.chunks == options.get("chunks", (5, 7))


@pytest.mark.parametrize("dtype", [">i2", ">f8", ">c8", ">u4"])
@pytest.mark.parametrize("chunks", [None, (2, 3)])
def test_big_endian_numbers_are_converted(
    path: str, dtype: str, chunks: tuple[int, ...] | None
) -> None:
    with h5py.File(path, "w") as file:
        fill = None if dtype == ">c8" else 7  # h5py cannot convert that one
        file.create_dataset("0", data=VALUES.astype(dtype), chunks=chunks, fillvalue=fill)
        h5py.h5d.create(file.id, b"byte", h5py.h5t.STD_U8BE, h5py.h5s.create_simple((3,)))
        file["byte"][...] = 5
    with HDF5Store(path, mode="r+") as store:
        array = store.root.array("0")
        assert array.spec.dtype == np.dtype(dtype).newbyteorder("<")
        assert array.spec.fill == (fill or 0)
        array.write((slice(0, 1), slice(0, 1)), 9)
    with HDF5Store(path, mode="r") as store:
        array = store.root.array("0")
        assert not located(array)
        assert array.read().dtype.isnative
        np.testing.assert_array_equal(array.read().flat[1:], VALUES.flat[1:])
        assert array.read()[0, 0] == 9
        assert by_references(store.root.array("byte")).tolist() == [5, 5, 5]
    with h5py.File(path) as file:
        assert file["0"].dtype == dtype


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzf", "chunks": (2, 3)},
        {"scaleoffset": 6, "chunks": (2, 3)},
        {"compression": "szip", "chunks": (2, 4)},
        {"external": [("outside.bin", 0, 1000)]},
    ],
    ids=str,
)
def test_uncommon_storage_is_left_to_hdf5(
    tmp_path: Path, path: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if options.get("compression") == "szip" and not h5py.h5z.filter_avail(4):
        pytest.skip("HDF5 was built without szip")
    with h5py.File(path, "w") as file:
        file.create_dataset("0", data=VALUES.astype("i2"), **options)
    with HDF5Store(path, mode="r") as store:
        array = store.root.array("0")
        assert not located(array)
        with pytest.raises(LayoutNotSupportedError, match="CHUNK_REFS"):
            array.refs([(0, 0)])
        if "external" in options:
            with pytest.raises(LayoutNotSupportedError, match="another file"):
                array.read()
        else:
            assert array.spec.codecs[-1].name.startswith("hdf5:")
            np.testing.assert_array_equal(array.read(), VALUES)


def test_compact_datasets_and_reduced_precision(path: str) -> None:
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_INT16, space, plan)
        narrow = h5py.h5t.STD_I16LE.copy()
        narrow.set_precision(12)
        h5py.h5d.create(file.id, b"narrow", narrow, space)
        h5py.h5d.create(file.id, b"bits", h5py.h5t.STD_B8LE, space)
        h5py.h5d.create(file.id, b"wide bits", h5py.h5t.STD_B16LE, space)
        for name in ("compact", "narrow", "bits"):
            file[name][...] = [1, 2, 3, 4]
    with HDF5Store(path, mode="r") as store:
        for name in ("compact", "narrow", "bits"):
            array = store.root.array(name)
            assert not located(array)
            assert array.read().tolist() == [1, 2, 3, 4]
        assert store.root.array("bits").spec.dtype == np.uint8
        with pytest.raises(LayoutNotSupportedError):
            store.root.array("wide bits")


def test_chunks_that_lack_filters(path: str) -> None:
    with h5py.File(path, "w") as file:
        array = file.create_dataset(
            "0", (4, 4), "<i4", chunks=(2, 4), shuffle=True, compression="gzip"
        )
        array[...] = 7
        array.id.write_direct_chunk((0, 0), np.arange(8, dtype="<i4").tobytes(), 0b11)
    with HDF5Store(path, mode="r") as store:
        refs = store.root.array("0").refs([(0, 0), (1, 0)])
        assert [ref and ref.skip for ref in refs] == [0b11, 0]
        wanted = np.vstack([np.arange(8).reshape(2, 4), np.full((2, 4), 7)])
        np.testing.assert_array_equal(by_references(store.root.array("0")), wanted)


def test_enumerations(path: str) -> None:
    colours = {"RED": 1, "BLUE": -2}
    with h5py.File(path, "w") as file:
        file.create_dataset("little", data=[1, -2], dtype=h5py.enum_dtype(colours, "<i2"))
        file.create_dataset("big", data=[1, -2], dtype=h5py.enum_dtype(colours, ">i2"))
        logical = h5py.enum_dtype({"FALSE": 0, "TRUE": 1, "NA": 2}, "u1")
        file.attrs.create("flag", 1, dtype=logical)
        file.attrs.create("flags", [0, 1, 2], dtype=logical)
        file.attrs.create("colour", -2, dtype=h5py.enum_dtype(colours, "<i2"))
    with HDF5Store(path, mode="r+") as store:
        assert store.root.read_attributes() == {
            "flag": True, "flags": [False, True, None], "colour": -2,
        }  # fmt: skip
        for name in ("little", "big"):
            array = store.root.array(name)
            assert array.spec.dtype == np.int16
            assert array.read().tolist() == [1, -2]
            assert array.read_attributes() == {"_enum": colours}
            array.write((slice(0, 1),), -2)
            array.write_attributes({**array.read_attributes(), "a": 1})
    with h5py.File(path) as file:
        assert h5py.check_enum_dtype(file["big"].dtype) == colours
        assert dict(file["big"].attrs) == {"a": 1}
        assert file["big"][...].tolist() == [-2, -2]
    with HDF5Store(path, mode="r") as store:
        assert by_references(store.root.array("little")).tolist() == [-2, -2]


def test_what_is_neither_numbers_nor_text_is_listed_and_refused(path: str) -> None:
    with h5py.File(path, "w") as file:
        file["compound"] = np.zeros(2, [("a", "f4"), ("b", "i4")])
        file["opaque"] = np.void(b"abc")
        file["null"] = h5py.Empty("f4")
        file["wide"] = np.zeros(2, np.longdouble)
        file["times"] = np.zeros(2, "M8[s]").astype(h5py.opaque_dtype("M8[s]"))
        file.create_dataset("lists", (2,), h5py.vlen_dtype("i4"))
        file.create_dataset("references", (2,), h5py.ref_dtype)
        file.create_dataset("inner", (2,), np.dtype(("i4", (3,))))
        names = set(file)
        file["type"] = np.dtype("i4")
    with HDF5Store(path, mode="r") as store:
        assert store.root.children() == dict.fromkeys(sorted(names), Child("array"))
        for name in names:
            with pytest.raises(LayoutNotSupportedError, match=rf"file\.h5\[/{name}\]"):
                store.root.array(name)
        with pytest.raises(NotFoundError):
            store.root.array("type")


def test_text_of_every_kind(path: str) -> None:
    latin = "é".encode("latin-1")
    with h5py.File(path, "w") as file:
        file["fixed"] = np.array(["né".encode(), b"", latin], "S4")
        file.create_dataset(
            "ascii", data=["né".encode(), b"", latin], dtype=h5py.string_dtype("ascii")
        )
        file.create_dataset("utf8", data="né", dtype=h5py.string_dtype())
        file.create_dataset("unwritten", (2,), dtype=h5py.string_dtype())
        padded = h5py.h5t.FORTRAN_S1.copy()
        padded.set_size(6)
        h5py.h5d.create(file.id, b"fortran", padded, h5py.h5s.create_simple((1,)))
        file["fortran"][...] = b"ab"
    with HDF5Store(path, mode="r+") as store:
        read = {name: store.root.array(name).read().tolist() for name in store.root.children()}
        assert all(store.root.array(name).spec.dtype == STRING for name in read)
        assert read == {
            "fixed": ["né", "", "é"],
            "ascii": ["né", "", "é"],
            "utf8": "né",
            "unwritten": ["", ""],
            "fortran": ["ab"],
        }
        store.root.array("ascii").write((slice(0, 1),), "x")
        assert store.root.array("ascii").read()[0] == "x"
        with pytest.raises(LayoutNotSupportedError):
            store.root.array("fixed").write(None, "x")


# Attributes and names ------------------------------------------------------------------------


def test_attributes_of_every_kind(path: str) -> None:
    with h5py.File(path, "w") as file:
        file["target"] = [1, 2]
        attributes = file.attrs
        attributes["fixed"] = np.bytes_("né".encode())
        attributes.create("ascii", "né".encode(), dtype=h5py.string_dtype("ascii"))
        attributes["latin"] = np.bytes_("é".encode("latin-1"))
        attributes.create("r", ["one"], dtype=h5py.string_dtype("ascii"))
        attributes["single"] = np.array([5], ">i4")
        attributes["matrix"] = np.eye(2, dtype="f4")
        attributes["nan"] = np.array([np.nan, np.inf])
        attributes["empty"] = h5py.Empty("f4")
        attributes["reference"] = file["target"].ref
        attributes.create("references", [file["target"].ref] * 2, dtype=h5py.ref_dtype)
        attributes.create("inner", np.zeros((2, 3)), dtype=np.dtype(("f8", (3,))))
        attributes["_json"] = 5
        attributes["fixed list"] = np.array([[b"a"], [b"b"]])
    with HDF5Store(path, mode="r") as store:
        found = store.root.read_attributes()
    assert math.isnan(found.pop("nan")[0])
    reference = {"_REFERENCE": {"path": "target"}}
    assert found == {
        "fixed": "né",
        "ascii": "né",
        "latin": "é",
        "r": ["one"],
        "single": [5],
        "matrix": [[1.0, 0.0], [0.0, 1.0]],
        "empty": None,
        "reference": reference,
        "references": [reference] * 2,
        "inner": [[0.0] * 3] * 2,
        "_json": 5,
        "fixed list": [["a"], ["b"]],
    }


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.complex64(1),
        np.longdouble(1),
        np.void(b"abc"),
    ],
    ids=repr,
)
def test_attributes_without_a_json_counterpart_are_named(path: str, value: Any) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["odd one"] = value
    with HDF5Store(path, mode="r") as store, pytest.raises(MetadataError, match="odd one"):
        store.root.read_attributes()


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "1" * 10_000])
def test_broken_json_attributes_are_errors(path: str, text: str) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["a"] = text
        file.attrs["_json"] = ["a"]
    with HDF5Store(path, mode="r") as store, pytest.raises(MetadataError, match="'a'"):
        store.root.read_attributes()


def test_odd_names(path: str) -> None:
    names = ["..", "a b", "zarr.json", "\u202e", "back\\slash", "new\nline", "__x"]
    with h5py.File(path, "w") as file:
        for number, name in enumerate(names):
            file[f"g/{name}"] = number
        file.id.link(b"g", b"latin \xe9")
        h5py.h5a.create(file.id, b"\xe9", h5py.h5t.NATIVE_INT8, h5py.h5s.create_simple((1,)))
    with HDF5Store(path, mode="r") as store:
        group = store.root.group("g")
        assert list(group.children()) == sorted(names)
        for number, name in enumerate(names):
            assert group.array(name).read() == number
            assert store.root.array(f"g/{name}").path == f"g/{name}"
        assert "é" in store.root.read_attributes()
        (latin,) = set(store.root.children()) - {"g"}
        assert store.root.group(latin).array("..").read() == 0


# Dimensions ----------------------------------------------------------------------------------


def test_dimensions_of_netcdf_files(path: str) -> None:
    h5netcdf = pytest.importorskip("h5netcdf")
    with h5netcdf.File(path, "w") as file:
        file.dimensions = {"t": 4, "x": 3}
        file.create_variable("t", ("t",), "f8")[:] = np.arange(4)
        file.create_variable("v", ("t", "x"), "i2")[:] = 5
        inner = file.create_group("g")
        inner.create_variable("w", ("x",), "i2")
    with HDF5Store(path, mode="r+") as store:
        root = store.root
        assert list(root.children()) == ["g", "t", "v"]
        assert root.array("v").spec.dims == ("t", "x")
        assert root.array("t").spec.dims == ("t",)
        assert root.array("g/w").spec.dims == ("x",)
        assert root.array("v").read_attributes() == {}
        root.remove("t")
        assert root.array("v").spec.dims == ("t", "x")  # a dimension without coordinates now
        assert list(root.children()) == ["g", "v"]
        root.remove("v")
        root.remove("g")
        assert root.children() == {}


def test_repeated_and_malformed_labels(path: str) -> None:
    with h5py.File(path, "w") as file:
        file["0"] = np.zeros((2, 2))
        file["0"].dims[0].label = file["0"].dims[1].label = "x"
        file["1"] = np.zeros((2, 2))
        file["1"].attrs["DIMENSION_LABELS"] = "text"
        file["1"].attrs["DIMENSION_LIST"] = [1.5, 2.5]
    with HDF5Store(path, mode="r") as store:
        assert store.root.array("0").spec.dims == ("x", "")
        assert store.root.array("1").spec.dims == ("", "")


# Files of the R package ----------------------------------------------------------------------


def test_files_of_the_r_package(shared_data: Path) -> None:
    files = sorted((shared_data / "golden" / "r-fmristore").glob("*.h5"))
    assert files
    for path in files:
        with HDF5Store(str(path), mode="r") as store, h5py.File(path) as file:
            seen = 0

            def compare(name: str, item: Any) -> None:
                nonlocal seen
                if isinstance(item, h5py.Group):
                    assert store.root.group(name).children().keys() == item.keys()
                    store.root.group(name).read_attributes()
                    return
                array = store.root.array(name)
                text = item.dtype.kind == "O"
                wanted = item.asstr("utf-8")[()] if text else item[()]
                read = array.read()
                array.read_attributes()
                assert read.tolist() == np.asarray(wanted).tolist() or np.array_equal(
                    read, wanted, equal_nan=True
                )
                if located(array):
                    assert by_references(array).tobytes() == read.tobytes()
                seen += 1

            file.visititems(compare)
            assert seen


def test_the_doubly_deflated_chunks_of_r(shared_data: Path) -> None:
    path = shared_data / "golden" / "r-fmristore" / "neurovec_float_c4.h5"
    with HDF5Store(str(path), mode="r") as store:
        array = store.root.array("data/elements")
        assert [step.name for step in array.spec.codecs] == ["deflate", "deflate"]
        assert located(array)
    check: Callable[[str], bool] = lambda name: located(  # noqa: E731
        HDF5Store(str(path.with_name(name)), mode="r").root.array("data/elements")
    )
    assert check("neurovec_double_c0.h5")
    assert not check("neurovec_float_nbit.h5")
