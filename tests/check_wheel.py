"""Check what a wheel would put on a user's machine: our two packages, with the page's files."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

EXPECTED = {"fmristore", "fmristore_stores"}
PAGE = Path("fmristore/viewer/page")


def top_level(wheel: Path) -> set[str]:
    """Names that the wheel installs, other than its own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    return {name for name in names if not name.endswith(".dist-info")}


def page_files(wheel: Path) -> set[str]:
    """Names of the files of the page that shows a store."""
    with zipfile.ZipFile(wheel) as archive:
        return {p.name for p in map(Path, archive.namelist()) if p.parent == PAGE}


if __name__ == "__main__":
    found = top_level(Path(sys.argv[1]))
    if found != EXPECTED:
        sys.exit(f"the wheel installs {sorted(found)}, expected {sorted(EXPECTED)}")
    lacking = {path.name for path in PAGE.iterdir()} - page_files(Path(sys.argv[1]))
    if lacking:
        sys.exit(f"the wheel lacks {sorted(lacking)} of {PAGE}")
    print(f"the wheel installs {', '.join(sorted(found))}")
