"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["size_text"]


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
