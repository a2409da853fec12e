"""Reading with h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - importing it registers the filters
import numpy as np
from h5py import h5s

from benchmarks.engines import Engine
from benchmarks.selections import Selection, stored_index
from fmristore_stores.protocol import AnyArray

__all__ = ["H5py"]


class H5py(Engine):
    """h5py on the same file, with its default chunk cache."""

    label = "h5py"

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "r")
        self._data: Any = self._file["0"]
        self._dims = [dim.label for dim in self._data.dims]

    def read(self, selection: Selection) -> AnyArray:
        """One hyperslab; for scattered voxels whichever way is the fastest."""
        if selection.points is not None:
            return self._points(selection.points)
        index, axes = stored_index(selection, self._dims)
        return np.asarray(self._data[index]).transpose(axes)

    def _points(self, points: AnyArray) -> AnyArray:
        dims, shape, chunks = self._dims, self._data.shape, self._data.chunks
        space = [dims.index(d) for d in "xyz"]
        time = dims.index("t")
        if all(chunks[a] >= shape[a] for a in space):
            run = self._data[...].transpose([*space, time])
            return np.asarray(run[tuple(points.T)])
        result = np.empty((len(points), shape[time]), self._data.dtype)
        if chunks[time] >= shape[time]:
            order = np.lexsort((points // [chunks[a] for a in space]).T)
            for row in order.tolist():
                index: list[int | slice] = [slice(None)] * len(dims)
                for axis, position in zip(space, points[row].tolist(), strict=True):
                    index[axis] = position
                result[row] = self._data[tuple(index)]
            return result
        elements = np.empty((*result.shape, len(dims)), np.uint64)
        elements[..., space] = points[:, None, :]
        elements[..., time] = np.arange(shape[time])
        chosen = self._data.id.get_space()
        chosen.select_elements(elements.reshape(-1, len(dims)))
        self._data.id.read(h5s.create_simple(result.shape), chosen, result)
        return result

    def close(self) -> None:
        """Close the file."""
        self._file.close()
