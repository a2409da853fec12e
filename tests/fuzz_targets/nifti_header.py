"""Headers of NIfTI files, with their extensions, and what lies behind them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz_targets.engine import FOLDER, fuzz

__all__ = ["examples", "one_input"]


def one_input(data: bytes) -> None:
    """Read bytes as a NIfTI file, volume by volume."""
    from fmristore.sources.door import as_source
    from fmristore_stores.errors import FmristoreError

    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / "x.nii"
    path.write_bytes(data)
    try:
        with as_source(path) as source:
            if np.prod(source.space.shape) < 1 << 20:
                for block in source.blocks(1 << 20):
                    block.values.sum()
    except FmristoreError:
        pass


def _example(version: int) -> bytes:
    import nibabel as untyped_nibabel

    nibabel: Any = untyped_nibabel
    image = getattr(nibabel, f"Nifti{version}Image")(np.ones((2, 3, 4, 2), np.int16), np.eye(4))
    content: bytes = image.to_bytes()
    return content


def examples() -> list[bytes]:
    """Files of both versions."""
    return [_example(1), _example(2)]


if __name__ == "__main__":
    fuzz(one_input, examples)
