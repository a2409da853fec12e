"""numpy's basic indexing, taken apart into a region to read and what to do with the result."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np

from fmristore_stores.errors import SelectionError
from fmristore_stores.grid import Region, region_shape
from fmristore_stores.protocol import AnyArray

__all__ = ["Selection", "parse_selection"]


@dataclass(frozen=True, slots=True)
class Selection:
    """A basic index of an array.

    Parameters
    ----------
    region : tuple of slice
        One slice per axis with ``0 <= start <= stop`` and a positive step: what is to be read.
    finish : tuple
        Index that turns what was read into numpy's answer: it reverses axes that were asked for
        backwards, drops axes given as integers and adds new ones.
    """

    region: Region
    finish: tuple[Any, ...]

    def apply(self, values: AnyArray) -> Any:
        """Turn the values of the region into numpy's answer.

        That is a scalar if every axis is given as an integer, without an Ellipsis.
        """
        return values[self.finish]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the answer."""
        dummy = np.broadcast_to(np.int8(0), region_shape(self.region))
        return np.shape(dummy[self.finish])


def parse_selection(index: Any, shape: tuple[int, ...]) -> Selection:
    """Understand an index as numpy's basic indexing does.

    Parameters
    ----------
    index : int, slice, Ellipsis, None, or a tuple of them
        Negative integers count from the end; steps may be negative; ``None`` adds an axis.
    shape : tuple of int
        Shape of the array.

    Raises
    ------
    SelectionError
        If an integer is out of bounds, there are too many indices, or an entry is an array, list,
        mask or anything else that basic indexing does not know.
    """
    given = index if isinstance(index, tuple) else (index,)
    entries = _expand(given, len(shape))
    region: list[slice] = []
    finish: list[Any] = []
    for entry in entries:
        if entry is None:
            finish.append(None)
            continue
        axis = len(region)
        if isinstance(entry, slice):
            read, then = _parse_slice(entry, shape[axis], axis)
            region.append(read)
            finish.append(then)
        else:
            number = _parse_integer(entry, shape[axis], axis)
            region.append(slice(number, number + 1, 1))
            finish.append(0)
    if any(entry is Ellipsis for entry in given):
        finish.append(Ellipsis)  # which makes numpy answer with an array, even of no axes
    return Selection(tuple(region), tuple(finish))


def _expand(entries: tuple[Any, ...], rank: int) -> list[Any]:
    """Replace the Ellipsis, or the missing end, by full slices."""
    ellipses = sum(isinstance(entry, EllipsisType) for entry in entries)
    if ellipses > 1:
        raise SelectionError("an index can only have a single ellipsis ('...')")
    used = sum(entry is not None and not isinstance(entry, EllipsisType) for entry in entries)
    if used > rank:
        raise SelectionError(f"too many indices: the image has {rank} axes, {used} were indexed")
    full = [slice(None)] * (rank - used)
    if not ellipses:
        return [*entries, *full]
    expanded: list[Any] = []
    for entry in entries:
        expanded.extend(full if isinstance(entry, EllipsisType) else [entry])
    return expanded


def _parse_slice(entry: slice, length: int, axis: int) -> tuple[slice, slice]:
    try:
        picked = range(*entry.indices(length))
    except (TypeError, ValueError) as error:
        raise SelectionError(f"axis {axis}: {entry} is not a slice of integers: {error}") from None
    if not picked:
        return slice(0, 0, 1), slice(None)
    if picked.step > 0:
        return slice(picked[0], picked[-1] + 1, picked.step), slice(None)
    return slice(picked[-1], picked[0] + 1, -picked.step), slice(None, None, -1)


def _parse_integer(entry: Any, length: int, axis: int) -> int:
    if isinstance(entry, bool | np.bool_):
        entry = None
    try:
        number = operator.index(entry)
    except TypeError:
        raise SelectionError(
            f"axis {axis}: only integers, slices, '...' and None are possible here; "
            "series() takes scattered voxels, masks, or parcels"
        ) from None
    if not -length <= number < length:
        raise SelectionError(f"axis {axis}: index {number} is out of bounds for length {length}")
    return number % length
