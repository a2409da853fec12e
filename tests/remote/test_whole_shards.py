"""Shards that are read whole: one request for each, which brings the index along."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec

from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import ChangedError, FmristoreError
from fmristore_stores.io.lifetime import Version
from fmristore_stores.io.location import filesystem
from fmristore_stores.io.sources import FsspecSource
from fmristore_stores.opening import open_store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout
from fmristore_stores.zarr.shards import ChunkLocator
from tests.conftest import S3Server
from tests.servers.proxy import Proxy, run_proxy

LENGTH = 4092
SHARD = 1000
SPEC = ArraySpec(
    shape=(LENGTH,), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(100,), shards=(SHARD,))
)
SHARDS = 5
INDEX = 10 * 16 + 4
VALUES = np.random.default_rng(0).integers(0, 2**31, LENGTH).astype("i4")


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    CHUNK_CACHE.clear()


@pytest.fixture
def proxied(s3_endpoint: str, s3: S3Server) -> Iterator[tuple[Proxy, S3Server]]:
    """A bucket through a proxy that counts."""
    with run_proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        yield proxy, S3Server(s3.bucket, s3.options | {"endpoint_url": proxy.url})


def make(url: str, options: Any = None, values: Any = VALUES, *, overwrite: bool = False) -> None:
    with create_store(url, storage_options=options, overwrite=overwrite) as store:
        store.root.write_attributes({"of": uuid.uuid4().hex})  # no two stores have the same root
        store.root.create_array("a", SPEC).write(None, values)


def reader(store: Any) -> ChunkReader:
    return ChunkReader(store.root.array("a"), missing="error", url=store.url)


def chunk_requests(proxy: Proxy) -> list[Any]:
    return [request for request in proxy.log if "/a/c/" in request.path]


def test_one_request_for_each_shard(proxied: tuple[Proxy, S3Server]) -> None:
    proxy, server = proxied
    make(server.url("a.zarr"), server.options)
    with open_store(server.url("a.zarr"), storage_options=server.options) as store:
        array = reader(store)
        proxy.clear()
        np.testing.assert_array_equal(array.read(), VALUES)
        assert len(chunk_requests(proxy)) == SHARDS
        assert len(proxy.log) == SHARDS + 1  # whether the root is still the same
        CHUNK_CACHE.clear()
        proxy.clear()
        np.testing.assert_array_equal(array.read(), VALUES)
        assert len(proxy.log) == array.cost().requests == SHARDS


def test_a_plan_asks_for_indexes_alone_and_is_what_a_read_does(
    proxied: tuple[Proxy, S3Server],
) -> None:
    proxy, server = proxied
    make(server.url("a.zarr"), server.options)
    with open_store(server.url("a.zarr"), storage_options=server.options) as store:
        array = reader(store)
        proxy.clear()
        cost = array.cost()
        assert {request.range for request in chunk_requests(proxy)} == {f"bytes=-{INDEX}"}
        proxy.clear()
        np.testing.assert_array_equal(array.read(), VALUES)
        asked = [request.range.removeprefix("bytes=") for request in chunk_requests(proxy)]
        ends = [tuple(map(int, one.split("-"))) for one in asked]
        assert len(asked) == cost.requests
        assert sum(last - first + 1 for first, last in ends) == cost.fetched_bytes


@pytest.mark.parametrize(
    ("region", "whole", "indexes"),
    [(slice(1000, 3000), 2, 0), (slice(4000, 4092), 0, 0), (slice(950, 3050), 2, 2)],
    ids=["two", "one chunk at the edge", "two and parts of two"],
)
def test_only_shards_that_are_wanted_whole(
    proxied: tuple[Proxy, S3Server], region: slice, whole: int, indexes: int
) -> None:
    proxy, server = proxied
    make(server.url("a.zarr"), server.options)
    with open_store(server.url("a.zarr"), storage_options=server.options) as store:
        array = reader(store)
        proxy.clear()
        np.testing.assert_array_equal(array.read((region,)), VALUES[region])
        asked = [request.range for request in chunk_requests(proxy)]
        assert sum(one.startswith("bytes=0-8388607") for one in asked) == whole
        if whole:
            assert asked.count(f"bytes=-{INDEX}") == indexes


@pytest.mark.parametrize("block", [2500, 4000 + INDEX, 4001 + INDEX])
def test_shards_that_are_longer_than_a_request(
    monkeypatch: pytest.MonkeyPatch, proxied: tuple[Proxy, S3Server], block: int
) -> None:
    """They are taken for shorter ones where codecs might have made them so."""
    proxy, server = proxied
    make(server.url("a.zarr"), server.options)
    monkeypatch.setattr(FsspecSource, "policy", FsspecSource.policy._replace(block=block))
    with open_store(server.url("a.zarr"), storage_options=server.options) as store:
        array = store.root.array("a")
        monkeypatch.setattr(array._locator, "_likely_nbytes", 1)  # type: ignore[attr-defined]
        chunks = ChunkReader(array)
        proxy.clear()
        np.testing.assert_array_equal(chunks.read((slice(0, 2000),)), VALUES[:2000])
        first = [request.range for request in chunk_requests(proxy)]
        assert first.count(f"bytes=0-{block - 1}") == 2
        assert first.count(f"bytes=-{INDEX}") == (0 if block > 4000 + INDEX else 2)
        proxy.clear()
        np.testing.assert_array_equal(chunks.read((slice(2000, 4000),)), VALUES[2000:4000])
        again = [request.range for request in chunk_requests(proxy)]
        assert again.count(f"bytes=0-{block - 1}") == (2 if block > 4000 + INDEX else 0)


@pytest.mark.parametrize("location", ["start", "end"])
def test_shards_of_others(location: Any) -> None:
    url = f"memory://whole-{uuid.uuid4().hex}/a.zarr"
    sharding = ShardingCodec(
        chunk_shape=(100,), codecs=[BytesCodec(), ZstdCodec()], index_location=location
    )
    group = zarr.open_group(url, mode="w", zarr_format=3)
    array = group.create_array(
        "a",
        shape=(LENGTH,),
        chunks=(SHARD,),
        dtype="i4",
        serializer=sharding,
        compressors=None,
        fill_value=7,
    )
    array[:3050] = VALUES[:3050]  # what follows is missing
    expected = np.where(np.arange(LENGTH) < 3050, VALUES, 7)
    with open_store(url) as store:
        found = ChunkReader(store.root.array("a"))
        np.testing.assert_array_equal(found.read((slice(0, 3000),)), expected[:3000])
        np.testing.assert_array_equal(found.read((slice(3000, 4000),)), expected[3000:4000])
        np.testing.assert_array_equal(found.read(), expected)


# Damage -------------------------------------------------------------------------------------------


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda data: bytes(
        byte ^ (0x40 if place == at % len(data) else 0) for place, byte in enumerate(data)
    )


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda _: None,
    "empty": lambda _: b"",
    "shorter than its index": lambda data: data[:20],
    "half": lambda data: data[: len(data) // 2],
    "without its last byte": lambda data: data[:-1],
    "longer": lambda data: data + bytes(5000),
    "an index without its chunks": lambda data: data[-INDEX:],
    "a bit of the index": flipped(-30),
    "a bit of the checksum": flipped(-1),
    "nothing but zeros": lambda data: bytes(len(data)),
}


def outcome(store: Any) -> Any:
    CHUNK_CACHE.clear()
    try:
        return reader(store).read().tolist()
    except FmristoreError as error:
        return type(error), str(error)


@pytest.mark.parametrize("damage", list(DAMAGE))
@pytest.mark.parametrize("place", ["s3", "memory"])
def test_damage_is_told_as_where_indexes_are_read_first(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, damage: str, place: str
) -> None:
    options: Any = None
    url = f"memory://whole-{uuid.uuid4().hex}/a.zarr"
    if place == "s3":
        server = request.getfixturevalue("s3")
        url, options = server.url("a.zarr"), server.options
    make(url, options)
    fs, path = filesystem(url, options)
    changed = DAMAGE[damage](fs.cat_file(f"{path}/a/c/1"))
    if changed is None:
        fs.rm_file(f"{path}/a/c/1")
    else:
        fs.pipe_file(f"{path}/a/c/1", changed)
    fs.invalidate_cache()
    with open_store(url, storage_options=options) as store:
        found = outcome(store)
    with monkeypatch.context() as patch, open_store(url, storage_options=options) as store:
        patch.setattr(ChunkLocator, "_begin", lambda *_: {})
        assert outcome(store) == found
    assert not isinstance(found, list)


# Versions -----------------------------------------------------------------------------------------


def test_the_root_is_asked_for_before_the_shards_are_here(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server
) -> None:
    import s3fs

    make(s3.url("a.zarr"), s3.options)
    checked = threading.Event()
    check, cat_file = Version.check, s3fs.S3FileSystem._cat_file
    held: list[str] = []

    def noted(version: Version) -> None:
        check(version)
        checked.set()

    async def waiting(self: Any, path: str, *args: Any, **kwargs: Any) -> bytes:
        data: bytes = await cat_file(self, path, *args, **kwargs)
        if "/a/c/" in path:
            held.append(path)
            assert await asyncio.to_thread(checked.wait, 20)
        return data

    with open_store(s3.url("a.zarr"), storage_options=s3.options) as store:
        array = reader(store)
        monkeypatch.setattr(Version, "check", noted)
        monkeypatch.setattr(s3fs.S3FileSystem, "_cat_file", waiting)
        np.testing.assert_array_equal(array.read(), VALUES)
    assert len(held) == SHARDS


def test_shards_of_another_version_are_refused(s3: S3Server) -> None:
    make(s3.url("a.zarr"), s3.options)
    with open_store(s3.url("a.zarr"), storage_options=s3.options) as store:
        array = reader(store)
        make(s3.url("a.zarr"), s3.options, VALUES[::-1], overwrite=True)
        with pytest.raises(ChangedError):
            array.read()


def test_a_client_that_sends_more_is_refused() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/more/a", bytes(100))
    source = FsspecSource(memory)
    source._fs = type("Longer", (), {"cat_file": lambda *_, **__: bytes(11), "protocol": "x"})()
    source._fs.unstrip_protocol = lambda path: path
    arrived: list[int] = []
    with pytest.raises(FmristoreError, match="asked for 10 bytes at offset 0 and got 11"):
        source.begin(["/more/a"], 10, lambda number, _: arrived.append(number), lambda: None)
    assert not arrived
