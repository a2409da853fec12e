"""Memory that the bytes of files are read into."""

from __future__ import annotations

import numpy as np
import pytest

from fmristore_stores.io.memory import aligned


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
