"""Nodes that most formats have: arrays with their digests, texts, bytes, the space."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.new_arrays import (
    write_plain,
    write_texts,
)
from fmristore.formats.registry import FORMAT, VERSION, WRITER
from fmristore.model.coordinates import Coordinate, grid_coordinates, time_coordinate
from fmristore.model.scaling import Scaling, make_scaling
from fmristore.model.space import NeuroSpace
from fmristore_stores._version import __version__
from fmristore_stores.errors import FmristoreError, InvalidInputError, MetadataError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Group
from fmristore_stores.spec import STRING, Attributes, check_attributes

__all__ = [
    "HOLDS",
    "format_attributes",
    "has_child",
    "holds",
    "missing_of",
    "read_affine",
    "read_bytes",
    "read_grid",
    "read_metadata",
    "read_scaling",
    "require_headers",
    "scaling_attributes",
    "space_attributes",
    "with_holds",
    "write_axes",
    "write_grid",
    "write_label",
    "write_metadata",
    "write_names",
    "write_times",
]


HOLDS = "holds"
"""Attribute of a group: names of the nodes in it that not every store of its format has."""

_SOMETIMES = frozenset(
    {
        *("columns", "metadata", "nifti", "nifti_end", "nifti_of_map", "nifti_trailer"),
        *("offset", "t", "voxel_error"),
    }
)


def with_holds(group: Group, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a group that was written, with the list of what it holds besides the rest.

    By it a node that was removed differs from one that was never there.
    """
    kept = {name: value for name, value in attributes.items() if name != HOLDS}
    return kept | holds(_SOMETIMES & group.children().keys())


def holds(names: Iterable[str]) -> dict[str, Any]:
    """Attribute that lists some nodes of a group; nothing if there are none."""
    listed = sorted(names)
    return {HOLDS: listed} if listed else {}


def missing_of(children: Collection[str], attributes: Mapping[str, Any]) -> list[str]:
    """Nodes that the attributes of a group list, and that are not among its children.

    Names are cut where they are longer than any that is written.
    """
    listed = attributes.get(HOLDS)
    names = listed if isinstance(listed, list) else []
    return [name[:255] for name in names if isinstance(name, str) and name not in children]


def has_child(handle: Handle, folder: str, name: str) -> bool:
    """Return whether a group has a node that not every store of its format has.

    Raises
    ------
    MetadataError
        If it was written with one, and has it no longer.
    """
    root = handle.store.root
    group = root.group(folder) if folder else root
    children = group.children()
    if name in children:
        return True
    if name in missing_of(children, group.read_attributes()):
        raise MetadataError(
            "was written and is missing: it was removed since",
            url=handle.locator.url,
            node=f"{folder}/{name}".strip("/"),
        )
    return False


_MOST_BYTES = 64 << 20
"""Bytes that a stored header with its extensions may have, and what followed the data."""


def read_bytes(handle: Handle, path: str) -> bytes:
    """Read what `write_bytes` wrote; empty if there is no such array.

    Raises
    ------
    MetadataError
        If it is no row of uint8, or too large for what it is.
    """
    folder, _, name = path.rpartition("/")
    if not path or not has_child(handle, folder, name):
        return b""
    values = StoredArray(handle, path).read_small(_MOST_BYTES)
    if values.dtype != np.uint8 or values.ndim != 1:
        raise MetadataError(
            f"holds {values.dtype} of shape {values.shape}, expected a row of uint8",
            url=handle.locator.url,
            node=path,
        )
    return values.tobytes()


def require_headers(headers: Sequence[bytes], url: str, node: str) -> None:
    """Check that stored NIfTI headers can be parsed; empty ones say nothing.

    Raises
    ------
    MetadataError
        If one is damaged.
    """
    from fmristore.nifti import parse_header

    for raw in filter(None, dict.fromkeys(headers)):
        try:
            parse_header(raw)
        except FmristoreError as error:
            raise MetadataError(
                f"the stored NIfTI header is damaged: {error.message}", url=url, node=node
            ) from error


_METADATA = "metadata"


def write_metadata(group: Group, metadata: Mapping[str, Any]) -> None:
    """Write what else is known of the data of a group; nothing if that is nothing."""
    if metadata:
        group.create_group(_METADATA, check_attributes(metadata))


def read_metadata(handle: Handle, folder: str = "") -> Attributes:
    """Read what `write_metadata` wrote below a group; empty if there is nothing."""
    if not has_child(handle, folder, _METADATA):
        return {}
    root = handle.store.root
    group = root.group(folder) if folder else root
    if group.children()[_METADATA].kind != "group":
        return {}
    return group.group(_METADATA).read_attributes()


def format_attributes(name: str, version: tuple[int, int] = (1, 2)) -> dict[str, Any]:
    """Root attributes that every format has."""
    return {
        FORMAT: name,
        VERSION: ".".join(map(str, version)),
        WRITER: f"fmristore {__version__} (Python)",
    }


_AFFINE = "affine"
"""Root attribute with the affine; in stores before version 1.2 a root array."""


def space_attributes(space: NeuroSpace) -> dict[str, Any]:
    """Root attributes that say where the voxels lie, and when the volumes were taken."""
    attributes: dict[str, Any] = {
        _AFFINE: space.affine.ravel().tolist(),
        "space_unit": space.space_unit,
        "time_unit": space.time_unit,
    }
    if space.tr is not None:
        attributes["repetition_time"] = space.tr
    if space.time_offset:
        attributes["time_offset"] = space.time_offset
    if space.space_name is not None:
        attributes["space_name"] = space.space_name
    return attributes


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


def read_affine(handle: Handle) -> AnyArray:
    """Affine of a store, (4, 4): that of its root attributes, or the array of earlier versions.

    Whether it is one of a grid, finite and invertible, is not checked.

    Parameters
    ----------
    handle : Handle
        The store.

    Raises
    ------
    MetadataError
        If it is missing, not made of 16 real numbers, or there twice and not the same.
    """
    url, root = handle.locator.url, handle.store.root
    said = handle.opened.attributes.get(_AFFINE)
    if said is None:
        if not root.has(_AFFINE):
            raise MetadataError(f"the format asks for the attribute {_AFFINE}", url=url)
        return _affine_array(handle)
    affine = _affine_of(said)
    if affine is None:
        raise MetadataError(
            f"the attribute {_AFFINE} must be a list of 16 numbers, the affine row by row", url=url
        )
    if root.has(_AFFINE) and not np.array_equal(_affine_array(handle), affine):
        raise MetadataError(
            "the store has two affines, an attribute and an array, which differ: remove the "
            "one that is wrong",
            url=url,
            node=_AFFINE,
        )
    return affine


def _affine_of(said: Any) -> AnyArray | None:
    """Affine of what an attribute says; None if that is none."""
    if not isinstance(said, list) or len(said) != 16:
        return None
    if not set(map(type, said)) <= {int, float}:
        return None
    try:
        return np.array([*map(float, said)]).reshape(4, 4)
    except OverflowError:
        return None


def _affine_array(handle: Handle) -> AnyArray:
    """Affine that is an array, as in stores of the versions 1.0 and 1.1."""
    affine = StoredArray(handle, _AFFINE).read_small(16)
    if affine.dtype.kind not in "iuf":
        raise MetadataError(
            f"the affine is {affine.dtype}, expected real numbers",
            url=handle.locator.url,
            node=_AFFINE,
        )
    return affine


def read_grid(
    handle: Handle,
    shape: tuple[int, int, int],
    time_points: int | None = None,
    *,
    attributes: Mapping[str, Any] | None = None,
    affine: AnyArray | None = None,
) -> NeuroSpace:
    """Space of a root group: its affine and its other attributes.

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
    affine : ndarray, (4, 4), optional
        That of the store, where it was read already.

    Raises
    ------
    MetadataError
        If they are missing or damaged.
    """
    if attributes is None:
        attributes = handle.opened.attributes
    affine = read_affine(handle) if affine is None else affine
    name = attributes.get("space_name")
    try:
        return NeuroSpace(
            spatial_shape=shape,
            affine=affine,
            time_points=time_points,
            tr=attributes.get("repetition_time"),
            time_offset=0.0 if time_points is None else attributes.get("time_offset", 0.0),
            space_name=None if name is None else str(name),
            space_unit=str(attributes.get("space_unit", "mm")),
            time_unit=str(attributes.get("time_unit", "s")),
        )
    except (TypeError, ValueError) as error:
        url = handle.locator.url
        raise MetadataError(f"the space of the image is damaged: {error}", url=url) from error


def scaling_attributes(scaling: Scaling | None) -> dict[str, Any]:
    """CF attributes, so that xarray and netCDF tools scale the data as well."""
    if scaling is None:
        return {}
    if scaling.per_volume:
        return {"scaling": "per-volume"}
    return {"scale_factor": scaling.slope, "add_offset": scaling.inter}


def write_grid(group: Group, space: NeuroSpace, scaling: Scaling | None = None) -> None:
    """Coordinates; they come first, so that arrays find their dimension scales."""
    write_axes(group, space)
    if space.time_points is not None:
        write_times(group, space, scaling)


def write_axes(group: Group, space: NeuroSpace, colors: int = 0) -> None:
    """Coordinates of the axes x, y, z (and c) of the arrays of a group, for other readers."""
    for name, coordinate in grid_coordinates(space, colors).items():
        _write_coordinate(group, name, coordinate)


def write_times(group: Group, space: NeuroSpace, scaling: Scaling | None = None) -> None:
    """Coordinate of the volumes, and what each is scaled by if that differs."""
    _write_coordinate(group, "t", time_coordinate(space))
    if scaling is not None and scaling.per_volume:
        write_plain(group, "scale_factor", ("t",), np.asarray(scaling.slope))
        write_plain(group, "add_offset", ("t",), np.asarray(scaling.inter))


def _write_coordinate(group: Group, name: str, coordinate: Coordinate) -> None:
    write_plain(group, name, (name,), coordinate.values, coordinate.attributes)


def write_names(group: Group, axis: str, names: Sequence[str]) -> None:
    """Names along an axis as its coordinate, for other readers."""
    write_texts(group, axis, axis, names)


def write_label(group: Group, kind: str, name: str) -> dict[str, str]:
    """Name of the run or scan that a group holds as a coordinate without an axis.

    Returns
    -------
    dict
        Attributes that the group needs besides: ``coordinates``, as CF and xarray have it.
    """
    write_plain(group, kind, (), np.array(name, STRING))
    return {"coordinates": kind}
