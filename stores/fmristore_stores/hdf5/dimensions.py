"""Names of axes in HDF5: labels, and dimension scales as netCDF-4 uses them.

A named axis gets a label. The labels of an array stand once more in an attribute of fixed-length
text, which is all that fmristore needs to read them back. So that xarray and
netCDF show the name too, the axis is attached to a dimension scale of that name in the same
group: the coordinate array of that name if there is one of the right length, else a hidden
dataset without storage that netCDF takes for a dimension without coordinates.

References
----------
Dimension scales: https://support.hdfgroup.org/documentation/hdf5/latest/_h5_d_s__u_g.html
netCDF-4 in HDF5: https://docs.unidata.ucar.edu/netcdf-c/current/file_format_specifications.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
from h5py import h5a, h5d, h5ds, h5g, h5i, h5l, h5p, h5r, h5s, h5t

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.hdf5.attributes import (
    StoredAttributes,
    decode_text,
    has_attribute,
    write_attribute,
)
from fmristore_stores.hdf5.heaps import checked_attribute
from fmristore_stores.hdf5.lengths import Header
from fmristore_stores.hdf5.links import below, decode_name, encode_name, entries, facts, open_child
from fmristore_stores.hdf5.messages import AXES, HIDDEN, SCALE, unique_names
from fmristore_stores.spec import check_name

__all__ = [
    "drop_hidden",
    "encode_label",
    "is_dimension",
    "is_hidden",
    "is_scale",
    "name_axes",
    "read_names",
    "release",
    "remove_child",
]


def read_names(node: Any, rank: int, own: str, header: Header | None = None) -> tuple[str, ...]:
    """Names of the axes of an open dataset, empty where there are none.

    Parameters
    ----------
    node : h5py.h5d.DatasetID
        The dataset.
    rank : int
        Number of its axes.
    own : str
        Its own name: that of the axis of a dimension scale.
    header : Header, optional
        The header of the dataset, where it is known.
    """
    given = StoredAttributes(node, header)
    names = [""] * rank
    recorded = False
    if given.has(b"DIMENSION_LABELS"):
        recorded = given.has(AXES.encode())
        labels = given.read(AXES.encode() if recorded else b"DIMENSION_LABELS")
        if isinstance(labels, list) and len(labels) == rank:
            names = [label if isinstance(label, str) else "" for label in labels]
    if not recorded and not all(names) and given.has(b"DIMENSION_LIST"):
        for axis in range(rank):
            scales = [] if names[axis] else _scales(node, axis)
            if scales:
                names[axis] = _name_of(scales[0])
    elif rank == 1 and not names[0] and is_scale(node, header):
        names = [own]
    return unique_names(names)


def is_hidden(group: Any, name: bytes, header: Header | None = None) -> bool:
    """Return whether a hard-linked child is a dimension and nothing else.

    Parameters
    ----------
    group : h5py.h5g.GroupID
        Where it is.
    name : bytes
        Its name.
    header : Header, optional
        Its header, where it is known: one without ``CLASS`` is not opened.
    """
    if header is not None and header.has_all:
        is_class = b"CLASS" in header.attributes
    else:
        is_class = h5a.exists(group, b"CLASS", obj_name=name)
    return is_class and is_dimension(open_child(group, name), header)


def name_axes(
    group: Any, name: str, node: Any, dims: Sequence[str], *, variable_text: bool = False
) -> None:
    """Label the axes of a new array and attach them to the scales of its group.

    Parameters
    ----------
    group : h5py.h5g.GroupID
        Its group.
    name : str
        Its name.
    node : h5py.h5d.DatasetID
        The array.
    dims : sequence of str
        Names of its axes, empty for none.
    variable_text : bool
        Leave out the attribute of fixed-length text.

    Raises
    ------
    InvalidInputError
        If a name holds NUL or is not UTF-8.
    """
    for axis, dim in enumerate(dims):
        if dim:
            h5ds.set_label(node, axis, encode_label(dim))
    if any(dims) and not variable_text:
        write_attribute(node, AXES, list(dims))
    if tuple(dims) == (name,):
        h5ds.set_scale(node, encode_label(name))
        _attach_to_all(group, name, node)
        return
    for axis, dim in enumerate(dims):
        if dim:
            scale = _scale(group, dim, int(node.shape[axis]))
            if scale is not None:
                h5ds.attach_scale(node, scale, axis)


def encode_label(name: str) -> bytes:
    """Bytes of an axis name.

    Raises
    ------
    InvalidInputError
        If they cannot be stored.
    """
    if "\x00" in name or any("\ud800" <= c <= "\udfff" for c in name):
        msg = f"axis name {name!r}: text with NUL or lone surrogates cannot be stored"
        raise InvalidInputError(msg)
    return name.encode()


def drop_hidden(group: Any, name: bytes) -> None:
    """Make room for a new child: a dimension of that name is detached from its users and gone."""
    scale = open_child(group, name)
    for user, axis in _users(scale):
        _detach(user, scale, axis)
    group.unlink(name)


def remove_child(group: Any, name: bytes) -> None:
    """Unlink a hard-linked child, and leave no reference to what is gone.

    Arrays that a coordinate array was a scale of keep a dimension of that name; dimensions
    that nothing uses any more go too.
    """
    if facts(group, name).names > 1:
        group.unlink(name)
        return
    node = open_child(group, name)
    orphans: list[tuple[Any, int]] = []
    for found in below(node):
        if isinstance(found, h5d.DatasetID) and facts(found).names == 1:
            orphans += release(found)
    group.unlink(name)
    if isinstance(node, h5d.DatasetID):
        text = decode_name(name)
        for user, axis in orphans:
            scale = _scale(group, text, int(user.shape[axis]))
            if scale is not None and not h5ds.is_attached(user, scale, axis):
                h5ds.attach_scale(user, scale, axis)
        _drop_unused(group)


def release(node: Any) -> list[tuple[Any, int]]:
    """Detach a dataset from its scales, and from the arrays that it is a scale of.

    Returns
    -------
    list of (dataset, axis)
        The arrays that have lost a scale.
    """
    if has_attribute(node, "DIMENSION_LIST"):
        for axis in range(node.rank):
            for scale in _scales(node, axis):
                _detach(node, scale, axis)
    return [(user, axis) for user, axis in _users(node) if _detach(user, node, axis)]


def _detach(user: Any, scale: Any, axis: int) -> bool:
    """Detach a scale; False if only one of the two names the other, as in copies of a group."""
    attached = bool(h5ds.is_attached(user, scale, axis))
    if attached:
        h5ds.detach_scale(user, scale, axis)
    return attached


def is_scale(node: Any, header: Header | None = None) -> bool:
    """Return whether an open dataset, whose header may be known, is a dimension scale."""
    given = StoredAttributes(node, header)
    return given.has(b"CLASS") and bool(given.read(b"CLASS") == SCALE)


def is_dimension(node: Any, header: Header | None = None) -> bool:
    """Return whether an open object, whose header may be known, is a dimension and nothing else."""
    if not isinstance(node, h5d.DatasetID) or not is_scale(node, header):
        return False
    given = StoredAttributes(node, header)
    return given.has(b"NAME") and str(given.read(b"NAME")).startswith(HIDDEN)


def _scales(node: Any, axis: int) -> list[Any]:
    """Scales attached to an axis."""
    if not has_attribute(node, "DIMENSION_LIST"):
        return []
    # Not through h5ds, which does not survive every damaged file.
    stored = h5a.open(node, b"DIMENSION_LIST")
    kind = stored.get_type()
    if stored.shape != (node.rank,) or kind.get_class() != h5t.VLEN:
        return []
    if kind.get_super().get_class() != h5t.REFERENCE:
        return []
    safe = checked_attribute(node, b"DIMENSION_LIST", kind, node.rank)
    listed = h5py.Dataset(safe).attrs["DIMENSION_LIST"]
    return [h5r.dereference(reference, node) for reference in listed[axis] if reference]


def _name_of(scale: Any) -> str:
    return decode_text((h5i.get_name(scale) or b"").rsplit(b"/", 1)[-1])


def _users(scale: Any) -> list[tuple[Any, int]]:
    """Arrays and axes that a scale is attached to."""
    if not has_attribute(scale, "REFERENCE_LIST"):
        return []
    kind = h5a.open(scale, b"REFERENCE_LIST").get_type()
    if kind.get_class() != h5t.COMPOUND:
        return []
    members = [kind.get_member_type(number).get_class() for number in range(kind.get_nmembers())]
    if members != [h5t.REFERENCE, h5t.INTEGER]:  # others could lie in a global heap
        return []
    listed = h5py.Dataset(scale).attrs["REFERENCE_LIST"]
    found = [(h5r.dereference(reference, scale), int(axis)) for reference, axis in listed]
    return [(node, axis) for node, axis in found if isinstance(node, h5d.DatasetID)]


def _scale(group: Any, dim: str, length: int) -> Any:
    """The scale of that name and length, made if the name is free; None if it is taken."""
    try:
        name = encode_name(check_name(dim))
    except InvalidInputError:
        return None
    if not group.links.exists(name):
        return _create_hidden(group, name, length)
    if group.links.get_info(name).type != h5l.TYPE_HARD:
        return None
    node = open_child(group, name)
    if not isinstance(node, h5d.DatasetID) or node.shape != (length,) or not is_scale(node):
        return None
    return node


def _create_hidden(group: Any, name: bytes, length: int) -> Any:
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_obj_track_times(False)
    node = h5d.create(group, name, h5t.IEEE_F32BE, h5s.create_simple((length,)), plan)
    h5ds.set_scale(node, f"{HIDDEN} {length:10d}".encode())
    return node


def _attach_to_all(group: Any, name: str, scale: Any) -> None:
    """Attach a new coordinate array to the arrays of its group that have that axis."""
    length = int(scale.shape[0])
    for entry in entries(group):
        if entry.link != h5l.TYPE_HARD or entry.name == encode_name(name):
            continue
        if not h5a.exists(group, b"DIMENSION_LABELS", obj_name=entry.name):
            continue
        node = open_child(group, entry.name)
        if isinstance(node, h5g.GroupID) or length not in node.shape or is_scale(node):
            continue
        for axis, label in enumerate(read_names(node, node.rank, "")):
            if label == name and node.shape[axis] == length and not _scales(node, axis):
                h5ds.attach_scale(node, scale, axis)


def _drop_unused(group: Any) -> None:
    """Remove the dimensions of a group that no array uses."""
    for entry in entries(group):
        hidden = entry.link == h5l.TYPE_HARD and is_hidden(group, entry.name)
        if hidden and not _users(open_child(group, entry.name)):
            group.unlink(entry.name)
