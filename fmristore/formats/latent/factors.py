"""Basis and loadings as values: what a latent representation is made of, checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.nifti import grid_header, header_in_space
from fmristore.sources.arrays import check_tr
from fmristore.sources.door import is_path, open_if_path, source_of
from fmristore.sources.facts import plain_tables
from fmristore.sources.labelled import matching_columns, positional, voxel_columns
from fmristore.sources.masks import mask_voxels
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import check_attributes

__all__ = [
    "DEFAULT_SCAN",
    "LatentFactors",
    "LatentScanData",
    "check_errors",
    "is_csr",
    "make_factors",
]

DEFAULT_SCAN = "scan_1"
"""Name of a scan that was given none."""

_BAND_BYTES = 16 << 20


def is_csr(matrix: Any) -> bool:
    """True if loadings are a ``scipy.sparse.csr_array``, as `make_factors` makes of sparse ones."""
    return hasattr(matrix, "indptr")


@dataclass(frozen=True, slots=True, eq=False)
class LatentScanData:
    """Data that belong to one scan.

    Parameters
    ----------
    basis : ndarray, (T, K)
        Time course of each component.
    tr : float, optional
        Repetition time in seconds.
    time_offset : float
        Time of the first volume in seconds.
    metadata : mapping
        What else is known of it.
    """

    basis: AnyArray
    tr: float | None = None
    time_offset: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentFactors:
    """Data as ``basis @ loadings.T + offset``, in values of float32 or float64.

    Parameters
    ----------
    voxels : VoxelSet
        V voxels, the rows of `loadings`.
    loadings : array_like or scipy.sparse.csr_array, (V, K)
        Anything dense that has ``shape``, ``dtype`` and slices by rows, or compressed rows.
    scans : dict of str to LatentScanData
        In their order.
    offset : ndarray, (V,), optional
        Added to every time point.
    header : bytes
        NIfTI header of what they stand for; empty if there is none.
    """

    voxels: VoxelSet
    loadings: Any
    scans: dict[str, LatentScanData]
    offset: AnyArray | None = None
    header: bytes = b""

    @property
    def space(self) -> NeuroSpace:
        """Grid of the voxels, without time."""
        return self.voxels.space

    def in_space(self, name: str | None) -> LatentFactors:
        """The same in a space of that name, which the header says too; as they are if None."""
        if name is None or name == self.space.space_name:
            return self
        voxels = VoxelSet(replace(self.space, space_name=name), self.voxels.voxels)
        header = header_in_space(self.header, name) if self.header else b""
        return replace(self, voxels=voxels, header=header)

    @property
    def loadings_dtype(self) -> np.dtype[Any]:
        """Type that the loadings are stored in."""
        return _stored_dtype(self.loadings.dtype, "loadings")

    def bands(self, rows: int) -> Iterator[tuple[int, AnyArray]]:
        """Dense loadings in bands of whole multiples of some number of rows, checked.

        Parameters
        ----------
        rows : int
            That a band has at least, but for the last one.

        Yields
        ------
        start, values : int, ndarray
            First row of the band, and its data.

        Raises
        ------
        InvalidInputError
            If a value is not finite.
        """
        height, width = self.loadings.shape
        dtype = self.loadings_dtype
        step = rows * max(1, _BAND_BYTES // (rows * width * dtype.itemsize))
        for start in range(0, height, step):
            values = np.asarray(self.loadings[start : start + step])
            _require_finite(values, "loadings")
            yield start, values.astype(dtype, copy=False)


def make_factors(  # noqa: PLR0913
    basis: Any,
    loadings: Any,
    *,
    mask: Any = None,
    voxels: Any = None,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | Mapping[str, float] | None = None,
    time_offset: float | Mapping[str, float] | None = None,
    offset: Any = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> LatentFactors:
    """Check what a user gives as a latent representation, and bring it into one form.

    Parameters
    ----------
    basis : array_like, (T, K), or mapping of str to array_like, (T_i, K)
        Of one scan, or of several by name, which share the loadings.
    loadings : array_like or scipy sparse matrix, (V, K)
        Rows in order of `voxels`, or of the mask's voxels in numpy's (C) order.
    mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z), optional
        Voxels that have a row; see `fmristore.sources.masks`.
    voxels : array_like of int, (V, 3), optional
        Indices of these voxels, in place of `mask`.
    space : NeuroSpace or ndarray, (4, 4), optional
        Grid, or its affine; taken from `mask` if that is an image.
    tr : float or mapping of str to float, optional
        Repetition time in seconds, of all scans or by name; that of `space` by default.
    time_offset : float or mapping of str to float, optional
        Time of the first volume in seconds, likewise.
    offset : array_like, (V,), optional
        Added to every time point.
    metadata : mapping of str to mapping, optional
        What else is known of scans, by their names.
    storage_options : mapping, optional
        For a mask given by URL.

    Raises
    ------
    InvalidInputError
        If shapes do not fit, values are not real or not finite, or the grid is not known.
    """
    if (mask is None) == (voxels is None):
        raise InvalidInputError("give either mask or voxels")
    grid, header = _grid(space, mask, storage_options)
    basis = _named_alike(basis, loadings)
    if voxels is None:
        points = mask_voxels(mask, grid, storage_options=storage_options)
    else:
        points = np.asarray(voxel_columns(voxels))
    chosen = VoxelSet(grid, points)
    rows = _loadings(loadings, len(chosen))
    scans = _scans(
        metadata or {},
        basis,
        rows.shape[1],
        grid.tr if tr is None else tr,
        grid.time_offset if time_offset is None else time_offset,
    )
    length = sum(len(scan.basis) for scan in scans.values())
    if grid.time_points not in (None, length):
        raise InvalidInputError(
            f"the space has {grid.time_points} time points, and the basis has {length}"
        )
    return LatentFactors(
        voxels=chosen,
        loadings=rows,
        scans=scans,
        offset=None if offset is None else _offset(offset, len(chosen)),
        header=grid_header(header),
    )


def _named_alike(basis: Any, loadings: Any) -> Any:
    """Bases with their components in the order of the loadings, where tables name them."""
    what = "basis and loadings"
    if not isinstance(basis, Mapping):
        return matching_columns(loadings, basis, what)
    alike = {name: matching_columns(loadings, one, what) for name, one in basis.items()}
    first = next(iter(alike.values()), None)
    return {name: matching_columns(first, one, "the scans") for name, one in alike.items()}


def check_errors(errors: Any, factors: LatentFactors) -> AnyArray:
    """Errors of the voxels, (V,), as values.

    Raises
    ------
    InvalidInputError
        If there is not one finite number for each voxel.
    """
    values = _array(positional(errors, "errors of the voxels"), "voxel_error")
    if values.shape != (len(factors.voxels),):
        raise InvalidInputError(
            f"voxel_error of shape {values.shape}: expected one number for each of "
            f"{len(factors.voxels)} voxels"
        )
    return _numbers(values, "voxel_error")


def _grid(
    space: NeuroSpace | AnyArray | None, mask: Any, storage_options: Mapping[str, Any] | None
) -> tuple[NeuroSpace, bytes]:
    """The grid, and the NIfTI header of the mask that it was taken from, if it has one."""
    if isinstance(space, NeuroSpace):
        return space, b""
    if space is None:
        if mask is None:
            raise InvalidInputError("voxels need space=: the grid that they are voxels of")
        with open_if_path(mask, storage_options) as found:
            own = getattr(found, "space", None)
            if isinstance(own, NeuroSpace):
                header = getattr(found, "source_header", getattr(found, "header", b""))
                return own.without_time(), header
            source = source_of(found)
        return source.space.without_time(), source.header
    if mask is None:
        raise InvalidInputError("with voxels, space= must be a NeuroSpace: an affine has no shape")
    if is_path(mask):
        raise InvalidInputError("a file as mask has its own space: leave space= out")
    shape = mask.shape if hasattr(mask, "shape") else _array(mask, "mask").shape
    if len(shape) < 3:
        raise InvalidInputError(f"a mask of shape {shape}: expected (X, Y, Z)")
    return NeuroSpace(spatial_shape=tuple(shape[:3]), affine=space), b""


def _loadings(loadings: Any, voxels: int) -> Any:
    if hasattr(loadings, "tocsr"):
        from scipy.sparse import csr_array  # whoever has a sparse matrix has scipy

        loadings = csr_array(loadings)
        if not loadings.has_canonical_format:
            loadings = loadings.copy()
            loadings.sum_duplicates()
    elif not (hasattr(loadings, "shape") and hasattr(loadings, "dtype")):
        loadings = _array(loadings, "loadings")
    shape = tuple(loadings.shape)
    if len(shape) != 2 or shape[0] != voxels or not shape[1]:
        hint = "; transpose them" if len(shape) == 2 and shape[1] == voxels else ""
        raise InvalidInputError(
            f"loadings of shape {shape}: expected one row for each of {voxels} voxels, and one "
            f"column for each component{hint}"
        )
    dtype = _stored_dtype(loadings.dtype, "loadings")
    if is_csr(loadings):
        _require_finite(loadings.data, "loadings")
        loadings = loadings.astype(dtype, copy=False)
    return loadings


def _scans(
    metadata: Mapping[str, Any], basis: Any, width: int, tr: Any, time_offset: Any
) -> dict[str, LatentScanData]:
    given = basis if isinstance(basis, Mapping) else {DEFAULT_SCAN: basis}
    if not given:
        raise InvalidInputError("no scans: expected the basis of at least one")
    for what, values in (("tr", tr), ("time_offset", time_offset), ("metadata", metadata)):
        if isinstance(values, Mapping) and not set(values) <= set(given):
            unknown = sorted(map(str, set(values) - set(given)))
            raise InvalidInputError(f"{what} has scans {unknown}, unknown")
    scans = {}
    for name, values in given.items():
        what = f"basis of scan {name!r}"
        courses = _array(values, what)
        if courses.ndim != 2 or courses.shape[1] != width or not len(courses):
            raise InvalidInputError(
                f"{what} has shape {courses.shape}: expected one row for each time point, and "
                f"{width} columns, one for each component of the loadings"
            )
        seconds = tr.get(name) if isinstance(tr, Mapping) else tr
        start = time_offset.get(name, 0.0) if isinstance(time_offset, Mapping) else time_offset
        scans[name] = LatentScanData(
            _numbers(courses, what),
            _tr(seconds),
            _seconds(start),
            check_attributes(plain_tables(metadata.get(name, {}))),
        )
    return scans


def _tr(seconds: Any) -> float | None:
    if seconds is None:
        return None
    value = _seconds(check_tr(seconds), "TR")
    if value <= 0:
        raise InvalidInputError(f"TR {value} s: expected a positive number")
    return value


def _seconds(seconds: Any, what: str = "time offset") -> float:
    try:
        value = float(seconds)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"{what} {seconds!r:.80} is not a number") from error
    if not math.isfinite(value):
        raise InvalidInputError(f"{what} {value} s: expected a finite number")
    return value


def _offset(offset: Any, voxels: int) -> AnyArray:
    values = _array(positional(offset, "offsets of the voxels"), "offset")
    if values.shape != (voxels,):
        raise InvalidInputError(
            f"offset of shape {values.shape}: expected one number for each of {voxels} voxels"
        )
    return _numbers(values, "offset")


def _array(values: Any, what: str) -> AnyArray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InvalidInputError(f"{what}: not an array of values: {error}") from error


def _numbers(values: AnyArray, what: str) -> AnyArray:
    dtype = _stored_dtype(values.dtype, what)
    _require_finite(values, what)
    return values.astype(dtype, copy=False)


def _stored_dtype(given: np.dtype[Any], what: str) -> np.dtype[Any]:
    """float32 for values that it holds exactly, else float64."""
    if given.kind not in "biuf" or given.itemsize > 8:
        raise InvalidInputError(f"{what} of type {given}: expected real numbers of up to 64 bits")
    return np.result_type(given, np.float32).newbyteorder("<")


def _require_finite(values: AnyArray, what: str) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise InvalidInputError(
            f"{what}: {count} values are not finite; one of them would spoil whole volumes or "
            "series, so leave such voxels out of the mask or replace the data"
        )
