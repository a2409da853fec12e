"""Common base of scans of both kinds: a parcellation, times, metadata."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fmristore.formats.base import (
    MetadataHolder,
    StoredArray,
    describe_parcels,
    describe_space,
)
from fmristore.formats.parcellated.layout import ScanContent, ScanKind
from fmristore.formats.registry import Layout
from fmristore.model.space import NeuroSpace
from fmristore.sources.labels import LabelTable
from fmristore.sources.parcellation import Parcellation, find_parcel, parcels_picture
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ParcellatedBase"]


class ParcellatedBase(MetadataHolder):
    """A stored scan, cut into parcels.

    Parameters
    ----------
    handle : Handle
        Store that holds the scan.
    content : ScanContent, optional
        Its contents in the store; by default the store holds this one scan.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """

    kind: ClassVar[ScanKind]
    layouts: ClassVar[tuple[Layout, ...]]

    def __init__(self, handle: Handle, content: ScanContent | None = None) -> None:
        super().__init__(handle)
        self._content: ScanContent = self.layouts[0].read(handle) if content is None else content

    @property
    def name(self) -> str:
        """Name of the scan."""
        return self._content.name

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Other facts about the scan."""
        return MappingProxyType(dict(self._content.read_metadata()))

    def to_table(
        self,
        url: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one series for each parcel as a table.

        Parameters
        ----------
        url : str or path
            ``.tsv`` as BIDS has ``_timeseries.tsv``: a column for each parcel, ``n/a`` for missing
            values, and a ``.json`` beside it with the repetition time and the parcels' ids.
            ``.csv`` and ``.parquet`` have times as their index.
        overwrite : bool
            Replace what is there, once the new file is complete.
        storage_options : mapping, optional
            Passed to fsspec.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If the name ends in something else.
        DependencyError
            If pandas, or for Parquet pyarrow, is not installed.
        """
        from fmristore.interop.pandas import write_table

        write_table(
            self.to_dataframe(),
            url,
            sidecar=self.table.sidecar(
                tr=self.tr,
                statistic=self._content.statistic or "mean",
                start=self.space.time_offset,
            ),
            overwrite=overwrite,
            storage_options=storage_options,
        )

    @abstractmethod
    def to_dataframe(self) -> pd.DataFrame:
        """One series for each parcel as a pandas data frame."""

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, number of times and TR."""
        return self._content.space

    @property
    def affine(self) -> AnyArray:
        """(4, 4) float64: voxel indices (0-based) to mm, RAS+."""
        return self._content.space.affine

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if unknown."""
        return self._content.space.tr

    @property
    def time_points(self) -> int:
        """Number of volumes."""
        return self._content.data.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the data."""
        return self._content.data.dtype

    @cached_property
    def table(self) -> LabelTable:
        """Ids, names and further columns of the parcels."""
        return self._content.tree.table

    @cached_property
    def parcellation(self) -> Parcellation:
        """The parcels and their voxels; read once, when first asked for."""
        return self._content.tree.parcellation()

    @property
    def ids(self) -> NDArray[np.int32]:
        """(K,) ids of the parcels, ascending."""
        return self.table.ids

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parcels."""
        return self.table.names

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return self._content.arrays

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        count, times = self._content.data.shape
        facts: dict[str, Any] = {
            "scan": self.name,
            "kind": self.kind,
            "statistic": self._content.statistic,
            "shape": list(self.space.shape) if self.kind == "full" else [times, count],
            "dtype": str(self.dtype),
            "space": describe_space(self.space),
            "parcels": describe_parcels(self.table),
        }
        if self.kind == "full":
            of = math.prod(self.space.spatial_shape)
            facts["mask"] = {"voxels": count, "of": of}
        return self._described(facts)

    def check(self) -> None:
        """Docstring inherited."""
        self.parcellation  # noqa: B018 - reading it checks it

    def index(self, key: Any) -> int:
        """Position of a parcel that is given by its id or name.

        Raises
        ------
        SelectionError
            If there is no such parcel, or several have the name.
        """
        return find_parcel(self.table, key)

    def _picture(self) -> str:
        return parcels_picture(self.parcellation)

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self,), {
            "parcellation": self.parcellation,
            "name": self.name,
            "metadata": self.metadata,
        }
