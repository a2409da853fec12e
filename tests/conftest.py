"""Fixtures that every test may ask for."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from fmristore_stores import opening
from fmristore_stores.protocol import Store
from fmristore_stores.testing.wrappers import CountingStore
from tests.servers.fixtures import (
    azurite,
    gcs_emulator,
    gcs_proxy,
    nginx,
    plain_web,
    rclone,
    s3_port,
)

__all__ = ["azurite", "gcs_emulator", "gcs_proxy", "nginx", "plain_web", "rclone", "s3_port"]

# Interpreters that tests start would otherwise compile the project each time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

MEMORY = Path("/dev/shm")
if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and shutil.disk_usage(MEMORY).free > 2 << 30
):
    # Thousands of small files: a disk takes longer to make them than the tests take to write them.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

hypothesis.settings.register_profile("default", deadline=None, max_examples=25)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """Flushing checks its descriptor and returns; tests of flushing put their own in its place."""

    def check(descriptor: int) -> None:
        os.fstat(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", check)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real images and files of the R package; required in CI, optional elsewhere."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("FMRISTORE_SHARED_DATA", beside))
    if not (folder / "data" / "real").is_dir():
        message = f"no shared test data in {folder}: set FMRISTORE_SHARED_DATA to its folder"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


def pytest_collection_finish() -> None:
    """Leave what was collected out of the search for cycles, which some tests ask for."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class S3Server:
    """A bucket on a local S3 server, and how s3fs reaches it."""

    bucket: str
    options: dict[str, Any]

    def url(self, key: str) -> str:
        """URL of a key in the bucket."""
        return f"s3://{self.bucket}/{key}"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server on loopback, empty at the start of the session."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_endpoint: str) -> S3Server:
    """A fresh bucket on the local S3 server."""
    import s3fs

    options = {
        "key": "test",
        "secret": "test",
        "endpoint_url": s3_endpoint,
        "client_kwargs": {"region_name": "us-east-1"},
    }
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(**options).call_s3("create_bucket", Bucket=bucket)
    return S3Server(bucket, options)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[CountingStore]:
    """Every store that is opened from here on, each counting."""
    found: list[CountingStore] = []
    plainly = opening._open

    def open_counting(*arguments: Any, **options: Any) -> Store:
        found.append(CountingStore(plainly(*arguments, **options)))
        return found[-1]

    monkeypatch.setattr(opening, "_open", open_counting)
    return found
