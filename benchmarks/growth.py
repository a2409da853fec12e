"""Growth cells: time and peak memory as a run grows in volumes and in voxels.

Only fmristore is measured. Reads of one voxel, one region and one volume; conversion and
transcoding each in a process of its own, under a memory limit that stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks.apart import run_apart
from benchmarks.cells import OURS, Cell, Group, check_equal
from benchmarks.data import Run, remove
from benchmarks.engines.ours import Ours
from benchmarks.selections import draw
from benchmarks.timing import Budget, Contender, Measured
from benchmarks.write_cells import read_array
from fmristore_stores.chunks.cache import CHUNK_CACHE

__all__ = ["convert", "growth_groups", "transcode"]

READS = ("voxel", "7x7x7", "volume")
WORK = ("convert", "transcode")
MAX_MEMORY = 256 * 1024 * 1024


def growth_groups(
    run: Run,
    factors: Sequence[int],
    reads: Budget,
    writes: Budget,
    *,
    ways: Sequence[str] = ("volumes", "voxels"),
) -> list[Group]:
    """Two groups for each way of growing and each factor: reads, and work in other processes.

    Parameters
    ----------
    run : Run
        Repeated along t, or along z.
    factors : sequence of int
        How often.
    reads, writes : Budget
        Repetitions.
    ways : sequence of {"volumes", "voxels"}
        What grows.
    """
    groups = []
    for axis in ways:
        for factor in factors:
            name = f"growth/{run.name}/{axis} x {factor}"
            note = f"{run.nbytes * factor / 1e6:.0f} MB"
            make = partial(_contenders, _Grown(run, axis, factor))
            for kinds, budget in ((READS, reads), (WORK, writes)):
                cells = tuple(
                    Cell(name=f"{name}/{kind}", engines={OURS: kind}, note=note) for kind in kinds
                )
                groups.append(Group(name=name, cells=cells, make=make, budget=budget))
    return groups


class _Grown:
    """A run repeated along an axis, as a NIfTI file that is made when it is needed."""

    def __init__(self, run: Run, axis: str, factor: int) -> None:
        self._run = run
        self._repeats = (1, 1, 1, factor) if axis == "volumes" else (1, 1, factor, 1)
        self.stem = f"grown-{axis}-{factor}"
        self.folder = run.folder

    @property
    def values(self) -> Any:
        return np.tile(self._run.values, self._repeats)

    def nii(self) -> Path:
        path = self.folder / f"{self.stem}.nii"
        if not path.exists():
            nib.save(nib.Nifti1Image(self.values, self._run.affine), path)  # type: ignore[no-untyped-call]
        return path

    def store(self) -> Path:
        path = self.folder / f"{self.stem}.ome.zarr"
        if not path.exists():
            convert(str(self.nii()), str(path))()
        return path


def _contenders(grown: _Grown, wanted: set[str]) -> list[Contender]:
    made = [_read(grown, kind) for kind in READS if kind in wanted]
    for kind in WORK:
        if kind in wanted:
            source = grown.nii() if kind == "convert" else grown.store()
            target = (
                grown.folder / f"{grown.stem}-{kind}.{'ome.zarr' if kind == 'convert' else 'h5'}"
            )
            made.append(
                Contender(
                    name=kind,
                    prepare=partial(_prepare, kind, source, target),
                    check=partial(_check, grown, target),
                    close=partial(remove, target),
                )
            )
    return made


def _read(grown: _Grown, kind: str) -> Contender:
    values = grown.values
    shape, inside = values.shape, np.argwhere(values[..., 0] > values[..., 0].mean())
    kept: list[Ours] = []

    def prepare(number: int) -> Callable[[], Any]:
        if not kept:
            kept.append(Ours(grown.store()))
        CHUNK_CACHE.clear()
        return kept[0].prepare(draw(kind, shape, inside, number))

    def check(number: int, result: Any) -> None:
        check_equal(result, draw(kind, shape, inside, number).of(values), kind)

    return Contender(name=kind, prepare=prepare, check=check)


def _prepare(kind: str, source: Path, target: Path, _: int) -> Callable[[], Measured]:
    remove(target)
    return partial(run_apart, __name__, kind, source=source, target=target)


def _check(grown: _Grown, target: Path, _: int, __: Any) -> None:
    check_equal(read_array(target), grown.values, target.name)


# In processes of their own -------------------------------------------------------------------


def convert(source: str, target: str) -> Callable[[], object]:
    """Convert NIfTI to Zarr."""
    import fmristore as fs

    return lambda: fs.convert(source, target, max_memory=MAX_MEMORY)


def transcode(source: str, target: str) -> Callable[[], Any]:
    """Move a Zarr store to HDF5, rechunked for volumes."""
    import fmristore as fs

    return partial(fs.transcode, source, target, access="volume", max_memory=MAX_MEMORY)
