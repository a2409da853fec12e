"""Every page of the site is in a table of contents, and every link between pages leads to one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once  # links lead to sources, which are not beside the tests of the wheel

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FOLDERS = ("how-to", "explanation", "reference", "project")


@pytest.mark.parametrize("folder", FOLDERS)
def test_pages_are_listed(folder: str) -> None:
    text = (DOCS / folder / "index.md").read_text()
    toc = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    assert toc
    lines = "".join(toc).splitlines()
    listed = {line for line in lines if line and not line.startswith((":", ".."))}
    assert listed == {path.stem for path in (DOCS / folder).glob("*.md")} - {"index"}


def test_links_lead_to_files() -> None:
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "examples" / "README.md"]
    missing = []
    for page in pages:
        if "generated" in page.parts:
            continue
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            path = page.parent / target
            if "/generated/" not in target and not path.exists():
                missing.append(f"{page.relative_to(ROOT)}: {target}")
    assert missing == []
