"""A whole BIDS dataset as stores: convert, resume, select, and one voxel of all subjects."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import fmristore as fs
from fmristore.demo import make_dataset


def make_subjects(folder: Path) -> None:
    """Make up three subjects."""
    run = make_dataset(folder, shape=(12, 14, 10, 20))
    for subject in ("02", "03"):
        for path in sorted(run.parent.glob("sub-01*")):
            place = (
                folder / f"sub-{subject}" / "func" / path.name.replace("sub-01", f"sub-{subject}")
            )
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def main() -> None:
    """Work in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        source, stores = Path(name) / "bids", Path(name) / "stores"
        make_subjects(source)
        print(fs.convert_bids(source, stores))
        print("again:", fs.convert_bids(source, stores, resume=True))

        runs = fs.Collection(stores).sel(suffix="bold")
        print(runs.table[["subject", "task", "shape", "tr"]].to_string())
        with runs[0].open() as bold:
            print(bold, bold.metadata["events"])

        with runs.across(Path(name) / "mean.h5") as group:
            print(group)
            print("a voxel of all subjects:", group[6, 7, 5], "chunks:", group.plan[6, 7, 5].chunks)


if __name__ == "__main__":
    main()
