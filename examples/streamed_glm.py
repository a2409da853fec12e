"""nilearn's first-level model on a stored run, without loading it: equal maps, less memory."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nilearn.glm import first_level as nilearns

import fmristore as fs
from fmristore.demo import make_dataset
from fmristore.nilearn import FirstLevelModel


def fitted(model: Any, run: str, events: Any) -> tuple[Any, int]:
    """Map of a contrast, and the bytes that fitting took."""
    tracemalloc.start()
    model.fit(run, events)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return model.compute_contrast("picture").get_fdata(), taken


def main() -> None:
    """Make a run with a task, fit it both ways, compare."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = make_dataset(folder, shape=(32, 38, 20, 100))
        events = pd.read_csv(run.with_name("sub-01_task-blocks_events.tsv"), sep="\t")
        mask = next(folder.rglob("*brain_mask.nii.gz"))
        fs.convert(run, folder / "bold.h5").close()

        options: Any = {"t_r": 2.0, "mask_img": str(mask)}
        theirs, most = fitted(nilearns.FirstLevelModel(**options), str(run), events)
        model = FirstLevelModel(**options, max_memory="2MiB")
        ours, least = fitted(model, str(folder / "bold.h5"), events)
        print("equal:", np.allclose(ours, theirs, rtol=1e-6, atol=1e-6))
        print(f"nilearn {most / 1e6:.0f} MB, streamed {least / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
