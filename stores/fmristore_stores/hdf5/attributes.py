"""Attributes of HDF5 objects as plain JSON values, both ways.

===============================  =======================================================
JSON value                       HDF5 attribute
===============================  =======================================================
text                             scalar, fixed-length UTF-8, padded with NUL
integer                          scalar int64, uint64 where it needs to be
number, true or false            scalar float64, scalar boolean (h5py's enumeration)
list of one of these kinds       one axis of that type
empty list                       one axis of length zero
anything else                    JSON text, and its name stands in the attribute ``_json``
===============================  =======================================================

Text of more than 63.5 KiB is of variable length: it does not fit into the header of an object.
Variable-length text lies in global heaps, through which a file can be damaged in many ways; it is
also what R's package writes, so all text is of that kind where `variable_text` is asked for.

A name that HDF5 or netCDF-4 need for themselves is stored with ``_user:`` before it.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5r, h5s, h5t

from fmristore_stores.errors import InvalidInputError, MemoryLimitError, MetadataError
from fmristore_stores.hdf5 import messages
from fmristore_stores.hdf5.heaps import checked_attribute, reading_attributes, uses_heap
from fmristore_stores.hdf5.lengths import Header
from fmristore_stores.limits import MOST_ATTRIBUTES, check_values
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import (
    MAX_NUMERIC_ATTRIBUTE,
    Attributes,
    check_attributes,
    check_nesting,
)

__all__ = [
    "AttributesOnDemand",
    "StoredAttributes",
    "decode_text",
    "has_attribute",
    "has_variable_text",
    "read_attribute",
    "read_attributes",
    "stored_form",
    "user_attributes",
    "write_attribute",
    "write_attributes",
]

_JSON = "_json"
_OF_ARRAYS = frozenset(
    {
        "DIMENSION_LIST",
        "REFERENCE_LIST",
        "DIMENSION_LABELS",
        messages.AXES,
        "_Netcdf4Dimid",
        "_Netcdf4Coordinates",
    }
)
"""Book-keeping of dimension scales and netCDF-4, which is no attribute to a user."""
_OF_SCALES = frozenset({"CLASS", "NAME"})
_OF_GROUPS = frozenset({"_nc3_strict"})
_RESERVED = _OF_ARRAYS | _OF_SCALES | _OF_GROUPS | {_JSON}
_ESCAPE = "_user:"
"""Put before the name of a user's attribute that has one of these names, or starts like this."""
_LARGEST = 64 * 1024 * 1024
"""Bytes of an attribute; larger claims are not read."""

_VARIABLE = 16
"""Bytes that a text of variable length takes in the header of an object."""
_TEXT_TYPE = h5py.string_dtype()
_TEXTS = {
    cset: (dtype, h5t.py_create(dtype))
    for cset, dtype in (
        (h5t.CSET_ASCII, h5py.string_dtype("ascii")),
        (h5t.CSET_UTF8, _TEXT_TYPE),
    )
}
"""Types of numpy and HDF5 that text of any length is read as, which most attributes are."""
_MEMORY_TYPES: dict[str, Any] = {}
_TRUTH = {"FALSE": False, "TRUE": True, "NA": None}
"""Logical values as R writes them: names of an enumeration."""


def decode_text(raw: bytes | str) -> str:
    """Text of stored bytes, or of what h5py made of them; see `messages.decode_text`."""
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogateescape")
    return messages.decode_text(raw)


def has_attribute(node: Any, name: str) -> bool:
    """Return whether an open HDF5 object has an attribute."""
    return bool(h5a.exists(node, name.encode()))


def has_variable_text(node: Any) -> bool:
    """True if the first attribute of text that an open HDF5 object has is of variable length."""
    kinds = (h5a.open(node, name).get_type() for name in StoredAttributes(node).names)
    texts = (kind for kind in kinds if isinstance(kind, h5t.TypeStringID))
    return next((bool(kind.is_variable_str()) for kind in texts), False)


def read_attributes(
    node: Any, *, is_array: bool, readable: bool = False, header: Header | None = None
) -> Attributes:
    """All attributes of an open HDF5 object that are meant for users.

    Parameters
    ----------
    node : h5py.h5g.GroupID or h5py.h5d.DatasetID
        The object.
    is_array : bool
        Whether it is a dataset.
    readable : bool
        Leave out those that have no JSON counterpart.
    header : Header, optional
        The header of the object, where it is known.

    Returns
    -------
    dict
        JSON values; not-a-number and infinities occur where a foreign file has them.

    Raises
    ------
    MetadataError
        If an attribute has no JSON counterpart.
    """
    with reading_attributes():
        return _read_attributes(node, is_array=is_array, readable=readable, header=header)


def _read_attributes(
    node: Any, *, is_array: bool, readable: bool, header: Header | None
) -> Attributes:
    given = StoredAttributes(node, header)
    stored, texts = _user_names(given, is_array=is_array)
    found: Attributes = {}
    for name, raw in stored.items():
        shown = name.removeprefix(_ESCAPE)
        try:
            value = given.read(raw)
            found[shown] = _parse_json(shown, value) if name in texts else value
        except MetadataError:
            if not readable:
                raise
    return found


def _user_names(
    given: StoredAttributes, *, is_array: bool
) -> tuple[dict[str, bytes], Sequence[Any]]:
    """Stored names of attributes that are meant for users, decoded and not; which are JSON text."""
    hidden = _hidden(given, is_array=is_array)
    stored = messages.decode_names(given.names)
    texts = _json_names(given, stored.values())
    if texts:
        del stored[_JSON]
    return {name: raw for name, raw in stored.items() if name not in hidden}, texts


class AttributesOnDemand(Mapping[str, Any]):
    """Attributes of a group that lie in its header, each decoded when it is asked for.

    Parameters
    ----------
    node : h5py.h5g.GroupID
        The open group, in a file that nobody changes.
    header : Header
        Its header, which has them all.
    reading : callable
        Gives a context in which what raises says where.
    """

    def __init__(
        self, node: Any, header: Header, reading: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._given = StoredAttributes(node, header)
        self._reading = reading
        self._known = known = header.attributes
        self._texts = _json_names(self._given, known)
        self._has_escapes = _ESCAPE.encode() in b"\0".join(known)
        self._values: Attributes = {}

    @functools.cached_property
    def _stored(self) -> dict[str, bytes]:
        """Stored names by the names that users see."""
        stored, _ = _user_names(self._given, is_array=False)
        return {name.removeprefix(_ESCAPE): raw for name, raw in stored.items()}

    def _raw(self, name: str) -> bytes | None:
        """Stored name of one; None if there is none."""
        if self._has_escapes or name in _RESERVED or not name.isascii():
            return self._stored.get(name)
        raw = name.encode()
        return raw if raw in self._known else None

    def __getitem__(self, name: str) -> Any:
        return self.get(name) if name in self else self._values[name]  # which raises KeyError

    def get(self, name: str, default: Any = None) -> Any:
        """One, or the default where there is none."""
        values = self._values
        if name in values:
            return values[name]
        raw = self._raw(name)
        if raw is None:
            return default
        is_text = decode_text(raw) in self._texts
        value = self._given.plain(raw)
        if value is NotImplemented or is_text:
            with self._reading(), reading_attributes():
                value = self._given.read(raw)
                if is_text:
                    value = _parse_json(name, value)
        values[name] = value
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._raw(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


class StoredAttributes:
    """Attributes of an open HDF5 object, each read when it is asked for.

    Parameters
    ----------
    node : h5py.h5g.GroupID, h5py.h5d.DatasetID or another object
        The object.
    header : Header, optional
        Its header, where it is known: plain values are taken from there.
    """

    def __init__(self, node: Any, header: Header | None = None) -> None:
        self._node = node
        self._known = header.attributes if header is not None and header.has_all else None

    @property
    def names(self) -> list[bytes]:
        """All names, sorted."""
        found: list[bytes] = []
        if self._known is not None:
            return sorted(self._known)
        h5a.iterate(self._node, found.append)
        return found

    def has(self, name: bytes) -> bool:
        """Return whether there is one of that name."""
        if self._known is not None:
            return name in self._known
        return bool(h5a.exists(self._node, name))

    def is_own(self, name: bytes) -> bool:
        """True for one that `write_attributes` would store in the very form that it has.

        False also where only the HDF5 library could tell.
        """
        found = None if self._known is None else messages.decode_form(self._known[name][0])
        if found is None:
            return False
        value, form = found
        if form.letter in ("d", "f") and not np.isfinite(value).all():
            return False
        own = _encode(value, functools.partial(_text, variable=False))
        if own is None or own.shape != ((form.items,) if form.listed else ()):
            return False
        if form.letter:
            return own.dtype == np.dtype(f"<{form.letter}")
        return own.dtype.kind == "S" and own.dtype.itemsize == form.size and form.own_text

    def plain(self, name: bytes) -> Any:
        """One as a JSON value; `NotImplemented` where HDF5 has to be asked."""
        known = self._known
        return NotImplemented if known is None else messages.decode_plain(known[name][0])

    def read(self, name: bytes) -> Any:
        """One as a JSON value; raises as `read_attribute`."""
        value = self.plain(name)
        return read_attribute(self._node, name) if value is NotImplemented else value


def user_attributes(given: StoredAttributes, *, is_array: bool) -> dict[str, bytes]:
    """Stored names of attributes that are meant for users, by these names.

    Left out are those that are JSON text, or stored under another name.
    """
    stored, texts = _user_names(given, is_array=is_array)
    return {
        name: raw
        for name, raw in stored.items()
        if name not in texts and name not in _RESERVED and not name.startswith(_ESCAPE)
    }


def stored_form(value: Any) -> tuple[Any, tuple[int, ...]] | None:
    """Type and shape in which a JSON value is stored; None where that is as JSON text."""
    try:
        encoded = _encode(value, functools.partial(_text, variable=False))
    except (TypeError, ValueError):
        return None
    return None if encoded is None else (h5t.py_create(encoded.dtype, logical=True), encoded.shape)


def _json_names(given: StoredAttributes, names: Container[bytes]) -> list[Any]:
    """Names of the attributes that are JSON text, of those that are there."""
    raw = _JSON.encode()
    listed = given.read(raw) if raw in names else None
    return listed if isinstance(listed, list) else []


def read_attribute(node: Any, name: bytes | str) -> Any:
    """One attribute of an open HDF5 object as a JSON value.

    Raises
    ------
    MetadataError
        If it has no JSON counterpart.
    """
    raw = name if isinstance(name, bytes) else name.encode()
    stored = h5a.open(node, raw)
    label = decode_text(name)
    space = stored.get_space()
    if space.get_simple_extent_type() == h5s.NULL:
        return None
    kind = stored.get_type()
    dtype, memory = _transfer_types(kind, label)
    base, inner = dtype.subdtype or (dtype, ())
    shape = (*space.shape, *inner)
    if math.prod(shape) * base.itemsize > _LARGEST:
        msg = f"attribute {label!r} claims more than {_LARGEST} bytes"
        raise MetadataError(msg)
    values = np.zeros(shape, base)
    if uses_heap(kind):
        stored = h5a.open(checked_attribute(node, raw, kind, math.prod(shape)), raw)
    if values.size:
        stored.read(values, memory)
    return _plain(values, kind, node)


def _transfer_types(kind: Any, label: str) -> tuple[np.dtype[Any], Any]:
    """Types of numpy and HDF5 that an attribute is read as.

    Raises
    ------
    MetadataError
        If it has no JSON counterpart.
    """
    if isinstance(kind, h5t.TypeStringID):
        if not kind.is_variable_str() and kind.get_strpad() == h5t.STR_NULLPAD:
            return np.dtype(("S", kind.get_size())), kind
        found = _TEXTS.get(kind.get_cset()) if kind.is_variable_str() else None
        if found is not None:
            return found
    try:
        dtype = kind.dtype
    except TypeError as error:
        msg = f"attribute {label!r} is of a type that has no JSON counterpart ({error})"
        raise MetadataError(msg) from error
    base = dtype.subdtype[0] if dtype.subdtype else dtype
    readable = base.kind in "biufS" or h5t.check_string_dtype(base) or h5t.check_ref_dtype(base)
    if not readable or base == np.longdouble:
        msg = f"attribute {label!r} is of type {dtype}, which has no JSON counterpart"
        raise MetadataError(msg)
    return dtype, _memory_type(dtype)


def _memory_type(dtype: np.dtype[Any]) -> Any:
    """HDF5 type of a type of numpy; made once for each that nothing is noted at."""
    if dtype.kind not in "iuf" or dtype.metadata is not None:
        return h5t.py_create(dtype)
    found = _MEMORY_TYPES.get(dtype.str)
    if found is None:
        found = _MEMORY_TYPES[dtype.str] = h5t.py_create(dtype)
    return found


def write_attributes(
    node: Any,
    attributes: Mapping[str, Any],
    *,
    is_array: bool,
    ignore: frozenset[str],
    variable_text: bool = False,
) -> None:
    """Replace all attributes of an open HDF5 object that are meant for users.

    Parameters
    ----------
    node : h5py.h5g.GroupID or h5py.h5d.DatasetID
        The object.
    attributes : mapping
        JSON values.
    is_array : bool
        Whether it is a dataset.
    ignore : frozenset of str
        Attributes that are derived from something else when they are read.
    variable_text : bool
        Write text of variable length only.

    Raises
    ------
    InvalidInputError
        If a name or value cannot be stored, or there are too many; nothing changes then.
    """
    if len(attributes) > MOST_ATTRIBUTES:
        msg = f"{len(attributes)} attributes: a node of an HDF5 file may have {MOST_ATTRIBUTES}"
        raise InvalidInputError(msg)
    checked = {
        _ESCAPE + name if name in _RESERVED or name.startswith(_ESCAPE) else name: value
        for name, value in check_attributes(attributes).items()
        if name not in ignore
    }
    text = functools.partial(_text, variable=variable_text)
    encoded = {name: _encode(value, text) for name, value in checked.items()}
    texts = {name: json.dumps(checked[name]) for name, value in encoded.items() if value is None}
    for name, document in texts.items():
        try:
            check_values(document)  # as when it is read
        except MemoryLimitError as error:
            raise InvalidInputError(f"attribute {name!r}: {error.message}") from error
    given = StoredAttributes(node)
    hidden = _hidden(given, is_array=is_array)
    for raw in given.names:
        if decode_text(raw) not in hidden:
            h5a.delete(node, raw)
    for name, value in encoded.items():
        _create(node, name, text(texts[name]) if value is None else value)
    if texts:
        _create(node, _JSON, text(list(texts)))


def write_attribute(node: Any, name: str, value: str | list[str]) -> None:
    """Write one attribute of text that an open HDF5 object does not have yet."""
    _create(node, name, _text(value, variable=False))


def _hidden(given: StoredAttributes, *, is_array: bool) -> frozenset[str]:
    if not is_array:
        return _OF_GROUPS
    if given.has(b"CLASS") and given.read(b"CLASS") == messages.SCALE:
        return _OF_ARRAYS | _OF_SCALES
    return _OF_ARRAYS


def _parse_json(name: str, text: Any) -> Any:
    try:
        check_values(text)
        value = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        msg = f"attribute {name!r} is listed as JSON text but is not ({error})"
        raise MetadataError(msg) from error
    check_nesting({name: value})
    return value


def _plain(values: AnyArray, kind: Any, node: Any) -> Any:
    """JSON value of what an attribute holds."""
    if h5t.check_ref_dtype(values.dtype):
        return _nested(values, lambda ref: _reference(ref, node))
    if values.dtype.kind in "OS":
        return _nested(values, decode_text)
    names = h5t.check_enum_dtype(values.dtype)
    if kind.get_class() == h5t.ENUM and names and {"FALSE", "TRUE"} <= set(names) <= set(_TRUTH):
        truth = {number: _TRUTH[name] for name, number in names.items()}
        return _nested(values, lambda number: truth.get(number, number))
    return values.tolist()


def _nested(values: AnyArray, convert: Any) -> Any:
    """Nested lists of converted elements; the element itself if there are no axes."""
    if not values.shape:
        return convert(values[()].item() if values.dtype.kind != "O" else values[()])
    return (
        [_nested(part, convert) for part in values]
        if values.ndim > 1
        else [convert(item) for item in values.tolist()]
    )


def _reference(reference: Any, node: Any) -> Any:
    """The convention of hdmf-zarr for object references in attributes."""
    if not reference:
        return None
    try:
        path = h5r.get_name(reference, node)
    except (RuntimeError, ValueError):
        path = None
    return {"_REFERENCE": {"path": decode_text(path or b"").lstrip("/")}}


def _encode(value: Any, text: Callable[[Any], AnyArray]) -> AnyArray | None:
    """The array to store, or None where only JSON text can hold the value.

    Parameters
    ----------
    value : JSON value
        What is stored.
    text : callable
        Makes the array of a text or a list of texts.
    """
    items = value if isinstance(value, list) else [value]
    kinds = {type(item) for item in items}
    if len(kinds) > 1 or not kinds <= {str, int, float, bool}:
        return None
    if not items:
        return np.zeros(0)
    kind = kinds.pop()
    if kind is str:
        short = len(items) * _VARIABLE <= MAX_NUMERIC_ATTRIBUTE
        return text(value) if short else None
    if kind is int:
        if max(items) < 2**63:
            return np.array(value, np.int64)
        return np.array(value, np.uint64) if min(items) >= 0 else None
    return np.array(value, np.float64 if kind is float else np.bool_)


def _text(value: str | list[str], *, variable: bool) -> AnyArray:
    """Texts as they are stored: of fixed length, where that fits into the header of an object."""
    encoded = [text.encode() for text in ([value] if isinstance(value, str) else value)]
    length = max(1, *map(len, encoded))
    if variable or length * len(encoded) > MAX_NUMERIC_ATTRIBUTE:
        return np.array(value, _TEXT_TYPE)
    found = np.array(encoded, h5py.string_dtype("utf-8", length))
    return found.reshape(()) if isinstance(value, str) else found


def _create(node: Any, name: str, value: AnyArray) -> None:
    space = h5s.create_simple(value.shape) if value.ndim else h5s.create(h5s.SCALAR)
    stored = h5t.py_create(value.dtype, logical=True)
    h5a.create(node, name.encode(), stored, space).write(value)
