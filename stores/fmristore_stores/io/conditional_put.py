"""Making objects on object storage without ever touching somebody else's.

An object is made on the condition that there is none of its name, where the service can check
that. A client repeats a request whose answer got lost, and then learns that the object exists: so
before anything is called a conflict, what is there is compared with what was to be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fmristore_stores.errors import AlreadyExistsError, FmristoreError, NotFoundError, StorageError
from fmristore_stores.io import objects
from fmristore_stores.io.replacing import ROOT, names_below, remove_folders, remove_objects
from fmristore_stores.io.sources import status_of, storage_error

__all__ = ["NewObjects", "create_file", "create_object", "taken", "upload", "write_error"]

_ATTEMPTS = 3
_BLOCK = 8 * 1024 * 1024
_PART = 16 * 1024 * 1024
_PARTS_AT_ONCE = 4
_CONFLICTS = (409, 412)
_NO_CONDITIONS = 501
_ALONE = threading.Lock()
"""Held to look and write where no service checks: writers of this process do not race."""


def taken(url: str) -> AlreadyExistsError:
    """Something is in the place already."""
    return AlreadyExistsError("exists already; pass overwrite=True to replace it", url=url)


def create_object(fs: Any, path: str, data: bytes, url: str) -> None:
    """Make an object of these bytes.

    Raises
    ------
    AlreadyExistsError
        If there is another object of that name, which stays as it is.
    StorageError
        If the service fails.
    """
    objects.check_writable_name(path)

    def write(options: Mapping[str, Any]) -> None:
        fs.pipe_file(path, data, **options)

    _create(fs, path, write, lambda: _holds_bytes(fs, path, data), url)


def create_file(fs: Any, path: str, local: str, url: str) -> None:
    """Make an object of the bytes of a local file, which are sent in parts if they are many.

    Raises
    ------
    AlreadyExistsError
        If there is another object of that name, which stays as it is.
    StorageError
        If the service fails.
    """

    def write(options: Mapping[str, Any]) -> None:
        upload(fs, path, local, options)

    _create(fs, path, write, lambda: _holds_file(fs, path, local), url)


def upload(fs: Any, path: str, local: str, options: Mapping[str, Any]) -> None:
    """Send a file, in parts of a size that bounds the memory it takes where that can be said."""
    names = fs.protocol if isinstance(fs.protocol, tuple | list) else (fs.protocol,)
    parts = {"chunksize": _PART, "max_concurrency": _PARTS_AT_ONCE} if "s3" in names else {}
    fs.put_file(local, path, **parts, **options)


def _create(
    fs: Any,
    path: str,
    write: Callable[[Mapping[str, Any]], None],
    holds: Callable[[], bool],
    url: str,
) -> None:
    options: dict[str, Any] = {"mode": "create"}
    for attempt in range(_ATTEMPTS):
        try:
            if options and fs.async_impl:  # the service sees to it
                write(options)
            else:
                with _ALONE:
                    _check_absent(fs, path, url)
                    write(options)
        except AlreadyExistsError:
            raise
        except Exception as error:
            if _unconditional(error) and options:
                options = {}
                continue
            conflict = _is_conflict(error)
            try:
                if holds():
                    return  # it was done, and the answer got lost
            except NotFoundError:
                if conflict and attempt < _ATTEMPTS - 1:
                    continue  # refused because of another request that was not completed
            except FmristoreError as other:
                raise storage_error(error, url) from other
            raise (taken(url) if conflict else write_error(error, url)) from error
        else:
            return
    raise StorageError("the service refuses to write this object", url=url)


def write_error(error: BaseException, url: str) -> FmristoreError:
    """Translate what a service raised that was asked to write an object."""
    ours = storage_error(error, url)
    if isinstance(ours, NotFoundError):
        return NotFoundError("there is no such bucket, container or folder", url=url)
    return ours


def _is_conflict(error: BaseException) -> bool:
    return isinstance(error, FileExistsError) or status_of(error) in _CONFLICTS


def _unconditional(error: BaseException) -> bool:
    """Return whether a service, or a filesystem of fsspec, knows no conditions."""
    return isinstance(error, TypeError) or status_of(error) == _NO_CONDITIONS


def _check_absent(fs: Any, path: str, url: str) -> None:
    try:
        fs.invalidate_cache()
        found = objects.exists(fs, path)
    except FmristoreError as error:
        error.url = url
        raise
    if found:
        raise taken(url)


def _holds_bytes(fs: Any, path: str, data: bytes) -> bool:
    try:
        found: bytes = fs.cat_file(path)
    except Exception as error:
        raise storage_error(error, path) from error
    return found == data


def _holds_file(fs: Any, path: str, local: str) -> bool:
    try:
        fs.invalidate_cache()
        size = Path(local).stat().st_size
        if fs.info(path)["size"] != size:
            return False
        with Path(local).open("rb") as file:
            for start in range(0, size, _BLOCK):
                end = min(start + _BLOCK, size)
                if fs.cat_file(path, start=start, end=end) != file.read(end - start):
                    return False
    except Exception as error:
        raise storage_error(error, path) from error
    return True


class NewObjects:
    """The objects of a store in the making, all of which are new.

    Each is made on condition that there is none, so that nothing of a writer that knows nothing of
    claims is overwritten either.

    Parameters
    ----------
    fs : AbstractFileSystem
        Not asynchronous.
    root : str
        Path of the store within it.
    url : str
        For messages.
    check : callable, optional
        Called before the last object; raises if the store is not to appear.
    """

    def __init__(
        self, fs: Any, root: str, url: str, check: Callable[[], None] | None = None
    ) -> None:
        self._fs = fs
        self._root = root.rstrip("/")
        self._url = url
        self._check = check
        self._made: set[str] = set()
        self._doubtful: dict[str, bytes] = {}
        self._kept = False
        self._lock = threading.Lock()

    def put(self, path: str, data: bytes) -> None:
        """Make an object, or write one again that was made here.

        Raises
        ------
        AlreadyExistsError
            If somebody else made an object of that name.
        StorageError
            If the service fails.
        """
        if path in self._made:
            try:
                self._fs.pipe_file(path, data)
            except Exception as error:
                raise storage_error(error, self._url) from error
            return
        try:
            create_object(self._fs, path, data, self._url)
        except AlreadyExistsError:
            raise
        except BaseException:
            with self._lock:  # it may be there all the same
                self._doubtful[path] = _digest(data)
            raise
        with self._lock:
            self._made.add(path)

    def finish(self, path: str, data: bytes) -> None:
        """Make the last object, which makes the store visible.

        Raises
        ------
        AlreadyExistsError
            If somebody else made a store of that name meanwhile.
        StorageError
            If the service fails.
        """
        if self._check is not None:
            self._check()
        self.put(path, data)

    def keep(self) -> None:
        """Do not discard any more what was made: it is whole, and others know of it."""
        self._kept = True

    def discard(self) -> bool:
        """Remove what was made here; False if some of it could not be removed.

        Of a store that another writer took over nothing is removed: it is not ours any more.
        """
        if self._kept:
            return True
        if self._check is not None:
            try:
                self._check()
            except AlreadyExistsError:
                return True
            except FmristoreError:
                return False
        made = {*self._made, *self._ours()}
        root = [path for path in made if path == f"{self._root}/{ROOT}"]
        # The root first: without the rest, it would not be a store.
        gone = remove_objects(self._fs, root) and remove_objects(self._fs, sorted(made))
        with contextlib.suppress(Exception):
            if gone and not names_below(self._fs, self._root):
                remove_folders(self._fs, self._root)
        return gone

    def _ours(self) -> list[str]:
        """Objects that a request made although it failed."""
        found = []
        for path, digest in self._doubtful.items():
            with contextlib.suppress(Exception):
                if _digest(self._fs.cat_file(path)) == digest:
                    found.append(path)
        return found


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
