"""Nodes that say which voxels of a grid a store has: a mask, and indices in any other order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import StoredArray
from fmristore.formats.fill import Fill
from fmristore.formats.new_arrays import write_encoded
from fmristore.formats.nodes import read_grid
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore_stores.errors import MemoryLimitError, MetadataError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Group

__all__ = [
    "MOST_VOXELS",
    "ORDER",
    "VoxelNodes",
    "mask_shape",
    "voxel_nodes",
    "write_voxels",
]

ORDER = "x-fastest"

"""Name of the order of voxels that is written: by index, x varying fastest."""

MOST_VOXELS = 1 << 30

"""Voxels that a grid may have: a table of this many numbers is made to find them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VoxelNodes:
    """Nodes that say which voxels a store has.

    Parameters
    ----------
    space : NeuroSpace
        The grid, with its times where there are some.
    count : int
        Voxels that are stored.
    mask : str
        Path of the mask, axes z y x.
    voxels : str
        Path of the indices, (V, 3); empty if the voxels are those of the mask, x fastest.
    fill : int or float
        What is read outside the mask.
    indices : ndarray of int, (V, 3), optional
        The indices themselves, where a store has them in another form; there is no mask then.
    """

    space: NeuroSpace
    count: int
    mask: str = "mask"
    voxels: str = ""
    fill: Fill = 0
    indices: NDArray[np.int32] | None = None


def mask_shape(handle: Handle, path: str = "mask") -> tuple[int, int, int]:
    """Lengths along x, y, z of a stored mask, axes z y x; its data are not read.

    Raises
    ------
    MetadataError
        If there is no mask, or it is not one.
    MemoryLimitError
        If its grid is too large to be handled.
    """
    spec = StoredArray(handle, path).reader.spec
    url = handle.locator.url
    named = not any(spec.dims) or spec.dims == ("z", "y", "x")  # R's files have no names of axes
    if len(spec.shape) != 3 or not named or spec.dtype.kind not in "biu" or 0 in spec.shape:
        raise MetadataError(
            f"a mask of shape {spec.shape}, type {spec.dtype} and axes {spec.dims}: expected whole "
            "numbers (z, y, x)",
            url=url,
            node=path,
        )
    if math.prod(spec.shape) > MOST_VOXELS:
        raise MemoryLimitError(
            f"the grid of shape {spec.shape[::-1]} has more than {MOST_VOXELS} voxels",
            url=url,
            node=path,
        )
    z, y, x = spec.shape
    return x, y, z


def voxel_nodes(
    handle: Handle, count: int, *, fill: Fill, time_points: int | None = None
) -> VoxelNodes:
    """Voxels that the root group of a store has, by its nodes ``mask`` and ``voxels``.

    Parameters
    ----------
    handle : Handle
        The store.
    count : int
        Voxels that there are values of.
    fill : int or float
        What is read outside the mask.
    time_points : int, optional
        Number of volumes.

    Raises
    ------
    MetadataError
        If a node is missing or does not fit the others.
    """
    space = read_grid(handle, mask_shape(handle), time_points)
    voxels = StoredArray(handle, "voxels")
    spec = voxels.reader.spec
    if spec.shape != (count, 3) or spec.dtype.kind not in "iu":
        raise MetadataError(
            f"voxels of shape {spec.shape} and type {spec.dtype}: expected whole numbers "
            f"{(count, 3)}",
            url=handle.locator.url,
            node="voxels",
        )
    # In this order the mask alone says as much, in far fewer bytes.
    needed = voxels.attributes.get("order") != ORDER
    return VoxelNodes(space=space, count=count, voxels="voxels" if needed else "", fill=fill)


def write_voxels(group: Group, voxels: VoxelSet, codec: str) -> None:
    """Write ``mask`` and ``voxels``, which must be in the order `ORDER`."""
    mask = voxels.mask.transpose(2, 1, 0).astype(np.uint8)
    write_encoded(group, "mask", ("z", "y", "x"), mask, codec)
    array = voxels.voxels.astype("<i4")
    write_encoded(group, "voxels", ("voxel", "xyz"), array, codec, {"order": ORDER})
