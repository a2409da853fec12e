"""The main job from end to end, on a file of the user's or on a run made up here."""

from __future__ import annotations

import contextlib
import gzip
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from fmristore.api import convert
from fmristore.api import open as open_store
from fmristore.model.space import HeaderWarning, NeuroSpace
from fmristore.nifti import NiftiWriter, make_header, read_header
from fmristore.transcoding import transcode
from fmristore_stores.errors import CorruptDataError, InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["make_run", "run_demo"]

Result = TypeVar("Result")


def make_run(path: Path, *, shape: tuple[int, int, int, int] = (64, 64, 36, 200)) -> None:
    """Write a made-up but realistic BOLD run: a brain-shaped int16 image with slow and fast noise.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``.
    shape : tuple of int, (X, Y, Z, T)
        3.3 mm voxels, TR 2 s.
    """
    rng = np.random.default_rng(20)
    x, y, z, t = shape
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in (z, y, x)), indexing="ij")
    radius = np.sqrt(sum((g / s) ** 2 for g, s in zip(grid, (0.9, 0.85, 0.7), strict=True)))
    brain = 900 * np.clip(1.15 - radius, 0, 0.5) * (1 + 0.2 * np.sin(9 * grid[0] * grid[1]))
    affine = np.diag([-3.3, 3.3, 3.3, 1.0])
    affine[:3, 3] = 3.3 * x / 2, -3.3 * y / 2, -3.3 * z / 2
    space = NeuroSpace(spatial_shape=(x, y, z), affine=affine, time_points=t, tr=2.0)
    drift = np.cumsum(rng.normal(size=t)) * 0.002
    header = make_header(space, np.int16, slope=0.5, inter=0.0)
    with NiftiWriter(str(path), header, overwrite=True) as writer:
        for volume in range(t):
            noise = rng.normal(scale=6.0, size=brain.shape) * (0.3 + (brain > 0))
            values = brain * (1 + drift[volume]) + noise + 12
            writer.write(np.clip(values, 0, 32767).astype("<i2")[None])
        writer.finish()


def run_demo(
    folder: Path, source: Path | None = None, *, say: Callable[[str], None] = print
) -> None:
    """Convert an image, read parts of it, move it to the other store, and export it again.

    Parameters
    ----------
    folder : Path
        Where the files go; made if it does not exist.
    source : Path, optional
        A NIfTI image in one file; a run is made up otherwise.
    say : callable
        Takes each line of the account.

    Raises
    ------
    NotFoundError, FormatError
        If there is no image at `source`, or it is none.
    InvalidInputError
        If it consists of two files, which one file cannot be compared with.
    CorruptDataError
        If what comes back is not, byte for byte, what went in.
    """
    if source is not None:
        _check_single(source)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(folder, source, say)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # unless there is something in it
        raise


def _check_single(source: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HeaderWarning)  # the conversion says it again
        single = read_header(source).single
    if not single:
        raise InvalidInputError("the demo takes one .nii or .nii.gz file", url=str(source))


def _run(folder: Path, source: Path | None, say: Callable[[str], None]) -> None:
    if source is None:
        source = folder / "bold.nii.gz"
        if not source.exists():
            seconds, _ = _timed(lambda: make_run(source))
            say(f"made up a run             {source}  {_size(source)}  {seconds:.1f} s")
    hdf5, zarr, back = folder / "bold.h5", folder / "bold.ome.zarr", folder / "back.nii.gz"
    seconds, _ = _timed(lambda: convert(source, hdf5, overwrite=True).close())
    say(f"converted to HDF5         {hdf5}  {_size(hdf5)}  {seconds:.1f} s")

    with open_store(hdf5) as bold:
        say(f"opened                    {bold!r}")
        if bold.ndim == 4:
            at = tuple(n // 2 for n in bold.shape[:3])
            seconds, series = _timed(lambda: bold[at])
            say(f"one voxel's series        {_spread(series)}  {1000 * seconds:.1f} ms")
        seconds, last = _timed(lambda: bold[..., bold.shape[-1] // 2])
        what = "volume" if bold.ndim == 4 else "slice"
        say(f"{f'one {what}':24}  {_spread(last)}  {1000 * seconds:.1f} ms")

    seconds, report = _timed(lambda: transcode(hdf5, zarr, overwrite=True))
    say(f"moved to Zarr             {zarr}  {_size(zarr)}  {seconds:.1f} s, digests equal")
    for path, reason in report.converted.items():
        if reason:
            say(f"                          /{path}: {reason}")

    with open_store(zarr) as bold:
        seconds, _ = _timed(lambda: bold.to_nifti(back, overwrite=True))
    say(f"exported to NIfTI         {back}  {_size(back)}  {seconds:.1f} s")
    if _plain(source) != _plain(back):
        raise CorruptDataError("the exported run differs from the source", url=str(back))
    say("compared                  uncompressed, the export equals the source byte for byte")


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return f"{sum(p.stat().st_size for p in files) / 1e6:.1f} MB"


def _spread(values: AnyArray) -> str:
    return f"{' x '.join(map(str, values.shape))} numbers from {values.min():g} to {values.max():g}"


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
