"""A stored scan with the series of every voxel, grouped by parcel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.matrix import Matrix
from fmristore.formats.options import Target
from fmristore.formats.parcellated.base import ParcellatedBase
from fmristore.formats.parcellated.inputs import (
    ScanInput,
    create_scans,
    given_matrix,
    make_parcellation,
    voxel_weights,
)
from fmristore.formats.parcellated.layout import ParcellatedLayout
from fmristore.formats.parcellated.r import RParcellatedLayout
from fmristore.formats.parcellated.reduce import make_reduction, parcel_blocks, reduce_values
from fmristore.formats.registry import Layout, register
from fmristore.formats.voxelwise import VoxelView
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.planning.indexing import parse_axis
from fmristore.planning.options import StoreOptions, takes
from fmristore.planning.progress import Progress
from fmristore.planning.text import counted, parse_size
from fmristore.sources.door import in_order
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ParcellatedScan"]

Result = TypeVar("Result")


@register("parcellatedscan")
class ParcellatedScan(ParcellatedBase, VoxelView):
    """Series of all voxels that belong to a parcel, indexed ``[x, y, z, t]``; 0 elsewhere.

    Voxels of a parcel lie together, so that reading a parcel touches no other one's chunks.

    Examples
    --------
    >>> import fmristore as fs
    >>> scan = fs.open("rest_parcels.h5")                                     # doctest: +SKIP
    >>> scan.parcel("Left V1").shape                                          # doctest: +SKIP
    """

    holds = "one run, the series of its voxels grouped by parcel"
    use_when = "whole parcels are read, voxel by voxel"

    kind = "full"
    layouts: ClassVar[tuple[Layout, ...]] = (
        ParcellatedLayout("parcellatedscan", kind),
        RParcellatedLayout(kind),
    )

    @property
    def matrix(self) -> Matrix:
        """Stored values, (V, T), voxels in order of their parcels."""
        return self._content.data.matrix

    @property
    def scaling(self) -> Scaling | None:
        """Scaling of the stored values; None if they are not scaled."""
        return self._content.data.scaling

    @property
    def voxel_set(self) -> VoxelSet:
        """The stored voxels, in order of their parcels."""
        return self.parcellation.voxel_set

    @property
    def _header_path(self) -> str:
        group, _, name = self._content.arrays[0].path.rpartition("/")
        return f"{group}/nifti" if name == "0" else ""

    @property
    def indptr(self) -> NDArray[np.int64]:
        """(K + 1,): parcel k has the rows ``indptr[k]:indptr[k + 1]`` of `voxels`."""
        return self.parcellation.indptr

    # Reading --------------------------------------------------------------------------------

    def parcel(self, key: Any, *, times: Any = None, dtype: DTypeLike | None = None) -> AnyArray:
        """Series of the voxels of one parcel.

        Parameters
        ----------
        key : int or str
            Its id or name.
        times : slice, or list of int or bool, optional
            Part of the run.
        dtype : dtype, optional
            Type to return.

        Returns
        -------
        ndarray, (T, V)
            Voxels as in ``parcellation.voxels[parcellation.rows(key)]``.

        Raises
        ------
        SelectionError
            If there is no such parcel, several have the name, or `times` is no slice.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        rows = self.parcellation.rows(key)
        part = parse_axis(times, self.time_points)
        values = self._content.data.read(rows, part.region[0], dtype=dtype)
        return np.ascontiguousarray(part.apply(values))

    def map_parcels(
        self, function: Callable[[AnyArray], Result], *, max_memory: int | str = 1 << 28
    ) -> dict[int, Result]:
        """Call a function for every parcel, without holding more of the scan than fits.

        Parameters
        ----------
        function : callable
            Takes a parcel's values, (T, V), which are only valid during the call.
        max_memory : int or str
            Bytes that the parcels in work may take.

        Returns
        -------
        dict
            What the function returned, by id. Parcels without voxels are left out.

        Raises
        ------
        MemoryLimitError
            If a parcel does not fit.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        parcellation = self.parcellation
        found: dict[int, Result] = {}
        for block in parcel_blocks(self._content.data, parcellation, max_memory, whole=True):
            assert isinstance(block.columns, slice)
            first = block.columns.start
            parcels = parcellation.parcel_of[block.columns]
            for k in np.unique(parcels).tolist():
                inside = slice(parcellation.indptr[k] - first, parcellation.indptr[k + 1] - first)
                found[int(parcellation.ids[k])] = function(block.values[:, inside])
        return found

    # Summaries ------------------------------------------------------------------------------

    def summary(
        self,
        statistic: Any = "mean",
        *,
        weights: Any = None,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 28,
        progress: Progress | None = None,
    ) -> AnyArray:
        """Reduce every parcel to one series.

        Parameters
        ----------
        statistic : {"mean", "median", "sum", "min", "max", "std"} or callable
            A function takes a parcel's values (T, V) and returns (T,).
        weights : path, nibabel image, array_like of shape (X, Y, Z) or (V,), optional
            Of the voxels, for means and sums; (V,) in numpy's (C) order of the
            labelled voxels, as ``volume[labels > 0]`` has them.
        storage_options : mapping, optional
            For weights given by URL.
        max_memory : int or str
            Bytes that this may take besides the result.
        progress : callable, optional
            Called with the bytes done and in all.

        Returns
        -------
        ndarray, (T, K), float64
            NaN for a parcel without voxels.

        Raises
        ------
        InvalidInputError
            If there is no such statistic, or weights are wrong.
        MemoryLimitError
            If a function asks for a parcel that does not fit.
        """
        max_memory = parse_size(max_memory)
        found = voxel_weights(weights, self.parcellation, storage_options)
        reduction = make_reduction(statistic, found, self.dtype, len(self.voxels))
        return reduce_values(
            self._content.data,
            self.parcellation,
            reduction,
            max_memory=max_memory,
            progress=progress,
        )

    def to_dataframe(
        self,
        statistic: Any = "mean",
        *,
        weights: Any = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Summary as a pandas data frame: see `summary`.

        Returns
        -------
        pandas.DataFrame
            One column for each parcel; time in seconds as its index if the repetition time is
            known, else the number of the volume.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        from fmristore.interop.pandas import series_frame

        values = self.summary(statistic, weights=weights, storage_options=storage_options)
        return series_frame(values, self.names, times=self.space.times)

    def _facts(self) -> dict[str, str]:
        parcels = f"{self._content.data.shape[0]} voxels in {counted(len(self.table), 'parcel')}"
        return {"scan": repr(self.name), **super()._facts(), "parcels": parcels}

    # Creating -------------------------------------------------------------------------------

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
        name: str = "scan",
        metadata: Mapping[str, Any] | None = None,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        space_name: str | int | None = None,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Store the series of all voxels that belong to a parcel, and open them.

        Parameters
        ----------
        source : stored object, path, nibabel image, or array_like of shape (X, Y, Z, T)
            The run, read once. Stored values and their scaling are kept.
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        parcellation : Parcellation, path, nibabel image, or array_like of shape (X, Y, Z)
            Label image on the grid of the run.
        names : path, mapping, sequence of str, optional
            What the labels stand for: see `fmristore.sources.labels.read_table`.
        mask : path, nibabel image, or array_like of shape (X, Y, Z), optional
            Labels of other voxels are dropped.
        name : str
            Of the scan.
        metadata : mapping, optional
            What else is known of the scan; values that JSON can hold.
        space : NeuroSpace or ndarray, (4, 4), optional
            For arrays.
        tr : float, optional
            Repetition time in seconds; comes before that of a file or image.
        space_name : str or int, optional
            Name of the space that the run is in; comes before what it says.
        slope, inter : float or ndarray (T,), optional
            For arrays of stored values.
        **options
            `StoreOptions`.

        Returns
        -------
        ParcellatedScan
            The new scan, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If labels and run do not fit, or an argument cannot be used.
        """
        source, url = in_order(source, url)
        if given_matrix(source) is not None:
            raise InvalidInputError("a matrix (T, K) holds no voxels; it makes a summary")
        target = Target.of(url, options)
        request = ScanInput(
            name=name,
            source=source,
            metadata=metadata or {},
            array={
                "space": space,
                "tr": tr,
                "slope": slope,
                "inter": inter,
            },
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
