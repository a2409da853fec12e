"""Stores around stores: read-only, counting and slow ones, that pass the same suite.

Each wrapper forwards everything to the store inside and changes only what it is for. Closing a
wrapper closes the store inside.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Protocol, Self, cast

from fmristore_stores.errors import (
    ClosedError,
    InvalidInputError,
    LayoutNotSupportedError,
    ReadOnlyError,
)
from fmristore_stores.grid import ChunkKey, Region
from fmristore_stores.io.lifetime import Reading
from fmristore_stores.protocol import (
    Along,
    AnyArray,
    Array,
    Buffer,
    ByteRange,
    Capability,
    Child,
    ChunkRef,
    ChunkRefs,
    FetchPolicy,
    Group,
    Growing,
    RawWrite,
    Store,
    TypedAttribute,
    TypedAttributes,
)
from fmristore_stores.spec import ArraySpec, Attributes

__all__ = ["CountingStore", "Counts", "LatencyStore", "ReadOnlyStore", "StoreCounts"]


# Forwarding ----------------------------------------------------------------------------------


class _FullArray(ChunkRefs, Growing, Protocol):
    """An array with everything; which of it may be used is said by its capabilities."""


class _Typed:
    """Forwards what is said of types of attributes."""

    def __init__(self, owner: _Wrapper, node: Array | Group) -> None:
        self._before_change = owner.before_change
        self._typed = cast(TypedAttributes, node)
        self._where = node.path

    def readable_attributes(self) -> Attributes:
        return self._typed.readable_attributes()

    def read_typed(self) -> dict[str, TypedAttribute]:
        return self._typed.read_typed()

    def write_typed(self, attributes: Mapping[str, TypedAttribute]) -> None:
        self._before_change(self._where)
        self._typed.write_typed(attributes)


class _Array(_Typed):
    """Forwards to an array of the store inside."""

    def __init__(self, owner: _Wrapper, inner: Array) -> None:
        self._owner = owner
        super().__init__(owner, inner)
        self._inner = cast(_FullArray, inner)

    @property
    def path(self) -> str:
        return self._inner.path

    @property
    def spec(self) -> ArraySpec:
        return self._inner.spec

    @property
    def capabilities(self) -> Capability:
        return self._inner.capabilities & ~self._owner.withheld

    @property
    def policy(self) -> FetchPolicy:
        self._need(Capability.CHUNK_REFS)
        return self._inner.policy

    def read_attributes(self) -> Attributes:
        return self._inner.read_attributes()

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._owner.before_change(self.path)
        self._inner.write_attributes(attributes)

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        return self._inner.read(region, out)

    def write(self, region: Region | None, values: Any) -> None:
        self._owner.before_change(self.path)
        self._inner.write(region, values)

    def reading(self) -> Reading:
        return self._inner.reading()

    def refs(self, keys: Sequence[ChunkKey], along: Along | None = None) -> list[ChunkRef | None]:
        self._need(Capability.CHUNK_REFS)
        return self._inner.refs(keys, along)

    def stored(self) -> AnyArray | None:
        self._need(Capability.CHUNK_REFS)
        found: AnyArray | None = self._inner.stored()
        return found

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        self._need(Capability.CHUNK_REFS)
        return self._inner.fetch(ranges, into)

    def write_encoded(self, unit: ChunkKey, chunks: Sequence[Buffer | None]) -> None:
        self._owner.before_change(self.path)
        self._need(Capability.RAW_WRITE)
        self._inner.write_encoded(unit, chunks)

    @contextlib.contextmanager
    def longer(self, length: int) -> Iterator[RawWrite]:
        self._owner.before_change(self.path)
        self._need(Capability.GROWTH)
        with self._inner.longer(length) as array:
            yield type(self)(self._owner, array)

    def _need(self, capability: Capability) -> None:
        if capability not in self._inner.capabilities:
            msg = f"this array does not have {capability.name}"
            raise LayoutNotSupportedError(msg, url=self._owner.url, node=self.path)


class _Group(_Typed):
    """Forwards to a group of the store inside, and wraps what comes out of it."""

    def __init__(self, owner: _Wrapper, inner: Group) -> None:
        self._owner = owner
        super().__init__(owner, inner)
        self._inner = inner

    @property
    def path(self) -> str:
        return self._inner.path

    def read_attributes(self) -> Attributes:
        return self._inner.read_attributes()

    def view_attributes(self) -> Mapping[str, Any]:
        return self._inner.view_attributes()

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        self._owner.before_change(self.path)
        self._inner.write_attributes(attributes)

    def children(self, *, tolerant: bool = False) -> dict[str, Child]:
        return self._inner.children(tolerant=tolerant)

    def has(self, name: str) -> bool:
        return self._inner.has(name)

    def group(self, path: str) -> Group:
        return _Group(self._owner, self._inner.group(path))

    def array(self, path: str) -> Array:
        return self._owner.array_type(self._owner, self._inner.array(path))

    def create_group(self, name: str, attributes: Mapping[str, Any] | None = None) -> Group:
        self._owner.before_change(self.path)
        return _Group(self._owner, self._inner.create_group(name, attributes))

    def create_array(
        self, name: str, spec: ArraySpec, attributes: Mapping[str, Any] | None = None
    ) -> Array:
        self._owner.before_change(self.path)
        return self._owner.array_type(self._owner, self._inner.create_array(name, spec, attributes))

    def remove(self, name: str) -> None:
        self._owner.before_change(self.path)
        self._inner.remove(name)

    def link(self, name: str, target: str) -> None:
        self._owner.before_change(self.path)
        self._inner.link(name, target)


class _Wrapper:
    """Forwards to the store inside; a wrapper names what differs."""

    array_type: ClassVar[type[_Array]] = _Array
    withheld: ClassVar[Capability] = Capability.NONE

    def __init__(self, store: Store) -> None:
        self._inner = store

    def before_change(self, path: str) -> None:
        """Called first by every verb that changes the node at `path`."""

    @property
    def url(self) -> str:
        """Path or URL of the store inside."""
        return self._inner.url

    @property
    def token(self) -> str:
        """Version of the store inside."""
        return self._inner.token

    @property
    def capabilities(self) -> Capability:
        """Those of the store inside, less what the wrapper withholds."""
        return self._inner.capabilities & ~self.withheld

    @property
    def root(self) -> Group:
        """The group at the top of the tree."""
        return _Group(self, self._inner.root)

    @property
    def closed(self) -> bool:
        """True if the store inside is closed."""
        return self._inner.closed

    def contradictions(self, nodes: Iterable[str]) -> list[tuple[str, str]]:
        """Those of the store inside."""
        return self._inner.contradictions(nodes)

    def close(self) -> None:
        """Close the store inside."""
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# Read-only -----------------------------------------------------------------------------------


class ReadOnlyStore(_Wrapper):
    """A store that cannot be changed through this object.

    Every verb that writes raises `ReadOnlyError`; the capabilities lack ``WRITE`` and
    ``RAW_WRITE``.

    Parameters
    ----------
    store : Store
        The store inside, open in any mode.
    """

    withheld = Capability.WRITE | Capability.RAW_WRITE | Capability.GROWTH

    def before_change(self, path: str) -> None:
        """Refuse to change the node at `path`.

        Raises
        ------
        ClosedError, ReadOnlyError
            Always one of them.
        """
        if self.closed:
            raise ClosedError("the store is closed", url=self.url, node=path)
        raise ReadOnlyError("the store is wrapped for reading only", url=self.url, node=path)


# Counting ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of calls on an array, or on all arrays of a store.

    Parameters
    ----------
    reads, writes : int
        Calls of ``read`` and ``write``, which go through the underlying library.
    refs : int
        Chunks asked for in calls of ``refs``.
    ranges, bytes_fetched : int
        Byte ranges and bytes fetched.
    chunks_fetched : int
        Distinct chunk references handed out of which at least one byte was fetched later.
    chunks_written, bytes_written : int
        Encoded chunks and their bytes written by ``write_encoded``.
    """

    reads: int = 0
    writes: int = 0
    refs: int = 0
    ranges: int = 0
    bytes_fetched: int = 0
    chunks_fetched: int = 0
    chunks_written: int = 0
    bytes_written: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Counts of a store at one moment.

    Parameters
    ----------
    arrays : mapping of str to Counts
        By path; arrays of which nothing was asked are left out.
    """

    arrays: Mapping[str, Counts]

    @property
    def total(self) -> Counts:
        """Sum over all arrays."""
        return sum(self.arrays.values(), Counts())

    def __getitem__(self, path: str) -> Counts:
        return self.arrays.get(path, Counts())


@dataclass(slots=True)
class _Tally:
    """Running counts of one array."""

    counts: Counts = field(default_factory=Counts)
    handed_out: set[ByteRange] = field(default_factory=set)
    touched: set[ByteRange] = field(default_factory=set)

    def touch(self, fetched: ByteRange) -> None:
        """Note which of the chunks handed out a fetched range overlaps."""
        if fetched in self.handed_out:
            self.touched.add(fetched)
            return
        end = fetched.offset + fetched.length
        self.touched.update(
            chunk
            for chunk in self.handed_out
            if chunk.source == fetched.source
            and chunk.offset < end
            and fetched.offset < chunk.offset + chunk.length
        )


class _CountingArray(_Array):
    _owner: CountingStore

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        self._owner.tally(self.path, Counts(reads=1))
        return super().read(region, out)

    def write(self, region: Region | None, values: Any) -> None:
        self._owner.tally(self.path, Counts(writes=1))
        super().write(region, values)

    def refs(self, keys: Sequence[ChunkKey], along: Along | None = None) -> list[ChunkRef | None]:
        came: list[ByteRange] = []

        def counted(chunks: Sequence[tuple[ChunkKey, ChunkRef, Buffer]]) -> None:
            came.extend(ref.range for _, ref, _ in chunks)
            if along is not None:
                along(chunks)

        found = super().refs(keys, None if along is None else counted)
        handed_out = [ref.range for ref in found if ref is not None]
        counts = Counts(
            refs=len(keys),
            ranges=len({item.source for item in came}),
            bytes_fetched=sum(item.length for item in came),
        )
        self._owner.tally(self.path, counts, handed_out=handed_out, fetched=came)
        return found

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        fetched = super().fetch(ranges, into)
        size = sum(item.length for item in ranges)
        self._owner.tally(self.path, Counts(ranges=len(ranges), bytes_fetched=size), fetched=ranges)
        return fetched

    def write_encoded(self, unit: ChunkKey, chunks: Sequence[Buffer | None]) -> None:
        super().write_encoded(unit, chunks)
        sizes = [memoryview(chunk).nbytes for chunk in chunks if chunk is not None]
        self._owner.tally(self.path, Counts(chunks_written=len(sizes), bytes_written=sum(sizes)))


class CountingStore(_Wrapper):
    """A store that counts what is asked of its arrays, in any number of threads.

    Parameters
    ----------
    store : Store
        The store inside.
    """

    array_type = _CountingArray

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}

    @property
    def counts(self) -> StoreCounts:
        """A snapshot of the counts since the start or the last `reset`."""
        with self._lock:
            return StoreCounts(
                MappingProxyType({path: t.counts for path, t in self._tallies.items()})
            )

    def reset(self) -> None:
        """Start again from zero, and forget which chunk references were handed out."""
        with self._lock:
            self._tallies.clear()

    def tally(
        self,
        path: str,
        counts: Counts,
        *,
        handed_out: Sequence[ByteRange] = (),
        fetched: Sequence[ByteRange] = (),
    ) -> None:
        """Add to the counts of the array at `path`."""
        with self._lock:
            tally = self._tallies.setdefault(path, _Tally())
            tally.handed_out.update(handed_out)
            before = len(tally.touched)
            for item in fetched:
                tally.touch(item)
            new = Counts(chunks_fetched=len(tally.touched) - before)
            tally.counts = tally.counts + counts + new


# Latency -------------------------------------------------------------------------------------


class _SlowArray(_Array):
    _owner: LatencyStore

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        self._owner.sleep()
        return super().read(region, out)

    def write(self, region: Region | None, values: Any) -> None:
        self._owner.sleep()
        super().write(region, values)

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        self._owner.sleep()
        return super().fetch(ranges, into)

    def write_encoded(self, unit: ChunkKey, chunks: Sequence[Buffer | None]) -> None:
        self._owner.sleep()
        super().write_encoded(unit, chunks)


class LatencyStore(_Wrapper):
    """A store that waits before each call that moves data, as a distant one would.

    Parameters
    ----------
    store : Store
        The store inside.
    seconds : float
        Time (s) to sleep before each ``read``, ``write``, ``fetch`` and ``write_encoded``.

    Raises
    ------
    InvalidInputError
        If `seconds` is negative or not finite.
    """

    array_type = _SlowArray

    def __init__(self, store: Store, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            msg = f"a latency of {seconds} seconds is not possible"
            raise InvalidInputError(msg)
        super().__init__(store)
        self._seconds = seconds

    def sleep(self) -> None:
        """Wait once."""
        time.sleep(self._seconds)
