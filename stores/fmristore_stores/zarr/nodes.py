"""Groups and arrays of a Zarr store: handles to nodes of a `Tree`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.threads import later, meanwhile
from fmristore_stores.chunks.writer import encode_chunk, units_of, write
from fmristore_stores.errors import (
    CorruptDataError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
)
from fmristore_stores.grid import ChunkKey, Region, overlaps, parse_region, region_shape
from fmristore_stores.io.lifetime import Reading
from fmristore_stores.limits import check_chunk, check_result, check_text
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
from fmristore_stores.spec import STRING, ArraySpec, Attributes, is_string
from fmristore_stores.zarr.attributes import AttributesView
from fmristore_stores.zarr.errors import zarr_errors
from fmristore_stores.zarr.frames import check_format_2
from fmristore_stores.zarr.shards import ChunkLocator
from fmristore_stores.zarr.tree import ArrayNode, Tree

__all__ = ["ZarrArray", "ZarrGroup"]

_TEXT = 16
"""Bytes of numpy's entry for a text, besides the text."""
_MANY = 2**62
"""Number of objects of a folder that shall not be listed to find one of them."""
_NOTHING = ChunkCache(0)
"""The store's own reads fetch what is stored now."""
_ENCODED = Capability.CHUNK_REFS | Capability.RAW_WRITE | Capability.GROWTH


class _Handle:
    """Common base of groups and arrays: a place, and attributes."""

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree = tree
        self._path = path

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
        NotFoundError
            If the node was removed.
        """
        return self._tree.live().read_attributes(self._path)

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Replace all attributes by these.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If a name or value cannot be stored; nothing changes then.
        """
        self._tree.live(write=True).write_attributes(self._path, attributes)

    def _at(self, path: str) -> str:
        return f"{self._path}/{path}" if self._path else path


class ZarrGroup(_Handle):
    """A group of a `ZarrStore`."""

    def view_attributes(self) -> Mapping[str, Any]:
        """All attributes, not to be changed; each is checked when it is asked for."""
        tree = self._tree.live()
        return AttributesView(tree.group(self._path).attributes, tree.url, self._path)

    def children(self, *, tolerant: bool = False) -> dict[str, Child]:
        """Names and kinds of the direct children, sorted by name.

        Files and folders that are not nodes of Zarr are left out.

        Parameters
        ----------
        tolerant : bool
            List a child whose metadata are damaged, or not understood, as ``"unreadable"``.

        Raises
        ------
        ClosedError
            If the store is closed.
        MetadataError
            If the metadata of a child are damaged and `tolerant` is false.
        StorageError
            If the storage cannot list its content and the metadata are not consolidated.

        Notes
        -----
        Of a remote store with consolidated metadata it costs nothing, else one listing and one
        small read for each child.
        """
        return self._tree.live().children(self._path, tolerant=tolerant)

    def has(self, name: str) -> bool:
        """Return whether there is a direct child of that name, without reading its metadata.

        Raises
        ------
        ClosedError
            If the store is closed.
        MetadataError
            If a symbolic link leads out of the store.
        StorageError
            If the disk or the service failed.

        Notes
        -----
        Of a remote store with consolidated metadata it costs nothing, else one small request.
        """
        return self._tree.live().has(self._at(name)) if name and "/" not in name else False

    def group(self, path: str) -> ZarrGroup:
        """Open a group below this one; `path` may have several segments.

        Raises
        ------
        ClosedError
            If the store is closed.
        NotFoundError
            If there is no group at `path`.
        MetadataError
            If its metadata are damaged.
        """
        at = self._at(path) if path else ""
        if not path:
            raise NotFoundError("there is no such group", url=self._tree.url, node=self._path)
        self._tree.live().group(at)
        return ZarrGroup(self._tree, at)

    def array(self, path: str) -> ZarrArray:
        """Open an array below this one; `path` may have several segments.

        Raises
        ------
        ClosedError
            If the store is closed.
        NotFoundError
            If there is no array at `path`.
        MetadataError
            If its metadata are damaged or it is of a kind that cannot be used.
        CodecError
            If one of its codecs is not known to zarr-python.
        """
        at = self._at(path)
        return ZarrArray(self._tree, at, self._tree.live().array(at))

    def create_group(self, name: str, attributes: Mapping[str, Any] | None = None) -> ZarrGroup:
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
        path = self._tree.live(write=True).new_group(self._path, name, attributes or {})
        return ZarrGroup(self._tree, path)

    def create_array(
        self, name: str, spec: ArraySpec, attributes: Mapping[str, Any] | None = None
    ) -> ZarrArray:
        """Make a direct child array of exactly this spec; all of it reads as the fill value.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If the name, an attribute or the fill value cannot be stored.
        AlreadyExistsError
            If there is a child of that name.
        LayoutNotSupportedError
            If a chunk is longer than its axis, or zarr-python refuses the layout.
        CodecError
            If a codec cannot be written in Zarr metadata.
        """
        tree = self._tree.live(write=True)
        path = tree.new_array(self._path, name, spec, attributes or {})
        return ZarrArray(self._tree, path, tree.array(path))

    def remove(self, name: str) -> None:
        """Delete a direct child with everything below it.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        NotFoundError
            If there is no child of that name.
        """
        self._tree.live(write=True).remove(self._path, name)

    def link(self, name: str, target: str) -> None:
        """Refuse: Zarr has no links.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        LayoutNotSupportedError
            Always otherwise.
        """
        self._tree.live(write=True)
        msg = f"Zarr has no links: {name!r} cannot be a second name of {target!r}"
        raise LayoutNotSupportedError(msg, url=self._tree.url, node=self._path or None)


class ZarrArray(_Handle):
    """An array of a `ZarrStore`."""

    def __init__(self, tree: Tree, path: str, node: ArrayNode) -> None:
        super().__init__(tree, path)
        self._spec = node.spec
        self._locator = node.locator

    @property
    def spec(self) -> ArraySpec:
        """Shape, dtype, axis names, layout and codecs, as the metadata say."""
        return self._spec

    @property
    def capabilities(self) -> Capability:
        """Those of the store, without encoded chunks where only zarr-python can read them."""
        of_store = self._tree.capabilities
        return of_store if self._locator is not None else of_store & ~_ENCODED

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Read a region, ``None`` for everything: through zarr-python, but for a single chunk.

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
        CorruptDataError
            If a chunk cannot be decoded, or one of texts is missing that fmristore has written.
        StorageError
            If the disk or the service failed.
        """
        tree = self._tree.live()
        parsed = parse_region(region, self._spec.shape)
        shape, dtype = region_shape(parsed), self._spec.dtype
        if out is not None and (out.shape != shape or out.dtype != dtype):
            msg = f"out is {out.dtype}{out.shape} where {dtype}{shape} is read"
            raise InvalidInputError(msg, url=self._tree.url, node=self._path)
        if 0 in shape:
            return np.empty(shape, dtype) if out is None else out
        itemsize = dtype.itemsize
        if is_string(dtype):
            itemsize = _TEXT
            filled = max(math.prod(shape), math.prod(self._spec.layout.chunks))
            check_text(filled * len(str(self._spec.fill or "")), tree.url, self._path)
        check_result(math.prod(shape) * itemsize, tree.url, self._path)
        check_chunk(math.prod(self._spec.layout.chunks) * itemsize, tree.url, self._path)
        if self._locator is not None and self._is_one_chunk:
            return ChunkReader(self, cache=_NOTHING, url=self._tree.url).read(parsed, out)
        with self.reading(), zarr_errors(self._tree.url, self._path, CorruptDataError):
            array = tree.zarr_array(self._path)
            if array.metadata.zarr_format == 2:
                _check_bounds(tree, self._path, parsed)
            values = _plain(np.asarray(array[parsed]), dtype)
            if is_string(dtype) and "" in values and tree.finished:
                _check_written(tree, self._path, parsed)
                values = _plain(np.asarray(array[parsed]), dtype)
        if out is None:
            return values.reshape(shape)
        out[...] = values
        return out

    def write(self, region: Region | None, values: Any) -> None:
        """Overwrite a region, ``None`` for everything: through zarr-python, but for a single chunk.

        Chunks that the region covers in part are read, changed and written again.

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
            If the values cannot be converted or broadcast, or an array that gets longer is written
            by less than whole units; nothing changes then.
        CorruptDataError
            If a chunk that has to be changed cannot be decoded.
        StorageError
            If the disk or the service failed.
        """
        tree = self._tree.live(write=True)
        parsed = parse_region(region, self._spec.shape)
        shape = region_shape(parsed)
        try:
            converted = np.asarray(values).astype(self._spec.dtype)
            whole = np.broadcast_to(converted, shape)
            if is_string(self._spec.dtype):
                # Zarr-python's codec for text takes the elements in the order of memory.
                whole = np.asarray(whole, order="C")
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"the values do not fit a region of {self._spec.dtype}{shape}: {error}"
            raise InvalidInputError(msg, url=self._tree.url, node=self._path) from error
        if 0 in shape:
            return
        if self._spec.shape > tree.array(self._path).spec.shape:
            self._write_longer(parsed, whole)
        elif self._locator is not None and self._is_one_chunk and shape == self._spec.shape:
            self._locator.write((0,) * len(shape), [encode_chunk(self._spec, whole)])
        else:
            with zarr_errors(self._tree.url, self._path, CorruptDataError):
                tree.zarr_array(self._path)[parsed] = whole
        tree.ledger.values(self._path, whole, whole=shape == self._spec.shape)

    def _write_longer(self, region: Region, values: AnyArray) -> None:
        """Write whole units of an array that zarr-python does not know to be as long as that."""
        if units_of(region, self._spec) is None:
            msg = (
                f"an array that gets longer is written by whole units of {self._spec.layout.units}"
            )
            raise InvalidInputError(msg, url=self._tree.url, node=self._path)
        write(self, region, values)

    @property
    def _is_one_chunk(self) -> bool:
        """True if all of it is one object, which is written as such."""
        layout, shape = self._spec.layout, self._spec.shape
        whole = all(c >= n for c, n in zip(layout.chunks, shape, strict=True))
        return bool(shape) and whole and not layout.shards

    # Encoded chunks ----------------------------------------------------------------------------

    @property
    def policy(self) -> FetchPolicy:
        """Best way of asking for its byte ranges."""
        return self._tree.live().source.policy

    def reading(self) -> Reading:
        """Context of one read: the store stays open, and is the one that was opened.

        Raises
        ------
        ClosedError
            On entering, if the store is closed.
        ChangedError
            On leaving, if the store was replaced meanwhile.
        """
        return self._tree.lifetime.reading()

    def refs(self, keys: Sequence[ChunkKey], along: Along | None = None) -> list[ChunkRef | None]:
        """Locate encoded chunks; ``None`` for one that was never written.

        Parameters
        ----------
        keys : sequence of tuple of int
            Chunks.
        along : callable, optional
            Takes chunks that came with their index: those of shards on object storage that are
            wanted whole.

        Raises
        ------
        ClosedError
            If the store is closed.
        LayoutNotSupportedError
            If the array does not have `Capability.CHUNK_REFS`.
        SelectionError
            If a key lies outside the grid of chunks.
        CorruptDataError
            If the index of a shard is damaged.
        MetadataError
            If a symbolic link leads out of the store.
        StorageError
            If the disk or the service failed.

        Notes
        -----
        Locally one ``lstat`` for each object. Remotely the array's objects are listed if that
        takes no more requests than asking for the size of each. For a shard its index is read as
        well. In mode ``"r"`` sizes and indexes are remembered.
        """
        tree = self._tree.live()
        if along is None:
            return self._chunks().refs(keys)
        with later(tree.lifetime.check) as check:
            return self._chunks().refs(keys, along, check)

    def stored(self) -> AnyArray | None:
        """Numbers of the chunks that are there, by listing; None where nothing can be listed.

        Raises
        ------
        ClosedError, LayoutNotSupportedError, CorruptDataError, StorageError
            As `refs`.
        """
        self._tree.live()
        return self._chunks().stored()

    def fetch(
        self, ranges: Sequence[ByteRange], into: Sequence[AnyArray | None] = ()
    ) -> list[Buffer]:
        """Bytes of each range, in order; every result has exactly the length asked for.

        Raises
        ------
        ClosedError
            If the store is closed.
        CorruptDataError
            If a range lies beyond the end of its file.
        NotFoundError, StorageError
            If the file is gone, or the disk or the service failed.
        """
        source = self._tree.live().source
        version = source.version
        if version is not None and version.awaits({item.source for item in ranges}):
            # The indexes of the shards are here: their versions are checked while chunks arrive.
            with meanwhile(version.check):
                return source.fetch(ranges, into)
        return source.fetch(ranges, into)

    def write_encoded(self, unit: ChunkKey, chunks: Sequence[Buffer | None]) -> None:
        """Write one whole unit (a shard, or a chunk where there are no shards).

        Where all chunks are ``None`` nothing is stored, and what was there is removed.

        Parameters
        ----------
        unit : ChunkKey
            Position in the grid of ``spec.layout.units``.
        chunks : sequence of bytes or None
            Encoded chunks of the unit, last axis fastest.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        LayoutNotSupportedError
            If the array does not have `Capability.RAW_WRITE`.
        SelectionError
            If `unit` lies outside the grid.
        InvalidInputError
            If the number of chunks is not that of a unit.
        StorageError
            If the disk or the service failed.
        """
        tree = self._tree.live(write=True)
        self._chunks().write(unit, chunks)
        if any(chunk is not None for chunk in chunks):
            tree.ledger.encoded(self._path)

    @contextlib.contextmanager
    def longer(self, length: int) -> Iterator[ZarrArray]:
        """Context in which the array has more along its first axis, and may be written there.

        Readers see the longer array when the block has ended, and nothing of it if that raises or
        the process is killed: what was written is in the files before the shape is.

        Parameters
        ----------
        length : int
            Of the first axis.

        Yields
        ------
        ZarrArray
            The longer array; this one stays as it is.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        InvalidInputError
            If the last unit along the first axis is not full, or the array would be shorter.
        LayoutNotSupportedError
            If the array does not have `Capability.GROWTH`.
        ChangedError
            If another writer changed it meanwhile.
        StorageError
            If the disk or the service failed.
        """
        tree = self._tree.live(write=True)
        self._chunks()
        with tree.longer(self._path, length) as node:
            yield ZarrArray(tree, self._path, node)

    def stored_units(self) -> int | None:
        """Number of write units that are there; None where they are not counted.

        Raises
        ------
        ClosedError
            If the store is closed.
        MetadataError
            If a symbolic link leads out of the store.
        StorageError
            If the disk or the service failed.
        """
        self._tree.live()
        return None if self._locator is None else self._locator.stored_units()

    def _chunks(self) -> ChunkLocator:
        if self._locator is None:
            msg = "the encoded chunks of this array can be read by zarr-python only"
            raise LayoutNotSupportedError(msg, url=self._tree.url, node=self._path)
        return self._locator


def _check_bounds(tree: Tree, path: str, region: Region) -> None:
    """Check that no chunk of format 2 behind a region claims more than it can hold."""
    spec, metadata = tree.array(path).spec, tree.zarr_array(path).metadata
    prefix = f"{path}/" if path else ""
    count = math.prod(spec.layout.chunks)
    itemsize = None if is_string(spec.dtype) else spec.dtype.itemsize
    for overlap in overlaps(region, spec.layout.chunks):
        key = prefix + metadata.encode_chunk_key(overlap.key)
        (size,) = tree.files.sizes([key], path, _MANY)
        if size:
            (data,) = tree.source.fetch([ByteRange(tree.files.path(key), 0, size)])
            check_format_2(metadata, data, count=count, itemsize=itemsize)


def _check_written(tree: Tree, path: str, region: Region) -> None:
    """Check that the objects behind a region of an array are there, and can be read.

    Zarr-python takes what is not found for what was never written. Chunks of values are found by
    their references, which tell.
    """
    units = [overlap.key for overlap in overlaps(region, tree.array(path).spec.layout.units)]
    metadata = tree.zarr_array(path).metadata
    keys = [f"{path}/{metadata.encode_chunk_key(unit)}" for unit in units]
    for key, size in zip(keys, tree.files.sizes(keys, path, len(keys)), strict=True):
        if size is None:
            raise CorruptDataError(f"chunk {key} is missing: the data are damaged")
        tree.source.fetch([ByteRange(tree.files.path(key), 0, size)])


def _plain(values: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    """Values as read, in the dtype of the spec."""
    if not is_string(dtype):
        return values.astype(dtype, copy=False)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    return values.astype(STRING)
