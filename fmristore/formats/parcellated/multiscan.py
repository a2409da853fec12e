"""Several named scans that share a parcellation.

The class is whole here, docstrings with it, which makes the module long.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.base import (
    BorrowedHandle,
    StoredArray,
    StoredObject,
    describe_parcels,
    describe_scan,
    describe_space,
)
from fmristore.formats.options import Target
from fmristore.formats.parcellated.concat import ConcatenatedScans, concatenate
from fmristore.formats.parcellated.edit import add_requests, remove_scan
from fmristore.formats.parcellated.inputs import (
    ScanInput,
    array_options,
    create_scans,
    make_parcellation,
    scan_requests,
)
from fmristore.formats.parcellated.layout import OwnTree, ParcellatedLayout, ScanTree
from fmristore.formats.parcellated.r import RParcellatedLayout
from fmristore.formats.parcellated.scan import ParcellatedScan
from fmristore.formats.parcellated.summary import ParcellatedScanSummary
from fmristore.formats.registry import Layout, register
from fmristore.model.space import NeuroSpace
from fmristore.planning.options import StoreOptions, takes
from fmristore.planning.progress import Progress
from fmristore.planning.text import counted, parse_size
from fmristore.sources.door import in_order
from fmristore.sources.labels import LabelTable
from fmristore.sources.parcellation import Parcellation, parcels_picture
from fmristore_stores.errors import (
    ChangedError,
    FmristoreError,
    InvalidInputError,
    ReadOnlyError,
    SelectionError,
)
from fmristore_stores.io.alive import AliveSet
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import pandas as pd
    import xarray

__all__ = [
    "ParcellatedMultiScan",
]


@register("parcellatedmultiscan")
class ParcellatedMultiScan(StoredObject):
    """Named scans of either kind that share one parcellation; more can be added.

    Behaves as a mapping from names to scans. Opening one touches no other.

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

    Examples
    --------
    >>> import fmristore as fs
    >>> multi = fs.ParcellatedMultiScan.create(                               # doctest: +SKIP
    ...     {}, "sub-01.h5", parcellation="atlas.nii.gz"
    ... )
    >>> multi.add_scan("rest", "rest_bold.nii.gz", statistic="mean")          # doctest: +SKIP
    >>> multi["rest"].to_numpy()                                              # doctest: +SKIP
    """

    holds = "named scans of either parcellated kind that share one parcellation"
    use_when = "scans of a subject or study belong in one container and more will come"

    layouts: ClassVar[tuple[Layout, ...]] = (
        ParcellatedLayout("parcellatedmultiscan"),
        RParcellatedLayout(),
    )

    def __init__(self, handle: Handle, tree: ScanTree | None = None) -> None:
        super().__init__(handle)
        self._tree: ScanTree = self.layouts[0].read(handle) if tree is None else tree
        self.scan_names  # noqa: B018 - damage shows on opening
        self._former: AliveSet[Handle] = AliveSet()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_former": AliveSet()}

    def close(self) -> None:
        """Release the store; neither this object nor its scans can be read from then on."""
        super().close()
        for handle in self._former:
            handle.close()

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
        handle = BorrowedHandle(self._handle)
        content = type(self._tree)(handle).scan(name)
        if content.kind == "full":
            return ParcellatedScan(handle, content)
        return ParcellatedScanSummary(handle, content)

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
        parts, spaces = [], []
        for name in self._chosen(scans):
            scan = self[name]
            spaces.append(scan.space)
            parts.append(
                scan.to_numpy()
                if isinstance(scan, ParcellatedScanSummary)
                else scan.summary(statistic)
            )
        return concatenate(parts, self._chosen(scans), spaces, self.table)

    def to_dataframe(
        self, scans: Sequence[str] | None = None, *, statistic: Any = "mean"
    ) -> pd.DataFrame:
        """Series of the parcels through several scans as a pandas data frame.

        Parameters
        ----------
        scans, statistic
            As of `concat`.

        Returns
        -------
        pandas.DataFrame
            Indexed by scan, and time in seconds where that is known, else volume.

        Raises
        ------
        DependencyError
            If pandas is not installed.
        """
        return self.concat(scans, statistic=statistic).to_dataframe()

    def to_table(
        self,
        url: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the series of all scans as one table, whose first columns are scan and time.

        Parameters
        ----------
        url, overwrite, storage_options
            As of `ParcellatedScanSummary.to_table`; export scans one by one for BIDS.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        DependencyError
            If pandas, or for Parquet pyarrow, is not installed.
        """
        from fmristore.interop.pandas import write_table

        joined = self.concat()
        write_table(
            joined.to_dataframe(),
            url,
            sidecar=self.table.sidecar(tr=joined.tr, statistic="mean"),
            overwrite=overwrite,
            storage_options=storage_options,
        )

    def to_xarray(self) -> xarray.DataTree:
        """Lazy tree of xarray with one node for each scan.

        Returns
        -------
        xarray.DataTree
            See `ParcellatedScanSummary.to_xarray`. Can be used after the object was closed.

        Raises
        ------
        DependencyError
            If xarray is not installed.
        """
        from fmristore.interop.datasets import xarray_module

        datasets = {name: scan.to_xarray() for name, scan in self.items()}
        made: xarray.DataTree = xarray_module().tree(datasets)
        return made

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
        parts, names, spaces = [], [], []
        for name in self._chosen(scans):
            scan = self[name]
            if isinstance(scan, ParcellatedScan):
                parts.append(scan.series(voxels, mask=mask, dtype=dtype))
                names.append(name)
                spaces.append(scan.space)
            elif scans is not None:
                raise InvalidInputError(f"scan {name!r} is a summary: it holds no voxels")
        return concatenate(parts, names, spaces)

    def _chosen(self, scans: Sequence[str] | None) -> tuple[str, ...]:
        if isinstance(scans, str):
            raise InvalidInputError(f"scans must be a list of names, not {scans!r}")
        return self.scan_names if scans is None else tuple(scans)

    # What it says of itself ----------------------------------------------------------------

    def plot(
        self, kind: str | None = None, *, scan: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Draw one of the scans with matplotlib.

        Parameters
        ----------
        kind : str, optional
            As of `ParcellatedScanSummary.plot`, or for scans with all voxels as of `NeuroVec.plot`.
        scan : str, optional
            Its name; the first one by default.
        **options
            As of that plot.

        Returns
        -------
        dict of str to matplotlib.axes.Axes

        Raises
        ------
        SelectionError
            If there is no such scan.
        InvalidInputError
            If it has no such plot.
        DependencyError
            If matplotlib is not installed.
        """
        if scan is None and not self.scan_names:
            raise SelectionError("there is no scan to plot", url=self.url)
        chosen = self[self.scan_names[0] if scan is None else scan]
        given: dict[str, Any] = options if kind is None else options | {"kind": kind}
        return chosen.plot(**given)

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the scans."""
        return self.scan_names

    @property
    def parts_folder(self) -> str:
        """Docstring inherited."""
        return "scans" if "scans" in self.root_attributes else ""

    def part(self, name: str) -> ParcellatedScan | ParcellatedScanSummary:
        """Docstring inherited."""
        return self[name]

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return tuple(array for scan in self.values() for array in scan.primary_arrays)

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        scans = list(self.values())
        facts = {
            "space": describe_space(self.space),
            "scans": [
                describe_scan(scan.name, scan.space, scan.dtype) | {"kind": scan.kind}
                for scan in scans
            ],
            "parcels": describe_parcels(self.table),
        }
        return self._described(facts, [a for scan in scans for a in scan.primary_arrays])

    def check(self) -> None:
        """Docstring inherited."""
        self.parcellation  # noqa: B018 - reading it checks it

    def _picture(self) -> str:
        return parcels_picture(self.parcellation)

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        metadata = {name: scan.metadata for name, scan in self.items()}
        return (dict(self.items()),), {"parcellation": self.parcellation, "metadata": metadata}

    def _facts(self) -> dict[str, str]:
        scans = self.scan_names
        shown = ", ".join(scans[:3]) + (", ..." if len(scans) > 3 else "")
        return {
            "scans": counted(len(scans), "scan") + (f": {shown}" if scans else ""),
            "parcels": counted(len(self.table), "parcel"),
            "shape": " x ".join(map(str, self.space.spatial_shape)),
        }

    # Adding and removing --------------------------------------------------------------------

    def add_scan(  # noqa: PLR0913
        self,
        name: str,
        source: Any,
        *,
        statistic: Any = None,
        weights: Any = None,
        metadata: Mapping[str, Any] | None = None,
        tr: float | None = None,
        codec: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> None:
        """Add a scan; this object then has it, and others that are opened from then on.

        Parameters
        ----------
        name : str
            Any text.
        source : stored object, path, nibabel image, or array_like
            A run (X, Y, Z, T) on the grid of the parcellation, read once; or the series of the
            parcels, (T, K), as they are.
        statistic : {"mean", "median", "sum", "min", "max", "std"} or callable, optional
            What parcels are summarised by; the series of every voxel are stored without it.
        weights : path, nibabel image, array_like of shape (X, Y, Z) or (V,), optional
            Of the voxels, for means and sums; (V,) in numpy's (C) order of the
            labelled voxels, as ``volume[labels > 0]`` has them.
        metadata : mapping, optional
            What else is known of the scan; values that JSON can hold.
        tr : float, optional
            Repetition time in seconds; comes before that of the run.
        codec, max_memory, progress
            See `ParcellatedScan.create`.
        storage_options : mapping, optional
            For URLs of source and weights; those of the store by default.

        Raises
        ------
        AlreadyExistsError
            If there is a scan of that name.
        InvalidInputError
            If the source does not fit, or an argument cannot be used.
        ReadOnlyError
            If the store cannot be written, or is one of the R package.
        ChangedError
            If another store, of other parcels, took its place since it was opened.
        StorageError
            If writing fails, or others write to the store for longer than the seconds in
            ``FMRISTORE_WAIT`` (600).

        Notes
        -----
        Several processes may add scans to a store at once: they take turns, and each adds its
        scan to those that are there when its turn comes. This object then has all of them.

        Whatever fails or is interrupted, the store stays as it was, and readable. To that end
        an HDF5 file is copied, changed, checked and put in place, which costs reading and writing
        all of it: to add many scans give them to `create` or `add_scans`. In a Zarr store only
        the new scan is written, and then its name put into the list that readers go by.
        """
        max_memory = parse_size(max_memory)
        request = ScanInput(
            name=name,
            source=source,
            statistic=statistic,
            weights=weights,
            metadata=metadata or {},
            array=array_options(source, None, tr),
        )
        self._add([request], codec, storage_options, max_memory, progress)

    def add_scans(
        self,
        scans: Mapping[str, Any],
        *,
        statistic: Any = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        codec: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> None:
        """Add several scans at once: see `add_scan`; an HDF5 file is copied only once.

        Parameters
        ----------
        scans : mapping
            Sources by name.
        statistic : str or callable, optional
            What parcels are summarised by, in all of them.
        metadata : mapping, optional
            Mappings by name of the scan.
        codec, storage_options, max_memory, progress
            See `add_scan`.

        Raises
        ------
        AlreadyExistsError, InvalidInputError, ReadOnlyError, ChangedError
            See `add_scan`; none of them is added then.
        """
        max_memory = parse_size(max_memory)
        requests = scan_requests(scans, statistic, metadata, None, None)
        self._add(requests, codec, storage_options, max_memory, progress)

    def _add(
        self,
        requests: Sequence[ScanInput],
        codec: str | None,
        storage_options: Mapping[str, Any] | None,
        max_memory: int,
        progress: Progress | None,
    ) -> None:
        self._check_writable()
        locator = self._handle.locator
        options: StoreOptions = {
            "codec": codec,
            "storage_options": locator.options if storage_options is None else storage_options,
            "max_memory": max_memory,
            "progress": progress,
        }
        target = Target.of(locator.url, options, kind=locator.kind)
        with self._changing():
            add_requests(locator, target, self.parcellation, self.scan_names, requests)

    def remove_scan(self, name: str) -> None:
        """Remove a scan.

        Parameters
        ----------
        name : str
            Of the scan.

        Raises
        ------
        SelectionError
            If there is none of that name.
        ReadOnlyError, ChangedError
            See `add_scan`.

        Notes
        -----
        An HDF5 file is copied, as by `add_scan`, and does not become smaller: its space is used
        again by what is added. `fmristore.transcode` makes a file without gaps.
        """
        self._check_writable()
        with self._changing():
            remove_scan(self._handle.locator, self.parcellation, name)

    def _check_writable(self) -> None:
        if not self._tree.writable:
            raise ReadOnlyError(
                "scans are not added to files of the R package; create a store with them first",
                url=self.url,
            )
        if isinstance(self._handle, BorrowedHandle):
            raise ReadOnlyError("this is a part of another object", url=self.url)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Become the object of the changed store, or of what a failed attempt has left of it."""
        try:
            yield
        except ChangedError:
            raise
        except BaseException:
            with contextlib.suppress(FmristoreError):
                self._reopen()
                self.__dict__.pop("parcellation", None)
            raise
        self._reopen()

    def _reopen(self) -> None:
        old = self._handle
        locator = old.locator
        now = locate(locator.url, kind=locator.kind, storage_options=locator.options)
        if now.token == locator.token:
            return
        self._handle = Handle(now)
        self._tree = OwnTree(self._handle)
        self._handle.rest()
        self._former.add(old)  # kept by the scans that were opened, until this object is closed

    # Creating -------------------------------------------------------------------------------

    @classmethod
    @takes(StoreOptions)
    def create(  # noqa: PLR0913
        cls,
        source: Mapping[str, Any],
        url: str | os.PathLike[str],
        *,
        parcellation: Any,
        names: Any = None,
        mask: Any = None,
        statistic: Any = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        space_name: str | int | None = None,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Make a store for scans, with the first ones or empty, and open it.

        Parameters
        ----------
        source : mapping of str to run
            Runs by name; see `add_scan`. None of them, ``{}``, makes a store that is empty.
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        parcellation : Parcellation, path, nibabel image, or array_like of shape (X, Y, Z)
            Label image on the grid of the scans.
        names, mask : object, optional
            Table of the labels, and voxels to keep: see `Parcellation.from_labels`.
        statistic, tr : object, optional
            As of `add_scan`, for all scans.
        metadata : mapping, optional
            Mappings by name of the scan.
        space : NeuroSpace or ndarray, (4, 4), optional
            For arrays of labels or runs: the grid, or the affine alone.
        space_name : str or int, optional
            Name of the space that labels and scans are in; comes before what they say.
        **options
            `StoreOptions`.

        Returns
        -------
        ParcellatedMultiScan
            The new store, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If labels and scans do not fit, or an argument cannot be used.
        """
        source, url = in_order(source, url)
        target = Target.of(url, options)
        requests = scan_requests(source or {}, statistic, metadata, space, tr)
        parcels = make_parcellation(
            parcellation,
            names,
            mask,
            space=space,
            request=requests[0] if requests else None,
            space_name=space_name,
            storage_options=target.storage_options,
        )
        return create_scans(cls, target, parcels, requests)
