"""Masks: from whatever a user has to the voxels that are meant."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore.sources.images import NiftiSource, in_axis_order, is_store
from fmristore.sources.labels import FileAt, with_options
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["load_volume", "mask_array", "mask_voxels"]


def mask_array(
    mask: Any, space: NeuroSpace, *, storage_options: Mapping[str, Any] | None = None
) -> AnyArray:
    """Bring a mask into the form of a boolean array on a grid.

    Parameters
    ----------
    mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z)
        Voxels that are not zero are in; NaN is out. A path is that of a NIfTI file or of a store.
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
    values, grid, name = _own_mask(mask) or load_volume(
        mask, "mask", storage_options, shape=space.spatial_shape
    )
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


def load_volume(
    volume: Any,
    what: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
) -> tuple[AnyArray, NeuroSpace | None, str | None]:
    """Numbers of a volume in any form, scaled, in memory.

    Parameters
    ----------
    volume : path, stored volume, nibabel image, or array_like
        A path is that of a NIfTI file or of a store.
    what : str
        What it is called in messages.
    storage_options : mapping, optional
        For a URL.
    shape : tuple of int, optional
        Spatial shape that a file or stored volume must have; it is looked at before the values
        are read. More than one volume is then an error as well.

    Returns
    -------
    values : ndarray
        Axes (x, y, z) or (x, y, z, t).
    space : NeuroSpace or None
        Its grid; an array has none.
    url : str or None
        Where it lies.

    Raises
    ------
    InvalidInputError
        If it is not an array of numbers, or not of that shape.
    """
    volume = with_options(volume, storage_options)
    if isinstance(volume, FileAt):
        return _from_file(volume, what, shape)
    if not isinstance(volume, np.ndarray):  # an array is here already
        _check_shape(getattr(volume, "shape", None), shape, what, getattr(volume, "url", None))
    if hasattr(volume, "dataobj"):
        url = volume.get_filename()
        return np.asanyarray(volume.dataobj), NeuroSpace.from_nibabel(volume), url
    space = getattr(volume, "space", None)
    try:
        values = np.asarray(in_axis_order(volume))
    except ValueError as error:
        raise InvalidInputError(f"the {what} is not an array of numbers: {error}") from error
    return values, space if isinstance(space, NeuroSpace) else None, getattr(volume, "url", None)


def _own_mask(owner: Any) -> tuple[AnyArray, NeuroSpace, str | None] | None:
    space = getattr(owner, "space", None)
    if not isinstance(space, NeuroSpace) or not hasattr(owner, "mask"):
        return None
    return owner.mask, space, getattr(owner, "url", None)


def _check_shape(found: Any, shape: tuple[int, ...] | None, what: str, url: str | None) -> None:
    """Check the shape of a volume before its values are read."""
    if shape is None or not isinstance(found, tuple):
        return
    if (found[:3] if set(found[3:]) <= {1} else found) != shape:
        raise InvalidInputError(f"the {what} has shape {found}, the image {shape}", url=url)


def _from_file(
    file: FileAt, what: str, shape: tuple[int, ...] | None
) -> tuple[AnyArray, NeuroSpace | None, str]:
    """Values of a NIfTI file, or of what a store holds."""
    if is_store(file.url, file.storage_options):
        # Formats are above this module, and loaded by name when a store is met.
        opening = importlib.import_module("fmristore.formats.opening")
        with opening.opened(file.url, file.storage_options) as stored:
            own = _own_mask(stored) if what == "mask" else None
            values, space, _ = own or load_volume(stored, what, shape=shape)
            return values, space, file.url
    source = NiftiSource(file.url, storage_options=file.storage_options)
    if source.colors:
        raise InvalidInputError(f"a {what} must be numbers, not colours", url=file.url)
    _check_shape(source.space.shape, shape, what, file.url)
    x, y, z = source.space.spatial_shape
    values = np.empty((source.space.time_points or 1, z, y, x), source.dtype)
    for t0, z0, part in source.blocks(1 << 26):
        values[t0 : t0 + part.shape[0], z0 : z0 + part.shape[1]] = part
    if source.scaling is not None:
        values = source.scaling.apply(values, axis=0)
    return values.transpose(3, 2, 1, 0), source.space, file.url
