"""Volumes and runs of the R package: ``H5NeuroVol`` and ``H5NeuroVec``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fmristore.formats.base import StoredArray
from fmristore.formats.image.layout import ImageContent, ImageOptions, image_spec, write_data
from fmristore.formats.r.common import RLayout, r_class, r_dtype, r_values, write_r_space
from fmristore.formats.r.missing import with_missing
from fmristore.formats.registry import StoreView
from fmristore.model.space import NeuroSpace
from fmristore.planning.progress import Progress
from fmristore.planning.streams import streaming
from fmristore.sources.images import Block, ImageSource
from fmristore_stores.errors import (
    FormatError,
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Group, Store
from fmristore_stores.spec import is_string

__all__ = [
    "RImageLayout",
    "RSource",
    "read_r_affine",
    "read_r_content",
    "read_r_run",
    "write_image",
    "write_r_run",
]

_RUN = ("t", "z", "y", "x")


# Reading -------------------------------------------------------------------------------------


class RImageLayout(RLayout):
    """``H5NeuroVol`` or ``H5NeuroVec``.

    Parameters
    ----------
    rank : {3, 4}
        Number of axes of the image.
    """

    classes = frozenset({"DenseNeuroVec", "DenseNeuroVol", "H5NeuroVec", "H5NeuroVol"})

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def detect(self, view: StoreView) -> bool:
        """Docstring inherited."""
        if not super().detect(view):
            return False
        try:
            rank = len(view.root.array(_data_path(view.root)).spec.shape)
        except (FormatError, LayoutNotSupportedError, NotFoundError):
            rank = 4
        return (rank == 3) == (self.rank == 3)  # reading says what is wrong with other ranks

    def has_nodes(self, view: StoreView) -> bool:
        """Docstring inherited."""
        names = set(view.children)
        other = {"scans", "labels", "mask", "header", "basis"}
        space = view.names("space")
        return "data" in names and {"dim", "trans"} <= space and not other & names

    def read(self, handle: Handle) -> ImageContent:
        """Docstring inherited."""
        return read_r_content(handle)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        write_image(store, content, options, progress=progress)


def _data_path(root: Group) -> str:
    """Path of the array: ``/data/elements``, or ``/data`` itself."""
    try:
        root.array("data/elements")
    except NotFoundError:
        return "data"
    return "data/elements"


def read_r_content(handle: Handle) -> ImageContent:
    """Find the contents of a volume or run that the R package, or one that builds on it, wrote.

    The data are in ``/data/elements``, or ``/data`` itself is the array.

    Raises
    ------
    MetadataError
        If a node is missing or wrong.
    """
    data = _data_path(handle.store.root)
    content = read_r_run(handle, data, read_r_affine(handle))
    shape = content.space.shape
    dim = StoredArray(handle, "space/dim").read_small(8)
    if tuple(dim.ravel().tolist()) != shape:
        raise MetadataError(
            f"says {dim.ravel().tolist()} of values of shape {shape}",
            url=handle.locator.url,
            node="space/dim",
        )
    return content


def read_r_affine(handle: Handle) -> Any:
    """Affine of a file of the R package, (4, 4): ``/space/trans`` is transposed."""
    trans = StoredArray(handle, "space/trans").read_small(16)
    if trans.shape != (4, 4) or trans.dtype.kind not in "iuf":
        raise MetadataError(
            f"has the shape {trans.shape}, expected 4 x 4 numbers",
            url=handle.locator.url,
            node="space/trans",
        )
    return with_missing(trans.T)


def read_r_run(handle: Handle, data: str, affine: Any, *, tr: float | None = None) -> ImageContent:
    """Find the contents of an image of the R package.

    Parameters
    ----------
    handle : Handle
        The store.
    data : str
        Path of the array, whose axes have no names.
    affine : ndarray, (4, 4)
        Voxel to mm.
    tr : float, optional
        Repetition time in seconds.

    Raises
    ------
    MetadataError
        If the array is not an image.
    """
    spec = StoredArray(handle, data).reader.spec
    rank = len(spec.shape)
    if rank not in (3, 4) or is_string(spec.dtype):
        raise MetadataError(
            f"has the shape {spec.shape} and type {spec.dtype}, expected numbers along three or "
            "four axes",
            url=handle.locator.url,
            node=data,
        )
    dims = _RUN[-rank:]
    length = dict(zip(dims, spec.shape, strict=True))
    try:
        space = NeuroSpace(
            spatial_shape=(length["x"], length["y"], length["z"]),
            affine=affine,
            time_points=length.get("t"),
            tr=tr,
            time_unit="s" if tr is not None or rank == 3 else "unknown",
        )
    except InvalidInputError as error:
        raise MetadataError(
            f"the space of the image is damaged: {error.message}", url=handle.locator.url
        ) from error
    return ImageContent(data=data, space=space, dims=dims, of_r=True)


# Writing -------------------------------------------------------------------------------------


def write_image(
    store: Store,
    source: ImageSource,
    options: ImageOptions,
    *,
    progress: Progress | None = None,
) -> None:
    """Write a volume or run as the R package does, into an empty HDF5 file.

    Parameters
    ----------
    store : Store
        New and writable.
    source : ImageSource
        Read once, front to back; its header and repetition time have no place in the file.
    options : ImageOptions
        Canonical order, and a codec that HDF5 has without plug-ins.
    progress : callable, optional
        Called with the bytes of values done and in all.

    Raises
    ------
    InvalidInputError
        If R could not read the file.

    Notes
    -----
    The array of a run is ``/data`` itself, where the R package looks for it by default, although
    it writes ``/data/elements``.
    """
    scaled = RSource(source)
    root = store.root
    if source.space.time_points is None:
        write_r_run(root.create_group("data"), "elements", scaled, options, progress=progress)
    else:
        write_r_run(root, "data", scaled, options, progress=progress)
    write_r_space(root.create_group("space"), source.space, names=False)
    root.write_attributes({"rtype": [r_class(source.space)]})


def write_r_run(
    group: Group,
    name: str,
    source: RSource,
    options: ImageOptions,
    *,
    progress: Progress | None = None,
) -> None:
    """Write the data of one image as an array that R reads.

    Raises
    ------
    InvalidInputError
        If the options are not possible for R.
    """
    spec = image_spec(source, options)
    if options.order != "canonical":
        raise InvalidInputError("R finds axes by position: the order must be canonical")
    if not {step.name for step in spec.codecs} <= {"shuffle", "deflate"}:
        raise InvalidInputError(
            f"R has no plug-in for the codec {options.codec!r}; there are portable and none"
        )
    named, layout = spec.dims, replace(spec.layout, shards=None)
    array = group.create_array(name, replace(spec, dims=(), layout=layout))
    written = write_data(array, named, source, options.max_memory, progress=progress)
    array.write_attributes({"digest": written.digest})


class RSource(ImageSource):
    """An image as R can read it: scaled, of a type that it has.

    Parameters
    ----------
    source : ImageSource
        The image.

    Raises
    ------
    InvalidInputError
        If it is in colour, or R has no such type.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._scaling = source.scaling
        self.space = source.space
        self.header = source.header
        if source.colors:
            raise InvalidInputError("R cannot read colours")
        scaled = source.dtype if self._scaling is None else self._scaling.dtype(source.dtype)
        self.dtype = r_dtype(scaled)

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, or single planes.

        Raises
        ------
        InvalidInputError
            If R has no such number.
        """
        most = max(1, max_bytes * self._source.dtype.itemsize // self.dtype.itemsize)
        with streaming(self._source.blocks(most)) as blocks:
            for t0, z0, values in blocks:
                if self._scaling is None:
                    yield Block(t0, z0, r_values(values, self.dtype))
                    continue
                times = slice(t0, t0 + len(values))
                yield Block(t0, z0, self._scaling.apply(values, times=times, axis=0))
