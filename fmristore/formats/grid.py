"""What is read as an image on a whole grid, though it is stored in another way."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fmristore.formats.image.image import NeuroVec
from fmristore.formats.options import create_image, image_options
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import Access, Order
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore.sources.images import ArraySource, ImageSource
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    from fmristore.nifti import NiftiHeader

__all__ = ["GridImage", "write_source"]

_WRITE_BYTES = 1 << 23
"""Volumes that are handed to the NIfTI writer at a time."""


class GridImage(ABC):
    """What is indexed ``[x, y, z, t]`` on a whole grid: goes to NIfTI, nibabel and dense stores."""

    slope: Any = None
    inter: Any = None

    @property
    @abstractmethod
    def space(self) -> NeuroSpace:
        """Grid in the world, and TR."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, T)."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that indexing returns."""

    @property
    def raw(self) -> Any:
        """Numbers as they are computed from, where these are others; else the image itself."""
        return self

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """The image as the source of another one, volume after volume.

        Parameters
        ----------
        max_memory : int or str
            Bytes that turning the numbers around may take.
        nifti : bool
            Whether the numbers must be ones that a NIfTI header can say the scaling of.
        """
        del max_memory, nifti
        return ArraySource(self, self.space)

    def stored_scaling(self, voxels: AnyArray) -> Scaling | None:
        """What makes ``series(voxels, raw=True)`` the numbers meant.

        Parameters
        ----------
        voxels : ndarray of int, (n, 3)
            Indices.

        Returns
        -------
        Scaling or None
            None if stored numbers are not scaled, or not all of these voxels are stored.
        """
        del voxels
        return None

    @property
    def nifti_header(self) -> NiftiHeader:
        """A NIfTI header for the numbers on the whole grid."""
        from fmristore.nifti import make_header, parse_header

        return parse_header(make_header(self.space, self.dtype))

    def to_nibabel(self) -> Any:
        """Lazy nibabel image: reads, or computes, only what is asked of it.

        Returns
        -------
        nibabel.Nifti1Image or Nifti2Image
        """
        from fmristore.interop.nibabel import to_nibabel

        return to_nibabel(cast("Any", self))

    def to_dense(  # noqa: PLR0913
        self,
        url: str | os.PathLike[str],
        *,
        access: Access = "time",
        codec: str | None = None,
        order: Order | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> NeuroVec:
        """Store the image on its whole grid, block by block, and open that.

        Parameters
        ----------
        url, access, codec, order, overwrite, storage_options, max_memory, progress
            As of `NeuroVec.create`.

        Returns
        -------
        NeuroVec
            Reads the same numbers. Stored numbers, slope and intercept are kept where that is
            possible; else the scaled numbers are stored.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        half = max_memory // 2
        create_image(
            url,
            self.as_source(max_memory=half),
            options=image_options(url, access=access, codec=codec, order=order, max_memory=half),
            overwrite=overwrite,
            storage_options=storage_options,
            progress=progress,
        )
        return NeuroVec(Handle(locate(url, storage_options=storage_options), fresh=True))

    def to_nifti(
        self,
        url: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 28,
        progress: Progress | None = None,
    ) -> None:
        """Write the image on its whole grid as NIfTI, block by block.

        Stored numbers, slope and intercept are kept where NIfTI can say them; else the scaled
        numbers are written.

        Parameters
        ----------
        url : str or path
            ``.nii``, ``.nii.gz``, or ``.hdr``/``.img`` for a pair.
        overwrite : bool
            Replace what is there.
        storage_options : mapping, optional
            Passed to fsspec.
        max_memory : int or str
            Bytes that the volumes being written may take.
        progress : callable, optional
            Called with the bytes done and in all.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        write_source(
            url,
            self.as_source(max_memory=max_memory, nifti=True),
            overwrite=overwrite,
            storage_options=storage_options,
            max_memory=max_memory,
            progress=progress,
        )


def write_source(
    url: str | os.PathLike[str],
    source: ImageSource,
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    max_memory: int | str = 1 << 28,
    progress: Progress | None = None,
) -> None:
    """Write an image source as NIfTI, under its own header; see `GridImage.to_nifti`."""
    max_memory = parse_size(max_memory)
    from fmristore.nifti import write_nifti

    total = math.prod(source.space.shape) * source.dtype.itemsize * max(1, source.colors)
    blocks = source.blocks(max(1, min(_WRITE_BYTES, max_memory // 4)))
    write_nifti(
        url,
        source.header,
        (block.values for block in blocks),
        overwrite=overwrite,
        storage_options=storage_options,
        progress=None if progress is None else lambda done: progress(done, total),
    )
