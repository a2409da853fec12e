"""Stores that claim more than they hold, verified and transcoded quickly and within bounds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from fmristore.transcoding import transcode
from fmristore.verification import verify
from fmristore.verification.arrays import ArrayCheck
from fmristore.verification.report import Findings
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import InvalidInputError, LossyError
from fmristore_stores.limits import LIMITS, MOST_ATTRIBUTES
from fmristore_stores.opening import open_store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout


@pytest.mark.parametrize("kind", ["h5", "zarr", "sharded"])
@pytest.mark.parametrize("required", [True, False])
def test_millions_of_missing_chunks_are_one_line(
    tmp_path: Path, kind: str, *, required: bool
) -> None:
    chunks = (4, 4, 4)
    shards = (16, 16, 16) if kind == "sharded" else None
    path = tmp_path / ("a.h5" if kind == "h5" else "a.zarr")
    layout = ChunkLayout(chunks=chunks, shards=shards)
    spec = ArraySpec(shape=(100_000,) * 3, dtype=np.dtype("<i2"), layout=layout)
    spec = replace(spec, codecs=codecs.preset("portable", spec.dtype))
    with create_store(path) as store:
        array = store.root.create_array("0", spec)
        array.write((slice(0, 4), slice(0, 4), slice(4, 12)), 1)
        array.write((slice(99_996, 100_000),) * 3, 1)
    for deep in (False, True):
        findings = Findings()
        with open_store(path) as store:
            check = ArrayCheck(
                store.root.array("0"), findings, required=required, max_memory=1 << 24
            )
            assert check.locate() is not required
            if deep:
                check.decode()
        report = findings.report(url=str(path), name=None, deep=deep, seconds=0.0)
        assert report.chunks == 3
        (found,) = report.problems if required else report.notes
        assert found.kind == "missing-chunk"
        assert found.message.startswith(f"{25_000**3 - 3} of {25_000**3} chunks")
        assert ("(0, 0, 0)" in found.message) is required


def test_chunks_that_cannot_be_located_are_not_all_asked_for(tmp_path: Path) -> None:
    """A filter that is not known here hides which chunks are there; a digest changes nothing."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("0", (100_000,) * 3, "<i2", chunks=(4, 4, 4), compression="lzf")
        made[:4, :4, :8] = 1
    findings = Findings()
    with open_store(tmp_path / "a.h5") as store:
        check = ArrayCheck(store.root.array("0"), findings, required=True, max_memory=1 << 20)
        assert check.locate()
        assert not check.compare("sha256-planes:0")
        check.decode()
    report = findings.report(url="a.h5", name=None, deep=True, seconds=0.0)
    assert not report.problems
    (note,) = report.notes
    assert note.kind == "not-checked"
    assert f"of {25_000**3} chunks only" in note.message


def test_damage_among_millions_of_missing_chunks_is_found(tmp_path: Path) -> None:
    spec = ArraySpec(
        shape=(100_000,) * 3, dtype=np.dtype("<i2"), layout=ChunkLayout(chunks=(4, 4, 4))
    )
    spec = replace(spec, codecs=codecs.preset("dual", spec.dtype))
    with create_store(tmp_path / "a.zarr") as store:
        store.root.create_array("0", spec).write((slice(0, 4), slice(0, 4), slice(0, 12)), 1)
    (tmp_path / "a.zarr/0/c/0/0/1").write_bytes(b"nothing that decodes")
    report = verify(tmp_path / "a.zarr", deep=True)
    assert [problem.kind for problem in report.problems] == ["corrupt-chunk"]
    assert "(0, 0, 1)" in report.problems[0].message


def test_what_takes_too_much_memory_is_not_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ArraySpec(shape=(8,), dtype=np.dtype("<i2"), layout=ChunkLayout(chunks=(4,)))
    spec = replace(spec, codecs=codecs.preset("dual", spec.dtype))
    with create_store(tmp_path / "a.zarr") as store:
        store.root.create_array("0", spec).write(None, 1)
    monkeypatch.setattr(LIMITS, "chunk", 7)
    report = verify(tmp_path / "a.zarr", deep=True)
    assert [problem.kind for problem in report.problems] == ["memory-limit"]


# Transcoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_groups_nested_too_deep_are_a_loss(tmp_path: Path, kind: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["/".join(["g"] * 64) + "/x"] = np.arange(3)
        file["/".join(["h"] * 80) + "/x"] = np.arange(3)
    target = tmp_path / f"b.{kind}"
    with pytest.raises(LossyError, match="64 groups or more"):
        transcode(tmp_path / "a.h5", target)
    transcode(tmp_path / "a.h5", target, allow=["depth"])
    with open_store(target) as store:
        assert store.root.array("/".join(["g"] * 64) + "/x").read().tolist() == [0, 1, 2]
    assert verify(target).ok
    assert [note.kind for note in verify(tmp_path / "a.h5").notes] == ["depth"]


def test_more_attributes_than_hdf5_takes_are_a_loss(tmp_path: Path) -> None:
    many = {f"a{number}": number for number in range(MOST_ATTRIBUTES + 1)}
    (tmp_path / "a.zarr").mkdir()
    document = {"zarr_format": 3, "node_type": "group", "attributes": many}
    (tmp_path / "a.zarr/zarr.json").write_text(json.dumps(document))
    with pytest.raises(LossyError, match=f"there are {MOST_ATTRIBUTES + 1}"):
        transcode(tmp_path / "a.zarr", tmp_path / "b.h5")
    transcode(tmp_path / "a.zarr", tmp_path / "b.zarr")
    with open_store(tmp_path / "b.zarr") as store:
        assert store.root.read_attributes() == many
    with create_store(tmp_path / "c.h5") as new, pytest.raises(InvalidInputError, match="4096"):
        new.root.write_attributes(many)
