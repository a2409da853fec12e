"""Values whose rows or columns have labels, as pandas and xarray give them: labels come first."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["matching_columns", "plain_values", "positional", "unmasked", "voxel_columns"]


def unmasked(values: Any) -> Any:
    """Values as they are, unless some are masked: numpy would go on with what lies below the mask.

    Raises
    ------
    InvalidInputError
        If some are masked.
    """
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise InvalidInputError(
            f"{np.ma.getmaskarray(values).sum()} values of the masked array are masked: fill them "
            "first, for example with data.filled(0) or data.filled(np.nan)"
        )
    return values


def plain_values(values: Any) -> AnyArray:
    """Values as an array; those of pandas' types with missing ones are float64 with NaN.

    Raises
    ------
    InvalidInputError
        If some are masked.
    """
    types = getattr(values, "dtypes", None)
    if types is not None and hasattr(values, "iloc"):
        kinds = {
            getattr(one, "kind", "O") for one in (types if hasattr(types, "iloc") else [types])
        }
        if kinds and kinds <= set("biuf"):
            found: AnyArray = np.asarray(values)
            if found.dtype == object:
                found = values.to_numpy(dtype=np.float64, na_value=np.nan)
            return found
    return np.asarray(unmasked(values))


def _last_labels(values: Any) -> list[Any] | None:
    """Labels along the last axis of a Series or data frame; None of everything else."""
    index = getattr(values, "columns", getattr(values, "index", None))
    if index is None or not hasattr(values, "iloc"):
        return None
    return list(index)


def positional(values: Any, what: str) -> Any:
    """Labelled values as an array whose last axis is in order of positions; others as they are.

    Parameters
    ----------
    values : array_like
        Whole numbers that label a Series, or the columns of a data frame, are positions.
    what : str
        What the values are of, for the message.

    Raises
    ------
    InvalidInputError
        If whole numbers label the values that are no positions, as those of a part of a frame.
    """
    labels = _last_labels(unmasked(values))
    if labels is None:
        return values
    found: AnyArray = np.asarray(values)
    if not all(isinstance(label, int | np.integer) for label in labels):
        return found
    places = np.array(labels, dtype=object)
    count = len(labels)
    if list(places) == list(range(count)):
        return found
    if sorted(labels) == list(range(count)):
        return found[..., np.argsort(places.astype(np.int64))]
    raise InvalidInputError(
        f"the {what} are labelled {', '.join(map(str, labels[:3]))}, ...: expected positions from "
        f"0 to {count - 1}; give their array (.to_numpy()) if they are in order already"
    )


def matching_columns(first: Any, second: Any, what: str) -> Any:
    """The second of two tables with its columns in the order of the first's, if both name them.

    Raises
    ------
    InvalidInputError
        If they have other names.
    """
    mine, other = _named_columns(first), _named_columns(second)
    if mine is None or other is None or mine == other:
        return second
    if sorted(map(str, mine)) != sorted(map(str, other)) or len(set(mine)) != len(mine):
        raise InvalidInputError(
            f"{what} name their columns differently: {', '.join(map(str, mine[:3]))}, ... and "
            f"{', '.join(map(str, other[:3]))}, ...; rename them, or give arrays (.to_numpy())"
        )
    return second[mine]


def _named_columns(table: Any) -> list[Any] | None:
    if not (hasattr(table, "columns") and hasattr(table, "iloc")):
        return None
    names = list(table.columns)
    return None if names == list(range(len(names))) else names


def voxel_columns(voxels: Any) -> Any:
    """Indices of voxels with their columns x, y, z, or i, j, k, in this order, if they are named.

    Raises
    ------
    InvalidInputError
        If they are named otherwise.
    """
    names = _named_columns(voxels)
    if names is None:
        return voxels
    plain = {str(name).lower(): name for name in names}
    for axes in (("x", "y", "z"), ("i", "j", "k")):
        if len(names) == 3 and set(plain) == set(axes):
            return voxels[[plain[axis] for axis in axes]]
    raise InvalidInputError(
        f"the columns of the voxels are called {', '.join(map(str, names[:5]))}: expected x, y, z "
        "or i, j, k"
    )
