"""Chunks of one array: located, fetched, decoded on worker threads, and kept for a while.

Those that were decoded before come from a cache. The rest is fetched (each chunk with its own read
on a local disk, as few merged ranges on object storage) and decoded outside the libraries' locks.
`ChunkLoader` is whole here, which makes the module long.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np

from fmristore_stores.chunks.cache import CHUNK_CACHE, ChunkCache
from fmristore_stores.chunks.elements import Part
from fmristore_stores.chunks.in_place import INLINE_COPY, SHORT, InPlaceArray
from fmristore_stores.chunks.points import PointRead, Points
from fmristore_stores.chunks.subchunks import (
    Run,
    contiguous_run,
    last_subchunk_shape,
    subchunk_shape,
)
from fmristore_stores.chunks.threads import as_they_come, for_each, worker_count
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.codecs.blosc import decode_part, decodes_parts
from fmristore_stores.errors import (
    CodecError,
    CorruptDataError,
    DependencyError,
    FmristoreError,
    MemoryLimitError,
)
from fmristore_stores.grid import ChunkKey, Region, grid_shape
from fmristore_stores.io.memory import aligned, scratch
from fmristore_stores.io.ranges import ReadCost, batches, cut, merge_ranges, span_of
from fmristore_stores.io.stats import Stats, stats_of
from fmristore_stores.limits import LIMITS, check_chunk
from fmristore_stores.protocol import (
    Along,
    AnyArray,
    Array,
    Buffer,
    ByteRange,
    Capability,
    ChunkRef,
    ChunkRefs,
    InPlace,
)

__all__ = ["ChunkLoader", "ChunkRead", "Loaded"]

Item = TypeVar("Item")

_BATCH_BYTES = 64 * 1024 * 1024
"""Encoded bytes of one round of concurrent requests."""
_GROUPS = 8
"""Groups of chunks for each thread that works on a read; a thread is done when none is left."""
_PLAIN_GROUPS = 2
"""The same for what is only copied, which takes each thread as long."""
_LARGEST_GROUP = 15
"""Further chunks that a thread fetches at once and then decodes one after the other."""
_INLINE_BYTES = 2 * 1024 * 1024
"""Decoded bytes below which handing work to another thread costs more than it saves."""
_SLOW = frozenset({"deflate", "gzip"})
"""Steps that take four times as long as others to decode."""
_LONG_BYTES = 16 * 1024 * 1024
"""Decoded bytes from which a read must leave something worth keeping in the cache."""
_CODEC_OVERHEAD = 64 * 1024
"""Bytes that encoding may add to a chunk, besides doubling it."""
_SCRATCH_BYTES = 1024 * 1024
"""Bytes of parts of chunks that are fetched at once, and then copied to their places."""
_LENGTH = operator.attrgetter("length")
_ENCODED_LENGTH = operator.attrgetter("range.length")
_REF = operator.itemgetter(1)
_START = operator.attrgetter("start")
_MISSING = "is missing: the data are damaged"


class Loaded(NamedTuple):
    """Elements of one chunk: at least those that were needed."""

    values: AnyArray
    origin: tuple[int, ...] | None = None
    """Position within the chunk of the first element of `values`; None for the whole chunk."""
    exact: bool = False
    """True if `values` are the block that was asked for, steps and all, and nothing else."""
    fresh: bool = False
    """True if the memory of `values` is nobody else's."""
    decoded: int = 0
    """Bytes that were decoded for them."""


Kept: TypeAlias = list[tuple[ChunkKey, AnyArray]]
"""Chunks to be cached when their read has ended well."""
Memory: TypeAlias = Callable[[int], AnyArray | None]
"""Gives memory to decode so many bytes into; None if any will do."""


class ChunkRead(NamedTuple):
    """One chunk's part in a read."""

    key: ChunkKey
    block: Region
    """Smallest block of the chunk that holds all that is needed of it."""
    place: Callable[[Loaded | None], None]
    """Copies into the result; None stands for a chunk that was never written."""
    room: AnyArray | None = None
    """Place of the whole chunk's bytes in the result if they lie there in one run."""


class ChunkLoader:
    """Loads chunks of an array that hands out references to them.

    Parameters
    ----------
    array : Array
        Of any store.
    cache : ChunkCache, optional
        Where decoded chunks are kept; the process-wide one by default.
    missing : {"fill", "error"}
        What a chunk that was never written means: the fill value, or damage.
    url : str, optional
        Where the array is, for messages.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        array: Array,
        *,
        cache: ChunkCache | None = None,
        missing: Literal["fill", "error"] = "fill",
        url: str | None = None,
    ) -> None:
        self.array = array
        self._chunked = cast("ChunkRefs", array)
        self._url = url
        self._stats = Stats() if url is None else stats_of(url)
        self.spec = spec = array.spec
        self._cache = CHUNK_CACHE if cache is None else cache
        self._missing = missing
        self._owner = next(self._numbers)
        capabilities = array.capabilities
        self._direct = Capability.CHUNK_REFS in capabilities
        self._remote = self._direct and self._chunked.policy.concurrent
        self._lasting = Capability.WRITE not in capabilities
        self._axes = axes = spec.layout.axes
        self._inverse = tuple(sorted(range(len(axes)), key=axes.__getitem__))
        self._whole = whole = spec.layout.chunks
        self._memory_whole = tuple(map(whole.__getitem__, axes))
        self._memory_chunks = self._memory_whole if spec.codecs else subchunk_shape(spec.memory)
        self._chunks = tuple(map(self._memory_chunks.__getitem__, self._inverse))
        self._all = tuple(slice(0, length, 1) for length in whole)
        self._whole_nbytes = spec.chunk_nbytes
        self._width = spec.dtype.itemsize
        self._chunk_nbytes = math.prod(self._chunks) * self._width
        self._strides = self._bytes_between()
        self._most_encoded = 2 * self._whole_nbytes + _CODEC_OVERHEAD
        self._last_run: tuple[Region, Run | None] | None = None
        self._by_parts = not self._remote and decodes_parts(spec.codecs)
        self._plain = self._direct and not self._remote and not spec.codecs

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element of a chunk to the next along each axis."""
        return self._strides

    def in_place(self, order: Sequence[int] | None = None) -> InPlaceArray | None:
        """The array for reads in place, its axes in an order; None if its chunks are encoded."""
        array = self.array
        if self._plain and self._chunks == self._whole and isinstance(array, InPlace):
            return InPlaceArray(array, self.spec, self._strides, order)
        return None

    def _bytes_between(self) -> tuple[int, ...]:
        """Bytes from one element of a chunk to the next along each axis."""
        strides, step = [0] * len(self._axes), self._width
        for axis in reversed(self._axes):
            strides[axis] = step
            step *= self._chunks[axis]
        return tuple(strides)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of what is loaded at once: a chunk, or a part of a large one without codecs."""
        return self._chunks

    @property
    def direct(self) -> bool:
        """True if the array hands out references at all."""
        return self._direct

    @property
    def plain(self) -> bool:
        """True if chunks are not encoded and lie in local files."""
        return self._plain

    def refs(self, keys: Sequence[ChunkKey], along: Along | None = None) -> list[ChunkRef | None]:
        """Places of chunks; None for one that was never written. `along` as of `ChunkRefs`."""
        array = self._chunked
        if self._chunks == self._whole:
            return array.refs(keys, along)
        ratio = grid_shape(self._whole, self._chunks)
        whole = [tuple(k // r for k, r in zip(key, ratio, strict=True)) for key in keys]
        return [
            None if ref is None else self._piece_ref(key, ratio, ref)
            for key, ref in zip(keys, array.refs(whole), strict=True)
        ]

    def _piece_ref(self, key: ChunkKey, ratio: Sequence[int], ref: ChunkRef) -> ChunkRef:
        """Place of a part of a large chunk that is not encoded."""
        source, offset, length = ref.range
        if length != self._whole_nbytes:
            raise self.error(key, f"has {length} bytes instead of {self._whole_nbytes}")
        position = 0
        for axis in self._axes:
            position = position * self._whole[axis] + key[axis] % ratio[axis] * self._chunks[axis]
        start = position * self.spec.dtype.itemsize
        return ChunkRef(ByteRange(source, offset + start, min(self._chunk_nbytes, length - start)))

    def cost(self, wanted: Sequence[tuple[ChunkKey, Region]], returned: int) -> ReadCost:
        """Cost of loading blocks of chunks, of which `returned` bytes are wanted."""
        keys = [key for key, _ in wanted]
        if not self._direct:
            return ReadCost(
                chunks=len(keys),
                missing=0,
                requests=None,
                encoded_bytes=None,
                fetched_bytes=None,
                decoded_bytes=len(keys) * self._chunk_nbytes,
                returned_bytes=returned,
            )
        refs = zip(wanted, self.refs(keys), strict=True)
        found = [(key, block, ref) for (key, block), ref in refs if ref is not None]
        ranges = [ref.range for _, _, ref in found]
        if self._plain:
            ranges = [self._span(key, block, ref)[1] for key, block, ref in found]
        return self._cost(ranges, len(found), len(keys) - len(found), returned)

    def cost_points(self, points: Points, reads: Sequence[PointRead], returned: int) -> ReadCost:
        """Cost of `run_points`, of which `returned` bytes are wanted."""
        refs = self._point_refs(reads)
        count = sum(map(len, refs))
        missing = sum(ref is None for some in refs for ref in some)
        spans = [self._point_spans(points, *pair) for pair in zip(reads, refs, strict=True)]
        ranges = [span for some in spans for span in some if span is not None]
        return self._cost(ranges, count - missing, missing, returned)

    def _cost(
        self, ranges: Sequence[ByteRange], chunks: int, missing: int, returned: int
    ) -> ReadCost:
        policy = self._chunked.policy
        groups = merge_ranges(ranges, policy)
        return ReadCost(
            chunks=chunks,
            missing=missing,
            requests=len(groups),
            encoded_bytes=sum(r.length for r in ranges),
            fetched_bytes=sum(span_of(ranges, group).length for group in groups),
            decoded_bytes=chunks * self._chunk_nbytes,
            returned_bytes=returned,
        )

    def one(self, key: ChunkKey, block: Region) -> Loaded | None:
        """Load one chunk, or the part of it that holds a block; None if it was never written.

        Without any detour, for what takes a fraction of a millisecond.

        Raises
        ------
        CorruptDataError
            If it is damaged, or missing where that means damage.
        """
        array = self._chunked
        if self._plain:
            with array.reading():
                (ref,) = self.refs([key])
                if ref is None and self._missing == "error":
                    raise self.error(key, _MISSING)
                return None if ref is None else self._one_plain(key, block, ref)
        chunk = self._cache.get(self._owner, key)
        if chunk is not None:
            return Loaded(chunk)
        keep = self._worth_keeping(1, 0)
        whole = block == self._all and not self._remote
        first = self._by_parts or (keep and whole)
        first = first and key in self._cache.touch(self._owner, (key,))
        keep = keep and not (first and whole)  # as in `_place`
        memory = _own if keep else aligned if whole else scratch
        with array.reading():
            (ref,) = self.refs([key])
            if ref is None:
                if self._missing == "error":
                    raise self.error(key, _MISSING)
                return None
            self._check_size(key, ref)
            (data,) = array.fetch([ref.range])
            run = self._run_of(block) if first and self._by_parts and not ref.skip else None
            loaded = self._decode(key, ref, data, memory, run)
            self._stats.add(chunks=1, bytes_decoded=loaded.decoded)
        if keep and loaded.origin is None:
            self._cache.put(self._owner, key, loaded.values)
        return loaded._replace(fresh=memory is aligned and loaded.values.flags.writeable)

    def _keep(self, kept: Kept) -> None:
        """Cache chunks, when it is known that they are of the store that was opened."""
        self._cache.put_many(self._owner, kept)

    def require_first(self, key: ChunkKey) -> None:
        """Refuse early to read many chunks where not even the first one was written.

        Raises
        ------
        CorruptDataError
            If it is missing and that means damage.
        """
        with self._chunked.reading():
            if self._missing == "error" and self.refs([key])[0] is None:
                raise self.error(key, _MISSING)

    def run(self, reads: list[ChunkRead], returned: int, *, in_order: bool = False) -> None:
        """Place all reads: cached chunks first, the others as they are fetched and decoded.

        Parameters
        ----------
        reads : list of ChunkRead
        returned : int
            Bytes of the result.
        in_order : bool
            Whether `reads` that follow each other are neighbours in the result, which are best
            placed together. Otherwise those are that follow each other in a file.
        """
        wanted = reads if self._plain else self._place_cached(reads)
        if not wanted:
            return
        worth = self._worth_keeping(len(wanted), returned)
        kept: Kept | None = [] if worth else None
        with self._chunked.reading():
            if self._plain:
                self._run_plain(self._found(wanted, self.refs([read.key for read in wanted])))
            elif self._remote:
                self._run_remote(wanted, kept)
            else:
                self._run_local(wanted, kept, in_order=in_order)
        if kept:
            self._keep(kept)

    def _place_cached(self, reads: list[ChunkRead]) -> list[ChunkRead]:
        """Place chunks that were decoded before; the reads of all others."""
        cached = self._cache.get_many(self._owner, [read.key for read in reads])
        if not cached:
            return reads
        for read in reads:
            if read.key in cached:
                read.place(Loaded(cached[read.key]))
        return [read for read in reads if read.key not in cached]

    def _found(
        self, wanted: Sequence[ChunkRead], refs: Sequence[ChunkRef | None]
    ) -> list[tuple[ChunkRead, ChunkRef]]:
        """Reads of chunks that are there, with their places; those of others are placed."""
        found: list[tuple[ChunkRead, ChunkRef]] = []
        if None not in refs and max(map(_ENCODED_LENGTH, refs)) <= self._most_encoded:
            found = list(zip(wanted, cast("Sequence[ChunkRef]", refs), strict=True))
            self._check_size(found[0][0].key, found[0][1])
            return found
        for read, ref in zip(wanted, refs, strict=True):
            if ref is not None:
                self._check_size(read.key, ref)
                found.append((read, ref))
            elif self._missing == "fill":
                read.place(None)
            else:
                raise self.error(read.key, _MISSING)
        return found

    def _worth_keeping(self, count: int, returned: int) -> bool:
        """True if chunks are to be kept: not where the caller of a long read gets most of them."""
        decoded = count * self._chunk_nbytes
        useful = decoded < _LONG_BYTES or 2 * returned < decoded or self._remote
        return useful and self._lasting and not self._plain and self._cache.takes(decoded, count)

    def _check_size(self, key: ChunkKey, ref: ChunkRef) -> None:
        """Refuse to fetch what cannot be the encoding of a chunk, before memory is taken for it."""
        if self._chunk_nbytes > LIMITS.chunk:
            check_chunk(self._chunk_nbytes, self._url, self.array.path)
        if ref.range.length > self._most_encoded:
            raise self.error(
                key, f"has {ref.range.length} bytes for {self._whole_nbytes} decoded: damaged"
            )

    def _run_local(self, wanted: Sequence[ChunkRead], kept: Kept | None, *, in_order: bool) -> None:
        array = self._chunked
        found = self._found(wanted, self.refs([read.key for read in wanted]))
        size = len(found) * self._chunk_nbytes
        slow = any(step.name in _SLOW for step in self.spec.codecs)
        once = not slow and size >= _LONG_BYTES

        def work(group: list[tuple[ChunkRead, ChunkRef]]) -> None:
            group.sort(key=_REF)  # each file is opened once
            self._place(group, array.fetch([ref.range for _, ref in group]), kept, once=once)

        if not in_order:
            found.sort(key=_REF)  # each file is opened for as few groups as it can be
        inline = _INLINE_BYTES // 4 if slow else _INLINE_BYTES
        self._in_groups(work, found, size, _GROUPS, inline)

    def _in_groups(
        self,
        work: Callable[[list[Item]], None],
        items: list[Item],
        size: int,
        share: int,
        inline: int,
    ) -> None:
        """Let threads work on several items at a time, of `size` bytes in all."""
        workers = 1 if size <= inline else worker_count()
        many = _LARGEST_GROUP if workers == 1 else len(items) // (share * workers)
        count = 1 + min(_LARGEST_GROUP, many)
        groups = [items[start : start + count] for start in range(0, len(items), count)]
        for_each(work, groups, workers=workers)

    def _run_remote(self, wanted: Sequence[ChunkRead], kept: Kept | None) -> None:
        array = self._chunked
        reads = {read.key: read for read in wanted}
        came: set[ChunkKey] = set()

        def place(item: tuple[ChunkKey, ChunkRef, Buffer]) -> None:
            key, ref, data = item
            self._check_size(key, ref)
            self._place([(reads[key], ref)], [data], kept)

        with as_they_come(place) as add:

            def along(chunks: Sequence[tuple[ChunkKey, ChunkRef, Buffer]]) -> None:
                came.update(key for key, _, _ in chunks)
                add(chunks)

            found = self._found(wanted, self.refs(list(reads), along))
        left = [(read.key, ref) for read, ref in found if read.key not in came]
        ranges = [ref.range for _, ref in left]
        for batch in batches(ranges, merge_ranges(ranges, array.policy), _BATCH_BYTES):
            fetched = array.fetch([span_of(ranges, group) for group in batch])
            for_each(place, [(*left[i], data) for i, data in cut(ranges, batch, fetched)])

    # Chunks that are not encoded, in local files --------------------------------------------------

    def _span(self, key: ChunkKey, block: Region, ref: ChunkRef) -> tuple[Part, ByteRange]:
        """Elements of a block of a chunk, and the bytes from the first to the last of them."""
        part = Part.of(block, self._strides, self._width)
        return part, self._bytes_of(key, ref, part.first, part.length)

    def _bytes_of(self, key: ChunkKey, ref: ChunkRef, first: int, length: int) -> ByteRange:
        """Some bytes of a chunk, which must be as long as a chunk is."""
        source, offset, nbytes = ref.range
        if nbytes != self._chunk_nbytes and (
            self._chunks == self._whole or not first + length <= nbytes < self._chunk_nbytes
        ):  # the last one of a chunk that is cut is shorter
            raise self._wrong_length(key, nbytes)
        return ByteRange(source, offset + first, length)

    def _one_plain(self, key: ChunkKey, block: Region, ref: ChunkRef) -> Loaded:
        self._check_size(key, ref)
        (_, length, shape, strides), span = self._span(key, block, ref)
        if length < SHORT:
            (data,) = self._chunked.fetch([span])
            fresh = False
        else:
            room = aligned(length)
            (data,) = self._chunked.fetch([span], [room])
            fresh = _is_in(data, room)
        self._stats.add(chunks=1, bytes_decoded=length)
        values: AnyArray = np.ndarray(shape, self.spec.dtype, data, 0, strides)
        fresh = fresh and values.nbytes == length
        return Loaded(values, tuple(map(_START, block)), exact=True, fresh=fresh)

    def _run_plain(self, found: list[tuple[ChunkRead, ChunkRef]]) -> None:
        """Read parts of chunks, on threads where they are long."""
        groups: list[list[tuple[ChunkRead, Part, ByteRange]]] = []
        size = room = 0
        for read, ref in found:
            part, span = self._span(read.key, read.block, ref)
            length = part.length
            size += length
            if length > room or len(groups[-1]) > _LARGEST_GROUP:
                groups.append([])
                room = _SCRATCH_BYTES
            groups[-1].append((read, part, span))
            room -= length
        for_each(self._place_plain, groups, workers=1 if size <= INLINE_COPY else None)

    def run_points(self, points: Points, reads: Sequence[PointRead], result: AnyArray) -> None:
        """Read points of chunks that are not encoded.

        Parameters
        ----------
        points : Points
        reads : sequence of PointRead
        result : ndarray
            Its first axis is that of the points, the others are those of `PointRead.target`.
        """
        if self._chunk_nbytes > LIMITS.chunk:
            check_chunk(self._chunk_nbytes, self._url, self.array.path)

        def place(work: tuple[PointRead, slice, list[ByteRange]]) -> None:
            read, some, spans = work
            data = self._fetch_joined(spans)
            rows, values = points.taken(data, some, read.rest, self.spec.dtype)
            at: Any = (rows, *read.target)
            result[at] = values

        works: list[tuple[PointRead, slice, list[ByteRange]]] = []
        size = 0
        with self._chunked.reading():
            located = self._point_refs(reads)
            for read, refs in zip(reads, located, strict=True):
                if None in refs:
                    if self._missing == "error":
                        raise self.error(read.keys[refs.index(None)], _MISSING)
                    result[(slice(None), *read.target)] = self.spec.fill
                spans = self._point_spans(points, read, refs)
                lengths = [0 if span is None else span.length for span in spans]
                size += sum(lengths)
                parts: Iterable[slice] = [slice(0, len(spans))]
                if sum(lengths) > _SCRATCH_BYTES or None in refs:
                    parts = _parts(lengths)
                works += [(read, some, cast("list[ByteRange]", spans[some])) for some in parts]
            for_each(place, works, workers=1 if size <= INLINE_COPY else None)
            count = sum([len(refs) - refs.count(None) for refs in located])
            self._stats.add(chunks=count, bytes_decoded=size)

    def _point_refs(self, reads: Sequence[PointRead]) -> list[list[ChunkRef | None]]:
        refs = iter(self.refs([key for read in reads for key in read.keys]))
        return [list(itertools.islice(refs, len(read.keys))) for read in reads]

    def _point_spans(
        self, points: Points, read: PointRead, refs: Sequence[ChunkRef | None]
    ) -> list[ByteRange | None]:
        """Bytes of each span of points; None in chunks that were never written."""
        spans, size = points.spans(read.rest.length), self._chunk_nbytes
        begins = spans.starts + read.rest.first
        ranges = [ref.range for ref in refs if ref is not None]
        if list(map(_LENGTH, ranges)) == [size] * len(refs):
            sources, offsets, _ = zip(*ranges, strict=True)
            inside = spans.chunks.tolist()
            named = map(sources.__getitem__, inside)
            starts = map(operator.add, map(offsets.__getitem__, inside), begins.tolist())
            return list(map(ByteRange, named, starts, spans.lengths.tolist()))
        found: list[ByteRange | None] = []
        where = zip(spans.chunks.tolist(), begins.tolist(), spans.lengths.tolist(), strict=True)
        for number, first, length in where:
            key, ref = read.keys[number], refs[number]
            span = None if ref is None else self._bytes_of(key, ref, first, length)
            found.append(span)
        return found

    def _fetch_joined(self, spans: Sequence[ByteRange]) -> Buffer:
        """Bytes of spans one behind the other, perhaps in memory that is used again."""
        lengths = list(map(_LENGTH, spans))
        if max(lengths) < SHORT:
            return b"".join(self._chunked.fetch(spans))
        ends = list(itertools.accumulate(lengths))
        memory = scratch(ends[-1])
        rooms = [memory[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        for data, room in zip(self._chunked.fetch(spans, rooms), rooms, strict=True):
            if not _is_in(data, room):
                room[:] = np.frombuffer(data, np.uint8)
        return memory.data

    def run_whole(self, keys: Sequence[ChunkKey], memory: AnyArray) -> None:
        """Read whole chunks that are not encoded into memory, one after the other.

        Parameters
        ----------
        keys : sequence of tuple of int
        memory : ndarray of uint8
            As long as all of the chunks.
        """
        array = self._chunked
        size = self._chunk_nbytes
        if size > LIMITS.chunk:
            check_chunk(size, self._url, self.array.path)
        items: list[tuple[ByteRange, AnyArray]] = []
        with array.reading():
            for number, (key, ref) in enumerate(zip(keys, self.refs(keys), strict=True)):
                room = memory[number * size : (number + 1) * size]
                if ref is not None and ref.range.length == size:
                    items.append((ref.range, room))
                elif ref is not None:
                    raise self._wrong_length(key, ref.range.length)
                elif self._missing == "error":
                    raise self.error(key, _MISSING)
                else:
                    room.view(self.spec.dtype)[...] = self.spec.fill
            self._in_groups(self._fill_whole, items, len(items) * size, _PLAIN_GROUPS, INLINE_COPY)

    def _fill_whole(self, group: list[tuple[ByteRange, AnyArray]]) -> None:
        array = self._chunked
        fetched = array.fetch([item for item, _ in group], [room for _, room in group])
        for data, (_, room) in zip(fetched, group, strict=True):
            if not _is_in(data, room):
                room[:] = np.frombuffer(data, np.uint8)
        self._stats.add(chunks=len(group), bytes_decoded=len(group) * self._chunk_nbytes)

    def _place_plain(self, group: list[tuple[ChunkRead, Part, ByteRange]]) -> None:
        """Read parts of chunks to where they belong, or to memory that is used again."""
        spans = [span for _, _, span in group]
        rooms = [
            read.room if read.room is not None and read.room.nbytes == part.length else None
            for read, part, _ in group
        ]
        lengths = [
            0 if room is not None else span.length for room, span in zip(rooms, spans, strict=True)
        ]
        into: Sequence[AnyArray | None] = rooms
        if sum(lengths) >= SHORT:
            ends = list(itertools.accumulate(lengths))
            memory = scratch(ends[-1])
            into = [
                memory[end - length : end] if room is None else room
                for room, end, length in zip(rooms, ends, lengths, strict=True)
            ]
        elif all(lengths):
            into = ()
        fetched = self._chunked.fetch(spans, into)
        self._stats.add(chunks=len(group), bytes_decoded=sum([span.length for span in spans]))
        dtype = self.spec.dtype
        for (read, part, _), room, data in zip(group, rooms, fetched, strict=True):
            if room is None or not _is_in(data, room):
                values: AnyArray = np.ndarray(part.shape, dtype, data, 0, part.strides)
                read.place(Loaded(values, tuple(map(_START, read.block)), exact=True))

    def _run_of(self, block: Region) -> Run | None:
        """Run of elements that holds a block, if it is not all of them.

        Most chunks of a read have the same block.
        """
        known = self._last_run
        if known is None or known[0] != block:
            inner = [block[a] for a in self._axes]
            run = None if block == self._all else contiguous_run(inner, self._memory_chunks)
            known = self._last_run = block, run
        return known[1]

    # Encoded chunks -------------------------------------------------------------------------------

    def _place(
        self,
        group: Sequence[tuple[ChunkRead, ChunkRef]],
        fetched: Sequence[Buffer],
        kept: Kept | None,
        *,
        once: bool = False,
    ) -> None:
        """Decode chunks, and copy what is wanted of each to its place.

        Those that are to be kept are kept at once, or when they are wanted again.
        """
        count = size = 0
        new: Collection[ChunkKey] = ()
        if not self._remote and (self._by_parts or kept is not None):
            new = self._cache.touch(self._owner, [read.key for read, _ in group])
        try:
            for (read, ref), data in zip(group, fetched, strict=True):
                key, block, place, room = read
                first = key in new
                run = self._run_of(block) if first and self._by_parts and not ref.skip else None
                # What the caller may not want again is kept when it is wanted for the second time.
                keep = kept is not None and not (first and (once or room is not None))
                if keep:
                    room = None
                memory = _own if keep else scratch if room is None else _only(room)
                loaded = self._decode(key, ref, data, memory, run)
                count += 1
                size += loaded.decoded
                if kept is not None and keep and loaded.origin is None:
                    kept.append((key, loaded.values))
                if room is None or not np.may_share_memory(loaded.values, room):
                    place(loaded)
        finally:
            self._stats.add(chunks=count, bytes_decoded=size)

    def _decode(
        self, key: ChunkKey, ref: ChunkRef, data: Buffer, memory: Memory, run: Run | None
    ) -> Loaded:
        """Decode a chunk, or a run of its elements; errors name the chunk or the node."""
        try:
            return self._decode_needed(ref, data, memory, run)
        except CorruptDataError as error:
            raise self.error(key, f"cannot be read: {error.message}") from error
        except (MemoryError, MemoryLimitError) as error:
            text = error.message if isinstance(error, MemoryLimitError) else "not enough memory"
            msg = f"chunk {key} cannot be decoded: {text}"
            raise MemoryLimitError(msg, url=self._url, node=self.array.path) from error
        except (CodecError, DependencyError) as error:
            error.url, error.node = self._url, self.array.path
            raise

    def _decode_needed(
        self, ref: ChunkRef, data: Buffer, memory: Memory, run: Run | None
    ) -> Loaded:
        if run is not None:
            part = self._decode_part(run, data)
            if part is not None:
                return part
        spec, nbytes = self.spec, self._chunk_nbytes
        if self._chunks != self._whole and ref.range.length < nbytes:
            return self._decode_last(ref, data, memory)
        decoded = codecs.decode(spec.codecs, data, nbytes, skip=ref.skip, out=memory(nbytes))
        values: AnyArray = np.ndarray(self._chunks, spec.dtype, decoded, 0, self._strides)
        return Loaded(values, decoded=nbytes)

    def _decode_last(self, ref: ChunkRef, data: Buffer, memory: Memory) -> Loaded:
        """Decode the last part of a chunk, which is shorter than the others."""
        spec, nbytes = self.spec, ref.range.length
        shape = last_subchunk_shape(self._memory_chunks, self._memory_whole)
        decoded = codecs.decode(spec.codecs, data, nbytes, skip=ref.skip, out=memory(nbytes))
        values = np.frombuffer(decoded, spec.dtype).reshape(shape)
        return Loaded(values.transpose(self._inverse), decoded=nbytes)

    def _decode_part(self, run: Run, data: Buffer) -> Loaded | None:
        """Decode one run of elements of a chunk; None where all of it has to be decoded."""
        start, shape, origin = run
        count = math.prod(shape)
        width = self.spec.dtype.itemsize
        begin, end = start * width, (start + count) * width
        found = decode_part(self.spec.codecs, data, self._whole_nbytes, begin, end)
        if found is None:
            return None
        part, offset = found
        values = np.frombuffer(part, self.spec.dtype, count, begin - offset).reshape(shape)
        first = tuple(map(origin.__getitem__, self._inverse))
        return Loaded(values.transpose(self._inverse), first, decoded=len(part))

    def _wrong_length(self, key: ChunkKey, nbytes: int) -> FmristoreError:
        return self.error(
            key, f"has {nbytes} bytes where {self._chunk_nbytes} were expected: damaged"
        )

    def error(self, key: ChunkKey, text: str) -> FmristoreError:
        """Make the error that says what is wrong with a chunk."""
        return CorruptDataError(f"chunk {key} {text}", url=self._url, node=self.array.path)


def _parts(lengths: Sequence[int]) -> Iterator[slice]:
    """Cut what is there into parts that are fetched at once; lengths of what is not are 0."""
    begin = size = 0
    for number, length in enumerate(lengths):
        if not length or size + length > _SCRATCH_BYTES:
            if begin < number:
                yield slice(begin, number)
            begin, size = number + (not length), 0
        size += length
    if begin < len(lengths):
        yield slice(begin, len(lengths))


def _is_in(data: Buffer, room: AnyArray) -> bool:
    """Return whether bytes were fetched into memory that was given for them."""
    owner: object = data.obj if isinstance(data, memoryview) else None
    return owner is room


def _own(_: int) -> None:
    """No memory of others for a chunk that will be kept: it gets its own."""


def _only(room: AnyArray) -> Memory:
    """The place of a chunk in the result."""
    return lambda _: room
