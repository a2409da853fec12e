"""Values stored or computed for some voxels of a grid alone, and indexed on the whole grid."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.base import StoredArray, describe_space, plain_number
from fmristore.formats.fill import Fill, check_fill
from fmristore.formats.grid import GridView
from fmristore.formats.matrix import ArrayMatrix, Matrix, chunk_count
from fmristore.formats.r.arrays import read_present
from fmristore.formats.r.missing import check_cast
from fmristore.formats.voxel_nodes import VoxelNodes
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.planning.indexing import AxisPart
from fmristore.planning.memory import within
from fmristore.planning.rechunk import read_in_blocks
from fmristore.planning.scratch import Scratch
from fmristore.planning.streams import streaming
from fmristore.planning.text import parse_size
from fmristore.sources.images import Block, ImageSource
from fmristore_stores.errors import (
    InvalidInputError,
    MetadataError,
)
from fmristore_stores.io.ranges import ReadCost
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray

__all__ = [
    "MaskedObject",
    "ScatterSource",
    "Volumes",
    "VoxelView",
    "matrix_volumes",
]

Volumes = Callable[[], Iterator[tuple[int, AnyArray]]]

"""Gives the stored values in order of time: number of the first volume, (volumes, voxels)."""


class ScatterSource(ImageSource):
    """Values of some voxels as an image on their whole grid, volume after volume.

    Parameters
    ----------
    space : NeuroSpace
        The grid, and its times.
    voxels : VoxelSet
        The voxels, as the columns of `volumes`.
    volumes : callable
        Gives their data.
    dtype : dtype
        Of these data.
    scaling : Scaling, optional
        Of these data.
    fill : int or float
        What is meant outside the voxels.
    nifti : bool
        Whether the data must be ones that a NIfTI header can say the scaling of.
    template : bytes
        NIfTI header of the image that the data come from; what is true of them is kept.
    """

    def __init__(  # noqa: PLR0913
        self,
        space: NeuroSpace,
        voxels: VoxelSet,
        volumes: Volumes,
        *,
        dtype: np.dtype[Any],
        scaling: Scaling | None = None,
        fill: Fill = 0,
        nifti: bool = False,
        template: bytes = b"",
    ) -> None:
        from fmristore.nifti import fit_header

        self.space = space
        self._voxels = voxels
        self._volumes = volumes
        self._convert = scaling
        self.dtype = dtype
        self._fill = fill
        kept = _stored_fill(scaling, fill, dtype, nifti=nifti)
        if kept is not None:
            self._fill, self.scaling, self._convert = kept, scaling, None
        elif scaling is not None:
            self.dtype = scaling.dtype(dtype)
        self.header = fit_header(
            template,
            self.space,
            self.dtype,
            slope=None if self.scaling is None else float(self.scaling.slope),
            inter=None if self.scaling is None else float(self.scaling.inter),
        )

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, or single planes."""
        rows = self._voxels.row_of.transpose(2, 1, 0)
        plane = math.prod(rows.shape[1:]) * self.dtype.itemsize
        step = max(1, max_bytes // (plane * rows.shape[0]))
        thick = rows.shape[0] if plane * rows.shape[0] <= max_bytes else max(1, max_bytes // plane)
        with streaming(self._volumes()) as volumes:
            for first, values in volumes:
                for t in range(0, len(values), step):
                    part = values[t : t + step]
                    times = slice(first + t, first + t + len(part), 1)
                    if self._convert is not None:
                        part = self._convert.apply(part, times=times, axis=0)
                    for z in range(0, rows.shape[0], thick):
                        yield Block(times.start, z, self._scatter(rows[z : z + thick], part))

    def _scatter(self, rows: NDArray[np.int32], part: AnyArray) -> AnyArray:
        inside = rows >= 0
        grid = np.full((len(part), *rows.shape), self._fill, self.dtype)
        grid[:, inside] = part[:, rows[inside]]
        return grid


def matrix_volumes(matrix: Matrix, max_memory: int, *, whole: int | None = None) -> Volumes:
    """Stored values of a matrix of voxels as volumes, transposed within `max_memory`.

    What does not fit passes through a temporary file.

    Parameters
    ----------
    matrix : Matrix
        The values.
    max_memory : int
        Bytes for transposing.
    whole : int, optional
        Bytes that there are for more than that, which errors name.
    """
    whole = max_memory if whole is None else whole

    def volumes() -> Iterator[tuple[int, AnyArray]]:
        if isinstance(matrix, ArrayMatrix):
            reader, axes = matrix.array.streaming_reader(), matrix.axes[::-1]
            unit = (1, reader.spec.shape[axes[1]])
            with (
                within(whole, max_memory),
                streaming(read_in_blocks(reader, axes, unit, max_memory)) as blocks,
            ):
                for block, values in blocks:
                    yield block[0].start, values
                    del values  # before the next block takes its memory
            return
        yield from _transposed(matrix, max_memory)

    return volumes


def _transposed(matrix: Matrix, max_memory: int) -> Iterator[tuple[int, AnyArray]]:
    count, times = matrix.shape
    width = matrix.dtype.itemsize
    every = slice(0, times, 1)
    with Scratch((times, count), matrix.dtype, max_memory=max_memory // 2) as scratch:
        step = max(1, max_memory // 4 // max(1, times * width))
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count), 1)
            scratch.write((every, rows), matrix.read(rows, every).T)
        step = max(1, max_memory // 4 // max(1, count * width))
        for start in range(0, times, step):
            part = slice(start, min(start + step, times), 1)
            yield start, scratch.read((part, slice(0, count, 1)))


def _stored_fill(
    scaling: Scaling | None, fill: Fill, dtype: np.dtype[Any], *, nifti: bool
) -> Fill | None:
    """The stored number that means the fill value, None if there is none that may be used."""
    if scaling is None:
        return fill
    if scaling.per_volume:
        return None
    slope, inter = float(scaling.slope), float(scaling.inter)
    if nifti and (float(np.float32(slope)), float(np.float32(inter))) != (slope, inter):
        return None
    stored = (fill - inter) / slope
    if dtype.kind in "iu":
        if not math.isfinite(stored):
            return None
        stored = round(stored)
    try:
        check_fill(stored, dtype)
    except InvalidInputError:
        return None
    meant = scaling.apply(np.array([stored], dtype))
    same = np.array_equal(meant, np.array([fill], meant.dtype), equal_nan=True)
    return stored if same else None


class VoxelView(GridView):
    """An image whose values are stored, or computed, for some voxels of a grid.

    Its values are ``scaling(matrix[row, column])`` with ``row = voxel_set.row_of[x, y, z]``, and
    `fill` elsewhere.
    """

    @property
    @abstractmethod
    def voxel_set(self) -> VoxelSet:
        """The stored voxels, in the order of the rows of the matrix."""

    @property
    @abstractmethod
    def matrix(self) -> Matrix:
        """Stored values: voxels x volumes, or voxels x maps."""

    @property
    def fill(self) -> Fill:
        """Value read for voxels that are not stored."""
        return 0

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.matrix.stored.dtype

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that indexing returns: see `Scaling.dtype`."""
        return self.matrix.dtype if self.scaling is None else self.scaling.dtype(self.matrix.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Lengths along the axes of a slab of the grid with about the voxels of a stored chunk."""
        rows, columns = self.matrix.chunks
        x, y, z = self.space.spatial_shape
        slab = z * rows // max(1, self.matrix.shape[0])
        return x, y, max(1, min(z, slab)), max(1, columns)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z) bool: whether a voxel is stored."""
        return self.voxel_set.mask

    @property
    def voxels(self) -> NDArray[np.int32]:
        """(V, 3) int32: indices (x, y, z) of the stored voxels, 0-based, in stored order."""
        return self.voxel_set.voxels

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return self.matrix.arrays

    def _read_values(
        self, rows: AxisPart, columns: AxisPart, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Values (rows, columns) of stored voxels, given by increasing rows."""
        values = (self.matrix.stored if raw else self.matrix).read(rows, columns)
        if raw or self.scaling is None:
            if dtype is not None and self.matrix.stored is not self.matrix:
                check_cast(values, dtype, url=self.url, node=self.matrix.arrays[0].path)
            return values if dtype is None else values.astype(dtype, copy=False)
        return self.scaling.apply(values, times=columns, axis=1, dtype=dtype)

    def read_region(
        self, region: Sequence[AxisPart], *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Docstring inherited."""
        *space, columns = region
        grid = self.voxel_set.row_of[tuple(space)]
        places = np.flatnonzero(grid.reshape(-1) >= 0)
        rows = grid.reshape(-1)[places].astype(np.int64)
        order = np.argsort(rows)
        values = self._read_values(rows[order], columns, dtype=dtype, raw=raw)
        fill = check_fill(0 if raw else self.fill, values.dtype)
        result = np.full((grid.size, values.shape[1]), fill, values.dtype)
        result[places[order]] = values
        return result.reshape(*grid.shape, values.shape[1])

    def read_points(
        self, points: AnyArray, times: AxisPart, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Docstring inherited."""
        rows, back = np.unique(self.voxel_set.rows(points), return_inverse=True)
        outside = int(len(rows) > 0 and rows[0] < 0)
        found = self._read_values(rows[outside:], times, dtype=dtype, raw=raw)
        if not outside:
            return found[back].T
        fill = check_fill(0 if raw else self.fill, found.dtype)
        values = np.full((len(rows), found.shape[1]), fill, found.dtype)
        values[1:] = found
        return values[back].T

    def cost(self, region: Sequence[AxisPart]) -> tuple[ReadCost, int, str | None]:
        """Docstring inherited."""
        *space, columns = region
        rows = self.voxel_set.row_of[tuple(space)].reshape(-1)
        cost = self.matrix.cost(np.sort(rows[rows >= 0]).astype(np.int64), columns)
        return cost, sum(chunk_count(array) for array in self.matrix.arrays), None

    def sample_series(self, *, voxels: int = 800, volumes: int = 1200) -> AnyArray:
        """Docstring inherited."""
        count = len(self.voxels)
        rows = np.unique(np.linspace(0, count - 1, min(count, voxels)).astype(int))
        times = slice(None, None, -(-self.shape[-1] // max(1, volumes)))
        return self.series(self.voxels[rows], times=times).T

    def stored_scaling(self, voxels: AnyArray) -> Scaling | None:
        """Docstring inherited."""
        return self.scaling if (self.voxel_set.rows(voxels) >= 0).all() else None

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """Docstring inherited."""
        max_memory = parse_size(max_memory)
        return ScatterSource(
            self.space,
            self.voxel_set,
            matrix_volumes(self.matrix, max_memory // 2, whole=max_memory),
            dtype=self.matrix.dtype,
            scaling=self.scaling,
            fill=self.fill,
            nifti=nifti,
            template=self.source_header,
        )


class MaskedObject(VoxelView):
    """Common base of objects that store a mask: their voxels, and the value of the others.

    Parameters
    ----------
    handle : Handle
        The store.
    nodes : VoxelNodes
        Which voxels it has.
    """

    def __init__(self, handle: Handle, nodes: VoxelNodes) -> None:
        super().__init__(handle)
        self._nodes = nodes

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, number of volumes and TR."""
        return self._nodes.space

    @property
    def stored_mask(self) -> AnyArray | None:
        """(X, Y, Z) bool: mask that the image is stored with."""
        return self.mask

    @property
    def fill(self) -> Fill:
        """Value read for voxels outside the mask."""
        return self._nodes.fill

    @cached_property
    def voxel_set(self) -> VoxelSet:
        """The stored voxels and their data; read when they are first needed.

        Raises
        ------
        MetadataError
            If the mask is damaged, or not that of the data.
        """
        nodes = self._nodes
        url = self._handle.locator.url
        found: AnyArray
        try:
            if nodes.indices is not None:
                found = nodes.indices
            elif nodes.voxels:
                found = StoredArray(self._handle, nodes.voxels).read_small(3 * nodes.count)
            else:
                size = math.prod(nodes.space.spatial_shape)
                mask = read_present(StoredArray(self._handle, nodes.mask), size)
                found = np.argwhere(mask != 0)[:, ::-1]
            voxels = VoxelSet(nodes.space, found)
        except InvalidInputError as error:
            raise MetadataError(
                f"the voxels are damaged: {error.message}", url=url, node=nodes.voxels or nodes.mask
            ) from error
        if len(voxels) != nodes.count:
            raise MetadataError(
                f"there are {len(voxels)} voxels, and values of {nodes.count}",
                url=url,
                node=nodes.mask,
            )
        return voxels

    def _mask_facts(self) -> dict[str, Any]:
        """Count of stored voxels, and the value that the others are read as."""
        return {
            "space": describe_space(self._nodes.space),
            "mask": {
                "voxels": self._nodes.count,
                "of": math.prod(self._nodes.space.spatial_shape),
            },
            "fill": plain_number(self.fill),
        }

    def check(self) -> None:
        """Docstring inherited."""
        nodes, voxels = self._nodes, self.voxel_set
        if nodes.indices is not None:
            return
        size = math.prod(nodes.space.spatial_shape)
        mask = read_present(StoredArray(self._handle, nodes.mask), size)
        alike = np.array_equal((mask != 0).transpose(2, 1, 0), voxels.mask)
        if not nodes.voxels and "voxels" in self._handle.store.root.children():
            found = StoredArray(self._handle, "voxels").read_small(3 * nodes.count)
            alike &= np.array_equal(found, voxels.voxels)
        if not alike:
            raise MetadataError(
                "mask and voxels do not say the same",
                url=self._handle.locator.url,
                node=nodes.mask,
            )
