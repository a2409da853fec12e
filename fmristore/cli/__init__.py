"""The command line: ``fmristore --help``."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from fmristore.cli.app import app
from fmristore.cli.console import hush

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and leave the interpreter with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    app(prog_name="fmristore")


def _terminate(number: int, _: FrameType | None) -> None:
    """Unwind, so that nothing half-written is left behind."""
    hush()
    sys.exit(128 + number)
