"""The same byte ranges of S3 through fsspec (s3fs) and through obstore: requests, bytes and time.

``python -m benchmarks.remote_clients`` prints a table in Markdown. The server is moto behind
`remote_proxy`; each cell alternates between the clients, and medians are reported. The decision is
in docs/design/0009-object-storage.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.remote import server_of_s3
from benchmarks.remote_proxy import RemoteProxy, remote_proxy

__all__ = ["main"]

_BUCKET = "bench"
_KEY = "run.bin"
_SIZE = 32 << 20
_MIB = 1 << 20


class Client(NamedTuple):
    """How a client does what a byte source and a publisher ask for."""

    begin: Callable[[], int]
    """First 64 KiB of the object, with its size and version."""
    ranges: Callable[[Sequence[tuple[int, int]]], int]
    """Bytes of some ranges of the object that must have the version seen."""
    create: Callable[[str, bytes], None]
    """Make an object on the condition that there is none."""


def _with_fsspec(endpoint: str) -> Client:
    from fmristore_stores.io.conditional_put import create_object
    from fmristore_stores.io.location import filesystem
    from fmristore_stores.io.sources import FsspecSource
    from fmristore_stores.protocol import ByteRange

    options = {"endpoint_url": endpoint, "key": "k", "secret": "s", "client_kwargs": {}}
    fs, path = filesystem(f"s3://{_BUCKET}/{_KEY}", options)
    etag = FsspecSource(fs).look(path, 16).version

    def ranges(wanted: Sequence[tuple[int, int]]) -> int:
        source = FsspecSource(fs, etag=etag)
        return sum(map(len, source.fetch([ByteRange(path, *one) for one in wanted])))

    def create(key: str, data: bytes) -> None:
        create_object(fs, f"{_BUCKET}/{key}", data, key)

    return Client(lambda: len(FsspecSource(fs).look(path, 65536).data), ranges, create)


def _with_obstore(endpoint: str) -> Client:
    import asyncio
    import threading

    import obstore
    from obstore.store import S3Store

    store = S3Store(
        _BUCKET,
        endpoint=endpoint,
        access_key_id="k",
        secret_access_key="s",
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    etag = obstore.head(store, _KEY)["e_tag"]

    async def fetch(wanted: Sequence[tuple[int, int]]) -> list[Any]:
        async def one(start: int, length: int) -> Any:
            options: Any = {"range": (start, start + length), "if_match": etag}
            found = await obstore.get_async(store, _KEY, options=options)
            return await found.bytes_async()

        return await asyncio.gather(*(one(*item) for item in wanted))

    def ranges(wanted: Sequence[tuple[int, int]]) -> int:
        return sum(map(len, asyncio.run_coroutine_threadsafe(fetch(wanted), loop).result()))

    def create(key: str, data: bytes) -> None:
        obstore.put(store, key, data, mode="create", use_multipart=False)

    def begin() -> int:
        found = obstore.get(store, _KEY, options={"range": (0, 65536)})
        return len(found.bytes())

    return Client(begin, ranges, create)


def _cells() -> dict[str, Callable[[Client, str], object]]:
    spread = [(i * 3 * _MIB // 2, 300_000) for i in range(16)]
    region = [(i * 5 * _MIB, 100_000) for i in range(4)]
    whole = [(i * _MIB, _MIB) for i in range(_SIZE // _MIB)]
    small, large = b"x" * 2000, b"x" * (8 * _MIB)
    return {
        "opening: 64 KiB": lambda client, _: client.begin(),
        "voxel: 1 range of 40 KiB": lambda client, _: client.ranges([(5 * _MIB, 40_000)]),
        "region: 4 ranges of 100 KB": lambda client, _: client.ranges(region),
        "volume: 16 ranges of 300 KB": lambda client, _: client.ranges(spread),
        "whole run: 32 ranges of 1 MiB": lambda client, _: client.ranges(whole),
        "create 2 KB": lambda client, name: client.create(f"{name}-small", small),
        "create 8 MiB": lambda client, name: client.create(f"{name}-large", large),
    }


def _rows(proxy: RemoteProxy, latency: float, repetitions: int) -> None:
    endpoint = f"http://127.0.0.1:{proxy.port}"
    clients = {"fsspec": _with_fsspec(endpoint), "obstore": _with_obstore(endpoint)}
    for cell, work in _cells().items():
        seconds: dict[str, list[float]] = {name: [] for name in clients}
        counts = {}
        for number in range(repetitions + 1):
            for name, client in clients.items():
                proxy.take()
                started = time.perf_counter()
                work(client, f"{latency}-{name}-{number}")
                if number:  # the first connects
                    seconds[name].append(time.perf_counter() - started)
                counts[name] = proxy.take()
        one, other = (statistics.median(seconds[name]) * 1000 for name in clients)
        ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
        asked = " / ".join(f"{counts[name].requests}" for name in clients)
        came = " / ".join(f"{counts[name].nbytes / 1e6:.2f}" for name in clients)
        print(
            f"| {cell} | {latency * 1000:.0f} ms | {asked} | {came} | {one:.1f} | {other:.1f} "
            f"| {ratio:.2f} |",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, nargs="+", default=[0.0, 0.02])
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args(arguments)
    print("| what | latency | requests | MB | fsspec, ms | obstore, ms | fsspec / obstore |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with server_of_s3() as port:
        endpoint = f"http://127.0.0.1:{port}/{_BUCKET}"
        for url, body in ((endpoint, None), (f"{endpoint}/{_KEY}", b"a" * _SIZE)):
            kind = {"Content-Type": "application/octet-stream"}
            request = urllib.request.Request(url, data=body, headers=kind, method="PUT")
            urllib.request.urlopen(request).close()
        for latency in options.latency:
            with remote_proxy(port, latency) as proxy:
                _rows(proxy, latency, options.repetitions)


if __name__ == "__main__":
    main()
