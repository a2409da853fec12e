"""Virtual stores as versions of an Icechunk repository and as objects of VirtualiZarr."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore_stores.errors import (
    AlreadyExistsError,
    DependencyError,
    InvalidInputError,
    LayoutNotSupportedError,
    NotFoundError,
)
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec
from fmristore_stores.zarr.store import ZarrStore
from tests.conftest import S3Server
from tests.references.test_many_sources import RUNS, make_nifti, make_runs
from tests.references.test_virtualize import foreign

THERE = all(importlib.util.find_spec(name) for name in ("icechunk", "virtualizarr"))
needed = pytest.mark.skipif(not THERE, reason="icechunk needs Python 3.12 and fmristore[icechunk]")


@pytest.mark.skipif(THERE, reason="icechunk is installed")
def test_without_icechunk_the_cure_is_named(tmp_path: Path) -> None:
    first, _ = make_runs(tmp_path)
    for to, url in (("icechunk", tmp_path / "a.icechunk"), ("virtualizarr", None)):
        with pytest.raises(DependencyError, match=r"fmristore\[icechunk\]"):
            fs.virtualize(first, url, to=to)  # type: ignore[call-overload]
    with pytest.raises(DependencyError, match=r"3\.12"):
        fs.open_icechunk(tmp_path / "a.icechunk")
    assert not (tmp_path / "a.icechunk").exists()


def values(store: Any, name: str) -> Any:
    group: Any = zarr.open_group(store, mode="r")
    return group[f"{name}/0"][...].transpose(3, 2, 1, 0)


@needed
def test_versions_are_made_named_and_read(tmp_path: Path) -> None:
    first, second = make_runs(tmp_path)
    third = make_nifti(tmp_path / "sub-03_task-rest_bold.nii")
    url = tmp_path / "study.icechunk"
    one = fs.virtualize([first, second], url, to="icechunk", tag="one", message="two runs")
    assert one.groups == ("sub-01_task-rest_bold", "sub-02_task-rest_bold")
    two = fs.virtualize([third], url, to="icechunk")
    assert one.version
    assert two.version not in ("", one.version)
    newest = fs.open_icechunk(url)
    for i, name in enumerate(("sub-01_task-rest_bold", "sub-02_task-rest_bold")):
        np.testing.assert_array_equal(values(newest, name), RUNS[i])
    np.testing.assert_array_equal(values(newest, "sub-03_task-rest_bold"), RUNS[2])
    for version in ("one", one.version):
        group = zarr.open_group(fs.open_icechunk(url, version), mode="r")
        assert sorted(group.keys()) == list(one.groups)
    with xr.open_datatree(newest, engine="zarr", consolidated=False) as tree:
        assert len(tree.children) == 3
        found = tree["sub-03_task-rest_bold"]["0"].transpose("x", "y", "z", "t")
        np.testing.assert_array_equal(found, RUNS[2])
    with pytest.raises(AlreadyExistsError, match="group"):
        fs.virtualize([first], url, to="icechunk")
    with pytest.raises(AlreadyExistsError, match="'one'"):
        fs.virtualize({"new": first}, url, to="icechunk", tag="one")
    assert "new" not in zarr.open_group(fs.open_icechunk(url), mode="r")
    fs.virtualize({"sub-01_task-rest_bold": second}, url, to="icechunk", overwrite=True)
    np.testing.assert_array_equal(values(fs.open_icechunk(url), "sub-01_task-rest_bold"), RUNS[1])
    np.testing.assert_array_equal(
        values(fs.open_icechunk(url, "one"), "sub-01_task-rest_bold"), RUNS[0]
    )


@needed
def test_what_is_not_there_or_something_else(tmp_path: Path) -> None:
    first, _ = make_runs(tmp_path)
    with pytest.raises(NotFoundError, match="no repository"):
        fs.open_icechunk(tmp_path / "nothing")
    with pytest.raises(AlreadyExistsError, match="something else"):
        fs.virtualize(first, first, to="icechunk", overwrite=True)
    fs.virtualize(first, tmp_path / "a", to="icechunk", tag="x")
    with pytest.raises(NotFoundError, match=r"'y'.*\(x\)"):
        fs.open_icechunk(tmp_path / "a", "y")
    with pytest.raises(LayoutNotSupportedError, match="local or on S3"):
        fs.virtualize(first, "memory://a", to="icechunk")
    with pytest.raises(InvalidInputError, match="profile"):
        fs.virtualize(first, "s3://b/a", to="icechunk", storage_options={"profile": "x"})


@needed
def test_places_elsewhere_are_not_followed_and_changed_files_are_refused(tmp_path: Path) -> None:
    first = make_nifti(tmp_path / "a.nii")
    (tmp_path / "far").mkdir()
    url = tmp_path / "far" / "a.icechunk"
    fs.virtualize(first, url, to="icechunk")
    for targets in ((), (tmp_path / "far",)):
        with pytest.raises(LayoutNotSupportedError, match="targets="):
            fs.open_icechunk(url, targets=targets)
    store = fs.open_icechunk(url, targets=[tmp_path])
    array: Any = zarr.open_group(store, mode="r")["0"]
    np.testing.assert_array_equal(array[...].transpose(3, 2, 1, 0), RUNS[2])
    status = first.stat()
    os.utime(first, ns=(0, status.st_mtime_ns + 10**10))
    store = fs.open_icechunk(url, targets=[tmp_path])
    array = zarr.open_group(store, mode="r")["0"]
    with pytest.raises(Exception, match="changed"):
        array[...]


@needed
@pytest.mark.parametrize("shards", [None, (8, 12, 10)], ids=["chunks", "shards"])
def test_zarr_stores(tmp_path: Path, shards: tuple[int, ...] | None) -> None:
    wanted = np.random.default_rng(0).integers(0, 900, (16, 24, 20)).astype(np.int16)
    layout = ChunkLayout(chunks=(4, 6, 5), shards=shards, order=(2, 0, 1))
    dims = ("a", "b", "c")
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        for name, codecs in (("plain", ()), ("packed", (CodecSpec.of("zstd", level=3),))):
            spec = ArraySpec(
                shape=wanted.shape, dtype=wanted.dtype, dims=dims, layout=layout, codecs=codecs
            )
            store.root.create_array(name, spec).write(None, wanted)
        small = ArraySpec(shape=(3,), dtype=wanted.dtype, layout=ChunkLayout(chunks=(3,)))
        store.root.create_array("small", small).write(None, [1, 2, 3])
        store.consolidate()
    fs.virtualize({"it": tmp_path / "a.zarr"}, tmp_path / "a.icechunk", to="icechunk")
    group: Any = zarr.open_group(fs.open_icechunk(tmp_path / "a.icechunk"), mode="r")["it"]
    for name in ("plain", "packed"):
        np.testing.assert_array_equal(group[name][...], wanted.transpose(2, 0, 1))
    assert group["small"][...].tolist() == [1, 2, 3]
    manifests = fs.virtualize(tmp_path / "a.zarr", to="virtualizarr")
    other: Any = zarr.open_group(manifests, mode="r", zarr_format=3)
    np.testing.assert_array_equal(other["packed"][...], wanted.transpose(2, 0, 1))


@needed
@pytest.mark.filterwarnings("ignore")
def test_files_of_others(tmp_path: Path) -> None:
    expected = foreign(tmp_path / "a.h5")
    url = tmp_path / "a.icechunk"
    fs.virtualize({"a": tmp_path / "a.h5"}, url, to="icechunk")
    manifests = fs.virtualize({"a": tmp_path / "a.h5"}, to="virtualizarr")
    for store in (fs.open_icechunk(url), manifests):
        group: Any = zarr.open_group(store, mode="r")
        assert dict(group["a"].attrs)["title"] == "x"
        assert group["a/gzip"].attrs["unit"] == "mm"
        for name, wanted in expected.items():
            found = np.asarray(group[f"a/{name}"][...])
            np.testing.assert_array_equal(found.astype(wanted.dtype), wanted, err_msg=name)


@needed
def test_objects_of_virtualizarr(tmp_path: Path) -> None:
    first, second = make_runs(tmp_path)
    store = fs.virtualize({"sub-01/rest": first, "b": second}, to="virtualizarr")
    np.testing.assert_array_equal(values(store, "sub-01/rest"), RUNS[0])
    np.testing.assert_array_equal(values(store, "b"), RUNS[1])
    with xr.open_datatree(store, engine="zarr", consolidated=False) as tree:
        found = tree["sub-01/rest"]["0"].transpose("x", "y", "z", "t")
        np.testing.assert_array_equal(found, RUNS[0])
    lone = fs.virtualize(first, to="virtualizarr").to_virtual_dataset()
    assert lone["0"].shape == RUNS[0].T.shape
    fs.NeuroVec.create(RUNS[0], "memory://virtual/a.h5", space=np.eye(4), tr=1.0).close()
    with pytest.raises(LayoutNotSupportedError, match="local files and to S3"):
        fs.virtualize("memory://virtual/a.h5", to="virtualizarr")


@needed
def test_on_s3_and_no_secret_is_stored(s3: S3Server, tmp_path: Path) -> None:
    options = s3.options | {"secret": "very-secret-word"}
    urls = make_runs(s3.url("runs"), storage_options=options)
    url = s3.url("study.icechunk")
    made = fs.virtualize(urls, url, to="icechunk", tag="one", storage_options=options)
    store = fs.open_icechunk(url, "one", storage_options=options)
    np.testing.assert_array_equal(values(store, made.groups[1]), RUNS[1])
    manifests = fs.virtualize(urls, to="virtualizarr", storage_options=options)
    np.testing.assert_array_equal(values(manifests, made.groups[0]), RUNS[0])
    import s3fs

    bucket = s3fs.S3FileSystem(**s3.options)
    stored = bucket.find(f"{s3.bucket}/study.icechunk")
    assert stored
    for path in stored:
        data = bucket.cat_file(path)
        assert b"very-secret-word" not in data
    local = tmp_path / "local.icechunk"
    fs.virtualize(urls, local, to="icechunk", storage_options=options)
    with pytest.raises(LayoutNotSupportedError, match="targets="):
        fs.open_icechunk(local, storage_options=options)
    store = fs.open_icechunk(local, storage_options=options, targets=[f"s3://{s3.bucket}"])
    np.testing.assert_array_equal(values(store, made.groups[1]), RUNS[1])
    fs.NeuroVec.create(
        RUNS[0] + 1, urls[1], space=np.eye(4), tr=1.5, overwrite=True, storage_options=options
    ).close()
    with pytest.raises(Exception, match="changed"):
        values(fs.open_icechunk(url, storage_options=options), made.groups[1])


@needed
def test_the_command_makes_versions(tmp_path: Path) -> None:
    first, second = make_runs(tmp_path)
    url = str(tmp_path / "a.icechunk")
    arguments = ["virtualize", first, second, url, "--to", "icechunk", "--tag", "one"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "version" in done.stdout
    np.testing.assert_array_equal(
        values(fs.open_icechunk(url, "one"), "sub-02_task-rest_bold"), RUNS[1]
    )
