"""Writers of one store take turns, and what they report as written is there."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmristore_stores.edit import edit_store
from fmristore_stores.errors import ChangedError, NotFoundError, StorageError
from fmristore_stores.io.flushing import sync
from fmristore_stores.io.owners import Mark, hidden_name
from fmristore_stores.opening import open_store
from fmristore_stores.publishing import publish
from fmristore_stores.publishing.leftovers import find_leftovers
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.publishing.turns import take_turn
from fmristore_stores.spec import ArraySpec, ChunkLayout

SPEC = ArraySpec(shape=(4,), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(2,)))
KINDS = ["h5", "zarr"]


def make(url: str, number: int = 1, **options: Any) -> None:
    with create_store(url, **options) as store:
        store.root.write_attributes({"number": number, "names": []})
        store.root.create_array("0", SPEC).write(None, np.full(4, number))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def add(url: str, name: str) -> None:
    with edit_store(url) as store:
        attributes = store.root.read_attributes()
        store.root.create_array(name, SPEC).write(None, np.arange(4))
        store.root.write_attributes(attributes | {"names": [*attributes["names"], name]})


def names_in(url: str) -> list[str]:
    with open_store(url) as store:
        names = list(store.root.read_attributes()["names"])
        for name in names:
            assert store.root.array(name).read().tolist() == [0, 1, 2, 3]
        return names


@pytest.fixture(params=["h5", "zarr", "memory-h5", "memory-zarr"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    where, _, kind = request.param.rpartition("-")
    url = f"memory://{uuid.uuid4().hex}/a.{kind}" if where else str(tmp_path / f"a.{kind}")
    make(url)
    return url


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)


def code_of(text: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )


# Two at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("locks", [True, False])
def test_the_second_changes_what_the_first_published(
    url: str, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        without_locks(monkeypatch)
    waiting = threading.Event()
    order: list[str] = []

    def second() -> None:
        waiting.set()
        add(url, "second")
        order.append("second")

    thread = threading.Thread(target=second)
    with edit_store(url) as store:
        attributes = store.root.read_attributes()
        thread.start()
        waiting.wait(300)
        store.root.create_array("first", SPEC).write(None, np.arange(4))
        store.root.write_attributes(attributes | {"names": ["first"]})
        order.append("first")
    thread.join(300)
    assert order == ["first", "second"]
    assert names_in(url) == ["first", "second"]
    assert find_leftovers(url) == []
    if Path(url).exists():
        assert files(Path(url).parent) == [Path(url).name]


def test_one_that_replaces_a_store_waits_for_one_that_changes_it(url: str) -> None:
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        make(url, 2, overwrite=True)

    thread = threading.Thread(target=second)
    with edit_store(url) as store:
        thread.start()
        waiting.wait(300)
        store.root.write_attributes({"number": 1, "names": []})
    thread.join(300)
    with open_store(url) as store:
        assert store.root.read_attributes()["number"] == 2


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_processes_add_at_once_gets_lost(tmp_path: Path, kind: str) -> None:
    url = str(tmp_path / f"a.{kind}")
    make(url)
    code = (
        "import sys\n"
        "from tests.stores.publishing.test_turns import add\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for number in range(4): add(sys.argv[1], f'{sys.argv[2]}-{number}')\n"
    )
    processes = [code_of(code, url, str(number)) for number in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert sorted(names_in(url)) == sorted(f"{p}-{n}" for p in range(3) for n in range(4))
    assert files(tmp_path) == [f"a.{kind}"]


def test_waiting_has_an_end_and_the_error_names_the_owner(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMRISTORE_WAIT", "0")
    raised: list[BaseException] = []

    def second() -> None:
        try:
            add(url, "second")
        except StorageError as error:
            raised.append(error)

    thread = threading.Thread(target=second)
    with edit_store(url):
        thread.start()
        thread.join(300)
        with pytest.raises(StorageError, match="this thread"), edit_store(url):
            pass
    assert f"process {os.getpid()} on" in str(raised[0])
    add(url, "third")
    assert names_in(url) == ["third"]


def test_a_file_that_other_software_changes_meanwhile_is_left_alone(tmp_path: Path) -> None:
    """Compared right before the rename, not only when the change begins."""
    url = str(tmp_path / "a.h5")
    make(url)
    make(str(tmp_path / "b.h5"), 2)
    monkeypatch = pytest.MonkeyPatch()

    def replaced_while_flushing(path: str) -> None:
        if path.endswith(".partial"):
            shutil.copyfile(tmp_path / "b.h5", tmp_path / "c.h5")
            (tmp_path / "c.h5").replace(url)
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(publish, "sync", replaced_while_flushing)
        with pytest.raises(ChangedError, match="meanwhile"):
            add(url, "new")
    with open_store(url) as store:
        assert store.root.read_attributes()["number"] == 2


# After a kill ------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("locks", [True, False])
def test_the_turn_of_a_killed_process_is_free(
    tmp_path: Path, kind: str, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / f"a.{kind}")
    make(url)
    code = (
        "import sys, fcntl\n"
        "from tests.stores.publishing.test_turns import *\n"
        "if sys.argv[2] == 'False': without_locks(pytest.MonkeyPatch())\n"
        "with edit_store(sys.argv[1]) as store:\n"
        "    store.root.create_array('half', SPEC)\n"
        "    print('now', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    process = code_of(code, url, str(locks))
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n", process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if not locks:
        without_locks(monkeypatch)
    add(url, "new")
    assert names_in(url) == ["new"]
    assert files(tmp_path) == [f"a.{kind}"]


@pytest.mark.once
def test_children_of_a_killed_process_do_not_keep_its_turn(tmp_path: Path) -> None:
    """A pool of workers that were forked lives on when its parent is killed."""
    url = str(tmp_path / "a.h5")
    make(url)
    code = (
        "import os, sys\n"
        "from tests.stores.publishing.test_turns import *\n"
        "with edit_store(sys.argv[1]) as store:\n"
        "    reading, writing = os.pipe()\n"
        "    if not os.fork():\n"
        "        os.close(writing)\n"
        "        sys.stdin.readline()\n"
        "        os._exit(0)\n"
        "    os.close(reading)\n"
        "    print('now', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = code_of(code, url)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "now\n", process.communicate()
    process.wait(300)
    try:
        add(url, "new")  # while the child waits for a line
    finally:
        process.communicate("go\n", timeout=300)
    assert names_in(url) == ["new"]
    assert files(tmp_path) == ["a.h5"]


def dead_mark() -> Mark:
    """Of a process of this machine that has ended."""
    code = "from fmristore_stores.io.owners import own_mark\nwith own_mark() as m: print(m)"
    process = code_of(code)
    found = Mark.parse(process.communicate()[0].strip())
    assert found is not None
    return found


def test_what_a_killed_process_left_in_a_store_is_removed(tmp_path: Path) -> None:
    url = tmp_path / "a.zarr"
    make(str(url))
    left = url / "0" / "c" / hidden_name("1", dead_mark(), "partial")
    left.write_bytes(b"half a chunk")
    theirs = url / "0" / "c" / ".1.partial"
    theirs.write_bytes(b"of other software")
    (found,) = find_leftovers(str(url))
    assert str(left) in found
    add(str(url), "new")
    assert not left.exists()
    assert theirs.exists()
    assert find_leftovers(str(url)) == []


def test_what_a_live_process_is_at_is_not_removed(tmp_path: Path) -> None:
    mark = dead_mark()
    alive = Mark(mark.machine, os.getppid(), 0, mark.since, mark.id)
    elsewhere = Mark("00000000", 1, 0, mark.since, mark.id)
    kept = [tmp_path / hidden_name("a.h5", m, "partial") for m in (alive, elsewhere)]
    for path in kept:
        path.write_bytes(b"half")
    make(str(tmp_path / "a.h5"))
    assert all(path.exists() for path in kept)
    assert len(find_leftovers(str(tmp_path / "a.h5"))) == 2
    for path in kept:
        os.utime(path, (0, 0))
    old = Mark("00000000", 1, 0, 1, mark.id)
    kept[1].rename(tmp_path / hidden_name("a.h5", old, "partial"))
    make(str(tmp_path / "a.h5"), overwrite=True)
    assert files(tmp_path) == [kept[0].name, "a.h5"]


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    """Where names cannot be exchanged; the next writer gives the old store its name back."""
    url = tmp_path / "a.zarr"
    make(str(url))
    url.rename(tmp_path / hidden_name("a.zarr", dead_mark(), "old"))
    with pytest.raises((StorageError, NotFoundError), match=r"being replaced; .*\.old"):
        open_store(url)
    with pytest.raises(FileExistsError):
        make(str(url), 2)
    add(str(url), "new")
    assert names_in(str(url)) == ["new"]
    assert files(tmp_path) == ["a.zarr"]


def test_tidying_up_takes_one_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A removal that holds one for each level fails where there are few left."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)

    def fail() -> None:
        with create_store(tmp_path / "a.zarr") as store:
            store.root.create_group("g").create_array("0", SPEC).write(None, np.arange(4))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert files(tmp_path) == []


def test_a_turn_in_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tmp_path / "a.zarr"
    make(str(url))
    real = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).parent == tmp_path and str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "not here", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    with take_turn(str(url)):
        assert [name for name in files(url) if name.endswith(".lock")]
    assert not [name for name in files(url) if name.endswith(".lock")]
