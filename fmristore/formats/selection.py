"""Voxels that a series is asked for, given by index or by a mask."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore.planning.indexing import (
    Selection,
    parse_axis,
)
from fmristore.sources.labelled import voxel_columns
from fmristore.sources.masks import mask_voxels
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.protocol import AnyArray

__all__ = [
    "VoxelSelection",
    "parse_points",
    "parse_series",
    "spread_over",
]


def spread_over(shape: Sequence[int], most: int) -> AnyArray:
    """Voxels, (n, 3), at even distances in a grid: at most `most` of them."""
    step = 1
    while math.prod(-(-n // step) for n in shape) > max(1, most):
        step += 1
    axes = [np.arange(min(step // 2, n - 1), n, step) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


class VoxelSelection(NamedTuple):
    """Voxels and volumes that a series is wanted of."""

    points: AnyArray
    """(n, 3), or (3,) for one voxel: as given, negative indices and all."""
    single: bool
    """True if it was one voxel, so that the result has no axis of voxels."""
    times: Selection


def parse_points(voxels: Any) -> tuple[AnyArray, bool]:
    """Parse one voxel, or many, given by index.

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
    voxels = _stacked(voxel_columns(voxels))
    try:
        points = np.asarray(voxels)
    except ValueError as error:
        raise SelectionError("voxels: expected rows of three integers") from error
    if points.size == 0:
        return np.empty((0, 3), np.int64), False
    if points.dtype.kind not in "iu" or points.ndim not in (1, 2) or points.shape[-1] != 3:
        raise SelectionError(
            f"voxels of shape {points.shape} and type {points.dtype}: expected integers, "
            "(3,) for one voxel or (n, 3) for many; linear indices become voxels by "
            "numpy.stack(numpy.unravel_index(indices, image.shape[:3]), axis=1), those of R by the "
            'same with indices - 1 and order="F"'
        )
    return points, points.ndim == 1


def _stacked(voxels: Any) -> Any:
    """Three arrays of indices, as ``numpy.nonzero`` gives them, as rows; others as they are.

    Raises
    ------
    SelectionError
        If they are three arrays of three, which may be rows as well.
    """
    if not (isinstance(voxels, tuple) and len(voxels) == 3):
        return voxels
    shapes = {one.shape if isinstance(one, np.ndarray) else None for one in voxels}
    if shapes == {(3,)}:
        raise SelectionError(
            "three arrays of three integers may be rows or columns: give an array (n, 3), such as "
            "numpy.argwhere(mask), or numpy.stack(numpy.nonzero(mask), axis=1)"
        )
    if None in shapes or len(shapes) > 1 or len(next(iter(shapes)) or ()) != 1:
        return voxels
    return np.stack(voxels, axis=1)


def parse_series(
    voxels: Any,
    mask: Any,
    times: Any,
    *,
    space: NeuroSpace,
    length: int,
    storage_options: Mapping[str, Any] | None = None,
) -> VoxelSelection:
    """Parse what the method ``series`` is asked for; see `GridView.series`.

    Raises
    ------
    InvalidInputError
        If both or neither of `voxels` and `mask` are given, or the mask does not fit.
    SelectionError
        If the voxels are not rows of three integers, or `times` is no part of the run.
    """
    if (voxels is None) == (mask is None):
        raise InvalidInputError("give either voxels or mask=")
    if mask is not None:
        points, single = mask_voxels(mask, space, storage_options=storage_options), False
    else:
        points, single = parse_points(voxels)
    return VoxelSelection(points, single, parse_axis(times, length))
