"""Where in a store parcellated scans are, reading them there and writing them.

Scans, summaries and containers of both share their nodes, so all of it is in this one long module.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.matrix import ArrayMatrix, MemoryMatrix, ScaledMatrix
from fmristore.formats.names import encode_name
from fmristore.formats.nodes import (
    NewArray,
    format_attributes,
    read_affine,
    space_attributes,
    write_array,
    write_bytes,
    write_encoded,
    write_plain,
    write_texts,
)
from fmristore.formats.options import MatrixOptions, Target, store_as
from fmristore.formats.parcellated.reduce import (
    ScanKind,
    make_reduction,
    result_dtype,
    summarise,
)
from fmristore.formats.registry import NativeLayout
from fmristore.formats.voxel_source import VoxelReader, voxel_reader
from fmristore.interop.pandas import plain_tables
from fmristore.model.scaling import Scaling, make_scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import unmask
from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.layout import adapt_spec, choose_codecs, plan_matrix
from fmristore.planning.memory import UNIT_SHARE, require_unit, within
from fmristore.planning.progress import Progress
from fmristore.sources.door import as_source, has_grid, load_volume
from fmristore.sources.labelled import positional
from fmristore.sources.labels import LabelTable
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import (
    AlreadyExistsError,
    FmristoreError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.grid import Region
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Group, Store
from fmristore_stores.spec import ArraySpec, Attributes, check_attributes, is_string

__all__ = [
    "OwnTree",
    "ParcellatedLayout",
    "ScanContent",
    "ScanInput",
    "ScanParts",
    "ScanTree",
    "array_options",
    "check_names",
    "create_scans",
    "each_content",
    "given_matrix",
    "make_parcellation",
    "matrix_blocks",
    "no_such_scan",
    "only_scan",
    "open_content",
    "read_columns",
    "scan_requests",
    "voxel_weights",
    "write_root",
    "write_scan",
    "write_tree",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanInput:
    """A scan that a user wants to be stored.

    Parameters
    ----------
    name : str
        Of the scan.
    source : object
        See `fmristore.sources.door.as_source`; or the series of the parcels, (T, K), as they are.
    statistic : str or callable, optional
        What parcels are summarised by; None stores the series of every voxel.
    weights : object, optional
        Of the voxels: an image, or (V,) in order of the parcellation's voxels.
    metadata : mapping
        What else is known of the scan: names, and values that JSON can hold.
    array : mapping
        ``space``, ``slope``, ``inter`` for arrays; ``tr`` for all.
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
    numbers : ScaledMatrix
        The series.
    space : NeuroSpace
        Grid, number of times and TR.
    statistic : str, optional
        What the summary was made by.
    metadata : mapping
        Checked.
    header : bytes
        NIfTI header of the run; empty if it had none.
    """

    name: str
    kind: ScanKind
    data: ScaledMatrix
    space: NeuroSpace
    statistic: str | None
    metadata: Mapping[str, Any]
    header: bytes = b""


def make_parcellation(
    labels: Any,
    names: Any,
    mask: Any,
    *,
    space: NeuroSpace | AnyArray | None = None,
    request: ScanInput | None = None,
    space_name: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Parcellation:
    """Make a parcellation on the grid of the run that it is for.

    Parameters
    ----------
    labels, names, mask : object
        See `Parcellation.from_labels`.
    space : NeuroSpace or ndarray, (4, 4), optional
        The grid, if an array of labels comes without a run.
    request : ScanInput, optional
        The run.
    space_name : str, optional
        Name of the space; comes before what labels and run say.
    storage_options : mapping, optional
        For its URL.
    """
    if request is not None and given_matrix(request.source) is None:
        with as_source(request.source, storage_options=storage_options, **request.array) as run:
            run.check_run()
            space = run.space
    elif space is not None and not isinstance(space, NeuroSpace) and has_grid(labels):
        space = None  # an affine that is meant for arrays; labels have their own
    made = Parcellation.from_labels(
        labels, names=names, mask=mask, space=space, storage_options=storage_options
    )
    if space_name is None or made.space.space_name == space_name:
        return made
    named = replace(made.space, space_name=space_name)
    return Parcellation(named, made.labels, made.table, mask=made.mask, voxels=made.voxels)


@contextlib.contextmanager
def open_content(
    request: ScanInput,
    parcellation: Parcellation,
    *,
    max_memory: int,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    require: Callable[[tuple[int, int], np.dtype[Any]], None] | None = None,
) -> Iterator[ScanContent]:
    """Open the source of a scan, and summarise it if that is wanted.

    `require` is called with the shape and type of the matrix of a full scan before it is read.

    Raises
    ------
    InvalidInputError
        If the source lies on another grid or is no run, or the statistic or metadata cannot be
        used.
    """
    encode_name(request.name)
    metadata = check_attributes(plain_tables(request.metadata))
    matrix = given_matrix(request.source)
    if matrix is not None:
        yield _from_matrix(request, matrix, parcellation, metadata)
        return
    with as_source(request.source, storage_options=storage_options, **request.array) as source:
        source.check_run()
        parcellation.check_grid(source.space)
        reader = voxel_reader(source, parcellation.voxel_set)
        if request.statistic is None:
            if request.weights is not None:
                raise InvalidInputError("weights are for summaries")
            if require is not None:
                require((len(parcellation.voxels), reader.times), reader.dtype)
            with within(max_memory, max_memory // 2), reader.matrix(max_memory // 2) as data:
                yield ScanContent(
                    name=request.name,
                    kind="full",
                    data=data,
                    space=source.space,
                    statistic=None,
                    metadata={**reader.metadata, **metadata},
                    header=_named_header(reader, parcellation.space.space_name),
                )
            return
        reduction = make_reduction(
            request.statistic,
            voxel_weights(request.weights, parcellation, storage_options),
            reader.scaled_dtype,
            len(parcellation.voxels),
        )
        found = summarise(reader, parcellation, reduction, max_memory=max_memory, progress=progress)
        dtype = np.dtype(request.dtype or result_dtype(reader.scaled_dtype))
        with np.errstate(over="ignore"):
            data = ScaledMatrix(MemoryMatrix(found.astype(dtype).T))
        yield ScanContent(
            name=request.name,
            kind="summary",
            data=data,
            space=source.space,
            statistic=reduction.name,
            metadata={**reader.metadata, **metadata},
        )


def _named_header(source: VoxelReader, space_name: str | None) -> bytes:
    """NIfTI header of a run, with the codes of the space that the parcellation is in."""
    from fmristore.nifti import header_in_space

    if not source.header or space_name in (None, source.space.space_name):
        return source.header
    return header_in_space(source.header, str(space_name))


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
    request: ScanInput, values: AnyArray, parcellation: Parcellation, metadata: Mapping[str, Any]
) -> ScanContent:
    values = parcellation.table.in_order(request.source, values)
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
    tr = request.array.get("tr")
    if tr is None and isinstance(space, NeuroSpace):
        tr = space.tr
    dtype = values.dtype if request.dtype is None else np.dtype(request.dtype)
    statistic = request.statistic or getattr(request.source, "statistic", None)
    return ScanContent(
        name=request.name,
        kind="summary",
        data=ScaledMatrix(MemoryMatrix(values.astype(dtype, copy=False).T)),
        space=parcellation.space.with_time(
            len(values),
            tr=tr,
            time_offset=space.time_offset if isinstance(space, NeuroSpace) else 0.0,
        ),
        statistic=statistic if isinstance(statistic, str) else None,
        metadata=metadata,
    )


def voxel_weights(
    weights: Any,
    parcellation: Parcellation,
    storage_options: Mapping[str, Any] | None = None,
) -> AnyArray | None:
    """Weights of the voxels in order of the parcellation, from an image or one for each label."""
    if weights is None:
        return None
    shape = parcellation.space.spatial_shape if has_grid(weights) else None
    if hasattr(weights, "iloc"):
        weights = positional(weights, "weights")
    values, grid, url = load_volume(weights, "weight image", storage_options, shape=shape)
    if values.ndim == 1:
        inside = parcellation.labels != 0
        return parcellation.voxel_set.gather(unmask(values, inside))
    if values.shape[3:] == (1,):
        values = values[..., 0]
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
    options: MatrixOptions,
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
    options : MatrixOptions
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
    store: Store, format_name: str, parcellation: Parcellation, options: MatrixOptions
) -> dict[str, Any]:
    """Write what all scans share; return the root attributes that are to follow."""
    root = store.root
    space = parcellation.space
    write_plain(
        root, "affine", ("affine_row", "affine_column"), np.array(space.affine), {"units": "mm"}
    )
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
            column = columns.array(node)
            column.write_attributes({**column.read_attributes(), "column": name})
        else:
            write_plain(columns, node, ("parcel",), values, {"column": name})


def write_scan(store: Store, scans: Group, content: ScanContent, options: MatrixOptions) -> None:
    """Write one scan below the group of scans; readers see it when it stands in the list."""
    attributes: dict[str, Any] = {"name": content.name, "kind": content.kind}
    space = content.space
    if space.tr is not None:
        attributes["repetition_time"] = space.tr
    if space.time_offset:
        attributes["time_offset"] = space.time_offset
    attributes["time_unit"] = space.time_unit
    if content.statistic is not None:
        attributes["statistic"] = content.statistic
    group = scans.create_group(encode_name(content.name), attributes)
    if content.metadata:
        group.create_group("metadata", content.metadata)
    if space.times is not None:
        write_plain(group, "t", ("t",), space.times, {"units": "s"})
    if content.header:
        write_bytes(group, "nifti", "nifti_byte", content.header)
    scaling = content.data.scaling
    data_attributes: dict[str, Any] = {}
    if scaling is not None and scaling.per_volume:
        data_attributes["scaling"] = "per-volume"
        write_plain(group, "scale_factor", ("t",), np.asarray(scaling.slope))
        write_plain(group, "add_offset", ("t",), np.asarray(scaling.inter))
    elif scaling is not None:
        data_attributes |= {"scale_factor": scaling.slope, "add_offset": scaling.inter}
    axis = "voxel" if content.kind == "full" else "parcel"
    matrix = content.data.matrix
    dtype = np.dtype("u1") if matrix.dtype.kind == "b" else matrix.dtype
    spec = adapt_spec(_scan_spec(matrix.shape, dtype, axis, options.codec), store.capabilities)
    if isinstance(matrix, MemoryMatrix):
        values = matrix.read(*(slice(0, n, 1) for n in matrix.shape))
        write_array(group, "0", spec, values, data_attributes)
        return
    array = NewArray(group, "0", spec, data_attributes)
    for rows, part in matrix_blocks(spec, options.max_memory, share=UNIT_SHARE):
        array.write((rows, part), matrix.read(rows, part))
    array.finish()


def _scan_spec(shape: tuple[int, int], dtype: np.dtype[Any], axis: str, codec: str) -> ArraySpec:
    """Spec of the matrix of a scan, before it is adapted to a store."""
    layout = plan_matrix(shape, dtype, codec=codec)
    spec = ArraySpec(shape=shape, dtype=dtype, dims=(axis, "t"), layout=layout)
    return replace(spec, codecs=choose_codecs(codec, spec))


def matrix_blocks(
    spec: ArraySpec, max_memory: int, unit: tuple[int, ...] | None = None, *, share: int = 1
) -> Iterator[Region]:
    """Regions of a matrix that consist of whole write units and fit in memory.

    Parameters
    ----------
    spec : ArraySpec
        Of the matrix.
    max_memory : int
        Bytes of memory that there are.
    unit : tuple of int, optional
        What regions consist of instead.
    share : int
        Part of the memory, as a divisor, that a region may take.
    """
    unit = unit or spec.layout.units
    size = block_shape(spec.shape, unit, spec.dtype.itemsize, max_memory, share=share)
    return cut_into_blocks(spec.shape, size)


def scan_requests(
    scans: Mapping[str, Any],
    statistic: Any,
    metadata: Mapping[str, Mapping[str, Any]] | None,
    space: NeuroSpace | AnyArray | None,
    tr: float | None,
) -> list[ScanInput]:
    """Scans to be stored together.

    Parameters
    ----------
    scans : mapping
        Sources by name.
    statistic : str or callable, optional
        What parcels are summarised by, in all of them.
    metadata : mapping, optional
        Mappings by name of the scan.
    space : NeuroSpace or ndarray, (4, 4), optional
        For arrays.
    tr : float, optional
        For arrays.

    Raises
    ------
    InvalidInputError
        If there are metadata of a scan that is not there.
    """
    unknown = [name for name in metadata or {} if name not in scans]
    if unknown:
        raise InvalidInputError(f"metadata of {unknown[0]!r}, which is no scan")
    return [
        ScanInput(
            name=name,
            source=source,
            statistic=statistic,
            metadata=(metadata or {}).get(name, {}),
            array=array_options(source, space, tr),
        )
        for name, source in scans.items()
    ]


def array_options(
    source: Any, space: NeuroSpace | AnyArray | None, tr: float | None
) -> dict[str, Any]:
    """What an array does not say itself; runs in one store differ in length."""
    if not isinstance(source, np.ndarray):
        return {"tr": tr}
    if isinstance(space, NeuroSpace):
        return {"space": space.without_time(), "tr": space.tr if tr is None else tr}
    return {"space": space, "tr": tr}


Made = TypeVar("Made")


def create_scans(
    cls: type[Made],
    target: Target,
    parcellation: Parcellation,
    requests: Sequence[ScanInput],
) -> Made:
    """Store scans, which appear together when all are complete, and open them.

    Raises
    ------
    AlreadyExistsError
        If there is something and it shall not be replaced, or two scans have one name.
    InvalidInputError
        If a scan cannot be stored.
    """
    check_names([request.name for request in requests])
    with contextlib.closing(each_content(target, parcellation, requests)) as contents:
        made: Made = store_as(cls, target, (parcellation, contents), target.matrix())
    return made


def check_names(names: Sequence[str]) -> None:
    """Check that names of scans are all different.

    Raises
    ------
    AlreadyExistsError
        If not.
    """
    for i, name in enumerate(names):
        if name in names[:i]:
            raise AlreadyExistsError(f"there is a scan called {name!r} already")


def _require_room(target: Target, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Refuse a full scan of which not one shard can be gathered in memory.

    Raises
    ------
    MemoryLimitError
        With the least that is needed.
    """
    if target.kind == "zarr":
        require_unit(_scan_spec(shape, dtype, "voxel", target.codec), target.max_memory)


def each_content(
    target: Target, parcellation: Parcellation, requests: Sequence[ScanInput]
) -> Generator[ScanContent, None, None]:
    """Open and summarise scans one after the other; only one source is open at a time."""
    for request in requests:
        with open_content(
            request,
            parcellation,
            max_memory=target.max_memory,
            storage_options=target.storage_options,
            progress=target.progress,
            require=functools.partial(_require_room, target),
        ) as content:
            yield content


_MOST_VOXELS = 1 << 30

_MOST_PARCELS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanParts:
    """What makes a scan of stored values.

    Parameters
    ----------
    tree : ScanTree
        Where it lies, with its parcellation.
    name : str
        Of the scan.
    kind : {"full", "summary"}
        What its rows are: voxels in order of their parcels, or parcels.
    numbers : ScaledMatrix
        The series.
    space : NeuroSpace
        Grid, number of times and TR.
    statistic : str, optional
        What a summary was made by.
    metadata : mapping
        What else is known of the scan.
    arrays : tuple of StoredArray
        Where the series lie.
    """

    tree: ScanTree
    name: str
    kind: ScanKind
    data: ScaledMatrix
    space: NeuroSpace
    statistic: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[StoredArray, ...] = ()


class ScanTree(Protocol):
    """How a store arranges parcellated scans; made from a handle alone."""

    writable: bool
    """Whether scans can be added to stores of this kind."""

    def __init__(self, handle: Handle) -> None: ...

    @property
    def space(self) -> NeuroSpace:
        """The grid, without time."""

    @property
    def scan_names(self) -> tuple[str, ...]:
        """Names of the scans, in order."""

    @property
    def table(self) -> LabelTable:
        """The parcels, without their voxels."""

    def parcellation(self) -> Parcellation:
        """The parcels and their voxels."""

    def scan(self, name: str) -> ScanParts:
        """Find a scan; no other one is touched."""


class OwnTree:
    """Parcellated scans as fmristore stores them.

    Parameters
    ----------
    handle : Handle
        The store.
    """

    writable = True

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __reduce__(self) -> tuple[type[OwnTree], tuple[Handle]]:
        return OwnTree, (self._handle,)

    def _wrong(self, message: str, node: str = "") -> MetadataError:
        return MetadataError(message, url=self._handle.locator.url, node=node or None)

    @cached_property
    def _attributes(self) -> Mapping[str, Any]:
        return self._handle.store.root.read_attributes()

    @cached_property
    def scan_names(self) -> tuple[str, ...]:
        """Names of the scans, in order."""
        names = self._attributes.get("scans")
        if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
            raise self._wrong("the attribute scans must be a list of names")
        if len(set(names)) != len(names):
            raise self._wrong("the attribute scans holds a name twice")
        return tuple(names)

    @cached_property
    def space(self) -> NeuroSpace:
        """The grid, without time."""
        labels = StoredArray(self._handle, "parcellation/labels").reader.spec
        if sorted(labels.dims) != ["x", "y", "z"]:
            raise self._wrong(f"axes are {labels.dims}, expected z, y, x", "parcellation/labels")
        length = dict(zip(labels.dims, labels.shape, strict=True))
        name = self._attributes.get("space_name")
        try:
            return NeuroSpace(
                spatial_shape=(length["x"], length["y"], length["z"]),
                affine=read_affine(self._handle),
                space_name=None if name is None else str(name),
                space_unit=str(self._attributes.get("space_unit", "mm")),
            )
        except InvalidInputError as error:
            raise self._wrong(f"the grid is damaged: {error.message}") from error

    @cached_property
    def table(self) -> LabelTable:
        """The parcels, without their voxels."""
        ids = self._small("ids", ("parcel",), _MOST_PARCELS)
        names = self._small("names", ("parcel",), _MOST_PARCELS)
        if ids.dtype.kind not in "iu" or not is_string(names.dtype) or len(ids) != len(names):
            raise self._wrong("ids and names do not fit each other", "parcellation")
        wide = ids.astype(np.int64)
        if not len(ids) or wide[0] < 1 or wide[-1] >= 2**31 or (wide[1:] <= wide[:-1]).any():
            raise self._wrong("ids must be positive and ascending", "parcellation/ids")
        columns = read_columns(self._handle, "parcellation/columns", len(ids), by_attribute=True)
        return LabelTable(wide.astype(np.int32), tuple(names.tolist()), columns)

    def _small(self, name: str, dims: tuple[str, ...], most: int) -> AnyArray:
        path = f"parcellation/{name}"
        array = StoredArray(self._handle, path)
        found = array.reader.spec.dims
        if sorted(found) != sorted(dims):
            raise self._wrong(f"axes are {found}, expected {dims}", path)
        return array.read_small(most).transpose([found.index(d) for d in dims])

    def parcellation(self) -> Parcellation:
        """The parcels and their voxels."""
        grid = ("x", "y", "z")
        labels = self._small("labels", grid, _MOST_VOXELS)
        mask = self._small("mask", grid, _MOST_VOXELS)
        voxels = self._small("voxels", ("voxel", "axis"), 3 * _MOST_VOXELS)
        indptr = self._small("indptr", ("bound",), _MOST_PARCELS + 1)
        if labels.dtype.kind not in "iu" or mask.dtype.kind not in "iub":
            raise self._wrong("labels and mask must be integers", "parcellation")
        if labels.size and (labels.min() < 0 or labels.max() >= 2**31):
            raise self._wrong("labels must be from 0 to 2**31 - 1", "parcellation/labels")
        try:
            made = Parcellation(self.space, labels, self.table, mask=mask != 0, voxels=voxels)
        except InvalidInputError as error:
            raise self._wrong(f"the parcellation is damaged: {error.message}") from error
        if indptr.dtype.kind not in "iu" or not np.array_equal(made.indptr, indptr):
            raise self._wrong("indptr does not fit the labels", "parcellation/indptr")
        return made

    def scan(self, name: str) -> ScanParts:
        """Find a scan; no other one is touched.

        Raises
        ------
        SelectionError
            If there is none of that name.
        MetadataError
            If it is damaged.
        """
        if name not in self.scan_names:
            raise no_such_scan(name, self.scan_names, self._handle.locator.url)
        path = f"scans/{encode_name(name)}"
        root = self._handle.store.root
        try:
            group = root.group(path)
        except NotFoundError as error:
            raise self._wrong("this scan is in the list of scans but not there", path) from error
        attributes = group.read_attributes()
        kind = attributes.get("kind")
        if kind not in ("full", "summary"):
            raise self._wrong(f"kind is {kind!r:.80}, expected 'full' or 'summary'", path)
        data = self._numbers(path, kind)
        children = group.children()
        metadata = group.group("metadata").read_attributes() if "metadata" in children else {}
        statistic = attributes.get("statistic")
        return ScanParts(
            tree=self,
            name=name,
            kind=kind,
            data=data,
            space=self._timed(attributes, data.shape[1], path),
            statistic=None if statistic is None else str(statistic),
            metadata=metadata,
            arrays=(StoredArray(self._handle, f"{path}/0"),),
        )

    def _timed(self, attributes: Mapping[str, Any], times: int, path: str) -> NeuroSpace:
        try:
            space = self.space.with_time(
                times,
                tr=attributes.get("repetition_time"),
                time_offset=attributes.get("time_offset", 0.0),
            )
            return replace(space, time_unit=str(attributes.get("time_unit", "s")))
        except (InvalidInputError, TypeError) as error:
            raise self._wrong(f"the times are damaged: {error}", path) from error

    def _numbers(self, path: str, kind: ScanKind) -> ScaledMatrix:
        axis = "voxel" if kind == "full" else "parcel"
        array = StoredArray(self._handle, f"{path}/0")
        spec = array.reader.spec
        if sorted(spec.dims) != sorted((axis, "t")) or is_string(spec.dtype):
            raise self._wrong(f"axes are {spec.dims}, expected {axis}, t", f"{path}/0")
        matrix = ArrayMatrix(array, axis, kinds="biufc")
        named = "voxels" if kind == "full" else "ids"
        rows = StoredArray(self._handle, f"parcellation/{named}").reader.spec
        if matrix.shape[0] not in rows.shape[:1]:
            raise self._wrong(
                f"has {matrix.shape[0]} rows where the parcellation has {rows.shape[:1]}",
                f"{path}/0",
            )
        return ScaledMatrix(matrix, self._scaling(path, array, matrix.shape[1]))

    def _scaling(self, path: str, array: StoredArray, times: int) -> Scaling | None:
        attributes = array.attributes
        slope, inter = attributes.get("scale_factor"), attributes.get("add_offset")
        try:
            if attributes.get("scaling") == "per-volume":
                slope, inter = (
                    StoredArray(self._handle, f"{path}/{name}").read_small(times)
                    for name in ("scale_factor", "add_offset")
                )
            return make_scaling(slope, inter, volumes=times)
        except (InvalidInputError, TypeError, ValueError) as error:
            raise self._wrong(f"scale_factor and add_offset are damaged: {error}", path) from error


class ParcellatedLayout(NativeLayout):
    """Parcellated scans as fmristore stores them.

    Parameters
    ----------
    format_name : str
        The format.
    kind : {"full", "summary"}, optional
        That of the only scan; None for the container of several.
    """

    def __init__(self, format_name: str, kind: ScanKind | None = None) -> None:
        super().__init__(format_name)
        self.kind = kind

    def read(self, handle: Handle) -> OwnTree | ScanParts:
        """Docstring inherited."""
        tree = OwnTree(handle)
        return tree if self.kind is None else only_scan(tree, self.kind, handle.locator.url)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        del progress
        parcellation, contents = content
        write_tree(store, self.format_name, parcellation, contents, options)


def only_scan(tree: ScanTree, kind: ScanKind, url: str) -> ScanParts:
    """The scan of a store that holds one.

    Raises
    ------
    MetadataError
        If there are several, or it is of the other kind.
    """
    if len(tree.scan_names) != 1:
        raise MetadataError(
            f"a single scan is expected and there are {len(tree.scan_names)}", url=url
        )
    parts = tree.scan(tree.scan_names[0])
    if parts.kind != kind:
        raise MetadataError(f"the scan is of the kind {parts.kind!r}, expected {kind!r}", url=url)
    return parts


def read_columns(
    handle: Handle,
    path: str,
    length: int,
    *,
    by_attribute: bool = False,
    convert: Callable[[AnyArray, Attributes], AnyArray] | None = None,
) -> dict[str, AnyArray]:
    """Columns of a table that lie side by side as arrays of one axis.

    Parameters
    ----------
    handle : Handle
        The store.
    path : str
        Of the group; it need not exist.
    length : int
        Rows of the table.
    by_attribute : bool
        Whether the attribute ``columns`` of the group lists them, and each has its name in the
        attribute ``column``.
    convert : callable, optional
        Makes of the stored values of a column, and the attributes of its array, what they mean.

    Raises
    ------
    MetadataError
        If a column has another length.
    """
    root = handle.store.root
    try:
        group = root.group(path)
    except NotFoundError:
        return {}
    nodes = [name for name, child in group.children().items() if child.kind == "array"]
    if by_attribute:
        listed = group.read_attributes().get("columns")
        order = {n: i for i, n in enumerate(_texts(listed))}
        nodes.sort(key=lambda node: order.get(node, math.inf))
    columns = {}
    for node in nodes:
        array = StoredArray(handle, f"{path}/{node}")
        try:
            values = array.read_small(length)
        except FmristoreError as error:
            error.url, error.node = error.url or handle.locator.url, error.node or f"{path}/{node}"
            raise
        if not values.shape and length == 1:
            values = values.reshape(1)  # R writes a vector of one element as a scalar
        if values.shape != (length,):
            raise MetadataError(
                f"has the shape {values.shape} where there are {length} parcels",
                url=handle.locator.url,
                node=f"{path}/{node}",
            )
        if convert is not None:
            values = convert(values, array.attributes)
        name = array.attributes.get("column", node) if by_attribute else node
        columns[str(name)] = values
    return columns


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def no_such_scan(name: str, known: Sequence[str], url: str) -> SelectionError:
    """Error for a scan that is not there."""
    some = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
    return SelectionError(f"no scan is called {name!r}; there are {some or 'none'}", url=url)
