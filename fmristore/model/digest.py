"""Digests of stored values: the same in every store, layout, order and codec.

That of an image is SHA-256 over the SHA-256 digests of its planes of constant z, in order of z; a
plane is hashed as its little-endian bytes in the order (t, c, y, x), x fastest, where axes that the
image does not have are left out. So it can be computed while volumes arrive one after the other,
and as well while slabs of z are read one after the other, in bounded memory either way.

That of any other array is SHA-256 over the SHA-256 digests of its blocks, which are as large as its
chunks were when it was written: so each is hashed by the thread that encodes it. The digest says
how large they are, and stays right when the array is rechunked.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.layout import AXES, canonical_axes
from fmristore.planning.progress import Progress
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import InvalidInputError, MemoryLimitError, MetadataError
from fmristore_stores.grid import ChunkKey, Region, chunk_region, grid_shape
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec, is_string

__all__ = [
    "BLOCKS",
    "PREFIX",
    "TEXTS",
    "ArrayDigest",
    "ImageDigest",
    "digest_array",
    "digest_image",
    "digest_values",
    "is_digest",
    "join_planes",
    "slabs",
]

PREFIX = "sha256-planes:"
BLOCKS = "sha256-blocks:"
TEXTS = "sha256-texts:"

_BLOCKS = re.compile(BLOCKS + r"((?:[1-9][0-9]{0,18}x)*[1-9][0-9]{0,18}|-):[0-9a-f]{64}", re.ASCII)
_SHA256 = hashlib.sha256().digest_size


def is_digest(value: object) -> bool:
    """Return whether an attribute is a digest of a kind that is known here."""
    return isinstance(value, str) and value.startswith((PREFIX, BLOCKS, TEXTS))


class ImageDigest:
    """Digest of an image that is still arriving.

    Parameters
    ----------
    planes : int
        Length of the z axis.
    """

    def __init__(self, planes: int) -> None:
        self._planes = [hashlib.sha256() for _ in range(planes)]

    def update(self, z0: int, values: AnyArray) -> None:
        """Take a part of the image; each plane must get its volumes in order of time.

        Parameters
        ----------
        z0 : int
            First plane of the part.
        values : ndarray, (..., z, y, x)
            Whole planes, axes in canonical order.
        """
        planes = np.moveaxis(values, -3, 0)
        if _are_whole(values):
            for digest, plane in zip(self._planes[z0:], planes, strict=False):
                for volume in np.ndindex(plane.shape[:-2]):
                    digest.update(plane[volume])
            return
        room = np.empty(planes.shape[1:], planes.dtype)
        for z, plane in enumerate(planes, start=z0):
            np.copyto(room, plane)
            self._planes[z].update(room.reshape(-1).view(np.uint8).data)

    def planes(self) -> list[bytes]:
        """Digests of the planes, of everything taken so far."""
        return [plane.digest() for plane in self._planes]

    def hexdigest(self) -> str:
        """Digest of everything taken so far."""
        return join_planes(self.planes())


def _are_whole(values: AnyArray) -> bool:
    """Return whether each plane of a volume lies in one piece, large enough to be hashed alone."""
    plane = values[(0,) * (values.ndim - 2)] if values.size else values
    return plane.flags.c_contiguous and plane.nbytes >= _ALONE


_ALONE = 4096
"""Bytes of a plane from which hashing takes longer than asking for it."""


def join_planes(planes: Sequence[bytes]) -> str:
    """Digest of an image by those of its planes (`ImageDigest.planes`), in order of z."""
    return PREFIX + hashlib.sha256(b"".join(planes)).hexdigest()


def slabs(spec: ArraySpec, max_bytes: int) -> Iterator[Region]:
    """Cut an image into regions that visit each plane's volumes in order of time.

    A region is as thick as the chunks are along z where that fits `max_bytes`, else thinner, else
    shorter in time; each chunk is decoded once in the first case.
    """
    length = dict(zip(spec.dims, spec.shape, strict=True))
    chunk = dict(zip(spec.dims, spec.layout.chunks, strict=True))
    plane = max(1, spec.nbytes // max(1, length["z"]))
    if plane > max_bytes:
        thick, times = 1, max(1, length.get("t", 1) * max_bytes // plane)
    else:
        thick, times = max(1, min(chunk["z"], max_bytes // plane)), max(1, length.get("t", 1))
        if thick == chunk["z"]:
            thick *= max(1, max_bytes // (plane * thick))
    for z in range(0, length["z"], thick):
        for t in range(0, length.get("t", 1), times):
            part = {"z": slice(z, min(z + thick, length["z"]), 1)}
            if "t" in length:
                part["t"] = slice(t, min(t + times, length["t"]), 1)
            yield tuple(part.get(d, slice(0, length[d], 1)) for d in spec.dims)


def digest_image(reader: ChunkReader, *, max_memory: int, progress: Progress | None = None) -> str:
    """Read a whole stored image and compute its digest.

    Parameters
    ----------
    reader : ChunkReader
        Of an array whose axes are named as in `AXES`, or not at all: then it has the last of them.
    max_memory : int
        Bytes that the regions read may take, besides the chunks being decoded.
    progress : callable, optional
        Called with the bytes done and in all.

    Raises
    ------
    CorruptDataError
        If a chunk is damaged or missing.
    """
    spec = _named(reader.spec)
    order = canonical_axes(spec.dims)
    digest = ImageDigest(spec.shape[spec.dims.index("z")])
    done = 0
    for region in slabs(spec, max(1, max_memory // 2)):
        values = reader.read(region).transpose(order)
        digest.update(region[spec.dims.index("z")].start, values)
        done += values.nbytes
        del values  # before the next region takes its memory
        if progress is not None:
            progress(done, spec.nbytes)
    return digest.hexdigest()


def _named(spec: ArraySpec) -> ArraySpec:
    """Spec with names of the axes of an image, which files for R do not have."""
    rank = len(spec.shape)
    if any(spec.dims) or rank not in _UNNAMED:
        return spec
    return replace(spec, dims=_UNNAMED[rank])


_UNNAMED = {3: ("z", "y", "x"), 4: ("t", "z", "y", "x")}


# Other arrays ---------------------------------------------------------------------------------


class ArrayDigest:
    """Digest of an array of values whose blocks come in any order, from any thread.

    Parameters
    ----------
    spec : ArraySpec
        Of the array.
    blocks : tuple of int, optional
        Lengths of a block along the axes; those of its chunks by default.
    """

    def __init__(self, spec: ArraySpec, blocks: tuple[int, ...] | None = None) -> None:
        self.blocks = spec.layout.chunks if blocks is None else blocks
        self._order = _block_order(spec.dims)
        self._shape = tuple(spec.shape[a] for a in self._order)
        self._size = tuple(self.blocks[a] for a in self._order)
        self._grid = grid_shape(self._shape, self._size)
        self._dtype = spec.dtype.newbyteorder("<")
        self._digests = bytearray(_SHA256 * math.prod(self._grid))
        self._seen = bytearray(math.prod(self._grid))

    def update(self, key: ChunkKey, values: AnyArray) -> None:
        """Take a block.

        Parameters
        ----------
        key : tuple of int
            Its place in the grid of blocks, axes as in the spec.
        values : ndarray
            Its values, clipped at the end of the array, axes as in the spec.
        """
        place = 0
        for axis, count in zip(self._order, self._grid, strict=True):
            place = place * count + key[axis]
        inside = np.asarray(values).transpose(self._order)
        flat = np.ascontiguousarray(inside, self._dtype).reshape(-1)
        self._digests[_SHA256 * place : _SHA256 * (place + 1)] = hashlib.sha256(
            flat.view(np.uint8).data
        ).digest()
        self._seen[place] = 1

    def text(self) -> str:
        """Digest of the whole array.

        Raises
        ------
        InvalidInputError
            If not all blocks have come.
        """
        missing = self._seen.count(0)
        if missing:
            raise InvalidInputError(f"{missing} of {len(self._seen)} blocks were never written")
        whole = hashlib.sha256(f"{self._dtype.str} {self._shape} {self._size}".encode())
        whole.update(self._digests)
        return f"{BLOCKS}{'x'.join(map(str, self._size)) or '-'}:{whole.hexdigest()}"


def _block_order(dims: Sequence[str]) -> tuple[int, ...]:
    """Axes in the order in which blocks are hashed: only those of images are ever transposed."""
    if {"z", "y", "x"} <= set(dims) <= set(AXES):
        return canonical_axes(dims)
    return tuple(range(len(dims)))


def digest_values(values: AnyArray, spec: ArraySpec) -> str:
    """Digest of an array in memory, of numbers or of text."""
    if is_string(spec.dtype):
        return _digest_texts(values)
    digest = ArrayDigest(spec)
    values = values.astype(spec.dtype, copy=False)
    for key in np.ndindex(*grid_shape(spec.shape, spec.layout.chunks)):
        digest.update(key, values[chunk_region(key, spec.shape, spec.layout.chunks)])
    return digest.text()


def _digest_texts(values: AnyArray) -> str:
    texts = [str(text) for text in values.reshape(-1).tolist()]
    content = json.dumps([list(values.shape), texts]).encode()
    return TEXTS + hashlib.sha256(content).hexdigest()


def digest_array(
    reader: ChunkReader, recorded: str, *, max_memory: int, progress: Progress | None = None
) -> str:
    """Read a whole stored array and compute the kind of digest that was recorded of it.

    Parameters
    ----------
    reader : ChunkReader
        Of the array.
    recorded : str
        Its digest, which says what is hashed.
    max_memory : int
        Bytes that the regions read may take, besides the chunks being decoded.
    progress : callable, optional
        Called with the bytes done and in all.

    Raises
    ------
    MetadataError
        If the digest is of no kind that is known, or of no array of this shape and type.
    CorruptDataError
        If a chunk is damaged or missing.
    MemoryLimitError
        If a block does not fit the limit.
    """
    spec = reader.spec
    if recorded.startswith(PREFIX) and set(_named(spec).dims) <= set(AXES):
        return digest_image(reader, max_memory=max_memory, progress=progress)
    if recorded.startswith(TEXTS) and is_string(spec.dtype):
        if math.prod(spec.shape) * spec.dtype.itemsize > max_memory // 2:
            raise MemoryLimitError(
                f"{math.prod(spec.shape)} texts need more than max_memory", node=reader.array.path
            )
        return _digest_texts(np.asarray(reader.array.read()))
    digest = ArrayDigest(spec, _recorded_blocks(recorded, spec))
    if 0 in spec.shape:
        return digest.text()
    done = 0
    size = block_shape(spec.shape, digest.blocks, spec.dtype.itemsize, max_memory, share=2)
    for block in cut_into_blocks(spec.shape, size):
        values = reader.read(block)
        for inside in cut_into_blocks(values.shape, digest.blocks):
            key = tuple(
                (b.start + i.start) // n
                for b, i, n in zip(block, inside, digest.blocks, strict=True)
            )
            digest.update(key, values[inside])
        done += values.nbytes
        if progress is not None:
            progress(done, spec.nbytes)
    return digest.text()


def _recorded_blocks(recorded: str, spec: ArraySpec) -> tuple[int, ...]:
    """Lengths of the blocks of a recorded digest, along the axes of the array."""
    found = _BLOCKS.fullmatch(recorded)
    size = () if found is None or found[1] == "-" else tuple(map(int, found[1].split("x")))
    if found is None or len(size) != len(spec.shape) or is_string(spec.dtype):
        raise MetadataError(f"the recorded digest {recorded[:80]!r} is none of this array")
    order = _block_order(spec.dims)
    blocks = tuple(size[order.index(axis)] for axis in range(len(size)))
    if math.prod(grid_shape(spec.shape, blocks)) > _MOST_BLOCKS:
        raise MetadataError(f"the recorded digest has more than {_MOST_BLOCKS} blocks")
    return blocks


_MOST_BLOCKS = 1 << 22
"""Blocks of an array that are hashed; a malicious digest may ask for any number."""
