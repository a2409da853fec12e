"""The runs that are measured, as NIfTI files and as stores of every kind."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike

import fmristore as fs
from fmristore.demo import make_run
from fmristore.planning.layout import Access, Pattern
from fmristore_stores.protocol import AnyArray

__all__ = [
    "ACCESSES",
    "STORES",
    "Run",
    "StoreKind",
    "find_runs",
    "nbytes",
    "prepare_store",
    "remove",
]

ACCESSES: tuple[Pattern, ...] = get_args(Pattern)

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
        """True if it is an HDF5 file."""
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


class Run:
    """One run, in memory and as NIfTI; made when it is first asked for.

    Parameters
    ----------
    name : str
        Short name for the tables.
    shape : tuple of int, (X, Y, Z, T)
        Of the run.
    dtype : dtype
        Of the stored values.
    make : callable
        Takes a path that it may write to and returns a nibabel image.
    folder : Path
        Where the NIfTI files and the stores of the run go.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        *,
        make: Callable[[Path], Any],
        folder: Path,
    ) -> None:
        self.name = name
        self.shape = shape
        self.nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        self.folder = folder
        self._make = make

    @cached_property
    def nii(self) -> Path:
        """Uncompressed NIfTI file without slope and intercept."""
        path = self.folder / "run.nii"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                _write_plain(self._make(Path(scratch) / "made.nii"), path)
        return path

    @cached_property
    def nii_gz(self) -> Path:
        """The same, compressed with level 6."""
        path = self.folder / "run.nii.gz"
        if not path.exists():
            data = self.nii.read_bytes()
            with gzip.GzipFile(path, "wb", compresslevel=GZIP_LEVEL, mtime=0) as file:
                file.write(data)
        return path

    @cached_property
    def affine(self) -> AnyArray:
        """(4, 4): voxel to mm."""
        image: Any = nib.load(self.nii)
        return np.asarray(image.affine)

    @cached_property
    def values(self) -> AnyArray:
        """(X, Y, Z, T): stored values, x fastest, read-only."""
        image: Any = nib.load(self.nii)
        values = np.array(np.asarray(image.dataobj), order="F")
        values.flags.writeable = False
        return values

    @cached_property
    def inside(self) -> AnyArray:
        """(n, 3): voxels whose mean is above the mean of all."""
        mean = self.values.mean(axis=3)
        return np.argwhere(mean > mean.mean())


def find_runs(
    workdir: Path,
    *,
    quick: bool = False,
    shape: tuple[int, ...] | None = None,
    say: Callable[[str], None] = print,
) -> list[Run]:
    """Find out which runs can be measured.

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
    runs = []
    real = _shared() / ONE_BACK
    if shape is None and real.is_file():
        image: Any = nib.load(real)
        dtype = image.get_data_dtype()
        folder = workdir / "one-back"
        runs.append(Run("one-back", image.shape, dtype, make=lambda _: image, folder=folder))
    elif shape is None:
        say(f"no real run: {ONE_BACK} is not in the shared data")
    if not (quick and runs):
        shape = shape or GENERATED_SHAPE
        make = partial(_generate, shape=shape)
        runs.append(Run("generated", shape, np.int16, make=make, folder=workdir / "generated"))
    return runs


def _shared() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared"
    return Path(os.environ.get("FMRISTORE_SHARED_DATA", beside))


def _generate(path: Path, *, shape: tuple[int, ...]) -> Any:
    x, y, z, t = shape
    make_run(path, shape=(x, y, z, t))
    return nib.load(path)


def _write_plain(source: Any, path: Path) -> None:
    """Write the stored values of an image without a slope, so that all engines return them."""
    values = np.asarray(source.dataobj.get_unscaled())
    image: Any = nib.Nifti1Image(values, source.affine)  # type: ignore[no-untyped-call]
    image.header.set_zooms(source.header.get_zooms())
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


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
