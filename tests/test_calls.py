"""What is stored is `source`, where it goes is `url`, in every call; and what calls return."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import nibabel as untyped_nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import InvalidInputError, NotFoundError, UnknownFormatError

SPACE = fs.NeuroSpace(spatial_shape=(4, 5, 3), affine=np.eye(4), time_points=6, tr=2.0)
RUN: Any = np.random.default_rng(0).normal(size=SPACE.shape).astype("f4")
RUNS: Any = [RUN]
NAMED: Any = {"a": RUN}
nibabel: Any = untyped_nibabel
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
    ("call", "options"),
    [
        (fs.convert, {}),
        (fs.NeuroVec.create, {}),
        (fs.MaskedNeuroVec.create, {"mask": LABELS}),
        (fs.ParcellatedScan.create, {"parcellation": LABELS}),
        (fs.ParcellatedScanSummary.create, {"parcellation": LABELS}),
    ],
)
def test_the_url_may_come_first_where_nothing_else_can_be_meant(
    tmp_path: Path, call: Any, options: dict[str, Any]
) -> None:
    image = nibabel.Nifti1Image(RUN, SPACE.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nibabel.save(image, tmp_path / "run.nii.gz")
    right = call(image, tmp_path / "right.h5", **options)
    for number, source in enumerate((image, tmp_path / "run.nii.gz")):
        with call(tmp_path / f"{number}.h5", source, **options) as made:
            assert made.url.endswith(f"{number}.h5")
            np.testing.assert_array_equal(np.asarray(made), np.asarray(right))
    right.close()


def test_latent_factors_keep_their_order_behind_a_url(tmp_path: Path) -> None:
    basis: Any = RUN.reshape(-1, RUN.shape[-1])[:3].T
    loadings: Any = np.ones((LABELS.size, 3))
    given: Any = {"mask": np.ones(LABELS.shape, bool), "space": SPACE}
    with (
        fs.LatentNeuroVec.create(basis, loadings, tmp_path / "a.h5", **given) as one,
        fs.LatentNeuroVec.create(tmp_path / "b.h5", basis, loadings, **given) as other,
    ):
        np.testing.assert_array_equal(one[...], other[...])


@pytest.mark.parametrize(
    "call",
    [
        fs.convert,
        lambda source, url: fs.parcellate(source, LABELS, url),
        lambda source, url: fs.NeuroVec.create(source, url, space=SPACE),
        lambda source, url: fs.NeuroVecSeq.create({"a": source}, url, space=SPACE),
        lambda source, url: fs.LabeledVolumeSet.create({"a": source}, url, space=SPACE),
    ],
)
def test_an_array_is_no_url(call: Any) -> None:
    with pytest.raises(InvalidInputError, match="what is stored comes first, then the URL"):
        call(RUN, RUN)


def test_a_store_is_not_taken_for_a_url(tmp_path: Path) -> None:
    """Two names of stores stay in their order, whichever of them is there."""
    fs.NeuroVec.create(RUN, tmp_path / "there.h5", space=SPACE).close()
    with pytest.raises(NotFoundError, match=r"absent\.h5"):
        fs.NeuroVec.create(tmp_path / "absent.h5", tmp_path / "there.h5", overwrite=True)
    with fs.NeuroVec.open(tmp_path / "there.h5") as run:
        np.testing.assert_array_equal(run[...], RUN)


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
    with fs.ParcellatedMultiScan.open(tmp_path / "m.h5") as multi:
        full = multi["a"]
        assert isinstance(full, fs.ParcellatedScan)
        printed: list[Any] = [multi, multi.table, multi.concat(), multi.parcellation]
        printed.append(full.plan[...])
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


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_workers_are_for_many_runs(call: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"jobs.* many runs"):
        call("a.h5", "b.h5", jobs=2)


def test_options_with_other_defaults_say_so() -> None:
    shown = inspect.signature(fs.NeuroVec.to_nifti).parameters
    assert shown["max_memory"].default == 1 << 28
    assert inspect.signature(fs.convert).parameters["max_memory"].default == 1 << 30
