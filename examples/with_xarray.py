"""Stores in xarray and dask: coordinates in mm and seconds, lazy values, and the way back."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray

import fmristore as fs
from fmristore.demo import make_run


def main() -> None:
    """Work in a temporary folder."""
    library: Any = xarray
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_run(folder / "bold.nii.gz", shape=(20, 20, 12, 40))
        fs.convert(folder / "bold.nii.gz", folder / "bold.ome.zarr").close()

        with library.open_dataset(folder / "bold.ome.zarr", engine="fmristore") as data:
            print(data)  # nothing is read yet
            brain = data["data"].isel(time=0) > float(data["data"].isel(time=0).mean())
            series = data.fmri.series(brain.values)  # each chunk once
            print("series of a mask:", dict(series.sizes))
            part = data["data"].isel(x=slice(4, 12), time=slice(0, 10))
            print("a region as NIfTI:", part.fmri.to_nibabel().shape)

        with fs.open(folder / "bold.ome.zarr") as bold:
            blocks = bold.to_dask()
            mean = blocks.mean(axis=3).compute()
            print("dask agrees:", np.allclose(mean, bold.mean(axis=3)))


if __name__ == "__main__":
    main()
