"""Texts from the command line, turned into sizes, selections and options."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from types import EllipsisType
from typing import Any

import typer

from fmristore.planning.text import parse_size as text_size
from fmristore_stores.errors import InvalidInputError

__all__ = [
    "Access",
    "Codec",
    "Profile",
    "TranscodeCodec",
    "parse_options",
    "parse_selection_text",
    "parse_size",
]


class Access(StrEnum):
    """Most frequent reads."""

    time = "time"
    volume = "volume"
    balanced = "balanced"
    both = "both"


class Codec(StrEnum):
    """Codec presets."""

    portable = "portable"
    dual = "dual"
    fast = "fast"
    archive = "archive"
    none = "none"


class TranscodeCodec(StrEnum):
    """Codec presets, or the codecs that are there."""

    portable = "portable"
    dual = "dual"
    fast = "fast"
    archive = "archive"
    none = "none"
    keep = "keep"


class Profile(StrEnum):
    """Layouts of other software."""

    r = "r"


_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")

Entry = int | slice | EllipsisType


def parse_size(text: str, option: str = "--max-memory") -> int:
    """Number of bytes that a text such as ``512MB``, ``2GiB``, ``1e9`` or ``4096`` means.

    Raises
    ------
    typer.BadParameter
        If it is no size, or less than one byte.
    """
    try:
        return text_size(text)
    except InvalidInputError as error:
        raise typer.BadParameter(error.message, param_hint=f"'{option}'") from error


def parse_selection_text(text: str) -> Entry | tuple[Entry, ...]:
    """Index that a text such as ``[..., 10]`` or ``32, 40, 20, ::2`` means.

    Raises
    ------
    typer.BadParameter
        If an entry is neither an integer, nor a slice of integers, nor ``...``.
    """
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1].strip()
    parts = inner.removesuffix(",").split(",")
    entries = tuple(_parse_entry(part.strip(), text) for part in parts)
    return entries if len(entries) > 1 or inner.endswith(",") else entries[0]


def _parse_entry(part: str, text: str) -> Entry:
    if part == "...":
        return ...
    if _INTEGER.fullmatch(part):
        return int(part)
    bounds = [bound.strip() for bound in part.split(":")]
    if 2 <= len(bounds) <= 3 and all(not b or _INTEGER.fullmatch(b) for b in bounds):
        return slice(*(int(b) if b else None for b in bounds))
    msg = (
        f"{part!r} in {text!r} is neither an integer, nor a slice like 10:20 or ::2, nor '...'; "
        "expected something like '[32, 40, 20]' or '[..., 10:20]'"
    )
    raise typer.BadParameter(msg, param_hint="'SELECTION'")


def parse_options(items: Sequence[str]) -> dict[str, Any]:
    """Storage options from texts ``key=value``; a value that is JSON is taken as such.

    Raises
    ------
    typer.BadParameter
        If there is no key.
    """
    options: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            msg = f"{item!r} is not of the form key=value"
            raise typer.BadParameter(msg, param_hint="'--storage-option'")
        try:
            options[key.strip()] = json.loads(value)
        except ValueError:
            options[key.strip()] = value
    return options
