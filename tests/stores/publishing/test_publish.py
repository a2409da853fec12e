"""New stores appear whole, or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from fmristore_stores.edit import edit_store
from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.io import flushing
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import Store
from fmristore_stores.publishing import publish
from fmristore_stores.publishing.leftovers import find_leftovers
from fmristore_stores.publishing.publish import create_store, publish_file
from fmristore_stores.spec import ArraySpec, ChunkLayout

SPEC = ArraySpec(shape=(6,), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(2,)))
KINDS = ["h5", "zarr"]


def fill(store: Store, number: int) -> None:
    store.root.write_attributes({"number": number})
    store.root.create_array("0", SPEC).write(None, np.full(6, number))


def make(url: Any, number: int, **options: Any) -> None:
    with create_store(url, **options) as store:
        fill(store, number)


def number_in(url: Any, **options: Any) -> int:
    with open_store(url, **options) as store:
        number = int(store.root.read_attributes()["number"])
        assert (store.root.array("0").read() == number).all()
        return number


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Memory:
    """A folder of the filesystem in memory."""

    def __init__(self) -> None:
        self.url = f"memory://{uuid.uuid4().hex}"
        self.fs = fsspec.filesystem("memory")
        self.fs.mkdir(self.url)

    def __truediv__(self, name: str) -> str:
        return f"{self.url}/{name}"


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links; zarr-python, which needs them, is let through."""
    link = os.link

    def refuse(source: Any, *args: Any) -> None:
        if ".h5." in str(source):
            raise OSError(errno.EPERM, "no hard links here")
        link(source, *args)

    monkeypatch.setattr(os, "link", refuse)


def listed(place: Path | Memory) -> list[str]:
    if isinstance(place, Path):
        return names(place)
    return sorted(name.rsplit("/", 1)[-1] for name in place.fs.ls(place.url, detail=False))


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | Memory:
    return tmp_path if request.param == "local" else Memory()


# Whole or not at all -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_appears_when_the_block_ends(place: Any, kind: str) -> None:
    url = place / f"a.{kind}"
    with create_store(url) as store:
        fill(store, 1)
        if isinstance(place, Path):
            assert not os.path.lexists(url)
        elif kind == "zarr":
            assert not place.fs.exists(f"{url}/zarr.json")
        with pytest.raises(NotFoundError if kind == "h5" else FmristoreError):
            open_store(url)
    assert store.closed
    assert number_in(url) == 1
    assert listed(place) == [f"a.{kind}"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        KeyError("k"),
        OSError("of the user"),
        KeyboardInterrupt(),
        CorruptDataError("c"),
    ],
)
def test_an_exception_leaves_everything_as_it_was(
    place: Any, kind: str, old: bool, error: BaseException
) -> None:
    url = place / f"a.{kind}"
    if old:
        make(url, 1)

    def fail() -> None:
        with create_store(url, overwrite=old) as store:
            fill(store, 2)
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert listed(place) == ([f"a.{kind}"] if old else [])
    if old:
        assert number_in(url) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_errors_about_other_files_are_not_taken_for_ours(place: Any, kind: str) -> None:
    with (
        pytest.raises(FileNotFoundError) as caught,
        create_store(place / f"a.{kind}"),
    ):
        Path("/no/such/file").read_bytes()
    assert not isinstance(caught.value, FmristoreError)
    assert listed(place) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [True, False])
def test_a_check_sees_the_whole_store_and_may_stop_it(place: Any, kind: str, old: bool) -> None:
    url = place / f"a.{kind}"
    if old:
        make(url, 1)
    seen = []

    def check(store: Store) -> None:
        seen.append(store.root.read_attributes()["number"])
        assert (store.root.array("0").read() == seen[-1]).all()
        if not old:
            with pytest.raises(FmristoreError):
                open_store(url)
        if seen[-1] == 2:
            raise CorruptDataError("not as it should be")

    with (
        pytest.raises(CorruptDataError, match="should be"),
        create_store(url, overwrite=old, check=check) as store,
    ):
        fill(store, 2)
    assert listed(place) == ([f"a.{kind}"] if old else [])
    if old:
        assert number_in(url) == 1
    make(url, 3, overwrite=old, check=check)
    assert seen == [2, 3]
    assert number_in(url) == 3
    assert listed(place) == [f"a.{kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_overwriting(place: Any, kind: str) -> None:
    url = place / f"a.{kind}"
    make(url, 1)
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        make(url, 2)
    assert number_in(url) == 1
    with create_store(url, overwrite=True) as store:
        fill(store, 3)
        assert number_in(url) == 1
    assert number_in(url) == 3
    make(place / f"new.{kind}", 4, overwrite=True)
    assert number_in(place / f"new.{kind}") == 4
    assert listed(place) == [f"a.{kind}", f"new.{kind}"]


def test_an_old_store_of_more_arrays_leaves_nothing_behind(place: Any) -> None:
    url = place / "a.zarr"
    with create_store(url) as store:
        fill(store, 1)
        store.root.create_group("g").create_array("old", SPEC).write(None, 1)
    make(url, 2, overwrite=True)
    with open_store(url) as store:
        assert list(store.root.children()) == ["0"]
    if isinstance(place, Memory):
        assert not [name for name in place.fs.find(url) if "old" in name or "partial" in name]


# Names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_all_kinds(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    long = "n" * (255 - len(kind) - 1) + f".{kind}"
    for number, name in enumerate(
        (f"a b's ü 影.{kind}", f"100%#?.{kind}", f"-x.{kind}", f".hidden.{kind}", long)
    ):
        make(tmp_path / name, number)
        assert number_in(tmp_path / name) == number
        make(tmp_path / name, number + 1, overwrite=True)
        assert number_in(f"file://{tmp_path}/{name}") == number + 1
    make(f"~/home.{kind}", 8)
    make(f"relative.{kind}", 9)
    assert number_in(tmp_path / f"home.{kind}") == 8
    assert number_in(f"~/relative.{kind}") == 9
    assert len(names(tmp_path)) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_a_destination_that_is_a_link_stays_one(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    make(folder / f"real.{kind}", 1)
    link = tmp_path / f"link.{kind}"
    link.symlink_to(folder / f"real.{kind}")
    with pytest.raises(AlreadyExistsError):
        make(link, 2)
    make(link, 2, overwrite=True)
    assert link.is_symlink()
    assert number_in(folder / f"real.{kind}") == 2
    dangling = tmp_path / f"dangling.{kind}"
    dangling.symlink_to(folder / f"new.{kind}")
    make(dangling, 3)
    assert number_in(folder / f"new.{kind}") == 3
    assert names(folder) == [f"new.{kind}", f"real.{kind}"]


def test_the_name_or_an_argument_tells_the_kind(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"\.zarr"):
        make(tmp_path / "a.nii", 1)
    make(tmp_path / "a.dat", 1, kind="hdf5")
    make(tmp_path / "b.h5", 2, kind="zarr")
    assert (tmp_path / "a.dat").is_file()
    assert (tmp_path / "b.h5").is_dir()
    assert number_in(tmp_path / "b.h5") == 2


# What is not replaced ----------------------------------------------------------------------------


def test_nothing_but_its_own_kind_is_replaced(tmp_path: Path) -> None:
    photos = tmp_path / "photos.zarr"
    photos.mkdir()
    (photos / "cat.jpg").write_text("cat")
    (tmp_path / "file.zarr").write_text("text")
    (tmp_path / "folder.h5").mkdir()
    for name in ("photos.zarr", "file.zarr", "folder.h5"):
        for overwrite in (False, True):
            with pytest.raises(AlreadyExistsError):
                make(tmp_path / name, 1, overwrite=overwrite)
    assert (photos / "cat.jpg").read_text() == "cat"
    assert (tmp_path / "file.zarr").read_text() == "text"
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(AlreadyExistsError):
        make(tmp_path / "empty.zarr", 1)
    make(tmp_path / "empty.zarr", 1, overwrite=True)
    assert number_in(tmp_path / "empty.zarr") == 1
    assert len(names(tmp_path)) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_folders_are_made(tmp_path: Path, kind: str) -> None:
    make(tmp_path / f"new/folder/a.{kind}", 1)
    assert number_in(tmp_path / f"new/folder/a.{kind}") == 1
    (tmp_path / "file").write_text("text")
    for parent in ("file", "file/folder"):
        with pytest.raises(NotFoundError, match="folder"):
            make(tmp_path / parent / f"a.{kind}", 1)
    assert names(tmp_path) == ["file", "new"]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_that_were_made_go_with_a_store_that_fails(tmp_path: Path, kind: str) -> None:
    (tmp_path / "old").mkdir()
    for folder in ("new/folder", "old/folder"):
        with (
            pytest.raises(InvalidInputError, match="no"),
            create_store(tmp_path / folder / f"a.{kind}"),
        ):
            raise InvalidInputError("no")
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, kind: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        with pytest.raises(StorageError):
            make(folder / f"a.{kind}", 1)
    assert names(folder) == []
    folder.chmod(0o700)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(number, os.strerror(number), args[0])

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError):
        make(folder / f"a.{kind}", 1)
    monkeypatch.undo()
    assert names(folder) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.h5", "https://127.0.0.1:9/a.zarr"])
def test_the_web_is_not_written(url: str) -> None:
    with pytest.raises(ReadOnlyError):
        make(url, 1)


# Races and sudden ends ---------------------------------------------------------------------------


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    head = """
    import os, sys, time
    import numpy as np
    from fmristore_stores.errors import AlreadyExistsError
    from fmristore_stores.publishing.publish import create_store
    from fmristore_stores.spec import ArraySpec, ChunkLayout

    SPEC = ArraySpec(shape=(6,), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(2,)))

    def fill(store, number):
        store.root.write_attributes({"number": number})
        store.root.create_array("0", SPEC).write(None, np.full(6, number))

    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(code), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old", [True, False])
def test_a_process_that_is_killed_leaves_the_old_store(
    tmp_path: Path, kind: str, old: bool
) -> None:
    url = tmp_path / f"a.{kind}"
    if old:
        make(url, 1)
    process = run(
        """
        with create_store(sys.argv[1], overwrite=True) as store:
            fill(store, 2)
            print("now", flush=True)
            time.sleep(600)
        """,
        str(url),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if old:
        assert number_in(url) == 1
    else:
        assert not os.path.lexists(url)
    assert all(name.startswith(".") for name in names(tmp_path) if name != url.name)
    assert [text for text in find_leftovers(str(url)) if "which is gone" in text]
    make(url, 3, overwrite=old)
    assert number_in(url) == 3
    assert names(tmp_path) == [url.name]
    assert find_leftovers(str(url)) == []


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_of_two_processes_that_create_a_store_one_wins(tmp_path: Path, kind: str) -> None:
    code = """
    wins = []
    print("ready", flush=True)
    for round, line in enumerate(sys.stdin):
        try:
            with create_store(f"{sys.argv[1]}/{round}.{sys.argv[2]}") as store:
                fill(store, int(sys.argv[3]))
            wins.append("1")
        except AlreadyExistsError:
            wins.append("0")
    print("".join(wins))
    """
    rounds = 40
    processes = [run(code, str(tmp_path), kind, str(number)) for number in (1, 2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n" * rounds)
        process.stdin.flush()
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        answers.append(out.strip())
    for number, (one, other) in enumerate(zip(*answers, strict=True)):
        assert {one, other} == {"0", "1"}
        assert number_in(tmp_path / f"{number}.{kind}") == (1 if one == "1" else 2)
    assert len(names(tmp_path)) == rounds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("links", [True, False])
def test_a_name_that_is_taken_at_the_last_moment(
    tmp_path: Path, kind: str, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tmp_path / f"a.{kind}"
    real = publish._check_free
    calls = 0

    def late(target: str, **options: Any) -> None:
        nonlocal calls
        calls += 1
        real(target, **options)
        if calls == 2:
            monkeypatch.setattr(publish, "_check_free", real)
            make(url, 1)

    if not links:
        without_links(monkeypatch)
    monkeypatch.setattr(publish, "_check_free", late)
    with pytest.raises(AlreadyExistsError):
        make(url, 2)
    assert number_in(url) == 1
    assert names(tmp_path) == [url.name]


@pytest.mark.parametrize("kind", KINDS)
def test_file_systems_without_hard_links_and_exchange(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_links(monkeypatch)
    monkeypatch.setattr(publish, "_exchange", lambda *names: False)
    make(tmp_path / f"a.{kind}", 1)
    make(tmp_path / f"a.{kind}", 2, overwrite=True)
    assert number_in(tmp_path / f"a.{kind}") == 2
    assert names(tmp_path) == [f"a.{kind}"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_c_library_that_cannot_exchange(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    make(tmp_path / f"a.{kind}", 1)
    assert not publish._exchange(str(tmp_path / f"a.{kind}"), str(tmp_path / f"a.{kind}"))
    make(tmp_path / f"a.{kind}", 2, overwrite=True)
    assert number_in(tmp_path / f"a.{kind}") == 2
    assert names(tmp_path) == [f"a.{kind}"]


def test_what_is_synced_may_have_to_be_open_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which does not sync folders."""
    modes: list[int] = []

    def sync(descriptor: int) -> None:
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)

    (tmp_path / "file").write_bytes(b"x")
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(flushing, "_TO_SYNC", os.O_RDWR)
    monkeypatch.setattr(os, "fsync", sync)
    flushing.sync(str(tmp_path / "file"))
    assert modes == [os.O_RDWR]


_NO_FORKS = """
import os, sys
for name in ("fork", "forkpty", "register_at_fork", "pread", "pwrite", "preadv", "writev"):
    delattr(os, name)
del os.O_DIRECTORY
import numpy as np
import fmristore as fs
url, values = sys.argv[1], np.arange(24, dtype="i2").reshape(2, 3, 4)
fs.NeuroVol.create(values, url, space=np.eye(4)).close()
with fs.open(url) as image:
    assert np.array_equal(np.asarray(image), values)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there it is so")
@pytest.mark.parametrize("name", ["a.h5", "a.ome.zarr"])
def test_a_system_without_forks(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", _NO_FORKS, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_directories_are_exchanged_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a.zarr", 1)
    if not publish._exchange(str(tmp_path / "a.zarr"), str(tmp_path / "a.zarr")):
        pytest.skip("this system cannot exchange names")
    renamed: list[Any] = []
    monkeypatch.setattr(publish, "_rename", lambda *names: renamed.append(names))
    make(tmp_path / "a.zarr", 2, overwrite=True)
    assert renamed == []
    assert number_in(tmp_path / "a.zarr") == 2


@pytest.mark.parametrize("then", ["create", "overwrite", "change"])
def test_a_copy_that_fails_loses_nothing(monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """The next writer completes it, whatever it is about to do itself."""
    place = Memory()
    url = place / "a.zarr"
    make(url, 1)
    copied = 0

    def copy(self: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal copied
        copied += 1
        if copied >= 3:
            raise OSError("the service went away")
        real(self, *args, **kwargs)

    real = type(place.fs).cp_file
    monkeypatch.setattr(type(place.fs), "cp_file", copy)
    with pytest.raises(StorageError, match="complete at") as caught:
        make(url, 2, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(StorageError, match="being replaced by process"):
        open_store(url)
    (partial,) = [name for name in listed(place) if name.endswith(".partial")]
    assert partial in str(caught.value)
    assert number_in(place / partial) == 2
    match then:
        case "create":
            with pytest.raises(AlreadyExistsError):
                make(url, 3)
            assert number_in(url) == 2
        case "overwrite":
            make(url, 3, overwrite=True)
            assert number_in(url) == 3
        case "change":
            with edit_store(url) as store:
                assert store.root.read_attributes()["number"] == 2
            assert number_in(url) == 2
    assert listed(place) == ["a.zarr"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_that_fails_for_a_moment_is_made_again(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = Memory()
    url = place / f"a.{kind}"
    make(url, 1)
    failures = iter([1])

    def copy(self: Any, *args: Any, **kwargs: Any) -> None:
        if next(failures, 0):
            raise OSError("the service went away")
        real(self, *args, **kwargs)

    real = type(place.fs).cp_file
    monkeypatch.setattr(type(place.fs), "cp_file", copy)
    make(url, 2, overwrite=True)
    assert number_in(url) == 2
    assert listed(place) == [f"a.{kind}"]


# Single files ------------------------------------------------------------------------------------


def test_publishing_a_file(place: Any) -> None:
    url = str(place / "a.bin")
    with publish_file(url) as path:
        Path(path).write_bytes(b"new")
        assert not listed(place) or listed(place)[0].startswith(".a.bin")
    assert listed(place) == ["a.bin"]
    with pytest.raises(AlreadyExistsError), publish_file(url):
        pass

    def fail() -> None:
        with publish_file(url, overwrite=True) as path:
            Path(path).write_bytes(b"other")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    with publish_file(url, overwrite=True) as path:
        Path(path).write_bytes(b"newer")
    found = Path(url).read_bytes() if isinstance(place, Path) else place.fs.cat_file(url)
    assert found == b"newer"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FmristoreError), publish_file(str(tmp_path / "a.bin")):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_is_looked_at_while_it_is_flushed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waits for the other: the one for the disk, the other computes."""
    flushing, looked = threading.Event(), threading.Event()

    def sync(path: str) -> None:
        flushing.set()
        assert looked.wait(60)

    def check(store: Store) -> None:
        assert flushing.wait(60)
        assert store.root.read_attributes()["number"] == 1
        looked.set()

    monkeypatch.setattr(publish, "sync", sync)
    make(tmp_path / f"x.{kind}", 1, check=check)
    assert number_in(tmp_path / f"x.{kind}") == 1


def test_all_of_a_folder_is_flushed_once_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tmp_path / "x.zarr"
    flushed: list[str] = []

    def sync(path: str) -> None:
        assert not url.exists() or path == str(tmp_path)
        flushed.append(path)

    monkeypatch.setattr(publish, "sync", sync)
    with publish.publish_folder(str(url)) as folder:
        for name in ("a", "b/c", "b/d/e", "b/d/f", *(f"many/{n}" for n in range(40))):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        Path(folder, "b/link").symlink_to("d")
        Path(folder, "empty").mkdir()
        there = [path for path in (Path(folder), *Path(folder).rglob("*")) if path.name != "link"]
        expected = [*map(str, there), str(tmp_path)]
    assert sorted(flushed) == sorted(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_flushed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = flushing.sync

    def refuse(path: str) -> None:
        if path == str(tmp_path):
            raise OSError(errno.EMFILE, "Too many open files", path)
        real(path)

    monkeypatch.setattr(publish, "sync", refuse)
    with pytest.raises(StorageError, match=rf"x\.{kind}.*Too many open files"):
        make(tmp_path / f"x.{kind}", 1)


def test_a_store_that_cannot_be_looked_into_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "x.zarr", 1)

    def refuse(path: Path, **options: Any) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", refuse)
        with pytest.raises(AccessDeniedError, match=r"x\.zarr"):
            make(tmp_path / "x.zarr", 2, overwrite=True)
    assert number_in(tmp_path / "x.zarr") == 1


class Unlisted(MemoryFileSystem):  # type: ignore[misc]
    """Memory whose folders cannot be listed, for reasons of its own."""

    protocol = "unlisted"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    broken: ClassVar[list[str]] = []

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        if path.strip("/").rpartition("/")[2] in self.broken:
            raise ArithmeticError("the service counts wrongly")
        return super().ls(path, detail=detail, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_listed_is_tidied_up_another_time(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write below a prefix alone can replace a store, and verify it."""
    fsspec.register_implementation("unlisted", Unlisted, clobber=True)
    url = f"unlisted://{uuid.uuid4().hex}/x.{kind}"
    make(url, 1)
    monkeypatch.setattr(Unlisted, "broken", [url.split("/")[2]])
    make(url, 2, overwrite=True)
    assert number_in(url) == 2
    with pytest.raises(StorageError, match="the service counts wrongly"):
        find_leftovers(url)
