"""The command line on every format, and on files of the R package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore.formats import registry
from fmristore.formats.base import StoredArray, StoredObject
from fmristore.formats.new_arrays import write_plain
from fmristore.formats.nodes import format_attributes
from fmristore.formats.registry import register
from fmristore_stores.opening import Handle
from fmristore_stores.publishing.publish import create_store
from tests.cli.test_cli import done, failed, run
from tests.every_format import AFFINE, LABELS, MASK, NAMES, RUN, SHAPE, WRITERS, write

nibabel: Any = untyped_nibabel

ENDINGS = (".h5", ".zarr")


def save(path: Path, values: Any) -> Path:
    image = nibabel.Nifti1Image(np.asarray(values), AFFINE)
    if np.ndim(values) == 4:
        image.header.set_zooms((2, 2, 3, 1.5))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    return save(tmp_path / "run.nii.gz", RUN)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return save(tmp_path / "mask.nii.gz", MASK.astype(np.uint8))


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return save(tmp_path / "labels.nii.gz", LABELS)


# Formats -------------------------------------------------------------------------------------


def test_formats() -> None:
    text = done("formats")
    listed = json.loads(done("formats", "--json"))
    assert [one["name"] for one in listed] == sorted(WRITERS)
    for one in listed:
        assert one["class"] in text
        assert one["use_when"] in text


# Info ----------------------------------------------------------------------------------------

TOLD = {
    "labeledvolumeset": ("6 x 5 x 4 x 2", "labels       2: Faces > Houses, rest/..", "mask "),
    "latentneurovec": (
        *("6 x 5 x 4 x 16", "components   3", "one: 9 volumes, float64, TR 2 s", "two: 7"),
        *("mask ", "times smaller than the whole image", "TR           2 s"),
    ),
    "maskedneurovec": ("6 x 5 x 4 x 20", f"mask         {MASK.sum()} of 120 voxels", "TR "),
    "neurovec": ("6 x 5 x 4 x 20", "float32 (stored as int16, times 0.5, plus 1)", "for time"),
    "neurovecseq": (
        *("6 x 5 x 4 x 28", "rest: 20 volumes, int16, TR 1.5 s", "task: 8 volumes, int16, TR 2 s"),
        "/runs/rest/0, the first of 2",
    ),
    "neurovol": ("6 x 5 x 4", "digest       sha256-planes:"),
    "parcellatedmultiscan": (
        *("grid         6 x 5 x 4", "rest: 20 volumes, int16, TR 1.5 s, full"),
        *("task: 8 volumes, float32, TR 2 s, summary", "3: 1 Left V1, 2 Right V1, 3 Insula"),
    ),
    "parcellatedscan": ("6 x 5 x 4 x 20", "kind         full", "3: 1 Left V1", "mask "),
    "parcellatedscansummary": ("shape        20 x 3", "statistic    mean", "grid ", "3: 1 Left V1"),
}


def test_all_formats_are_tested() -> None:
    assert set(TOLD) == set(WRITERS) == set(fs.formats().names)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", WRITERS)
def test_info(tmp_path: Path, name: str, ending: str) -> None:
    url = write(name, tmp_path / f"x{ending}")
    text = done("info", url)
    for part in (*TOLD[name], f"{name} 1.2, written by fmristore", "2 x 2 x 3 mm", "RAS"):
        assert part in text
    assert "of data in" in text
    assert ("TR " in text) == (name not in ("labeledvolumeset", "neurovol"))
    document = json.loads(done("info", url, "--json"))
    content = document["content"]
    with fs.open(url) as stored:
        assert content == stored.describe()
        assert content["class"] == type(stored).__name__
        paths = [array.path for array in stored.primary_arrays]
    by_path = {array["path"]: array for array in document["arrays"]}
    assert content["layout"]["array"] == paths[0]
    assert content["layout"]["chunks"] == by_path[paths[0]]["chunks"]
    assert content["sizes"]["arrays"] == len(paths)
    assert content["sizes"]["raw_bytes"] == sum(
        np.prod(by_path[path]["shape"]) * np.dtype(by_path[path]["dtype"]).itemsize
        for path in paths
    )
    assert 0 < content["sizes"]["encoded_bytes"] < document["stored_bytes"]
    assert content["space"]["affine"] == AFFINE.tolist()


def test_info_of_files_of_the_r_package(shared_data: Path) -> None:
    files = sorted((shared_data / "golden" / "r-fmristore").glob("*.h5"))
    assert files
    for file in files:
        document = json.loads(done("info", file, "--json", "--trusted"))
        assert document["format"] in WRITERS
        assert document["writer"].startswith("R package fmristore")
        assert document["format_version"] is None
        assert document["content"]["sizes"]["raw_bytes"] > 0
    assert f"{document['format']}, written by R package fmristore 0.1.0" in done("info", file)


def test_info_of_many_and_strange_names(tmp_path: Path) -> None:
    runs = {f"run {number}\x1b[2J": RUN[..., :2] for number in range(25)}
    fs.NeuroVecSeq.create(runs, tmp_path / "x.h5", space=AFFINE).close()
    text = done("info", tmp_path / "x.h5")
    assert "\x1b" not in text
    assert r"run 0\x1b[2J: 2 volumes" in text
    assert "run 19" in text
    assert "run 20" not in text
    assert "... 25 in all" in text
    assert len(json.loads(done("info", tmp_path / "x.h5", "--json"))["content"]["runs"]) == 25


def test_info_of_a_container_without_scans(tmp_path: Path) -> None:
    fs.ParcellatedMultiScan.create({}, tmp_path / "x.h5", parcellation=LABELS, space=AFFINE).close()
    text = done("info", tmp_path / "x.h5")
    assert "scans        none" in text
    assert "of data" not in text


class Toy(StoredObject):
    """Numbers of a format from elsewhere."""

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        return (StoredArray(self._handle, "numbers"),)

    def _facts(self) -> dict[str, str]:
        return {"unit": "V"}


class Bare:
    """Registered without the common base."""

    format_version = (1, 0)

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.close()


def test_formats_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.formats()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register("toy")(Toy)
    register("bare")(Bare)
    for name in ("toy", "bare"):
        with create_store(tmp_path / f"{name}.h5") as store:
            write_plain(store.root, "numbers", ("n",), np.arange(5))
            store.root.write_attributes(format_attributes(name))
    text = done("info", tmp_path / "toy.h5")
    assert "unit         V" in text
    assert "1 of n5" in text
    assert "40 B of data" in text
    assert "toy" in done("formats", "--json")
    assert "/numbers" in done("info", tmp_path / "bare.h5")
    for name in ("toy", "bare"):
        assert done("verify", tmp_path / f"{name}.h5", "--deep").count(f": ok ({name}, 1 array,")
        assert f"cannot export a {name.title()}" in failed(
            "export", tmp_path / f"{name}.h5", "x.nii"
        )
        failed("plan", tmp_path / f"{name}.h5", "0", "--part", "x")


# Convert and parcellate ----------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_convert_with_a_mask(nifti: Path, mask: Path, tmp_path: Path, ending: str) -> None:
    url = tmp_path / f"new{ending}"
    document = json.loads(done("convert", nifti, url, "--mask", mask, "--json"))
    assert document["content"]["class"] == "MaskedNeuroVec"
    assert document["content"]["mask"]["voxels"] == MASK.sum()
    with fs.open(url, format="maskedneurovec") as bold:
        np.testing.assert_array_equal(bold[...], RUN * MASK[..., None])
    assert "--overwrite" in failed("convert", nifti, url, "--mask", mask)


def test_convert_several(nifti: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.nii.gz", RUN[..., :8])
    url = tmp_path / "new.h5"
    document = json.loads(done("convert", nifti, other, url, "--access", "volume", "--json"))
    assert document["source"] == [str(nifti), str(other)]
    assert [one["time_points"] for one in document["content"]["runs"]] == [20, 8]
    with fs.open(url, format="neurovecseq") as seq:
        assert {image.access for image in seq.images} == {"volume"}
        np.testing.assert_array_equal(seq["run-2"][...], RUN[..., :8])


def test_convert_for_r(nifti: Path, tmp_path: Path) -> None:
    url = tmp_path / "new.h5"
    done("convert", nifti, url, "--profile", "r")
    assert "neurovec, written by R package" in done("info", url)
    with fs.open(url) as bold:
        np.testing.assert_array_equal(bold[...], RUN)
    assert "must end in .h5" in failed("convert", nifti, tmp_path / "new.zarr", "--profile", "r")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--access", "time"], "does not go with --access"),
        (["--profile", "r"], "does not go with --profile"),
    ],
)
def test_what_a_mask_does_not_go_with(
    nifti: Path, mask: Path, tmp_path: Path, more: list[str], told: str
) -> None:
    out = tmp_path / "new.h5"
    assert told in failed("convert", nifti, out, "--mask", mask, *more, code=2)
    assert "takes one run" in failed("convert", nifti, nifti, out, "--mask", mask, code=2)
    assert not out.exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_parcellate(nifti: Path, labels: Path, tmp_path: Path, ending: str) -> None:
    table = tmp_path / "names.tsv"
    table.write_text("index\tname\n" + "".join(f"{i}\t{name}\n" for i, name in NAMES.items()))
    url = tmp_path / f"new{ending}"
    args = ("parcellate", nifti, labels, url, "--names", table)
    text = done(*args)
    assert "20 x 3 parcels" in text
    with fs.open(url, format="parcellatedscansummary") as summary:
        expected = np.stack([RUN[k == LABELS].mean(axis=0) for k in NAMES], axis=1)
        np.testing.assert_allclose(summary.to_numpy(), expected, rtol=1e-6)
        assert summary.names == tuple(NAMES.values())
    assert "--overwrite" in failed(*args)
    facts = json.loads(done(*args, "--statistic", "max", "--overwrite", "--json"))
    assert facts["statistic"] == "max"
    assert (facts["time_points"], facts["parcels"], facts["parcels_without_voxels"]) == (20, 3, 0)
    with fs.open(url) as summary:
        np.testing.assert_array_equal(summary[:, 1], RUN[LABELS == 2].max(axis=0))


def test_parcellate_a_store_into_a_container(labels: Path, mask: Path, tmp_path: Path) -> None:
    url = write("parcellatedmultiscan", tmp_path / "scans.h5")
    bold = write("neurovec", tmp_path / "bold.zarr")
    done("parcellate", bold, labels, url, "--scan", "new")
    with fs.open(url) as multi:
        assert multi.scan_names == ("rest", "task", "new")
        expected = RUN[LABELS == 1].mean(axis=0) * 0.5 + 1
        np.testing.assert_allclose(multi["new"]["Left V1"], expected, rtol=1e-6)
    assert "'new'" in failed("parcellate", bold, labels, url, "--scan", "new")
    other = save(mask, MASK[:3].astype(np.uint8))
    assert "shape" in failed("parcellate", bold, other, tmp_path / "no.h5")
    assert not (tmp_path / "no.h5").exists()


def test_parcellate_for_r(nifti: Path, labels: Path, tmp_path: Path) -> None:
    url = tmp_path / "new.h5"
    done("parcellate", nifti, labels, url, "--profile", "r")
    assert "parcellatedscansummary, written by R package" in done("info", url)


# Plan and export -----------------------------------------------------------------------------

PLANNED = ("maskedneurovec", "neurovec", "neurovecseq", "neurovol")
IMAGES = (*PLANNED, "labeledvolumeset", "latentneurovec", "parcellatedscan")


@pytest.mark.parametrize("name", WRITERS)
def test_plan(tmp_path: Path, name: str) -> None:
    url = write(name, tmp_path / "x.h5")
    if hasattr(fs.formats()[fs.formats().names.index(name)].cls, "plan"):
        document = json.loads(done("plan", url, "[1, 2]", "--json"))
        with fs.open(url) as stored:
            assert document["shape"] == list(stored[1, 2].shape)
            assert document["dtype"] == str(stored.dtype)
        assert document["chunks"] >= 1
    else:
        assert name not in PLANNED
        line = failed("plan", url, "0")
        assert line.startswith(f"error: {url}: cannot plan reads of a ")
        assert "NeuroVec" in line or "--part" in line


def test_plan_of_a_run(tmp_path: Path) -> None:
    url = write("neurovecseq", tmp_path / "x.zarr")
    assert json.loads(done("plan", url, "1, 2, 3", "--json"))["shape"] == [28]
    assert json.loads(done("plan", url, "1, 2, 3", "--run", "task", "--json"))["shape"] == [8]
    assert "there is no run 'nope'" in failed("plan", url, "0", "--run", "nope")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", WRITERS)
def test_export(tmp_path: Path, name: str, ending: str) -> None:
    url, back = write(name, tmp_path / f"x{ending}"), tmp_path / "back.nii.gz"
    if name not in IMAGES:
        line = failed("export", url, back)
        assert "cannot export a Parcellated" in line
        assert "--part: rest" in line or "LatentNeuroVec" in line
        assert not back.exists()
        return
    document = json.loads(done("export", url, back, "--json"))
    with fs.open(url) as stored:
        expected, shape = stored[...], stored.shape
    found = nibabel.load(back)
    assert found.shape == shape == tuple(document["shape"])
    np.testing.assert_allclose(found.get_fdata(), expected, rtol=1e-6)
    np.testing.assert_array_equal(found.affine, AFFINE)
    assert "--overwrite" in failed("export", url, back)
    done("export", url, back, "--overwrite", "--max-memory", "1MB")


@pytest.mark.parametrize(
    ("name", "option", "part"),
    [
        ("neurovecseq", "--run", "task"),
        ("parcellatedmultiscan", "--scan", "rest"),
        ("latentneurovec", "--scan", "two"),
        ("labeledvolumeset", "--label", "rest/.."),
    ],
)
def test_export_of_a_part(tmp_path: Path, name: str, option: str, part: str) -> None:
    url, back = write(name, tmp_path / "x.h5"), tmp_path / "back.nii"
    assert f"-> {back}" in done("export", url, back, option, part)
    with fs.open(url) as stored:
        assert part in stored.part_names
        expected = stored.part(part)[...]
    np.testing.assert_allclose(nibabel.load(back).get_fdata(), expected, rtol=1e-6)
    line = failed("export", url, back, option, "nope", "--overwrite")
    assert "'nope'" in line
    assert part in line


def test_parts_of_what_has_none(tmp_path: Path) -> None:
    url = write("neurovec", tmp_path / "x.h5")
    line = failed("export", url, tmp_path / "back.nii", "--run", "one")
    assert "a NeuroVec is read as a whole" in line


def test_a_map_is_read_as_a_volume(tmp_path: Path) -> None:
    with fs.open(write("labeledvolumeset", tmp_path / "x.h5")) as maps:
        one = maps.part("Faces > Houses")
        assert (one.label, one.shape, one.dtype) == ("Faces > Houses", SHAPE[:3], maps.dtype)
        assert one.space == maps.space
        for index in (np.s_[...], np.s_[1], np.s_[::-2, 1:3, -1], np.s_[0, 0, 0]):
            np.testing.assert_array_equal(one[index], maps["Faces > Houses"][index])
        assert repr(one).startswith("LabeledMap('Faces > Houses' of LabeledVolumeSet(")


# Demo ----------------------------------------------------------------------------------------


def test_demo_of_a_volume(tmp_path: Path) -> None:
    source = save(tmp_path / "t1.nii.gz", RUN[..., 0])
    text = done("demo", source, "--folder", tmp_path / "demo")
    assert "one slice                 6 x 5 values" in text
    assert "byte for byte" in text


def test_demo_leaves_no_empty_folder(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    source = save(tmp_path / "t1.nii.gz", RUN[..., 0])
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(source.read_bytes()[:-40])
    pair = save(tmp_path / "pair.img", RUN[..., 0])
    assert "no such file" in failed("demo", tmp_path / "nope.nii.gz", "--folder", folder)
    assert "truncated" in failed("demo", cut, "--folder", folder)
    assert "one .nii or .nii.gz file" in failed("demo", pair, "--folder", folder)
    assert not folder.exists()
    folder.mkdir()
    failed("demo", cut, "--folder", folder)
    assert folder.is_dir()


def test_verify(tmp_path: Path) -> None:
    url = write("neurovecseq", tmp_path / "x.zarr")
    assert ": ok (neurovecseq, " in done("verify", url, "--deep")
    next(path for path in (url / "runs" / "task" / "0" / "c").rglob("*") if path.is_file()).unlink()
    result = run("verify", url)
    assert result.exit_code == 1
    assert "missing-chunk /runs/task/0" in result.stdout
