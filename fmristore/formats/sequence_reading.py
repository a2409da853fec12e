"""Reading stored runs as one long run: its volumes are counted through all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import BorrowedHandle, StoredObject
from fmristore.formats.grid_image import GridImage
from fmristore.formats.neurovec import NeuroVec
from fmristore.formats.raw import RawView
from fmristore.formats.sequence_parts import SequenceParts, read_sequence_parts
from fmristore.indexing import parse_selection
from fmristore.plan import Planner, ReadPlan
from fmristore.space import NeuroSpace
from fmristore.voxels import parse_series
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.grid import region_shape
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from fmristore_stores.ranges import ReadCost

__all__ = ["ReadableSequence"]


class _Span(NamedTuple):
    """What a selection of volumes takes of one run."""

    image: NeuroVec
    times: slice
    """In the run."""
    target: slice
    """In the result."""


class ReadableSequence(StoredObject, GridImage):
    """Stored runs on one grid, indexed ``[x, y, z, t]`` as if they were one, or by name.

    Parameters
    ----------
    handle : Handle
        Store that holds the runs.
    parts : SequenceParts, optional
        Where in the store they are; found in the root group by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """

    axes = ("x", "y", "z", "t")

    def __init__(self, handle: Handle, parts: SequenceParts | None = None) -> None:
        super().__init__(handle)
        self._parts = read_sequence_parts(handle) if parts is None else parts

    # What it is -----------------------------------------------------------------------------

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs, in their order."""
        return self._parts.names

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of volumes of each run."""
        return tuple(part.space.shape[3] for part in self._parts.images)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """First volume of each run in the sequence, and the number of all volumes.

        Run ``i`` is ``seq[..., boundaries[i]:boundaries[i + 1]]``.
        """
        return (0, *np.cumsum(self.lengths).tolist())

    @property
    def trs(self) -> tuple[float | None, ...]:
        """Repetition time of each run in seconds, None where it is unknown."""
        return tuple(part.space.tr for part in self._parts.images)

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if it is unknown or not the same in all runs."""
        return self.trs[0] if len(set(self.trs)) == 1 else None

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, with the volumes of all runs."""
        first = self._parts.images[0].space
        return first.with_time(sum(self.lengths), tr=self.tr)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, T), T the volumes of all runs."""
        return (*self._parts.images[0].space.spatial_shape, sum(self.lengths))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 4

    @property
    def size(self) -> int:
        """Number of voxels in all volumes."""
        return math.prod(self.shape)

    @property
    def affine(self) -> AnyArray:
        """(4, 4) float64: voxel indices (0-based) to mm, RAS+."""
        return self._parts.images[0].space.affine

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel sizes along x, y, z in mm."""
        return self._parts.images[0].space.spacing

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that indexing returns: one that holds those of all runs."""
        return np.result_type(*(image.dtype for image in self.images))

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type that holds the stored numbers of all runs."""
        return np.result_type(*(image.stored_dtype for image in self.images))

    # Runs -----------------------------------------------------------------------------------

    @cached_property
    def images(self) -> tuple[NeuroVec, ...]:
        """All runs, in their order; they are closed with the sequence."""
        return tuple(self.run(number) for number in range(len(self.runs)))

    def run(self, which: int | str) -> NeuroVec:
        """One run, by number or name.

        Parameters
        ----------
        which : int or str
            Negative numbers count from the end.

        Returns
        -------
        NeuroVec
            Reads from the same store. Closing it leaves the sequence open; closing the sequence
            closes it.

        Raises
        ------
        SelectionError
            If there is no such run.
        """
        if isinstance(which, str):
            if which not in self.runs:
                raise SelectionError(
                    f"there is no run {which!r}; there are {', '.join(self.runs)}", url=self.url
                )
            which = self.runs.index(which)
        number = parse_selection(which, (len(self.runs),)).region[0].start
        return NeuroVec(BorrowedHandle(self._handle), self._parts.images[number])

    def __iter__(self) -> Iterator[Any]:
        raise InvalidInputError("iterate over seq.images for runs, or index the sequence")

    def __len__(self) -> int:
        return self.shape[0]

    # Reading --------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        return self.run(index) if isinstance(index, str) else self.read(index)

    def read(
        self, index: Any = Ellipsis, *, dtype: DTypeLike | None = None, raw: bool = False
    ) -> Any:
        """Read a part of the sequence.

        Parameters
        ----------
        index : int, slice, Ellipsis, None or tuple of them
            numpy's basic indexing, axes (x, y, z, t), t counting through all runs.
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
            If the index does not fit the sequence.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        selection = parse_selection(index, self.shape)
        *space, times = selection.region
        values = np.empty(region_shape(selection.region), self._result_type(dtype, raw=raw))
        for image, part, target in self._spans(times):
            values[..., target] = image.read((*space, part), dtype=dtype, raw=raw)
        return selection.apply(values)

    def series(
        self,
        voxels: Any = None,
        *,
        mask: Any = None,
        times: slice | None = None,
        dtype: DTypeLike | None = None,
        raw: bool = False,
    ) -> AnyArray:
        """Time series of one voxel, many voxels, or all voxels of a mask, through all runs.

        Parameters
        ----------
        voxels : (x, y, z) or array_like of int, (n, 3), optional
            One voxel, or many in any order; negative indices count from the end.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
            Voxels that are not zero (NaN counts as zero), in place of `voxels`. An image must lie
            on the same grid.
        times : slice, optional
            Part of the sequence.
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
            If a voxel lies outside the images, or `times` is no slice.
        InvalidInputError
            If both or neither of `voxels` and `mask` are given, or the mask does not fit.

        Notes
        -----
        Every chunk is fetched and decoded once, however many voxels lie in it.
        """
        request = parse_series(voxels, mask, times, space=self.space, length=self.shape[3])
        spans = list(self._spans(request.times.region[0]))
        empty = _Span(self.images[0], slice(0, 0), slice(0, 0))
        found = [
            image.series(request.points, times=within, dtype=dtype, raw=raw)
            for image, within, _ in spans or [empty]
        ]
        values = np.concatenate(found, dtype=self._result_type(dtype, raw=raw), casting="unsafe")
        result: AnyArray = values[request.times.finish]
        return result

    @property
    def plan(self) -> Planner:
        """What a read would cost, without reading: ``seq.plan[..., 10].explain()``."""
        return Planner(self._plan)

    def _plan(self, index: Any) -> ReadPlan:
        selection = parse_selection(index, self.shape)
        *space, times = selection.region
        costs = [image.plan[(*space, part)].cost for image, part, _ in self._spans(times)]
        return ReadPlan(
            url=self.url,
            selection=index,
            shape=selection.shape,
            dtype=self.dtype,
            chunks_in_all=sum(image.plan[...].chunks_in_all for image in self.images),
            cost=_added(costs),
        )

    def _spans(self, times: slice) -> Iterator[_Span]:
        """Cut volumes of the sequence, given with a positive step, into those of each run."""
        step = times.step or 1
        bounds = self.boundaries
        for number, image in enumerate(self.images):
            begin, end = bounds[number : number + 2]
            # How many steps lie before the run, and before its end.
            first, last = (
                max(0, -((times.start - min(at, times.stop)) // step)) for at in (begin, end)
            )
            if first < last:
                start = times.start + first * step - begin
                stop = times.start + (last - 1) * step - begin + 1
                yield _Span(image, slice(start, stop, step), slice(first, last))

    def _result_type(self, dtype: DTypeLike | None, *, raw: bool) -> np.dtype[Any]:
        if dtype is not None:
            return np.dtype(dtype)
        return self.stored_dtype if raw else self.dtype

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored sequence cannot become an array without a copy")
        return cast("AnyArray", self.read(dtype=dtype))

    @property
    def raw(self) -> RawView:
        """Stored numbers, not scaled: ``seq.raw[32, 40, 20]``."""
        return RawView(cast("Any", self))


def _added(costs: Sequence[ReadCost]) -> ReadCost:
    """What several reads cost together."""
    return ReadCost(
        chunks=sum(cost.chunks for cost in costs),
        missing=sum(cost.missing for cost in costs),
        requests=_sum(cost.requests for cost in costs),
        encoded_bytes=_sum(cost.encoded_bytes for cost in costs),
        fetched_bytes=_sum(cost.fetched_bytes for cost in costs),
        decoded_bytes=sum(cost.decoded_bytes for cost in costs),
        returned_bytes=sum(cost.returned_bytes for cost in costs),
    )


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value or 0 for value in known)
