"""Data frames of series; pandas is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fmristore_stores.errors import DependencyError
from fmristore_stores.protocol import AnyArray

__all__ = ["series_frame"]


def series_frame(
    values: AnyArray,
    columns: Sequence[str],
    *,
    times: AnyArray | None = None,
    runs: Sequence[tuple[str, int, AnyArray | None]] | None = None,
) -> Any:
    """Series as a pandas data frame.

    Parameters
    ----------
    values : ndarray, (T, n)
        One column for each series.
    columns : sequence of str
        Names of the columns, numbers if there are none.
    times : ndarray, (T,), optional
        Of the rows, in seconds; the index is then ``time``, else ``volume``.
    runs : sequence of (str, int, ndarray or None), optional
        Names, lengths and `times` of runs that the rows are of; the index is then ``scan`` and
        ``time``, or ``scan`` and ``volume`` if the times of a run are unknown.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    DependencyError
        If pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise DependencyError("data frames need pandas: pip install pandas") from error
    if runs is not None:
        timed = all(seconds is not None for _, _, seconds in runs)
        pairs = [
            (name, seconds[volume] if timed and seconds is not None else volume)
            for name, length, seconds in runs
            for volume in range(length)
        ]
        names = ["scan", "time" if timed else "volume"]
        index: Any = pd.MultiIndex.from_tuples(pairs, names=names)
    elif times is None:
        index = pd.RangeIndex(len(values), name="volume")
    else:
        index = pd.Index(times, name="time")
    return pd.DataFrame(values, index=index, columns=list(columns) or None)
