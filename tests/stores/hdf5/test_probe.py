"""Files that are not trusted are parsed in a process of their own first."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fmristore_stores.errors import (
    ChangedError,
    CorruptDataError,
    InvalidInputError,
    NotFoundError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.hdf5 import probe as module
from fmristore_stores.hdf5.probe import is_marked, probe
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.io.location import filesystem
from fmristore_stores.limits import LIMITS
from fmristore_stores.opening import check_untrusted, locate, open_store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with whatever the library has to parse."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["text"] = "é"
        file["g/h/texts"] = ["a", "b"]
        file["g/loop"] = file["g"]
        file["soft"] = h5py.SoftLink("/g")
        file["elsewhere"] = h5py.ExternalLink("b.h5", "/g")
        file.create_dataset("chunked", data=np.arange(100), chunks=(7,), compression="lzf")
        file.create_dataset("type", data=np.zeros(2, [("a", "i4")]))
    return path


def _acts_as(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the child do something else."""
    monkeypatch.setattr(module, "_CHILD", ("-c", code))


def test_files_that_can_be_parsed_pass(path: Path) -> None:
    probe(path)
    with open_store(path, trusted=False) as store:
        assert store.root.read_attributes() == {"text": "é"}


def test_everything_is_looked_at(path: Path) -> None:
    with HDF5Store(str(path), mode="r") as store:
        done = []
        for step in module._steps(store.root):
            module._try(step)
            done.append(getattr(step, "func", step).__name__)
    groups, texts, values = 3, 1, 1
    assert done.count("_open_children") == groups
    assert done.count("read_attributes") == groups + texts + values
    assert done.count("stored_units") == texts + values
    assert (done.count("_read_texts"), done.count("read")) == (texts, values)


def test_damage_that_is_noticed_is_for_the_reader(path: Path) -> None:
    """The child is no second reader: it only has to survive."""
    content = bytearray(path.read_bytes())
    start = content.index(b"TREE")
    content[start : start + 4] = b"EERT"
    path.write_bytes(content)
    probe(path)
    path.write_bytes(content[: len(content) // 2])
    probe(path)
    with pytest.raises(CorruptDataError, match="truncated"):
        open_store(path, trusted=False)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("import os; os.abort()", CorruptDataError, "crashed on this file.*SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", CorruptDataError, "crashed.*SIGSEGV"),
        ("import sys; sys.exit(3)", CorruptDataError, "takes more than"),
        ("import sys; sys.exit('no \\x1b such thing')", StorageError, r"no \\x1b such thing"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)",
            CorruptDataError,
            "has not parsed",
        ),
    ],
)
@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="signals of POSIX")
def test_how_a_child_ends(
    monkeypatch: pytest.MonkeyPatch, path: Path, code: str, error: Any, message: str
) -> None:
    _acts_as(monkeypatch, code)
    with pytest.raises(error, match=message) as caught:
        open_store(path, trusted=False)
    assert caught.value.url == str(path)


def test_a_child_that_never_ends(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    _acts_as(monkeypatch, "while True: pass")
    monkeypatch.setattr(LIMITS, "probe_seconds", 0.5)
    with pytest.raises(CorruptDataError, match=r"has not parsed this file in 0\.5 s"):
        probe(path)


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where no check of ours comes before: texts that are as long as they claim."""
    pytest.importorskip("resource")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (4, 1 << 24), "S16", chunks=(1, 1 << 24), compression="gzip")
    monkeypatch.setattr(LIMITS, "probe_memory", 256 << 20)
    with pytest.raises(CorruptDataError, match="takes more than 268435456 bytes"):
        probe(path)


def test_arrays_that_claim_much_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (10**5,) * 3, "i2", chunks=(1, 1, 1))
        file.create_dataset("y", (10**15,), "i2", chunks=(1000,), compression="lzf")[5] = 1
        file.create_dataset("texts", (10**9,), h5py.string_dtype(), chunks=(10**6,))
        file.create_dataset("rows", (2, 10**12), "S10", chunks=(1, 10))
        file.create_dataset("none", (0, 10), "S10")
    probe(path)


def test_what_is_no_hdf5_file_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _acts_as(monkeypatch, "import os; os.abort()")
    with pytest.raises(NotFoundError):
        open_store(tmp_path / "a.h5", trusted=False)
    (tmp_path / "a.h5").write_bytes(b"text")
    with pytest.raises(UnknownFormatError):
        open_store(tmp_path / "a.h5", trusted=False)


def test_another_file_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    locator = locate(path)
    (tmp_path / "new.h5").write_bytes(path.read_bytes() + b"\0")
    monkeypatch.setattr(module, "probe", lambda *_: (tmp_path / "new.h5").replace(path))
    with pytest.raises(ChangedError):
        check_untrusted(locator)


def test_memory_of_this_process(path: Path) -> None:
    fs, _ = filesystem("memory://")
    fs.pipe_file("/probe/a.h5", path.read_bytes())
    with pytest.raises(InvalidInputError, match="no other process"):
        open_store("memory://probe/a.h5", trusted=False)


def test_remote_files(plain_web: tuple[int, Path], path: Path) -> None:
    port, folder = plain_web
    (folder / "probed.h5").write_bytes(path.read_bytes())
    with open_store(f"http://127.0.0.1:{port}/probed.h5", trusted=False) as store:
        assert store.root.read_attributes() == {"text": "é"}


def test_a_file_that_the_child_cannot_reach_is_not_taken_for_parsed() -> None:
    with pytest.raises(StorageError, match="process that should parse the file failed"):
        probe("http://127.0.0.1:9/nothing.h5")


def test_the_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(10)
    assert not is_marked(str(path))
    with h5py.File(path, "r+") as file:
        file.create_dataset("y", data=np.zeros(3 << 20, "u1"))
        file.attrs["fmristore_format"] = "neurovec"
    assert is_marked(str(path))
    assert not is_marked(str(tmp_path / "nothing"))
