"""Reference files as stores: arrays whose chunks lie in other files, read in place.

Made by `fmristore.virtualize` or by kerchunk; see `reference_document` for what they hold. They are
read without zarr-python and without fsspec's reference filesystem, because they are not trusted:
nothing in them is run, and only files beside them are opened.

Store, groups and arrays are whole here, which makes the module long.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import (
    ClosedError,
    CodecError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
    ReadOnlyError,
)
from fmristore_stores.grid import ChunkKey, Region, overlaps, parse_region, region_shape
from fmristore_stores.io.lifetime import Lifetime, Reading
from fmristore_stores.io.ranges import batches, merge_ranges, span_of
from fmristore_stores.protocol import (
    AnyArray,
    Buffer,
    ByteRange,
    Capability,
    Child,
    ChunkRef,
    FetchPolicy,
)
from fmristore_stores.reference.document import Document, parse
from fmristore_stores.reference.index import INLINE, WHOLE, ChunkTable
from fmristore_stores.reference.metadata import DIMENSIONS, as_text, parse_array, unpack_text
from fmristore_stores.reference.targets import Targets
from fmristore_stores.spec import ArraySpec, Attributes, copy_attributes, is_string

__all__ = ["ReferenceArray", "ReferenceGroup", "ReferenceStore"]

_BATCH_BYTES = 64 * 1024 * 1024


class _Session:
    """One opened reference file, shared by all handles that came from it."""

    def __init__(self, url: str, document: Document, targets: Targets) -> None:
        self.url = url
        self.document = document
        self.targets = targets
        self.released = False
        self.lifetime = Lifetime(url, self)
        self.tables: dict[str, tuple[ChunkTable, bytes]] = {}
        self.lock = threading.Lock()

    def check_open(self) -> None:
        if self.released:
            raise ClosedError("the store is closed", url=self.url)

    def check(self) -> None:
        self.targets.check()

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.targets.close()

    def refuse(self, path: str) -> FmristoreError:
        self.check_open()
        msg = "a reference file is only read; change the file that it refers to"
        return ReadOnlyError(msg, url=self.url, node=path)


class ReferenceStore:
    """A reference file, opened for reading.

    Parameters
    ----------
    data : bytes
        All of it.
    url : str
        Where it lies, normalised: what it refers to may be relative to it.
    options : mapping, optional
        fsspec's storage options.
    targets : sequence of str
        URLs or paths of files or folders that it may refer to, besides those beside it.

    Raises
    ------
    UnknownFormatError
        If it is no reference file.
    MetadataError
        If it is damaged, or needs a program to be run to be read.

    Notes
    -----
    Nothing is requested here. The first read of an array unpacks its table of chunks.
    """

    def __init__(
        self,
        data: bytes,
        *,
        url: str,
        options: Mapping[str, Any] | None = None,
        targets: Sequence[str] = (),
    ) -> None:
        document = parse(data, url=url)
        reached = Targets(
            url, options or {}, allowed=targets, facts=document.facts, target=document.target
        )
        self._session = _Session(url, document, reached)

    @property
    def url(self) -> str:
        """Path or URL."""
        return self._session.url

    @property
    def token(self) -> str:
        """Nothing tells one version from another."""
        return ""

    @property
    def capabilities(self) -> Capability:
        """Encoded chunks can be located, also in Fortran order."""
        return Capability.CHUNK_REFS | Capability.CHUNK_ORDER

    @property
    def root(self) -> ReferenceGroup:
        """The group at the top of the tree.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        self._session.check_open()
        return ReferenceGroup(self._session, "")

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._session.lifetime.closed

    def contradictions(self, nodes: Iterable[str]) -> list[tuple[str, str]]:  # noqa: ARG002
        """None: all metadata are kept once."""
        return []

    def close(self) -> None:
        """Release everything; harmless when repeated."""
        self._session.lifetime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Node:
    """Common base of groups and arrays."""

    def __init__(self, session: _Session, path: str) -> None:
        self._session = session
        self._path = path

    @property
    def path(self) -> str:
        """Absolute path in the store, without a leading slash; empty for the root."""
        return self._path

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Refuse.

        Raises
        ------
        ClosedError, ReadOnlyError
            One of them always.
        """
        raise self._session.refuse(self._path)


class ReferenceGroup(_Node):
    """A group of a `ReferenceStore`."""

    def read_attributes(self) -> Attributes:
        """All attributes, as plain JSON values that the caller may change.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        self._session.check_open()
        return copy_attributes(self._session.document.groups[self._path])

    def children(self, *, tolerant: bool = False) -> dict[str, Child]:  # noqa: ARG002
        """Names and kinds of the direct children, sorted by name.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        self._session.check_open()
        found = {}
        document = self._session.document
        for kind, paths in (("group", document.groups), ("array", document.arrays)):
            for path in paths:
                folder, _, name = path.rpartition("/")
                if path and folder == self._path:
                    found[name] = Child("array" if kind == "array" else "group")
        return dict(sorted(found.items()))

    def group(self, path: str) -> ReferenceGroup:
        """Open a group below this one; `path` may have several segments.

        Raises
        ------
        ClosedError
            If the store is closed.
        NotFoundError
            If there is no group at `path`.
        """
        at = self._at(path)
        if not path or at not in self._session.document.groups:
            raise NotFoundError("there is no such group", url=self._session.url, node=at)
        return ReferenceGroup(self._session, at)

    def array(self, path: str) -> ReferenceArray:
        """Open an array below this one; `path` may have several segments.

        Raises
        ------
        ClosedError
            If the store is closed.
        NotFoundError
            If there is no array at `path`.
        MetadataError
            If its metadata are damaged, or of a kind that cannot be used.
        """
        at = self._at(path)
        if at not in self._session.document.arrays:
            raise NotFoundError("there is no such array", url=self._session.url, node=at)
        return ReferenceArray(self._session, at)

    def create_group(self, name: str, attributes: Mapping[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Refuse with `ReadOnlyError`, or `ClosedError`."""
        raise self._session.refuse(self._path)

    def create_array(
        self,
        name: str,  # noqa: ARG002
        spec: ArraySpec,  # noqa: ARG002
        attributes: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> Any:
        """Refuse with `ReadOnlyError`, or `ClosedError`."""
        raise self._session.refuse(self._path)

    def remove(self, name: str) -> None:  # noqa: ARG002
        """Refuse with `ReadOnlyError`, or `ClosedError`."""
        raise self._session.refuse(self._path)

    def link(self, name: str, target: str) -> None:  # noqa: ARG002
        """Refuse with `ReadOnlyError`, or `ClosedError`."""
        raise self._session.refuse(self._path)

    def _at(self, path: str) -> str:
        self._session.check_open()
        return f"{self._path}/{path}" if self._path else path


class ReferenceArray(_Node):
    """An array of a `ReferenceStore`.

    Parameters
    ----------
    session : _Session
        The reference file.
    path : str
        Of the array in it.

    Raises
    ------
    MetadataError
        If it is of a kind that cannot be used.
    """

    def __init__(self, session: _Session, path: str) -> None:
        super().__init__(session, path)
        document = session.document
        self._attributes = document.attributes.get(path, {})
        try:
            self._form = parse_array(document.arrays[path], self._attributes)
        except FmristoreError as error:
            error.url, error.node = session.url, path
            raise

    @property
    def spec(self) -> ArraySpec:
        """Shape, dtype, axis names, layout and codecs."""
        return self._form.spec

    @property
    def capabilities(self) -> Capability:
        """``CHUNK_REFS`` where decoded chunks are the data as in memory."""
        order = Capability.CHUNK_ORDER
        return order | Capability.CHUNK_REFS if self._form.direct else order

    def read_attributes(self) -> Attributes:
        """All attributes, as plain JSON values that the caller may change.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        self._session.check_open()
        found = copy_attributes(self._attributes)
        found.pop(DIMENSIONS, None)
        return found

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Read a region, ``None`` for everything, one chunk after the other.

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
        CodecError
            If a codec is not known.
        CorruptDataError
            If a chunk is damaged.
        ChangedError
            If the file that is referred to is another one now.
        """
        self._session.check_open()
        spec = self.spec
        parsed = parse_region(region, spec.shape)
        shape = region_shape(parsed)
        if out is not None and (out.shape != shape or out.dtype != spec.dtype):
            msg = f"out is {out.dtype}{out.shape} where {spec.dtype}{shape} is read"
            raise InvalidInputError(msg, url=self._session.url, node=self._path)
        text = self._form.stored.kind == "O"
        if not codecs.supported(spec.codecs) or (text and spec.codecs):
            msg = f"codecs {' + '.join(map(str, spec.codecs))} are not all known here"
            raise CodecError(msg, url=self._session.url, node=self._path)
        result = np.empty(shape, spec.dtype) if out is None else out
        with self.reading():
            self._read_into(result, parsed)
        return result

    def _read_into(self, result: AnyArray, region: Region) -> None:
        spec = self.spec
        touched = list(overlaps(region, spec.layout.chunks)) if result.size else []
        refs = self._refs([overlap.key for overlap in touched])
        stored = []
        for overlap, ref in zip(touched, refs, strict=True):
            if ref is None:
                result[overlap.target] = spec.fill
            else:
                stored.append((overlap, ref.range))
        ranges = [item[1] for item in stored]
        for batch in batches(ranges, merge_ranges(ranges, self.policy), _BATCH_BYTES):
            spans = [span_of(ranges, group) for group in batch]
            for group, span, data in zip(batch, spans, self._fetch(spans), strict=True):
                for i in group:
                    start = ranges[i].offset - span.offset
                    chunk = self._decode(memoryview(data)[start : start + ranges[i].length])
                    result[stored[i][0].target] = chunk[stored[i][0].source]

    def write(self, region: Region | None, values: Any) -> None:  # noqa: ARG002
        """Refuse with `ReadOnlyError`, or `ClosedError`."""
        raise self._session.refuse(self._path)

    # Encoded chunks ----------------------------------------------------------------------------

    @property
    def policy(self) -> FetchPolicy:
        """Best way of asking for its byte ranges; unpacks the table of chunks."""
        self._table()
        return self._session.targets.policy

    def reading(self) -> Reading:
        """Context of one read: what it refers to is what the references were made for.

        Raises
        ------
        ClosedError
            On entering, if the store is closed.
        ChangedError
            On leaving, if the file that is referred to is another one now.
        """
        return self._session.lifetime.reading()

    def refs(self, keys: Sequence[ChunkKey]) -> list[ChunkRef | None]:
        """Locate encoded chunks; ``None`` for one that is not listed.

        Raises
        ------
        ClosedError
            If the store is closed.
        LayoutNotSupportedError
            If the array does not have ``CHUNK_REFS``, or refers to a file that must not be read.
        SelectionError
            If a key lies outside the grid of chunks.
        CorruptDataError
            If the table of chunks is damaged.
        """
        self._session.check_open()
        self._need_direct()
        return self._refs(keys)

    def stored(self) -> AnyArray | None:
        """Numbers of the chunks that are listed; raises as `refs`."""
        self._session.check_open()
        self._need_direct()
        return self._table()[0].numbers

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        """Bytes of each range, in order.

        Raises
        ------
        ClosedError
            If the store is closed.
        LayoutNotSupportedError
            If the array does not have ``CHUNK_REFS``.
        CorruptDataError
            If a range lies beyond the end of its file.
        StorageError
            If the disk or the service failed.
        """
        self._session.check_open()
        del into
        self._need_direct()
        return self._fetch(ranges)

    def _need_direct(self) -> None:
        if not self._form.direct:
            msg = "this array does not have CHUNK_REFS: see its capabilities"
            raise LayoutNotSupportedError(msg, url=self._session.url, node=self._path)

    def _table(self) -> tuple[ChunkTable, bytes]:
        session = self._session
        with session.lock:
            if self._path not in session.tables:
                try:
                    table, inline = session.document.chunks[self._path].table(self._form)
                    session.tables[self._path] = table.renamed(self._resolve), inline
                except FmristoreError as error:
                    error.url, error.node = session.url, self._path
                    raise
            return session.tables[self._path]

    def _resolve(self, source: str) -> str:
        return source if source == INLINE else self._session.targets.resolve(source)

    def _refs(self, keys: Sequence[ChunkKey]) -> list[ChunkRef | None]:
        found = self._table()[0].refs(keys)
        return [
            ref if ref is None or ref.range.length != WHOLE else self._whole(ref) for ref in found
        ]

    def _whole(self, ref: ChunkRef) -> ChunkRef:
        source = ref.range.source
        return ChunkRef(ByteRange(source, 0, self._session.targets.size(source)))

    def _fetch(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        elsewhere = [item for item in ranges if item.source != INLINE]
        fetched = iter(self._session.targets.fetch(elsewhere) if elsewhere else ())
        return [next(fetched) if item.source != INLINE else self._inline(item) for item in ranges]

    def _inline(self, item: ByteRange) -> Buffer:
        data = memoryview(self._table()[1])[item.offset : item.offset + item.length]
        if len(data) != item.length:
            msg = f"asked for {item.length} bytes at offset {item.offset} and got {len(data)}"
            raise CorruptDataError(msg, url=self._session.url, node=self._path)
        return data

    def _decode(self, data: Buffer) -> AnyArray:
        """Elements of one chunk, axes in the order of the array."""
        form, spec = self._form, self.spec
        memory = spec.memory.layout.chunks
        count = math.prod(memory)
        if form.stored.kind == "O":
            values = unpack_text(data, count)
        else:
            nbytes = count * form.stored.itemsize
            values = np.frombuffer(codecs.decode(spec.codecs, data, nbytes), form.stored)
        if is_string(spec.dtype):
            values = as_text(values)
        chunk = values.astype(spec.dtype, copy=False).reshape(memory)
        return chunk.transpose(tuple(np.argsort(spec.layout.axes)))
