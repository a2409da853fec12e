"""Series of voxels in blocks: how they are read from any image, and written to a matrix."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.matrix import ScaledMatrix
from fmristore.formats.new_arrays import NewArray
from fmristore.model.voxels import VoxelSet
from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.memory import UNIT_SHARE, gathering_share, require_unit
from fmristore.planning.progress import Progress
from fmristore.planning.scratch import Scratch
from fmristore.planning.streams import streaming
from fmristore.sources.images import ImageSource
from fmristore_stores.protocol import AnyArray

__all__ = [
    "SeriesBlock",
    "VoxelReader",
    "block_bytes",
    "column_blocks",
    "write_blocks",
]

_BLOCK_BYTES = 4 * 1024 * 1024


class SeriesBlock(NamedTuple):
    """Values of some voxels at some times."""

    times: slice
    columns: slice | NDArray[np.int64]
    """Ascending positions among the voxels."""
    values: AnyArray
    """(times, columns)"""


class VoxelReader(ABC):
    """Series of some voxels of an image.

    Parameters
    ----------
    source : ImageSource
        The image.
    voxels : VoxelSet
        The voxels.
    header : bytes
        NIfTI header of what the image came from; empty if there is none.
    """

    def __init__(self, source: ImageSource, voxels: VoxelSet, header: bytes) -> None:
        self.space = source.space
        self.voxels = voxels
        self.dtype = source.dtype
        """Type of the stored values, which `blocks`, `slabs` and `matrix` have before scaling."""
        self.scaling = source.scaling
        self.times = source.space.time_points or 1
        self.header = header
        self.metadata = source.metadata

    @property
    def scaled_dtype(self) -> np.dtype[Any]:
        """Type of the scaled values."""
        return self.dtype if self.scaling is None else self.scaling.dtype(self.dtype)

    @abstractmethod
    def blocks(self, max_memory: int) -> Iterator[SeriesBlock]:
        """Stored values of all voxels, in blocks of any shape."""

    def slabs(self, max_memory: int) -> Iterator[SeriesBlock]:
        """Stored values, each block of voxels that follow each other (its columns are a slice).

        For voxels in order of their index with x varying fastest.
        """
        return self.blocks(max_memory)

    @abstractmethod
    def matrix(self, max_memory: int) -> contextlib.AbstractContextManager[ScaledMatrix]:
        """Series of the voxels as a matrix: in memory, in a temporary file, or where they lie."""

    def scaled(self, blocks: Iterable[SeriesBlock]) -> Iterator[SeriesBlock]:
        """The same blocks with scaled values."""
        with streaming(blocks) as found:
            for block in found:
                if self.scaling is None:
                    yield block
                else:
                    values = self.scaling.apply(block.values, times=block.times, axis=0)
                    yield block._replace(values=values)


def block_bytes(max_memory: int, dtype: np.dtype[Any]) -> int:
    """Stored bytes to take at once: reducing them takes several float64 for each value.

    Parameters
    ----------
    max_memory : int
        Bytes that reading and reducing may take.
    dtype : dtype
        Of the stored values.
    """
    return max(1, min(_BLOCK_BYTES, max_memory * dtype.itemsize // 64))


def column_blocks(series: ScaledMatrix, limit: int) -> Iterator[SeriesBlock]:
    """Pieces of some voxels and all times, of at most `limit` bytes or one voxel."""
    count, times = series.shape
    every = slice(0, times, 1)
    step = max(1, limit // max(1, times * series.dtype.itemsize))
    for start in range(0, count, step):
        columns = slice(start, min(start + step, count), 1)
        yield SeriesBlock(every, columns, series.read(columns, every))


def write_blocks(
    array: NewArray,
    blocks: Iterable[SeriesBlock],
    *,
    rows: slice,
    voxel_axis: int,
    max_memory: int,
    progress: Progress | None = None,
) -> None:
    """Gather blocks and write them to a matrix of voxels and volumes.

    Parameters
    ----------
    array : NewArray
        The matrix.
    blocks : iterable of SeriesBlock
        All values of the volumes `rows`, in any order; their columns are slices.
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
        with streaming(blocks) as items:
            for times, columns, values in items:
                assert isinstance(columns, slice)
                moved = slice(times.start - rows.start, times.stop - rows.start, 1)
                scratch.write((moved, columns), values)
                done += values.nbytes
                if progress is not None:
                    progress(done, spec.nbytes)
        shape = (count, volumes) if voxel_axis == 0 else (volumes, count)
        size: tuple[int, ...] = shape
        if not scratch.in_memory:
            units, width = spec.layout.units, spec.dtype.itemsize
            size = block_shape(shape, units, width, max_memory, share=UNIT_SHARE)
        for block in cut_into_blocks(shape, size):
            values = scratch.read(block[::-1] if voxel_axis == 0 else block)
            own = block[1 - voxel_axis]
            moved = slice(own.start + rows.start, own.stop + rows.start, 1)
            target = (block[0], moved) if voxel_axis == 0 else (moved, block[1])
            array.write(target, values.T if voxel_axis == 0 else values)
