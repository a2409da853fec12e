"""Rows of a matrix in a temporary file, read in pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from fmristore.formats.matrix import ScratchMatrix
from fmristore.planning.scratch import Scratch

ROWS, COLUMNS = 9000, 60
EVERY = slice(0, COLUMNS, 1)
VALUES = np.arange(ROWS * COLUMNS, dtype=np.int32).reshape(ROWS, COLUMNS)
RNG = np.random.default_rng(0)
PLACE = RNG.permutation(ROWS)
CHOSEN: dict[str, Any] = {
    "all": slice(0, ROWS, 1),
    "some": slice(100, 4000, 1),
    "scattered": RNG.permutation(ROWS)[:700],
    "far apart": np.array([8999, 0, 4500]),
    "twice": np.array([7, 3, 7, 7, 3]),
    "one": np.array([5]),
    "none": np.array([], np.int64),
}


@pytest.mark.parametrize("max_memory", [0, VALUES.nbytes], ids=["file", "memory"])
@pytest.mark.parametrize("columns", [EVERY, slice(3, 40, 1), np.array([50, 2, 2])])
@pytest.mark.parametrize("case", CHOSEN)
def test_rows(case: str, columns: Any, max_memory: int) -> None:
    rows = CHOSEN[case]
    with Scratch(VALUES.shape, VALUES.dtype, max_memory=max_memory) as scratch:
        scratch.write((slice(0, ROWS, 1), EVERY), VALUES)
        found = ScratchMatrix(scratch, PLACE).read(rows, columns)
        assert_array_equal(found, VALUES[PLACE[rows]][:, columns])


@pytest.mark.parametrize(
    ("case", "columns", "most"),
    [("scattered", EVERY, 20), ("far apart", EVERY, 3), ("far apart", slice(0, 2, 1), 3)],
)
def test_rows_near_each_other_are_read_at_once(
    case: str, columns: slice, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Scratch.read
    regions = []

    def watched(self: Scratch, region: Any) -> Any:
        regions.append(region)
        return read(self, region)

    monkeypatch.setattr(Scratch, "read", watched)
    with Scratch(VALUES.shape, VALUES.dtype, max_memory=0) as scratch:
        scratch.write((slice(0, ROWS, 1), EVERY), VALUES)
        ScratchMatrix(scratch, np.arange(ROWS)).read(CHOSEN[case], columns)
    sizes = [(rows.stop - rows.start) * VALUES[0].nbytes for rows, _ in regions]
    assert len(regions) <= most
    assert max(sizes) <= 256 * 1024
