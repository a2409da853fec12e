"""Writing parcellated scans as the R package does, with what it needs and forgets itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.nodes import write_plain, write_texts
from fmristore.formats.parcellated.writer import ParcelOptions, ScanContent
from fmristore.formats.r_header import transform_fields, write_fields
from fmristore.formats.r_names import node_name, to_r_name
from fmristore.formats.r_numbers import R_EXACT, r_numbers
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import choose_codecs, split_chunks
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.chunks.writer import write
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray, Group, Store
from fmristore_stores.spec import STRING, ArraySpec, is_string

__all__ = ["write_tree"]

_VERSION = "0.1.0"
"""Of the R package whose layout this is."""
_CLASSES = {"full": "H5ParcellatedScan", "summary": "H5ParcellatedScanSummary"}
_RESERVED = ("cluster_ids", "cluster_meta")
_INT32 = 2**31


def write_tree(
    store: Store,
    format_name: str,
    parcellation: Parcellation,
    contents: Iterator[ScanContent],
    options: ParcelOptions,
) -> None:
    """Write a whole file; parameters as of `fmristore.formats.parcellated.writer.write_tree`.

    Parcels without voxels, which R cannot read, are left out.

    Raises
    ------
    InvalidInputError
        If a name of a scan or column has no place in R's layout, the codec no counterpart in R,
        or an integer is none that R has.
    """
    if options.codec not in ("portable", "none"):
        raise InvalidInputError(
            f"codec {options.codec!r}: R has no plug-ins; use 'portable' or 'none'"
        )
    root = store.root
    single = format_name != "parcellatedmultiscan"
    kept = np.flatnonzero(parcellation.sizes)
    _write_clusters(root, parcellation, kept, single=single)
    scans = root.create_group("scans")
    done: list[ScanContent] = []
    for content in contents:
        group = scans.create_group(
            node_name(content.name, "a scan"), {} if single else {"class": [_CLASSES[content.kind]]}
        )
        number = _dtype(content, single=single)
        if content.kind == "full":
            _write_full(group, content, parcellation, number, options)
        else:
            _write_summary(group, content, kept, number, options)
        _write_metadata(group, content)
        done.append(content)
    lengths = [content.numbers.shape[1] for content in done]
    _write_header(root, parcellation.space, lengths[0] if single else len(done))
    attributes: dict[str, Any] = {"fmristore_version": [_VERSION]}
    if single:
        attributes |= {
            "fmristore_class": [_CLASSES[done[0].kind]],
            "scan_name": [done[0].name],
            "n_time": lengths,
        }
    else:
        attributes["fmristore_class"] = ["H5ParcellatedMultiScan"]
        only = bool(done) and all(content.kind == "summary" for content in done)
        scans.write_attributes({"summary_only": [only]})
    root.write_attributes(attributes)


def _dtype(content: ScanContent, *, single: bool) -> np.dtype[Any]:
    """Type of R's files, but float64 for integers that float32 might not hold."""
    stored = content.numbers.dtype
    wide = stored.kind in "iu" and not np.can_cast(stored, np.float32, "safe")
    return np.dtype("f8" if single or wide else "f4")


def _write_clusters(
    root: Group, parcellation: Parcellation, kept: NDArray[np.int64], *, single: bool
) -> None:
    """Write labelled voxels, x fastest, and the table; a 0 in the map would break R."""
    labels = parcellation.labels.transpose(2, 1, 0)
    write_plain(root, "mask", (), (labels != 0).astype(np.uint8))
    write_plain(root, "cluster_map", (), labels[labels != 0])
    voxels = np.argwhere(labels)[:, ::-1].astype(np.int32)
    write_plain(root, "voxel_coords", (), np.ascontiguousarray(voxels.T) + np.int32(1))
    clusters = root.create_group("clusters")
    ids = parcellation.ids[kept]
    write_plain(clusters, "cluster_ids", (), ids)
    table = clusters
    if not single:
        table = clusters.create_group("cluster_meta")
        write_plain(table, "cluster_id", (), ids)
    columns = {"name": np.array([parcellation.names[k] for k in kept], STRING)}
    for name, values in parcellation.columns.items():
        if name in ("name", "cluster_id", *_RESERVED):
            raise InvalidInputError(f"R's layout has no room for a column called {name!r}")
        columns[to_r_name(name, "a column")] = values[kept]
    for name, values in columns.items():
        _write_column(table, name, values)
    if single:  # where R's H5ParcellatedMultiScan, which opens these files too, has its table
        again = clusters.create_group("cluster_meta")
        again.link("cluster_id", "clusters/cluster_ids")
        for name in columns:
            again.link(name, f"clusters/{name}")


def _write_column(group: Group, name: str, values: AnyArray) -> None:
    if is_string(values.dtype):
        write_texts(group, name, "", values.tolist())
    else:
        write_plain(group, name, (), _narrow(values))


def _narrow(values: AnyArray) -> AnyArray:
    """Integers as R's, where they fit: R has none of 64 bits."""
    if values.dtype.kind in "iu":
        fits = not values.size or (values.min() > -_INT32 and values.max() < _INT32)
        return r_numbers(values, np.dtype(np.int32 if fits else np.float64))
    return values


def _write_header(root: Group, space: NeuroSpace, fourth: int) -> None:
    """Write NIfTI fields, with the rotation and origin that R forgets and then reads."""
    header = root.create_group("header")
    fields = transform_fields(space)
    if not _sheared(space):  # only then are the rows worth an extra node
        fields = {name: value for name, value in fields.items() if not name.startswith("srow")}
    dim = [4, *space.spatial_shape, fourth, 1, 1, 1]
    write_fields(header, {"dim": dim, "pixdim": [0.0, *space.spacing, 0.0, 0.0, 0.0, 0.0]})
    write_fields(header, fields)


def _sheared(space: NeuroSpace) -> bool:
    columns = space.affine[:3, :3] / space.spacing
    return not np.allclose(columns.T @ columns, np.eye(3), atol=1e-6)


def _array(
    group: Group,
    name: str,
    shape: tuple[int, int],
    chunks: tuple[int, int],
    dtype: np.dtype[Any],
    options: ParcelOptions,
) -> Any:
    layout = split_chunks(shape, dtype.itemsize, chunks)
    spec = ArraySpec(shape=shape, dtype=dtype, layout=layout)
    return group.create_array(name, replace(spec, codecs=choose_codecs(options.codec, spec)))


def _write_full(
    group: Group,
    content: ScanContent,
    parcellation: Parcellation,
    dtype: np.dtype[Any],
    options: ParcelOptions,
) -> None:
    clusters = group.create_group("clusters")
    times = content.numbers.shape[1]
    for k, number in enumerate(parcellation.ids):
        first, stop = int(parcellation.indptr[k]), int(parcellation.indptr[k + 1])
        if first == stop:
            continue
        shape = (times, stop - first)
        array = _array(clusters, f"cluster_{number}", shape, shape, dtype, options)
        step = array.spec.layout.chunks[0]
        width = 3 * dtype.itemsize * shape[1]
        step *= max(1, options.max_memory // 2 // (width * step))
        for t0 in range(0, times, step):
            part = slice(t0, min(t0 + step, times), 1)
            values = content.numbers.read(slice(first, stop, 1), part)
            write(array, (part, slice(0, shape[1], 1)), r_numbers(values, dtype))


def _write_summary(
    group: Group,
    content: ScanContent,
    kept: NDArray[np.int64],
    dtype: np.dtype[Any],
    options: ParcelOptions,
) -> None:
    times = content.numbers.shape[1]
    values = r_numbers(content.numbers.read(kept, slice(0, times, 1)), dtype).T
    shape = (len(kept), times)
    summary = group.create_group("clusters_summary")
    write(_array(summary, "summary_data", shape, shape, dtype, options), None, values)


def _write_metadata(group: Group, content: ScanContent) -> None:
    """Write what is known of a scan, and its length, which R goes by and otherwise guesses."""
    metadata = {**content.metadata, "n_time": content.numbers.shape[1]}
    if content.space.tr is not None:
        metadata["TR"] = content.space.tr
    target = group.create_group("metadata")
    for name, value in _plain(metadata).items():
        write_plain(target, to_r_name(name, "an item of metadata"), (), value)


def _plain(metadata: Mapping[str, Any]) -> dict[str, AnyArray]:
    """Values as arrays; what R has no vectors for becomes JSON text."""
    return {
        name: _vector(value) if value and isinstance(value, list) else _vector([value]).reshape(())
        for name, value in metadata.items()
        if value is not None
    }


def _vector(values: Sequence[Any]) -> AnyArray:
    kinds = {type(value) for value in values}
    if kinds == {str}:
        return np.array(values, STRING)
    if kinds == {bool}:
        return np.array(values, np.int8)
    if kinds <= {int, float} and not any(abs(v) >= R_EXACT for v in values if type(v) is int):
        return _narrow(np.array(values))
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return np.array(texts, STRING)
