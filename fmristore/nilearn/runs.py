"""Runs of any kind as blocks of volumes, with the values that nibabel would load."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import nibabel
import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import StoredObject
from fmristore.formats.image.image import DenseImage
from fmristore.interop.nibabel import ImageProxy
from fmristore.model.space import NeuroSpace
from fmristore.planning.streams import streaming
from fmristore.sources.door import as_source, open_if_path
from fmristore.sources.images import ImageSource
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.io.location import is_local, normalise
from fmristore_stores.protocol import AnyArray

__all__ = ["Run", "RunProxy", "blank_volume", "find_each_run", "find_runs"]

_SHARE = 4
"""Part of the memory, as a divisor, that reading takes; nilearn has half of it, and threads and
interpreter the rest."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run, or one volume.

    Parameters
    ----------
    source : path, URL, nibabel image or stored object
        What `as_source` takes.
    storage_options : mapping, optional
        For a URL.
    """

    source: Any
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)

    def open(self, max_memory: int) -> AbstractContextManager[ImageSource]:
        """Its values in the order of a NIfTI file; transposing them takes at most `max_memory`."""
        return as_source(self.source, storage_options=self.storage_options, max_memory=max_memory)

    def blocks(
        self, max_memory: int, extremes: tuple[float, float] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Number of the first volume, and a block of volumes as a NIfTI image in memory.

        Parameters
        ----------
        max_memory : int
            Bytes that reading and one block may take; one volume at least.
        extremes : (float, float), optional
            Every block then has one volume more, the last one, in which these values are.

        Raises
        ------
        CorruptDataError
            If a chunk is damaged or missing.
        """
        with self.open(max_memory // _SHARE) as source:
            yield from _blocks(source, max_memory, extremes)

    def volume(self, number: int, max_memory: int) -> Any:
        """One volume as a run of one volume: a NIfTI image in memory.

        Parameters
        ----------
        number : int
            Of the volume.
        max_memory : int
            Bytes that reading may take. Of a store no decoded chunk is kept.
        """
        for part in getattr(self.source, "images", ()):  # runs of a sequence
            if number < part.shape[3]:
                return Run(part).volume(number, max_memory)
            number -= part.shape[3]
        image = self._seekable()
        if image is not None:
            values = np.asarray(image.dataobj[..., number : number + 1])
            library: Any = nibabel
            return library.Nifti1Image(values, image.affine, dtype=values.dtype)
        with streaming(self.blocks(max_memory)) as blocks:
            for first, image in blocks:
                if number < first + image.shape[3]:
                    return image.slicer[..., number - first : number - first + 1]
        raise InvalidInputError(f"there is no volume {number}")

    def _seekable(self) -> Any:
        """A lazy image of which one volume costs what it holds; None where there is none."""
        stored = self.source
        if isinstance(stored, DenseImage):
            return stored.for_blocks((*stored.shape[:3], 1), cached=False).to_nibabel()
        library: Any = nibabel
        if isinstance(stored, str) and is_local(stored) and stored.lower().endswith(".nii"):
            return library.load(stored)
        if not hasattr(stored, "dataobj"):
            return None
        return None if str(stored.get_filename()).lower().endswith(".gz") else stored

    def to_nibabel(self) -> Any:
        """Image that is read when nilearn loads it, with the values that nibabel would load."""
        library: Any = nibabel
        proxy = RunProxy(self)
        return library.Nifti1Image(proxy, self.space.affine, dtype=proxy.dtype)

    def mean(self, max_memory: int) -> Any:
        """Mean volume as a NIfTI image in memory, float64."""
        total: Any = 0
        count = 0
        image: Any = None
        for _, image in self.blocks(max_memory):
            total = total + np.asarray(image.dataobj, np.float64).sum(axis=3)
            count += image.shape[3]
        library: Any = nibabel
        return library.Nifti1Image(total / count, image.affine)

    def extremes(self, max_memory: int) -> tuple[float, float]:
        """Smallest and largest value, NaN left out."""
        low, high = np.inf, -np.inf
        smaller: Any = np.fmin
        larger: Any = np.fmax
        for _, image in self.blocks(max_memory):
            values = np.asarray(image.dataobj)
            low = min(low, smaller.reduce(values, axis=None))
            high = max(high, larger.reduce(values, axis=None))
        return low, high

    @property
    def space(self) -> NeuroSpace:
        """Grid, number of volumes, TR."""
        with self.open(1 << 20) as source:
            return source.space


def _blocks(
    source: ImageSource, max_memory: int, extremes: tuple[float, float] | None
) -> Iterator[tuple[int, Any]]:
    """Blocks of volumes of a source: see `Run.blocks`."""
    space = source.space
    if source.colors:
        raise InvalidInputError("colours have no series")
    scaling = source.scaling
    dtype = _dtype(source)
    volume_nbytes = int(np.prod(space.spatial_shape)) * dtype.itemsize
    more = 0 if extremes is None else 1
    # A block in nilearn's hands: its values, and copies that computing makes of them.
    count = max(1, max_memory // 2 // (2 * volume_nbytes) - more)
    count = min(count, space.time_points or 1)
    block = np.empty((*space.spatial_shape, count + more), dtype, order="F")
    first = filled = 0
    # A store takes its share as a whole; of a file one block is read, one used, and one kept.
    share = max_memory // (_SHARE if source.stored is not None else 3 * _SHARE)
    share = max(share, volume_nbytes // space.spatial_shape[2])  # a plane at least
    for t0, z0, values in source.blocks(share):
        planes = slice(z0, z0 + values.shape[1])
        for start in range(t0, t0 + len(values)):  # volumes, or planes of one
            if start == first + count:
                yield first, _image(block, space, extremes)
                first = start
            volume: Any = values[start - t0 : start - t0 + 1]
            if scaling is not None:
                times = slice(start, start + 1, 1)
                volume = scaling.apply(volume, times=times, axis=0, dtype=dtype)
            block[:, :, planes, start - first] = volume[0].transpose(2, 1, 0)
            filled = start + 1
    if filled > first:
        yield first, _image(block[..., : filled - first + more], space, extremes)


def _dtype(source: ImageSource) -> np.dtype[Any]:
    """Type of the values that nibabel would load."""
    return source.dtype.newbyteorder("=") if source.scaling is None else np.dtype(np.float64)


def blank_volume(source: ImageSource) -> Any:
    """A run of one volume of zeros, on the grid and of the type of the blocks of a run.

    Parameters
    ----------
    source : ImageSource
        Nothing is read of it.
    """
    values = np.zeros((*source.space.spatial_shape, 1), _dtype(source), order="F")
    return _image(values, source.space, None)


def _image(values: AnyArray, space: NeuroSpace, extremes: tuple[float, float] | None) -> Any:
    if extremes is not None:
        values[..., -1] = extremes[0]
        values[0, 0, 0, -1] = extremes[1]
    # nibabel asks for a dtype where values are int64.
    library: Any = nibabel
    return library.Nifti1Image(values, space.affine, dtype=values.dtype)


class RunProxy:
    """Array proxy of a run that is no file of this machine, which is read as a whole or not at all.

    Parameters
    ----------
    run : Run
    """

    is_proxy = True
    slope = 1.0
    inter = 0.0

    def __init__(self, run: Run) -> None:
        with run.open(1 << 20) as source:
            self.shape = source.space.shape
            self.dtype = source.dtype if source.scaling is None else np.dtype(np.float64)
        self.run = run
        self.ndim = len(self.shape)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        del copy
        blocks = [np.asarray(image.dataobj).copy() for _, image in self.run.blocks(1 << 28)]
        values = np.concatenate(blocks, axis=3).reshape(self.shape)
        return values if dtype is None else values.astype(dtype)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]


def find_runs(imgs: Any, storage_options: Mapping[str, Any] | None) -> tuple[list[Run], Any]:
    """Find the runs in the input of a masker, and the input that nilearn takes instead.

    Parameters
    ----------
    imgs : stored object, path, URL, nibabel image, or list of them
    storage_options : mapping, optional
        For URLs.

    Returns
    -------
    runs : list of Run
    lazy : nibabel image, or list of them
        Reads what nilearn indexes.

    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    InvalidInputError
        If runs of a list lie on different grids.
    """
    if isinstance(imgs, list | tuple):
        found = [find_runs(one, storage_options) for one in imgs]
        runs = [run for several, _ in found for run in several]
        grids = [run.space for run in runs]
        if not all(grid.same_grid(grids[0]) for grid in grids[1:]):
            raise InvalidInputError("the runs lie on different grids: transform them one by one")
        return runs, [lazy for _, lazy in found]
    if isinstance(imgs, StoredObject):
        image = imgs.to_nibabel() if hasattr(imgs, "to_nibabel") else None
        if image is None:
            raise InvalidInputError(f"a {type(imgs).__name__} is not an image on a grid")
        return [Run(image.dataobj.image)], image
    if isinstance(imgs, str | os.PathLike):
        return _at_path(normalise(imgs), storage_options)
    proxy = getattr(imgs, "dataobj", None)
    if isinstance(proxy, ImageProxy):
        return [Run(proxy.image)], imgs
    if isinstance(proxy, RunProxy):
        return [proxy.run], imgs
    return [Run(imgs)], imgs


def find_each_run(imgs: Any, storage_options: Mapping[str, Any] | None) -> list[Run]:
    """Runs on one grid, each by itself: those of a stored sequence are several.

    Parameters
    ----------
    imgs : stored object, path, URL, nibabel image, or list of them
    storage_options : mapping, optional
        For URLs.

    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    InvalidInputError
        If runs lie on different grids.
    """
    runs = []
    for run in find_runs(imgs, storage_options)[0]:
        parts = getattr(run.source, "images", None)
        runs += [run] if parts is None else [Run(copy.copy(part)) for part in parts]
    return runs


def _at_path(url: str, storage_options: Mapping[str, Any] | None) -> tuple[list[Run], Any]:
    with open_if_path(url, storage_options) as found:
        if isinstance(found, StoredObject):
            return find_runs(found, None)
    library: Any = nibabel
    if is_local(url):
        return [Run(url)], library.load(url)
    run = Run(url, storage_options)
    return [run], run.to_nibabel()
