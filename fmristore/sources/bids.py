"""JSON files of a BIDS dataset that say something about an image: its inheritance principle.

https://bids-specification.readthedocs.io/en/stable/common-principles.html#the-inheritance-principle
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fmristore_stores.errors import FmristoreError
from fmristore_stores.io.location import filesystem, is_local

__all__ = ["sidecar_urls"]

_ROOT = "dataset_description.json"
_LEVELS = 5
"""Folders from that of an image up to the dataset's: datatype, session, subject, dataset; one more
for what some put between."""
_UNLISTED = ("http://", "https://")
"""Web servers list no folders."""


def sidecar_urls(beside: str, storage_options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """URLs of the JSON files that hold for an image, those that others override first.

    Parameters
    ----------
    beside : str
        URL of the file of its own name, which comes last and need not exist.
    storage_options : mapping, optional
        Passed to fsspec.

    Returns
    -------
    tuple of str
        That file alone, where the image has no name as BIDS gives it, or lies in no dataset.
    """
    folder, _, name = beside.rpartition("/")
    entities, suffix = _parse(name)
    if not suffix or not any(entity.startswith("sub-") for entity in entities):
        return (beside,)
    if beside.lower().startswith(_UNLISTED) or "?" in beside:
        return (beside,)
    levels: list[list[str]] = []
    for _ in range(_LEVELS):
        names = _names(folder, storage_options)
        levels.append([f"{folder}/{one}" for one in _applicable(names, entities, suffix)])
        if _ROOT in names:
            above = [url for level in levels[::-1] for url in level if url != beside]
            return (*above, beside)
        folder, slash, _ = folder.rpartition("/")
        if not slash:
            break
    return (beside,)


def _parse(name: str) -> tuple[frozenset[str], str]:
    """Entities and suffix of a name, such as ``{"task-rest"}`` and ``"bold"``."""
    *entities, suffix = name.partition(".")[0].split("_")
    return frozenset(entities), "" if "-" in suffix else suffix


def _applicable(names: Iterable[str], entities: frozenset[str], suffix: str) -> list[str]:
    """JSON files of which all entities are those of the image, the least special first."""
    found = []
    for name in names:
        own, kind = _parse(name)
        if name.endswith(".json") and name.count(".") == 1 and kind == suffix and own <= entities:
            found.append((len(own), name))
    return [name for _, name in sorted(found)]


def _names(folder: str, storage_options: Mapping[str, Any] | None) -> frozenset[str]:
    """Names of what lies in a folder; none where it cannot be listed."""
    try:
        if is_local(folder):
            return frozenset(path.name for path in Path(folder or "/").iterdir())
        fs, place = filesystem(folder, storage_options)
        listed: list[str] = fs.ls(place, detail=False)
    except (OSError, FmristoreError):
        return frozenset()
    return frozenset(one.rstrip("/").rpartition("/")[2] for one in listed)
