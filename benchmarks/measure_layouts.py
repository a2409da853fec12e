"""Measure what a second copy costs and gains: size, writing, and six kinds of read of a real run.

Run as ``python -m benchmarks.measure_layouts [--data FOLDER] [--quick]``; Markdown goes to stdout.

The run is stored once for each access pattern. Reads are interleaved, each from an image opened
just before, so that no decoded chunk is at hand, with a warm page cache; the lowest time counts.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import fmristore as fs
from benchmarks.measure_codecs import RUNS, data_folder, parser, table
from fmristore.planning.layout import Access
from fmristore_stores.chunks.threads import worker_count

__all__ = ["main"]

STORES = {"HDF5, portable": "h5", "Zarr, dual": "ome.zarr"}


def reads(shape: Sequence[int]) -> dict[str, Callable[[Any], Any]]:
    """Kinds of reads, at places in the middle of the run."""
    x, y, z, t = (n // 2 for n in shape)
    return {
        "voxel": lambda image: image[x, y, z],
        "7x7x7": lambda image: image[x - 3 : x + 4, y - 3 : y + 4, z - 3 : z + 4],
        "volume": lambda image: image[..., t],
        "10 volumes": lambda image: image[..., t : t + 10],
        "half": lambda image: image[..., :t],
        "run": lambda image: image[...],
    }


def measure(source: Path, folder: Path, ending: str, repetitions: int) -> list[list[str]]:
    """Store a run for each access pattern and read from all of them: a row for each."""
    written, best = {}, defaultdict[tuple[str, str], float](lambda: float("inf"))
    paths = {access: folder / f"{access}.{ending}" for access in get_args(Access)}
    for access, path in paths.items():
        started = time.perf_counter()
        fs.convert(source, path, access=access)
        written[access] = time.perf_counter() - started
    for _ in range(repetitions):
        for access, path in paths.items():
            with fs.open(path) as image:
                kinds = reads(image.shape)
            for kind, read in kinds.items():
                with fs.open(path) as image:
                    started = time.perf_counter()
                    read(image)
                    taken = time.perf_counter() - started
                best[access, kind] = min(best[access, kind], taken)
    rows = []
    for access, path in paths.items():
        with fs.open(path) as image:
            sizes = image.describe()["sizes"]
        row = [access, f"{sizes['encoded_bytes'] / 2**20:.1f}", f"{sizes['ratio']:.2f}"]
        row.append(f"{written[access]:.1f}")
        rows.append(row + [f"{1000 * best[access, kind]:.2f}" for kind in kinds])
    return rows


def main() -> None:
    """Print a table for each kind of store."""
    options = parser(__doc__).parse_args()
    name, path = next(iter(RUNS.items()))
    source = data_folder(options.data) / path
    print(f"{name}, {worker_count()} threads\n")
    for title, ending in STORES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(source, Path(folder), ending, 1 if options.quick else 15)
        heads = ["access", "MiB", "ratio", "written s", *(f"{k} ms" for k in reads((8,) * 4))]
        print(f"{title}\n\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
