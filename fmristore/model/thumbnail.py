"""A slice as a small picture, which way round it is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.model.space import NeuroSpace
from fmristore.planning.anatomy import display_axes, display_plane
from fmristore.planning.pictures import image_html

__all__ = ["slice_picture"]


def slice_picture(pixels: NDArray[Any], space: NeuroSpace, world: int = 2) -> str:
    """HTML of a slice, left on the left.

    Parameters
    ----------
    pixels : ndarray of uint8, (n, m) or (n, m, 3)
        Slice at right angles to one of the axes of the grid, the other two in their order.
    space : NeuroSpace
        The grid.
    world : {0, 1, 2}
        Direction that is looked along: left-right, back-front, down-up.
    """
    axes = display_axes(space.affine)
    across, up = (axes[w].axis for w in range(3) if w != world)
    width, height = (space.spatial_shape[a] * space.spacing[a] for a in (across, up))
    turned = display_plane(np.asarray(pixels, np.uint8), space.affine, world)
    name = ("sagittal", "coronal", "axial")[world]
    return image_html(turned, (width, height), f"{name} slice, left on the left")
