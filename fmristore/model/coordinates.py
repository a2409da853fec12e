"""Coordinates of the axes of images, as other libraries show them: mm, seconds, names."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import STRING

__all__ = ["Coordinate", "grid_coordinates", "is_aligned", "time_coordinate"]

_ALIGNED_MM = 1e-3
"""Distance that an axis of the world may stray by over its whole length."""

_DIRECTIONS = {"x": "left to right", "y": "posterior to anterior", "z": "inferior to superior"}
_COLORS = ("red", "green", "blue", "alpha")


class Coordinate(NamedTuple):
    """Values along one axis, and what they are."""

    values: AnyArray
    attributes: dict[str, str]
    """``long_name``, and ``units`` where they have one."""


def is_aligned(space: NeuroSpace) -> bool:
    """Return whether the axes x, y, z of a grid are those of the world, in either direction."""
    affine = space.affine[:3, :3]
    aside = affine - np.diag(np.diag(affine))
    return bool(np.max(np.abs(aside) * space.spatial_shape) <= _ALIGNED_MM)


def grid_coordinates(space: NeuroSpace, colors: int = 0) -> dict[str, Coordinate]:
    """Coordinates of the axes x, y, z, and c of images in colour.

    Parameters
    ----------
    space : NeuroSpace
        The grid.
    colors : int
        Length of the axis c, 0 if there is none.

    Returns
    -------
    dict of str to Coordinate
        float64 in mm where the axes are those of the world, else the index of the voxel (int64).
    """
    found = {}
    aligned = is_aligned(space)
    for a, name in enumerate("xyz"):
        index = np.arange(space.spatial_shape[a])
        if aligned:
            values = space.affine[a, a] * index + space.affine[a, 3]
            about = {"units": "mm", "long_name": f"{name}, {_DIRECTIONS[name]}"}
            found[name] = Coordinate(values, about)
        else:
            about = {"long_name": "index of the voxel"}
            found[name] = Coordinate(index.astype(np.int64), about)
    if colors:
        found["c"] = Coordinate(np.array(_COLORS[:colors], STRING), {"long_name": "colour"})
    return found


def time_coordinate(space: NeuroSpace) -> Coordinate:
    """Times of the volumes in seconds, float64; their index (int64) where these are not known."""
    if space.times is not None:
        return Coordinate(space.times, {"units": "s"})
    index = np.arange(space.time_points or 0, dtype=np.int64)
    return Coordinate(index, {"long_name": "index of the volume"})
