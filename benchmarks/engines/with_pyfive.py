"""Reading with pyfive, which reads HDF5 in Python, outside of the HDF5 library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyfive

from benchmarks.engines import Engine
from benchmarks.selections import Selection, stored_index
from fmristore_stores.protocol import AnyArray

__all__ = ["PyFive"]


class PyFive(Engine):
    """pyfive on the same file. It decodes deflate and shuffle, not blosc."""

    label = "pyfive"

    def __init__(self, path: Path) -> None:
        self._file: Any = pyfive.File(str(path))
        self._data: Any = self._file["0"]
        self._dims = [dim.label for dim in self._data.dims]

    def read(self, selection: Selection) -> AnyArray:
        """One orthogonal selection; scattered voxels one by one, chunk after chunk."""
        if selection.points is None:
            index, axes = stored_index(selection, self._dims)
            return np.asarray(self._data[index]).transpose(axes)
        dims, chunks = self._dims, self._data.chunks
        space = [dims.index(d) for d in "xyz"]
        shape = len(selection.points), self._data.shape[dims.index("t")]
        result = np.empty(shape, self._data.dtype)
        order = np.lexsort((selection.points // [chunks[a] for a in space]).T)
        for row in order.tolist():
            index = tuple(
                slice(None) if d == "t" else int(selection.points[row]["xyz".index(d)])
                for d in dims
            )
            result[row] = self._data[index]
        return result

    def close(self) -> None:
        """Close the file."""
        self._file.close()
