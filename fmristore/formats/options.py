"""Storing content as a format: the choices that users leave open, and the way into a new store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fmristore.formats.registry import select_layout
from fmristore.planning.progress import Progress
from fmristore_stores.io.location import kind_of_name, normalise
from fmristore_stores.opening import Handle, locate
from fmristore_stores.publishing.publish import create_store

__all__ = ["MatrixOptions", "default_codec", "store_as"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixOptions:
    """How a format that is stored by voxel is to be written.

    Parameters
    ----------
    codec : str
        Name of a codec preset.
    max_memory : int
        Bytes that writing may take.
    fill : int or float
        What voxels outside the mask are read as.
    """

    codec: str = "dual"
    max_memory: int = 1 << 30
    fill: Any = 0


def default_codec(url: str | os.PathLike[str], codec: str | None = None) -> str:
    """Codec preset for a new store: any HDF5 reader opens an HDF5 file, R too."""
    return codec or ("portable" if kind_of_name(normalise(url)) == "hdf5" else "dual")


def store_as(  # noqa: PLR0913
    cls: Any,
    url: str | os.PathLike[str],
    content: Any,
    options: Any,
    *,
    profile: str | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Any:
    """Store content in a layout of its format, and open it.

    Parameters
    ----------
    cls : type
        Format class.
    url : str or path
        New store; it appears when complete.
    content, options : object
        As the layouts of the class take them.
    profile : str, optional
        Name of the layout; fmristore's own by default.
    overwrite : bool
        Replace what is there.
    storage_options : mapping, optional
        Passed to fsspec.
    progress : callable, optional
        Called with the bytes done and in all.

    Returns
    -------
    object of `cls`
        The new store; a local HDF5 file is not held open until it is used.
    """
    layout = select_layout(cls, profile, url)
    with create_store(
        url,
        overwrite=overwrite,
        storage_options=storage_options,
        variable_text=layout.variable_text,
    ) as store:
        layout.write(store, content, options, progress=progress)
    handle = Handle(locate(url, storage_options=storage_options), fresh=True)
    try:
        made = cls(handle, layout.read(handle))
        handle.rest()
    except BaseException:
        handle.close()
        raise
    return made
