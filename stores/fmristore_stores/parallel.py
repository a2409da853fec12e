"""One pool of worker threads for the process, and the one way of using it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

__all__ = ["for_each", "worker_count"]

Item = TypeVar("Item")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def worker_count() -> int:
    """Threads to use: ``FMRISTORE_WORKERS`` if set, else the cores this process may run on."""
    wanted = os.environ.get("FMRISTORE_WORKERS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _workers() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(64, thread_name_prefix="fmristore")
        return _pool


def _after_fork() -> None:
    """Threads do not survive a fork, and one of them may have held the lock."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def for_each(
    function: Callable[[Item], object], items: Iterable[Item], *, workers: int | None = None
) -> None:
    """Call `function` with every item, on several threads at once, in no particular order.

    The calling thread works too, so that a call from within a worker cannot deadlock and a single
    item costs no hand-over. Items are taken one at a time from the iterable, by whichever thread
    is free: a generator is advanced only as fast as its items are used up.

    Parameters
    ----------
    function : callable
        Called with one item; should spend its time outside Python's lock.
    items : iterable
        Advanced under a lock, in any of the threads.
    workers : int, optional
        Number of threads; `worker_count` by default.

    Raises
    ------
    BaseException
        Whatever the first failing call raised; no further items are taken after it.
    """
    count = worker_count() if workers is None else workers
    if isinstance(items, list | tuple | range):
        count = min(count, len(items))
    if count <= 1:
        for item in items:
            function(item)
        return

    pending = iter(items)
    end = object()
    taking = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        while not failures:
            try:
                with taking:
                    item = next(pending, end)
                if item is end:
                    return
                function(cast("Item", item))
            except BaseException as failure:  # noqa: BLE001 - raised again by the caller
                failures.append(failure)

    helpers = [_workers().submit(work) for _ in range(count - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    if failures:
        raise failures[0]
