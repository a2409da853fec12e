"""Windows for training, how many a second: ``python -m benchmarks.measure_sampling``.

An epoch of `fmristore.sampling.Batches`, shuffled, in one process and in two. Two open the stores
each for itself and keep to one thread, as the workers of a data loader should; one uses all cores.
Beside it: windows that are read one by one, a memory map of the ``.nii``, nibabel on the
``.nii.gz`` with indexed_gzip, and one file for each volume. These copy windows in random order into
batches.
Windows do not overlap, so that nothing is gained by values that were decoded before.

The limit: for the windows in the order of `Batches`, every chunk that a buffer needs is read and
decoded once, by two processes of one thread each, into memory that is used again. Which chunks
those are, and where they lie, is found out beforehand, and no window is cut.

Batches are dropped where they are made: handing them over takes all of them the same. Contenders
take turns, and the median of the turns is printed: windows by the time from the first process that
begins to the last one that ends. Contenders without groups stop after some seconds. ``dropped``:
the operating system has forgotten the pages of the files before each turn.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import nibabel as nib
import numpy as np

from benchmarks.data import Run, StoreKind, find_runs, prepare_store
from benchmarks.sampling_cells import (
    KINDS,
    LENGTH,
    drop_pages,
    prepare_parcels,
    window_shape,
    write_volumes,
)
from fmristore.sampling import Batches, Windows
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.codecs.pipeline import decode
from fmristore_stores.grid import ChunkKey, overlaps
from fmristore_stores.io.memory import aligned
from fmristore_stores.protocol import AnyArray, ByteRange, ChunkRefs
from fmristore_stores.spec import ArraySpec

__all__ = ["Job", "Team", "jobs", "main", "measure_kind", "sampling_rows"]

SUFFIXES = {"none": ".ome.zarr", "portable": ".h5", "dual": ".ome.zarr"}
"""Codecs, and the store that each is measured in."""
BATCH = {"volumes": 4, "patches": 8, "parcels": 32}
RUNS = {"volumes": 8, "patches": 4, "parcels": 64}
"""Number of times that the run is listed, and read, so that there are windows enough."""
CHECKED = 16
"""Windows of each process that are compared with the run before anything is measured."""


class Job(NamedTuple):
    """A contender."""

    loader: type[Loader]
    codec: str
    store: Path
    """Whose windows are read, or are counted alike."""
    source: Path
    """File or folder that others than fmristore read."""
    plain: Path
    """The values, without any codec."""
    options: dict[str, Any]
    """Of `Windows`."""
    runs: int
    batch: int

    @property
    def files(self) -> tuple[Path, ...]:
        """Files and folders that are read."""
        return (self.store if issubclass(self.loader, Ours) else self.source,)


class Loader(ABC):
    """A share of each epoch, batch by batch, from files that are opened for it alone."""

    label: ClassVar[str]
    patient: ClassVar[bool] = False
    """True if it goes through the whole of an epoch."""

    def __init__(self, job: Job, worker: int, workers: int) -> None:
        self.job, self.worker, self.workers = job, worker, workers
        self.windows = Windows([job.store] * job.runs, **job.options)

    @abstractmethod
    def prepare(self, number: int) -> None:
        """Get ready for an epoch, which is not timed."""

    @abstractmethod
    def epoch(self) -> Iterator[tuple[AnyArray | None, AnyArray]]:
        """Batches of the epoch, and the numbers of their windows."""

    def close(self) -> None:
        """Close the files."""
        self.windows.close()


class Ours(Loader):
    """Batches of fmristore."""

    label = "fmristore"
    patient = True

    def __init__(self, job: Job, worker: int, workers: int) -> None:
        super().__init__(job, worker, workers)
        self.batches = Batches(self.windows, batch_size=job.batch)
        self.batches.set_worker(worker, workers)

    def prepare(self, number: int) -> None:
        """Docstring inherited."""
        CHUNK_CACHE.clear()
        self.batches.set_epoch(number)

    def epoch(self) -> Iterator[tuple[AnyArray | None, AnyArray]]:
        """Docstring inherited."""
        yield from self.batches


class Limit(Ours):
    """Chunks of the buffers of `Batches`, each read and decoded once, and nothing else."""

    label = "limit"

    def __init__(self, job: Job, worker: int, workers: int) -> None:
        super().__init__(job, worker, workers)
        stored = [run.stored.primary_arrays[0].reader.array for run in self.windows.sources]
        self._arrays = cast("list[ChunkRefs]", stored)
        self._spec: ArraySpec = stored[0].spec
        self._files: dict[str, int] = {}
        self._scratch = aligned(2 * self._spec.chunk_nbytes)
        self._out = aligned(self._spec.chunk_nbytes)

    def prepare(self, number: int) -> None:
        """Find out which bytes are wanted."""
        super().prepare(number)
        self._reads = [(list(self._find(found)), found) for found in self.batches.buffers()]

    def _find(self, numbers: AnyArray) -> Iterator[ByteRange]:
        wanted: dict[int, set[ChunkKey]] = {}
        for window in map(self.windows.where, numbers.tolist()):
            axes = self.windows.sources[window.run].axes
            named = dict(zip(axes, window.region, strict=True))
            region = tuple(named[d] for d in self._spec.dims)
            keys = {part.key for part in overlaps(region, self._spec.layout.chunks)}
            wanted.setdefault(window.run, set()).update(keys)
        for run in sorted(wanted):
            for ref in self._arrays[run].refs(sorted(wanted[run])):
                assert ref is not None
                if ref.range.source not in self._files:
                    self._files[ref.range.source] = os.open(ref.range.source, os.O_RDONLY)
                yield ref.range

    def epoch(self) -> Iterator[tuple[AnyArray | None, AnyArray]]:
        """Docstring inherited."""
        codecs, nbytes = self._spec.codecs, self._spec.chunk_nbytes
        for ranges, numbers in self._reads:
            for source, offset, length in ranges:
                data = self._scratch.data[:length]
                os.preadv(self._files[source], [data], offset)
                if codecs:
                    decode(codecs, data, nbytes, out=self._out)
            yield None, numbers

    def close(self) -> None:
        """Docstring inherited."""
        super().close()
        for descriptor in self._files.values():
            os.close(descriptor)


class Random(Loader):
    """Windows in random order, each copied into a batch."""

    memory_axes: tuple[int, ...] = ()
    """Axes in the order in which elements of a batch lie in memory; x fastest by default."""

    def prepare(self, number: int) -> None:
        """Draw the order."""
        CHUNK_CACHE.clear()
        order = np.random.default_rng(number).permutation(len(self.windows))
        mine = order[self.worker :: self.workers]
        self._order = [(n, self.windows.where(n).region) for n in mine.tolist()]

    def epoch(self) -> Iterator[tuple[AnyArray | None, AnyArray]]:
        """Docstring inherited."""
        shape = self.windows.shape
        axes = self.memory_axes or tuple(reversed(range(len(shape))))
        size = self.job.batch
        for start in range(0, len(self._order), size):
            part = self._order[start : start + size]
            memory = np.empty((size, *(shape[axis] for axis in axes)), self.windows.dtype)
            values = memory.transpose(0, *(1 + np.argsort(axes)))[: len(part)]
            for out, (number, region) in zip(values, part, strict=True):
                self.cut(number, region, out)
            yield values, np.array([number for number, _ in part])

    @abstractmethod
    def cut(self, number: int, region: tuple[slice, ...], out: AnyArray) -> None:
        """Put a window into a batch."""


class Single(Random):
    """Windows of fmristore, one by one."""

    label = "fmristore, one by one"

    def __init__(self, job: Job, worker: int, workers: int) -> None:
        super().__init__(job, worker, workers)
        self.memory_axes = self.windows.sources[0].memory_axes

    def cut(self, number: int, region: tuple[slice, ...], out: AnyArray) -> None:
        """Docstring inherited."""
        del region
        out[...] = self.windows[number]


class Mapped(Random):
    """A memory map of the whole file."""

    label = "memory map"

    def prepare(self, number: int) -> None:
        """Map the file anew: pages that are mapped would not be dropped."""
        super().prepare(number)
        if self.job.source.suffix == ".npy":
            self._map = np.load(self.job.source, mmap_mode="r")
            self.memory_axes = (0, 1)
        else:
            image: Any = nib.load(self.job.source)
            self._map = np.asarray(image.dataobj)

    def cut(self, number: int, region: tuple[slice, ...], out: AnyArray) -> None:
        """Docstring inherited."""
        del number
        out[...] = self._map[region]


class Compressed(Random):
    """The ``.nii.gz`` with nibabel and indexed_gzip, which keeps its index of the file."""

    label = "nibabel .nii.gz"

    def __init__(self, job: Job, worker: int, workers: int) -> None:
        super().__init__(job, worker, workers)
        image: Any = nib.load(job.source)
        self._proxy = image.dataobj

    def cut(self, number: int, region: tuple[slice, ...], out: AnyArray) -> None:
        """Docstring inherited."""
        del number
        out[...] = self._proxy[region]


class Volumes(Random):
    """One file a volume, as `numpy.save` writes it."""

    label = "file a volume"

    def cut(self, number: int, region: tuple[slice, ...], out: AnyArray) -> None:
        """Docstring inherited."""
        del number
        *space, times = region
        for place, t in enumerate(range(times.start, times.stop)):
            out[..., place] = np.load(self.job.source / f"{t}.npy")[tuple(space)]


# Processes -----------------------------------------------------------------------------------


class Turn(NamedTuple):
    """Work of one process."""

    began: float
    ended: float
    cpu: float
    """CPU seconds of all its threads."""
    windows: int


class Member:
    """One process's part of a contender."""

    def __init__(self, job: Job, worker: int, workers: int) -> None:
        self._loader = job.loader(job, worker, workers)

    def prepare(self, number: int) -> None:
        """Get ready for an epoch."""
        self._loader.prepare(number)

    def check(self) -> None:
        """Compare the first windows of the epoch with the values of the run."""
        job, windows = self._loader.job, self._loader.windows
        plain = np.load(job.plain, mmap_mode="r")
        left = CHECKED
        for values, numbers in self._loader.epoch():
            if values is None:
                continue
            for value, number in zip(values, numbers.tolist(), strict=True):
                if not np.array_equal(value, plain[windows.where(number).region]):
                    raise AssertionError(f"{self._loader.label} returns other values: {job.store}")
            left -= len(numbers)
            if left <= 0 and not self._loader.patient:
                return

    def go(self, seconds: float) -> Turn:
        """Go through the epoch, or a part of it."""
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        for _, numbers in self._loader.epoch():
            count += len(numbers)
            if not self._loader.patient and time.perf_counter() - began > seconds:
                break
        return Turn(began, time.perf_counter(), time.process_time() - cpu, count)

    def close(self) -> None:
        """Close the files."""
        self._loader.close()


def _serve(pipe: Connection, job: Job, worker: int, workers: int) -> None:
    """Do what is asked for, until the other side is gone."""
    os.environ["FMRISTORE_WORKERS"] = "1"
    member = Member(job, worker, workers)
    try:
        while True:
            name, *given = pipe.recv()
            pipe.send(getattr(member, name)(*given))
    except EOFError:
        member.close()


class Team:
    """A contender in this process, or in several.

    Parameters
    ----------
    job : Job
        What they do.
    workers : int
        Processes; 0 for this one.
    """

    def __init__(self, job: Job, workers: int) -> None:
        self.job, self.workers = job, workers
        self.rates: list[float] = []
        """Windows a second, one for each turn."""
        self.cpu: list[float] = []
        """CPU seconds of a window, likewise."""
        self._here = None if workers else Member(job, 0, 1)
        self._pipes: list[Connection] = []
        self.processes = []
        context = multiprocessing.get_context("spawn")
        for worker in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, job, worker, workers))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)

    def ask(self, name: str, *given: Any) -> list[Any]:
        """Call a method of all members at once."""
        if self._here is not None:
            return [getattr(self._here, name)(*given)]
        for pipe in self._pipes:
            pipe.send((name, *given))
        return [pipe.recv() for pipe in self._pipes]

    def turn(self, number: int, seconds: float, *, dropped: bool) -> None:
        """Measure one epoch."""
        self.ask("prepare", number)
        if dropped:
            for path in self.job.files:
                drop_pages(path)
        turns: list[Turn] = self.ask("go", seconds)
        spent = max(turn.ended for turn in turns) - min(turn.began for turn in turns)
        count = sum(turn.windows for turn in turns)
        self.rates.append(count / spent)
        self.cpu.append(sum(turn.cpu for turn in turns) / count)

    def close(self) -> None:
        """End the processes."""
        if self._here is not None:
            self._here.close()
        for pipe in self._pipes:
            pipe.close()
        for process in self.processes:
            process.join()


# What is measured ----------------------------------------------------------------------------


def jobs(run: Run, kind: str) -> list[Job]:
    """Contenders for one kind of window."""
    found: list[Job] = []
    for codec, suffix in SUFFIXES.items():
        options: dict[str, Any] = {"length": min(LENGTH, run.shape[3])}
        if kind == "parcels":
            store, plain = prepare_parcels(run, codec, suffix)
            source = plain
        else:
            *patch, length = window_shape(run, kind)
            options = {"length": length}
            if kind == "patches":
                options["patch"] = tuple(patch)
            store = prepare_store(run, StoreKind(codec, suffix, codec), KINDS[kind])
            plain, source = run.folder / "run.npy", run.nii
            np.save(plain, run.values)
        made = Job(Ours, codec, store, source, plain, options, RUNS[kind], BATCH[kind])
        found += [made._replace(loader=loader) for loader in (Limit, Ours, Single)]
    peers: list[tuple[type[Loader], Path]] = [(Mapped, source)]
    if kind != "parcels":
        if importlib.util.find_spec("indexed_gzip"):
            peers.append((Compressed, run.nii_gz))
        write_volumes(run)
        peers.append((Volumes, run.folder / "frames"))
    plainest = found[0]
    return found + [plainest._replace(loader=a, source=b, codec="") for a, b in peers]


def measure_kind(
    run: Run, kind: str, turns: int, seconds: float, workers: Sequence[int], *, dropped: bool
) -> list[Team]:
    """Let all contenders for one kind of window take turns.

    Parameters
    ----------
    run : Run
        What windows are cut from.
    kind : {"volumes", "patches", "parcels"}
        What windows are.
    turns : int
        Of each contender.
    seconds : float
        After which contenders that go window by window stop.
    workers : sequence of int
        Numbers of processes; 0 stands for this one.
    dropped : bool
        Whether pages of the files are forgotten before each turn.
    """
    teams: list[Team] = []
    try:
        for job in jobs(run, kind):
            teams += [Team(job, count) for count in workers]
        for team in teams:
            team.ask("prepare", 0)
            team.ask("check")
        for number in range(1, turns + 1):
            first = number % len(teams)
            for team in (*teams[first:], *teams[:first]):
                team.turn(number, seconds, dropped=dropped)
    finally:
        for team in teams:
            team.close()
    return teams


def sampling_rows(teams: Sequence[Team]) -> Iterator[tuple[str, ...]]:
    """Cells of a table: contender, codec, and four for each number of processes.

    Windows a second, their ratios to the limit (of the most processes) and to the memory map (of as
    many), and the CPU milliseconds of a window: the least of all turns, which other work on the
    machine changes little.
    """
    found = {(team.job.loader, team.job.codec, team.workers): team for team in teams}
    workers = list(dict.fromkeys(team.workers for team in teams))

    def rate(*name: Any) -> float | None:
        return statistics.median(found[name].rates) if name in found else None

    for loader, codec in dict.fromkeys((loader, codec) for loader, codec, _ in found):
        cells = []
        for count in workers:
            own, limit = rate(loader, codec, count), rate(Limit, codec, max(workers))
            cells += [f"{own:.4g}"]
            cells += [
                f"{own / of:.2f}" if own and of else "" for of in (limit, rate(Mapped, "", count))
            ]
            cells += [f"{1e3 * min(found[loader, codec, count].cpu):.3g}"]
        yield loader.label, codec, *cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each kind of window."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--shape", type=lambda text: tuple(map(int, text.split(","))), metavar="X,Y,Z,T")
    add("--workdir", type=Path, metavar="DIR", help="NIfTI files are kept there")
    add("--turns", type=int, default=5, help="of each contender")
    add("--seconds", type=float, default=1.0, help="of a turn that could go on")
    add("--workers", type=int, nargs="+", default=[0, 2], help="processes; 0: this one")
    add("--kind", choices=[*KINDS, "parcels"], action="append")
    add("--pages", choices=["kept", "dropped"], action="append")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = given.workdir or Path(name)
        (run,) = find_runs(folder, quick=True, shape=given.shape, say=_say)
        for kind in given.kind or (*KINDS, "parcels"):
            for pages in given.pages or ("kept", "dropped"):
                dropped = pages == "dropped"
                if dropped and not hasattr(os, "posix_fadvise"):
                    continue
                teams = measure_kind(
                    run, kind, given.turns, given.seconds, given.workers, dropped=dropped
                )
                counts = [f"{n} processes" if n else "one process" for n in given.workers]
                head = [f"{kind}, pages {pages}", "codec"]
                for count in counts:
                    head += [f"{count}: windows/s", "/ limit", "/ map", "CPU ms"]
                print("", "| " + " | ".join(head) + " |", sep="\n")
                print("|---|---|" + "---:|" * (len(head) - 2))
                for row in sampling_rows(teams):
                    print("| " + " | ".join(row) + " |", flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
