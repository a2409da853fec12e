"""Transcode cells: between the stores as it is, with other codecs, and in other chunks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fmristore as fs
from benchmarks import rechunk
from benchmarks.cells import OURS, Cell, Group, check_equal
from benchmarks.data import STORES, Run, prepare_store, remove
from benchmarks.engines import Engine
from benchmarks.engines.limit import encode_all
from benchmarks.engines.writers import WRITERS
from benchmarks.selections import Selection
from benchmarks.timing import Budget, Contender, Measured
from benchmarks.write_cells import read_array, sync
from fmristore.planning.layout import Pattern
from fmristore_stores.opening import open_store

__all__ = ["rechunk_groups", "transcode_groups"]

PAIRS = {
    "verbatim/hdf5 to zarr": ("hdf5-dual", "zarr-dual"),
    "verbatim/zarr to hdf5": ("zarr-dual", "hdf5-dual"),
    "recode/hdf5 to zarr": ("hdf5-portable", "zarr-dual"),
    "recode/zarr to hdf5": ("zarr-dual", "hdf5-portable"),
}
"""Name of cell to source and target."""

RECHUNKS: tuple[tuple[Pattern, Pattern], ...] = (("time", "volume"), ("volume", "time"))

TARGET = "cp of the target"
"""Contender that copies a store like the new one, with as many files."""

PEERS = {True: ("h5py", "zarr-python"), False: ("zarr-python", "h5py")}
"""True if the source is HDF5, to the libraries that read and write."""


def transcode_groups(
    runs: Sequence[Run], engines: Mapping[str, type[Engine]], budget: Budget
) -> list[Group]:
    """One group for each run and pair of stores.

    Parameters
    ----------
    runs : sequence of Run
        What is moved, in the layout for time series.
    engines : mapping of str to Engine class
        Peers that are available.
    budget : Budget
        Repetitions of each group.
    """
    groups = []
    for run in runs:
        for name in PAIRS:
            peer = " + ".join(PEERS[name.partition("/")[2].startswith("hdf5")])
            known = all(part in engines for part in peer.split(" + "))
            verbatim = name.startswith("verbatim")
            cell = Cell(
                name=f"transcode/{run.name}/{name}",
                engines={OURS: OURS, **({peer: peer} if known else {})},
                limit="cp" if verbatim else "encode",
            )
            files = replace(
                cell,
                name=f"{cell.name} (files of the target)",
                engines={OURS: OURS},
                limit=TARGET,
                note="limit: `cp -r` and `fsync` of what is made, not of the source",
            )
            groups.append(
                Group(
                    name=cell.name,
                    cells=(cell, files) if verbatim else (cell,),
                    make=partial(_contenders, run, name, engines),
                    budget=budget,
                )
            )
    return groups


def _contenders(
    run: Run, name: str, engines: Mapping[str, type[Engine]], wanted: set[str]
) -> list[Contender]:
    source, target = (STORES[part] for part in PAIRS[name])
    path = prepare_store(run, source, "time")
    example = prepare_store(run, target, "time")
    reader, writer = PEERS[source.hdf5]

    def peer(new: Path) -> None:
        with open_store(example) as store:
            dims = store.root.array("0").spec.dims
        opened = engines[reader](path)
        values = opened.read(Selection((slice(None),) * 4))
        opened.close()
        WRITERS[writer](new, example, values.transpose(["xyzt".index(d) for d in dims]))
        sync(new)

    def ours(new: Path) -> None:
        fs.transcode(path, new, codec=None if name.startswith("verbatim") else target.codec)

    writers: dict[str, Callable[[Path], None]] = {
        OURS: ours,
        f"{reader} + {writer}": peer,
        "cp": partial(_copy, path),
        TARGET: partial(_copy, example),
    }
    made = []
    for label, write in writers.items():
        if label in wanted:
            suffix = source.suffix if label == "cp" else target.suffix
            made.append(_contender(label, write, run, run.folder / f"moved by {label}{suffix}"))
    if "encode" in wanted:
        with open_store(example) as store:
            spec = store.root.array("0").spec
        encode = encode_all(spec, run.values.transpose(["xyzt".index(d) for d in spec.dims]))
        made.append(Contender(name="encode", prepare=lambda _: encode, check=lambda *_: None))
    return made


def _contender(name: str, write: Callable[[Path], None], run: Run, path: Path) -> Contender:
    def prepare(_: int) -> Callable[[], None]:
        remove(path)
        return partial(write, path)

    def check(_: int, __: Any) -> None:
        check_equal(read_array(path), run.values, name)

    return Contender(name=name, prepare=prepare, check=check, close=partial(remove, path))


def _copy(path: Path, new: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, new)
    else:
        shutil.copyfile(path, new)
    sync(new)


# Rechunking, each time in a process of its own ------------------------------------------------


def rechunk_groups(runs: Sequence[Run], budget: Budget, *, tiles: int) -> list[Group]:
    """One group for each run: from time to volume chunks and back.

    Parameters
    ----------
    runs : sequence of Run
        What is rechunked.
    budget : Budget
        Repetitions of each group.
    tiles : int
        Times that a run is repeated in time.
    """
    return [_rechunk_group(run, tiles, budget) for run in runs]


def _rechunk_group(run: Run, tiles: int, budget: Budget) -> Group:
    labels = [OURS, *rechunk.peers()]
    size, limit = run.nbytes * tiles, _limit(run, tiles)
    note = f"array of {size / 1e6:.0f} MB, max_memory {limit / 1e6:.0f} MB"
    cells = tuple(
        Cell(
            name=f"transcode/{run.name}/rechunk/{before} to {after}",
            engines={label: f"{before}/{label}" for label in labels},
            note=note,
        )
        for before, after in RECHUNKS
    )
    return Group(
        name=f"transcode/{run.name}/rechunk",
        cells=cells,
        make=partial(_rechunkers, run, tiles, labels),
        budget=budget,
    )


def _limit(run: Run, tiles: int) -> int:
    """A tenth of the array, but never less than three whole shards."""
    return max(run.nbytes * tiles // 10, 52 * 1024 * 1024)


def _rechunkers(run: Run, tiles: int, labels: Sequence[str], wanted: set[str]) -> list[Contender]:
    values = np.tile(run.values, (1, 1, 1, tiles))
    made = []
    for before, after in RECHUNKS:
        names = {f"{before}/{label}": label for label in labels if f"{before}/{label}" in wanted}
        if not names:
            continue
        path = run.folder / f"tiled-{before}.ome.zarr"
        fs.NeuroVec.create(
            values, path, space=run.affine, tr=2.0, access=before, overwrite=True
        ).close()
        for name, label in names.items():
            new = run.folder / f"rechunked for {after} by {label}.ome.zarr"
            job = rechunk.Job(
                label=label, source=path, target=new, access=after, max_memory=_limit(run, tiles)
            )
            made.append(
                Contender(
                    name=name,
                    prepare=partial(_prepare_rechunk, job),
                    check=partial(_check_rechunk, job, run, tiles),
                    close=partial(remove, new),
                )
            )
    return made


def _prepare_rechunk(job: rechunk.Job, _: int) -> Callable[[], Measured]:
    remove(job.target)
    return partial(rechunk.run, job)


def _check_rechunk(job: rechunk.Job, run: Run, tiles: int, _: int, __: Any) -> None:
    found = read_array(job.target)
    for part in np.split(found, tiles, axis=3):
        check_equal(part, run.values, job.label)
