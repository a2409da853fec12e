"""Work in processes of its own, with limits of time and memory.

A child is forked after everything is imported, so that one costs milliseconds. Where it ends by a
signal, hangs or grows too large, only the trial that it was at is lost; the next ones go on in a
new child.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import pkgutil
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Ended", "Limits", "Running", "in_child", "in_children", "resident", "warm"]

Task = Callable[[], Any]

_USED = ("h5py", "nibabel", "numcodecs", "scipy.sparse", "scipy.linalg", "zarr", "zarr.codecs")
"""What the project imports when it is needed."""


def warm() -> None:
    """Import all that tasks may need, so that no child has to."""
    for name in ("fmristore", "fmristore_stores"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith(("__main__", ".testing")):
                importlib.import_module(module.name)
    for name in _USED:
        importlib.import_module(name)


@dataclass(frozen=True)
class Limits:
    """What one trial may take.

    Parameters
    ----------
    seconds : float
        Of wall time.
    growth : int
        Bytes by which the resident memory may exceed that at the start.
    stop : int
        Bytes of growth at which the process is ended, so that the machine survives.
    """

    seconds: float = 60.0
    growth: int = 300 << 20
    stop: int = 2 << 30


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Parameters
    ----------
    how : {"returned", "raised", "signal", "hang", "memory"}
        ``"raised"`` stands for exceptions that the task let through.
    value : object
        What it returned, or the text of the exception.
    signal : int
        That ended the process.
    growth : int
        Bytes by which the resident memory grew at its peak.
    """

    how: Literal["returned", "raised", "signal", "hang", "memory"]
    value: Any = None
    signal: int = 0
    growth: int = 0


def in_child(task: Task, limits: Limits | None = None) -> Ended:
    """Run one task in a child."""
    return next(iter(in_children([task], limits)))


def in_children(tasks: Sequence[Task], limits: Limits | None = None) -> Iterator[Ended]:
    """Run tasks one after the other in as few children as possible, and yield how each ended."""
    limits = limits or Limits()
    done = 0
    while done < len(tasks):
        with Running(tasks[done:]) as child:
            while done < len(tasks):
                ended = child.next(limits)
                done += 1
                yield ended
                if ended.how not in ("returned", "raised"):
                    break


class Running:
    """A forked process that goes through tasks and tells of each through a pipe."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            _serve(tasks, writing)
        os.close(writing)
        self._pipe = reading
        self._ended = False

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self._pipe)
        if not self._ended:
            _kill(self.pid)
            os.waitpid(self.pid, 0)

    def next(self, limits: Limits) -> Ended:
        """Wait for the next task to end."""
        end = time.monotonic() + limits.seconds
        start = resident(self.pid)
        largest = 0
        while True:
            ready = select.select([self._pipe], [], [], 0.02)[0]
            if ready:
                message = self._receive()
                if message is None:
                    return self._gone(largest)
                how, value, growth = message
                if growth > limits.growth:
                    how, value = "memory", f"grew by {growth >> 20} MiB: {value}"
                return Ended(how, value, growth=growth)
            largest = max(largest, resident(self.pid) - start)
            if largest > limits.stop:
                self._stop()
                return Ended("memory", f"grew by {largest >> 20} MiB", growth=largest)
            if time.monotonic() > end:
                self._stop()
                return Ended("hang", f"more than {limits.seconds:.0f} s", growth=largest)

    def _receive(self) -> tuple[Any, Any, int] | None:
        """The next message; None if the process died."""
        head = self._read(8)
        body = self._read(struct.unpack("<Q", head)[0]) if head else b""
        return pickle.loads(body) if body else None

    def _read(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = os.read(self._pipe, count - len(parts))
            if not part:
                return b""
            parts += part
        return parts

    def _gone(self, growth: int) -> Ended:
        self._ended = True
        status = os.waitpid(self.pid, 0)[1]
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        text = (
            signal.Signals(number).name
            if number
            else f"exit code {os.waitstatus_to_exitcode(status)}"
        )
        return Ended("signal", text, number, growth)

    def _stop(self) -> None:
        self._ended = True
        _kill(self.pid)
        os.waitpid(self.pid, 0)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _serve(tasks: Sequence[Task], pipe: int) -> None:
    """Run the tasks in the child; never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_WRONLY)
        if not os.environ.get("CAMPAIGN_LOUD"):
            os.dup2(quiet, 2)
        for task in tasks:
            start = _forget_peak()
            try:
                how, value = "returned", task()
            except BaseException as error:  # noqa: BLE001 - it is reported
                how, value = "raised", _text(error)
            body = pickle.dumps((how, value, max(0, _peak() - start)))
            os.write(pipe, struct.pack("<Q", len(body)))
            view = memoryview(body)
            while view:
                view = view[os.write(pipe, view) :]
    finally:
        os._exit(0)


def _text(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {str(error)[:300]}{where}"


def resident(pid: int) -> int:
    """Bytes of memory that a process has now; 0 where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _forget_peak() -> int:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resident(os.getpid())


def _peak() -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
