"""Opening HDF5 files, closing them in time, and saying in our own errors what went wrong."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import h5py
from h5py import h5f, h5p

from fmristore_stores.blockfile import BlockFile
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    CorruptDataError,
    FmristoreError,
    MemoryLimitError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.hdf5_heaps import Heaps, check_all_heaps
from fmristore_stores.sources import ByteSource, storage_error
from fmristore_stores.spec import Attributes, copy_attributes

__all__ = ["Mode", "Place", "Session", "Translated", "near_names", "open_file"]

Mode = Literal["r", "r+", "w"]

_LIBRARY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, OverflowError, MemoryError)
"""What h5py raises when the HDF5 library fails."""

_NO_LOCK = "unable to lock"
"""Part of HDF5's message when a file cannot be locked."""
_IN_USE = (_NO_LOCK, "already open", "t match")
"""Parts of its messages when the file is open elsewhere, or here for another purpose."""

_PAGE_BUFFER = 16 * 1024 * 1024
_METADATA_BLOCK = 64 * 1024
"""Metadata are written in blocks of this size. Scattered through the file as HDF5 does by itself,
the chunk table of a large array would take a request for each node on object storage."""
_SMALL_BLOCK = 16 * 1024
_SMALL_BLOCKS = 32
"""What a second handle of a local file keeps of it."""
_MOST_REMEMBERED = 256
"""Nodes whose attributes are kept in memory while a file is read."""
_LARGEST_PAGE = 64 * 1024 * 1024
"""A file that asks for larger pages is read without a page buffer."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the first name of an object with several names stands."""

    group: int
    """Address of the group that holds the name."""
    name: bytes
    path: str


@dataclass(slots=True, eq=False, weakref_slot=True)
class Session:
    """One opened file, shared by all handles that came from it.

    Parameters
    ----------
    url : str
        Name of the store in messages.
    path : str
        Name of the file in byte ranges.
    h5 : h5py.File
        The open file.
    writable : bool
        Whether it may be changed.
    source : ByteSource, optional
        Where bytes of chunks come from.
    file : object, optional
        The Python file object that `h5` reads through; closed with it.
    places : dict, optional
        First names of objects that have several, by address; None until they are asked for.
    unmasked : set
        Addresses of datasets of which no chunk can lack a filter: made in this session, and
        filled with encoded chunks alone.
    """

    url: str
    path: str
    h5: Any
    writable: bool
    source: ByteSource | None = None
    file: Any = None
    closed: bool = False
    places: dict[int, Place] | None = field(default=None, repr=False)
    unmasked: set[int] = field(default_factory=set, repr=False)
    _attributes: dict[str, Attributes] = field(default_factory=dict, repr=False)
    _heaps: Heaps | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.file is not None:
            _ON_FILE_OBJECTS.add(self)
        if not self.writable:
            self._heaps = Heaps(self.h5, self.url, self._bytes)

    @property
    def has_second_handle(self) -> bool:
        """Whether something that lies in global heaps was read."""
        return self._heaps is not None and self._heaps.opened

    def _bytes(self) -> _FileObject:
        """The bytes of the file, for a second handle of it."""
        _ON_FILE_OBJECTS.add(self)
        file = self.file
        if self.source is not None and file is None:
            file = BlockFile(self.source, self.path, block=_SMALL_BLOCK, keep=_SMALL_BLOCKS)
        return _FileObject(file, self.url)

    def attributes_of(self, path: str, read: Callable[[], Attributes]) -> Attributes:
        """Attributes of a node, read once where the file cannot change; the caller's own copy."""
        if self.writable:
            return read()
        found = self._attributes.get(path)
        if found is None:
            found = read()
            if len(self._attributes) < _MOST_REMEMBERED:
                self._attributes[path] = found
        return copy_attributes(found)

    def check_open(self) -> None:
        """Refuse to go on with a closed store."""
        if self.closed:
            raise ClosedError("the store is closed", url=self.url)

    def check_writable(self) -> None:
        """Refuse to change a store that is closed or open for reading."""
        self.check_open()
        if not self.writable:
            raise ReadOnlyError("the store is open for reading only", url=self.url)

    def reading(self, node: str) -> Translated:
        """Context in which a failure of HDF5 means that the file is damaged."""
        return Translated(self.url, node, writing=False)

    def writing(self, node: str) -> Translated:
        """Context in which a failure of HDF5 means that the file cannot be written."""
        return Translated(self.url, node, writing=True)

    def close(self) -> None:
        """Flush and close everything once."""
        if self.closed:
            return
        self.closed = True
        try:
            with self.writing("") if self.writable else self.reading(""):
                if self._heaps is not None:
                    self._heaps.close()
                self.h5.close()
        finally:
            _ON_FILE_OBJECTS.discard(self)
            if self.source is not None:
                self.source.close()
            if self.file is not None:
                self.file.close()


_ON_FILE_OBJECTS: weakref.WeakSet[Session] = weakref.WeakSet()
"""Open files that h5py reads through Python objects: it crashes if they outlive the interpreter."""


def _close_all() -> None:
    for session in list(_ON_FILE_OBJECTS):
        session.close()


atexit.register(_close_all)


class Translated:
    """Context manager that turns what h5py raises into our own errors.

    Errors of our own that do not say where they happened learn it here.

    Parameters
    ----------
    url, node : str
        What is being worked on.
    writing : bool
        Whether a failure means that writing failed, rather than that the file is damaged.
    """

    __slots__ = ("_node", "_url", "_writing")

    def __init__(self, url: str, node: str, *, writing: bool) -> None:
        self._url = url
        self._node = node
        self._writing = writing

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, FmristoreError):
            if error.url is None:
                error.url, error.node = self._url, self._node
        elif isinstance(error, _LIBRARY_ERRORS):
            raise self._translate(error) from error

    def _translate(self, error: BaseException) -> FmristoreError:
        if isinstance(error, MemoryError):
            return MemoryLimitError("not enough memory", url=self._url, node=self._node)
        if isinstance(error, OSError) and error.errno is not None:
            return storage_error(error, self._url)
        text = str(error.args[0] if error.args else error)
        if self._writing:
            return StorageError(f"HDF5 cannot write: {text}", url=self._url, node=self._node)
        return CorruptDataError(f"HDF5 cannot read: {text}", url=self._url, node=self._node)


class _FileObject:
    """A file object for h5py whose failures are told apart from those of HDF5.

    Parameters
    ----------
    file : file object
        Needs ``seek``, ``tell`` and ``read``.
    url : str
        Its name in messages.
    """

    def __init__(self, file: Any, url: str) -> None:
        self._file = file
        self._url = url

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position, and return it."""
        try:
            return int(self._file.seek(offset, whence))
        except Exception as error:
            raise storage_error(error, self._url) from error

    def tell(self) -> int:
        """Current position."""
        return int(self._file.tell())

    def read(self, size: int = -1) -> bytes:
        """Bytes from the current position on."""
        try:
            return bytes(self._file.read(size))
        except Exception as error:
            raise storage_error(error, self._url) from error

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; beyond the end of the file with zeros, as HDF5 expects."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            part = self.read(len(view) - done)
            if not part:
                view[done:] = bytes(len(view) - done)
                break
            view[done : done + len(part)] = part
            done += len(part)
        return len(view)


def open_file(path: str, mode: Mode, url: str, file: Any = None) -> Any:
    """Open or create an HDF5 file.

    Parameters
    ----------
    path : str
        Local path; unused when `file` is given.
    mode : {"r", "r+", "w"}
        ``"w"`` creates the file and never replaces one.
    url : str
        Its name in messages.
    file : file object, optional
        Read through this instead of opening `path`.

    Returns
    -------
    h5py.File

    Raises
    ------
    NotFoundError
        If there is no such file.
    AlreadyExistsError
        If there is one that should be created.
    ReadOnlyError
        If a file that is read through a Python object should be changed.
    AccessDeniedError
        If it may not be opened.
    UnknownFormatError
        If it is not an HDF5 file.
    CorruptDataError
        If it is truncated or damaged.
    StorageError
        If the disk or service failed, or another process holds the file.
    """
    try:
        if file is not None:
            if mode != "r":
                raise ReadOnlyError("HDF5 files are changed only on a local disk", url=url)
            return _open_object(_FileObject(file, url))
        if mode == "w":
            return _create(path)
        if mode == "r+":
            check_all_heaps(path, url)
            return h5py.File(path, "r+", libver=("earliest", "v110"), locking=True)
        return _open_for_reading(path)
    except FmristoreError:
        raise
    except _LIBRARY_ERRORS as error:
        raise _opening_error(error, mode, url) from error


def _open_for_reading(path: str) -> Any:
    """Open with a lock where the file system has them, without one where it fails."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_file_locking(True, ignore_when_disabled=True)
    try:
        return h5py.File(h5f.open(os.fsencode(path), h5f.ACC_RDONLY, access))
    except OSError as error:
        if _NO_LOCK not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


def _open_object(file: _FileObject) -> Any:
    """Open through a Python object; whole pages at a time if the file is made of pages."""
    opened = h5py.File(file, "r")
    plan = opened.id.get_create_plist()
    page = int(plan.get_file_space_page_size())
    if plan.get_file_space_strategy()[0] != h5f.FSPACE_STRATEGY_PAGE or page > _LARGEST_PAGE:
        return opened
    opened.close()
    size = max(_PAGE_BUFFER, 1 << (page - 1).bit_length())
    return h5py.File(file, "r", page_buf_size=size)


def _create(path: str) -> Any:
    """Create a file whose root remembers the order of its links, but not of its attributes.

    Objects that track the order of attributes cannot have a ninth one replaced by HDF5 libraries
    up to 1.14 (https://github.com/h5py/h5py/issues/1385); h5py's own switch turns on both.
    """
    plan = h5p.create(h5p.FILE_CREATE)
    plan.set_link_creation_order(h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED)
    plan.set_obj_track_times(False)
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_V110)
    access.set_meta_block_size(_METADATA_BLOCK)
    return h5py.File(h5f.create(os.fsencode(path), h5f.ACC_EXCL, plan, access))


def _opening_error(error: BaseException, mode: Mode, url: str) -> FmristoreError:
    text = str(error)
    if mode == "w" and "exists" in text:
        return AlreadyExistsError("there is a file of that name", url=url)
    if isinstance(error, IsADirectoryError) or "file signature not found" in text:
        return UnknownFormatError("this is not an HDF5 file", url=url)
    if any(sign in text for sign in _IN_USE):
        msg = (
            f"the file is in use elsewhere ({text}); close it there, or if the file system has "
            "no locks, set HDF5_USE_FILE_LOCKING=FALSE"
        )
        return StorageError(msg, url=url)
    if isinstance(error, OSError) and error.errno is not None:
        return storage_error(error, url)
    if mode == "w":
        return StorageError(f"HDF5 cannot create the file: {text}", url=url)
    return CorruptDataError(f"the HDF5 file is truncated or damaged: {text}", url=url)


def near_names(names: Sequence[str]) -> str:
    """A few of the names that exist, for the message that one does not."""
    if not names:
        return "the group is empty"
    shown = sorted(names)
    return "there is " + ", ".join(map(repr, shown[:6])) + (" ..." if len(shown) > 6 else "")
