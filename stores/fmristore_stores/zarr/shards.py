"""Encoded chunks of a Zarr array: where they lie, in objects of their own or in shards.

References
----------
Zarr v3 specification: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html
Sharding codec: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Sequence

import google_crc32c
import numpy as np
import numpy.typing as npt

from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.errors import (
    CorruptDataError,
    InvalidInputError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.grid import ChunkKey, grid_shape
from fmristore_stores.io.sources import Answered, ByteSource
from fmristore_stores.protocol import Along, Buffer, ByteRange, ChunkRef
from fmristore_stores.spec import ArraySpec
from fmristore_stores.zarr.files import Files
from fmristore_stores.zarr.metadata import Placement

__all__ = ["SHARD_INDEXES", "ChunkLocator", "Index", "parse_index", "shard_parts"]

Index = npt.NDArray[np.uint64]
"""Index of a shard, shape (chunks of the shard, 2): offset and length of each chunk in bytes."""

_MISSING = 2**64 - 1
_NOWHERE = [_MISSING, _MISSING]
"""Entry of a chunk that is not there."""
_ENTRY = 16
_CHECKSUM = 4
_BATCH = 1 << 14
"""Units that are looked for at a time."""

_RATIO = 2
"""By which codecs make integers smaller, mostly more."""

_LOADED = 16 * 1024 * 1024
"""Bytes of indexes that are loaded at a time."""

_AHEAD = 64 * 1024 * 1024
"""Bytes of shards that are asked for before it is known where their chunks lie."""

SHARD_INDEXES = ChunkCache(32 * 1024 * 1024)
"""Indexes of shards that all arrays of the process share room for, least recently used dropped."""


def parse_index(data: Buffer, size: int | None, *, first: bool, url: str) -> Index:
    """Check and decode the index of a shard.

    Parameters
    ----------
    data : bytes-like
        The encoded index with its checksum.
    size : int or None
        Length of the whole shard in bytes, if it is known.
    first : bool
        Whether the index lies at the start of the shard.
    url : str
        The shard, for messages.

    Returns
    -------
    ndarray of uint64, shape (chunks, 2)
        Offset and length; both ``2**64 - 1`` where there is no chunk.

    Raises
    ------
    CorruptDataError
        If the checksum is wrong or an entry does not lie within the shard.
    """
    view = memoryview(data).cast("B")
    checksum = int.from_bytes(view[-_CHECKSUM:], "little")
    if google_crc32c.value(bytes(view[:-_CHECKSUM])) != checksum:
        raise CorruptDataError("the checksum of the shard's index does not match", url=url)
    index = np.frombuffer(view[:-_CHECKSUM], "<u8").reshape(-1, 2).astype(np.uint64)
    present = ~(index == _MISSING).all(axis=1)
    begin = len(view) if first else 0
    if size is None:
        size = 2**62  # what lies beyond the end is noticed when it is fetched
    end = size if first else size - len(view)
    offsets, lengths = index[present, 0], index[present, 1]
    # In this order nothing can overflow: an offset of at most `end` is subtracted from `end`.
    inside = (offsets >= begin) & (offsets <= end)
    if not inside.all() or (lengths > np.uint64(end) - offsets).any():
        raise CorruptDataError("the shard's index points outside the shard", url=url)
    return index


def shard_parts(chunks: Sequence[Buffer | None], *, index_first: bool = False) -> list[Buffer]:
    """Bytes of a whole shard, in parts: its chunks and their index.

    Parameters
    ----------
    chunks : sequence of bytes-like or None
        Encoded chunks, last axis fastest.
    index_first : bool
        Put the index before the chunks instead of after them.

    Returns
    -------
    list of bytes-like
        What the shard's object holds.
    """
    position = len(chunks) * _ENTRY + _CHECKSUM if index_first else 0
    parts: list[Buffer] = []
    index: list[int] = []
    for chunk in chunks:
        if chunk is None:
            index += _MISSING, _MISSING
        else:
            view = memoryview(chunk).cast("B")
            index += position, view.nbytes
            position += view.nbytes
            parts.append(view)
    encoded = np.array(index, "<u8").tobytes()
    encoded += int(google_crc32c.value(encoded)).to_bytes(_CHECKSUM, "little")
    return [encoded, *parts] if index_first else [*parts, encoded]


class ChunkLocator:
    """Finds and writes the encoded chunks of one array.

    Parameters
    ----------
    files : Files
        Objects of the store.
    source : ByteSource
        Reads the indexes of shards.
    path : str
        Path of the array in the store.
    spec : ArraySpec
        The array.
    placement : Placement
        How its objects are named.
    keep : bool
        Remember the indexes of shards in `SHARD_INDEXES`; only for stores that nobody writes.
    """

    _owners = itertools.count()

    def __init__(
        self,
        files: Files,
        source: ByteSource,
        path: str,
        *,
        spec: ArraySpec,
        placement: Placement,
        keep: bool,
    ) -> None:
        self._files = files
        self._source = source
        self._path = path
        self._prefix = f"{path}/" if path else ""
        self._placement = placement
        self._grid = grid_shape(spec.shape, spec.layout.chunks)
        self._units = grid_shape(spec.shape, spec.layout.units)
        self._ratio: tuple[int, ...] | None = None
        if spec.layout.shards:
            pairs = zip(spec.layout.shards, spec.layout.chunks, strict=True)
            self._ratio = tuple(s // c for s, c in pairs)
        nbytes = math.prod(spec.layout.units) * spec.dtype.itemsize
        smaller = bool(spec.codecs) and spec.dtype.kind in "iu"
        self._likely_nbytes = nbytes // _RATIO if smaller else nbytes
        self._owner = next(self._owners)
        self._keeps = keep

    def refs(
        self,
        keys: Sequence[ChunkKey],
        along: Along | None = None,
        answered: Answered | None = None,
    ) -> list[ChunkRef | None]:
        """Locate chunks, None for those that were never written.

        Parameters
        ----------
        keys : sequence of tuple of int
            Chunks.
        along : callable, optional
            Takes those that came with their index: see `ChunkRefs.refs`.
        answered : callable, optional
            As of `FsspecSource.begin`, for these.

        Raises
        ------
        SelectionError
            If a key lies outside the grid.
        CorruptDataError
            If the index of a shard is damaged.
        """
        if not _lie_in(keys, self._grid):
            for key in keys:
                self._check(key, self._grid)
        if self._ratio is not None:
            return self._in_shards(keys, self._ratio, along, answered)
        names = [self._name(key) for key in keys]
        sizes = self._sizes(names)
        path = self._files.path
        return [
            None if size is None else ChunkRef(ByteRange(path(name), 0, size))
            for name, size in zip(names, sizes, strict=True)
        ]

    def stored(self) -> npt.NDArray[np.int64] | None:
        """Numbers of the chunks that are there, sorted; None where nothing can be listed.

        Raises
        ------
        CorruptDataError
            If the index of a shard is damaged.
        """
        if not self._files.can_list:
            return None
        keys = (key.removeprefix(self._prefix) for key in self._files.below(self._path))
        units = {self._placement.position(key, len(self._grid)) for key in keys}
        inside = sorted(u for u in units if u is not None and _lies_in(u, self._units))
        if self._ratio is None:
            return self._numbers(np.array(inside, np.int64).reshape(len(inside), len(self._grid)))
        found = [self._in_unit(unit, self._ratio) for unit in inside]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *found]))

    def _in_unit(self, unit: ChunkKey, ratio: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Numbers of the chunks of a shard that are there."""
        index = self._load([unit], math.prod(ratio))[unit]
        if index is None:
            return np.zeros(0, np.int64)
        present = np.flatnonzero((index != _MISSING).any(axis=1))
        places = np.stack(np.unravel_index(present, ratio), axis=1) + np.multiply(unit, ratio)
        return self._numbers(places[(places < self._grid).all(axis=1)])

    def _numbers(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Numbers of chunks, last axis fastest, of their positions: shape (n, axes)."""
        numbers = np.zeros(len(places), np.int64)
        for axis, count in enumerate(self._grid):
            numbers = numbers * count + places[:, axis]
        return np.sort(numbers)

    def _in_shards(
        self,
        keys: Sequence[ChunkKey],
        ratio: tuple[int, ...],
        along: Along | None,
        answered: Answered | None,
    ) -> list[ChunkRef | None]:
        if not keys:
            return []
        if len(keys) == 1:
            return [self._in_shard(keys[0], ratio)]
        units, numbers = _divided(keys, ratio)
        distinct = list(dict.fromkeys(units))
        step = max(1, _LOADED // (math.prod(ratio) * _ENTRY))
        if len(distinct) > step:
            refs: dict[ChunkKey, ChunkRef | None] = {}
            for start in range(0, len(distinct), step):
                some = set(distinct[start : start + step])
                part = [key for key, unit in zip(keys, units, strict=True) if unit in some]
                refs |= zip(part, self._in_shards(part, ratio, along, answered), strict=True)
            return [refs[key] for key in keys]
        members: dict[ChunkKey, list[int]] = {}
        for place, unit in enumerate(units):
            members.setdefault(unit, []).append(place)
        search = _Search(keys, numbers, members)
        begun: dict[ChunkKey, Buffer] = {}
        if along is not None and answered is not None:
            begun = self._begin(search, ratio, along, answered)
        left = [unit for unit in distinct if unit not in search.located]
        for unit, index in self._load(left, math.prod(ratio)).items():
            search.locate(unit, self._files.path(self._name(unit)), index)
        if along is not None:
            for unit, data in begun.items():
                along(search.within(unit, data))
        return search.found

    def _begin(
        self, search: _Search, ratio: tuple[int, ...], along: Along, answered: Answered
    ) -> dict[ChunkKey, Buffer]:
        """Ask for shards of which all chunks are wanted: their indexes come with them.

        Only for those that are likely no longer than a request may be. Where one turns out to be
        longer, its beginning is returned, and others are located first from then on.
        """
        begun: dict[ChunkKey, Buffer] = {}
        block = self._source.policy.block
        if not self._source.policy.concurrent or self._likely_nbytes > block:
            return begun
        whole = [
            unit
            for unit, places in search.members.items()
            if len(places) == self._chunks_in(unit, ratio) and self._known(unit) is None
        ][: _AHEAD // block]

        def arrived(number: int, data: Buffer) -> None:
            unit = whole[number]
            if len(data) >= block:
                begun[unit] = data
                self._likely_nbytes = block + 1
            elif (index := self._index_of(unit, data, math.prod(ratio))) is not None:
                search.locate(unit, self._files.path(self._name(unit)), index)
                along(search.within(unit, data))

        if whole:
            self._files.begin(list(map(self._name, whole)), block, arrived, answered)
        return begun

    def _index_of(self, unit: ChunkKey, shard: Buffer, count: int) -> Index | None:
        """Index of a shard that is here; None for a damaged one, which is asked for again."""
        length = count * _ENTRY + _CHECKSUM
        part = memoryview(shard)[:length] if self._placement.index_first else shard[-length:]
        if len(part) == length:
            with contextlib.suppress(CorruptDataError):
                return self._keep(unit, part, len(shard), self._name(unit))
        return None

    def _chunks_in(self, unit: ChunkKey, ratio: tuple[int, ...]) -> int:
        """Number of chunks of a shard that lie in the array."""
        edges = zip(unit, ratio, self._grid, strict=True)
        return math.prod(min(r, n - u * r) for u, r, n in edges)

    def _known(self, unit: ChunkKey) -> Index | None:
        return SHARD_INDEXES.get(self._owner, unit) if self._keeps else None

    def _in_shard(self, key: ChunkKey, ratio: tuple[int, ...]) -> ChunkRef | None:
        number = 0
        for k, r in zip(key, ratio, strict=True):
            number = number * r + k % r
        unit = tuple([k // r for k, r in zip(key, ratio, strict=True)])
        index = self._load([unit], math.prod(ratio))[unit]
        if index is None:
            return None
        offset, length = index[number].tolist()
        if offset == length == _MISSING:
            return None
        return ChunkRef(ByteRange(self._files.path(self._name(unit)), offset, length))

    def _load(self, units: Iterable[ChunkKey], count: int) -> dict[ChunkKey, Index | None]:
        """Index of each shard, None for a shard that does not exist."""
        indexes: dict[ChunkKey, Index | None] = {}
        unknown = []
        for unit in units:
            index = self._known(unit)
            if index is None:
                unknown.append(unit)
            indexes[unit] = index
        if not unknown:
            return indexes
        length = count * _ENTRY + _CHECKSUM
        if not self._placement.index_first and self._source.policy.suffix:
            paths = [self._files.path(self._name(unit)) for unit in unknown]
            with contextlib.suppress(NotFoundError):  # found out below, for each of them
                tails = [ByteRange(path, -length, length) for path in paths]
                fetched = self._source.fetch(tails)
                for unit, path, data in zip(unknown, paths, fetched, strict=True):
                    indexes[unit] = self._keep(unit, data, None, path)
                return indexes
        names = [self._name(unit) for unit in unknown]
        wanted: list[tuple[ChunkKey, int, ByteRange]] = []
        for unit, name, size in zip(unknown, names, self._sizes(names), strict=True):
            if size is None:
                continue
            path = self._files.path(name)
            if size < length:
                msg = f"a shard of {size} bytes is too short for an index of {length} bytes"
                raise CorruptDataError(msg, url=path)
            start = 0 if self._placement.index_first else size - length
            wanted.append((unit, size, ByteRange(path, start, length)))
        found = self._source.fetch([item[2] for item in wanted]) if wanted else []
        for (unit, size, where), data in zip(wanted, found, strict=True):
            indexes[unit] = self._keep(unit, data, size, where.source)
        return indexes

    def _keep(self, unit: ChunkKey, data: Buffer, size: int | None, path: str) -> Index:
        index = parse_index(data, size, first=self._placement.index_first, url=path)
        if self._keeps:
            SHARD_INDEXES.put(self._owner, unit, index)
        return index

    def stored_units(self) -> int:
        """Number of units of which the objects are there."""
        units = iter(np.ndindex(*self._units))
        found = 0
        while batch := list(itertools.islice(units, _BATCH)):
            sizes = self._sizes([self._name(unit) for unit in batch])
            found += sum(size is not None for size in sizes)
        return found

    def write(self, unit: ChunkKey, chunks: Sequence[Buffer | None]) -> None:
        """Write one whole unit; remove it if there is no chunk in it.

        Raises
        ------
        SelectionError
            If `unit` lies outside the grid of units.
        InvalidInputError
            If there are more or fewer chunks than the unit has room for.
        """
        self._check(unit, self._units)
        expected = 1 if self._ratio is None else math.prod(self._ratio)
        if len(chunks) != expected:
            msg = f"{len(chunks)} encoded chunks for a unit of {expected}"
            raise InvalidInputError(msg, node=self._path)
        name = self._name(unit)
        present = [chunk for chunk in chunks if chunk is not None]
        if not present:
            self._files.remove(name)
        elif self._ratio is None:
            self._files.put(name, present)
        else:
            parts = shard_parts(chunks, index_first=self._placement.index_first)
            self._files.put(name, parts)

    def _sizes(self, names: Sequence[str]) -> list[int | None]:
        return self._files.sizes(names, self._path, math.prod(self._units)) if names else []

    def _name(self, unit: ChunkKey) -> str:
        return self._prefix + self._placement.key(unit)

    def _check(self, key: ChunkKey, grid: tuple[int, ...]) -> None:
        if not _lies_in(key, grid):
            msg = f"chunk {key} does not lie in a grid of {grid} chunks"
            raise SelectionError(msg, node=self._path)


class _Search:
    """Chunks that are looked for in shards.

    Parameters
    ----------
    keys : sequence of tuple of int
        The chunks.
    numbers : sequence of int
        Of each in its shard.
    members : dict
        Places in `keys` of the chunks of each shard.

    Attributes
    ----------
    found : list of ChunkRef or None
        Where they are; None for what is missing or not located yet.
    located : set of tuple of int
        Shards whose chunks are.
    """

    def __init__(
        self,
        keys: Sequence[ChunkKey],
        numbers: Sequence[int],
        members: dict[ChunkKey, list[int]],
    ) -> None:
        self.members = members
        self.found: list[ChunkRef | None] = [None] * len(keys)
        self.located: set[ChunkKey] = set()
        self._keys = keys
        self._numbers = numbers

    def locate(self, unit: ChunkKey, path: str, index: Index | None) -> None:
        """Note where the chunks of a shard lie by its index; None where there is no shard."""
        self.located.add(unit)
        if index is None:
            return
        places = self.members[unit]
        entries = index[list(map(self._numbers.__getitem__, places))].tolist()
        for place, entry in zip(places, entries, strict=True):
            if entry != _NOWHERE:
                self.found[place] = ChunkRef(ByteRange(path, *entry))

    def within(self, unit: ChunkKey, shard: Buffer) -> list[tuple[ChunkKey, ChunkRef, Buffer]]:
        """Chunks of a located shard that lie within its first bytes."""
        view = memoryview(shard)
        chunks: list[tuple[ChunkKey, ChunkRef, Buffer]] = []
        for place in self.members[unit]:
            ref = self.found[place]
            if ref is not None and (end := ref.range.offset + ref.range.length) <= len(view):
                chunks.append((self._keys[place], ref, view[ref.range.offset : end]))
        return chunks


def _divided(keys: Sequence[ChunkKey], ratio: tuple[int, ...]) -> tuple[list[ChunkKey], list[int]]:
    """Shard of each chunk, and its number in there; each place along an axis is divided once."""
    units, inner, step = [], [], math.prod(ratio)
    for column, r in zip(zip(*keys, strict=True), ratio, strict=True):
        step //= r
        places = set(column)
        units.append(map({k: k // r for k in places}.__getitem__, column))
        inner.append(map({k: k % r * step for k in places}.__getitem__, column))
    return list(zip(*units, strict=True)), list(map(sum, zip(*inner, strict=True)))


def _lie_in(keys: Sequence[ChunkKey], grid: tuple[int, ...]) -> bool:
    """Return whether all keys lie in a grid; axis by axis, which is faster for many of them."""
    if not grid or set(map(len, keys)) != {len(grid)}:
        return not keys
    columns = zip(zip(*keys, strict=True), grid, strict=True)
    return False not in [min(column) >= 0 and max(column) < n for column, n in columns]


def _lies_in(key: ChunkKey, grid: tuple[int, ...]) -> bool:
    return len(key) == len(grid) and all(0 <= k < n for k, n in zip(key, grid, strict=True))
