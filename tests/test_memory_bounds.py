"""Operations stay within `max_memory`; what cannot is refused before anything is read."""

from __future__ import annotations

import fnmatch
import inspect
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from benchmarks import memory
from fmristore_stores.chunks.cache import CHUNK_CACHE
from fmristore_stores.errors import MemoryLimitError
from tests.images import AFFINE

pytestmark = pytest.mark.once

SHAPE = (16, 16, 16, 1024)
"""8 MiB as int16, on a grid of 4096 voxels."""

LIMIT = 2 << 20
ALLOWED = 4 << 20
"""Half of the run: reading it would take more where it is gathered."""

LABELS = np.arange(16**3).reshape(16, 16, 16) // 64 + 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    values = np.random.default_rng(0).integers(0, 2000, SHAPE, "i2")
    for name in ("a.h5", "a.zarr"):
        fs.NeuroVec.create(values, folder / name, space=AFFINE, tr=1.0, codec="fast").close()
    with fs.open(folder / "a.h5") as run:
        run.to_nifti(folder / "a.nii")
    return folder


def peak_of(work: Callable[[], Any]) -> int:
    """Highest number of bytes that Python and numpy took meanwhile."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


REFUSED: dict[str, Callable[[Path, Path, int], Any]] = {
    "convert": lambda folder, out, size: fs.convert(
        folder / "a.nii", out / "b.zarr", max_memory=size
    ),
    "convert both": lambda folder, out, size: fs.convert(
        folder / "a.nii", out / "b.zarr", access="both", max_memory=size
    ),
    "masked": lambda folder, out, size: fs.MaskedNeuroVec.create(
        folder / "a.zarr", out / "b.zarr", mask=LABELS > 3, max_memory=size
    ),
    "parcels": lambda folder, out, size: fs.ParcellatedScan.create(
        folder / "a.zarr", out / "b.zarr", parcellation=LABELS, max_memory=size
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_read(folder: Path, tmp_path: Path, name: str) -> None:
    """The error names the least that is needed."""
    work = REFUSED[name]
    found: list[MemoryLimitError] = []

    def refused() -> None:
        with pytest.raises(MemoryLimitError, match="at least") as caught:
            work(folder, tmp_path, LIMIT)
        found.append(caught.value)

    refused()  # loads what is loaded on first use
    assert peak_of(refused) <= ALLOWED
    least = re.search(r"at least (\d+) bytes", found[0].message)
    assert least
    with pytest.raises(MemoryLimitError):
        work(folder, tmp_path, int(least[1]) - 1)
    assert not list(tmp_path.iterdir())


def test_components_are_refused_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    def refused() -> None:
        with pytest.raises(MemoryLimitError, match="at least"):
            fs.LatentNeuroVec.from_pca(
                folder / "a.h5", tmp_path / "b.h5", 5, mask=LABELS > 3, max_memory=LIMIT
            )

    refused()
    assert peak_of(refused) <= ALLOWED
    assert not list(tmp_path.iterdir())


TIGHT = 512 << 10

FIXED = (5 << 18) + 140 * 32 * 24 * 8
"""1.25 MiB for buffers and a chunk being decoded, and 140 bytes for each voxel of the grid."""

SHAPES = {"small": (16, 16, 10, 8), "large": (32, 24, 8, 384)}
"""The large one takes 4.5 MiB as int16: gathered whole, it shows."""

ZARR = (
    "ParcellatedScanSummary.create mean",
    "to_nifti .nii",
    "to_nifti of a MaskedNeuroVec",
    "transcode",
    "verify deep",
    "mean axis=3",
    "series of a mask",
)
"""Operations that write no shard, and so have nothing to gather."""

EXTRA = {
    ("transcode", ".zarr"): 3 << 20,
}
"""A shard as it is stored, which is copied whole."""

SAME = (
    "NeuroVec.create both",
    "NeuroVecSeq.create",
    "save",
    "to_dense of a MaskedNeuroVec",
    "to_nifti of a NeuroVecSeq",
)
"""Operations that go through a scratch file as ``NeuroVec.create time`` does, which takes long."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The stores that the operations of the benchmark start from, chunked by volume.

    One thread works: each keeps the memory of the last chunk that it decoded, and how many have
    none yet depends on the tests before.
    """
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMRISTORE_WORKERS", "1")
        patch.setattr(memory, "SHAPES", SHAPES)
        memory.prepare(folder, memory.STORES, access="volume")
        patch.setattr(CHUNK_CACHE, "limit", 0)
        yield folder


@pytest.mark.parametrize(
    ("name", "store"),
    [
        *((name, ".h5") for name in memory.OPERATIONS if name not in (*SAME, *memory.FURTHER)),
        *((name, ".zarr") for name in ZARR),
    ],
)
def test_peak_of_traced_bytes(bench: Path, tmp_path: Path, name: str, store: str) -> None:
    """With a limit far below the size of the run, or the least that the error names."""
    work = memory.operations()[name]
    for shape in SHAPES.values():
        memory.labels_of(shape)
    work(memory.Job(bench, "small", store, tmp_path / f"first{store}", 1 << 28))
    sizes: list[int] = [TIGHT]
    results: list[int] = []

    def once() -> None:
        out = tmp_path / f"{len(sizes)}-{len(results)}{store}"
        job = memory.Job(bench, "large", store, out, sizes[-1])
        found = work(job)
        results.append(found.nbytes if isinstance(found, np.ndarray) else 0)

    while True:
        try:
            peak = peak_of(once)
            break
        except MemoryLimitError as error:
            least = re.search(r"from (\d+) to at least (\d+) bytes", error.message)
            if least is None:
                raise
            assert int(least[1]) == sizes[-1], "the error names another limit than was given"
            sizes.append(int(least[2]))
            assert len(sizes) < 4
    allowed = sizes[-1] + FIXED + EXTRA.get((name, store), 0) + RESULTS.get(name, 1) * results[0]
    if peak > allowed:  # threads that other tests left are traced as well: once more
        peak = peak_of(once)
    assert peak <= allowed, f"{peak / 2**20:.2f} MiB of {allowed / 2**20:.2f} MiB"


RESULTS = {"mean axis=3": 3, "std axis=3": 4, "min axis=3": 2}
"""Arrays as large as the result that statistics keep while they work."""


LIKE = {
    "*.mean": "mean axis=3",
    "*.var": "std axis=3",
    "*.min": "min axis=3",
    "*.max": "min axis=3",
    "*Vec.as_source": "to_nifti .nii",
    "NeuroVecSeq.as_source": "to_nifti of a NeuroVecSeq",
    "ParcellatedScan.as_source": "to_nifti of a ParcellatedScan",
    "LabeledVolumeSet.as_source": "to_nifti of a LabeledVolumeSet",
    "AnyFormat.save": "save",
    "NeuroVecSeq.save": "NeuroVecSeq.create",
    "MaskedNeuroVec.save": "MaskedNeuroVec.create",
    "LatentNeuroVec.save": "LatentNeuroVec.create",
    "ParcellatedScan.save": "ParcellatedScan.create",
    "ParcellatedScanSummary.save": "ParcellatedScanSummary.create mean",
    "ParcellatedMultiScan.save": "ParcellatedMultiScan.create mean",
    "LabeledVolumeSet.save": "LabeledVolumeSet.create",
    "NeuroVol.save": "NeuroVol.create",
    "NeuroVol.to_dense": "NeuroVol.create",
    "NeuroVol.to_nifti": "to_nifti .nii",
    "NeuroVol.as_source": "to_nifti .nii",
    "NeuroVol.compute_digest": "compute_digest",
    "NeuroVol.std": "std axis=3",
    "NeuroVol.iter_volumes": "iter_volumes",
    "NeuroVec.to_dense": "NeuroVec.create time",
    "convert": "NeuroVec.create time",
    "ParcellatedMultiScan.add_scan": "add_scan",
    "ParcellatedScan.summary": "summary std",
    "ParcellatedScan.map_parcels": "map_parcels",
    "Reserved.regions": "reserve, Reserved.fill, Reserved.publish",
}
"""Calls that the name of no operation has, and the operation that goes through the same code."""


def calls_of(operation: str) -> set[str]:
    """Calls that an operation is named after: of a `NeuroVec` where it names no class."""
    head, _, of = operation.partition(" of a ")
    names = [part.split()[0] for part in head.split(", ")]
    of = of or names[0].rpartition(".")[0] or "NeuroVec"
    return {*names, *(f"{of}.{name.rpartition('.')[2]}" for name in names)}


def takes_max_memory(value: object) -> bool:
    if not inspect.isfunction(value):
        return False
    options = r"\b(Write|Store|Layout)Options\b"
    return any(
        name == "max_memory" or re.search(options, str(one.annotation))
        for name, one in inspect.signature(value).parameters.items()
    )


def test_every_call_that_takes_max_memory_is_an_operation() -> None:
    """Or goes through the code of one; modules such as ``fmristore.nilearn`` are not looked at."""
    public = {name: getattr(fs, name) for name in fs.__all__}
    calls = public | {
        f"{name}.{attribute}": inspect.getattr_static(value, attribute)
        for name, value in public.items()
        if inspect.isclass(value)
        for attribute in dir(value)
        if not attribute.startswith("_")
    }
    bounded = {
        name for name, call in calls.items() if takes_max_memory(getattr(call, "__func__", call))
    }
    assert {"convert", "NeuroVec.create", "NeuroVecSeq.add_run"} <= bounded
    named = set().union(*map(calls_of, memory.OPERATIONS))
    unnamed = bounded - named
    matched = {name: fnmatch.filter(unnamed, name) for name in LIKE}
    assert not unnamed - set().union(*matched.values()), "measured by no operation"
    assert not [name for name, found in matched.items() if not found], "needless"
    assert set(LIKE.values()) <= set(memory.OPERATIONS)
