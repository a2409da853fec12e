"""Write cells: a NIfTI file or an array becomes a store; and how large stores are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip

import fmristore as fs
from benchmarks.cells import OURS, Cell, Group, check_equal
from benchmarks.data import STORES, Run, StoreKind, nbytes, prepare_store, remove
from benchmarks.engines import HDF5, ZARR, Engine
from benchmarks.engines.limit import encode_all
from benchmarks.engines.writers import WRITERS
from benchmarks.timing import Budget, Contender
from fmristore.planning.layout import Access
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray

__all__ = ["read_array", "sizes", "sync", "write_groups"]

SOURCES = ("array", "nifti")

SIZED = (
    ("hdf5-portable", "portable"),
    ("hdf5-dual", "dual"),
    ("hdf5-dual", "fast"),
    ("zarr-dual", "dual"),
    ("zarr-dual", "fast"),
)


def write_groups(
    runs: Sequence[Run],
    engines: Mapping[str, type[Engine]],
    accesses: Sequence[Access],
    budget: Budget,
) -> list[Group]:
    """One group for each run, store, layout and source.

    Parameters
    ----------
    runs : sequence of Run
        What is written.
    engines : mapping of str to Engine class
        Peers that are available.
    accesses : sequence of str
        Layouts to write.
    budget : Budget
        Repetitions of each group.
    """
    groups = []
    for run in runs:
        for source in SOURCES:
            for kind in STORES.values():
                for access in accesses:
                    labels = [n for n in (HDF5 if kind.hdf5 else ZARR) if n in engines]
                    cell = Cell(
                        name=f"write/{run.name}/{kind.name}/{access}/from {source}",
                        engines={label: label for label in (OURS, *labels)},
                        limit="limit",
                    )
                    make = partial(_contenders, run, source, kind, access)
                    groups.append(Group(name=cell.name, cells=(cell,), make=make, budget=budget))
    return groups


def _contenders(
    run: Run, source: str, kind: StoreKind, access: Access, wanted: set[str]
) -> list[Contender]:
    example = prepare_store(run, kind, access)
    with open_store(example) as store:
        spec = store.root.array("0").spec
    axes = ["xyzt".index(d) for d in spec.dims]

    def values() -> AnyArray:
        if source == "array":
            return run.values
        image: Any = nib.load(run.nii_gz)
        return np.asarray(image.dataobj)

    def ours(path: Path) -> None:
        if source == "nifti":
            fs.convert(run.nii_gz, path, access=access, codec=kind.codec)
        else:
            fs.NeuroVec.create(
                run.values, path, space=run.affine, tr=2.0, access=access, codec=kind.codec
            ).close()

    def peer(label: str, path: Path) -> None:
        WRITERS[label](path, example, values().transpose(axes))
        sync(path)

    encode = encode_all(spec, run.values.transpose(axes))
    limit = encode if source == "array" else partial(_decompress_and, run.nii_gz, encode)
    made = [
        _contender(label, partial(peer, label), run, kind) for label in WRITERS if label in wanted
    ]
    made.append(_contender(OURS, ours, run, kind))
    made.append(Contender(name="limit", prepare=lambda _: limit, check=lambda *_: None))
    return made


def _contender(name: str, write: Callable[[Path], None], run: Run, kind: StoreKind) -> Contender:
    path = run.folder / f"written by {name}{kind.suffix}"

    def prepare(_: int) -> Callable[[], None]:
        remove(path)
        return partial(write, path)

    def check(_: int, __: Any) -> None:
        check_equal(read_array(path), run.values, name)

    return Contender(name=name, prepare=prepare, check=check, close=partial(remove, path))


def read_array(path: Path) -> AnyArray:
    """All numbers of a store as its library reads them, axes (x, y, z, t)."""
    with open_store(path) as store:
        array = store.root.array("0")
        return array.read().transpose([array.spec.dims.index(d) for d in "xyzt"])


def sync(path: Path) -> None:
    """Bring a file, or all files of a directory, to the disk, as fmristore does."""
    for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _decompress_and(path: Path, encode: Callable[[], None]) -> None:
    """Decompress a file in one thread while all cores encode what it holds."""

    def decompress() -> None:
        with igzip.open(path, "rb") as file:  # type: ignore[no-untyped-call]
            while file.read(1 << 20):
                pass

    thread = threading.Thread(target=decompress)
    thread.start()
    encode()
    thread.join()


def sizes(runs: Sequence[Run], accesses: Sequence[Access]) -> dict[str, dict[str, int]]:
    """Bytes on disk of each run under each preset and layout, and as NIfTI.

    Parameters
    ----------
    runs : sequence of Run
        What is stored.
    accesses : sequence of str
        Layouts.

    Returns
    -------
    dict
        For each run the bytes of ``.nii``, ``.nii.gz``, and stores named store/preset/layout.
    """
    found: dict[str, dict[str, int]] = {}
    for run in runs:
        found[run.name] = {"nii": nbytes(run.nii), "nii.gz": nbytes(run.nii_gz)}
        for name, codec in SIZED:
            for access in accesses:
                path = prepare_store(run, STORES[name], access, codec=codec)
                place = f"{name.partition('-')[0]}/{codec}/{access}"
                found[run.name][place] = nbytes(path)
    return found
