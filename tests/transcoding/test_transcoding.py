"""Transcoding: the same data, attributes and names in the other store."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fmristore as fs
from fmristore.model.space import NeuroSpace
from fmristore.transcoding import TranscodeReport, transcode
from fmristore.transcoding.execute import make_plan
from fmristore.transcoding.plan import LOSSES
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import (
    AlreadyExistsError,
    CodecError,
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    LossyError,
    NotFoundError,
)
from fmristore_stores.grid import grid_shape
from fmristore_stores.hdf5.store import HDF5Array
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray, Capability, Group
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout
from fmristore_stores.zarr.store import ZarrArray
from tests.images import PEAK, from_proc

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
KINDS = ["h5", "zarr"]
OTHER = {"h5": "zarr", "zarr": "h5"}


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMRISTORE_WORKERS", "3")


def contents(url: Any) -> dict[str, Any]:
    """Everything in a store by path, as plain values that compare."""
    found: dict[str, Any] = {}

    def walk(group: Group) -> None:
        found[group.path] = group.read_attributes()
        for name, child in group.children().items():
            path = f"{group.path}/{name}" if group.path else name
            if child.kind == "group":
                walk(group.group(name))
            elif child.kind == "link":
                if (
                    child.target != "0"
                ):  # R's name for the image, kept only where R reads it rightly
                    found[path] = child
            else:
                array = group.array(name)
                values = ChunkReader(array).read()
                data = values.tolist() if values.dtype == STRING else values.tobytes()
                found[path] = (array.spec.shape, str(array.spec.dtype), data)
                found[f"{path}@"] = (array.spec.dims, array.read_attributes())

    with open_store(url) as store:
        walk(store.root)
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def image(
    shape: Any = (5, 6, 7, 20), dtype: Any = "i2", seed: int = 0, **options: Any
) -> dict[str, Any]:
    """Arguments for `create` of an image with some structure."""
    rng = np.random.default_rng(seed)
    if dtype == RGB:
        data = rng.integers(0, 255, (*shape, 3)).astype("u1").view(RGB)[..., 0]
    else:
        data = (rng.normal(size=shape) * 100).astype(dtype)
    space = NeuroSpace(
        spatial_shape=shape[:3],
        affine=np.diag([2.0, 2.0, 3.0, 1.0]),
        time_points=shape[3] if len(shape) == 4 else None,
        tr=1.5 if len(shape) == 4 else None,
    )
    return {"source": data, "space": space, **options}


def create(url: Any, **arguments: Any) -> None:
    cls = fs.NeuroVec if len(arguments["source"].shape) == 4 else fs.NeuroVol
    cls.create(url=url, **arguments).close()


def values_of(url: Any) -> AnyArray:
    with fs.open(url) as opened:
        found: AnyArray = opened.read(raw=True)
        return found


# Images ------------------------------------------------------------------------------------------

IMAGES: dict[str, dict[str, Any]] = {
    f"{access} {codec}": {"access": access, "codec": codec}
    for access in ("time", "volume", "balanced")
    for codec in ("portable", "dual", "none")
} | {
    "fast": {"codec": "fast"},
    "archive": {"codec": "archive"},
    "ordered portable": {"codec": "portable", "order": "auto"},
    "canonical dual": {"codec": "dual", "order": "canonical"},
    "colour": {"dtype": RGB},
    "colour portable": {"dtype": RGB, "codec": "portable"},
    "volume": {"shape": (6, 7, 8)},
    "colour volume": {"shape": (6, 7, 8), "dtype": RGB},
    "float": {"dtype": "f4"},
    "complex": {"dtype": "c8"},
    "scaled": {"slope": 0.5, "inter": -2.0},
    "scaled per volume": {
        "slope": np.linspace(0.1, 2, 20),
        "inter": np.linspace(-5, 5, 20),
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IMAGES)
def test_images_go_to_the_other_store_and_back(tmp_path: Path, kind: str, name: str) -> None:
    first, second, third = (
        tmp_path / f"first.{kind}",
        tmp_path / f"second.{OTHER[kind]}",
        tmp_path / f"third.{kind}",
    )
    arguments = image(**{k: v for k, v in IMAGES[name].items() if k in ("shape", "dtype")})
    create(
        first, **arguments, **{k: v for k, v in IMAGES[name].items() if k not in ("shape", "dtype")}
    )
    reports = [transcode(first, second), transcode(second, third)]
    assert not any(report.dropped for report in reports)
    with fs.open(first) as before, fs.open(second) as between, fs.open(third) as after:
        for image_ in (between, after):
            np.testing.assert_array_equal(image_.read(raw=True), arguments["source"])
            np.testing.assert_array_equal(np.asarray(image_), np.asarray(before))
            assert image_.space == before.space
            assert image_.digest == before.digest == image_.compute_digest()
            assert image_.header_bytes == before.header_bytes
            assert image_.access == before.access
            np.testing.assert_array_equal(image_.slope, before.slope)
    one, three = contents(first), contents(third)
    assert one.keys() == three.keys() == contents(second).keys()
    for path in one.keys() - {"0", "0@"}:
        assert one[path] == three[path], path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("access", ["time", "volume", "balanced"])
@pytest.mark.parametrize("codec", ["dual", "fast", "archive", "none"])
def test_verbatim_is_verbatim(
    tmp_path: Path, kind: str, access: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are copied as they are, and nothing is decoded or encoded on the way."""
    first, second = tmp_path / f"a.{kind}", tmp_path / f"b.{OTHER[kind]}"
    create(first, **image((24, 26, 28, 60)), access=access, codec=codec)

    def never(pipeline: Any, *args: Any, **kwargs: Any) -> Any:
        assert not pipeline, "a chunk was decoded or encoded"
        return args[0] if isinstance(args[0], bytes) else args[0].tobytes()

    with monkeypatch.context() as patch:
        for name in ("decode", "encode"):
            patch.setattr(codecs, name, never)
        report = transcode(first, second)
    assert "0" in report.kept
    with open_store(first) as old, open_store(second) as new:
        one, two = (store.root.array("0") for store in (old, new))
        assert codecs.equivalent(one.spec.codecs, two.spec.codecs)
        order = [two.spec.dims.index(d) for d in one.spec.dims]
        for key in np.ndindex(*grid_shape(one.spec.shape, one.spec.layout.chunks)):
            other = [0] * len(key)
            for k, place in zip(key, order, strict=True):
                other[place] = k
            encoded = []
            for array, where in ((one, key), (two, tuple(other))):
                (ref,) = array.refs([where])  # type: ignore[attr-defined]
                encoded.append(bytes(array.fetch([ref.range])[0]))  # type: ignore[attr-defined]
            assert encoded[0] == encoded[1]
    np.testing.assert_array_equal(values_of(second), image((24, 26, 28, 60))["source"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", ["portable", "dual", "fast", "none", "keep", None])
def test_codecs_are_chosen_or_kept(tmp_path: Path, kind: str, codec: str | None) -> None:
    first, second = tmp_path / "a.h5", tmp_path / f"b.{kind}"
    create(first, **image(), codec="portable")
    report = transcode(first, second, codec=codec)
    np.testing.assert_array_equal(values_of(second), image()["source"])
    with open_store(second) as store:
        names = [step.name for step in store.root.array("0").spec.codecs]
    wanted = {
        "portable": ["shuffle", "deflate"],
        "keep": ["shuffle", "deflate"],
        "none": [],
        None: ["shuffle", "deflate"] if kind == "h5" else ["blosc"],
    }.get(codec, ["blosc"])
    assert names == wanted
    assert ("0" in report.kept) == (wanted == ["shuffle", "deflate"])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs:UserWarning")
def test_kept_hdf5_filters_are_read_by_zarr(tmp_path: Path) -> None:
    values = np.arange(3000, dtype="i4").reshape(60, 50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "0", data=values, chunks=(20, 50), compression="gzip", shuffle=True, fletcher32=True
        )
    report = transcode(tmp_path / "a.h5", tmp_path / "b.zarr", codec="keep")
    assert report.kept == ("0",)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "b.zarr/0", mode="r")[...], values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), [("time", "volume"), ("volume", "time")])
def test_images_are_laid_out_anew(tmp_path: Path, kind: str, before: Any, after: Any) -> None:
    first, second = tmp_path / "a.zarr", tmp_path / f"b.{kind}"
    arguments = image((20, 21, 22, 90))
    create(first, **arguments, access=before)
    report = transcode(first, second, access=after, max_memory=16 << 20)
    assert "0" in report.converted
    with fs.open(first) as old, fs.open(second) as new:
        assert new.access == after
        np.testing.assert_array_equal(np.asarray(new), arguments["source"])
        one, two = (dict(zip(x.spec.dims, x.spec.layout.chunks, strict=True)) for x in (old, new))
        assert (two["t"] > one["t"]) == (after == "time")
        assert new.digest == new.compute_digest()


# Foreign trees -----------------------------------------------------------------------------------


def foreign_file(path: Path) -> None:
    """Everything that h5py can make and that has a counterpart."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"text": "ü", "number": 5, "ratio": 0.1, "list": [1, 2, 3]})
        file.attrs["names"] = ["a", "b"]
        file.attrs["fixed"] = np.bytes_(b"bytes")
        file.attrs["flag"] = True
        file.attrs["big"] = np.uint64(2**63)
        file.attrs["matrix"] = np.eye(2)
        file.attrs["no entries"] = np.zeros(0)
        group = file.create_group("a/b/c")
        group.attrs["depth"] = 3
        file.create_group("nothing")
        file["scalar"] = 2.5
        file["contiguous"] = np.arange(12, dtype="f4").reshape(3, 4)
        group["deep"] = np.arange(5)
        file["word"] = "text"
        file["words"] = np.array(["a", "ü", ""], dtype=h5py.string_dtype())
        file["fixed words"] = np.array([b"one", b"three"])
        file["big endian"] = np.arange(6, dtype=">i4")
        file.create_dataset("big chunks", data=np.arange(9, dtype=">f8"), chunks=(4,))
        file.create_dataset("none", (0, 3), "i2", chunks=(1, 3), maxshape=(None, 3))
        file["enum"] = np.array([0, 1, 1], h5py.enum_dtype({"NO": 0, "YES": 1}, basetype="i1"))
        file["bool"] = np.array([True, False])
        file["complex"] = np.array([1 + 2j, 3])
        file["half"] = np.arange(4, dtype="f2")
        file.create_dataset("lzf", data=np.arange(300), chunks=(100,), compression="lzf")
        file.create_dataset("scaled", data=np.arange(300), chunks=(100,), scaleoffset=0)
        file.create_dataset("gzip", data=np.arange(300), chunks=(100,), compression="gzip")
        file.create_dataset("sum", data=np.arange(300), chunks=(100,), fletcher32=True)
        file.create_dataset("blosc", data=np.arange(300), chunks=(100,), **hdf5plugin.Blosc())
        file.create_dataset("zstd", data=np.arange(300), chunks=(100,), **hdf5plugin.Zstd())
        file.create_dataset(
            "growing", data=np.arange(30).reshape(10, 3), chunks=(64, 2), maxshape=(None, 3)
        )
        sparse = file.create_dataset("sparse", (300,), "i2", chunks=(100,), fillvalue=-5)
        sparse[150:160] = 1
        nan = file.create_dataset("nan", (8,), "f4", chunks=(4,), fillvalue=np.nan)
        nan[:3] = np.inf
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4,))
        node = h5py.h5d.create(file.id, b"compact", h5py.h5t.STD_I16LE, space, plan)
        node.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(4, dtype="i2"))
        masked = file.create_dataset("masked", (6,), "<i2", chunks=(3,), compression="gzip")
        masked[...] = np.arange(6)
        masked.id.write_direct_chunk((3,), np.array([7, 8, 9], "<i2").tobytes(), 1)
        time = file.create_dataset("time", data=np.arange(3.0))
        time.make_scale("time")
        run = file.create_dataset("run", data=np.arange(12).reshape(3, 4), chunks=(3, 2))
        run.dims[0].attach_scale(time)
        run.dims[1].label = "voxel"


def foreign_zarr(path: Path, zarr_format: Any) -> None:
    zstd: Any = {"name": "zstd", "configuration": {"level": 3}}
    root = zarr.create_group(path, zarr_format=zarr_format, attributes={"a": [1, "b", None]})
    group = root.create_group("g/h", attributes={"nested": {"x": {"y": [1.5, True]}}})
    group.create_array("deep", shape=(5,), chunks=(2,), dtype="i4")[...] = np.arange(5)
    for dtype in ("bool", "u1", ">i2", "f4", "c8"):
        array = root.create_array(dtype.strip(">"), shape=(7, 9), chunks=(3, 4), dtype=dtype)
        array[...] = (np.arange(63) % 2).reshape(7, 9)
    root.create_array("scalar", shape=(), chunks=(), dtype="f8")[...] = 4.5
    root.create_array("none", shape=(0, 3), chunks=(1, 3), dtype="i2")
    root.create_array("fill", shape=(9,), chunks=(4,), dtype="i2", fill_value=-3)[:2] = 1
    root.create_array("nan", shape=(9,), chunks=(4,), dtype="f4", fill_value=np.nan)[:2] = 1
    if zarr_format == 3:
        root.create_array("words", shape=(3,), chunks=(2,), dtype="string")[...] = ["a", "ü", ""]
        root.create_array(
            "shards",
            shape=(20, 30),
            chunks=(2, 3),
            shards=(10, 9),
            dtype="i4",
            dimension_names=["p", None],
        )[...] = np.arange(600).reshape(20, 30)
        root.create_array(
            "zstd",
            shape=(40,),
            chunks=(7,),
            dtype="i4",
            compressors=zstd,
        )[...] = np.arange(40)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["hdf5", "zarr 3", "zarr 2"])
@pytest.mark.parametrize("codec", [None, "portable", "dual"])
def test_foreign_trees_arrive_whole(
    tmp_path: Path, source: str, kind: str, codec: str | None
) -> None:
    first = tmp_path / "first"
    if source == "hdf5":
        foreign_file(first)
    else:
        foreign_zarr(first, int(source[-1]))
    before = contents(first)
    second = tmp_path / f"second.{kind}"
    transcode(first, second, codec=codec)
    assert contents(second) == before
    third = tmp_path / f"third.{OTHER[kind]}"
    transcode(second, third)
    assert contents(third) == before
    if kind == "zarr":
        zarr.open_group(second, mode="r")
        found = np.asarray(zarr.open_array(second, path="none", mode="r")[...])
    else:
        with h5py.File(second) as file:
            found = file["none"][...]
    assert found.shape == (0, 3)


def test_what_chunks_lack_stays_away_or_is_made_whole(tmp_path: Path) -> None:
    foreign_file(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["lzf"], file["scaled"]
    transcode(tmp_path / "a.h5", tmp_path / "b.zarr", codec="keep")
    with open_store(tmp_path / "b.zarr") as store:
        sparse = store.root.array("sparse")
        assert sparse.spec.fill == -5
        refs = sparse.refs([(0,), (1,), (2,)])  # type: ignore[attr-defined]
        assert [ref is None for ref in refs] == [True, False, True]
        masked = store.root.array("masked")
        assert masked.read().tolist() == [0, 1, 2, 7, 8, 9]
        assert all(ref.skip == 0 for ref in masked.refs([(0,), (1,)]))  # type: ignore[attr-defined]
        assert np.isnan(store.root.array("nan").spec.fill)


def test_dimension_scales_are_rebuilt(tmp_path: Path) -> None:
    foreign_file(tmp_path / "a.h5")
    transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert zarr.open_array(tmp_path / "b.zarr/run", mode="r").metadata.dimension_names == (  # type: ignore[union-attr]
        "time",
        "voxel",
    )
    transcode(tmp_path / "b.zarr", tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["run"].dims[0][0] == file["time"]
        assert file["run"].dims[1].label == "voxel"
        assert file["time"].is_scale
    import xarray

    with xarray.open_dataset(tmp_path / "c.h5", engine="h5netcdf", phony_dims="sort") as dataset:
        assert dataset["run"].dims == ("time", "voxel")


# Links -------------------------------------------------------------------------------------------


def linked_file(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["g/array"] = np.arange(3)
        file["g/sub/x"] = np.arange(2)
        file["hard"] = file["g/array"]
        file["soft"] = h5py.SoftLink("/g/array")
        file["g/relative"] = h5py.SoftLink("sub/x")
        file["group"] = h5py.SoftLink("/g/sub")
        file["a soft link of a soft link"] = h5py.SoftLink("/soft")
        file["through"] = h5py.SoftLink("/group/x")


LINKED = {
    "hard": [0, 1, 2],
    "soft": [0, 1, 2],
    "g/relative": [0, 1],
    "group/x": [0, 1],
    "a soft link of a soft link": [0, 1, 2],
    "through": [0, 1],
}


def test_links_are_recorded_and_made_again(tmp_path: Path) -> None:
    linked_file(tmp_path / "a.h5")
    transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    attributes = dict(zarr.open_group(tmp_path / "b.zarr", mode="r").attrs)
    recorded = {entry["name"]: entry["path"] for entry in attributes["_LINKS"]}  # type: ignore[union-attr, index, call-overload]
    assert recorded["hard"] == "g/array"
    assert recorded["through"] == "group/x"
    transcode(tmp_path / "b.zarr", tmp_path / "c.h5")
    transcode(tmp_path / "a.h5", tmp_path / "d.h5")
    transcode(tmp_path / "b.zarr", tmp_path / "e.zarr")
    transcode(tmp_path / "e.zarr", tmp_path / "f.h5")
    for name in ("c.h5", "d.h5", "f.h5"):
        with h5py.File(tmp_path / name) as file:
            assert {path: file[path][...].tolist() for path in LINKED} == LINKED
            assert "_LINKS" not in file.attrs


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("g/inner")
        file["dangling"] = h5py.SoftLink("/not/here")
        file["one"] = h5py.SoftLink("/two")
        file["two"] = h5py.SoftLink("/one")
        group["up"] = h5py.SoftLink("/g")
        file["all"] = h5py.SoftLink("/")
    transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    for source in ("a.h5", "b.zarr"):
        with pytest.raises(LossyError, match="dangling") as caught:
            transcode(tmp_path / source, tmp_path / "c.h5")
        assert "'link'" in str(caught.value)
        report = transcode(tmp_path / source, tmp_path / "c.h5", allow=["link"], overwrite=True)
        assert len(report.dropped) == 5
        with h5py.File(tmp_path / "c.h5") as file:
            assert list(file) == ["g"]
            assert list(file["g/inner"]) == []


@pytest.mark.parametrize(
    ("links", "ok"),
    [
        ([{"name": "new", "source": ".", "path": "x"}], True),
        ([{"name": "new", "path": "/x"}], True),
        ([{"name": "x", "path": "x"}], False),
        ([{"name": "a/b", "path": "x"}], False),
        ([{"name": "..", "path": "x"}], False),
        ([{"name": "new", "path": "../../etc"}], False),
        ([{"name": "new", "path": "external:/etc/passwd:/"}], False),
        ([{"name": 5, "path": "x"}], False),
        ([{"path": "x"}], False),
        (["x"], False),
        ("x", False),
        (7, False),
    ],
)
def test_recorded_links_are_not_trusted(tmp_path: Path, links: Any, ok: bool) -> None:
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=3, attributes={"_LINKS": links})
    root.create_array("x", shape=(2,), chunks=(2,), dtype="i2")[...] = [1, 2]
    if ok:
        transcode(tmp_path / "a.zarr", tmp_path / "b.h5")
        with h5py.File(tmp_path / "b.h5") as file:
            assert file["new"] == file["x"]
        return
    with pytest.raises(LossyError):
        transcode(tmp_path / "a.zarr", tmp_path / "b.h5")
    transcode(tmp_path / "a.zarr", tmp_path / "b.h5", allow=LOSSES)
    with h5py.File(tmp_path / "b.h5") as file:
        assert list(file) == ["x"]


def test_external_links_are_refused_unless_allowed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = 1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ours"] = 2
        file["theirs"] = h5py.ExternalLink("secret.h5", "/x")
    with pytest.raises(LossyError, match="external-link"):
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert names(tmp_path) == ["a.h5", "secret.h5"]
    report = transcode(tmp_path / "a.h5", tmp_path / "b.zarr", allow=["external-link"])
    assert len(report.dropped) == 1
    assert list(contents(tmp_path / "b.zarr")) == ["", "ours", "ours@"]


# What has no counterpart -------------------------------------------------------------------------


def test_arrays_that_have_no_counterpart(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ok"] = 1
        file["compound"] = np.zeros(3, [("a", "i2"), ("b", "f4")])
        file["void"] = np.zeros(2, "V5")
        file["null"] = h5py.Empty("f4")
        file.create_dataset("ragged", (2,), h5py.vlen_dtype("i4"))
    with pytest.raises(LossyError, match="compound") as caught:
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert "array" in str(caught.value)
    report = transcode(tmp_path / "a.h5", tmp_path / "b.zarr", allow=["array"])
    assert len(report.dropped) == 4
    assert list(contents(tmp_path / "b.zarr")) == ["", "ok", "ok@"]


def test_attributes_that_are_not_finite(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["a"] = np.nan
        file.attrs["b"] = [1.0, -np.inf]
        file["x"] = 1
        file["x"].attrs["c"] = np.inf
    with pytest.raises(LossyError, match="non-finite-attribute"):
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    transcode(tmp_path / "a.h5", tmp_path / "b.zarr", allow=["non-finite-attribute"])
    found = contents(tmp_path / "b.zarr")
    assert found[""] == {"a": "NaN", "b": [1.0, "-Infinity"]}
    assert found["x@"][1] == {"c": "Infinity"}


def test_names_that_not_every_store_has(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("ok", "zarr.json", "__x", "n" * 256):
            file[name] = 1
        file.attrs.create("odd", np.zeros(2, [("a", "i2")]))
    with pytest.raises(LossyError, match="name"):
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr", allow=["attributes"])
    with pytest.raises(LossyError, match="attributes"):
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr", allow=["name"])
    transcode(tmp_path / "a.h5", tmp_path / "b.zarr", allow=["name", "attributes"])
    assert list(contents(tmp_path / "b.zarr")) == ["", "ok", "ok@"]


def test_numbers_in_other_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(40))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (10,), "i4", external=[(str(tmp_path / "secret.bin"), 0, 40)])
    with pytest.raises(FmristoreError):
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    foreign_file(tmp_path / "a.h5")
    with pytest.raises(InvalidInputError, match="unknown losses"):
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr", allow=["everything"])
    with pytest.raises(InvalidInputError, match=r"\.zarr"):
        transcode(tmp_path / "a.h5", tmp_path / "b.nii")
    with pytest.raises(InvalidInputError):
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr", codec="best")
    with pytest.raises(NotFoundError):
        transcode(tmp_path / "missing.h5", tmp_path / "b.zarr")
    with pytest.raises(CodecError, match="kept"):
        transcode(tmp_path / "a.h5", tmp_path / "b.zarr", codec="keep")
    transcode(tmp_path / "a.h5", tmp_path / "b", kind="zarr")
    with pytest.raises(AlreadyExistsError):
        transcode(tmp_path / "a.h5", tmp_path / "b", kind="zarr")
    assert names(tmp_path) == ["a.h5", "b"]


# Damage ------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An older store, which must be as it was at the end of the test."""
    path: Path = tmp_path / f"old.{request.param}"
    create(path, **image(seed=9))
    before = contents(path)
    there = names(tmp_path)
    yield path
    assert contents(path) == before
    left = set(names(tmp_path)) - set(there)
    assert all(name.startswith("source") for name in left)


def damage(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def chunk_places(url: Path) -> list[tuple[str, int, int]]:
    with open_store(url) as store:
        array = store.root.array("0")
        keys = list(np.ndindex(*grid_shape(array.spec.shape, array.spec.layout.chunks)))
        return [ref.range for ref in array.refs(keys)]  # type: ignore[attr-defined]


def with_a_damaged_chunk(url: Path) -> Path:
    create(url, **image((12, 13, 14, 60)), codec="dual")
    path, offset, _ = chunk_places(url)[-1]
    damage(Path(path), lambda data: data.__setitem__(slice(offset, offset + 16), bytes(16)))
    return url


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("access", [None, "volume"])
def test_a_truncated_source_is_an_error(
    tmp_path: Path, destination: Path, kind: str, access: Any
) -> None:
    source = tmp_path / f"source.{kind}"
    create(source, **image((12, 13, 14, 60)))
    path, offset, length = max(chunk_places(source), key=lambda r: r[1])
    os.truncate(path, offset + length // 2)
    with pytest.raises(FmristoreError):
        transcode(source, destination, access=access, overwrite=True)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_chunks_are_an_error_where_they_are_decoded(
    tmp_path: Path, destination: Path, kind: str
) -> None:
    source = with_a_damaged_chunk(tmp_path / f"source.{kind}")
    with pytest.raises(CorruptDataError):
        transcode(source, destination, access="volume", overwrite=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_chunk_that_is_copied_is_named(
    tmp_path: Path, destination: Path, kind: str
) -> None:
    source = with_a_damaged_chunk(tmp_path / f"source.{kind}")
    with pytest.raises(CorruptDataError, match=r"chunk \(\d+, \d+, \d+, \d+\)") as raised:
        transcode(source, destination, overwrite=True)
    assert raised.value.node == "0"
    assert str(raised.value.url) == str(source)


@pytest.mark.parametrize("access", [None, "volume"])
def test_missing_chunks_of_an_image_are_an_error(
    tmp_path: Path, destination: Path, access: Any
) -> None:
    source = tmp_path / "source.zarr"
    create(source, **image((12, 13, 14, 60)))
    next(path for path in (source / "0/c").rglob("*") if path.is_file()).unlink()
    with pytest.raises(CorruptDataError, match="missing"):
        transcode(source, destination, access=access, overwrite=True)


@pytest.mark.parametrize("access", [None, "volume"])
def test_a_store_that_lies_is_found_out(
    tmp_path: Path, destination: Path, access: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte of what is written is another one."""
    source = tmp_path / "source.zarr"
    create(source, **image((12, 13, 14, 60)), codec="fast")
    cls: Any = HDF5Array if destination.suffix == ".h5" else ZarrArray
    honest = cls.write_encoded
    lied = False

    def lie(self: Any, unit: Any, chunks: Any) -> None:
        nonlocal lied
        if not lied and self.path == "0":
            lied = True
            wrong = bytearray(chunks[0])
            wrong[len(wrong) // 2] ^= 1
            chunks = [bytes(wrong), *chunks[1:]]
        honest(self, unit, chunks)

    monkeypatch.setattr(cls, "write_encoded", lie)
    with pytest.raises(CorruptDataError):
        transcode(source, destination, access=access, overwrite=True)
    assert lied


def test_an_interrupted_transcode_leaves_nothing(tmp_path: Path, destination: Path) -> None:
    source = tmp_path / "source.zarr"
    create(source, **image())

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transcode(source, destination, overwrite=True, progress=stop)


def test_a_store_may_replace_itself(tmp_path: Path) -> None:
    for kind in KINDS:
        path = tmp_path / f"a.{kind}"
        create(path, **image((12, 13, 14, 60)))
        transcode(path, path, access="volume", overwrite=True)
        np.testing.assert_array_equal(values_of(path), image((12, 13, 14, 60))["source"])


# Plans and reports -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_planning_writes_nothing(tmp_path: Path, kind: str) -> None:
    foreign_file(tmp_path / "a.h5")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with open_store(tmp_path / "a.h5") as store:
        plan = make_plan(store, tmp_path / f"b.{kind}")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    text = str(plan)
    assert "/lzf" in text
    assert "may not know hdf5:32000" in text
    document = json.loads(json.dumps(plan.to_json()))
    assert document["kind"] == plan.kind
    assert {array["path"] for array in document["arrays"]} >= {"sparse", "a/b/c/deep"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_of_endless_chunks_is_left_out_if_that_is_allowed(
    tmp_path: Path, kind: str
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["few"] = np.arange(3)
        file.create_dataset("endless", (2**20, 2**20), "f8", chunks=(4, 4))
    with pytest.raises(LossyError, match="/endless: it claims 68719476736 chunks"):
        transcode(tmp_path / "a.h5", tmp_path / f"b.{kind}")
    transcode(tmp_path / "a.h5", tmp_path / f"b.{kind}", allow=["array"])
    assert "endless" not in contents(tmp_path / f"b.{kind}")


def test_an_empty_store_has_a_plan(tmp_path: Path) -> None:
    with create_store(tmp_path / "a.h5"):
        pass
    with open_store(tmp_path / "a.h5") as store:
        assert "0.0 MiB" in str(make_plan(store, tmp_path / "b.zarr"))
    report = transcode(tmp_path / "a.h5", tmp_path / "b.zarr")
    assert report.digests == {}
    assert contents(tmp_path / "b.zarr") == {"": {}}


def test_the_report_tells_what_was_done(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kept", data=np.arange(40), chunks=(8,), **hdf5plugin.Blosc())
        file.create_dataset("converted", data=np.arange(40), chunks=(8,), compression="gzip")
        file["words"] = ["a"]
        file["lost"] = h5py.ExternalLink("x.h5", "/x")
    calls: list[tuple[int, int]] = []
    report: TranscodeReport = transcode(
        tmp_path / "a.h5",
        tmp_path / "b.zarr",
        allow=["external-link"],
        progress=lambda done, total: calls.append((done, total)),
    )
    assert report.kept == ("kept",)
    assert set(report.converted) == {"converted", "words"}
    assert "gzip" in report.converted["converted"] or "deflate" in report.converted["converted"]
    document = json.loads(json.dumps(report.to_json()))
    assert document["kept"] == ["kept"]
    assert set(document["digests"]) == {"kept", "converted", "words"}
    assert all(digest.startswith("sha256:") for digest in document["digests"].values())
    assert len(document["dropped"]) == 1
    assert "1 copied verbatim, 2 converted), 1 lost" in str(report)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (640 * 2, 640 * 2)


def test_equal_numbers_have_equal_digests(tmp_path: Path) -> None:
    create(tmp_path / "a.zarr", **image(), codec="fast")
    create(tmp_path / "b.zarr", **image(), codec="fast")
    create(tmp_path / "c.zarr", **image(seed=1), codec="fast")
    found = [
        transcode(tmp_path / f"{name}.zarr", tmp_path / f"{name}.h5", codec="portable").digests["0"]
        for name in "abc"
    ]
    assert found[0] == found[1] != found[2]


# Any tree ----------------------------------------------------------------------------------------

NAMES = st.text("abcü ._-0", min_size=1, max_size=6).filter(
    lambda name: name.strip("._ ") != "" and not name.startswith("__")
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abü\n\"'", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
ATTRIBUTES = st.dictionaries(NAMES, JSON, max_size=4)
DTYPES = ["?", "u1", "i2", "u4", "i8", "f2", "f4", "f8", "c8", "c16"]


@st.composite
def array_specs(draw: st.DrawFn, *, shards: bool) -> ArraySpec:
    rank = draw(st.integers(0, 4))
    shape = tuple(draw(st.integers(0, 6)) for _ in range(rank))
    chunks = tuple(draw(st.integers(1, max(1, n))) for n in shape)
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    names = draw(st.permutations(["t", "z", "y", "x", "c", "run"]))[:rank]
    named = draw(st.booleans())
    codec = draw(st.sampled_from(["dual", "fast", "none", "portable"]))
    sharded = shards and rank and draw(st.booleans())
    whole = tuple(c * draw(st.integers(1, 3)) for c in chunks) if sharded else None
    return ArraySpec(
        shape=shape,
        dtype=dtype,
        dims=tuple(names) if named else (),
        layout=ChunkLayout(
            chunks=chunks,
            shards=whole,
            order=tuple(draw(st.permutations(range(rank)))) if shards else (),
        ),
        codecs=codecs.preset(codec, dtype) if rank else (),
        fill_value=draw(st.none() | st.integers(0, 1)),
    )


@st.composite
def trees(draw: st.DrawFn, *, shards: bool) -> dict[str, Any]:
    """Nested groups; an array is a spec with a seed and attributes."""

    def group(depth: int) -> dict[str, Any]:
        children: dict[str, Any] = {}
        for name in draw(st.lists(NAMES, max_size=3, unique=True)):
            if depth and draw(st.booleans()):
                children[name] = group(depth - 1)
            else:
                spec = draw(array_specs(shards=shards))
                children[name] = (spec, draw(st.integers(0, 99)), draw(ATTRIBUTES))
        return {"attributes": draw(ATTRIBUTES), "children": children}

    return group(2)


def grow(group: Group, tree: dict[str, Any]) -> None:
    group.write_attributes(tree["attributes"])
    for name, child in tree["children"].items():
        if isinstance(child, dict):
            grow(group.create_group(name), child)
            continue
        spec, seed, attributes = child
        array = group.create_array(name, spec, attributes)
        values = np.random.default_rng(seed).integers(0, 2, spec.shape).astype(spec.dtype)
        if seed % 3 or not spec.shape:
            array.write(None, values)
        elif 0 not in spec.shape:
            part = tuple(slice(0, c) for c in spec.layout.chunks)
            array.write(part, values[part])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_tree_is_equal_in_the_other_store(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    tree = data.draw(trees(shards=kind == "zarr"))
    codec = data.draw(st.sampled_from([None, "dual", "portable", "keep"]))
    with create_store(folder / f"a.{kind}") as store:
        grow(store.root, tree)
    before = by_dimension(contents(folder / f"a.{kind}"))
    transcode(folder / f"a.{kind}", folder / f"b.{OTHER[kind]}", codec=codec)
    assert by_dimension(contents(folder / f"b.{OTHER[kind]}")) == before
    transcode(folder / f"b.{OTHER[kind]}", folder / f"c.{kind}")
    assert by_dimension(contents(folder / f"c.{kind}")) == before


@pytest.mark.parametrize("codec", [None, "dual", "keep"])
@pytest.mark.parametrize("names", [None, ["a", None, None], ["z", "y", "x"]], ids=str)
def test_cubes_whose_bytes_lie_in_another_order(
    tmp_path: Path, names: list[str | None] | None, codec: str | None
) -> None:
    values = np.random.default_rng(3).integers(-9, 9, (6, 6, 6)).astype("<i2")
    orders = list(itertools.permutations(range(3)))
    group = zarr.create_group(tmp_path / "a.zarr")
    for number, order in enumerate(orders):
        array = group.create_array(
            f"a{number}",
            shape=values.shape,
            chunks=(3, 3, 3),
            dtype=values.dtype,
            filters=[zarr.codecs.TransposeCodec(order=order)],
            dimension_names=names,
        )
        array[...] = values
    transcode(tmp_path / "a.zarr", tmp_path / "b.h5", codec=codec)
    transcode(tmp_path / "b.h5", tmp_path / "c.zarr", codec=codec)
    again = zarr.open_group(tmp_path / "c.zarr", mode="r")
    with h5py.File(tmp_path / "b.h5") as file:
        for number, order in enumerate(orders):
            data: Any = file[f"a{number}"]
            back: Any = again[f"a{number}"]
            axes = names == ["z", "y", "x"]  # those of images are found by their names
            labels = [dim.label for dim in data.dims] if axes else []
            assert labels == (["zyx"[a] for a in order] if axes else [])
            wanted = values.transpose(order) if axes else values
            np.testing.assert_array_equal(data[...], wanted)
            np.testing.assert_array_equal(back[...], values)


def by_dimension(found: dict[str, Any]) -> dict[str, Any]:
    """The axes of images sorted by name: their order is up to the store."""
    for path, value in list(found.items()):
        if not isinstance(value, tuple) or len(value) != 3:
            continue
        dims = found[f"{path}@"][0]
        if not {"z", "y", "x"} <= set(dims) <= {"t", "c", "z", "y", "x"}:
            continue
        shape, dtype, raw = value
        order = sorted(range(len(dims)), key=lambda axis: dims[axis])
        values = np.frombuffer(raw, dtype).reshape(shape).transpose(order)
        found[path] = (values.shape, dtype, values.tobytes())
        found[f"{path}@"] = (tuple(sorted(dims)), found[f"{path}@"][1])
    return found


# Memory ------------------------------------------------------------------------------------------

MARGIN = 64 << 20
"""What a transcode may take besides `max_memory`: threads, the heap's gaps, chunk tables."""


@pytest.mark.once
@from_proc
@pytest.mark.parametrize(
    ("source", "target", "access"),
    [
        ("a.zarr", "b.h5", "volume"),
        ("a.h5", "b.zarr", "time"),
        ("contiguous.h5", "b.zarr", None),
    ],
)
def test_memory_stays_within_the_limit(
    tmp_path: Path, source: str, target: str, access: str | None
) -> None:
    """An image of 192 MiB in 64 MiB: peak memory of a process of its own, less its start."""
    shape = (64, 64, 48, 512)
    with fs.NeuroVec.create(
        url=tmp_path / "tiny.zarr", **image((4, 4, 4, 8)), codec="fast"
    ) as tiny:
        assert tiny.shape == (4, 4, 4, 8)
    if source == "contiguous.h5":
        with h5py.File(tmp_path / source, "w") as file:
            data = file.create_dataset("x", shape, "i2")
            for x in range(shape[0]):
                data[x] = np.arange(shape[1] * shape[2] * shape[3]).reshape(shape[1:]) % 999
    else:
        plane = np.random.default_rng(0).integers(0, 500, shape[2:], "i2")
        space = NeuroSpace(spatial_shape=shape[:3], affine=np.eye(4), time_points=shape[3], tr=1.0)
        other = "volume" if access == "time" else "time"
        create(
            tmp_path / source,
            source=np.broadcast_to(plane, shape),
            space=space,
            access=other,
            codec="fast",
        )
    code = """
    import sys
    from fmristore.transcoding import transcode

    folder, source, target, access = sys.argv[1:]
    transcode(f"{folder}/tiny.zarr", f"{folder}/tiny.h5")
    transcode(f"{folder}/tiny.h5", f"{folder}/tiny2.zarr", access="volume")
    before = peak()
    limit = 64 << 20
    transcode(f"{folder}/{source}", f"{folder}/{target}", access=access or None, max_memory=limit)
    print(peak() - before - limit)
    """
    done = subprocess.run(
        [
            *(sys.executable, "-c", PEAK + textwrap.dedent(code)),
            *(str(tmp_path), source, target, access or ""),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={
            "PYTHONPATH": ":".join([".", *sys.path]),
            "PATH": "",
            "FMRISTORE_WORKERS": "2",
            "TMPDIR": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MARGIN
    with open_store(tmp_path / source) as old, open_store(tmp_path / target) as new:
        name = "x" if source == "contiguous.h5" else "0"
        assert Capability.CHUNK_REFS in new.root.array(name).capabilities
        assert old.root.array(name).spec.nbytes > 3 * (64 << 20) - 1


@pytest.mark.parametrize("access", ["time", "volume", "balanced"])
def test_an_image_that_is_encoded_anew_is_laid_out_as_if_converted(
    tmp_path: Path, access: Any
) -> None:
    given = image((20, 22, 12, 40))
    for name in ("portable.h5", "direct.zarr"):
        fs.NeuroVec.create(url=tmp_path / name, **given, access=access).close()
    transcode(tmp_path / "portable.h5", tmp_path / "moved.zarr")
    with fs.open(tmp_path / "moved.zarr") as moved, fs.open(tmp_path / "direct.zarr") as direct:
        assert moved.spec == direct.spec
        assert moved.compute_digest() == moved.digest == direct.digest
