"""Worker threads of the process, and the one way of using them.

The thread that asks for work may be interrupted (Ctrl-C) at any point of its Python code, and must
neither leave a lock behind nor wait for ever afterwards. The locks and queues of
`concurrent.futures` and `threading` are entered by Python code and can be left locked that way. So
only primitives are used here that Python enters and leaves in one step: locks and a simple queue.
"""

from __future__ import annotations

import _thread
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar, cast

from fmristore_stores.io.forks import in_forked_child

__all__ = ["as_they_come", "for_each", "later", "meanwhile", "worker_count"]

Item = TypeVar("Item")

_MOST_THREADS = 64


class _Help:
    """Work that another thread may take part in, unless it is taken back before.

    Threads of the pool hold on to nothing of it afterwards: they end with the interpreter wherever
    they are, and one that then closes something of h5py would hold h5py's lock for ever.
    """

    __slots__ = ("_owner", "_running", "_work")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work: Callable[[], object] | None = work
        self._owner: dict[str, str] = {}  # `setdefault` decides once, in one step
        self._running = _thread.allocate_lock()
        self._running.acquire()

    def run(self) -> None:
        """Do it, in a thread of the pool; `work` keeps its errors to itself."""
        if self._owner.setdefault("owner", "helper") == "helper":
            try:
                if self._work is not None:
                    self._work()
            finally:
                self._work = None
                self._running.release()

    def end(self) -> None:
        """Take it back, or wait until it is done; harmless when repeated after an interrupt."""
        if self._owner.setdefault("owner", "caller") == "helper":
            with self._running:
                pass
        self._work = None


class _Pool:
    """Threads that wait for something to help with; they end with the process."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[_Help] = SimpleQueue()
        self._threads = 0

    def grow(self, count: int) -> None:
        """Have so many threads; fewer where the system gives no more."""
        with contextlib.suppress(RuntimeError):
            while self._threads < min(count, _MOST_THREADS):
                _thread.start_new_thread(self._serve, ())
                self._threads += 1

    def submit(self, help_: _Help) -> None:
        """Have it run by whichever thread is free first."""
        self._queue.put(help_)

    def _serve(self) -> None:
        while True:
            self._queue.get().run()


_pool = _Pool()
_waiting = _Pool()
"""For more threads than there are cores, which wait for disks and servers. Each thread keeps some
of the memory that it worked in, so that work which needs memory stays on few of them."""


def worker_count() -> int:
    """Threads to use: ``FMRISTORE_WORKERS`` if set, else the cores this process may run on."""
    wanted = os.environ.get("FMRISTORE_WORKERS", "")
    if wanted.isdecimal() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@in_forked_child
def _after_fork() -> None:
    """Threads do not survive a fork."""
    global _pool, _waiting
    _pool, _waiting = _Pool(), _Pool()


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
    taking = _thread.allocate_lock()
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

    pool = _pool if count <= worker_count() else _waiting
    helps: list[_Help] = []
    try:
        pool.grow(count - 1)
        for _ in range(count - 1):
            helps.append(_Help(work))
            pool.submit(helps[-1])
        work()
        _end(helps)
    except BaseException as interrupt:
        failures.append(interrupt)  # the others stop after the item that they are at
        _end(helps)
        raise
    if failures:
        raise failures[0]


def _end(helps: Iterable[_Help]) -> None:
    for help_ in helps:
        help_.end()


@contextlib.contextmanager
def as_they_come(
    function: Callable[[Item], object],
) -> Iterator[Callable[[Sequence[Item]], None]]:
    """Call `function` with items that become known while the block runs, on worker threads.

    The calling thread does what is left of them at the end of the block.

    Parameters
    ----------
    function : callable
        As of `for_each`.

    Yields
    ------
    callable
        Takes more items, in any thread.

    Raises
    ------
    BaseException
        Whatever the first failing call raised, unless the block raised itself.
    """
    workers = worker_count()
    pool = _pool
    pending: SimpleQueue[Item] = SimpleQueue()
    failures: list[BaseException] = []
    helps: list[_Help] = []

    def work() -> None:
        with contextlib.suppress(Empty):
            while not failures:
                item = pending.get_nowait()
                try:
                    function(item)
                except BaseException as failure:  # noqa: BLE001 - raised again by the caller
                    failures.append(failure)

    def add(items: Sequence[Item]) -> None:
        for item in items:
            pending.put(item)
        if workers > 1:
            pool.grow(workers)
            for _ in range(min(workers, len(items))):
                helps.append(_Help(work))
                pool.submit(helps[-1])

    try:
        yield add
        work()
        _end(helps)
    except BaseException as interrupt:
        failures.append(interrupt)  # the others stop after the item that they are at
        _end(helps)
        raise
    if failures:
        raise failures[0]


@contextlib.contextmanager
def meanwhile(function: Callable[[], object]) -> Iterator[None]:
    """Call `function` on another thread while the block runs: `later`, at once."""
    with later(function) as start:
        start()
        yield


@contextlib.contextmanager
def later(function: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Block in which `function` can be begun on another thread, or after it if none is free.

    For what waits, such as for disks. It has ended when the block has, also where that raises.

    Yields
    ------
    callable
        Begins it, in any thread; harmless when repeated.

    Raises
    ------
    BaseException
        Whatever `function` raised, unless the block raised itself.
    """
    helps: list[_Help] = []
    outcome: list[BaseException | None] = []

    def work() -> None:
        try:
            function()
            outcome.append(None)
        except BaseException as failure:  # noqa: BLE001 - raised again by the caller
            outcome.append(failure)

    def start() -> None:
        if helps:
            return
        helps.append(_Help(work))
        _waiting.grow(1)
        _waiting.submit(helps[-1])

    try:
        yield start
    finally:
        _end(helps)
    if helps and not outcome:
        work()
    if outcome and outcome[0] is not None:
        raise outcome[0]
