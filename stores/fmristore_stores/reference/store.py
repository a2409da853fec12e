"""Reference files as stores: arrays whose chunks lie in other files, read in place.

Made by `fmristore.virtualize` or by kerchunk; see `document` for what they hold. They are read
without zarr-python and without fsspec's reference filesystem, because they are not trusted:
nothing in them is run, and only files beside them are opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from types import MappingProxyType
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
    SelectionError,
)
from fmristore_stores.grid import (
    ChunkKey,
    Region,
    grid_shape,
    overlaps,
    parse_region,
    region_shape,
)
from fmristore_stores.io.lifetime import Lifetime, Reading
from fmristore_stores.io.ranges import batches, merge_ranges, span_of
from fmristore_stores.protocol import (
    Along,
    AnyArray,
    Buffer,
    ByteRange,
    Capability,
    Child,
    ChunkRef,
    FetchPolicy,
)
from fmristore_stores.reference.document import WHOLE, Document, parse
from fmristore_stores.reference.metadata import DIMENSIONS, as_text, parse_array, unpack_text
from fmristore_stores.reference.targets import Targets
from fmristore_stores.spec import ArraySpec, Attributes, copy_attributes, is_string

__all__ = ["ReferenceArray", "ReferenceGroup", "ReferenceStore"]

_BATCH_BYTES = 64 * 1024 * 1024
_INLINE = "\0"
"""Before the key of a chunk that is part of the reference file: no URL begins with it."""


class _Session:
    """One opened reference file, shared by all handles that came from it."""

    def __init__(self, url: str, document: Document, targets: Targets) -> None:
        self.url = url
        self.document = document
        self.targets = targets
        self.released = False
        self.lifetime = Lifetime(url, self)

    def check_open(self) -> None:
        if self.released:
            raise ClosedError("the store is closed", url=self.url)

    def check(self) -> None:
        self.targets.check()

    def release(self) -> None:
        if not self.released:
            self.released = True
            self.targets.close()


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
    group : str
        Path of the group that is opened as the root.

    Raises
    ------
    UnknownFormatError
        If it is no reference file.
    MetadataError
        If it is damaged, or needs a program to be run to be read.
    NotFoundError
        If there is no such group.
    """

    def __init__(
        self,
        data: bytes,
        *,
        url: str,
        options: Mapping[str, Any] | None = None,
        targets: Sequence[str] = (),
        group: str = "",
    ) -> None:
        document = parse(data, url=url, group=group)
        reached = Targets(url, options or {}, document.facts, allowed=targets)
        self._session = _Session(url, document, reached)

    @property
    def url(self) -> str:
        """Path or URL."""
        return self._session.url

    @property
    def token(self) -> str:
        """Empty: nothing is known by which versions differ."""
        return ""

    @property
    def capabilities(self) -> Capability:
        """Encoded chunks can be located, also in Fortran order."""
        return Capability.CHUNK_REFS | Capability.CHUNK_ORDER

    @property
    def root(self) -> ReferenceGroup:
        """The group at the top of the tree; `ClosedError` if the store is closed."""
        self._session.check_open()
        return ReferenceGroup(self._session, "")

    @property
    def closed(self) -> bool:
        """True if `close` was called."""
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
    """Common base of groups and arrays: a place, and that they are only read."""

    def __init__(self, session: _Session, path: str) -> None:
        self._session = session
        self._path = path

    @property
    def path(self) -> str:
        """Absolute path in the store, without a leading slash; empty for the root."""
        return self._path

    def _at(self, path: str) -> str:
        self._session.check_open()
        return f"{self._path}/{path}" if self._path else path

    def _error(self, cls: type[FmristoreError], message: str) -> FmristoreError:
        return cls(message, url=self._session.url, node=self._path)

    def refuse(self, *args: Any, **options: Any) -> Any:  # noqa: ARG002
        """Refuse to change anything: `ReadOnlyError`, or `ClosedError` once it is closed."""
        self._session.check_open()
        msg = "a reference file is only read; change the file that it refers to"
        raise self._error(ReadOnlyError, msg)

    write_attributes = refuse


class ReferenceGroup(_Node):
    """A group of a `ReferenceStore`: see `fmristore_stores.protocol` for what each call does."""

    create_group = create_array = remove = link = _Node.refuse

    def read_attributes(self) -> Attributes:
        """All attributes, as plain JSON values that the caller may change."""
        self._session.check_open()
        return copy_attributes(self._session.document.groups[self._path])

    def view_attributes(self) -> Mapping[str, Any]:
        """All attributes, not to be changed."""
        self._session.check_open()
        return MappingProxyType(self._session.document.groups[self._path])

    def children(self, *, tolerant: bool = False) -> dict[str, Child]:  # noqa: ARG002
        """Names and kinds of the direct children, sorted by name."""
        self._session.check_open()
        document = self._session.document
        found = dict.fromkeys(document.groups, Child("group"))
        found |= dict.fromkeys(document.arrays, Child("array"))
        places = ((*path.rpartition("/")[::2], child) for path, child in found.items() if path)
        return dict(sorted((name, child) for at, name, child in places if at == self._path))

    def has(self, name: str) -> bool:
        """Return whether there is a direct child of that name."""
        at, document = self._at(name), self._session.document
        return (
            "/" not in name
            and at != self._path
            and (at in document.groups or at in document.arrays)
        )

    def group(self, path: str) -> ReferenceGroup:
        """Open a group below this one; `path` may have several segments."""
        at = self._at(path)
        if not path or at not in self._session.document.groups:
            raise NotFoundError("there is no such group", url=self._session.url, node=at)
        return ReferenceGroup(self._session, at)

    def array(self, path: str) -> ReferenceArray:
        """Open an array below this one; `path` may have several segments."""
        at = self._at(path)
        if at not in self._session.document.arrays:
            raise NotFoundError("there is no such array", url=self._session.url, node=at)
        return ReferenceArray(self._session, at)


class ReferenceArray(_Node):
    """An array of a `ReferenceStore`: see `fmristore_stores.protocol` for what each call does.

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

    write = _Node.refuse

    def __init__(self, session: _Session, path: str) -> None:
        super().__init__(session, path)
        document = session.document
        self._attributes = document.attributes.get(path, {})
        self._prefix = f"{path}/" if path else ""
        try:
            self._form = parse_array(document.arrays[path], self._attributes)
        except FmristoreError as error:
            error.url, error.node = session.url, path
            raise
        spec = self._form.spec
        self._grid = grid_shape(spec.shape, spec.layout.chunks)

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
        """All attributes, as plain JSON values that the caller may change."""
        self._session.check_open()
        found = copy_attributes(self._attributes)
        found.pop(DIMENSIONS, None)
        return found

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Read a region, ``None`` for everything: see `Array.read`."""
        self._session.check_open()
        spec = self.spec
        parsed = parse_region(region, spec.shape)
        shape = region_shape(parsed)
        if out is not None and (out.shape != shape or out.dtype != spec.dtype):
            msg = f"out is {out.dtype}{out.shape} where {spec.dtype}{shape} is read"
            raise self._error(InvalidInputError, msg)
        text = self._form.stored.kind == "O"
        if not codecs.supported(spec.codecs) or (text and spec.codecs):
            msg = f"codecs {' + '.join(map(str, spec.codecs))} are not all known here"
            raise self._error(CodecError, msg)
        result = np.empty(shape, spec.dtype) if out is None else out
        with self.reading():
            self._read_into(result, parsed)
        return result

    def _read_into(self, result: AnyArray, region: Region) -> None:
        stored = []
        for overlap in overlaps(region, self.spec.layout.chunks) if result.size else ():
            ref = self._ref(overlap.key)
            if ref is None:
                result[overlap.target] = self.spec.fill
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

    # Encoded chunks ----------------------------------------------------------------------------

    @property
    def policy(self) -> FetchPolicy:
        """Best way of asking for its byte ranges: that of its first chunk, for all."""
        session = self._session
        refs, prefix = session.document.refs, self._prefix
        listed = (key for key, ref in refs.items() if type(ref) is list and key.startswith(prefix))
        found = self._entry(key) if (key := next(listed, None)) is not None else None
        return session.targets.policy(found.source if found is not None else session.url)

    def reading(self) -> Reading:
        """Context of one read: what it refers to is what the references were made for."""
        return self._session.lifetime.reading()

    def refs(
        self,
        keys: Sequence[ChunkKey],
        along: Along | None = None,  # noqa: ARG002
    ) -> list[ChunkRef | None]:
        """Locate encoded chunks; ``None`` for one that is not listed."""
        self._need_direct()
        return [self._ref(key) for key in keys]

    def stored(self) -> AnyArray | None:
        """Numbers of the chunks that are listed, sorted; raises as `refs`."""
        self._need_direct()
        keys = (key for key in self._session.document.refs if key.startswith(self._prefix))
        found = sorted(n for key in keys if (n := self._number(key)) is not None)
        return np.array(found, np.int64)

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        """Bytes of each range, in order."""
        self._need_direct()
        return self._fetch(ranges, into)

    def _need_direct(self) -> None:
        self._session.check_open()
        if not self._form.direct:
            msg = "this array does not have CHUNK_REFS: see its capabilities"
            raise self._error(LayoutNotSupportedError, msg)

    def _key(self, chunk: Sequence[int]) -> str:
        return self._prefix + (self._form.separator.join(map(str, chunk)) or "0")

    def _number(self, key: str) -> int | None:
        """Number of a chunk by its key; None for a key that names no chunk of this array."""
        parts = key[len(self._prefix) :].split(self._form.separator) if self._grid else []
        if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
            return None
        chunk = tuple(map(int, parts))
        if key != self._key(chunk) or not self._is_inside(chunk):
            return None
        return int(np.ravel_multi_index(chunk, self._grid)) if chunk else 0

    def _is_inside(self, chunk: ChunkKey) -> bool:
        grid = self._grid
        return len(chunk) == len(grid) and all(map(range.__contains__, map(range, grid), chunk))

    def _ref(self, chunk: ChunkKey) -> ChunkRef | None:
        if not self._is_inside(chunk):
            raise self._error(SelectionError, f"chunk {chunk} is not in a grid of {self._grid}")
        found = self._entry(self._key(chunk))
        return found if found is None else ChunkRef(found)

    def _entry(self, key: str) -> ByteRange | None:
        """Place of the content of a key."""
        session = self._session
        try:
            found = session.document.chunk(key)
        except FmristoreError as error:
            error.url, error.node = session.url, self._path
            raise
        if found is None:
            return None
        if isinstance(found, bytes):
            return ByteRange(_INLINE + key, 0, len(found))
        url, offset, length = found
        source = session.targets.resolve(url)
        return ByteRange(
            source, offset, session.targets.size(source) if length == WHOLE else length
        )

    def _fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        outside = [not item.source.startswith(_INLINE) for item in ranges]
        if all(outside):
            return self._session.targets.fetch(ranges, into)
        fetched = iter(self._session.targets.fetch(list(compress(ranges, outside))))
        return [
            next(fetched) if is_outside else self._inline(item)
            for item, is_outside in zip(ranges, outside, strict=True)
        ]

    def _inline(self, item: ByteRange) -> Buffer:
        found = self._session.document.chunk(item.source[len(_INLINE) :])
        data = found[item.offset : item.offset + item.length] if isinstance(found, bytes) else b""
        if len(data) != item.length:
            msg = f"asked for {item.length} bytes at offset {item.offset} and got {len(data)}"
            raise self._error(CorruptDataError, msg)
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
