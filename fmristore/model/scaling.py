"""From stored values to the scaled values: ``stored * slope + inter``."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["Scaling", "make_scaling"]

Factor = float | NDArray[np.float64]
_SMALLEST, _LARGEST = (float(limit) for limit in (np.finfo("f4").tiny, np.finfo("f4").max))
_SHORT = np.dtype("f4")

_MOST_STEPS = 2.0**18
"""Steps of the slope that an intercept may have for float32: its rounding is 1/32 of a step."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """Slope and intercept, one for all volumes or one for each.

    Parameters
    ----------
    slope, inter : float or ndarray, (T,)
        Finite numbers.
    """

    slope: Factor
    inter: Factor
    _wide: bool = field(init=False, repr=False)
    """True if float32 cannot hold the factors, or 16-bit integers scaled by them."""
    _shifts: bool = field(init=False, repr=False)
    """True if any intercept is not 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_wide", _is_wide(abs(self.slope), abs(self.inter)))
        inter = self.inter
        shifts = inter != 0 if isinstance(inter, float) else bool(np.any(inter))
        object.__setattr__(self, "_shifts", shifts)

    @property
    def per_volume(self) -> bool:
        """True if every volume has its own."""
        return not isinstance(self.slope, float)

    def dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        """Type of the scaled values.

        float32 for stored integers of up to 16 bits, whose scaled values it holds to 1 part in 10
        million; float64 (or complex) for wider ones, for factors beyond float32's range, and for
        intercepts so large that float32 could not tell neighbouring values apart.
        """
        short = stored.kind in "iu" and stored.itemsize <= 2
        usual = _SHORT if short else np.result_type(stored, np.float32)
        return np.result_type(usual, np.float64) if self._wide else usual

    def apply(
        self,
        values: AnyArray,
        *,
        times: slice | NDArray[np.int64] = slice(None),
        axis: int = -1,
        dtype: DTypeLike | None = None,
    ) -> AnyArray:
        """Scale stored values.

        Parameters
        ----------
        values : ndarray
            Stored values.
        times : slice or ndarray of int
            Volumes that `values` are of.
        axis : int
            Axis of `values` that numbers the volumes.
        dtype : dtype, optional
            Type to compute and return instead of `Scaling.dtype`.
        """
        working = wanted = self.dtype(values.dtype)
        if dtype is not None:
            wanted = np.dtype(dtype)
            working = np.result_type(working, wanted) if wanted.kind in "fc" else working
        scaled = values.astype(working)
        scaled *= self._factor(self.slope, working, times, axis, scaled.ndim)
        if self._shifts:
            scaled += self._factor(self.inter, working, times, axis, scaled.ndim)
        return scaled if wanted is working else scaled.astype(wanted, copy=False)

    @staticmethod
    def _factor(
        factor: Factor,
        working: np.dtype[Any],
        times: slice | NDArray[np.int64],
        axis: int,
        ndim: int,
    ) -> Any:
        if isinstance(factor, float):
            return working.type(factor)
        shape = [1] * ndim
        shape[axis] = -1
        return factor[times].astype(working).reshape(shape)


def _is_wide(slopes: Any, inters: Any) -> bool:
    """True if float32 cannot hold factors of such sizes, or 16-bit integers scaled by them."""
    if isinstance(slopes, float) and isinstance(inters, float):
        most, least, inter = slopes, slopes, inters
        shifted = inters > slopes * _MOST_STEPS
    else:
        most, least, inter = float(np.max(slopes)), float(np.min(slopes)), float(np.max(inters))
        shifted = bool(np.any(inters > slopes * _MOST_STEPS))
    return most * 2.0**16 + inter > _LARGEST or least < _SMALLEST or shifted


def make_scaling(slope: Any, inter: Any, *, volumes: int | None) -> Scaling | None:
    """Check a slope and an intercept; None if there are none, or they change nothing.

    Parameters
    ----------
    slope, inter : float, array_like of shape (T,), or None
        No intercept means 0.
    volumes : int, optional
        T; None for a single volume without a time axis.

    Raises
    ------
    InvalidInputError
        If a number is not finite, a slope is 0, or there is not one for each volume.
    """
    if slope is None:
        if inter is not None and np.any(inter):
            raise InvalidInputError("an intercept needs a slope; give slope=1.0")
        return None
    if type(slope) is float and type(inter) is float and slope and isfinite(slope + inter):
        return None if (slope, inter) == (1, 0) else Scaling(slope, inter)
    factors: list[Any] = []
    for name, given in (("slope", slope), ("inter", 0.0 if inter is None else inter)):
        try:
            values = np.asarray(given, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidInputError(f"{name} must be numbers: {error!s:.200}") from error
        if values.shape not in ((), (volumes,)):
            raise InvalidInputError(
                f"{name} of shape {values.shape}: expected one number, or one for each of "
                f"{volumes} volumes"
            )
        if not np.isfinite(values).all() or (name == "slope" and not values.all()):
            raise InvalidInputError(f"{name} must be finite, and a slope not 0")
        factors.append(values)
    if all(f.shape == () for f in factors):
        if (factors[0], factors[1]) == (1, 0):
            return None
        return Scaling(float(factors[0]), float(factors[1]))
    return Scaling(*(np.broadcast_to(f, (volumes or 1,)).copy() for f in factors))
