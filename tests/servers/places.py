"""Where stores can be put on each server: URLs, and what clients must be told."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.process import Facts
from tests.servers.stores import BUCKET, RCLONE_KEY, RCLONE_SECRET, azure_connection

__all__ = ["Place", "azure_place", "gcs_place", "rclone_place", "s3_place", "web_place"]


@dataclass(frozen=True)
class Place:
    """Somewhere that stores can be put, or at least read from.

    Parameters
    ----------
    url : str
        Without a slash at the end.
    options : mapping
        Storage options of fsspec.
    port : int
        Of the server, 0 without one.
    folder : Path, optional
        Where the files of a server lie that cannot be written to.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)
    port: int = 0
    folder: Path | None = None

    def __truediv__(self, name: str) -> str:
        return f"{self.url}/{name}"

    def source(self, name: str) -> str:
        """Where to write what shall be read as `name`."""
        return str(self.folder / name) if self.folder else self / name

    @property
    def source_options(self) -> Mapping[str, Any]:
        """Storage options for `source`."""
        return {} if self.folder else self.options


def _new() -> str:
    return uuid.uuid4().hex[:12]


def s3_options(port: int, key: str = "test", secret: str = "test") -> dict[str, Any]:
    """How s3fs reaches a server on loopback."""
    return {
        "key": key,
        "secret": secret,
        "endpoint_url": f"http://127.0.0.1:{port}",
        "client_kwargs": {"region_name": "us-east-1"},
    }


def s3_place(port: int) -> Place:
    """A new bucket of moto."""
    import s3fs

    bucket = f"bucket-{_new()}"
    options = s3_options(port)
    s3fs.S3FileSystem(**options).call_s3("create_bucket", Bucket=bucket)
    return Place(f"s3://{bucket}", options, port)


def rclone_place(facts: Facts) -> Place:
    """A prefix of rclone's bucket."""
    options = s3_options(facts["port"], RCLONE_KEY, RCLONE_SECRET)
    return Place(f"s3://{BUCKET}/{_new()}", options, facts["port"])


def gcs_place(port: int) -> Place:
    """A prefix of the bucket of the emulator of Google's storage."""
    options = {"token": "anon", "endpoint_url": f"http://127.0.0.1:{port}", "project": "p"}
    return Place(f"gs://{BUCKET}/{_new()}", options, port)


def azure_place(port: int) -> Place:
    """A prefix of Azurite's container."""
    options = {"connection_string": azure_connection(port)}
    return Place(f"az://{BUCKET}/{_new()}", options, port)


def web_place(facts: Facts, mood: str) -> Place:
    """A folder that a web server shows."""
    name = _new()
    folder = Path(facts["folder"], name)
    folder.mkdir()
    port = facts["ports"][mood]
    return Place(f"http://127.0.0.1:{port}/{name}", {}, port, folder)
