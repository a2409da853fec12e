"""An image described as OME-Zarr 0.5 has it: https://ngff.openmicroscopy.org/0.5/."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore.sources.images import ImageSource
from fmristore_stores.io.location import name_of

__all__ = ["describe_ome", "image_name", "show_array"]

Limits = tuple[float, float]

_KINDS = {"t": "time", "c": "channel"}
_ENDINGS = (".zip", ".gz", ".zarr", ".h5", ".hdf5", ".ome", ".nii")
_DIRECTIONS = {
    "L": "right-to-left",
    "R": "left-to-right",
    "P": "anterior-to-posterior",
    "A": "posterior-to-anterior",
    "I": "superior-to-inferior",
    "S": "inferior-to-superior",
}
"""By nibabel's letters, which say where an axis goes to.

Words of https://ngff.openmicroscopy.org/rfc/4/.
"""


def image_name(url: str) -> str:
    """Name of an image by that of its store, without the endings of files."""
    name = name_of(url).rstrip("/").replace("\\", "/").rpartition("/")[2]
    while name.lower().endswith(_ENDINGS):
        name = name.rpartition(".")[0]
    return name


def describe_ome(
    source: ImageSource, dims: Sequence[str], path: str, limits: Limits | None, *, name: str
) -> dict[str, Any]:
    """Describe an image for viewers.

    Viewers know sizes and positions along the axes of voxels; the whole affine is in the array
    ``affine``. So images of the same orientation lie in the right places to each other.

    Parameters
    ----------
    source : ImageSource
        The image.
    dims : sequence of str
        Its axes.
    path : str
        Of the array to be shown, from the group of the image.
    limits : (float, float), optional
        Smallest and largest finite stored value.
    name : str
        What viewers call it; none if empty.

    Returns
    -------
    dict
        The attribute ``ome``.
    """
    axes = _axes(source.space, dims)
    dataset = {"path": path, "coordinateTransformations": _transformations(source.space, dims)}
    image: dict[str, Any] = {"axes": axes, "datasets": [dataset]}
    if name:
        image["name"] = name
    described: dict[str, Any] = {"version": "0.5", "multiscales": [image]}
    window = _display_window(source, limits)
    if window is not None and "c" not in dims:
        described["omero"] = {"channels": [_channel(window)]}
    return described


def show_array(ome: Any, old: str, new: str) -> Any:
    """The attribute ``ome`` with another array shown; as it is where it does not name `old`."""
    if not isinstance(ome, dict) or not isinstance(ome.get("multiscales"), list):
        return ome
    return ome | {"multiscales": [_renamed(image, old, new) for image in ome["multiscales"]]}


def _renamed(image: Any, old: str, new: str) -> Any:
    if not isinstance(image, dict) or not isinstance(image.get("datasets"), list):
        return image
    datasets = [
        one | {"path": new} if isinstance(one, dict) and one.get("path") == old else one
        for one in image["datasets"]
    ]
    return image | {"datasets": datasets}


def _axes(space: NeuroSpace, dims: Sequence[str]) -> list[dict[str, Any]]:
    directions = dict(zip("xyz", space.orientation, strict=True))
    axes: list[dict[str, Any]] = []
    for d in dims:
        axis: dict[str, Any] = {"name": d, "type": _KINDS.get(d, "space")}
        if d == "t" and space.tr is not None:
            axis["unit"] = "second"
        elif d not in _KINDS:
            axis["unit"] = "millimeter"
            if directions[d] in _DIRECTIONS:
                axis["orientation"] = {"type": "anatomical", "value": _DIRECTIONS[directions[d]]}
        axes.append(axis)
    return axes


def _transformations(space: NeuroSpace, dims: Sequence[str]) -> list[dict[str, Any]]:
    x, y, z = space.spacing
    size = {"t": space.tr or 1.0, "c": 1.0, "z": z, "y": y, "x": x}
    # Where the first voxel lies along the directions of the axes, which need not be the world's.
    along = space.affine[:3, :3] / np.array(space.spacing)
    place = dict(zip("xyz", (np.array(space.origin) @ along).tolist(), strict=True))
    place |= {"t": space.time_offset, "c": 0.0}
    return [
        {"type": "scale", "scale": [float(size[d]) for d in dims]},
        {"type": "translation", "translation": [float(place[d]) + 0.0 for d in dims]},
    ]


def _display_window(
    source: ImageSource, limits: Limits | None
) -> tuple[float, float, float, float] | None:
    """Smallest and largest stored value, and those that the image is shown between."""
    from fmristore.nifti import parse_header

    if limits is None:
        return None
    low, high = limits
    scaling = source.scaling
    if source.header and not (scaling is not None and scaling.per_volume):
        fields = parse_header(source.header).to_nibabel()
        shown = float(fields["cal_min"]), float(fields["cal_max"])
        slope, inter = (1.0, 0.0)
        if scaling is not None:
            slope, inter = float(scaling.slope), float(scaling.inter)
        start, end = sorted((value - inter) / slope for value in shown)
        if shown[0] < shown[1] and math.isfinite(start) and math.isfinite(end):
            return low, high, start, end
    return low, high, low, high


def _channel(window: tuple[float, float, float, float]) -> dict[str, Any]:
    low, high, start, end = window
    return {
        "active": True,
        "color": "FFFFFF",
        "window": {"min": low, "max": high, "start": start, "end": end},
    }
