"""A stored scan with the series of every voxel, grouped by parcel."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.base import RawView
from fmristore.formats.grid import GridImage
from fmristore.formats.parcellated.base import ParcellatedBase
from fmristore.formats.parcellated.create import Target, create_scans, open_created
from fmristore.formats.parcellated.reduce import parcel_pieces, reduce_numbers
from fmristore.formats.parcellated.series import scan_volumes
from fmristore.formats.parcellated.statistics import make_reduction
from fmristore.formats.parcellated.writer import (
    ScanRequest,
    given_matrix,
    make_parcellation,
    voxel_weights,
)
from fmristore.formats.profiles import Profile
from fmristore.formats.registry import register
from fmristore.formats.scatter import SpreadSource
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import parse_series, parse_times
from fmristore.planning.indexing import parse_selection
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore.sources.images import ImageSource
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.grid import region_shape
from fmristore_stores.protocol import AnyArray

__all__ = ["ParcellatedScan"]

Result = TypeVar("Result")


@register("parcellatedscan")
class ParcellatedScan(ParcellatedBase, GridImage):
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

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, T)."""
        return self.space.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 4

    @property
    def size(self) -> int:
        """Number of voxels of the grid in all volumes."""
        return math.prod(self.shape)

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers."""
        return self._parts.numbers.matrix.dtype

    @property
    def slope(self) -> float | AnyArray | None:
        """What stored numbers are multiplied with on reading, one number or (T,); None if not."""
        scaling = self._parts.numbers.scaling
        return None if scaling is None else scaling.slope

    @property
    def inter(self) -> float | AnyArray | None:
        """What is added after multiplying with `slope`, one number or (T,); None if not."""
        scaling = self._parts.numbers.scaling
        return None if scaling is None else scaling.inter

    @property
    def voxels(self) -> NDArray[np.int32]:
        """(V, 3) indices (x, y, z) of the stored voxels, in order of their parcels."""
        return self.parcellation.voxels

    @property
    def indptr(self) -> NDArray[np.int64]:
        """(K + 1,): parcel k has the rows ``indptr[k]:indptr[k + 1]`` of `voxels`."""
        return self.parcellation.indptr

    # Reading --------------------------------------------------------------------------------

    def parcel(
        self, key: Any, *, times: slice | None = None, dtype: DTypeLike | None = None
    ) -> AnyArray:
        """Series of the voxels of one parcel.

        Parameters
        ----------
        key : int or str
            Its id or name.
        times : slice, optional
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
        part = parse_times(times, self.time_points)
        values = self._parts.numbers.read(rows, part.region[0], dtype=dtype)
        return np.ascontiguousarray(part.apply(values))

    def map_parcels(
        self, function: Callable[[AnyArray], Result], *, max_memory: int | str = 1 << 28
    ) -> dict[int, Result]:
        """Call a function for every parcel, without holding more of the scan than fits.

        Parameters
        ----------
        function : callable
            Takes a parcel's numbers, (T, V), which are only valid during the call.
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
        for piece in parcel_pieces(self._parts.numbers, parcellation, max_memory, whole=True):
            assert isinstance(piece.columns, slice)
            first = piece.columns.start
            parcels = parcellation.parcel_of[piece.columns]
            for k in np.unique(parcels).tolist():
                inside = slice(parcellation.indptr[k] - first, parcellation.indptr[k + 1] - first)
                found[int(parcellation.ids[k])] = function(piece.values[:, inside])
        return found

    def series(
        self,
        voxels: Any = None,
        *,
        mask: Any = None,
        times: slice | None = None,
        dtype: DTypeLike | None = None,
        raw: bool = False,
    ) -> AnyArray:
        """Time series of one voxel, many voxels, or all voxels of a mask.

        Parameters
        ----------
        voxels : (x, y, z) or array_like of int, (n, 3), optional
            One voxel, or many in any order; negative indices count from the end.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
            Voxels that are not zero, in place of `voxels`.
        times : slice, optional
            Part of the run.
        dtype : dtype, optional
            Type to return.
        raw : bool
            Return stored numbers, not scaled.

        Returns
        -------
        ndarray, (T,) for one voxel, else (T, n)
            0 for a voxel that belongs to no parcel. For a mask, voxels in order of their index
            with x varying fastest.

        Raises
        ------
        SelectionError
            If a voxel lies outside the grid, or `times` is no slice.
        InvalidInputError
            If both or neither of `voxels` and `mask` are given, or the mask does not fit.
        """
        request = parse_series(voxels, mask, times, space=self.space, length=self.time_points)
        part = request.times
        rows = self.parcellation.voxel_set.rows(request.points)
        values = self._read_rows(rows, part.region[0], self._result_type(dtype, raw=raw), raw=raw)
        result: AnyArray = part.apply(values)
        return result[:, 0] if request.single else result

    def _read_rows(
        self, rows: NDArray[np.int64], times: slice, dtype: np.dtype[Any], *, raw: bool
    ) -> AnyArray:
        """Series (times, rows) of stored voxels; 0 for row -1."""
        inside = rows >= 0
        if inside.all() and len(rows):
            return self._parts.numbers.read(rows, times, dtype=dtype, raw=raw)
        count = region_shape((times,))[0]
        values = np.zeros((count, len(rows)), dtype)
        if inside.any():
            values[:, inside] = self._parts.numbers.read(rows[inside], times, dtype=dtype, raw=raw)
        return values

    def _result_type(self, dtype: DTypeLike | None, *, raw: bool) -> np.dtype[Any]:
        if dtype is not None:
            return np.dtype(dtype)
        return self.stored_dtype if raw else self.dtype

    def __getitem__(self, index: Any) -> Any:
        return self.read(index)

    def read(
        self, index: Any = Ellipsis, *, dtype: DTypeLike | None = None, raw: bool = False
    ) -> Any:
        """Read a part of the run as if it were whole volumes.

        Parameters
        ----------
        index : int, slice, Ellipsis, None or tuple of them
            numpy's basic indexing, axes (x, y, z, t).
        dtype : dtype, optional
            Type to return.
        raw : bool
            Return stored numbers, not scaled.

        Returns
        -------
        ndarray or numpy scalar
            0 where a voxel belongs to no parcel.

        Raises
        ------
        SelectionError
            If the index does not fit.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        selection = parse_selection(index, self.shape)
        box, times = selection.region[:3], selection.region[3]
        rows = self.parcellation.voxel_set.row_of[box]
        inside = rows >= 0
        wanted = self._result_type(dtype, raw=raw)
        numbers = self._parts.numbers
        values = np.zeros((*rows.shape, region_shape((times,))[0]), wanted)
        if inside.any():
            found = rows[inside].astype(np.int64)
            if len(found) == len(self.voxels):  # everything: one read is faster than points
                order = np.argsort(found)
                read = numbers.read(slice(0, len(found), 1), times, dtype=wanted, raw=raw)
                target = np.empty((len(found), read.shape[0]), wanted)
                target[order] = read.T
                values[inside] = target
            else:
                values[inside] = numbers.read(found, times, dtype=wanted, raw=raw).T
        return selection.apply(values)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored scan cannot become an array without a copy")
        return np.asarray(self.read(dtype=dtype))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        raise InvalidInputError(
            "iterating would read the scan plane by plane; index it, or use map_parcels"
        )

    @property
    def raw(self) -> RawView:
        """Stored numbers, not scaled: ``scan.raw[32, 40, 20]``."""
        return RawView(cast("Any", self))

    def stored_scaling(self, voxels: AnyArray) -> Scaling | None:
        """Docstring inherited."""
        inside = (self.parcellation.voxel_set.rows(voxels) >= 0).all()
        return self._parts.numbers.scaling if inside else None

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """Docstring inherited."""
        max_memory = parse_size(max_memory)
        numbers = self._parts.numbers
        return SpreadSource(
            self.space,
            self.parcellation.voxel_set,
            lambda: scan_volumes(numbers, max_memory // 2),
            dtype=numbers.matrix.dtype,
            scaling=numbers.scaling,
            nifti=nifti,
        )

    # Summaries ------------------------------------------------------------------------------

    def summary(
        self,
        statistic: Any = "mean",
        *,
        weights: Any = None,
        max_memory: int | str = 1 << 28,
        progress: Progress | None = None,
    ) -> AnyArray:
        """Reduce every parcel to one series.

        Parameters
        ----------
        statistic : {"mean", "median", "sum", "min", "max", "std"} or callable
            A function takes a parcel's numbers (T, V) and returns (T,).
        weights : path, nibabel image, array_like of shape (X, Y, Z) or (V,), optional
            Of the voxels, for means and sums; (V,) goes in order of `voxels`.
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
        reduction = make_reduction(
            statistic, voxel_weights(weights, self.parcellation), self.dtype, len(self.voxels)
        )
        return reduce_numbers(
            self._parts.numbers,
            self.parcellation,
            reduction,
            max_memory=max_memory,
            progress=progress,
        )

    def to_dataframe(self, statistic: Any = "mean", *, weights: Any = None) -> Any:
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

        values = self.summary(statistic, weights=weights)
        return series_frame(values, self.names, tr=self.tr)

    def _facts(self) -> dict[str, str]:
        facts = {
            "scan": repr(self.name),
            "shape": " x ".join(map(str, self.shape)),
            "parcels": f"{self._parts.numbers.shape[0]} voxels in {len(self.table)} parcels",
            "dtype": str(self.dtype),
        }
        if self.tr is not None:
            facts["TR"] = f"TR {self.tr:.4g} s"
        return facts

    # Creating -------------------------------------------------------------------------------

    @classmethod
    def create(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        source: Any,
        *,
        parcellation: Any,
        names: Any = None,
        mask: Any = None,
        name: str = "scan",
        metadata: Mapping[str, Any] | None = None,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        codec: str | None = None,
        profile: Profile | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> Self:
        """Store the series of all voxels that belong to a parcel, and open them.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        source : stored object, path, nibabel image, or array_like of shape (X, Y, Z, T)
            The run, read once. Stored numbers and their scaling are kept.
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
            Repetition time in seconds, for an affine alone.
        slope, inter : float or ndarray (T,), optional
            For arrays of stored numbers.
        codec : str, optional
            Preset; ``"portable"`` for HDF5 and ``"dual"`` for Zarr by default.
        profile : {"r"}, optional
            Write the layout of the R package fmristore.
        overwrite : bool
            Replace what is there, once the new store is complete.
        storage_options : mapping, optional
            Passed to fsspec.
        max_memory : int or str
            Bytes that this may take.
        progress : callable, optional
            Called with the bytes done and in all.

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
        max_memory = parse_size(max_memory)
        if given_matrix(source) is not None:
            raise InvalidInputError("a matrix (T, K) holds no voxels; it makes a summary")
        target = Target(
            url=url,
            codec=codec,
            profile=profile,
            overwrite=overwrite,
            storage_options=storage_options,
            max_memory=max_memory,
            progress=progress,
        )
        request = ScanRequest(
            name=name,
            source=source,
            metadata=metadata or {},
            array={"space": space, "tr": tr, "slope": slope, "inter": inter},
        )
        parcels = make_parcellation(
            parcellation,
            names,
            mask,
            space=space,
            request=request,
            storage_options=storage_options,
        )
        create_scans(target, cls.format_name, parcels, [request])
        return open_created(target, cls)
