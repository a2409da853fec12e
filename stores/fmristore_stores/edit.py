"""Changing a store that exists, so that it is whole at any time.

An HDF5 file cannot be changed safely in place: a crash can leave it unreadable. So a copy is
changed, checked, and put in its place. In a Zarr store what is there already stays untouched while
something is added, and the caller makes that visible by writing one attribute last. Of two that
change a store at once, the second waits for its turn, and changes what the first one made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fmristore_stores.errors import FmristoreError, ReadOnlyError, StorageError
from fmristore_stores.io.location import filesystem, is_local, kind_of_name, normalise
from fmristore_stores.io.sources import storage_error
from fmristore_stores.ledger import check_written
from fmristore_stores.opening import Locator, locate
from fmristore_stores.protocol import Store
from fmristore_stores.publishing.claims import Turn
from fmristore_stores.publishing.leftovers import remove_inside, remove_leftovers
from fmristore_stores.publishing.prefix import complete_replacement
from fmristore_stores.publishing.publish import Look, publish_file
from fmristore_stores.publishing.turns import take_turn

__all__ = ["edit_store"]


@contextlib.contextmanager
def edit_store(
    url: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    check: Callable[[Store], None] | None = None,
    tidy: bool = True,
) -> Iterator[Store]:
    """Open an existing store for a change.

    Parameters
    ----------
    url : str or path
        Local path or any URL that fsspec can write to.
    storage_options : mapping, optional
        Passed to fsspec.
    check : callable, optional
        Called with the changed store, opened for reading. What it raises leaves an HDF5 file as it
        was; a Zarr store has been changed by then.
    tidy : bool
        Look through all of a local Zarr store for what killed writers left, which takes longer the
        more files it has; else only in its own folder, where the root's metadata lie.

    Yields
    ------
    Store
        For HDF5 a copy, which takes the place of the file when the block ends without an error.
        A Zarr store is changed at once, in the order in which it is written to: add new nodes
        first, and what makes readers see them last; what they see must not be changed in between.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    ReadOnlyError
        If the protocol cannot write.
    ChangedError
        If something that does not wait for its turn, such as other software, changed the HDF5 file
        meanwhile; it is left as that one made it.
    StorageError
        If the disk or the service fails, or other writers take longer than the seconds in
        ``FMRISTORE_WAIT`` (600); the message says who they are.

    Notes
    -----
    For an HDF5 file this reads and writes all of it, and takes its size in free space; for a Zarr
    store nothing but what is added. Writers of one store take turns, and what is yielded is the
    store as it is when the turn begins: look there, not at what was opened before.
    """
    target = normalise(url)
    if target.startswith(("http://", "https://")):
        raise ReadOnlyError("nothing can be written over http", url=target)
    if kind_of_name(target) is None:
        _check_kind(locate(target, storage_options=storage_options))
    with take_turn(target, storage_options) as turn:
        complete_replacement(target, storage_options, turn)
        locator = locate(target, storage_options=storage_options)
        _check_kind(locator)
        if locator.kind == "zarr":
            change = _change_zarr(locator, check, turn, tidy=tidy)
        else:
            change = _change_hdf5(locator, check, turn)
        with change as store:
            yield store


def _check_kind(locator: Locator) -> None:
    if locator.kind == "reference":
        raise ReadOnlyError("change the file that it refers to", url=locator.url)


@contextlib.contextmanager
def _change_hdf5(
    locator: Locator, check: Callable[[Store], None] | None, turn: Turn
) -> Iterator[Store]:
    from fmristore_stores.hdf5.store import HDF5Store

    look = Look(locator.url, check)
    with publish_file(
        locator.url,
        overwrite=True,
        storage_options=locator.options,
        turn=turn,
        expected=locator.token,
        look=look.at_hdf5,
    ) as path:
        _fetch(locator, path)
        with HDF5Store(path, mode="r+", url=locator.url) as changed:
            look.ledger = changed.ledger
            yield changed


def _fetch(locator: Locator, path: str) -> None:
    """Copy the file that is to be changed, with its permissions."""
    try:
        if is_local(locator.url):
            source = os.path.realpath(locator.url)
            shutil.copyfile(source, path)
            shutil.copymode(source, path)
            size = os.stat(source).st_size  # noqa: PTH116 - strings here
        else:
            fs, remote = filesystem(locator.url, locator.options)
            fs.get_file(remote, path)
            size = fs.info(remote)["size"]
    except Exception as error:
        raise storage_error(error, locator.url) from error
    if os.stat(path).st_size != size:  # noqa: PTH116
        raise StorageError("the copy of the file is not as long as the file", url=locator.url)


@contextlib.contextmanager
def _change_zarr(
    locator: Locator, check: Callable[[Store], None] | None, turn: Turn, *, tidy: bool
) -> Iterator[Store]:
    from fmristore_stores.zarr.store import ZarrStore

    fs, path = (None, locator.url)
    if not is_local(locator.url):
        fs, path = filesystem(locator.url, locator.options)
    else:
        remove_leftovers(path)
        remove_inside(path, deep=tidy)
    with ZarrStore(path, mode="r+", url=locator.url, fs=fs) as changed:
        try:
            yield changed
        except BaseException:
            # Without them a server that lists nothing could not be read; nothing else is lost.
            with contextlib.suppress(FmristoreError):
                changed.consolidate()
            raise
        turn.check()
        changed.consolidate()
    with ZarrStore(path, mode="r", url=locator.url, fs=fs) as store:
        check_written(store, changed.ledger)
        if check is not None:
            check(store)
