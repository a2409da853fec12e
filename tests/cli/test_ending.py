"""The command line ends at SIGINT and SIGTERM, also where Python never gets to handle them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no watching process")

# One step of Python that never ends, and says so from within.
_NEVER_RETURNS = """
from collections import deque
from functools import partial
from itertools import chain, repeat
import os
from fmristore.cli import ending

ending._UNTIL_HANDLED = 0.2
with ending.ending_at_signals():  # os.write never looks for signals, as print does
    deque(chain(map(partial(os.write, 1), [b"ready\\n"]), repeat(0)), maxlen=0)
"""
_UNWINDS = """
import sys, time
from fmristore.cli import ending

ending._UNTIL_HANDLED = ending._UNTIL_UNWOUND = 300
with ending.ending_at_signals():
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        print("unwound", flush=True)
"""
# A signal that another thread gets interrupts no call of the main thread, as one that comes just
# before such a call.
_SLEEPS_ON = """
import signal, sys, threading, time
from fmristore.cli import ending

ending._UNTIL_HANDLED = ending._UNTIL_UNWOUND = 300
number = signal.Signals(int(sys.argv[1]))
with ending.ending_at_signals():
    threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), number)).start()
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        print("unwound", flush=True)
"""
_ENDS = """
import os
from fmristore.cli.ending import ending_at_signals

with ending_at_signals():
    pass
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("ready")
"""


# What runs in the background ignores SIGINT, and so do its children.
_HEEDS_SIGINT = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return what starts a program and waits for its first line; none outlives its test."""
    with contextlib.ExitStack() as started:

        def start(code: str, *arguments: str) -> subprocess.Popen[str]:
            process = started.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _HEEDS_SIGINT + code, *arguments],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            started.callback(process.kill)
            assert process.stdout is not None
            line = process.stdout.readline()
            if line != "ready\n":
                pytest.fail(f"{line!r}, {process.communicate()}")
            return process

        yield start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_library_that_never_returns(start: Start, number: signal.Signals) -> None:
    """Killed from outside, by a process that does not need the interpreter to run."""
    process = start(_NEVER_RETURNS)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_unwinding_comes_first(start: Start, number: signal.Signals) -> None:
    """Where Python runs, nothing is killed and what is half-written is removed."""
    process = start(_UNWINDS)
    process.send_signal(number)
    _assert_unwound(process, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_interrupts_nothing(start: Start, number: signal.Signals) -> None:
    """It is sent again, so that a call that waits does not outlast it."""
    _assert_unwound(start(_SLEEPS_ON, str(int(number))), number)


def _assert_unwound(process: subprocess.Popen[str], number: signal.Signals) -> None:
    output, errors = process.communicate(timeout=150)
    assert output == "unwound\n"
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
    else:
        assert "KeyboardInterrupt" in errors


def test_nothing_is_left_running(start: Start) -> None:
    """The watching process ends, and is waited for, when the command ends."""
    process = start(_ENDS)
    assert process.wait(timeout=300) == 0
    process.communicate()


def test_the_watching_process_ends_with_a_killed_command(start: Start) -> None:
    """It keeps no descriptor of the command open either: the pipe below would not end."""
    process = start(_UNWINDS)
    os.kill(process.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert output == ""
