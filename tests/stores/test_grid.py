"""Arithmetic on chunk grids, compared with numpy."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmristore_stores.errors import SelectionError
from fmristore_stores.grid import (
    Region,
    chunk_region,
    grid_shape,
    only_overlap,
    overlap_count,
    overlaps,
    parse_region,
    region_shape,
    whole_run,
)
from fmristore_stores.testing.strategies import regions


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape and a chunk shape, whose chunks may be longer than the axes."""
    shape = tuple(draw(st.lists(st.integers(0, 12), max_size=3)))
    return shape, tuple(draw(st.integers(1, 14)) for _ in shape)


def index(region: Region) -> tuple[Any, ...]:
    return (*region, ...)


@given(data=st.data(), grid=grids())
def test_overlaps_partition_a_region(
    data: st.DataObject, grid: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    shape, chunks = grid
    values = np.arange(math.prod(shape)).reshape(shape)
    region = parse_region(data.draw(regions(shape)), shape)
    result = np.full(region_shape(region), -1)
    times = np.zeros(region_shape(region), int)
    seen = []
    for key, source, target in overlaps(region, chunks):
        chunk = values[index(chunk_region(key, shape, chunks))]
        piece = chunk[index(source)]
        assert piece.size > 0
        assert piece.shape == region_shape(source) == region_shape(target)
        assert all(0 <= s.start < s.stop <= n for s, n in zip(source, chunk.shape, strict=True))
        result[index(target)] = piece
        times[index(target)] += 1
        seen.append(key)
    assert (times == 1).all()
    np.testing.assert_array_equal(result, values[index(region)])
    assert seen == sorted(set(seen))
    assert overlap_count(region, chunks) == len(seen)
    only = only_overlap(region, chunks)
    if only is not None:
        ((key, source, _),) = overlaps(region, chunks)
        assert (key, source) == only
    else:
        assert len(seen) != 1 or any(part.step > 1 for part in region)


@given(grid=grids())
def test_chunks_partition_an_array(grid: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    shape, chunks = grid
    times = np.zeros(shape, int)
    for key in itertools.product(*map(range, grid_shape(shape, chunks))):
        region = chunk_region(key, shape, chunks)
        assert all(1 <= n <= c for n, c in zip(region_shape(region), chunks, strict=True))
        times[index(region)] += 1
    assert (times == 1).all()


@given(data=st.data(), grid=grids())
def test_region_shape_is_numpys(
    data: st.DataObject, grid: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    shape, _ = grid
    region = parse_region(data.draw(regions(shape)), shape)
    assert region_shape(region) == np.empty(shape)[index(region)].shape


def test_whole_chunks_that_follow_each_other_in_memory() -> None:
    chunks, axes = (4, 6, 2), (1, 2, 0)
    region = (slice(4, 8, 1), slice(6, 24, 1), slice(2, 4, 1))
    assert whole_run(region, chunks, axes) == [(1, n, 1) for n in (1, 2, 3)]
    assert whole_run(region, chunks, (2, 1, 0)) is None  # several along an axis that is not first
    for axis, cut in ((0, slice(4, 7, 1)), (1, slice(7, 24, 1)), (1, slice(6, 24, 2))):
        other = (*region[:axis], cut, *region[axis + 1 :])
        assert whole_run(other, chunks, axes) is None
    assert whole_run((), (), ()) is None
    assert whole_run((slice(6, 6, 1),), (3,), (0,)) == []


def test_a_step_jumps_over_chunks() -> None:
    keys = [part.key for part in overlaps((slice(0, 100, 50),), (10,))]
    assert keys == [(0,), (5,)]


def test_grid_of_no_axes_is_one_chunk() -> None:
    assert grid_shape((), ()) == ()
    assert list(overlaps((), ())) == [((), (), ())]


def test_grid_of_huge_shapes_is_exact() -> None:
    assert grid_shape((2**53 + 1,), (1,)) == (2**53 + 1,)
    assert grid_shape((2**62 + 1,), (2,)) == (2**61 + 1,)


def test_parse_region_spells_everything_out() -> None:
    assert parse_region(None, (3, 0)) == (slice(0, 3, 1), slice(0, 0, 1))
    assert parse_region((slice(None), slice(1, None)), (3, 4)) == (slice(0, 3, 1), slice(1, 4, 1))


@pytest.mark.parametrize(
    "region",
    [
        (),
        (slice(0, 3), slice(0, 1)),
        (slice(-1, 3),),
        (slice(0, 4),),
        (slice(2, 1),),
        (slice(4, 4),),
        (slice(0, 3, 0),),
        (slice(0, 3, -1),),
    ],
    ids=str,
)
def test_parse_region_refuses(region: Region) -> None:
    with pytest.raises(SelectionError):
        parse_region(region, (3,))
