"""Reading with tensorstore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from benchmarks.engines import Engine
from benchmarks.selections import Selection, stored_index
from fmristore_stores.protocol import AnyArray

__all__ = ["TensorStore"]


class TensorStore(Engine):
    """tensorstore on the same Zarr store, with its default context: no cache, all cores."""

    label = "tensorstore"

    def __init__(self, path: Path) -> None:
        kvstore = {"driver": "file", "path": f"{path / '0'}/"}
        self._data: Any = ts.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
        self._dims = self._data.domain.labels

    def read(self, selection: Selection) -> AnyArray:
        """One read; index arrays for scattered voxels."""
        if selection.points is not None:
            at: dict[str, Any] = dict(zip("xyz", selection.points.T, strict=True))
            at["t"] = slice(None)
            chosen = self._data.vindex[tuple(at[d] for d in self._dims)]
            return np.asarray(chosen.read().result())
        index, axes = stored_index(selection, self._dims)
        return np.asarray(self._data[index].read().result()).transpose(axes)

    def close(self) -> None:
        """Let go of the array."""
        self._data = None
