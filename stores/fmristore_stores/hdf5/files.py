"""Opening HDF5 files, closing them in time, and saying in our own errors what went wrong.

Locks, lifetimes and errors of one library stay together, which makes the module long.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import h5py
from h5py import h5f, h5fd, h5p

from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    ClosedError,
    CorruptDataError,
    FmristoreError,
    MemoryLimitError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.hdf5.heaps import Heaps, check_all_heaps
from fmristore_stores.hdf5.lengths import Header
from fmristore_stores.hdf5.output import OutputFile
from fmristore_stores.hdf5.room import MetadataRoom
from fmristore_stores.io.alive import AliveSet
from fmristore_stores.io.block_file import BlockFile
from fmristore_stores.io.lifetime import Lifetime, close_forgotten, close_when_forgotten
from fmristore_stores.io.local_files import check_ordinary
from fmristore_stores.io.sources import (
    ByteSource,
    LocalSource,
    OpenFile,
    local_token,
    storage_error,
)
from fmristore_stores.io.stats import stats_of
from fmristore_stores.ledger import Ledger
from fmristore_stores.protocol import ByteRange, Room

__all__ = [
    "Mode",
    "OpenHDF5",
    "Place",
    "Session",
    "Translated",
    "is_same_file",
    "near_names",
    "open_file",
]

Mode = Literal["r", "r+", "w"]

_LIBRARY_ERRORS = (OSError, RuntimeError, KeyError, ValueError, OverflowError, MemoryError)
"""Errors of h5py when the HDF5 library fails."""

_SIGNS_OF_CHANGE = (*_LIBRARY_ERRORS, CorruptDataError, NotFoundError)
"""Errors that may mean that a file was replaced while it is read."""

_NO_LOCK = "unable to lock"
"""Part of HDF5's message when a file cannot be locked."""
_IN_USE = (_NO_LOCK, "already open", "t match")
"""Parts of its messages when the file is open elsewhere, or here for another purpose."""

_PAGE_BUFFER = 16 * 1024 * 1024
_SMALL_BLOCK = 16 * 1024
_SMALL_BLOCKS = 32
"""Bytes that a second handle of a local file keeps of it."""
_LARGEST_PAGE = 64 * 1024 * 1024
"""A file that asks for larger pages is read without a page buffer."""


@dataclass(frozen=True, slots=True)
class Place:
    """First name of an object with several names."""

    group: int
    """Address of the group that holds the name."""
    name: bytes
    path: str


class OpenHDF5(OpenFile):
    """An HDF5 file that is closed when nobody reads it any more.

    Parameters
    ----------
    h5 : h5py.File
        The open file.
    descriptor : int
        Through which the HDF5 library reads it; -1 for one that is read through a Python object.
    file : object, optional
        That object; closed with the file.
    """

    __slots__ = ("h5",)

    def __init__(self, h5: Any, descriptor: int, file: Any) -> None:
        super().__init__(descriptor, owned=False)
        self.h5 = h5
        close_when_forgotten(self, functools.partial(_close, h5, file))


def _close(h5: Any, file: Any) -> None:
    with contextlib.suppress(*_LIBRARY_ERRORS):  # nothing was written that could be lost
        h5.close()
    if file is not None:
        file.close()


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
    new : bool
        Whether it was just made.
    source : ByteSource, optional
        Where bytes of chunks come from; the file itself if neither this nor `file` is given.
    file : object, optional
        The Python file object that `h5` reads or writes through; closed with it.

    Attributes
    ----------
    ledger : Ledger
        What was written.
    room : MetadataRoom
        Where metadata of a new file come to lie.
    places : dict or None
        First names of objects that have several, by address; None until they are asked for.
    tables : dict
        Where the chunks of arrays are, by path, once that was read; only of a file that is read.
    unmasked : set
        Addresses of datasets of which no chunk can lack a filter: made in this session, and
        filled with encoded chunks alone.
    variable_text : bool
        Whether attributes of text are written with variable length.
    looking : ByteSource or None
        Where bytes are looked at before HDF5 reads them; `source` while a file is read.
    """

    def __init__(
        self,
        url: str,
        path: str,
        h5: Any,
        *,
        writable: bool,
        new: bool = False,
        source: ByteSource | None = None,
        file: Any = None,
    ) -> None:
        self.url = url
        self.path = path
        self.writable = writable
        self.ledger = Ledger()
        self._output = file if isinstance(file, OutputFile) else None
        self.room = MetadataRoom(h5 if new else None)
        self.places: dict[int, Place] | None = None
        self.tables: dict[str, Any] = {}
        self.unmasked: set[int] = set()
        self.variable_text = False
        self._version = None if source is None else source.version
        self._local = not writable and file is None
        descriptor = int(h5.id.get_vfd_handle()) if self._local else -1
        self._opened: OpenHDF5 | None = OpenHDF5(h5, descriptor, file)
        self._peeks = self._local and source is None and hasattr(os, "preadv")
        self._stats = stats_of(url)
        if self._local and source is None:
            # The same open file, also when another one takes over its name.
            source = LocalSource(path, file=self._opened, stats=self._stats)
        self.source = source
        self._status = os.fstat(descriptor) if self._local else None
        # Bytes of a file that is written to through HDF5 in this process may be old.
        self._is_as_on_disk = self._local and h5.id.get_intent() == h5f.ACC_RDONLY
        self.lifetime = Lifetime(url, self)
        # A new file holds nothing that would have to be looked at.
        self.looking = source if not writable or new else LocalSource()
        self._heaps: Heaps | None = None
        if not new:
            opener = None if writable else self._second_opener(file)
            self._heaps = Heaps(h5, url, opener, self._reader())
            close_when_forgotten(self, self._heaps.close)
        if file is not None:
            _ON_FILE_OBJECTS.add(self)
        if self._local:
            _LOCAL.add(self)

    @property
    def has_second_handle(self) -> bool:
        """True if something that lies in global heaps was read."""
        return self._heaps is not None and self._heaps.opened

    def _second_opener(self, file: Any) -> Callable[[], _FileObject]:
        """Give the bytes of the file for a second handle of it, without holding this session."""
        session, source, path, url = weakref.ref(self), self.source, self.path, self.url

        def opener() -> _FileObject:
            if (alive := session()) is not None:
                _ON_FILE_OBJECTS.add(alive)
            if source is not None and file is None:
                small = BlockFile(source, path, block=_SMALL_BLOCK, keep=_SMALL_BLOCKS)
                return _FileObject(small, url)
            return _FileObject(file, url)

        return opener

    def _reader(self) -> Callable[[int, int], bytes] | None:
        """Read bytes of the file from any thread, without holding this session."""
        source, path, opened = self.looking, self.path, self._opened
        if source is None or opened is None:
            return None
        if self._local:
            file = weakref.ref(opened)

            def read_open(offset: int, length: int) -> bytes:
                found = file()
                if found is None:
                    raise ClosedError("the store is closed")
                return found.read(length, offset)

            return read_open

        def read(offset: int, length: int) -> bytes:
            (found,) = source.fetch([ByteRange(path, offset, length)])
            return bytes(found)

        return read

    @property
    def h5(self) -> Any:
        """The open file.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        return self.opened().h5

    @property
    def size(self) -> int:
        """Bytes of the file."""
        if self._status is not None:
            return self._status.st_size  # a file that was written to since is refused: see `check`
        return int(self.h5.id.get_filesize())

    @property
    def closed(self) -> bool:
        """True if `close` was called."""
        return self.lifetime.closed

    @property
    def token(self) -> str:
        """Identity of the file that was opened: `location.content_token`; empty if not local."""
        return "" if self._status is None else local_token(self._status)

    def opened(self) -> OpenHDF5:
        """The open file, which stays open as long as this is held.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        opened = self._opened
        if opened is None:
            raise ClosedError("the store is closed", url=self.url)
        return opened

    def header_of(self, node: Any, name: bytes = b".") -> Header | None:
        """Header of an open object, or of a child, in a local file that nobody changes; or None."""
        if not self._is_as_on_disk or self._heaps is None:
            return None
        try:
            return self._heaps.header(node, name)
        except CorruptDataError:  # HDF5 has opened it, and shall say what is wrong
            return None

    def check_open(self) -> None:
        """Refuse to go on with a closed store."""
        if self._opened is None:
            self.opened()

    def check_writable(self) -> None:
        """Refuse to change a store that is closed or open for reading."""
        self.check_open()
        if not self.writable:
            raise ReadOnlyError("the store is open for reading only", url=self.url)

    def check(self) -> None:
        """See whether the file is still what was opened.

        Raises
        ------
        ChangedError
            If it was written over in place, or replaced where that cannot be prevented.
        """
        then, opened = self._status, self._opened
        if then is not None:
            if opened is not None and not is_same_file(os.fstat(opened.descriptor), then):
                msg = "the file was written over since it was opened; open it again"
                raise ChangedError(msg, url=self.url)
        elif self._version is not None:
            self._version.check()

    def peek(self, offset: int, room: Room, chunks: int = 1) -> bool:
        """Read bytes of a local file, as `fmristore_stores.protocol.LocalBytes` has it."""
        opened, then = self._opened, self._status  # open as long as it is held
        if not self._peeks or opened is None or then is None or self.lifetime.closed:
            return False
        length = len(room)
        try:
            count = os.preadv(opened.descriptor, (room,), offset)
            now = os.fstat(opened.descriptor)
        except OSError:
            return False
        if count != length or now.st_mtime_ns != then.st_mtime_ns or now.st_size != then.st_size:
            return False
        self._stats.add(chunks, length, chunks, length)
        return True

    def peek_many(self, offsets: Sequence[int], length: int, chunks: int) -> list[bytes] | None:
        """Read bytes from many places, as `peek`."""
        opened, then = self._opened, self._status
        if not self._peeks or opened is None or then is None or self.lifetime.closed:
            return None
        try:
            found = list(map(opened.reader(), itertools.repeat(length), offsets))
            same = is_same_file(os.fstat(opened.descriptor), then)
        except OSError:
            return None
        fetched = sum(map(len, found))
        if fetched != length * len(found) or not same:
            return None
        self._stats.add(len(found), fetched, chunks, fetched)
        return found

    def is_outdated(self, now: os.stat_result) -> bool:
        """True if this is the local file of that status, open since before it was written to."""
        then = self._status
        if then is None or self._opened is None:
            return False
        same = (then.st_dev, then.st_ino) == (now.st_dev, now.st_ino)
        return same and not is_same_file(then, now)

    @property
    def released(self) -> bool:
        """True if nothing is open any more."""
        return self._opened is None

    def reading(self, node: str) -> Translated:
        """Context in which a failure of HDF5 means that the file is damaged."""
        check = None if self.writable else self.check
        return Translated(self.url, node, writing=False, opened=self.opened(), check=check)

    def reading_later(self, node: str) -> Callable[[], Translated]:
        """`reading` for somebody who must not keep this session open."""
        session, url = weakref.ref(self), self.url

        def reading() -> Translated:
            found = session()
            if found is None:
                raise ClosedError("the store is closed", url=url)
            return found.reading(node)

        return reading

    def writing(self, node: str) -> Translated:
        """Context in which a failure of HDF5 means that the file cannot be written."""
        return Translated(self.url, node, writing=True, output=self._output)

    def close(self) -> None:
        """Flush and close everything once; readers that are under way are waited for."""
        self.lifetime.close()

    def release(self) -> None:
        """Close everything, unless that was done."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        if self._heaps is not None:
            with contextlib.suppress(*_LIBRARY_ERRORS):  # nothing was written that could be lost
                self._heaps.close()
        if self.source is not None:
            self.source.close()
        _ON_FILE_OBJECTS.discard(self)
        if self.writable:
            with self.writing(""):
                try:
                    self.room.release()
                    opened.h5.close()
                finally:
                    if self._output is not None:
                        self._output.close()
        del opened  # the last one that held it
        close_forgotten()


def is_same_file(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether a file was not written to between two looks at it."""
    return one.st_mtime_ns == other.st_mtime_ns and one.st_size == other.st_size


_LOCAL: AliveSet[Session] = AliveSet()
"""Local files that are open for reading."""
_ON_FILE_OBJECTS: AliveSet[Session] = AliveSet()
"""Open files that h5py uses through Python objects: it crashes if they outlive the interpreter."""


def _close_all() -> None:
    for session in list(_ON_FILE_OBJECTS):
        session.release()
    close_forgotten()


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
    opened : OpenHDF5, optional
        The file, which stays open meanwhile.
    check : callable, optional
        Raises `ChangedError` if the file is not the one that was opened any more.
    output : OutputFile, optional
        The file that is written to. An error that it remembers is raised at the end, whatever
        HDF5 made of it.
    """

    __slots__ = ("_check", "_node", "_opened", "_output", "_url", "_writing")

    def __init__(
        self,
        url: str,
        node: str,
        *,
        writing: bool,
        opened: OpenHDF5 | None = None,
        check: Callable[[], None] | None = None,
        output: OutputFile | None = None,
    ) -> None:
        self._url = url
        self._node = node
        self._writing = writing
        self._output = output
        self._opened = opened
        self._check = check

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened = None
        raised, error = error, error and _unwrapped(error)
        if error is None:
            if self._check is not None:
                self._check()
        elif self._check is not None and isinstance(error, _SIGNS_OF_CHANGE):
            self._look_again(self._check, error)
        if self._output is not None:
            self._output.raise_error()
        if error is None:
            return
        if isinstance(error, FmristoreError):
            if error.url is None:
                error.url, error.node = self._url, self._node
        elif isinstance(error, _LIBRARY_ERRORS):
            raise self._translate(error) from error
        if error is not raised:
            raise error from None

    def _look_again(self, check: Callable[[], None], error: BaseException) -> None:
        """Raise if the file is another one, which is also a reason for what went wrong."""
        try:
            check()
        except ChangedError as reason:
            raise reason from error
        except FmristoreError:
            return

    def _translate(self, error: BaseException) -> FmristoreError:
        if isinstance(error, MemoryError):
            return MemoryLimitError("not enough memory", url=self._url, node=self._node)
        if isinstance(error, OSError) and error.errno is not None:
            return storage_error(error, self._url)
        text = str(error.args[0] if error.args else error)
        if self._writing:
            return StorageError(f"HDF5 cannot write: {text}", url=self._url, node=self._node)
        return CorruptDataError(f"HDF5 cannot read: {text}", url=self._url, node=self._node)


def _unwrapped(error: BaseException) -> BaseException:
    """The error of a Python function that HDF5 called: a failing read, or Ctrl-C in any of them.

    HDF5 goes on for a moment, and may call Python again with the error still set. Python then
    raises `SystemError` instead, whose cause is the error.
    """
    while isinstance(error, SystemError) and error.__cause__ is not None:
        error = error.__cause__
    return error


class _FileObject:
    """A file object for h5py whose failures are reported apart from those of HDF5.

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


def open_file(path: str, mode: Mode, url: str, file: Any = None) -> tuple[Any, Any]:
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
    h5 : h5py.File
        The open file.
    file : file object or None
        What it reads or writes through; None where HDF5 opens the file itself.

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
            return _open_object(_FileObject(file, url)), file
        if mode == "r":
            return _open_for_reading(path, check_ordinary(path, url)), None
        if mode == "r+":
            check_ordinary(path, url)
            check_all_heaps(path, url)
        output = OutputFile(path, url, create=mode == "w")
        try:
            if mode == "w":
                return _create(output), output
            return h5py.File(output, "r+", libver=("earliest", "v110")), output
        except BaseException:
            output.close()
            raise
    except FmristoreError:
        raise
    except (SystemError, *_LIBRARY_ERRORS) as raised:
        error = _unwrapped(raised)
        if isinstance(error, _LIBRARY_ERRORS) and not isinstance(error, FmristoreError):
            raise _opening_error(error, mode, url) from error
        raise error from None


def _open_for_reading(path: str, status: os.stat_result) -> Any:
    """Open with a lock where the file system has them, without one where it fails."""
    close_forgotten()
    _close_outdated(status)
    try:
        return h5py.File(h5f.open(os.fsencode(path), h5f.ACC_RDONLY, _locking()))
    except OSError as error:
        if _NO_LOCK not in str(error):
            raise
        return h5py.File(path, "r", locking=False)


@functools.cache
def _locking() -> Any:
    """Properties of access to a file that is locked where the file system has locks."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_file_locking(True, ignore_when_disabled=True)
    return access


def _close_outdated(now: os.stat_result) -> None:
    """Close a file that was written over while it is open here, by what it is now.

    The HDF5 library would take it for the same file, and hand out what it remembers of the old one.
    """
    for session in [session for session in list(_LOCAL) if session.is_outdated(now)]:
        session.close()
        if not session.released:
            msg = "the file was written over while it is being read; try again"
            raise ChangedError(msg, url=session.url)


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


def _create(output: OutputFile) -> Any:
    """Create a file whose root remembers the order of its links, but not of its attributes.

    Objects that track the order of attributes cannot have a ninth one replaced by HDF5 libraries
    up to 1.14 (https://github.com/h5py/h5py/issues/1385); h5py's own switch turns on both.
    """
    plan = h5p.create(h5p.FILE_CREATE)
    plan.set_link_creation_order(h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED)
    plan.set_obj_track_times(False)
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_EARLIEST, h5f.LIBVER_V110)
    access.set_fileobj_driver(h5fd.fileobj_driver, output)
    name = repr(hash(output)).encode()  # as h5py names files of this kind
    return h5py.File(h5f.create(name, h5f.ACC_TRUNC, plan, access))


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
