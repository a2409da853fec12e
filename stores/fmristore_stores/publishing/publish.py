"""Creating stores and files so that they become visible whole, or not at all.

Locally everything is written beside its destination under a hidden name, flushed to disk, and
renamed. On object storage, where nothing can be renamed, an HDF5 file is built locally and
uploaded when complete, and the root metadata of a Zarr store, which makes it recognisable, is
written last. What is not to be overwritten is not, also if it appears meanwhile. What exists is
replaced by one writer at a time; see `turns`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fmristore_stores.chunks.threads import for_each, meanwhile
from fmristore_stores.errors import (
    AlreadyExistsError,
    FmristoreError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.io.conditional_put import (
    create_file,
    taken,
    upload,
    write_error,
)
from fmristore_stores.io.flushing import sync
from fmristore_stores.io.local_files import all_below
from fmristore_stores.io.location import (
    HDF5_SUFFIXES,
    ZARR_SUFFIXES,
    Kind,
    exists,
    filesystem,
    is_local,
    kind_of_name,
    normalise,
)
from fmristore_stores.io.option_names import check_local_options
from fmristore_stores.io.owners import Mark, hidden_name, own_mark
from fmristore_stores.io.sources import storage_error
from fmristore_stores.ledger import Ledger, check_written
from fmristore_stores.protocol import Store
from fmristore_stores.publishing.leftovers import (
    STAGING,
    remove_leftovers,
    remove_local,
    remove_staging,
)
from fmristore_stores.publishing.prefix import (
    check_expected,
    is_taken,
    publish_prefix,
    replace_prefix,
    turn_at,
)
from fmristore_stores.publishing.turns import Turn, check_writable, take_turn

Check = Callable[[Store], None]

__all__ = ["Look", "create_store", "publish_file", "publish_folder"]

_RENAME_ATTEMPTS = 6
"""Windows refuses a rename while a virus scanner holds the file; it lets go within a second."""
_LATE_WRITES = 20
_FLUSHES = 8
"""Files that are flushed at once."""
_FEW = 4
"""Files that are flushed one after the other rather than by another thread."""
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")


@contextlib.contextmanager
def create_store(  # noqa: PLR0913
    url: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    check: Check | None = None,
    turn: Turn | None = None,
    expected: str | None = None,
    variable_text: bool = False,
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
        publication. Where the store lies in files of this machine it is opened again for reading.
        In any case what was written is looked for in it, see `fmristore_stores.ledger`.
    turn : Turn, optional
        The caller's turn at this store; by default one is taken for the moment of replacing.
    expected : str, optional
        Content token of the store that may be replaced, and of no other one.
    variable_text : bool
        Write attributes of HDF5 files as variable-length text, which is what R's package writes.

    Yields
    ------
    Store
        Empty and writable; closed when the block ends.

    Raises
    ------
    AlreadyExistsError
        If there is something and `overwrite` is false, or it is not a store.
    NotFoundError
        If the folder that it shall lie in is no folder; one that is missing is made.
    ReadOnlyError
        If the protocol cannot write.
    InvalidInputError
        If neither `kind` nor the name tells which kind of store is wanted.
    ChangedError
        If what is there is not what was `expected`.
    StorageError
        If the disk or the service fails, something of what was written is not there, or other
        writers take too long; see `take_turn`.
    """
    target = normalise(url)
    chosen = kind or kind_of_name(target)
    if chosen is None:
        endings = " or ".join((*HDF5_SUFFIXES[:2], *ZARR_SUFFIXES))
        raise InvalidInputError(f"the name of a new store must end in {endings}", url=target)
    if chosen == "reference":
        msg = "a reference file is only read; make it with fmristore.virtualize"
        raise ReadOnlyError(msg, url=target)
    if is_local(target):
        check_local_options(storage_options, target)
    if chosen == "hdf5":
        look = Look(target, check)
        with (
            publish_file(
                target,
                overwrite=overwrite,
                storage_options=storage_options,
                turn=turn,
                expected=expected,
                look=look.at_hdf5,
            ) as path,
            _new_hdf5(path, look, variable_text=variable_text) as store,
        ):
            yield store
    elif is_local(target):
        look = Look(target, check)
        with (
            _publish_directory(
                target, turn, expected, overwrite=overwrite, look=look.at_zarr
            ) as path,
            _new_zarr(path, look) as store,
        ):
            yield store
    else:
        check_writable(target)
        replacing = overwrite and (turn is not None or is_taken(target, storage_options))
        if replacing:
            publication = replace_prefix(target, storage_options, check, turn, expected)
        else:
            publication = publish_prefix(target, storage_options, check)
        with publication as store:
            yield store


class Look:
    """A look at a new store in local files, opened again, before anybody else sees it.

    Parameters
    ----------
    url : str
        Name of the store in messages.
    check : callable, optional
        Called with it.
    """

    def __init__(self, url: str, check: Check | None) -> None:
        self.url = url
        self.ledger = Ledger()
        """List of everything written to it."""
        self._check = check

    def at_hdf5(self, path: str) -> None:
        """Look at an HDF5 file."""
        from fmristore_stores.hdf5.store import HDF5Store

        with HDF5Store(path, mode="r", url=self.url) as store:
            self._look(store)

    def at_zarr(self, path: str) -> None:
        """Look at the folder of a Zarr store."""
        from fmristore_stores.zarr.store import ZarrStore

        with ZarrStore(path, mode="r", url=self.url) as store:
            self._look(store)

    def _look(self, store: Store) -> None:
        check_written(store, self.ledger)
        if self._check is not None:
            self._check(store)


@contextlib.contextmanager
def _new_hdf5(path: str, look: Look, *, variable_text: bool) -> Iterator[Store]:
    from fmristore_stores.hdf5.store import HDF5Store

    with HDF5Store(path, mode="w", url=look.url, variable_text=variable_text) as store:
        look.ledger = store.ledger
        yield store


@contextlib.contextmanager
def _new_zarr(path: str, look: Look) -> Iterator[Store]:
    from fmristore_stores.zarr.store import ZarrStore

    with ZarrStore(path, mode="w", url=look.url) as store:
        look.ledger = store.ledger
        yield store
        store.consolidate()


@contextlib.contextmanager
def publish_file(
    url: str,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    turn: Turn | None = None,
    expected: str | None = None,
    look: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """Write one file that appears at a normalised `url` when the block ends without an error.

    `look` is called with the local path when the file is complete, while it is flushed; what it
    raises stops the publication.

    Yields
    ------
    str
        Local path to write to; on the same file system as a local destination.

    Raises
    ------
    AlreadyExistsError
        If there is something and `overwrite` is false, or it is a directory.
    NotFoundError
        If the folder that it shall lie in is no folder; one that is missing is made.
    ReadOnlyError
        If the protocol cannot write.
    ChangedError, StorageError
        As of `create_store`, which also explains `turn` and `expected`.
    """
    if is_local(url):
        target = os.path.realpath(url)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_folder_for(target))
            _check_free(target, overwrite=overwrite, directory=False)
            remove_leftovers(target, restore=False)
            staged = stack.enter_context(_staging(target))
            yield staged
            with meanwhile(lambda: sync(staged)):
                if look is not None:
                    look(staged)
            with turn_at(target, None, turn, needed=overwrite):
                _check_free(target, overwrite=overwrite, directory=False)
                check_expected(target, "hdf5", None, expected)
                if overwrite:
                    _rename(staged, target)
                else:
                    _name_file(staged, target)
                _sync_folder_of(target)
        return
    check_writable(url)
    fs, path = filesystem(url, storage_options)
    _check_absent(url, storage_options, overwrite=overwrite)
    remove_staging()
    with own_mark() as mark, _temporary(mark) as staged:
        yield staged
        if look is not None:
            look(staged)
        if not overwrite:
            _check_absent(url, storage_options, overwrite=False)
            create_file(fs, path, staged, url)
            return
        with turn_at(url, storage_options, turn) as own:
            check_expected(url, "hdf5", storage_options, expected)
            own.check()
            try:
                upload(fs, path, staged, {})
            except Exception as error:
                raise write_error(error, url) from error


def publish_folder(url: str, *, overwrite: bool = False) -> contextlib.AbstractContextManager[str]:
    """Write a Zarr store, file by file, that appears at a local path when the block ends.

    Parameters
    ----------
    url : str
        Normalised.
    overwrite : bool
        Replace a Zarr store that is there.

    Returns
    -------
    context manager of str
        Path of an empty folder to write to.

    Raises
    ------
    AlreadyExistsError
        If there is something and `overwrite` is false, or it is no Zarr store.
    NotFoundError, StorageError
        As of `create_store`.
    """
    return _publish_directory(url, None, None, overwrite=overwrite)


@contextlib.contextmanager
def _temporary(mark: Mark) -> Iterator[str]:
    """Path of a file in the temporary folder; its folder bears the mark of its writer."""
    try:
        folder = Path(tempfile.gettempdir(), f"{STAGING}{mark}")
        folder.mkdir(mode=0o700)
    except OSError as error:
        msg = f"there is no place for temporary files ({error}); set TMPDIR"
        raise StorageError(msg) from error
    try:
        yield str(folder / "new")
    finally:
        remove_local(str(folder))


@contextlib.contextmanager
def _publish_directory(
    url: str,
    turn: Turn | None,
    expected: str | None,
    *,
    overwrite: bool,
    look: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """Write a folder that appears when the block ends; `look` as of `publish_file`."""
    target = os.path.realpath(url)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_folder_for(target))
        _restore(target)
        _check_free(target, overwrite=overwrite, directory=True)
        staged = stack.enter_context(_staging(target))
        os.mkdir(staged)  # noqa: PTH102
        made = os.stat(staged)  # noqa: PTH116
        yield staged
        with meanwhile(lambda: _sync_tree(staged)):
            if look is not None:
                look(staged)
        if not os.path.lexists(staged) or not os.path.samestat(made, os.stat(staged)):  # noqa: PTH116
            raise StorageError("the folder that was being written was removed", url=target)
        with turn_at(target, None, turn, needed=overwrite):
            _check_free(target, overwrite=overwrite, directory=True)
            check_expected(target, "zarr", None, expected)
            if not overwrite or not os.path.lexists(target):
                _name_directory(staged, target)
            elif not _exchange(staged, target):
                _rename_twice(staged, target)
            _sync_folder_of(target)


def _restore(target: str) -> None:
    """Tidy up after writers that were killed, one of whom may have taken the store's name away."""
    if remove_leftovers(target, restore=False):
        with take_turn(target):
            remove_leftovers(target)


def _rename_twice(staged: str, target: str) -> None:
    """Replace a directory where two names cannot be exchanged: for a moment there is none."""
    old = f"{staged.removesuffix('.partial')}.old"
    _rename(target, old)
    try:
        _rename(staged, target)
    except BaseException:
        _rename(old, target)
        raise
    remove_local(old)


# Local files ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _staging(target: str) -> Iterator[str]:
    """Hidden path beside `target`; whatever is left there in the end is removed."""
    folder, name = os.path.split(target)
    interrupted = False
    with own_mark() as mark:
        staged = os.path.join(folder, hidden_name(name, mark, "partial"))  # noqa: PTH118
        with _one_file_more() as let_go:
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
                let_go()
                remove_local(staged)
                for _ in range(_LATE_WRITES if interrupted else 0):
                    # A write that another thread had begun may bring the folder back.
                    time.sleep(0.05)
                    if not os.path.lexists(staged):
                        break
                    remove_local(staged)


@contextlib.contextmanager
def _one_file_more() -> Iterator[Callable[[], None]]:
    """Hold a descriptor for tidying up, which takes one when there may be none left."""
    try:
        held = [os.open(os.devnull, os.O_RDONLY)]
    except OSError as error:
        raise storage_error(error, os.devnull) from error

    def let_go() -> None:
        while held:
            os.close(held.pop())

    try:
        yield let_go
    finally:
        let_go()


@contextlib.contextmanager
def _folder_for(target: str) -> Iterator[None]:
    """Make the folders that `target` shall lie in, and remove them again if it is not written."""
    made: list[Path] = []
    try:
        _make_folders(Path(target).parent, made, target)
        yield
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # others may have put something there
                path.rmdir()
        raise


def _make_folders(folder: Path, made: list[Path], target: str) -> None:
    """Make a folder and those above it, and put what was made into a list, outermost first."""
    try:
        missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.append(path)
    except NotADirectoryError as error:
        msg = f"the folder {folder} cannot be made: a part of its path is a file"
        raise NotFoundError(msg, url=target) from error
    except OSError as error:
        raise storage_error(error, target) from error
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is no folder", url=target)


def _check_free(target: str, *, overwrite: bool, directory: bool) -> None:
    """Check that `target` may be created, or replaced by something of the same kind."""
    path = Path(target)
    if not os.path.lexists(target):
        try:
            os.lstat(target)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise storage_error(error, target) from error
        return
    if not overwrite:
        raise taken(target)
    if directory:
        if not _is_stored(path):
            raise AlreadyExistsError("exists and is not a Zarr store: not replaced", url=target)
    elif not path.is_file():
        raise AlreadyExistsError("exists and is not a file: not replaced", url=target)


def _is_stored(path: Path) -> bool:
    """Return whether something is a Zarr store, or an empty folder that may become one."""
    try:
        return path.is_dir() and (
            any((path / name).exists() for name in _ZARR_FILES) or not any(path.iterdir())
        )
    except OSError as error:
        raise storage_error(error, str(path)) from error


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
    if not sys.platform.startswith(("linux", "darwin")):
        return False
    import ctypes

    system, swap = ctypes.CDLL(None), 2  # RENAME_EXCHANGE, or RENAME_SWAP
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        call = getattr(system, "renamex_np", None)
        return call is not None and call(*names, swap) == 0
    call, here = getattr(system, "renameat2", None), -100  # AT_FDCWD
    return call is not None and call(here, names[0], here, names[1], swap) == 0


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


def _sync_folder_of(target: str) -> None:
    try:
        sync(os.path.dirname(target))  # noqa: PTH120 - one string, no Path needed
    except OSError as error:
        raise storage_error(error, target) from error


def _sync_tree(folder: str) -> None:
    """Flush a folder with everything in it, several files at a time.

    The system then writes them together: one after the other, each would wait for the disk. Each
    thread has its own files, so that threads do not wait for each other.
    """
    paths = all_below(folder)
    count = min(_FLUSHES, -(-len(paths) // _FEW))
    for_each(_sync_all, [paths[n::count] for n in range(count)], workers=_FLUSHES)


def _sync_all(paths: Iterable[str]) -> None:
    for path in paths:
        sync(path)


# Object storage ------------------------------------------------------------------------------


def _check_absent(url: str, options: Mapping[str, Any] | None, *, overwrite: bool) -> bool:
    """Return whether something lies at `url`, which is an error unless it may be overwritten."""
    found = exists(url, options)
    if found and not overwrite:
        raise taken(url)
    return found
