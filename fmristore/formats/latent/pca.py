"""Principal components of a run: exact, in bounded memory."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.planning.scratch import Scratch
from fmristore.planning.text import parse_size
from fmristore_stores.errors import InvalidInputError, MemoryLimitError
from fmristore_stores.protocol import AnyArray

__all__ = ["Decomposition", "principal_components"]

_BLOCK_BYTES = 16 << 20
"""A block that is larger makes nothing faster."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decomposition:
    """Principal components of a run: it is about ``basis @ loadings.T + offset``.

    Parameters
    ----------
    basis : ndarray of float32, (T, K)
        Time points in the coordinates of the components, largest variance first.
    loadings : ndarray of float32, (V, K)
        Orthonormal columns; the number of largest magnitude in each is positive.
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
    max_memory: int | str = 1 << 30,
) -> Decomposition:
    """Find the principal components of a run.

    They are the eigenvectors of the products of the centred time points with each other, (T, T),
    or of the voxels, (V, V), where there are fewer of these. The products are summed in float64,
    block by block.

    Parameters
    ----------
    parts : iterable of (int, int, ndarray)
        First time point, first voxel, and values (t, v) of the parts of the run, in any order;
        read once.
    shape : (int, int)
        T and V.
    n_components : int
        K, at least 1, less than T, and at most V.
    dtype : dtype
        float32 or float64: what the run is kept in.
    max_memory : int or str
        Bytes that this may take; the run goes through a temporary file if it does not fit.

    Raises
    ------
    InvalidInputError
        If a value is not finite, or `n_components` does not fit.
    MemoryLimitError
        If products and components do not fit `max_memory`.

    Notes
    -----
    Deterministic: the same run and `max_memory` give the same components.
    """
    max_memory = parse_size(max_memory)
    points, voxels = shape
    count = _components(n_components, points, voxels)
    _require_memory(count, points, voxels, max_memory)
    with Scratch(shape, dtype, max_memory=max_memory // 4) as scratch:
        for first, voxel, values in parts:
            _require_finite(values, first)
            times = slice(first, first + values.shape[0], 1)
            scratch.write((times, slice(voxel, voxel + values.shape[1], 1)), values)
        run = _Centred(scratch, max_memory // 4)
        axes = _first_axes(run, count)
        others, missed, whole = _project(run, axes)
    if run.by_voxel:
        loadings, mixing = np.linalg.qr(others)  # orthonormal even where there is no variance
        basis = axes @ mixing.T
    else:
        loadings, basis = axes, others
    signs = np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(count)])
    total = float(whole.sum())
    return Decomposition(
        basis=(basis * signs).astype(np.float32),
        loadings=(loadings * signs).astype(np.float32),
        offset=run.mean.astype(np.float32),
        error=float(np.sqrt(missed.sum() / total)) if total else 0.0,
        voxel_error=np.sqrt(missed / points).astype(np.float32),
    )


class _Centred:
    """A run without its means, cut into blocks along the longer axis.

    Parameters
    ----------
    run : Scratch
        (T, V).
    max_bytes : int
        For a block and what is made of it.
    """

    def __init__(self, run: Scratch, max_bytes: int) -> None:
        self._run = run
        self.by_voxel = run.shape[0] <= run.shape[1]
        self.short, self.long = sorted(run.shape)
        self._step = max(1, min(max_bytes // 4, _BLOCK_BYTES) // (8 * self.short))
        self.mean: NDArray[np.float64] = np.zeros(run.shape[1])
        total = np.zeros(run.shape[1])
        for part, values in self.blocks():
            self.add_over_time(values, part, total)
        self.mean = total / run.shape[0]

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Parts of the longer axis, and their data, (shorter axis, part)."""
        for start in range(0, self.long, self._step):
            part = slice(start, min(start + self._step, self.long), 1)
            every = slice(0, self.short, 1)
            region = (every, part) if self.by_voxel else (part, every)
            values = self._run.read(region).astype(np.float64)
            values -= self.mean[region[1]]
            yield part, values if self.by_voxel else values.T

    def add_over_time(self, values: NDArray[np.float64], part: slice, out: AnyArray) -> None:
        """Add values of a block, summed over time, to those of their voxels, (V,)."""
        if self.by_voxel:
            out[part] = values.sum(axis=0)
        else:
            out += values.sum(axis=1)


def _first_axes(run: _Centred, count: int) -> NDArray[np.float64]:
    """Directions of the largest variance along the shorter axis, (shorter axis, K)."""
    products = np.zeros((run.short, run.short))
    for _, values in run.blocks():
        products += values @ values.T
    _, vectors = np.linalg.eigh(products)  # in order of rising variance
    return np.ascontiguousarray(vectors[:, : -count - 1 : -1])


def _project(
    run: _Centred, axes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates on some axes, and squares by voxel of what they miss and of everything."""
    found = np.empty((run.long, axes.shape[1]))
    missed, whole = np.zeros_like(run.mean), np.zeros_like(run.mean)
    for part, values in run.blocks():
        run.add_over_time(np.square(values), part, whole)
        found[part] = values.T @ axes
        rest = values - axes @ found[part].T
        run.add_over_time(np.square(rest), part, missed)
    return found, missed, whole


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


def _require_memory(count: int, points: int, voxels: int, max_memory: int) -> None:
    """Check that what cannot be cut into blocks takes half of the memory at most."""
    short, long = sorted((points, voxels))
    needed = 2 * 8 * (5 * short * short + 4 * long * count)
    if needed > max_memory:
        raise MemoryLimitError(
            f"{count} components of {points} time points and {voxels} voxels: raise max_memory "
            f"from {max_memory} to at least {needed} bytes, ask for fewer components, or give a "
            "smaller mask"
        )


def _require_finite(values: AnyArray, first: int) -> None:
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InvalidInputError(
            f"{bad} values in volumes {first} to {first + len(values) - 1} are not finite; leave "
            "such voxels out of the mask, or replace the data"
        )
