"""Lifetime of an open store, and whether it is still the one that was opened.

A store may be closed, dropped or replaced while other threads read it. Each read enters a
`Reading`: it keeps the store open until it ends, and does not end well if the store was replaced
meanwhile. No lock is taken anywhere: a read may be interrupted, or garbage collected, at any point.
And nothing of ours runs when a `Reading` goes away, for Python drops a Ctrl-C that arrives there.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Protocol, TypeAlias

from fmristore_stores.errors import (
    ChangedError,
    ClosedError,
    CorruptDataError,
    FmristoreError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.io.forks import in_forked_child

__all__ = [
    "Content",
    "Lifetime",
    "Reading",
    "Version",
    "changed",
    "close_forgotten",
    "close_when_forgotten",
]

Close: TypeAlias = Callable[[], None]


class _Watch(weakref.ref[object]):
    """A reference to something, and how to close what it leaves behind."""

    __slots__ = ("close",)

    close: Close


_watched: dict[int, _Watch] = {}
_forgotten: deque[_Watch] = deque()
_inherited: list[_Watch] = []

_SIGNS = (CorruptDataError, MetadataError, NotFoundError)
"""Errors that may mean that the files of a store were replaced while it is read."""


def close_when_forgotten(thing: object, close: Close) -> None:
    """Have something closed soon after the last reference to it is gone.

    Whoever drops that may be any thread at any point, and must not wait for a lock there. So it
    only notes what is to be closed, and `close_forgotten` does it. Nothing of Python runs when it
    is dropped, not even a `weakref.finalize`: a Ctrl-C that arrives there would be lost.
    """
    watch = _Watch(thing, _forgotten.append)
    watch.close = close
    _watched[id(watch)] = watch


def close_forgotten() -> None:
    """Close what nobody refers to any more; called wherever stores are opened and closed."""
    while _forgotten:
        try:
            watch = _forgotten.popleft()
        except IndexError:  # another thread was faster
            return
        if _watched.pop(id(watch), None) is not None:
            watch.close()
        del watch  # it may be the last one that holds something else that is to be closed


@in_forked_child
def _after_fork() -> None:
    """In a child: what the parent forgot is the parent's to close."""
    _inherited.extend(_forgotten)
    _forgotten.clear()


def changed(url: str) -> ChangedError:
    """Make the error for a store that is not the one that was opened."""
    msg = "the store was removed or replaced since it was opened; open it again"
    return ChangedError(msg, url=url)


class Version:
    """A look at whether something remote is still what was opened, after each fetch only.

    Parameters
    ----------
    url : str
        For messages.
    is_same : callable
        Asks the server.

    Notes
    -----
    What was fetched counts when it has arrived, and a check covers what had arrived when it began.
    Any number of threads may fetch and check at once. Objects whose version the answers name are
    vouched for by the first check after them: what comes of the same version later needs none.
    """

    def __init__(self, url: str, is_same: Callable[[], bool]) -> None:
        self._url = url
        self._is_same = is_same
        self._numbers = itertools.count(1)
        self._arrived = 0
        self._checked = 0
        """Both count what came without the version of its object."""
        self._vouched: dict[str, str] = {}
        self._pending: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def arrived(self, answered: Mapping[str, str] | None = None) -> None:
        """Note that something was fetched.

        Parameters
        ----------
        answered : mapping, optional
            Version of each object that it is of, where all answers named one.
        """
        if answered and all(answered.values()):
            known = self._vouched
            new = [(path, etag) for path, etag in answered.items() if known.get(path) != etag]
            with self._lock:
                if len(self._pending) + len(new) <= _MOST_VOUCHED:
                    self._pending += new
                    return
        self._arrived = next(self._numbers)

    def awaits(self, paths: Collection[str]) -> bool:
        """True if a check is due that vouches for what is fetched of these objects meanwhile.

        Parameters
        ----------
        paths : collection of str
            Objects, without any other that a further check would be due for.
        """
        with self._lock:
            known = self._vouched
            pending = {path for path, etag in self._pending if known.get(path) != etag}
            return bool(pending) and all(path in pending or path in known for path in paths)

    def check(self) -> None:
        """See whether it is still the same, if anything was fetched that nobody vouches for.

        Raises
        ------
        ChangedError
            If it is not, or not there any more.
        StorageError
            If the service failed.
        """
        arrived = self._arrived
        with self._lock:
            self._pending = [(p, etag) for p, etag in self._pending if self._vouched.get(p) != etag]
            pending = set(self._pending)
        if arrived <= self._checked and not pending:
            return
        if not self._is_same():
            raise changed(self._url)
        with self._lock:
            if len(self._vouched) + len(pending) > _MOST_VOUCHED:
                self._vouched.clear()
            self._vouched.update(pending)
            self._pending = [item for item in self._pending if item not in pending]
        self._checked = max(arrived, self._checked)


_MOST_VOUCHED = 16384
"""Objects of which a version is remembered: a few MiB."""


class Content(Protocol):
    """Content that a lifetime is of."""

    def check(self) -> None:
        """Raise `ChangedError` if it is not what was opened any more."""

    def release(self) -> None:
        """Close everything; harmless when repeated."""


class Lifetime:
    """Readers of one opened store, and its end.

    Parameters
    ----------
    url : str
        Of the store, for messages.
    content : Content
        The store; not kept alive by this.

    Attributes
    ----------
    readings : dict of int to weakref
        Reads that are under way, by their ``id``. One that was interrupted before it could leave
        is garbage soon after, and counts no more.
    """

    def __init__(self, url: str, content: Content) -> None:
        self.url = url
        self.closed = False
        self._content = weakref.ref(content)
        self.readings: dict[int, weakref.ref[Reading]] = {}

    def reading(self) -> Reading:
        """Context of one read."""
        return Reading(self)

    def check(self) -> None:
        """Raise `ChangedError` if the store is not the one that was opened any more."""
        if (content := self._content()) is not None:
            content.check()

    def release(self) -> None:
        """Close everything; not to be called while a read is under way."""
        if (content := self._content()) is not None:
            content.release()

    def close(self) -> None:
        """Begin no more reads; the last one that is under way releases everything."""
        self.closed = True
        self.release_if_idle()

    def release_if_idle(self) -> None:
        """Release everything, unless a read is under way."""
        for reading in list(self.readings.values()):  # no generator: dropping one runs code
            if reading() is not None:
                return
        self.release()


class Reading:
    """Context of one read, which keeps the store open.

    Parameters
    ----------
    lifetime : Lifetime, optional
        Of the store; None for one that always stays.

    Raises
    ------
    ClosedError
        On entering, if the store is closed.
    ChangedError
        On leaving, if the store is not the one that was opened any more.
    """

    __slots__ = ("__weakref__", "_lifetime")

    def __init__(self, lifetime: Lifetime | None = None) -> None:
        self._lifetime = lifetime

    def __enter__(self) -> None:
        lifetime = self._lifetime
        if lifetime is None:
            return
        lifetime.readings[id(self)] = weakref.ref(self)
        if lifetime.closed:
            lifetime.readings.pop(id(self), None)
            lifetime.release_if_idle()
            raise ClosedError("the store is closed", url=lifetime.url)

    def check(self) -> None:
        """See whether what was read so far is of the store that was opened; else `ChangedError`."""
        if self._lifetime is not None:
            self._lifetime.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lifetime = self._lifetime
        if lifetime is None:
            return
        try:
            if error is None or isinstance(error, _SIGNS):
                try:
                    lifetime.check()
                except FmristoreError as reason:
                    if error is None or isinstance(reason, ChangedError):
                        raise reason from error
        finally:
            lifetime.readings.pop(id(self), None)  # before anything that can be interrupted
            if lifetime.closed:
                lifetime.release_if_idle()
