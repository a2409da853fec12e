"""Creating a store that holds a dense image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fmristore.formats.image.writer import ImageOptions, write_image
from fmristore.formats.profiles import Profile, find_profile
from fmristore.planning.layout import Access, Order
from fmristore.planning.progress import Progress
from fmristore.sources.images import ImageSource
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.io.location import kind_of_name, normalise
from fmristore_stores.publishing.publish import create_store

__all__ = ["create_image", "image_options"]


def image_options(
    url: str | os.PathLike[str],
    *,
    access: Access = "time",
    codec: str | None = None,
    order: Order | None = None,
    profile: Profile | None = None,
    max_memory: int = 1 << 30,
) -> ImageOptions:
    """Fill in what a user left open: an HDF5 file is readable everywhere, by R too.

    Raises
    ------
    InvalidInputError
        If a profile is to have two copies.
    """
    if profile is not None and access == "both":
        raise InvalidInputError(
            "the layout of the R package has no second copy: access must be another than 'both'",
            url=normalise(url),
        )
    chosen = codec or ("portable" if kind_of_name(normalise(url)) == "hdf5" else "dual")
    if order is None:
        order = "canonical" if chosen == "portable" or profile is not None else "auto"
    return ImageOptions(access=access, codec=chosen, order=order, max_memory=max_memory)


def create_image(
    url: str | os.PathLike[str],
    source: ImageSource,
    *,
    options: ImageOptions,
    profile: Profile | None = None,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> None:
    """Store an image; it appears at `url` when complete."""
    writer = write_image
    if profile is not None:
        writer = find_profile(profile, "dense", url).write_image
    with create_store(url, overwrite=overwrite, storage_options=storage_options) as store:
        writer(store, source, options, progress=progress)
