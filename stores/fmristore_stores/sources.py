"""Where bytes come from: ranges of local files with ``pread``, of anything else through fsspec."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    FmristoreError,
    NotFoundError,
    StorageError,
)
from fmristore_stores.protocol import Buffer, ByteRange, FetchPolicy

__all__ = ["ByteSource", "FsspecSource", "LocalSource", "storage_error"]


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
    """

    policy = FetchPolicy(gap=-1, block=0, concurrent=False)

    def __init__(self, keep: str | None = None, *, descriptor: int | None = None) -> None:
        self._path = keep
        self._kept = -1
        if keep is not None:
            self._kept = _open(keep) if descriptor is None else descriptor

    def fetch(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        """Bytes of each range, one ``pread`` each."""
        return [self._read(*item) for item in ranges]

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

    def _read(self, path: str, offset: int, length: int) -> Buffer:
        if path == self._path and self._kept >= 0:
            return _pread(self._kept, path, offset, length)
        descriptor = _open(path)
        try:
            return _pread(descriptor, path, offset, length)
        finally:
            os.close(descriptor)


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
    """

    policy = FetchPolicy(gap=64 * 1024, block=8 * 1024 * 1024, concurrent=True)

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def fetch(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        """Bytes of each range, requested concurrently where the filesystem can."""
        if not ranges:
            return []
        try:
            if len(ranges) == 1:
                path, start, length = ranges[0]
                found = [self._fs.cat_file(path, start=start, end=start + length)]
            else:
                found = self._fs.cat_ranges(
                    [r.source for r in ranges],
                    [r.offset for r in ranges],
                    [r.offset + r.length for r in ranges],
                    on_error="raise",
                )
        except Exception as error:
            raise storage_error(error, ranges[0].source) from error
        for asked, data in zip(ranges, found, strict=True):
            if len(data) != asked.length:
                raise _short(*asked, len(data))
        return list(found)

    def size(self, path: str) -> int:
        """Length of an object in bytes; one request unless it was listed before."""
        try:
            size = self._fs.info(path)["size"]
        except Exception as error:
            raise storage_error(error, path) from error
        if size is None:
            raise StorageError("the server does not tell the size of this object", url=path)
        return int(size)

    def close(self) -> None:
        """Nothing to release: the filesystem belongs to fsspec."""


def _short(path: str, offset: int, length: int, found: int) -> CorruptDataError:
    msg = (
        f"asked for {length} bytes at offset {offset} and got {found}: "
        "the file is truncated, or the server does not serve ranges"
    )
    return CorruptDataError(msg, url=path)


_DENIED = (401, 403)
_GONE = (404, 410)


def _status(error: BaseException) -> Any:
    """HTTP status that an error of aiohttp, or one caused by an error of botocore, goes back to."""
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, Mapping):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return getattr(error, "status", None)


def storage_error(error: BaseException, url: str) -> FmristoreError:
    """Translate what an operating system or a storage service raised into our own tree."""
    if isinstance(error, FmristoreError):
        return error
    scheme = urlsplit(url).scheme or "file"
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp"):
        # For fsspec whatever goes wrong on the web means that there is nothing.
        error = error if cause is None or _status(cause) in _GONE else cause
    text = str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return NotFoundError("there is no such file or object", url=url)
    if isinstance(error, FileExistsError):
        return AlreadyExistsError("there is something of that name already", url=url)
    if (
        isinstance(error, PermissionError)
        or _status(error) in _DENIED
        or ("credentials" in text.lower())
    ):
        return AccessDeniedError(
            f"permission denied ({text}); check the credentials or storage_options", url=url
        )
    return StorageError(f"{scheme} storage failed: {text}", url=url)
