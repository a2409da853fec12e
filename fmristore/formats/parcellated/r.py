"""Parcellated scans of the R package, several in a file or a single one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.parcellated.base import ParcellatedBase
from fmristore.formats.parcellated.layout import (
    Numbers,
    ScanParts,
    StoredMatrix,
    no_such_scan,
    read_columns,
)
from fmristore.formats.parcellated.multiscan import ParcellatedMultiScan
from fmristore.formats.parcellated.r_write import write_tree
from fmristore.formats.parcellated.scan import ParcellatedScan
from fmristore.formats.parcellated.summary import ParcellatedScanSummary
from fmristore.formats.r_header import read_header_space
from fmristore.formats.r_names import from_r_name
from fmristore.model.space import NeuroSpace
from fmristore.sources.labels import LabelTable
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import InvalidInputError, MetadataError, NotFoundError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import is_string

__all__ = ["RClusters", "RTree", "open_r", "write_tree"]

_SINGLE = ("H5ParcellatedScan", "H5ParcellatedScanSummary")
_MOST_VOXELS = 1 << 30
_MOST_PARCELS = 1 << 24
_MOST_VALUES = 1 << 20
"""Numbers that one item of a scan's metadata may have."""
_NAME_COLUMNS = ("name", "names", "label")


def open_r(handle: Handle) -> ParcellatedMultiScan | ParcellatedBase:
    """Open parcellated scans that the R package wrote.

    Raises
    ------
    MetadataError
        If a node is missing or wrong.
    """
    tree = RTree(handle)
    if not tree.single:
        return ParcellatedMultiScan(handle, tree)
    if len(tree.scan_names) != 1:
        raise MetadataError(
            f"a single scan is expected and there are {len(tree.scan_names)}",
            url=handle.locator.url,
            node="scans",
        )
    parts = tree.scan(tree.scan_names[0])
    return (ParcellatedScan if parts.kind == "full" else ParcellatedScanSummary)(handle, parts)


class RClusters:
    """Series of voxels that lie in one dataset for each parcel, (T, V).

    Parameters
    ----------
    arrays : list of StoredArray or None
        One for each parcel; None for one without voxels.
    indptr : ndarray of int, (K + 1,)
        First row of each parcel.

    Raises
    ------
    MetadataError
        If a dataset has not the shape that the parcel asks for.
    """

    def __init__(self, arrays: list[StoredArray | None], indptr: NDArray[np.int64]) -> None:
        self._arrays = arrays
        self._indptr = indptr
        specs = [None if array is None else array.reader.spec for array in arrays]
        first = next(spec for spec in specs if spec is not None)
        times = first.shape[0] if len(first.shape) == 2 else 0
        for spec, count in zip(specs, np.diff(indptr), strict=True):
            if spec is not None and (spec.shape != (times, count) or is_string(spec.dtype)):
                raise MetadataError(
                    f"a dataset of a cluster has the shape {spec.shape}, expected {(times, count)}"
                )
        if not times:
            raise MetadataError("the scan has no volumes")
        self.shape = (int(indptr[-1]), times)
        known = [spec.dtype for spec in specs if spec is not None]
        self.dtype: np.dtype[Any] = np.result_type(*known)

    def read(self, rows: slice | NDArray[np.int64], times: slice) -> AnyArray:
        """Numbers (times, rows) of a range, or of any rows in any order."""
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop, rows.step or 1)
        count = len(range(times.start, times.stop, times.step or 1))
        values = np.empty((count, len(rows)), self.dtype)
        parcels = np.searchsorted(self._indptr, rows, side="right") - 1
        for k in np.unique(parcels).tolist():
            places = np.flatnonzero(parcels == k)
            columns = rows[places] - self._indptr[k]
            low, high = int(columns.min()), int(columns.max()) + 1
            array = self._arrays[k]
            assert array is not None
            part = array.reader.read((times, slice(low, high, 1)))
            values[:, places] = part[:, columns - low]
        return values


class RTree:
    """Parcellated scans as the R package arranges them.

    Parameters
    ----------
    handle : Handle
        The file.
    """

    writable = False

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __reduce__(self) -> tuple[type[RTree], tuple[Handle]]:
        return RTree, (self._handle,)

    def _wrong(self, message: str, node: str = "") -> MetadataError:
        return MetadataError(message, url=self._handle.locator.url, node=node or None)

    @cached_property
    def _attributes(self) -> Mapping[str, Any]:
        return self._handle.store.root.read_attributes()

    @property
    def single(self) -> bool:
        """Whether the file is of one scan."""
        return _text(self._attributes.get("fmristore_class")) in _SINGLE

    @cached_property
    def scan_names(self) -> tuple[str, ...]:
        """Names of the scans, sorted, as R sorts them."""
        try:
            children = self._handle.store.root.group("scans").children()
        except NotFoundError as error:
            raise self._wrong("there is no group of scans", "scans") from error
        names = tuple(name for name, child in children.items() if child.kind == "group")
        if not self.single:
            return names
        given = _text(self._attributes.get("scan_name"))
        return (given,) if given in names else names

    @cached_property
    def space(self) -> NeuroSpace:
        """The grid: what the quaternion says, which R left at zero, so that rotation is lost."""
        z, y, x = StoredArray(self._handle, "mask", dims=("z", "y", "x")).reader.spec.shape
        try:
            return read_header_space(self._handle, (x, y, z))
        except NotFoundError as error:
            raise self._wrong("there is no header", "header") from error

    @cached_property
    def _labels(self) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Labels and mask, (X, Y, Z)."""
        stored = StoredArray(self._handle, "mask", dims=("z", "y", "x"))
        mask = stored.read_small(_MOST_VOXELS) != 0
        found = StoredArray(self._handle, "cluster_map").read_small(mask.size).reshape(-1)
        if found.dtype.kind not in "iu" or len(found) != np.count_nonzero(mask):
            raise self._wrong("does not have one integer for each voxel of the mask", "cluster_map")
        wide = found.astype(np.int64)
        if len(wide) and (wide.min() < 0 or wide.max() >= 2**31):
            raise self._wrong("ids of clusters must be positive", "cluster_map")
        labels = np.zeros(mask.shape, np.int32)
        labels[mask] = wide
        return labels.transpose(2, 1, 0), mask.transpose(2, 1, 0)

    @cached_property
    def table(self) -> LabelTable:
        """The parcels, without their voxels; id 0 stands for none."""
        ids = self._ids
        if ids.dtype.kind not in "iuf" or not len(ids):
            raise self._wrong("must be numbers", "clusters/cluster_ids")
        # One comparison at a time: NaN, and what is beyond 64 bits, fail the first or the last.
        if not (ids[:1] >= 0).all() or not (ids < 2**31).all() or (ids[1:] <= ids[:-1]).any():
            raise self._wrong("must be positive and ascending", "clusters/cluster_ids")
        wide = ids.astype(np.int64)
        kept = wide != 0
        if (wide != ids).any() or not kept.any():
            raise self._wrong("must be whole numbers, not only 0", "clusters/cluster_ids")
        columns = self._columns(len(ids))
        columns.pop("cluster_id", None)
        names = next(
            (columns.pop(c) for c in _NAME_COLUMNS if c in columns and is_string(columns[c].dtype)),
            None,
        )
        texts = (
            [f"Cluster{k}" for k in range(1, int(kept.sum()) + 1)]
            if names is None
            else names[kept].tolist()
        )
        return LabelTable(
            wide[kept].astype(np.int32),
            tuple(texts),
            {name: values[kept] for name, values in columns.items()},
        )

    @cached_property
    def _ids(self) -> AnyArray:
        return StoredArray(self._handle, "clusters/cluster_ids").read_small(_MOST_PARCELS).ravel()

    def _columns(self, count: int) -> dict[str, AnyArray]:
        """Columns of the table: in a group of their own, or beside the ids in single scans.

        A column that is in both places is one with two names, and found by its first.
        """
        columns = read_columns(self._handle, "clusters", count)
        columns |= read_columns(self._handle, "clusters/cluster_meta", count)
        columns.pop("cluster_ids", None)
        return {from_r_name(name): values for name, values in columns.items()}

    def parcellation(self) -> Parcellation:
        """The parcels and their voxels."""
        labels, mask = self._labels
        try:
            return Parcellation(self.space, labels, self.table, mask=mask)
        except InvalidInputError as error:
            raise self._wrong(f"the clusters are damaged: {error.message}") from error

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
        path = f"scans/{name}"
        children = self._handle.store.root.group(path).children()
        metadata = self._metadata(f"{path}/metadata") if "metadata" in children else {}
        full = "clusters" in children
        if not full and "clusters_summary" not in children:
            raise self._wrong("holds neither clusters nor their summary", path)
        numbers, arrays = self._full(path) if full else self._summary(path)
        return ScanParts(
            tree=self,
            name=name,
            kind="full" if full else "summary",
            numbers=numbers,
            space=self.space.with_time(numbers.shape[1], tr=_tr(metadata)),
            metadata=metadata,
            arrays=arrays,
        )

    def _full(self, path: str) -> tuple[Numbers, tuple[StoredArray, ...]]:
        labels, _ = self._labels
        sizes = np.bincount(
            np.searchsorted(self.table.ids, labels[labels != 0]), minlength=len(self.table)
        )
        if len(sizes) != len(self.table) or not sizes.any():
            raise self._wrong("holds other ids than clusters/cluster_ids", "cluster_map")
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        arrays = [
            StoredArray(self._handle, f"{path}/clusters/cluster_{number}") if size else None
            for number, size in zip(self.table.ids, sizes, strict=True)
        ]
        try:
            numbers = Numbers(RClusters(arrays, indptr))
        except MetadataError as error:
            error.url, error.node = self._handle.locator.url, error.node or path
            raise
        return numbers, tuple(array for array in arrays if array is not None)

    def _summary(self, path: str) -> tuple[Numbers, tuple[StoredArray, ...]]:
        node = f"{path}/clusters_summary/summary_data"
        array = StoredArray(self._handle, node, dims=("parcel", "t"))
        matrix = StoredMatrix(array, "parcel")
        if matrix.shape[0] != len(self.table) or not matrix.shape[1] or is_string(matrix.dtype):
            raise self._wrong(
                f"has the shape {matrix.shape} where there are {len(self.table)} clusters", node
            )
        return Numbers(matrix), (array,)

    def _metadata(self, path: str) -> dict[str, Any]:
        found = {}
        for name, child in self._handle.store.root.group(path).children().items():
            if child.kind == "array":
                values = StoredArray(self._handle, f"{path}/{name}").read_small(_MOST_VALUES)
                found[from_r_name(name)] = values.item() if values.ndim == 0 else values.tolist()
        return found


def _text(value: Any) -> str:
    """Text of an attribute; R writes lists of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else ""


def _tr(metadata: Mapping[str, Any]) -> float | None:
    """Repetition time, if the metadata have a usable one."""
    tr = metadata.get("TR")
    if isinstance(tr, int | float) and not isinstance(tr, bool) and 0 < tr < math.inf:
        return float(tr)
    return None
