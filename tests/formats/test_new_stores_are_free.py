"""A store that was just written is not held open: other programs may change it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import fmristore as fs
from tests.every_format import LABELS, NAMES, RUN, SPACE, WRITERS


def _converted(url: Path) -> Any:
    source = url.with_name("a.nii")
    with fs.NeuroVec.create(RUN, url.with_name("source.zarr"), space=SPACE) as image:
        image.to_nifti(source)
    return fs.convert(source, url)


def _saved(url: Path) -> Any:
    with WRITERS["neurovec"](url.with_name("source.zarr")) as image:
        return image.save(url)


def _summary_added(url: Path) -> Any:
    WRITERS["parcellatedmultiscan"](url).close()
    return fs.parcellate(RUN, LABELS, url, names=NAMES, space=SPACE, scan="more")


def _map_added(url: Path) -> Any:
    maps = WRITERS["labeledvolumeset"](url)
    maps.add("third", RUN[..., 2] / 4)
    return maps


MAKERS: dict[str, Callable[[Path], Any]] = {
    **WRITERS,
    "converted": _converted,
    "saved": _saved,
    "summary added": _summary_added,
    "map added": _map_added,
}


@pytest.mark.parametrize("name", MAKERS)
def test_another_program_may_change_it_at_once(tmp_path: Path, name: str) -> None:
    """Return whether the object that was given back is dropped or not."""
    url = tmp_path / "a.h5"
    made = MAKERS[name](url)
    with h5py.File(url, "r+") as file:
        file.attrs["note"] = "by hand"
    del made
    with h5py.File(url, "r+") as file:
        del file.attrs["note"]


def test_it_is_opened_when_it_is_read(tmp_path: Path) -> None:
    made = WRITERS["neurovec"](tmp_path / "a.h5")
    np.testing.assert_array_equal(made.raw[1, 2, 3], RUN[1, 2, 3])
    with pytest.raises(OSError), h5py.File(tmp_path / "a.h5", "r+"):  # noqa: PT011
        pass
    made.close()
    with h5py.File(tmp_path / "a.h5", "r+"):
        pass


def test_one_that_was_changed_meanwhile_is_not_read(tmp_path: Path) -> None:
    made = WRITERS["neurovec"](tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["0"][...] = 1
    with pytest.raises(fs.errors.ChangedError):
        made[1, 2, 3]


def _replaced(folder: Path) -> None:
    WRITERS["neurovec"](folder / "c.h5").save(folder / "a.h5", overwrite=True).close()


NEXT: dict[str, Callable[[Path], Any]] = {
    "opening another": lambda folder: fs.open(folder / "b.zarr").close(),
    "opening it": lambda folder: fs.open(folder / "a.h5").close(),
    "creating": lambda folder: WRITERS["neurovec"](folder / "c.h5"),
    "replacing it": _replaced,
    "verifying": lambda folder: fs.verify(folder / "b.zarr"),
    "copying it": lambda folder: fs.transcode(folder / "a.h5", folder / "c.zarr"),
}


def _open_descriptors(path: Path) -> int:
    """Descriptors of this process for a file, also for one that another took the place of."""
    found = 0
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(path))  # noqa: PTH115
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("name", NEXT)
def test_the_next_call_closes_what_was_dropped(tmp_path: Path, name: str) -> None:
    url = tmp_path / "a.h5"
    WRITERS["neurovec"](tmp_path / "b.zarr").close()
    dropped = WRITERS["neurovec"](url)
    dropped[1, 2, 3]
    assert _open_descriptors(url)
    del dropped
    kept = NEXT[name](tmp_path)
    assert _open_descriptors(url) == 0
    with h5py.File(url, "r+") as file:
        file.attrs["note"] = "by hand"
    del kept
