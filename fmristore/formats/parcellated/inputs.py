"""Scans that are to be stored: what a user gives, understood, checked and opened one by one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from fmristore.formats.matrix import MemoryMatrix, ScaledMatrix
from fmristore.formats.names import encode_name
from fmristore.formats.options import Target, store_as
from fmristore.formats.parcellated.layout import NewScan, scan_spec
from fmristore.formats.parcellated.reduce import (
    make_reduction,
    result_dtype,
    summarise,
)
from fmristore.formats.series_blocks import VoxelReader
from fmristore.formats.voxel_source import voxel_reader
from fmristore.model.space import NeuroSpace, name_of_space
from fmristore.model.voxels import unmask
from fmristore.planning.memory import require_unit, within
from fmristore.planning.progress import Progress
from fmristore.sources.arrays import check_on_grid, check_tr
from fmristore.sources.door import as_source, has_grid, load_volume
from fmristore.sources.facts import plain_tables
from fmristore.sources.labelled import plain_values, positional
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.errors import (
    AlreadyExistsError,
    InvalidInputError,
)
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import check_attributes

__all__ = [
    "ScanInput",
    "array_options",
    "check_names",
    "create_scans",
    "each_content",
    "given_matrix",
    "make_parcellation",
    "open_content",
    "scan_requests",
    "voxel_weights",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanInput:
    """A scan that a user wants to be stored.

    Parameters
    ----------
    name : str
        Of the scan.
    source : object
        See `fmristore.sources.door.as_source`; or the series of the parcels, (T, K), as they are.
    statistic : str or callable, optional
        What parcels are summarised by; None stores the series of every voxel.
    weights : object, optional
        Of the voxels: an image, or (V,) in order of the parcellation's voxels.
    metadata : mapping
        What else is known of the scan: names, and values that JSON can hold.
    array : mapping
        ``space``, ``slope``, ``inter`` for arrays; ``tr`` for all.
    dtype : dtype, optional
        Of a stored summary.
    """

    name: str
    source: Any
    statistic: Any = None
    weights: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    array: Mapping[str, Any] = field(default_factory=dict)
    dtype: Any = None


def make_parcellation(
    labels: Any,
    names: Any,
    mask: Any,
    *,
    space: NeuroSpace | AnyArray | None = None,
    request: ScanInput | None = None,
    space_name: str | int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Parcellation:
    """Make a parcellation on the grid of the run that it is for.

    Parameters
    ----------
    labels, names, mask : object
        See `Parcellation.from_labels`.
    space : NeuroSpace or ndarray, (4, 4), optional
        The grid, if an array of labels comes without a run.
    request : ScanInput, optional
        The run.
    space_name : str or int, optional
        Name of the space; comes before what labels and run say.
    storage_options : mapping, optional
        For its URL.
    """
    if request is not None and given_matrix(request.source) is None:
        with as_source(
            request.source, storage_options=storage_options, like=labels, **request.array
        ) as run:
            run.check_run()
            space = run.space
    elif space is not None and not isinstance(space, NeuroSpace) and has_grid(labels):
        space = None  # an affine that is meant for arrays; labels have their own
    made = Parcellation.from_labels(
        labels, names=names, mask=mask, space=space, storage_options=storage_options
    )
    name = name_of_space(space_name)
    if name is None or made.space.space_name == name:
        return made
    named = replace(made.space, space_name=name)
    return Parcellation(named, made.labels, made.table, mask=made.mask, voxels=made.voxels)


@contextlib.contextmanager
def open_content(
    request: ScanInput,
    parcellation: Parcellation,
    *,
    max_memory: int,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    require: Callable[[tuple[int, int], np.dtype[Any]], None] | None = None,
) -> Iterator[NewScan]:
    """Open the source of a scan, and summarise it if that is wanted.

    `require` is called with the shape and type of the matrix of a full scan before it is read.

    Raises
    ------
    InvalidInputError
        If the source lies on another grid or is no run, or the statistic or metadata cannot be
        used.
    """
    encode_name(request.name)
    metadata = check_attributes(plain_tables(request.metadata))
    matrix = given_matrix(request.source)
    if matrix is not None:
        yield _from_matrix(request, matrix, parcellation, metadata)
        return
    with as_source(
        request.source, storage_options=storage_options, like=parcellation, **request.array
    ) as source:
        source.check_run()
        parcellation.check_grid(source.space)
        reader = voxel_reader(source, parcellation.voxel_set)
        if request.statistic is None:
            if request.weights is not None:
                raise InvalidInputError("weights are for summaries")
            if require is not None:
                require((len(parcellation.voxels), reader.times), reader.dtype)
            with within(max_memory, max_memory // 2), reader.matrix(max_memory // 2) as data:
                yield NewScan(
                    name=request.name,
                    kind="full",
                    data=data,
                    space=source.space,
                    statistic=None,
                    metadata={**reader.metadata, **metadata},
                    header=_named_header(reader, parcellation.space.space_name),
                )
            return
        reduction = make_reduction(
            request.statistic,
            voxel_weights(request.weights, parcellation, storage_options),
            reader.scaled_dtype,
            len(parcellation.voxels),
        )
        found = summarise(reader, parcellation, reduction, max_memory=max_memory, progress=progress)
        dtype = np.dtype(request.dtype or result_dtype(reader.scaled_dtype))
        with np.errstate(over="ignore"):
            data = ScaledMatrix(MemoryMatrix(found.astype(dtype).T))
        yield NewScan(
            name=request.name,
            kind="summary",
            data=data,
            space=source.space,
            statistic=reduction.name,
            metadata={**reader.metadata, **metadata},
        )


def _named_header(source: VoxelReader, space_name: str | None) -> bytes:
    """NIfTI header of a run, with the codes of the space that the parcellation is in."""
    from fmristore.nifti import header_in_space

    if not source.header or space_name in (None, source.space.space_name):
        return source.header
    return header_in_space(source.header, str(space_name))


def given_matrix(source: Any) -> AnyArray | None:
    """The source of a scan, if it is a matrix (T, K) and no image."""
    if isinstance(source, list | tuple) or getattr(source, "ndim", 0) == 2:
        try:
            values = plain_values(source)
        except InvalidInputError:
            raise
        except ValueError:
            return None
        return values if values.ndim == 2 else None
    return None


def _from_matrix(
    request: ScanInput, values: AnyArray, parcellation: Parcellation, metadata: Mapping[str, Any]
) -> NewScan:
    values = parcellation.table.in_order(request.source, values)
    if values.shape[1] != len(parcellation) or not len(values):
        raise InvalidInputError(
            f"a matrix of shape {values.shape}: expected one column for each of "
            f"{len(parcellation)} parcels"
        )
    if values.dtype.kind not in "biufc":
        raise InvalidInputError(
            f"series must be numbers, not {values.dtype}: convert them with .astype(float)"
        )
    if request.weights is not None:
        raise InvalidInputError("weights are for series of voxels")
    space = getattr(request.source, "space", None)
    if not isinstance(space, NeuroSpace):
        space = request.array.get("space")
    tr = request.array.get("tr")
    if tr is None and isinstance(space, NeuroSpace):
        tr = space.tr
    check_tr(tr)
    dtype = values.dtype if request.dtype is None else np.dtype(request.dtype)
    statistic = request.statistic or getattr(request.source, "statistic", None)
    return NewScan(
        name=request.name,
        kind="summary",
        data=ScaledMatrix(MemoryMatrix(values.astype(dtype, copy=False).T)),
        space=parcellation.space.with_time(
            len(values),
            tr=tr,
            time_offset=space.time_offset if isinstance(space, NeuroSpace) else 0.0,
        ),
        statistic=statistic if isinstance(statistic, str) else None,
        metadata=metadata,
    )


def voxel_weights(
    weights: Any,
    parcellation: Parcellation,
    storage_options: Mapping[str, Any] | None = None,
) -> AnyArray | None:
    """Weights of the voxels in order of the parcellation, from an image or one for each label."""
    if weights is None:
        return None
    shape = parcellation.space.spatial_shape if has_grid(weights) else None
    if hasattr(weights, "iloc"):
        weights = positional(weights, "weights")
    values, grid, url, _ = load_volume(weights, "weight image", storage_options, shape=shape)
    if values.ndim == 1:
        inside = parcellation.labels != 0
        return parcellation.voxel_set.gather(unmask(values, inside))
    if values.shape[3:] == (1,):
        values = values[..., 0]
    if values.shape != parcellation.space.spatial_shape:
        raise InvalidInputError(
            f"weights of shape {values.shape}: expected {parcellation.space.spatial_shape} or "
            f"({len(parcellation.voxels)},)",
            url=url,
        )
    if grid is not None:
        parcellation.check_grid(grid)
    check_on_grid(weights, parcellation.space)
    return parcellation.voxel_set.gather(values)


def scan_requests(
    scans: Mapping[str, Any],
    statistic: Any,
    metadata: Mapping[str, Mapping[str, Any]] | None,
    space: NeuroSpace | AnyArray | None,
    tr: float | None,
) -> list[ScanInput]:
    """Scans to be stored together.

    Parameters
    ----------
    scans : mapping
        Sources by name.
    statistic : str or callable, optional
        What parcels are summarised by, in all of them.
    metadata : mapping, optional
        Mappings by name of the scan.
    space : NeuroSpace or ndarray, (4, 4), optional
        For arrays.
    tr : float, optional
        For arrays.

    Raises
    ------
    InvalidInputError
        If there are metadata of a scan that is not there.
    """
    unknown = [name for name in metadata or {} if name not in scans]
    if unknown:
        raise InvalidInputError(f"metadata of {unknown[0]!r}, which is no scan")
    return [
        ScanInput(
            name=name,
            source=source,
            statistic=statistic,
            metadata=(metadata or {}).get(name, {}),
            array=array_options(source, space, tr),
        )
        for name, source in scans.items()
    ]


def array_options(
    source: Any, space: NeuroSpace | AnyArray | None, tr: float | None
) -> dict[str, Any]:
    """Options that an array does not have itself; runs in one store differ in length."""
    if has_grid(source) or not hasattr(source, "dtype"):
        return {"tr": tr}
    if isinstance(space, NeuroSpace):
        return {"space": space.without_time(), "tr": space.tr if tr is None else tr}
    return {"space": space, "tr": tr}


Made = TypeVar("Made")


def create_scans(
    cls: type[Made],
    target: Target,
    parcellation: Parcellation,
    requests: Sequence[ScanInput],
) -> Made:
    """Store scans, which appear together when all are complete, and open them.

    Raises
    ------
    AlreadyExistsError
        If there is something and it shall not be replaced, or two scans have one name.
    InvalidInputError
        If a scan cannot be stored.
    """
    check_names([request.name for request in requests])
    with contextlib.closing(each_content(target, parcellation, requests)) as contents:
        made: Made = store_as(cls, target, (parcellation, contents), target.matrix())
    return made


def check_names(names: Sequence[str]) -> None:
    """Check that names of scans are all different.

    Raises
    ------
    AlreadyExistsError
        If not.
    """
    for i, name in enumerate(names):
        if name in names[:i]:
            raise AlreadyExistsError(f"there is a scan called {name!r} already")


def _require_room(target: Target, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Refuse a full scan of which not one shard can be gathered in memory.

    Raises
    ------
    MemoryLimitError
        With the least that is needed.
    """
    if target.kind == "zarr":
        require_unit(scan_spec(shape, dtype, "voxel", target.codec), target.max_memory)


def each_content(
    target: Target, parcellation: Parcellation, requests: Sequence[ScanInput]
) -> Generator[NewScan, None, None]:
    """Open and summarise scans one after the other; only one source is open at a time."""
    for request in requests:
        with open_content(
            request,
            parcellation,
            max_memory=target.max_memory,
            storage_options=target.storage_options,
            progress=target.progress,
            require=functools.partial(_require_room, target),
        ) as content:
            yield content
