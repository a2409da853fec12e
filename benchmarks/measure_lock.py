"""Share of a read in which Python's lock is held: ``python -m benchmarks.measure_lock``.

While a thread holds it, no other thread of the process can run Python, so this share bounds how
reads scale on more cores than this machine has. A read is repeated for a few seconds while a thread
of gilknocker asks for the lock now and then and notes how long it waits. ``FMRISTORE_WORKERS=1``
gives the share of a single thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from gilknocker import KnockKnock

from benchmarks.data import STORES, Run, find_runs, prepare_store
from benchmarks.engines.limit import Limit
from benchmarks.engines.ours import Ours
from benchmarks.selections import draw
from fmristore.planning.layout import Access
from fmristore_stores.chunks.threads import worker_count

__all__ = ["lock_rows", "main"]

READS: tuple[tuple[Access, str], ...] = (
    ("time", "voxel"),
    ("time", "7x7x7"),
    ("time", "volume"),
    ("time", "whole run"),
    ("balanced", "10 volumes"),
    ("balanced", "whole run"),
    ("volume", "volume"),
    ("volume", "whole run"),
)


def lock_rows(run: Run, seconds: float) -> Iterator[tuple[str, ...]]:
    """Measure every kind of read from every store.

    Parameters
    ----------
    run : Run
        What is read.
    seconds : float
        For each read and engine.

    Yields
    ------
    tuple of str
        Store, layout, read, milliseconds of fmristore and of the limit, and the shares of both.
    """
    for kind in STORES.values():
        for access, what in READS:
            path = prepare_store(run, kind, access)
            times, shares = [], []
            for engine in (Ours(path), Limit(path)):
                each, share = _watch(engine, run, what, seconds)
                times.append(f"{1e3 * each:.3g}")
                shares.append(f"{share:.0%}")
                engine.close()
            yield kind.name, access, what, *times, *shares


def _watch(engine: Ours | Limit, run: Run, what: str, seconds: float) -> tuple[float, float]:
    """Seconds of a read, and the share of waiting for the lock."""
    engine.prepare(draw(what, run.shape, run.inside, 0))()
    works = [engine.prepare(draw(what, run.shape, run.inside, n)) for n in range(1, 9)]
    knocker = KnockKnock(polling_interval_micros=500, sampling_interval_micros=500)
    knocker.start()
    count, spent, ends = 0, 0.0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        works[count % len(works)]()
        spent += time.perf_counter() - began
        count += 1
    share = knocker.contention_metric
    knocker.stop()
    return spent / count, share


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure_lock")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each read and engine")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="zarr")
    with tempfile.TemporaryDirectory() as scratch:
        run = find_runs(Path(scratch), quick=True)[0]
        print(f"{run.name}, {worker_count()} workers\n")
        print("| store | layout | read | ms | limit's ms | waiting for the lock | limit's |")
        print("|---|---|---|---:|---:|---:|---:|")
        for row in lock_rows(run, options.seconds):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
