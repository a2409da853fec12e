"""Facts of an uncompressed NIfTI file for a reference file: grid, scaling, header and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmristore.formats.new_arrays import write_bytes
from fmristore.formats.nodes import (
    format_attributes,
    scaling_attributes,
    space_attributes,
    write_metadata,
    write_times,
)
from fmristore.nifti.files import open_decoded
from fmristore.nifti.header import NiftiHeader, read_header
from fmristore.sources.door import as_source
from fmristore.sources.facts import metadata_of
from fmristore.sources.images import ImageSource
from fmristore_stores.errors import LayoutNotSupportedError, UnknownFormatError
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout

__all__ = ["nifti_array", "write_head"]


def nifti_array(url: str, options: Mapping[str, Any]) -> tuple[ArraySpec, np.dtype[Any], AnyArray]:
    """Place of the data of a NIfTI file.

    Parameters
    ----------
    url : str
        A single, uncompressed file.
    options : mapping
        fsspec's storage options.

    Returns
    -------
    spec : ArraySpec
        Axes (t, z, y, x) or (z, y, x), a volume in each chunk, not encoded.
    stored : dtype
        Of the bytes, with their order.
    rows : ndarray of int64, (chunks, 4)
        Number, offset, length and a 0 for each chunk.

    Raises
    ------
    UnknownFormatError
        If it is compressed, or one of a pair.
    LayoutNotSupportedError
        If it is in colour.
    """
    header = read_header(url, storage_options=options)
    with open_decoded(url, options) as (_, compressed):
        pass
    if compressed or not header.single:
        what = "compressed" if compressed else "one of a pair of files"
        msg = f"is {what}: bytes can be referred to in an uncompressed .nii; convert this one"
        raise UnknownFormatError(msg, url=url)
    if header.colors:
        raise LayoutNotSupportedError("colours of NIfTI files are not virtualized", url=url)
    timed = header.space.time_points is not None
    shape = header.stream_shape if timed else header.stream_shape[1:]
    dims = ("t", "z", "y", "x") if timed else ("z", "y", "x")
    chunks = (1, *shape[1:]) if timed else shape
    spec = ArraySpec(
        shape=shape, dtype=header.dtype, dims=dims, layout=ChunkLayout(chunks=chunks), codecs=()
    )
    return spec, header.disk_dtype, _rows(header)


def _rows(header: NiftiHeader) -> AnyArray:
    count = header.stream_shape[0]
    number = np.arange(count, dtype=np.int64)
    length = np.full(count, header.volume_nbytes, np.int64)
    offset = header.data_offset + number * header.volume_nbytes
    return np.stack([number, offset, length, np.zeros(count, np.int64)], axis=1)


def write_head(url: str, options: Mapping[str, Any], folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write everything but the data of an image into a store of its own.

    Parameters
    ----------
    url : str
        The NIfTI file.
    options : mapping
        fsspec's storage options.
    folder : Path
        Where the store goes.

    Returns
    -------
    path : Path
        The HDF5 file.
    attributes : dict
        Of the array of data.
    """
    path = folder / "head.h5"
    with as_source(url, storage_options=options) as source, create_store(path) as store:
        _write(store.root, source)
        attributes = scaling_attributes(source.scaling) | {"access": "volume"}
    return path, attributes


def _write(root: Any, source: ImageSource) -> None:
    space = source.space
    write_times(root, space, source.scaling)
    write_bytes(root, "nifti", "nifti_byte", source.header)
    write_metadata(root, metadata_of(source))
    name = "neurovol" if space.time_points is None else "neurovec"
    root.write_attributes(format_attributes(name) | space_attributes(space))
