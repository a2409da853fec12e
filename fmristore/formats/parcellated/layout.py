"""Layout of parcellated scans in a store: reading and writing them.

Scans, summaries and containers of both share their nodes, so all of it is in this one long module.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.matrix import ArrayMatrix, MemoryMatrix, ScaledMatrix
from fmristore.formats.names import encode_name
from fmristore.formats.new_arrays import (
    NewArray,
    write_array,
    write_bytes,
    write_encoded,
    write_plain,
    write_texts,
)
from fmristore.formats.nodes import (
    format_attributes,
    has_child,
    holds,
    read_affine,
    read_metadata,
    scaling_attributes,
    space_attributes,
    with_holds,
    write_axes,
    write_label,
    write_metadata,
    write_names,
    write_times,
)
from fmristore.formats.options import MatrixOptions
from fmristore.formats.registry import NativeLayout
from fmristore.model.scaling import Scaling, make_scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.layout import adapt_spec, choose_codecs, plan_matrix
from fmristore.planning.memory import UNIT_SHARE
from fmristore.planning.progress import Progress
from fmristore.sources.labels import LabelTable
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.causes import naming
from fmristore_stores.errors import (
    InvalidInputError,
    MetadataError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.grid import Region
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Group, Store
from fmristore_stores.spec import ArraySpec, Attributes, is_string

__all__ = [
    "NewScan",
    "OwnTree",
    "ParcellatedLayout",
    "ScanContent",
    "ScanKind",
    "ScanTree",
    "matrix_blocks",
    "no_such_scan",
    "only_scan",
    "read_columns",
    "scan_spec",
    "write_root",
    "write_scan",
    "write_tree",
]

ScanKind = Literal["full", "summary"]

"""True if a scan holds the series of every voxel, or one for each parcel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewScan:
    """A scan that is ready to be written.

    Parameters
    ----------
    name : str
        Of the scan.
    kind : {"full", "summary"}
        What the rows of `data` are.
    data : ScaledMatrix
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


# The tree ------------------------------------------------------------------------------------
def write_tree(
    store: Store,
    format_name: str,
    parcellation: Parcellation,
    contents: Iterator[NewScan],
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
    contents : iterator of NewScan
        Taken one after the other.
    options : MatrixOptions
        Codec and memory limit.
    """
    attributes = write_root(store, format_name, parcellation, options)
    scans = store.root.create_group("scans")
    names = []
    for content in contents:
        write_scan(store, scans, content, parcellation.names, options)
        names.append(content.name)
    store.root.write_attributes(attributes | {"scans": names})


def write_root(
    store: Store, format_name: str, parcellation: Parcellation, options: MatrixOptions
) -> dict[str, Any]:
    """Write what all scans share; return the root attributes that are to follow."""
    root = store.root
    space = parcellation.space
    listed = holds(["columns"] if parcellation.columns else [])
    codes = parcellation.form_codes
    if codes is not None:
        listed |= {"sform_code": codes[0], "qform_code": codes[1]}
    group = root.create_group("parcellation", {"coordinates": "ids names"} | listed)
    write_axes(group, space)
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


def write_scan(
    store: Store,
    scans: Group,
    content: NewScan,
    names: Sequence[str],
    options: MatrixOptions,
) -> None:
    """Write one scan below the group of scans; readers see it when it stands in the list.

    `names` are those of the parcels.
    """
    attributes: dict[str, Any] = {"name": content.name, "kind": content.kind}
    space = content.space
    if space.tr is not None:
        attributes["repetition_time"] = space.tr
    if space.time_offset:
        attributes["time_offset"] = space.time_offset
    attributes["time_unit"] = space.time_unit
    if content.statistic is not None:
        attributes["statistic"] = content.statistic
    attributes["coordinates"] = "scan"
    group = scans.create_group(encode_name(content.name), attributes)
    write_label(group, "scan", content.name)
    write_times(group, space, content.data.scaling)
    if content.kind == "summary":
        write_names(group, "parcel", names)
    write_metadata(group, content.metadata)
    if content.header:
        write_bytes(group, "nifti", "nifti_byte", content.header)
    data_attributes = scaling_attributes(content.data.scaling)
    axis = "voxel" if content.kind == "full" else "parcel"
    matrix = content.data.matrix
    dtype = np.dtype("u1") if matrix.dtype.kind == "b" else matrix.dtype
    spec = adapt_spec(scan_spec(matrix.shape, dtype, axis, options.codec), store.capabilities)
    if isinstance(matrix, MemoryMatrix):
        values = matrix.read(*(slice(0, n, 1) for n in matrix.shape))
        write_array(group, "0", spec, values, data_attributes)
    else:
        array = NewArray(group, "0", spec, data_attributes)
        for rows, part in matrix_blocks(spec, options.max_memory, share=UNIT_SHARE):
            array.write((rows, part), matrix.read(rows, part))
        array.finish()
    # Last: of a scan that is left unfinished in a Zarr store nothing is missing.
    group.write_attributes(with_holds(group, attributes))


def scan_spec(shape: tuple[int, int], dtype: np.dtype[Any], axis: str, codec: str) -> ArraySpec:
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


_MOST_VOXELS = 1 << 30

_MOST_PARCELS = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanContent:
    """Contents of a stored scan, as its class takes them.

    Parameters
    ----------
    tree : ScanTree
        Where it lies, with its parcellation.
    name : str
        Of the scan.
    kind : {"full", "summary"}
        What its rows are: voxels in order of their parcels, or parcels.
    data : ScaledMatrix
        The series.
    space : NeuroSpace
        Grid, number of times and TR.
    statistic : str, optional
        What a summary was made by.
    read_metadata : callable
        Reads what else is known of the scan, such as tables of confounds; not needed for opening.
    arrays : tuple of StoredArray
        Where the series lie.
    """

    tree: ScanTree
    name: str
    kind: ScanKind
    data: ScaledMatrix
    space: NeuroSpace
    statistic: str | None = None
    read_metadata: Callable[[], Mapping[str, Any]] = dict
    arrays: tuple[StoredArray, ...] = ()


class ScanTree(ABC):
    """Arrangement of parcellated scans in a store; made from a handle alone.

    Parameters
    ----------
    handle : Handle
        The store.
    """

    writable: ClassVar[bool]
    """True if scans can be added to stores of this kind."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __reduce__(self) -> tuple[type[Self], tuple[Handle]]:
        return type(self), (self._handle,)

    def _wrong(self, message: str, node: str = "") -> MetadataError:
        return MetadataError(message, url=self._handle.locator.url, node=node or None)

    @property
    def _attributes(self) -> Mapping[str, Any]:
        return self._handle.opened.attributes

    @property
    @abstractmethod
    def space(self) -> NeuroSpace:
        """The grid, without time."""

    @property
    @abstractmethod
    def scan_names(self) -> tuple[str, ...]:
        """Names of the scans, in order."""

    @property
    @abstractmethod
    def table(self) -> LabelTable:
        """The parcels, without their voxels."""

    @abstractmethod
    def parcellation(self) -> Parcellation:
        """The parcels and their voxels."""

    @abstractmethod
    def scan(self, name: str) -> ScanContent:
        """Find a scan; no other one is touched."""


class OwnTree(ScanTree):
    """Parcellated scans as fmristore stores them.

    Parameters
    ----------
    handle : Handle
        The store.
    """

    writable = True

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
        columns = {}
        if has_child(self._handle, "parcellation", "columns"):
            path = "parcellation/columns"
            columns = read_columns(self._handle, path, len(ids), by_attribute=True)
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
            made = Parcellation(
                self.space,
                labels,
                self.table,
                mask=mask != 0,
                voxels=voxels,
                form_codes=self._form_codes(),
            )
        except InvalidInputError as error:
            raise self._wrong(f"the parcellation is damaged: {error.message}") from error
        if indptr.dtype.kind not in "iu" or not np.array_equal(made.indptr, indptr):
            raise self._wrong("indptr does not fit the labels", "parcellation/indptr")
        return made

    def _form_codes(self) -> tuple[int, int] | None:
        attributes = self._handle.store.root.group("parcellation").read_attributes()
        sform, qform = attributes.get("sform_code"), attributes.get("qform_code")
        if sform is None and qform is None:
            return None
        for code in (sform, qform):
            if type(code) is not int or not 0 <= code < 2**15:
                raise self._wrong(f"a code of sform or qform is {code!r:.80}", "parcellation")
        return int(str(sform)), int(str(qform))

    def scan(self, name: str) -> ScanContent:
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
        data = self._data(path, kind)
        statistic = attributes.get("statistic")
        return ScanContent(
            tree=self,
            name=name,
            kind=kind,
            data=data,
            space=self._timed(attributes, data.shape[1], path),
            statistic=None if statistic is None else str(statistic),
            read_metadata=functools.partial(read_metadata, self._handle, path),
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

    def _data(self, path: str, kind: ScanKind) -> ScaledMatrix:
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

    def read(self, handle: Handle) -> OwnTree | ScanContent:
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


def only_scan(tree: ScanTree, kind: ScanKind, url: str) -> ScanContent:
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
    content = tree.scan(tree.scan_names[0])
    if content.kind != kind:
        raise MetadataError(f"the scan is of the kind {content.kind!r}, expected {kind!r}", url=url)
    return content


def read_columns(
    handle: Handle,
    path: str,
    length: int,
    *,
    by_attribute: bool = False,
    without: str = "",
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
    without : str
        Node of the group that is no column.
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
    children = group.children().items()
    nodes = [name for name, child in children if child.kind == "array" and name != without]
    if by_attribute:
        listed = group.read_attributes().get("columns")
        order = {n: i for i, n in enumerate(_texts(listed))}
        if missing := [node for node in order if node not in nodes]:
            raise MetadataError(
                "is in the list of columns but not there",
                url=handle.locator.url,
                node=f"{path}/{missing[0]}",
            )
        nodes.sort(key=lambda node: order.get(node, math.inf))
    columns = {}
    for node in nodes:
        array = StoredArray(handle, f"{path}/{node}")
        with naming(handle.locator.url, f"{path}/{node}"):
            values = array.read_small(length)
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
