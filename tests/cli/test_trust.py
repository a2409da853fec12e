"""Files that fmristore did not write are parsed by another process before a command reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from fmristore.cli import app, trust
from fmristore_stores.errors import CorruptDataError, StorageError
from tests.every_format import write


def _run(*args: str | Path) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(4.0)
    return path


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is parsed by another process, which does not survive it."""
    found: list[str] = []

    def refuse(locator: Any) -> None:
        found.append(Path(locator.url).name)
        raise CorruptDataError("the HDF5 library crashed on this file", url=locator.url)

    monkeypatch.setattr(trust, "check_untrusted", refuse)
    return found


@pytest.mark.parametrize(
    "command",
    [
        ("info", "IN"),
        ("verify", "IN"),
        ("ls", "IN"),
        ("transcode", "IN", "OUT.zarr"),
        ("transcode", "IN", "OUT.zarr", "--dry-run"),
        ("convert", "IN", "OUT.zarr"),
        ("export", "IN", "OUT.nii"),
        ("plan", "IN", "[0]"),
        ("parcellate", "IN", "IN", "OUT.h5"),
        ("virtualize", "IN", "OUT.json"),
    ],
    ids=lambda command: command[0],
)
def test_every_command(
    tmp_path: Path, foreign: Path, parsed: list[str], command: tuple[str, ...]
) -> None:
    names = {"IN": str(foreign)}
    args = [names.get(a, str(tmp_path / a) if a.startswith("OUT") else a) for a in command]
    before = sorted(tmp_path.iterdir())
    result = _run(*args)
    assert (result.exit_code, parsed) == (1, ["foreign.h5"])
    assert "crashed" in result.output
    assert sorted(tmp_path.iterdir()) == before
    _run(*args, "--trusted")
    assert parsed == ["foreign.h5"]


def test_own_files_are_trusted_unless_asked_otherwise(tmp_path: Path, parsed: list[str]) -> None:
    own = write("neurovol", tmp_path / "own.h5")
    assert _run("info", own).exit_code == 0
    assert _run("info", own, "--untrusted").exit_code == 1
    assert parsed == ["own.h5"]


def test_only_hdf5_files_are_parsed(tmp_path: Path, parsed: list[str]) -> None:
    store = write("neurovol", tmp_path / "own.zarr")
    assert _run("verify", store, "--untrusted").exit_code == 0
    assert _run("info", tmp_path / "nothing.h5", "--untrusted").exit_code == 1
    assert parsed == []


def test_a_foreign_file_is_read_after_that(foreign: Path) -> None:
    result = _run("verify", foreign)
    assert result.exit_code == 0, result.output


def test_a_file_that_could_not_be_looked_at_is_not_opened(
    foreign: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service may fail at first, and not when the command opens the file."""

    def fail(*_: Any, **__: Any) -> None:
        raise StorageError("the service failed", url=str(foreign))

    monkeypatch.setattr(trust, "locate", fail)
    result = _run("info", foreign)
    assert (result.exit_code, parsed) == (1, [])
    assert "the service failed" in result.output
