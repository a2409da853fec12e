"""Measure the codec presets on real runs, in the layouts that they are used with.

Run as ``python -m benchmarks.measure_presets [--data FOLDER] [--quick]``; Markdown goes to stdout.
Chunks, their inner order and the pipeline are those that `fmristore.convert` chooses. Speeds are of
one thread, medians over repetitions in which the presets take turns, in MB (10^6 bytes) of decoded
data per second; sizes are those of a sample in which air and brain have their true shares.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.measure_codecs import (
    Run,
    chunk,
    data_folder,
    load_runs,
    measure,
    parser,
    rates,
    sample,
    table,
)
from fmristore.planning.layout import Order, Pattern, choose_codecs, plan_layout
from fmristore_stores.spec import ArraySpec

__all__ = ["main", "preset_rows"]

PRESETS = ("portable", "dual", "fast", "archive")
PATTERNS: tuple[Pattern, ...] = ("time", "volume")
DIMS = ("t", "z", "y", "x")
SAMPLE_BYTES = 24 << 20


def preset_rows(run: Run, access: Pattern, nbytes: int, repetitions: int) -> list[list[str]]:
    """One row for each preset: ratio, that to the ``.nii.gz``, and speeds."""
    candidates, raw = {}, {}
    for preset in PRESETS:
        spec = _spec(run, access, preset)
        keys, raw[preset] = sample(run.values, spec.layout.chunks, nbytes)
        chunks = [chunk(run.values, key, spec.layout.chunks, spec.layout.axes) for key in keys]
        candidates[preset] = (spec.codecs, chunks)
    rows = []
    for preset, tally in measure(candidates, repetitions).items():
        ratio = raw[preset] / tally.encoded
        against = ratio * run.gz_bytes / run.values.nbytes
        sizes = [f"{ratio:.2f}", f"{against:.2f}" if against else ""]
        rows.append([run.name, access, preset, *sizes, *rates(tally, raw[preset])])
    return rows


def _spec(run: Run, access: Pattern, preset: str) -> ArraySpec:
    """How `fmristore.convert` would store a run."""
    shape, dtype = run.values.shape, run.values.dtype
    order: Order = "canonical" if preset == "portable" else "auto"
    layout = plan_layout(shape, dtype, dims=DIMS, access=access, order=order, codec=preset)
    spec = ArraySpec(shape=shape, dtype=dtype, dims=DIMS, layout=layout)
    return replace(spec, codecs=choose_codecs(preset, spec))


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
