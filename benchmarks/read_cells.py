"""Read cells: seven kinds of reads from every store and layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cells import OURS, Cell, Group, check_equal
from benchmarks.data import ACCESSES, STORES, Run, prepare_store
from benchmarks.engines import HDF5, NIFTI, ZARR, Engine
from benchmarks.engines.limit import Limit
from benchmarks.engines.ours import Ours
from benchmarks.selections import KINDS, OPEN, Selection, draw
from benchmarks.timing import Budget, Contender
from fmristore.layout import Access
from fmristore_stores.cache import CHUNK_CACHE
from fmristore_stores.protocol import AnyArray

__all__ = ["read_groups"]

Engines = Mapping[str, type[Engine]]


def read_groups(runs: Sequence[Run], engines: Engines, budget: Budget) -> list[Group]:
    """One group for each run and kind of read: all stores and layouts take turns on a selection.

    Parameters
    ----------
    runs : sequence of Run
        What is read.
    engines : mapping of str to Engine class
        Peers that are available.
    budget : Budget
        Repetitions of each group.
    """
    paths: dict[tuple[str, str, str], Path] = {}
    return [
        Group(
            name=f"read/{run.name}/{kind}",
            cells=tuple(_cells(run, kind, engines)),
            make=partial(_contenders, run, kind, engines, paths),
            budget=budget,
        )
        for run in runs
        for kind in KINDS
    ]


def _cells(run: Run, kind: str, engines: Engines) -> list[Cell]:
    cells = []
    for store in STORES.values():
        for access in ACCESSES:
            place = f"{store.name}/{access}"
            labels = [name for name in (HDF5 if store.hdf5 else ZARR) if name in engines]
            cells.append(
                Cell(
                    name=f"read/{run.name}/{place}/{kind}",
                    engines={label: f"{place}/{label}" for label in (OURS, *labels)},
                    limit=f"{place}/limit",
                    beside={label: label for label in NIFTI if label in engines},
                )
            )
    return cells


def _contenders(
    run: Run,
    kind: str,
    engines: Engines,
    paths: dict[tuple[str, str, str], Path],
    wanted: set[str],
) -> list[Contender]:
    made = []
    every: Engines = {OURS: Ours, **engines, "limit": Limit}
    for store in STORES.values():
        for access in ACCESSES:
            for label, engine in every.items():
                name = f"{store.name}/{access}/{label}"
                if name in wanted:
                    path = _path(paths, run, store.name, access)
                    made.append(_contender(name, engine, path, run, kind))
    for label in NIFTI:
        if label in wanted:
            path = run.nii_gz if label.endswith(".gz") else run.nii
            made.append(_contender(label, engines[label], path, run, kind))
    return made


def _path(paths: dict[tuple[str, str, str], Path], run: Run, store: str, access: Access) -> Path:
    key = (run.name, store, access)
    if key not in paths:
        paths[key] = prepare_store(run, STORES[store], access)
    return paths[key]


def _contender(name: str, engine: type[Engine], path: Path, run: Run, kind: str) -> Contender:
    def selection(number: int) -> Selection:
        return draw(kind, run.shape, run.inside, number)

    def check(number: int, result: AnyArray) -> None:
        check_equal(result, selection(number).of(run.values), name)

    kept: list[Engine] = []

    def opened() -> Engine:
        if not kept:
            kept.append(engine(path))
        return kept[0]

    def prepare(number: int) -> Callable[[], Any]:
        if kind == OPEN and engine is not Limit:
            return partial(_open_and_read, engine, path, selection(number))
        return opened().prepare(selection(number))

    return Contender(
        name=name,
        prepare=prepare,
        check=check,
        again=engine is Ours and kind != OPEN,
        settle=CHUNK_CACHE.clear if engine is Ours else lambda: None,
        close=lambda: [item.close() for item in kept],
    )


def _open_and_read(engine: type[Engine], path: Path, selection: Selection) -> AnyArray:
    opened = engine(path)
    try:
        return opened.read(selection)
    finally:
        opened.close()
