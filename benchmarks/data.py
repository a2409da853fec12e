"""The runs that are measured, as NIfTI files and as stores of every kind."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np

import fmristore as fs
from fmristore.demo import make_run
from fmristore.layout import Access
from fmristore_stores.protocol import AnyArray

__all__ = [
    "ACCESSES",
    "STORES",
    "Run",
    "StoreKind",
    "load_runs",
    "nbytes",
    "prepare_store",
    "remove",
]

ACCESSES: tuple[Access, ...] = get_args(Access)

ONE_BACK = "data/real/bold/sub-02_task-oneback_run-1_bold.nii.gz"
GENERATED_SHAPE = (64, 64, 40, 200)
GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class StoreKind:
    """A store with a codec preset."""

    name: str
    suffix: str
    codec: str

    @property
    def hdf5(self) -> bool:
        """Whether it is an HDF5 file."""
        return self.suffix == ".h5"


STORES = {
    kind.name: kind
    for kind in (
        StoreKind("hdf5-portable", ".h5", "portable"),
        StoreKind("hdf5-dual", ".h5", "dual"),
        StoreKind("zarr-dual", ".ome.zarr", "dual"),
    )
}
"""What is read: the defaults of both stores, and HDF5 with Zarr's codec."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run, in memory and as NIfTI.

    Parameters
    ----------
    name : str
        Short name for the tables.
    values : ndarray, (X, Y, Z, T)
        Stored numbers, x fastest, read-only.
    affine : ndarray, (4, 4)
        Voxel to mm.
    inside : ndarray of int, (n, 3)
        Voxels whose mean is above the mean of all.
    nii, nii_gz : Path
        The run without slope and intercept, gzip level 6.
    folder : Path
        Where stores of the run go.
    """

    name: str
    values: AnyArray
    affine: AnyArray
    inside: AnyArray
    nii: Path
    nii_gz: Path
    folder: Path


def load_runs(
    workdir: Path,
    *,
    quick: bool = False,
    shape: tuple[int, ...] | None = None,
    say: Callable[[str], None] = print,
) -> list[Run]:
    """Bring the runs to the working directory.

    Parameters
    ----------
    workdir : Path
        NIfTI files that are there already are used again.
    quick : bool
        Only one run: the real one if there is one.
    shape : tuple of int, (X, Y, Z, T), optional
        Measure a generated run of this shape and nothing else.
    say : callable
        Takes a line about what is missing.
    """
    real = _shared() / ONE_BACK
    sources: dict[str, Callable[[Path], Any]] = {}
    if shape is None and real.is_file():
        sources["one-back"] = lambda _: nib.load(real)  # type: ignore[attr-defined]
    elif shape is None:
        say(f"no real run: {ONE_BACK} is not in the shared data")
    if not (quick and sources):
        sources["generated"] = lambda path: _generate(path, shape or GENERATED_SHAPE)
    return [_bring(name, make, workdir / name) for name, make in sources.items()]


def _shared() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("FMRISTORE_SHARED_DATA", beside))


def _generate(path: Path, shape: tuple[int, ...]) -> Any:
    x, y, z, t = shape
    make_run(path, shape=(x, y, z, t))
    return nib.load(path)  # type: ignore[attr-defined]


def _bring(name: str, make: Callable[[Path], Any], folder: Path) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    nii, nii_gz = folder / "run.nii", folder / "run.nii.gz"
    if not (nii.exists() and nii_gz.exists()):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _write_plain(make(Path(scratch) / "made.nii"), nii)
        with gzip.GzipFile(nii_gz, "wb", compresslevel=GZIP_LEVEL, mtime=0) as file:
            file.write(nii.read_bytes())
    image: Any = nib.load(nii)  # type: ignore[attr-defined]
    values = np.array(image.dataobj, order="F")
    values.flags.writeable = False
    mean = values.mean(axis=3)
    inside = np.argwhere(mean > mean.mean())
    return Run(name, values, image.affine, inside, nii, nii_gz, folder)


def _write_plain(source: Any, path: Path) -> None:
    """Write the stored numbers of an image without a slope, so that all engines return them."""
    values = np.asarray(source.dataobj.get_unscaled())
    image: Any = nib.Nifti1Image(values, source.affine)  # type: ignore[attr-defined, no-untyped-call]
    image.header.set_zooms(source.header.get_zooms())
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)  # type: ignore[attr-defined]


def prepare_store(run: Run, kind: StoreKind, access: Access, *, codec: str | None = None) -> Path:
    """Convert a run, replacing what an earlier version may have left."""
    chosen = codec or kind.codec
    path = run.folder / f"{access}-{chosen}{kind.suffix}"
    fs.convert(run.nii_gz, path, access=access, codec=chosen, overwrite=True)
    return path


def nbytes(path: Path) -> int:
    """Size of a file, or of all files of a directory."""
    if path.is_file():
        return path.stat().st_size
    return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())


def remove(path: Path) -> None:
    """Delete a file or directory, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
