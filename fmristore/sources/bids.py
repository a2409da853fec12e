"""JSON files of a BIDS dataset that say something about an image: its inheritance principle.

https://bids-specification.readthedocs.io/en/stable/common-principles.html#the-inheritance-principle
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fmristore.sources.bids_names import BidsName, parse_name
from fmristore_stores.errors import (
    AccessDeniedError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.io.location import filesystem, is_local
from fmristore_stores.io.sources import storage_error
from fmristore_stores.limits import check_values

__all__ = ["MOST_BYTES", "applicable", "parse_sidecar", "sidecar_urls"]

MOST_BYTES = 16 << 20
"""Bytes that a sidecar or table may have; metadata of a store have their limit there too."""

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
    image = parse_name(name)
    if image is None or "sub" not in image.entities:
        return (beside,)
    if beside.lower().startswith(_UNLISTED) or "?" in beside:
        return (beside,)
    levels: list[list[str]] = []
    for _ in range(_LEVELS):
        names = _names(folder, storage_options)
        parsed = ((one, parse_name(one, above=True)) for one in names if one.endswith(".json"))
        levels.append([f"{folder}/{one}" for one in applicable(parsed, image)])
        if _ROOT in names:
            above = [url for level in levels[::-1] for url in level if url != beside]
            return (*above, beside)
        folder, slash, _ = folder.rpartition("/")
        if not slash:
            break
    return (beside,)


def applicable(names: Iterable[tuple[str, BidsName | None]], image: BidsName) -> list[str]:
    """Sidecars in one folder that hold for an image, the least special first.

    Parameters
    ----------
    names : iterable of (str, BidsName)
        Names in the folder, as they are and parsed; None for those that BIDS does not know.
    image : BidsName
        Name of the image, or of its own sidecar.

    Returns
    -------
    list of str
        Names of JSON files with its suffix and no entity that it has not.
    """
    found = [
        (len(parsed.entities), name)
        for name, parsed in names
        if parsed is not None
        and parsed.extension == ".json"
        and parsed.suffix == image.suffix
        and parsed.applies_to(image)
    ]
    return [name for _, name in sorted(found)]


def parse_sidecar(data: bytes, url: str) -> dict[str, Any]:
    """Content of a JSON sidecar.

    Parameters
    ----------
    data : bytes
        The file, or one byte more of it than `MOST_BYTES`.
    url : str
        Path or URL, for messages.

    Raises
    ------
    MetadataError
        If it is larger, no JSON object, or has more values than a document of its length has.
    """
    if len(data) > MOST_BYTES:
        raise MetadataError(f"has more than {MOST_BYTES} bytes", url=url)
    try:
        check_values(data)
        found = json.loads(data.decode("utf-8-sig"))
    except MemoryLimitError as error:
        raise MetadataError(error.message, url=url) from error
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"is no JSON: {error}", url=url) from error
    if not isinstance(found, dict):
        raise MetadataError(f"holds no JSON object but a {type(found).__name__}", url=url)
    return found


def _names(folder: str, storage_options: Mapping[str, Any] | None) -> frozenset[str]:
    """Names of what lies in a folder; none where there is none, or it may not be listed.

    Raises
    ------
    StorageError
        If the disk or the service fails: what holds for an image must not be left out then.
    """
    try:
        if is_local(folder):
            return frozenset(path.name for path in Path(folder or "/").iterdir())
        fs, place = filesystem(folder, storage_options)
        listed: list[str] = fs.ls(place, detail=False)
    except Exception as error:
        translated = storage_error(error, folder)
        if isinstance(translated, NotFoundError | AccessDeniedError):
            return frozenset()
        raise translated from error
    return frozenset(one.rstrip("/").rpartition("/")[2] for one in listed)
