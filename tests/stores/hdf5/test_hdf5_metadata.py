"""Attributes and named axes that the HDF5 store writes, judged by h5py and xarray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fmristore_stores.errors import InvalidInputError, MetadataError, NotFoundError
from fmristore_stores.hdf5.store import HDF5Group, HDF5Store
from fmristore_stores.spec import MAX_ATTRIBUTE_DEPTH, STRING
from tests.stores.hdf5.hdf5_helpers import DEFLATE, spec


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file.h5")


def scales(file: h5py.File, name: str, axis: int) -> list[str]:
    return [scale.name for scale in file[name].dims[axis].values()]


# Attributes ----------------------------------------------------------------------------------

ATTRIBUTES: dict[str, Any] = {
    "text": "né",
    "empty text": "",
    "int": -(2**63),
    "large": 2**64 - 1,
    "float": 1.0,
    "true": True,
    "none": None,
    "words": ["a", "", "\U0001f9e0"],
    "ints": [1, 2],
    "large ints": [0, 2**64 - 1],
    "wide ints": [-1, 2**64 - 1],
    "floats": [1.0, 2.0],
    "flags": [True, False],
    "one": [1],
    "empty": [],
    "mixed": [1, "a", None, True, 1.5],
    "numbers": [1, 1.5],
    "nested": {"a": [1, {"b": None}], "é": "é"},
    "matrix": [[1.0, 0.0], [0.0, 1.0]],
    "many words": ["word"] * 5000,
    "long": "x" * 100_000,
    "many": list(range(8000)),
}


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


@pytest.mark.parametrize("kind", ["root", "group", "array", "coordinate"])
def test_attributes_round_trip(path: str, kind: str) -> None:
    def node(root: HDF5Group, *, create: bool) -> Any:
        if kind == "root":
            return root
        if kind == "group":
            return root.create_group("g") if create else root.group("g")
        dims = ("x",) if kind == "coordinate" else ("y",)
        return root.create_array("x", spec((3,), dims=dims)) if create else root.array("x")

    with HDF5Store(path, mode="w") as store:
        node(store.root, create=True).write_attributes({"old": 1, "none": None})
        node(store.root, create=False).write_attributes(ATTRIBUTES)
    with HDF5Store(path, mode="r") as store:
        assert same(
            dict(sorted(ATTRIBUTES.items())), node(store.root, create=False).read_attributes()
        )


def test_attributes_as_h5py_shows_them(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.write_attributes(ATTRIBUTES)
    with h5py.File(path) as file:
        attributes = file.attrs
        assert attributes["text"].decode() == "né"
        assert attributes.get_id("text").dtype == h5py.string_dtype("utf-8", 3)
        assert attributes["ints"].dtype == np.int64
        assert attributes["large"].dtype == np.uint64
        assert attributes["true"].dtype == np.bool_
        assert attributes["empty"].shape == (0,)
        assert [text.decode() for text in attributes["words"]] == ATTRIBUTES["words"]
        assert attributes["none"] == b"null"
        assert {text.decode() for text in attributes["_json"]} == {
            "none", "mixed", "numbers", "nested", "matrix", "many words", "wide ints",
        }  # fmt: skip
        assert attributes["long"] == ATTRIBUTES["long"]  # too long for the header of an object


def test_text_of_variable_length_where_it_is_asked_for(path: str) -> None:
    """A file that is changed keeps its kind of text."""
    with HDF5Store(path, mode="w", variable_text=True) as store:
        store.root.write_attributes(ATTRIBUTES)
        store.root.create_array("0", spec((2,), dims=("x",)), {"text": "a"})
    with HDF5Store(path, mode="r+") as store:
        store.root.array("0").write_attributes({"text": "b"})
        store.root.create_group("g", {"text": "é"})
    with h5py.File(path) as file:
        for item, text in ((file, "né"), (file["0"], "b"), (file["g"], "é")):
            assert item.attrs.get_id("text").dtype == h5py.string_dtype()
            assert item.attrs["text"] == text
        assert set(file["0"].attrs) == {"text", "DIMENSION_LABELS", "DIMENSION_LIST"}
    with HDF5Store(path, mode="r") as store:
        assert store.root.array("0").spec.dims == ("x",)


def test_what_is_written_is_read_without_a_global_heap(path: str) -> None:
    """Attributes, axes and values; not text in arrays, which other readers want there."""
    texts = {name: value for name, value in ATTRIBUTES.items() if not name.startswith("long")}
    with HDF5Store(path, mode="w") as store:
        store.root.write_attributes(texts)
        store.root.create_array("0", spec((2, 3), dims=("y", "")), texts)
        store.root.create_array("y", spec((2,), dims=("y",)))
        store.root.create_array("names", spec((2,), STRING, dims=("y",))).write(None, ["a", "b"])
    with HDF5Store(path, mode="r") as store:
        assert same(store.root.read_attributes(), texts)
        array = store.root.array("0")
        assert array.spec.dims == ("y", "")
        assert same(array.read_attributes(), texts)
        assert array.read().shape == (2, 3)
        assert store.root.array("y").spec.dims == ("y",)
        assert not store._session.has_second_handle
        assert store.root.array("names").read().tolist() == ["a", "b"]
        assert store._session.has_second_handle


def test_padding_of_fixed_length_text_is_no_text(path: str) -> None:
    """As C, Fortran and numpy pad it."""
    with h5py.File(path, "w") as file:
        for name, padding, stored in (
            ("term", h5py.h5t.STR_NULLTERM, b"ab\x00cd"),
            ("null", h5py.h5t.STR_NULLPAD, b"ab\x00\x00\x00"),
            ("space", h5py.h5t.STR_SPACEPAD, b"ab   "),
        ):
            kind = h5py.h5t.C_S1.copy()
            kind.set_size(5)
            kind.set_strpad(padding)
            scalar = h5py.h5s.create(h5py.h5s.SCALAR)
            attribute = h5py.h5a.create(file.id, name.encode(), kind, scalar)
            attribute.write(np.array(stored, "S5"), mtype=kind)
    with HDF5Store(path, mode="r") as store:
        assert store.root.read_attributes() == {"term": "ab", "null": "ab", "space": "ab"}


def test_more_attributes_than_fit_the_header_of_old_files(path: str) -> None:
    for round_number in range(3):
        with HDF5Store(path, mode="w" if round_number == 0 else "r+") as store:
            if round_number == 0:
                store.root.create_group("g")
                store.root.create_array("0", spec((2,)))
            nodes: list[Any] = [store.root, store.root.group("g"), store.root.array("0")]
            for node in nodes:
                node.write_attributes({f"a{i}": [i + round_number] * 900 for i in range(40)})
    with h5py.File(path, "r+") as file:
        for item in (file, file["g"], file["0"]):
            assert item.attrs["a39"].tolist() == [41] * 900
            item.attrs["a12"] = 1
            assert len(set(item.attrs) - {"DIMENSION_LABELS"}) == 40


@pytest.mark.parametrize("kind", ["group", "array", "scale"])
def test_attribute_names_that_hdf5_needs_are_escaped(path: str, kind: str) -> None:
    names = (
        "_json CLASS NAME DIMENSION_LIST REFERENCE_LIST DIMENSION_LABELS _nc3_strict _user:CLASS"
    )
    attributes: dict[str, Any] = {name: [1, None] for name in names.split()}
    attributes["CLASS"] = "DIMENSION_SCALE"
    with HDF5Store(path, mode="w") as store:
        if kind == "group":
            node: Any = store.root.create_group("x", attributes)
        else:
            dims = ("x",) if kind == "scale" else ("y",)
            node = store.root.create_array("x", spec((3,), dims=dims), attributes)
            store.root.create_array("0", spec((3,), dims=("x",)))
        assert node.read_attributes() == attributes
        node.write_attributes({"a": 1})
        assert node.read_attributes() == {"a": 1}
    with h5py.File(path) as file:
        assert kind == "group" or file["x"].is_scale == (kind == "scale")
        assert kind != "scale" or scales(file, "0", 0) == ["/x"]


# Dimensions ----------------------------------------------------------------------------------


def test_named_axes_without_coordinates_get_hidden_scales(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.create_array("0", spec((4, 3), dims=("t", "x")))
        store.root.create_array("1", spec((3, 5), dims=("x", "")))
        assert list(store.root.children()) == ["0", "1"]
        assert store.root.array("1").spec.dims == ("x", "")
        with pytest.raises(NotFoundError):
            store.root.remove("x")
        with pytest.raises(NotFoundError):
            store.root.array("x")
    with h5py.File(path) as file:
        assert [dim.label for dim in file["0"].dims] == ["t", "x"]
        assert scales(file, "1", 0) == ["/x"]
        assert file["x"].id.get_storage_size() == 0
        assert file["x"].attrs["NAME"].decode() == (
            "This is a netCDF dimension but not a netCDF variable.          3"
        )


def test_xarray_sees_dimensions_and_coordinates(path: str) -> None:
    xarray = pytest.importorskip("xarray")
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", spec((4, 3), dims=("t", "x"), codecs=DEFLATE))
        array.write(None, np.arange(12).reshape(4, 3))
        seconds = store.root.create_array("t", spec((4,), "f8", dims=("t",)), {"units": "mm"})
        seconds.write(None, np.arange(4) * 1.5)
        store.root.create_array("names", spec((2,), STRING, dims=("label",))).write(None, "ab")
        store.root.create_array("none", spec((0, 3), dims=("empty", "x")))
        store.root.link("data", "0")
    with xarray.open_dataset(path, engine="h5netcdf") as found:
        assert found["0"].dims == ("t", "x")
        assert found["data"].dims == ("t", "x")
        assert found["none"].sizes == {"empty": 0, "x": 3}
        assert dict(found.sizes) == {"t": 4, "x": 3, "label": 2, "empty": 0}
        assert found["t"].values.tolist() == [0, 1.5, 3, 4.5]
        assert found["0"].sel(t=3.0).values.tolist() == [6, 7, 8]


@pytest.mark.parametrize("first", ["coordinate", "array"])
def test_a_coordinate_array_is_the_scale_whichever_came_first(path: str, first: str) -> None:
    coordinate: Callable[[HDF5Group], Any] = lambda g: g.create_array(  # noqa: E731
        "t", spec((4,), "f8", dims=("t",)), {"units": "s"}
    )
    array: Callable[[HDF5Group], Any] = lambda g: g.create_array(  # noqa: E731
        "0", spec((4, 3), dims=("t", "x"))
    )
    with HDF5Store(path, mode="w") as store:
        for create in (coordinate, array) if first == "coordinate" else (array, coordinate):
            create(store.root)
        assert list(store.root.children()) == ["0", "t"]
        assert store.root.array("t").read_attributes() == {"units": "s"}
    with h5py.File(path) as file:
        assert scales(file, "0", 0) == ["/t"]
        assert file["t"].attrs["NAME"].decode() == "t"
        assert len(file["t"].attrs["REFERENCE_LIST"]) == 1


def test_a_name_taken_by_something_else_leaves_the_label(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        root = store.root
        root.create_array("short", spec((2,), dims=("t",)))
        root.create_array("0", spec((4,), dims=("t",)))
        root.create_group("x")
        root.create_array("1", spec((4, 3), dims=("x", "with/slash")))
        root.create_array("2", spec((4, 4), dims=("2", "y")))
        root.create_group("y")
        for name, dims in [("0", ("t",)), ("1", ("x", "with/slash")), ("2", ("2", "y"))]:
            assert root.array(name).spec.dims == dims
        with pytest.raises(InvalidInputError):
            root.create_array("3", spec((4,), dims=("n\x00l",)))
        assert list(root.children()) == ["0", "1", "2", "short", "x", "y"]
    with h5py.File(path) as file:
        assert scales(file, "short", 0) == ["/t"]
        assert [scales(file, *at) for at in [("0", 0), ("1", 0), ("2", 0), ("2", 1)]] == [[]] * 4


def test_removing_leaves_no_dangling_references(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        root = store.root
        root.create_array("0", spec((4, 3), dims=("t", "x")))
        root.create_array("1", spec((4, 3), dims=("t", "x")))
        root.create_array("t", spec((4,), dims=("t",)))
        group = root.create_group("g")
        group.create_array("0", spec((4,), dims=("t",)))
        root.remove("0")
        root.remove("t")
        root.remove("g")
        assert list(root.children()) == ["1"]
        assert root.array("1").spec.dims == ("t", "x")
    with h5py.File(path) as file:
        assert set(file) == {"1", "t", "x"}
        for name in ("t", "x"):
            users = file[name].attrs["REFERENCE_LIST"]
            assert [(file[ref].name, axis) for ref, axis in users] == [("/1", "tx".index(name))]
        assert scales(file, "1", 0) == ["/t"]
    with HDF5Store(path, mode="r+") as store:
        store.root.remove("1")
    with h5py.File(path) as file:
        assert set(file) == set()


@pytest.mark.parametrize("depth", [MAX_ATTRIBUTE_DEPTH + 1, 900, 100_000])
def test_json_text_that_is_nested_too_deep(path: str, depth: int) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["x"] = '{"a": ' + "[" * depth + "]" * depth + "}"
        file.attrs["_json"] = ["x"]
    with HDF5Store(path, mode="r") as store, pytest.raises(MetadataError, match="'x'"):
        store.root.read_attributes()
