"""Reading labelled maps: by label, by voxel, or as an array with an axis of maps."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.labeled_parts import LabeledParts, read_labeled_parts, read_texts
from fmristore.formats.map_stack import check_labels
from fmristore.formats.masked import MaskedObject
from fmristore.indexing import parse_selection
from fmristore.space import NeuroSpace
from fmristore_stores.errors import InvalidInputError, MetadataError, SelectionError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray

__all__ = ["ReadableMaps"]


class ReadableMaps(MaskedObject):
    """Stored maps on one grid, indexed by label, or ``[x, y, z, map]`` as an array.

    Parameters
    ----------
    handle : Handle
        The store.
    parts : LabeledParts, optional
        Where in it the parts are; the root group is the set by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """

    axes = ("x", "y", "z", "label")

    def __init__(self, handle: Handle, parts: LabeledParts | None = None) -> None:
        self._parts = read_labeled_parts(handle) if parts is None else parts
        super().__init__(handle, self._parts.nodes)

    # What it is -----------------------------------------------------------------------------

    @property
    def space(self) -> NeuroSpace:
        """Grid of the maps in the world."""
        return self._nodes.space

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, L) for L maps."""
        return (*self.space.spatial_shape, self._parts.count)

    @property
    def ndim(self) -> int:
        """Number of axes, 4."""
        return len(self.axes)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self._parts.maps.dtype

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels of the maps in stored order; read when they are first needed.

        Raises
        ------
        MetadataError
            If they are damaged.
        """
        labels = read_texts(self._handle, self._parts.labels, self._parts.count)
        try:
            return check_labels(labels)
        except InvalidInputError as error:
            raise MetadataError(
                f"the labels are damaged: {error.message}",
                url=self._handle.locator.url,
                node=self._parts.labels,
            ) from error

    def __len__(self) -> int:
        return self._parts.count

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __contains__(self, label: object) -> bool:
        return label in self.labels

    # Reading --------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        return self.volume(index) if isinstance(index, str) else self.read(index)

    def volume(self, label: str | int, *, dtype: DTypeLike | None = None) -> AnyArray:
        """One map, (X, Y, Z).

        Parameters
        ----------
        label : str or int
            Its label or number; negative numbers count from the end.
        dtype : dtype, optional
            Type to return instead of `dtype`.

        Raises
        ------
        SelectionError
            If there is no such map.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        return cast("AnyArray", self.read((..., self._number(label)), dtype=dtype))

    def voxel(self, x: int, y: int, z: int, *, dtype: DTypeLike | None = None) -> AnyArray:
        """Numbers of all maps in one voxel, (L,).

        Raises
        ------
        SelectionError
            If it lies outside the grid.
        """
        try:
            index = operator.index(x), operator.index(y), operator.index(z)
        except TypeError as error:
            raise SelectionError(f"voxel {(x, y, z)}: expected three integers") from error
        return cast("AnyArray", self.read(index, dtype=dtype))

    def read(self, index: Any = Ellipsis, *, dtype: DTypeLike | None = None) -> Any:
        """Read a part of the maps; voxels outside the mask are `fill`.

        Parameters
        ----------
        index : int, slice, Ellipsis, None or tuple of them
            numpy's basic indexing, axes (x, y, z, map); the last entry may be a label.
        dtype : dtype, optional
            Type to return instead of `dtype`.

        Returns
        -------
        ndarray or numpy scalar
            A scalar if every axis is given.

        Raises
        ------
        SelectionError
            If the index does not fit the maps.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        if isinstance(index, tuple) and index and isinstance(index[-1], str):
            index = (*index[:-1], self._number(index[-1]))
        selection = parse_selection(index, self.shape)
        inside, rows = self._rows(selection.region[:3])
        values = self._parts.maps.read(selection.region[3], rows)
        if dtype is not None:
            values = values.astype(dtype, copy=False)
        return selection.apply(self._on_grid(inside, values, fill=self.fill))

    def to_numpy(self, *, dtype: DTypeLike | None = None) -> AnyArray:
        """Numbers of all maps in the stored voxels, (L, V), in the order of `voxels`."""
        rows = np.arange(self._nodes.count)
        values = self._parts.maps.read(slice(0, len(self), 1), rows).T
        return values if dtype is None else values.astype(dtype, copy=False)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("stored maps cannot become an array without a copy")
        return cast("AnyArray", self.read(dtype=dtype))

    def _number(self, label: str | int) -> int:
        """Number of a map."""
        if isinstance(label, str):
            if label not in self.labels:
                known = ", ".join(repr(known[:80]) for known in self.labels[:5])
                more = ", ..." if len(self) > 5 else ""
                raise SelectionError(
                    f"there is no map {label[:80]!r}; there are {known}{more}", url=self.url
                )
            return self.labels.index(label)
        (part,) = parse_selection(label, (len(self),)).region
        if not hasattr(label, "__index__"):
            raise SelectionError(f"{label!r} is not the label or number of a map")
        return int(part.start)
