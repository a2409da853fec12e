"""Names of BIDS."""

from __future__ import annotations

import pytest

from fmristore.sources.bids_names import parse_name


def test_entities_suffix_and_extension() -> None:
    name = "sub-01_ses-a_task-rest_run-02_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz"
    found = parse_name(name)
    assert found is not None
    assert dict(found.entities) == {
        "sub": "01",
        "ses": "a",
        "task": "rest",
        "run": "02",
        "space": "MNI152NLin6Asym",
        "desc": "preproc",
    }
    assert (found.suffix, found.extension) == ("bold", ".nii.gz")
    assert str(found) == name
    assert str(found.with_extension(".ome.zarr")).endswith("_bold.ome.zarr")


@pytest.mark.parametrize(
    "name",
    [
        "bold.nii.gz",
        "sub-01.nii.gz",
        "sub-01_task-rest_.nii",
        "sub-01_sub-02_bold.nii",
        "sub-01_task-re_st_bold",
        "sub-ö_bold.nii",
        "sub-01_x/y_bold.nii",
        "sub-01_bold.nii\n",
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert parse_name(name) is None


def test_unknown_entities_are_kept() -> None:
    found = parse_name("sub-01_new-thing_bold.h5")
    assert found is not None
    assert dict(found.entities) == {"sub": "01", "new": "thing"}


def test_sidecars_above_may_have_no_entities() -> None:
    run = parse_name("sub-01_task-rest_bold.nii.gz")
    assert run is not None
    for name, applies in {
        "bold.json": True,
        "task-rest_bold.json": True,
        "task-rest_acq-fast_bold.json": False,
        "task-other_bold.json": False,
    }.items():
        found = parse_name(name, above=True)
        assert found is not None
        assert found.applies_to(run) is applies
