"""Hypothesis strategies: names, attributes, specs, regions, and values with any bits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fmristore_stores.codecs.pipeline import preset
from fmristore_stores.grid import Region, region_shape
from fmristore_stores.protocol import AnyArray, Capability
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout, is_string

__all__ = [
    "DTYPES",
    "FILL_VALUES",
    "attributes",
    "broadcastable",
    "make_spec",
    "node_names",
    "random_values",
    "regions",
    "specs",
]

_NUMBERS = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
DTYPES: dict[str, np.dtype[Any]] = {name: np.dtype(name) for name in _NUMBERS} | {"text": STRING}
"""Every dtype that a store must hold, by name."""

FILL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "b": (None, True),
    "i": (None, 1, -1),
    "u": (None, 255),
    "f": (None, 1.5, -0.0, math.nan, math.inf, -math.inf),
    "c": (None, 1 - 2j, complex(-0.0, math.nan)),
    "T": (None, "n/a"),
}
"""Fill values to try, by kind of dtype."""

_TEXTS = ("", "a", "Faces > Houses", "größer", "脳", "🧠", "two\nlines", "trailing ", "x" * 300)


def random_values(shape: tuple[int, ...], dtype: np.dtype[Any], seed: int = 0) -> AnyArray:
    """Values of random bits, so floats have NaNs with all payloads, infinities and subnormals."""
    rng = np.random.default_rng(seed)
    if is_string(dtype):
        picked = [_TEXTS[i] for i in rng.integers(0, len(_TEXTS), math.prod(shape))]
        return np.array(picked, STRING).reshape(shape)
    if dtype.kind == "b":
        return rng.integers(0, 2, math.prod(shape)).astype(bool).reshape(shape)
    raw = rng.bytes(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape).copy()


def node_names() -> st.SearchStrategy[str]:
    """Names that every store must accept."""
    text = st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="/\\"),
        min_size=1,
        max_size=40,
    )
    return text.filter(
        lambda name: not name.startswith(("__", ".z")) and name not in (".", "..", "zarr.json")
    )


def attributes() -> st.SearchStrategy[dict[str, Any]]:
    """Attributes that every store must keep exactly."""
    text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
    names = st.text(
        st.characters(codec="utf-8", exclude_characters="\x00/"), min_size=1, max_size=20
    )
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | text
    )
    values = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    )
    uniform = st.one_of(
        st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6),
        st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=6),
        st.lists(text, max_size=6),
        st.lists(st.booleans(), max_size=6),
    )
    return st.dictionaries(names, values | uniform, max_size=6)


def make_spec(
    shape: tuple[int, ...] = (5, 4),
    dtype: np.dtype[Any] | str = "float32",
    *,
    chunks: tuple[int, ...] | None = None,
    shards: tuple[int, ...] | None = None,
    order: tuple[int, ...] = (),
    codec: str = "none",
    fill_value: Any = None,
) -> ArraySpec:
    """A spec with named axes and, by default, small chunks with partial ones."""
    parsed = np.dtype(dtype)
    grid = tuple(max(1, min(n, 2)) for n in shape) if chunks is None else chunks
    return ArraySpec(
        shape=shape,
        dtype=parsed,
        dims=tuple("tzyxabcdefgh"[: len(shape)]),
        layout=ChunkLayout(chunks=grid, shards=shards, order=order),
        codecs=preset(codec, parsed),
        fill_value=fill_value,
    )


@st.composite
def specs(draw: st.DrawFn, capabilities: Capability) -> ArraySpec:
    """Specs that a store of these capabilities must hold."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = tuple(draw(st.lists(st.integers(0, 7), max_size=4)))
    chunks = tuple(draw(st.integers(1, max(1, n))) for n in shape)
    shards = None
    order: tuple[int, ...] = ()
    if shape and Capability.SHARDS in capabilities and draw(st.booleans()):
        shards = tuple(c * draw(st.integers(1, 3)) for c in chunks)
    if Capability.CHUNK_ORDER in capabilities and not is_string(dtype):
        order = tuple(draw(st.permutations(range(len(shape)))))
    return make_spec(
        shape,
        dtype,
        chunks=chunks,
        shards=shards,
        order=order,
        codec=draw(st.sampled_from(["none", "dual"])) if shape and dtype.kind != "T" else "none",
        fill_value=draw(st.sampled_from(FILL_VALUES[dtype.kind])),
    )


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...]) -> Region | None:
    """Regions of an array, with steps; some are empty, some are everything."""
    if draw(st.integers(0, 9)) == 0:
        return None
    region = []
    for length in shape:
        start = draw(st.integers(0, length))
        stop = draw(st.integers(start, length))
        region.append(slice(start, stop, draw(st.sampled_from([1, 1, 2, 3, None]))))
    return tuple(region)


@st.composite
def broadcastable(draw: st.DrawFn, region: Region, dtype: np.dtype[Any]) -> AnyArray:
    """Values that can be broadcast to a region's shape."""
    shape = region_shape(region)
    shape = tuple(1 if draw(st.integers(0, 5)) == 0 else n for n in shape)
    dropped = 0
    while dropped < len(shape) and shape[dropped] == 1 and draw(st.booleans()):
        dropped += 1
    return random_values(shape[dropped:], dtype, draw(st.integers(0, 2**32)))
