"""netCDF-4 files become Zarr stores that xarray reads as it reads the files, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs

xr: Any = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

ENCODINGS = {
    "packed": {"dtype": "int16", "_FillValue": np.int16(-999), "scale_factor": np.float32(0.5)},
    "float": {},
    "float64": {"dtype": "float64", "_FillValue": -1.5},
    "float with a fill value": {"_FillValue": np.float32(-9)},
    "whole numbers": {"dtype": "int32", "_FillValue": np.int32(7)},
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_fill_values_of_netcdf(tmp_path: Path, name: str) -> None:
    values = np.array([[1, np.nan], [3, 4]], "f4")
    facts = {"long_name": "a", "weights": [1.0, 2.0], "level": 3}
    data = xr.Dataset({"v": (("y", "x"), values, facts)}, attrs={"run": 7})
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf", encoding={"v": ENCODINGS[name]})
    fs.transcode(tmp_path / "a.nc", tmp_path / "a.zarr")
    fs.transcode(tmp_path / "a.zarr", tmp_path / "b.h5")
    for url, options in (("a.zarr", {"engine": "zarr"}), ("b.h5", {"engine": "h5netcdf"})):
        with xr.open_dataset(tmp_path / url, **options) as found:
            np.testing.assert_array_equal(found.v.values, values)
            assert found.v.attrs["long_name"] == "a"
            np.testing.assert_array_equal(found.v.attrs["weights"], [1.0, 2.0])
            assert (np.shape(found.v.attrs["level"]), found.attrs["run"]) == ((), 7)


def test_a_text_that_is_no_fill_value_stays(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["v"] = np.arange(3.0)
        file["v"].attrs["_FillValue"] = "none"
    fs.transcode(tmp_path / "a.h5", tmp_path / "a.zarr")
    fs.transcode(tmp_path / "a.zarr", tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["v"].attrs["_FillValue"] in ("none", b"none")


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_references_in_attributes_are_a_loss(tmp_path: Path, ending: str) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("series", data=np.arange(6.0))
        file.attrs["one"] = data.ref
        file.attrs.create("several", [data.ref], dtype=h5py.ref_dtype)
    target = tmp_path / f"b.{ending}"
    with pytest.raises(fs.errors.LossyError, match=r"'one' refers to other nodes.*\['reference'\]"):
        fs.transcode(tmp_path / "a.h5", target)
    assert not target.exists()
    fs.transcode(tmp_path / "a.h5", target, allow=["reference"])
    assert fs.verify(target).ok
