"""Writers of one store take turns: whoever looks, changes and publishes does so alone.

On a local disk the system keeps a file beside the store locked for as long as its owner lives, so
that nothing has to be taken over after a crash. Where there are no locks, which is on object
storage and on some file systems, `claims` are made.
Packages for locks leave their file behind for ever, or do not know of objects.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from fmristore_stores.errors import FmristoreError, InvalidInputError, ReadOnlyError, StorageError
from fmristore_stores.io.forks import in_forked_child
from fmristore_stores.io.location import filesystem, is_local
from fmristore_stores.io.owners import own_mark, short_name
from fmristore_stores.io.sources import storage_error
from fmristore_stores.publishing.claims import (
    Claim,
    Claims,
    FileClaims,
    RemoteClaims,
    Turn,
    claim_path,
)

__all__ = ["WAIT_VARIABLE", "Turn", "check_writable", "take_turn"]

WAIT_VARIABLE = "FMRISTORE_WAIT"
"""Environment variable: seconds that a writer waits for its turn."""

_WAIT = 600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 1.0
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
_TAKEN = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
_LOCKED_BYTE = 1 << 30
"""Place of the byte that is locked on Windows, where a locked byte cannot be read."""


@contextlib.contextmanager
def take_turn(
    url: str,
    options: Mapping[str, Any] | None = None,
    *,
    doing: str = "change",
    overrule: str = "",
    busy: type[FmristoreError] | None = None,
) -> Iterator[Turn]:
    """Wait until no other writer is at the store at `url`, and keep others out.

    Parameters
    ----------
    url : str
        Normalised URL, of a store that need not exist.
    options : mapping, optional
        Passed to fsspec.
    doing : {"change", "create", "replace"}
        For the next writer, if this one is killed.
    overrule : str
        What another writer may be doing without being waited for.
    busy : type of error, optional
        Do not wait, raise this if another writer is at it.

    Yields
    ------
    Turn
        To be checked right before something becomes visible.

    Raises
    ------
    StorageError
        If the others take longer than the seconds in ``FMRISTORE_WAIT`` (600), or the disk or the
        service fails.
    """
    check_writable(url)
    target = os.path.realpath(url) if is_local(url) else url
    key = (target, threading.get_ident())
    if key in _held:
        msg = "this thread is changing the store already; end that change first"
        raise StorageError(msg, url=url)
    with own_mark() as mark:
        claim = Claim(mark, socket.gethostname(), doing, touched=time.time())
        if is_local(url):
            turn: _LockFile | Claims = _LockFile(target, claim)
        else:
            fs, path = filesystem(url, options)
            turn = Claims(RemoteClaims(fs, url), claim_path(path), url, claim, overrule=overrule)
        turn = _wait(turn, url, busy)
        _held.add(key)
        try:
            yield turn
        finally:
            _held.discard(key)
            turn.release()


def check_writable(url: str) -> None:
    """Check that the protocol of a normalised URL can write.

    Raises
    ------
    ReadOnlyError
        If it cannot.
    """
    if url.startswith(("http://", "https://")):
        raise ReadOnlyError("nothing can be written over http", url=url)
    if "::" in url and not is_local(url):
        raise ReadOnlyError("a chain of protocols is read, not written", url=url)


_held: set[tuple[str, int]] = set()
"""Stores that this process is changing, and in which thread."""


def _wait(turn: _LockFile | Claims, url: str, busy: type[FmristoreError] | None) -> Any:
    """Take a turn, again and again until it succeeds."""
    end = time.monotonic() + (0.0 if busy else _seconds())
    pause = _FIRST_PAUSE
    while True:
        try:
            other = turn.attempt()
        except _NoLocksError:
            path = turn.path.removesuffix(".lock") + ".claim"
            turn = Claims(FileClaims(url), path, url, turn.claim, overrule="")
            continue
        if other is None:
            return turn
        left = end - time.monotonic()
        if left <= 0:
            msg = f"{other} is writing this store; try again when it has ended"
            if isinstance(turn, Claims):
                msg += f" (if it cannot end any more, remove {turn.path})"
            raise (busy or StorageError)(msg, url=url)
        time.sleep(min(left, pause * (0.5 + random.random())))  # noqa: S311 - no secret
        pause = min(_LONGEST_PAUSE, pause * 1.5)


def _seconds() -> float:
    text = os.environ.get(WAIT_VARIABLE, "")
    try:
        return float(text) if text else _WAIT
    except ValueError as error:
        msg = f"{WAIT_VARIABLE} is {text!r}; it takes a number of seconds"
        raise InvalidInputError(msg) from error


# Locks of the system --------------------------------------------------------------------------


class _NoLocksError(Exception):
    """The file system knows no locks."""


class _LockFile(Turn):
    """A locked file beside the store, or inside of one whose folder cannot be written."""

    def __init__(self, target: str, claim: Claim) -> None:
        folder, name = os.path.split(target)
        own = f".{short_name(name)}.lock"
        self.path = os.path.join(folder, own)  # noqa: PTH118 - strings here
        self._inside = os.path.join(target, own)  # noqa: PTH118
        self._target = target
        self.claim = claim
        self._file = -1

    def attempt(self) -> Claim | None:
        """Take the lock; the other owner if there is one."""
        while True:
            try:
                file = self._open()
            except OSError as error:
                raise storage_error(error, self._target) from error
            try:
                if not _lock(file):
                    other = Claim.decode(_content(file))
                    os.close(file)
                    return other
                if _is_file(file, self.path):
                    break
            except _NoLocksError:
                os.close(file)
                FileClaims(self._target).remove(self.path)
                raise
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # of an owner that removed it just now
        self._file = file
        _locked.add(self)
        with contextlib.suppress(OSError):  # one that somebody else left, read only to us
            os.ftruncate(file, 0)
            os.write(file, self.claim.encode())
        return None

    def _open(self) -> int:
        flags = 0
        for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"):
            flags |= getattr(os, name, 0)
        try:
            return os.open(self.path, flags | os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            if os.path.lexists(self.path):
                return os.open(self.path, flags | os.O_RDONLY)
            if self.path == self._inside or not os.path.isdir(self._target):  # noqa: PTH112
                raise
            self.path = self._inside
            return self._open()

    def release(self) -> None:
        """Let the next writer in."""
        if self._file < 0:
            return
        file, self._file = self._file, -1
        _locked.discard(self)
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.unlink(self.path)  # noqa: PTH108
        with contextlib.suppress(OSError):
            _unlock(file)
        os.close(file)
        if sys.platform == "win32":  # fails if another has it open by now, as it should
            with contextlib.suppress(OSError):
                os.unlink(self.path)  # noqa: PTH108

    def leave(self) -> None:
        """Leave the lock to the process that this one is a fork of."""
        file, self._file = self._file, -1
        with contextlib.suppress(OSError):
            os.close(file)


_locked: set[_LockFile] = set()
"""Lock files that this process holds."""


@in_forked_child
def _after_fork() -> None:
    """Leave locks to the parent: they must end with it, however long its children live."""
    while _locked:
        _locked.pop().leave()


def _lock(file: int) -> bool:
    """Lock an open file; False if another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(file, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in _NO_LOCKS:
            raise _NoLocksError from error
        raise
    return True


def _unlock(file: int) -> None:
    """Unlock an open file, also for children that inherited it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


def _content(file: int) -> bytes:
    try:
        os.lseek(file, 0, os.SEEK_SET)
        return os.read(file, 4096)
    except OSError:
        return b""


def _is_file(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))  # noqa: PTH116
    except FileNotFoundError:
        return False
