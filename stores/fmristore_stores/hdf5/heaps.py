"""Global heaps of HDF5 files: looked at before the library reads them.

Text of any length, lists of references and the like lie in "global heap collections": blocks of
objects, each with its length before it. The library walks a collection without checking that the
lengths lead onwards, and never ends where one does not (HDF5 2.0.0), with h5py's lock in its
hands. So whatever has such elements is read through a second handle of the same file, whose bytes
pass through Python: a block that is a collection is walked here first. Files without such elements
never get a second handle.

References
----------
Global heap: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
from h5py import h5g, h5r, h5t

from fmristore_stores.errors import CorruptDataError, MetadataError
from fmristore_stores.hdf5.dense import Read, attribute_parts, dense_blocks, dense_values, padded
from fmristore_stores.hdf5.lengths import Header, check_lengths, element_size, read_header
from fmristore_stores.io.alive import AliveSet

__all__ = [
    "Heaps",
    "check_all_heaps",
    "check_properties",
    "checked",
    "checked_attribute",
    "has_lengths",
    "is_nested",
    "reading_attributes",
    "uses_heap",
]

_SIGNATURE = b"GCOL"
_VERSIONED = _SIGNATURE + b"\x01\x00\x00\x00"
_SUPERBLOCK = b"\x89HDF\r\n\x1a\n"
_LAST_SUPERBLOCK = 4096 + 8
_MOST_OBJECTS = 1 << 16
"""Objects of a collection: they are numbered with 16 bits."""
_STEP = 1 << 20
"""Bytes of a mapped file that are looked at before they are let go."""
_WINDOW = 4096
_MOST_HEADERS = 32
"""Short headers of objects that are kept, besides the last one."""
_MOST_KEPT = 4 * 1024 * 1024
"""Bytes of attributes of an object that are kept, to look for the next one."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """Blocks of a heap of attributes, with `most` bytes of the values of large ones."""

    address: int
    most: int
    blocks: list[bytes]

    def fits(self, address: int, most: int) -> bool:
        """Return whether they are of a heap, and hold values of so many bytes."""
        return self.address == address and self.most >= most


class _Large(threading.local):
    """Blocks of a large heap and its file, kept while a thread reads attributes of one object."""

    depth = 0
    heap: tuple[Heaps | None, _Kept | None] = (None, None)

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.heap = None, None


_large = _Large()


def reading_attributes() -> AbstractContextManager[None]:
    """A context in which attributes of one object are read one after the other."""
    return _large


class Heaps:
    """The second handle of a file that is read, opened when it is needed.

    Parameters
    ----------
    file : h5py.File
        The first handle.
    url : str
        Name of the file in messages.
    opener : callable, optional
        Gives a file object with ``seek``, ``tell``, ``read`` and ``readinto`` for its bytes. None
        for a file that is changed: all its collections were walked before, see `check_all_heaps`.
    read : callable, optional
        Reads some bytes of it, from any thread; without it lengths are not checked.
    """

    def __init__(
        self, file: Any, url: str, opener: Callable[[], Any] | None, read: Read | None = None
    ) -> None:
        self._read = read
        self._last: tuple[int, Header] | None = None
        self._recent: dict[int, Header] = {}
        self._fixed_size: int | None = None
        self._heap: _Kept | None = None
        self._file = file
        self._url = url
        self._opener = opener
        self._second: Any = None
        self._lock = threading.Lock()
        self._closed = False
        self._number = self._second_number = -1
        _open.add(self)

    def is_of(self, number: int) -> bool:
        """Return whether this is the file to which HDF5 gave a number when it was opened."""
        if self._number < 0:
            try:
                self._number = _number(self._file.id)
            except (ValueError, RuntimeError):  # it was closed meanwhile
                return False
        return number in (self._number, self._second_number)

    def reopen(self, node: Any) -> Any:
        """The same object through the second handle; the object itself if there can be none."""
        if self._opener is None:
            return node
        with self._lock:
            if self._second is None and not self._closed:
                width = int(self._file.id.get_create_plist().get_sizes()[1])
                checking = _CheckedFile(self._opener(), self._url, width)
                self._second = h5py.File(checking, "r")
                self._second_number = _number(self._second.id)
            second = self._second
        if _number(node) == self._second_number:
            return node
        return h5r.dereference(h5r.create(node, b".", h5r.OBJECT), second.id)

    @cached_property
    def _sizes(self) -> tuple[int, tuple[int, int]]:
        """Offset of all addresses, and bytes of an address and of a length."""
        plan = self._file.id.get_create_plist()
        return int(plan.get_userblock()), plan.get_sizes()

    @property
    def _size(self) -> int:
        """Bytes of the file."""
        if self._fixed_size is None or self._opener is None:
            self._fixed_size = int(self._file.id.get_filesize())
        return self._fixed_size

    def header(self, node: Any, name: bytes = b".") -> Header | None:
        """Raw values in the header of an open object, or of a hard-linked child of a group.

        None where they cannot be read.
        """
        read = self._read
        if read is None:
            return None
        low, high = h5g.get_objinfo(node, name).objno
        address, last = low | high << 32, self._last
        if self._opener is None:
            self._file.flush()
        elif last is not None and last[0] == address:
            return last[1]
        elif (known := self._recent.get(address)) is not None:
            return known
        base, widths = self._sizes
        header = read_header(self._inside, address, base, widths)
        self._last = address, header
        if header.size <= _WINDOW:
            if len(self._recent) >= _MOST_HEADERS:
                self._recent.clear()
            self._recent[address] = header
        return header

    def _inside(self, at: int, length: int) -> bytes:
        """Bytes of the file, fewer at its end."""
        size = self._size
        return self._read(at, min(length, size - at)) if self._read and at < size else b""

    def values(self, node: Any, name: bytes, count: int) -> list[bytes]:
        """Stored elements of an attribute, and all that may be them."""
        header = self.header(node)
        if header is None:
            return []
        found = [
            message[attribute_parts(message)[2] :] for message in header.attributes.get(name, ())
        ]
        most = count * element_size(self._sizes[1][0])
        for address in header.heaps:
            found += dense_values(self._blocks(address, most), name, most)
        return found

    def _blocks(self, address: int, most: int) -> list[bytes]:
        """Blocks of a heap of attributes; the last one is kept while a file is read.

        If it is large, it is kept while attributes of one object are read.
        """
        if self._opener is None:
            return dense_blocks(self._inside, address, most, *self._sizes)
        kept, (file, large) = self._heap, _large.heap  # each read once: other threads change it
        if kept is not None and kept.fits(address, most):
            return kept.blocks
        if large is not None and file is self and large.fits(address, most):
            return large.blocks
        rounded = 1 << (max(most, _WINDOW) - 1).bit_length()  # attributes of other lengths follow
        most = rounded if rounded <= _MOST_KEPT else most
        blocks = dense_blocks(self._inside, address, most, *self._sizes)
        if sum(map(len, blocks)) <= _MOST_KEPT:
            self._heap = _Kept(address, most, blocks)
        elif _large.depth:
            _large.heap = self, _Kept(address, most, blocks)
        return blocks

    def check(self, raw: bytes, count: int, unit: int = 1) -> None:
        """Check the lengths that some elements claim, see `check_lengths`."""
        check_lengths(raw, count, self._sizes[1][0], self._size, unit)

    @property
    def looks(self) -> bool:
        """True if bytes of the file can be looked at."""
        return self._read is not None

    @property
    def opened(self) -> bool:
        """True if there is a second handle."""
        return self._second is not None

    def close(self) -> None:
        """Close the second handle, if there is one."""
        with self._lock:
            self._closed = True
            second, self._second = self._second, None
        _open.discard(self)
        if second is not None:
            second.close()


_open: AliveSet[Heaps] = AliveSet()
"""Files that are read."""


def _number(node: Any) -> int:
    low, high = h5g.get_objinfo(node, b".").fileno
    return int(low | high << 32)


def checked(node: Any) -> Any:
    """The object to read elements in global heaps from; the same one in files that are written.

    Parameters
    ----------
    node : h5py.h5g.GroupID, h5py.h5d.DatasetID or another object
        Open in a file.
    """
    heaps = _heaps_of(node)
    return node if heaps is None else heaps.reopen(node)


def _heaps_of(node: Any) -> Heaps | None:
    number = _number(node)
    return next((heaps for heaps in list(_open) if heaps.is_of(number)), None)


def checked_attribute(node: Any, name: bytes, kind: Any, count: int) -> Any:
    """As `checked`, after a look at the lengths that elements of an attribute claim.

    Parameters
    ----------
    node : h5py.h5g.GroupID, h5py.h5d.DatasetID or another object
        Open in a file; nothing is checked in one that was just made.
    name : bytes
        Of the attribute.
    kind : h5py.h5t.TypeID
        Its type.
    count : int
        Number of its elements, those of arrays in it too.

    Raises
    ------
    CorruptDataError
        If one claims more than the file has.
    MetadataError
        If the attribute is shared by objects, so that it cannot be looked at.
    """
    heaps = _heaps_of(node)
    if heaps is None:
        return node
    if count and has_lengths(kind):
        found = heaps.values(node, name, count)
        for raw in found:
            heaps.check(raw, count, _unit(kind))
        if not found and heaps.looks:
            msg = (
                f"the value of the attribute {name.decode(errors='replace')!r} is shared by "
                "objects, and not read: a copy by h5repack has it in each of them"
            )
            raise MetadataError(msg)
    return heaps.reopen(node)


def check_properties(node: Any, count: int) -> None:
    """Check the lengths that the fill value of a dataset and values in its header claim.

    Parameters
    ----------
    node : h5py.h5d.DatasetID
        With elements of variable length.
    count : int
        Number of its elements.

    Raises
    ------
    CorruptDataError
        If one claims more than the file has.
    """
    heaps = _heaps_of(node)
    header = None if heaps is None else heaps.header(node)
    if heaps is not None and header is not None:
        for fill in header.fills:
            heaps.check(fill, 1)
        for values in header.compact:
            heaps.check(values, count)


def has_lengths(kind: Any) -> bool:
    """Return whether elements of an HDF5 type are of variable length, or arrays of such."""
    while kind.get_class() == h5t.ARRAY:
        kind = kind.get_super()
    variable = isinstance(kind, h5t.TypeStringID) and kind.is_variable_str()
    return bool(variable or kind.get_class() == h5t.VLEN)


def is_nested(kind: Any) -> bool:
    """Return whether what elements of variable length hold may lie in global heaps itself."""
    return kind.get_class() == h5t.VLEN and uses_heap(kind.get_super())


def _unit(kind: Any) -> int:
    """Bytes of what lengths of elements count."""
    while kind.get_class() == h5t.ARRAY:
        kind = kind.get_super()
    return int(kind.get_super().get_size()) if kind.get_class() == h5t.VLEN else 1


def uses_heap(kind: Any) -> bool:
    """Return whether elements of an HDF5 type lie in global heaps."""
    if isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID):
        return False
    if isinstance(kind, h5t.TypeStringID):
        return bool(kind.is_variable_str())
    return bool(kind.detect_class(h5t.VLEN) or kind.detect_class(h5t.REFERENCE))


class _CheckedFile:
    """A file object for h5py that walks each global heap collection before HDF5 gets it."""

    def __init__(self, file: Any, url: str, width: int) -> None:
        self._file = file
        self._url = url
        self._width = width
        self._checked: set[int] = set()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position, and return it."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Current position."""
        return int(self._file.tell())

    def read(self, size: int = -1) -> bytes:
        """Bytes from the current position on."""
        return bytes(self._file.read(size))

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current position on."""
        start = self.tell()
        count = int(self._file.readinto(buffer))
        view = memoryview(buffer).cast("B")
        if bytes(view[:4]) == _SIGNATURE and start not in self._checked:
            problem = _problem(self._at, start, self._width)
            if problem is not None:
                raise CorruptDataError(f"{problem} (at byte {start})", url=self._url)
            self._checked.add(start)
            self.seek(start + count)
        return count

    def _at(self, offset: int, length: int) -> bytes:
        self.seek(offset)
        return self.read(length)


def check_all_heaps(path: str, url: str) -> None:
    """Walk every global heap collection of a local file that is going to be changed.

    Parameters
    ----------
    path : str
        The file.
    url : str
        Its name in messages.

    Raises
    ------
    CorruptDataError
        If one is damaged.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - a path of the file system as it is
        if not file.seek(0, 2):
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            width = _width(data)
            start = _next(data, 0)
            while start >= 0:
                problem = _problem(lambda at, length: data[at : at + length], start, width)
                if problem is not None:
                    raise CorruptDataError(f"{problem} (at byte {start})", url=url)
                start = _next(data, start + 8)


def _next(data: mmap.mmap, start: int) -> int:
    """Offset of the next collection, or -1; the pages that were looked at are let go."""
    while start < len(data):
        found = data.find(_VERSIONED, start, start + _STEP + len(_VERSIONED) - 1)
        if found >= 0:
            return found
        start += _STEP
        if hasattr(mmap, "MADV_DONTNEED"):
            data.madvise(mmap.MADV_DONTNEED)
    return -1


def _width(data: mmap.mmap) -> int:
    """Bytes that a length takes in a file, by its superblock."""
    start = max(data.find(_SUPERBLOCK, 0, _LAST_SUPERBLOCK), 0)
    found = data[start + 8 : start + 15]
    width = found[6 if found[:1] < b"\x02" else 2] if len(found) == 7 else 8
    return width if width in (2, 4, 8) else 8


def _problem(read: Read, start: int, width: int) -> str | None:
    """Fault of the collection at an offset; None if its objects fill it in order."""
    header = padded(8 + width)  # of the collection, and of each of its objects
    size = int.from_bytes(read(start, 8 + width)[8:], "little")
    position, window, begin = header, b"", 0
    for _ in range(_MOST_OBJECTS + 1):
        if position + header > size:
            return None
        if not begin <= position <= begin + len(window) - header:
            begin, window = position, read(start + position, min(_WINDOW, size - position))
        item = window[position - begin : position - begin + header]
        if len(item) < header:
            return "a global heap collection reaches beyond the end of the file"
        number = int.from_bytes(item[:2], "little")
        length = int.from_bytes(item[8 : 8 + width], "little")
        needed = header + padded(length) if number else length
        if needed < header or position + needed > size:
            return "the objects of a global heap collection do not fit into it"
        position += needed
    return "a global heap collection has more objects than can be numbered"
