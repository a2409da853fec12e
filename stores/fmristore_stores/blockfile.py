"""A remote file as a file object, for libraries that want to seek and read."""

from __future__ import annotations

import os
from collections import OrderedDict

from fmristore_stores.errors import ClosedError
from fmristore_stores.protocol import Buffer, ByteRange
from fmristore_stores.sources import ByteSource

__all__ = ["BlockFile"]


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
        Number of blocks kept.

    Raises
    ------
    NotFoundError, StorageError
        If there is no such file, or its size cannot be found out.
    """

    def __init__(
        self, source: ByteSource, path: str, *, block: int = 512 * 1024, keep: int = 32
    ) -> None:
        self._source = source
        self._path = path
        self._block = block
        self._keep = keep
        self._blocks: OrderedDict[int, Buffer] = OrderedDict()
        self._position = 0
        self._closed = False
        self._size = source.size(path)

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
        first, last = begin // self._block, -(-end // self._block)
        self._load(first, last)
        found = b"".join(self._blocks[number] for number in range(first, last))
        self._trim()
        self._position = end
        return found[begin - first * self._block : end - first * self._block]

    def close(self) -> None:
        """Forget the blocks; harmless when repeated."""
        self._closed = True
        self._blocks.clear()

    def _load(self, first: int, last: int) -> None:
        """Have some neighbouring blocks ready, by one request for all that are missing."""
        missing = [number for number in range(first, last) if number not in self._blocks]
        if missing:
            start = missing[0] * self._block
            stop = min((missing[-1] + 1) * self._block, self._size)
            (data,) = self._source.fetch([ByteRange(self._path, start, stop - start)])
            for number in range(missing[0], missing[-1] + 1):
                place = number * self._block - start
                self._blocks[number] = bytes(data[place : place + self._block])
        for number in range(first, last):
            self._blocks.move_to_end(number)

    def _trim(self) -> None:
        while len(self._blocks) > self._keep:
            self._blocks.popitem(last=False)
