"""Files as the R package writes them in less common cases, with the values that R reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import fmristore as fs
from fmristore.sources.labels import ParcellationWarning
from fmristore_stores.errors import InvalidInputError, MetadataError
from tests.images import load_npz


def golden(shared_data: Path, name: str) -> tuple[Path, Any]:
    """Path of a file of the R package, and what R reads of it."""
    folder = shared_data / "golden" / "r-fmristore-2"
    return folder / f"{name}.h5", load_npz(folder / f"{name}.expected.npz")


def test_rows_of_a_table_go_by_the_ids_that_they_name(shared_data: Path, tmp_path: Path) -> None:
    path, expected = golden(shared_data, "par_meta_name_unsorted")
    with fs.open(path) as stored:
        scan = stored["s1"]
        assert dict(zip(scan.ids.tolist(), scan.names, strict=True)) == {
            2: "second",
            5: "fifth",
            9: "ninth",
        }
        np.testing.assert_allclose(np.asarray(scan), expected["read_dataset.run1_matrix"])
        assert list(scan.to_dataframe().columns) == ["second", "fifth", "ninth"]
        with stored.save(tmp_path / "again.h5", profile="r") as again:
            assert again["s1"].names == ("second", "fifth", "ninth")


def test_rows_that_name_other_ids_are_refused(shared_data: Path, tmp_path: Path) -> None:
    path, _ = golden(shared_data, "par_meta_name_unsorted")
    shutil.copy(path, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["clusters/cluster_meta/cluster_id"][0] = 8
    with fs.open(tmp_path / "a.h5") as stored, pytest.raises(MetadataError, match="distinguished"):
        stored["s1"].names  # noqa: B018


def test_a_table_in_one_compound_dataset_is_left_out(shared_data: Path, tmp_path: Path) -> None:
    path, expected = golden(shared_data, "par_meta_name_unsorted")
    shutil.copyfile(path, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["clusters/cluster_meta"]
        file["clusters/cluster_meta"] = np.array(
            [(9, 1.0)] * 3, [("cluster_id", "i4"), ("x", "f8")]
        )
    with fs.open(tmp_path / "a.h5") as stored:
        with pytest.warns(ParcellationWarning, match="one compound dataset"):
            scan = stored["s1"]
        assert scan.names == ("Cluster1", "Cluster2", "Cluster3")
        np.testing.assert_allclose(np.asarray(scan), expected["read_dataset.run1_matrix"])


def test_metadata_without_a_value_hinder_nothing(shared_data: Path, tmp_path: Path) -> None:
    path, expected = golden(shared_data, "par_meta_name_unsorted")
    shutil.copyfile(path, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        group = file["scans/s1"].require_group("metadata")
        group["nothing"], group["run"] = h5py.Empty("f8"), 3
    with fs.open(tmp_path / "a.h5") as stored:
        with pytest.warns(ParcellationWarning, match="nothing is left out of the metadata"):
            scan = stored["s1"]
        assert scan.metadata["run"] == 3
        np.testing.assert_allclose(np.asarray(scan), expected["read_dataset.run1_matrix"])


def test_negative_ids_are_refused_with_what_to_do(shared_data: Path, tmp_path: Path) -> None:
    path, _ = golden(shared_data, "par_meta_name_unsorted")
    shutil.copyfile(path, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["clusters/cluster_ids"][...] = [-2, 5, 9]
    with fs.open(tmp_path / "a.h5") as stored, pytest.raises(MetadataError, match="renumber"):
        stored["s1"].names  # noqa: B018


def test_ids_of_a_single_scan_in_any_order(shared_data: Path) -> None:
    path, expected = golden(shared_data, "par_x_unsorted_single")
    with fs.open(path) as stored:
        assert (stored.ids.tolist(), stored.names) == ([2, 5, 9], ("second", "fifth", "ninth"))
        assert stored.table.columns["size"].tolist() == [20, 50, 90]
        np.testing.assert_array_equal(np.asarray(stored), expected["read_dataset_args.matrix"])


def test_a_summary_with_a_series_for_no_cluster(shared_data: Path, tmp_path: Path) -> None:
    path, expected = golden(shared_data, "par_z_zero_summary4")
    series = expected["R.read_dataset.run1_matrix"]
    with fs.open(path) as stored:
        scan = stored["run1"]
        assert (scan.ids.tolist(), scan.shape) == ([1, 2, 3], (10, 3))
        np.testing.assert_allclose(np.asarray(scan), series[:, 1:])
        np.testing.assert_allclose(scan.series(3, times=[1, 4]), series[[1, 4], 3])
        with scan.save(tmp_path / "again.h5") as again:
            np.testing.assert_array_equal(np.asarray(again), np.asarray(scan))


def test_one_cluster_and_one_voxel(shared_data: Path) -> None:
    path, _ = golden(shared_data, "par_one_cluster_summary")
    with fs.open(path) as stored, h5py.File(path) as file:
        assert stored.table.columns["n_voxels"].tolist() == [85]
        values = file["scans/scan_001/clusters_summary/summary_data"][()]
        np.testing.assert_array_equal(np.asarray(stored["scan_001"]), values.T)
    path, expected = golden(shared_data, "lab_mask_one")
    with fs.open(path) as maps:
        np.testing.assert_array_equal(maps[:], expected["read_dataset.full"])
        assert maps.plan[..., 0].cost.chunks == 1
    assert fs.verify(path).ok


def test_runs_are_in_natural_order(shared_data: Path, tmp_path: Path) -> None:
    path, _ = golden(shared_data, "seq_eleven")
    given = json.loads((path.parent / "seq_eleven.expected.json").read_text())["given"]["names"]
    with fs.open(path) as stored:
        assert list(stored.runs) == given
    values = np.ones((2, 2, 2, 3), "f4")
    with pytest.raises(InvalidInputError, match="run_01"):
        fs.NeuroVecSeq.create(
            {"r10": values, "r9": values}, tmp_path / "a.h5", space=np.eye(4), profile="r"
        )


def test_missing_integers_of_a_run(shared_data: Path) -> None:
    path, expected = golden(shared_data, "vec_intNA")
    with fs.open(path) as run:
        wanted = expected["read_dataset_elements.full"]
        assert np.isnan(wanted).any()
        np.testing.assert_array_equal(np.asarray(run), wanted)
        assert run.raw.dtype == np.int32


def test_missing_integers_are_missing(shared_data: Path, tmp_path: Path) -> None:
    path, _ = golden(shared_data, "par_x_md_odd")
    shutil.copy(path, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        meta = file["clusters/cluster_meta"]
        del meta["size"]
        meta["size"] = np.array([20, -(2**31), 90], "i4")
    with fs.open(tmp_path / "a.h5") as stored:
        np.testing.assert_array_equal(stored.table.columns["size"], [20, np.nan, 90])
        metadata = stored["s1"].metadata
        assert metadata["nai"] is None
        assert metadata["neg"] == -1
        with stored.save(tmp_path / "b.h5") as again:
            assert again["s1"].metadata["nai"] is None
