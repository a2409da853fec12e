"""A masked run as an image on its whole grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.masked import Fill, check_fill
from fmristore.formats.masked_parts import MaskedParts
from fmristore.formats.stored import StoredArray
from fmristore.imagesource import Block
from fmristore.rechunk import read_in_boxes
from fmristore.scaling import Scaling
from fmristore.voxels import VoxelSet
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["SpreadSource"]


class SpreadSource:
    """A masked run as an image on its whole grid, volume after volume.

    Parameters
    ----------
    numbers : StoredArray
        Of the run.
    parts : MaskedParts
        Of the run.
    voxels : VoxelSet
        Its voxels.
    max_memory : int
        Bytes to turn its numbers around in.
    nifti : bool
        Whether the numbers must be ones that a NIfTI header can say the scaling of.
    """

    colors = 0
    trailer = b""

    def __init__(
        self,
        numbers: StoredArray,
        parts: MaskedParts,
        voxels: VoxelSet,
        *,
        max_memory: int,
        nifti: bool = False,
    ) -> None:
        from fmristore.nifti import make_header

        self._numbers = numbers
        self._voxels = voxels
        self._max_memory = max_memory
        self._convert = parts.scaling
        self.space = parts.space
        self.dtype = numbers.reader.spec.dtype
        self.scaling: Scaling | None = None
        self._fill = parts.nodes.fill
        kept = _stored_fill(parts, self.dtype, nifti=nifti)
        if kept is not None:
            self._fill, self.scaling, self._convert = kept, parts.scaling, None
        elif parts.scaling is not None:
            self.dtype = parts.scaling.dtype(self.dtype)
        self.header = make_header(
            self.space,
            self.dtype,
            slope=None if self.scaling is None else float(self.scaling.slope),
            inter=None if self.scaling is None else float(self.scaling.inter),
        )

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, or single planes."""
        reader = self._numbers.reader
        dims = reader.spec.dims
        axes = (dims.index("t"), dims.index("voxel"))
        count = reader.spec.shape[axes[1]]
        rows = self._voxels.row_of.transpose(2, 1, 0)
        plane = math.prod(rows.shape[1:]) * self.dtype.itemsize
        step = max(1, max_bytes // (plane * rows.shape[0]))
        thick = rows.shape[0] if plane * rows.shape[0] <= max_bytes else max(1, max_bytes // plane)
        for box, values in read_in_boxes(reader, axes, (1, count), self._max_memory // 2):
            first = box[0].start
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


def _stored_fill(parts: MaskedParts, dtype: np.dtype[Any], *, nifti: bool) -> Fill | None:
    """The stored number that means the fill value, None if there is none that may be used."""
    scaling, fill = parts.scaling, parts.nodes.fill
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
