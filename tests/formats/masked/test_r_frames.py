"""Frames ("FDS v1") of the R package's development version."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import fmristore as fs
from fmristore.formats.r.serialised import RValue, parse_serialised
from fmristore.viewer.layers import Start, find_part, layer_names, open_layer
from fmristore_stores.errors import (
    CorruptDataError,
    FormatError,
    LayoutNotSupportedError,
    MemoryLimitError,
    MetadataError,
    SelectionError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import AnyArray
from tests.r_objects import r_value, serialise, write_frame

Maker = Callable[..., Any]


@pytest.fixture
def golden(shared_data: Path) -> tuple[Path, Any]:
    folder = shared_data / "golden" / "r-fmristore-2"
    return folder / "frame.fds.h5", json.loads((folder / "frame.fds.expected.json").read_text())


def values(count: int = 4, voxels: int = 6, seed: int = 0) -> AnyArray:
    return np.random.default_rng(seed).normal(size=(count, voxels))


def test_values_voxels_and_names_are_those_that_r_has(golden: tuple[Path, Any]) -> None:
    path, expected = golden
    with fs.open(path) as frame:
        assert isinstance(frame, fs.MaskedNeuroVec)
        assert frame.shape == (3, 4, 5, 6)
        np.testing.assert_array_equal(
            frame.affine, [[2, 0, 0, -10], [0, 3, 0, 5], [0, 0, 4, 7], [0, 0, 0, 1]]
        )
        assert (frame.space.space_name, frame.tr, frame.space.time_unit) == (
            "my-space",
            None,
            "unknown",
        )
        support = np.array([int(name.partition("-")[2]) for name in expected["feature_ids"]]) - 1
        voxels = np.stack(np.unravel_index(support, (3, 4, 5), order="F"), axis=1)
        np.testing.assert_array_equal(frame.voxels, voxels)
        assert frame.part_names == ("beta", "t")
        for name, wanted in expected["assays"].items():
            np.testing.assert_allclose(frame.part(name).series(voxels), wanted, rtol=1e-13)
        np.testing.assert_array_equal(frame.series(voxels), frame.part("beta").series(voxels))
        assert frame.metadata_frame("observations")[".obs_id"].tolist() == expected["obs_ids"]
        assert frame.metadata["metadata"] == {"label": "x"}
        assert frame.describe()["assays"] == ["beta", "t"]
        with pytest.raises(SelectionError, match="'beta', 't'"):
            frame.part("z")


def test_assays_are_layers_of_the_viewer(tmp_path: Path) -> None:
    arrays = {"beta": values(), "t": values(seed=1), "p": values(seed=2)}
    with fs.open(write_frame(tmp_path / "a.h5", arrays, active_assay="t")) as frame:
        assert frame.part_names == ("t", "beta", "p")
        assert layer_names(frame) == ["assay t", "assay beta", "assay p"]
        for number, name in enumerate(frame.part_names):
            assert find_part(frame, name) == Start(layer=number)
            shown = open_layer(frame, number).series((2, 1, 0))  # the sixth voxel
            np.testing.assert_array_equal(shown, arrays[name][:, 5])


def test_what_is_read_here_is_what_r_wrote(golden: tuple[Path, Any]) -> None:
    with h5py.File(golden[0]) as file:
        stream = file["manifest/semantic_rds"][()].astype("u1").tobytes()
        recorded = file.attrs["fds_semantic_digest"][0]
    found = parse_serialised(stream, url="", node="")
    assert recorded in found.digests
    assert serialise(found.value)[23:] == stream[23:]  # behind the version of R


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_copies_keep_values_and_what_is_known(
    golden: tuple[Path, Any], tmp_path: Path, ending: str
) -> None:
    with fs.open(golden[0]) as frame:
        with pytest.warns(UserWarning, match="only the assay beta .* the others: t"):
            made = frame.save(tmp_path / f"a.{ending}")
        with made:
            np.testing.assert_array_equal(np.asarray(made), np.asarray(frame))
            assert made.metadata == frame.metadata
            assert (made.space, made.root_attributes["fmristore_format"]) == (
                frame.space,
                "maskedneurovec",
            )
        with frame.part("t").save(tmp_path / f"t.{ending}") as other:
            assert other.metadata["assay"] == "t"
            np.testing.assert_array_equal(np.asarray(other), np.asarray(frame.part("t")))
        again = pickle.loads(pickle.dumps(frame))
        np.testing.assert_array_equal(again[..., 0], frame[..., 0])
        again.close()
    fs.transcode(golden[0], tmp_path / f"all.{ending}")
    with fs.open(tmp_path / f"all.{ending}") as whole, fs.open(golden[0]) as frame:
        np.testing.assert_array_equal(np.asarray(whole.part("t")), np.asarray(frame.part("t")))
    report = fs.verify(golden[0])
    assert report.ok
    assert {note.node for note in report.notes} == {"arrays/a000001", "arrays/a000002"}


def test_voxels_in_any_order_and_integers_that_are_missing(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int32).reshape(4, 6)
    stored[1, 2] = -(2**31)
    support = [60, 1, 17, 3, 58, 20]
    write_frame(tmp_path / "a.h5", {"n": stored}, space={"support": support})
    with fs.open(tmp_path / "a.h5") as frame:
        grid = np.zeros((60, 4))
        grid[np.array(support) - 1] = stored.T
        grid[16, 1] = np.nan
        np.testing.assert_array_equal(np.asarray(frame), grid.reshape(3, 4, 5, 4, order="F"))
        assert frame.raw.dtype == np.int32
        mask = frame.mask
        np.testing.assert_array_equal(frame.series(mask=mask), np.asarray(frame)[mask].T)
        back = frame.unmask(frame.series(mask=mask))
        np.testing.assert_array_equal(back[mask], np.asarray(frame)[mask])
        np.testing.assert_array_equal(frame.to_nibabel().get_fdata(), np.asarray(frame))


def test_tables_of_observations(tmp_path: Path) -> None:
    observations = {
        "TR": [2.0] * 4,
        "run_time": [0.0, 2.0, 4.0, 6.0],
        "condition": r_value([1, 2, -(2**31), 1], **{"class": "factor", "levels": ["A", "B"]}),
        "day": r_value([0.0, 1.0, np.nan, 20000.0], **{"class": "Date"}),
        "answer": ["no", "ja", "größe", "n"],
    }
    blocks = {
        "motion": {
            "name": "motion",
            "array": "axis/observation/blocks/motion",
            "components": r_value({".component_id": ["x", "y"]}, **{"class": "data.frame"}),
            "role": "confound",
        }
    }
    motion = np.array([[1.0, 2], [3, np.nan], [5, 6], [7, 8]])
    arrays = {"signal": values(), "axis/observation/blocks/motion": motion}
    features = {"parcel": ["a", "b", "c", "d", "e", "f"], "i": [1, 2, 3, 1, 2, 3]}
    path = write_frame(
        tmp_path / "a.h5", arrays, observations=observations, blocks=blocks, features=features
    )
    with fs.open(path) as frame:
        assert (frame.tr, frame.part_names) == (2.0, ())
        table = frame.metadata["observations"]
        assert table["condition"] == ["A", "B", None, "A"]
        assert table["day"] == ["1970-01-01", "1970-01-02", None, "2024-10-04"]
        assert table["answer"] == ["no", "ja", "größe", "n"]
        assert frame.metadata["observation_blocks"]["motion"]["values"] == {
            "x": [1.0, 3.0, 5.0, 7.0],
            "y": [2.0, None, 6.0, 8.0],
        }
        assert frame.metadata["features"] == {"parcel": ["a", "b", "c", "d", "e", "f"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"support": [1, 2, 3, 4, 5, 61]}}, r"voxel 61 .* outside of the grid"),
        ({"space": {"support": [1, 2, 3, 4, 5, 0]}}, r"voxel 0 .* outside of the grid"),
        ({"space": {"support": [1, 2, 3, 4, 5, 3]}}, r"voxel 3 .* twice"),
        ({"space": {"support": [1, 2, 3, 4, 5, 2.5]}}, r"other values than integers"),
        ({"space": {"dim": [3, 4]}}, r"grid of shape \[3, 4\]"),
        ({"space": {"affine": np.zeros((4, 4))}}, r"the space of the voxels is damaged"),
        ({"shape": [4, 5]}, r"4 observations and 6 voxels"),
        ({"active_assay": "z"}, r"active assay z of beta"),
        ({"axes": {}}, r"lacks the field axes\$"),
        ({"active_assay": RValue("text", [], {})}, r"no texts in active_assay"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_fields_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_frame(tmp_path / "a.h5", {"beta": values()}, **changes)
    with pytest.raises(MetadataError, match=message) as caught:
        fs.open(tmp_path / "a.h5")
    assert caught.value.url == str(tmp_path / "a.h5")
    assert caught.value.node == "manifest/semantic_rds"


def test_features_that_are_no_voxels_are_named(tmp_path: Path) -> None:
    space = {"class": ["parcel_space", "feature_space"]}
    write_frame(tmp_path / "a.h5", {"beta": values()}, space=space)
    with pytest.raises(LayoutNotSupportedError, match=r"parcel_space.*h5py.*arrays/a000001"):
        fs.open(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("fds_commit_state", "writing", CorruptDataError, "did not come to its end"),
        ("fds_schema_version", "0.1-provisional", UnsupportedVersionError, "migrate_frame_h5"),
        ("fds_schema_id", "org.other/v1", UnsupportedVersionError, "org.other/v1"),
        ("fds_object_type", "fmri_study", UnknownFormatError, "fmri_study"),
        ("fds_semantic_digest", "0" * 64, CorruptDataError, "digest"),
    ],
)
def test_other_frames_are_called_by_name(
    golden: tuple[Path, Any], tmp_path: Path, name: str, value: str, error: Any, message: str
) -> None:
    shutil.copyfile(golden[0], tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs[name] = value
    with pytest.raises(error, match=message):
        fs.open(tmp_path / "a.h5")


def test_arrays_that_are_others_are_refused(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "a.h5", {"beta": values(), "t": values(seed=1)})
    for change in (values(6, 5), values(6, 4).astype("f4"), None):
        with h5py.File(path, "r+") as file:
            del file["arrays/a000002"]
            if change is not None:
                file["arrays/a000002"] = change
        with pytest.raises(MetadataError) as caught:
            fs.open(path)
        assert caught.value.node == "arrays/a000002"


def test_a_manifest_that_was_changed_is_refused(golden: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.copyfile(golden[0], tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        stream = file["manifest/semantic_rds"][()]
        place = stream.astype("u1").tobytes().index(b"my-space")
        file["manifest/semantic_rds"][place] = ord("M")
    with pytest.raises(CorruptDataError, match="not the manifest that was written"):
        fs.open(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["manifest/semantic_rds"][place] = 1000
    with pytest.raises(CorruptDataError, match="other integers than bytes"):
        fs.open(tmp_path / "a.h5")


def test_manifests_that_are_too_large(
    golden: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LIMITS, "consolidated", 1000)
    with pytest.raises(FormatError, match="more than 1000 elements"):
        fs.open(golden[0])
    monkeypatch.undo()
    monkeypatch.setattr(LIMITS, "values", 20)
    with pytest.raises(MemoryLimitError, match=r"LIMITS\.values"):
        fs.open(golden[0])
