"""A label image with its table: which voxels belong to which parcel, and what it is called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fmristore.model.space import NeuroSpace
from fmristore.model.thumbnail import slice_picture
from fmristore.model.voxels import VoxelSet
from fmristore.planning.anatomy import display_axes
from fmristore.planning.pictures import facts_html, label_colors
from fmristore.sources.arrays import check_on_grid
from fmristore.sources.door import load_volume, open_if_path
from fmristore.sources.grids import apart, other_shape
from fmristore.sources.labels import Column, LabelTable, ParcellationWarning, read_table, warn
from fmristore.sources.masks import mask_array
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import nibabel

__all__ = ["Parcellation", "ParcellationWarning", "find_parcel", "find_parcels", "parcels_picture"]

_DRAWING = "fmristore.interop.matplotlib"
"""Draws parcels. It is above this module, and loaded by name when something is drawn."""
_LARGEST_ID = 2**31 - 1
_LARGEST_EXACT = 2.0**53
"""Whole numbers up to this are the same in float64."""
_TOLERANCE = 0.01
"""By which labels of floating point may differ from whole numbers."""


class Parcellation:
    """Voxels of a grid, grouped by parcel.

    Usually made by `from_labels`.

    Parameters
    ----------
    space : NeuroSpace
        The grid.
    labels : ndarray of int, (X, Y, Z)
        Id of the parcel that a voxel belongs to, 0 for none.
    table : LabelTable
        All parcels, with at least the ids that occur in `labels`.
    mask : ndarray of bool, (X, Y, Z), optional
        Voxels that were looked at; those with a label by default. No label lies outside.
    voxels : ndarray of int, (V, 3), optional
        The labelled voxels in order of their parcels; with x varying fastest inside each parcel
        by default.
    form_codes : tuple of int, optional
        NIfTI's codes of the label image's sform and qform, which say what space it is in.

    Raises
    ------
    InvalidInputError
        If these contradict each other, or no voxel has a label.
    """

    def __init__(
        self,
        space: NeuroSpace,
        labels: AnyArray,
        table: LabelTable,
        *,
        mask: AnyArray | None = None,
        voxels: AnyArray | None = None,
        form_codes: tuple[int, int] | None = None,
    ) -> None:
        self.space = space.without_time()
        self.form_codes = form_codes
        self.labels: NDArray[np.int32] = np.asarray(labels, np.int32)
        self.table = table
        self.mask: NDArray[np.bool_] = self.labels != 0 if mask is None else np.asarray(mask, bool)
        shape = self.space.spatial_shape
        if self.labels.shape != shape or self.mask.shape != shape:
            raise InvalidInputError(
                f"labels of shape {self.labels.shape} and mask of shape {self.mask.shape} do not "
                f"fit a grid of shape {shape}"
            )
        if (self.labels[~self.mask] != 0).any():
            raise InvalidInputError("a label lies outside the mask")
        if voxels is None:
            voxels = np.argwhere(self.labels.transpose(2, 1, 0))[:, ::-1]
            voxels = voxels[np.argsort(self.labels[tuple(voxels.T)], kind="stable")]
        self._voxel_set = VoxelSet(self.space, voxels)
        found = self._voxel_set.gather(self.labels)
        self.indptr: NDArray[np.int64] = np.append(
            np.searchsorted(found, table.ids), len(found)
        ).astype(np.int64)
        if len(found) != np.count_nonzero(self.labels) or not np.array_equal(
            found, np.repeat(table.ids, np.maximum(0, np.diff(self.indptr)))
        ):
            raise InvalidInputError("labels, ids and voxels of the parcellation contradict")

    @classmethod
    def from_labels(
        cls,
        labels: Any,
        *,
        names: Any = None,
        mask: Any = None,
        space: NeuroSpace | AnyArray | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Parcellation:
        """Make a parcellation of a label image and, if there is one, its table.

        Parameters
        ----------
        labels : Parcellation, path, stored object, nibabel image, or array_like (X, Y, Z)
            Whole numbers, but for rounding; 0 and NaN are background. A path is that of a file or
            a store. Ids may have gaps. What is stored with a parcellation stands for that.
        names : path, mapping, sequence of str, or DataFrame, optional
            What the ids stand for: see `fmristore.sources.labels.read_table`.
        mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z), optional
            Labels of other voxels are dropped.
        space : NeuroSpace or ndarray, (4, 4), optional
            Grid that the labels must be on; an array of labels need only have its shape. An
            affine is for arrays.
        storage_options : mapping, optional
            For URLs of labels, names and mask.

        Warns
        -----
        ParcellationWarning
            If a parcel of the table has no voxels (it is kept, and is NaN in summaries),
            labelled voxels lie outside the mask, labels were rounded to whole numbers, or the
            table is doubtful.

        Raises
        ------
        NotFoundError
            If a file does not exist.
        InvalidInputError
            If labels are not whole numbers from 0 up, no voxel has one, shapes or grids differ,
            or the table is wrong.
        """
        with open_if_path(labels, storage_options) as found:
            own = getattr(found, "parcellation", found)
            if isinstance(own, Parcellation):
                return own.revised(names, mask, space, storage_options)
            wanted = space.spatial_shape if isinstance(space, NeuroSpace) else None
            values, grid, url, codes = load_volume(found, "label image", shape=wanted)
        numbers = _whole_numbers(values, url)
        grid = _common_grid(numbers, grid, space, url)
        check_on_grid(labels, grid)
        inside = None
        if mask is not None:
            inside = mask_array(mask, grid, storage_options=storage_options)
        if inside is not None:
            outside = np.count_nonzero(numbers[~inside])
            if outside:
                warn(f"{outside} labelled voxels lie outside the mask and are left out")
            # Parcels that the mask empties are still parcels of the atlas.
            table = _full_table(names, numbers, storage_options)
            numbers = np.where(inside, numbers, 0)
        else:
            table = _full_table(names, numbers, storage_options)
        if not numbers.any():
            where = "" if inside is None else " in the mask"
            raise InvalidInputError(f"no voxel{where} has a label", url=url)
        made = cls(grid, numbers, table, mask=inside, form_codes=codes)
        made._tell_empty()
        return made

    def revised(
        self,
        names: Any = None,
        mask: Any = None,
        space: NeuroSpace | AnyArray | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Parcellation:
        """Give parcels other names or a narrower mask, or check that they fit a grid.

        Parameters
        ----------
        names, mask, space, storage_options : object, optional
            See `from_labels`.

        Raises
        ------
        InvalidInputError
            If they do not fit.
        """
        if isinstance(space, NeuroSpace):
            self.check_grid(space)
        if names is None and mask is None:
            return self
        labels = self.labels
        inside = self.mask
        if mask is not None:
            inside = inside & mask_array(mask, self.space, storage_options=storage_options)
            labels = np.where(inside, labels, 0)
        table = self.table
        if names is not None:
            table = _full_table(names, self.labels, storage_options)
        made = Parcellation(self.space, labels, table, mask=inside, form_codes=self.form_codes)
        made._tell_empty()
        return made

    def _tell_empty(self) -> None:
        empty = np.flatnonzero(np.diff(self.indptr) == 0)
        if len(empty):
            some = ", ".join(self.names[k] for k in empty[:3]) + (", ..." if len(empty) > 3 else "")
            warn(f"{len(empty)} of {len(self)} parcels have no voxels: {some}")

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"Parcellation({len(self)} parcels, {len(self.voxels)} voxels, {self.space!r})"

    def _repr_html_(self) -> str:
        few = 5
        rest = ", ..." if len(self) > few else ""
        facts = {
            "parcels": len(self),
            "names": ", ".join(self.names[:few]) + rest,
            "voxels": f"{len(self.voxels)} of {self.labels.size}",
            "grid": " x ".join(map(str, self.space.spatial_shape)),
            "orientation": self.space.orientation,
        }
        return facts_html("Parcellation", facts, parcels_picture(self))

    @property
    def ids(self) -> NDArray[np.int32]:
        """(K,) ids of the parcels, ascending."""
        return self.table.ids

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parcels."""
        return self.table.names

    @property
    def columns(self) -> Mapping[str, Column]:
        """Further columns of the table, by name."""
        return self.table.columns

    @property
    def voxels(self) -> NDArray[np.int32]:
        """(V, 3) indices (x, y, z) of the labelled voxels, in order of their parcels."""
        return self._voxel_set.voxels

    @property
    def voxel_set(self) -> VoxelSet:
        """The labelled voxels as numbered rows."""
        return self._voxel_set

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(K,) number of voxels of each parcel."""
        return np.diff(self.indptr)

    @cached_property
    def parcel_of(self) -> NDArray[np.int64]:
        """(V,) position of the parcel that each voxel belongs to."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def index(self, key: Any) -> int:
        """Position of a parcel that is given by its id or name; see `find_parcel`."""
        return find_parcel(self.table, key)

    def rows(self, key: Any) -> slice:
        """Range of a parcel's voxels in `voxels`."""
        k = self.index(key)
        return slice(int(self.indptr[k]), int(self.indptr[k + 1]))

    def to_volume(self, values: Any, *, fill: Any = 0) -> AnyArray:
        """Put one value for each parcel onto the grid.

        Parameters
        ----------
        values : array_like, (K,) or (T, K)
            In order of `ids`, or with the time first, as summaries have them. The index of a
            pandas Series, or the columns of a data frame, say which parcel is meant.
        fill : scalar
            For voxels without a label.

        Returns
        -------
        ndarray, (X, Y, Z) or (X, Y, Z, T)

        Raises
        ------
        InvalidInputError
            If there is not one value for each parcel, or they are labelled as other parcels.
        """
        found = self.table.in_order(values)
        if found.dtype.kind not in "biufc":
            raise InvalidInputError(
                f"values of type {found.dtype}: convert them with .astype(float)"
            )
        if found.ndim not in (1, 2) or found.shape[-1] != len(self):
            raise InvalidInputError(
                f"values of shape {found.shape}: expected ({len(self)},) or (T, {len(self)}), one "
                "for each parcel"
            )
        dtype = np.result_type(found, np.min_scalar_type(fill))
        grid = np.full((*self.space.spatial_shape, *found.shape[:-1]), fill, dtype)
        grid[tuple(self.voxels.T)] = found[..., self.parcel_of].T
        return grid

    def inverse_transform(self, values: Any, *, fill: Any = 0) -> AnyArray:
        """Put one value for each parcel onto the grid: `to_volume`, by nilearn's name for it."""
        return self.to_volume(values, fill=fill)

    def to_nibabel(
        self, values: Any = None, *, fill: Any = 0, tr: float | None = None
    ) -> nibabel.Nifti1Image:
        """One value for each parcel as a nibabel image, or the labels themselves.

        Parameters
        ----------
        values, fill : object
            See `to_volume`; the labels by default.
        tr : float, optional
            Seconds between the rows of values (T, K).

        Returns
        -------
        nibabel.Nifti1Image
            With the codes of the label image's sform and qform.
        """
        import nibabel

        library: Any = nibabel
        grid = self.labels if values is None else self.to_volume(values, fill=fill)
        space = self.space if grid.ndim == 3 else self.space.with_time(grid.shape[3], tr=tr)
        if grid.dtype.kind == "b":
            grid = grid.astype(np.uint8)
        elif grid.dtype in (np.int64, np.uint64, np.float16):
            plain = grid.astype(np.float64)
            exact = grid.dtype == np.float16 or np.abs(plain).max(initial=0) <= _LARGEST_EXACT
            grid = plain if exact else grid
        header: Any = space.to_header(grid.dtype)
        if self.form_codes is not None:
            header["sform_code"], header["qform_code"] = self.form_codes
        made: nibabel.Nifti1Image = library.Nifti1Image(grid, space.affine, header)
        return made

    def plot(
        self,
        values: Any = None,
        *,
        voxel: Sequence[int] | None = None,
        colors: Any = None,
        window: tuple[float, float] | None = None,
        figure: Any = None,
    ) -> dict[str, Any]:
        """Draw the parcels with matplotlib, or one value for each of them; left is on the left.

        Parameters
        ----------
        values : array_like, (K,), optional
            See `to_volume`; a colour for each parcel by default.
        voxel : (x, y, z), optional
            Through which slices go; the middle of the parcels by default.
        colors, window, figure
            As of `NeuroVec.plot`.

        Returns
        -------
        dict of str to matplotlib.axes.Axes
            ``"sagittal"``, ``"coronal"``, ``"axial"``.

        Raises
        ------
        InvalidInputError
            If there is not one value for each parcel.
        DependencyError
            If matplotlib is not installed.
        """
        drawing: Any = importlib.import_module(_DRAWING)
        found = None if values is None else self.table.in_order(values)
        if found is not None and found.shape != (len(self),):
            raise InvalidInputError(f"values of shape {found.shape}: expected ({len(self)},)")
        look = drawing.Look(voxel, colors, window, figure)
        axes: dict[str, Any] = drawing.plot_parcels(self, found, look)
        return axes

    def check_grid(self, space: NeuroSpace) -> None:
        """Check that an image lies on the grid of the labels.

        Raises
        ------
        InvalidInputError
            If it does not.
        """
        if self.space.spatial_shape != space.spatial_shape:
            raise InvalidInputError(
                other_shape("the label image", self.space.spatial_shape, space.spatial_shape)
            )
        if not self.space.same_grid(space):
            raise InvalidInputError(apart("labels", space, self.space))

    def same_as(self, other: Parcellation) -> bool:
        """Return whether two parcellations have the same ids, names and voxels on the same grid."""
        return (
            self.space.same_grid(other.space)
            and self.names == other.names
            and np.array_equal(self.ids, other.ids)
            and np.array_equal(self.labels, other.labels)
        )


def parcels_picture(parcellation: Parcellation) -> str:
    """HTML of the axial slice with the most labelled voxels, a colour for each parcel."""
    space = parcellation.space
    through = display_axes(space.affine)[2].axis
    others = tuple(a for a in range(3) if a != through)
    most = int((parcellation.labels != 0).sum(axis=others).argmax())
    return slice_picture(label_colors(np.take(parcellation.labels, most, axis=through)), space)


def find_parcel(table: LabelTable, key: Any) -> int:
    """Position of a parcel in a table.

    Parameters
    ----------
    table : LabelTable
        The parcels.
    key : int or str
        Id, or name if only one parcel has it.

    Raises
    ------
    SelectionError
        If there is no such parcel, or several have the name.
    """
    if isinstance(key, str):
        found = [k for k, name in enumerate(table.names) if name == key]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(str(table.ids[k]) for k in found)
            raise SelectionError(f"{len(found)} parcels are called {key!r}: use an id ({ids})")
        near = difflib.get_close_matches(key, table.names, n=3)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise SelectionError(f"no parcel is called {key!r}{hint}")
    if isinstance(key, bool | np.bool_) or not isinstance(key, int | np.integer):
        raise SelectionError(f"{key!r} is neither the id nor the name of a parcel")
    k = int(np.searchsorted(table.ids, key))
    if k == len(table) or table.ids[k] != key:
        raise SelectionError(f"no parcel has the id {key}")
    return k


def find_parcels(table: LabelTable, keys: Iterable[Any]) -> NDArray[np.int64]:
    """Positions of several parcels, (n,); see `find_parcel`."""
    return np.array([find_parcel(table, key) for key in keys], np.int64)


def _full_table(
    names: Any, labels: NDArray[np.int32], storage_options: Mapping[str, Any] | None
) -> LabelTable:
    """Table of the ids that a user names and of those that occur."""
    present = np.unique(labels)
    present = present[present != 0]
    table = read_table(names, present, storage_options)
    nameless = np.setdiff1d(present, table.ids)
    if len(table) and len(nameless) and not isinstance(names, Mapping | LabelTable):
        some = ", ".join(map(str, nameless[:3])) + (", ..." if len(nameless) > 3 else "")
        warn(
            f"{len(nameless)} of {len(present)} labels of the image are not in the table ({some}) "
            f"and are called 'Parcel {nameless[0]}', ...: is it the table of another atlas?"
        )
    return table.with_ids(np.union1d(table.ids, present).astype(np.int32))


def _whole_numbers(values: AnyArray, url: str | None) -> NDArray[np.int32]:
    """Labels as int32, if they are labels."""
    if values.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"labels must be whole numbers, not {values.dtype}: convert them with .astype(int)",
            url=url,
        )
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        hint = ""
        if values.ndim == 4:
            hint = (
                "; of maps of probabilities take the largest, such as numpy.where(maps.max(-1) > "
                "0.25, maps.argmax(-1) + 1, 0), or store them as a LabeledVolumeSet"
            )
        raise InvalidInputError(
            f"a label image has the shape (X, Y, Z), not {values.shape}{hint}", url=url
        )
    if values.dtype.kind == "f":
        values = _rounded(values, url)
    if values.size and (values.min() < 0 or values.max() > _LARGEST_ID):
        raise InvalidInputError(
            f"labels from {values.min()} to {values.max()}: expected 0 (background) to "
            f"{_LARGEST_ID}; set to 0 what is no label, numpy.where(labels > 0, labels, 0), and "
            "number others from 1, as numpy.unique(labels, return_inverse=True) does",
            url=url,
        )
    return values.astype(np.int32)


def _rounded(values: AnyArray, url: str | None) -> AnyArray:
    """Labels of floating point as whole numbers; NaN is background."""
    values = np.where(np.isnan(values), 0, values).astype(np.float64, copy=False)
    if np.isinf(values).any():
        raise InvalidInputError("some labels are infinite", url=url)
    whole: AnyArray = np.rint(values)
    off = float(np.abs(values - whole).max(initial=0))
    if off > _TOLERANCE:
        raise InvalidInputError(
            f"some labels are not whole numbers (by {off:.3g}): this is no label image, or it was "
            "resampled with interpolation; resample it to the nearest neighbour",
            url=url,
        )
    if off:
        warn(f"labels were rounded to whole numbers, by up to {off:.2g}")
    return whole


def _common_grid(
    labels: NDArray[np.int32],
    grid: NeuroSpace | None,
    space: NeuroSpace | AnyArray | None,
    url: str | None,
) -> NeuroSpace:
    if space is None:
        if grid is None:
            raise InvalidInputError("an array of labels needs space=: a NeuroSpace or an affine")
        return grid.without_time()
    if not isinstance(space, NeuroSpace):
        if grid is not None:
            raise InvalidInputError("an affine is for arrays: a label image has its own", url=url)
        x, y, z = labels.shape
        return NeuroSpace(spatial_shape=(x, y, z), affine=space)
    if labels.shape != space.spatial_shape:
        raise InvalidInputError(
            other_shape("the label image", labels.shape, space.spatial_shape), url=url
        )
    if grid is not None and not space.same_grid(grid):
        raise InvalidInputError(apart("labels", space, grid), url=url)
    return space.without_time()
