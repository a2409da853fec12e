"""Where in a store labelled maps are, what they say, and how they are written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.image.writer import write_coordinates
from fmristore.formats.maps.inputs import MapStack
from fmristore.formats.nodes import format_attributes, space_attributes, write_texts
from fmristore.formats.voxel_source import write_parts
from fmristore.formats.voxelwise import (
    Fill,
    VoxelNodes,
    check_fill,
    fill_attribute,
    read_columns,
    read_fill,
    voxel_nodes,
    write_voxels,
)
from fmristore.model.voxels import VoxelSet
from fmristore.planning.chunking import even, shard_shape
from fmristore.planning.layout import adapt_spec, choose_codecs
from fmristore.planning.progress import Progress
from fmristore_stores.errors import MemoryLimitError, MetadataError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Capability, Group
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec, is_string

__all__ = [
    "LabeledParts",
    "MapRows",
    "MatrixMaps",
    "band_rows",
    "map_spec",
    "plan_maps",
    "read_labeled_parts",
    "read_texts",
    "write_labeledvolumeset",
]

_MAP_BYTES = 1024 * 1024
"""Maps smaller than this share a chunk."""
_LARGEST_CHUNK = 16 * 1024 * 1024
_MOST_LABELS = 1 << 24


class MapRows(Protocol):
    """Numbers of maps in the voxels of the mask, however a store arranges them."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Arrays that hold the numbers."""

    def read(self, maps: slice, rows: NDArray[np.integer[Any]]) -> AnyArray:
        """Numbers of some voxels, given by increasing numbers, in some maps: (voxels, maps)."""


class MatrixMaps:
    """Maps that are the rows of one matrix.

    Parameters
    ----------
    array : StoredArray
        Axes ``label`` and ``voxel``, in any order.
    """

    def __init__(self, array: StoredArray) -> None:
        self.array = array
        self.arrays = (array,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self.array.reader.spec.dtype

    def read(self, maps: slice, rows: NDArray[np.integer[Any]]) -> AnyArray:
        """Numbers of some voxels in some maps, (voxels, maps)."""
        reader = self.array.reader
        return read_columns(reader, reader.spec.dims.index("voxel"), rows, maps)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledParts:
    """What makes a set of labelled maps.

    Parameters
    ----------
    nodes : VoxelNodes
        Which voxels they have.
    maps : MapRows
        Their numbers.
    count : int
        How many there are.
    labels : str
        Path of their labels.
    writable : bool
        Whether this is the layout of fmristore, so that maps can be added.
    """

    nodes: VoxelNodes
    maps: MapRows
    count: int
    labels: str = "labels"
    writable: bool = True


def read_labeled_parts(handle: Handle) -> LabeledParts:
    """Find the parts of a set of maps that is the root group of a store.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """
    numbers = StoredArray(handle, "0")
    spec = numbers.reader.spec
    if set(spec.dims) != {"label", "voxel"} or spec.dtype.kind not in "iufc" or 0 in spec.shape:
        raise MetadataError(
            f"axes are named {spec.dims}, of lengths {spec.shape} and type {spec.dtype}: "
            "expected numbers with axes label and voxel",
            url=handle.locator.url,
            node="0",
        )
    length = dict(zip(spec.dims, spec.shape, strict=True))
    fill = read_fill(numbers.attributes, spec.dtype, url=handle.locator.url)
    return LabeledParts(
        nodes=voxel_nodes(handle, length["voxel"], fill=fill),
        maps=MatrixMaps(numbers),
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


def plan_maps(shape: tuple[int, int], dtype: np.dtype[Any]) -> ChunkLayout:
    """Choose chunks for maps that are read whole: one in a chunk, or several if they are small.

    Parameters
    ----------
    shape : (int, int)
        Maps and voxels.
    dtype : dtype
        Of the numbers.
    """
    maps, voxels = shape
    width = even(voxels, _LARGEST_CHUNK // dtype.itemsize)
    rows = even(maps, max(1, _MAP_BYTES // (voxels * dtype.itemsize)))
    chunks = (rows, width)
    return ChunkLayout(chunks=chunks, shards=shard_shape(shape, chunks, dtype.itemsize))


def write_labeledvolumeset(  # noqa: PLR0913
    group: Group,
    stack: MapStack,
    voxels: VoxelSet,
    *,
    capabilities: Capability,
    codec: str = "dual",
    fill: Fill = 0,
    max_memory: int = 1 << 30,
    progress: Progress | None = None,
) -> None:
    """Write maps below a group.

    Parameters
    ----------
    group : Group
        New and empty.
    stack : MapStack
        The maps; each is read once.
    voxels : VoxelSet
        Voxels to store, in order of their index with x varying fastest.
    capabilities : Capability
        Of the store.
    codec : str
        Preset.
    fill : int or float
        What voxels outside the mask are read as.
    max_memory : int
        Bytes that writing may take.
    progress : callable, optional
        Called with the bytes of stored numbers done and in all.

    Raises
    ------
    InvalidInputError
        If `fill` is no number of the type of the maps.
    """
    outside = check_fill(fill, stack.dtype)
    write_coordinates(group, stack.space, None)
    write_voxels(group, voxels, codec)
    write_texts(group, "labels", "label", stack.labels)
    shape = (len(stack.labels), len(voxels))
    layout = plan_maps(shape, stack.dtype)
    spec = map_spec(shape, stack.dtype, layout, capabilities, codec=codec)
    array = group.create_array("0", spec, {"fill": fill_attribute(outside)})
    step = shape[0] if stack.whole else band_rows(spec, max_memory)
    for first in range(0, shape[0], step):
        rows = slice(first, min(first + step, shape[0]), 1)
        write_parts(
            array,
            stack.parts(voxels, rows, max_memory),
            rows=rows,
            voxel_axis=1,
            max_memory=max_memory,
            progress=progress,
        )
    group.write_attributes(format_attributes("labeledvolumeset") | space_attributes(stack.space))


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
