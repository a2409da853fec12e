"""Layout of a latent representation in a store."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fmristore.formats.base import StoredArray
from fmristore.formats.latent.writer import write_latent
from fmristore.formats.matrix import ArrayMatrix, Matrix, SparseMatrix
from fmristore.formats.names import decode_name
from fmristore.formats.nodes import (
    HOLDS,
    has_child,
    missing_of,
    read_grid,
    read_metadata,
)
from fmristore.formats.registry import NativeLayout
from fmristore.formats.voxel_nodes import mask_shape
from fmristore.model.space import NeuroSpace
from fmristore.planning.progress import Progress
from fmristore_stores.errors import MetadataError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Store

__all__ = [
    "LatentContent",
    "LatentLayout",
    "ScanContent",
    "StoredOffset",
    "matrix_shape",
    "read_content",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanContent:
    """One scan.

    Parameters
    ----------
    name : str
        As users know it.
    basis : ArrayMatrix, (T, K)
        Time course of each component.
    tr : float, optional
        Repetition time in seconds.
    time_offset : float
        Time of the first volume in seconds.
    metadata : mapping
        What else is known of the scan.
    """

    name: str
    basis: ArrayMatrix
    tr: float | None = None
    time_offset: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)


class StoredOffset:
    """Value that is added to every time point of each voxel.

    Parameters
    ----------
    array : StoredArray
        (V,) real numbers.
    voxels : int
        V.
    """

    def __init__(self, array: StoredArray, voxels: int) -> None:
        spec = array.reader.spec
        if spec.shape != (voxels,) or spec.dtype.kind not in "biuf":
            raise MetadataError(
                f"the offset is {spec.dtype} of shape {spec.shape}: expected one number for each "
                f"of {voxels} voxels",
                node=array.reader.array.path,
            )
        self.array = array
        self.dtype = spec.dtype

    def read(self) -> AnyArray:
        """All of it, (V,)."""
        return self.array.reader.read()


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentContent:
    """Contents of a stored latent representation, as its class takes them.

    Parameters
    ----------
    space : NeuroSpace
        Grid of the voxels, without time.
    voxels : ArrayMatrix, (V, 3)
        Indices (x, y, z) of the voxels, counted from 0.
    loadings : Matrix, (V, K)
        Weight of each component in each voxel.
    scans : tuple of ScanContent
        In their order; at least one.
    offset : StoredOffset, optional
        Added to every time point.

    Raises
    ------
    MetadataError
        If the contents do not fit together.
    """

    space: NeuroSpace
    voxels: ArrayMatrix
    loadings: Matrix
    scans: tuple[ScanContent, ...]
    offset: StoredOffset | None = None

    def __post_init__(self) -> None:
        x, y, z = self.space.spatial_shape
        count, components = self.loadings.shape
        if self.voxels.shape != (count, 3) or self.voxels.dtype.kind not in "iu":
            raise MetadataError(
                f"voxels are {self.voxels.dtype}{self.voxels.shape}: expected integers "
                f"({count}, 3), as the loadings have {count} rows",
                node="voxels",
            )
        if not 0 < count <= x * y * z or not components:
            raise MetadataError(
                f"loadings of shape {self.loadings.shape} do not fit a grid of {x} x {y} x {z}",
                node="loadings",
            )
        if not self.scans:
            raise MetadataError("there are no scans: expected at least one", node="scans")
        for scan in self.scans:
            if scan.basis.shape[1] != components or not scan.basis.shape[0]:
                raise MetadataError(
                    f"the basis of scan {scan.name!r} has the shape {scan.basis.shape}, and the "
                    f"loadings have {components} components",
                    node="scans",
                )


class LatentLayout(NativeLayout):
    """A latent representation as fmristore stores it."""

    def read(self, handle: Handle) -> LatentContent:
        """Docstring inherited."""
        return read_content(handle)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        del progress
        write_latent(
            store.root,
            content,
            capabilities=store.capabilities,
            codec=options.codec,
            error=options.error,
            voxel_error=options.voxel_error,
        )


def read_content(handle: Handle) -> LatentContent:
    """Find the contents of a latent representation that is the root group of a store.

    Parameters
    ----------
    handle : Handle
        The store.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """
    url = handle.locator.url
    children = handle.store.root.children()
    try:
        loadings = _read_loadings(handle, sparse=_is_group(children, "loadings"))
        offset = None
        if has_child(handle, "", "offset"):
            offset = StoredOffset(StoredArray(handle, "offset"), loadings.shape[0])
        return LatentContent(
            space=read_grid(handle, mask_shape(handle)),
            voxels=ArrayMatrix(StoredArray(handle, "voxels"), "voxel"),
            loadings=loadings,
            scans=_read_scans(handle, present=_is_group(children, "scans")),
            offset=offset,
        )
    except MetadataError as error:
        raise MetadataError(error.message, url=url, node=error.node) from error


def _is_group(children: Mapping[str, Any], name: str) -> bool:
    child = children.get(name)
    return child is not None and child.kind == "group"


def _read_loadings(handle: Handle, *, sparse: bool) -> Matrix:
    if not sparse:
        return ArrayMatrix(StoredArray(handle, "loadings"), "voxel")
    data, indices, indptr = (
        StoredArray(handle, f"loadings/{name}") for name in ("data", "indices", "indptr")
    )
    attributes = handle.store.root.group("loadings").read_attributes()
    storage, shape = attributes.get("storage"), attributes.get("shape")
    if storage != "csr":
        raise MetadataError(f"sparse loadings are stored as {storage!r:.80}, expected 'csr'")
    return SparseMatrix(data, indices, indptr, matrix_shape(shape))


def matrix_shape(value: Any) -> tuple[int, int]:
    """Two lengths from an attribute.

    Raises
    ------
    MetadataError
        If it is anything else.
    """
    match value:
        case [int(rows), int(columns)] if rows >= 0 and columns >= 0:
            return rows, columns
    raise MetadataError(f"the shape of the sparse loadings is {value!r:.80}, expected two lengths")


def _read_scans(handle: Handle, *, present: bool) -> tuple[ScanContent, ...]:
    if not present:
        raise MetadataError("there is no group of scans", node="scans")
    group = handle.store.root.group("scans")
    children = group.children()
    if missing := missing_of(children, group.read_attributes()):
        raise MetadataError("was written and is missing", node=f"scans/{missing[0]}")
    found = []
    for node, child in children.items():
        if child.kind != "group":
            continue
        attributes = group.group(node).read_attributes()
        name, position = attributes.pop("name", None), attributes.pop("position", None)
        tr = attributes.pop("repetition_time", None)
        offset = attributes.pop("time_offset", 0.0)
        if attributes.get("coordinates") == "scan":
            del attributes["coordinates"]
        attributes.pop(HOLDS, None)
        if type(position) is not int:
            raise MetadataError(f"position is {position!r:.80}", node=f"scans/{node}")
        scan = ScanContent(
            name=name if isinstance(name, str) else decode_name(node),
            basis=ArrayMatrix(StoredArray(handle, f"scans/{node}/basis"), "t"),
            tr=_read_tr(tr, f"scans/{node}"),
            time_offset=_read_seconds(offset, "time offset", f"scans/{node}"),
            metadata=attributes | read_metadata(handle, f"scans/{node}"),
        )
        found.append((position, scan))
    found.sort(key=lambda entry: entry[0])
    names = [scan.name for _, scan in found]
    if len(set(names)) != len(names):
        raise MetadataError(f"scans have the same name: {names!r:.80}", node="scans")
    if len({position for position, _ in found}) != len(found):
        raise MetadataError("scans have the same position: their order is not known", node="scans")
    return tuple(scan for _, scan in found)


def _read_tr(value: Any, node: str) -> float | None:
    if value is None:
        return None
    if (seconds := _read_seconds(value, "repetition time", node)) <= 0:
        raise MetadataError(f"the repetition time is {value!r:.80}", node=node)
    return seconds


def _read_seconds(value: Any, what: str, node: str) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not abs(value) <= sys.float_info.max:
        raise MetadataError(f"the {what} is {value!r:.80}", node=node)
    return float(value)
