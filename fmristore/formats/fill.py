"""The fill value: what voxels that are not stored are read as."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore_stores.errors import InvalidInputError, MetadataError

__all__ = ["Fill", "check_fill", "fill_attribute", "read_fill"]

Fill = int | float
"""Value of voxels outside the mask."""

_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Fill values that attributes cannot hold as values."""


def check_fill(fill: Any, dtype: np.dtype[Any]) -> Fill:
    """Return a fill value as a plain number.

    Raises
    ------
    InvalidInputError
        If it is not one number, or values of that type cannot be it.
    """
    if isinstance(fill, np.generic):
        fill = fill.item()
    if isinstance(fill, bool) or not isinstance(fill, int | float):
        raise InvalidInputError(f"fill={fill!r:.80}: expected one real number")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not limits.min <= fill <= limits.max or fill != int(fill):
            raise InvalidInputError(f"fill={fill!r:.80} cannot be a number of type {dtype}")
        return int(fill)
    if float(np.finfo(dtype).max) < abs(fill) != math.inf:
        raise InvalidInputError(f"fill={fill!r:.80} cannot be a number of type {dtype}")
    return fill if isinstance(fill, float) else int(fill)


def fill_attribute(fill: Fill) -> int | float | str:
    """The attribute ``fill``: a number, or the name of one that is not finite."""
    if isinstance(fill, float) and not math.isfinite(fill):
        return next(n for n, v in _SPECIAL.items() if v == fill or (math.isnan(fill) and v != v))
    return fill


def read_fill(attributes: Mapping[str, Any], dtype: np.dtype[Any], *, url: str) -> Fill:
    """Fill value that attributes say, 0 if they do not.

    Raises
    ------
    MetadataError
        If it is damaged.
    """
    value = attributes.get("fill", 0)
    try:
        return check_fill(_SPECIAL.get(value, value) if isinstance(value, str) else value, dtype)
    except InvalidInputError as error:
        raise MetadataError(f"the attribute is damaged: {error.message}", url=url) from error
