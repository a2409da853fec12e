"""The library that counts system calls and strikes at the k-th: built when wanted, then loaded.

Processes have it from their start, so the campaign starts itself once more with it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["MODES", "Call", "arm", "available", "calls", "disarm", "load"]

MODES: Mapping[str, int] = {"count": 0, "before": 1, "after": 2, "half": 3, "fail": 4}
"""What happens at the call that was chosen."""

_MARK = "FMRISTORE_CAMPAIGN_SHIM"


class Call(NamedTuple):
    """One call that changes files, as it was logged."""

    what: str
    path: str
    other: str
    """Of a rename or link, the new name."""


def available() -> bool:
    """Return whether this process has the library."""
    return os.environ.get(_MARK) == "loaded"


def load() -> None:
    """Build the library and start this program again with it; return where that cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if _MARK in os.environ or compiler is None or not sys.platform.startswith("linux"):
        return
    library = Path(tempfile.gettempdir(), f"fmristore-shim-{os.getpid()}.so")
    source = Path(__file__).with_name("shim.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        sys.stderr.write(f"no kills at system calls, only at random times: {built.stderr[:500]}\n")
        return
    try:
        code = subprocess.run(
            [sys.executable, "-m", "tests.campaigns", *sys.argv[1:]],
            env={**os.environ, "LD_PRELOAD": str(library), _MARK: "loaded"},
            check=False,
        ).returncode
    finally:
        library.unlink()
    sys.exit(code)


def arm(
    folder: Path, call: int = 0, mode: str = "count", error: int = 0, log: int | None = None
) -> None:
    """Begin to count the calls below a folder, and strike at one of them.

    Parameters
    ----------
    folder : Path
        Absolute, without links.
    call : int
        Which, from 1; none by default.
    mode : str
        One of `MODES`.
    error : int
        With which number the call fails.
    log : int, optional
        Descriptor that the calls are written to.
    """
    ctypes.CDLL(None).shim_arm(
        os.fsencode(folder),
        ctypes.c_long(call),
        MODES[mode],
        error,
        -1 if log is None else log,
    )


def disarm() -> None:
    """Count no more."""
    ctypes.CDLL(None).shim_disarm()


def calls() -> int:
    """How many there were."""
    function = ctypes.CDLL(None).shim_calls
    function.restype = ctypes.c_long
    return int(function())
