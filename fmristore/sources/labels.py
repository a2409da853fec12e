"""Tables that say what the data of a label image stand for, in the forms that atlases use.

`LabelTable` is whole here, with every form it is given in, which makes the module long.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.planning.pictures import facts_html
from fmristore.sources.label_files import (
    ID_COLUMNS,
    NAME_COLUMNS,
    column_key,
    read_label_file,
)
from fmristore.sources.labelled import plain_values
from fmristore_stores.errors import DependencyError, InvalidInputError
from fmristore_stores.io.location import normalise
from fmristore_stores.protocol import AnyArray
from fmristore_stores.shown import shown, shown_url
from fmristore_stores.spec import STRING

__all__ = [
    "BACKGROUND",
    "LabelTable",
    "ParcellationWarning",
    "as_column",
    "as_names",
    "is_background",
    "parse_ids",
    "read_table",
    "warn",
]


class ParcellationWarning(UserWarning):
    """A parcel has no voxels or no name, voxels were left out, or labels were rounded."""


def warn(text: str, category: type[Warning] = ParcellationWarning) -> None:
    """Warn, at the line outside of this package that led here."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("fmristore."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


BACKGROUND = 0
"""The number that means no parcel."""

_BACKGROUNDS = frozenset(
    {"", "background", "unknown", "clearlabel", "none", "nan", "na", "outside", "void", "unlabeled"}
    | {"unassigned", "nolabel", "empty", "exterior", "medialwall", "undefined", "bg", "zero"}
)
_LARGEST_ID = 2**31 - 1
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_MISSING = frozenset({"", "n/a", "nan", "na"})

Column = AnyArray
"""One value for each parcel: int64, float64 or text."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable:
    """Table of parcels: ids, names and further columns.

    Parameters
    ----------
    ids : ndarray of int32, (K,)
        Positive, ascending, all different.
    names : tuple of str
        One for each id; several may be equal.
    columns : mapping
        Further columns by name: arrays (K,) of int64, float64 or text.
    """

    ids: NDArray[np.int32]
    names: tuple[str, ...]
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        some = ", ".join(map(repr, self.names[:3])) + (", ..." if len(self) > 3 else "")
        columns = f"; {', '.join(self.columns)}" if self.columns else ""
        return f"{type(self).__name__}({len(self)} parcels: {shown(some)}{shown(columns)})"

    def _repr_html_(self) -> str:
        few = 10
        rows = {
            str(number): ", ".join(map(str, row))
            for number, *row in zip(
                self.ids[:few].tolist(), self.names, *self.columns.values(), strict=False
            )
        }
        head = ", ".join(("name", *self.columns))
        rest = {"...": f"{len(self) - few} more"} if len(self) > few else {}
        return facts_html(f"{len(self)} parcels", {"id": head, **rows, **rest})

    def with_ids(self, ids: NDArray[np.int32]) -> LabelTable:
        """The table of these ids: known ones as they are, others called ``"Parcel <id>"``.

        Parameters
        ----------
        ids : ndarray of int32
            Ascending, all different.
        """
        row = {int(number): i for i, number in enumerate(self.ids)}
        rows = [row.get(int(number), -1) for number in ids]
        names = tuple(
            self.names[i] if i >= 0 else f"Parcel {number}"
            for i, number in zip(rows, ids.tolist(), strict=True)
        )
        columns = {name: _pick(values, rows) for name, values in self.columns.items()}
        return LabelTable(ids, names, columns)

    def to_dataframe(self) -> Any:
        """Name and further columns of the parcels as a pandas data frame, by id.

        Returns
        -------
        pandas.DataFrame
            With the ids as its index, called ``index``: a table of labels as nilearn takes it.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            msg = 'data frames need pandas: pip install "fmristore[tables]"'
            raise DependencyError(msg) from error
        columns = {"name": list(self.names), **self.columns}
        return pd.DataFrame(columns, index=pd.Index(self.ids, name="index"))

    def sidecar(self, *, tr: float | None, statistic: str, start: float = 0.0) -> dict[str, Any]:
        """Content of the ``.json`` beside a table of series, as BIDS names it.

        Parameters
        ----------
        tr : float, optional
            Repetition time in seconds.
        statistic : str
            What the voxels of a parcel were summarised by.
        start : float
            Time of the first volume in seconds.
        """
        times = {} if tr is None else {"RepetitionTime": tr, "SamplingFrequency": 1 / tr}
        ids = self.ids.tolist()
        columns = {n: {"ParcelIndex": i} for i, n in zip(ids, self.names, strict=True)}
        return {**times, "StartTime": start, "Statistic": statistic, **columns}

    def in_order(self, given: Any, values: AnyArray | None = None) -> AnyArray:
        """Values of the parcels, (..., K), in order of the ids.

        Parameters
        ----------
        given : array_like, (K,) or (T, K), or mapping
            Values; what labels them (keys, index of a Series, columns of a data frame,
            coordinates of a DataArray) is the ids or the names.
        values : ndarray, optional
            The same as an array.

        Raises
        ------
        InvalidInputError
            If the labels are neither the ids nor the names of the parcels, or a mapping has values
            of different lengths.
        """
        if isinstance(given, Mapping):
            given, values = _Labelled(list(given)), _as_columns(given)
        order = _parcel_order(given, self)
        found: AnyArray = plain_values(given) if values is None else values
        return found if order is None else found[..., order]


@dataclass(frozen=True, slots=True)
class _Labelled:
    """Labels of values."""

    index: list[Any]

    def to_dict(self) -> dict[Any, None]:
        """Labels as pandas has them."""
        return dict.fromkeys(self.index)


def _as_columns(given: Mapping[Any, Any]) -> AnyArray:
    """Values of a mapping, (K,) or (T, K)."""
    try:
        return np.array([plain_values(one) for one in given.values()]).T
    except ValueError as error:  # of numpy
        raise InvalidInputError(
            "the values of the mapping differ in shape: expected one value for each parcel, or as "
            "many for each as there are volumes"
        ) from error


_TIMES = ("t", "time", "volume")
_PARCELS = ("parcel", "parcels", "region", "roi", "label")


def _parcel_order(source: Any, table: LabelTable) -> list[int] | None:
    """Place of the value of each parcel among labelled values; None if these have no labels."""
    labels = _column_labels(source)
    if labels is None:
        return None
    for own in (list(table.names), table.ids.tolist(), [str(i) for i in table.ids]):
        if labels == own:
            return None
        if len(set(own)) == len(own) and sorted(map(str, labels)) == sorted(map(str, own)):
            where = {str(label): i for i, label in enumerate(labels)}
            return [where[str(label)] for label in own]
    ids = ", ".join(map(str, table.ids[:3]))
    raise InvalidInputError(
        f"the columns of the series are called {', '.join(map(str, labels[:3]))}, ...; the "
        f"parcels {', '.join(table.names[:3])}, ... (ids {ids}, ...): "
        "rename the columns, or give the array of the series with the columns in order of the ids"
    )


def _column_labels(source: Any) -> list[Any] | None:
    """Names of the values of a Series, data frame, DataArray or stored summary."""
    own = getattr(source, "table", None)
    if isinstance(own, LabelTable):
        return list(own.ids.tolist())
    if isinstance(source, _Labelled):  # keys are given, even where they count from 0
        return source.index
    if hasattr(source, "columns") and hasattr(source, "to_dict"):
        found = list(source.columns)
    elif hasattr(source, "index") and hasattr(source, "to_dict"):
        found = list(source.index)
    elif isinstance(getattr(source, "dims", None), tuple) and hasattr(source, "coords"):
        dims = source.dims
        if len(dims) == 2 and (str(dims[1]).lower() in _TIMES or str(dims[0]).lower() in _PARCELS):
            raise InvalidInputError(
                f"the axes of the series are {dims[0]}, {dims[1]}: expected time first; transpose "
                "them"
            )
        if dims[-1] not in source.coords:
            return None
        found = source.coords[dims[-1]].values.tolist()
    else:
        return None
    return None if found == list(range(len(found))) else found


def _pick(values: Column, rows: Sequence[int]) -> Column:
    """Rows of a column; -1 stands for a row that is not there."""
    if values.dtype.kind == "T":
        texts = values.tolist()
        return np.array(["" if i < 0 else texts[i] for i in rows], STRING)
    known = np.array([i >= 0 for i in rows], bool)
    taken = values[[max(0, i) for i in rows]] if len(values) else np.zeros(len(rows))
    return taken if known.all() else np.where(known, taken.astype(np.float64), np.nan)


def read_table(
    names: Any,
    present: NDArray[np.int32],
    storage_options: Mapping[str, Any] | None = None,
) -> LabelTable:
    """Understand what a user gives as the names of parcels.

    Parameters
    ----------
    names : path, URL, mapping, Series, sequence of str, DataFrame, or None
        A file: see `fmristore.sources.label_files`. A mapping, a pandas Series, or pairs, from id
        to name; a mapping from column name to values, a data frame, or a structured array. Names
        alone: one for each id that occurs, in ascending order, or the names of id 1, 2, ... up to
        the largest that occurs. A first name "Background" is that of id 0.
    present : ndarray of int32
        Ids that occur in the image, ascending.
    storage_options : mapping, optional
        For a URL.

    Returns
    -------
    LabelTable
        Of the ids that the table has; row 0, the background, is left out. A table without names,
        and an empty name, give ``"Parcel <id>"``.

    Warns
    -----
    ParcellationWarning
        If the table has no names, id 0, the background, has the name of a region, or a file is
        not in UTF-8.

    Raises
    ------
    NotFoundError, StorageError
        If the file cannot be read.
    InvalidInputError
        If it is no such table, an id is not a whole number above 0 or occurs twice, names are
        numbers, none of the ids occurs in the image, or there are not as many names as ids.
    """
    if names is None:
        return LabelTable(np.empty(0, np.int32), ())
    if isinstance(names, LabelTable):
        return names
    url = None
    if isinstance(names, str | os.PathLike):
        url = normalise(names)
        found, doubt = read_label_file(url, present, storage_options)
        if doubt:
            warn(f"{shown_url(url)}: {shown(doubt)}")
        table = (
            _from_columns(found, present, url)
            if isinstance(found, dict)
            else _from_names(found, present, url)
        )
    else:
        table = _from_object(names, present)
    if len(present) and len(table) and not np.isin(present, table.ids).any():
        raise InvalidInputError(
            f"none of the ids in the table ({_some(table.ids)}) occurs in the label image "
            f"({_some(present)}): is it the table of another atlas?",
            url=url,
        )
    return table


def _from_object(names: Any, present: NDArray[np.int32]) -> LabelTable:
    """Understand names that are no file."""
    if isinstance(names, Mapping):
        return _from_mapping(names, present)
    if hasattr(names, "coords") and hasattr(names, "to_series"):  # of xarray
        names = names.to_series()
    if hasattr(names, "columns") and hasattr(names, "to_dict"):
        return _from_frame(names, present)
    if hasattr(names, "index") and hasattr(names, "to_dict"):
        return _from_series(names, present)
    if isinstance(names, np.ndarray) and names.dtype.names:
        return _from_columns({name: names[name].tolist() for name in names.dtype.names}, present)
    if not isinstance(names, Iterable) or isinstance(names, set | frozenset):
        raise InvalidInputError(
            f"names must be a file, a mapping or a list of text, not a {type(names).__name__}"
        )
    given = list(names)
    if given and all(
        isinstance(pair, tuple | list | np.ndarray) and len(pair) == 2 for pair in given
    ):
        ids, texts = zip(*given, strict=True)
        return _from_columns({"index": ids, "name": texts}, present)
    return _from_names(given, present)


def _some(ids: AnyArray) -> str:
    few = ", ".join(map(str, ids[:3].tolist()))
    return few + (f", ... {ids[-1]}" if len(ids) > 3 else "")


def parse_ids(values: Any, *, url: str | None = None) -> NDArray[np.int64]:
    """Turn ids in any form into integers from 0 up.

    Raises
    ------
    InvalidInputError
        If one is not a whole number, negative, or beyond 32 bits.
    """
    parsed = []
    for value in values:
        text = str(value).strip() if isinstance(value, str) else value
        try:
            number = math.nan if isinstance(text, str) and "_" in text else float(text)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not number.is_integer() or not 0 <= number <= _LARGEST_ID:
            raise InvalidInputError(
                f"{value!r:.80} is no id of a parcel: expected a whole number, 0 to {_LARGEST_ID}; "
                "leave out rows that are of no label",
                url=url,
            )
        parsed.append(int(number))
    return np.array(parsed, np.int64)


def as_column(values: Sequence[Any]) -> Column:
    """Values of a column as int64, float64 (``n/a`` is NaN), or else as text."""
    texts = [str(v).strip() if isinstance(v, str) else v for v in values]
    if all(_like(v, _INTEGER) for v in texts):
        numbers = [int(v) for v in texts]
        if all(-(2**63) <= number < 2**63 for number in numbers):
            return np.array(numbers, np.int64)
    plain = [math.nan if isinstance(v, str) and v.lower() in _MISSING else v for v in texts]
    known = [v for v in plain if not (isinstance(v, float) and math.isnan(v))]
    if known and all(_like(v, _NUMBER) and _fits(v) for v in known):
        return np.array([float(v) for v in plain], np.float64)
    return np.array(["" if v is None else _storable(str(v)) for v in texts], STRING)


def _like(value: Any, pattern: re.Pattern[str]) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, int | np.integer):
        return True
    if isinstance(value, float | np.floating):
        return pattern is _NUMBER
    return isinstance(value, str) and bool(pattern.fullmatch(value))


def _fits(value: Any) -> bool:
    """Return whether a number is not beyond float64."""
    return not isinstance(value, int) or abs(value) <= sys.float_info.max


def _storable(text: str) -> str:
    """Check text that is to be stored."""
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise InvalidInputError(f"{text[:80]!r}: NUL and lone surrogates cannot be stored")
    return text


def _make(
    ids: NDArray[np.int64],
    names: Sequence[Any] | None,
    columns: Mapping[str, Column],
    url: str | None = None,
) -> LabelTable:
    """Sort by id, leave the background out, and fill in names."""
    order = np.argsort(ids, kind="stable")
    texts = [""] * len(ids) if names is None else as_names(names, url)
    for row in order[ids[order] == BACKGROUND]:
        if not is_background(texts[row]):
            warn(
                f"id 0 is called {texts[row][:80]!r}, and 0 is the background of a label image: "
                "if that is a region, the ids of the table begin at 0 and should begin at 1"
            )
    order = order[ids[order] != BACKGROUND]
    sorted_ids = ids[order].astype(np.int32)
    twice = sorted_ids[1:][np.diff(sorted_ids) == 0]
    if len(twice):
        raise InvalidInputError(f"id {twice[0]} occurs twice in the table", url=url)
    if names is not None:
        _warn_of_nameless(
            [number for row, number in zip(order, sorted_ids, strict=True) if not texts[row]],
            len(order),
        )
    final = tuple(
        texts[row] or f"Parcel {number}" for row, number in zip(order, sorted_ids, strict=True)
    )
    kept = {
        _storable(name): values[order] for name, values in columns.items() if name and len(values)
    }
    return LabelTable(sorted_ids, final, kept)


def _warn_of_nameless(ids: Sequence[int], count: int) -> None:
    """Warn of parcels of a table that have no names, where others have."""
    if ids:
        some = ", ".join(map(str, ids[:3])) + (", ..." if len(ids) > 3 else "")
        warn(
            f"{len(ids)} of {count} parcels of the table have no name (id {some}) and are called "
            f"'Parcel {ids[0]}', ...; pandas reads a name NA as missing unless "
            "keep_default_na=False"
        )


def as_names(values: Sequence[Any], url: str | None = None) -> list[str]:
    """Names as texts without blanks around them; missing ones are empty.

    Raises
    ------
    InvalidInputError
        If one is not text, or all of them are numbers.
    """
    names = []
    for value in values:
        text = value
        if isinstance(value, bytes):
            text = value.decode("utf-8", "replace")
        elif _absent(value):
            text = ""
        if not isinstance(text, str):
            raise InvalidInputError(
                f"names of parcels must be text, not {value!r:.80}; give them as text if they "
                "are meant to be numbers",
                url=url,
            )
        names.append(_storable(text.strip()))
    return names


def _absent(value: Any) -> bool:
    """Return whether a value is missing: None, NaN, or pandas' NA."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def is_background(name: str) -> bool:
    """Return whether a name is one that tables give to id 0."""
    return re.sub(r"[\W_]+", "", name.lower()) in _BACKGROUNDS


def _from_mapping(given: Mapping[Any, Any], present: NDArray[np.int32]) -> LabelTable:
    if given and all(isinstance(key, str) and not _INTEGER.fullmatch(key) for key in given):
        columns = {}
        for key, values in given.items():
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise InvalidInputError(
                    f"names[{key!r}] is {values!r}: expected ids and names ({{id: name}}), or "
                    'columns ({"index": [...], "name": [...]})'
                )
            columns[key] = list(values)
        return _from_columns(columns, present)
    return _make(parse_ids(given), list(given.values()), {})


def _from_series(series: Any, present: NDArray[np.int32]) -> LabelTable:
    """A pandas Series: names by the ids that are its index.

    A column of a data frame has the numbers of its rows as index, which are ids only by chance.
    """
    ids = parse_ids(series.index)
    names = as_names(list(series))
    if type(series.index).__name__ == "RangeIndex" and len(ids) and not np.isin(present, ids).all():
        raise InvalidInputError(
            f"the Series numbers its rows from {ids[0]} to {ids[-1]}, and "
            f"the labels of the image ({_some(present)}) are others: its index must be the ids "
            '(frame.set_index("id")["name"])'
        )
    zeros = np.flatnonzero(ids == BACKGROUND)
    if len(zeros) and not is_background(names[int(zeros[0])]):
        raise InvalidInputError(
            f"the Series has {names[int(zeros[0])][:80]!r} at 0, and 0 is the background: its "
            'index must be the ids (frame.set_index("id")["name"]); give a list for names in '
            "order of their ids"
        )
    return _make(ids, names, {})


def _from_frame(frame: Any, present: NDArray[np.int32]) -> LabelTable:
    """A data frame; its index counts as a column unless it only numbers the rows."""
    columns = {str(k): list(frame[k]) for k in frame.columns}
    if len(columns) != len(frame.columns):
        raise InvalidInputError("two columns of the table have the same name")
    if not hasattr(frame, "index"):  # of polars
        return _from_columns(columns, present)
    name, index = frame.index.name, list(frame.index)
    if isinstance(name, str) and name not in columns:
        columns = {name: index, **columns}
    elif _textual(index) and not any(_is_name_column(k) and _textual(columns[k]) for k in columns):
        columns = {"name": index, **columns}
    elif index != list(range(len(index))) and all(_like(i, _INTEGER) for i in index):
        held = [k for k in columns if column_key(k) in _CALLED_IDS and _integers(columns[k])]
        if not held:
            columns = {"index": index, **columns}
    return _from_columns(columns, present)


def _from_names(given: list[Any], present: NDArray[np.int32], url: str | None = None) -> LabelTable:
    names = as_names(given, url)
    if names and all(_NUMBER.fullmatch(name) for name in names):
        raise InvalidInputError(
            f"the names ({', '.join(names[:3])}, ...) are numbers: give a mapping from id to name",
            url=url,
        )
    if names and is_background(names[0]) and "background" in names[0].lower():
        names = names[1:]
    count = len(present)
    largest = int(present[-1]) if count else 0
    if len(names) == largest:
        return _make(np.arange(1, len(names) + 1), names, {})
    if len(names) == count:
        return _make(present.astype(np.int64), names, {})
    raise InvalidInputError(
        f"{len(names)} names for {count} labels, the largest of which is {largest}; "
        "give a mapping from id to name (dict(enumerate(names, start=1)) if the first name is "
        "that of id 1), or a table with the ids",
        url=url,
    )


_CALLED_IDS = tuple(column_key(name) for name in ID_COLUMNS)
_CALLED_NAMES = tuple(column_key(name) for name in NAME_COLUMNS)


def _is_name_column(name: str) -> bool:
    return column_key(name) in _CALLED_NAMES


def _integers(values: Sequence[Any]) -> bool:
    """Return whether a column could be ids."""
    try:
        return bool(len(values)) and bool(len(parse_ids(values)))
    except InvalidInputError:
        return False


def _textual(values: Sequence[Any]) -> bool:
    """Return whether a column holds texts that are no data."""
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]
    known = [v.strip() for v in texts if isinstance(v, str) and v.strip().lower() not in _MISSING]
    return any(not _NUMBER.fullmatch(v) for v in known)


def _from_columns(
    columns: Mapping[str, Sequence[Any]], present: NDArray[np.int32], url: str | None = None
) -> LabelTable:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise InvalidInputError("the columns of the table differ in length", url=url)
    of_ids = _id_column(columns, present, url)
    of_names = _name_column({k: v for k, v in columns.items() if k != of_ids}, url)
    if of_names is None:
        warn(f"the table has no names of parcels, only the columns {', '.join(columns)}")
    rest = {
        name.strip(): as_column(values)
        for name, values in columns.items()
        if name not in (of_ids, of_names)
    }
    texts = None if of_names is None else [_name_text(n) for n in columns[of_names]]
    return _make(parse_ids(columns[of_ids], url=url), texts, rest, url)


def _name_text(value: Any) -> Any:
    """A name in a column of texts, in which numbers may stand as such."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(value)
    return value


def _id_column(
    columns: Mapping[str, Sequence[Any]], present: NDArray[np.int32], url: str | None
) -> str:
    """Column that holds the ids: by its name if it holds whole numbers, else by what it holds."""
    by_name = {column_key(name): name for name in reversed(list(columns))}
    called = [by_name[c] for c in _CALLED_IDS if c in by_name]
    held = [name for name in called if _integers(columns[name])]
    if not held:
        certain = [name for name in called if not _is_name_column(name)]
        if certain:
            parse_ids(columns[certain[0]], url=url)  # says which one is no id
        held = [name for name in columns if _covers(columns[name], present)]
        if len(held) == 1:
            return held[0]
        raise InvalidInputError(
            f"the table has the columns {', '.join(columns) or '(none)'}; expected one of the ids "
            f"({', '.join(ID_COLUMNS[:6])}) and one of the names ({', '.join(NAME_COLUMNS[:4])})",
            url=url,
        )
    first, *others = held
    if _numeric_rows(columns[first]) or not _covers(columns[first], present):
        # Numbers of the rows, or ids of another image, if another column has those of this one.
        fitting = [name for name in others if _covers(columns[name], present)]
        if fitting and list(parse_ids(columns[fitting[0]])) != list(parse_ids(columns[first])):
            if len(fitting) == 1 and not _covers(columns[first], present):
                return fitting[0]
            names = next((v for k, v in columns.items() if _is_name_column(k)), [""])
            zero = parse_ids(columns[first])[0] == 0 and is_background(str(names[0]))
            zero = zero and parse_ids(columns[fitting[0]])[0] != 0
            if not zero:
                raise InvalidInputError(
                    f"the columns {first} and {fitting[0]} could both be the ids: leave out "
                    "the one that is not, or give a mapping from id to name",
                    url=url,
                )
    return first


def _numeric_rows(values: Sequence[Any]) -> bool:
    """Return whether a column may only number the rows."""
    ids = parse_ids(values)
    return bool(len(ids)) and ids[0] in (0, 1) and bool((np.diff(ids) == 1).all())


def _covers(values: Sequence[Any], present: NDArray[np.int32]) -> bool:
    """Return whether a column has different ids, those that occur among them."""
    if not _integers(values):
        return False
    ids = parse_ids(values)
    return len(np.unique(ids)) == len(ids) and bool(np.isin(present, ids).all())


def _name_column(columns: Mapping[str, Sequence[Any]], url: str | None) -> str | None:
    """Column that holds the names: by its name if it holds text, else the only one of texts."""
    by_name = {column_key(name): name for name in reversed(list(columns))}
    called = [by_name[c] for c in _CALLED_NAMES if c in by_name]
    held = [name for name in called if _textual(columns[name])]
    if held:  # "region" may be the same on the left and the right, and "region name" not
        return next((name for name in held if _all_different(columns[name])), held[0])
    if any(len(columns[name]) for name in called):
        filled = [v for v in columns[called[0]] if str(v).strip().lower() not in _MISSING]
        if filled:
            raise InvalidInputError(
                f"the names in the column {called[0]} are numbers ({filled[0]!r:.40}, ...): "
                "name the column of the names 'name', or give a mapping from id to name",
                url=url,
            )
        return called[0]
    texts = [
        name for name, values in columns.items() if _textual(values) and _all_different(values)
    ]
    if len(texts) > 1:
        texts = [name for name in texts if column_key(name).endswith("name")]
    return texts[0] if len(texts) == 1 else None


def _all_different(values: Sequence[Any]) -> bool:
    return len(set(map(str, values))) == len(values)
