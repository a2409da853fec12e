"""The command that makes files and stores readable for Zarr clients."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from fmristore.cli.console import echo, emit, naming
from fmristore.cli.options import Json, Overwrite, StorageOptions, Trusted
from fmristore.cli.parsing import parse_options
from fmristore.planning.text import counted, size_text

__all__ = ["virtualize"]


class _To(StrEnum):
    """Kind of virtual store."""

    KERCHUNK = "kerchunk"
    ICECHUNK = "icechunk"


def virtualize(  # noqa: PLR0913
    urls: Annotated[
        list[str],
        typer.Argument(
            metavar="URL... [OUT]",
            help="HDF5 files of any software, uncompressed .nii, or Zarr stores, and the reference "
            "file or repository: beside a single one by default. Each of several becomes a group.",
        ),
    ],
    *,
    to: Annotated[
        _To, typer.Option(help="A reference file, or a version of an Icechunk repository.")
    ] = _To.KERCHUNK,
    relative: Annotated[
        bool,
        typer.Option("--relative", help="Refer by relative place: all can be moved together."),
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="LOSS", help="Accept this loss, such as array. Can be repeated."),
    ] = None,
    message: Annotated[str, typer.Option(help="Of the version of a repository.")] = "",
    tag: Annotated[str | None, typer.Option(help="Name to open the version by.")] = None,
    overwrite: Overwrite = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Make a reference file, by which Zarr clients read files and stores where they are."""
    options = parse_options(storage_option or ())
    from fmristore.cli.trust import check_trust
    from fmristore.references.virtual import virtualize as run

    sources, out = (urls[:-1], urls[-1]) if len(urls) > 1 else (urls, None)
    with naming(sources[0]):
        for source in sources:
            check_trust(source, options, trusted=trusted)
        report = run(
            sources[0] if len(sources) == 1 else sources,
            out,
            to=to.value,
            relative=relative,
            allow=allow or (),
            overwrite=overwrite,
            message=message,
            tag=tag,
            storage_options=options,
        )
    if json:
        emit(report.to_json())
        return
    for loss in report.losses:
        echo(f"LOST {loss.kind} /{loss.path}: {loss.reason}")
    size = size_text(report.nbytes) if report.nbytes else f"version {report.version}"
    source = report.source if len(sources) == 1 else f"{len(sources)} files"
    echo(
        f"{source} -> {report.target}: {counted(report.chunks, 'chunk')} of "
        f"{counted(len(report.referred), 'array')}, "
        f"{counted(len(report.inlined), 'small array')}, {size}"
    )
