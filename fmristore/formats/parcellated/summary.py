"""A stored scan with one series for each parcel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.options import Target
from fmristore.formats.parcellated.base import ParcellatedBase
from fmristore.formats.parcellated.inputs import (
    ScanInput,
    create_scans,
    given_matrix,
    make_parcellation,
)
from fmristore.formats.parcellated.layout import ParcellatedLayout
from fmristore.formats.parcellated.r import RParcellatedLayout
from fmristore.formats.registry import Layout, register
from fmristore.formats.statistics import Axis, Statistics, reduce_blocks
from fmristore.model.space import NeuroSpace
from fmristore.planning.indexing import parse_axis, parse_selection
from fmristore.planning.options import StoreOptions, takes
from fmristore.sources.door import in_order
from fmristore.sources.parcellation import find_parcels
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import dask.array as dask_array
    import pandas as pd
    import xarray

__all__ = ["ParcellatedScanSummary"]


@register("parcellatedscansummary")
class ParcellatedScanSummary(ParcellatedBase, Statistics):
    """One series for each parcel, indexed ``[t, parcel]`` or by the name of a parcel.

    Examples
    --------
    >>> import fmristore as fs
    >>> rest = fs.parcellate("rest_bold.nii.gz", "atlas.nii.gz", "rest.h5")   # doctest: +SKIP
    >>> rest["Left V1"]                                                       # doctest: +SKIP
    """

    holds = "one series for each parcel of one run: time x parcel"
    use_when = "parcels are all that is analysed, as in connectivity"

    kind = "summary"
    layouts: ClassVar[tuple[Layout, ...]] = (
        ParcellatedLayout("parcellatedscansummary", kind),
        RParcellatedLayout(kind),
    )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of times and of parcels, (T, K)."""
        count, times = self._content.data.shape
        return times, count

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 2

    @property
    def chunks(self) -> tuple[int, int]:
        """Number of times and of parcels of one stored chunk."""
        rows, columns = self._content.data.chunks
        return columns, rows

    @property
    def statistic(self) -> str | None:
        """Statistic of the voxels of a parcel; None if unknown."""
        return self._content.statistic

    def __len__(self) -> int:
        return self.time_points

    def __getitem__(self, index: Any) -> Any:
        """Read a part of the matrix, or the series of parcels.

        Parameters
        ----------
        index : int, slice, Ellipsis, None or tuple of them; or str; or list of str and int
            numpy's indexing, axes (t, parcel), the last entry also a name or a list of names; the
            name of a parcel alone; or names and ids of several. A list of booleans alone is of
            times, as in numpy.

        Raises
        ------
        SelectionError
            If the index does not fit, or there is no such parcel.
        """
        of_times = isinstance(index, list) and {*map(type, index)} == {bool}
        if isinstance(index, str | list) and not of_times:
            return self.series(index)
        selection = parse_selection(self._numbered(index), self.shape)
        times, columns = selection.region
        return selection.apply(self._content.data.read(columns, times))

    def _numbered(self, index: Any) -> Any:
        """An index with names of parcels along the last axis as positions."""
        if not (isinstance(index, tuple) and len(index) == 2):
            return index
        times, parcels = index
        if isinstance(parcels, str):
            return times, self.index(parcels)
        if isinstance(parcels, list | tuple) and any(isinstance(p, str) for p in parcels):
            return times, find_parcels(self.table, parcels)
        return index

    def series(
        self, parcels: Any = None, *, times: Any = None, dtype: DTypeLike | None = None
    ) -> AnyArray:
        """Series of one parcel, some, or all.

        Parameters
        ----------
        parcels : int, str, or sequence of them, optional
            Ids or names.
        times : slice, or list of int or bool, optional
            Part of the run.
        dtype : dtype, optional
            Type to return.

        Returns
        -------
        ndarray, (T,) for one parcel, else (T, n)
            NaN for a parcel without voxels.

        Raises
        ------
        SelectionError
            If there is no such parcel, several have the name, or `times` is no slice.
        """
        part = parse_axis(times, self.time_points)
        if parcels is None:
            values = self._content.data.read(
                slice(0, self.shape[1], 1), part.region[0], dtype=dtype
            )
            return np.ascontiguousarray(part.apply(values))
        single = isinstance(parcels, str | int | np.integer)
        rows = find_parcels(self.table, [parcels] if single else parcels)
        found: AnyArray = part.apply(self._content.data.read(rows, part.region[0], dtype=dtype))
        return found[:, 0] if single else found

    def inverse_transform(self, values: Any = None, *, fill: Any = 0) -> AnyArray:
        """Put one value for each parcel onto the grid.

        Parameters
        ----------
        values : array_like, (K,) or (T, K), optional
            See `Parcellation.to_volume`; the stored series by default.
        fill : scalar
            For voxels without a label.

        Returns
        -------
        ndarray, (X, Y, Z) or (X, Y, Z, T)

        Raises
        ------
        InvalidInputError
            If there is not one value for each parcel.
        """
        return self.parcellation.to_volume(self if values is None else values, fill=fill)

    def plot(
        self,
        kind: str = "carpet",
        *,
        parcels: Any = None,
        volume: int = 0,
        voxel: Sequence[int] | None = None,
        colors: Any = None,
        window: tuple[float, float] | None = None,
        figure: Any = None,
    ) -> dict[str, Any]:
        """Draw the series of parcels with matplotlib.

        Parameters
        ----------
        kind : {"carpet", "series", "correlation", "parcels"}
            Series as rows, as lines, their correlation matrix, or one volume on the parcels.
        parcels : sequence of int or str, optional
            Ids or names of those that are drawn; all by default.
        volume : int
            Which volume is drawn on the parcels.
        voxel : (x, y, z), optional
            Through which slices go; the middle of the parcels by default.
        colors, window, figure
            As of `NeuroVec.plot`.

        Returns
        -------
        dict of str to matplotlib.axes.Axes

        Raises
        ------
        InvalidInputError
            If there is no such kind of plot.
        SelectionError
            If there is no such parcel or volume.
        DependencyError
            If matplotlib is not installed.
        """
        if kind not in ("carpet", "series", "correlation", "parcels"):
            raise InvalidInputError(
                f"there is no plot {kind!r} of parcels; there are 'carpet', 'series', "
                "'correlation' and 'parcels'",
                url=self.url,
            )
        from fmristore.interop.matplotlib import Look, plot_parcels, plot_summary

        look = Look(voxel, colors, window, figure)
        if kind == "parcels":
            return plot_parcels(self.parcellation, self[volume], look)
        chosen = self.names
        if parcels is not None:
            keys = [parcels] if isinstance(parcels, str | int) else list(parcels)
            chosen = tuple(self.names[k] for k in find_parcels(self.table, keys))
            parcels = keys
        values = self.series(parcels)
        return plot_summary(values, chosen, kind, times=self.space.times, look=look)

    def to_numpy(self, dtype: DTypeLike | None = None) -> AnyArray:
        """All series, (T, K)."""
        return self.series(dtype=dtype)

    def to_dataframe(self) -> pd.DataFrame:
        """All series as a pandas data frame.

        Returns
        -------
        pandas.DataFrame
            One column for each parcel, in order of ids; time in seconds as its index if the
            repetition time is known, else the number of the volume.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        from fmristore.interop.pandas import series_frame

        return series_frame(self.to_numpy(), self.names, times=self.space.times)

    def to_dask(self, chunks: Any = "auto") -> dask_array.Array:
        """Dask array (T, K), whose blocks are made of whole stored chunks.

        Parameters
        ----------
        chunks : str, int, tuple or mapping
            As of `dask.array.from_array`.

        Raises
        ------
        DependencyError
            If dask is not installed.
        """
        from fmristore.interop.dask import to_dask

        return to_dask(self, chunks)

    def to_xarray(self) -> xarray.Dataset:
        """Lazy dataset of xarray: ``data`` with the axes time, in seconds, and parcel, by name.

        Returns
        -------
        xarray.Dataset
            Can be used after the object was closed.

        Raises
        ------
        DependencyError
            If xarray is not installed.
        """
        from fmristore.interop.datasets import xarray_module

        made: xarray.Dataset = xarray_module().series_dataset(self)
        return made

    def _reduced(self, statistic: str, axis: Axis, max_memory: int, **options: Any) -> Any:
        data = self._content.data
        return reduce_blocks(
            statistic,
            self.shape,
            axis,
            lambda region: np.asarray(data.read(region[1], region[0])),
            itemsize=self.dtype.itemsize,
            chunks=self.chunks,
            max_memory=max_memory,
            **options,
        )

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored summary cannot become an array without a copy")
        return self.to_numpy(dtype)

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        content, facts = super()._create_args()
        return content, facts | {"statistic": self.statistic}

    def _facts(self) -> dict[str, str]:
        times, count = self.shape
        facts = {"scan": repr(self.name), "shape": f"{times} x {count} parcels"}
        if self.statistic is not None:
            facts["statistic"] = self.statistic
        facts["dtype"] = str(self.dtype)
        if self.tr is not None:
            facts["TR"] = f"TR {self.tr:.4g} s"
        return facts

    @classmethod
    @takes(StoreOptions)
    def create(  # noqa: PLR0913
        cls,
        source: Any,
        url: str | os.PathLike[str],
        *,
        parcellation: Any,
        names: Any = None,
        mask: Any = None,
        statistic: Any = "mean",
        weights: Any = None,
        name: str = "scan",
        metadata: Mapping[str, Any] | None = None,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        space_name: str | int | None = None,
        dtype: DTypeLike | None = None,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Summarise a run by parcels, store the summary, and open it.

        Parameters
        ----------
        source : stored object, path, nibabel image, or array_like
            A run (X, Y, Z, T), read once; or the series of the parcels, (T, K), as they are.
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        parcellation : Parcellation, path, nibabel image, or array_like of shape (X, Y, Z)
            Label image on the grid of the run.
        names : path, mapping, sequence of str, optional
            What the labels stand for: see `fmristore.sources.labels.read_table`.
        mask : path, nibabel image, or array_like of shape (X, Y, Z), optional
            Labels of other voxels are dropped.
        statistic : {"mean", "median", "sum", "min", "max", "std"} or callable
            A function takes a parcel's values (T, V) and returns (T,).
        weights : path, nibabel image, array_like of shape (X, Y, Z) or (V,), optional
            Of the voxels, for means and sums; (V,) in numpy's (C) order of the
            labelled voxels, as ``volume[labels > 0]`` has them.
        name : str
            Of the scan.
        metadata : mapping, optional
            What else is known of the scan; values that JSON can hold.
        space : NeuroSpace or ndarray, (4, 4), optional
            For arrays.
        tr : float, optional
            Repetition time in seconds; comes before that of the run.
        space_name : str or int, optional
            Name of the space that the run is in; comes before what it says.
        dtype : dtype, optional
            Of the stored series; float32 by default where the source has no more precision.
        **options
            `StoreOptions`.

        Returns
        -------
        ParcellatedScanSummary
            The new summary, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If labels and run do not fit, or an argument cannot be used.
        """
        source, url = in_order(source, url)
        if statistic is None and given_matrix(source) is None:
            raise InvalidInputError("a summary needs a statistic")
        target = Target.of(url, options)
        request = ScanInput(
            name=name,
            source=source,
            statistic=statistic,
            weights=weights,
            metadata=metadata or {},
            array={"space": space, "tr": tr},
            dtype=dtype,
        )
        parcels = make_parcellation(
            parcellation,
            names,
            mask,
            space=space,
            request=request,
            space_name=space_name,
            storage_options=target.storage_options,
        )
        return create_scans(cls, target, parcels, [request])
