"""Images for the tests of stored volumes and runs: made up, stored in every way, looked after."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore.planning.layout import Access
from fmristore_stores.protocol import AnyArray

nibabel: Any = untyped_nibabel

STORES = ("h5", "ome.zarr")
"""Endings that ask for each kind of store."""

LAYOUTS: tuple[Access, ...] = ("time", "volume", "balanced")

ROOT = Path(__file__).resolve().parents[1]

AFFINE = np.array([[-2.0, 0.1, 0, 30], [0, 2.5, -0.2, -40], [0.1, 0, 3.0, -20], [0, 0, 0, 1]])
"""Oblique, with three voxel sizes and a negative first axis."""

SHAPE = (7, 6, 5, 9)


def make_values(
    shape: tuple[int, ...] = SHAPE, dtype: Any = "i2", *, seed: int = 0, nan: bool = True
) -> AnyArray:
    """Numbers that are all different where the type allows; floats with NaN and infinities."""
    rng = np.random.default_rng(seed)
    wanted = np.dtype(dtype)
    if wanted.names:
        flat = rng.integers(0, 256, (*shape, len(wanted.names)), np.uint8)
        colours: AnyArray = flat.view(wanted)[..., 0]
        return colours
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        native = wanted.newbyteorder("=")
        drawn = rng.integers(limits.min, limits.max, shape, native, endpoint=True)
        values: AnyArray = drawn.astype(wanted)
        return values
    real = rng.normal(scale=100, size=shape)
    if wanted.kind == "c":
        return (real + 1j * rng.normal(size=shape)).astype(wanted)
    values = real.astype(wanted)
    if nan and values.size > 3:
        values.reshape(-1)[:3] = np.nan, np.inf, -np.inf
    return values


@dataclass(frozen=True)
class Scales:
    """A slope and an intercept, and what they make of stored values."""

    slope: float | None = 0.25
    inter: float | None = -3.5

    def apply(self, stored: AnyArray) -> AnyArray:
        """The scaled values, computed as the reading of 16-bit integers promises to."""
        if self.slope is None:
            return stored
        return stored.astype("f4") * np.float32(self.slope) + np.float32(self.inter or 0)


RAW, SCALED = Scales(None, None), Scales()


def store(
    url: str | os.PathLike[str], values: AnyArray, *, scales: Scales = RAW, **options: Any
) -> Any:
    """Store an array and open it as an image."""
    cls = fs.NeuroVec if values.ndim == 4 else fs.NeuroVol
    options = {"space": AFFINE, "slope": scales.slope, "inter": scales.inter} | options
    if values.ndim == 4:
        options = {"tr": 1.5} | options
    return cls.create(values, url, **options)


def write_nifti(
    path: Path,
    values: AnyArray,
    *,
    scales: Scales = RAW,
    affine: AnyArray = AFFINE,
    version: int = 1,
) -> Path:
    """Write stored values as a NIfTI file, with a slope and intercept in its header."""
    image = getattr(nibabel, f"Nifti{version}Image")(values, affine, dtype=values.dtype)
    image.header.set_zooms((2.0, 2.5, 3.0, 1.5)[: values.ndim])
    image.header.set_xyzt_units("mm", "sec")
    content = bytearray(image.to_bytes())
    struct.pack_into("8s", content, {1: 148, 2: 240}[version], b"made up")
    if scales.slope is not None:
        # nibabel would divide the data by the slope.
        where, code = {1: (112, "<2f"), 2: (176, "<2d")}[version]
        struct.pack_into(code, content, where, scales.slope, scales.inter)
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


def snapshot(folder: Path) -> dict[str, str]:
    """Names of everything below a folder, hidden files too, and digests of the contents."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def run_python(
    code: str, *arguments: object, timeout: float = 600, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds the project, and return what it printed."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "stores"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


PEAK = """
def peak():
    # Not ru_maxrss, which a child inherits from the process that started it.
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
"""
"""A function for programs that tests start: most bytes of memory that they had so far (Linux)."""

from_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")


def files_below(path: Path) -> Iterator[Path]:
    """Files of a store, which may be one file itself."""
    if path.is_file():
        yield path
        return
    yield from sorted(p for p in path.rglob("*") if p.is_file())


def load_npz(path: Path) -> dict[str, AnyArray]:
    """All arrays of a file of numpy, which is closed again."""
    with np.load(path) as file:
        return dict(file)


def call_after_rename(monkeypatch: pytest.MonkeyPatch, function: Callable[[], None]) -> None:
    """Let another thread call a function between the next rename and what follows it.

    No writer waits for its turn from then on.
    """
    replace = os.replace

    def rename(source: str, name: str) -> None:
        monkeypatch.setattr(os, "replace", replace)
        replace(source, name)
        thread = threading.Thread(target=function)
        thread.start()
        thread.join(300)

    monkeypatch.setenv("FMRISTORE_WAIT", "0")
    monkeypatch.setattr(os, "replace", rename)
