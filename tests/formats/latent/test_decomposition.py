"""Principal components: the best ones, in bounded memory."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from sklearn.decomposition import PCA

import fmristore as fs
from fmristore.formats.latent.pca import principal_components
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


@pytest.mark.parametrize("shape", [(40, 300), (90, 30), (25, 25)])
def test_as_scikit_learn(shape: tuple[int, int]) -> None:
    values = run(times=shape[0], voxels=shape[1])
    oracle = PCA(6, svd_solver="full").fit(values)
    found = principal_components(in_parts(values), shape, 6, dtype=FLOAT)
    signs = np.sign((found.loadings * oracle.components_.T).sum(axis=0))
    np.testing.assert_allclose(found.loadings * signs, oracle.components_.T, atol=1e-6)
    np.testing.assert_allclose(found.basis * signs, oracle.transform(values), atol=1e-3)
    largest = np.abs(found.loadings).argmax(axis=0)
    assert (found.loadings[largest, range(6)] > 0).all()


@pytest.mark.parametrize("shape", [(50, 3000), (3000, 50)])
def test_as_good_in_little_memory(shape: tuple[int, int]) -> None:
    """What does not fit passes through a file, block by block, and comes out the same."""
    values = run(times=shape[0], voxels=shape[1])
    memory = 600_000
    assert memory < values.nbytes
    found = principal_components(in_parts(values), shape, 2, dtype=FLOAT, max_memory=memory)
    whole = principal_components(in_parts(values), shape, 2, dtype=FLOAT)
    np.testing.assert_allclose(found.loadings, whole.loadings, atol=1e-6)
    np.testing.assert_allclose(found.basis, whole.basis, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.voxel_error, whole.voxel_error, rtol=1e-5)
    assert found.error == pytest.approx(whole.error, rel=1e-9)


@pytest.mark.parametrize("shape", [(100, 300), (300, 40)])
def test_deterministic(shape: tuple[int, int]) -> None:
    values = run(times=shape[0], voxels=shape[1])
    first, second = (
        principal_components(in_parts(values, size=size), values.shape, 4, dtype=FLOAT)
        for size in (7, 13)
    )
    np.testing.assert_array_equal(first.basis, second.basis)
    np.testing.assert_array_equal(first.loadings, second.loadings)
    assert first.error == second.error


@pytest.mark.once
@pytest.mark.parametrize("shape", [(120, 8000), (8000, 120)])
def test_peak_memory(shape: tuple[int, int]) -> None:
    values = run(times=shape[0], voxels=shape[1])
    memory = 4_000_000
    assert memory < values.nbytes
    parts = list(in_parts(values))
    tracemalloc.start()
    principal_components(parts, shape, 4, dtype=FLOAT, max_memory=memory)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < memory


@pytest.mark.parametrize(("shape", "count"), [((500, 600), 3), ((40, 9000), 30)])
def test_too_little_memory(shape: tuple[int, int], count: int) -> None:
    with pytest.raises(MemoryLimitError, match="raise max_memory"):
        principal_components([], shape, count, dtype=FLOAT, max_memory=2_000_000)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
def test_fewer_directions_than_components(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(shape[0], 2)) @ rng.normal(size=(2, shape[1]))
    found = principal_components([(0, 0, values)], shape, 6, dtype=FLOAT)
    np.testing.assert_allclose(found.loadings.T @ found.loadings, np.eye(6), atol=1e-6)
    rebuilt = found.basis @ found.loadings.T + found.offset
    np.testing.assert_allclose(rebuilt, values, atol=1e-5)
    np.testing.assert_allclose(found.basis[:, 2:], 0, atol=1e-5)
    assert found.error == pytest.approx(0, abs=1e-7)


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
    with pytest.raises(InvalidInputError, match="1 values in volumes 21 to 27"):
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


@pytest.mark.parametrize("kind", ["path", "image", "array", "h5", "zarr", "stored path", "masked"])
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
    elif kind == "stored path":
        fs.convert(path, source := tmp_path / "run.h5")
    elif kind == "masked":
        source = fs.MaskedNeuroVec.create(path, tmp_path / "masked.h5", mask=MASK)
    lat = fs.LatentNeuroVec.from_pca(
        source, tmp_path / "lat.h5", 4, mask=MASK, voxel_error=True, **options
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
        lat = fs.LatentNeuroVec.from_pca(image, tmp_path / name, 2)
        assert lat.n_voxels == np.prod(GRID)
        error, expected = best(full.reshape(-1, TIMES).T, 2)
        assert lat.reconstruction_error == pytest.approx(error, rel=1e-3)
        np.testing.assert_allclose(lat, expected.T.reshape(full.shape), rtol=1e-3)
        assert lat.voxel_error is None
        fs.transcode(tmp_path / name, tmp_path / f"of-{name}.zarr")
        with fs.open(tmp_path / f"of-{name}.zarr") as again:
            assert again.reconstruction_error == lat.reconstruction_error


@pytest.mark.parametrize("given", ["object", "path"])
def test_voxels_of_a_masked_run(tmp_path: Path, image: Any, given: str) -> None:
    with fs.MaskedNeuroVec.create(image, tmp_path / "masked.h5", mask=MASK) as masked:
        source = masked if given == "object" else masked.url
        lat = fs.LatentNeuroVec.from_pca(source, tmp_path / "lat.h5", 3)
        np.testing.assert_array_equal(lat.mask, MASK)
        np.testing.assert_array_equal(lat.voxels, masked.voxels)


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
        fs.LatentNeuroVec.from_pca(url=tmp_path / "lat.h5", **options)
    assert list(tmp_path.iterdir()) == []


def test_real_run(tmp_path: Path, shared_data: Path) -> None:
    """Little memory loses nothing on real data."""
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
        full,
        tmp_path / "lat.h5",
        6,
        space=loaded.affine,
        mask=mask,
        max_memory=1 << 20,
    )
    error, _ = best(values, 6)
    assert lat.reconstruction_error == pytest.approx(error, rel=1e-6)
