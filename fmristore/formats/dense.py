"""What stored volumes and runs share: they are created, read, and go elsewhere as NIfTI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fmristore.formats.create import create_image, image_options
from fmristore.formats.dense_reading import ReadableImage
from fmristore.formats.opening import opened
from fmristore.formats.profiles import Profile, find_profile
from fmristore.formats.stored import StoredArray
from fmristore.imagesource import ImageSource, image_source
from fmristore.layout import Access, Order
from fmristore.progress import Progress
from fmristore.space import NeuroSpace
from fmristore.text import parse_size
from fmristore_stores.errors import FmristoreError, InvalidInputError, LossyError, MetadataError
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    from fmristore.nifti import NiftiHeader

__all__ = ["DenseImage"]

_MOST_BYTES = 64 << 20
"""Bytes that a stored header with its extensions may have, and what followed the numbers."""


class DenseImage(ReadableImage):
    """What volumes and runs share: a stored array of numbers on a grid in space.

    Parameters
    ----------
    handle : Handle
        Store that holds the image.
    parts : ImageParts, optional
        Where in the store its parts are; the root group is the image by default.

    Raises
    ------
    MetadataError
        If a node or attribute that the format asks for is missing or wrong.
    """

    # Going elsewhere ------------------------------------------------------------------------

    @cached_property
    def header_bytes(self) -> bytes:
        """NIfTI header and extensions: the source's own bytes, if there was one."""
        if self._parts.header:
            return self._read_bytes(self._parts.header)
        from fmristore.nifti import make_header

        scaling = self._parts.scaling
        if scaling is None or scaling.per_volume:
            return make_header(self.space, self._spec.dtype)
        return make_header(
            self.space,
            self._spec.dtype,
            slope=float(scaling.slope),
            inter=float(scaling.inter),
        )

    @cached_property
    def trailer_bytes(self) -> bytes:
        """Bytes that followed the numbers in the NIfTI source, usually none."""
        folder, _, name = self._parts.trailer.rpartition("/")
        root = self._handle.store.root
        group = root.group(folder) if folder else root
        return self._read_bytes(self._parts.trailer) if name in group.children() else b""

    def _read_bytes(self, name: str) -> bytes:
        values = StoredArray(self._handle, name).read_small(_MOST_BYTES)
        if values.dtype != np.uint8 or values.ndim != 1:
            raise MetadataError(
                f"holds {values.dtype} of shape {values.shape}, expected a row of uint8",
                url=self.url,
                node=name,
            )
        return values.tobytes()

    @property
    def nifti_header(self) -> NiftiHeader:
        """The stored NIfTI header, parsed.

        Raises
        ------
        MetadataError
            If it is damaged.
        """
        from fmristore.nifti import parse_header

        raw = self.header_bytes
        try:
            return parse_header(raw)
        except FmristoreError as error:
            raise MetadataError(
                f"the stored NIfTI header is damaged: {error.message}", url=self.url, node="nifti"
            ) from error

    @property
    def header(self) -> Any:
        """The NIfTI header as a nibabel object (a copy).

        Raises
        ------
        MetadataError
            If the stored header is damaged.
        """
        return self.nifti_header.to_nibabel()

    def to_nifti(
        self,
        url: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 28,
        progress: Progress | None = None,
    ) -> None:
        """Write the image as NIfTI: the header, extensions and stored numbers of its source.

        Uncompressed, the file is identical byte for byte to the uncompressed source of the same
        kind (single file or pair).

        Parameters
        ----------
        url : str or path
            ``.nii``, ``.nii.gz``, or ``.hdr``/``.img`` for a pair.
        overwrite : bool
            Replace what is there.
        storage_options : mapping, optional
            Passed to fsspec.
        max_memory : int or str
            Bytes that the volumes being written may take.
        progress : callable, optional
            Called with the bytes done and in all.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        LossyError
            If every volume has its own slope, which NIfTI cannot say.
        MetadataError
            If the stored header is damaged, or is that of other numbers.
        CorruptDataError
            If a chunk is damaged or missing.
        """
        max_memory = parse_size(max_memory)
        from fmristore.export import export_nifti

        if self._parts.scaling is not None and self._parts.scaling.per_volume:
            raise LossyError(
                "NIfTI has one slope for all volumes and this image has one for each; "
                "export np.asarray(image) instead",
                url=self.url,
            )
        header = self.nifti_header
        form = self.shape, self._spec.dtype, len(self.stored_dtype.names or ())
        if (header.space.shape, header.dtype, header.colors) != form:
            raise MetadataError(
                f"the stored NIfTI header is that of other numbers, of shape {header.space.shape} "
                f"and type {header.dtype}",
                url=self.url,
                node="nifti",
            )
        export_nifti(
            self._copies.for_volumes.streaming_reader(),
            header=header.raw,
            trailer=self.trailer_bytes,
            url=url,
            overwrite=overwrite,
            storage_options=storage_options,
            max_memory=max_memory,
            progress=progress,
        )

    def as_source(self, *, max_memory: int | str = 1 << 28, nifti: bool = False) -> ImageSource:
        """The image as the source of another one, with its header and stored numbers."""
        max_memory = parse_size(max_memory)
        from fmristore.formats.dense_source import DenseSource

        del max_memory, nifti
        return DenseSource(self)

    def to_nibabel(self) -> Any:
        """Lazy nibabel image: goes into nilearn and reads only what is asked of it.

        Returns
        -------
        nibabel.Nifti1Image or Nifti2Image
        """
        from fmristore.interop.nibabel import to_nibabel

        return to_nibabel(self)

    # Creating -------------------------------------------------------------------------------

    @classmethod
    def create(  # noqa: PLR0913
        cls,
        url: str | os.PathLike[str],
        data: Any,
        *,
        space: NeuroSpace | AnyArray | None = None,
        tr: float | None = None,
        slope: float | AnyArray | None = None,
        inter: float | AnyArray | None = None,
        access: Access = "time",
        codec: str | None = None,
        order: Order | None = None,
        profile: Profile | None = None,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        max_memory: int | str = 1 << 30,
        progress: Progress | None = None,
    ) -> Self:
        """Store an image and open it.

        Parameters
        ----------
        url : str or path
            New store: ``.h5`` for HDF5, ``.zarr`` (best ``.ome.zarr``) for Zarr.
        data : path, stored image, nibabel image, or array_like (X, Y, Z) or (X, Y, Z, T)
            A path or URL is that of a NIfTI file, whose header is kept byte for byte, or of a
            store.
        space : NeuroSpace or (4, 4) affine, optional
            Needed for arrays.
        tr : float, optional
            Repetition time in seconds, for an affine alone.
        slope, inter : float or ndarray (T,), optional
            For arrays of stored numbers: the number meant is ``stored * slope + inter``, with one
            slope and intercept for all volumes or one for each.
        access : {"time", "volume", "balanced", "both"}
            What is read most. ``"both"`` stores a run twice, for time and for volumes, and every
            read takes the copy that has less to decode for it.
        codec : str, optional
            Preset; ``"portable"`` for HDF5 and ``"dual"`` for Zarr by default.
        order : {"auto", "canonical"}, optional
            Order inside chunks; ``"canonical"`` by default for the preset ``"portable"``.
        profile : {"r"}, optional
            Write an HDF5 file exactly as the R package does, scaled numbers as floating-point
            ones; see ``docs/reference/r.md``.
        overwrite : bool
            Replace what is there, once the new store is complete.
        storage_options : mapping, optional
            Passed to fsspec.
        max_memory : int or str
            Bytes that writing may take.
        progress : callable, optional
            Called with the bytes done and in all.

        Returns
        -------
        NeuroVol or NeuroVec
            The new image, opened.

        Raises
        ------
        AlreadyExistsError
            If there is something at `url` and `overwrite` is false.
        InvalidInputError
            If the data have another number of axes, or are not an image.
        """
        max_memory = parse_size(max_memory)
        with opened(data, storage_options) as image:
            source = image_source(
                image, space=space, tr=tr, slope=slope, inter=inter, storage_options=storage_options
            )
            if len(source.space.shape) != len(cls.axes):
                raise InvalidInputError(
                    f"{cls.__name__} takes data with axes {', '.join(cls.axes)}; "
                    f"these have the shape {source.space.shape}"
                )
            create_image(
                url,
                source,
                options=image_options(
                    url,
                    access=access,
                    codec=codec,
                    order=order,
                    profile=profile,
                    max_memory=max_memory,
                ),
                profile=profile,
                overwrite=overwrite,
                storage_options=storage_options,
                progress=progress,
            )
        handle = Handle(locate(url, storage_options=storage_options), fresh=True)
        if profile is not None:
            made: Self = find_profile(profile, "dense", url).open_r(handle)
            return made
        return cls(handle)

    def _content(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (self,), {"access": self.access or "time"}

    def save(self, url: str | os.PathLike[str], **options: Any) -> Self:
        """Docstring inherited."""
        if self.access == "both" and options.get("profile") is not None:
            options["access"] = options.get("access") or "time"  # which has no second copy
        return super().save(url, **options)
