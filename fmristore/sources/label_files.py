"""Files that name the ids of a label image, in the forms that atlases and programs have.

Known are tables with a header (BIDS ``_dseg.tsv``, CSV of Schaefer's centroids, ...), colour tables
(FreeSurfer, FSLeyes, ITK-SNAP, label lists of Connectome Workbench), the XML of FSL and AAL, tables
without a header, and names alone. They are reported apart by what they hold.
"""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from fmristore_stores.errors import InvalidInputError, MemoryLimitError
from fmristore_stores.io.whole import read_whole
from fmristore_stores.limits import check_values

__all__ = ["ID_COLUMNS", "NAME_COLUMNS", "column_key", "read_label_file"]

ID_COLUMNS = (
    "index",
    "id",
    "value",
    "label_id",
    "parcel_id",
    "cluster_id",
    "roi_id",
    "label_index",
    "label_value",
    "region_id",
    "roi_label",
    "roi",
    "no",
    "idx",
    "intensity",
    "region_number",
    "label_number",
    "roi_number",
    "structure_id",
    "parcel_index",
    "roi_index",
    "key",
    "number",
    "label",
)
"""Names of columns of ids, those that are surest first."""
NAME_COLUMNS = (
    "name",
    "label",
    "label_name",
    "region",
    "region_name",
    "roi_name",
    "labels",
    "names",
    "structure",
    "structure_name",
    "parcel_name",
    "area_name",
)
"""Names of columns of names."""

_LARGEST_FILE = 16 << 20
_MOST_CELLS = 1 << 22
"""Cells that the rows of a table have when all are as long as the longest."""
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
_WHOLE = r"\d{1,18}(?:\.0*)?"
_COLOUR = ("red", "green", "blue", "alpha")
_HEADERS = frozenset({"name", "names", "label", "labels", "region", "roi_name", "roi name"})

_DECLARED = frozenset({"iso-8859-1", "iso8859-1", "latin-1", "latin1", "windows-1252", "cp1252"})
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x81\x8d\x8f\x90\x9d]")
"""Bytes that no text in Windows-1252 has."""

_JSON = re.compile(r"""\s*(?:\{|\[\s*["{])""")
"""Beginning of an object, or of a list of objects or texts."""
_NOT_TEXT = (
    "the table of labels is not text: save it as CSV or TSV in UTF-8, or give a data frame "
    "(pandas.read_excel of a workbook), or a mapping from id to name"
)

Columns = dict[str, list[str]]

_FREESURFER = re.compile(rf"(\d+)\s+(\S+)\s+({_NUMBER}(?:\s+{_NUMBER}){{2,4}})")
_FSLEYES = re.compile(rf"(\d+)\s+({_NUMBER}\s+{_NUMBER}\s+{_NUMBER})\s+(\S.*)")
_ITKSNAP = re.compile(rf'(\d+)\s+(\d+\s+\d+\s+\d+\s+{_NUMBER})\s+[01]\s+[01]\s+"(.*)"')
_MRTRIX = re.compile(rf"(\d+)\s+(\S+)\s+(\S+)\s+({_NUMBER}(?:\s+{_NUMBER}){{3}})")
_MARKED = re.compile(r"(?P<id>\d+)\s*[:=.)]\s*(?P<name>\D.*)")
"""Id and name of a list such as ``1: name``."""
_COLUMNS = "# ColHeaders"
"""Beginning of the comment that is the header of FreeSurfer's statistics."""
_BEHIND = re.compile(r"(\d{1,18})(?:\s*[:=]\s*|\s+)(\S.*)")
"""Id and name of a list such as ``name 1`` or ``name: 1``, both backwards: the search for the end
of a name would take the square of the length of a line."""
_ALONE = re.compile(r"(?<!\w)\d{1,10}(?!\w)")
"""Numbers that are no parts of words, such as V1."""
_AFNI = re.compile(r'"(\d+)"\s+"([^"]*)"')
_WORKBENCH = re.compile(r"(\d+)\s+(\d+\s+\d+\s+\d+\s+\d+)")


def read_label_file(
    url: str, present: NDArray[np.int32], storage_options: Mapping[str, Any] | None = None
) -> tuple[Columns | list[str], str]:
    """Columns of a table of labels, or its names if it has nothing else; and what is doubtful.

    Parameters
    ----------
    url : str
        Path or URL.
    present : ndarray of int32
        Ids that occur in the image: they tell which of two columns has the ids.
    storage_options : mapping, optional
        For a URL.

    Raises
    ------
    NotFoundError, StorageError
        If the file cannot be read.
    InvalidInputError
        If it is no table of labels, or larger than 16 MiB.
    """
    text, doubt = _text(url, storage_options)
    if text.lstrip().startswith("<") or _JSON.match(text):
        try:
            check_values(text)
        except MemoryLimitError as error:
            raise InvalidInputError(f"no table of labels: {error.message}", url=url) from error
    return _parsed(text, present, url), doubt


def _parsed(text: str, present: NDArray[np.int32], url: str) -> Columns | list[str]:
    """Columns of a table, or names alone."""
    if text.lstrip().startswith("<"):
        return _xml(text, url)
    if _JSON.match(text):
        return _json(text, url)
    lines = [line.strip(" \r\n\f\v") for line in text.splitlines() if line.strip()]
    found = _workbench(lines) or _statistics(lines, url)
    if found is not None:
        return found
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    if not lines:
        raise InvalidInputError("the table of labels is empty", url=url)
    found = _colours(lines)
    if found is not None:
        return found
    separator = next((s for s in "\t,;|" if s in lines[0]), "")
    if separator == "|" and not _is_barred(lines, present):
        return list(lines)
    if not separator or (separator != "\t" and all(re.match(r"\d+\s+[^\s,;]", x) for x in lines)):
        return _spaced(lines, present, url)
    rows = _rows(lines, separator, url)
    if not rows:
        raise InvalidInputError("the table of labels is empty", url=url)
    if not any(re.fullmatch(_WHOLE, cell.strip()) for cell in rows[0]):
        header, *rows = rows
        return _under(header, rows, url)
    return _bare(rows, present, url)


def _text(url: str, storage_options: Mapping[str, Any] | None) -> tuple[str, str]:
    """Text of a file, and what is doubtful about it."""
    try:
        raw = read_whole(url, storage_options, limit=_LARGEST_FILE)
    except MemoryLimitError as error:
        msg = f"larger than {_LARGEST_FILE} bytes: no table of labels"
        raise InvalidInputError(msg, url=url) from error
    text, doubt = _decoded(raw, url)
    if "\x00" in text or text.startswith("PK\x03\x04"):
        raise InvalidInputError(_NOT_TEXT, url=url)
    return text, doubt


def _decoded(raw: bytes, url: str) -> tuple[str, str]:
    """Text in UTF-8, in what XML declares, or else in the one byte a letter of Windows."""
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode("utf-8-sig"), ""
    declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.\-]{1,20})["']""", raw)
    if declared and declared[1].decode().lower() in _DECLARED:
        return raw.decode("cp1252", "replace"), ""
    utf_16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not utf_16 and _NO_TEXT.search(raw):
        raise InvalidInputError(_NOT_TEXT, url=url)
    if utf_16:
        msg = "the table of labels is text in UTF-16: save it as CSV or TSV in UTF-8"
        raise InvalidInputError(msg, url=url)
    text = raw.decode("cp1252")
    line = next(line for line in text.splitlines() if not line.isascii())
    return text, (
        "the table of labels is not in UTF-8 and was read as Windows-1252 (Latin-1), by which a "
        f"line of it is {line.strip()[:80]!r}; if that is wrong, save it as UTF-8"
    )


# Tables of colours ----------------------------------------------------------------------------


def _workbench(lines: Sequence[str]) -> Columns | None:
    """A line with the name, then one with id and colour."""
    if len(lines) < 2 or len(lines) % 2:
        return None
    colours = [_WORKBENCH.fullmatch(line) for line in lines[1::2]]
    if any(_WORKBENCH.fullmatch(line) for line in lines[::2]):
        return None
    found = [match.groups() for match in colours if match is not None]
    if len(found) != len(colours):
        return None
    return _coloured([(i, name, rgb) for (i, rgb), name in zip(found, lines[::2], strict=True)])


def _statistics(lines: Sequence[str], url: str) -> Columns | None:
    """Rows of FreeSurfer's ``aseg.stats``, whose header is a comment."""
    header = next((line.split()[2:] for line in lines if line.startswith(_COLUMNS)), None)
    if header is None:
        return None
    if not {"SegId", "StructName"} <= set(header):
        raise InvalidInputError(
            f"statistics of FreeSurfer with the columns {', '.join(header)[:200]}, without the ids "
            "of the structures (SegId): give the colour table, such as FreeSurferColorLUT.txt",
            url=url,
        )
    rows = [line.split() for line in lines if not line.startswith("#")]
    columns = _under(header, rows, url)
    columns.pop("Index", None)
    return {"index": columns.pop("SegId"), "name": columns.pop("StructName"), **columns}


def _colours(lines: Sequence[str]) -> Columns | None:
    """Rows of FreeSurfer (id, name, colour), ITK-SNAP or FSLeyes (id, colour, name)."""
    for pattern, name, colour in (
        (_FREESURFER, 2, 3),
        (_MRTRIX, 3, 4),
        (_ITKSNAP, 3, 2),
        (_FSLEYES, 3, 2),
    ):
        found = [match for line in lines if (match := pattern.fullmatch(line)) is not None]
        rows = _without_alpha([(m[1], m[name], m[colour]) for m in found])
        if pattern is _MRTRIX and not _all_different(found):
            rows = [(m[1], f"{m[2]} {m[3]}", m[4]) for m in found]
        texts = [text for _, text, _ in rows if not re.fullmatch(rf"[\d\s.]*|{_NUMBER}", text)]
        if len(rows) == len(lines) and texts:
            return _coloured(rows)
    return None


def _all_different(rows: Sequence[re.Match[str]]) -> bool:
    """True if short names and names are, each among themselves; else they are words of one name."""
    return all(len({row[k] for row in rows}) == len(rows) for k in (2, 3))


def _without_alpha(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Rows whose names are all preceded by a number, which is the fourth of the colour."""
    found = [re.fullmatch(rf"({_NUMBER})\s+(\S.*)", name) for _, name, _ in rows]
    matches = [match for match in found if match is not None]
    if len(matches) != len(rows):
        return rows
    return [(i, m[2], f"{rgb} {m[1]}") for (i, _, rgb), m in zip(rows, matches, strict=True)]


def _coloured(rows: Sequence[tuple[str, str, str]]) -> Columns:
    columns: Columns = {"index": [i for i, _, _ in rows], "name": [name for _, name, _ in rows]}
    parts = [colour.split() for _, _, colour in rows]
    for k, name in enumerate(_COLOUR[: max(map(len, parts))]):
        columns[name] = [part[k] if k < len(part) else "" for part in parts]
    return columns


# Rows -----------------------------------------------------------------------------------------


def _rows(lines: Sequence[str], separator: str, url: str) -> list[list[str]]:
    try:
        parsed = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator))
    except csv.Error as error:
        raise InvalidInputError(f"the table of labels cannot be read: {error}", url=url) from error
    rows = [row for row in parsed if any(cell.strip() for cell in row)]
    if len(rows) * max(map(len, rows), default=0) > max(_MOST_CELLS, sum(map(len, rows))):
        raise InvalidInputError("some rows of the table are far longer than others", url=url)
    return rows


def column_key(name: str) -> str:
    """Name of a column as it is looked up."""
    return re.sub(r"[\s.:\-_]+", "", name.strip().lower())


def _is_barred(lines: Sequence[str], present: NDArray[np.int32]) -> bool:
    """Return whether bars separate columns; they may also stand in names, as ``LH|Vis``."""
    known = {column_key(name) for name in (*ID_COLUMNS, *NAME_COLUMNS)}
    if any(column_key(cell) in known for cell in lines[0].split("|")):
        return True
    if all(re.fullmatch(_WHOLE, line.partition("|")[0].strip()) for line in lines):
        return True
    last = [line.rpartition("|")[2].strip() for line in lines]
    ids = [_int(cell) for cell in last if re.fullmatch(_WHOLE, cell)]
    sure = len(set(ids)) == len(lines) and ids != list(range(1, len(ids) + 1))
    return sure and set(present.tolist()) <= set(ids)


def _under(header: Sequence[str], rows: Sequence[Sequence[str]], url: str) -> Columns:
    """Columns below a header."""
    for number, row in enumerate(rows, start=1):
        if len(row) > len(header):
            raise InvalidInputError(
                f"row {number} of the table has {len(row)} values for {len(header)} columns",
                url=url,
            )
    if len({name.strip() for name in header}) != len(header):
        raise InvalidInputError("two columns of the table have the same name", url=url)
    return {
        name.strip() or "row": [row[i] if i < len(row) else "" for row in rows]
        for i, name in enumerate(header)
    }


def _spaced(lines: Sequence[str], present: NDArray[np.int32], url: str) -> Columns | list[str]:
    """Rows without tabs or commas: id and name, a table with a header, or names alone."""
    marked = [_MARKED.fullmatch(line) for line in lines]
    ids = [match["id"] for match in marked if match is not None]
    if len(ids) == len(lines) == len(set(ids)):
        return {"index": ids, "name": [match["name"] for match in marked if match is not None]}
    numbered = [re.fullmatch(r"(\d+)\s+(\S.*)", line) for line in lines]
    pairs = [match.groups() for match in numbered if match is not None]
    if len(pairs) == len(lines):
        last = [re.fullmatch(r"(\S+)\s+(\d+)", rest) for _, rest in pairs]
        if all(last) and len({m[1] for m in last if m}) == len(last):
            return _bare([line.split() for line in lines], present, url)
        if any(len(re.findall(rf"(?:^|\s){_NUMBER}(?=\s|$)", rest)) > 2 for _, rest in pairs):
            raise _unknown(url)
        return {"index": [i for i, _ in pairs], "name": [rest for _, rest in pairs]}
    if len(pairs) == len(lines) - 1 and numbered[0] is None:
        header, *rows = [line.split() for line in lines]
        return _under(header, rows, url)
    if pairs:
        raise _unknown(url)
    return _behind_names(lines, present, url)


def _behind_names(
    lines: Sequence[str], present: NDArray[np.int32], url: str
) -> Columns | list[str]:
    """Names alone; or ids behind them, where they can be nothing else."""
    if lines[0].lower() in _HEADERS:
        lines = lines[1:]
    behind = [_BEHIND.fullmatch(line[::-1]) for line in lines]
    pairs = [(match[2][::-1], int(match[1][::-1])) for match in behind if match is not None]
    ids = [number for _, number in pairs]
    if len(pairs) == len(lines) and _may_be_ids(ids, present):
        if len({name for name, _ in pairs}) != len(pairs):  # "Area 2", "Area 1"
            raise _unknown(url)
        return {"index": [str(i) for i in ids], "name": [name for name, _ in pairs]}
    within = [[int(digits) for digits in _ALONE.findall(line)] for line in lines]
    least = min(map(len, within))
    if any(_may_be_ids([found[k] for found in within], present) for k in range(least)):
        raise _unknown(url)  # "Label 2: Area"
    return list(lines)


def _may_be_ids(numbers: Sequence[int], present: NDArray[np.int32]) -> bool:
    """True if different integers, one a line, are all labels, and others than those by position."""
    different = set(numbers)
    if len(different) != len(numbers) or not set(present.tolist()) <= different:
        return False
    return list(numbers) not in (list(range(1, len(numbers) + 1)), present.tolist())


def _bare(rows: Sequence[Sequence[str]], present: NDArray[np.int32], url: str) -> Columns:
    """Rows without a header: the ids are whole numbers, the names are different texts."""
    width = max(map(len, rows))
    columns = [[row[i].strip() if i < len(row) else "" for row in rows] for i in range(width)]
    ids = [
        i
        for i, values in enumerate(columns)
        if all(re.fullmatch(_WHOLE, v) for v in values) and len(set(map(_int, values))) == len(rows)
    ]
    ids = list({tuple(columns[i]): i for i in reversed(ids)}.values())[::-1]  # first of equal ones
    numbers = {i for i in range(width) if all(re.fullmatch(_NUMBER, v) for v in columns[i] if v)}
    texts = [i for i in range(width) if i not in numbers]
    if 0 in ids and texts == [1] and width >= len(_COLOUR) + 1:  # the others are colours
        ids = [0]
    elif len(ids) > 1:
        known = set(present.tolist())
        ids = [i for i in ids if known <= set(map(_int, columns[i]))]
    different = [i for i in texts if len(set(columns[i])) == len(rows)]
    if len(texts) == 1:
        different = texts
    if len(ids) != 1 or not different:
        raise _unknown(url)
    # AAL has a short name, the name, and the id.
    after_names = ids[0] > max(different)
    name = different[-1] if after_names else different[0]
    if width == len(_COLOUR) + 2 and (ids[0], name) == (0, 1):
        return dict(zip(("index", "name", *_COLOUR), columns, strict=True))
    named = {ids[0]: "index", name: "name"}
    return {named.get(i, f"column {i + 1}"): values for i, values in enumerate(columns)}


def _int(text: str) -> int:
    return int(text.partition(".")[0])


def _unknown(url: str) -> InvalidInputError:
    return InvalidInputError(
        "which columns of the table are ids and names cannot be seen, and a table without a header "
        "may have only one of each: add a header (index, name), or give a mapping from id to name",
        url=url,
    )


# JSON and XML ---------------------------------------------------------------------------------


def _json(text: str, url: str) -> Columns | list[str]:
    """An object from id to name, objects with the same keys, or names."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the table of labels is damaged JSON: {error}", url=url) from error
    if isinstance(found, list):
        if all(isinstance(name, str) for name in found):
            return found
        rows = [row for row in found if isinstance(row, dict)]
        if len(rows) == len(found) and all(row.keys() == rows[0].keys() for row in rows):
            return {
                key: ["" if row[key] is None else str(row[key]) for row in rows] for key in rows[0]
            }
    elif all(key.isdecimal() and isinstance(name, str) for key, name in found.items()):
        return {"index": list(found), "name": list(found.values())}
    raise InvalidInputError(
        'the table of labels is JSON, but no object from ids to names ({"1": "name", ...}): '
        "read it with json.load and give a mapping from id to name",
        url=url,
    )


def _xml(text: str, url: str) -> Columns:
    """Labels of FSL (``<label index="0">name</label>``), AAL (index and name as elements), AFNI."""
    if text.lstrip().startswith("<VALUE_LABEL_DTABLE") and (found := _AFNI.findall(text)):
        names = [html.unescape(name) for _, name in found]
        return {"index": [number for number, _ in found], "name": names}
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise InvalidInputError(
            "the table of labels is XML with a DTD or entities, which are not read: remove them",
            url=url,
        )
    try:
        root = ET.fromstring(text)  # noqa: S314 - without a DTD there are no entities
    except (ET.ParseError, ValueError) as error:
        raise InvalidInputError(f"the table of labels is damaged XML: {error}", url=url) from error
    labels = list(root.iter("label"))
    columns: Columns = {"index": [], "name": []}
    for label in labels:
        columns["index"].append((label.get("index") or label.findtext("index") or "").strip())
        columns["name"].append((label.findtext("name") or label.text or "").strip())
    if not labels or not all(re.fullmatch(r"\d{1,18}", i) for i in columns["index"]):
        raise InvalidInputError(
            'XML without labels: expected <label index="1">name</label>, or index and name as '
            "elements of label",
            url=url,
        )
    if labels[0].get("index") is not None and _from_one(root, columns):
        columns["index"] = [str(int(i) + 1) for i in columns["index"]]
    return columns


def _from_one(root: ET.Element, columns: Columns) -> bool:
    """Return whether FSL's index is that of a probability map: the label image has one more."""
    kind = (root.findtext("header/type") or "").strip().lower()
    return kind.startswith("prob") and "0" in columns["index"]
