"""Specs: what is normalised, what is refused, what is derived."""

from __future__ import annotations

import math
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import Capability
from fmristore_stores.spec import (
    STRING,
    ArraySpec,
    ChunkLayout,
    CodecSpec,
    check_attributes,
    check_name,
    is_string,
    parse_dtype,
)
from fmristore_stores.testing.compare import plain
from fmristore_stores.testing.strategies import DTYPES, attributes, make_spec, node_names, specs

EVERYTHING = Capability.SHARDS | Capability.CHUNK_ORDER


def test_codec_options_are_sorted() -> None:
    codec = CodecSpec.of("blosc", cname="zstd", clevel=5)
    assert codec.options == (("clevel", 5), ("cname", "zstd"))
    assert codec == CodecSpec.of("blosc", clevel=5, cname="zstd")
    assert (codec.get("clevel"), codec.get("nope"), codec.get("nope", 1)) == (5, None, 1)
    assert str(codec) == "blosc(clevel=5, cname=zstd)"
    assert str(CodecSpec("crc32c")) == "crc32c"


def test_layout_normalises_the_own_order() -> None:
    layout = ChunkLayout(chunks=(2, 3), order=(0, 1))
    assert layout == ChunkLayout(chunks=(2, 3))
    assert layout.axes == (0, 1)
    assert ChunkLayout(chunks=(2, 3), order=(1, 0)).axes == (1, 0)
    assert layout.units == (2, 3)
    assert ChunkLayout(chunks=(2, 3), shards=(4, 3)).units == (4, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"chunks": (0, 2)},
        {"chunks": (-1, 2)},
        {"chunks": (2, 2), "order": (0,)},
        {"chunks": (2, 2), "order": (0, 0)},
        {"chunks": (2, 2), "order": (1, 2)},
        {"chunks": (2, 2), "order": (-1, 0)},
        {"chunks": (2, 2), "shards": (2,)},
        {"chunks": (2, 2), "shards": (3, 2)},
        {"chunks": (2, 2), "shards": (0, 2)},
        {"chunks": (2, 2), "shards": (-2, 2)},
    ],
    ids=str,
)
def test_layout_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        ChunkLayout(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (-1, 2)},
        {"shape": (4,)},
        {"shape": (1,) * 33, "layout": ChunkLayout(chunks=(1,) * 33)},
        {"dims": ("t",)},
        {"dims": ("t", "t")},
        {"dtype": np.dtype("datetime64[s]")},
        {"dtype": np.dtype([("a", "i4")])},
        {"dtype": np.dtype("V8")},
        {"dtype": np.dtype("S4")},
        {"dtype": np.dtype("longdouble")},
        {"fill_value": "text"},
        {"fill_value": []},
        {"fill_value": [1.0, 2.0]},
        {"fill_value": 1j},
        {"dtype": np.dtype("i1"), "fill_value": 300},
        {"dtype": np.dtype("u1"), "fill_value": -1},
        {"dtype": np.dtype("i4"), "fill_value": math.nan},
    ],
    ids=str,
)
def test_spec_refuses(arguments: dict[str, Any]) -> None:
    fine: dict[str, Any] = {
        "shape": (4, 2),
        "dtype": np.dtype("f4"),
        "layout": ChunkLayout(chunks=(2, 2)),
    }
    ArraySpec(**fine)
    with pytest.raises(InvalidInputError):
        ArraySpec(**fine | arguments)


def test_spec_is_frozen_and_hashable() -> None:
    spec = make_spec()
    with pytest.raises(FrozenInstanceError):
        spec.shape = (1,)  # type: ignore[misc]
    assert hash(spec) == hash(make_spec())


def test_unnamed_axes_have_empty_names() -> None:
    spec = ArraySpec(shape=(4, 2), dtype=np.dtype("f4"), layout=ChunkLayout(chunks=(2, 2)))
    assert spec.dims == ("", "")


def test_sizes() -> None:
    spec = make_spec((5, 4), "int16", chunks=(2, 4))
    assert (spec.nbytes, spec.chunk_nbytes) == (40, 16)
    assert (make_spec((), "f8").nbytes, make_spec((0, 2), "f8").nbytes) == (8, 0)
    text = make_spec((5,), STRING)
    assert (text.nbytes, text.chunk_nbytes) == (0, 0)


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_fill_has_the_dtype(name: str) -> None:
    spec = make_spec(dtype=DTYPES[name])
    assert spec.fill == ("" if name == "text" else 0)
    if name != "text":
        assert spec.fill.dtype == spec.dtype
    assert make_spec(dtype=STRING, fill_value="n/a").fill == "n/a"


@given(spec=specs(EVERYTHING))
def test_specs_pickle(spec: ArraySpec) -> None:
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert str(again.fill) == str(spec.fill)


@given(spec=specs(EVERYTHING), data=st.data())
def test_permuting_is_undone(spec: ArraySpec, data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(len(spec.shape))))
    back = [axes.index(a) for a in range(len(axes))]
    permuted = spec.permuted(axes)
    assert permuted.shape == np.empty(spec.shape).transpose(axes).shape
    assert permuted.permuted(back, order=spec.layout.order) == spec


@given(spec=specs(EVERYTHING))
def test_memory_has_the_order_of_the_bytes(spec: ArraySpec) -> None:
    memory = spec.memory
    assert memory.layout.order == ()
    assert memory.dims == tuple(spec.dims[a] for a in spec.layout.axes)
    assert memory.chunk_nbytes == spec.chunk_nbytes
    assert memory.memory == memory


@pytest.mark.parametrize("dtype", ["U5", "O", STRING, "U", str])
def test_text_has_one_dtype(dtype: Any) -> None:
    assert parse_dtype(dtype) == STRING
    assert is_string(parse_dtype(dtype))


@pytest.mark.parametrize("name", sorted(set(DTYPES) - {"text"}))
def test_numbers_are_little_endian(name: str) -> None:
    dtype = DTYPES[name]
    assert parse_dtype(dtype.newbyteorder(">")) == dtype
    assert parse_dtype(dtype) == dtype
    assert not is_string(dtype)


@given(name=node_names())
def test_names_are_returned(name: str) -> None:
    if len(name.encode()) <= 255:
        assert check_name(name) == name


@pytest.mark.parametrize("name", [None, 1, b"a", ("a",)], ids=str)
def test_names_are_text(name: Any) -> None:
    with pytest.raises(InvalidInputError):
        check_name(name)


@given(values=attributes())
def test_plain_attributes_are_returned(values: dict[str, Any]) -> None:
    checked = check_attributes(values)
    assert plain(checked) == plain(values)
    assert plain(check_attributes(checked)) == plain(checked)


def test_largest_list_of_numbers() -> None:
    fits = list(range((64 * 1024 - 512) // 8))
    assert check_attributes({"x": fits}) == {"x": fits}
    with pytest.raises(InvalidInputError):
        check_attributes({"x": [*fits, 0]})


@pytest.mark.parametrize("key", ["a\x00", "\ud800"], ids=ascii)
def test_keys_of_nested_values_are_text_too(key: str) -> None:
    with pytest.raises(InvalidInputError):
        check_attributes({"x": [{key: 1}]})
