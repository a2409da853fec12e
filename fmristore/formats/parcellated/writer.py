"""Writing parcellated scans: the parcellation, and scans below it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fmristore.formats.names import encode_name
from fmristore.formats.nodes import (
    format_attributes,
    space_attributes,
    write_encoded,
    write_plain,
    write_texts,
)
from fmristore.formats.parcellated.layout import Kind, Numbers
from fmristore.formats.parcellated.reduce import summarise
from fmristore.formats.parcellated.series import MemoryMatrix, open_source
from fmristore.formats.parcellated.statistics import make_reduction, result_dtype
from fmristore.model.space import NeuroSpace
from fmristore.planning.blocks import box_shape, boxes
from fmristore.planning.layout import adapt_spec, choose_codecs, plan_matrix
from fmristore.planning.progress import Progress
from fmristore.sources.masks import load_volume
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.chunks.writer import write
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.grid import Region
from fmristore_stores.protocol import AnyArray, Group, Store
from fmristore_stores.spec import ArraySpec, check_attributes, is_string

__all__ = [
    "ParcelOptions",
    "ScanContent",
    "ScanRequest",
    "given_matrix",
    "make_parcellation",
    "matrix_boxes",
    "open_content",
    "voxel_weights",
    "write_root",
    "write_scan",
    "write_tree",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcelOptions:
    """How parcellated scans are to be stored.

    Parameters
    ----------
    codec : str
        Name of a codec preset.
    max_memory : int
        Bytes that writing may take.
    """

    codec: str = "dual"
    max_memory: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanRequest:
    """A scan that a user wants to be stored.

    Parameters
    ----------
    name : str
        Of the scan.
    source : object
        See `fmristore.formats.parcellated.series.open_source`; or the series of the parcels,
        (T, K), as they are.
    statistic : str or callable, optional
        What parcels are summarised by; None stores the series of every voxel.
    weights : object, optional
        Of the voxels: an image, or (V,) in order of the parcellation's voxels.
    metadata : mapping
        What else is known of the scan: names, and values that JSON can hold.
    array : mapping
        ``space``, ``tr``, ``slope``, ``inter`` for arrays.
    dtype : dtype, optional
        Of a stored summary.
    """

    name: str
    source: Any
    statistic: Any = None
    weights: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    array: Mapping[str, Any] = field(default_factory=dict)
    dtype: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanContent:
    """A scan that is ready to be written.

    Parameters
    ----------
    name : str
        Of the scan.
    kind : {"full", "summary"}
        What the rows of `numbers` are.
    numbers : Numbers
        The series.
    space : NeuroSpace
        Grid, number of times and TR.
    statistic : str, optional
        What the summary was made by.
    metadata : mapping
        Checked.
    """

    name: str
    kind: Kind
    numbers: Numbers
    space: NeuroSpace
    statistic: str | None
    metadata: Mapping[str, Any]


def make_parcellation(
    labels: Any,
    names: Any,
    mask: Any,
    *,
    space: NeuroSpace | AnyArray | None = None,
    request: ScanRequest | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Parcellation:
    """Make a parcellation on the grid of the run that it is for.

    Parameters
    ----------
    labels, names, mask : object
        See `Parcellation.from_labels`.
    space : NeuroSpace or ndarray, (4, 4), optional
        The grid, if an array of labels comes without a run.
    request : ScanRequest, optional
        The run.
    storage_options : mapping, optional
        For its URL.
    """
    if request is not None and given_matrix(request.source) is None:
        with open_source(request.source, storage_options=storage_options, **request.array) as run:
            space = run.space
    elif space is not None and not isinstance(space, NeuroSpace) and not _is_array(labels):
        space = None  # an affine that is meant for arrays; labels have their own
    return Parcellation.from_labels(labels, names=names, mask=mask, space=space)


def _is_array(labels: Any) -> bool:
    return not isinstance(labels, str | os.PathLike | Parcellation) and not (
        hasattr(labels, "dataobj") or hasattr(labels, "space")
    )


@contextlib.contextmanager
def open_content(
    request: ScanRequest,
    parcellation: Parcellation,
    *,
    max_memory: int,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Iterator[ScanContent]:
    """Open the source of a scan, and summarise it if that is wanted.

    Raises
    ------
    InvalidInputError
        If the source lies on another grid or is no run, or the statistic or metadata cannot be
        used.
    """
    encode_name(request.name)
    metadata = check_attributes(request.metadata)
    matrix = given_matrix(request.source)
    if matrix is not None:
        yield _from_matrix(request, matrix, parcellation, metadata)
        return
    with open_source(request.source, storage_options=storage_options, **request.array) as source:
        parcellation.check_grid(source.space)
        if request.statistic is None:
            if request.weights is not None:
                raise InvalidInputError("weights are for summaries")
            with source.numbers(parcellation, max_memory // 2) as numbers:
                yield ScanContent(
                    name=request.name,
                    kind="full",
                    numbers=numbers,
                    space=source.space,
                    statistic=None,
                    metadata=metadata,
                )
            return
        reduction = make_reduction(
            request.statistic,
            voxel_weights(request.weights, parcellation),
            source.dtype,
            len(parcellation.voxels),
        )
        found = summarise(source, parcellation, reduction, max_memory=max_memory, progress=progress)
        dtype = result_dtype(source.dtype) if request.dtype is None else np.dtype(request.dtype)
        with np.errstate(over="ignore"):
            numbers = Numbers(MemoryMatrix(found.astype(dtype)))
        yield ScanContent(
            name=request.name,
            kind="summary",
            numbers=numbers,
            space=source.space,
            statistic=reduction.name,
            metadata=metadata,
        )


def given_matrix(source: Any) -> AnyArray | None:
    """The source of a scan, if it is a matrix (T, K) and no image."""
    if isinstance(source, list | tuple) or getattr(source, "ndim", 0) == 2:
        try:
            values = np.asarray(source)
        except ValueError:
            return None
        return values if values.ndim == 2 else None
    return None


def _from_matrix(
    request: ScanRequest, values: AnyArray, parcellation: Parcellation, metadata: Mapping[str, Any]
) -> ScanContent:
    if values.shape[1] != len(parcellation) or not len(values):
        raise InvalidInputError(
            f"a matrix of shape {values.shape}: expected one column for each of "
            f"{len(parcellation)} parcels"
        )
    if values.dtype.kind not in "biufc":
        raise InvalidInputError(f"series must be numbers, not {values.dtype}")
    if request.weights is not None:
        raise InvalidInputError("weights are for series of voxels")
    space = getattr(request.source, "space", None)
    tr = request.array.get("tr") or (space.tr if isinstance(space, NeuroSpace) else None)
    dtype = values.dtype if request.dtype is None else np.dtype(request.dtype)
    statistic = request.statistic or getattr(request.source, "statistic", None)
    return ScanContent(
        name=request.name,
        kind="summary",
        numbers=Numbers(MemoryMatrix(values.astype(dtype, copy=False))),
        space=parcellation.space.with_time(len(values), tr=tr),
        statistic=statistic if isinstance(statistic, str) else None,
        metadata=metadata,
    )


def voxel_weights(weights: Any, parcellation: Parcellation) -> AnyArray | None:
    """Weights of the voxels in order of the parcellation, from an image or as they are."""
    if weights is None:
        return None
    values, grid, url = load_volume(weights, "weight image")
    if values.ndim == 1:
        return values
    if values.shape != parcellation.space.spatial_shape:
        raise InvalidInputError(
            f"weights of shape {values.shape}: expected {parcellation.space.spatial_shape} or "
            f"({len(parcellation.voxels)},)",
            url=url,
        )
    if grid is not None:
        parcellation.check_grid(grid)
    return parcellation.voxel_set.gather(values)


# The tree ------------------------------------------------------------------------------------


def write_tree(
    store: Store,
    format_name: str,
    parcellation: Parcellation,
    contents: Iterator[ScanContent],
    options: ParcelOptions,
) -> None:
    """Write a whole store.

    Parameters
    ----------
    store : Store
        New and writable.
    format_name : str
        ``"parcellatedmultiscan"``, or that of a single scan.
    parcellation : Parcellation
        Shared by all scans.
    contents : iterator of ScanContent
        Taken one after the other.
    options : ParcelOptions
        Codec and memory limit.
    """
    attributes = write_root(store, format_name, parcellation, options)
    scans = store.root.create_group("scans")
    names = []
    for content in contents:
        write_scan(store, scans, content, options)
        names.append(content.name)
    store.root.write_attributes(attributes | {"scans": names})


def write_root(
    store: Store, format_name: str, parcellation: Parcellation, options: ParcelOptions
) -> dict[str, Any]:
    """Write what all scans share; return the root attributes that are to follow."""
    root = store.root
    space = parcellation.space
    write_plain(root, "affine", ("world", "voxel"), np.array(space.affine), {"units": "mm"})
    group = root.create_group("parcellation")
    codec = options.codec
    volume = ("z", "y", "x")
    write_encoded(group, "labels", volume, parcellation.labels.T, codec)
    write_encoded(group, "mask", volume, parcellation.mask.T.astype(np.uint8), codec)
    write_plain(group, "ids", ("parcel",), parcellation.ids)
    write_texts(group, "names", "parcel", parcellation.names)
    write_encoded(group, "voxels", ("voxel", "axis"), parcellation.voxels, codec)
    write_encoded(group, "indptr", ("bound",), parcellation.indptr, codec)
    _write_columns(group, parcellation)
    attributes = format_attributes(format_name) | space_attributes(space)
    del attributes["time_unit"]
    return attributes


def _write_columns(group: Group, parcellation: Parcellation) -> None:
    if not parcellation.columns:
        return
    nodes = [encode_name(name) for name in parcellation.columns]
    columns = group.create_group("columns", {"columns": nodes})
    for node, (name, values) in zip(nodes, parcellation.columns.items(), strict=True):
        if is_string(values.dtype):
            write_texts(columns, node, "parcel", values.tolist())
            columns.array(node).write_attributes({"column": name})
        else:
            write_plain(columns, node, ("parcel",), values, {"column": name})


def write_scan(store: Store, scans: Group, content: ScanContent, options: ParcelOptions) -> None:
    """Write one scan below the group of scans; readers see it when it stands in the list."""
    attributes: dict[str, Any] = {"name": content.name, "kind": content.kind}
    space = content.space
    if space.tr is not None:
        attributes["repetition_time"] = space.tr
    attributes["time_unit"] = space.time_unit
    if content.statistic is not None:
        attributes["statistic"] = content.statistic
    group = scans.create_group(encode_name(content.name), attributes)
    if content.metadata:
        group.create_group("metadata", content.metadata)
    _, times = content.numbers.shape
    if space.tr is not None:
        write_plain(group, "t", ("t",), np.arange(times) * space.tr, {"units": "s"})
    scaling = content.numbers.scaling
    of_numbers: dict[str, Any] = {}
    if scaling is not None and scaling.per_volume:
        of_numbers["scaling"] = "per-volume"
        write_plain(group, "scale_factor", ("t",), np.asarray(scaling.slope))
        write_plain(group, "add_offset", ("t",), np.asarray(scaling.inter))
    elif scaling is not None:
        of_numbers |= {"scale_factor": scaling.slope, "add_offset": scaling.inter}
    axis = "voxel" if content.kind == "full" else "parcel"
    matrix = content.numbers.matrix
    dtype = np.dtype("u1") if matrix.dtype.kind == "b" else matrix.dtype
    layout = plan_matrix(matrix.shape, dtype, codec=options.codec)
    spec = ArraySpec(shape=matrix.shape, dtype=dtype, dims=(axis, "t"), layout=layout)
    spec = replace(spec, codecs=choose_codecs(options.codec, spec))
    spec = adapt_spec(spec, store.capabilities)
    array = group.create_array("0", spec, of_numbers)
    for rows, part in matrix_boxes(spec, options.max_memory // 4):
        write(array, (rows, part), matrix.read(rows, part).T)


def matrix_boxes(
    spec: ArraySpec, max_bytes: int, unit: tuple[int, ...] | None = None
) -> Iterator[Region]:
    """Regions of a matrix that consist of whole write units and fit in memory.

    Parameters
    ----------
    spec : ArraySpec
        Of the matrix.
    max_bytes : int
        Most bytes of a region.
    unit : tuple of int, optional
        What regions consist of instead.
    """
    size = box_shape(spec.shape, unit or spec.layout.units, spec.dtype.itemsize, max_bytes)
    return boxes(spec.shape, size)
