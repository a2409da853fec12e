"""One large store that many processes write: reserved, filled region by region, published."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self, Unpack, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.grid import GridView
from fmristore.formats.image.growing import as_type
from fmristore.formats.image.image import DenseImage
from fmristore.formats.image.layout import (
    ImageOptions,
    Window,
    finish_image,
    image_options,
    image_spec,
    write_frame,
)
from fmristore.formats.opening import open_url
from fmristore.formats.options import Target
from fmristore.formats.registry import format_class
from fmristore.many.mapping import do_tasks
from fmristore.many.report import RunsReport
from fmristore.many.task import Task
from fmristore.model.digest import ImageDigest, join_planes, slabs
from fmristore.model.space import NeuroSpace
from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.layout import adapt_spec
from fmristore.planning.memory import UNIT_SHARE, unit_nbytes
from fmristore.planning.options import LayoutOptions, takes
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore.sources.arrays import check_tr
from fmristore.sources.door import is_path
from fmristore.sources.images import ArraySource
from fmristore.sources.others import explained
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.writer import units_of, write
from fmristore_stores.errors import (
    ClosedError,
    FmristoreError,
    InvalidInputError,
    LayoutNotSupportedError,
    StorageError,
)
from fmristore_stores.grid import Region, chunk_region, parse_region
from fmristore_stores.io.location import filesystem, is_local, kind_of_name, normalise
from fmristore_stores.protocol import AnyArray, ChunkRefs
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.secrets import masked_url
from fmristore_stores.spec import ArraySpec

__all__ = ["Reserved", "reserve"]

_REGIONS = 32
"""Regions that a store is cut into where its shards and the memory allow it, to be shared out."""


@takes(LayoutOptions)
def reserve(
    url: str | os.PathLike[str],
    *,
    shape: Sequence[int],
    dtype: DTypeLike,
    space: NeuroSpace | AnyArray,
    tr: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[LayoutOptions],
) -> Reserved:
    """Begin one large Zarr store that many processes write, each its own regions.

    Nobody sees the store until it is published, which is done at once. To the workers go the place
    and the regions, and reports come back; data pass between storage and worker only.

    Parameters
    ----------
    url : str or path
        New store, ``.zarr``, in a folder or bucket that all workers reach.
    shape : sequence of int
        (X, Y, Z) or (X, Y, Z, T).
    dtype : dtype
        Of the stored values.
    space : NeuroSpace or (4, 4) affine
        Where the voxels are.
    tr : float, optional
        Repetition time in seconds.
    metadata : mapping, optional
        What else is known, as JSON holds it.
    **options
        `LayoutOptions`; ``access="both"`` is not for stores that are written so.

    Returns
    -------
    Reserved
        To be used in a ``with`` statement: what was not published at its end is removed.

    Raises
    ------
    AlreadyExistsError
        If there is something at `url` and ``overwrite`` is false.
    LayoutNotSupportedError
        If `url` is that of an HDF5 file, which only one process can write.
    InvalidInputError
        If an argument cannot be used.

    Examples
    --------
    >>> import fmristore as fs
    >>> size = {"shape": (64, 64, 36, 5000), "dtype": "int16"}
    >>> with fs.reserve("big.ome.zarr", **size, space=affine) as new:         # doctest: +SKIP
    ...     new.fill("old.h5", executor=client)
    ...     run = new.publish(executor=client)
    """
    target = Target.of(url, options)
    if kind_of_name(normalise(url)) == "hdf5":
        raise LayoutNotSupportedError(
            "an HDF5 file is written by one process: reserve a .zarr store", url=normalise(url)
        )
    wanted = image_options(target, options)
    if wanted.access == "both" or target.profile is not None:
        raise InvalidInputError("a store that many write has one layout, and it is fmristore's own")
    lengths = tuple(int(n) for n in shape)
    if len(lengths) not in (3, 4) or min(lengths, default=0) < 1:
        raise InvalidInputError(f"shape is (X, Y, Z) or (X, Y, Z, T), not {lengths}")
    grid = space
    if not isinstance(grid, NeuroSpace):
        grid = NeuroSpace(spatial_shape=cast("Any", lengths[:3]), affine=grid)
    if len(lengths) == 4 and grid.time_points is None:
        grid = grid.with_time(lengths[3], tr=grid.tr if tr is None else tr)
    check_tr(grid.tr)
    nothing = np.broadcast_to(np.zeros((), dtype), lengths)
    source = ArraySource(nothing, grid)
    source.metadata = dict(metadata or {})
    return _begin(target, source, wanted)


def _begin(target: Target, source: ArraySource, options: ImageOptions) -> Reserved:
    """Make the store and its empty array; nobody sees it yet."""
    with contextlib.ExitStack() as stack:
        store: Any = stack.enter_context(
            create_store(
                target.url, overwrite=target.overwrite, storage_options=target.storage_options
            )
        )
        spec = adapt_spec(image_spec(source, options), store.capabilities)
        write_frame(store.root, source)
        store.root.create_array("0", spec)
        place = _Place(store.url, store.place, spec, target.storage_options)
        return Reserved(place, _Making(store, source, options, stack.pop_all()))


@dataclass(frozen=True, slots=True)
class _Making:
    """The store in the making, as the process that reserved it holds it."""

    store: Any
    source: ArraySource
    options: ImageOptions
    stack: contextlib.ExitStack


@dataclass(frozen=True, slots=True)
class _Place:
    """Place of a store in the making: all that a worker needs."""

    url: str
    path: str
    spec: ArraySpec
    storage_options: Mapping[str, Any] | None = field(repr=False)

    def open(self) -> Any:
        from fmristore_stores.zarr.store import ZarrStore

        fs = None if is_local(self.url) else filesystem(self.url, self.storage_options)[0]
        return ZarrStore(self.path, mode="r+", url=self.url, fs=fs, unpublished=True)


class Reserved:
    """A store in the making, which many processes fill; `reserve` makes it.

    It may be pickled: a copy writes regions, and only the original publishes.
    """

    def __init__(self, place: _Place, making: _Making | None = None) -> None:
        self._place = place
        self._making = making

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._place,)

    @property
    def url(self) -> str:
        """Place of the store once it is published."""
        return self._place.url

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths along x, y, z and t."""
        spec = self._place.spec
        return tuple(spec.shape[spec.dims.index(d)] for d in _axes(spec))

    @property
    def unit(self) -> tuple[int, ...]:
        """Lengths of a shard along x, y, z and t: regions begin and end at multiples of them."""
        spec = self._place.spec
        return tuple(spec.layout.units[spec.dims.index(d)] for d in _axes(spec))

    def regions(self, *, max_memory: int | str = 1 << 28) -> list[tuple[slice, ...]]:
        """Regions that together are the store, each of whole shards, several where that can be.

        Parameters
        ----------
        max_memory : int or str
            Bytes that the values of a region may take.

        Raises
        ------
        MemoryLimitError
            If a shard does not fit.
        """
        return self._regions(parse_size(max_memory), share=1)

    def _regions(self, max_memory: int, *, share: int) -> list[tuple[slice, ...]]:
        """Regions whose values take a share of the memory; see `regions`."""
        spec = self._place.spec
        wanted = max(unit_nbytes(spec), spec.nbytes // _REGIONS)
        most = min(max_memory, share * wanted)
        size = block_shape(spec.shape, spec.layout.units, spec.dtype.itemsize, most, share=share)
        order = [spec.dims.index(d) for d in _axes(spec)]
        return [tuple(b[a] for a in order) for b in cut_into_blocks(spec.shape, size)]

    def write(self, region: Sequence[slice], values: Any) -> int:
        """Write a region, in any process; it is read back and compared.

        Parameters
        ----------
        region : sequence of slice
            Along x, y, z and t; of whole shards, as `regions` gives them.
        values : array_like
            Of the region's shape.

        Returns
        -------
        int
            Bytes of the values.

        Raises
        ------
        InvalidInputError
            If the region cuts through a shard, the values have another shape, or the type of the
            store cannot hold them.
        StorageError
            If writing fails, or what is read back is not equal.
        """
        spec = self._place.spec
        axes = _axes(spec)
        whole = parse_region(tuple(region), self.shape)
        stored = tuple(whole[axes.index(d)] for d in spec.dims)
        if units_of(stored, spec) is None:
            raise InvalidInputError(
                f"the region {_text(whole)} cuts through a shard: it must begin at multiples of "
                f"{self.unit} along {', '.join(axes)}, and end at one or at {self.shape}",
                url=self.url,
            )
        given = np.asarray(values)
        shape = tuple(part.stop - part.start for part in whole)
        if given.shape != shape:
            raise InvalidInputError(
                f"values of shape {given.shape} for a region of {shape}", url=self.url
            )
        data = as_type(given, spec.dtype, self.url).transpose([axes.index(d) for d in spec.dims])
        with self._place.open() as store:
            array = store.root.array("0")
            write(array, stored, data)
            found = ChunkReader(cast("ChunkRefs", array), url=self.url).read(stored)
        parts = zip(found, data, strict=True)  # of which copies are made to be compared
        if found.dtype != data.dtype or any(a.tobytes() != b.tobytes() for a, b in parts):
            raise StorageError(f"the region {_text(whole)} does not read back", url=self.url)
        return int(data.nbytes)

    def fill(
        self,
        source: Any,
        *,
        regions: Sequence[Sequence[slice]] | None = None,
        executor: Any = None,
        jobs: int = 1,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 28,
        progress: Progress | None = None,
    ) -> RunsReport:
        """Write many regions, each by a worker that reads it from a source.

        Parameters
        ----------
        source : path, URL, or callable
            A stored image of the same shape, which each worker opens, or a function that workers
            can import: called with a region, it returns the values.
        regions : sequence of regions, optional
            Those of `regions` by default.
        executor, jobs, progress
            As of `fmristore.map_runs`.
        storage_options : mapping, optional
            Passed to fsspec, for `source`.
        max_memory : int or str
            Bytes that a worker may take: three times the values of a region of `regions`.

        Returns
        -------
        RunsReport
            One outcome for each region.

        Raises
        ------
        RunsError
            If a region failed. Nothing is published; failed regions may be filled once more.
        MemoryLimitError
            If a shard does not fit three times: as it is, encoded, and read back.
        InvalidInputError
            If the source is neither path nor function.
        """
        if not is_path(source) and not callable(source):
            raise InvalidInputError(
                f"a {type(source).__name__} would have to be sent to every worker: give the path "
                "of a store, or a function of a region",
                url=self.url,
            )
        place = normalise(source) if is_path(source) else source
        tasks = [
            Task(name=_text(one), function=_fill, args=(self, place, tuple(one), storage_options))
            for one in regions or self._regions(parse_size(max_memory), share=UNIT_SHARE)
        ]
        return do_tasks(tasks, executor=executor, jobs=jobs, progress=progress).check()

    def publish(
        self, *, executor: Any = None, jobs: int = 1, max_memory: int | str = 1 << 28
    ) -> Any:
        """Let the store appear: whole, with the digest of its values, which workers compute.

        Parameters
        ----------
        executor, jobs
            As of `fmristore.map_runs`.
        max_memory : int or str
            Bytes that a worker may take to read planes.

        Returns
        -------
        NeuroVec or NeuroVol
            Opened.

        Raises
        ------
        StorageError
            If a region was never written, or publishing fails; the message says which.
        RunsError
            If a worker failed.
        ClosedError
            If it was published or discarded already, or this is a copy in a worker.
        """
        making = self._making
        if making is None:
            raise ClosedError(
                "was published or discarded, or belongs to another process", url=self.url
            )
        self._check_whole(making.store.root.array("0"))
        digest, limits = self._digest(executor, jobs, parse_size(max_memory))
        finish_image(making.store, making.source, making.options, digest=digest, limits=limits)
        self._making = None
        making.stack.close()
        kind = "neurovol" if making.source.space.time_points is None else "neurovec"
        cls = cast("type[DenseImage]", format_class(kind))
        return cls.open(self.url, storage_options=self._place.storage_options)

    def _check_whole(self, array: Any) -> None:
        """Check that every chunk is there."""
        spec = self._place.spec
        counts = [-(-n // c) for n, c in zip(spec.shape, spec.layout.chunks, strict=True)]
        stored = array.stored()
        total = int(np.prod(counts))
        missing = np.setdiff1d(np.arange(total), stored, assume_unique=True)
        if len(missing):
            key = tuple(int(at) for at in np.unravel_index(int(missing[0]), counts))
            where = chunk_region(key, spec.shape, spec.layout.chunks)
            region = [where[spec.dims.index(d)] for d in _axes(spec)]
            raise StorageError(
                f"{len(missing)} of {total} chunks were never written, such as {_text(region)}",
                url=self.url,
            )

    def _digest(
        self, executor: Any, jobs: int, max_memory: int
    ) -> tuple[str, tuple[float, float] | None]:
        spec = self._place.spec
        axis = spec.dims.index("z")
        step, planes = spec.layout.units[axis], spec.shape[axis]
        tasks = [
            Task(name=f"planes from {z}", function=_planes, args=(self._place, z, step, max_memory))
            for z in range(0, planes, step)
        ]
        report = do_tasks(tasks, executor=executor, jobs=jobs).check()
        found = [report[task.name].result for task in tasks]
        limits = [limit for _, limit in found if limit is not None]
        digest = join_planes([plane for part, _ in found for plane in part])
        if not limits:
            return digest, None
        return digest, (min(low for low, _ in limits), max(high for _, high in limits))

    def discard(self) -> None:
        """Remove what was written; harmless when it was published or discarded."""
        if self._making is None:
            return
        making, self._making = self._making, None
        with contextlib.suppress(FmristoreError):  # objects that workers made, too
            making.store.root.remove("0")
        stop = _DiscardedError()
        with contextlib.suppress(_DiscardedError):
            making.stack.__exit__(type(stop), stop, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def __repr__(self) -> str:
        state = "in the making" if self._making is not None else "copy, or ended"
        return f"<Reserved: {masked_url(self.url)!r}, {' x '.join(map(str, self.shape))}, {state}>"


class _DiscardedError(Exception):
    """Ends the publication of a store that is not wanted any more."""


def _axes(spec: ArraySpec) -> tuple[str, ...]:
    return tuple(d for d in "xyzt" if d in spec.dims)


def _text(region: Sequence[slice]) -> str:
    return f"[{', '.join(f'{part.start}:{part.stop}' for part in region)}]"


# Work of the workers ------------------------------------------------------------------------------


def _fill(
    new: Reserved,
    source: str | Callable[[tuple[slice, ...]], Any],
    region: tuple[slice, ...],
    storage_options: Mapping[str, Any] | None,
) -> int:
    """Read a region of a source, and write it."""
    if callable(source):
        return new.write(region, source(region))
    with contextlib.ExitStack() as stack:
        with explained(source, storage_options):
            image = stack.enter_context(open_url(source, storage_options))
        if not isinstance(image, GridView) or tuple(image.shape) != new.shape:
            raise InvalidInputError(
                f"a {type(image).__name__} of shape {getattr(image, 'shape', None)}: expected an "
                f"image of {new.shape}",
                url=source,
            )
        return new.write(region, image.read_region(region, dtype=None, raw=False))


def _planes(
    place: _Place, start: int, count: int, max_memory: int
) -> tuple[list[bytes], tuple[float, float] | None]:
    """Digests of some planes, and the smallest and largest finite value in them."""
    spec = place.spec
    axis = spec.dims.index("z")
    stop = min(start + count, spec.shape[axis])
    part = replace(spec, shape=_with(spec.shape, axis, stop - start))
    digest, window = ImageDigest(stop - start), Window()
    with place.open() as store:
        reader = ChunkReader(cast("ChunkRefs", store.root.array("0")), url=place.url)
        for region in slabs(part, max(1, max_memory // 2)):
            here = region[axis]
            moved: Region = _with(region, axis, slice(here.start + start, here.stop + start, 1))
            order = [spec.dims.index(d) for d in ("t", "z", "y", "x") if d in spec.dims]
            values = reader.read(moved).transpose(order)
            digest.update(here.start, values)
            window.update(values)
    return digest.planes(), window.limits


def _with(values: Any, axis: int, value: Any) -> Any:
    return (*values[:axis], value, *values[axis + 1 :])
