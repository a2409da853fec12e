"""Opening stores by URL: locators that travel, and the handles that stay in their process.

What user-facing objects hold is a `Handle`. It pickles and copies as its `Locator` alone and finds
the opened store in a table of this process, opening it when needed: so it survives pickling,
deepcopy, fork and any scheduler.

Locators, handles and the stores kept open refer to each other, so all are in this one long module.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from fmristore_stores.causes import causes
from fmristore_stores.chunks.in_place import InPlaceReads
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    ChangedError,
    ClosedError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.io.alive import AliveKeys, AliveSet, AliveValues
from fmristore_stores.io.block_file import PAGE, BlockFile, FileSource
from fmristore_stores.io.forks import in_forked_child
from fmristore_stores.io.lifetime import Version, close_forgotten
from fmristore_stores.io.location import (
    Kind,
    content_token,
    filesystem,
    identify,
    is_hdf5,
    is_local,
    kind_of_name,
    name_of,
    normalise,
    token_of,
)
from fmristore_stores.io.objects import below
from fmristore_stores.io.sources import FsspecSource
from fmristore_stores.io.stats import Stats, stats_of
from fmristore_stores.io.whole import read_whole
from fmristore_stores.protocol import Capability, Store
from fmristore_stores.shown import shown_url

__all__ = ["FixedHandle", "Handle", "Locator", "Opened", "check_untrusted", "locate", "open_store"]

_MOST_OPEN = 128
"""Stores that may be open at once; the others are opened again when they are used."""
_ATTEMPTS = 3
"""Attempts to open something that is replaced at the very moment."""
_REFERENCE_SUFFIX = ".json"
_LARGEST_JSON = 512 * 1024 * 1024
_FIRST_BYTES = 256 * 1024
"""Bytes read of a remote file to find out what it is; most of its metadata lie there."""
_MOST_AHEAD = 8
_MOST_PICKLED = 2 * 1024 * 1024
"""Bytes of metadata of a remote file that travel with a pickled object."""


Known: TypeAlias = Mapping[int, bytes]
"""Bytes of a file that are here already, by their offset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """Place of a store, and the version of it that is meant; picklable.

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
    group : str
        Path of the group of a reference file that is meant.
    """

    url: str
    kind: Kind
    token: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    targets: tuple[str, ...] = ()
    group: str = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown_url(self.url)!r}, {self.kind})"


def locate(
    url: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    storage_options: Mapping[str, Any] | None = None,
    targets: Sequence[str] = (),
    group: str = "",
) -> Locator:
    """Find an existing store and what kind it is.

    Parameters
    ----------
    url : str or path
        Local path or any URL that fsspec knows.
    kind : {"hdf5", "zarr", "reference"}, optional
        Container that it must be. By default a name that ends in ``.json`` is that of a reference
        file, and the first bytes tell the others.
    storage_options : mapping, optional
        Passed to fsspec.
    targets : sequence of str, optional
        URLs or paths that a reference file may refer to, besides what lies beside it.
    group : str
        Path of a group of a reference file of several, which is then taken for the store.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    UnknownFormatError
        If it is neither HDF5 nor Zarr.
    InvalidInputError
        If a group of something else than a reference file is meant.
    """
    normal = normalise(url)
    stats = stats_of(normal)  # counts of what is read here go on in the store's
    locator, known = _locate(normal, kind, storage_options, targets, group)
    if known is not None:
        _ahead.put(locator, known, stats)
    return locator


class _Prefetched:
    """Bytes that `locate` read of files that are about to be opened."""

    def __init__(self) -> None:
        self._read: OrderedDict[Locator, tuple[Known, Stats]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, locator: Locator, known: Known, stats: Stats) -> None:
        """Keep it for a moment."""
        with self._lock:
            self._read[locator] = known, stats
            while len(self._read) > _MOST_AHEAD:
                self._read.popitem(last=False)

    def take(self, locator: Locator) -> Known | None:
        """Give it away."""
        with self._lock:
            found = self._read.pop(locator, None)
        return None if found is None else found[0]

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self._read.clear()


_ahead = _Prefetched()


def _locate(
    normal: str,
    kind: Kind | None,
    storage_options: Mapping[str, Any] | None,
    targets: Sequence[str],
    group: str = "",
) -> tuple[Locator, Known | None]:
    """Find the store at a normalised URL, and give along what was read of it, by offset."""
    options = dict(storage_options or {})
    if kind is not None and kind not in get_args(Kind):
        raise InvalidInputError(
            f"kind {kind!r:.40}: expected {', '.join(map(repr, get_args(Kind)))}", url=normal
        )
    if kind == "reference" or (
        kind is None and name_of(normal).lower().endswith(_REFERENCE_SUFFIX)
    ):
        data = read_whole(normal, options, limit=_LARGEST_JSON)
        locator = Locator(
            url=normal,
            kind="reference",
            token=_digest(data),
            options=options,
            targets=tuple(map(str, targets)),
            group=group.strip("/"),
        )
        return locator, {0: data}
    if group:
        raise InvalidInputError("group= is of reference files, which this is not", url=normal)
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
    from fmristore_stores.publishing.leftovers import explain

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
    trusted: bool = True,
) -> Store:
    """Open an existing store by path or URL.

    Parameters
    ----------
    url : str or path
        Local path or any URL that fsspec knows.
    mode : {"r", "r+"}
        Reading, or reading and writing in place.
    kind : {"hdf5", "zarr", "reference"}, optional
        Container that it must be; see `locate`.
    storage_options : mapping, optional
        Passed to fsspec.
    targets : sequence of str, optional
        See `locate`.
    trusted : bool
        If not, an HDF5 file is parsed in a process of its own first: see `check_untrusted`.

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
    CorruptDataError, InvalidInputError
        As `check_untrusted`.
    """
    locator, known = _locate(normalise(url), kind, storage_options, targets)
    if not trusted:
        check_untrusted(locator)
    return _open(locator, mode, known)


def check_untrusted(locator: Locator) -> None:
    """Parse an HDF5 file in a process of its own, so that this one need not be the first.

    Nothing is done for other kinds of store, whose metadata no foreign library parses.

    Parameters
    ----------
    locator : Locator
        Where it is.

    Raises
    ------
    CorruptDataError
        If the HDF5 library crashes on the file, does not come to an end or takes too much memory.
    ChangedError, NotFoundError
        If another file is there afterwards.
    InvalidInputError
        If no other process can read it, as in ``memory://``.
    StorageError
        If no process can be started.
    """
    if locator.kind != "hdf5":
        return
    from fmristore_stores.hdf5.probe import probe

    probe(locator.url, locator.options)
    _check_unchanged(locator)


def _look_at_zarr(
    url: str, options: Mapping[str, Any], kind: Kind | None
) -> tuple[Locator, Known] | None:
    """Look at the metadata of a remote Zarr store; None if they are long, or not there."""
    if kind == "hdf5":
        return None
    fs, path = filesystem(url, options)
    try:
        begin = FsspecSource(fs, stats=stats_of(url)).look(
            below(fs, path, "zarr.json"), _FIRST_BYTES
        )
    except NotFoundError:
        return None
    except FmristoreError:
        if _is_s3(url):
            raise
        return None  # servers without ranges or sizes serve whole objects; else that way reports
    if begin.size != len(begin.data):
        return None
    version, size = begin.version, begin.size
    token = token_of("zarr", version, begin.written, size) if version else str(size)
    return Locator(url=url, kind="zarr", token=token, options=options), {0: begin.data}


def _open(locator: Locator, mode: Literal["r", "r+"] = "r", known: Known | None = None) -> Store:
    """Open a store; `known` are bytes of its file by their offset."""
    if locator.kind == "reference":
        return _open_references(locator, mode, known)
    stats = stats_of(locator.url)
    if locator.kind == "zarr":
        from fmristore_stores.zarr.store import ZarrStore

        if is_local(locator.url):
            return ZarrStore(locator.url, mode=mode)
        fs, path = filesystem(locator.url, locator.options)
        version = _version(locator, stats) if mode == "r" else None
        source = FsspecSource(fs, stats=stats, version=version)
        root = known.get(0) if known else None
        return ZarrStore(
            path,
            mode=mode,
            url=locator.url,
            fs=fs,
            source=source,
            metadata=root,
        )

    from fmristore_stores.hdf5.store import HDF5Store

    if is_local(locator.url):
        return HDF5Store(locator.url, mode=mode)
    fs, path = filesystem(locator.url, locator.options)
    version = None if _is_pinned(locator) else _version(locator, stats)
    source = FsspecSource(fs, etag=_etag(locator), stats=stats, version=version)
    file = BlockFile(source, path, size=_size(locator), known=known)
    _files.put(locator, file)
    known_first = FileSource(source, path, file)
    return HDF5Store(path, mode=mode, url=locator.url, source=known_first, file=file)


def _version(locator: Locator, stats: Stats) -> Version | None:
    """Check that a remote store is still the same; None if nothing tells that."""
    if not locator.token:
        return None

    def is_same() -> bool:
        stats.add(requests=1)
        return content_token(locator.url, locator.kind, locator.options) == locator.token

    return Version(locator.url, is_same)


def _is_pinned(locator: Locator) -> bool:
    """Return whether the server refuses to serve any other version of a file than this one."""
    pins = ("s3://", "s3a://", "http://", "https://")
    return bool(_etag(locator)) and locator.url.startswith(pins)


def _open_references(locator: Locator, mode: Literal["r", "r+"], known: Known | None) -> Store:
    from fmristore_stores.reference.store import ReferenceStore

    if mode != "r":
        msg = "a reference file is only read; change the file that it refers to"
        raise ReadOnlyError(msg, url=locator.url)
    data = known[0] if known else read_whole(locator.url, locator.options, limit=_LARGEST_JSON)
    if locator.token != _digest(data):
        raise _changed(locator, gone=False)
    return ReferenceStore(
        data,
        url=locator.url,
        options=locator.options,
        targets=locator.targets,
        group=locator.group,
    )


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


_files: AliveValues[Locator, BlockFile] = AliveValues()
"""Remote HDF5 files that are open."""


class Opened:
    """An opened store, and what was made of it by its users.

    Parameters
    ----------
    store : Store
        The store.

    Attributes
    ----------
    readers : AliveKeys
        Readers of its arrays, by whom they belong to: they keep the store open, and so they end
        with this.
    in_place : AliveKeys
        Their reads in place, where there are any, by whom they belong to.
    """

    __slots__ = ("__weakref__", "_attributes", "in_place", "readers", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.readers: AliveKeys[ChunkReader] = AliveKeys()
        self.in_place: AliveKeys[InPlaceReads] = AliveKeys()
        self._attributes: Mapping[str, Any] | None = None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the root group, read once where they cannot change; not to be changed."""
        found = self._attributes
        if found is None:
            found = self.store.root.view_attributes()
            if Capability.WRITE not in self.store.capabilities:
                self._attributes = found
        return found


class _Entry:
    """One store of this process: its handles, and the opened store while it is open.

    It is closed with its last handle. It is also closed when too many others were used since, and
    then opened again at its next use, if it is still the same.
    """

    def __init__(self, locator: Locator) -> None:
        self.locator = locator
        self.stats = stats_of(locator.url)  # they go on as long as there is a handle
        self.handles: AliveSet[Handle] = AliveSet()
        self.opened: Opened | None = None
        self.used = 0
        self.lock = threading.Lock()

    def open(self, *, fresh: bool = False, known: Known | None = None) -> Opened:
        """Return the opened store, opening it if it is not.

        A `fresh` locator was made a moment ago, so that the store needs no look before.
        """
        opened = self.opened
        if opened is not None and not opened.store.closed:
            self.used = next(_clock)
            return opened
        with self.lock:  # others wait for this store alone
            opened = self.opened
            if opened is None or opened.store.closed:
                if not fresh:
                    _check_unchanged(self.locator)
                opened = Opened(_open_the_same(self.locator, known))
                self.used = next(_clock)
                self.opened = opened
                _open_stores.limit(self)
        return opened

    def rest(self) -> None:
        """Close the store until it is used again, when the reads under way have ended."""
        self.opened = None
        close_forgotten()

    def close(self) -> None:
        """Close the store when all reads that are under way have ended."""
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.store.close()


def _open_the_same(locator: Locator, known: Known | None) -> Store:
    """Open the store that a locator was made for, and no other."""
    try:
        store = _open(locator, known=known)
    except StorageError as error:
        if not _is_about_descriptors(error) or not _open_stores.close_idle():
            raise
        store = _open(locator, known=known)
    local = is_local(locator.url) and locator.kind != "reference"
    if local and store.token not in ("", locator.token):
        store.close()
        raise _changed(locator, gone=False)
    return store


def _is_about_descriptors(error: BaseException) -> bool:
    """Return whether the process has as many files open as it may have."""
    full = (errno.EMFILE, errno.ENFILE)
    return any(isinstance(cause, OSError) and cause.errno in full for cause in causes(error))


def _most_open() -> int:
    """Stores that may be open at once: a part of the files that the process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return _MOST_OPEN
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return _MOST_OPEN
    return max(1, min(_MOST_OPEN, allowed // 4))


_clock = itertools.count(1)


class _OpenStores:
    """Stores that this process reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: AliveValues[Locator, _Entry] = AliveValues()
        self._inherited: list[Opened] = []

    def join(self, handle: Handle, locator: Locator, *, fresh: bool, known: Known | None) -> _Entry:
        """Let a handle become a user of a store, opening it if nobody has yet."""
        close_forgotten()
        with self._lock:
            entry = self._entries.get(locator)
            if entry is None:
                entry = self._entries.put(locator, _Entry(locator))
            entry.handles.add(handle)
        ahead = _ahead.take(locator)
        try:
            entry.open(fresh=fresh, known=(ahead if fresh else None) or known)
        except BaseException:
            entry.handles.discard(handle)
            raise
        return entry

    def leave(self, handle: Handle, entry: _Entry) -> None:
        """Let a handle stop being a user; the last one closes the store."""
        with self._lock:
            entry.handles.discard(handle)
            last = not entry.handles
        if last:
            entry.close()
        close_forgotten()

    def limit(self, newest: _Entry) -> None:
        """Close the stores that were not used for longest, if too many are open."""
        entries = self._open_entries()
        surplus = len(entries) - _most_open() if len(entries) > 1 else 0
        if surplus > 0:
            for entry in sorted(entries, key=lambda entry: entry.used)[:surplus]:
                if entry is not newest:
                    entry.opened = None  # who is reading it keeps it open until the read has ended
            del entries
            close_forgotten()

    def close_idle(self) -> bool:
        """Close all stores that nobody is reading; whether there was one."""
        entries = self._open_entries()
        for entry in entries:
            entry.opened = None
        close_forgotten()
        return bool(entries)

    def _open_entries(self) -> list[_Entry]:
        with self._lock:
            return [entry for entry in self._entries.values() if entry.opened is not None]

    def after_fork(self) -> None:
        """Forget the parent's stores without closing them: they are the parent's."""
        self._lock = threading.Lock()  # another thread of the parent may have held the old one
        for entry in list(self._entries.values()):
            entry.lock = threading.Lock()
            if entry.opened is not None:
                self._inherited.append(entry.opened)
                entry.opened = None
        _files.clear()
        _ahead.after_fork()


_open_stores = _OpenStores()
in_forked_child(_open_stores.after_fork)


class Handle:
    """A user's hold on an opened store: pickles, copies and survives forks as its locator.

    A store is closed when its last handle was closed or dropped.

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
        self._closed = False
        for attempts_left in range(_ATTEMPTS if fresh else 1, 0, -1):
            self.locator = locator
            try:
                self._entry = _open_stores.join(self, locator, fresh=fresh, known=known)
            except ChangedError:  # replaced a moment ago
                if attempts_left == 1:
                    raise
                locator = _again(locator)
            else:
                return

    @property
    def opened(self) -> Opened:
        """The opened store of this process, to be held while it is read.

        Raises
        ------
        ClosedError
            After `close`.
        ChangedError, NotFoundError
            If it had to be opened again, and was replaced or removed.
        """
        if self._closed:
            raise ClosedError("this object was closed; open it again", url=self.locator.url)
        return self._entry.open()

    @property
    def store(self) -> Store:
        """The opened store of this process; raises as `opened` does."""
        return self.opened.store

    @property
    def closed(self) -> bool:
        """True if `close` was called."""
        return self._closed

    def rest(self) -> None:
        """Close a local HDF5 file until it is used: HDF5 locks what is open against writers.

        What was just written and is given back may be dropped without being read, or be meant for
        another program; where it is used it is opened again, if it is still the same.
        """
        if self.locator.kind == "hdf5" and is_local(self.locator.url):
            self._entry.rest()

    def close(self) -> None:
        """Give the store up; harmless when repeated.

        Reads of other threads that are under way end first, and then the last handle closes the
        store.
        """
        if not self._closed:
            self._closed = True
            _open_stores.leave(self, self._entry)

    def __reduce__(self) -> tuple[Any, ...]:
        """As the locator, and the metadata that were read of a remote HDF5 file.

        Whoever unpickles it then has the table of chunks without asking for it again.
        """
        if self._closed:
            raise ClosedError("a closed object cannot be pickled", url=self.locator.url)
        return _unpickle, (self.locator, _used(self.locator))

    def __copy__(self) -> Handle:
        if self.closed:
            raise ClosedError("a closed object cannot be copied", url=self.locator.url)
        return Handle(self.locator)

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
        return self.__copy__()


def _again(locator: Locator) -> Locator:
    """The locator of what is at the same place now."""
    return locate(
        locator.url,
        kind=locator.kind,
        storage_options=locator.options,
        targets=locator.targets,
        group=locator.group,
    )


def _unpickle(locator: Locator, known: Known | None) -> Handle:
    return Handle(locator, known=known)


def _used(locator: Locator) -> Known | None:
    """Metadata that were read of a remote HDF5 file, unless they are many."""
    file = _files.get(locator)
    used = file.used if file is not None else {}
    return used if 0 < len(used) * PAGE <= _MOST_PICKLED else None


class FixedHandle(Handle):
    """A hold on one opened store that shares nothing with other users of the same URL.

    Parameters
    ----------
    locator : Locator
        Where the store is.
    store : Store
        To be closed by the caller.
    """

    def __init__(self, locator: Locator, store: Store) -> None:
        self.locator = locator
        self._fixed = Opened(store)

    @property
    def opened(self) -> Opened:
        """The opened store."""
        return self._fixed

    def rest(self) -> None:
        """Do nothing: the store belongs to the caller."""

    @property
    def closed(self) -> bool:
        """True if the store is closed."""
        return self._fixed.store.closed

    def close(self) -> None:
        """Do nothing: the store belongs to the caller."""
