"""Move a run between HDF5 and Zarr, and get the identical NIfTI file back."""

from __future__ import annotations

import gzip
import sys
import tempfile
from pathlib import Path

import fmristore as fs
from fmristore.demo import make_run


def main(source: str | None = None) -> None:
    """Work in a temporary folder; `source` is a NIfTI run, compressed with gzip."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = Path(source) if source else folder / "bold.nii.gz"
        if source is None:
            make_run(run, shape=(32, 32, 20, 60))

        # A Zarr store and an HDF5 file with the same codec hold the same encoded chunks,
        # so moving between them copies bytes.
        fs.convert(run, folder / "bold.ome.zarr")
        print(fs.transcode(folder / "bold.ome.zarr", folder / "bold.h5"))

        # Another access pattern needs other chunks.
        print(fs.transcode(folder / "bold.h5", folder / "volumes.h5", access="volume"))

        # Nothing got lost on the way.
        with fs.open(folder / "volumes.h5") as bold:
            bold.to_nifti(folder / "back.nii")
        same = (folder / "back.nii").read_bytes() == gzip.decompress(run.read_bytes())
        print("the same NIfTI file, byte for byte:", same)
        if not same:
            sys.exit("the exported file differs")


if __name__ == "__main__":
    main(*sys.argv[1:2])
