"""Time series of one voxel, many, or a mask: numpy's answer, each chunk once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore.sources.masks import mask_array, mask_voxels
from fmristore_stores.errors import (
    CorruptDataError,
    InvalidInputError,
    NotFoundError,
    SelectionError,
    UnknownFormatError,
)
from fmristore_stores.protocol import AnyArray
from tests.images import (
    AFFINE,
    LAYOUTS,
    RAW,
    SCALED,
    SHAPE,
    STORES,
    make_values,
    nibabel,
    store,
    write_nifti,
)

Pair = tuple[Any, AnyArray]
X, Y, Z, T = SHAPE


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pair]]:
    """The same run in every store and layout, scaled and not, with the scaled values."""
    folder = tmp_path_factory.mktemp("runs")
    values = make_values()
    with ExitStack() as stack:
        yield [
            (
                stack.enter_context(
                    store(folder / f"{n}.{kind}", values, scales=scales, access=access)
                ),
                scales.apply(values),
            )
            for n, (kind, access, scales) in enumerate(
                itertools.product(STORES, LAYOUTS, (RAW, SCALED))
            )
        ]


@pytest.fixture(scope="module")
def run(runs: list[Pair]) -> Pair:
    return runs[1]


def some_mask() -> AnyArray:
    return np.less(np.random.default_rng(0).random(SHAPE[:3]), 0.2)


def masked(values: AnyArray, mask: AnyArray) -> AnyArray:
    """(T, n), voxels in numpy's (C) order."""
    found: AnyArray = values[mask != 0].T
    return found


class TestVoxels:
    def test_one_voxel(self, runs: list[Pair]) -> None:
        for image, values in runs:
            for voxel in ((3, 2, 1), [3, 2, 1], np.array([3, 2, 1], "u1"), (-1, -2, -3)):
                found = image.series(voxel)
                assert found.shape == (T,)
                assert found.dtype == image.dtype
                assert_array_equal(found, values[tuple(voxel)])

    def test_many_voxels(self, runs: list[Pair]) -> None:
        voxels = [(3, 2, 1), (0, 0, 0), (3, 2, 1), (-1, -1, -1), (6, 0, 4), (-7, -6, -5)]
        for image, values in runs:
            found = image.series(voxels)
            assert_array_equal(found, np.stack([values[v] for v in voxels], axis=1))

    def test_a_list_of_one_voxel_keeps_its_axis(self, run: Pair) -> None:
        image, values = run
        assert_array_equal(image.series([(1, 2, 3)]), values[1, 2, 3][:, None])

    @pytest.mark.parametrize("empty", [[], (), np.empty((0, 3), int)])
    def test_no_voxels(self, runs: list[Pair], empty: Any) -> None:
        for image, _ in runs:
            found = image.series(empty)
            assert found.shape == (T, 0)
            assert found.dtype == image.dtype

    @settings(max_examples=40)
    @given(data=st.data())
    def test_any_voxels_and_times(self, runs: list[Pair], data: st.DataObject) -> None:
        image, values = data.draw(st.sampled_from(runs))
        voxel = st.tuples(*(st.integers(-n, n - 1) for n in SHAPE[:3]))
        voxels = data.draw(st.lists(voxel, min_size=1, max_size=30))
        times = data.draw(st.slices(T))
        expected = np.stack([values[v][times] for v in voxels], axis=1)
        assert_array_equal(image.series(voxels, times=times), expected)

    @pytest.mark.parametrize(
        "times",
        [
            slice(2, 7, 3),
            slice(None, None, -1),
            slice(-3, None),
            slice(7, 1, -2),
            slice(4, 4),
            slice(-100, 100),
        ],
    )
    def test_part_of_the_run(self, runs: list[Pair], times: slice) -> None:
        for image, values in runs:
            assert_array_equal(image.series((3, 2, 1), times=times), values[3, 2, 1][times])
            found = image.series([(3, 2, 1), (0, 0, 0)], times=times)
            assert_array_equal(found, values[[3, 0], [2, 0], [1, 0]].T[times])

    def test_stored_numbers_and_types(self, run: Pair) -> None:
        image, values = run
        stored = make_values()
        found = image.series((3, 2, 1), raw=True)
        assert found.dtype == np.int16
        assert_array_equal(found, stored[3, 2, 1])
        assert image.series((3, 2, 1), raw=True, dtype="i8").dtype == np.int64
        found = image.series([(3, 2, 1)], dtype="f8")
        assert found.dtype == np.float64
        np.testing.assert_allclose(found[:, 0], values[3, 2, 1], rtol=1e-6)

    @pytest.mark.parametrize(
        "voxels",
        [
            (X, 0, 0),
            (0, -Y - 1, 0),
            [(0, 0, 0), (0, 0, Z)],
            np.array([[2**64 - 1, 0, 0]], np.uint64),
            (1.0, 2.0, 3.0),
            [(True, False, True)],
            (1, 2),
            (1, 2, 3, 4),
            [(1, 2, 3), (1, 2)],
            np.zeros((2, 2, 3), int),
            "abc",
            1,
        ],
    )
    def test_refused(self, run: Pair, voxels: Any) -> None:
        with pytest.raises(SelectionError):
            run[0].series(voxels)

    @pytest.mark.parametrize("times", [3, [0.5], "x", (slice(None),), slice(0, 4, 0), [True]])
    def test_times_must_be_a_part_of_the_run(self, run: Pair, times: Any) -> None:
        with pytest.raises(SelectionError):
            run[0].series((1, 2, 3), times=times)

    def test_voxels_or_mask_but_not_both(self, run: Pair) -> None:
        for arguments in ({}, {"voxels": (1, 2, 3), "mask": some_mask()}):
            with pytest.raises(InvalidInputError, match="either voxels or mask"):
                run[0].series(**arguments)

    def test_the_message_names_the_voxel(self, run: Pair) -> None:
        with pytest.raises(SelectionError, match=r"voxel \(7, 1, 2\) .* \(7, 6, 5\)"):
            run[0].series([(0, 0, 0), (7, 1, 2)])


class TestMasks:
    def test_every_kind_of_mask(self, runs: list[Pair], tmp_path: Path) -> None:
        mask = some_mask()
        path = write_nifti(tmp_path / "mask.nii.gz", mask.astype("u1"))
        labels = np.where(mask, 7, 0).astype("i2")
        with store(tmp_path / "mask.h5", mask) as volume:
            masks = {
                "bool": mask,
                "list": mask.tolist(),
                "labels": labels,
                "float": mask * 0.5,
                "negative": mask * -1,
                "NaN is out": np.where(mask, 1.0, np.nan),
                "infinity is in": np.where(mask, np.inf, 0.0),
                "one volume of a run": mask[..., None],
                "nibabel": nibabel.Nifti1Image(mask.astype("u1"), AFFINE),
                "loaded by nibabel": nibabel.load(path),
                "path": path,
                "text": str(path),
                "stored volume": volume,
            }
            for image, values in runs:
                for name, given_mask in masks.items():
                    found = image.series(mask=given_mask)
                    assert_array_equal(found, masked(values, mask), err_msg=name)

    def test_the_whole_image(self, runs: list[Pair]) -> None:
        whole = np.ones(SHAPE[:3])
        for image, values in runs:
            assert_array_equal(image.series(mask=whole), values.reshape(-1, T).T)

    def test_one_voxel_keeps_its_axis(self, run: Pair) -> None:
        image, values = run
        mask = np.zeros(SHAPE[:3])
        mask[1, 2, 3] = 1
        assert_array_equal(image.series(mask=mask), values[1, 2, 3][:, None])

    def test_part_of_the_run(self, run: Pair) -> None:
        image, values = run
        found = image.series(mask=some_mask(), times=slice(None, 2, -2))
        assert_array_equal(found, masked(values, some_mask())[:2:-2])

    def test_a_scaled_mask_means_its_scaled_numbers(self, run: Pair, tmp_path: Path) -> None:
        image, values = run
        stored = np.where(some_mask(), 3, 2).astype("i2")
        path = write_nifti(tmp_path / "mask.nii", stored, scales=type(SCALED)(1.0, -2.0))
        for given_mask in (path, nibabel.load(path)):
            assert_array_equal(image.series(mask=given_mask), masked(values, some_mask()))

    def test_voxels_of_a_mask_are_in_the_order_of_numpy(self, run: Pair) -> None:
        voxels = mask_voxels(some_mask(), run[0].space)
        numbers = voxels @ [Y * Z, Z, 1]
        assert (np.diff(numbers) > 0).all()
        found = np.zeros(SHAPE[:3], bool)
        found[tuple(voxels.T)] = True
        assert_array_equal(found, mask_array(some_mask(), run[0].space))

    @pytest.mark.parametrize(
        ("mask", "text"),
        [
            (np.zeros(SHAPE[:3]), "no voxel"),
            (np.full(SHAPE[:3], np.nan), "no voxel"),
            (np.ones((X, Y, Z + 1)), "shape"),
            (np.ones(SHAPE), "shape"),
            (np.ones(SHAPE[2::-1]), "shape"),
            (1, "shape"),
            (np.empty((0, Y, Z)), "shape"),
            (np.full(SHAPE[:3], "x"), "real numbers"),
            (np.ones(SHAPE[:3], complex), "real numbers"),
            ([[1, 2], [3]], "not an array"),
        ],
    )
    def test_refused(self, run: Pair, mask: Any, text: str) -> None:
        with pytest.raises(InvalidInputError, match=text):
            run[0].series(mask=mask)

    def test_a_mask_on_another_grid_is_refused(self, run: Pair, tmp_path: Path) -> None:
        image, values = run
        mask = some_mask()
        shifted = AFFINE.copy()
        shifted[0, 3] += 1.5
        path = write_nifti(tmp_path / "mask.nii.gz", mask.astype("u1"), affine=shifted)
        with store(tmp_path / "mask.h5", mask, space=shifted) as volume:
            for given_mask in (path, nibabel.load(path), volume):
                with pytest.raises(InvalidInputError, match=r"1\.5 mm apart") as caught:
                    image.series(mask=given_mask)
                assert "mask" in str(caught.value.url)
        assert_array_equal(image.series(mask=mask), masked(values, mask))

    def test_a_grid_that_differs_by_rounding_is_accepted(self, run: Pair, tmp_path: Path) -> None:
        image, values = run
        nearly = AFFINE + np.array([[0, 0, 0, 1e-4]] * 3 + [[0] * 4])
        path = write_nifti(tmp_path / "m.nii", some_mask().astype("u1"), affine=nearly)
        assert_array_equal(image.series(mask=path), masked(values, some_mask()))

    def test_a_run_of_masks_is_refused(self, run: Pair, tmp_path: Path) -> None:
        many = np.ones((X, Y, Z, 2), "u1")
        path = write_nifti(tmp_path / "many.nii.gz", many)
        for mask in (path, nibabel.load(path)):
            with pytest.raises(InvalidInputError, match="shape"):
                run[0].series(mask=mask)

    def test_colours_are_no_mask(self, run: Pair, tmp_path: Path) -> None:
        colours = make_values(SHAPE[:3], [(n, "u1") for n in "RGB"])
        path = write_nifti(tmp_path / "rgb.nii", colours)
        for mask in (path, nibabel.load(path)):
            with pytest.raises(InvalidInputError, match="mask must be"):
                run[0].series(mask=mask)

    def test_files_that_are_no_masks(self, run: Pair, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError, match=r"none\.nii"):
            run[0].series(mask=tmp_path / "none.nii")
        (tmp_path / "text.nii").write_text("no image at all")
        with pytest.raises(UnknownFormatError):
            run[0].series(mask=tmp_path / "text.nii")
        path = write_nifti(tmp_path / "mask.nii.gz", some_mask().astype("u1"))
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(CorruptDataError):
            run[0].series(mask=path)


@pytest.mark.parametrize("kind", STORES)
def test_per_volume_scaling(tmp_path: Path, kind: str) -> None:
    values = make_values()
    slopes, inters = np.linspace(0.5, 2, T), np.arange(T) - 4.0
    expected = values.astype("f4") * slopes.astype("f4") + inters.astype("f4")
    url = tmp_path / f"run.{kind}"
    store(url, values, slope=slopes, inter=inters).close()
    with fs.open(url) as image:
        assert_array_equal(image.slope, slopes)
        for index in (Ellipsis, (3, 2, 1), (Ellipsis, slice(None, None, -2)), (0, 0, 0, 5)):
            assert_array_equal(image[index], expected[index])
            assert_array_equal(image.raw[index], values[index])
        found = image.series([(3, 2, 1), (0, 1, 2)], times=slice(7, None, -3))
        assert_array_equal(found, expected[[3, 0], [2, 1], [1, 2]].T[7::-3])
        assert_array_equal(image.series((3, 2, 1), times=slice(2, 5)), expected[3, 2, 1, 2:5])


@pytest.mark.parametrize("kind", STORES)
def test_series_of_colours(tmp_path: Path, kind: str) -> None:
    values = make_values(SHAPE, [(n, "u1") for n in "RGB"])
    with store(tmp_path / f"run.{kind}", values) as image:
        found = image.series([(3, 2, 1), (0, 1, 2)])
        assert_array_equal(found, values[[3, 0], [2, 1], [1, 2]].T)
        assert_array_equal(image.series((3, 2, 1)), values[3, 2, 1])
