"""Latent representations of the R package: ``LatentNeuroVec``, in files ``.lv.h5``."""

from __future__ import annotations

from typing import Any

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.latent.factors import LatentFactors, is_csr
from fmristore.formats.latent.layout import (
    LatentContent,
    ScanContent,
    StoredOffset,
    matrix_shape,
)
from fmristore.formats.matrix import ArrayMatrix, Matrix, SparseMatrix
from fmristore.formats.new_arrays import write_array, write_plain
from fmristore.formats.r.arrays import RArray
from fmristore.formats.r.common import (
    RLayout,
    node_name,
    read_header_space,
    transform_fields,
    write_fields,
)
from fmristore.formats.r.missing import with_missing
from fmristore.formats.registry import StoreView
from fmristore.formats.voxel_nodes import mask_shape
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import choose_codecs, split_chunks
from fmristore.planning.progress import Progress
from fmristore_stores.errors import (
    DependencyError,
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
    NotFoundError,
)
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Group, Store
from fmristore_stores.spec import STRING, ArraySpec, is_string

__all__ = ["RLatentLayout", "read_content", "write_latent"]

_SPARSE_BELOW = 0.30
"""R stores loadings as sparse if fewer of them than this are not zero."""
_MOST = 64
"""Elements that a field of metadata may have."""
_TEXTS = ("subject_id", "task", "session")
_HEADER_TEXTS = ("aux_file", "data_type", "db_name", "intent_name", "regular")
_HEADER_INTEGERS = (
    *("dim_info", "extents", "glmax", "glmin", "intent_code"),
    *("session_error", "sform_code", "slice_code", "slice_start"),
)
_HEADER_FLOATS = (
    *("cal_max", "cal_min", "intent_p1", "intent_p2", "intent_p3"),
    *("scl_inter", "slice_duration", "toffset", "vox_offset"),
)
_DATATYPES = {"float32": 16, "float64": 64}
_MM_SECONDS = 10
"""NIfTI's code for lengths in mm and times in s."""


# Reading -------------------------------------------------------------------------------------


class RLatentLayout(RLayout):
    """``LatentNeuroVec``."""

    classes = frozenset({"LatentNeuroVec"})

    def has_nodes(self, view: StoreView) -> bool:
        """Docstring inherited."""
        names = set(view.children)
        if "scans" not in names or "cluster_map" in names:
            return False
        return bool({"basis_matrix", "basis_matrix_sparse"} & view.names("basis"))

    def read(self, handle: Handle) -> LatentContent:
        """Docstring inherited."""
        return read_content(handle)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        del progress
        write_latent(store.root, content, codec=options.codec)


def read_content(handle: Handle) -> LatentContent:
    """Find the contents of a latent representation that the R package wrote.

    Its ``basis_matrix`` are the loadings, its ``embedding`` is the basis, and the compressed
    columns of its sparse ``basis_matrix`` are the compressed rows of the loadings.

    Raises
    ------
    MetadataError
        If a node is missing or wrong.
    LayoutNotSupportedError
        If sparse loadings are stored by component.
    """
    children = handle.store.root.children()
    try:
        loadings = _read_loadings(handle)
        offset = None
        if "offset" in children:
            offset = StoredOffset(RArray(handle, "offset"), loadings.shape[0])
        return LatentContent(
            space=read_header_space(handle, mask_shape(handle)),
            voxels=ArrayMatrix(StoredArray(handle, "voxel_coords", dims=("xyz", "voxel")), "voxel"),
            loadings=loadings,
            scans=_read_scans(handle),
            offset=offset,
        )
    except (MetadataError, NotFoundError) as error:
        raise MetadataError(error.message, url=handle.locator.url, node=error.node) from error


def _read_loadings(handle: Handle) -> Matrix:
    group = handle.store.root.group("basis")
    if "basis_matrix_sparse" not in group.children():
        array = RArray(handle, "basis/basis_matrix", dims=("voxel", "component"))
        return ArrayMatrix(array, "voxel")
    path = "basis/basis_matrix_sparse"
    attributes = group.group("basis_matrix_sparse").read_attributes()
    storage = attributes.get("storage")
    if storage not in ("csc", ["csc"]):
        raise LayoutNotSupportedError(
            f"the loadings are stored as {storage!r:.80}; only R's 'csc' is supported",
            url=handle.locator.url,
            node=path,
        )
    components, voxels = matrix_shape(attributes.get("shape"))
    indices, indptr = (StoredArray(handle, f"{path}/{name}") for name in ("indices", "indptr"))
    return SparseMatrix(RArray(handle, f"{path}/data"), indices, indptr, (voxels, components))


def _read_scans(handle: Handle) -> tuple[ScanContent, ...]:
    """Scans in order of their names, as R finds them."""
    found = []
    pixdim = StoredArray(handle, "header/pixdim").read_small(_MOST)
    common = _seconds(pixdim[4]) if pixdim.ndim == 1 and len(pixdim) > 4 else None
    for name, child in handle.store.root.group("scans").children().items():
        if child.kind != "group":
            continue
        basis = RArray(handle, f"scans/{name}/embedding", dims=("component", "t"))
        metadata = _read_metadata(handle, f"scans/{name}")
        tr = _seconds(metadata.pop("TR", None))
        metadata.pop("run_length", None)
        found.append(
            ScanContent(
                name=name,
                basis=ArrayMatrix(basis, "t"),
                tr=common if tr is None else tr,
                metadata=metadata,
            )
        )
    return tuple(found)


def _seconds(value: Any) -> float | None:
    """A repetition time, or None for a value that is none."""
    real = isinstance(value, int | float | np.integer | np.floating)
    number = real and 0 < value < np.inf
    return float(value) if number else None


def _read_metadata(handle: Handle, scan: str) -> dict[str, Any]:
    """Fields of a scan that are single numbers or texts, without empty and missing ones."""
    group = handle.store.root.group(scan)
    if "metadata" not in group.children():
        return {}
    fields = {}
    for name, child in group.group("metadata").children().items():
        if child.kind != "array":
            continue
        array = StoredArray(handle, f"{scan}/metadata/{name}")
        values = with_missing(array.read_small(_MOST), array.attributes).reshape(-1)
        if len(values) == 1:
            value = str(values[0]) if is_string(values.dtype) else values[0].item()
            if value != "" and value == value:  # a missing one is NaN
                fields[name] = value
    return fields


# Writing -------------------------------------------------------------------------------------


def write_latent(root: Group, factors: LatentFactors, *, codec: str) -> None:
    """Write a latent representation as the R package does.

    Parameters
    ----------
    root : Group
        Empty root of an HDF5 file.
    factors : LatentFactors
        Checked already, but for whether dense loadings are finite.
    codec : str
        ``"portable"`` or ``"none"``.

    Raises
    ------
    InvalidInputError
        If R could not read the file: one component, voxel or time point, a grid of one slice;
        names of scans that are not ASCII or do not sort in the order of the scans; scans of
        different length; a codec that R does not have.
    """
    _check(factors)
    writer = _Writer(root, codec)
    rows, order = _ordered(factors)
    first_name, first = next(iter(factors.scans.items()))
    space = factors.space.with_time(len(first.basis), tr=first.tr)
    dtype = factors.loadings_dtype
    fields = _header(space, dtype, f"LatentNeuroVec data: {first_name}")
    write_fields(root.create_group("header"), fields)
    writer.add("mask", factors.voxels.mask.transpose(2, 1, 0).astype(np.uint8))
    writer.add("voxel_coords", np.ascontiguousarray(factors.voxels.voxels[order].T))
    if factors.offset is not None:
        write_plain(root, "offset", (), factors.offset[order])
    basis = root.create_group("basis")
    sparse = _sparse(rows)
    if sparse.nnz < _SPARSE_BELOW * sparse.shape[0] * sparse.shape[1]:
        attributes = {"storage": ["csc"], "shape": list(sparse.shape[::-1])}
        group = basis.create_group("basis_matrix_sparse", attributes)
        inside = _Writer(group, codec)
        inside.add("data", sparse.data)
        inside.add("indices", sparse.indices.astype(np.int32, copy=False))
        write_plain(group, "indptr", (), sparse.indptr.astype(np.int32))
    else:
        _Writer(basis, codec).add("basis_matrix", np.asarray(rows))
    _write_scans(root, factors, codec)
    root.write_attributes(
        {
            "latent_spec_version": ["1.0"],
            "rtype": ["LatentNeuroVec"],
            "voxel_order": ["column-major"],
        }
    )


def _sparse(rows: Any) -> Any:
    """Loadings as a CSR matrix, which R reads as the CSC form of its transpose."""
    if is_csr(rows):
        return rows
    try:
        from scipy.sparse import csr_array
    except ImportError as error:
        raise DependencyError(
            "R's layout of loadings needs scipy: pip install 'fmristore[latent]'"
        ) from error
    return csr_array(rows)


def _check(factors: LatentFactors) -> None:
    names = list(factors.scans)
    lengths = {len(scan.basis) for scan in factors.scans.values()}
    voxels, components = factors.loadings.shape
    for what, count in (
        ("component", components),
        ("voxel", voxels),
        ("time point", min(lengths)),
        ("slice along x, y or z", min(factors.space.spatial_shape)),
    ):
        if count < 2:  # R drops axes of length 1 and then misses them
            raise InvalidInputError(f"R cannot read a file with a single {what}")
    if len(lengths) > 1:
        raise InvalidInputError(
            "R's layout has one number of time points for all scans: store each in its own file"
        )
    for name in names:
        if not node_name(name, "a scan").isascii():
            raise InvalidInputError(f"{name!r}: R reads names of scans in ASCII only")
    if names != sorted(names):
        raise InvalidInputError(
            f"R reads scans in order of their names, {', '.join(sorted(names))}: choose names that "
            "sort in the order of the scans"
        )


def _header(space: NeuroSpace, dtype: np.dtype[Any], description: str) -> dict[str, Any]:
    """Fields of a NIfTI header; those that do not matter here are zero or empty."""
    fields: dict[str, Any] = dict.fromkeys(_HEADER_TEXTS, "")
    fields |= dict.fromkeys(_HEADER_INTEGERS, 0) | dict.fromkeys(_HEADER_FLOATS, 0.0)
    fields |= transform_fields(space)
    return fields | {
        "bitpix": 8 * dtype.itemsize,
        "datatype": _DATATYPES[dtype.name],
        "descrip": description,
        "dim": [4, *space.shape, 1, 1, 1],
        "magic": "n+1",
        "pixdim": [fields["qfac"], *space.spacing, space.tr or 0.0, 0.0, 0.0, 0.0],
        "qform_code": 1,
        "scl_slope": 1.0,
        "sizeof_hdr": 348,
        "slice_end": space.spatial_shape[2] - 1,
        "xyzt_units": _MM_SECONDS,
    }


def _ordered(factors: LatentFactors) -> tuple[Any, AnyArray]:
    """Loadings in R's order of voxels, x varying fastest, and the old number of each new row."""
    order = np.lexsort(factors.voxels.voxels.T)
    rows = factors.loadings
    if is_csr(rows):
        if (np.diff(order) != 1).any():
            rows = rows[order]
        return rows, order
    dense = np.concatenate([values for _, values in factors.bands(1)])
    return dense[order], order


def _write_scans(root: Group, factors: LatentFactors, codec: str) -> None:
    scans = root.create_group("scans")
    for name, scan in factors.scans.items():
        group = scans.create_group(name)
        _Writer(group, codec).add("embedding", np.ascontiguousarray(scan.basis.T))
        metadata = group.create_group("metadata")
        write_plain(metadata, "run_length", (), np.array(len(scan.basis), np.int32))
        if scan.tr is not None:
            write_plain(metadata, "TR", (), np.array(scan.tr))
        for field in _TEXTS:
            write_plain(metadata, field, (), np.array("", STRING))


class _Writer:
    """Makes arrays without names of axes, as R finds them by position."""

    def __init__(self, group: Group, codec: str) -> None:
        if codec not in ("portable", "none"):
            raise InvalidInputError(
                f"R has no plug-in for the codec {codec!r}; there are portable and none"
            )
        self._group = group
        self._codec = codec

    def add(self, name: str, values: AnyArray) -> None:
        """Write an array."""
        layout = split_chunks(values.shape, values.dtype.itemsize, values.shape, limit=1 << 20)
        bare = ArraySpec(shape=values.shape, dtype=values.dtype, layout=layout)
        spec = ArraySpec(
            shape=values.shape,
            dtype=values.dtype,
            layout=layout,
            codecs=choose_codecs(self._codec, bare),
        )
        write_array(self._group, name, spec, values)
