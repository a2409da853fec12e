"""A stored image as the source of another one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fmristore.imagesource import Block
from fmristore.layout import canonical_axes
from fmristore.rechunk import read_in_boxes
from fmristore.scaling import make_scaling

if TYPE_CHECKING:
    from fmristore.formats.dense import DenseImage

__all__ = ["DenseSource"]


class DenseSource:
    """The stored numbers of an image, read front to back, decoding each chunk about once.

    Parameters
    ----------
    image : DenseImage
        Must stay open until the last block was read.
    """

    def __init__(self, image: DenseImage) -> None:
        self._image = image
        self.space = image.space
        self.dtype = image.spec.dtype
        self.colors = len(image.stored_dtype.names or ())
        self.scaling = make_scaling(image.slope, image.inter, volumes=image.space.time_points)
        self.header = image.header_bytes

    @property
    def trailer(self) -> bytes:
        """Bytes that followed the numbers in the NIfTI file that the image came from."""
        return self._image.trailer_bytes

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, or single planes.

        What does not fit while chunks are decoded once passes through a temporary file.
        """
        reader = self._image.volume_reader
        spec = reader.spec
        axes = canonical_axes(spec.dims)
        dims = [spec.dims[a] for a in axes]
        unit = tuple(1 if d in "tz" else spec.shape[a] for d, a in zip(dims, axes, strict=True))
        plane = spec.nbytes // (self.space.spatial_shape[2] * (self.space.time_points or 1))
        room = max(max_bytes, 3 * plane, 3 * math.prod(reader.chunks) * spec.dtype.itemsize)
        for box, values in read_in_boxes(reader, axes, unit, room):
            part = dict(zip(dims, box, strict=True))
            timed = "t" in dims
            yield Block(
                part["t"].start if timed else 0,
                part["z"].start,
                values if timed else values[None],
            )
