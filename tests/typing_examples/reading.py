"""What a user of types writes, checked by mypy --strict with the tests."""

from __future__ import annotations

from typing import Any, assert_type

import nibabel

import fmristore as fs
from fmristore import NeuroSpace, NeuroVec, ParcellatedScanSummary


def read(path: str) -> float:
    """Open by format, read, plan and export."""
    bold = fs.open(path, format="neurovec")
    assert_type(bold, NeuroVec)
    assert_type(bold.space, NeuroSpace)
    assert_type(bold.tr, float | None)
    shape: tuple[int, ...] = bold.shape
    series = bold.series((32, 40, 20))
    kept = bold.series(mask="roi.nii.gz", times=[0, 2, 3])
    plan = bold.plan[..., 10]
    assert kept.shape[0] < shape[3]
    assert plan.chunks > 0
    bold.to_nifti("back.nii.gz", overwrite=True)
    with fs.open("maps.h5", format="labeledvolumeset") as maps:
        names: tuple[str, ...] = maps.labels
    with bold.save("copy.ome.zarr", codec="dual") as copy:
        assert_type(copy, NeuroVec)
    rest = fs.parcellate(bold, "atlas.nii.gz", "rest.h5", names=list(names))
    assert_type(rest, ParcellatedScanSummary)
    report = fs.verify(path, deep=True)
    return 0.0 if report else float(series[0])


def read_any(path: str) -> list[str]:
    """Open what only the file knows, and ask for it."""
    with fs.open(path) as stored:
        assert_type(stored, fs.AnyFormat)
        assert_type(stored.shape, tuple[int, ...])
        assert_type(stored.to_nibabel(), nibabel.Nifti1Image)
        assert_type(stored.describe(), dict[str, Any])
        if isinstance(stored, fs.ParcellatedMultiScan):
            return list(stored.scan_names)
        if isinstance(stored, fs.LabeledVolumeSet):
            return list(stored.labels)
        return [str(stored[0, 0, 0]), str(stored.only_some_have_this)]
