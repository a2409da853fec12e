"""New Zarr stores on object storage, where nothing can be renamed.

Where there is none, a store is written straight to its place, the root metadata last: without them
nobody takes it for a store. One that replaces another is written under a name of its own first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    FmristoreError,
    StorageError,
)
from fmristore_stores.io.conditional_put import NewObjects, taken
from fmristore_stores.io.location import Kind, content_token, exists, filesystem
from fmristore_stores.io.owners import own_mark
from fmristore_stores.io.replacing import (
    MARKERS,
    complete,
    copy_over,
    has_root,
    names_below,
    remove_objects,
    retire,
)
from fmristore_stores.io.sources import storage_error
from fmristore_stores.ledger import check_written
from fmristore_stores.protocol import Store
from fmristore_stores.publishing.claims import Turn, claim_path, find_claim
from fmristore_stores.publishing.leftovers import remove_leftovers
from fmristore_stores.publishing.turns import take_turn

__all__ = [
    "check_expected",
    "complete_replacement",
    "is_taken",
    "publish_prefix",
    "replace_prefix",
    "turn_at",
]

Check = Callable[[Store], None]


@contextlib.contextmanager
def _new_zarr(
    path: str, url: str, check: Check | None, fs: Any, new: NewObjects
) -> Iterator[Store]:
    """Open a new Zarr store for writing, and consolidate it when the block ends."""
    from fmristore_stores.zarr.store import ZarrStore

    with ZarrStore(path, mode="w", url=url, fs=fs, new=new) as written:
        yield written
        check_written(written, written.ledger)  # without its root, it cannot be opened again
        if check is not None:
            check(written)
        written.consolidate()


@contextlib.contextmanager
def turn_at(
    url: str, options: Mapping[str, Any] | None, turn: Turn | None, *, needed: bool = True
) -> Iterator[Turn]:
    """The turn that somebody has taken already, or one that is taken now if it is `needed`."""
    if turn is not None or not needed:
        yield turn or Turn()
        return
    with take_turn(url, options, doing="replace", overrule="create") as own:
        yield own


def check_expected(
    url: str, kind: Kind, options: Mapping[str, Any] | None, expected: str | None
) -> None:
    """Check that what is about to be replaced is what the caller saw.

    Raises
    ------
    ChangedError
        If not.
    """
    if expected is not None and content_token(url, kind, options) != expected:
        msg = "somebody else changed this store meanwhile; open it again, and try again"
        raise ChangedError(msg, url=url)


def is_taken(url: str, options: Mapping[str, Any] | None) -> bool:
    """Return whether something lies at `url`, or somebody is about to put it there."""
    if exists(url, options):
        return True
    fs, path = filesystem(url, options)
    return find_claim(fs, path, url) is not None


@contextlib.contextmanager
def publish_prefix(
    url: str, options: Mapping[str, Any] | None, check: Check | None
) -> Iterator[Store]:
    """Write a Zarr store where there is none: everything else first, root metadata last."""
    fs, path = filesystem(url, options)
    path = path.rstrip("/")
    if exists(url, options) and _asked(lambda: has_root(fs, path), url):
        raise taken(url)
    with take_turn(url, options, doing="create", busy=AlreadyExistsError) as turn:
        _make_room(fs, path, url, turn)
        new = NewObjects(fs, path, url, _still_there(turn, url))
        try:
            with _new_zarr(path, url, check, fs, new) as store:
                yield store
        except BaseException:
            if not new.discard():
                turn.abandon()
            raise


def _still_there(turn: Turn, url: str) -> Callable[[], None]:
    def check() -> None:
        try:
            turn.check()
        except ChangedError as error:
            raise AlreadyExistsError("another writer took this place over", url=url) from error

    return check


def _make_room(fs: Any, path: str, url: str, turn: Turn) -> None:
    """Look again, now that no other writer is at it; and tidy up after one that was killed."""
    _complete(fs, path, url, turn)
    claim = claim_path(path)  # below the store where that has a bucket to itself
    found = [n for n in _asked(lambda: names_below(fs, path), url) if not n.startswith(claim)]
    if not found:
        return
    if any(f"{path}/{name}" in found for name in MARKERS):
        raise taken(url)
    if not turn.inherited:
        msg = (
            f"there are {len(found)} objects here that are no Zarr store, such as {found[0]}; "
            "remove them, or pass overwrite=True to replace them"
        )
        raise AlreadyExistsError(msg, url=url)
    if not remove_objects(fs, found):
        raise StorageError("what a killed writer left here cannot be removed", url=url)


def complete_replacement(url: str, options: Mapping[str, Any] | None, turn: Turn) -> None:
    """Complete a replacement on object storage whose writer was killed, now that it is our turn.

    Raises
    ------
    StorageError
        If the service fails.
    """
    if turn.unfinished:
        fs, path = filesystem(url, options)
        _complete(fs, path.rstrip("/"), url, turn)


def _complete(fs: Any, path: str, url: str, turn: Turn) -> None:
    _asked(lambda: complete(fs, turn.unfinished, path), url)


def _asked(action: Callable[[], Any], url: str) -> Any:
    try:
        return action()
    except FmristoreError:
        raise
    except Exception as error:
        raise storage_error(error, url) from error


@contextlib.contextmanager
def replace_prefix(
    url: str,
    options: Mapping[str, Any] | None,
    check: Check | None,
    turn: Turn | None,
    expected: str | None,
) -> Iterator[Store]:
    """Write a Zarr store under a name of its own, and copy it over the old one when complete."""
    fs, path = filesystem(url, options)
    path = path.rstrip("/")
    remove_leftovers(url, options)
    with own_mark() as mark:
        place = f"{path}.{mark}.partial"
        new = NewObjects(fs, place, url)
        try:
            with _new_zarr(place, url, check, fs, new) as store:
                yield store
            with turn_at(url, options, turn) as own:
                if expected is not None:
                    _complete(fs, path, url, own)
                    check_expected(url, "zarr", options, expected)
                former = own.unfinished
                own.announce(place)
                new.keep()
                _copy(fs, place, path, url, own)
                if former:
                    _retire(fs, former)
        except BaseException:
            new.discard()
            raise


def _copy(fs: Any, place: str, path: str, url: str, turn: Turn) -> None:
    try:
        copy_over(fs, place, path)
    except BaseException as error:
        turn.abandon()
        if not isinstance(error, Exception):
            raise
        msg = (
            f"replacing the old store failed in the middle ({storage_error(error, url)}); the new "
            f"one lies complete at {place}, and the next writer of this store copies it"
        )
        raise StorageError(msg, url=url) from error
    _retire(fs, place)


def _retire(fs: Any, place: str) -> None:
    with contextlib.suppress(Exception):  # the next writer does it
        retire(fs, place)
