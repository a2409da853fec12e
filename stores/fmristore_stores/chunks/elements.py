"""Bytes that hold some of the elements of a chunk that is not encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

from fmristore_stores.grid import Region

__all__ = ["Part"]


class Part(NamedTuple):
    """Some elements of a chunk."""

    first: int
    """Bytes from the begin of the chunk to the first element."""
    length: int
    """Bytes from the begin of the first element to the end of the last one."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """Bytes from one element to the next along each axis."""

    @classmethod
    def of(cls, region: Region, strides: Sequence[int], width: int) -> Self:
        """Make it of a region that is not empty, of all axes of the chunk or of some of them.

        Parameters
        ----------
        region : Region
            Within the chunk.
        strides : sequence of int
            Bytes from one element of the chunk to the next along these axes.
        width : int
            Bytes of an element.
        """
        first, length = 0, width
        shape, steps = [], []
        for part, stride in zip(region, strides, strict=True):
            start, step = part.start, part.step
            count = (part.stop - start - 1) // step
            first += start * stride
            step *= stride
            length += count * step
            shape.append(count + 1)
            steps.append(step)
        return cls(first, length, tuple(shape), tuple(steps))
