"""One voxel in a new process: ``python -m benchmarks.measure_start``.

What a script, a job of a cluster or a worker of a pool waits for before it has the first time
series: Python itself, the packages that it imports, opening, and reading one voxel. All take turns;
files that are read, modules and packages lie in the system's cache.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib

import fmristore as fs
from fmristore.demo import make_run

__all__ = ["main", "start_rows"]

SHAPE = (64, 64, 40, 120)
"""Of the generated run."""
_AT = "at = dict(x=30, y=31, z=20, t=slice(None))\n"
_OURS = "import fmristore as fs\nwith fs.open('FILE') as run: print(*run.raw[30, 31, 20])"
_H5PY = (
    f"import h5py\n{_AT}with h5py.File('FILE') as file:\n"
    "    print(*file['0'][tuple(at[dim.label] for dim in file['0'].dims)])"
)
_ZARR = (
    f"import zarr\n{_AT}array = zarr.open_group('FILE', mode='r')['0']\n"
    "print(*array[tuple(at[dim] for dim in array.metadata.dimension_names)])"
)
_TENSORSTORE = (
    f"import tensorstore\n{_AT}files = dict(driver='file', path='FILE/0/')\n"
    "array = tensorstore.open(dict(driver='zarr3', kvstore=files)).result()\n"
    "print(*array[tuple(at[dim] for dim in array.domain.labels)].read().result())"
)
_NIBABEL = "import nibabel\nprint(*nibabel.load('FILE').dataobj[30, 31, 20])"
PROGRAMS = (
    ("Python", "", "pass"),
    ("Python and numpy", "", "import numpy"),
    ("fmristore", "portable.h5", _OURS),
    ("h5py", "portable.h5", _H5PY),
    ("fmristore", "dual.h5", _OURS),
    ("h5py", "dual.h5", f"import hdf5plugin\n{_H5PY}"),
    ("fmristore", "dual.ome.zarr", _OURS),
    ("zarr-python", "dual.ome.zarr", _ZARR),
    ("tensorstore", "dual.ome.zarr", _TENSORSTORE),
    ("nibabel", "run.nii", _NIBABEL),
)
"""Engine, file, and program that prints the values of a voxel."""


def start_rows(folder: Path, repetitions: int) -> list[tuple[str, str, float, float]]:
    """Measure every program.

    Parameters
    ----------
    folder : Path
        An empty one.
    repetitions : int
        Of each, after one that is not counted.

    Returns
    -------
    list of (str, str, float, float)
        Engine, file, and seconds: median and least.
    """
    image = folder / "run.nii"
    make_run(image, shape=SHAPE)
    loaded: Any = nib.load(image)
    for name in ("portable.h5", "dual.h5", "dual.ome.zarr"):
        fs.convert(image, folder / name, codec=name.partition(".")[0]).close()
    scaled = " ".join(map(str, loaded.dataobj[30, 31, 20]))
    raw = " ".join(map(str, loaded.dataobj.get_unscaled()[30, 31, 20]))
    times: list[list[float]] = [[] for _ in PROGRAMS]
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(folder / "modules")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled as where a package is installed
    for _ in range(repetitions + 1):
        for (_, name, program), found in zip(PROGRAMS, times, strict=True):
            begin = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", program.replace("FILE", str(folder / name))],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            found.append(time.perf_counter() - begin)
            if name and done.stdout.strip() != (scaled if name == image.name else raw):
                raise AssertionError(f"{program}: wrong values")
    return [
        (engine, name, statistics.median(found[1:]), min(found[1:]))
        for (engine, name, _), found in zip(PROGRAMS, times, strict=True)
    ]


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure_start")
    parser.add_argument("--repetitions", type=int, default=15, metavar="N", help="of each program")
    options = parser.parse_args()
    print("| | file | median, ms | least, ms |\n|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for engine, name, median, least in start_rows(Path(folder), options.repetitions):
            print(f"| {engine} | {name} | {1e3 * median:.0f} | {1e3 * least:.0f} |")


if __name__ == "__main__":
    main()
