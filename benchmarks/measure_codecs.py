"""Measure codecs and in-chunk orders on real runs: size, and speed of one thread.

Run as ``python -m benchmarks.measure_codecs [--data FOLDER] [--quick]``; Markdown goes to stdout.
Numbers are encoded as they are stored (not scaled). Every figure of speed is a median over
repetitions in which the candidates take turns, in MB (10^6 bytes) of decoded data per second.
Ratios count the padding of edge chunks: stored logical bytes / encoded bytes.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numcodecs.blosc
import numpy as np

from fmristore_stores.codecs.blosc import decode_part
from fmristore_stores.codecs.pipeline import decode, encode
from fmristore_stores.grid import chunk_region, grid_shape
from fmristore_stores.protocol import AnyArray, Buffer
from fmristore_stores.spec import CodecSpec

__all__ = [
    "ORDERS",
    "Run",
    "blosc",
    "chunk",
    "compact_shape",
    "data_folder",
    "even",
    "load_runs",
    "measure",
    "parser",
    "portable",
    "rates",
    "sample",
    "table",
]

Pipeline = tuple[CodecSpec, ...]

RUNS = {
    "one-back": "bold/sub-02_task-oneback_run-1_bold.nii.gz",
    "pcasl": "bold/sub-prisma_run-1_acq-pcasl2d.nii.gz",
    "pasl": "bold/sub-prisma_run-2_acq-pasl2d.nii.gz",
    "feat": "odd/nifti_filtered_func_data.nii.gz",
    "roi": "bold/pyhrf_subj0/bold.nii.gz",
    "map": "maps/neurovault_motor_lips.nii.gz",
}
"""Runs of stored int16, a float32 run that is zero outside two regions, and a float32 map."""

ORDERS = {"t fastest": (1, 2, 3, 0), "x fastest": (0, 1, 2, 3)}
"""Axes of (t, z, y, x) from the slowest to the fastest inside a chunk."""

KIB = 1024


@dataclass(frozen=True, slots=True)
class Run:
    """One run in memory.

    Parameters
    ----------
    name : str
        Short name for the tables.
    values : ndarray (T, Z, Y, X)
        Stored values, little-endian.
    gz_bytes : int
        Size of the ``.nii.gz`` file, or 0 where there is none.
    """

    name: str
    values: AnyArray
    gz_bytes: int


@dataclass(slots=True)
class Tally:
    """What one candidate took."""

    encoded: int
    encode_seconds: list[float]
    decode_seconds: list[float]


def data_folder(given: str | None = None) -> Path:
    """Folder of the data: `given`, or below ``FMRISTORE_SHARED_DATA``, or beside the project."""
    if given:
        return Path(given)
    shared = os.environ.get("FMRISTORE_SHARED_DATA")
    base = Path(shared) if shared else Path(__file__).resolve().parents[2] / "shared"
    return base / "data" / "real"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Command line that all measuring scripts share."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data", help="folder of the real data")
    made.add_argument("--quick", action="store_true", help="one run, few chunks, one repetition")
    made.add_argument("--only", help="comma-separated names of the tables to make")
    return made


def _load(path: Path) -> AnyArray:
    proxy: Any = nib.load(path).dataobj  # type: ignore[attr-defined]
    stored = np.asarray(proxy.get_unscaled())
    little = stored.astype(stored.dtype.newbyteorder("<"), copy=False).T
    return np.ascontiguousarray(little if little.ndim == 4 else little[None])


def load_runs(folder: Path, *, quick: bool) -> list[Run]:
    """Real runs; the last one is the one-back run as float32 after detrending.

    No large run of genuine float32 is at hand, so the first run is made into one by what a
    preprocessing pipeline does: take a line out of every voxel's series and scale.
    """
    runs = []
    for name, path in RUNS.items():
        runs.append(Run(name, _load(folder / path), (folder / path).stat().st_size))
        if quick:
            return runs
    first = runs[0].values
    times = np.linspace(-1, 1, len(first), dtype=np.float32)
    slope = np.tensordot(times, first.astype(np.float32), 1) / (times @ times)
    scaled = (first - times[:, None, None, None] * slope) * np.float32(0.755384)
    return [*runs, Run("float32", scaled.astype("<f4"), 0)]


# Candidates ----------------------------------------------------------------------------------


def blosc(
    cname: str, clevel: int, width: int, blocksize: int = 0, shuffle: str = "bitshuffle"
) -> Pipeline:
    """A blosc step for values of `width` bytes."""
    return (
        CodecSpec.of(
            "blosc",
            cname=cname,
            clevel=clevel,
            shuffle=shuffle,
            typesize=width,
            blocksize=blocksize,
        ),
    )


def portable(level: int, width: int) -> Pipeline:
    """The byte shuffle and deflate of every HDF5 library."""
    return (
        CodecSpec.of("shuffle", elementsize=width),
        CodecSpec.of("deflate", level=level),
    )


def _candidates(width: int) -> dict[str, Pipeline]:
    shuffle = CodecSpec.of("shuffle", elementsize=width)
    return {
        "deflate 4, no shuffle": (CodecSpec.of("deflate", level=4),),
        **{f"shuffle + deflate {level}": portable(level, width) for level in (1, 4, 6)},
        "shuffle + zstd 3": (shuffle, CodecSpec.of("zstd", level=3, checksum=False)),
        **{f"blosc zstd {level}": blosc("zstd", level, width) for level in (1, 3, 5, 6, 7)},
        "blosc zstd 5, bytes": blosc("zstd", 5, width, 0, "shuffle"),
        **{f"blosc lz4 {level}": blosc("lz4", level, width) for level in (1, 3, 5, 7, 9)},
        "blosc lz4 5, bytes": blosc("lz4", 5, width, 0, "shuffle"),
    }


def _small_candidates(width: int) -> dict[str, Pipeline]:
    shuffle = CodecSpec.of("shuffle", elementsize=width)
    large = 1024 * KIB
    return {
        "blosc zstd 5": blosc("zstd", 5, width),
        "blosc zstd 5, 1 MiB blocks": blosc("zstd", 5, width, large),
        "blosc zstd 7, 1 MiB blocks": blosc("zstd", 7, width, large),
        "blosc zstd 9": blosc("zstd", 9, width),
        "blosc zstd 8": blosc("zstd", 8, width),
        "blosc zstd 5, bytes": blosc("zstd", 5, width, 0, "shuffle"),
        "blosc zstd 8, bytes": blosc("zstd", 8, width, 0, "shuffle"),
        "blosc zstd 9, bytes": blosc("zstd", 9, width, 0, "shuffle"),
        "blosc zlib 9": blosc("zlib", 9, width),
        "shuffle + zstd 9": (shuffle, CodecSpec.of("zstd", level=9, checksum=False)),
        "shuffle + zstd 19": (shuffle, CodecSpec.of("zstd", level=19, checksum=False)),
        "zstd 19": (CodecSpec.of("zstd", level=19, checksum=False),),
        "shuffle + deflate 9": portable(9, width),
    }


# Chunks --------------------------------------------------------------------------------------


def even(length: int, most: int) -> int:
    """Length of the pieces when an axis is cut evenly into pieces of at most `most`."""
    return math.ceil(length / math.ceil(length / max(1, min(most, length))))


def _cuts(length: int, most: int) -> list[int]:
    """Even pieces worth a look: all short ones, then in steps of a quarter, and few pieces."""
    steps = [round(64 * 1.25**k) for k in range(48)]
    pieces = {even(length, c) for c in [*range(1, 65), *steps] if c <= most}
    pieces |= {math.ceil(length / k) for k in range(1, 65)}
    return sorted(piece for piece in pieces if piece <= most)


def compact_shape(lengths: Sequence[int], most: int, multiple: int = 1) -> tuple[int, ...]:
    """Shape of at most `most` elements, near a cube, that divides the axes with little padding.

    Only even cuts ``ceil(n / k)`` are looked at. The shape is taken that minimises padded size
    times elongation (surface against a cube's), among those that fill at least half of `most` and
    whose size is a multiple of `multiple`, as far as there are any.
    """
    whole = math.prod(lengths)
    if whole <= most:
        return tuple(lengths)
    best: tuple[bool, bool, float] = (True, True, math.inf)
    found = (1,) * len(lengths)
    cuts = [_cuts(n, most) for n in lengths]
    for head in itertools.product(*cuts[:-1]):
        room = most // math.prod(head)
        for last in cuts[-1][: bisect.bisect_right(cuts[-1], room)][-12:]:
            shape = (*head, last)
            size = math.prod(shape)
            pieces = math.prod(math.ceil(n / c) for n, c in zip(lengths, shape, strict=True))
            edge = size ** (1 / len(shape))
            score = pieces * size / whole * sum(edge / c for c in shape) * (most / size) ** 0.15
            candidate = (2 * size <= most, size % multiple > 0, score)
            if candidate < best:
                best, found = candidate, shape
    return found


def shapes(values: AnyArray) -> dict[str, tuple[int, ...]]:
    """Chunk shapes (t, z, y, x) that the tables of codecs use."""
    steps, *space = values.shape
    budget = 256 * KIB // values.itemsize
    if steps == 1:
        return {"volume": (1, *space)}
    span = min(steps, 16)
    return {
        "time": (steps, *compact_shape(space, budget // steps, 8 // math.gcd(steps, 8))),
        "small time": (steps, *compact_shape(space, budget // 4 // steps, 8 // math.gcd(steps, 8))),
        "balanced": (span, *compact_shape(space, budget // span, 8 // math.gcd(span, 8))),
        "volume": (1, *space),
    }


def chunk(
    values: AnyArray, key: tuple[int, ...], shape: tuple[int, ...], order: Sequence[int]
) -> AnyArray:
    """One chunk, padded with zeros to its full shape, contiguous in the given order."""
    part = values[chunk_region(key, values.shape, shape)]
    if part.shape != shape:
        part = np.pad(part, [(0, c - n) for n, c in zip(part.shape, shape, strict=True)])
    return np.ascontiguousarray(part.transpose(order))


def sample(values: AnyArray, shape: tuple[int, ...], nbytes: int) -> tuple[list[Any], int]:
    """Keys of about `nbytes` of chunks that stand for all, and their logical size in bytes.

    The chunks are sorted by their size under a quick codec and taken at even distances, so that
    air and brain have their true shares and the ratio is that of the whole run.
    """
    keys = list(np.ndindex(*grid_shape(values.shape, shape)))
    count = max(1, min(len(keys), nbytes // (math.prod(shape) * values.itemsize)))
    if count < len(keys):
        quick = blosc("lz4", 1, values.itemsize)
        sizes = [len(encode(quick, chunk(values, key, shape, (1, 2, 3, 0)))) for key in keys]
        ranks = np.argsort(sizes, kind="stable")
        keys = [keys[ranks[int((i + 0.5) * len(keys) / count)]] for i in range(count)]
    return keys, sum(values[chunk_region(key, values.shape, shape)].nbytes for key in keys)


# Measuring -----------------------------------------------------------------------------------


def _timed(call: Callable[[AnyArray], Any], items: Sequence[Any]) -> tuple[float, list[Any]]:
    begin = time.perf_counter()
    results = [call(item) for item in items]
    return time.perf_counter() - begin, results


def measure(
    candidates: Mapping[str, tuple[Pipeline, list[AnyArray]]], repetitions: int
) -> dict[str, Tally]:
    """Encode and decode every candidate's chunks, the candidates taking turns."""
    tallies = {name: Tally(0, [], []) for name in candidates}
    for _ in range(repetitions):
        for name, (codecs, chunks) in candidates.items():
            tally = tallies[name]
            nbytes = chunks[0].nbytes
            seconds, encoded = _timed(partial(encode, codecs), chunks)
            tally.encode_seconds.append(seconds)
            seconds, decoded = _timed(partial(_decode, codecs, nbytes), encoded)
            tally.decode_seconds.append(seconds)
            if bytes(decoded[-1]) != chunks[-1].tobytes():
                msg = f"{name} does not give back what it was given"
                raise AssertionError(msg)
            tally.encoded = sum(memoryview(item).nbytes for item in encoded)
    return tallies


def rates(tally: Tally, raw: int) -> tuple[str, str]:
    """MB of decoded data per second, encoding and decoding."""
    return (
        f"{raw / 1e6 / statistics.median(tally.encode_seconds):.0f}",
        f"{raw / 1e6 / statistics.median(tally.decode_seconds):.0f}",
    )


def table(header: Sequence[str], rows: Iterator[Sequence[str]] | list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def order_table(run: Run, access: str, nbytes: int, repetitions: int) -> str:
    """Codecs against the two in-chunk orders, for the chunks of one access pattern."""
    shape = shapes(run.values)[access]
    keys, raw = sample(run.values, shape, nbytes)
    orders = ORDERS if shape[0] > 1 else {"x fastest": ORDERS["x fastest"]}
    candidates = {}
    for label, order in orders.items():
        chunks = [chunk(run.values, key, shape, order) for key in keys]
        for name, codecs in _candidates(run.values.itemsize).items():
            candidates[f"{name}|{label}"] = (codecs, chunks)
    tallies = measure(candidates, repetitions)
    rows = []
    for name in _candidates(run.values.itemsize):
        row = [name]
        for label in orders:
            tally = tallies[f"{name}|{label}"]
            ratio = raw / tally.encoded
            against = ratio * run.gz_bytes / run.values.nbytes
            row += [f"{ratio:.2f}", f"{against:.2f}" if against else "", *rates(tally, raw)]
        rows.append(row)
    names = ["ratio", ".nii.gz / this", "encode", "decode"]
    header = ["codec", *(f"{label}: {name}" for label in orders for name in names)]
    title = f"### {run.name} {run.values.dtype}, {access} chunks {shape} (t, z, y, x)\n\n"
    return title + table(header, rows)


def eight_table(run: Run) -> str:
    """Bitshuffle when the number of elements of a chunk is and is not a multiple of eight."""
    steps, width = len(run.values), run.values.itemsize
    rows = []
    for space in ((10, 9, 9), (10, 10, 10), (9, 9, 12), (10, 11, 11), (10, 10, 12)):
        shape = (steps, *space)
        keys, raw = sample(run.values, shape, 12 << 20)
        chunks = [chunk(run.values, key, shape, ORDERS["t fastest"]) for key in keys]
        row = ["x".join(map(str, shape)), str(math.prod(shape) % 8)]
        for cname in ("zstd", "lz4"):
            for shuffle in ("bitshuffle", "shuffle", "noshuffle"):
                codecs = blosc(cname, 5, width, 0, shuffle)
                size = sum(memoryview(encode(codecs, item)).nbytes for item in chunks)
                row.append(f"{raw / size:.2f}")
        rows.append(row)
    names = [f"{c}, {s}" for c in ("zstd", "lz4") for s in ("bits", "bytes", "none")]
    title = f"### {run.name}, blosc level 5, ratios\n\n"
    return title + table(["chunk t,z,y,x", "elements mod 8", *names], rows)


def label_table(folder: Path) -> str:
    """Atlases and masks, x fastest, each as one chunk."""
    rows = []
    for path in sorted([*folder.glob("atlases/*.nii.gz"), *folder.glob("masks/*.nii.gz")]):
        values = _load(path)
        width = values.itemsize
        pipelines = [blosc("zstd", 5, width, 0, s) for s in ("bitshuffle", "shuffle", "noshuffle")]
        sizes = [memoryview(encode(c, values)).nbytes for c in (portable(4, width), *pipelines)]
        rows.append(
            [path.name[:40], str(values.dtype), *(f"{values.nbytes / n:.1f}" for n in sizes)]
        )
    return table(["file", "dtype", "shuffle + deflate 4", "zstd, bits", "bytes", "none"], rows)


def delta(values: AnyArray, axis: int) -> AnyArray:
    """Differences along one axis, modulo the range of an integer of that width; same shape."""
    whole = values.view(f"<u{values.itemsize}")
    zero = np.zeros((), whole.dtype)
    return np.diff(
        whole, axis=axis, prepend=np.expand_dims(np.take(whole * 0 + zero, 0, axis), axis)
    )


def fold(values: AnyArray) -> AnyArray:
    """Signed numbers as unsigned ones, small for small: 0, -1, 1, -2 become 0, 1, 2, 3."""
    bits = 8 * values.dtype.itemsize
    return (values << 1) ^ (values >> (bits - 1))


def small_table(run: Run, access: str, nbytes: int, repetitions: int) -> str:
    """Candidates for the smallest files, and what differences along time would add."""
    shape = shapes(run.values)[access]
    keys, raw = sample(run.values, shape, nbytes)
    order = ORDERS["t fastest" if shape[0] > 1 else "x fastest"]
    chunks = [chunk(run.values, key, shape, order) for key in keys]
    candidates = {
        name: (codecs, chunks) for name, codecs in _small_candidates(run.values.itemsize).items()
    }
    if shape[0] > 1:
        changes = [delta(item, 3) for item in chunks]
        for name in ("blosc zstd 5", "blosc zstd 9"):
            codecs = candidates[name][0]
            candidates[f"differences along t, {name}"] = (codecs, changes)
            if run.values.dtype.kind == "i":
                folded = [fold(item) for item in changes]
                candidates[f"differences along t, folded, {name}"] = (codecs, folded)
    tallies = measure(candidates, repetitions)
    reference = tallies["blosc zstd 5"].encoded
    rows = [
        [
            name,
            f"{raw / tally.encoded:.3f}",
            f"{tally.encoded / reference:.3f}",
            *rates(tally, raw),
        ]
        for name, tally in tallies.items()
    ]
    title = f"### {run.name}, {access} chunks {shape}\n\n"
    return title + table(["codec", "ratio", "size / dual", "encode", "decode"], rows)


def block_table(run: Run, budget: int, cname: str, repetitions: int) -> str:
    """Size of blosc's blocks against the time to decode one voxel's series from a time chunk."""
    steps, *space = run.values.shape
    width = run.values.itemsize
    shape = (steps, *compact_shape(space, budget // width // steps, 8 // math.gcd(steps, 8)))
    keys, raw = sample(run.values, shape, 8 << 20)
    chunks = [chunk(run.values, key, shape, ORDERS["t fastest"]) for key in keys]
    nbytes, series = chunks[0].nbytes, steps * width
    starts = np.random.default_rng(2).integers(0, nbytes // series, len(chunks)) * series
    rows = []
    encoded = {
        kib: [encode(blosc(cname, 5, width, kib * KIB), item) for item in chunks]
        for kib in (0, 16, 32, 64, 128, 256, 512)
    }
    whole: dict[int, list[float]] = {kib: [] for kib in encoded}
    part: dict[int, list[float]] = {kib: [] for kib in encoded}
    for _ in range(repetitions):
        for kib, items in encoded.items():
            codecs = blosc(cname, 5, width, kib * KIB)
            pairs = list(zip(items, starts.tolist(), strict=True))
            whole[kib].append(_timed(partial(_decode, codecs, nbytes), items)[0])
            part[kib].append(_timed(partial(_voxel, codecs, nbytes, series), pairs)[0])
    base = sum(memoryview(item).nbytes for item in encoded[0])
    for kib, items in encoded.items():
        size = sum(memoryview(item).nbytes for item in items)
        rows.append(
            [
                "automatic" if not kib else f"{kib} KiB",
                f"{raw / size:.3f}",
                f"{size / base:.3f}",
                f"{statistics.median(whole[kib]) / len(items) * 1e6:.0f}",
                f"{statistics.median(part[kib]) / len(items) * 1e6:.0f}",
            ]
        )
    title = f"### {run.name}, blosc {cname} 5, time chunks {shape}, {nbytes // KIB} KiB\n\n"
    header = ["block", "ratio", "size / automatic", "whole chunk µs", "one voxel µs"]
    return title + table(header, rows)


def _decode(codecs: Pipeline, nbytes: int, data: Buffer) -> Buffer:
    return decode(codecs, data, nbytes)


def _voxel(codecs: Pipeline, nbytes: int, series: int, item: tuple[Buffer, int]) -> Buffer:
    data, start = item
    found = decode_part(codecs, data, nbytes, start, start + series)
    return decode(codecs, data, nbytes) if found is None else found[0]


def main() -> None:
    """Write the tables to stdout."""
    arguments = parser(__doc__).parse_args()
    numcodecs.blosc.use_threads = False
    quick = arguments.quick
    repetitions, nbytes = (1, 4 << 20) if quick else (3, 12 << 20)
    wanted = set((arguments.only or "order,small,eight,labels,block").split(","))
    runs = load_runs(data_folder(arguments.data), quick=quick)
    if "order" in wanted:
        print("## In-chunk order and codec\n")
        for run in runs:
            for access in shapes(run.values):
                print(order_table(run, access, nbytes, repetitions), flush=True)
    if "small" in wanted:
        print("## Smallest files\n")
        for run in (run for run in runs if run.name in {"one-back", "pcasl", "float32"}):
            for access in ("time", "volume"):
                print(small_table(run, access, nbytes // 2, 1), flush=True)
    if "eight" in wanted:
        print("## Bitshuffle and multiples of eight\n")
        for run in runs[:3]:
            print(eight_table(run), flush=True)
    if "labels" in wanted:
        print(f"## Labels and masks\n\n{label_table(data_folder(arguments.data))}", flush=True)
    if "block" in wanted:
        print("## Size of blosc's blocks\n")
        for cname in ("zstd", "lz4"):
            for budget in (128, 256, 1024):
                print(block_table(runs[0], budget * KIB, cname, 3 * repetitions), flush=True)


if __name__ == "__main__":
    main()
