"""Layout of an image in a store: reading it, and writing its values as they arrive.

What is written and what is read agree line by line, so both are in this one long module.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.image.ome import describe_ome, image_name
from fmristore.formats.image.replicas import (
    COPY_GROUP,
    access_attributes,
    find_replicas,
    replica_paths,
)
from fmristore.formats.new_arrays import write_bytes
from fmristore.formats.nodes import (
    format_attributes,
    read_grid,
    read_scaling,
    scaling_attributes,
    space_attributes,
    with_holds,
    write_axes,
    write_metadata,
    write_times,
)
from fmristore.formats.options import Target
from fmristore.formats.r.common import link_for_r
from fmristore.formats.registry import NativeLayout
from fmristore.model.digest import ImageDigest
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.blocks import block_shape, cut_into_blocks
from fmristore.planning.layout import (
    AXES,
    Access,
    Order,
    access_patterns,
    adapt_spec,
    choose_codecs,
    plan_layout,
)
from fmristore.planning.memory import UNIT_SHARE, block_share, gathering_share, require_unit
from fmristore.planning.options import LayoutOptions
from fmristore.planning.progress import Progress
from fmristore.planning.scratch import Scratch
from fmristore.planning.streams import streaming
from fmristore.sources.facts import metadata_of
from fmristore.sources.images import ArraySource, Block, ImageSource
from fmristore_stores.chunks.writer import write
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.grid import Region
from fmristore_stores.io.location import normalise
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray, Array, Capability, Group, Store
from fmristore_stores.spec import ArraySpec, is_string

__all__ = [
    "COLORS",
    "GROWING",
    "ImageContent",
    "ImageLayout",
    "ImageOptions",
    "Window",
    "Written",
    "finish_image",
    "image_options",
    "image_spec",
    "image_specs",
    "read_content",
    "write_data",
    "write_frame",
    "write_image",
    "write_run",
]

GROWING = "growing"
"""Attribute of the root of a run that is being acquired; absent when it is finished."""

_BLOCK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """Options of storing a dense image.

    Parameters
    ----------
    access : {"time", "volume", "balanced", "both"}
        What is read most; with ``"both"`` a run gets a second copy.
    codec : str
        Name of a codec preset.
    order : {"auto", "canonical"}
        Whether time may vary fastest inside chunks; ``"canonical"`` keeps HDF5 readable by R.
    max_memory : int
        Bytes that writing may take.
    """

    access: Access = "time"
    codec: str = "dual"
    order: Order = "auto"
    max_memory: int = 1 << 30


def image_options(target: Target, options: LayoutOptions) -> ImageOptions:
    """Fill in what a user left open: an HDF5 file is readable everywhere, by R too.

    Raises
    ------
    InvalidInputError
        If the layout of other software is to have two copies.
    """
    access, order = options.get("access"), options.get("order")
    access = "time" if access is None else access
    if target.profile is not None and access == "both":
        raise InvalidInputError(
            "the layout of the R package has no second copy: access must be another than 'both'",
            url=normalise(target.url),
        )
    if order is None:
        plain = target.codec == "portable" or target.profile is not None
        order = "canonical" if plain else "auto"
    return ImageOptions(
        access=access, codec=target.codec, order=order, max_memory=target.max_memory
    )


def write_image(
    store: Store,
    source: ImageSource,
    options: ImageOptions,
    *,
    progress: Progress | None = None,
) -> None:
    """Write an image into an empty store, in one pass over its source.

    Parameters
    ----------
    store : Store
        New and writable; the image becomes its root group.
    source : ImageSource
        Read once, front to back.
    options : ImageOptions
        Layout, codec and memory limit.
    progress : callable, optional
        Called with the bytes of stored values done and in all.

    Notes
    -----
    Peak memory stays below ``options.max_memory`` plus the interpreter and libraries. A layout
    that gathers many volumes in a chunk needs them all at once; when they do not fit, they pass
    through a temporary file.

    Raises
    ------
    MemoryLimitError
        If not even one write unit fits the limit.
    """
    name = image_name(store.url)
    attributes = write_run(
        store.root, source, options, store.capabilities, name=name, progress=progress
    )
    _finish_root(store, source, attributes)


def write_frame(group: Group, source: ImageSource) -> None:
    """Write the coordinates of an image into an empty group; its array comes next."""
    _write_axes(group, source, source.scaling)


def finish_image(
    store: Store,
    source: ImageSource,
    options: ImageOptions,
    *,
    digest: str,
    limits: tuple[float, float] | None,
) -> None:
    """Write what is left of an image whose coordinates and array were written otherwise.

    Parameters
    ----------
    store : Store
        Writable; its root has what `write_frame` writes, and the array ``0``.
    source : ImageSource
        Its header and metadata are written, and what its grid and scaling say.
    options : ImageOptions
        Layout of the array.
    digest : str
        Of the values that are there.
    limits : (float, float), optional
        Smallest and largest finite stored value.
    """
    array = store.root.array("0")
    dims = array.spec.dims
    access = access_attributes(access_patterns(options.access, dims))[0]
    scaling = scaling_attributes(source.scaling)
    array.write_attributes(scaling | access | {"digest": digest})
    name = image_name(store.url)
    _finish_root(store, source, _describe(store.root, source, dims, "0", limits, name=name))


def _finish_root(store: Store, source: ImageSource, attributes: dict[str, Any]) -> None:
    """Write the attributes of an image that is the root group of a store."""
    group, space = store.root, source.space
    attributes |= format_attributes("neurovol" if space.time_points is None else "neurovec")
    attributes |= space_attributes(space)
    attributes = with_holds(group, attributes)
    if Capability.HARD_LINKS in store.capabilities:
        data = "0", *find_replicas(group.array("0").read_attributes(), "0")
        limits = attributes.get("value_range")
        attributes |= link_for_r(group, space, source.scaling, limits, data)
    group.write_attributes(attributes)


def write_run(
    group: Group,
    source: ImageSource,
    options: ImageOptions,
    capabilities: Capability,
    *,
    name: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write an image into an empty group, but for the attributes of the group.

    Parameters
    ----------
    group : Group
        New and writable.
    source : ImageSource
        Read once, front to back.
    options : ImageOptions
        Layout, codec and memory limit.
    capabilities : Capability
        Of the store.
    name : str
        What viewers call it.
    progress : callable, optional
        Called with the bytes of stored values done and in all.

    Returns
    -------
    dict
        Attributes that the group shall have: those that do not depend on the format.
    """
    canonical, *others = image_specs(source, options)
    _write_axes(group, source, source.scaling)
    attributes = scaling_attributes(source.scaling)
    patterns = access_patterns(options.access, canonical.dims)
    array = group.create_array("0", adapt_spec(canonical, capabilities))
    copies = []
    for spec in others:
        copy = group.create_group(COPY_GROUP)
        _write_axes(copy, source)
        copies.append(copy.create_array("0", adapt_spec(spec, capabilities)))
    written = write_data(
        array, array.spec.dims, source, options.max_memory, copies=copies, progress=progress
    )
    for one, access in zip((array, *copies), access_attributes(patterns), strict=True):
        one.write_attributes(attributes | access | {"digest": written.digest})
    shown = f"{COPY_GROUP}/0" if copies else "0"
    return _describe(group, source, canonical.dims, shown, written.limits, name=name)


def _describe(
    group: Group,
    source: ImageSource,
    dims: Sequence[str],
    shown: str,
    limits: tuple[float, float] | None,
    *,
    name: str,
) -> dict[str, Any]:
    """Write header and metadata of an image; the attributes that its group shall have."""
    write_bytes(group, "nifti", "nifti_byte", source.header)
    if source.trailer:
        write_bytes(group, "nifti_trailer", "nifti_trailer_byte", source.trailer)
    write_metadata(group, metadata_of(source))
    found: dict[str, Any] = {"ome": describe_ome(source, dims, shown, limits, name=name)}
    if limits is not None:
        found["value_range"] = list(limits)
    return found


def _write_axes(group: Group, source: ImageSource, scaling: Scaling | None = None) -> None:
    """Coordinates of an image; they come first, so that its array finds its scales."""
    write_axes(group, source.space, source.colors)
    if source.space.time_points is not None:
        write_times(group, source.space, scaling)


class Written(NamedTuple):
    """Facts of the data that were seen while they were written."""

    digest: str
    limits: tuple[float, float] | None
    """Smallest and largest finite number."""


def write_data(
    array: Array,
    dims: Sequence[str],
    source: ImageSource,
    max_memory: int,
    *,
    copies: Sequence[Array] = (),
    progress: Progress | None = None,
) -> Written:
    """Write the data of an image, in one pass over its source.

    Parameters
    ----------
    array : Array
        New, of the image's shape and type.
    dims : sequence of str
        Its axes, named as in `fmristore.planning.layout.AXES`, whether it says so itself or not.
    source : ImageSource
        Read once, front to back.
    max_memory : int
        Bytes that writing may take; copies share it.
    copies : sequence of Array
        Others that get the same data in the same pass; their axes are named.
    progress : callable, optional
        Called with the bytes of stored values done and in all.

    Raises
    ------
    MemoryLimitError
        If not even one write unit fits the limit.
    """
    digest = ImageDigest(source.space.spatial_shape[2])
    window = Window()
    done = 0
    targets = [(array, dims), *((copy, copy.spec.dims) for copy in copies)]
    if not (isinstance(source, ArraySource) and source.in_memory):
        for target, _ in targets:
            require_unit(target.spec, max_memory)

    def observe(values: AnyArray, z0: int) -> None:
        digest.update(z0, values)
        window.update(values)

    with contextlib.ExitStack() as stack:
        observer = stack.enter_context(ThreadPoolExecutor(1, "fmristore-digest"))
        writers = [
            stack.enter_context(_Writer(*target, max_memory, writers=len(targets)))
            for target in targets
        ]
        with streaming(source.blocks(_block_bytes(source, array.spec, max_memory))) as blocks:
            for block in blocks:
                observed = observer.submit(observe, block.values, block.z0)
                for writer in writers:
                    writer.put(block)
                observed.result()  # so that one block at a time is in memory
                done += block.values.nbytes
                if progress is not None:
                    progress(done, array.spec.nbytes)
    return Written(digest.hexdigest(), window.limits)


def _block_bytes(source: ImageSource, spec: ArraySpec, max_memory: int) -> int:
    """Size of the blocks to ask a source for; all at once what is in memory already."""
    if isinstance(source, ArraySource) and source.in_memory:
        return max(1, spec.nbytes)
    x, y, _ = source.space.spatial_shape
    plane = x * y * spec.dtype.itemsize * max(1, source.colors)
    return max(plane, min(_BLOCK_BYTES, block_share(max_memory, plane)))


def image_spec(source: ImageSource, options: ImageOptions) -> ArraySpec:
    """Spec of the array ``0`` of values, axes in canonical order."""
    return image_specs(source, options)[0]


def image_specs(source: ImageSource, options: ImageOptions) -> tuple[ArraySpec, ...]:
    """Specs of the array ``0`` and of its copies, axes in canonical order."""
    x, y, z = source.space.spatial_shape
    length = {"t": source.space.time_points, "c": source.colors or None, "z": z, "y": y, "x": x}
    dims = tuple(d for d in AXES if length[d] is not None)
    shape = tuple(n for d in dims if (n := length[d]) is not None)
    specs = []
    for pattern in access_patterns(options.access, dims):
        layout = plan_layout(
            shape,
            source.dtype,
            dims=dims,
            access=pattern,
            order=options.order,
            codec=options.codec,
        )
        spec = ArraySpec(shape=shape, dtype=source.dtype, dims=dims, layout=layout)
        specs.append(replace(spec, codecs=choose_codecs(options.codec, spec)))
    return tuple(specs)


class Window:
    """Smallest and largest finite value seen: viewers show images between them.

    Attributes
    ----------
    limits : (float, float) or None
        None as long as there was no finite value.
    """

    def __init__(self) -> None:
        self.limits: tuple[float, float] | None = None

    def update(self, values: AnyArray) -> None:
        """Take some values; complex ones have no order."""
        if values.dtype.kind == "c" or not values.size:
            return
        low, high = float(np.min(values)), float(np.max(values))
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = values[np.isfinite(values)]
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
        if self.limits is not None:
            low, high = min(low, self.limits[0]), max(high, self.limits[1])
        self.limits = (low, high)


# Values as they arrive -----------------------------------------------------------------------
class _Writer:
    """Takes blocks in order of time and writes whole shards.

    What fills write units is written as it comes. Other volumes are gathered in bands as long as
    a write unit is in time, several units where memory allows; a band that does not fit lies in a
    temporary file and is written in blocks of whole units.

    Parameters
    ----------
    array : Array
        Of the image's shape.
    dims : sequence of str
        Its axes, named as in `AXES`, in any order.
    max_memory : int
        Bytes for everything held here, and by the other writers.
    writers : int
        How many take the same blocks. Each may gather as long as its part of the memory lasts; but
        they write one after the other.
    """

    def __init__(
        self, array: Array, dims: Sequence[str], max_memory: int, *, writers: int = 1
    ) -> None:
        spec = replace(array.spec, dims=tuple(dims))
        self._array = array
        self._dims = tuple(d for d in AXES if d in spec.dims)
        length = dict(zip(spec.dims, spec.shape, strict=True))
        unit = dict(zip(spec.dims, spec.layout.units, strict=True))
        self._shape = tuple(length[d] for d in self._dims)
        self._unit = tuple(unit[d] for d in self._dims)
        self._to_stored = tuple(self._dims.index(d) for d in spec.dims)
        self._max_memory = max_memory
        self._band_bytes = gathering_share(spec, max_memory) // writers
        self._times = length.get("t", 1)
        volume = spec.nbytes // max(1, self._times)
        self._unit_times = min(unit.get("t", 1), self._times) or 1
        roomy = self._band_bytes // 2 // max(1, volume * self._unit_times)
        self._band_times = min(max(1, self._times), self._unit_times * max(1, roomy))
        self._band_start = 0
        self._band: Scratch | None = None

    def put(self, block: Block) -> None:
        """Take the next block."""
        t0, values = block.t0, block.values
        whole = self._whole_units(block)
        if whole:
            self._write_block(
                (slice(t0, t0 + whole, 1), *_everything(values.shape[1:])), values[:whole]
            )
            t0, values = t0 + whole, values[whole:]
            self._band_start = t0
        while values.shape[0]:
            room = self._band_start + self._band_times - t0
            part, values = values[:room], values[room:]
            self._gather(t0 - self._band_start, block.z0, part)
            t0 += part.shape[0]
            complete = block.z0 + part.shape[-3] == self._shape[-3]
            if complete and (t0 == self._band_start + self._band_times or t0 == self._times):
                self._flush(t0)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._band is not None:
            self._band.close()

    def _gather(self, t: int, z: int, part: AnyArray) -> None:
        if self._band is None:
            times = min(self._band_times, self._times - self._band_start)
            shape = (times, *self._shape[-len(part.shape) + 1 :])
            self._band = Scratch(shape, part.dtype, max_memory=self._band_bytes)
        planes = slice(z, z + part.shape[-3], 1)
        full = [*_everything(self._band.shape)]
        full[0] = slice(t, t + part.shape[0], 1)
        full[-3] = planes
        self._band.write(tuple(full), part)

    def _whole_units(self, block: Block) -> int:
        """Volumes of a block that can be written at once: those that fill write units."""
        count = int(block.values.shape[0])
        if self._band is not None or block.values.shape[-3] < self._shape[-3]:
            return 0
        rest = 0 if block.t0 + count == self._times else count % self._unit_times
        return count - rest

    def _flush(self, end: int) -> None:
        assert self._band is not None
        for block in self._blocks(self._band):
            values = self._band.read(block)
            first = block[0].start + self._band_start
            self._write_block((slice(first, first + values.shape[0], 1), *block[1:]), values)
        self._band.close()
        self._band = None
        self._band_start = end

    def _write_block(self, block: Region, values: AnyArray) -> None:
        """Write a part made of whole units, axes in canonical order with t always first."""
        if "t" not in self._dims:
            block, values = block[1:], values[0]
        region = tuple(block[i] for i in self._to_stored)
        write(self._array, region, values.transpose(self._to_stored))

    def _blocks(self, band: Scratch) -> Iterator[Region]:
        """Cut a band into blocks of whole units that may be in memory at once."""
        if band.in_memory:
            yield _everything(band.shape)
            return
        unit = self._unit if "t" in self._dims else (1, *self._unit)
        size = block_shape(
            band.shape, unit, band.dtype.itemsize, self._max_memory, share=UNIT_SHARE
        )
        yield from cut_into_blocks(band.shape, size)


def _everything(shape: Sequence[int]) -> Region:
    return tuple(slice(0, n, 1) for n in shape)


COLORS = {3: [("R", "u1"), ("G", "u1"), ("B", "u1")], 4: [(n, "u1") for n in "RGBA"]}

"""Structured types of colour voxels, by the length of their axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageContent:
    """Contents of a stored image, as its class takes them.

    Parameters
    ----------
    data : str
        Path of the array, its axes named as in `fmristore.planning.layout.AXES`.
    space : NeuroSpace
        Its grid.
    scaling : Scaling, optional
        To apply to stored values.
    header, trailer : str
        Paths of the arrays of NIfTI bytes, of which the second need not exist; empty where there
        are none.
    dims : tuple of str, optional
        Names of the axes of the array, if it is one of other software that does not say them.
    copies : tuple of str
        Paths of arrays that hold the same data, stored for other reads.
    array : StoredArray, optional
        The array, where it was opened already.
    attributes : mapping, optional
        Its attributes, where they were read already.
    of_r : bool
        Whether its integers may be missing, as R's may.
    growing : bool
        Whether it is a run that volumes are appended to; its header is that of the first ones.
    """

    data: str
    space: NeuroSpace
    scaling: Scaling | None = None
    header: str = ""
    trailer: str = ""
    dims: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    array: StoredArray | None = field(default=None, compare=False, repr=False)
    attributes: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)
    of_r: bool = False
    growing: bool = False


class ImageLayout(NativeLayout):
    """One image as fmristore stores it.

    Parameters
    ----------
    format_name : {"neurovol", "neurovec"}
        The format.
    axes : tuple of str
        Axes of the image.
    """

    def __init__(self, format_name: str, axes: tuple[str, ...]) -> None:
        super().__init__(format_name)
        self.axes = axes

    def read(self, handle: Handle) -> ImageContent:
        """Docstring inherited."""
        return read_content(handle, StoredArray(handle, "0"), self.axes)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        write_image(store, content, options, progress=progress)


def read_content(handle: Handle, data: StoredArray, axes: Sequence[str]) -> ImageContent:
    """Find the contents of an image that is the root group of a store.

    Parameters
    ----------
    handle : Handle
        The store.
    data : StoredArray
        Its array ``0``.
    axes : sequence of str
        Axes that the image must have, besides colours.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """
    reader = data.reader
    attributes = reader.array.read_attributes()
    space = _read_space(handle, reader.spec, axes)
    scaling = read_scaling(handle, attributes, space.time_points)
    return ImageContent(
        data=data.path,
        space=space,
        scaling=scaling,
        header="nifti",
        trailer="nifti_trailer",
        copies=replica_paths(handle, data, attributes),
        array=data,
        attributes=attributes,
        growing=handle.opened.attributes.get(GROWING) is True,
    )


def _read_space(handle: Handle, spec: ArraySpec, axes: Sequence[str]) -> NeuroSpace:
    url = handle.locator.url
    extra = set(spec.dims) - set(axes) - {"c"}
    if extra or not set(axes) <= set(spec.dims):
        raise MetadataError(
            f"axes are named {spec.dims}, expected {[d for d in AXES if d in axes]}",
            url=url,
            node="0",
        )
    if is_string(spec.dtype):
        raise MetadataError("an image is made of values, not of text", url=url, node="0")
    length = dict(zip(spec.dims, spec.shape, strict=True))
    if "c" in length and (length["c"] not in COLORS or spec.dtype != np.uint8):
        raise MetadataError("colours must be 3 or 4 of type uint8", url=url, node="0")
    return read_grid(handle, (length["x"], length["y"], length["z"]), length.get("t"))
