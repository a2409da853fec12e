"""The chunked-store interface: what a store, a group and an array can do.

A store is a tree of groups and arrays with attributes, opened from a URL. The seam is the array
region, because HDF5 has no keys. An array that can say where its encoded chunks lie carries the
flag `Capability.CHUNK_REFS` and then also has the methods of `ChunkRefs`; likewise `RAW_WRITE` and
`RawWrite`. Flags are facts that a caller may rely on; nobody probes with ``hasattr`` or
``isinstance``, or compares names of stores.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from fmristore_stores.grid import ChunkKey, Region
from fmristore_stores.io.lifetime import Reading
from fmristore_stores.spec import ArraySpec, Attributes

__all__ = [
    "Along",
    "AnyArray",
    "Array",
    "Buffer",
    "ByteRange",
    "Capability",
    "Child",
    "ChunkRef",
    "ChunkRefs",
    "FetchPolicy",
    "Group",
    "Growing",
    "InPlace",
    "LocalBytes",
    "RawWrite",
    "Room",
    "Store",
    "TypedAttribute",
    "TypedAttributes",
]


AnyArray = np.ndarray[Any, np.dtype[Any]]
"""A numpy array of any shape and dtype."""

Buffer = bytes | memoryview
"""Bytes that need not be copied to be used."""
Room = bytearray | memoryview
"""Memory that bytes are read into."""


class Capability(enum.Flag):
    """Positive facts about a store (what its arrays may have) or an array (what it has)."""

    NONE = 0
    WRITE = enum.auto()
    """Opened for writing."""
    CHUNK_REFS = enum.auto()
    """Encoded chunks can be located and fetched: see `ChunkRefs`."""
    RAW_WRITE = enum.auto()
    """Encoded chunks can be written: see `RawWrite`."""
    SHARDS = enum.auto()
    """``layout.shards`` is honoured."""
    CHUNK_ORDER = enum.auto()
    """``layout.order`` is honoured; without it a caller permutes the axes of the array instead."""
    HARD_LINKS = enum.auto()
    """`Group.link` works."""
    TYPED_ATTRIBUTES = enum.auto()
    """Attributes have types that JSON lacks: groups and arrays have `TypedAttributes`."""
    GROWTH = enum.auto()
    """The first axis can be lengthened while others read: see `Growing`."""


class Child(NamedTuple):
    """An entry of a group."""

    kind: Literal["group", "array", "link", "unreadable"]
    target: str = ""
    """For a link, the absolute path of what it leads to, without a leading slash."""


class ByteRange(NamedTuple):
    """A run of bytes in a file or object."""

    source: str
    """Path or URL, meaningful to the array that handed it out."""
    offset: int
    """Negative for the last bytes of an object, where the policy allows it."""
    length: int


class ChunkRef(NamedTuple):
    """Place of the encoded bytes of one chunk."""

    range: ByteRange
    skip: int = 0
    """Bit k set: step k of the array's codecs was not applied to this chunk."""


class FetchPolicy(NamedTuple):
    """Way of asking for many byte ranges of one array."""

    gap: int
    """Merge neighbouring ranges that are at most this many bytes apart; -1 never merges."""
    block: int
    """Never merge into a range longer than this many bytes."""
    concurrent: bool
    """True where one `fetch` of many ranges runs them concurrently by itself (object storage);
    False where `fetch` is a plain call that worker threads may make in parallel (local disk)."""
    suffix: bool = False
    """True where the last bytes of an object can be asked for without knowing its size."""


Along = Callable[[Sequence[tuple[ChunkKey, ChunkRef, Buffer]]], object]
"""Takes the keys, places and encoded bytes of some chunks, in any thread."""


class TypedAttribute(NamedTuple):
    """An attribute of which a JSON value does not say all."""

    content: Any
    """Content that another store of the same kind takes; None if it cannot be taken over."""
    value: Any
    """The JSON value; None also where there is none."""
    reason: str
    """Reason why there is no JSON value; empty if there is one."""
    what: str
    """Detail that a store without types would lose; empty if that is no more than a width."""


class TypedAttributes(Protocol):
    """A group or array whose attributes have types."""

    def readable_attributes(self) -> Attributes:
        """All attributes that have a JSON value."""

    def read_typed(self) -> dict[str, TypedAttribute]:
        """Attributes of which a JSON value does not say all, by name."""

    def write_typed(self, attributes: Mapping[str, TypedAttribute]) -> None:
        """Write attributes that another node gave, besides those that there are."""


class Array(Protocol):
    """An N-dimensional array of values or text."""

    @property
    def path(self) -> str:
        """Absolute path in the store, without a leading slash."""

    @property
    def spec(self) -> ArraySpec:
        """Shape, dtype, axis names, layout and codecs."""

    @property
    def capabilities(self) -> Capability:
        """Facts about this very array."""

    def read_attributes(self) -> Attributes:
        """All attributes, as plain JSON values."""

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace all attributes by these."""

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Read a region through the underlying library, ``None`` for everything.

        `out`, if given, has the region's shape and the array's dtype, and is returned.
        """

    def write(self, region: Region | None, values: Any) -> None:
        """Write values (broadcastable to the region's shape) through the underlying library."""


class ChunkRefs(Array, Protocol):
    """An array whose encoded chunks can be located and fetched."""

    @property
    def policy(self) -> FetchPolicy:
        """Best way of asking for its byte ranges."""

    def reading(self) -> Reading:
        """Context of one read by `refs` and `fetch`, of one or many chunks.

        The store stays open until it ends. It raises `ClosedError` on entering if the store is
        closed, and `ChangedError` on leaving if what was read may not be all of the store that was
        opened, also in place of damage that this would explain.
        """

    def refs(self, keys: Sequence[ChunkKey], along: Along | None = None) -> list[ChunkRef | None]:
        """Locate chunks; ``None`` for one that was never written (it reads as the fill value).

        Parameters
        ----------
        keys : sequence of tuple of int
            Chunks.
        along : callable, optional
            Says that they are to be fetched as well, and takes those that came along with what
            tells their places, as soon as they are here. A hint, as `into` of `fetch` is.
        """

    def stored(self) -> AnyArray | None:
        """Chunks that are there, found without asking for each that might be.

        Returns
        -------
        ndarray of int64 or None
            Numbers of chunks in their grid, last axis fastest, sorted; None where that cannot be
            listed. A chunk that is reached through links may be left out.
        """

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        """Bytes of each range, in order; every result has exactly the length asked for.

        Parameters
        ----------
        ranges : sequence of ByteRange
            What is wanted.
        into : sequence of ndarray of uint8 or None, optional
            Memory for each range, as long as it, where the bytes may be put; what is put there is
            the result. A hint: the bytes may come elsewhere all the same.

        Raises
        ------
        CorruptDataError
            If a range lies beyond the end of its file, or the server returned another length.
        StorageError
            If the disk or the service failed.
        """


class LocalBytes(Protocol):
    """An open local file, of which bytes are read in as few steps as can be."""

    def peek(self, offset: int, room: Room, chunks: int = 1) -> bool:
        """Read some bytes, which count as a read of each chunk that they are of.

        Parameters
        ----------
        offset : int
            Where they begin in the file.
        room : bytearray or memoryview
            Memory for all that is wanted.
        chunks : int
            How many chunks they are of.

        Returns
        -------
        bool
            False where that fails, or the file is not what was opened any more: reading through
            `ChunkRefs` says why.
        """

    def peek_many(self, offsets: Sequence[int], length: int, chunks: int) -> list[bytes] | None:
        """Read bytes of one length from many places in some chunks, as `peek`; None for False."""


@runtime_checkable
class InPlace(Protocol):
    """An array whose chunks may lie unencoded in one local file."""

    def places(self) -> tuple[LocalBytes, memoryview] | None:
        """The file, and where each chunk begins in it by its number, last axis of the grid fastest.

        None unless it is known that all chunks lie there unencoded.
        """


class RawWrite(Array, Protocol):
    """An array that accepts encoded chunks."""

    def write_encoded(self, unit: ChunkKey, chunks: Sequence[Buffer | None]) -> None:
        """Write one whole unit (a shard, or a chunk where there are no shards).

        Parameters
        ----------
        unit : ChunkKey
            Position in the grid of ``spec.layout.units``.
        chunks : sequence of bytes or None
            Encoded chunks of the unit, last axis fastest: one where there are no shards. A shard
            at the array's edge has entries for all of its chunks; those outside the array, and
            those that shall read as the fill value, are ``None``.
        """


class Growing(RawWrite, Protocol):
    """An array whose first axis can be lengthened while others read it."""

    def longer(self, length: int) -> AbstractContextManager[RawWrite]:
        """Context in which the array has more along its first axis, and may be written there.

        Readers see the longer array when the block has ended, and nothing of it if that raises or
        the process is killed: what was written is in the files before the shape is.

        Parameters
        ----------
        length : int
            Of the first axis; not less than it has, and whole units of what it has are full.

        Raises
        ------
        InvalidInputError
            If the last unit along the first axis is not full, or the array would be shorter.
        """


class Group(Protocol):
    """A node with children and attributes."""

    @property
    def path(self) -> str:
        """Absolute path in the store, without a leading slash; empty for the root."""

    def read_attributes(self) -> Attributes:
        """All attributes, as plain JSON values."""

    def view_attributes(self) -> Mapping[str, Any]:
        """All attributes, not to be changed; each may be decoded when it is asked for.

        They are those of now, and one that has no JSON counterpart raises `MetadataError` here or
        when it is asked for.
        """

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace all attributes by these."""

    def children(self, *, tolerant: bool = False) -> dict[str, Child]:
        """Names and kinds of the direct children, sorted by name.

        If `tolerant`, a child whose metadata are damaged is listed as ``"unreadable"`` where a
        store can do that; opening it raises. Otherwise it makes the whole listing fail.
        """

    def has(self, name: str) -> bool:
        """Return whether there is a direct child of that name, without reading its metadata.

        So one that is damaged is there. False for what cannot be a name.
        """

    def group(self, path: str) -> Group:
        """Open a group below this one; `path` may have several segments."""

    def array(self, path: str) -> Array:
        """Open an array below this one; `path` may have several segments."""

    def create_group(self, name: str, attributes: Mapping[str, Any] | None = None) -> Group:
        """Make a direct child group."""

    def create_array(
        self, name: str, spec: ArraySpec, attributes: Mapping[str, Any] | None = None
    ) -> Array:
        """Make a direct child array of exactly this spec, or refuse it.

        Raises
        ------
        LayoutNotSupportedError
            If the store cannot hold the spec as it stands.
        AlreadyExistsError
            If there is a child of that name.
        """

    def remove(self, name: str) -> None:
        """Delete a direct child with everything below it."""

    def link(self, name: str, target: str) -> None:
        """Make `name` a second name of the node at absolute path `target`."""


class Store(Protocol):
    """An opened store."""

    @property
    def url(self) -> str:
        """Path or URL."""

    @property
    def token(self) -> str:
        """Version of what is open, as of a local file; empty where nothing tells it."""

    @property
    def capabilities(self) -> Capability:
        """Facts that may hold for arrays of this store."""

    @property
    def root(self) -> Group:
        """The group at the top of the tree."""

    @property
    def closed(self) -> bool:
        """True if `close` was called."""

    def contradictions(self, nodes: Iterable[str]) -> list[tuple[str, str]]:
        """Nodes of which the store keeps metadata twice, and not alike; and what differs.

        `nodes` are the paths of all nodes that are known to exist.
        """

    def close(self) -> None:
        """Flush and release everything; harmless when repeated."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
