"""Stores of every earlier format version are read as they were when they were written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

import fmristore as fs
from tests.archives.make import content
from tests.every_format import WRITERS

ARCHIVES = sorted(path for path in (Path(__file__).parent / "archives").iterdir() if path.is_dir())
ARCHIVES = [path for path in ARCHIVES if (path / "expected.npz").exists()]


def test_there_are_archives() -> None:
    assert "1.0" in [path.name for path in ARCHIVES]


@pytest.mark.parametrize("ending", ["h5", "zarr"])
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_read_as_written(archive: Path, name: str, ending: str, tmp_path: Path) -> None:
    path = archive / f"{name}.h5"
    if ending == "zarr":
        path = tmp_path / "a.zarr"
        with zipfile.ZipFile(archive / f"{name}.zarr.zip") as packed:
            packed.extractall(path)
    with np.load(archive / "expected.npz") as file:
        expected = dict(file)
    with fs.open(path) as stored:
        assert stored.format_name == name
        assert stored.root_attributes["fmristore_format_version"] == archive.name
        found = content(stored)
        wanted = {key for key in expected if key.partition("/")[0] == name}
        assert {f"{name}/{part}" for part in found} == wanted
        for part, values in found.items():
            np.testing.assert_array_equal(values, expected[f"{name}/{part}"])
        again = stored.save(tmp_path / "again.h5")
        for part, values in content(again).items():
            np.testing.assert_allclose(values, expected[f"{name}/{part}"])
        again.close()
    assert fs.verify(path, deep=True)
