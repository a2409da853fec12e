"""One command over many runs."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from tests.images import make_values, write_nifti


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    done = CliRunner().invoke(app, ["many", *arguments])
    return done.exit_code, done.output


def test_convert_transcode_and_verify(tmp_path: Path) -> None:
    sources = [
        str(write_nifti(tmp_path / f"run-{n}.nii.gz", make_values((3, 4, 2, 5), seed=n)))
        for n in range(3)
    ]
    Path(sources[1]).write_bytes(b"no image")
    into = ["--into", str(tmp_path / "new"), "--option", "access=volume"]
    code, text = run("convert", *sources, *into)
    assert code == 1
    assert "3 runs: 2 done, 0 unchanged, 1 failed" in text
    with fs.open(tmp_path / "new/run-0.h5") as stored:
        assert stored.access == "volume"
    code, text = run("convert", sources[0], sources[2], *into, "--json")
    assert code == 0
    assert [one["state"] for one in json.loads(text)["runs"]] == ["unchanged"] * 2
    stores = sorted(map(str, (tmp_path / "new").glob("*.h5")))
    assert run("transcode", *stores, *into[:2], "--to", "ome.zarr")[0] == 0
    stores += map(str, (tmp_path / "new").glob("*.zarr"))
    code, text = run("verify", *stores, "--option", "deep=true")
    assert (code, text) == (0, "4 runs: 4 done, 0 unchanged, 0 failed\n")
    assert run("verify", stores[0]) == (0, "1 run: 1 done, 0 unchanged, 0 failed\n")
    Path(stores[0]).write_bytes(Path(stores[0]).read_bytes()[:-30])
    assert run("verify", *stores, "--trusted")[0] == 1


def test_parcellate(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "run.nii.gz", make_values((3, 4, 2, 5)))
    labels = write_nifti(tmp_path / "atlas.nii", make_values((3, 4, 2), "u1") % 3)
    code, text = run(
        *("parcellate", str(source), "--into", str(tmp_path / "new")),
        *("--option", f"labels={labels}", "--option", "statistic=median"),
    )
    assert code == 0, text
    with fs.open(tmp_path / "new/run.h5") as stored:
        assert stored.statistic == "median"


def test_wrong_usage(tmp_path: Path) -> None:
    assert run("convert", "a.nii")[0] == 2
    assert run("verify", "a.h5", "--into", str(tmp_path))[0] == 2
    single = CliRunner().invoke(app, ["verify", "a.h5", "--jobs", "2"])
    assert single.exit_code == 2
    assert "fmristore many" in single.output
    code, text = run("convert", "a.nii", "--into", str(tmp_path), "--option", "acess=time")
    assert code == 1
    assert "acess" in text
