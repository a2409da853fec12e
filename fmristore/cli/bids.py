"""The command that turns a whole BIDS dataset into stores."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from fmristore.cli.console import echo, emit
from fmristore.cli.options import (
    CodecOption,
    Jobs,
    Json,
    MaxMemory,
    Overwrite,
    Scheduler,
    StorageOptions,
)
from fmristore.cli.parsing import Access, parse_options, parse_size
from fmristore.cli.progress import count_bar

__all__ = ["Ending", "Rest", "convert_bids"]


class Ending(StrEnum):
    """Kind of the stores, by the ending of their names."""

    zarr = "ome.zarr"
    h5 = "h5"


class Rest(StrEnum):
    """Treatment of files that are neither converted nor small text."""

    skip = "skip"
    copy = "copy"
    link = "link"


def convert_bids(  # noqa: PLR0913
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder of the dataset.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Folder or URL of the new one.")],
    *,
    derivatives: Annotated[
        bool, typer.Option("--derivatives", help="Convert the datasets in derivatives/, too.")
    ] = False,
    to: Annotated[Ending, typer.Option(help="Kind of the stores.")] = Ending.zarr,
    rest: Annotated[
        Rest, typer.Option(help="What becomes of other files than images and small text.")
    ] = Rest.skip,
    confounds: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Column of confounds to keep, or a pattern. Can be repeated."
        ),
    ] = None,
    jobs: Jobs = 1,
    scheduler: Scheduler = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was begun; skip what is done.")
    ] = False,
    access: Annotated[
        Access | None, typer.Option(help="What is read most; time by default.")
    ] = None,
    codec: CodecOption = None,
    max_memory: MaxMemory = "1GiB",
    overwrite: Overwrite = False,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Turn the runs, masks, segmentations and maps of a BIDS dataset into stores."""
    options = parse_options(storage_option or ())
    limit = parse_size(max_memory)
    from fmristore.bids.convert import convert_bids as run
    from fmristore.many.executors import connect

    with connect(scheduler) as client, count_bar("converting", quiet=json) as progress:
        report = run(
            source,
            target,
            to=to.value,
            derivatives=derivatives,
            confounds=confounds or ("*",),
            rest=rest.value,
            resume=resume,
            overwrite=overwrite,
            access=None if access is None else access.value,
            codec=None if codec is None else codec.value,
            max_memory=limit,
            storage_options=options,
            executor=client,
            jobs=jobs,
            progress=progress,
        )
    if json:
        emit(report.to_json())
    else:
        echo(str(report))
    if not report.ok:
        raise typer.Exit(1)
