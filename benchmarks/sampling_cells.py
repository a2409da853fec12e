"""Sampling cells: random windows of a run for training, beside what is used for that today.

A window of 20 volumes, a patch of 16 voxels along each axis and 16 volumes, and 20 volumes of
parcels. The peers are a memory map of the ``.nii``, nibabel on the ``.nii.gz`` with indexed_gzip,
and one file for each volume, as ``numpy.save`` writes it. All return stored integers. Cells
whose names end in ``dropped`` begin with no page of the files in the cache of the operating system.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import fmristore as fs
from benchmarks.cells import OURS, Cell, Group, check_equal
from benchmarks.data import STORES, Run, prepare_store
from benchmarks.engines.limit import Limit
from benchmarks.engines.with_nibabel import Nii, NiiGz
from benchmarks.selections import Selection
from benchmarks.timing import Budget, Contender
from fmristore.planning.layout import Access
from fmristore.sampling import Windows
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.protocol import AnyArray

__all__ = [
    "KINDS",
    "drop_pages",
    "prepare_parcels",
    "sampling_groups",
    "window_shape",
    "write_volumes",
]

WINDOWS = 8
"""Windows that are read in one repetition."""
LENGTH = 20
PATCH = 16
PARCELS = 200
KINDS: dict[str, Access] = {"volumes": "volume", "patches": "balanced"}
"""What windows are, and the layout that suits them."""
CODECS = ("none", "dual")

Read = Callable[[Selection], AnyArray]


def sampling_groups(runs: Sequence[Run], budget: Budget) -> list[Group]:
    """One group for each run, kind of window and codec."""
    gz = ("nibabel .nii.gz",) if importlib.util.find_spec("indexed_gzip") else ()
    groups = []
    for run in runs:
        for kind in (*KINDS, "parcels"):
            for codec, dropped in itertools.product(CODECS, (False, True)):
                parcels = kind == "parcels"
                if dropped and (parcels or not hasattr(os, "posix_fadvise")):
                    continue
                name = f"sample/{run.name}/{kind}/{codec}{'/dropped' if dropped else ''}"
                peers = ("memory map",) if parcels else ("memory map", *gz, "file a volume")
                cell = Cell(
                    name=name,
                    engines={label: label for label in (OURS, *peers)},
                    limit=None if parcels or codec == "none" else "limit",
                    note=f"{WINDOWS} windows",
                )
                make = (
                    partial(_parcels, run, codec)
                    if parcels
                    else partial(_grid, run, kind, codec, dropped=dropped)
                )
                groups.append(Group(name=name, cells=(cell,), make=make, budget=budget))
    return groups


def window_shape(run: Run, kind: str) -> tuple[int, ...]:
    """Lengths of a window along x, y, z, t."""
    wanted = (*run.shape[:3], LENGTH) if kind == "volumes" else (PATCH,) * 4
    return tuple(min(n, w) for n, w in zip(run.shape, wanted, strict=True))


def _draw(run: Run, kind: str, number: int) -> list[Selection]:
    """Random windows; the same number gives the same."""
    rng = np.random.default_rng([7, number])
    size = window_shape(run, kind)
    found = []
    for _ in range(WINDOWS):
        starts = [int(rng.integers(n - w + 1)) for n, w in zip(run.shape, size, strict=True)]
        found.append(Selection(tuple(slice(s, s + w) for s, w in zip(starts, size, strict=True))))
    return found


def _grid(run: Run, kind: str, codec: str, wanted: set[str], *, dropped: bool) -> list[Contender]:
    path = prepare_store(run, STORES["zarr-dual"], KINDS[kind], codec=codec)
    *patch, length = window_shape(run, kind)
    windows = Windows(path, length=length, stride=1, patch=patch, patch_stride=1)
    readers: dict[str, tuple[Read, Callable[[], Any]]] = {
        OURS: (partial(_ours, windows), windows.close)
    }
    for label, engine, place in (
        ("memory map", _Remapped if dropped else Nii, run.nii),
        ("nibabel .nii.gz", NiiGz, run.nii_gz),
        ("limit", Limit, path),
    ):
        if label in wanted:
            opened = engine(place)
            readers[label] = opened.read, opened.close
    if "file a volume" in wanted:
        readers["file a volume"] = partial(_frames, write_volumes(run)), lambda: None
    files = [run.nii, run.nii_gz, run.folder / "frames", path] if dropped else []
    return [
        _contender(label, *readers[label], partial(_draw, run, kind), run.values, files)
        for label in readers
        if label in wanted
    ]


class _Remapped(Nii):
    """A map of a file that is made for each window: pages that are mapped would not be dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, selection: Selection) -> AnyArray:
        """Map the file, and copy out of it."""
        image: Any = nib.load(self._path)
        return np.array(selection.of(np.asarray(image.dataobj)))

    def close(self) -> None:
        """Docstring inherited."""


def _contender(
    label: str,
    read: Read,
    close: Callable[[], Any],
    draw: Callable[[int], list[Selection]],
    values: AnyArray,
    drop: Sequence[Path] = (),
) -> Contender:
    def check(number: int, found: list[AnyArray]) -> None:
        for part, selection in zip(found, draw(number), strict=True):
            check_equal(part, selection.of(values), label)

    def prepare(number: int) -> Callable[[], list[AnyArray]]:
        selections = draw(number)
        for path in drop:
            drop_pages(path)
        return lambda: [read(selection) for selection in selections]

    return Contender(
        name=label, prepare=prepare, check=check, settle=CHUNK_CACHE.clear, close=close
    )


def _ours(windows: Windows, selection: Selection) -> AnyArray:
    starts = [part.start for part in selection.index if isinstance(part, slice)]
    lattice = windows.lattice(0)
    *space, time = starts
    found: AnyArray = windows[int(np.ravel_multi_index((time, *space), lattice))]
    return found


def drop_pages(path: Path) -> None:
    """Let the operating system forget the pages of a file, or of all files of a folder."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # pages that are not written yet would stay
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def write_volumes(run: Run) -> list[Path]:
    """Write one file for each volume, as `numpy.save` does."""
    folder = run.folder / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{t}.npy" for t in range(run.shape[3])]
    for t, path in enumerate(paths):
        np.save(path, run.values[..., t])
    return paths


def _frames(paths: Sequence[Path], selection: Selection) -> AnyArray:
    *space, times = selection.index
    assert isinstance(times, slice)
    return np.stack([np.load(path)[tuple(space)] for path in paths[times]], axis=3)


def prepare_parcels(run: Run, codec: str, suffix: str = ".ome.zarr") -> tuple[Path, Path]:
    """Store means of parcels (t, parcel), and write them as `numpy.save` does."""
    count = min(PARCELS, int(np.prod(run.shape[:3])))
    labels = (np.arange(np.prod(run.shape[:3])) % count + 1).reshape(run.shape[:3])
    path = run.folder / f"parcels-{codec}{suffix}"
    plain = run.folder / "parcels.npy"
    with fs.parcellate(
        run.nii, labels.astype(np.int32), path, codec=codec, overwrite=True
    ) as stored:
        np.save(plain, stored.to_numpy())
    return path, plain


def _parcels(run: Run, codec: str, wanted: set[str]) -> list[Contender]:
    path, plain = prepare_parcels(run, codec)
    length = min(LENGTH, run.shape[3])
    windows = Windows(path, length=length, stride=1)
    values: AnyArray = np.load(plain)
    mapped = np.load(plain, mmap_mode="r")

    def draw(number: int) -> list[Selection]:
        rng = np.random.default_rng([8, number])
        starts = rng.integers(len(values) - length + 1, size=WINDOWS).tolist()
        return [Selection((slice(s, s + length), slice(None))) for s in starts]

    def ours(selection: Selection) -> AnyArray:
        times = selection.index[0]
        assert isinstance(times, slice)
        found: AnyArray = windows[times.start]
        return found

    readers: dict[str, tuple[Read, Callable[[], Any]]] = {
        OURS: (ours, windows.close),
        "memory map": (lambda selection: np.array(selection.of(mapped)), lambda: None),
    }
    return [
        _contender(label, *readers[label], draw, values) for label in readers if label in wanted
    ]
