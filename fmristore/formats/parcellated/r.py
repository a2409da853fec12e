"""Parcellated scans of the R package, several in a file or a single one.

R's file of several scans and that of one share their nodes, so both are in this one long module.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import StoredArray
from fmristore.formats.matrix import ArrayMatrix, Matrix, ScaledMatrix
from fmristore.formats.new_arrays import NewArray, write_array, write_plain, write_texts
from fmristore.formats.options import MatrixOptions
from fmristore.formats.parcellated.layout import (
    NewScan,
    ScanContent,
    ScanKind,
    ScanTree,
    no_such_scan,
    only_scan,
    read_columns,
)
from fmristore.formats.r.arrays import RArray, read_present
from fmristore.formats.r.common import (
    R_EXACT,
    RLayout,
    attribute_text,
    from_r_name,
    node_name,
    r_values,
    read_header_space,
    to_r_name,
    transform_fields,
    write_fields,
)
from fmristore.formats.r.missing import with_missing
from fmristore.formats.registry import StoreView
from fmristore.model.space import NeuroSpace
from fmristore.planning.indexing import AxisPart, axis_length, bounds
from fmristore.planning.layout import choose_codecs, split_chunks
from fmristore.planning.progress import Progress
from fmristore.sources.labels import LabelTable, warn
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import (
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.io.ranges import ReadCost, sum_costs
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Group, Store
from fmristore_stores.shown import shown, shown_url
from fmristore_stores.spec import STRING, ArraySpec, is_string

__all__ = [
    "RClusters",
    "RParcellatedLayout",
    "RTree",
    "write_tree",
]

_VERSION = "0.1.0"

"""Of the R package whose layout this is."""

_CLASSES = {"full": "H5ParcellatedScan", "summary": "H5ParcellatedScanSummary"}

_RESERVED = ("cluster_ids", "cluster_meta")

_INT32 = 2**31


def write_tree(
    store: Store,
    parcellation: Parcellation,
    contents: Iterator[NewScan],
    options: MatrixOptions,
    *,
    single: bool,
) -> None:
    """Write a whole file; parameters as of `fmristore.formats.parcellated.layout.write_tree`.

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
    kept = np.flatnonzero(parcellation.sizes)
    _write_clusters(root, parcellation, kept, single=single)
    scans = root.create_group("scans")
    done: list[NewScan] = []
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
    lengths = [content.data.shape[1] for content in done]
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


def _dtype(content: NewScan, *, single: bool) -> np.dtype[Any]:
    """Type of R's files, but float64 for integers that float32 might not hold."""
    stored = content.data.dtype
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
        return r_values(values, np.dtype(np.int32 if fits else np.float64))
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


def _spec(shape: tuple[int, int], dtype: np.dtype[Any], options: MatrixOptions) -> ArraySpec:
    layout = split_chunks(shape, dtype.itemsize, shape)
    spec = ArraySpec(shape=shape, dtype=dtype, layout=layout)
    return replace(spec, codecs=choose_codecs(options.codec, spec))


def _write_full(
    group: Group,
    content: NewScan,
    parcellation: Parcellation,
    dtype: np.dtype[Any],
    options: MatrixOptions,
) -> None:
    clusters = group.create_group("clusters")
    times = content.data.shape[1]
    for k, number in enumerate(parcellation.ids):
        first, stop = int(parcellation.indptr[k]), int(parcellation.indptr[k + 1])
        if first == stop:
            continue
        shape = (times, stop - first)
        array = NewArray(clusters, f"cluster_{number}", _spec(shape, dtype, options))
        step = array.spec.layout.chunks[0]
        width = 3 * dtype.itemsize * shape[1]
        step *= max(1, options.max_memory // 2 // (width * step))
        for t0 in range(0, times, step):
            part = slice(t0, min(t0 + step, times), 1)
            values = content.data.read(slice(first, stop, 1), part)
            array.write((part, slice(0, shape[1], 1)), r_values(values, dtype))
        array.finish()


def _write_summary(
    group: Group,
    content: NewScan,
    kept: NDArray[np.int64],
    dtype: np.dtype[Any],
    options: MatrixOptions,
) -> None:
    times = content.data.shape[1]
    values = r_values(content.data.read(kept, slice(0, times, 1)), dtype).T
    shape = (len(kept), times)
    summary = group.create_group("clusters_summary")
    write_array(summary, "summary_data", _spec(shape, dtype, options), values)


def _write_metadata(group: Group, content: NewScan) -> None:
    """Write what is known of a scan, and its length, which R goes by and otherwise guesses."""
    metadata = {**content.metadata, "n_time": content.data.shape[1]}
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
    numbers = kinds - {type(None)}  # NaN is R's NA
    if (
        numbers
        and numbers <= {int, float}
        and not any(abs(value) >= R_EXACT for value in values if type(value) is int)
    ):
        return _narrow(np.array([math.nan if value is None else value for value in values]))
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return np.array(texts, STRING)


_SINGLE = ("H5ParcellatedScan", "H5ParcellatedScanSummary")

_MOST_VOXELS = 1 << 30

_MOST_PARCELS = 1 << 24

_MOST_VALUES = 1 << 20

"""Values that one item of a scan's metadata may have."""

_POSITIVE = (
    "ids of clusters must be different whole numbers from 1 up (0 is no cluster): renumber them in "
    "R, for example match(ids, sort(unique(ids))), and write the file again"
)

_NAME_COLUMNS = ("name", "names", "label")


class RParcellatedLayout(RLayout):
    """``H5ParcellatedMultiScan``, or a file of one scan.

    Parameters
    ----------
    kind : {"full", "summary"}, optional
        That of the only scan; None for files of several.
    """

    classes = frozenset({"H5ParcellatedMultiScan", *_SINGLE})

    def __init__(self, kind: ScanKind | None = None) -> None:
        self.kind = kind

    def detect(self, view: StoreView) -> bool:
        """Docstring inherited."""
        if not super().detect(view):
            return False
        tree = RTree(view.handle)
        if self.kind is None or not tree.single:
            return self.kind is None and not tree.single
        return len(tree.scan_names) == 1 and tree.scan(tree.scan_names[0]).kind == self.kind

    def has_nodes(self, view: StoreView) -> bool:
        """Docstring inherited."""
        return {"scans", "cluster_map"} <= set(view.children)

    def read(self, handle: Handle) -> RTree | ScanContent:
        """Docstring inherited."""
        tree = RTree(handle)
        return tree if self.kind is None else only_scan(tree, self.kind, handle.locator.url)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        del progress
        parcellation, contents = content
        write_tree(store, parcellation, contents, options, single=self.kind is not None)


class RClusters(Matrix):
    """Series of voxels that lie in one dataset for each parcel, (T, V).

    Parameters
    ----------
    arrays : sequence of StoredArray or None
        One for each parcel; None for one without voxels.
    indptr : ndarray of int, (K + 1,)
        First row of each parcel.

    Raises
    ------
    MetadataError
        If a dataset has not the shape that the parcel asks for.
    """

    def __init__(self, arrays: Sequence[StoredArray | None], indptr: NDArray[np.int64]) -> None:
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

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return tuple(array for array in self._arrays if array is not None)

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop, rows.step)
        times = bounds(columns)
        inside = slice(None) if isinstance(columns, slice) else columns - times.start
        values = np.empty((len(rows), axis_length(columns)), self.dtype)
        parcels = np.searchsorted(self._indptr, rows, side="right") - 1
        for k in np.unique(parcels).tolist():
            places = np.flatnonzero(parcels == k)
            own = rows[places] - self._indptr[k]
            low, high = int(own.min()), int(own.max()) + 1
            array = self._arrays[k]
            assert array is not None
            part = array.reader.read((times, slice(low, high, 1)))
            values[places] = part[inside][:, own - low].T
        return values

    def cost(self, rows: AxisPart, columns: AxisPart) -> ReadCost:
        """Docstring inherited."""
        if isinstance(rows, slice):
            rows = np.arange(rows.start, rows.stop, rows.step)
        parcels = np.searchsorted(self._indptr, rows, side="right") - 1
        costs = []
        for k in np.unique(parcels).tolist():
            own = rows[parcels == k] - self._indptr[k]
            array = self._arrays[k]
            assert array is not None
            part = slice(int(own.min()), int(own.max()) + 1, 1)
            costs.append(array.reader.cost((bounds(columns), part)))
        return sum_costs(costs)


class RTree(ScanTree):
    """Parcellated scans as the R package arranges them.

    Parameters
    ----------
    handle : Handle
        The file.
    """

    writable = False

    @property
    def single(self) -> bool:
        """True if the file is of one scan."""
        return attribute_text(self._attributes.get("fmristore_class")) in _SINGLE

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
        given = attribute_text(self._attributes.get("scan_name"))
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
        mask = read_present(stored, _MOST_VOXELS) != 0
        found = StoredArray(self._handle, "cluster_map").read_small(mask.size).reshape(-1)
        if found.dtype.kind not in "iu" or len(found) != np.count_nonzero(mask):
            raise self._wrong("does not have one integer for each voxel of the mask", "cluster_map")
        wide = found.astype(np.int64)
        if len(wide) and (np.min(wide) < 0 or np.max(wide) >= 2**31):
            raise self._wrong(_POSITIVE, "cluster_map")
        labels = np.zeros(mask.shape, np.int32)
        labels[mask] = wide
        return labels.transpose(2, 1, 0), mask.transpose(2, 1, 0)

    @cached_property
    def table(self) -> LabelTable:
        """The parcels, without their voxels; id 0 stands for none."""
        ids = self._given_ids[self._order]
        if ids.dtype.kind not in "iuf" or not len(ids):
            raise self._wrong("must be numbers", "clusters/cluster_ids")
        # One comparison at a time: NaN, and what is beyond 64 bits, fail the first or the last.
        if not (ids[:1] >= 0).all() or not (ids < 2**31).all() or (ids[1:] <= ids[:-1]).any():
            raise self._wrong(_POSITIVE, "clusters/cluster_ids")
        wide = ids.astype(np.int64)
        kept = wide != 0
        if (wide != ids).any() or not kept.any():
            raise self._wrong("must be whole numbers, not only 0", "clusters/cluster_ids")
        columns = self._columns(ids)
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
    def _given_ids(self) -> AnyArray:
        return StoredArray(self._handle, "clusters/cluster_ids").read_small(_MOST_PARCELS).ravel()

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Places of the ids in ascending order, in which the data are.

        In single scans the ids are a column of the user's table, in its order.
        """
        ids = self._given_ids
        if ids.dtype.kind not in "iuf":
            raise self._wrong("must be numbers", "clusters/cluster_ids")
        return np.argsort(ids, kind="stable")

    def _columns(self, ids: AnyArray) -> dict[str, AnyArray]:
        """Columns of the table in order of the ids.

        They are in a group of their own, or beside the ids in single scans. Those of the group
        are in the order that the user gave, and their column ``cluster_id`` says which.
        """
        columns = read_columns(
            self._handle, "clusters", len(ids), convert=with_missing, without="cluster_meta"
        )
        columns.pop("cluster_ids", None)
        columns = {name: values[self._order] for name, values in columns.items()}
        of_user = self._user_columns(len(ids))
        order = self._row_order(of_user.pop("cluster_id", None), ids)
        columns |= {name: values[order] for name, values in of_user.items()}
        columns.pop("cluster_id", None)
        return {from_r_name(name): values for name, values in columns.items()}

    def _user_columns(self, count: int) -> dict[str, AnyArray]:
        """Columns of the user's table; none of one compound dataset, as a data frame may be."""
        path = "clusters/cluster_meta"
        child = self._handle.store.root.group("clusters").children().get("cluster_meta")
        if child is None or child.kind == "group":
            return read_columns(self._handle, path, count, convert=with_missing)
        warn(
            f"{shown_url(self._handle.locator.url)}: the table of clusters ({path}) is one "
            "compound dataset and is not read: clusters are called Cluster1, Cluster2, ..., "
            "unless a column beside it names them; parcellation.revised(names=...) names them"
        )
        return {}

    def _row_order(self, given: AnyArray | None, ids: AnyArray) -> NDArray[np.int64]:
        """Rows of the user's table in order of the ids."""
        if given is None or given.dtype.kind not in "iuf":
            return self._order
        order = np.argsort(given, kind="stable")
        if not np.array_equal(given[order], ids):
            raise self._wrong(
                f"names the clusters {given[:3].tolist()}, ... and cluster_ids {ids[:3].tolist()}, "
                "...: the rows of the table cannot be distinguished",
                "clusters/cluster_meta/cluster_id",
            )
        return order

    def parcellation(self) -> Parcellation:
        """The parcels and their voxels."""
        labels, mask = self._labels
        try:
            return Parcellation(self.space, labels, self.table, mask=mask)
        except InvalidInputError as error:
            raise self._wrong(f"the clusters are damaged: {error.message}") from error

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
        path = f"scans/{name}"
        children = self._handle.store.root.group(path).children()
        metadata = self._metadata(f"{path}/metadata") if "metadata" in children else {}
        full = "clusters" in children
        if not full and "clusters_summary" not in children:
            raise self._wrong("holds neither clusters nor their summary", path)
        data, arrays = self._full(path) if full else self._summary(path)
        return ScanContent(
            tree=self,
            name=name,
            kind="full" if full else "summary",
            data=data,
            space=self.space.with_time(data.shape[1], tr=_tr(metadata)),
            read_metadata=functools.partial(dict, metadata),
            arrays=arrays,
        )

    def _full(self, path: str) -> tuple[ScaledMatrix, tuple[StoredArray, ...]]:
        labels, _ = self._labels
        sizes = np.bincount(
            np.searchsorted(self.table.ids, labels[labels != 0]), minlength=len(self.table)
        )
        if len(sizes) != len(self.table) or not sizes.any():
            raise self._wrong("holds other ids than clusters/cluster_ids", "cluster_map")
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        arrays = [
            RArray(self._handle, f"{path}/clusters/cluster_{number}") if size else None
            for number, size in zip(self.table.ids, sizes, strict=True)
        ]
        try:
            data = ScaledMatrix(RClusters(arrays, indptr))
        except MetadataError as error:
            error.url, error.node = self._handle.locator.url, error.node or path
            raise
        return data, tuple(array for array in arrays if array is not None)

    def _summary(self, path: str) -> tuple[ScaledMatrix, tuple[StoredArray, ...]]:
        node = f"{path}/clusters_summary/summary_data"
        array = RArray(self._handle, node, dims=("parcel", "t"))
        matrix: Matrix = ArrayMatrix(array, "parcel", kinds="biufc")
        if matrix.shape[0] == len(self.table) + 1 == len(self._given_ids):
            matrix = _WithoutFirst(matrix)  # the series of id 0, which is no cluster
        if matrix.shape[0] != len(self.table) or not matrix.shape[1] or is_string(matrix.dtype):
            raise self._wrong(
                f"has the shape {matrix.shape} where there are {len(self.table)} clusters", node
            )
        return ScaledMatrix(matrix), (array,)

    def _metadata(self, path: str) -> dict[str, Any]:
        found = {}
        for name, child in self._handle.store.root.group(path).children().items():
            if child.kind != "array":
                continue
            try:
                array = StoredArray(self._handle, f"{path}/{name}")
                values = with_missing(array.read_small(_MOST_VALUES), array.attributes)
            except LayoutNotSupportedError as error:  # such as NULL, a null dataspace
                url = shown_url(self._handle.locator.url)
                warn(
                    f"{url}: {shown(f'{path}/{name}')} is left out of the metadata: {error.message}"
                )
                continue
            found[from_r_name(name)] = _json_value(values.tolist())
        return found


def _json_value(value: Any) -> Any:
    """A value of metadata; None for what is missing, as JSON has it."""
    if isinstance(value, list):
        return [_json_value(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class _WithoutFirst(Matrix):
    """A matrix without its first row.

    Parameters
    ----------
    matrix : Matrix
        Of at least one row.
    """

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix
        self.shape = (matrix.shape[0] - 1, matrix.shape[1])
        self.dtype = matrix.dtype

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return self._matrix.arrays

    @property
    def chunks(self) -> tuple[int, int]:
        """Docstring inherited."""
        return self._matrix.chunks

    def read(self, rows: AxisPart, columns: AxisPart) -> AnyArray:
        """Docstring inherited."""
        return self._matrix.read(_shifted(rows), columns)

    def cost(self, rows: AxisPart, columns: AxisPart) -> ReadCost:
        """Docstring inherited."""
        return self._matrix.cost(_shifted(rows), columns)


def _shifted(rows: AxisPart) -> AxisPart:
    return slice(rows.start + 1, rows.stop + 1, rows.step) if isinstance(rows, slice) else rows + 1


def _tr(metadata: Mapping[str, Any]) -> float | None:
    """Repetition time, if the metadata have a usable one."""
    tr = metadata.get("TR")
    if isinstance(tr, int | float) and not isinstance(tr, bool) and 0 < tr < math.inf:
        return float(tr)
    return None
