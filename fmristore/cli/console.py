"""Output on the terminal: one-line messages, progress bars, and JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import typer

from fmristore_stores.errors import FmristoreError, FormatError, StorageError
from fmristore_stores.secrets import masked
from fmristore_stores.shown import shown, shown_lines

__all__ = [
    "echo",
    "emit",
    "hush",
    "naming",
    "one_line_warnings",
    "report",
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
    line = shown(_safe(" ".join(text.split())))
    typer.echo(f"{typer.style(f'{kind}:', fg=color, bold=True)} {line}", err=True)


def echo(text: object) -> None:
    """Write lines of our own to stdout, with nothing in them that steers the terminal."""
    typer.echo(shown_lines(_safe(str(text))))


def emit(document: Any) -> None:
    """Write one JSON document to stdout, without the secrets in the URLs that it holds."""
    typer.echo(json.dumps(_without_secrets(document), indent=2, allow_nan=False))


def _without_secrets(value: Any) -> Any:
    """The same JSON values with texts as `_safe` leaves them."""
    match value:
        case str():
            return _safe(value)
        case list() | tuple():
            return [_without_secrets(one) for one in value]
        case dict():
            return {key: _without_secrets(one) for key, one in value.items()}
    return value


def _safe(text: str) -> str:
    """Text without passwords, tokens and signatures, where it holds a URL."""
    return masked(text) if "://" in text else text


def report_error(error: Exception, *, debug: bool, as_json: bool = False) -> None:
    """Say on one line what went wrong, after the traceback if that is wanted.

    Parameters
    ----------
    error : Exception
        What a command raised.
    debug : bool
        Write its traceback first.
    as_json : bool
        Write the line as JSON, see `report`.
    """
    if debug:
        typer.echo(
            shown_lines(_safe("".join(traceback.format_exception(error)))), err=True, nl=False
        )
    facts: dict[str, Any] = {"type": type(error).__name__, "kind": "bug"}
    if isinstance(error, FmristoreError):
        text = _with_options(str(error))
        facts |= {"kind": error.kind, "url": error.url, "node": error.node}
        if as_json:
            text = _with_options(error.message)
    elif isinstance(error, MemoryError):
        text = f"not enough memory ({error}); lower --max-memory"
        facts["kind"] = "memory-limit"
    else:
        text = f"{type(error).__name__}: {error}; this is a bug; run with --debug"
    report("error", text, as_json=as_json, **facts)


def _with_options(text: str) -> str:
    """A message of the library with the names that arguments have on the command line."""
    for word, option in _IN_OPTIONS.items():
        text = text.replace(word, option)
    return text


def report(level: str, text: str, *, as_json: bool, **facts: Any) -> None:
    """Write one line to stderr: for people, or a JSON object with the level as its only key.

    Parameters
    ----------
    level : {"error", "warning"}
        What it is.
    text : str
        Message.
    as_json : bool
        Write ``{"error": {"message": ..., ...}}``.
    **facts : JSON values
        What else is known, for programs.
    """
    if as_json:
        typer.echo(json.dumps({level: facts | {"message": " ".join(text.split())}}), err=True)
    else:
        say(level, text)


def hush() -> None:
    """Keep libraries from reporting, on exit, the work that an interruption left unfinished."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None  # of finalisers


@contextlib.contextmanager
def naming(url: str) -> Iterator[None]:
    """Name the store in errors about what is stored that do not name it."""
    try:
        yield
    except (FormatError, StorageError) as error:
        error.url = error.url or url
        raise


@contextlib.contextmanager
def one_line_warnings(*, debug: bool, as_json: bool = False) -> Iterator[None]:
    """Write warnings that are meant for users to stderr, one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        kind = type(message).__name__
        report("warning", str(message), as_json=as_json, type=kind)

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = show
        yield
