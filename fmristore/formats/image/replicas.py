"""Replicas of an image's data, stored for other reads: which there are, and which one to read.

The array ``0`` names its copies in the attribute ``copies``. All of them hold the same data; a
read takes the one that has the fewest bytes to decode for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.planning.layout import Pattern
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.grid import overlap_count
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec, Attributes, check_name

__all__ = [
    "COPIES",
    "COPY_GROUP",
    "Replicas",
    "access_attributes",
    "find_replicas",
    "read_replicas",
    "replica_fault",
]

COPIES = "copies"
"""Attribute of an array ``0``: paths of its copies, from the group that it lies in."""

COPY_GROUP = "volume"
"""Group of the copy for volumes. In the group of ``0`` itself the same axes would have two layouts,
and xarray would show two variables."""


def access_attributes(
    patterns: Sequence[Pattern], group: str = COPY_GROUP
) -> tuple[dict[str, Any], ...]:
    """Attributes that say which reads an array ``0`` and its copy, if any, are stored for.

    Parameters
    ----------
    patterns : sequence of {"time", "volume", "balanced"}
        As `fmristore.planning.layout.access_patterns` returns them.
    group : str
        Name of the group of the copy.
    """
    first, *others = patterns
    if not others:
        return ({"access": first},)
    copies = tuple({"access": pattern} for pattern in others)
    return ({"access": "both", COPIES: [f"{group}/0"]}, *copies)


def find_replicas(attributes: Attributes, data: str) -> tuple[str, ...]:
    """Paths in the store of the copies that an array names.

    Parameters
    ----------
    attributes : mapping
        Of the array.
    data : str
        Its path.

    Raises
    ------
    InvalidInputError
        If the attribute is not a list of arrays ``0`` of child groups, all different.
    """
    named = attributes.get(COPIES, [])
    folder = data.rpartition("/")[0]
    found = []
    for path in named if isinstance(named, list) else [named]:
        group, slash, name = path.partition("/") if isinstance(path, str) else ("", "", "")
        if not slash or name != "0":
            raise InvalidInputError(f"the copy {path!r} is not the array 0 of a child group")
        found.append(f"{folder}/{check_name(group)}/0".strip("/"))
    if len(set(found)) != len(found):
        raise InvalidInputError("the same copy is named twice")
    return tuple(found)


def replica_fault(
    main: ArraySpec, attributes: Attributes, copy: ArraySpec, copy_attributes: Attributes
) -> str:
    """Reason why an array cannot be a copy of another one; empty if it can."""
    lengths = dict(zip(main.dims, main.shape, strict=True))
    if len(copy.dims) != len(lengths) or dict(zip(copy.dims, copy.shape, strict=True)) != lengths:
        return f"axes {copy.dims} of shape {copy.shape} are not those of the array that it copies"
    if copy.dtype != main.dtype:
        return f"holds {copy.dtype}, the array that it copies {main.dtype}"
    if copy_attributes.get("digest") != attributes.get("digest"):
        return "has another digest than the array that it copies"
    return ""


def read_replicas(handle: Handle, data: StoredArray, attributes: Attributes) -> tuple[str, ...]:
    """Find the copies of the data of an image.

    Parameters
    ----------
    handle : Handle
        The store.
    data : StoredArray
        The array ``0``.
    attributes : mapping
        Its attributes.

    Returns
    -------
    tuple of str
        Their paths; empty if there are none.

    Raises
    ------
    MetadataError
        If one is missing, or cannot be a copy.
    """
    try:
        paths = find_replicas(attributes, data.path)
    except InvalidInputError as error:
        raise MetadataError(error.message, url=handle.locator.url, node=data.path) from error
    for path in paths:
        copy = StoredArray(handle, path)
        fault = replica_fault(data.reader.spec, attributes, copy.reader.spec, copy.attributes)
        if fault:
            raise MetadataError(fault, url=handle.locator.url, node=path)
    return paths


class _Grid(NamedTuple):
    """Chunks of one of the arrays."""

    array: StoredArray
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    nbytes: int
    """Bytes of a decoded chunk."""


class Replicas:
    """Arrays that hold the same data, each stored for other reads; mostly a single one.

    Parameters
    ----------
    arrays : sequence of StoredArray
        The array ``0`` first, axes named as in `fmristore.planning.layout.AXES`.
    """

    def __init__(self, arrays: Sequence[StoredArray]) -> None:
        self._arrays = tuple(arrays)

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """All of them."""
        return self._arrays

    @cached_property
    def _grids(self) -> list[_Grid]:
        found = []
        for array in self._arrays:
            reader = array.reader
            spec, chunks = reader.spec, reader.chunks
            nbytes = math.prod(chunks) * spec.dtype.itemsize
            found.append(_Grid(array, spec.dims, spec.shape, chunks, nbytes))
        return sorted(found, key=lambda grid: grid.nbytes)

    def for_region(self, parts: Mapping[str, slice]) -> StoredArray:
        """The array that has the fewest bytes to decode for a region.

        Parameters
        ----------
        parts : mapping of str to slice
            What is wanted along each axis by its name; all of an axis that is left out.
        """
        if len(self._arrays) == 1:
            return self._arrays[0]

        best, least = self._arrays[0], (math.inf, math.inf)
        for grid in self._grids:  # the smallest chunks first
            axes = zip(grid.dims, grid.shape, strict=True)
            region = tuple([parts[d] if d in parts else slice(0, n, 1) for d, n in axes])
            chunks = overlap_count(region, grid.chunks)
            cost = chunks * grid.nbytes, chunks  # where bytes are equal, fewer chunks are cheaper
            if cost < least:
                best, least = grid.array, cost
            if chunks <= 1:
                break  # none of the others has fewer bytes
        return best

    def for_voxels(self, voxels: AnyArray, times: slice) -> StoredArray:
        """The array that has the fewest bytes to decode for series of scattered voxels.

        Parameters
        ----------
        voxels : ndarray of int, (n, 3)
            Indices (x, y, z).
        times : slice
            Part of the run.
        """
        if len(self._arrays) == 1:
            return self._arrays[0]

        def spans(grid: _Grid) -> int:
            return overlap_count((times,), (grid.chunks[grid.dims.index("t")],))

        def cost(grid: _Grid) -> tuple[int, int]:
            number = np.zeros(len(voxels), np.int64)
            for axis, d in enumerate("xyz"):
                place = grid.dims.index(d)
                size = grid.chunks[place]
                number = number * -(-grid.shape[place] // size) + voxels[:, axis] // size
            chunks = len(np.unique(number)) * spans(grid)
            return chunks * grid.nbytes, chunks

        # Of one chunk for all voxels, and of one for each: mostly that is enough to know.
        most = min(len(voxels) * spans(grid) * grid.nbytes for grid in self._grids)
        left = [grid for grid in self._grids if spans(grid) * grid.nbytes <= most]
        return (left[0] if len(left) == 1 else min(left, key=cost)).array

    @property
    def for_volumes(self) -> StoredArray:
        """The array to read volume after volume from."""
        return self.for_region({"t": slice(0, 1, 1)})
