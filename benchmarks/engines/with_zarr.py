"""Reading with zarr-python, by its own codec pipeline and by that of zarrs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr

from benchmarks.engines import Engine
from benchmarks.selections import Selection, stored_index
from fmristore_stores.protocol import AnyArray

__all__ = ["PIPELINES", "ZarrPython", "Zarrs"]

PIPELINES = {
    "zarr-python": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}
"""Value of ``codec_pipeline.path`` in zarr's configuration."""


class ZarrPython(Engine):
    """zarr-python on the same store."""

    label: ClassVar[str] = "zarr-python"

    def __init__(self, path: Path) -> None:
        with zarr.config.set({"codec_pipeline.path": PIPELINES[self.label]}):
            data: Any = zarr.open_array(path / "0", mode="r")
        self._data = data
        self._dims: tuple[str, ...] = data.metadata.dimension_names

    def read(self, selection: Selection) -> AnyArray:
        """Basic indexing; coordinates for scattered voxels."""
        if selection.points is not None:
            at = dict(zip("xyz", selection.points.T[:, :, None], strict=True))
            at["t"] = np.arange(self._data.shape[self._dims.index("t")])[None]
            return np.asarray(self._data.vindex[tuple(at[d] for d in self._dims)])
        index, axes = stored_index(selection, self._dims)
        return np.asarray(self._data[index]).transpose(axes)

    def close(self) -> None:
        """Nothing is open."""


class Zarrs(ZarrPython):
    """zarr-python with the codec pipeline of zarrs."""

    label = "zarrs"
