"""A write that fails is never a success, and what was there before stays as it was."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.chunks.writer import write
from fmristore_stores.errors import FmristoreError, StorageError
from fmristore_stores.hdf5 import output as hdf5_output
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
RUN = np.random.default_rng(0).integers(0, 900, (5, 4, 3, 6)).astype("i2")
LABELS = np.random.default_rng(1).integers(0, 3, (5, 4, 3)).astype("i4")


class Failing(io.FileIO):
    """A file of which the write of a certain number fails, and perhaps all later ones."""

    fail_at = 0
    lasting = False
    code = errno.ENOSPC
    writes = 0

    def write(self, data: Any) -> int:
        Failing.writes += 1
        late = Failing.writes > Failing.fail_at
        if Failing.writes == Failing.fail_at or (Failing.lasting and late):
            raise OSError(Failing.code, os.strerror(Failing.code))
        return super().write(data)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Arrange that a write of HDF5 fails."""

    def arm(at: int, *, lasting: bool = False, code: int = errno.ENOSPC) -> None:
        Failing.fail_at, Failing.lasting, Failing.code, Failing.writes = at, lasting, code, 0

    arm(0)
    opener: Any = lambda path, mode, buffering: Failing(path, mode)  # noqa: E731
    monkeypatch.setattr(hdf5_output, "open", opener, raising=False)
    return arm


def write_run(path: Path) -> None:
    fs.NeuroVec.create(RUN, path, space=AFFINE, tr=1.5, overwrite=True).close()


def write_parcels(path: Path) -> None:
    fs.ParcellatedMultiScan.create(
        {"rest": RUN}, path, parcellation=LABELS, space=AFFINE, tr=1.0, overwrite=True
    ).close()


def add_scan(path: Path) -> None:
    with fs.open(path) as scans:
        scans.add_scan("more", RUN[..., :4], tr=1.0)


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(
    ("first", "then"), [(write_run, write_run), (write_parcels, add_scan)], ids=["create", "add"]
)
def test_any_write_of_hdf5_may_fail(
    tmp_path: Path,
    failing: Callable[..., None],
    first: Callable[[Path], None],
    then: Callable[[Path], None],
    *,
    lasting: bool,
) -> None:
    """Also those that h5py makes while it releases an object, where an exception gets lost."""
    path = tmp_path / "a.h5"
    first(path)
    before = path.read_bytes()
    failing(10**9)
    then(tmp_path / shutil.copy(path, tmp_path / "b.h5"))
    writes = Failing.writes
    assert writes > 3
    for number in range(1, writes + 1, 3 if lasting else 1):
        failing(number, lasting=lasting)
        with pytest.raises(StorageError, match="the disk is full"):
            then(path)
        assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".h5"] == []


def test_a_disk_that_fails_is_named(tmp_path: Path, failing: Callable[..., None]) -> None:
    failing(2, code=errno.EIO)
    with pytest.raises(StorageError, match=os.strerror(errno.EIO)):
        write_run(tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_a_file_that_may_not_grow(tmp_path: Path, name: str) -> None:
    """The system's own limit, which works like a full disk."""
    resource = pytest.importorskip("resource", reason="limits of POSIX processes")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(StorageError, match="the disk is full, or a limit is reached"):
            write_run(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("whole", [False, True])
def test_the_hidden_folder_of_a_new_store_vanishes(tmp_path: Path, *, whole: bool) -> None:
    """Neither is it made again, nor is what is left of the store published."""
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "x.zarr"
    write_run(path)

    def remove(done: int, _: int) -> None:
        if done:
            for found in [folder] if whole else folder.glob(".x.zarr.*.partial"):
                shutil.rmtree(found)

    with pytest.raises(FmristoreError):
        fs.NeuroVec.create(
            RUN + 1, path, space=AFFINE, tr=1.5, overwrite=True, progress=remove, max_memory=1 << 20
        )
    assert folder.exists() != whole
    if not whole:
        with fs.open(path) as run:
            np.testing.assert_array_equal(run[...], RUN)
        assert [found.name for found in folder.iterdir()] == ["x.zarr"]


def test_what_was_written_is_looked_for(tmp_path: Path) -> None:
    """A chunk that is not there when the store is opened again stops its publication."""
    spec = ArraySpec(shape=(4,), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(2,)))

    def lose() -> None:
        with create_store(tmp_path / "a.zarr") as store:
            write(store.root.create_array("0", spec), None, [1, 2, 3, 4])
            next(tmp_path.glob(".a.zarr.*/0/c/1")).unlink()

    with pytest.raises(StorageError, match=r"cannot be read back.*1 of its 2 chunks"):
        lose()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["add", "remove"])
def test_changes_of_zarr_are_flushed_before_they_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """All new files and folders are on the disk before the root's metadata are replaced."""
    path = tmp_path / "a.zarr"
    write_parcels(path)
    if change == "remove":
        add_scan(path)
    root = str(path / "zarr.json")
    known = _inodes(path)
    flushed: set[int] = set()
    late: list[str] = []
    after: list[bool] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        if after:
            after[-1] |= os.fstat(descriptor).st_ino == path.stat().st_ino
        fsync(descriptor)

    def rename(source: str, target: str) -> None:
        if str(target) == root:
            new = {
                name: inode for name, inode in _inodes(path).items() if inode not in known.values()
            }
            late.extend(name for name, inode in new.items() if inode not in flushed)
            flushed.discard(path.stat().st_ino)
            replace(source, target)
            known[root] = Path(root).stat().st_ino
            after.append(False)
        else:
            replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    with fs.open(path) as scans:
        if change == "add":
            scans.add_scan("more", RUN[..., :4], tr=1.0)
        else:
            scans.remove_scan("more")
    assert late == []
    assert after
    assert all(after)


def _inodes(folder: Path) -> dict[str, int]:
    return {str(found): found.stat().st_ino for found in [folder, *folder.rglob("*")]}
