"""Sources of bytes: ranges of local files with ``pread``, of anything else through fsspec.

One class for each kind of place, which share their checks, which makes the module long.
"""

from __future__ import annotations

import _thread
import errno
import functools
import itertools
import logging
import operator
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from fmristore_stores.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ChangedError,
    ClosedError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    MemoryLimitError,
    NotFoundError,
    StorageError,
)
from fmristore_stores.io.lifetime import Version, close_forgotten, close_when_forgotten
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.io.stats import Stats
from fmristore_stores.protocol import AnyArray, Buffer, ByteRange, FetchPolicy
from fmristore_stores.secrets import masked

__all__ = [
    "VERSIONS",
    "Answered",
    "Arrived",
    "Beginning",
    "ByteSource",
    "Folder",
    "FsspecSource",
    "LocalSource",
    "OpenFile",
    "denials",
    "local_token",
    "status_of",
    "storage_error",
    "when_written",
]

logger = logging.getLogger("fmristore")


Arrived = Callable[[int, Buffer], object]
"""Takes the number of an object and bytes of it, in any thread."""
Answered = Callable[[], object]
"""Called when the versions of what is asked for are known, in any thread."""


class ByteSource(Protocol):
    """Something that hands out ranges of bytes of named files or objects."""

    @property
    def policy(self) -> FetchPolicy:
        """Best way of asking for ranges."""

    @property
    def version(self) -> Version | None:
        """True if a remote store is still the same; None where nothing has to."""

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        """Bytes of each range, each exactly as long as asked for; `into` as of `ChunkRefs`."""

    def size(self, path: str) -> int:
        """Length in bytes; `NotFoundError` if there is no such file or object."""

    def close(self) -> None:
        """Release descriptors."""


class OpenFile:
    """A descriptor that is closed soon after nobody holds this object any more.

    Whoever reads holds it meanwhile, so that no descriptor is closed under a reader: its number
    may soon be that of another file.

    Parameters
    ----------
    descriptor : int
        Open for reading.
    """

    __slots__ = ("__weakref__", "descriptor", "lock")

    def __init__(self, descriptor: int, *, owned: bool = True) -> None:
        self.descriptor = descriptor
        self.lock = _thread.allocate_lock()
        if owned:
            close_when_forgotten(self, functools.partial(os.close, descriptor))

    def reader(self) -> Callable[[int, int], bytes]:
        """Read as `read` does, many times; this object has to be held meanwhile."""
        if hasattr(os, "pread"):
            return functools.partial(os.pread, self.descriptor)
        return self.read

    def read(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes from an offset on."""
        if hasattr(os, "pread"):
            return os.pread(self.descriptor, length, offset)
        with self.lock:  # Windows: the position belongs to all that use the descriptor
            return _read_at(self.descriptor, length, offset)


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, length)


class Folder:
    """A folder that stays the one that was opened, whatever takes over its name.

    Files in it are opened relative to its descriptor, where the system can do that.

    Parameters
    ----------
    path : str
        Absolute. Symbolic links on the way to it are resolved once, and not looked at again.

    Raises
    ------
    NotFoundError, AccessDeniedError, StorageError
        If it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._file: OpenFile | None = None
        try:
            if _relative():
                self._file = OpenFile(os.open(path, os.O_RDONLY | _FOLDER))
                status = os.fstat(self._file.descriptor)
            else:
                status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            raise storage_error(error, path) from error
        self._identity = _identity(status)
        self.path = path = path if self._is_real(path) else os.path.realpath(path)
        self._inside = os.path.join(path, "")  # noqa: PTH118 - hot path, as below

    def _is_real(self, path: str) -> bool:
        """True if no part of its path is a link, where the system says that in one call."""
        if self._file is None:
            return False
        try:
            return os.readlink(f"/proc/self/fd/{self._file.descriptor}") == path  # noqa: PTH115
        except OSError:
            return False

    def place(self, path: str) -> tuple[str, int | None]:
        """Name of a file or folder below, and the descriptor that it is relative to."""
        if self._file is None:
            return path, None
        if path == self.path:
            return ".", self._file.descriptor
        if path.startswith(self._inside):
            return path[len(self._inside) :], self._file.descriptor
        return path, None

    def is_in_place(self) -> bool:
        """Return whether its name still leads to it."""
        try:
            return _identity(os.stat(self.path)) == self._identity  # noqa: PTH116
        except OSError:
            return False

    def close(self) -> None:
        """Give it up; readers that are under way keep it open."""
        self._file = None
        close_forgotten()


_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


def _relative() -> bool:
    """Return whether files can be opened relative to a folder."""
    return os.open in os.supports_dir_fd and hasattr(os, "O_DIRECTORY")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Identity of a folder, also where its number may be given to another one."""
    return status.st_dev, status.st_ino, status.st_ctime_ns if os.name == "nt" else 0


class LocalSource:
    """Ranges of local files.

    ``pread`` neither moves a file position nor takes a lock, so any number of threads may fetch
    at once, also after a fork. Where a system lacks it, reads of one file take turns.

    Parameters
    ----------
    keep : str, optional
        Path of a file whose descriptor stays open until `close`; others are opened for each
        range. The ranges then come from that very file, even if its name is given to another.
    file : OpenFile, optional
        That file, already open; opened here if not given.
    folder : Folder, optional
        Files below it are opened in the folder that has been opened, not by their paths.
    stats : Stats, optional
        Where reads are counted.
    """

    policy = FetchPolicy(gap=-1, block=0, concurrent=False)
    version = None

    def __init__(
        self,
        keep: str | None = None,
        *,
        file: OpenFile | None = None,
        folder: Folder | None = None,
        stats: Stats | None = None,
    ) -> None:
        self._path = keep
        self._folder = folder
        self._stats = stats
        self._kept = OpenFile(_open(keep)) if keep is not None and file is None else file

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        """Bytes of each range, one ``pread`` each; straight into memory that is given for them.

        Raises
        ------
        ClosedError
            After `close`, if the ranges are those of the file that was kept.
        CorruptDataError
            If a range lies beyond the end of its file.
        NotFoundError, StorageError
            If the file is gone, or the disk failed.
        """
        if into and hasattr(os, "preadv"):
            return self._fetch_into(ranges, into)
        if len(ranges) == 1:
            return [self._fetch_one(ranges[0])]
        found: list[Buffer] = []
        for path, group in itertools.groupby(ranges, _SOURCE_OF):
            if path != self._path:
                found += self._read_other(path, group)
                continue
            file = self._open_file()
            found += _read_each(file.reader(), group)
        if self._stats is not None:
            self._stats.add(requests=len(found), bytes_fetched=sum(map(len, found)))
        return found

    def _fetch_into(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None]
    ) -> list[Buffer]:
        found: list[Buffer] = []
        places = zip(ranges, into, strict=True)
        for path, group in itertools.groupby(places, lambda place: place[0].source):
            if path != self._path:
                descriptor = _open(path, self._folder)
                try:
                    found += _read_all_into(descriptor, list(group))
                finally:
                    os.close(descriptor)
                continue
            file = self._open_file()
            found += _read_all_into(file.descriptor, list(group))
        if self._stats is not None:
            self._stats.add(requests=len(found), bytes_fetched=sum(map(len, found)))
        return found

    def _open_file(self) -> OpenFile:
        """The file that was kept, to be held while it is read."""
        file = self._kept
        if file is None:
            raise ClosedError("the file is closed", url=self._path)
        return file

    def _fetch_one(self, item: ByteRange) -> Buffer:
        """Bytes of a single range."""
        path = item.source
        if path != self._path:
            (data,) = self._read_other(path, iter((item,)))
        else:
            file = self._open_file()
            data = _read(file.read, item)
        if self._stats is not None:
            self._stats.add(requests=1, bytes_fetched=len(data))
        return data

    def _read_other(self, path: str, ranges: Iterator[ByteRange]) -> list[Buffer]:
        """Read ranges of a file that is opened for them alone."""
        descriptor = _open(path, self._folder)
        try:
            return _read_each(OpenFile(descriptor, owned=False).reader(), ranges)
        finally:
            os.close(descriptor)

    def size(self, path: str) -> int:
        """Length of a file in bytes."""
        try:
            kept = self._kept if path == self._path else None
            if kept is not None:
                return os.fstat(kept.descriptor).st_size
            name, folder = (path, None) if self._folder is None else self._folder.place(path)
            return os.stat(name, dir_fd=folder).st_size
        except OSError as error:
            raise storage_error(error, path) from error

    def close(self) -> None:
        """Give up the descriptor that was kept; readers that are under way keep it open."""
        self._kept = None
        close_forgotten()


def local_token(status: os.stat_result) -> str:
    """Text that says which local file it is, and changes when it is written to."""
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


_SOURCE_OF, _LENGTH_OF = operator.attrgetter("source"), operator.attrgetter("length")


def _open(path: str, folder: Folder | None = None) -> int:
    try:
        name, within = (path, None) if folder is None else folder.place(path)
        return open_ordinary(name, within=within)
    except OSError as error:
        raise storage_error(error, path) from error


_READING = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


_MOST_ROOMS = 64
"""Pieces of memory that one call to the system reads or writes; all allow some hundred."""


def _read_each(read: Callable[[int, int], bytes], ranges: Iterable[ByteRange]) -> list[Buffer]:
    """Bytes of ranges of one file, nearly always with one call to the system for each."""
    wanted = list(ranges)
    try:
        found = [read(length, offset) for _, offset, length in wanted]
    except (OSError, OverflowError, ValueError):
        return [_read(read, item) for item in wanted]  # which says what is wrong
    if list(map(len, found)) == list(map(_LENGTH_OF, wanted)):
        return list(found)
    return [_read(read, item, begin) for item, begin in zip(wanted, found, strict=True)]


def _read(read: Callable[[int, int], bytes], item: ByteRange, begin: bytes = b"") -> Buffer:
    """Bytes of a range, of which the first ones may be there already."""
    path, offset, length = item
    parts = [begin] if begin else []
    done = len(begin)
    while done < length:
        try:
            part = read(length - done, offset + done)
        except (OSError, OverflowError, ValueError) as error:
            raise storage_error(error, path) from error
        if not part:
            raise _short(path, offset, length, done)
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_all_into(
    descriptor: int, places: Sequence[tuple[ByteRange, AnyArray | None]]
) -> list[Buffer]:
    """Bytes of ranges of one file; those that follow each other go into memory with one call."""
    found: list[Buffer] = []
    run: list[memoryview] = []
    begin = end = 0  # of the run, in the file
    for item, room in places:
        path, offset, length = item
        if run and (room is None or offset != end or len(run) == _MOST_ROOMS):
            _fill(descriptor, path, begin, end - begin, run)
            run = []
        if room is None:
            found.append(_read(functools.partial(_read_at, descriptor), item))
            continue
        if not run:
            begin = offset
        end = offset + length
        run.append(room.data)
        found.append(run[-1])
    if run:
        _fill(descriptor, places[-1][0].source, begin, end - begin, run)
    return found


def _fill(descriptor: int, path: str, offset: int, length: int, left: list[memoryview]) -> None:
    """Fill pieces of memory, `length` bytes in all, with what follows an offset; uses up `left`."""
    done = 0
    while done < length:
        try:
            count = os.preadv(descriptor, left, offset + done)
        except (OSError, OverflowError, ValueError) as error:
            raise storage_error(error, path) from error
        if not count:
            raise _short(path, offset, length, done)
        done += count
        while done < length and count >= left[0].nbytes:
            count -= left.pop(0).nbytes
        left[0] = left[0][count:]


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
    version : Version, optional
        Learns what has arrived, to be checked after a read.
    """

    policy = FetchPolicy(gap=64 * 1024, block=8 * 1024 * 1024, concurrent=True)

    def __init__(
        self,
        fs: Any,
        *,
        etag: str = "",
        stats: Stats | None = None,
        version: Version | None = None,
    ) -> None:
        self._fs = fs
        self._named = _names_versions(fs)
        self._etag = etag if self._named and etag.startswith('"') else ""  # a weak one never fits
        self._stats = Stats() if stats is None else stats
        self.version = version
        if "s3" in _protocols(fs):
            self.policy = self.policy._replace(suffix=True)

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
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
        del into
        found = self._fetch(ranges) if ranges else []
        for asked, data in zip(ranges, found, strict=True):
            if len(data) != asked.length:
                raise _short(self._url(asked.source), asked.offset, asked.length, len(data))
        return found

    def begin(
        self, paths: Sequence[str], length: int, arrived: Arrived, answered: Answered
    ) -> None:
        """Ask for the first bytes of objects; raises as `fetch`.

        Parameters
        ----------
        paths : sequence of str
            Different objects.
        length : int
            Bytes of each; all of one that is shorter.
        arrived : callable
            Takes the number of each object and the bytes, as soon as they are here.
        answered : callable
            Called before all bytes are here, where the answers name versions that a check of the
            source's `version` can vouch for from then on.
        """
        left = {path: number for number, path in enumerate(paths)}

        def here(path: str, data: Buffer) -> None:
            if len(data) > length:
                raise _short(self._url(path), 0, length, len(data))
            arrived(left.pop(path), data)

        def seen(versions: Mapping[str, str]) -> None:
            if self.version is not None and len(versions) == len(paths):
                self.version.arrived(versions)
                answered()

        found = self._fetch([ByteRange(path, 0, length) for path in paths], seen, here)
        for path, data in zip(paths, found, strict=True):
            if path in left:
                here(path, data)

    def _fetch(
        self,
        ranges: Sequence[ByteRange],
        seen: Callable[[Mapping[str, str]], None] | None = None,
        here: Callable[[str, Buffer], None] | None = None,
    ) -> list[Buffer]:
        """Bytes that the server sends for each range, of whatever length.

        Where a client names versions, `seen` is called with those known so far, and `here` as of
        `clients`.
        """
        started = time.perf_counter()
        answered: dict[str, str] = {}
        try:
            found = self._get(ranges, answered, seen, here)
        except Exception as error:
            answered.clear()
            raise self._read_error(error, ranges[0].source) from error
        finally:
            self._arrived(len(ranges), answered)
        size = sum(map(len, found))
        self._stats.add(bytes_fetched=size)
        if logger.isEnabledFor(logging.DEBUG):
            seconds = time.perf_counter() - started
            logger.debug(
                "%s: %d requests, %d bytes, %.3f s",
                masked(ranges[0].source),
                len(ranges),
                size,
                seconds,
            )
        return found

    def _arrived(self, requests: int, answered: Mapping[str, str] | None = None) -> None:
        self._stats.add(requests=requests)
        if self.version is not None:
            self.version.arrived(answered)

    def _get(
        self,
        ranges: Sequence[ByteRange],
        answered: dict[str, str],
        all_seen: Callable[[Mapping[str, str]], None] | None,
        here: Callable[[str, Buffer], None] | None,
    ) -> list[Buffer]:
        """Bytes of ranges; `answered` gets the versions of their objects where they are named."""
        options: dict[str, Any] = {}
        if self._named and here is not None:
            options["here"] = here
        if self._etag:
            options["if_match"] = self._etag
        if self._named and self.version is not None:

            def seen(path: str, etag: str) -> None:
                # Ranges of one object that differ are of no version.
                answered[path] = etag if answered.get(path, etag) == etag else ""
                if all_seen is not None:
                    all_seen(answered)

            options["seen"] = seen
        if len(ranges) == 1:
            only = ranges[0]
            found = self._fs.cat_file(only.source, start=only.offset, end=_end(only), **options)
            return [found]
        return list(
            self._fs.cat_ranges(
                [r.source for r in ranges],
                [r.offset for r in ranges],
                [_end(r) for r in ranges],
                on_error="raise",
                **options,
            )
        )

    def size(self, path: str) -> int:
        """Length of an object in bytes; one request unless it was listed before."""
        try:
            facts = self._fs.info(path)
        except Exception as error:
            raise self._read_error(error, path) from error
        finally:
            self._arrived(1)
        if self._etag and facts.get("ETag", self._etag) != self._etag:
            raise _replaced(self._url(path))
        size = facts["size"]
        if size is None:
            raise StorageError(_NO_SIZE, url=self._url(path))
        logger.debug("%s: size %s", masked(path), size)
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
            raise self._read_error(error, path) from error
        if len(found.data) != min(length, found.size):
            raise _short(self._url(path), 0, min(length, found.size), len(found.data))
        self._stats.add(requests=found.requests, bytes_fetched=len(found.data))
        logger.debug("%s: first %d of %d bytes", masked(path), len(found.data), found.size)
        return found

    def _url(self, path: str) -> str:
        """URL of a path of the filesystem, which may lack the scheme."""
        return str(self._fs.unstrip_protocol(path))

    def _read_error(self, error: BaseException, path: str) -> FmristoreError:
        if status_of(error) == _PRECONDITION_FAILED:
            return _replaced(self._url(path))
        return storage_error(error, self._url(path))

    def close(self) -> None:
        """Nothing to release: the filesystem belongs to fsspec."""


def _end(item: ByteRange) -> int | None:
    return None if item.offset < 0 else item.offset + item.length


class Beginning(NamedTuple):
    """Beginning of an object, and the server's other facts about it."""

    data: bytes
    size: int
    version: str
    """Etag, or what else tells one version from another; empty if there is nothing."""
    requests: int
    written: str = ""
    """Time of writing, if that may say more than `version`; see `when_written`."""


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


def when_written(facts: Mapping[str, Any]) -> str:
    """Time at which an object of S3 was written, to the second; empty if it is not known.

    Its etag is the same for all objects of the same content.
    """
    found = facts.get("LastModified")
    return str(int(found.timestamp())) if isinstance(found, datetime) else ""


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
        logger.debug("%s: %s", masked(path), masked(repr(error)))
        return None
    finally:
        answer["Body"].close()
    size = answer.get("ContentRange", "").rpartition("/")[2]
    if not size.isdecimal() or len(data) != min(length, int(size)) or not answer.get("ETag"):
        return None
    return Beginning(data, int(size), answer["ETag"], 1, when_written(answer))


def _look(fs: Any, path: str, length: int) -> Beginning:
    fs.invalidate_cache(path)
    facts = fs.info(path)
    if facts["type"] != "file":
        raise NotFoundError("this is a folder", url=fs.unstrip_protocol(path))
    size = facts["size"]
    if size is None:
        raise StorageError(_NO_SIZE, url=fs.unstrip_protocol(path))
    data = fs.cat_file(path, start=0, end=min(length, size)) if size else b""
    version = next((str(facts[name]) for name in VERSIONS if facts.get(name)), "")
    return Beginning(bytes(data), int(size), version, 2, when_written(facts))


def _names_versions(fs: Any) -> bool:
    """Return whether reads of a filesystem say which version answered, and can ask for one."""
    return bool(getattr(fs, "names_versions", False))


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _replaced(url: str) -> ChangedError:
    return ChangedError("the file was replaced since it was opened; open it again", url=url)


def _short(url: str, offset: int, length: int, found: int) -> CorruptDataError:
    msg = (
        f"asked for {length} bytes at offset {offset} and got {found}: "
        "the file is truncated, or the server does not serve ranges"
    )
    return CorruptDataError(msg, url=url)


_NO_SIZE = "the server does not say the size of this object"
_DENIED = (401, 403)
_GONE = (404, 410)
_REFUSED = re.compile(r"(?i)credentials|^Forbidden: ")
"""Messages of clients that have no class or status of their own."""
_PRECONDITION_FAILED = 412
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")
denials: list[None] = []
"""One entry for each refusal of a service: clients may keep credentials that were changed since."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space on the device, none within the quota, and a file longer than may be."""


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
    if isinstance(cause, FmristoreError):  # what our own clients found
        return cause
    if isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp"):
        # For fsspec whatever goes wrong on the web means that there is nothing.
        error = error if cause is None or status_of(cause) in _GONE else cause
    text = str(error) or type(error).__name__
    status = status_of(error)
    if (ours := _lacking(error, text, url)) is not None:
        return ours
    if isinstance(error, FileNotFoundError | NotADirectoryError) or status in _GONE:
        what = "file or object"
        if any(word in text.lower() for word in ("bucket does not exist", "no such container")):
            what = "bucket or container"
        return NotFoundError(f"there is no such {what}", url=url)
    if isinstance(error, FileExistsError):
        return AlreadyExistsError("there is something of that name already", url=url)
    if isinstance(error, PermissionError) or status in _DENIED or _REFUSED.search(text):
        hint = ""
        if not os.path.isabs(url):  # noqa: PTH117 - a string is what we have
            denials.append(None)
            hint = "; check the credentials or storage_options"
        return AccessDeniedError(f"permission denied ({text}){hint}", url=url)
    if isinstance(error, OSError) and error.errno in _FULL:
        msg = f"the disk is full, or a limit is reached ({text}); make room and write again"
        return StorageError(msg, url=url)
    return StorageError(f"{scheme} storage failed: {text}", url=url)


def _lacking(error: BaseException, text: str, url: str) -> FmristoreError | None:
    """Error for what this process lacks or does not know; None for what a service says."""
    if isinstance(error, MemoryError):
        return MemoryLimitError(f"there is not enough memory: {text}", url=url)
    if isinstance(error, TypeError) and (option := _UNKNOWN_OPTION.search(text)):
        return InvalidInputError(
            f"storage_options hold {option[1]!r}, which this storage does not know", url=url
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        msg = f"too many files are open ({text}); close stores, or raise the limit (ulimit -n)"
        return StorageError(msg, url=url)
    if isinstance(error, PermissionError) and error.filename and os.path.isabs(url):  # noqa: PTH117
        return AccessDeniedError(f"permission denied: {error.strerror}", url=url)
    return None
