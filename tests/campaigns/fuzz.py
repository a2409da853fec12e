"""Mutated files of every kind that is read, each looked at in a child with limits."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numpy as np

import fmristore as fs
from fmristore_stores.opening import open_store
from tests.campaigns.children import Limits, in_child, in_children
from tests.campaigns.mutations import mutate_bytes, mutate_json
from tests.campaigns.operations import (
    AFFINE,
    FORMATS,
    LABELS,
    RUN,
    SPACE,
    Values,
    same,
    values_in,
)
from tests.campaigns.outcomes import Outcome, Result
from tests.campaigns.workshop import Options, outcome_of, room

nibabel: Any = untyped_nibabel

__all__ = ["run"]

_LIMITS = Limits(seconds=30)
_TABLES = {
    "tabs.tsv": "index\tname\tcolor\n1\tLeft\t#ff0000\n2\tRight\t#00ff00\n3\tInsula\t#0000ff\n",
    "commas.csv": 'id,name,network\n1,"Left, V1",Vis\n2,Right V1,Vis\n3,Insula,Sal\n',
    "colours.txt": "# No Name R G B A\n1 Left 255 0 0 0\n2 Right 0 255 0 0\n3 Insula 0 0 9 0\n",
}


@dataclass(frozen=True)
class Sample:
    """Something valid that is damaged."""

    path: Path
    values: Values


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Parameters
    ----------
    make : callable
        Fills an empty folder with valid samples.
    look : callable
        Takes a path and an empty folder, and returns all values that it holds.
    change : callable
        Takes a lot and the bytes of one file.
    part : callable
        Which files of a store are changed.
    """

    make: Callable[[Path], list[Sample]]
    look: Callable[[Path, Path], Values]
    change: Callable[[random.Random, bytes], bytes] = mutate_bytes
    part: Callable[[Path], bool] = lambda path: True


# Samples, and looking at them --------------------------------------------------------------------


def _images(folder: Path, ending: str) -> list[Sample]:
    samples = []
    for name, cls, dtype in (
        ("one", nibabel.Nifti1Image, np.int16),
        ("two", nibabel.Nifti2Image, np.float32),
        ("big", nibabel.Nifti1Image, np.dtype(">i2")),
    ):
        image = cls(RUN.astype(dtype), AFFINE)
        image.header.set_xyzt_units("mm", "sec")
        path = folder / f"{name}{ending}"
        nibabel.save(image, path)
        samples.append(Sample(path, {"": RUN}))
    return samples


def _stores(folder: Path, kind: str) -> list[Sample]:
    samples = []
    for name, form in FORMATS.items():
        profiles: list[dict[str, Any]] = [{}]
        if kind == "h5" and name in ("neurovec", "parcellatedscan", "labeledvolumeset"):
            profiles.append({"profile": "r"})
        for options in profiles:
            path = folder / f"{name}{len(options)}.{kind}"
            form.make(path, RUN, **options).close()
            samples.append(Sample(path, form.holds(RUN)))
    return samples


def _references(folder: Path) -> list[Sample]:
    form = FORMATS["neurovec"]
    form.make(folder / "image.h5", RUN).close()
    fs.virtualize(folder / "image.h5", folder / "image.json")
    return [Sample(folder / "image.json", form.holds(RUN))]


def _tables(folder: Path) -> list[Sample]:
    for name, text in _TABLES.items():
        (folder / name).write_text(text)
    return [Sample(folder / name, _look_at_table(folder / name, folder)) for name in _TABLES]


def _look_at_image(path: Path, folder: Path) -> Values:
    store = folder / "converted.h5"
    fs.convert(path, store)
    with fs.open(store) as found:
        return values_in(found)


def _look_at_store(path: Path, folder: Path) -> Values:
    with fs.open(path) as found:
        repr(found)
        found.describe()
        return values_in(found)


def _look_at_table(path: Path, folder: Path) -> Values:
    found = fs.Parcellation.from_labels(LABELS, names=path, space=SPACE)
    return {"ids": np.asarray(found.ids), **{n: np.zeros(0) for n in map(str, found.names)}}


def _mutate_compressed(lot: random.Random, data: bytes) -> bytes:
    if lot.random() < 0.5:
        return mutate_bytes(lot, data)
    return gzip.compress(mutate_bytes(lot, gzip.decompress(data)), 1)


def _is_document(path: Path) -> bool:
    return path.name == "zarr.json"


KINDS: Mapping[str, Kind] = {
    "NIfTI": Kind(partial(_images, ending=".nii"), _look_at_image),
    "gzip": Kind(partial(_images, ending=".nii.gz"), _look_at_image, _mutate_compressed),
    "HDF5": Kind(partial(_stores, kind="h5"), _look_at_store),
    "Zarr documents": Kind(
        partial(_stores, kind="zarr"), _look_at_store, mutate_json, _is_document
    ),
    "Zarr chunks": Kind(
        partial(_stores, kind="zarr"), _look_at_store, part=lambda path: not _is_document(path)
    ),
    "references": Kind(_references, _look_at_store, mutate_json),
    "label tables": Kind(_tables, _look_at_table),
}
_TURNS = ["HDF5", *KINDS, "HDF5"]
"""Which kind the trials take, one after the other."""


# Trials ------------------------------------------------------------------------------------------


def run(options: Options) -> Iterator[Result]:
    """Trials of one seed: kinds by turns, samples and changes by lot."""
    numbers = range(options.trials)
    if options.only:
        numbers = range(int(options.only), int(options.only) + 1)
    with room() as folder:
        samples = {name: _made(folder / name, kind) for name, kind in KINDS.items()}
        tasks = [
            partial(_trial, f"{options.seed}/{i}", _TURNS[i % len(_TURNS)], samples, folder)
            for i in numbers
        ]
        for i, ended in zip(numbers, in_children(tasks, _LIMITS), strict=True):
            failed = outcome_of(ended)
            outcome, detail = failed or ended.value
            yield Result(_TURNS[i % len(_TURNS)], str(i), outcome, detail)


def _made(folder: Path, kind: Kind) -> list[Sample]:
    folder.mkdir()
    ended = in_child(partial(kind.make, folder), Limits(seconds=600))
    if ended.how != "returned":
        raise AssertionError(f"samples cannot be made: {ended}")
    samples: list[Sample] = ended.value
    return samples


def _trial(
    key: str, name: str, samples: Mapping[str, Sequence[Sample]], folder: Path
) -> tuple[Outcome, str]:
    lot, kind = random.Random(key), KINDS[name]
    sample = lot.choice(samples[name])
    work = folder / "trial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    path = _damaged(lot, kind, sample, work)
    (work / "out").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _looked_at(kind, sample, path, work / "out")


def _damaged(lot: random.Random, kind: Kind, sample: Sample, work: Path) -> Path:
    """A copy of a sample, with one of its files changed."""
    path = work / sample.path.name
    if sample.path.suffix == ".json":
        os.link(sample.path.with_suffix(".h5"), path.with_suffix(".h5"))
    if sample.path.is_file():
        path.write_bytes(kind.change(lot, sample.path.read_bytes()))
        return path
    shutil.copytree(sample.path, path, copy_function=os.link)
    files = sorted(p for p in path.rglob("*") if p.is_file() and kind.part(p))
    chosen = lot.choice(files)
    content = chosen.read_bytes()
    chosen.unlink()
    if lot.random() > 0.05:  # else it is gone
        chosen.write_bytes(kind.change(lot, content))
    return path


def _looked_at(kind: Kind, sample: Sample, path: Path, out: Path) -> tuple[Outcome, str]:
    is_store = kind.look is _look_at_store
    try:
        values = kind.look(path, out)
    except fs.errors.FmristoreError as error:
        if is_store:
            _verified(path)
        return Outcome.OUR_ERROR, f"{type(error).__name__}: {error}"
    right = same(values, sample.values)
    report = _verified(path) if is_store else None
    if right:
        return Outcome.RIGHT, ""
    if report is not None and not report.ok:
        return Outcome.NOTICED, str(report)
    if report is None or not _has_digests(path):
        return Outcome.OTHER, f"verify: {report}"
    return Outcome.WRONG, f"{sample.path.name} verify: {report}"


def _has_digests(path: Path) -> bool:
    """Return whether a digest is recorded of all the data."""
    with fs.open(path) as found, open_store(path) as store:
        arrays = [store.root.array(array.path) for array in found.primary_arrays]
        return all("digest" in array.read_attributes() for array in arrays)


def _verified(path: Path) -> Any:
    try:
        return fs.verify(path, deep=True)
    except fs.errors.FmristoreError:
        return None
