"""Tables of labels."""

from __future__ import annotations

import warnings

import numpy as np

from tests.fuzz_targets.engine import FOLDER, fuzz

__all__ = ["examples", "one_input"]

_LABELS = np.arange(8).reshape(2, 2, 2)


def one_input(data: bytes) -> None:
    """Read bytes as the names of the parcels of an image."""
    import fmristore as fs

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "x.tsv"
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fs.Parcellation.from_labels(_LABELS, names=path, space=np.eye(4))
        repr(found.names)
    except fs.errors.FmristoreError:
        pass


def examples() -> list[bytes]:
    """Valid ones."""
    rows = "".join(f"{i}\tregion {i}\t#00000{i}\n" for i in range(1, 8))
    commas = "".join(f'{i},"region, {i}"\n' for i in range(1, 8))
    colours = "".join(f"{i} region{i} {i} 0 0 0\n" for i in range(1, 8))
    tables = (f"index\tname\tcolor\n{rows}", f"id,name\n{commas}", f"# names\n{colours}")
    return [table.encode() for table in tables]


if __name__ == "__main__":
    fuzz(one_input, examples)
