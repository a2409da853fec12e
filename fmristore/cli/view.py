"""The command that shows a store in the browser."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from fmristore.cli.console import echo, emit, naming
from fmristore.cli.options import Json, Overwrite, Part, StorageOptions, Trusted, Url
from fmristore.cli.parsing import parse_options, parse_size

__all__ = ["view", "wait"]


def wait(event: threading.Event) -> None:
    """Wait for an event, for ever if need be."""
    event.wait()


def view(  # noqa: PLR0913
    url: Url,
    *,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="PAGE", help="Write the page as one file, with values in it."
        ),
    ] = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Print the address and open no browser.")
    ] = False,
    port: Annotated[
        int,
        typer.Option(metavar="PORT", help="Where to serve it on 127.0.0.1; a free one by default."),
    ] = 0,
    max_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Bytes of values in a file, thinned out until they fit."),
    ] = "12MiB",
    part: Part = None,
    overwrite: Overwrite = False,
    trusted: Trusted = None,
    storage_option: StorageOptions = None,
    json: Json = False,
) -> None:
    """Look at a store in the browser: slices, series of voxels and parcels, costs of reads.

    The page is served to this machine alone until Ctrl-C, or written as one file.
    """
    options = parse_options(storage_option or ())
    size = parse_size(max_size)
    from fmristore.cli.trust import check_trust
    from fmristore.viewer import view as show

    with naming(url):
        check_trust(url, options, trusted=trusted)
        viewer = show(
            url,
            out,
            part=part,
            open_browser=not no_open,
            port=port,
            max_size=size,
            overwrite=overwrite,
            storage_options=options,
        )
    if viewer is None:
        emit({"source": url, "target": out}) if json else echo(f"{url} -> {out}")
        return
    with viewer:
        if json:
            emit({"source": url, "address": viewer.url})
        else:
            echo(f"{viewer.url}\nCtrl-C ends it")
        try:
            wait(threading.Event())
        except KeyboardInterrupt:
            if not json:
                echo("")
