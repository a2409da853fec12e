"""Access pattern to chunk layout: pure functions of shape and dtype.

The numbers are measured: see ``docs/design/0002-chunks-and-codecs.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import DTypeLike

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import Capability
from fmristore_stores.spec import ArraySpec, ChunkLayout

__all__ = [
    "AXES",
    "Access",
    "Order",
    "adapt_spec",
    "canonical_axes",
    "plan_layout",
    "shard_shape",
    "split_chunks",
]

Access = Literal["time", "volume", "balanced"]
"""What is read most: time series of voxels and regions, whole volumes, or some of both."""

Order = Literal["auto", "canonical"]
"""Order of the elements in a chunk: the best for the access pattern, or always that of `AXES`."""

AXES = ("t", "c", "z", "y", "x")
"""Names of an image's axes in canonical stored order: time, colour, and the three of space."""

_CHUNK_BYTES: Mapping[str, int] = {
    "time": 512 * 1024,
    "volume": 512 * 1024,
    "balanced": 256 * 1024,
}
_SHARD_BYTES = 16 * 1024 * 1024


def canonical_axes(dims: Sequence[str]) -> tuple[int, ...]:
    """Positions of the axes of `dims` in canonical order: ``numpy.transpose`` them by this.

    Raises
    ------
    InvalidInputError
        If an axis is not one of `AXES`.
    """
    unknown = [d for d in dims if d not in AXES]
    if unknown:
        raise InvalidInputError(f"unknown axes {unknown}: an image has some of {', '.join(AXES)}")
    return tuple(sorted(range(len(dims)), key=lambda axis: AXES.index(dims[axis])))


def plan_layout(
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    dims: Sequence[str] = ("t", "z", "y", "x"),
    access: Access = "time",
    order: Order = "auto",
) -> ChunkLayout:
    """Choose chunks, shards and the order inside a chunk for an image.

    Parameters
    ----------
    shape : tuple of int
        Lengths of the stored axes.
    dtype : dtype
        Of the stored numbers.
    dims : sequence of str
        Names of the axes, in canonical order.
    access : {"time", "volume", "balanced"}
        What is read most.
    order : {"auto", "canonical"}
        ``"auto"`` lets time vary fastest inside a chunk where that helps; ``"canonical"`` keeps
        x fastest.

    Returns
    -------
    ChunkLayout
        Concrete; the same arguments always give the same layout.

    Raises
    ------
    InvalidInputError
        If the access pattern is unknown or the axes are not those of an image.
    """
    if access not in get_args(Access):
        raise InvalidInputError(
            f"unknown access pattern {access!r}; there are {', '.join(get_args(Access))}"
        )
    if canonical_axes(dims) != tuple(range(len(dims))):
        raise InvalidInputError(f"axes {tuple(dims)} are not in canonical order {AXES}")
    length = dict(zip(dims, shape, strict=True))
    itemsize = np.dtype(dtype).itemsize
    chunk = _chunk_lengths(length, itemsize, access)
    shard = _shard_lengths(length, chunk, itemsize, access)
    timed = length.get("t", 1) > 1 and access != "volume" and order == "auto"
    fastest = [d for d in ("z", "y", "x", "c", "t") if d in length]
    if not timed:
        fastest = [d for d in ("t", "z", "y", "x", "c") if d in length]
    return ChunkLayout(
        chunks=tuple(chunk[d] for d in dims),
        shards=tuple(shard[d] for d in dims),
        order=tuple(dims.index(d) for d in fastest) if order == "auto" else (),
    )


def _even(length: int, most: int) -> int:
    """Chunk length that cuts an axis into equal parts of at most `most` (and at least 1)."""
    most = max(1, min(most, length or 1))
    return math.ceil((length or 1) / math.ceil((length or 1) / most))


def _chunk_lengths(length: dict[str, int], itemsize: int, access: str) -> dict[str, int]:
    budget = max(1, _CHUNK_BYTES[access] // itemsize)
    chunk = dict.fromkeys(length, 1)
    if "c" in length:
        chunk["c"] = length["c"]
        budget //= length["c"]
    if access == "volume":
        for d in ("x", "y", "z", "t"):
            if d in length:
                chunk[d] = _even(length[d], budget)
                budget //= chunk[d]
        return chunk
    if "t" in length:
        times = length["t"] if access == "time" else math.ceil(length["t"] / 8)
        chunk["t"] = _even(length["t"], min(times, max(1, budget // 64)))
        budget //= chunk["t"]
    for left, d in zip((3, 2, 1), ("z", "y", "x"), strict=True):
        chunk[d] = _even(length[d], max(1, round(budget ** (1 / left))))
        budget //= chunk[d]
    return chunk


def _shard_lengths(
    length: dict[str, int], chunk: dict[str, int], itemsize: int, access: str
) -> dict[str, int]:
    """Grow a chunk along the axes, in the order of their bytes, until it fills a shard."""
    shard = dict(chunk)
    room = _SHARD_BYTES // (math.prod(chunk.values()) * itemsize)
    for d in ("x", "y", "z", "t") if access != "time" else ("t", "x", "y", "z"):
        if d in length:
            times = max(1, min(math.ceil(length[d] / chunk[d]), room))
            shard[d] = chunk[d] * times
            room //= times
    return shard


def adapt_spec(spec: ArraySpec, capabilities: Capability) -> ArraySpec:
    """Express a spec in what a store can do, with the same bytes inside its chunks.

    A store without shards gets none; one without an order inside the chunk gets the array with
    its axes permuted instead.
    """
    if Capability.CHUNK_ORDER not in capabilities:
        spec = spec.memory
    if Capability.SHARDS not in capabilities:
        spec = replace(spec, layout=replace(spec.layout, shards=None))
    return spec


def split_chunks(
    shape: tuple[int, ...],
    itemsize: int,
    chunks: tuple[int, ...],
    *,
    limit: int = 16 * 1024 * 1024,
) -> ChunkLayout:
    """Make chunks fit: no longer than the array, and not larger than a limit.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    itemsize : int
        Bytes of an element.
    chunks : tuple of int
        Chunk shape wished for; kept if it fits.
    limit : int
        Largest chunk in bytes; a larger one is split along its first axes.
    """
    sizes = [max(1, min(c, n)) for c, n in zip(chunks, shape, strict=True)]
    for axis in range(len(sizes)):
        rest = math.prod(sizes) // sizes[axis] * itemsize
        sizes[axis] = _even(sizes[axis], max(1, limit // rest))
    return ChunkLayout(chunks=tuple(sizes))


def shard_shape(
    shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int
) -> tuple[int, ...] | None:
    """Shard of whole chunks, grown along the last axes first; None if one chunk is all."""
    sizes = list(chunks)
    room = _SHARD_BYTES // max(1, math.prod(chunks) * itemsize)
    for axis in reversed(range(len(sizes))):
        times = max(1, min(math.ceil(shape[axis] / chunks[axis]), room))
        sizes[axis] *= times
        room //= times
    return None if tuple(sizes) == chunks else tuple(sizes)
