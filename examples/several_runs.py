"""Several runs of one subject in one container, as voxels and as parcels, with their boundaries.

    pip install "fmristore[plot]" pandas
    python several_runs.py [RUN RUN ... --labels LABELS] [--names TABLE] [--out FOLDER]

The runs are NIfTI files on one grid, in their order; LABELS is an image on that grid, TABLE says
what the labels stand for. Without them, runs are made up. Draws several_runs.png.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import fmristore as fs


def main(runs: list[Any], labels: Any, names: Any, out: Path) -> None:
    """Store the runs in a temporary folder, in both ways, and draw one parcel's series."""
    with tempfile.TemporaryDirectory() as folder:
        if not runs:
            runs, labels = make_up(folder)
        named = {f"run-{number:02}": run for number, run in enumerate(runs, 1)}

        # Voxels: all runs are one long run, in which t counts through all of them.
        with fs.NeuroVecSeq.create(named, f"{folder}/voxels.h5") as seq:
            print(seq)
            x, y, z = (n // 2 for n in seq.shape[:3])
            print("one voxel through all runs", seq[x, y, z].shape)
            print("in the first run alone    ", seq["run-01"][x, y, z].shape)
            print("runs begin at volumes     ", seq.boundaries[:-1])

        # Parcels: scans are found by name, and more can be added at any time.
        last, run = named.popitem()
        with fs.ParcellatedMultiScan.create(
            named, f"{folder}/parcels.h5", parcellation=labels, names=names, statistic="mean"
        ) as scans:
            scans.add_scan(last, run, statistic="mean")
            print(scans)
            joined = scans.concat()

    series = joined.to_dataframe()[joined.columns[0]]  # indexed by scan and time
    by_run = series.groupby("scan", sort=False)
    print(by_run.agg(["size", "mean", "std"]).round(1))
    change = 100 * (series / by_run.transform("mean") - 1)

    figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(9, 4.5), layout="constrained")
    begins = joined.boundaries * (joined.tr or 1) / 60
    for axes, values in ((top, series), (bottom, change)):
        axes.margins(x=0)
        for name, begin, end in zip(joined.scan_names, begins[:-1], begins[1:], strict=True):
            time = np.linspace(begin, end, len(values[name]), endpoint=False)
            axes.plot(time, values[name], color="tab:blue", linewidth=0.8)
            axes.axvline(begin, color="0.6", linewidth=0.8)
    middles = (begins[:-1] + begins[1:]) / 2
    top.secondary_xaxis("top").set_xticks(middles, joined.scan_names, fontsize=8)
    top.set(ylabel="BOLD signal (a.u.)", title=f"Mean series of {joined.columns[0]}")
    bottom.set(xlabel="time (min)", ylabel="change from the\nrun's mean (%)")
    figure.savefig(out / "several_runs.png", dpi=110)


def make_up(folder: str) -> tuple[list[Any], Any]:
    """Make four runs of different lengths, each at its own level, and eight blocks as labels."""
    rng = np.random.default_rng(3)
    x, y, z = np.indices((12, 12, 8))
    labels = 1 + x // 6 + 2 * (y // 6) + 4 * (z // 4)
    runs: list[Any] = []
    for length in (90, 90, 70, 100):
        level = 1000 + rng.normal(scale=20) + 8 * np.sin(np.arange(length) / 5)
        data = (level + rng.normal(scale=15, size=(*labels.shape, length))).astype(np.int16)
        url = f"{folder}/{len(runs)}.h5"
        runs.append(fs.NeuroVec.create(data, url, space=np.diag([3.0, 3, 3, 1]), tr=2.0))
    return runs, labels


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--labels")
    parser.add_argument("--names")
    parser.add_argument("--out", type=Path, default=Path())
    main(**vars(parser.parse_args()))
