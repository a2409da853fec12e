"""Maskers of nilearn that are fed with blocks of volumes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import nibabel
import numpy as np
from nilearn import maskers, signal
from sklearn.utils.validation import check_is_fitted

from fmristore.nilearn.runs import Run, find_runs
from fmristore.planning.text import parse_size
from fmristore_stores.protocol import AnyArray

__all__ = ["NiftiLabelsMasker", "NiftiMapsMasker", "NiftiMasker", "NiftiSpheresMasker"]

_MAX_MEMORY = "32MiB"
_NO_CLEANING: dict[str, Any] = {
    "detrend": False,
    "standardize": None,
    "low_pass": None,
    "high_pass": None,
    "clean_args_": {},
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
    clean_args_: Mapping[str, Any]
    detrend: Any
    dtype: Any
    high_pass: Any
    low_pass: Any
    mask_img: Any
    standardize: Any
    standardize_confounds: Any
    t_r: Any

    def fit(self, imgs: Any = None, y: Any = None, **parameters: Any) -> Any:
        """As nilearn's, for runs of any kind; a mask is computed from the streamed mean."""
        if imgs is not None:
            runs, imgs = find_runs(imgs, self.storage_options)
            if getattr(self, "mask_strategy", None) is not None and self.mask_img is None:
                limit = parse_size(self.max_memory)
                means = [run.mean(limit) for run in runs]
                imgs = means[0] if len(means) == 1 else means
        nilearns: Any = super()
        return nilearns.fit(imgs, y, **parameters)

    def transform(self, imgs: Any, confounds: Any = None, sample_mask: Any = None) -> Any:
        """As nilearn's, for runs of any kind, several of them one after the other."""
        _, lazy = find_runs(imgs, self.storage_options)
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
        vars(bare).update(_NO_CLEANING | self._restriction(runs[0]))
        extract: Any = super(_Streamed, bare)
        lengths = [run.space.time_points or 1 for run in runs]
        values: Any = None
        dtype = np.dtype(np.float64)
        start = 0
        for run, length in zip(runs, lengths, strict=True):
            for first, image in run.blocks(limit):
                found = extract.transform_single_imgs(image)
                found = np.asarray(found).reshape(image.shape[3], -1)
                if values is None:
                    values = np.empty((sum(lengths), found.shape[1]), found.dtype)
                at = start + first
                values[at : at + len(found)] = found
                dtype = image.get_data_dtype()
            start += length
        learned = {n: v for n, v in vars(bare).items() if n.endswith("_") and n != "clean_args_"}
        vars(self).update(learned)
        return values, dtype

    def _restriction(self, run: Run) -> dict[str, Any]:
        """Parameters that leave out voxels which the series do not depend on."""
        del run
        return {}

    def _clean(self, values: AnyArray, limit: int, **parameters: Any) -> AnyArray:
        """Clean some columns at a time, in place where neither length nor type changes."""
        width = max(1, limit // (8 * 8 * len(values)))
        result: Any = None
        for start in range(0, values.shape[1], width):
            columns = slice(start, min(start + width, values.shape[1]))
            found = signal.clean(
                values[:, columns],
                runs=getattr(self, "runs", None),
                detrend=self.detrend,
                standardize=self.standardize,
                standardize_confounds=self.standardize_confounds,
                t_r=self.t_r,
                low_pass=self.low_pass,
                high_pass=self.high_pass,
                **parameters,
                **self.clean_args_,
            )
            if result is None:
                same = len(found) == len(values) and found.dtype == values.dtype
                result = values if same else np.empty((len(found), values.shape[1]), found.dtype)
            result[:, columns] = found
        return np.asarray(result)


_PARAMETERS = """

    Parameters
    ----------
    *args, **parameters
        As of nilearn's, in the same order and with the same defaults.
    max_memory : int or str
        Bytes that reading, one block of volumes and cleaning may take, besides the series that
        are returned.
    storage_options : mapping, optional
        For URLs of runs, passed to fsspec.

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
    """


def _streaming(cls: Any) -> Any:
    """Give a masker the parameters of nilearn's, and ours after them: scikit-learn reads them."""
    masker = cls.__bases__[-1]

    def init(
        self: Any,
        *args: Any,
        max_memory: int | str = _MAX_MEMORY,
        storage_options: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> None:
        masker.__init__(self, *args, **parameters)
        self.max_memory = max_memory
        self.storage_options = storage_options

    signature = inspect.signature(masker)
    itself, *_, ours, also, _ = inspect.signature(init).parameters.values()
    every = [itself, *signature.parameters.values(), ours, also]
    made: Any = init
    made.__signature__ = signature.replace(
        parameters=[p.replace(annotation=inspect.Parameter.empty) for p in every]
    )
    cls.__init__ = made
    cls.__doc__ = f"{cls.__doc__}{_PARAMETERS}"
    return cls


@_streaming
class NiftiMasker(_Streamed, maskers.NiftiMasker):
    """nilearn's `NiftiMasker`, in blocks of volumes: series of the voxels of a mask."""


@_streaming
class NiftiLabelsMasker(_Streamed, maskers.NiftiLabelsMasker):
    """nilearn's `NiftiLabelsMasker`, in blocks of volumes: series of regions of a label image."""


@_streaming
class NiftiMapsMasker(_Streamed, maskers.NiftiMapsMasker):
    """nilearn's `NiftiMapsMasker`, in blocks of volumes: series of maps that may overlap."""


@_streaming
class NiftiSpheresMasker(_Streamed, maskers.NiftiSpheresMasker):
    """nilearn's `NiftiSpheresMasker`, in blocks of volumes: series of spheres around seeds."""

    def _restriction(self, run: Run) -> dict[str, Any]:
        """A mask of the voxels near seeds: nilearn lists all that there are for each block."""
        if self.mask_img is not None:
            return {}
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
        return {"mask_img": image} if near.any() else {}
