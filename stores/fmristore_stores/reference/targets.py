"""The files that a reference file points at: which of them may be read, and reading them."""

from __future__ import annotations

import hashlib
import os
import posixpath
import threading
from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fmristore_stores.errors import ChangedError, FmristoreError, LayoutNotSupportedError
from fmristore_stores.io.clients import same_host_only
from fmristore_stores.io.lifetime import Version
from fmristore_stores.io.local_files import lies_in
from fmristore_stores.io.location import content_token, filesystem, is_local, normalise
from fmristore_stores.io.sources import (
    VERSIONS,
    ByteSource,
    FsspecSource,
    LocalSource,
    storage_error,
)
from fmristore_stores.io.stats import stats_of
from fmristore_stores.protocol import AnyArray, Buffer, ByteRange, FetchPolicy
from fmristore_stores.reference.document import TargetFacts

__all__ = ["METADATA", "Targets", "facts_of"]

METADATA = "zarr.json"
"""Name of the object by which a Zarr store is recognised: its root's metadata."""
_HEAD_BYTES = 64 * 1024
_PINNED = frozenset({"s3", "s3a"})
"""Servers that refuse to serve another version than the one asked for: nothing else to check."""
_WEB = frozenset({"http", "https"})


def facts_of(url: str, options: Mapping[str, Any] | None = None) -> TargetFacts:
    """Facts that tell a file from others and from later versions of itself; two requests.

    Parameters
    ----------
    url : str
        Normalised.
    options : mapping, optional
        Passed to fsspec.

    Raises
    ------
    NotFoundError, StorageError
        If it cannot be read.
    """
    if is_local(url):
        source: ByteSource = LocalSource()
        path, etag, mtime = url, "", _stat(url).st_mtime_ns
    else:
        fs, path = filesystem(url, options)
        source = FsspecSource(fs, stats=stats_of(url))
        etag, mtime = _etag(fs, path, url), 0
    size = source.size(path)
    head = _head(source, path, size)
    return TargetFacts(size=size, etag=etag, mtime_ns=mtime, place=_place(url), head=head)


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)  # noqa: PTH116 - on the path of every read
    except OSError as error:
        raise storage_error(error, path) from error


def _etag(fs: Any, path: str, url: str) -> str:
    try:
        fs.invalidate_cache(path)
        facts = fs.info(path)
    except Exception as error:
        raise storage_error(error, url) from error
    return next((str(facts[name]) for name in VERSIONS if facts.get(name)), "")


def _place(url: str) -> str:
    return hashlib.blake2b(url.encode(), digest_size=8).hexdigest()


def _head(source: ByteSource, path: str, size: int) -> str:
    wanted = ByteRange(path, 0, min(size, _HEAD_BYTES))
    data = source.fetch([wanted])[0] if size else b""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class Targets:
    """The files that one reference file points at.

    A reference file may come from anywhere. It reaches only files beside it: below its own folder
    on a disk, but nothing hidden there (`.ssh/id_rsa`); in the same bucket or on the same server
    elsewhere, and a server that redirects to another one is not followed.

    Parameters
    ----------
    url : str
        Of the reference file, normalised.
    options : mapping
        fsspec's storage options; also for targets, where they are of the same protocol or the
        reference file is local.
    facts : mapping of str to TargetFacts
        By which files are recognised, by their URLs as the reference file gives them.
    allowed : sequence of str
        URLs or paths of further files or folders that may be read.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        facts: Mapping[str, TargetFacts],
        *,
        allowed: Sequence[str] = (),
    ) -> None:
        self._url = url
        self._options = options
        self._allowed = tuple(normalise(item) for item in allowed)
        self._facts = {self._absolute(text): known for text, known in facts.items()}
        self._versions = {
            known: Version(known, partial(self._is_same, known)) for known in self._facts
        }
        self._stores = {
            known.removesuffix(METADATA): known
            for known in self._facts
            if known.endswith(f"/{METADATA}")
        }
        self._seen: dict[str, str] = {}  # versions that were compared with the facts
        self._resolved: dict[str, str] = {}
        self._sources: dict[str, ByteSource] = {}
        self._opened: dict[str, tuple[ByteSource, str]] = {}
        self._lock = threading.Lock()

    def policy(self, url: str) -> FetchPolicy:
        """Best way of asking for byte ranges of a resolved target."""
        return LocalSource.policy if is_local(url) else FsspecSource.policy

    def resolve(self, text: str) -> str:
        """Absolute URL of a target.

        Raises
        ------
        LayoutNotSupportedError
            If the reference file must not point there.
        """
        known = self._resolved.get(text)
        if known is not None:
            return known
        found = self._absolute(text)
        if not self._may_read(found):
            msg = (
                f"it refers to {found}, which does not lie beside it and is not followed; "
                "if you trust the reference file, name that in targets="
            )
            raise LayoutNotSupportedError(msg, url=self._url)
        return self._resolved.setdefault(text, found)

    def size(self, url: str) -> int:
        """Bytes of a resolved target."""
        source, path = self._open(url)
        return source.size(path)

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        """Bytes of ranges of resolved targets, concurrently where they are remote.

        Memory that is given for them is a hint, as in `ByteSource.fetch`.

        Raises
        ------
        ChangedError
            If a target is not the file that the references were made for.
        """
        groups: dict[int, tuple[ByteSource, list[int], list[ByteRange]]] = {}
        for number, (url, offset, length) in enumerate(ranges):
            source, path = self._open(url)
            group = groups.setdefault(id(source), (source, [], []))
            group[1].append(number)
            group[2].append(ByteRange(path, offset, length))
        found: list[Buffer] = [b""] * len(ranges)
        try:
            for source, numbers, wanted in groups.values():
                rooms = [into[number] for number in numbers] if into else ()
                for number, data in zip(numbers, source.fetch(wanted, rooms), strict=True):
                    found[number] = data
        finally:  # what cannot be fetched may be that of another version
            self._note({item.source for item in ranges})
        return found

    def _note(self, urls: Set[str]) -> None:
        """Note that files, and objects of stores, were asked for: their versions are looked at."""
        for url in self._facts.keys() & urls:
            self._versions[url].arrived()
        for folder, metadata in self._stores.items():
            if any(url.startswith(folder) for url in urls):
                self._versions[metadata].arrived()

    def close(self) -> None:
        """Release descriptors."""
        for source in self._sources.values():
            source.close()

    # Where they are ----------------------------------------------------------------------------

    def _absolute(self, text: str) -> str:
        if not is_local(text) or text.startswith("file://"):
            return normalise(text)
        if is_local(self._url):
            return normalise(Path(self._url).parent / text)
        if text.startswith("/"):
            return normalise(text)
        base = self._url.partition("?")[0]
        return f"{base.rpartition('/')[0]}/{text}"

    def _is_allowed(self, url: str) -> bool:
        return any(_is_below(url, folder) for folder in self._allowed)

    def _may_read(self, url: str) -> bool:
        if self._is_allowed(url):
            return True
        if is_local(url) or is_local(self._url):
            here = os.path.dirname(os.path.realpath(self._url))  # noqa: PTH120
            real = os.path.realpath(url)
            both = is_local(url) and is_local(self._url)
            return both and _is_below(real, here) and not _is_hidden(real, here)
        here_parts, there = urlsplit(self._url), urlsplit(url)
        beside = (here_parts.scheme, here_parts.netloc) == (there.scheme, there.netloc)
        return beside and "::" not in url and ".." not in there.path.split("/")

    def _open(self, url: str) -> tuple[ByteSource, str]:
        """Source of a resolved target, and the target's name there."""
        with self._lock:
            if url not in self._opened:
                self._opened[url] = self._new_source(url)
            return self._opened[url]

    def _new_source(self, url: str) -> tuple[ByteSource, str]:
        """Each one that is recognised has a source of its own, the others share one."""
        facts = self._facts.get(url)
        name = url if facts else "::".join((*urlsplit(url)[:2], str(self._is_allowed(url))))
        path, source = url, self._sources.get(name)
        if not is_local(url):
            fs, path = filesystem(url, self._options_for(url))
            if source is None:
                etag = facts.etag if facts and facts.place == _place(url) else ""
                source = FsspecSource(fs, etag=etag, stats=stats_of(self._url))
        elif source is None:
            source = LocalSource(url if facts else None, stats=stats_of(self._url))
        self._sources[name] = source
        return source, path

    def _options_for(self, url: str) -> Mapping[str, Any]:
        same = urlsplit(url).scheme == urlsplit(self._url).scheme
        options = self._options if same or is_local(self._url) else {}
        if urlsplit(url).scheme not in _WEB or self._is_allowed(url):
            return options
        session = {**options.get("client_kwargs", {}), "trace_configs": [same_host_only()]}
        return {**options, "client_kwargs": session}

    # Whether they are the same -----------------------------------------------------------------

    def check(self) -> None:
        """See whether what was fetched is of the files that the references were made for.

        Raises
        ------
        ChangedError
            If it is not.
        """
        for url, version in self._versions.items():
            try:
                version.check()
            except ChangedError:
                raise self._changed(url) from None

    def _is_same(self, url: str) -> bool:
        facts = self._facts[url]
        in_place = facts.place == _place(url)
        if in_place and is_local(url):
            status = _stat(url)
            return (status.st_mtime_ns, status.st_size) == (facts.mtime_ns, facts.size)
        if url in self._seen:
            return not self._seen[url] or self._seen[url] == self._token(url)
        pinned = in_place and url not in self._stores.values() and _refuses_others(url, facts.etag)
        seen = "" if pinned else self._token(url)
        if not self._is_as_recorded(url, facts, in_place=in_place):
            return False
        self._seen[url] = seen
        return True

    def _token(self, url: str) -> str:
        """Version of the file now, which costs one request where it is remote."""
        return content_token(url, "hdf5", self._options_for(url))

    def _is_as_recorded(self, url: str, facts: TargetFacts, *, in_place: bool) -> bool:
        """Ask the server unless it checks by itself; a file that was moved, by its content."""
        source, path = self._open(url)
        if in_place and facts.etag:
            if urlsplit(url).scheme in _PINNED and url not in self._stores.values():
                return True
            fs, path = filesystem(url, self._options_for(url))
            return _etag(fs, path, url) == facts.etag and source.size(path) == facts.size
        same_size = source.size(path) == facts.size
        return same_size and _head(source, path, facts.size) == facts.head

    def _changed(self, url: str) -> FmristoreError:
        msg = (
            f"{url} is not the file that these references were made for: it changed or was "
            "replaced; make them again (fmristore virtualize)"
        )
        return ChangedError(msg, url=self._url)


def _refuses_others(url: str, etag: str) -> bool:
    """True if the server refuses to serve any version but the one that each request names."""
    scheme = urlsplit(url).scheme
    return bool(etag) and (scheme in _PINNED or (scheme in _WEB and etag.startswith('"')))


def _is_hidden(path: str, folder: str) -> bool:
    """True if a file below a folder, or a folder on the way to it, has a name with a dot first."""
    return any(name.startswith(".") for name in Path(os.path.relpath(path, folder)).parts)


def _is_below(url: str, folder: str) -> bool:
    if is_local(url) or is_local(folder):
        return is_local(url) and is_local(folder) and lies_in(url, os.path.realpath(folder))
    if ".." in posixpath.normpath(url).split("/") or "/../" in f"{url}/":
        return False
    return url == folder or url.startswith(folder.rstrip("/") + "/")
