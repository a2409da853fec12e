"""Showing a store: a page served on this machine, or one file."""

from __future__ import annotations

import contextlib
import copy
import html
import os
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, overload

from fmristore.api import open as open_store
from fmristore.formats.base import StoredObject
from fmristore.planning.text import parse_size
from fmristore.viewer.content import Content
from fmristore.viewer.document import make_document
from fmristore.viewer.layers import Start, find_part
from fmristore.viewer.server import PageServer
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.io.location import normalise
from fmristore_stores.publishing.publish import publish_file
from fmristore_stores.shown import shown_url

__all__ = ["Viewer", "view"]


class Viewer:
    """A page that is being served; close it, or use it in a ``with`` statement.

    Parameters
    ----------
    stored : StoredObject
        What it shows; closed with the page.
    start : Start, optional
        What it shows first.
    port : int
        Where to listen on 127.0.0.1; 0 for a free one.

    Raises
    ------
    StorageError
        If the port is taken.
    """

    def __init__(self, stored: StoredObject, *, start: Start | None = None, port: int = 0) -> None:
        self._stored = stored
        self._server = PageServer(Content(stored, start), port)
        self._server.start()

    @property
    def url(self) -> str:
        """Address of the page; whoever on this machine has it can read the store."""
        return self._server.url

    def close(self) -> None:
        """Stop serving the page, and release the store."""
        self._server.close()
        self._stored.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Viewer({shown_url(self._stored.url)!r} at {self.url})"

    def _repr_html_(self) -> str:
        address = html.escape(self.url)
        return f'<a href="{address}" target="_blank" rel="noopener">{address}</a>'


@overload
def view(
    source: Any,
    out: None = None,
    *,
    part: str | None = None,
    open_browser: bool = True,
    port: int = 0,
    max_size: int | str = "12MiB",
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    trusted: bool = True,
) -> Viewer: ...
@overload
def view(
    source: Any,
    out: str | os.PathLike[str],
    *,
    part: str | None = None,
    open_browser: bool = True,
    port: int = 0,
    max_size: int | str = "12MiB",
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    trusted: bool = True,
) -> None: ...
@overload
def view(
    source: Any,
    out: str | os.PathLike[str] | None,
    *,
    part: str | None = None,
    open_browser: bool = True,
    port: int = 0,
    max_size: int | str = "12MiB",
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    trusted: bool = True,
) -> Viewer | None: ...
def view(  # noqa: PLR0913
    source: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    part: str | None = None,
    open_browser: bool = True,
    port: int = 0,
    max_size: int | str = "12MiB",
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    trusted: bool = True,
) -> Viewer | None:
    """Look at a store in the browser: slices, the series of a voxel, parcels, costs of reads.

    Parameters
    ----------
    source : path, URL or stored object
        Of any format, local or remote. An object may be closed afterwards.
    out : path, optional
        Write the page as one file instead, which needs neither a server nor a network.
    part : str, optional
        The run, scan or map that is shown first, and of runs and scans the only one in a file.
    open_browser : bool
        Open the page in the browser.
    port : int
        Where to serve the page on 127.0.0.1; a free one by default. For tunnels to a machine
        without a screen.
    max_size : int or str
        For `out`: bytes of values in the file, before they are compressed. What is larger is
        thinned out to every 2nd, 3rd, ... voxel and volume, and the page says so.
    overwrite : bool
        For `out`: replace what is there.
    storage_options : mapping, optional
        For URLs, passed to fsspec.
    trusted : bool
        As of `fmristore.open`.

    Returns
    -------
    Viewer or None
        The page that is served until it is closed; None if a file was written.

    Raises
    ------
    NotFoundError
        If there is nothing at `source`.
    InvalidInputError
        If `source` is neither a path nor a stored object.
    AlreadyExistsError
        If there is something at `out` and `overwrite` is false.
    StorageError
        If the port is taken.

    Examples
    --------
    >>> import fmristore as fs
    >>> page = fs.view("bold.h5")                                             # doctest: +SKIP
    >>> page.close()                                                          # doctest: +SKIP
    >>> fs.view("bold.h5", "bold.html")                                       # doctest: +SKIP
    """
    whole: StoredObject
    if isinstance(source, str | os.PathLike):
        whole = open_store(source, storage_options=storage_options, trusted=trusted)
    elif isinstance(source, StoredObject):
        whole = copy.copy(source)
    else:
        raise InvalidInputError(
            f"a {type(source).__name__} cannot be viewed: give a path, a URL or a stored object"
        )
    with contextlib.ExitStack() as failed:
        failed.callback(whole.close)
        start = None if part is None else find_part(whole, part)
        if out is not None:
            document = make_document(whole, parse_size(max_size), start=start)
            with publish_file(normalise(out), overwrite=overwrite) as path:
                Path(path).write_bytes(document)
            return None
        viewer = Viewer(whole, start=start, port=port)
        failed.pop_all()
    if open_browser:
        webbrowser.open(viewer.url)
    return viewer
