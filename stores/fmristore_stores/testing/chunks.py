"""The part of the suite about encoded chunks: where they lie, and writing them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmristore_stores.errors import (
    CorruptDataError,
    InvalidInputError,
    LayoutNotSupportedError,
    SelectionError,
)
from fmristore_stores.grid import ChunkKey, chunk_region, grid_shape, parse_region, region_shape
from fmristore_stores.protocol import (
    AnyArray,
    Array,
    Buffer,
    ByteRange,
    Capability,
    ChunkRefs,
    FetchPolicy,
    Growing,
    RawWrite,
    Store,
)
from fmristore_stores.spec import is_string
from fmristore_stores.testing.base import Mode, StoreSuite, case, fresh_folder, scaled
from fmristore_stores.testing.compare import assert_same_spec, assert_same_values
from fmristore_stores.testing.model import assemble, chunks_of_unit, encoded, full, keys_of, part_of
from fmristore_stores.testing.strategies import make_spec, random_values, regions, specs

__all__ = ["ChunkTests"]

_OUTSIDE: list[ChunkKey] = [(3, 0), (0, 2), (-1, 0), (0,), (0, 0, 0), (), (2**70, 0)]
"""Keys that are not in a grid of 3 x 2 chunks."""


class ChunkTests(StoreSuite):
    """Chunk references and raw writing, where a store has them."""

    def located(self, folder: Path, path: str) -> Iterator[ChunkRefs]:
        """Open the array in each mode, and yield it where its chunks can be located."""
        modes: tuple[Mode, ...] = ("r", "r+")
        for mode in modes:
            with self.open_store(folder, mode) as store:
                array = store.root.array(path)
                if Capability.CHUNK_REFS in array.capabilities:
                    yield cast(ChunkRefs, array)
                else:
                    _assert_no_refs(array)

    @scaled(1.0)
    @given(data=st.data())
    def test_chunks_hold_the_values(self, tmp_path: Path, data: st.DataObject) -> None:
        """Values put together from the chunks are those written, and those that the store reads."""
        folder = fresh_folder(tmp_path)
        with self.open_store(folder, "w") as store:
            spec = data.draw(specs(store.capabilities))
            array = store.root.create_array("0", spec)
            region = parse_region(data.draw(regions(spec.shape)), spec.shape)
            values = random_values(region_shape(region), spec.dtype)
            array.write(region, values)
            expected = full(spec)
            part_of(expected, region)[...] = values
            if Capability.CHUNK_REFS in array.capabilities:
                assert_same_values(assemble(cast(ChunkRefs, array)), expected)
        for refs in self.located(folder, "0"):
            assert not is_string(spec.dtype)
            assert_same_values(assemble(refs), expected)
            assert_same_values(refs.read(), expected)
            _assert_fetched_together(refs)

    def test_missing_chunk(self, tmp_path: Path) -> None:
        """A chunk that was never written has no reference; one that was has, whatever is in it."""
        keys = keys_of((3, 2))
        with self.open_store(tmp_path, "w") as store:
            store.root.create_array("0", make_spec((5, 4), chunks=(2, 2), codec="dual"))
        for refs in self.located(tmp_path, "0"):
            assert refs.refs(keys) == [None] * 6
            stored = refs.stored()
            assert stored is None or stored.tolist() == []
            assert refs.refs([]) == []
            assert refs.fetch([]) == []
            assert isinstance(refs.policy, FetchPolicy)
        with self.open_store(tmp_path, "r+") as store:
            store.root.array("0").write((slice(2, 4), slice(0, 2)), 1)
        for refs in self.located(tmp_path, "0"):
            assert [key for key in keys if refs.refs([key]) != [None]] == [(1, 0)]
            stored = refs.stored()
            assert stored is None or stored.tolist() == [2]
        with self.open_store(tmp_path, "r+") as store:
            store.root.array("0").write(None, 0)
        for refs in self.located(tmp_path, "0"):
            assert None not in refs.refs(keys)

    def test_references_follow_writes(self, store: Store) -> None:
        """References are never out of date where chunks can be located while writing."""
        array = store.root.create_array("0", make_spec((5, 4), chunks=(2, 2), codec="dual"))
        if Capability.CHUNK_REFS not in array.capabilities:
            _assert_no_refs(array)
            return
        refs = cast(ChunkRefs, array)
        expected = full(array.spec)
        for number, region in enumerate([(slice(0, 2), slice(0, 2)), (slice(1, 5), slice(0, 4))]):
            values = random_values(region_shape(region), array.spec.dtype, number)
            expected[region] = values
            array.write(region, values)
            assert_same_values(assemble(refs), expected)

    def test_chunk_outside_the_grid(self, tmp_path: Path) -> None:
        """Asking for a chunk that is not in the grid is an error."""
        with self.open_store(tmp_path, "w") as store:
            store.root.create_array("0", make_spec((5, 4), chunks=(2, 2))).write(None, 1)
        for refs in self.located(tmp_path, "0"):
            for key in _OUTSIDE:
                with case(key):
                    with pytest.raises(SelectionError):
                        refs.refs([key])
                    with pytest.raises(SelectionError):
                        refs.refs([(0, 0), key])

    def test_range_beyond_the_end(self, tmp_path: Path) -> None:
        """Fetching more bytes than there are is an error, not a short answer."""
        with self.open_store(tmp_path, "w") as store:
            store.root.create_array("0", make_spec((5, 4), chunks=(2, 2))).write(None, 1)
        for refs in self.located(tmp_path, "0"):
            [ref] = refs.refs([(0, 0)])
            assert ref is not None
            source, offset, length = ref.range
            for wrong in ((offset + 2**40, length), (offset, 2**24)):
                with pytest.raises(CorruptDataError):
                    refs.fetch([ByteRange(source, *wrong)])

    @scaled(1.0)
    @given(data=st.data())
    def test_encoded_chunks_read_as_values(self, tmp_path: Path, data: st.DataObject) -> None:
        """Chunks that were encoded elsewhere are kept byte for byte and read as their values."""
        folder = fresh_folder(tmp_path)
        with self.open_store(folder, "w") as store:
            spec = data.draw(specs(store.capabilities))
            array = store.root.create_array("0", spec)
            if Capability.RAW_WRITE not in array.capabilities:
                _assert_no_raw_write(array)
                return
            assert not is_string(spec.dtype)
            values = random_values(spec.shape, spec.dtype, data.draw(st.integers(0, 99)))
            raw = cast(RawWrite, array)
            for unit in keys_of(grid_shape(spec.shape, spec.layout.units)):
                chunks: list[Buffer | None] = []
                for key in chunks_of_unit(spec, unit):
                    missing = key is None or data.draw(st.integers(0, 4)) == 0
                    chunks.append(None if key is None or missing else encoded(spec, values, key))
                    if key is not None and missing:
                        part_of(values, chunk_region(key, spec.shape, spec.layout.chunks))[...] = (
                            spec.fill
                        )
                raw.write_encoded(unit, chunks)
            assert_same_values(array.read(), values)
        with self.open_store(folder, "r") as store:
            array = store.root.array("0")
            assert_same_spec(array.spec, spec)
            assert_same_values(array.read(), values)
        for refs in self.located(folder, "0"):
            _assert_verbatim(refs, values)
        peeked = self.peek(folder, "0")
        if peeked is not None:
            assert_same_values(peeked, values)

    @pytest.mark.parametrize("shards", [None, (4, 2)])
    def test_encoded_chunks_replace(self, store: Store, shards: tuple[int, ...] | None) -> None:
        """A unit that is written again is replaced; what is None then reads as the fill value."""
        if Capability.SHARDS not in store.capabilities:
            shards = None
        spec = make_spec((5, 4), chunks=(2, 2), shards=shards, codec="dual", fill_value=3.0)
        array = store.root.create_array("0", spec)
        if Capability.RAW_WRITE not in array.capabilities:
            _assert_no_raw_write(array)
            return
        raw = cast(RawWrite, array)
        array.write(None, 1)
        expected = np.ones((5, 4), np.float32)
        values = random_values((5, 4), spec.dtype)
        first = [key for key in chunks_of_unit(spec, (0, 0)) if key is not None]
        raw.write_encoded((0, 0), [encoded(spec, values, key) for key in first])
        for key in first:
            region = chunk_region(key, spec.shape, spec.layout.chunks)
            expected[region] = values[region]
        assert_same_values(array.read(), expected)
        raw.write_encoded((0, 0), [None] * len(first))
        for key in first:
            expected[chunk_region(key, spec.shape, spec.layout.chunks)] = 3.0
        assert_same_values(array.read(), expected)

    def test_the_first_axis_grows(self, tmp_path: Path) -> None:
        """A longer array is seen when it is whole; whoever has opened it before goes on reading."""
        values = random_values((6, 4), make_spec((1,)).dtype)
        with self.open_store(tmp_path, "w") as store:
            spec = make_spec((2, 4), chunks=(2, 2), codec="dual")
            array = store.root.create_array("0", spec)
            array.write(None, values[:2])
            if Capability.GROWTH not in array.capabilities:
                with (
                    pytest.raises((LayoutNotSupportedError, AttributeError)),
                    cast(Any, array).longer(4),
                ):
                    pass
                return
        with self.open_store(tmp_path, "r") as before, self.open_store(tmp_path, "r+") as store:
            old = before.root.array("0")
            growing = cast(Growing, store.root.array("0"))
            with contextlib.suppress(ArithmeticError), growing.longer(6) as longer:
                longer.write_encoded((1, 0), [encoded(longer.spec, values, (1, 0))])
                raise ArithmeticError
            for end in (4, 6):
                with growing.longer(end) as longer:
                    assert longer.spec.shape == (end, 4)
                    for key in [(end // 2 - 1, 0), (end // 2 - 1, 1)]:
                        longer.write_encoded(key, [encoded(longer.spec, values, key)])
                growing = cast(Growing, store.root.array("0"))
                assert_same_values(growing.read(), values[:end])
            with pytest.raises(InvalidInputError), growing.longer(4):
                pass
            assert_same_values(old.read(), values[:2])
        with self.open_store(tmp_path, "r") as store:
            assert_same_values(store.root.array("0").read(), values)

    def test_encoded_chunks_have_to_fit(self, store: Store) -> None:
        """Units outside the grid, and a wrong number of chunks, are errors."""
        spec = make_spec((5, 4), chunks=(2, 2))
        array = store.root.create_array("0", spec)
        if Capability.RAW_WRITE not in array.capabilities:
            _assert_no_raw_write(array)
            return
        raw = cast(RawWrite, array)
        chunk = encoded(spec, full(spec), (0, 0))
        for unit in ((3, 0), (0, -1), (0,), (0, 0, 0)):
            with pytest.raises(SelectionError):
                raw.write_encoded(unit, [chunk])
        for chunks in ([], [chunk, chunk]):
            with pytest.raises(InvalidInputError):
                raw.write_encoded((0, 0), chunks)
        assert_same_values(array.read(), full(spec))


def _assert_fetched_together(array: ChunkRefs) -> None:
    """Fail unless many ranges at once give what each of them gives."""
    spec = array.spec
    found = array.refs(keys_of(grid_shape(spec.shape, spec.layout.chunks)))
    ranges = [ref.range for ref in found if ref is not None]
    together = [bytes(each) for each in array.fetch(ranges)]
    assert together == [bytes(array.fetch([item])[0]) for item in ranges]
    assert [len(each) for each in together] == [item.length for item in ranges]


def _assert_verbatim(array: ChunkRefs, values: AnyArray) -> None:
    """Fail unless every chunk that is there is, byte for byte, the encoded one."""
    spec = array.spec
    keys = keys_of(grid_shape(spec.shape, spec.layout.chunks))
    for key, ref in zip(keys, array.refs(keys), strict=True):
        if ref is not None:
            assert bytes(array.fetch([ref.range])[0]) == encoded(spec, values, key)


def _assert_no_refs(array: Array) -> None:
    """Fail unless an array without the flag has no references either."""
    with pytest.raises((AttributeError, LayoutNotSupportedError)):
        cast(Any, array).refs([(0,) * len(array.spec.shape)])


def _assert_no_raw_write(array: Array) -> None:
    """Fail unless an array without the flag does not accept encoded chunks either."""
    with pytest.raises((AttributeError, LayoutNotSupportedError)):
        cast(Any, array).write_encoded((0,) * len(array.spec.shape), [b""])
