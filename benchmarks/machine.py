"""What the data depend on: the machine and the versions of the packages."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import h5py
import numcodecs.blosc

from fmristore_stores.chunks.threads import worker_count

__all__ = ["machine", "versions"]

_PACKAGES = (
    *(
        "fmristore",
        "numpy",
        "h5py",
        "hdf5plugin",
        "pyfive",
        "zarr",
        "zarrs",
        "tensorstore",
        "numcodecs",
    ),
    *("blosc2", "isal", "nibabel", "indexed_gzip", "dask", "fsspec"),
)


def machine() -> dict[str, str | int]:
    """Cores, processor, memory and system, but no names or paths."""
    return {
        "processor": _processor(),
        "cores": worker_count(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that take part, and of the libraries below them."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["HDF5"] = h5py.version.hdf5_version
    found["Blosc in numcodecs"] = numcodecs.blosc.VERSION_STRING
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gb() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        return round(int(meminfo.read_text().split()[1]) / 1e6)
    return 0
