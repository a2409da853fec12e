"""Fixtures of servers; `tests/conftest.py` hands them to all tests."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.servers.places import (
    Place,
    azure_place,
    gcs_place,
    rclone_place,
    s3_place,
    web_place,
)
from tests.servers.process import Facts, free_port, run_folder, shared, start, stop
from tests.servers.proxy import Proxy, run_proxy
from tests.servers.stores import begin_azurite, begin_gcs, begin_rclone
from tests.servers.web import begin_nginx

__all__ = [
    "azurite",
    "gcs_emulator",
    "gcs_proxy",
    "make_place",
    "nginx",
    "plain_web",
    "rclone",
    "s3_port",
]


@pytest.fixture(scope="session")
def s3_port(s3_endpoint: str) -> int:
    """Port of moto, one in each worker."""
    return int(s3_endpoint.rpartition(":")[2])


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """An S3 server that is not moto."""
    with shared(run_folder(tmp_path_factory), "rclone", begin_rclone) as facts:
        yield facts


@pytest.fixture(scope="session")
def gcs_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """A server of Google's storage."""
    with shared(run_folder(tmp_path_factory), "gcs", begin_gcs) as facts:
        yield facts


@pytest.fixture(scope="session")
def gcs_proxy(gcs_emulator: Facts) -> Iterator[Proxy]:
    """A server of Google's storage that honours conditions, as the real one does."""
    with run_proxy(gcs_emulator["port"], google=True) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """A server of Azure's blobs."""
    with shared(run_folder(tmp_path_factory), "azurite", begin_azurite) as facts:
        _close_azure_quietly()
        yield facts


def _close_azure_quietly() -> None:
    """Let adlfs not close clients of asynchronous filesystems on a loop that these do not have.

    It does so when Python ends, after the summary of the tests, and the traceback hides that.
    """
    from adlfs import spec

    plainly = spec.sync

    def sync(loop: Any, *call: Any, **options: Any) -> Any:
        return None if loop is None else plainly(loop, *call, **options)

    spec.sync = sync


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """A web server."""
    with shared(run_folder(tmp_path_factory), "nginx", begin_nginx) as facts:
        yield facts


@pytest.fixture(scope="session")
def plain_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port of Python's own web server, which knows no ranges, and the folder that it shows."""
    folder = tmp_path_factory.mktemp("shown")
    port = free_port()
    command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    pid = start([*command, "--directory", str(folder)], [port], folder.with_suffix(".log"))
    yield port, folder
    stop(pid)


def make_place(name: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    """A new place on a server, which is started if nobody has yet.

    Parameters
    ----------
    name : str
        One of file, memory, moto, rclone, gcs, azure, http.
    request : FixtureRequest
        Of the test or fixture that asks.
    folder : Path
        For files.
    """
    match name:
        case "file":
            return Place(f"file://{folder}")
        case "memory":
            url = f"memory://{uuid.uuid4().hex}"
            fsspec.filesystem("memory").mkdir(url)
            return Place(url)
        case "moto":
            return s3_place(request.getfixturevalue("s3_port"))
        case "rclone":
            return rclone_place(request.getfixturevalue("rclone"))
        case "gcs":
            return gcs_place(request.getfixturevalue("gcs_emulator")["port"])
        case "azure":
            return azure_place(request.getfixturevalue("azurite")["port"])
        case "http":
            return web_place(request.getfixturevalue("nginx"), "ranges")
    raise AssertionError(name)
