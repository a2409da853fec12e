"""Whose a file or object is that a writer makes on the way, and whether that writer is gone.

Whatever is not yet a store bears a mark in its name: machine, process, when that process and this
piece of work began, and a random id. So the next writer can tell what a killed one left from what
somebody is writing now. A process of this machine is gone if the system says so; one of another
machine, of which nothing can be known, if its work has not been touched for a stated time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DAY", "MARK", "Mark", "hidden_name", "marked_name", "own_mark", "short_name"]

DAY = 24 * 3600.0
MARK = re.compile(r"([0-9a-f]{8})-([0-9a-f]{1,8})-([0-9a-f]{1,16})-([0-9a-f]{8})-([0-9a-f]{8})")
"""Text of a `Mark`."""

_NAME = re.compile(rf"\.(?P<name>.*)\.(?P<mark>{MARK.pattern})\.(?P<purpose>partial|old|tmp)")
_SHOWN = 40
"""Longest name that is repeated in a hidden one: with a longer one, that could be too long."""

_active: set[str] = set()
"""Ids of what this process is at, in all its threads."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Process that writes, and the time since when.

    Parameters
    ----------
    machine : str
        8 hexadecimal digits that stand for the machine, since it was started.
    pid : int
        Number of the process.
    started : int
        When the process began, as its system counts; 0 where that is not known.
    since : int
        When this piece of work began, in seconds since 1970.
    id : str
        8 random hexadecimal digits.
    """

    machine: str
    pid: int
    started: int
    since: int
    id: str

    def __str__(self) -> str:
        return f"{self.machine}-{self.pid:x}-{self.started:x}-{self.since:08x}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """The mark that a text is, None if it is none."""
        found = MARK.fullmatch(text)
        if found is None:
            return None
        machine, pid, started, since, own = found.groups()
        return cls(machine, int(pid, 16), int(started, 16), int(since, 16), own)

    def gone(self, touched: float | None = None, *, age: float = 7 * DAY) -> bool:
        """Return whether its writer is certainly not at it any more.

        Parameters
        ----------
        touched : float, optional
            When the work was last touched, in seconds since 1970.
        age : float
            Seconds after which the writer of another machine counts as gone.
        """
        if self.machine == _machine():
            if (self.pid, self.started) == (os.getpid(), _start_of(os.getpid())):
                return self.id not in _active
            alive = _alive(self.pid, self.started)
            if alive is not None:
                return not alive
        return time.time() - max(self.since, touched or 0.0) > age


@contextlib.contextmanager
def own_mark() -> Iterator[Mark]:
    """A new mark of this process, which is at work until the block ends."""
    pid = os.getpid()
    mark = Mark(_machine(), pid, _own_start(pid), int(time.time()), uuid.uuid4().hex[:8])
    _active.add(mark.id)
    try:
        yield mark
    finally:
        _active.discard(mark.id)


def hidden_name(name: str, mark: Mark, purpose: str) -> str:
    """Name beside a file for what belongs to it; `purpose` is partial, old or tmp."""
    return f".{short_name(name)}.{mark}.{purpose}"


def short_name(name: str) -> str:
    """A name, or the beginning of a long one with a digest of all of it."""
    if len(name) <= _SHOWN:
        return name
    digest = hashlib.blake2b(os.fsencode(name), digest_size=4).hexdigest()
    return f"{name[: _SHOWN - 9]}~{digest}"


def marked_name(name: str, found: str) -> Mark | None:
    """Mark of a file, if its name is one that `hidden_name` made for `name`."""
    match = _NAME.fullmatch(found)
    if match is None or match["name"] != short_name(name):
        return None
    return Mark.parse(match["mark"])


@functools.cache
def _machine() -> str:
    """Stands for this machine since its start, and for the container that a process sees.

    Numbers of processes say nothing outside of it.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def _start_of(pid: int) -> int:
    """Start of a process, in ticks since the start of the machine; 0 if that is not known."""
    return _read_status(pid)[1]


@functools.cache
def _own_start(pid: int) -> int:
    """Start of this process, which stays the same; by its number, which a fork changes."""
    return _start_of(pid)


def _read_status(pid: int) -> tuple[str, int]:
    """State and start of a process, where there is a table of them to read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        fields = text[text.rindex(")") + 1 :].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", 0


def _alive(pid: int, started: int) -> bool | None:
    """Return whether a process of this machine is running; None where it cannot be asked."""
    if os.name == "nt":
        return None  # a signal of number 0 is Ctrl-C there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        pass
    state, begun = _read_status(pid)
    if state in ("Z", "X"):
        return False
    return not (started and begun and begun != started)
