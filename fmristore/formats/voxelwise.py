"""What is stored for the voxels of a mask alone, and indexed on the whole grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.base import StoredObject, describe_space, plain_number
from fmristore.formats.image.layout import read_grid
from fmristore.formats.nodes import write_encoded
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    InvalidInputError,
    MemoryLimitError,
    MetadataError,
)
from fmristore_stores.grid import Region
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Group

__all__ = [
    "ORDER",
    "Fill",
    "MaskedObject",
    "VoxelNodes",
    "check_fill",
    "fill_attribute",
    "mask_shape",
    "read_columns",
    "read_fill",
    "voxel_nodes",
    "write_voxels",
]

Fill = int | float
"""What voxels outside the mask have."""

ORDER = "x-fastest"
"""Name of the order of voxels that is written: by index, x varying fastest."""

_MOST_VOXELS = 1 << 30
"""Voxels that a grid may have: a table of this many numbers is made to find them."""

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Fill values that attributes cannot hold as numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelNodes:
    """Where a store says which voxels it has.

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
    """

    space: NeuroSpace
    count: int
    mask: str = "mask"
    voxels: str = ""
    fill: Fill = 0


class MaskedObject(StoredObject):
    """What objects share whose numbers are stored for some voxels of a grid.

    Parameters
    ----------
    handle : Handle
        The store.
    nodes : VoxelNodes
        Which voxels it has.
    """

    def __init__(self, handle: Handle, nodes: VoxelNodes) -> None:
        super().__init__(handle)
        self._nodes = nodes

    @property
    def affine(self) -> AnyArray:
        """(4, 4) float64: voxel indices (0-based) to mm, RAS+."""
        return self._nodes.space.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes along x, y, z in mm."""
        return self._nodes.space.spacing

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position of voxel (0, 0, 0) in mm."""
        return self._nodes.space.origin

    @property
    def fill(self) -> Fill:
        """What is read for voxels outside the mask."""
        return self._nodes.fill

    @cached_property
    def voxel_set(self) -> VoxelSet:
        """The stored voxels and their numbers; read when they are first needed.

        Raises
        ------
        MetadataError
            If the mask is damaged, or not that of the numbers.
        """
        nodes = self._nodes
        url = self._handle.locator.url
        try:
            if nodes.voxels:
                found = StoredArray(self._handle, nodes.voxels).read_small(3 * nodes.count)
            else:
                size = math.prod(nodes.space.spatial_shape)
                mask = StoredArray(self._handle, nodes.mask).read_small(size)
                found = np.argwhere(mask != 0)[:, ::-1]
            voxels = VoxelSet(nodes.space, found)
        except InvalidInputError as error:
            raise MetadataError(
                f"the voxels are damaged: {error.message}", url=url, node=nodes.voxels or nodes.mask
            ) from error
        if len(voxels) != nodes.count:
            raise MetadataError(
                f"there are {len(voxels)} voxels, and numbers of {nodes.count}",
                url=url,
                node=nodes.mask,
            )
        return voxels

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z) bool: whether a voxel is stored."""
        return self.voxel_set.mask

    @property
    def voxels(self) -> NDArray[np.int32]:
        """(V, 3) int32: indices (x, y, z) of the stored voxels, 0-based, in stored order."""
        return self.voxel_set.voxels

    def _mask_facts(self) -> dict[str, Any]:
        """Which voxels are stored, and what the others are read as."""
        return {
            "space": describe_space(self._nodes.space),
            "mask": {
                "voxels": self._nodes.count,
                "of": math.prod(self._nodes.space.spatial_shape),
            },
            "fill": plain_number(self.fill),
        }

    def check(self) -> None:
        """Docstring inherited."""
        nodes, voxels = self._nodes, self.voxel_set
        size = math.prod(nodes.space.spatial_shape)
        mask = StoredArray(self._handle, nodes.mask).read_small(size)
        alike = np.array_equal((mask != 0).transpose(2, 1, 0), voxels.mask)
        if not nodes.voxels and "voxels" in self._handle.store.root.children():
            found = StoredArray(self._handle, "voxels").read_small(3 * nodes.count)
            alike &= np.array_equal(found, voxels.voxels)
        if not alike:
            raise MetadataError(
                "mask and voxels do not say the same",
                url=self._handle.locator.url,
                node=nodes.mask,
            )

    def _rows(self, region: Region) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
        """Which voxels of a region of the grid are stored, (z, y, x), and their numbers."""
        rows = self.voxel_set.row_of[region].transpose(2, 1, 0)
        inside = rows >= 0
        return inside, rows[inside]

    def _on_grid(self, inside: NDArray[np.bool_], values: AnyArray, *, fill: Fill) -> AnyArray:
        """Values (n, ...) of the stored voxels of a region, on the region: (x, y, z, ...)."""
        check_fill(fill, values.dtype)
        grid = np.full((*inside.shape, *values.shape[1:]), fill, values.dtype)
        grid[inside] = values
        return grid.transpose(2, 1, 0, *range(3, grid.ndim))


def read_columns(
    reader: ChunkReader, axis: int, rows: NDArray[np.integer[Any]], other: slice
) -> AnyArray:
    """Read some voxels of a matrix, each once.

    Parameters
    ----------
    reader : ChunkReader
        Of a matrix.
    axis : int
        Axis of the matrix that numbers the voxels.
    rows : ndarray of int, (n,)
        Voxels wanted.
    other : slice
        Part of the other axis.

    Returns
    -------
    ndarray, (n, m)
        The voxels first, whichever axis they are.
    """
    first = int(rows[0]) if len(rows) else 0
    if np.array_equal(rows, np.arange(first, first + len(rows))):
        part = slice(first, first + len(rows), 1)
        values = reader.read((part, other) if axis == 0 else (other, part))
        return values if axis == 0 else values.T
    return reader.read_points([axis], np.asarray(rows)[:, None], (other,))


# What is outside ------------------------------------------------------------------------------


def check_fill(fill: Any, dtype: np.dtype[Any]) -> Fill:
    """Return a fill value as a plain number.

    Raises
    ------
    InvalidInputError
        If it is not one number, or numbers of that type cannot be it.
    """
    if isinstance(fill, np.generic):
        fill = fill.item()
    if isinstance(fill, bool) or not isinstance(fill, int | float):
        raise InvalidInputError(f"fill={fill!r:.80}: expected one real number")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not limits.min <= fill <= limits.max or fill != int(fill):
            raise InvalidInputError(f"fill={fill!r:.80} cannot be a number of type {dtype}")
        return int(fill)
    if float(np.finfo(dtype).max) < abs(fill) != math.inf:
        raise InvalidInputError(f"fill={fill!r:.80} cannot be a number of type {dtype}")
    return fill if isinstance(fill, float) else int(fill)


def fill_attribute(fill: Fill) -> int | float | str:
    """The attribute ``fill``: a number, or the name of one that is not finite."""
    if isinstance(fill, float) and not math.isfinite(fill):
        return next(n for n, v in _SPECIAL.items() if v == fill or (math.isnan(fill) and v != v))
    return fill


def read_fill(attributes: Mapping[str, Any], dtype: np.dtype[Any], *, url: str) -> Fill:
    """Fill value that attributes say, 0 if they do not.

    Raises
    ------
    MetadataError
        If it is damaged.
    """
    value = attributes.get("fill", 0)
    try:
        return check_fill(_SPECIAL.get(value, value) if isinstance(value, str) else value, dtype)
    except InvalidInputError as error:
        raise MetadataError(f"the attribute is damaged: {error.message}", url=url) from error


# Nodes ----------------------------------------------------------------------------------------


def mask_shape(handle: Handle, path: str = "mask") -> tuple[int, int, int]:
    """Lengths along x, y, z of a stored mask, axes z y x; its numbers are not read.

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
    if math.prod(spec.shape) > _MOST_VOXELS:
        raise MemoryLimitError(
            f"the grid of shape {spec.shape[::-1]} has more than {_MOST_VOXELS} voxels",
            url=url,
            node=path,
        )
    z, y, x = spec.shape
    return x, y, z


def voxel_nodes(
    handle: Handle, count: int, *, fill: Fill, time_points: int | None = None
) -> VoxelNodes:
    """Which voxels the root group of a store has, by its nodes ``mask`` and ``voxels``.

    Parameters
    ----------
    handle : Handle
        The store.
    count : int
        Voxels that there are numbers of.
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
