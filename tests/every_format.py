"""A small store of every format, for tests of what works on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fmristore as fs

SHAPE = (6, 5, 4, 20)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
RUN = np.random.default_rng(3).integers(0, 900, SHAPE).astype(np.int16)
MASK = np.random.default_rng(4).random(SHAPE[:3]) > 0.4
LABELS = np.where(MASK, np.arange(120).reshape(SHAPE[:3]) % 3 + 1, 0).astype(np.int32)
NAMES = {1: "Left V1", 2: "Right V1", 3: "Insula"}
SPACE = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=AFFINE, time_points=SHAPE[3], tr=1.5)
GRID = SPACE.without_time()
_rng = np.random.default_rng(5)
LOADINGS = _rng.normal(size=(int(MASK.sum()), 3))
BASES = {"one": _rng.normal(size=(9, 3)), "two": _rng.normal(size=(7, 3))}
OFFSET = np.arange(len(LOADINGS)) / 2


def _image(url: Path | str) -> Any:
    return fs.NeuroVec.create(RUN, url, space=SPACE, slope=0.5, inter=1.0)


def _volume(url: Path | str) -> Any:
    return fs.NeuroVol.create(RUN[..., 0], url, space=GRID)


def _sequence(url: Path | str) -> Any:
    runs = {"rest": RUN, "task": RUN[..., :8]}
    return fs.NeuroVecSeq.create(runs, url, space=GRID, tr=[1.5, 2.0])


def _masked(url: Path | str) -> Any:
    return fs.MaskedNeuroVec.create(RUN, url, mask=MASK, space=SPACE)


def _maps(url: Path | str) -> Any:
    maps = {"Faces > Houses": RUN[..., 0] / 4, "rest/..": RUN[..., 1] / 4}
    return fs.LabeledVolumeSet.create(maps, url, mask=MASK, space=GRID)


def _latent(url: Path | str) -> Any:
    return fs.LatentNeuroVec.create(
        BASES, LOADINGS, url, mask=MASK, space=GRID, tr={"one": 2.0, "two": 2.0}, offset=OFFSET
    )


def _scan(url: Path | str) -> Any:
    return fs.ParcellatedScan.create(
        RUN, url, parcellation=LABELS, names=NAMES, space=SPACE, name="rest"
    )


def _summary(url: Path | str) -> Any:
    return fs.parcellate(RUN, LABELS, url, names=NAMES, space=SPACE, scan="rest")


def _scans(url: Path | str) -> Any:
    multi = fs.ParcellatedMultiScan.create(
        {"rest": RUN}, url, parcellation=LABELS, names=NAMES, space=SPACE
    )
    multi.add_scan("task", RUN[..., :8], statistic="mean", tr=2.0)
    return multi


WRITERS: Mapping[str, Callable[[Path | str], Any]] = {
    "labeledvolumeset": _maps,
    "latentneurovec": _latent,
    "maskedneurovec": _masked,
    "neurovec": _image,
    "neurovecseq": _sequence,
    "neurovol": _volume,
    "parcellatedmultiscan": _scans,
    "parcellatedscan": _scan,
    "parcellatedscansummary": _summary,
}
"""Writes a store of each format and returns it opened."""


def _r_image(url: Path) -> Any:
    return fs.NeuroVec.create(RUN.astype("f4"), url, space=SPACE, profile="r")


def _r_sequence(url: Path) -> Any:
    runs = {"a": RUN.astype("f4"), "b": RUN[..., :8].astype("f4")}
    return fs.NeuroVecSeq.create(runs, url, space=GRID, tr=[1.5, 2.0], profile="r")


def _r_latent(url: Path) -> Any:
    rng = np.random.default_rng(6)
    loadings = rng.normal(size=(int(MASK.sum()), 3))
    basis, offset = rng.normal(size=(9, 3)), np.arange(len(loadings)) / 2
    return fs.LatentNeuroVec.create(
        {"one": basis}, loadings, url, mask=MASK, space=GRID, tr=2.0, offset=offset, profile="r"
    )


def _r_scan(url: Path) -> Any:
    labels = np.ones(RUN.shape[:3], "i4")
    return fs.ParcellatedScan.create(RUN, url, parcellation=labels, space=SPACE, profile="r")


def _r_maps(url: Path) -> Any:
    maps = {"a": RUN[..., 0] / 4, "b": RUN[..., 1] / 4}
    mask = np.ones(RUN.shape[:3], bool)
    return fs.LabeledVolumeSet.create(maps, url, mask=mask, space=GRID, profile="r")


R_WRITERS: Mapping[str, Callable[[Path], Any]] = {
    "r image": _r_image,
    "r latent": _r_latent,
    "r maps": _r_maps,
    "r scan": _r_scan,
    "r sequence": _r_sequence,
}
"""Writes an HDF5 file as the R package does, and returns it opened."""


def write(format_name: str, url: Path) -> Path:
    """Write a store of a format."""
    WRITERS[format_name](url).close()
    return url
