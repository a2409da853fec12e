"""Global heap collections of HDF5 files are walked before the library reads them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fmristore_stores.errors import CorruptDataError
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.io.location import filesystem
from fmristore_stores.opening import open_store

_TEXTS = ["one", "two", "three"]


def _make(path: Path) -> None:
    """A file with every kind of element that lies in a global heap."""
    with h5py.File(path, "w") as file:
        file.attrs["text"] = "a"
        file.attrs["list"] = _TEXTS
        file.attrs["number"] = 7
        file["plain"] = np.arange(4)
        file.create_dataset("texts", data=_TEXTS, dtype=h5py.string_dtype())
        file.create_dataset("filled", (3,), h5py.string_dtype(), fillvalue="none")
        file["x"] = np.arange(4.0)
        file["x"].make_scale("x")
        file["plain"].dims[0].attach_scale(file["x"])


def _objects(data: bytes) -> list[int]:
    """Offsets of the headers of the objects of all collections, free space too."""
    found, start = [], data.find(b"GCOL\x01")
    while start >= 0:
        (size,) = struct.unpack_from("<Q", data, start + 8)
        at = start + 16
        while at + 16 <= start + size:
            found.append(at)
            number, _, _, length = struct.unpack_from("<HHIQ", data, at)
            at += length if number == 0 else 16 + (length + 7) // 8 * 8
        start = data.find(b"GCOL\x01", start + 8)
    return found


def _damage(path: Path, length: int, *, free: bool) -> None:
    data = bytearray(path.read_bytes())
    headers = [at for at in _objects(bytes(data)) if (data[at : at + 2] == b"\0\0") == free]
    assert headers
    for at in headers:
        struct.pack_into("<Q", data, at + 8, length)
    path.write_bytes(data)


def _read_all(store: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"attributes": store.root.read_attributes()}
    for name in ("texts", "filled"):
        found[name] = store.root.array(name).read().tolist()
    found["dims"] = store.root.array("plain").spec.dims
    return found


def test_whole_files_read_as_before(tmp_path: Path) -> None:
    """Texts, lists, fill values and the names of axes that lie in collections."""
    path = tmp_path / "a.h5"
    _make(path)
    with HDF5Store(str(path), mode="r") as store:
        found = _read_all(store)
    assert found == {
        "attributes": {"text": "a", "list": _TEXTS, "number": 7},
        "texts": _TEXTS,
        "filled": ["none"] * 3,
        "dims": ("x",),
    }


@pytest.mark.parametrize(
    ("length", "free"),
    [
        (0, True),
        (8, True),
        (2**63, True),
        (2**64 - 16, False),
        (2**64 - 32, False),
        (5000, False),
    ],
)
@pytest.mark.parametrize(
    "read",
    [
        lambda root: root.read_attributes(),
        lambda root: root.array("texts").read(),
        lambda root: root.array("filled").read(),
        lambda root: root.array("plain"),
    ],
    ids=["attributes", "texts", "fill", "axes"],
)
def test_lengths_that_lead_nowhere(tmp_path: Path, length: int, read: Any, *, free: bool) -> None:
    """HDF5 would walk the collection for ever, or out of its memory."""
    path = tmp_path / "a.h5"
    _make(path)
    _damage(path, length, free=free)
    with (
        HDF5Store(str(path), mode="r") as store,
        pytest.raises(CorruptDataError, match="global heap"),
    ):
        read(store.root)


def test_remote_files(tmp_path: Path) -> None:
    """Remote files are looked at in the same way, paged ones too."""
    for pages in ({}, {"fs_strategy": "page", "fs_page_size": 4096}):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w", **pages) as file:
            file.attrs["text"] = "a"
        fs, _ = filesystem("memory://")
        fs.pipe_file("/heaps/good.h5", path.read_bytes())
        _damage(path, 0, free=True)
        fs.pipe_file("/heaps/bad.h5", path.read_bytes())
        with open_store("memory://heaps/good.h5") as store:
            assert store.root.read_attributes() == {"text": "a"}
        with open_store("memory://heaps/bad.h5") as store, pytest.raises(CorruptDataError):
            store.root.read_attributes()


def test_files_that_are_changed(tmp_path: Path) -> None:
    """A file is looked at as a whole before it is changed: HDF5 itself reads the collections."""
    path = tmp_path / "a.h5"
    _make(path)
    with HDF5Store(str(path), mode="r+") as store:
        store.root.write_attributes({"text": "b"})
    _damage(path, 0, free=True)
    before = path.read_bytes()
    with pytest.raises(CorruptDataError, match="global heap"):
        HDF5Store(str(path), mode="r+")
    assert path.read_bytes() == before


def test_files_without_such_elements_get_no_second_handle(tmp_path: Path) -> None:
    """Two stores of one file keep theirs apart."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["number"] = 1
        file.attrs["fixed"] = np.bytes_("abc")
        file["values"] = np.arange(3)
    with HDF5Store(str(path), mode="r") as store:
        assert store.root.read_attributes() == {"number": 1, "fixed": "abc"}
        assert store.root.array("values").read().tolist() == [0, 1, 2]
        assert not store._session.has_second_handle
    _make(path)
    with HDF5Store(str(path), mode="r") as one:
        with HDF5Store(str(path), mode="r") as two:
            assert two.root.read_attributes() == one.root.read_attributes()
        assert _read_all(one)["texts"] == _TEXTS
