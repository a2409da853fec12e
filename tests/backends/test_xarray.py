"""Stores as datasets of xarray and arrays of dask."""

from __future__ import annotations

import pickle
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

import fmristore as fs
from fmristore.backends.xarray import FmristoreBackend
from fmristore.planning.indexing import parse_index
from fmristore_stores.errors import InvalidInputError, NotFoundError, SelectionError
from tests.every_format import MASK, NAMES, RUN, WRITERS, write
from tests.images import (
    AFFINE,
    ROOT,
    SCALED,
    SHAPE,
    STORES,
    make_values,
    nibabel,
    store,
    write_nifti,
)

XARRAY = tuple(map(int, xr.__version__.split(".")[:2]))
FORMATS = sorted(set(WRITERS) - {"parcellatedmultiscan"})
library: Any = xr


def open_dataset(url: Path | str, **options: Any) -> Any:
    """With the engine's class, which needs no entry point."""
    return library.open_dataset(url, engine=FmristoreBackend, **options)


def open_datatree(url: Path | str) -> Any:
    """With the engine's class, which needs no entry point."""
    return library.open_datatree(url, engine=FmristoreBackend)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("name", FORMATS)
class TestEveryFormat:
    def test_values(self, name: str, kind: str, tmp_path: Path) -> None:
        url = write(name, tmp_path / f"a.{kind}")
        with fs.open(url) as stored:
            values = np.asarray(stored)
        with open_dataset(url) as lazy:
            assert lazy["data"].dtype == values.dtype
            assert "source" in lazy["data"].encoding
            one = lazy["data"].isel({lazy["data"].dims[-1]: 1})
            assert_allclose(one, values[..., 1], rtol=1e-6, atol=1e-6)
            assert_array_equal(lazy["data"], values)

    def test_dask(self, name: str, kind: str, tmp_path: Path) -> None:
        url = write(name, tmp_path / f"a.{kind}")
        with fs.open(url) as stored:
            values = np.asarray(stored)
            assert all(1 <= c <= n for c, n in zip(stored.chunks, stored.shape, strict=True))
            arrays = [stored.to_dask(), stored.to_dask(stored.chunks)]
        blocks = open_dataset(url, chunks={})["data"]
        assert blocks.chunks is not None
        for array in (*arrays, blocks):
            assert_array_equal(array.compute(scheduler="synchronous"), values)

    def test_pickles_and_outlives_the_object(self, name: str, kind: str, tmp_path: Path) -> None:
        with fs.open(write(name, tmp_path / f"a.{kind}")) as stored:
            values = np.asarray(stored)
            lazy = stored.to_xarray()
        assert_array_equal(pickle.loads(pickle.dumps(lazy))["data"], values)
        assert_array_equal(lazy["data"], values)


def test_the_entry_point_names_the_engine() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["xarray.backends"]["fmristore"].partition(":")
    assert (module, name) == (FmristoreBackend.__module__, FmristoreBackend.__name__)
    assert not FmristoreBackend().guess_can_open("a.h5")


@pytest.fixture(params=STORES)
def lazy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Dataset of a scaled run on an oblique grid."""
    source = write_nifti(tmp_path / "run.nii", make_values(), scales=SCALED)
    fs.convert(source, tmp_path / f"run.{request.param}").close()
    with open_dataset(tmp_path / f"run.{request.param}") as dataset:
        yield dataset


class TestIndexing:
    """xarray's three ways to index, against the same on values in memory."""

    INDEXERS: tuple[dict[str, Any], ...] = (
        {"x": 3},
        {"x": slice(1, 6, 2), "time": -1},
        {"z": slice(None, None, -1), "time": slice(7, 2, -2)},
        {"time": [0, 5, 2]},
        {"x": [4, 0], "time": [0, 5, 2], "y": 2},
        {"x": [False, True] * 3 + [True]},
        {"x": xr.DataArray([3, 0, 3], dims="v"), "y": xr.DataArray([1, 2, 0], dims="v")},
        {n: xr.DataArray([3, 0, 4], dims="v") for n in "xyz"},
        {n: xr.DataArray([3, 0, 4], dims="v") for n in ("x", "y", "z", "time")},
        {n: xr.DataArray([[3, 0], [4, 1]], dims=("a", "b")) for n in "xyz"},
        {"x": [], "time": 0},
    )

    @pytest.mark.parametrize("indexers", INDEXERS, ids=",".join)
    def test_as_in_memory(self, lazy: Any, indexers: dict[str, Any]) -> None:
        if isinstance(indexers.get("x"), list) and not indexers["x"] and XARRAY < (2026, 9):
            pytest.skip("some xarray before 2026.9 cannot index lazily by empty lists")
        xr.testing.assert_identical(lazy.isel(indexers).load(), lazy.load().isel(indexers))

    def test_one_after_the_other(self, lazy: Any) -> None:
        points = {n: xr.DataArray([3, 0, 4], dims="v") for n in "xyz"}
        for first in ({"time": slice(2, 8, 2)}, {"time": [5, 1]}, {"x": slice(None, None, -1)}):
            found = lazy.isel(first).isel(points)["data"]
            wanted = lazy["data"].load().isel(first).isel(points)
            assert_array_equal(found, wanted)
            lazy = lazy.copy()

    def test_only_what_is_asked_for_is_read(self, tmp_path: Path) -> None:
        store(tmp_path / "a.h5", make_values(), access="volume").close()
        with fs.open(tmp_path / "a.h5") as image, open_dataset(image.url) as lazy:
            with image.stats.watch() as read:
                lazy["data"].isel(time=slice(2, 4))
            assert read.chunks == 0
            with image.stats.watch() as read:
                lazy["data"].isel(time=3).load()
            assert read.chunks <= image.plan[..., 3].chunks


class TestCoordinates:
    def test_oblique_grids_have_coordinates_of_three_axes(self, lazy: Any) -> None:
        assert "x" not in lazy.coords
        where = lazy.isel(x=4, y=slice(2, 3), z=1)
        found = [float(where[name][0]) for name in ("x_mm", "y_mm", "z_mm")]
        assert_allclose(found, (AFFINE @ [4, 2, 1, 1])[:3], atol=1e-5)
        assert lazy["x_mm"].shape == SHAPE[:3]
        assert_allclose(lazy["time"], np.arange(SHAPE[3]) * 1.5)
        assert lazy["time"].attrs["units"] == "s"

    def test_axes_of_the_world(self, tmp_path: Path) -> None:
        with open_dataset(write("neurovec", tmp_path / "a.zarr")) as lazy:
            assert_array_equal(lazy["x"], np.arange(6) * 2.0)
            assert_array_equal(lazy["z"], np.arange(4) * 3.0)
            assert_allclose(lazy["data"].sel(x=4, y=2, z=6, time=3), RUN[2, 1, 2, 2] * 0.5 + 1)

    def test_names_of_parcels_maps_and_runs(self, tmp_path: Path) -> None:
        with open_dataset(write("parcellatedscansummary", tmp_path / "a.h5")) as lazy:
            assert list(lazy["parcel"].values) == list(NAMES.values())
            assert_array_equal(lazy["parcel_id"], list(NAMES))
            assert lazy["data"].sel(parcel="Right V1").shape == (RUN.shape[3],)
        with open_dataset(write("labeledvolumeset", tmp_path / "b.h5")) as lazy:
            assert list(lazy["label"].values) == ["Faces > Houses", "rest/.."]
        with open_dataset(write("neurovecseq", tmp_path / "c.h5")) as lazy:
            assert list(np.unique(lazy["run"])) == ["rest", "task"]
            assert_array_equal(lazy["time"].values[[0, 19, 20, 27]], [0, 28.5, 0, 14])

    def test_times_begin_where_the_run_does(self, tmp_path: Path) -> None:
        space = fs.NeuroSpace(
            spatial_shape=SHAPE[:3], affine=AFFINE, time_points=9, tr=1.5, time_offset=0.75
        )
        with fs.NeuroVec.create(make_values(), tmp_path / "a.h5", space=space) as image:
            assert_allclose(image.to_xarray()["time"], 0.75 + np.arange(9) * 1.5)

    def test_no_times_without_a_repetition_time(self, tmp_path: Path) -> None:
        with store(tmp_path / "a.h5", make_values(), tr=None) as image:
            assert "time" not in image.to_xarray().coords


class TestTrees:
    @pytest.mark.parametrize("kind", STORES)
    def test_runs_and_scans(self, kind: str, tmp_path: Path) -> None:
        for name, parts in {
            "neurovecseq": ["rest", "task"],
            "parcellatedmultiscan": ["rest", "task"],
            "latentneurovec": ["one", "two"],
        }.items():
            url = write(name, tmp_path / f"{name}.{kind}")
            with open_datatree(url) as tree, fs.open(url) as stored:
                assert list(tree.children) == parts
                for part in parts:
                    assert_array_equal(tree[part]["data"], np.asarray(stored.part(part)))
                    one = open_dataset(url, group=part)
                    assert_array_equal(one["data"], tree[part]["data"])
                    one.close()

    def test_a_single_image_is_the_root(self, tmp_path: Path) -> None:
        with open_datatree(write("neurovec", tmp_path / "a.h5")) as tree:
            assert tree["data"].shape == RUN.shape

    def test_several_scans_are_no_dataset(self, tmp_path: Path) -> None:
        url = write("parcellatedmultiscan", tmp_path / "a.h5")
        with pytest.raises(InvalidInputError, match=r"a\.h5.*open_datatree.*rest, task"):
            open_dataset(url)
        with fs.open(url) as stored:
            tree = stored.to_xarray()
        assert list(tree.children) == ["rest", "task"]
        assert tree["task"]["data"].shape == (8, 3)
        tree.close()

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            open_dataset(tmp_path / "a.h5")
        url = write("neurovecseq", tmp_path / "b.h5")
        with pytest.raises(SelectionError, match="no run 'nap'"):
            open_dataset(url, group="nap")


class TestAccessor:
    def test_series(self, lazy: Any) -> None:
        mask = np.zeros(SHAPE[:3], bool)
        mask[1:5, 2:4, ::2] = True
        values = lazy["data"].values
        found = lazy.fmri.series(mask)
        assert found.dims == ("time", "voxel")
        assert_array_equal(found, values[mask].T)
        assert_array_equal(lazy.isel(time=slice(2, 5)).fmri.series(mask), values[mask].T[2:5])
        assert_allclose(
            found["x_mm"], (np.argwhere(mask) @ AFFINE[0, :3]) + AFFINE[0, 3], atol=1e-5
        )
        with pytest.raises(InvalidInputError):
            lazy.isel(x=slice(1, 4)).fmri.series(mask)

    def test_series_decode_each_chunk_once(self, tmp_path: Path) -> None:
        write("neurovec", tmp_path / "a.h5")
        with fs.open(tmp_path / "a.h5") as image, image.stats.watch() as wanted:
            image.series(mask=MASK)
        with open_dataset(tmp_path / "a.h5") as lazy, image.stats.watch() as read:
            lazy.fmri.series(MASK).load()
        assert read.chunks <= wanted.chunks

    def test_to_nibabel(self, lazy: Any, tmp_path: Path) -> None:
        wanted = nibabel.load(tmp_path / "run.nii")
        found = lazy.fmri.to_nibabel()
        assert_allclose(found.affine, wanted.affine, atol=1e-5)
        assert_allclose(found.get_fdata(), wanted.get_fdata(), rtol=1e-6)
        assert_allclose(found.header.get_zooms(), (*nibabel.affines.voxel_sizes(AFFINE), 1.5), 1e-5)
        assert found.header["descrip"] == wanted.header["descrip"]
        part = {"x": slice(6, 1, -2), "z": slice(1, 2), "time": slice(2, 8, 3)}
        found = lazy.isel(part).fmri.to_nibabel()
        assert_allclose(found.affine @ [1, 0, 0, 1], wanted.affine @ [4, 0, 1, 1], atol=1e-5)
        assert found.header.get_zooms()[3] == 4.5
        assert_allclose(found.get_fdata(), wanted.get_fdata()[6:1:-2, :, 1:2, 2:8:3], rtol=1e-6)
        mean = lazy["data"].mean("time", keep_attrs=True).fmri.to_nibabel()
        assert mean.shape == SHAPE[:3]

    def test_a_grid_must_be_left(self, lazy: Any) -> None:
        with pytest.raises(InvalidInputError, match=r"no axis x.*slice"):
            lazy.isel(x=3).fmri.to_nibabel()
        with pytest.raises(InvalidInputError, match="steps along y are not equal"):
            lazy.isel(y=[0, 1, 4]).fmri.to_nibabel()

    def test_as_netcdf(self, lazy: Any, tmp_path: Path) -> None:
        lazy.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        with library.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as again:
            assert_array_equal(again["data"], lazy["data"])
            assert_allclose(again.fmri.affine, AFFINE, atol=1e-5)


def test_blocks_of_dask_are_whole_chunks(tmp_path: Path) -> None:
    for access in ("time", "volume", "balanced"):
        with store(tmp_path / f"{access}.zarr", make_values((40, 30, 20, 30)), access=access) as a:
            blocks = a.to_dask(a.chunks)
            decoded = 0
            for block in np.ndindex(blocks.numblocks):
                place = tuple(
                    slice(sum(sizes[:i]), sum(sizes[: i + 1]))
                    for sizes, i in zip(blocks.chunks, block, strict=True)
                )
                decoded += a.plan[place].chunks
                assert parse_index(place, a.shape).shape == blocks.blocks[block].shape
            assert decoded == a.plan[...].chunks
