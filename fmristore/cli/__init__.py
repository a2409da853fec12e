"""The command line: ``fmristore --help``."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

from fmristore.cli.app import app
from fmristore.cli.console import hush

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and leave the interpreter with its exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _unwind)
    signal.signal(signal.SIGTERM, _unwind)
    app(prog_name="fmristore")


def _unwind(number: int, frame: FrameType | None) -> None:
    """Unwind, so that nothing half-written is left behind; a moment later in a finaliser."""
    if _in_finaliser(frame):  # Python ignores what is raised there
        threading.Timer(0.01, _signal_again, (number,)).start()
        return
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    hush()
    sys.exit(128 + number)


def _signal_again(number: int) -> None:
    """Send a signal to the main thread, so that it wakes up if it waits."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _in_finaliser(frame: FrameType | None) -> bool:
    while frame is not None:
        module = frame.f_globals.get("__name__")
        if frame.f_code.co_name == "__del__" or module in ("weakref", "_weakrefset"):
            return True
        frame = frame.f_back
    return False
