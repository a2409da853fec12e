"""References to Zarr stores: chunks in objects of their own and in shards, local and on S3."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import fmristore as fs
from fmristore.references.virtual import virtualize
from fmristore_stores.errors import ChangedError, NotFoundError, UnknownFormatError
from fmristore_stores.opening import open_store
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec
from fmristore_stores.zarr.store import ZarrStore
from tests.conftest import S3Server
from tests.every_format import RUN, WRITERS
from tests.references.test_virtualize import as_zarr

WHOLE = ChunkLayout(chunks=(3, 8, 10))
SHARDS = ChunkLayout(chunks=(3, 8, 10), shards=(6, 8, 20))
TURNED = ChunkLayout(chunks=(3, 8, 10), shards=(6, 8, 20), order=(2, 0, 1))
VALUES = np.random.default_rng(0).integers(-900, 900, (11, 9, 17)).astype(np.int16)
BLOSC = CodecSpec.of("blosc", cname="lz4", clevel=5, shuffle="bitshuffle", typesize=2, blocksize=0)


@pytest.mark.parametrize("codecs", [(), (BLOSC,)], ids=["plain", "blosc"])
@pytest.mark.parametrize("layout", [WHOLE, SHARDS, TURNED], ids=["chunks", "shards", "turned"])
def test_arrays(tmp_path: Path, layout: ChunkLayout, codecs: tuple[CodecSpec, ...]) -> None:
    spec = ArraySpec(
        shape=VALUES.shape, dtype=VALUES.dtype, dims=("a", "b", "c"), layout=layout, codecs=codecs
    )
    big = np.tile(VALUES, (1, 5, 5))
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        group = store.root.create_group("g", {"note": "x"})
        group.create_array("small", spec).write(None, VALUES)
        large = ArraySpec(
            shape=big.shape, dtype=big.dtype, dims=spec.dims, layout=layout, codecs=codecs
        )
        array = group.create_array("large", large)
        array.write((slice(0, 11, 1), slice(0, 40, 1), slice(0, 85, 1)), big[:, :40])
        store.consolidate()
    report = virtualize(tmp_path / "a.zarr")
    assert report.referred == ("g/large",)
    assert report.inlined == ("g/small",)
    big[:, 40:] = 0  # never written
    axes = layout.axes
    found: Any = as_zarr(str(tmp_path / "a.zarr.refs.json"))
    assert found["g"].attrs["note"] == "x"
    np.testing.assert_array_equal(found["g/large"][...], big.transpose(axes))
    np.testing.assert_array_equal(found["g/small"][...], VALUES.transpose(axes))
    assert found["g/large"].attrs["_ARRAY_DIMENSIONS"] == [spec.dims[axis] for axis in axes]
    with open_store(tmp_path / "a.zarr.refs.json") as store:
        ours = store.root.array("g/large")
        np.testing.assert_array_equal(ours.read(), big.transpose(axes))


def test_axes_without_names_stay_where_they_are(tmp_path: Path) -> None:
    cube = np.random.default_rng(2).integers(-900, 900, (64, 64, 64)).astype(np.int16)
    layout = ChunkLayout(chunks=(16, 16, 16), order=(2, 0, 1))
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        for name, values in {
            "small": cube[:20, :20, :20],
            "large": np.tile(cube, (4, 4, 4)),
        }.items():
            spec = ArraySpec(shape=values.shape, dtype=values.dtype, layout=layout, codecs=(BLOSC,))
            store.root.create_array(name, spec).write(None, values)
        store.consolidate()
    report = virtualize(tmp_path / "a.zarr", allow=["array"])
    assert report.inlined == ("small",)
    (loss,) = report.losses
    assert (loss.kind, loss.path) == ("array", "large")
    assert "axes without names" in loss.reason
    found: Any = as_zarr(str(tmp_path / "a.zarr.refs.json"))
    np.testing.assert_array_equal(found["small"][...], cube[:20, :20, :20])


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / "a.zarr").close()
    virtualize(tmp_path / "a.zarr")
    assert fs.verify(tmp_path / "a.zarr.refs.json").ok
    with fs.open(tmp_path / "a.zarr") as wanted, fs.open(tmp_path / "a.zarr.refs.json") as found:
        assert type(found) is type(wanted)
        if hasattr(wanted, "to_numpy"):
            np.testing.assert_array_equal(found.to_numpy(), wanted.to_numpy())


@pytest.mark.parametrize("access", ["time", "volume", "both"])
def test_many_with_files_of_other_kinds(tmp_path: Path, access: Any) -> None:
    values = np.random.default_rng(1).integers(0, 900, (16, 15, 14, 20)).astype(np.int16)
    for name in ("a.ome.zarr", "b.h5"):
        fs.NeuroVec.create(
            values, tmp_path / name, space=np.diag([2.0, 2, 3, 1]), access=access
        ).close()
    url = tmp_path / "all.refs.json"
    report = virtualize([tmp_path / "a.ome.zarr", tmp_path / "b.h5"], url, relative=True)
    assert report.groups == ("a.ome", "b")
    assert "a.ome/0" in report.referred
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("a.ome.zarr", "b.h5", "all.refs.json"):
        shutil.move(tmp_path / name, moved / name)
    for group in ("a.ome", "b"):
        with fs.open(moved / "all.refs.json", group=group) as bold:
            np.testing.assert_array_equal(bold[3, 4, 5], values[3, 4, 5])
            np.testing.assert_array_equal(bold[..., 7], values[..., 7])


def _run(url: Any, **options: Any) -> Any:
    return fs.NeuroVec.create(np.tile(RUN, (3, 3, 3, 3)), url, space=np.eye(4), **options)


def test_a_store_that_changed_is_refused(tmp_path: Path) -> None:
    url, references = tmp_path / "a.zarr", tmp_path / "a.zarr.refs.json"
    _run(url).close()
    virtualize(url)
    with fs.open(references) as bold:
        before = bold[3, 4, 5]
        _run(url, overwrite=True).close()
        with pytest.raises(ChangedError, match=r"zarr\.json.*make them again"):
            bold[4, 4, 5]
    with fs.open(references) as bold, pytest.raises(ChangedError, match="make them again"):
        bold[3, 4, 5]
    virtualize(url, overwrite=True)
    with fs.open(references) as bold:
        np.testing.assert_array_equal(bold[3, 4, 5], before)
        shutil.rmtree(url / "0" / "c")
        with pytest.raises(NotFoundError):
            bold.to_numpy()


def test_on_object_storage(s3: S3Server, tmp_path: Path) -> None:
    url = s3.url("virtual.ome.zarr")
    _run(url, storage_options=s3.options).close()
    target = virtualize(url, storage_options=s3.options).target
    assert target == f"{url}.refs.json"
    wanted = np.tile(RUN, (3, 3, 3, 3))
    with fs.open(target, storage_options=s3.options) as bold:
        np.testing.assert_array_equal(bold[3, 4, 5], wanted[3, 4, 5])
    local = virtualize(url, tmp_path / "a.refs.json", storage_options=s3.options).target
    with fs.open(local, storage_options=s3.options, targets=[url]) as bold:
        np.testing.assert_array_equal(bold[..., 5], wanted[..., 5])
    array: Any = as_zarr(target, s3.options)["0"]
    assert array.size == wanted.size
    files = fsspec.filesystem("s3", **s3.options)
    files.pipe_file(f"{url}/zarr.json", files.cat_file(f"{url}/zarr.json") + b"\n")
    with (
        fs.open(target, storage_options=s3.options) as bold,
        pytest.raises(ChangedError, match="make them again"),
    ):
        bold[3, 4, 5]


def test_what_is_not_virtualized(tmp_path: Path) -> None:
    _run(tmp_path / "a.zarr").close()
    target = virtualize(tmp_path / "a.zarr").target
    with pytest.raises(UnknownFormatError, match="what it refers to"):
        virtualize(target, tmp_path / "again.refs.json")
    inner = next(path for path in (tmp_path / "a.zarr/0").rglob("*") if path.name.isdigit())
    if os.name != "nt":
        shutil.move(inner, tmp_path / "elsewhere")
        inner.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(fs.errors.MetadataError, match="leads out of the store"):
            virtualize(tmp_path / "a.zarr", overwrite=True)
