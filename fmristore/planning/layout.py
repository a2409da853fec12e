"""Access pattern to chunk layout: pure functions of shape and dtype.

The data are measured: see ``docs/design/0002-chunks-and-codecs.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import DTypeLike

from fmristore.planning.chunking import compact_shape, even, shard_shape
from fmristore_stores.codecs.pipeline import preset
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import Capability
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec

__all__ = [
    "AXES",
    "Access",
    "Order",
    "Pattern",
    "access_patterns",
    "adapt_spec",
    "canonical_axes",
    "choose_codecs",
    "plan_layout",
    "plan_matrix",
    "split_chunks",
]

Pattern = Literal["time", "volume", "balanced"]
"""Purpose of one layout: time series of voxels and regions, whole volumes, or some of both."""

Access = Literal[Pattern, "both"]
"""Most frequent reads; ``"both"`` stores a run twice, once for time and once for volumes."""

Order = Literal["auto", "canonical"]
"""Order of the elements in a chunk: the best for the access pattern, or always that of `AXES`."""

AXES = ("t", "c", "z", "y", "x")
"""Names of an image's axes in canonical stored order: time, colour, and the three of space."""

_CHUNK_BYTES: Mapping[str, int] = {
    "time": 256 * 1024,
    "volume": 1024 * 1024,
    "balanced": 256 * 1024,
}
_PORTABLE_BYTES = 64 * 1024
"""Chunks of the preset ``portable`` that are not whole volumes: deflate decodes all or nothing."""
_FEWEST_VOXELS = 8
"""A chunk for access in time has at least this many voxels, and not the whole run if need be."""
_LARGEST_CHUNK = 16 * 1024 * 1024


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


def access_patterns(access: Access, dims: Sequence[str]) -> tuple[Pattern, ...]:
    """Layouts that an image is stored in, the one of its array ``0`` first.

    Parameters
    ----------
    access : {"time", "volume", "balanced", "both"}
        What is read most.
    dims : sequence of str
        Names of the axes. What has no time axis is stored once.

    Raises
    ------
    InvalidInputError
        If the access pattern is unknown.
    """
    if access not in get_args(Access):
        names = ", ".join(get_args(Access))
        raise InvalidInputError(f"unknown access pattern {access!r}; there are {names}")
    if access != "both":
        return (access,)
    return ("time", "volume") if "t" in dims else ("time",)


def plan_layout(
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    dims: Sequence[str] = ("t", "z", "y", "x"),
    access: Pattern = "time",
    order: Order = "auto",
    codec: str = "dual",
) -> ChunkLayout:
    """Choose chunks, shards and the order inside a chunk for an image.

    Parameters
    ----------
    shape : tuple of int
        Lengths of the stored axes.
    dtype : dtype
        Of the stored values.
    dims : sequence of str
        Names of the axes, in canonical order.
    access : {"time", "volume", "balanced"}
        What is read most.
    order : {"auto", "canonical"}
        ``"auto"`` lets time vary fastest inside a chunk where that helps; ``"canonical"`` keeps
        x fastest.
    codec : str
        Preset that the chunks will be encoded with.

    Returns
    -------
    ChunkLayout
        Concrete; the same arguments always give the same layout.

    Raises
    ------
    InvalidInputError
        If the access pattern or order is unknown, or the axes are not those of an image.
    """
    for what, given, known in (("access pattern", access, Pattern), ("order", order, Order)):
        if given not in get_args(known):
            names = ", ".join(get_args(known))
            raise InvalidInputError(f"unknown {what} {given!r}; there are {names}")
    if canonical_axes(dims) != tuple(range(len(dims))):
        raise InvalidInputError(f"axes {tuple(dims)} are not in canonical order {AXES}")
    length = dict(zip(dims, shape, strict=True))
    itemsize = np.dtype(dtype).itemsize
    budget = _CHUNK_BYTES[access]
    if codec == "portable" and access != "volume":
        budget = _PORTABLE_BYTES
    chunk = _chunk_lengths(length, max(1, budget // itemsize), access)
    chunks = tuple(chunk[d] for d in dims)
    fastest = [d for d in ("t", "z", "y", "x", "c") if d in length]
    if length.get("t", 1) > 1 and access != "volume":
        fastest = [d for d in ("z", "y", "x", "c", "t") if d in length]
    return ChunkLayout(
        chunks=chunks,
        shards=shard_shape(tuple(shape), chunks, itemsize),
        order=tuple(dims.index(d) for d in fastest) if order == "auto" else (),
    )


def _chunk_lengths(length: dict[str, int], most: int, access: str) -> dict[str, int]:
    """Length of a chunk along each axis, at most `most` elements in all."""
    space = [max(1, length[d]) for d in ("z", "y", "x")]
    times = max(1, length.get("t", 1))
    chunk = {"c": length.get("c", 1)}
    most = max(1, most // max(1, chunk["c"]))
    if access == "volume":
        plane = space[1] * space[2]
        chunk["t"] = 1
        block = (even(space[0], most // plane), *space[1:])
        if plane > most:
            block = (1, *compact_shape(space[1:], most))
    else:
        chunk["t"] = even(times, most // min(_FEWEST_VOXELS, math.prod(space)))
        if access == "balanced":
            chunk["t"] = min(times, 8 * max(1, round(math.sqrt(times) / 8)))
        # bitshuffle works on groups of eight elements
        block = compact_shape(
            space, max(1, most // chunk["t"]), multiple=8 // math.gcd(chunk["t"], 8)
        )
    chunk |= dict(zip(("z", "y", "x"), block, strict=True))
    return {d: max(1, chunk[d]) for d in length}


def choose_codecs(name: str, spec: ArraySpec) -> tuple[CodecSpec, ...]:
    """Pipeline of a codec preset, tuned to the order of the data inside the chunks.

    Parameters
    ----------
    name : str
        Of the preset.
    spec : ArraySpec
        Its dtype and layout are looked at.

    Raises
    ------
    InvalidInputError
        If there is no preset of that name.
    """
    series = spec.memory.dims[-1:] == ("t",) and math.prod(spec.layout.chunks) % 8 == 0
    return preset(name, spec.dtype, series=series)


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
    limit: int = _LARGEST_CHUNK,
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
        sizes[axis] = even(sizes[axis], max(1, limit // rest))
    return ChunkLayout(chunks=tuple(sizes))


def plan_matrix(
    shape: tuple[int, int], dtype: DTypeLike, *, codec: str = "dual", whole_rows: bool = True
) -> ChunkLayout:
    """Choose chunks for a matrix read by rows: voxel x time, parcel x time, map x voxel.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    dtype : dtype
        Of the data.
    codec : str
        Preset that the chunks will be encoded with.
    whole_rows : bool
        Whether a chunk holds whole rows (cut only if less than eight fit), else a square block.

    Returns
    -------
    ChunkLayout
        Elements in the order of the axes, so the last axis varies fastest.
    """
    rows, columns = (max(1, n) for n in shape)
    budget = _PORTABLE_BYTES if codec == "portable" else _CHUNK_BYTES["time"]
    most = max(1, budget // np.dtype(dtype).itemsize)
    if whole_rows:
        width = even(columns, most // min(_FEWEST_VOXELS, rows))
        chunks: tuple[int, ...] = (even(rows, most // width), width)
    else:
        chunks = compact_shape((rows, columns), most)
    return ChunkLayout(chunks=chunks, shards=shard_shape(shape, chunks, np.dtype(dtype).itemsize))
