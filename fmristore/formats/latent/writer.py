"""Writing a latent representation: its tree of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fmristore.formats.latent.factors import LatentFactors, is_csr
from fmristore.formats.names import encode_name
from fmristore.formats.new_arrays import NewArray, write_array, write_bytes
from fmristore.formats.nodes import (
    format_attributes,
    holds,
    space_attributes,
    with_holds,
    write_grid,
    write_label,
    write_metadata,
    write_times,
)
from fmristore.formats.voxel_nodes import ORDER
from fmristore.model.space import NeuroSpace
from fmristore.planning.chunking import even, shard_shape
from fmristore.planning.layout import adapt_spec, choose_codecs, plan_layout, plan_matrix
from fmristore_stores.protocol import AnyArray, Capability, Group
from fmristore_stores.spec import ArraySpec, ChunkLayout

__all__ = ["LatentOptions", "write_latent"]

_CHUNK_BYTES = 256 * 1024
_PORTABLE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentOptions:
    """Options of storing a latent representation.

    Parameters
    ----------
    codec : str
        Name of a codec preset.
    error : float, optional
        To be recorded as ``reconstruction_error``.
    voxel_error : ndarray, (V,), optional
        To be recorded for each voxel.
    """

    codec: str = "dual"
    error: float | None = None
    voxel_error: AnyArray | None = None


def write_latent(
    group: Group,
    factors: LatentFactors,
    *,
    capabilities: Capability,
    codec: str,
    error: float | None = None,
    voxel_error: AnyArray | None = None,
) -> None:
    """Write a latent representation into an empty group.

    Parameters
    ----------
    group : Group
        Becomes its root.
    factors : LatentFactors
        Checked already, but for whether dense loadings are finite.
    capabilities : Capability
        Of the store.
    codec : str
        Name of a codec preset.
    error : float, optional
        To be recorded as ``reconstruction_error``.
    voxel_error : ndarray, (V,), optional
        To be recorded for each voxel.

    Raises
    ------
    InvalidInputError
        If a loading is not finite.
    """
    writer = _Writer(group, capabilities, codec)
    space = factors.space
    write_grid(group, space.without_time())
    mask = factors.voxels.mask.transpose(2, 1, 0).astype(np.uint8)
    writer.add("mask", ("z", "y", "x"), mask)
    ordered = np.array_equal(np.argwhere(mask)[:, ::-1], factors.voxels.voxels)
    writer.add(
        "voxels", ("voxel", "xyz"), factors.voxels.voxels, {"order": ORDER} if ordered else {}
    )
    if factors.offset is not None:
        writer.add("offset", ("voxel",), factors.offset)
    if voxel_error is not None:
        writer.add("voxel_error", ("voxel",), voxel_error)
    if is_csr(factors.loadings):
        _write_sparse(writer, factors.loadings)
    else:
        array = writer.create(
            "loadings",
            ("voxel", "component"),
            tuple(factors.loadings.shape),
            factors.loadings_dtype,
        )
        for start, values in factors.bands(array.spec.layout.units[0]):
            array.write(
                (slice(start, start + len(values), 1), slice(0, values.shape[1], 1)), values
            )
        array.finish()
    _write_scans(writer, factors)
    attributes = format_attributes("latentneurovec") | space_attributes(space)
    if factors.header:
        write_bytes(group, "nifti", "nifti_byte", factors.header)
    if error is not None:
        attributes["reconstruction_error"] = error
    group.write_attributes(with_holds(group, attributes))


def _write_sparse(writer: _Writer, rows: Any) -> None:
    inside = writer.group("loadings", {"storage": "csr", "shape": list(rows.shape)})
    inside.add("data", ("entry",), rows.data)
    inside.add("indices", ("entry",), rows.indices.astype(np.int32, copy=False))
    inside.add("indptr", ("row_start",), rows.indptr.astype(np.int64, copy=False))


def _write_scans(writer: _Writer, factors: LatentFactors) -> None:
    scans = writer.group("scans", holds(map(encode_name, factors.scans)))
    for position, (name, scan) in enumerate(factors.scans.items()):
        attributes: dict[str, Any] = {"name": name, "position": position}
        if scan.tr is not None:
            attributes["repetition_time"] = scan.tr
        if scan.time_offset:
            attributes["time_offset"] = scan.time_offset
        space = factors.space.with_time(len(scan.basis), tr=scan.tr, time_offset=scan.time_offset)
        present = [("t", space.times is not None), ("metadata", bool(scan.metadata))]
        attributes |= holds(node for node, there in present if there)
        group = scans.group(encode_name(name), attributes | {"coordinates": "scan"})
        group.describe(name, space, scan.metadata)
        group.add("basis", ("t", "component"), scan.basis)


class _Writer:
    """Maker of arrays below a group, with a layout by their axes."""

    def __init__(self, group: Group, capabilities: Capability, codec: str) -> None:
        self._group = group
        self._capabilities = capabilities
        self._codec = codec

    def group(self, name: str, attributes: Mapping[str, Any]) -> _Writer:
        """Make a child group."""
        made = self._group.create_group(name, attributes)
        return _Writer(made, self._capabilities, self._codec)

    def describe(self, name: str, space: NeuroSpace, metadata: Mapping[str, Any]) -> None:
        """Write the name and times of the scan of the group, and what else is known of it."""
        write_label(self._group, "scan", name)
        write_times(self._group, space)
        write_metadata(self._group, metadata)

    def add(
        self,
        name: str,
        dims: Sequence[str],
        values: AnyArray,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an array."""
        spec = self._spec(dims, values.shape, values.dtype)
        write_array(self._group, name, spec, values, attributes)

    def create(
        self, name: str, dims: Sequence[str], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NewArray:
        """Make an array that is to be written in bands."""
        return NewArray(self._group, name, self._spec(dims, shape, dtype))

    def _spec(self, dims: Sequence[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArraySpec:
        spec = ArraySpec(
            shape=shape, dtype=dtype, dims=tuple(dims), layout=self._layout(shape, dtype)
        )
        spec = replace(spec, codecs=choose_codecs(self._codec, spec))
        return adapt_spec(spec, self._capabilities)

    def _layout(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ChunkLayout:
        if len(shape) == 3:
            return plan_layout(
                shape, dtype, dims=("z", "y", "x"), access="volume", codec=self._codec
            )
        if len(shape) == 2:
            return plan_matrix((shape[0], shape[1]), dtype, codec=self._codec)
        budget = _PORTABLE_BYTES if self._codec == "portable" else _CHUNK_BYTES
        chunks = (even(shape[0], budget // dtype.itemsize),)
        return ChunkLayout(chunks=chunks, shards=shard_shape(shape, chunks, dtype.itemsize))
