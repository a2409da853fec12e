"""Byte ranges: which ones to fetch together, and what a read of them costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fmristore_stores.protocol import Buffer, ByteRange, FetchPolicy

__all__ = ["ReadCost", "batches", "cut", "merge_ranges", "span_of", "sum_costs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCost:
    """Cost of a read when nothing is cached.

    Parameters
    ----------
    chunks : int
        Chunks touched that are stored.
    missing : int
        Chunks touched that were never written.
    requests : int or None
        Byte ranges asked for, after merging neighbours, where it is known where chunks lie: what
        tells that may take requests more, and shards that are read whole for the first time may
        take fewer. None where a library does the reading.
    encoded_bytes : int or None
        Size of the touched chunks as stored.
    fetched_bytes : int or None
        Bytes transferred: `encoded_bytes`, and the gaps inside merged ranges.
    decoded_bytes : int
        Size of the touched chunks decoded. A codec that decodes parts of chunks (blosc) may get
        away with less.
    returned_bytes : int
        Size of the result in the stored dtype.
    """

    chunks: int
    missing: int
    requests: int | None
    encoded_bytes: int | None
    fetched_bytes: int | None
    decoded_bytes: int
    returned_bytes: int

    @property
    def amplification(self) -> float:
        """Bytes decoded for each byte returned."""
        return self.decoded_bytes / self.returned_bytes if self.returned_bytes else 0.0


_SMALLEST_BLOCK = 4 * 1024 * 1024
_STREAMS = 16
"""A large read is cut into at least this many requests, which are under way together."""


def merge_ranges(ranges: Sequence[ByteRange], policy: FetchPolicy) -> list[list[int]]:
    """Group byte ranges that are better fetched as one.

    Parameters
    ----------
    ranges : sequence of ByteRange
        In any order.
    policy : FetchPolicy
        Largest gap and largest block. Blocks stay smaller where that gives every connection
        something to do.

    Returns
    -------
    list of list of int
        Indices into `ranges`, each group sorted by offset.
    """
    gap = policy.gap
    wanted = sum(r.length for r in ranges)
    block = min(policy.block, max(_SMALLEST_BLOCK, wanted // _STREAMS))
    order = sorted(range(len(ranges)), key=lambda i: ranges[i])
    if gap < 0:
        return [[i] for i in order]
    groups: list[list[int]] = []
    end = 0
    for i in order:
        source, offset, length = ranges[i]
        if groups:
            first = ranges[groups[-1][0]]
            if (
                first.source == source
                and offset - end <= gap
                and max(end, offset + length) - first.offset <= block
            ):
                groups[-1].append(i)
                end = max(end, offset + length)
                continue
        groups.append([i])
        end = offset + length
    return groups


def span_of(ranges: Sequence[ByteRange], group: Sequence[int]) -> ByteRange:
    """One range that holds all ranges of a group of the same source."""
    first = ranges[group[0]]
    end = max(ranges[i].offset + ranges[i].length for i in group)
    return ByteRange(first.source, first.offset, end - first.offset)


def cut(
    ranges: Sequence[ByteRange], groups: Sequence[Sequence[int]], fetched: Sequence[Buffer]
) -> Iterator[tuple[int, Buffer]]:
    """Bytes of each range, by its index, of the spans of groups that were fetched."""
    for group, data in zip(groups, fetched, strict=True):
        view, begin = memoryview(data), ranges[group[0]].offset
        for i in group:
            start = ranges[i].offset - begin
            yield i, view[start : start + ranges[i].length]


def batches(
    ranges: Sequence[ByteRange], groups: list[list[int]], limit: int
) -> Iterator[list[list[int]]]:
    """Cut groups of ranges into rounds of at most `limit` bytes (or one group)."""
    batch: list[list[int]] = []
    size = 0
    for group in groups:
        length = span_of(ranges, group).length
        if batch and size + length > limit:
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += length
    if batch:
        yield batch


def sum_costs(costs: Sequence[ReadCost]) -> ReadCost:
    """Cost of several reads together."""
    return ReadCost(
        chunks=sum(cost.chunks for cost in costs),
        missing=sum(cost.missing for cost in costs),
        requests=_sum(cost.requests for cost in costs),
        encoded_bytes=_sum(cost.encoded_bytes for cost in costs),
        fetched_bytes=_sum(cost.fetched_bytes for cost in costs),
        decoded_bytes=sum(cost.decoded_bytes for cost in costs),
        returned_bytes=sum(cost.returned_bytes for cost in costs),
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value or 0 for value in known)
