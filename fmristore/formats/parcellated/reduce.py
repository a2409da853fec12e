"""Reducing the voxels of parcels to one series each, and where their series come from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import StoredObject
from fmristore.formats.grid import GridView
from fmristore.formats.matrix import Matrix, MemoryMatrix, ScaledMatrix, ScratchMatrix
from fmristore.formats.opening import opened
from fmristore.model.space import NeuroSpace
from fmristore.planning.blocks import box_shape
from fmristore.planning.indexing import AxisPart
from fmristore.planning.progress import Progress
from fmristore.planning.scratch import Scratch
from fmristore.sources.facts import metadata_of, with_facts
from fmristore.sources.images import ImageSource, image_source
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import InvalidInputError, MemoryLimitError
from fmristore_stores.protocol import AnyArray

__all__ = [
    "Piece",
    "Reduction",
    "ScanKind",
    "SeriesSource",
    "Statistic",
    "accumulate",
    "block_bytes",
    "column_pieces",
    "make_reduction",
    "open_source",
    "parcel_pieces",
    "reduce_numbers",
    "reduce_whole",
    "require_parcels",
    "result_dtype",
    "summarise",
]

ScanKind = Literal["full", "summary"]

"""Whether a scan holds the series of every voxel, or one for each parcel."""

Statistic = Literal["mean", "median", "sum", "min", "max", "std"]

"""What a parcel's voxels become at each time; ``std`` divides by their number."""

Function = Callable[[AnyArray], Any]

"""Takes a parcel's numbers (T, V) and returns (T,)."""

_ACCUMULATED = ("mean", "sum", "min", "max", "std")

_COMPLEX = ("mean", "sum")

_SAME: dict[Any, str] = {
    np.mean: "mean",
    np.median: "median",
    np.sum: "sum",
    np.min: "min",
    np.max: "max",
    np.std: "std",
}

"""Functions that would reduce the whole run to one number, and what is meant by them."""


class Piece(NamedTuple):
    """Numbers of some voxels at some times."""

    times: slice
    columns: slice | NDArray[np.int64]
    """Ascending positions among the voxels."""
    values: AnyArray
    """(times, columns)"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reduction:
    """How the voxels of a parcel become one number.

    Parameters
    ----------
    statistic : str or callable
        A `Statistic`, or a function of a parcel's numbers (T, V) that returns (T,).
    weights : ndarray of float64, (V,), optional
        Of the voxels, for means and sums.
    """

    statistic: str | Function
    weights: NDArray[np.float64] | None = None

    @property
    def accumulates(self) -> bool:
        """Whether pieces can be taken in any order."""
        return self.statistic in _ACCUMULATED

    @property
    def name(self) -> str:
        """What it is called in attributes."""
        if isinstance(self.statistic, str):
            return self.statistic if self.weights is None else f"weighted {self.statistic}"
        return str(getattr(self.statistic, "__name__", type(self.statistic).__name__))


def make_reduction(
    statistic: Any, weights: AnyArray | None, dtype: np.dtype[Any], count: int
) -> Reduction:
    """Check a statistic and weights.

    Parameters
    ----------
    statistic : str or callable
        See `Reduction`.
    weights : ndarray, (V,), optional
        Finite, not negative.
    dtype : dtype
        Of the numbers to be reduced.
    count : int
        V.

    Raises
    ------
    InvalidInputError
        If there is no such statistic, it has no weights, the weights are wrong, or the numbers
        have no such statistic.
    """
    with contextlib.suppress(TypeError):  # not hashable
        statistic = _SAME.get(statistic, statistic)
    if not callable(statistic) and statistic not in get_args(Statistic):
        raise InvalidInputError(
            f"unknown statistic {statistic!r}: there are {', '.join(get_args(Statistic))}, or give "
            "a function of a parcel's numbers (T, V)"
        )
    if dtype.kind not in "biufc":
        raise InvalidInputError(f"numbers of type {dtype} have no statistics")
    if dtype.kind == "c" and not callable(statistic) and statistic not in _COMPLEX:
        raise InvalidInputError(f"complex numbers have no {statistic}")
    if weights is None:
        return Reduction(statistic=statistic)
    if statistic not in ("mean", "sum"):
        raise InvalidInputError("weights are for mean and sum")
    checked = np.asarray(weights, np.float64)
    if checked.shape != (count,) or not np.isfinite(checked).all() or (checked < 0).any():
        raise InvalidInputError(
            f"weights of shape {checked.shape}: expected {count} finite numbers, none negative"
        )
    return Reduction(statistic=statistic, weights=checked)


def result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type that summaries of such numbers are stored in: float32 where that is what they hold.

    float32 for numbers of up to 16 bits and float32 itself; float64 for wider ones.
    """
    if dtype.kind == "c":
        return np.dtype("c8") if dtype.itemsize <= 8 else np.dtype("c16")
    small = dtype.itemsize <= (4 if dtype.kind == "f" else 2)
    return np.dtype("f4") if small else np.dtype("f8")


# In pieces -----------------------------------------------------------------------------------
def accumulate(
    pieces: Iterable[Piece],
    reduction: Reduction,
    parcel_of: NDArray[np.int64],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> AnyArray:
    """Reduce pieces that together hold every voxel at every time once.

    Parameters
    ----------
    pieces : iterable of Piece
        In any order.
    reduction : Reduction
        One that accumulates.
    parcel_of : ndarray of int, (V,)
        Position of each voxel's parcel, ascending.
    shape : (int, int)
        Times and parcels.
    dtype : dtype
        Of the numbers.

    Returns
    -------
    ndarray, (T, K), float64 or complex128
        NaN where a parcel has no voxels or no weight.
    """
    kinds: dict[Any, type[_Sums]] = {"min": _Extremes, "max": _Extremes, "std": _Spread}
    kind = kinds.get(reduction.statistic, _Sums)
    state = kind(reduction, parcel_of, shape, dtype)
    for piece in pieces:
        parcels = parcel_of[piece.columns]
        if len(parcels):
            starts = np.flatnonzero(np.diff(parcels, prepend=-1))
            with np.errstate(invalid="ignore", over="ignore"):
                state.add(piece, parcels[starts], starts)
    return state.result()


class _Sums:
    """Sums and means."""

    def __init__(
        self,
        reduction: Reduction,
        parcel_of: NDArray[np.int64],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
    ) -> None:
        self._statistic = reduction.statistic
        self._weights = reduction.weights
        self._working = np.result_type(dtype, np.float64)
        self._counts = np.bincount(parcel_of, reduction.weights, minlength=shape[1])
        self._voxels = np.bincount(parcel_of, minlength=shape[1])
        self._total = np.zeros(shape, self._working)

    def add(self, piece: Piece, parcels: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        """Take a piece; `starts` are the first columns of the `parcels` in it."""
        values = piece.values.astype(self._working)
        if self._weights is not None:
            values *= self._weights[piece.columns]
        self._total[piece.times, parcels] += np.add.reduceat(values, starts, axis=1)

    def result(self) -> AnyArray:
        """Numbers (T, K)."""
        total = self._total
        if self._statistic == "mean":
            with np.errstate(divide="ignore", invalid="ignore"):
                total = total / self._counts
        total[:, self._voxels == 0] = np.nan
        return total


class _Extremes(_Sums):
    """Smallest or largest; NaN if any number is."""

    def __init__(
        self,
        reduction: Reduction,
        parcel_of: NDArray[np.int64],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
    ) -> None:
        super().__init__(reduction, parcel_of, shape, dtype)
        self._choose = np.minimum if reduction.statistic == "min" else np.maximum
        self._total[:] = np.inf if reduction.statistic == "min" else -np.inf

    def add(self, piece: Piece, parcels: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        """Take a piece; `starts` are the first columns of the `parcels` in it."""
        found = self._choose.reduceat(piece.values, starts, axis=1)
        before = self._total[piece.times, parcels]
        self._total[piece.times, parcels] = self._choose(before, found)


class _Spread(_Sums):
    """Standard deviation, from the means and squared deviations of parts.

    Combined as in Chan, Golub & LeVeque (1983), The American Statistician 37:242-247, which does
    not lose the small differences of large numbers.
    """

    def __init__(
        self,
        reduction: Reduction,
        parcel_of: NDArray[np.int64],
        shape: tuple[int, int],
        dtype: np.dtype[Any],
    ) -> None:
        super().__init__(reduction, parcel_of, shape, dtype)
        self._seen = np.zeros(shape, np.float64)
        self._squares = np.zeros(shape, np.float64)

    def add(self, piece: Piece, parcels: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        """Take a piece; `starts` are the first columns of the `parcels` in it."""
        values = piece.values.astype(np.float64)
        counts = np.diff(starts, append=values.shape[1])
        means = np.add.reduceat(values, starts, axis=1) / counts
        values -= np.repeat(means, counts, axis=1)
        squares = np.add.reduceat(values * values, starts, axis=1)
        at = (piece.times, parcels)
        seen, mean = self._seen[at], self._total[at]
        both = seen + counts
        shift = means - mean
        self._total[at] = mean + shift * (counts / both)
        self._squares[at] += squares + shift * shift * (seen * counts / both)
        self._seen[at] = both

    def result(self) -> AnyArray:
        """Numbers (T, K)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(self._squares / self._seen))


# Whole parcels -------------------------------------------------------------------------------
def reduce_whole(reduction: Reduction, values: AnyArray) -> AnyArray:
    """Reduce all voxels of one parcel, at some times or (for a function) all.

    Parameters
    ----------
    reduction : Reduction
        The statistic.
    values : ndarray, (T, V)
        With V > 0.

    Returns
    -------
    ndarray, (T,)

    Raises
    ------
    InvalidInputError
        If a user's function returns something else.
    """
    if not callable(reduction.statistic):
        return np.asarray(np.median(values.astype(np.float64), axis=1, overwrite_input=True))
    found = np.asarray(reduction.statistic(values))
    if found.shape != values.shape[:1] or found.dtype.kind not in "biufc":
        raise InvalidInputError(
            f"{reduction.name} returned {found.dtype}{found.shape} for numbers of shape "
            f"{values.shape}; expected {values.shape[:1]} numbers"
        )
    return found


_MOST_PARTS = 8
"""Parts of the time in which a large parcel may be read."""
_SHARE = 4
"""Part of the memory, as a divisor, that one piece of a parcel may take."""
_BLOCK_BYTES = 4 * 1024 * 1024


class SeriesSource(Protocol):
    """A run of volumes, read voxel by voxel or in pieces of any shape."""

    space: NeuroSpace
    dtype: np.dtype[Any]
    """Of the scaled numbers."""

    header: bytes
    """NIfTI header of the run; empty if it has none."""
    metadata: Mapping[str, Any]
    """What else is known of the run."""

    def stored_dtype(self, parcellation: Parcellation) -> np.dtype[Any]:
        """Type of the numbers of the matrix of `numbers`, before scaling."""

    def pieces(self, parcellation: Parcellation, max_memory: int) -> Iterator[Piece]:
        """Scaled numbers of all labelled voxels, in the order that is best to read."""

    def numbers(
        self, parcellation: Parcellation, max_memory: int
    ) -> contextlib.AbstractContextManager[ScaledMatrix]:
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
        ``space``, ``slope``, ``inter`` for arrays, and ``tr`` for all: see
        `fmristore.sources.images`; a space without time gets that of the array.

    Raises
    ------
    InvalidInputError
        If it is not a run of numbers.
    """
    given = {name: value for name, value in array.items() if value is not None}
    with opened(source, storage_options) as run:
        if isinstance(run, StoredObject):
            tr = given.pop("tr", None)
            _refuse(given)
            yield with_facts(_stored_source(run), tr=tr)
            return
    space = given.get("space")
    shape = tuple(getattr(source, "shape", ()))
    if isinstance(space, NeuroSpace) and space.time_points is None and len(shape) == 4:
        given["space"] = space.with_time(shape[3], tr=given.pop("tr", None))
    yield _LinearSource(image_source(source, storage_options=storage_options, **given))


def _stored_source(image: Any) -> SeriesSource:
    dense = isinstance(image, GridView) and image.dense_array is not None
    return _DenseSource(image) if dense else _StoredSource(image)


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
        self.header, self.metadata = source.header, metadata_of(source)
        scaling = source.scaling
        self.dtype = source.dtype if scaling is None else scaling.dtype(source.dtype)

    def stored_dtype(self, parcellation: Parcellation) -> np.dtype[Any]:
        """Docstring inherited."""
        del parcellation
        return self._source.dtype

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
    def numbers(self, parcellation: Parcellation, max_memory: int) -> Iterator[ScaledMatrix]:
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
            yield ScaledMatrix(ScratchMatrix(scratch), self._source.scaling)


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

        self.header = image.source_header if isinstance(image, GridView) else b""
        self.metadata = metadata_of(image)

    def stored_dtype(self, parcellation: Parcellation) -> np.dtype[Any]:
        """Docstring inherited."""
        image = self._image
        raw = isinstance(image, GridView) and image.stored_scaling(parcellation.voxels) is not None
        found: np.dtype[Any] = image.raw.dtype if raw else image.dtype
        return found

    @contextlib.contextmanager
    def numbers(self, parcellation: Parcellation, max_memory: int) -> Iterator[ScaledMatrix]:
        """Series of the labelled voxels; read when asked for if they do not fit."""
        voxels = parcellation.voxels
        scaling = None
        if isinstance(self._image, GridView):
            scaling = self._image.stored_scaling(voxels)
        matrix: Matrix = _SeriesMatrix(self._image, voxels, raw=scaling is not None)
        times = self.space.time_points or 0
        if len(voxels) * times * matrix.dtype.itemsize <= max_memory // 2:
            every = slice(0, len(voxels), 1)
            matrix = MemoryMatrix(matrix.read(every, slice(0, times, 1)))
        yield ScaledMatrix(matrix, scaling)

    def pieces(self, parcellation: Parcellation, max_memory: int) -> Iterator[Piece]:
        """Values of all labelled voxels, some voxels after the other."""
        numbers = ScaledMatrix(_SeriesMatrix(self._image, parcellation.voxels))
        yield from column_pieces(numbers, block_bytes(max_memory, self.dtype))


class _DenseSource(_StoredSource):
    """A stored run of volumes, read once in boxes of whole chunks, of which none is kept."""

    def __init__(self, image: Any) -> None:
        super().__init__(image)
        self._reader = image.dense_array.streaming_reader()
        self._scaling = image.scaling

    def stored_dtype(self, parcellation: Parcellation) -> np.dtype[Any]:
        """Docstring inherited."""
        del parcellation
        found: np.dtype[Any] = self._reader.spec.dtype
        return found

    def _box(self, max_memory: int) -> dict[str, int]:
        """Lengths of the boxes by axis."""
        spec, chunks = self._reader.spec, self._reader.chunks
        chunk = math.prod(chunks) * spec.dtype.itemsize
        limit = max(block_bytes(max_memory, spec.dtype), min(chunk, max_memory // 2))
        if chunk > limit:
            limit, share = max_memory, 2
        else:
            share = 1
        size = box_shape(spec.shape, chunks, spec.dtype.itemsize, limit, share=share)
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
        """Values of all labelled voxels, box after box."""
        for piece in self._stored_pieces(parcellation, self._box(max_memory)):
            values = piece.values
            if self._scaling is not None:
                values = self._scaling.apply(values, times=piece.times, axis=0)
            yield piece._replace(values=values)

    @contextlib.contextmanager
    def numbers(self, parcellation: Parcellation, max_memory: int) -> Iterator[ScaledMatrix]:
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
            yield ScaledMatrix(ScratchMatrix(scratch, None if whole else place), self._scaling)


class _SeriesMatrix(Matrix):
    """Series of some voxels of a stored object: numbers meant, or stored ones."""

    def __init__(self, image: Any, voxels: AnyArray, *, raw: bool = False) -> None:
        self._image = image
        self._voxels = voxels
        self._options = {"raw": True} if raw else {}
        self.shape = (len(voxels), int(image.shape[3]))
        self.dtype: np.dtype[Any] = image.raw.dtype if raw else image.dtype

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        found: AnyArray = self._image.series(self._voxels[rows], times=columns, **self._options)
        return found.T


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


def column_pieces(numbers: ScaledMatrix, limit: int) -> Iterator[Piece]:
    """Pieces of some voxels and all times, of at most `limit` bytes or one voxel."""
    count, times = numbers.shape
    every = slice(0, times, 1)
    step = max(1, limit // max(1, times * numbers.dtype.itemsize))
    for start in range(0, count, step):
        columns = slice(start, min(start + step, count), 1)
        yield Piece(every, columns, numbers.read(columns, every))


def summarise(
    source: SeriesSource,
    parcellation: Parcellation,
    reduction: Reduction,
    *,
    max_memory: int,
    progress: Progress | None = None,
) -> AnyArray:
    """Reduce a run to one series for each parcel, in one pass over it.

    Parameters
    ----------
    source : SeriesSource
        The run; on the grid of the parcellation.
    parcellation : Parcellation
        The parcels.
    reduction : Reduction
        What to compute.
    max_memory : int
        Bytes that reading may take besides the result.
    progress : callable, optional
        Called with the bytes of labelled voxels done and in all.

    Returns
    -------
    ndarray, (T, K), float64 or complex128
        NaN for a parcel without voxels.

    Raises
    ------
    MemoryLimitError
        If what is not accumulated would read a parcel too many times; before anything is read.
    """
    times = source.space.time_points or 0
    if not reduction.accumulates:
        parts = 1 if callable(reduction.statistic) else _MOST_PARTS
        require_parcels(parcellation, times, source.dtype.itemsize, max_memory, parts=parts)
        with source.numbers(parcellation, max_memory) as numbers:
            return reduce_numbers(
                numbers, parcellation, reduction, max_memory=max_memory // 2, progress=progress
            )
    pieces = source.pieces(parcellation, max_memory)
    total = len(parcellation.voxels) * times * source.dtype.itemsize
    return accumulate(
        _told(pieces, total, progress),
        reduction,
        parcellation.parcel_of,
        (times, len(parcellation)),
        source.dtype,
    )


def require_parcels(
    parcellation: Parcellation, times: int, itemsize: int, max_memory: int, *, parts: int
) -> None:
    """Refuse to reduce a parcel in more than `parts` parts of the time: each reads its series.

    Raises
    ------
    MemoryLimitError
        With the least that is needed.
    """
    sizes = np.diff(parcellation.indptr)
    largest = int(sizes.max(initial=0))
    least = _SHARE * largest * times * (2 * itemsize + 8) // parts
    if least > max_memory:
        name = parcellation.names[int(sizes.argmax())]
        msg = (
            f"parcel {name!r} has {largest} voxels at {times} times: raise max_memory from "
            f"{max_memory} to at least {least} bytes"
        )
        raise MemoryLimitError(msg)


def _told(pieces: Iterator[Piece], total: int, progress: Progress | None) -> Iterator[Piece]:
    done = 0
    for piece in pieces:
        yield piece
        done += piece.values.nbytes
        if progress is not None:
            progress(done, total)


def reduce_numbers(
    numbers: ScaledMatrix,
    parcellation: Parcellation,
    reduction: Reduction,
    *,
    max_memory: int,
    progress: Progress | None = None,
) -> AnyArray:
    """Reduce series that lie in order of their parcels; as `summarise`.

    Raises
    ------
    MemoryLimitError
        If a function asks for a parcel that does not fit.
    """
    count, times = numbers.shape
    total = count * times * numbers.dtype.itemsize
    if reduction.accumulates:
        pieces = column_pieces(numbers, block_bytes(max_memory, numbers.dtype))
        return accumulate(
            _told(pieces, total, progress),
            reduction,
            parcellation.parcel_of,
            (times, len(parcellation)),
            numbers.dtype,
        )
    result = np.full((times, len(parcellation)), np.nan, np.result_type(numbers.dtype, np.float64))
    for piece in _told(
        parcel_pieces(numbers, parcellation, max_memory, whole=callable(reduction.statistic)),
        total,
        progress,
    ):
        columns = piece.columns
        assert isinstance(columns, slice)
        parcels = parcellation.parcel_of[columns]
        for k in range(int(parcels[0]), int(parcels[-1]) + 1):
            inside = slice(
                int(parcellation.indptr[k]) - columns.start,
                int(parcellation.indptr[k + 1]) - columns.start,
            )
            if inside.stop > inside.start:
                result[piece.times, k] = reduce_whole(reduction, piece.values[:, inside])
    return result


def parcel_pieces(
    numbers: ScaledMatrix, parcellation: Parcellation, max_memory: int, *, whole: bool
) -> Iterator[Piece]:
    """Pieces of whole parcels, as many as fit; a large one in parts of the time.

    Parameters
    ----------
    numbers : ScaledMatrix
        Series in order of their parcels.
    parcellation : Parcellation
        The parcels.
    max_memory : int
        Bytes that the pieces may take, with as much again for working on them.
    whole : bool
        Whether every piece must have all times.

    Raises
    ------
    MemoryLimitError
        If `whole` and a parcel does not fit.
    """
    times = numbers.shape[1]
    indptr = parcellation.indptr
    width = numbers.matrix.dtype.itemsize + numbers.dtype.itemsize + 8
    limit = max(1, max_memory // 2)
    k = 0
    while k < len(parcellation):
        room = indptr[k] + limit // max(1, times * width)
        stop = max(k + 1, int(np.searchsorted(indptr, room, side="right")) - 1)
        columns = slice(int(indptr[k]), int(indptr[stop]), 1)
        count = columns.stop - columns.start
        step = times
        if count * times * width > limit:
            if whole:
                raise MemoryLimitError(
                    f"parcel {parcellation.names[k]!r} takes {count * times * width} bytes: raise "
                    f"max_memory from {max_memory} to at least {2 * count * times * width} bytes"
                )
            step = max(1, limit // (count * width))
        for t0 in range(0, times, step) if count else ():
            part = slice(t0, min(t0 + step, times), 1)
            yield Piece(part, columns, numbers.read(columns, part))
        k = stop
