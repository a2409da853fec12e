"""The stored numbers of an image as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    from fmristore.formats.dense_reading import ReadableImage

__all__ = ["RawView"]


class RawView:
    """Stored numbers of an image, not scaled; indexed as the image is."""

    def __init__(self, image: ReadableImage) -> None:
        self._image = image

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self._image.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers."""
        return self._image.stored_dtype

    def __getitem__(self, index: Any) -> Any:
        return self._image.read(index, raw=True)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored image cannot become an array without a copy")
        return cast("AnyArray", self._image.read(dtype=dtype, raw=True))
