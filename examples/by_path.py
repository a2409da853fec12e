"""Paths of stores in nibabel and nilearn, as if they were NIfTI files."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nilearn import image

import fmristore as fs
from fmristore.demo import make_run


def main(source: str | None = None) -> None:
    """Work in a temporary folder; `source` is a NIfTI run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Path(source) if source else folder / "bold.nii.gz"
        if source is None:
            make_run(run, shape=(20, 20, 12, 40))
        fs.convert(run, folder / "bold.h5").close()

        fs.register()  # once in a process: nibabel knows stores from here on
        lazy: Any = nibabel.load(folder / "bold.h5")
        print("nibabel:", type(lazy).__name__, lazy.shape, "in memory:", int(lazy.in_memory))

        mean = image.mean_img(str(folder / "bold.h5"))
        wanted = image.mean_img(str(run))
        print("same mean image:", np.allclose(mean.get_fdata(), wanted.get_fdata(), rtol=1e-5))

        nibabel.save(mean, folder / "mean.ome.zarr")
        with fs.open(folder / "mean.ome.zarr") as stored:
            print("saved by nibabel:", stored)


if __name__ == "__main__":
    main(*sys.argv[1:2])
