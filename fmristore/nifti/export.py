"""A stored image as a NIfTI file, streamed, with the bytes of its source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fmristore.planning.layout import canonical_axes
from fmristore.planning.progress import Progress
from fmristore.planning.rechunk import read_in_blocks
from fmristore.planning.streams import streaming
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.protocol import AnyArray

__all__ = ["export_nifti"]

_WRITE_BYTES = 1 << 23
"""Volumes that are handed to the NIfTI writer at a time."""


def export_nifti(  # noqa: PLR0913
    reader: ChunkReader,
    url: str | os.PathLike[str],
    *,
    header: bytes,
    trailer: bytes = b"",
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    max_memory: int = 1 << 28,
    progress: Progress | None = None,
) -> None:
    """Write a stored image as NIfTI.

    Parameters
    ----------
    reader : ChunkReader
        Of the stored values, axes named as in `fmristore.planning.layout.AXES`.
    url : str or path
        ``.nii``, ``.nii.gz``, or either name of an ``.hdr``/``.img`` pair.
    header : bytes
        NIfTI header and extensions.
    trailer : bytes
        What follows the data.
    overwrite : bool
        Replace what is there.
    storage_options : mapping, optional
        Passed to fsspec.
    max_memory : int
        Bytes that volumes and scratch may take; what does not fit passes through a temporary
        file, so that every chunk is decoded once.
    progress : callable, optional
        Called with the bytes done and in all.

    Raises
    ------
    AlreadyExistsError
        If there is something at `url` and `overwrite` is false.
    CorruptDataError
        If a chunk is damaged or missing.
    """
    from fmristore.nifti import NiftiWriter

    spec = reader.spec
    axes = canonical_axes(spec.dims)
    dims = [spec.dims[a] for a in axes]
    unit = tuple(1 if d == "t" else spec.shape[a] for d, a in zip(dims, axes, strict=True))
    done = 0
    with NiftiWriter(url, header, overwrite=overwrite, storage_options=storage_options) as writer:
        with streaming(read_in_blocks(reader, axes, unit, max_memory)) as blocks:
            for _, values in blocks:
                for part in _pieces(values, dims, min(_WRITE_BYTES, max_memory // 8)):
                    writer.write(part)
                    done += part.nbytes
                    if progress is not None:
                        progress(done, spec.nbytes)
                    del part
                del values  # before the next block takes its memory
        writer.finish(trailer=trailer)


def _pieces(values: AnyArray, dims: list[str], max_bytes: int) -> Iterator[AnyArray]:
    """Cut volumes into small pieces with the axes of NIfTI: (t, z, y, x[, c])."""
    if "c" in dims:
        values = np.moveaxis(values, dims.index("c"), -1)
    if "t" not in dims:
        values = values[None]
    step = max(1, max_bytes // max(1, values[:1].nbytes))
    for start in range(0, len(values), step):
        yield values[start : start + step]
