"""Ways of reading a run: fmristore, its peers, and the least that has to be done."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, cast

from benchmarks.selections import Selection
from fmristore_stores.protocol import AnyArray

__all__ = ["DEFLATE", "HDF5", "NIFTI", "ZARR", "Engine", "available"]


class Engine(ABC):
    """Reads one file or store, which it holds open.

    Parameters
    ----------
    path : Path
        The file or store.
    """

    label: ClassVar[str]

    @abstractmethod
    def __init__(self, path: Path) -> None: ...

    @abstractmethod
    def read(self, selection: Selection) -> AnyArray:
        """Read a selection: an array as `Selection.of` returns it, not a view of the file."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def prepare(self, selection: Selection) -> Callable[[], AnyArray]:
        """Forget what was read before, and return the work of reading the selection."""
        return partial(self.read, selection)


_MODULES = {
    "h5py": ("with_h5py", "H5py"),
    "pyfive": ("with_pyfive", "PyFive"),
    "zarr-python": ("with_zarr", "ZarrPython"),
    "zarrs": ("with_zarr", "Zarrs"),
    "tensorstore": ("with_tensorstore", "TensorStore"),
    "nibabel .nii": ("with_nibabel", "Nii"),
    "nibabel .nii.gz": ("with_nibabel", "NiiGz"),
}
_NEEDS: Mapping[str, Sequence[str]] = {
    "h5py": ("h5py", "hdf5plugin"),
    "pyfive": ("pyfive",),
    "zarr-python": ("zarr",),
    "zarrs": ("zarrs",),
    "tensorstore": ("tensorstore",),
    "nibabel .nii": ("nibabel",),
    "nibabel .nii.gz": ("nibabel", "indexed_gzip"),
}

HDF5 = ("h5py",)
"""Peers that read HDF5."""
DEFLATE = ("pyfive",)
"""Peers that read HDF5 compressed with deflate alone."""
ZARR = ("zarr-python", "zarrs", "tensorstore")
"""Peers that read Zarr."""
NIFTI = ("nibabel .nii", "nibabel .nii.gz")
"""Peers that read the NIfTI file that the stores were made from."""


def available() -> tuple[dict[str, type[Engine]], dict[str, str]]:
    """Peers that can be measured here, by label; and what those that cannot be are missing."""
    found: dict[str, type[Engine]] = {}
    missing: dict[str, str] = {}
    for label, (module, name) in _MODULES.items():
        try:
            for package in _NEEDS[label]:
                importlib.import_module(package)
        except ImportError as error:
            missing[label] = f"{error.name or error} is not installed"
            continue
        home = importlib.import_module(f"{__name__}.{module}")
        found[label] = cast("type[Engine]", getattr(home, name))
    return found, missing
