"""Decoded chunks, kept within a limit of bytes."""

from __future__ import annotations

import sys
import sysconfig
import threading
from collections import OrderedDict
from typing import Any, TypeAlias

import numpy as np

from fmristore_stores.grid import ChunkKey
from fmristore_stores.io.alive import AliveSet
from fmristore_stores.io.forks import in_forked_child
from fmristore_stores.io.memory import CACHE_LINE, aligned
from fmristore_stores.protocol import AnyArray

__all__ = ["CHUNK_CACHE", "ENTRY_NBYTES", "ChunkCache"]

_MOST_TOUCHED = 1 << 16
ENTRY_NBYTES = 512
"""Bytes that keeping a chunk takes besides the chunk itself: its key, the array, the table's."""
_BLOCKS = 40
"""Blocks that a cache full of small chunks consists of."""
_SMALLEST_BLOCK = 1024 * 1024
"""Bytes of a block, below which each chunk has memory of its own."""
_COUNTED = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
"""True if Python says reliably that nobody else refers to memory."""

_Name: TypeAlias = tuple[int, ChunkKey]


class _Block:
    """Memory of chunks that are dropped together: of one, or of many small ones."""

    __slots__ = ("memory", "names", "used")

    def __init__(self, memory: AnyArray) -> None:
        self.memory: AnyArray = memory
        self.names: set[_Name] = set()
        self.used = 0


class ChunkCache:
    """Decoded chunks of all readers of the process, least recently used dropped first.

    Parameters
    ----------
    limit : int
        Most bytes of memory to hold on to; 0 keeps no chunks.

    Notes
    -----
    Small chunks are decoded into blocks of memory (see `room`) and dropped with their block, whose
    memory is then used again. A chunk that is a part of something bigger, as one of several that
    came in one answer of a server, is copied, so that the rest can go.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._chunks: dict[_Name, tuple[AnyArray, int]] = {}
        self._blocks: OrderedDict[int, _Block] = OrderedDict()  # by `id` of the memory's owner
        self._open: _Block | None = None
        self._spare: list[AnyArray] = []
        self._nbytes = 0
        self._touched: set[_Name] = set()
        self._lock = threading.Lock()
        _CACHES.add(self)

    @property
    def nbytes(self) -> int:
        """Bytes held now: those of the chunks and of spare memory, and what keeping them takes."""
        return self._nbytes

    def get(self, owner: int, key: ChunkKey) -> AnyArray | None:
        """Chunk of an owner, None if it is not here."""
        with self._lock:
            found = self._chunks.get((owner, key))
            if found is None:
                return None
            self._blocks.move_to_end(found[1])
            return found[0]

    def room(self, nbytes: int) -> AnyArray | None:
        """Memory to decode a chunk into that will be kept; None if any memory will do.

        Memory that is new to the process takes up to as long as decoding into it. That of blocks
        is used again.

        Parameters
        ----------
        nbytes : int
            Of the chunk.

        Returns
        -------
        ndarray of uint8, shape (nbytes,), or None
            A part of a block, which counts as a whole from now on.
        """
        size = self.limit // _BLOCKS
        if size < _SMALLEST_BLOCK or 4 * nbytes > size:
            return None
        with self._lock:
            block = self._open
            if block is None or block.used + nbytes > block.memory.nbytes:
                block = self._open = _Block(self._memory(size))
                self._add(id(_owner_of(block.memory)[0]), block)
            start, block.used = block.used, block.used + -(-nbytes // CACHE_LINE) * CACHE_LINE
            part: AnyArray = block.memory[start : start + nbytes]
            return part

    def put(self, owner: int, key: ChunkKey, chunk: AnyArray) -> None:
        """Keep a chunk, dropping others to stay within the limit."""
        if not self.takes(chunk.nbytes):
            return
        memory, nbytes = _owner_of(chunk)
        with self._lock:
            if (owner, key) in self._chunks:
                self._forget((owner, key))
            if id(memory) not in self._blocks:
                if nbytes > chunk.nbytes:
                    memory = chunk = chunk.copy(order="K")
                self._add(id(memory), _Block(chunk))
            self._blocks[id(memory)].names.add((owner, key))
            self._blocks.move_to_end(id(memory))
            self._chunks[owner, key] = chunk, id(memory)
            self._nbytes += ENTRY_NBYTES
            if self._nbytes > self.limit:
                self._shrink(self.limit)

    def takes(self, nbytes: int, count: int = 1) -> bool:
        """Return whether `count` chunks of `nbytes` bytes together can all be kept at once."""
        return nbytes + count * ENTRY_NBYTES <= self.limit

    def touch(self, owner: int, key: ChunkKey) -> bool:
        """Note that a part of a chunk is wanted; True if none was before.

        Decoding parts of a chunk again and again would cost more than decoding it once.
        """
        name = (owner, key)
        with self._lock:
            if name in self._touched:
                return False
            if len(self._touched) >= _MOST_TOUCHED:
                self._touched.clear()
            self._touched.add(name)
            return True

    def clear(self, owner: int | None = None) -> None:
        """Forget the chunks of one owner, or all; memory of blocks stays to be used again.

        With a limit of 0 it is given back.
        """
        with self._lock:
            self._touched = {n for n in self._touched if owner is not None and n[0] != owner}
            for at in list(self._blocks) if owner is None else ():
                self._drop(at)
            for name in [n for n in self._chunks if n[0] == owner]:
                self._forget(name)
            self._shrink(self.limit)

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    # Blocks, with the lock held -------------------------------------------------------------------

    def _memory(self, size: int) -> AnyArray:
        """Memory for a block: that of one that was dropped, if nobody refers to it any more."""
        while self._blocks and not self._spare and self._nbytes + size > self.limit:
            self._drop(next(iter(self._blocks)))
        while self._spare:
            memory = self._spare.pop()
            self._nbytes -= memory.nbytes
            if _COUNTED and memory.nbytes == size and sys.getrefcount(memory.base) == _ALONE:
                return memory
        self._shrink(self.limit - size)
        return aligned(size)

    def _add(self, at: int, block: _Block) -> None:
        self._blocks[at] = block
        self._nbytes += block.memory.nbytes

    def _forget(self, name: _Name) -> None:
        """Forget a chunk, and its block if it is the last one of it."""
        _, at = self._chunks.pop(name)
        names = self._blocks[at].names
        names.discard(name)
        self._nbytes -= ENTRY_NBYTES
        if not names:
            self._drop(at)

    def _drop(self, at: int) -> None:
        """Forget the chunks of a block; memory of many chunks is put aside."""
        block = self._blocks[at]
        for name in block.names:
            self._chunks.pop(name, None)
        del self._blocks[at]
        self._nbytes -= len(block.names) * ENTRY_NBYTES
        if block is self._open:
            self._open = None
        if block.used:
            self._spare.append(block.memory)
        else:
            self._nbytes -= block.memory.nbytes

    def _shrink(self, limit: int) -> None:
        """Give memory back until what is held is within a limit."""
        while self._nbytes > limit and (self._spare or self._blocks):
            if self._spare:
                self._nbytes -= self._spare.pop().nbytes
            else:
                self._drop(next(iter(self._blocks)))


def _owner_of(chunk: AnyArray) -> tuple[object, int]:
    """Owner of the memory of an array, and its bytes, which may be more than the array's own."""
    owner: Any = chunk
    while True:
        below = owner.base if isinstance(owner, np.ndarray) else getattr(owner, "obj", None)
        if below is None:
            return owner, int(owner.nbytes) if isinstance(owner, np.ndarray) else len(owner)
        owner = below


_NEW = aligned(_SMALLEST_BLOCK)
_ALONE = sys.getrefcount(_NEW.base)
"""Count of references to memory that only the array of a block refers to."""

_CACHES: AliveSet[ChunkCache] = AliveSet()


@in_forked_child
def _after_fork() -> None:
    for cache in _CACHES:
        cache.renew_lock()


CHUNK_CACHE = ChunkCache(128 * 1024 * 1024)
"""The cache that readers share; set its ``limit`` to change the memory it may take."""
