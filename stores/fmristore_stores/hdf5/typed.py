"""Attributes of HDF5 objects with the types that they are stored in, where JSON values lack these.

`read_typed` takes them out of one file and `write_typed` puts them into another one as they were:
numbers of any width, enumerations, compounds, texts of fixed and of variable length, empty ones.
References lead to objects of their own file and stay with `attributes`, which names them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from h5py import h5a, h5s, h5t

from fmristore_stores.errors import MetadataError
from fmristore_stores.hdf5.attributes import (
    StoredAttributes,
    decode_text,
    read_attribute,
    stored_form,
    user_attributes,
)
from fmristore_stores.hdf5.heaps import checked_attribute, is_nested, reading_attributes, uses_heap
from fmristore_stores.hdf5.lengths import Header
from fmristore_stores.protocol import TypedAttribute

__all__ = ["read_typed", "write_typed"]

_LARGEST = 1024 * 1024
"""Bytes of an attribute that is taken over; HDF5 itself puts an end at 64 KiB in most files."""
_BOOLEAN = {"FALSE", "TRUE", "NA"}


def read_typed(
    node: Any, *, is_array: bool, header: Header | None = None
) -> dict[str, TypedAttribute]:
    """Attributes of an open HDF5 object that their JSON values do not say all of.

    Parameters
    ----------
    node : h5py.h5g.GroupID or h5py.h5d.DatasetID
        The object.
    is_array : bool
        Whether it is a dataset.
    header : Header, optional
        Its header, where it is known: what is plain there is not read through the library.

    Returns
    -------
    dict of str to TypedAttribute
        By name as users know it; also those that have no JSON value.
    """
    with reading_attributes():
        return _read_typed(node, StoredAttributes(node, header), is_array=is_array)


def _read_typed(node: Any, given: StoredAttributes, *, is_array: bool) -> dict[str, TypedAttribute]:
    found: dict[str, TypedAttribute] = {}
    for name, raw in user_attributes(given, is_array=is_array).items():
        if given.is_own(raw):
            continue
        stored = h5a.open(node, raw)
        kind, space = stored.get_type(), stored.get_space()
        value, reason = None, ""
        try:
            value = read_attribute(node, raw)
        except MetadataError as error:
            reason = error.message
        empty = space.get_simple_extent_type() == h5s.NULL
        alike = not reason and not empty and stored_form(value) == (kind, space.shape)
        if alike and _is_finite(value):
            continue
        content = None if _refers(kind) else _content(node, raw, kind, space)
        what = _what(kind, empty=empty)
        found[name] = TypedAttribute(content=content, value=value, reason=reason, what=what)
    return found


def write_typed(node: Any, attributes: Mapping[str, TypedAttribute]) -> None:
    """Give an open HDF5 object attributes of another one, in place of any of the same names.

    Parameters
    ----------
    node : h5py.h5g.GroupID or h5py.h5d.DatasetID
        The object.
    attributes : mapping of str to TypedAttribute
        As `read_typed` returns them, with content.
    """
    for name, attribute in attributes.items():
        kind, shape, values, memory = attribute.content
        raw = name.encode()
        if h5a.exists(node, raw):
            h5a.delete(node, raw)
        if shape is None:
            h5a.create(node, raw, kind, h5s.create(h5s.NULL))
            continue
        space = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
        made = h5a.create(node, raw, kind, space)
        if math.prod(shape):
            made.write(values, memory)


def _is_finite(value: Any) -> bool:
    """Return whether a JSON value holds numbers that JSON has; it holds no objects here."""
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _refers(kind: Any) -> bool:
    """Return whether a type is, or holds, references."""
    held = kind.get_class()
    if held == h5t.COMPOUND:
        return any(_refers(kind.get_member_type(i)) for i in range(kind.get_nmembers()))
    if held in (h5t.ARRAY, h5t.VLEN):
        return _refers(kind.get_super())
    return bool(held == h5t.REFERENCE)


def _content(node: Any, raw: bytes, kind: Any, space: Any) -> Any:
    """Type, shape (None if empty) and values, as they lie in the file; None if they are large."""
    if space.get_simple_extent_type() == h5s.NULL:
        return kind, None, None, None
    shape = space.shape
    count = math.prod(shape)
    if count * kind.get_size() > _LARGEST:
        return None
    stored = h5a.open(node, raw)
    if not uses_heap(kind):
        values = np.zeros(shape, f"V{kind.get_size()}")
        memory = kind
    else:
        if kind.get_class() not in (h5t.STRING, h5t.VLEN) or is_nested(kind):
            return None
        values = np.zeros(shape, kind.dtype)
        memory = h5t.py_create(values.dtype)
        stored = h5a.open(checked_attribute(node, raw, kind, count), raw)
    if count:
        stored.read(values, memory)
    return kind, shape, values, memory


def _what(kind: Any, *, empty: bool) -> str:
    """Type of an attribute that JSON does not tell; empty if it does as far as it matters."""
    if empty:
        return "empty" if kind.get_class() != h5t.STRING else ""
    if kind.get_class() == h5t.ENUM:
        names = [decode_text(kind.get_member_name(i)) for i in range(kind.get_nmembers())]
        if not {*names} <= _BOOLEAN:
            return f"an enumeration of {', '.join(names[:8])}"
    return ""
