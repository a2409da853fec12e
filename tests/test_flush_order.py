"""What becomes visible is on the disk before, and so is its folder before success is reported."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fmristore_stores.publishing import publish
from tests.campaigns.operations import OPERATIONS

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows flushes no folders")

NAMES = (
    *("create neurovec", "overwrite parcellatedmultiscan", "convert in.nii.gz", "transcode to"),
    *("add_scan", "parcellate scan=", "remove_scan", "add_run", "add map", "rename map"),
)
FILES = ("to_nifti x.nii.gz", "to_nifti x.hdr", "virtualize", "overwrite neurovec for R")


class Disk:
    """What was flushed, and what a step of publishing made visible before it was.

    Parameters
    ----------
    target : Path
        What is written.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.late: list[str] = []
        self.steps = 0
        self.pending: set[Path] = set()
        """Folders in which a name was given since they were flushed."""
        self._flushed: dict[int, tuple[int, ...]] = {}
        for path in _all(target):
            self.flush(path)

    def flush(self, file: Path | int) -> None:
        """Remember what is on the disk now."""
        status = os.stat(file)  # noqa: PTH116 - or a descriptor
        self._flushed[status.st_ino] = _content(status)
        self.pending = {folder for folder in self.pending if folder.stat().st_ino != status.st_ino}

    def name(self, source: Path, target: Path, rename: Callable[[], object]) -> None:
        """Give something a name, after a look at all that can be seen by it."""
        seen = target in (self.target, self.target / "zarr.json")
        if self.target.suffix == ".hdr":  # and its .img
            seen |= target.stem == self.target.stem
        if seen:
            self.late += [str(path) for path in _all(source) if not self._is_on_disk(path)]
            if target != self.target and target.name == "zarr.json":  # of a store that is changed
                self.late += [
                    str(path)
                    for path in _all(self.target)
                    if path not in (source, target, source.parent) and not self._is_on_disk(path)
                ]
        rename()
        if seen:
            self.steps += 1
            self.pending.add(target.parent)

    def _is_on_disk(self, path: Path) -> bool:
        status = path.stat()
        return self._flushed.get(status.st_ino) == _content(status)


def _all(path: Path) -> list[Path]:
    return [path, *path.rglob("*")] if path.exists() else []


def _content(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Disk]:
    """Watch a path: flushes and names that are given pass through the `Disk` that is returned."""

    def watch(target: Path) -> Disk:
        disk = Disk(target)
        flush, exchange = os.fsync, publish._exchange

        def flushed(descriptor: int) -> None:
            flush(descriptor)
            disk.flush(descriptor)

        def named(real: Callable[..., None]) -> Callable[..., None]:
            def call(source: str | Path, to: str | Path, **options: int) -> None:
                disk.name(Path(source), Path(to), lambda: real(source, to, **options))

            return call

        def exchanged(one: str, other: str) -> bool:
            done: list[bool] = []
            disk.name(Path(one), Path(other), lambda: done.append(exchange(one, other)))
            return done[0]

        monkeypatch.setattr(os, "fsync", flushed)
        for name in ("replace", "rename", "link"):
            monkeypatch.setattr(os, name, named(getattr(os, name)))
        monkeypatch.setattr(publish, "_exchange", exchanged)
        return disk

    return watch


@pytest.mark.parametrize(
    "name", [*(f"{work} {kind}" for kind in ("h5", "zarr") for work in NAMES), *FILES]
)
def test_everything_is_flushed_in_order(
    tmp_path: Path, watched: Callable[[Path], Disk], name: str
) -> None:
    operation = OPERATIONS[name]
    operation.prepare(tmp_path)
    disk = watched(tmp_path / operation.target)
    operation.run(tmp_path)
    assert disk.steps, "nothing became visible"
    assert disk.late == [], "visible before it was flushed"
    assert disk.pending == set(), "success was reported before these folders were flushed"


@pytest.mark.parametrize("name", ["create neurovec h5", "overwrite neurovec zarr", "add_scan zarr"])
def test_a_flush_that_is_left_out_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: Callable[[Path], Disk], name: str
) -> None:
    operation = OPERATIONS[name]
    operation.prepare(tmp_path)
    disk = watched(tmp_path / operation.target)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    operation.run(tmp_path)
    assert disk.late
    assert disk.pending
