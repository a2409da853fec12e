"""From a store, or the path of one, to the object that it holds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from fmristore.formats.profiles import open_layout
from fmristore.formats.registry import FORMAT, find_format
from fmristore.sources.images import is_store
from fmristore_stores.errors import UnknownFormatError
from fmristore_stores.opening import Handle, locate

__all__ = ["open_handle", "opened", "opened_all"]


def open_handle(handle: Handle, *, insist: str | None = None) -> Any:
    """Open what the store of a handle holds, in the layout of fmristore or of the R package.

    Parameters
    ----------
    handle : Handle
        The store; closing it is up to the caller if this raises.
    insist : str, optional
        Name of the format that it must be.

    Raises
    ------
    UnknownFormatError
        If it holds no format that is known here, or not that one.
    UnsupportedVersionError
        If it was written by a newer fmristore.
    """
    attributes = handle.store.root.read_attributes()
    if FORMAT in attributes:
        cls = find_format(attributes, url=handle.locator.url, insist=insist)
        return cls(handle)
    found = open_layout("r", handle)
    if insist is not None and found.format_name != insist:
        raise UnknownFormatError(
            f"expected format {insist!r} and found {found.format_name!r} of the R package",
            url=handle.locator.url,
        )
    return found


@contextlib.contextmanager
def opened(source: Any, storage_options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """What a user gives as a source: the object in a store if it is the path or URL of one.

    What is opened here is closed again; everything else is left as it is.

    Parameters
    ----------
    source : path, URL, or anything else
        A path may be that of a store of any format, or of another file.
    storage_options : mapping, optional
        For a URL.

    Raises
    ------
    NotFoundError
        If there is nothing at a path.
    UnknownFormatError, UnsupportedVersionError
        See `open_handle`.
    """
    if not (isinstance(source, str | os.PathLike) and is_store(source, storage_options)):
        yield source
        return
    handle = Handle(locate(source, storage_options=storage_options))
    try:
        yield open_handle(handle)
    finally:
        handle.close()


@contextlib.contextmanager
def opened_all(sources: Any, storage_options: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """As `opened`, for each value of a mapping or each item of a sequence.

    Parameters
    ----------
    sources : mapping, sequence, or anything else
        What is neither mapping, list nor tuple is taken as one source.
    storage_options : mapping, optional
        For URLs.
    """
    with contextlib.ExitStack() as stack:

        def enter(source: Any) -> Any:
            return stack.enter_context(opened(source, storage_options))

        if isinstance(sources, Mapping):
            yield {name: enter(source) for name, source in sources.items()}
        elif isinstance(sources, list | tuple):
            yield [enter(source) for source in sources]
        else:
            yield enter(sources)
