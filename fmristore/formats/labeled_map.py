"""One map of a set, as an image of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fmristore.indexing import parse_selection
from fmristore.space import NeuroSpace

if TYPE_CHECKING:
    from fmristore.formats.labeledvolumeset import LabeledVolumeSet

__all__ = ["LabeledMap"]


class LabeledMap:
    """One map of a `LabeledVolumeSet`, indexed ``[x, y, z]``; it is closed with the set.

    Parameters
    ----------
    maps : LabeledVolumeSet
        The set.
    number : int
        Of the map in it.
    """

    def __init__(self, maps: LabeledVolumeSet, number: int) -> None:
        self._maps = maps
        self._number = number

    @property
    def label(self) -> str:
        """Its label."""
        return self._maps.labels[self._number]

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world."""
        return self._maps.space

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z)."""
        return self._maps.shape[:3]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self._maps.dtype

    def __getitem__(self, index: Any) -> Any:
        """Read a part of the map.

        Raises
        ------
        SelectionError
            If the index does not fit the map.
        """
        selection = parse_selection(index, self.shape)
        return selection.apply(self._maps.read((*selection.region, self._number)))

    def to_nifti(self, url: str | os.PathLike[str], **options: Any) -> None:
        """Write the map as NIfTI.

        Parameters
        ----------
        url : str or path
            ``.nii``, ``.nii.gz``, or ``.hdr``/``.img`` for a pair.
        **options
            As of `LabeledVolumeSet.to_nifti`.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and ``overwrite`` is not given.
        """
        self._maps.to_nifti(url, label=self._number, **options)

    def __repr__(self) -> str:
        return f"LabeledMap({self.label!r} of {self._maps!r})"
