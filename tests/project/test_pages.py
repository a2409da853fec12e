"""Every code block of the README and of the site runs, and prints what its page shows."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import fmristore as fs
from fmristore.cli import app
from fmristore.demo import make_files
from tests.project.blocks import blocks_of, makes_its_data, run_page, use_bucket

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
PAGES = [p for p in PAGES if "generated" not in p.parts and blocks_of(p)]


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    make_files(folder)
    return folder


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page(
    page: Path,
    given: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not makes_its_data(page):
        shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    if any("s3://" in block.text and block.not_run is None for block in blocks_of(page)):
        use_bucket("lab", request.getfixturevalue("s3_endpoint"), monkeypatch)
    run_page(page, tmp_path)


def test_files_for_pages_are_made_in_a_new_folder_only(given: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in given.rglob("*")}
    with pytest.raises(fs.errors.AlreadyExistsError, match="not empty"):
        make_files(given)
    assert before == {path: path.stat().st_mtime_ns for path in given.rglob("*")}


HAXBY = "bold/haxby2001_25mm"
REAL = {
    "xarray-dask": f"""
run, mask = real / "{HAXBY}/sub-1_run-01_bold.nii.gz", real / "{HAXBY}/mask-brain.nii.gz"
atlas = real / "{HAXBY}/mask-hoc.nii.gz"
""",
    "connectivity": """
run, atlas = real / "bold/pyhrf_subj0/bold.nii.gz", real / "bold/pyhrf_subj0/parcellation.nii.gz"
names = None
""",
    "several-runs": f"""
runs = {{f"run-{{n}}": real / f"{HAXBY}/sub-1_run-0{{n}}_bold.nii.gz" for n in (1, 2, 3)}}
atlas = real / "{HAXBY}/mask-hoc.nii.gz"
""",
    "maps": """
import fmristore as fs
import numpy as np
maps = {f"sub-{n:02}": real / f"maps/wager2008/con_{n:02}.nii.gz" for n in range(1, 6)}
with fs.convert(maps["sub-01"], "one.h5") as one:
    mask, affine = np.isfinite(one[...]), None
""",
    "latent": """
run, mask = real / "bold/pyhrf_subj0/bold.nii.gz", real / "bold/pyhrf_subj0/parcellation.nii.gz"
""",
    "training": f"""
runs = sorted((real / "{HAXBY}").glob("sub-1_run-0[1-3]_bold.nii.gz"))
""",
}
"""What takes the place of the first cell of notebooks, to run them on real images."""


@pytest.mark.once
@pytest.mark.parametrize("name", REAL)
def test_notebook_on_real_images(name: str, tmp_path: Path, shared_data: Path) -> None:
    given = f"from pathlib import Path\nreal = Path({str(shared_data / 'data' / 'real')!r})\n"
    page = ROOT / "docs" / "how-to" / f"{name}.md"
    assert any(block.parameters for block in blocks_of(page))
    run_page(page, tmp_path, given + REAL[name])


def test_blocks_that_are_not_run_say_why() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            assert block.not_run is None or len(block.not_run) > 10, f"{page}:{block.line}"


@pytest.mark.once
def test_examples_of_help_run(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    group: Any = get_command(app)
    for command in (group, *group.commands.values()):
        example = (command.epilog or "").removeprefix("Example: ").replace("\\[", "[")
        words = shlex.split(example)
        assert words[0] == "fmristore", f"{command.name} has no example"
        if words[1] == "transcode":  # the example is of a cloud
            words[3] = "other.ome.zarr"
        (tmp_path / "new.h5").unlink(missing_ok=True)
        outcome = CliRunner().invoke(app, words[1:])
        assert outcome.exit_code == 0, f"{example}: {outcome.output}"
