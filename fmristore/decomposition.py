"""Principal components of a run, found step by step in bounded memory."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.scratch import Scratch
from fmristore_stores.errors import DependencyError, InvalidInputError, MemoryLimitError
from fmristore_stores.protocol import AnyArray

__all__ = ["Decomposition", "principal_components"]

_COPIES = 5
"""Copies of a batch that are in memory while its singular values are found."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decomposition:
    """Principal components of a run: it is about ``basis @ loadings.T + offset``.

    Parameters
    ----------
    basis : ndarray of float32, (T, K)
        Time points in the coordinates of the components, largest variance first.
    loadings : ndarray of float32, (V, K)
        Orthonormal columns.
    offset : ndarray of float32, (V,)
        Mean over time of each voxel.
    error : float
        Root of the sum of squared errors over that of the squared deviations from the means.
    voxel_error : ndarray of float32, (V,)
        Root of the mean squared error over time.
    """

    basis: AnyArray
    loadings: AnyArray
    offset: AnyArray
    error: float
    voxel_error: AnyArray


def principal_components(
    parts: Iterable[tuple[int, int, AnyArray]],
    shape: tuple[int, int],
    n_components: int,
    *,
    dtype: np.dtype[Any],
    max_memory: int = 1 << 30,
) -> Decomposition:
    """Find the principal components of a run.

    Time points are the samples of scikit-learn's `IncrementalPCA` and voxels its features, so
    that its mean is the offset. It takes them in batches as large as memory allows, and carries
    more components from batch to batch than are asked for: what is asked for is then close to
    the best possible. Where all time points fit, it is the best possible.

    Parameters
    ----------
    parts : iterable of (int, int, ndarray)
        First time point, first voxel, and numbers (t, v) of the parts of the run, in any order;
        read once.
    shape : (int, int)
        T and V.
    n_components : int
        K, at least 1, less than T, and at most V.
    dtype : dtype
        float32 or float64: what the run is kept in.
    max_memory : int
        Bytes that this may take; the run goes through a temporary file if it does not fit.

    Raises
    ------
    DependencyError
        If scikit-learn is not installed.
    InvalidInputError
        If a number is not finite, or `n_components` does not fit.
    MemoryLimitError
        If the components of so many voxels cannot be found within `max_memory`.

    Notes
    -----
    Deterministic: the same run and `max_memory` give the same components.
    """
    make_pca = _library()
    points, voxels = shape
    count = _components(n_components, points, voxels)
    kept, batch = _batches(count, points, voxels, max_memory)
    with Scratch(shape, dtype, max_memory=max_memory // 4) as run:
        for first, voxel, values in parts:
            _require_finite(values, first)
            times = slice(first, first + values.shape[0], 1)
            run.write((times, slice(voxel, voxel + values.shape[1], 1)), values)
        pca = make_pca(n_components=kept, copy=False)
        for part in _batched(points, batch):
            with np.errstate(invalid="ignore", divide="ignore"):  # a run without variance
                pca.partial_fit(_read(run, part), check_input=False)
        axes: NDArray[np.float64] = pca.components_[:count]
        return _project(run, axes, pca.mean_, batch)


def _project(
    run: Scratch, axes: NDArray[np.float64], mean: NDArray[np.float64], batch: int
) -> Decomposition:
    """Coordinates of the time points on some axes, and what they miss."""
    points, voxels = run.shape
    basis = np.empty((points, len(axes)))
    missed, whole = np.zeros(voxels), np.zeros(voxels)
    for part in _batched(points, batch):
        values = _read(run, part)
        values -= mean
        whole += np.einsum("tv,tv->v", values, values)
        basis[part] = values @ axes.T
        values -= basis[part] @ axes
        missed += np.einsum("tv,tv->v", values, values)
    total = float(whole.sum())
    return Decomposition(
        basis=basis.astype(np.float32),
        loadings=axes.T.astype(np.float32),
        offset=mean.astype(np.float32),
        error=float(np.sqrt(missed.sum() / total)) if total else 0.0,
        voxel_error=np.sqrt(missed / points).astype(np.float32),
    )


def _library() -> Any:
    try:
        from sklearn.decomposition import IncrementalPCA
    except ImportError as error:
        raise DependencyError(
            "principal components need scikit-learn: pip install 'fmristore[latent]'"
        ) from error
    return IncrementalPCA


def _components(asked: Any, points: int, voxels: int) -> int:
    try:
        count = operator.index(asked)
    except TypeError as error:
        raise InvalidInputError(f"n_components {asked!r} is not a whole number") from error
    most = min(points - 1, voxels)
    if not 1 <= count <= most:
        raise InvalidInputError(
            f"n_components {count}: expected 1 to {most}, with {points} time points and {voxels} "
            "voxels"
        )
    return count


def _batches(count: int, points: int, voxels: int, max_memory: int) -> tuple[int, int]:
    """How many components to carry along, and how many time points to take at a time."""
    row = voxels * 8 * _COPIES
    room = max_memory // 2 // row
    if points <= room:
        return count, points
    if room <= 2 * count:
        raise MemoryLimitError(
            f"{count} components of {voxels} voxels take {2 * (2 * count + 1) * row} bytes: raise "
            "max_memory, ask for fewer components, or give a smaller mask"
        )
    kept = min(max(count, min(room // 2, 2 * count + 10)), voxels)
    return kept, room - kept


def _batched(points: int, batch: int) -> Iterator[slice]:
    for start in range(0, points, batch):
        yield slice(start, min(start + batch, points), 1)


def _read(run: Scratch, part: slice) -> NDArray[np.float64]:
    """A copy of some time points, which may be changed."""
    return run.read((part, slice(0, run.shape[1], 1))).astype(np.float64)


def _require_finite(values: AnyArray, first: int) -> None:
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InvalidInputError(
            f"{bad} numbers in volumes {first} to {first + len(values) - 1} are not finite; leave "
            "such voxels out of the mask, or replace the numbers"
        )
