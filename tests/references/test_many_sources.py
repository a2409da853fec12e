"""Many files as the groups of one reference file: read by us, by zarr-python and by xarray."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore_stores.errors import (
    ChangedError,
    InvalidInputError,
    LossyError,
    NotFoundError,
    UnknownFormatError,
)
from fmristore_stores.opening import open_store
from tests.conftest import S3Server
from tests.images import nibabel

RUNS = np.random.default_rng(3).integers(0, 900, (3, 12, 10, 8, 30)).astype(np.int16)


def make_runs(folder: Any, **options: Any) -> list[str]:
    """Two runs in HDF5 files."""
    urls = [f"{folder}/sub-0{i + 1}_task-rest_bold.h5" for i in range(2)]
    for url, run in zip(urls, RUNS, strict=False):
        fs.NeuroVec.create(run, url, space=np.eye(4), tr=1.5, codec="portable", **options).close()
    return urls


def make_nifti(path: Path) -> Path:
    """The third run in a NIfTI file."""
    image = nibabel.Nifti1Image(RUNS[2], np.eye(4))
    image.header.set_zooms((1, 1, 1, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


def test_runs_are_groups_with_the_names_of_their_files(tmp_path: Path) -> None:
    urls = [*make_runs(tmp_path), str(make_nifti(tmp_path / "sub-03_task-rest_bold.nii"))]
    target = tmp_path / "all.refs.json"
    report = fs.virtualize(urls, target)
    names = [f"sub-0{i}_task-rest_bold" for i in (1, 2, 3)]
    assert report.groups == tuple(names)
    assert "3 files" in repr(report)
    assert json.loads(json.dumps(report.to_json()))["groups"] == names
    references = fsspec.filesystem("reference", fo=str(target), asynchronous=True)
    group: Any = zarr.open_group(zarr.storage.FsspecStore(references), mode="r")
    assert sorted(group.keys()) == names
    for i, name in enumerate(names):
        with fs.open(target, group=name) as run:
            np.testing.assert_array_equal(run.raw[...], RUNS[i])
            assert run.tr == 1.5
            for again in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
                np.testing.assert_array_equal(again.raw[3, 4, 5], RUNS[i, 3, 4, 5])
                again.close()
        np.testing.assert_array_equal(group[f"{name}/0"][...].transpose(3, 2, 1, 0), RUNS[i])
        found = xr.open_zarr(group.store, group=name, consolidated=True, zarr_format=2)
        np.testing.assert_array_equal(found["0"].transpose("x", "y", "z", "t"), RUNS[i])
    store: Any = zarr.storage.FsspecStore(references)
    with xr.open_datatree(store, engine="zarr") as tree:
        assert sorted(tree.children) == names
        np.testing.assert_array_equal(tree[names[1]]["0"].transpose("x", "y", "z", "t"), RUNS[1])


def test_names_are_given_or_come_from_files(tmp_path: Path) -> None:
    first, second = make_runs(tmp_path)
    target = tmp_path / "all.json"
    report = fs.virtualize({"sub-01/rest": first, "sub-02/rest": second}, target, relative=True)
    assert report.groups == ("sub-01/rest", "sub-02/rest")
    (tmp_path / "moved").mkdir()
    for path in list(tmp_path.glob("*.*")):
        path.rename(tmp_path / "moved" / path.name)
    with fs.open(tmp_path / "moved" / "all.json", group="/sub-02/rest/") as run:
        np.testing.assert_array_equal(run.raw[...], RUNS[1])
    with open_store(tmp_path / "moved" / "all.json") as store:
        assert list(store.root.group("sub-01").children()) == ["rest"]
    first = f"{tmp_path}/moved/{Path(first).name}"
    for wrong, words in (
        ([first, first], "mapping"),
        ([], "no source"),
        ({"a": first, "a/b": first}, "lie in that of"),
        ({"..": first}, "name"),
        ({"a//b": first}, "name"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            fs.virtualize(wrong, tmp_path / "new.json")
    with pytest.raises(InvalidInputError, match="url="):
        fs.virtualize([first])
    with pytest.raises(NotFoundError):
        fs.virtualize([first, tmp_path / "nothing.h5"], tmp_path / "new.json")
    for options, words in (
        ({"to": "parquet"}, "expected"),
        ({"message": "x"}, "icechunk"),
        ({"to": "icechunk", "relative": True}, "relative"),
        ({"to": "virtualizarr"}, "stores nothing"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            fs.virtualize(first, tmp_path / "new.json", **options)
    assert not (tmp_path / "new.json").exists()


def test_what_is_wrong_with_a_group_is_said(tmp_path: Path) -> None:
    first, second = make_runs(tmp_path)
    target = tmp_path / "all.json"
    fs.virtualize({"a": first, "b": second}, target)
    with pytest.raises(UnknownFormatError, match=r"'a', 'b', one of which group= names"):
        fs.open(target)
    with pytest.raises(NotFoundError, match="no such group"):
        fs.open(target, group="c")
    with pytest.raises(InvalidInputError, match="group="):
        fs.open(first, group="a")
    import h5py

    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["pairs"] = np.zeros(3, [("a", "i4"), ("b", "f4")])
    with pytest.raises(LossyError, match="/odd/pairs"):
        fs.virtualize([first, tmp_path / "odd.h5"], tmp_path / "new.json")


def test_only_the_file_that_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(make_nifti(tmp_path / "b.nii").read_bytes())
    target = tmp_path / "all.json"
    fs.virtualize([tmp_path / "a.nii", tmp_path / "b.nii"], target)
    (tmp_path / "a.nii").write_bytes((tmp_path / "a.nii").read_bytes() + b" ")
    with fs.open(target, group="b") as run:
        np.testing.assert_array_equal(run.raw[...], RUNS[2])
    with fs.open(target, group="a") as run, pytest.raises(ChangedError, match=r"a\.nii"):
        run.to_numpy()


def test_many_on_object_storage_and_by_the_command(s3: S3Server, tmp_path: Path) -> None:
    urls = make_runs(s3.url("runs"), storage_options=s3.options)
    target = s3.url("all.refs.json")
    fs.virtualize(urls, target, storage_options=s3.options)
    with fs.open(target, group="sub-02_task-rest_bold", storage_options=s3.options) as run:
        np.testing.assert_array_equal(run.raw[...], RUNS[1])
    local = make_runs(tmp_path)
    done = CliRunner().invoke(app, ["virtualize", *local, str(tmp_path / "x.json")])
    assert done.exit_code == 0, done.output
    assert "2 files" in done.stdout
    with fs.open(tmp_path / "x.json", group="sub-01_task-rest_bold") as run:
        np.testing.assert_array_equal(run.raw[...], RUNS[0])
