"""Where the numbers of a new image come from: a NIfTI file, an array, or a nibabel image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from fmristore.scaling import Scaling, make_scaling
from fmristore.space import NeuroSpace
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["ArraySource", "Block", "ImageSource", "NiftiSource", "image_source"]


class Block(NamedTuple):
    """A part of an image: some volumes, or some planes of one volume."""

    t0: int
    z0: int
    values: AnyArray
    """Stored numbers, axes in canonical order with t always first: (t, [c,] z, y, x)."""


class ImageSource(Protocol):
    """An image that can be read once, front to back."""

    space: NeuroSpace
    dtype: np.dtype[Any]
    colors: int
    scaling: Scaling | None
    header: bytes

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, in the order of the image's bytes."""

    @property
    def trailer(self) -> bytes:
        """Bytes that follow the numbers in the source; known after the last block."""


class NiftiSource:
    """A NIfTI file, streamed.

    Parameters
    ----------
    url : str or path
        ``.nii``, ``.nii.gz``, or either file of a ``.hdr``/``.img`` pair.
    storage_options : mapping, optional
        Passed to fsspec.
    """

    def __init__(
        self, url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        from fmristore.nifti import read_header

        self._header = read_header(url, storage_options=storage_options)
        self.space = self._header.space
        self.dtype = self._header.dtype
        self.colors = self._header.colors
        self.scaling = make_scaling(
            self._header.slope, self._header.inter, volumes=self.space.time_points
        )
        self.header = self._header.raw
        self._trailer = b""

    @property
    def trailer(self) -> bytes:
        """Bytes that follow the numbers in the source; known after the last block."""
        return self._trailer

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, decompressed ahead by another thread."""
        from fmristore.nifti import stream_volumes

        with stream_volumes(self._header, max_bytes=max_bytes) as stream:
            for block in stream:
                values = block.values
                if self.colors:
                    values = np.moveaxis(values, -1, 1)
                yield Block(block.t0, block.z0, values)
            self._trailer = stream.trailer


class ArraySource:
    """An array in memory, or anything that slices like one.

    Parameters
    ----------
    data : array_like, (X, Y, Z) or (X, Y, Z, T)
        Stored numbers. Has ``shape``, ``dtype`` and basic indexing.
    space : NeuroSpace
        Grid of `data`.
    slope, inter : float or ndarray (T,), optional
        The number meant is ``stored * slope + inter``.
    header : bytes, optional
        NIfTI header to keep; made up from `space` otherwise.
    """

    trailer = b""

    def __init__(
        self,
        data: Any,
        space: NeuroSpace,
        *,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        header: bytes | None = None,
    ) -> None:
        from fmristore.nifti import make_header

        if tuple(data.shape) != space.shape:
            raise InvalidInputError(
                f"data of shape {tuple(data.shape)} do not fit a space of shape {space.shape}"
            )
        dtype = np.dtype(data.dtype)
        self.colors = 0
        if dtype.names in (("R", "G", "B"), ("R", "G", "B", "A")):
            self.colors, dtype = len(dtype.names or ()), np.dtype("u1")
        if dtype.kind == "b":
            dtype = np.dtype("u1")
        self.dtype = dtype.newbyteorder("<")
        self.space = space
        self.scaling = make_scaling(slope, inter, volumes=space.time_points)
        one = self.scaling if self.scaling is None or not self.scaling.per_volume else None
        self._data = data
        self.header = header or make_header(
            space,
            self.dtype,
            colors=self.colors,
            slope=None if one is None else float(one.slope),
            inter=None if one is None else float(one.inter),
        )

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, or single planes."""
        x, y, z = self.space.spatial_shape
        plane = x * y * self.dtype.itemsize * max(1, self.colors)
        times = self.space.time_points or 1
        if plane * z <= max_bytes:
            step = max(1, max_bytes // (plane * z))
            for t in range(0, times, step):
                yield Block(t, 0, self._part(slice(t, min(t + step, times)), slice(0, z)))
            return
        step = max(1, max_bytes // plane)
        for t in range(times):
            for k in range(0, z, step):
                yield Block(t, k, self._part(slice(t, t + 1), slice(k, min(k + step, z))))

    def _part(self, times: slice, planes: slice) -> AnyArray:
        if self.space.time_points is None:
            part = np.asarray(self._data[:, :, planes])[..., None]
        else:
            part = np.asarray(self._data[:, :, planes, times])
        if self.colors:
            part = np.ascontiguousarray(part).view("u1").reshape(*part.shape, self.colors)
            return part.transpose(3, 4, 2, 1, 0)
        return part.transpose(3, 2, 1, 0).astype(self.dtype, copy=False)


def image_source(
    data: Any,
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    slope: float | AnyArray | None = None,
    inter: float | AnyArray | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> ImageSource:
    """Understand what a user gives as the numbers of an image.

    Parameters
    ----------
    data : path, URL, nibabel image, or array_like of shape (X, Y, Z) or (X, Y, Z, T)
        A path or URL is that of a NIfTI file.
    space : NeuroSpace or ndarray, (4, 4), optional
        Needed for arrays: the grid, or the affine alone (voxel to mm, RAS+).
    tr : float, optional
        Repetition time in seconds, for an affine alone.
    slope, inter : float or ndarray (T,), optional
        For arrays of stored numbers: the number meant is ``stored * slope + inter``.
    storage_options : mapping, optional
        For a URL.

    Raises
    ------
    InvalidInputError
        If the data are not an image, or an array comes without its space.
    """
    if isinstance(data, str | os.PathLike):
        return NiftiSource(data, storage_options=storage_options)
    if _is_nibabel(data):
        return _from_nibabel(data)
    shape = getattr(data, "shape", None)
    if shape is None or not hasattr(data, "dtype"):
        data = np.asarray(data)
        shape = data.shape
    if len(shape) not in (3, 4):
        raise InvalidInputError(f"data of shape {tuple(shape)}: expected (X, Y, Z) or (X, Y, Z, T)")
    if space is None:
        raise InvalidInputError("an array needs space=: a NeuroSpace or an affine (4, 4)")
    if not isinstance(space, NeuroSpace):
        space = NeuroSpace(
            spatial_shape=tuple(shape[:3]),
            affine=np.asarray(space),
            time_points=shape[3] if len(shape) == 4 else None,
            tr=tr,
        )
    return ArraySource(data, space, slope=slope, inter=inter)


def _is_nibabel(data: Any) -> bool:
    return hasattr(data, "dataobj") and hasattr(data, "header") and hasattr(data, "affine")


def _from_nibabel(image: Any) -> ImageSource:
    """Read an image that lies in a NIfTI file from there, byte for byte; else its array."""
    from nibabel import Nifti1Image

    path = image.get_filename()
    unchanged = getattr(image.dataobj, "is_proxy", False) and isinstance(image, Nifti1Image)
    if path and unchanged and os.path.exists(path):  # noqa: PTH110
        source = NiftiSource(path)
        if source.space.shape == image.shape and np.array_equal(source.space.affine, image.affine):
            return source
    return ArraySource(image.dataobj, NeuroSpace.from_nibabel(image))
