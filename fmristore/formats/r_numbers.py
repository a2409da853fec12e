"""Numbers as R holds them: whole ones of 32 bits, one of which is NA, and float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmristore.formats.r_links import R_TYPES
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["R_EXACT", "r_dtype", "r_numbers"]

R_EXACT = 2**53
"""Below it, float64 holds every whole number."""


def r_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type in which R reads numbers of a type: float64 for integers that it does not have.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    if dtype.name in ("uint32", "int64", "uint64"):
        return np.dtype(np.float64)
    if dtype.name not in R_TYPES:
        raise InvalidInputError(f"R cannot read numbers of type {dtype}")
    return dtype


def r_numbers(values: AnyArray, dtype: np.dtype[Any]) -> AnyArray:
    """Numbers in a type of R's, the same array where it has that type.

    Parameters
    ----------
    values : ndarray
        Real numbers; floating-point ones may be rounded.
    dtype : dtype
        int32, or one that holds all integers of the type of `values` below 2**53.

    Raises
    ------
    InvalidInputError
        If an integer would be another number in R, or missing.
    """
    if values.dtype.kind in "iu" and values.dtype.itemsize >= 4 and values.size:
        limit = 2**31 if dtype == np.int32 else R_EXACT
        for value in (int(values.min()), int(values.max())):
            if not -limit < value < limit:
                raise InvalidInputError(
                    f"R has no whole number {value} in numbers of type {dtype}: "
                    "store floating-point numbers"
                )
    return values.astype(dtype, copy=False)
