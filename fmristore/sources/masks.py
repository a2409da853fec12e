"""Masks: from whatever a user has to the voxels that are meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore.sources.arrays import check_on_grid
from fmristore.sources.door import load_volume
from fmristore.sources.grids import apart, other_shape
from fmristore.sources.labels import warn
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray
from fmristore_stores.shown import shown

__all__ = ["MaskWarning", "mask_array", "mask_voxels"]

_NEARLY_WHOLE = 0.01
"""By which values of a mask may differ from whole numbers without a warning, as labels may."""


class MaskWarning(UserWarning):
    """A mask holds values of a map, and every voxel that is not 0 is taken."""


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

    Warns
    -----
    MaskWarning
        If it holds values that are not whole numbers, and may be a map.

    Raises
    ------
    InvalidInputError
        If shape or grid differ, the mask is not a single volume, or no voxel is in it.
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
    if values.dtype.kind == "f":
        _warn_of_fractions(values, inside, name)
    return inside


def _warn_of_fractions(values: AnyArray, inside: AnyArray, name: str | None) -> None:
    """Warn of a mask of several values that may be a map, or was resampled with interpolation."""
    found = values[inside]
    whole = np.rint(found)
    count = int(np.count_nonzero((np.abs(found - whole) > _NEARLY_WHOLE) | (whole == 0)))
    if count and found.min() != found.max():
        where = "" if name is None else f"{shown(name)}: "
        warn(
            f"{where}the mask holds {count} values that are not whole numbers, from "
            f"{found.min():.3g} to {found.max():.3g}, as maps of probabilities and masks that were "
            "resampled with interpolation do; each voxel that is not 0 is in. Give the mask that "
            "is meant, such as values > 0.5",
            MaskWarning,
        )


def mask_voxels(
    mask: Any, space: NeuroSpace, *, storage_options: Mapping[str, Any] | None = None
) -> AnyArray:
    """Indices of the voxels in a mask, (n, 3), in numpy's (C) order; see `mask_array`."""
    return np.argwhere(mask_array(mask, space, storage_options=storage_options))
