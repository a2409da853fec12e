"""Numbers of some voxels as an image on the whole grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.voxelwise import Fill, check_fill
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.planning.rechunk import read_in_boxes
from fmristore.sources.images import Block
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["SpreadSource", "Volumes", "matrix_volumes"]

Volumes = Callable[[], Iterator[tuple[int, AnyArray]]]
"""Gives the stored numbers in order of time: number of the first volume, (volumes, voxels)."""


class SpreadSource:
    """Numbers of some voxels as an image on their whole grid, volume after volume.

    Parameters
    ----------
    space : NeuroSpace
        The grid, and its times.
    voxels : VoxelSet
        The voxels, as the columns of `volumes`.
    volumes : callable
        Gives their numbers.
    dtype : dtype
        Of these numbers.
    scaling : Scaling, optional
        Of these numbers.
    fill : int or float
        What is meant outside the voxels.
    nifti : bool
        Whether the numbers must be ones that a NIfTI header can say the scaling of.
    """

    colors = 0
    trailer = b""

    def __init__(
        self,
        space: NeuroSpace,
        voxels: VoxelSet,
        volumes: Volumes,
        *,
        dtype: np.dtype[Any],
        scaling: Scaling | None = None,
        fill: Fill = 0,
        nifti: bool = False,
    ) -> None:
        from fmristore.nifti import make_header

        self.space = space
        self._voxels = voxels
        self._volumes = volumes
        self._convert = scaling
        self.dtype = dtype
        self.scaling: Scaling | None = None
        self._fill = fill
        kept = _stored_fill(scaling, fill, dtype, nifti=nifti)
        if kept is not None:
            self._fill, self.scaling, self._convert = kept, scaling, None
        elif scaling is not None:
            self.dtype = scaling.dtype(dtype)
        self.header = make_header(
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
        for first, values in self._volumes():
            for t in range(0, len(values), step):
                part = values[t : t + step]
                times = slice(first + t, first + t + len(part), 1)
                if self._convert is not None:
                    part = self._convert.apply(part, times=times, axis=0)
                for z in range(0, rows.shape[0], thick):
                    yield Block(times.start, z, self._spread(rows[z : z + thick], part))

    def _spread(self, rows: NDArray[np.int32], part: AnyArray) -> AnyArray:
        inside = rows >= 0
        grid = np.full((len(part), *rows.shape), self._fill, self.dtype)
        grid[:, inside] = part[:, rows[inside]]
        return grid


def matrix_volumes(numbers: StoredArray, max_memory: int) -> Volumes:
    """Stored numbers with the axes voxel and t, as volumes, turned around within `max_memory`."""

    def volumes() -> Iterator[tuple[int, AnyArray]]:
        reader = numbers.reader
        dims = reader.spec.dims
        axes = (dims.index("t"), dims.index("voxel"))
        for box, values in read_in_boxes(reader, axes, (1, reader.spec.shape[axes[1]]), max_memory):
            yield box[0].start, values

    return volumes


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
