"""Objects of a filesystem of fsspec, by their literal names.

``rm``, ``copy``, ``get``, ``put``, ``cat``, ``glob`` and ``expand_path`` of fsspec take ``*``,
``?`` and ``[`` in a name for a pattern, and would touch objects that merely match. ``exists`` takes
every error for an absence, and ``find`` leaves out the folders that could not be listed. Nothing
else here calls them: what is removed, copied, listed or looked for goes through this module.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from fmristore_stores.errors import InvalidInputError, NotFoundError
from fmristore_stores.io.sources import storage_error

__all__ = [
    "below",
    "check_writable_name",
    "copy",
    "exists",
    "find",
    "is_web",
    "protocols",
    "remove",
    "remove_all",
    "remove_tree",
    "under",
]

_THREADS = 16
_PATTERN = re.compile(r"[*?\[\]{}]")
_VERSION = re.compile(r"(?i)\?versionid=")
"""Part of a key that the clients of S3 and Azure cut off."""
_WEB = frozenset({"http", "https"})
_FLAT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Storage that lists all objects below a prefix by itself; an error there is an error."""


def protocols(fs: Any) -> frozenset[str]:
    """Names of the protocols that a filesystem of fsspec serves, itself or as a cache."""
    names = fs.protocol
    own = frozenset((names,) if isinstance(names, str) else names)
    behind = getattr(fs, "fs", None)
    return own if behind is None else own | protocols(behind)


def is_web(fs: Any) -> bool:
    """Return whether names on a filesystem are parts of URLs on a web server."""
    return bool(_WEB & protocols(fs))


def below(fs: Any, root: str, key: str) -> str:
    """Path of an object on a filesystem.

    Parameters
    ----------
    fs : AbstractFileSystem
        The filesystem.
    root : str
        Path that the key is relative to; empty for the top of an archive.
    key : str
        Literal name, with slashes between its parts; empty for the root itself.

    Returns
    -------
    str
        On a web server the key is percent-encoded, and put before the query of the root's URL.
    """
    if not is_web(fs):
        root = root.rstrip("/")
        return f"{root}/{key}" if root and key else root or key
    base, query = _split_query(root)
    base = base.rstrip("/")
    return f"{base}/{quote(key)}{query}" if key else f"{base}{query}"


def under(root: str, path: str) -> str:
    """Key of an object relative to a root, the reverse of `below`."""
    root = root.strip("/")
    path = path.lstrip("/")
    return path[len(root) :].lstrip("/") if root else path


def _split_query(url: str) -> tuple[str, str]:
    base, mark, query = url.partition("?")
    return base, mark + query


def check_writable_name(path: str) -> None:
    """Check that a client takes a path for the name of an object, and cuts nothing off.

    Raises
    ------
    InvalidInputError
        If it holds ``?versionId=``.
    """
    if _VERSION.search(path):
        msg = "the name of an object cannot hold '?versionId=': clients take it for a version"
        raise InvalidInputError(msg, url=path)


def exists(fs: Any, path: str) -> bool:
    """Return whether there is an object or a folder of exactly this name.

    Raises
    ------
    StorageError
        If that cannot be found out.
    """
    try:
        fs.info(path)
    except Exception as error:
        translated = storage_error(error, path)
        if isinstance(translated, NotFoundError):
            return False
        raise translated from error
    return True


def find(fs: Any, path: str) -> dict[str, Mapping[str, Any]]:
    """All objects at a path and below it, by their full names; empty if there are none.

    Raises
    ------
    Exception
        Of the client, if a part of it cannot be listed.
    """
    return _listed(fs, path)[0]


def _listed(fs: Any, path: str) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    """Objects by their names, and folders, outer ones first where there are any."""
    if _lists_whole(fs):
        try:
            found = fs.find(path, detail=True)
        except FileNotFoundError:
            return {}, []
        if not isinstance(found, Mapping):  # the client of Azure, for the name of an object
            found = {name: fs.info(name) for name in found}
        top = path.rstrip("/")
        return {
            name: facts
            for name, facts in found.items()
            if not top or name.rstrip("/") == top or name.startswith(f"{top}/")
        }, []
    return _walk(fs, path)


def _lists_whole(fs: Any) -> bool:
    """Return whether ``find`` of a filesystem is its own; the general one leaves out what fails."""
    from fsspec import AbstractFileSystem

    if _FLAT & protocols(fs):
        return True
    return not fs.async_impl and type(fs).find is not AbstractFileSystem.find


def _walk(fs: Any, path: str) -> tuple[dict[str, Mapping[str, Any]], list[str]]:
    files: dict[str, Mapping[str, Any]] = {}
    folders = [path]
    for number, folder in enumerate(folders):  # grows meanwhile
        try:
            entries = fs.ls(folder, detail=True)
        except FileNotFoundError:
            if number:
                raise
            return {}, []
        for entry in entries:
            name = entry["name"].rstrip("/")
            if entry["type"] != "directory":
                files[entry["name"]] = entry
            elif name.lstrip("/") != folder.strip("/"):
                folders.append(name)
    return files, folders


def remove(fs: Any, path: str) -> None:
    """Remove one object.

    Raises
    ------
    Exception
        Of the client, if it is not there or cannot be removed.
    """
    check_writable_name(path)
    fs.rm_file(path)


def remove_all(fs: Any, paths: Iterable[str]) -> None:
    """Remove objects, many with one request where the service can.

    Raises
    ------
    Exception
        Of the client, if one cannot be removed.
    """
    paths = sorted(paths)
    for path in paths:
        check_writable_name(path)
    plain = [path for path in paths if not _PATTERN.search(path)]
    others = [path for path in paths if _PATTERN.search(path)]
    if plain:
        fs.rm(plain)
    if others:
        with ThreadPoolExecutor(min(_THREADS, len(others))) as threads:
            list(threads.map(fs.rm_file, others))


def remove_tree(fs: Any, path: str) -> None:
    """Remove everything at a path and below it.

    Raises
    ------
    NotFoundError
        If there is nothing.
    Exception
        Of the client, if a part of it cannot be listed or removed.
    """
    if not path.strip("/"):
        raise InvalidInputError("everything that a service holds is not removed", url=path)
    check_writable_name(path)
    names, folders = _listed(fs, path)
    if not names and not folders and not exists(fs, path):
        raise NotFoundError("there is no such object or folder", url=path)
    remove_all(fs, names)
    if "memory" in protocols(fs):
        folders = [path, *(folder for folder in fs.find(path, withdirs=True) if folder != path)]
    for folder in sorted(folders, key=len, reverse=True):
        # Where there are no folders, they go with what lies in them.
        with contextlib.suppress(FileNotFoundError, NotImplementedError):
            fs.rmdir(folder)


def copy(fs: Any, source: str, target: str) -> None:
    """Copy one object.

    Raises
    ------
    Exception
        Of the client, if it cannot be copied.
    """
    check_writable_name(target)
    fs.cp_file(source, target)
