"""What the HDF5 store writes, judged by plain h5py and by xarray."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fmristore_stores.codecs import PRESETS, decode, encode, preset
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    CodecError,
    CorruptDataError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
    ReadOnlyError,
    SelectionError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.hdf5 import HDF5Group, HDF5Store
from fmristore_stores.protocol import Capability, Child
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout, CodecSpec

DEFLATE = (CodecSpec.of("deflate", level=4),)
BLOSC = preset("dual", np.dtype("i2"))


def spec(
    shape: tuple[int, ...],
    dtype: Any = "i2",
    *,
    chunks: tuple[int, ...] | None = None,
    dims: tuple[str, ...] = (),
    codecs: tuple[CodecSpec, ...] = (),
    fill: Any = None,
    order: tuple[int, ...] = (),
    shards: tuple[int, ...] | None = None,
) -> ArraySpec:
    return ArraySpec(
        shape=shape,
        dtype=np.dtype(dtype),
        dims=dims,
        layout=ChunkLayout(
            chunks=chunks or tuple(max(n, 1) for n in shape), order=order, shards=shards
        ),
        codecs=codecs,
        fill_value=fill,
    )


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file.h5")


def scales(file: h5py.File, name: str, axis: int) -> list[str]:
    return [scale.name for scale in file[name].dims[axis].values()]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
        check=False,
    )


# Arrays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", list(PRESETS))
@pytest.mark.parametrize("dtype", ["bool", "i1", "u8", "f2", "f8", "c8", "c16"])
def test_every_dtype_and_preset_reads_back_through_h5py_and_chunk_by_chunk(
    path: str, dtype: str, codec: str
) -> None:
    values = (np.arange(35).reshape(5, 7) % 2).astype(dtype)
    wanted = spec((5, 7), dtype, chunks=(2, 3), codecs=preset(codec, np.dtype(dtype)))
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", wanted)
        assert array.spec == wanted
        array.write(None, values)
    import hdf5plugin  # noqa: F401

    with h5py.File(path) as file:
        assert file["0"].dtype == np.dtype(dtype)
        assert file["0"].chunks == (2, 3)
        np.testing.assert_array_equal(file["0"][...], values)
    with HDF5Store(path, mode="r") as store:
        again = store.root.array("0")
        assert again.spec == wanted
        assert Capability.CHUNK_REFS in again.capabilities
        keys = [(i, j) for i in range(3) for j in range(3)]
        refs = [ref for ref in again.refs(keys) if ref is not None]
        assert len(refs) == 9
        for (i, j), ref, data in zip(
            keys, refs, again.fetch([ref.range for ref in refs]), strict=True
        ):
            chunk = decode(wanted.codecs, data, wanted.chunk_nbytes, skip=ref.skip)
            part = values[2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
            found = np.frombuffer(chunk, dtype).reshape(2, 3)
            np.testing.assert_array_equal(found[: part.shape[0], : part.shape[1]], part)


@pytest.mark.parametrize(
    ("wanted", "chunked"),
    [
        (spec((5, 7)), False),
        (spec((5, 7), chunks=(5, 1)), True),
        (spec((5, 7), codecs=DEFLATE), True),
        (spec(()), False),
        (spec((0, 3)), False),
        (spec((0, 3), codecs=DEFLATE), True),
        (spec((4, 0), chunks=(2, 1)), True),
    ],
    ids=str,
)
def test_storage_follows_the_layout(path: str, wanted: ArraySpec, *, chunked: bool) -> None:
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", wanted)
        assert array.spec == wanted
        assert (Capability.RAW_WRITE in array.capabilities) == chunked
        array.write(None, 1)
    with h5py.File(path) as file:
        assert (file["0"].chunks is not None) == chunked
        assert file["0"].shape == wanted.shape
        assert (file["0"][...] == 1).all()
    with HDF5Store(path, mode="r") as store:
        assert store.root.array("0").spec == wanted
        assert store.root.array("0").read().shape == wanted.shape


def test_regions_with_steps_zero_lengths_and_scalars(path: str) -> None:
    values = np.arange(60, dtype="f4").reshape(5, 12)
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", spec((5, 12), "f4", chunks=(2, 5), codecs=DEFLATE))
        array.write(None, values)
        for region in [
            (slice(0, 5, 2), slice(1, 12, 3)),
            (slice(2, 2), slice(0, 12)),
            (slice(4, 5), slice(11, 12)),
        ]:
            np.testing.assert_array_equal(array.read(region), values[region])
        out = np.zeros((12, 5), "f4").T
        assert array.read(None, out) is out
        np.testing.assert_array_equal(out, values)
        array.write((slice(0, 5, 2), slice(0, 12, 4)), [[1, 2, 3]])
        assert array.read()[::2, ::4].tolist() == [[1, 2, 3]] * 3
        with pytest.raises(SelectionError):
            array.read((slice(0, 6), slice(0, 12)))
        with pytest.raises(InvalidInputError):
            array.read(None, np.zeros((5, 12), "f8"))
        with pytest.raises(InvalidInputError):
            array.write(None, np.zeros(7))
        number = store.root.create_array("n", spec((), "f8", fill=2.5))
        assert number.read() == 2.5
        number.write(None, 4)
        assert number.read().shape == ()
        assert number.read()[()] == 4


def test_fill_values(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.create_array("nan", spec((2,), "f8", fill=np.nan, codecs=DEFLATE))
        store.root.create_array("word", spec((2,), STRING, fill="né"))
        store.root.create_array("none", spec((2,), "u1"))
        assert store.root.array("none").spec.fill_value is None
    with h5py.File(path) as file:
        assert np.isnan(file["nan"][...]).all()
        assert file["word"].asstr()[0] == "né"
    with HDF5Store(path, mode="r") as store:
        assert store.root.array("word").spec.fill == "né"
        assert store.root.array("word").read().tolist() == ["né", "né"]


@pytest.mark.parametrize(
    "codecs", [(), (CodecSpec.of("shuffle", elementsize=16), *DEFLATE)], ids=len
)
def test_text(path: str, codecs: tuple[CodecSpec, ...]) -> None:
    words = np.array([["a", "", "é"], ["\U0001f9e0", "x" * 5000, " b "]], STRING)
    with HDF5Store(path, mode="w") as store:
        wanted = spec((2, 3), STRING, chunks=(1, 3), codecs=codecs)
        array = store.root.create_array("0", wanted)
        assert array.spec == wanted
        assert array.capabilities & (Capability.RAW_WRITE | Capability.CHUNK_REFS) == (
            Capability.NONE
        )
        array.write(None, words)
        array.write((slice(0, 1), slice(0, 2)), np.array([["b", "c"]]))
        for bad in ["nul\x00", "n\x00l", "\ud800"]:
            with pytest.raises(InvalidInputError):
                array.write(None, [[bad] * 3] * 2)
        assert array.read((slice(0, 2), slice(2, 3))).tolist() == [["é"], [" b "]]
        out = np.empty((2, 3), STRING)
        assert array.read(None, out) is out
        assert out[0].tolist() == ["b", "c", "é"]
    with h5py.File(path) as file:
        assert h5py.check_string_dtype(file["0"].dtype) == ("utf-8", None)
        assert file["0"].asstr()[1].tolist() == words[1].tolist()


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (spec((8, 8), chunks=(2, 2), shards=(4, 4)), "shards"),
        (spec((8, 8), chunks=(2, 2), order=(1, 0)), "permute"),
        (spec((8, 8), chunks=(9, 2)), "clip"),
        (spec((), codecs=DEFLATE), "single number"),
        (spec((2**33,), "u1", chunks=(2**32,)), "4 GiB"),
        (spec((8,), "i4", codecs=(CodecSpec.of("shuffle", elementsize=2),)), "elements of 4"),
    ],
)
def test_layouts_that_hdf5_does_not_have_are_refused(
    path: str, wanted: ArraySpec, text: str
) -> None:
    with HDF5Store(path, mode="w") as store:
        with pytest.raises(LayoutNotSupportedError, match=text):
            store.root.create_array("0", wanted)
        with pytest.raises(CodecError):
            store.root.create_array("0", spec((8,), codecs=(CodecSpec.of("crc32c"),)))
        assert store.root.children() == {}


# Encoded chunks and plugins ------------------------------------------------------------------


def test_encoded_chunks_are_stored_as_given(path: str) -> None:
    values = np.arange(12, dtype="i2").reshape(4, 3)
    with HDF5Store(path, mode="w") as store:
        array = store.root.create_array("0", spec((4, 3), chunks=(2, 3), codecs=BLOSC))
        array.write_encoded((1, 0), [encode(BLOSC, values[2:])])
        array.write_encoded((0, 0), [None])
        with pytest.raises(SelectionError):
            array.write_encoded((2, 0), [b"x"])
        with pytest.raises(InvalidInputError):
            array.write_encoded((0, 0), [b"x", b"y"])
        with pytest.raises(LayoutNotSupportedError):
            array.refs([(0, 0)])
        plain = store.root.create_array("plain", spec((4, 3)))
        with pytest.raises(LayoutNotSupportedError):
            plain.write_encoded((0, 0), [b"x"])
    with HDF5Store(path, mode="r") as store:
        array = store.root.array("0")
        missing, found = array.refs([(0, 0), (1, 0)])
        assert missing is None
        assert found is not None
        assert bytes(array.fetch([found.range])[0]) == bytes(encode(BLOSC, values[2:]))
        np.testing.assert_array_equal(array.read(), np.vstack([np.zeros((2, 3)), values[2:]]))
        with pytest.raises(SelectionError):
            array.refs([(0, 1)])
        with pytest.raises(SelectionError):
            array.refs([(0,)])
        with pytest.raises(ReadOnlyError):
            array.write_encoded((0, 0), [b"x"])


def test_contiguous_arrays_are_one_chunk(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.create_array("0", spec((4, 3))).write(None, np.arange(12).reshape(4, 3))
        store.root.create_array("late", spec((4, 3)))
    with HDF5Store(path, mode="r") as store:
        array = store.root.array("0")
        (ref,) = array.refs([(0, 0)])
        assert ref is not None
        assert np.frombuffer(array.fetch([ref.range])[0], "i2").tolist() == list(range(12))
        assert Capability.CHUNK_REFS not in store.root.array("late").capabilities
        with pytest.raises(CorruptDataError, match="truncated"):
            array.fetch([ref.range._replace(offset=10**6)])


def test_a_plugin_that_appears_after_creation_does_not_damage_the_header(path: str) -> None:
    code = """
        import sys
        import numpy as np
        from fmristore_stores.codecs import preset
        from fmristore_stores.hdf5 import HDF5Store
        from fmristore_stores.spec import ArraySpec, ChunkLayout

        with HDF5Store(sys.argv[1], mode="w") as store:
            codecs = preset("dual", np.dtype("i2"))
            layout = ChunkLayout(chunks=(2, 4))
            spec = ArraySpec(
                shape=(5, 4), dtype="i2", dims=("t", "x"), layout=layout, codecs=codecs
            )
            array = store.root.create_array("0", spec)
            assert "hdf5plugin" not in sys.modules
            array.write(None, 3)
            assert "hdf5plugin" in sys.modules
            array.write_attributes({f"a{i}": i for i in range(20)})
    """
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr
    with HDF5Store(path, mode="r") as store:
        assert (store.root.array("0").read() == 3).all()
        assert len(store.root.array("0").read_attributes()) == 20


def test_without_the_plugin_chunks_are_copied_but_not_coded(path: str) -> None:
    code = """
        import sys
        sys.modules["hdf5plugin"] = None
        import numpy as np
        from fmristore_stores.codecs import encode, preset
        from fmristore_stores.errors import CodecError
        from fmristore_stores.hdf5 import HDF5Store
        from fmristore_stores.spec import ArraySpec, ChunkLayout

        codecs = preset("dual", np.dtype("i2"))
        with HDF5Store(sys.argv[1], mode="w") as store:
            layout = ChunkLayout(chunks=(2, 4))
            spec = ArraySpec(shape=(4, 4), dtype="i2", layout=layout, codecs=codecs)
            array = store.root.create_array("0", spec)
            array.write_encoded((1, 0), [encode(codecs, np.full((2, 4), 7, "i2"))])
            for action in (lambda: array.read(), lambda: array.write(None, 3)):
                try:
                    action()
                except CodecError as error:
                    assert "32001 (blosc)" in str(error)
                    assert 'pip install "fmristore[hdf5-filters]"' in str(error)
                else:
                    raise SystemExit("not refused")
    """
    done = run_python(code, path)
    assert done.returncode == 0, done.stderr
    with HDF5Store(path, mode="r") as store:
        assert store.root.array("0").read()[:, 0].tolist() == [0, 0, 7, 7]


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
        assert same(dict(sorted(ATTRIBUTES.items())), node(store.root, create=False).read_attributes())


def test_attributes_as_h5py_shows_them(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.write_attributes(ATTRIBUTES)
    with h5py.File(path) as file:
        attributes = file.attrs
        assert attributes["text"] == "né"
        assert attributes.get_id("text").dtype == h5py.string_dtype()
        assert attributes["ints"].dtype == np.int64
        assert attributes["large"].dtype == np.uint64
        assert attributes["true"].dtype == np.bool_
        assert attributes["empty"].shape == (0,)
        assert attributes["words"].tolist() == ATTRIBUTES["words"]
        assert attributes["none"] == "null"
        assert set(attributes["_json"]) == {
            "none", "mixed", "numbers", "nested", "matrix", "many words", "wide ints",
        }  # fmt: skip


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
    names = "_json CLASS NAME DIMENSION_LIST REFERENCE_LIST DIMENSION_LABELS _nc3_strict _user:CLASS"
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


# Groups, links, the store --------------------------------------------------------------------


def test_links_and_names(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        root = store.root
        root.create_array("z", spec((2,)))
        group = root.create_group("a", {"n": 1})
        group.create_array("deep", spec((2,))).write(None, [1, 2])
        root.link("data", "a/deep")
        assert root.children() == {
            "a": Child("group"),
            "data": Child("link", "a/deep"),
            "z": Child("array"),
        }
        assert group.children() == {"deep": Child("array")}
        assert root.array("data").read().tolist() == [1, 2]
        with pytest.raises(InvalidInputError):
            group.link("up", "a")
        with pytest.raises(NotFoundError):
            root.link("b", "nowhere")
        for name in ("a", "data"):
            with pytest.raises(AlreadyExistsError):
                root.create_group(name)
        for bad in ("", ".", "..", "a/b", "n\x00l"):
            with pytest.raises(InvalidInputError):
                root.create_group(bad)
        root.remove("a")
        assert root.children()["data"] == Child("array")
        for wrong in ("data/x", "../z", "/z", "z/", "", "nope"):
            with pytest.raises(NotFoundError):
                root.array(wrong)
        with pytest.raises(NotFoundError, match="'data', 'z'"):
            root.array("nope")
        with pytest.raises(NotFoundError, match="array has that name"):
            root.group("z")
    with h5py.File(path) as file:
        assert file["/"].id.get_create_plist().get_link_creation_order()
        assert list(file["/"].id) == [b"z", b"data"]


def test_a_closed_store_refuses_everything(path: str) -> None:
    store = HDF5Store(path, mode="w")
    root = store.root
    array = root.create_array("0", spec((2,), chunks=(1,)))
    store.close()
    store.close()
    assert store.closed
    attempts: list[Callable[[], Any]] = [
        lambda: store.root,
        root.children,
        root.read_attributes,
        lambda: root.write_attributes({}),
        lambda: root.array("0"),
        lambda: root.group("0"),
        lambda: root.create_group("g"),
        lambda: root.remove("0"),
        lambda: root.link("1", "0"),
        array.read,
        lambda: array.write(None, 1),
        array.read_attributes,
        lambda: array.refs([(0,)]),
        lambda: array.fetch([]),
        lambda: array.write_encoded((0,), [b""]),
    ]
    for attempt in attempts:
        with pytest.raises(ClosedError):
            attempt()


def test_opening_what_is_not_there_or_not_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with pytest.raises(NotFoundError):
        HDF5Store(str(path), mode="r")
    with pytest.raises(NotFoundError):
        HDF5Store(str(tmp_path / "no" / "file.h5"), mode="w")
    with pytest.raises(UnknownFormatError):
        HDF5Store(str(tmp_path), mode="r")
    path.write_bytes(b"something else" * 100)
    with pytest.raises(UnknownFormatError, match=r"file\.h5"):
        HDF5Store(str(path), mode="r")
    path.unlink()
    with HDF5Store(str(path), mode="w") as store:
        store.root.create_array("0", spec((1000,))).write(None, 1)
        with pytest.raises(StorageError, match="in use"):
            HDF5Store(str(path), mode="r+")
    with pytest.raises(AlreadyExistsError):
        HDF5Store(str(path), mode="w")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptDataError, match="truncated"):
        HDF5Store(str(path), mode="r", url="s3://bucket/file.h5")


def test_a_file_that_another_process_writes_can_be_read_but_not_changed(path: str) -> None:
    code = """
        import sys
        from fmristore_stores.errors import StorageError
        from fmristore_stores.hdf5 import HDF5Store

        print(list(HDF5Store(sys.argv[1], mode="r").root.children()))
        try:
            HDF5Store(sys.argv[1], mode="r+")
        except StorageError as error:
            print("in use" in str(error))
    """
    with HDF5Store(path, mode="w") as store:
        store.root.create_group("g")
        store.close()
    with HDF5Store(path, mode="r+"):
        done = run_python(code, path)
    assert done.stdout.split("\n")[:2] == ["['g']", "True"], done.stderr


def test_hidden_files_of_the_layout_read_only(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        store.root.create_array("0", spec((2,)))
        assert store.capabilities == (
            Capability.WRITE | Capability.RAW_WRITE | Capability.HARD_LINKS
        )
    with HDF5Store(path, mode="r") as store:
        assert store.capabilities == Capability.CHUNK_REFS | Capability.HARD_LINKS
        root = store.root
        for attempt in (
            lambda: root.create_group("g"),
            lambda: root.create_array("1", spec((2,))),
            lambda: root.remove("0"),
            lambda: root.link("1", "0"),
            lambda: root.write_attributes({}),
            lambda: root.array("0").write(None, 1),
        ):
            with pytest.raises(ReadOnlyError):
                attempt()
