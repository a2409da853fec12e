"""One function over many runs."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fmristore.formats.base import StoredObject
from fmristore.many.executors import outcomes
from fmristore.many.journal import Journal
from fmristore.many.report import Outcome, RunsReport, run_name
from fmristore.many.task import Task, takes_option
from fmristore.planning.progress import Progress
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.io.location import exists, normalise

__all__ = ["do_tasks", "map_runs"]


def map_runs(
    function: Callable[..., Any],
    runs: Mapping[str, Any] | Iterable[Any],
    *,
    executor: Any = None,
    jobs: int = 1,
    journal: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> RunsReport:
    """Call a function with each of many runs, on as many workers as there are; failures are kept.

    Workers get arguments and return what the function returns; data go from storage to the worker
    and back. A stored object that is returned is closed and becomes its URL. A run that fails
    stops no other one.

    Parameters
    ----------
    function : callable
        Such as `fmristore.convert`, `parcellate`, `transcode`, `verify`, or a function of your
        own that workers can import.
    runs : mapping of str to arguments, or iterable of arguments
        Arguments of one call: a tuple by position, a mapping by name, anything else is the first
        one. Runs of an iterable are called by their output, or else by their first argument.
    executor : object, optional
        Anything with ``submit`` of `concurrent.futures`: threads, processes, or a
        ``dask.distributed.Client``.
    jobs : int
        Without an executor: processes on this machine. With more than one, a script needs the
        usual ``if __name__ == "__main__":``.
    journal : str or path, optional
        File that says what was done, from which files and with which options. With it, the same
        call goes on where an earlier one ended: runs that are done and whose files are the same
        (size and time, or digest) are not done again. Without it every run is done.
    storage_options : mapping, optional
        Passed to fsspec; handed to the function too, if it takes them.
    progress : callable, optional
        Called with the number of runs done and in all.
    **options
        Passed to every call.

    Returns
    -------
    RunsReport
        What became of each run.

    Raises
    ------
    InvalidInputError
        If two runs have one name or one output, or the executor is none.
    MetadataError
        If `journal` is no journal.

    Examples
    --------
    >>> import fmristore as fs
    >>> pairs = [("sub-01_bold.nii.gz", "sub-01_bold.h5")]
    >>> report = fs.map_runs(fs.convert, pairs, jobs=4)                       # doctest: +SKIP
    >>> print(report)                                                         # doctest: +SKIP
    1 run: 1 done, 0 unchanged, 0 failed
    """
    _signature(function)
    if storage_options is not None and takes_option(function, "storage_options"):
        options["storage_options"] = storage_options
    named = runs.items() if isinstance(runs, Mapping) else ((None, one) for one in runs)
    tasks = [_task(function, name, given, options) for name, given in named]
    return do_tasks(
        tasks,
        executor=executor,
        jobs=jobs,
        journal=journal,
        storage_options=storage_options,
        progress=progress,
    )


def do_tasks(
    tasks: Iterable[Task],
    *,
    executor: Any = None,
    jobs: int = 1,
    journal: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    each: Callable[[Outcome], object] | None = None,
) -> RunsReport:
    """Do tasks; see `map_runs`.

    Parameters
    ----------
    tasks : iterable of Task
    executor, jobs, journal, storage_options, progress
        See `map_runs`.
    each : callable, optional
        Called with every outcome as it comes.
    """
    planned = list(tasks)
    _check_names(planned)
    found: dict[str, Outcome] = {}
    with contextlib.ExitStack() as stack:
        kept = None
        if journal is not None:
            kept = stack.enter_context(Journal(journal, storage_options))
            planned = [_tracked(task, kept) for task in planned]
            # What was not there is ours from now on: a kill may leave it finished and unnoted.
            begun = {task.name for task in planned if task.record == _BEGUN}
            kept.note(dict.fromkeys(begun, _BEGUN), new=True)
        for outcome in stack.enter_context(contextlib.closing(outcomes(planned, executor, jobs))):
            found[outcome.name] = outcome
            if kept is not None and outcome.state != "failed" and outcome.record is not None:
                kept.note({outcome.name: outcome.record})
            if each is not None:
                each(outcome)
            if progress is not None:
                progress(len(found), len(planned))
    return RunsReport(tuple(found[task.name] for task in planned))


_BEGUN = {"state": "begun"}


def _tracked(task: Task, journal: Journal) -> Task:
    """The task with what the journal knows of it; None if its output is somebody else's."""
    record = journal.entries.get(task.name)
    if record is None and task.output is not None:
        theirs = exists(normalise(task.output), task.storage_options)
        record = None if theirs else _BEGUN
    return replace(task, tracked=True, record=record)


def _check_names(tasks: list[Task]) -> None:
    for what in ("name", "output"):
        seen: set[str] = set()
        for task in tasks:
            value = getattr(task, what)
            if value in seen and value is not None:
                raise InvalidInputError(f"two runs have the {what} {value!r:.200}")
            seen.add(value)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{function!r:.80} cannot be called with runs") from error


def _task(
    function: Callable[..., Any], name: str | None, given: Any, options: Mapping[str, Any]
) -> Task:
    """One call as a task: ``source`` is what is stored, and ``url`` where it goes."""
    args: tuple[Any, ...] = ()
    named = dict(options)
    if isinstance(given, Mapping):
        named |= given
    else:
        args = given if isinstance(given, tuple) else (given,)
    try:
        bound = _signature(function).bind(*args, **named).arguments
    except TypeError as error:
        raise InvalidInputError(f"arguments of the run {name or given!r:.80}: {error}") from error
    bound = {**bound, **bound.get("options", {})} if "options" in bound else bound
    output = bound.get("url") if "source" in bound else None
    given_files = {key: _place_of(value) for key, value in bound.items() if key in _FILES}
    texts = {key: text for key, text in given_files.items() if text is not None}
    inputs = tuple(text for key, text in texts.items() if not (key == "url" and output is not None))
    target = None if output is None else os.fspath(output)
    title = name or target or next(iter(inputs), None) or f"{next(iter(bound.values()), '')!s:.200}"
    return Task(
        name=run_name(title),
        function=function,
        args=args,
        options=named,
        inputs=inputs,
        output=target,
    )


def _place_of(value: Any) -> str | None:
    """Path or URL of a file, or of a stored object; None for anything else."""
    if isinstance(value, StoredObject):
        return value.url
    return os.fspath(value) if isinstance(value, str | os.PathLike) else None


_FILES = ("source", "labels", "names", "mask", "weights", "url", "path", "run")
"""Parameters that are files and stores, by the words that all functions here have for them."""
