"""Reducing the voxels of parcels to one series each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.matrix import ScaledMatrix
from fmristore.formats.series_blocks import SeriesBlock, VoxelReader, block_bytes, column_blocks
from fmristore.planning.memory import too_little
from fmristore.planning.progress import Progress
from fmristore.planning.streams import streaming
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = [
    "Reduction",
    "Statistic",
    "accumulate",
    "make_reduction",
    "parcel_blocks",
    "reduce_values",
    "reduce_whole",
    "require_parcels",
    "result_dtype",
    "summarise",
]

Statistic = Literal["mean", "median", "sum", "min", "max", "std"]

"""Value of a parcel at each time; ``std`` divides by the number of voxels."""

Function = Callable[[AnyArray], Any]

"""Takes a parcel's values (T, V) and returns (T,)."""

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reduction:
    """Rule by which the voxels of a parcel become one value.

    Parameters
    ----------
    statistic : str or callable
        A `Statistic`, or a function of a parcel's values (T, V) that returns (T,).
    weights : ndarray of float64, (V,), optional
        Of the voxels, for means and sums.
    """

    statistic: str | Function
    weights: NDArray[np.float64] | None = None

    @property
    def accumulates(self) -> bool:
        """True if blocks can be taken in any order."""
        return self.statistic in _ACCUMULATED

    @property
    def name(self) -> str:
        """Name in attributes."""
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
        Of the data to be reduced.
    count : int
        V.

    Raises
    ------
    InvalidInputError
        If there is no such statistic, it has no weights, the weights are wrong, or the data
        have no such statistic.
    """
    with contextlib.suppress(TypeError):  # not hashable
        statistic = _SAME.get(statistic, statistic)
    if not callable(statistic) and statistic not in get_args(Statistic):
        raise InvalidInputError(
            f"unknown statistic {statistic!r}: there are {', '.join(get_args(Statistic))}, or give "
            "a function of a parcel's values (T, V)"
        )
    if dtype.kind not in "biufc":
        raise InvalidInputError(f"values of type {dtype} have no statistics")
    if dtype.kind == "c" and not callable(statistic) and statistic not in _COMPLEX:
        raise InvalidInputError(f"complex values have no {statistic}")
    if weights is None:
        return Reduction(statistic=statistic)
    if statistic not in ("mean", "sum"):
        raise InvalidInputError("weights are for mean and sum")
    if np.asarray(weights).dtype.kind not in "biuf":
        raise InvalidInputError(f"weights must be real numbers, not {np.asarray(weights).dtype}")
    checked = np.asarray(weights, np.float64)
    if checked.shape != (count,) or not np.isfinite(checked).all() or (checked < 0).any():
        raise InvalidInputError(
            f"weights of shape {checked.shape}: expected {count} finite numbers, none negative, "
            "as numpy.nan_to_num(weights).clip(0) has them"
        )
    return Reduction(statistic=statistic, weights=checked)


def result_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Type that summaries of such values are stored in: float32 where that is what they hold.

    float32 for values of up to 16 bits and float32 itself; float64 for wider ones.
    """
    if dtype.kind == "c":
        return np.dtype("c8") if dtype.itemsize <= 8 else np.dtype("c16")
    small = dtype.itemsize <= (4 if dtype.kind == "f" else 2)
    return np.dtype("f4") if small else np.dtype("f8")


# In blocks -----------------------------------------------------------------------------------
def accumulate(
    blocks: Iterable[SeriesBlock],
    reduction: Reduction,
    parcel_of: NDArray[np.int64],
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> AnyArray:
    """Reduce blocks that together hold every voxel at every time once.

    Parameters
    ----------
    blocks : iterable of SeriesBlock
        In any order.
    reduction : Reduction
        One that accumulates.
    parcel_of : ndarray of int, (V,)
        Position of each voxel's parcel, ascending.
    shape : (int, int)
        Times and parcels.
    dtype : dtype
        Of the data.

    Returns
    -------
    ndarray, (T, K), float64 or complex128
        NaN where a parcel has no voxels or no weight.
    """
    kinds: dict[Any, type[_Sums]] = {"min": _Extremes, "max": _Extremes, "std": _Spread}
    kind = kinds.get(reduction.statistic, _Sums)
    state = kind(reduction, parcel_of, shape, dtype)
    for block in blocks:
        parcels = parcel_of[block.columns]
        if len(parcels):
            starts = np.flatnonzero(np.diff(parcels, prepend=-1))
            with np.errstate(invalid="ignore", over="ignore"):
                state.add(block, parcels[starts], starts)
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

    def add(
        self, block: SeriesBlock, parcels: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> None:
        """Take a block; `starts` are the first columns of the `parcels` in it."""
        values = block.values.astype(self._working)
        if self._weights is not None:
            values *= self._weights[block.columns]
        self._total[block.times, parcels] += np.add.reduceat(values, starts, axis=1)

    def result(self) -> AnyArray:
        """Values (T, K)."""
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

    def add(
        self, block: SeriesBlock, parcels: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> None:
        """Take a block; `starts` are the first columns of the `parcels` in it."""
        found = self._choose.reduceat(block.values, starts, axis=1)
        before = self._total[block.times, parcels]
        self._total[block.times, parcels] = self._choose(before, found)


class _Spread(_Sums):
    """Standard deviation, from the means and squared deviations of parts.

    Combined as in Chan, Golub & LeVeque (1983), The American Statistician 37:242-247, which does
    not lose the small differences of large values.
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

    def add(
        self, block: SeriesBlock, parcels: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> None:
        """Take a block; `starts` are the first columns of the `parcels` in it."""
        values = block.values.astype(np.float64)
        counts = np.diff(starts, append=values.shape[1])
        means = np.add.reduceat(values, starts, axis=1) / counts
        values -= np.repeat(means, counts, axis=1)
        squares = np.add.reduceat(values * values, starts, axis=1)
        at = (block.times, parcels)
        seen, mean = self._seen[at], self._total[at]
        both = seen + counts
        shift = means - mean
        self._total[at] = mean + shift * (counts / both)
        self._squares[at] += squares + shift * shift * (seen * counts / both)
        self._seen[at] = both

    def result(self) -> AnyArray:
        """Values (T, K)."""
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
            f"{reduction.name} returned {found.dtype}{found.shape} for values of shape "
            f"{values.shape}; expected {values.shape[:1]} values"
        )
    return found


_MOST_PARTS = 8
"""Parts of the time in which a large parcel may be read."""
_SHARE = 4
"""Part of the memory, as a divisor, that one block of a parcel may take."""


def summarise(
    reader: VoxelReader,
    parcellation: Parcellation,
    reduction: Reduction,
    *,
    max_memory: int,
    progress: Progress | None = None,
) -> AnyArray:
    """Reduce a run to one series for each parcel, in one pass over it.

    Parameters
    ----------
    reader : VoxelReader
        The labelled voxels of the run, in order of their parcels.
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
    times, dtype = reader.times, reader.scaled_dtype
    if not reduction.accumulates:
        parts = 1 if callable(reduction.statistic) else _MOST_PARTS
        require_parcels(parcellation, times, dtype.itemsize, max_memory, parts=parts)
        with reader.matrix(max_memory) as data:
            return reduce_values(
                data, parcellation, reduction, max_memory=max_memory // 2, progress=progress
            )
    total = len(parcellation.voxels) * times * dtype.itemsize
    with streaming(reader.scaled(reader.blocks(max_memory))) as blocks:
        return accumulate(
            _reported(blocks, total, progress),
            reduction,
            parcellation.parcel_of,
            (times, len(parcellation)),
            dtype,
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
        name = parcellation.names[int(np.argmax(sizes))]
        what = f"parcel {name!r} has {largest} voxels at {times} times"
        raise too_little(what, max_memory, least)


def _reported(
    blocks: Iterable[SeriesBlock], total: int, progress: Progress | None
) -> Iterator[SeriesBlock]:
    done = 0
    for block in blocks:
        yield block
        done += block.values.nbytes
        if progress is not None:
            progress(done, total)


def reduce_values(
    data: ScaledMatrix,
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
    count, times = data.shape
    total = count * times * data.dtype.itemsize
    if reduction.accumulates:
        blocks = column_blocks(data, block_bytes(max_memory, data.dtype))
        return accumulate(
            _reported(blocks, total, progress),
            reduction,
            parcellation.parcel_of,
            (times, len(parcellation)),
            data.dtype,
        )
    result = np.full((times, len(parcellation)), np.nan, np.result_type(data.dtype, np.float64))
    for block in _reported(
        parcel_blocks(data, parcellation, max_memory, whole=callable(reduction.statistic)),
        total,
        progress,
    ):
        columns = block.columns
        assert isinstance(columns, slice)
        parcels = parcellation.parcel_of[columns]
        for k in range(int(parcels[0]), int(parcels[-1]) + 1):
            inside = slice(
                int(parcellation.indptr[k]) - columns.start,
                int(parcellation.indptr[k + 1]) - columns.start,
            )
            if inside.stop > inside.start:
                result[block.times, k] = reduce_whole(reduction, block.values[:, inside])
    return result


def parcel_blocks(
    data: ScaledMatrix, parcellation: Parcellation, max_memory: int, *, whole: bool
) -> Iterator[SeriesBlock]:
    """Pieces of whole parcels, as many as fit; a large one in parts of the time.

    Parameters
    ----------
    data : ScaledMatrix
        Series in order of their parcels.
    parcellation : Parcellation
        The parcels.
    max_memory : int
        Bytes that the blocks may take, with as much again for working on them.
    whole : bool
        Whether every block must have all times.

    Raises
    ------
    MemoryLimitError
        If `whole` and a parcel does not fit.
    """
    times = data.shape[1]
    indptr = parcellation.indptr
    width = data.matrix.dtype.itemsize + data.dtype.itemsize + 8
    limit = max(1, max_memory // 2)
    if whole:
        sizes = np.diff(indptr)
        largest = int(sizes.max(initial=0))
        if largest * times * width > limit:
            name = parcellation.names[int(np.argmax(sizes))]
            what = f"parcel {name!r} takes {largest * times * width} bytes"
            raise too_little(what, max_memory, 2 * largest * times * width)
    k = 0
    while k < len(parcellation):
        room = indptr[k] + limit // max(1, times * width)
        stop = max(k + 1, int(np.searchsorted(indptr, room, side="right")) - 1)
        columns = slice(int(indptr[k]), int(indptr[stop]), 1)
        count = columns.stop - columns.start
        step = times
        if count * times * width > limit:
            step = max(1, limit // (count * width))
        for t0 in range(0, times, step) if count else ():
            part = slice(t0, min(t0 + step, times), 1)
            yield SeriesBlock(part, columns, data.read(columns, part))
        k = stop
