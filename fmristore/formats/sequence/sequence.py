"""Several runs on one grid, read as one long run or run by run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Self, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.array import StoredArray
from fmristore.formats.base import (
    BorrowedHandle,
    RawView,
    StoredObject,
    describe_scan,
    describe_space,
    type_text,
)
from fmristore.formats.grid import GridImage
from fmristore.formats.image.image import NeuroVec
from fmristore.formats.nodes import format_attributes
from fmristore.formats.opening import opened_all
from fmristore.formats.options import image_options
from fmristore.formats.profiles import Profile, find_profile
from fmristore.formats.registry import register
from fmristore.formats.sequence.layout import (
    SequenceParts,
    check_runs,
    read_sequence_parts,
    run_names,
    write_sequence,
)
from fmristore.formats.sequence.source import SequenceSource
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import parse_series
from fmristore.planning.indexing import parse_selection
from fmristore.planning.layout import Access, Order
from fmristore.planning.progress import Progress
from fmristore.planning.read_plan import Planner, ReadPlan
from fmristore.planning.text import parse_size
from fmristore.sources.images import ImageSource, image_source
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.grid import region_shape
from fmristore_stores.io.ranges import ReadCost
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.publish import create_store

__all__ = [
    "NeuroVecSeq",
]


class _Span(NamedTuple):
    """What a selection of volumes takes of one run."""

    image: NeuroVec
    times: slice
    """In the run."""
    target: slice
    """In the result."""


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


_SHOWN = 6

"""Runs that are named when a sequence is printed."""

_LONG_NAME = 40


@register("neurovecseq")
class NeuroVecSeq(StoredObject, GridImage):
    """Several stored runs on one grid, indexed ``[x, y, z, t]`` as if they were one.

    Axis t counts through all runs in their order; a selection reads only the runs that it
    touches. ``seq["name"]`` is a single run.

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

    Examples
    --------
    >>> import fmristore as fs
    >>> seq = fs.open("sub-01_task-rest.h5")                                  # doctest: +SKIP
    >>> seq.runs, seq.lengths                                                 # doctest: +SKIP
    >>> seq[32, 40, 20]                                                       # doctest: +SKIP
    >>> seq["run-2"][32, 40, 20]                                              # doctest: +SKIP
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

    holds = "several runs on one grid, read as one long run or run by run"
    use_when = "runs of a session or task are analysed together"

    # What it says of itself ----------------------------------------------------------------

    part_names = runs

    def part(self, name: str) -> NeuroVec:
        """Docstring inherited."""
        return self.run(name)

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return tuple(array for image in self.images for array in image.primary_arrays)

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        runs = [
            describe_scan(name, image.space, image.dtype) | {"digest": image.digest}
            for name, image in zip(self.runs, self.images, strict=True)
        ]
        return self._described(
            {
                "shape": list(self.shape),
                "dtype": type_text(self.dtype),
                "space": describe_space(self.space),
                "runs": runs,
            }
        )

    # Going elsewhere ------------------------------------------------------------------------

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """Docstring inherited."""
        del max_memory
        return SequenceSource(self.images, self.space, nifti=nifti)

    def stored_scaling(self, voxels: AnyArray) -> Scaling | None:
        """Docstring inherited."""
        del voxels
        return self.as_source().scaling

    # Creating -------------------------------------------------------------------------------

    @classmethod
    def create(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        runs: Mapping[str, Any] | Sequence[Any],
        *,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | Sequence[float | None] | None = None,
        access: Access = "time",
        codec: str | None = None,
        order: Order | None = None,
        profile: Profile | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> Self:
        """Store runs as one sequence and open it.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        runs : mapping of str to run, or sequence of runs
            By name, in their order; a run is the path or URL of a NIfTI file or a store, a
            stored image (`NeuroVec`), a nibabel image, or an array (X, Y, Z, T). Without names
            they are called ``run-1``, ``run-2`` ...
        space : NeuroSpace or (4, 4) affine, optional
            For runs that are arrays: where their voxels are.
        tr : float or sequence of float, optional
            For runs that are arrays: repetition time in seconds, one for all runs or one for
            each.
        access : {"time", "volume", "balanced", "both"}
            What is read most; ``"both"`` stores every run twice, for time and for volumes.
        codec : str, optional
            Preset; ``"portable"`` for HDF5 and ``"dual"`` for Zarr by default.
        order : {"auto", "canonical"}, optional
            Order inside chunks; ``"canonical"`` by default for the preset ``"portable"``.
        profile : {"r"}, optional
            Write an HDF5 file as the R package does; see ``docs/reference/r.md``.
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
        NeuroVecSeq
            The new sequence, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If there are no runs, a name is empty or occurs twice, or a run is no run, in colour,
            or on another grid than the others; nothing is written then.
        """
        max_memory = parse_size(max_memory)
        with opened_all(_listed(runs), storage_options) as found:
            checked = check_runs(_sources(found, space, tr, storage_options))
            options = image_options(
                url, access=access, codec=codec, order=order, profile=profile, max_memory=max_memory
            )
            rlayout = None if profile is None else find_profile(profile, "neurovecseq", url)
            with create_store(url, overwrite=overwrite, storage_options=storage_options) as store:
                if rlayout is not None:
                    rlayout.write_sequence(store, checked, options, progress=progress)
                else:
                    attributes = write_sequence(
                        store.root, checked, options, store.capabilities, progress=progress
                    )
                    store.root.write_attributes(format_attributes(cls.format_name) | attributes)
        handle = Handle(locate(url, storage_options=storage_options))
        if rlayout is not None:
            opened: Self = rlayout.open_r(handle)
            return opened
        return cls(handle)

    def _content(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        runs = dict(zip(self.runs, self.images, strict=True))
        return (runs,), {"access": self.images[0].access or "time"}

    def _facts(self) -> dict[str, str]:
        names = [_shortened(name) for name in self.runs[:_SHOWN]]
        lengths = [str(length) for length in self.lengths[:_SHOWN]]
        more = ["..."] if len(self.runs) > _SHOWN else []
        facts = {
            "shape": " x ".join(map(str, self.shape)),
            "runs": f"{len(self.runs)} runs: {', '.join(names + more)}",
            "lengths": f"{' + '.join(lengths + more)} volumes",
            "dtype": str(self.dtype),
            "voxels": " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
        }
        if self.tr is not None:
            facts["TR"] = f"TR {self.tr:.4g} s"
        return facts


def _listed(runs: Any) -> Mapping[str, Any] | list[Any]:
    if isinstance(runs, str | os.PathLike) or not isinstance(runs, Mapping | Sequence):
        raise InvalidInputError(
            f"runs must be a mapping of names to runs or a list of runs, not {type(runs).__name__}"
        )
    return runs if isinstance(runs, Mapping) else list(runs)


def _sources(
    runs: Any, space: Any, tr: Any, storage_options: Mapping[str, Any] | None
) -> Iterator[tuple[str, ImageSource]]:
    """Runs as sources, with their names."""
    named = (
        runs if isinstance(runs, Mapping) else dict(zip(run_names(len(runs)), runs, strict=True))
    )
    trs = tr if isinstance(tr, Sequence) else [tr] * len(named)
    if len(trs) != len(named):
        raise InvalidInputError(f"{len(trs)} repetition times for {len(named)} runs")
    for (name, data), seconds in zip(named.items(), trs, strict=True):
        of_array: dict[str, Any] = {}
        if not isinstance(data, str | os.PathLike | StoredObject) and not hasattr(data, "dataobj"):
            of_array = {"space": space, "tr": seconds}
            if isinstance(space, NeuroSpace) and len(np.shape(data)) == 4:
                of_array = {"space": space.with_time(np.shape(data)[3], tr=seconds)}
        yield name, image_source(data, storage_options=storage_options, **of_array)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}..."
