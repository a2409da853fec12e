"""Volumes of a run whose chunks are long in time, each chunk decoded once."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator

import numpy as np

from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.scratch import Scratch
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import StorageError
from fmristore_stores.grid import Region, region_shape
from fmristore_stores.io.memory import aligned
from fmristore_stores.protocol import AnyArray

__all__ = ["needs_scratch", "volumes_by_scratch"]

_REPEATS = 3
"""Decoding the chunks up to this many times is cheaper than going through a scratch file."""


def needs_scratch(reader: ChunkReader, step: int) -> bool:
    """Return whether reading `step` volumes at a time would decode chunks again and again.

    Chunks that all stay in the cache are not decoded again. Without room for a temporary file
    (``TMPDIR``) it is done all the same.
    """
    spec, axis = reader.spec, reader.spec.dims.index("t")
    length = min(reader.chunks[axis], spec.shape[axis])
    if length <= _REPEATS * step:
        return False
    nbytes = spec.nbytes // spec.shape[axis] * length
    chunk = math.prod(reader.chunks) * spec.dtype.itemsize
    return not CHUNK_CACHE.takes(nbytes, -(-nbytes // chunk)) and _has_room(nbytes)


def _has_room(nbytes: int) -> bool:
    """Return whether a temporary file leaves half of its folder free, which may be memory."""
    try:
        return 2 * nbytes <= shutil.disk_usage(tempfile.gettempdir()).free
    except OSError:
        return False


def volumes_by_scratch(
    read: Callable[[Region], AnyArray], reader: ChunkReader, step: int, room: int
) -> Iterator[tuple[int, AnyArray]]:
    """Stored values of volumes, by way of a temporary file as large as the chunks of some volumes.

    Ends before the last of them where there is no such file, or no room in it.

    Parameters
    ----------
    read : callable
        Gives the stored values of a region, (X, Y, Z, T).
    reader : ChunkReader
        Of the array that `read` takes them from.
    step : int
        Volumes to yield at a time.
    room : int
        Bytes that a block may take while it is written; a column of chunks at least.

    Yields
    ------
    first, values : int, ndarray
        The first of some volumes, and these, (X, Y, Z, n).
    """
    with contextlib.suppress(_NoRoomError):
        yield from _by_scratch(read, reader, step, room)


class _NoRoomError(Exception):
    """There is no temporary file, or no room in it."""


@contextlib.contextmanager
def _in_scratch() -> Iterator[None]:
    """Tell errors of the temporary file from those of the store that is read."""
    try:
        yield
    except StorageError as error:
        raise _NoRoomError from error


def _by_scratch(
    read: Callable[[Region], AnyArray], reader: ChunkReader, step: int, room: int
) -> Iterator[tuple[int, AnyArray]]:
    lengths = dict(zip(reader.spec.dims, reader.spec.shape, strict=True))
    chunks = dict(zip(reader.spec.dims, reader.chunks, strict=True))
    grid = tuple(lengths[d] for d in "xyz")
    unit = tuple(min(chunks[d], lengths[d]) for d in "xyz")
    size = reader.spec.dtype.itemsize * min(chunks["t"], lengths["t"])
    most_bytes = max(room, math.prod(unit) * size)
    blocks = list(cut_into_blocks(grid, block_shape(grid, unit, size, most_bytes)))
    most = math.prod(region_shape(blocks[0]))
    for first in range(0, lengths["t"], chunks["t"]):
        count = min(chunks["t"], lengths["t"] - first)
        with contextlib.ExitStack() as stack:
            with _in_scratch():
                scratch = stack.enter_context(
                    Scratch((len(blocks), count, most), reader.spec.dtype, max_memory=0)
                )
            for number, block in enumerate(blocks):
                values = read((*block, slice(first, first + count, 1)))
                rows = values.reshape(-1, count).T
                with _in_scratch():
                    scratch.write(_place(number, 0, count, rows.shape[1]), rows[None])
                del values, rows
            for start in range(0, count, step):
                stop = min(start + step, count)
                out = aligned((stop - start, *grid), reader.spec.dtype)
                for number, block in enumerate(blocks):
                    shape = region_shape(block)
                    with _in_scratch():
                        found = scratch.read(_place(number, start, stop, math.prod(shape)))
                    out[(slice(None), *block)] = found.reshape(-1, *shape)
                yield first + start, np.moveaxis(out, 0, -1)
                del out


def _place(number: int, start: int, stop: int, voxels: int) -> Region:
    """Region of a scratch array: some volumes of a block."""
    return slice(number, number + 1, 1), slice(start, stop, 1), slice(0, voxels, 1)
