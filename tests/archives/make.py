"""Writes the archive of a format version: a tiny store of every format in both containers.

Run once for each version of the formats, with the code that writes it; what is there is never made
again: ``python -m tests.archives.make 1.1``.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import fmristore as fs
from tests.every_format import WRITERS

__all__ = ["content"]


def content(stored: Any) -> dict[str, Any]:
    """Arrays that a stored object consists of for its users, by name."""
    if hasattr(stored, "scan_names") and not hasattr(stored, "loadings"):
        return {name: np.asarray(stored[name]) for name in stored.scan_names}
    return {"all": np.asarray(stored)}


def _zipped(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(str(path.relative_to(folder)), (2026, 1, 1, 0, 0, 0))
                archive.writestr(entry, path.read_bytes())


def main(version: str, folder: Path) -> None:
    """Write all stores of the archive, and the arrays that they hold."""
    folder.mkdir()
    expected: dict[str, Any] = {}
    for name, write in WRITERS.items():
        write(folder / f"{name}.h5").close()
        with tempfile.TemporaryDirectory() as work:
            write(Path(work) / "a.zarr").close()
            _zipped(Path(work) / "a.zarr", folder / f"{name}.zarr.zip")
        with fs.open(folder / f"{name}.h5") as stored:
            found = stored.root_attributes["fmristore_format_version"]
            if found != version:
                raise SystemExit(f"{name} has the format version {found}, not {version}")
            for part, values in content(stored).items():
                expected[f"{name}/{part}"] = values
    np.savez_compressed(folder / "expected.npz", **expected)


if __name__ == "__main__":
    main(sys.argv[1], Path(__file__).parent / sys.argv[1])
