"""Going through what generators yield, so that files that they read are closed in time."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

__all__ = ["streaming"]

Item = TypeVar("Item")


@contextlib.contextmanager
def streaming(items: Iterable[Item]) -> Iterator[Iterable[Item]]:
    """Context in which items are gone through; a generator of them is closed at its end.

    Otherwise one that is left in the middle, because a write failed, keeps its file open for as
    long as anybody holds the traceback of the error.

    Parameters
    ----------
    items : iterable
        Perhaps a generator.
    """
    try:
        yield items
    finally:
        if isinstance(items, Generator):
            items.close()
