"""From stored values to the scaled values."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore.model.scaling import Scaling, make_scaling
from fmristore_stores.errors import InvalidInputError, LossyError
from tests.images import SHAPE, STORES, Scales, make_values, nibabel, store, write_nifti

FINITE = st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6)


class TestTypes:
    @pytest.mark.parametrize(
        ("stored", "scaled"),
        [
            ("u1", "f4"),
            ("i1", "f4"),
            ("u2", "f4"),
            ("i2", "f4"),
            ("i4", "f8"),
            ("u8", "f8"),
            ("f4", "f4"),
            ("f8", "f8"),
            ("c8", "c8"),
            ("c16", "c16"),
        ],
    )
    def test_type_of_scaled_numbers(self, stored: str, scaled: str) -> None:
        scaling = Scaling(2.0, 1.0)
        assert scaling.dtype(np.dtype(stored)) == np.dtype(scaled)
        assert scaling.apply(np.ones(3, stored)).dtype == np.dtype(scaled)

    @pytest.mark.parametrize("slope", [1e300, 1e-300, 1e38])
    @pytest.mark.parametrize("per_volume", [False, True])
    def test_factors_beyond_float32(self, slope: float, per_volume: bool) -> None:
        factors = (np.full(3, slope), np.zeros(3)) if per_volume else (slope, 0.0)
        scaling = make_scaling(*factors, volumes=3)
        assert scaling is not None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = scaling.apply(np.array([-2, 0, 30000], "i2"))
        assert found.dtype == np.float64
        assert_array_equal(found, np.array([-2, 0, 30000.0]) * slope)

    @given(slope=FINITE, inter=FINITE, dtype=st.sampled_from(["f4", "f8", "i8", "c16"]))
    def test_types_on_demand(self, slope: float, inter: float, dtype: str) -> None:
        stored = np.array([-32768, -1, 0, 1, 32767], "i2")
        found = Scaling(slope, inter).apply(stored, dtype=dtype)
        assert found.dtype == np.dtype(dtype)
        exact = stored.astype("f8") * slope + inter
        scale = np.abs(stored * slope).max() + abs(inter)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1 + 1e-6 * scale)

    def test_float64_on_demand_is_computed_in_float64(self) -> None:
        stored = np.array([32767], "i2")
        found = Scaling(1 / 3, 1e-9).apply(stored, dtype="f8")
        assert found[0] == 32767 * (1 / 3) + 1e-9

    def test_numbers_given_are_not_changed(self) -> None:
        stored = np.ones(3, "f4")
        Scaling(2.0, 1.0).apply(stored)
        assert_array_equal(stored, 1)

    def test_nan_stays_and_no_intercept_adds_nothing(self) -> None:
        found = Scaling(2.0, 0.0).apply(np.array([np.nan, -0.0, np.inf], "f4"))
        assert_array_equal(found, [np.nan, -0.0, np.inf])
        assert np.signbit(found[1])

    def test_factors_are_looked_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scaling = Scaling(np.full(9, 0.5), np.zeros(9))
        monkeypatch.delattr(np, "max")
        assert scaling.apply(np.ones((2, 9), "i2")).dtype == np.dtype("f4")


class TestChecking:
    def test_no_scaling(self) -> None:
        assert make_scaling(None, None, volumes=3) is None
        assert make_scaling(None, 0.0, volumes=3) is None
        assert make_scaling(1.0, 0.0, volumes=3) is None
        assert make_scaling(np.ones(3), np.zeros(3), volumes=3) is not None

    def test_one_or_one_for_each_volume(self) -> None:
        one = make_scaling(2, None, volumes=3)
        assert one is not None
        assert (one.slope, one.inter, one.per_volume) == (2.0, 0.0, False)
        each = make_scaling([1, 2, 3], 5, volumes=3)
        assert each is not None
        assert each.per_volume
        assert_array_equal(each.inter, [5, 5, 5])
        volume = make_scaling(np.float32(2), np.array(1), volumes=None)
        assert volume is not None
        assert not volume.per_volume

    @pytest.mark.parametrize(
        ("slope", "inter", "volumes"),
        [
            (None, 1.0, 3),
            (0.0, 1.0, 3),
            (float("nan"), 0, 3),
            (1.0, float("inf"), 3),
            ([1, 2], 0, 3),
            ([1, 0, 2], 0, 3),
            ([1, 2, 3], 0, None),
            ([[1, 2, 3]], 0, 3),
            (1.0, [1, 2], 3),
            ("much", 0, 3),
            (1.0, "much", 3),
            ([1, [2, 3]], 0, 2),
            (1j, 0, 3),
        ],
    )
    def test_refused(self, slope: Any, inter: Any, volumes: int | None) -> None:
        with pytest.raises(InvalidInputError):
            make_scaling(slope, inter, volumes=volumes)


class TestStored:
    @pytest.mark.parametrize("kind", STORES)
    @pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
    def test_as_nibabel_scales(self, tmp_path: Path, kind: str, dtype: str) -> None:
        values = make_values(dtype=dtype, nan=False)
        source = write_nifti(tmp_path / "run.nii", values, scales=Scales(0.0125, 1000.0))
        fs.convert(source, tmp_path / f"run.{kind}")
        with fs.open(tmp_path / f"run.{kind}") as image:
            wanted = np.asanyarray(nibabel.load(source).dataobj)
            assert image.slope == pytest.approx(0.0125)
            assert image.inter == 1000.0
            tolerance = 1e-6 if image.dtype == np.float32 else 1e-12
            np.testing.assert_allclose(np.asarray(image), wanted, rtol=tolerance, atol=1e-3)
            np.testing.assert_allclose(np.asarray(image, "f8"), wanted, rtol=1e-12)
            assert_array_equal(image.raw[...], values)

    def test_slope_of_zero_or_nan_means_no_scaling(self, tmp_path: Path) -> None:
        for number, slope in enumerate((0.0, float("nan"))):
            source = write_nifti(
                tmp_path / f"{number}.nii", make_values(), scales=Scales(slope, 0.0)
            )
            fs.convert(source, tmp_path / f"{number}.h5")
            with fs.open(tmp_path / f"{number}.h5") as image:
                assert image.slope is None
                assert image.dtype == np.int16

    @pytest.mark.parametrize("dtype", ["i2", "i8"])
    def test_factors_that_change_nothing_keep_the_type(self, tmp_path: Path, dtype: str) -> None:
        values = make_values(dtype=dtype)
        source = write_nifti(tmp_path / "a.nii", values, scales=Scales(1.0, 0.0))
        fs.convert(source, tmp_path / "a.h5")
        with fs.open(tmp_path / "a.h5") as image:
            assert image.slope is None
            assert image.dtype == values.dtype
            assert_array_equal(np.asarray(image), values)
            image.to_nifti(tmp_path / "back.nii")
        assert (tmp_path / "back.nii").read_bytes() == source.read_bytes()

    def test_nifti_cannot_hold_a_slope_for_each_volume(self, tmp_path: Path) -> None:
        with (
            store(tmp_path / "a.h5", make_values(), slope=np.arange(1, 10)) as image,
            pytest.raises(LossyError, match="one slope"),
        ):
            image.to_nifti(tmp_path / "a.nii")
        assert not (tmp_path / "a.nii").exists()

    def test_a_volume_has_one_slope(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError):
            store(tmp_path / "a.h5", make_values(SHAPE[:3]), slope=[1.0, 2.0])
        assert list(tmp_path.iterdir()) == []
