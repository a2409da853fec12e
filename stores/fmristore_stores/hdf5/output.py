"""The file that HDF5 writes to: the first write that fails is remembered, and never lost.

The HDF5 library writes when it likes, also while h5py releases an object, where an error is lost:
a file that lacks an affine would count as written. And where the disk is full it may crash. So it
writes through an object here that never fails towards the library. The first error is kept, what is
written after it stays in memory, and whoever writes asks for the error after every call.
"""

from __future__ import annotations

import copy
import errno
import os
import sys
from typing import Any

from fmristore_stores.errors import FmristoreError, StorageError
from fmristore_stores.io.flushing import MOST_WRITTEN, write_parts
from fmristore_stores.io.sources import storage_error

__all__ = ["OutputFile"]

_LOCKING = "HDF5_USE_FILE_LOCKING"
_NO_LOCKS = ("0", "FALSE")
_BEST_EFFORT = "BEST_EFFORT"
_NO_SUCH_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of file systems that have no locks."""
_KEPT = 1 << 20
"""Longest write that is kept in memory after a failure: metadata, which the library may read."""


class OutputFile:
    """A local file that h5py writes through.

    Parameters
    ----------
    path : str
        Where it is.
    url : str
        Its name in messages.
    create : bool
        Make the file, which must not exist; otherwise it must.

    Raises
    ------
    StorageError
        If another process holds a lock on it.

    Notes
    -----
    HDF5 lets one thread at a time write, so there is no lock for threads. The file is locked
    against other processes as HDF5 locks it.
    """

    def __init__(self, path: str, url: str, *, create: bool) -> None:
        self.error: BaseException | None = None
        """First error; None while all is well."""
        self._url = url
        self._file = open(path, "x+b" if create else "r+b", buffering=0)  # noqa: PTH123, SIM115
        self._at = 0
        self._place = 0  # of the file itself; -1 where it is not known
        self._end = 0
        self._kept: list[tuple[int, bytes]] = []
        try:
            _lock(self._file.fileno(), url)
        except BaseException:
            self._file.close()
            if create:
                os.unlink(path)  # noqa: PTH108
            raise

    def fileno(self) -> int:
        """Descriptor of the file."""
        return self._file.fileno()

    def raise_error(self) -> None:
        """Raise what went wrong first, if anything did.

        Raises
        ------
        StorageError
            If a write failed; the file is not whole, and never will be.
        """
        error = self.error
        if isinstance(error, Exception) and not isinstance(error, FmristoreError):
            raise storage_error(error, self._url) from error
        if error is not None:
            raise copy.copy(error)  # the one that is kept passes no frames, see `_fail`

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position, and return it."""
        try:
            if whence == os.SEEK_SET:
                self._at = offset
            else:
                self._place = -1
                self._at = self._file.seek(offset, whence)
        except BaseException as error:  # noqa: BLE001 - see `write`
            self._fail(error)
            self._at = offset
        if whence == os.SEEK_END:
            self._at = max(self._at, self._end)
        return self._at

    def tell(self) -> int:
        """Current position."""
        return self._at

    def write(self, data: Any) -> int:
        """Write all bytes, or remember why not; returns their number in any case."""
        length = len(data)
        if self.error is None:
            try:
                place, self._place = self._place, -1
                if place != self._at:
                    self._file.seek(self._at)
                done = self._file.write(data) if length <= MOST_WRITTEN else 0
                if done != length:
                    write_parts(self._file.fileno(), [memoryview(data)[done:]], self._url)
                self._place = self._at + length
            except BaseException as error:  # noqa: BLE001 - the library would lose any of them
                self._fail(error)
        if self.error is not None:
            if length <= _KEPT:
                self._kept.append((self._at, bytes(data)))
            self._end = max(self._end, self._at + length)
        self._at += length
        return length

    def _fail(self, error: BaseException) -> None:
        """Keep the first error, without the frames that it passed.

        They may hold what HDF5 opened this file with, which holds this file and through it the
        error: Python does not see such a circle, and HDF5 crashes when it ends after Python.
        """
        if self.error is None:
            error.__context__ = error.__cause__ = None
            self.error = error.with_traceback(None)

    def read(self, size: int) -> bytes:
        """Bytes from the current position on; by this method h5py knows a file object."""
        data = bytearray(size)
        self.readinto(data)
        return bytes(data)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; beyond the end of the file with zeros, as HDF5 expects."""
        view = memoryview(buffer).cast("B")
        done, self._place = 0, -1
        try:
            self._file.seek(self._at)
            while done < len(view):
                count = self._file.readinto(view[done:])
                if not count:
                    break
                done += count
        except BaseException as error:  # noqa: BLE001 - see `write`
            self._fail(error)
        if done < len(view):
            view[done:] = bytes(len(view) - done)
        for start, data in self._kept:
            first, last = max(start, self._at), min(start + len(data), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = data[first - start : last - start]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int) -> int:
        """Cut the file, or make it longer."""
        if self.error is None:
            try:
                self._file.truncate(size)
            except BaseException as error:  # noqa: BLE001 - see `write`
                self._fail(error)
        if self.error is not None:
            self._end = size
        return size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Close the file; some network disks report only now that writing failed."""
        try:
            self._file.close()
        except OSError as error:
            self._fail(error)
        self._kept.clear()


def _lock(descriptor: int, url: str) -> None:
    """Lock a file that is written, as HDF5 does; readers see that it is in use."""
    wanted = os.environ.get(_LOCKING, "").upper()
    if sys.platform == "win32" or wanted in _NO_LOCKS:
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        msg = (
            f"the file is in use elsewhere (unable to lock it: {error}); close it there, or if the "
            f"file system has no locks, set {_LOCKING}=FALSE"
        )
        raise StorageError(msg, url=url) from error
    except OSError as error:
        if wanted == _BEST_EFFORT or error.errno in _NO_SUCH_LOCKS:
            return
        msg = f"the file cannot be locked ({error}); if it cannot at all, set {_LOCKING}=FALSE"
        raise StorageError(msg, url=url) from error
