"""Putting a complete Zarr store on object storage in the place of another one.

Nothing can be renamed there. The new store is complete under a name of its own before anything
else happens, and the claim to the store says where it lies. Then the root metadata of the old one
are removed, so that nobody takes what is there for a store, and the service copies, the new root
last. All of it can be done again at any time: whoever finds the claim of a writer that is gone
completes what that one began.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fmristore_stores.errors import NotFoundError
from fmristore_stores.io import objects
from fmristore_stores.io.sources import storage_error

__all__ = [
    "MARKERS",
    "ROOT",
    "complete",
    "copy_over",
    "has_root",
    "names_below",
    "remove_folders",
    "remove_objects",
    "retire",
]

ROOT = "zarr.json"
MARKERS = (ROOT, ".zgroup", ".zarray", ".zmetadata", ".zattrs")
"""Objects at the root by which readers take something for a Zarr store, and its attributes."""

_AT_ONCE = 16
_ATTEMPTS = 3


def copy_over(fs: Any, place: str, path: str) -> None:
    """Make the store at `path` the one that lies complete at `place`, its root last.

    Parameters
    ----------
    fs : AbstractFileSystem
        Not asynchronous.
    place, path : str
        Within it.

    Raises
    ------
    Exception
        Of the filesystem, if it failed several times.
    """
    for attempt in range(_ATTEMPTS):
        try:
            _copy_over(fs, place, path)
        except Exception:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _copy_over(fs: Any, place: str, path: str) -> None:
    old = [name.removeprefix(path) for name in names_below(fs, path)]
    new = [name.removeprefix(place) for name in names_below(fs, place)]
    markers = {f"/{name}" for name in MARKERS}
    _each(lambda name: _remove(fs, path + name), [name for name in old if name in markers])
    wanted = {*new}
    _each(
        lambda name: _remove(fs, path + name),
        [name for name in old if name not in markers and name not in wanted],
    )
    _each(
        lambda name: objects.copy(fs, place + name, path + name),
        [name for name in new if name != f"/{ROOT}"],
    )
    objects.copy(fs, f"{place}/{ROOT}", f"{path}/{ROOT}")


def complete(fs: Any, place: str, path: str) -> None:
    """Complete what a writer that is gone began, if it left a whole store at `place`.

    Afterwards that is no whole store any more, so that nobody copies it again.
    """
    if place and place != path and has_root(fs, place):
        copy_over(fs, place, path)
        retire(fs, place)


def retire(fs: Any, place: str) -> None:
    """Remove a store that has been copied: first the root, so that it is not copied again."""
    _remove(fs, f"{place}/{ROOT}")
    remove_objects(fs, names_below(fs, place))
    remove_folders(fs, place)


def has_root(fs: Any, path: str) -> bool:
    """Return whether there is what makes readers take a prefix for a Zarr store."""
    fs.invalidate_cache()
    return any(objects.exists(fs, f"{path.rstrip('/')}/{name}") for name in MARKERS)


def names_below(fs: Any, path: str) -> list[str]:
    """Names of all objects below a prefix, asked for afresh."""
    fs.invalidate_cache()
    return [name for name in objects.find(fs, path) if name.startswith(f"{path}/")]


def remove_objects(fs: Any, names: Iterable[str]) -> bool:
    """Remove objects of exactly these names; False if some are still there."""
    left = list(names)
    for _ in range(_ATTEMPTS):
        left = _failed(fs, left)
        if not left:
            return True
    return False


def remove_folders(fs: Any, path: str) -> None:
    """Remove the empty folders that some filesystems keep."""
    if fs.async_impl:
        return
    for folder in [*sorted(fs.find(path, withdirs=True), reverse=True), path]:
        with contextlib.suppress(Exception):  # one that is not empty, or not there
            fs.rmdir(folder)


def _failed(fs: Any, names: list[str]) -> list[str]:
    """Remove objects; those that could not be removed."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        done = list(threads.map(lambda name: _removed(fs, name), names))
    return [name for name, gone in zip(names, done, strict=True) if not gone]


def _removed(fs: Any, name: str) -> bool:
    try:
        _remove(fs, name)
    except Exception:  # noqa: BLE001 - whatever it is, it is still there
        return False
    return True


def _remove(fs: Any, name: str) -> None:
    try:
        objects.remove(fs, name)
    except Exception as error:
        if not isinstance(storage_error(error, name), NotFoundError):
            raise


def _each(action: Callable[[str], object], names: list[str]) -> None:
    if names:
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(action, names))
