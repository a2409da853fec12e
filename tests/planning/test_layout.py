"""The choice of chunks: what must hold for every image, and what each access pattern is for."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmristore.planning.chunking import compact_shape, even, shard_shape
from fmristore.planning.layout import (
    AXES,
    Order,
    Pattern,
    access_patterns,
    adapt_spec,
    canonical_axes,
    choose_codecs,
    plan_layout,
    split_chunks,
)
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.grid import overlaps, parse_region
from fmristore_stores.protocol import Capability
from fmristore_stores.spec import ArraySpec, ChunkLayout
from tests.images import LAYOUTS

RUN = (200, 36, 64, 64)
"""An ordinary run in stored order: t, z, y, x."""

DIMS = st.sampled_from([("z", "y", "x"), ("t", "z", "y", "x"), ("c", "z", "y", "x"), AXES])
LENGTHS = st.integers(1, 60) | st.integers(1, 4000)
ITEMS = st.sampled_from(["u1", "i2", "f4", "f8", "c16"])


def touched(layout: ChunkLayout, shape: tuple[int, ...], *region: slice | int) -> int:
    """Chunks that a region of some axes touches."""
    parts = tuple(slice(r, r + 1, 1) if isinstance(r, int) else r for r in region)
    return sum(1 for _ in overlaps(parse_region(parts, shape), layout.chunks))


def spec_of(layout: ChunkLayout, shape: tuple[int, ...] = RUN, dtype: Any = "i2") -> ArraySpec:
    return ArraySpec(shape=shape, dtype=np.dtype(dtype), dims=("t", "z", "y", "x"), layout=layout)


@given(
    dims=DIMS,
    data=st.data(),
    dtype=ITEMS,
    access=st.sampled_from(get_args(Pattern)),
    order=st.sampled_from(get_args(Order)),
    codec=st.sampled_from(["portable", "dual"]),
)
def test_every_layout(
    dims: tuple[str, ...],
    data: st.DataObject,
    dtype: str,
    access: Pattern,
    order: Order,
    codec: str,
) -> None:
    shape = tuple(data.draw(st.integers(3, 4) if d == "c" else LENGTHS) for d in dims)
    layout = plan_layout(shape, dtype, dims=dims, access=access, order=order, codec=codec)
    assert layout == plan_layout(shape, dtype, dims=dims, access=access, order=order, codec=codec)
    assert all(1 <= c <= n for c, n in zip(layout.chunks, shape, strict=True))
    assert math.prod(layout.chunks) * np.dtype(dtype).itemsize <= 4 << 20
    assert math.prod(layout.units) * np.dtype(dtype).itemsize <= 128 << 20
    if "c" in dims:
        assert layout.chunks[dims.index("c")] == shape[dims.index("c")]
    if order == "canonical":
        assert layout.order == ()
    # A chunk is one run of bytes that any store can hold: the spec is accepted as it is.
    spec = ArraySpec(shape=shape, dtype=np.dtype(dtype), dims=dims, layout=layout)
    assert spec.memory.chunk_nbytes == spec.chunk_nbytes


def test_each_access_pattern_is_best_at_what_it_is_for() -> None:
    layouts = {access: plan_layout(RUN, "i2", access=access) for access in get_args(Pattern)}
    everything = slice(None)
    voxel = {a: touched(v, RUN, everything, 10, 30, 30) for a, v in layouts.items()}
    volume = {a: touched(v, RUN, 100, *[everything] * 3) for a, v in layouts.items()}
    assert voxel["time"] < voxel["balanced"] < voxel["volume"]
    assert volume["volume"] < volume["balanced"] < volume["time"]
    assert voxel["time"] == volume["volume"] == 1
    assert voxel["volume"] == RUN[0]


def test_time_varies_fastest_where_series_are_read() -> None:
    for access in get_args(Pattern):
        auto, canonical = (
            spec_of(plan_layout(RUN, "i2", access=access, order=order)) for order in get_args(Order)
        )
        assert auto.memory.dims[-1] == ("x" if access == "volume" else "t")
        assert canonical.memory.dims == ("t", "z", "y", "x")


def test_long_runs_of_few_voxels() -> None:
    shape = (1_000_000, 1, 1, 2)
    for access in get_args(Pattern):
        layout = plan_layout(shape, "f8", access=access)
        assert math.prod(layout.chunks) * 8 <= 4 << 20


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"access": "both"}, "access pattern 'both'"),
        ({"access": ["time"]}, "access pattern"),
        ({"order": "best"}, "order 'best'; there are auto, canonical"),
        ({"dims": ("x", "y", "z", "t")}, "canonical order"),
        ({"dims": ("t", "z", "y", "q")}, "unknown axes"),
    ],
)
def test_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        plan_layout(RUN, "i2", **options)


def test_both_is_a_layout_for_time_and_one_for_volumes() -> None:
    assert access_patterns("both", ("t", "z", "y", "x")) == ("time", "volume")
    assert access_patterns("both", ("z", "y", "x")) == ("time",)
    assert [access_patterns(one, AXES) for one in get_args(Pattern)] == [
        (one,) for one in get_args(Pattern)
    ]
    with pytest.raises(InvalidInputError, match="'space'; there are time, volume, balanced, both"):
        access_patterns("space", AXES)  # type: ignore[arg-type]


def test_unknown_codec() -> None:
    with pytest.raises(InvalidInputError, match="unknown codec preset 'best'"):
        choose_codecs("best", spec_of(plan_layout(RUN, "i2")))


def test_canonical_axes_sort_any_order() -> None:
    assert canonical_axes(("x", "y", "z", "t")) == (3, 2, 1, 0)
    assert canonical_axes(("z", "y", "x", "c", "t")) == (4, 3, 0, 1, 2)


@pytest.mark.parametrize("access", LAYOUTS)
def test_stores_hold_the_same_bytes(access: Pattern) -> None:
    wished = spec_of(plan_layout(RUN, "i2", access=access))
    full = adapt_spec(wished, Capability.CHUNK_ORDER | Capability.SHARDS)
    plain = adapt_spec(wished, Capability.NONE)
    assert full == wished
    assert plain.layout.order == ()
    assert plain.layout.shards is None
    assert plain.memory.layout.chunks == full.memory.layout.chunks
    assert plain.memory.dims == full.memory.dims


class TestArithmetic:
    @given(st.integers(0, 5000), st.integers(-3, 6000))
    def test_even(self, length: int, most: int) -> None:
        size = even(length, most)
        assert 1 <= size <= max(1, most)
        assert size <= max(1, length)
        # No smaller size needs as few pieces.
        if size > 1:
            assert math.ceil(length / (size - 1)) > math.ceil(length / size)

    @given(st.lists(st.integers(1, 300), min_size=1, max_size=3), st.integers(1, 10**6))
    def test_compact_shape(self, lengths: list[int], most: int) -> None:
        shape = compact_shape(lengths, most)
        assert all(1 <= c <= n for c, n in zip(shape, lengths, strict=True))
        assert math.prod(shape) <= most

    @given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 300)), min_size=1, max_size=4))
    def test_shards_are_whole_chunks(self, axes: list[tuple[int, int]]) -> None:
        shape = tuple(n for n, _ in axes)
        chunks = tuple(min(n, c) for n, c in axes)
        shards = shard_shape(shape, chunks, 2)
        if shards is not None:
            assert all(s % c == 0 for s, c in zip(shards, chunks, strict=True))
            assert math.prod(shards) > math.prod(chunks)
            assert all(s - c < n for s, c, n in zip(shards, chunks, shape, strict=True))

    @given(
        st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 300)), min_size=1, max_size=4),
        st.sampled_from([1, 2, 8]),
        st.integers(64, 10**7),
    )
    def test_split_chunks(self, axes: list[tuple[int, int]], itemsize: int, limit: int) -> None:
        shape, wished = (tuple(column) for column in zip(*axes, strict=True))
        layout = split_chunks(shape, itemsize, wished, limit=limit)
        assert math.prod(layout.chunks) * itemsize <= limit
        assert all(c <= max(1, n) for c, n in zip(layout.chunks, shape, strict=True))
        fits = tuple(max(1, min(c, n)) for c, n in zip(wished, shape, strict=True))
        if math.prod(fits) * itemsize <= limit:
            assert layout.chunks == fits
