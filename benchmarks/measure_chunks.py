"""Measure chunk shapes and byte budgets on a real run: size, and the cost of six kinds of read.

Run as ``python -m benchmarks.measure_chunks [--data FOLDER] [--quick]``; Markdown goes to stdout.

Local times are measured: every chunk of the run lies encoded in one file in the page cache, and a
read is one ``pread`` per chunk, decoding and copying into the result, all in one thread. Remote
times are computed from the true byte ranges: 20 ms per request, 16 requests at a time, 60 MB/s per
connection, ranges closer than 64 KiB merged up to 1 MiB or a sixteenth of all; decoding overlaps
and is left out.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs.blosc
import numpy as np

from benchmarks.measure_codecs import (
    KIB,
    ORDERS,
    Pipeline,
    Run,
    blosc,
    chunk,
    compact_shape,
    data_folder,
    even,
    load_runs,
    parser,
    portable,
    table,
)
from fmristore_stores.codecs.blosc import decode_part
from fmristore_stores.codecs.pipeline import decode, encode
from fmristore_stores.grid import Overlap, Region, grid_shape, overlaps
from fmristore_stores.protocol import AnyArray

__all__ = ["chunk_shape", "shard_budget", "shard_shape"]

SPACE = ("z", "y", "x")
LEAST_VOXELS = 8
"""A time chunk keeps whole series as long as this many fit its budget."""

LATENCY, CONNECTIONS, BANDWIDTH = 0.020, 16, 60e6
GAP, BLOCK = 64 * KIB, 1 << 20


# The rule under test -------------------------------------------------------------------------


def chunk_shape(
    lengths: Mapping[str, int], itemsize: int, access: str, budget: int
) -> dict[str, int]:
    """Chunk lengths of the dimensions t, z, y, x (t may be missing) for one access pattern.

    ``time``: whole series of a compact block of voxels. ``volume``: one whole volume, cut along z
    if it is larger than the budget. ``balanced``: blocks of the multiple of eight nearest the
    square root of the number of time points. A series then takes as many times more chunks than
    in ``time`` as a volume takes more bytes than in ``volume``.

    A chunk of series has a multiple of eight elements where the lengths allow it: blosc's
    bitshuffle leaves a block alone that has not.
    """
    space = [lengths[d] for d in SPACE]
    steps = lengths.get("t", 1)
    most = max(1, budget // itemsize)
    span = 1
    if access == "volume":
        plane = space[1] * space[2]
        if plane > most:
            shape = (1, *compact_shape(space[1:], most))
        else:
            shape = (even(space[0], most // plane), *space[1:])
    else:
        if access == "time":
            span = even(steps, max(1, most // min(LEAST_VOXELS, math.prod(space))))
        else:
            span = min(steps, 8 * max(1, round(math.sqrt(steps) / 8)))
        shape = compact_shape(space, max(1, most // span), 8 // math.gcd(span, 8))
    found = dict(zip(SPACE, shape, strict=True))
    return {"t": span, **found} if "t" in lengths else found


def shard_budget(nbytes: int) -> int:
    """Decoded bytes of a shard, for an array of `nbytes`: some 50 objects, 16 to 64 MiB each."""
    return max(16 << 20, min(64 << 20, nbytes // 48))


def shard_shape(
    lengths: Mapping[str, int], chunks: Mapping[str, int], itemsize: int, budget: int
) -> dict[str, int]:
    """Shard lengths: chunks gathered along x, then y, z and t, evenly, up to a byte budget."""
    shards = dict(chunks)
    for dim in ("x", "y", "z", "t"):
        if dim not in chunks:
            continue
        count = math.ceil(lengths[dim] / chunks[dim])
        room = max(1, budget // (math.prod(shards.values()) * itemsize))
        taken = even(count, room)
        shards[dim] = taken * chunks[dim]
        if taken < count:
            break
    return shards


# A store of one run, and reads from it ---------------------------------------------------------


@dataclass(slots=True)
class Stored:
    """The encoded chunks of a run in one file, in C order of the grid."""

    descriptor: int
    refs: dict[tuple[int, ...], tuple[int, int]]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    order: tuple[int, ...]
    codecs: Pipeline
    dtype: np.dtype[Any]

    @property
    def encoded(self) -> int:
        """Bytes of all chunks together."""
        return sum(length for _, length in self.refs.values())

    def plan(self, regions: Sequence[Region]) -> dict[tuple[int, ...], list[tuple[int, Overlap]]]:
        """Parts of each chunk that each region needs."""
        wanted: dict[tuple[int, ...], list[tuple[int, Overlap]]] = defaultdict(list)
        for number, region in enumerate(regions):
            for part in overlaps(region, self.chunks):
                wanted[part.key].append((number, part))
        return wanted

    def read(self, regions: Sequence[Region]) -> list[AnyArray]:
        """Values of each region, axes (t, z, y, x), memory in the order of the chunks."""
        back = np.argsort(self.order)
        results = []
        for region in regions:
            sizes = [s.stop - s.start for s in region]
            results.append(np.empty([sizes[a] for a in self.order], self.dtype).transpose(back))
        stored = tuple(self.chunks[a] for a in self.order)
        nbytes = math.prod(stored) * self.dtype.itemsize
        for key, parts in self.plan(regions).items():
            offset, length = self.refs[key]
            data = os.pread(self.descriptor, length, offset)
            voxel = len(parts) == 1 and self.order[-1] == 0 and _one_voxel(parts[0][1])
            if voxel and self._voxel(data, nbytes, parts[0], results):
                continue
            flat = np.frombuffer(decode(self.codecs, data, nbytes), self.dtype)
            values = flat.reshape(stored).transpose(back)
            for number, part in parts:
                results[number][part.target] = values[part.source]
        return results

    def _voxel(
        self, data: bytes, nbytes: int, part: tuple[int, Overlap], results: list[AnyArray]
    ) -> bool:
        number, overlap = part
        _, z, y, x = (s.start for s in overlap.source)
        series = self.chunks[0] * self.dtype.itemsize
        begin = ((z * self.chunks[2] + y) * self.chunks[3] + x) * series
        found = decode_part(self.codecs, data, nbytes, begin, begin + series)
        if found is None:
            return False
        values = np.frombuffer(found[0], self.dtype, self.chunks[0], begin - found[1])
        results[number][overlap.target] = values[overlap.source[0]].reshape(-1, 1, 1, 1)
        return True


def _one_voxel(part: Overlap) -> bool:
    return all(s.stop - s.start == 1 for s in part.source[1:])


def _write(
    run: Run, chunks: tuple[int, ...], order: tuple[int, ...], codecs: Pipeline, file: Any
) -> Stored:
    refs = {}
    file.seek(0)
    file.truncate()
    for key in np.ndindex(*grid_shape(run.values.shape, chunks)):
        data = encode(codecs, chunk(run.values, key, chunks, order))
        refs[key] = (file.tell(), file.write(data))
    file.flush()
    return Stored(file.fileno(), refs, run.values.shape, chunks, order, codecs, run.values.dtype)


def remote_seconds(ranges: Sequence[tuple[int, int]]) -> float:
    """Time to fetch byte ranges (offset, length) under the remote model."""
    share = sum(length for _, length in ranges) // CONNECTIONS
    most = max(BLOCK, share)
    merged: list[list[int]] = []
    for offset, length in sorted(ranges):
        end = offset + length
        if merged and offset - merged[-1][1] <= GAP and end - merged[-1][0] <= most:
            merged[-1][1] = end
        else:
            merged.append([offset, end])
    free = [0.0] * CONNECTIONS
    for begin, end in merged:
        heapq.heappush(free, heapq.heappop(free) + LATENCY + (end - begin) / BANDWIDTH)
    return max(free)


# Reads ---------------------------------------------------------------------------------------


def selections(shape: tuple[int, ...], inside: AnyArray, seed: int) -> dict[str, list[Region]]:
    """One random selection of each kind; `inside` lists voxels (z, y, x) of the head."""
    rng = np.random.default_rng(seed)
    steps, *space = shape
    every = slice(0, steps)
    whole = tuple(slice(0, n) for n in space)
    voxels = inside[rng.integers(0, len(inside), 100)].tolist()
    corner = [min(max(0, v - 3), n - 7) for v, n in zip(voxels[0], space, strict=True)]
    first = int(rng.integers(0, max(1, steps - 10)))
    return {
        "voxel": [(every, *(slice(v, v + 1) for v in voxels[0]))],
        "7x7x7": [(every, *(slice(c, c + 7) for c in corner))],
        "100 voxels": [(every, *(slice(v, v + 1) for v in voxel)) for voxel in voxels],
        "volume": [(slice(first, first + 1), *whole)],
        "10 volumes": [(slice(first, min(first + 10, steps)), *whole)],
        "run": [(every, *whole)],
    }


def inside_head(values: AnyArray) -> AnyArray:
    """Voxels (z, y, x) whose mean is above the mean of all."""
    mean = values.mean(0)
    return np.argwhere(mean > mean.mean())


@dataclass(slots=True)
class Cost:
    """Medians of what one kind of read takes."""

    chunks: float
    encoded: float
    local: float
    remote: float


def costs(stored: Stored, values: AnyArray, repetitions: int) -> dict[str, Cost]:
    """Measure each kind of read; every result is compared with the values."""
    inside = inside_head(values)
    found: dict[str, list[Cost]] = defaultdict(list)
    for seed in range(repetitions):
        for name, regions in selections(values.shape, inside, seed).items():
            if name == "run" and seed > 1:
                continue
            begin = time.perf_counter()
            results = stored.read(regions)
            seconds = time.perf_counter() - begin
            for region, result in zip(regions, results, strict=True):
                np.testing.assert_array_equal(result, values[region])
            ranges = [stored.refs[key] for key in stored.plan(regions)]
            total = sum(length for _, length in ranges)
            found[name].append(Cost(len(ranges), total, seconds, remote_seconds(ranges)))
    return {
        name: Cost(
            *(
                statistics.median(getattr(item, field) for item in items)
                for field in ("chunks", "encoded", "local", "remote")
            )
        )
        for name, items in found.items()
    }


# Tables --------------------------------------------------------------------------------------


def _name(shape: Mapping[str, int]) -> str:
    return "x".join(str(n) for n in shape.values())


def _row(label: str, run: Run, stored: Stored, repetitions: int) -> list[str]:
    values = run.values
    found = costs(stored, values, repetitions)
    nbytes = math.prod(stored.chunks) * values.itemsize
    waste = len(stored.refs) * nbytes / values.nbytes - 1
    head = [
        label,
        "x".join(map(str, stored.chunks)),
        f"{nbytes // KIB}",
        f"{100 * waste:.1f}",
        f"{len(stored.refs)}",
        f"{values.nbytes / stored.encoded:.2f}",
    ]
    return head + [
        f"{c.chunks:.0f} · {c.encoded / 1e3:.0f} · {c.local * 1e3:.2f} · {c.remote * 1e3:.0f}"
        for c in found.values()
    ]


HEADER = ["", "chunk t,z,y,x", "KiB", "padding %", "chunks", "ratio"]
READS = ["voxel", "7x7x7", "100 voxels", "volume", "10 volumes", "run"]
CELLS = "Cells: chunks · encoded kB · local ms · remote ms.\n"


def _lengths(shape: Sequence[int]) -> dict[str, int]:
    return dict(zip(("t", *SPACE), shape, strict=True))


def budget_tables(run: Run, budgets: Sequence[int], repetitions: int, file: Any) -> None:
    """Each access pattern with each budget, `dual` codec; and `portable` at one budget."""
    lengths, width = _lengths(run.values.shape), run.values.itemsize
    for access in ("time", "balanced", "volume"):
        rows = []
        seen = set()
        for kib in budgets:
            shape = tuple(chunk_shape(lengths, width, access, kib * KIB).values())
            if shape in seen:
                continue
            seen.add(shape)
            order = ORDERS["t fastest" if shape[0] > 1 else "x fastest"]
            stored = _write(run, shape, order, blosc("zstd", 5, width), file)
            rows.append(_row(f"{kib} KiB", run, stored, repetitions))
        print(f"### {run.name}, {access}\n\n{CELLS}")
        print(table([*HEADER, *READS], rows), flush=True)


def order_reads(run: Run, repetitions: int, file: Any) -> None:
    """Time chunks under both presets and in both orders."""
    lengths, width = _lengths(run.values.shape), run.values.itemsize
    rows = []
    for kib, (label, order), (name, codecs) in itertools.product(
        (32, 64, 256),
        ORDERS.items(),
        {"portable": portable(4, width), "dual": blosc("zstd", 5, width)}.items(),
    ):
        shape = tuple(chunk_shape(lengths, width, "time", kib * KIB).values())
        stored = _write(run, shape, order, codecs, file)
        rows.append(_row(f"{name}, {label}", run, stored, repetitions))
    print(f"### {run.name}, time chunks, order and preset\n\n{CELLS}")
    print(table([*HEADER, *READS], rows), flush=True)


def split_table(run: Run, kib: int, repetitions: int, file: Any) -> None:
    """Chunks of one budget, cut differently between time and space."""
    lengths, width = _lengths(run.values.shape), run.values.itemsize
    most = kib * KIB // width
    steps = lengths["t"]
    rows = []
    for parts in (1, 2, 4, 8, 10, 12, 16, 32, 64, steps):
        span = math.ceil(steps / parts)
        space = [lengths[d] for d in SPACE]
        shape = (span, *compact_shape(space, most // span, 8 // math.gcd(span, 8)))
        order = ORDERS["t fastest" if span > 1 else "x fastest"]
        stored = _write(run, shape, order, blosc("zstd", 5, width), file)
        rows.append(_row(f"{parts} spans", run, stored, repetitions))
    print(f"### {run.name}, {kib} KiB cut between time and space\n\n{CELLS}")
    print(table([*HEADER, *READS], rows), flush=True)


SHAPES = {
    "small": (100, 30, 64, 64),
    "one-back": (156, 35, 80, 80),
    "fMRIPrep 2 mm": (400, 91, 109, 91),
    "HCP": (1200, 72, 104, 104),
    "7T 1 mm": (300, 140, 220, 220),
    "long": (20000, 30, 64, 64),
}


def _requests(lengths: Mapping[str, int], shape: Mapping[str, int], read: str) -> int:
    """Mean number of chunks that a read of one kind touches."""
    grid = {d: math.ceil(lengths[d] / shape[d]) for d in lengths}
    space = math.prod(grid[d] for d in SPACE)
    if read == "voxel":
        return grid["t"]
    if read == "7x7x7":
        cut = math.prod(min(grid[d], 1 + 6 / shape[d]) for d in SPACE)
        return round(grid["t"] * cut)
    if read == "100 voxels":
        return round(grid["t"] * space * (1 - (1 - 1 / space) ** 100))
    if read == "volume":
        return space
    if read == "10 volumes":
        return round(space * min(grid["t"], 1 + 9 / shape["t"]))
    return space * grid["t"]


def _shape_rows(budgets: Mapping[str, int]) -> Iterator[list[str]]:
    for name, sizes in SHAPES.items():
        lengths = _lengths(sizes)
        for access, kib in budgets.items():
            shape = chunk_shape(lengths, 2, access, kib * KIB)
            shards = shard_shape(lengths, shape, 2, shard_budget(2 * math.prod(sizes)))
            nbytes = math.prod(shape.values()) * 2
            grid = math.prod(math.ceil(lengths[d] / shape[d]) for d in lengths)
            objects = math.prod(math.ceil(lengths[d] / shards[d]) for d in lengths)
            cells = []
            for read in READS:
                count = _requests(lengths, shape, read)
                cells.append(f"{count} · {count * nbytes / 1e6:.1f}")
            yield [
                f"{name}, {access}",
                _name(shape),
                f"{nbytes // KIB}",
                f"{100 * (grid * nbytes / 2 / math.prod(sizes) - 1):.1f}",
                f"{grid}",
                _name(shards),
                f"{math.prod(shards.values()) * 2 / 2**20:.0f}",
                f"{objects}",
                *cells,
            ]


def shape_table(budgets: Mapping[str, int]) -> None:
    """The rule for runs of other sizes: computed from the geometry, nothing measured."""
    header = ["", "chunk t,z,y,x", "KiB", "padding %", "chunks", "shard", "MiB", "objects"]
    print(f"### int16 runs of other sizes, budgets {dict(budgets)} KiB\n")
    print("Cells: chunks · decoded MB.\n")
    print(table([*header, *READS], _shape_rows(budgets)), flush=True)


def main() -> None:
    """Write the tables to stdout."""
    arguments = parser(__doc__).parse_args()
    numcodecs.blosc.use_threads = False
    quick = arguments.quick
    wanted = set((arguments.only or "order,budget,split,shape").split(","))
    budgets = (64, 256) if quick else (64, 128, 256, 512, 1024, 4096)
    repetitions = 2 if quick else 7
    run = load_runs(data_folder(arguments.data), quick=True)[0]
    if quick:
        run = Run(run.name, run.values[:, 12:20], 0)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "run").open("wb+") as file:
        if "order" in wanted:
            order_reads(run, repetitions, file)
        if "budget" in wanted:
            budget_tables(run, budgets, repetitions, file)
        if "split" in wanted:
            for kib in (64,) if quick else (256,):
                split_table(run, kib, repetitions, file)
    if "shape" in wanted:
        shape_table({"time": 256, "balanced": 256, "volume": 1024})
        shape_table({"time": 1024, "balanced": 1024, "volume": 4096})


if __name__ == "__main__":
    main()
