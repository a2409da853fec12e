"""What the read cells read: seven kinds of selections, drawn again for each repetition."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fmristore_stores.protocol import AnyArray

__all__ = ["KINDS", "OPEN", "Selection", "draw", "stored_index"]

OPEN = "open + voxel"
"""The kind of read that includes opening the file, and for which nothing is kept open."""

KINDS = ("voxel", "7x7x7", "100 voxels", "volume", "10 volumes", "whole run", OPEN)


@dataclass(frozen=True, slots=True)
class Selection:
    """One read.

    Parameters
    ----------
    index : tuple of int or slice
        Along the axes (x, y, z, t).
    points : ndarray of int, (n, 3), optional
        Scattered voxels (x, y, z), in place of the index of the first three axes.
    """

    index: tuple[int | slice, ...]
    points: AnyArray | None = None

    def of(self, values: AnyArray) -> AnyArray:
        """What every engine must return, from the run in memory; scattered voxels as (n, T)."""
        return values[self.index if self.points is None else tuple(self.points.T)]


def draw(kind: str, shape: tuple[int, ...], inside: AnyArray, number: int) -> Selection:
    """Draw a selection.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    shape : tuple of int, (X, Y, Z, T)
        Of the run.
    inside : ndarray of int, (n, 3)
        Voxels of the head.
    number : int
        Of the repetition; the same number gives the same selection.
    """
    rng = np.random.default_rng([zlib.crc32(kind.encode()), number])
    every = slice(None)
    *space, times = shape
    center = inside[rng.integers(len(inside))].tolist()
    match kind:
        case "voxel" | "open + voxel":
            return Selection((*center, every))
        case "7x7x7":
            corner = [max(0, min(c - 3, n - 7)) for c, n in zip(center, space, strict=True)]
            return Selection((*(slice(c, c + 7) for c in corner), every))
        case "100 voxels":
            chosen = rng.choice(len(inside), min(100, len(inside)), replace=False)
            return Selection((every,) * 4, np.ascontiguousarray(inside[chosen]))
        case "volume":
            return Selection((every, every, every, int(rng.integers(times))))
        case "10 volumes":
            count = min(10, times)
            first = int(rng.integers(times - count + 1))
            return Selection((every, every, every, slice(first, first + count)))
        case _:
            return Selection((every,) * 4)


def stored_index(
    selection: Selection, dims: Sequence[str]
) -> tuple[tuple[int | slice, ...], list[int]]:
    """Index of a selection along stored axes, and how to transpose what it gives.

    Parameters
    ----------
    selection : Selection
        Without scattered voxels.
    dims : sequence of str
        Names of the stored axes.

    Returns
    -------
    index, axes : tuple of int or slice, list of int
        ``array[index].transpose(axes)`` has its axes in the order (x, y, z, t).
    """
    parts = dict(zip("xyzt", selection.index, strict=True))
    left = [d for d in dims if isinstance(parts[d], slice)]
    return tuple(parts[d] for d in dims), [left.index(d) for d in "xyzt" if d in left]
