"""Server processes: found, started once for all workers of a test run, stopped after the last."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

__all__ = ["free_port", "program", "run_folder", "shared", "start", "stop", "unavailable"]

Facts = dict[str, Any]

_PATIENCE = 300.0
_started: list[subprocess.Popen[bytes]] = []


def unavailable(reason: str) -> NoReturn:
    """Skip a test that needs what is not there; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str, *folders: str, install: str) -> str:
    """Path of a program beside Python, on the search path, or in one of `folders`."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), *folders]
    found = shutil.which(name, path=os.pathsep.join(places))
    return found or unavailable(f"{name} is not installed: {install}")


def free_port() -> int:
    """A port of the loopback device that nobody listens on.

    None of those that systems give to clients, one of which might get it before the server does.
    """
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def start(
    command: Sequence[str], ports: Sequence[int], log: Path, env: Mapping[str, str] | None = None
) -> int:
    """Start a server, wait until it listens on all its ports, and return its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(env or {}),
        )
    _started.append(process)
    end = time.monotonic() + _PATIENCE
    for port in ports:
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                pytest.fail(f"{command[0]} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
    return process.pid


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all worker processes of this run share, and no other run."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@contextlib.contextmanager
def shared(folder: Path, name: str, begin: Callable[[Path], Facts]) -> Iterator[Facts]:
    """Use a server that the first worker starts and the last one stops.

    Parameters
    ----------
    folder : Path
        That of the run.
    name : str
        Of the server.
    begin : callable
        Takes an empty folder, starts the server there and returns what its users must know, with
        the process id as ``"pid"``.
    """
    place = folder / f"server-{name}"
    place.mkdir(exist_ok=True)
    with _state(place) as state:
        if not state.get("users"):
            work = place / f"work-{time.monotonic_ns()}"
            work.mkdir()
            state["facts"] = begin(work)
        state["users"] = state.get("users", 0) + 1
        facts: Facts = state["facts"]
    try:
        yield facts
    finally:
        with _state(place) as state:
            state["users"] -= 1
            if not state["users"]:
                stop(facts["pid"])


def stop(pid: int) -> None:
    """End a server."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    for process in _started:
        if process.pid == pid:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)


@contextlib.contextmanager
def _state(place: Path) -> Iterator[dict[str, Any]]:
    """What the workers know of a server in common, for one of them at a time."""
    fcntl = pytest.importorskip("fcntl", reason="workers share servers by a lock of POSIX files")
    with (place / "state.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state = json.loads(file.read() or "{}")
        try:
            yield state
        finally:
            file.seek(0)
            file.truncate()
            json.dump(state, file)
