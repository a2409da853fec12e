"""Adding scans to a store, and removing them, so that the store is whole at any time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from fmristore.formats.names import encode_name
from fmristore.formats.options import Target
from fmristore.formats.parcellated.inputs import ScanInput, check_names, each_content
from fmristore.formats.parcellated.layout import OwnTree, matrix_blocks, write_scan
from fmristore.sources.parcellation import Parcellation
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.edit import edit_store
from fmristore_stores.errors import (
    ChangedError,
    FmristoreError,
    FormatError,
    MetadataError,
    NotFoundError,
    SelectionError,
    StorageError,
)
from fmristore_stores.opening import Handle, Locator, locate
from fmristore_stores.protocol import Store

__all__ = ["add_requests", "remove_scan"]

_CHECK_BYTES = 64 * 1024 * 1024


def add_requests(
    locator: Locator,
    target: Target,
    parcellation: Parcellation,
    known: Sequence[str],
    requests: Sequence[ScanInput],
) -> None:
    """Add scans to a store.

    Parameters
    ----------
    locator : Locator
        The store as it was opened.
    target : Target
        How to write; its URL is that of the store.
    parcellation : Parcellation
        Of the store.
    known : sequence of str
        Names of its scans, when it was opened.
    requests : sequence of ScanInput
        The new ones.

    Raises
    ------
    AlreadyExistsError
        If a name is taken.
    ChangedError
        If another store, of other parcels, is in its place since it was opened.
    """
    check_names([*known, *(request.name for request in requests)])
    nodes = {encode_name(request.name) for request in requests}
    added = [request.name for request in requests]
    with contextlib.closing(each_content(target, parcellation, requests)) as contents:
        first = next(contents, None)  # most mistakes show here, before the store is touched
        if first is None:
            return
        room = target.max_memory
        with _changed(locator, parcellation, added, room) as (store, listed):
            check_names([*listed, *added])  # others may have added some meanwhile
            scans = store.root.group("scans")
            try:
                for content in itertools.chain([first], contents):
                    write_scan(store, scans, content, parcellation.names, target.matrix())
            except BaseException:
                with contextlib.suppress(FmristoreError):
                    for node in nodes & set(scans.children()):
                        scans.remove(node)
                raise
            _list(store, [*listed, *added])


def remove_scan(locator: Locator, parcellation: Parcellation, name: str) -> None:
    """Remove a scan from a store.

    Raises
    ------
    SelectionError
        If there is none of that name.
    ChangedError
        If another store, of other parcels, is in its place since it was opened.
    """
    with _changed(locator, parcellation, []) as (store, listed):
        if name not in listed:
            raise SelectionError(f"no scan is called {name!r}", url=locator.url)
        _list(store, [other for other in listed if other != name])
        scans = store.root.group("scans")
        if encode_name(name) in scans.children():
            scans.remove(encode_name(name))


@contextlib.contextmanager
def _changed(
    locator: Locator,
    parcellation: Parcellation,
    added: Sequence[str],
    max_memory: int = _CHECK_BYTES,
) -> Iterator[tuple[Store, list[str]]]:
    """The store as it is when it is our turn, with the names of its scans."""
    with edit_store(
        locator.url,
        storage_options=locator.options,
        check=lambda store: _check_scans(store, added, max_memory),
        tidy=False,  # killed writers leave folders that are no scans, which are looked for below
    ) as store:
        _check_parcels(locator, parcellation)
        listed = _listed(store)
        scans = store.root.group("scans")
        known = {encode_name(name) for name in listed}
        for left_over in scans.children().keys() - known:  # of a writer that was killed
            scans.remove(left_over)
        yield store, listed


def _check_parcels(locator: Locator, parcellation: Parcellation) -> None:
    """Check that the store has the same parcels still, if others changed it."""
    now = locate(locator.url, kind=locator.kind, storage_options=locator.options)
    if now.token == locator.token:
        return
    try:
        with contextlib.closing(Handle(now)) as handle:
            same = _alike(OwnTree(handle).parcellation(), parcellation)
    except (FormatError, NotFoundError):
        same = False
    if not same:
        raise ChangedError(
            "another store is in its place since it was opened; open it again", url=locator.url
        )


def _alike(one: Parcellation, other: Parcellation) -> bool:
    return (
        one.space.spatial_shape == other.space.spatial_shape
        and one.space.same_grid(other.space)
        and one.names == other.names
        and np.array_equal(one.table.ids, other.table.ids)
        and np.array_equal(one.labels, other.labels)
        and np.array_equal(one.voxels, other.voxels)
    )


def _listed(store: Store) -> list[str]:
    listed = store.root.read_attributes().get("scans")
    if not isinstance(listed, list):
        raise MetadataError("the attribute scans must be a list of names", url=store.url)
    return [str(name) for name in listed]


def _list(store: Store, names: Sequence[str]) -> None:
    """Write the list that readers go by: the one step that makes a change visible."""
    attributes = store.root.read_attributes()
    store.root.write_attributes(attributes | {"scans": list(names)})


def _check_scans(store: Store, names: Sequence[str], max_memory: int) -> None:
    """Read all data of new scans once, as a reader of the store will."""
    listed = store.root.read_attributes().get("scans", [])
    for name in names:
        array = store.root.array(f"scans/{encode_name(name)}/0")
        if name not in listed:
            raise StorageError(f"scan {name!r} was written and is not in the list of scans")
        reader = ChunkReader(array, missing="error", url=store.url)
        for region in matrix_blocks(
            array.spec,
            max(min(_CHECK_BYTES, max_memory // 2), array.spec.chunk_nbytes),
            array.spec.layout.chunks,
        ):
            reader.read(region)
