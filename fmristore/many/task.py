"""One run as plain arguments, and doing it: all that goes to a worker and all that comes back."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fmristore.formats.base import StoredObject
from fmristore.many.report import Outcome
from fmristore_stores.errors import ChangedError, FmristoreError
from fmristore_stores.io.local_files import open_ordinary
from fmristore_stores.io.location import content_token, exists, is_local, kind_of_name, normalise
from fmristore_stores.io.sources import storage_error
from fmristore_stores.secrets import masked

__all__ = ["Task", "failure", "perform", "takes_option"]

_MOST_TRACEBACK = 4000
_PASSING = frozenset({"overwrite", "replace", "storage_options", "max_memory", "progress"})
"""Options that do not change what is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run to be done.

    Parameters
    ----------
    name : str
        Of the run.
    function : callable
        Importable by workers.
    args : tuple
        Positional arguments.
    options : mapping
        Keyword arguments.
    inputs : tuple of str
        Files and stores that it is made from.
    output : str or None
        Store that it makes, if it makes one.
    tracked : bool
        Whether a journal keeps a record.
    record : mapping or None
        What the journal has of it; None if it knows nothing.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = field(default=(), repr=False)
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    inputs: tuple[str, ...] = ()
    output: str | None = None
    tracked: bool = False
    record: Mapping[str, Any] | None = None

    @property
    def storage_options(self) -> Mapping[str, Any] | None:
        """Options that are passed to fsspec."""
        found: Mapping[str, Any] | None = self.options.get("storage_options")
        return found


def perform(task: Task) -> Outcome:
    """Do a run, and say what became of it: an error of the run is no error of the worker."""
    started = time.perf_counter()
    try:
        outcome = _perform(task)
    except Exception as error:  # noqa: BLE001 - whatever one run raises, the others go on
        outcome = failure(task.name, error)
    seconds = time.perf_counter() - started
    return replace(outcome, seconds=seconds)


def failure(name: str, error: BaseException) -> Outcome:
    """Outcome of a run that raised an error."""
    own = isinstance(error, FmristoreError)
    lines = "" if own else "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:]
    record = {"error": type(error).__name__}
    text = masked(f"{type(error).__name__}: {error}")
    return Outcome(name=name, state="failed", error=text, traceback=masked(lines), record=record)


def _perform(task: Task) -> Outcome:
    if not task.tracked:
        return Outcome(name=task.name, state="done", result=_plain(_call(task, {})))
    stamps = [_stamp(url, task.storage_options) for url in task.inputs]
    made = _digest_options(task)
    more: dict[str, Any] = {}
    if task.record is not None and _is_there(task):
        finished = task.record.get("state") == "done" and task.record.get("options") == made
        if finished and _same_inputs(task, stamps):
            record = {**task.record, "inputs": stamps}
            return Outcome(name=task.name, state="unchanged", result=task.output, record=record)
        token = task.record.get("output")
        if token is not None and token != _token(task):
            raise ChangedError(
                "made before from files or options that have changed, and changed itself since: "
                "remove it, or pass overwrite=True, to make it again",
                url=task.output,
            )
        if task.output is not None and takes_option(task.function, "overwrite"):
            more = {"overwrite": True}
    result = _plain(_call(task, more))
    after = [_stamp(url, task.storage_options) for url in task.inputs]
    if [_place(one) for one in after] != [_place(one) for one in stamps]:
        raise ChangedError("a source changed while it was read: do this run again")
    stamps = [_with_digest(one, url) for one, url in zip(stamps, task.inputs, strict=True)]
    # What was found not to be well, by `verify`, is looked at again next time.
    state = "done" if getattr(result, "ok", True) else "not well"
    record = {"state": state, "inputs": stamps, "options": made, "output": _token(task)}
    return Outcome(name=task.name, state="done", result=result, record=record)


def takes_option(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function has a parameter of a name, or takes any."""
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _call(task: Task, more: Mapping[str, Any]) -> Any:
    return task.function(*task.args, **{**task.options, **more})


def _plain(result: Any) -> Any:
    """A result that can travel: a stored object stays where it is, and is closed."""
    if isinstance(result, StoredObject):
        with result:
            return result.url
    return result


# What a run was made from ---------------------------------------------------------------------


def _stamp(url: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Size and time of a local file, or what stands for the version of anything else."""
    place = normalise(url)
    if is_local(place) and not Path(place).is_dir():
        try:
            status = Path(place).stat()
        except OSError as error:
            raise storage_error(error, place) from error
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    kind = kind_of_name(place) or "hdf5"
    return {"token": content_token(place, kind, options)}


def _place(stamp: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stamp.items() if name != "sha256"}


def _with_digest(stamp: dict[str, Any], url: str) -> dict[str, Any]:
    return stamp | {"sha256": _sha256(url)} if "size" in stamp else stamp


def _sha256(url: str) -> str:
    path = normalise(url)
    try:
        with open(open_ordinary(path), "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise storage_error(error, path) from error


def _same_inputs(task: Task, stamps: list[dict[str, Any]]) -> bool:
    """Return whether the sources are those of the record; a copied file has another time only."""
    known = task.record.get("inputs", []) if task.record is not None else []
    if len(known) != len(stamps):
        return False
    for index, (old, new) in enumerate(zip(known, stamps, strict=True)):
        if _place(old) != new:
            digest = old.get("sha256")
            if digest is None or old.get("size") != new.get("size"):
                return False
            if digest != _sha256(task.inputs[index]):
                return False
        if "sha256" in old:
            new["sha256"] = old["sha256"]
    return True


def _is_there(task: Task) -> bool:
    return task.output is None or exists(normalise(task.output), task.storage_options)


def _token(task: Task) -> str | None:
    """Content token of the store that was made."""
    if task.output is None:
        return None
    url = normalise(task.output)
    return content_token(url, kind_of_name(url) or "hdf5", task.storage_options)


def _digest_options(task: Task) -> str:
    """Digest of everything besides files that decides what is made; files are but numbers in it."""
    places = {os.fspath(one): f"#{index}" for index, one in enumerate(task.inputs)}
    if task.output is not None:
        places[os.fspath(task.output)] = "#output"
    named = {name: value for name, value in task.options.items() if name not in _PASSING}
    kept = [_name_of(task.function), _placed(task.args, places), _placed(named, places)]
    text = json.dumps(kept, sort_keys=True, default=_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _placed(value: Any, places: Mapping[str, str]) -> Any:
    """Arguments with numbers for the files of the task, so that these may be moved together."""
    if isinstance(value, str | os.PathLike):
        return places.get(os.fspath(value), os.fspath(value))
    if isinstance(value, Mapping):
        return {str(key): _placed(one, places) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_placed(one, places) for one in value]
    return value


def _name_of(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"


def _text(value: Any) -> str:
    """Text that differs where values do; the ``repr`` of an array leaves most of it out."""
    if inspect.isroutine(value):
        return _name_of(value)
    try:
        return hashlib.sha256(pickle.dumps(value)).hexdigest()
    except (pickle.PicklingError, TypeError, AttributeError):
        return repr(value)
