"""``ls``, ``info`` of several stores, the bar of progress, and errors as JSON."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import rich.console
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner, Result

import fmristore as fs
from fmristore.cli import app
from fmristore.cli.progress import count_bar, find_step, progress_bar

MIB = 1 << 20


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with an HDF5 file, a Zarr store below, and what is no store."""
    folder = tmp_path / "study"
    (folder / "more").mkdir(parents=True)
    values = np.arange(2 * 3 * 4 * 5, dtype="i2").reshape(2, 3, 4, 5)
    nib: Any = nibabel
    image = nib.Nifti1Image(values, np.eye(4))
    image.header.set_zooms((1, 1, 1, 2))
    image.header.set_xyzt_units("mm", "sec")
    fs.convert(image, folder / "a.h5").close()
    image = nib.Nifti1Image(values[..., 0], np.eye(4))
    fs.convert(image, folder / "more" / "b.ome.zarr").close()
    (folder / "notes.txt").write_text("not a store")
    return folder


def test_ls(study: Path) -> None:
    lines = run("ls", study).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["store", str(study / "a.h5")]
    assert "neurovec" in lines[1]
    assert "2 x 3 x 4 x 5" in lines[1]
    assert "2 s" in lines[1]
    assert len(run("ls", study, "--recursive").stdout.splitlines()) == 3
    (study / "a.h5").unlink()
    assert run("ls", study).stdout == "no stores here\n"


def test_ls_json(study: Path) -> None:
    rows = json.loads(run("ls", study, study / "more", "--json").stdout)
    assert [Path(row["url"]).name for row in rows] == ["a.h5", "b.ome.zarr"]
    assert rows[0]["shape"] == [2, 3, 4, 5]
    assert rows[0]["stored_bytes"] == (study / "a.h5").stat().st_size


def test_ls_of_a_damaged_store_goes_on(study: Path) -> None:
    (study / "0.h5").write_bytes((study / "a.h5").read_bytes()[:700])
    result = run("ls", study)
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()[1:]
    assert "error: " in first
    assert "neurovec" in second


def test_ls_of_other_software_and_of_nothing(study: Path) -> None:
    (study / "a.h5").write_bytes(b"text")
    assert "other software" in run("ls", study).stdout
    result = run("ls", study / "absent")
    assert result.exit_code == 1
    assert "no such file" in result.stderr


def test_ls_of_a_bucket(study: Path, s3: Any) -> None:
    options = [f"--storage-option={k}={json.dumps(v)}" for k, v in s3.options.items()]
    fs.transcode(study / "a.h5", s3.url("runs/a.ome.zarr"), storage_options=s3.options)
    rows = json.loads(run("ls", s3.url("runs"), "--json", *options).stdout)
    assert [row["url"] for row in rows] == [s3.url("runs/a.ome.zarr")]
    assert rows[0]["format"] == "neurovec"


def test_info_of_several_and_of_a_folder(study: Path) -> None:
    both = run("info", study / "a.h5", study / "more" / "b.ome.zarr")
    assert both.stdout.count("  container ") == 2
    documents = json.loads(run("info", study, study / "more", "--json").stdout)
    assert [document["format"] for document in documents] == ["neurovec", "neurovol"]
    assert isinstance(json.loads(run("info", study, "--json").stdout), list)
    assert isinstance(json.loads(run("info", study / "a.h5", "--json").stdout), dict)


def test_errors_as_json(study: Path) -> None:
    result = run("info", study / "absent.h5", "--json")
    error = json.loads(result.stderr)["error"]
    assert (result.exit_code, result.stdout) == (1, "")
    assert (error["type"], error["kind"]) == ("NotFoundError", "not-found")
    assert error["url"] == str(study / "absent.h5")
    assert "no such file" in error["message"]


@pytest.mark.parametrize("command", ["ls", "info"])
@pytest.mark.parametrize("asked", ["isdir", "ls"])
def test_a_bucket_without_credentials(
    command: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoCredentialsError(Exception):
        """As botocore's, which is no OSError."""

    def refuse(*args: Any, **options: Any) -> None:
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(MemoryFileSystem, "isdir", lambda *args: True)
    monkeypatch.setattr(MemoryFileSystem, asked, refuse)
    result = run(command, "memory://no-bucket", "--json")
    error = json.loads(result.stderr)["error"]
    assert (result.exit_code, error["kind"]) == (1, "access-denied")
    assert "Unable to locate credentials" in error["message"]


def test_wrong_calls_as_json() -> None:
    result = run("convert", "a.nii", "b.h5", "--access", "tiem", "--json")
    error = json.loads(result.stderr)["error"]
    assert (result.exit_code, error["kind"]) == (2, "usage")
    assert "'tiem' is not" in error["message"]
    assert "Value error" not in error["message"]


# Progress -------------------------------------------------------------------------------------


def test_no_estimate_before_there_is_enough_for_one() -> None:
    assert find_step(0, 100 * MIB, 60, ["converting"]).left is None
    assert find_step(4 * MIB, 100 * MIB, 60, ["converting"]).left is None
    assert find_step(50 * MIB, 100 * MIB, 1, ["converting"]).left is None
    assert find_step(25 * MIB, 100 * MIB, 10, ["converting"]).left == pytest.approx(30)


def test_steps_count_their_own_bytes() -> None:
    labels = ["writing", "checking"]
    step = find_step(30 * MIB, 200 * MIB, 3, labels)
    assert (step.label, step.size) == ("writing", "30.0 MiB of 100.0 MiB")
    step = find_step(150 * MIB, 200 * MIB, 15, labels)
    assert (step.label, step.size, step.fraction) == ("checking", "50.0 MiB of 100.0 MiB", 0.5)
    assert step.left == pytest.approx(5)
    assert find_step(200 * MIB, 200 * MIB, 20, labels).label == "finishing"
    assert find_step(0, 0, 0, labels).label == "finishing"


def test_a_step_is_judged_by_itself() -> None:
    labels, began = ["writing", "checking"], dict[str, tuple[int, float]]()
    assert find_step(90 * MIB, 200 * MIB, 90, labels, began).left == pytest.approx(110)
    assert find_step(100 * MIB, 200 * MIB, 100, labels, began).left is None
    assert find_step(150 * MIB, 200 * MIB, 105, labels, began).left == pytest.approx(5)


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error as a terminal, and what is written to it."""
    written = io.StringIO()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = rich.console.Console
    monkeypatch.setattr(
        rich.console,
        "Console",
        lambda **_: console(file=written, force_terminal=True, width=120),
    )
    return written


def test_bar_of_runs_has_no_unknown_count(monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch)
    with count_bar("converting", quiet=False) as progress:
        assert progress is not None
        progress(2, 3)
    text = written.getvalue()
    assert "2 of 3" in text
    assert "?" not in text.replace("\x1b[?25l", "").replace("\x1b[?25h", "")


def test_bar_says_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch)
    with progress_bar("writing", "checking", quiet=False, of="s3://lab/[red]a.zarr") as progress:
        assert progress is not None
        progress(30 * MIB, 200 * MIB)
    text = written.getvalue()
    assert "writing [red]a.zarr" in text
    assert "30.0 MiB of 100.0 MiB" in text
    assert "?" not in text.replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    with progress_bar("writing", quiet=True) as progress:
        assert progress is None
