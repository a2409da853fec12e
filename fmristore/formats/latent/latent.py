"""Runs as loadings x basis, computed where they are read.

The view of one scan and the class of all of them are whole here, which makes the module long.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self, Unpack, cast

import numpy as np
from numpy.typing import DTypeLike

from fmristore.formats.base import BorrowedHandle, StoredArray, describe_scan, describe_space
from fmristore.formats.latent.factor_matrix import FactorMatrix
from fmristore.formats.latent.factors import (
    DEFAULT_SCAN,
    LatentFactors,
    LatentScanData,
    check_errors,
    make_factors,
)
from fmristore.formats.latent.layout import LatentContent, LatentLayout, ScanContent
from fmristore.formats.latent.r import RLatentLayout
from fmristore.formats.latent.writer import LatentOptions
from fmristore.formats.matrix import Matrix, array_bytes
from fmristore.formats.nodes import has_child
from fmristore.formats.options import Target, store_as
from fmristore.formats.registry import Layout, register
from fmristore.formats.series_blocks import VoxelReader
from fmristore.formats.voxel_source import chosen_voxels, voxel_reader
from fmristore.formats.voxelwise import VoxelView
from fmristore.model.space import NeuroSpace, name_of_space
from fmristore.model.voxels import VoxelSet
from fmristore.planning.anatomy import display_axes
from fmristore.planning.indexing import AxisPart, parse_selection
from fmristore.planning.memory import within
from fmristore.planning.options import StoreOptions, takes
from fmristore.planning.streams import streaming
from fmristore.planning.text import counted
from fmristore.sources.door import as_source, in_order
from fmristore_stores.errors import InvalidInputError, MetadataError, SelectionError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from fmristore_stores.secrets import masked_url
from fmristore_stores.shown import shown

__all__ = [
    "LatentNeuroVec",
    "LatentScan",
    "LatentView",
]


class LatentView(VoxelView):
    """One or several scans of a latent representation, indexed ``[x, y, z, t]``.

    A value is ``basis[t] @ loadings[voxel] + offset[voxel]`` in a voxel that has loadings, and 0
    elsewhere. Computed are only the rows and columns that are asked for.
    """

    def __init__(
        self, handle: Handle, content: LatentContent, scans: tuple[ScanContent, ...]
    ) -> None:
        super().__init__(handle)
        self._content = content
        self._scans = scans

    # What it is -----------------------------------------------------------------------------

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, and TR where all scans have the same one."""
        points = sum(scan.basis.shape[0] for scan in self._scans)
        offsets = {scan.time_offset for scan in self._scans}
        offset = offsets.pop() if len(offsets) == 1 else 0.0
        return self._content.space.with_time(points, tr=self.tr, time_offset=offset)

    @cached_property
    def matrix(self) -> Matrix:
        """Values as they are computed, (V, T): loadings x basis + offset."""
        return FactorMatrix(
            self._content.loadings, [scan.basis for scan in self._scans], self._content.offset
        )

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds; None if unknown, or not the same in all scans."""
        found = {scan.tr for scan in self._scans}
        return found.pop() if len(found) == 1 else None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that indexing returns: see `FactorMatrix`."""
        return self.matrix.dtype

    @property
    def n_components(self) -> int:
        """Number of components, K."""
        return self._content.loadings.shape[1]

    @property
    def n_voxels(self) -> int:
        """Number of voxels that have loadings, V."""
        return self._content.loadings.shape[0]

    @property
    def basis(self) -> AnyArray:
        """(T, K): time course of each component, scan after scan."""
        return self._factors.courses(slice(0, self.shape[3], 1))

    @property
    def loadings(self) -> Matrix:
        """(V, K): weight of each component in each voxel; read when it is indexed."""
        return self._content.loadings

    @property
    def offset(self) -> AnyArray | None:
        """(V,): added to every time point; None if there is none."""
        return None if self._content.offset is None else self._content.offset.read()

    @cached_property
    def voxel_set(self) -> VoxelSet:
        """The voxels that have loadings.

        Raises
        ------
        MetadataError
            If one lies outside the grid or occurs twice.
        """
        found = np.asarray(self._content.voxels)
        try:
            return VoxelSet(self._content.space, found)
        except InvalidInputError as error:
            raise MetadataError(
                f"the voxels are damaged: {error.message}",
                url=self._handle.locator.url,
                node="voxels",
            ) from error

    @property
    def encoded_bytes(self) -> int:
        """Bytes that basis, loadings, offset and voxels take in the store, encoded."""
        content = self._content
        matrices = [content.voxels, content.loadings, *(scan.basis for scan in self._scans)]
        offset = 0 if content.offset is None else array_bytes(content.offset.array)
        return offset + sum(matrix.encoded_bytes for matrix in matrices)

    @property
    def compression_ratio(self) -> float:
        """Bytes of the whole image (X * Y * Z * T) as plain float32, over `encoded_bytes`."""
        return 4 * math.prod(self.shape) / self.encoded_bytes

    # Reading --------------------------------------------------------------------------------

    @property
    def _factors(self) -> FactorMatrix:
        return cast("FactorMatrix", self.matrix)

    def _read_values(
        self, rows: AxisPart, columns: AxisPart, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Docstring inherited."""
        del raw  # there are no values but the computed ones
        wanted = self.dtype if dtype is None else np.dtype(dtype)
        if wanted.kind != "f":
            raise InvalidInputError(f"dtype {wanted}: expected a floating-point type")
        return self._factors.compute(rows, columns, wanted)

    def loadings_slice(self, component: int, axis: int, index: int) -> AnyArray:
        """Loadings of one component in a slice of the grid, 0 where there are none.

        Parameters
        ----------
        component : int
            Counted from 0.
        axis : {0, 1, 2}
            At right angles to the slice.
        index : int
            Of the slice, counted from 0.

        Returns
        -------
        ndarray
            The other two axes in their order.

        Raises
        ------
        SelectionError
            If there is no such component.
        """
        (part,) = parse_selection(component, (self.n_components,)).region
        rows = np.take(self.voxel_set.row_of, index, axis=axis)
        inside = rows >= 0
        wanted, back = np.unique(rows[inside].astype(np.int64), return_inverse=True)
        values = np.zeros(rows.shape, self.loadings.dtype)
        values[inside] = self.loadings.read(wanted, slice(part.start, part.start + 1, 1))[back, 0]
        return values

    def plot(
        self, kind: str | None = None, *, components: Sequence[int] | None = None, **options: Any
    ) -> dict[str, Any]:
        """Draw the run, or its components, with matplotlib.

        Parameters
        ----------
        kind : {"slices", "series", "carpet", "components"}, optional
            As of `GridView.plot`; ``"components"`` draws slices of the loadings and time courses.
        components : sequence of int, optional
            Which ones, counted from 0; the first five by default.
        **options
            ``voxel``, ``volume``, ``colors``, ``window``, ``figure``, as of `GridView.plot`.

        Returns
        -------
        dict of str to matplotlib.axes.Axes
            Of components ``"component 0"`` (the time course), ``"component 0 axial"`` and so on.

        Raises
        ------
        InvalidInputError, SelectionError
            If there is no such plot, voxel, volume or component.
        DependencyError
            If matplotlib is not installed.
        """
        if kind != "components":
            return super().plot(kind, **options)
        from fmristore.interop.matplotlib import Look, middle_voxel, plot_components

        chosen = range(min(5, self.n_components)) if components is None else components
        look = Look(**{name: value for name, value in options.items() if name != "volume"})
        voxel = middle_voxel(look, self.space)
        planes = {
            k: [self.loadings_slice(k, a, voxel[a]) for a, _ in display_axes(self.affine)]
            for k in chosen
        }
        basis = self.basis
        return plot_components(self.space, planes, {k: basis[:, k] for k in chosen}, look)

    def reconstruction(
        self, *, voxel: Any = None, roi: Any = None, volume: int | None = None
    ) -> AnyArray:
        """One voxel, a region, or a volume: the same as `series` or indexing, by name.

        Parameters
        ----------
        voxel : (x, y, z), optional
            Gives its series, (T,).
        roi : as `mask` of `series`, optional
            Gives the series of its voxels, (T, n).
        volume : int, optional
            Gives that volume, (X, Y, Z).

        Raises
        ------
        InvalidInputError
            If not exactly one of them is given.
        SelectionError
            If it does not fit the image.
        """
        match (voxel is not None, roi is not None, volume is not None):
            case (True, False, False):
                found = self.series(voxel)
                if found.ndim != 1:
                    raise SelectionError("voxel: expected three integers; use series() for many")
                return found
            case (False, True, False):
                return self.series(mask=roi)
            case (False, False, True):
                return cast("AnyArray", self.read((Ellipsis, volume)))
        raise InvalidInputError("give one of voxel=, roi= and volume=")

    def _facts(self) -> dict[str, str]:
        kind = "sparse " if self.loadings.is_sparse else ""
        facts = super()._facts() | {
            "components": counted(self.n_components, f"{kind}component"),
            "in mask": counted(self.n_voxels, "voxel"),
        }
        if len(self._scans) > 1:
            facts["scans"] = f"{len(self._scans)} scans"
        return facts


class LatentScan(LatentView):
    """One scan of a `LatentNeuroVec`, indexed ``[x, y, z, t]`` as the whole is.

    It is closed with the object that it comes from.

    Parameters
    ----------
    handle : Handle
        Store that holds it.
    content : LatentContent
        Where in the store everything is.
    scan : ScanContent
        Which of the scans.
    """

    def __init__(self, handle: Handle, content: LatentContent, scan: ScanContent) -> None:
        super().__init__(handle, content, (scan,))

    @property
    def name(self) -> str:
        """Name of the scan."""
        return self._scans[0].name

    @property
    def metadata(self) -> dict[str, Any]:
        """Other facts about the scan."""
        return dict(self._scans[0].metadata)

    def __repr__(self) -> str:
        facts = ", ".join(map(shown, self._facts().values()))
        return f"LatentScan({self.name!r} of {masked_url(self.url)!r}, {facts})"


@register("latentneurovec")
class LatentNeuroVec(LatentView):
    """Runs as basis (T, K) x loadings (V, K) + offset (V,), indexed ``[x, y, z, t]``.

    Several scans share loadings and offset; together they are one long run.

    Parameters
    ----------
    handle : Handle
        Store that holds it.
    content : LatentContent, optional
        Its contents in the store; the root group by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.

    Examples
    --------
    >>> import fmristore as fs
    >>> lat = fs.LatentNeuroVec.from_pca("bold.h5", "lat.h5", 20, mask="mask.nii.gz")  # doctest: +SKIP
    >>> lat[32, 40, 20]                                                       # doctest: +SKIP
    """  # noqa: E501

    holds = "basis x loadings (+ offset), such as PCA or ICA makes"
    use_when = "an approximation by some components will do and size matters most"
    layouts: ClassVar[tuple[Layout, ...]] = (LatentLayout("latentneurovec"), RLatentLayout())

    def __init__(self, handle: Handle, content: LatentContent | None = None) -> None:
        found: LatentContent = self.layouts[0].read(handle) if content is None else content
        super().__init__(handle, found, found.scans)

    # Scans ----------------------------------------------------------------------------------

    @property
    def scan_names(self) -> tuple[str, ...]:
        """Names of the scans, in the order of their time points."""
        return tuple(scan.name for scan in self._scans)

    @property
    def scan_lengths(self) -> tuple[int, ...]:
        """Number of time points of each scan."""
        return tuple(scan.basis.shape[0] for scan in self._scans)

    def _runs(self) -> Sequence[tuple[str, int, AnyArray | None]] | None:
        if len(self._scans) == 1:
            return None
        return [
            (name, length, self.scan(name).space.times)
            for name, length in zip(self.scan_names, self.scan_lengths, strict=True)
        ]

    def scan(self, name: str) -> LatentScan:
        """One scan, indexed as the whole is.

        Raises
        ------
        InvalidInputError
            If there is no scan of that name.
        """
        for scan in self._scans:
            if scan.name == name:
                return LatentScan(BorrowedHandle(self._handle), self._content, scan)
        raise InvalidInputError(
            f"no scan is called {name!r}; there are {', '.join(map(repr, self.scan_names[:20]))}",
            url=self.url,
        )

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the scans, if there are several."""
        return self.scan_names if len(self._scans) > 1 else ()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Other facts about the only scan; of several, each has its own."""
        return dict(self._scans[0].metadata) if len(self._scans) == 1 else {}

    def part(self, name: str) -> LatentScan:
        """Docstring inherited."""
        return self.scan(name)

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        content = self._content
        bases = [array for scan in self._scans for array in scan.basis.arrays]
        offset = () if content.offset is None else (content.offset.array,)
        return (*content.loadings.arrays, *bases, *offset)

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        scans = [
            describe_scan(
                s.name,
                self._content.space.with_time(s.basis.shape[0], tr=s.tr, time_offset=s.time_offset),
                self.dtype,
            )
            for s in self._scans
        ]
        return self._described(
            {
                "shape": list(self.shape),
                "dtype": str(self.dtype),
                "space": describe_space(self.space),
                "scans": scans,
                "components": self.n_components,
                "loadings": "sparse" if self.loadings.is_sparse else "dense",
                "offset": self._content.offset is not None,
                "mask": {"voxels": self.n_voxels, "of": math.prod(self.shape[:3])},
                "compression_ratio": self.compression_ratio,
                "reconstruction_error": self.reconstruction_error,
            }
        )

    def check(self) -> None:
        """Docstring inherited."""
        self.voxel_set  # noqa: B018 - reading them checks them
        self.voxel_error  # noqa: B018
        self.loadings.check()

    # Errors of the approximation --------------------------------------------------------------

    @property
    def reconstruction_error(self) -> float | None:
        """Share of the data that the components miss, as it was recorded; None if it was not.

        The root of the sum of squared errors over that of the squared deviations from each
        voxel's mean: 0 is exact.
        """
        value = self.root_attributes.get("reconstruction_error")
        return float(value) if isinstance(value, int | float) else None

    @property
    def voxel_error(self) -> AnyArray | None:
        """(V,): root of the mean squared error in time of each voxel; None if not recorded."""
        if not has_child(self._handle, "", "voxel_error"):
            return None
        return StoredArray(self._handle, "voxel_error").read_small(self.n_voxels)

    # Creating -------------------------------------------------------------------------------

    @classmethod
    @takes(StoreOptions)
    def create(  # noqa: PLR0913
        cls,
        basis: Any,
        loadings: Any,
        url: str | os.PathLike[str],
        *,
        mask: Any = None,
        voxels: Any = None,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | Mapping[str, float] | None = None,
        time_offset: float | Mapping[str, float] | None = None,
        offset: Any = None,
        reconstruction_error: float | None = None,
        voxel_error: Any = None,
        header: bytes = b"",
        space_name: str | int | None = None,
        metadata: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Store a latent representation and open it.

        Parameters
        ----------
        basis : array_like, (T, K), or mapping of str to array_like, (T_i, K)
            Time courses of one scan, or of several by name.
        loadings : array_like or scipy sparse matrix, (V, K)
            Rows in order of `voxels`, or of the mask's voxels in numpy's (C) order. What is
            sparse stays so. Dense ones may be anything that slices by rows, such as a memory map.
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z), optional
            Voxels that have a row.
        voxels : array_like of int, (V, 3), optional
            Indices of these voxels, in place of `mask`.
        space : NeuroSpace or (4, 4) affine, optional
            Grid; taken from `mask` if that is an image.
        tr : float or mapping of str to float, optional
            Repetition time in seconds, of all scans or by name.
        time_offset : float or mapping of str to float, optional
            Time of the first volume in seconds, of all scans or by name.
        offset : array_like, (V,), optional
            Added to every time point.
        reconstruction_error : float, optional
            Share of the data that the components miss, to be recorded (not with a profile).
        voxel_error : array_like, (V,), optional
            Root of the mean squared error in time of each voxel, to be recorded likewise.
        header : bytes
            NIfTI header of the run that is represented, for exports; what is true of the grid in
            that of `mask` by default.
        space_name : str or int, optional
            Name of the space, or NIfTI's code of it; comes before what `space` or `mask` say.
        metadata : mapping of str to mapping, optional
            What else is known of scans, as JSON holds it, by their names.
        max_memory, progress : object, optional
            Without effect: factors are in memory, and written band by band.
        **options
            `StoreOptions`.

        Returns
        -------
        LatentNeuroVec
            Opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If shapes do not fit, or a value is not real or not finite: one NaN would spoil a
            whole volume or series.

        Notes
        -----
        Values that float32 holds exactly are stored as float32, others as float64.
        """
        basis, loadings, url = in_order(basis, loadings, url)
        target = Target.of(url, options)
        factors = make_factors(
            basis,
            loadings,
            mask=mask,
            voxels=voxels,
            space=space,
            tr=tr,
            time_offset=time_offset,
            offset=offset,
            metadata=metadata,
            storage_options=target.storage_options,
        )
        if header:
            factors = replace(factors, header=header)
        factors = factors.in_space(name_of_space(space_name))
        errors = None if voxel_error is None else check_errors(voxel_error, factors)
        wanted = LatentOptions(codec=target.codec, error=reconstruction_error, voxel_error=errors)
        made: Self = store_as(cls, target, factors, wanted)
        return made

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        scans = {name: self.scan(name) for name in self.scan_names}
        loadings: Any = self.loadings
        if loadings.is_sparse:
            loadings = loadings.to_scipy()
        return ({name: scan.basis for name, scan in scans.items()}, loadings), {
            "voxels": self.voxels,
            "space": self._content.space.without_time(),
            "tr": {name: scan.tr for name, scan in scans.items() if scan.tr is not None},
            "time_offset": {scan.name: scan.time_offset for scan in self._scans},
            "offset": self.offset,
            "reconstruction_error": self.reconstruction_error,
            "voxel_error": self.voxel_error,
            "header": self.source_header,
            "metadata": {scan.name: scan.metadata for scan in self._scans},
        }

    @classmethod
    @takes(StoreOptions)
    def from_pca(  # noqa: PLR0913
        cls,
        source: Any,
        url: str | os.PathLike[str],
        n_components: int,
        *,
        mask: Any = None,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        space_name: str | int | None = None,
        metadata: Mapping[str, Any] | None = None,
        voxel_error: bool = False,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Store the principal components of a run and open them.

        The offset is each voxel's mean over time, the loadings are the first principal axes of
        the time points, and the basis is the time points in these axes.

        Parameters
        ----------
        source : path, nibabel image, stored run, or array_like of shape (X, Y, Z, T)
            A path or URL is that of a NIfTI file or a store. Read once.
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        n_components : int
            At least 1, and less than T.
        mask : path, stored volume, nibabel image, or array_like of shape (X, Y, Z), optional
            Voxels to take; by default those that are stored of a `MaskedNeuroVec`, and all of
            everything else.
        space : NeuroSpace or (4, 4) affine, optional
            For arrays; by default the grid of the mask, where that is no array.
        tr : float, optional
            Repetition time in seconds; comes before that of a file or image.
        space_name : str or int, optional
            Name of the space that the image is in; comes before what the image says, and exported
            headers have the codes of that space.
        metadata : mapping, optional
            What else is known, as JSON holds it; comes before what the source says, such as the
            BIDS sidecar beside a file.
        voxel_error : bool
            Record the error of each voxel too.
        max_memory : int or str
            Bytes that this may take; a run that does not fit passes through a temporary file.
        **options
            `StoreOptions`.

        Returns
        -------
        LatentNeuroVec
            Opened; `reconstruction_error` tells how good it is.

        Raises
        ------
        InvalidInputError
            If the source is no run, has values that are not finite, or `n_components` does not
            fit it.
        MemoryLimitError
            If min(T, V) x min(T, V) products or the components do not fit `max_memory`.

        Notes
        -----
        Exact, of the products of the time points (or of the voxels, where there are fewer) in
        float64; components of less than about 1e-6 of the first one's strength are inaccurate.
        """
        source, url = in_order(source, url)
        target = Target.of(url, options)
        max_memory, access = target.max_memory, target.storage_options
        from fmristore.formats.latent.pca import principal_components

        with as_source(
            source,
            space=space,
            tr=tr,
            space_name=space_name,
            metadata=metadata,
            storage_options=access,
            like=mask,
        ) as image:
            image.check_run()
            run = voxel_reader(image, chosen_voxels(image, mask, access))
            with (
                within(max_memory, max_memory // 4),
                streaming(_scaled_parts(run, max_memory // 4)) as parts,
            ):
                found = principal_components(
                    parts,
                    (run.times, len(run.voxels)),
                    n_components,
                    dtype=_working(run),
                    max_memory=max_memory,
                )
        factors = LatentFactors(
            voxels=run.voxels,
            loadings=found.loadings,
            scans={
                DEFAULT_SCAN: LatentScanData(
                    found.basis, run.space.tr, run.space.time_offset, run.metadata
                )
            },
            offset=found.offset,
            header=run.header,
        )
        errors = found.voxel_error if voxel_error else None
        wanted = LatentOptions(codec=target.codec, error=found.error, voxel_error=errors)
        made: Self = store_as(cls, target, factors, wanted)
        return made


def _working(run: VoxelReader) -> np.dtype[Any]:
    """Type that the data of a run are kept in: float32 where that holds them."""
    dtype = run.scaled_dtype
    if dtype.kind == "c":
        raise InvalidInputError("principal components are of real numbers")
    return np.result_type(dtype, np.float32)


def _scaled_parts(run: VoxelReader, max_memory: int) -> Iterator[tuple[int, int, AnyArray]]:
    """Scaled values of the voxels, part by part: first volume, first voxel, values."""
    with streaming(run.scaled(run.slabs(max_memory))) as parts:
        for times, columns, values in parts:
            assert isinstance(columns, slice)
            yield times.start, columns.start, values
