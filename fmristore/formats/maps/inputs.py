"""Maps that are to be stored together: what a user gives, understood and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import StoredObject
from fmristore.formats.maps.layout import MapInputs
from fmristore.formats.series_blocks import SeriesBlock
from fmristore.formats.voxel_source import voxel_reader
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import VoxelSet
from fmristore.planning.streams import streaming
from fmristore.sources.door import has_grid, source_of
from fmristore.sources.grids import advice
from fmristore.sources.images import ImageSource, in_axis_order
from fmristore.sources.labelled import positional
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

__all__ = ["check_labels", "finite_mask", "map_source", "map_stack", "values_of"]


class _Volumes(MapInputs):
    """Maps that are volumes of their own."""

    whole = False

    def __init__(
        self, labels: tuple[str, ...], sources: Sequence[ImageSource], dtype: np.dtype[Any]
    ) -> None:
        headers = [source.header for source in sources]
        super().__init__(labels, sources[0].space.without_time(), dtype, headers)
        self._sources = sources

    def blocks(self, voxels: VoxelSet, rows: slice, max_memory: int) -> Iterator[SeriesBlock]:
        for row in range(rows.start, rows.stop):
            for block in _converted(self._sources[row], voxels, self.dtype, max_memory):
                yield block._replace(times=slice(row, row + 1, 1))


class _Run(MapInputs):
    """Maps that lie in one image with four axes."""

    whole = True

    def __init__(
        self,
        labels: tuple[str, ...],
        source: ImageSource,
        dtype: np.dtype[Any],
        headers: Sequence[bytes] | None = None,
    ) -> None:
        if headers is None:
            headers = [source.header] * len(labels)
        grid = source.space if source.stored is None else source.stored.space
        super().__init__(labels, grid.without_time(), dtype, headers)
        self._source = source

    def blocks(
        self,
        voxels: VoxelSet,
        rows: slice,  # noqa: ARG002 - always all of them
        max_memory: int,
    ) -> Iterator[SeriesBlock]:
        return _converted(self._source, voxels, self.dtype, max_memory)


def _converted(
    source: ImageSource, voxels: VoxelSet, dtype: np.dtype[Any], max_memory: int
) -> Iterator[SeriesBlock]:
    """Scaled values, of one type."""
    reader = voxel_reader(source, voxels)
    with streaming(reader.scaled(reader.slabs(max_memory))) as blocks:
        for block in blocks:
            with np.errstate(over="ignore"):
                yield block._replace(values=block.values.astype(dtype, copy=False))


def values_of(source: ImageSource, voxels: VoxelSet, dtype: np.dtype[Any]) -> AnyArray:
    """Values of one map in the voxels, (V,)."""
    values = np.empty(len(voxels), dtype)
    for _, columns, part in _converted(source, voxels, dtype, 1 << 30):
        values[columns] = part[0]
    return values


def finite_mask(stack: MapInputs, within: AnyArray | None, max_memory: int) -> AnyArray:
    """Voxels that are neither NaN nor infinite in any map, (X, Y, Z) bool.

    Parameters
    ----------
    stack : MapInputs
        The maps; read once.
    within : ndarray of bool, (X, Y, Z), optional
        Voxels to look at; all of them by default.
    max_memory : int
        Bytes that reading may take.
    """
    inside = np.ones(stack.space.spatial_shape, np.bool_) if within is None else within
    voxels = VoxelSet.from_mask(inside, stack.space)
    finite = np.ones(len(voxels), np.bool_)
    with streaming(stack.blocks(voxels, slice(0, len(stack.labels), 1), max_memory)) as blocks:
        for _, columns, values in blocks:
            finite[columns] &= np.isfinite(values).all(axis=0)
    return voxels.scatter(finite)


# What a user gives ----------------------------------------------------------------------------


def map_stack(
    maps: Any,
    *,
    labels: Any = None,
    space: NeuroSpace | AnyArray | None = None,
    dtype: DTypeLike | None = None,
) -> MapInputs:
    """Understand maps and their labels, and check that they go together.

    Parameters
    ----------
    maps : mapping of str to map, stored object with labels, sequence of maps, or image
        A map is a nibabel image, a stored volume, or an array (X, Y, Z). Files and stores are
        opened already: see `fmristore.sources.door`.
    labels : sequence of str, optional
        For a sequence of maps, or an image (X, Y, Z, L).
    space : NeuroSpace or (4, 4) affine, optional
        Grid of arrays; that of the maps that have one by default.
    dtype : dtype, optional
        Of the stored values; by default the smallest type that holds those of all maps.

    Raises
    ------
    InvalidInputError
        If labels are empty, repeated, or not one for each map; if maps are not volumes of real
        numbers on one grid; or if `dtype` cannot hold them.
    """
    own: Sequence[bytes] | None = None
    data = maps
    if isinstance(maps, Mapping):
        if labels is not None:
            raise InvalidInputError(
                "a mapping names its maps itself; labels= is for a sequence of maps or one image"
            )
        labels, data = list(maps), list(maps.values())
    elif labels is None:
        if not (isinstance(maps, StoredObject) and hasattr(maps, "labels")):
            raise InvalidInputError("maps must be a mapping of label to map, or come with labels=")
        labels, own = maps.labels, getattr(maps, "source_headers", None)
    names = check_labels(labels)
    data = _in_label_order(data, names)
    if _is_run(data):
        source = _run_source(data, space)
        count = source.space.time_points or 1
        if count != len(names):
            raise InvalidInputError(f"{len(names)} labels for {count} maps")
        return _Run(names, source, _common_dtype([source], dtype), own)
    data = list(data) if isinstance(data, list | tuple) else [data]
    if len(data) != len(names):
        raise InvalidInputError(f"{len(names)} labels for {len(data)} maps")
    grid = _grid(data, names, space)
    sources = [
        map_source(one, label=label, space=grid) for label, one in zip(names, data, strict=True)
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
        names = list(positional(labels, "labels"))
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


def map_source(found: Any, *, label: str, space: NeuroSpace | None = None) -> ImageSource:
    """Understand one map.

    Parameters
    ----------
    found : NiftiSource, nibabel image, stored volume, or array_like of shape (X, Y, Z)
        As `open_if_path` returns it.
    label : str
        For messages.
    space : NeuroSpace, optional
        Grid that it must be on; an array need only have its shape.

    Raises
    ------
    InvalidInputError
        If it is not one volume of values on that grid.
    """
    name = f"map {label[:80]!r}"
    if has_grid(found):
        source = source_of(found)
        name = name if source.url is None else f"{name} ({source.url})"
    else:
        array = _array(found, name)
        if space is not None and array.shape != space.spatial_shape:
            raise InvalidInputError(
                f"{name} has the shape {array.shape}, expected {space.spatial_shape}"
            )
        source = source_of(array, space=None if space is None else space.without_time())
    if (source.space.time_points or 1) != 1:
        raise InvalidInputError(f"{name} has the shape {source.space.shape}, not of one volume")
    if source.colors:
        raise InvalidInputError(f"{name} is in colour")
    if space is not None:
        _check_grid(source, space, name)
    return source


def _run_source(found: Any, space: NeuroSpace | AnyArray | None) -> ImageSource:
    """Understand an image (X, Y, Z, L) that holds all maps."""
    if not has_grid(found):
        if isinstance(space, NeuroSpace):
            space = space.without_time().with_time(in_axis_order(found).shape[3])
        return source_of(found, space=space)
    source = source_of(found)
    if source.colors:
        raise InvalidInputError("maps must be numbers, not colours", url=source.url)
    if space is not None:
        _check_grid(source, _on_shape(space, source.space.spatial_shape), source.url or "the image")
    return source


def _grid(
    data: Sequence[Any], labels: Sequence[str], space: NeuroSpace | AnyArray | None
) -> NeuroSpace:
    """Grid of the maps: the one given, else that of the first map that has one."""
    if isinstance(space, NeuroSpace):
        return space.without_time()
    if space is None:
        for label, one in zip(labels, data, strict=True):
            if has_grid(one):
                return map_source(one, label=label).space.without_time()
        raise InvalidInputError("arrays need space=: a NeuroSpace or an affine (4, 4)")
    if has_grid(data[0]):
        return _on_shape(space, map_source(data[0], label=labels[0]).space.spatial_shape)
    return _on_shape(space, _array(data[0], f"map {labels[0][:80]!r}").shape)


def _on_shape(space: NeuroSpace | AnyArray, shape: tuple[int, ...]) -> NeuroSpace:
    """The grid that a user gave, by its affine alone or as it is."""
    if isinstance(space, NeuroSpace):
        return space.without_time()
    x, y, z = shape
    return NeuroSpace(spatial_shape=(x, y, z), affine=space)


def _check_grid(source: ImageSource, space: NeuroSpace, name: str) -> None:
    if source.space.spatial_shape != space.spatial_shape:
        raise InvalidInputError(
            f"{name} has the shape {source.space.spatial_shape}, expected {space.spatial_shape}"
        )
    if not source.space.same_grid(space):
        raise InvalidInputError(
            f"{name} lies {source.space.grid_distance(space):.3g} mm off the grid of the others; "
            f"{advice('map', space, source.space)}"
        )


def _common_dtype(sources: Sequence[ImageSource], wanted: DTypeLike | None) -> np.dtype[Any]:
    found = {s.dtype if s.scaling is None else s.scaling.dtype(s.dtype) for s in sources}
    common = np.result_type(*found)
    if wanted is None:
        return common
    chosen = np.dtype(wanted).newbyteorder("<")
    if chosen.kind not in "iufc" or not np.can_cast(common, chosen, "same_kind"):
        raise InvalidInputError(f"maps of type {common} cannot be stored as {chosen}")
    return chosen


def _is_run(found: Any) -> bool:
    """Return whether all maps lie in one image."""
    if isinstance(found, list | tuple):
        return False
    if has_grid(found):
        return source_of(found).space.time_points is not None
    return len(getattr(found, "shape", ())) == 4


def _array(data: Any, name: str) -> AnyArray:
    try:
        array = np.asarray(in_axis_order(data))
    except ValueError as error:
        raise InvalidInputError(f"{name} is not an array of values: {error}") from error
    if array.ndim != 3 or array.dtype.kind not in "biufc":
        raise InvalidInputError(
            f"{name} has the shape {array.shape} and type {array.dtype}: expected numbers (X, Y, Z)"
        )
    return array
