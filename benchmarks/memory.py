"""Peak memory of operations beside the `max_memory` that they were given.

``python -m benchmarks.memory [--sizes 1MiB 16MiB 64MiB] [--only NAME]`` prints a table in Markdown.
Each operation runs in a process of its own on a run of about 147 MB, after a first one on a small
run, and what is told is the highest resident memory above what the process had before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fmristore.planning.text import parse_size

__all__ = ["OPERATIONS", "main"]

SHAPES = {"small": (16, 16, 10, 8), "large": (64, 64, 36, 500)}


def _labels(shape: tuple[int, ...]) -> Any:
    import numpy as np

    return (np.indices(shape[:3]) // 8).sum(axis=0).astype("i2") + 1


def _operations() -> dict[str, Callable[[Path, Path, tuple[int, ...], int], Any]]:
    import fmristore as fs

    def nifti(end: str) -> Callable[[Path, Path, tuple[int, ...], int], Any]:
        return lambda run, out, _, size: fs.open(run).to_nifti(
            out.with_suffix(end), max_memory=size
        )

    def convert(access: Any, end: str) -> Callable[[Path, Path, tuple[int, ...], int], Any]:
        return lambda run, out, _, size: fs.convert(
            run.with_suffix(".nii"), out.with_suffix(end), access=access, max_memory=size
        )

    def parcels(**how: Any) -> Callable[[Path, Path, tuple[int, ...], int], Any]:
        return lambda run, out, shape, size: fs.parcellate(
            run, _labels(shape), out, max_memory=size, **how
        )

    return {
        **{
            f"convert {access} {end}": convert(access, end)
            for access in ("time", "volume")
            for end in (".h5", ".zarr")
        },
        "transcode to .zarr": lambda run, out, _, size: fs.transcode(
            run, out.with_suffix(".zarr"), max_memory=size
        ),
        "transcode for volumes": lambda run, out, _, size: fs.transcode(
            run, out, access="volume", max_memory=size
        ),
        "verify deep": lambda run, _o, _s, size: fs.verify(run, deep=True, max_memory=size),
        "save": lambda run, out, _, size: fs.open(run).save(out, max_memory=size),
        "export .nii": nifti(".nii"),
        "export .nii.gz": nifti(".nii.gz"),
        "parcellate mean": parcels(),
        "parcellate median": parcels(statistic="median"),
        "parcellate std": parcels(statistic="std"),
        "masked create": lambda run, out, shape, size: fs.MaskedNeuroVec.create(
            out, run, mask=_labels(shape) > 3, max_memory=size
        ),
        "ParcellatedScan create": lambda run, out, shape, size: fs.ParcellatedScan.create(
            out, run, parcellation=_labels(shape), max_memory=size
        ),
        "from_pca": lambda run, out, shape, size: fs.LatentNeuroVec.from_pca(
            out, run, n_components=5, mask=_labels(shape) > 12, max_memory=size
        ),
    }


OPERATIONS = tuple(_operations())


def _peak(*, reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _write(folder: Path, name: str) -> None:
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
    fs.convert(folder / f"{name}.nii", folder / f"{name}.h5", codec="fast")


def _work(folder: Path, operation: str, size: int) -> dict[str, Any]:
    """Run one operation on the small and then the large run."""
    from fmristore_stores.chunks.cache import CHUNK_CACHE
    from fmristore_stores.errors import MemoryLimitError

    work = _operations()[operation]
    with tempfile.TemporaryDirectory(dir=folder) as out:
        work(folder / "small.h5", Path(out, "first.h5"), SHAPES["small"], 1 << 28)
        CHUNK_CACHE.limit = 0
        before = _peak(reset=True)
        refused = ""
        try:
            work(folder / "large.h5", Path(out, "second.h5"), SHAPES["large"], size)
        except MemoryLimitError as error:
            refused = error.message
    return {"taken": _peak() - before, "refused": refused}


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["1MiB", "16MiB", "64MiB"])
    parser.add_argument("--only", nargs="+", default=list(OPERATIONS))
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        folder, operation, size = options.work
        print(json.dumps(_work(Path(folder), operation, int(size))))
        return
    print("| operation | " + " | ".join(options.sizes) + " |")
    print("|---|" + "---|" * len(options.sizes), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for run in SHAPES:
            _write(folder, run)
        for operation in options.only:
            cells = [_cell(folder, operation, size, options.timeout) for size in options.sizes]
            print(f"| {operation} | " + " | ".join(cells) + " |", flush=True)


def _cell(folder: Path, operation: str, size: str, timeout: float) -> str:
    command = [sys.executable, "-m", "benchmarks.memory", "--work", str(folder), operation]
    try:
        done = subprocess.run(
            [*command, str(parse_size(size))], capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no end in {timeout:.0f} s"
    if done.returncode:
        return "failed: " + done.stderr.decode().strip().splitlines()[-1][:80]
    found = json.loads(done.stdout)
    taken = f"{found['taken'] / 2**20:.0f} MiB"
    return f"refused ({taken})" if found["refused"] else taken


if __name__ == "__main__":
    main()
