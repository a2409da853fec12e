"""Stores in Zarr format: local directories, and prefixes on whatever fsspec can reach.

Format 3 is read and written, with sharding; format 2 is read. Zarr-python is the authority for
metadata, and the reference for reading and writing data. Plain metadata on a local disk, and those
that a remote root has of all nodes, are understood without it, see `zarr.documents`. Where an
array's codecs allow it, its encoded chunks can also be located and written without zarr-python and
its event loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from fmristore_stores.errors import (
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.io.conditional_put import NewObjects
from fmristore_stores.io.objects import protocols
from fmristore_stores.io.sources import (
    ByteSource,
    Folder,
    FsspecSource,
    LocalSource,
    local_token,
    storage_error,
)
from fmristore_stores.io.stats import stats_of
from fmristore_stores.ledger import Ledger
from fmristore_stores.protocol import Capability
from fmristore_stores.zarr.files import Files, LocalFiles, RemoteFiles
from fmristore_stores.zarr.nodes import ZarrArray, ZarrGroup
from fmristore_stores.zarr.tree import Tree

__all__ = ["ZarrArray", "ZarrGroup", "ZarrStore"]

Mode = Literal["r", "r+", "w"]

_WEB = frozenset({"http", "https"})
_DISK = frozenset({"file", "local"})


class ZarrStore:
    """A Zarr store, opened.

    Parameters
    ----------
    path : str
        Directory, or path inside `fs`.
    mode : {"r", "r+", "w"}
        Read; read and write what exists; make a new store with an empty root group where there is
        none.
    url : str, optional
        Name for messages; `path` if not given.
    source : FsspecSource, optional
        Fetches encoded chunks of a remote store; made if not given.
    fs : AbstractFileSystem, optional
        Filesystem of fsspec that is not asynchronous; without one, the local disk.
    new : NewObjects, optional
        With mode ``"w"`` and `fs`: makes the objects, none of which may exist. The root's metadata
        are kept in memory until `consolidate`, so that nobody takes what is written until then
        for a whole store. Without effect on the local disk, where a finished directory can be
        renamed.
    metadata : bytes, optional
        Content of ``zarr.json`` at the root of a remote store, if it was read a moment ago.
    unpublished : bool
        With mode ``"r+"``: another process makes the store, and its root may not be there yet. Only
        arrays can be opened, by their paths.

    Raises
    ------
    NotFoundError
        If there is nothing at `path`.
    UnknownFormatError
        If what is there is no Zarr group.
    MetadataError
        If the root's metadata are damaged.
    AlreadyExistsError
        If there is a store already and `mode` is ``"w"``.
    ReadOnlyError
        If a store of format 2, or one on a web server, is opened for writing.
    InvalidInputError
        If `mode` is not known.
    StorageError
        If the disk or the service refuses or fails.

    Notes
    -----
    Opening costs one request. Consolidated metadata are used where opening each node would cost a
    request, that is for remote stores in mode ``"r"``; all nodes then come with the root, and one
    that is missing there is looked for in the store. Writing drops consolidated metadata from the
    root before anything else changes; `consolidate` brings them back.

    Not safe to write from several threads at once, except different units by `write_encoded`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from fmristore_stores.spec import ArraySpec, ChunkLayout
    >>> spec = ArraySpec(shape=(4,), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(2,)))
    >>> with ZarrStore(tempfile.mkdtemp(), mode="w") as store:
    ...     array = store.root.create_array("0", spec)
    ...     array.write((slice(1, 3),), [7, 8])
    ...     array.read().tolist()
    [0, 7, 8, 0]
    """

    def __init__(  # noqa: PLR0913
        self,
        path: str,
        *,
        mode: Mode = "r",
        url: str | None = None,
        source: FsspecSource | None = None,
        fs: Any = None,
        new: NewObjects | None = None,
        metadata: bytes | None = None,
        unpublished: bool = False,
    ) -> None:
        if mode not in ("r", "r+", "w"):
            raise InvalidInputError(f"mode {mode!r} is none of 'r', 'r+', 'w'")
        url = url or path
        writable = mode != "r"
        remote = fs is not None and not _DISK & protocols(fs)
        files: Files
        objects: ByteSource
        folder = None
        if remote:
            if writable and _WEB & protocols(fs):
                raise ReadOnlyError("a web server cannot be written", url=url)
            objects = source or FsspecSource(fs)
            files = RemoteFiles(
                fs,
                path,
                objects,
                keep=not writable,
                new=new,
                stats=stats_of(url),
                metadata=metadata,
            )
        else:
            if mode == "w":
                _make_directory(path, url)
            else:
                _check_directory(path, url)
            if not writable:
                folder = Folder(os.path.abspath(path))  # noqa: PTH100
            files = local = LocalFiles(path, folder, durable=mode == "r+", new=mode == "w")
            objects = LocalSource(folder=folder, stats=stats_of(url))
        self._tree = Tree(
            files,
            objects,
            url=url,
            writable=writable,
            use_consolidated=remote and not writable,
            folder=folder,
            version=objects.version,
        )
        self._token = ""
        if folder is not None:
            status = local.status("zarr.json")
            self._token = "" if status is None else local_token(status)
        self._place = path
        if mode == "w":
            self._tree.create()
        elif not unpublished:
            self._tree.open()

    @property
    def url(self) -> str:
        """Path or URL."""
        return self._tree.url

    @property
    def place(self) -> str:
        """Folder, or path in its filesystem, that it is written to; a new one is renamed then."""
        return self._place

    @property
    def capabilities(self) -> Capability:
        """Layouts of every kind and encoded chunks; writing as the mode says."""
        return self._tree.capabilities

    @property
    def root(self) -> ZarrGroup:
        """The group at the top of the tree.

        Raises
        ------
        ClosedError
            If the store is closed.
        """
        return ZarrGroup(self._tree.live(), "")

    @property
    def closed(self) -> bool:
        """True if `close` was called."""
        return self._tree.lifetime.closed

    @property
    def token(self) -> str:
        """Identity of the local store that was opened for reading; empty for any other."""
        return self._token

    @property
    def ledger(self) -> Ledger:
        """List of everything written since it was opened."""
        return self._tree.ledger

    def contradictions(self, nodes: Iterable[str]) -> list[tuple[str, str]]:
        """Nodes of which the root's copy of their metadata is not what they have themselves.

        Parameters
        ----------
        nodes : iterable of str
            Paths of all nodes that are known to exist.

        Returns
        -------
        list of (str, str)
            Path of each node, and what differs; empty where metadata are not consolidated.

        Raises
        ------
        ClosedError
            If the store is closed.
        StorageError
            If the disk or the service failed.

        Notes
        -----
        Two small requests for each node.
        """
        return self._tree.live().contradictions(nodes)

    def close(self) -> None:
        """Release everything; harmless when repeated. What was written is in the files already."""
        self._tree.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def consolidate(self) -> None:
        """Write the metadata of all nodes into the root's, so that opening costs one request.

        To be called once, when everything else is written. With `new`, this is what makes
        the store appear.

        Raises
        ------
        ClosedError, ReadOnlyError
            If the store is closed or open for reading only.
        StorageError
            If writing fails.
        """
        self._tree.live(write=True).consolidate()


def _make_directory(path: str, url: str) -> None:
    try:
        Path(path).mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(error, url) from error


def _check_directory(path: str, url: str) -> None:
    if os.path.isdir(path):  # noqa: PTH112 - a hot path: no Path object
        return
    try:
        if not Path(path).exists():
            raise NotFoundError("there is no such directory", url=url)
        raise UnknownFormatError("this is a file; a Zarr store is a directory", url=url)
    except OSError as error:
        if isinstance(error, NotFoundError):
            raise
        raise StorageError(f"this directory cannot be read: {error}", url=url) from error
