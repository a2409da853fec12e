"""Series of several scans, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.model.space import NeuroSpace
from fmristore.planning.text import counted
from fmristore.sources.labels import LabelTable
from fmristore.sources.parcellation import find_parcel, find_parcels
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ConcatenatedScans", "concatenate"]


@dataclass(frozen=True, slots=True, eq=False)
class ConcatenatedScans:
    """Series of several scans, one after the other.

    Parameters
    ----------
    values : ndarray, (T, n)
        T is the sum over scans; a column for each parcel or voxel. (T,) for one voxel.
    boundaries : ndarray of int, (scans + 1,)
        Scan i has the rows ``boundaries[i]:boundaries[i + 1]``.
    scan_names : tuple of str
        In order.
    trs : tuple of float or None
        Repetition time of each scan in seconds, None where it is unknown.
    table : LabelTable, optional
        The parcels; None for voxels.
    times : tuple of ndarray or None
        Times of the rows of each scan in seconds, None where they are unknown.
    """

    values: AnyArray
    boundaries: NDArray[np.int64]
    scan_names: tuple[str, ...]
    trs: tuple[float | None, ...]
    table: LabelTable | None = None
    times: tuple[AnyArray | None, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the parcels; empty for voxels."""
        return () if self.table is None else self.table.names

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if it is unknown or not the same in all scans."""
        return self.trs[0] if len(set(self.trs)) == 1 else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `values`."""
        return tuple(self.values.shape)

    def __repr__(self) -> str:
        times, columns = self.shape
        scans = counted(len(self.scan_names), "scan")
        return f"{type(self).__name__}({times} x {columns}, {scans})"

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        """A part of `values`, the series of a parcel by its name, or of a list of them.

        Raises
        ------
        SelectionError
            If there is no such parcel, or several have the name.
        """
        if self.table is None or not isinstance(index, str | list):
            return self.values[index]
        if isinstance(index, str):
            return self.values[:, find_parcel(self.table, index)]
        return self.values[:, find_parcels(self.table, index)]

    def split(self) -> dict[str, AnyArray]:
        """Rows of each scan, by its name."""
        parts = np.split(self.values, self.boundaries[1:-1])
        return dict(zip(self.scan_names, parts, strict=True))

    def to_numpy(self) -> AnyArray:
        """The same as `values`."""
        return self.values

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def to_dataframe(self) -> pd.DataFrame:
        """Pandas data frame, indexed by scan, and time in seconds where that is known.

        Returns
        -------
        pandas.DataFrame
            Indexed by scan and volume if the repetition time of a scan is unknown.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        from fmristore.interop.pandas import series_frame

        lengths = np.diff(self.boundaries).tolist()
        runs = list(zip(self.scan_names, lengths, self.times, strict=True))
        return series_frame(self.values, self.columns, runs=runs)


def concatenate(
    parts: Sequence[AnyArray],
    names: Sequence[str],
    spaces: Sequence[NeuroSpace],
    table: LabelTable | None = None,
) -> ConcatenatedScans:
    """Put series of scans behind each other.

    Raises
    ------
    InvalidInputError
        If there are none.
    """
    if not parts:
        raise InvalidInputError("there is no such scan to concatenate")
    boundaries = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return ConcatenatedScans(
        np.concatenate(parts),
        boundaries,
        tuple(names),
        tuple(space.tr for space in spaces),
        table,
        tuple(space.times for space in spaces),
    )
