"""Maps over all voxels of a run that is never loaded: correlation with seeds, and components."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from nilearn import masking
from sklearn.utils.validation import check_is_fitted

from fmristore.nilearn.maskers import clean_series
from fmristore.nilearn.parameters import MAX_MEMORY
from fmristore.nilearn.runs import find_each_run
from fmristore.nilearn.series import VoxelSeries, voxel_series
from fmristore.planning.text import parse_size
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["correlation_maps", "reduced_run"]

_COPIES = 8
"""float64 that cleaning and multiplying take for each value of a block."""


class _Cleaned:
    """Series of a run, cleaned by a masker, some voxels at a time."""

    def __init__(
        self, series: VoxelSeries, masker: Any, max_memory: int, cleaning: Mapping[str, Any]
    ) -> None:
        self._series = series
        self._masker = masker
        self._max_memory = max_memory
        self._cleaning = cleaning

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self._series.shape[1]

    def blocks(self) -> Iterator[tuple[slice, AnyArray]]:
        """All voxels: their positions, and their series (T, n), float64."""
        times, count = self._series.shape
        step = max(1, self._max_memory // (_COPIES * 8 * times))
        for start in range(0, count, step):
            voxels = slice(start, min(start + step, count), 1)
            found = clean_series(self._masker, self._series.read(voxels), **self._cleaning)
            yield voxels, found.astype(np.float64, copy=False)


@contextlib.contextmanager
def _cleaned(
    imgs: Any,
    masker: Any,
    max_memory: int | str,
    storage_options: Mapping[str, Any] | None,
    cleaning: Mapping[str, Any],
) -> Iterator[_Cleaned]:
    check_is_fitted(masker)
    runs = find_each_run(imgs, storage_options)
    if len(runs) != 1:
        raise InvalidInputError(f"{len(runs)} runs: give one at a time")
    limit = parse_size(max_memory)
    with voxel_series(masker, runs[0], limit) as series:
        yield _Cleaned(series, masker, limit // 2, cleaning)


def _on_grid(masker: Any, maps: AnyArray) -> Any:
    """Maps as a masker's ``inverse_transform`` gives them, which copies them once more."""
    if masker.dtype is not None:
        return masker.inverse_transform(maps)
    image: Any = masking.unmask(maps, masker.mask_img_)
    image.set_data_dtype(maps.dtype)
    return image


def correlation_maps(
    imgs: Any,
    seeds: Any,
    masker: Any,
    *,
    confounds: Any = None,
    sample_mask: Any = None,
    max_memory: int | str = MAX_MEMORY,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Correlate every voxel of a mask with the series of seeds or parcels.

    Parameters
    ----------
    imgs : stored object, path, URL, or nibabel image
        One run.
    seeds : array_like, (T,) or (T, S)
        Their series, such as a masker's for spheres or labels, cleaned as they should be; T
        volumes are left after `sample_mask`.
    masker : nilearn.maskers.NiftiMasker
        Fitted, ours or nilearn's: its mask, smoothing and cleaning hold for the voxels.
    confounds, sample_mask : object, optional
        As of the masker's ``transform``.
    max_memory : int or str
        Bytes that reading and correlating may take, besides the maps; series that do not fit lie in
        a temporary file.
    storage_options : mapping, optional
        For a URL.

    Returns
    -------
    nibabel image, (X, Y, Z, S), or (X, Y, Z) for seeds of shape (T,)
        Pearson's correlation; 0 outside the mask and for voxels that never change.

    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    InvalidInputError
        If it is not one run, or the seeds do not have its length, are not finite or never change.
    """
    given = np.asarray(seeds, np.float64)
    wanted = given.reshape(len(given), -1)
    wanted = wanted - wanted.mean(axis=0)
    lengths = np.linalg.norm(wanted, axis=0)
    if given.ndim not in (1, 2) or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise InvalidInputError("seeds must be finite series (T,) or (T, S) that change")
    wanted /= lengths
    cleaning = {"confounds": confounds, "sample_mask": sample_mask}
    with _cleaned(imgs, masker, max_memory, storage_options, cleaning) as cleaned:
        maps = np.empty((wanted.shape[1], cleaned.voxels))
        for voxels, values in cleaned.blocks():
            if len(values) != len(wanted):
                raise InvalidInputError(
                    f"seeds of {len(wanted)} volumes for a run of which {len(values)} are kept"
                )
            apart = values - values.mean(axis=0)
            size = np.linalg.norm(apart, axis=0)
            flat = size <= 1e-12 * np.abs(values).max(axis=0)
            maps[:, voxels] = np.where(flat, 0, wanted.T @ apart / np.where(flat, 1, size))
    return _on_grid(masker, maps[0] if given.ndim == 1 else maps)


def reduced_run(
    imgs: Any,
    masker: Any,
    n_components: int,
    *,
    confounds: Any = None,
    sample_mask: Any = None,
    max_memory: int | str = MAX_MEMORY,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Reduce a run to its principal components: a short run that decompositions take in its place.

    Parameters
    ----------
    imgs : stored object, path, URL, or nibabel image
        One run.
    masker : nilearn.maskers.NiftiMasker
        Fitted, ours or nilearn's: its mask, smoothing and cleaning are applied.
    n_components : int
        Volumes that are left, at most those of the run; at least as many as the components that a
        decomposition is asked for.
    confounds, sample_mask : object, optional
        As of the masker's ``transform``.
    max_memory : int or str
        Bytes that reading and multiplying may take, besides the result and T x T values; series
        that do not fit lie in a temporary file.
    storage_options : mapping, optional
        For a URL.

    Returns
    -------
    nibabel image, (X, Y, Z, n_components)
        Maps, each times its singular value, largest first; their signs are arbitrary. Series are
        not centred but by the masker.

    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    InvalidInputError
        If it is not one run, or has fewer volumes.

    Notes
    -----
    `nilearn.decomposition.CanICA` and `DictLearning` begin with this reduction: with
    ``standardize=False, detrend=False`` they find the same in the short run as in the long one that
    the masker cleaned.
    """
    cleaning = {"confounds": confounds, "sample_mask": sample_mask}
    with _cleaned(imgs, masker, max_memory, storage_options, cleaning) as cleaned:
        products: Any = 0.0
        for _, values in cleaned.blocks():
            products = products + values @ values.T
        if not 1 <= n_components <= len(products):
            raise InvalidInputError(
                f"n_components={n_components} of a run of which {len(products)} volumes are kept"
            )
        weights = np.linalg.eigh(products)[1][:, ::-1][:, :n_components]
        maps = np.empty((n_components, cleaned.voxels))
        for voxels, values in cleaned.blocks():
            maps[:, voxels] = weights.T @ values
    return _on_grid(masker, maps)
