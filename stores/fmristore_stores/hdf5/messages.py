"""Attributes and datasets as the header of an object has them, decoded without the HDF5 library.

The library makes four objects for each attribute that is read through it, and as many for a
dataset, which takes longer than everything else about a small file. So the header is read at once,
and what is plain is taken from its bytes: attributes that are text of fixed length, integers or
floats in little-endian order, one value or a list of them; and datasets of such numbers, in one
piece or in chunks. All else is left to the library, and datasets whose headers have
checksums. Attributes are those of an object that the library has opened, and so checked, before.

References
----------
Object headers: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmristore_stores.hdf5.dense import VERSIONS, attribute_parts
from fmristore_stores.hdf5.lengths import Header
from fmristore_stores.spec import MAX_RANK

__all__ = [
    "AXES",
    "HIDDEN",
    "SCALE",
    "Form",
    "PlainDataset",
    "decode_form",
    "decode_names",
    "decode_plain",
    "decode_text",
    "plain_dataset",
    "unique_names",
]

AXES = "_fmristore_axes"
"""Attribute with the names of the axes of an array once more: ``DIMENSION_LABELS``, where readers
of other projects look for them, lies in a global heap."""
_AXES = AXES.encode()
SCALE = "DIMENSION_SCALE"
"""Attribute ``CLASS`` of a dimension scale."""
HIDDEN = "This is a netCDF dimension but not a netCDF variable."
"""Beginning of the attribute ``NAME`` of one that holds no values."""
_SHAPE_MESSAGE, _TYPE_MESSAGE, _LAYOUT_MESSAGE, _FILTERS_MESSAGE = 0x01, 0x03, 0x08, 0x0B
_FILL_MESSAGES, _TIME_MESSAGES = (0x04, 0x05), (0x0E, 0x12)
_OF_DATASETS = frozenset(
    {
        _SHAPE_MESSAGE,
        _TYPE_MESSAGE,
        _LAYOUT_MESSAGE,
        _FILTERS_MESSAGE,
        *_FILL_MESSAGES,
        *_TIME_MESSAGES,
    }
)
"""Messages of datasets in the file itself, apart from attributes."""

_INTEGER, _FLOAT, _TEXT = 0, 1, 3
_TERMINATED, _PADDED = 0, 1
"""Text that ends with the first NUL, and text that is followed by NUL and need not be."""
_UTF8 = 1
_SIGNED = 8
_OLD_SHAPE, _SHAPE = 1, 2
"""Versions of the message that says a shape."""
_WITH_LIMITS = 1
"""Flag of one that says how long each axis may become, too."""
_FLOATS = {
    bytes.fromhex("203f000800000000004000340b0034ff030000"): "d",
    bytes.fromhex("201f000400000000002000170800177f000000"): "f",
}
"""Letters of `struct` for little-endian floats, by what follows the class of their type."""
_IN_ONE_PIECE, _IN_CHUNKS = 1, 2
_UNDEFINED = 2**64 - 1
_LAYOUT = 3
"""Version of the message that says where the data are."""
_CODES = {1: "Bb", 2: "Hh", 4: "Ii", 8: "Qq"}
"""Letters of `struct` for integers without and with a sign, by their bytes."""
_TYPES, _FILLS = range(1, 6), range(1, 4)
"""Versions of the messages that say a type and a fill value."""
_MOST_FILTERS = 32
_SHORT = 512
"""Bytes of an attribute that is remembered, and before the value of one whose form is."""


class Form(NamedTuple):
    """Form of the value of an attribute."""

    size: int
    """Bytes of an element."""
    items: int
    letter: str
    """Of `struct`; empty for text."""
    listed: bool
    padded: bool
    """True for text that is followed by NUL and need not be, instead of ending with one."""
    utf8: bool
    """True for text that says so of itself."""

    @property
    def own_text(self) -> bool:
        """True for text as fmristore writes it."""
        return not self.letter and self.padded and self.utf8


def decode_plain(message: bytes) -> Any:
    """Value of an attribute; `NotImplemented` where the HDF5 library has to say it.

    Parameters
    ----------
    message : bytes
        As it lies in the header of its object.
    """
    if len(message) > _SHORT:
        return _decode(message)
    value = _decode_again(message)
    return value.copy() if isinstance(value, list) else value


def _decode(message: bytes) -> Any:
    found = decode_form(message)
    return NotImplemented if found is None else found[0]


_decode_again = functools.lru_cache(maxsize=256)(_decode)
"""Most attributes of a file are those of the files before: names, versions, units."""


def decode_form(message: bytes) -> tuple[Any, Form] | None:
    """Value of an attribute and how it is stored; None where the HDF5 library has to say it.

    Parameters
    ----------
    message : bytes
        As it lies in the header of its object.
    """
    try:
        kind, shape, start = attribute_parts(message)
        form = (_form if start <= _SHORT else _form.__wrapped__)(message[:start], kind, shape)
    except (struct.error, IndexError):  # it ends early
        return None
    if form is None:
        return None
    end = start + form.size * form.items
    if len(message) < end:
        return None
    if form.letter:
        found: Sequence[Any] = struct.unpack_from(f"<{form.items}{form.letter}", message, start)
        return (list(found) if form.listed else found[0]), form
    if not form.listed:
        return _text(message[start:end], form), form
    starts = range(start, end, form.size)
    return [_text(message[at : at + form.size], form) for at in starts], form


def _text(raw: bytes, form: Form) -> str:
    return decode_text(raw.rstrip(b"\0") if form.padded else raw.partition(b"\0")[0])


def decode_text(raw: bytes) -> str:
    """Text of stored bytes: UTF-8 whatever the file declares, and Latin-1 where it is not that."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def decode_names(names: Sequence[bytes]) -> dict[str, bytes]:
    """Names by their texts, see `decode_text`; none holds a NUL."""
    try:
        texts = b"\0".join(names).decode().split("\0")
    except UnicodeDecodeError:
        texts = [decode_text(name) for name in names]
    return dict(zip(texts, names, strict=True)) if names else {}


@functools.lru_cache(maxsize=1024)
def _form(head: bytes, kind: int, space: int) -> Form | None:
    """Form of the value of an attribute by all that comes before it; None if it is not plain."""
    version, shared = head[0], head[1]
    shape = _shape(head[space:])
    if version not in VERSIONS or (shared and version > 1) or shape is None:
        return None
    (size,) = struct.unpack_from("<I", head, kind + 4)
    padding, characters = head[kind + 1] & 15, head[kind + 1] >> 4
    is_text = _class(head[kind]) == _TEXT and padding in (_TERMINATED, _PADDED)
    letter = "" if is_text else _letter(head[kind:space], size)
    if not size or not (is_text or letter):
        return None
    padded, utf8 = padding == _PADDED, characters == _UTF8
    return Form(size, math.prod(shape), letter, bool(shape), padded, utf8)


def _class(begin: int) -> int:
    """Class of a type, by its first byte; -1 where that is of no version of HDF5's."""
    return begin & 15 if begin >> 4 in _TYPES else -1


def _letter(kind: bytes, size: int) -> str:
    """Letter of `struct` for a type of values; empty for one that is not plain."""
    if _class(kind[0]) == _FLOAT:
        return _FLOATS.get(kind[1:20], "")
    plain = _class(kind[0]) == _INTEGER and kind[1] in (0, _SIGNED) and size in _CODES
    if not plain or struct.unpack_from("<HH", kind, 8) != (0, 8 * size):
        return ""
    return _CODES[size][kind[1] == _SIGNED]


def _shape(space: bytes) -> tuple[int, ...] | None:
    """Length of the one axis, or none where there is one value; None for all other shapes."""
    return _lengths(space) if space[1] <= 1 else None


def _lengths(space: bytes) -> tuple[int, ...] | None:
    """Lengths of all axes; None where there is nothing, or the message is not known."""
    version, rank, flags = space[0], space[1], space[2]
    known = version == _OLD_SHAPE or (version == _SHAPE and space[3] == min(rank, 1))
    if rank > MAX_RANK or not known or flags > _WITH_LIMITS:
        return None
    start = 8 if version == _OLD_SHAPE else 4
    said = struct.unpack_from(f"<{rank * (1 + flags)}Q", space, start)
    lengths, limits = said[:rank], said[rank:]
    return None if any(n > most for n, most in zip(lengths, limits, strict=False)) else lengths


Extent: TypeAlias = tuple[int, int]
"""Address and length of a dataset of one piece; no length if it was never written."""


class PlainDataset(NamedTuple):
    """A dataset, as its header says it."""

    header: Header
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    """Empty for one piece."""
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    """Numbers and parameters, in order of application."""
    piece: Extent
    fill: int | float | None
    """Value that is read where nothing was written, if the file says it."""


def plain_dataset(header: Header) -> PlainDataset | None:
    """A dataset by its header; None where the HDF5 library has to read it."""
    found = header.others
    if not header.is_plain or not found.keys() <= _OF_DATASETS:
        return None
    if not all(found.values()):  # a message that lies elsewhere
        return None
    if any(found[kind][0] not in _FILLS for kind in _FILL_MESSAGES[1:] if kind in found):
        return None
    try:
        shape, dtype = _lengths(found[_SHAPE_MESSAGE]), _dtype(found[_TYPE_MESSAGE])
        filters = _filters(found[_FILTERS_MESSAGE]) if _FILTERS_MESSAGE in found else ()
        if shape is None or dtype is None or filters is None:
            return None
        place = _place(found[_LAYOUT_MESSAGE], len(shape), dtype.itemsize)
        dims, fill = _dims(header, len(shape)), _fill(header, dtype)
    except (KeyError, struct.error, IndexError):
        return None
    if place is None or dims is None or fill is NotImplemented or (filters and not place[0]):
        return None
    return PlainDataset(header, shape, dims, dtype, place[0], filters, place[1], fill)


def _fill(header: Header, dtype: np.dtype[Any]) -> Any:
    """The fill value, if there is one; `NotImplemented` unless all messages say the same."""
    if not header.fills:
        return None
    first, count = header.fills[0], sum(kind in header.others for kind in _FILL_MESSAGES)
    if len(first) != dtype.itemsize or header.fills != [first] * count:
        return NotImplemented
    return np.frombuffer(first, dtype)[0].item()


def _place(layout: bytes, rank: int, itemsize: int) -> tuple[tuple[int, ...], Extent] | None:
    """Shape of the chunks, or no axes and where the one piece lies."""
    version, kind = layout[0], layout[1]
    if version == _LAYOUT and kind == _IN_ONE_PIECE:
        address, length = struct.unpack_from("<QQ", layout, 2)
        return (), (0, 0) if address == _UNDEFINED else (address, length)
    if version == _LAYOUT and kind == _IN_CHUNKS and rank and layout[2] == rank + 1:
        *chunks, size = struct.unpack_from(f"<{rank + 1}I", layout, 11)
        if size == itemsize and all(chunks):
            return tuple(chunks), (0, 0)
    return None


def _dims(header: Header, rank: int) -> tuple[str, ...] | None:
    """Names of the axes, where the header says them in fixed-length text or there are none."""
    found = header.attributes
    if not header.has_all or (b"CLASS" in found and not _is_coordinate(header)):
        return None
    if b"DIMENSION_LABELS" not in found:
        return None if b"DIMENSION_LIST" in found else ("",) * rank
    labels = decode_plain(found[_AXES][0]) if _AXES in found else NotImplemented
    if labels is NotImplemented:
        return None
    if not isinstance(labels, list) or len(labels) != rank:
        return ("",) * rank
    return unique_names([label if isinstance(label, str) else "" for label in labels])


def _is_coordinate(header: Header) -> bool:
    """True for a dimension scale with values, whose axis has a label."""
    found = header.attributes
    kind, name = (
        decode_plain(found[key][0]) if key in found else None for key in (b"CLASS", b"NAME")
    )
    labels = decode_plain(found[_AXES][0]) if _AXES in found else None
    return (
        kind == SCALE
        and isinstance(name, str)
        and not name.startswith(HIDDEN)
        and isinstance(labels, list)
        and all(labels)
    )


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of axes without those that an axis before has."""
    return tuple(["" if name in names[:axis] else name for axis, name in enumerate(names)])


@functools.lru_cache(maxsize=64)
def _dtype(kind: bytes) -> np.dtype[Any] | None:
    (size,) = struct.unpack_from("<I", kind, 4)
    letter = _letter(kind, size)
    return np.dtype(np.dtype(f"<{letter}").str) if letter else None  # not long long for int64


@functools.lru_cache(maxsize=64)
def _filters(message: bytes) -> tuple[tuple[int, tuple[int, ...]], ...] | None:
    if message[0] != 1 or message[1] > _MOST_FILTERS:
        return None
    found, position = [], 8
    for _ in range(message[1]):
        number, name, _, count = struct.unpack_from("<HHHH", message, position)
        if name % 8:
            return None
        position += 8 + name
        found.append((number, struct.unpack_from(f"<{count}I", message, position)))
        position += 4 * (count + count % 2)
    return tuple(found)
