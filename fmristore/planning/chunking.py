"""Chunk and shard shapes within a budget of bytes: plain arithmetic.

The rules are the outcome of measurements on real runs: ``docs/design/0002-chunks-and-codecs.md``.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

__all__ = ["compact_shape", "even", "shard_shape"]

_SHARD_BYTES = (16 << 20, 64 << 20)
_SHARDS = 48
"""An array is cut into about this many shards, as long as they stay between those sizes."""


def even(length: int, most: int) -> int:
    """Chunk length that cuts an axis into nearly equal parts of at most `most`, at least 1."""
    length = max(1, length)
    return math.ceil(length / math.ceil(length / max(1, min(most, length))))


def _candidates(length: int, most: int) -> list[int]:
    """Chunk lengths worth trying along an axis: those that cut it into nearly equal parts."""
    steps = [round(64 * 1.25**k) for k in range(48)]
    lengths = {even(length, c) for c in [*range(1, 65), *steps] if c <= most}
    lengths |= {math.ceil(length / k) for k in range(1, 65)}
    return sorted(c for c in lengths if c <= most)


def compact_shape(lengths: Sequence[int], most: int, *, multiple: int = 1) -> tuple[int, ...]:
    """Block of at most `most` elements that is compact and pads little.

    Compact, so that a region touches few blocks; shaped to the array, because chunks at its edges
    are padded to their full size.

    Parameters
    ----------
    lengths : sequence of int
        Of the axes, at least 1 each.
    most : int
        Elements that a block may have.
    multiple : int
        Number that the elements of a block should be a multiple of, if the lengths allow it.

    Returns
    -------
    tuple of int
        The best of the shapes tried: those that fill at least half of `most`; of these, those
        that are such a multiple; of these, the one with the least padding and surface.
    """
    whole = math.prod(lengths)
    if whole <= most:
        return tuple(lengths)
    best: tuple[bool, bool, float] = (True, True, math.inf)
    found = (1,) * len(lengths)
    options = [_candidates(n, most) for n in lengths]
    for head in itertools.product(*options[:-1]):
        area = math.prod(head)
        rows = math.prod(-(-n // c) for n, c in zip(lengths[:-1], head, strict=True))
        width = sum(1 / c for c in head)
        room = bisect.bisect_right(options[-1], most // area)
        for last in options[-1][max(0, room - 12) : room]:
            size = area * last
            if 2 * size <= most and not best[0]:
                continue
            padding = rows * -(-lengths[-1] // last) * size / whole
            surface = size ** (1 / len(lengths)) * (width + 1 / last)
            score = padding * surface * (most / size) ** 0.15
            candidate = (2 * size <= most, size % multiple > 0, score)
            if candidate < best:
                best, found = candidate, (*head, last)
    return found


def shard_shape(
    shape: tuple[int, ...], chunks: tuple[int, ...], itemsize: int
) -> tuple[int, ...] | None:
    """Shard of whole chunks, grown along the last axes first; None if one chunk is all.

    Parameters
    ----------
    shape, chunks : tuple of int
        Of the array and of a chunk.
    itemsize : int
        Bytes of an element.
    """
    low, high = _SHARD_BYTES
    budget = max(low, min(high, math.prod(shape) * itemsize // _SHARDS))
    shards = list(chunks)
    for axis in reversed(range(len(shards))):
        count = math.ceil(shape[axis] / chunks[axis]) or 1
        taken = even(count, budget // max(1, math.prod(shards) * itemsize))
        shards[axis] *= taken
        if taken < count:
            break
    return None if tuple(shards) == chunks else tuple(shards)
