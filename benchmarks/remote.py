"""Opening and reading on S3 with latency: time, requests and bytes, side by side.

The server is moto behind `remote_proxy`, which adds the latency, counts, and gives an answer again
from memory: a distant server takes no time of this machine. Every read is of a store that was
opened for it; connections are warm.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import fmristore as fs
from benchmarks.machine import machine, versions
from benchmarks.remote_cells import ENGINES, READS, STORES, Place, RemoteStore
from benchmarks.remote_proxy import RemoteProxy, remote_proxy
from fmristore.demo import make_run
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.protocol import AnyArray

__all__ = ["main", "server_of_s3"]

_BUCKET = "bench"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, check the counts of requests, and write results; 0 if they are as promised."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remote", description=__doc__)
    add = parser.add_argument
    add("--latency", type=float, default=0.02, metavar="SECONDS", help="of every request")
    add("--repetitions", type=int, default=3, metavar="N", help="each cell is measured N times")
    add("--shape", default="64,64,40,120", metavar="X,Y,Z,T", help="of the generated run")
    add("--out", type=Path, default=here / "results", metavar="DIR", help="where results go")
    options = parser.parse_args(arguments)
    x, y, z, t = map(int, options.shape.split(","))
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    warnings.simplefilter("ignore")
    with server_of_s3() as port, remote_proxy(port, options.latency) as proxy:
        direct, delayed = Place(_BUCKET, port), Place(_BUCKET, proxy.port)
        data = _make_stores(direct, (x, y, z, t))
        cells = list(_cells(delayed, proxy, data, options.repetitions))
    document = {
        "machine": machine(),
        "versions": versions(),
        "latency_s": options.latency,
        "shape": [x, y, z, t],
        "repetitions": options.repetitions,
        "cells": cells,
    }
    broken = _broken(cells)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "remote.json").write_text(json.dumps(document, indent=1) + "\n")
    text = _markdown(document, broken)
    (options.out / "remote.md").write_text(text)
    print(text)
    return 1 if broken else 0


@contextlib.contextmanager
def server_of_s3() -> Iterator[int]:
    """Moto in a process of its own."""
    code = (
        "import logging, sys; logging.getLogger('werkzeug').setLevel(logging.ERROR)\n"
        "from moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer('127.0.0.1', 0, verbose=False); server.start()\n"
        "print(server.get_host_and_port()[1], flush=True); sys.stdin.read(); server.stop()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.communicate("")


def _make_stores(place: Place, shape: tuple[int, int, int, int]) -> AnyArray:
    """Put the run on the server in every way; returns its data."""
    request = urllib.request.Request(f"{place.endpoint}/{_BUCKET}", method="PUT")
    urllib.request.urlopen(request).close()
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "run.nii")
        make_run(image, shape=shape)
        loaded: Any = nib.load(image)
        data = np.asarray(loaded.dataobj.get_unscaled())
        space = fs.NeuroSpace(
            spatial_shape=shape[:3], affine=loaded.affine, time_points=shape[3], tr=2.0
        )
        for store in STORES:
            url = f"s3://{_BUCKET}/{store.key}"
            if store.virtual:
                fs.virtualize(url.removesuffix(".refs.json"), storage_options=place.options)
            else:
                fs.NeuroVec.create(
                    data, url, space=space, codec=store.codec, storage_options=place.options
                ).close()
    return data


def _cells(
    place: Place, proxy: RemoteProxy, data: AnyArray, repetitions: int
) -> Iterator[dict[str, Any]]:
    for store in STORES:
        engines = ENGINES[store.name.partition("-")[0]]
        for read in READS:
            index = READS[read](data.shape)
            found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
            for repetition in range(repetitions + 1):
                for engine, opener in engines.items():
                    measured = _measure(opener, store, place, proxy, index, data[index])
                    if repetition:  # the first one makes connections
                        found[engine].append(measured)
            for engine, measured_all in found.items():
                cell = {"store": store.name, "read": read, "engine": engine}
                yield cell | _median(measured_all)
                print(cell | _median(measured_all), file=sys.stderr)


def _measure(
    opener: Any,
    store: RemoteStore,
    place: Place,
    proxy: RemoteProxy,
    index: Any,
    expected: AnyArray,
) -> dict[str, Any]:
    CHUNK_CACHE.clear()
    proxy.take()
    begin = time.perf_counter()
    with opener(store, place) as read:
        opened = time.perf_counter()
        at_open = proxy.take()
        middle = time.perf_counter()
        values = read(index)
        end = time.perf_counter()
        of_read = proxy.take()
    if not np.array_equal(values, expected):
        raise AssertionError(f"{store.name}: wrong numbers")
    return {
        "open_s": opened - begin,
        "open_requests": at_open.requests,
        "open_bytes": at_open.nbytes,
        "read_s": end - middle,
        "read_requests": of_read.requests,
        "read_bytes": of_read.nbytes,
        "at_once": of_read.at_once,
    }


def _median(measured: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: statistics.median(item[name] for item in measured)
        if name.endswith("_s")
        else max(item[name] for item in measured)
        for name in measured[0]
    }


def _broken(cells: list[dict[str, Any]]) -> list[str]:
    """Where HDF5 or references took more requests than Zarr with the same chunks."""
    ours = {(c["store"], c["read"]): c for c in cells if c["engine"] == "fmristore"}
    found: list[str] = []
    for read in READS:
        zarr = ours["zarr-dual", read]
        for store in ("hdf5-dual", "refs-dual"):
            cell = ours[store, read]
            found.extend(
                f"{store}, {read}: {cell[what]} {what}, Zarr {zarr[what]}"
                for what in ("open_requests", "read_requests")
                if cell[what] > zarr[what]
            )
    return found


def _markdown(document: dict[str, Any], broken: list[str]) -> str:
    shape = " x ".join(map(str, document["shape"]))
    lines = [
        "# Reading on S3, with latency",
        "",
        f"A generated run of {shape}, int16, for access in time; moto behind a proxy that adds "
        f"{document['latency_s'] * 1000:.0f} ms to each request, and answers from memory what was "
        f"asked before. Medians of {document['repetitions']}; each read is of a store opened for "
        "it. Made by `python -m benchmarks.remote`.",
        "",
    ]
    for store in STORES:
        lines += [
            f"## {store.name}",
            "",
            "| engine | open | " + " | ".join(READS) + " |\n|---|---|" + "---|" * len(READS),
        ]
        cells = [c for c in document["cells"] if c["store"] == store.name]
        for engine in dict.fromkeys(c["engine"] for c in cells):
            row = [c for c in cells if c["engine"] == engine]
            texts = [_text(row[0], "open"), *(_text(cell, "read") for cell in row)]
            lines.append(f"| {engine} | " + " | ".join(texts) + " |")
        lines.append("")
    lines.append("Cells: milliseconds (requests, MB).")
    promise = "HDF5 and references need no more requests than Zarr with the same chunks"
    lines += ["", f"{promise}: " + ("yes." if not broken else "; ".join(broken)), ""]
    return "\n".join(lines)


def _text(cell: dict[str, Any], what: str) -> str:
    ms, count, size = cell[f"{what}_s"] * 1000, cell[f"{what}_requests"], cell[f"{what}_bytes"]
    return f"{ms:.0f} ({count}, {size / 1e6:.2g})"


if __name__ == "__main__":
    sys.exit(main())
