"""Runs that are added to a sequence."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore.formats.sequence import layout as sequence_layout
from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    InvalidInputError,
    ReadOnlyError,
    StorageError,
)
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
