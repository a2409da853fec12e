"""A set of voxels of a grid in a fixed order: what rows of a voxel x something matrix stand for."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmristore.model.space import NeuroSpace
from fmristore.planning.indexing import Selection, parse_selection
from fmristore.sources.masks import mask_voxels
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.protocol import AnyArray

__all__ = ["SeriesRequest", "VoxelSet", "parse_points", "parse_series", "parse_times"]


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
    def from_mask(cls, mask: Any, space: NeuroSpace) -> VoxelSet:
        """Voxels of a mask in order of their index, x fastest; see `fmristore.sources.masks`."""
        return cls(space, mask_voxels(mask, space))

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


def parse_points(voxels: Any) -> tuple[AnyArray, bool]:
    """Understand one voxel, or many, given by index.

    Parameters
    ----------
    voxels : (x, y, z) or array_like of int, (n, 3)

    Returns
    -------
    points : ndarray of int, (n, 3) or (3,)
    single : bool
        Whether it was one voxel, not a list.

    Raises
    ------
    SelectionError
        If they are not whole numbers, three for each voxel.
    """
    try:
        points = np.asarray(voxels)
    except ValueError as error:
        raise SelectionError("voxels: expected rows of three integers") from error
    if points.size == 0:
        return np.empty((0, 3), np.int64), False
    if points.dtype.kind not in "iu" or points.ndim not in (1, 2) or points.shape[-1] != 3:
        raise SelectionError(
            f"voxels of shape {points.shape} and type {points.dtype}: expected integers, "
            "(3,) for one voxel or (n, 3) for many"
        )
    return points, points.ndim == 1


def parse_times(times: slice | None, length: int) -> Selection:
    """Understand a part of a run of `length` volumes; None is all of it.

    Raises
    ------
    SelectionError
        If it is no slice.
    """
    if not isinstance(times, slice | None):
        raise SelectionError(f"times must be a slice, not {times!r}")
    return parse_selection(Ellipsis if times is None else times, (length,))


class SeriesRequest(NamedTuple):
    """Whose series are wanted, and which part of them."""

    points: AnyArray
    """(n, 3), or (3,) for one voxel: as given, negative indices and all."""
    single: bool
    """Whether it was one voxel, so that the result has no axis of voxels."""
    times: Selection


def parse_series(
    voxels: Any, mask: Any, times: slice | None, *, space: NeuroSpace, length: int
) -> SeriesRequest:
    """Understand what the method ``series`` of a format is asked for.

    Parameters
    ----------
    voxels, mask : object
        One of them: see `parse_points` and `fmristore.sources.masks.mask_voxels`.
    times : slice, optional
        Part of the run.
    space : NeuroSpace
        Grid that the mask must lie on.
    length : int
        Number of volumes.

    Raises
    ------
    InvalidInputError
        If both or neither of `voxels` and `mask` are given, or the mask does not fit.
    SelectionError
        If the voxels are not rows of three integers, or `times` is no slice.
    """
    if (voxels is None) == (mask is None):
        raise InvalidInputError("give either voxels or mask=")
    if mask is not None:
        points, single = mask_voxels(mask, space), False
    else:
        points, single = parse_points(voxels)
    return SeriesRequest(points, single, parse_times(times, length))
