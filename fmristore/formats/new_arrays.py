"""Arrays as formats write them: each gets the digest of its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fmristore.model.digest import ArrayDigest, digest_values
from fmristore.planning.layout import choose_codecs, split_chunks
from fmristore_stores.chunks.writer import write
from fmristore_stores.grid import ChunkKey, Region
from fmristore_stores.protocol import AnyArray, Array, Group
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout

__all__ = [
    "NewArray",
    "write_array",
    "write_bytes",
    "write_encoded",
    "write_plain",
    "write_texts",
]


class NewArray:
    """An array that is written block by block and then gets the digest of all of it.

    Parameters
    ----------
    group : Group
        Gets it.
    name : str
        Of the array.
    spec : ArraySpec
        As the store takes it.
    attributes : mapping, optional
        Besides the digest.
    """

    def __init__(
        self, group: Group, name: str, spec: ArraySpec, attributes: Mapping[str, Any] | None = None
    ) -> None:
        self._attributes = dict(attributes or {})
        self._array = group.create_array(name, spec, self._attributes)
        self._digest = ArrayDigest(self._array.spec)

    @property
    def spec(self) -> ArraySpec:
        """Spec of the array as the store has it."""
        return self._array.spec

    @property
    def array(self) -> Array:
        """The array, for what is written to it by other ways; see `observe`."""
        return self._array

    def write(self, region: Region | None, values: Any) -> None:
        """Write a region that consists of whole chunks; see `fmristore_stores.chunks.writer`."""
        write(self._array, region, values, observe=self._digest.update)

    def observe(self, key: ChunkKey, values: AnyArray) -> None:
        """Take the values of a chunk that was written by another way."""
        self._digest.update(key, values)

    def finish(self) -> None:
        """Record the digest; every chunk must have been written."""
        self._array.write_attributes(self._attributes | {"digest": self._digest.text()})


def write_array(
    group: Group,
    name: str,
    spec: ArraySpec,
    values: AnyArray,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write an array that is in memory, with its digest."""
    if spec.nbytes > _SMALL:
        new = NewArray(group, name, spec, attributes)
        new.write(None, values)
        new.finish()
        return
    words = {**(attributes or {}), "digest": digest_values(values, spec)}
    write(group.create_array(name, spec, words), None, values)


_SMALL = 1 << 20
"""Bytes of an array of which the digest is computed before it is written, not by the threads that
write it: then its attributes are written once."""


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
    words = {**(attributes or {}), "digest": digest_values(values, spec)}
    group.create_array(name, spec, words).write(None, values)


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
    write_array(group, name, spec, values, attributes)


def write_texts(group: Group, name: str, dim: str, texts: Sequence[str]) -> None:
    """Write a list of texts as an array with one axis."""
    write_plain(group, name, (dim,), np.array(list(texts), STRING).reshape(len(texts)))


def write_bytes(group: Group, name: str, dim: str, data: bytes) -> None:
    """Write bytes as an array of uint8."""
    write_plain(group, name, (dim,), np.frombuffer(data, np.uint8))
