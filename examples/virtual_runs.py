"""Runs in HDF5 and NIfTI files as one Zarr store, with nothing converted.

Run as ``python virtual_runs.py``. Needs xarray; where icechunk is installed (Python
3.12 and fmristore[icechunk]), also as versions of a repository.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import xarray as xr
import zarr

import fmristore as fs

SHAPE = (24, 24, 16, 40)


def make_runs(folder: Path) -> list[Path]:
    """Two runs in HDF5 files, and one in a NIfTI file."""
    random = np.random.default_rng(0)
    paths = [folder / f"sub-0{i}_task-rest_bold.h5" for i in (1, 2)]
    for path in paths:
        data = random.integers(0, 900, SHAPE).astype(np.int16)
        fs.NeuroVec.create(data, path, space=np.diag([3.0, 3, 3, 1]), tr=2.0).close()
    with fs.open(paths[0]) as run:
        run.to_nifti(folder / "sub-03_task-rest_bold.nii")
    return [*paths, folder / "sub-03_task-rest_bold.nii"]


def read_as_one(runs: list[Path], references: Path) -> None:
    """One reference file of all runs, read by fmristore and by xarray."""
    report = fs.virtualize(runs, references)
    size = sum(path.stat().st_size for path in runs)
    print(f"{len(report.groups)} runs of {size:,} bytes, a reference file of {report.nbytes:,}")

    with fs.open(references, group="sub-02_task-rest_bold") as bold, fs.open(runs[1]) as same:
        print(f"fmristore: {bold.shape}, equal: {np.array_equal(bold[12, 12, 8], same[12, 12, 8])}")
    files: Any = fsspec.filesystem("reference", fo=str(references), asynchronous=True)
    store: Any = zarr.storage.FsspecStore(files, read_only=True)
    with xr.open_datatree(store, engine="zarr") as tree:
        data: Any = tree["sub-03_task-rest_bold"].to_dataset()
        print(
            f"xarray: {len(tree.children)} runs, {dict(data['0'].sizes)}, {data['t'].values[:3]} s"
        )


def make_versions(runs: list[Path], repository: Path) -> None:
    """Two versions of a repository, the first of two runs."""
    if importlib.util.find_spec("icechunk") is None:
        print("icechunk is not installed: no versions")
        return
    fs.virtualize(runs[:2], repository, to="icechunk", message="two subjects", tag="first")
    fs.virtualize(runs[2:], repository, to="icechunk", message="one more")
    for version in ("first", "main"):
        group: Any = zarr.open_group(fs.open_icechunk(repository, version), mode="r")
        print(f"version {version}: {len(list(group.groups()))} runs")


def main() -> None:
    """Make a reference file of all runs and read it, and make versions of it."""
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(Path(folder))
        read_as_one(runs, Path(folder, "rest.refs.json"))
        make_versions(runs, Path(folder, "rest.icechunk"))


if __name__ == "__main__":
    main()
