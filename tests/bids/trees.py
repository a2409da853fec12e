"""Small datasets of BIDS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.images import AFFINE, make_values, write_nifti

__all__ = ["GRID", "make_dataset", "mean_of"]

GRID = (4, 5, 3)


def make_dataset(root: Path, *, subjects: int = 2, times: int = 6) -> Path:
    """Raw runs of some subjects, and what fMRIPrep makes of them, all of it tiny."""
    _write(root / "dataset_description.json", {"Name": "Small", "BIDSVersion": "1.10.0"})
    _write(
        root / "task-rest_bold.json", {"RepetitionTime": 1.5, "TaskName": "rest", "EchoTime": 0.03}
    )
    (root / "README").write_text("A small dataset.\n")
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\n")
    (root / "task-rest_events.tsv").write_text(
        "onset\tduration\ttrial_type\n0.5\t1\tgo\n2\tn/a\tstop\n"
    )
    derived = root / "derivatives" / "fmriprep"
    _write(
        derived / "dataset_description.json",
        {"Name": "fMRIPrep", "BIDSVersion": "1.10.0", "DatasetType": "derivative"},
    )
    for number in range(1, subjects + 1):
        name = f"sub-{number:02}"
        raw = root / name / "func"
        _image(raw / f"{name}_task-rest_bold.nii.gz", (*GRID, times), number)
        _write(raw / f"{name}_task-rest_bold.json", {"EchoTime": 0.03 + number})
        (root / name / f"{name}_scans.tsv").write_text(
            f"filename\tacq_time\nfunc/{name}_task-rest_bold.nii.gz\tn/a\n"
        )
        _image(root / name / "anat" / f"{name}_T1w.nii.gz", GRID, number)
        prep = derived / name / "func"
        start = f"{name}_task-rest_space-MNI_desc"
        _image(prep / f"{start}-preproc_bold.nii.gz", (*GRID, times), number + 50)
        _image(prep / f"{start}-brain_mask.nii.gz", GRID, number, dtype="u1")
        _write(prep / f"{start}-preproc_bold.json", {"RepetitionTime": 1.5})
        (prep / f"{name}_task-rest_desc-confounds_timeseries.tsv").write_text(
            "trans_x\trot_x\tcode\n" + "".join(f"{0.25 * t}\tn/a\t0{t}\n" for t in range(times))
        )
    return root


def mean_of(stored: Any, offset: float = 0.0) -> float:
    """Mean of a stored image."""
    return float(np.asarray(stored, dtype="f8").mean()) + offset


def _image(path: Path, shape: tuple[int, ...], seed: int, dtype: str = "i2") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, make_values(shape, dtype, seed=seed), affine=AFFINE)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
