"""Connectivity at rest: one series for each parcel, and how they correlate.

    pip install "fmristore[plot]" pandas
    python connectivity.py [RUN LABELS] [--names TABLE] [--seed PARCEL] [--out FOLDER]

RUN is a NIfTI run, cleaned already: only slow drifts are taken out here. LABELS is an image on its
grid, TABLE says what the labels stand for; names such as LH_Vis_1 are grouped by their first two
parts. Without them, a run is made up. Draws connectivity.png.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import fmristore as fs


def main(run: Any, labels: Any, names: Any, seed: str | None, out: Path) -> None:
    """Summarise the run in a temporary folder, correlate, and draw."""
    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            run, labels, names = make_up(folder)
        with fs.parcellate(run, labels, f"{folder}/rest.h5", names=names) as rest:
            print(rest)
            series = rest.to_dataframe()  # a column for each parcel, indexed by seconds
            window = round(100 / (rest.tr or 1))  # volumes in 100 s

    series = series.dropna(axis="columns")  # parcels without voxels
    series.columns = series.columns.str.replace(r"^\d+Networks_", "", regex=True)
    drift = series.rolling(window, center=True, min_periods=1).mean()
    correlation = (series - drift).corr()
    seed = seed or series.columns[0]
    strongest = correlation[seed].drop(seed).nlargest(10)
    print(f"most like {seed}:", strongest.round(2).to_string(), sep="\n")

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.6), width_ratios=[1.4, 1], layout="constrained"
    )
    shown = left.imshow(correlation, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(shown, ax=left, label="correlation (r)", shrink=0.8)
    left.set_title(f"Correlation of {len(correlation)} parcels")
    mark_groups(left, correlation.columns)
    right.barh(strongest.index, strongest, color="tab:red")
    right.set(xlabel="correlation (r)", title=f"Parcels most like {seed}")
    right.tick_params(axis="y", labelsize=8)
    right.invert_yaxis()
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(out / "connectivity.png", dpi=110)


def mark_groups(axes: Any, names: Any) -> None:
    """Name the groups of parcels along both axes, and draw lines between them."""
    first, ticks = 0, {}
    for group, members in itertools.groupby(names, lambda name: " ".join(name.split("_")[:2])):
        count = len(list(members))
        ticks[first + (count - 1) / 2] = group
        first += count
        axes.axhline(first - 0.5, color="black", linewidth=0.4)
        axes.axvline(first - 0.5, color="black", linewidth=0.4)
    axes.set_xticks(list(ticks), ticks.values(), rotation=90, fontsize=8)
    axes.set_yticks(list(ticks), ticks.values(), fontsize=8)


def make_up(folder: str) -> tuple[Any, Any, list[str]]:
    """Make a run in which four networks have three parcels each on either side."""
    rng = np.random.default_rng(5)
    networks = ("Vis", "SomMot", "Cont", "Default")
    names = [f"{side}_{net}_{n}" for side in ("LH", "RH") for net in networks for n in (1, 2, 3)]
    x, y, z = np.indices((12, 16, 9))
    labels = 1 + 12 * (x // 6) + 3 * (y // 4) + z // 3
    shared = rng.normal(size=(4, 200))[(labels - 1) // 3 % 4]  # (X, Y, Z, T), by network
    own = rng.normal(size=(24, 200))[labels - 1]
    data = 1000 + 10 * (shared + own) + rng.normal(scale=20, size=own.shape)
    space = np.diag([4.0, 4, 4, 1])
    run = fs.NeuroVec.create(data.astype(np.int16), f"{folder}/run.h5", space=space, tr=2.0)
    return run, labels, names


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", nargs="?")
    parser.add_argument("labels", nargs="?")
    parser.add_argument("--names")
    parser.add_argument("--seed")
    parser.add_argument("--out", type=Path, default=Path())
    main(**vars(parser.parse_args()))
