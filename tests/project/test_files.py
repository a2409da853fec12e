"""Files about the project agree with each other: version, changelog, steps of CI."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fmristore
from fmristore import errors
from fmristore.transcoding.plan import LOSSES

ROOT = Path(__file__).resolve().parents[2]
STEPS = ROOT / ".ci" / "step"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"

pytestmark = pytest.mark.skipif(not WORKFLOW.exists(), reason="not in a checkout")


def steps() -> set[str]:
    """Steps that .ci/step knows."""
    found = re.search(r"^(\w[\w |]+)\) \"\$@\" ;;$", STEPS.read_text(), re.MULTILINE)
    assert found
    return set(found[1].split(" | "))


def test_citation_names_this_version() -> None:
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {fmristore.__version__}" in lines


def test_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", v) for v in versions[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds


def test_workflow_takes_steps_of_ci() -> None:
    text = WORKFLOW.read_text()
    commands = re.findall(r"^ +run: (.*)$", text, re.MULTILINE)
    matrix = re.search(r"step: \[(.*)\]", text)
    assert matrix
    assert all(command.startswith(".ci/step ") for command in commands)
    named = {command.removeprefix(".ci/step ") for command in commands}
    named = (named - {"${{ matrix.step }}"}) | set(matrix[1].split(", "))
    assert named == steps() - {"environment", "built"}  # which others take themselves


def test_page_on_tests_has_the_trials_of_campaigns() -> None:
    from tests.campaigns.__main__ import CAMPAIGNS

    page = (ROOT / "docs" / "explanation" / "testing.md").read_text()
    row = r"^\| [^|]+ \| ([\d,]+|all)[^|]* \| ([\d,]+|all) \| .*campaigns ([\w-]+)` \|$"
    listed = {name: (full, quick) for full, quick, name in re.findall(row, page, re.MULTILINE)}
    assert listed == {
        name: tuple("all" if n == 10**6 else f"{n:,}" for n in counts)
        for name, counts in CAMPAIGNS.items()
    }


def test_run_takes_all_steps_but_the_oldest_versions() -> None:
    taken = re.findall(r"^(?:step|beside) (\w+)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert len(taken) == len(set(taken))
    assert set(taken) == steps() - {"lowest"}


def test_every_error_has_its_cause_and_cure() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `([\w-]+)` \|", page, re.MULTILINE))
    classes = [getattr(errors, name) for name in errors.__all__]
    assert rows == {c.__name__: c.kind for c in classes}


def test_every_loss_is_explained() -> None:
    page = (ROOT / "docs" / "reference" / "transcoding.md").read_text()
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE) == sorted(LOSSES)


def test_every_environment_variable_is_listed() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text()
    sources = [p.read_text() for f in ("fmristore", "stores") for p in (ROOT / f).rglob("*.py")]
    used = set(re.findall(r"\b(?:FMRISTORE|HDF5_USE)_[A-Z_]+\b", "\n".join(sources)))
    assert used == set(re.findall(r"^\| `((?:FMRISTORE|HDF5_USE)\w+)`", page, re.MULTILINE))


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_modules_that_are_named_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    roots = [ROOT, *(ROOT / p for p in ("stores", "fmristore", "stores/fmristore_stores"))]
    named = [n for n in re.findall(r"`([\w./]+\.py)`", text) if "/" in n]
    assert named
    missing = [n for n in named if not any((root / n).exists() for root in roots)]
    assert missing == []
