"""Where in a store the parts of a dense image are, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmristore.formats.array import StoredArray
from fmristore.formats.image.replicas import read_copies
from fmristore.model.scaling import Scaling, make_scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import AXES
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec, is_string

__all__ = ["COLORS", "ImageParts", "read_affine", "read_grid", "read_parts", "read_scaling"]

COLORS = {3: [("R", "u1"), ("G", "u1"), ("B", "u1")], 4: [(n, "u1") for n in "RGBA"]}
"""Structured types of colour voxels, by the length of their axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParts:
    """What makes an image of a stored array.

    Parameters
    ----------
    numbers : str
        Path of the array, its axes named as in `fmristore.planning.layout.AXES`.
    space : NeuroSpace
        Its grid.
    scaling : Scaling, optional
        To apply to stored numbers.
    header, trailer : str
        Paths of the arrays of NIfTI bytes, of which the second need not exist; empty where there
        are none.
    dims : tuple of str, optional
        Names of the axes of the array, if it is one of other software that does not say them.
    copies : tuple of str
        Paths of arrays that hold the same numbers, laid out for other reads.
    """

    numbers: str
    space: NeuroSpace
    scaling: Scaling | None = None
    header: str = ""
    trailer: str = ""
    dims: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()


def read_parts(handle: Handle, numbers: StoredArray, axes: Sequence[str]) -> ImageParts:
    """Find the parts of an image that is the root group of a store.

    Parameters
    ----------
    handle : Handle
        The store.
    numbers : StoredArray
        Its array ``0``.
    axes : sequence of str
        Axes that the image must have, besides colours.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """
    space = _read_space(handle, numbers.reader.spec, axes)
    attributes = numbers.attributes
    return ImageParts(
        numbers=numbers.path,
        space=space,
        scaling=read_scaling(handle, attributes, space.time_points),
        header="nifti",
        trailer="nifti_trailer",
        copies=read_copies(handle, numbers, attributes),
    )


def read_scaling(
    handle: Handle, attributes: Mapping[str, Any], volumes: int | None, *, group: str = ""
) -> Scaling | None:
    """Scaling that the attributes of the array ``0`` of a group say, if any.

    Parameters
    ----------
    handle : Handle
        The store.
    attributes : mapping
        Of the array.
    volumes : int, optional
        T; None for a single volume without a time axis.
    group : str
        Path of the group; the root by default.

    Raises
    ------
    MetadataError
        If it is damaged.
    """
    slope, inter = attributes.get("scale_factor"), attributes.get("add_offset")
    try:
        if attributes.get("scaling") == "per-volume":
            slope, inter = (
                StoredArray(handle, f"{group}/{name}".strip("/")).read_small(volumes or 0)
                for name in ("scale_factor", "add_offset")
            )
        return make_scaling(slope, inter, volumes=volumes)
    except (InvalidInputError, TypeError, ValueError) as error:
        raise MetadataError(
            f"scale_factor and add_offset are damaged: {error}",
            url=handle.locator.url,
            node=f"{group}/0".strip("/"),
        ) from error


def _read_space(handle: Handle, spec: ArraySpec, axes: Sequence[str]) -> NeuroSpace:
    url = handle.locator.url
    extra = set(spec.dims) - set(axes) - {"c"}
    if extra or not set(axes) <= set(spec.dims):
        raise MetadataError(
            f"axes are named {spec.dims}, expected {[d for d in AXES if d in axes]}",
            url=url,
            node="0",
        )
    if is_string(spec.dtype):
        raise MetadataError("an image is made of numbers, not of text", url=url, node="0")
    length = dict(zip(spec.dims, spec.shape, strict=True))
    if "c" in length and (length["c"] not in COLORS or spec.dtype != np.uint8):
        raise MetadataError("colours must be 3 or 4 of type uint8", url=url, node="0")
    return read_grid(handle, (length["x"], length["y"], length["z"]), length.get("t"))


def read_affine(handle: Handle) -> AnyArray:
    """Read the array ``affine`` of a root group, (4, 4); whether it is invertible is not checked.

    Parameters
    ----------
    handle : Handle
        The store.

    Raises
    ------
    MetadataError
        If it is missing, too large or not made of real numbers.
    """
    affine = StoredArray(handle, "affine").read_small(16)
    if affine.dtype.kind not in "iuf":
        raise MetadataError(
            f"the affine is {affine.dtype}, expected real numbers",
            url=handle.locator.url,
            node="affine",
        )
    return affine


def read_grid(
    handle: Handle,
    shape: tuple[int, int, int],
    time_points: int | None = None,
    *,
    attributes: Mapping[str, Any] | None = None,
) -> NeuroSpace:
    """Space of a root group: its array ``affine`` and its attributes.

    Parameters
    ----------
    handle : Handle
        The store.
    shape : tuple of int
        Lengths along x, y, z.
    time_points : int, optional
        Number of volumes.
    attributes : mapping, optional
        To be used instead of the root group's.

    Raises
    ------
    MetadataError
        If they are missing or damaged.
    """
    affine = read_affine(handle)
    if attributes is None:
        attributes = handle.store.root.read_attributes()
    name = attributes.get("space_name")
    try:
        return NeuroSpace(
            spatial_shape=shape,
            affine=affine,
            time_points=time_points,
            tr=attributes.get("repetition_time"),
            space_name=None if name is None else str(name),
            space_unit=str(attributes.get("space_unit", "mm")),
            time_unit=str(attributes.get("time_unit", "s")),
        )
    except (TypeError, ValueError) as error:
        url = handle.locator.url
        raise MetadataError(f"the space of the image is damaged: {error}", url=url) from error
