"""Stored objects as datasets of xarray, which is imported with this module.

A dataset has one variable, ``data``, that reads through the object: its plan, cache and checks.
Coordinates are those of the field: ``x``, ``y``, ``z`` in mm where the axes of the grid are those
of the world, else ``x_mm``, ``y_mm``, ``z_mm`` with three axes each; ``time`` in seconds; names of
runs, parcels and maps. The accessor ``.fmri`` leads back.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from fmristore.model.coordinates import grid_coordinates, is_aligned
from fmristore.model.space import NeuroSpace
from fmristore.sources.masks import mask_voxels
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import nibabel

__all__ = ["FmriAccessor", "LazyArray", "WorldArray", "grid_dataset", "series_dataset", "tree"]

_AXES = ("x", "y", "z")
_WORLD = ("x_mm", "y_mm", "z_mm")
_MOST_HEADER = 1 << 15
"""Bytes of a NIfTI header that are kept as an attribute: netCDF takes 64 KiB, as text."""

Runs = Sequence[tuple[str, int, AnyArray | None]]


class LazyArray(BackendArray):
    """Values of a stored object, read when xarray asks for them.

    Parameters
    ----------
    stored : stored object
        Has ``shape``, ``dtype`` and numpy's indexing.
    support : IndexingSupport
        What it can be indexed with; xarray does the rest in memory.
    """

    def __init__(self, stored: Any, support: indexing.IndexingSupport) -> None:
        self.stored = stored
        self.shape = tuple(stored.shape)
        self.dtype = stored.dtype
        self._support = support

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.VectorizedIndexer) and _are_voxels(key.tuple):
            *grid, times = key.tuple
            points = tuple(np.ravel(axis) for axis in grid)
            return self.stored[
                (*points, np.ravel(times) if isinstance(times, np.ndarray) else times)
            ]
        return indexing.explicit_indexing_adapter(key, self.shape, self._support, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        return self.stored[key]


def _are_voxels(key: tuple[Any, ...]) -> bool:
    """Return whether an index is a list of voxels (n,) and a part of the last axis of four."""
    if len(key) != 4 or not all(isinstance(axis, np.ndarray) for axis in key[:3]):
        return False
    sizes = {axis.size for axis in key[:3]}
    times = key[3]
    if isinstance(times, slice):
        return len(sizes) == 1 and all(axis.ndim == 1 for axis in key[:3])
    columns = isinstance(times, np.ndarray) and times.size == times.shape[-1]
    return len(sizes) == 1 and columns and all(axis.shape == (axis.size, 1) for axis in key[:3])


class WorldArray(BackendArray):
    """One world coordinate of the voxels of a grid, in mm, computed where it is asked for.

    Parameters
    ----------
    affine : ndarray, (4, 4)
        Voxel to mm.
    shape : tuple of int
        (X, Y, Z).
    axis : int
        Of the world.
    """

    dtype = np.dtype(np.float64)

    def __init__(self, affine: AnyArray, shape: tuple[int, ...], axis: int) -> None:
        self.shape = shape
        self._row = np.asarray(affine)[axis]

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._compute)

    def _compute(self, key: tuple[Any, ...]) -> Any:
        places = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, key, strict=True)]
        i, j, k = np.ix_(*places)
        values = self._row[0] * i + self._row[1] * j + self._row[2] * k + self._row[3]
        dropped = tuple(a for a, part in enumerate(key) if isinstance(part, int | np.integer))
        return values.squeeze(axis=dropped)


def grid_dataset(
    image: Any, *, runs: Runs | None = None, names: Sequence[str] | None = None
) -> xr.Dataset:
    """Dataset of an image on a grid.

    Parameters
    ----------
    image : GridView
        The dataset reads from a copy of it, which has its own hold on the store.
    runs : sequence of (str, int, ndarray or None), optional
        Name, number of volumes and their times in seconds, of the runs that the last axis is made
        of.
    names : sequence of str, optional
        Of what lies along the last axis, if that is not time.

    Returns
    -------
    xarray.Dataset
        ``data`` with the axes x, y, z and, for runs, time.
    """
    image = copy.copy(image)
    dims = tuple("time" if axis == "t" else axis for axis in image.axes)
    data = _variable(image, dims, indexing.IndexingSupport.OUTER_1VECTOR)
    data.attrs["affine"] = np.ravel(image.affine).tolist()
    header = image.nifti_header.raw
    if len(header) <= _MOST_HEADER:
        data.attrs["nifti_header"] = base64.b64encode(header).decode()
    coords: dict[str, Any] = _world(image.space)
    if "time" in dims:
        coords |= _times(runs or [("", image.shape[3], image.space.times)], named=runs is not None)
    elif names is not None:
        coords[dims[-1]] = (dims[-1], np.array(names, dtype=str))
    return _dataset(image, data, coords)


def series_dataset(stored: Any) -> xr.Dataset:
    """Dataset of a series for each parcel: ``data`` with the axes time and parcel.

    Parameters
    ----------
    stored : ParcellatedScanSummary
        The dataset reads from a copy of it, which has its own hold on the store.
    """
    stored = copy.copy(stored)
    data = _variable(stored, ("time", "parcel"), indexing.IndexingSupport.BASIC)
    if stored.statistic is not None:
        data.attrs["statistic"] = stored.statistic
    coords = _times([("", stored.shape[0], stored.space.times)], named=False)
    coords["parcel"] = ("parcel", np.array(stored.names, dtype=str))
    coords["parcel_id"] = ("parcel", np.asarray(stored.ids))
    return _dataset(stored, data, coords)


def tree(datasets: Mapping[str, xr.Dataset]) -> xr.DataTree:
    """Tree with one node for each dataset; closing it closes them all."""
    made = xr.DataTree.from_dict({"/": xr.Dataset(), **{f"/{n}": d for n, d in datasets.items()}})

    def close() -> None:
        for dataset in datasets.values():
            dataset.close()

    made.set_close(close)
    return made


def _variable(stored: Any, dims: tuple[str, ...], support: indexing.IndexingSupport) -> xr.Variable:
    lazy = indexing.LazilyIndexedArray(LazyArray(stored, support))
    data = xr.Variable(dims, lazy)
    data.encoding["preferred_chunks"] = dict(zip(dims, stored.chunks, strict=True))
    data.encoding["source"] = stored.url
    return data


def _dataset(stored: Any, data: xr.Variable, coords: Mapping[str, Any]) -> xr.Dataset:
    made = xr.Dataset({"data": data}, coords=coords)
    preferred = data.encoding["preferred_chunks"]
    for name, found in made.coords.items():  # chunks={} must give one size along each axis
        if name not in made.indexes:
            found.encoding["preferred_chunks"] = {d: preferred[d] for d in found.dims}
    made.attrs["class"] = type(stored).__name__
    made.set_close(stored.close)
    return made


def _world(space: NeuroSpace) -> dict[str, Any]:
    """Coordinates of a grid in mm."""
    affine, shape = space.affine, space.spatial_shape
    unit = {"units": "mm"}
    if is_aligned(space):
        return {name: (name, found.values, unit) for name, found in grid_coordinates(space).items()}
    return {
        name: (_AXES, indexing.LazilyIndexedArray(WorldArray(affine, shape, a)), unit)
        for a, name in enumerate(_WORLD)
    }


def _times(runs: Runs, *, named: bool) -> dict[str, Any]:
    """Seconds since the start of each run, and the names of the runs."""
    coords: dict[str, Any] = {}
    seconds = [times for _, _, times in runs if times is not None]
    if len(seconds) == len(runs):
        about = {"units": "s", "long_name": "time since the start of the run"}
        coords["time"] = ("time", np.concatenate(seconds), about)
    if named:
        labels = np.repeat([name for name, _, _ in runs], [length for _, length, _ in runs])
        coords["run"] = ("time", labels)
    return coords


class FmriAccessor:
    """``.fmri`` of datasets and arrays that came from a store, or of a part of them.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        With the axes x, y, z; selections and computations that keep these may have been made.
    """

    def __init__(self, obj: Any) -> None:
        self._data: xr.DataArray = obj["data"] if isinstance(obj, xr.Dataset) else obj

    @property
    def affine(self) -> AnyArray:
        """(4, 4): indices of the axes x, y, z as they are here, to mm.

        Raises
        ------
        InvalidInputError
            If an axis of space is missing, or its steps are not equal.
        """
        self._need_axes()
        affine = np.eye(4)
        given = np.reshape(self._data.attrs.get("affine", np.eye(4)), (4, 4))
        for a, name in enumerate(_AXES):
            line = self._line(a)
            affine[:3, 3] = line[0]
            steps = np.diff(line, axis=0)
            if len(steps) == 0:
                affine[:3, a] = given[:3, a]
                continue
            if not np.allclose(steps, steps[0], atol=1e-4):
                raise InvalidInputError(
                    f"the steps along {name} are not equal, so there is no affine: select slices"
                )
            affine[:3, a] = (line[-1] - line[0]) / len(steps)
        return affine

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds; None where times are unknown or their steps differ."""
        if "time" not in self._data.coords or self._data.sizes.get("time", 0) < 2:
            return None
        steps = np.diff(self._data["time"].values)
        return float(steps.mean()) if steps[0] > 0 and np.allclose(steps, steps[0]) else None

    @property
    def space(self) -> NeuroSpace:
        """The grid as it is here."""
        self._need_axes()
        sizes = self._data.sizes
        return NeuroSpace(
            spatial_shape=(sizes["x"], sizes["y"], sizes["z"]),
            affine=self.affine,
            time_points=sizes.get("time"),
            tr=self.tr,
        )

    def series(
        self, mask: Any, *, storage_options: Mapping[str, Any] | None = None
    ) -> xr.DataArray:
        """Series of the voxels of a mask.

        Parameters
        ----------
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z)
            As of `NeuroVec.series`.
        storage_options : mapping, optional
            For a mask given by URL.

        Returns
        -------
        xarray.DataArray
            Axes time and voxel, in numpy's (C) order of voxels; not read before its values are
            asked for, and then each chunk once.

        Raises
        ------
        InvalidInputError
            If the mask does not fit.
        """
        points = mask_voxels(mask, self.space, storage_options=storage_options)
        chosen = {name: xr.DataArray(points[:, a], dims="voxel") for a, name in enumerate(_AXES)}
        return self._data.isel(chosen).transpose(..., "voxel")

    def to_nibabel(self) -> nibabel.Nifti1Image:
        """The values as a NIfTI image in memory, with the affine of what was selected.

        Returns
        -------
        nibabel.Nifti1Image or Nifti2Image
            Header fields of the source are kept.

        Raises
        ------
        InvalidInputError
            If an axis of space is missing, or its steps are not equal.
        """
        space = self.space
        rest = [name for name in self._data.dims if name not in _AXES]
        values = self._data.transpose(*_AXES, *rest).to_numpy()
        header = self._header(space, values.dtype)
        header.set_data_dtype(values.dtype)
        header.set_data_shape(values.shape)
        zooms = [*space.spacing, *([space.tr or 0.0] if "time" in rest else [0.0] * len(rest))]
        header.set_zooms(zooms)
        cls: Any = nibabel.Nifti1Image
        if isinstance(header, nibabel.Nifti2Header):
            cls = nibabel.Nifti2Image
        made: nibabel.Nifti1Image = cls(values, space.affine, header)
        return made

    def _header(self, space: NeuroSpace, dtype: np.dtype[Any]) -> Any:
        from fmristore.nifti import parse_header
        from fmristore.nifti.writer import reframe

        text = self._data.attrs.get("nifti_header")
        if text is None:
            return space.to_header(dtype)
        header = reframe(parse_header(base64.b64decode(text)), single=True).to_nibabel()
        header.set_slope_inter(None, None)
        header.set_xyzt_units("mm", "sec" if space.tr else header.get_xyzt_units()[1])
        return header

    def _need_axes(self) -> None:
        missing = [name for name in _AXES if name not in self._data.dims]
        if missing:
            raise InvalidInputError(
                f"no axis {', '.join(missing)}: keep it with a slice, as in isel(x=slice(3, 4))"
            )

    def _line(self, axis: int) -> AnyArray:
        """World coordinates (n, 3) along an axis, from the first voxel of the others."""
        first: dict[str, Any] = dict.fromkeys(_AXES, 0)
        del first[_AXES[axis]]
        names = _WORLD if _WORLD[0] in self._data.coords else _AXES
        if not all(name in self._data.coords for name in names):
            raise InvalidInputError("there are no coordinates x, y, z in mm")
        columns: list[Any] = []
        for name in names:
            coordinate = self._data[name]
            columns.append(
                coordinate.isel({d: i for d, i in first.items() if d in coordinate.dims})
            )
        length = self._data.sizes[_AXES[axis]]
        return np.column_stack([np.broadcast_to(c.to_numpy(), (length,)) for c in columns])


_register: Any = xr
_register.register_dataset_accessor("fmri")(FmriAccessor)
_register.register_dataarray_accessor("fmri")(FmriAccessor)
