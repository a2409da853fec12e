"""Requests to an object store that fail, get lost, or are the last of a killed process."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fsspec

import fmristore as fs
from tests.campaigns.children import Limits, in_child
from tests.campaigns.operations import FORMATS, RUN, Values, same, values_in
from tests.campaigns.outcomes import Outcome, Result
from tests.campaigns.workshop import Options, Verdict, outcome_of
from tests.servers.places import Place, s3_options, s3_place
from tests.servers.process import free_port, start, stop
from tests.servers.proxy import Fault, Proxy, Request, Rule, run_proxy

__all__ = ["run"]

_LIMITS = Limits(seconds=180)
_FAULTS: Mapping[str, tuple[Fault, int, int]] = {
    "status 503, once": ("status", 503, 1),
    "status 500, for ever": ("status", 500, 10**6),
    "status 403, once": ("status", 403, 1),
    "reset, once": ("reset", 0, 1),
    "reset, for ever": ("reset", 0, 10**6),
    "lost, once": ("lost", 0, 1),
    "cut": ("cut", 20, 1),
    "truncated": ("truncate", 20, 1),
    "corrupt": ("corrupt", 11, 1),
    "wrong range": ("wrongrange", 7, 1),
    "no range": ("norange", 0, 10**6),
}
_READING_ONLY = ("cut", "truncated", "corrupt", "wrong range", "no range")


@dataclass(frozen=True)
class Work:
    """Something that is done on an object store: see `operations.Operation`."""

    name: str
    prepare: Callable[[str, Mapping[str, Any]], None]
    run: Callable[[str, Mapping[str, Any]], Any]
    old: Values | None
    new: Values | None
    """None for reading."""
    again: bool = False


def _works() -> Iterator[Work]:
    vec, scans = FORMATS["neurovec"], FORMATS["parcellatedmultiscan"]
    for kind in ("h5", "zarr"):

        def put(url: str, options: Mapping[str, Any], number: int = 0, **more: Any) -> None:
            _make(vec.make, url, RUN + number, options, **more)

        def put_scans(url: str, options: Mapping[str, Any]) -> None:
            _make(scans.make, url, RUN, options)

        old, new = vec.holds(RUN), vec.holds(RUN + 1)
        two = {**scans.holds(RUN), "task": scans.holds(RUN)["rest"][:8]}
        yield Work(f"read {kind}", put, _read, old, None)
        yield Work(f"create {kind}", _nothing, partial(put, number=1), None, new)
        overwrite = partial(put, number=1, overwrite=True)
        yield Work(f"overwrite {kind}", put, overwrite, old, new, again=True)
        yield Work(f"add_scan {kind}", put_scans, _add, scans.holds(RUN), two)


def _nothing(url: str, options: Mapping[str, Any]) -> None:
    pass


def _make(
    make: Callable[..., Any], url: str, run: Any, options: Mapping[str, Any], **more: Any
) -> None:
    make(url, run, storage_options=options, **more).close()


def _read(url: str, options: Mapping[str, Any]) -> Values:
    with fs.open(url, storage_options=options) as found:
        return values_in(found)


def _add(url: str, options: Mapping[str, Any]) -> None:
    with fs.open(url, storage_options=options) as found:
        found.add_scan("task", RUN[..., :8], statistic="mean", tr=1.0)


WORKS: Mapping[str, Work] = {work.name: work for work in _works()}


# Trials ------------------------------------------------------------------------------------------


def run(options: Options) -> Iterator[Result]:
    """Trials of one seed: works and faults by lot, at every request."""
    for name in ("s3fs", "aiobotocore.session", "aiobotocore.httpsession", "aiohttp"):
        importlib.import_module(name)  # here, so that no child has to
    with _server() as port:
        keys = [options.only] if options.only else list(_chosen(options, port))
        for key in keys:
            name, fault, number = key.rsplit("/", 2)
            outcome, detail, left = _trial(WORKS[name], fault, int(number), port)
            doing = "read" if name.startswith("read") else "write"
            yield Result(f"{doing}: {fault}", key, outcome, detail, left)


@contextlib.contextmanager
def _server() -> Iterator[int]:
    """Port of a server in a process of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        pid = start(command, [port], Path(folder, "log"))
        try:
            yield port
        finally:
            stop(pid)


def _chosen(options: Options, port: int) -> Iterator[str]:
    lot = random.Random(options.seed)
    everything = []
    names = lot.sample(list(WORKS), 3) if options.quick else list(WORKS)
    for name in names:
        work = WORKS[name]
        ended = in_child(partial(_count, work, port), _LIMITS)
        if ended.how != "returned":
            raise AssertionError(f"{name}, undisturbed: {ended}")
        faults = [f for f in _FAULTS if work.new is None or f not in _READING_ONLY]
        if options.quick:  # clients try for long
            faults = [fault for fault in faults if _FAULTS[fault][2] == 1]
        faults += [] if work.new is None else ["killed"] * 3
        everything += [f"{name}/{fault}/{k}" for fault in faults for k in range(ended.value)]
    yield from lot.sample(everything, min(len(everything), options.trials))


def _count(work: Work, port: int) -> int:
    """How many requests it makes."""
    place = s3_place(port)
    url = _url(place, work)
    work.prepare(url, place.options)
    _forget()
    with run_proxy(port) as proxy:
        work.run(url, s3_options(proxy.port))
        return len(proxy.log)


def _url(place: Place, work: Work) -> str:
    return place / f"x.{work.name.rpartition(' ')[2]}"


def _forget() -> None:
    for cls in list(fsspec.registry.values()):
        cls.clear_instance_cache()


def _trial(work: Work, fault: str, number: int, port: int) -> Verdict:
    prepared = in_child(partial(_prepare, work, port), _LIMITS)
    if prepared.how != "returned":
        raise AssertionError(f"{work.name} cannot be prepared: {prepared}")
    place: Place = prepared.value
    ended = in_child(partial(_disturbed, work, place, fault, number), _LIMITS)
    killed = ended.how == "signal" and ended.signal == signal.SIGKILL
    if not killed and (failed := outcome_of(ended)):
        return *failed, 0
    said = ("killed", "") if killed else ended.value
    judged = in_child(partial(_judge, work, place, said), _LIMITS)
    if failed := outcome_of(judged):
        return failed[0], f"when it was looked at: {failed[1]}", 0
    verdict: Verdict = judged.value
    return verdict


def _prepare(work: Work, port: int) -> Place:
    place = s3_place(port)
    work.prepare(_url(place, work), place.options)
    return place


def _disturbed(work: Work, place: Place, fault: str, number: int) -> tuple[str, Any]:
    with run_proxy(place.port) as proxy:
        if fault == "killed":
            proxy.before = partial(_kill_at, proxy, number)
        else:
            do, argument, times = _FAULTS[fault]
            proxy.rules.append(Rule("", do, argument, times=times, after=number))
        try:
            found = work.run(_url(place, work), s3_options(proxy.port))
        except fs.errors.FmristoreError as error:
            return "error", f"{type(error).__name__}: {error}"
    return "done", found


def _kill_at(proxy: Proxy, number: int, request: Request) -> None:
    if len(proxy.log) > number:
        os.kill(os.getpid(), signal.SIGKILL)


def _judge(work: Work, place: Place, said: tuple[str, Any]) -> Verdict:
    how, found = said
    if work.new is None:
        if how == "error":
            return Outcome.OUR_ERROR, found, 0
        return (Outcome.RIGHT if same(found, work.old) else Outcome.WRONG), "", 0
    url, options = _url(place, work), place.options
    state = _state(work, url, options)
    if how == "done" and state is Outcome.OLD:
        return Outcome.LIE, "it returned normally, and the old values are there", 0
    detail = f" (the operation: {how} {found})"
    if state in (Outcome.OLD, Outcome.UNFINISHED) or work.again:
        try:
            work.run(url, options)
        except fs.errors.FmristoreError as error:
            return Outcome.HINDERED, f"the next run: {type(error).__name__}: {error}{detail}", 0
        if _state(work, url, options) is not Outcome.NEW:
            return Outcome.HINDERED, f"the next run leaves something else{detail}", 0
    return state, detail, _leftovers(place)


def _state(work: Work, url: str, options: Mapping[str, Any]) -> Outcome:
    try:
        values: Values | None = _read(url, options)
    except fs.errors.NotFoundError:
        values = None
    except fs.errors.UnknownFormatError:  # some objects, and none that makes them a store
        return Outcome.OLD if work.old is None else Outcome.UNFINISHED
    except fs.errors.StorageError as error:
        return Outcome.UNFINISHED if "being replaced" in str(error) else Outcome.HALF
    except fs.errors.FmristoreError:
        return Outcome.HALF
    if values is not None and not fs.verify(url, deep=True, storage_options=options):
        return Outcome.HALF
    if same(values, work.new):
        return Outcome.NEW
    if same(values, work.old):
        return Outcome.OLD
    return Outcome.UNFINISHED if values is None else Outcome.WRONG


def _leftovers(place: Place) -> int:
    filesystem, path = fsspec.core.url_to_fs(place.url, **place.options)
    filesystem.invalidate_cache()
    names = filesystem.ls(path, detail=False)
    return len([name for name in names if not name.endswith(("x.h5", "x.zarr"))])
