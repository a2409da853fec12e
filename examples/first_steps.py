"""Convert a run, and read parts of it without touching the rest."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import fmristore as fs
from fmristore.demo import make_run


def main(source: str | None = None) -> None:
    """Work in a temporary folder; `source` is a NIfTI run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Path(source) if source else folder / "bold.nii.gz"
        if source is None:
            make_run(run, shape=(32, 32, 20, 60))

        fs.convert(run, folder / "bold.ome.zarr")

        with fs.open(folder / "bold.ome.zarr") as bold:
            print(bold)
            x, y, z = (n // 2 for n in bold.shape[:3])

            # What will it cost? Nothing is read to find out.
            bold.plan[x, y, z].explain()
            bold.plan[..., 10].explain()

            print("one voxel's series", bold[x, y, z].shape)
            print("a region          ", bold[x : x + 7, y : y + 7, z : z + 7].shape)
            print("one volume        ", bold[..., 10].shape)

            # Scattered voxels and masks read each chunk once.
            bright = bold[..., 0] > bold[..., 0].mean()
            print("in a mask         ", bold.series(mask=bright).shape)


if __name__ == "__main__":
    main(*sys.argv[1:2])
