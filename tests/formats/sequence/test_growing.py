"""Runs that are added to a sequence, and volumes that are appended to a run being acquired."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
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
from tests.conftest import S3Server
from tests.every_format import AFFINE, GRID, RUN, SPACE, WRITERS
from tests.images import write_nifti

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


@pytest.mark.parametrize("name", STORES)
def test_volumes_of_a_run_that_is_being_acquired(tmp_path: Path, name: str) -> None:
    url = tmp_path / name
    image = tmp_path / "volume.nii"
    write_nifti(image, RUN[..., 2])
    assert fs.append(RUN[..., 0], url, space=AFFINE, tr=0.8) == 1
    assert fs.append(RUN[..., 1:2], url) == 2
    with pytest.raises(InvalidInputError, match="mm from"):
        fs.append(image, url)  # on the grid that its own header says
    assert fs.append(RUN[..., 2], url, space=AFFINE) == 3
    assert fs.append(RUN[..., 3:7], url, tr=0.8) == 7
    with fs.open(url) as run:
        np.testing.assert_array_equal(run[...], RUN[..., :7])
        assert run.tr == 0.8
        np.testing.assert_array_equal(run.series((1, 2, 3)), RUN[1, 2, 3, :7])
    for wrong in ({"tr": 2.0}, {"space": np.diag([9.0, 2, 3, 1])}):
        with pytest.raises(InvalidInputError):
            fs.append(RUN[..., 7], url, **wrong)
    with pytest.raises(InvalidInputError, match="do not fit"):
        fs.append(RUN[:3, ..., 7], url)
    with pytest.raises(InvalidInputError, match="volumes are"):
        fs.append(RUN[0, 0], url)
    with fs.NeuroVec.create(url, tmp_path / "final.h5", access="time") as final:
        np.testing.assert_array_equal(final[...], RUN[..., :7])
        assert final.tr == 0.8
        assert final.access == "time"
    assert fs.verify(url).ok


def test_the_first_volumes_need_a_grid(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="space="):
        fs.append(RUN[..., 0], tmp_path / "run.zarr")
    assert list(tmp_path.iterdir()) == []
    assert fs.append(RUN[..., :2], tmp_path / "run.zarr", space=SPACE) == 2
    with fs.open(tmp_path / "run.zarr") as run:
        assert run.tr == SPACE.tr


ACQUIRE = """
import itertools, sys
import numpy as np
import fmristore as fs
for number in itertools.count():
    volume = np.full((6, 5, 4), number, np.int16)
    print(fs.append(volume, sys.argv[1], space=np.eye(4), tr=0.8), flush=True)
"""


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("kept", [1, 3])
def test_acknowledged_volumes_are_there_after_a_kill(tmp_path: Path, name: str, kept: int) -> None:
    url = tmp_path / name
    command = [sys.executable, "-c", ACQUIRE, str(url)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in itertools.islice(child.stdout, kept):
            acknowledged = int(line)
        child.kill()  # while the next volume is being written
    assert acknowledged == kept
    with fs.open(url) as run:
        found = run.shape[3]
        assert found >= acknowledged
        for number in range(found):
            assert (run[..., number] == number).all()
    assert fs.append(np.full((6, 5, 4), found, np.int16), url) == found + 1
    assert fs.verify(url).ok


def test_volumes_are_appended_on_object_storage(s3: S3Server) -> None:
    url = s3.url("scan.zarr")
    for start in (0, 4):
        count = fs.append(
            RUN[..., start : start + 4], url, space=AFFINE, tr=0.8, storage_options=s3.options
        )
    assert count == 8
    with fs.open(url, storage_options=s3.options) as run:
        np.testing.assert_array_equal(run[...], RUN[..., :8])
