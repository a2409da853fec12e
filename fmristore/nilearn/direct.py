"""Series read where they lie, for maskers that take volumes as they are.

nilearn sees one volume of zeros on the grid of the run: from it come its checks, its warnings, what
it learns, and type and number of the series. Of the run only the voxels of the masker are read,
each chunk once, in the order in which they are stored.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.grid import GridView
from fmristore.formats.parcellated.reduce import Reduction, accumulate
from fmristore.formats.series_blocks import SeriesBlock, VoxelReader
from fmristore.formats.voxel_source import voxel_reader
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.nilearn.runs import Run, blank_volume
from fmristore.planning.streams import streaming
from fmristore.sources.images import ImageSource
from fmristore_stores.protocol import AnyArray

__all__ = [
    "Extract",
    "Part",
    "has_grid",
    "mask_parts",
    "mask_voxels",
    "parcel_parts",
    "sphere_parts",
    "takes_voxels",
]

_STATISTICS = {
    "mean": "mean",
    "sum": "sum",
    "minimum": "min",
    "maximum": "max",
    "standard_deviation": "std",
}
"""Strategies of `NiftiLabelsMasker` that take voxels in any order, as they are called here."""

Extract = Callable[[Any], Any]
"""Gives nilearn's series, uncleaned, of an image."""


class Part(NamedTuple):
    """Some of the series of a run, uncleaned."""

    times: slice
    columns: slice | NDArray[np.int64]
    values: AnyArray
    """(times, columns), of the type that nilearn gives."""
    width: int
    """Number of all series."""
    dtype: np.dtype[Any]
    """Of the values of the run, as an image."""


def has_grid(image: Any, space: NeuroSpace) -> bool:
    """Return whether an image of a masker lies on a grid."""
    same: bool = image.shape[:3] == space.spatial_shape and np.allclose(image.affine, space.affine)
    return same


def takes_voxels(masker: Any, space: NeuroSpace) -> bool:
    """Return whether a `NiftiMasker` takes the voxels of its mask as they are."""
    changing = ("smoothing_fwhm", "target_affine", "target_shape")
    return all(getattr(masker, n) is None for n in changing) and has_grid(masker.mask_img_, space)


def mask_voxels(masker: Any, space: NeuroSpace) -> VoxelSet:
    """Voxels of the mask of a `NiftiMasker`, in the order of its series."""
    return VoxelSet(space, np.argwhere(np.asanyarray(masker.mask_img_.dataobj) != 0))


def mask_parts(masker: Any, run: Run, max_memory: int, extract: Extract) -> Iterator[Part] | None:
    """Series of the voxels of a mask.

    Parameters
    ----------
    masker : nilearn.maskers.NiftiMasker
        Fitted.
    run : Run
        Read once.
    max_memory : int
        Bytes that reading and one block may take.
    extract : callable
        Gives nilearn's series, uncleaned, of an image.

    Returns
    -------
    iterator of Part, or None
        None if nilearn has to see the volumes.
    """
    volume = _stand_in(run, lambda space: takes_voxels(masker, space))
    if volume is None:
        return None
    like = np.asarray(extract(volume))
    return _mask_parts(masker, run, max_memory, like, volume.get_data_dtype())


def _mask_parts(
    masker: Any, run: Run, max_memory: int, like: AnyArray, dtype: np.dtype[Any]
) -> Iterator[Part]:
    with run.open(max_memory) as source:
        reader = voxel_reader(source, mask_voxels(masker, source.space))
        with streaming(_finite(reader, _room(source, max_memory))) as blocks:
            for times, columns, values in blocks:
                found = values.astype(like.dtype, copy=False)
                yield Part(times, columns, found, like.shape[-1], dtype)


def parcel_parts(masker: Any, run: Run, max_memory: int, extract: Extract) -> Iterator[Part] | None:
    """Series of the parcels of a label image; parameters and result as of `mask_parts`."""
    statistic = _STATISTICS.get(masker.strategy)
    if statistic is None or masker.smoothing_fwhm is not None:
        return None

    def fits(space: NeuroSpace) -> bool:
        return masker.resampling_target == "data" or has_grid(masker.labels_img_, space)

    volume = _stand_in(run, fits)
    if volume is None:
        return None
    like = np.asarray(extract(volume))
    atlas = np.asanyarray(masker.region_atlas_.dataobj)
    ids = np.unique(atlas)
    ids = ids[ids != masker.background_label]
    if len(ids) != like.shape[-1]:  # regions that the mask leaves nothing of
        return None
    dtype = volume.get_data_dtype()
    return _parcel_parts(run, (atlas, ids), statistic, max_memory, like, dtype)


def sphere_parts(masker: Any, run: Run, max_memory: int, extract: Extract) -> Iterator[Part] | None:
    """Series of spheres that share no voxel, as parcels of the voxels that nilearn puts into them.

    Parameters and result as of `mask_parts`; the masker has a mask image on the grid of the run.
    """
    if masker.smoothing_fwhm is not None or masker.dtype is not None:
        return None
    volume = _stand_in(run, lambda space: has_grid(masker.mask_img, space))
    if volume is None or volume.get_data_dtype() != np.float64:  # nilearn's means are float32
        return None
    numbers = np.arange(1.0, len(masker.seeds_) + 1)
    placed = copy.copy(masker)
    placed.mask_img_ = masker.mask_img
    try:
        volume = placed.inverse_transform(numbers[np.newaxis])
    except ValueError:  # a sphere without voxels
        return None
    # Voxels of two spheres, or that nilearn adds to one, show in the means.
    like = np.asarray(extract(volume))
    if like.size != len(numbers) or (like.ravel() != numbers).any():
        return None
    atlas = np.asarray(volume.dataobj).reshape(volume.shape[:3])
    return _parcel_parts(run, (atlas, numbers), "mean", max_memory, like, np.dtype(np.float64))


def _parcel_parts(
    run: Run,
    parcels: tuple[AnyArray, AnyArray],
    statistic: str,
    max_memory: int,
    like: AnyArray,
    dtype: np.dtype[Any],
) -> Iterator[Part]:
    atlas, ids = parcels
    inside = np.isin(atlas, ids)
    parcel_of = np.searchsorted(ids, atlas[inside])
    order = np.argsort(parcel_of, kind="stable")
    with run.open(max_memory) as source:
        reader = voxel_reader(source, VoxelSet(source.space, np.argwhere(inside)[order]))
        with streaming(_finite(reader, _room(source, max_memory))) as blocks:
            shape = (reader.times, len(ids))
            reduction = Reduction(statistic=statistic)
            found = accumulate(blocks, reduction, parcel_of[order], shape, np.dtype(np.float64))
        every = slice(0, shape[0], 1), slice(0, shape[1], 1)
        yield Part(*every, found.astype(like.dtype, copy=False), shape[1], dtype)


def _stand_in(run: Run, fits: Callable[[NeuroSpace], bool]) -> Any:
    """A volume of zeros in place of a run of real values on a grid that fits.

    None for every other one, which nilearn is given, or which is refused.
    """
    if getattr(run.source, "images", None) is not None:  # a sequence
        return None
    with run.open(1 << 20) as source:
        real = not source.colors and source.dtype.kind in "iuf"
        if real and source.space.time_points is not None and fits(source.space):
            return blank_volume(source)
    return None


def _room(source: ImageSource, max_memory: int) -> int:
    """Bytes for reading: of a store, a chunk twice at least, which has to be decoded as a whole."""
    stored = source.stored
    array = stored.dense_array if isinstance(stored, GridView) else None
    if array is None:
        return max_memory
    reader = array.streaming_reader()
    return max(max_memory, 2 * math.prod(reader.chunks) * reader.spec.dtype.itemsize)


def _finite(reader: VoxelReader, max_memory: int) -> Iterator[SeriesBlock]:
    """Values as nilearn takes them: float64 where they are scaled, 0 for what is not finite."""
    with streaming(reader.blocks(max_memory)) as blocks:
        for block in blocks:
            values = block.values
            if reader.scaling is not None:
                apply = reader.scaling.apply
                values = apply(values, times=block.times, axis=0, dtype=np.float64)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                values = np.where(np.isfinite(values), values, 0)
            yield block._replace(values=values)
