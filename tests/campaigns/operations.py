"""Every public operation that writes, with what was there before and what must be there after.

An operation prepares a folder, then does its work in it; `values_of` reads all that its
destination holds, to be compared with values that were computed without the project.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numpy as np

import fmristore as fs
from fmristore_stores.protocol import AnyArray

nibabel: Any = untyped_nibabel

__all__ = ["OPERATIONS", "Operation", "Values", "same", "values_of"]

Values = Mapping[str, AnyArray]

SHAPE = (6, 5, 4, 12)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
_rng = np.random.default_rng(3)
RUN = _rng.integers(1, 900, SHAPE).astype(np.int16)
MASK = _rng.random(SHAPE[:3]) > 0.4
LABELS = np.where(MASK, np.arange(120).reshape(SHAPE[:3]) % 3 + 1, 0).astype(np.int32)
NAMES = {1: "Left V1", 2: "Right V1", 3: "Insula"}
GRID = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=AFFINE)
SPACE = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=AFFINE, time_points=SHAPE[3], tr=1.5)
LOADINGS = _rng.normal(size=(int(MASK.sum()), 3))
BASIS = _rng.normal(size=(SHAPE[3], 3))
_VOXELS = np.argwhere(MASK)


def _means(run: AnyArray) -> AnyArray:
    return np.column_stack([run[label == LABELS].mean(axis=0) for label in NAMES])


def _masked(run: AnyArray, mask: AnyArray = MASK) -> AnyArray:
    return np.where(mask[..., None], run, 0)


def _latent(loadings: AnyArray) -> AnyArray:
    out = np.zeros(SHAPE)
    out[tuple(_VOXELS.T)] = loadings @ BASIS.T
    return out


# Formats -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """How a store of a format is made of a run, and what it then holds."""

    make: Callable[..., Any]
    holds: Callable[[AnyArray], Values]


def _vec(url: Path, run: AnyArray, **options: Any) -> Any:
    return fs.NeuroVec.create(run, url, space=SPACE, **options)


def _vol(url: Path, run: AnyArray, **options: Any) -> Any:
    return fs.NeuroVol.create(run[..., 0], url, space=GRID, **options)


def _seq(url: Path, run: AnyArray, **options: Any) -> Any:
    runs = {"rest": run, "task": run[..., :8]}
    return fs.NeuroVecSeq.create(runs, url, space=GRID, tr=[1.5, 2.0], **options)


def _sparse(url: Path, run: AnyArray, **options: Any) -> Any:
    return fs.MaskedNeuroVec.create(run, url, mask=MASK, space=SPACE, **options)


def _maps(url: Path, run: AnyArray, **options: Any) -> Any:
    maps = {"a": run[..., 0] / 4, "b": run[..., 1] / 4}
    return fs.LabeledVolumeSet.create(maps, url, mask=MASK, space=GRID, **options)


def _factors(url: Path, run: AnyArray, **options: Any) -> Any:
    loadings = LOADINGS + float(run[0, 0, 0, 0])
    return fs.LatentNeuroVec.create(BASIS, loadings, url, mask=MASK, space=GRID, tr=2.0, **options)


def _parcels(url: Path, run: AnyArray, **options: Any) -> Any:
    return fs.ParcellatedScan.create(
        run, url, parcellation=LABELS, names=NAMES, space=SPACE, **options
    )


def _summary(url: Path, run: AnyArray, **options: Any) -> Any:
    return fs.ParcellatedScanSummary.create(
        run, url, parcellation=LABELS, names=NAMES, space=SPACE, **options
    )


def _scans(url: Path, run: AnyArray, **options: Any) -> Any:
    return fs.ParcellatedMultiScan.create(
        {"rest": run},
        url,
        parcellation=LABELS,
        names=NAMES,
        space=SPACE,
        statistic="mean",
        **options,
    )


def _stacked(run: AnyArray, labels: tuple[str, ...] = ("a", "b")) -> Values:
    return {name: _masked(run)[..., i] / 4 for i, name in enumerate(labels)}


FORMATS: Mapping[str, Format] = {
    "neurovec": Format(_vec, lambda run: {"": run}),
    "neurovol": Format(_vol, lambda run: {"": run[..., 0]}),
    "neurovecseq": Format(_seq, lambda run: {"rest": run, "task": run[..., :8]}),
    "maskedneurovec": Format(_sparse, lambda run: {"": _masked(run)}),
    "labeledvolumeset": Format(_maps, _stacked),
    "latentneurovec": Format(
        _factors, lambda run: {"": _latent(LOADINGS + float(run[0, 0, 0, 0]))}
    ),
    "parcellatedscan": Format(_parcels, lambda run: {"": _masked(run)}),
    "parcellatedscansummary": Format(_summary, lambda run: {"": _means(run)}),
    "parcellatedmultiscan": Format(_scans, lambda run: {"rest": _means(run)}),
}


def values_of(path: Path) -> Values | None:
    """Everything that a store or NIfTI file holds, by the name of its parts; None without it."""
    if ".nii" in path.name or path.suffix in (".hdr", ".img"):
        return {"": np.asanyarray(nibabel.load(path).dataobj)} if path.exists() else None
    try:
        found = fs.open(path)
    except fs.errors.NotFoundError:
        if path.exists():
            raise
        return None
    with found:
        return values_in(found)


def values_in(found: Any) -> Values:
    """Everything that an opened object holds, by the name of its parts."""
    if isinstance(found, fs.LabeledVolumeSet):
        maps = np.asarray(found)
        return {label: maps[..., i] for i, label in enumerate(found.labels)}
    if isinstance(found, fs.ParcellatedMultiScan | fs.NeuroVecSeq):
        return {name: np.asarray(found.part(name)) for name in found.part_names}
    return {"": np.asarray(found)}


def same(found: Values | None, wanted: Values | None) -> bool:
    """Return whether two sets of values agree; means and products only nearly."""
    if found is None or wanted is None:
        return found is wanted
    return found.keys() == wanted.keys() and all(
        found[name].shape == wanted[name].shape
        and np.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-3)
        for name in wanted
    )


# Operations --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """Something that writes.

    Parameters
    ----------
    name : str
        What it does and where.
    target : str
        Name of what it writes.
    prepare : callable
        Makes what is there before, in an empty folder.
    run : callable
        Does it, in that folder; further keywords go to the operation.
    old, new : mapping of str to array, or None
        What is there before and after.
    again : bool
        Whether it may be done once more when it was done.
    bounded : bool
        Whether it takes ``max_memory``.
    gap : bool
        Whether nothing is there for a moment, as the documentation says, until the next run.
    """

    name: str
    target: str
    prepare: Callable[[Path], None]
    run: Callable[..., Any]
    old: Values | None
    new: Values
    again: bool = False
    bounded: bool = True
    gap: bool = False


def _nothing(folder: Path) -> None:
    pass


def _close(made: Any) -> None:
    if made is not None and hasattr(made, "close"):
        made.close()


def _make(make: Callable[..., Any], name: str, run: AnyArray, folder: Path, **options: Any) -> None:
    _close(make(folder / name, run, **options))


def _creating(kind: str) -> Iterator[Operation]:
    for name, form in FORMATS.items():
        target = f"x.{kind}"
        after = form.holds(RUN + 1)
        put = partial(_make, form.make, target)
        bounded = name != "latentneurovec"
        yield Operation(
            f"create {name} {kind}", target, _nothing, partial(put, RUN + 1), None, after,
            bounded=bounded,
        )  # fmt: skip
        yield Operation(
            f"overwrite {name} {kind}", target, partial(put, RUN),
            partial(put, RUN + 1, overwrite=True), form.holds(RUN), after, again=True,
            bounded=bounded,
        )  # fmt: skip


def _nifti(folder: Path, name: str = "in.nii", run: AnyArray = RUN + 1) -> Path:
    image = nibabel.Nifti1Image(run, AFFINE)
    image.header.set_zooms((2, 2, 3, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, folder / name)
    return folder / name


def _importing(kind: str) -> Iterator[Operation]:
    target = f"x.{kind}"
    for source in ("in.nii", "in.nii.gz"):

        def prepare(folder: Path, source: str = source) -> None:
            _nifti(folder, source)
            _make(_vec, target, RUN, folder)

        def convert(folder: Path, source: str = source, **options: Any) -> None:
            fs.convert(folder / source, folder / target, overwrite=True, **options)

        yield Operation(
            f"convert {source} {kind}", target, prepare, convert, {"": RUN}, {"": RUN + 1},
            again=True,
        )  # fmt: skip


def _copying(kind: str) -> Iterator[Operation]:
    target, other = f"x.{kind}", "in.zarr" if kind == "h5" else "in.h5"

    def prepare(folder: Path) -> None:
        _make(_vec, other, RUN + 1, folder)
        _make(_vec, target, RUN, folder)

    def transcode(folder: Path, **options: Any) -> None:
        fs.transcode(folder / other, folder / target, overwrite=True, **options)

    def save(folder: Path, **options: Any) -> None:
        with fs.open(folder / other) as image:
            _close(image.save(folder / target, overwrite=True, **options))

    def prepare_sparse(folder: Path) -> None:
        _make(_sparse, other, RUN + 1, folder)
        _make(_vec, target, RUN, folder)

    def dense(folder: Path, **options: Any) -> None:
        with fs.open(folder / other) as image:
            _close(image.to_dense(folder / target, overwrite=True, **options))

    before, after = {"": RUN}, {"": RUN + 1}
    yield Operation(f"transcode to {kind}", target, prepare, transcode, before, after, again=True)
    yield Operation(f"save to {kind}", target, prepare, save, before, after, again=True)
    yield Operation(
        f"to_dense to {kind}", target, prepare_sparse, dense, before, {"": _masked(RUN + 1)},
        again=True,
    )  # fmt: skip


def _exporting() -> Iterator[Operation]:
    for target in ("x.nii", "x.nii.gz", "x.hdr"):

        def prepare(folder: Path, target: str = target) -> None:
            _make(_vec, "in.zarr", RUN + 1, folder)
            with fs.NeuroVec.create(RUN, folder / "old.zarr", space=SPACE) as image:
                image.to_nifti(folder / target)
            shutil.rmtree(folder / "old.zarr")

        def export(folder: Path, target: str = target, **options: Any) -> None:
            with fs.open(folder / "in.zarr") as image:
                image.to_nifti(folder / target, overwrite=True, **options)

        yield Operation(
            f"to_nifti {target}", target, prepare, export, {"": RUN}, {"": RUN + 1},
            again=True, gap=target == "x.hdr",
        )  # fmt: skip


def _changing_scans(kind: str) -> Iterator[Operation]:
    target = f"x.{kind}"
    before: Values = {"rest": _means(RUN)}
    task: Values = {"task": _means(RUN[..., :8])}

    def prepare(folder: Path) -> None:
        _make(_scans, target, RUN, folder)

    def prepare_two(folder: Path) -> None:
        prepare(folder)
        add(folder)

    def add(folder: Path, **options: Any) -> None:
        with fs.open(folder / target) as scans:
            scans.add_scan("task", RUN[..., :8], statistic="mean", tr=2.0, **options)

    def add_two(folder: Path, **options: Any) -> None:
        with fs.open(folder / target) as scans:
            more = {"task": RUN[..., :8], "more": RUN + 1}
            scans.add_scans(more, statistic="mean", **options)

    def append(folder: Path, **options: Any) -> None:
        _close(
            fs.parcellate(RUN[..., :8], None, folder / target, scan="task", space=GRID, **options)
        )

    def remove(folder: Path) -> None:
        with fs.open(folder / target) as scans:
            scans.remove_scan("rest")

    both = {**before, **task}
    yield Operation(f"add_scan {kind}", target, prepare, add, before, both)
    yield Operation(
        f"add_scans {kind}", target, prepare, add_two, before, {**both, "more": _means(RUN + 1)}
    )
    yield Operation(f"parcellate scan= {kind}", target, prepare, append, before, both)
    yield Operation(f"remove_scan {kind}", target, prepare_two, remove, both, task, bounded=False)


def _changing_runs(kind: str) -> Iterator[Operation]:
    target = f"x.{kind}"
    before: Values = {"rest": RUN, "task": RUN[..., :8]}

    def prepare(folder: Path) -> None:
        _make(_seq, target, RUN, folder)

    def add(folder: Path, **options: Any) -> None:
        with fs.open(folder / target) as runs:
            runs.add_run("more", RUN + 1, tr=1.0, **options)

    yield Operation(f"add_run {kind}", target, prepare, add, before, {**before, "more": RUN + 1})


def _growing() -> Iterator[Operation]:
    before, after = {"": RUN[..., :8]}, {"": RUN[..., :9]}

    def begin(folder: Path) -> None:
        fs.append(RUN[..., :8], folder / "x.zarr", space=GRID, tr=1.5)

    def append(folder: Path) -> None:
        fs.append(RUN[..., 8], folder / "x.zarr")

    def finish(folder: Path, name: str | None = None, **options: Any) -> None:
        with fs.NeuroVec.open(folder / "x.zarr") as run:
            run.finish(None if name is None else folder / name, **options).close()

    def change(folder: Path) -> None:  # so that what is there after differs from before
        begin(folder)
        _make(_vec, "x.h5", RUN, folder)

    yield Operation("append: begin", "x.zarr", _nothing, begin, None, before, bounded=False)
    yield Operation("append", "x.zarr", begin, append, before, after, bounded=False)
    yield Operation("finish", "x.zarr", begin, finish, before, before)
    yield Operation(
        "finish h5", "x.h5", change, partial(finish, name="x.h5", overwrite=True),
        {"": RUN}, before, again=True,
    )  # fmt: skip


def _changing_maps(kind: str) -> Iterator[Operation]:
    target = f"x.{kind}"
    before = _stacked(RUN)

    def prepare(folder: Path) -> None:
        _make(_maps, target, RUN, folder)

    for name, arguments, after in (
        ("add", ("c", (RUN[..., 2] / 4).astype(np.float32)), _stacked(RUN, ("a", "b", "c"))),
        ("rename", ("b", "c"), _stacked(RUN, ("a", "c"))),
        ("remove", ("b",), _stacked(RUN, ("a",))),
    ):
        change = partial(_call_map, target, name, arguments)
        yield Operation(f"{name} map {kind}", target, prepare, change, before, after)


def _call_map(
    target: str, name: str, arguments: tuple[Any, ...], folder: Path, **options: Any
) -> None:
    with fs.open(folder / target) as maps:
        getattr(maps, name)(*arguments, **options)


def _summarising(kind: str) -> Iterator[Operation]:
    target = f"x.{kind}"

    def prepare(folder: Path) -> None:
        _make(_summary, target, RUN, folder)

    def parcellate(folder: Path, **options: Any) -> None:
        _close(
            fs.parcellate(
                RUN + 1,
                LABELS,
                folder / target,
                names=NAMES,
                space=SPACE,
                overwrite=True,
                **options,
            )
        )

    def components(folder: Path, **options: Any) -> None:
        _close(
            fs.LatentNeuroVec.from_pca(
                RUN, folder / target, SHAPE[3] - 1, space=SPACE, overwrite=True, **options
            )
        )

    def prepare_latent(folder: Path) -> None:
        _make(_factors, target, RUN, folder)

    yield Operation(
        f"parcellate {kind}", target, prepare, parcellate, {"": _means(RUN)}, {"": _means(RUN + 1)},
        again=True,
    )  # fmt: skip
    yield Operation(
        f"from_pca {kind}", target, prepare_latent, components,
        FORMATS["latentneurovec"].holds(RUN), {"": RUN.astype(np.float64)}, again=True,
    )  # fmt: skip


def _others() -> Iterator[Operation]:
    def prepare(folder: Path) -> None:
        _make(_vec, "in.h5", RUN, folder)

    def virtualize(folder: Path) -> None:
        fs.virtualize(folder / "in.h5", folder / "x.json", overwrite=True)

    yield Operation(
        "virtualize", "x.json", prepare, virtualize, None, {"": RUN}, again=True, bounded=False
    )
    for name in ("neurovec", "neurovecseq", "labeledvolumeset", "parcellatedscan"):
        form = FORMATS[name]
        put = partial(_make, form.make, "x.h5")
        yield Operation(
            f"overwrite {name} for R", "x.h5", partial(put, RUN),
            partial(put, RUN + 1, profile="r", overwrite=True), form.holds(RUN),
            form.holds(RUN + 1), again=True,
        )  # fmt: skip


def _many_runs() -> Iterator[Operation]:
    """Of datasets, collections, and stores that many processes write."""
    raw, made = "raw/sub-01/func", "ds/sub-01/func/sub-01_task-rest_bold.ome.zarr"

    def dataset(folder: Path, run: AnyArray = RUN) -> None:
        (folder / raw).mkdir(parents=True, exist_ok=True)
        (folder / "raw/dataset_description.json").write_text(
            '{"Name": "a", "BIDSVersion": "1.8.0"}'
        )
        _nifti(folder, f"{raw}/sub-01_task-rest_bold.nii", run)

    def dataset_before(folder: Path) -> None:
        dataset(folder)
        fs.convert_bids(folder / "raw", folder / "ds").check()
        dataset(folder, RUN + 1)

    def convert(folder: Path, **options: Any) -> None:
        fs.convert_bids(folder / "raw", folder / "ds", overwrite=True, **options).check()

    def collection(folder: Path) -> None:
        for subject in ("01", "02"):
            path = folder / f"ds/sub-{subject}/func/sub-{subject}_task-rest_bold.h5"
            path.parent.mkdir(parents=True)
            _make(_vec, path.name, RUN + int(subject), path.parent)
        _make(_vec, "x.zarr", RUN, folder)

    def across(folder: Path, **options: Any) -> None:
        runs = fs.Collection(folder / "ds")
        _close(runs.across(folder / "x.zarr", statistic=None, overwrite=True, **options))

    def run_before(folder: Path) -> None:
        _make(_vec, "x.zarr", RUN, folder)
        _make(_vec, "in.h5", RUN + 1, folder)

    def reserve(folder: Path, **options: Any) -> None:
        size: Any = {"shape": SHAPE, "dtype": "i2", "space": GRID, "tr": 1.5}
        with fs.reserve(folder / "x.zarr", **size, overwrite=True, **options) as new:
            new.fill(folder / "in.h5").check()
            _close(new.publish())

    before, after = {"": RUN}, {"": RUN + 1}
    yield Operation("convert_bids", made, dataset_before, convert, before, after, again=True)
    joined = np.concatenate([RUN + 1, RUN + 2], axis=3)
    yield Operation("across", "x.zarr", collection, across, before, {"": joined}, again=True)
    yield Operation("reserve", "x.zarr", run_before, reserve, before, after, again=True)


def _all() -> Iterator[Operation]:
    for kind in ("h5", "zarr"):
        yield from _creating(kind)
        yield from _importing(kind)
        yield from _copying(kind)
        yield from _changing_scans(kind)
        yield from _changing_runs(kind)
        yield from _changing_maps(kind)
        yield from _summarising(kind)
    yield from _growing()
    yield from _exporting()
    yield from _others()
    yield from _many_runs()


OPERATIONS: Mapping[str, Operation] = {operation.name: operation for operation in _all()}
"""By name."""
