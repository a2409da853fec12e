"""Runs that are added to a sequence."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

import fmristore as fs
from fmristore.formats.sequence import layout as sequence_layout
from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    InvalidInputError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.io.sources import LocalSource
from fmristore_stores.opening import open_store
from fmristore_stores.zarr.files import LocalFiles
from tests.every_format import AFFINE, GRID, RUN, WRITERS

STORES = ["run.h5", "run.zarr"]


@pytest.mark.parametrize("name", STORES)
def test_a_run_is_added_behind_the_others(tmp_path: Path, name: str) -> None:
    with WRITERS["neurovecseq"](tmp_path / name) as seq:
        first = seq.run("rest")
        before = fs.open(tmp_path / name)
        seq.add_run("more / of it", RUN[..., 3:9], tr=0.7, metadata={"task": "more"})
        assert seq.runs == ("rest", "task", "more / of it")
        assert seq.trs == (1.5, 2.0, 0.7)
        np.testing.assert_array_equal(seq[..., 28:], RUN[..., 3:9])
        np.testing.assert_array_equal(seq.run("more / of it").to_numpy(), RUN[..., 3:9])
        np.testing.assert_array_equal(first[1, 2, 3], RUN[1, 2, 3])
        assert before.lengths == (20, 8)
        before.close()
        assert copy.copy(seq).lengths == (20, 8, 6)
        with pytest.raises(AlreadyExistsError, match="more / of it"):
            seq.add_run("more / of it", RUN)
        with pytest.raises(InvalidInputError, match="one grid"):
            seq.add_run("other", RUN[:5], space=AFFINE)
        with pytest.raises(InvalidInputError, match="mm from"):
            seq.add_run("other", RUN, space=np.diag([9.0, 2, 3, 1]))
    with fs.open(tmp_path / name) as seq:
        assert seq.lengths == (20, 8, 6)
    assert fs.verify(tmp_path / name).ok


@pytest.mark.parametrize("name", STORES)
def test_a_run_that_cannot_be_written_leaves_the_sequence_as_it_was(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WRITERS["neurovecseq"](tmp_path / name) as seq:
        whole = seq.to_numpy()
        with monkeypatch.context() as patch:

            def fails(group: Any, *_: Any, **__: Any) -> Any:
                group.create_group("begun")
                raise StorageError("the disk is full")

            patch.setattr(sequence_layout, "write_run", fails)
            with pytest.raises(StorageError, match="full"):
                seq.add_run("more", RUN)
        np.testing.assert_array_equal(seq.to_numpy(), whole)
        assert fs.verify(tmp_path / name).ok
        seq.add_run("more", RUN)
        assert seq.lengths == (20, 8, 20)


def test_what_runs_are_not_added_to(tmp_path: Path) -> None:
    runs = {"a": RUN.astype("f4")}
    path = tmp_path / "r.h5"
    with (
        fs.NeuroVecSeq.create(runs, path, space=GRID, tr=1.5, profile="r") as seq,
        pytest.raises(ReadOnlyError, match="R package"),
    ):
        seq.add_run("b", RUN)
    path = tmp_path / "run.zarr"
    with WRITERS["neurovecseq"](path) as seq:
        other = {"a": RUN[:3]}
        fs.NeuroVecSeq.create(other, path, space=AFFINE, overwrite=True).close()
        with pytest.raises(ChangedError, match="open it again"):
            seq.add_run("b", RUN)
    with fs.open(path) as seq:
        assert seq.runs == ("a",)


# What a run costs ------------------------------------------------------------------------------


def test_adding_a_run_reads_nothing_of_those_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    fetch = LocalSource.fetch

    def fetched(self: LocalSource, ranges: Any, *rest: Any) -> Any:
        read.extend(item.source for item in ranges)
        return fetch(self, ranges, *rest)

    def noted(method: Any) -> Any:
        def call(self: LocalFiles, key: str) -> Any:
            read.append(self.path(key))
            return method(self, key)

        return call

    with WRITERS["neurovecseq"](tmp_path / "run.zarr") as seq:
        seq.add_run("before", RUN)  # what is as new as the root is looked at again
        with monkeypatch.context() as patch:
            patch.setattr(LocalSource, "fetch", fetched)
            for name in ("document", "check_readable"):
                patch.setattr(LocalFiles, name, noted(getattr(LocalFiles, name)))
            seq.add_run("late", RUN)
        assert any("runs/late" in path for path in read)
        assert not [path for path in read if "runs/task" in path]  # the first one has the layout
    with fs.open(tmp_path / "run.zarr") as found:
        assert found.runs == ("rest", "task", "before", "late")
    copied: Any = zarr.open_consolidated(tmp_path / "run.zarr")
    listed = dict(copied["runs"].members())
    assert listed.keys() == {"rest", "task", "before", "late"}
    assert all({"0", "nifti"} <= {*run.array_keys()} for run in listed.values())


FOREIGN: dict[str, Any] = {
    "attributes": lambda root: root["runs/rest"].attrs.update({"note": "by hand"}),
    "a group": lambda root: root["runs/rest"].create_group("added"),
    "a group in the root": lambda root: root.create_group("added"),
    "a removed node": lambda root: shutil.rmtree(root.store.root / "runs/rest/nifti"),
    "no copy in the root": lambda root: root.attrs.put(dict(root.attrs)),
}
"""Changes by other software, which leave the root's copy of all metadata as it was or drop it."""


@pytest.mark.parametrize("change", FOREIGN)
def test_metadata_that_others_changed_are_copied(tmp_path: Path, change: str) -> None:
    path = tmp_path / "run.zarr"
    with WRITERS["neurovecseq"](path) as seq:
        FOREIGN[change](zarr.open_group(path, mode="r+", use_consolidated=False))
        seq.add_run("late", RUN)
    found: Any = zarr.open_consolidated(path)
    assert found["runs/rest"].attrs.get("note") == ("by hand" if change == "attributes" else None)
    assert ("added" in found["runs/rest"]) == (change == "a group")
    assert ("added" in found) == (change == "a group in the root")
    assert ("nifti" in found["runs/rest"]) == (change != "a removed node")
    with open_store(path) as store:
        assert store.contradictions(["runs/late", "runs/late/0", "runs/rest/0"]) == []


def test_runs_that_others_added_meanwhile_are_there_too(tmp_path: Path) -> None:
    for name in STORES:
        with WRITERS["neurovecseq"](tmp_path / name) as seq, fs.open(tmp_path / name) as other:
            other.add_run("theirs", RUN[..., 3:9])
            seq.add_run("ours", RUN)
            assert seq.runs == ("rest", "task", "theirs", "ours")
            np.testing.assert_array_equal(seq.run("theirs").to_numpy(), RUN[..., 3:9])
            np.testing.assert_array_equal(seq.run("ours").to_numpy(), RUN)


def test_a_remote_run_asks_for_nothing_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    asking: list[str] = []  # fsspec may look for a file before it reads it

    def noted(method: Any) -> Any:
        def call(self: Any, path: Any, *args: Any, **options: Any) -> Any:
            if not asking:
                asked.append(str(path))
            asking.append(str(path))
            try:
                return method(self, path, *args, **options)
            finally:
                asking.pop()

        return call

    url = "memory://growing-runs/run.zarr"
    with fs.NeuroVecSeq.create({"first": RUN}, url, space=GRID, overwrite=True) as seq:
        seq.add_run("middle", RUN)
        with monkeypatch.context() as patch:
            for name in ("cat_file", "info", "ls", "find"):
                patch.setattr(MemoryFileSystem, name, noted(getattr(MemoryFileSystem, name)))
            seq.add_run("last", RUN)
        assert any("runs/last" in path for path in asked)
        assert not [path for path in asked if "runs/first" in path or "runs/middle" in path]
        assert not any("affine/c" in path for path in asked)
        np.testing.assert_array_equal(seq.run("last").to_numpy(), RUN)
        assert seq.run("last").space.same_grid(seq.run("first").space)
    fsspec.filesystem("memory").rm("/growing-runs", recursive=True)
