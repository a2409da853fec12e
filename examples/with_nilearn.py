"""A stored run in nilearn, which reads from the store what it asks for."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from nilearn.maskers import NiftiMasker

import fmristore as fs
from fmristore.demo import make_run


def main(source: str | None = None) -> None:
    """Work in a temporary folder; `source` is a NIfTI run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Path(source) if source else folder / "bold.nii.gz"
        if source is None:
            make_run(run, shape=(20, 20, 12, 40))
        fs.convert(run, folder / "bold.h5")

        with fs.open(folder / "bold.h5") as bold:
            bright = (bold[..., 0] > bold[..., 0].mean()).astype(np.uint8)
            mask = nibabel.Nifti1Image(bright, bold.affine)

            image = bold.to_nibabel()  # nothing is read yet
            series = NiftiMasker(mask_img=mask, standardize=None).fit_transform(image)
            print("nilearn's masker:", series.shape)

            # The same numbers, without loading the whole run.
            ours = bold.series(mask=mask)
            print("largest difference:", float(np.abs(np.sort(series) - np.sort(ours)).max()))


if __name__ == "__main__":
    main(*sys.argv[1:2])
