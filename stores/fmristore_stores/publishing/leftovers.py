"""Remains of killed writers beside a store and in it: found by their marks, and removed.

Only what bears the mark of a writer that is gone is touched; see `owners`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from fmristore_stores.errors import FmristoreError
from fmristore_stores.io.location import filesystem, is_local
from fmristore_stores.io.owners import MARK, Mark, marked_name, short_name
from fmristore_stores.io.replacing import names_below, remove_folders, remove_objects
from fmristore_stores.io.sources import storage_error
from fmristore_stores.publishing.claims import Claim, claim_path, find_claim

__all__ = [
    "STAGING",
    "explain",
    "find_leftovers",
    "remove_inside",
    "remove_leftovers",
    "remove_local",
    "remove_staging",
]

STAGING = "fmristore-"
"""Beginning of the names of folders in the temporary folder, where files for servers are built."""

_INSIDE = re.compile(rf"\..*\.(?P<mark>{MARK.pattern})\.(?:partial|old)")


def remove_leftovers(
    url: str, options: Mapping[str, Any] | None = None, *, restore: bool = True
) -> bool:
    """Remove what writers of the store at `url` left beside it, if they are gone.

    Parameters
    ----------
    url : str
        Normalised URL.
    options : mapping, optional
        Passed to fsspec.
    restore : bool
        Locally, give an old store its name back whose writer ended between taking that name and
        giving it to the new one. Only for whoever has the turn.

    Returns
    -------
    bool
        Whether there is an old store that was not given its name back.
    """
    if not is_local(url):
        _remove_remote(url, options)
        return False
    target, waiting = os.path.realpath(url), False
    for path, mark, purpose in _beside(target):
        if not mark.gone(_touched(path)):
            continue
        if purpose == "old" and not os.path.lexists(target):
            waiting = not restore
            if restore:
                with contextlib.suppress(OSError):
                    os.rename(path, target)  # noqa: PTH104 - strings here
        else:
            remove_local(path)
    return waiting


def remove_inside(folder: str, *, deep: bool = True) -> None:
    """Remove unfinished files and folders in a local Zarr store whose writers are gone.

    Parameters
    ----------
    folder : str
        The store.
    deep : bool
        Also in the folders below.
    """
    for path in list(_inside(folder, deep=deep)):
        remove_local(path)


def remove_staging() -> None:
    """Remove folders in the temporary folder whose writers are gone."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in list(entries):
            mark = Mark.parse(entry.name.removeprefix(STAGING))
            if entry.name.startswith(STAGING) and mark and mark.gone(_touched(entry.path)):
                remove_local(entry.path)


def find_leftovers(url: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Say what lies beside a store, or in it, that is of a writer: one line each.

    Raises
    ------
    StorageError
        If the service fails.
    """
    if is_local(url):
        target = os.path.realpath(url)
        found = [
            f"{path} was left by {_whose(mark, mark.gone(_touched(path)))}"
            for path, mark, _ in _beside(target)
        ]
        if os.path.isdir(target):  # noqa: PTH112
            found += [f"{path} was left by a writer that is gone" for path in _inside(target)]
        return found
    if url.startswith(("http://", "https://")) or "::" in url:
        return []
    fs, path = filesystem(url, options)
    found = []
    if claim := find_claim(fs, path, url):
        text = "which is gone" if claim.gone else "which may still be writing"
        found.append(f"the claim {claim_path(path)} is that of {claim}, {text}")
    found += [
        f"{name} was left by {_whose(mark, mark.gone())}"
        for name, mark in _beside_remote(fs, path)
        if claim is None or claim.place != name
    ]
    return found


def explain(url: str, options: Mapping[str, Any] | None = None) -> str | None:
    """Say who took away the store that is not at `url` to put a new one there; None if nobody did.

    Parameters
    ----------
    url : str
        Normalised URL.
    options : mapping, optional
        Passed to fsspec.
    """
    if is_local(url):
        target = os.path.realpath(url)
        old = [path for path, _, purpose in _beside(target) if purpose == "old"]
        if not old or os.path.lexists(target):
            return None
        return (
            f"it is being replaced; if no process is at it any more, the old store is at {old[0]}: "
            "rename it, or write to the store once more"
        )
    if url.startswith(("http://", "https://")) or "::" in url:
        return None
    fs, path = filesystem(url, options)
    try:
        claim = find_claim(fs, path, url)
    except FmristoreError:
        return None
    if claim is None or not claim.place:
        return None
    return (
        f"it is being replaced by {claim}; try again in a moment. If that one was killed, write to "
        f"the store once more: the new one is complete at {claim.place}, and is put in place first"
    )


def _whose(mark: Mark, gone: bool) -> str:  # noqa: FBT001
    return f"process {mark.pid}, which " + ("is gone" if gone else "may still be writing it")


# Local -------------------------------------------------------------------------------------------


def _beside(target: str) -> list[tuple[str, Mark, str]]:
    """Path, mark and purpose of what writers of a destination made beside it."""
    folder, name = os.path.split(target)
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(f".{short_name(name)}."):
                mark = marked_name(name, entry.name)
                if mark is not None:
                    found.append((entry.path, mark, entry.name.rpartition(".")[2]))
    return found


def _inside(folder: str, *, deep: bool = True) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        for name in [*names, *folders]:
            match = _INSIDE.fullmatch(name)
            mark = match and Mark.parse(match["mark"])
            path = os.path.join(parent, name)  # noqa: PTH118
            if mark and mark.gone(_touched(path)):
                yield path
        folders[:] = [name for name in folders if deep and not _INSIDE.fullmatch(name)]


def _touched(path: str) -> float:
    """Time of the last write to a file, or in a folder; 0 if it is not there any more."""
    latest = 0.0
    with contextlib.suppress(OSError):
        latest = os.lstat(path).st_mtime
    for parent, _, names in os.walk(path):
        for name in ["", *names]:
            with contextlib.suppress(OSError):
                latest = max(latest, os.lstat(os.path.join(parent, name)).st_mtime)  # noqa: PTH118
    return latest


def remove_local(path: str) -> None:
    """Remove a file or folder of ours if it is there; what cannot be removed is warned of."""
    if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
        shutil.rmtree(path, ignore_errors=True)
        # That holds a folder open for each level. With few descriptors left, one has to do.
        for parent, folders, names in os.walk(path, topdown=False):
            for name in names:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(parent, name))  # noqa: PTH108, PTH118
            for name in folders:
                _remove_folder(os.path.join(parent, name))  # noqa: PTH118
        _remove_folder(path)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
    if os.path.lexists(path):
        warnings.warn(f"{path} could not be removed; remove it by hand", stacklevel=2)


def _remove_folder(path: str) -> None:
    with contextlib.suppress(OSError):
        if os.path.islink(path):  # noqa: PTH114
            os.unlink(path)  # noqa: PTH108
        else:
            os.rmdir(path)  # noqa: PTH106


# Object storage ----------------------------------------------------------------------------------


def _beside_remote(fs: Any, path: str) -> list[tuple[str, Mark]]:
    """Prefixes that writers of a store made beside it, with their marks; or `StorageError`."""
    folder, _, name = path.rstrip("/").rpartition("/")
    if not folder:
        return []
    try:
        fs.invalidate_cache()
        listed: list[str] = fs.ls(folder, detail=False)
    except FileNotFoundError:
        return []
    except Exception as error:
        raise storage_error(error, path) from error
    found = []
    for other in listed:
        last = other.rstrip("/").rpartition("/")[2]
        if last.startswith(f"{name}.") and last.endswith(".partial"):
            mark = Mark.parse(last[len(name) + 1 : -len(".partial")])
            if mark is not None:
                found.append((other.rstrip("/"), mark))
    return found


def _remove_remote(url: str, options: Mapping[str, Any] | None) -> None:
    """Remove prefixes of writers that are gone, except one that is to be copied over the store."""
    fs, path = filesystem(url, options)
    try:
        claim: Claim | None = find_claim(fs, path, url)
        for place, mark in _beside_remote(fs, path):
            if mark.gone() and (claim is None or claim.place != place):
                _remove_prefix(fs, place)
    except FmristoreError:
        return  # another time


def _remove_prefix(fs: Any, place: str) -> None:
    try:
        remove_objects(fs, names_below(fs, place))
        remove_folders(fs, place)
    except Exception as error:
        raise storage_error(error, place) from error
