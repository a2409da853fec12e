"""Reading with fmristore."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fmristore as fs
from benchmarks.engines import Engine
from benchmarks.selections import Selection
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.protocol import AnyArray

__all__ = ["Ours"]

_READS = 65
"""Reads from an image after which it is known where all chunks of all copies of its data lie."""


class Ours(Engine):
    """fmristore on HDF5 or Zarr.

    The image stays open, as that of the others; where its chunks lie is known, as it is after some
    dozens of reads from an image. Decoded chunks are forgotten before each read.
    """

    label = "fmristore"

    def __init__(self, path: Path) -> None:
        self._image: Any = fs.open(path)
        self._knows_places = False

    def read(self, selection: Selection) -> AnyArray:
        """Read stored values through the image, as a user does."""
        if selection.points is not None:
            return np.asarray(self._image.series(selection.points, raw=True)).T
        return np.asarray(self._image.read(selection.index, raw=True))

    def prepare(self, selection: Selection) -> Callable[[], AnyArray]:
        """Find out where the chunks lie, and forget all that were decoded."""
        if not self._knows_places:
            for _ in range(_READS):
                _ = self._image.plan[0, 0, 0], self._image.plan[..., 0]
            self._knows_places = True
        CHUNK_CACHE.clear()
        return partial(self.read, selection)

    def close(self) -> None:
        """Close the image."""
        self._image.close()
