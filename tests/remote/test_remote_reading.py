"""What reading over a network costs: requests and bytes, counted by us and by the server."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import ChangedError, NotFoundError
from fmristore_stores.io.block_file import PAGE, BlockFile
from fmristore_stores.io.lifetime import Version
from fmristore_stores.io.sources import FsspecSource, LocalSource
from fmristore_stores.io.stats import Counts, Stats, stats_of
from fmristore_stores.opening import Handle, locate, open_store
from fmristore_stores.protocol import Buffer, ByteRange
from tests.conftest import S3Server
from tests.servers.places import web_place
from tests.servers.process import Facts
from tests.servers.proxy import Proxy, run_proxy

SHAPE = (24, 22, 20, 64)
DATA = np.random.default_rng(1).integers(0, 900, SHAPE).astype(np.int16)
SPACE = fs.NeuroSpace(
    spatial_shape=SHAPE[:3], affine=np.diag([2.0, 2.0, 3.0, 1.0]), time_points=SHAPE[3], tr=1.5
)


def make(url: Any, **options: Any) -> None:
    fs.NeuroVec.create(DATA, url, space=SPACE, **options).close()


@pytest.fixture
def proxied(s3_endpoint: str, s3: S3Server) -> Iterator[tuple[Proxy, S3Server]]:
    """A bucket through a proxy that counts."""
    with run_proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        yield proxy, S3Server(s3.bucket, s3.options | {"endpoint_url": proxy.url})


# How many requests -------------------------------------------------------------------------------

OPEN = 1
"""Requests that open a small HDF5 file on S3: its beginning, with all metadata."""


@pytest.mark.parametrize("codec", ["portable", "dual"])
def test_a_small_hdf5_file(proxied: tuple[Proxy, S3Server], codec: str) -> None:
    proxy, server = proxied
    url = server.url("a.h5")
    make(url, codec=codec, storage_options=server.options)
    proxy.clear()
    with fs.open(url, storage_options=server.options) as image:
        image.affine  # noqa: B018
        assert len(proxy.log) == OPEN
        np.testing.assert_array_equal(image[3, 4, 5], DATA[3, 4, 5])
        asked = len(proxy.log)
        assert asked <= OPEN + 1
        image[3, 4, 5]
        assert len(proxy.log) == asked
        np.testing.assert_array_equal(image[20, 18, 17], DATA[20, 18, 17])
        assert len(proxy.log) == asked + 1
        np.testing.assert_array_equal(np.asarray(image), DATA)


@pytest.mark.parametrize("access", ["time", "volume"])
def test_hdf5_needs_no_more_requests_than_zarr(
    proxied: tuple[Proxy, S3Server], access: str
) -> None:
    """Of the same layout; and reading no more than there are chunks."""
    proxy, server = proxied
    reads = (np.s_[3, 4, 5], np.s_[2:9, 3:10, 4:11], np.s_[..., 7], np.s_[...])
    counts: dict[str, list[int]] = {}
    for kind in ("h5", "ome.zarr"):
        url = server.url(f"a.{kind}")
        make(url, codec="dual", access=access, storage_options=server.options)
        for index in reads:
            proxy.clear()
            with fs.open(url, storage_options=server.options) as image:
                counts.setdefault(kind, []).append(len(proxy.log))
                chunks = image.plan[index].chunks
                proxy.clear()
                image[index]
                counts[kind].append(len(proxy.log))
                if kind == "h5":
                    assert len(proxy.log) <= chunks
    assert all(a <= b for a, b in zip(counts["h5"], counts["ome.zarr"], strict=True)), counts


@pytest.mark.parametrize(
    ("index", "first", "again"), [(np.s_[3, 4, 5], 3, 1), (np.s_[..., 7], 2, 1)]
)
def test_objects_that_were_vouched_for_take_no_request_more(
    proxied: tuple[Proxy, S3Server], index: Any, first: int, again: int
) -> None:
    """The first read of a shard asks for the root too; what comes of it later has its version."""
    proxy, server = proxied
    url = server.url("a.ome.zarr")
    make(url, codec="dual", storage_options=server.options)
    proxy.clear()
    with fs.open(url, storage_options=server.options) as image:
        assert len(proxy.log) == 1  # the root
        for expected in (first, again):
            CHUNK_CACHE.clear()
            proxy.clear()
            np.testing.assert_array_equal(image[index], DATA[index])
            assert len(proxy.log) == expected
            assert sum(request.path.endswith("/zarr.json") for request in proxy.log) == (
                expected == first
            )


@pytest.mark.parametrize("index", [np.s_[3, 4, 5], np.s_[..., 7]])
def test_the_root_is_asked_for_while_chunks_arrive(
    proxied: tuple[Proxy, S3Server], index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, server = proxied
    url = server.url("a.ome.zarr")
    make(url, codec="dual", storage_options=server.options)
    checked = threading.Event()
    check, fetch = Version.check, FsspecSource.fetch

    def noted(version: Version) -> None:
        check(version)
        checked.set()

    def waiting(source: FsspecSource, ranges: Any, into: Any = ()) -> list[Buffer]:
        found = fetch(source, ranges, into)
        if min(item.offset for item in ranges) >= 0:  # not an index, which lies at the end
            assert checked.wait(20)
        return found

    with fs.open(url, storage_options=server.options) as image:
        monkeypatch.setattr(Version, "check", noted)
        monkeypatch.setattr(FsspecSource, "fetch", waiting)
        np.testing.assert_array_equal(image[index], DATA[index])


def test_an_object_of_another_version_is_not_vouched_for(
    proxied: tuple[Proxy, S3Server],
) -> None:
    _, server = proxied
    url = server.url("a.ome.zarr")
    make(url, codec="dual", storage_options=server.options)
    with fs.open(url, storage_options=server.options) as image:
        np.testing.assert_array_equal(image[3, 4, 5], DATA[3, 4, 5])
        values = (DATA + 1).astype(DATA.dtype)
        fs.NeuroVec.create(
            values, url, space=SPACE, codec="dual", overwrite=True, storage_options=server.options
        ).close()
        CHUNK_CACHE.clear()
        with pytest.raises(ChangedError):
            image[3, 4, 5]


def test_a_file_of_others_with_metadata_everywhere(
    proxied: tuple[Proxy, S3Server], tmp_path: Path
) -> None:
    proxy, server = proxied
    values = np.random.default_rng(0).normal(size=(200, 64, 64))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(5):
            file.create_dataset(f"group{number}/a", data=values, chunks=(4, 32, 32))
    make_object(server, tmp_path / "a.h5", "a.h5")
    proxy.clear()
    with open_store(server.url("a.h5"), storage_options=server.options) as store:
        reader = ChunkReader(store.root.array("group4/a"))
        np.testing.assert_array_equal(reader.read(), values)
    sizes = sum(end - begin + 1 for begin, end in map(ends, proxy.log))
    assert sizes < 2 * values.nbytes
    assert {request.method for request in proxy.log} == {"GET"}


def ends(request: Any) -> tuple[int, int]:
    begin, _, end = request.range.removeprefix("bytes=").partition("-")
    return (int(begin), int(end)) if begin else (1, int(end))


def make_object(server: S3Server, path: Path, key: str) -> None:
    import s3fs

    s3fs.S3FileSystem(**server.options).put_file(str(path), f"{server.bucket}/{key}")


# In other processes ------------------------------------------------------------------------------


def in_new_process(pickled: Path) -> str:
    code = """
    import pickle, sys
    from pathlib import Path

    image = pickle.loads(Path(sys.argv[1]).read_bytes())
    print(int(image[20, 18, 17].sum()))
    image.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(pickled)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"PYTHONPATH": ":".join([".", *sys.path]), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", ["a.h5", "a.h5.refs.json"])
def test_the_table_of_chunks_travels(
    proxied: tuple[Proxy, S3Server], tmp_path: Path, name: str
) -> None:
    """A worker asks for the chunk it needs and, of an HDF5 file, for nothing else."""
    proxy, server = proxied
    make(server.url("a.h5"), storage_options=server.options)
    fs.virtualize(server.url("a.h5"), storage_options=server.options)
    with fs.open(server.url(name), storage_options=server.options) as image:
        image[0, 0, 0]
        (tmp_path / "pickled").write_bytes(pickle.dumps(image))
    assert (tmp_path / "pickled").stat().st_size < 256 * 1024
    proxy.clear()
    assert in_new_process(tmp_path / "pickled") == str(int(DATA[20, 18, 17].sum()))
    assert len(proxy.log) == (1 if name == "a.h5" else 2), proxy.log


@pytest.mark.parametrize("codec", ["portable", "dual"])
def test_a_file_that_is_replaced_while_it_is_open(
    proxied: tuple[Proxy, S3Server], codec: str
) -> None:
    _, server = proxied
    url = server.url("a.h5")
    make(url, codec=codec, storage_options=server.options)
    with fs.open(url, storage_options=server.options) as image:
        image[0, 0, 0]
        pickled = pickle.dumps(image)
        make(url, codec=codec, overwrite=True, storage_options=server.options)  # the same again
        with fs.open(url, storage_options=server.options) as again:
            np.testing.assert_array_equal(again[..., 3], DATA[..., 3])
        fs.NeuroVec.create(
            DATA + 1, url, space=SPACE, overwrite=True, storage_options=server.options
        ).close()
        with pytest.raises(ChangedError):
            np.asarray(image)
    with pytest.raises(ChangedError):
        pickle.loads(pickled)[20, 18, 17]
    with fs.open(url, storage_options=server.options) as image:
        np.testing.assert_array_equal(np.asarray(image), DATA + 1)


def test_a_file_that_is_gone(s3: S3Server) -> None:
    import s3fs

    make(s3.url("a.h5"), storage_options=s3.options)
    image = fs.open(s3.url("a.h5"), storage_options=s3.options)
    pickled = pickle.dumps(image)
    image.close()
    s3fs.S3FileSystem(**s3.options).rm_file(f"{s3.bucket}/a.h5")
    with pytest.raises(NotFoundError):
        pickle.loads(pickled)[20, 18, 17]


def test_what_locate_read_is_used_once(s3: S3Server) -> None:
    make(s3.url("a.h5"), storage_options=s3.options)
    stats = stats_of(s3.url("a.h5"))
    with stats.watch() as counted:
        locator = locate(s3.url("a.h5"), storage_options=s3.options)
        handle = Handle(locator, fresh=True)
        handle.store.root.array("0")
        handle.close()
    assert counted.requests == 1
    with stats.watch() as counted:
        handle = Handle(locator, fresh=True)
        handle.store.root.array("0")
        handle.close()
    assert counted.requests == 1


# Counting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h5", "ome.zarr", "h5.refs.json"])
def test_counts_are_those_of_the_server(proxied: tuple[Proxy, S3Server], kind: str) -> None:
    proxy, server = proxied
    make(server.url(f"a.{kind.removesuffix('.refs.json')}"), storage_options=server.options)
    if kind.endswith(".json"):
        fs.virtualize(server.url("a.h5"), storage_options=server.options)
    with fs.open(server.url(f"a.{kind}"), storage_options=server.options) as image:
        for index in (np.s_[3, 4, 5], np.s_[3, 4, 5], np.s_[..., 7], np.s_[...]):
            proxy.clear()
            with image.stats.watch() as read:
                image[index]
            assert read.requests == len(proxy.log)
            ranged = [ends(request) for request in proxy.log if request.range]
            assert read.bytes_fetched == sum(end - begin + 1 for begin, end in ranged)
        assert image.stats.bytes_decoded >= DATA.nbytes
        image.stats.reset()
        assert image.stats.counts == Counts()


def test_counts_on_the_web(nginx: Facts) -> None:
    place = web_place(nginx, "ranges")
    make(place.folder / "a.h5", codec="dual")  # type: ignore[operator]
    path = place.url.rpartition("/")[2]
    with run_proxy(place.port) as proxy, fs.open(f"{proxy.url}/{path}/a.h5") as image:
        assert image.stats.requests == len(proxy.log) == 2
        proxy.clear()
        with image.stats.watch() as read:
            np.testing.assert_array_equal(image[20, 18, 17], DATA[20, 18, 17])
        assert read.requests == len(proxy.log) == 1
        assert read.chunks == 1


@pytest.mark.parametrize("kind", ["h5", "ome.zarr"])
def test_counts_of_local_files(tmp_path: Path, kind: str) -> None:
    make(tmp_path / f"a.{kind}", codec="portable")
    with fs.open(tmp_path / f"a.{kind}") as image:
        cost = image.plan[...].cost
        with image.stats.watch() as read:
            np.asarray(image)
            assert read.requests == cost.requests
        image[3, 4, 5]
    assert read.requests == cost.requests
    assert read.chunks == cost.chunks
    assert read.bytes_fetched == cost.fetched_bytes
    assert read.bytes_decoded == cost.decoded_bytes
    assert "requests" in repr(read)
    assert "requests" in repr(image.stats)


def test_fetches_are_logged(s3: S3Server, caplog: pytest.LogCaptureFixture) -> None:
    url = s3.url("a.h5")
    make(url, storage_options=s3.options)
    with caplog.at_level(logging.DEBUG, "fmristore"):
        with fs.open(url, storage_options=s3.options) as image:
            caplog.clear()
            image[20, 18, 17]
        assert [r.getMessage() for r in caplog.records if "1 requests" in r.getMessage()]
    caplog.clear()
    with caplog.at_level(logging.INFO, "fmristore"):
        with fs.open(url, storage_options=s3.options) as image:
            image[20, 18, 17]
        assert not [r for r in caplog.records if r.name == "fmristore"]


def test_counting_in_many_threads() -> None:
    stats = Stats()

    def work() -> None:
        for _ in range(1000):
            stats.add(requests=1, bytes_fetched=2, chunks=3, bytes_decoded=4)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with stats.watch() as watched:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    stats.add(requests=1)
    expected = Counts(requests=4000, bytes_fetched=8000, chunks=12000, bytes_decoded=16000)
    assert watched.counts == expected
    assert stats.requests == 4001
    name = f"x{uuid.uuid4()}"
    assert stats_of(name) is stats_of(name)


# Parts -------------------------------------------------------------------------------------------


class Memory:
    """Bytes in memory, with a list of what was asked for."""

    policy = LocalSource.policy
    version = None

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[ByteRange] = []

    def fetch(self, ranges: Any, into: Any = ()) -> list[Buffer]:
        self.asked += ranges
        return [self.data[r.offset : r.offset + r.length] for r in ranges]

    def size(self, path: str) -> int:
        return len(self.data)

    def close(self) -> None:
        pass


def test_a_block_file_hands_on_what_was_used() -> None:
    data = np.random.default_rng(2).bytes(10 * PAGE + 100)
    source = Memory(data)
    first = BlockFile(source, "x", block=4 * PAGE, known={0: data[: 2 * PAGE]})
    for position, length in ((10, 5), (3 * PAGE - 2, 4), (len(data) - 50, 80), (0, 20)):
        first.seek(position)
        assert first.read(length) == data[position : position + length]
    assert len(source.asked) == 2
    used = first.used
    assert sorted(used) == [0, 2 * PAGE, 3 * PAGE, 10 * PAGE]
    assert all(data[at : at + len(part)] == part for at, part in used.items())
    again = BlockFile(source, "x", block=4 * PAGE, size=len(data), known=used)
    for position, length in ((100, 50), (2 * PAGE, 2 * PAGE), (len(data) - 100, 100)):
        again.seek(position)
        assert again.read(length) == data[position : position + length]
    assert len(source.asked) == 2
    again.seek(PAGE)
    assert again.read(10) == data[PAGE : PAGE + 10]
    assert len(source.asked) == 3


def test_a_look_at_the_beginning(s3: S3Server) -> None:
    import fsspec

    bucket = fsspec.filesystem("s3", **s3.options)
    bucket.pipe_file(f"{s3.bucket}/a", b"0123456789")
    bucket.pipe_file(f"{s3.bucket}/empty", b"")
    source = FsspecSource(bucket, stats=Stats())
    for length in (4, 10, 100):
        found = source.look(f"{s3.bucket}/a", length)
        assert found.data == b"0123456789"[:length]
        assert (found.size, found.requests) == (10, 1)
        assert found.version == bucket.info(f"{s3.bucket}/a")["ETag"]
    with pytest.raises(NotFoundError):
        source.look(f"{s3.bucket}/b", 4)
    with pytest.raises(NotFoundError):
        source.look(s3.bucket, 4)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/look/a", b"0123")
    found = FsspecSource(memory).look("/look/a", 2)
    assert (found.data, found.size, found.requests) == (b"01", 4, 2)
    with pytest.raises(NotFoundError):
        FsspecSource(memory).look("/look", 2)
