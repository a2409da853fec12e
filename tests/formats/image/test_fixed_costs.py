"""Calls of functions that opening and small reads take: what each costs is paid on every read."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import fmristore as fs
import fmristore_stores
from fmristore_stores.chunks.cache import CHUNK_CACHE

OURS = tuple(
    os.path.join(os.path.dirname(module.__file__ or ""), "")  # noqa: PTH118, PTH120
    for module in (fs, fmristore_stores)
)
OF_ALL = ("is_outdated", "<lambda>")
SHAPE = (12, 12, 4, 24)


def calls(work: Callable[[], object]) -> int:
    """Calls of functions of ours, the second time; what others left is closed the first time.

    Those that look at every open store of the process are left out.
    """
    count = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        code = frame.f_code
        of_all = code.co_filename.endswith("alive.py") or code.co_name in OF_ALL
        count += event == "call" and code.co_filename.startswith(OURS) and not of_all

    before = sys.getprofile()
    gc.disable()  # else garbage of other tests may be found, and closed, at any moment
    try:
        work()
        sys.setprofile(note)
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return count


@pytest.fixture(params=["h5", "ome.zarr"], name="place")
def _place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"run.{request.param}"


def store(place: Path, **options: Any) -> None:
    values = np.arange(np.prod(SHAPE), dtype="i2").reshape(SHAPE)
    fs.NeuroVec.create(values, place, space=np.eye(4), tr=2.0, **options).close()


def test_opening_and_one_voxel(place: Path) -> None:
    store(place)

    def work() -> None:
        with fs.open(place) as run:
            run[3, 4, 1]

    assert calls(work) < (490 if place.suffix == ".h5" else 410)


def test_one_voxel(place: Path) -> None:
    store(place)
    with fs.open(place) as run:

        def work() -> None:
            CHUNK_CACHE.clear()
            run[3, 4, 1]

        assert calls(work) < 104


def test_one_voxel_that_is_not_compressed(tmp_path: Path) -> None:
    store(tmp_path / "run.h5", codec="none")
    with fs.open(tmp_path / "run.h5") as run:
        for voxel in np.ndindex(8, 10):  # from then on it is known where all chunks lie
            run[(*voxel, 1)]
        assert calls(lambda: run[3, 4, 1]) < 13


@pytest.mark.parametrize(("codec", "most"), [("dual", 28), ("portable", 22), ("none", 12)])
def test_each_further_chunk(
    place: Path, codec: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMRISTORE_WORKERS", "1")
    store(place, access="volume", codec=codec)
    with fs.open(place) as run:
        assert run.chunks == (12, 12, 4, 1)

        def read(volumes: int) -> Callable[[], None]:
            def work() -> None:
                CHUNK_CACHE.clear()
                run[3, 4, 1, :volumes]

            return work

        assert calls(read(22)) - calls(read(2)) < 20 * most
