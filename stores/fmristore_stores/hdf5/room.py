"""Room for metadata at the beginning of a new file.

HDF5 keeps metadata together by itself, but not where it writes through a Python object. Scattered
through the file, the chunk table of a large array takes a request for each node on object storage.
"""

from __future__ import annotations

import math
from typing import Any

from h5py import h5d, h5p, h5s, h5t

from fmristore_stores.grid import grid_shape
from fmristore_stores.spec import ArraySpec

__all__ = ["MetadataRoom"]

_BLOCK = 60 * 1024
"""Bytes of a placeholder; HDF5 has a limit of 64 KB."""
_MOST_BLOCKS = 64
_NODE = 4 * 1024
"""Bytes of the header and attributes of an array, more or less."""


class MetadataRoom:
    """Placeholders where metadata come to lie, instead of values, once those are written.

    A placeholder is an array without a name, of which HDF5 gives the place to other metadata when
    it is closed. It must not be closed before something lies behind it, or the file just ends
    earlier.

    Parameters
    ----------
    h5 : h5py.File, optional
        A new file; nothing is done without one.
    """

    def __init__(self, h5: Any = None) -> None:
        self._file = None if h5 is None else h5.id
        self._left = 0
        self._held: list[Any] = []

    def provide(self, spec: ArraySpec) -> None:
        """Have room for the metadata of an array that is about to be made."""
        if self._file is None:
            return
        wanted = _NODE + _table_nbytes(spec)
        blocks = min(_MOST_BLOCKS, -(-max(0, wanted - self._left) // _BLOCK))
        if blocks:
            plan = h5p.create(h5p.DATASET_CREATE)
            plan.set_layout(h5d.COMPACT)
            space = h5s.create_simple((_BLOCK,))
            for _ in range(blocks):
                self._held.append(h5d.create(self._file, None, h5t.NATIVE_INT8, space, plan))
        self._left = max(0, self._left + blocks * _BLOCK - wanted)

    def release(self) -> None:
        """Give the room to what is written from now on; harmless when repeated."""
        if self._held:
            self._held.clear()


def _table_nbytes(spec: ArraySpec) -> int:
    """Bytes that the table of chunks takes at most, its nodes being half full."""
    chunks: int = math.prod(grid_shape(spec.shape, spec.layout.chunks))
    return 2 * chunks * (24 + 8 * len(spec.shape))
