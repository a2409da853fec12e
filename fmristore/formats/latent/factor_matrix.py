"""The matrix that is computed where it is read: loadings x basis + offset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.matrix import Matrix, empty_result
from fmristore.planning.indexing import AxisPart, axis_length
from fmristore_stores.io.ranges import ReadCost, sum_costs
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    from fmristore.formats.latent.layout import StoredOffset

__all__ = ["FactorMatrix"]

_BLOCK_BYTES = 16 << 20
"""Loadings and results that are computed at a time."""


class FactorMatrix(Matrix):
    """Values ``loadings[row] @ basis[column] + offset[row]``, (V, T).

    They are float32 if loadings, bases and offset are stored as such (or in small integers), else
    float64.

    Parameters
    ----------
    loadings : Matrix, (V, K)
        Weight of each component in each voxel.
    bases : sequence of Matrix, (T_i, K)
        Time courses of the components, scan after scan.
    offset : StoredOffset, (V,), optional
        Added to every column.
    """

    def __init__(
        self, loadings: Matrix, bases: Sequence[Matrix], offset: StoredOffset | None = None
    ) -> None:
        self._loadings = loadings
        self._bases = tuple(bases)
        self._offset = offset
        self.shape = (loadings.shape[0], sum(basis.shape[0] for basis in bases))
        stored = [loadings.dtype, *(basis.dtype for basis in bases)]
        if offset is not None:
            stored.append(offset.dtype)
        self.dtype: np.dtype[Any] = np.result_type(np.float32, *stored)

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Loadings, bases and offset."""
        bases = [array for basis in self._bases for array in basis.arrays]
        offset = () if self._offset is None else (self._offset.array,)
        return (*self._loadings.arrays, *bases, *offset)

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows whose loadings lie in one chunk, and all columns."""
        return self._loadings.chunks[0], self.shape[1]

    def courses(self, columns: AxisPart) -> AnyArray:
        """Rows of all bases together, (columns, K)."""
        first = 0
        wanted = columns
        if isinstance(wanted, slice):
            wanted = np.arange(wanted.start, wanted.stop, wanted.step)
        values = np.empty((len(wanted), self._loadings.shape[1]), self._basis_dtype)
        for basis in self._bases:
            inside = np.flatnonzero((wanted >= first) & (wanted < first + basis.shape[0]))
            if len(inside):
                every = slice(0, basis.shape[1], 1)
                values[inside] = basis.read(wanted[inside] - first, every)
            first += basis.shape[0]
        return values

    @property
    def _basis_dtype(self) -> np.dtype[Any]:
        return np.result_type(*(basis.dtype for basis in self._bases))

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        return self.compute(rows, columns, self.dtype)

    def compute(self, rows: AxisPart, columns: AxisPart, dtype: np.dtype[Any]) -> AnyArray:
        """Values (rows, columns), computed in float32 at least; rows increase strictly.

        Raises
        ------
        MemoryLimitError
            If the result does not fit into memory.
        """
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop, rows.step)
        result = empty_result((len(rows), axis_length(columns)), dtype)
        if not result.size:
            return result
        working = np.result_type(dtype, np.float32)
        courses = self.courses(columns).astype(working, copy=False).T
        offset = None if self._offset is None else self._offset.read()
        components = slice(0, self._loadings.shape[1], 1)
        step = max(1, _BLOCK_BYTES // ((len(courses) + courses.shape[1]) * working.itemsize))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            loadings = self._loadings.read(part, components).astype(working, copy=False)
            values = loadings @ courses
            if offset is not None:
                values += offset[part, None]
            result[start : start + step] = values
        return result

    def cost(self, rows: AxisPart, columns: AxisPart) -> ReadCost:
        """Docstring inherited."""
        components = slice(0, self._loadings.shape[1], 1)
        wanted = columns
        if isinstance(wanted, slice):
            wanted = np.arange(wanted.start, wanted.stop, wanted.step)
        costs, first = [self._loadings.cost(rows, components)], 0
        for basis in self._bases:
            inside = wanted[(wanted >= first) & (wanted < first + basis.shape[0])] - first
            if len(inside):
                costs.append(basis.cost(inside, components))
            first += basis.shape[0]
        if self._offset is not None:
            costs.append(self._offset.array.reader.cost())
        return sum_costs(costs)
