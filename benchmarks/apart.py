"""Work done in a process of its own, so that its peak memory is its own.

``python -m benchmarks.apart MODULE FUNCTION ARGUMENTS`` calls a function with arguments that are
given as a JSON object. The function imports and opens what it needs and returns the work; this is
timed, and what it took is printed as JSON.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import Measured

__all__ = ["peak_bytes", "run_apart"]


def run_apart(module: str, function: str, **arguments: Any) -> Measured:
    """Do something in another process.

    Parameters
    ----------
    module, function : str
        What returns the work.
    **arguments
        Paths, numbers and texts.

    Returns
    -------
    Measured
        Seconds and bytes without starting Python and importing.
    """
    given = {name: str(v) if isinstance(v, Path) else v for name, v in arguments.items()}
    done = subprocess.run(
        [sys.executable, "-m", __name__, module, function, json.dumps(given)],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def peak_bytes() -> int:
    """Most memory this process has had resident; of the process itself on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def main(arguments: list[str]) -> None:
    """Do what the arguments say, and print its seconds and peak memory."""
    module, function, given = arguments
    work = getattr(importlib.import_module(module), function)(**json.loads(given))
    before = peak_bytes()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes() - before}))


if __name__ == "__main__":
    main(sys.argv[1:])
