"""The files that a reference file points at: which of them may be read, and reading them."""

from __future__ import annotations

import hashlib
import os
import posixpath
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fmristore_stores.errors import (
    ChangedError,
    FmristoreError,
    LayoutNotSupportedError,
    MemoryLimitError,
)
from fmristore_stores.io.clients import same_host_only
from fmristore_stores.io.lifetime import Version
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.io.location import content_token, filesystem, is_local, normalise
from fmristore_stores.io.objects import protocols
from fmristore_stores.io.sources import (
    VERSIONS,
    ByteSource,
    FsspecSource,
    LocalSource,
    storage_error,
)
from fmristore_stores.io.stats import stats_of
from fmristore_stores.protocol import Buffer, ByteRange, FetchPolicy
from fmristore_stores.reference.document import TargetFacts

__all__ = ["Targets", "facts_of", "read_whole"]

_HEAD_BYTES = 64 * 1024
_FIRST_BYTES = 8 * 1024 * 1024
"""Bytes asked for before the size of an object on S3 is known."""
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
        path, etag, mtime = url, "", _mtime(url)
    else:
        fs, path = filesystem(url, options)
        source = FsspecSource(fs, stats=stats_of(url))
        etag, mtime = _etag(fs, path, url), 0
    size = source.size(path)
    return TargetFacts(
        size=size, etag=etag, mtime_ns=mtime, place=_place(url), head=_head(source, path, size)
    )


def read_whole(url: str, options: Mapping[str, Any] | None = None, *, limit: int) -> bytes:
    """All bytes of a file, unless it is too long: one request on S3, two elsewhere.

    Raises
    ------
    NotFoundError, StorageError
        If it cannot be read.
    MemoryLimitError
        If it has more bytes than `limit`.
    """
    try:
        if is_local(url):
            with open(open_ordinary(url), "rb") as file:  # noqa: PTH123
                data = file.read(limit + 1)
        else:
            fs, path = filesystem(url, options)
            data = _whole(fs, path, limit)
            stats_of(url).add(requests=1, bytes_fetched=len(data))
    except Exception as error:
        raise storage_error(error, url) from error
    if len(data) > limit:
        raise MemoryLimitError(f"the file has more than {limit} bytes", url=url)
    return data


def _whole(fs: Any, path: str, limit: int) -> bytes:
    """All bytes of an object, or no more than tells that it has more than `limit`."""
    if "s3" in protocols(fs):  # the beginning tells the size
        begin = FsspecSource(fs).look(path, min(limit + 1, _FIRST_BYTES))
        if begin.size > limit:
            raise _too_long(path, limit, begin.size)
        done = len(begin.data)
        rest = fs.cat_file(path, start=done, end=begin.size) if done < begin.size else b""
        return begin.data + bytes(rest)
    fs.invalidate_cache(path)
    size = fs.info(path)["size"]
    if size is None:  # a server that does not say it: as a stream
        with fs.open(path, "rb") as file:
            return bytes(file.read(limit + 1))
    if size > limit:
        raise _too_long(path, limit, size)
    return bytes(fs.cat_file(path, start=0, end=size)) if size else b""


def _too_long(path: str, limit: int, size: int) -> MemoryLimitError:
    return MemoryLimitError(f"the file has {size} bytes, more than {limit}", url=path)


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - on the path of every read
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
    allowed : sequence of str
        URLs or paths of further files or folders that may be read.
    facts : TargetFacts, optional
        By which the file at `target` is recognised.
    target : str
        URL of that file, as the reference file gives it.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        *,
        allowed: Sequence[str] = (),
        facts: TargetFacts | None = None,
        target: str = "",
    ) -> None:
        self._url = url
        self._options = options
        self._allowed = tuple(normalise(item) for item in allowed)
        self._facts = facts
        self._known = self._absolute(target) if facts is not None else ""
        self._sources: dict[str, ByteSource] = {}
        self._opened: dict[str, tuple[ByteSource, str]] = {}
        self._version = Version(url, self._is_same)
        self._seen: str | None = None  # version that was compared with the facts
        self._lock = threading.Lock()
        self.local = is_local(self._known or url)

    @property
    def policy(self) -> FetchPolicy:
        """Best way of asking for byte ranges."""
        return LocalSource.policy if self.local else FsspecSource.policy

    def resolve(self, text: str) -> str:
        """Absolute URL of a target.

        Raises
        ------
        LayoutNotSupportedError
            If the reference file must not point there.
        """
        found = self._absolute(text)
        if not self._may_read(found):
            msg = (
                f"it refers to {found}, which does not lie beside it and is not followed; "
                "if you trust the reference file, name that in targets="
            )
            raise LayoutNotSupportedError(msg, url=self._url)
        self.local = self.local and is_local(found)
        return found

    def size(self, url: str) -> int:
        """Bytes of a resolved target."""
        source, path = self._open(url)
        return source.size(path)

    def fetch(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        """Bytes of ranges of resolved targets, concurrently where they are remote.

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
        for source, numbers, wanted in groups.values():
            for number, data in zip(numbers, source.fetch(wanted), strict=True):
                found[number] = data
        if any(item.source == self._known for item in ranges):
            self._version.arrived()
        return found

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
        """The one that is recognised has a source of its own, the others share one."""
        pinned = self._facts is not None and url == self._known
        name = url if pinned else "::".join((*urlsplit(url)[:2], str(self._is_allowed(url))))
        path, source = url, self._sources.get(name)
        if not is_local(url):
            fs, path = filesystem(url, self._options_for(url))
            if source is None:
                etag = self._facts.etag if pinned and self._facts and self._is_in_place() else ""
                source = FsspecSource(fs, etag=etag, stats=stats_of(self._url))
        elif source is None:
            source = LocalSource(url if pinned else None, stats=stats_of(self._url))
        self._sources[name] = source
        return source, path

    def _options_for(self, url: str) -> Mapping[str, Any]:
        same = urlsplit(url).scheme == urlsplit(self._url).scheme
        options = self._options if same or is_local(self._url) else {}
        if not url.startswith(("http://", "https://")) or self._is_allowed(url):
            return options
        session = {**options.get("client_kwargs", {}), "trace_configs": [same_host_only()]}
        return {**options, "client_kwargs": session}

    # Whether they are the same -----------------------------------------------------------------

    def _is_in_place(self) -> bool:
        return self._facts is not None and self._facts.place == _place(self._known)

    def check(self) -> None:
        """See whether what was fetched is of the file that the references were made for.

        Raises
        ------
        ChangedError
            If it is not.
        """
        if self._facts is None:
            return
        try:
            self._version.check()
        except ChangedError:
            raise self._changed() from None

    def _is_same(self) -> bool:
        facts = self._facts
        if facts is None:
            return True
        if is_local(self._known) and self._is_in_place():
            return (_mtime(self._known), os.stat(self._known).st_size) == (  # noqa: PTH116
                facts.mtime_ns,
                facts.size,
            )
        if self._seen is None:
            pinned = self._is_in_place() and self._is_pinned(facts.etag)
            seen = "" if pinned else self._token()
            if not self._same_remotely(facts):
                return False
            self._seen = seen
            return True
        return not self._seen or self._seen == self._token()

    def _token(self) -> str:
        """Version of the file now, which costs one request where it is remote."""
        return content_token(self._known, "hdf5", self._options_for(self._known))

    def _is_pinned(self, etag: str) -> bool:
        """Whether the server refuses to serve any other version."""
        scheme = urlsplit(self._known).scheme
        return bool(etag) and (scheme in _PINNED or (scheme in _WEB and etag.startswith('"')))

    def _same_remotely(self, facts: TargetFacts) -> bool:
        """Ask the server unless it checks by itself; a file that was moved, by its content."""
        source, path = self._open(self._known)
        if self._is_in_place() and facts.etag:
            if urlsplit(self._known).scheme in _PINNED:
                return True
            fs, path = filesystem(self._known, self._options_for(self._known))
            return _etag(fs, path, self._known) == facts.etag and source.size(path) == facts.size
        same_size = source.size(path) == facts.size
        return same_size and _head(source, path, facts.size) == facts.head

    def _changed(self) -> FmristoreError:
        msg = (
            f"{self._known} is not the file that these references were made for: it changed or was "
            "replaced; make them again (fmristore virtualize)"
        )
        return ChangedError(msg, url=self._url)


def _is_hidden(path: str, folder: str) -> bool:
    """Whether a file below a folder, or a folder on the way to it, has a name with a dot first."""
    return any(name.startswith(".") for name in Path(os.path.relpath(path, folder)).parts)


def _is_below(url: str, folder: str) -> bool:
    if is_local(url):
        url = os.path.realpath(url)
        folder = os.path.realpath(folder) if is_local(folder) else folder
    elif ".." in posixpath.normpath(url).split("/") or "/../" in f"{url}/":
        return False
    return url == folder or url.startswith(folder.rstrip("/") + "/")
