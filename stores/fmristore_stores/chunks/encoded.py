"""Encoded chunks as they lie in a store, all of the version of it that was opened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import google_crc32c

from fmristore_stores.grid import ChunkKey
from fmristore_stores.protocol import Buffer, ChunkRef, ChunkRefs

__all__ = ["Encoded", "checksum", "fetch_encoded"]


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
    data = bytes(chunk)  # no copy of what is bytes already
    crc = int(google_crc32c.value(data))
    return (len(data) + 1).to_bytes(8, "little") + crc.to_bytes(4, "little")


def fetch_encoded(array: ChunkRefs, keys: Sequence[ChunkKey]) -> list[Encoded | None]:
    """Fetch encoded chunks, all of them at once.

    Parameters
    ----------
    array : ChunkRefs
        An array whose chunks can be located.
    keys : sequence of tuple of int
        Positions in the grid of chunks.

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
        fetched = iter(array.fetch([ref.range for ref in refs if ref is not None]))
        return [None if ref is None else Encoded(ref, next(fetched)) for ref in refs]
