"""What all campaigns share: folders for trials, and the judgement of a destination."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fmristore as fs
from tests.campaigns import shim
from tests.campaigns.children import Ended, Limits, in_child
from tests.campaigns.operations import Operation, same, values_of
from tests.campaigns.outcomes import Outcome

__all__ = ["Options", "Verdict", "attempt", "disturb", "judge", "outcome_of", "room"]


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    trials: int
    seed: int
    only: str | None = None
    quick: bool = False


Verdict = tuple[Outcome, str, int]
"""Outcome, detail, leftovers."""


@contextlib.contextmanager
def room() -> Iterator[Path]:
    """A folder that is removed in the end, in memory where that is possible."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="campaign-", dir=memory)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def attempt(operation: Operation, folder: Path, **options: Any) -> tuple[str, str]:
    """Do it; ``done`` or ``error``, with the text of the error. Others pass through."""
    try:
        operation.run(folder, **options)
    except fs.errors.FmristoreError as error:
        return "error", f"{type(error).__name__}: {error}"
    return "done", ""


def outcome_of(ended: Ended) -> tuple[Outcome, str] | None:
    """The failure that the end of a child is; None if it returned."""
    match ended.how:
        case "raised":
            return Outcome.FOREIGN, str(ended.value)
        case "signal":
            return Outcome.CRASH, str(ended.value)
        case "hang":
            return Outcome.HANG, str(ended.value)
        case "memory":
            return Outcome.MEMORY, str(ended.value)
    return None


def judge(operation: Operation, folder: Path, *, claimed: bool = False) -> Verdict:
    """Look at what lies there, and do the operation once more.

    Parameters
    ----------
    operation : Operation
        That was disturbed.
    folder : Path
        Where.
    claimed : bool
        Whether it reported success.
    """
    target = folder / operation.target
    found, detail = _state(operation, target)
    if found not in (Outcome.OLD, Outcome.NEW, Outcome.UNFINISHED):
        return found, detail, 0
    if claimed and found is not Outcome.NEW:
        return Outcome.LIE, "it returned normally, and the new values are not there", 0
    if found is not Outcome.NEW or operation.again:
        try:
            operation.run(folder)
        except fs.errors.FmristoreError as error:
            return Outcome.HINDERED, f"the next run: {type(error).__name__}: {error}", 0
        after, detail = _state(operation, target)
        if after is not Outcome.NEW:
            return Outcome.HINDERED, f"after the next run: {after.value} {detail}", 0
    return found, "", len(_leftovers(folder))


def disturb(
    operation: Operation,
    folder: Path,
    trouble: Callable[[], object],
    *,
    limits: Limits,
    after: Callable[[], object] = lambda: None,
    **options: Any,
) -> Verdict:
    """Do an operation in a child, in trouble; then look at what it left, in another one.

    Parameters
    ----------
    operation : Operation
        That is done.
    folder : Path
        Where it was prepared.
    trouble : callable
        Called in the child before.
    limits : Limits
        Of each child.
    after : callable
        Called here, to end the trouble.
    **options
        For the operation.
    """

    def work() -> tuple[str, str]:
        trouble()
        said = attempt(operation, folder, **options)
        if shim.available():
            shim.disarm()
        return said

    ended = in_child(work, limits)
    after()
    killed = ended.how == "signal" and ended.signal == signal.SIGKILL
    if not killed and (failed := outcome_of(ended)):
        return *failed, 0
    claimed = not killed and ended.value[0] == "done"
    judged = in_child(partial(judge, operation, folder, claimed=claimed), limits)
    if failed := outcome_of(judged):
        return failed[0], f"when it was looked at: {failed[1]}", 0
    outcome, detail, left = judged.value
    said = "" if killed else f" (the operation: {': '.join(ended.value)[:300]})"
    return outcome, detail + said, left


def _state(operation: Operation, target: Path) -> tuple[Outcome, str]:
    try:
        values = values_of(target)
        if values is not None and target.suffix in (".h5", ".zarr"):
            report = fs.verify(target, deep=True)
            if not report:
                return Outcome.HALF, str(report)
    except (fs.errors.FmristoreError, OSError, ValueError) as error:
        return Outcome.HALF, f"{type(error).__name__}: {error}"
    if same(values, operation.new):
        return Outcome.NEW, ""
    if same(values, operation.old):
        return Outcome.OLD, ""
    if values is None:
        return Outcome.UNFINISHED if operation.gap else Outcome.HALF, "nothing is there"
    return Outcome.WRONG, ""


def _leftovers(folder: Path) -> list[str]:
    """Files and folders that the project hides, in stores too; not the index of a collection."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.name != ".fmristore"]
    return [
        str(path)
        for path in paths
        if (path.name.startswith(".") or path.suffix in (".partial", ".tmp", ".old"))
        and not any(name.startswith(".") and name != ".fmristore" for name in path.parts[:-1])
    ]
