"""Data frames of series, labels and metadata, and tables as files; pandas is imported on use."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fmristore_stores.errors import DependencyError, InvalidInputError, SelectionError
from fmristore_stores.io.location import normalise
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.publish import publish_file
from fmristore_stores.publishing.turns import take_turn

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLE_SUFFIXES", "columns_frame", "metadata_frame", "series_frame", "write_table"]

TABLE_SUFFIXES = (".tsv", ".csv", ".parquet")


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
        Names of the columns; 0, 1, ... if there are none.
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
    pd = _pandas()
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


def columns_frame(
    columns: Mapping[str, Any], *, index: Any = None, index_name: str = ""
) -> pd.DataFrame:
    """Columns of equal length as a pandas data frame.

    Parameters
    ----------
    columns : mapping of str to sequence
    index : sequence, optional
        Labels of the rows.
    index_name : str
        What they are.

    Raises
    ------
    DependencyError
        If pandas is not installed.
    InvalidInputError
        If the columns are not sequences of one length.
    """
    pd = _pandas()
    lengths = {
        len(values) if isinstance(values, list | tuple | np.ndarray) else -1
        for values in columns.values()
    }
    if len(lengths) > 1 or -1 in lengths:
        raise InvalidInputError("not a table: its values are not columns of one length")
    rows = None if index is None else pd.Index(index, name=index_name or None)
    return pd.DataFrame({name: list(values) for name, values in columns.items()}, index=rows)


def metadata_frame(metadata: Mapping[str, Any], name: str, *, url: str) -> pd.DataFrame:
    """A table among metadata as a pandas data frame.

    Parameters
    ----------
    metadata : mapping
        A table is a mapping from columns to values.
    name : str
        Of the table.
    url : str
        Where they lie, for messages.

    Raises
    ------
    SelectionError
        If there is nothing of that name.
    InvalidInputError
        If it is no table.
    DependencyError
        If pandas is not installed.
    """
    if name not in metadata:
        known = ", ".join(map(repr, metadata)) or "none"
        raise SelectionError(f"no metadata {name!r}; there are {known}", url=url)
    columns = metadata[name]
    if not isinstance(columns, Mapping):
        raise InvalidInputError(f"the metadata {name!r} are no table", url=url)
    return columns_frame(columns)


def write_table(
    frame: Any,
    url: str | os.PathLike[str],
    *,
    sidecar: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a data frame of series as a file.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `series_frame` makes it.
    url : str or path
        ``.tsv`` as BIDS has it: names of the columns, ``n/a`` for missing values, no times of one
        run, and a ``.json`` beside it. ``.csv`` and ``.parquet`` with the index of the frame.
    sidecar : mapping, optional
        Content of the ``.json``.
    overwrite : bool
        Replace what is there, once the new file is complete.
    storage_options : mapping, optional
        Passed to fsspec.

    Raises
    ------
    AlreadyExistsError
        If there is something at `url` and `overwrite` is false.
    InvalidInputError
        If the name ends in something else, or Parquet cannot hold columns of equal names.
    DependencyError
        If there is no library for Parquet.
    """
    target = normalise(url)
    suffix = next((s for s in TABLE_SUFFIXES if target.lower().endswith(s)), None)
    if suffix is None:
        raise InvalidInputError(
            f"the name of a table must end in {', '.join(TABLE_SUFFIXES)}", url=target
        )
    if suffix == ".parquet" and not frame.columns.is_unique:
        raise InvalidInputError("Parquet holds no two columns of one name: take .tsv", url=target)
    options: dict[str, Any] = {"overwrite": overwrite, "storage_options": storage_options}
    several = frame.index.nlevels > 1
    with contextlib.ExitStack() as files:  # both appear, or none
        pair = suffix == ".tsv" and sidecar is not None
        if pair:
            path = files.enter_context(publish_file(f"{target[: -len(suffix)]}.json", **options))
            text = json.dumps(sidecar, indent=2, ensure_ascii=False) + "\n"
            Path(path).write_text(text, encoding="utf-8")
        path = files.enter_context(publish_file(target, **options))
        if suffix == ".tsv":
            frame.to_csv(path, sep="\t", na_rep="n/a", index=several, lineterminator="\n")
        elif suffix == ".csv":
            frame.to_csv(path, lineterminator="\n")
        else:
            _write_parquet(frame, path)
        if pair:  # of two writers, the table of one must not lie beside the sidecar of the other
            with take_turn(target[: -len(suffix)], storage_options):
                files.close()


def _write_parquet(frame: Any, path: str) -> None:
    try:
        frame.to_parquet(path)
    except ImportError as error:
        raise DependencyError('Parquet needs pyarrow: pip install "fmristore[tables]"') from error


def _pandas() -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise DependencyError('data frames need pandas: pip install "fmristore[tables]"') from error
    return pd
