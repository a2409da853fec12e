"""Layers that the page shows of a stored object, on one grid, whatever the format.

A layer has slices and, for a voxel, a series. Runs, scans and components of an object are layers
of their own, opened when they are asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import numpy as np

from fmristore.formats.base import StoredObject
from fmristore.formats.grid import GridView
from fmristore.formats.latent.latent import LatentView
from fmristore.formats.masked.run import MaskedNeuroVec
from fmristore.formats.parcellated.base import ParcellatedBase
from fmristore.formats.parcellated.multiscan import ParcellatedMultiScan
from fmristore.formats.parcellated.scan import ParcellatedScan
from fmristore.formats.parcellated.summary import ParcellatedScanSummary
from fmristore.formats.sequence.sequence import NeuroVecSeq
from fmristore.model.space import NeuroSpace
from fmristore.planning.anatomy import display_axes, obliqueness
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.protocol import AnyArray

__all__ = [
    "MOST_VALUES",
    "ComponentLayer",
    "GridLayer",
    "Layer",
    "Start",
    "SummaryLayer",
    "find_part",
    "layer_names",
    "open_layer",
]

MOST_VALUES = 1 << 24
"""Values of a slice or series that are sent to the page."""
_CARPET_VOXELS = 800
_CARPET_TIMES = 1200

Kind = Literal["volume", "time", "label", "component"]


class Start(NamedTuple):
    """View that is shown first."""

    layer: int = 0
    """Place in `layer_names`."""
    step: int = 0
    """Volume, map or component."""


class Layer(ABC):
    """Values on a grid: a run, maps, components, or parcels.

    Parameters
    ----------
    stored : object
        What they are read from; must stay open.
    name : str
        What the page calls the layer.
    """

    kind: Kind = "time"
    """Meaning of the axis along which volumes follow each other."""

    def __init__(self, stored: Any, name: str) -> None:
        self.stored = stored
        self.name = name

    @property
    @abstractmethod
    def space(self) -> NeuroSpace:
        """The grid."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of volumes."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths along x, y, z."""
        return self.space.spatial_shape

    @abstractmethod
    def plane(self, axis: int, index: int, step: int) -> AnyArray:
        """Slice of volume `step` at right angles to an axis, the other two in their order."""

    @abstractmethod
    def series(self, voxel: tuple[int, int, int]) -> AnyArray:
        """All values of one voxel, (T,)."""

    @property
    def names(self) -> list[str] | None:
        """Names of the volumes, if they have such."""
        return None

    @property
    def runs(self) -> list[tuple[str, int, int]]:
        """Name, first volume and length of the runs, if there are several."""
        return []

    @property
    def parcellation(self) -> Parcellation | None:
        """Parcels of the voxels, if there are such."""
        return None

    def parcel_series(self, position: int) -> AnyArray:
        """One series for a parcel, (T,)."""
        raise SelectionError(f"{self.name} has no parcels, not one at {position}")

    def labels(self, axis: int, index: int) -> AnyArray:
        """Slice with the positions of parcels, counted from 1; 0 where there is none."""
        parcels = self._need_parcels()
        found = np.take(parcels.labels, index, axis=axis)
        return np.where(found, np.searchsorted(parcels.ids, found) + 1, 0).astype("<i4")

    def _need_parcels(self) -> Parcellation:
        if self.parcellation is None:
            raise SelectionError(f"{self.name} has no parcels")
        return self.parcellation

    def course(self, step: int) -> AnyArray:
        """Time course of a component, (T,)."""
        raise SelectionError(f"{self.name} has no components, not {step}")

    def carpet(self) -> AnyArray:
        """Series of some voxels, (n, t), at most 800 x 1200 values; empty if it makes no sense."""
        return np.zeros((0, 0))

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Lengths of stored chunks along x, y, z[, t], where they are blocks of the grid."""
        return None

    def costs(self, voxel: tuple[int, int, int], step: int) -> list[dict[str, Any]]:
        """Cost of typical reads: name, selection, chunks, requests and bytes."""
        del voxel, step
        return []

    def describe(self) -> dict[str, Any]:
        """Facts for the page, as plain JSON values."""
        space = self.space
        facts: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "shape": list(self.shape),
            "length": self.length,
            "names": self.names,
            "runs": [list(run) for run in self.runs],
            "tr": space.tr if self.kind == "time" else None,
            "start": space.time_offset,
            "dtype": "".join(self.dtype.names) if self.dtype.names else str(self.dtype),
            "affine": space.affine.tolist(),
            "spacing": list(space.spacing),
            "axes": [list(entry) for entry in display_axes(space.affine)],
            "oblique": round(obliqueness(space.affine), 1),
            "orientation": space.orientation,
            "chunks": None if self.chunks is None else list(self.chunks),
            "parcels": None,
            "courses": isinstance(self, ComponentLayer),
            "painted": isinstance(self, SummaryLayer),
            "carpet": self.kind == "time" and self.length > 1,
        }
        parcels = self.parcellation
        if parcels is not None:
            facts["parcels"] = {
                "ids": parcels.ids.tolist(),
                "names": list(parcels.names),
                "sizes": parcels.sizes.tolist(),
                "places": _places(parcels),
            }
        return facts


def _places(parcels: Parcellation) -> list[list[int] | None]:
    """The voxel of each parcel that is nearest to its centre."""
    found: list[list[int] | None] = []
    for k in range(len(parcels)):
        voxels = parcels.voxels[parcels.indptr[k] : parcels.indptr[k + 1]]
        if not len(voxels):
            found.append(None)
            continue
        distance = ((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1)
        found.append(voxels[int(np.argmin(distance))].tolist())
    return found


def _real(values: Any) -> AnyArray:
    """Colours as their brightness, complex values as their magnitude."""
    found = np.asarray(values)
    if found.dtype.names:
        return np.asarray(sum(found[name].astype("f4") for name in found.dtype.names[:3]) / 3)
    return np.abs(found) if found.dtype.kind == "c" else found


class GridLayer(Layer):
    """An image, run or set of maps that is indexed by voxel.

    Parameters
    ----------
    stored : GridView
        Must stay open.
    name : str
        What the page calls it.
    """

    stored: GridView

    def __init__(self, stored: GridView, name: str) -> None:
        super().__init__(stored, name)
        if stored.ndim == 3:
            self.kind = "volume"
        elif stored.axes[3] == "label":
            self.kind = "label"

    @property
    def space(self) -> NeuroSpace:
        """Docstring inherited."""
        return self.stored.space

    @property
    def length(self) -> int:
        """Docstring inherited."""
        return self.stored.shape[3] if self.stored.ndim == 4 else 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Docstring inherited."""
        return self.stored.dtype

    @property
    def names(self) -> list[str] | None:
        """Docstring inherited."""
        return list(self.stored.part_names) if self.kind == "label" else None

    @property
    def runs(self) -> list[tuple[str, int, int]]:
        """Docstring inherited."""
        names: tuple[str, ...] = ()
        lengths: tuple[int, ...] = ()
        if isinstance(self.stored, NeuroVecSeq):
            names, lengths = self.stored.runs, self.stored.lengths
        elif isinstance(self.stored, LatentView):
            names = self.stored.part_names
            lengths = getattr(self.stored, "scan_lengths", ())
        if len(names) < 2:
            return []
        starts = np.cumsum((0, *lengths)).tolist()
        return list(zip(names, starts[:-1], lengths, strict=True))

    def _index(self, *space: Any, step: Any) -> Any:
        return space if self.stored.ndim == 3 else (*space, step)

    def plane(self, axis: int, index: int, step: int) -> AnyArray:
        """Docstring inherited."""
        space: list[Any] = [slice(None)] * 3
        space[axis] = index
        return self.read(self._index(*space, step=step))

    def read(self, index: Any, *, raw: bool = False) -> AnyArray:
        """Part of the values, or of the stored ones."""
        return _real(self.stored.read(index, raw=raw))

    def series(self, voxel: tuple[int, int, int]) -> AnyArray:
        """Docstring inherited."""
        return np.atleast_1d(self.read(self._index(*voxel, step=slice(None))))

    @property
    def parcellation(self) -> Parcellation | None:
        """Docstring inherited."""
        return self.stored.parcellation if isinstance(self.stored, ParcellatedScan) else None

    def parcel_series(self, position: int) -> AnyArray:
        """Docstring inherited."""
        parcels = self._need_parcels()
        if not parcels.sizes[position]:
            return np.full(self.length, np.nan)
        assert isinstance(self.stored, ParcellatedScan)
        return np.asarray(self.stored.parcel(int(parcels.ids[position])).mean(axis=1))

    def carpet(self) -> AnyArray:
        """Docstring inherited."""
        if self.kind != "time" or self.length < 2:
            return super().carpet()
        found = self.stored.sample_series(voxels=_CARPET_VOXELS, volumes=_CARPET_TIMES)
        return _real(found)

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """Docstring inherited."""
        return self.stored.chunks if self.stored.dense_array is not None else None

    def costs(self, voxel: tuple[int, int, int], step: int) -> list[dict[str, Any]]:
        """Docstring inherited."""
        x, y, z = voxel
        every = slice(None)
        reads = {
            "this slice, axial": self._index(every, every, z, step=step),
            "this slice, coronal": self._index(every, y, every, step=step),
            "this slice, sagittal": self._index(x, every, every, step=step),
        }
        if self.stored.ndim == 4:
            reads = {
                "this voxel, all volumes": (x, y, z),
                **reads,
                "this volume": (..., step),
            }
        reads["everything"] = ...
        return [_cost(self.stored, name, index) for name, index in reads.items()]


def _cost(stored: GridView, name: str, index: Any) -> dict[str, Any]:
    plan = stored.plan[index]
    return {
        "name": name,
        "chunks": plan.chunks,
        "of": plan.chunks_in_all,
        "requests": plan.requests,
        "fetched": plan.fetched_bytes,
        "decoded": plan.decoded_bytes,
        "returned": plan.returned_bytes,
    }


class ComponentLayer(Layer):
    """Loadings of a latent representation: a map and a time course for each component."""

    kind: Kind = "component"
    stored: LatentView

    @property
    def space(self) -> NeuroSpace:
        """Docstring inherited."""
        return self.stored.space.without_time()

    @property
    def length(self) -> int:
        """Docstring inherited."""
        return self.stored.n_components

    @property
    def dtype(self) -> np.dtype[Any]:
        """Docstring inherited."""
        return self.stored.loadings.dtype

    @property
    def names(self) -> list[str] | None:
        """Docstring inherited."""
        return [f"component {k + 1}" for k in range(self.length)]

    def plane(self, axis: int, index: int, step: int) -> AnyArray:
        """Docstring inherited."""
        return self.stored.loadings_slice(step, axis, index)

    def series(self, voxel: tuple[int, int, int]) -> AnyArray:
        """Docstring inherited."""
        row = int(self.stored.voxel_set.row_of[voxel])
        if row < 0:
            return np.zeros(self.length)
        rows = np.array([row], np.int64)
        return np.asarray(self.stored.loadings.read(rows, slice(0, self.length, 1))[0])

    def course(self, step: int) -> AnyArray:
        """Docstring inherited."""
        return np.ascontiguousarray(self.stored.basis[:, step])

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        space = self.stored.space
        return super().describe() | {"tr": space.tr, "start": space.time_offset}


class SummaryLayer(Layer):
    """One series for each parcel, painted on the parcel's voxels."""

    stored: ParcellatedScanSummary

    @property
    def space(self) -> NeuroSpace:
        """Docstring inherited."""
        return self.stored.space

    @property
    def length(self) -> int:
        """Docstring inherited."""
        return self.stored.shape[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Docstring inherited."""
        return self.stored.dtype

    @property
    def parcellation(self) -> Parcellation | None:
        """Docstring inherited."""
        return self.stored.parcellation

    def plane(self, axis: int, index: int, step: int) -> AnyArray:
        """Docstring inherited."""
        values = np.append(np.nan, np.asarray(self.stored[step], "f4")).astype("f4")
        return values[self.labels(axis, index)]

    def series(self, voxel: tuple[int, int, int]) -> AnyArray:
        """Docstring inherited."""
        label = int(self.stored.parcellation.labels[voxel])
        if not label:
            return np.full(self.length, np.nan)
        return self.stored.series(label)

    def parcel_series(self, position: int) -> AnyArray:
        """Docstring inherited."""
        return self.stored.series(int(self.stored.ids[position]))

    def carpet(self) -> AnyArray:
        """Docstring inherited."""
        count = self.stored.shape[1]
        rows = np.unique(np.linspace(0, count - 1, min(count, _CARPET_VOXELS)).astype(int))
        every = slice(None, None, -(-self.length // _CARPET_TIMES))
        return np.asarray(self.stored.series(self.stored.ids[rows].tolist(), times=every)).T


# Which layers there are -----------------------------------------------------------------------


def layer_names(stored: Any) -> list[str]:
    """Names of the layers of an object, the one that is shown first at the beginning."""
    if isinstance(stored, ParcellatedMultiScan):
        return list(stored.scan_names)
    if isinstance(stored, NeuroVecSeq):
        return ["all runs", *(f"run {name}" for name in stored.runs)]
    if isinstance(stored, LatentView):
        parts = [f"scan {name}" for name in stored.part_names] if stored.part_names else []
        return ["all scans" if len(parts) > 1 else "run", "components", *parts * (len(parts) > 1)]
    if isinstance(stored, MaskedNeuroVec) and stored.part_names:
        return [f"assay {name}" for name in stored.part_names]
    if isinstance(stored, GridView | ParcellatedBase):
        return [str(getattr(stored, "name", "") or type(stored).__name__)]
    return []


def find_part(stored: Any, name: str) -> Start:
    """Find the layer and the volume in which a run, scan or map of an object is shown.

    Raises
    ------
    SelectionError
        If there is no such part.
    """
    known = stored.part_names
    if name not in known:
        some = ", ".join(map(repr, known[:10])) or "none"
        raise SelectionError(f"there is no part {name!r}; there are {some}", url=stored.url)
    place = known.index(name)
    if isinstance(stored, ParcellatedMultiScan | MaskedNeuroVec):
        return Start(layer=place)
    if isinstance(stored, NeuroVecSeq):
        return Start(layer=place + 1)
    if isinstance(stored, LatentView):
        return Start(layer=place + 2 if len(stored.part_names) > 1 else 0)
    return Start(step=place)


def open_layer(stored: Any, number: int) -> Layer:
    """One of the layers of an object, by its place in `layer_names`.

    Raises
    ------
    SelectionError
        If there is none at that place.
    InvalidInputError
        If its format has nothing that could be drawn.
    """
    names = layer_names(stored)
    if not 0 <= number < len(names):
        raise SelectionError(f"there is no layer {number}, there are {len(names)}")
    name = names[number]
    if isinstance(stored, ParcellatedMultiScan):
        return _layer(stored[name], name)
    if isinstance(stored, NeuroVecSeq) and number:
        return _layer(stored.run(number - 1), name)
    if isinstance(stored, MaskedNeuroVec) and number:
        return _layer(stored.part(stored.part_names[number]), name)
    if isinstance(stored, LatentView) and number:
        if number == 1:
            return ComponentLayer(stored, name)
        return _layer(stored.part(stored.part_names[number - 2]), name)
    return _layer(stored, name)


def _layer(stored: StoredObject, name: str) -> Layer:
    if isinstance(stored, GridView):
        return GridLayer(stored, name)
    if isinstance(stored, ParcellatedScanSummary):
        return SummaryLayer(stored, name)
    raise InvalidInputError(f"a {type(stored).__name__} cannot be drawn", url=stored.url)
