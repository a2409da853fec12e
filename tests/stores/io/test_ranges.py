"""Merging byte ranges, and what a read costs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fmristore_stores.io.ranges import ReadCost, batches, merge_ranges, span_of
from fmristore_stores.protocol import ByteRange, FetchPolicy

RANGES = st.lists(
    st.builds(ByteRange, st.sampled_from(["a", "b"]), st.integers(0, 5000), st.integers(0, 600)),
    max_size=30,
)


@given(ranges=RANGES, gap=st.integers(-1, 300), block=st.integers(1, 4000))
def test_every_range_lies_in_one_group_of_its_source(
    ranges: list[ByteRange], gap: int, block: int
) -> None:
    groups = merge_ranges(ranges, FetchPolicy(gap=gap, block=block, concurrent=True))
    assert sorted(i for group in groups for i in group) == list(range(len(ranges)))
    for group in groups:
        span = span_of(ranges, group)
        for i in group:
            assert ranges[i].source == span.source
            assert span.offset <= ranges[i].offset
            assert ranges[i].offset + ranges[i].length <= span.offset + span.length
        if len(group) > 1:
            assert gap >= 0
            assert span.length <= block
            end = ranges[group[0]].offset
            for i in group:
                assert ranges[i].offset - end <= gap
                end = max(end, ranges[i].offset + ranges[i].length)


@given(ranges=RANGES, limit=st.integers(1, 3000))
def test_rounds_hold_every_group_once_and_keep_to_the_limit(
    ranges: list[ByteRange], limit: int
) -> None:
    groups = merge_ranges(ranges, FetchPolicy(gap=50, block=1000, concurrent=True))
    rounds = list(batches(ranges, groups, limit))
    assert [group for batch in rounds for group in batch] == groups
    for batch in rounds:
        assert batch
        assert len(batch) == 1 or sum(span_of(ranges, group).length for group in batch) <= limit


def test_large_reads_are_cut_into_requests_that_are_under_way_together() -> None:
    policy = FetchPolicy(gap=64 * 1024, block=8 * 1024 * 1024, concurrent=True)
    chunk = 256 * 1024
    neighbours = [ByteRange("a", i * chunk, chunk) for i in range(512)]
    for count, longest in ((64, 4), (128, 4), (256, 4), (384, 6), (512, 8)):
        groups = merge_ranges(neighbours[:count], policy)
        lengths = [span_of(neighbours, group).length for group in groups]
        assert max(lengths) == longest * 1024 * 1024
        assert len(groups) == min(16, count * chunk // max(lengths))
    assert len(merge_ranges(neighbours[:4], policy)) == 1
    assert merge_ranges([], policy) == []


def test_amplification() -> None:
    cost = ReadCost(
        chunks=2,
        missing=0,
        requests=1,
        encoded_bytes=10,
        fetched_bytes=12,
        decoded_bytes=400,
        returned_bytes=100,
    )
    assert cost.amplification == 4
