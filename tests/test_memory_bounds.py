"""What cannot be written within `max_memory` is refused before anything is read."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import MemoryLimitError
from tests.images import AFFINE

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
        fs.NeuroVec.create(folder / name, values, space=AFFINE, tr=1.0, codec="fast").close()
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
        out / "b.zarr", folder / "a.zarr", mask=LABELS > 3, max_memory=size
    ),
    "parcels": lambda folder, out, size: fs.ParcellatedScan.create(
        out / "b.zarr", folder / "a.zarr", parcellation=LABELS, max_memory=size
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
                tmp_path / "b.h5", folder / "a.h5", 5, mask=LABELS > 3, max_memory=LIMIT
            )

    assert peak_of(refused) <= ALLOWED
    assert not list(tmp_path.iterdir())
