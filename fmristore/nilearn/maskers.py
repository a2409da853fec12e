"""Maskers of nilearn that take a run in blocks: of volumes, or of the voxels that they need."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import nibabel
import numpy as np
from nilearn import maskers, signal
from sklearn.utils.validation import check_is_fitted

from fmristore.model.space import NeuroSpace
from fmristore.nilearn.direct import Extract, Part, has_grid, mask_parts, parcel_parts, sphere_parts
from fmristore.nilearn.parameters import streaming_class
from fmristore.nilearn.runs import Run, find_runs
from fmristore.planning.streams import streaming
from fmristore.planning.text import parse_size
from fmristore_stores.protocol import AnyArray

__all__ = [
    "NO_CLEANING",
    "NiftiLabelsMasker",
    "NiftiMapsMasker",
    "NiftiMasker",
    "NiftiSpheresMasker",
    "clean_series",
    "extracted",
]

_COPIES = 12
"""float64 that cleaning takes for each value of some columns."""

NO_CLEANING: dict[str, Any] = {
    "detrend": False,
    "standardize": None,
    "low_pass": None,
    "high_pass": None,
    "clean_args_": {},
    "runs": None,
    "dtype": None,
    "memory": None,
    "memory_level": 0,
    "reports": False,
}
"""Of the masker that extracts blocks: what concerns whole series is done once for all of them."""


class _Streamed:
    """The part of a masker that reads; all else is nilearn's."""

    __init__: Any
    """Made by `_streaming`, with the signature of the masker."""
    max_memory: int | str
    storage_options: Mapping[str, Any] | None
    dtype: Any
    mask_img: Any

    def fit(self, imgs: Any = None, y: Any = None, **parameters: Any) -> Any:
        """As nilearn's, for runs of any kind; a mask is computed from the streamed mean."""
        if imgs is not None:
            runs, lazy = find_runs(imgs, self.storage_options)
            limit = parse_size(self.max_memory)
            if getattr(self, "mask_strategy", None) is not None and self.mask_img is None:
                means = [run.mean(limit) for run in runs]
                imgs = means[0] if len(means) == 1 else means
            else:
                imgs = self._pictures(runs, lazy, limit)
        nilearns: Any = super()
        return nilearns.fit(imgs, y, **parameters)

    def _pictures(self, runs: list[Run], lazy: Any, limit: int) -> Any:
        """Volumes for the report, which nilearn would take of the runs: of one the middle one."""
        several = isinstance(lazy, list)
        if not several and len(lazy.shape) == 3:
            return lazy
        length = runs[0].space.time_points
        if length is None:
            return lazy
        if not getattr(self, "reports", False):
            return lazy
        picture = runs[0].volume(0 if several else length // 2, limit)
        return [picture] * len(lazy) if several else picture

    def transform(self, imgs: Any, confounds: Any = None, sample_mask: Any = None) -> Any:
        """As nilearn's, for runs of any kind, several of them one after the other."""
        runs, lazy = find_runs(imgs, self.storage_options)
        if getattr(self, "high_variance_confounds", False):  # nilearn loads them, in float64
            images = [run.to_nibabel() for run in runs]
            lazy = images[0] if len(images) == 1 else images
        nilearns: Any = super()
        return nilearns.transform(lazy, confounds=confounds, sample_mask=sample_mask)

    def transform_single_imgs(
        self, imgs: Any, confounds: Any = None, sample_mask: Any = None, **options: Any
    ) -> Any:
        """Series of a run, streamed and cleaned."""
        check_is_fitted(self)
        runs, lazy = find_runs(imgs, self.storage_options)
        if len(runs) == 1 and len(lazy.shape) == 3:
            nilearns: Any = super()
            return nilearns.transform_single_imgs(lazy, confounds, sample_mask, **options)
        limit = parse_size(self.max_memory)
        values, dtype = self._extract(runs, limit)
        values = self._clean(values, limit, confounds=confounds, sample_mask=sample_mask)
        wanted: Any = self.dtype
        if wanted == "auto":
            wanted = np.int32 if dtype.kind == "i" else np.float32
        return values if wanted is None else values.astype(wanted, copy=False)

    def _extract(self, runs: list[Run], limit: int) -> tuple[AnyArray, np.dtype[Any]]:
        """Series (T, n) before cleaning, and the type of the runs' values."""
        bare = copy.copy(self)
        vars(bare).update(NO_CLEANING | self._restriction(runs[0]))
        nilearns: Any = super(_Streamed, bare)
        extract = nilearns.transform_single_imgs
        lengths = [run.space.time_points or 1 for run in runs]
        values: Any = None
        dtype = np.dtype(np.float64)
        start = 0
        for run, length in zip(runs, lengths, strict=True):
            with streaming(self._parts(bare, run, limit, extract)) as parts:
                for part in parts:
                    if values is None:
                        values = np.empty((sum(lengths), part.width), part.values.dtype)
                    times = slice(start + part.times.start, start + part.times.stop)
                    values[times, part.columns] = part.values
                    dtype = part.dtype
                    del part  # before the next one takes its memory
            start += length
        learned = {n: v for n, v in vars(bare).items() if n.endswith("_") and n != "clean_args_"}
        vars(self).update(learned)
        return values, dtype

    def _parts(self, bare: Any, run: Run, limit: int, extract: Extract) -> Iterator[Part]:
        """Uncleaned series of a run: in blocks of volumes that nilearn extracts."""
        for first, values, dtype in extracted(bare, run, limit, extract):
            times, columns = slice(first, first + len(values)), slice(0, values.shape[1])
            yield Part(times, columns, values, values.shape[1], dtype)

    def _restriction(self, run: Run) -> dict[str, Any]:
        """Parameters that leave out voxels which the series do not depend on."""
        del run
        return {}

    def _clean(self, values: AnyArray, limit: int, **parameters: Any) -> AnyArray:
        """Clean some columns at a time, in place where neither length nor type changes."""
        width = max(1, limit // (_COPIES * 8 * len(values)))
        result: Any = None
        for start in range(0, values.shape[1], width):
            columns = slice(start, min(start + width, values.shape[1]))
            found = clean_series(self, values[:, columns], **parameters)
            if result is None:
                same = len(found) == len(values) and found.dtype == values.dtype
                result = values if same else np.empty((len(found), values.shape[1]), found.dtype)
            result[:, columns] = found
        return np.asarray(result)


def extracted(
    masker: Any, run: Run, max_memory: int, extract: Extract
) -> Iterator[tuple[int, AnyArray, np.dtype[Any]]]:
    """Series of a run, a block of volumes after the other.

    Parameters
    ----------
    masker : nilearn masker
        Fitted.
    run : Run
        Read once; twice where the masker resamples volumes, which nilearn then clips to the
        smallest and largest value of the run.
    max_memory : int
        Bytes that reading and one block may take.
    extract : callable
        Gives the series of an image, uncleaned.

    Yields
    ------
    first : int
        Number of the first volume.
    values : ndarray, (volumes, n)
    dtype : dtype
        Of the values of the image.
    """
    extremes = run.extremes(max_memory) if _resamples(masker, run.space) else None
    with streaming(run.blocks(max_memory, extremes)) as blocks:
        for first, image in blocks:
            values = np.asarray(extract(image)).reshape(image.shape[3], -1)
            yield first, values if extremes is None else values[:-1], image.get_data_dtype()


def _resamples(masker: Any, space: NeuroSpace) -> bool:
    """Return whether a masker brings volumes onto another grid."""
    target = getattr(masker, "resampling_target", None)
    if target == "labels":
        image = masker.labels_img_
    elif target in ("maps", "mask"):
        image = masker.maps_img_
    elif isinstance(masker, maskers.NiftiMasker):
        image = masker.mask_img_
    else:
        return False
    return not has_grid(image, space)


def clean_series(masker: Any, values: AnyArray, **parameters: Any) -> AnyArray:
    """Clean series as a masker of nilearn's does.

    Parameters
    ----------
    masker : nilearn masker
        Fitted: its parameters are taken.
    values : ndarray, (T, n)
        Series of some of its voxels or regions.
    **parameters
        ``confounds`` and ``sample_mask``, as of `nilearn.signal.clean`.
    """
    found: AnyArray = signal.clean(
        values,
        runs=getattr(masker, "runs", None),
        detrend=masker.detrend,
        standardize=masker.standardize,
        standardize_confounds=masker.standardize_confounds,
        t_r=masker.t_r,
        low_pass=masker.low_pass,
        high_pass=masker.high_pass,
        **parameters,
        **masker.clean_args_,
    )
    return found


_streaming = streaming_class(
    """Bytes that reading, one block of volumes and cleaning may take, besides the series that
        are returned.""",
    """
    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    InvalidInputError
        If runs of a list lie on different grids, or a store holds no image.

    Notes
    -----
    ``fit`` and ``transform`` take stored objects, paths and URLs of stores and NIfTI files, images
    of nibabel, and lists of runs on one grid, whose series are joined. Masks and label images are
    given as to nilearn; paths of stores will do. ``high_variance_confounds=True`` loads the run, in
    nilearn.
    """,
)


@_streaming
class NiftiMasker(_Streamed, maskers.NiftiMasker):
    """nilearn's `NiftiMasker`, in blocks of the run: series of the voxels of a mask."""

    def _parts(self, bare: Any, run: Run, limit: int, extract: Extract) -> Iterator[Part]:
        """Of a run on the grid of the mask only the voxels of the mask are read."""
        return mask_parts(bare, run, limit, extract) or super()._parts(bare, run, limit, extract)


@_streaming
class NiftiLabelsMasker(_Streamed, maskers.NiftiLabelsMasker):
    """nilearn's `NiftiLabelsMasker`, in blocks of the run: series of regions of a label image."""

    def _parts(self, bare: Any, run: Run, limit: int, extract: Extract) -> Iterator[Part]:
        """Of a run on the grid of the labels only their voxels are read, in any order."""
        return parcel_parts(bare, run, limit, extract) or super()._parts(bare, run, limit, extract)


@_streaming
class NiftiMapsMasker(_Streamed, maskers.NiftiMapsMasker):
    """nilearn's `NiftiMapsMasker`, in blocks of volumes: series of maps that may overlap."""


@_streaming
class NiftiSpheresMasker(_Streamed, maskers.NiftiSpheresMasker):
    """nilearn's `NiftiSpheresMasker`, in blocks of the run: series of spheres around seeds."""

    def _parts(self, bare: Any, run: Run, limit: int, extract: Extract) -> Iterator[Part]:
        """Of scaled values only the voxels of spheres apart from each other are read."""
        parts = None
        if self.mask_img is None and bare.mask_img is not None:
            parts = sphere_parts(bare, run, limit, extract)
        return parts or super()._parts(bare, run, limit, extract)

    def _restriction(self, run: Run) -> dict[str, Any]:
        """A mask of the voxels near seeds: nilearn lists all that there are for each block.

        And the type, in which nilearn computes the means.
        """
        given: dict[str, Any] = {} if self.dtype == "auto" else {"dtype": self.dtype}
        if self.mask_img is not None:
            return given
        space = run.space
        reach = (self.radius or 0.0) + float(np.linalg.norm(space.spacing)) + 2.0
        index = np.moveaxis(np.indices(space.spatial_shape), 0, -1)
        near = np.zeros(space.spatial_shape, bool)
        for plane in range(len(near)):
            places = space.voxel_to_world(index[plane].reshape(-1, 3))
            for seed in self.seeds_:
                inside = ((places - np.asarray(seed)) ** 2).sum(axis=1) <= reach**2
                near[plane] |= inside.reshape(near.shape[1:])
        library: Any = nibabel
        image = library.Nifti1Image(near.astype(np.uint8), space.affine)
        return given | {"mask_img": image} if near.any() else given
