"""Adding runs to a stored sequence, and volumes to a run that is being acquired."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fmristore.formats.sequence.sequence import NeuroVecSeq
from fmristore.model.space import NeuroSpace
from fmristore.sources.door import has_grid, is_path, load_volume
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.io.location import exists, normalise
from fmristore_stores.protocol import AnyArray

__all__ = ["append"]

_DIGITS = 8


def append(
    volumes: Any,
    url: str | os.PathLike[str],
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    codec: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> int:
    """Append volumes to a run that is being acquired; the first call begins it.

    Parameters
    ----------
    volumes : array_like (X, Y, Z) or (X, Y, Z, n), path, nibabel image, or stored image
        One volume or several; scaled as their source says.
    url : str or path
        Of the growing run: best a Zarr store, local or on object storage. It opens as a
        `NeuroVecSeq` of blocks, one for each call, whose axes are (x, y, z, t) as those of a run.
    space : NeuroSpace or (4, 4) affine, optional
        Where the voxels of an array are; needed in the first call.
    tr : float, optional
        Repetition time in seconds; needed in the first call only.
    codec : str, optional
        Preset; see `fmristore.convert`.
    storage_options : mapping, optional
        Passed to fsspec.

    Returns
    -------
    int
        Volumes that the run has now. When this returns they are on disk, or in the bucket, and
        whatever happens to this process they can be read.

    Raises
    ------
    InvalidInputError
        If the volumes do not fit the run, or the first ones have no grid.
    AlreadyExistsError
        If another process appended volumes at the same time; these are not appended.
    StorageError
        If writing fails. The run has the volumes then that it had before.

    Notes
    -----
    Who opens the store meanwhile sees the volumes of the calls that ended before, all of each. A
    call takes longer the more blocks there are, since the list of all is written again; an HDF5
    file is copied in each call. Close the run into its final layout with
    ``NeuroVec.create(url, "run.h5", access="time")``.

    Examples
    --------
    >>> import fmristore as fs
    >>> fs.append(volume, "scan.zarr", space=affine, tr=0.8)                  # doctest: +SKIP
    1
    """
    target = normalise(url)
    if not exists(target, storage_options):
        values, grid = _block(volumes, space, storage_options)
        if grid is None:
            raise InvalidInputError("the first volumes of a run need space= or a grid", url=target)
        length = int(values.shape[3])
        if isinstance(grid, NeuroSpace):
            known = grid.tr if tr is None else tr
            grid = grid.with_time(length, tr=known)
        made = NeuroVecSeq.create(
            {_name(0): values},
            url,
            space=grid,
            tr=None if isinstance(grid, NeuroSpace) else tr,
            access="volume",
            codec=codec,
            storage_options=storage_options,
        )
        made.close()
        return length
    with NeuroVecSeq.open(url, storage_options=storage_options) as run:
        values, grid = _block(volumes, space, storage_options)
        spatial = run.space.without_time()
        if grid is None:
            grid = spatial
        elif not isinstance(grid, NeuroSpace):
            grid = NeuroSpace(spatial_shape=values.shape[:3], affine=grid)
        count = int(run.shape[3])
        seconds = run.tr if tr is None else tr
        if seconds != run.tr:
            raise InvalidInputError(f"the run has a TR of {run.tr} s, these {seconds}", url=target)
        length = int(values.shape[3])
        timed = grid.with_time(length, tr=seconds)
        run.add_run(
            _name(count),
            values,
            space=timed,
            access="volume",
            codec=codec,
            storage_options=storage_options,
        )
    return count + length


def _name(first: int) -> str:
    """Name of a block: the number of its first volume, so that two writers cannot both add it."""
    return f"volume-{first:0{_DIGITS}d}"


def _block(
    volumes: Any, space: Any, storage_options: Mapping[str, Any] | None
) -> tuple[AnyArray, Any]:
    """Values (X, Y, Z, n), and their grid if they have one."""
    if is_path(volumes) or has_grid(volumes):
        values, grid, _ = load_volume(volumes, "volumes", storage_options)
        found = grid if space is None else space
    else:
        values, found = np.asarray(volumes), space
    if values.ndim == 3:
        values = values[..., None]
    if values.ndim != 4 or not values.size:
        raise InvalidInputError(f"volumes are (X, Y, Z) or (X, Y, Z, n), not {values.shape}")
    return values, found
