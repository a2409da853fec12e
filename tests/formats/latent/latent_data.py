"""A latent representation of three scans, and the image that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import fmristore as fs

NAMES = ("lat.h5", "lat.zarr")
GRID = (7, 5, 4)
AFFINE = np.array([[2, 0.1, 0, -30], [0, 3, 0, 10], [0.2, 0, 4, 5], [0, 0, 0, 1.0]])
COMPONENTS = 3
LENGTHS = {"rest/../run 1": 11, "task": 6, "übung%": 1}
rng = np.random.default_rng(7)
MASK = rng.random(GRID) < 0.5
VOXELS = np.argwhere(MASK)
LOADINGS = rng.normal(size=(len(VOXELS), COMPONENTS)) * (
    rng.random((len(VOXELS), COMPONENTS)) < 0.3
)
BASIS = {name: rng.normal(size=(n, COMPONENTS)) for name, n in LENGTHS.items()}
OFFSET = rng.normal(size=len(VOXELS)) * 100
STACKED = np.concatenate(list(BASIS.values()))
FULL = np.zeros((*GRID, len(STACKED)))
FULL[tuple(VOXELS.T)] = LOADINGS @ STACKED.T + OFFSET[:, None]


def make(url: Path, **changes: Any) -> fs.LatentNeuroVec:
    """Store it, with other arguments where they are given."""
    options: dict[str, Any] = {
        "basis": BASIS,
        "loadings": LOADINGS,
        "mask": MASK,
        "space": AFFINE,
        "offset": OFFSET,
        "tr": 2.0,
    }
    return fs.LatentNeuroVec.create(url=url, **(options | changes))
