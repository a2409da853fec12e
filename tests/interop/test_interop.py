"""Programs that know nothing of this package read the same data from its stores."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorstore
import xarray
import zarr
from numpy.testing import assert_array_equal
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.axes import Axis

import fmristore as fs
from fmristore.planning.layout import Access
from fmristore_stores.protocol import AnyArray
from tests.images import (
    AFFINE,
    LAYOUTS,
    RAW,
    SCALED,
    SHAPE,
    STORES,
    Scales,
    make_values,
    store,
    write_nifti,
)

T = SHAPE[3]
CANONICAL = ("t", "z", "y", "x")


def make(
    folder: Path, kind: str, access: Access = "time", *, scales: Scales = RAW, **options: Any
) -> tuple[Path, AnyArray]:
    """A stored run, and its stored values in canonical order."""
    url = folder / f"run-{access}.{kind}"
    store(url, make_values(), scales=scales, access=access, **options).close()
    return url, make_values().transpose(3, 2, 1, 0)


@pytest.fixture(params=list(itertools.product(LAYOUTS, ("portable", "dual"))), ids="-".join)
def choice(request: pytest.FixtureRequest) -> tuple[Access, str]:
    """Layout and codec."""
    found: tuple[Access, str] = request.param
    return found


class TestHDF5:
    def test_plain_h5py(self, tmp_path: Path, choice: tuple[Access, str]) -> None:
        pytest.importorskip("hdf5plugin")
        access, codec = choice
        url, values = make(tmp_path, "h5", access, codec=codec, scales=SCALED)
        with h5py.File(url) as file:
            data = file["0"]
            labels = [d.label for d in data.dims]
            assert sorted(labels) == sorted(CANONICAL)
            assert_array_equal(data[...].transpose([labels.index(d) for d in CANONICAL]), values)
            if codec == "portable":
                assert labels == list(CANONICAL)
            assert data.attrs["scale_factor"] == SCALED.slope
            assert data.attrs["add_offset"] == SCALED.inter
            assert_array_equal(file.attrs["affine"].reshape(4, 4), AFFINE)
            assert_array_equal(file["t"][...], np.arange(T) * 1.5)
            assert file["t"].attrs["units"] == b"s"
            assert file.attrs["fmristore_format"] == b"neurovec"
            assert file.attrs["fmristore_format_version"] == b"1.2"
            assert file.attrs["repetition_time"] == 1.5
            attached = data.dims[labels.index("t")]
            assert_array_equal(attached[0][...], file["t"][...])

    def test_portable_files_need_no_plugin(self, tmp_path: Path) -> None:
        url, _ = make(tmp_path, "h5")
        with h5py.File(url) as file:
            pipeline = file["0"].id.get_create_plist()
            filters = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
            assert set(filters) <= {h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE}

    @pytest.mark.parametrize("access", LAYOUTS)
    def test_xarray_by_h5netcdf(self, tmp_path: Path, access: Access) -> None:
        url, values = make(tmp_path, "h5", access, scales=SCALED)
        with xarray.open_dataset(url, engine="h5netcdf") as dataset:
            check_dataset(dataset, values)

    def test_h5dump(self, tmp_path: Path) -> None:
        program = shutil.which("h5dump")
        if program is None:
            message = "h5dump is not installed (Debian's package hdf5-tools)"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
        for access in LAYOUTS:
            url, _ = make(tmp_path, "h5", access)
            done = subprocess.run(
                [program, "-H", str(url)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert 'DATASET "0"' in done.stdout
            assert "H5T_STD_I16LE" in done.stdout
            assert f"( {T}, {SHAPE[2]}, {SHAPE[1]}, {SHAPE[0]} )" in done.stdout
        done = subprocess.run(
            [program, "-a", "/affine", str(url)], capture_output=True, text=True, check=False
        )
        assert "0, 0, 0, 1" in done.stdout


def check_dataset(dataset: Any, values: AnyArray) -> None:
    """Compare what xarray shows of a scaled run with its stored values."""
    data = dataset["0"]
    assert sorted(data.dims) == sorted(CANONICAL)
    found = data.transpose(*CANONICAL)
    # xarray scales in float64 or float32; both are the scaled values.
    np.testing.assert_allclose(found.values, SCALED.apply(values), rtol=1e-6)
    assert_array_equal(found["t"].values, np.arange(T) * 1.5)
    one = data.isel(t=4, z=3, y=2, x=1).values
    assert one == pytest.approx(float(SCALED.apply(values)[4, 3, 2, 1]))
    assert_array_equal(np.reshape(dataset.attrs["affine"], (4, 4)), AFFINE)


class TestZarr:
    def test_plain_zarr(self, tmp_path: Path, choice: tuple[Access, str]) -> None:
        access, codec = choice
        if codec == "portable":
            codec = "fast"  # portable uses codecs that Zarr's core does not have
        url, values = make(tmp_path, "ome.zarr", access, codec=codec, scales=SCALED)
        group: Any = zarr.open_group(str(url), mode="r")
        data = group["0"]
        assert data.metadata.dimension_names == CANONICAL
        assert_array_equal(data[...], values)
        assert_array_equal(data[4, 1:3, :, 2], values[4, 1:3, :, 2])
        assert data.attrs["scale_factor"] == SCALED.slope
        assert_array_equal(np.reshape(group.attrs["affine"], (4, 4)), AFFINE)
        assert_array_equal(group["t"][...], np.arange(T) * 1.5)
        assert group.attrs["fmristore_format"] == "neurovec"
        for _, array in group.arrays():
            assert all(array.metadata.dimension_names)

    @pytest.mark.parametrize("consolidated", [True, False])
    def test_xarray(self, tmp_path: Path, consolidated: bool) -> None:
        for access in LAYOUTS:
            url, values = make(tmp_path, "ome.zarr", access, scales=SCALED)
            with xarray.open_zarr(url, consolidated=consolidated, chunks=None) as dataset:
                check_dataset(dataset, values)

    def test_tensorstore(self, tmp_path: Path, choice: tuple[Access, str]) -> None:
        access, codec = choice
        codec = {"portable": "fast"}.get(codec, codec)
        url, values = make(tmp_path, "ome.zarr", access, codec=codec)
        where = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/0"}}
        data = tensorstore.open(where, read=True).result()
        assert_array_equal(data.read().result(), values)
        assert tuple(data.domain.labels) == CANONICAL

    @pytest.mark.parametrize("kind", ["run", "volume", "colours"])
    def test_ome_zarr_models(self, tmp_path: Path, kind: str) -> None:
        url = tmp_path / "a.ome.zarr"
        dtype: Any = [(n, "u1") for n in "RGB"] if kind == "colours" else "i2"
        store(url, make_values(SHAPE[:3] if kind == "volume" else SHAPE, dtype)).close()
        image = Image.from_zarr(zarr.open_group(str(url), mode="r"))
        (multiscale,) = image.attributes.ome.multiscales
        axes = [(axis.name, axis.type, axis.unit) for axis in multiscale.axes]
        space = [(d, "space", "millimeter") for d in "zyx"]
        time = [("t", "time", "second")] if kind != "volume" else []
        colour = [("c", "channel", None)] if kind == "colours" else []
        assert axes == [*time, *colour, *space]
        assert multiscale.name == "a"
        ways = [getattr(axis, "orientation", {}).get("value") for axis in multiscale.axes[-3:]]
        assert ways == ["inferior-to-superior", "posterior-to-anterior", "right-to-left"]
        (dataset,) = multiscale.datasets
        assert dataset.path == "0"
        first: Any = dataset.coordinateTransformations[0]
        scale = first.scale
        sizes = np.linalg.norm(AFFINE[:3, :3], axis=0)[::-1]
        np.testing.assert_allclose(scale[-3:], sizes)
        if time:
            assert scale[0] == 1.5
        assert all(isinstance(axis, Axis) for axis in multiscale.axes)
        transformations: Any = dataset.coordinateTransformations
        second = transformations[1]
        directions = AFFINE[:3, :3] / sizes[::-1]
        np.testing.assert_allclose(second.translation[-3:], (AFFINE[:3, 3] @ directions)[::-1])
        written: Any = zarr.open_group(str(url), mode="r").attrs["ome"]
        omero = written.get("omero")
        assert (omero is None) == (kind == "colours")
        if omero is not None:
            window = omero["channels"][0]["window"]
            values = make_values(SHAPE[:3] if kind == "volume" else SHAPE, dtype)
            assert (window["start"], window["end"]) == (values.min(), values.max())

    def test_only_core_codecs(self, tmp_path: Path) -> None:
        core = {"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"}
        for access in LAYOUTS:
            url, _ = make(tmp_path, "ome.zarr", access)
            for path in url.rglob("zarr.json"):
                assert set(codec_names(json.loads(path.read_text()))) <= core

    def test_metadata_are_valid_json_with_nothing_special(self, tmp_path: Path) -> None:
        source = write_nifti(tmp_path / "a.nii", make_values(dtype="f4"), scales=SCALED)
        fs.convert(source, tmp_path / "a.ome.zarr")

        def refuse(name: str) -> None:
            pytest.fail(f"{name} is not JSON")

        for path in (tmp_path / "a.ome.zarr").rglob("zarr.json"):
            json.loads(path.read_text(), parse_constant=refuse)


def codec_names(metadata: dict[str, Any]) -> Iterator[str]:
    """Names of all codecs, those inside shards too."""
    for codec in metadata.get("codecs", []):
        yield codec["name"]
        inner = codec.get("configuration", {})
        for name in ("codecs", "index_codecs"):
            yield from codec_names({"codecs": inner.get(name, [])})


@pytest.mark.parametrize("access", LAYOUTS)
def test_both_stores_hold_the_same_encoded_bytes(tmp_path: Path, access: Access) -> None:
    values = make_values((24, 20, 18, 60))
    found = []
    for kind in STORES:
        with store(tmp_path / f"a.{kind}", values, access=access, codec="dual") as image:
            array: Any = image._data.reader.array
            memory = image.spec.memory
            grid = [-(-n // c) for n, c in zip(memory.shape, memory.layout.chunks, strict=True)]
            inverse = np.argsort(image.spec.layout.axes)
            keys = [tuple(int(key[i]) for i in inverse) for key in np.ndindex(*grid)]
            ranges = [ref.range for ref in array.refs(keys)]
            found.append((memory.dims, memory.layout.chunks, list(map(bytes, array.fetch(ranges)))))
    assert found[0] == found[1]
