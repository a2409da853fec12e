"""Lengths that elements of variable length claim: no memory is taken for what the file lacks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from fmristore_stores.errors import CorruptDataError, MemoryLimitError, MetadataError
from fmristore_stores.hdf5 import dense, dimensions, heaps
from fmristore_stores.hdf5.dense import attribute_parts, dense_blocks, dense_values
from fmristore_stores.hdf5.lengths import Header, read_header
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.io.location import filesystem
from fmristore_stores.limits import LIMITS
from fmristore_stores.opening import open_store
from tests.stores.hdf5.checksums import renew

_TEXT = "a text of its own length"
_CLAIM = 1_900_000_000


def _compact(file: h5py.File) -> None:
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_layout(h5d.COMPACT)
    kind = h5t.py_create(h5py.string_dtype(), logical=True)
    node = h5d.create(file.id, b"x", kind, h5s.create_simple((2,)), plan)
    node.write(h5s.ALL, h5s.ALL, np.array([_TEXT, "b"], object))


def _filled(file: h5py.File) -> None:
    file.create_dataset("x", (4,), h5py.string_dtype(), chunks=(2,), fillvalue=_TEXT)


def _scaled(file: h5py.File) -> None:
    file["scale"] = np.arange(24)
    file["x"] = np.arange(24)
    file["x"].dims[0].attach_scale(file["scale"])


def _chunked(**options: Any) -> Callable[[h5py.File], None]:
    texts = np.array(["b", _TEXT, "c"], object)

    def make(file: h5py.File) -> None:
        dtype = h5py.string_dtype()
        file.create_dataset("x", data=texts, dtype=dtype, chunks=(2,), **options)

    return make


_MAKERS: dict[str, Callable[[h5py.File], None]] = {
    "attribute": lambda file: file.attrs.__setitem__("x", _TEXT),
    "list": lambda file: file.attrs.__setitem__("x", ["b", _TEXT]),
    "contiguous": lambda file: file.__setitem__("x", ["b", _TEXT]),
    "scalar": lambda file: file.__setitem__("x", _TEXT),
    "chunked": _chunked(),
    "compact": _compact,
    "fill": _filled,
    "axes": _scaled,
}


def _read(store: HDF5Store) -> object:
    root = store.root
    if "x" not in root.children():
        return root.read_attributes()
    array = root.array("x")
    return array.spec.dims, array.read().tolist()


def _damage(path: Path, length: int) -> None:
    """Let what lies in a global heap claim more than it has."""
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    old = length.to_bytes(4, "little") + heap.to_bytes(8, "little")
    assert content.count(old)
    start = content.index(old)
    content[start : start + 4] = _CLAIM.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize("kind", _MAKERS)
def test_claims_are_compared_with_the_file(
    tmp_path: Path, kind: str, userblock: int, mode: Any
) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        _MAKERS[kind](file)
    with HDF5Store(str(path), mode=mode) as store:
        assert "None" not in repr(_read(store))
    content = path.read_bytes()
    assert (content.index(b"GCOL") - userblock) % 8 == 0
    _damage_at_base(path, 1 if kind == "axes" else len(_TEXT), userblock)
    with (
        HDF5Store(str(path), mode=mode) as store,
        pytest.raises(CorruptDataError, match=f"claims {_CLAIM} of the file's"),
    ):
        _read(store)


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("track_order", [False, True])
def test_headers_of_all_versions(
    tmp_path: Path, libver: str, userblock: int, track_order: bool
) -> None:
    """Later ones have checksums: what is damaged there is noticed by HDF5 itself."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        group = file.create_group("g", track_order=track_order)
        for number in range(7):
            group.attrs[f"é{number}"] = "x" * (number + 1)
        _compact(file)
    with HDF5Store(str(path), mode="r") as store:
        second = store._session._heaps
        assert second is not None
        found = second.header(store.root.group("g")._node)
        compact = second.header(store.root.array("x")._node)
    assert found is not None
    lengths = {
        name.decode(): int.from_bytes(message[attribute_parts(message)[2] :][:4], "little")
        for name, (message,) in found.attributes.items()
    }
    assert found.has_all
    assert lengths == {f"é{number}": number + 1 for number in range(7)}
    assert compact is not None
    (values,) = compact.compact
    assert [values[at] for at in (0, 16)] == [len(_TEXT), 1]


def test_headers_that_do_not_end() -> None:
    """One whose continuation is itself; and what is none at all."""
    begin = b"\x01\x00\x01\x00" + bytes(4) + (24).to_bytes(4, "little") + bytes(4)
    message = (
        b"\x10\x00\x10\x00" + bytes(4) + (16).to_bytes(8, "little") + (24).to_bytes(8, "little")
    )
    data = begin + message
    with pytest.raises(CorruptDataError, match="does not end"):
        read_header(lambda at, length: data[at : at + length], 0, 0, (8, 8))
    with pytest.raises(CorruptDataError, match="header of an object is damaged"):
        read_header(lambda at, length: b"", 0, 0, (8, 8))


def _damage_at_base(path: Path, length: int, base: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[base:])
    _damage(path, length)
    path.write_bytes(content[:base] + path.read_bytes())


def test_encoded_elements(tmp_path: Path) -> None:
    """They are decoded to be looked at: here the chunk is replaced by one that claims more."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        _chunked(compression="gzip", shuffle=True)(file)
    with HDF5Store(str(path), mode="r") as store:
        assert store.root.array("x").read().tolist() == ["b", _TEXT, "c"]
    with h5py.File(path, "r+") as file:
        elements = np.zeros((2, 4), "<u4")
        elements[1] = (_CLAIM, 2048, 0, 1)
        file["x"].id.write_direct_chunk((0,), elements.tobytes(), 3)
    with HDF5Store(str(path), mode="r") as store:
        assert store.root.array("x").read((slice(2, 3),)).tolist() == ["c"]
        with pytest.raises(CorruptDataError, match="claims"):
            store.root.array("x").read((slice(0, 1),))


def test_remote_files(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["x"] = _TEXT
    _damage(path, len(_TEXT))
    fs, _ = filesystem("memory://")
    fs.pipe_file("/lengths/a.h5", path.read_bytes())
    with (
        open_store("memory://lengths/a.h5") as store,
        pytest.raises(CorruptDataError, match="claim"),
    ):
        store.root.read_attributes()


def test_long_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = [_TEXT * 10]
    with HDF5Store(str(path), mode="r") as store:
        assert len(store.root.array("x").read()[0]) == 10 * len(_TEXT)
        monkeypatch.setattr(LIMITS, "text", len(_TEXT))
        with pytest.raises(MemoryLimitError, match="are allowed"):
            store.root.array("x").read()


def _make_dense(path: Path, count: int, *, width: int = 1, **options: Any) -> None:
    """A file whose attributes lie outside the header, each of `width` texts."""
    with h5py.File(path, "w", libver="latest", **options) as file:
        for number in range(count):
            file.attrs[f"a{number}"] = [_TEXT] * width if width > 1 else _TEXT


def _damage_dense(path: Path, *, checksums: bool) -> None:
    """Let a text of 20 attributes claim more than it has; the heap has blocks of 1 KiB."""
    content = bytearray(path.read_bytes())
    old = len(_TEXT).to_bytes(4, "little") + content.index(b"GCOL").to_bytes(8, "little")
    start = content.index(b"FHDB")
    place = content.index(old, start)
    content[place : place + 4] = _CLAIM.to_bytes(4, "little")
    if checksums:
        renew(content, start, start + 1024, start + 18)
    path.write_bytes(content)


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("checksums", [False, True])
def test_claims_of_attributes_outside_the_header(
    tmp_path: Path, mode: Any, *, checksums: bool
) -> None:
    """With a wrong checksum the library itself sees the damage, with a right one it does not."""
    path = tmp_path / "a.h5"
    _make_dense(path, 20)
    assert b"FRHP" in path.read_bytes()
    with HDF5Store(str(path), mode=mode) as store:
        assert len(store.root.read_attributes()) == 20
    _damage_dense(path, checksums=checksums)
    message = f"claims {_CLAIM} of the file's" if checksums else "checksum"
    with pytest.raises(CorruptDataError, match=message), HDF5Store(str(path), mode=mode) as store:
        store.root.read_attributes()


@pytest.mark.parametrize("options", [{}, {"userblock_size": 1024, "track_order": True}])
@pytest.mark.parametrize(("count", "width"), [(20, 1), (300, 1), (30, 300)])
def test_attributes_outside_the_header_are_found(
    tmp_path: Path, count: int, width: int, options: dict[str, Any]
) -> None:
    """In one block of a heap, in blocks of blocks, and large ones, which a B-tree lists."""
    path = tmp_path / "a.h5"
    _make_dense(path, count, width=width, **options)
    with HDF5Store(str(path), mode="r") as store:
        second, node = store._session._heaps, store.root._node
        assert second is not None
        for number in range(count):
            found = second.values(node, f"a{number}".encode(), width)
            assert [len(raw) for raw in found] == [16 * width]
            assert {*found[0][::16]} == {len(_TEXT)}


@pytest.mark.parametrize("read", ["read_attributes", "readable_attributes", "read_typed"])
def test_large_heaps_of_attributes_are_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """However many of them there are, of which lengths, and large ones of other software too."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(4):
            file.attrs[f"long{number}"] = np.bytes_(b"x" * 100_000)
        for number in range(12):
            file.attrs[f"a{number}"] = [_TEXT] * (1 + 20 * (number % 4))
    fetched = 0
    inside = heaps.Heaps._inside

    def count(file: heaps.Heaps, at: int, length: int) -> bytes:
        nonlocal fetched
        fetched += length
        return inside(file, at, length)

    monkeypatch.setattr(heaps, "_MOST_KEPT", 32 * 1024)
    monkeypatch.setattr(heaps.Heaps, "_inside", count)
    with HDF5Store(str(path), mode="r") as store:
        assert len(getattr(store.root, read)()) >= 12
        assert store._session._heaps is not None
        assert store._session._heaps._heap is None
    assert heaps._large.heap == (None, None)
    assert fetched < path.stat().st_size * 1.5


def test_blocks_that_another_thread_lets_go_are_read_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept may be replaced between any two looks at it."""
    path = tmp_path / "a.h5"
    _make_dense(path, 20)
    fits = heaps._Kept.fits
    with HDF5Store(str(path), mode="r") as store:
        second = store._session._heaps
        assert second is not None

        def replace(kept: Any, address: int, most: int) -> bool:
            second._heap = None
            return fits(kept, address, most)

        monkeypatch.setattr(heaps._Kept, "fits", replace)
        assert {*store.root.read_attributes().values()} == {_TEXT}


def _stored(name: bytes, version: int) -> bytes:
    """An attribute of one text, as it lies in a heap."""
    parts = len(name) + 1, 8, 4
    head = struct.pack("<BBHHH", version, 0, *parts) + bytes(version == 3)
    padding = [-length % 8 if version == 1 else 0 for length in parts]
    fields = name + b"\0", b"\x19" + bytes(7), bytes(4)
    return head + b"".join(f + bytes(n) for f, n in zip(fields, padding, strict=True)) + b"v" * 16


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("name", [b"a", b"\x01\x00\x05\x00", b"." * 256, b"ab" * 200])
def test_attributes_among_many_occurrences_of_their_name(name: bytes, version: int) -> None:
    """They are looked for as one by one, wherever they begin: the end of one may be another."""
    stored = _stored(name, version)
    for before in (b"", name * 100, b"\x01\x01" + name * 100, stored * 70 + b"\x03\x01\x01"):
        block = before + stored + name * 100
        if name[0] > 3:  # others begin like an attribute themselves
            found = dense_values([block], name, 16)
            assert found.count(b"v" * 16) >= 1 + 70 * before.startswith(stored)
        starts = [
            at - room
            for at in range(len(block))
            for room in (8, 9)
            if block.startswith(name, at) and at >= room
            if dense._is_attribute(block, at - room, room, len(name))
        ]
        assert {*dense._starts(block, name)} == {*starts}


def test_few_places_are_looked_at_for_a_name() -> None:
    """In text that has it a million times, none; more than a heap can have are refused."""
    looked: list[int] = []

    class Watched(bytes):
        def find(self, *where: Any) -> int:
            looked.append(1)
            return super().find(*where)

    assert dense_values([Watched(b"a" * 1_000_000)], b"a", 16) == []
    assert len(looked) < 100
    with pytest.raises(MemoryLimitError, match="the attributes of an object take more"):
        dense_values([_stored(b"a", 3) * 70_000], b"a", 16)
    with pytest.raises(MemoryLimitError, match="the attributes of an object take more"):
        dense_values([b"\1\0\2\0" * 70_000], b"\1", 16)  # where no type has lengths


def test_heaps_of_attributes_that_do_not_end() -> None:
    """One that claims blocks of terabytes, one whose blocks of blocks are themselves, and none."""
    sizes = (8, 8)
    head = b"FRHP" + bytes(1) + b"\x08\x00" + bytes(15) + b"\xff" * 8 + bytes(80)
    table = (4).to_bytes(2, "little") + (1 << 50).to_bytes(8, "little") * 2 + bytes(4)
    data = head + table + bytes(10)
    with pytest.raises(MemoryLimitError, match="the attributes of an object take more"):
        dense_blocks(lambda at, length: data[at : at + length], 0, 16, 0, sizes)
    table = (4).to_bytes(2, "little") + (512).to_bytes(8, "little") * 2 + bytes(4)
    where = (160).to_bytes(8, "little")
    data = (head + table + where + (40).to_bytes(2, "little")).ljust(160 + 13) + where * 256
    with pytest.raises(MemoryLimitError, match="the attributes of an object take more"):
        dense_blocks(lambda at, length: data[at : at + length], 0, 16, 0, sizes)
    with pytest.raises(CorruptDataError, match="outside the header"):
        dense_blocks(lambda at, length: bytes(length), 0, 16, 0, sizes)


def test_attributes_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that objects share are not found where attributes lie."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["x"] = _TEXT
        file.attrs["n"] = 1
    monkeypatch.setattr(heaps, "read_header", lambda *_: Header())
    with HDF5Store(str(path), mode="r") as store:
        with pytest.raises(MetadataError, match="shared by objects"):
            store.root.read_attributes()
        assert store.root.readable_attributes() == {"n": 1}


def test_units_that_lengths_count(tmp_path: Path) -> None:
    """A length that the file has as bytes may be more than it has as elements."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        value = np.empty(1, object)
        value[0] = np.arange(4096)
        file.attrs.create("x", value, dtype=h5py.vlen_dtype(np.int64))
    content = bytearray(path.read_bytes())
    with HDF5Store(str(path), mode="r") as store:
        assert store.root.read_typed()["x"].content is not None
    place = content.index(
        (4096).to_bytes(4, "little") + content.index(b"GCOL").to_bytes(8, "little")
    )
    content[place : place + 4] = (30_000).to_bytes(4, "little")
    path.write_bytes(content)
    with (
        HDF5Store(str(path), mode="r") as store,
        pytest.raises(CorruptDataError, match="claims 30000 of"),
    ):
        store.root.read_typed()


def test_what_was_changed_is_looked_at_as_it_is_now(tmp_path: Path) -> None:
    """In a file that is open for a change, whose chunks and headers are still in memory."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        _chunked()(file)
        file.attrs["y"] = _TEXT
    with HDF5Store(str(path), mode="r+") as store:
        array, longer = store.root.array("x"), _TEXT * 3
        for _ in range(2):
            array.write(None, ["a", longer, ""])
            assert array.read().tolist() == ["a", longer, ""]
            store.root.write_attributes({"y": longer, "z": ["a", longer]})
            assert store.root.read_attributes() == {"y": longer, "z": ["a", longer]}
            longer += "!"


def test_lists_of_users_that_are_none(tmp_path: Path) -> None:
    """The library would read such text when something is removed from a file that is changed."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        _scaled(file)
        del file["scale"].attrs["REFERENCE_LIST"]
        kind = np.dtype([("text", h5py.string_dtype()), ("number", "i4")])
        file["scale"].attrs.create("REFERENCE_LIST", np.array([(_TEXT, 0)], kind), dtype=kind)
    with h5py.File(path, "r") as file:
        assert dimensions._users(file["scale"].id) == []
