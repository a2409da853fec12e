"""Where the numbers of a new image come from: a NIfTI file, an array, or a nibabel image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike

from fmristore.model.scaling import Scaling, make_scaling
from fmristore.model.space import NeuroSpace, fold_shape
from fmristore.planning.text import parse_size
from fmristore.sources.facts import metadata_of, with_facts, with_sidecar
from fmristore_stores.errors import InvalidInputError, UnknownFormatError
from fmristore_stores.io.location import detect_kind, name_of, normalise
from fmristore_stores.protocol import AnyArray

__all__ = [
    "ArraySource",
    "Block",
    "ImageSource",
    "NiftiSource",
    "image_source",
    "in_axis_order",
    "is_store",
]

_AXES = {"x": 0, "y": 1, "z": 2}
_AXES |= dict.fromkeys(("t", "time", "volume", "label", "map", "contrast"), 3)

_NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")


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

        self._location = normalise(url), storage_options
        self._described = False
        self.metadata: Mapping[str, Any] = {}
        self._header = read_header(url, storage_options=storage_options)
        self.space = self._header.space
        self.dtype = self._header.dtype
        self.colors = self._header.colors
        self.scaling = make_scaling(
            self._header.slope, self._header.inter, volumes=self.space.time_points
        )
        self.header = self._header.raw
        self._trailer = b""

    def as_source(self, **_: Any) -> ImageSource:
        """The source itself."""
        return self

    def described(self, tr: float | None = None) -> NiftiSource:
        """The same with what the BIDS sidecar beside it says: see `with_sidecar`."""
        if self._described:
            return self
        self._described = True
        url, options = self._location
        return with_sidecar(self, url, options, tr=tr)

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
    dtype : dtype, optional
        Of what slicing `data` gives, where it differs from ``data.dtype``.
    like : nibabel NIfTI image, optional
        Its header is kept: codes, intent, description, extensions.
    template : bytes
        NIfTI header of the image that the data come from; what is true of them is kept.
    """

    trailer = b""

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
        self.metadata: Mapping[str, Any] = {}
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

    def as_source(self, **_: Any) -> ImageSource:
        """The source itself."""
        return self

    @property
    def in_memory(self) -> bool:
        """Whether blocks are views of an array in memory, so that large ones cost nothing."""
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


def image_source(  # noqa: PLR0913
    data: Any,
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    slope: float | AnyArray | None = None,
    inter: float | AnyArray | None = None,
    space_name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    max_memory: int | str = 1 << 28,
) -> ImageSource:
    """Understand what a user gives as the numbers of an image.

    Parameters
    ----------
    data : path, URL, nibabel image, stored image, or array_like (X, Y, Z) or (X, Y, Z, T)
        A path or URL is that of a NIfTI file. A stored image is one of any format that was opened
        and must stay open until the last block was read; it has a method ``as_source``.
    space : NeuroSpace or ndarray, (4, 4), optional
        Needed for arrays: the grid, or the affine alone (voxel to mm, RAS+).
    tr : float, optional
        Repetition time in seconds; comes before that of a file or image. Not for a NeuroSpace,
        which has its own.
    slope, inter : float or ndarray (T,), optional
        For arrays of stored numbers: the number meant is ``stored * slope + inter``.
    space_name : str, optional
        Name of the space that the image is in; comes before what the image says.
    metadata : mapping, optional
        What else is known of it; comes before what the image says.
    storage_options : mapping, optional
        For a URL.
    max_memory : int or str
        Bytes that a stored image may take to turn its numbers around.

    Raises
    ------
    InvalidInputError
        If the data are not an image, an array comes without its space, or an image with one.
    """
    max_memory = parse_size(max_memory)
    stored = getattr(data, "as_source", None)
    if isinstance(data, str | os.PathLike) or _is_nibabel(data) or stored is not None:
        if any(given is not None for given in (space, slope, inter)):
            raise InvalidInputError(
                "space, slope and inter are for arrays: a file or image has its own"
            )
        if stored is not None:
            source: ImageSource = stored(max_memory=max_memory)
            if source is not data:
                source = with_facts(source, metadata=metadata_of(data))
        elif _is_nibabel(data):
            source = _from_nibabel(data)
        else:
            source = NiftiSource(data, storage_options=storage_options)
        if isinstance(source, NiftiSource):
            source = source.described(tr)
        return with_facts(source, tr=tr, space_name=space_name, metadata=metadata)
    data = in_axis_order(data)
    shape = getattr(data, "shape", None)
    if shape is None or not hasattr(data, "dtype"):
        data = _array(data)
        shape = data.shape
    if len(shape) not in (3, 4):
        raise InvalidInputError(f"data of shape {tuple(shape)}: expected (X, Y, Z) or (X, Y, Z, T)")
    if space is None:
        raise InvalidInputError("an array needs space=: a NeuroSpace or an affine (4, 4)")
    if isinstance(space, NeuroSpace):
        if tr is not None:
            raise InvalidInputError("tr goes with an affine; a NeuroSpace has its own")
    else:
        space = NeuroSpace(
            spatial_shape=tuple(shape[:3]),
            affine=space,
            time_points=shape[3] if len(shape) == 4 else None,
            tr=tr,
        )
    made = ArraySource(data, space, slope=slope, inter=inter)
    return with_facts(made, space_name=space_name, metadata=metadata)


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
    dims = getattr(data, "dims", None)
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


def is_store(url: str | os.PathLike[str], options: Mapping[str, Any] | None) -> bool:
    """Whether a URL is that of a store, not of a NIfTI file.

    Raises
    ------
    NotFoundError
        If there is nothing.
    """
    target = normalise(url)
    if name_of(target).lower().endswith(_NIFTI_ENDINGS):
        return False
    try:
        detect_kind(target, dict(options or {}))
    except UnknownFormatError:
        return False
    return True


def _is_nibabel(data: Any) -> bool:
    return hasattr(data, "dataobj") and hasattr(data, "header") and hasattr(data, "affine")


def _array(data: Any) -> AnyArray:
    try:
        return np.asarray(data)
    except ValueError as error:
        raise InvalidInputError(f"the data are not an array of numbers: {error}") from error


def _from_nibabel(image: Any) -> ImageSource:
    """Read an image that lies in a NIfTI file from there, byte for byte; else its array."""
    from nibabel import arrayproxy

    if _lies_in_file(image):
        return NiftiSource(image.get_filename())
    # The dtype of a proxy is that of the numbers in its file; slicing it gives scaled ones.
    library: Any = arrayproxy
    space = NeuroSpace.from_nibabel(image)
    data = image.dataobj
    dtype = library.get_obj_dtype(data)
    if tuple(data.shape) != space.shape:
        data = _Folded(data, space.shape)
    return ArraySource(data, space, dtype=dtype, like=image)


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
    """Whether a NIfTI file holds exactly this image: nothing was changed since it was loaded."""
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
