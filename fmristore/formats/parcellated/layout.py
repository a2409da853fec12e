"""Where in a store the parts of parcellated scans are, and what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.image.layout import read_affine
from fmristore.formats.names import encode_name
from fmristore.formats.parcellated.statistics import Matrix
from fmristore.model.scaling import Scaling, make_scaling
from fmristore.model.space import NeuroSpace
from fmristore.sources.labels import LabelTable
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import (
    FmristoreError,
    InvalidInputError,
    MetadataError,
    NotFoundError,
    SelectionError,
)
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import is_string

__all__ = [
    "Kind",
    "Numbers",
    "OwnTree",
    "ScanParts",
    "ScanTree",
    "StoredMatrix",
    "no_such_scan",
    "read_columns",
]

Kind = Literal["full", "summary"]
"""Whether a scan holds the series of every voxel, or one for each parcel."""

_MOST_VOXELS = 1 << 30
_MOST_PARCELS = 1 << 24


class StoredMatrix:
    """A stored array of one row for each voxel or parcel.

    Parameters
    ----------
    array : StoredArray
        Axes named `rows` and ``t``, in any order.
    rows : str
        Name of the axis of rows.
    """

    def __init__(self, array: StoredArray, rows: str) -> None:
        self._array = array
        spec = array.reader.spec
        self._row_axis = spec.dims.index(rows)
        self.shape = (spec.shape[self._row_axis], spec.shape[1 - self._row_axis])
        self.dtype = spec.dtype

    def read(self, rows: slice | NDArray[np.int64], times: slice) -> AnyArray:
        """Numbers (times, rows) of a range, or of any rows in any order."""
        reader = self._array.reader
        if isinstance(rows, slice):
            region = (rows, times) if self._row_axis == 0 else (times, rows)
            values = reader.read(region)
            return values.T if self._row_axis == 0 else values
        return reader.read_points((self._row_axis,), rows.reshape(-1, 1), (times,)).T


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Time series as stored, and how to scale them.

    Parameters
    ----------
    matrix : Matrix
        Stored numbers.
    scaling : Scaling, optional
        To apply to them.
    """

    matrix: Matrix
    scaling: Scaling | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of times."""
        return self.matrix.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the scaled numbers."""
        stored = self.matrix.dtype
        return stored if self.scaling is None else self.scaling.dtype(stored)

    def read(
        self,
        rows: slice | NDArray[np.int64],
        times: slice,
        *,
        dtype: DTypeLike | None = None,
        raw: bool = False,
    ) -> AnyArray:
        """Scaled numbers (times, rows), or stored ones."""
        values = self.matrix.read(rows, times)
        if raw or self.scaling is None:
            return values if dtype is None else values.astype(dtype, copy=False)
        return self.scaling.apply(values, times=times, axis=0, dtype=dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanParts:
    """What makes a scan of stored numbers.

    Parameters
    ----------
    tree : ScanTree
        Where it lies, with its parcellation.
    name : str
        Of the scan.
    kind : {"full", "summary"}
        What its rows are: voxels in order of their parcels, or parcels.
    numbers : Numbers
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
    kind: Kind
    numbers: Numbers
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
        numbers = self._numbers(path, kind)
        children = group.children()
        metadata = group.group("metadata").read_attributes() if "metadata" in children else {}
        statistic = attributes.get("statistic")
        return ScanParts(
            tree=self,
            name=name,
            kind=kind,
            numbers=numbers,
            space=self._timed(attributes, numbers.shape[1], path),
            statistic=None if statistic is None else str(statistic),
            metadata=metadata,
            arrays=(StoredArray(self._handle, f"{path}/0"),),
        )

    def _timed(self, attributes: Mapping[str, Any], times: int, path: str) -> NeuroSpace:
        try:
            space = self.space.with_time(times, tr=attributes.get("repetition_time"))
            return replace(space, time_unit=str(attributes.get("time_unit", "s")))
        except (InvalidInputError, TypeError) as error:
            raise self._wrong(f"the times are damaged: {error}", path) from error

    def _numbers(self, path: str, kind: Kind) -> Numbers:
        axis = "voxel" if kind == "full" else "parcel"
        array = StoredArray(self._handle, f"{path}/0")
        spec = array.reader.spec
        if sorted(spec.dims) != sorted((axis, "t")) or is_string(spec.dtype):
            raise self._wrong(f"axes are {spec.dims}, expected {axis}, t", f"{path}/0")
        matrix = StoredMatrix(array, axis)
        named = "voxels" if kind == "full" else "ids"
        rows = StoredArray(self._handle, f"parcellation/{named}").reader.spec
        if matrix.shape[0] not in rows.shape[:1]:
            raise self._wrong(
                f"has {matrix.shape[0]} rows where the parcellation has {rows.shape[:1]}",
                f"{path}/0",
            )
        return Numbers(matrix, self._scaling(path, array, matrix.shape[1]))

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


def read_columns(
    handle: Handle, path: str, length: int, *, by_attribute: bool = False
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
        if values.shape != (length,):
            raise MetadataError(
                f"has the shape {values.shape} where there are {length} parcels",
                url=handle.locator.url,
                node=f"{path}/{node}",
            )
        name = array.attributes.get("column", node) if by_attribute else node
        columns[str(name)] = values
    return columns


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def no_such_scan(name: str, known: Sequence[str], url: str) -> SelectionError:
    """Error for a scan that is not there."""
    some = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
    return SelectionError(f"no scan is called {name!r}; there are {some or 'none'}", url=url)
