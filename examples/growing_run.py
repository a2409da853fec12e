"""A run that grows while it is acquired, read meanwhile, and closed into its final layout."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

import fmristore as fs
from fmristore.demo import make_run

BLOCK = 4
"""Volumes that come at a time; one TR after the other would be 1."""


def main(source: str | None = None) -> None:
    """Work in a temporary folder; `source` is a NIfTI run that is played back."""
    library: Any = nibabel
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = source or str(folder / "bold.nii")
        if source is None:
            make_run(Path(path), shape=(24, 24, 16, 40))
        image = library.load(path)
        values = np.asanyarray(image.dataobj)
        tr = float(image.header.get_zooms()[3])

        scan = folder / "scan.zarr"
        for start in range(0, values.shape[3], BLOCK):
            count = fs.append(values[..., start : start + BLOCK], scan, space=image.affine, tr=tr)
            with fs.open(scan) as run:  # another process may do this
                print(f"{count} volumes, the last one has the mean {run[..., -1].mean():.1f}")

        with fs.NeuroVec.open(scan) as growing, growing.finish(access="time") as run:
            print(f"finished for {run.access}; equal:", np.array_equal(run[...], values))


if __name__ == "__main__":
    main(*sys.argv[1:2])
