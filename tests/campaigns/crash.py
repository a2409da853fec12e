"""Kills, and calls that fail, at every system call of every operation that writes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.campaigns import shim
from tests.campaigns.children import Ended, Limits, in_child
from tests.campaigns.flushing import unflushed
from tests.campaigns.operations import OPERATIONS, Operation
from tests.campaigns.outcomes import Outcome, Result
from tests.campaigns.workshop import Options, disturb, room

__all__ = ["run"]

_LIMITS = Limits(seconds=120)
_ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


@dataclass(frozen=True)
class Strike:
    """One trial: what happens at which call of an operation."""

    operation: str
    how: str
    """``before``, ``after``, ``half``, the name of an error, ``time`` or ``flush``."""
    call: int

    @property
    def key(self) -> str:
        """How it is asked for."""
        return f"{self.operation}/{self.how}/{self.call}"

    @property
    def group(self) -> str:
        """Row of the table."""
        kind = {"time": "killed at a random time", "flush": "order of flushes"}
        killed = "killed at a system call"
        return kind.get(self.how, f"call fails: {self.how}" if self.how in _ERRORS else killed)


def run(options: Options) -> Iterator[Result]:
    """Trials of one seed, over all operations."""
    with room() as folder:
        prepared: dict[str, _Prepared] = {}
        for strike in _chosen(options, folder, prepared):
            if strike.operation not in prepared:
                prepared[strike.operation] = _prepare(OPERATIONS[strike.operation], folder)
            yield _try(strike, prepared[strike.operation], folder)


@dataclass(frozen=True)
class _Prepared:
    """An operation, what it starts from, and what it does when nothing disturbs it."""

    operation: Operation
    before: Path
    calls: Sequence[shim.Call]
    seconds: float


def _chosen(options: Options, folder: Path, prepared: dict[str, _Prepared]) -> Iterator[Strike]:
    """Strikes to make: all there are, or as many of them by lot."""
    if options.only:
        operation, how, call = options.only.rsplit("/", 2)
        yield Strike(operation, how, int(call))
        return
    lot = random.Random(options.seed)
    names = list(OPERATIONS)
    if options.quick:
        names = lot.sample(names, min(len(names), max(8, options.trials // 6)))
    everything: list[Strike] = []
    for name in names:
        prepared[name] = _prepare(OPERATIONS[name], folder)
        everything.extend(_strikes(prepared[name]))
    flushes = [strike for strike in everything if strike.how == "flush"]
    others = [strike for strike in everything if strike.how != "flush"]
    yield from flushes
    yield from lot.sample(others, min(len(others), max(0, options.trials - len(flushes))))


def _strikes(prepared: _Prepared) -> Iterator[Strike]:
    name = prepared.operation.name
    if not shim.available():
        yield from (Strike(name, "time", part) for part in range(100))
        return
    yield Strike(name, "flush", 0)
    for number, call in enumerate(prepared.calls, 1):
        modes = ["before", "after", *(["half"] if call.what == "write" else []), *_ERRORS]
        yield from (Strike(name, how, number) for how in modes)
    yield from (Strike(name, "time", part) for part in range(5))


# One trial ---------------------------------------------------------------------------------------


def _prepare(operation: Operation, folder: Path) -> _Prepared:
    """Make what an operation starts from, and do it once to learn its calls."""
    before = folder / f"{len(list(folder.iterdir()))}-before"
    before.mkdir()
    _must(in_child(partial(operation.prepare, before), _LIMITS), operation)
    work = folder / "work"
    shutil.copytree(before, work)
    ended = _must(in_child(partial(_clean_run, operation, work), _LIMITS), operation)
    shutil.rmtree(work)
    calls, seconds = ended.value
    return _Prepared(operation, before, calls, seconds)


def _must(ended: Ended, operation: Operation) -> Ended:
    if ended.how != "returned":
        raise AssertionError(f"{operation.name}, undisturbed: {ended}")
    return ended


def _clean_run(operation: Operation, work: Path) -> tuple[list[shim.Call], float]:
    log = work.with_name("log")
    calls: list[shim.Call] = []
    start = time.perf_counter()
    if shim.available():
        descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        shim.arm(work, log=descriptor)
        operation.run(work)
        shim.disarm()
        os.close(descriptor)
        lines = log.read_text(errors="surrogateescape").splitlines()
        calls = [shim.Call(*line.split("\t")) for line in lines]
    else:
        operation.run(work)
    return calls, time.perf_counter() - start


def _try(strike: Strike, prepared: _Prepared, folder: Path) -> Result:
    if strike.how == "flush":
        wrong = unflushed(prepared.calls, folder / "work" / prepared.operation.target)
        outcome = Outcome.NOT_FLUSHED if wrong else Outcome.RIGHT
        return Result(strike.group, strike.key, outcome, "; ".join(wrong[:5]))
    work = folder / "work"
    shutil.copytree(prepared.before, work)
    try:
        trouble = partial(_strike, strike, prepared.seconds, work)
        outcome, detail, left = disturb(prepared.operation, work, trouble, limits=_LIMITS)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Result(strike.group, strike.key, outcome, detail, left)


def _strike(strike: Strike, seconds: float, work: Path) -> None:
    """Let it happen in this process."""
    if strike.how == "time":
        lot = random.Random(strike.key)
        signal.signal(signal.SIGALRM, _die)
        signal.setitimer(signal.ITIMER_REAL, 1e-4 + lot.random() * seconds)
    elif strike.how in _ERRORS:
        shim.arm(work, strike.call, "fail", _ERRORS[strike.how])
    else:
        shim.arm(work, strike.call, strike.how)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
