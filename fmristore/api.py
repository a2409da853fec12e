"""Calls of users on whole stores: open, convert, parcellate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.any_format import AnyFormat
from fmristore.formats.base import StoredObject
from fmristore.formats.image.image import DenseImage
from fmristore.formats.opening import open_handle
from fmristore.formats.registry import format_class
from fmristore.lists import Places, Runs, of_many
from fmristore.model.space import NeuroSpace
from fmristore.planning.options import LayoutOptions, ManyOptions, StoreOptions, takes
from fmristore.planning.text import parse_size
from fmristore.sources.door import check_url, in_order, open_if_path, source_of
from fmristore.sources.others import explained
from fmristore_stores.errors import AlreadyExistsError, InvalidInputError
from fmristore_stores.io.location import Kind, exists, normalise
from fmristore_stores.opening import Handle, check_untrusted, locate
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    from fmristore.formats.image.image import NeuroVec, NeuroVol
    from fmristore.formats.latent.latent import LatentNeuroVec
    from fmristore.formats.maps.maps import LabeledVolumeSet
    from fmristore.formats.masked.run import MaskedNeuroVec
    from fmristore.formats.parcellated.multiscan import ParcellatedMultiScan
    from fmristore.formats.parcellated.scan import ParcellatedScan
    from fmristore.formats.parcellated.summary import ParcellatedScanSummary
    from fmristore.formats.sequence.sequence import NeuroVecSeq
    from fmristore.many import RunsReport

    _Runs: TypeAlias = (
        list[str]
        | list[Path]
        | list[NeuroVec]
        | list[object]
        | tuple[object, ...]
        | Mapping[str, object]
    )

# ruff: noqa: A001, A002 - fs.open(format=) is what users expect it to be called

__all__ = [
    "convert",
    "open",
    "open_handle",
    "parcellate",
]

Stored = TypeVar("Stored", bound=StoredObject)


class _OpenOptions(TypedDict, total=False):
    """Options of `open` for every format."""

    kind: Kind | None
    storage_options: Mapping[str, Any] | None
    targets: Sequence[str]
    group: str
    trusted: bool


@overload
def open(
    url: str | os.PathLike[str],
    *,
    format: Literal["labeledvolumeset"],
    **options: Unpack[_OpenOptions],
) -> LabeledVolumeSet: ...
@overload
def open(
    url: str | os.PathLike[str],
    *,
    format: Literal["latentneurovec"],
    **options: Unpack[_OpenOptions],
) -> LatentNeuroVec: ...
@overload
def open(
    url: str | os.PathLike[str],
    *,
    format: Literal["maskedneurovec"],
    **options: Unpack[_OpenOptions],
) -> MaskedNeuroVec: ...
@overload
def open(
    url: str | os.PathLike[str], *, format: Literal["neurovec"], **options: Unpack[_OpenOptions]
) -> NeuroVec: ...
@overload
def open(
    url: str | os.PathLike[str], *, format: Literal["neurovecseq"], **options: Unpack[_OpenOptions]
) -> NeuroVecSeq: ...
@overload
def open(
    url: str | os.PathLike[str], *, format: Literal["neurovol"], **options: Unpack[_OpenOptions]
) -> NeuroVol: ...
@overload
def open(
    url: str | os.PathLike[str],
    *,
    format: Literal["parcellatedmultiscan"],
    **options: Unpack[_OpenOptions],
) -> ParcellatedMultiScan: ...
@overload
def open(
    url: str | os.PathLike[str],
    *,
    format: Literal["parcellatedscan"],
    **options: Unpack[_OpenOptions],
) -> ParcellatedScan: ...
@overload
def open(
    url: str | os.PathLike[str],
    *,
    format: Literal["parcellatedscansummary"],
    **options: Unpack[_OpenOptions],
) -> ParcellatedScanSummary: ...
@overload
def open(
    url: str | os.PathLike[str], *, format: None = None, **options: Unpack[_OpenOptions]
) -> AnyFormat: ...
@overload
def open(
    url: str | os.PathLike[str], *, format: str, **options: Unpack[_OpenOptions]
) -> StoredObject: ...
def open(
    url: str | os.PathLike[str], *, format: str | None = None, **options: Unpack[_OpenOptions]
) -> Any:
    """Open a store and find out what it holds; files of the R package fmristore open too.

    Parameters
    ----------
    url : str or path
        HDF5 file, Zarr store or reference file (``.json``; see `fmristore.virtualize`), local or
        on any filesystem that fsspec knows.
    format : str, optional
        Format that it must be, such as ``"neurovec"``.
    kind : {"hdf5", "zarr", "reference"}, optional
        Container that it must be; found out by its first bytes otherwise.
    storage_options : mapping, optional
        Passed to fsspec: credentials, endpoint, ``anon=True``.
    targets : sequence of str, optional
        URLs or paths that a reference file may refer to, besides what lies beside it: below its
        folder, in its bucket or on its server.
    group : str, optional
        Which one of the files of a reference file of several (see `fmristore.virtualize`).
    trusted : bool, optional
        True by default. If not, an HDF5 file is first parsed in a process of its own, with a limit
        of time and memory: where the HDF5 library crashes on it, hangs, or takes all memory, that
        is a `CorruptDataError` here. Takes some tenths of a second.

    Returns
    -------
    NeuroVol, NeuroVec or another registered format class
        Reads when it is indexed; close it, or use it in a ``with`` statement. Type checkers and
        editors know the class by `format`, or by ``NeuroVec.open(url)``; without, only the file
        says which one it is, and they take it for an `AnyFormat`.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    UnknownFormatError
        If it is no store, or holds no format that is known here.
    UnsupportedVersionError
        If it was written by a newer fmristore.
    CorruptDataError
        If the HDF5 library does not survive a file that is not trusted.

    Examples
    --------
    >>> import fmristore as fs
    >>> with fs.open("sub-01_task-rest_bold.h5") as bold:                     # doctest: +SKIP
    ...     series = bold[32, 40, 20]
    """
    trusted = options.get("trusted", True)
    access = options.get("storage_options")
    place = normalise(url)
    with explained(place, access):
        locator = locate(
            place,
            kind=options.get("kind"),
            storage_options=access,
            targets=options.get("targets", ()),
            group=options.get("group", ""),
        )
    if not trusted:
        check_untrusted(locator)
    handle = Handle(locator, fresh=trusted)
    try:
        return open_handle(handle, expected_format=format)
    except BaseException:
        handle.close()
        raise


class _ConvertMany(LayoutOptions, ManyOptions, total=False):
    """Options of `convert` for many runs."""

    space: NeuroSpace | AnyArray | None
    tr: float | None
    space_name: str | int | None
    metadata: Mapping[str, Any] | None


@overload
def convert(source: Runs, url: Places, **options: Unpack[_ConvertMany]) -> RunsReport: ...
@overload
def convert(
    source: Stored,
    url: str | os.PathLike[str],
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    space_name: str | int | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[LayoutOptions],
) -> Stored: ...
@overload
def convert(
    source: _Runs,
    url: str | os.PathLike[str],
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    space_name: str | int | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[LayoutOptions],
) -> NeuroVecSeq: ...
@overload
def convert(
    source: Any,
    url: str | os.PathLike[str],
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    space_name: str | int | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[LayoutOptions],
) -> AnyFormat: ...
@of_many("source", "url")
@takes(LayoutOptions)
def convert(
    source: Any,
    url: str | os.PathLike[str],
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    space_name: str | int | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Unpack[LayoutOptions],
) -> Any:
    """Turn a NIfTI image into a store that can be read in parts, or a store into another one.

    Parameters
    ----------
    source : path, URL, nibabel image, stored object, array_like, or a list or mapping of these
        NIfTI, or any other image that nibabel reads; read once, front to back. Or a store of any
        format, one of the R package too, to be rewritten in the same format: see
        `StoredObject.save`. Several runs, as a list or by name, become one `NeuroVecSeq` if there
        is one URL. An array (X, Y, Z) or (X, Y, Z, T) needs `space`.
    url : str or path, or a list or mapping of them
        New store: ``.h5`` for HDF5, ``.zarr`` (best ``.ome.zarr``) for Zarr. As many URLs as
        sources are a store for each of them, made as `fmristore.map_runs` does it.
    space : NeuroSpace or ndarray, (4, 4), optional
        For arrays: the grid, or the affine alone (voxel to mm, RAS+).
    tr : float, optional
        Repetition time in seconds, for an image whose header does not say the right one.
    space_name : str or int, optional
        Name of the space that an image is in, such as ``"MNI152NLin2009cAsym"``; exported headers
        have the codes of that space.
    metadata : mapping, optional
        What else is known of an image, as JSON holds it; comes before what its BIDS sidecar says.
    **options
        `LayoutOptions`.

    Returns
    -------
    NeuroVol, NeuroVec or another registered format class
        The new store, opened: close it, or use it in a ``with`` statement.
    RunsReport
        For many URLs: what became of each run. A run that fails stops no other one, and raises
        nothing; `RunsReport.check` does.

    Raises
    ------
    NotFoundError
        If the source does not exist. Folders that the new store shall lie in are made.
    AlreadyExistsError
        If there is something at `url` and `overwrite` is false.
    FormatError
        If the source is neither NIfTI nor a store, is damaged, or is not an image.
    InvalidInputError
        If R cannot read what `profile` asks for.

    Notes
    -----
    `fmristore.open` gives the image back; `NeuroVec.to_nifti` gives the file back, byte for byte.
    """
    source, url = in_order(source, url)
    parse_size(options.get("max_memory", 1 << 30))
    known = {"space": space, "tr": tr, "space_name": space_name, "metadata": metadata}
    said = {name: value for name, value in known.items() if value is not None}
    if isinstance(source, list | tuple | Mapping):
        return format_class("neurovecseq").create(source, url, **options, **said)
    with open_if_path(source, options.get("storage_options")) as found:
        if isinstance(found, StoredObject):
            if said and not isinstance(found, DenseImage):
                raise InvalidInputError(
                    f"{', '.join(said)}: for images; create a store of another format with its own"
                )
            return found.save_with(url, {**options, **said})
        image = source_of(found, space=space, tr=tr, space_name=space_name, metadata=metadata)
        name = "neurovol" if image.space.time_points is None else "neurovec"
        return format_class(name).create(image, url, **options)


class _ParcellateOptions(StoreOptions, total=False):
    """Options of `parcellate`."""

    names: Any
    mask: Any
    statistic: Any
    weights: Any
    scan: str | None
    metadata: Mapping[str, Any] | None
    space: NeuroSpace | AnyArray | None
    tr: float | None
    space_name: str | int | None
    dtype: DTypeLike | None


class _ParcellateMany(_ParcellateOptions, ManyOptions, total=False):
    """Options of `parcellate` for many runs."""


@overload
def parcellate(
    source: Runs, labels: Any, url: Places, **options: Unpack[_ParcellateMany]
) -> RunsReport: ...
@overload
def parcellate(
    source: Any, labels: Any, url: str | os.PathLike[str], **options: Unpack[_ParcellateOptions]
) -> ParcellatedScanSummary: ...
@of_many("source", "url")
@takes(StoreOptions)
def parcellate(  # noqa: PLR0913
    source: Any,
    labels: Any,
    url: str | os.PathLike[str],
    *,
    names: Any = None,
    mask: Any = None,
    statistic: Any = "mean",
    weights: Any = None,
    scan: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    space_name: str | int | None = None,
    dtype: DTypeLike | None = None,
    **options: Unpack[StoreOptions],
) -> Any:
    """Summarise a run by the parcels of a label image, and store the series.

    Parameters
    ----------
    source : stored object, path, URL, nibabel image, or array_like of shape (X, Y, Z, T)
        The run: NIfTI, anything of this package with four axes, or a file of the R package. Read
        once, as its chunks lie. Many runs are a list, with a list of URLs.
    labels : Parcellation, path, nibabel image, or array_like of shape (X, Y, Z)
        Whole numbers on the grid of the run; 0 is background. None if `url` is a store of several
        scans, which has its own.
    url : str or path, or a list or mapping of them
        New store: ``.h5`` for HDF5, ``.zarr`` for Zarr. With `scan`, it may be one of several
        scans (`ParcellatedMultiScan`) that exists: the series are added to it. As many URLs as
        sources are a store for each of them, made as `fmristore.map_runs` does it.
    names : path, mapping, sequence of str, optional
        What the labels stand for: a BIDS ``_dseg.tsv``, CSV or FreeSurfer colour table, a mapping
        from id to name, or names in order of ids.
    mask : path, nibabel image, or array_like of shape (X, Y, Z), optional
        Labels of other voxels are dropped.
    statistic : {"mean", "median", "sum", "min", "max", "std"} or callable
        ``std`` divides by the number of voxels. A function takes a parcel's values (T, V) and
        returns (T,).
    weights : path, nibabel image, array_like of shape (X, Y, Z) or (V,), optional
        Of the voxels, for means and sums; (V,) in numpy's (C) order of the
        labelled voxels, as ``volume[labels > 0]`` has them.
    scan : str, optional
        Name of the scan.
    metadata : mapping, optional
        What else is known of the scan; values that JSON can hold.
    space : NeuroSpace or ndarray, (4, 4), optional
        For arrays.
    tr : float, optional
        Repetition time in seconds; comes before that of the run.
    space_name : str or int, optional
        Name of the space that the run is in; comes before what it says.
    dtype : dtype, optional
        Of the stored series; float32 by default where the source has no more precision.
    max_memory : int or str
        Bytes that this may take. Means, sums, extremes and standard deviations need little; other
        statistics go through a temporary file if the labelled voxels do not fit.
    progress : callable, optional
        Called with the bytes of labelled voxels done and in all.
    **options
        `StoreOptions`.

    Returns
    -------
    ParcellatedScanSummary
        Opened. (T, K), NaN for parcels without voxels.
    RunsReport
        For many URLs: what became of each run; see `convert`.

    Raises
    ------
    NotFoundError
        If a file does not exist.
    AlreadyExistsError
        If there is something at `url` and `overwrite` is false, or a scan of that name.
    InvalidInputError
        If labels and run do not fit, no voxel has a label, or an argument cannot be used.
    MemoryLimitError
        If a function asks for a parcel that does not fit `max_memory`.

    Notes
    -----
    NaN in a voxel makes its parcel NaN at that time.

    Examples
    --------
    >>> import fmristore as fs
    >>> rest = fs.parcellate(                                                 # doctest: +SKIP
    ...     "rest_bold.nii.gz", "atlas.nii.gz", "rest.h5", names="atlas.csv"
    ... )
    >>> rest.to_dataframe()                                                   # doctest: +SKIP
    """
    check_url(url)
    new = scan is None or options.get("overwrite", False)
    if scan is not None and not new and exists(normalise(url), options.get("storage_options")):
        _refuse(profile=options.get("profile"), dtype=dtype, space_name=space_name)
        return _add(
            source,
            labels,
            url,
            scan,
            options={
                "statistic": statistic,
                "weights": weights,
                "metadata": metadata,
                "tr": tr,
                "codec": options.get("codec"),
                "max_memory": options.get("max_memory", 1 << 30),
                "progress": options.get("progress"),
            },
            parcels={"names": names, "mask": mask},
            storage_options=options.get("storage_options"),
        )
    if labels is None:
        raise InvalidInputError("labels are needed for a new store")
    summary: type[ParcellatedScanSummary] = format_class("parcellatedscansummary")
    return summary.create(
        source,
        url,
        parcellation=labels,
        names=names,
        mask=mask,
        statistic=statistic,
        weights=weights,
        name="scan" if scan is None else scan,
        metadata=metadata,
        space=space,
        tr=tr,
        space_name=space_name,
        dtype=dtype,
        **options,
    )


def _refuse(**given: Any) -> None:
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        raise InvalidInputError(f"{', '.join(unused)}: only for a new store")


def _add(
    run: Any,
    labels: Any,
    out: str | os.PathLike[str],
    scan: str,
    *,
    options: Mapping[str, Any],
    parcels: Mapping[str, Any],
    storage_options: Mapping[str, Any] | None,
) -> ParcellatedScanSummary:
    """Add a summary to a store of several scans that exists."""
    from fmristore.formats.parcellated.layout import OwnTree
    from fmristore.formats.parcellated.multiscan import ParcellatedMultiScan
    from fmristore.formats.parcellated.summary import ParcellatedScanSummary
    from fmristore.sources.parcellation import Parcellation

    with open(out, storage_options=storage_options) as multi:
        if not isinstance(multi, ParcellatedMultiScan):
            raise AlreadyExistsError(
                f"holds a {type(multi).__name__}, and scans are added to a ParcellatedMultiScan; "
                "pass overwrite=True to replace it",
                url=os.fspath(out),
            )
        if labels is not None or any(value is not None for value in parcels.values()):
            wanted = Parcellation.from_labels(
                multi.parcellation if labels is None else labels,
                space=multi.space,
                storage_options=storage_options,
                **parcels,
            )
            if not np.array_equal(wanted.labels, multi.parcellation.labels):
                raise InvalidInputError("the labels are not those of the store", url=os.fspath(out))
        multi.add_scan(scan, run, **options)
    handle = Handle(locate(out, storage_options=storage_options))
    made = ParcellatedScanSummary(handle, OwnTree(handle).scan(scan))
    handle.rest()
    return made
