"""Lengths that elements in global heaps claim, compared with the file before HDF5 reads them.

An element of variable length is stored as its length and a place in a global heap. The HDF5 library
takes memory for the length, up to 4 GiB, and clears it, before it looks whether the heap has so
much. So the bytes of such elements are looked at here first: those of attributes, fill values and
compact datasets lie in the header of their object, or in a heap that it names
(`fmristore_stores.hdf5.dense`), others where the chunks are.

References
----------
Object headers: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from fmristore_stores.errors import CorruptDataError, MemoryLimitError
from fmristore_stores.hdf5.dense import Read, attribute_name
from fmristore_stores.limits import LIMITS

__all__ = ["Header", "check_lengths", "element_size", "read_header"]

_FILL_OLD, _FILL, _LAYOUT, _ATTRIBUTE, _CONTINUATION = 0x04, 0x05, 0x08, 0x0C, 0x10
_ATTRIBUTE_INFO = 0x15
_RAW = frozenset({_FILL_OLD, _FILL, _LAYOUT, _ATTRIBUTE_INFO})
_SHARED = 2
"""Flag of a message that lies elsewhere."""
_WINDOW = 512
"""Bytes that are read at once, with which most headers begin."""
_MOST_BLOCKS = 4096
_MOST_BYTES = 64 * 1024 * 1024
"""Of one object header; an honest one has some kilobytes."""
_MOST_KEPT = 1 << 20
"""Bytes of one that is kept with a dataset."""


@dataclass(slots=True)
class Header:
    """Raw values that lie in the header of an object.

    Parameters
    ----------
    attributes : dict of bytes to list of bytes
        Messages that are attributes, by name; a file may have several of one name.
    fills : list of bytes
        The fill value, in each of the forms in which it is there.
    compact : list of bytes
        Values of a dataset that lie in the header; empty if they lie elsewhere.
    heaps : list of int
        Addresses of the heap of attributes that lie outside the header.
    has_all : bool
        Whether all attributes of the object lie in the header, each with a name of its own.
    others : dict of int to bytes
        The other messages by their types; empty where there are several, or it lies elsewhere.
    is_plain : bool
        Whether the header has no checksums, which HDF5 would compare, and addresses of eight bytes
        that count from the beginning of the file.
    size : int
        Bytes that it takes in the file.
    """

    attributes: dict[bytes, list[bytes]] = field(default_factory=dict)
    fills: list[bytes] = field(default_factory=list)
    compact: list[bytes] = field(default_factory=list)
    heaps: list[int] = field(default_factory=list)
    has_all: bool = False
    others: dict[int, bytes] = field(default_factory=dict)
    is_plain: bool = False
    size: int = 0


def element_size(width: int) -> int:
    """Bytes that an element of variable length takes where it is stored.

    Parameters
    ----------
    width : int
        Bytes of an address in the file.
    """
    return 8 + width


def check_lengths(
    raw: bytes | memoryview, count: int, width: int, most: int, unit: int = 1
) -> None:
    """Check what elements of variable length claim.

    Parameters
    ----------
    raw : bytes
        Of the elements as they are stored; what follows them is ignored.
    count : int
        How many there are.
    width : int
        Bytes of an address in the file.
    most : int
        Bytes that none can have more of: those of the file.
    unit : int
        Bytes of what a length counts.

    Raises
    ------
    CorruptDataError
        If one claims more, or some are missing.
    MemoryLimitError
        If one is longer than ``LIMITS.text``.
    """
    size = element_size(width)
    most //= max(1, unit)
    if (
        count == 1
        and unit == 1
        and len(raw) >= size
        and int.from_bytes(raw[:4], "little") <= most <= LIMITS.text
    ):
        return
    if len(raw) < count * size:
        raise CorruptDataError("elements of variable length are missing")
    table = np.frombuffer(raw, np.uint8, count * size).reshape(count, size)
    lengths = np.ascontiguousarray(table[:, :4]).view("<u4")
    if (lengths > most).any():
        msg = f"an element of variable length claims {lengths.max()} of the file's {most} bytes"
        raise CorruptDataError(msg)
    if (lengths > LIMITS.text // max(1, unit)).any():
        longest = int(lengths.max()) * unit
        msg = f"a text of {longest} bytes is longer than the {LIMITS.text} that are allowed"
        raise MemoryLimitError(msg)


def read_header(read: Read, address: int, base: int, widths: tuple[int, int]) -> Header:
    """Read the header of an object.

    Parameters
    ----------
    read : callable
        Reads bytes of the file.
    address : int
        Of the header.
    base : int
        What is added to all addresses in the file.
    widths : tuple of int
        Bytes of an address and of a length in the file.

    Raises
    ------
    CorruptDataError
        If it is no object header.
    """
    header, is_whole = Header(), True
    attributes, others = header.attributes, header.others
    try:
        messages, is_old, header.size = _messages(read, address, base, widths)
        for kind, flags, data in messages:
            shared = flags & _SHARED
            if kind != _ATTRIBUTE:
                others[kind] = b"" if shared or kind in others else data
                if kind in _RAW and not shared:
                    _take_raw(header, kind, data, widths[0])
            elif shared:
                is_whole = False
            else:
                name, is_name = attribute_name(data)
                if name in attributes or not is_name:
                    is_whole = False
                    attributes.setdefault(name, []).append(data)
                else:
                    attributes[name] = [data]
    except (struct.error, IndexError) as error:
        raise CorruptDataError("the header of an object is damaged") from error
    header.has_all = is_whole and not header.heaps
    header.is_plain = is_old and widths == (8, 8) and not base
    return header


def _take_raw(header: Header, kind: int, data: bytes, width: int) -> None:
    """Take the value of a message that has one, or says where it lies."""
    if kind == _LAYOUT:
        header.compact.extend(filter(None, [_compact(data)]))
    elif kind == _ATTRIBUTE_INFO:
        header.heaps.extend(_heap(data, width))
    else:
        header.fills.extend(filter(None, [_fill(kind, data)]))


def _messages(
    read: Read, address: int, base: int, widths: tuple[int, int]
) -> tuple[list[tuple[int, int, bytes]], bool, int]:
    """Type, flags and data of the messages of a header; whether it is a whole old one; its size."""
    found: list[tuple[int, int, bytes]] = []
    begin, expected, count = read(base + address, _WINDOW), -1, 0
    if begin[:4] == b"OHDR":
        flags = begin[5]
        start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(begin[start : start + width], "little")
        blocks = [(address + start + width, size)]
        head, trim = "<BHB" + ("2x" if flags & 4 else ""), 4
    else:
        expected = int.from_bytes(begin[2:4], "little") if begin[:1] == b"\x01" else -1
        blocks = [(address + 16, *struct.unpack_from("<I", begin, 8))]
        head, trim = "<HHB3x", 0
    unpack, room = struct.Struct(head).unpack_from, struct.calcsize(head)
    taken, take = 0, found.append
    for number, (where, size) in enumerate(blocks):  # which grow meanwhile
        taken += size
        if number > _MOST_BLOCKS or taken > _MOST_BYTES:
            raise CorruptDataError("the header of an object does not end")
        here = where - address
        if 0 <= here <= len(begin) - size:
            block = begin[here : here + size]
        else:
            block = read(base + where, size)
        position, last = 0, len(block) - room
        while position <= last:
            kind, length, flags = unpack(block, position)
            start = position + room
            position = start + length
            count += 1
            if kind == _CONTINUATION:
                data, (wide, narrow) = block[start:position], widths
                offset = int.from_bytes(data[:wide], "little")
                extent = int.from_bytes(data[wide : wide + narrow], "little")
                blocks.append((offset + trim, max(0, extent - 2 * trim)))
            elif kind:  # others are room that is free
                take((kind, flags, block[start:position]))
    return found, count == expected and taken <= _MOST_KEPT, taken


def _heap(data: bytes, wide: int) -> list[int]:
    """Address of the heap that a message names, if there is one."""
    start = 4 if data[1] & 1 else 2
    raw = data[start : start + wide]
    return [] if raw == b"\xff" * wide else [int.from_bytes(raw, "little")]


def _fill(kind: int, data: bytes) -> bytes:
    if kind == _FILL_OLD:
        position = 0
    elif data[0] == 3:
        position = 2 if data[1] & 0x20 else -1
    else:
        position = 4 if data[0] == 1 or data[3] else -1
    if position < 0 or len(data) < position + 4:
        return b""
    (size,) = struct.unpack_from("<i", data, position)
    return data[position + 4 : position + 4 + size] if size > 0 else b""


def _compact(data: bytes) -> bytes:
    if data[0] not in (3, 4) or data[1] != 0:
        return b""
    (size,) = struct.unpack_from("<H", data, 2)
    return data[4 : 4 + size]
