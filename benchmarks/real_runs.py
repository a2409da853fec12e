"""Real runs through the command line: every store and layout, sizes, and the export compared.

``python -m benchmarks.real_runs [--data FOLDER] [--out FILE]`` writes a Markdown table.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["main"]

RUNS = (
    "sub-02_task-oneback_run-1_bold.nii.gz",
    "sub-prisma_run-1_acq-pcasl2d.nii.gz",
    "sub-prisma_run-2_acq-pasl2d.nii.gz",
)
STORES = ("h5", "ome.zarr")
LAYOUTS = ("time", "volume", "balanced")


def _fmristore(*arguments: str) -> None:
    command = [sys.executable, "-m", "fmristore", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def _sha256(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha256(gzip.decompress(data) if path.suffix == ".gz" else data).hexdigest()


def _rows(run: Path, folder: Path) -> list[str]:
    expected = _sha256(run)
    rows = []
    for store in STORES:
        for layout in LAYOUTS:
            there = folder / f"run.{store}"
            moved = folder / ("moved.ome.zarr" if store == "h5" else "moved.h5")
            back, again = folder / "back.nii", folder / "again.nii"
            _fmristore("convert", str(run), str(there), "--access", layout, "--overwrite")
            _fmristore("export", str(there), str(back), "--overwrite")
            _fmristore("transcode", str(there), str(moved), "--overwrite")
            _fmristore("export", str(moved), str(again), "--overwrite")
            same = _sha256(back) == expected
            still = _sha256(again) == expected
            size = _size(there)
            rows.append(
                f"| {run.name.removesuffix('.nii.gz')} | {store} | {layout} | {size / 1e6:.2f} "
                f"| {_size(run) / size:.2f} | {'yes' if same else 'NO'} "
                f"| {'yes' if still else 'NO'} |"
            )
    return rows


def main() -> None:
    """Run the commands and write the table."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    shared = Path(os.environ.get("FMRISTORE_SHARED_DATA", beside))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=shared / "data" / "real" / "bold")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        "# Real runs, through the command line",
        "",
        "Made by `python -m benchmarks.real_runs`: `fmristore convert`, `export`, `transcode`",
        "to the other store and `export` again. Default codecs: `portable` in HDF5, `dual` in",
        "Zarr. *Smaller* is the size of the `.nii.gz` over that of the store. *Same* says whether",
        "the uncompressed export equals the uncompressed source byte for byte, at once and after",
        "the other store.",
        "",
        "| run | store | layout | MB | smaller | same | same after the other store |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        for run in RUNS:
            lines.extend(_rows(options.data / run, Path(name)))
    text = "\n".join(lines) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
