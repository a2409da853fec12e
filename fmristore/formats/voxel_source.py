"""Volumes to be stored for the voxels of a mask: where they come from, and their way in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from fmristore.formats.base import StoredArray, StoredObject
from fmristore.formats.grid import GridView
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.planning.blocks import box_shape, boxes
from fmristore.planning.memory import UNIT_SHARE, block_share, gathering_share, require_unit
from fmristore.planning.progress import Progress
from fmristore.planning.rechunk import read_in_boxes
from fmristore.planning.scratch import Scratch
from fmristore.sources.facts import metadata_of, with_facts
from fmristore.sources.images import Block, image_source
from fmristore.sources.masks import mask_array
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.writer import write
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray, Array

__all__ = ["Part", "StoredSource", "VoxelSource", "parts_of", "voxel_source", "write_parts"]

_BLOCK_BYTES = 32 * 1024 * 1024


class VoxelSource(Protocol):
    """Volumes that can be read once, in parts of any order."""

    space: NeuroSpace
    dtype: np.dtype[Any]
    colors: int
    scaling: Scaling | None
    header: bytes

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """All of the image, in parts of at most `max_bytes`, or single planes."""


class StoredSource:
    """A stored run, read in slabs of whole runs, so that chunks are decoded as seldom as possible.

    Parameters
    ----------
    image : StoredObject
        Anything stored that is indexed (x, y, z, t). The stored numbers of a `NeuroVec` are
        taken, and the numbers meant of everything else; but see `keep_stored`.

    Raises
    ------
    InvalidInputError
        If it is not indexed so.
    """

    def __init__(self, image: Any) -> None:
        space, shape = getattr(image, "space", None), tuple(getattr(image, "shape", ()))
        if not isinstance(space, NeuroSpace) or len(shape) != 4:
            raise InvalidInputError(f"{image!r} is not indexed (x, y, z, t)")
        self.space = space if space.time_points is not None else space.with_time(shape[3])
        self.colors = 0
        self.scaling: Scaling | None = None
        self.header: bytes = image.source_header if isinstance(image, GridView) else b""
        self.dtype = np.dtype(image.dtype)
        self._data = image
        self._stored: StoredArray | None = None
        array = image.dense_array if isinstance(image, GridView) else None
        if array is not None:
            self.dtype = array.reader.spec.dtype
            self.colors = len(image.stored_dtype.names or ())
            self.scaling = image.scaling
            self._stored = array

    def keep_stored(self, voxels: VoxelSet) -> None:
        """Take stored numbers with their scaling, if all voxels that will be taken have such."""
        scaling = None
        if isinstance(self._data, GridView):
            scaling = self._data.stored_scaling(voxels.voxels)
        if scaling is not None:
            self.scaling, self._data = scaling, self._data.raw
            self.dtype = np.dtype(self._data.dtype)

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """All of the image, plane after plane."""
        if self._stored is not None:
            yield from _slabs(self._stored.streaming_reader(), max_bytes)
            return
        x, y, z = self.space.spatial_shape
        times = self.space.time_points or 1
        plane = x * y * self.dtype.itemsize
        thick = max(1, min(z, max_bytes // (plane * times)))
        step = max(1, min(times, max_bytes // plane))
        for k in range(0, z, thick):
            for t in range(0, times, step):
                part = self._data[:, :, k : min(k + thick, z), t : min(t + step, times)]
                yield Block(t, k, np.asarray(part).transpose(3, 2, 1, 0))


def _slabs(reader: ChunkReader, max_bytes: int) -> Iterator[Block]:
    """Stored numbers as slabs of planes, decoding each chunk about once."""
    spec = reader.spec
    axes = [spec.dims.index(d) for d in "ztyx"]
    plane = spec.shape[axes[2]], spec.shape[axes[3]]
    chunk = [reader.chunks[a] for a in axes]
    unit = (chunk[0], chunk[1], *plane)
    if math.prod(unit) * spec.dtype.itemsize > max_bytes:
        unit = (1, 1, *plane)
    least = max(math.prod(plane), math.prod(chunk)) * spec.dtype.itemsize
    # A third of the room is for a box.
    for box, values in read_in_boxes(reader, axes, unit, 3 * max(max_bytes, least)):
        yield Block(box[1].start, box[0].start, values.transpose(1, 0, 2, 3))


def voxel_source(  # noqa: PLR0913
    data: Any,
    mask: Any = None,
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    slope: float | AnyArray | None = None,
    inter: float | AnyArray | None = None,
    space_name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[VoxelSource, VoxelSet]:
    """Understand what a user gives as a run, and which of its voxels are wanted.

    Parameters
    ----------
    data, space, tr, slope, inter, space_name, metadata, storage_options : object
        As of `image_source`.
    mask : object, optional
        A mask; by default the voxels that are stored of what is stored so, and all
        of everything else.

    Raises
    ------
    InvalidInputError
        If it has not four axes, is in colour, or is no image at all, or the mask does not fit.
    """
    source: VoxelSource
    if isinstance(data, StoredObject):
        if any(given is not None for given in (space, slope, inter)):
            raise InvalidInputError("space, slope and inter are for arrays")
        stored = with_facts(StoredSource(data), metadata=metadata_of(data))
        source = with_facts(stored, tr=tr, space_name=space_name, metadata=metadata)
        if mask is None and isinstance(data, GridView):
            mask = data.stored_mask
    else:
        source = image_source(
            data,
            space=space,
            tr=tr,
            slope=slope,
            inter=inter,
            space_name=space_name,
            metadata=metadata,
            storage_options=storage_options,
        )
    name = os.fspath(data) if isinstance(data, str | os.PathLike) else None
    if source.space.time_points is None:
        raise InvalidInputError(
            f"data of shape {source.space.shape}: expected four axes (X, Y, Z, T)", url=name
        )
    if source.colors:
        raise InvalidInputError("colours cannot be stored by voxel", url=name)
    inside = np.ones(source.space.spatial_shape, bool) if mask is None else mask
    inside = mask_array(inside, source.space, storage_options=storage_options)
    voxels = VoxelSet.from_mask(inside, source.space)
    if isinstance(source, StoredSource):
        source.keep_stored(voxels)
    return source, voxels


# Into the store -------------------------------------------------------------------------------


class Part(NamedTuple):
    """Numbers of some volumes, in some of the voxels."""

    row: int
    """First volume."""
    voxel: int
    """First voxel."""
    values: AnyArray
    """(volumes, voxels)"""


def parts_of(source: VoxelSource, voxels: VoxelSet, max_memory: int) -> Iterator[Part]:
    """Take the voxels out of volumes; voxels must be in order of their index, x fastest."""
    mask = voxels.mask.transpose(2, 1, 0)
    starts = np.concatenate([[0], np.cumsum(mask.sum(axis=(1, 2)))]).tolist()
    x, y, _ = source.space.spatial_shape
    most = block_share(max_memory, x * y * source.dtype.itemsize)
    if not isinstance(source, StoredSource):
        most = min(most, _BLOCK_BYTES)
    for t0, z0, values in source.blocks(most):
        z1 = z0 + values.shape[-3]
        if starts[z1] > starts[z0]:
            yield Part(t0, starts[z0], values[:, mask[z0:z1]])
        del values  # before the next block takes its memory


def write_parts(
    array: Array,
    parts: Iterable[Part],
    *,
    rows: slice,
    voxel_axis: int,
    max_memory: int,
    progress: Progress | None = None,
) -> None:
    """Gather parts and write them to a matrix of voxels and volumes.

    Parameters
    ----------
    array : Array
        The matrix.
    parts : iterable of Part
        All numbers of the volumes `rows`, in any order.
    rows : slice
        Volumes to write: whole write units of the matrix.
    voxel_axis : int
        Axis of the matrix that numbers the voxels.
    max_memory : int
        Bytes to gather in, and to write from; what does not fit passes through a temporary file.
    progress : callable, optional
        Called with the bytes done and in all.

    Raises
    ------
    MemoryLimitError
        If not even one write unit fits the limit.
    """
    spec = array.spec
    count = spec.shape[voxel_axis]
    volumes = rows.stop - rows.start
    done = rows.start * count * spec.dtype.itemsize
    require_unit(spec, max_memory)
    room = gathering_share(spec, max_memory)
    with Scratch((volumes, count), spec.dtype, max_memory=room) as scratch:
        for part in parts:
            first = part.row - rows.start
            n, m = part.values.shape
            scratch.write(
                (slice(first, first + n, 1), slice(part.voxel, part.voxel + m, 1)), part.values
            )
            done += part.values.nbytes
            if progress is not None:
                progress(done, spec.nbytes)
        shape = (count, volumes) if voxel_axis == 0 else (volumes, count)
        size: tuple[int, ...] = shape
        if not scratch.in_memory:
            units, width = spec.layout.units, spec.dtype.itemsize
            size = box_shape(shape, units, width, max_memory, share=UNIT_SHARE)
        for box in boxes(shape, size):
            values = scratch.read(box[::-1] if voxel_axis == 0 else box)
            own = box[1 - voxel_axis]
            moved = slice(own.start + rows.start, own.stop + rows.start, 1)
            target = (box[0], moved) if voxel_axis == 0 else (moved, box[1])
            write(array, target, values.T if voxel_axis == 0 else values)
