"""What users of nilearn do, there and in `fmristore.nilearn`: lines, seconds, memory, equality.

``python -m benchmarks.nilearn_tasks [options]``
prints a table in Markdown. Every task runs in a process of its own, the engines in turn, with real
runs: those of the folder ``data/real`` that `FMRISTORE_SHARED_DATA` names. Each engine does a task
once with a made-up run of 512 voxels before it is measured, and gives back the memory that is free
then, so that starting Python and loading libraries, early or on first use, is not counted; nor is
converting the runs to stores, which are kept in ``--stores``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import inspect
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pandas as pd
from nilearn import glm, image, maskers
from nilearn.connectome import ConnectivityMeasure
from sklearn.decomposition import PCA

import fmristore as fs
from benchmarks.apart import run_apart
from fmristore import nilearn as streamed
from fmristore import sampling
from fmristore_stores.protocol import AnyArray

__all__ = ["TASKS", "Data", "main", "prepare"]

CLEANING = {"standardize": "zscore_sample", "detrend": True}
SEED = [(9.0, -60.0, 0.0)]
ENGINES = ("nilearn .nii.gz", "fmristore .nii.gz", "fmristore .h5")
STORED = ("group mean", "50 windows")
"""Tasks that are done here with stores only."""
VOLUMES = "_volumes.h5"


class Data(NamedTuple):
    """Files of a task."""

    run: str
    volumes: str
    """The same run, stored for whole volumes where it is stored."""
    runs: list[str]
    """Of one subject, on one grid."""
    mask: str
    labels: str
    events: pd.DataFrame


# Each task in nilearn, and here -----------------------------------------------------------------


def masker_nilearn(data: Data) -> Any:
    masker = maskers.NiftiMasker(data.mask, **CLEANING)
    return masker.fit_transform(data.run)


def masker_fmristore(data: Data) -> Any:
    masker = streamed.NiftiMasker(data.mask, **CLEANING)
    return masker.fit_transform(data.run)


def labels_nilearn(data: Data) -> Any:
    masker = maskers.NiftiLabelsMasker(data.labels, **CLEANING)
    return masker.fit_transform(data.run)


def labels_fmristore(data: Data) -> Any:
    masker = streamed.NiftiLabelsMasker(data.labels, **CLEANING)
    return masker.fit_transform(data.run)


def glm_nilearn(data: Data) -> Any:
    model = glm.first_level.FirstLevelModel(t_r=2.0, mask_img=data.mask)
    model.fit(data.run, data.events)
    return model.compute_contrast("face - house").get_fdata()


def glm_fmristore(data: Data) -> Any:
    model = streamed.FirstLevelModel(t_r=2.0, mask_img=data.mask)
    model.fit(data.run, data.events)
    return model.compute_contrast("face - house").get_fdata()


def connectivity_nilearn(data: Data) -> Any:
    series = maskers.NiftiLabelsMasker(data.labels, **CLEANING).fit_transform(data.run)
    measure = ConnectivityMeasure(kind="correlation", standardize="zscore_sample")
    return measure.fit_transform([series])[0]


def connectivity_fmristore(data: Data) -> Any:
    series = streamed.NiftiLabelsMasker(data.labels, **CLEANING).fit_transform(data.run)
    measure = ConnectivityMeasure(kind="correlation", standardize="zscore_sample")
    return measure.fit_transform([series])[0]


def seed_nilearn(data: Data) -> Any:
    seed = maskers.NiftiSpheresMasker(SEED, radius=8, **CLEANING).fit_transform(data.run)
    masker = maskers.NiftiMasker(data.mask, **CLEANING)
    series = masker.fit_transform(data.run)
    correlation = np.dot(series.T, seed) / (len(seed) - 1)
    return masker.inverse_transform(correlation.T).get_fdata()


def seed_fmristore(data: Data) -> Any:
    seed = streamed.NiftiSpheresMasker(SEED, radius=8, **CLEANING).fit_transform(data.run)
    masker = streamed.NiftiMasker(data.mask, **CLEANING).fit()
    return streamed.correlation_maps(data.run, seed, masker).get_fdata()


def pca_nilearn(data: Data) -> Any:
    masker = maskers.NiftiMasker(data.mask, **CLEANING)
    found = PCA(10, svd_solver="full").fit(masker.fit_transform(data.run))
    sizes = found.singular_values_[:, np.newaxis]
    return masker.inverse_transform(found.components_ * sizes).get_fdata()


def pca_fmristore(data: Data) -> Any:
    masker = streamed.NiftiMasker(data.mask, **CLEANING).fit()
    return streamed.reduced_run(data.run, masker, 10).get_fdata()


def mean_nilearn(data: Data) -> Any:
    return image.mean_img(data.runs, copy_header=True).get_fdata()


def mean_fmristore(data: Data) -> Any:
    means = (fs.open(run).mean(axis=3, max_memory="1MiB") for run in data.runs)
    return sum(means) / len(data.runs)


def windows_nilearn(data: Data) -> Any:
    run = image.load_img(data.run)
    starts = np.random.default_rng(0).integers(run.shape[3] - 19, size=50)
    windows = (image.index_img(run, slice(start, start + 20)) for start in starts)
    return np.array([image.get_data(window).mean() for window in windows])


def windows_fmristore(data: Data) -> Any:
    windows = sampling.Windows(data.volumes, length=20, stride=1)
    numbers = np.random.default_rng(0).integers(len(windows), size=50)
    return np.array([windows[number].mean() for number in numbers])


TASKS: dict[str, tuple[Callable[[Data], Any], Callable[[Data], Any]]] = {
    "masker": (masker_nilearn, masker_fmristore),
    "labels": (labels_nilearn, labels_fmristore),
    "GLM, AR(1)": (glm_nilearn, glm_fmristore),
    "connectivity": (connectivity_nilearn, connectivity_fmristore),
    "seed map": (seed_nilearn, seed_fmristore),
    "PCA": (pca_nilearn, pca_fmristore),
    "group mean": (mean_nilearn, mean_fmristore),
    "50 windows": (windows_nilearn, windows_fmristore),
}
"""Each as nilearn does it, and here."""


def _lines(function: Callable[..., Any]) -> int:
    """Lines of a task, without its first."""
    return len(inspect.getsource(function).rstrip().splitlines()) - 1


# One task, in a process of its own --------------------------------------------------------------

SMALL = "small"


def _convert(run: Path, stores: Path, *, overwrite: bool = False) -> None:
    """Store a run for time series and for volumes, unless it is there."""
    stem = run.name.removesuffix(".nii.gz")
    for access, suffix in (("time", ".h5"), ("volume", VOLUMES)):
        if overwrite or not (stores / f"{stem}{suffix}").exists():
            options: Any = {"access": access, "overwrite": overwrite}
            fs.convert(run, stores / f"{stem}{suffix}", **options).close()


def _write_small(folder: Path, times: int) -> None:
    """Write a run of 512 voxels, as NIfTI and stored, its mask and its labels."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -12, -72, -12  # around the seed
    values = np.random.default_rng(0).integers(300, 900, (8, 8, 8, times)).astype(np.int16)
    library: Any = nibabel
    run = library.Nifti1Image(values, affine)
    run.header.set_zooms((3, 3, 3, 2))
    library.save(run, folder / f"{SMALL}.nii.gz")
    _convert(folder / f"{SMALL}.nii.gz", folder, overwrite=True)
    labels = (np.arange(512).reshape(8, 8, 8) // 64 + 1).astype(np.int16)
    library.save(library.Nifti1Image(labels, affine), folder / f"{SMALL}_labels.nii.gz")
    mask = np.ones_like(labels, np.uint8)
    library.save(library.Nifti1Image(mask, affine), folder / f"{SMALL}_mask.nii.gz")


def _small(data: Data, folder: Path, suffix: str) -> Data:
    run = str(folder / f"{SMALL}{suffix}")
    volumes = run if suffix == ".nii.gz" else str(folder / f"{SMALL}{VOLUMES}")
    mask, labels = (str(folder / f"{SMALL}_{name}.nii.gz") for name in ("mask", "labels"))
    return Data(run, volumes, [run, run], mask, labels, data.events)


def _settle() -> None:
    """Give back memory that is free, and measure peaks from here on, where that can be done."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other systems than Linux
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _data(folder: Path, stores: Path | None) -> Data:
    bold = folder / "bold"

    def place(name: str) -> str:
        return str(bold / f"{name}.nii.gz" if stores is None else stores / f"{name}.h5")

    run = "sub-02_task-oneback_run-1"
    events = pd.read_csv(bold / f"{run}_events.tsv", sep="\t")
    labels = "sub-02_task-oneback_desc-schaefer200notregistered_dseg.nii.gz"
    volumes = place(f"{run}_bold") if stores is None else str(stores / f"{run}_bold{VOLUMES}")
    return Data(
        place(f"{run}_bold"),
        volumes,
        [place(f"sub-prisma_run-{name}") for name in ("1_acq-pcasl2d", "2_acq-pasl2d")],
        str(folder / "masks" / "sub-02_task-oneback_desc-otsu_mask.nii.gz"),
        str(folder / "atlases" / labels),
        events[["onset", "duration", "trial_type"]],
    )


def prepare(task: str, engine: str, folder: str, stores: str, out: str) -> Callable[[], None]:
    """The work of one engine; what it finds is saved."""
    warnings.simplefilter("ignore")
    stored = engine.endswith(".h5")
    data = _data(Path(folder), Path(stores) if stored else None)
    function = TASKS[task][engine.startswith("fmristore")]
    fs.register()
    function(_small(data, Path(stores), ".h5" if stored else ".nii.gz"))
    _settle()

    def work() -> None:
        began = time.process_time()
        np.save(out, function(data))
        Path(out).with_suffix(".cpu").write_text(str(time.process_time() - began))

    return work


def _difference(found: AnyArray, wanted: AnyArray, *, signed: bool) -> float:
    """Largest difference, as a part of the largest value."""
    if not signed:  # components have arbitrary signs
        signs = np.sign((found * wanted).sum(axis=(0, 1, 2)))
        found = found * signs
    largest = np.nanmax(np.abs(wanted))
    return float(np.nanmax(np.abs(found - wanted)) / largest)


def _rows(task: str, folder: Path, stores: Path, rounds: int) -> list[str]:
    engines = [e for e in ENGINES if task not in STORED or e != "fmristore .nii.gz"]
    taken: dict[str, list[Any]] = {engine: [] for engine in engines}
    processor: dict[str, list[float]] = {engine: [] for engine in engines}
    for _ in range(rounds):
        for engine in engines:
            out = stores / f"{engine.replace('.', '-')}.npy"
            given = {"task": task, "engine": engine, "folder": folder, "stores": stores}
            taken[engine].append(run_apart("benchmarks.nilearn_tasks", "prepare", **given, out=out))
            processor[engine].append(float(out.with_suffix(".cpu").read_text()))
    found_by = {e: np.load(stores / f"{e.replace('.', '-')}.npy") for e in engines}
    wanted = found_by[ENGINES[0]]
    rows = []
    for engine, measured in taken.items():
        found = found_by[engine]
        difference = _difference(found, wanted, signed=task != "PCA")
        lines = _lines(TASKS[task][engine.startswith("fmristore")])
        seconds = statistics.median(one.seconds for one in measured)
        peak = max(one.peak_bytes for one in measured) / 1e6
        same = "" if engine == ENGINES[0] else f"{difference:.0e}"
        used = statistics.median(processor[engine])
        row = f"| {task} | {engine} | {lines} | {seconds:.2f} | {used:.2f} | {peak:.0f} | {same} |"
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    beside = Path(__file__).resolve().parents[2] / "shared"
    shared = os.environ.get("FMRISTORE_SHARED_DATA", str(beside))
    parser.add_argument("--data", type=Path, default=Path(shared) / "data" / "real")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--stores", type=Path)
    options = parser.parse_args(arguments)
    print("| task | engine | lines | seconds | of processors | peak MB | largest difference |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        stores = options.stores or Path(name)
        data = _data(options.data, None)
        for run in (data.run, *data.runs):
            _convert(Path(run), stores)
        _write_small(stores, 156)
        for task in options.only:
            for row in _rows(task, options.data, stores, options.rounds):
                print(row, flush=True)


if __name__ == "__main__":
    main()
