"""One stored run of which only the voxels of a mask are kept."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmristore.formats.array import StoredArray
from fmristore.formats.base import RawView, plain_number
from fmristore.formats.grid import GridImage
from fmristore.formats.masked.layout import MaskedParts, read_masked_parts, write_maskedneurovec
from fmristore.formats.opening import opened
from fmristore.formats.options import image_options
from fmristore.formats.registry import register
from fmristore.formats.scatter import SpreadSource, matrix_volumes
from fmristore.formats.voxel_source import voxel_source
from fmristore.formats.voxelwise import Fill, MaskedObject, check_fill, read_columns
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.model.voxels import parse_series
from fmristore.planning.indexing import parse_selection
from fmristore.planning.progress import Progress
from fmristore.planning.read_plan import Planner, ReadPlan
from fmristore.planning.text import parse_size
from fmristore.sources.images import ImageSource
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.grid import grid_shape
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec

__all__ = ["MaskedNeuroVec"]


@register("maskedneurovec")
class MaskedNeuroVec(MaskedObject, GridImage):
    """One stored run, in the voxels of a mask alone, indexed ``[x, y, z, t]``.

    Parameters
    ----------
    handle : Handle
        The store.
    parts : MaskedParts, optional
        Where in it the parts are; the root group is the run by default.

    Examples
    --------
    >>> import fmristore as fs
    >>> bold = fs.open("sub-01_task-rest_desc-brain_bold.h5")                 # doctest: +SKIP
    >>> bold[32, 40, 20]                                                      # doctest: +SKIP
    """

    holds = "one 4D run, in the voxels of a mask alone"
    use_when = "nothing outside the mask is needed and size matters; still sliced as 4D"

    axes = ("x", "y", "z", "t")

    def __init__(self, handle: Handle, parts: MaskedParts | None = None) -> None:
        self._parts = read_masked_parts(handle) if parts is None else parts
        super().__init__(handle, self._parts.nodes)
        self._numbers = StoredArray(handle, self._parts.numbers)
        self._spec = self._numbers.reader.spec

    # What it is -----------------------------------------------------------------------------

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, and TR."""
        return self._parts.space

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z, T)."""
        return self._parts.space.shape

    @property
    def ndim(self) -> int:
        """Number of axes, 4."""
        return len(self.axes)

    @property
    def tr(self) -> float | None:
        """Repetition time in seconds, None if unknown."""
        return self.space.tr

    @property
    def spec(self) -> ArraySpec:
        """How the numbers are stored: axes, chunks, shards, codecs."""
        return self._spec

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers."""
        return self._spec.dtype

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that indexing returns: see `Scaling.dtype`."""
        scaling = self._parts.scaling
        return self.stored_dtype if scaling is None else scaling.dtype(self.stored_dtype)

    @property
    def slope(self) -> float | AnyArray | None:
        """What stored numbers are multiplied with on reading, one number or (T,); None if not."""
        return None if self._parts.scaling is None else self._parts.scaling.slope

    @property
    def inter(self) -> float | AnyArray | None:
        """What is added after multiplying with `slope`, one number or (T,); None if not."""
        return None if self._parts.scaling is None else self._parts.scaling.inter

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        return (self._numbers,)

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        return self._described(
            {
                "shape": list(self.shape),
                "dtype": str(self.dtype),
                "stored_dtype": str(self.stored_dtype),
                "slope": plain_number(self.slope),
                "intercept": plain_number(self.inter),
                **self._mask_facts(),
            }
        )

    def with_fill(self, fill: Fill) -> MaskedNeuroVec:
        """The same stored run, with another number outside the mask.

        Raises
        ------
        InvalidInputError
            If numbers of type `dtype` cannot be `fill`.
        """
        nodes = replace(self._nodes, fill=check_fill(fill, self.dtype))
        return MaskedNeuroVec(Handle(self._handle.locator), replace(self._parts, nodes=nodes))

    # Reading --------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        return self.read(index)

    def read(
        self, index: Any = Ellipsis, *, dtype: DTypeLike | None = None, raw: bool = False
    ) -> Any:
        """Read a part of the run; voxels outside the mask are `fill`.

        Parameters
        ----------
        index : int, slice, Ellipsis, None or tuple of them
            numpy's basic indexing, axes (x, y, z, t).
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        raw : bool
            Return stored numbers, not scaled, and 0 outside the mask.

        Returns
        -------
        ndarray or numpy scalar
            A scalar if every axis is given as an integer.

        Raises
        ------
        SelectionError
            If the index does not fit the run.
        CorruptDataError
            If a chunk is damaged or missing.

        Notes
        -----
        Reads the chunks that hold voxels of the mask in the selection.
        """
        selection = parse_selection(index, self.shape)
        times = selection.region[3]
        inside, rows = self._rows(selection.region[:3])
        values = self._read_rows(rows, times, dtype=dtype, raw=raw)
        return selection.apply(self._on_grid(inside, values, fill=0 if raw else self.fill))

    def _read_rows(
        self, rows: NDArray[np.integer[Any]], times: slice, *, dtype: DTypeLike | None, raw: bool
    ) -> AnyArray:
        """Numbers of some stored voxels, (n, t)."""
        reader = self._numbers.reader
        values = read_columns(reader, reader.spec.dims.index("voxel"), rows, times)
        if raw or self._parts.scaling is None:
            return values if dtype is None else values.astype(dtype, copy=False)
        return self._parts.scaling.apply(values, times=times, axis=1, dtype=dtype)

    @property
    def raw(self) -> RawView:
        """Stored numbers, not scaled, and 0 outside the mask: ``bold.raw[32, 40, 20]``."""
        return RawView(cast("Any", self))

    @property
    def plan(self) -> Planner:
        """What a read would cost, without reading: ``bold.plan[..., 10].explain()``."""
        return Planner(self._plan)

    def _plan(self, index: Any) -> ReadPlan:
        selection = parse_selection(index, self.shape)
        reader = self._numbers.reader
        _, rows = self._rows(selection.region[:3])
        axis = reader.spec.dims.index("voxel")
        return ReadPlan(
            url=self.url,
            selection=index,
            shape=selection.shape,
            dtype=self.dtype,
            chunks_in_all=math.prod(grid_shape(reader.spec.shape, reader.spec.layout.chunks)),
            cost=reader.cost_points([axis], rows[:, None], (selection.region[3],)),
        )

    def series(
        self,
        voxels: Any = None,
        *,
        mask: Any = None,
        times: slice | None = None,
        dtype: DTypeLike | None = None,
        raw: bool = False,
    ) -> AnyArray:
        """Time series of one voxel, many voxels, or all voxels of a mask.

        Parameters
        ----------
        voxels : (x, y, z) or array_like of int, (n, 3), optional
            One voxel, or many in any order; negative indices count from the end.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z), optional
            Voxels that are not zero (NaN counts as zero), in place of `voxels`.
        times : slice, optional
            Part of the run.
        dtype : dtype, optional
            Type to compute and return instead of `dtype`.
        raw : bool
            Return stored numbers, not scaled, and 0 outside the mask.

        Returns
        -------
        ndarray, (T,) for one voxel, else (T, n)
            `fill` for voxels that are not stored. For a mask, voxels in order of their index with
            x varying fastest.

        Raises
        ------
        SelectionError
            If a voxel lies outside the grid, or `times` is no slice.
        InvalidInputError
            If both or neither of `voxels` and `mask` are given, or the mask does not fit.
        """
        request = parse_series(voxels, mask, times, space=self.space, length=self.shape[3])
        part = request.times
        rows = self.voxel_set.rows(request.points)
        stored = rows >= 0
        found = self._read_rows(rows[stored], part.region[0], dtype=dtype, raw=raw)
        fill = check_fill(0 if raw else self.fill, found.dtype)
        values = np.full((len(rows), found.shape[1]), fill, found.dtype)
        values[stored] = found
        result: AnyArray = values.T[part.finish]
        return result[:, 0] if request.single else result

    def to_numpy(self, *, dtype: DTypeLike | None = None, raw: bool = False) -> AnyArray:
        """Numbers of the stored voxels, (V, T), in the order of `voxels`."""
        rows = np.arange(self._nodes.count)
        return self._read_rows(rows, slice(0, self.shape[3], 1), dtype=dtype, raw=raw)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored run cannot become an array without a copy")
        return cast("AnyArray", self.read(dtype=dtype))

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        raise InvalidInputError(
            "iterating would read the run plane by plane; index it, or take np.asarray(run)"
        )

    # Going elsewhere ------------------------------------------------------------------------

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """Docstring inherited."""
        max_memory = parse_size(max_memory)
        return SpreadSource(
            self.space,
            self.voxel_set,
            matrix_volumes(self._numbers, max_memory // 2),
            dtype=self.stored_dtype,
            scaling=self._parts.scaling,
            fill=self.fill,
            nifti=nifti,
        )

    def stored_scaling(self, voxels: AnyArray) -> Scaling | None:
        """Docstring inherited."""
        return self._parts.scaling if (self.voxel_set.rows(voxels) >= 0).all() else None

    # Creating -------------------------------------------------------------------------------

    @classmethod
    def create(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        data: Any,
        *,
        mask: Any,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        fill: Fill = 0,
        codec: str | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> Self:
        """Store the voxels of a mask of a run, and open that.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        data : path, nibabel image, stored run, or array_like of shape (X, Y, Z, T)
            A path or URL is that of a NIfTI file or a store.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z)
            Voxels that are not zero (NaN counts as zero). An image must lie on the grid of `data`.
        space : NeuroSpace or (4, 4) affine, optional
            Needed for arrays.
        tr : float, optional
            Repetition time in seconds, for an affine alone.
        slope, inter : float or ndarray (T,), optional
            For arrays of stored numbers: the number meant is ``stored * slope + inter``.
        fill : int or float
            What voxels outside the mask are read as.
        codec : str, optional
            Preset; ``"portable"`` for HDF5 and ``"dual"`` for Zarr by default.
        overwrite : bool
            Replace what is there, once the new store is complete.
        storage_options : mapping, optional
            Passed to fsspec.
        max_memory : int or str
            Bytes that this may take; what has to be turned around and does not fit passes through
            a temporary file.
        progress : callable, optional
            Called with the bytes done and in all.

        Returns
        -------
        MaskedNeuroVec
            The new run, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If the data have not four axes, the mask does not fit them or is empty, or `fill` is
            no number of their type. Nothing is written then.
        MemoryLimitError
            If not even one write unit fits the limit.
        """
        max_memory = parse_size(max_memory)
        with opened(data, storage_options) as run:
            source, voxels = voxel_source(
                run,
                mask,
                space=space,
                tr=tr,
                slope=slope,
                inter=inter,
                storage_options=storage_options,
            )
            chosen = image_options(url, codec=codec).codec
            with create_store(url, overwrite=overwrite, storage_options=storage_options) as store:
                write_maskedneurovec(
                    store.root,
                    source,
                    voxels,
                    capabilities=store.capabilities,
                    codec=chosen,
                    fill=fill,
                    max_memory=max_memory,
                    progress=progress,
                )
        return cls(Handle(locate(url, storage_options=storage_options)))

    def _content(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self,), {"mask": self.mask, "fill": self.fill}

    def _facts(self) -> dict[str, str]:
        stored, whole = self._nodes.count, math.prod(self.shape[:3])
        facts = {
            "shape": " x ".join(map(str, self.shape)),
            "dtype": str(self.dtype),
            "stored": f"{stored} of {whole} voxels",
            "voxels": " x ".join(f"{s:.3g}" for s in self.spacing) + " mm",
        }
        if self.tr is not None:
            facts["TR"] = f"TR {self.tr:.4g} s"
        return facts
