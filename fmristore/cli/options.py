"""Arguments and options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from fmristore.cli.parsing import Codec, Profile

__all__ = [
    "CodecOption",
    "Jobs",
    "Json",
    "MaxMemory",
    "MetadataOption",
    "Overwrite",
    "Part",
    "ProfileOption",
    "Scheduler",
    "SpaceNameOption",
    "StorageOptions",
    "TrOption",
    "Trusted",
    "Url",
]

Url = Annotated[str, typer.Argument(metavar="URL", help="HDF5 file or Zarr store.")]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
MaxMemory = Annotated[
    str, typer.Option(metavar="SIZE", help="Bytes that this may take, such as 512MB or 2GiB.")
]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="For fsspec, such as anon=true; the value may be JSON. Can be repeated.",
    ),
]
TrOption = Annotated[
    float | None,
    typer.Option(
        "--tr", metavar="SECONDS", help="Repetition time, if the source does not say the right one."
    ),
]
SpaceNameOption = Annotated[
    str | None,
    typer.Option(
        "--space-name", metavar="NAME", help="Space of the image, such as MNI152NLin2009cAsym."
    ),
]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata",
        metavar="KEY=VALUE",
        help="What else is known, such as TaskName=rest; the value may be JSON. Can be repeated.",
    ),
]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", metavar="N", min=1, help="Processes that share the work.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Scheduler of dask, such as tcp://node1:8786."),
]
CodecOption = Annotated[
    Codec | None,
    typer.Option("--codec", help="Preset; portable for HDF5 and dual for Zarr by default."),
]
ProfileOption = Annotated[
    Profile | None, typer.Option("--profile", help="Write the layout of the R package, HDF5 only.")
]
Trusted = Annotated[
    bool | None,
    typer.Option(
        "--trusted/--untrusted",
        help="Whether HDF5 may parse the source in this process at once; by default if fmristore "
        "wrote it.",
        show_default=False,
        rich_help_panel="Files of unknown origin",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--part",
        "--run",
        "--scan",
        "--label",
        metavar="NAME",
        help="One run, scan or map of several.",
    ),
]
