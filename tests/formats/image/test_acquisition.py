"""Volumes that are appended to a run while it is acquired, and closing it into its final layout."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import (
    ChangedError,
    FmristoreError,
    InvalidInputError,
    LayoutNotSupportedError,
    StorageError,
)
from fmristore_stores.zarr.files import LocalFiles
from tests.conftest import S3Server
from tests.every_format import AFFINE, RUN, SPACE
from tests.images import write_nifti


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven volumes that grows."""
    url = tmp_path_factory.mktemp("growing") / "run.zarr"
    assert fs.append(RUN[..., 0], url, space=AFFINE, tr=0.8) == 1
    swapped: Any = fs.append
    assert swapped(url, RUN[..., 1:7]) == 7  # the URL may come first
    return url


@pytest.fixture
def growing(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def test_readers_see_the_volumes_that_there_are(growing: Path) -> None:
    with fs.NeuroVec.open(growing) as before:
        assert fs.append(RUN[..., 7], growing, tr=0.8, space=AFFINE) == 8
        np.testing.assert_array_equal(before[...], RUN[..., :7])
    with fs.NeuroVec.open(growing) as run:
        assert (run.growing, run.tr, run.access, run.digest) == (True, 0.8, "volume", None)
        np.testing.assert_array_equal(run[...], RUN[..., :8])
        np.testing.assert_array_equal(run.series((1, 2, 3)), RUN[1, 2, 3, :8])
        assert run.nifti_header.space.shape == RUN[..., :8].shape
        run.to_nifti(growing.with_name("run.nii"))
        assert run.append(RUN[..., 8:10]) == 10
        np.testing.assert_array_equal(run[...], RUN[..., :10])
        assert run.nifti_header.space.shape == RUN[..., :10].shape
    assert fs.verify(growing, deep=True).ok


def test_what_does_not_fit_is_refused_and_changes_nothing(growing: Path) -> None:
    image = growing.with_name("volume.nii")
    write_nifti(image, RUN[..., 7])
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("mm from", lambda: fs.append(image, growing)),  # on the grid that its header says
        ("mm from", lambda: fs.append(RUN[..., 7], growing, space=np.diag([9.0, 2, 3, 1]))),
        ("TR of 0.8", lambda: fs.append(RUN[..., 7], growing, tr=2.0)),
        ("do not fit", lambda: fs.append(RUN[:3, ..., 7], growing)),
        ("volumes are", lambda: fs.append(RUN[0, 0], growing)),
        ("cannot hold", lambda: fs.append(RUN[..., 7] + 0.5, growing)),
        ("cannot hold", lambda: fs.append(RUN[..., 7].astype("i4") + 70000, growing)),
        ("first volumes", lambda: fs.append(RUN[..., 7], growing, codec="none")),
    ]
    for text, call in calls:
        with pytest.raises(InvalidInputError, match=text):
            call()
    assert fs.append(RUN[..., 7].astype("f8"), growing) == 8  # whole numbers that int16 holds
    with fs.NeuroVec.open(growing) as run:
        np.testing.assert_array_equal(run[...], RUN[..., :8])


def test_the_first_volumes_need_a_grid_and_a_zarr_store(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="space="):
        fs.append(RUN[..., 0], tmp_path / "run.zarr")
    with pytest.raises(LayoutNotSupportedError, match="finish"):
        fs.append(RUN[..., 0], tmp_path / "run.h5", space=AFFINE)
    assert list(tmp_path.iterdir()) == []
    assert fs.append(RUN[..., :2], tmp_path / "run.zarr", space=SPACE) == 2
    with fs.NeuroVec.open(tmp_path / "run.zarr") as run:
        assert run.tr == SPACE.tr
    fs.transcode(tmp_path / "run.zarr", tmp_path / "copy.h5")
    with pytest.raises(LayoutNotSupportedError, match="HDF5"):
        fs.append(RUN[..., 0], tmp_path / "copy.h5")


@pytest.mark.parametrize("name", ["", "final.h5", "final.zarr"])
def test_a_finished_run_has_the_final_layout_and_equal_values(growing: Path, name: str) -> None:
    url = growing.with_name(name) if name else None
    with fs.NeuroVec.open(growing) as run, run.finish(url, access="time") as final:
        assert (final.growing, final.access, final.tr) == (False, "time", 0.8)
        np.testing.assert_array_equal(final[...], RUN[..., :7])
        assert final.digest == final.compute_digest()
        with pytest.raises(InvalidInputError, match="complete"):
            final.append(RUN[..., 7])
        with pytest.raises(InvalidInputError, match="complete"):
            final.finish()
    assert fs.verify(url or growing, deep=True).ok
    if name:
        assert fs.append(RUN[..., 7], growing) == 8  # the growing run is still there
    else:
        with pytest.raises(InvalidInputError, match="complete"):
            fs.append(RUN[..., 7], growing)


def test_a_finish_that_fails_leaves_the_growing_run(
    growing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmristore.formats.image import growing as module

    monkeypatch.setattr(module, "digest_image", lambda *_, **__: "sha256-planes:other")
    with fs.NeuroVec.open(growing) as run:
        with pytest.raises(StorageError, match="not those of the growing run"):
            run.finish()
        assert run.append(RUN[..., 7]) == 8


def test_the_shape_is_written_after_the_volumes(
    growing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    put = LocalFiles.put

    def noted(self: LocalFiles, key: str, parts: Any) -> None:
        written.append(key)
        put(self, key, parts)

    monkeypatch.setattr(LocalFiles, "put", noted)
    fs.append(RUN[..., 7:9], growing)
    assert set(written[:2]) == {"0/c/7/0/0/0", "0/c/8/0/0/0"}
    assert written[2:] == ["zarr.json", "0/zarr.json", "zarr.json"]


def test_an_append_costs_the_same_however_many_volumes_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tmp_path / "run.zarr"
    fs.append(RUN[..., :1], url, space=AFFINE, tr=0.8)
    fs.append(RUN[..., 1], url)  # what is as new as the root is looked at again
    looked = 0
    status = LocalFiles.status

    def counted(self: LocalFiles, key: str) -> Any:
        nonlocal looked
        looked += 1
        return status(self, key)

    monkeypatch.setattr(LocalFiles, "status", counted)
    costs = []
    for more in (RUN[..., 2], RUN[..., 3:18], RUN[..., 18]):
        looked = 0
        fs.append(more, url)
        costs.append(looked)
    assert costs[0] == costs[2]


def test_appending_processes_take_turns(growing: Path) -> None:
    failures: list[BaseException] = []

    def some(value: int) -> None:
        try:
            for _ in range(3):
                fs.append(np.full(RUN.shape[:3], value, RUN.dtype), growing)
        except FmristoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=some, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with fs.NeuroVec.open(growing) as run:
        assert sorted(run[0, 0, 0, 7:].tolist()) == [1, 1, 1, 2, 2, 2]
        assert (run[..., 7:] == run[0, 0, 0, 7:]).all()


def _just_before_the_append(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen between the look at a run and the append to it, once."""
    from fmristore.formats.image import growing as named

    module: Any = named
    edit = module.edit_store

    def late(url: str, **options: Any) -> Any:
        monkeypatch.setattr(module, "edit_store", edit)
        act()
        return edit(url, **options)

    monkeypatch.setattr(module, "edit_store", late)


def test_a_run_that_was_finished_meanwhile_takes_no_more(
    growing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish() -> None:
        with fs.NeuroVec.open(growing) as run:
            run.finish(access="volume").close()

    _just_before_the_append(monkeypatch, finish)
    with pytest.raises(ChangedError, match="finished"):
        fs.append(RUN[..., 7], growing)


def test_a_run_that_lies_elsewhere_takes_no_volumes_of_the_one_before(
    growing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace() -> None:
        shutil.rmtree(growing)
        fs.append(RUN[..., 0], growing, space=np.diag([5.0, 5, 5, 1]), tr=0.8)

    _just_before_the_append(monkeypatch, replace)
    with pytest.raises(ChangedError, match="another run"):
        fs.append(RUN[..., 7], growing)
    with fs.NeuroVec.open(growing) as run:
        assert run.shape[3] == 1


ACQUIRE = """
import itertools, sys
import numpy as np
import fmristore as fs
for number in itertools.count():
    volume = np.full((6, 5, 4), number, np.int16)
    print(fs.append(volume, sys.argv[1], space=np.eye(4), tr=0.8), flush=True)
"""


@pytest.mark.once
@pytest.mark.parametrize("kept", [1, 2, 4])
def test_acknowledged_volumes_are_there_after_a_kill(tmp_path: Path, kept: int) -> None:
    url = tmp_path / "run.zarr"
    command = [sys.executable, "-c", ACQUIRE, str(url)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in itertools.islice(child.stdout, kept):
            acknowledged = int(line)
        for _ in range(random.Random(kept).randrange(20000)):  # somewhere in the next volume
            pass
        child.kill()
    assert acknowledged == kept
    with fs.NeuroVec.open(url) as run:
        found = run.shape[3]
        assert found >= acknowledged
        np.testing.assert_array_equal(run[1, 2, 3], np.arange(found))
        assert (run[...] == np.arange(found)).all()
    assert fs.append(np.full((6, 5, 4), found, np.int16), url) == found + 1
    assert fs.verify(url).ok
    with fs.NeuroVec.open(url) as run, run.finish() as final:
        assert (final[...] == np.arange(found + 1)).all()


def test_a_run_grows_and_is_finished_on_object_storage(s3: S3Server) -> None:
    url = s3.url("scan.zarr")
    for start in (0, 4):
        count = fs.append(
            RUN[..., start : start + 4], url, space=AFFINE, tr=0.8, storage_options=s3.options
        )
    assert count == 8
    with fs.open(url, storage_options=s3.options) as run:
        np.testing.assert_array_equal(run[...], RUN[..., :8])
        with cast("fs.NeuroVec", run.finish()) as final:
            assert final.access == "time"
            np.testing.assert_array_equal(final[...], RUN[..., :8])
