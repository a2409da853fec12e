"""Reference files: made from HDF5 files of any software, read by us and by others."""

from __future__ import annotations

import base64
import contextlib
import copy
import gc
import http.server
import json
import os
import pickle
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import h5py
import kerchunk.hdf
import numpy as np
import pytest
import xarray as xr
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from typer.testing import CliRunner

import fmristore as fs
from fmristore.references.virtual import VirtualReport, virtualize
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    CodecError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    LayoutNotSupportedError,
    LossyError,
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray, Capability, Store
from fmristore_stores.spec import STRING, is_string
from fmristore_stores.testing import Mode, StoreTests
from tests.conftest import S3Server
from tests.servers.proxy import Proxy, run_proxy

SHAPE = (24, 22, 20, 64)
RNG = np.random.default_rng(7)
DATA = RNG.integers(0, 900, SHAPE).astype(np.int16)
SPACE = fs.NeuroSpace(
    spatial_shape=SHAPE[:3], affine=np.diag([2.0, 2.0, 3.0, 1.0]), time_points=SHAPE[3], tr=1.5
)


def make(url: Any, **options: Any) -> None:
    fs.NeuroVec.create(DATA, url, space=SPACE, **options).close()


def as_zarr(url: str, options: dict[str, Any] | None = None, **overrides: Any) -> zarr.Group:
    """A reference file as zarr-python sees it, through fsspec and nothing of ours."""
    remote: dict[str, Any] = {}
    if options:
        remote = {"remote_options": options | {"asynchronous": True}, "target_options": options}
    made = fsspec.filesystem("reference", fo=url, asynchronous=bool(options), **remote, **overrides)
    if not made.async_impl:
        made = AsyncFileSystemWrapper(made, asynchronous=True)
    elif not made.asynchronous:
        made = fsspec.filesystem("reference", fo=url, asynchronous=True, **remote, **overrides)
    store = zarr.storage.FsspecStore(made, read_only=True)
    return zarr.open_group(store, mode="r", zarr_format=2)


# Conformance -------------------------------------------------------------------------------------


class TestConformance(StoreTests):
    """Written through HDF5, read through references."""

    def open_store(self, folder: Path, mode: Mode) -> Store:
        path = str(folder / "store.h5")
        if mode != "r":
            return HDF5Store(path, mode=mode)
        virtualize(path, overwrite=True)
        return open_store(f"{path}.refs.json")

    def peek(self, folder: Path, path: str) -> AnyArray | None:
        url = str(folder / "store.h5")
        virtualize(url, overwrite=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            array = as_zarr(f"{url}.refs.json")[path]
            assert isinstance(array, zarr.Array)
            values = np.asarray(array[...])
        return values.astype(STRING) if values.dtype.kind in "OTU" else values

    def test_capabilities(self, tmp_path: Path) -> None:
        """Reading loses what only HDF5 has, and gains Fortran order."""
        with self.open_store(tmp_path, "w") as store:
            make_foreign_array(store)
        with self.open_store(tmp_path, "r") as store:
            assert store.capabilities == Capability.CHUNK_REFS | Capability.CHUNK_ORDER
            assert store.root.array("a").capabilities == store.capabilities


def make_foreign_array(store: Store) -> None:
    from fmristore_stores.testing.strategies import make_spec

    store.root.create_array("a", make_spec(codec="dual")).write(None, 1)


# Files of others ---------------------------------------------------------------------------------


def foreign(path: Path) -> dict[str, AnyArray]:
    """An HDF5 file with many ways to store numbers, all of which can be referred to."""
    import hdf5plugin

    numbers = RNG.integers(0, 99, (40, 50, 30)).astype("i2")
    reals = RNG.normal(size=(30, 40, 50))
    made = {
        "gzip": {"data": numbers, "chunks": (16, 16, 16), "compression": "gzip"},
        "shuffle": {
            "data": numbers,
            "chunks": (7, 50, 30),
            "compression": "gzip",
            "shuffle": True,
            "fletcher32": True,
        },
        "fletcher": {"data": numbers, "chunks": (16, 16, 16), "fletcher32": True},
        "plain": {"data": reals.astype("f4"), "chunks": (10, 40, 20)},
        "blosc": {"data": reals, "chunks": (10, 40, 20), **hdf5plugin.Blosc(cname="lz4")},
        "zstd": {"data": numbers, "chunks": (10, 50, 20), **hdf5plugin.Zstd(), "shuffle": True},
        "big": {"data": numbers.astype(">i2"), "chunks": (16, 50, 16), "compression": "gzip"},
        "big contiguous": {"data": reals.astype(">f8")},
        "contiguous": {"data": numbers},
        "half": {"data": reals.astype("f2"), "chunks": (10, 40, 20)},
        "complex": {"data": (reals + 1j).astype("c8"), "chunks": (10, 40, 20)},
        "bool": {"data": numbers > 50, "chunks": (20, 50, 30), "compression": "gzip"},
        "group/deep/small": {"data": np.arange(5, dtype="u4")},
        "group/scalar": {"data": 3.5},
        "empty": {"data": np.empty((0, 4), "i4")},
        "group/lzf": {"data": numbers[:5], "chunks": True, "compression": "lzf"},
    }
    with h5py.File(path, "w", libver="earliest") as file:
        for name, options in made.items():
            file.create_dataset(name, **options)
        file["text"] = np.array(["größer", "", "a"], object)
        file["fixed"] = np.array([b"ab", b"cde"], "S4")
        file["gzip"].attrs["unit"] = "mm"
        file.attrs["title"] = "x"
        partly = file.create_dataset("partly", (64, 64, 64), "f4", chunks=(16, 64, 64), fillvalue=7)
        partly[16:48] = 2
        file["alias"] = h5py.SoftLink("/gzip")
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((6,))
        node = h5py.h5d.create(file.id, b"compact", h5py.h5t.STD_I16LE, space, plan)
        node.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(6, dtype="i2"))
    return read_all(path)


def read_all(path: Path) -> dict[str, AnyArray]:
    found = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            text = h5py.check_string_dtype(node.dtype)
            found[name] = np.asarray(node.asstr()[...] if text else node[...])

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def test_files_of_others_read_by_us(tmp_path: Path) -> None:
    expected = foreign(tmp_path / "a.h5")
    report = virtualize(tmp_path / "a.h5")
    assert set(report.referred) | set(report.inlined) == set(expected)
    assert {"gzip", "shuffle", "blosc", "zstd", "big", "contiguous", "half"} <= {*report.referred}
    assert {"compact", "text", "fixed", "group/scalar", "group/lzf"} <= {*report.inlined}
    assert not report.losses
    with open_store(report.target) as store, open_store(tmp_path / "a.h5") as original:
        for name, values in expected.items():
            array = store.root.array(name)
            spec, was = array.spec, original.root.array(name).spec
            assert (spec.shape, spec.dtype, spec.fill) == (was.shape, was.dtype, was.fill)
            wanted = values.astype(spec.dtype)
            np.testing.assert_array_equal(array.read(), wanted)
            np.testing.assert_array_equal(ChunkReader(array).read(), wanted)
            if name in ("gzip", "big"):
                part = (slice(3, 30, 4), slice(0, 50), slice(29, 30))
                np.testing.assert_array_equal(array.read(part), wanted[part])
        assert store.root.array("gzip").read_attributes() == {"unit": "mm"}
        links = [{"name": "alias", "source": ".", "path": "gzip"}]
        assert store.root.read_attributes() == {"title": "x", "_LINKS": links}
        assert Capability.CHUNK_REFS in store.root.array("shuffle").capabilities
        assert Capability.CHUNK_REFS not in store.root.array("big").capabilities


@pytest.mark.filterwarnings("ignore")
def test_files_of_others_read_by_zarr_and_xarray(tmp_path: Path) -> None:
    expected = foreign(tmp_path / "a.h5")
    target = virtualize(tmp_path / "a.h5").target
    group = as_zarr(target)
    for name, values in expected.items():
        array = group[name]
        assert isinstance(array, zarr.Array)
        found = np.asarray(array[...])
        np.testing.assert_array_equal(found.astype(values.dtype), values)
    tree = xr.open_dataset(target, engine="kerchunk", mask_and_scale=False)
    for name in ("gzip", "shuffle", "contiguous", "partly", "big"):
        np.testing.assert_array_equal(tree[name].values, expected[name])


def references_of_kerchunk(path: Path) -> Any:
    """References as kerchunk finds them.

    It waits for zarr's thread while it holds h5py's lock. Objects of h5py in cycles must not be
    collected by that thread meanwhile: freeing them takes the lock, and both would wait for ever.
    """
    gc.collect()
    gc.disable()
    try:
        return kerchunk.hdf.SingleHdf5ToZarr(str(path), inline_threshold=0).translate()
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore")
def test_the_same_as_kerchunk(tmp_path: Path) -> None:
    """Where kerchunk can express an array, the same bytes are referred to."""
    expected = foreign(tmp_path / "a.h5")
    target = virtualize(tmp_path / "a.h5").target
    theirs = references_of_kerchunk(tmp_path / "a.h5")
    ours = json.loads(Path(target).read_bytes())
    same = 0
    for key, value in theirs["refs"].items():
        if isinstance(value, list) and isinstance(ours["refs"].get(key), list):
            assert ours["refs"][key][1:] == value[1:]
            same += 1
    assert same > 50
    (tmp_path / "theirs.json").write_text(json.dumps(theirs))
    with open_store(tmp_path / "theirs.json") as store:
        for name in ("gzip", "plain", "zstd", "blosc", "big", "contiguous", "partly", "text"):
            array = store.root.array(name)
            wanted = expected[name].astype(array.spec.dtype)
            np.testing.assert_array_equal(ChunkReader(array).read(), wanted)


def test_large_arrays_in_one_piece_are_cut(tmp_path: Path) -> None:
    values = np.arange(60 * 64 * 64 * 24, dtype="i4").reshape(60, 64, 64, 24)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = values
    report = virtualize(tmp_path / "a.h5")
    with open_store(report.target) as store:
        array = store.root.array("a")
        assert array.spec.chunk_nbytes <= 4 * 2**20
        assert array.spec.layout.chunks[1:] == values.shape[1:]
        np.testing.assert_array_equal(ChunkReader(array).read(), values)
        part = (slice(59, 60), slice(3, 4), slice(0, 64), slice(5, 6))
        np.testing.assert_array_equal(array.read(part), values[part])


def test_chunks_that_lack_a_filter(tmp_path: Path) -> None:
    """Zarr has nothing for the filter mask of HDF5: such chunks are re-encoded."""
    values = RNG.integers(0, 2**15, (64, 1024)).astype("i2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset(
            "a", data=values, chunks=(16, 1024), compression="gzip", shuffle=True
        )
        file.flush()
        made.id.write_direct_chunk((16, 0), values[16:32].tobytes(), 0b11)
    report = virtualize(tmp_path / "a.h5")
    assert report.chunks == 3
    with open_store(report.target) as store:
        np.testing.assert_array_equal(ChunkReader(store.root.array("a")).read(), values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = as_zarr(report.target)["a"]
        assert isinstance(array, zarr.Array)
        np.testing.assert_array_equal(np.asarray(array[...]), values)


def test_what_cannot_be_expressed_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("lzf", data=np.zeros((1000, 2000)), chunks=True, compression="lzf")
        file["pairs"] = np.zeros(3, [("a", "i4"), ("b", "f4")])
        file["fine"] = np.arange(3)
    with pytest.raises(LossyError, match="hdf5:32000"):
        virtualize(tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.h5"]
    report = virtualize(tmp_path / "a.h5", allow=["array"])
    assert sorted(loss.path for loss in report.losses) == ["lzf", "pairs"]
    with open_store(report.target) as store:
        assert list(store.root.children()) == ["fine"]
    with pytest.raises(InvalidInputError, match="nonsense"):
        virtualize(tmp_path / "a.h5", allow=["nonsense"])


# Our formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["portable", "dual", "none"])
@pytest.mark.parametrize("access", ["time", "volume"])
def test_images(tmp_path: Path, codec: str, access: str) -> None:
    make(tmp_path / "a.h5", codec=codec, access=access, slope=0.5, inter=1.0)
    report = virtualize(tmp_path / "a.h5")
    assert report.target == str(tmp_path / "a.h5.refs.json")
    with fs.open(report.target) as image:
        assert isinstance(image, fs.NeuroVec)
        np.testing.assert_array_equal(np.asarray(image), DATA * np.float32(0.5) + 1)
        np.testing.assert_array_equal(image[3, 4, 5], DATA[3, 4, 5] * np.float32(0.5) + 1)
        assert image.compute_digest() == image.digest
        again = pickle.loads(pickle.dumps(image))
        np.testing.assert_array_equal(again[..., 7], image[..., 7])
        again.close()
        copied = copy.deepcopy(image)
        copied.close()
    data = xr.open_dataset(report.target, engine="kerchunk")
    found = data["0"].transpose("x", "y", "z", "t").values
    np.testing.assert_allclose(found, DATA * 0.5 + 1)
    np.testing.assert_array_equal(data["t"], np.arange(SHAPE[3]) * 1.5)


def test_stores_that_are_only_read(tmp_path: Path) -> None:
    make(tmp_path / "a.h5")
    target = virtualize(tmp_path / "a.h5").target
    with pytest.raises(ReadOnlyError):
        open_store(target, "r+")
    before = Path(target).read_bytes()
    from fmristore_stores.edit import edit_store
    from fmristore_stores.publishing.publish import create_store

    with pytest.raises(ReadOnlyError), edit_store(target):
        pass
    with pytest.raises(ReadOnlyError), create_store(target, kind="reference", overwrite=True):
        pass
    assert Path(target).read_bytes() == before


def test_where_it_goes(tmp_path: Path) -> None:
    make(tmp_path / "a.h5")
    target = virtualize(tmp_path / "a.h5").target
    with pytest.raises(AlreadyExistsError):
        virtualize(tmp_path / "a.h5")
    assert virtualize(tmp_path / "a.h5", overwrite=True).target == target
    with pytest.raises(NotFoundError):
        virtualize(tmp_path / "b.h5")
    assert virtualize(tmp_path / "a.h5", tmp_path / "missing" / "a.json").referred


def test_the_command(tmp_path: Path) -> None:
    import typer

    from fmristore.cli.virtualize import virtualize as command

    make(tmp_path / "a.h5")
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, [str(tmp_path / "a.h5"), "--json", "--relative"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["referred"] == ["0"]
    done = CliRunner().invoke(
        app, [str(tmp_path / "a.h5"), str(tmp_path / "b.json"), "--allow", "array"]
    )
    assert "small arrays" in done.stdout
    with fs.open(tmp_path / "b.json") as image:
        np.testing.assert_array_equal(image[1, 2, 3], DATA[1, 2, 3])


# Pairs that move, and files that change ----------------------------------------------------------


def read(url: Any, **options: Any) -> Any:
    with fs.open(url, **options) as image:
        return image[3, 4, 5]


def test_a_pair_can_be_moved(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    make(tmp_path / "one" / "a.h5")
    target = Path(virtualize(tmp_path / "one" / "a.h5", relative=True).target)
    np.testing.assert_array_equal(read(target), DATA[3, 4, 5])
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "one")
    np.testing.assert_array_equal(read(tmp_path / "two" / target.name), DATA[3, 4, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moved = f"file://{tmp_path}/two/a.h5"
        group = as_zarr(str(tmp_path / "two" / target.name), template_overrides={"u": moved})
        array = group["x"]
        assert isinstance(array, zarr.Array)
        assert np.asarray(array[...]).shape == DATA.shape[:1]
        assert np.asarray(group["0"][...]).sum() == DATA.sum()  # type: ignore[index]
    (tmp_path / "two" / "a.h5").write_bytes(b"x" * (tmp_path / "two" / "a.h5").stat().st_size)
    with pytest.raises(ChangedError, match="virtualize"):
        read(tmp_path / "two" / target.name)


@pytest.mark.parametrize("relative", [False, True])
def test_a_local_file_that_changed(tmp_path: Path, relative: bool) -> None:
    make(tmp_path / "a.h5")
    target = virtualize(tmp_path / "a.h5", relative=relative).target
    with fs.open(target) as image:
        np.testing.assert_array_equal(image[3, 4, 5], DATA[3, 4, 5])
        status = (tmp_path / "a.h5").stat()
        os.utime(tmp_path / "a.h5", ns=(0, status.st_mtime_ns + 10**9))
        with pytest.raises(ChangedError):
            np.asarray(image)
    with pytest.raises(ChangedError):
        read(target)
    os.utime(tmp_path / "a.h5", ns=(0, status.st_mtime_ns))
    np.testing.assert_array_equal(read(target), DATA[3, 4, 5])
    (tmp_path / "a.h5").unlink()
    with pytest.raises(NotFoundError):
        read(target)


# On object storage -------------------------------------------------------------------------------


@pytest.fixture
def proxied(s3_endpoint: str, s3: S3Server) -> Iterator[tuple[Proxy, S3Server]]:
    """A bucket through a proxy that counts."""
    with run_proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        yield proxy, S3Server(s3.bucket, s3.options | {"endpoint_url": proxy.url})


def test_one_request_to_open_and_one_for_a_voxel(proxied: tuple[Proxy, S3Server]) -> None:
    proxy, server = proxied
    make(server.url("a.h5"), storage_options=server.options)
    report = fs.virtualize(server.url("a.h5"), storage_options=server.options)
    assert report.target == server.url("a.h5.refs.json")
    proxy.clear()
    with fs.open(report.target, storage_options=server.options) as image:
        assert len(proxy.log) == 1
        np.testing.assert_array_equal(image[3, 4, 5], DATA[3, 4, 5])
        assert len(proxy.log) == 2
        assert image.affine.shape == (4, 4)
        assert image.tr == 1.5
        np.testing.assert_array_equal(np.asarray(image), DATA)
        again = pickle.loads(pickle.dumps(image))
        again.close()
    plan = sum("a.h5.refs" in request.path for request in proxy.log)
    assert plan <= 2


@pytest.mark.filterwarnings("ignore")
def test_others_read_it_on_object_storage(s3: S3Server) -> None:
    make(s3.url("a.h5"), storage_options=s3.options)
    target = fs.virtualize(s3.url("a.h5"), storage_options=s3.options).target
    array = as_zarr(target, s3.options)["0"]
    assert isinstance(array, zarr.Array)
    assert np.asarray(array[...]).sum() == DATA.sum()
    options = {
        "remote_protocol": "s3",
        "remote_options": dict(s3.options),  # which are changed there
        "target_options": dict(s3.options),
    }
    data = xr.open_dataset(target, engine="kerchunk", storage_options=options)
    np.testing.assert_array_equal(data["0"].transpose("x", "y", "z", "t").values, DATA)


@pytest.mark.parametrize("relative", [False, True])
def test_a_remote_file_that_changed(proxied: tuple[Proxy, S3Server], relative: bool) -> None:
    """The server is reported which version is meant, in the very request for the bytes."""
    proxy, server = proxied
    options = server.options
    make(server.url("a.h5"), storage_options=options)
    target = fs.virtualize(server.url("a.h5"), storage_options=options, relative=relative).target
    with fs.open(target, storage_options=options) as image:
        image[3, 4, 5]
        fs.NeuroVec.create(
            DATA + 1, server.url("a.h5"), space=SPACE, overwrite=True, storage_options=options
        ).close()
        proxy.clear()
        with pytest.raises(ChangedError):
            np.asarray(image)
        assert {request.method for request in proxy.log} == {"GET"}
    with fs.open(target, storage_options=options) as image, pytest.raises(ChangedError):
        image[3, 4, 5]


def test_a_pair_moved_to_a_bucket(tmp_path: Path, s3: S3Server) -> None:
    make(tmp_path / "a.h5")
    virtualize(tmp_path / "a.h5", relative=True)
    bucket = fsspec.filesystem("s3", **s3.options)
    for name in ("a.h5", "a.h5.refs.json"):
        bucket.put_file(str(tmp_path / name), f"{s3.bucket}/far/{name}")
    target = s3.url("far/a.h5.refs.json")
    np.testing.assert_array_equal(read(target, storage_options=s3.options), DATA[3, 4, 5])
    data = (tmp_path / "a.h5").read_bytes()
    bucket.pipe_file(f"{s3.bucket}/far/a.h5", data[:100] + b"!" + data[101:])
    with pytest.raises(ChangedError):
        read(target, storage_options=s3.options)


def test_a_local_file_about_a_remote_one(tmp_path: Path, s3: S3Server) -> None:
    make(s3.url("a.h5"), storage_options=s3.options)
    out = tmp_path / "a.json"
    fs.virtualize(s3.url("a.h5"), out, storage_options=s3.options)
    with pytest.raises(LayoutNotSupportedError, match="targets"):
        read(out, storage_options=s3.options)
    allowed: dict[str, Any] = {
        "targets": [f"s3://{s3.bucket}"],
        "storage_options": s3.options,
    }
    np.testing.assert_array_equal(read(out, **allowed), DATA[3, 4, 5])
    with pytest.raises(LayoutNotSupportedError):
        read(out, targets=[f"s3://{s3.bucket}/a"], storage_options=s3.options)
    with fs.open(out, **allowed) as image:
        again = pickle.loads(pickle.dumps(image))
        np.testing.assert_array_equal(again[3, 4, 5], DATA[3, 4, 5])
        again.close()


# Files that are not trusted ----------------------------------------------------------------------

ARRAY = {
    "zarr_format": 2,
    "shape": [4],
    "chunks": [2],
    "dtype": "|u1",
    "fill_value": None,
    "order": "C",
    "filters": None,
    "compressor": None,
}


def document(**changes: Any) -> dict[str, Any]:
    """A small reference file as other software makes it."""
    array = ARRAY | changes.pop("array", {})
    refs: dict[str, Any] = {
        ".zgroup": '{"zarr_format": 2}',
        "a/.zarray": json.dumps(array),
        "a/.zattrs": "{}",
        "a/0": ["{{u}}", 0, 2],
        "a/1": ["{{u}}", 2, 2],
    }
    refs |= changes.pop("refs", {})
    return {"version": 1, "templates": {"u": "data.bin"}, "refs": refs} | changes


def opened(folder: Path, found: Any, name: str = "a.json") -> AnyArray:
    (folder / name).write_text(found if isinstance(found, str) else json.dumps(found))
    (folder / "data.bin").write_bytes(b"abcd")
    with open_store(folder / name) as store:
        return ChunkReader(store.root.array("a")).read()


def test_references_of_other_software(tmp_path: Path) -> None:
    assert bytes(opened(tmp_path, document())) == b"abcd"
    flat = document(templates={})["refs"] | {"a/0": ["data.bin", 1, 2], "a/1": "xy"}
    assert bytes(opened(tmp_path, flat)) == b"bcxy"
    whole = {"shape": [4], "chunks": [4]}
    assert bytes(opened(tmp_path, document(array=whole, refs={"a/0": ["data.bin"]}))) == b"abcd"
    code = "base64:" + base64.b64encode(b"\xff\x00").decode()
    assert bytes(opened(tmp_path, document(refs={"a/1": code}))) == b"ab\xff\x00"
    slashes = {"shape": [2, 2], "chunks": [1, 2], "dimension_separator": "/"}
    keys = {"a/0/0": ["data.bin", 0, 2], "a/1/0": ["data.bin", 2, 2]}
    assert opened(tmp_path, document(array=slashes, refs=keys)).tolist() == [[97, 98], [99, 100]]
    fortran = {"shape": [2, 2], "chunks": [2, 2], "order": "F"}
    keys = {"a/0.0": ["data.bin", 0, 4]}
    assert opened(tmp_path, document(array=fortran, refs=keys)).tolist() == [[97, 99], [98, 100]]
    assert bytes(opened(tmp_path, document(refs={"a/00": ["data.bin", 0, 1]}))) == b"abcd"
    absent = document(array={"fill_value": 9})
    del absent["refs"]["a/1"]
    assert opened(tmp_path, absent).tolist() == [97, 98, 9, 9]


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "../data.bin",
        "sub/../../data.bin",
        "s3://elsewhere/data.bin",
        "http://127.0.0.1:9/data.bin",
        "simplecache::file:///etc/passwd",
        "link.bin",
    ],
)
def test_targets_elsewhere_are_not_followed(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "data.bin").write_bytes(b"secret")
    (folder / "link.bin").symlink_to(tmp_path / "data.bin")
    with pytest.raises(LayoutNotSupportedError, match="not followed"):
        opened(folder, document(templates={"u": target}))


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "file:///etc/passwd", "s3://other/a.bin", "../../other/a.bin"]
)
def test_remote_files_reach_no_local_ones(s3: S3Server, target: str) -> None:
    bucket = fsspec.filesystem("s3", **s3.options)
    bucket.pipe_file(f"{s3.bucket}/a.json", json.dumps(document(templates={"u": target})).encode())
    with (
        open_store(s3.url("a.json"), storage_options=s3.options) as store,
        pytest.raises(LayoutNotSupportedError, match="not followed"),
    ):
        ChunkReader(store.root.array("a")).read()


@pytest.mark.parametrize("name", [".ssh/id_rsa", ".netrc", "sub/.hidden/x.bin"])
def test_hidden_files_beside_it_are_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"wxyz")
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document(templates={"u": name})))
    with (
        open_store(path) as store,
        pytest.raises(LayoutNotSupportedError, match="not followed"),
    ):
        store.root.array("a").read()
    with open_store(path, targets=[str(tmp_path / name)]) as store:
        assert bytes(store.root.array("a").read()) == b"wxyz"


class _Redirecting(http.server.BaseHTTPRequestHandler):
    """A reference file, its target, and redirects to another port or to the target."""

    other = ""
    document = b""
    asked: ClassVar[list[str]] = []

    def log_message(self, *args: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer({"/a.json": self.document, "/data.bin": b"wxyz"}.get(self.path, b""))

    def _answer(self, body: bytes) -> None:
        self.asked.append(f"{self.server.server_port}{self.path}")  # type: ignore[attr-defined]
        place = {"/away.bin": f"{self.other}/data.bin", "/here.bin": "/data.bin"}.get(self.path)
        self.send_response(302 if place else 200)
        if place:
            self.send_header("Location", place)
        whole = len(self.document) if self.path == "/a.json" else 4
        self.send_header("Content-Length", str(0 if place else whole))
        self.end_headers()
        self.wfile.write(body)


def test_redirects_to_other_hosts_are_not_followed() -> None:
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(2):
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Redirecting)
            stack.enter_context(server)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            ports.append(server.server_port)
        base = f"http://127.0.0.1:{ports[0]}"
        _Redirecting.other = f"http://127.0.0.1:{ports[1]}"
        for target, targets in (("away", ()), ("here", ()), ("away", (f"{base}/away.bin",))):
            _Redirecting.asked.clear()
            found = document(templates={"u": f"{target}.bin"})
            _Redirecting.document = json.dumps(found).encode()
            with open_store(f"{base}/a.json", targets=targets) as store:
                if target == "here" or targets:
                    assert bytes(store.root.array("a").read()) == b"wxyz"
                    continue
                with pytest.raises(LayoutNotSupportedError, match="redirects"):
                    store.root.array("a").read()
                assert not any(asked.startswith(str(ports[1])) for asked in _Redirecting.asked)


def test_targets_that_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "data.bin").write_bytes(b"wxyz")
    (tmp_path / "near").mkdir()
    path = tmp_path / "near" / "a.json"
    path.write_text(json.dumps(document(templates={"u": str(tmp_path / "far" / "data.bin")})))
    with open_store(path, targets=[str(tmp_path / "far")]) as store:
        assert bytes(store.root.array("a").read()) == b"wxyz"
    with (
        open_store(path, targets=[str(tmp_path / "fa")]) as store,
        pytest.raises(LayoutNotSupportedError),
    ):
        store.root.array("a").read()


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ("", UnknownFormatError),
        ("[]", UnknownFormatError),
        ("{", UnknownFormatError),
        ("{}", UnknownFormatError),
        ("[" * 100_000, UnknownFormatError),
        ('{"a":' * 100_000, UnknownFormatError),
        ({"version": 1, "refs": []}, UnknownFormatError),
        ({"version": 2, "refs": {".zgroup": "{}"}}, UnsupportedVersionError),
        ({"version": [], "refs": {".zgroup": "{}"}}, FmristoreError),
        ({"version": 1, "refs": {"zarr.json": "{}"}}, UnknownFormatError),
        (document(gen=[{"key": "a/{{i}}", "url": "x"}]), MetadataError),
        (document(templates={"u": "{{ ''.__class__ }}"}), MetadataError),
        (document(templates=[]), MetadataError),
        (document(refs={"a/0": ["{{ v }}", 0, 2]}), MetadataError),
        (document(refs={"a/0": ["{{ u.__class__ }}", 0, 2]}), MetadataError),
        (document(refs={"a/0": ["{{u}}", -1, 2]}), CorruptDataError),
        (document(refs={"a/0": ["{{u}}", 0, 2**70]}), CorruptDataError),
        (document(refs={"a/0": ["{{u}}", 0, 2**40]}), CorruptDataError),
        (document(refs={"a/0": ["{{u}}", 2**61, 2]}), CorruptDataError),
        (document(refs={"a/0": ["{{u}}", 3, 2]}), CorruptDataError),
        (document(refs={"a/0": [None, 0, 2]}), CorruptDataError),
        (document(refs={"a/0": 7}), CorruptDataError),
        (document(refs={"a/0": "base64:!"}), CorruptDataError),
        (document(refs={"a/.zattrs": "[]"}), MetadataError),
        (document(refs={"a/.zattrs": "[" * 100_000}), MetadataError),
        (document(refs={"a/.zattrs": f'{{"x": {"[" * 101 + "]" * 101}}}'}), MetadataError),
        (document(refs={"a/.zarray": ["data.bin", 0, 4]}), MetadataError),
        (document(array={"shape": [2**62], "chunks": [2**62]}), FmristoreError),
        (document(array={"shape": [2**80]}), MetadataError),
        (document(array={"shape": [-1]}), MetadataError),
        (document(array={"shape": [True]}), MetadataError),
        (document(array={"shape": [1] * 99, "chunks": [1] * 99}), MetadataError),
        (document(array={"chunks": [2, 2]}), MetadataError),
        (document(array={"dtype": "|O"}), MetadataError),
        (document(array={"dtype": "|V4"}), MetadataError),
        (document(array={"dtype": [["a", "i4"]]}), MetadataError),
        (document(array={"dtype": "nonsense"}), MetadataError),
        (document(array={"zarr_format": 3}), MetadataError),
        (document(array={"fill_value": "x"}), MetadataError),
        (document(array={"dimension_separator": "-"}), MetadataError),
        (document(array={"filters": 3}), MetadataError),
        (document(array={"filters": [{"id": "pickle"}]}), CodecError),
        (document(array={"filters": [{"id": ["zlib"]}]}), MetadataError),
        (document(array={"compressor": {"id": "lz4"}}), CodecError),
        (document(array={"compressor": {"id": "zlib", "level": 1}}), CorruptDataError),
        (document(array={"compressor": {"id": "shuffle", "elementsize": 0}}), CodecError),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, found: Any, error: type[FmristoreError]) -> None:
    with pytest.raises(error):
        opened(tmp_path, found)


def test_text_that_lies_about_its_length(tmp_path: Path) -> None:
    texts = {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "shape": [2]}
    for data in (b"\xff\xff\xff\x7f", b"\x02\0\0\0\xff\xff\xff\x7fa\0\0\0\0", b"", b"\x02\0\0\0"):
        code = "base64:" + base64.b64encode(data).decode()
        with pytest.raises(CorruptDataError):
            opened(tmp_path, document(array=texts, refs={"a/0": code}))


def test_names_that_no_store_has(tmp_path: Path) -> None:
    refs = {f"{name}/.zarray": json.dumps(ARRAY) for name in ("..", "x/../y", "__a", "a\\b")}
    (tmp_path / "a.json").write_text(json.dumps(document(refs=refs)))
    with open_store(tmp_path / "a.json") as store:
        assert list(store.root.children()) == ["a"]


# Facts about what is referred to ----------------------------------------------------------------


def test_references_may_be_edited_and_facts_are_checked(tmp_path: Path) -> None:
    values = np.arange(100 * 100, dtype="i4").reshape(100, 100)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=(1, 10))
    target = Path(virtualize(tmp_path / "a.h5").target)
    found = json.loads(target.read_bytes())
    assert set(found) == {"version", "fmristore", "templates", "refs"}
    found["refs"]["a/0.0"] = found["refs"]["a/0.1"]
    target.write_text(json.dumps(found))
    with open_store(target) as store:
        array = store.root.array("a")
        read = ChunkReader(array).read()
        assert array.stored().tolist() == list(range(1000))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read[0, :10], values[0, 10:20])
    np.testing.assert_array_equal(read[:, 10:], values[:, 10:])
    facts = found["fmristore"]["targets"]
    for wrong in ({"u": facts["u"] | {"size": "x"}}, {"u": {"length": 3}}, {"v": facts["u"]}, 7):
        found["fmristore"]["targets"] = wrong
        target.write_text(json.dumps(found))
        with pytest.raises(MetadataError, match="facts"):
            open_store(target)
    found["fmristore"] = {"version": 1, "target": facts["u"] | {"size": 1}}
    target.write_text(json.dumps(found))
    with pytest.raises(ChangedError), open_store(target) as store:
        store.root.array("a").read()
    found["fmristore"] = {"version": 99}
    target.write_text(json.dumps(found))
    with pytest.raises(UnsupportedVersionError, match="newer"):
        open_store(target)


def test_reports_are_plain(tmp_path: Path) -> None:
    make(tmp_path / "a.h5")
    report = virtualize(tmp_path / "a.h5")
    assert isinstance(report, VirtualReport)
    assert json.loads(json.dumps(report.to_json()))["chunks"] == report.chunks
    assert report.nbytes == Path(report.target).stat().st_size
    with open_store(report.target) as store:
        assert not is_string(store.root.array("0").spec.dtype)
