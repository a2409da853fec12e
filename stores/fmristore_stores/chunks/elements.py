"""Bytes that hold some of the elements of a chunk that is not encoded: numpy finds them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fmristore_stores.grid import Region

__all__ = ["Elements", "Part"]


class Part(NamedTuple):
    """Some elements of a chunk."""

    first: int
    """Bytes from the begin of the chunk to the first element."""
    length: int
    """Bytes from the begin of the first element to the end of the last one."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Bytes from one element to the next along each axis."""


class Elements:
    """The elements of a chunk, or those along some of its axes.

    Parameters
    ----------
    shape, strides : sequence of int
        Lengths, and bytes from one element to the next, along each axis.
    dtype : dtype
        Of the elements.
    """

    def __init__(self, shape: Sequence[int], strides: Sequence[int], dtype: np.dtype[Any]) -> None:
        # An array of that shape on the memory of one element: it is cut, but never looked at.
        self._all = np.lib.stride_tricks.as_strided(np.empty((), dtype), shape, strides)
        self._begin = self._all.__array_interface__["data"][0]
        self._width = dtype.itemsize

    def part(self, region: Region) -> Part:
        """Elements of a region that is not empty."""
        index: Any = (*region, ...)  # which gives an array also of no axes
        cut = self._all[index]
        shape, strides = cut.shape, cut.strides
        first = cut.__array_interface__["data"][0] - self._begin
        length = sum(map(operator.mul, shape, strides)) - sum(strides) + self._width
        return Part(first, length, shape, strides)
