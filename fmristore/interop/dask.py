"""Stored arrays as arrays of dask, which is imported on use."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmristore_stores.errors import DependencyError

if TYPE_CHECKING:
    import dask.array as dask_array

__all__ = ["concatenate", "to_dask"]


def to_dask(stored: Any, chunks: Any = "auto") -> dask_array.Array:
    """Dask array of a stored object, whose blocks are made of whole stored chunks.

    Parameters
    ----------
    stored : stored object
        Has ``shape``, ``dtype``, ``chunks`` and basic indexing. The array reads from a copy of it,
        which has its own hold on the store.
    chunks : str, int, tuple or mapping
        As of `dask.array.from_array`. ``"auto"`` gathers stored chunks until a block has dask's
        ``array.chunk-size``; ``stored.chunks`` are single chunks.

    Returns
    -------
    dask.array.Array

    Raises
    ------
    DependencyError
        If dask is not installed.
    """
    try:
        import dask.array
    except ImportError as error:
        raise DependencyError('this needs dask: pip install "fmristore[dask]"') from error
    da: Any = dask.array
    meta = np.empty((0,) * len(stored.shape), stored.dtype)
    made: dask_array.Array = da.from_array(copy.copy(stored), chunks=chunks, fancy=False, meta=meta)
    return made


def concatenate(arrays: Sequence[Any], axis: int) -> dask_array.Array:
    """Dask arrays behind each other."""
    import dask.array

    da: Any = dask.array
    made: dask_array.Array = da.concatenate(arrays, axis=axis)
    return made
