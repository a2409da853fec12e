"""What users call: open, convert, transcode, export, verify."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from fmristore.formats.base import StoredObject
from fmristore.formats.opening import open_handle, opened
from fmristore.formats.options import create_image, image_options
from fmristore.formats.profiles import Profile
from fmristore.planning.layout import Access, Order
from fmristore.planning.progress import Progress
from fmristore.planning.text import parse_size
from fmristore.sources.images import image_source
from fmristore_stores.io.location import Kind
from fmristore_stores.opening import Handle, locate

__all__ = ["convert", "open", "open_handle"]


def open(  # noqa: A001 - fs.open is what users expect it to be called
    url: str | os.PathLike[str],
    *,
    format: str | None = None,  # noqa: A002
    kind: Kind | None = None,
    storage_options: Mapping[str, Any] | None = None,
    targets: Sequence[str] = (),
) -> Any:
    """Open a store and find out what it holds; files of the R package fmristore open too.

    Parameters
    ----------
    url : str or path
        HDF5 file, Zarr store or reference file (``.json``; see `fmristore.virtualize`), local or
        on any filesystem that fsspec knows.
    format : str, optional
        Insist on a format, such as ``"neurovec"``.
    kind : {"hdf5", "zarr", "reference"}, optional
        Insist on a container; found out by its first bytes otherwise.
    storage_options : mapping, optional
        Passed to fsspec: credentials, endpoint, ``anon=True``.
    targets : sequence of str, optional
        URLs or paths that a reference file may refer to, besides what lies beside it: below its
        folder, in its bucket or on its server.

    Returns
    -------
    NeuroVol, NeuroVec or another registered format class
        Reads when it is indexed; close it, or use it in a ``with`` statement.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    UnknownFormatError
        If it is no store, or holds no format that is known here.
    UnsupportedVersionError
        If it was written by a newer fmristore.

    Examples
    --------
    >>> import fmristore as fs
    >>> with fs.open("sub-01_task-rest_bold.h5") as bold:                     # doctest: +SKIP
    ...     series = bold[32, 40, 20]
    """
    locator = locate(url, kind=kind, storage_options=storage_options, targets=targets)
    handle = Handle(locator, fresh=True)
    try:
        return open_handle(handle, insist=format)
    except BaseException:
        handle.close()
        raise


def convert(  # noqa: PLR0913
    source: Any,
    url: str | os.PathLike[str],
    *,
    access: Access | None = None,
    codec: str | None = None,
    order: Order | None = None,
    profile: Profile | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    max_memory: int | str = 1 << 30,
    progress: Progress | None = None,
) -> None:
    """Turn a NIfTI image into a store that can be read in parts, or a store into another one.

    Parameters
    ----------
    source : path, URL, nibabel image or stored object
        ``.nii``, ``.nii.gz``, either file of an ``.hdr``/``.img`` pair; read once, front to back.
        Or a store of any format, one of the R package too, to be stored in the same format, laid
        out and encoded anew: see `StoredObject.save`.
    url : str or path
        New store: ``.h5`` for HDF5, ``.zarr`` (best ``.ome.zarr``) for Zarr.
    access : {"time", "volume", "balanced", "both"}, optional
        For images, what is read most: time series (the default), whole volumes, or some of both.
        ``"both"`` stores a run twice, and every read takes the copy with less to decode.
    codec : str, optional
        Preset: ``"portable"`` (default for HDF5: any HDF5 reader), ``"dual"`` (default for Zarr:
        the same bytes in both stores), ``"fast"`` or ``"none"``.
    order : {"auto", "canonical"}, optional
        Order inside chunks; ``"canonical"`` (x fastest) by default for ``"portable"``.
    profile : {"r"}, optional
        Write an HDF5 file exactly as the R package does, scaled numbers as floating-point ones;
        see ``docs/reference/r.md``. Most files are readable in R without it.
    overwrite : bool
        Replace what is there, once the new store is complete.
    storage_options : mapping, optional
        Passed to fsspec, for both URLs.
    max_memory : int or str
        Bytes that the conversion may take.
    progress : callable, optional
        Called with the bytes done and in all.

    Raises
    ------
    NotFoundError
        If the source or the folder of the destination does not exist.
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
    max_memory = parse_size(max_memory)
    options = {
        "access": access,
        "codec": codec,
        "order": order,
        "profile": profile,
        "overwrite": overwrite,
        "storage_options": storage_options,
        "max_memory": max_memory,
        "progress": progress,
    }
    with opened(source, storage_options) as found:
        if isinstance(found, StoredObject):
            found.save(url, **options).close()
            return
    create_image(
        url,
        image_source(source, storage_options=storage_options),
        options=image_options(
            url,
            access="time" if access is None else access,
            codec=codec,
            order=order,
            profile=profile,
            max_memory=max_memory,
        ),
        profile=profile,
        overwrite=overwrite,
        storage_options=storage_options,
        progress=progress,
    )
