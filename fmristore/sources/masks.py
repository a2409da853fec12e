"""Masks: from whatever a user has to the voxels that are meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore.sources.arrays import check_on_grid
from fmristore.sources.door import load_volume
from fmristore.sources.grids import apart, other_shape
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["mask_array", "mask_voxels"]

_NEARLY_WHOLE = 0.01
"""By which values of a mask may differ from whole numbers, as labels may."""


def mask_array(
    mask: Any, space: NeuroSpace, *, storage_options: Mapping[str, Any] | None = None
) -> AnyArray:
    """Bring a mask into the form of a boolean array on a grid.

    Parameters
    ----------
    mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z)
        Voxels that are not zero are in; NaN is out. Its values are one number besides these, or
        whole numbers. A path is that of a file or a store.
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
        If shape or grid differ, the mask is not a single volume, no voxel is in it, it holds
        different values that are not whole numbers, as a map does, or different values and no 0.
    """
    values, grid, name, _ = load_volume(mask, "mask", storage_options, shape=space.spatial_shape)
    if values.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"a mask must be real numbers, not {values.dtype}: convert it with .astype(bool)",
            url=name,
        )
    shape = values.shape[:3] if set(values.shape[3:]) <= {1} else values.shape
    if shape != space.spatial_shape:
        raise InvalidInputError(
            other_shape("the mask", values.shape, space.spatial_shape), url=name
        )
    if grid is not None and not space.same_grid(grid):
        raise InvalidInputError(apart("mask", space, grid), url=name)
    check_on_grid(mask, space)
    values = np.nan_to_num(values.reshape(shape))
    inside: AnyArray = values != 0
    if not inside.any():
        raise InvalidInputError("no voxel is in the mask: all its values are 0 or NaN", url=name)
    if values.dtype.kind != "b":
        _check_values(values, inside, name)
    return inside


def _check_values(values: AnyArray, inside: AnyArray, name: str | None) -> None:
    """Refuse a mask of different values that do not tell which voxels are meant, as nilearn does.

    It may be a map, or was resampled with interpolation, or say outside with another value than 0.
    """
    found = values[inside]
    if found.min() == found.max():
        return
    if values.dtype.kind == "f":
        whole = np.rint(found)
        count = int(np.count_nonzero((np.abs(found - whole) > _NEARLY_WHOLE) | (whole == 0)))
        if count:
            raise InvalidInputError(
                f"the mask holds {count} values that are not whole numbers, from "
                f"{found.min():.3g} to {found.max():.3g}, as maps of probabilities and masks that "
                "were resampled with interpolation do: give the mask that is meant, such as "
                "values > 0.5, or values != 0",
                url=name,
            )
    if inside.all():
        raise InvalidInputError(
            f"the mask holds values from {found.min():.6g} to {found.max():.6g} and 0 nowhere, so "
            f"that it does not tell which voxels are out: give values > {found.min():.6g}, or the "
            "mask that is meant",
            url=name,
        )


def mask_voxels(
    mask: Any, space: NeuroSpace, *, storage_options: Mapping[str, Any] | None = None
) -> AnyArray:
    """Indices of the voxels in a mask, (n, 3), in numpy's (C) order; see `mask_array`."""
    return np.argwhere(mask_array(mask, space, storage_options=storage_options))
