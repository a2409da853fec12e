"""A collection of many made-up subjects: opening it, asking it, one voxel of all of them.

``python -m benchmarks.measure_subjects [--subjects 500]`` prints a table in Markdown. The images
are tiny, so that what is measured is what each store costs besides its data. The server is moto,
and the requests that it is sent are counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fmristore as fs
from benchmarks.remote_proxy import remote_proxy
from fmristore.bids.index import INDEX

__all__ = ["main"]

SHAPE = (8, 9, 7)


def make(folder: Path, subjects: int) -> None:
    """Write one map for each subject, as stores in a dataset."""
    rng = np.random.default_rng(1)
    affine = np.diag([3.0, 3, 3, 1])
    for number in range(subjects):
        name = f"sub-{number:04}"
        url = folder / name / "func" / f"{name}_task-rest_contrast-go_statmap.h5"
        values = rng.normal(size=SHAPE).astype("f4")
        fs.NeuroVol.create(values, url, space=affine).close()


def timed(work: Callable[[], Any], rounds: int = 5) -> tuple[float, Any]:
    """Least seconds of some rounds, and what the last one gave."""
    seconds, found = [], None
    for _ in range(rounds):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), found


def remote(folder: Path) -> tuple[float, int, Any]:
    """Seconds and requests of opening the collection on an S3 server, and its size."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    _, port = server.get_host_and_port()
    with remote_proxy(port, 0.0) as proxy:
        options = {
            "key": "a",
            "secret": "b",
            "endpoint_url": f"http://127.0.0.1:{proxy.port}",
            "client_kwargs": {"region_name": "us-east-1"},
        }
        files = s3fs.S3FileSystem(**options)
        files.call_s3("create_bucket", Bucket="lab")
        files.pipe_file(f"lab/{INDEX}", (folder / INDEX).read_bytes())
        seconds, found = timed(lambda: fs.Collection("s3://lab", storage_options=options))
        proxy.take()
        fs.Collection("s3://lab", storage_options=options)
        requests = proxy.take().requests
    server.stop()
    return seconds, requests, len(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=500)
    count = parser.parse_args().subjects
    rows: list[tuple[str, float, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "stores"
        make(folder, count)
        seconds, _ = timed(lambda: fs.Collection(folder), 1)
        rows.append(("first opening: every store is opened, the index written", seconds, ""))
        seconds, collection = timed(lambda: fs.Collection(folder))
        size = (folder / INDEX).stat().st_size
        rows.append(("opening, looked through", seconds, f"index {size / 1e3:.0f} kB"))
        seconds, _ = timed(lambda: fs.Collection(folder, check=False))
        rows.append(("opening by the index alone", seconds, ""))
        seconds, requests, _ = remote(folder)
        rows.append(("opening on S3 (moto)", seconds, f"{requests} request"))
        seconds, part = timed(lambda: collection.sel(subject=7))
        rows.append(("sel(subject=7)", seconds, f"{len(part)} member"))
        seconds, _ = timed(lambda: collection.table)
        rows.append(("table", seconds, ""))
        url = Path(name) / "group.h5"
        seconds, group = timed(lambda: collection.across(url, overwrite=True), 1)
        rows.append(("across: one store of all", seconds, f"{group.shape}"))
        plan = group.plan[4, 4, 3]
        seconds, _ = timed(lambda: fs.open(url)[4, 4, 3])
        rows.append(("one voxel of all, opening included", seconds, f"{plan.chunks} chunk"))
        seconds, _ = timed(lambda: [member.open()[4, 4, 3] for member in collection], 1)
        rows.append(("the same from the stores of the subjects", seconds, ""))
    print(f"{count} subjects, one map of {SHAPE} each\n")
    print("| what | ms | |\n|---|---|---|")
    for what, seconds, note in rows:
        print(f"| {what} | {1000 * seconds:.1f} | {note} |")


if __name__ == "__main__":
    main()
