"""Zarr stores on filesystems of fsspec: what works, and how many requests it takes."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from fmristore_stores.errors import (
    AlreadyExistsError,
    CorruptDataError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.io.conditional_put import NewObjects
from fmristore_stores.io.location import filesystem
from fmristore_stores.protocol import Capability
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout
from fmristore_stores.zarr.store import ZarrStore
from tests.stores.zarr.zarr_arrays import LAYOUTS, decoded, encoded, make, random_values


class CountingFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Memory, with a list of the calls that would be requests to a server."""

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    protocol = "counting"
    cachable = False
    requests: ClassVar[list[tuple[str, str]]] = []
    _inside = threading.local()

    @contextlib.contextmanager
    def _request(self, name: str, path: str) -> Iterator[None]:
        if getattr(self._inside, "now", False):
            yield
            return
        self._inside.now = True
        self.requests.append((name, path))
        try:
            yield
        finally:
            self._inside.now = False


def _counted(name: str) -> Any:
    original = getattr(MemoryFileSystem, name)

    @functools.wraps(original)
    def call(self: CountingFileSystem, path: Any, *args: Any, **kwargs: Any) -> Any:
        with self._request(name, path):
            return original(self, path, *args, **kwargs)

    return call


for _name in ("cat_file", "pipe_file", "info", "exists", "ls", "find", "rm", "rm_file"):
    setattr(CountingFileSystem, _name, _counted(_name))


@pytest.fixture
def counting() -> CountingFileSystem:
    CountingFileSystem.store.clear()
    CountingFileSystem.pseudo_dirs[:] = [""]
    CountingFileSystem.requests.clear()
    return CountingFileSystem()


@pytest.fixture
def memory() -> tuple[Any, str]:
    """A filesystem, and a place in it that nobody else uses."""
    return fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}/store.zarr"


def fill(store: ZarrStore) -> None:
    """An array in every layout, in a group."""
    group = store.root.create_group("g", {"a": 1})
    for layout in LAYOUTS:
        group.create_array(layout, make("float32", layout)).write(None, random_values("float32"))


def check(store: ZarrStore) -> None:
    """Values through zarr-python and through references."""
    group = store.root.group("g")
    assert group.read_attributes() == {"a": 1}
    assert list(group.children()) == sorted(LAYOUTS)
    for layout in LAYOUTS:
        array = group.array(layout)
        assert array.spec == make("float32", layout)
        np.testing.assert_array_equal(array.read(), random_values("float32"))
        np.testing.assert_array_equal(decoded(array), random_values("float32"))


@pytest.mark.parametrize("consolidated", [False, True])
def test_round_trip_in_memory(memory: tuple[Any, str], consolidated: bool) -> None:
    fs, path = memory
    with ZarrStore(path, mode="w", fs=fs) as store:
        fill(store)
        check(store)
        if consolidated:
            store.consolidate()
    with ZarrStore(path, fs=fs) as store:
        check(store)
    plain = zarr.open_array(f"memory:/{path}", path="g/both", mode="r", zarr_format=3)
    np.testing.assert_array_equal(plain[...], random_values("float32"))


# Requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "located"), [("plain", 1), ("both", 2)])
def test_few_requests_to_one_chunk(counting: CountingFileSystem, layout: str, located: int) -> None:
    with ZarrStore("/s.zarr", mode="w", fs=counting) as store:
        fill(store)
        store.consolidate()
    log = counting.requests
    log.clear()
    with ZarrStore("/s.zarr", fs=counting) as store:
        assert log == [("cat_file", "/s.zarr/zarr.json")]
        array = store.root.array(f"g/{layout}")
        store.root.group("g").children()
        store.root.group("g").read_attributes()
        assert len(log) == 1
        (ref,) = array.refs([(0, 0, 0)])
        assert ref is not None
        assert len(log) == 1 + located
        array.fetch([ref.range])
        assert len(log) == 2 + located
        array.refs([(0, 0, 1), (0, 0, 0)])
        assert len(log) == 2 + located


def test_few_requests_without_consolidated_metadata(counting: CountingFileSystem) -> None:
    with ZarrStore("/s.zarr", mode="w", fs=counting) as store:
        fill(store)
    counting.requests.clear()
    with ZarrStore("/s.zarr", fs=counting) as store:
        store.root.array("g/plain")
        store.root.array("g/plain")
    assert counting.requests == [
        ("cat_file", "/s.zarr/zarr.json"),
        ("cat_file", "/s.zarr/g/plain/zarr.json"),
    ]


def test_listing_pays_only_for_many_chunks(counting: CountingFileSystem) -> None:
    spec = ArraySpec(
        shape=(5000,), dtype=np.dtype("u1"), dims=("t",), layout=ChunkLayout(chunks=(1,))
    )
    with ZarrStore("/s.zarr", mode="w", fs=counting) as store:
        array = store.root.create_array("a", spec)
        for number in range(10):
            array.write_encoded((number,), [b"x"])
    with ZarrStore("/s.zarr", fs=counting) as store:
        array = store.root.array("a")
        counting.requests.clear()
        assert [ref is None for ref in array.refs([(1,), (2,), (4999,)])] == [False, False, True]
        assert {name for name, _ in counting.requests} == {"info"}
        counting.requests.clear()
        array.refs([(1,), (4999,)])
        assert counting.requests == []
        found = array.refs([(number,) for number in range(5000)])
        assert counting.requests == [("find", "/s.zarr/a")]
        assert sum(ref is not None for ref in found) == 10


def test_many_chunks_cost_one_listing_and_one_index_each(counting: CountingFileSystem) -> None:
    with ZarrStore("/s.zarr", mode="w", fs=counting) as store:
        fill(store)
    with ZarrStore("/s.zarr", fs=counting) as store:
        array = store.root.array("g/sharded")
        counting.requests.clear()
        keys = list(np.ndindex(3, 3, 3))
        assert None not in array.refs(keys)
        names = [name for name, _ in counting.requests]
        assert names.count("find") == 1
        assert len(names) == 1 + 8
        array.refs(keys)
        assert len(counting.requests) == len(names)


# Writing -----------------------------------------------------------------------------------------


def test_root_comes_last(memory: tuple[Any, str]) -> None:
    fs, path = memory
    store = ZarrStore(path, mode="w", fs=fs, new=NewObjects(fs, path, path))
    store.root.write_attributes({"x": 1})
    fill(store)
    check(store)
    assert store.root.read_attributes() == {"x": 1}
    assert list(store.root.children()) == ["g"]
    assert not fs.exists(f"{path}/zarr.json")
    with pytest.raises(UnknownFormatError):
        ZarrStore(path, fs=fs)
    store.consolidate()
    for mode in ("r", "r+"):
        with ZarrStore(path, mode=mode, fs=fs) as other:
            check(other)
            assert other.root.read_attributes() == {"x": 1}
    store.root.write_attributes({"x": 2})
    store.root.create_group("late")
    store.close()
    with ZarrStore(path, fs=fs) as other:
        assert other.root.read_attributes() == {"x": 2}
        assert list(other.root.children()) == ["g", "late"]


def test_abandoned_store_has_no_root(memory: tuple[Any, str]) -> None:
    fs, path = memory
    with ZarrStore(path, mode="w", fs=fs, new=NewObjects(fs, path, path)) as store:
        fill(store)
    with pytest.raises(UnknownFormatError):
        ZarrStore(path, fs=fs)
    with ZarrStore(path, mode="w", fs=fs) as store:
        assert store.root.read_attributes() == {}


def test_existing_and_missing(memory: tuple[Any, str]) -> None:
    fs, path = memory
    for mode in ("r", "r+"):
        with pytest.raises(NotFoundError, match="memory://x"):
            ZarrStore(path, mode=mode, fs=fs, url="memory://x")
    with ZarrStore(path, mode="w", fs=fs) as store:
        fill(store)
        with pytest.raises(AlreadyExistsError):
            ZarrStore(path, mode="w", fs=fs)
        store.root.group("g").remove("plain")
        assert sorted([*store.root.group("g").children(), "plain"]) == sorted(LAYOUTS)
        with pytest.raises(NotFoundError):
            store.root.group("g").remove("plain")
    with ZarrStore(path, mode="r+", fs=fs) as store:
        store.root.group("g").create_array("plain", make()).write(None, 7)
        assert (store.root.array("g/plain").read() == 7).all()


def test_damaged_consolidated_metadata_are_not_used(memory: tuple[Any, str]) -> None:
    fs, path = memory
    with ZarrStore(path, mode="w", fs=fs) as store:
        fill(store)
        store.consolidate()
    whole = fs.cat_file(f"{path}/zarr.json")
    fs.pipe_file(f"{path}/zarr.json", whole.replace(b'"regular"', b'"irregular"'))
    with ZarrStore(path, fs=fs) as store:
        check(store)


def test_nodes_that_consolidated_metadata_miss(memory: tuple[Any, str]) -> None:
    fs, path = memory
    with ZarrStore(path, mode="w", fs=fs) as store:
        fill(store)
        store.consolidate()
    zarr.create_array(f"memory:/{path}", name="g/late", shape=(3,), dtype="i2", zarr_format=3)
    with ZarrStore(path, fs=fs) as store:
        assert store.root.array("g/late").spec.shape == (3,)
        with pytest.raises(NotFoundError):
            store.root.array("g/later")


def test_local_filesystem_of_fsspec_is_the_disk(tmp_path: Path) -> None:
    fs = fsspec.filesystem("file")
    with ZarrStore(str(tmp_path / "s.zarr"), mode="w", fs=fs) as store:
        fill(store)
    with ZarrStore(str(tmp_path / "s.zarr")) as store:
        check(store)


# S3 ----------------------------------------------------------------------------------------------


def test_round_trip_on_s3(s3: Any) -> None:
    url = f"s3://{s3.bucket}/some/store.zarr"
    fs, path = filesystem(url, s3.options)
    with pytest.raises(NotFoundError, match="s3://"):
        ZarrStore(path, fs=fs, url=url)
    with ZarrStore(path, mode="w", fs=fs, url=url, new=NewObjects(fs, path, url)) as store:
        fill(store)
        labels = ArraySpec(shape=(2,), dtype=STRING, layout=ChunkLayout(chunks=(2,)))
        store.root.create_array("labels", labels).write(None, ["a", "ü"])
        store.consolidate()
    with ZarrStore(path, fs=fs, url=url) as store:
        check(store)
        assert store.root.array("labels").read().tolist() == ["a", "ü"]
    with ZarrStore(path, mode="r+", fs=fs, url=url) as store:
        array = store.root.array("g/both")
        assert Capability.RAW_WRITE in array.capabilities
        values = random_values("float32") + 1
        array.write_encoded(
            (0, 0, 0), [encoded(array.spec, values, key) for key in np.ndindex(2, 2, 2)]
        )
        np.testing.assert_array_equal(decoded(array)[:8, :8, :4], values[:8, :8, :4])
        array.write((slice(8, 9), slice(0, 10), slice(0, 5)), values[8:9])
        np.testing.assert_array_equal(decoded(array)[8], values[8])
        array.write_encoded((0, 0, 0), [None] * 8)
        assert array.refs([(0, 0, 0)]) == [None]
        store.root.remove("labels")
        assert list(store.root.children()) == ["g"]
    with ZarrStore(path, fs=fs, url=url) as store:
        assert list(store.root.children()) == ["g"]
        assert store.root.array("g/both").refs([(0, 0, 0)]) == [None]


def test_few_requests_on_s3(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    url = f"s3://{s3.bucket}/store.zarr"
    fs, path = filesystem(url, s3.options)
    with ZarrStore(path, mode="w", fs=fs, url=url) as store:
        fill(store)
        store.consolidate()
    log: list[str] = []
    original = s3fs.S3FileSystem._call_s3

    async def call(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        log.append(method)
        return await original(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", call)
    for layout, located in (
        ("plain", []),
        ("both", ["get_object"]),  # the index, from the end of its shard
    ):
        log.clear()
        with ZarrStore(path, fs=fs, url=url) as store:
            array = store.root.array(f"g/{layout}")
            (ref,) = array.refs([(0, 0, 0)])
            assert ref is not None
            array.fetch([ref.range])
        assert log.count("list_objects_v2") <= 1  # which older s3fs sends by another way
        assert [one for one in log if one != "list_objects_v2"] == [
            "get_object",
            *located,
            "get_object",
        ]


# Web servers -------------------------------------------------------------------------------------


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """A file server that serves ranges and lists nothing."""

    log: ClassVar[list[tuple[str, str]]] = []

    def _answer(self, *, body: bool) -> None:
        self.log.append((self.command, self.path))
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        status, asked = 200, self.headers.get("Range")
        if asked:
            first, last = asked.removeprefix("bytes=").split("-")
            status, data = 206, data[int(first) : int(last) + 1] if first else data[-int(last) :]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """Filesystem and URL of a server of `tmp_path`."""
    RangeHandler.log.clear()
    handler = functools.partial(RangeHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield fsspec.filesystem("http"), f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_reading_from_a_web_server(web: tuple[Any, str], tmp_path: Path) -> None:
    fs, url = web
    with ZarrStore(str(tmp_path / "s.zarr"), mode="w") as store:
        fill(store)
        store.root.array("g/plain").write_encoded((0, 0, 0), [None])
        store.consolidate()
    with ZarrStore(f"{url}/s.zarr", fs=fs) as store:
        assert list(store.root.group("g").children()) == sorted(LAYOUTS)
        for layout in ("transposed", "both"):
            array = store.root.array(f"g/{layout}")
            np.testing.assert_array_equal(array.read(), random_values("float32"))
            np.testing.assert_array_equal(decoded(array), random_values("float32"))
        refs = store.root.array("g/plain").refs(list(np.ndindex(3, 3, 3)))
        assert [ref is None for ref in refs] == [True] + [False] * 26
        with pytest.raises(ReadOnlyError):
            store.root.remove("g")
    for mode in ("w", "r+"):
        with pytest.raises(ReadOnlyError, match="web"):
            ZarrStore(f"{url}/s.zarr", mode=mode, fs=fs)
    with pytest.raises(NotFoundError):
        ZarrStore(f"{url}/nothing.zarr", fs=fs)


def test_web_servers_do_not_list(web: tuple[Any, str], tmp_path: Path) -> None:
    fs, url = web
    with ZarrStore(str(tmp_path / "s.zarr"), mode="w") as store:
        fill(store)
    with ZarrStore(f"{url}/s.zarr", fs=fs) as store:
        check_one = store.root.array("g/both")
        np.testing.assert_array_equal(decoded(check_one), random_values("float32"))
        with pytest.raises(StorageError, match="consolidate"):
            store.root.children()


def test_shard_that_became_shorter(memory: tuple[Any, str]) -> None:
    fs, path = memory
    with ZarrStore(path, mode="w", fs=fs) as store:
        fill(store)
    name = f"{path}/g/sharded/c/0/0/0"
    with ZarrStore(path, fs=fs) as store:
        array = store.root.array("g/sharded")
        (ref,) = array.refs([(1, 1, 1)])
        assert ref is not None
        fs.pipe_file(name, fs.cat_file(name)[: ref.range.offset + 1])
        with pytest.raises(CorruptDataError):
            array.fetch([ref.range])
