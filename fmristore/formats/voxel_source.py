"""Images read voxel by voxel: the series of chosen voxels, in the order that is best to read."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import StoredArray
from fmristore.formats.grid import GridView
from fmristore.formats.matrix import Matrix, MemoryMatrix, ScaledMatrix, ScratchMatrix
from fmristore.formats.series_blocks import SeriesBlock, VoxelReader, block_bytes, column_blocks
from fmristore.model.voxels import VoxelSet
from fmristore.planning.blocks import block_shape
from fmristore.planning.indexing import AxisPart
from fmristore.planning.memory import block_share
from fmristore.planning.rechunk import read_in_blocks
from fmristore.planning.scratch import Scratch
from fmristore.planning.streams import streaming
from fmristore.sources.images import ImageSource
from fmristore.sources.masks import mask_array
from fmristore_stores.protocol import AnyArray

__all__ = [
    "chosen_voxels",
    "voxel_reader",
]

_SLAB_BYTES = 32 * 1024 * 1024


def chosen_voxels(
    source: ImageSource, mask: Any = None, storage_options: Mapping[str, Any] | None = None
) -> VoxelSet:
    """Voxels of an image that a user wants.

    Parameters
    ----------
    source : ImageSource
        The image.
    mask : object, optional
        A mask; by default that which the image is stored with, and all voxels of everything else.
    storage_options : mapping, optional
        For a mask given by URL.

    Raises
    ------
    InvalidInputError
        If the mask does not fit.
    """
    if mask is None and isinstance(source.stored, GridView):
        mask = source.stored.stored_mask
    if mask is None:
        mask = np.ones(source.space.spatial_shape, bool)
    inside = mask_array(mask, source.space, storage_options=storage_options)
    return VoxelSet.from_mask(inside, source.space)


def voxel_reader(source: ImageSource, voxels: VoxelSet) -> VoxelReader:
    """Find the best way to read voxels of an image.

    Parameters
    ----------
    source : ImageSource
        Read once by each of the reader's methods.
    voxels : VoxelSet
        On its grid.
    """
    image = source.stored
    if not isinstance(image, GridView) or source.space.time_points is None:
        return _LinearReader(source, voxels)
    if image.dense_array is None:
        return _StoredReader(source, voxels)
    return _DenseReader(source, voxels)


def _header_of(source: ImageSource) -> bytes:
    from fmristore.nifti import header_in_space, header_with_tr

    if not isinstance(source.stored, GridView):
        return source.header
    header, before = source.stored.source_header, source.stored.space
    if header and source.space.tr not in (None, before.tr):
        header = header_with_tr(header, source.space.tr)
    if header and source.space.space_name not in (None, before.space_name):
        header = header_in_space(header, source.space.space_name)
    return header


class _LinearReader(VoxelReader):
    """An image that is read once, front to back."""

    def __init__(self, source: ImageSource, voxels: VoxelSet) -> None:
        super().__init__(source, voxels, _header_of(source))
        self._source = source

    def blocks(self, max_memory: int) -> Iterator[SeriesBlock]:
        """Docstring inherited."""
        return self._blocks(block_bytes(max_memory, self.dtype))

    def slabs(self, max_memory: int) -> Iterator[SeriesBlock]:
        """Docstring inherited."""
        x, y, _ = self.space.spatial_shape
        most = block_share(max_memory, x * y * self.dtype.itemsize)
        with streaming(self._blocks(min(most, _SLAB_BYTES))) as found:
            for block in found:
                columns = block.columns
                if isinstance(columns, slice):
                    yield block
                elif len(columns):
                    yield block._replace(columns=slice(int(columns[0]), int(columns[-1]) + 1, 1))
                del block  # before the next block takes its memory

    def _blocks(self, max_bytes: int) -> Iterator[SeriesBlock]:
        x, y, z = self.space.spatial_shape
        i, j, k = self.voxels.voxels.T.astype(np.int64)
        places = i + x * (j + y * k)
        with streaming(self._source.blocks(max_bytes)) as blocks:
            for t0, z0, values in blocks:
                times = slice(t0, t0 + values.shape[0], 1)
                planes = values.shape[-3]
                columns: slice | NDArray[np.int64] = slice(0, len(places), 1)
                if planes < z:
                    columns = np.flatnonzero((k >= z0) & (k < z0 + planes))
                if values.flags.c_contiguous:
                    flat = values.reshape(values.shape[0], -1)
                    found = flat[:, places[columns] - x * y * z0]
                else:
                    found = values[:, k[columns] - z0, j[columns], i[columns]]
                del values  # before the next block takes its memory
                yield SeriesBlock(times, columns, found)
                del found

    @contextlib.contextmanager
    def matrix(self, max_memory: int) -> Iterator[ScaledMatrix]:
        """Docstring inherited; gathered."""
        count = len(self.voxels)
        with Scratch((self.times, count), self.dtype, max_memory=max_memory // 2) as scratch:
            row: AnyArray | None = None
            with streaming(self.blocks(max_memory)) as blocks:
                for block in blocks:
                    if isinstance(block.columns, slice):
                        scratch.write((block.times, block.columns), block.values)
                        continue
                    # Part of a volume: its voxels are scattered over the columns.
                    row = np.empty((1, count), self.dtype) if row is None else row
                    row[:, block.columns] = block.values
                    scratch.write((block.times, slice(0, count, 1)), row)
            yield ScaledMatrix(ScratchMatrix(scratch), self.scaling)


class _StoredReader(VoxelReader):
    """A stored image that gives series: stored values if it has them of all of the voxels."""

    def __init__(self, source: ImageSource, voxels: VoxelSet) -> None:
        super().__init__(source, voxels, _header_of(source))
        self._image: GridView = source.stored
        self.scaling = self._image.stored_scaling(voxels.voxels)
        self._series = _SeriesMatrix(self._image, voxels.voxels, raw=self.scaling is not None)
        self.dtype = self._series.dtype

    def blocks(self, max_memory: int) -> Iterator[SeriesBlock]:
        """Docstring inherited; some voxels after the other."""
        return column_blocks(ScaledMatrix(self._series), block_bytes(max_memory, self.dtype))

    def slabs(self, max_memory: int) -> Iterator[SeriesBlock]:
        """Docstring inherited."""
        x, y, _ = self.space.spatial_shape
        most = block_share(max_memory, x * y * self.dtype.itemsize)
        return column_blocks(ScaledMatrix(self._series), most)

    @contextlib.contextmanager
    def matrix(self, max_memory: int) -> Iterator[ScaledMatrix]:
        """Docstring inherited; read when asked for if they do not fit."""
        matrix: Matrix = self._series
        count, times = matrix.shape
        if count * times * matrix.dtype.itemsize <= max_memory // 2:
            matrix = MemoryMatrix(matrix.read(slice(0, count, 1), slice(0, times, 1)))
        yield ScaledMatrix(matrix, self.scaling)


class _DenseReader(VoxelReader):
    """A stored run of volumes, read once in blocks of whole chunks, of which none is kept."""

    def __init__(self, source: ImageSource, voxels: VoxelSet) -> None:
        super().__init__(source, voxels, _header_of(source))
        array: StoredArray = source.stored.dense_array
        self._reader = array.streaming_reader()
        self.dtype = self._reader.spec.dtype
        self.scaling = source.stored.scaling

    def _box(self, max_memory: int) -> dict[str, int]:
        """Lengths of the blocks by axis."""
        spec, chunks = self._reader.spec, self._reader.chunks
        chunk = math.prod(chunks) * spec.dtype.itemsize
        limit = max(block_bytes(max_memory, spec.dtype), min(chunk, max_memory // 2))
        if chunk > limit:
            limit, share = max_memory, 2
        else:
            share = 1
        size = block_shape(spec.shape, chunks, spec.dtype.itemsize, limit, share=share)
        return dict(zip(spec.dims, size, strict=True))

    def _regions(self, size: dict[str, int]) -> Iterator[SeriesBlock]:
        dims = self._reader.spec.dims
        axes = [dims.index(d) for d in "xyzt"]
        for columns in _cells(self.voxels.voxels, size):
            voxels = self.voxels.voxels[columns]
            low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
            inside = tuple((voxels - low).T)
            block = {d: slice(int(a), int(b), 1) for d, a, b in zip("xyz", low, high, strict=True)}
            for t0 in range(0, self.times, size["t"]):
                block["t"] = slice(t0, min(t0 + size["t"], self.times), 1)
                values = self._reader.read(tuple(block[d] for d in dims)).transpose(axes)
                yield SeriesBlock(block["t"], columns, values[inside].T)

    def blocks(self, max_memory: int) -> Iterator[SeriesBlock]:
        """Docstring inherited; block after block."""
        most = block_bytes(max_memory, self.dtype) // self.dtype.itemsize
        with streaming(self._regions(self._box(max_memory))) as found:
            for whole in found:
                # Reducing takes several float64 for each value.
                step = max(1, most // max(1, whole.values.shape[1]))
                for start in range(0, len(whole.values), step):
                    values = whole.values[start : start + step]
                    first = whole.times.start + start
                    yield SeriesBlock(slice(first, first + len(values), 1), whole.columns, values)

    def slabs(self, max_memory: int) -> Iterator[SeriesBlock]:
        """Docstring inherited; whole planes, decoding each chunk about once."""
        mask = self.voxels.mask.transpose(2, 1, 0)
        starts = np.concatenate([[0], np.cumsum(mask.sum(axis=(1, 2)))]).tolist()
        reader = self._reader
        spec = reader.spec
        axes = [spec.dims.index(d) for d in "ztyx"]
        plane = spec.shape[axes[2]], spec.shape[axes[3]]
        most = block_share(max_memory, math.prod(plane) * spec.dtype.itemsize)
        chunk = [reader.chunks[a] for a in axes]
        unit = (chunk[0], chunk[1], *plane)
        if math.prod(unit) * spec.dtype.itemsize > most:
            unit = (1, 1, *plane)
        least = max(math.prod(plane), math.prod(chunk)) * spec.dtype.itemsize
        # A third of the room is for a block.
        with streaming(read_in_blocks(reader, axes, unit, 3 * max(most, least))) as blocks:
            for block, values in blocks:
                z0, z1 = block[0].start, block[0].stop
                if starts[z1] > starts[z0]:
                    found = values.transpose(1, 0, 2, 3)[:, mask[z0:z1]]
                    yield SeriesBlock(block[1], slice(starts[z0], starts[z1], 1), found)
                del values  # before the next block takes its memory

    @contextlib.contextmanager
    def matrix(self, max_memory: int) -> Iterator[ScaledMatrix]:
        """Docstring inherited; gathered."""
        count = len(self.voxels)
        size = self._box(max_memory)
        cells = _cells(self.voxels.voxels, size)
        whole = len(cells) == 1  # blocks of whole volumes arrive in order of time
        order = np.concatenate(cells)
        place = np.empty(count, np.int64)
        place[order] = np.arange(count)
        shape = (self.times, count) if whole else (count, self.times)
        with Scratch(shape, self.dtype, max_memory=max_memory // 2) as scratch:
            with streaming(self._regions(size)) as found:
                for block in found:
                    columns = block.columns
                    assert not isinstance(columns, slice)
                    first = int(place[columns[0]])
                    rows = slice(first, first + len(columns), 1)
                    if whole:
                        scratch.write((block.times, rows), block.values)
                    else:
                        scratch.write((rows, block.times), block.values.T)
            yield ScaledMatrix(ScratchMatrix(scratch, None if whole else place), self.scaling)


class _SeriesMatrix(Matrix):
    """Series of some voxels of a stored image: scaled values, or stored ones."""

    def __init__(self, image: GridView, voxels: AnyArray, *, raw: bool = False) -> None:
        self._image = image
        self._voxels = voxels
        self._raw = raw
        self.shape = (len(voxels), int(image.shape[3]))
        self.dtype: np.dtype[Any] = image.raw.dtype if raw else image.dtype

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        return self._image.series(self._voxels[rows], times=columns, raw=self._raw).T


def _cells(voxels: NDArray[np.int32], size: dict[str, int]) -> list[NDArray[np.int64]]:
    """Positions, ascending, of the voxels that lie in the same block of a grid, block by block."""
    cells = voxels // [size[d] for d in "xyz"]
    order = np.lexsort(cells.T)
    changes = (np.diff(cells[order], axis=0) != 0).any(axis=1)
    return np.split(order, np.flatnonzero(changes) + 1)
