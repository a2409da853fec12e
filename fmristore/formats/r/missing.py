"""R's missing values (NA): integers, and logical values, that stand for no value.

R keeps NA among integers as a number, -2**31 in 32 bits, and its files hold it so. Floating-point
values need nothing: their NA is a NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from fmristore_stores.errors import LossyError
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import Attributes

__all__ = ["MISSING", "as_float", "check_cast", "missing_mask", "with_missing"]

MISSING = {"int32": -(2**31), "int64": -(2**63)}
"""NA by type of integer; that of 64 bits is the package bit64's."""

_LOGICAL = {"FALSE", "TRUE", "NA"}
"""Members of hdf5r's type of logical values."""

_LOGICAL_MISSING = -128
"""Value that HDF5 makes of NA where the R package stores logical values, as int8."""


def with_missing(values: AnyArray, attributes: Attributes | None = None) -> AnyArray:
    """Values with NA as NaN, in float64 then; those without NA as they are.

    Parameters
    ----------
    values : ndarray
        As they are stored.
    attributes : mapping, optional
        Of their array, which tell logical values from integers.
    """
    missing = missing_mask(values, attributes or {})
    if missing is None or not missing.any():
        return values
    return as_float(values, missing)


def missing_mask(values: AnyArray, attributes: Attributes) -> AnyArray | None:
    """Mask of values that are NA; None where the type has none."""
    members = attributes.get("_enum")
    if isinstance(members, dict) and set(members) == _LOGICAL:
        return np.asarray(values == members["NA"])
    if values.dtype == np.int8:  # as R's files have logical values
        missing: AnyArray = values == _LOGICAL_MISSING
        return missing if ((values == 0) | (values == 1) | missing).all() else None
    number = MISSING.get(values.dtype.name)
    return None if number is None else np.asarray(values == number)


def as_float(values: AnyArray, missing: AnyArray) -> AnyArray:
    """Values in float64, with NaN where they are missing."""
    result = np.asarray(values.astype(np.float64))  # which a single number is not
    result[missing] = np.nan
    return result


def check_cast(values: AnyArray, dtype: DTypeLike, *, url: str, node: str) -> None:
    """Refuse a type that cannot say which of R's integers are missing.

    Raises
    ------
    LossyError
        If there is NaN among `values`, and `dtype` has none.
    """
    if np.dtype(dtype).kind in "biu" and np.isnan(values).any():
        raise LossyError(
            f"has missing values (R's NA), which {np.dtype(dtype)} has not: read floating-point "
            "values, or raw=True",
            url=url,
            node=node,
        )
