"""Measure the codec presets on real runs, in the layouts that they are used with.

Run as ``python -m benchmarks.measure_presets [--data FOLDER] [--quick]``; Markdown goes to stdout.
Chunks, their inner order and the pipeline are those that `fmristore.convert` chooses. Speeds are of
one thread, medians over repetitions in which the presets take turns, in MB (10^6 bytes) of decoded
data per second; sizes are those of a sample in which air and brain have their true shares.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measure_codecs import Run, chunk, data_folder, load_runs, parser, sample, table
from fmristore.layout import Pattern, choose_codecs, plan_layout
from fmristore_stores.codecs import decode, encode
from fmristore_stores.spec import ArraySpec

__all__ = ["main", "preset_rows"]

PRESETS = ("portable", "dual", "fast")
PATTERNS: tuple[Pattern, ...] = ("time", "volume")
DIMS = ("t", "z", "y", "x")
SAMPLE_BYTES = 24 << 20


def preset_rows(run: Run, access: Pattern, nbytes: int, repetitions: int) -> list[list[str]]:
    """One row for each preset: ratio, that to the ``.nii.gz``, and speeds."""
    jobs = {name: _Job(run, access, name, nbytes) for name in PRESETS}
    for _ in range(repetitions):
        for job in jobs.values():
            job.measure()
    return [[run.name, access, name, *job.cells(run)] for name, job in jobs.items()]


class _Job:
    """Chunks of one run in the layout of one preset, encoded and decoded."""

    def __init__(self, run: Run, access: Pattern, preset: str, nbytes: int) -> None:
        values = run.values
        order: Any = "canonical" if preset == "portable" else "auto"
        layout = plan_layout(
            values.shape, values.dtype, dims=DIMS, access=access, order=order, codec=preset
        )
        spec = ArraySpec(shape=values.shape, dtype=values.dtype, dims=DIMS, layout=layout)
        self._codecs = choose_codecs(preset, spec)
        keys, self._raw = sample(values, layout.chunks, nbytes)
        self._chunks = [chunk(values, key, layout.chunks, layout.axes) for key in keys]
        self._encoded = 0
        self._seconds: tuple[list[float], list[float]] = ([], [])

    def measure(self) -> None:
        """Encode and decode once, and compare."""
        seconds, encoded = _timed(partial(encode, self._codecs), self._chunks)
        self._seconds[0].append(seconds)
        nbytes = self._chunks[0].nbytes
        out = np.empty(nbytes, np.uint8)
        seconds, _ = _timed(lambda data: decode(self._codecs, data, nbytes, out=out), encoded)
        self._seconds[1].append(seconds)
        last = decode(self._codecs, encoded[-1], nbytes)
        if bytes(last) != self._chunks[-1].tobytes():
            raise AssertionError(f"{self._codecs} do not give back what they were given")
        self._encoded = sum(memoryview(item).nbytes for item in encoded)

    def cells(self, run: Run) -> list[str]:
        """What was found."""
        ratio = self._raw / self._encoded
        against = ratio * run.gz_bytes / run.values.nbytes
        speeds = (self._raw / 1e6 / statistics.median(seconds) for seconds in self._seconds)
        return [f"{ratio:.2f}", f"{against:.2f}" if against else "", *(f"{s:.0f}" for s in speeds)]


def _timed(call: Callable[[Any], Any], items: Sequence[Any]) -> tuple[float, list[Any]]:
    begin = time.perf_counter()
    results = [call(item) for item in items]
    return time.perf_counter() - begin, results


def main() -> None:
    """Write the table to stdout."""
    arguments = parser(__doc__).parse_args()
    repetitions, nbytes = (1, 4 << 20) if arguments.quick else (3, SAMPLE_BYTES)
    rows = []
    for run in load_runs(data_folder(arguments.data), quick=arguments.quick):
        for access in PATTERNS if len(run.values) > 1 else PATTERNS[1:]:
            rows += preset_rows(run, access, nbytes, repetitions)
    header = ["run", "layout", "preset", "ratio", ".nii.gz / this", "encode MB/s", "decode MB/s"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
