"""Reading the NIfTI file with nibabel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.engines import Engine
from benchmarks.selections import Selection
from fmristore_stores.protocol import AnyArray

__all__ = ["Nii", "NiiGz"]


class Nii(Engine):
    """nibabel on an uncompressed file, through its memory map."""

    label = "nibabel .nii"

    def __init__(self, path: Path) -> None:
        image: Any = nib.load(path)
        self._map = np.asarray(image.dataobj)

    def read(self, selection: Selection) -> AnyArray:
        """Copy out of the map."""
        return np.array(selection.of(self._map))

    def close(self) -> None:
        """Drop the map."""
        self._map = np.empty(0)


class NiiGz(Engine):
    """nibabel on a compressed file, with indexed_gzip: its index is kept between reads."""

    label = "nibabel .nii.gz"

    def __init__(self, path: Path) -> None:
        self._image: Any = nib.load(path)

    def read(self, selection: Selection) -> AnyArray:
        """Slice the array proxy; read everything for scattered voxels."""
        if selection.points is not None:
            return selection.of(np.asarray(self._image.dataobj))
        return np.asarray(self._image.dataobj[selection.index])

    def close(self) -> None:
        """Drop the open file."""
        self._image = None
