"""Readers and writers side by side, threads, forks, close and Ctrl-C in the middle of a read."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fmristore as fs
from fmristore_stores.protocol import AnyArray
from tests.campaigns.children import Limits, Running, in_child
from tests.campaigns.operations import FORMATS, RUN, SHAPE, SPACE, same, values_of
from tests.campaigns.outcomes import Outcome, Result
from tests.campaigns.workshop import Options, outcome_of, room

__all__ = ["run"]

_LIMITS = Limits(seconds=90, growth=600 << 20)
_READS = 40

Ending = tuple[Outcome, str]
_RIGHT: Ending = (Outcome.RIGHT, "")


def _create(path: Path, values: AnyArray, **options: Any) -> None:
    fs.NeuroVec.create(values, path, space=SPACE, **options).close()


def _index(lot: random.Random) -> tuple[slice, ...]:
    return tuple(slice(*sorted(lot.sample(range(n + 1), 2))) for n in SHAPE)


def _together(tasks: list[Callable[[], Ending]]) -> list[Ending]:
    """Run tasks in processes of their own at the same time."""
    running = [Running([task]) for task in tasks]
    found: list[Ending] = []
    for process in running:
        with process:
            ended = process.next(_LIMITS)
        found.append(outcome_of(ended) or ended.value)
    return found


def _worst(found: list[Ending]) -> Ending:
    return next((ending for ending in found if ending[0].failed), _RIGHT)


# Readers and a writer ----------------------------------------------------------------------------


def _replaced(lot: random.Random, path: Path, codec: str) -> Ending:
    """Whole reads while the store is replaced: one version or the other."""
    _create(path, np.full(SHAPE, 1, np.int16), codec=codec)
    done = path.with_name("done")

    def write() -> Ending:
        for number in range(12):
            _create(path, np.full(SHAPE, number % 2 + 1, np.int16), codec=codec, overwrite=True)
        done.touch()
        return _RIGHT

    return _worst(_together([write, *(partial(_read_one_version, path, done) for _ in range(2))]))


def _read_one_version(path: Path, done: Path) -> Ending:
    found = None
    while not done.exists():
        try:
            found = fs.open(path) if found is None else found
            values = np.asarray(found[...])
        except fs.errors.ChangedError:
            found = None
            continue
        except fs.errors.FmristoreError as error:
            return Outcome.FALSE_ERROR, f"{type(error).__name__}: {error}"
        if len(np.unique(values)) != 1:
            return Outcome.WRONG, "a mixture of two stores"
    return _RIGHT


# Two writers -------------------------------------------------------------------------------------


def _two_create(lot: random.Random, path: Path, overwrite: bool) -> Ending:
    """Two that create one store: one wins whole, the other wins later or says that it lost."""
    if overwrite:
        _create(path, RUN)

    def write(number: int) -> Ending:
        try:
            _create(path, RUN + number, overwrite=overwrite)
        except fs.errors.AlreadyExistsError:
            return Outcome.OUR_ERROR, ""
        except fs.errors.ChangedError:  # it was written, and replaced before it was opened
            return Outcome.NEW, ""
        return Outcome.NEW, ""

    found = _together([partial(write, 1), partial(write, 2)])
    if (worst := _worst(found)) != _RIGHT:
        return worst
    won = [number for number, ending in enumerate(found, 1) if ending[0] is Outcome.NEW]
    if (len(won) != 1 and not overwrite) or not any(
        same(values_of(path), {"": RUN + number}) for number in won
    ):
        return Outcome.WRONG, f"writers {won} reported success, and neither store is there"
    return _RIGHT


def _two_add(lot: random.Random, path: Path, name: str) -> Ending:
    """Two that add to one container: what was reported as added is there."""
    FORMATS[name].make(path, RUN).close()
    before = values_of(path) or {}

    def add(label: str) -> Ending:
        try:
            with fs.open(path) as found:
                if name == "labeledvolumeset":
                    found.add(label, np.float32(RUN[..., 2]))
                else:
                    found.add_scan(label, RUN[..., :8], statistic="mean", tr=1.0)
        except fs.errors.ChangedError:
            return Outcome.OUR_ERROR, ""
        return Outcome.NEW, label

    found = _together([partial(add, "one"), partial(add, "two")])
    if (worst := _worst(found)) != _RIGHT:
        return worst
    added = {label for outcome, label in found if outcome is Outcome.NEW}
    values = values_of(path) or {}
    if not added or values.keys() != before.keys() | added:
        return Outcome.LIE, f"added {added}, and there are {sorted(values)}"
    if not fs.verify(path, deep=True):
        return Outcome.HALF, "verify finds damage"
    return _RIGHT


# Threads and forks -------------------------------------------------------------------------------


def _threads(lot: random.Random, path: Path, codec: str) -> Ending:
    """Random reads of one object by eight threads."""
    _create(path, RUN, codec=codec)
    with fs.open(path) as image:
        wrong = _in_threads(8, lambda own: _read_right(image, own, _READS), lot)
    return (Outcome.WRONG, wrong[0]) if wrong else _RIGHT


def _in_threads(count: int, work: Callable[[random.Random], str], lot: random.Random) -> list[str]:
    """What threads found to be wrong, exceptions too."""
    wrong: list[str] = []

    def run(seed: int) -> None:
        try:
            wrong.append(work(random.Random(seed)))
        except Exception as error:  # noqa: BLE001 - it is reported
            wrong.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(lot.random(),)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [text for text in wrong if text]


def _read_right(image: Any, lot: random.Random, count: int) -> str:
    for _ in range(count):
        index = _index(lot)
        if not np.array_equal(image[index], RUN[index]):
            return f"other values at {index}"
    return ""


def _forks(lot: random.Random, path: Path, codec: str) -> Ending:
    """Processes that are forked while threads read, and read themselves."""
    _create(path, RUN, codec=codec)
    found: list[Ending] = []

    def child() -> Ending:
        wrong = _read_right(image, random.Random(1), _READS)
        return (Outcome.WRONG, wrong) if wrong else _RIGHT

    def fork() -> None:
        for _ in range(3):
            ended = in_child(child, _LIMITS)
            found.append(outcome_of(ended) or ended.value)

    with fs.open(path) as image:
        reader = threading.Thread(target=fork)
        reader.start()
        wrong = _in_threads(3, lambda own: _read_right(image, own, _READS), lot)
        reader.join()
    return (Outcome.WRONG, wrong[0]) if wrong else _worst(found)


# In the middle of a read -------------------------------------------------------------------------


def _closed(lot: random.Random, path: Path, codec: str) -> Ending:
    """Closed while three threads read, when any other file may get its descriptor."""
    other = path.with_name(f"other{path.suffix}")
    _create(path, RUN, codec=codec)
    _create(other, RUN + 7, codec=codec)
    some = other if other.is_file() else next(p for p in other.rglob("*") if p.is_file())
    image = fs.open(path)

    def read(own: random.Random) -> str:
        try:
            return _read_right(image, own, _READS)
        except fs.errors.ClosedError:
            return ""

    def close() -> None:
        time.sleep(lot.random() * 0.02)
        image.close()
        held.extend(os.open(some, os.O_RDONLY) for _ in range(6))

    held: list[int] = []
    closer = threading.Thread(target=close)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    closer.start()
    wrong = _in_threads(3, read, lot)
    closer.join()
    sys.setswitchinterval(before)
    for number in held:
        os.close(number)
    if wrong:
        return (Outcome.WRONG if "other values" in wrong[0] else Outcome.FALSE_ERROR), wrong[0]
    return _RIGHT


def _interrupted(lot: random.Random, path: Path, codec: str) -> Ending:
    """KeyboardInterrupt at random moments of reads; the object still reads right."""

    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    _create(path, RUN, codec=codec)
    signal.signal(signal.SIGALRM, strike)
    image = fs.open(path)
    for _ in range(10):
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + lot.random() * 0.01)
            while True:
                wrong = _read_right(image, lot, 5)
                if wrong:
                    return Outcome.WRONG, wrong
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
        wrong = _read_right(image, lot, 3)
        if wrong:
            return Outcome.WRONG, f"after an interrupt: {wrong}"
    image.close()
    return _RIGHT


_Scene = Callable[[random.Random, Path], Ending]


def _scenes() -> Iterator[tuple[str, str, _Scene]]:
    for kind in ("h5", "zarr"):
        for codec in ("none", "dual"):
            for name, scene in (
                ("replaced while read", _replaced),
                ("threads", _threads),
                ("forks while read", _forks),
                ("closed while read", _closed),
                ("interrupted", _interrupted),
            ):
                yield f"{name}, {kind}, {codec}", kind, partial(scene, codec=codec)
        yield f"two create, {kind}", kind, partial(_two_create, overwrite=False)
        yield f"two overwrite, {kind}", kind, partial(_two_create, overwrite=True)
        yield f"two add_scan, {kind}", kind, partial(_two_add, name="parcellatedmultiscan")
        yield f"two add maps, {kind}", kind, partial(_two_add, name="labeledvolumeset")


SCENES: Mapping[str, tuple[str, _Scene]] = {name: (kind, scene) for name, kind, scene in _scenes()}


def run(options: Options) -> Iterator[Result]:
    """Trials of one seed: scenes by turns."""
    names = list(SCENES)
    keys = [f"{names[i % len(names)]}/{i}" for i in range(options.trials)]
    for key in [options.only] if options.only else keys:
        name, _, number = key.rpartition("/")
        kind, scene = SCENES[name]
        with room() as folder:
            lot = random.Random(f"{options.seed}/{number}")
            ended = in_child(partial(scene, lot, folder / f"x.{kind}"), _LIMITS)
        outcome, detail = outcome_of(ended) or ended.value
        yield Result(name.partition(",")[0], key, outcome, detail)
