"""Stored volumes and runs: an array of values on a grid in space.

`DenseImage` and its two subclasses are whole here, which makes the module long.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import (
    StoredArray,
    StoredObject,
    access_text,
    describe_space,
    plain_number,
    type_text,
)
from fmristore.formats.grid import GridView
from fmristore.formats.image.layout import COLORS, ImageContent, ImageLayout, image_options
from fmristore.formats.image.r import RImageLayout
from fmristore.formats.image.replicas import Replicas
from fmristore.formats.image.volumes import needs_scratch, volumes_by_scratch
from fmristore.formats.matrix import chunk_count
from fmristore.formats.nodes import read_bytes
from fmristore.formats.options import Target, store_as
from fmristore.formats.r.arrays import RArray
from fmristore.formats.r.missing import check_cast
from fmristore.formats.registry import Layout, register
from fmristore.model.digest import digest_image
from fmristore.model.scaling import Scaling, make_scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.indexing import AxisPart, bounds, has_positions
from fmristore.planning.layout import canonical_axes
from fmristore.planning.memory import within
from fmristore.planning.options import LayoutOptions, WriteOptions, takes
from fmristore.planning.pictures import AxisChunks, axis_chunks
from fmristore.planning.rechunk import read_in_blocks
from fmristore.planning.streams import streaming
from fmristore.planning.text import parse_size
from fmristore.sources.door import in_order, open_if_path, source_of
from fmristore.sources.images import Block, ImageSource
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    FmristoreError,
    FormatError,
    InvalidInputError,
    LossyError,
    MetadataError,
    SelectionError,
)
from fmristore_stores.io.ranges import ReadCost
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec

if TYPE_CHECKING:
    import nibabel

    from fmristore.nifti import NiftiHeader

__all__ = [
    "DenseImage",
    "DenseSource",
    "NeuroVec",
    "NeuroVol",
]


class DenseSource(ImageSource):
    """The stored values of an image, read front to back, decoding each chunk about once.

    Parameters
    ----------
    image : DenseImage
        Must stay open until the last block was read.
    """

    def __init__(self, image: DenseImage) -> None:
        self._image = image
        self.space = image.space
        self.dtype = image.spec.dtype
        self.colors = len(image.stored_dtype.names or ())
        self.scaling = make_scaling(image.slope, image.inter, volumes=image.space.time_points)
        self.header = image.header_bytes

    @property
    def trailer(self) -> bytes:
        """Bytes that followed the data in the NIfTI file that the image came from."""
        return self._image.trailer_bytes

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, or single planes.

        What does not fit while chunks are decoded once passes through a temporary file.
        """
        reader = self._image.volume_reader
        spec = reader.spec
        axes = canonical_axes(spec.dims)
        dims = [spec.dims[a] for a in axes]
        unit = tuple(1 if d in "tz" else spec.shape[a] for d, a in zip(dims, axes, strict=True))
        plane = spec.nbytes // (self.space.spatial_shape[2] * (self.space.time_points or 1))
        room = max(max_bytes, 3 * plane, 3 * math.prod(reader.chunks) * spec.dtype.itemsize)
        with streaming(read_in_blocks(reader, axes, unit, room)) as blocks:
            for block, values in blocks:
                part = dict(zip(dims, block, strict=True))
                timed = "t" in dims
                yield Block(
                    part["t"].start if timed else 0,
                    part["z"].start,
                    values if timed else values[None],
                )


def _as_points(region: Sequence[Any]) -> tuple[tuple[int], AnyArray, tuple[slice, ...]]:
    """A region with positions along an axis: that axis, the positions, and the other axes."""
    place = next(axis for axis, part in enumerate(region) if not isinstance(part, slice))
    return (place,), region[place][:, None], (*region[:place], *region[place + 1 :])


def _completed(entries: tuple[Any, ...], missing: int) -> tuple[Any, ...]:
    """Entries of an index with a full slice for each axis that is missing, or stands for '...'."""
    if entries and entries[0] is Ellipsis:
        return (*(_EVERY,) * (missing + 1), *entries[1:])
    return (*entries, *(_EVERY,) * missing)


_EVERY = slice(None)


def _dtype_text(shown: np.dtype[Any], stored: np.dtype[Any]) -> str:
    if stored.names:
        return "".join(stored.names)
    return str(shown) if shown == stored else f"{shown} (stored as {stored})"


class DenseImage(GridView):
    """Common base of volumes and runs: a stored array of values on a grid in space.

    Parameters
    ----------
    handle : Handle
        Store that holds the image.
    content : ImageContent, optional
        Its contents in the store; the root group is the image by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """

    layouts: ClassVar[tuple[Layout, ...]]
    axes: ClassVar[tuple[str, ...]]
    """Names of the axes that users index, in order."""

    def __init__(self, handle: Handle, content: ImageContent | None = None) -> None:
        super().__init__(handle)
        self._take(self.layouts[0].read(handle) if content is None else content)

    def _take(self, content: ImageContent) -> None:
        """Become the image whose content is given, in the store of the handle."""
        self._content, handle = content, self._handle
        kind = RArray if content.of_r else StoredArray
        self._data = content.array or kind(handle, content.data, dims=content.dims)
        copies = [StoredArray(handle, path, is_copy=True) for path in content.copies]
        self._replicas = Replicas([self._data, *copies], self.axes)
        self._spec = self._data.reader.spec
        known = content.attributes
        self._attributes = self._data.attributes if known is None else known

    # What it is -----------------------------------------------------------------------------

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, and TR."""
        return self._content.space

    @property
    def scaling(self) -> Scaling | None:
        """Scaling of the stored values; None if they are not scaled."""
        return self._content.scaling

    @property
    def dense_array(self) -> StoredArray | None:
        """Docstring inherited."""
        return self._data

    @property
    def spec(self) -> ArraySpec:
        """Axes, chunks, shards and codecs of the stored data; those of the first copy."""
        return self._spec

    @property
    def volume_reader(self) -> ChunkReader:
        """Reader of the copy with less to decode volume after volume; axes as in its own spec.

        For going through it once: it keeps no decoded chunks.
        """
        return self._replicas.for_volumes.array.streaming_reader()

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the stored values; structured (R, G, B[, A]) for colours."""
        spec = self.spec
        if "c" in spec.dims:
            return np.dtype(COLORS[spec.shape[spec.dims.index("c")]])
        return self._data.stored.reader.spec.dtype if self._content.of_r else spec.dtype

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the data that indexing returns: see `Scaling.dtype`; float64 for R's integers."""
        if self._content.of_r:
            return self.spec.dtype
        stored = self.stored_dtype
        return stored if self._content.scaling is None else self._content.scaling.dtype(stored)

    @property
    def access(self) -> str | None:
        """Access pattern that the layout was chosen for; ``"both"`` if there are two copies."""
        value = self._attributes.get("access")
        return None if value is None else str(value)

    @property
    def digest(self) -> str | None:
        """Digest of the stored values as it was recorded on writing."""
        value = self._attributes.get("digest")
        return None if value is None else str(value)

    def compute_digest(self, *, max_memory: int | str = 1 << 28) -> str:
        """Read all data and compute their digest again; see `fmristore.model.digest`.

        Raises
        ------
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        return digest_image(self._data.streaming_reader(), max_memory=max_memory)

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return self._replicas.arrays

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        return self._described(
            {
                "shape": list(self.shape),
                "dtype": type_text(self.dtype),
                "stored_dtype": type_text(self.stored_dtype),
                "slope": plain_number(self.slope),
                "intercept": plain_number(self.inter),
                "space": describe_space(self.space),
                "access": self.access if "t" in self.axes else None,
                "digest": self.digest,
            }
        )

    # Reading --------------------------------------------------------------------------------

    def _read_in_place(self, index: Any, *, dtype: DTypeLike | None, raw: bool) -> AnyArray | None:
        """Docstring inherited."""
        if not self._replicas.lie_plainly:
            return None
        reads = self._replicas.in_place(self._handle)
        if reads is None:
            return None
        entries = index if type(index) is tuple else (index,)
        missing = len(self.axes) - len(entries)
        if missing or entries[0] is Ellipsis:
            entries = _completed(entries, missing)
        scaling = self._content.scaling
        stored = raw or scaling is None
        if not stored and scaling is not None and scaling.per_volume:
            return None
        found = reads.read(entries)
        if found is None or (stored and dtype is None):
            return found
        return self._converted(found, _EVERY, axis=-1, dtype=dtype, raw=raw)

    def _series_in_place(
        self, voxels: Any, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray | None:
        """Docstring inherited."""
        if not self._replicas.lie_plainly or type(voxels) is not np.ndarray:
            return None
        reads = self._replicas.in_place(self._handle)
        if reads is None or voxels.dtype.kind != "i" or voxels.ndim != 2 or voxels.shape[1] != 3:
            return None
        found = reads.series(voxels)
        if found is None:
            return None
        return self._converted(found.T, _EVERY, axis=0, dtype=dtype, raw=raw)

    def read_region(
        self, region: Sequence[AxisPart], *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Docstring inherited."""
        replica = self._replicas.for_region(region)
        reader = (replica.array.stored if raw else replica.array).reader
        stored = replica.stored(region)
        if has_positions(region):
            (place,), points, others = _as_points(stored)
            values = np.moveaxis(reader.read_points((place,), points, others), 0, place)
        else:
            values = reader.read(stored)
        values = values.transpose(replica.order)
        if len(replica.order) > len(region):
            values = self._colored(values)
        return self._converted(values, region[-1], axis=-1, dtype=dtype, raw=raw)

    def read_points(
        self, points: AnyArray, times: AxisPart, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Docstring inherited."""
        inside = self._inside(points)
        timed = "t" in self.axes
        wanted_times = bounds(times)
        array = self._replicas.for_voxels(inside, wanted_times).array if timed else self._data
        reader = array.stored.reader if raw else array.reader
        spec = reader.spec
        others = [d for d in spec.dims if d not in "xyz"]
        region = tuple(
            wanted_times if d == "t" else slice(0, spec.shape[spec.dims.index(d)], 1)
            for d in others
        )
        found = reader.read_points([spec.dims.index(d) for d in "xyz"], inside, region)
        if not timed:
            values = self._as_indexed(found, ("voxel", *others), ("voxel",))[None]
            return self._converted(values, times, axis=0, dtype=dtype, raw=raw)
        values = self._as_indexed(found, ("voxel", *others), ("t", "voxel"))
        if isinstance(times, np.ndarray):
            values = values[times - wanted_times.start]
        return self._converted(values, times, axis=0, dtype=dtype, raw=raw)

    def _inside(self, points: AnyArray) -> AnyArray:
        """Voxels (n, 3) counted from the beginning, which must lie in the image."""
        lengths = np.array(self.shape[:3])
        outside = ((points < -lengths) | (points >= lengths)).any(axis=1)
        if outside.any():
            first = tuple(points[outside][0].tolist())
            raise SelectionError(f"voxel {first} lies outside the image of shape {self.shape[:3]}")
        points = points.astype(np.int64)
        return np.where(points < 0, points + lengths, points)

    def cost(self, region: Sequence[AxisPart]) -> tuple[ReadCost, int, str | None]:
        """Docstring inherited."""
        replica = self._replicas.for_region(region)
        reader = replica.array.reader
        stored = replica.stored(region)
        if has_positions(region):
            cost = reader.cost_points(*_as_points(stored))
        else:
            cost = reader.cost(stored)
        path = replica.array.path if self._content.copies else None
        return cost, chunk_count(replica.array), path

    def _touched(self, region: Sequence[AxisPart]) -> tuple[AxisChunks, ...]:
        """Docstring inherited."""
        replica = self._replicas.for_region(region)
        chunks = replica.array.reader.spec.layout.chunks
        sizes = [chunks[axis] for axis in replica.order[: len(self.axes)]]
        return axis_chunks(self.axes, self.shape, sizes, region)

    @property
    def plain(self) -> bool:
        """True if `read_regions` can be used: elements are those of one stored array."""
        return not self._content.of_r and "c" not in self._spec.dims

    def read_regions(self, regions: Sequence[Sequence[slice]], outs: Sequence[AnyArray]) -> None:
        """Read stored values of several regions, each chunk once for all of them.

        Parameters
        ----------
        regions : sequence of sequence of slice
            Each as of `read_region`. The first decides which replica is read.
        outs : sequence of ndarray
            One for each, of its shape, axes as users index them, and of `stored_dtype`; best if
            elements lie as in the chunks.
        """
        replica = self._replicas.for_region(regions[0])
        replica.array.reader.read_regions(
            [replica.stored(region) for region in regions],
            [out.transpose(replica.places) for out in outs],
        )

    @property
    def decodes(self) -> bool:
        """False if values lie in local files as they do in memory, which makes any read cheap."""
        return self._data.reader.decodes

    @property
    def memory_axes(self) -> tuple[int, ...]:
        """Axes in the order of the elements in chunks, the one that varies fastest last."""
        spec = self._spec
        dims = [spec.dims[a] for a in spec.layout.axes if spec.dims[a] != "c"]
        return tuple(self.axes.index(d) for d in dims)

    def for_blocks(self, lengths: Sequence[int], *, cached: bool = True) -> Self:
        """The same image, which reads all from the replica that is best for blocks of one size.

        Parameters
        ----------
        lengths : sequence of int
            Lengths of the blocks along the axes.
        cached : bool
            Whether decoded chunks are kept for the next read.

        Returns
        -------
        NeuroVol or NeuroVec
            Closed with this image; this image itself if it does so already.
        """
        if cached and not self._content.copies:
            return self
        chosen = self._replicas.for_region([slice(0, n, 1) for n in lengths]).array
        array = chosen if cached else chosen.uncached()
        return type(self)(
            self._handle,
            replace(self._content, data=chosen.path, copies=(), array=array),
        )

    def _some_volumes(
        self, step: int, dtype: DTypeLike | None, max_memory: int, start: int = 0
    ) -> Iterator[AnyArray]:
        """Docstring inherited."""
        reader = self._replicas.for_volumes.array.reader
        plain = not self._content.of_r and "c" not in reader.spec.dims
        if plain and needs_scratch(reader, step):
            image = self.for_blocks((*self.shape[:3], 1), cached=False)
            volumes = volumes_by_scratch(
                lambda region: image.read_region(region, dtype=None, raw=True),
                reader,
                step,
                max_memory // 6,  # copies are made of a block on its way
            )
            with streaming(volumes) as found:
                for first, values in found:
                    start = first + values.shape[3]
                    times = slice(first, start, 1)
                    yield self._converted(values, times, axis=-1, dtype=dtype, raw=False)
                    del values
        # All of them, or those for which there was no room in a temporary file: this is slower.
        yield from super()._some_volumes(step, dtype, max_memory, start)

    def _block_chunks(self) -> tuple[int, ...]:
        """Docstring inherited."""
        reader = self._data.reader
        size = dict(zip(reader.spec.dims, reader.chunks, strict=True))
        return tuple(size[d] for d in self.axes)

    def _read_once(self) -> Self:
        """Docstring inherited."""
        return self.for_blocks(self._block_chunks(), cached=False)

    def check(self) -> None:
        """Docstring inherited."""
        super().check()
        self._replicas.check()

    def stored_scaling(self, voxels: AnyArray) -> Scaling | None:
        """Docstring inherited."""
        del voxels
        return self._content.scaling

    def _as_indexed(self, values: AnyArray, dims: Sequence[str], axes: Sequence[str]) -> AnyArray:
        """Bring stored axes into the order of `axes`; a colour axis becomes a structured type."""
        colored = [*axes, "c"] if "c" in dims else list(axes)
        values = values.transpose([dims.index(d) for d in colored])
        return self._colored(values) if "c" in dims else values

    def _colored(self, values: AnyArray) -> AnyArray:
        """Values whose last axis is that of the colours, as those of a structured type."""
        return np.ascontiguousarray(values).view(self.stored_dtype)[..., 0]

    def _converted(
        self, values: AnyArray, times: AxisPart, *, axis: int, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Scale stored values, or leave them, and give them the type asked for."""
        if raw or self._content.scaling is None:
            if self._content.of_r and dtype is not None:
                check_cast(values, dtype, url=self.url, node=self._content.data)
            return values if dtype is None else values.astype(dtype, copy=False)
        return self._content.scaling.apply(values, times=times, axis=axis, dtype=dtype)

    def _facts(self) -> dict[str, str]:
        facts = super()._facts() | {"dtype": _dtype_text(self.dtype, self.stored_dtype)}
        if self.access and "t" in self.axes:
            facts["layout"] = f"for {access_text(self.access)}"
        return facts

    # Export --------------------------------------------------------------------------------

    @cached_property
    def header_bytes(self) -> bytes:
        """NIfTI header and extensions: the source's own bytes, if there was one."""
        if self._content.header:
            found = read_bytes(self._handle, self._content.header)
            if not found:
                raise MetadataError(
                    "the format asks for the NIfTI header",
                    url=self.url,
                    node=self._content.header,
                )
            return self._grown_header(found) if self._content.growing else found
        from fmristore.nifti import make_header

        scaling = self._content.scaling
        if scaling is None or scaling.per_volume:
            return make_header(self.space, self._spec.dtype)
        return make_header(
            self.space,
            self._spec.dtype,
            slope=float(scaling.slope),
            inter=float(scaling.inter),
        )

    def _grown_header(self, first: bytes) -> bytes:
        """Header of all volumes by that of the first ones."""
        from fmristore.nifti import fit_header

        try:
            return fit_header(first, self.space, self._spec.dtype)
        except FormatError as error:
            raise MetadataError(
                f"the stored NIfTI header is damaged: {error.message}", url=self.url, node="nifti"
            ) from error

    @cached_property
    def trailer_bytes(self) -> bytes:
        """Bytes that followed the data in the NIfTI source, usually none."""
        return read_bytes(self._handle, self._content.trailer)

    @property
    def _metadata_folder(self) -> str:
        return self._content.header.rpartition("/")[0]

    @property
    def source_header(self) -> bytes:
        """Docstring inherited."""
        return self.header_bytes

    @property
    def nifti_header(self) -> NiftiHeader:
        """The stored NIfTI header, parsed.

        Raises
        ------
        MetadataError
            If it is damaged.
        """
        from fmristore.nifti import parse_header

        raw = self.header_bytes
        try:
            return parse_header(raw)
        except FmristoreError as error:
            raise MetadataError(
                f"the stored NIfTI header is damaged: {error.message}", url=self.url, node="nifti"
            ) from error

    @property
    def header(self) -> nibabel.Nifti1Header:
        """The NIfTI header as a nibabel object (a copy).

        Raises
        ------
        MetadataError
            If the stored header is damaged.
        """
        made: nibabel.Nifti1Header = self.nifti_header.to_nibabel()
        return made

    @takes(WriteOptions, max_memory=1 << 28)
    def to_nifti(
        self,
        url: str | os.PathLike[str],
        **options: Unpack[WriteOptions],
    ) -> None:
        """Write the image as NIfTI: the header, extensions and stored values of its source.

        Uncompressed, the file is identical byte for byte to the uncompressed source of the same
        kind (single file or pair).

        Parameters
        ----------
        url : str or path
            ``.nii``, ``.nii.gz``, or ``.hdr``/``.img`` for a pair.
        **options
            `WriteOptions`.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        LossyError
            If every volume has its own slope, which NIfTI cannot say.
        MetadataError
            If the stored header is damaged, or is that of other data.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        from fmristore.nifti.export import export_nifti

        limit = parse_size(options.get("max_memory", 1 << 28))

        if self._content.scaling is not None and self._content.scaling.per_volume:
            raise LossyError(
                "NIfTI has one slope for all volumes and this image has one for each; "
                "export np.asarray(image) instead",
                url=self.url,
            )
        header = self.nifti_header
        form = self.shape, self._spec.dtype, len(self.stored_dtype.names or ())
        if (header.space.shape, header.dtype, header.colors) != form:
            raise MetadataError(
                f"the stored NIfTI header is that of other data, of shape {header.space.shape} "
                f"and type {header.dtype}",
                url=self.url,
                node="nifti",
            )
        export_nifti(
            self._replicas.for_volumes.array.streaming_reader(),
            header=header.raw,
            trailer=self.trailer_bytes,
            url=url,
            overwrite=options.get("overwrite", False),
            storage_options=options.get("storage_options"),
            max_memory=limit,
            progress=options.get("progress"),
        )

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """The image as the source of another one, with its header and stored values."""
        max_memory = parse_size(max_memory)
        del max_memory, nifti
        return DenseSource(self)

    # Creating -------------------------------------------------------------------------------

    @classmethod
    @takes(LayoutOptions)
    def create(  # noqa: PLR0913
        cls,
        source: Any,
        url: str | os.PathLike[str],
        *,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        space_name: str | int | None = None,
        metadata: Mapping[str, Any] | None = None,
        **options: Unpack[LayoutOptions],
    ) -> Self:
        """Store an image and open it.

        Parameters
        ----------
        source : path, stored image, nibabel image, or array_like (X, Y, Z) or (X, Y, Z, T)
            A path or URL is that of a NIfTI file, whose header is kept byte for byte, or of a
            store.
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` (best ``.ome.zarr``) for Zarr.
        space : NeuroSpace or (4, 4) affine, optional
            Needed for arrays.
        tr : float, optional
            Repetition time in seconds; comes before that of a file or image. Not for a
            NeuroSpace, which has its own.
        slope, inter : float or ndarray (T,), optional
            For arrays of stored values: the scaled value is ``stored * slope + inter``, with one
            slope and intercept for all volumes or one for each.
        space_name : str or int, optional
            Name of the space that the image is in; comes before what the image says, and exported
            headers have the codes of that space.
        metadata : mapping, optional
            What else is known, as JSON holds it; comes before what the source says, such as the
            BIDS sidecar beside a file.
        **options
            `LayoutOptions`.

        Returns
        -------
        NeuroVol or NeuroVec
            The new image, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If the data have another number of axes, or are not an image.
        """
        source, url = in_order(source, url)
        target = Target.of(url, options)
        with open_if_path(source, target.storage_options) as image:
            dense = isinstance(image, GridView) and image.dense_array is not None
            shares = isinstance(image, StoredObject) and not dense  # transposing takes the rest
            room = target.max_memory // 2 if shares else target.max_memory
            given = source_of(
                image,
                space=space,
                tr=tr,
                slope=slope,
                inter=inter,
                space_name=space_name,
                metadata=metadata,
                max_memory=room,
            )
            if len(given.space.shape) != len(cls.axes):
                raise InvalidInputError(
                    f"{cls.__name__} takes data with axes {', '.join(cls.axes)}; "
                    f"these have the shape {given.space.shape}"
                )
            with within(target.max_memory, room):
                wanted = image_options(replace(target, max_memory=room), options)
                made: Self = store_as(cls, target, given, wanted)
        return made

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self,), {"access": self.access or "time"}

    def save_with(self, url: str | os.PathLike[str], options: Mapping[str, Any]) -> Self:
        """Docstring inherited."""
        if self.access == "both" and options.get("profile") is not None:  # has no second copy
            options = {**options, "access": options.get("access") or "time"}
        return super().save_with(url, options)


@register("neurovol")
class NeuroVol(DenseImage):
    """One stored volume, indexed ``[x, y, z]``.

    Examples
    --------
    >>> import fmristore as fs
    >>> t1 = fs.open("sub-01_T1w.h5")                                         # doctest: +SKIP
    >>> t1[90, 100, :]                                                        # doctest: +SKIP
    """

    holds = "one 3D volume"
    use_when = "it is one: an anatomical image, a mean, a mask, a map on its own"

    axes = ("x", "y", "z")
    layouts = (ImageLayout("neurovol", axes), RImageLayout(3))


@register("neurovec")
class NeuroVec(DenseImage):
    """One stored run, indexed ``[x, y, z, t]``.

    Examples
    --------
    >>> import fmristore as fs
    >>> bold = fs.open("sub-01_task-rest_bold.h5")                            # doctest: +SKIP
    >>> bold[32, 40, 20]                                                      # doctest: +SKIP
    """

    holds = "one 4D run, all of its voxels"
    use_when = "anything of a run may be needed, or its NIfTI file back byte for byte"

    axes = ("x", "y", "z", "t")
    layouts = (ImageLayout("neurovec", axes), RImageLayout(4))

    # While it is acquired -------------------------------------------------------------------

    @property
    def growing(self) -> bool:
        """True if volumes may be appended: it was begun by `fmristore.append`, not finished."""
        return self._content.growing

    def append(
        self,
        volumes: Any,
        *,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
    ) -> int:
        """Append volumes to a run that is being acquired; this object then has them.

        Parameters
        ----------
        volumes, space, tr
            As of `fmristore.append`.

        Returns
        -------
        int
            Volumes that the run has now; they can be read whatever happens to this process.

        Raises
        ------
        InvalidInputError
            If the volumes do not fit, or the run is none that grows.
        StorageError
            If writing fails. The run has the volumes then that it had before.
        """
        from fmristore.formats.image.growing import append

        old = self._handle.locator
        count = append(volumes, old.url, space=space, tr=tr, storage_options=old.options)
        self._handle = Handle(locate(old.url, kind=old.kind, storage_options=old.options))
        self._take(self.layouts[0].read(self._handle))
        for name in ("header_bytes", "trailer_bytes"):
            self.__dict__.pop(name, None)
        return count

    @takes(LayoutOptions)
    def finish(
        self, url: str | os.PathLike[str] | None = None, **options: Unpack[LayoutOptions]
    ) -> NeuroVec:
        """Close a run that was acquired into its final layout.

        Parameters
        ----------
        url : str or path, optional
            New store, ``.h5`` or ``.zarr``. By default the run takes the place of the growing one.
        **options
            `LayoutOptions`.

        Returns
        -------
        NeuroVec
            The finished run, opened. Until it is complete and its values were read back, the
            growing run stays; at another `url` it stays then as well.

        Raises
        ------
        InvalidInputError
            If the run is none that grows.
        StorageError
            If writing fails, or what was written is not equal to the growing run.
        """
        from fmristore.formats.image.growing import finish

        made: NeuroVec = finish(self._handle.locator, url, options)
        return made
