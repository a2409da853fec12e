"""Checking the chunks of one array, and going on past those that are damaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np

from fmristore.model.digest import digest_array, is_digest
from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.verification.report import MOST_LISTED, Findings
from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.threads import for_each
from fmristore_stores.errors import (
    CodecError,
    FmristoreError,
    FormatError,
    LayoutNotSupportedError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    StorageError,
)
from fmristore_stores.grid import ChunkKey, Region, chunk_region, grid_shape
from fmristore_stores.protocol import AnyArray, Array, ByteRange, Capability, ChunkRef, ChunkRefs

__all__ = ["DAMAGE", "UNABLE", "ArrayCheck"]

DAMAGE = (FormatError, NotFoundError, StorageError)
"""Errors that a damaged array raises."""
UNABLE = (CodecError, LayoutNotSupportedError, MemoryLimitError)
"""Errors that an array raises which is perhaps sound but cannot be read here and now."""

_MOST_CHUNKS = 1 << 22
"""Chunks of one array that are looked at; a malicious array may claim any number."""
_MOST_UNLOCATED = 1 << 14
"""Chunks that are decoded of an array whose chunks cannot be located, there or not."""
_MOST_UNLOCATED_BYTES = 4 << 30
"""Decoded bytes of such an array."""
_BATCH = 1 << 14
"""Chunks that are located at a time."""

Advance = Callable[[int], None]
"""Called with the bytes of values that were just checked."""


class ArrayCheck:
    """Checks the chunks of one array.

    Parameters
    ----------
    array : Array
        Of a store that nothing else has read from, so that nothing old is remembered.
    findings : Findings
        Takes what is found.
    required : bool
        Whether every chunk must have been written.
    max_memory : int
        Bytes that encoded and decoded chunks may take.
    """

    def __init__(
        self, array: Array, findings: Findings, *, required: bool = False, max_memory: int
    ) -> None:
        self._array = array
        self._spec = array.spec
        self._findings = findings
        self._required = required
        self._room = max(1, max_memory // 2)
        self._located = Capability.CHUNK_REFS in array.capabilities
        self._chunks = self._spec.layout.chunks
        self._total = math.prod(grid_shape(self._spec.shape, self._chunks))
        self._itemsize = self._spec.dtype.itemsize
        most = _MOST_CHUNKS
        if not self._located:
            chunk = max(1, math.prod(self._chunks) * self._itemsize)
            most = max(1, min(_MOST_UNLOCATED, _MOST_UNLOCATED_BYTES // chunk))
        self._grid = _clipped(grid_shape(self._spec.shape, self._chunks), most)
        self._clipped = math.prod(self._grid) < self._total
        self._missing = 0
        self._there: AnyArray | None = None
        self._failures = 0

    @property
    def fits(self) -> bool:
        """True if a chunk may be decoded within the memory limit."""
        return math.prod(self._chunks) * self._itemsize <= self._room

    # Where the chunks are -------------------------------------------------------------------

    def locate(self, advance: Advance | None = None) -> bool:
        """Check that every chunk is where it should be; False if one is not.

        Notes
        -----
        Reads chunk tables, indexes of shards and sizes of objects, no data.
        """
        if not self._located:
            return not self._required or self._is_readable()
        path = self._array.path
        before = self._problems()
        if self._total > _BATCH and self._locate_listed(advance):
            return self._problems() == before
        if self._clipped:
            text = f"of {self._total} chunks only {math.prod(self._grid)} were looked at"
            self._findings.note("not-checked", path, text)
        for block in self._batches(_BATCH):
            keys = _keys(block)
            found = self._refs(keys)
            if found is None:
                break
            for key, ref in found.items():
                self._check_ref(key, ref)
            if advance is not None:
                advance(self._nbytes(block))
        if self._missing and not self._required:
            self._findings.note(
                "missing-chunk",
                path,
                f"{self._missing} chunks were never written; they read as the fill value",
            )
        return self._problems() == before

    def _locate_listed(self, advance: Advance | None) -> bool:
        """Check the chunks that the store lists; False if it lists none, or all are there.

        An array may claim any number of chunks: those that are not there are not asked for.
        """
        try:
            array = cast("ChunkRefs", self._array)
            with array.reading():
                there = array.stored()
        except (*DAMAGE, *UNABLE):
            return False
        if there is None or len(there) >= self._total:
            return False
        first = _first_missing(there)
        if self._refs([self._key(first)], report=False) != {self._key(first): None}:
            return False  # the list is not complete, or the index is damaged
        self._there = there
        for start in range(0, len(there), _BATCH):
            keys = [self._key(number) for number in there[start : start + _BATCH].tolist()]
            for key, ref in (self._refs(keys) or {}).items():
                self._check_ref(key, ref)
        missing = self._total - len(there)
        text = f"{missing} of {self._total} chunks"
        if self._required:
            self._damage("missing-chunk", f"{text} are missing, the first is {self._key(first)}")
        else:
            text += " were never written; they read as the fill value"
            self._findings.note("missing-chunk", self._array.path, text)
        if advance is not None:
            advance(self._spec.nbytes)
        return True

    def _key(self, number: int) -> ChunkKey:
        """Position of a chunk in the grid by its number, last axis fastest."""
        key = []
        for count in reversed(grid_shape(self._spec.shape, self._chunks)):
            number, position = divmod(number, count)
            key.append(position)
        return tuple(reversed(key))

    def _is_readable(self) -> bool:
        """Return whether the library of the store can read the data that only it can find."""
        if not self.fits or 0 in self._spec.shape:
            return True
        try:
            self._array.read(tuple(slice(0, 1, 1) for _ in self._spec.shape))
        except MemoryLimitError as error:
            self._damage("memory-limit", error.message)
        except (*DAMAGE, *UNABLE) as error:
            self._damage("unreadable", error.message)
        else:
            return True
        return False

    def _problems(self) -> int:
        kinds = ("chunk-index", "missing-chunk", "corrupt-chunk")
        return sum(self._findings.count(kind, self._array.path) for kind in kinds)

    def _check_ref(self, key: ChunkKey, ref: ChunkRef | None) -> None:
        if ref is None:
            self._missing += 1
            if self._required:
                self._damage("missing-chunk", f"chunk {key} is missing")
            return
        expected = self._plain_length(ref)
        if expected is not None and ref.range.length != expected:
            text = f"chunk {key} has {ref.range.length} bytes where {expected} are expected"
            self._damage("corrupt-chunk", text)
        elif not ref.range.length and self._spec.chunk_nbytes:
            self._damage("corrupt-chunk", f"chunk {key} is empty")
        else:
            self._findings.chunks += 1
            self._findings.nbytes += ref.range.length

    def _plain_length(self, ref: ChunkRef) -> int | None:
        """Length that a chunk must have that no codec was applied to; None if one was."""
        steps = len(self._spec.codecs)
        return self._spec.chunk_nbytes if ref.skip & (1 << steps) - 1 == (1 << steps) - 1 else None

    def _refs(
        self, keys: list[ChunkKey], *, report: bool = True
    ) -> dict[ChunkKey, ChunkRef | None] | None:
        """Locate chunks; those that cannot be are left out, None if that is all of the array."""
        try:
            return self._ask(keys)
        except DAMAGE:
            units = self._by_unit(keys)
        first, last = next(iter(units)), list(units)[-1]
        reason = self._reason(units[first])
        if first != last and reason is not None and self._reason(units[last]) == reason:
            if report:
                self._damage("chunk-index", reason)
            return None
        found: dict[ChunkKey, ChunkRef | None] = {}
        for unit, inside in units.items():
            try:
                found |= self._ask(inside)
            except DAMAGE as error:
                if report:
                    what = "shard" if self._spec.layout.shards else "chunk"
                    self._damage("chunk-index", f"{what} {unit}: {error.message}")
        return found

    def _ask(self, keys: list[ChunkKey]) -> dict[ChunkKey, ChunkRef | None]:
        array = cast("ChunkRefs", self._array)
        with array.reading():
            return dict(zip(keys, array.refs(keys), strict=True))

    def _reason(self, keys: list[ChunkKey]) -> str | None:
        try:
            self._ask(keys)
        except DAMAGE as error:
            return str(error)
        return None

    def _by_unit(self, keys: list[ChunkKey]) -> dict[ChunkKey, list[ChunkKey]]:
        """Chunks by the shard that they lie in."""
        inner = self._inner()
        units: dict[ChunkKey, list[ChunkKey]] = {}
        for key in keys:
            unit = tuple(k // i for k, i in zip(key, inner, strict=True))
            units.setdefault(unit, []).append(key)
        return units

    # What is in them ------------------------------------------------------------------------

    def decode(self, advance: Advance | None = None) -> None:
        """Decode every chunk that is there, and note all that are damaged."""
        path = self._array.path
        if not self.fits:
            self._read_large()
            return
        if self._clipped and not self._located:
            text = (
                f"of {self._total} chunks only {math.prod(self._grid)} were decoded: which are "
                "there cannot be found out"
            )
            self._findings.note("not-checked", path, text)
        reader = ChunkReader(self._array, cache=ChunkCache(0))
        limit = self._room // max(1, math.prod(self._chunks) * self._itemsize)
        if self._there is not None:
            self._decode_listed(reader, self._there, advance)
            return
        for block in self._batches(max(1, min(_BATCH, limit))):
            keys = self._present(block)
            if keys is None:
                return
            try:
                if keys:
                    reader.read(self._region(block))
            except DAMAGE:
                self._decode_each(reader, keys)
            except MemoryLimitError as error:
                self._damage("memory-limit", f"not decoded: {error.message}")
                return
            except UNABLE as error:
                if self._required:
                    self._damage("unreadable", error.message)
                else:
                    self._findings.note("not-checked", path, f"not decoded: {error.message}")
                return
            if self._failures >= MOST_LISTED:
                self._findings.note("not-checked", path, "the storage failed too often to go on")
                return
            if advance is not None:
                advance(self._nbytes(block))

    def compare(self, recorded: str, advance: Advance | None = None) -> bool:
        """Compare the digest of the array's values with the recorded one.

        Returns
        -------
        bool
            False if that is not possible, because a chunk is damaged or the digest unknown.
        """
        path = self._array.path
        if self._clipped and not self._located:
            return False
        if not is_digest(recorded):
            text = f"the recorded digest {recorded[:80]!r} is of no kind that is known"
            self._findings.problem("digest", path, text)
            return False
        before = 0

        def progress(done: int, _: int) -> None:
            nonlocal before
            if advance is not None:
                advance(done - before)
            before = done

        reader = ChunkReader(self._array, cache=ChunkCache(0), missing="error")
        try:
            found = digest_array(reader, recorded, max_memory=2 * self._room, progress=progress)
        except MetadataError as error:
            self._findings.problem("digest", path, error.message)
            return False
        except MemoryLimitError as error:
            self._findings.note("not-checked", path, f"digest not compared: {error.message}")
            return False
        except (*DAMAGE, *UNABLE):
            return False
        if found != recorded:
            text = f"the values are not those that were written: {found}, recorded {recorded[:160]}"
            self._findings.problem("digest", path, text)
        return True

    def _present(self, block: Region) -> list[ChunkKey] | None:
        """Chunks of a block that are there; None if the array's chunks cannot be located at all."""
        keys = _keys(block)
        if not self._located:
            return keys
        found = self._refs(keys, report=False)
        return None if found is None else [key for key, ref in found.items() if ref is not None]

    def _decode_each(self, reader: ChunkReader, keys: list[ChunkKey]) -> None:
        """Decode chunks one by one, to find the damaged ones; they are reported in their order."""
        damaged: dict[ChunkKey, str] = {}

        def work(key: ChunkKey) -> None:
            if self._failures >= MOST_LISTED:
                return
            try:
                reader.read(chunk_region(key, self._spec.shape, self._chunks))
            except (*DAMAGE, *UNABLE) as error:
                damaged[key] = _about(key, error)
                self._failures += isinstance(error, StorageError)

        for_each(work, keys)
        for _, text in sorted(damaged.items()):
            self._damage("corrupt-chunk", text)

    def _decode_listed(self, reader: ChunkReader, there: AnyArray, advance: Advance | None) -> None:
        """Decode the chunks that are there, of an array that lacks some."""
        for start in range(0, len(there), _BATCH):
            numbers = there[start : start + _BATCH].tolist()
            self._decode_each(reader, [self._key(number) for number in numbers])
            if self._failures >= MOST_LISTED:
                text = "the storage failed too often to go on"
                self._findings.note("not-checked", self._array.path, text)
                return
            if advance is not None:
                advance(len(numbers) * self._spec.chunk_nbytes)

    def _read_large(self) -> None:
        """Read the bytes of chunks that are too large to be decoded here."""
        array, path = cast("ChunkRefs", self._array), self._array.path
        if not self._located or self._spec.codecs:
            size = math.prod(self._chunks) * self._itemsize
            text = f"not decoded: chunks of {size} bytes need more than max_memory"
            self._findings.note("not-checked", path, text)
            return
        for block in self._batches(_BATCH):
            for key, ref in (self._refs(_keys(block), report=False) or {}).items():
                try:
                    for part in () if ref is None else _pieces(ref.range, self._room):
                        with array.reading():
                            array.fetch([part])
                except DAMAGE as error:
                    self._damage("corrupt-chunk", _about(key, error))

    # Arithmetic -----------------------------------------------------------------------------

    def _damage(self, kind: str, message: str) -> None:
        self._findings.problem(kind, self._array.path, message)

    def _inner(self) -> tuple[int, ...]:
        """Chunks of a shard along each axis."""
        units = self._spec.layout.units
        return tuple(u // c for u, c in zip(units, self._chunks, strict=True))

    def _batches(self, limit: int) -> Iterator[Region]:
        """Cut the grid of chunks into blocks of whole shards, if `limit` chunks hold one."""
        if 0 in self._grid:
            return iter(())
        clipped = tuple(min(i, n) for i, n in zip(self._inner(), self._grid, strict=True))
        unit = clipped if math.prod(clipped) <= limit else (1,) * len(self._grid)
        return cut_into_blocks(self._grid, block_shape(self._grid, unit, 1, limit))

    def _region(self, block: Region) -> Region:
        """Region of the array that a block of chunks covers."""
        return tuple(
            slice(part.start * c, min(part.stop * c, n), 1)
            for part, c, n in zip(block, self._chunks, self._spec.shape, strict=True)
        )

    def _nbytes(self, block: Region) -> int:
        count: int = math.prod(part.stop - part.start for part in self._region(block))
        return count * self._itemsize


def _first_missing(there: AnyArray) -> int:
    """Smallest number that is not among some sorted ones."""
    gaps = np.flatnonzero(there != np.arange(len(there)))
    return int(gaps[0]) if len(gaps) else len(there)


def _clipped(grid: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Part of a grid that has at most `most` chunks, cut along the first axes."""
    sizes = list(grid)
    for axis in range(len(sizes)):
        rest = math.prod(sizes[axis + 1 :])
        sizes[axis] = min(sizes[axis], max(1, most // max(1, rest)))
        most //= max(1, sizes[axis])
    return tuple(sizes)


def _keys(block: Region) -> list[ChunkKey]:
    starts = tuple(part.start for part in block)
    return [
        tuple(s + i for s, i in zip(starts, index, strict=True))
        for index in np.ndindex(*(part.stop - part.start for part in block))
    ]


def _about(key: ChunkKey, error: FmristoreError) -> str:
    """Message of an error that names the chunk."""
    named = error.message.startswith("chunk ")
    return error.message if named else f"chunk {key}: {error.message}"


def _pieces(whole: ByteRange, length: int) -> Iterator[ByteRange]:
    for start in range(0, whole.length, length):
        yield ByteRange(whole.source, whole.offset + start, min(length, whole.length - start))
