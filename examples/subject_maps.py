"""Maps of several subjects in one file: by name, by slice, and one voxel across subjects.

    pip install "fmristore[plot]"
    python subject_maps.py [MAP MAP ...] [--out FOLDER]

The maps are NIfTI images on one grid, NaN where a subject has no data. Without them, maps are
made up. Draws subject_maps.png: the group's mean.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import fmristore as fs


def main(maps: list[Any], out: Path) -> None:
    """Store the maps in a temporary folder, read them, and draw their mean."""
    maps, affine = (maps, None) if maps else make_up()
    named = {f"sub-{number:02}": image for number, image in enumerate(maps, 1)}
    with tempfile.TemporaryDirectory() as folder:
        # Store all voxels, and of these the ones in which every subject has data.
        with fs.LabeledVolumeSet.create(named, f"{folder}/all.h5", space=affine) as stored:
            everywhere = np.isfinite(stored[...]).all(axis=3)
            group = fs.LabeledVolumeSet.create(stored, f"{folder}/maps.h5", mask=everywhere)
        print(group)
        x, y, z = (n // 2 for n in group.shape[:3])
        print("one subject's map      ", group["sub-02"].shape)
        print("one slice of it        ", group[:, :, z, "sub-02"].shape)
        print("a voxel across subjects", group[x, y, z].round(1))

        # Maps can be added, renamed and removed later.
        group.add("mean", group[...].mean(axis=3))
        group.rename("sub-01", "pilot")
        print("maps now               ", *group.labels)
        mean = group.with_fill(np.nan)["mean"]
        group.close()

    title = f"Mean of {len(maps)} subjects: axial slices, left is left"
    draw(mean, group.affine, group.spacing, title).savefig(out / "subject_maps.png", dpi=110)


def draw(mean: Any, affine: Any, spacing: tuple[float, ...], title: str) -> Any:
    """Draw ten axial slices of a map with axes in the order of RAS or LAS."""
    limit = np.nanpercentile(np.abs(mean), 99)
    figure, panels = plt.subplots(2, 5, figsize=(9, 4.2), layout="constrained")
    slices = np.linspace(0.15, 0.85, panels.size) * mean.shape[2]
    for axes, z in zip(panels.flat, slices.astype(int), strict=True):
        shown = axes.imshow(mean[:, :, z].T, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set(xticks=[], yticks=[], facecolor="0.85", aspect=spacing[1] / spacing[0])
        axes.set_title(f"z = {affine[2] @ [0, 0, z, 1]:.0f} mm", fontsize=9)
        axes.invert_yaxis()  # the front is at the top
        if affine[0, 0] < 0:
            axes.invert_xaxis()
    figure.colorbar(shown, ax=panels, label="mean contrast (a.u.)", shrink=0.8)
    figure.suptitle(title)
    return figure


def make_up() -> tuple[list[Any], Any]:
    """Make maps of eight subjects: two blobs and noise, NaN outside a head of varying size."""
    rng = np.random.default_rng(4)
    x, y, z = (2 * index / index.size - 1 for index in np.ogrid[:30, :36, :24])
    right, left = (np.exp(-12 * ((x - at) ** 2 + (y + 0.3) ** 2 + z**2)) for at in (-0.4, 0.4))
    maps = []
    for size in rng.uniform(0.7, 0.9, size=8):
        values = rng.normal(3, 1) * left - rng.normal(2, 1) * right
        values += rng.normal(scale=0.7, size=values.shape)
        maps.append(np.where(x**2 + y**2 + z**2 < size, values, np.nan).astype(np.float32))
    affine = np.array([[-4.0, 0, 0, 60], [0, 4, 0, -72], [0, 0, 4, -40], [0, 0, 0, 1]])
    return maps, affine


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("maps", nargs="*")
    parser.add_argument("--out", type=Path, default=Path())
    main(**vars(parser.parse_args()))
