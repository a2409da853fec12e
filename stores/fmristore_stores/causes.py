"""Causes and places of errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from fmristore_stores.errors import FmristoreError

__all__ = ["causes", "naming"]


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on; each once, as one may be raised from itself."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


@contextlib.contextmanager
def naming(url: str | None, node: str | None = None) -> Iterator[None]:
    """Name a file or store, and a node in it, in errors of a block that were raised without."""
    try:
        yield
    except FmristoreError as error:
        error.url, error.node = error.url or url, error.node or node
        raise
