"""Every example runs, in a process of its own: on what it makes up, and on real images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))

ONEBACK = "bold/sub-02_task-oneback_run-1_bold.nii.gz"
SCHAEFER = "atlases/sub-02_task-oneback_desc-schaefer200notregistered_dseg.nii.gz"
HAXBY = "bold/haxby2001_25mm"
REAL = {
    "choose_a_format": [
        *(f"{HAXBY}/sub-1_run-01_bold.nii.gz", f"{HAXBY}/mask-brain.nii.gz"),
        f"{HAXBY}/mask-hoc.nii.gz",
    ],
    "several_runs": [f"{HAXBY}/sub-1_run-*_bold.nii.gz", "--labels", f"{HAXBY}/mask-hoc.nii.gz"],
    "subject_maps": ["maps/wager2008/con_*.nii.gz"],
    "connectivity": [ONEBACK, SCHAEFER, "--names", "atlases/schaefer_200_labels.csv"],
    "latent": ["bold/pyhrf_subj0/bold.nii.gz", "bold/pyhrf_subj0/parcellation.nii.gz"],
}
"""Arguments by script: options, and paths or patterns in the folder of real images."""


PROGRAMS = """
import io, json, os, runpy, sys, traceback
import dask, h5py, matplotlib.pyplot, nibabel, numpy, pandas, xarray, zarr
import nilearn.glm.first_level, nilearn.image, nilearn.maskers
import fmristore
for line in sys.stdin:
    script, arguments, folder, printed = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 1)
            os.dup2(1, 2)
            os.chdir(folder)
            sys.argv, sys.stdin = [script, *arguments], io.StringIO()
            sys.path[0] = os.path.dirname(script)
            runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A program that runs scripts in forks of itself, in which most that they import is there."""

Run = Callable[[str, list[str], Path], str]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run a script in a folder; if it draws, look at its picture; give what it prints."""
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    environment = os.environ | one_thread
    programs: list[subprocess.Popen[str]] = []

    def call(script: Path, arguments: list[str], folder: Path, printed: Path) -> int:
        if sys.platform != "linux" or script.stem == "clusters":  # which starts processes itself
            with printed.open("w") as out:
                command = [sys.executable, str(script), *arguments]
                return subprocess.run(
                    command, cwd=folder, env=environment, stdout=out, stderr=out, check=False
                ).returncode
        if not programs:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            command = [sys.executable, "-c", PROGRAMS]
            programs.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        asked, answers = programs[0].stdin, programs[0].stdout
        assert asked is not None
        assert answers is not None
        asked.write(json.dumps([str(script), arguments, str(folder), str(printed)]) + "\n")
        asked.flush()
        return int(answers.readline())

    def run(script: str, arguments: list[str], folder: Path) -> str:
        printed = folder.with_name(f"{folder.name}.txt")
        code = call(FOLDER / f"{script}.py", arguments, folder, printed)
        text = printed.read_text()
        assert code == 0, text
        if script in REAL:
            picture = matplotlib.image.imread(folder / f"{script}.png")
            assert min(picture.shape[:2]) > 200
            assert picture[..., :3].std() > 0.05
        assert [path.name for path in folder.iterdir()] == [f"{script}.png"] * (script in REAL)
        return text

    yield run
    for program in programs:
        with program:
            program.communicate()


@pytest.mark.parametrize("script", EXAMPLES)
def test_example(run: Run, script: str, tmp_path: Path) -> None:
    printed = run(script, [], tmp_path)
    assert "False" not in printed
    assert len(printed.splitlines()) >= 2


@pytest.mark.once
@pytest.mark.parametrize("script", REAL)
def test_example_on_real_images(run: Run, script: str, tmp_path: Path, shared_data: Path) -> None:
    arguments: list[str] = []
    for text in REAL[script]:
        found = sorted(map(str, (shared_data / "data" / "real").glob(text)))
        arguments += found if not text.startswith("--") else [text]
    assert len(arguments) >= len(REAL[script])
    assert len(run(script, arguments, tmp_path).splitlines()) >= 2
