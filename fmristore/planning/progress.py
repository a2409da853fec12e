"""Progress reports of long work."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress"]

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes there are."""
