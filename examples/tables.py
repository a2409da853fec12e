"""Parcels as tables: data frames, events kept with the run, and files as BIDS has them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import fmristore as fs


def main() -> None:
    """Work in a temporary folder."""
    values = np.random.default_rng(0).normal(100, 5, (8, 8, 6, 30)).astype(np.float32)
    labels = np.zeros((8, 8, 6), np.int16)
    labels[1:4], labels[4:7] = 1, 2
    space = fs.NeuroSpace(
        spatial_shape=(8, 8, 6), affine=np.diag([3.0, 3, 3, 1]), time_points=30, tr=2.0
    )
    events = pd.DataFrame({"onset": [0.0, 20.0], "duration": [10, 10], "trial_type": ["a", "b"]})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = {1: "Left", 2: "Right"}
        url = folder / "rest.h5"
        with fs.parcellate(
            values, labels, url, names=names, space=space, metadata={"events": events}
        ) as rest:
            print(rest.to_dataframe().describe().round(1))
            print(rest.metadata_frame("events"))
            rest.to_table(folder / "sub-01_task-rest_timeseries.tsv")
        run = folder / "run.h5"
        fs.NeuroVec.create(values, run, space=space, metadata={"events": events}).close()
        with fs.open(run) as bold:  # tables are read when they are asked for
            print(bold.metadata_frame("events"))
        print(*sorted(path.name for path in folder.iterdir()))


if __name__ == "__main__":
    main()
