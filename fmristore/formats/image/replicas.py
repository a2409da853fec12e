"""Replicas of an image's data, stored for other reads: which there are, and which one to read.

The array ``0`` names its copies in the attribute ``copies``. All of them hold the same data; a
read takes the one that has the fewest bytes to decode for it.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.planning.indexing import AxisPart, bounds, has_positions
from fmristore.planning.layout import Pattern
from fmristore_stores.chunks.in_place import InPlaceArray, InPlaceReads
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.grid import overlap_count
from fmristore_stores.opening import Handle, Opened
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec, Attributes, check_name

__all__ = [
    "COPIES",
    "COPY_GROUP",
    "Replica",
    "Replicas",
    "access_attributes",
    "find_replicas",
    "replica_fault",
    "replica_paths",
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


def replica_paths(handle: Handle, data: StoredArray, attributes: Attributes) -> tuple[str, ...]:
    """Paths in the store of the copies of the data of an image; empty if there are none.

    Parameters
    ----------
    handle : Handle
        The store.
    data : StoredArray
        The array ``0``.
    attributes : mapping
        Its attributes.

    Raises
    ------
    MetadataError
        If the attribute that names them is damaged. `Replicas` looks at the copies themselves.
    """
    try:
        return find_replicas(attributes, data.path)
    except InvalidInputError as error:
        raise MetadataError(error.message, url=handle.locator.url, node=data.path) from error


class Replica(NamedTuple):
    """One of the arrays: its chunks, and how its axes lie beside those that users index."""

    array: StoredArray
    chunks: tuple[int, ...]
    nbytes: int
    """Bytes of a decoded chunk."""
    places: tuple[int, ...]
    """Place of each stored axis among those that users index; the colours lie behind the last."""
    order: tuple[int, ...]
    """Stored axes in the order in which users index them, the colours last."""
    whole: tuple[slice, ...]
    """All of every stored axis."""

    def stored(self, region: Sequence[Any]) -> tuple[Any, ...]:
        """A region in the order of the stored axes, all colours with it."""
        if len(self.places) == len(region):
            return tuple(map(region.__getitem__, self.places))
        parts = *region, self.whole[self.order[-1]]
        return tuple(map(parts.__getitem__, self.places))


def _none() -> None:
    """Reads in place before there are any."""


class Replicas:
    """Arrays that hold the same data, each stored for other reads; mostly a single one.

    Parameters
    ----------
    arrays : sequence of StoredArray
        The array ``0`` first, axes named as in `fmristore.planning.layout.AXES`.
    axes : sequence of str
        Names of the axes in the order in which users index them.
    """

    def __init__(self, arrays: Sequence[StoredArray], axes: Sequence[str]) -> None:
        self._arrays = tuple(arrays)
        self._axes = tuple(axes)
        self.lie_plainly = False
        """True if it is known that they may be read in place: neither encoded nor in colours."""
        self._reads: Callable[[], InPlaceReads | None] = _none

    def __reduce__(self) -> tuple[type[Replicas], tuple[Any, ...]]:
        return Replicas, (self._arrays, self._axes)  # whatever was found out meanwhile

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """All of them."""
        return self._arrays

    @cached_property
    def _main(self) -> Replica:
        """The array ``0``."""
        found = self._replica(self._arrays[0])
        self.lie_plainly = not found.array.reader.decodes and len(found.order) == len(self._axes)
        return found

    @cached_property
    def _found(self) -> list[Replica]:
        """All of them, the smallest chunks first.

        Raises
        ------
        MetadataError
            If one is missing, or cannot be a copy.
        """
        main, *copies = self._arrays
        found = [self._main]
        attributes = main.attributes if copies else {}
        for copy in copies:
            fault = replica_fault(main.reader.spec, attributes, copy.reader.spec, copy.attributes)
            if fault:
                raise MetadataError(fault, url=copy.url, node=copy.path)
            found.append(self._replica(copy))
        return sorted(found, key=lambda replica: replica.nbytes)

    def _replica(self, array: StoredArray) -> Replica:
        reader = array.reader
        spec, chunks = reader.spec, reader.chunks
        nbytes = math.prod(chunks) * spec.dtype.itemsize
        axes = (*self._axes, "c")[: len(spec.dims)]
        places = tuple(map(axes.index, spec.dims))
        order = tuple(map(spec.dims.index, axes))
        whole = tuple([slice(0, n, 1) for n in spec.shape])
        return Replica(array, chunks, nbytes, places, order, whole)

    def check(self) -> None:
        """Look at all copies; raises `MetadataError` if one is missing, or cannot be a copy."""
        _ = self._found

    def in_place(self, handle: Handle) -> InPlaceReads | None:
        """Reads in place of the store that is open now; None if there are none.

        There are some if `lie_plainly`, which the first read of an image finds out.
        """
        if handle.closed:
            return None  # other reads say so
        return self._reads() or self._find_in_place(handle.opened)

    def _find_in_place(self, opened: Opened) -> InPlaceReads | None:
        reads = opened.in_place.get(self)
        if reads is None:
            found: list[InPlaceArray | None] = [None]
            with contextlib.suppress(MetadataError):  # raised by the reads that need a copy
                found = [replica.array.reader.in_place(replica.order) for replica in self._found]
            arrays = [array for array in found if array is not None]
            self.lie_plainly = len(arrays) == len(found)
            if not self.lie_plainly:
                return None
            reads = opened.in_place.put(self, InPlaceReads(arrays))
        self._reads = weakref.ref(reads)
        return reads

    def for_region(self, region: Sequence[AxisPart]) -> Replica:
        """The replica to read a region from: the one that has the fewest bytes to decode for it.

        The array ``0`` where whole series are wanted that lie in one chunk of it: then its copies
        need not be opened.

        Parameters
        ----------
        region : sequence of slice or ndarray
            One part for each axis, in the order in which users index them.

        Raises
        ------
        MetadataError
            If a copy is missing, or is none.
        """
        main = self._main
        if len(self._arrays) == 1:
            return main
        if has_positions(region):
            region = [bounds(part) for part in region]
        last = len(self._axes) - 1
        series = region[last] == main.whole[main.order[last]]
        if series and overlap_count(main.stored(region), main.chunks) == 1:
            return main
        best, least = main, (math.inf, math.inf)
        for replica in self._found:
            chunks = overlap_count(replica.stored(region), replica.chunks)
            cost = chunks * replica.nbytes, chunks  # of equal bytes, fewer chunks are cheaper
            if cost < least:
                best, least = replica, cost
            if chunks <= 1:
                break  # none of the others has fewer bytes
        return best

    def for_voxels(self, voxels: AnyArray, times: slice) -> Replica:
        """The replica that has the fewest bytes to decode for series of scattered voxels.

        Parameters
        ----------
        voxels : ndarray of int, (n, 3)
            Indices (x, y, z).
        times : slice
            Part of the run.
        """
        if len(self._arrays) == 1 or not len(voxels):
            return self._main

        def spans(replica: Replica) -> int:
            return overlap_count((times,), (replica.chunks[replica.order[3]],))

        def cost(replica: Replica) -> tuple[int, int]:
            number = np.zeros(len(voxels), np.int64)
            for axis, place in enumerate(replica.order[:3]):
                size = replica.chunks[place]
                number = number * -(-replica.whole[place].stop // size) + voxels[:, axis] // size
            chunks = len(np.unique(number)) * spans(replica)
            return chunks * replica.nbytes, chunks

        # Of one chunk for all voxels, and of one for each: mostly that is enough to know.
        most = min(len(voxels) * spans(replica) * replica.nbytes for replica in self._found)
        left = [replica for replica in self._found if spans(replica) * replica.nbytes <= most]
        return left[0] if len(left) == 1 else min(left, key=cost)

    @property
    def for_volumes(self) -> Replica:
        """The replica to read volume after volume from."""
        main = self._main
        region: list[AxisPart] = [main.whole[place] for place in main.order[: len(self._axes)]]
        if "t" in self._axes:
            region[self._axes.index("t")] = slice(0, 1, 1)
        return self.for_region(region)
