"""Virtual Zarr stores beyond reference files: versions in Icechunk, objects of VirtualiZarr."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fmristore.references.draft import Draft, Drafted
from fmristore_stores.grid import chunk_region, grid_shape
from fmristore_stores.io.location import is_local, normalise
from fmristore_stores.reference.document import Chunks, Target, TargetFacts, compose
from fmristore_stores.reference.metadata import DIMENSIONS, parse_array
from fmristore_stores.reference.store import ReferenceStore
from fmristore_stores.zarr.virtual import (
    Version,
    VirtualArray,
    VirtualTree,
    commit,
    open_version,
    to_manifests,
)

__all__ = ["Version", "manifest_store", "open_icechunk", "write_version"]


def open_icechunk(
    url: str | os.PathLike[str],
    version: str = "main",
    *,
    targets: Sequence[str | os.PathLike[str]] = (),
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Open a version of an Icechunk repository, as a store that zarr-python and xarray read.

    Parameters
    ----------
    url : str or path
        The repository: a local folder, or ``s3://``.
    version : str
        A tag, a branch, or a snapshot as `VirtualReport.version` names it.
    targets : sequence of str or path
        Folders or buckets that it may refer to, besides its own folder or bucket.
    storage_options : mapping, optional
        As fsspec takes them: ``key``, ``secret``, ``token``, ``anon``, ``endpoint_url`` and
        ``client_kwargs`` with ``region_name``. By default of the environment.

    Returns
    -------
    icechunk.IcechunkStore
        Read-only. Give it to ``zarr.open_group``, or to ``xarray.open_datatree`` with
        ``engine="zarr", consolidated=False``.

    Raises
    ------
    NotFoundError
        If there is no repository, or no such version.
    LayoutNotSupportedError
        If it refers to a place that `targets` does not name.
    DependencyError
        If icechunk is not installed.

    Examples
    --------
    >>> import fmristore as fs
    >>> import xarray as xr
    >>> store = fs.open_icechunk("study.icechunk", "release-1")               # doctest: +SKIP
    >>> xr.open_datatree(store, engine="zarr", consolidated=False)            # doctest: +SKIP
    """
    allowed = [normalise(item) for item in targets]
    return open_version(normalise(url), version, storage_options or {}, allowed)


def write_version(
    url: str,
    drafts: Mapping[str, Drafted],
    options: Mapping[str, Any],
    version: Version,
    check: Callable[[], None],
) -> str:
    """Commit groups to a repository; returns the snapshot.

    Parameters
    ----------
    url : str
        Of the repository, normalised.
    drafts : mapping
        Descriptions of the sources, by the names of their groups.
    options : mapping
        fsspec's storage options.
    version : Version
        How the version is called.
    check : callable
        Called before it is committed; may raise.

    Raises
    ------
    AlreadyExistsError, ChangedError, DependencyError, LayoutNotSupportedError, StorageError
        See `fmristore.virtualize`.
    """
    trees = {name: _tree(*drafted) for name, drafted in drafts.items()}
    return commit(url, trees, options, version, check)


def manifest_store(drafts: Mapping[str, Drafted], options: Mapping[str, Any]) -> Any:
    """Groups as a store of VirtualiZarr; see `fmristore.virtualize`."""
    return to_manifests({name: _tree(*drafted) for name, drafted in drafts.items()}, options)


def _tree(draft: Draft, url: str, facts: TargetFacts, known_by: str) -> VirtualTree:
    """Content of a source, without the words of any format."""
    place = f"file://{url}" if is_local(url) else url
    data = b"".join(compose(draft.small, draft.tables, [Target(place, facts, known_by)]))
    with ReferenceStore(data, url=url, targets=[url]) as store:
        groups, arrays = {}, {}
        pending = [store.root]
        while pending:
            group = pending.pop()
            groups[group.path] = group.read_attributes()
            for name, child in group.children().items():
                if child.kind == "group":
                    pending.append(group.group(name))
                    continue
                array = group.array(name)
                arrays[array.path] = _array(draft, array)
    etag = "" if known_by else facts.etag  # that of a store is of none of its chunks
    return VirtualTree(groups=groups, arrays=arrays, url=place, etag=etag, mtime_ns=facts.mtime_ns)


def _array(draft: Draft, array: Any) -> VirtualArray:
    spec, path = array.spec, array.path
    inline, values = {}, []
    for chunk, data in _inline(draft, path, len(spec.shape)):
        region = chunk_region(chunk, spec.shape, spec.layout.chunks)
        inline[chunk] = data
        values.append((region, array.read(region)))
    document, attributes = draft.small[f"{path}/.zarray"], draft.small[f"{path}/.zattrs"]
    grid = grid_shape(spec.shape, spec.layout.chunks)
    table = draft.tables.get(path, Chunks(grid, np.empty((0, 3), np.int64)))
    return VirtualArray(
        spec=replace(spec, dims=tuple(attributes[DIMENSIONS])),
        stored=parse_array(document, {}).stored,
        attributes=array.read_attributes(),
        rows=table.rows,
        places=table.places,
        inline=inline,
        values=values,
    )


def _inline(draft: Draft, path: str, rank: int) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """Chunks of an array that are part of the draft."""
    prefix = f"{path}/"
    for key, data in draft.small.items():
        if isinstance(data, bytes) and key.startswith(prefix):
            yield tuple(map(int, key[len(prefix) :].split("."))) if rank else (), data
