"""Images that are read in blocks: a NIfTI file, an array, a nibabel image."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fmristore.model.scaling import Scaling, make_scaling
from fmristore.model.space import NeuroSpace, fold_shape
from fmristore.planning.streams import streaming
from fmristore.sources.facts import with_sidecar
from fmristore.sources.labelled import unmasked
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.io.location import normalise
from fmristore_stores.protocol import AnyArray

__all__ = [
    "ArraySource",
    "Block",
    "ImageSource",
    "NiftiSource",
    "in_axis_order",
    "is_nibabel",
    "nibabel_source",
]

_AXES = {"x": 0, "y": 1, "z": 2, "i": 0, "j": 1, "k": 2}
_AXES |= dict.fromkeys(("t", "time", "volume", "label", "map", "contrast"), 3)


class Block(NamedTuple):
    """A part of an image: some volumes, or some planes of one volume."""

    t0: int
    z0: int
    values: AnyArray
    """Stored values, axes in canonical order with t always first: (t, [c,] z, y, x)."""


class ImageSource(ABC):
    """An image that can be read once, front to back."""

    space: NeuroSpace
    """Its grid, number of volumes and TR."""
    dtype: np.dtype[Any]
    """Type of the stored values."""
    colors: int = 0
    """Channels of an image in colour: 3 or 4, else 0."""
    scaling: Scaling | None = None
    """Scaling of the stored values."""
    header: bytes
    """A NIfTI header for the image."""
    url: str | None = None
    """Path or URL of a file or a store; empty if it is neither."""
    metadata: Mapping[str, Any] = MappingProxyType({})
    """Other facts about it."""
    stored: Any = None
    """The stored object whose values it has, which can also be read voxel by voxel."""

    @abstractmethod
    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, in the order of the image's bytes."""

    @property
    def trailer(self) -> bytes:
        """Bytes that follow the values in the source; known after the last block."""
        return b""

    def check_run(self) -> None:
        """Check that it is a run: real or complex values with four axes.

        Raises
        ------
        InvalidInputError
            If it is a single volume, or in colour.
        """
        if self.space.time_points is None:
            raise InvalidInputError(
                f"an image of shape {self.space.shape}: a run has four axes x, y, z, t",
                url=self.url,
            )
        self.check_values()

    def check_values(self) -> None:
        """Check that the values are numbers, not colours or text.

        Raises
        ------
        InvalidInputError
            If they are not.
        """
        if self.colors or self.dtype.names or self.dtype.kind not in "biufc":
            raise InvalidInputError(
                "an image in colour: expected values that are numbers, not colours or text",
                url=self.url,
            )

    def read(self) -> AnyArray:
        """All of the image in memory, scaled, (X, Y, Z) or (X, Y, Z, T)."""
        x, y, z = self.space.spatial_shape
        values = np.empty((self.space.time_points or 1, z, y, x), self.dtype)
        with streaming(self.blocks(1 << 26)) as blocks:
            for t0, z0, part in blocks:
                values[t0 : t0 + part.shape[0], z0 : z0 + part.shape[1]] = part
        if self.scaling is not None:
            values = self.scaling.apply(values, axis=0)
        found = values.transpose(3, 2, 1, 0)
        return found[..., 0] if self.space.time_points is None else found


class NiftiSource(ImageSource):
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

        self.url = normalise(url)
        self._options = storage_options
        self.is_described = False
        self._header = read_header(url, storage_options=storage_options)
        self.space = self._header.space
        self.dtype = self._header.dtype
        self.colors = self._header.colors
        self.scaling = make_scaling(
            self._header.slope, self._header.inter, volumes=self.space.time_points
        )
        self.header = self._header.raw
        self._trailer = b""

    def described(
        self, tr: float | None = None, sidecar: Mapping[str, Any] | None = None
    ) -> NiftiSource:
        """The same with what its BIDS sidecar says, by default that beside it: `with_sidecar`."""
        if self.is_described:
            return self
        url = normalise(self.url or "")
        twin = copy(with_sidecar(self, url, self._options, tr=tr, sidecar=sidecar))
        twin.is_described = True
        return twin

    @property
    def trailer(self) -> bytes:
        """Bytes that follow the data in the source; known after the last block."""
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


class ArraySource(ImageSource):
    """An array in memory, or anything that slices like one.

    Parameters
    ----------
    data : array_like, (X, Y, Z) or (X, Y, Z, T)
        Stored values. Has ``shape``, ``dtype`` and basic indexing.
    space : NeuroSpace
        Grid of `data`.
    slope, inter : float or ndarray (T,), optional
        The scaled value is ``stored * slope + inter``.
    dtype : dtype, optional
        Of what slicing `data` gives, where it differs from ``data.dtype``.
    like : nibabel NIfTI image, optional
        Its header is kept: codes, intent, description, extensions.
    template : bytes
        NIfTI header of the image that the data come from; what is true of them is kept.
    """

    def __init__(
        self,
        data: Any,
        space: NeuroSpace,
        *,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        dtype: DTypeLike | None = None,
        like: Any = None,
        template: bytes = b"",
    ) -> None:
        from fmristore.nifti import fit_header, header_of_image

        if tuple(data.shape) != space.shape:
            raise InvalidInputError(
                f"data of shape {tuple(data.shape)} do not fit a space of shape {space.shape}"
            )
        stored = np.dtype(data.dtype if dtype is None else dtype)
        self.colors = 0
        if stored.names in (("R", "G", "B"), ("R", "G", "B", "A")):
            self.colors, stored = len(stored.names or ()), np.dtype("u1")
        if stored.kind == "b":
            stored = np.dtype("u1")
        self.dtype = stored.newbyteorder("<")
        self.space = space
        self.scaling = make_scaling(slope, inter, volumes=space.time_points)
        one = self.scaling if self.scaling is None or not self.scaling.per_volume else None
        self._data = data
        if like is not None:
            kept = header_of_image(like, space, self.dtype, colors=self.colors)
            if kept is not None:
                self.header = kept
                return
        self.header = fit_header(
            template,
            space,
            self.dtype,
            colors=self.colors,
            slope=None if one is None else float(one.slope),
            inter=None if one is None else float(one.inter),
        )

    @property
    def in_memory(self) -> bool:
        """True if blocks are views of an array in memory, so that large ones cost nothing."""
        return type(self._data) is np.ndarray and self._data.dtype == self.dtype

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


def in_axis_order(data: Any) -> Any:
    """An array whose axes have names, as a DataArray of xarray has them, with these in order.

    Parameters
    ----------
    data : array_like
        Returned as it is if its axes have no names, or none that says where they belong.

    Returns
    -------
    array_like
        Axes x, y, z and, if there is one, time.

    Raises
    ------
    InvalidInputError
        If only some of the names say which axis is meant.
    """
    dims = getattr(unmasked(data), "dims", None)
    if not isinstance(dims, tuple) or not hasattr(data, "transpose"):
        return data
    places = [_AXES.get(str(name).lower(), -1) for name in dims]
    if all(place < 0 for place in places):
        return data
    if -1 in places or sorted(places) not in ([0, 1, 2], [0, 1, 2, 3]):
        raise InvalidInputError(
            f"the axes are called {', '.join(map(str, dims))}: expected x, y, z and possibly t, in "
            "any order; rename them, or give their array (.values) with the axes in that order"
        )
    order = sorted(range(len(dims)), key=places.__getitem__)
    return data if order == list(range(len(dims))) else data.transpose(*[dims[i] for i in order])


def is_nibabel(data: Any) -> bool:
    """Return whether something is an image of nibabel, or is used as one."""
    return hasattr(data, "dataobj") and hasattr(data, "header") and hasattr(data, "affine")


def nibabel_source(image: Any) -> ImageSource:
    """Read an image that lies in a NIfTI file from there, byte for byte; else its array."""
    from nibabel import arrayproxy

    if _lies_in_file(image):
        return NiftiSource(image.get_filename())
    # The dtype of a proxy is that of the data in its file; slicing it gives scaled ones.
    library: Any = arrayproxy
    space = NeuroSpace.from_nibabel(image)
    data = image.dataobj
    dtype = library.get_obj_dtype(data)
    if tuple(data.shape) != space.shape:
        data = _Folded(data, space.shape)
    source = ArraySource(data, space, dtype=dtype, like=image)
    source.url = image.get_filename()
    return source


class _Folded:
    """An array of one to seven axes, of which at most one beyond space is long, as (x, y, z[, t]).

    Parameters
    ----------
    data : array_like
        Has ``shape``, ``dtype`` and basic indexing.
    shape : tuple of int
        As `fold_shape` reads that of `data`.
    """

    def __init__(self, data: Any, shape: tuple[int, ...]) -> None:
        self._data = data
        self._axis = fold_shape(data.shape).volume_axis
        self.shape = shape
        self.dtype = data.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> AnyArray:
        rank = len(self._data.shape)
        beyond = (index[3] if axis == self._axis else slice(None) for axis in range(3, rank))
        part = np.asarray(self._data[(*index[: min(3, rank)], *beyond)])
        lengths = [*part.shape[:3], 1, 1][:3]
        return part.reshape(*lengths, *(() if self._axis is None else (-1,)), order="F")


def _lies_in_file(image: Any) -> bool:
    """True if a NIfTI file holds exactly this image: nothing was changed since it was loaded."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    library: Any = nibabel
    path = image.get_filename()
    proxy = getattr(image.dataobj, "is_proxy", False)
    if not (path and proxy and isinstance(image, library.Nifti1Pair)):
        return False
    try:
        saved = library.load(path)
    except (ImageFileError, OSError):
        return False
    return (
        type(saved) is type(image)
        and saved.dataobj.file_like == getattr(image.dataobj, "file_like", None)
        and saved.header == image.header
        and saved.header.extensions == image.header.extensions
        and np.array_equal(saved.affine, image.affine)
    )
