"""Layout of labelled maps in a store: reading, writing and changing them.

What is written, read and changed agree line by line, so all are in this one long module.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, cast

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.fill import Fill, check_fill, fill_attribute, read_fill
from fmristore.formats.matrix import ArrayMatrix, Matrix
from fmristore.formats.new_arrays import NewArray, write_bytes, write_plain, write_texts
from fmristore.formats.nodes import (
    format_attributes,
    read_bytes,
    require_headers,
    space_attributes,
    with_holds,
    write_grid,
    write_metadata,
    write_names,
)
from fmristore.formats.registry import NativeLayout
from fmristore.formats.series_blocks import SeriesBlock, write_blocks
from fmristore.formats.voxel_nodes import VoxelNodes, voxel_nodes, write_voxels
from fmristore.model.digest import digest_array, is_digest
from fmristore.model.space import NeuroSpace, name_of_space
from fmristore.model.voxels import VoxelSet
from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.chunking import even, shard_shape
from fmristore.planning.layout import adapt_spec, choose_codecs
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore.sources.facts import plain_tables
from fmristore_stores.causes import naming
from fmristore_stores.chunks.encoded import fetch_encoded
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.writer import encode_chunk, unit_chunks, write
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import CorruptDataError, MemoryLimitError, MetadataError
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
    Store,
)
from fmristore_stores.publishing.claims import Turn
from fmristore_stores.publishing.prefix import check_expected
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec, check_attributes, is_string

__all__ = [
    "LabeledContent",
    "MapInputs",
    "MapsLayout",
    "band_rows",
    "map_spec",
    "plan_maps",
    "read_headers",
    "read_labeled_content",
    "read_texts",
    "rewrite_maps",
    "write_headers",
    "write_labeledvolumeset",
]

_MAP_BYTES = 1024 * 1024

"""Maps smaller than this share a chunk."""

_LARGEST_CHUNK = 16 * 1024 * 1024

_MOST_LABELS = 1 << 24

_HEADERS = ("nifti", "nifti_end", "nifti_of_map")


class MapInputs(ABC):
    """Maps on one grid, with their labels; no data are read before they are asked for.

    Parameters
    ----------
    labels : tuple of str
        One for each map.
    space : NeuroSpace
        Their grid.
    dtype : dtype
        That their data are to have.
    headers : sequence of bytes, optional
        NIfTI header of each map; empty where it has none.
    """

    whole: ClassVar[bool]
    """True if the maps can only be read all together."""

    def __init__(
        self,
        labels: tuple[str, ...],
        space: NeuroSpace,
        dtype: np.dtype[Any],
        headers: Sequence[bytes],
    ) -> None:
        self.labels = labels
        self.space = space
        self.dtype = dtype
        self.headers = tuple(headers)
        self.metadata: Mapping[str, Any] = {}

    def know(self, space_name: str | int | None, metadata: Mapping[str, Any]) -> None:
        """Let the maps be in a space of that name, and keep what else is known of them.

        Raises
        ------
        InvalidInputError
            If JSON does not hold the metadata.
        """
        from fmristore.nifti import header_in_space

        self.metadata = check_attributes(plain_tables(metadata))
        name = name_of_space(space_name)
        if name is not None:
            self.space = replace(self.space, space_name=name)
            self.headers = tuple(raw and header_in_space(raw, name) for raw in self.headers)

    @abstractmethod
    def blocks(self, voxels: VoxelSet, rows: slice, max_memory: int) -> Iterator[SeriesBlock]:
        """Values of the maps `rows` (all of them if `whole`), in the voxels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledContent:
    """Contents of a stored set of labelled maps, as its class takes them.

    Parameters
    ----------
    nodes : VoxelNodes
        Which voxels they have.
    maps : Matrix, (V, L)
        Their values.
    count : int
        How many there are.
    labels : str
        Path of their labels.
    headers : str
        Path of their NIfTI headers, which need not exist.
    writable : bool
        Whether this is the layout of fmristore, so that maps can be added.
    """

    nodes: VoxelNodes
    maps: Matrix
    count: int
    labels: str = "labels"
    headers: str = "nifti"
    writable: bool = True


class MapsLayout(NativeLayout):
    """Maps as fmristore stores them: a matrix of maps and voxels."""

    def read(self, handle: Handle) -> LabeledContent:
        """Docstring inherited."""
        return read_labeled_content(handle)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        stack, voxels = content
        write_labeledvolumeset(
            store.root,
            stack,
            voxels,
            capabilities=store.capabilities,
            codec=options.codec,
            fill=options.fill,
            max_memory=options.max_memory,
            progress=progress,
        )


def read_labeled_content(handle: Handle) -> LabeledContent:
    """Find the contents of a set of maps that is the root group of a store.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """
    data = StoredArray(handle, "0")
    spec = data.reader.spec
    if set(spec.dims) != {"label", "voxel"} or spec.dtype.kind not in "iufc" or 0 in spec.shape:
        raise MetadataError(
            f"axes are named {spec.dims}, of lengths {spec.shape} and type {spec.dtype}: "
            "expected numbers with axes label and voxel",
            url=handle.locator.url,
            node="0",
        )
    length = dict(zip(spec.dims, spec.shape, strict=True))
    fill = read_fill(data.attributes, spec.dtype, url=handle.locator.url)
    return LabeledContent(
        nodes=voxel_nodes(handle, length["voxel"], fill=fill),
        maps=ArrayMatrix(data, "voxel", kinds="iufc"),
        count=length["label"],
    )


def read_texts(handle: Handle, path: str, count: int | None = None) -> tuple[str, ...]:
    """Read labels.

    Parameters
    ----------
    handle : Handle
        The store.
    path : str
        Of an array of text with one axis, or none (one label).
    count : int, optional
        How many there must be.

    Raises
    ------
    MetadataError
        If they are no texts, or not that many.
    MemoryLimitError
        If there are too many to be handled.
    """
    array = StoredArray(handle, path)
    spec = array.reader.spec
    found = int(np.prod(spec.shape, dtype=object))
    if not is_string(spec.dtype) or len(spec.shape) > 1 or count not in (None, found):
        raise MetadataError(
            f"labels of shape {spec.shape} and type {spec.dtype}: expected texts"
            + ("" if count is None else f", one for each of {count} maps"),
            url=handle.locator.url,
            node=path,
        )
    if found > _MOST_LABELS:
        raise MemoryLimitError(
            f"{found} labels are more than can be handled", url=handle.locator.url, node=path
        )
    return tuple(str(text) for text in np.atleast_1d(array.read_small(_MOST_LABELS)))


def write_headers(group: Group, headers: Sequence[bytes]) -> None:
    """Write the NIfTI headers of maps, each different one once; nothing if there are none."""
    different = [raw for raw in dict.fromkeys(headers) if raw]
    if not different:
        return
    write_bytes(group, "nifti", "nifti_byte", b"".join(different))
    ends = np.cumsum([len(raw) for raw in different], dtype=np.int64)
    write_plain(group, "nifti_end", ("header",), ends)
    places = {raw: place for place, raw in enumerate(different)}
    of_map = np.array([places.get(raw, -1) for raw in headers], np.int32)
    write_plain(group, "nifti_of_map", ("label",), of_map)


def read_headers(handle: Handle, path: str, count: int) -> tuple[bytes, ...]:
    """Read what `write_headers` wrote: a header for each of `count` maps, empty where it has none.

    Raises
    ------
    MetadataError
        If they do not fit each other.
    """
    data = read_bytes(handle, path)
    if not data:
        return (b"",) * count
    ends = StoredArray(handle, f"{path}_end").read_small(count).astype(np.int64)
    of_map = StoredArray(handle, f"{path}_of_map").read_small(count).astype(np.int64)
    bounds = np.concatenate([[0], ends.ravel()])
    fits = of_map.shape == (count,) and bounds[-1] == len(data) and (np.diff(bounds) > 0).all()
    if not fits or (of_map < -1).any() or (of_map >= len(bounds) - 1).any():
        raise MetadataError(
            "the NIfTI headers of the maps do not fit the maps",
            url=handle.locator.url,
            node=f"{path}_of_map",
        )
    parts = [data[start:end] for start, end in pairwise(bounds.tolist())]
    require_headers(parts, handle.locator.url, path)
    return tuple(parts[place] if place >= 0 else b"" for place in of_map.tolist())


def plan_maps(shape: tuple[int, int], dtype: np.dtype[Any]) -> ChunkLayout:
    """Choose chunks for maps that are read whole: one in a chunk, or several if they are small.

    Parameters
    ----------
    shape : (int, int)
        Maps and voxels.
    dtype : dtype
        Of the data.
    """
    maps, voxels = shape
    width = even(voxels, _LARGEST_CHUNK // dtype.itemsize)
    rows = even(maps, max(1, _MAP_BYTES // (voxels * dtype.itemsize)))
    chunks = (rows, width)
    return ChunkLayout(chunks=chunks, shards=shard_shape(shape, chunks, dtype.itemsize))


def write_labeledvolumeset(  # noqa: PLR0913
    group: Group,
    stack: MapInputs,
    voxels: VoxelSet,
    *,
    capabilities: Capability,
    codec: str = "dual",
    fill: Fill = 0,
    max_memory: int | str = 1 << 30,
    progress: Progress | None = None,
) -> None:
    """Write maps below a group.

    Parameters
    ----------
    group : Group
        New and empty.
    stack : MapInputs
        The maps; each is read once.
    voxels : VoxelSet
        Voxels to store, in order of their index with x varying fastest.
    capabilities : Capability
        Of the store.
    codec : str
        Preset.
    fill : int or float
        What voxels outside the mask are read as.
    max_memory : int or str
        Bytes that writing may take.
    progress : callable, optional
        Called with the bytes of stored values done and in all.

    Raises
    ------
    InvalidInputError
        If `fill` is no number of the type of the maps.
    """
    max_memory = parse_size(max_memory)
    outside = check_fill(fill, stack.dtype)
    write_grid(group, stack.space)
    write_voxels(group, voxels, codec)
    write_names(group, "label", stack.labels)
    write_texts(group, "labels", "label", stack.labels)
    write_headers(group, stack.headers)
    write_metadata(group, stack.metadata)
    shape = (len(stack.labels), len(voxels))
    layout = plan_maps(shape, stack.dtype)
    spec = map_spec(shape, stack.dtype, layout, capabilities, codec=codec)
    array = NewArray(group, "0", spec, {"fill": fill_attribute(outside)})
    step = shape[0] if stack.whole else band_rows(spec, max_memory)
    for first in range(0, shape[0], step):
        rows = slice(first, min(first + step, shape[0]), 1)
        write_blocks(
            array,
            stack.blocks(voxels, rows, max_memory),
            rows=rows,
            voxel_axis=1,
            max_memory=max_memory,
            progress=progress,
        )
    array.finish()
    attributes = format_attributes("labeledvolumeset") | space_attributes(stack.space)
    group.write_attributes(with_holds(group, attributes))


def map_spec(
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    layout: ChunkLayout,
    capabilities: Capability,
    *,
    codec: str | tuple[CodecSpec, ...],
) -> ArraySpec:
    """Spec of the matrix of maps; `codec` is a preset or a pipeline."""
    spec = ArraySpec(shape=shape, dtype=dtype, dims=("label", "voxel"), layout=layout)
    codecs = choose_codecs(codec, spec) if isinstance(codec, str) else codec
    return adapt_spec(replace(spec, codecs=codecs), capabilities)


def band_rows(spec: ArraySpec, max_memory: int) -> int:
    """Maps to gather at a time: whole write units, as many as fit."""
    unit = spec.layout.units[0]
    row = spec.shape[1] * spec.dtype.itemsize
    return unit * max(1, max_memory // 2 // (unit * row))


Rows = Sequence[int | None]

"""For each new map the number of the old one; None for one that is new."""


def rewrite_maps(
    handle: Handle,
    labels: Sequence[str],
    rows: Rows,
    extra: AnyArray | None = None,
    *,
    headers: Sequence[bytes] = (),
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
        Values of the map that is new.
    headers : sequence of bytes
        NIfTI header of each new map; empty where it has none.
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
    CorruptDataError
        If the values of the old maps are not those of which the digest was recorded.
    """
    locator = handle.locator
    check_expected(locator.url, locator.kind, locator.options, locator.token)
    old = handle.store.root
    data = StoredArray(handle, "0")
    with create_store(
        locator.url,
        kind=locator.kind,
        overwrite=True,
        storage_options=locator.options,
        turn=turn,
        expected=locator.token,
    ) as store:
        with naming(locator.url):
            _copy_tree(old, store.root, max_memory, leave={"0", "label", "labels", *_HEADERS})
        write_names(store.root, "label", labels)
        write_texts(store.root, "labels", "label", labels)
        write_headers(store.root, headers)
        spec = _new_spec(data.reader.spec, len(labels), store.capabilities)
        attributes = data.attributes
        source = _Maps(data.reader, rows, extra, attributes.get("digest"))
        array = NewArray(store.root, "0", spec, attributes)
        _copy_maps(source, array, max_memory)
        source.check(max_memory)
        array.finish()
        store.root.write_attributes(with_holds(store.root, old.read_attributes()))


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
    size = block_shape(spec.shape, spec.layout.units, spec.dtype.itemsize, max_memory, share=4)
    for block in cut_into_blocks(spec.shape, size):
        write(target, block, reader.read(block))


# Maps ----------------------------------------------------------------------------------------
def _copy_maps(source: _Maps, array: NewArray, max_memory: int) -> None:
    spec = array.spec
    if Capability.RAW_WRITE in array.array.capabilities and codecs.supported(spec.codecs):
        raw = cast("RawWrite", array.array)
        for index in np.ndindex(*grid_shape(spec.shape, spec.layout.units)):
            unit = tuple(int(i) for i in index)
            keys = unit_chunks(unit, spec)
            raw.write_encoded(unit, [source.encoded(key, array) for key in keys])
        return
    size = block_shape(spec.shape, spec.layout.units, spec.dtype.itemsize, max_memory, share=4)
    for block in cut_into_blocks(spec.shape, size):
        array.write(block, source.values(block[0], block[1]))


class _Maps:
    """The new maps, made of the old ones.

    Parameters
    ----------
    reader : ChunkReader
        Of the old maps.
    rows : sequence of int or None
        Where the new ones come from.
    extra : ndarray, (V,), optional
        Values of the map that is new.
    recorded : object
        Digest of the old maps, if there is one.
    """

    def __init__(
        self, reader: ChunkReader, rows: Rows, extra: AnyArray | None, recorded: object
    ) -> None:
        self._reader = reader
        self._rows = rows
        self._extra = extra
        self._transposed = reader.spec.dims.index("voxel") == 0
        self._recorded = recorded if is_digest(recorded) else None

    def values(self, maps: slice, voxels: slice) -> AnyArray:
        """Values of some maps, (maps, voxels)."""
        return np.stack([self._row(row, voxels) for row in self._rows[maps.start : maps.stop]])

    def _row(self, row: int | None, voxels: slice) -> AnyArray:
        if row is None:
            assert self._extra is not None
            return self._extra[voxels]
        one = slice(row, row + 1, 1)
        part = slice(voxels.start, voxels.stop, 1)
        region = (part, one) if self._transposed else (one, part)
        return self._reader.read(region).reshape(-1)

    def check(self, max_memory: int) -> None:
        """Check that the old maps are those that were written: the new digest covers them.

        Raises
        ------
        CorruptDataError
            If they are not.
        """
        if self._recorded is None:
            return
        recorded = str(self._recorded)
        memory = max(max_memory // 2, 2 * self._reader.spec.chunk_nbytes)
        if digest_array(self._reader, recorded, max_memory=memory) != recorded:
            raise CorruptDataError(
                "the maps are not those that were written: their digest is another; nothing was "
                "changed",
                node=self._reader.array.path,
            )

    def encoded(self, key: ChunkKey | None, array: NewArray) -> Buffer | None:
        """A chunk of the new array: the bytes of the old one where it has the same values."""
        if key is None:
            return None
        spec = array.spec
        maps, voxels = chunk_region(key, spec.shape, spec.layout.chunks)
        old = self._old_key(key, maps, spec)
        if old is not None:
            (found,) = fetch_encoded(cast("ChunkRefs", self._reader.array), [old])
            if found is not None and not found.ref.skip:
                array.observe(key, self.values(maps, voxels))
                return found.data
        values = self.values(maps, voxels)
        array.observe(key, values)
        return encode_chunk(spec, values)

    def _old_key(self, key: ChunkKey, maps: slice, spec: ArraySpec) -> ChunkKey | None:
        """Chunk of the old array that holds the same maps at the same places, None if none does."""
        old, height = self._reader.spec, spec.layout.chunks[0]
        same = (old.layout.chunks, old.layout.axes) == (spec.layout.chunks, spec.layout.axes)
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
