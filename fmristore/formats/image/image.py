"""Stored volumes and runs: an array of values on a grid in space."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.array import StoredArray
from fmristore.formats.base import (
    RawView,
    StoredObject,
    access_text,
    describe_space,
    plain_number,
    type_text,
)
from fmristore.formats.image.layout import COLORS, ImageParts, read_parts
from fmristore.formats.image.replicas import Copies
from fmristore.formats.opening import opened
from fmristore.formats.options import create_image, image_options
from fmristore.formats.profiles import Profile, find_profile
from fmristore.formats.registry import register
from fmristore.model.digest import digest_image
from fmristore.model.scaling import make_scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import parse_series
from fmristore.planning.indexing import Selection, parse_selection
from fmristore.planning.layout import Access, Order, canonical_axes
from fmristore.planning.progress import Progress
from fmristore.planning.read_plan import Planner, ReadPlan
from fmristore.planning.rechunk import read_in_boxes
from fmristore.planning.text import parse_size
from fmristore.sources.images import Block, ImageSource, image_source
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    FmristoreError,
    InvalidInputError,
    LossyError,
    MetadataError,
    SelectionError,
)
from fmristore_stores.grid import grid_shape
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec

if TYPE_CHECKING:
    from fmristore.nifti import NiftiHeader

__all__ = [
    "DenseImage",
    "DenseSource",
    "NeuroVec",
    "NeuroVol",
]


class DenseSource:
    """The stored numbers of an image, read front to back, decoding each chunk about once.

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
        """Bytes that followed the numbers in the NIfTI file that the image came from."""
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
        for box, values in read_in_boxes(reader, axes, unit, room):
            part = dict(zip(dims, box, strict=True))
            timed = "t" in dims
            yield Block(
                part["t"].start if timed else 0,
                part["z"].start,
                values if timed else values[None],
            )


def _dtype_text(shown: np.dtype[Any], stored: np.dtype[Any]) -> str:
    if stored.names:
        return "".join(stored.names)
    return str(shown) if shown == stored else f"{shown} (stored as {stored})"


_MOST_BYTES = 64 << 20

"""Bytes that a stored header with its extensions may have, and what followed the numbers."""


class DenseImage(StoredObject):
    """What volumes and runs share: a stored array of numbers on a grid in space.

    Parameters
    ----------
    handle : Handle
        Store that holds the image.
    parts : ImageParts, optional
        Where in the store its parts are; the root group is the image by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """

    axes: ClassVar[tuple[str, ...]]
    """Names of the axes that users index, in order."""

    def __init__(self, handle: Handle, parts: ImageParts | None = None) -> None:
        super().__init__(handle)
        if parts is None:
            self._numbers = StoredArray(handle, "0")
            self._parts = read_parts(handle, self._numbers, self.axes)
        else:
            self._numbers = StoredArray(handle, parts.numbers, dims=parts.dims)
            self._parts = parts
        copies = [StoredArray(handle, path, is_copy=True) for path in self._parts.copies]
        self._copies = Copies([self._numbers, *copies])
        self._spec = self._numbers.reader.spec
        self._attributes = self._numbers.attributes

    # What it is -----------------------------------------------------------------------------

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, and TR."""
        return self._parts.space

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z) or (X, Y, Z, T)."""
        return self._parts.space.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.axes)

    @property
    def size(self) -> int:
        """Number of voxels in all volumes."""
        return math.prod(self.shape)

    @property
    def affine(self) -> AnyArray:
        """(4, 4) float64: voxel indices (0-based) to mm, RAS+."""
        return self._parts.space.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes along x, y, z in mm."""
        return self._parts.space.spacing

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position of voxel (0, 0, 0) in mm."""
        return self._parts.space.origin

    @property
    def spec(self) -> ArraySpec:
        """How the numbers are stored: axes, chunks, shards, codecs; those of the first copy."""
        return self._spec

    @property
    def volume_reader(self) -> ChunkReader:
        """Reader of the copy with less to decode volume after volume; axes as in its own spec.

        For going through it once: it keeps no decoded chunks.
        """
        return self._copies.for_volumes.streaming_reader()

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers; structured (R, G, B[, A]) for colours."""
        spec = self.spec
        if "c" in spec.dims:
            return np.dtype(COLORS[spec.shape[spec.dims.index("c")]])
        return spec.dtype

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that indexing returns: see `Scaling.dtype`."""
        stored = self.stored_dtype
        return stored if self._parts.scaling is None else self._parts.scaling.dtype(stored)

    @property
    def slope(self) -> float | AnyArray | None:
        """What stored numbers are multiplied with on reading, one number or (T,); None if not."""
        return None if self._parts.scaling is None else self._parts.scaling.slope

    @property
    def inter(self) -> float | AnyArray | None:
        """What is added after multiplying with `slope`, one number or (T,); None if not."""
        return None if self._parts.scaling is None else self._parts.scaling.inter

    @property
    def access(self) -> str | None:
        """Access pattern that the layout was chosen for; ``"both"`` if there are two copies."""
        value = self._attributes.get("access")
        return None if value is None else str(value)

    @property
    def digest(self) -> str | None:
        """Digest of the stored numbers as it was recorded on writing."""
        value = self._attributes.get("digest")
        return None if value is None else str(value)

    def compute_digest(self, *, max_memory: int | str = 1 << 28) -> str:
        """Read all numbers and compute their digest anew; see `fmristore.model.digest`.

        Raises
        ------
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        return digest_image(self._numbers.streaming_reader(), max_memory=max_memory)

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return self._copies.arrays

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

    def __getitem__(self, index: Any) -> Any:
        return self.read(index)

    def read(
        self, index: Any = Ellipsis, *, dtype: DTypeLike | None = None, raw: bool = False
    ) -> Any:
        """Read a part of the image.

        Parameters
        ----------
        index : int, slice, Ellipsis, None or tuple of them
            numpy's basic indexing, axes (x, y, z[, t]).
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        raw : bool
            Return stored numbers, not scaled.

        Returns
        -------
        ndarray or numpy scalar
            A scalar if every axis is given as an integer.

        Raises
        ------
        SelectionError
            If the index does not fit the image.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        selection = parse_selection(index, self.shape)
        values = self._read_region(selection)
        values = self._converted(values, selection.region[-1], axis=-1, dtype=dtype, raw=raw)
        return selection.apply(values)

    @property
    def raw(self) -> RawView:
        """Stored numbers, not scaled: ``image.raw[32, 40, 20]``."""
        return RawView(self)

    @property
    def plan(self) -> Planner:
        """What a read would cost, without reading: ``image.plan[..., 10].explain()``."""
        return Planner(self._plan)

    def _plan(self, index: Any) -> ReadPlan:
        selection = parse_selection(index, self.shape)
        array = self._array_for(selection)
        reader = array.reader
        return ReadPlan(
            url=self.url,
            selection=index,
            shape=selection.shape,
            dtype=self.dtype,
            chunks_in_all=math.prod(grid_shape(reader.spec.shape, reader.spec.layout.chunks)),
            cost=reader.cost(self._stored_region(reader, selection)),
            copy=array.path if self._parts.copies else None,
        )

    def _array_for(self, selection: Selection) -> StoredArray:
        return self._copies.for_region(dict(zip(self.axes, selection.region, strict=True)))

    def _stored_region(self, reader: ChunkReader, selection: Selection) -> tuple[slice, ...]:
        parts = dict(zip(self.axes, selection.region, strict=True))
        spec = reader.spec
        return tuple(
            parts.get(d, slice(0, n, 1)) for d, n in zip(spec.dims, spec.shape, strict=True)
        )

    def _read_region(self, selection: Selection) -> AnyArray:
        """Stored numbers of a region, axes as users index them."""
        reader = self._array_for(selection).reader
        values = reader.read(self._stored_region(reader, selection))
        return self._as_indexed(values, reader.spec.dims, self.axes)

    def _as_indexed(self, values: AnyArray, dims: Sequence[str], axes: Sequence[str]) -> AnyArray:
        """Bring stored axes into the order of `axes`; a colour axis becomes a structured type."""
        colored = [*axes, "c"] if "c" in dims else list(axes)
        values = values.transpose([dims.index(d) for d in colored])
        if "c" in dims:
            values = np.ascontiguousarray(values).view(self.stored_dtype)[..., 0]
        return values

    def _converted(
        self, values: AnyArray, times: slice, *, axis: int, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Scale stored numbers, or leave them, and give them the type asked for."""
        if raw or self._parts.scaling is None:
            return values if dtype is None else values.astype(dtype, copy=False)
        return self._parts.scaling.apply(values, times=times, axis=axis, dtype=dtype)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored image cannot become an array without a copy")
        return cast("AnyArray", self.read(dtype=dtype))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        raise InvalidInputError(
            "iterating would read the image plane by plane; index it, or take np.asarray(image)"
        )

    def _facts(self) -> dict[str, str]:
        facts = {
            "shape": " x ".join(map(str, self.shape)),
            "dtype": _dtype_text(self.dtype, self.stored_dtype),
            "voxels": " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
        }
        if self.space.tr is not None:
            facts["TR"] = f"TR {self.space.tr:.4g} s"
        if self.access and "t" in self.axes:
            facts["layout"] = f"for {access_text(self.access)}"
        return facts

    # Going elsewhere ------------------------------------------------------------------------

    @cached_property
    def header_bytes(self) -> bytes:
        """NIfTI header and extensions: the source's own bytes, if there was one."""
        if self._parts.header:
            return self._read_bytes(self._parts.header)
        from fmristore.nifti import make_header

        scaling = self._parts.scaling
        if scaling is None or scaling.per_volume:
            return make_header(self.space, self._spec.dtype)
        return make_header(
            self.space,
            self._spec.dtype,
            slope=float(scaling.slope),
            inter=float(scaling.inter),
        )

    @cached_property
    def trailer_bytes(self) -> bytes:
        """Bytes that followed the numbers in the NIfTI source, usually none."""
        folder, _, name = self._parts.trailer.rpartition("/")
        root = self._handle.store.root
        group = root.group(folder) if folder else root
        return self._read_bytes(self._parts.trailer) if name in group.children() else b""

    def _read_bytes(self, name: str) -> bytes:
        values = StoredArray(self._handle, name).read_small(_MOST_BYTES)
        if values.dtype != np.uint8 or values.ndim != 1:
            raise MetadataError(
                f"holds {values.dtype} of shape {values.shape}, expected a row of uint8",
                url=self.url,
                node=name,
            )
        return values.tobytes()

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
    def header(self) -> Any:
        """The NIfTI header as a nibabel object (a copy).

        Raises
        ------
        MetadataError
            If the stored header is damaged.
        """
        return self.nifti_header.to_nibabel()

    def to_nifti(
        self,
        url: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 28,
        progress: Progress | None = None,
    ) -> None:
        """Write the image as NIfTI: the header, extensions and stored numbers of its source.

        Uncompressed, the file is identical byte for byte to the uncompressed source of the same
        kind (single file or pair).

        Parameters
        ----------
        url : str or path
            ``.nii``, ``.nii.gz``, or ``.hdr``/``.img`` for a pair.
        overwrite : bool
            Replace what is there.
        storage_options : mapping, optional
            Passed to fsspec.
        max_memory : int or str
            Bytes that the volumes being written may take.
        progress : callable, optional
            Called with the bytes done and in all.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        LossyError
            If every volume has its own slope, which NIfTI cannot say.
        MetadataError
            If the stored header is damaged, or is that of other numbers.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        from fmristore.nifti.export import export_nifti

        if self._parts.scaling is not None and self._parts.scaling.per_volume:
            raise LossyError(
                "NIfTI has one slope for all volumes and this image has one for each; "
                "export np.asarray(image) instead",
                url=self.url,
            )
        header = self.nifti_header
        form = self.shape, self._spec.dtype, len(self.stored_dtype.names or ())
        if (header.space.shape, header.dtype, header.colors) != form:
            raise MetadataError(
                f"the stored NIfTI header is that of other numbers, of shape {header.space.shape} "
                f"and type {header.dtype}",
                url=self.url,
                node="nifti",
            )
        export_nifti(
            self._copies.for_volumes.streaming_reader(),
            header=header.raw,
            trailer=self.trailer_bytes,
            url=url,
            overwrite=overwrite,
            storage_options=storage_options,
            max_memory=max_memory,
            progress=progress,
        )

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """The image as the source of another one, with its header and stored numbers."""
        max_memory = parse_size(max_memory)
        from fmristore.formats.image.image import DenseSource

        del max_memory, nifti
        return DenseSource(self)

    def to_nibabel(self) -> Any:
        """Lazy nibabel image: goes into nilearn and reads only what is asked of it.

        Returns
        -------
        nibabel.Nifti1Image or Nifti2Image
        """
        from fmristore.interop.nibabel import to_nibabel

        return to_nibabel(self)

    # Creating -------------------------------------------------------------------------------

    @classmethod
    def create(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        data: Any,
        *,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        access: Access = "time",
        codec: str | None = None,
        order: Order | None = None,
        profile: Profile | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> Self:
        """Store an image and open it.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` (best ``.ome.zarr``) for Zarr.
        data : path, stored image, nibabel image, or array_like (X, Y, Z) or (X, Y, Z, T)
            A path or URL is that of a NIfTI file, whose header is kept byte for byte, or of a
            store.
        space : NeuroSpace or (4, 4) affine, optional
            Needed for arrays.
        tr : float, optional
            Repetition time in seconds, for an affine alone.
        slope, inter : float or ndarray (T,), optional
            For arrays of stored numbers: the number meant is ``stored * slope + inter``, with one
            slope and intercept for all volumes or one for each.
        access : {"time", "volume", "balanced", "both"}
            What is read most. ``"both"`` stores a run twice, for time and for volumes, and every
            read takes the copy that has less to decode for it.
        codec : str, optional
            Preset; ``"portable"`` for HDF5 and ``"dual"`` for Zarr by default.
        order : {"auto", "canonical"}, optional
            Order inside chunks; ``"canonical"`` by default for the preset ``"portable"``.
        profile : {"r"}, optional
            Write an HDF5 file exactly as the R package does, scaled numbers as floating-point
            ones; see ``docs/reference/r.md``.
        overwrite : bool
            Replace what is there, once the new store is complete.
        storage_options : mapping, optional
            Passed to fsspec.
        max_memory : int or str
            Bytes that writing may take.
        progress : callable, optional
            Called with the bytes done and in all.

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
        max_memory = parse_size(max_memory)
        with opened(data, storage_options) as image:
            source = image_source(
                image, space=space, tr=tr, slope=slope, inter=inter, storage_options=storage_options
            )
            if len(source.space.shape) != len(cls.axes):
                raise InvalidInputError(
                    f"{cls.__name__} takes data with axes {', '.join(cls.axes)}; "
                    f"these have the shape {source.space.shape}"
                )
            create_image(
                url,
                source,
                options=image_options(
                    url,
                    access=access,
                    codec=codec,
                    order=order,
                    profile=profile,
                    max_memory=max_memory,
                ),
                profile=profile,
                overwrite=overwrite,
                storage_options=storage_options,
                progress=progress,
            )
        handle = Handle(locate(url, storage_options=storage_options), fresh=True)
        if profile is not None:
            made: Self = find_profile(profile, "dense", url).open_r(handle)
            return made
        return cls(handle)

    def _content(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self,), {"access": self.access or "time"}

    def save(self, url: str | os.PathLike[str], **options: Any) -> Self:
        """Docstring inherited."""
        if self.access == "both" and options.get("profile") is not None:
            options["access"] = options.get("access") or "time"  # which has no second copy
        return super().save(url, **options)


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

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if unknown."""
        return self.space.tr

    def series(
        self,
        voxels: Any = None,
        *,
        mask: Any = None,
        times: slice | None = None,
        dtype: DTypeLike | None = None,
        raw: bool = False,
    ) -> AnyArray:
        """Time series of one voxel, many voxels, or all voxels of a mask.

        Parameters
        ----------
        voxels : (x, y, z) or array_like of int, (n, 3), optional
            One voxel, or many in any order; negative indices count from the end.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
            Voxels that are not zero (NaN counts as zero), in place of `voxels`. An image must lie
            on the same grid.
        times : slice, optional
            Part of the run.
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        raw : bool
            Return stored numbers, not scaled.

        Returns
        -------
        ndarray, (T,) for one voxel, else (T, n)
            For a mask, voxels in order of their index with x varying fastest, as in NIfTI.

        Raises
        ------
        SelectionError
            If a voxel lies outside the image, or `times` is no slice.
        InvalidInputError
            If both or neither of `voxels` and `mask` are given, or the mask does not fit.

        Notes
        -----
        Every chunk is fetched and decoded once, however many voxels lie in it.
        """
        request = parse_series(voxels, mask, times, space=self.space, length=self.shape[3])
        points, part = self._inside(request.points), request.times
        reader = self._copies.for_voxels(points, part.region[0]).reader
        spec = reader.spec
        wanted = [d for d in spec.dims if d not in "xyz"]
        region = tuple(
            part.region[0] if d == "t" else slice(0, spec.shape[spec.dims.index(d)], 1)
            for d in wanted
        )
        axes = [spec.dims.index(d) for d in "xyz"]
        found = reader.read_points(axes, points, region)
        values = self._as_indexed(found, ("voxel", *wanted), ("t", "voxel"))
        values = self._converted(values, part.region[0], axis=0, dtype=dtype, raw=raw)
        result: AnyArray = values[part.finish]
        return result[:, 0] if request.single else result

    def _inside(self, points: AnyArray) -> AnyArray:
        """Voxels (n, 3) counted from the beginning, which must lie in the image."""
        points = points.reshape(-1, 3)
        lengths = np.array(self.shape[:3])
        outside = ((points < -lengths) | (points >= lengths)).any(axis=1)
        if outside.any():
            first = tuple(points[outside][0].tolist())
            raise SelectionError(f"voxel {first} lies outside the image of shape {self.shape[:3]}")
        points = points.astype(np.int64)
        return np.where(points < 0, points + lengths, points)
