"""Axes of a grid in the body: which way round slices are drawn."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["DisplayAxis", "display_axes", "display_plane", "obliqueness"]


Values = TypeVar("Values", bound=np.generic)


class DisplayAxis(NamedTuple):
    """The axis of a grid that runs along one direction of the body."""

    axis: int
    """Axis of the grid, 0 to 2."""
    flip: bool
    """True if it runs the other way: to the left, back or down."""


def _directions(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors (world, axis) in which the axes of a grid grow."""
    columns = np.asarray(affine, np.float64)[:3, :3]
    return np.asarray(columns / np.sqrt((columns**2).sum(axis=0)))


def display_axes(affine: NDArray[np.float64]) -> tuple[DisplayAxis, DisplayAxis, DisplayAxis]:
    """Axes of a grid that lie nearest to left-right, back-front and down-up.

    Parameters
    ----------
    affine : ndarray, (4, 4)
        Voxel indices to mm, RAS+.

    Returns
    -------
    tuple of DisplayAxis
        Towards the right, the front and the top.

    Examples
    --------
    >>> import numpy as np
    >>> [tuple(axis) for axis in display_axes(np.diag([-2.0, 2.0, 2.0, 1.0]))]
    [(0, True), (1, False), (2, False)]
    """
    found = _directions(affine)
    order = max(
        permutations(range(3)), key=lambda axes: sum(abs(found[w, a]) for w, a in enumerate(axes))
    )
    x, y, z = (DisplayAxis(a, bool(found[w, a] < 0)) for w, a in enumerate(order))
    return x, y, z


def obliqueness(affine: NDArray[np.float64]) -> float:
    """Largest angle in degrees between an axis of a grid and the direction it is drawn along."""
    found = _directions(affine)
    cosines = [abs(found[w, axis.axis]) for w, axis in enumerate(display_axes(affine))]
    return float(np.degrees(np.arccos(min(1.0, *cosines))))


def display_plane(
    values: NDArray[Values], affine: NDArray[np.float64], world: int
) -> NDArray[Values]:
    """Turn a slice as it is looked at: left on the left, the top row at the top or front.

    Parameters
    ----------
    values : ndarray, (n, m[, colours])
        Slice at right angles to the axis of the grid that runs along `world`, the other two in
        their order.
    affine : ndarray, (4, 4)
        Of the grid.
    world : {0, 1, 2}
        Direction that is looked along: left-right, back-front, down-up.

    Returns
    -------
    ndarray, (rows, columns[, colours])
        First row at the top.
    """
    axes = display_axes(affine)
    across, up = (axes[w] for w in range(3) if w != world)
    if across.axis < up.axis:
        values = values.swapaxes(0, 1)
    values = values[:, ::-1] if across.flip else values
    return values if up.flip else values[::-1]
