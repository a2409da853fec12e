"""Sizes and counts as people read and write them."""

from __future__ import annotations

import re

from fmristore_stores.errors import InvalidInputError

__all__ = ["counted", "parse_size", "size_text"]

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?(?:e\+?[0-9]{1,2})?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)


def parse_size(value: int | float | str) -> int:
    """Number of bytes that a number, or a text such as ``512MB``, ``2GiB`` or ``1e9``, means.

    Parameters
    ----------
    value : int, float or str
        A number is taken as it is, without its fraction.

    Raises
    ------
    InvalidInputError
        If it is neither a number nor the text of one that is one byte or more.
    """
    if isinstance(value, str):
        found = _SIZE.fullmatch(value.strip())
        if found is not None:
            number, prefix, binary = found.groups()
            power = " kmgt".index((prefix or " ").lower())
            size = int(float(number) * (1024 if binary else 1000) ** power)
            if size >= 1:
                return size
    else:
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise InvalidInputError(f"{value!r} is not a size; expected something like 512MB, 2GiB or 1e9")


def counted(count: int, noun: str) -> str:
    """Count with its noun, in the plural unless it is one: ``1 run``, ``2 runs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(count: int | None) -> str:
    """Number of bytes with a binary unit, such as ``1.5 MiB``; None is ``unknown``."""
    if count is None:
        return "unknown"
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"
