"""Stored images as lazy nibabel images."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Protocol

import nibabel
import numpy as np
from numpy.typing import DTypeLike

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import AnyArray

if TYPE_CHECKING:
    import nibabel

    from fmristore.model.space import NeuroSpace
    from fmristore.nifti import NiftiHeader

__all__ = ["ImageProxy", "LazyImage", "to_nibabel"]


class LazyImage(Protocol):
    """Contents of a lazy nibabel image."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the scaled values."""

    @property
    def space(self) -> NeuroSpace:
        """Grid, and TR."""

    @property
    def affine(self) -> AnyArray:
        """(4, 4): voxel to mm."""

    @property
    def slope(self) -> Any:
        """Scale factor of the stored values."""

    @property
    def inter(self) -> Any:
        """Offset of the stored values."""

    @property
    def nifti_header(self) -> NiftiHeader:
        """A NIfTI header for it."""

    @property
    def raw(self) -> Any:
        """Stored values, indexed likewise."""

    def read(self, index: Any = ..., *, dtype: DTypeLike | None = None) -> Any:
        """Read a part."""


class ImageProxy:
    """Array proxy of a stored image, as nibabel and nilearn expect one.

    Indexing and `numpy.asarray` read scaled values. nilearn asks a proxy for ``slope`` and
    ``inter`` to find out whether values still have to be scaled: they have not, so these are 1
    and 0; what the store applies is ``stored_slope`` and ``stored_inter``.

    Parameters
    ----------
    image : LazyImage
        Read from a copy of it, which has its own hold on the store: the proxy outlives the image's
        ``close``. Copies and pickles by its locator.

    References
    ----------
    https://nipy.org/nibabel/devel/biaps/biap_0003.html and ``nibabel/arrayproxy.py``.
    """

    slope = 1.0
    inter = 0.0

    def __init__(self, image: LazyImage) -> None:
        self._image = copy.copy(image)

    @property
    def image(self) -> LazyImage:
        """Stored image that is read from."""
        return self._image

    @property
    def is_proxy(self) -> bool:
        """Always true: this stands for an array that is not in memory."""
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes, (X, Y, Z) or (X, Y, Z, T)."""
        return self._image.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._image.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the scaled values."""
        return self._image.dtype

    @property
    def stored_slope(self) -> Any:
        """Factor of the stored values."""
        return 1.0 if self._image.slope is None else self._image.slope

    @property
    def stored_inter(self) -> Any:
        """Offset that is added to them then."""
        return 0.0 if self._image.inter is None else self._image.inter

    def __getitem__(self, index: Any) -> Any:
        return self._image.read(index)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's protocol
    ) -> AnyArray:
        if copy is False:
            raise InvalidInputError("a stored image cannot become an array without a copy")
        return np.asarray(self._image.read(dtype=dtype))

    def get_unscaled(self) -> AnyArray:
        """Stored values of the whole image."""
        return np.asarray(self._image.raw)

    def reshape(self, *shape: Any) -> AnyArray:
        """Read the whole image and give it another shape."""
        return np.asarray(self).reshape(*shape)


def to_nibabel(image: LazyImage) -> nibabel.Nifti1Image:
    """Lazy nibabel image of a stored one, with the header of its source.

    Parameters
    ----------
    image : LazyImage
        May be closed afterwards: the nibabel image has its own hold on the store, which is given
        up when that image is.

    Returns
    -------
    nibabel.Nifti1Image or nibabel.Nifti2Image
        Its ``dataobj`` is an `ImageProxy`; the header says the type of the scaled values.
    """
    from fmristore.nifti.writer import reframe

    header = reframe(image.nifti_header, single=True).to_nibabel()
    header.set_slope_inter(None, None)
    header.set_data_shape(image.shape)
    _unify_units(header, image.space)
    _normalise_quaternion(header)
    if image.dtype.names is None:
        header.set_data_dtype(image.dtype)
    second = isinstance(header, nibabel.Nifti2Header)
    cls: Any = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    made: nibabel.Nifti1Image = cls(ImageProxy(image), np.array(image.affine), header)
    return made


def _normalise_quaternion(header: Any) -> None:
    """Shorten a quaternion that rounding made longer than 1, which nibabel would refuse."""
    names = ["quatern_b", "quatern_c", "quatern_d"]
    vector = np.array([header[name] for name in names], dtype=np.float64)
    length = float(np.linalg.norm(vector))
    if 1.0 < length < np.inf:
        for name, value in zip(names, vector / length, strict=True):
            header[name] = value


def _unify_units(header: Any, space: NeuroSpace) -> None:
    """Let a header give lengths in mm, as the affine does, and times in seconds."""
    length, time = header.get_xyzt_units()
    zooms = list(header.get_zooms())
    if length in ("meter", "micron"):
        length, zooms[:3] = "mm", space.spacing
    if time in ("msec", "usec"):
        time = "sec"
    if space.time_points is not None and time in ("sec", "unknown"):
        zooms[3] = space.tr or 0.0
        header["toffset"] = space.time_offset
    header.set_xyzt_units(length, time)
    header.set_zooms(zooms)
