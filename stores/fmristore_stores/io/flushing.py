"""Writing to local files, and bringing them to the disk."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fmristore_stores.errors import StorageError
from fmristore_stores.protocol import Buffer

__all__ = ["MOST_WRITTEN", "sync", "write_parts"]

MOST_WRITTEN = 1 << 20
"""Bytes that are written with one call.

For more of them Linux takes memory in pieces of 2 MiB. A virtual machine gives such pieces back to
its host while they are free, and to get them again may take ten times as long as the copy.
"""
_MOST_PARTS = 64
"""Pieces of memory that are written with one call; all systems allow some hundred."""
_HAS_WRITEV = hasattr(os, "writev")
_TO_SYNC = os.O_RDWR | getattr(os, "O_BINARY", 0) if os.name == "nt" else os.O_RDONLY
"""Windows syncs only what is open for writing; elsewhere directories are synced as well."""


def sync(path: str) -> None:
    """Make a file, or the names in a directory, survive a power cut."""
    if os.name == "nt" and os.path.isdir(path):  # noqa: PTH112 - Windows cannot open directories
        return
    descriptor = os.open(path, _TO_SYNC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_parts(descriptor: int, parts: Sequence[Buffer], path: str) -> None:
    """Write pieces of memory to the open file `path`, many of them with one call."""
    views = (memoryview(part).cast("B") for part in parts)
    left = [view for view in views if view.nbytes][::-1]
    while left:
        some, room = [], MOST_WRITTEN
        for view in left[: -_MOST_PARTS - 1 : -1]:
            some.append(view[:room])
            room -= some[-1].nbytes
            if not room:
                break
        done = os.writev(descriptor, some) if _HAS_WRITEV else os.write(descriptor, some[0])
        if not done:
            raise StorageError("the system wrote nothing", url=path)
        while left and done >= left[-1].nbytes:
            done -= left.pop().nbytes
        if done:
            left[-1] = left[-1][done:]
