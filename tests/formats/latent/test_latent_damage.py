"""Damaged latent representations are found to be so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

import fmristore as fs
from fmristore_stores.errors import (
    CorruptDataError,
    MetadataError,
)
from fmristore_stores.opening import open_store
from fmristore_stores.spec import ArraySpec, ChunkLayout
from tests.formats.latent.latent_data import (
    LOADINGS,
    NAMES,
    OFFSET,
    STACKED,
    VOXELS,
    make,
)
from tests.old_affine import with_affine_array


def replace(url: Path, node: str, values: Any, dims: tuple[str, ...] = ()) -> None:
    folder, _, name = node.rpartition("/")
    with open_store(url, "r+") as store:
        group = store.root.group(folder) if folder else store.root
        group.remove(name)
        if values is not None:
            layout = ChunkLayout(chunks=tuple(max(1, n) for n in values.shape))
            spec = ArraySpec(shape=values.shape, dtype=values.dtype, dims=dims, layout=layout)
            group.create_array(name, spec).write(None, values)


DAMAGE: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "no voxels": ("voxels", None, ()),
    "too few voxels": ("voxels", VOXELS[1:].astype("i4"), ("voxel", "xyz")),
    "voxels of floats": ("voxels", VOXELS * 1.0, ("voxel", "xyz")),
    "no mask": ("mask", None, ()),
    "no affine": ("affine", None, ()),
    "singular affine": ("affine", np.zeros((4, 4)), ("world", "voxel")),
    "no loadings": ("loadings", None, ()),
    "loadings without names": ("loadings", LOADINGS, ()),
    "loadings of text": ("loadings", np.full((9, 3), "x", np.dtypes.StringDType()), ("voxel", "c")),
    "loadings of other voxels": ("loadings", LOADINGS[1:], ("voxel", "component")),
    "no offset of a voxel": ("offset", OFFSET[1:], ("voxel",)),
    "no basis": ("scans/task/basis", None, ()),
    "basis of other components": ("scans/task/basis", STACKED[:, 1:], ("t", "component")),
    "flat basis": ("scans/task/basis", STACKED[:, 1], ("t",)),
    "no scans": ("scans", None, ()),
    "no position": ("scans/task", None, ()),
}


@pytest.mark.once
@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("name", NAMES)
def test_damaged_metadata(tmp_path: Path, name: str, case: str) -> None:
    make(tmp_path / name).close()
    if DAMAGE[case][0] == "affine":
        with_affine_array(tmp_path / name)
    replace(tmp_path / name, *DAMAGE[case])
    if case == "no position":
        with open_store(tmp_path / name, "r+") as store:
            store.root.group("scans").create_group("task", {"name": "task"})
    with pytest.raises(MetadataError) as caught:
        fs.open(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_damaged_voxels(tmp_path: Path) -> None:
    for wrong in (VOXELS * 0, VOXELS - 7):
        with make(tmp_path / "a.h5", overwrite=True):
            pass
        replace(tmp_path / "a.h5", "voxels", wrong.astype("i4"), ("voxel", "xyz"))
        with fs.open(tmp_path / "a.h5") as lat, pytest.raises(MetadataError, match="voxels"):
            lat[0, 0, 0]


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_damaged_sparse(tmp_path: Path, name: str) -> None:
    rows = scipy.sparse.csr_array(LOADINGS)
    url = tmp_path / name
    wrong_ends = rows.indptr.astype(np.int64)
    wrong_ends[5] = -3
    too_many = rows.indptr.astype(np.int64)
    too_many[-1] = 1 << 40
    backwards = rows.indptr.astype(np.int64)
    backwards[3:6] = backwards[3:6][::-1] + np.array([2, 0, -1])
    bad_values: list[tuple[str, Any]] = [
        ("indptr", wrong_ends),
        ("indptr", too_many),
        ("indptr", backwards),
        ("indptr", np.where(np.arange(len(rows.indptr)) < 2, 0, len(rows.data))),
        ("indices", rows.indices + 1),
        ("indices", rows.indices - 1),
    ]
    for node, values in bad_values:
        make(url, loadings=scipy.sparse.csr_array(LOADINGS), overwrite=True).close()
        replace(url, f"loadings/{node}", values, ("entry",))
        with fs.open(url) as lat, pytest.raises(CorruptDataError, match=node):
            np.asarray(lat)
    bad_shapes: list[tuple[str, Any]] = [
        ("indptr", rows.indptr[1:]),
        ("indices", rows.indices[1:]),
        ("indices", rows.indices * 1.0),
        ("data", rows.data[:, None]),
    ]
    for node, values in bad_shapes:
        make(url, loadings=scipy.sparse.csr_array(LOADINGS), overwrite=True).close()
        replace(url, f"loadings/{node}", values)
        with pytest.raises(MetadataError):
            fs.open(url)
    wrong: list[dict[str, Any]] = [
        {"storage": "csc", "shape": [1, 2]},
        {"storage": "csr"},
        {"storage": "csr", "shape": [-1, 3]},
        {"storage": "csr", "shape": [1 << 50, 3]},
    ]
    for attributes in wrong:
        make(url, loadings=scipy.sparse.csr_array(LOADINGS), overwrite=True).close()
        with open_store(url, "r+") as store:
            store.root.group("loadings").write_attributes(attributes)
        with pytest.raises(MetadataError):
            fs.open(url)
