"""Reference files, which say where the chunks of an HDF5 file lie."""

from __future__ import annotations

import numpy as np

from tests.fuzz_targets.engine import FOLDER, fuzz

__all__ = ["examples", "one_input"]


def one_input(data: bytes) -> None:
    """Read bytes as a reference file beside the file that it is of."""
    import fmristore as fs

    if not (FOLDER / "x.h5").exists():
        _make()
    path = FOLDER / "x.json"
    path.write_bytes(data)
    try:
        with fs.open(path) as found:
            found.describe()
            if found.size < 1 << 16:
                np.asarray(found)
    except fs.errors.FmristoreError:
        pass


def _make() -> bytes:
    import fmristore as fs

    FOLDER.mkdir(exist_ok=True)
    run = np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2)
    fs.NeuroVec.create(run, FOLDER / "x.h5", space=np.eye(4), tr=1.0, overwrite=True).close()
    fs.virtualize(FOLDER / "x.h5", FOLDER / "x.json", relative=True, overwrite=True)
    return (FOLDER / "x.json").read_bytes()


def examples() -> list[bytes]:
    """A file by this project."""
    return [_make()]


if __name__ == "__main__":
    fuzz(one_input, examples)
