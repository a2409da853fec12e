"""Statistics of an image along any axes, block by block, in bounded memory."""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.text import parse_size
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.grid import Region
from fmristore_stores.protocol import AnyArray

__all__ = ["Axis", "Statistics", "reduce_blocks"]

Axis = int | tuple[int, ...] | None
"""Axes to reduce; None for all of them."""

_WORKING_COPIES = {"mean": 1, "var": 4, "min": 4, "max": 4}
"""Arrays of float64 that are made of a block while it is reduced."""


class Statistics:
    """Statistics along axes, as numpy has them as methods of an array."""

    def mean(self, axis: Axis = None, *, max_memory: int | str = 1 << 28) -> Any:
        """Mean along axes, computed block by block; see `std`."""
        max_memory = parse_size(max_memory)
        return self._reduced("mean", axis, max_memory)

    def std(self, axis: Axis = None, *, ddof: int = 0, max_memory: int | str = 1 << 28) -> Any:
        """Standard deviation along axes, computed block by block.

        Parameters
        ----------
        axis : int or tuple of int, optional
            Axes to reduce, such as 3 for the time of an image; all of them by default.
        ddof : int
            Subtracted from the number of values in the divisor, as in numpy.
        max_memory : int or str
            Bytes that the values in work may take, besides the result.

        Returns
        -------
        ndarray or numpy scalar, float64
            As numpy's function of that name; every chunk is read about once.

        Raises
        ------
        SelectionError
            If there is no such axis.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        return np.sqrt(self.var(axis, ddof=ddof, max_memory=max_memory))

    def var(self, axis: Axis = None, *, ddof: int = 0, max_memory: int | str = 1 << 28) -> Any:
        """Variance along axes, computed block by block; see `std`."""
        max_memory = parse_size(max_memory)
        return self._reduced("var", axis, max_memory, ddof=ddof)

    def min(self, axis: Axis = None, *, max_memory: int | str = 1 << 28) -> Any:
        """Smallest value along axes, computed block by block; see `std`."""
        max_memory = parse_size(max_memory)
        return self._reduced("min", axis, max_memory)

    def max(self, axis: Axis = None, *, max_memory: int | str = 1 << 28) -> Any:
        """Largest value along axes, computed block by block; see `std`."""
        max_memory = parse_size(max_memory)
        return self._reduced("max", axis, max_memory)

    @abstractmethod
    def _reduced(self, statistic: str, axis: Axis, max_memory: int, **options: Any) -> Any:
        """Reduce along axes: see `reduce_blocks`."""


def reduce_blocks(  # noqa: PLR0913
    statistic: str,
    shape: tuple[int, ...],
    axis: Axis,
    read: Callable[[Region], AnyArray],
    *,
    itemsize: int,
    chunks: Sequence[int],
    max_memory: int,
    ddof: int = 0,
) -> Any:
    """Reduce an image along axes.

    Parameters
    ----------
    statistic : {"mean", "var", "min", "max"}
        What to compute.
    shape : tuple of int
        Of the image.
    axis : int or tuple of int, optional
        Axes to reduce.
    read : callable
        Gives the values of a region.
    itemsize : int
        Bytes of one value.
    chunks : sequence of int
        Lengths that blocks are best multiples of.
    max_memory : int
        Bytes that a block in work may take.
    ddof : int
        Subtracted from the count in the divisor of the variance.

    Returns
    -------
    ndarray or numpy scalar
        float64 for means and variances, the image's own type for extremes.

    Notes
    -----
    Variances of blocks are combined by the update of Chan, Golub and LeVeque (1983), "Algorithms
    for computing the sample variance", The American Statistician 37: 242-247.

    Raises
    ------
    SelectionError
        If there is no such axis, or it is given twice.
    InvalidInputError
        If the image is in colour, or complex where such values have no order.
    """
    reduced = _axes(axis, len(shape))
    width = itemsize + _WORKING_COPIES[statistic] * 8
    size = block_shape(shape, tuple(chunks), width, max(width, max_memory))
    kept = tuple(n for a, n in enumerate(shape) if a not in reduced)
    made: _Extreme | _Mean | _Moments | None = None
    for block in cut_into_blocks(shape, size):
        values = read(block)
        if made is None:
            _check(values.dtype, statistic)
            made = _Mean(kept) if statistic == "mean" else _Moments(kept)
            if statistic in ("min", "max"):
                made = _Extreme(statistic, kept, values.dtype)
        target = tuple(part for a, part in enumerate(block) if a not in reduced)
        made.add(target, values, reduced)
    if made is None:
        raise InvalidInputError("the image has no values")
    return made.result(statistic, ddof)[()]


def _check(dtype: np.dtype[Any], statistic: str) -> None:
    if dtype.names or dtype.kind not in "biufc" or (dtype.kind == "c" and statistic != "mean"):
        raise InvalidInputError(f"values of type {dtype} have no {statistic}")


def _axes(axis: Axis, rank: int) -> frozenset[int]:
    given = tuple(range(rank)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    found = []
    for one in given:
        try:
            number = operator.index(one)
        except TypeError:
            raise SelectionError(f"axis must be an integer or several, not {one!r:.80}") from None
        if not -rank <= number < rank:
            raise SelectionError(f"there is no axis {number} of {rank}")
        found.append(number % rank)
    if len(set(found)) != len(found):
        raise SelectionError(f"axis {axis} names an axis twice")
    return frozenset(found)


class _Extreme:
    """Smallest or largest values; NaN wins, as in numpy."""

    def __init__(self, statistic: str, kept: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._of_two = np.minimum if statistic == "min" else np.maximum
        self._of_axes = np.min if statistic == "min" else np.max
        self._found = np.zeros(kept, dtype)
        self._seen = np.zeros(kept, bool)

    def add(self, target: Region, values: AnyArray, axes: frozenset[int]) -> None:
        """Take in a block."""
        part = self._of_axes(values, axis=tuple(axes)) if axes else values
        old = self._found[target]
        self._found[target] = np.where(self._seen[target], self._of_two(old, part), part)
        self._seen[target] = True

    def result(self, statistic: str, ddof: int) -> AnyArray:
        """Result of the blocks seen."""
        del statistic, ddof
        return self._found


class _Mean:
    """Sum and count of what was seen; the values are not copied."""

    def __init__(self, kept: tuple[int, ...]) -> None:
        self._sum: AnyArray = np.zeros(kept)
        self._seen = 0

    def add(self, target: Region, values: AnyArray, axes: frozenset[int]) -> None:
        """Take in a block."""
        if values.dtype.kind == "c" and self._sum.dtype.kind != "c":
            self._sum = self._sum.astype(np.complex128)
        self._sum[target] += values.sum(axis=tuple(axes), dtype=self._sum.dtype)
        self._seen += values.size

    def result(self, statistic: str, ddof: int) -> AnyArray:
        """Mean."""
        del statistic, ddof
        self._sum /= self._seen // max(1, self._sum.size)
        return self._sum


class _Moments:
    """Count, mean and sum of squared deviations of what was seen."""

    def __init__(self, kept: tuple[int, ...]) -> None:
        self._count = np.zeros(kept, np.int64)
        self._mean: AnyArray = np.zeros(kept)
        self._squares = np.zeros(kept)

    def add(self, target: Region, values: AnyArray, axes: frozenset[int]) -> None:
        """Take in a block."""
        working = values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)
        along = tuple(axes)
        number = math.prod(values.shape[a] for a in along)
        mean = working.mean(axis=along) if along else working
        if working.dtype.kind == "c" and self._mean.dtype.kind != "c":
            self._mean = self._mean.astype(np.complex128)
        centred = working - np.expand_dims(mean, along)
        squares = np.square(np.abs(centred)).sum(axis=along) if along else np.zeros(mean.shape)
        before, old = self._count[target], self._mean[target]
        total = before + number
        delta = mean - old
        self._mean[target] = old + delta * (number / total)
        self._squares[target] += squares + np.square(np.abs(delta)) * (before * number / total)
        self._count[target] = total

    def result(self, statistic: str, ddof: int) -> AnyArray:
        """Variance."""
        del statistic
        with np.errstate(divide="ignore", invalid="ignore"):
            found: AnyArray = self._squares / np.maximum(self._count - ddof, 0)
        return found
