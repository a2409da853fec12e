"""A format of another package: two fitted parameters in each voxel of a mask, in two layouts.

Its own layout is a matrix of voxels and parameters. The other one is that of a program which
writes a flat dataset for each parameter into an HDF5 file, and a list of voxels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from fmristore import NeuroSpace, StoreOptions
from fmristore.formats import (
    ArrayMatrix,
    Fill,
    Layout,
    Matrix,
    MemoryMatrix,
    NativeLayout,
    Progress,
    StoredArray,
    StoreView,
    Target,
    VoxelSet,
    VoxelView,
    format_attributes,
    mask_shape,
    read_grid,
    register,
    space_attributes,
    store_as,
    takes,
    write_encoded,
    write_plain,
)
from fmristore.stores import Handle, Store

__all__ = ["FitGrid"]

PARAMETERS = ("amplitude", "delay")


@dataclass(frozen=True, slots=True, eq=False)
class FitContent:
    """What a `FitGrid` is made of: a grid, its voxels, and a matrix (V, 2)."""

    space: NeuroSpace
    voxels: VoxelSet
    matrix: Matrix


class FitLayout(NativeLayout):
    """The format's own layout."""

    def read(self, handle: Handle) -> FitContent:
        """Docstring inherited."""
        space = read_grid(handle, mask_shape(handle))
        mask = StoredArray(handle, "mask").read_small(1 << 30).transpose(2, 1, 0) != 0
        matrix = ArrayMatrix(StoredArray(handle, "0"), "voxel")
        return FitContent(space, VoxelSet.from_mask(mask, space), matrix)

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        del progress
        space, voxels, values = content
        mask = voxels.mask.transpose(2, 1, 0).astype(np.uint8)
        write_encoded(store.root, "mask", ("z", "y", "x"), mask, options.codec)
        write_encoded(store.root, "0", ("voxel", "parameter"), values, options.codec)
        store.root.write_attributes(format_attributes("fits") | space_attributes(space))


class FlatLayout(Layout):
    """A dataset for each parameter, as another program writes them; HDF5 only."""

    name = "flat"
    stores = frozenset({"hdf5"})

    def detect(self, view: StoreView) -> bool:
        """Docstring inherited."""
        return {"grid", "where", *PARAMETERS} <= set(view.children)

    def read(self, handle: Handle) -> FitContent:
        """Docstring inherited."""
        x, y, z = StoredArray(handle, "grid").read_small(3).tolist()
        space = NeuroSpace(spatial_shape=(x, y, z), affine=np.eye(4))
        voxels = VoxelSet(space, StoredArray(handle, "where").read_small(3 * x * y * z))
        columns = [StoredArray(handle, name).read_small(len(voxels)) for name in PARAMETERS]
        return FitContent(space, voxels, MemoryMatrix(np.stack(columns, axis=1)))

    def write(
        self, store: Store, content: Any, options: Any, *, progress: Progress | None = None
    ) -> None:
        """Docstring inherited."""
        del options, progress
        space, voxels, values = content
        write_plain(store.root, "grid", (), np.array(space.spatial_shape, np.int32))
        write_plain(store.root, "where", (), voxels.voxels)
        for column, name in enumerate(PARAMETERS):
            write_plain(store.root, name, (), np.ascontiguousarray(values[:, column]))


@register("fits")
class FitGrid(VoxelView):
    """Amplitude and delay in each voxel of a mask, indexed ``[x, y, z, parameter]``.

    Parameters
    ----------
    handle : Handle
        The store.
    content : FitContent, optional
        What it is made of; found in the format's own layout by default.
    """

    holds = "two fitted parameters in each voxel of a mask"
    use_when = "a response was fitted in every voxel"
    axes = ("x", "y", "z", "parameter")
    layouts: ClassVar[tuple[Layout, ...]] = (FitLayout("fits"), FlatLayout())

    def __init__(self, handle: Handle, content: FitContent | None = None) -> None:
        super().__init__(handle)
        self._content: FitContent = self.layouts[0].read(handle) if content is None else content

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world."""
        return self._content.space

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, 2)."""
        return (*self.space.spatial_shape, len(PARAMETERS))

    @cached_property
    def voxel_set(self) -> VoxelSet:
        """Voxels that were fitted."""
        return self._content.voxels

    @property
    def matrix(self) -> Matrix:
        """Stored values, (V, 2)."""
        return self._content.matrix

    @property
    def fill(self) -> Fill:
        """Value read for other voxels."""
        return float("nan")

    @classmethod
    @takes(StoreOptions)
    def create(
        cls,
        source: NDArray[Any],
        url: str | os.PathLike[str],
        *,
        mask: NDArray[Any],
        space: NeuroSpace,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Store fits (V, 2) of the voxels of a mask, x fastest, and open them.

        Parameters
        ----------
        source : ndarray, (V, 2)
            Parameters of each voxel.
        url : str or path
            New store.
        mask : ndarray of bool, (X, Y, Z)
            Voxels that were fitted.
        space : NeuroSpace
            Grid.
        **options
            `StoreOptions`.
        """
        target = Target.of(url, options)
        content = space, VoxelSet.from_mask(mask, space), source
        made: Self = store_as(cls, target, content, target.matrix())
        return made

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        values = np.asarray(self.matrix)
        return (values,), {"mask": self.mask, "space": self.space}
