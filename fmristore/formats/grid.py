"""Everything that is indexed as an image on a grid, however its values are stored.

`GridView` has what users call: indexing, series, plans, statistics, exports. A format gives it
three things: the values of a region, those of scattered voxels, and what a region costs to read.
The class is whole here, docstrings with it, which makes the module long.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Unpack, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import MetadataHolder, RawView, StoredArray
from fmristore.formats.nodes import read_bytes, read_metadata, require_headers
from fmristore.formats.registry import format_class
from fmristore.formats.selection import parse_series, spread_over
from fmristore.formats.statistics import Axis, Statistics, reduce_blocks
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.thumbnail import slice_picture
from fmristore.model.voxels import unmask
from fmristore.planning.anatomy import display_axes
from fmristore.planning.indexing import (
    AxisPart,
    PointSelection,
    bounds,
    parse_index,
    parse_selection,
)
from fmristore.planning.options import LayoutOptions, WriteOptions, takes
from fmristore.planning.pictures import AxisChunks, gray_levels
from fmristore.planning.read_plan import Planner, ReadPlan
from fmristore.planning.streams import streaming
from fmristore.planning.text import parse_size
from fmristore.sources.images import ArraySource, ImageSource
from fmristore.sources.labelled import positional
from fmristore.sources.masks import mask_array
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.io.ranges import ReadCost
from fmristore_stores.protocol import AnyArray
from fmristore_stores.secrets import masked_url

if TYPE_CHECKING:
    import dask.array as dask_array
    import nibabel
    import xarray

    from fmristore.nifti import NiftiHeader

__all__ = ["GridView", "write_source"]

_WRITE_BYTES = 1 << 23
"""Volumes that are handed to the NIfTI writer at a time."""
_THUMBNAIL_VOXELS = 1 << 26
_THUMBNAIL_BYTES = 1 << 26
"""Values that are decoded for the picture of an image in a notebook."""
_OF_NIBABEL = frozenset(
    {"dataobj", "get_fdata", "get_data_dtype", "header", "slicer", "to_filename", "as_reoriented"}
)
"""Attributes by which nibabel, and code written for its images, takes an object."""
_VOLUME_BYTES = 1 << 26
"""Volumes that are read at a time when a run is iterated over."""


class GridView(Statistics, MetadataHolder):
    """An image that is indexed ``[x, y, z]`` or ``[x, y, z, t]`` on a grid in space.

    Formats implement `read_region`, `read_points`, `cost` and, where they can be faster,
    `as_source`.
    """

    axes: ClassVar[tuple[str, ...]] = ("x", "y", "z", "t")
    """Names of the axes that users index, in order."""

    # What it is -----------------------------------------------------------------------------

    @property
    @abstractmethod
    def space(self) -> NeuroSpace:
        """Grid in the world, number of volumes and TR."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that indexing returns."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z) or (X, Y, Z, T)."""
        return self.space.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def size(self) -> int:
        """Number of voxels in all volumes."""
        return math.prod(self.shape)

    @property
    def affine(self) -> AnyArray:
        """(4, 4) float64: voxel indices (0-based) to mm, RAS+."""
        return self.space.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes along x, y, z in mm."""
        return self.space.spacing

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position of voxel (0, 0, 0) in mm."""
        return self.space.origin

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if unknown."""
        return self.space.tr

    @property
    def scaling(self) -> Scaling | None:
        """Scaling of the stored values; None if they are not scaled."""
        return None

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the stored values."""
        return self.dtype

    @property
    def slope(self) -> float | AnyArray | None:
        """Scale factor of the stored values, one number or (T,); None if they are not scaled."""
        return None if self.scaling is None else self.scaling.slope

    @property
    def inter(self) -> float | AnyArray | None:
        """Offset added after scaling with `slope`, one number or (T,); None if there is none."""
        return None if self.scaling is None else self.scaling.inter

    @property
    def chunks(self) -> tuple[int, ...]:
        """Lengths along the axes of the smallest block that is made of whole stored chunks."""
        return tuple(
            max(1, min(c, n)) for c, n in zip(self._block_chunks(), self.shape, strict=True)
        )

    @property
    def dense_array(self) -> StoredArray | None:
        """Array of the values of every voxel of the grid, if they are stored so."""
        return None

    @property
    def stored_mask(self) -> AnyArray | None:
        """(X, Y, Z) bool: mask that the image is stored with; None if it has none."""
        return None

    # What a format implements -----------------------------------------------------------------

    @abstractmethod
    def read_region(
        self, region: Sequence[AxisPart], *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Values of a region, axes as users index them.

        Parameters
        ----------
        region : sequence of slice or ndarray
            One part per axis; along at most one of them positions in any order.
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        raw : bool
            Stored values, not scaled.
        """

    @abstractmethod
    def read_points(
        self, points: AnyArray, times: AxisPart, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Series (T, n) of voxels (n, 3), which may be negative and repeat, in a part of the run.

        Raises
        ------
        SelectionError
            If a voxel lies outside the grid.
        """

    def cost(self, region: Sequence[AxisPart]) -> tuple[ReadCost, int, str | None]:
        """Cost of a region, chunks of the whole image, and the replica that is read, if any."""
        del region
        raise InvalidInputError(f"{type(self).__name__} cannot say what a read costs", url=self.url)

    def _read_in_place(self, index: Any, *, dtype: DTypeLike | None, raw: bool) -> AnyArray | None:
        """Values of a small read that takes few steps; None if it is another."""
        del index, dtype, raw
        return None

    def _series_in_place(
        self, voxels: Any, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray | None:
        """Whole series of a few voxels, (T, n), by a read that takes few steps; else None."""
        del voxels, dtype, raw
        return None

    def _axis_entry(self, index: Any) -> Any:
        """The index with names along the last axis, where it has some, as values."""
        return index

    # Reading --------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        return self.read(index)

    def read(
        self, index: Any = Ellipsis, *, dtype: DTypeLike | None = None, raw: bool = False
    ) -> Any:
        """Read a part of the image.

        Parameters
        ----------
        index : int, slice, Ellipsis, None, list, ndarray, or a tuple of them
            numpy's indexing, axes (x, y, z[, t]): basic; one list of integers or booleans along
            any axis, such as the volumes to keep; three lists for scattered voxels; or a boolean
            array (X, Y, Z) for the voxels of a mask.
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        raw : bool
            Return stored values, not scaled.

        Returns
        -------
        ndarray or numpy scalar
            As numpy answers: a scalar if every axis is given as an integer, (n, T) for a mask.

        Raises
        ------
        SelectionError
            If the index does not fit the image.
        CorruptDataError
            If a chunk is damaged or missing.

        Notes
        -----
        Every chunk that the selection touches is fetched and decoded once.
        """
        found = self._read_in_place(index, dtype=dtype, raw=raw)
        if found is not None:
            return found
        selection = parse_index(self._axis_entry(index), self.shape)
        if isinstance(selection, PointSelection):
            return self._read_selected_points(selection, dtype=dtype, raw=raw)
        return selection.apply(self.read_region(selection.region, dtype=dtype, raw=raw))

    def _read_selected_points(
        self, selection: PointSelection, *, dtype: DTypeLike | None, raw: bool
    ) -> Any:
        rest = selection.rest
        times: AxisPart = slice(0, 1, 1) if rest is None else rest.region[0]
        values = self.read_points(selection.points, times, dtype=dtype, raw=raw).T
        if rest is None:
            return values[:, 0].reshape(selection.shape)
        whole = (slice(None),) * len(selection.shape)
        return values.reshape(*selection.shape, values.shape[1])[(*whole, *rest.finish)]

    def series(
        self,
        voxels: Any = None,
        *,
        mask: Any = None,
        times: Any = None,
        dtype: DTypeLike | None = None,
        raw: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> AnyArray:
        """Time series of one voxel, many voxels, or all voxels of a mask.

        Parameters
        ----------
        voxels : (x, y, z) or array_like of int, (n, 3), optional
            One voxel, or many in any order; negative indices count from the end.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
            Voxels that are not zero (NaN counts as zero), in place of `voxels`. An image must lie
            on the same grid.
        times : slice, or list of int or bool, optional
            Part of the run, such as the volumes that scrubbing keeps.
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        raw : bool
            Return stored values, not scaled.
        storage_options : mapping, optional
            For a mask given by URL.

        Returns
        -------
        ndarray, (T,) for one voxel, else (T, n)
            For a mask, voxels in numpy's (C) order, as ``volume[mask]`` and nilearn have them.
            The fill value for voxels of the grid that are not stored.

        Raises
        ------
        SelectionError
            If a voxel or volume lies outside the image.
        InvalidInputError
            If both or neither of `voxels` and `mask` are given, or the mask does not fit.

        Notes
        -----
        Every chunk is fetched and decoded once, however many voxels lie in it.
        """
        if len(self.axes) != 4:
            raise InvalidInputError("a single volume has no series; index it", url=self.url)
        if mask is None and times is None:
            found = self._series_in_place(voxels, dtype=dtype, raw=raw)
            if found is not None:
                return found
        request = parse_series(
            voxels,
            mask,
            times,
            space=self.space,
            length=self.shape[3],
            storage_options=storage_options,
        )
        part = request.times
        points = request.points.reshape(-1, 3)
        values = self.read_points(points, part.region[0], dtype=dtype, raw=raw)
        result: AnyArray = values[part.finish]
        return result[:, 0] if request.single else result

    def sample_series(self, *, voxels: int = 800, volumes: int = 1200) -> AnyArray:
        """Series of voxels spread over the image, for a carpet plot.

        Parameters
        ----------
        voxels : int
            How many at most: of those that vary, the ones with the largest means, in order of
            their place; of an image that is stored by voxel, evenly spread rows.
        volumes : int
            How many at most, evenly spread.

        Returns
        -------
        ndarray, (n, t)

        Raises
        ------
        InvalidInputError
            If it is a single volume.
        CorruptDataError
            If a chunk is damaged or missing.

        Notes
        -----
        Reads about all chunks; memory is bounded by the result and the chunks in work.
        """
        times = slice(None, None, -(-self.shape[-1] // max(1, volumes)))
        points = spread_over(self.shape[:3], 3 * voxels)
        values = self.series(points, times=times).T
        sizes = np.nan_to_num(np.abs(values) if values.dtype.kind == "c" else values)
        rows = np.flatnonzero((sizes != sizes[:, :1]).any(axis=1))
        order = np.argsort(sizes[rows].mean(axis=1, dtype="f8"))
        return cast("AnyArray", values[np.sort(rows[order[-voxels:]])])

    def unmask(
        self,
        values: Any,
        mask: Any = None,
        *,
        fill: Any = 0,
        storage_options: Mapping[str, Any] | None = None,
    ) -> AnyArray:
        """Put values of the voxels of a mask back onto the grid.

        Parameters
        ----------
        values : array_like, (n,) or (T, n)
            One value for each voxel of the mask, in numpy's (C) order, as ``series(mask=mask)``,
            ``volume[mask]`` and nilearn give them.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
            As in `series`; by default that which the image is stored with, and a single volume
            itself.
        fill : scalar
            For the other voxels.
        storage_options : mapping, optional
            For a mask given by URL.

        Returns
        -------
        ndarray, (X, Y, Z) or (X, Y, Z, T)

        Raises
        ------
        InvalidInputError
            If there is not one value for each voxel, the mask does not fit, or none is given and
            the image is stored without one.
        """
        if mask is None and len(self.axes) == 3:
            mask = self  # a volume is a mask itself
        if mask is None:
            mask = getattr(self, "mask", None)  # of what is stored by voxel
            if mask is None:
                raise InvalidInputError(
                    "the image is stored without a mask: give the mask that the values are of",
                    url=self.url,
                )
        inside = mask_array(mask, self.space, storage_options=storage_options)
        return unmask(np.asarray(positional(values, "values of the voxels")), inside, fill=fill)

    def inverse_transform(self, values: Any, mask: Any = None, **options: Any) -> AnyArray:
        """Put values of voxels back onto the grid: `unmask`, by nilearn's name for it.

        Parameters
        ----------
        values, mask : object
            As of `unmask`.
        **options
            ``fill`` and ``storage_options``, likewise.

        Returns
        -------
        ndarray, (X, Y, Z) or (X, Y, Z, T)
        """
        return self.unmask(values, mask, **options)

    @property
    def raw(self) -> RawView:
        """Stored values, not scaled: ``image.raw[32, 40, 20]``."""
        return RawView(self)

    @property
    def plan(self) -> Planner:
        """Cost of a read, without reading: ``image.plan[..., 10].explain()``."""
        return Planner(self._plan)

    def _plan(self, index: Any) -> ReadPlan:
        selection = parse_index(self._axis_entry(index), self.shape)
        if isinstance(selection, PointSelection):
            raise SelectionError("plans are made of regions: index with slices, or one list")
        cost, chunks, replica = self.cost(selection.region)
        return ReadPlan(
            url=masked_url(self.url),
            selection=index,
            shape=selection.shape,
            dtype=self.dtype,
            chunks_in_all=chunks,
            cost=cost,
            copy=replica,
            axes=self._touched(selection.region),
        )

    def _touched(self, region: Sequence[AxisPart]) -> tuple[AxisChunks, ...]:
        """Chunks along each axis and which a region touches, where they are blocks of the grid."""
        del region
        return ()

    def to_numpy(self, *, dtype: DTypeLike | None = None, raw: bool = False) -> AnyArray:
        """All of the image in memory, as ``image[...]``."""
        return cast("AnyArray", self.read(dtype=dtype, raw=raw))

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored image cannot become an array without a copy")
        return self.to_numpy(dtype=dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        raise InvalidInputError(
            "iterating would read the image plane by plane: use iter_volumes(), index it, take "
            "np.asarray(image), or give nilearn image.to_nibabel()"
        )

    if not TYPE_CHECKING:  # a type checker would find every attribute in it

        def __getattr__(self, name: str) -> Any:
            if name in _OF_NIBABEL:
                raise AttributeError(
                    f"a {type(self).__name__} is no image of nibabel: "
                    f"take image.to_nibabel().{name}",
                    name=name,
                    obj=self,
                )
            return object.__getattribute__(self, name)  # the error, or that of a property

    def iter_volumes(
        self, *, dtype: DTypeLike | None = None, max_memory: int | str = _VOLUME_BYTES
    ) -> Iterator[AnyArray]:
        """Volumes (X, Y, Z) one after the other, read several at a time.

        Where stored chunks are longer in time than that, and are more than the cache of chunks
        holds, they pass through a temporary file, so that each is decoded once.

        Parameters
        ----------
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        max_memory : int or str
            Bytes that the volumes read at a time may take, with those before them that are still
            in use; one volume is read at least.

        Raises
        ------
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        if len(self.axes) == 3:
            yield self.to_numpy(dtype=dtype)
            return
        grid = self.shape[:3]
        wanted = self.dtype if dtype is None else np.dtype(dtype)
        # Two blocks, for the last volume of the one before is still in use, and what is scaled.
        width = 2 * wanted.itemsize + self.stored_dtype.itemsize
        step = max(1, max_memory // max(1, math.prod(grid) * width))
        for values in self._some_volumes(step, dtype, max_memory):
            for t in range(values.shape[3]):
                yield values[..., t]
            del values  # before the next block takes its memory

    def _some_volumes(
        self, step: int, dtype: DTypeLike | None, max_memory: int, start: int = 0
    ) -> Iterator[AnyArray]:
        """Values (X, Y, Z, n) of up to `step` volumes at a time, from one of them on."""
        del max_memory
        *grid, length = self.shape
        for first in range(start, length, step):
            part = slice(first, min(first + step, length), 1)
            yield self.read_region((*_whole(grid), part), dtype=dtype, raw=False)

    # Statistics -------------------------------------------------------------------------------

    def _reduced(self, statistic: str, axis: Axis, max_memory: int, **options: Any) -> Any:
        image = self._read_once()
        return reduce_blocks(
            statistic,
            self.shape,
            axis,
            lambda region: image.read_region(region, dtype=None, raw=False),
            itemsize=self.dtype.itemsize,
            chunks=self._block_chunks(),
            max_memory=max_memory,
            **options,
        )

    def _block_chunks(self) -> tuple[int, ...]:
        """Lengths along the user's axes that blocks are best multiples of."""
        return (1,) * len(self.axes)

    def _read_once(self) -> GridView:
        """The image as it is best read once in such blocks: decoded chunks need not be kept."""
        return self

    # Export -----------------------------------------------------------------------------------

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """The image as the source of another one, volume after volume.

        Parameters
        ----------
        max_memory : int
            Bytes that transposing the values may take.
        nifti : bool
            Whether the scaling must be one that a NIfTI header can hold.
        """
        del max_memory, nifti
        return ArraySource(self, self.space, template=self.source_header)

    def stored_scaling(self, voxels: AnyArray) -> Scaling | None:
        """Scaling that turns ``series(voxels, raw=True)`` into the scaled values.

        Parameters
        ----------
        voxels : ndarray of int, (n, 3)
            Indices.

        Returns
        -------
        Scaling or None
            None if stored values are not scaled, or not all of these voxels are stored.
        """
        del voxels
        return None

    @property
    def _header_path(self) -> str:
        """Path of the array that holds the source's NIfTI header; it need not exist."""
        return "nifti"

    @cached_property
    def source_header(self) -> bytes:
        """NIfTI header and extensions of the image that this came from; empty if there was none.

        Raises
        ------
        MetadataError
            If it is damaged.
        """
        raw = read_bytes(self._handle, self._header_path)
        require_headers([raw], self.url, self._header_path)
        return raw

    @property
    def _metadata_folder(self) -> str:
        """Path of the group that has the group of metadata; it need not exist."""
        return self._header_path.rpartition("/")[0]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Other facts about the data, such as those of the BIDS sidecar beside the source."""
        return read_metadata(self._handle, self._metadata_folder)

    @property
    def nifti_header(self) -> NiftiHeader:
        """A NIfTI header for the values on the whole grid, with what is true of the source's.

        Raises
        ------
        MetadataError
            If the stored header is damaged.
        """
        from fmristore.nifti import fit_header, parse_header

        return parse_header(fit_header(self.source_header, self.space, self.dtype))

    def to_nibabel(self) -> nibabel.Nifti1Image:
        """Lazy nibabel image: reads, or computes, only what is asked of it.

        Returns
        -------
        nibabel.Nifti1Image or Nifti2Image
        """
        from fmristore.interop.nibabel import to_nibabel

        return to_nibabel(self)

    def plot(
        self,
        kind: str | None = None,
        *,
        voxel: Sequence[int] | None = None,
        volume: int | str = 0,
        colors: Any = None,
        window: tuple[float, float] | None = None,
        figure: Any = None,
    ) -> dict[str, Any]:
        """Draw the image with matplotlib; left is on the left.

        Parameters
        ----------
        kind : {"slices", "series", "carpet"}, optional
            Three slices, the series of a voxel, or the series of many voxels as rows; slices and
            series by default.
        voxel : (x, y, z), optional
            Through which slices go, and whose series is drawn; the middle by default.
        volume : int or str
            Of which slices are drawn; a map by its label.
        colors : str or matplotlib.colors.Colormap, optional
            Gray by default, and cold to hot around 0 for maps with both signs.
        window : tuple of float, optional
            Values drawn in the first and last colour; most of those in the slices by default.
        figure : matplotlib.figure.Figure, optional
            To draw in; a new one of pyplot by default.

        Returns
        -------
        dict of str to matplotlib.axes.Axes
            ``"sagittal"``, ``"coronal"``, ``"axial"``, ``"series"``, ``"carpet"``.

        Raises
        ------
        InvalidInputError
            If there is no such kind of plot, or the voxel is none.
        SelectionError
            If there is no such volume.
        DependencyError
            If matplotlib is not installed.

        Notes
        -----
        Reads the slices and the series; a carpet plot reads about everything, in bounded memory.
        Slices lie along the axes of the grid: for others, resample ``to_nibabel()`` with nilearn.
        """
        from fmristore.interop.matplotlib import Look, plot_image

        number = 0
        if self.ndim == 4:
            entry = self._axis_entry((..., volume))[-1]
            number = int(bounds(parse_selection(entry, self.shape[3:]).region[0]).start)
        return plot_image(
            self,
            kind,
            volume=number,
            look=Look(voxel, colors, window, figure),
            runs=self._runs(),
            names=self._last_names(),
        )

    def to_dask(self, chunks: Any = "auto") -> dask_array.Array:
        """Dask array of the image, whose blocks are made of whole stored chunks.

        Parameters
        ----------
        chunks : str, int, tuple or mapping
            As of `dask.array.from_array`; ``"auto"`` gathers stored chunks until a block has dask's
            ``array.chunk-size``.

        Returns
        -------
        dask.array.Array
            Can be used after the object was closed.

        Raises
        ------
        DependencyError
            If dask is not installed.
        """
        from fmristore.interop.dask import to_dask

        return to_dask(self, chunks)

    def to_xarray(self) -> xarray.Dataset:
        """Lazy dataset of xarray with the image as ``data``.

        Returns
        -------
        xarray.Dataset
            Axes x, y, z and time (or label), coordinates in mm and seconds; ``.fmri`` has
            ``series(mask)`` and ``to_nibabel()``. Can be used after the object was closed.

        Raises
        ------
        DependencyError
            If xarray is not installed.
        """
        from fmristore.interop.datasets import xarray_module

        made: xarray.Dataset = xarray_module().grid_dataset(
            self, runs=self._runs(), names=self._last_names()
        )
        return made

    def _runs(self) -> Sequence[tuple[str, int, AnyArray | None]] | None:
        """Name, length and times of the runs along the last axis, if there are several."""
        return None

    def _last_names(self) -> Sequence[str] | None:
        """Names along the last axis, if that is not time."""
        return None

    @takes(LayoutOptions)
    def to_dense(
        self,
        url: str | os.PathLike[str],
        **options: Unpack[LayoutOptions],
    ) -> GridView:
        """Store the image on its whole grid, block by block, and open that.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` (best ``.ome.zarr``) for Zarr.
        **options
            `LayoutOptions`.

        Returns
        -------
        NeuroVec
            Reads the same values. Stored values, slope and intercept are kept where that is
            possible; else the scaled values are stored.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        made: GridView = format_class("neurovec").create(self, url, **options)
        return made

    @takes(WriteOptions, max_memory=1 << 28)
    def to_nifti(
        self,
        url: str | os.PathLike[str],
        **options: Unpack[WriteOptions],
    ) -> None:
        """Write the image on its whole grid as NIfTI, block by block.

        Stored values, slope and intercept are kept where NIfTI can hold them; else the scaled
        values are written.

        Parameters
        ----------
        url : str or path
            ``.nii``, ``.nii.gz``, or ``.hdr``/``.img`` for a pair.
        **options
            `WriteOptions`.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        limit = parse_size(options.get("max_memory", 1 << 28))
        write_source(url, self.as_source(max_memory=limit, nifti=True), **options)

    def _facts(self) -> dict[str, str]:
        facts = {
            "shape": " x ".join(map(str, self.shape)),
            "dtype": str(self.dtype),
            "voxels": " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
        }
        if self.tr is not None:
            facts["TR"] = f"TR {self.tr:.4g} s"
        return facts

    def _storage_facts(self) -> dict[str, str]:
        return {"orientation": self.space.orientation, **super()._storage_facts()}

    def _picture(self) -> str:
        """Axial slice in the middle of the first volume, if little has to be decoded for it."""
        world = 2
        through = display_axes(self.affine)[world].axis
        index: list[Any] = [slice(None)] * 3 + [0] * (self.ndim - 3)
        index[through] = self.shape[through] // 2
        if math.prod(self.shape[:3]) > _THUMBNAIL_VOXELS:
            return ""
        if self.plan[tuple(index)].decoded_bytes > _THUMBNAIL_BYTES:
            return ""
        return slice_picture(gray_levels(self.read(tuple(index))), self.space, world)


def _whole(lengths: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(0, n, 1) for n in lengths)


def write_source(
    url: str | os.PathLike[str],
    source: ImageSource,
    **options: Unpack[WriteOptions],
) -> None:
    """Write an image source as NIfTI, under its own header; see `GridView.to_nifti`."""
    from fmristore.nifti import write_nifti

    limit, progress = parse_size(options.get("max_memory", 1 << 28)), options.get("progress")
    total = math.prod(source.space.shape) * source.dtype.itemsize * max(1, source.colors)
    blocks = source.blocks(max(1, min(_WRITE_BYTES, limit // 4)))
    with streaming(blocks):
        write_nifti(
            url,
            source.header,
            (block.values for block in blocks),
            overwrite=options.get("overwrite", False),
            storage_options=options.get("storage_options"),
            progress=None if progress is None else lambda done: progress(done, total),
        )
