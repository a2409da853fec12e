"""Latent compression: what some components of a run take on disk, and what they miss.

    pip install "fmristore[latent,plot]"
    python latent.py [RUN MASK] [--components 5 10 20 ...] [--out FOLDER]

RUN is a NIfTI run, MASK an image on its grid. Without them, a run is made up. Draws latent.png.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import fmristore as fs


def main(run: Any, mask: Any, components: list[int], out: Path) -> None:
    """Store a run in a temporary folder with more and more components, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            run, mask = make_up(folder)
        bold = fs.MaskedNeuroVec.create(run, f"{folder}/bold.h5", mask=mask)
        exact = size_of(bold)
        print(f"all data in the mask {exact:6.2f} MB")
        stored, sizes, missed = [], [], []
        for count in components:
            latent = fs.LatentNeuroVec.from_pca(
                bold, f"{folder}/{count}.h5", count, mask=bold.mask, voxel_error=True
            )
            stored.append(latent)
            sizes.append(size_of(latent))
            missed.append(100 * (latent.reconstruction_error or 0))
            print(f"{count:4} components {sizes[-1]:6.2f} MB, miss {missed[-1]:.0f} %")

        # A voxel whose error is neither small nor large. Only its series is computed.
        error = np.asarray(latent.voxel_error)
        x, y, z = latent.voxels[np.argsort(error)[len(error) // 2]].tolist()
        series = {"original": bold[x, y, z]}
        for latent in (stored[0], stored[-1]):
            series[f"{latent.n_components} components"] = latent[x, y, z]
        for item in (bold, *stored):
            item.close()

    figure, axes = plt.subplot_mosaic("ab;cc", figsize=(9, 6), layout="constrained")
    for panel, across, label in (
        ("a", components, "components"),
        ("b", sizes, "size on disk (MB)"),
    ):
        axes[panel].plot(across, missed, "o-")
        axes[panel].set(xlabel=label, ylabel="fluctuations missed (%)", ylim=(0, 1.1 * max(missed)))
        axes[panel].grid(color="0.9")
    axes["a"].set(xlim=(0, None), xticks=components)
    axes["b"].axvline(exact, color="0.5", linestyle="--", label="all data in the mask")
    axes["b"].set_xlim(0, 1.1 * max(exact, *sizes))
    axes["b"].legend(fontsize=8)

    styles = ("0.75", 3), ("tab:orange", 1.5), ("tab:blue", 1.5)
    for (name, values), (color, width) in zip(series.items(), styles, strict=True):
        seconds = np.arange(len(values)) * (bold.tr or 1)
        axes["c"].plot(seconds, values, color=color, linewidth=width, label=name)
    axes["c"].set(xlabel="time (s)", ylabel="BOLD signal (a.u.)", title=f"Voxel {x}, {y}, {z}")
    axes["c"].margins(x=0.01)
    axes["c"].legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    figure.savefig(out / "latent.png", dpi=110)


def size_of(stored: Any) -> float:
    """Size on disk in MB."""
    return Path(stored.url).stat().st_size / 1e6


def make_up(folder: str) -> tuple[Any, Any]:
    """Make a run of fifteen sources, the first ones strongest, and noise; and its mask."""
    rng = np.random.default_rng(6)
    shape, times = (24, 24, 14), 120
    place = [2 * index / n - 1 for index, n in zip(np.indices(shape), shape, strict=True)]
    brain = np.sum(np.square(place), axis=0) < 0.8
    courses = np.cumsum(rng.normal(size=(times, 15)), axis=0) / np.arange(1, 16) * 3
    values = 1000 * brain[..., None] + rng.normal(size=(*shape, 15)) @ courses.T
    values += rng.normal(scale=3, size=values.shape)
    space = np.diag([3.0, 3, 3, 1])
    run = fs.NeuroVec.create(values.astype(np.int16), f"{folder}/run.h5", space=space, tr=2.0)
    return run, brain


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", nargs="?")
    parser.add_argument("mask", nargs="?")
    parser.add_argument("--components", nargs="+", type=int, default=[2, 5, 10, 20])
    parser.add_argument("--out", type=Path, default=Path())
    main(**vars(parser.parse_args()))
