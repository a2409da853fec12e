"""HDF5 files that lead elsewhere, are damaged, or are read through something that fails."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest

from fmristore_stores.errors import (
    AccessDeniedError,
    CorruptDataError,
    FmristoreError,
    LayoutNotSupportedError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.hdf5.store import HDF5Group, HDF5Store
from fmristore_stores.io.sources import FsspecSource
from fmristore_stores.protocol import Child
from tests.stores.hdf5.hdf5_helpers import by_references, located, run_python

VALUES = np.arange(35).reshape(5, 7)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file.h5")


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
        if mode == "r+":  # HDF5 would look for what the pattern fits to find out the shape
            with pytest.raises(LayoutNotSupportedError):
                root.array("pattern")
        views = ["view", "view by name", "nested", "self", *(["pattern"] if mode == "r" else [])]
        for name in views:
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


def test_links_of_other_programs(path: str) -> None:
    """A link of a type that a program defines itself: HDF5 would call that program."""
    with h5py.File(path, "w") as file:
        file["g/x"] = [1, 2]
        file["g"]["elsewhere"] = h5py.ExternalLink("other.h5", "/x")
    content = bytearray(Path(path).read_bytes())
    start = content.index(b"\x09elsewhere") - 1
    assert content[start] == 64  # an external one
    content[start] = 70
    Path(path).write_bytes(content)
    with HDF5Store(path, mode="r") as store:
        group = store.root.group("g")
        link = Child("link", "external:?:link of type 70")
        assert group.children() == {"elsewhere": link, "x": Child("array")}
        for attempt in (group.array, group.group):
            with pytest.raises(LayoutNotSupportedError, match=r"link of type 70.*not followed"):
                attempt("elsewhere")
        assert group.array("x").read().tolist() == [1, 2]


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
    key = tuple(offset // length for offset, length in zip(last.chunk_offset, (2, 3), strict=True))
    where = content.index(last.byte_offset.to_bytes(8, "little"))
    for address in (len(content) - 1, 2**62, 2**64 - 2):
        content[where : where + 8] = address.to_bytes(8, "little")
        Path(path).write_bytes(content)
        with HDF5Store(path, mode="r") as store:
            with pytest.raises(CorruptDataError):
                store.root.array("0").refs([key])
            with pytest.raises(CorruptDataError):
                store.root.array("0").refs([(0, 0)] * 100)  # by the whole table
            with pytest.raises(CorruptDataError):
                store.root.array("0").read()


def test_absurd_shapes(path: str) -> None:
    with h5py.File(path, "w") as file:
        for name, shape in {"flat": (2**45,), "square": (2**40, 2**40)}.items():
            chunks = (1,) * len(shape)
            file.create_dataset(name, shape, "i2", chunks=chunks, fillvalue=4)
        file["flat"][3] = 5
    with HDF5Store(path, mode="r") as store:
        flat, square = store.root.array("flat"), store.root.array("square")
        assert [ref is not None for ref in flat.refs([(2,), (3,), (2**45 - 1,)])] == [0, 1, 0]
        assert not located(square)
        assert square.read((slice(3, 5), slice(2, 4))).tolist() == [[4, 4], [4, 4]]
        with pytest.raises(MemoryLimitError):
            square.read()


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
            raise copy.copy(self.error)  # one that is kept would keep the frames that it passed
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
        from fmristore_stores.hdf5.store import HDF5Store

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
    done = run_python(code, path)
    assert (done.returncode, done.stdout.strip()) == (0, "[1, 2, 3]"), done.stderr
