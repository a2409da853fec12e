"""Adding, renaming and removing maps: the store is written anew, and replaced when complete."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import numpy as np

from fmristore.formats.array import StoredArray
from fmristore.formats.maps.layout import map_spec, plan_maps
from fmristore.formats.nodes import write_texts
from fmristore.planning.blocks import box_shape, boxes
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.writer import encode_chunk, unit_chunks, write
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.grid import ChunkKey, chunk_region, grid_shape
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import (
    AnyArray,
    Array,
    Buffer,
    Capability,
    ChunkRefs,
    Group,
    RawWrite,
)
from fmristore_stores.publishing.claims import Turn
from fmristore_stores.publishing.prefix import check_expected
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, is_string

__all__ = ["rewrite_maps"]

Rows = Sequence[int | None]
"""For each new map the number of the old one; None for one that is new."""


def rewrite_maps(
    handle: Handle,
    labels: Sequence[str],
    rows: Rows,
    extra: AnyArray | None = None,
    *,
    turn: Turn,
    max_memory: int,
) -> None:
    """Replace a store of labelled maps by one with other maps.

    Parameters
    ----------
    handle : Handle
        The old store, in the layout of fmristore.
    labels : sequence of str
        Of the new maps.
    rows : sequence of int or None
        Where they come from.
    extra : ndarray, (V,), optional
        Numbers of the map that is new.
    turn : Turn
        At this store.
    max_memory : int
        Bytes that copying may take, besides one write unit.

    Raises
    ------
    ChangedError
        If the old store is not the one that was opened.
    ReadOnlyError
        If its protocol cannot write.
    """
    locator = handle.locator
    check_expected(locator.url, locator.kind, locator.options, locator.token)
    old = handle.store.root
    numbers = StoredArray(handle, "0")
    with create_store(
        locator.url,
        kind=locator.kind,
        overwrite=True,
        storage_options=locator.options,
        turn=turn,
        expected=locator.token,
    ) as store:
        _copy_tree(old, store.root, max_memory, leave={"0", "labels"})
        write_texts(store.root, "labels", "label", labels)
        spec = _new_spec(numbers.reader.spec, len(labels), store.capabilities)
        array = store.root.create_array("0", spec, numbers.attributes)
        _copy_maps(numbers.reader, array, rows, extra, max_memory)
        store.root.write_attributes(old.read_attributes())


def _new_spec(old: ArraySpec, maps: int, capabilities: Capability) -> ArraySpec:
    voxels = old.shape[old.dims.index("voxel")]
    layout = plan_maps((maps, voxels), old.dtype)
    return map_spec((maps, voxels), old.dtype, layout, capabilities, codec=old.codecs)


def _copy_tree(old: Group, new: Group, max_memory: int, *, leave: Collection[str] = ()) -> None:
    """Copy what lies below a group, also what is not known here."""
    links = []
    for name, child in old.children().items():
        if name in leave:
            continue
        if child.kind == "group":
            group = old.group(name)
            _copy_tree(group, new.create_group(name, group.read_attributes()), max_memory)
        elif child.kind == "array":
            source = old.array(name)
            attributes = source.read_attributes()
            _copy_array(source, new.create_array(name, source.spec, attributes), max_memory)
        elif not child.target.startswith("external:"):
            links.append((name, child.target))
    for name, target in links:
        new.link(name, target)


def _copy_array(source: Array, target: Array, max_memory: int) -> None:
    spec = source.spec
    if is_string(spec.dtype) or not spec.shape:
        target.write(None, source.read())
        return
    reader = ChunkReader(source)
    size = box_shape(spec.shape, spec.layout.units, spec.dtype.itemsize, max_memory // 4)
    for box in boxes(spec.shape, size):
        write(target, box, reader.read(box))


# Maps ----------------------------------------------------------------------------------------


def _copy_maps(
    reader: ChunkReader, array: Array, rows: Rows, extra: AnyArray | None, max_memory: int
) -> None:
    spec = array.spec
    source = _Maps(reader, rows, extra)
    if Capability.RAW_WRITE in array.capabilities and codecs.supported(spec.codecs):
        raw = cast("RawWrite", array)
        for index in np.ndindex(*grid_shape(spec.shape, spec.layout.units)):
            unit = tuple(int(i) for i in index)
            keys = unit_chunks(unit, spec)
            raw.write_encoded(unit, [source.encoded(key, spec) for key in keys])
        return
    size = box_shape(spec.shape, spec.layout.units, spec.dtype.itemsize, max_memory // 4)
    for box in boxes(spec.shape, size):
        write(array, box, source.values(box[0], box[1]))


class _Maps:
    """The new maps, made of the old ones."""

    def __init__(self, reader: ChunkReader, rows: Rows, extra: AnyArray | None) -> None:
        self._reader = reader
        self._rows = rows
        self._extra = extra
        self._transposed = reader.spec.dims.index("voxel") == 0

    def values(self, maps: slice, voxels: slice) -> AnyArray:
        """Numbers of some maps, (maps, voxels)."""
        return np.stack([self._row(row, voxels) for row in self._rows[maps.start : maps.stop]])

    def _row(self, row: int | None, voxels: slice) -> AnyArray:
        if row is None:
            assert self._extra is not None
            return self._extra[voxels]
        one = slice(row, row + 1, 1)
        part = slice(voxels.start, voxels.stop, 1)
        region = (part, one) if self._transposed else (one, part)
        return self._reader.read(region).reshape(-1)

    def encoded(self, key: ChunkKey | None, spec: ArraySpec) -> Buffer | None:
        """A chunk of the new array: the bytes of the old one where it has the same numbers."""
        if key is None:
            return None
        maps, voxels = chunk_region(key, spec.shape, spec.layout.chunks)
        old = self._old_key(key, maps, spec)
        if old is not None:
            refs = cast("ChunkRefs", self._reader.array)
            (ref,) = refs.refs([old])
            if ref is not None and not ref.skip:
                return refs.fetch([ref.range])[0]
        return encode_chunk(spec, self.values(maps, voxels))

    def _old_key(self, key: ChunkKey, maps: slice, spec: ArraySpec) -> ChunkKey | None:
        """Chunk of the old array that holds the same maps at the same places, None if none does."""
        old, height = self._reader.spec, spec.layout.chunks[0]
        same = old.memory.layout.chunks == spec.memory.layout.chunks
        direct = Capability.CHUNK_REFS in self._reader.array.capabilities
        if (
            not (same and direct)
            or old.dims != spec.dims
            or not codecs.equivalent(old.codecs, spec.codecs)
        ):
            return None
        first = self._rows[maps.start]
        if first is None or first % height:
            return None
        end = min(first + height, old.shape[0])
        if list(self._rows[maps.start : maps.stop]) != list(range(first, end)):
            return None
        return first // height, key[1]
