"""Opening stores by URL: locators that travel, and the handles that stay in their process.

What user-facing objects hold is a `Handle`. It pickles and copies as its `Locator` alone and finds
the opened store in a table of this process, opening it when needed: so it survives pickling,
deepcopy, fork and any scheduler.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from fmristore_stores.blockfile import PAGE, BlockFile, FileSource
from fmristore_stores.errors import (
    ChangedError,
    ClosedError,
    FmristoreError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.location import (
    Kind,
    content_token,
    filesystem,
    identify,
    is_hdf5,
    is_local,
    kind_of_name,
    name_of,
    normalise,
)
from fmristore_stores.objects import below
from fmristore_stores.protocol import Store
from fmristore_stores.reference_targets import read_whole
from fmristore_stores.sources import FsspecSource, LocalSource
from fmristore_stores.stats import stats_of

__all__ = ["Handle", "Locator", "locate", "open_store"]

_IDLE_STORES = 32
"""Stores without users that stay open, in case they are wanted again."""
_REFERENCE_SUFFIX = ".json"
_LARGEST_JSON = 512 * 1024 * 1024
_FIRST_BYTES = 256 * 1024
"""What is read of a remote file to find out what it is; most of its metadata lie there."""
_MOST_AHEAD = 8
_MOST_PICKLED = 2 * 1024 * 1024
"""Bytes of metadata of a remote file that travel with a pickled object."""


Known: TypeAlias = Mapping[int, bytes]
"""Bytes of a file that are here already, by their offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """Where a store is and which version of it is meant; picklable.

    Parameters
    ----------
    url : str
        Normalised URL or absolute path.
    kind : {"hdf5", "zarr", "reference"}
        Which library opens it.
    token : str
        Changes when the store is replaced; empty if the filesystem offers nothing to tell by.
    options : mapping
        fsspec's storage options.
    targets : tuple of str
        What a reference file may refer to, besides what lies beside it.
    """

    url: str
    kind: Kind
    token: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    targets: tuple[str, ...] = ()


def locate(
    url: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    storage_options: Mapping[str, Any] | None = None,
    targets: Sequence[str] = (),
) -> Locator:
    """Find an existing store and what kind it is.

    Parameters
    ----------
    url : str or path
        Local path or any URL that fsspec knows.
    kind : {"hdf5", "zarr", "reference"}, optional
        Insist on a kind. By default a name that ends in ``.json`` is that of a reference file, and
        the first bytes tell the others.
    storage_options : mapping, optional
        Passed to fsspec.
    targets : sequence of str, optional
        URLs or paths that a reference file may refer to, besides what lies beside it.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    UnknownFormatError
        If it is neither HDF5 nor Zarr.
    """
    locator, known = _locate(url, kind, storage_options, targets)
    if known is not None:
        _ahead.put(locator, known)
    return locator


class _Ahead:
    """What `locate` read of files that are about to be opened."""

    def __init__(self) -> None:
        self._read: OrderedDict[Locator, Known] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, locator: Locator, known: Known) -> None:
        """Keep it for a moment."""
        with self._lock:
            self._read[locator] = known
            while len(self._read) > _MOST_AHEAD:
                self._read.popitem(last=False)

    def take(self, locator: Locator) -> Known | None:
        """Give it away."""
        with self._lock:
            return self._read.pop(locator, None)

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self._read.clear()


_ahead = _Ahead()


def _locate(
    url: str | os.PathLike[str],
    kind: Kind | None,
    storage_options: Mapping[str, Any] | None,
    targets: Sequence[str],
) -> tuple[Locator, Known | None]:
    """Find a store, and give along what was read of it on the way, by offset."""
    options = dict(storage_options or {})
    normal = normalise(url)
    if kind == "reference" or (
        kind is None and name_of(normal).lower().endswith(_REFERENCE_SUFFIX)
    ):
        data = read_whole(normal, options, limit=_LARGEST_JSON)
        token, allowed = _digest(data), tuple(map(str, targets))
        locator = Locator(
            url=normal, kind="reference", token=token, options=options, targets=allowed
        )
        return locator, {0: data}
    if not is_local(normal):
        named = (kind or kind_of_name(normal)) == "zarr"
        found = (_look_at_zarr if named else _look)(normal, options, kind)
        if found is not None:
            return found
    try:
        known, token = identify(normal, options, kind=kind)
    except (NotFoundError, UnknownFormatError) as error:
        raise _explained(error, normal, options) from error
    return Locator(url=normal, kind=known, token=token, options=options), None


def _explained(error: FmristoreError, url: str, options: Mapping[str, Any]) -> FmristoreError:
    """The error, or one that says that somebody is writing the store that is not there."""
    from fmristore_stores.leftovers import explain

    text = explain(url, options)
    return error if text is None else StorageError(f"{error.message}: {text}", url=url)


def _look(url: str, options: Mapping[str, Any], kind: Kind | None) -> tuple[Locator, Known] | None:
    """Look at a remote file that may be HDF5; None if it is not, or nothing tells its version."""
    fs, path = filesystem(url, options)
    try:
        begin = FsspecSource(fs, stats=stats_of(url)).look(path, _FIRST_BYTES)
    except NotFoundError:
        return None
    if kind is None and not is_hdf5(begin.data):
        return None
    token = f"{begin.version}-{begin.size}" if begin.version else str(begin.size)
    return Locator(url=url, kind="hdf5", token=token, options=options), {0: begin.data}


def open_store(
    url: str | os.PathLike[str],
    mode: Literal["r", "r+"] = "r",
    *,
    kind: Kind | None = None,
    storage_options: Mapping[str, Any] | None = None,
    targets: Sequence[str] = (),
) -> Store:
    """Open an existing store by path or URL.

    Parameters
    ----------
    url : str or path
        Local path or any URL that fsspec knows.
    mode : {"r", "r+"}
        Reading, or reading and writing in place.
    kind : {"hdf5", "zarr", "reference"}, optional
        Insist on a kind; see `locate`.
    storage_options : mapping, optional
        Passed to fsspec.
    targets : sequence of str, optional
        See `locate`.

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
    locator, known = _locate(url, kind, storage_options, targets)
    return _open(locator, mode, known)


def _look_at_zarr(
    url: str, options: Mapping[str, Any], kind: Kind | None
) -> tuple[Locator, Known] | None:
    """Look at the metadata of a Zarr store on S3; None if they are long, or not there."""
    if kind == "hdf5" or not _is_s3(url):
        return None
    fs, path = filesystem(url, options)
    try:
        begin = FsspecSource(fs, stats=stats_of(url)).look(
            below(fs, path, "zarr.json"), _FIRST_BYTES
        )
    except NotFoundError:
        return None
    if begin.size != len(begin.data) or not begin.version:
        return None
    token = f"{begin.version}-{begin.size}"
    return Locator(url=url, kind="zarr", token=token, options=options), {0: begin.data}


def _open(locator: Locator, mode: Literal["r", "r+"] = "r", known: Known | None = None) -> Store:
    """Open a store; `known` are bytes of its file by their offset."""
    if locator.kind == "reference":
        return _open_references(locator, mode, known)
    stats = stats_of(locator.url)
    if locator.kind == "zarr":
        from fmristore_stores.zarr import ZarrStore

        if is_local(locator.url):
            return ZarrStore(locator.url, mode=mode, source=LocalSource(stats=stats))
        fs, path = filesystem(locator.url, locator.options)
        source = FsspecSource(fs, stats=stats)
        root = known.get(0) if known else None
        return ZarrStore(path, mode=mode, url=locator.url, fs=fs, source=source, metadata=root)

    from fmristore_stores.hdf5 import HDF5Store

    if is_local(locator.url):
        return HDF5Store(locator.url, mode=mode)
    fs, path = filesystem(locator.url, locator.options)
    source = FsspecSource(fs, etag=_etag(locator), stats=stats)
    file = BlockFile(source, path, size=_size(locator), known=known)
    _files[locator] = file
    known_first = FileSource(source, path, file)
    return HDF5Store(path, mode=mode, url=locator.url, source=known_first, file=file)


def _open_references(locator: Locator, mode: Literal["r", "r+"], known: Known | None) -> Store:
    from fmristore_stores.reference import ReferenceStore

    if mode != "r":
        msg = "a reference file is only read; change the file that it refers to"
        raise ReadOnlyError(msg, url=locator.url)
    data = known[0] if known else read_whole(locator.url, locator.options, limit=_LARGEST_JSON)
    if locator.token != _digest(data):
        raise _changed(locator, gone=False)
    return ReferenceStore(data, url=locator.url, options=locator.options, targets=locator.targets)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _etag(locator: Locator) -> str:
    """Version of a remote file, if it is one that a server compares; see `content_token`."""
    version = locator.token.rpartition("-")[0]
    return version if version.startswith('"') else ""


def _size(locator: Locator) -> int | None:
    size = locator.token.rpartition("-")[2]
    return int(size) if _etag(locator) and size.isdecimal() else None


def _check_unchanged(locator: Locator) -> None:
    pinned = locator.kind == "hdf5" and _is_s3(locator.url) and _size(locator) is not None
    if locator.kind == "reference" or pinned:
        return  # opening it compares the version
    now = content_token(locator.url, locator.kind, locator.options)
    if now != locator.token:
        raise _changed(locator, gone=bool(locator.token and not now))


def _is_s3(url: str) -> bool:
    return url.startswith(("s3://", "s3a://"))


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


_files: weakref.WeakValueDictionary[Locator, BlockFile] = weakref.WeakValueDictionary()
"""Remote HDF5 files that are open."""


class _OpenStores:
    """Stores that this process has open for reading, with the number of their users."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stores: OrderedDict[Locator, Store] = OrderedDict()
        self._folders: dict[Locator, tuple[int, int] | None] = {}
        self._users: Counter[Locator] = Counter()
        self._inherited: list[Store] = []

    def join(self, locator: Locator, *, fresh: bool = False, known: Known | None = None) -> Store:
        """Become a user of a store, opening it if nobody has yet."""
        with self._lock:
            store = self.get(locator, fresh=fresh, known=known)
            self._users[locator] += 1
            return store

    def get(self, locator: Locator, *, fresh: bool = False, known: Known | None = None) -> Store:
        """Return the opened store, opening it again if this process does not have it.

        A `fresh` locator was made a moment ago, so that the store needs no second look.
        """
        with self._lock:
            ahead = _ahead.take(locator) if fresh else None
            store = self._stores.get(locator)
            if store is None or store.closed:
                if not fresh:
                    _check_unchanged(locator)
                self._folders[locator] = _folder(locator)
                store = self._stores[locator] = _open(locator, known=ahead or known)
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
        _files.clear()
        _ahead.after_fork()


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
    known : mapping of int to bytes, optional
        Bytes of its file that are here already, by their offset.

    Raises
    ------
    ChangedError, NotFoundError
        If the store is no longer the one that the locator was made for.
    """

    def __init__(
        self, locator: Locator, *, fresh: bool = False, known: Known | None = None
    ) -> None:
        self.locator = locator
        self._closed = False
        self._joined = os.getpid()
        _open_stores.join(locator, fresh=fresh, known=known)

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

    def __reduce__(self) -> tuple[Any, ...]:
        """As the locator, and the metadata that were read of a remote HDF5 file.

        Whoever unpickles it then has the table of chunks without asking for it again.
        """
        if self._closed:
            raise ClosedError("a closed object cannot be pickled", url=self.locator.url)
        return _unpickle, (self.locator, _used(self.locator))

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
        return Handle(self.locator)


def _unpickle(locator: Locator, known: Known | None) -> Handle:
    return Handle(locator, known=known)


def _used(locator: Locator) -> Known | None:
    """Metadata that were read of a remote HDF5 file, unless they are many."""
    file = _files.get(locator)
    used = file.used if file is not None else {}
    return used if 0 < len(used) * PAGE <= _MOST_PICKLED else None
