"""Reading ``basis @ loadings.T + offset`` as a 4D image, computing only what is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.grid_image import GridImage
from fmristore.formats.latent_parts import LatentParts, ScanParts
from fmristore.formats.matrices import StoredMatrix, array_bytes, empty_result
from fmristore.indexing import parse_selection
from fmristore.space import NeuroSpace
from fmristore.voxels import VoxelSet, parse_series
from fmristore_stores.errors import InvalidInputError, MetadataError, SelectionError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray

__all__ = ["LatentView"]

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
            Voxels that are not zero, in place of `voxels`; see `fmristore.masks`.
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
