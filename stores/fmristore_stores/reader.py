"""The parallel chunk reader: regions and scattered points of an array, through chunk references.

One reader serves one array of any store. It locates the chunks, takes those that were decoded
before from a cache, fetches the rest (each with its own read on a local disk, as few merged
ranges on object storage), decodes them on worker threads outside the libraries' locks, and copies
what was asked for into one result. Arrays without chunk references are read through their store.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from fmristore_stores import codecs
from fmristore_stores.cache import CHUNK_CACHE, ChunkCache
from fmristore_stores.errors import (
    CorruptDataError,
    FmristoreError,
    MemoryLimitError,
    SelectionError,
)
from fmristore_stores.grid import (
    ChunkKey,
    Overlap,
    Region,
    grid_shape,
    only_overlap,
    overlap_count,
    overlaps,
    parse_region,
    region_shape,
)
from fmristore_stores.parallel import for_each
from fmristore_stores.pieces import contiguous_run, piece_shape, shorter_piece
from fmristore_stores.protocol import (
    AnyArray,
    Array,
    Buffer,
    ByteRange,
    Capability,
    ChunkRef,
    ChunkRefs,
)
from fmristore_stores.ranges import ReadCost, batches, merge_ranges, span_of
from fmristore_stores.stats import Stats, stats_of

__all__ = ["ChunkReader"]

_BATCH_BYTES = 64 * 1024 * 1024
"""Encoded bytes of one round of concurrent requests."""
_INLINE_BYTES = 128 * 1024
"""Decoded bytes below which handing work to another thread costs more than it saves."""
_LONG_BYTES = 16 * 1024 * 1024
"""Decoded bytes from which a read must leave something worth keeping in the cache."""
_CODEC_OVERHEAD = 64 * 1024
"""Bytes that encoding may add to a chunk, besides doubling it."""
_MANY_CHUNKS = 1 << 12
"""Chunks whose bookkeeping takes a noticeable time, after which none of them may be there."""
_MOST_CHUNKS = 1 << 21
"""Chunks that one read may touch: a file may claim any number, and each takes a little memory."""
_MISSING = "is missing: the data are damaged"


class _Loaded(NamedTuple):
    """Elements of one chunk: at least those that were needed."""

    values: AnyArray
    origin: tuple[int, ...]
    """Position within the chunk of the first element of `values`."""


class _Piece(NamedTuple):
    """One chunk's part in a read."""

    key: ChunkKey
    box: Region
    """Smallest box of the chunk that holds all that is needed of it."""
    place: Callable[[_Loaded | None], None]
    """Copies into the result; None stands for a chunk that was never written."""


class ChunkReader:
    """Reads regions and points of one array.

    Parameters
    ----------
    array : Array
        Of any store. Read directly through chunk references where it has them.
    cache : ChunkCache, optional
        Where decoded chunks are kept; the process-wide one by default.
    missing : {"fill", "error"}
        What a chunk that was never written means: the fill value, or damage.
    url : str, optional
        Where the array is, for messages.

    Notes
    -----
    Chunks of an array that is open for writing are not kept, for they may change.
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
        self._url = url
        self._stats = Stats() if url is None else stats_of(url)
        self.spec = array.spec
        self._cache = CHUNK_CACHE if cache is None else cache
        self._missing = missing
        self._owner = next(self._numbers)
        self._seen: set[ChunkKey] = set()
        self._direct = Capability.CHUNK_REFS in array.capabilities
        self._remote = self._direct and cast("ChunkRefs", array).policy.concurrent
        self._lasting = Capability.WRITE not in array.capabilities
        self._axes = self.spec.layout.axes
        self._inverse = tuple(int(i) for i in np.argsort(self._axes))
        self._whole = self.spec.layout.chunks
        self._memory_chunks = self.spec.memory.layout.chunks
        if not self.spec.codecs:
            self._memory_chunks = piece_shape(self.spec.memory)
        self._chunks = tuple(self._memory_chunks[i] for i in self._inverse)
        self._chunk_nbytes = math.prod(self._chunks) * self.spec.dtype.itemsize

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of what is read at once: a chunk, or a piece of a large one without codecs."""
        return self._chunks

    # Whole regions --------------------------------------------------------------------------

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Read a region.

        Parameters
        ----------
        region : tuple of slice, optional
            One slice per axis with a positive step; everything by default.
        out : ndarray, optional
            Of the region's shape and the array's dtype.

        Returns
        -------
        ndarray
            `out`, or a new array whose elements lie in memory as they do in the chunks: see
            `fmristore_stores.spec.ChunkLayout.order`.

        Raises
        ------
        SelectionError
            If the region does not fit the array.
        CorruptDataError
            If a chunk is damaged, or missing and `missing` is ``"error"``.
        MemoryLimitError
            If there is not enough memory for the result, or it touches absurdly many chunks.
        """
        region = parse_region(region, self.spec.shape)
        if out is None and self._direct:
            only = only_overlap(region, self._chunks)
            if only is not None:
                return self._read_one(only)
        shape = region_shape(region)
        if out is not None and (out.shape != shape or out.dtype != self.spec.dtype):
            raise SelectionError(
                f"out has shape {out.shape} and dtype {out.dtype}; "
                f"the region has {shape} and {self.spec.dtype}"
            )
        if not self._direct:
            return self.array.read(region, out)
        result = self._empty(shape, self._axes) if out is None else out
        touched = self._overlaps(region, self._chunks)
        if self._missing == "error" and overlap_count(region, self._chunks) > _MANY_CHUNKS:
            first = tuple(s.start // c for s, c in zip(region, self._chunks, strict=True))
            if self._refs([first])[0] is None:
                raise self._error(first, _MISSING)
        pieces = [self._region_piece(overlap, result) for overlap in touched]
        self._run(pieces, result.nbytes)
        return result

    def _read_one(self, overlap: Overlap) -> AnyArray:
        """Read a region that lies in one chunk: no detour for what takes a fraction of a ms."""
        key = overlap.key
        chunk = self._cache.get(self._owner, key)
        if chunk is not None:
            loaded = _Loaded(chunk, (0,) * chunk.ndim)
        else:
            (ref,) = self._refs([key])
            if ref is None:
                if self._missing == "error":
                    raise self._error(key, _MISSING)
                shape = tuple(part.stop for part in overlap.target)
                return np.full(shape, self.spec.fill, self.spec.dtype)
            self._check_size(key, ref)
            (data,) = cast("ChunkRefs", self.array).fetch([ref.range])
            keep = self._worth_keeping(self._chunk_nbytes, 0)
            try:
                loaded = self._decode(key, overlap.source, ref, data, keep=keep)
            except CorruptDataError as error:
                raise self._error(key, f"cannot be read: {error.message}") from error
        values = loaded.values[_within(overlap.source, loaded.origin)]
        return values.copy(order="K")  # never a view of what others will read

    def cost(self, region: Region | None = None) -> ReadCost:
        """What `read` of a region takes, without reading any data.

        Locating the chunks may read an index (once per array or shard, then remembered).
        """
        region = parse_region(region, self.spec.shape)
        keys = [overlap.key for overlap in self._overlaps(region, self._chunks)]
        returned = math.prod(region_shape(region)) * self.spec.dtype.itemsize
        return self._cost(keys, returned)

    def _region_piece(self, overlap: Overlap, result: AnyArray) -> _Piece:
        def place(loaded: _Loaded | None) -> None:
            if loaded is None:
                result[overlap.target] = self.spec.fill
                return
            result[overlap.target] = loaded.values[_within(overlap.source, loaded.origin)]

        return _Piece(overlap.key, overlap.source, place)

    # Scattered points -----------------------------------------------------------------------

    def read_points(
        self, axes: Sequence[int], points: AnyArray, region: Region | None = None
    ) -> AnyArray:
        """Read many positions along some axes, with a region of the other axes at each of them.

        Every chunk is fetched and decoded once, however many points lie in it.

        Parameters
        ----------
        axes : sequence of int
            The k axes that points are given along.
        points : ndarray of int, shape (n, k)
            Non-negative positions.
        region : tuple of slice, optional
            One slice for every other axis, in the array's order; everything by default.

        Returns
        -------
        ndarray, shape (n, ...)
            One row per point, the other axes in the array's order.

        Raises
        ------
        SelectionError
            If a point lies outside the array.
        """
        axes = tuple(axes)
        others, region = self._other_axes(axes, region)
        points = np.asarray(points, np.int64).reshape(-1, len(axes))
        lengths = [self.spec.shape[a] for a in axes]
        if (points < 0).any() or (points >= lengths).any():
            raise SelectionError(f"a point lies outside the axes of lengths {lengths}")
        result = self._empty((len(points), *region_shape(region)))
        if not len(points):
            return result
        if not self._direct:
            return self._read_points_plainly(axes, points, region, result)
        pieces = [
            self._points_piece(axes, others, points[rows], rows, overlap, result)
            for rows in self._rows_by_chunk(axes, points)
            for overlap in self._overlaps(region, tuple(self._chunks[a] for a in others))
        ]
        self._run(pieces, result.nbytes)
        return result

    def cost_points(
        self, axes: Sequence[int], points: AnyArray, region: Region | None = None
    ) -> ReadCost:
        """What `read_points` takes, without reading any data."""
        axes = tuple(axes)
        others, region = self._other_axes(axes, region)
        points = np.asarray(points, np.int64).reshape(-1, len(axes))
        sizes = [self._chunks[a] for a in axes]
        keys = [
            self._key(axes, tuple(points[rows[0]] // sizes), others, overlap.key)
            for rows in (self._rows_by_chunk(axes, points) if len(points) else ())
            for overlap in self._overlaps(region, tuple(self._chunks[a] for a in others))
        ]
        count = len(points) * math.prod(region_shape(region))
        return self._cost(keys, count * self.spec.dtype.itemsize)

    def _other_axes(
        self, axes: tuple[int, ...], region: Region | None
    ) -> tuple[tuple[int, ...], Region]:
        others = tuple(a for a in range(len(self.spec.shape)) if a not in axes)
        return others, parse_region(region, tuple(self.spec.shape[a] for a in others))

    def _rows_by_chunk(self, axes: tuple[int, ...], points: AnyArray) -> list[AnyArray]:
        """Row numbers of the points, grouped by the chunk they lie in."""
        chunks = points // [self._chunks[a] for a in axes]
        order = np.lexsort(chunks.T[::-1])
        changes = (np.diff(chunks[order], axis=0) != 0).any(axis=1)
        return np.split(order, np.flatnonzero(changes) + 1)

    @staticmethod
    def _key(
        axes: tuple[int, ...], at: tuple[int, ...], others: tuple[int, ...], rest: ChunkKey
    ) -> ChunkKey:
        key = dict(zip(axes, at, strict=True)) | dict(zip(others, rest, strict=True))
        return tuple(int(key[a]) for a in sorted(key))

    def _points_piece(
        self,
        axes: tuple[int, ...],
        others: tuple[int, ...],
        points: AnyArray,
        rows: AnyArray,
        overlap: Overlap,
        result: AnyArray,
    ) -> _Piece:
        sizes = np.array([self._chunks[a] for a in axes])
        inside = points % sizes
        low, high = inside.min(axis=0), inside.max(axis=0) + 1
        box: dict[int, slice] = dict(zip(others, overlap.source, strict=True))
        box |= {a: slice(int(b), int(e), 1) for a, b, e in zip(axes, low, high, strict=True)}

        def place(loaded: _Loaded | None) -> None:
            if loaded is None:
                result[_index(rows, *overlap.target)] = self.spec.fill
                return
            origin = loaded.origin
            at = tuple(inside[:, i] - origin[a] for i, a in enumerate(axes))
            rest = tuple(
                slice(s.start - origin[a], s.stop - origin[a], s.step)
                for a, s in zip(others, overlap.source, strict=True)
            )
            values = loaded.values.transpose(axes + others)
            result[_index(rows, *overlap.target)] = values[at + rest]

        key = self._key(axes, tuple(points[0] // sizes), others, overlap.key)
        return _Piece(key, tuple(box[a] for a in sorted(box)), place)

    def _read_points_plainly(
        self, axes: tuple[int, ...], points: AnyArray, region: Region, result: AnyArray
    ) -> AnyArray:
        """Read points through the store itself: the box around the points of each chunk."""
        others = tuple(a for a in range(len(self.spec.shape)) if a not in axes)
        for rows in self._rows_by_chunk(axes, points):
            low, high = points[rows].min(axis=0), points[rows].max(axis=0) + 1
            box: dict[int, slice] = dict(zip(others, region, strict=True))
            box |= {a: slice(int(b), int(e), 1) for a, b, e in zip(axes, low, high, strict=True)}
            values = self.array.read(tuple(box[a] for a in sorted(box))).transpose(axes + others)
            result[rows] = values[tuple((points[rows] - low).T)]
        return result

    # Fetching and decoding ------------------------------------------------------------------

    def _empty(self, shape: tuple[int, ...], order: Sequence[int] = ()) -> AnyArray:
        """An array whose last axis in `order` varies fastest in memory, the last one by default."""
        try:
            if not order:
                return np.empty(shape, self.spec.dtype)
            memory = np.empty([shape[a] for a in order], self.spec.dtype)
            return memory.transpose(np.argsort(order))
        except (MemoryError, ValueError) as error:
            msg = f"a result of shape {shape} does not fit into memory; read a smaller part"
            raise MemoryLimitError(msg, url=self._url, node=self.array.path) from error

    def _overlaps(self, region: Region, chunks: tuple[int, ...]) -> Iterator[Overlap]:
        count = overlap_count(region, chunks)
        if count > _MOST_CHUNKS:
            msg = f"{count} chunks would be touched; read a smaller part"
            raise MemoryLimitError(msg, url=self._url, node=self.array.path)
        return overlaps(region, chunks)

    def _refs(self, keys: Sequence[ChunkKey]) -> list[ChunkRef | None]:
        array = cast("ChunkRefs", self.array)
        if self._chunks == self._whole:
            return array.refs(keys)
        ratio = grid_shape(self._whole, self._chunks)
        whole = [tuple(k // r for k, r in zip(key, ratio, strict=True)) for key in keys]
        return [
            None if ref is None else self._piece_ref(key, ratio, ref)
            for key, ref in zip(keys, array.refs(whole), strict=True)
        ]

    def _piece_ref(self, key: ChunkKey, ratio: Sequence[int], ref: ChunkRef) -> ChunkRef:
        """Where a piece of a large chunk that is not encoded lies."""
        source, offset, length = ref.range
        if length != self.spec.chunk_nbytes:
            raise self._error(key, f"has {length} bytes instead of {self.spec.chunk_nbytes}")
        position = 0
        for axis in self._axes:
            position = position * self._whole[axis] + key[axis] % ratio[axis] * self._chunks[axis]
        start = position * self.spec.dtype.itemsize
        return ChunkRef(ByteRange(source, offset + start, min(self._chunk_nbytes, length - start)))

    def _cost(self, keys: list[ChunkKey], returned: int) -> ReadCost:
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
        ranges = [ref.range for ref in self._refs(keys) if ref is not None]
        policy = cast("ChunkRefs", self.array).policy
        groups = merge_ranges(ranges, policy)
        return ReadCost(
            chunks=len(ranges),
            missing=len(keys) - len(ranges),
            requests=len(groups),
            encoded_bytes=sum(r.length for r in ranges),
            fetched_bytes=sum(span_of(ranges, group).length for group in groups),
            decoded_bytes=len(ranges) * self._chunk_nbytes,
            returned_bytes=returned,
        )

    def _run(self, pieces: list[_Piece], returned: int) -> None:
        """Place every piece: cached chunks first, the others as they are fetched and decoded."""
        wanted = []
        for piece in pieces:
            chunk = self._cache.get(self._owner, piece.key)
            if chunk is None:
                wanted.append(piece)
            else:
                piece.place(_Loaded(chunk, (0,) * chunk.ndim))
        if not wanted:
            return
        keep = self._worth_keeping(len(wanted) * self._chunk_nbytes, returned)
        found: list[tuple[_Piece, ChunkRef]] = []
        for piece, ref in zip(wanted, self._refs([p.key for p in wanted]), strict=True):
            if ref is not None:
                self._check_size(piece.key, ref)
                found.append((piece, ref))
            elif self._missing == "fill":
                piece.place(None)
            else:
                raise self._error(piece.key, _MISSING)
        (self._run_remote if self._remote else self._run_local)(found, keep=keep)

    def _worth_keeping(self, decoded: int, returned: int) -> bool:
        """Whether to cache chunks: not where the caller of a long local read gets most of them."""
        useful = decoded < _LONG_BYTES or 2 * returned < decoded or self._remote
        return useful and self._lasting and decoded <= self._cache.limit

    def _check_size(self, key: ChunkKey, ref: ChunkRef) -> None:
        """Refuse to fetch what cannot be the encoding of a chunk, before memory is taken for it."""
        if ref.range.length > 2 * self.spec.chunk_nbytes + _CODEC_OVERHEAD:
            raise self._error(
                key, f"has {ref.range.length} bytes for {self.spec.chunk_nbytes} decoded: damaged"
            )

    def _run_local(self, found: list[tuple[_Piece, ChunkRef]], *, keep: bool) -> None:
        array = cast("ChunkRefs", self.array)

        def work(item: tuple[_Piece, ChunkRef]) -> None:
            piece, ref = item
            (data,) = array.fetch([ref.range])
            self._place(piece, ref, data, keep=keep)

        small = len(found) * self._chunk_nbytes <= _INLINE_BYTES
        for_each(work, found, workers=1 if small else None)

    def _run_remote(self, found: list[tuple[_Piece, ChunkRef]], *, keep: bool) -> None:
        array = cast("ChunkRefs", self.array)
        ranges = [ref.range for _, ref in found]

        def work(item: tuple[int, Buffer]) -> None:
            piece, ref = found[item[0]]
            self._place(piece, ref, item[1], keep=keep)

        for batch in batches(ranges, merge_ranges(ranges, array.policy), _BATCH_BYTES):
            spans = [span_of(ranges, group) for group in batch]
            arrived = array.fetch(spans)
            cut = [
                (i, memoryview(data)[start : start + ranges[i].length])
                for group, span, data in zip(batch, spans, arrived, strict=True)
                for i in group
                for start in (ranges[i].offset - span.offset,)
            ]
            for_each(work, cut)

    def _place(self, piece: _Piece, ref: ChunkRef, data: Buffer, *, keep: bool) -> None:
        try:
            piece.place(self._decode(piece.key, piece.box, ref, data, keep=keep))
        except CorruptDataError as error:
            raise self._error(piece.key, f"cannot be read: {error.message}") from error

    def _decode(
        self, key: ChunkKey, box: Region, ref: ChunkRef, data: Buffer, *, keep: bool
    ) -> _Loaded:
        """Decode a chunk, or just the part that is needed when it is needed for the first time."""
        spec = self.spec
        if not ref.skip and not self._remote and key not in self._seen:
            part = self._decode_part(box, data)
            if part is not None:
                self._seen.add(key)
                return part
        shape: Sequence[int] = self._memory_chunks
        nbytes = self._chunk_nbytes
        if self._chunks != self._whole and ref.range.length < nbytes:  # the last piece of a chunk
            nbytes, shape = ref.range.length, shorter_piece(shape, self.spec.memory.layout.chunks)
        out = None if keep else _scratch(nbytes)
        decoded = codecs.decode(spec.codecs, data, nbytes, skip=ref.skip, out=out)
        self._stats.add(chunks=1, bytes_decoded=nbytes)
        values = np.frombuffer(decoded, spec.dtype).reshape(shape)
        chunk = values.transpose(self._inverse)
        if keep:
            self._cache.put(self._owner, key, chunk)
        return _Loaded(chunk, (0,) * chunk.ndim)

    def _decode_part(self, box: Region, data: Buffer) -> _Loaded | None:
        """Decode one run of elements that is contiguous in the chunk and holds a box."""
        start, shape, origin = contiguous_run([box[a] for a in self._axes], self._memory_chunks)
        count = math.prod(shape)
        width = self.spec.dtype.itemsize
        if 2 * count > math.prod(self._memory_chunks):
            return None
        begin, end = start * width, (start + count) * width
        found = codecs.decode_part(self.spec.codecs, data, self.spec.chunk_nbytes, begin, end)
        if found is None:
            return None
        part, offset = found
        self._stats.add(chunks=1, bytes_decoded=len(part))
        values = np.frombuffer(part, self.spec.dtype, count, begin - offset).reshape(shape)
        return _Loaded(values.transpose(self._inverse), tuple(origin[i] for i in self._inverse))

    def _error(self, key: ChunkKey, text: str) -> FmristoreError:
        return CorruptDataError(f"chunk {key} {text}", url=self._url, node=self.array.path)


_threads = threading.local()


def _scratch(nbytes: int) -> AnyArray:
    """Memory of this thread to decode a chunk into that is copied from at once."""
    found: AnyArray | None = getattr(_threads, "scratch", None)
    if found is None or found.nbytes < nbytes:
        found = np.empty(nbytes, np.uint8)
        if nbytes <= _LONG_BYTES:
            _threads.scratch = found
    return found


def _within(part: Region, origin: Sequence[int]) -> tuple[slice, ...]:
    """A part of a chunk as one of the elements that were decoded of it."""
    return tuple(slice(s.start - o, s.stop - o, s.step) for s, o in zip(part, origin, strict=True))


def _index(*parts: Any) -> Any:
    """Make one index of arrays and slices, a mixture that numpy's types cannot express."""
    return parts
