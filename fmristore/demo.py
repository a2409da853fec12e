"""The main job from end to end, on a file of the user's or on a run made up here."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from fmristore.api import convert, parcellate
from fmristore.api import open as open_store
from fmristore.formats.sequence.sequence import NeuroVecSeq
from fmristore.model.space import HeaderWarning, NeuroSpace
from fmristore.nifti import NiftiWriter, make_header, read_header
from fmristore.transcoding import transcode
from fmristore_stores.errors import AlreadyExistsError, CorruptDataError, InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["make_dataset", "make_files", "make_run", "run_demo"]

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


_LOBES = ("frontal", "central", "occipital")
_PARTS = ("lower", "upper")


def make_dataset(folder: Path, *, shape: tuple[int, int, int, int] = (40, 48, 24, 100)) -> Path:
    """Write a made-up BIDS data set: one run with a task, its events, a brain mask and an atlas.

    The twelve parcels of the atlas follow the signal of their lobe, the same in both hemispheres;
    occipital ones also follow the task, 20 s on and 20 s off. The data are the same each time.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    shape : tuple of int, (X, Y, Z, T)
        4 mm voxels, TR 2 s.

    Returns
    -------
    Path
        The run, ``sub-01/func/sub-01_task-blocks_bold.nii.gz``.
    """
    run = folder / "sub-01" / "func" / "sub-01_task-blocks_bold.nii.gz"
    derived = folder / "derivatives" / "atlas" / "sub-01" / "func"
    for place in (run.parent, derived):
        place.mkdir(parents=True, exist_ok=True)
    x, y, z, t = shape
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -2.0 * x, -2.25 * y, -2.0 * z
    labels, names = _parcels(x, y, z)
    on = (np.arange(t) * 2.0 % 40) >= 20
    series = _parcel_series(names, on)
    space = NeuroSpace(spatial_shape=(x, y, z), affine=affine, time_points=t, tr=2.0)
    rng = np.random.default_rng(21)
    level = np.where(labels > 0, 900 + 40 * (labels % 5), 20)
    with NiftiWriter(str(run), make_header(space, np.int16), overwrite=True) as writer:
        for volume in range(t):
            noise = rng.normal(scale=6.0, size=labels.shape) * (0.3 + (labels > 0))
            values = level + series[volume][labels] + noise
            writer.write(np.rint(values).astype("<i2")[None])
        writer.finish()
    for name, data in (("desc-brain_mask", labels > 0), ("dseg", labels)):
        path = derived / f"sub-01_task-blocks_{name}.nii.gz"
        _write_volume(path, data.astype("u1"), affine)
    rows = "".join(f"{number}\t{name}\n" for number, name in enumerate(names, 1))
    (derived / "sub-01_task-blocks_dseg.tsv").write_text("index\tname\n" + rows)
    starts = range(20, 2 * t, 40)
    events = "".join(f"{start}\t20\tpicture\n" for start in starts)
    run.with_name("sub-01_task-blocks_events.tsv").write_text(
        "onset\tduration\ttrial_type\n" + events
    )
    run.with_name("sub-01_task-blocks_bold.json").write_text(
        json.dumps({"RepetitionTime": 2.0, "TaskName": "blocks"}) + "\n"
    )
    (folder / "dataset_description.json").write_text(
        json.dumps({"Name": "A made-up run", "BIDSVersion": "1.10.0"}) + "\n"
    )
    return run


def make_files(folder: Path) -> None:
    """Write the files that the pages of the documentation take as given, all of `make_dataset`.

    ``bids/`` with the data set; its parts as ``bold.nii.gz``, ``run-1.nii.gz``, ``run-2.nii.gz``,
    ``mask.nii.gz``, ``atlas.nii.gz``, ``atlas.tsv``, ``events.tsv``; two maps,
    ``zmap-faces.nii.gz`` and ``zmap-houses.nii.gz``; and the stores ``bold.h5``, ``bold.ome.zarr``,
    ``run.h5``, ``run.ome.zarr``, ``runs.h5`` and ``parcels.h5``.

    Parameters
    ----------
    folder : Path
        A new or an empty one.

    Raises
    ------
    AlreadyExistsError
        If the folder holds anything.
    """
    if folder.exists() and any(folder.iterdir()):
        message = "this folder is not empty; give the name of a new one"
        raise AlreadyExistsError(message, url=str(folder))
    run = make_dataset(folder / "bids")
    derived = f"{folder}/bids/derivatives/atlas/sub-01/func/sub-01_task-blocks_"
    for source, name in (
        (run, "bold.nii.gz"),
        (run, "run-1.nii.gz"),
        (run, "run-2.nii.gz"),
        (run.with_name("sub-01_task-blocks_events.tsv"), "events.tsv"),
        (f"{derived}desc-brain_mask.nii.gz", "mask.nii.gz"),
        (f"{derived}dseg.nii.gz", "atlas.nii.gz"),
        (f"{derived}dseg.tsv", "atlas.tsv"),
    ):
        shutil.copy(source, folder / name)
    with convert(run, folder / "bold.h5") as bold:
        for name, volume in (("faces", 3), ("houses", 4)):
            values = bold[..., volume].astype(np.float32)
            _write_volume(folder / f"zmap-{name}.nii.gz", values.T, bold.affine)
        transcode(folder / "bold.h5", folder / "bold.ome.zarr")
        shutil.copy(folder / "bold.h5", folder / "run.h5")
        shutil.copytree(folder / "bold.ome.zarr", folder / "run.ome.zarr")
        NeuroVecSeq.create([bold, bold], folder / "runs.h5").close()
        atlas, names = folder / "atlas.nii.gz", folder / "atlas.tsv"
        parcellate(bold, atlas, folder / "parcels.h5", names=names).close()


def _write_volume(path: Path, values: AnyArray, affine: AnyArray) -> None:
    """Write one volume (Z, Y, X) as NIfTI."""
    z, y, x = values.shape
    space = NeuroSpace(spatial_shape=(x, y, z), affine=affine)
    with NiftiWriter(str(path), make_header(space, values.dtype), overwrite=True) as writer:
        writer.write(values[None])
        writer.finish()


def _parcels(x: int, y: int, z: int) -> tuple[AnyArray, list[str]]:
    """Labels (Z, Y, X) of an ellipsoid cut into hemispheres, lobes and halves, and their names."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in (z, y, x)), indexing="ij")
    inside = sum((g / s) ** 2 for g, s in zip(grid, (0.9, 0.9, 0.8), strict=True)) < 1
    lobe = np.digitize(grid[1], (-0.3, 0.35))  # 0 lies at the back
    number = 1 + 6 * (grid[2] > 0) + 2 * (2 - lobe) + (grid[0] > 0)
    names = [f"{h}_{lobe}_{part}" for h in ("LH", "RH") for lobe in _LOBES for part in _PARTS]
    return np.where(inside, number, 0), names


def _parcel_series(names: list[str], on: AnyArray) -> AnyArray:
    """Signal of each parcel (T, 1 + parcels), the first one of the background."""
    rng = np.random.default_rng(22)
    smooth = np.exp(-0.5 * (np.arange(-8, 9) / 2.5) ** 2)
    seconds = np.arange(0, 24, 2.0)
    response = seconds**5 * np.exp(-seconds)  # peaks at 5 s
    task = np.convolve(on, response / response.sum())[: len(on)]
    slow = {lobe: np.convolve(rng.normal(size=len(on) + 16), smooth, "valid") for lobe in _LOBES}
    columns = [np.zeros(len(on))]
    for name in names:
        lobe = name.split("_")[1]
        own = np.convolve(rng.normal(size=len(on) + 16), smooth, "valid")
        columns.append(3 * slow[lobe] + 2 * own + (30 * task if lobe == "occipital" else 0))
    return np.stack(columns, axis=1)


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
    return f"{' x '.join(map(str, values.shape))} values from {values.min():g} to {values.max():g}"


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
