"""Read cells: seven kinds of reads from every store and layout, and beside NIfTI files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cells import OURS, Cell, Group, check_equal
from benchmarks.data import ACCESSES, STORES, Run, prepare_store
from benchmarks.engines import DEFLATE, HDF5, ZARR, Engine
from benchmarks.engines.limit import Limit
from benchmarks.engines.ours import Ours
from benchmarks.selections import KINDS, OPEN, Selection, draw
from benchmarks.timing import Budget, Contender
from fmristore.planning.layout import Access
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.protocol import AnyArray

__all__ = ["read_groups"]

Engines = Mapping[str, type[Engine]]

LIMIT = "limit"
BESIDE = {"nii.gz": "nibabel .nii.gz", "nii": "nibabel .nii", "nii plain": "nibabel .nii"}
"""In place of a store: an HDF5 file with two layouts, beside the NIfTI file it was made from."""
PLAIN = "nii plain"
"""The one whose HDF5 file is not compressed, as the NIfTI file is not."""

SCATTERED = ("100 voxels",)


def read_groups(runs: Sequence[Run], engines: Engines, budget: Budget) -> list[Group]:
    """One group for each cell: the same selection for all that read the same store.

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
    groups = []
    for run in runs:
        places: list[tuple[str, Access]] = [(name, a) for name in STORES for a in ACCESSES]
        for store, access in [*places, *((name, "both") for name in BESIDE)]:
            for kind in KINDS:
                cell = _cell(run, store, access, kind, engines)
                make = partial(_contenders, run, store, access, kind, engines, paths)
                groups.append(Group(name=cell.name, cells=(cell,), make=make, budget=budget))
    return groups


def _cell(run: Run, store: str, access: Access, kind: str, engines: Engines) -> Cell:
    if store in BESIDE:
        labels: Sequence[str] = (BESIDE[store],)
    elif STORES[store].hdf5:
        deflate = STORES[store].codec == "portable"
        # pyfive takes seconds for scattered voxels of volumes: each decodes the whole run
        slow = access == "volume" and kind in SCATTERED
        labels = (*HDF5, *(DEFLATE if deflate and not slow else ()))
    else:
        labels = ZARR
    return Cell(
        name=f"read/{run.name}/{store}/{access}/{kind}",
        engines={label: label for label in (OURS, *labels) if label in {OURS, *engines}},
        limit=None if store in BESIDE else LIMIT,
    )


def _contenders(
    run: Run,
    store: str,
    access: Access,
    kind: str,
    engines: Engines,
    paths: dict[tuple[str, str, str], Path],
    wanted: set[str],
) -> list[Contender]:
    key = (run.name, store, access)
    if key not in paths:
        chosen = STORES["hdf5-dual" if store in BESIDE else store]
        codec = "none" if store == PLAIN else None
        paths[key] = prepare_store(run, chosen, access, codec=codec)
    at = dict.fromkeys(wanted, paths[key])
    at |= {"nibabel .nii": run.nii, "nibabel .nii.gz": run.nii_gz}
    every: Engines = {OURS: Ours, **engines, LIMIT: Limit}
    return [
        _contender(label, engine, at[label], run, kind)
        for label, engine in every.items()
        if label in wanted
    ]


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
