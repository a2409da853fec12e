"""Runs as loadings x basis, computed where they are read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Self, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.base import StoredObject, describe_scan, describe_space
from fmristore.formats.grid import GridImage
from fmristore.formats.latent.factors import (
    DEFAULT_SCAN,
    LatentFactors,
    LatentScanData,
    check_errors,
    make_factors,
)
from fmristore.formats.latent.layout import LatentParts, ScanParts, read_parts
from fmristore.formats.latent.writer import write_latent
from fmristore.formats.matrix import StoredMatrix, array_bytes, empty_result
from fmristore.formats.opening import opened
from fmristore.formats.profiles import Profile, find_profile
from fmristore.formats.registry import register
from fmristore.formats.voxel_source import VoxelSource, parts_of, voxel_source
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet, parse_series
from fmristore.planning.indexing import parse_selection
from fmristore.planning.text import parse_size
from fmristore_stores.errors import InvalidInputError, MetadataError, SelectionError
from fmristore_stores.io.location import kind_of_name, normalise
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.publish import create_store

__all__ = [
    "LatentNeuroVec",
    "LatentScan",
    "LatentView",
]

_BLOCK_BYTES = 16 << 20

"""Loadings and results that are computed at a time."""


class LatentView(GridImage):
    """One or several scans of a latent representation, indexed ``[x, y, z, t]``.

    A number is ``basis[t] @ loadings[voxel] + offset[voxel]`` in a voxel that has loadings, and 0
    elsewhere. Computed are only the rows and columns that are asked for.
    """

    _handle: Handle
    _parts: LatentParts
    _scans: tuple[ScanParts, ...]

    # What it is -----------------------------------------------------------------------------

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, and TR where all scans have the same one."""
        points = sum(scan.basis.shape[0] for scan in self._scans)
        return self._parts.space.with_time(points, tr=self.tr)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, T); T is that of all scans together."""
        return self.space.shape

    @property
    def ndim(self) -> int:
        """Number of axes: 4."""
        return 4

    @property
    def affine(self) -> AnyArray:
        """(4, 4) float64: voxel indices (0-based) to mm, RAS+."""
        return self._parts.space.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes along x, y, z in mm."""
        return self._parts.space.spacing

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position of voxel (0, 0, 0) in mm."""
        return self._parts.space.origin

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds; None if unknown, or not the same in all scans."""
        found = {scan.tr for scan in self._scans}
        return found.pop() if len(found) == 1 else None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that indexing returns, and that they are computed in.

        float32 if basis, loadings and offset are stored as such (or in small integers), else
        float64.
        """
        stored = [self._parts.loadings.dtype, *(scan.basis.dtype for scan in self._scans)]
        if self._parts.offset is not None:
            stored.append(self._parts.offset.dtype)
        return np.result_type(np.float32, *stored)

    @property
    def n_components(self) -> int:
        """Number of components, K."""
        return self._parts.loadings.shape[1]

    @property
    def n_voxels(self) -> int:
        """Number of voxels that have loadings, V."""
        return self._parts.loadings.shape[0]

    @property
    def basis(self) -> AnyArray:
        """(T, K): time course of each component, scan after scan."""
        return self._basis(slice(0, self.shape[3], 1))

    @property
    def loadings(self) -> StoredMatrix:
        """(V, K): weight of each component in each voxel; read when it is indexed."""
        return self._parts.loadings

    @property
    def offset(self) -> AnyArray | None:
        """(V,): added to every time point; None if there is none."""
        return None if self._parts.offset is None else self._parts.offset.read()

    @property
    def voxels(self) -> NDArray[np.int32]:
        """(V, 3): indices (x, y, z) of the rows of the loadings."""
        return self.voxel_set.voxels

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(X, Y, Z): voxels that have loadings."""
        return self.voxel_set.mask

    @cached_property
    def voxel_set(self) -> VoxelSet:
        """The voxels that have loadings.

        Raises
        ------
        MetadataError
            If one lies outside the grid or occurs twice.
        """
        found = np.asarray(self._parts.voxels)
        try:
            return VoxelSet(self._parts.space, found)
        except InvalidInputError as error:
            raise MetadataError(
                f"the voxels are damaged: {error.message}",
                url=self._handle.locator.url,
                node="voxels",
            ) from error

    @property
    def encoded_bytes(self) -> int:
        """Bytes that basis, loadings, offset and voxels take in the store, encoded."""
        parts = self._parts
        matrices = [parts.voxels, parts.loadings, *(scan.basis for scan in self._scans)]
        offset = 0 if parts.offset is None else array_bytes(parts.offset.array)
        return offset + sum(matrix.encoded_bytes for matrix in matrices)

    @property
    def compression_ratio(self) -> float:
        """Bytes of the whole image (X * Y * Z * T) as plain float32, over `encoded_bytes`."""
        return 4 * math.prod(self.shape) / self.encoded_bytes

    # Reading --------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        return self.read(index)

    def read(self, index: Any = Ellipsis, *, dtype: DTypeLike | None = None) -> Any:
        """Compute a part of the image.

        Parameters
        ----------
        index : int, slice, Ellipsis, None or tuple of them
            numpy's basic indexing, axes (x, y, z, t).
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.

        Returns
        -------
        ndarray or numpy scalar
            A scalar if every axis is given as an integer.

        Raises
        ------
        SelectionError
            If the index does not fit the image.
        CorruptDataError
            If a chunk is damaged or missing.
        MemoryLimitError
            If there is not enough memory for the result.

        Notes
        -----
        Reads the loadings of the voxels in the region and the basis of its volumes.
        """
        selection = parse_selection(index, self.shape)
        *space, times = selection.region
        wanted = self._dtype(dtype)
        grid = self.voxel_set.row_of[tuple(space)]
        length = len(range(times.start, times.stop, times.step))
        result = empty_result((grid.size, length), wanted)
        places = np.flatnonzero(grid.reshape(-1) >= 0)
        rows = grid.reshape(-1)[places].astype(np.int64)
        order = np.argsort(rows)
        for part, values in self._compute(rows[order], times, wanted):
            result[places[order[part]]] = values
        return selection.apply(result.reshape(*grid.shape, length))

    def series(
        self,
        voxels: Any = None,
        *,
        mask: Any = None,
        times: slice | None = None,
        dtype: DTypeLike | None = None,
    ) -> AnyArray:
        """Time series of one voxel, many voxels, or all voxels of a mask.

        Parameters
        ----------
        voxels : (x, y, z) or array_like of int, (n, 3), optional
            One voxel, or many in any order; negative indices count from the end.
        mask : stored volume, nibabel image, path, or array_like of shape (X, Y, Z), optional
            Voxels that are not zero, in place of `voxels`; see `fmristore.sources.masks`.
        times : slice, optional
            Part of the run.
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.

        Returns
        -------
        ndarray, (T,) for one voxel, else (T, n)
            0 in voxels without loadings. For a mask, in order of index with x varying fastest.

        Raises
        ------
        SelectionError
            If a voxel lies outside the image, or `times` is no slice.
        InvalidInputError
            If both or neither of `voxels` and `mask` are given, or the mask does not fit.
        """
        request = parse_series(voxels, mask, times, space=self._parts.space, length=self.shape[3])
        part = request.times
        wanted = self._dtype(dtype)
        rows = self.voxel_set.rows(request.points)
        unique, back = np.unique(rows, return_inverse=True)
        length = part.shape[0]
        found = empty_result((len(unique), length), wanted)
        outside = int(len(unique) > 0 and unique[0] < 0)
        for where, values in self._compute(unique[outside:], part.region[0], wanted):
            found[where.start + outside : where.stop + outside] = values
        result: AnyArray = found[back].T[part.finish]
        return result[:, 0] if request.single else result

    def reconstruction(
        self, *, voxel: Any = None, roi: Any = None, volume: int | None = None
    ) -> AnyArray:
        """One voxel, a region, or a volume: the same as `series` or indexing, by name.

        Parameters
        ----------
        voxel : (x, y, z), optional
            Gives its series, (T,).
        roi : as `mask` of `series`, optional
            Gives the series of its voxels, (T, n).
        volume : int, optional
            Gives that volume, (X, Y, Z).

        Raises
        ------
        InvalidInputError
            If not exactly one of them is given.
        SelectionError
            If it does not fit the image.
        """
        match (voxel is not None, roi is not None, volume is not None):
            case (True, False, False):
                found = self.series(voxel)
                if found.ndim != 1:
                    raise SelectionError("voxel: expected three integers; use series() for many")
                return found
            case (False, True, False):
                return self.series(mask=roi)
            case (False, False, True):
                return cast("AnyArray", self.read((Ellipsis, volume)))
        raise InvalidInputError("give one of voxel=, roi= and volume=")

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a latent image cannot become an array without a copy")
        return cast("AnyArray", self.read(dtype=dtype))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        raise InvalidInputError(
            "iterating would compute the image plane by plane; index it, or take np.asarray(image)"
        )

    def _dtype(self, asked: DTypeLike | None) -> np.dtype[Any]:
        wanted = self.dtype if asked is None else np.dtype(asked)
        if wanted.kind != "f":
            raise InvalidInputError(f"dtype {wanted}: expected a floating-point type")
        return wanted

    def _basis(self, times: slice) -> AnyArray:
        """Rows of the basis in a slice of all time points with positive step."""
        found, first = [], 0
        for scan in self._scans:
            length = scan.basis.shape[0]
            inside = range(times.start, times.stop, times.step)
            inside = inside[_count_below(inside, first) : _count_below(inside, first + length)]
            if inside:
                part = slice(inside[0] - first, inside[-1] - first + 1, times.step)
                found.append(scan.basis.read(part))
            first += length
        return np.concatenate(found) if found else np.empty((0, self.n_components), self.dtype)

    def _compute(
        self, rows: NDArray[np.int64], times: slice, dtype: np.dtype[Any]
    ) -> Iterator[tuple[slice, AnyArray]]:
        """Series (n, T) of voxels given by strictly increasing rows, in blocks."""
        if not len(rows) or times.start == times.stop:
            return
        working = np.result_type(dtype, np.float32)
        courses = self._basis(times).astype(working, copy=False).T
        offset = None if self._parts.offset is None else self._parts.offset.read()
        width = (self.n_components + courses.shape[1]) * working.itemsize
        step = max(1, _BLOCK_BYTES // width)
        for start in range(0, len(rows), step):
            part = slice(start, min(start + step, len(rows)))
            values = self._parts.loadings.take(rows[part]).astype(working, copy=False) @ courses
            if offset is not None:
                values += offset[rows[part], None]
            yield part, values.astype(dtype, copy=False)

    def _facts(self) -> dict[str, str]:
        kind = "sparse " if self.loadings.is_sparse else ""
        facts = {
            "shape": " x ".join(map(str, self.shape)),
            "dtype": str(self.dtype),
            "components": f"{self.n_components} {kind}components",
            "in mask": f"{self.n_voxels} voxels",
            "voxels": " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
        }
        if len(self._scans) > 1:
            facts["scans"] = f"{len(self._scans)} scans"
        if self.tr is not None:
            facts["TR"] = f"TR {self.tr:.4g} s"
        return facts


def _count_below(numbers: range, limit: int) -> int:
    """How many of increasing numbers are below a limit."""
    return len(range(numbers.start, min(numbers.stop, limit), numbers.step))


class LatentScan(LatentView):
    """One scan of a `LatentNeuroVec`, indexed ``[x, y, z, t]`` as the whole is.

    It is closed with the object that it comes from.

    Parameters
    ----------
    handle : Handle
        Store that holds it.
    parts : LatentParts
        Where in the store everything is.
    scan : ScanParts
        Which of the scans.
    """

    def __init__(self, handle: Handle, parts: LatentParts, scan: ScanParts) -> None:
        self._handle = handle
        self._parts = parts
        self._scans = (scan,)

    @property
    def url(self) -> str:
        """Path or URL of the store."""
        return self._handle.locator.url

    @property
    def name(self) -> str:
        """Name of the scan."""
        return self._scans[0].name

    @property
    def metadata(self) -> dict[str, Any]:
        """What else is known of the scan."""
        return dict(self._scans[0].metadata)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was read since."""
        return {name: value for name, value in self.__dict__.items() if name.startswith("_")}

    def __repr__(self) -> str:
        facts = ", ".join(self._facts().values())
        return f"LatentScan({self.name!r} of {self.url!r}, {facts})"


@register("latentneurovec")
class LatentNeuroVec(LatentView, StoredObject):
    """Runs as basis (T, K) x loadings (V, K) + offset (V,), indexed ``[x, y, z, t]``.

    Several scans share loadings and offset; together they are one long run.

    Parameters
    ----------
    handle : Handle
        Store that holds it.
    parts : LatentParts, optional
        Where in the store its parts are; the root group by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.

    Examples
    --------
    >>> import fmristore as fs
    >>> lat = fs.LatentNeuroVec.from_pca("lat.h5", "bold.nii.gz", 20, mask="mask.nii.gz")  # doctest: +SKIP
    >>> lat[32, 40, 20]                                                       # doctest: +SKIP
    """  # noqa: E501

    holds = "basis x loadings (+ offset), such as PCA or ICA makes"
    use_when = "an approximation by some components will do and size matters most"

    def __init__(self, handle: Handle, parts: LatentParts | None = None) -> None:
        super().__init__(handle)
        self._parts = read_parts(handle) if parts is None else parts
        self._scans = self._parts.scans

    # Scans ----------------------------------------------------------------------------------

    @property
    def scan_names(self) -> tuple[str, ...]:
        """Names of the scans, in the order of their time points."""
        return tuple(scan.name for scan in self._scans)

    @property
    def scan_lengths(self) -> tuple[int, ...]:
        """Number of time points of each scan."""
        return tuple(scan.basis.shape[0] for scan in self._scans)

    def scan(self, name: str) -> LatentScan:
        """One scan, indexed as the whole is.

        Raises
        ------
        InvalidInputError
            If there is no scan of that name.
        """
        for scan in self._scans:
            if scan.name == name:
                return LatentScan(self._handle, self._parts, scan)
        raise InvalidInputError(
            f"no scan is called {name!r}; there are {', '.join(map(repr, self.scan_names[:20]))}",
            url=self.url,
        )

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the scans, if there are several."""
        return self.scan_names if len(self._scans) > 1 else ()

    def part(self, name: str) -> LatentScan:
        """Docstring inherited."""
        return self.scan(name)

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        parts = self._parts
        bases = [array for scan in self._scans for array in scan.basis.arrays]
        offset = () if parts.offset is None else (parts.offset.array,)
        return (*parts.loadings.arrays, *bases, *offset)

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        scans = [
            describe_scan(
                s.name, self._parts.space.with_time(s.basis.shape[0], tr=s.tr), self.dtype
            )
            for s in self._scans
        ]
        return self._described(
            {
                "shape": list(self.shape),
                "dtype": str(self.dtype),
                "space": describe_space(self.space),
                "scans": scans,
                "components": self.n_components,
                "loadings": "sparse" if self.loadings.is_sparse else "dense",
                "offset": self._parts.offset is not None,
                "mask": {"voxels": self.n_voxels, "of": math.prod(self.shape[:3])},
                "compression_ratio": self.compression_ratio,
                "reconstruction_error": self.reconstruction_error,
            }
        )

    def check(self) -> None:
        """Docstring inherited."""
        self.voxel_set  # noqa: B018 - reading them checks them
        self.voxel_error  # noqa: B018
        self.loadings.check()

    # Errors of the approximation --------------------------------------------------------------

    @property
    def reconstruction_error(self) -> float | None:
        """Share of the data that the components miss, as it was recorded; None if it was not.

        The root of the sum of squared errors over that of the squared deviations from each
        voxel's mean: 0 is exact.
        """
        value = self.root_attributes.get("reconstruction_error")
        return float(value) if isinstance(value, int | float) else None

    @property
    def voxel_error(self) -> AnyArray | None:
        """(V,): root of the mean squared error in time of each voxel; None if not recorded."""
        if "voxel_error" not in self._handle.store.root.children():
            return None
        return StoredArray(self._handle, "voxel_error").read_small(self.n_voxels)

    # Creating -------------------------------------------------------------------------------

    @classmethod
    def create(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        basis: Any,
        loadings: Any,
        *,
        mask: Any = None,
        voxels: Any = None,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | Mapping[str, float] | None = None,
        offset: Any = None,
        reconstruction_error: float | None = None,
        voxel_error: Any = None,
        codec: str | None = None,
        profile: Profile | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Store a latent representation and open it.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        basis : array_like, (T, K), or mapping of str to array_like, (T_i, K)
            Time courses of one scan, or of several by name.
        loadings : array_like or scipy sparse matrix, (V, K)
            Rows in order of `voxels`, or of the mask's voxels with x varying fastest. What is
            sparse stays so. Dense ones may be anything that slices by rows, such as a memory map.
        mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z), optional
            Voxels that have a row.
        voxels : array_like of int, (V, 3), optional
            Indices of these voxels, in place of `mask`.
        space : NeuroSpace or (4, 4) affine, optional
            Grid; taken from `mask` if that is an image.
        tr : float or mapping of str to float, optional
            Repetition time in seconds, of all scans or by name.
        offset : array_like, (V,), optional
            Added to every time point.
        reconstruction_error : float, optional
            Share of the data that the components miss, to be recorded (not with a profile).
        voxel_error : array_like, (V,), optional
            Root of the mean squared error in time of each voxel, to be recorded likewise.
        codec : str, optional
            Preset; ``"portable"`` for HDF5 and ``"dual"`` for Zarr by default.
        profile : {"r"}, optional
            Write the layout of the R package instead, HDF5 only.
        overwrite : bool
            Replace what is there, once the new store is complete.
        storage_options : mapping, optional
            Passed to fsspec.

        Returns
        -------
        LatentNeuroVec
            Opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If shapes do not fit, or a number is not real or not finite: one NaN would spoil a
            whole volume or series.

        Notes
        -----
        Numbers that float32 holds exactly are stored as float32, others as float64.
        """
        factors = make_factors(
            basis, loadings, mask=mask, voxels=voxels, space=space, tr=tr, offset=offset
        )
        return cls._store(
            url,
            factors,
            codec=codec,
            profile=profile,
            overwrite=overwrite,
            storage_options=storage_options,
            error=reconstruction_error,
            voxel_error=None if voxel_error is None else check_errors(voxel_error, factors),
        )

    def _content(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        scans = {name: self.scan(name) for name in self.scan_names}
        loadings: Any = self.loadings
        if loadings.is_sparse:
            loadings = loadings.to_scipy()
        return ({name: scan.basis for name, scan in scans.items()}, loadings), {
            "voxels": self.voxels,
            "space": self._parts.space.without_time(),
            "tr": {name: scan.tr for name, scan in scans.items() if scan.tr is not None},
            "offset": self.offset,
            "reconstruction_error": self.reconstruction_error,
            "voxel_error": self.voxel_error,
        }

    @classmethod
    def from_pca(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        source: Any,
        n_components: int,
        *,
        mask: Any = None,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        voxel_error: bool = False,
        codec: str | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
    ) -> Self:
        """Store the principal components of a run and open them.

        The offset is each voxel's mean over time, the loadings are the first principal axes of
        the time points, and the basis is the time points in these axes.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        source : path, nibabel image, stored run, or array_like of shape (X, Y, Z, T)
            A path or URL is that of a NIfTI file or a store. Read once.
        n_components : int
            At least 1, and less than T.
        mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z), optional
            Voxels to take; by default those that are stored of a `MaskedNeuroVec`, and all of
            everything else.
        space : NeuroSpace or (4, 4) affine, optional
            Needed for arrays.
        tr : float, optional
            Repetition time in seconds, for an affine alone.
        voxel_error : bool
            Record the error of each voxel too.
        codec, overwrite, storage_options
            As of `create`.
        max_memory : int or str
            Bytes that this may take; a run that does not fit passes through a temporary file.

        Returns
        -------
        LatentNeuroVec
            Opened; `reconstruction_error` tells how good it is.

        Raises
        ------
        InvalidInputError
            If the source is no run, has numbers that are not finite, or `n_components` does not
            fit it.
        MemoryLimitError
            If min(T, V) x min(T, V) products or the components do not fit `max_memory`.

        Notes
        -----
        Exact, of the products of the time points (or of the voxels, where there are fewer) in
        float64; components of less than about 1e-6 of the first one's strength are inaccurate.
        """
        max_memory = parse_size(max_memory)
        from fmristore.formats.latent.pca import principal_components

        with opened(source, storage_options) as image:
            run, voxels = voxel_source(
                image, mask, space=space, tr=tr, storage_options=storage_options
            )
            found = principal_components(
                _scaled_parts(run, voxels, max_memory // 4),
                (run.space.time_points or 1, len(voxels)),
                n_components,
                dtype=_working(run),
                max_memory=max_memory,
            )
        factors = LatentFactors(
            voxels=voxels,
            loadings=found.loadings,
            scans={DEFAULT_SCAN: LatentScanData(found.basis, run.space.tr)},
            offset=found.offset,
        )
        return cls._store(
            url,
            factors,
            codec=codec,
            overwrite=overwrite,
            storage_options=storage_options,
            error=found.error,
            voxel_error=found.voxel_error if voxel_error else None,
        )

    @classmethod
    def _store(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        factors: LatentFactors,
        *,
        codec: str | None = None,
        profile: Profile | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        error: float | None = None,
        voxel_error: AnyArray | None = None,
    ) -> Self:
        """Write checked factors and open them."""
        chosen = codec or ("portable" if kind_of_name(normalise(url)) == "hdf5" else "dual")
        layout = None if profile is None else find_profile(profile, "latent", url)
        with create_store(url, overwrite=overwrite, storage_options=storage_options) as store:
            if layout is not None:
                layout.write_latent(store.root, factors, codec=chosen)
            else:
                write_latent(
                    store.root,
                    factors,
                    capabilities=store.capabilities,
                    codec=chosen,
                    error=error,
                    voxel_error=voxel_error,
                )
        handle = Handle(locate(url, storage_options=storage_options))
        return cls(handle, None if layout is None else layout.read_parts(handle))


def _working(run: VoxelSource) -> np.dtype[Any]:
    """Type that the numbers of a run are kept in: float32 where that holds them."""
    dtype = run.dtype if run.scaling is None else run.scaling.dtype(run.dtype)
    if dtype.kind == "c":
        raise InvalidInputError("principal components are of real numbers")
    return np.result_type(dtype, np.float32)


def _scaled_parts(
    run: VoxelSource, voxels: VoxelSet, max_memory: int
) -> Iterator[tuple[int, int, AnyArray]]:
    """Numbers meant of the voxels, part by part: first volume, first voxel, numbers."""
    for first, voxel, values in parts_of(run, voxels, max_memory):
        if run.scaling is not None:
            times = slice(first, first + len(values))
            values = run.scaling.apply(values, times=times, axis=0)  # noqa: PLW2901
        yield first, voxel, values
