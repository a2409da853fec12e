"""Whole datasets as stores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fmristore as fs
from fmristore.bids.dataset import read_table
from fmristore.cli import app
from fmristore.model.space import HeaderWarning
from fmristore_stores.errors import (
    AlreadyExistsError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
)
from tests.bids.trees import GRID, make_dataset
from tests.conftest import S3Server
from tests.images import make_values, nibabel, snapshot, write_nifti

RAW = "sub-01/func/sub-01_task-rest_bold"
PREP = "derivatives/fmriprep/sub-01/func/sub-01_task-rest_space-MNI_desc"


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A dataset, its conversion, and the report of that."""
    folder = tmp_path_factory.mktemp("bids")
    source = make_dataset(folder / "source")
    before = snapshot(source)
    report = fs.convert_bids(source, folder / "new", derivatives=True)
    assert snapshot(source) == before
    return source, folder / "new", report


class TestConversion:
    def test_images_become_stores_with_their_names_and_values(self, converted: Any) -> None:
        source, new, report = converted
        assert report.ok
        assert len(report) == 6
        for stem in (RAW, f"{PREP}-preproc_bold", f"{PREP}-brain_mask"):
            with fs.open(new / f"{stem}.ome.zarr") as stored:
                image = nibabel.load(source / f"{stem}.nii.gz")
                assert np.array_equal(np.asarray(stored), np.asarray(image.dataobj))
                assert np.allclose(stored.affine, image.affine)

    def test_sidecars_are_inherited_and_the_nearest_holds(self, converted: Any) -> None:
        _, new, _ = converted
        with fs.open(new / f"{RAW}.ome.zarr") as stored:
            assert stored.tr == 1.5
            assert stored.metadata["TaskName"] == "rest"
            assert stored.metadata["EchoTime"] == 1.03

    def test_an_inherited_repetition_time_comes_before_the_header(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        (source / "task-rest_bold.json").write_text('{"RepetitionTime": 2.5}')
        with pytest.warns(HeaderWarning, match="2.5 s, which is used"):
            fs.convert_bids(source, tmp_path / "new").check()
        with fs.open(tmp_path / f"new/{RAW}.ome.zarr") as stored:
            assert stored.tr == 2.5

    def test_events_and_confounds_are_tables_of_the_store(self, converted: Any) -> None:
        _, new, _ = converted
        events = {"onset": [0.5, 2.0], "duration": [1, None], "trial_type": ["go", "stop"]}
        with fs.open(new / f"{RAW}.ome.zarr") as stored:
            assert stored.metadata["events"] == events
            assert "confounds" not in stored.metadata
        with fs.open(new / f"{PREP}-preproc_bold.ome.zarr") as stored:
            assert stored.metadata["events"] == events
            assert stored.metadata["confounds"] == {
                "trans_x": [0.25 * t for t in range(6)],
                "rot_x": [None] * 6,
                "code": [f"0{t}" for t in range(6)],
            }
        with fs.open(new / f"{PREP}-brain_mask.ome.zarr") as stored:
            assert "events" not in stored.metadata

    def test_text_of_the_dataset_comes_along_and_the_rest_does_not(self, converted: Any) -> None:
        source, new, _ = converted
        for name in ("README", "participants.tsv", "task-rest_bold.json", f"{RAW}.json"):
            assert (new / name).read_bytes() == (source / name).read_bytes()
        assert not list(new.rglob("*T1w*"))
        assert not list(new.rglob("*.nii.gz"))

    def test_names_in_texts_and_the_description_follow(self, converted: Any) -> None:
        _, new, _ = converted
        scans = (new / "sub-01/sub-01_scans.tsv").read_text()
        assert "func/sub-01_task-rest_bold.ome.zarr\t" in scans
        made = json.loads((new / "dataset_description.json").read_text())["GeneratedBy"]
        assert made[-1]["Name"] == "fmristore"

    def test_without_derivatives_and_as_hdf5(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        report = fs.convert_bids(source, tmp_path / "new", to="h5", access="volume")
        assert [one.name for one in report] == [f"{RAW}.h5"]
        assert not (tmp_path / "new" / "derivatives").exists()

    @pytest.mark.parametrize("rest", ["copy", "link"])
    def test_other_files(self, tmp_path: Path, rest: Any) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        fs.convert_bids(source, tmp_path / "new", rest=rest)
        name = "sub-01/anat/sub-01_T1w.nii.gz"
        place = tmp_path / "new" / name
        assert place.is_symlink() is (rest == "link")
        assert place.read_bytes() == (source / name).read_bytes()

    def test_a_copy_follows_a_file_that_keeps_its_length(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        name = "sub-01/anat/sub-01_T1w.nii"
        (source / name).write_bytes(b"one")
        (source / "sub-01/anat/sub-01_T2w.nii").write_bytes(b"stays")
        fs.convert_bids(source, tmp_path / "new", rest="copy")
        kept = (tmp_path / "new/sub-01/anat/sub-01_T2w.nii").stat()  # reading changes st_atime
        (source / name).write_bytes(b"two")
        assert fs.convert_bids(source, tmp_path / "new", rest="copy", resume=True).ok
        assert (tmp_path / "new" / name).read_bytes() == b"two"
        now = (tmp_path / "new/sub-01/anat/sub-01_T2w.nii").stat()
        assert (now.st_ino, now.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)

    def test_a_store_is_copied_whole_or_not_at_all(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        store, copy = source / "sub-01/func/x.zarr", tmp_path / "new/sub-01/func/x.zarr"
        (store / "a").mkdir(parents=True)
        (store / "zarr.json").write_text("1")
        (store / "a/0").write_text("old")
        (store / "in").symlink_to("a/0")
        assert fs.convert_bids(source, tmp_path / "new", rest="copy").ok
        found = {p.relative_to(copy).as_posix() for p in copy.rglob("*")}
        assert found == {"zarr.json", "a", "a/0", "in"}
        assert (copy / "in").is_symlink()
        (store / "a/0").rename(store / "a/1")
        (store / "zarr.json").write_text("2")
        assert fs.convert_bids(source, tmp_path / "new", rest="copy", resume=True).ok
        assert [p.name for p in (copy / "a").iterdir()] == ["1"]
        os.mkfifo(store / "a/2")
        (store / "zarr.json").write_text("3")
        report = fs.convert_bids(source, tmp_path / "new", rest="copy", resume=True)
        assert "named pipe" in str(report["files of sub-01/func"].error)
        (store / "a/2").unlink()
        (tmp_path / "secret").write_text("not of the store")
        for link in (tmp_path / "secret", "../..", "../../../../secret"):
            (store / "a/2").symlink_to(link)
            report = fs.convert_bids(source, tmp_path / "new", rest="copy", resume=True)
            assert "a/2 is a symbolic link" in str(report["files of sub-01/func"].error)
            (store / "a/2").unlink()
        assert (copy / "zarr.json").read_text() == "2"
        assert not list(copy.parent.glob(".*.partial"))

    def test_columns_of_confounds_can_be_chosen(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source", subjects=1) / "derivatives" / "fmriprep"
        fs.convert_bids(source, tmp_path / "new", confounds=["trans_*"])
        url = next((tmp_path / "new").rglob("*preproc_bold.ome.zarr"))
        with fs.open(url) as stored:
            assert list(stored.metadata["confounds"]) == ["trans_x"]


class TestFailures:
    def test_a_run_that_fails_stops_no_other_one(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source")
        damaged = source / f"{RAW}.nii.gz"
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:60])
        report = fs.convert_bids(source, tmp_path / "new")
        assert [one.name for one in report.failed] == [f"{RAW}.ome.zarr"]
        assert str(damaged) in str(report.failed[0].error)
        assert (tmp_path / "new/sub-02/func/sub-02_task-rest_bold.ome.zarr").exists()
        damaged.write_bytes(whole)
        again = fs.convert_bids(source, tmp_path / "new", resume=True)
        assert sorted(one.state for one in again) == ["done", "unchanged"]

    def test_a_damaged_sidecar_fails_its_run(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source")
        (source / f"{RAW}.json").write_text("[1]")
        report = fs.convert_bids(source, tmp_path / "new")
        assert [one.name for one in report.failed] == [f"{RAW}.ome.zarr"]
        assert "holds no JSON object" in str(report.failed[0].error)

    def test_named_pipes_of_a_dataset_are_not_waited_for(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source")
        os.mkfifo(source / "sub-01/sub-01_sessions.tsv")
        (source / f"{RAW}.json").unlink()
        os.mkfifo(source / f"{RAW}.json")
        report = fs.convert_bids(source, tmp_path / "new")
        names = [f"{RAW}.ome.zarr", "files of sub-01", "files of sub-01/func"]
        assert [one.name for one in report.failed] == names
        assert all("named pipe" in str(one.error) for one in report.failed)

    def test_nothing_is_written_into_the_source(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        for place in (source, source / "derivatives" / "new"):
            with pytest.raises(InvalidInputError, match="stays as it is"):
                fs.convert_bids(source, place)

    def test_what_is_there_is_not_replaced(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        new = tmp_path / "new"
        (new / "sub-01/func").mkdir(parents=True)
        (new / "README").write_text("mine")
        (new / f"{RAW}.h5").write_bytes(b"mine")
        for resume in (False, True):
            report = fs.convert_bids(source, new, to="h5", resume=resume)
            assert (new / f"{RAW}.h5").read_bytes() == b"mine"
            assert "AlreadyExistsError" in str(report[f"{RAW}.h5"].error)
            if not resume:
                assert (new / "README").read_text() == "mine"
                assert "AlreadyExistsError" in str(report["files of the dataset"].error)

    def test_arguments(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        new = tmp_path / "new"
        with pytest.raises(NotFoundError, match="no such folder"):
            fs.convert_bids(tmp_path / "nothing", new)
        with pytest.raises(NotFoundError, match="no image of BIDS"):
            fs.convert_bids(source, new, suffixes=["pet"])
        with pytest.raises(InvalidInputError, match="'nii'"):
            fs.convert_bids(source, new, to="nii")  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="'move'"):
            fs.convert_bids(source, new, rest="move")  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="local folder only"):
            fs.convert_bids(source, "memory://new", rest="link")
        assert not new.exists()


class TestResume:
    def test_a_second_call_asks_and_a_resumed_one_goes_on(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source")
        new = tmp_path / "new"
        fs.convert_bids(source, new)
        with pytest.raises(AlreadyExistsError, match="resume=True"):
            fs.convert_bids(source, new)
        before = snapshot(new)
        report = fs.convert_bids(source, new, resume=True)
        assert [one.state for one in report] == ["unchanged"] * 2
        after = snapshot(new)
        assert {k: v for k, v in after.items() if "journal" not in k} == {
            k: v for k, v in before.items() if "journal" not in k
        }
        write_nifti(source / f"{RAW}.nii.gz", make_values((*GRID, 6), seed=77))
        (source / "sub-02/func/sub-02_task-rest_events.tsv").write_text("onset\tduration\n1\t1\n")
        report = fs.convert_bids(source, new, resume=True)
        assert [one.state for one in report] == ["done"] * 2
        with fs.open(new / "sub-02/func/sub-02_task-rest_bold.ome.zarr") as stored:
            assert stored.metadata["events"] == {"onset": [1], "duration": [1]}
        report = fs.convert_bids(source, new, overwrite=True)
        assert [one.state for one in report] == ["done"] * 2

    def test_on_object_storage(self, tmp_path: Path, s3: S3Server) -> None:
        source = make_dataset(tmp_path / "source", subjects=1)
        for state in ("done", "unchanged"):
            report = fs.convert_bids(source, s3.url("new"), resume=True, storage_options=s3.options)
            assert [one.state for one in report] == [state]
        with fs.open(s3.url(f"new/{RAW}.ome.zarr"), storage_options=s3.options) as stored:
            assert stored.metadata["TaskName"] == "rest"


class TestTables:
    def test_types_of_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "a.tsv"
        path.write_text('a\tb\tc\td\te\n1\t1.5\t01\tx"\tn/a\nn/a\t-2e3\t02\ty\tnan\n')
        assert read_table(str(path)) == {
            "a": [1, None],
            "b": [1.5, -2000.0],
            "c": ["01", "02"],
            "d": ['x"', "y"],
            "e": [None, None],
        }

    @pytest.mark.parametrize("text", ["a\ta\n1\t2\n", "a\tb\n1\n"])
    def test_damaged_ones(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "a.tsv"
        path.write_text(text)
        with pytest.raises(MetadataError):
            read_table(str(path))


class TestCommand:
    def test_it_reports_and_fails_where_a_run_does(self, tmp_path: Path) -> None:
        source = make_dataset(tmp_path / "source")
        (source / f"{RAW}.nii.gz").write_bytes(b"")
        arguments = ["convert-bids", str(source), str(tmp_path / "new")]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 1
        assert "2 runs: 1 done, 0 unchanged, 1 failed" in done.stdout
        assert f"failed {RAW}.ome.zarr: " in done.stdout
        (source / f"{RAW}.nii.gz").unlink()
        done = CliRunner().invoke(app, [*arguments, "--resume", "--json"])
        assert done.exit_code == 0
        assert [one["state"] for one in json.loads(done.stdout)["runs"]] == ["unchanged"]


def test_a_tree_of_real_images(tmp_path: Path, shared_data: Path) -> None:
    """Runs, labels and maps of real subjects, arranged as BIDS has them."""
    real = shared_data / "data" / "real"
    source = tmp_path / "source"
    for path in sorted((real / "bold/haxby2001_25mm").glob("*run-0[1-3]*")):
        run = path.name.removeprefix("sub-1_").removesuffix("_bold.nii.gz")
        _link(path, source / f"sub-1/func/sub-1_task-objects_{run}_bold.nii.gz")
    labels = real / "bold/haxby2001_25mm/mask-hoc.nii.gz"
    _link(labels, source / "derivatives/labels/sub-1/func/sub-1_desc-hoc_dseg.nii.gz")
    for number in range(1, 4):
        name = f"sub-{number:02}_task-emotion_contrast-look_statmap.nii.gz"
        path = real / f"maps/wager2008/con_{number:02}.nii.gz"
        _link(path, source / f"derivatives/glm/sub-{number:02}/func/{name}")
    report = fs.convert_bids(source, tmp_path / "new", derivatives=True).check()
    assert len(report) == 7
    collection = fs.Collection(tmp_path / "new")
    for member in collection:
        [path] = [p for p in source.rglob("*.nii.gz") if p.name.split(".")[0] in member.path]
        with member.open() as stored:
            expected = np.asarray(nibabel.load(path).dataobj)
            assert np.allclose(np.asarray(stored), expected, rtol=1e-6, equal_nan=True)
    with collection.sel(suffix="statmap").across(tmp_path / "group.h5") as group:
        assert group.shape[3] == 3
        maps = [np.asarray(m.open()) for m in collection.sel(suffix="statmap")]
        assert np.array_equal(np.asarray(group), np.stack(maps, axis=3), equal_nan=True)


def _link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(path)
