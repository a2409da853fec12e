"""What is decoded from object headers is what the HDF5 library reads."""

from __future__ import annotations

import functools
import gc
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5a, h5f, h5p, h5s, h5t

import fmristore as fs
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import ClosedError, CorruptDataError, FmristoreError, NotFoundError
from fmristore_stores.hdf5 import attributes, links
from fmristore_stores.hdf5.arrays import HDF5Array
from fmristore_stores.hdf5.attributes import StoredAttributes, read_attributes
from fmristore_stores.hdf5.messages import decode_plain, plain_dataset
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.hdf5.typed import read_typed
from fmristore_stores.io.lifetime import close_forgotten
from fmristore_stores.protocol import Capability


def _text(node: Any, name: bytes, raw: bytes, padding: int, length: int) -> None:
    """Write an attribute of fixed-length text, padded in one of the ways that HDF5 has."""
    kind = h5t.C_S1.copy()
    kind.set_size(length)
    kind.set_strpad(padding)
    h5a.create(node, name, kind, h5s.create(h5s.SCALAR)).write(np.array(raw, f"S{length}"), kind)


def _write_attributes(group: Any) -> None:
    for name in ("i1", "u1", "<i2", ">i2", "<u4", ">u4", "<i8", "<u8", "<f4", ">f4", "<f8", ">f8"):
        values = np.array([0, 1, 100], name)
        group.attrs[name], group.attrs[f"one {name}"] = values, values[2]
    group.attrs["f2"] = np.float16(0.5)
    group.attrs["not finite"] = np.array([np.nan, np.inf])
    group.attrs["negative"] = np.array([-1, -(2**62)])
    group.attrs["two axes"] = np.arange(6).reshape(2, 3)
    group.attrs["empty"] = np.zeros(0)
    group.attrs["nothing"] = h5py.Empty("f8")
    group.attrs["logical"] = np.array([True, False])
    group.attrs["enum"] = np.array(1, h5py.enum_dtype({"A": 0, "B": 1}, "i1"))
    group.attrs["text"] = "of any length, é"
    group.attrs["texts"] = ["a", "bc"]
    group.attrs["fixed"] = np.array([b"a", b"bcd", b""])
    group.attrs["latin"] = np.bytes_(b"\xe9\x00x")
    group.attrs["reference"] = group.ref
    group.attrs["é"] = 1
    for number, padding in enumerate((h5t.STR_NULLTERM, h5t.STR_NULLPAD, h5t.STR_SPACEPAD)):
        for begin, raw in {b"padded": b"ab ", b"full": b"abcdef", b"cut": b"ab\0cd"}.items():
            _text(group.id, b"%s %d" % (begin, number), raw, padding, 6)


@pytest.fixture(params=["earliest", "v110", "latest"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A file with attributes of all kinds."""
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w", libver=request.param) as file:
        _write_attributes(file.create_group("g"))
        few = file.create_group("few")
        few.attrs["n"], few.attrs["x"] = 1, np.array([0.5])
    return path


def test_attributes_are_those_that_the_library_reads(path: str) -> None:
    with HDF5Store(path, mode="r") as store:
        for name in ("g", "few"):
            node = store.root.group(name)._node
            header = store._session.header_of(node)
            assert header is not None
            ours = read_attributes(node, is_array=False, header=header)
            assert repr(ours) == repr(read_attributes(node, is_array=False))  # for not-a-number
            assert list(ours) == list(read_attributes(node, is_array=False))
        header = store._session.header_of(store.root._node, b"few")
        assert header is not None
        plain = {name: decode_plain(found) for name, (found,) in header.attributes.items()}
        assert plain == {b"n": 1, b"x": [0.5]}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with datasets of all kinds, with old headers."""
    path = tmp_path_factory.mktemp("datasets") / "d.h5"
    with h5py.File(path, "w", libver="earliest") as file:
        values = np.arange(24).reshape(4, 6)
        for kind in ("i1", "u1", "<i2", ">i2", "<u4", "<i8", "<u8", "<f2", "<f4", ">f4", "<f8"):
            file[f"plain {kind}"] = values.astype(kind)
            file.create_dataset(f"chunks {kind}", data=values.astype(kind), chunks=(2, 4))
        kinds: dict[str, dict[str, Any]] = {
            "zip": {"compression": 3},
            "shuffled": {"compression": 9, "shuffle": True},
            "sum": {"fletcher32": True},
            "lzf": {"compression": "lzf"},
            "grows": {"maxshape": (None, 6)},
            "filled": {"fillvalue": 7},
        }
        for name, more in kinds.items():
            file.create_dataset(name, data=values.astype("<i4"), chunks=(3, 6), **more)
        file["one"], file["empty"], file["bool"] = 3.5, np.zeros((0, 3)), values > 3
        file["text"], file["complex"] = ["a", "b"], values + 1j
        file["null"] = h5py.Empty("f8")
        file.create_dataset("never written", (3, 4), "<f4")
        file.create_dataset("no chunk", (3, 4), "<f4", chunks=(2, 2))
        file.create_dataset("elsewhere", (3,), "<i4", external=[("x.bin", 0, 12)])
        file.create_dataset("with fill", (3,), "<i4", fillvalue=5)
        file["kind"] = np.dtype("<i4")
        file.create_dataset("named type", data=[1, 2], dtype=file["kind"])
        plan = h5p.create(h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        h5py.h5d.create(file.id, b"compact", h5t.STD_I32LE, h5s.create_simple((3,)), plan)
        file["scale"] = np.arange(6)
        file["scale"].make_scale("x")
        file["labelled"] = values
        file["labelled"].dims[1].label = "x"
        file["labelled"].dims[1].attach_scale(file["scale"])
        for name, axes, title in (
            ("coordinate", "x", "coordinate"),
            ("without label", "", "without label"),
            ("hidden", "x", "This is a netCDF dimension but not a netCDF variable.         6"),
        ):
            data = file.create_dataset(name, data=np.arange(6.0), fillvalue=0.5)
            data.make_scale(title)
            data.dims[0].label = axes
            data.attrs["_fmristore_axes"] = np.array([axes.encode()], "S1")
    return str(path)


def _arrays(path: str) -> Iterator[tuple[str, HDF5Array, HDF5Array]]:
    """Arrays of a file as its headers say them, and as the library does."""
    with h5py.File(path) as file:
        names = [name for name in file if name not in ("kind", "null", "hidden")]
    with HDF5Store(path, mode="r") as store:
        for name in names:
            node, where = links.resolve(store._session, store.root._node, "", name)
            theirs = HDF5Array(store._session, where, functools.partial(_same, node))
            yield name, store.root.array(name), theirs


def _same(node: Any) -> Any:
    return node


def test_datasets_are_those_that_the_library_reads(datasets: str) -> None:
    known = set()
    for name, ours, theirs in _arrays(datasets):
        assert ours.spec == theirs.spec, name
        assert type(ours.spec.dtype) is type(theirs.spec.dtype)  # zarr-python compares classes
        assert ours.spec.fill == theirs.spec.fill, name
        assert ours.capabilities == theirs.capabilities, name
        assert ours.read_attributes() == theirs.read_attributes(), name
        if ours._header is not None:
            known.add(name)
        if name != "elsewhere":
            np.testing.assert_array_equal(ours.read(), theirs.read())
        if Capability.CHUNK_REFS in ours.capabilities:
            keys = [(0,) * len(ours.spec.shape)]
            assert ours.refs(keys) == theirs.refs(keys), name
            assert ours.stored_units() == theirs.stored_units(), name
    plain = {f"plain {kind}" for kind in ("i1", "u1", "<i2", "<u4", "<i8", "<u8", "<f4", "<f8")}
    chunked = {name.replace("plain", "chunks") for name in plain}
    others = {"zip", "shuffled", "sum", "lzf", "grows", "one", "empty", "never written", "no chunk"}
    assert known == plain | chunked | others | {"filled", "with fill", "coordinate"}


def test_dimensions_without_values_are_none_by_their_headers(datasets: str) -> None:
    with HDF5Store(datasets, mode="r") as store:
        assert {"coordinate", "scale"} <= {*store.root.children()}
        assert "hidden" not in store.root.children()
        with pytest.raises(NotFoundError):
            store.root.array("hidden")


OWN: dict[str, Any] = {
    "i": 1,
    "big": 2**63,
    "f": 0.5,
    "s": "é",
    "none": "",
    "is": [1, -2],
    "fs": [0.5, 1.0],
    "ss": ["a", "é", ""],
    "empty": [],
    "b": True,
    "j": {"k": 1},
}


def test_types_that_a_header_tells(path: str) -> None:
    """What is stored as we would store it is left out, and nothing else is."""
    with h5py.File(path, "r+") as file:
        attributes.write_attributes(
            file.create_group("own").id, OWN, is_array=False, ignore=frozenset()
        )
        near = file.create_group("near").attrs
        near["i"], near["f"], near["big"] = np.int32(1), np.float32(0.5), np.uint64(1)
        near["nan"], near["nans"] = np.nan, np.array([0.5, np.inf])
        for name, text in {"long": "a", "nul": "a", "latin": "é"}.items():
            coding, length = ("latin-1", 1) if name == "latin" else ("utf-8", 4)
            raw = text.encode(coding) + (b"\0b" if name == "nul" else b"")
            near.create(name, np.array(raw, h5py.string_dtype("utf-8", length)))
        near.create("ascii", np.array(b"a", h5py.string_dtype("ascii", 1)))
    with HDF5Store(path, mode="r") as store:
        for name in ("g", "few", "own", "near"):
            node = store.root.group(name)._node
            header = store._session.header_of(node)
            assert header is not None
            ours = read_typed(node, is_array=False, header=header)
            theirs = read_typed(node, is_array=False)
            assert [(n, repr(t[1:])) for n, t in ours.items()] == [
                (n, repr(t[1:])) for n, t in theirs.items()
            ]
            if name == "near":
                assert len(ours) == 9
            if name == "own":
                assert not ours
                given = StoredAttributes(node, header)
                kept = {
                    n for n in ("i", "big", "f", "s", "is", "fs", "ss") if given.is_own(n.encode())
                }
                assert kept == (
                    {"i", "big", "f", "s", "is", "fs", "ss"} if header.has_all else set()
                )


@pytest.mark.parametrize("libver", ["v110", "latest"])
def test_headers_with_checksums_are_left_to_the_library(tmp_path: Path, libver: str) -> None:
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w", libver=libver) as file:
        file["x"] = np.arange(3)
    with HDF5Store(path, mode="r") as store:
        header = store._session.header_of(store.root._node, b"x")
        assert header is not None
        assert plain_dataset(header) is None
        assert store.root.array("x").read().tolist() == [0, 1, 2]


def test_addresses_behind_a_user_block_are_left_to_the_library(tmp_path: Path) -> None:
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = np.arange(3)
    with HDF5Store(path, mode="r") as store:
        array = store.root.array("x")
        assert array._header is None
        assert ChunkReader(array).read().tolist() == [0, 1, 2]


WRITTEN = {"n": 1, "t": ["a", "bc"]}, [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["chunks", "one piece", "filled", "coordinate"])
def test_changed_bytes_of_a_header(tmp_path: Path, kind: str) -> None:
    """Each byte of a header in turn: an error, or what the library makes of it."""
    path = tmp_path / "a.h5"
    more: Any = {"chunks": (4,), "shuffle": True, "compression": 1} if kind == "chunks" else {}
    if kind == "filled":
        more["fillvalue"] = 5
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", data=np.arange(6, dtype="<i4"), **more)
        data.attrs["n"], data.attrs["t"] = 1, np.array([b"a", b"bc"])
        if kind == "coordinate":
            data.make_scale("x")
            data.dims[0].label = "x"
            data.attrs["_fmristore_axes"] = np.array([b"x"])
        address = h5py.h5g.get_objinfo(data.id).objno[0]
    good = path.read_bytes()
    size = 16 + int.from_bytes(good[address + 8 : address + 12], "little")
    for at in range(address, address + size):
        for mask in (0x11, 0x0E):
            changed = bytearray(good)
            changed[at] ^= mask
            path.write_bytes(changed)
            _compare(str(path), at - address)


def _compare(path: str, at: int) -> None:
    """Compare an array as its header says it with what the library says, or with what it was."""
    expected = None
    try:
        with HDF5Store(path, mode="r") as store, store._session.reading("x"):
            node, where = links.resolve(store._session, store.root._node, "", "x")
            if isinstance(node, h5py.h5d.DatasetID):
                theirs = HDF5Array(store._session, where, lambda: node)
                given = read_attributes(node, is_array=True)
                expected = theirs.spec, given, theirs.read().tolist()
    except FmristoreError:
        pass
    try:
        with HDF5Store(path, mode="r") as store:
            ours = store.root.array("x")
            found = ours.spec, ours.read_attributes(), ChunkReader(ours).read().tolist()
    except FmristoreError:
        return
    if expected is None:  # nothing of what the library refuses says other values
        assert (found[1:], found[0].shape) == (WRITTEN, (6,)), at
    else:
        assert found == expected, at


@pytest.mark.parametrize("name", ["x", "scale"])
def test_data_with_a_place_and_no_length(tmp_path: Path, name: str) -> None:
    """The library reads whatever lies there, and takes them for written all the same."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(name, data=np.arange(5.0))
        if name == "scale":  # which is not read from its header
            data.make_scale()
        place = data.id.get_offset()
    good = path.read_bytes()
    layout = struct.pack("<BBQQ", 3, 1, place, 40)
    assert good.count(layout) == 1
    path.write_bytes(good.replace(layout, layout[:-8] + bytes(8)))
    with HDF5Store(str(path), mode="r") as store:
        array = store.root.array(name)
        assert (array._header is not None) == (name == "x")
        for read in (ChunkReader(array).read, array.read):
            with pytest.raises(CorruptDataError):
                read()


@pytest.mark.parametrize("kind", ["<i4", ">i4"])
@pytest.mark.parametrize("zipped", [False, True])
def test_chunks_that_are_too_short(tmp_path: Path, kind: str, zipped: bool) -> None:
    """The library hands out whatever lies in memory behind them."""
    path, short = tmp_path / "a.h5", np.arange(10).astype(kind).tobytes()
    more: Any = {"compression": 1} if zipped else {}
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", data=np.arange(100).astype(kind), chunks=(50,), **more)
        data.id.write_direct_chunk((50,), zlib.compress(short) if zipped else short)
    with HDF5Store(str(path), mode="r") as store:
        array = store.root.array("x")
        for read in (ChunkReader(array).read, array.read):
            assert read((slice(0, 50, 1),)).tolist() == [*range(50)]
            with pytest.raises(CorruptDataError, match="were expected"):
                read()


def test_axes_longer_than_they_may_become_are_left_to_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(5.0), maxshape=(7,), chunks=(5,))
    good = path.read_bytes()
    space = struct.pack("<QQ", 5, 7)
    assert good.count(space) == 1
    path.write_bytes(good.replace(space, struct.pack("<QQ", 5, 4)))
    with HDF5Store(str(path), mode="r") as store, pytest.raises(CorruptDataError, match="maxdim"):
        store.root.array("x")


def test_a_file_that_is_changed_through_the_library_meanwhile(tmp_path: Path) -> None:
    """What the library has not written yet is not in the bytes of the file."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["n"] = 1
    changing = h5f.open(bytes(path), h5f.ACC_RDWR)
    h5a.open(changing, b"n").write(np.array(2))
    with HDF5Store(str(path), mode="r") as store:
        assert store.root.read_attributes() == {"n": 2}
    changing.close()


@pytest.mark.parametrize("access", ["time", "both"])
def test_opening_asks_the_library_for_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access: Any
) -> None:
    """For no attribute; and an image's coordinates are not opened as datasets."""
    path = tmp_path / "a.h5"
    fs.convert(np.ones((3, 4, 5, 6)), path, space=np.eye(4), tr=2.0, access=access).close()
    asked: list[object] = []
    read, open_child = attributes.read_attribute, links.open_child

    def noted(node: Any, name: bytes | str) -> Any:
        asked.append(name)
        return read(node, name)

    def opened(group: Any, name: bytes) -> Any:
        asked.append(name)
        return open_child(group, name)

    monkeypatch.setattr(attributes, "read_attribute", noted)
    monkeypatch.setattr("fmristore_stores.hdf5.store.open_child", opened)
    with fs.open(path) as image:
        assert image[1, 2, 3].tolist() == [1.0] * 6
    assert asked == [b"0"]  # a copy is not looked at


def test_a_view_of_attributes_keeps_no_file_open(tmp_path: Path) -> None:
    """What lies in the header is known; for what HDF5 has to decode the file must be open."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["n"] = 1
        file.attrs["text"] = "of variable length"
        file.attrs["list"] = '{"a": [1, 2]}'
        file.attrs["_json"] = ["list"]
    store = HDF5Store(str(path), mode="r")
    view = store.root.view_attributes()
    assert (view["n"], view["text"], view["list"]) == (1, "of variable length", {"a": [1, 2]})
    assert dict(view) == store.root.read_attributes()
    view = store.root.view_attributes()
    del store
    gc.collect()
    close_forgotten()
    with h5py.File(path, "r+"):
        assert view["n"] == 1
        with pytest.raises(ClosedError):
            view["text"]
