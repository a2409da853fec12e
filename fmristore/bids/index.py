"""The index of a collection: which stores lie below a folder, and what each holds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fmristore.api import open as open_store
from fmristore_stores.errors import (
    AccessDeniedError,
    ChangedError,
    FmristoreError,
    FormatError,
    LayoutNotSupportedError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.io.location import content_token, filesystem, is_local
from fmristore_stores.io.sources import local_token, storage_error
from fmristore_stores.io.whole import read_whole
from fmristore_stores.limits import check_values
from fmristore_stores.publishing.publish import publish_file

__all__ = ["INDEX", "JOURNAL", "Entry", "build_index", "read_index"]

INDEX = ".fmristore/index.json"
"""Path of the index of a folder in it."""
JOURNAL = ".fmristore/journal.jsonl"
"""Path of the journal of a conversion in the folder that it makes."""

_VERSION = 1
_STORES = (".h5", ".hdf5", ".zarr")
_MOST_BYTES = 256 << 20
_THREADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One store of a collection.

    Parameters
    ----------
    path : str
        Below the folder of the collection, with slashes.
    stamp : str
        Changes when the store does; of its file, or of the metadata of its root. Empty where it
        has to be looked at again.
    format : str or None
        What it holds; None for a store of other software, or one that cannot be opened.
    shape : tuple of int or None
        Lengths of its axes.
    dtype : str or None
        Type of the values that are read.
    tr : float or None
        Repetition time in seconds.
    token : str or None
        Version of the store that was looked into, where the index was made in this place.
    error : str or None
        Why it cannot be opened.
    """

    path: str
    stamp: str
    format: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    tr: float | None = None
    token: str | None = None
    error: str | None = None


def read_index(url: str, storage_options: Mapping[str, Any] | None = None) -> list[Entry] | None:
    """Entries of the index of a folder, in one request; None if it has none.

    Raises
    ------
    MetadataError
        If it is damaged.
    MemoryLimitError
        If it has more values than an index of its length has.
    """
    place = f"{url.rstrip('/')}/{INDEX}"
    try:
        data = read_whole(place, storage_options, limit=_MOST_BYTES)
    except NotFoundError:
        return None
    except MemoryLimitError as error:
        text = f"an index of more than {_MOST_BYTES} bytes"
        raise MetadataError(text, url=place) from error
    try:
        check_values(data, place)
        document = json.loads(data)
        if document["version"] != _VERSION:
            return None  # of another fmristore: made again
        moved = document.get("place") != _digest_place(url)  # the copies are other files
        entries = [_entry(one, place) for one in document["stores"]]
        return [replace(one, token=None) for one in entries] if moved else entries
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        text = f"the index of the collection is damaged: {error!r:.200}"
        raise MetadataError(text, url=place) from error


def _digest_place(url: str) -> str:
    """Text that says which folder an index is that of, and not where that is."""
    return hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


def _entry(found: Mapping[str, Any], url: str) -> Entry:
    """One entry of a document that anybody may have written."""
    path, shape, tr = str(found["path"]), found.get("shape"), found.get("tr")
    parts = path.split("/")
    if "://" in path or "::" in path or "\\" in path or not all(parts) or {".", ".."} & {*parts}:
        text = f"the index lists {path!r:.80}, which does not lie in the folder"
        raise MetadataError(text, url=url)
    texts = {name: found.get(name) for name in ("format", "dtype", "token", "error")}
    return Entry(
        path=path,
        stamp=str(found["stamp"]),
        shape=None if shape is None else tuple(int(n) for n in shape),
        tr=None if tr is None else float(tr),
        **{name: None if text is None else str(text) for name, text in texts.items()},
    )


def build_index(url: str, storage_options: Mapping[str, Any] | None = None) -> list[Entry]:
    """Look for the stores below a folder, open those that are new or changed, write the index.

    An index that is right is not written again, and one that may not be written is no error. Where
    another process wrote it since this one began to look, this one looks again: what it found is
    older.

    Parameters
    ----------
    url : str
        Normalised.
    storage_options : mapping, optional
        Passed to fsspec.

    Raises
    ------
    NotFoundError
        If there is no such folder.
    StorageError
        If the index of a folder that is not local, where readers believe it, cannot be written.
    """
    place = f"{url.rstrip('/')}/{INDEX}"
    same: dict[tuple[str, str], Entry] = {}
    while True:
        token = content_token(place, "hdf5", storage_options)  # of whatever file
        try:
            before = read_index(url, storage_options)
        except MetadataError:  # damaged: made again
            before = None
        same |= {(entry.path, entry.stamp): entry for entry in before or ()}
        found = sorted(_find(url, storage_options))
        new = [one for one in found if one not in same]
        with ThreadPoolExecutor(_THREADS) as pool:
            opened = pool.map(lambda one: _describe(url, one[0], one[1], storage_options), new)
            made = dict(zip(new, opened, strict=True))
        entries = [same.get(one) or made[one] for one in found]
        if entries == before:
            return entries
        try:
            _write(url, entries, storage_options, token)
        except ChangedError:
            same |= made
        else:
            return entries


def _write(
    url: str, entries: Sequence[Entry], storage_options: Mapping[str, Any] | None, token: str
) -> None:
    """Write the index, unless another one has taken the place of the one with a token."""
    place = f"{url.rstrip('/')}/{INDEX}"
    stores = [{k: v for k, v in asdict(entry).items() if v is not None} for entry in entries]
    text = json.dumps({"version": _VERSION, "place": _digest_place(url), "stores": stores})
    try:
        with publish_file(
            place, overwrite=True, storage_options=storage_options, expected=token
        ) as path:
            Path(path).write_text(text, encoding="utf-8")
    except (ReadOnlyError, AccessDeniedError):
        return
    except StorageError:
        if not is_local(url):
            raise


def _describe(url: str, path: str, stamp: str, storage_options: Mapping[str, Any] | None) -> Entry:
    """Open a store and say what it holds."""
    try:
        with open_store(f"{url.rstrip('/')}/{path}", storage_options=storage_options) as stored:
            shape, dtype = getattr(stored, "shape", None), getattr(stored, "dtype", None)
            return Entry(
                path=path,
                stamp=stamp,
                format=stored.format_name,
                shape=None if shape is None else tuple(shape),
                dtype=None if dtype is None else str(dtype),
                tr=getattr(stored, "tr", None),
                token=stored.token or None,
            )
    except NotFoundError:
        raise
    except FmristoreError as error:
        # Only what lies in the store itself is so until the store changes.
        lasting = isinstance(error, FormatError | LayoutNotSupportedError)
        text = f"{type(error).__name__}: {error.message}"[:400]
        return Entry(path=path, stamp=stamp if lasting else "", error=text)


# Which stores there are -----------------------------------------------------------------------


def _find(url: str, storage_options: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """Paths and stamps of everything that is called like a store; no store is looked into."""
    if is_local(url):
        if not Path(url).is_dir():
            raise NotFoundError("there is no such folder", url=url)
        yield from _find_local(url, "")
        return
    fs, root = filesystem(url, storage_options)
    try:
        fs.invalidate_cache()
        found = list(_find_remote(fs, root.rstrip("/"), ""))
    except FmristoreError:
        raise
    except Exception as error:
        raise storage_error(error, url) from error
    yield from found


def _find_local(root: str, below: str) -> Iterator[tuple[str, str]]:
    try:
        with os.scandir(os.path.join(root, below)) as entries:  # noqa: PTH118
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.name.endswith(_STORES):
                    marker = entry.path if entry.is_file() else f"{entry.path}/zarr.json"
                    if os.path.exists(marker):  # noqa: PTH110
                        status = os.stat(marker)  # noqa: PTH116
                        yield path, local_token(status)
                elif entry.is_dir(follow_symlinks=False):
                    yield from _find_local(root, path)
    except OSError as error:
        raise storage_error(error, os.path.join(root, below)) from error  # noqa: PTH118


def _find_remote(fs: Any, root: str, below: str) -> Iterator[tuple[str, str]]:
    folder = f"{root}/{below}" if below else root
    for facts in fs.ls(folder, detail=True):
        name = str(facts["name"]).rstrip("/").rpartition("/")[2]
        path = f"{below}/{name}" if below else name
        if name.startswith(".") or not name:
            continue
        if name.endswith(_STORES):
            marker = facts if facts["type"] == "file" else _facts(fs, f"{folder}/{name}/zarr.json")
            if marker is not None:
                yield path, _stamp(marker)
        elif facts["type"] == "directory":
            yield from _find_remote(fs, root, path)


def _facts(fs: Any, path: str) -> Any:
    try:
        return fs.info(path)
    except FileNotFoundError:
        return None


def _stamp(facts: Mapping[str, Any]) -> str:
    version = next((facts[k] for k in ("ETag", "etag", "md5Hash", "mtime") if facts.get(k)), "")
    written = facts.get("LastModified") or facts.get("updated") or facts.get("last_modified") or ""
    return f"{facts.get('size')}-{version}-{written}"
