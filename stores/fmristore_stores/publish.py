"""Creating stores and files so that they become visible whole, or not at all.

Locally everything is written beside its destination under a hidden name, flushed to disk, and
renamed. On object storage, where nothing can be renamed, an HDF5 file is built locally and
uploaded when complete, and the root metadata of a Zarr store, which makes it recognisable, is
written last. What is not to be overwritten is not, also if it appears meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fmristore_stores import objects
from fmristore_stores.errors import (
    AlreadyExistsError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.location import (
    HDF5_SUFFIXES,
    ZARR_SUFFIXES,
    Kind,
    exists,
    filesystem,
    is_local,
    kind_of_name,
    normalise,
)
from fmristore_stores.newobjects import (
    NewObjects,
    create_file,
    create_object,
    taken,
    upload,
    write_error,
)
from fmristore_stores.protocol import Store
from fmristore_stores.sources import storage_error

Check = Callable[[Store], None]

__all__ = ["create_store", "publish_file"]

_RENAME_ATTEMPTS = 6
"""Windows refuses a rename while a virus scanner holds the file; it lets go within a second."""
_LATE_WRITES = 20
_COPIES = 16
_REPLACING = ".fmristore-replacing"
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")


@contextlib.contextmanager
def create_store(
    url: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    check: Check | None = None,
) -> Iterator[Store]:
    """Make a new store that appears at `url` when the block ends without an error.

    Parameters
    ----------
    url : str or path
        Local path or any URL that fsspec can write to.
    kind : {"hdf5", "zarr"}, optional
        By the ending of the name otherwise.
    overwrite : bool
        Replace what is there; until the new store is complete the old one stays as it is.
    storage_options : mapping, optional
        Passed to fsspec.
    check : callable, optional
        Called with the complete store before it becomes visible; what it raises stops the
        publication. Where the store lies in files of this machine it is opened anew for reading.

    Yields
    ------
    Store
        Empty and writable; closed when the block ends.

    Raises
    ------
    AlreadyExistsError
        If there is something and `overwrite` is false, or it is not a store.
    NotFoundError
        If the folder that it shall lie in does not exist.
    ReadOnlyError
        If the protocol cannot write.
    InvalidInputError
        If neither `kind` nor the name tells which kind of store is wanted.
    """
    target = normalise(url)
    chosen = kind or kind_of_name(target)
    if chosen is None:
        endings = " or ".join((*HDF5_SUFFIXES[:2], *ZARR_SUFFIXES))
        raise InvalidInputError(f"the name of a new store must end in {endings}", url=target)
    if chosen == "reference":
        msg = "a reference file is only read; make it with fmristore.virtualize"
        raise ReadOnlyError(msg, url=target)
    if chosen == "hdf5":
        with (
            publish_file(target, overwrite=overwrite, storage_options=storage_options) as path,
            _new_hdf5(path, target, check) as store,
        ):
            yield store
    elif is_local(target):
        with (
            _publish_directory(target, overwrite=overwrite) as path,
            _new_zarr(path, target, check) as store,
        ):
            yield store
    else:
        with _publish_prefix(target, storage_options, check, overwrite=overwrite) as store:
            yield store


@contextlib.contextmanager
def _new_hdf5(path: str, url: str, check: Check | None) -> Iterator[Store]:
    from fmristore_stores.hdf5 import HDF5Store

    with HDF5Store(path, mode="w", url=url) as store:
        yield store
    if check is not None:
        with HDF5Store(path, mode="r", url=url) as store:
            check(store)


@contextlib.contextmanager
def _new_zarr(
    path: str, url: str, check: Check | None, fs: Any = None, new: NewObjects | None = None
) -> Iterator[Store]:
    from fmristore_stores.zarr import ZarrStore

    with ZarrStore(path, mode="w", url=url, fs=fs, new=new) as store:
        yield store
        if fs is not None and check is not None:
            check(store)  # without its root, it could not be opened anew
        store.consolidate()
    if fs is None and check is not None:
        with ZarrStore(path, mode="r", url=url) as store:
            check(store)


@contextlib.contextmanager
def publish_file(
    url: str,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Write one file that appears at a normalised `url` when the block ends without an error.

    Yields
    ------
    str
        Local path to write to; on the same file system as a local destination.

    Raises
    ------
    AlreadyExistsError
        If there is something and `overwrite` is false, or it is a directory.
    NotFoundError
        If the folder that it shall lie in does not exist.
    ReadOnlyError
        If the protocol cannot write.
    """
    if is_local(url):
        target = os.path.realpath(url)
        _check_free(target, overwrite=overwrite, directory=False)
        with _staging(target) as staged:
            yield staged
            _sync(staged)
            _check_free(target, overwrite=overwrite, directory=False)
            if overwrite:
                _rename(staged, target)
            else:
                _name_file(staged, target)
            _sync(os.path.dirname(target))  # noqa: PTH120 - one string, no Path needed
        return
    _check_writable(url)
    fs, path = filesystem(url, storage_options)
    _check_absent(url, storage_options, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="fmristore-") as folder:
        staged = str(Path(folder, "new"))
        yield staged
        if not overwrite:
            _check_absent(url, storage_options, overwrite=False)
            create_file(fs, path, staged, url)
            return
        try:
            upload(fs, path, staged, {})
        except Exception as error:
            raise write_error(error, url) from error


@contextlib.contextmanager
def _publish_directory(url: str, *, overwrite: bool) -> Iterator[str]:
    target = os.path.realpath(url)
    _check_free(target, overwrite=overwrite, directory=True)
    with _staging(target) as staged:
        yield staged
        _sync_tree(staged)
        _check_free(target, overwrite=overwrite, directory=True)
        if not overwrite or not os.path.lexists(target):
            _name_directory(staged, target)
        elif not _exchange(staged, target):
            old = _sibling(target, "old")
            _rename(target, old)
            try:
                _rename(staged, target)
            except BaseException:
                _rename(old, target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        _sync(os.path.dirname(target))  # noqa: PTH120 - one string, no Path needed


@contextlib.contextmanager
def _publish_prefix(
    url: str, options: Mapping[str, Any] | None, check: Check | None, *, overwrite: bool
) -> Iterator[Store]:
    """Write a Zarr store to object storage: everything else first, root metadata last.

    With `overwrite` the new store is written under a name of its own and copied over when it is
    complete; the old one is gone from then on, and incomplete only while the service copies. If
    copying fails, the complete new store stays under its own name.
    """
    _check_writable(url)
    fs, path = filesystem(url, options)
    replace = _check_absent(url, options, overwrite=overwrite)
    place = f"{path}.{uuid.uuid4().hex[:8]}.partial" if replace else path
    new = NewObjects(fs, place, url)
    try:
        with _new_zarr(place, url, check, fs, new) as store:
            yield store
    except BaseException:
        new.discard()
        raise
    if replace:
        try:
            _replace_prefix(fs, place, path)
        except Exception as error:
            text = storage_error(error, url)
            msg = f"replacing the old store failed ({text}); the new one lies complete at {place}"
            raise StorageError(msg, url=url) from error


def _replace_prefix(fs: Any, place: str, path: str) -> None:
    """Put the objects at `place` in the place of those at `path`, root metadata last.

    Two writers that did this at once would leave a mixture; an object of a certain name keeps the
    second one out.
    """
    lock = f"{path}/{_REPLACING}"
    try:
        create_object(fs, lock, uuid.uuid4().hex.encode(), path)
    except AlreadyExistsError as error:
        msg = f"another writer is replacing this store; if none is running, remove {lock}"
        raise StorageError(msg, url=path) from error
    fs.invalidate_cache()
    root = "zarr.json"
    old = [name for name in objects.find(fs, path) if not name.endswith(f"/{_REPLACING}")]
    first = [name for name in old if name.removeprefix(path).lstrip("/") == root]
    rest = [name for name in old if name not in first]
    for names in (first, rest):  # without its root it is not taken for a store any more
        if names:
            objects.remove_all(fs, names)

    def copy(name: str) -> None:
        objects.copy(fs, name, path + name.removeprefix(place))

    names = sorted(objects.find(fs, place), key=lambda name: name == f"{place}/{root}")
    with ThreadPoolExecutor(_COPIES) as threads:
        list(threads.map(copy, names[:-1]))
    copy(names[-1])
    objects.remove(fs, lock)
    objects.remove_tree(fs, place)


# Local files ---------------------------------------------------------------------------------


def _sibling(target: str, purpose: str) -> str:
    folder, name = os.path.split(target)
    # Only the start of a long name, for a longer one may not be possible.
    return os.path.join(folder, f".{name[:40]}.{uuid.uuid4().hex[:8]}.{purpose}")  # noqa: PTH118


@contextlib.contextmanager
def _staging(target: str) -> Iterator[str]:
    """Hidden path beside `target`; whatever is left there in the end is removed."""
    staged = _sibling(target, "partial")
    interrupted = False
    try:
        yield staged
    except FmristoreError:
        raise
    except OSError as error:
        if error.errno is None or not str(error.filename or staged).startswith(staged):
            raise  # not about what is being written
        raise storage_error(error, target) from error
    except (KeyboardInterrupt, SystemExit):
        interrupted = True
        raise
    finally:
        _remove(staged)
        for _ in range(_LATE_WRITES if interrupted else 0):
            # A write that another thread had begun may bring the folder back.
            time.sleep(0.05)
            if not os.path.lexists(staged):
                break
            _remove(staged)


def _remove(path: str) -> None:
    if os.path.isdir(path):  # noqa: PTH112
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108


def _check_free(target: str, *, overwrite: bool, directory: bool) -> None:
    """Check that `target` may be created, or replaced by something of the same kind."""
    path = Path(target)
    if not os.access(path.parent, os.F_OK) or not path.parent.is_dir():
        raise NotFoundError(f"the folder {path.parent} does not exist", url=target)
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise taken(target)
    if directory:
        stored = path.is_dir() and (
            any((path / name).exists() for name in _ZARR_FILES) or not any(path.iterdir())
        )
        if not stored:
            raise AlreadyExistsError("exists and is not a Zarr store: not replaced", url=target)
    elif not path.is_file():
        raise AlreadyExistsError("exists and is not a file: not replaced", url=target)


def _name_file(staged: str, target: str) -> None:
    """Give a file its name, unless that name was taken meanwhile."""
    try:
        os.link(staged, target)
    except FileExistsError as error:
        raise taken(target) from error
    except OSError:  # a file system without hard links: hold the name with an empty file
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError as error:
            raise taken(target) from error
        try:
            _rename(staged, target)
        except BaseException:
            os.unlink(target)  # noqa: PTH108
            raise


def _name_directory(staged: str, target: str) -> None:
    """Give a directory its name; the system refuses if a directory with files has it."""
    try:
        _rename(staged, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise taken(target) from error
        raise


def _exchange(one: str, other: str) -> bool:
    """Swap two names in one step; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    call = getattr(ctypes.CDLL(None), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call is not None and (call(here, os.fsencode(one), here, os.fsencode(other), swap) == 0)


def _rename(source: str, target: str) -> None:
    for attempt in range(_RENAME_ATTEMPTS):
        try:
            os.replace(source, target)  # noqa: PTH105
        except PermissionError:
            if os.name != "nt" or attempt == _RENAME_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
        else:
            return


def _sync(path: str) -> None:
    """Make a file, or the names in a directory, survive a power cut."""
    if os.name == "nt" and os.path.isdir(path):  # noqa: PTH112 - Windows cannot open directories
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: str) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(os.path.join(parent, name))  # noqa: PTH118
        _sync(parent)


# Object storage ------------------------------------------------------------------------------


def _check_writable(url: str) -> None:
    if url.startswith(("http://", "https://")):
        raise ReadOnlyError("nothing can be written over http", url=url)
    if "::" in url:
        raise ReadOnlyError("a chain of protocols is read, not written", url=url)


def _check_absent(url: str, options: Mapping[str, Any] | None, *, overwrite: bool) -> bool:
    """Whether something lies at `url`, which is an error unless it may be overwritten."""
    found = exists(url, options)
    if found and not overwrite:
        raise taken(url)
    return found
