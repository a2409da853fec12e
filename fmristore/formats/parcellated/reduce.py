"""Reducing runs to one series for each parcel, and going through them parcel by parcel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fmristore.formats.parcellated.layout import Numbers
from fmristore.formats.parcellated.series import SeriesSource, block_bytes, column_pieces
from fmristore.formats.parcellated.statistics import Piece, Reduction, accumulate, reduce_whole
from fmristore.planning.progress import Progress
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import MemoryLimitError
from fmristore_stores.protocol import AnyArray

__all__ = ["parcel_pieces", "reduce_numbers", "require_parcels", "summarise"]

_MOST_PARTS = 8
"""Parts of the time in which a large parcel may be read."""
_SHARE = 4
"""Part of the memory, as a divisor, that one piece of a parcel may take."""


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
    numbers: Numbers,
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
    numbers: Numbers, parcellation: Parcellation, max_memory: int, *, whole: bool
) -> Iterator[Piece]:
    """Pieces of whole parcels, as many as fit; a large one in parts of the time.

    Parameters
    ----------
    numbers : Numbers
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
                    f"parcel {parcellation.names[k]!r} takes {count * times * width} bytes, more "
                    f"than {limit} that are allowed for it; raise max_memory"
                )
            step = max(1, limit // (count * width))
        for t0 in range(0, times, step) if count else ():
            part = slice(t0, min(t0 + step, times), 1)
            yield Piece(part, columns, numbers.read(columns, part))
        k = stop
