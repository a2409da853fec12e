"""Reading stored volumes and runs: an array of numbers on a grid in space, by parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.digest import digest_image
from fmristore.formats.base import StoredObject
from fmristore.formats.copies import Copies
from fmristore.formats.describing import access_text, describe_space, plain_number, type_text
from fmristore.formats.image_parts import COLORS, ImageParts, read_parts
from fmristore.formats.raw import RawView
from fmristore.formats.stored import StoredArray
from fmristore.indexing import Selection, parse_selection
from fmristore.plan import Planner, ReadPlan
from fmristore.space import NeuroSpace
from fmristore.text import parse_size
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.grid import grid_shape
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from fmristore_stores.reader import ChunkReader
from fmristore_stores.spec import ArraySpec

__all__ = ["ReadableImage"]


class ReadableImage(StoredObject):
    """Stored numbers on a grid in space, indexed ``[x, y, z]`` or ``[x, y, z, t]``.

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
        """Type of the numbers that indexing returns: see `fmristore.scaling.Scaling.dtype`."""
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
        """Read all numbers and compute their digest anew; see `fmristore.digest`.

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


def _dtype_text(shown: np.dtype[Any], stored: np.dtype[Any]) -> str:
    if stored.names:
        return "".join(stored.names)
    return str(shown) if shown == stored else f"{shown} (stored as {stored})"
