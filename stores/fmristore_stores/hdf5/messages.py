"""Attributes as they lie in the header of an object, decoded without the HDF5 library.

The library makes four objects for each attribute that is read through it, which takes longer than
everything else about a small file. So the header is read at once, and what is of a plain type is
taken from its bytes: text of fixed length, integers and double precision, one value or a list of
them. All else is left to the library.

References
----------
Object headers: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from fmristore_stores.hdf5.dense import VERSIONS, attribute_parts

__all__ = ["decode_plain"]

_INTEGER, _FLOAT, _TEXT = 0, 1, 3
_PADDED = 1
"""Text that is followed by NUL, and need not be."""
_SIGNED = 8
_OLD_SHAPE, _SHAPE = 1, 2
"""Versions of the message that says a shape."""
_DOUBLE = bytes.fromhex("203f000800000000004000340b0034ff030000")
"""A little-endian double, behind the class of its type."""
_CODES = {1: "Bb", 2: "Hh", 4: "Ii", 8: "Qq"}
"""Letters of `struct` for integers without and with a sign, by their bytes."""


class _Form(NamedTuple):
    """How to read the value of an attribute."""

    size: int
    """Bytes of an element."""
    count: int
    letter: str
    """Of `struct`; empty for text."""
    listed: bool


def decode_plain(message: bytes) -> Any:
    """Value of an attribute, texts as bytes; `NotImplemented` where the HDF5 library has to say it.

    Parameters
    ----------
    message : bytes
        As it lies in the header of its object.
    """
    try:
        kind, shape, start = attribute_parts(message)
        form = _form(message[:start], kind, shape)
    except (struct.error, IndexError):  # it ends early
        return NotImplemented
    if form is None:
        return NotImplemented
    size, count, letter, listed = form
    end = start + size * count
    if len(message) < end:
        return NotImplemented
    if letter:
        found: Sequence[Any] = struct.unpack_from(f"<{count}{letter}", message, start)
        return list(found) if listed else found[0]
    if not listed:
        return message[start:end].rstrip(b"\0")
    return [message[at : at + size].rstrip(b"\0") for at in range(start, end, size)]


@functools.lru_cache(maxsize=1024)
def _form(head: bytes, kind: int, space: int) -> _Form | None:
    """Form of the value of an attribute by all that comes before it; None if it is not plain."""
    version, shared = head[0], head[1]
    shape = _shape(head[space:])
    if version not in VERSIONS or (shared and version > 1) or shape is None:
        return None
    (size,) = struct.unpack_from("<I", head, kind + 4)
    is_text = head[kind] & 15 == _TEXT and head[kind + 1] & 15 == _PADDED
    letter = "" if is_text else _letter(head[kind:space], size)
    if not size or not (is_text or letter):
        return None
    return _Form(size, math.prod(shape), letter, bool(shape))


def _letter(kind: bytes, size: int) -> str:
    """Letter of `struct` for a type of values; empty for one that is not plain."""
    if kind[0] & 15 == _FLOAT:
        return "d" if kind.startswith(_DOUBLE, 1) else ""
    plain = kind[0] & 15 == _INTEGER and kind[1] in (0, _SIGNED) and size in _CODES
    if not plain or struct.unpack_from("<HH", kind, 8) != (0, 8 * size):
        return ""
    return _CODES[size][kind[1] == _SIGNED]


def _shape(space: bytes) -> tuple[int, ...] | None:
    """Length of the one axis, or none where there is one value; None for all other shapes."""
    version, rank = space[0], space[1]
    if rank > 1 or not (version == _OLD_SHAPE or (version == _SHAPE and space[3] == rank)):
        return None
    return struct.unpack_from("<Q", space, 8 if version == _OLD_SHAPE else 4) if rank else ()
