"""Attributes of arrays that CF gives a meaning, in the form in which each store has them.

netCDF-4 stores ``_FillValue`` as one element of the array's type, which HDF5 reads as a list of
one. xarray, which sets the rule for Zarr version 3, has a number for integers, and base64 of the
little-endian float64 for floating-point ones: so NaN is possible too.
"""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

import numpy as np

from fmristore_stores.spec import Attributes

__all__ = ["for_target", "scalars_of_netcdf"]

_NETCDF = "_NCProperties"
"""Attribute of the root by which files that netCDF-4 wrote are known."""
_FILL = "_FillValue"
_SCALARS = ("scale_factor", "add_offset", "missing_value")


def scalars_of_netcdf(attributes: Attributes, root: Attributes) -> Attributes:
    """Attributes of a node in which a single number is no list, if netCDF wrote the file.

    netCDF has no attributes without an axis, and its readers give a single value as such.

    Parameters
    ----------
    attributes : dict
        Of the node.
    root : dict
        Of the root, which says who wrote the file.
    """
    if _NETCDF not in root:
        return attributes
    return {
        name: value[0] if isinstance(value, list) and len(value) == 1 else value
        for name, value in attributes.items()
    }


def for_target(
    attributes: Attributes, dtype: np.dtype[Any], source: str, target: str
) -> Attributes:
    """Attributes of an array as readers of the new store expect them.

    Parameters
    ----------
    attributes : dict
        As they were read.
    dtype : dtype
        Of the array.
    source, target : {"hdf5", "zarr", "reference"}
        Kinds of the stores.
    """
    if source == target or not {_FILL, *_SCALARS} & attributes.keys():
        return attributes
    changed = dict(attributes)
    if target == "zarr":
        for name in (_FILL, *_SCALARS):
            value = changed.get(name)
            if isinstance(value, list) and len(value) == 1:
                changed[name] = value[0]
        if dtype.kind == "f" and isinstance(changed.get(_FILL), int | float):
            raw = struct.pack("<d", float(changed[_FILL]))
            changed[_FILL] = base64.standard_b64encode(raw).decode("ascii")
    elif dtype.kind == "f" and isinstance(changed.get(_FILL), str):
        value = _decoded(changed[_FILL])
        if value is not None:
            changed[_FILL] = value
        if value is not None and np.isnan(value):
            del changed[_FILL]  # NaN is missing without being said, and is no attribute here
    return changed


def _decoded(text: str) -> float | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return float(struct.unpack("<d", raw)[0]) if len(raw) == 8 else None
