"""Ending at Ctrl-C and SIGTERM: by unwinding, or by force where Python does not get to it.

Handlers of signals run between two steps of Python. A library that never returns (HDF5 on a
damaged file) never lets them run, nor any other thread. So a small process watches, forked before
anything is opened: it learns of a signal through the descriptor to which Python writes signals
from C, and of the end of the command by that descriptor being closed. If the handler has not run a
moment after a signal, the process sends the signal again: one that comes just before a call that
waits does not interrupt that call, and Python would see to it only when the call returns. If that
does not help, or unwinding takes too long, it kills. What a killed command leaves behind is removed
by the next one that writes there.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from fmristore.cli.console import hush

__all__ = ["ending_at_signals"]

_UNTIL_HANDLED = 2.0
"""Seconds that the handler of a signal may take to begin."""
_UNTIL_SENT_AGAIN = 0.25
"""Seconds after which a signal that was not handled is sent again."""
_UNTIL_UNWOUND = 20.0
"""Seconds for removing what is half-written, on object storage too."""
_HANDLED = b"\xff"
"""Message of the handler to the watching process; no signal has this number."""

_LOSING = frozenset(
    {
        "weakref",
        "_weakrefset",
        "multiprocessing.util",
        "importlib._bootstrap",
        "fmristore_stores.hdf5.output",
    }
)
"""Modules with functions that are called where exceptions get lost."""
_LOSING_FUNCTIONS = frozenset({"__del__", "weakref_cb", "_removeHandlerRef"})
"""Names of such functions: finalisers, and what executors and logging have called when something
is gone."""
_COMMAND = "fmristore.cli.app"
"""Module that calls the command; where that was called from does not matter."""

_to_watcher = -1
_postponed: threading.Timer | None = None
"""Sends a signal again that came where it would have been lost."""


@contextlib.contextmanager
def ending_at_signals() -> Iterator[None]:
    """Have the block ended by SIGINT and SIGTERM in any case."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _unwind)
    signal.signal(signal.SIGTERM, _unwind)
    child = _start_watching() if hasattr(os, "fork") else 0
    try:
        try:
            yield
        finally:
            _await_postponed()
    finally:
        if child:
            _stop_watching(child)
        # All is unwound: what hangs now, while the interpreter ends, is ended without Python.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if signal.getsignal(signal.SIGINT) is _unwind:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _await_postponed() -> None:
    """End by a signal that is still to be sent again, though the command is done meanwhile."""
    if _postponed is not None:
        try:
            _postponed.join()
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)


def _start_watching() -> int:
    """Fork the watching process, and write signals to it; 0 if there is no process left."""
    global _to_watcher  # noqa: PLW0603 - a handler of signals has no other place
    reading, _to_watcher = os.pipe()
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError:
        os.close(reading)
        os.close(_to_watcher)
        _to_watcher = -1
        return 0
    if child == 0:
        _watch(reading, parent)
    os.close(reading)
    os.set_blocking(_to_watcher, False)
    signal.set_wakeup_fd(_to_watcher, warn_on_full_buffer=False)
    return child


def _stop_watching(child: int) -> None:
    global _to_watcher
    signal.set_wakeup_fd(-1)
    ending, _to_watcher = _to_watcher, -1
    os.close(ending)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def _watch(reading: int, parent: int) -> None:
    """Wait for signals of another process; never returns."""
    try:
        os.close(_to_watcher)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        ending = {bytes([signal.SIGINT]), bytes([signal.SIGTERM])}
        while found := os.read(reading, 1):
            if found in ending and not _ends(reading, parent, found[0]):
                _send(parent, signal.SIGKILL)
                break
    finally:
        os._exit(0)


def _ends(reading: int, parent: int, number: int) -> bool:
    """Return whether the other process handles a signal and ends in time."""
    now = time.monotonic()
    last, again = now + _UNTIL_HANDLED, now + _UNTIL_SENT_AGAIN
    while now < last:
        if select.select([reading], [], [], max(0.0, min(last, again) - now))[0]:
            found = os.read(reading, 1)
            if not found:
                return True
            if found == _HANDLED and again < math.inf:
                last, again = time.monotonic() + _UNTIL_UNWOUND, math.inf
        elif again <= time.monotonic():
            _send(parent, number)
            again += _UNTIL_SENT_AGAIN
        now = time.monotonic()
    return False


def _send(parent: int, number: int) -> None:
    """Send a signal to the process that is watched, if it still runs."""
    if os.getppid() == parent:
        os.kill(parent, number)


def _unwind(number: int, frame: FrameType | None) -> None:
    """Unwind, so that nothing half-written is left behind; a moment later where that is lost."""
    global _postponed  # noqa: PLW0603 - as above
    if _to_watcher >= 0:
        with contextlib.suppress(OSError):
            os.write(_to_watcher, _HANDLED)
    if _is_lost(frame):
        _postponed = threading.Timer(0.01, _signal_again, (number,))
        _postponed.start()
        return
    hush()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def _signal_again(number: int) -> None:
    """Send a signal to the main thread, so that it wakes up if it waits."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _is_lost(frame: FrameType | None) -> bool:
    """Return whether nobody would learn of what is raised in a frame.

    Python ignores exceptions in finalisers and in what it calls when something is gone. Those in
    the methods that HDF5 calls to write a file are lost in the library, which goes on, or crashes.
    Imports compile, which drops `SystemExit`, and load libraries that are broken if that is ended.
    """
    while frame is not None and (module := frame.f_globals.get("__name__")) != _COMMAND:
        if frame.f_code.co_name in _LOSING_FUNCTIONS or module in _LOSING:
            return True
        frame = frame.f_back
    return False
