"""A store in memory: the reference that other stores are compared with, and scratch space.

Every array is one numpy array that is allocated when it is created, whatever its layout says; the
layout, the codecs and the fill value are kept as part of the spec.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from fmristore_stores.codecs.pipeline import supported
from fmristore_stores.errors import (
    AlreadyExistsError,
    ClosedError,
    CodecError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
    ReadOnlyError,
)
from fmristore_stores.grid import Region, parse_region
from fmristore_stores.protocol import AnyArray, Capability, Child
from fmristore_stores.spec import ArraySpec, Attributes, check_attributes, check_name, is_string

__all__ = ["MemoryArray", "MemoryGroup", "MemoryStore"]

_numbers = itertools.count(1)


@dataclass(slots=True)
class _ArrayNode:
    spec: ArraySpec
    values: AnyArray
    attributes: Attributes


@dataclass(slots=True)
class _GroupNode:
    attributes: Attributes = field(default_factory=dict)
    children: dict[str, _GroupNode | _ArrayNode] = field(default_factory=dict)


_Node = _GroupNode | _ArrayNode


@dataclass(slots=True)
class _Session:
    """One opening of a tree, shared by all handles that came from it."""

    url: str
    tree: _GroupNode = field(default_factory=_GroupNode)
    readonly: bool = False
    closed: bool = False

    def check_open(self) -> None:
        if self.closed:
            raise ClosedError("the store is closed", url=self.url)

    def check_writable(self) -> None:
        self.check_open()
        if self.readonly:
            raise ReadOnlyError("the store is open for reading only", url=self.url)


class MemoryStore:
    """A store whose groups and arrays live in this process.

    Parameters
    ----------
    url : str, optional
        A name for messages; one that no other store has is made up.

    Notes
    -----
    Not safe to write from several threads at once.

    Examples
    --------
    >>> import numpy as np
    >>> from fmristore_stores.spec import ArraySpec, ChunkLayout
    >>> with MemoryStore() as store:
    ...     spec = ArraySpec(shape=(4,), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(2,)))
    ...     array = store.root.create_array("0", spec)
    ...     array.write((slice(1, 3),), [7, 8])
    ...     array.read().tolist()
    [0, 7, 8, 0]
    """

    def __init__(self, url: str | None = None) -> None:
        self._session = _Session(url or f"memory-store:{next(_numbers)}")

    def view(self, *, readonly: bool = False) -> MemoryStore:
        """Open the same tree once more; works on a closed store too.

        Parameters
        ----------
        readonly : bool
            Whether the new store refuses to write.

        Returns
        -------
        MemoryStore
            A store with the same url and content that is closed on its own.
        """
        other = MemoryStore(self.url)
        other._session = replace(self._session, readonly=readonly, closed=False)
        return other

    @property
    def url(self) -> str:
        """Name of the store."""
        return self._session.url

    @property
    def token(self) -> str:
        """Nothing tells one version from another."""
        return ""

    @property
    def capabilities(self) -> Capability:
        """Layouts of every kind, hard links, and writing unless it is a read-only view."""
        return _capabilities(self._session)

    @property
    def root(self) -> MemoryGroup:
        """The group at the top of the tree."""
        self._session.check_open()
        return MemoryGroup(self._session, "", self._session.tree)

    @property
    def closed(self) -> bool:
        """True if `close` was called."""
        return self._session.closed

    def contradictions(self, nodes: Iterable[str]) -> list[tuple[str, str]]:  # noqa: ARG002
        """None: everything is kept once."""
        return []

    def close(self) -> None:
        """Refuse any further use; harmless when repeated."""
        self._session.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Handle:
    """Common base of groups and arrays: a place, and attributes."""

    def __init__(self, session: _Session, path: str, node: _Node) -> None:
        self._session = session
        self._path = path
        self._attributes_of = node

    @property
    def path(self) -> str:
        """Absolute path in the store, without a leading slash; empty for the root."""
        return self._path

    def read_attributes(self) -> Attributes:
        """All attributes, as plain JSON values that the caller may change.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        self._session.check_open()
        return copy.deepcopy(self._attributes_of.attributes)

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace all attributes by these.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If a name or value cannot be stored; nothing changes then.
        """
        self._session.check_writable()
        self._attributes_of.attributes = check_attributes(attributes)


class MemoryArray(_Handle):
    """An array of a `MemoryStore`."""

    def __init__(self, session: _Session, path: str, node: _ArrayNode) -> None:
        super().__init__(session, path, node)
        self._node = node

    @property
    def spec(self) -> ArraySpec:
        """Shape, dtype, axis names, layout and codecs, as given at creation."""
        return self._node.spec

    @property
    def capabilities(self) -> Capability:
        """Those of the store."""
        return _capabilities(self._session)

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Copy a region, ``None`` for everything.

        Parameters
        ----------
        region : Region, optional
            One slice per axis.
        out : ndarray, optional
            Receives the values; of the region's shape and the array's dtype.

        Returns
        -------
        ndarray
            `out` if given, else a new array.

        Raises
        ------
        ClosedError
            If the store is closed.
        SelectionError
            If the region does not fit the array.
        InvalidInputError
            If `out` has another shape or dtype.
        """
        self._session.check_open()
        part = self._part(region)
        if out is None:
            return part.copy()
        if out.shape != part.shape or out.dtype != part.dtype:
            msg = f"out is {out.dtype}{out.shape} where {part.dtype}{part.shape} is read"
            raise InvalidInputError(msg, url=self._session.url, node=self._path)
        out[...] = part
        return out

    def write(self, region: Region | None, values: Any) -> None:
        """Overwrite a region, ``None`` for everything.

        Parameters
        ----------
        region : Region, optional
            One slice per axis.
        values : array-like
            Broadcastable to the region's shape; converted to the array's dtype as by numpy.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        SelectionError
            If the region does not fit the array.
        InvalidInputError
            If the values cannot be converted or broadcast; nothing changes then.
        """
        self._session.check_writable()
        part = self._part(region)
        try:
            converted = np.asarray(values).astype(part.dtype)
            part[...] = np.broadcast_to(converted, part.shape)
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"the values do not fit a region of {part.dtype}{part.shape}: {error}"
            raise InvalidInputError(msg, url=self._session.url, node=self._path) from error

    def _part(self, region: Region | None) -> AnyArray:
        """The region as a view, an array even if it has no axes."""
        parsed = parse_region(region, self.spec.shape)
        index: tuple[Any, ...] = (*parsed, ...)
        part: AnyArray = self._node.values[index]
        return part


class MemoryGroup(_Handle):
    """A group of a `MemoryStore`."""

    def __init__(self, session: _Session, path: str, node: _GroupNode) -> None:
        super().__init__(session, path, node)
        self._node = node

    def view_attributes(self) -> Attributes:
        """All attributes; a copy, as of `read_attributes`, which raises the same."""
        return self.read_attributes()

    def children(self, *, tolerant: bool = False) -> dict[str, Child]:  # noqa: ARG002
        """Names and kinds of the direct children, sorted by name.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        self._session.check_open()
        return {
            name: Child("group" if isinstance(node, _GroupNode) else "array")
            for name, node in sorted(self._node.children.items())
        }

    def has(self, name: str) -> bool:
        """Return whether there is a direct child of that name.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        self._session.check_open()
        return name in self._node.children

    def group(self, path: str) -> MemoryGroup:
        """Open a group below this one.

        Raises
        ------
        ClosedError
            If the store is closed.
        NotFoundError
            If there is no group at `path`.
        """
        self._session.check_open()
        node = _find(self._node, path)
        if not isinstance(node, _GroupNode):
            raise NotFoundError(
                "there is no such group", url=self._session.url, node=self._at(path)
            )
        return MemoryGroup(self._session, self._at(path), node)

    def array(self, path: str) -> MemoryArray:
        """Open an array below this one.

        Raises
        ------
        ClosedError
            If the store is closed.
        NotFoundError
            If there is no array at `path`.
        """
        self._session.check_open()
        node = _find(self._node, path)
        if not isinstance(node, _ArrayNode):
            raise NotFoundError(
                "there is no such array", url=self._session.url, node=self._at(path)
            )
        return MemoryArray(self._session, self._at(path), node)

    def create_group(self, name: str, attributes: Mapping[str, Any] | None = None) -> MemoryGroup:
        """Make a direct child group.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If the name or an attribute cannot be stored.
        AlreadyExistsError
            If there is a child of that name.
        """
        self._check_new(name)
        node = _GroupNode(check_attributes(attributes or {}))
        self._node.children[name] = node
        return MemoryGroup(self._session, self._at(name), node)

    def create_array(
        self, name: str, spec: ArraySpec, attributes: Mapping[str, Any] | None = None
    ) -> MemoryArray:
        """Make a direct child array of exactly this spec; all of it reads as the fill value.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If the name or an attribute cannot be stored.
        AlreadyExistsError
            If there is a child of that name.
        LayoutNotSupportedError
            If a chunk is longer than its axis, text has an order of its own inside chunks, or
            the array does not fit into memory.
        CodecError
            If a codec is not known.
        """
        self._check_new(name)
        node = _ArrayNode(spec, _allocate(spec), check_attributes(attributes or {}))
        self._node.children[name] = node
        return MemoryArray(self._session, self._at(name), node)

    def remove(self, name: str) -> None:
        """Delete a direct child; what has a second name elsewhere stays there.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        NotFoundError
            If there is no child of that name.
        """
        self._session.check_writable()
        if self._node.children.pop(name, None) is None:
            raise NotFoundError("there is no such node", url=self._session.url, node=self._at(name))

    def link(self, name: str, target: str) -> None:
        """Make `name` a second name of the node at absolute path `target`.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If the name cannot be stored, or the group would contain itself.
        AlreadyExistsError
            If there is a child of that name.
        NotFoundError
            If there is nothing at `target`.
        """
        self._check_new(name)
        node = _find(self._session.tree, target)
        if node is None:
            raise NotFoundError("there is no such node", url=self._session.url, node=target)
        if any(below is self._node for below in _walk(node)):
            msg = f"a link to {target!r} from inside it would make a cycle"
            raise InvalidInputError(msg, url=self._session.url, node=self._at(name))
        self._node.children[name] = node

    def _at(self, path: str) -> str:
        return f"{self._path}/{path}" if self._path else path

    def _check_new(self, name: str) -> None:
        self._session.check_writable()
        check_name(name)
        if name in self._node.children:
            raise AlreadyExistsError(
                "there is a node of that name", url=self._session.url, node=self._at(name)
            )


def _capabilities(session: _Session) -> Capability:
    """Every kind of layout, hard links, and writing unless it is a read-only view."""
    kept = Capability.CHUNK_ORDER | Capability.SHARDS | Capability.HARD_LINKS
    return kept if session.readonly else kept | Capability.WRITE


def _find(node: _Node, path: str) -> _Node | None:
    """Follow the segments of a path, ``None`` if it leads nowhere."""
    for name in path.split("/"):
        if not isinstance(node, _GroupNode) or name not in node.children:
            return None
        node = node.children[name]
    return node


def _walk(node: _Node) -> Iterator[_Node]:
    """The node and everything below it."""
    yield node
    if isinstance(node, _GroupNode):
        for child in node.children.values():
            yield from _walk(child)


def _allocate(spec: ArraySpec) -> AnyArray:
    """An array full of the spec's fill value, or the reason why there is none."""
    if any(c > max(n, 1) for c, n in zip(spec.layout.chunks, spec.shape, strict=True)):
        msg = f"chunk shape {spec.layout.chunks} does not fit into an array of shape {spec.shape}"
        raise LayoutNotSupportedError(msg)
    if is_string(spec.dtype) and spec.layout.order:
        raise LayoutNotSupportedError("text is stored in the order of its axes only")
    if not supported(spec.codecs):
        msg = f"one of the codecs {', '.join(map(str, spec.codecs))} is not known"
        raise CodecError(msg)
    try:
        return np.full(spec.shape, spec.fill, spec.dtype)
    except (MemoryError, ValueError) as error:
        msg = f"an array of shape {spec.shape} and dtype {spec.dtype} does not fit into memory"
        raise LayoutNotSupportedError(msg) from error
