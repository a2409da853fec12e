"""A remote file as a file object, for libraries that want to seek and read."""

from __future__ import annotations

import gc
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from fmristore_stores.errors import ClosedError
from fmristore_stores.io.forks import in_forked_child
from fmristore_stores.io.lifetime import Version
from fmristore_stores.io.sources import ByteSource
from fmristore_stores.protocol import AnyArray, Buffer, ByteRange, FetchPolicy

__all__ = ["PAGE", "BlockFile", "FileSource"]

PAGE = 4096
_SMALL = 4 * PAGE
_MOST_USED = 1 << 14
"""Pages whose use is remembered; an object with more metadata does not travel with them."""


class _NoCollection:
    """Context in which no thread looks for cyclic garbage.

    h5py reads from a file object inside its lock, and takes this lock to free one of its own
    objects. If the thread that fetches for fsspec came upon such an object in a cycle, both would
    wait for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._was_enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._users += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._was_enabled:
                gc.enable()

    def renew(self) -> None:
        """In a forked child: another thread of the parent may have been inside."""
        self._lock = threading.Lock()
        if self._users:
            self._users = 0
            gc.enable()


_no_collection = _NoCollection()
in_forked_child(_no_collection.renew)


class BlockFile:
    """A file of a `ByteSource`, read in blocks of which the last ones used are kept.

    The length of every answer is checked by the source, which the file objects of fsspec do not
    do: on a server that ignores ranges they return wrong bytes.

    Parameters
    ----------
    source : ByteSource
        Where the bytes come from; stays open.
    path : str
        Of the file.
    block : int
        Bytes of a block.
    keep : int
        Number of blocks kept. What is longer than half of them is read past them.
    size : int, optional
        Length of the file, if it is known.
    known : mapping of int to bytes, optional
        Bytes of the file that are there already, by their offset, in pieces of `PAGE` bytes or
        more that begin at a multiple of that: what `used` gave, or the beginning of the file.

    Raises
    ------
    NotFoundError, StorageError
        If there is no such file, or its size cannot be found out.
    """

    def __init__(
        self,
        source: ByteSource,
        path: str,
        *,
        block: int = 512 * 1024,
        keep: int = 32,
        size: int | None = None,
        known: Mapping[int, bytes] | None = None,
    ) -> None:
        self._source = source
        self._path = path
        self._block = block
        self._keep = keep
        self._blocks: OrderedDict[int, Buffer] = OrderedDict()
        self._position = 0
        self._closed = False
        self._size = source.size(path) if size is None else size
        self._pages: dict[int, bytes] = {}
        self._used: set[int] = set()
        for offset, data in (known or {}).items():
            for start in range(0, len(data), PAGE):
                self._pages[(offset + start) // PAGE] = data[start : start + PAGE]

    @property
    def used(self) -> dict[int, bytes]:
        """Bytes that were read and are still here, by their offset, in pieces of `PAGE` bytes."""
        found = {}
        for page in sorted(self._used):
            begin, end = page * PAGE, min((page + 1) * PAGE, self._size)
            data = self._from_pages(begin, end)
            number, start = divmod(begin, self._block)
            block = self._blocks.get(number)  # another thread may drop it meanwhile
            if data is None and block is not None:
                # A page may go on in the next block where blocks are no multiples of pages.
                data = bytes(block[start : start + end - begin])
            if data is not None and len(data) == end - begin:
                found[begin] = data
        return found

    def at_hand(self, begin: int, length: int) -> bytes | None:
        """Bytes that were known from the start; None if some of them were not.

        Unlike the other methods, it may be called by several threads.
        """
        end = begin + length
        found = self._from_pages(begin, end) if length > 0 and end <= self._size else None
        if found is not None and length <= _SMALL:
            self._note_used(begin, end)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Current position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Bytes from the current position on, fewer only at the end of the file.

        Raises
        ------
        ClosedError
            After `close`.
        CorruptDataError
            If the server sends fewer or more bytes than it was asked for.
        StorageError
            If the service failed.
        """
        if self._closed:
            raise ClosedError("the file is closed", url=self._path)
        end = self._size if size < 0 else min(self._size, self._position + size)
        begin = min(self._position, end)
        if begin == end:
            return b""
        if 2 * (end - begin) > self._keep * self._block:
            with _no_collection:
                (data,) = self._source.fetch([ByteRange(self._path, begin, end - begin)])
            self._position = end
            return bytes(data)
        self._note_used(begin, end)
        found = self._from_pages(begin, end)
        if found is None:
            found = self._from_blocks(begin, end)
        self._position = end
        return found

    def close(self) -> None:
        """Forget the blocks; harmless when repeated."""
        self._closed = True
        self._blocks = OrderedDict()  # other threads may be looking at the old ones
        self._pages = {}

    def _note_used(self, begin: int, end: int) -> None:
        if len(self._used) < _MOST_USED:
            self._used.update(range(begin // PAGE, -(-end // PAGE)))

    def _from_pages(self, begin: int, end: int) -> bytes | None:
        """Bytes that were known from the start; None if some of them were not."""
        first, last = begin // PAGE, -(-end // PAGE)
        pages = self._pages
        if not all(page in pages for page in range(first, last)):
            return None
        joined = b"".join([pages[page] for page in range(first, last)])
        found = joined[begin - first * PAGE : end - first * PAGE]
        return found if len(found) == end - begin else None

    def _from_blocks(self, begin: int, end: int) -> bytes:
        first, last = begin // self._block, -(-end // self._block)
        self._load(first, last)
        found = b"".join(self._blocks[number] for number in range(first, last))
        self._trim()
        return found[begin - first * self._block : end - first * self._block]

    def _load(self, first: int, last: int) -> None:
        """Have some neighbouring blocks ready, by one request for all that are missing."""
        missing = [number for number in range(first, last) if number not in self._blocks]
        if missing:
            start = missing[0] * self._block
            stop = min((missing[-1] + 1) * self._block, self._size)
            with _no_collection:
                (data,) = self._source.fetch([ByteRange(self._path, start, stop - start)])
            for number in range(missing[0], missing[-1] + 1):
                place = number * self._block - start
                self._blocks[number] = bytes(data[place : place + self._block])
        for number in range(first, last):
            self._blocks.move_to_end(number)

    def _trim(self) -> None:
        while len(self._blocks) > self._keep:
            self._blocks.popitem(last=False)


class FileSource:
    """Ranges of a file of which a part is here already.

    Parameters
    ----------
    source : ByteSource
        Of the rest; stays open.
    path : str
        Of the file.
    file : BlockFile
        The file.
    """

    def __init__(self, source: ByteSource, path: str, file: BlockFile) -> None:
        self._source = source
        self._path = path
        self._file = file

    @property
    def policy(self) -> FetchPolicy:
        """Best way of asking for ranges."""
        return self._source.policy

    @property
    def version(self) -> Version | None:
        """True if the file is still the same."""
        return self._source.version

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        """Bytes of each range, requested where they are not here."""
        del into
        found: list[Buffer | None] = [
            self._file.at_hand(item.offset, item.length) if item.source == self._path else None
            for item in ranges
        ]
        missing = [item for item, data in zip(ranges, found, strict=True) if data is None]
        fetched = iter(self._source.fetch(missing) if missing else ())
        return [next(fetched) if data is None else data for data in found]

    def size(self, path: str) -> int:
        """Length of a file in bytes."""
        return self._source.size(path)

    def close(self) -> None:
        """Close the source."""
        self._source.close()
