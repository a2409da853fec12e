"""Documents of Zarr stores: of the root, or of the array with the image."""

from __future__ import annotations

import numpy as np

from tests.fuzz_targets.engine import FOLDER, fuzz

__all__ = ["examples", "one_input"]


def one_input(data: bytes) -> None:
    """Read a store whose root, or whose image for an odd first byte, has these metadata."""
    import fmristore as fs

    path = FOLDER / "x.zarr"
    if not path.exists():
        _make()
    root, image = path / "zarr.json", path / "0" / "zarr.json"
    kept = {file: file.read_bytes() for file in (root, image)}
    try:
        (image if data[:1] == b"i" else root).write_bytes(data[1:])
        if data[:1] == b"i":
            root.write_bytes(_without_copies(kept[root]))
        with fs.open(path) as found:
            found.describe()
            if found.size < 1 << 16:
                np.asarray(found)
    except fs.errors.FmristoreError:
        pass
    finally:
        for file, content in kept.items():
            file.write_bytes(content)


def _without_copies(root: bytes) -> bytes:
    import json

    document = json.loads(root)
    document.pop("consolidated_metadata", None)
    return json.dumps(document).encode()


def _make() -> tuple[bytes, bytes]:
    import fmristore as fs

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "x.zarr"
    run = np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2)
    fs.NeuroVec.create(run, path, space=np.eye(4), tr=1.0, overwrite=True).close()
    return (path / "zarr.json").read_bytes(), (path / "0" / "zarr.json").read_bytes()


def examples() -> list[bytes]:
    """Valid ones."""
    root, image = _make()
    return [b"r" + root, b"r" + _without_copies(root), b"i" + image]


if __name__ == "__main__":
    fuzz(one_input, examples)
