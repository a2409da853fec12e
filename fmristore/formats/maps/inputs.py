"""Maps that are to be stored together: what a user gives, understood and checked."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import StoredObject
from fmristore.formats.voxel_source import Part, StoredSource, VoxelSource, parts_of
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.sources.images import ArraySource, image_source, in_axis_order
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import check_attributes

__all__ = ["MapStack", "check_labels", "finite_mask", "map_source", "map_stack", "numbers_of"]


class MapStack(ABC):
    """Maps on one grid, with their labels; no numbers are read before they are asked for.

    Parameters
    ----------
    labels : tuple of str
        One for each map.
    space : NeuroSpace
        Their grid.
    dtype : dtype
        That their numbers are to have.
    headers : sequence of bytes, optional
        NIfTI header of each map; empty where it has none.
    """

    whole: ClassVar[bool]
    """Whether the maps can only be read all together."""

    def __init__(
        self,
        labels: tuple[str, ...],
        space: NeuroSpace,
        dtype: np.dtype[Any],
        headers: Sequence[bytes],
    ) -> None:
        self.labels = labels
        self.space = space
        self.dtype = dtype
        self.headers = tuple(headers)
        self.metadata: Mapping[str, Any] = {}

    def know(self, space_name: str | None, metadata: Mapping[str, Any]) -> None:
        """Let the maps be in a space of that name, and keep what else is known of them.

        Raises
        ------
        InvalidInputError
            If JSON does not hold the metadata.
        """
        from fmristore.nifti import header_in_space

        self.metadata = check_attributes(metadata)
        if space_name is not None:
            self.space = replace(self.space, space_name=space_name)
            self.headers = tuple(raw and header_in_space(raw, space_name) for raw in self.headers)

    @abstractmethod
    def parts(self, voxels: VoxelSet, rows: slice, max_memory: int) -> Iterator[Part]:
        """Numbers of the maps `rows` (all of them if `whole`), in the voxels."""


class _Volumes(MapStack):
    """Maps that are volumes of their own."""

    whole = False

    def __init__(
        self, labels: tuple[str, ...], sources: Sequence[VoxelSource], dtype: np.dtype[Any]
    ) -> None:
        headers = [source.header for source in sources]
        super().__init__(labels, sources[0].space.without_time(), dtype, headers)
        self._sources = sources

    def parts(self, voxels: VoxelSet, rows: slice, max_memory: int) -> Iterator[Part]:
        for row in range(rows.start, rows.stop):
            for part in _converted(self._sources[row], voxels, self.dtype, max_memory):
                yield part._replace(row=row)


class _Run(MapStack):
    """Maps that lie in one image with four axes."""

    whole = True

    def __init__(
        self,
        labels: tuple[str, ...],
        source: VoxelSource,
        dtype: np.dtype[Any],
        headers: Sequence[bytes] | None = None,
    ) -> None:
        if headers is None:
            headers = [source.header] * len(labels)
        super().__init__(labels, source.space.without_time(), dtype, headers)
        self._source = source

    def parts(
        self,
        voxels: VoxelSet,
        rows: slice,  # noqa: ARG002 - always all of them
        max_memory: int,
    ) -> Iterator[Part]:
        return _converted(self._source, voxels, self.dtype, max_memory)


def _converted(
    source: VoxelSource, voxels: VoxelSet, dtype: np.dtype[Any], max_memory: int
) -> Iterator[Part]:
    """Numbers meant, of one type."""
    for part in parts_of(source, voxels, max_memory):
        values, times = part.values, slice(part.row, part.row + len(part.values))
        if source.scaling is not None:
            values = source.scaling.apply(values, times=times, axis=0)
        with np.errstate(over="ignore"):
            yield part._replace(values=values.astype(dtype, copy=False))


def numbers_of(source: VoxelSource, voxels: VoxelSet, dtype: np.dtype[Any]) -> AnyArray:
    """Numbers of one map in the voxels, (V,)."""
    values = np.empty(len(voxels), dtype)
    for _, start, part in _converted(source, voxels, dtype, 1 << 30):
        values[start : start + part.shape[1]] = part[0]
    return values


def finite_mask(stack: MapStack, within: AnyArray | None, max_memory: int) -> AnyArray:
    """Voxels that are neither NaN nor infinite in any map, (X, Y, Z) bool.

    Parameters
    ----------
    stack : MapStack
        The maps; read once.
    within : ndarray of bool, (X, Y, Z), optional
        Voxels to look at; all of them by default.
    max_memory : int
        Bytes that reading may take.
    """
    inside = np.ones(stack.space.spatial_shape, np.bool_) if within is None else within
    voxels = VoxelSet.from_mask(inside, stack.space)
    finite = np.ones(len(voxels), np.bool_)
    for part in stack.parts(voxels, slice(0, len(stack.labels), 1), max_memory):
        columns = slice(part.voxel, part.voxel + part.values.shape[1])
        finite[columns] &= np.isfinite(part.values).all(axis=0)
    return voxels.scatter(finite)


# What a user gives ----------------------------------------------------------------------------


def map_stack(
    maps: Any = None,
    *,
    labels: Any = None,
    data: Any = None,
    space: NeuroSpace | AnyArray | None = None,
    dtype: DTypeLike | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> MapStack:
    """Understand maps and their labels, and check that they go together.

    Parameters
    ----------
    maps : mapping of str to map, or stored object with labels, optional
        A map is a NIfTI path, a nibabel image, a stored volume, or an array (X, Y, Z). Stores
        are opened already: see `fmristore.formats.opening`.
    labels, data : sequence of str, and sequence of maps or image (X, Y, Z, L), optional
        In place of `maps`.
    space : NeuroSpace or (4, 4) affine, optional
        Grid of arrays; that of the maps that have one by default.
    dtype : dtype, optional
        Of the stored numbers; by default the smallest type that holds those of all maps.
    storage_options : mapping, optional
        For URLs.

    Raises
    ------
    InvalidInputError
        If labels are empty, repeated, or not one for each map; if maps are not volumes of real
        numbers on one grid; or if `dtype` cannot hold them.
    """
    if (maps is None) == (data is None) or (data is None and labels is not None):
        raise InvalidInputError("give maps, or labels= and data=")
    if isinstance(maps, Mapping):
        labels, data = list(maps), list(maps.values())
    own: Sequence[bytes] | None = None
    if maps is not None and not isinstance(maps, Mapping):
        if not (isinstance(maps, StoredObject) and hasattr(maps, "labels")):
            raise InvalidInputError("maps must be a mapping of label to map, or come with labels=")
        labels, data = maps.labels, maps
        own = getattr(maps, "source_headers", None)
    names = check_labels(labels)
    data = _in_label_order(data, names)
    if _is_run(data, storage_options):
        source = _run_source(data, space, storage_options)
        count = source.space.time_points or 1
        if count != len(names):
            raise InvalidInputError(f"{len(names)} labels for {count} maps")
        return _Run(names, source, _common_dtype([source], dtype), own)
    data = list(data) if isinstance(data, list | tuple) else [data]
    if len(data) != len(names):
        raise InvalidInputError(f"{len(names)} labels for {len(data)} maps")
    grid = _grid(data, names, space, storage_options)
    sources = [
        map_source(one, label=label, space=grid, storage_options=storage_options)
        for label, one in zip(names, data, strict=True)
    ]
    return _Volumes(names, sources, _common_dtype(sources, dtype))


def _in_label_order(data: Any, labels: tuple[str, ...]) -> Any:
    """Maps of a DataArray in order of the labels, where its coordinates say which is which."""
    dims = getattr(data, "dims", None)
    if not isinstance(dims, tuple) or len(dims) != 4 or not hasattr(data, "isel"):
        return data
    ordered = in_axis_order(data)
    axis = ordered.dims[3]
    if axis not in ordered.coords:
        return ordered
    own = np.asarray(ordered.coords[axis]).tolist()
    if not all(isinstance(label, str) for label in own) or own == list(labels):
        return ordered
    if sorted(own) != sorted(labels):
        raise InvalidInputError(
            f"the maps are called {', '.join(map(repr, own[:3]))}, ... by their coordinate "
            f"{axis!r}, and {', '.join(map(repr, labels[:3]))}, ... by labels="
        )
    return ordered.isel({axis: [own.index(label) for label in labels]})


def check_labels(labels: Any) -> tuple[str, ...]:
    """Return labels as a tuple of texts.

    Raises
    ------
    InvalidInputError
        If there are none, one is no text, blank, cannot be stored, or occurs twice.
    """
    if isinstance(labels, str):
        labels = [labels]
    try:
        names = list(labels)
    except TypeError as error:
        raise InvalidInputError("labels must be a sequence of texts") from error
    if not names:
        raise InvalidInputError("no maps: at least one with a label is needed")
    seen = set()
    for number, label in enumerate(names):
        if not isinstance(label, str):
            _refuse(f"label {number} is {label!r}, not text")
        if not label.strip():
            _refuse(f"label {number} is empty")
        if "\x00" in label or any("\ud800" <= c <= "\udfff" for c in label):
            _refuse(f"label {label[:80]!r}: NUL and lone surrogates cannot be stored")
        if label in seen:
            _refuse(f"label {label[:80]!r} occurs twice")
        seen.add(label)
    return tuple(str(label) for label in names)


def _refuse(text: str) -> NoReturn:
    raise InvalidInputError(text)


def map_source(
    data: Any,
    *,
    label: str,
    space: NeuroSpace | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> VoxelSource:
    """Understand one map.

    Parameters
    ----------
    data : path, nibabel image, stored volume, or array_like of shape (X, Y, Z)
    label : str
        For messages.
    space : NeuroSpace, optional
        Grid that it must be on; an array need only have its shape.
    storage_options : mapping, optional
        For a URL.

    Raises
    ------
    InvalidInputError
        If it is not one volume of numbers on that grid.
    """
    source: VoxelSource
    name = _name(data, f"map {label[:80]!r}")
    if isinstance(data, StoredObject):
        own = getattr(data, "space", None)
        if not isinstance(own, NeuroSpace) or getattr(data, "shape", None) != own.spatial_shape:
            raise InvalidInputError(f"{name} is not a stored volume")
        source = ArraySource(data, own, template=getattr(data, "source_header", b""))
    elif _has_grid(data):
        source = image_source(data, storage_options=storage_options)
    else:
        array = _array(data, name)
        if space is not None and array.shape != space.spatial_shape:
            raise InvalidInputError(
                f"{name} has the shape {array.shape}, expected {space.spatial_shape}"
            )
        source = image_source(array, space=None if space is None else space.without_time())
    if (source.space.time_points or 1) != 1:
        raise InvalidInputError(f"{name} has the shape {source.space.shape}, not of one volume")
    if source.colors:
        raise InvalidInputError(f"{name} is in colour")
    if space is not None:
        _check_grid(source, space, name)
    return source


def _run_source(
    data: Any,
    space: NeuroSpace | AnyArray | None,
    storage_options: Mapping[str, Any] | None,
) -> VoxelSource:
    """Understand an image (X, Y, Z, L) that holds all maps."""
    if isinstance(data, StoredObject):
        source: VoxelSource = StoredSource(data)
    elif _has_grid(data):
        source = image_source(data, storage_options=storage_options)
    else:
        given = space
        if isinstance(space, NeuroSpace):
            given = space.without_time().with_time(in_axis_order(data).shape[3])
        return image_source(data, space=given)
    if source.colors:
        raise InvalidInputError("maps must be numbers, not colours")
    if space is not None:
        _check_grid(source, _on_shape(space, source.space.spatial_shape), _name(data, "the image"))
    return source


def _grid(
    data: Sequence[Any],
    labels: Sequence[str],
    space: NeuroSpace | AnyArray | None,
    storage_options: Mapping[str, Any] | None,
) -> NeuroSpace:
    """Grid of the maps: the one given, else that of the first map that has one."""
    if isinstance(space, NeuroSpace):
        return space.without_time()
    if space is None:
        for label, one in zip(labels, data, strict=True):
            if _has_grid(one) or isinstance(one, StoredObject):
                source = map_source(one, label=label, storage_options=storage_options)
                return source.space.without_time()
        raise InvalidInputError("arrays need space=: a NeuroSpace or an affine (4, 4)")
    if _has_grid(data[0]) or isinstance(data[0], StoredObject):
        first = map_source(data[0], label=labels[0], storage_options=storage_options)
        return _on_shape(space, first.space.spatial_shape)
    return _on_shape(space, _array(data[0], f"map {labels[0][:80]!r}").shape)


def _on_shape(space: NeuroSpace | AnyArray, shape: tuple[int, ...]) -> NeuroSpace:
    """The grid that a user gave, by its affine alone or as it is."""
    if isinstance(space, NeuroSpace):
        return space.without_time()
    x, y, z = shape
    return NeuroSpace(spatial_shape=(x, y, z), affine=space)


def _check_grid(source: VoxelSource, space: NeuroSpace, name: str) -> None:
    if source.space.spatial_shape != space.spatial_shape:
        raise InvalidInputError(
            f"{name} has the shape {source.space.spatial_shape}, expected {space.spatial_shape}"
        )
    if not source.space.same_grid(space):
        raise InvalidInputError(
            f"{name} lies {source.space.grid_distance(space):.3g} mm off the grid of the others; "
            "resample it, or pass its array to ignore this"
        )


def _common_dtype(sources: Sequence[VoxelSource], wanted: DTypeLike | None) -> np.dtype[Any]:
    found = {s.dtype if s.scaling is None else s.scaling.dtype(s.dtype) for s in sources}
    common = np.result_type(*found)
    if wanted is None:
        return common
    chosen = np.dtype(wanted).newbyteorder("<")
    if chosen.kind not in "iufc" or not np.can_cast(common, chosen, "same_kind"):
        raise InvalidInputError(f"maps of type {common} cannot be stored as {chosen}")
    return chosen


def _is_run(data: Any, storage_options: Mapping[str, Any] | None) -> bool:
    """Whether all maps lie in one image."""
    if isinstance(data, list | tuple):
        return False
    if isinstance(data, str | os.PathLike):
        from fmristore.nifti import read_header

        header = read_header(data, storage_options=storage_options)
        return header.space.time_points is not None
    return len(getattr(data, "shape", ())) == 4


def _has_grid(data: Any) -> bool:
    return isinstance(data, str | os.PathLike) or hasattr(data, "dataobj")


def _array(data: Any, name: str) -> AnyArray:
    try:
        array = np.asarray(in_axis_order(data))
    except ValueError as error:
        raise InvalidInputError(f"{name} is not an array of numbers: {error}") from error
    if array.ndim != 3 or array.dtype.kind not in "biufc":
        raise InvalidInputError(
            f"{name} has the shape {array.shape} and type {array.dtype}: expected numbers (X, Y, Z)"
        )
    return array


def _name(data: Any, otherwise: str) -> str:
    return f"{otherwise} ({os.fspath(data)})" if isinstance(data, str | os.PathLike) else otherwise
