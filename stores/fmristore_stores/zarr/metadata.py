"""Zarr metadata documents as `ArraySpec`, and the other way round."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fmristore_stores.codecs.names import PCODEC, from_zarr_codecs, zarr_codecs
from fmristore_stores.codecs.pipeline import supported
from fmristore_stores.errors import (
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
)
from fmristore_stores.grid import ChunkKey
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec, is_string, parse_dtype

__all__ = ["Described", "Placement", "creation", "describe"]

_LIMIT = 2**63
_DIGITS = 20
"""Digits that no position of a chunk has."""
_MAX_CHUNKS_PER_SHARD = 2**24
"""The index of a shard with more chunks would take over 256 MiB."""
_INDEX_CODECS = [("bytes", "little"), ("crc32c", None)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Place of the encoded chunks of an array.

    Parameters
    ----------
    prefix : str
        First part of every chunk's key; empty for keys of Zarr format 2.
    separator : str
        Between the parts of a key.
    index_first : bool
        Whether the index of a shard lies at its start instead of its end.
    """

    prefix: str = "c"
    separator: str = "/"
    index_first: bool = False

    def key(self, unit: ChunkKey) -> str:
        """Key of a chunk, or of a shard, relative to its array."""
        parts = [self.prefix, *map(str, unit)] if self.prefix else [str(k) for k in unit]
        return self.separator.join(parts) or "0"

    def position(self, key: str, rank: int) -> ChunkKey | None:
        """The chunk or shard of a key relative to its array; None if it is that of none."""
        if not rank:
            return () if key == self.key(()) else None
        parts = key.split(self.separator)
        if self.prefix and parts.pop(0) != self.prefix:
            return None
        if len(parts) != rank or not all(part.isascii() and part.isdecimal() for part in parts):
            return None
        found = tuple(int(part) for part in parts if len(part) < _DIGITS)
        return found if len(found) == rank and self.key(found) == key else None


class Described(NamedTuple):
    """An array as its metadata describes it.

    Parameters
    ----------
    spec : ArraySpec
        What it is.
    placement : Placement or None
        Where its encoded chunks lie; None if only zarr-python can read them.
    """

    spec: ArraySpec
    placement: Placement | None


def describe(document: Mapping[str, Any], dtype: np.dtype[Any], fill_value: Any) -> Described:
    """Read the metadata of an array, of Zarr format 2 or 3.

    Parameters
    ----------
    document : mapping
        The metadata as plain JSON values, already accepted by zarr-python.
    dtype : dtype
        As stored.
    fill_value : scalar or None
        Already decoded.

    Returns
    -------
    Described
        The spec, and whether and where its chunks can be found without zarr-python.

    Raises
    ------
    MetadataError
        If the metadata are damaged, or speak of sizes beyond 2**63.
    LayoutNotSupportedError
        If the array is of a kind that cannot be used here: other dtypes, irregular chunks.
    """
    try:
        if document["zarr_format"] == 2:
            return Described(_spec_of_format_2(document, dtype, fill_value), None)
        return _describe_format_3(document, dtype, fill_value)
    except InvalidInputError as error:
        raise MetadataError(f"this array cannot be used: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise MetadataError(f"the metadata of this array is not understood: {error!r}") from error


def _describe_format_3(
    document: Mapping[str, Any], dtype: np.dtype[Any], fill_value: Any
) -> Described:
    shape = tuple(document["shape"])
    if document.get("storage_transformers"):
        raise LayoutNotSupportedError("storage transformers are not known")
    grid = document["chunk_grid"]
    if grid["name"] != "regular":
        raise LayoutNotSupportedError(f"the chunk grid {grid['name']!r} is not regular")
    chunks = tuple(grid["configuration"]["chunk_shape"])
    plain = all(c > 0 for c in chunks)
    shards, codecs, index_first = None, list(document["codecs"]), False
    if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        configuration = codecs[0]["configuration"]
        shards, chunks = chunks, tuple(configuration["chunk_shape"])
        codecs = list(configuration["codecs"])
        index_first = configuration.get("index_location", "end") == "start"
        plain = plain and _index_codecs(configuration["index_codecs"]) == _INDEX_CODECS
    order, steps, simple = _pipeline(codecs, len(shape), dtype)
    dims = document.get("dimension_names") or ()
    spec = _spec(
        shape,
        dtype,
        dims=dims,
        layout=_layout(chunks, shards, order),
        codecs=steps,
        fill_value=fill_value,
    )
    keys = document["chunk_key_encoding"]
    separator = (keys.get("configuration") or {}).get("separator")
    plain = plain and simple and dtype == spec.dtype and not is_string(spec.dtype)
    plain = plain and supported(steps)
    if not plain or keys["name"] not in ("default", "v2"):
        return Described(spec, None)
    default = keys["name"] == "default"
    placement = Placement(
        prefix="c" if default else "",
        separator=separator or ("/" if default else "."),
        index_first=index_first,
    )
    return Described(spec, placement)


def _spec_of_format_2(
    document: Mapping[str, Any], dtype: np.dtype[Any], fill_value: Any
) -> ArraySpec:
    shape = tuple(document["shape"])
    order = tuple(reversed(range(len(shape)))) if document.get("order") == "F" else ()
    steps = [*(document.get("filters") or ()), document.get("compressor")]
    codecs = tuple(
        CodecSpec.of(f"zarr:{step['id']}", configuration=json.dumps(step, sort_keys=True))
        for step in steps
        if step and step["id"] != "vlen-utf8"
    )
    dims = (document.get("attributes") or {}).get("_ARRAY_DIMENSIONS")
    named = isinstance(dims, list) and len(dims) == len(shape)
    return _spec(
        shape,
        dtype,
        dims=dims if named else (),
        layout=_layout(tuple(document["chunks"]), None, order),
        codecs=codecs,
        fill_value=fill_value,
    )


def _spec(shape: tuple[int, ...], dtype: np.dtype[Any], **fields: Any) -> ArraySpec:
    """Make a spec after a look at its sizes and names."""
    text = dtype.kind in "SUOT"
    if not text:
        try:
            parse_dtype(dtype)
        except InvalidInputError as error:
            raise LayoutNotSupportedError(f"this array cannot be used: {error}") from error
    item = 1 if text else dtype.itemsize
    layout = fields["layout"]
    if _too_large(shape, item, layout):
        raise MetadataError("the shape, chunk shape or number of chunks in a shard is absurd")
    names = [name if isinstance(name, str) else "" for name in fields.pop("dims")]
    dims = tuple(name if name not in names[:i] else "" for i, name in enumerate(names))
    return ArraySpec(shape=shape, dtype=np.dtype(str) if text else dtype, dims=dims, **fields)


def _too_large(shape: tuple[int, ...], itemsize: int, layout: ChunkLayout) -> bool:
    """True if positions do not fit 63 bits, even with empty axes filled, or a shard's index."""
    for lengths in (shape, layout.chunks, layout.units):
        if math.prod(max(n, 1) for n in lengths) * itemsize >= _LIMIT:
            return True
    per_shard = math.prod(layout.units) // math.prod(layout.chunks)
    return per_shard > _MAX_CHUNKS_PER_SHARD


def _layout(
    chunks: tuple[int, ...], shards: tuple[int, ...] | None, order: tuple[int, ...]
) -> ChunkLayout:
    # Other software writes chunks of length 0 for axes of length 0.
    whole = tuple(max(c, 1) for c in chunks)
    return ChunkLayout(chunks=whole, shards=shards or None, order=order)


def _pipeline(
    codecs: Sequence[Mapping[str, Any]], rank: int, dtype: np.dtype[Any]
) -> tuple[tuple[int, ...], tuple[CodecSpec, ...], bool]:
    """In-chunk order and bytes-to-bytes steps of a pipeline, and whether that is all of it."""
    rest = list(codecs)
    order: tuple[int, ...] = ()
    if rest and rest[0]["name"] == "transpose":
        order = tuple(rest.pop(0)["configuration"]["order"])
        if sorted(order) != list(range(rank)):
            raise MetadataError(f"transpose order {order} does not fit {rank} axes")
    if rest and rest[0]["name"] == PCODEC:
        return order, from_zarr_codecs(rest, dtype), True
    first = rest.pop(0) if rest and rest[0]["name"] in ("bytes", "vlen-utf8") else None
    simple = first is not None and first["name"] == "bytes"
    if first is not None and (first.get("configuration") or {}).get("endian") == "big":
        simple = False
    return order, from_zarr_codecs(rest, dtype), simple


def _index_codecs(codecs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    return [(c["name"], (c.get("configuration") or {}).get("endian")) for c in codecs]


def creation(spec: ArraySpec) -> dict[str, Any]:
    """Arguments of ``zarr.create_array`` for exactly this spec.

    Raises
    ------
    LayoutNotSupportedError
        If a chunk is longer than its axis, something is too large to be addressed, or text shall
        have another order than that of its axes.
    CodecError
        If a codec cannot be written in Zarr metadata.
    InvalidInputError
        If the fill value does not fit the dtype.
    """
    layout = spec.layout
    if any(c > max(n, 1) for c, n in zip(layout.chunks, spec.shape, strict=True)):
        msg = f"chunk shape {layout.chunks} does not fit into an array of shape {spec.shape}"
        raise LayoutNotSupportedError(msg)
    if layout.order and is_string(spec.dtype):
        # Zarr-python's codec for text takes the elements in the order of memory.
        raise LayoutNotSupportedError("text is stored in the order of its axes only")
    if _too_large(spec.shape, spec.dtype.itemsize, layout):
        raise LayoutNotSupportedError("the array, or the number of chunks in a shard, is absurd")
    try:
        fill = spec.fill
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"fill value {spec.fill_value!r} does not fit dtype {spec.dtype}"
        raise InvalidInputError(msg) from error
    transpose = {"name": "transpose", "configuration": {"order": list(layout.order)}}
    serializer: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    compressors = zarr_codecs(spec.codecs)
    if compressors and compressors[0]["name"] == PCODEC:
        serializer = compressors.pop(0)
    arguments = {
        "shape": spec.shape,
        "dtype": "string" if is_string(spec.dtype) else spec.dtype,
        "chunks": layout.chunks,
        "shards": layout.shards or None,
        "filters": [transpose] if layout.order else [],
        "compressors": compressors or None,
        "fill_value": fill,
        "dimension_names": [d or None for d in spec.dims] if any(spec.dims) else None,
        "chunk_key_encoding": {"name": "default", "separator": "/"},
        "config": {"write_empty_chunks": True},
        "zarr_format": 3,
    }
    if not is_string(spec.dtype):
        arguments["serializer"] = serializer
    return arguments
