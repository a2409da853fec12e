"""Memory that the bytes of files are copied to at full speed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from fmristore_stores.protocol import AnyArray

__all__ = ["CACHE_LINE", "aligned"]

CACHE_LINE = 64
"""Bytes of a line of the processor's cache."""
_LARGE = 32 * 1024
"""Bytes below which a copy takes no longer than finding out where memory begins."""


def aligned(shape: int | Sequence[int], dtype: DTypeLike = np.uint8) -> AnyArray:
    """An array as `numpy.empty` makes it, that begins with a cache line if it is large.

    Parameters
    ----------
    shape : int or sequence of int
    dtype : dtype
        Without objects; bytes by default.

    Returns
    -------
    ndarray
        In C order.

    Notes
    -----
    Some processors take four to five times as long to copy bytes to an address that lies up to 31
    bytes behind that of their source, counted within pages of 4096 bytes (AMD EPYC, ``pread`` of
    9 MB: 5.8 against 1.2 ms). Large arrays of numpy begin 16 bytes behind the begin of a page, and
    data often at the begin of one in their file.
    """
    dtype = np.dtype(dtype)
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    nbytes = math.prod(lengths) * dtype.itemsize
    if nbytes < _LARGE:
        return np.empty(lengths, dtype)
    memory = np.empty(nbytes + CACHE_LINE, np.uint8)
    start = -memory.__array_interface__["data"][0] % CACHE_LINE
    return memory[start : start + nbytes].view(dtype).reshape(lengths)
