"""Windows of runs: which there are, and the values of any of them."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike

from fmristore.sampling.runs import GridRun, ParcelRun, Run, find_runs
from fmristore.sources.masks import mask_array
from fmristore.sources.parcellation import find_parcels
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.protocol import AnyArray

__all__ = ["Window", "Windows", "whole_number"]


class Window(NamedTuple):
    """Place of a window.

    Parameters
    ----------
    run : int
        Position of its run in `Windows.runs`.
    region : tuple of slice
        What it is of the run, one slice for each axis: (x, y, z, t), or (t, parcel).
    """

    run: int
    region: tuple[slice, ...]


class Windows(Sequence[Any]):
    """All windows of some runs: a sequence of arrays, each read when it is asked for.

    Parameters
    ----------
    sources : path, URL, stored object, or sequence of them
        Runs of any format. Runs of a `NeuroVecSeq` and scans of a `ParcellatedMultiScan` follow
        each other; no window reaches from one into the next.
    length : int, optional
        Volumes of a window; by default those of a run, which must be as many in all.
    stride : int, optional
        Volumes from the begin of a window to that of the next; by default `length`, so that
        windows do not overlap. 1 gives every possible window. Volumes at the end of a run that
        fill no window are left out.
    patch : int or (int, int, int), optional
        Voxels of a window along x, y, z; by default the whole grid.
    patch_stride : int or (int, int, int), optional
        Voxels from one patch to the next; by default `patch`.
    mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
        Windows are the series (T, n) of these voxels, in numpy's (C) order. All runs must lie on
        its grid.
    parcels : sequence of int or str, optional
        Ids or names of parcels, in this order; by default all.
    dtype : dtype, optional
        Type of the values; by default that of the runs, which must then be the same in all.
    raw : bool
        Stored values, not scaled.
    storage_options : mapping, optional
        For URLs.

    Attributes
    ----------
    shape : tuple of int
        That of every window: (x, y, z, t), or (t, n) for the voxels of a mask and for parcels.
    dtype : dtype
        Type of the values.

    Raises
    ------
    InvalidInputError
        If a source is no stored run, or the windows would not all have the same shape and type;
        the message names the run.

    Notes
    -----
    It pickles and forks: every process opens the stores for itself. Objects that are given may be
    closed afterwards.

    Examples
    --------
    >>> from fmristore.sampling import Windows
    >>> windows = Windows(["sub-01.h5", "sub-02.h5"], length=20)              # doctest: +SKIP
    >>> windows[0].shape                                                      # doctest: +SKIP
    (64, 64, 40, 20)
    """

    def __init__(  # noqa: PLR0913
        self,
        sources: Any,
        *,
        length: int | None = None,
        stride: int | None = None,
        patch: int | Sequence[int] | None = None,
        patch_stride: int | Sequence[int] | None = None,
        mask: Any = None,
        parcels: Sequence[int | str] | None = None,
        dtype: DTypeLike | None = None,
        raw: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        runs = find_runs(sources, dtype=dtype, raw=raw, storage_options=storage_options)
        self._open = runs
        try:
            self._mask = _mask(mask, patch, runs, storage_options)
            self._columns = _columns(parcels, runs)
            self._size = _size(runs, length, patch)
            self._steps = _steps(runs[0].axes, self._size, stride, patch_stride)
            self._runs = [run.for_windows(self._size) for run in runs]
            for run in self._runs:
                _check_alike(run, self._runs[0], chosen=self._columns is not None)
            self._counts = [_counts(run, self._size, self._steps) for run in self._runs]
        except BaseException:
            self.close()
            raise
        self._bounds = [0, *itertools.accumulate(math.prod(counts) for counts in self._counts)]
        self._axes = _order(self._runs[0].axes)
        self.held_nbytes = math.prod(self._size) * max(r.held_dtype.itemsize for r in self._runs)
        """Bytes of the region of a window, as the runs hold it."""
        self.dtype = self._runs[0].dtype
        self.shape: tuple[int, ...] = self._shape()

    def _shape(self) -> tuple[int, ...]:
        if self._mask is not None:
            return self._size[3], int(np.count_nonzero(self._mask))
        if self._columns is not None:
            return self._size[0], len(self._columns[0])
        return self._size

    @property
    def runs(self) -> tuple[str, ...]:
        """URLs of the runs, with ``#`` and a name for those of a container."""
        return tuple(run.name for run in self._runs)

    @property
    def sources(self) -> tuple[Run, ...]:
        """The runs as they are read."""
        return tuple(self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes of one window."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self._bounds[-1]

    def __iter__(self) -> Iterator[AnyArray]:
        return (self[number] for number in range(len(self)))

    def where(self, number: int) -> Window:
        """Place of a window.

        Parameters
        ----------
        number : int
            Of the window; negative ones count from the end. Windows are counted run by run, in a
            run by their first volume, then along x, y and z.

        Raises
        ------
        SelectionError
            If there is no such window.
        """
        wanted = operator.index(number)
        position = wanted + len(self) if wanted < 0 else wanted
        if not 0 <= position < len(self):
            raise SelectionError(f"window {wanted} of {len(self)}")
        run = bisect.bisect_right(self._bounds, position) - 1
        position -= self._bounds[run]
        inside = []
        for count in reversed(self._counts[run]):
            position, place = divmod(position, count)
            inside.append(place)
        return Window(run, self.region(inside[::-1]))

    def region(self, place: Sequence[Any]) -> tuple[slice, ...]:
        """Region of the window at a place of the lattice of windows, its axis of time first."""
        region = [slice(0)] * len(self._size)
        for axis, at in zip(self._axes, place, strict=True):
            start = int(at) * self._steps[axis]
            region[axis] = slice(start, start + self._size[axis], 1)
        return tuple(region)

    def starts(self, run: int, numbers: AnyArray) -> AnyArray:
        """Starts of windows in their run, (n, axes), by their numbers."""
        places = np.unravel_index(numbers - self._bounds[run], self._counts[run])
        found = np.empty((len(numbers), len(self._size)), np.int64)
        for axis, at in zip(self._axes, places, strict=True):
            found[:, axis] = at * self._steps[axis]
        return found

    def runs_of(self, numbers: AnyArray) -> AnyArray:
        """Positions in `runs` of the runs that windows are cut from, by their numbers."""
        return np.searchsorted(self._bounds, numbers, side="right") - 1

    @property
    def region_shape(self) -> tuple[int, ...]:
        """Lengths of a window in its run, before a mask or parcels are taken; axes of the run."""
        return self._size

    def lattice(self, run: int) -> tuple[int, ...]:
        """Number of windows of a run along its axes, time first."""
        return self._counts[run]

    def first(self, run: int) -> int:
        """Number of the first window of a run."""
        return self._bounds[run]

    @property
    def strides(self) -> tuple[int, ...]:
        """Steps between windows along the axes, time first."""
        return tuple(self._steps[axis] for axis in self._axes)

    @property
    def size(self) -> tuple[int, ...]:
        """Lengths of a window in its run, before a mask or parcels are taken; time first."""
        return tuple(self._size[axis] for axis in self._axes)

    def __getitem__(self, number: Any) -> Any:
        """Read one window.

        Parameters
        ----------
        number : int
            See `where`.

        Returns
        -------
        ndarray
            Of `shape`. Its elements lie in memory as they do in the store.

        Raises
        ------
        SelectionError
            If there is no such window.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        window = self.where(number)
        return self.finish(window.run, self._runs[window.run].read(window.region))

    def finish(self, run: int, values: AnyArray) -> AnyArray:
        """Take the voxels of the mask, or the parcels, of the values of a region of a run."""
        if self._mask is not None:
            return values[self._mask].T
        return values if self._columns is None else values[:, self._columns[run]]

    @property
    def finishes(self) -> bool:
        """True if values that runs hold are not yet those of windows: scaled, or selected of."""
        selects = self._mask is not None or self._columns is not None
        return selects or any(run.finishes for run in self._runs)

    def close(self) -> None:
        """Release all stores."""
        for run in self._open:
            run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"<Windows: {len(self)} of {shape}, {self.dtype}, of {len(self._runs)} runs>"


def _order(axes: Sequence[str]) -> tuple[int, ...]:
    """Axes as windows are counted along them."""
    time = axes.index("t")
    return (time, *(axis for axis in range(len(axes)) if axis != time))


def whole_number(value: Any, what: str, *, least: int = 1) -> int:
    """An argument that must be an integer.

    Raises
    ------
    InvalidInputError
        If it is none, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidInputError(f"{what} must be an integer, not {value!r}") from error
    if number < least:
        raise InvalidInputError(f"{what} must be at least {least}, not {number}")
    return number


def _three(value: Any, what: str) -> tuple[int, ...]:
    if isinstance(value, Sequence | np.ndarray):
        if len(value) != 3:
            raise InvalidInputError(f"{what} has one length, or three for x, y, z; not {value!r}")
        return tuple(whole_number(one, what) for one in value)
    return (whole_number(value, what),) * 3


def _mask(
    mask: Any, patch: Any, runs: Sequence[Run], storage_options: Mapping[str, Any] | None
) -> AnyArray | None:
    if mask is None:
        return None
    if patch is not None:
        raise InvalidInputError("windows are patches, or the voxels of a mask: give one of them")
    found = None
    for run in runs:
        if not isinstance(run, GridRun):
            raise InvalidInputError("series of parcels have no mask", url=run.name)
        inside = mask_array(mask, run.stored.space, storage_options=storage_options)
        found = inside if found is None else found
    return found


def _columns(parcels: Sequence[int | str] | None, runs: Sequence[Run]) -> list[AnyArray] | None:
    """Positions of the chosen parcels in each run."""
    if parcels is None:
        return None
    found = []
    for run in runs:
        if not isinstance(run, ParcelRun):
            raise InvalidInputError("parcels can be chosen of series of parcels", url=run.name)
        found.append(np.asarray(find_parcels(run.stored.table, list(parcels))))
    return found


def _size(runs: Sequence[Run], length: int | None, patch: Any) -> tuple[int, ...]:
    """Lengths of a window along the axes of the runs."""
    first = runs[0]
    size = dict(zip(first.axes, first.shape, strict=True))
    if length is not None:
        size["t"] = whole_number(length, "length")
    if patch is not None:
        if not isinstance(first, GridRun):
            raise InvalidInputError("series of parcels have no patches", url=first.name)
        size |= dict(zip("xyz", _three(patch, "patch"), strict=True))
    for run in runs:
        for axis, number in zip(run.axes, run.shape, strict=True):
            fixed = patch is not None if axis in "xyz" else length is not None and axis == "t"
            wanted = size.get(axis)
            if wanted is None or number < wanted or (number != wanted and not fixed):
                raise InvalidInputError(
                    f"has the shape {run.shape} along {', '.join(run.axes)}; windows are "
                    f"{tuple(size.values())} long along {', '.join(size)}: leave it out, or choose "
                    "other lengths",
                    url=run.name,
                )
    return tuple(size.values())


def _steps(
    axes: Sequence[str], size: Sequence[int], stride: int | None, patch_stride: Any
) -> tuple[int, ...]:
    steps = dict(zip(axes, size, strict=True))
    if stride is not None:
        steps["t"] = whole_number(stride, "stride")
    if patch_stride is not None:
        if "x" not in steps:
            raise InvalidInputError("series of parcels have no patches")
        steps |= dict(zip("xyz", _three(patch_stride, "patch_stride"), strict=True))
    return tuple(steps.values())


def _counts(run: Run, size: Sequence[int], steps: Sequence[int]) -> tuple[int, ...]:
    counts = [1 + (n - w) // step for n, w, step in zip(run.shape, size, steps, strict=True)]
    return tuple(counts[axis] for axis in _order(run.axes))


def _check_alike(run: Run, first: Run, *, chosen: bool) -> None:
    if run.axes != first.axes:
        raise InvalidInputError(
            f"windows of {first.name} are of {', '.join(first.axes)}; these would be of "
            f"{', '.join(run.axes)}",
            url=run.name,
        )
    if isinstance(run, ParcelRun) and not chosen:
        table, known = run.stored.table, first.stored.table
        if not np.array_equal(table.ids, known.ids) or table.names != known.names:
            raise InvalidInputError(
                f"has other parcels than {first.name}: choose some by name with parcels=",
                url=run.name,
            )
    if run.dtype != first.dtype:
        raise InvalidInputError(
            f"holds {run.dtype}, {first.name} {first.dtype}: choose one with dtype=", url=run.name
        )
