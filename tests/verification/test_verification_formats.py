"""Verification of every format: sound stores pass, and no damage goes unnoticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

import fmristore as fs
from fmristore_stores.opening import open_store
from fmristore_stores.zarr.store import ZarrStore
from tests.conftest import S3Server
from tests.every_format import RUN, WRITERS, write
from tests.verification.test_verification import (
    change_attributes,
    change_values,
    flip,
    kinds,
    overwrite,
    ranges,
    replace_array,
)

ENDINGS = (".h5", ".zarr")


def test_a_report_is_true_if_all_is_well(tmp_path: Path) -> None:
    url = write("neurovol", tmp_path / "x.h5")
    assert bool(fs.verify(url)) is True
    change_attributes(url, "", affine=[0.0] * 16)
    assert bool(fs.verify(url)) is False


@pytest.mark.parametrize("name", WRITERS)
def test_a_chunk_of_any_number_is_missing(tmp_path: Path, name: str) -> None:
    url = write(name, tmp_path / "x.zarr")
    with fs.open(url) as stored:
        paths = [array.path for array in stored.primary_arrays]
    for path in paths:
        shutil.move(url / path / "c", tmp_path / "aside")
        report = fs.verify(url)
        assert ("missing-chunk", path) in {(p.kind, p.node) for p in report.problems}
        shutil.move(tmp_path / "aside", url / path / "c")
    assert fs.verify(url)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_chunk_of_any_array_is_damaged(tmp_path: Path, name: str, ending: str) -> None:
    url = write(name, tmp_path / f"x{ending}")
    with fs.open(url) as stored:
        paths = [array.path for array in stored.primary_arrays]
    for path in paths:
        overwrite(ranges(url, path)[0])
    report = fs.verify(url, deep=True)
    with open_store(url) as store:
        checked = {path for path in paths if store.root.array(path).spec.codecs}
    assert checked <= {problem.node for problem in report.problems}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("run", ["rest", "task"])
def test_digests_of_runs_are_compared(tmp_path: Path, run: str, ending: str) -> None:
    url = tmp_path / f"x{ending}"
    runs = {"rest": RUN, "task": RUN[..., :8]}
    fs.NeuroVecSeq.create(runs, url, space=np.eye(4), tr=2.0, codec="none").close()
    flip(ranges(url, f"runs/{run}/0")[0])
    assert fs.verify(url)
    report = fs.verify(url, deep=True)
    assert [(p.kind, p.node) for p in report.problems] == [("digest", f"runs/{run}/0")]


# Structure -----------------------------------------------------------------------------------

Damage = Callable[[Path], Any]


def _remove(node: str) -> Damage:
    def damage(url: Path) -> None:
        group, _, name = node.rpartition("/")
        with open_store(url, "r+") as store:
            (store.root.group(group) if group else store.root).remove(name)

    return damage


def _replace(node: str, values: Any) -> Damage:
    def damage(url: Path) -> None:
        group, _, name = node.rpartition("/")
        assert not group
        replace_array(url, name, values)

    return damage


def _values(node: str, change: Callable[[Any], Any]) -> Damage:
    def damage(url: Path) -> None:
        with open_store(url, "r+") as store:
            array = store.root.array(node)
            array.write(None, change(array.read()))

    return damage


def _attributes(**changes: Any) -> Damage:
    return lambda url: change_attributes(url, "", **changes)


def _swap(values: Any) -> Any:
    return values[[1, 0, *range(2, len(values))]]


STRUCTURE: dict[str, tuple[str, Damage, str]] = {
    "a run is gone": ("neurovecseq", _remove("runs/task"), "metadata"),
    "a run is shorter": ("neurovecseq", _attributes(lengths=[20, 7]), "metadata"),
    "times of a run": ("neurovecseq", _values("runs/task/t", lambda t: t + 1), "times"),
    "header of a run": ("neurovecseq", _values("runs/rest/nifti", np.zeros_like), "header"),
    "the mask is another": ("maskedneurovec", _values("mask", lambda m: m[::-1]), "metadata"),
    "the voxels are others": ("maskedneurovec", _values("voxels", _swap), "metadata"),
    "the mask is gone": ("maskedneurovec", _remove("mask"), "metadata"),
    "times of a masked run": ("maskedneurovec", _values("t", lambda t: t * 2), "times"),
    "fewer rows than voxels": ("maskedneurovec", _replace("0", np.zeros((3, 4))), "metadata"),
    "a label occurs twice": (
        "labeledvolumeset",
        _values("labels", lambda t: t[[0, 0]]),
        "metadata",
    ),
    "a label is gone": ("labeledvolumeset", _remove("labels"), "metadata"),
    "voxels outside": ("latentneurovec", _values("voxels", lambda v: v + 9), "metadata"),
    "a basis is gone": ("latentneurovec", _remove("scans/two/basis"), "metadata"),
    "labels of no parcel": (
        *("parcellatedscan", _values("parcellation/labels", lambda v: v * 5), "metadata"),
    ),
    "rows of other parcels": (
        *("parcellatedscan", _values("parcellation/indptr", lambda v: v + 1), "metadata"),
    ),
    "the parcels are gone": ("parcellatedscansummary", _remove("parcellation/ids"), "metadata"),
    "times of a summary": ("parcellatedscansummary", _values("scans/rest/t", np.cos), "times"),
    "a scan is gone": ("parcellatedmultiscan", _remove("scans/task"), "metadata"),
    "a scan is without numbers": ("parcellatedmultiscan", _remove("scans/task/0"), "metadata"),
    "times of a scan": ("parcellatedmultiscan", _values("scans/task/t", np.cos), "times"),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("case", STRUCTURE)
def test_structure(tmp_path: Path, case: str, ending: str) -> None:
    name, damage, kind = STRUCTURE[case]
    url = write(name, tmp_path / f"x{ending}")
    damage(url)
    report = fs.verify(url)
    assert kinds(report) == {kind}, report
    assert report.format == name


def test_other_scans_are_checked_after_a_damaged_one(tmp_path: Path) -> None:
    url = write("parcellatedmultiscan", tmp_path / "x.zarr")
    change_values(url, "scans/task/t", np.arange(8) * 9.0)
    _remove("scans/rest/0")(url)
    assert kinds(fs.verify(url)) == {"metadata", "times"}


def test_sparse_loadings(tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    loadings = sparse.random(120, 3, 0.3, format="csr", random_state=1)
    url, basis = tmp_path / "x.zarr", np.ones((4, 3))
    fs.LatentNeuroVec.create(
        basis, loadings, url, mask=np.ones((6, 5, 4), bool), space=np.eye(4)
    ).close()
    assert fs.verify(url, deep=True)
    _values("loadings/indptr", lambda v: v[::-1])(url)
    assert kinds(fs.verify(url)) == {fs.errors.CorruptDataError.kind}


# Files of the R package ----------------------------------------------------------------------


def _copy(shared_data: Path, tmp_path: Path, name: str) -> Path:
    path = tmp_path / "r.h5"
    shutil.copy(shared_data / "golden" / "r-fmristore" / f"{name}.h5", path)
    return path


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("neurovec_float_c4", "data/elements"),
        ("neurovecseq_float_c4", "scans/task-nback_run-01/data"),
        ("parcel_multiscan_full", "scans/rest_run-01/clusters/cluster_7"),
        ("parcel_scan_summary", "scans/rest_run-01/clusters_summary/summary_data"),
        ("labeled_float_c9", "data/face"),
        ("latent_dense_offset.lv", "basis/basis_matrix"),
    ],
)
def test_damage_in_files_of_r(shared_data: Path, tmp_path: Path, name: str, node: str) -> None:
    url = _copy(shared_data, tmp_path, name)
    overwrite(ranges(url, node)[0])
    report = fs.verify(url, deep=True)
    assert [(p.kind, p.node) for p in report.problems] == [("corrupt-chunk", node)]
    with h5py.File(url, "r+") as file:
        del file[node]
        file[node] = np.zeros((2, 1, 1, 1, 1))
    report = fs.verify(url)
    assert not report
    assert kinds(report) <= {"metadata", "not-found"}


def test_a_dataset_of_r_is_gone(shared_data: Path, tmp_path: Path) -> None:
    url = _copy(shared_data, tmp_path, "labeled_float_c9")
    with h5py.File(url, "r+") as file:
        del file["data/left_hand"]
    assert not fs.verify(url)


# Zarr ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["{", "", "[]", "\x00\xff", '{"zarr_format": 3}'])
@pytest.mark.parametrize("node", ["runs/task/t", "runs/task", "runs/task/x", "runs/rest/0"])
def test_damaged_metadata_of_a_node(tmp_path: Path, node: str, content: str) -> None:
    url = write("neurovecseq", tmp_path / "x.zarr")
    (url / node / "zarr.json").write_text(content, encoding="latin-1")
    overwrite(ranges_of_run(url, "rest") if node != "runs/rest/0" else ranges_of_run(url, "task"))
    report = fs.verify(url, deep=True)
    found = {(p.kind, p.node) for p in report.problems}
    assert ("array", node) in found
    other = "runs/task/0" if node == "runs/rest/0" else "runs/rest/0"
    assert ("corrupt-chunk", other) in found


def ranges_of_run(url: Path, run: str) -> Any:
    return ranges(url, f"runs/{run}/0")[0]


def test_listing_goes_past_damaged_nodes(tmp_path: Path) -> None:
    url = write("neurovec", tmp_path / "x.zarr")
    (url / "t" / "zarr.json").write_text("{")
    with ZarrStore(str(url)) as store:
        with pytest.raises(fs.errors.MetadataError):
            store.root.children()
        children = store.root.children(tolerant=True)
        assert children["t"].kind == "unreadable"
        assert children["0"].kind == "array"
        assert set(children) == {"0", "nifti", "t", "x", "y", "z"}
        with pytest.raises(fs.errors.MetadataError):
            store.root.array("t")


def consolidated(url: Path) -> tuple[Path, dict[str, Any]]:
    path = url / "zarr.json"
    return path, json.loads(path.read_text())


def test_consolidated_metadata_are_those_of_the_nodes(tmp_path: Path) -> None:
    url = write("neurovecseq", tmp_path / "x.zarr")
    path, document = consolidated(url)
    nodes = document["consolidated_metadata"]["metadata"]
    nodes["runs/rest"]["attributes"]["name"] = "other"
    nodes["runs/task/0"]["shape"][0] = 3
    nodes["runs/gone"] = nodes["runs/rest"]
    nodes["../outside"] = nodes["runs/rest"]
    del nodes["runs/task/x"]
    path.write_text(json.dumps(document))
    report = fs.verify(url)
    assert [(p.kind, p.node) for p in report.problems] == [
        ("consolidated", "../outside"),
        ("consolidated", "runs/gone"),
        ("consolidated", "runs/rest"),
        ("consolidated", "runs/task/0"),
        ("consolidated", "runs/task/x"),
    ]
    assert "differs in attributes" in report.problems[2].message
    assert "differs in shape" in report.problems[3].message


@pytest.mark.parametrize("copies", [None, 3, {"metadata": []}, {"metadata": {"0": 5}}])
def test_consolidated_metadata_that_are_none(tmp_path: Path, copies: Any) -> None:
    url = tmp_path / "x.zarr"
    zarr.open_group(url, mode="w").create_array("0", data=np.arange(3))
    path, document = consolidated(url)
    path.write_text(json.dumps(document | {"consolidated_metadata": copies}))
    with ZarrStore(str(url)) as store:
        found = store.contradictions(["", "0"])
    assert [node for node, _ in found] == (["0"] if copies == {"metadata": {"0": 5}} else [])


def test_on_object_storage_a_damaged_node_hides_behind_its_copy(
    tmp_path: Path, s3: S3Server
) -> None:
    import s3fs

    write("neurovecseq", tmp_path / "x.zarr")
    url, files = s3.url("x.zarr"), s3fs.S3FileSystem(**s3.options)
    files.put(str(tmp_path / "x.zarr"), f"{s3.bucket}/x.zarr", recursive=True)
    assert fs.verify(url, deep=True, storage_options=s3.options)
    files.pipe_file(f"{s3.bucket}/x.zarr/runs/task/x/zarr.json", b"{")
    report = fs.verify(url, storage_options=s3.options)
    assert [(p.kind, p.node) for p in report.problems] == [("consolidated", "runs/task/x")]
    assert "damaged" in report.problems[0].message


@pytest.mark.parametrize(
    "changed", [{"data_type": "int17"}, {"chunk_grid": {"name": "regulas"}}], ids=["dtype", "grid"]
)
def test_an_array_of_ours_of_a_kind_that_cannot_be_used(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    """In a store of other software that is no damage."""
    url = write("neurovec", tmp_path / "x.zarr")
    path = url / "t" / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    report = fs.verify(url)
    assert ("array", "t") in {(p.kind, p.node) for p in report.problems}
