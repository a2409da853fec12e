"""Peak memory of operations beside the `max_memory` that they were given.

``python -m benchmarks.memory [--sizes 1MiB 16MiB 64MiB] [--only NAME ...] [--stores .h5 .zarr]``
prints a table in Markdown. Each operation runs in a process of its own on a run of about 94 MB,
after a first one on a small run (which loads what is loaded on first use), and the peak is the
highest resident memory above that before the operation, without the result that is returned.
``tests/test_memory_bounds.py`` runs the same operations, except those of `FURTHER`, on a small run
and asserts their peaks, and that every call that takes ``max_memory`` is among all of them.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmristore.planning.text import parse_size

__all__ = ["FURTHER", "OPERATIONS", "SHAPES", "Job", "labels_of", "operations", "prepare"]

SHAPES = {"small": (16, 16, 10, 8), "large": (64, 64, 36, 320)}
STORES = (".h5", ".zarr")


class Job(NamedTuple):
    """What an operation is given."""

    folder: Path
    name: str
    """Of the run: a key of `SHAPES`."""
    store: str
    """Ending of the stores that are read and written."""
    out: Path
    """Path to write to, with that ending."""
    size: int
    """max_memory"""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the run."""
        return SHAPES[self.name]

    @property
    def nifti(self) -> Path:
        """The run as NIfTI."""
        return self.folder / f"{self.name}.nii"

    def stored(self, what: str) -> Path:
        """A store that was made of the run."""
        return self.folder / f"{self.name}-{what}{self.store}"

    @property
    def collection(self) -> Path:
        """Folder with the run, and series of many parcels, by BIDS names."""
        return self.folder / f"{self.name}-bids-{self.store[1:]}"

    @property
    def timeseries(self) -> Path:
        """Summary of many parcels, half as large as the run."""
        return self.collection / f"sub-01_task-a_timeseries{self.store}"


@functools.cache
def labels_of(shape: tuple[int, ...]) -> Any:
    """Parcels of 8 x 8 x 8 voxels that repeat; made before anything is measured."""
    import numpy as np

    return (np.indices(shape[:3]) // 8).sum(axis=0).astype("i2") + 1


def _convert(access: Any) -> Callable[[Job], Any]:
    import fmristore as fs

    return lambda job: fs.convert(job.nifti, job.out, access=access, max_memory=job.size)


def _summary(**options: Any) -> Callable[[Job], Any]:
    import fmristore as fs

    return lambda job: fs.ParcellatedScanSummary.create(
        job.stored("run"),
        job.out,
        parcellation=labels_of(job.shape),
        max_memory=job.size,
        **options,
    )


def _weighted(job: Job) -> Any:
    import numpy as np

    return _summary(weights=np.ones(job.shape[:3], np.float32))(job)


def _export(what: str, end: str) -> Callable[[Job], Any]:
    import fmristore as fs

    return lambda job: fs.open(job.stored(what)).to_nifti(
        job.out.with_suffix(end), max_memory=job.size
    )


def _creations() -> dict[str, Callable[[Job], Any]]:
    """Creating every format."""
    import fmristore as fs

    return {
        **{f"NeuroVec.create {access}": _convert(access) for access in ("time", "volume", "both")},
        "MaskedNeuroVec.create": lambda job: fs.MaskedNeuroVec.create(
            job.stored("run"), job.out, mask=labels_of(job.shape) > 3, max_memory=job.size
        ),
        "NeuroVecSeq.create": lambda job: fs.NeuroVecSeq.create(
            {"a": job.nifti, "b": job.stored("run")}, job.out, max_memory=job.size
        ),
        "ParcellatedScan.create": lambda job: fs.ParcellatedScan.create(
            job.stored("run"),
            job.out,
            parcellation=labels_of(job.shape),
            max_memory=job.size,
        ),
        **{
            f"ParcellatedScanSummary.create {name}": _summary(statistic=name)
            for name in ("mean", "median", "std")
        },
        "ParcellatedScanSummary.create weights": _weighted,
        "LabeledVolumeSet.create": lambda job: fs.LabeledVolumeSet.create(
            job.nifti,
            job.out,
            labels=[f"map {t}" for t in range(job.shape[3])],
            mask=labels_of(job.shape) > 3,
            max_memory=job.size,
        ),
        "LatentNeuroVec.from_pca": lambda job: fs.LatentNeuroVec.from_pca(
            job.stored("run"),
            job.out,
            n_components=5,
            mask=labels_of(job.shape) >= labels_of(job.shape).max() - 2,
            max_memory=job.size,
        ),
    }


def _volumes(job: Job, what: str = "run") -> None:
    import fmristore as fs

    with fs.open(job.stored(what)) as image:
        for _ in image.iter_volumes(max_memory=job.size):
            pass


def _space(job: Job) -> Any:
    import fmristore as fs

    return fs.open(job.stored("run")).space.without_time()


def _add_scan(job: Job) -> None:
    import fmristore as fs

    with fs.ParcellatedMultiScan.create(
        {},
        job.out,
        parcellation=fs.Parcellation.from_labels(labels_of(job.shape), space=_space(job)),
    ) as multi:
        multi.add_scan("a", job.stored("run"), max_memory=job.size)


def _others() -> dict[str, Callable[[Job], Any]]:
    """What is done with stored runs."""
    import fmristore as fs

    return {
        "to_nifti .nii": _export("run", ".nii"),
        "to_nifti .nii.gz": _export("run", ".nii.gz"),
        "to_nifti of a MaskedNeuroVec": _export("masked", ".nii"),
        "transcode": lambda job: fs.transcode(job.stored("run"), job.out, max_memory=job.size),
        "transcode access=volume": lambda job: fs.transcode(
            job.stored("run"), job.out, access="volume", max_memory=job.size
        ),
        "compute_digest": lambda job: fs.open(job.stored("run")).compute_digest(
            max_memory=job.size
        ),
        "verify": lambda job: fs.verify(job.stored("run"), max_memory=job.size),
        "verify deep": lambda job: fs.verify(job.stored("run"), deep=True, max_memory=job.size),
        "save": lambda job: fs.open(job.stored("run")).save(job.out, max_memory=job.size),
        "add_scan": _add_scan,
        "concat": lambda job: fs.open(job.stored("multi")).concat().to_numpy(),
        "to_dense of a MaskedNeuroVec": lambda job: fs.open(job.stored("masked")).to_dense(
            job.out, max_memory=job.size
        ),
        "mean axis=3": lambda job: fs.open(job.stored("run")).mean(axis=3, max_memory=job.size),
        "std axis=3": lambda job: fs.open(job.stored("run")).std(axis=3, max_memory=job.size),
        "min axis=3": lambda job: fs.open(job.stored("run")).min(axis=3, max_memory=job.size),
        "mean": lambda job: fs.open(job.stored("run")).mean(max_memory=job.size),
        "iter_volumes": _volumes,
    }


def _add_map(job: Job) -> None:
    import numpy as np

    import fmristore as fs

    with fs.open(job.stored("maps")).save(job.out, max_memory=job.size) as maps:
        maps.add("another", np.zeros(job.shape[:3], "i2"), max_memory=job.size)
        maps.rename("another", "renamed", max_memory=job.size)


def _of_parcels() -> dict[str, Callable[[Job], Any]]:
    """What is done with series of voxels and parcels."""
    import numpy as np

    import fmristore as fs

    return {
        "series of a mask": lambda job: fs.open(job.stored("run")).series(
            np.argwhere(labels_of(job.shape) > labels_of(job.shape).max() - 2)
        ),
        "parcellate": lambda job: fs.parcellate(
            job.stored("run"), labels_of(job.shape), job.out, max_memory=job.size
        ),
        "ParcellatedMultiScan.create mean": lambda job: fs.ParcellatedMultiScan.create(
            {"a": job.stored("run"), "b": job.nifti},
            job.out,
            parcellation=labels_of(job.shape),
            statistic="mean",
            max_memory=job.size,
        ),
        "summary std": lambda job: fs.open(job.stored("parcels")).summary(
            "std", max_memory=job.size
        ),
        "map_parcels": lambda job: fs.open(job.stored("parcels")).map_parcels(
            lambda values: float(values.mean()), max_memory=job.size
        ),
        "LabeledVolumeSet.add, rename": _add_map,
        "to_nifti of a LabeledVolumeSet": lambda job: fs.open(job.stored("maps")).to_nifti(
            job.out.with_suffix(".nii"), max_memory=job.size
        ),
        "to_nifti of a NeuroVecSeq": lambda job: fs.open(job.stored("runs")).to_nifti(
            job.out.with_suffix(".nii"), max_memory=job.size
        ),
        "to_nifti of a LatentNeuroVec": lambda job: fs.open(job.stored("latent")).to_nifti(
            job.out.with_suffix(".nii"), max_memory=job.size
        ),
    }


def _remove_map(job: Job) -> None:
    import fmristore as fs

    with fs.open(job.stored("maps")).save(job.out, max_memory=job.size) as maps:
        maps.remove(maps.labels[0], max_memory=job.size)


def _add_scans(job: Job) -> None:
    import fmristore as fs

    labels = labels_of(job.shape)
    scans = {"a": job.stored("run"), "b": job.nifti}
    with fs.ParcellatedMultiScan.create(
        {}, job.out, parcellation=fs.Parcellation.from_labels(labels, space=_space(job))
    ) as multi:
        multi.add_scans(scans, statistic="mean", max_memory=job.size)


def _add_run(job: Job) -> None:
    import fmristore as fs

    with fs.NeuroVecSeq.create({"a": job.nifti}, job.out, max_memory=job.size) as runs:
        runs.add_run("b", job.stored("run"), max_memory=job.size)


def _append(job: Job) -> None:
    import fmristore as fs

    out = job.out.with_suffix(".zarr")
    with fs.open(job.stored("run")) as run:
        fs.append(run[..., 0], out, space=_space(job), tr=1.0)
    fs.append(job.stored("run"), out)


def _reserve(job: Job) -> None:
    """A store in Zarr, whatever the run is stored in."""
    import fmristore as fs

    with fs.reserve(
        job.out.with_suffix(".zarr"),
        shape=job.shape,
        dtype="i2",
        space=fs.open(job.stored("run")).space,
        max_memory=job.size,
    ) as new:
        new.fill(job.stored("run"), max_memory=job.size)
        new.publish(max_memory=job.size)


def _create_latent(job: Job) -> Any:
    """Loadings as large as the run, of which one value is in memory."""
    import numpy as np

    import fmristore as fs

    *grid, length = job.shape
    return fs.LatentNeuroVec.create(
        np.ones((length, length // 2), np.float32),
        np.broadcast_to(np.float32(1), (math.prod(grid), length // 2)),
        job.out,
        mask=np.ones(grid, bool),
        space=np.eye(4),
        max_memory=job.size,
    )


def _written() -> dict[str, Callable[[Job], Any]]:
    """What else writes stores."""
    import fmristore as fs

    return {
        "NeuroVol.create": lambda job: fs.NeuroVol.create(
            job.folder / f"{job.name}-volume.nii", job.out, max_memory=job.size
        ),
        "LatentNeuroVec.create": _create_latent,
        "LabeledVolumeSet.remove": _remove_map,
        "ParcellatedMultiScan.add_scans": _add_scans,
        "NeuroVecSeq.add_run": _add_run,
        "append": _append,
        "NeuroVec.finish": lambda job: fs.open(job.folder / f"{job.name}-growing.zarr").finish(
            job.out, max_memory=job.size
        ),
        "convert_bids": lambda job: fs.convert_bids(
            job.folder / f"{job.name}-bids",
            job.out.with_suffix(""),
            to="h5" if job.store == ".h5" else "ome.zarr",
            max_memory=job.size,
        ).check(),
        **{
            f"Collection.across {name}": _across(None if name == "volumes" else name)
            for name in ("mean", "volumes")
        },
        "Collection.stack": lambda job: (
            fs.Collection(job.collection).sel(suffix="timeseries").stack(max_memory=job.size).values
        ),
        "reserve, Reserved.fill, Reserved.publish": _reserve,
    }


def _across(statistic: str | None) -> Callable[[Job], Any]:
    import fmristore as fs

    return lambda job: (
        fs.Collection(job.collection)
        .sel(suffix="bold")
        .across(job.out, statistic=statistic, max_memory=job.size)
    )


def _std(what: str) -> Callable[[Job], Any]:
    import fmristore as fs

    return lambda job: fs.open(job.stored(what)).std(axis=3, max_memory=job.size)


def _dense(what: str) -> Callable[[Job], Any]:
    import fmristore as fs

    return lambda job: fs.open(job.stored(what)).to_dense(job.out, max_memory=job.size)


def _of_formats() -> dict[str, Callable[[Job], Any]]:
    """Statistics, volumes and whole grids of what is not stored on a grid."""
    import fmristore as fs

    formats = {
        "MaskedNeuroVec": "masked",
        "ParcellatedScan": "parcels",
        "LabeledVolumeSet": "maps",
        "NeuroVecSeq": "runs",
        "LatentNeuroVec": "latent",
    }
    return {
        **{f"std axis=3 of a {name}": _std(what) for name, what in formats.items()},
        "std axis=0 of a ParcellatedScanSummary": lambda job: fs.open(job.timeseries).std(
            axis=0, max_memory=job.size
        ),
        **{
            f"iter_volumes of a {name}": functools.partial(_volumes, what=what)
            for name, what in formats.items()
        },
        **{
            f"to_dense of a {name}": _dense(what)
            for name, what in formats.items()
            if what != "masked"
        },
        "to_nifti of a ParcellatedScan": _export("parcels", ".nii"),
    }


def operations() -> dict[str, Callable[[Job], Any]]:
    """All operations by name, each a function of a job that returns its result, if any."""
    return _creations() | _others() | _of_parcels() | _written() | _of_formats()


OPERATIONS = tuple(operations())
FURTHER = (*_written(), *_of_formats())
"""Operations that are measured here alone: most go through the code of the others."""


def _peak(*, reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _write(folder: Path, name: str, stores: Sequence[str], access: Any) -> None:
    """Write a run as NIfTI and the stores that operations start from."""
    import numpy as np

    import fmristore as fs
    from fmristore.nifti import make_header

    shape = SHAPES[name]
    space = fs.NeuroSpace(spatial_shape=shape[:3], affine=np.eye(4), time_points=shape[3])
    volume = np.random.default_rng(0).integers(0, 2000, shape[2::-1]).astype("<i2")
    with (folder / f"{name}.nii").open("wb") as file:
        file.write(make_header(space, "i2"))
        for t in range(shape[3]):
            file.write((volume + t).tobytes())
    for store in stores:
        job = Job(folder, name, store, Path(), 0)
        labels = labels_of(shape)
        fs.convert(job.nifti, job.stored("run"), access=access, codec="fast")
        fs.MaskedNeuroVec.create(
            job.stored("run"), job.stored("masked"), mask=labels > 3, codec="fast"
        )
        scans = {"a": job.stored("run"), "b": job.nifti}
        fs.ParcellatedMultiScan.create(
            scans, job.stored("multi"), parcellation=labels, statistic="mean"
        )
        fs.ParcellatedScan.create(
            job.stored("run"), job.stored("parcels"), parcellation=labels, codec="fast"
        )
        fs.LabeledVolumeSet.create(
            job.nifti,
            job.stored("maps"),
            labels=[f"map {t}" for t in range(shape[3])],
            mask=labels > 3,
            codec="fast",
        )
        fs.NeuroVecSeq.create({"a": job.nifti, "b": job.nifti}, job.stored("runs"), codec="fast")
        fs.LatentNeuroVec.from_pca(
            job.stored("run"), job.stored("latent"), 3, mask=labels >= labels.max() - 2
        )


def _write_further(folder: Path, name: str, stores: Sequence[str]) -> None:
    """Write what operations of `FURTHER` start from besides."""
    import numpy as np

    import fmristore as fs
    from fmristore.nifti import make_header

    shape = SHAPES[name]
    run = folder / f"{name}.nii"
    volume = (4 * shape[0], 4 * shape[1], shape[2] * shape[3] // 16)
    space = fs.NeuroSpace(spatial_shape=volume, affine=np.eye(4))
    header = make_header(space, "i2")
    (folder / f"{name}-volume.nii").write_bytes(header + run.read_bytes()[len(header) :])
    fs.append(run, folder / f"{name}-growing.zarr", tr=1.0)
    bids = folder / f"{name}-bids" / "sub-01" / "func"
    bids.mkdir(parents=True)
    (bids.parents[1] / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1"}')
    (bids / "sub-01_task-a_bold.nii").hardlink_to(run)
    for store in stores:
        job = Job(folder, name, store, Path(), 0)
        job.collection.mkdir()
        fs.convert(run, job.collection / f"sub-01_task-a_bold{store}", codec="fast")
        pairs = np.ravel_multi_index(
            tuple(np.indices(shape[:3]) // 2), tuple(n // 2 for n in shape[:3])
        )
        fs.parcellate(run, pairs + 1, job.timeseries)


def prepare(folder: Path, stores: Sequence[str], *, access: Any = "time") -> None:
    """Write the runs of `SHAPES`, and what operations start from."""
    for name in SHAPES:
        _write(folder, name, stores, access)


def _prepare_all(folder: Path, stores: Sequence[str]) -> None:
    prepare(folder, stores)
    for name in SHAPES:
        _write_further(folder, name, stores)


def _work(folder: Path, operation: str, store: str, size: int, answer: Any) -> None:
    """Run one operation on the small and then the large run; answer with what it took."""
    import numpy as np

    from fmristore_stores.chunks.cache import CHUNK_CACHE
    from fmristore_stores.errors import MemoryLimitError, RunsError

    work = operations()[operation]
    for shape in SHAPES.values():
        labels_of(shape)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        work(Job(folder, "small", store, Path(out, f"first{store}"), 1 << 28))
        CHUNK_CACHE.clear()
        CHUNK_CACHE.limit = 0
        before = _peak(reset=True)
        started = time.perf_counter()
        refused, result = "", 0
        try:
            found = work(Job(folder, "large", store, Path(out, f"second{store}"), size))
            result = found.nbytes if isinstance(found, np.ndarray) else 0
        except (MemoryLimitError, RunsError) as error:
            if isinstance(error, RunsError) and "max_memory" not in error.message:
                raise
            refused = error.message
    answer.send((_peak() - before - result, refused, time.perf_counter() - started))


def _cell(folder: Path, operation: str, store: str, size: int, timeout: float) -> tuple[str, str]:
    context = multiprocessing.get_context("fork")
    answers, answer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(folder, operation, store, size, answer))
    process.start()
    answer.close()
    try:
        if not answers.poll(timeout):
            return f"no end in {timeout:.0f} s", ""
        taken, refused, _ = answers.recv()
    except EOFError:
        return "failed", ""
    finally:
        process.kill()
        process.join()
    peak = f"{taken / 2**20:.1f} MiB"
    if not refused:
        return peak, ""
    print(f"{operation} {store} {size}: {refused}", file=sys.stderr)
    least = re.search(r"at least (\d+) bytes", refused)
    return peak, f"at least {int(least[1]) / 2**20:.1f} MiB" if least else "refused"


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["1MiB", "16MiB", "64MiB"])
    parser.add_argument("--only", nargs="+", default=list(OPERATIONS))
    parser.add_argument("--stores", nargs="+", default=list(STORES), choices=STORES)
    parser.add_argument("--timeout", type=float, default=600)
    options = parser.parse_args(arguments)
    print("| operation | store | max_memory | peak | refused, needs |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        maker = multiprocessing.get_context("fork").Process(
            target=_prepare_all, args=(folder, options.stores)
        )
        maker.start()
        maker.join()
        for operation in options.only:
            for store in options.stores:
                for size in options.sizes:
                    peak, least = _cell(folder, operation, store, parse_size(size), options.timeout)
                    print(f"| {operation} | {store} | {size} | {peak} | {least} |", flush=True)


if __name__ == "__main__":
    main()
