"""Memory that chunks are decoded into."""

from __future__ import annotations

import numpy as np

from fmristore_stores.protocol import AnyArray

__all__ = ["room_for"]


def room_for(nbytes: int, out: AnyArray | None) -> AnyArray:
    """Memory of so many bytes: that of `out` if it is large enough, new memory otherwise.

    Parameters
    ----------
    nbytes : int
        Bytes that are needed.
    out : ndarray of uint8 or None
        Memory that may be used; what it has too much is left alone.

    Returns
    -------
    ndarray of uint8, shape (nbytes,)
    """
    return np.empty(nbytes, np.uint8) if out is None or out.nbytes < nbytes else out[:nbytes]
