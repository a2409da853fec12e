"""The group ``/header`` of the R package's files: fields of a NIfTI header, a dataset each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.nodes import write_plain
from fmristore.model.space import NeuroSpace
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Group
from fmristore_stores.spec import STRING

__all__ = ["read_header_space", "transform_fields", "write_fields"]

_QUATERNION = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")


def read_header_space(handle: Handle, shape: tuple[int, int, int]) -> NeuroSpace:
    """Grid of a file of the R package that has a ``/header``.

    Parameters
    ----------
    handle : Handle
        The store.
    shape : tuple of int
        Lengths along x, y, z.

    Returns
    -------
    NeuroSpace
        With the affine of ``srow_x``, ``srow_y``, ``srow_z`` where these can be one, whatever
        their code says, for R fills them in and lets the code be 0; else that of the quaternion.

    Raises
    ------
    MetadataError
        If there is no usable affine, or the header is that of another grid.
    """
    names = handle.store.root.group("header").children()

    def field(name: str, count: int) -> NDArray[np.float64] | None:
        if name not in names:
            return None
        path = f"header/{name}"
        values = np.atleast_1d(StoredArray(handle, path).read_small(64))
        if values.ndim != 1 or len(values) < count or values.dtype.kind not in "iuf":
            raise MetadataError(
                f"has the shape {values.shape} and type {values.dtype}, expected {count} numbers",
                url=handle.locator.url,
                node=path,
            )
        return values.astype(np.float64)

    dim = field("dim", 4)
    if dim is not None and tuple(dim[1:4].tolist()) != shape:
        raise MetadataError(
            f"says {dim.tolist()} of a mask of shape {shape}",
            url=handle.locator.url,
            node="header/dim",
        )
    rows = [field(f"srow_{axis}", 4) for axis in "xyz"]
    if all(row is not None for row in rows):
        affine = np.vstack([*(row[:4] for row in rows if row is not None), [0, 0, 0, 1]])
        try:
            return NeuroSpace(spatial_shape=shape, affine=affine)
        except InvalidInputError:
            pass  # R writes zeros where it knows none
    pixdim = field("pixdim", 4)
    parts = [field(name, 1) for name in _QUATERNION]
    given = [0.0 if part is None else float(part[0]) for part in parts]
    sign = field("qfac", 1)
    if pixdim is None:
        raise MetadataError(
            "neither srow_x, srow_y, srow_z nor pixdim say where the voxels lie",
            url=handle.locator.url,
            node="header",
        )
    qfac = float(pixdim[0] if sign is None else sign[0])
    try:
        return NeuroSpace(
            spatial_shape=shape,
            affine=_from_quaternion(given[:3], given[3:], pixdim[1:4], -1.0 if qfac < 0 else 1.0),
        )
    except InvalidInputError as error:
        raise MetadataError(
            f"the affine is damaged: {error.message}", url=handle.locator.url, node="header"
        ) from error


def _from_quaternion(
    vector: list[float], offset: list[float], spacing: NDArray[np.float64], qfac: float
) -> NDArray[np.float64]:
    """Affine by NIfTI's method 2: https://nifti.nimh.nih.gov/nifti-1/."""
    b, c, d = vector
    length = math.hypot(b, c, d)
    if length > 1:
        b, c, d = b / length, c / length, d / length
    a = math.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing * [1.0, 1.0, qfac]
    affine[:3, 3] = offset
    return affine


def transform_fields(space: NeuroSpace) -> dict[str, Any]:
    """Fields that say where voxels lie: the quaternion with its offset and sign, and the rows.

    A quaternion holds no shear: of a sheared grid it is the nearest one without, and only the
    rows are right.
    """
    from nibabel import quaternions

    library: Any = quaternions
    columns = space.affine[:3, :3] / space.spacing
    qfac = 1.0 if np.linalg.det(columns) > 0 else -1.0
    left, _, right = np.linalg.svd(columns * [1.0, 1.0, qfac])
    _, b, c, d = library.mat2quat(left @ right).tolist()
    offset = space.origin
    return {
        "qfac": qfac,
        "quatern_b": b,
        "quatern_c": c,
        "quatern_d": d,
        **{f"qoffset_{axis}": value for axis, value in zip("xyz", offset, strict=True)},
        **{f"srow_{axis}": space.affine[row] for row, axis in enumerate("xyz")},
    }


def write_fields(group: Group, fields: dict[str, Any]) -> None:
    """Write fields as R does: a dataset each, whole numbers as int32, others as float64."""
    for name, value in fields.items():
        if isinstance(value, str):
            array = np.array(value, STRING)
        elif isinstance(value, int) or (isinstance(value, list) and isinstance(value[0], int)):
            array = np.array(value, np.int32)
        else:
            array = np.array(value, np.float64)
        write_plain(group, name, (), array)
