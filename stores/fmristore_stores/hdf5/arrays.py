"""Arrays of HDF5 files.

`HDF5Array` is whole here: reading, writing and where chunks lie, which makes the module long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from h5py import h5d, h5g, h5s

from fmristore_stores.codecs.pipeline import decode, encode, equivalent, supported
from fmristore_stores.errors import (
    CorruptDataError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.grid import (
    ChunkKey,
    Region,
    chunk_region,
    grid_shape,
    overlaps,
    parse_region,
    region_shape,
)
from fmristore_stores.hdf5.attributes import read_attributes, write_attributes
from fmristore_stores.hdf5.chunk_table import ChunkFinder, ChunkIndex
from fmristore_stores.hdf5.dimensions import read_names
from fmristore_stores.hdf5.files import Session
from fmristore_stores.hdf5.heaps import check_properties, checked, has_lengths, uses_heap
from fmristore_stores.hdf5.lengths import check_lengths, element_size
from fmristore_stores.hdf5.links import facts, resolve
from fmristore_stores.hdf5.messages import PlainDataset
from fmristore_stores.hdf5.text import fixed_rows_at_once, read_text, rows_at_once
from fmristore_stores.hdf5.typed import read_typed, write_typed
from fmristore_stores.hdf5.types import (
    check_filters,
    new_spec,
    parse_type,
    plain_type,
    spec_of,
    stored_dtype,
)
from fmristore_stores.io.lifetime import Reading
from fmristore_stores.limits import check_chunk, check_result, check_text
from fmristore_stores.protocol import (
    Along,
    AnyArray,
    Buffer,
    ByteRange,
    Capability,
    ChunkRef,
    FetchPolicy,
    LocalBytes,
    TypedAttribute,
)
from fmristore_stores.spec import STRING, ArraySpec, Attributes, CodecSpec, is_string

__all__ = ["HDF5Array"]

_MOST_CHUNKS = 2**63
"""Chunks of an array that can be numbered; an honest one has fewer."""
_CAN_READ = Capability.HARD_LINKS | Capability.TYPED_ATTRIBUTES
_CAN_LOCATE = _CAN_READ | Capability.CHUNK_REFS
_CAN_WRITE = _CAN_READ | Capability.WRITE
_CAN_WRITE_RAW = _CAN_WRITE | Capability.RAW_WRITE
_AT_ONCE = 1 << 20
"""Bytes of stored elements that are checked at once."""
_ENUM = "_enum"
"""Attribute under which names and values of an enumeration are shown."""


class _Dataset:
    """A dataset that is opened when HDF5 is asked for the first time."""

    def __init__(self, opener: Callable[[], Any]) -> None:
        self._opener = opener
        self._node: Any = None

    def open(self) -> Any:
        """The open dataset, through the second handle of its file if elements lie in its heaps."""
        if self._node is None:
            node = self._opener()
            if not isinstance(node, h5d.DatasetID):
                raise CorruptDataError("its header is that of a dataset, but HDF5 finds none")
            kind = node.get_type()
            if uses_heap(kind):
                if has_lengths(kind):
                    check_properties(node, math.prod(node.shape or ()))
                node = checked(node)
            self._node = node
        return self._node


class HDF5Array:
    """A dataset of an HDF5 file.

    Parameters
    ----------
    session : Session
        The file.
    path : str
        Where the dataset is.
    opener : callable
        Opens the dataset, where HDF5 has to be asked.
    codecs : tuple of CodecSpec, optional
        How it shall be encoded, if that says more than the file can.
    plain : PlainDataset, optional
        What its header says; HDF5 is asked if not given.

    Raises
    ------
    LayoutNotSupportedError
        If its elements are neither numbers nor text, or it is a view of whatever has a name like
        a pattern, in a file that is open for writing.

    Notes
    -----
    Safe to read from several threads: h5py lets one at a time into HDF5.
    """

    def __init__(
        self,
        session: Session,
        path: str,
        opener: Callable[[], Any],
        codecs: tuple[CodecSpec, ...] = (),
        *,
        plain: PlainDataset | None = None,
    ) -> None:
        self._session = session
        self._path = path
        self._dataset = _Dataset(opener)
        self._header = None if plain is None else plain.header
        piece = None
        if plain is None:
            self._ask_library()
        else:
            self._type = plain_type(plain.dtype.str)
            self._spec = new_spec(
                plain.shape, plain.dtype, plain.dims, plain.chunks, plain.filters, plain.fill
            )
            self._layout = h5d.CHUNKED if plain.chunks else h5d.CONTIGUOUS
            piece = None if plain.chunks else plain.piece
        if codecs and equivalent(codecs, self._spec.codecs):
            self._spec = replace(self._spec, codecs=codecs)
        self._capabilities = self._find_capabilities()
        self._locates = Capability.CHUNK_REFS in self._capabilities
        self._takes_encoded = Capability.RAW_WRITE in self._capabilities
        self._finder = ChunkFinder(
            session,
            self._dataset.open,
            self._spec,
            path=path,
            chunked=self._layout == h5d.CHUNKED,
            local=not self.policy.concurrent,
            piece=piece,
        )
        self._inside_file = False
        self._filters_checked = [False, False]

    def _ask_library(self) -> None:
        """Find out type, layout and spec from the open dataset."""
        session, node = self._session, self._node
        self._layout = int(self._plan.get_layout())
        if session.writable and _has_pattern(self._plan):
            _check_inside(session, node, self._path, frozenset())  # HDF5 would look for them now
        space = node.get_space()
        self._type = parse_type(node.get_type(), space)
        shape = tuple(map(int, space.shape))
        own = self._path.rpartition("/")[2]
        dims = read_names(node, len(shape), own, session.header_of(node))
        self._spec = spec_of(node, self._plan, self._type.dtype, shape, dims)

    @property
    def _node(self) -> Any:
        """The open dataset."""
        return self._dataset.open()

    @cached_property
    def _plan(self) -> Any:
        """Its creation properties."""
        return self._node.get_create_plist()

    def _find_capabilities(self) -> Capability:
        found = _CAN_WRITE if self._session.writable else _CAN_READ
        if not self._type.exact or not supported(self._spec.codecs):
            return found
        if self._session.writable:
            return _CAN_WRITE_RAW if self._layout == h5d.CHUNKED else found
        grid = grid_shape(self._spec.shape, self._spec.layout.chunks)
        countable = math.prod(grid) < _MOST_CHUNKS
        if self._lies_in_file() and countable and self._session.source is not None:
            return _CAN_LOCATE
        return found

    def _lies_in_file(self) -> bool:
        """Return whether the data are in the file, in pieces of their own."""
        if self._layout != h5d.CONTIGUOUS:
            return bool(self._layout == h5d.CHUNKED)
        if self._spec.nbytes == 0:
            return False
        return self._header is not None or not self._plan.get_external_count()

    @cached_property
    def _grid(self) -> tuple[int, ...]:
        return grid_shape(self._spec.shape, self._spec.layout.chunks)

    @cached_property
    def _address(self) -> int:
        return facts(self._node).address

    @property
    def path(self) -> str:
        """Absolute path in the store, without a leading slash."""
        return self._path

    @property
    def spec(self) -> ArraySpec:
        """Shape, dtype, axis names, layout and codecs.

        Big-endian numbers show as little-endian ones, enumerations as integers, bits as bytes;
        a dataset without chunks shows as one chunk.
        """
        return self._spec

    @property
    def capabilities(self) -> Capability:
        """Facts about this very array.

        ``CHUNK_REFS`` where the file is open for reading and the data lie in it as in memory,
        encoded by codecs that are known; ``RAW_WRITE`` where it is open for writing and chunked.
        """
        return self._capabilities

    def read_attributes(self) -> Attributes:
        """All attributes, as plain JSON values.

        Text that is not UTF-8 is taken for Latin-1; a reference becomes ``{"_REFERENCE":
        {"path": ...}}``; names and values of an enumeration appear as ``_enum``.

        Raises
        ------
        ClosedError
            If the store is closed.
        MetadataError
            If an attribute has no JSON counterpart.
        """
        self._session.check_open()
        with self._session.reading(self._path):
            header = self._header or self._session.header_of(self._node)
            found = read_attributes(self._node, is_array=True, header=header)
        if self._type.members is not None:
            found[_ENUM] = dict(self._type.members)
        return found

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace all attributes by these.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If a name or value cannot be stored; nothing changes then.
        StorageError
            If the disk failed.
        """
        self._session.check_writable()
        derived = frozenset({_ENUM} if self._type.members is not None else ())
        with self._session.writing(self._path):
            write_attributes(
                self._node,
                attributes,
                is_array=True,
                ignore=derived,
                variable_text=self._session.variable_text,
            )
        self._session.ledger.node(self._path, attributes)

    def readable_attributes(self) -> Attributes:
        """All attributes that have a JSON value."""
        self._session.check_open()
        with self._session.reading(self._path):
            header = self._header or self._session.header_of(self._node)
            found = read_attributes(self._node, is_array=True, readable=True, header=header)
        if self._type.members is not None:
            found[_ENUM] = dict(self._type.members)
        return found

    def read_typed(self) -> dict[str, TypedAttribute]:
        """Attributes of which a JSON value does not say all, by name."""
        self._session.check_open()
        with self._session.reading(self._path):
            header = self._header or self._session.header_of(self._node)
            return read_typed(self._node, is_array=True, header=header)

    def write_typed(self, attributes: Mapping[str, TypedAttribute]) -> None:
        """Write attributes that another node gave, besides those that there are.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        StorageError
            If the disk failed.
        """
        self._session.check_writable()
        with self._session.writing(self._path):
            write_typed(self._node, attributes)
        self._session.ledger.typed(self._path, attributes)

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Read a region through HDF5, ``None`` for everything.

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
            If HDF5 lacks a filter.
        CorruptDataError
            If chunks are damaged or missing.
        LayoutNotSupportedError
            If the data lie in another file.
        MemoryLimitError
            If there is not enough memory for the result.

        Notes
        -----
        Reads and decodes every chunk that the region touches, one after the other.
        """
        self._session.check_open()
        parsed = parse_region(region, self._spec.shape)
        shape = region_shape(parsed)
        if out is not None and (out.shape != shape or out.dtype != self._spec.dtype):
            msg = f"out is {out.dtype}{out.shape} where {self._spec.dtype}{shape} is read"
            raise InvalidInputError(msg, url=self._session.url, node=self._path)
        text = is_string(self._spec.dtype)
        self._check_sizes(shape, new=out is None or text)
        with self._session.reading(self._path):
            direct = out is not None and out.flags.c_contiguous and not text
            self._check_storage()
            if text:
                if self._type.buffer.kind == "O":
                    rows = rows_at_once(shape, self._session.size)
                else:
                    rows = fixed_rows_at_once(shape, self._type.buffer.itemsize)
                buffer = read_text(self._read_elements, parsed, shape, rows)
            else:
                buffer = self._read_elements(parsed, out if direct else None)
        if out is None or direct:
            return buffer
        out[...] = buffer
        return out

    def _read_elements(self, region: Region, out: AnyArray | None = None) -> AnyArray:
        """Elements of a region as HDF5 hands them out."""
        shape = region_shape(region)
        buffer = _empty(shape, self._type.buffer) if out is None else out
        if buffer.size:
            self._check_filters(writing=False)
            if self._session.looking is not None:
                if self._type.buffer.kind == "O":
                    self._check_lengths(region)
                elif not self._session.writable:
                    self._check_chunks(region)
            memory, file = self._spaces(region, shape)
            self._node.read(memory, file, buffer, self._type.memory)
        return buffer

    def _check_chunks(self, region: Region) -> None:
        """Refuse chunks that are not as long as they must be: HDF5 hands out what lies in memory.

        Of those that only HDF5 can decode nothing is known.
        """
        chunks, codecs, source = self._spec.layout.chunks, self._spec.codecs, self._session.looking
        if self._layout != h5d.CHUNKED or source is None or not supported(codecs):
            return
        size = math.prod(chunks) * int(self._node.get_type().get_size())
        for overlap in overlaps(region, chunks):
            (ref,) = self._finder.refs([overlap.key])
            if ref is None or ref.range.length == size:  # partial ones may be without filters
                continue
            if not codecs:
                msg = f"chunk {overlap.key} has {ref.range.length} bytes where {size} were expected"
                raise CorruptDataError(msg)
            decode(codecs, source.fetch([ref.range])[0], size, skip=ref.skip)

    def _check_lengths(self, region: Region) -> None:
        """Check the lengths that texts of variable length claim, where they lie in a region."""
        session = self._session
        if session.writable:
            session.h5.flush()
        width = int(session.h5.id.get_create_plist().get_sizes()[0])
        most, size = session.size, element_size(width)
        for data, count in self._stored(region, size):
            check_lengths(data, count, width, most)

    def _stored(self, region: Region, size: int) -> Iterator[tuple[Buffer, int]]:
        """Bytes of stored elements of `size` bytes with those of a region among them, and how many.

        None of what lies in the header of the dataset, and of chunks that only HDF5 can decode.
        """
        session, spec, source = self._session, self._spec, self._session.looking
        layout, chunks = self._layout, self._spec.layout.chunks
        if source is None:
            return
        if layout == h5d.CONTIGUOUS and self._node.get_storage_size():
            rows = region[0] if region else slice(0, 1)
            each = math.prod(spec.shape[1:]) * size
            start, stop = rows.start * each, rows.stop * each
            for begin in range(start, stop, _AT_ONCE // size * size):
                length = min(_AT_ONCE // size * size, stop - begin)
                at = (self._node.get_offset() or 0) + begin
                yield source.fetch([ByteRange(session.path, at, length)])[0], length // size
        elif layout == h5d.CHUNKED and supported(spec.codecs):
            for overlap in overlaps(region, chunks):
                (ref,) = self._finder.refs([overlap.key])
                if ref is not None:
                    (data,) = source.fetch([ref.range])
                    count = math.prod(chunks)
                    yield decode(spec.codecs, data, count * size, skip=ref.skip), count

    def write(self, region: Region | None, values: Any) -> None:
        """Write a region through HDF5, ``None`` for everything.

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
        CodecError
            If HDF5 lacks a filter: it would leave the chunks unfiltered.
        StorageError
            If the disk failed.
        """
        self._session.check_writable()
        parsed = parse_region(region, self._spec.shape)
        shape = region_shape(parsed)
        converted = self._convert(values, shape)
        with self._session.writing(self._path):
            self._check_storage()
            if not converted.size:
                return
            self._check_filters(writing=True)
            self._session.unmasked.discard(self._address)
            memory, file = self._spaces(parsed, shape)
            self._node.write(memory, file, converted, self._type.memory)
            self._session.room.release()
        self._session.ledger.values(self._path, converted, whole=shape == self._spec.shape)

    @property
    def policy(self) -> FetchPolicy:
        """Best way of asking for its byte ranges."""
        source = self._session.source
        return FetchPolicy(gap=-1, block=0, concurrent=False) if source is None else source.policy

    def reading(self) -> Reading:
        """Context of one read: the file stays open, and is the one that was opened.

        Raises
        ------
        ClosedError
            On entering, if the store is closed.
        ChangedError
            On leaving, if the file was written over meanwhile.
        """
        return self._session.lifetime.reading()

    def refs(
        self,
        keys: Sequence[ChunkKey],
        along: Along | None = None,  # noqa: ARG002
    ) -> list[ChunkRef | None]:
        """Locate chunks; ``None`` for one that was never written.

        Raises
        ------
        ClosedError
            If the store is closed.
        SelectionError
            If a key is outside the chunk grid.
        CorruptDataError
            If the table of chunks is damaged, or points beyond the end of the file.
        LayoutNotSupportedError
            If the array does not have ``CHUNK_REFS``.

        Notes
        -----
        The first chunks are looked up one by one, where the file is local; then the whole table
        of chunks is read, in one pass over it.
        """
        self._session.check_open()
        if not self._locates:
            self._need(Capability.CHUNK_REFS)
        if self._finder.known:
            return self._finder.refs(keys)
        with self._session.reading(self._path):
            return self._finder.refs(keys)

    def places(self) -> tuple[LocalBytes, memoryview] | None:
        """The file and the places of all chunks, as `fmristore_stores.protocol.InPlace` has it."""
        offsets = self._finder.plain_offsets
        return None if offsets is None else (self._session, offsets)

    def stored(self) -> AnyArray | None:
        """Numbers of the chunks that are there; raises as `refs`."""
        self._session.check_open()
        self._need(Capability.CHUNK_REFS)
        with self._session.reading(self._path):
            return self._finder.index.numbers

    def stored_units(self) -> int | None:
        """Number of chunks that are there; None where they are not counted.

        Raises
        ------
        ClosedError
            If the store is closed.
        CorruptDataError
            If the table of chunks is damaged, or points beyond the end of the file.
        """
        self._session.check_open()
        if Capability.CHUNK_REFS not in self._capabilities:
            return None
        with self._session.reading(self._path):
            return len(self._finder.index)

    def located(self) -> tuple[np.dtype[Any], ChunkIndex] | None:
        """Type of the elements as they lie in the file, and where the chunks are.

        Unlike `refs`, also where the bytes have the other order. None where the data do not
        lie in the file in pieces of their own, or not as numpy could have them in memory.

        Raises
        ------
        ClosedError
            If the store is closed.
        CorruptDataError
            If the table of chunks is damaged, or points beyond the end of the file.
        """
        self._session.check_open()
        with self._session.reading(self._path):
            stored = stored_dtype(self._node)
            if stored is None or not self._lies_in_file():
                return None
            return stored, self._finder.index

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
            If a range lies beyond the end of the file.
        StorageError
            If the disk or the service failed.
        """
        self._session.check_open()
        source = self._session.source
        if source is None:
            self._need(Capability.CHUNK_REFS)
            return []
        return source.fetch(ranges, into)

    def fetch_stored(self, ranges: Sequence[ByteRange]) -> list[Buffer]:
        """Bytes of ranges of the file, of whatever elements, as `located` tells them.

        Raises
        ------
        ClosedError
            If the store is closed.
        ChangedError
            If the file is not the one that was opened any more.
        CorruptDataError, StorageError
            As `fetch`.
        """
        self._session.check_open()
        source = self._session.source
        if source is None:
            msg = "a file that is open for writing hands out no bytes"
            raise LayoutNotSupportedError(msg, url=self._session.url, node=self._path)
        path = self._session.path
        with self.reading():
            return source.fetch([item._replace(source=path) for item in ranges])

    def write_encoded(self, unit: ChunkKey, chunks: Sequence[Buffer | None]) -> None:
        """Write one encoded chunk as it is.

        Parameters
        ----------
        unit : ChunkKey
            Position in the grid of chunks.
        chunks : sequence of one bytes-like or None
            The encoded chunk; None makes it read as the fill value.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        LayoutNotSupportedError
            If the array does not have ``RAW_WRITE``.
        SelectionError
            If `unit` is outside the grid.
        InvalidInputError
            If there is not exactly one chunk.
        StorageError
            If the disk failed.
        """
        self._session.check_writable()
        if not self._takes_encoded:
            self._need(Capability.RAW_WRITE)
        grid = self._grid
        if len(unit) != len(grid) or False in [0 <= k < n for k, n in zip(unit, grid, strict=True)]:
            msg = f"chunk {unit} is not in a grid of {grid}"
            raise SelectionError(msg, url=self._session.url, node=self._path)
        if len(chunks) != 1:
            msg = f"{len(chunks)} chunks were given for a unit of one"
            raise InvalidInputError(msg, url=self._session.url, node=self._path)
        with self._session.writing(self._path):
            self._write_chunk(unit, chunks[0])
            self._session.room.release()
        if chunks[0] is not None:
            self._session.ledger.encoded(self._path)

    def _need(self, capability: Capability) -> None:
        if capability not in self._capabilities:
            msg = f"this array does not have {capability.name}: see its capabilities"
            raise LayoutNotSupportedError(msg, url=self._session.url, node=self._path)

    def _write_chunk(self, unit: ChunkKey, data: Buffer | None) -> None:
        spec = self._spec
        start = tuple([k * c for k, c in zip(unit, spec.layout.chunks, strict=True)])
        if data is None:
            if self._mask(start) is None:
                return
            data = encode(spec.codecs, np.full(spec.layout.chunks, spec.fill, spec.dtype))
        if self._address in self._session.unmasked or not self._mask(start):
            self._node.write_direct_chunk(start, np.frombuffer(data, np.uint8), 0)
            return
        # HDF5 may keep the mask of a chunk that lacks filters when the chunk is replaced by an
        # encoded one, in its cache and even in the file: such a chunk is encoded by HDF5 itself.
        decoded = np.frombuffer(decode(spec.codecs, data, spec.chunk_nbytes), spec.dtype)
        region = chunk_region(unit, spec.shape, spec.layout.chunks)
        inside = tuple(slice(0, s.stop - s.start) for s in region)
        self.write(region, decoded.reshape(spec.layout.chunks)[inside])

    def _mask(self, start: tuple[int, ...]) -> int | None:
        """Mask of the filters that a stored chunk lacks; None if there is no such chunk."""
        info = self._node.get_chunk_info_by_coord(start)
        return int(info.filter_mask) if info.byte_offset else None

    def _spaces(self, region: Region, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """HDF5's words for an array in memory and a region of the file."""
        if shape == self._spec.shape:
            return h5s.ALL, h5s.ALL
        file = self._node.get_space()
        starts = tuple(s.start for s in region)
        file.select_hyperslab(starts, shape, tuple(s.step for s in region))
        return h5s.create_simple(shape), file

    def _convert(self, values: Any, shape: tuple[int, ...]) -> AnyArray:
        """Values as the array that HDF5 takes, in C order."""
        text = is_string(self._spec.dtype)
        try:
            # Straight to text, for arrays of numpy's own kind lose NUL at the end.
            given = np.asarray(values, STRING if text and isinstance(values, list) else None)
            converted = np.broadcast_to(given.astype(self._spec.dtype), shape)
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"the values do not fit a region of {self._spec.dtype}{shape}: {error}"
            raise InvalidInputError(msg, url=self._session.url, node=self._path) from error
        if not text:
            return np.ascontiguousarray(converted).reshape(shape)
        if self._type.buffer.kind == "S":
            msg = "text of fixed length is only read, not written"
            raise LayoutNotSupportedError(msg, url=self._session.url, node=self._path)
        if any("\x00" in item for item in converted.reshape(-1).tolist()):
            msg = "text with NUL cannot be stored in HDF5"
            raise InvalidInputError(msg, url=self._session.url, node=self._path)
        return converted.astype(object, order="C").astype(self._type.buffer).reshape(shape)

    def _check_sizes(self, shape: tuple[int, ...], *, new: bool) -> None:
        """Refuse a chunk or result that takes too much, before HDF5 takes memory for it."""
        width = self._type.buffer.itemsize
        if new:
            check_result(math.prod(shape) * width, self._session.url, self._path)
        check = check_chunk
        if is_string(self._spec.dtype):
            check = check_text
            check(width, self._session.url, self._path)
        if self._layout == h5d.CHUNKED:
            check(math.prod(self._spec.layout.chunks) * width, self._session.url, self._path)

    def _check_filters(self, *, writing: bool) -> None:
        if not self._filters_checked[writing]:
            check_filters(self._plan, writing=writing)
            self._filters_checked[writing] = True

    def _check_storage(self) -> None:
        """Refuse to let HDF5 read or write other files."""
        if not self._inside_file:
            node = self._node
            _check_inside(self._session, node, self._path, frozenset())
            in_one_piece = self._layout == h5d.CONTIGUOUS and self._spec.nbytes
            if in_one_piece and node.get_offset() and not node.get_storage_size():
                raise CorruptDataError("its data have a place in the file, and no length")
            self._inside_file = True


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    try:
        return np.empty(shape, dtype)
    except ValueError as error:  # more bytes than an address can count
        raise MemoryError from error


def _has_pattern(plan: Any) -> bool:
    """Return whether a dataset is a view of all datasets whose names are like a pattern."""
    return plan.get_layout() == h5d.VIRTUAL and any(
        "%" in plan.get_virtual_filename(index) + plan.get_virtual_dsetname(index)
        for index in range(plan.get_virtual_count())
    )


def _check_inside(session: Session, node: Any, path: str, above: frozenset[int]) -> None:
    """Refuse a dataset whose data lie in another file, directly or through a virtual dataset.

    Raises
    ------
    LayoutNotSupportedError
        If they do, or if virtual datasets refer to each other in a circle.
    """
    plan = (checked(node) if uses_heap(node.get_type()) else node).get_create_plist()
    if plan.get_external_count():
        msg = "its data lie in another file, which is not followed (external storage)"
        raise LayoutNotSupportedError(msg, url=session.url, node=path)
    if plan.get_layout() != h5d.VIRTUAL:
        return
    above = above | {facts(node).address}
    sources = {
        (plan.get_virtual_filename(index), plan.get_virtual_dsetname(index))
        for index in range(plan.get_virtual_count())
    }
    root = h5g.open(session.h5.id, b"/")
    for file, name in sorted(sources):
        if file != "." or "%" in name:
            msg = f"it is a view of another file ({file}), which is not followed"
            raise LayoutNotSupportedError(msg, url=session.url, node=path)
        try:
            source, where = resolve(session, root, "", name.strip("/"))
        except NotFoundError:
            continue
        if facts(source).address in above:
            msg = f"it is a view of itself, through {name}"
            raise LayoutNotSupportedError(msg, url=session.url, node=path)
        if isinstance(source, h5d.DatasetID):
            _check_inside(session, source, where, above)
