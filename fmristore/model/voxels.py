"""A set of voxels of a grid in a fixed order: what rows of a voxel x something matrix stand for."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.model.space import NeuroSpace
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.protocol import AnyArray

__all__ = ["VoxelSet", "unmask"]


class VoxelSet:
    """Some voxels of a grid, numbered from 0.

    Parameters
    ----------
    space : NeuroSpace
        The grid.
    voxels : array_like of int, (V, 3)
        Their indices (x, y, z), all different and inside the grid, in the order of the rows.

    Raises
    ------
    InvalidInputError
        If a voxel lies outside the grid or occurs twice, or there are none.
    """

    def __init__(self, space: NeuroSpace, voxels: Any) -> None:
        self.space = space.without_time()
        indices = np.asarray(voxels)
        if indices.ndim != 2 or indices.shape[1:] != (3,) or indices.dtype.kind not in "iu":
            raise InvalidInputError(
                f"voxels of shape {indices.shape} and type {indices.dtype}: expected integers, "
                "(V, 3)"
            )
        if not len(indices):
            raise InvalidInputError("no voxels: the mask is empty")
        if (indices < 0).any() or (indices >= np.array(space.spatial_shape)).any():
            raise InvalidInputError(f"a voxel lies outside the grid of shape {space.spatial_shape}")
        self.voxels: NDArray[np.int32] = indices.astype(np.int32)
        if len(np.unique(self._numbers(self.voxels))) != len(self.voxels):
            raise InvalidInputError("a voxel occurs twice")

    @classmethod
    def from_mask(cls, mask: AnyArray, space: NeuroSpace) -> VoxelSet:
        """Voxels of a boolean array (X, Y, Z) in order of their index, x fastest."""
        return cls(space, np.argwhere(np.asarray(mask, bool).transpose(2, 1, 0))[:, ::-1])

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z) bool: whether a voxel is in the set."""
        return self.row_of >= 0

    @cached_property
    def row_of(self) -> NDArray[np.int32]:
        """(X, Y, Z) int32: number of each voxel of the grid, -1 if it is not in the set."""
        rows = np.full(self.space.spatial_shape, -1, np.int32)
        rows[tuple(self.voxels.T)] = np.arange(len(self.voxels), dtype=np.int32)
        return rows

    def rows(self, points: Any) -> NDArray[np.int64]:
        """Numbers of voxels given by index.

        Parameters
        ----------
        points : array_like of int, (n, 3)
            Negative indices count from the end.

        Returns
        -------
        ndarray of int, (n,)
            -1 for a voxel of the grid that is not in the set.

        Raises
        ------
        SelectionError
            If a point lies outside the grid.
        """
        indices = np.asarray(points, np.int64).reshape(-1, 3)
        lengths = np.array(self.space.spatial_shape)
        if ((indices < -lengths) | (indices >= lengths)).any():
            raise SelectionError(
                f"a voxel lies outside the grid of shape {tuple(lengths.tolist())}"
            )
        rows: NDArray[np.int64] = self.row_of[tuple((indices % lengths).T)].astype(np.int64)
        return rows

    def scatter(self, values: AnyArray, *, fill: Any = 0) -> AnyArray:
        """Put values of the voxels onto the grid.

        Parameters
        ----------
        values : ndarray, (V, ...)
            One row for each voxel.
        fill : scalar
            For voxels that are not in the set.

        Returns
        -------
        ndarray, (X, Y, Z, ...)
        """
        grid = np.full((*self.space.spatial_shape, *values.shape[1:]), fill, values.dtype)
        grid[tuple(self.voxels.T)] = values
        return grid

    def gather(self, grid: AnyArray) -> AnyArray:
        """Values of the voxels, (V, ...), from an array (X, Y, Z, ...)."""
        values: AnyArray = grid[tuple(self.voxels.T)]
        return values

    def _numbers(self, voxels: AnyArray) -> NDArray[np.int64]:
        x, y, _ = self.space.spatial_shape
        wide: NDArray[np.int64] = voxels.astype(np.int64)
        numbers: NDArray[np.int64] = wide[:, 0] + x * (wide[:, 1] + y * wide[:, 2])
        return numbers


def unmask(values: AnyArray, mask: AnyArray, *, fill: Any = 0) -> AnyArray:
    """Put values of the voxels of a mask onto its grid.

    Parameters
    ----------
    values : ndarray, (n,) or (T, n)
        One value for each voxel of the mask, in numpy's (C) order, as ``volume[mask]`` gives them,
        or one row of them for each volume.
    mask : ndarray of bool, (X, Y, Z)
        The mask.
    fill : scalar
        For the other voxels.

    Returns
    -------
    ndarray, (X, Y, Z) or (X, Y, Z, T)

    Raises
    ------
    InvalidInputError
        If there is not one value for each voxel.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "biufc":
        raise InvalidInputError(f"values of type {found.dtype}: convert them with .astype(float)")
    count = int(np.count_nonzero(mask))
    if found.ndim not in (1, 2) or found.shape[-1] != count:
        raise InvalidInputError(
            f"values of shape {found.shape}: expected ({count},) or (T, {count}), one for each "
            "voxel of the mask"
        )
    grid = np.full((*mask.shape, *found.shape[:-1]), fill, np.result_type(found, type(fill)))
    grid[np.asarray(mask, bool)] = found.T
    return grid
