"""HDF5 files that others wrote, some of them to do harm."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from fmristore_stores.codecs import decode
from fmristore_stores.errors import (
    AccessDeniedError,
    CorruptDataError,
    FmristoreError,
    LayoutNotSupportedError,
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.grid import chunk_region, grid_shape
from fmristore_stores.hdf5 import HDF5Array, HDF5Group, HDF5Store
from fmristore_stores.protocol import Capability, Child
from fmristore_stores.sources import FsspecSource
from fmristore_stores.spec import STRING

VALUES = np.arange(35).reshape(5, 7)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file.h5")


def by_references(array: HDF5Array) -> np.ndarray[Any, Any]:
    """The whole array, from the bytes of its chunks."""
    spec = array.spec
    out = np.full(spec.shape, spec.fill, spec.dtype)
    for key in np.ndindex(grid_shape(spec.shape, spec.layout.chunks)):
        (ref,) = array.refs([key])
        if ref is not None:
            (data,) = array.fetch([ref.range])
            chunk = decode(spec.codecs, data, spec.chunk_nbytes, skip=ref.skip)
            region = chunk_region(key, spec.shape, spec.layout.chunks)
            inside = tuple(slice(0, s.stop - s.start) for s in region)
            out[region] = np.frombuffer(chunk, spec.dtype).reshape(spec.layout.chunks)[inside]
    return out


def located(array: HDF5Array) -> bool:
    return Capability.CHUNK_REFS in array.capabilities


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


def test_encoded_chunks_replace_chunks_that_lack_filters(path: str) -> None:
    with HDF5Store(path, mode="w") as store:
        from fmristore_stores.codecs import encode, preset
        from fmristore_stores.spec import ArraySpec, ChunkLayout

        codecs = preset("dual", np.dtype("f4"))
        layout = ChunkLayout(chunks=(2, 2))
        spec = ArraySpec(
            shape=(3, 2), dtype=np.dtype("f4"), layout=layout, codecs=codecs, fill_value=9
        )
        array = store.root.create_array("0", spec)
        array.write(None, np.random.default_rng(0).random((3, 2)))  # HDF5 gives up on these
        new = np.arange(4, dtype="f4").reshape(2, 2)
        array.write_encoded((0, 0), [encode(codecs, new)])
        array.write_encoded((1, 0), [encode(codecs, new + 1)])
        wanted = [[0, 1], [2, 3], [1, 2]]
        assert array.read().tolist() == wanted
    with HDF5Store(path, mode="r+") as store:
        assert store.root.array("0").read().tolist() == wanted
        store.root.array("0").write_encoded((1, 0), [None])
        assert store.root.array("0").read().tolist() == [*wanted[:2], [9, 9]]
    with HDF5Store(path, mode="r") as store:
        assert by_references(store.root.array("0")).tolist() == [*wanted[:2], [9, 9]]


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
        file.create_dataset("ascii", data=["né".encode(), b"", latin], dtype=h5py.string_dtype("ascii"))
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


# Links ---------------------------------------------------------------------------------------


def test_links_inside_the_file(path: str) -> None:
    with h5py.File(path, "w") as file:
        file["a/b/x"] = [1, 2]
        file["a/soft"] = h5py.SoftLink("b//./x")
        file["absolute"] = h5py.SoftLink("/a/b")
        file["dangling"] = h5py.SoftLink("/a/nowhere")
        file["loop"] = h5py.SoftLink("/pool")
        file["pool"] = h5py.SoftLink("/loop")
        file["zhard"] = file["a/b/x"]
    with HDF5Store(path, mode="r+") as store:
        root = store.root
        assert root.children() == {
            "a": Child("group"),
            "absolute": Child("link", "a/b"),
            "dangling": Child("link", "a/nowhere"),
            "loop": Child("link", "pool"),
            "pool": Child("link", "loop"),
            "zhard": Child("link", "a/b/x"),
        }
        assert root.group("a").children()["soft"] == Child("link", "a/b/x")
        for name in ("a/soft", "absolute/x", "zhard"):
            assert root.array(name).read().tolist() == [1, 2]
        assert root.array("a/soft").path == "a/b/x"
        with pytest.raises(NotFoundError):
            root.array("dangling")
        with pytest.raises(MetadataError, match="do not end"):
            root.array("loop")
        for name in ("absolute", "dangling", "loop"):
            root.remove(name)
        assert root.array("a/b/x").read().tolist() == [1, 2]


def test_cycles_of_hard_links_end(path: str) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("a/b")
        file["a/b/up"] = file["a"]
        file["a/b/root"] = file["/"]
        file["a/self"] = file["a"]

    def walk(group: HDF5Group) -> Iterator[str]:
        for name, child in group.children().items():
            if child.kind == "group":
                yield from walk(group.group(name))
            else:
                yield f"{group.path}/{name}:{child.target}"

    with HDF5Store(path, mode="r") as store:
        assert sorted(walk(store.root)) == ["a/b/root:", "a/b/up:a", "a/self:a"]
        assert store.root.group("a/b/up/b/root/a").children().keys() == {"b", "self"}
    with HDF5Store(path, mode="r+") as store:
        store.root.remove("a")


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_nothing_leads_out_of_the_file(tmp_path: Path, path: str, mode: Any) -> None:
    secret = str(tmp_path / "secret.h5")
    with h5py.File(secret, "w") as file:
        file["g/x"] = np.arange(4.0)
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(4.0)
        file["link"] = h5py.ExternalLink(secret, "/g")
        file["soft"] = h5py.SoftLink("/link/x")
        for name, source in {
            "view": (secret, "g/x"),
            "view by name": (".", "link/x"),
            "nested": (".", "view"),
            "self": (".", "self"),
            "fine": (".", "x"),
            "missing": (".", "nowhere"),
        }.items():
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(*source, (4,))
            file.create_virtual_dataset(name, layout, fillvalue=-1)
        endless = h5py.h5s.create_simple((4,), (h5py.h5s.UNLIMITED,))
        endless.select_hyperslab((0,), (h5py.h5s.UNLIMITED,), (4,), (4,))
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_virtual(endless, b".", b"link/%b", h5py.h5s.create_simple((4,)))
        h5py.h5d.create(file.id, b"pattern", h5py.h5t.NATIVE_DOUBLE, endless, plan)
    with HDF5Store(path, mode=mode) as store:
        root = store.root
        assert root.children()["link"] == Child("link", f"external:{secret}:/g")
        for name in ("link", "link/x", "soft"):
            with pytest.raises(LayoutNotSupportedError, match="not followed"):
                root.array(name)
        for name in ("view", "view by name", "pattern", "nested", "self"):
            array = root.array(name)
            assert not located(array)
            with pytest.raises(LayoutNotSupportedError):
                array.read()
            with pytest.raises(FmristoreError):
                array.write(None, 0)
        assert root.array("fine").read().tolist() == [0, 1, 2, 3]
        assert root.array("missing").read().tolist() == [-1] * 4
        if mode == "r+":
            root.remove("link")
    with h5py.File(secret) as file:
        assert file["g/x"][...].tolist() == [0, 1, 2, 3]


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


# Damage --------------------------------------------------------------------------------------


def test_damaged_chunks_and_tables(path: str) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("0", data=VALUES, chunks=(2, 3), compression="gzip")
        found: list[Any] = []
        file["0"].id.chunk_iter(found.append)
        first, last = found[0], found[-1]
    content = bytearray(Path(path).read_bytes())
    damaged = content.copy()
    damaged[first.byte_offset + 4] ^= 255
    Path(path).write_bytes(damaged)
    with HDF5Store(path, mode="r") as store, pytest.raises(CorruptDataError, match=r"\[/0\]"):
        store.root.array("0").read()
    where = content.index(last.byte_offset.to_bytes(8, "little"))
    for address in (len(content) - 1, 2**62, 2**64 - 2):
        content[where : where + 8] = address.to_bytes(8, "little")
        Path(path).write_bytes(content)
        with HDF5Store(path, mode="r") as store:
            with pytest.raises(CorruptDataError):
                store.root.array("0").refs([(0, 0)])
            with pytest.raises(CorruptDataError):
                store.root.array("0").read()


# Remote files --------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [None, "page"])
def test_files_behind_a_file_object(path: str, strategy: str | None) -> None:
    options = {"fs_strategy": "page", "fs_page_size": 65536} if strategy else {}
    with h5py.File(path, "w", **options) as file:
        file.create_dataset("0", data=VALUES, chunks=(2, 3), compression="gzip")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/file.h5", Path(path).read_bytes())
    file = Path(path).open("rb")  # noqa: SIM115 - the store closes it
    source = FsspecSource(memory)
    store = HDF5Store(
        "/bucket/file.h5", mode="r", url="memory://bucket/file.h5", source=source, file=file
    )
    array = store.root.array("0")
    assert array.policy == source.policy
    np.testing.assert_array_equal(by_references(array), VALUES)
    np.testing.assert_array_equal(array.read(), VALUES)
    page_buffer = store._session.h5.id.get_access_plist().get_page_buffer_size()[0]
    assert (page_buffer > 0) == (strategy == "page")
    store.close()
    assert file.closed
    with Path(path).open("rb") as file:
        with pytest.raises(ReadOnlyError):
            HDF5Store("/bucket/file.h5", mode="r+", source=source, file=file)
        assert file.closed


class FailingFile(io.RawIOBase):
    """A file that stops working."""

    def __init__(self, content: bytes) -> None:
        self.inner = io.BytesIO(content)
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        if self.error is not None:
            raise self.error
        return self.inner.read(min(size, 100) if size >= 0 else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.inner.seek(offset, whence)

    def tell(self) -> int:
        return self.inner.tell()


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (RuntimeError("broken pipe"), StorageError),
        (TimeoutError("too slow"), StorageError),
        (PermissionError("no"), AccessDeniedError),
        (FileNotFoundError("gone"), NotFoundError),
    ],
    ids=repr,
)
def test_failures_of_the_service_are_not_damage(
    path: str, error: Exception, wanted: type[FmristoreError]
) -> None:
    with h5py.File(path, "w") as file:
        file["0"] = np.arange(100_000)
    broken = FailingFile(Path(path).read_bytes())
    with HDF5Store("key", mode="r", url="s3://bucket/key", file=broken) as store:
        array = store.root.array("0")
        assert not located(array)
        assert array.read()[-1] == 99_999
        broken.error = error
        with pytest.raises(wanted) as caught:
            array.read()
        assert caught.value.url == "s3://bucket/key"
    with pytest.raises(wanted):
        HDF5Store("key", mode="r", url="s3://bucket/key", file=broken)


def test_a_forgotten_store_on_a_file_object_does_not_crash_the_interpreter(path: str) -> None:
    with h5py.File(path, "w") as file:
        file["0"] = [1, 2, 3]
    code = """
        import io, sys
        from pathlib import Path
        from fmristore_stores.hdf5 import HDF5Store

        class Raw(io.RawIOBase):
            def __init__(self, content):
                self.inner = io.BytesIO(content)
            def read(self, size=-1):
                return self.inner.read(size)
            def seek(self, offset, whence=0):
                return self.inner.seek(offset, whence)
            def tell(self):
                return self.inner.tell()

        store = HDF5Store("key", mode="r", file=Raw(Path(sys.argv[1]).read_bytes()))
        array = store.root.array("0")
        print(array.read().tolist())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), path],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[1, 2, 3]"), done.stderr


# Files of the R package ----------------------------------------------------------------------


def test_files_of_the_r_package(shared_data: Path) -> None:
    files = sorted((shared_data / "golden" / "r-fmristore").glob("*.h5"))
    assert files
    for path in files:
        with HDF5Store(str(path), mode="r") as store, h5py.File(path) as file:
            seen = 0

            def compare(name: str, item: Any) -> None:
                nonlocal seen  # noqa: B023 - called at once
                if isinstance(item, h5py.Group):
                    assert store.root.group(name).children().keys() == item.keys()  # noqa: B023
                    store.root.group(name).read_attributes()  # noqa: B023
                    return
                array = store.root.array(name)  # noqa: B023
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
