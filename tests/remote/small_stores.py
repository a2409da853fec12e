"""A small store of every format, and what must come out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fmristore as fs

__all__ = ["AFFINE", "DATA", "FORMATS", "KINDS", "SHAPE", "check_dense"]

KINDS = ["h5", "ome.zarr"]
SHAPE = (14, 12, 10, 24)
RNG = np.random.default_rng(0)
DATA = RNG.integers(0, 999, SHAPE).astype("i2")
AFFINE = np.diag([2.0, 2, 3, 1])
MASK = RNG.random(SHAPE[:3]) < 0.4
LABELS = np.where(MASK, RNG.integers(1, 5, SHAPE[:3]), 0)
NAMES = {1: "a/b", 2: "Süd", 3: "c", 4: "d e"}
LOADINGS = RNG.normal(size=(int(MASK.sum()), 3))
BASIS = RNG.normal(size=(SHAPE[3], 3))


def make_dense(url: str) -> Any:
    return fs.NeuroVec.create(DATA, url, space=AFFINE)


def check_dense(image: Any, data: Any = DATA) -> None:
    """One voxel, a region, a volume, scattered voxels, everything."""
    assert image.shape == SHAPE
    np.testing.assert_array_equal(image[3, 4, 5], data[3, 4, 5])
    region = (slice(2, 9, 2), slice(5, 7), slice(0, 10), slice(10, 20, 3))
    np.testing.assert_array_equal(image[region], data[region])
    np.testing.assert_array_equal(image[..., 7], data[..., 7])
    voxels = np.array([[0, 0, 0], [13, 11, 9], [3, 4, 5]])
    np.testing.assert_array_equal(image.series(voxels), data[tuple(voxels.T)].T)
    np.testing.assert_array_equal(np.asarray(image), data)


def make_masked(url: str) -> Any:
    return fs.MaskedNeuroVec.create(DATA, url, mask=MASK, space=AFFINE)


def check_masked(image: Any) -> None:
    inside = np.where(MASK[..., None], DATA, 0)
    np.testing.assert_array_equal(image[3:9, 4, 5], inside[3:9, 4, 5])
    np.testing.assert_array_equal(image[..., 2], inside[..., 2])


def make_sequence(url: str) -> Any:
    return fs.NeuroVecSeq.create({"a": DATA, "b/c": DATA[..., :5] + 1}, url, space=AFFINE)


def check_sequence(image: Any) -> None:
    both = np.concatenate([DATA, DATA[..., :5] + 1], axis=3)
    np.testing.assert_array_equal(image[3, 4, 5], both[3, 4, 5])
    np.testing.assert_array_equal(image[..., 25], both[..., 25])
    assert list(image.runs) == ["a", "b/c"]


def make_parcellated(url: str) -> Any:
    return fs.ParcellatedScan.create(DATA, url, parcellation=LABELS, names=NAMES, space=AFFINE)


def check_parcellated(scan: Any) -> None:
    np.testing.assert_array_equal(np.sort(scan.parcel("Süd")[5]), np.sort(DATA[LABELS == 2].T[5]))
    assert list(scan.parcellation.names) == list(NAMES.values())


def make_summary(url: str) -> Any:
    return fs.ParcellatedScanSummary.create(
        DATA, url, parcellation=LABELS, names=NAMES, space=AFFINE
    )


def check_summary(scan: Any) -> None:
    means = np.column_stack([DATA[label == LABELS].mean(axis=0) for label in NAMES])
    np.testing.assert_allclose(scan.to_numpy(), means)


def make_labelled(url: str) -> Any:
    maps = {"Faces > Houses": DATA[..., 0].astype("f4"), "b": DATA[..., 1].astype("f4")}
    return fs.LabeledVolumeSet.create(maps, url, mask=MASK, space=AFFINE)


def check_labelled(maps: Any) -> None:
    assert list(maps.labels) == ["Faces > Houses", "b"]
    np.testing.assert_array_equal(maps["b"][MASK], DATA[..., 1][MASK])


def make_latent(url: str) -> Any:
    return fs.LatentNeuroVec.create(BASIS, LOADINGS, url, mask=MASK, space=AFFINE)


def check_latent(image: Any) -> None:
    x, y, z = np.argwhere(MASK)[7]
    voxels = np.argwhere(MASK)
    row = int(np.flatnonzero((voxels == (x, y, z)).all(axis=1))[0])
    np.testing.assert_allclose(image[x, y, z], BASIS @ LOADINGS[row])


FORMATS: dict[str, tuple[Callable[[str], Any], Callable[[Any], None]]] = {
    "dense": (make_dense, check_dense),
    "masked": (make_masked, check_masked),
    "sequence": (make_sequence, check_sequence),
    "parcellated": (make_parcellated, check_parcellated),
    "summary": (make_summary, check_summary),
    "labelled": (make_labelled, check_labelled),
    "latent": (make_latent, check_latent),
}
