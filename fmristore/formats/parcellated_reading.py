"""Reading scans that share one parcellation: by name, or the series through several of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.base import BorrowedHandle, StoredObject
from fmristore.formats.parcellated_concat import ConcatenatedScans, concatenate
from fmristore.formats.parcellated_parts import OwnTree, ScanTree
from fmristore.formats.parcellatedscan import ParcellatedScan
from fmristore.formats.parcellatedsummary import ParcellatedScanSummary
from fmristore.labeltable import LabelTable
from fmristore.parcellation import Parcellation
from fmristore.space import NeuroSpace
from fmristore_stores.errors import InvalidInputError, SelectionError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray

__all__ = ["ReadableScans"]


class ReadableScans(StoredObject):
    """Stored scans of either kind that share one parcellation, as a mapping from their names.

    Parameters
    ----------
    handle : Handle
        Store that holds the scans.
    tree : ScanTree, optional
        How they are arranged; as fmristore does by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """

    def __init__(self, handle: Handle, tree: ScanTree | None = None) -> None:
        super().__init__(handle)
        self._tree: ScanTree = OwnTree(handle) if tree is None else tree
        self.scan_names  # noqa: B018 - damage shows on opening

    # What it is -----------------------------------------------------------------------------

    @property
    def scan_names(self) -> tuple[str, ...]:
        """Names of the scans, in the order in which they were added."""
        return self._tree.scan_names

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world."""
        return self._tree.space

    @property
    def affine(self) -> AnyArray:
        """(4, 4) float64: voxel indices (0-based) to mm, RAS+."""
        return self._tree.space.affine

    @cached_property
    def table(self) -> LabelTable:
        """Ids, names and further columns of the parcels."""
        return self._tree.table

    @cached_property
    def parcellation(self) -> Parcellation:
        """The parcels and their voxels; read once, when first asked for."""
        return self._tree.parcellation()

    @property
    def ids(self) -> NDArray[np.int32]:
        """(K,) ids of the parcels, ascending."""
        return self.table.ids

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parcels."""
        return self.table.names

    # Scans ----------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> ParcellatedScan | ParcellatedScanSummary:
        """Open a scan; it closes with this object.

        Raises
        ------
        SelectionError
            If there is none of that name.
        MetadataError
            If it is damaged.
        """
        if not isinstance(name, str):
            raise SelectionError(f"scans are found by name, not by {name!r}", url=self.url)
        handle = self._lend()
        parts = type(self._tree)(handle).scan(name)
        if parts.kind == "full":
            return ParcellatedScan(handle, parts)
        return ParcellatedScanSummary(handle, parts)

    def _lend(self) -> Handle:
        """A hold on the store for one scan."""
        return BorrowedHandle(self._handle)

    def __len__(self) -> int:
        return len(self.scan_names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.scan_names)

    def __contains__(self, name: object) -> bool:
        return name in self.scan_names

    def keys(self) -> tuple[str, ...]:
        """Names of the scans, as `scan_names`."""
        return self.scan_names

    def values(self) -> Iterator[ParcellatedScan | ParcellatedScanSummary]:
        """The scans, opened one after the other."""
        return (self[name] for name in self.scan_names)

    def items(self) -> Iterator[tuple[str, ParcellatedScan | ParcellatedScanSummary]]:
        """Names and scans, opened one after the other."""
        return ((name, self[name]) for name in self.scan_names)

    def concat(
        self, scans: Sequence[str] | None = None, *, statistic: Any = "mean"
    ) -> ConcatenatedScans:
        """Series of the parcels through several scans.

        Parameters
        ----------
        scans : sequence of str, optional
            Which, in this order; all by default.
        statistic : str or callable
            What scans of voxels are summarised by; see `ParcellatedScan.summary`.

        Returns
        -------
        ConcatenatedScans
            Values (T, K), and which rows belong to which scan.

        Raises
        ------
        SelectionError
            If there is no such scan.
        InvalidInputError
            If there are no scans at all.
        """
        parts, trs = [], []
        for name in self._chosen(scans):
            scan = self[name]
            trs.append(scan.tr)
            parts.append(
                scan.to_numpy()
                if isinstance(scan, ParcellatedScanSummary)
                else scan.summary(statistic)
            )
        return concatenate(parts, self._chosen(scans), trs, self.table)

    def series(
        self,
        voxels: Any = None,
        *,
        mask: Any = None,
        scans: Sequence[str] | None = None,
        dtype: DTypeLike | None = None,
    ) -> ConcatenatedScans:
        """Series of voxels through several scans that hold voxels.

        Parameters
        ----------
        voxels, mask : object
            As for `ParcellatedScan.series`.
        scans : sequence of str, optional
            Which, in this order; all that hold voxels by default.
        dtype : dtype, optional
            Type to return.

        Returns
        -------
        ConcatenatedScans
            Values (T, n), or (T,) for one voxel.

        Raises
        ------
        SelectionError
            If there is no such scan, or a voxel lies outside the grid.
        InvalidInputError
            If a scan holds no voxels, or none does.
        """
        parts, names, trs = [], [], []
        for name in self._chosen(scans):
            scan = self[name]
            if isinstance(scan, ParcellatedScan):
                parts.append(scan.series(voxels, mask=mask, dtype=dtype))
                names.append(name)
                trs.append(scan.tr)
            elif scans is not None:
                raise InvalidInputError(f"scan {name!r} is a summary: it holds no voxels")
        return concatenate(parts, names, trs)

    def _chosen(self, scans: Sequence[str] | None) -> tuple[str, ...]:
        if isinstance(scans, str):
            raise InvalidInputError(f"scans must be a list of names, not {scans!r}")
        return self.scan_names if scans is None else tuple(scans)
