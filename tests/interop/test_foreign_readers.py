"""Readers of other projects open every format in both containers, with the same values."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pytest
import xarray
import zarr

import fmristore as fs
from fmristore.transcoding.tree import walk
from fmristore_stores import open_store
from fmristore_stores.protocol import AnyArray
from tests.every_format import AFFINE, NAMES, RUN, WRITERS

_plugins = os.environ.get("HDF5_PLUGIN_PATH")
netcdf4: Any = pytest.importorskip("netCDF4")
if _plugins is None:  # which netCDF4 sets, for this process and its children
    os.environ.pop("HDF5_PLUGIN_PATH", None)

Arrays = dict[str, AnyArray]
"""Arrays by path."""

ALIGNED = {name: AFFINE[a, a] * np.arange(RUN.shape[a]) for a, name in enumerate("xyz")}
PARCELS, RUNS = list(NAMES.values()), ("rest", "task")
COORDINATES: dict[str, dict[str, Any]] = {
    "labeledvolumeset": ALIGNED | {"label": ["Faces > Houses", "rest/.."]},
    "latentneurovec": ALIGNED
    | {
        f"scans/{name}/{axis}": values
        for name, count in (("one", 9), ("two", 7))
        for axis, values in (("t", np.arange(count) * 2.0), ("scan", name))
    },
    "maskedneurovec": ALIGNED | {"t": np.arange(20) * 1.5},
    "neurovec": ALIGNED | {"t": np.arange(20) * 1.5},
    "neurovecseq": {
        f"runs/{name}/{axis}": values
        for name, times in (("rest", np.arange(20) * 1.5), ("task", np.arange(8) * 2.0))
        for axis, values in (ALIGNED | {"t": times, "run": name}).items()
    },
    "neurovol": ALIGNED,
    "parcellatedmultiscan": {f"parcellation/{name}": ALIGNED[name] for name in ALIGNED}
    | {"scans/rest/t": np.arange(20) * 1.5, "scans/rest/scan": "rest"}
    | {"scans/task/t": np.arange(8) * 2.0, "scans/task/parcel": PARCELS},
    "parcellatedscan": {f"parcellation/{name}": ALIGNED[name] for name in ALIGNED}
    | {"scans/rest/t": np.arange(20) * 1.5, "scans/rest/scan": "rest"},
    "parcellatedscansummary": {f"parcellation/{name}": ALIGNED[name] for name in ALIGNED}
    | {"scans/rest/t": np.arange(20) * 1.5, "scans/rest/parcel": PARCELS},
}
"""Of every format in `tests.every_format`, by path."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Path of a store of a format with an ending, which is written once."""
    folder = tmp_path_factory.mktemp("foreign")

    def get(name: str, ending: str) -> Path:
        path = folder / f"{name}.{ending}"
        if not path.exists():
            WRITERS[name](path).close()
        return path

    return get


def by_tree(path: Path, engine: str) -> Arrays:
    """All variables, as xarray shows them in its tree."""
    with _quiet(), xarray.open_datatree(path, engine=engine, mask_and_scale=False) as tree:
        return {
            f"{node.path}/{name}".strip("/"): variable.to_numpy()
            for node in tree.subtree
            for name, variable in node.to_dataset(inherit=False).variables.items()
        }


def by_dataset(path: Path, engine: str) -> Arrays:
    """All variables, group after group as datasets of xarray."""
    found: Arrays = {}
    for group in groups(path):
        with (
            _quiet(),
            xarray.open_dataset(path, engine=engine, group=group, mask_and_scale=False) as data,
        ):
            for name, variable in data.variables.items():
                found[f"{group}/{name}".strip("/")] = variable.to_numpy()
    return found


def by_h5netcdf(path: Path) -> Arrays:
    """All variables of h5netcdf."""
    with h5netcdf.File(path, "r") as file:
        return {
            f"{group}/{name}".strip("/"): _decoded(variable[...])
            for group in groups(path)
            for name, variable in (file[group] if group else file).variables.items()
        }


def _decoded(values: Any) -> AnyArray:
    """Text where h5netcdf gives bytes."""
    values = np.asarray(values)
    return np.strings.decode(values.astype(bytes), "utf-8") if values.dtype.kind in "OS" else values


def by_netcdf4(path: Path) -> Arrays:
    """All variables of netCDF's library."""
    with netcdf4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        return {
            f"{group}/{name}".strip("/"): np.asarray(variable[...])
            for group in groups(path)
            for name, variable in (file[group] if group else file).variables.items()
        }


def by_h5py(path: Path) -> Arrays:
    """All datasets that are not just dimensions."""
    found: Arrays = {}

    def take(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            text = node.dtype.kind == "O"
            found[name] = np.asarray(node.asstr()[()] if text else node[()])

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def by_zarr(path: Path) -> Arrays:
    """All arrays of zarr-python."""
    found: Any = zarr.open_group(path, mode="r").members(max_depth=None)
    return {name: np.asarray(node[...]) for name, node in found if isinstance(node, zarr.Array)}


def groups(path: Path) -> list[str]:
    """Paths of the groups of a store."""
    with open_store(path) as store:
        return list(walk(store.root).groups)


def _quiet() -> Any:
    """Without warnings: of zarr on stores without consolidated metadata."""
    return warnings.catch_warnings(action="ignore")


READERS: dict[str, tuple[str, Callable[[Path], Arrays]]] = {
    "h5netcdf": ("h5", by_h5netcdf),
    "h5py": ("h5", by_h5py),
    "netCDF4": ("h5", by_netcdf4),
    "open_dataset, h5netcdf": ("h5", lambda path: by_dataset(path, "h5netcdf")),
    "open_dataset, netcdf4": ("h5", lambda path: by_dataset(path, "netcdf4")),
    "open_dataset, zarr": ("zarr", lambda path: by_dataset(path, "zarr")),
    "open_datatree, h5netcdf": ("h5", lambda path: by_tree(path, "h5netcdf")),
    "open_datatree, netcdf4": ("h5", lambda path: by_tree(path, "netcdf4")),
    "open_datatree, zarr": ("zarr", lambda path: by_tree(path, "zarr")),
    "zarr": ("zarr", by_zarr),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", WRITERS)
def test_same_values(stored: Callable[[str, str], Path], name: str, reader: str) -> None:
    ending, read = READERS[reader]
    path = stored(name, ending)
    found = read(path)
    with open_store(path) as store:
        own = {key: array.read() for key, array in walk(store.root).arrays.items()}
    assert COORDINATES[name].keys() <= own.keys() <= found.keys()
    for key, values in own.items():
        assert found[key].tolist() == values.tolist(), key
    for key, values in COORDINATES[name].items():
        assert found[key].tolist() == np.asarray(values).tolist(), key


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("ending", "engine"), [("h5", "h5netcdf"), ("zarr", "zarr")])
def test_they_are_coordinates(
    stored: Callable[[str, str], Path], name: str, ending: str, engine: str
) -> None:
    with _quiet(), xarray.open_datatree(stored(name, ending), engine=engine) as tree:
        for key in COORDINATES[name]:
            folder, _, axis = key.rpartition("/")
            node: Any = tree[folder] if folder else tree
            assert axis in node.to_dataset(inherit=False).coords, key


@pytest.mark.skipif(shutil.which("ncdump") is None, reason="netCDF's tools are not installed")
@pytest.mark.parametrize("name", WRITERS)
def test_ncdump(stored: Callable[[str, str], Path], name: str) -> None:
    path = stored(name, "h5")
    done = subprocess.run(["ncdump", "-h", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ":affine = " in done.stdout
    assert "double x(x)" in done.stdout


NETCDF4_FIRST = """
import os, sys
import netCDF4
import numpy as np
import fmristore as fs

run = np.arange(4 * 5 * 3 * 6, dtype="i2").reshape(4, 5, 3, 6)
for codec in ("fast", "dual", "portable"):
    with fs.NeuroVec.create(run, f"{sys.argv[1]}/{codec}.h5", space=np.eye(4), codec=codec) as made:
        assert (made[...] == run).all()
if os.environ.get("HDF5_PLUGIN_PATH"):
    import h5py  # what others read with the plugin stays readable
    with h5py.File(f"{sys.argv[1]}/fast.h5") as file:
        assert sorted(file["0"][...].ravel()) == sorted(run.ravel())
    with h5py.File(f"{sys.argv[1]}/other.h5", "w") as file:
        try:  # without that function the plugin would divide by zero
            file.create_dataset("x", data=run, compression=32001, chunks=(2, 2, 2, 2))
        except (ValueError, OSError):
            pass
    from fmristore_stores.hdf5.stand_in import plain_filters
    with plain_filters([32999]) as found:
        assert not found
"""


def test_blosc_is_written_after_netcdf4_was_imported(tmp_path: Path) -> None:
    """netCDF4 lets HDF5 find plugins that belong to its own copy of the library."""
    done = subprocess.run(
        [sys.executable, "-c", NETCDF4_FIRST, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with fs.open(tmp_path / "fast.h5") as image:
        np.testing.assert_array_equal(image[...].ravel(), np.arange(360))


def test_there_are_no_axes_of_zeros(tmp_path: Path) -> None:
    """Axes of images that are not in mm and seconds are counted, also those of a copy."""
    affine = np.array([[0, -2.0, 0, 5], [2, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    url = tmp_path / "oblique.h5"
    fs.NeuroVec.create(RUN, url, space=affine, access="both").close()
    fs.transcode(url, tmp_path / "oblique.zarr")
    assert fs.verify(url, deep=True)
    with h5py.File(url) as file:
        for group in (file, file["volume"]):
            for axis, length in zip("xyzt", RUN.shape, strict=True):
                assert group[axis][...].tolist() == list(range(length))
                assert "units" not in group[axis].attrs
    found = by_zarr(tmp_path / "oblique.zarr")
    assert found["volume/x"].tolist() == found["x"].tolist() == list(range(RUN.shape[0]))


def test_colours_are_named(tmp_path: Path) -> None:
    values = np.zeros((3, 4, 5), [(name, "u1") for name in "RGB"])
    for ending, read in (("h5", by_h5py), ("zarr", by_zarr)):
        fs.NeuroVol.create(values, tmp_path / f"a.{ending}", space=np.eye(4)).close()
        assert read(tmp_path / f"a.{ending}")["c"].tolist() == ["red", "green", "blue"]


@pytest.mark.parametrize("access", ["time", "volume", "both"])
def test_a_copy_that_a_transcode_makes_has_coordinates(tmp_path: Path, access: Any) -> None:
    url, new = tmp_path / "a.zarr", tmp_path / "b.h5"
    fs.NeuroVec.create(RUN, url, space=AFFINE, tr=2.0, access="time").close()
    fs.transcode(url, new, access=access, codec="portable")
    fs.transcode(new, tmp_path / "c.zarr", access="time")
    copied = {f"volume/{axis}" for axis in "xyzt"} if access == "both" else set()
    found = by_h5py(new)
    assert {key for key in found if key.startswith("volume/") and key[-1] != "0"} == copied
    for key in copied:
        assert found[key].tolist() == found[key[-1]].tolist()
    assert not [key for key in by_zarr(tmp_path / "c.zarr") if key.startswith("volume")]


def test_opening_reads_no_coordinate(tmp_path: Path) -> None:
    for name, ending in (("maskedneurovec", "zarr"), ("neurovec", "zarr")):
        url = tmp_path / f"{name}.{ending}"
        WRITERS[name](url).close()
        for axis in "xyzt":  # were one read, opening would fail
            shutil.rmtree(url / axis / "c")
            (url / axis / "c").write_bytes(b"")
        with fs.open(url) as opened:
            assert np.asarray(opened).shape == opened.shape


def test_verify_compares_coordinates(tmp_path: Path) -> None:
    url = tmp_path / "a.h5"
    WRITERS["parcellatedscan"](url).close()
    with h5py.File(url, "r+") as file:
        file["parcellation/y"][1] = 7
    assert [problem.kind for problem in fs.verify(url).problems] == ["coordinates"]
