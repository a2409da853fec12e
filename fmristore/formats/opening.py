"""From a store, or the path of one, to the object that it holds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fmristore.formats.registry import (
    FORMAT,
    Layout,
    StoreView,
    find_format,
    formats,
    layouts_of,
    load_layout_plugins,
)
from fmristore_stores.errors import UnknownFormatError
from fmristore_stores.io.location import exists
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import Group

__all__ = ["open_handle", "open_url"]


def open_handle(handle: Handle, *, expected_format: str | None = None) -> Any:
    """Open what the store of a handle holds, in the layout of fmristore or of the R package.

    Parameters
    ----------
    handle : Handle
        The store; closing it is up to the caller if this raises.
    expected_format : str, optional
        Name of the format that it must be.

    Raises
    ------
    UnknownFormatError
        If it holds no format that is known here, or not that one.
    UnsupportedVersionError
        If it was written by a newer fmristore.
    """
    view = StoreView(handle)
    url = handle.locator.url
    if FORMAT in view.attributes:
        cls = find_format(view.attributes, url=url, expected_format=expected_format)
        found = next((layout for layout in layouts_of(cls) if layout.detect(view)), None)
        return cls(handle) if found is None else cls(handle, found.read(handle))
    cls, layout = _detect(view)
    if expected_format is not None and cls.format_name != expected_format:
        raise UnknownFormatError(
            f"expected format {expected_format!r} and found {cls.format_name!r} in the layout "
            f"{layout.name!r}",
            url=url,
        )
    return cls(handle, layout.read(handle))


def _detect(view: StoreView) -> tuple[Any, Layout]:
    """Format and layout of a store that does not say them, written by other software."""
    load_layout_plugins()
    for cls in formats().values():
        for layout in layouts_of(cls):
            if layout.detect(view):
                return cls, layout
    what = "the store is readable"
    locator = view.handle.locator
    if locator.kind == "zarr" and exists(f"{locator.url.rstrip('/')}/.zgroup", locator.options):
        what = "a Zarr store of format 2, which is readable"
    if locator.kind == "reference" and (groups := _groups(view.root)):
        what = f"a reference file of {groups}, one of which group= names: as a whole it is readable"
    raise UnknownFormatError(
        f"{what} but holds no format of fmristore, neither this one nor that of the R package: "
        "give an array of it, as h5py, zarr or xarray reads it, with its affine (space=)",
        url=view.handle.locator.url,
    )


def _groups(root: Group) -> str:
    """Names of the first groups of a store; empty if there is none."""
    found = [name for name, child in root.children().items() if child.kind == "group"]
    return ", ".join(map(repr, found[:5])) + (f" and {len(found) - 5} more" if found[5:] else "")


@contextlib.contextmanager
def open_url(url: str, storage_options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """Open what the store at a URL holds, and close it again.

    Parameters
    ----------
    url : str
        Normalised.
    storage_options : mapping, optional
        Passed to fsspec.

    Raises
    ------
    NotFoundError, UnknownFormatError, UnsupportedVersionError
        See `fmristore.open`.
    """
    handle = Handle(locate(url, storage_options=storage_options))
    try:
        yield open_handle(handle)
    finally:
        handle.close()
