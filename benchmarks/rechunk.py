"""Rechunking in a process of its own, so that its peak memory is its own.

``python -m benchmarks.rechunk LABEL SOURCE TARGET ACCESS MAX_MEMORY`` does it and prints what it
took as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.timing import Measured
from fmristore.layout import Access

__all__ = ["Job", "peers", "run_apart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One rechunking of a Zarr store."""

    label: str
    source: Path
    target: Path
    access: Access
    max_memory: int


def peers() -> tuple[str, ...]:
    """Peers that can rechunk here."""
    return ("dask",) if importlib.util.find_spec("dask") else ()


def run_apart(job: Job) -> Measured:
    """Do a job in another process.

    Returns
    -------
    Measured
        Seconds and bytes without starting Python and importing.
    """
    arguments = (job.label, job.source, job.target, job.access, job.max_memory)
    done = subprocess.run(
        [sys.executable, "-m", __name__, *map(str, arguments)],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _ours(job: Job) -> Callable[[], Any]:
    import fmristore as fs

    with fs.open(job.source) as image:  # imports what it needs
        image.read((0, 0, 0, 0))
    return partial(
        fs.transcode, job.source, job.target, access=job.access, max_memory=job.max_memory
    )


def _dask(job: Job) -> Callable[[], Any]:
    import dask
    import dask.array as da
    import zarr
    from zarr.codecs import TransposeCodec

    from benchmarks.write_cells import sync
    from fmristore.layout import plan_layout

    source: Any = zarr.open_array(job.source / "0", mode="r")
    layout = plan_layout(source.shape, source.dtype, access=job.access)
    arrays: Any = da
    order = layout.order or tuple(range(source.ndim))

    def work() -> None:
        zarr.open_group(job.target, mode="w")
        target: Any = zarr.create_array(
            store=job.target / "0",
            shape=source.shape,
            dtype=source.dtype,
            chunks=layout.chunks,
            shards=layout.shards,
            filters=[TransposeCodec(order=order)],
            compressors=source.compressors,
            dimension_names=source.metadata.dimension_names,
        )
        units = layout.units
        loaded: Any = arrays.from_array(source, chunks=source.shards or source.chunks)
        with dask.config.set({"array.chunk-size": job.max_memory // 4}):
            arrays.store(loaded.rechunk(units), target, lock=False)
        sync(job.target)

    return work


def _peak_bytes() -> int:
    """Most memory this process has had resident; of the process itself on Linux."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


def main(arguments: list[str]) -> None:
    """Do one job and print its seconds and peak memory."""
    label, source, target, access, max_memory = arguments
    job = Job(
        label=label,
        source=Path(source),
        target=Path(target),
        access=access,  # type: ignore[arg-type]
        max_memory=int(max_memory),
    )
    work = {"fmristore": _ours, "dask": _dask}[label](job)
    before = _peak_bytes()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak_bytes": _peak_bytes() - before}))


if __name__ == "__main__":
    main(sys.argv[1:])
