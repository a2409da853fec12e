"""nilearn's maskers on a stored run, without loading it: equal series, a fraction of the memory."""

from __future__ import annotations

import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nilearn import maskers as nilearns

import fmristore as fs
from fmristore.demo import make_run
from fmristore.nilearn import NiftiLabelsMasker


def peak(masker: Any, run: str) -> tuple[Any, int]:
    """Series of a run, and the bytes that extracting them took."""
    masker.fit()
    tracemalloc.start()
    series = masker.transform(run)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return series, taken


def main(source: str | None = None) -> None:
    """Work in a temporary folder; `source` is a NIfTI run."""
    library: Any = nibabel
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = source or str(folder / "bold.nii.gz")
        if source is None:
            make_run(Path(run), shape=(40, 40, 24, 80))
        fs.convert(run, folder / "bold.h5").close()
        image = library.load(run)
        count = int(np.prod(image.shape[:3]))
        labels = (np.arange(count) // (count // 50)).reshape(image.shape[:3]).astype(np.int16)
        atlas = library.Nifti1Image(labels, image.affine)

        options = {"standardize": "zscore_sample", "detrend": True}
        theirs, most = peak(nilearns.NiftiLabelsMasker(atlas, **options), run)
        masker = NiftiLabelsMasker(atlas, **options, max_memory="4MiB")
        ours, least = peak(masker, str(folder / "bold.h5"))
        print("equal:", np.allclose(ours, theirs, rtol=1e-6, atol=1e-6))
        print(f"nilearn {most / 1e6:.0f} MB, streamed {least / 1e6:.0f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:2])
