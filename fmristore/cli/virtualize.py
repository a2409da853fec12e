"""The command that makes HDF5 and NIfTI files readable for Zarr clients."""

from __future__ import annotations

from typing import Annotated

import typer

from fmristore.cli.console import echo, emit, naming
from fmristore.cli.options import Json, Overwrite, StorageOptions, Trusted
from fmristore.cli.parsing import parse_options
from fmristore.planning.text import size_text

__all__ = ["virtualize"]


def virtualize(  # noqa: PLR0913
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="HDF5 file of any software, or an uncompressed .nii."),
    ],
    out: Annotated[
        str | None,
        typer.Argument(metavar="OUT", help="Reference file; beside the file by default."),
    ] = None,
    *,
    relative: Annotated[
        bool,
        typer.Option("--relative", help="Refer by relative place: both can be moved together."),
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="LOSS", help="Accept this loss, such as array. Can be repeated."),
    ] = None,
    overwrite: Overwrite = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Make a reference file, by which Zarr clients read an HDF5 or NIfTI file where it is."""
    options = parse_options(storage_option or ())
    from fmristore.cli.trust import check_trust
    from fmristore.references.virtual import virtualize as run

    with naming(url):
        check_trust(url, options, trusted=trusted)
        report = run(
            url,
            out,
            relative=relative,
            allow=allow or (),
            overwrite=overwrite,
            storage_options=options,
        )
    if json:
        emit(report.to_json())
        return
    for loss in report.losses:
        echo(f"LOST {loss.kind} /{loss.path}: {loss.reason}")
    echo(
        f"{report.source} -> {report.target}: {report.chunks} chunks of "
        f"{len(report.referred)} arrays, {len(report.inlined)} small arrays, "
        f"{size_text(report.nbytes)}"
    )
