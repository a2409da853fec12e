"""Check what a wheel would put on a user's machine: exactly our two import packages."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

EXPECTED = {"fmristore", "fmristore_stores"}


def top_level(wheel: Path) -> set[str]:
    """Names that the wheel installs, other than its own metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}
    return {name for name in names if not name.endswith(".dist-info")}


if __name__ == "__main__":
    found = top_level(Path(sys.argv[1]))
    if found != EXPECTED:
        sys.exit(f"the wheel installs {sorted(found)}, expected {sorted(EXPECTED)}")
    print(f"the wheel installs {', '.join(sorted(found))}")
