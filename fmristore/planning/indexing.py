"""numpy's indexing, taken apart into what to read and what to do with the result."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmristore_stores.errors import SelectionError
from fmristore_stores.protocol import AnyArray

__all__ = [
    "AxisPart",
    "PointSelection",
    "Selection",
    "axis_length",
    "bounds",
    "has_positions",
    "parse_axis",
    "parse_index",
    "parse_selection",
]

AxisPart = slice | NDArray[np.int64]
"""Part of one axis: a slice with a positive step, or positions from 0 in any order."""


def axis_length(part: AxisPart) -> int:
    """Number of positions in a part of an axis."""
    return len(range(part.start, part.stop, part.step)) if isinstance(part, slice) else len(part)


def bounds(part: AxisPart) -> slice:
    """Smallest contiguous slice that holds a part of an axis."""
    if isinstance(part, slice):
        return part
    return slice(int(np.min(part)), int(np.max(part)) + 1, 1) if len(part) else slice(0, 0, 1)


def has_positions(region: Sequence[AxisPart]) -> bool:
    """True if there are positions instead of a slice along any axis of a region."""
    return not _SLICE.issuperset(map(type, region))


_EVERY = slice(None)
_SLICE = frozenset({slice})
_OF_AXES = frozenset({int, slice})
_BASIC = _OF_AXES | {EllipsisType, type(None)}
"""Types of the entries of basic indices; others are looked at more closely."""


class Selection(NamedTuple):
    """A part of every axis of an array."""

    region: tuple[Any, ...]
    """One part per axis: a slice with ``0 <= start <= stop`` and a positive step, or, along at most
    one axis, an array of positions."""
    finish: tuple[Any, ...]
    """Index that turns what was read into numpy's answer: it reverses axes that were asked for
    backwards, drops axes given as integers and adds new ones."""
    front: int = 0
    """Axis of the answer that comes first: numpy puts the axis of a list in front of all others
    where a slice stands between the list and an integer."""

    def apply(self, values: AnyArray) -> Any:
        """Turn the values of the region into numpy's answer.

        That is a scalar if every axis is given as an integer, without an Ellipsis.
        """
        found = values[self.finish]
        return np.moveaxis(found, self.front, 0) if self.front else found

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the answer."""
        lengths = tuple(axis_length(part) for part in self.region)
        return np.shape(self.apply(np.broadcast_to(np.int8(0), lengths)))

    @property
    def bounds(self) -> tuple[slice, ...]:
        """Region that holds all of it, made of slices alone."""
        return tuple(bounds(part) for part in self.region)


@dataclass(frozen=True, slots=True)
class PointSelection:
    """Scattered voxels of an image, with a part of the axis behind the grid at each of them.

    Parameters
    ----------
    points : ndarray of int, (n, 3)
        Voxels; negative indices count from the end.
    shape : tuple of int
        Shape that the voxels have in the answer.
    rest : Selection, optional
        Part of the last axis; None for an image without one.
    """

    points: NDArray[np.int64]
    shape: tuple[int, ...]
    rest: Selection | None


def parse_index(index: Any, shape: tuple[int, ...]) -> Selection | PointSelection:
    """Parse an index of an image as numpy does: basic, by lists, or by a mask.

    Parameters
    ----------
    index : int, slice, Ellipsis, None, list, ndarray, or a tuple of them
        One list of integers or booleans along any axis; three lists (or arrays of one shape) for
        scattered voxels; or a boolean array of the shape of the grid, which selects its voxels in
        numpy's (C) order.
    shape : tuple of int
        Shape of the image, (X, Y, Z) or (X, Y, Z, T).

    Raises
    ------
    SelectionError
        If it does not fit, or combines lists in another way.
    """
    given = index if isinstance(index, tuple) else (index,)
    if _BASIC.issuperset(map(type, given)):
        return _parse_entries(given, shape, lists=False)
    entries = [_array_entry(entry) for entry in given]
    if (
        entries
        and isinstance(entries[0], np.ndarray)
        and entries[0].dtype == bool
        and entries[0].ndim == 3
    ):
        if entries[0].shape != shape[:3]:
            raise SelectionError(
                f"a mask of shape {entries[0].shape} does not fit a grid of shape {shape[:3]}"
            )
        points = np.argwhere(entries[0])
        return PointSelection(points, (len(points),), _rest(entries[1:], shape))
    lists = [isinstance(entry, np.ndarray) for entry in entries]
    if len(lists) >= 3 and all(lists[:3]):
        try:
            columns = np.broadcast_arrays(
                *(_integers(e, n) for e, n in zip(entries, shape[:3], strict=False))
            )
        except ValueError as error:
            raise SelectionError(f"lists of voxels differ in length: {error}") from None
        points = np.stack([column.reshape(-1) for column in columns], axis=1)
        return PointSelection(points, columns[0].shape, _rest(entries[3:], shape))
    return _parse_entries(entries, shape)


def _rest(entries: Sequence[Any], shape: tuple[int, ...]) -> Selection | None:
    """Rest of a point selection, behind its voxels."""
    if any(isinstance(entry, np.ndarray) for entry in entries):
        raise SelectionError(
            "a list of volumes beside a list of voxels: use series(voxels, times=...), which "
            "takes every volume of the list for every voxel; what numpy.ix_ gives is read one axis "
            "after the other, image[..., volumes][rows], the rest of it as an array"
        )
    selection = _parse_entries(list(entries) or [Ellipsis], shape[3:])
    return selection if shape[3:] else None


def parse_selection(index: Any, shape: tuple[int, ...]) -> Selection:
    """Parse an index as numpy does: basic, or with one list along one axis.

    Parameters
    ----------
    index : int, slice, Ellipsis, None, list of int or bool, or a tuple of them
        Negative integers count from the end; steps may be negative; ``None`` adds an axis.
    shape : tuple of int
        Shape of the array.

    Raises
    ------
    SelectionError
        If an integer is out of bounds, there are too many indices, or several lists.
    """
    given = index if isinstance(index, tuple) else (index,)
    return _parse_entries([_array_entry(entry) for entry in given], shape)


def _parse_entries(
    given: Sequence[Any], shape: tuple[int, ...], *, lists: bool = True
) -> Selection:
    """Parse the entries of an index, of which none is a list unless `lists`."""
    region: list[AxisPart] = []
    finish: list[Any] = []
    left = len(shape) - len(given)
    plain = left >= 0 and _OF_AXES.issuperset(map(type, given))
    pairs: Iterable[tuple[Any, int]] = zip((*given, *(_EVERY,) * left), shape, strict=True)
    for entry, length in pairs if plain else _expanded(given, shape):
        kind = type(entry)
        if kind is int and -length <= entry < length:
            number = entry if entry >= 0 else entry + length
            region.append(slice(number, number + 1, 1))
            finish.append(0)
        elif kind is slice:
            read, then = _parse_slice(entry, length, len(region))
            region.append(read)
            finish.append(then)
        elif entry is None:
            finish.append(None)
        elif isinstance(entry, np.ndarray):
            region.append(_parse_list(entry, length, len(region)))
            finish.append(_EVERY)
        else:
            number = _parse_integer(entry, length, len(region))
            region.append(slice(number, number + 1, 1))
            finish.append(0)
    front = _front(given, region, shape) if lists else 0
    if not plain and EllipsisType in map(type, given):
        finish.append(Ellipsis)  # which makes numpy answer with an array, even of no axes
    return Selection(tuple(region), tuple(finish), front)


def _front(given: Sequence[Any], region: Sequence[AxisPart], shape: tuple[int, ...]) -> int:
    """Position of the list's axis, if numpy moves it to the front; else 0."""
    lists = sum(isinstance(part, np.ndarray) for part in region)
    if lists > 1:
        raise SelectionError(
            "lists along several axes: only three lists, of the voxels' x, y and z, go together; "
            "index one axis after the other, and the rest of it as an array: image[[0, 2]][:, "
            "[1, 3]] gives what image[numpy.ix_([0, 2], [1, 3])] would"
        )
    if not lists:
        return 0
    chosen = [
        place
        for place, entry in enumerate(given)
        if isinstance(entry, np.ndarray) or not isinstance(entry, slice | EllipsisType | None)
    ]
    if chosen[-1] - chosen[0] == len(chosen) - 1:
        return 0
    before = 0
    for entry, _ in _expanded(given, shape):
        if isinstance(entry, np.ndarray):
            return before
        before += entry is None or isinstance(entry, slice)
    return before


def parse_axis(part: Any, length: int) -> Selection:
    """Parse a part of one axis: a slice, a list of integers or booleans, or None for all of it.

    Raises
    ------
    SelectionError
        If it is anything else, or does not fit.
    """
    entry = _in_row_order(part, _array_entry(part))
    if part is not None and not isinstance(entry, slice | np.ndarray):
        raise SelectionError(f"times must be a slice or a list of volumes, not {part!r:.80}")
    return _parse_entries([Ellipsis if part is None else entry], (length,))


def _in_row_order(part: Any, entry: Any) -> Any:
    """Booleans of a pandas Series in order of the rows that its index numbers, as after sorting."""
    if not (isinstance(entry, np.ndarray) and entry.dtype == bool and hasattr(part, "iloc")):
        return entry
    rows = np.asarray(part.index)
    numbers = rows.dtype.kind in "iu" and np.array_equal(np.sort(rows), np.arange(len(entry)))
    return entry[np.argsort(rows)] if numbers else entry


def _array_entry(entry: Any) -> Any:
    """An entry of an index, as an array if it is a list of positions."""
    if isinstance(entry, list | tuple | range):
        try:
            found = np.asarray(entry)
        except ValueError as error:
            raise SelectionError(f"a list of positions is ragged: {error}") from None
        return found.astype(np.int64) if not found.size and found.dtype != bool else found
    if isinstance(entry, np.ndarray):
        return entry if entry.ndim else entry[()]
    if not isinstance(entry, slice | EllipsisType) and getattr(entry, "ndim", None):
        return np.asarray(entry)  # a series of pandas, an image with values
    return entry


def _expanded(given: Sequence[Any], shape: tuple[int, ...]) -> list[tuple[Any, int]]:
    """Entries with the lengths of their axes, full slices for the Ellipsis or the missing end.

    A None, which stands for a new axis, comes with a length of 0.
    """
    kinds = [*map(type, given)]
    ellipses, rank = kinds.count(EllipsisType), len(shape)
    if ellipses > 1:
        raise SelectionError("an index can only have a single ellipsis ('...')")
    used = len(given) - ellipses - kinds.count(type(None))
    if used > rank:
        raise SelectionError(f"too many indices: the image has {rank} axes, {used} were indexed")
    full = [_EVERY] * (rank - used)
    lengths = iter(shape)
    found: list[tuple[Any, int]] = []
    for entry in given if ellipses else (*given, Ellipsis):
        if entry is Ellipsis:
            found += zip(full, lengths, strict=False)
        else:
            found.append((entry, 0 if entry is None else next(lengths)))
    return found


def _parse_slice(entry: slice, length: int, axis: int) -> tuple[slice, slice]:
    try:
        if entry == _EVERY:
            return slice(0, length, 1), entry
        start, stop, step = entry.indices(length)
    except (TypeError, ValueError) as error:
        raise SelectionError(f"axis {axis}: {entry} is not a slice of integers: {error}") from None
    if step == 1 and start < stop:
        return slice(start, stop, 1), _EVERY
    picked = range(start, stop, step)
    if not picked:
        return slice(0, 0, 1), _EVERY
    if step > 0:
        return slice(picked[0], picked[-1] + 1, step), _EVERY
    return slice(picked[-1], picked[0] + 1, -step), slice(None, None, -1)


def _parse_integer(entry: Any, length: int, axis: int) -> int:
    whole: Any = None if isinstance(entry, bool | np.bool_) else entry
    try:
        number = operator.index(whole)
    except TypeError:
        raise SelectionError(
            f"axis {axis}: expected an integer, a slice, '...', None or a list of them, not "
            f"{entry!r:.80}"
        ) from None
    if not -length <= number < length:
        raise SelectionError(f"axis {axis}: index {number} is out of bounds for length {length}")
    return number % length


def _parse_list(entry: AnyArray, length: int, axis: int) -> NDArray[np.int64]:
    """Positions of a list of integers or booleans along one axis."""
    if entry.ndim != 1:
        raise SelectionError(
            f"axis {axis}: expected a list, not an array of shape {entry.shape}; index with "
            "array.ravel(), or read the values first (numpy.asarray(image)[...])"
        )
    if entry.dtype == bool:
        if len(entry) != length:
            raise SelectionError(
                f"axis {axis}: {len(entry)} booleans do not fit an axis of length {length}"
            )
        return np.flatnonzero(entry)
    found = _integers(entry, length)
    if len(found) and (np.min(found) < -length or np.max(found) >= length):
        raise SelectionError(f"axis {axis}: a position is out of bounds for length {length}")
    return np.where(found < 0, found + length, found)


def _integers(entry: AnyArray, length: int) -> NDArray[np.int64]:
    if entry.dtype == bool and entry.shape == (length,):
        return np.flatnonzero(entry)
    if entry.dtype.kind not in "iu":
        raise SelectionError(f"a list of positions has the type {entry.dtype}, expected integers")
    return entry.astype(np.int64)
