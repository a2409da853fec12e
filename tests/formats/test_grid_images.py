"""Every format that is indexed as an image goes to NIfTI, nibabel and every other format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import AlreadyExistsError, InvalidInputError

AFFINE = np.array([[2.0, 0.1, 0, -20], [0, 2.5, 0.2, -30], [0.1, 0, 3.0, 5], [0, 0, 0, 1]])
SHAPE = (6, 7, 5, 12)
RNG = np.random.default_rng(8)
STORED = RNG.integers(-300, 300, SHAPE).astype(np.int16)
MASK = RNG.random(SHAPE[:3]) < 0.5
LABELS = np.where(MASK, RNG.integers(1, 5, SHAPE[:3]), 0)
SPACE = fs.NeuroSpace(spatial_shape=SHAPE[:3], affine=AFFINE, time_points=SHAPE[3], tr=1.5)


def masked(url: Path, **options: Any) -> Any:
    return fs.MaskedNeuroVec.create(STORED, url, mask=MASK, space=SPACE, **options)


def masked_nan(url: Path, **options: Any) -> Any:
    values = STORED.astype(np.float32)
    return fs.MaskedNeuroVec.create(
        values, url, mask=MASK, space=SPACE, fill=float("nan"), **options
    )


def parcellated(url: Path, **options: Any) -> Any:
    return fs.ParcellatedScan.create(STORED, url, parcellation=LABELS, space=SPACE, **options)


def sequence(url: Path, **options: Any) -> Any:
    runs = {"a": STORED[..., :5], "b": STORED[..., 5:]}
    return fs.NeuroVecSeq.create(runs, url, space=SPACE.without_time(), tr=1.5, **options)


def mixed_sequence(url: Path, **options: Any) -> Any:
    del options
    folder = url.parent
    for name, part, slope in (("a", STORED[..., :5], 0.5), ("b", STORED[..., 5:], 0.25)):
        run = fs.NeuroVec.create(
            part, folder / f"part-{name}.h5", space=AFFINE, tr=1.5, slope=slope, inter=1.0
        )
        run.to_nifti(folder / f"{name}.nii")
        run.close()
    return fs.NeuroVecSeq.create({name: folder / f"{name}.nii" for name in "ab"}, url)


def latent(url: Path, **options: Any) -> Any:
    rows = int(MASK.sum())
    return fs.LatentNeuroVec.create(
        RNG.normal(size=(SHAPE[3], 3)).astype(np.float32),
        RNG.normal(size=(rows, 3)).astype(np.float32),
        url,
        mask=MASK,
        space=SPACE,
        **options,
    )


def dense(url: Path, **options: Any) -> Any:
    return fs.NeuroVec.create(STORED, url, space=SPACE, slope=0.5, inter=-2.0, **options)


def scaled_masked(url: Path, **options: Any) -> Any:
    return masked(url, slope=0.5, inter=-2.0, **options)


def scaled_parcellated(url: Path, **options: Any) -> Any:
    return parcellated(url, slope=0.1, inter=3.0, **options)


MAKERS: list[Callable[..., Any]] = [
    dense,
    latent,
    masked,
    masked_nan,
    mixed_sequence,
    parcellated,
    scaled_masked,
    scaled_parcellated,
    sequence,
]
KINDS = ["h5", "ome.zarr"]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    maker: Callable[..., Any] = request.param
    return maker


@pytest.mark.parametrize("kind", KINDS)
def test_to_nifti(tmp_path: Path, make: Callable[..., Any], kind: str) -> None:
    with make(tmp_path / f"image.{kind}") as image:
        numbers = np.asarray(image)
        told: list[tuple[int, int]] = []
        image.to_nifti(tmp_path / "back.nii.gz", progress=lambda *step: told.append(step))
        assert told[-1][0] == told[-1][1]
        back: Any = nibabel.load(tmp_path / "back.nii.gz")
        np.testing.assert_allclose(back.get_fdata(), numbers, rtol=1e-6)
        np.testing.assert_allclose(back.affine, image.affine, atol=1e-5)
        assert back.header.get_zooms()[3] == np.float32(1.5)
        with pytest.raises(AlreadyExistsError):
            image.to_nifti(tmp_path / "back.nii.gz")
        image.to_nifti(tmp_path / "back.nii.gz", overwrite=True, max_memory=1 << 16)
        again: Any = nibabel.load(tmp_path / "back.nii.gz")
        np.testing.assert_allclose(again.get_fdata(), back.get_fdata(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_into_a_dense_store(tmp_path: Path, make: Callable[..., Any], kind: str) -> None:
    """As a method, and as the source of another image."""
    with make(tmp_path / f"image.{kind}") as image:
        numbers = np.asarray(image)
        with fs.NeuroVec.create(image, tmp_path / f"a.{kind}") as run:
            np.testing.assert_array_equal(np.asarray(run), numbers)
            assert run.space.tr == 1.5
            np.testing.assert_allclose(run.affine, AFFINE)
        if make is not dense:
            with image.to_dense(tmp_path / f"b.{kind}", access="volume") as run:
                np.testing.assert_array_equal(np.asarray(run), numbers)
                assert run.access == "volume"


def test_stored_numbers_are_kept_where_possible(tmp_path: Path) -> None:
    for maker, kept in (
        (scaled_masked, True),  # stored 4 means 0
        (scaled_parcellated, True),
        (sequence, True),
        (mixed_sequence, False),
    ):
        with (
            maker(tmp_path / f"{maker.__name__}.h5") as image,
            fs.NeuroVec.create(image, tmp_path / f"{maker.__name__}-dense.h5") as run,
        ):
            assert (run.stored_dtype == np.int16) is kept, maker


def test_lazy_nibabel_image(tmp_path: Path, make: Callable[..., Any]) -> None:
    with make(tmp_path / "image.h5") as image:
        lazy = image.to_nibabel()
        assert lazy.shape == SHAPE
        np.testing.assert_array_equal(np.asarray(lazy.dataobj[1:3, ..., 4]), image[1:3, ..., 4])
        np.testing.assert_allclose(lazy.affine, AFFINE)


def test_every_image_is_a_source_of_every_format(tmp_path: Path, make: Callable[..., Any]) -> None:
    with make(tmp_path / "image.h5") as image:
        inside = np.asarray(image)[MASK]
        with fs.MaskedNeuroVec.create(image, tmp_path / "m.zarr", mask=MASK) as run:
            np.testing.assert_array_equal(np.asarray(run)[MASK], inside)
        with fs.ParcellatedScan.create(image, tmp_path / "p.zarr", parcellation=LABELS) as scan:
            np.testing.assert_array_equal(np.asarray(scan)[MASK], inside)
        with fs.NeuroVecSeq.create({"x": image, "y": image}, tmp_path / "s.zarr") as runs:
            np.testing.assert_array_equal(runs["y"][...], np.asarray(image))
        with fs.parcellate(image, LABELS, tmp_path / "sum.zarr") as summary:
            expected = [np.asarray(image)[k == LABELS].mean(0, dtype=float) for k in range(1, 5)]
            np.testing.assert_allclose(summary.to_numpy(), np.transpose(expected), rtol=1e-4)


def test_maps_as_one_image(tmp_path: Path) -> None:
    maps = {f"map {k}": STORED[..., k] for k in range(3)}
    with fs.LabeledVolumeSet.create(
        maps, tmp_path / "maps.h5", mask=MASK, space=SPACE.without_time()
    ) as stored:
        stored.to_nifti(tmp_path / "maps.nii.gz")
        back: Any = nibabel.load(tmp_path / "maps.nii.gz")
        np.testing.assert_array_equal(
            back.get_fdata(), np.where(MASK[..., None], STORED[..., :3], 0)
        )


def test_an_image_has_its_own_space(tmp_path: Path) -> None:
    with masked(tmp_path / "image.h5") as image, pytest.raises(InvalidInputError, match="its own"):
        fs.NeuroVec.create(image, tmp_path / "new.h5", space=SPACE)
    assert not (tmp_path / "new.h5").exists()
