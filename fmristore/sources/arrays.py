"""Arrays of numpy and of other libraries, as the door takes them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from fmristore.model.coordinates import grid_coordinates
from fmristore.model.space import IMPLAUSIBLE_TR_S, FloatArray, HeaderWarning, NeuroSpace
from fmristore.sources.images import in_axis_order
from fmristore.sources.labelled import unmasked
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = [
    "as_array",
    "check_coordinates",
    "check_on_grid",
    "check_tr",
    "on_shape",
    "sliceable",
]

_LARGEST_TR_MS = 1e6
"""Beyond this a repetition time is wrong in milliseconds too."""


def sliceable(given: Any) -> Any:
    """Data with a shape and a dtype of numpy, its axes in order, read only where they have none."""
    if hasattr(given, "data_vars"):
        raise InvalidInputError(
            f"a dataset of xarray with the variables {', '.join(map(str, given.data_vars))}: give "
            "one of them, such as dataset['data']"
        )
    data = in_axis_order(given)
    shape = getattr(data, "shape", None)
    try:
        np.dtype(getattr(data, "dtype", None))
    except TypeError:  # of another library, such as torch
        shape = None
    if shape is None or not hasattr(data, "dtype"):
        return as_array(data, "data are")
    if not all(isinstance(length, int | np.integer) for length in shape):
        raise InvalidInputError(
            f"an array of the shape {shape}, not all of which is known: call its method "
            "compute_chunk_sizes() first"
        )
    return data


def on_shape(shape: tuple[int, ...]) -> str:
    """Sentence on what to do with data of another number of axes than images have."""
    if not shape:
        return "; files are given by a path or URL as text, or as what their library reads of them"
    if len(shape) == 2:
        return (
            "; series (T, V) of the voxels of a mask are put on its grid first, as by "
            "nilearn.masking.unmask(series, mask)"
        )
    if len(shape) == 5 and 1 in shape[3:]:
        return "; take the long axis, data[:, :, :, 0] or data[..., 0]"
    return ""


def as_array(given: Any, what: str) -> AnyArray:
    """Values in memory.

    Parameters
    ----------
    given : array_like
        Of any library that numpy understands.
    what : str
        Subject and verb for the message, such as ``"data are"``.

    Raises
    ------
    InvalidInputError
        If they are no array, or some are masked.
    """
    plain = unmasked(given)
    try:
        return np.asarray(plain)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the {what} not an array of values: {error}") from error


def check_coordinates(data: Any, space: NeuroSpace) -> None:
    """Refuse an array of xarray whose coordinates in mm run the other way than its grid.

    Parameters
    ----------
    data : array_like
        Axes in order; anything without coordinates passes, and so does what counts its voxels.
    space : NeuroSpace
        Grid that the user gives for it.

    Raises
    ------
    InvalidInputError
        If an axis is reversed.
    """
    for axis, (name, values) in _own_coordinates(data).items():
        row = int(np.argmax(np.abs(space.affine[:3, axis])))
        step = float(space.affine[row, axis])
        aligned = np.count_nonzero(space.affine[:3, axis]) == 1
        if len(values) < 2 or not aligned:
            continue
        if np.allclose(np.diff(values), -step, rtol=1e-3):
            raise InvalidInputError(
                f"the coordinates {name} run from {values[0]:g} to {values[-1]:g}, and the grid "
                f"the other way by {step:g} mm: sort them (data.sortby({str(name)!r})), or give "
                "the affine that they have"
            )


def check_on_grid(data: Any, space: NeuroSpace) -> None:
    """Refuse an array of xarray whose coordinates are not those of the grid that it is put on.

    Parameters
    ----------
    data : array_like
        Anything without coordinates passes, and so does what counts its voxels from 0.
    space : NeuroSpace
        Grid of data for a mask or labels, or theirs for data. Another shape is reported where the
        array is read.

    Raises
    ------
    InvalidInputError
        If an axis lies elsewhere, has another distance of voxels or runs the other way.
    """
    if not hasattr(data, "coords") or np.ndim(data) < 3:
        return
    grid = [found.values for found in grid_coordinates(space).values()]
    for axis, (name, values) in _own_coordinates(in_axis_order(data)).items():
        there = grid[axis]
        if len(values) != len(there):
            continue
        near = 0.01 * abs(float(there[1] - there[0])) if len(there) > 1 else 0.01
        if not np.allclose(values, there, rtol=0, atol=near):
            raise InvalidInputError(
                f"the coordinates {name} run from {values[0]:g} to {values[-1]:g}, and those of "
                f"the grid from {there[0]:g} to {there[-1]:g}: resample the array to that grid; "
                "of data give space=, the affine that they have; or hand in the values alone"
            )


def _own_coordinates(data: Any) -> dict[int, tuple[Any, FloatArray]]:
    """Name and values of the spatial axes of an array of xarray, unless they count its voxels."""
    coordinates = getattr(data, "coords", None)
    dims = getattr(data, "dims", None)
    found: dict[int, tuple[Any, FloatArray]] = {}
    if coordinates is None or not isinstance(dims, tuple):
        return found
    for axis, name in enumerate(dims[:3]):
        values = np.asarray(coordinates[name]) if name in coordinates else np.empty(0)
        if values.dtype.kind in "iuf" and not np.array_equal(values, np.arange(len(values))):
            found[axis] = name, values.astype(np.float64)
    return found


def check_tr(tr: Any) -> Any:
    """Warn of a repetition time that was most likely meant as milliseconds.

    Parameters
    ----------
    tr : float, optional
        In whatever type a number of seconds comes.

    Returns
    -------
    float, or `tr`
        None, and what is no number and refused where it is used, as it is.
    """
    try:
        seconds = math.nan if tr is None else float(tr)
    except (TypeError, ValueError, OverflowError):
        return tr
    if IMPLAUSIBLE_TR_S < seconds < _LARGEST_TR_MS:
        warnings.warn(
            f"tr={seconds:g} is in seconds, and milliseconds are more likely meant: "
            f"tr={seconds / 1000:g}",
            HeaderWarning,
            stacklevel=2,
        )
    return None if tr is None else seconds
