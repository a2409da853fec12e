"""A node that is removed from a store is damage: it never makes other values, names or headers."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import nibabel as untyped_nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore.formats.parcellated import layout as parcellated
from fmristore_stores.errors import FmristoreError, StorageError
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import Group
from tests.every_format import (
    BASES,
    GRID,
    LABELS,
    LOADINGS,
    MASK,
    NAMES,
    OFFSET,
    RUN,
    SPACE,
)

nibabel: Any = untyped_nibabel

KNOWN = {"TaskName": "rest", "EchoTime": 0.03}
LISTED = {"nifti", "nifti_trailer", "metadata", "t", "offset", "voxel_error", "columns"}
"""Nodes that may be absent, other than names of axes, which say again what others say."""
SLOPES = np.linspace(1.0, 2.0, RUN.shape[3])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI file with extensions, facts beside it, and bytes after its data."""
    folder = tmp_path_factory.mktemp("source")
    image = nibabel.Nifti1Image(RUN, SPACE.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    image.header["descrip"] = b"the source"
    nibabel.save(image, folder / "a.nii")
    with (folder / "a.nii").open("ab") as file:
        file.write(b"trailer")
    (folder / "a.json").write_text(json.dumps(KNOWN))
    return folder / "a.nii"


def image(source: Path, url: Path) -> Any:
    return fs.NeuroVec.create(source, url, access="both")


def scaled(source: Path, url: Path) -> Any:
    del source
    return fs.NeuroVec.create(RUN, url, space=SPACE, slope=SLOPES)


def sequence(source: Path, url: Path) -> Any:
    return fs.NeuroVecSeq.create({"rest": source, "task": RUN[..., :8]}, url, space=GRID)


def masked(source: Path, url: Path) -> Any:
    return fs.MaskedNeuroVec.create(source, url, mask=MASK)


def maps(source: Path, url: Path) -> Any:
    volume = nibabel.load(source).slicer[..., 0]
    maps = {"a": volume, "b": np.asarray(volume.dataobj)}
    return fs.LabeledVolumeSet.create(maps, url, mask=MASK, metadata=KNOWN)


def latent(source: Path, url: Path) -> Any:
    return fs.LatentNeuroVec.create(
        BASES, LOADINGS, url, mask=MASK, space=GRID, tr=2.0, offset=OFFSET,
        voxel_error=np.abs(OFFSET), header=source.read_bytes()[:352],
        metadata={"one": KNOWN},
    )  # fmt: skip


def scans(source: Path, url: Path) -> Any:
    table = {"index": [1, 2, 3], "name": list(NAMES.values()), "network": ["a", "b", "c"]}
    parcellation = fs.Parcellation.from_labels(LABELS, space=GRID, names=table)
    return fs.ParcellatedMultiScan.create(
        {
            "rest": source,
            "task": fs.NeuroVec.create(RUN, url.with_name("run.h5"), space=SPACE, slope=SLOPES),
        },
        url,
        parcellation=parcellation,
        metadata={"rest": KNOWN},
    )


MAKE: Mapping[str, Callable[[Path, Path], Any]] = {
    make.__name__: make for make in (image, scaled, sequence, masked, maps, latent, scans)
}


def everything(url: Path) -> dict[str, Any]:
    """All that a store says of itself."""
    with fs.open(url) as stored:
        parts = [stored.part(name) for name in stored.part_names] or [stored]
        found: dict[str, Any] = {"names": tuple(stored.part_names), "facts": stored.describe()}
        found["facts"].pop("sizes", None)
        for number, part in enumerate([stored, *parts]):
            for name in ("__array__", "labels", "offset", "voxel_error", "source_header",
                         "header_bytes", "trailer_bytes", "metadata", "mask", "table",
                         "headers", "tr", "slope"):  # fmt: skip
                value = getattr(part, name, None)
                value = value() if callable(value) else value
                if name == "table" and value is not None:
                    value = {k: np.asarray(v).tolist() for k, v in value.columns.items()}
                found[f"{number}/{name}"] = value
        return found


def nodes(group: Group) -> Iterator[str]:
    """Paths of all nodes below a group."""
    for name, child in group.children().items():
        yield f"{group.path}/{name}".strip("/")
        if child.kind == "group":
            yield from nodes(group.group(name))


def remove(url: Path, node: str) -> None:
    """Remove a node as other software does: in Zarr also from the root's list of metadata."""
    if url.suffix == ".h5":
        with h5py.File(url, "r+") as file:
            del file[node]
        return
    shutil.rmtree(url / node)
    document = json.loads((url / "zarr.json").read_text())
    inside = document.get("consolidated_metadata", {}).get("metadata", {})
    for name in [name for name in inside if name == node or name.startswith(f"{node}/")]:
        del inside[name]
    (url / "zarr.json").write_text(json.dumps(document))


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["h5", "zarr"])
@pytest.mark.parametrize("name", MAKE)
def test_a_removed_node_is_damage(name: str, kind: str, source: Path, tmp_path: Path) -> None:
    whole = tmp_path / f"whole.{kind}"
    MAKE[name](source, whole).close()
    before = everything(whole)
    assert fs.verify(whole).ok
    with open_store(whole) as store:
        paths = list(nodes(store.root))
    silent = []
    for node in paths:
        copy = tmp_path / f"copy.{kind}"
        (shutil.copytree if whole.is_dir() else shutil.copy)(whole, copy)
        remove(copy, node)
        with contextlib.suppress(FmristoreError):
            after = everything(copy)
            changed = [what for what in before if not alike(before[what], after.get(what))]
            silent += [f"{node}: {what}" for what in changed]
            listed = node.rpartition("/")[2] in LISTED and not node.startswith("volume/")
            if listed and fs.verify(copy).ok:
                silent.append(f"{node}: verify says that all is well")
        shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
    assert silent == []


def test_nothing_is_missing_of_a_scan_that_was_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that is killed leaves a group in a Zarr store which no list names yet."""
    path, left = tmp_path / "a.zarr", tmp_path / "b.zarr"
    fs.ParcellatedMultiScan.create({"rest": RUN}, path, parcellation=LABELS, space=SPACE).close()

    def killed(*_: object) -> None:
        shutil.copytree(path, left)
        raise StorageError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(parcellated, "write_times", killed)
        with fs.open(path) as store, pytest.raises(StorageError, match="killed"):
            store.add_scan("task", RUN)
    assert (left / "scans" / "task" / "zarr.json").exists()
    report = fs.verify(left, deep=True)
    assert report, str(report)
    with fs.open(left) as store:
        store.add_scan("task", RUN)
        assert store.scan_names == ("rest", "task")
    with open_store(left) as stored:
        assert "t" in stored.root.group("scans/task").read_attributes()["holds"]


@pytest.mark.parametrize("kind", ["scan", "run"])
def test_what_no_list_names_is_not_taken_for_damage(tmp_path: Path, kind: str) -> None:
    """A writer may be killed between the metadata of an array and its only chunk."""
    path = tmp_path / "a.zarr"
    if kind == "scan":
        fs.ParcellatedMultiScan.create(
            {"rest": RUN}, path, parcellation=LABELS, space=SPACE, statistic="mean"
        ).close()
        folder = path / "scans"
    else:
        fs.NeuroVecSeq.create({"rest": RUN}, path, space=SPACE).close()
        folder = path / "runs"
    document = json.loads((path / "zarr.json").read_text())
    document.pop("consolidated_metadata", None)  # as every writer does first
    (path / "zarr.json").write_text(json.dumps(document))
    shutil.copytree(folder / "rest", folder / "task")
    for chunks in [found for found in (folder / "task").rglob("c") if found.is_dir()]:
        shutil.rmtree(chunks)
    report = fs.verify(path, deep=True)
    assert report, str(report)
    assert [note.node for note in report.notes if note.kind == "leftover"] == [
        f"{folder.name}/task"
    ]
    shutil.rmtree(next(found for found in (folder / "rest").rglob("0/c") if found.is_dir()))
    assert not fs.verify(path, deep=True)


@pytest.mark.parametrize("kind", ["scan", "run"])
def test_what_no_list_names_in_an_hdf5_file_is_removed_when_one_is_added(
    tmp_path: Path, kind: str
) -> None:
    """Other software put it there; a copy has dimension scales that do not know it."""
    path, folder = tmp_path / "a.h5", f"{kind}s"
    if kind == "scan":
        fs.ParcellatedMultiScan.create(
            {"rest": RUN}, path, parcellation=LABELS, space=SPACE, statistic="mean"
        ).close()
    else:
        fs.NeuroVecSeq.create({"rest": RUN}, path, space=SPACE).close()
    with h5py.File(path, "r+") as file:
        file.copy(f"{folder}/rest", f"{folder}/task")
    report = fs.verify(path, deep=True)
    assert report, str(report)
    (note,) = [note for note in report.notes if note.kind == "leftover"]
    assert note.node == f"{folder}/task"
    assert "writer" not in note.message
    assert (
        f"adding {'or removing a scan' if kind == 'scan' else 'a run'} removes it" in note.message
    )
    assert f"not checked: {folder}/task/0" in note.message
    with fs.open(path) as store:
        getattr(store, f"add_{kind}")("new", RUN)
    with h5py.File(path, "r") as file:
        assert sorted(file[folder]) == ["new", "rest"]
    report = fs.verify(path, deep=True)
    assert report, str(report)
    assert not report.notes
