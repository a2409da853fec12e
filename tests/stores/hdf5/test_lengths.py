"""Lengths that elements of variable length claim: no memory is taken for what the file lacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from fmristore_stores.errors import CorruptDataError, MemoryLimitError
from fmristore_stores.hdf5.lengths import read_header
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.io.location import filesystem
from fmristore_stores.limits import LIMITS
from fmristore_stores.opening import open_store

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


@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize("kind", _MAKERS)
def test_claims_are_compared_with_the_file(tmp_path: Path, kind: str, userblock: int) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        _MAKERS[kind](file)
    with HDF5Store(str(path), mode="r") as store:
        assert "None" not in repr(_read(store))
    content = path.read_bytes()
    assert (content.index(b"GCOL") - userblock) % 8 == 0
    _damage_at_base(path, 1 if kind == "axes" else len(_TEXT), userblock)
    with (
        HDF5Store(str(path), mode="r") as store,
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
        heaps = store._session._heaps
        assert heaps is not None
        found = heaps.header(store.root.group("g")._node)
        compact = heaps.header(store.root.array("x")._node)
    assert found is not None
    lengths = {
        name.decode(): int.from_bytes(raw[:4], "little") for name, raw in found.attributes.items()
    }
    assert lengths == {f"é{number}": number + 1 for number in range(7)}
    assert compact is not None
    assert [compact.compact[at] for at in (0, 16)] == [len(_TEXT), 1]


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


def test_attributes_outside_the_header_have_checksums(tmp_path: Path) -> None:
    """So a claim in them is damage to the library, before it takes memory."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(20):
            file.attrs[f"a{number}"] = _TEXT
    assert b"FRHP" in path.read_bytes()
    with HDF5Store(str(path), mode="r") as store:
        assert len(store.root.read_attributes()) == 20
    _damage(path, len(_TEXT))
    with (
        HDF5Store(str(path), mode="r") as store,
        pytest.raises(CorruptDataError, match="checksum"),
    ):
        store.root.read_attributes()
