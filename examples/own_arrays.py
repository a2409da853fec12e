"""Store an array of your own, and read it with other people's software."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

import fmristore as fs


def main() -> None:
    """Work in a temporary folder."""
    rng = np.random.default_rng(1)
    data = rng.normal(size=(16, 16, 10, 30)).astype(np.float32)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fs.NeuroVec.create(data, folder / "run.h5", space=affine, tr=2.0).close()
        fs.NeuroVec.create(data, folder / "run.ome.zarr", space=affine, tr=2.0).close()

        with h5py.File(folder / "run.h5") as file:
            stored = file["0"]
            print("h5py:", stored.shape, [dim.label for dim in stored.dims])
            print("equal:", np.array_equal(stored[...].T, data))

        group = zarr.open_group(folder / "run.ome.zarr", mode="r")
        array: Any = group["0"]
        print("zarr:", array.shape, array.metadata.dimension_names)
        print("equal:", np.array_equal(np.asarray(array[...]).T, data))


if __name__ == "__main__":
    main()
