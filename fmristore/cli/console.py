"""What goes to the terminal: one-line messages, progress bars, and JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import typer

from fmristore_stores.errors import FmristoreError, FormatError, StorageError
from fmristore_stores.shown import shown, shown_lines

__all__ = [
    "echo",
    "emit",
    "hush",
    "naming",
    "one_line_warnings",
    "progress_bar",
    "report_error",
    "say",
]

_IN_OPTIONS = {
    "overwrite=True": "--overwrite",
    "max_memory": "--max-memory",
    "storage_options": "--storage-option",
}
"""Words of messages that are called otherwise on the command line."""


def say(kind: str, text: str) -> None:
    """Write one line to stderr."""
    color = typer.colors.RED if kind == "error" else typer.colors.YELLOW
    line = shown(" ".join(text.split()))
    typer.echo(f"{typer.style(f'{kind}:', fg=color, bold=True)} {line}", err=True)


def echo(text: object) -> None:
    """Write lines of our own to stdout, with nothing in them that steers the terminal."""
    typer.echo(shown_lines(text))


def emit(document: Any) -> None:
    """Write one JSON document to stdout."""
    typer.echo(json.dumps(document, indent=2, allow_nan=False))


def report_error(error: Exception, *, debug: bool) -> None:
    """Say on one line what went wrong, after the traceback if that is wanted."""
    if debug:
        typer.echo(shown_lines("".join(traceback.format_exception(error))), err=True, nl=False)
    if isinstance(error, FmristoreError):
        text = str(error)
        for word, option in _IN_OPTIONS.items():
            text = text.replace(word, option)
        say("error", text)
    elif isinstance(error, MemoryError):
        say("error", f"not enough memory ({error}); lower --max-memory")
    else:
        say("error", f"{type(error).__name__}: {error}; this is a bug; run with --debug")


def hush() -> None:
    """Keep libraries from telling, on exit, of the work that an interruption left unfinished."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")


@contextlib.contextmanager
def naming(url: str) -> Iterator[None]:
    """Name the store in errors about what is stored that do not name it."""
    try:
        yield
    except (FormatError, StorageError) as error:
        error.url = error.url or url
        raise


@contextlib.contextmanager
def one_line_warnings(*, debug: bool) -> Iterator[None]:
    """Write warnings that are meant for users to stderr, one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say("warning", str(message))

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show
        yield


@contextlib.contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on stderr while the block runs, if that is a terminal.

    Yields
    ------
    callable or None
        To be called with the bytes done and in all.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
