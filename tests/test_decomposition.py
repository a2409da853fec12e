"""Principal components: about as good as the best ones, in bounded memory."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore import decomposition
from fmristore.decomposition import principal_components
from fmristore_stores.errors import InvalidInputError, MemoryLimitError
from fmristore_stores.protocol import AnyArray

GRID, TIMES = (9, 8, 7), 40
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
FLOAT = np.dtype(np.float64)


def run(seed: int = 3, times: int = TIMES, voxels: int = 300) -> AnyArray:
    """Some strong components and noise, (T, V)."""
    rng = np.random.default_rng(seed)
    strengths = np.geomspace(20, 1, 12)[:, None]
    found: AnyArray = rng.normal(size=(times, 12)) @ (strengths * rng.normal(size=(12, voxels)))
    return found + rng.normal(size=(times, voxels)) + 1000 + 50 * rng.normal(size=voxels)


def in_parts(values: AnyArray, *, size: int = 7) -> Iterator[tuple[int, int, AnyArray]]:
    """Cut a run into parts, last ones first."""
    times, voxels = (range(0, n, size * k) for n, k in zip(values.shape, (1, 11), strict=True))
    for t, v in reversed(list(itertools.product(times, voxels))):
        yield t, v, values[t : t + size, v : v + 11 * size]


def best(values: AnyArray, count: int) -> tuple[float, AnyArray]:
    """Error of the best approximation, and the approximation."""
    mean = values.mean(axis=0)
    u, s, vt = np.linalg.svd(values - mean, full_matrices=False)
    error = float(np.sqrt((s[count:] ** 2).sum() / (s**2).sum()))
    return error, (u[:, :count] * s[:count]) @ vt[:count] + mean


@pytest.mark.parametrize("count", [1, 5, 12, TIMES - 1])
def test_all_at_once_is_the_best(count: int) -> None:
    values = run()
    found = principal_components(in_parts(values), values.shape, count, dtype=FLOAT)
    error, expected = best(values, count)
    assert found.error == pytest.approx(error, rel=1e-6, abs=1e-12)
    rebuilt = found.basis.astype(float) @ found.loadings.T + found.offset
    np.testing.assert_allclose(rebuilt, expected, rtol=1e-5)
    np.testing.assert_allclose(found.offset, values.mean(axis=0), rtol=1e-6)
    missed = np.sqrt(((values - expected) ** 2).mean(axis=0))
    np.testing.assert_allclose(found.voxel_error, missed, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(count), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("rows", [20, 25, 37])
def test_step_by_step_is_close_to_the_best(count: int, rows: int) -> None:
    values = run(times=150)
    memory = 2 * rows * values.shape[1] * 8 * 5
    found = principal_components(
        in_parts(values), values.shape, count, dtype=FLOAT, max_memory=memory
    )
    error, _ = best(values, count)
    assert error <= found.error * (1 + 1e-9)
    assert found.error < 1.01 * error
    rebuilt = found.basis.astype(float) @ found.loadings.T + found.offset
    centred = values - values.mean(axis=0)
    missed = np.linalg.norm(values - rebuilt) / np.linalg.norm(centred)
    assert missed == pytest.approx(found.error, rel=1e-3)


def test_deterministic() -> None:
    values = run(times=100)
    memory = 2 * 24 * values.shape[1] * 8 * 5
    first, second = (
        principal_components(
            in_parts(values, size=size), values.shape, 4, dtype=FLOAT, max_memory=memory
        )
        for size in (7, 13)
    )
    np.testing.assert_array_equal(first.basis, second.basis)
    np.testing.assert_array_equal(first.loadings, second.loadings)
    assert first.error == second.error


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more time points are in memory at a time than there is room for."""
    values = run(times=200)
    rows = 30
    memory = 2 * rows * values.shape[1] * 8 * 5
    seen: list[int] = []
    read = decomposition._read

    def noting(stored: Any, part: slice) -> Any:
        seen.append(part.stop - part.start)
        return read(stored, part)

    monkeypatch.setattr(decomposition, "_read", noting)
    principal_components(in_parts(values), values.shape, 4, dtype=FLOAT, max_memory=memory)
    assert max(seen) < rows
    assert sum(seen) == 2 * len(values)
    with pytest.raises(MemoryLimitError, match="raise max_memory"):
        principal_components(in_parts(values), values.shape, 15, dtype=FLOAT, max_memory=memory)


def test_peak_memory() -> None:
    values = run(times=120, voxels=2000)
    memory = 2 * 30 * values.shape[1] * 8 * 5
    principal_components(in_parts(run()), (TIMES, 300), 2, dtype=FLOAT)  # imports
    tracemalloc.start()
    principal_components(in_parts(values), values.shape, 4, dtype=FLOAT, max_memory=memory)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * memory


def test_no_variance() -> None:
    found = principal_components([(0, 0, np.ones((8, 5)))], (8, 5), 2, dtype=FLOAT)
    assert found.error == 0
    np.testing.assert_array_equal(found.offset, np.ones(5))
    np.testing.assert_allclose(found.basis @ found.loadings.T, 0, atol=1e-12)


@pytest.mark.parametrize("count", [0, -1, TIMES, 1.5, "three", None])
def test_impossible_counts(count: Any) -> None:
    values = run()
    with pytest.raises(InvalidInputError, match="n_components"):
        principal_components(in_parts(values), values.shape, count, dtype=FLOAT)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(bad: float) -> None:
    values = run()
    values[23, 5] = bad
    with pytest.raises(InvalidInputError, match="1 numbers in volumes 21 to 27"):
        principal_components(in_parts(values), values.shape, 2, dtype=FLOAT)


# Stored ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image() -> Any:
    """A run of int16 with a slope, and a mask of some voxels."""
    rng = np.random.default_rng(8)
    courses = rng.normal(size=(TIMES, 4)).cumsum(axis=0)
    values = np.einsum("xyzk,tk->xyzt", rng.normal(size=(*GRID, 4)), courses) + 500
    make: Any = nibabel.Nifti1Image
    found = make(values, AFFINE)
    found.header.set_data_dtype(np.int16)
    found.header.set_xyzt_units("mm", "sec")
    found.header.set_zooms((2, 2, 3, 1.25))
    return found


MASK = np.random.default_rng(9).random(GRID) < 0.6


@pytest.mark.parametrize("kind", ["path", "image", "array", "h5", "zarr", "masked"])
def test_every_source(tmp_path: Path, image: Any, kind: str) -> None:
    path = tmp_path / "run.nii.gz"
    nibabel.save(image, path)
    saved: Any = nibabel.load(path)
    full = saved.get_fdata()
    options: dict[str, Any] = {}
    source: Any = {"path": path, "image": saved, "array": full}.get(kind)
    if kind == "array":
        options = {"space": AFFINE, "tr": 1.25}
    elif kind in ("h5", "zarr"):
        fs.convert(path, tmp_path / f"run.{kind}")
        source = fs.open(tmp_path / f"run.{kind}")
    elif kind == "masked":
        source = fs.MaskedNeuroVec.create(tmp_path / "masked.h5", path, mask=MASK)
    lat = fs.LatentNeuroVec.from_pca(
        tmp_path / "lat.h5", source, 4, mask=MASK, voxel_error=True, **options
    )
    assert lat.shape == full.shape
    assert lat.tr == 1.25
    assert lat.dtype == np.float32
    np.testing.assert_allclose(lat.affine, AFFINE)
    np.testing.assert_array_equal(lat.mask, MASK)
    np.testing.assert_allclose(lat, np.where(MASK[..., None], full, 0), rtol=1e-4)
    assert lat.reconstruction_error is not None
    assert 0 < lat.reconstruction_error < 1e-3
    assert lat.voxel_error is not None
    missed = np.sqrt(((np.asarray(lat) - full)[MASK] ** 2).mean(axis=-1))
    order = np.lexsort(np.argwhere(MASK).T)
    np.testing.assert_allclose(lat.voxel_error, missed[order], atol=1e-3)


def test_without_a_mask_and_again(tmp_path: Path, image: Any) -> None:
    full = image.get_fdata()
    for name in ("a.h5", "b.zarr"):
        lat = fs.LatentNeuroVec.from_pca(tmp_path / name, image, 2)
        assert lat.n_voxels == np.prod(GRID)
        error, expected = best(full.reshape(-1, TIMES).T, 2)
        assert lat.reconstruction_error == pytest.approx(error, rel=1e-3)
        np.testing.assert_allclose(lat, expected.T.reshape(full.shape), rtol=1e-3)
        assert lat.voxel_error is None
        fs.transcode(tmp_path / name, tmp_path / f"of-{name}.zarr")
        with fs.open(tmp_path / f"of-{name}.zarr") as again:
            assert again.reconstruction_error == lat.reconstruction_error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": np.ones(GRID), "space": AFFINE}, "four axes"),
        ({"n_components": TIMES}, "n_components"),
        ({"mask": MASK[1:]}, "shape"),
        ({"mask": MASK * 0}, "no voxel"),
        ({"source": np.ones((*GRID, 5)) * 1j, "space": AFFINE}, "real"),
        ({"source": np.full((*GRID, 5), np.nan), "space": AFFINE}, "not finite"),
        ({"codec": "magic"}, "magic"),
    ],
)
def test_bad_input_leaves_nothing(
    tmp_path: Path, image: Any, changes: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {"source": image, "n_components": 2, "mask": MASK} | changes
    with pytest.raises(InvalidInputError, match=message):
        fs.LatentNeuroVec.from_pca(tmp_path / "lat.h5", **options)
    assert list(tmp_path.iterdir()) == []


def test_real_run(tmp_path: Path, shared_data: Path) -> None:
    """Steps in little memory lose next to nothing on real data."""
    path = next(
        p
        for p in sorted((shared_data / "data" / "real").rglob("*bold*.nii*"))
        if len(nibabel.load(p).shape) == 4  # type: ignore[attr-defined]
    )
    loaded: Any = nibabel.load(path)
    full = np.asarray(loaded.dataobj[..., :60], np.float64)
    mask = full.mean(axis=-1) > np.percentile(full.mean(axis=-1), 90)
    values = full[mask].T
    lat = fs.LatentNeuroVec.from_pca(
        tmp_path / "lat.h5",
        full,
        6,
        space=loaded.affine,
        mask=mask,
        max_memory=2 * 25 * values.shape[1] * 8 * 5,
    )
    error, _ = best(values, 6)
    assert lat.reconstruction_error is not None
    assert error * (1 - 1e-6) <= lat.reconstruction_error <= 1.02 * error
