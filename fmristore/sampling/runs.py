"""Runs that windows are cut from: images (x, y, z, t) and series of parcels (t, parcel)."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fmristore.api import open as open_store
from fmristore.formats.base import StoredObject
from fmristore.formats.grid import GridView
from fmristore.formats.image.image import DenseImage
from fmristore.formats.maps.maps import LabeledVolumeSet
from fmristore.formats.parcellated.multiscan import ParcellatedMultiScan
from fmristore.formats.parcellated.summary import ParcellatedScanSummary
from fmristore.formats.sequence.sequence import NeuroVecSeq
from fmristore.formats.voxelwise import VoxelView
from fmristore.sources.door import is_path
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.io.location import name_of, normalise
from fmristore_stores.protocol import AnyArray

__all__ = ["GridRun", "ParcelRun", "Run", "find_runs"]

_NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")


class Run(ABC):
    """One run, read by regions.

    Parameters
    ----------
    stored : stored object
        Closed with the run.
    name : str
        For messages.
    """

    axes: tuple[str, ...]
    """Names of the axes."""

    def __init__(self, stored: Any, name: str) -> None:
        self.stored = stored
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        shape: tuple[int, ...] = self.stored.shape
        return shape

    @property
    @abstractmethod
    def chunks(self) -> tuple[int, ...]:
        """Lengths of the smallest block that is made of whole stored chunks."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that are read."""

    @property
    def width(self) -> int:
        """Bytes that reading takes for each value, that of the result among them."""
        stored: np.dtype[Any] = getattr(self.stored, "stored_dtype", self.stored.dtype)
        return self.dtype.itemsize + stored.itemsize

    @abstractmethod
    def read(self, region: Sequence[slice]) -> AnyArray:
        """Values of a region, axes as in `axes`."""

    # Many windows of the run, which are kept by who reads them -----------------------------------

    @property
    def held_dtype(self) -> np.dtype[Any]:
        """Type of the values that `read_once` and `read_regions` give."""
        return self.dtype

    def finish(self, values: AnyArray, region: Sequence[slice]) -> AnyArray:
        """Values as `read` gives them, of a region as `read_once` gives it."""
        del region
        return values

    @property
    def finishes(self) -> bool:
        """True if `finish` changes anything."""
        return False

    def read_once(self, region: Sequence[slice]) -> AnyArray:
        """Values of a region before `finish`; decoded chunks are not cached where that can be."""
        return self.read(region)

    @property
    def reads_regions(self) -> bool:
        """True if several regions can be read with `read_regions`."""
        return False

    @property
    def decodes(self) -> bool:
        """False if it costs nothing to read a chunk with `read_regions` once more."""
        return True

    def read_regions(self, regions: Sequence[Sequence[slice]], outs: Sequence[AnyArray]) -> None:
        """Read several regions into memory of `held_dtype`, each chunk once for all of them."""
        for region, out in zip(regions, outs, strict=True):
            out[...] = self.read_once(region)

    @property
    def memory_axes(self) -> tuple[int, ...]:
        """Axes in the order in which values that are read lie in memory, fastest last."""
        return tuple(range(len(self.axes)))

    @abstractmethod
    def for_windows(self, size: Sequence[int]) -> Run:
        """The run as windows of a size are best read: from one of its replicas, if it has some."""

    def close(self) -> None:
        """Release the store."""
        self.stored.close()


class GridRun(Run):
    """A run on a grid, of any format.

    Parameters
    ----------
    stored, name
        See `Run`.
    dtype : dtype, optional
        Type to read instead of that of the run.
    raw : bool
        Stored values, not scaled.
    uncached : GridView, optional
        The same run, of which no decoded chunks are kept.
    """

    axes = ("x", "y", "z", "t")

    def __init__(
        self,
        stored: GridView,
        name: str,
        *,
        dtype: DTypeLike | None,
        raw: bool,
        uncached: GridView | None = None,
    ) -> None:
        super().__init__(stored, name)
        self._dtype = None if dtype is None else np.dtype(dtype)
        self._raw = raw
        self._uncached = stored if uncached is None else uncached

    @property
    def chunks(self) -> tuple[int, ...]:
        """Docstring inherited."""
        if isinstance(self.stored, VoxelView):  # a chunk of voxels is no block of the grid
            return (*self.shape[:3], max(1, self.stored.matrix.chunks[1]))
        chunks: tuple[int, ...] = self.stored.chunks
        return chunks

    @property
    def dtype(self) -> np.dtype[Any]:
        """Docstring inherited."""
        if self._dtype is not None:
            return self._dtype
        found: np.dtype[Any] = self.stored.stored_dtype if self._raw else self.stored.dtype
        return found

    def read(self, region: Sequence[slice]) -> AnyArray:
        """Docstring inherited."""
        found: AnyArray = self.stored.read_region(tuple(region), dtype=self._dtype, raw=self._raw)
        return found

    @property
    def _plain(self) -> DenseImage | None:
        """The run where its stored values can be held, and be scaled later."""
        image = self._uncached
        return image if isinstance(image, DenseImage) and image.plain else None

    @property
    def held_dtype(self) -> np.dtype[Any]:
        """Docstring inherited."""
        return self.dtype if self._plain is None else self._plain.stored_dtype

    @property
    def finishes(self) -> bool:
        """Docstring inherited."""
        if self._plain is None:
            return False
        scaled = not self._raw and self._plain.scaling is not None
        return scaled or self.dtype != self.held_dtype

    def finish(self, values: AnyArray, region: Sequence[slice]) -> AnyArray:
        """Docstring inherited."""
        if not self.finishes:
            return values
        scaling = None if self._raw or self._plain is None else self._plain.scaling
        if scaling is None:
            return values.astype(self.dtype, copy=False)
        return scaling.apply(values, times=region[-1], axis=-1, dtype=self._dtype)

    def read_once(self, region: Sequence[slice]) -> AnyArray:
        """Docstring inherited."""
        if self._plain is not None:
            return self._plain.read_region(tuple(region), dtype=None, raw=True)
        return self._uncached.read_region(tuple(region), dtype=self._dtype, raw=self._raw)

    @property
    def reads_regions(self) -> bool:
        """Docstring inherited."""
        return self._plain is not None

    @property
    def decodes(self) -> bool:
        """Docstring inherited."""
        return self._plain is None or self._plain.decodes

    def read_regions(self, regions: Sequence[Sequence[slice]], outs: Sequence[AnyArray]) -> None:
        """Docstring inherited."""
        if self._plain is None:
            super().read_regions(regions, outs)
        else:
            self._plain.read_regions(regions, outs)

    @property
    def memory_axes(self) -> tuple[int, ...]:
        """Docstring inherited."""
        if isinstance(self._uncached, DenseImage):
            return self._uncached.memory_axes
        return super().memory_axes

    def for_windows(self, size: Sequence[int]) -> Run:
        """Docstring inherited."""
        if not isinstance(self.stored, DenseImage):
            return self
        chosen = self.stored.for_blocks(size)
        uncached = self.stored.for_blocks(size, cached=False)
        return GridRun(chosen, self.name, dtype=self._dtype, raw=self._raw, uncached=uncached)


class ParcelRun(Run):
    """Series of parcels, (T, K).

    Parameters
    ----------
    stored, name
        See `Run`.
    dtype : dtype, optional
        Type to read instead of that of the series.
    """

    axes = ("t", "parcel")

    def __init__(
        self, stored: ParcellatedScanSummary, name: str, *, dtype: DTypeLike | None
    ) -> None:
        super().__init__(stored, name)
        self._dtype = None if dtype is None else np.dtype(dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Docstring inherited."""
        return tuple(max(1, min(c, n)) for c, n in zip(self.stored.chunks, self.shape, strict=True))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Docstring inherited."""
        return np.dtype(self.stored.dtype) if self._dtype is None else self._dtype

    def read(self, region: Sequence[slice]) -> AnyArray:
        """Docstring inherited."""
        values: AnyArray = self.stored[tuple(region)]
        return values.astype(self.dtype, copy=False)

    def for_windows(self, size: Sequence[int]) -> Run:
        """Docstring inherited."""
        del size
        return self


def find_runs(
    sources: Any,
    *,
    dtype: DTypeLike | None,
    raw: bool,
    storage_options: Mapping[str, Any] | None,
) -> list[Run]:
    """Runs of stores, in their order; containers of several give theirs one after the other.

    Parameters
    ----------
    sources : path, URL, stored object, or sequence of them
        Objects may be closed afterwards: each run has its own hold on its store.
    dtype, raw
        See `GridRun`.
    storage_options : mapping, optional
        For URLs.

    Raises
    ------
    InvalidInputError
        If one is no stored run; the message says which.
    """
    given = sources if isinstance(sources, Sequence) and not is_path(sources) else [sources]
    found: list[Run] = []
    try:
        for source in given:
            for stored, name in _open(source, storage_options):
                if isinstance(stored, ParcellatedScanSummary):
                    found.append(ParcelRun(stored, name, dtype=dtype))
                else:
                    found.append(GridRun(stored, name, dtype=dtype, raw=raw))
    except BaseException:
        for run in found:
            run.close()
        raise
    if not found:
        raise InvalidInputError("windows are cut from at least one run; there is none")
    return found


def _open(source: Any, storage_options: Mapping[str, Any] | None) -> Iterator[tuple[Any, str]]:
    if is_path(source):
        url = normalise(source)
        if name_of(url).lower().endswith(_NIFTI):
            raise InvalidInputError(
                "windows are read from stores, and this is a NIfTI file: convert it first, with "
                'fmristore.convert(..., access="volume")',
                url=url,
            )
        stored: Any = open_store(url, storage_options=storage_options)
    elif isinstance(source, StoredObject):
        stored = copy.copy(source)
    else:
        raise InvalidInputError(
            f"windows are cut from stores and stored objects, not from {type(source).__name__}"
        )
    url = stored.url
    if isinstance(stored, NeuroVecSeq):
        runs = [(copy.copy(run), f"{url}#{name}") for name, run in _named(stored)]
    elif isinstance(stored, ParcellatedMultiScan):
        runs = [(copy.copy(scan), f"{url}#{name}") for name, scan in stored.items()]
    elif isinstance(stored, ParcellatedScanSummary) or _is_run(stored):
        yield stored, url
        return
    else:
        stored.close()
        raise InvalidInputError(f"a {type(stored).__name__} has no windows in time", url=url)
    stored.close()
    yield from runs


def _is_run(stored: Any) -> bool:
    if isinstance(stored, LabeledVolumeSet) or not isinstance(stored, GridView):
        return False
    return stored.axes == GridRun.axes


def _named(sequence: NeuroVecSeq) -> list[tuple[str, Any]]:
    return list(zip(sequence.runs, sequence.images, strict=True))
