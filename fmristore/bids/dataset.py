"""A BIDS dataset on disk: its files, the sidecars that a run inherits, its tables."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fmristore.sources.bids import MOST_BYTES, applicable, parse_sidecar
from fmristore.sources.bids_names import BidsName, parse_name
from fmristore_stores.errors import MetadataError, NotFoundError
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.io.sources import storage_error

__all__ = [
    "Dataset",
    "read_sidecars",
    "read_table",
    "scan_dataset",
    "sidecars_of",
    "tables_of",
]

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?", re.ASCII)
_CODE = re.compile(r"[-+]?0[0-9]+", re.ASCII)
_MISSING = frozenset({"n/a", "N/A", "nan", "NaN", ""})
_CONFOUNDS = ("timeseries", "regressors")


@dataclass(frozen=True, slots=True)
class Dataset:
    """Files of one dataset.

    Parameters
    ----------
    root : Path
        Its folder.
    folder : str
        Where that is in the dataset that it is a derivative of; empty for the main one.
    files : mapping of str to sequence of str
        Names of files by their folder, relative to `root` with slashes; ``""`` for the root.
    parent : Dataset, optional
        The dataset that it is a derivative of.
    """

    root: Path
    folder: str
    files: Mapping[str, Sequence[str]]
    parent: Dataset | None = None
    names: Mapping[str, Sequence[tuple[str, BidsName]]] = field(init=False)
    """Names that can be parsed, by folder: sidecars and tables."""

    def __post_init__(self) -> None:
        parsed = {
            folder: [
                (name, found)
                for name in files
                if name.endswith((".json", ".tsv"))
                and (found := parse_name(name, above=True)) is not None
            ]
            for folder, files in self.files.items()
        }
        object.__setattr__(self, "names", parsed)

    def above(self, folder: str) -> Iterator[str]:
        """Folders from the root down to one."""
        yield ""
        parts = PurePosixPath(folder).parts
        for count in range(1, len(parts) + 1):
            yield "/".join(parts[:count])


def scan_dataset(root: Path, *, derivatives: bool = False) -> list[Dataset]:
    """Files of a dataset and, if they are wanted, of those in its folder ``derivatives``.

    Raises
    ------
    NotFoundError
        If there is no such folder.
    """
    if not root.is_dir():
        raise NotFoundError("there is no such folder", url=str(root))
    main = Dataset(root, "", _files_below(root, root))
    found = [main]
    below = root / "derivatives"
    if derivatives and below.is_dir():
        found += [
            Dataset(place, f"derivatives/{place.name}", _files_below(place, place), main)
            for place in sorted(below.iterdir())
            if place.is_dir() and not place.name.startswith(".")
        ]
    return found


def _files_below(
    root: Path, folder: Path, seen: frozenset[str] = frozenset()
) -> dict[str, list[str]]:
    """Names of files by folder, without hidden ones; links to folders are followed, but once."""
    real = os.path.realpath(folder)
    if real in seen:
        return {}
    names: list[str] = []
    below: dict[str, list[str]] = {}
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise storage_error(error, str(folder)) from error
    for entry in entries:
        hidden = entry.name.startswith(".") and entry.name != ".bidsignore"
        if hidden or (folder == root and entry.name == "derivatives"):
            continue
        if entry.is_dir() and not entry.name.endswith(".zarr"):
            below |= _files_below(root, folder / entry.name, seen | {real})
        else:
            names.append(entry.name)
    relative = folder.relative_to(root).as_posix()
    return {"" if relative == "." else relative: names} | below


# What belongs to a run ------------------------------------------------------------------------


def sidecars_of(dataset: Dataset, folder: str, run: BidsName) -> list[str]:
    """Sidecars of a file, from the most general to its own: later ones hold where both say it.

    Parameters
    ----------
    dataset : Dataset
        It lies there.
    folder : str
        In this folder.
    run : BidsName
        Its name.

    Returns
    -------
    list of str
        Paths.
    """
    found: list[str] = []
    for place in dataset.above(folder):
        here = applicable(dataset.names.get(place, ()), run)
        found += [str(dataset.root / place / name) for name in here]
    return found


def tables_of(dataset: Dataset, folder: str, run: BidsName) -> dict[str, str]:
    """Paths of the events and confounds of a run, the most particular ones there are.

    Events of a derivative may lie in the dataset that it was made from.
    """
    found: dict[str, str] = {}
    for what in ("events", "confounds"):
        path = _table(dataset, folder, run, what)
        if path is None and dataset.parent is not None and what == "events":
            path = _table(dataset.parent, folder, run, what)
        if path is not None:
            found[what] = path
    return found


def _table(dataset: Dataset, folder: str, run: BidsName, what: str) -> str | None:
    best: tuple[int, str] | None = None
    for place in dataset.above(folder):
        for file, name in dataset.names.get(place, ()):
            if name.extension == ".tsv" and _is_table(name, run, what):
                count = len(name.entities)
                deeper = best is None or count >= best[0]
                best = (count, str(dataset.root / place / file)) if deeper else best
    return None if best is None else best[1]


def _is_table(name: BidsName, run: BidsName, what: str) -> bool:
    if what == "events":
        return name.suffix == "events" and name.applies_to(run)
    described = name.entities.get("desc") == "confounds" and name.suffix in _CONFOUNDS
    return described and name.applies_to(run, besides=frozenset({"desc"}))


def read_sidecars(paths: Sequence[str]) -> dict[str, Any]:
    """Content of sidecars, the later ones before the earlier ones.

    Raises
    ------
    MetadataError
        If one is no JSON object.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged |= parse_sidecar(_read_bytes(path), path)
    return merged


def read_table(path: str) -> dict[str, list[Any]]:
    """Columns of a table of BIDS: integers, numbers or text; None where a value is missing.

    A column of digits with zeros before them (``01``) is text.

    Raises
    ------
    MetadataError
        If rows differ in length, or columns have one name.
    """
    rows = list(csv.reader(io.StringIO(_read_text(path)), delimiter="\t", quoting=csv.QUOTE_NONE))
    rows = [row for row in rows if row]
    if not rows:
        return {}
    head, *body = rows
    if len(set(head)) != len(head):
        raise MetadataError("a table with two columns of one name", url=path)
    if any(len(row) != len(head) for row in body):
        raise MetadataError("a table whose rows differ in length", url=path)
    return {name: _column([row[index] for row in body]) for index, name in enumerate(head)}


def _column(texts: Sequence[str]) -> list[Any]:
    known = [text for text in texts if text not in _MISSING]
    kind: Any = str
    if all(_INTEGER.fullmatch(text) for text in known):
        kind = int
    elif all(_NUMBER.fullmatch(text) and not _CODE.fullmatch(text) for text in known):
        kind = float
    return [None if text in _MISSING else kind(text) for text in texts]


def _read_text(path: str) -> str:
    data = _read_bytes(path)
    if len(data) > MOST_BYTES:
        raise MetadataError(f"has more than {MOST_BYTES} bytes", url=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MetadataError(f"is no text in UTF-8: {error}", url=path) from error


def _read_bytes(path: str) -> bytes:
    """Bytes of a file, or as many as show that they are too many."""
    try:
        with open(open_ordinary(path), "rb") as file:  # noqa: PTH123
            return file.read(MOST_BYTES + 1)
    except OSError as error:
        raise storage_error(error, path) from error
