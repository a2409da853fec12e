"""Every code block of the README and of the site runs, and prints what its page shows."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from fmristore.cli import app
from tests.project.blocks import FROM_NOTHING, blocks_of, make_folder, run_page, use_bucket

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
    make_folder(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page(
    page: Path,
    given: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if page.name not in FROM_NOTHING:
        shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    if any("s3://" in block.text and block.not_run is None for block in blocks_of(page)):
        use_bucket("lab", request.getfixturevalue("s3_endpoint"), monkeypatch)
    run_page(page, tmp_path)


def test_blocks_that_are_not_run_say_why() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            assert block.not_run is None or len(block.not_run) > 10, f"{page}:{block.line}"


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
