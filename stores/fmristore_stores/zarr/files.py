"""The objects of a Zarr store below zarr-python: their names, sizes, and writing them whole.

Zarr-python reads metadata and, as the reference, data. Locating chunks and writing encoded
ones needs no event loop and goes through `LocalFiles` or `RemoteFiles`.

Local and remote objects share names, errors and checks, which makes the module long.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from fmristore_stores.chunks.threads import for_each
from fmristore_stores.errors import (
    CorruptDataError,
    FmristoreError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.io import objects
from fmristore_stores.io.conditional_put import NewObjects
from fmristore_stores.io.flushing import sync, write_parts
from fmristore_stores.io.local_files import lies_in
from fmristore_stores.io.owners import hidden_name, own_mark
from fmristore_stores.io.replacing import remove_folders, remove_objects
from fmristore_stores.io.sources import (
    Answered,
    Arrived,
    Folder,
    FsspecSource,
    status_of,
    storage_error,
)
from fmristore_stores.io.stats import Stats
from fmristore_stores.limits import check_metadata, check_values, is_metadata
from fmristore_stores.protocol import Buffer
from fmristore_stores.zarr.documents import ROOT, plain_copies

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrByteStore

__all__ = ["Files", "LocalFiles", "RemoteFiles"]


_READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_PAGE = 1000
"""Objects that one request of a listing returns on object storage."""
_THREADS = 16
_NO_RANGE = 416
"""Status of an answer to a range that begins beyond the end of an object."""
_MAX_FOLDERS = 100_000
_MOST_UNSAFE = 4096
"""Files and folders that are remembered to be flushed; then they are flushed at once."""
_FLUSHES = 8
"""Files that are flushed at once: the system then writes them together."""
_NO_NAMES = frozenset({"", ".", ".."})
"""Parts of a path that are no names of what lies in a folder."""


class Files(Protocol):
    """Objects of one store, named by keys relative to its root."""

    can_list: bool
    """True if the objects below a key can be found out."""
    fresh: bool
    """True if `put` itself refuses what is there already and was not put here."""

    def zarr_store(self, *, read_only: bool) -> ZarrByteStore:
        """The same objects as zarr-python sees them."""

    def path(self, key: str) -> str:
        """Name of an object as a `ByteSource` takes it."""

    def document(self, key: str) -> bytes | None:
        """Content of a metadata document; None where zarr-python shall look for it."""

    def sizes(self, keys: Sequence[str], folder: str, count: int) -> list[int | None]:
        """Length of each object, None where there is none.

        `folder` holds all of them and about `count` objects.
        """

    def begin(self, keys: Sequence[str], length: int, arrived: Arrived, answered: Answered) -> None:
        """Ask for the first bytes of objects: see `FsspecSource.begin`.

        None need arrive where one is missing, or where another way takes no longer.
        """

    def names(self, folder: str) -> list[str]:
        """Names directly below a folder, sorted."""

    def below(self, folder: str) -> Iterable[str]:
        """Keys of all objects below a folder; links to folders are not followed."""

    def exists(self, key: str) -> bool:
        """Return whether there is an object or a folder of that name."""

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write one object made of `parts`; readers see all of it or what was there before."""

    def remove(self, key: str) -> None:
        """Delete one object if it is there."""

    def remove_tree(self, key: str) -> None:
        """Delete a folder with everything below it."""

    def stamp(self) -> int:
        """Time at which the root's metadata were written, for `changed`."""

    def changed(self, keys: Sequence[str], stamp: int) -> list[bool]:
        """True for each object, or list of names in a folder, that may be newer than that, or gone.

        False where nothing tells without a request for each.
        """

    def refresh(self) -> None:
        """Forget listings that something else than this object may have outdated."""

    def flush(self) -> None:
        """Make what was written survive a power cut, where that takes anything."""

    def release_root(self) -> None:
        """Write the root's metadata if they were held back."""


class LocalFiles:
    """A directory.

    No symbolic link that leads out of the directory is followed, and nothing but regular files is
    opened: a store that somebody else made must not reach any other file of its reader.

    Parameters
    ----------
    root : str
        The directory; it may itself be a link.
    folder : Folder, optional
        The same one, opened for reading: what is read then lies in that very folder, also when
        another one takes over its name.
    durable : bool
        Whether a store that exists is changed: all that was written, and the folders that it lies
        in, are on the disk before the root's metadata are replaced, and these thereafter.
    new : bool
        Whether the store is made here, under a name that nobody knows.
    """

    can_list = True
    fresh = False

    def __init__(
        self, root: str, folder: Folder | None = None, *, durable: bool = False, new: bool = False
    ) -> None:
        self._given = root
        self._new = new
        self._durable = durable
        self._unsafe: dict[str, None] = {}  # files and folders that may not be on the disk yet
        self._lock = threading.Lock()
        self._folder = folder
        self._root = os.path.realpath(root) if folder is None else folder.path
        self._identity = _identity(self._root) if folder is None else None
        self._inside = os.path.join(self._root, "")  # noqa: PTH118 - hot path, as below
        self._folders = {self._root}

    def zarr_store(self, *, read_only: bool) -> ZarrByteStore:
        """The same objects as zarr-python sees them."""
        from fmristore_stores.zarr.byte_stores import ConfinedStore

        return ConfinedStore(self._root, read_only=read_only, files=self)

    def path(self, key: str) -> str:
        """Absolute path of a file."""
        return f"{self._inside}{key}" if key else self._root

    def status(self, key: str) -> os.stat_result | None:
        """Status of the file or folder `key`, None where there is none.

        Raises
        ------
        MetadataError
            If a symbolic link on the way leads out of the directory.
        CorruptDataError
            If it is a device, pipe or socket.
        """
        path = self.path(key)
        folder = os.path.dirname(path)  # noqa: PTH120
        try:
            self._enter(folder, key)
            status = self._look(path)
            if stat.S_ISLNK(status.st_mode):
                self._confine(path, key)
                status = self._look(path, follow=True)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise storage_error(error, path) from error
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise CorruptDataError("this is neither a file nor a folder", url=path)
        return status

    def _look(self, path: str, *, follow: bool = False) -> os.stat_result:
        name, within = (path, None) if self._folder is None else self._folder.place(path)
        return os.stat(name, dir_fd=within, follow_symlinks=follow)

    def _enter(self, folder: str, key: str) -> None:
        """Look once at every folder on the way to an object: only a link can lead out."""
        if folder in self._folders:
            return
        names = folder.removeprefix(self._inside).split("/")
        if not folder.startswith(self._inside) or not _NO_NAMES.isdisjoint(names):
            self._confine(folder, key)
            return
        at = self._inside
        for name in names:
            at += name
            if at not in self._folders:
                # Windows has junctions too, which only resolving the path tells from folders.
                if os.name == "nt" or stat.S_ISLNK(self._look(at).st_mode):
                    self._confine(at, key)
                if len(self._folders) < _MAX_FOLDERS:
                    self._folders.add(at)
            at += "/"

    def _confine(self, path: str, key: str) -> None:
        if not lies_in(path, self._root):
            msg = (
                f"{key} is reached through a symbolic link that leads out of the store to "
                f"{os.path.realpath(path)}; copy the store with its links resolved if you trust it"
            )
            raise MetadataError(msg, url=self._given)

    def document(self, key: str) -> bytes | None:
        """Content of a metadata document; None if it is not there, or not to be read.

        Raises
        ------
        MemoryLimitError
            If it is too long.
        """
        try:
            status = self.status(key)
            if status is None:
                return None
            check_metadata(status.st_size, key, self._given)
            name, within = self._place(key)
            with open(os.open(name, _READING, dir_fd=within), "rb", buffering=0) as file:  # noqa: PTH123
                data = file.read()
                check_values(data, self._given)
                return data
        except MemoryLimitError:
            raise
        except (OSError, FmristoreError):
            return None

    def check_readable(self, key: str) -> None:
        """Refuse what `status` refuses, and metadata that are too long."""
        status = self.status(key)
        if status is not None and is_metadata(key):
            check_metadata(status.st_size, key, self._given)

    def sizes(
        self,
        keys: Sequence[str],
        folder: str,  # noqa: ARG002 - for stores that list
        count: int,  # noqa: ARG002
    ) -> list[int | None]:
        """Length of each file, None where there is none; one ``lstat`` each."""
        found = (self.status(key) for key in keys)
        return [s.st_size if s is not None and stat.S_ISREG(s.st_mode) else None for s in found]

    def begin(self, *_: object) -> None:
        """Nothing arrives: a disk may as well be asked twice."""

    def names(self, folder: str) -> list[str]:
        """Names directly below a folder, sorted."""
        try:
            name, within = self._place(folder)
            if within is None:
                return sorted(os.listdir(name))  # noqa: PTH208
            descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=within)
            try:
                return sorted(os.listdir(descriptor))  # noqa: PTH208
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, self.path(folder)) from error

    def below(self, folder: str) -> Iterable[str]:
        """Keys of all files below a folder; links to folders are not followed."""
        for path, _, names in os.walk(self.path(folder)):
            for name in names:
                yield f"{path}/{name}".replace(os.sep, "/").removeprefix(self._inside)

    def exists(self, key: str) -> bool:
        """Return whether there is a file, folder or link of that name."""
        try:
            self._look(self.path(key))
        except (OSError, ValueError):
            return False
        return True

    def _place(self, key: str) -> tuple[str, int | None]:
        """Name of a file or folder, and the descriptor of the folder that it is relative to."""
        path = self.path(key)
        return (path, None) if self._folder is None else self._folder.place(path)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write a file beside its place and rename it; its folders are made, the root is not.

        What a new store does not have yet is written to its place: nobody reads that store.
        """
        self.status(key)
        target = self.path(key)
        folder, name = os.path.split(target)
        safe = key == ROOT and self._durable
        try:
            self._check_root()
            self._make_folder(folder)
            if safe:
                self.flush()
            if not self._new or not _is_made(target, parts):
                with own_mark() as mark:
                    partial = os.path.join(folder, hidden_name(name, mark, "partial"))  # noqa: PTH118
                    _write_new(partial, parts, target, safe=safe)
            if safe:
                sync(folder)
            else:
                self._note(target, folder)
        except OSError as error:
            raise storage_error(error, target) from error

    def _check_root(self) -> None:
        """See that the directory is still the one that was opened, for it is never made again."""
        if _identity(self._root) != self._identity:
            msg = "the folder that is being written was removed or replaced meanwhile"
            raise StorageError(msg, url=self._given)

    def _make_folder(self, folder: str) -> None:
        """Make a folder below the root, and those on the way to it."""
        try:
            os.mkdir(folder)  # noqa: PTH102
        except FileExistsError:
            return
        except FileNotFoundError:
            parent = os.path.dirname(folder)  # noqa: PTH120
            if not parent.startswith(self._inside):
                raise
            self._make_folder(parent)
            self._make_folder(folder)
            return
        self._note(os.path.dirname(folder))  # noqa: PTH120

    def _note(self, *paths: str) -> None:
        """Remember what is to be flushed."""
        if self._durable:
            with self._lock:
                self._unsafe.update(dict.fromkeys(paths))
                full = len(self._unsafe) >= _MOST_UNSAFE
            if full:
                self.flush()

    def flush(self) -> None:
        """Make what was written since the last time survive a power cut.

        Raises
        ------
        StorageError
            If the disk failed.
        """
        with self._lock:
            paths, self._unsafe = self._unsafe, {}
        for_each(_flush, list(paths), workers=_FLUSHES)

    def remove(self, key: str) -> None:
        """Delete one file if it is there."""
        self.status(key)
        path = self.path(key)
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, path) from error

    def remove_tree(self, key: str) -> None:
        """Delete a folder with everything below it; of a link, only the link."""
        path = Path(self.path(key))
        try:
            if path.is_symlink():
                path.unlink()
            else:
                _remove_but_metadata(path)
                shutil.rmtree(path)
        except OSError as error:
            raise storage_error(error, str(path)) from error
        self._note(str(path.parent))
        self._folders = {self._root}

    def stamp(self) -> int:
        """Time at which the root's metadata were written, in ns; 0 if there are none."""
        status = self.status(ROOT)
        return 0 if status is None else status.st_mtime_ns

    def changed(self, keys: Sequence[str], stamp: int) -> list[bool]:
        """True for each file or folder that may be newer than that, as those that were copied are.

        The root folder always is, since the root's metadata got their name in it.
        """
        found = (self.status(key) if key else None for key in keys)
        return [s is None or max(s.st_mtime_ns, s.st_ctime_ns) >= stamp for s in found]

    def refresh(self) -> None:
        """Nothing is remembered of the directory's content."""

    def release_root(self) -> None:
        """Check its length; nothing is held back: a new directory appears when it is renamed."""
        self.check_readable(ROOT)


def _is_made(path: str, parts: Sequence[Buffer]) -> bool:
    """Write a file; False if there is one of that name, which is left as it is."""
    try:
        _write_new(path, parts)
    except FileExistsError:
        return False
    return True


def _write_new(
    path: str, parts: Sequence[Buffer], target: str | None = None, *, safe: bool = False
) -> None:
    """Write a file that must not exist, and rename it to `target`.

    Nothing is left of it where that fails. If it is to be `safe`, it is flushed before.
    """
    file = open(path, "xb", buffering=0)  # noqa: PTH123, SIM115
    try:
        with file:
            write_parts(file.fileno(), parts, path)
            if safe:
                os.fsync(file.fileno())
        if target is not None:
            os.replace(path, target)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        raise


def _flush(path: str) -> None:
    try:
        sync(path)
    except FileNotFoundError:
        return  # removed since then
    except OSError as error:
        raise storage_error(error, path) from error


def _remove_but_metadata(path: Path) -> None:
    """Remove the content of a node; what a killed process leaves of it can be recognised."""
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        elif entry.name != ROOT:
            os.unlink(entry.path)  # noqa: PTH108


class RemoteFiles:
    """A prefix on a filesystem of fsspec.

    Parameters
    ----------
    fs : AbstractFileSystem
        The filesystem, not asynchronous.
    root : str
        Path within it, without the protocol.
    source : FsspecSource
        Tells the size of one object, and its version learns what was fetched or listed.
    keep : bool
        Remember sizes that were asked for or listed; only for stores that nobody writes.
    new : NewObjects, optional
        Makes the objects of a store that is new; the root's metadata are held back until
        `release_root`.
    stats : Stats, optional
        Where listings, and what zarr-python asks for, are counted.
    metadata : bytes, optional
        The root's, if they were read a moment ago.
    """

    def __init__(
        self,
        fs: Any,
        root: str,
        source: FsspecSource,
        *,
        keep: bool,
        new: NewObjects | None = None,
        stats: Stats | None = None,
        metadata: bytes | None = None,
    ) -> None:
        self._fs = fs
        self._version = source.version
        self._root = root.rstrip("/")
        self._source = source
        self._keep = keep
        self._web = objects.is_web(fs)
        self.can_list = not self._web
        self._known: dict[str, int | None] = {}
        self._listed: set[str] = set()
        self._fs_of_zarr = fs
        self._new = new
        self._stats = Stats() if stats is None else stats
        self._metadata = metadata
        self.fresh = new is not None
        self.held: bytes | None = None
        self.holding = new is not None

    def zarr_store(self, *, read_only: bool) -> ZarrByteStore:
        """The same objects as zarr-python sees them, on its own event loop."""
        from fsspec.asyn import AsyncFileSystem

        from fmristore_stores.zarr.byte_stores import CountedStore, NewStore, WebStore

        fs = self._fs
        if isinstance(fs, AsyncFileSystem):  # a cache in front of one only says that it is
            options = dict(fs.storage_options) | {"asynchronous": True}
            fs = type(fs)(*fs.storage_args, **options)
        else:
            from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

            fs = AsyncFileSystemWrapper(fs, asynchronous=True)
        self._fs_of_zarr = fs
        if self._new is not None:
            held = NewStore(fs, path=self._root, read_only=read_only)
            held.objects = self
            return held
        kind = WebStore if self._web else CountedStore
        root, mark, query = self._root.partition("?") if self._web else (self._root, "", "")
        store = kind(fs, path=root.rstrip("/"), read_only=read_only)
        store.stats, store.metadata, store.objects = self._stats, self._metadata, self
        store.query = mark + query
        store.version = self._version
        return store

    def path(self, key: str) -> str:
        """Path of an object on the filesystem."""
        if self._web:
            return objects.below(self._fs, self._root, key)
        return f"{self._root}/{key}" if key and self._root else self._root or key

    @cached_property
    def _copies(self) -> dict[str, Any] | None:
        """Metadata of all nodes, if the root's were read a moment ago and have those of all."""
        return None if self._metadata is None else plain_copies(self._metadata)

    def document(self, key: str) -> bytes | None:
        """Content of a metadata document, if the root's was given and has those of all nodes."""
        copies = self._copies
        if copies is None:
            return None
        if key == ROOT:
            return self._metadata
        found = copies.get(key.removesuffix(f"/{ROOT}"))
        return None if found is None else json.dumps(found).encode()

    def sizes(self, keys: Sequence[str], folder: str, count: int) -> list[int | None]:
        """Length of each object, None where there is none.

        The folder is listed if that takes no more requests than asking for each object.
        """
        known = self._known if self._keep else {}
        missing = [key for key in keys if key not in known]
        if missing and folder not in self._listed:
            if self.can_list and math.ceil(count / _PAGE) <= len(missing):
                known.update(self._list(folder))
                if self._keep:
                    self._listed.add(folder)
            else:
                known.update(zip(missing, self._ask(missing), strict=True))
        return [known.get(key) for key in keys]

    def begin(self, keys: Sequence[str], length: int, arrived: Arrived, answered: Answered) -> None:
        """Ask for the first bytes of objects; some may not arrive where one is missing or empty."""
        try:
            self._source.begin(list(map(self.path, keys)), length, arrived, answered)
        except NotFoundError:
            return
        except StorageError as error:
            if error.__cause__ is None or status_of(error.__cause__) != _NO_RANGE:
                raise

    def _list(self, folder: str) -> dict[str, int | None]:
        prefix = self.path(folder)
        self.refresh()
        try:
            found = objects.find(self._fs, prefix)
        except Exception as error:
            raise storage_error(error, self._url(folder)) from error
        self._stats.add(requests=max(1, math.ceil(len(found) / _PAGE)))
        if self._version is not None:
            self._version.arrived()
        return {objects.under(self._root, name): info["size"] for name, info in found.items()}

    def _ask(self, keys: Sequence[str]) -> list[int | None]:
        if len(keys) == 1:
            return [self._size(keys[0])]
        with ThreadPoolExecutor(min(_THREADS, len(keys))) as threads:
            return list(threads.map(self._size, keys))

    def _size(self, key: str) -> int | None:
        try:
            return self._source.size(self.path(key))
        except NotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """Names directly below a prefix, sorted."""
        self.refresh()
        try:
            found = self._fs.ls(self.path(folder), detail=False)
        except Exception as error:
            raise storage_error(error, self._url(folder)) from error
        names = {path.rstrip("/").rpartition("/")[2] for path in found} - {""}
        return sorted(map(unquote, names) if self._web else names)

    def below(self, folder: str) -> list[str]:
        """Keys of all objects below a prefix, sorted."""
        return sorted(self._list(folder))

    def exists(self, key: str) -> bool:
        """Return whether there is an object or a prefix of that name."""
        self.refresh()
        try:
            return objects.exists(self._fs, self.path(key))
        except FmristoreError as error:
            error.url = self._url(key)
            raise

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write one object with one call; object storage shows it when it is complete.

        The root's metadata of a new store are kept in memory as long as `holding`.
        """
        if key == ROOT and self.holding:
            self.held = b"".join(parts)
            return
        path = self.path(key)
        try:
            objects.check_writable_name(path)
            if self._new is not None:
                self._new.put(path, b"".join(parts))
            else:
                self._fs.pipe_file(path, b"".join(parts))
        except Exception as error:
            raise _write_error(error, self._url(key)) from error
        self.refresh()

    def remove(self, key: str) -> None:
        """Delete one object if it is there."""
        path = self.path(key)
        try:
            objects.remove(self._fs, path)
        except FileNotFoundError:
            return
        except Exception as error:
            raise _write_error(error, self._url(key)) from error
        self.refresh()

    def remove_tree(self, key: str) -> None:
        """Delete a prefix with everything below it."""
        path = self.path(key)
        try:
            found = list(objects.find(self._fs, path))
            metadata = f"{path}/{ROOT}"  # last, as on a disk
            rest = [name for name in found if name != metadata]
            gone = remove_objects(self._fs, rest) and remove_objects(self._fs, [metadata])
            remove_folders(self._fs, path)
        except Exception as error:
            raise _write_error(error, self._url(key)) from error
        if not gone:
            raise StorageError("some objects could not be removed", url=self._url(key))
        self.refresh()

    def stamp(self) -> int:
        """0: services know times, but only of objects that are asked for."""
        return 0

    def changed(self, keys: Sequence[str], stamp: int) -> list[bool]:  # noqa: ARG002
        """False for each: readers of remote stores go by the root's copy as well."""
        return [False] * len(keys)

    def flush(self) -> None:
        """Nothing is to be done: an object is stored when the request for it ends."""

    def release_root(self) -> None:
        """Write the root's metadata if they were held back."""
        if self._new is not None and self.held is not None and self.holding:
            check_metadata(len(self.held), ROOT, self._url(""))
            self.holding = False
            self._new.finish(self.path(ROOT), self.held)
            self.held = None
            self.refresh()

    def _url(self, key: str) -> str:
        return str(self._fs.unstrip_protocol(self.path(key)))

    def refresh(self) -> None:
        """Drop the listings of fsspec's own caches, in both instances of the filesystem."""
        self._fs.invalidate_cache()
        self._fs_of_zarr.invalidate_cache()


def _write_error(error: BaseException, url: str) -> Exception:
    if isinstance(error, NotImplementedError):
        return ReadOnlyError("this kind of URL cannot be written", url=url)
    return storage_error(error, url)


def _identity(folder: str) -> tuple[int, int] | None:
    """Identity of a folder, which one that was made later in its place does not have."""
    try:
        status = os.stat(folder)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino
