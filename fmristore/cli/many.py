"""The command that does one thing with many runs."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

import typer

from fmristore.cli.console import echo, emit
from fmristore.cli.options import (
    Jobs,
    Json,
    MaxMemory,
    Overwrite,
    Scheduler,
    StorageOptions,
    Trusted,
)
from fmristore.cli.parsing import parse_options, parse_size
from fmristore.cli.progress import count_bar

__all__ = ["What", "many"]

_ENDING = re.compile(
    r"\.(?:nii(?:\.(?:gz|bz2|zst))?|hdr|img|mgz|mgh|mnc|h5|hdf5|(?:ome\.)?zarr|refs\.json)$",
    re.IGNORECASE,
)


class What(StrEnum):
    """Work that is done with each run."""

    convert = "convert"
    parcellate = "parcellate"
    transcode = "transcode"
    verify = "verify"


def many(  # noqa: PLR0913
    what: Annotated[What, typer.Argument(metavar="WHAT", help="Command for each of them.")],
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC...", help="Runs: images or stores, paths or URLs.")
    ],
    *,
    into: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where the stores go, under the names of the runs."),
    ] = None,
    to: Annotated[str, typer.Option(metavar="ENDING", help="Ending of their names.")] = "h5",
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Argument of the function in Python, such as access=volume or "
            "labels=atlas.nii.gz; the value may be JSON. Can be repeated.",
        ),
    ] = None,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    max_memory: MaxMemory = "1GiB",
    overwrite: Overwrite = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Convert, parcellate, transcode or verify many runs; the same call again goes on."""
    storage = parse_options(storage_option or ())
    given: dict[str, Any] = {"max_memory": parse_size(max_memory), **parse_options(option or ())}
    if (into is None) is not (what is What.verify):
        wrong = "is not for verify" if into is not None else f"{what.value} needs it"
        raise typer.BadParameter(wrong, param_hint="'--into'")
    import fmristore
    from fmristore.bids.index import JOURNAL
    from fmristore.cli.trust import check_trust
    from fmristore.many.executors import connect

    for source in sources:
        check_trust(source, storage, trusted=trusted)
    runs: list[Any] = [{"url": source} for source in sources]
    journal = None
    if into is not None:
        folder = into.rstrip("/")
        ending = to.lstrip(".")
        runs = [
            {"source": source, "url": f"{folder}/{_stem(source)}.{ending}", "overwrite": overwrite}
            for source in sources
        ]
        journal = None if overwrite else f"{folder}/{JOURNAL}"
    with connect(scheduler) as client, count_bar(what.value, quiet=json) as progress:
        report = fmristore.map_runs(
            getattr(fmristore, what.value),
            runs,
            executor=client,
            jobs=jobs,
            journal=journal,
            storage_options=storage,
            progress=progress,
            **given,
        )
    damaged = [found for found in report.results.values() if not getattr(found, "ok", True)]
    if json:
        emit(report.to_json() | {"damaged": [found.to_json() for found in damaged]})
    else:
        echo("\n".join(map(str, (report, *damaged))))
    if damaged or not report.ok:
        raise typer.Exit(1)


def _stem(source: str) -> str:
    """Name of a run, without folders and ending."""
    return _ENDING.sub("", source.rstrip("/").rpartition("/")[2])
