"""The command line: ``fmristore --help``."""

from __future__ import annotations

from fmristore.cli.app import app
from fmristore.cli.ending import ending_at_signals

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and leave the interpreter with its exit code."""
    with ending_at_signals():
        app(prog_name="fmristore")
