"""Windows of 20 volumes of several runs, shuffled in batches: go through them, stop, and go on."""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

import numpy as np

import fmristore as fs
from fmristore.demo import make_run
from fmristore.sampling import Batches, Windows


def main(*sources: str) -> None:
    """Work in a temporary folder; `sources` are NIfTI runs of one grid."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = sources or (str(folder / "one.nii"), str(folder / "two.nii"))
        if not sources:
            for path in given:
                make_run(Path(path), shape=(24, 24, 16, 60))
        stores = [folder / f"run-{number}.h5" for number in range(len(given))]
        for source, store in zip(given, stores, strict=True):
            fs.convert(source, store, access="volume").close()

        with Windows(stores, length=20, stride=5, dtype=np.float32) as windows:
            print(windows)
            batches = Batches(windows, batch_size=4, seed=7, max_memory="512MB")
            total, count = 0.0, 0
            for values, _ in batches:
                total += float(values.mean(dtype=np.float64)) * len(values)
                count += len(values)
            print(f"mean of {count} windows: {total / count:.2f}")

            whole = [numbers.tolist() for _, numbers in Batches(windows, seed=7)]
            begun = Batches(windows, seed=7)
            first = [numbers.tolist() for _, numbers in itertools.islice(begun, 3)]
            again = Batches(windows, seed=7)
            again.load_state_dict(begun.state_dict())
            rest = [numbers.tolist() for _, numbers in again]
            print("goes on where it was left:", first + rest == whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
