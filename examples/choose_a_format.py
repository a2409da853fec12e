"""One run stored in five formats: what each takes on disk, and what can be read from it.

    pip install "fmristore[latent,plot]"
    python choose_a_format.py [RUN MASK LABELS] [--names TABLE] [--out FOLDER]

RUN is a NIfTI run, MASK and LABELS are images on its grid, TABLE says what the labels stand for.
Without them a small run is made up. Draws choose_a_format.png.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import fmristore as fs
from fmristore.demo import make_run


def main(run: Any, mask: Any, labels: Any, names: Any, out: Path) -> None:
    """Store a run in a temporary folder in every way, print a table, and draw the sizes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if run is None:
            run, mask, labels = make_up(folder)

        full = fs.NeuroVec.create(run, folder / "full.h5")
        masked = fs.MaskedNeuroVec.create(full, folder / "masked.h5", mask=mask)
        parcels = fs.Parcellation.from_labels(labels, names=names, mask=mask, space=full.space)
        voxels = fs.ParcellatedScan.create(full, folder / "voxels.h5", parcellation=parcels)
        means = fs.parcellate(full, parcels, folder / "means.h5")
        latent = fs.LatentNeuroVec.from_pca(full, folder / "latent.h5", 20, mask=mask)
        print(f"20 components miss {latent.reconstruction_error:.0%} of the fluctuations in time")

        where = int(np.argmax(parcels.sizes))  # the largest parcel
        truth = read(full, parcels, where)
        print(f"{'':23}{'size':>9}  {'one voxel':14}{'one volume':20}one parcel (mean)")
        sizes = {"NIfTI file (.nii.gz)": Path(run).stat().st_size / 1e6}
        for stored in (full, masked, voxels, means, latent):
            kind = type(stored).__name__
            sizes[kind] = Path(stored.url).stat().st_size / 1e6
            voxel, volume, mean = map(compare, read(stored, parcels, where), truth)
            print(f"{kind:23}{sizes[kind]:6.2f} MB  {voxel:14}{volume:20}{mean}")
            stored.close()
    draw(sizes, out / "choose_a_format.png")


def read(stored: Any, parcels: fs.Parcellation, where: int) -> tuple[Any, Any, Any]:
    """Read a voxel's series, a volume (in the mask), and the mean series of a parcel."""
    if isinstance(stored, fs.ParcellatedScanSummary):
        return None, None, stored[parcels.names[where]]
    x, y, z = parcels.voxels[parcels.rows(parcels.names[where])][0]
    region = parcels.labels == parcels.ids[where]
    return stored[x, y, z], stored[..., 10][parcels.mask], stored.series(mask=region).mean(axis=1)


def compare(found: Any, truth: Any) -> str:
    """Say how much of the truth was found, and how far off that is."""
    if found is None:
        return "no"
    held = (found != 0) | (truth == 0)  # what a format does not hold is read as 0
    error = np.linalg.norm((found - truth)[held]) / np.linalg.norm(truth[held])
    text = "exact" if error < 1e-6 else f"{error:.1%} off"
    return text if held.all() else f"{text}, {held.mean():.0%} of it"


def draw(sizes: dict[str, float], path: Path) -> None:
    """Draw a bar for each way to store the run."""
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    whole, *_ = sizes.values()
    bars = axes.barh(list(sizes), list(sizes.values()), color=["0.65", *["tab:blue"] * 5])
    axes.bar_label(bars, [f" {size:.2g} MB, {size / whole:.0%}" for size in sizes.values()])
    axes.set(xlabel="size on disk (MB)", title="The same run in five formats")
    axes.set_xlim(0, 1.3 * max(sizes.values()))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def make_up(folder: Path) -> tuple[Any, Any, Any]:
    """Make a run, a mask of its brain, and 27 blocks of brain as labels."""
    run = folder / "bold.nii.gz"
    make_run(run, shape=(32, 32, 20, 60))
    with fs.NeuroVec.create(run, folder / "bold.h5") as bold:
        brain = bold[..., 0] > 100
    boxes = [3 * index // n for index, n in zip(np.indices(brain.shape), brain.shape, strict=True)]
    return run, brain, brain * (1 + boxes[0] + 3 * boxes[1] + 9 * boxes[2])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for argument in ("run", "mask", "labels"):
        parser.add_argument(argument, nargs="?")
    parser.add_argument("--names")
    parser.add_argument("--out", type=Path, default=Path())
    main(**vars(parser.parse_args()))
