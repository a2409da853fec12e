"""What is stored is `source`, where it goes is `url`, in every call; and what calls return."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import UnknownFormatError

SPACE = fs.NeuroSpace(spatial_shape=(4, 5, 3), affine=np.eye(4), time_points=6, tr=2.0)
RUN = np.random.default_rng(0).normal(size=SPACE.shape).astype("f4")
LABELS = np.arange(60).reshape(4, 5, 3) % 3


@pytest.mark.parametrize(
    ("call", "first"),
    [
        (fs.convert, ["source", "url"]),
        (fs.transcode, ["source", "url"]),
        (fs.virtualize, ["source", "url"]),
        (fs.parcellate, ["source", "labels", "url"]),
        (fs.NeuroVec.create, ["url", "source"]),
        (fs.MaskedNeuroVec.create, ["url", "source"]),
        (fs.ParcellatedScan.create, ["url", "source"]),
        (fs.ParcellatedScanSummary.create, ["url", "source"]),
        (fs.LatentNeuroVec.from_pca, ["url", "source"]),
        (fs.NeuroVec.save, ["self", "url"]),
    ],
)
def test_names_and_order_of_parameters_agree(call: Any, first: list[str]) -> None:
    assert list(inspect.signature(call).parameters)[: len(first)] == first


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_several_runs_become_a_sequence(tmp_path: Path, ending: str) -> None:
    first = fs.NeuroVec.create(tmp_path / "a.h5", RUN, space=SPACE)
    with fs.convert([first.url, first], tmp_path / f"s.{ending}", tr=1.5) as runs:
        assert isinstance(runs, fs.NeuroVecSeq)
        assert runs.runs == ("run-1", "run-2")
        assert runs.tr == 1.5
        np.testing.assert_array_equal(runs[..., 6:], RUN)
    with fs.convert({"rest": first}, tmp_path / f"n.{ending}") as runs:
        assert runs.runs == ("rest",)
    first.close()


def test_each_class_opens_its_own(tmp_path: Path) -> None:
    fs.NeuroVec.create(tmp_path / "a.h5", RUN, space=SPACE).close()
    with fs.NeuroVec.open(tmp_path / "a.h5") as run:
        assert isinstance(run, fs.NeuroVec)
        np.testing.assert_array_equal(run[...], RUN)
    with pytest.raises(UnknownFormatError, match="neurovol"):
        fs.NeuroVol.open(tmp_path / "a.h5")


def test_what_is_printed_is_short(tmp_path: Path) -> None:
    names = {i + 1: f"parcel {i + 1}" for i in range(200)}
    labels = np.resize(np.arange(1, 201), (10, 10, 4))
    space = fs.NeuroSpace(spatial_shape=(10, 10, 4), affine=np.eye(4), time_points=6)
    run = np.zeros(space.shape, "f4")
    multi = fs.ParcellatedMultiScan.create(
        tmp_path / "m.h5", {"a": run}, parcellation=labels, names=names, space=space
    )
    multi.add_scan("b", run, statistic="mean")
    multi.close()
    with fs.open(tmp_path / "m.h5") as multi:
        printed = [multi, multi.table, multi.concat(), multi.parcellation, multi["a"].plan[...]]
        printed += [fs.verify(tmp_path / "m.h5"), fs.virtualize(tmp_path / "m.h5")]
        printed.append(fs.transcode(tmp_path / "m.h5", tmp_path / "m.zarr"))
        printed.append(printed[-1].plan)
        for one in printed:
            text = repr(one)
            assert text.count("\n") < 10, text
            assert len(text) < 1000, text
