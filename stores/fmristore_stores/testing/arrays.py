"""The part of the suite about arrays: creating, reading and writing regions."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmristore_stores.errors import (
    CodecError,
    InvalidInputError,
    LayoutNotSupportedError,
    SelectionError,
)
from fmristore_stores.grid import parse_region, region_shape
from fmristore_stores.protocol import AnyArray, Capability, Store
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout, CodecSpec
from fmristore_stores.testing.base import StoreSuite, case, fresh_folder, fresh_name, scaled
from fmristore_stores.testing.compare import assert_same_spec, assert_same_values
from fmristore_stores.testing.model import full, part_of
from fmristore_stores.testing.strategies import (
    DTYPES,
    FILL_VALUES,
    broadcastable,
    make_spec,
    random_values,
    regions,
    specs,
)

__all__ = ["ArrayTests"]

_SHAPES = [(), (1,), (7,), (0,), (5, 4), (3, 0, 2), (1, 1, 1), (4, 3, 2, 5)]
_MISFITS: dict[str, Any] = {
    "beyond": (slice(0, 6), slice(0, 4)),
    "starts beyond": (slice(6, 6), slice(0, 4)),
    "too few axes": (slice(0, 5),),
    "too many axes": (slice(0, 5), slice(0, 4), slice(0, 1)),
    "no axes": (),
    "negative start": (slice(-2, 5), slice(0, 4)),
    "negative stop": (slice(0, -1), slice(0, 4)),
    "backwards": (slice(3, 1), slice(0, 4)),
    "negative step": (slice(0, 5, -1), slice(0, 4)),
    "zero step": (slice(0, 5, 0), slice(0, 4)),
}


class ArrayTests(StoreSuite):
    """Arrays of every dtype, shape and layout."""

    @pytest.mark.parametrize("codec", ["none", "dual"])
    def test_dtype(self, store: Store, codec: str) -> None:
        """Every dtype is kept, and all of its bits."""
        for name, dtype in DTYPES.items():
            with case(name):
                spec = make_spec(dtype=dtype, codec="none" if name == "text" else codec)
                array = store.root.create_array(name, spec)
                assert_same_spec(array.spec, spec)
                assert_same_values(array.read(), full(spec))
                values = random_values(spec.shape, spec.dtype)
                array.write(None, values)
                assert_same_values(array.read(), values)
                assert_same_values(store.root.array(name).read(), values)

    def test_big_endian_is_normalised(self, store: Store) -> None:
        """Values of the other byte order are stored little-endian."""
        for dtype in (">i2", ">u8", ">f4", ">c16"):
            with case(dtype):
                array = store.root.create_array(dtype, make_spec(dtype=dtype))
                values = np.arange(20).reshape(5, 4).astype(dtype)
                array.write(None, values)
                assert array.spec.dtype == np.dtype(dtype).newbyteorder("<")
                assert_same_values(array.read(), values.astype(array.spec.dtype))

    @pytest.mark.parametrize("dtype", ["int16", "text"])
    def test_shape(self, store: Store, dtype: str) -> None:
        """Any rank, empty axes included; reading always gives an array."""
        for shape in _SHAPES:
            with case(shape):
                spec = make_spec(shape, DTYPES[dtype])
                array = store.root.create_array(str(shape), spec)
                assert_same_spec(array.spec, spec)
                assert_same_values(array.read(), full(spec))
                values = random_values(shape, spec.dtype)
                array.write(None, values)
                assert_same_values(array.read(), values)
                everything = tuple(slice(0, n) for n in shape)
                assert_same_values(array.read(everything), values)
                array.write(everything, np.zeros((), spec.dtype))
                assert_same_values(array.read(), np.zeros(shape, spec.dtype))

    def test_fill_value(self, tmp_path: Path) -> None:
        """Elements that were never written read as the fill value, bit for bit, also later."""
        corner = (slice(0, 1), slice(0, 1))
        written: dict[str, tuple[ArraySpec, AnyArray]] = {}
        with self.open_store(tmp_path, "w") as store:
            for kind, dtype in DTYPES.items():
                for fill_value in FILL_VALUES[dtype.kind]:
                    name = f"{kind} {fill_value}".replace("/", " ")
                    with case(name):
                        spec = make_spec(dtype=dtype, fill_value=fill_value)
                        expected = full(spec)
                        array = store.root.create_array(name, spec)
                        assert_same_spec(store.root.array(name).spec, spec)
                        assert_same_values(array.read(), expected)
                        expected[corner] = random_values((1, 1), spec.dtype)
                        array.write(corner, expected[corner])
                        assert_same_values(array.read(), expected)
                        written[name] = spec, expected
        with self.open_store(tmp_path, "r") as store:
            for name, (spec, expected) in written.items():
                with case(name):
                    assert_same_spec(store.root.array(name).spec, spec)
                    assert_same_values(store.root.array(name).read(), expected)

    def test_fill_values_of_whole_range(self, store: Store) -> None:
        """The extreme integers can be fill values."""
        for name, dtype in DTYPES.items():
            if dtype.kind in "iu":
                for fill in (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)):
                    spec = make_spec(dtype=dtype, fill_value=fill)
                    array = store.root.create_array(f"{name} {fill}", spec)
                    assert_same_values(array.read(), full(spec))

    @scaled(1.0)
    @given(data=st.data())
    def test_any_array(self, store: Store, data: st.DataObject) -> None:
        """Any sequence of writes of regions leaves what it leaves in a numpy array."""
        spec = data.draw(specs(store.capabilities))
        array = store.root.create_array(fresh_name(), spec)
        expected = full(spec)
        for _ in range(data.draw(st.integers(0, 3))):
            region = data.draw(regions(spec.shape))
            values = data.draw(broadcastable(parse_region(region, spec.shape), spec.dtype))
            array.write(region, values)
            part_of(expected, region)[...] = values
        assert_same_values(array.read(), expected)
        region = data.draw(regions(spec.shape))
        assert_same_values(array.read(region), part_of(expected, region))

    @scaled(0.5)
    @given(data=st.data())
    def test_any_array_is_kept(self, tmp_path: Path, data: st.DataObject) -> None:
        """Spec and values are the same after the store was opened again."""
        folder = fresh_folder(tmp_path)
        with self.open_store(folder, "w") as store:
            spec = data.draw(specs(store.capabilities))
            array = store.root.create_array("0", spec)
            region = parse_region(data.draw(regions(spec.shape)), spec.shape)
            expected = full(spec)
            values = random_values(region_shape(region), spec.dtype, data.draw(st.integers(0, 99)))
            part_of(expected, region)[...] = values
            array.write(region, values)
        with self.open_store(folder, "r") as store:
            array = store.root.array("0")
            assert_same_spec(array.spec, spec)
            assert_same_values(array.read(), expected)
        peeked = self.peek(folder, "0")
        if peeked is not None:
            assert_same_values(peeked, expected)

    def test_values_are_converted(self, store: Store) -> None:
        """Python numbers, lists and other dtypes are converted to the array's dtype."""
        array = store.root.create_array("0", make_spec((3,), "float32"))
        for values in (1, [1, 2, 3], np.arange(3, dtype=np.int64), np.float64(0.5), True):
            array.write(None, values)
            expected = np.broadcast_to(np.asarray(values, np.float32), (3,)).copy()
            assert_same_values(array.read(), expected)
        names = store.root.create_array("1", make_spec((2,), STRING))
        for text in (["a", "ö"], np.array(["b", "c"]), np.array(["d", "e"], object), "f"):
            names.write(None, text)
            assert names.read().tolist() == np.broadcast_to(np.asarray(text), (2,)).tolist()

    @pytest.mark.parametrize("dtype", ["float32", "text"])
    def test_strided_values(self, store: Store, dtype: str) -> None:
        """Values may be views with any strides, in chunks of one element and of many."""
        wide = random_values((8, 10), DTYPES[dtype])
        views = {
            "transposed": wide[::2, ::2].T,
            "column by column": np.asfortranarray(wide[:5, :4]),
            "part": wide.T[:5, :4],
            "backwards": wide[4::-1, 3::-1],
            "repeated rows": np.broadcast_to(wide[:1, :4], (5, 4)),
            "repeated columns": np.broadcast_to(wide[:5, :1], (5, 4)),
        }
        for chunks in ((1, 1), (2, 2), (5, 4)):
            array = store.root.create_array(
                str(chunks), make_spec((5, 4), wide.dtype, chunks=chunks)
            )
            for values in views.values():
                array.write(None, values)
                assert_same_values(array.read(), values.copy())

    def test_values_are_copies(self, store: Store) -> None:
        """Neither what was written nor what was read is shared with the caller."""
        array = store.root.create_array("0", make_spec((4,), "int16"))
        values = np.arange(4, dtype=np.int16)
        array.write(None, values)
        values[:] = 9
        got = array.read()
        got[:] = 9
        assert_same_values(array.read(), np.arange(4, dtype=np.int16))

    @pytest.mark.parametrize("dtype", ["int16", "float64", "text"])
    def test_out(self, store: Store, dtype: str) -> None:
        """`out` receives the values and is returned, whatever its strides."""
        spec = make_spec((7, 6), DTYPES[dtype])
        array = store.root.create_array("0", spec)
        values = random_values(spec.shape, spec.dtype)
        array.write((slice(0, 4), slice(0, 6)), values[:4])
        expected = full(spec)
        expected[:4] = values[:4]
        region = (slice(1, 7, 2), slice(0, 6))
        for out in (
            np.full((3, 6), "x" if dtype == "text" else 1, spec.dtype),
            np.zeros((6, 3), spec.dtype).T,
            np.zeros((6, 18), spec.dtype)[::2, ::3],
        ):
            assert array.read(region, out=out) is out
            assert_same_values(out.copy(), expected[1:7:2])

    def test_out_has_to_fit(self, store: Store) -> None:
        """`out` of another shape or dtype is refused."""
        array = store.root.create_array("0", make_spec((5, 4), "int16"))
        for out in (np.zeros((4, 5), "i2"), np.zeros(20, "i2"), np.zeros((5, 4), "i4")):
            with pytest.raises(InvalidInputError):
                array.read(None, out=out)

    def test_region_has_to_fit(self, store: Store) -> None:
        """A region that does not fit the array is an error, and nothing is written."""
        array = store.root.create_array("0", make_spec((5, 4)))
        for name, region in _MISFITS.items():
            with case(name):
                with pytest.raises(SelectionError):
                    array.read(region)
                with pytest.raises(SelectionError):
                    array.write(region, 1)
                assert_same_values(array.read(), np.zeros((5, 4), np.float32))

    def test_values_have_to_fit(self, store: Store) -> None:
        """Values that cannot be converted or broadcast are an error, and nothing is written."""
        array = store.root.create_array("0", make_spec((5, 4)))
        shapes: list[tuple[int, ...]] = [(4, 5), (5,), (1, 5, 4, 1), (0,)]
        wrong: list[Any] = [*map(np.ones, shapes), "text", [[1], []]]
        for values in wrong:
            with case(values):
                with pytest.raises(InvalidInputError):
                    array.write(None, values)
                assert_same_values(array.read(), np.zeros((5, 4), np.float32))

    def test_chunk_longer_than_axis(self, store: Store) -> None:
        """A chunk is at most as long as its axis, and 1 where the axis is empty."""
        wrong: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
            ((5, 4), (6, 4)),
            ((5, 4), (1, 5)),
            ((0, 4), (2, 4)),
            ((0,), (5,)),
        ]
        for shape, chunks in wrong:
            with case((shape, chunks)):
                with pytest.raises(LayoutNotSupportedError):
                    store.root.create_array("0", make_spec(shape, chunks=chunks))
                assert store.root.children() == {}

    def test_order(self, store: Store) -> None:
        """The order inside a chunk is honoured or refused; the array's axes stay."""
        for order in itertools.permutations(range(3)):
            with case(order):
                self._check_order(store, order)

    def _check_order(self, store: Store, order: tuple[int, ...]) -> None:
        name = str(order)
        spec = make_spec((5, 4, 3), order=order, codec="dual")
        if Capability.CHUNK_ORDER not in store.capabilities and spec.layout.order:
            with pytest.raises(LayoutNotSupportedError):
                store.root.create_array(name, spec)
            assert name not in store.root.children()
            return
        array = store.root.create_array(name, spec)
        values = random_values(spec.shape, spec.dtype)
        array.write(None, values)
        assert_same_spec(store.root.array(name).spec, spec)
        assert_same_values(array.read(), values)
        region = (slice(1, 4), slice(0, 4, 2), slice(2, 3))
        assert_same_values(array.read(region), values[region])

    def test_order_of_text(self, store: Store) -> None:
        """Text has no bytes in a row that an order could be meant for."""
        with pytest.raises(LayoutNotSupportedError):
            store.root.create_array("0", make_spec((5, 4), STRING, order=(1, 0)))
        assert store.root.children() == {}

    @pytest.mark.parametrize("ordered", [False, True])
    def test_shards(self, store: Store, *, ordered: bool) -> None:
        """Shards are honoured or refused, also those that reach beyond the array."""
        for shards in ((2, 2, 1), (4, 2, 2), (6, 4, 3), (8, 8, 8)):
            with case(shards):
                self._check_shards(store, shards, ordered=ordered)

    def _check_shards(self, store: Store, shards: tuple[int, ...], *, ordered: bool) -> None:
        name = str(shards)
        order = (2, 0, 1) if ordered and Capability.CHUNK_ORDER in store.capabilities else ()
        spec = make_spec((5, 4, 3), chunks=(2, 2, 1), shards=shards, order=order, codec="dual")
        if Capability.SHARDS not in store.capabilities:
            with pytest.raises(LayoutNotSupportedError):
                store.root.create_array(name, spec)
            assert store.root.children() == {}
            return
        array = store.root.create_array(name, spec)
        expected = full(spec)
        region = (slice(1, 5), slice(0, 4), slice(1, 2))
        expected[region] = random_values((4, 4, 1), spec.dtype)
        array.write(region, expected[region])
        assert_same_spec(store.root.array(name).spec, spec)
        assert_same_values(array.read(), expected)

    def test_unknown_codec(self, store: Store) -> None:
        """A codec that nobody knows is refused, and nothing is made."""
        spec = ArraySpec(
            shape=(4,),
            dtype=np.dtype("f4"),
            layout=ChunkLayout(chunks=(2,)),
            codecs=(CodecSpec.of("no such codec", level=3),),
        )
        with pytest.raises(CodecError):
            store.root.create_array("0", spec)
        assert store.root.children() == {}

    def test_dimension_names(self, store: Store) -> None:
        """Axes keep their names, and may lack them."""
        for number, dims in enumerate([("t", "größe z"), ("", "y"), ("", "")]):
            spec = ArraySpec(
                shape=(4, 2), dtype=np.dtype("i2"), dims=dims, layout=ChunkLayout(chunks=(2, 2))
            )
            array = store.root.create_array(str(number), spec)
            assert array.spec.dims == store.root.array(str(number)).spec.dims == dims
            assert array.read_attributes() == {}

    def test_negative_zero_and_nan_are_not_lost(self, store: Store) -> None:
        """Values that compare as equal to the fill value, but are not, are written."""
        for number, fill in enumerate((0.0, -0.0, math.nan)):
            for codec in ("none", "dual"):
                spec = make_spec((4,), "float64", codec=codec, fill_value=fill)
                array = store.root.create_array(f"{number} {codec}", spec)
                odd = np.uint64(0xFFF8_0000_0000_0123)
                for values in (np.full(4, -0.0), np.zeros(4), np.full(4, odd).view(np.float64)):
                    array.write(None, values)
                    assert_same_values(array.read(), values)
