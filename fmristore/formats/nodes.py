"""Small nodes that most formats have: plain arrays, texts, bytes, the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fmristore.formats.registry import FORMAT, VERSION, WRITER
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import choose_codecs, split_chunks
from fmristore_stores._version import __version__
from fmristore_stores.chunks.writer import write
from fmristore_stores.protocol import AnyArray, Group
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout

__all__ = [
    "format_attributes",
    "space_attributes",
    "write_bytes",
    "write_encoded",
    "write_plain",
    "write_texts",
]


def write_plain(
    group: Group,
    name: str,
    dims: Sequence[str],
    values: AnyArray,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a small array as one chunk without compression."""
    layout = ChunkLayout(chunks=tuple(max(1, n) for n in values.shape))
    spec = ArraySpec(shape=values.shape, dtype=values.dtype, dims=tuple(dims), layout=layout)
    group.create_array(name, spec, attributes).write(None, values)


def write_encoded(
    group: Group,
    name: str,
    dims: Sequence[str],
    values: AnyArray,
    codec: str,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write an array that is read as a whole, in a few large chunks encoded as a preset says."""
    layout = split_chunks(values.shape, values.dtype.itemsize, values.shape)
    spec = ArraySpec(shape=values.shape, dtype=values.dtype, dims=tuple(dims), layout=layout)
    spec = replace(spec, codecs=choose_codecs(codec, spec))
    write(group.create_array(name, spec, attributes), None, values)


def write_texts(group: Group, name: str, dim: str, texts: Sequence[str]) -> None:
    """Write a list of texts as an array with one axis."""
    write_plain(group, name, (dim,), np.array(list(texts), STRING).reshape(len(texts)))


def write_bytes(group: Group, name: str, dim: str, data: bytes) -> None:
    """Write bytes as an array of uint8."""
    write_plain(group, name, (dim,), np.frombuffer(data, np.uint8))


def format_attributes(name: str, version: tuple[int, int] = (1, 0)) -> dict[str, Any]:
    """Root attributes that every format has."""
    return {
        FORMAT: name,
        VERSION: ".".join(map(str, version)),
        WRITER: f"fmristore {__version__} (Python)",
    }


def space_attributes(space: NeuroSpace) -> dict[str, Any]:
    """Root attributes that say what the affine leaves open."""
    attributes: dict[str, Any] = {"space_unit": space.space_unit, "time_unit": space.time_unit}
    if space.tr is not None:
        attributes["repetition_time"] = space.tr
    if space.space_name is not None:
        attributes["space_name"] = space.space_name
    return attributes
