"""Options that many calls share: written down once, and shown by each call as its own."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, TypeVar, cast

from fmristore.planning.layout import Access, Order
from fmristore.planning.progress import Progress
from fmristore_stores.errors import InvalidInputError

__all__ = [
    "DEFAULTS",
    "LayoutOptions",
    "ManyOptions",
    "StoreOptions",
    "WriteOptions",
    "add_options",
    "takes",
]

Called = TypeVar("Called", bound=Callable[..., Any])

_ENTRY = re.compile(r"^(?P<names>\w+(?:, \w+)*) :.*\n(?:(?:    .*)?\n)*", re.MULTILINE)
"""An entry of the section on parameters of a docstring."""

_REST = re.compile(r"^\*\*options\n(?:    .*\n)*", re.MULTILINE)
"""The entry that stands for all shared options."""


class WriteOptions(TypedDict, total=False):
    """Options of whatever writes a file or store.

    Parameters
    ----------
    overwrite : bool
        Replace what is there, once what is new is complete.
    storage_options : mapping, optional
        Passed to fsspec, for all URLs of the call.
    max_memory : int or str
        Bytes that this may take, as a number or as in ``"512MB"``.
    progress : callable, optional
        Called with the bytes done and in all.
    """

    overwrite: bool
    storage_options: Mapping[str, Any] | None
    max_memory: int | str
    progress: Progress | None


class StoreOptions(WriteOptions, total=False):
    """Options of whatever makes a new store.

    Parameters
    ----------
    codec : str, optional
        Preset: ``"portable"`` (default for HDF5: any HDF5 reader), ``"dual"`` (default for Zarr:
        the same bytes in both stores), ``"fast"``, ``"archive"`` (a tenth smaller; read by
        fmristore, and from Zarr by zarr-python, both with the package pcodec) or ``"none"``.
    profile : {"r"}, optional
        Write an HDF5 file exactly as the R package does, if it has the format; see
        ``docs/reference/r.md``. Most files are readable in R without it.
    overwrite, storage_options, max_memory, progress
        See `WriteOptions`.
    """

    codec: str | None
    profile: str | None


class LayoutOptions(StoreOptions, total=False):
    """Options of whatever stores images on their whole grid.

    Parameters
    ----------
    access : {"time", "volume", "balanced", "both"}, optional
        What is read most: time series (the default), whole volumes, or some of both. ``"both"``
        stores a run twice, for time and for volumes, and every read takes the copy that has less
        to decode for it.
    order : {"auto", "canonical"}, optional
        Order inside chunks; ``"canonical"`` (x fastest) by default for the preset ``"portable"``.
    codec, profile, overwrite, storage_options, max_memory, progress
        See `StoreOptions` and `WriteOptions`.
    """

    access: Access | None
    order: Order | None


class ManyOptions(TypedDict, total=False):
    """Options of a call that many runs are given to, as lists; see `fmristore.map_runs`.

    Parameters
    ----------
    executor : object, optional
        Workers for many runs: an executor of `concurrent.futures`, or a client of
        dask.distributed.
    jobs : int
        Processes on this machine for many runs, without an executor.
    journal : str or path, optional
        File that says which of many runs are done: with it, the same call goes on where an
        earlier one ended.
    """

    executor: Any
    jobs: int
    journal: str | os.PathLike[str] | None


DEFAULTS: Mapping[str, Any] = {
    "access": None,
    "order": None,
    "codec": None,
    "profile": None,
    "overwrite": False,
    "storage_options": None,
    "max_memory": 1 << 30,
    "progress": None,
}
"""Value of each shared option that is not given, in the order in which they are shown."""

_OF_MANY: Mapping[str, Any] = {"executor": None, "jobs": 1, "journal": None}
"""The same of `ManyOptions`."""


_ALIASES = {
    "affine": "space",
    "img": "source",
    "labels_img": "parcellation",
    "mask_img": "mask",
    "t_r": "tr",
    "repetition_time": "tr",
    "compression": "codec",
    "compressor": "codec",
    "chunks": "access",
    "force": "overwrite",
    "clobber": "overwrite",
}
"""Names that other packages have for options of the calls here."""


_SHARING = frozenset({"jobs", "n_jobs", "executor", "client", "scheduler"})
"""Options of calls of many runs, which users look for in every call."""


def takes(kind: type[Any], **defaults: Any) -> Callable[[Called], Called]:
    """Let a call with ``**options: Unpack[kind]`` show each option, and refuse any other.

    Type checkers and editors see the options by the annotation; ``inspect.signature``, ``help``
    and notebooks by the signature and the docstring that the call is given here, in which the
    entry ``**options`` becomes one for each option that has none.

    Parameters
    ----------
    kind : type
        `WriteOptions`, `StoreOptions` or `LayoutOptions`.
    **defaults
        Values that are shown in place of those of `DEFAULTS`.
    """

    def decorate(function: Called) -> Called:
        own = inspect.signature(function)
        given = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        shared = _parameters(kind, {**DEFAULTS, **defaults})
        known = [one.name for one in (*given, *shared)]

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            for name in options:
                if name not in known:
                    raise _unknown(function.__qualname__, name, known)
            return function(*args, **options)

        shown: Any = call
        shown.__signature__ = own.replace(parameters=[*given, *shared])
        shown.__doc__ = _documented(function.__doc__, kind)
        return cast("Called", shown)

    return decorate


def add_options(call: Any, function: Callable[..., Any]) -> None:
    """Let a call that takes `ManyOptions` besides those of a function show all of them."""
    own = inspect.signature(function)
    parameters = [*own.parameters.values(), *_parameters(ManyOptions, _OF_MANY)]
    call.__signature__ = own.replace(parameters=parameters)
    if function.__doc__ is not None and ManyOptions.__doc__ is not None:
        before, title, after = inspect.cleandoc(function.__doc__).partition("\n\nReturns\n")
        added = "".join(_entries(ManyOptions).values())
        call.__doc__ = f"{before}\n{added.rstrip()}{title}{after}"


def _parameters(kind: type[Any], defaults: Mapping[str, Any]) -> list[inspect.Parameter]:
    """Parameters for the options of a kind."""
    notes = kind.__annotations__
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=value,
            annotation=getattr(notes[name], "__forward_arg__", Any),
        )
        for name, value in defaults.items()
        if name in notes
    ]


def _unknown(call: str, name: str, known: list[str]) -> InvalidInputError:
    alias = _ALIASES.get(name.lower())
    near = [alias] if alias in known else difflib.get_close_matches(name, known, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known[1:])}"
    if name in _SHARING:
        hint = "many runs are shared among workers by executor= or jobs= of fmristore.map_runs"
    return InvalidInputError(f"{call} has no option {name!r}; {hint}")


def _documented(docstring: str | None, kind: type[Any]) -> str | None:
    """Docstring with an entry for each option of a kind, in place of that for all of them."""
    if docstring is None or kind.__doc__ is None:  # python -OO
        return docstring
    text = inspect.cleandoc(docstring)
    own = {name for found in _ENTRY.finditer(text) for name in found["names"].split(", ")}
    entries = _entries(kind)
    added = "".join(entries[name] for name in DEFAULTS if name in entries and name not in own)
    return _REST.sub(lambda _: added, text, count=1)


def _entries(kind: type[Any]) -> dict[str, str]:
    """Entries of the docstrings of a kind of options, and of those it extends."""
    entries: dict[str, str] = {}
    for one in (WriteOptions, StoreOptions, LayoutOptions, ManyOptions):
        if one.__optional_keys__ <= kind.__optional_keys__:
            text = inspect.cleandoc(one.__doc__ or "").partition("----------\n")[2] + "\n"
            entries |= {found["names"]: found[0] for found in _ENTRY.finditer(text)}
    return entries
