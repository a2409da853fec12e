"""Stores by path in nibabel, and in everything that loads images through nibabel, such as nilearn.

`register` is called by the user, not by importing fmristore: it changes a list of another library,
and a hook on its import would make what ``nibabel.load`` takes depend on modules loaded elsewhere.
URLs stay out of reach: ``nibabel.load`` asks ``os.stat`` before any image class, and nilearn looks
for its paths with ``glob``. For these there is ``fmristore.open(url).to_nibabel()``.
"""

from __future__ import annotations

import os
from typing import Any

from nibabel.filebasedimages import FileBasedImage
from nibabel.imageclasses import all_image_classes

from fmristore.api import convert, open  # noqa: A004
from fmristore_stores.errors import InvalidInputError, UnknownFormatError
from fmristore_stores.io.location import HDF5_SUFFIXES, ZARR_SUFFIXES, detect_kind, normalise

__all__ = ["StoredImage", "register"]


def register() -> None:
    """Let ``nibabel.load`` and ``nibabel.save``, and so nilearn, take paths of stores.

    From then on ``nibabel.load("run.h5")`` returns what ``fmristore.open("run.h5").to_nibabel()``
    does: a lazy image with the affine and header of its source. Every function of nilearn that
    takes a path takes that of an HDF5 file, a Zarr store or a reference file. Each process calls
    it once; calling it again does nothing.

    Notes
    -----
    URLs are not taken, because nibabel and nilearn look for a local file first: give them
    ``fmristore.open(url).to_nibabel()``, or a local reference file (`fmristore.virtualize`).

    Examples
    --------
    >>> import fmristore, nilearn.image
    >>> fmristore.register()
    >>> nilearn.image.mean_img("sub-01_task-rest_bold.h5")                    # doctest: +SKIP
    """
    if StoredImage not in all_image_classes:
        all_image_classes.append(StoredImage)


class StoredImage(FileBasedImage):
    """Stores in nibabel's list of image classes; what is loaded is a NIfTI image.

    Parameters
    ----------
    source : nibabel image
        To be stored by `to_filename`.
    """

    valid_exts = (*HDF5_SUFFIXES, *ZARR_SUFFIXES)
    files_types = tuple(("image", suffix) for suffix in valid_exts)

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = source

    @classmethod
    def path_maybe_image(
        cls,
        filename: str | os.PathLike[str],
        sniff: Any = None,
        sniff_max: int = 1024,
    ) -> tuple[bool, Any]:
        """Return whether there is a store at a path, by its first bytes or its ``zarr.json``.

        Reference files go by their name, which ends in ``.refs.json``.

        Parameters
        ----------
        filename : str or path
        sniff : (bytes, str), optional
            Returned as it is.
        sniff_max : int
            Not used.
        """
        del sniff_max
        url = normalise(filename)
        if url.lower().endswith(".refs.json"):
            return True, sniff
        try:
            detect_kind(url)
        except UnknownFormatError:
            return False, sniff
        return True, sniff

    @classmethod
    def from_filename(
        cls, filename: str | os.PathLike[str], *, mmap: Any = None, keep_file_open: Any = None
    ) -> Any:
        """Lazy image of the store at a path.

        Parameters
        ----------
        filename : str or path
        mmap, keep_file_open
            Taken for nibabel's sake, and without effect: nothing is mapped, and the file is open
            as long as the image is used.

        Returns
        -------
        nibabel.Nifti1Image or Nifti2Image
            See `NeuroVec.to_nibabel`.

        Raises
        ------
        InvalidInputError
            If the store holds no image on a grid.
        UnknownFormatError
            If it holds no format that is known here.
        """
        del mmap, keep_file_open
        with open(filename) as found:
            lazy = getattr(found, "to_nibabel", None)
            if lazy is None:
                raise InvalidInputError(
                    f"a {type(found).__name__} is not an image on a grid: open it with "
                    "fmristore.open, which gives its series",
                    url=found.url,
                )
            return lazy()

    load = from_filename

    @classmethod
    def from_image(cls, img: Any) -> StoredImage:
        """The image, to be stored by `to_filename`."""
        return cls(img)

    def to_filename(self, filename: str | os.PathLike[str], **options: Any) -> None:
        """Store the image as `fmristore.convert` does, replacing what is there once complete."""
        convert(self._source, filename, overwrite=True, **options).close()
