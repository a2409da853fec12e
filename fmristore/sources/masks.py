"""Masks: from whatever a user has to the voxels that are meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore.sources.door import load_volume
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["mask_array", "mask_voxels"]


def mask_array(
    mask: Any, space: NeuroSpace, *, storage_options: Mapping[str, Any] | None = None
) -> AnyArray:
    """Bring a mask into the form of a boolean array on a grid.

    Parameters
    ----------
    mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z)
        Voxels that are not zero are in; NaN is out. A path is that of a file or a store.
        What has a mask and a grid of its own, as `MaskedNeuroVec`, `LabeledVolumeSet` and
        `Parcellation` have, stands for that mask.
    space : NeuroSpace
        Grid that the mask must be on; an array need only have its shape.
    storage_options : mapping, optional
        For a mask given by URL.

    Returns
    -------
    ndarray of bool, (X, Y, Z)

    Raises
    ------
    InvalidInputError
        If shape or grid differ, the mask is not a single volume, or no voxel is in it.
    """
    values, grid, name, _ = load_volume(mask, "mask", storage_options, shape=space.spatial_shape)
    if values.dtype.kind not in "biuf":
        raise InvalidInputError(f"a mask must be real numbers, not {values.dtype}", url=name)
    shape = values.shape[:3] if set(values.shape[3:]) <= {1} else values.shape
    if shape != space.spatial_shape:
        raise InvalidInputError(
            f"the mask has shape {values.shape}, the image {space.spatial_shape}", url=name
        )
    if grid is not None and not space.same_grid(grid):
        raise InvalidInputError(
            f"mask and image have the same shape but lie {space.grid_distance(grid):.3g} mm apart; "
            "resample the mask, or pass its array to ignore this",
            url=name,
        )
    inside: AnyArray = np.nan_to_num(values.reshape(shape)) != 0
    if not inside.any():
        raise InvalidInputError("no voxel is in the mask", url=name)
    return inside


def mask_voxels(
    mask: Any, space: NeuroSpace, *, storage_options: Mapping[str, Any] | None = None
) -> AnyArray:
    """Indices of the voxels in a mask, (n, 3), in numpy's (C) order; see `mask_array`."""
    return np.argwhere(mask_array(mask, space, storage_options=storage_options))
