"""Extraction cells: the series of a region and of parcels, beside nilearn's maskers.

Each in a process of its own: time, and peak memory. Every engine reads the run from its own kind of
file, fmristore from a store for time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.apart import run_apart
from benchmarks.cells import OURS, Cell, Group
from benchmarks.data import STORES, Run, prepare_store, remove
from benchmarks.timing import Budget, Contender, Measured
from fmristore_stores.protocol import AnyArray

__all__ = ["extraction_groups", "fmristore_means", "fmristore_series"]
__all__ += ["nilearn_means", "nilearn_series"]

PARCELS = 200


def extraction_groups(runs: Sequence[Run], budget: Budget) -> list[Group]:
    """One group for each run: voxels of a mask, and means of parcels."""
    labels = [OURS, *(("nilearn",) if importlib.util.find_spec("nilearn") else ())]
    return [
        Group(
            name=f"extract/{run.name}",
            cells=tuple(
                Cell(
                    name=f"extract/{run.name}/{what}",
                    engines={label: f"{what}/{label}" for label in labels},
                )
                for what in ("series", "means")
            ),
            make=partial(_contenders, run, labels),
            budget=budget,
        )
        for run in runs
    ]


def _contenders(run: Run, labels: Sequence[str], wanted: set[str]) -> list[Contender]:
    image = _labels(run)
    paths = {OURS: prepare_store(run, STORES["hdf5-portable"], "time"), "nilearn": run.nii_gz}
    made = []
    for what, expected in (("series", _series), ("means", _means)):
        for label in labels:
            name = f"{what}/{label}"
            if name not in wanted:
                continue
            out = run.folder / f"{what}-{label}.npy"
            arguments = {"source": paths[label], "labels": image, "out": out}
            made.append(
                Contender(
                    name=name,
                    prepare=partial(_prepare, f"{label}_{what}", arguments),
                    check=partial(_check, out, partial(expected, run), name),
                    close=partial(remove, out),
                )
            )
    return made


def _prepare(function: str, arguments: dict[str, Path], _: int) -> Callable[[], Measured]:
    return partial(run_apart, __name__, function, **arguments)


def _check(out: Path, expected: Callable[[], AnyArray], name: str, _: int, __: Any) -> None:
    if not np.allclose(np.load(out), expected(), rtol=1e-4):
        raise AssertionError(f"{name} returns other data than the run holds")


# What is asked for ---------------------------------------------------------------------------


def _numbers(run: Run) -> AnyArray:
    """(X, Y, Z): number of the parcel of each voxel inside, neighbours together; 0 outside."""
    numbers = np.zeros(run.shape[:3], np.int32)
    inside = run.inside
    numbers[tuple(inside.T)] = 1 + np.arange(len(inside)) * PARCELS // len(inside)
    return numbers


def _labels(run: Run) -> Path:
    import nibabel as nib

    path = run.folder / "labels.nii.gz"
    nib.save(nib.Nifti1Image(_numbers(run), run.affine), path)  # type: ignore[no-untyped-call]
    return path


def _series(run: Run) -> AnyArray:
    return np.sort(run.values[_numbers(run) > 0].T.astype(np.float32), axis=1)


def _means(run: Run) -> AnyArray:
    numbers = _numbers(run)
    parcels = np.unique(numbers[numbers > 0])
    return np.stack([run.values[numbers == k].mean(axis=0) for k in parcels], axis=1)


# Engines, in their own processes -------------------------------------------------------------


def fmristore_series(source: str, labels: str, out: str) -> Callable[[], None]:
    """Series of all labelled voxels; sorted afterwards, as orders of voxels differ."""
    import nibabel  # noqa: F401 - labels are read with it, and so do nilearn's maskers

    import fmristore as fs

    fs.open(source).close()
    return lambda: _save(out, fs.open(source).series(mask=labels), ordered=False)


def fmristore_means(source: str, labels: str, out: str) -> Callable[[], None]:
    """Mean series of the parcels, stored as well."""
    import nibabel  # noqa: F401 - labels are read with it, and so do nilearn's maskers

    import fmristore as fs

    fs.open(source).close()
    target = Path(out).with_suffix(".h5")
    return lambda: _save(out, fs.parcellate(source, labels, target, overwrite=True).to_numpy())


def nilearn_series(source: str, labels: str, out: str) -> Callable[[], None]:
    """The same through ``NiftiMasker``."""
    from nilearn.maskers import NiftiMasker

    masker = NiftiMasker(_binary(labels), standardize=None)
    return lambda: _save(out, masker.fit_transform(source), ordered=False)


def nilearn_means(source: str, labels: str, out: str) -> Callable[[], None]:
    """The same through ``NiftiLabelsMasker``."""
    from nilearn.maskers import NiftiLabelsMasker

    masker = NiftiLabelsMasker(labels, standardize=None)
    return lambda: _save(out, masker.fit_transform(source))


def _binary(labels: str) -> Any:
    from nilearn.image import math_img

    return math_img("(image > 0).astype('uint8')", image=labels)


def _save(out: str, values: AnyArray, *, ordered: bool = True) -> None:
    np.save(out, values if ordered else np.sort(values, axis=1))
