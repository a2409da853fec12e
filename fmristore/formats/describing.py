"""Facts about stored objects as plain JSON values: the words that formats share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fmristore.formats.stored import StoredArray
from fmristore.labeltable import LabelTable
from fmristore.space import NeuroSpace
from fmristore_stores.grid import grid_shape
from fmristore_stores.reader import ChunkReader

__all__ = [
    "access_text",
    "describe_numbers",
    "describe_parcels",
    "describe_scan",
    "describe_space",
    "first_few",
    "plain_number",
    "type_text",
]

_MOST_CHUNKS = 1 << 20
"""Chunks of one array that are located one by one."""
_FEW = 5


def describe_space(space: NeuroSpace) -> dict[str, Any]:
    """Where voxels lie in the world, and when."""
    return {
        "grid": list(space.spatial_shape),
        "affine": space.affine.tolist(),
        "spacing_mm": list(space.spacing),
        "origin_mm": list(space.origin),
        "orientation": space.orientation,
        "time_points": space.time_points,
        "tr_s": space.tr,
        "name": space.space_name,
        "unit": space.space_unit,
        "time_unit": space.time_unit,
    }


def describe_scan(name: str, space: NeuroSpace, dtype: np.dtype[Any]) -> dict[str, Any]:
    """One of several runs or scans, in short."""
    return {
        "name": name,
        "time_points": space.time_points,
        "tr_s": space.tr,
        "dtype": type_text(dtype),
    }


def describe_parcels(table: LabelTable) -> dict[str, Any]:
    """Number of the parcels of a table, and ids and names of the first ones."""
    ids, names = table.ids[:_FEW].tolist(), table.names[:_FEW]
    first = [{"id": i, "name": name} for i, name in zip(ids, names, strict=True)]
    return {"count": len(table), "first": first}


def first_few(items: Sequence[Any]) -> dict[str, Any]:
    """How many there are, and the first ones."""
    return {"count": len(items), "first": list(items[:_FEW])}


def describe_numbers(arrays: Iterable[StoredArray]) -> dict[str, Any]:
    """How the arrays that hold an object's numbers are laid out, and what they take.

    Parameters
    ----------
    arrays : iterable of StoredArray
        The main one first.

    Returns
    -------
    dict
        ``layout`` of the main array and ``sizes`` of all; empty if there are none. Encoded bytes
        are None where only a library knows where chunks are, or where there are too many. Where
        numbers are stored twice, ``copy`` is the layout of the first copy, raw bytes are counted
        once, and ``copies_encoded_bytes`` is what all copies add.

    Raises
    ------
    CorruptDataError
        If a chunk table or the index of a shard is damaged.
    """
    layouts: dict[str, dict[str, Any]] = {}
    count = raw = missing = 0
    encoded: int | None = 0
    added: int | None = 0
    for array in arrays:
        reader = array.reader
        role = "copy" if array.is_copy else "layout"
        if role not in layouts:
            layouts[role] = _layout(array.path, reader)
        chunks = math.prod(grid_shape(reader.spec.shape, reader.spec.layout.chunks))
        cost = reader.cost() if chunks <= _MOST_CHUNKS else None
        count += 1
        raw += 0 if array.is_copy else reader.spec.nbytes
        missing += 0 if cost is None else cost.missing
        stored = None if cost is None else cost.encoded_bytes
        encoded = None if encoded is None or stored is None else encoded + stored
        if array.is_copy:
            added = None if added is None or stored is None else added + stored
    if not count:
        return {}
    sizes = {
        "arrays": count,
        "raw_bytes": raw,
        "encoded_bytes": encoded,
        "ratio": raw / encoded if encoded else None,
        "chunks_missing": missing,
    }
    if "copy" in layouts:
        sizes["copies_encoded_bytes"] = added
    return {**layouts, "sizes": sizes}


def _layout(path: str, reader: ChunkReader) -> dict[str, Any]:
    spec = reader.spec
    layout = spec.layout
    axes = list(spec.dims) or [""] * len(spec.shape)
    return {
        "array": path,
        "axes": axes,
        "chunks": list(layout.chunks),
        "shards": None if layout.shards is None else list(layout.shards),
        "order": [axes[a] for a in layout.axes],
        "codecs": [str(codec) for codec in spec.codecs],
        "chunk_count": math.prod(grid_shape(spec.shape, layout.chunks)),
    }


def access_text(access: str) -> str:
    """What an image is laid out for, in words."""
    return "time and for volumes" if access == "both" else access


def type_text(dtype: np.dtype[Any]) -> str:
    """Name of a type of numbers; ``RGB`` or ``RGBA`` for colours."""
    return "".join(dtype.names) if dtype.names else str(dtype)


def plain_number(value: Any) -> Any:
    """A number, list or None as JSON can hold it; text for a number that is not finite."""
    if isinstance(value, np.ndarray):
        return [plain_number(one) for one in value.tolist()]
    if isinstance(value, Mapping):
        return {str(key): plain_number(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
