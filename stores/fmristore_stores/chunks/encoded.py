"""Encoded chunks as they lie in a store, all of the version of it that was opened."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c
import numpy as np

from fmristore_stores.grid import ChunkKey
from fmristore_stores.io.memory import aligned
from fmristore_stores.io.ranges import cut, merge_ranges, span_of
from fmristore_stores.protocol import AnyArray, Buffer, ByteRange, ChunkRef, ChunkRefs, FetchPolicy

__all__ = ["Encoded", "Room", "checksum", "fetch_encoded"]

_TOGETHER = FetchPolicy(gap=0, block=1 << 30, concurrent=False)
"""Ranges of a local file without a gap between them are read at once."""


class Encoded(NamedTuple):
    """One encoded chunk."""

    ref: ChunkRef
    """Place of the chunk, and the filters of it that were left out."""
    data: Buffer
    """Its bytes."""


def checksum(chunk: Buffer | None) -> bytes:
    """Length and CRC32C of an encoded chunk, twelve bytes; zeros where there is none.

    For seeing that a copy is the same: ten times as fast as SHA-256, and no proof against anybody
    who wants two chunks to look alike.
    """
    if chunk is None:
        return bytes(12)
    data = chunk if isinstance(chunk, bytes) else _IN_PLACE(chunk)
    crc = int(google_crc32c.value(data))
    return (len(data) + 1).to_bytes(8, "little") + crc.to_bytes(4, "little")


def _flat(chunk: Buffer) -> AnyArray:
    return np.frombuffer(chunk, np.uint8)


_IN_PLACE = _flat if google_crc32c.implementation == "c" else bytes
"""The bytes of a chunk as the library takes them: it knows arrays, but no other memory."""


class Room:
    """Memory that encoded chunks are fetched into, one batch after the other.

    Each thread has its own, and what it fetched is gone with its next batch. Large memory that was
    used before takes half the time of memory that the system has to hand out.
    """

    def __init__(self) -> None:
        self._memory: dict[int, AnyArray] = {}

    def clear(self) -> None:
        """Give all memory back; no thread may be using it."""
        self._memory.clear()

    def fill(self, array: ChunkRefs, ranges: Sequence[ByteRange]) -> list[Buffer]:
        """Fetch ranges into the memory; those that lie behind each other in a file at once."""
        groups = merge_ranges(ranges, _TOGETHER)
        spans = [span_of(ranges, group) for group in groups]
        ends = list(itertools.accumulate((span.length for span in spans), initial=0))
        thread = threading.get_ident()
        memory = self._memory.get(thread)
        if memory is None or ends[-1] > memory.nbytes:
            memory = self._memory[thread] = aligned(ends[-1])
        into = [memory[a:b] for a, b in itertools.pairwise(ends)]
        found = dict(cut(ranges, groups, array.fetch(spans, into)))
        return [found[number] for number in range(len(ranges))]


def fetch_encoded(
    array: ChunkRefs, keys: Sequence[ChunkKey], room: Room | None = None
) -> list[Encoded | None]:
    """Fetch encoded chunks, all of them at once.

    Parameters
    ----------
    array : ChunkRefs
        An array whose chunks can be located.
    keys : sequence of tuple of int
        Positions in the grid of chunks.
    room : Room, optional
        Where the bytes are put if they come from a local file; they are good until the next call.

    Returns
    -------
    list of Encoded or None
        In the order of `keys`; None for a chunk that was never written.

    Raises
    ------
    ClosedError
        If the store is closed.
    ChangedError
        If the store is not the one that was opened any more, so that these may be of another.
    CorruptDataError
        If the index of the chunks is damaged, or one lies beyond the end of its file.
    StorageError
        If the disk or the service failed.
    """
    with array.reading():
        refs = array.refs(keys)
        ranges = [ref.range for ref in refs if ref is not None]
        if room is None or array.policy.concurrent:
            fetched = iter(array.fetch(ranges))
        else:
            fetched = iter(room.fill(array, ranges))
        return [None if ref is None else Encoded(ref, next(fetched)) for ref in refs]
