"""The digest of an image's numbers: the same in every store, layout, order and codec.

It is SHA-256 over the SHA-256 digests of the image's planes of constant z, in order of z; a plane
is hashed as its little-endian bytes in the order (t, c, y, x), x fastest, where axes that the image
does not have are left out. So it can be computed while volumes arrive one after the other, and as
well while slabs of z are read one after the other, in bounded memory either way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from fmristore.planning.layout import canonical_axes
from fmristore.planning.progress import Progress
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.grid import Region
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec

__all__ = ["PREFIX", "ImageDigest", "digest_image", "slabs"]

PREFIX = "sha256-planes:"


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
        room = np.empty(planes.shape[1:], planes.dtype)
        for z, plane in enumerate(planes, start=z0):
            np.copyto(room, plane)
            self._planes[z].update(room.reshape(-1).view(np.uint8).data)

    def hexdigest(self) -> str:
        """Digest of everything taken so far."""
        whole = hashlib.sha256(b"".join(plane.digest() for plane in self._planes))
        return PREFIX + whole.hexdigest()


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
        Of an array whose axes are named as in `AXES`.
    max_memory : int
        Bytes that the regions read may take, besides the chunks being decoded.
    progress : callable, optional
        Called with the bytes done and in all.

    Raises
    ------
    CorruptDataError
        If a chunk is damaged or missing.
    """
    spec = reader.spec
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
