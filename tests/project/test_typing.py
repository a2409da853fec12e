"""Scripts of users under a type checker."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "typing_examples"


@pytest.mark.once
@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
def test_scripts_of_users_pass_mypy_in_strict_mode(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("there is no checkout")
    kept = getattr(request.config, "cache", None)  # what mypy knows of numpy takes it a minute
    cache = tmp_path if kept is None else kept.mkdir("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), str(SCRIPTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues found" in done.stdout
