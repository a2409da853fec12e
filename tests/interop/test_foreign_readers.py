"""Readers of other projects open every format in both containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pytest
import xarray

import fmristore as fs
from tests.every_format import WRITERS, write

_plugins = os.environ.get("HDF5_PLUGIN_PATH")
netcdf4: Any = pytest.importorskip("netCDF4")
if _plugins is None:  # which netCDF4 sets, for this process and its children
    os.environ.pop("HDF5_PLUGIN_PATH", None)


def as_dataset(path: Path, engine: str) -> Any:
    """The root group, as xarray reads it."""
    return xarray.open_dataset(path, engine=engine)


def as_tree(path: Path, engine: str) -> Any:
    """All groups, as xarray reads them."""
    return xarray.open_datatree(path, engine=engine)


@pytest.mark.parametrize("opener", [as_dataset, as_tree])
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("ending", "engine"), [("h5", "h5netcdf"), ("zarr", "zarr")])
def test_xarray(
    tmp_path: Path, name: str, ending: str, engine: str, opener: Callable[[Path, str], Any]
) -> None:
    path = write(name, tmp_path / f"x.{ending}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr on stores without consolidated metadata
        found = opener(path, engine)
        try:
            found.load()
            with fs.open(path) as stored:
                np.testing.assert_allclose(found["affine"], stored.space.affine)
        finally:
            found.close()


@pytest.mark.parametrize("name", WRITERS)
def test_netcdf_libraries(tmp_path: Path, name: str) -> None:
    path = write(name, tmp_path / "x.h5")
    with fs.open(path) as stored:
        affine = stored.space.affine
    with h5netcdf.File(path, "r") as file:
        np.testing.assert_allclose(file.variables["affine"][...], affine)
    with netcdf4.Dataset(path) as file:
        np.testing.assert_allclose(file.variables["affine"][...], affine)
        assert file.variables["affine"].dimensions == ("affine_row", "affine_column")


@pytest.mark.skipif(shutil.which("ncdump") is None, reason="netCDF's tools are not installed")
@pytest.mark.parametrize("name", WRITERS)
def test_ncdump(tmp_path: Path, name: str) -> None:
    path = write(name, tmp_path / "x.h5")
    done = subprocess.run(["ncdump", "-h", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "affine(affine_row, affine_column)" in done.stdout
