"""Lists of runs given to calls of one run: the call is made with each of them."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from fmristore.planning.options import ManyOptions, add_options
from fmristore_stores.errors import InvalidInputError

__all__ = ["Places", "Runs", "of_many"]

Call: TypeAlias = Callable[..., Any]

Places: TypeAlias = (
    list[str]
    | list[Path]
    | list[str | os.PathLike[str]]
    | tuple[str | os.PathLike[str], ...]
    | Mapping[str, str]
    | Mapping[str, Path]
    | Mapping[str, str | os.PathLike[str]]
)
"""Paths or URLs, one for each run, in order or by the names of the runs."""

Runs: TypeAlias = list[str] | list[Path] | list[Any] | tuple[Any, ...] | Mapping[str, Any]
"""Sources, one for each run, in order or by the names of the runs."""


def of_many(*each: str) -> Callable[[Call], Call]:
    """Let a call of one run take many runs, which it hands to `fmristore.map_runs`.

    Many runs are meant where every parameter that differs between them is a list, tuple or
    mapping; several sources for one URL remain what they are to the call. It then takes
    `ManyOptions` too, which its signature and docstring show, and returns a `RunsReport`.

    Parameters
    ----------
    *each : str
        Parameters that differ between runs. All others are for all runs.
    """

    def decorate(function: Call) -> Call:
        own = inspect.signature(function).parameters.values()
        places = [one.name for one in own if one.kind is one.POSITIONAL_OR_KEYWORD]

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            many = {name: options.pop(name) for name in _OPTIONS if name in options}
            named = dict(zip(places, args, strict=False)) | options
            lists = [named.get(name) for name in each]
            if len(args) <= len(places) and all(isinstance(one, _SEVERAL) for one in lists):
                from fmristore.many.mapping import map_runs

                others = {name: value for name, value in named.items() if name not in each}
                return map_runs(call, _calls(each, lists), **many, **others)
            if used := [name for name, value in many.items() if value not in (None, 1)]:
                raise InvalidInputError(
                    f"{', '.join(used)}: only for many runs, where {' and '.join(each)} "
                    f"{'are lists' if each[1:] else 'is a list'} with one entry for each run"
                )
            return function(*args, **options)

        add_options(call, function)
        return call

    return decorate


_OPTIONS = tuple(ManyOptions.__annotations__)
_SEVERAL = (list, tuple, Mapping)


def _calls(each: Sequence[str], lists: Sequence[Any]) -> Any:
    """Arguments of each call, in order or by name."""
    first = lists[0]
    if any(isinstance(one, Mapping) != isinstance(first, Mapping) for one in lists):
        raise InvalidInputError(f"{' and '.join(each)}: give lists, or mappings by the same names")
    if any(len(one) != len(first) for one in lists):
        lengths = " and ".join(
            f"{len(one)} of {name}" for name, one in zip(each, lists, strict=True)
        )
        raise InvalidInputError(f"{lengths}: one is needed for each run")
    if not isinstance(first, Mapping):
        return [dict(zip(each, one, strict=True)) for one in zip(*lists, strict=True)]
    if any(one.keys() != first.keys() for one in lists):
        raise InvalidInputError(f"{' and '.join(each)} name other runs: the names must be the same")
    return {run: {name: one[run] for name, one in zip(each, lists, strict=True)} for run in first}
