"""Runs that grow while they are acquired: a layout for it, appending, closing into the final one.

A growing run is a `NeuroVec` whose array has one write unit or more for each volume. The units of
new volumes are written first, then the shape that makes readers see them. What depends on the
number of volumes is stored when the run is finished.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fmristore.formats.image.layout import (
    GROWING,
    ImageOptions,
    image_options,
    image_spec,
    write_data,
)
from fmristore.formats.image.ome import describe_ome, image_name
from fmristore.formats.image.replicas import access_attributes
from fmristore.formats.new_arrays import write_bytes
from fmristore.formats.nodes import (
    format_attributes,
    read_affine,
    space_attributes,
    with_holds,
    write_axes,
    write_metadata,
)
from fmristore.formats.options import Target, store_as
from fmristore.formats.registry import format_class
from fmristore.model.digest import digest_image
from fmristore.model.space import NeuroSpace
from fmristore.planning.layout import adapt_spec
from fmristore.planning.options import LayoutOptions
from fmristore.sources.door import has_grid, in_order, is_path, load_volume, source_of
from fmristore.sources.facts import metadata_of
from fmristore.sources.images import ArraySource, ImageSource, in_axis_order
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.writer import write
from fmristore_stores.edit import edit_store
from fmristore_stores.errors import (
    ChangedError,
    InvalidInputError,
    LayoutNotSupportedError,
    StorageError,
)
from fmristore_stores.io.location import exists, kind_of_name, normalise
from fmristore_stores.opening import FixedHandle, Locator, locate
from fmristore_stores.protocol import AnyArray, Capability, ChunkRefs, Growing, Store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.publishing.turns import take_turn

__all__ = ["append", "as_type", "finish"]


def append(
    volumes: Any,
    url: str | os.PathLike[str],
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    codec: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> int:
    """Append volumes to a run that is being acquired; the first call begins it.

    Parameters
    ----------
    volumes : array_like (X, Y, Z) or (X, Y, Z, n), path, nibabel image, or stored image
        One volume or several; scaled as their source says.
    url : str or path
        Of the growing run: a Zarr store, local or on object storage. It opens as a `NeuroVec`
        with the volumes that it has.
    space : NeuroSpace or (4, 4) affine, optional
        Where the voxels of an array are; needed in the first call.
    tr : float, optional
        Repetition time in seconds; needed in the first call only.
    codec : str, optional
        Preset, in the first call; see `fmristore.convert`.
    storage_options : mapping, optional
        Passed to fsspec.

    Returns
    -------
    int
        Volumes that the run has now. When this returns they are on disk, or in the bucket, and
        whatever happens to this process they can be read.

    Raises
    ------
    InvalidInputError
        If the volumes do not fit the run, the first ones have no grid, the type of the run cannot
        hold the values, or what is at `url` is no growing run.
    LayoutNotSupportedError
        If `url` is that of an HDF5 file, which cannot grow so that a kill leaves it readable.
    AlreadyExistsError
        If another process began the run at the same time; these volumes are not in it.
    StorageError
        If writing fails. The run has the volumes then that it had before.

    Notes
    -----
    Who opens the store meanwhile sees whole volumes: those of the calls that ended before. A call
    writes the new volumes and some metadata, however many there are already. Processes that
    append at the same time take turns. `NeuroVec.finish` closes the run into its final layout.

    Examples
    --------
    >>> import fmristore as fs
    >>> fs.append(volume, "scan.zarr", space=affine, tr=0.8)                  # doctest: +SKIP
    1
    """
    volumes, url = in_order(volumes, url)
    target = normalise(url)
    values, grid = _block(volumes, space, storage_options)
    if exists(target, storage_options):
        if codec is not None:
            raise InvalidInputError("codec is for the first volumes of a run", url=target)
        return _append(target, values, grid, tr, storage_options)
    if grid is None:
        raise InvalidInputError("the first volumes of a run need space= or a grid", url=target)
    known = grid.tr if tr is None and isinstance(grid, NeuroSpace) else tr
    if not isinstance(grid, NeuroSpace):
        grid = NeuroSpace(spatial_shape=_three(values.shape), affine=grid)
    source = source_of(values, space=grid.with_time(int(values.shape[3]), tr=known))
    if kind_of_name(target) == "hdf5":
        raise _no_hdf5(target)
    options = ImageOptions(access="volume", codec=codec or "dual")
    with create_store(target, storage_options=storage_options) as store:
        _begin(store, source, options)
    return int(values.shape[3])


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[0], shape[1], shape[2])


def _no_hdf5(url: str) -> LayoutNotSupportedError:
    return LayoutNotSupportedError(
        "an HDF5 file cannot grow so that a kill leaves it readable: append to a .zarr store, and "
        'close it into the file with fmristore.open("run.zarr").finish("run.h5")',
        url=url,
    )


def _block(
    volumes: Any, space: Any, storage_options: Mapping[str, Any] | None
) -> tuple[AnyArray, Any]:
    """Values (X, Y, Z, n), and their grid if they have one."""
    if is_path(volumes) or has_grid(volumes):
        values, grid, *_ = load_volume(volumes, "volumes", storage_options)
        found = grid if space is None else space
    else:
        values, found = np.asarray(in_axis_order(volumes)), space
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or not values.size or values.dtype.kind not in "biufc":
        raise InvalidInputError(
            f"volumes are values (X, Y, Z) or (X, Y, Z, n), not {values.dtype} {values.shape}"
        )
    return values, found


# Beginning ------------------------------------------------------------------------------------


def _begin(store: Store, source: ImageSource, options: ImageOptions) -> None:
    """Write the first volumes of a growing run into an empty store."""
    group, space = store.root, source.space
    write_axes(group, space)
    one = ArraySource(
        np.empty((*space.spatial_shape, 1), source.dtype), space.with_time(1, tr=space.tr)
    )
    planned = image_spec(one, options)  # units of one volume, however many come at first
    spec = replace(planned, shape=(space.time_points or 1, *planned.shape[1:]))
    array = group.create_array("0", adapt_spec(spec, store.capabilities))
    if Capability.GROWTH not in array.capabilities:
        raise _no_hdf5(store.url)
    write_data(array, array.spec.dims, source, options.max_memory)
    array.write_attributes(access_attributes(("volume",))[0])
    write_bytes(group, "nifti", "nifti_byte", source.header)
    write_metadata(group, metadata_of(source))
    ome = describe_ome(source, spec.dims, "0", None, name=image_name(store.url))
    attributes = {"ome": ome, GROWING: True} | format_attributes("neurovec")
    group.write_attributes(with_holds(group, attributes | space_attributes(space)))


# Appending ------------------------------------------------------------------------------------


def _append(
    url: str,
    values: AnyArray,
    grid: Any,
    tr: float | None,
    storage_options: Mapping[str, Any] | None,
) -> int:
    with _open_growing(url, storage_options) as run:
        spatial = run.space.without_time()
        _check_grid(spatial, _three(values.shape), grid, url)
        if tr is not None and tr != run.tr:
            raise InvalidInputError(f"the run has a TR of {run.tr} s, these {tr}", url=url)
        stored = as_type(values, run.stored_dtype, url).transpose(3, 2, 1, 0)
        length = run.shape[3]

    def check(store: Store) -> None:
        _check_added(store, length, length + len(stored))

    with edit_store(url, storage_options=storage_options, tidy=False, check=check) as store:
        array = store.root.array("0")
        same = array.spec.shape[1:] == stored.shape[1:] and array.spec.dtype == stored.dtype
        now = FixedHandle(Locator(url=url, kind="zarr"), store)
        if not same or not np.array_equal(read_affine(now), spatial.affine):
            raise ChangedError("another run took its place meanwhile", url=url)
        if not store.root.read_attributes().get(GROWING):
            raise ChangedError("the run was finished meanwhile", url=url)
        if Capability.GROWTH not in array.capabilities:
            raise _no_hdf5(url)
        length = array.spec.shape[0]
        with cast("Growing", array).longer(length + len(stored)) as longer:
            space = tuple(slice(0, n, 1) for n in stored.shape[1:])
            write(longer, (slice(length, length + len(stored), 1), *space), stored)
    return length + len(stored)


def _check_grid(run: NeuroSpace, shape: tuple[int, int, int], grid: Any, url: str) -> None:
    """Check that volumes lie where those of the run do."""
    if shape != run.spatial_shape:
        raise InvalidInputError(
            f"volumes of shape {shape} do not fit the run, whose volumes are {run.spatial_shape}",
            url=url,
        )
    if grid is not None and not isinstance(grid, NeuroSpace):
        grid = NeuroSpace(spatial_shape=shape, affine=grid)
    if grid is not None and not run.same_grid(grid):
        far = run.grid_distance(grid)
        raise InvalidInputError(f"volumes lie {far:.3g} mm from those of the run", url=url)


def _open_growing(url: str, storage_options: Mapping[str, Any] | None) -> Any:
    """Open the `NeuroVec` that is appended to."""
    found: Any = format_class("neurovec").open(url, storage_options=storage_options)
    if found.growing:
        return found
    found.close()
    raise InvalidInputError(
        f"a {type(found).__name__} that is complete: volumes are appended to a run that was begun "
        "with fmristore.append",
        url=url,
    )


def as_type(values: AnyArray, dtype: np.dtype[Any], url: str) -> AnyArray:
    """Values in the type of the run, if it can hold them; they are not copied without need."""
    with np.errstate(all="ignore"):
        stored = values.astype(dtype, copy=False)
    if not np.can_cast(values.dtype, dtype) and not np.array_equal(
        stored, values, equal_nan=values.dtype.kind in "fc"
    ):
        raise InvalidInputError(
            f"the run holds {dtype}, as its first volumes, which cannot hold these {values.dtype}",
            url=url,
        )
    return stored


def _check_added(store: Store, begin: int, end: int) -> None:
    """Check that new volumes are in a store, opened again."""
    array = cast("ChunkRefs", store.root.array("0"))
    spec = array.spec
    if spec.shape[0] != end:
        raise StorageError(f"the run has {spec.shape[0]} volumes instead of {end}", url=store.url)
    chunks = [-(-n // c) for n, c in zip(spec.shape[1:], spec.layout.chunks[1:], strict=True)]
    keys = [(t, *key) for t in range(begin, end) for key in np.ndindex(*chunks)]
    if None in array.refs(keys):
        raise StorageError("a volume that was written is not there; append it again", url=store.url)


# Finishing ------------------------------------------------------------------------------------


def finish(locator: Locator, url: str | os.PathLike[str] | None, options: LayoutOptions) -> Any:
    """Store a growing run in its final layout; see `NeuroVec.finish`."""
    here = locator.url
    place = here if url is None else normalise(url)
    replaced = place == here
    target = Target.of(place, options, kind=locator.kind if replaced else None)
    if replaced:
        own = target.storage_options or locator.options
        target = replace(target, overwrite=True, storage_options=own)

    def check(store: Store) -> None:
        array = store.root.array("0")
        found = digest_image(
            ChunkReader(cast("ChunkRefs", array), url=store.url), max_memory=target.max_memory
        )
        if found != array.read_attributes().get("digest"):
            raise StorageError("its values are not those of the growing run", url=store.url)

    # While this one has the turn, no volume is appended.
    with (
        take_turn(here, locator.options, doing="replace") as turn,
        _open_growing(here, locator.options) as last,
    ):
        token = locate(here, kind=locator.kind, storage_options=locator.options).token
        return store_as(
            format_class("neurovec"),
            target,
            source_of(last),
            image_options(target, options),
            check=check,
            turn=turn if replaced else None,
            expected=token if replaced else None,
        )
