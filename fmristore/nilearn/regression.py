"""Linear models of many voxels, fitted to some of them at a time: nilearn's estimates, no series.

Order of the computation, for one run:

- ordinary least squares for every voxel; with autoregressive noise only the sums of its residuals
  from which their autocorrelation follows are kept
- Yule-Walker equations for every voxel, coefficients binned (one) or clustered (more), as
  `nilearn.glm.first_level.run_glm` does it for all voxels at once
- generalised least squares for the voxels of each bin
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from nilearn.glm import ARModel, OLSModel, RegressionResults, SimpleRegressionResults
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["Problem", "fit", "noise_order"]

_COPIES = 10
"""float64 that fitting takes for each value of a block: cleaned, predicted, whitened, residuals."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A run and its design.

    Parameters
    ----------
    design : ndarray, (T, P)
        Regressors.
    voxels : int
        Number of voxels.
    read : callable
        Series (T, n) of some voxels, given by slice or positions, as they are to be fitted.
    max_memory : int
        Bytes that a block of voxels may take while it is fitted.
    """

    design: AnyArray
    voxels: int
    read: Callable[[Any], AnyArray]
    max_memory: int

    @property
    def step(self) -> int:
        """Number of voxels that are fitted at a time."""
        return max(1, self.max_memory // (_COPIES * 8 * len(self.design)))

    def blocks(self) -> Iterator[tuple[slice, AnyArray]]:
        """All voxels, some at a time."""
        for start in range(0, self.voxels, self.step):
            voxels = slice(start, min(start + self.step, self.voxels), 1)
            yield voxels, self.read(voxels)


def noise_order(noise_model: str) -> int:
    """Order of the autoregressive noise: 0 for ``"ols"``, N for ``"arN"``.

    Raises
    ------
    InvalidInputError
        If it is neither.
    """
    if noise_model == "ols":
        return 0
    order = noise_model[2:]
    if noise_model[:2] != "ar" or not order.isdecimal() or int(order) < 1:
        raise InvalidInputError(f"noise_model={noise_model!r}: expected 'ols', 'ar1', 'ar2', ...")
    return int(order)


def fit(
    problem: Problem, noise_model: str, *, bins: int = 100, random_state: Any = None
) -> tuple[AnyArray, dict[Any, Any]]:
    """Fit the model of one run, as `nilearn.glm.first_level.run_glm`.

    Parameters
    ----------
    problem : Problem
        Each voxel is read once for ``"ols"``, twice otherwise.
    noise_model : str
        ``"ols"`` or ``"arN"``.
    bins : int
        Bins of the first coefficient, or clusters of several.
    random_state : int or numpy RandomState, optional
        For clustering.

    Returns
    -------
    labels : ndarray, (V,)
        Name of the noise model of each voxel.
    results : dict
        Estimates of the voxels of each name (`nilearn.glm.SimpleRegressionResults`).
    """
    order = noise_order(noise_model)
    model = OLSModel(problem.design)
    if order == 0:
        estimates = _Estimates(model, problem.voxels)
        for voxels, values in problem.blocks():
            estimates.add(voxels, model.fit(values))
        return np.zeros(problem.voxels), {0.0: estimates.results()}
    lags = _Lags(len(problem.design), problem.voxels, order)
    for voxels, values in problem.blocks():
        lags.add(voxels, model.fit(values).whitened_residuals)
    coefficients, labels = _binned(lags.coefficients(), bins, random_state)
    results = {}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        whitening = ARModel(problem.design, coefficients[members[0]])
        estimates = _Estimates(whitening, len(members))
        for start in range(0, len(members), problem.step):
            part = slice(start, min(start + problem.step, len(members)), 1)
            estimates.add(part, whitening.fit(problem.read(members[part])))
        results[label] = estimates.results()
    return labels, results


class _Estimates:
    """Estimates of the voxels of one model."""

    def __init__(self, model: Any, voxels: int) -> None:
        self._model = model
        self._theta = np.empty((model.design.shape[1], voxels))
        self._dispersion = np.empty(voxels)

    def add(self, voxels: slice, found: Any) -> None:
        self._theta[:, voxels] = found.theta
        self._dispersion[voxels] = found.dispersion

    def results(self) -> Any:
        """Estimates as nilearn keeps them for contrasts, without model and series."""
        nothing = np.empty((len(self._model.design), 0))
        return SimpleRegressionResults(
            RegressionResults(
                self._theta,
                nothing,
                self._model,
                nothing,
                nothing,
                cov=self._model.normalized_cov_beta,
                dispersion=self._dispersion,
            )
        )


class _Lags:
    """Sums over time of residuals, from which their autocorrelation follows.

    nilearn subtracts the mean of all residuals of all voxels before it multiplies them: it is
    known when all were seen, and is then taken out of the sums.
    """

    def __init__(self, times: int, voxels: int, order: int) -> None:
        self._times = times
        self._products = np.empty((voxels, order + 1))
        self._sums = np.empty((voxels, order + 1))
        self._total = 0.0

    def add(self, voxels: slice, residuals: AnyArray) -> None:
        """Take the residuals (T, n) of some voxels."""
        self._total += float(residuals.sum())
        for lag in range(self._products.shape[1]):
            early, late = residuals[: self._times - lag], residuals[lag:]
            self._products[voxels, lag] = np.einsum("tv,tv->v", early, late)
            self._sums[voxels, lag] = early.sum(axis=0) + late.sum(axis=0)

    def coefficients(self) -> NDArray[np.float64]:
        """Coefficients (V, order) by the Yule-Walker equations."""
        voxels, lags = self._products.shape
        mean = self._total / (voxels * self._times)
        pairs = self._times - np.arange(lags)
        covariance = self._products - mean * self._sums + pairs * mean**2
        covariance /= pairs
        covariance[covariance[:, 0] == 0] = np.eye(1, lags)  # no residuals: no correlation
        apart = np.abs(np.subtract.outer(np.arange(lags - 1), np.arange(lags - 1)))
        found: NDArray[np.float64] = np.linalg.solve(covariance[:, apart], covariance[:, 1:, None])[
            ..., 0
        ]
        return found


def _binned(
    coefficients: NDArray[np.float64], bins: int, random_state: Any
) -> tuple[NDArray[np.float64], AnyArray]:
    """Coefficients (V, order) as they are used, and the name of each voxel's."""
    if coefficients.shape[1] == 1:
        steps = np.trunc(coefficients * bins)
        used = np.where(np.isfinite(steps), steps, 0) + 0.0  # no -0
        used = used * 1.0 / bins
        values, which = np.unique(used[:, 0], return_inverse=True)
        return used, np.array([str(value) for value in values])[which]
    clusters = KMeans(
        n_clusters=min(bins, len(coefficients)), n_init=10, random_state=random_state
    ).fit(coefficients)
    centers = clusters.cluster_centers_
    names = np.array(["_".join(map(str, np.round(center, 2))) for center in centers])
    return centers[clusters.labels_], names[clusters.labels_]
