"""Scratch arrays hold what is written, in memory, in a file, and where files are read in turn."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmristore.planning import scratch
from fmristore.planning.blocks import cut_into_blocks
from fmristore.planning.scratch import Scratch
from fmristore_stores.grid import Region, parse_region

SHAPE = (5, 4, 6, 7)
VALUES = np.arange(5 * 4 * 6 * 7, dtype="i2").reshape(SHAPE)


def region(*parts: tuple[int, int]) -> Region:
    return parse_region(tuple(slice(*part) for part in parts), SHAPE)


@pytest.mark.parametrize("blocks", [None, (5, 4, 3, 4)])
@pytest.mark.parametrize("kind", ["memory", "file", "file read in turn"])
def test_regions_are_read_as_they_were_written(
    kind: str, blocks: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_POSITIONED", kind == "file")
    room = 1 << 20 if kind == "memory" else 0
    with Scratch(SHAPE, VALUES.dtype, max_memory=room, blocks=blocks) as array:
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


@pytest.mark.parametrize("few", [2, 24, 4096])
@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 2, 3, 0), (0, 1, 2, 3)])
def test_values_may_lie_in_any_order(
    order: tuple[int, ...], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_NEAR_BYTES", few)
    monkeypatch.setattr(scratch, "_FEW_BYTES", few)
    values = np.ascontiguousarray(VALUES.transpose(order)).transpose(np.argsort(order))
    whole = region((0, 5), (0, 4), (0, 6), (0, 7))
    with Scratch(SHAPE, VALUES.dtype, max_memory=0) as array:
        for turned in (values, values[:, ::-1], np.broadcast_to(values[:1, :, :1], SHAPE)):
            array.write(whole, turned)
            np.testing.assert_array_equal(array.read(whole), turned)


@given(data=st.data())
def test_blocks_of_any_shape_tile_the_file(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * 3))
    blocks = data.draw(st.tuples(*[st.integers(1, 8)] * 3))
    values = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    with Scratch(shape, values.dtype, max_memory=0, blocks=blocks) as array:
        for block in cut_into_blocks(shape, blocks):
            array.write(block, values[block])
        for size in (shape, data.draw(st.tuples(*[st.integers(1, 8)] * 3))):
            for part in cut_into_blocks(shape, size):
                np.testing.assert_array_equal(array.read(part), values[part])


@pytest.mark.skipif(not scratch._POSITIONED, reason="this system has no pwrite")
def test_a_block_is_written_with_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    pwrite = os.pwrite

    def counted(descriptor: int, data: Any, offset: int) -> int:
        calls.append(len(data))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    blocks = (5, 2, 3, 4)
    with Scratch(SHAPE, VALUES.dtype, max_memory=0, blocks=blocks) as array:
        for block in cut_into_blocks(SHAPE, blocks):
            array.write(block, VALUES[block])
    assert len(calls) == 2 * 2 * 2
    assert sum(calls) == VALUES.nbytes
