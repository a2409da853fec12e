"""Arrays of files of the R package, whose integers may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from fmristore.formats.base import StoredArray
from fmristore.formats.r.missing import MISSING, as_float, missing_mask
from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import CorruptDataError, LossyError, MetadataError
from fmristore_stores.grid import Region
from fmristore_stores.io.ranges import ReadCost
from fmristore_stores.protocol import AnyArray, Array

__all__ = ["RArray", "read_present"]


def read_present(array: StoredArray, most: int) -> AnyArray:
    """Read a small array that must not have missing values, such as a mask.

    Raises
    ------
    MetadataError
        If it has some, or more than `most` elements.
    """
    values = array.read_small(most)
    missing = missing_mask(values, array.attributes)
    if missing is not None and missing.any():
        raise MetadataError(
            "has missing values (R's NA), and must have none", url=array.url, node=array.path
        )
    return values


class RArray(StoredArray):
    """One array of a file of the R package, whose integers may be missing.

    Integers of 32 bits are read as float64, with NaN where R has NA: whether there is one is known
    only when all are read, and the type of an image must not depend on what is read of it. Those
    that fmristore wrote keep their type: they have a digest, and the writer refuses NA.
    """

    @cached_property
    def stored(self) -> StoredArray:
        """Docstring inherited."""
        return StoredArray(
            self._handle, self._path, missing=self._missing, dims=self._dims, is_copy=self._is_copy
        )

    def _new_reader(self, array: Array, cache: ChunkCache | None = None) -> ChunkReader:
        reader = super()._new_reader(array, cache)
        name = reader.spec.dtype.name
        if name not in MISSING:
            return reader
        ours = "digest" in array.read_attributes()
        return _MissingReader(reader, self.url, as_float=name == "int32" and not ours)


class _MissingReader(ChunkReader):
    """A reader of integers that knows R's NA.

    Parameters
    ----------
    reader : ChunkReader
        Of the array.
    url : str
        Where it is, for messages.
    as_float : bool
        Read float64, with NaN for NA; otherwise NA is an error.
    """

    def __init__(self, reader: ChunkReader, url: str, *, as_float: bool) -> None:
        self._inner = reader
        self._place = url
        self._as_float = as_float
        self.array = reader.array
        self.spec = reader.spec
        self.decodes = True  # all values are looked at
        if as_float:
            self.spec = replace(reader.spec, dtype=np.dtype(np.float64), fill_value=None)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Docstring inherited."""
        return self._inner.chunks

    def in_place(self, order: Sequence[int]) -> None:
        """Docstring inherited."""

    def read(self, region: Region | None = None, out: AnyArray | None = None) -> AnyArray:
        """Docstring inherited."""
        if not self._as_float:
            return self._checked(self._inner.read(region, out))
        values = self._converted(self._inner.read(region))
        if out is None:
            return values
        out[...] = values
        return out

    def read_points(
        self, axes: Sequence[int], points: AnyArray, region: Region | None = None
    ) -> AnyArray:
        """Docstring inherited."""
        values = self._inner.read_points(axes, points, region)
        return self._converted(values) if self._as_float else self._checked(values)

    def cost(self, region: Region | None = None) -> ReadCost:
        """Docstring inherited."""
        return self._inner.cost(region)

    def cost_points(
        self, axes: Sequence[int], points: AnyArray, region: Region | None = None
    ) -> ReadCost:
        """Docstring inherited."""
        return self._inner.cost_points(axes, points, region)

    def _converted(self, values: AnyArray) -> AnyArray:
        return as_float(values, values == MISSING[values.dtype.name])

    def _checked(self, values: AnyArray) -> AnyArray:
        number = MISSING[values.dtype.name]
        if not (values == number).any():
            return values
        if values.dtype == np.int32:
            raise CorruptDataError(
                "has a missing value (R's NA) where it was written with none: it was changed since",
                url=self._place,
                node=self.array.path,
            )
        raise LossyError(
            f"has a missing value (NA, {number}), which cannot be read with integers of 64 bits: "
            "store floating-point values in R, or read with raw=True",
            url=self._place,
            node=self.array.path,
        )
