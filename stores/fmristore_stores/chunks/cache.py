"""Decoded chunks, kept within a limit of bytes."""

from __future__ import annotations

import itertools
import operator
import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

from fmristore_stores.grid import ChunkKey
from fmristore_stores.io.alive import AliveSet
from fmristore_stores.io.forks import in_forked_child
from fmristore_stores.protocol import AnyArray

__all__ = ["CHUNK_CACHE", "ENTRY_NBYTES", "ChunkCache"]

_KEY = operator.itemgetter(1)
_MOST_TOUCHED = 1 << 16
ENTRY_NBYTES = 512
"""Bytes that keeping a chunk takes besides the chunk itself: its key, the array, the table's."""


class ChunkCache:
    """Decoded chunks of all readers of the process, least recently used dropped first.

    Parameters
    ----------
    limit : int
        Most bytes of memory to hold on to; 0 keeps no chunks.

    Notes
    -----
    A chunk that is a part of something bigger, as one of several that came in one answer of a
    server, is copied, so that the rest can go.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._chunks: OrderedDict[tuple[int, ChunkKey], AnyArray] = OrderedDict()
        self._nbytes = 0
        self._touched: set[tuple[int, ChunkKey]] = set()
        self._lock = threading.Lock()
        _CACHES.add(self)

    @property
    def nbytes(self) -> int:
        """Bytes held now: those of the chunks, and what keeping them takes."""
        return self._nbytes

    def get(self, owner: int, key: ChunkKey) -> AnyArray | None:
        """Chunk of an owner, None if it is not here."""
        with self._lock:
            found = self._chunks.get((owner, key))
            if found is not None:
                self._chunks.move_to_end((owner, key))
            return found

    def get_many(self, owner: int, keys: Iterable[ChunkKey]) -> dict[ChunkKey, AnyArray]:
        """Those of many chunks of an owner that are here."""
        with self._lock:
            here = list(filter(self._chunks.__contains__, zip(itertools.repeat(owner), keys)))
            for name in here:
                self._chunks.move_to_end(name)
            return {name[1]: self._chunks[name] for name in here}

    def put(self, owner: int, key: ChunkKey, chunk: AnyArray) -> None:
        """Keep a chunk, dropping others to stay within the limit."""
        self.put_many(owner, [(key, chunk)])

    def put_many(self, owner: int, chunks: Iterable[tuple[ChunkKey, AnyArray]]) -> None:
        """Keep chunks, dropping others to stay within the limit."""
        for key, given in chunks:
            if not self.takes(given.nbytes):
                continue
            chunk = given.copy(order="K") if _owner_nbytes(given) > given.nbytes else given
            name = (owner, key)
            with self._lock:
                old = self._chunks.pop(name, None)
                self._nbytes += _cost(chunk) - (0 if old is None else _cost(old))
                self._chunks[name] = chunk
                while self._nbytes > self.limit:
                    self._nbytes -= _cost(self._chunks.popitem(last=False)[1])

    def takes(self, nbytes: int, count: int = 1) -> bool:
        """Return whether `count` chunks of `nbytes` bytes together can all be kept at once."""
        return nbytes + count * ENTRY_NBYTES <= self.limit

    def touch(self, owner: int, keys: Iterable[ChunkKey]) -> set[ChunkKey]:
        """Note that chunks are wanted; those that were not before.

        Decoding parts of a chunk again and again would cost more than decoding it once, and
        keeping a chunk that is wanted once would cost what it never saves.
        """
        with self._lock:
            new = set(zip(itertools.repeat(owner), keys)) - self._touched
            if len(self._touched) + len(new) > _MOST_TOUCHED:
                self._touched.clear()
            self._touched |= new
        return set(map(_KEY, new))

    def clear(self, owner: int | None = None) -> None:
        """Forget the chunks of one owner, or all."""
        with self._lock:
            self._touched = {n for n in self._touched if owner is not None and n[0] != owner}
            for name in [n for n in self._chunks if owner is None or n[0] == owner]:
                self._nbytes -= _cost(self._chunks.pop(name))

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()


def _cost(chunk: AnyArray) -> int:
    return chunk.nbytes + ENTRY_NBYTES


def _owner_nbytes(chunk: AnyArray) -> int:
    """Bytes of the memory that an array keeps alive, which may be more than its own."""
    owner: Any = chunk
    while True:
        below = owner.base if isinstance(owner, np.ndarray) else getattr(owner, "obj", None)
        if below is None:
            return int(owner.nbytes) if isinstance(owner, np.ndarray) else len(owner)
        owner = below


_CACHES: AliveSet[ChunkCache] = AliveSet()


@in_forked_child
def _after_fork() -> None:
    for cache in _CACHES:
        cache.renew_lock()


CHUNK_CACHE = ChunkCache(128 * 1024 * 1024)
"""The cache that readers share; set its ``limit`` to change the memory it may take."""
