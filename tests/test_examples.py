"""Every example runs, as its own program: on what it makes up, and on real images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))

ONEBACK = "bold/sub-02_task-oneback_run-1_bold.nii.gz"
SCHAEFER = "atlases/sub-02_task-oneback_desc-schaefer200notregistered_dseg.nii.gz"
HAXBY = "bold/haxby2001_25mm"
REAL = {
    "choose_a_format": [
        *(ONEBACK, "masks/sub-02_task-oneback_desc-otsu_mask.nii.gz", SCHAEFER),
        *("--names", "atlases/schaefer_200_labels.csv"),
    ],
    "several_runs": [f"{HAXBY}/sub-1_run-*_bold.nii.gz", "--labels", f"{HAXBY}/mask-hoc.nii.gz"],
    "subject_maps": ["maps/wager2008/con_*.nii.gz"],
    "connectivity": [ONEBACK, SCHAEFER, "--names", "atlases/schaefer_200_labels.csv"],
    "latent": ["bold/pyhrf_subj0/bold.nii.gz", "bold/pyhrf_subj0/parcellation.nii.gz"],
}
"""Arguments by script: options, and paths or patterns in the folder of real images."""


def run(script: str, arguments: list[str], folder: Path) -> str:
    """Run a script in a folder; if it draws, look at its picture; give what it prints."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{script}.py"), *arguments],
        cwd=folder,
        env=os.environ | one_thread,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if script in REAL:
        picture = matplotlib.image.imread(folder / f"{script}.png")
        assert min(picture.shape[:2]) > 200
        assert picture[..., :3].std() > 0.05
    assert [path.name for path in folder.iterdir()] == [f"{script}.png"] * (script in REAL)
    return done.stdout


@pytest.mark.parametrize("script", EXAMPLES)
def test_example(script: str, tmp_path: Path) -> None:
    printed = run(script, [], tmp_path)
    assert "False" not in printed
    assert len(printed.splitlines()) >= 2


@pytest.mark.parametrize("script", REAL)
def test_example_on_real_images(script: str, tmp_path: Path, shared_data: Path) -> None:
    arguments: list[str] = []
    for text in REAL[script]:
        found = sorted(map(str, (shared_data / "data" / "real").glob(text)))
        arguments += found if not text.startswith("--") else [text]
    assert len(arguments) >= len(REAL[script])
    assert len(run(script, arguments, tmp_path).splitlines()) >= 2
