"""Attributes that lie outside the header of their object, in a "fractal heap" of HDF5.

Objects with more than eight attributes, or with large ones, have them there in files of newer
versions. The heap is walked here, so that lengths that their elements claim can be looked at before
the HDF5 library takes memory for them. An attribute is found by its name among the bytes, wherever
an index may say that it begins.

References
----------
Fractal heaps and B-trees: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from fmristore_stores.errors import CorruptDataError, MemoryLimitError

__all__ = [
    "VERSIONS",
    "Read",
    "attribute_name",
    "attribute_parts",
    "dense_blocks",
    "dense_values",
    "padded",
]

_MOST_BYTES = 64 * 1024 * 1024
"""Of one heap, without values of its large objects."""
_MOST_BLOCKS = 1 << 16
_UNDEFINED = 0xFF
VERSIONS = (1, 2, 3)
"""Of the message that is an attribute."""
_COMMITTED = 1
"""Flag of an attribute whose type lies elsewhere."""
_WITH_LENGTHS = (9, 10)
"""Classes of types: of variable length, and arrays."""
_HUGE = (1, 2)
"""Kinds of B-trees that list large objects: by a number of theirs, plain or encoded."""

_LARGEST_HEAD = 9 + 3 * 65536
"""Bytes of an attribute before its value."""
_LEAST = 1024
"""Bytes that a place is counted as where an attribute may begin: there are few in whole files."""
_FEW = 64
"""Places of a name that are looked at one by one."""
_MOST_OF_NAME = 65535
_COMPARED = 256
"""Bytes of a name in a regular expression, which takes much memory for more."""
_TOO_LARGE = f"the attributes of an object take more than {_MOST_BYTES} bytes"
_DAMAGED = "the attributes outside the header of an object are damaged"

Read = Callable[[int, int], bytes]
"""Some bytes of a file, from an address on; fewer at its end."""


_HEAD = struct.Struct("<BxHHH")


def attribute_name(data: bytes) -> tuple[bytes, bool]:
    """Name of an attribute message; whether it is as long as it says, as HDF5 wants it."""
    version, length, _, _ = _HEAD.unpack_from(data)
    start = 9 if version == 3 else 8
    name = data[start : start + length].partition(b"\0")[0]
    return name, len(name) + 1 == length


def attribute_parts(data: bytes, at: int = 0) -> tuple[int, int, int]:
    """Offsets of type, shape and value of an attribute message, the value perhaps with more."""
    version, name, kind, shape = _HEAD.unpack_from(data, at)
    if version == 1:  # each begins at a multiple of eight
        name, kind, shape = name + 7 & ~7, kind + 7 & ~7, shape + 7 & ~7
    start = at + (9 if version == 3 else 8) + name
    return start, start + kind, start + kind + shape


def padded(size: int) -> int:
    """Bytes that something takes where each begins at a multiple of eight."""
    return (size + 7) // 8 * 8


def dense_blocks(
    read: Read, address: int, most: int, base: int, widths: tuple[int, int]
) -> list[bytes]:
    """Blocks of a fractal heap in which attributes lie, and the beginnings of large ones.

    Parameters
    ----------
    read : callable
        Reads bytes of the file.
    address : int
        Of the heap.
    most : int
        Bytes of a value that are wanted.
    base : int
        What is added to all addresses in the file.
    widths : tuple of int
        Bytes of an address and of a length in the file.

    Raises
    ------
    CorruptDataError
        If it is no such heap.
    MemoryLimitError
        If it is larger than attributes can be.
    """
    try:
        return list(_blocks(_File(read, base, *widths), address, _LARGEST_HEAD + most))
    except (struct.error, IndexError) as error:
        raise CorruptDataError(_DAMAGED) from error


def dense_values(blocks: Iterable[bytes], name: bytes, most: int) -> list[bytes]:
    """Values of all that may be the attribute of a name in some blocks.

    Parameters
    ----------
    blocks : iterable of bytes
        As `dense_blocks` returns them.
    name : bytes
        Of the attribute, whose elements are of variable length.
    most : int
        Bytes of a value.

    Returns
    -------
    list of bytes
        Values, perhaps also of attributes that were removed.

    Raises
    ------
    CorruptDataError
        If it is damaged.
    MemoryLimitError
        If there are more than a heap can have.
    """
    found: list[bytes] = []
    taken = 0
    try:
        for block in blocks:
            for start in _starts(block, name):
                taken += _LEAST
                if taken > _MOST_BYTES:
                    raise MemoryLimitError(_TOO_LARGE)
                kind_at, _, value_at = attribute_parts(block, start)
                kind = block[kind_at] & 15
                if not block[start + 1] & _COMMITTED and kind not in _WITH_LENGTHS:
                    continue
                value = block[value_at : value_at + most]
                taken += len(value)
                if len(value) == most:
                    found.append(value)
    except (struct.error, IndexError) as error:
        raise CorruptDataError(_DAMAGED) from error
    return found


def _starts(block: bytes, name: bytes) -> Iterator[int]:
    """Offsets where an attribute of a name may begin; perhaps one of them more than once."""
    at = block.find(name)
    for _ in range(_FEW):
        if at < 0:
            return
        for start in (at - 8, at - 9):  # since version 3 the character set stands before the name
            if start >= 0 and _is_attribute(block, start, at - start, len(name)):
                yield start
        at = block.find(name, at + 1)
    if at >= 0 and len(name) < _MOST_OF_NAME:
        for match in _pattern(name).finditer(block, max(0, at - 9)):
            start = match.start() - 2
            if block.startswith(name, start + (9 if block[start] == 3 else 8)):
                yield start


def _is_attribute(block: bytes, start: int, room: int, length: int) -> bool:
    """True if an attribute may begin somewhere, `room` bytes before a name of that length."""
    version, flags, named = struct.unpack_from("<BBH", block, start)
    return (
        version in VERSIONS
        and room == (9 if version == 3 else 8)
        and flags < 4
        and named == length + 1
    )


def _pattern(name: bytes) -> re.Pattern[bytes]:
    """Find the third byte of all that `_is_attribute` is true for: others may begin behind it.

    A loop would take minutes where the name is there millions of times. It takes longer to make
    than most blocks to search.
    """
    low, high = (re.escape(bytes([byte])) for byte in struct.pack("<H", len(name) + 1))
    text = re.escape(name[:_COMPARED])
    old = rb"(?<=[\x01\x02][\x00-\x03]%b)(?=.{5}%b)" % (low, text)
    new = rb"(?<=\x03[\x00-\x03]%b)(?=.{6}%b)" % (low, text)
    return re.compile(rb"%b(?=%b)(?:%b|%b)" % (low, high, old, new), re.DOTALL)


@dataclass(slots=True)
class _File:
    """Bytes of a file, by addresses in it."""

    read: Read
    base: int
    wide: int
    narrow: int
    taken: int = 0
    blocks: int = 0

    def at(self, address: int, length: int) -> bytes:
        """Bytes at an address, all of them."""
        self.taken += length
        self.blocks += 1
        if self.taken > _MOST_BYTES or self.blocks > _MOST_BLOCKS:
            raise MemoryLimitError(_TOO_LARGE)
        data = self.read(self.base + address, length)
        if len(data) < length:
            raise CorruptDataError(_DAMAGED)
        return data

    def is_address(self, raw: bytes) -> bool:
        """Return whether an address is defined."""
        return any(byte != _UNDEFINED for byte in raw)


class _Fields:
    """Numbers of some bytes, one after the other."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position

    def raw(self, width: int) -> bytes:
        """The next bytes."""
        self._position += width
        found = self._data[self._position - width : self._position]
        if len(found) < width:
            raise CorruptDataError(_DAMAGED)
        return found

    def number(self, width: int) -> int:
        """The next bytes as a number."""
        return int.from_bytes(self.raw(width), "little")


def _blocks(file: _File, address: int, most: int) -> Iterator[bytes]:
    """Blocks of a heap that hold objects, and of its large objects the first bytes."""
    wide, narrow = file.wide, file.narrow
    size = 22 + 12 * narrow + 3 * wide
    head = file.at(address, size)
    if head[:4] != b"FRHP":
        raise CorruptDataError(_DAMAGED)
    fields = _Fields(head, 7)
    if fields.number(2):
        msg = "the attributes outside the header of an object are encoded, which HDF5 never does"
        raise CorruptDataError(msg)
    fields.raw(5 + narrow)
    huge = fields.raw(wide)
    fields.raw(narrow + wide + 8 * narrow)
    width = fields.number(2)
    start, largest = fields.number(narrow), fields.number(narrow)
    offset = (fields.number(2) + 7) // 8
    fields.raw(2)
    root, rows = fields.raw(wide), fields.number(2)
    table = _Table(width, start, largest, 5 + wide + offset)
    if file.is_address(root):
        where = int.from_bytes(root, "little")
        yield from _indirect(file, where, rows, table) if rows else [file.at(where, start)]
    if file.is_address(huge):
        for place, length in _large(file, int.from_bytes(huge, "little")):
            yield file.at(place, min(length, most))


@dataclass(frozen=True, slots=True)
class _Table:
    """Sizes of the blocks of a heap, which double row by row."""

    width: int
    start: int
    largest: int
    head: int
    """Bytes before the addresses in a block of blocks."""

    def size(self, row: int) -> int:
        """Bytes of a block in a row."""
        return self.start << max(0, row - 1)

    def rows(self, size: int) -> int:
        """Rows of a block of blocks that stands for so many bytes."""
        return (size // (self.start * self.width)).bit_length()


def _indirect(file: _File, address: int, rows: int, table: _Table) -> Iterator[bytes]:
    """Blocks that a block of blocks lists, and those below."""
    pending = [(address, rows)]
    while pending:
        where, rows = pending.pop()
        if rows > 64 or not table.start:
            raise CorruptDataError(_DAMAGED)
        length = table.head + rows * table.width * file.wide
        listed = _Fields(file.at(where, length), table.head)
        for row in range(rows):
            size = table.size(row)
            for _ in range(table.width):
                raw = listed.raw(file.wide)
                if not file.is_address(raw):
                    continue
                if size <= table.largest:
                    yield file.at(int.from_bytes(raw, "little"), size)
                else:
                    pending.append((int.from_bytes(raw, "little"), table.rows(size)))


def _large(file: _File, address: int) -> Iterator[tuple[int, int]]:
    """Address and length of each large object that a B-tree lists."""
    head = file.at(address, 16 + file.wide + 2 + file.narrow)
    if head[:4] != b"BTHD" or head[5] not in _HUGE:
        raise CorruptDataError(_DAMAGED)
    fields = _Fields(head, 6)
    node, record, depth = fields.number(4), fields.number(2), fields.number(2)
    fields.raw(2)
    root, count = fields.raw(file.wide), fields.number(2)
    if not record or node < 16 or depth > 16:
        raise CorruptDataError(_DAMAGED)
    shapes = _shapes(node, record, depth, file.wide)
    pending = [(int.from_bytes(root, "little"), count, depth)] if count else []
    while pending:
        where, count, level = pending.pop()
        listed = _Fields(file.at(where, node), 6)
        for _ in range(count):
            fields = _Fields(listed.raw(record), 0)
            yield fields.number(file.wide), fields.number(file.narrow)
        for _ in range(count + 1 if level else 0):
            child = listed.number(file.wide)
            pending.append((child, listed.number(shapes[level][0]), level - 1))
            listed.raw(shapes[level][1])


def _shapes(node: int, record: int, depth: int, wide: int) -> list[tuple[int, int]]:
    """Bytes of the counts beside the address of a child, by level: its records, and all below."""
    most = (node - 10) // record
    total, width = most, (most.bit_length() + 7) // 8
    shapes = [(0, 0)]
    below = 0
    for _ in range(depth):
        shapes.append((width, below))
        here = (node - 10 - (wide + width + below)) // (record + wide + width + below)
        total = (here + 1) * total + here
        below = (total.bit_length() + 7) // 8
    return shapes
