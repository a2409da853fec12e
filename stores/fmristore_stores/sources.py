"""Where bytes come from: ranges of local files with ``pread``, of anything else through fsspec."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ChangedError,
    CorruptDataError,
    FmristoreError,
    NotFoundError,
    StorageError,
)
from fmristore_stores.protocol import Buffer, ByteRange, FetchPolicy
from fmristore_stores.stats import Stats

__all__ = [
    "VERSIONS",
    "Beginning",
    "ByteSource",
    "FsspecSource",
    "LocalSource",
    "status_of",
    "storage_error",
]

logger = logging.getLogger("fmristore")


class ByteSource(Protocol):
    """Something that hands out ranges of bytes of named files or objects."""

    @property
    def policy(self) -> FetchPolicy:
        """How ranges are best asked for."""

    def fetch(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        """Bytes of each range, each exactly as long as asked for."""

    def size(self, path: str) -> int:
        """Length in bytes; `NotFoundError` if there is no such file or object."""

    def close(self) -> None:
        """Release descriptors."""


class LocalSource:
    """Ranges of local files.

    ``pread`` neither moves a file position nor takes a lock, so any number of threads may fetch
    at once, also after a fork.

    Parameters
    ----------
    keep : str, optional
        Path of a file whose descriptor stays open until `close`; others are opened for each
        range. The ranges then come from that very file, even if its name is given to another.
    descriptor : int, optional
        Of that file, already open for reading; closed by `close`.
    stats : Stats, optional
        Where reads are counted.
    """

    policy = FetchPolicy(gap=-1, block=0, concurrent=False)

    def __init__(
        self,
        keep: str | None = None,
        *,
        descriptor: int | None = None,
        stats: Stats | None = None,
    ) -> None:
        self._path = keep
        self._kept = -1
        self._stats = stats
        if keep is not None:
            self._kept = _open(keep) if descriptor is None else descriptor

    def fetch(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        """Bytes of each range, one ``pread`` each."""
        found = []
        last, opened = "", -1
        try:
            for path, offset, length in ranges:
                kept = self._kept if path == self._path else -1
                if kept < 0 and path != last:
                    if opened >= 0:
                        os.close(opened)
                    last, opened = "", -1
                    last, opened = path, _open(path)
                found.append(_pread(opened if kept < 0 else kept, path, offset, length))
        finally:
            if opened >= 0:
                os.close(opened)
        if self._stats is not None:
            self._stats.add(requests=len(found), bytes_fetched=sum(map(len, found)))
        return found

    def size(self, path: str) -> int:
        """Length of a file in bytes."""
        try:
            return os.stat(path).st_size  # noqa: PTH116 - a hot path: no Path object
        except OSError as error:
            raise storage_error(error, path) from error

    def close(self) -> None:
        """Close the descriptor that was kept."""
        if self._kept >= 0:
            kept, self._kept = self._kept, -1
            os.close(kept)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise storage_error(error, path) from error


def _pread(descriptor: int, path: str, offset: int, length: int) -> Buffer:
    parts = []
    done = 0
    while done < length:
        try:
            part = os.pread(descriptor, length - done, offset + done)
        except (OSError, OverflowError, ValueError) as error:
            raise storage_error(error, path) from error
        if not part:
            raise _short(path, offset, length, done)
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class FsspecSource:
    """Ranges of objects on any filesystem that fsspec knows.

    Every request names both of its ends, and the length of every answer is checked: some servers
    ignore ranges and send the whole object.

    Parameters
    ----------
    fs : AbstractFileSystem
        The filesystem, not asynchronous.
    etag : str, optional
        Version of the one object that is read. S3, and web servers that know preconditions,
        then refuse to hand out bytes of any other version.
    stats : Stats, optional
        Where requests are counted: one for each range or size.
    """

    policy = FetchPolicy(gap=64 * 1024, block=8 * 1024 * 1024, concurrent=True)

    def __init__(self, fs: Any, *, etag: str = "", stats: Stats | None = None) -> None:
        self._owner = fs  # its connections are closed when it is forgotten
        self._fs, self._options = _conditional(fs, etag)
        self._stats = Stats() if stats is None else stats
        if "s3" in _protocols(fs):
            self.policy = self.policy._replace(suffix=True)

    def fetch(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        """Bytes of each range, requested concurrently where the filesystem can.

        Raises
        ------
        ChangedError
            If the server has another version of the object than `etag`.
        CorruptDataError
            If an answer is not as long as it should be.
        StorageError
            If the service failed.
        """
        if not ranges:
            return []
        started = time.perf_counter()
        try:
            found = self._get(ranges)
        except Exception as error:
            raise _read_error(error, ranges[0].source) from error
        finally:
            self._stats.add(requests=len(ranges))
        for asked, data in zip(ranges, found, strict=True):
            if len(data) != asked.length:
                raise _short(*asked, len(data))
        size = sum(map(len, found))
        self._stats.add(bytes_fetched=size)
        if logger.isEnabledFor(logging.DEBUG):
            seconds = time.perf_counter() - started
            logger.debug(
                "%s: %d requests, %d bytes, %.3f s", ranges[0].source, len(ranges), size, seconds
            )
        return found

    def _get(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        if len(ranges) == 1:
            only = ranges[0]
            found = self._fs.cat_file(
                only.source, start=only.offset, end=_end(only), **self._options
            )
            return [found]
        return list(
            self._fs.cat_ranges(
                [r.source for r in ranges],
                [r.offset for r in ranges],
                [_end(r) for r in ranges],
                on_error="raise",
                **self._options,
            )
        )

    def size(self, path: str) -> int:
        """Length of an object in bytes; one request unless it was listed before."""
        self._stats.add(requests=1)
        try:
            size = self._fs.info(path)["size"]
        except Exception as error:
            raise _read_error(error, path) from error
        if size is None:
            raise StorageError("the server does not tell the size of this object", url=path)
        logger.debug("%s: size %s", path, size)
        return int(size)

    def look(self, path: str, length: int) -> Beginning:
        """First bytes, size and version of an object: one request on S3, two elsewhere.

        Raises
        ------
        NotFoundError
            If there is no such object.
        StorageError
            If the service failed.
        """
        try:
            found = _look_at_s3(self._fs, path, length) or _look(self._fs, path, length)
        except Exception as error:
            raise _read_error(error, path) from error
        if len(found.data) != min(length, found.size):
            raise _short(path, 0, min(length, found.size), len(found.data))
        self._stats.add(requests=found.requests, bytes_fetched=len(found.data))
        logger.debug("%s: first %d of %d bytes", path, len(found.data), found.size)
        return found

    def close(self) -> None:
        """Nothing to release: the filesystem belongs to fsspec."""


def _end(item: ByteRange) -> int | None:
    return None if item.offset < 0 else item.offset + item.length


class Beginning(NamedTuple):
    """How an object begins, and what else the server said of it."""

    data: bytes
    size: int
    version: str
    """Etag, or what else tells one version from another; empty if there is nothing."""
    requests: int


VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "generation",
    "LastModified",
    "Last-Modified",
    "mtime",
    "created",
)
"""Under which names filesystems tell the version of an object."""


def _look_at_s3(fs: Any, path: str, length: int) -> Beginning | None:
    """Ask for the bytes alone, for the answer tells the rest; None if it does not arrive whole."""
    if "s3" not in _protocols(fs):
        return None
    from fsspec.asyn import sync

    bucket, key, version = fs.split_path(path)
    if version or not key:
        return None
    answer = fs.call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes=0-{length - 1}")
    try:
        data = bytes(sync(fs.loop, answer["Body"].read))
    except Exception as error:  # noqa: BLE001 - the other way asks again, and reports
        logger.debug("%s: %r", path, error)
        return None
    finally:
        answer["Body"].close()
    size = answer.get("ContentRange", "").rpartition("/")[2]
    if not size.isdecimal() or len(data) != min(length, int(size)) or not answer.get("ETag"):
        return None
    return Beginning(data, int(size), answer["ETag"], 1)


def _look(fs: Any, path: str, length: int) -> Beginning:
    fs.invalidate_cache(path)
    facts = fs.info(path)
    if facts["type"] != "file":
        raise NotFoundError("this is a folder", url=path)
    size = facts["size"]
    if size is None:
        raise StorageError("the server does not tell the size of this object", url=path)
    data = fs.cat_file(path, start=0, end=min(length, size)) if size else b""
    version = next((str(facts[name]) for name in VERSIONS if facts.get(name)), "")
    return Beginning(bytes(data), int(size), version, 2)


_CONNECTED = ("_s3", "_s3creator", "_kwargs_helper", "session", "cache_regions")
"""What a filesystem of s3fs has when it is connected."""


def _conditional(fs: Any, etag: str) -> tuple[Any, dict[str, Any]]:
    """A filesystem, and options for its reads, that make the server check the version."""
    protocols = _protocols(fs)
    if etag.startswith('"') and {"http", "https"} & protocols:  # a weak one never matches
        return fs, {"headers": {**(fs.kwargs.get("headers") or {}), "If-Match": etag}}
    if etag and "s3" in protocols:
        options = dict(fs.storage_options)
        options["s3_additional_kwargs"] = dict(fs.s3_additional_kwargs) | {"IfMatch": etag}
        pinned = type(fs)(*fs.storage_args, **options, skip_instance_cache=True)
        fs.connect()
        shared = {name: fs.__dict__[name] for name in _CONNECTED if name in fs.__dict__}
        if len(shared) == len(_CONNECTED):  # otherwise it connects by itself
            pinned.__dict__.update(shared)
        return pinned, {}
    return fs, {}


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _read_error(error: BaseException, path: str) -> FmristoreError:
    if status_of(error) == _PRECONDITION_FAILED:
        return ChangedError("the file was replaced since it was opened; open it again", url=path)
    return storage_error(error, path)


def _short(path: str, offset: int, length: int, found: int) -> CorruptDataError:
    msg = (
        f"asked for {length} bytes at offset {offset} and got {found}: "
        "the file is truncated, or the server does not serve ranges"
    )
    return CorruptDataError(msg, url=path)


_DENIED = (401, 403)
_GONE = (404, 410)
_REFUSED = re.compile(r"(?i)credentials|^Forbidden: ")
"""What clients say without a class or a status of its own."""
_PRECONDITION_FAILED = 412


def status_of(error: BaseException) -> int | None:
    """HTTP status that an error of a client goes back to, None if there is none.

    Known are aiohttp and the clients of S3 (by the error of botocore that is the cause), Google
    and Azure.
    """
    for link in (error, error.__cause__):
        response = getattr(link, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return status if isinstance(status, int) else None
        for name in ("status", "status_code", "code"):
            status = getattr(link, name, None)
            if isinstance(status, int):
                return status
    return None


def storage_error(error: BaseException, url: str) -> FmristoreError:
    """Translate what an operating system or a storage service raised into our own tree."""
    if isinstance(error, FmristoreError):
        return error
    scheme = urlsplit(url).scheme or "file"
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp"):
        # For fsspec whatever goes wrong on the web means that there is nothing.
        error = error if cause is None or status_of(cause) in _GONE else cause
    text = str(error) or type(error).__name__
    status = status_of(error)
    if isinstance(error, FileNotFoundError | NotADirectoryError) or status in _GONE:
        what = "file or object"
        if any(word in text.lower() for word in ("bucket does not exist", "no such container")):
            what = "bucket or container"
        return NotFoundError(f"there is no such {what}", url=url)
    if isinstance(error, FileExistsError):
        return AlreadyExistsError("there is something of that name already", url=url)
    if isinstance(error, PermissionError) or status in _DENIED or _REFUSED.search(text):
        return AccessDeniedError(
            f"permission denied ({text}); check the credentials or storage_options", url=url
        )
    return StorageError(f"{scheme} storage failed: {text}", url=url)
