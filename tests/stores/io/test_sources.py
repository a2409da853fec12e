"""Where bytes come from: local files, and what fsspec reaches."""

from __future__ import annotations

import gc
import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ClosedError,
    CorruptDataError,
    FmristoreError,
    NotFoundError,
    StorageError,
)
from fmristore_stores.io.block_file import BlockFile
from fmristore_stores.io.clients import check_range
from fmristore_stores.io.sources import (
    ByteSource,
    Folder,
    FsspecSource,
    LocalSource,
    OpenFile,
    storage_error,
)
from fmristore_stores.protocol import Buffer, ByteRange

DATA = bytes(range(256)) * 40


class Careless(MemoryFileSystem):  # type: ignore[misc]
    """A filesystem that ignores one or the other end of a range."""

    cachable = False
    ignores = "both"

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        start = None if self.ignores in ("both", "start") else start
        end = None if self.ignores in ("both", "end") else end
        return bytes(super().cat_file(path, start=start, end=end, **kwargs))


@pytest.fixture(params=["local", "kept", "memory"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ByteSource, str]:
    if request.param == "memory":
        path = f"/{uuid.uuid4().hex}"
        fs = fsspec.filesystem("memory")
        fs.pipe_file(path, DATA)
        return FsspecSource(fs), path
    path = str(tmp_path / "a ü.bin")
    Path(path).write_bytes(DATA)
    return LocalSource(path if request.param == "kept" else None), path


def test_ranges_in_any_order(source: tuple[ByteSource, str]) -> None:
    src, path = source
    places = [(100, 50), (0, 10), (len(DATA) - 5, 5), (0, len(DATA)), (7, 0), (100, 50)]
    found = src.fetch([ByteRange(path, *place) for place in places])
    assert [bytes(data) for data in found] == [DATA[o : o + n] for o, n in places]
    assert src.fetch([]) == []
    assert bytes(src.fetch([ByteRange(path, 3, 4)])[0]) == DATA[3:7]
    assert src.size(path) == len(DATA)
    src.close()
    src.close()


def test_ranges_may_be_read_straight_into_memory(source: tuple[ByteSource, str]) -> None:
    src, path = source
    room = np.zeros(50, np.uint8)
    ranges = [ByteRange(path, 100, 50), ByteRange(path, 3, 4)]
    found = src.fetch(ranges, [room, None])
    assert [bytes(data) for data in found] == [DATA[100:150], DATA[3:7]]
    if isinstance(src, LocalSource) and hasattr(os, "preadv"):
        assert bytes(room) == DATA[100:150]
    with pytest.raises(CorruptDataError, match="truncated"):
        src.fetch([ByteRange(path, len(DATA) - 5, 50)], [room])


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="ranges are copied where this is missing")
@pytest.mark.parametrize("most", [7, 1 << 30])
def test_neighbours_are_read_into_memory_with_one_call(
    tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system reads less than it is asked for."""
    path = tmp_path / "a"
    path.write_bytes(DATA)
    offsets: list[int] = []
    plainly = os.preadv

    def some(descriptor: int, rooms: Any, offset: int) -> int:
        offsets.append(offset)
        return plainly(descriptor, rooms if most > 7 else [rooms[0][:most]], offset)

    monkeypatch.setattr(os, "preadv", some)
    places = [(100, 50), (150, 30), (180, 20), (0, 10), (10, 0), (10, 5), (len(DATA) - 5, 5)]
    rooms = [np.zeros(length, np.uint8) for _, length in places]
    source = LocalSource()
    found = source.fetch([ByteRange(str(path), *place) for place in places], rooms)
    assert [bytes(data) for data in found] == [DATA[o : o + n] for o, n in places]
    assert [bytes(room) for room in rooms] == [DATA[o : o + n] for o, n in places]
    if most > 7:
        assert offsets == [100, 0, len(DATA) - 5]
    beyond = [ByteRange(str(path), len(DATA) - 50, 50), ByteRange(str(path), len(DATA), 30)]
    with pytest.raises(CorruptDataError, match="truncated"):
        source.fetch(beyond, rooms[:2])


@pytest.mark.parametrize("place", [(len(DATA) - 5, 6), (len(DATA) + 10, 5), (0, len(DATA) + 1)])
def test_ranges_beyond_the_end_are_damage(source: tuple[ByteSource, str], place: Any) -> None:
    src, path = source
    with pytest.raises(CorruptDataError, match="truncated"):
        src.fetch([ByteRange(path, *place)])
    with pytest.raises(CorruptDataError, match="truncated"):
        src.fetch([ByteRange(path, 0, 3), ByteRange(path, *place)])


def test_files_that_are_not_there(source: tuple[ByteSource, str]) -> None:
    src, path = source
    with pytest.raises(NotFoundError):
        src.size(path + "x")
    with pytest.raises(NotFoundError):
        src.fetch([ByteRange(path + "x", 0, 1)])
    with pytest.raises(NotFoundError):
        src.fetch([ByteRange(path, 0, 1), ByteRange(path + "x", 0, 1)])


def test_offsets_that_no_file_has(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(DATA)
    for offset in (-1, 2**63 - 1, 2**64):
        with pytest.raises(FmristoreError):
            LocalSource().fetch([ByteRange(str(path), offset, 10)])


@pytest.mark.parametrize("ignores", ["both", "start", "end"])
def test_a_server_that_ignores_ranges_is_noticed(ignores: str) -> None:
    fs = Careless()
    fs.ignores = ignores
    fs.pipe_file("/careless", DATA)
    src = FsspecSource(fs)
    with pytest.raises(CorruptDataError, match="does not serve ranges"):
        src.fetch([ByteRange("/careless", 10, 20)])
    with pytest.raises(CorruptDataError, match="does not serve ranges"):
        src.fetch([ByteRange("/careless", 10, 20), ByteRange("/careless", 50, 20)])
    file = BlockFile(src, "/careless", block=100)
    file.seek(250)
    with pytest.raises(CorruptDataError):
        file.read(10)


class Refusing(MemoryFileSystem):  # type: ignore[misc]
    """A service that has the paths of S3, without the scheme, and refuses every request."""

    cachable = False
    protocol = ("kept", "other")

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        raise RuntimeError("Unable to locate credentials")

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        raise RuntimeError("Unable to locate credentials")


@pytest.mark.parametrize(
    "ask",
    [
        lambda source: source.look("bucket/a.h5", 8),
        lambda source: source.size("bucket/a.h5"),
        lambda source: source.fetch([ByteRange("bucket/a.h5", 0, 8)]),
    ],
    ids=["look", "size", "fetch"],
)
def test_errors_name_the_whole_url(ask: Callable[[FsspecSource], object]) -> None:
    with pytest.raises(AccessDeniedError, match="storage_options") as caught:
        ask(FsspecSource(Refusing()))
    assert caught.value.url == "kept://bucket/a.h5"


def test_an_answer_that_is_too_short_names_the_whole_url() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/short", b"0123")
    with pytest.raises(CorruptDataError) as caught:
        FsspecSource(memory).fetch([ByteRange("/short", 0, 8)])
    assert caught.value.url == memory.unstrip_protocol("/short")
    assert str(caught.value.url).startswith("memory://")


def test_a_kept_file_stays_itself_when_its_name_goes_to_another(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    src = LocalSource(str(path))
    (tmp_path / "b").write_bytes(b"new")
    (tmp_path / "b").replace(path)
    assert bytes(src.fetch([ByteRange(str(path), 0, 3)])[0]) == b"old"
    adopted = LocalSource(str(path), file=OpenFile(os.open(path, os.O_RDONLY)))
    path.unlink()
    assert bytes(adopted.fetch([ByteRange(str(path), 0, 3)])[0]) == b"new"
    adopted.close()
    src.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_local_sources_work_in_forked_children_and_threads(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    Path(path).write_bytes(DATA)
    src = LocalSource(path)

    def read(start: int) -> bool:
        found = [src.fetch([ByteRange(path, i, 9)])[0] for i in range(start, start + 500)]
        return [bytes(f) for f in found] == [DATA[i : i + 9] for i in range(start, start + 500)]

    child = os.fork()
    if child == 0:
        os._exit(0 if read(1000) else 1)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda s=start: results.append(read(s))) for start in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    assert os.waitpid(child, 0)[1] == 0


# A file object ---------------------------------------------------------------------------------


class Counted:
    """Bytes in memory, with a list of the ranges that were asked for."""

    policy = FsspecSource.policy
    version = None

    def __init__(self) -> None:
        self.asked: list[ByteRange] = []

    def fetch(self, ranges: Any, into: Any = ()) -> list[Buffer]:
        self.asked += ranges
        return [DATA[r.offset : r.offset + r.length] for r in ranges]

    def size(self, path: str) -> int:
        return len(DATA)

    def close(self) -> None:
        pass


@given(
    calls=st.lists(st.tuples(st.integers(0, len(DATA) + 20), st.integers(-1, 900)), max_size=20),
    block=st.integers(1, 700),
    keep=st.integers(1, 5),
)
def test_a_block_file_reads_as_a_file_does(
    calls: list[tuple[int, int]], block: int, keep: int
) -> None:
    src = Counted()
    file = BlockFile(src, "x", block=block, keep=keep)
    for position, size in calls:
        assert file.seek(position) == position
        wanted = DATA[position:] if size < 0 else DATA[position : position + size]
        assert file.read(size) == wanted
        assert file.tell() == max(min(position, len(DATA)), position) + len(wanted)
    for asked in src.asked:
        assert asked.offset % block == 0 or 2 * asked.length > keep * block
        assert asked.length > 0
        assert asked.offset + asked.length <= len(DATA)


def test_blocks_are_asked_for_once_and_together() -> None:
    src = Counted()
    file = BlockFile(src, "x", block=100, keep=8)
    file.seek(250)
    file.read(300)
    assert src.asked == [ByteRange("x", 200, 400)]
    file.seek(210)
    file.read(380)
    assert len(src.asked) == 1
    file.seek(-40, os.SEEK_END)
    assert file.read() == DATA[-40:]
    file.seek(-1, os.SEEK_CUR)
    assert file.read(5) == DATA[-1:]
    assert len(src.asked) == 2
    file.close()
    with pytest.raises(ClosedError):
        file.read(1)


def test_a_long_read_goes_past_the_blocks() -> None:
    src = Counted()
    file = BlockFile(src, "x", block=100, keep=8)
    file.read(50)
    file.seek(30)
    assert file.read(5000) == DATA[30:5030]
    assert file.tell() == 5030
    assert src.asked == [ByteRange("x", 0, 100), ByteRange("x", 30, 5000)]
    file.seek(10)
    file.read(50)
    assert len(src.asked) == 2


# Errors ----------------------------------------------------------------------------------------


class AnswerError(Exception):
    """As aiohttp raises it for a status."""

    __module__ = "aiohttp.client_exceptions"

    def __init__(self, status: int | None) -> None:
        super().__init__(f"status {status}")
        self.status = status


def nothing_because(cause: BaseException | None) -> FileNotFoundError:
    error = FileNotFoundError("x")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (FileNotFoundError(2, "no"), NotFoundError),
        (NotADirectoryError(20, "no"), NotFoundError),
        (PermissionError(13, "no"), AccessDeniedError),
        (FileExistsError(17, "there"), AlreadyExistsError),
        (RuntimeError("Unable to locate credentials"), AccessDeniedError),
        (TimeoutError(), StorageError),
        (OSError(28, "full"), StorageError),
        (AnswerError(403), AccessDeniedError),
        (AnswerError(500), StorageError),
        (nothing_because(None), NotFoundError),
        (nothing_because(AnswerError(404)), NotFoundError),
        (nothing_because(AnswerError(403)), AccessDeniedError),
        (nothing_because(AnswerError(503)), StorageError),
        (nothing_because(AnswerError(None)), StorageError),
        (nothing_because(OSError("boto")), NotFoundError),
    ],
)
def test_errors_of_services_become_ours(error: Exception, ours: type[FmristoreError]) -> None:
    found = storage_error(error, "s3://bucket/key")
    assert type(found) is ours
    assert found.url == "s3://bucket/key"
    assert storage_error(found, "elsewhere") is found


# Answers of servers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "answered", "length"),
    [
        ("bytes=10-19", "bytes 10-19/100", 10),
        ("bytes=10-19", "bytes 10-19/*", 10),
        ("bytes=90-120", "bytes 90-99/100", 10),
        ("bytes=0-19", None, 12),
        ("bytes=-5", "bytes 95-99/100", 5),
        ("bytes=-500", "bytes 0-99/100", 100),
        ("bytes=-500", None, 100),
        ("bytes=5-", "bytes 5-99/100", 95),
    ],
)
def test_ranges_that_are_answered(asked: str, answered: str | None, length: int) -> None:
    check_range(asked, answered, length, "url")


@pytest.mark.parametrize(
    ("asked", "answered", "length"),
    [
        ("bytes=10-19", "bytes 11-20/100", 10),
        ("bytes=10-19", "bytes 10-20/100", 11),
        ("bytes=10-19", "nonsense", 10),
        ("bytes=10-19", None, 100),
        ("bytes=10-19", None, None),
        ("bytes=-5", "bytes 0-4/100", 5),
        ("bytes=-5", "bytes 0-99/100", 100),
        ("bytes=-5", None, 100),
    ],
)
def test_other_ranges_are_noticed(asked: str, answered: str | None, length: int | None) -> None:
    with pytest.raises(CorruptDataError):
        check_range(asked, answered, length, "url")


def test_no_cycle_is_collected_while_a_library_waits_inside_its_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """h5py would be asked for its lock by the thread that fetches, and both would wait for ever."""
    seen: list[bool] = []
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/collecting", bytes(range(100)))
    source = FsspecSource(memory)
    plainly = source.fetch

    def fetch(ranges: Any) -> list[Buffer]:
        seen.append(gc.isenabled())
        return plainly(ranges)

    monkeypatch.setattr(source, "fetch", fetch)
    file = BlockFile(source, "/collecting", block=10)
    assert file.read(20) == bytes(range(20))
    assert seen == [False]
    assert gc.isenabled()


def test_a_source_closed_while_it_reads_keeps_its_descriptor_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may belong to another file by then."""
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    (tmp_path / "other").write_bytes(b"xyz")
    source = LocalSource(str(path))
    others: list[int] = []
    plainly = os.pread

    def read(descriptor: int, length: int, offset: int) -> bytes:
        source.close()
        others.extend(os.open(tmp_path / "other", os.O_RDONLY) for _ in range(4))
        return plainly(descriptor, length, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", read)
        wanted = [ByteRange(str(path), 0, 3)]
        assert source.fetch(wanted) == [b"abc"]
        with pytest.raises(ClosedError):
            source.fetch(wanted)
    assert others
    for descriptor in others:
        assert os.pread(descriptor, 3, 0) == b"xyz"
        os.close(descriptor)


def test_ranges_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: one position for all that use a descriptor."""
    monkeypatch.delattr(os, "pread")
    path = str(tmp_path / "a")
    Path(path).write_bytes(DATA)
    source = LocalSource(path)

    def read(start: int) -> bool:
        wanted = [ByteRange(path, (start + i) % 200, 9) for i in range(300)]
        return [bytes(f) for f in source.fetch(wanted)] == [DATA[r[1] : r[1] + 9] for r in wanted]

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(8)))
    with pytest.raises(CorruptDataError, match="truncated"):
        source.fetch([ByteRange(path, len(DATA) - 3, 9)])


@pytest.mark.parametrize("relative", [True, False])
def test_a_folder_stays_the_one_that_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, relative: bool
) -> None:
    """Where files cannot be opened relative to a folder, one that was replaced is noticed."""
    if not relative:
        monkeypatch.delattr(os, "O_DIRECTORY")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    folder = Folder(str(tmp_path / "a"))
    source = LocalSource(folder=folder)
    wanted = ByteRange(str(tmp_path / "a" / "file"), 0, 1)
    assert source.size(wanted.source) == 1
    assert source.fetch([wanted]) == [b"a"]
    assert folder.is_in_place()
    (tmp_path / "a").rename(tmp_path / "old")
    assert not folder.is_in_place()
    (tmp_path / "b").rename(tmp_path / "a")
    assert not folder.is_in_place()
    assert source.fetch([wanted]) == [b"a" if relative else b"b"]
    folder.close()
