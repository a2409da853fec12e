"""The command line ends at SIGINT and SIGTERM, also where Python never gets to handle them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

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


def _start(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HEEDS_SIGINT + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != "ready\n":
        pytest.fail(f"{line!r}, {process.communicate()}")
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_library_that_never_returns(number: signal.Signals) -> None:
    """Killed from outside, by a process that does not need the interpreter to run."""
    process = _start(_NEVER_RETURNS)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_unwinding_comes_first(number: signal.Signals) -> None:
    """Where Python runs, nothing is killed and what is half-written is removed."""
    process = _start(_UNWINDS)
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert output == "unwound\n"
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
    else:
        assert "KeyboardInterrupt" in errors


def test_nothing_is_left_running() -> None:
    """The watching process ends, and is waited for, when the command ends."""
    process = _start(_ENDS)
    assert process.wait(timeout=300) == 0
    process.communicate()


def test_the_watching_process_ends_with_a_killed_command() -> None:
    """It keeps no descriptor of the command open either: the pipe below would not end."""
    process = _start(_UNWINDS)
    os.kill(process.pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert output == ""
