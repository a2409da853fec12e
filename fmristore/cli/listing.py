"""The command that lists the stores of folders, one to a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fmristore.cli.console import echo, emit
from fmristore.cli.options import Json, StorageOptions, Trusted
from fmristore.cli.parsing import parse_options
from fmristore.planning.text import size_text
from fmristore_stores.errors import FmristoreError, NotFoundError, UnknownFormatError
from fmristore_stores.shown import shown, shown_url

__all__ = ["find_stores", "is_folder", "list_stores"]

_ENDINGS = (".h5", ".hdf5", ".zarr", ".refs.json")
_COLUMNS = ("store", "format", "shape", "TR", "size")


def list_stores(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PLACE]...", help="Folders and stores; this folder by default."),
    ] = None,
    *,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Look in folders of folders, too.")
    ] = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """List stores, one to a line: what each holds, its shape, TR and size; reads no data."""
    options = parse_options(storage_option or ())
    rows = [
        _facts(store, options, trusted=trusted)
        for place in places or ["."]
        for store in find_stores(place, options, recursive=recursive)
    ]
    if json:
        emit(rows)
    else:
        echo("\n".join(_lines(rows)) if rows else "no stores here")
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


def is_folder(url: str, storage_options: Mapping[str, Any]) -> bool:
    """Return whether a folder is at a URL that is no Zarr store."""
    if url.rstrip("/").endswith(_ENDINGS):
        return False
    if "://" not in url:
        return Path(url).is_dir() and not (Path(url) / "zarr.json").exists()
    from fmristore.nifti.files import translated
    from fmristore_stores.io.location import filesystem

    fs, path = filesystem(url, storage_options)
    with translated(url):
        return bool(fs.isdir(path)) and not fs.exists(f"{path.rstrip('/')}/zarr.json")


def find_stores(
    place: str, storage_options: Mapping[str, Any], *, recursive: bool = False
) -> Iterator[str]:
    """Stores in a folder by the endings of their names, sorted; or the place itself.

    Parameters
    ----------
    place : str
        Path or URL of a folder or store.
    storage_options : mapping
        Passed to fsspec.
    recursive : bool
        Look in folders of folders, too.

    Yields
    ------
    str
        Paths or URLs.

    Raises
    ------
    NotFoundError
        If there is nothing at `place`.
    AccessDeniedError, StorageError
        If the folder cannot be listed.
    """
    if not is_folder(place, storage_options):
        yield place
        return
    from fmristore.nifti.files import translated
    from fmristore_stores.io.location import filesystem

    fs, path = filesystem(place, storage_options)
    scheme = place.partition("://")[0] + "://" if "://" in place else ""
    with translated(place):
        entries = sorted(fs.ls(path, detail=True), key=lambda entry: str(entry["name"]))
    for entry in entries:
        name = str(entry["name"]).rstrip("/")
        base = name.rpartition("/")[2]
        if base.startswith("."):
            continue
        below = scheme + name.removeprefix(scheme) if scheme else str(Path(place) / base)
        if base.endswith(_ENDINGS):
            yield below
        elif recursive and entry["type"] == "directory":
            yield from find_stores(below, storage_options, recursive=True)


def _facts(url: str, storage_options: Mapping[str, Any], *, trusted: bool | None) -> dict[str, Any]:
    """Facts of one store as plain JSON values; or the error of opening it."""
    from fmristore import api
    from fmristore.cli.trust import check_trust
    from fmristore_stores.io.location import count_files
    from fmristore_stores.opening import locate

    row: dict[str, Any] = {"url": url, "format": None, "shape": None, "tr_s": None}
    row |= {"stored_bytes": None, "error": None}
    try:
        check_trust(url, storage_options, trusted=trusted)
        with api.open(url, storage_options=storage_options) as stored:
            row["format"] = stored.format_name
            row["shape"] = list(getattr(stored, "shape", None) or ()) or None
            row["tr_s"] = getattr(stored, "tr", None)
        locator = locate(url, storage_options=storage_options)
        row["stored_bytes"] = count_files(locator.url, locator.kind, locator.options)[1]
    except UnknownFormatError:
        row["format"] = "other software"
    except NotFoundError:
        raise
    except FmristoreError as error:
        row["error"] = error.message
    return row


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    table = [_COLUMNS]
    for row in rows:
        shape, tr = row["shape"], row["tr_s"]
        cells = (
            shown_url(row["url"]),
            shown(row["format"] or "", 40),
            " x ".join(map(str, shape)) if shape else "",
            "" if tr is None else f"{tr:.6g} s",
            "" if row["stored_bytes"] is None else size_text(row["stored_bytes"]),
        )
        error = row["error"]
        table.append((cells[0], f"error: {shown(error, 100)}", "", "", "") if error else cells)
    short = [line for line in table if not line[1].startswith("error:")]
    widths = [max(len(line[column]) for line in short) for column in range(5)]
    widths[0] = max(len(line[0]) for line in table)
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    ]
