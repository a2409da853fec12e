"""Tables that say what the numbers of a label image stand for, in the forms that atlases use."""

from __future__ import annotations

import csv
import io
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore_stores.errors import InvalidInputError, MemoryLimitError
from fmristore_stores.io.location import normalise
from fmristore_stores.protocol import AnyArray
from fmristore_stores.reference.targets import read_whole
from fmristore_stores.spec import STRING

__all__ = [
    "BACKGROUND",
    "FileAt",
    "LabelTable",
    "as_column",
    "parse_ids",
    "read_table",
    "with_options",
]

BACKGROUND = 0
"""The number that means no parcel."""

_ID_COLUMNS = ("index", "id", "value", "label_id", "parcel_id", "cluster_id", "roi_id", "label")
_NAME_COLUMNS = ("name", "label", "label_name", "region", "region_name", "roi_name", "labels")
_LUT_COLUMNS = ("index", "name", "red", "green", "blue", "alpha")
_LARGEST_FILE = 16 << 20
_LARGEST_ID = 2**31 - 1
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_MISSING = frozenset({"", "n/a", "nan", "na"})

Column = AnyArray
"""One value for each parcel: int64, float64 or text."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelTable:
    """Parcels by number.

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


def _pick(values: Column, rows: Sequence[int]) -> Column:
    """Rows of a column; -1 stands for a row that is not there."""
    if values.dtype.kind == "T":
        texts = values.tolist()
        return np.array(["" if i < 0 else texts[i] for i in rows], STRING)
    known = np.array([i >= 0 for i in rows], bool)
    taken = values[[max(0, i) for i in rows]] if len(values) else np.zeros(len(rows))
    return taken if known.all() else np.where(known, taken.astype(np.float64), np.nan)


def read_table(names: Any, present: NDArray[np.int32]) -> LabelTable:
    """Understand what a user gives as the names of parcels.

    Parameters
    ----------
    names : path, mapping, sequence of str, DataFrame, or None
        A file: BIDS ``_dseg.tsv``, CSV with a header, or a FreeSurfer colour table, told apart by
        their content. A mapping from id to name, or from column name to values. Names alone: one
        for each id that occurs, in ascending order, or (if there are more) the name of id 1, 2, ...
    present : ndarray of int32
        Ids that occur in the image, ascending.

    Returns
    -------
    LabelTable
        Of the ids that the table has; row 0, the background, is left out. A table without names,
        and an empty name, give ``"Parcel <id>"``.

    Raises
    ------
    NotFoundError, StorageError
        If the file cannot be read.
    InvalidInputError
        If it is no such table, an id is not a whole number above 0 or occurs twice, or there are
        not as many names as ids.
    """
    if names is None:
        return LabelTable(np.empty(0, np.int32), ())
    if isinstance(names, LabelTable):
        return names
    names = with_options(names, None)
    if isinstance(names, FileAt):
        return _from_file(names)
    if isinstance(names, Mapping):
        return _from_mapping(names)
    if hasattr(names, "columns") and hasattr(names, "to_dict"):
        return _from_columns({str(k): list(v) for k, v in names.to_dict("list").items()})
    if isinstance(names, Iterable):
        return _from_names(list(names), present)
    raise InvalidInputError(
        f"names must be a file, a mapping or a list of text, not {type(names).__name__}"
    )


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
            number = float(text)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not number.is_integer() or not 0 <= number <= _LARGEST_ID:
            raise InvalidInputError(
                f"{value!r:.80} is no id of a parcel: expected a whole number, 0 to {_LARGEST_ID}",
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
    """Whether a number is not beyond float64."""
    return not isinstance(value, int) or abs(value) <= sys.float_info.max


def _storable(text: str) -> str:
    """Check text that is to be stored."""
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise InvalidInputError(f"{text[:80]!r}: NUL and lone surrogates cannot be stored")
    return text


def _make(
    ids: NDArray[np.int64],
    names: Sequence[str] | None,
    columns: Mapping[str, Column],
    url: str | None = None,
) -> LabelTable:
    """Sort by id, leave the background out, and fill in names."""
    order = np.argsort(ids, kind="stable")
    order = order[ids[order] != BACKGROUND]
    sorted_ids = ids[order].astype(np.int32)
    twice = sorted_ids[1:][np.diff(sorted_ids) == 0]
    if len(twice):
        raise InvalidInputError(f"id {twice[0]} occurs twice in the table", url=url)
    texts = [""] * len(ids) if names is None else [_storable(str(n).strip()) for n in names]
    final = tuple(
        texts[row] or f"Parcel {number}" for row, number in zip(order, sorted_ids, strict=True)
    )
    kept = {
        _storable(name): values[order] for name, values in columns.items() if name and len(values)
    }
    return LabelTable(sorted_ids, final, kept)


def _from_mapping(given: Mapping[Any, Any]) -> LabelTable:
    if given and all(isinstance(key, str) and not _INTEGER.fullmatch(key) for key in given):
        columns = {}
        for key, values in given.items():
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise InvalidInputError(
                    f"names[{key!r}] is {values!r}: expected ids and names ({{id: name}}), or "
                    'columns ({"index": [...], "name": [...]})'
                )
            columns[key] = list(values)
        return _from_columns(columns)
    if not all(isinstance(name, str) for name in given.values()):
        raise InvalidInputError("names of parcels must be text")
    return _make(parse_ids(given), list(given.values()), {})


def _from_names(names: list[Any], present: NDArray[np.int32]) -> LabelTable:
    if not all(isinstance(name, str) for name in names):
        raise InvalidInputError("names of parcels must be text")
    count = len(present)
    if len(names) == count + 1 and names[0].strip().lower() == "background":
        names = names[1:]
    if len(names) == count:
        return _make(present.astype(np.int64), names, {})
    largest = int(present[-1]) if count else 0
    if len(names) >= largest:
        return _make(np.arange(1, len(names) + 1), names, {})
    raise InvalidInputError(
        f"{len(names)} names for {count} labels, the largest of which is {largest}; "
        "give a mapping from id to name, or a table with the ids"
    )


def _from_columns(columns: Mapping[str, Sequence[Any]], url: str | None = None) -> LabelTable:
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise InvalidInputError("the columns of the table differ in length", url=url)
    by_lower = {name.strip().lower(): name for name in reversed(list(columns))}
    found = [by_lower[c] for c in _ID_COLUMNS if c in by_lower]
    of_ids = found[0] if found else None
    of_names = next((by_lower[c] for c in _NAME_COLUMNS if c in by_lower), None)
    if of_ids is None or (of_ids == of_names and len(found) == 1 and _textual(columns[of_ids])):
        raise InvalidInputError(
            f"the table has the columns {', '.join(columns) or '(none)'}; expected one of the ids "
            f"({', '.join(_ID_COLUMNS[:6])}) and one of the names ({', '.join(_NAME_COLUMNS[:4])})",
            url=url,
        )
    if of_names == of_ids:
        of_names = None
    rest = {
        name.strip(): as_column(values)
        for name, values in columns.items()
        if name not in (of_ids, of_names)
    }
    return _make(
        parse_ids(columns[of_ids], url=url),
        None if of_names is None else ["" if n is None else n for n in columns[of_names]],
        rest,
        url,
    )


def _textual(values: Sequence[Any]) -> bool:
    return not all(_like(str(v).strip(), _INTEGER) for v in values)


# Files ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileAt:
    """A file that a user names, with what fsspec needs to reach it."""

    url: str
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)


def with_options(given: Any, storage_options: Mapping[str, Any] | None) -> Any:
    """A path or URL with the options to reach it; everything else as it is."""
    if isinstance(given, str | os.PathLike):
        return FileAt(os.fspath(given), storage_options)
    return given


def _from_file(file: FileAt) -> LabelTable:
    url = normalise(file.url)
    try:
        raw = read_whole(url, file.storage_options, limit=_LARGEST_FILE)
    except MemoryLimitError as error:
        msg = f"larger than {_LARGEST_FILE} bytes: no table of labels"
        raise InvalidInputError(msg, url=url) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError("the table of labels is not text in UTF-8", url=url) from error
    if "\x00" in text:
        raise InvalidInputError("the table of labels is not text: it holds NUL", url=url)
    rows = _rows(text, url)
    if not rows:
        raise InvalidInputError("the table of labels is empty", url=url)
    if _INTEGER.fullmatch(rows[0][0].strip()):  # no header
        header: Sequence[str] = _LUT_COLUMNS
        if any(len(row) > len(header) for row in rows):
            raise InvalidInputError(
                "a table without a header may have the columns " + ", ".join(header), url=url
            )
        header = header[: max(len(row) for row in rows)]
    else:
        header, *rows = rows
    for number, row in enumerate(rows, start=1):
        if len(row) > len(header):
            raise InvalidInputError(
                f"row {number} of the table has {len(row)} values for {len(header)} columns",
                url=url,
            )
    if len({name.strip() for name in header}) != len(header):
        raise InvalidInputError("two columns of the table have the same name", url=url)
    columns = {
        name: [row[i] if i < len(row) else "" for row in rows] for i, name in enumerate(header)
    }
    return _from_columns(columns, url)


def _rows(text: str, url: str) -> list[list[str]]:
    """Rows of a table, separated by tabs, commas, semicolons, or white space (colour tables)."""
    lines = [line for line in text.splitlines() if line.strip()]
    content = [line for line in lines if not line.lstrip().startswith("#")]
    if not content:
        return []
    separator = next((s for s in "\t,;" if s in content[0]), "")
    if not separator:
        return [line.split() for line in content]
    try:
        parsed = list(csv.reader(io.StringIO("\n".join(content)), delimiter=separator))
    except csv.Error as error:
        raise InvalidInputError(f"the table of labels cannot be read: {error}", url=url) from error
    return [row for row in parsed if any(cell.strip() for cell in row)]
