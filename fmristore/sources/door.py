"""The one door: whatever a user hands in becomes an image in blocks, or a volume in memory.

Data, masks, labels and weights all come in here, by the path or URL of a store, of a NIfTI file or
of another file that nibabel reads, or as an object: something stored, a nibabel image, or an array
of numpy, dask or xarray. A path and the object that it leads to give the same.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fmristore.model.space import NeuroSpace
from fmristore.planning.text import parse_size
from fmristore.sources.arrays import (
    as_array,
    check_coordinates,
    check_on_grid,
    check_tr,
    on_shape,
    sliceable,
)
from fmristore.sources.facts import metadata_of, with_facts
from fmristore.sources.files import (
    is_foreign,
    open_foreign,
    open_unnamed,
    refuse_surface,
    refuse_surface_object,
)
from fmristore.sources.grids import other_shape
from fmristore.sources.images import (
    ArraySource,
    ImageSource,
    NiftiSource,
    in_axis_order,
    is_nibabel,
    nibabel_source,
)
from fmristore.sources.others import explained
from fmristore_stores.errors import InvalidInputError, UnknownFormatError
from fmristore_stores.io.location import detect_kind, name_of, normalise
from fmristore_stores.protocol import AnyArray

__all__ = [
    "Volume",
    "as_source",
    "check_url",
    "has_grid",
    "in_order",
    "is_path",
    "load_volume",
    "open_each_path",
    "open_if_path",
    "source_of",
    "space_for",
]

_OPENING = "fmristore.formats.opening"
"""Opens stores. Formats are above this module, and loaded by name when a store is met."""


def is_path(given: Any) -> bool:
    """Return whether something is a path or URL, not an object."""
    return isinstance(given, str | os.PathLike)


def in_order(*given: Any) -> tuple[Any, ...]:
    """Put the URL of a new store behind what is stored in it, where it was given first.

    What is stored comes first, then where it goes. If the last is no path, or that of an image
    file, and the first is a path that is not, then only the first can be the URL.

    Raises
    ------
    InvalidInputError
        If neither can be the URL.
    """
    first, *others = given
    if _may_be_store(first) and not _may_be_store(given[-1]):
        return (*others, first)
    check_url(given[-1])
    return given


def check_url(url: Any) -> None:
    """Refuse what is no path or URL where one is needed.

    Raises
    ------
    InvalidInputError
        If it is something else.
    """
    if not is_path(url):
        raise InvalidInputError(
            "what is stored comes first, then the URL of the new store: "
            f"a {type(url).__name__} stands where the URL does"
        )


def _may_be_store(given: Any) -> bool:
    """Return whether something is a path or URL, and not by its name an image file."""
    return is_path(given) and not _is_image_file(normalise(given))


def has_grid(given: Any) -> bool:
    """Return whether something says by itself where its voxels lie; an array does not."""
    known = isinstance(getattr(given, "space", None), NeuroSpace)
    return known or is_path(given) or is_nibabel(given)


# From a path to what lies there ---------------------------------------------------------------


@contextlib.contextmanager
def open_if_path(given: Any, storage_options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Open what a path or URL leads to, and close it again; an object is returned as it is.

    Parameters
    ----------
    given : path, URL, or anything else
        A path may be that of a store of any format, of a NIfTI file, or of another image that
        nibabel reads.
    storage_options : mapping, optional
        For a URL.

    Yields
    ------
    stored object, NiftiSource, nibabel image, or `given`

    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    UnknownFormatError, UnsupportedVersionError
        If what is there cannot be read; the message says what it is, where that can be seen.
    """
    if not is_path(given):
        refuse_surface_object(given)
        yield given
        return
    url = normalise(given)
    refuse_surface(url)
    with contextlib.ExitStack() as stack:
        with explained(url, storage_options):
            found = _open(url, storage_options, stack)
        yield found


def _open(url: str, storage_options: Mapping[str, Any] | None, stack: contextlib.ExitStack) -> Any:
    """Open what lies at a URL until the stack is closed."""
    if is_foreign(url):
        return stack.enter_context(open_foreign(url, storage_options))
    if _is_store(url, storage_options):
        opening: Any = importlib.import_module(_OPENING)
        return stack.enter_context(opening.open_url(url, storage_options))
    return _nifti(url, storage_options, stack)


@contextlib.contextmanager
def open_each_path(given: Any, storage_options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """As `open_if_path`, for each value of a mapping or each item of a sequence.

    Parameters
    ----------
    given : mapping, sequence, or anything else
        What is neither mapping, list nor tuple is taken as one.
    storage_options : mapping, optional
        For URLs.
    """
    with contextlib.ExitStack() as stack:

        def enter(one: Any) -> Any:
            return stack.enter_context(open_if_path(one, storage_options))

        if isinstance(given, Mapping):
            yield {name: enter(one) for name, one in given.items()}
        elif isinstance(given, list | tuple):
            yield [enter(one) for one in given]
        else:
            yield enter(given)


def _is_image_file(url: str) -> bool:
    """Return whether a URL is, by its name, that of an image file."""
    from fmristore.nifti import is_nifti_name

    return is_nifti_name(name_of(url)) or is_foreign(url)


def _is_store(url: str, storage_options: Mapping[str, Any] | None) -> bool:
    """Return whether a URL is that of a store, not of an image file."""
    if _is_image_file(url):
        return False
    if name_of(url).lower().endswith(".json"):  # references to chunks of other files
        return True
    try:
        detect_kind(url, dict(storage_options or {}))
    except UnknownFormatError:
        return False
    return True


def _nifti(url: str, storage_options: Mapping[str, Any] | None, stack: contextlib.ExitStack) -> Any:
    """A NIfTI image; or a pair of files of ANALYZE, whose names are the same."""
    from fmristore.nifti.files import split_name

    try:
        return NiftiSource(url, storage_options=storage_options)
    except UnknownFormatError as error:
        name = split_name(url)
        if name is None or name.suffix.lower() == ".nii":
            found = None if name else stack.enter_context(open_unnamed(url, storage_options))
            if found is None:
                raise
            return found
        try:
            return stack.enter_context(open_foreign(url, storage_options))
        except UnknownFormatError:
            raise error from None


# An image in blocks ---------------------------------------------------------------------------


@contextlib.contextmanager
def as_source(  # noqa: PLR0913
    given: Any,
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    slope: float | AnyArray | None = None,
    inter: float | AnyArray | None = None,
    space_name: str | int | None = None,
    metadata: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    max_memory: int | str = 1 << 28,
    like: Any = None,
) -> Iterator[ImageSource]:
    """Understand whatever a user gives as the data of an image; what is opened is closed again.

    Parameters
    ----------
    given : path, URL, stored image, nibabel image, or array_like (X, Y, Z) or (X, Y, Z, T)
        A path or URL is that of a store, a NIfTI file, or another file that nibabel reads. A
        stored image is one of any format; it must stay open until the last block was read.
    space : NeuroSpace or ndarray, (4, 4), optional
        Needed for arrays: the grid, or the affine alone (voxel to mm, RAS+).
    tr : float, optional
        Repetition time in seconds; comes before that of a file or image. Not for a NeuroSpace
        with time, which has its own.
    slope, inter : float or ndarray (T,), optional
        For arrays of stored values: the scaled value is ``stored * slope + inter``.
    space_name : str or int, optional
        Name of the space that the image is in; comes before what the image says.
    metadata : mapping, optional
        What else is known of it; comes before what the image, or the sidecar beside its file, says.
    storage_options : mapping, optional
        For a URL.
    max_memory : int or str
        Bytes that a stored image may take to transpose its values.
    like : object, optional
        Mask or labels, whose grid an array has that comes without `space`.

    Yields
    ------
    ImageSource

    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    UnknownFormatError, UnsupportedVersionError
        If what is there cannot be read.
    InvalidInputError
        If the data are not an image, an array comes without its space, or an image with one.
    """
    with open_if_path(given, storage_options) as found:
        yield source_of(
            found,
            space=space_for(found, like, storage_options) if space is None else space,
            tr=tr,
            slope=slope,
            inter=inter,
            space_name=space_name,
            metadata=metadata,
            max_memory=max_memory,
        )


def source_of(  # noqa: PLR0913
    found: Any,
    *,
    space: NeuroSpace | AnyArray | None = None,
    tr: float | None = None,
    slope: float | AnyArray | None = None,
    inter: float | AnyArray | None = None,
    space_name: str | int | None = None,
    metadata: Mapping[str, Any] | None = None,
    max_memory: int | str = 1 << 28,
) -> ImageSource:
    """Turn what `open_if_path` returns into an image in blocks: see `as_source`."""
    max_memory = parse_size(max_memory)
    tr = check_tr(tr)
    if tr is None and isinstance(space, NeuroSpace):
        check_tr(space.tr)
    image: ImageSource | None = None
    if isinstance(found, ImageSource):
        image = found
    elif hasattr(found, "as_source"):
        image = found.as_source(max_memory=max_memory)
        image.stored, image.url = found, getattr(found, "url", None)
        image.metadata = metadata_of(found)
    elif is_nibabel(found):
        image = nibabel_source(found)
    if image is None:
        image = _array_source(found, space, tr, slope, inter)
        return with_facts(image, space_name=space_name, metadata=metadata)
    if any(option is not None for option in (space, slope, inter)):
        raise InvalidInputError(
            "space, slope and inter are for arrays: a file or image has its own", url=image.url
        )
    if isinstance(image, NiftiSource):
        image = image.described(tr)
    return with_facts(image, tr=tr, space_name=space_name, metadata=metadata)


def space_for(
    given: Any, like: Any, storage_options: Mapping[str, Any] | None = None
) -> NeuroSpace | None:
    """Grid of an array that comes without one: that of the mask or labels beside it.

    Parameters
    ----------
    given : object
        Array, or mapping or list of arrays. What has a grid of its own needs none.
    like : object
        Mask or labels, by path or as an object.
    storage_options : mapping, optional
        For its URL.

    Returns
    -------
    NeuroSpace or None
        Without time; None where `given` has a grid, or `like` none.

    Raises
    ------
    InvalidInputError
        If an array of xarray has coordinates of another grid.
    """
    several = given.values() if isinstance(given, Mapping) else given
    one_by_one = several if isinstance(given, list | tuple | Mapping) else (given,)
    if any(has_grid(one) or isinstance(one, ImageSource) for one in one_by_one):
        return None
    if not (has_grid(like) or isinstance(like, ImageSource)):
        return None
    with open_if_path(like, storage_options) as found:
        own = getattr(found, "space", None)
        space = own if isinstance(own, NeuroSpace) else source_of(found).space
    for one in one_by_one:
        check_on_grid(one, space)
    return space.without_time()


def _array_source(
    given: Any,
    space: NeuroSpace | AnyArray | None,
    tr: float | None,
    slope: float | AnyArray | None,
    inter: float | AnyArray | None,
) -> ImageSource:
    data = sliceable(given)
    shape = data.shape
    if len(shape) not in (3, 4):
        raise InvalidInputError(
            f"data of shape {tuple(shape)}: expected (X, Y, Z) or (X, Y, Z, T){on_shape(shape)}",
            url=getattr(given, "url", None),
        )
    if space is None:
        raise InvalidInputError(
            "an array needs space=: a NeuroSpace, or an affine (4, 4) such as image.affine of the "
            "image that it comes from"
        )
    timed = len(shape) == 4
    if not isinstance(space, NeuroSpace):
        length = shape[3] if timed else None
        grid = tuple(shape[:3])
        space = NeuroSpace(spatial_shape=grid, affine=space, time_points=length, tr=tr)
    elif timed and space.time_points is None:  # a grid alone: runs on it differ in length
        seconds = space.tr if tr is None else tr
        space = space.with_time(shape[3], tr=seconds, time_offset=space.time_offset)
    elif tr is not None:
        raise InvalidInputError("tr goes with an affine; a NeuroSpace has its own")
    check_coordinates(data, space)
    return ArraySource(data, space, slope=slope, inter=inter)


# A volume in memory ---------------------------------------------------------------------------


class Volume(NamedTuple):
    """Scaled values of a volume, and where they belong."""

    values: AnyArray
    """Axes (x, y, z) or (x, y, z, t)."""
    space: NeuroSpace | None
    """Its grid; an array has none."""
    url: str | None
    """Path or URL."""
    form_codes: tuple[int, int] | None = None
    """NIfTI's codes of its sform and qform, if it has a header that says any."""


def load_volume(
    given: Any,
    what: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    shape: tuple[int, ...] | None = None,
) -> Volume:
    """Values of a volume in any form, scaled, in memory.

    Parameters
    ----------
    given : path, stored volume, nibabel image, or array_like
        See `as_source`. As a mask, what is stored with one stands for it.
    what : str
        What it is called in messages, such as ``"mask"``.
    storage_options : mapping, optional
        For a URL.
    shape : tuple of int, optional
        Spatial shape that anything but an array must have; it is looked at before values are read.
        More than one volume is then an error as well.

    Raises
    ------
    InvalidInputError
        If it is not an array of values, or not of that shape.
    """
    with open_if_path(given, storage_options) as found:
        from fmristore.nifti import form_codes

        url = normalise(given) if is_path(given) else getattr(found, "url", None)
        space = getattr(found, "space", None)
        if what == "mask" and isinstance(space, NeuroSpace) and hasattr(found, "mask"):
            return Volume(found.mask, space, url)
        if isinstance(found, ImageSource) or is_nibabel(found):
            _check_shape(found if is_nibabel(found) else found.space, shape, what, url)
            source = found if isinstance(found, ImageSource) else source_of(found)
            _check_shape(source.space, shape, what, url)
            if source.colors:
                raise InvalidInputError(f"a {what} must be numbers, not colours", url=url)
            codes = form_codes(source.header)
            return Volume(source.read(), source.space, url or source.url, codes)
        ordered = in_axis_order(found)
        if not isinstance(ordered, np.ndarray):  # an array is here already
            _check_shape(ordered, shape, what, url)
        values = as_array(ordered, f"{what} is")
        codes = form_codes(getattr(found, "source_header", b""))
        return Volume(values, space if isinstance(space, NeuroSpace) else None, url, codes)


def _check_shape(given: Any, shape: tuple[int, ...] | None, what: str, url: str | None) -> None:
    """Check the shape of a volume before its values are read."""
    found = getattr(given, "shape", None)
    if shape is None or not isinstance(found, tuple):
        return
    if (found[:3] if set(found[3:]) <= {1} else found) != shape:
        raise InvalidInputError(other_shape(f"the {what}", found, shape), url=url)
