"""Series of the voxels of a masker, extracted once and then read voxel by voxel."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from nilearn import maskers
from numpy.typing import NDArray

from fmristore.formats.matrix import ScaledMatrix, ScratchMatrix
from fmristore.formats.voxel_source import voxel_reader
from fmristore.nilearn.direct import mask_voxels, takes_voxels
from fmristore.nilearn.maskers import NO_CLEANING, extracted
from fmristore.nilearn.runs import Run
from fmristore.planning.memory import within
from fmristore.planning.scratch import Scratch
from fmristore.planning.streams import streaming
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["VoxelSeries", "voxel_series"]


@dataclass(frozen=True, slots=True)
class VoxelSeries:
    """Series of voxels in the order of a masker, before cleaning.

    Parameters
    ----------
    stored : ScaledMatrix
        Stored values, (V, T), and their scaling.
    """

    stored: ScaledMatrix

    @property
    def shape(self) -> tuple[int, int]:
        """Number of volumes and of voxels, (T, V)."""
        count, times = self.stored.shape
        return times, count

    def read(self, voxels: slice | NDArray[np.int64]) -> AnyArray:
        """Series of some voxels, in memory of their own.

        Parameters
        ----------
        voxels : slice or ndarray of int
            Positions among the voxels.

        Returns
        -------
        ndarray, (T, n)
            As `nilearn.masking.apply_mask` gives them: floating-point values, float64 where they
            are scaled, 0 for what is not finite.
        """
        every = slice(0, self.shape[0], 1)
        if self.stored.scaling is not None:
            values = self.stored.read(voxels, every, dtype=np.float64)
        else:
            found = self.stored.read(voxels, every, raw=True)
            kept = found.dtype.kind == "f"
            values = found.astype(found.dtype.newbyteorder("=") if kept else np.float32)
        values[~np.isfinite(values)] = 0
        return values


@contextlib.contextmanager
def voxel_series(masker: Any, run: Run, max_memory: int) -> Iterator[VoxelSeries]:
    """Extract the series of a run, so that those of any voxels can be read.

    Parameters
    ----------
    masker : nilearn.maskers.NiftiMasker
        Fitted. What it does to volumes (smoothing, resampling) is done, cleaning is not.
    run : Run
        Read once.
    max_memory : int
        Bytes that extracting the series may take. Half of it may still be taken afterwards; what
        does not fit lies in a temporary file.

    Raises
    ------
    InvalidInputError
        If it is not a run of values.
    MemoryLimitError
        If a stored chunk does not fit.
    """
    share = max_memory // 2
    with contextlib.ExitStack() as stack:
        with within(max_memory, share), _extracted(masker, run, share) as found:
            every = slice(0, found.shape[1], 1)
            dtype = found.matrix.dtype
            scratch = Scratch(found.shape, dtype, max_memory=max_memory // 4)
            stack.enter_context(scratch)
            step = max(1, max_memory // 8 // (every.stop * dtype.itemsize))
            for start in range(0, len(found.matrix), step):
                rows = slice(start, min(start + step, len(found.matrix)), 1)
                scratch.write((rows, every), found.matrix.read(rows, every))
        kept = ScratchMatrix(scratch, np.arange(scratch.shape[0]))
        yield VoxelSeries(ScaledMatrix(kept, found.scaling))


@contextlib.contextmanager
def _extracted(masker: Any, run: Run, max_memory: int) -> Iterator[ScaledMatrix]:
    """Series in the order in which they are cheapest to write."""
    with run.open(max_memory) as source:
        space = source.space
        if space.time_points is None or source.colors:
            raise InvalidInputError("a model needs a run of volumes of values", url=source.url)
        if takes_voxels(masker, space):
            with voxel_reader(source, mask_voxels(masker, space)).matrix(max_memory) as found:
                yield found
            return
    bare = copy.copy(masker)
    vars(bare).update(NO_CLEANING)
    single: Any = maskers.NiftiMasker.transform_single_imgs
    with contextlib.ExitStack() as stack:
        scratch: Scratch | None = None
        found_blocks = extracted(bare, run, max_memory // 2, lambda image: single(bare, image))
        with streaming(found_blocks) as blocks:
            for first, values, _ in blocks:
                if scratch is None:
                    shape = (space.time_points, values.shape[1])
                    scratch = Scratch(shape, values.dtype, max_memory=max_memory // 2)
                    stack.enter_context(scratch)
                times = slice(first, first + len(values), 1)
                scratch.write((times, slice(0, values.shape[1], 1)), values)
        assert scratch is not None  # a run has volumes
        yield ScaledMatrix(ScratchMatrix(scratch))
