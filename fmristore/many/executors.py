"""Tasks through anything that runs them: this process, other ones, threads, a cluster."""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fmristore.many.report import Outcome
from fmristore.many.task import Task, failure, perform
from fmristore_stores.chunks.threads import worker_count
from fmristore_stores.errors import DependencyError, InvalidInputError, StorageError

__all__ = ["connect", "outcomes"]


def outcomes(
    tasks: Sequence[Task], executor: Any = None, jobs: int = 1
) -> Generator[Outcome, None, None]:
    """Do tasks, and yield what became of each as it ends.

    Parameters
    ----------
    tasks : sequence of Task
    executor : object, optional
        Has ``submit`` as `concurrent.futures` has it, or is a client of dask.distributed.
    jobs : int
        Without an executor: processes on this machine; 1 is this process itself.

    Raises
    ------
    InvalidInputError
        If `jobs` is less than 1, or the executor is none.
    """
    if jobs < 1:
        raise InvalidInputError(f"{jobs} jobs: expected 1 or more")
    if executor is not None:
        yield from _submitted(tasks, _as_executor(executor))
    elif jobs == 1 or len(tasks) < 2:
        yield from map(perform, tasks)
    else:
        yield from _by_processes(tasks, min(jobs, len(tasks)))


def _as_executor(given: Any) -> Any:
    """An executor of concurrent.futures, or anything whose ``submit`` gives its futures."""
    if hasattr(given, "get_executor"):  # dask.distributed would take equal calls for one
        return given.get_executor(pure=False)
    if not callable(getattr(given, "submit", None)):
        raise InvalidInputError(
            f"a {type(given).__name__} is no executor: expected one of concurrent.futures, or a "
            "client of dask.distributed"
        )
    return given


def _submitted(tasks: Sequence[Task], executor: Any) -> Iterator[Outcome]:
    futures: dict[Any, Task] = {}
    try:
        for task in tasks:
            futures[executor.submit(perform, task)] = task
        standard = all(isinstance(future, cf.Future) for future in futures)
        for future in cf.as_completed(futures) if standard else list(futures):
            yield _outcome(future, futures[future])
    finally:
        for future in futures:
            future.cancel()


def _outcome(future: Any, task: Task) -> Outcome:
    """Outcome of a future; the death of its worker is the outcome of the run."""
    try:
        found = future.result()
    except BrokenProcessPool:
        return _died(task)
    except Exception as error:  # noqa: BLE001 - executors have errors of their own
        return failure(task.name, error)
    assert isinstance(found, Outcome)
    return found


def _died(task: Task) -> Outcome:
    return failure(
        task.name,
        StorageError(
            "its process was killed, perhaps for want of memory: lower max_memory or jobs"
        ),
    )


# Processes of this machine --------------------------------------------------------------------


def _by_processes(tasks: Sequence[Task], jobs: int) -> Iterator[Outcome]:
    """Do tasks in processes; a task whose process dies takes no other one with it.

    No more tasks are handed out than there are processes, so that few are suspected of what broke
    the pool. These are done once more, each in a process of its own.
    """
    waiting = deque(tasks)
    while waiting:
        suspects: list[Task] = []
        with _pool(jobs) as pool:
            running: dict[cf.Future[Outcome], Task] = {}
            try:
                while (waiting or running) and not suspects:
                    while waiting and len(running) < jobs:
                        running[pool.submit(perform, waiting[0])] = waiting[0]
                        waiting.popleft()
                    ended, _ = cf.wait(running, return_when=cf.FIRST_COMPLETED)
                    for future in ended:
                        task = running.pop(future)
                        if isinstance(future.exception(), BrokenProcessPool):
                            suspects.append(task)
                        else:
                            yield _outcome(future, task)
            except BrokenProcessPool:  # found out by handing a task over, which is still waiting
                suspects += running.values()
                running.clear()
            suspects += running.values()
        for task in suspects:
            with _pool(1, jobs) as alone:
                yield _outcome(alone.submit(perform, task), task)


@contextlib.contextmanager
def _pool(processes: int, jobs: int | None = None) -> Iterator[cf.ProcessPoolExecutor]:
    """Processes that start afresh: forks of a process with threads may hang."""
    threads = max(1, worker_count() // (jobs or processes))
    pool = cf.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(threads,),
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(threads: int) -> None:
    """Let the processes of one machine share its cores, and warn in one line."""
    os.environ.setdefault("FMRISTORE_WORKERS", str(threads))
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"


@contextlib.contextmanager
def connect(scheduler: str | None) -> Iterator[Any]:
    """Client of a scheduler of dask.distributed; None without an address.

    Parameters
    ----------
    scheduler : str, optional
        Address, such as ``tcp://node1:8786``.

    Raises
    ------
    DependencyError
        If dask.distributed is not installed.
    StorageError
        If nobody answers there.
    """
    if scheduler is None:
        yield None
        return
    try:
        import distributed
    except ImportError as error:
        raise DependencyError('a scheduler needs dask: pip install "fmristore[dask]"') from error
    library: Any = distributed
    try:
        client = library.Client(scheduler)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        raise StorageError(f"no scheduler of dask answers: {error}", url=scheduler) from error
    with client:
        yield client
