"""Opening stores by URL: locators that travel, and the handles that stay in their process.

What user-facing objects hold is a `Handle`. It pickles and copies as its `Locator` alone and finds
the opened store in a table of this process, opening it when needed: so it survives pickling,
deepcopy, fork and any scheduler.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fmristore_stores.blockfile import BlockFile
from fmristore_stores.errors import ChangedError, ClosedError, FmristoreError, NotFoundError
from fmristore_stores.location import (
    Kind,
    content_token,
    filesystem,
    identify,
    is_local,
    normalise,
)
from fmristore_stores.protocol import Store
from fmristore_stores.sources import FsspecSource

__all__ = ["Handle", "Locator", "locate", "open_store"]

_IDLE_STORES = 32
"""Stores without users that stay open, in case they are wanted again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """Where a store is and which version of it is meant; picklable.

    Parameters
    ----------
    url : str
        Normalised URL or absolute path.
    kind : {"hdf5", "zarr"}
        Which library opens it.
    token : str
        Changes when the store is replaced; empty if the filesystem offers nothing to tell by.
    options : mapping
        fsspec's storage options.
    """

    url: str
    kind: Kind
    token: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


def locate(
    url: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Locator:
    """Find an existing store and what kind it is.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    UnknownFormatError
        If it is neither HDF5 nor Zarr.
    """
    options = dict(storage_options or {})
    normal = normalise(url)
    found, token = identify(normal, options, kind=kind)
    return Locator(url=normal, kind=found, token=token, options=options)


def open_store(
    url: str | os.PathLike[str],
    mode: Literal["r", "r+"] = "r",
    *,
    kind: Kind | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Store:
    """Open an existing store by path or URL.

    Parameters
    ----------
    url : str or path
        Local path or any URL that fsspec knows.
    mode : {"r", "r+"}
        Reading, or reading and writing in place.
    kind : {"hdf5", "zarr"}, optional
        Insist on a kind; found out by the first bytes otherwise.
    storage_options : mapping, optional
        Passed to fsspec.

    Returns
    -------
    Store
        To be closed by the caller.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    UnknownFormatError
        If it is neither HDF5 nor Zarr.
    """
    return _open(locate(url, kind=kind, storage_options=storage_options), mode)


def _open(locator: Locator, mode: Literal["r", "r+"] = "r") -> Store:
    if locator.kind == "zarr":
        from fmristore_stores.zarr import ZarrStore

        if is_local(locator.url):
            return ZarrStore(locator.url, mode=mode)
        fs, path = filesystem(locator.url, locator.options)
        return ZarrStore(path, mode=mode, url=locator.url, fs=fs)

    from fmristore_stores.hdf5 import HDF5Store

    if is_local(locator.url):
        return HDF5Store(locator.url, mode=mode)
    fs, path = filesystem(locator.url, locator.options)
    source = FsspecSource(fs)
    file = BlockFile(source, path)
    return HDF5Store(path, mode=mode, url=locator.url, source=source, file=file)


def _check_unchanged(locator: Locator) -> None:
    now = content_token(locator.url, locator.kind, locator.options)
    if now != locator.token:
        raise _changed(locator, gone=bool(locator.token and not now))


def _changed(locator: Locator, *, gone: bool) -> FmristoreError:
    error = NotFoundError if gone else ChangedError
    return error(
        "the store was removed or replaced since it was opened; open it again", url=locator.url
    )


def _folder(locator: Locator) -> tuple[int, int] | None:
    """Which folder a local Zarr store is now; None for other stores, or if it is gone.

    The files of a Zarr store are opened anew for each read, and would be those of another store
    after that has taken the name. An HDF5 file stays the one that was opened.
    """
    if locator.kind != "zarr" or not is_local(locator.url):
        return None
    try:
        status = os.stat(locator.url)  # noqa: PTH116 - on the path of every read
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _OpenStores:
    """Stores that this process has open for reading, with the number of their users."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stores: OrderedDict[Locator, Store] = OrderedDict()
        self._folders: dict[Locator, tuple[int, int] | None] = {}
        self._users: Counter[Locator] = Counter()
        self._inherited: list[Store] = []

    def join(self, locator: Locator, *, fresh: bool = False) -> Store:
        """Become a user of a store, opening it if nobody has yet."""
        with self._lock:
            store = self.get(locator, fresh=fresh)
            self._users[locator] += 1
            return store

    def get(self, locator: Locator, *, fresh: bool = False) -> Store:
        """Return the opened store, opening it again if this process does not have it.

        A `fresh` locator was made a moment ago, so that the store needs no second look.
        """
        with self._lock:
            store = self._stores.get(locator)
            if store is None or store.closed:
                if not fresh:
                    _check_unchanged(locator)
                self._folders[locator] = _folder(locator)
                store = self._stores[locator] = _open(locator)
                self._drop_idle()
            elif (folder := _folder(locator)) != self._folders[locator]:
                raise _changed(locator, gone=folder is None)
            self._stores.move_to_end(locator)
            return store

    def leave(self, locator: Locator) -> None:
        """Stop being a user; the last one closes the store."""
        with self._lock:
            self._users[locator] -= 1
            if self._users[locator] <= 0:
                del self._users[locator]
                store = self._stores.pop(locator, None)
                self._folders.pop(locator, None)
                if store is not None:
                    store.close()

    def _drop_idle(self) -> None:
        idle = [known for known in self._stores if not self._users[known]]
        for known in idle[: max(0, len(idle) - _IDLE_STORES)]:
            self._stores.pop(known).close()
            del self._folders[known]

    def after_fork(self) -> None:
        """Forget the parent's handles without closing them: they are the parent's."""
        self._lock = threading.RLock()  # another thread of the parent may have held the old one
        self._inherited.extend(self._stores.values())
        self._stores.clear()
        self._folders.clear()
        self._users.clear()


_open_stores = _OpenStores()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_stores.after_fork)


class Handle:
    """A user's hold on an opened store: pickles, copies and survives forks as its locator.

    Parameters
    ----------
    locator : Locator
        Which store.
    fresh : bool
        The locator was made by `locate` a moment ago.

    Raises
    ------
    ChangedError, NotFoundError
        If the store is no longer the one that the locator was made for.
    """

    def __init__(self, locator: Locator, *, fresh: bool = False) -> None:
        self.locator = locator
        self._closed = False
        self._joined = os.getpid()
        _open_stores.join(locator, fresh=fresh)

    @property
    def store(self) -> Store:
        """The opened store of this process.

        Raises
        ------
        ClosedError
            After `close`.
        ChangedError, NotFoundError
            If the store was replaced or removed, unless the file that was opened is still there
            to be read.
        """
        if self._closed:
            raise ClosedError("this object was closed; open it again", url=self.locator.url)
        return _open_stores.get(self.locator)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Give the store up; harmless when repeated."""
        if not self._closed:
            self._closed = True
            if self._joined == os.getpid():
                _open_stores.leave(self.locator)

    def __reduce__(self) -> tuple[type[Handle], tuple[Locator]]:
        if self._closed:
            raise ClosedError("a closed object cannot be pickled", url=self.locator.url)
        return Handle, (self.locator,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
        return Handle(self.locator)
