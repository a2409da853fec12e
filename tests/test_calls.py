"""What is stored is `source`, where it goes is `url`, in every call; and what calls return."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import InvalidInputError, UnknownFormatError

SPACE = fs.NeuroSpace(spatial_shape=(4, 5, 3), affine=np.eye(4), time_points=6, tr=2.0)
RUN: Any = np.random.default_rng(0).normal(size=SPACE.shape).astype("f4")
RUNS: Any = [RUN]
NAMED: Any = {"a": RUN}
LABELS: Any = np.arange(60).reshape(4, 5, 3) % 3


@pytest.mark.parametrize(
    ("call", "first"),
    [
        (fs.convert, ["source", "url"]),
        (fs.transcode, ["source", "url"]),
        (fs.virtualize, ["source", "url"]),
        (fs.parcellate, ["source", "labels", "url"]),
        (fs.NeuroVec.create, ["source", "url"]),
        (fs.MaskedNeuroVec.create, ["source", "url"]),
        (fs.ParcellatedScan.create, ["source", "url"]),
        (fs.ParcellatedScanSummary.create, ["source", "url"]),
        (fs.LatentNeuroVec.from_pca, ["source", "url"]),
        (fs.LatentNeuroVec.create, ["basis", "loadings", "url"]),
        (fs.LabeledVolumeSet.create, ["source", "url"]),
        (fs.NeuroVecSeq.create, ["source", "url"]),
        (fs.NeuroVol.create, ["source", "url"]),
        (fs.ParcellatedMultiScan.create, ["source", "url"]),
        (fs.NeuroVec.save, ["self", "url"]),
    ],
)
def test_names_and_order_of_parameters_agree(call: Any, first: list[str]) -> None:
    assert list(inspect.signature(call).parameters)[: len(first)] == first


@pytest.mark.parametrize(
    "call",
    [
        lambda url: fs.convert(url, RUN),
        lambda url: fs.parcellate(url, LABELS, RUN),
        lambda url: fs.NeuroVec.create(url, RUN, space=SPACE),
        lambda url: fs.NeuroVecSeq.create(url, RUNS, space=SPACE),
        lambda url: fs.MaskedNeuroVec.create(url, RUN, mask=LABELS, space=SPACE),
        lambda url: fs.LabeledVolumeSet.create(url, NAMED, space=SPACE),
        lambda url: fs.LatentNeuroVec.create(url, RUN, RUN, mask=LABELS, space=SPACE),
        lambda url: fs.LatentNeuroVec.from_pca(url, RUN, 2, space=SPACE),
        lambda url: fs.ParcellatedScan.create(url, RUN, parcellation=LABELS, space=SPACE),
        lambda url: fs.ParcellatedScanSummary.create(url, RUN, parcellation=LABELS, space=SPACE),
        lambda url: fs.ParcellatedMultiScan.create(url, NAMED, parcellation=LABELS),
    ],
)
def test_swapped_source_and_url_are_an_error_with_the_right_order(
    tmp_path: Path, call: Any
) -> None:
    with pytest.raises(InvalidInputError, match="what is stored comes first, then the URL"):
        call(tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_several_runs_become_a_sequence(tmp_path: Path, ending: str) -> None:
    first = fs.NeuroVec.create(RUN, tmp_path / "a.h5", space=SPACE)
    with fs.convert([first.url, first], tmp_path / f"s.{ending}", tr=1.5) as runs:
        assert isinstance(runs, fs.NeuroVecSeq)
        assert runs.runs == ("run-1", "run-2")
        assert runs.tr == 1.5
        np.testing.assert_array_equal(runs[..., 6:], RUN)
    with fs.convert({"rest": first}, tmp_path / f"n.{ending}") as runs:
        assert runs.runs == ("rest",)
    first.close()


def test_each_class_opens_its_own(tmp_path: Path) -> None:
    fs.NeuroVec.create(RUN, tmp_path / "a.h5", space=SPACE).close()
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
        {"a": run}, tmp_path / "m.h5", parcellation=labels, names=names, space=space
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


FORMATS = [name for name in fs.__all__ if hasattr(getattr(fs, name), "create")]
CALLS = {
    "convert": fs.convert,
    "parcellate": fs.parcellate,
    "transcode": fs.transcode,
    "save": fs.NeuroVec.save,
    "to_dense": fs.MaskedNeuroVec.to_dense,
    "to_nifti": fs.NeuroVec.to_nifti,
    "from_pca": fs.LatentNeuroVec.from_pca,
} | {f"{name}.create": getattr(fs, name).create for name in FORMATS}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_shared_options_are_shown_and_described_where_they_are_taken(call: Any) -> None:
    parameters = inspect.signature(call).parameters
    assert {"overwrite", "storage_options", "max_memory", "progress"} <= set(parameters)
    assert not [one for one in parameters.values() if one.kind is one.VAR_KEYWORD]
    described = inspect.getdoc(call) or ""
    for name in set(parameters) - {"self", "args"}:
        assert re.search(rf"^(\w+, )*{name}(, \w+)* :", described, re.MULTILINE), name
    assert "**options" not in described


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_option_that_there_is_not_is_an_error_that_names_the_nearest(call: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"has no option 'overwite'; .* 'overwrite'"):
        call("a.h5", "b.h5", overwite=True)
    with pytest.raises(InvalidInputError, match=r"has no option 'xyz'; there are .*max_memory"):
        call("a.h5", "b.h5", xyz=1)


def test_options_with_other_defaults_say_so() -> None:
    shown = inspect.signature(fs.NeuroVec.to_nifti).parameters
    assert shown["max_memory"].default == 1 << 28
    assert inspect.signature(fs.convert).parameters["max_memory"].default == 1 << 30
