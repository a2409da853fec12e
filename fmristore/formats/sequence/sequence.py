"""Several runs on one grid, read as one long run or run by run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, Unpack, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import (
    BorrowedHandle,
    StoredArray,
    describe_scan,
    describe_space,
    type_text,
)
from fmristore.formats.grid import GridView
from fmristore.formats.image.image import NeuroVec
from fmristore.formats.image.layout import image_options
from fmristore.formats.matrix import chunk_count
from fmristore.formats.options import Target, store_as
from fmristore.formats.registry import Layout, register
from fmristore.formats.sequence.layout import (
    SequenceContent,
    SequenceLayout,
    add_to_sequence,
    check_runs,
    read_sequence_content,
    require_grid,
    run_names,
)
from fmristore.formats.sequence.r import RSequenceLayout
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.indexing import AxisPart, axis_length, parse_selection
from fmristore.planning.options import LayoutOptions, takes
from fmristore.planning.streams import streaming
from fmristore.planning.text import counted
from fmristore.sources.door import has_grid, in_order, open_each_path, source_of
from fmristore.sources.images import Block, ImageSource
from fmristore_stores.errors import InvalidInputError, ReadOnlyError, SelectionError
from fmristore_stores.io.alive import AliveSet
from fmristore_stores.io.ranges import ReadCost, sum_costs
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import dask.array as dask_array

    from fmristore.formats.image.image import NeuroVec
    from fmristore.model.space import NeuroSpace

__all__ = [
    "NeuroVecSeq",
    "SequenceSource",
]


class SequenceSource(ImageSource):
    """Runs on one grid as one image, volume after volume.

    Stored values are taken if all runs have the same type and scaling, else scaled values.

    Parameters
    ----------
    images : sequence of NeuroVec
        The runs; must stay open until the last block was read.
    space : NeuroSpace
        Of all of them together.
    nifti : bool
        Whether the data must be ones that a NIfTI header can say the scaling of.
    """

    def __init__(
        self, images: Sequence[NeuroVec], space: NeuroSpace, *, nifti: bool = False
    ) -> None:
        from fmristore.nifti import common_header, fit_header

        self.space = space
        self._sources = [image.as_source() for image in images]
        first = self._sources[0]
        factors = _factors(first.scaling)
        same = {(source.dtype, _factors(source.scaling)) for source in self._sources}
        self._convert = len(same) > 1 or factors is None
        if nifti and factors is not None:
            self._convert |= factors != tuple(float(np.float32(factor)) for factor in factors)
        self.scaling = None if self._convert else first.scaling
        self.dtype = first.dtype
        if self._convert:
            self.dtype = np.result_type(*(image.dtype for image in images))
        self.header = fit_header(
            common_header([image.source_header for image in images]),
            space,
            self.dtype,
            slope=None if self.scaling is None else float(self.scaling.slope),
            inter=None if self.scaling is None else float(self.scaling.inter),
        )

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """Parts of at most `max_bytes`, or single planes."""
        start = 0
        for source in self._sources:
            with streaming(source.blocks(max_bytes)) as blocks:
                for t0, z0, values in blocks:
                    if self._convert and source.scaling is not None:
                        times = slice(t0, t0 + len(values))
                        values = source.scaling.apply(values, times=times, axis=0)  # noqa: PLW2901
                    yield Block(start + t0, z0, values.astype(self.dtype, copy=False))
            start += source.space.time_points or 1


def _factors(scaling: Scaling | None) -> tuple[float, float] | None:
    """Slope and intercept, 1 and 0 if there are none; None if each volume has its own."""
    if scaling is None:
        return 1.0, 0.0
    return None if scaling.per_volume else (float(scaling.slope), float(scaling.inter))


class _Span(NamedTuple):
    """Volumes of a selection that belong to one run."""

    image: NeuroVec
    times: AxisPart
    """In the run."""
    target: AxisPart
    """In the result."""


_SHOWN = 6

"""Runs that are named when a sequence is printed."""

_LONG_NAME = 40


@register("neurovecseq")
class NeuroVecSeq(GridView):
    """Several stored runs on one grid, indexed ``[x, y, z, t]`` as if they were one.

    Axis t counts through all runs in their order; a selection reads only the runs that it
    touches. ``seq["name"]`` is a single run.

    Parameters
    ----------
    handle : Handle
        Store that holds the runs.
    content : SequenceContent, optional
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
    layouts: ClassVar[tuple[Layout, ...]] = (SequenceLayout("neurovecseq"), RSequenceLayout())

    def __init__(self, handle: Handle, content: SequenceContent | None = None) -> None:
        super().__init__(handle)
        self._former: AliveSet[Handle] = AliveSet()
        self._content: SequenceContent = (
            self.layouts[0].read(handle) if content is None else content
        )

    # What it is -----------------------------------------------------------------------------

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the runs, in their order."""
        return self._content.names

    @property
    def lengths(self) -> tuple[int, ...]:
        """Number of volumes of each run."""
        return tuple(part.space.shape[3] for part in self._content.images)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """First volume of each run in the sequence, and the number of all volumes.

        Run ``i`` is ``seq[..., boundaries[i]:boundaries[i + 1]]``.
        """
        return (0, *np.cumsum(self.lengths).tolist())

    @property
    def trs(self) -> tuple[float | None, ...]:
        """Repetition time of each run in seconds, None where it is unknown."""
        return tuple(part.space.tr for part in self._content.images)

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if it is unknown or not the same in all runs."""
        return self.trs[0] if len(set(self.trs)) == 1 else None

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, with the volumes of all runs."""
        first = self._content.images[0].space
        offsets = {part.space.time_offset for part in self._content.images}
        offset = first.time_offset if len(offsets) == 1 else 0.0
        return first.with_time(sum(self.lengths), tr=self.tr, time_offset=offset)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, T), T the volumes of all runs."""
        return (*self._content.images[0].space.spatial_shape, sum(self.lengths))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the data that indexing returns: one that holds those of all runs."""
        return np.result_type(*(image.dtype for image in self.images))

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type that holds the stored values of all runs."""
        return np.result_type(*(image.stored_dtype for image in self.images))

    @property
    def chunks(self) -> tuple[int, ...]:
        """Docstring inherited."""
        return self.images[0].chunks

    def to_dask(self, chunks: Any = "auto") -> dask_array.Array:
        """Docstring inherited."""
        from fmristore.interop.dask import concatenate

        return concatenate([image.to_dask(chunks) for image in self.images], axis=3)

    def _runs(self) -> Sequence[tuple[str, int, AnyArray | None]]:
        times = [part.space.times for part in self._content.images]
        return list(zip(self.runs, self.lengths, times, strict=True))

    # Runs -----------------------------------------------------------------------------------

    @cached_property
    def images(self) -> tuple[NeuroVec, ...]:
        """All runs, in their order; they are closed with the sequence."""
        return tuple(self.run(number) for number in range(len(self.runs)))

    def run(self, which: int | str) -> NeuroVec:
        """One run, by index or name.

        Parameters
        ----------
        which : int or str
            Negative indices count from the end.

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
        return NeuroVec(BorrowedHandle(self._handle), self._content.images[number])

    # Reading --------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        return self.run(index) if isinstance(index, str) else self.read(index)

    def read_region(
        self, region: Sequence[AxisPart], *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Docstring inherited."""
        *space, times = region
        shape = tuple(axis_length(part) for part in region)
        values = np.empty(shape, self._result_type(dtype, raw=raw))
        for image, part, target in self._spans(times):
            values[..., target] = image.read_region((*space, part), dtype=dtype, raw=raw)
        return values

    def _some_volumes(
        self, step: int, dtype: DTypeLike | None, max_memory: int, start: int = 0
    ) -> Iterator[AnyArray]:
        """Docstring inherited."""
        del step, start  # each run is read as it is best read
        wanted = self._result_type(dtype, raw=False)
        for image in self.images:
            for volume in image.iter_volumes(dtype=dtype, max_memory=max_memory):
                yield volume.astype(wanted, copy=False)[..., None]

    def read_points(
        self, points: AnyArray, times: AxisPart, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Docstring inherited."""
        shape = (axis_length(times), len(points))
        values = np.empty(shape, self._result_type(dtype, raw=raw))
        spans = list(self._spans(times)) or [_Span(self.images[0], slice(0, 0, 1), slice(0, 0, 1))]
        for image, part, target in spans:
            values[target] = image.read_points(points, part, dtype=dtype, raw=raw)
        return values

    def cost(self, region: Sequence[AxisPart]) -> tuple[ReadCost, int, str | None]:
        """Docstring inherited."""
        *space, times = region
        costs = [image.cost((*space, part))[0] for image, part, _ in self._spans(times)]
        chunks = sum(chunk_count(image.primary_arrays[0]) for image in self.images)
        return sum_costs(costs), chunks, None

    def _spans(self, times: AxisPart) -> Iterator[_Span]:
        """Cut volumes of the sequence into those of each run."""
        bounds = self.boundaries
        for number, image in enumerate(self.images):
            begin, end = bounds[number : number + 2]
            if isinstance(times, slice):
                # How many steps lie before the run, and before its end.
                first, last = (
                    max(0, -((times.start - min(at, times.stop)) // times.step))
                    for at in (begin, end)
                )
                if first < last:
                    start = times.start + first * times.step - begin
                    stop = times.start + (last - 1) * times.step - begin + 1
                    yield _Span(image, slice(start, stop, times.step), slice(first, last))
                continue
            inside = np.flatnonzero((times >= begin) & (times < end))
            if len(inside):
                yield _Span(image, times[inside] - begin, inside)

    def _result_type(self, dtype: DTypeLike | None, *, raw: bool) -> np.dtype[Any]:
        if dtype is not None:
            return np.dtype(dtype)
        return self.stored_dtype if raw else self.dtype

    holds = "several runs on one grid, read as one long run or run by run"
    use_when = "runs of a session or task are analysed together"

    # What it says of itself ----------------------------------------------------------------

    part_names = runs

    @property
    def parts_folder(self) -> str:
        """Docstring inherited."""
        return "runs" if "runs" in self.root_attributes else ""

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

    # Export --------------------------------------------------------------------------------

    @property
    def source_header(self) -> bytes:
        """NIfTI header that says what those of all runs say."""
        from fmristore.nifti import common_header

        return common_header([image.source_header for image in self.images])

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
    @takes(LayoutOptions)
    def create(
        cls,
        source: Mapping[str, Any] | Sequence[Any],
        url: str | os.PathLike[str],
        *,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | Sequence[float | None] | None = None,
        space_name: str | int | None = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Unpack[LayoutOptions],
    ) -> Self:
        """Store runs as one sequence and open it.

        Parameters
        ----------
        source : mapping of str to run, or sequence of runs
            By name, in their order; a run is the path or URL of a NIfTI file or a store, a
            stored image (`NeuroVec`), a nibabel image, or an array (X, Y, Z, T). Without names
            they are called ``run-1``, ``run-2`` ...
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        space : NeuroSpace or (4, 4) affine, optional
            For runs that are arrays: where their voxels are.
        tr : float or sequence of float, optional
            Repetition time in seconds, one for all runs or one for each; comes before that of a
            file, image or store. None leaves a run its own.
        space_name : str or int, optional
            Name of the space that all runs are in; comes before what they say.
        metadata : mapping of str to mapping, optional
            What else is known of runs, as JSON holds it, by their names; comes before what a run
            says, such as the BIDS sidecar beside a file.
        **options
            `LayoutOptions`.

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
        source, url = in_order(source, url)
        target = Target.of(url, options)
        with open_each_path(_listed(source), target.storage_options) as found:
            known = {"space_name": space_name, "metadata": metadata}
            checked = check_runs(_sources(found, space, tr, known))
            made: Self = store_as(cls, target, checked, image_options(target, options))
        return made

    def add_run(
        self,
        name: str,
        source: Any,
        *,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        **options: Unpack[LayoutOptions],
    ) -> None:
        """Add a run behind the others; this object then has it, and others opened from then on.

        Parameters
        ----------
        name : str
            Of the run.
        source : path, stored image, nibabel image, or array_like (X, Y, Z, T)
            See `create`.
        space : NeuroSpace or (4, 4) affine, optional
            For an array; by default the grid of the sequence.
        tr : float, optional
            Repetition time in seconds; comes before that of the source.
        metadata : mapping, optional
            What else is known of the run; comes before what the source says.
        **options
            `LayoutOptions`; by default the run has the layout of the first one.

        Raises
        ------
        AlreadyExistsError
            If there is a run of that name.
        InvalidInputError
            If the run is no run, in colour, or on another grid.
        ReadOnlyError
            If the store cannot be written, or is one of the R package.
        ChangedError
            If another store, on another grid, took its place since it was opened.
        StorageError
            If writing fails, or others write to the store for longer than the seconds in
            ``FMRISTORE_WAIT`` (600).

        Notes
        -----
        Several processes may add runs at once: they take turns. Whatever fails or is interrupted,
        the store stays as it was, and readable: an HDF5 file is copied, changed and put in place;
        in a Zarr store the run is written first and listed last.
        """
        if self._content.images[0].of_r:
            raise ReadOnlyError(
                "runs are not added to files of the R package; create a store with them first",
                url=self.url,
            )
        if isinstance(self._handle, BorrowedHandle):
            raise ReadOnlyError("this is a part of another object", url=self.url)
        given = cast("LayoutOptions", {"access": self.run(0).access, **options})
        target = Target.of(self.url, options, kind=self._handle.locator.kind)
        with open_each_path({name: source}, target.storage_options) as found:
            grid = space
            if grid is None and not has_grid(found[name]):
                grid = self.affine
            known: Mapping[str, Any] = {"space_name": None, "metadata": {name: metadata or {}}}
            ((_, run),) = _sources(found, grid, tr, known)
            checked = check_runs([(name, run)])
            require_grid(name, run.space, self.runs[0], self.space)
            token = add_to_sequence(
                self._handle.locator,
                self.space,
                name,
                checked[name],
                image_options(target, given),
                progress=target.progress,
            )
        self._reopen(token)

    def _reopen(self, token: str) -> None:
        """Become the object of the changed store; runs that were opened before can be read.

        In the store of that token the runs that are known are as they were.
        """
        old = self._handle
        locator = old.locator
        now = locate(locator.url, kind=locator.kind, storage_options=locator.options)
        self._handle = Handle(now, fresh=True)
        same = token != "" and self._handle.locator.token == token
        self._content = read_sequence_content(self._handle, self._content if same else None)
        self._handle.rest()
        self.__dict__.pop("images", None)
        self._former.add(old)  # kept by the runs that were opened, until this object is closed

    def close(self) -> None:
        """Release the store; neither this object nor its runs can be read from then on."""
        super().close()
        for handle in self._former:
            handle.close()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_former": AliveSet()}

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        runs = dict(zip(self.runs, self.images, strict=True))
        return (runs,), {"access": self.images[0].access or "time"}

    def _facts(self) -> dict[str, str]:
        names = [_shortened(name) for name in self.runs[:_SHOWN]]
        lengths = [str(length) for length in self.lengths[:_SHOWN]]
        more = ["..."] if len(self.runs) > _SHOWN else []
        return super()._facts() | {
            "runs": f"{counted(len(self.runs), 'run')}: {', '.join(names + more)}",
            "lengths": f"{' + '.join(lengths + more)} volumes",
        }


def _listed(runs: Any) -> Mapping[str, Any] | list[Any]:
    if isinstance(runs, str | os.PathLike) or not isinstance(runs, Mapping | Sequence):
        raise InvalidInputError(
            "runs must be a mapping of names to runs or a list of runs, not "
            f"{type(runs).__name__}: list(runs) makes one"
        )
    return runs if isinstance(runs, Mapping) else list(runs)


def _sources(
    runs: Any, space: Any, tr: Any, known: Mapping[str, Any]
) -> Iterator[tuple[str, ImageSource]]:
    """Runs as sources, with their names."""
    named = (
        runs if isinstance(runs, Mapping) else dict(zip(run_names(len(runs)), runs, strict=True))
    )
    trs = tr if isinstance(tr, Sequence) else [tr] * len(named)
    metadata = known["metadata"] or {}
    unknown = [name for name in metadata if name not in named]
    if unknown:
        raise InvalidInputError(f"metadata of {unknown[0]!r}, which is no run")
    if len(trs) != len(named):
        times = counted(len(trs), "repetition time")
        raise InvalidInputError(f"{times} for {counted(len(named), 'run')}")
    for (name, data), seconds in zip(named.items(), trs, strict=True):
        grid, given = space, seconds
        if isinstance(space, NeuroSpace) and len(np.shape(data)) == 4:
            tr_s = space.tr if seconds is None else seconds
            offset = space.time_offset
            grid = space.with_time(np.shape(data)[3], tr=tr_s, time_offset=offset)
            given = None
        if has_grid(data):
            grid, given = None, seconds
        source = source_of(
            data,
            space=grid,
            tr=given,
            space_name=known["space_name"],
            metadata=metadata.get(name),
        )
        yield name, source


def _shortened(name: str) -> str:
    return name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}..."
