"""Cost of reading: requests, bytes and chunks, counted where they happen.

Sources of bytes and readers of chunks add to one `Stats` for each store and process, found by the
store's URL.
"""

from __future__ import annotations

import abc
import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from fmristore_stores.io.alive import AliveValues
from fmristore_stores.io.forks import in_forked_child

__all__ = ["Counts", "Stats", "Watch", "stats_of"]


_MOST_NEW = 1024
"""Counts of one store that wait to be added up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts up to one moment, or between two.

    Parameters
    ----------
    requests : int
        Requests to a server, or reads of a local file.
    bytes_fetched : int
        Bytes that they returned.
    chunks : int
        Chunks decoded, whole or in part. One that was found in memory is not counted.
    bytes_decoded : int
        Bytes that decoding them gave.
    """

    requests: int = 0
    bytes_fetched: int = 0
    chunks: int = 0
    bytes_decoded: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            requests=self.requests - other.requests,
            bytes_fetched=self.bytes_fetched - other.bytes_fetched,
            chunks=self.chunks - other.chunks,
            bytes_decoded=self.bytes_decoded - other.bytes_decoded,
        )


class _Readable(abc.ABC):
    """Names of counts as properties of whatever has `counts`."""

    @property
    @abc.abstractmethod
    def counts(self) -> Counts:
        """All of them at this moment."""

    @property
    def requests(self) -> int:
        """Requests to a server, or reads of a local file."""
        return self.counts.requests

    @property
    def bytes_fetched(self) -> int:
        """Bytes that they returned."""
        return self.counts.bytes_fetched

    @property
    def chunks(self) -> int:
        """Chunks decoded, whole or in part."""
        return self.counts.chunks

    @property
    def bytes_decoded(self) -> int:
        """Bytes that decoding them gave."""
        return self.counts.bytes_decoded


class Stats(_Readable):
    """Running counts of one store in this process, in any number of threads.

    Examples
    --------
    >>> stats = Stats()
    >>> with stats.watch() as read:
    ...     stats.add(requests=2, bytes_fetched=100)
    >>> read.requests, stats.bytes_fetched
    (2, 100)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = [0, 0, 0, 0]
        self._new: deque[tuple[int, int, int, int]] = deque()
        """Counts that are not added to the values yet: nobody who counts takes a lock."""

    def add(
        self, requests: int = 0, bytes_fetched: int = 0, chunks: int = 0, bytes_decoded: int = 0
    ) -> None:
        """Count something."""
        new = self._new
        new.append((requests, bytes_fetched, chunks, bytes_decoded))
        if len(new) > _MOST_NEW:
            self._added()

    def _added(self) -> list[int]:
        """All counts; takes what is new among them."""
        with self._lock:
            columns = zip(*[self._new.popleft() for _ in range(len(self._new))], strict=True)
            found = [value + sum(new) for value, new in zip(self._values, columns, strict=False)]
            self._values = found or self._values
            return self._values

    @property
    def counts(self) -> Counts:
        """Counts since the start or the last `reset`."""
        requests, fetched, chunks, decoded = self._added()
        return Counts(
            requests=requests, bytes_fetched=fetched, chunks=chunks, bytes_decoded=decoded
        )

    def reset(self) -> None:
        """Start again from zero."""
        with self._lock:
            self._new.clear()
            self._values = [0, 0, 0, 0]

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watch]:
        """Count what happens inside a ``with`` block.

        Yields
        ------
        Watch
            Counts since the block began; they stand still when it ends.
        """
        watch = Watch(self)
        try:
            yield watch
        finally:
            watch.stop()

    def __repr__(self) -> str:
        return repr(self.counts)

    def after_fork(self) -> None:
        """In a child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()


class Watch(_Readable):
    """Counts since a moment.

    Parameters
    ----------
    stats : Stats
        What is watched.
    """

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._begin = stats.counts
        self._end: Counts | None = None

    @property
    def counts(self) -> Counts:
        """Counts since the start, up to now or to `stop`."""
        return (self._stats.counts if self._end is None else self._end) - self._begin

    def stop(self) -> None:
        """Let the counts stand still."""
        if self._end is None:
            self._end = self._stats.counts

    def __repr__(self) -> str:
        return repr(self.counts)


_lock = threading.Lock()
_stats: AliveValues[str, Stats] = AliveValues()


def stats_of(url: str) -> Stats:
    """Counts of the store at a normalised URL, shared by all that read it in this process.

    They begin again when nobody holds them any more.
    """
    found = _stats.get(url)
    if found is None:
        with _lock:
            found = _stats.get(url) or _stats.put(url, Stats())
    return found


@in_forked_child
def _after_fork() -> None:
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    for stats in list(_stats.values()):
        stats.after_fork()
