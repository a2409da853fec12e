"""Memory that bytes are read into and copied to."""

from __future__ import annotations

import numpy as np
import pytest

from fmristore_stores.io.memory import aligned, copy_values
from fmristore_stores.protocol import AnyArray


@pytest.mark.parametrize("shape", [40_000, (200, 1000), [7, 300, 33]])
@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f8", "c16", [("R", "u1"), ("G", "u1")]])
def test_large_arrays_begin_with_a_cache_line(
    shape: int | tuple[int, ...] | list[int], dtype: str
) -> None:
    for _ in range(5):
        found = aligned(shape, dtype)
        assert found.__array_interface__["data"][0] % 64 == 0
        assert found.shape == np.empty(shape).shape
        assert found.dtype == np.dtype(dtype)
        assert found.flags.c_contiguous
        assert found.flags.writeable


@pytest.mark.parametrize("shape", [0, (), (3, 0, 5), 100, (4, 5)])
def test_small_arrays_are_those_of_numpy(shape: int | tuple[int, ...]) -> None:
    found = aligned(shape, np.float32)
    assert found.shape == np.empty(shape).shape
    assert found.base is None


def test_too_much() -> None:
    with pytest.raises((MemoryError, ValueError)):
        aligned((1 << 40, 1 << 20))


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<f4", "c16", "S3", [("R", "u1"), ("G", "u1")]])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
@pytest.mark.parametrize("length", [1, 2, 7, 16, 300])
@pytest.mark.parametrize("step", [1, 2])
def test_values_are_copied_as_numpy_does(
    dtype: str, axes: tuple[int, ...], length: int, step: int
) -> None:
    back = np.argsort(axes).tolist()
    rng = np.random.default_rng(length)

    def memory(*lengths: int) -> AnyArray:
        nbytes = int(np.prod(lengths)) * np.dtype(dtype).itemsize
        values = rng.integers(1, 100, nbytes, np.uint8).view(dtype)
        return values.reshape(lengths).transpose(back)

    chunk = memory(40, 30, step * length + 3)
    source = tuple(
        [(slice(1, 39), slice(2, 29), slice(3, 3 + step * length, step))[a] for a in back]
    )
    place = tuple([(slice(3, 41), slice(0, 27), slice(5, 5 + length))[a] for a in back])
    for made in (memory(50, 33, length + 9), memory(length + 9, 50, 33).transpose(1, 2, 0)):
        wanted = made.copy()
        wanted[place] = chunk[source]
        copy_values(made, place, chunk[source], axes)
        np.testing.assert_array_equal(made, wanted)


def test_a_single_value_is_copied() -> None:
    made = np.zeros((), np.int16)
    copy_values(made, (), np.array(7, np.int16), ())
    assert made == 7
