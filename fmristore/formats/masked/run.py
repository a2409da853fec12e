"""One stored run of which only the voxels of a mask are kept."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self, Unpack, cast

from fmristore.formats.base import BorrowedHandle, StoredArray, plain_number
from fmristore.formats.fill import Fill, check_fill
from fmristore.formats.masked.layout import MaskedContent, MaskedLayout
from fmristore.formats.masked.r import FrameLayout
from fmristore.formats.matrix import ArrayMatrix, Matrix
from fmristore.formats.options import Target, store_as
from fmristore.formats.r.arrays import RArray
from fmristore.formats.registry import Layout, register
from fmristore.formats.voxel_source import chosen_voxels, voxel_reader
from fmristore.formats.voxelwise import MaskedObject
from fmristore.model.scaling import Scaling
from fmristore.model.space import NeuroSpace
from fmristore.planning.options import StoreOptions, takes
from fmristore.sources.door import as_source, in_order
from fmristore.sources.labels import warn
from fmristore_stores.errors import SelectionError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import AnyArray
from fmristore_stores.shown import shown
from fmristore_stores.spec import ArraySpec

__all__ = ["MaskedNeuroVec"]


@register("maskedneurovec")
class MaskedNeuroVec(MaskedObject):
    """One stored run, in the voxels of a mask alone, indexed ``[x, y, z, t]``.

    Parameters
    ----------
    handle : Handle
        The store.
    content : MaskedContent, optional
        Its contents in the store; the root group is the run by default.

    Examples
    --------
    >>> import fmristore as fs
    >>> bold = fs.open("sub-01_task-rest_desc-brain_bold.h5")                 # doctest: +SKIP
    >>> bold[32, 40, 20]                                                      # doctest: +SKIP
    """

    holds = "one 4D run, in the voxels of a mask alone"
    use_when = "nothing outside the mask is needed and size matters; still sliced as 4D"

    axes = ("x", "y", "z", "t")
    layouts: ClassVar[tuple[Layout, ...]] = (MaskedLayout("maskedneurovec"), FrameLayout())

    def __init__(self, handle: Handle, content: MaskedContent | None = None) -> None:
        self._content: MaskedContent = self.layouts[0].read(handle) if content is None else content
        super().__init__(handle, self._content.nodes)
        self._matrix = ArrayMatrix(self._array(self._content.data), "voxel", kinds="iufc")

    def _array(self, path: str) -> StoredArray:
        """An array of values; those of R's files may have missing integers."""
        if not self._content.assay:
            return StoredArray(self._handle, path)
        return RArray(self._handle, path, dims=("voxel", "t"))

    @property
    def space(self) -> NeuroSpace:
        """Grid in the world, number of volumes and TR."""
        return self._content.space

    @property
    def matrix(self) -> Matrix:
        """Stored values, (V, T)."""
        return self._matrix

    @property
    def scaling(self) -> Scaling | None:
        """Scaling of the stored values; None if they are not scaled."""
        return self._content.scaling

    @property
    def spec(self) -> ArraySpec:
        """Storage of the values: axes, chunks, shards, codecs."""
        return self._matrix.array.reader.spec

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Other facts about the data.

        Of a frame of R, ``assay`` is the name of what is read here, ``observations`` the table of
        the volumes with their ids: ``metadata_frame("observations")``.
        """
        if self._content.metadata is None:
            return super().metadata
        return {"assay": self._content.assay, **self._content.metadata}

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the assays of a frame of R, if there are several; the one read here first."""
        here, names = self._content.assay, self._content.assays
        return (here, *(name for name in names if name != here)) if len(names) > 1 else ()

    def part(self, name: str) -> MaskedNeuroVec:
        """Another assay of a frame of R, in the same voxels.

        Raises
        ------
        SelectionError
            If there is none of that name.
        """
        known = self._content.assays
        if name not in known:
            if not known:
                return cast("MaskedNeuroVec", super().part(name))
            raise SelectionError(
                f"there is no assay {name!r:.80}; there are "
                f"{', '.join(map(repr, list(known)[:20]))}",
                url=self.url,
            )
        content = replace(self._content, data=known[name], assay=name, assays={})
        return MaskedNeuroVec(BorrowedHandle(self._handle), content)

    @property
    def primary_arrays(self) -> tuple[StoredArray, ...]:
        """Docstring inherited."""
        others = [path for path in self._content.assays.values() if path != self._content.data]
        return (*super().primary_arrays, *map(self._array, others))

    def describe(self) -> dict[str, Any]:
        """Docstring inherited."""
        assays = {"assay": self._content.assay, "assays": list(self._content.assays)}
        return self._described(
            {
                **(assays if self._content.assay else {}),
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
            If values of type `dtype` cannot be `fill`.
        """
        nodes = replace(self._nodes, fill=check_fill(fill, self.dtype))
        return MaskedNeuroVec(Handle(self._handle.locator), replace(self._content, nodes=nodes))

    # Creating -------------------------------------------------------------------------------

    @classmethod
    @takes(StoreOptions)
    def create(  # noqa: PLR0913
        cls,
        source: Any,
        url: str | os.PathLike[str],
        *,
        mask: Any,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        space_name: str | int | None = None,
        metadata: Mapping[str, Any] | None = None,
        fill: Fill = 0,
        **options: Unpack[StoreOptions],
    ) -> Self:
        """Store the voxels of a mask of a run, and open that.

        Parameters
        ----------
        source : path, nibabel image, stored run, or array_like of shape (X, Y, Z, T)
            A path or URL is that of a NIfTI file or a store.
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` for Zarr.
        mask : stored object, nibabel image, path, or array_like of shape (X, Y, Z)
            Voxels that are not zero (NaN counts as zero); an image lies on the grid of `source`.
        space : NeuroSpace or (4, 4) affine, optional
            For arrays; by default the grid of the mask, where that is no array.
        tr : float, optional
            Repetition time in seconds; comes before that of a file or image.
        slope, inter : float or ndarray (T,), optional
            For arrays of stored values: the scaled value is ``stored * slope + inter``.
        space_name : str or int, optional
            Name of the space that the image is in; comes before what the image says, and exported
            headers have the codes of that space.
        metadata : mapping, optional
            What else is known, as JSON holds it; comes before what the source says, such as the
            BIDS sidecar beside a file.
        fill : int or float
            What voxels outside the mask are read as.
        **options
            `StoreOptions`.

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
        source, url = in_order(source, url)
        target = Target.of(url, options)
        with as_source(
            source,
            space=space,
            tr=tr,
            slope=slope,
            inter=inter,
            space_name=space_name,
            metadata=metadata,
            storage_options=target.storage_options,
            like=mask,
        ) as run:
            run.check_run()
            voxels = chosen_voxels(run, mask, target.storage_options)
            made: Self = store_as(cls, target, voxel_reader(run, voxels), target.matrix(fill))
        return made

    def _create_args(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        others = [name for name in self.part_names if name != self._content.assay]
        if others:
            warn(
                f"{shown(self.url)}: only the assay {shown(self._content.assay)} of the frame is "
                f"stored again; part(name) gives the others: {shown(', '.join(others[:20]))}",
                UserWarning,
            )
        return (self,), {"mask": self.mask, "fill": self.fill}

    def _facts(self) -> dict[str, str]:
        stored, whole = self._nodes.count, math.prod(self.shape[:3])
        facts = super()._facts() | {"stored": f"{stored} of {whole} voxels"}
        if self._content.assay:
            of = f" of {', '.join(self.part_names[:5])}" if self.part_names else ""
            facts["assay"] = f"assay {self._content.assay}{of}"
        return facts
