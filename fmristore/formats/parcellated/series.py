"""Where the numbers of a parcellated scan come from: images of any kind, read in parts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import StoredObject
from fmristore.formats.grid import GridImage
from fmristore.formats.image.image import DenseImage
from fmristore.formats.opening import opened
from fmristore.formats.parcellated.layout import Numbers
from fmristore.formats.parcellated.statistics import Matrix, Piece
from fmristore.model.scaling import make_scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.blocks import box_shape
from fmristore.planning.scratch import Scratch
from fmristore.sources.images import ImageSource, image_source
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = [
    "MemoryMatrix",
    "SeriesSource",
    "block_bytes",
    "column_pieces",
    "open_source",
    "scan_volumes",
]

_BLOCK_BYTES = 4 * 1024 * 1024


class SeriesSource(Protocol):
    """A run of volumes, read voxel by voxel or in pieces of any shape."""

    space: NeuroSpace
    dtype: np.dtype[Any]
    """Of the scaled numbers."""

    def pieces(self, parcellation: Parcellation, max_memory: int) -> Iterator[Piece]:
        """Scaled numbers of all labelled voxels, in the order that is best to read."""

    def numbers(
        self, parcellation: Parcellation, max_memory: int
    ) -> contextlib.AbstractContextManager[Numbers]:
        """Series of the labelled voxels, in order of their parcels."""


@contextlib.contextmanager
def open_source(
    source: Any, *, storage_options: Mapping[str, Any] | None = None, **array: Any
) -> Iterator[SeriesSource]:
    """Understand what a user gives as a run; what is opened here is closed again.

    Parameters
    ----------
    source : stored object, path, URL, nibabel image, or array_like of shape (X, Y, Z, T)
        A path or URL is that of a NIfTI file or a store.
    storage_options : mapping, optional
        For a URL.
    **array
        ``space``, ``tr``, ``slope``, ``inter`` for arrays: see `fmristore.sources.images`; a space
        without time gets that of the array.

    Raises
    ------
    InvalidInputError
        If it is not a run of numbers.
    """
    given = {name: value for name, value in array.items() if value is not None}
    with opened(source, storage_options) as run:
        if isinstance(run, StoredObject):
            _refuse(given)
            yield _stored_source(run)
            return
    space = given.get("space")
    shape = tuple(getattr(source, "shape", ()))
    if isinstance(space, NeuroSpace) and space.time_points is None and len(shape) == 4:
        given["space"] = space.with_time(shape[3], tr=given.pop("tr", None))
    yield _LinearSource(image_source(source, storage_options=storage_options, **given))


def _stored_source(image: Any) -> SeriesSource:
    return _DenseSource(image) if isinstance(image, DenseImage) else _StoredSource(image)


def _refuse(given: Mapping[str, Any]) -> None:
    if given:
        raise InvalidInputError(f"{', '.join(given)}: for arrays; a stored object has its own")


def _checked(space: NeuroSpace, dtype: np.dtype[Any]) -> None:
    if space.time_points is None:
        raise InvalidInputError(
            f"a run has the axes x, y, z, t; this image has the shape {space.shape}"
        )
    if dtype.names or dtype.kind not in "biufc":
        raise InvalidInputError("a run is made of numbers, not of colours or text")


class _LinearSource:
    """An image that is read once, front to back."""

    def __init__(self, source: ImageSource) -> None:
        if source.colors:
            raise InvalidInputError("a run is made of numbers, not of colours or text")
        _checked(source.space, source.dtype)
        self._source = source
        self.space = source.space
        scaling = source.scaling
        self.dtype = source.dtype if scaling is None else scaling.dtype(source.dtype)

    def _stored_pieces(self, parcellation: Parcellation, max_bytes: int) -> Iterator[Piece]:
        x, y, z = self.space.spatial_shape
        voxels = parcellation.voxels.astype(np.int64)
        places = voxels[:, 0] + x * (voxels[:, 1] + y * voxels[:, 2])
        for t0, z0, values in self._source.blocks(max_bytes):
            times = slice(t0, t0 + values.shape[0], 1)
            planes = values.shape[-3]
            columns: slice | NDArray[np.int64] = slice(0, len(voxels), 1)
            if planes < z:
                columns = np.flatnonzero((voxels[:, 2] >= z0) & (voxels[:, 2] < z0 + planes))
            flat = values.reshape(values.shape[0], -1)
            yield Piece(times, columns, flat[:, places[columns] - x * y * z0])

    def pieces(self, parcellation: Parcellation, max_memory: int) -> Iterator[Piece]:
        """Scaled numbers of all labelled voxels, in order of time."""
        scaling = self._source.scaling
        for piece in self._stored_pieces(parcellation, block_bytes(max_memory, self._source.dtype)):
            values = piece.values
            if scaling is not None:
                values = scaling.apply(values, times=piece.times, axis=0)
            yield piece._replace(values=values)

    @contextlib.contextmanager
    def numbers(self, parcellation: Parcellation, max_memory: int) -> Iterator[Numbers]:
        """Series of the labelled voxels, gathered in memory or else in a temporary file."""
        times, count = self.space.time_points or 0, len(parcellation.voxels)
        with Scratch((times, count), self._source.dtype, max_memory=max_memory // 2) as scratch:
            row: AnyArray | None = None
            for piece in self._stored_pieces(
                parcellation, block_bytes(max_memory, self._source.dtype)
            ):
                if isinstance(piece.columns, slice):
                    scratch.write((piece.times, piece.columns), piece.values)
                    continue
                # Part of a volume: its voxels are scattered over the columns.
                row = np.empty((1, count), self._source.dtype) if row is None else row
                row[:, piece.columns] = piece.values
                scratch.write((piece.times, slice(0, count, 1)), row)
            yield Numbers(_ScratchMatrix(scratch), self._source.scaling)


class _ScratchMatrix:
    """Series in memory or a temporary file, as rows of voxels or of times.

    Parameters
    ----------
    scratch : Scratch
        (times, voxels), or (voxels, times) if `place` is given.
    place : ndarray of int, (V,), optional
        Which row of the scratch a voxel has.
    """

    def __init__(self, scratch: Scratch, place: NDArray[np.int64] | None = None) -> None:
        self._scratch = scratch
        self._place = place
        first, second = scratch.shape
        self.shape = (second, first) if place is None else (first, second)
        self.dtype = scratch.dtype

    def read(self, rows: slice | NDArray[np.int64], times: slice) -> AnyArray:
        """Numbers (times, rows)."""
        if self._place is None:
            if isinstance(rows, slice):
                return self._scratch.read((times, rows))
            low, high = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
            return self._scratch.read((times, slice(low, high, 1)))[:, rows - low]
        places = self._place[rows]
        order = np.argsort(places)
        runs = np.split(order, np.flatnonzero(np.diff(places[order]) != 1) + 1)
        values = np.empty((len(range(times.start, times.stop)), len(places)), self.dtype)
        for run in runs if len(places) else ():
            first = int(places[run[0]])
            part = self._scratch.read((slice(first, first + len(run), 1), times))
            values[:, run] = part.T
        return values


class _StoredSource:
    """A stored object with series."""

    def __init__(self, image: Any) -> None:
        if len(getattr(image, "shape", ())) != 4 or not hasattr(image, "series"):
            raise InvalidInputError(
                f"{type(image).__name__} is no run: expected an object with the axes x, y, z, t",
                url=image.url,
            )
        self._image = image
        space: NeuroSpace = image.space
        if space.time_points is None:
            space = space.with_time(image.shape[3])
        self.space = space
        self.dtype: np.dtype[Any] = image.dtype
        _checked(space, image.dtype)

    @contextlib.contextmanager
    def numbers(self, parcellation: Parcellation, max_memory: int) -> Iterator[Numbers]:
        """Series of the labelled voxels; read when asked for if they do not fit."""
        voxels = parcellation.voxels
        scaling = None
        if isinstance(self._image, GridImage):
            scaling = self._image.stored_scaling(voxels)
        matrix: Matrix = _SeriesMatrix(self._image, voxels, raw=scaling is not None)
        times = self.space.time_points or 0
        if len(voxels) * times * matrix.dtype.itemsize <= max_memory // 2:
            every = slice(0, len(voxels), 1)
            matrix = MemoryMatrix(matrix.read(every, slice(0, times, 1)))
        yield Numbers(matrix, scaling)

    def pieces(self, parcellation: Parcellation, max_memory: int) -> Iterator[Piece]:
        """Numbers of all labelled voxels, some voxels after the other."""
        numbers = Numbers(_SeriesMatrix(self._image, parcellation.voxels))
        yield from column_pieces(numbers, block_bytes(max_memory, self.dtype))


class _DenseSource(_StoredSource):
    """A stored run of volumes, read once in boxes of whole chunks, of which none is kept."""

    def __init__(self, image: DenseImage) -> None:
        super().__init__(image)
        self._reader = image.primary_arrays[0].streaming_reader()
        self._scaling = make_scaling(image.slope, image.inter, volumes=image.shape[3])

    def _box(self, max_memory: int) -> dict[str, int]:
        """Lengths of the boxes by axis."""
        spec, chunks = self._reader.spec, self._reader.chunks
        chunk = math.prod(chunks) * spec.dtype.itemsize
        limit = max(block_bytes(max_memory, spec.dtype), min(chunk, max_memory // 2))
        size = box_shape(spec.shape, chunks, spec.dtype.itemsize, limit)
        return dict(zip(spec.dims, size, strict=True))

    def _stored_pieces(self, parcellation: Parcellation, size: dict[str, int]) -> Iterator[Piece]:
        *_, end = self.space.shape
        dims = self._reader.spec.dims
        axes = [dims.index(d) for d in "xyzt"]
        for columns in _cells(parcellation.voxels, size):
            voxels = parcellation.voxels[columns]
            first = [int(v) // size[d] * size[d] for v, d in zip(voxels[0], "xyz", strict=True)]
            inside = tuple((voxels - first).T)
            for t0 in range(0, end, size["t"]):
                box = {
                    d: slice(start, min(start + size[d], length), 1)
                    for d, start, length in zip("xyzt", (*first, t0), self.space.shape, strict=True)
                }
                values = self._reader.read(tuple(box[d] for d in dims)).transpose(axes)
                yield Piece(box["t"], columns, values[inside].T)

    def pieces(self, parcellation: Parcellation, max_memory: int) -> Iterator[Piece]:
        """Numbers of all labelled voxels, box after box."""
        for piece in self._stored_pieces(parcellation, self._box(max_memory)):
            values = piece.values
            if self._scaling is not None:
                values = self._scaling.apply(values, times=piece.times, axis=0)
            yield piece._replace(values=values)

    @contextlib.contextmanager
    def numbers(self, parcellation: Parcellation, max_memory: int) -> Iterator[Numbers]:
        """Stored series of the labelled voxels, gathered in memory or else a temporary file."""
        times, count = self.space.time_points or 0, len(parcellation.voxels)
        size = self._box(max_memory)
        cells = _cells(parcellation.voxels, size)
        whole = len(cells) == 1  # boxes of whole volumes arrive in order of time
        order = np.concatenate(cells)
        place = np.empty(count, np.int64)
        place[order] = np.arange(count)
        shape = (times, count) if whole else (count, times)
        with Scratch(shape, self._reader.spec.dtype, max_memory=max_memory // 2) as scratch:
            for piece in self._stored_pieces(parcellation, size):
                columns = piece.columns
                assert not isinstance(columns, slice)
                first = int(place[columns[0]])
                rows = slice(first, first + len(columns), 1)
                if whole:
                    scratch.write((piece.times, rows), piece.values)
                else:
                    scratch.write((rows, piece.times), piece.values.T)
            yield Numbers(_ScratchMatrix(scratch, None if whole else place), self._scaling)


class MemoryMatrix:
    """Series in memory, (times, voxels or parcels)."""

    def __init__(self, values: AnyArray) -> None:
        self._values = values
        self.shape = (values.shape[1], values.shape[0])
        self.dtype = values.dtype

    def read(self, rows: slice | NDArray[np.int64], times: slice) -> AnyArray:
        """Numbers (times, rows)."""
        return self._values[times, rows]


class _SeriesMatrix:
    """Series of some voxels of a stored object: numbers meant, or stored ones."""

    def __init__(self, image: Any, voxels: AnyArray, *, raw: bool = False) -> None:
        self._image = image
        self._voxels = voxels
        self._options = {"raw": True} if raw else {}
        self.shape = (len(voxels), int(image.shape[3]))
        self.dtype: np.dtype[Any] = image.raw.dtype if raw else image.dtype

    def read(self, rows: slice | NDArray[np.int64], times: slice) -> AnyArray:
        """Numbers (times, rows)."""
        found: AnyArray = self._image.series(self._voxels[rows], times=times, **self._options)
        return found


def _cells(voxels: NDArray[np.int32], size: dict[str, int]) -> list[NDArray[np.int64]]:
    """Positions of the voxels that lie in the same box of a grid, ascending, for each such box."""
    cells = voxels // [size[d] for d in "xyz"]
    order = np.lexsort(cells.T)
    changes = (np.diff(cells[order], axis=0) != 0).any(axis=1)
    return np.split(order, np.flatnonzero(changes) + 1)


def block_bytes(max_memory: int, dtype: np.dtype[Any]) -> int:
    """Stored bytes to take at once: reducing them takes several float64 for each number.

    Parameters
    ----------
    max_memory : int
        Bytes that reading and reducing may take.
    dtype : dtype
        Of the stored numbers.
    """
    return max(1, min(_BLOCK_BYTES, max_memory * dtype.itemsize // 64))


def column_pieces(numbers: Numbers, limit: int) -> Iterator[Piece]:
    """Pieces of some voxels and all times, of at most `limit` bytes or one voxel."""
    count, times = numbers.shape
    every = slice(0, times, 1)
    step = max(1, limit // max(1, times * numbers.dtype.itemsize))
    for start in range(0, count, step):
        columns = slice(start, min(start + step, count), 1)
        yield Piece(every, columns, numbers.read(columns, every))


def scan_volumes(numbers: Numbers, max_memory: int) -> Iterator[tuple[int, AnyArray]]:
    """Stored numbers as volumes of voxels, turned around in memory or else a temporary file."""
    count, times = numbers.shape
    dtype = numbers.matrix.dtype
    every = slice(0, times, 1)
    with Scratch((times, count), dtype, max_memory=max_memory // 2) as scratch:
        step = max(1, max_memory // 4 // max(1, times * dtype.itemsize))
        for start in range(0, count, step):
            columns = slice(start, min(start + step, count), 1)
            scratch.write((every, columns), numbers.read(columns, every, raw=True))
        step = max(1, max_memory // 4 // max(1, count * dtype.itemsize))
        for start in range(0, times, step):
            part = slice(start, min(start + step, times), 1)
            yield start, scratch.read((part, slice(0, count, 1)))
