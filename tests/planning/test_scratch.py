"""Scratch arrays hold what is written, in memory, in a file, and where files are read in turn."""

from __future__ import annotations

import numpy as np
import pytest

from fmristore.planning import scratch
from fmristore.planning.scratch import Scratch
from fmristore_stores.grid import Region, parse_region

SHAPE = (5, 4, 6, 7)
VALUES = np.arange(5 * 4 * 6 * 7, dtype="i2").reshape(SHAPE)


def region(*parts: tuple[int, int]) -> Region:
    return parse_region(tuple(slice(*part) for part in parts), SHAPE)


@pytest.mark.parametrize("kind", ["memory", "file", "file read in turn"])
def test_regions_are_read_as_they_were_written(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_POSITIONED", kind == "file")
    room = 1 << 20 if kind == "memory" else 0
    with Scratch(SHAPE, VALUES.dtype, max_memory=room) as array:
        assert array.in_memory == (kind == "memory")
        for z in range(0, 6, 3):
            for x in range(0, 7, 4):
                part = region((0, 5), (0, 4), (z, z + 3), (x, min(x + 4, 7)))
                array.write(part, VALUES[part])
        for part in (
            region((0, 5), (0, 4), (0, 6), (0, 7)),
            region((1, 4), (0, 4), (0, 6), (0, 7)),
            region((1, 4), (2, 3), (1, 5), (2, 6)),
            region((4, 5), (3, 4), (5, 6), (6, 7)),
        ):
            np.testing.assert_array_equal(array.read(part), VALUES[part])
