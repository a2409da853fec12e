"""Adding scans to a store, and removing them, so that the store is whole at any time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence

from fmristore.formats.names import encode_name
from fmristore.formats.parcellated_create import Target, check_names, each_content
from fmristore.formats.parcellated_writer import ScanRequest, matrix_boxes, write_scan
from fmristore.parcellation import Parcellation
from fmristore_stores.change import change_store
from fmristore_stores.errors import ChangedError, FmristoreError, SelectionError, StorageError
from fmristore_stores.opening import Locator, locate
from fmristore_stores.protocol import Store
from fmristore_stores.reader import ChunkReader

__all__ = ["add_requests", "remove_scan"]

_CHECK_BYTES = 64 * 1024 * 1024


def add_requests(
    locator: Locator,
    target: Target,
    parcellation: Parcellation,
    known: Sequence[str],
    requests: Sequence[ScanRequest],
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
        Names of its scans.
    requests : sequence of ScanRequest
        The new ones.

    Raises
    ------
    AlreadyExistsError
        If a name is taken.
    ChangedError
        If somebody else changed the store since it was opened.
    """
    check_names([*known, *(request.name for request in requests)])
    nodes = {encode_name(request.name) for request in requests}
    added = [request.name for request in requests]
    with contextlib.closing(each_content(target, parcellation, requests)) as contents:
        first = next(contents, None)  # most mistakes show here, before the store is touched
        if first is None:
            return
        with _changed(locator, added) as store:
            scans = store.root.group("scans")
            for left_over in nodes & set(scans.children()):
                scans.remove(left_over)
            try:
                for content in itertools.chain([first], contents):
                    write_scan(store, scans, content, target.options)
            except BaseException:
                with contextlib.suppress(FmristoreError):
                    for node in nodes & set(scans.children()):
                        scans.remove(node)
                raise
            _list(store, [*known, *added])


def remove_scan(locator: Locator, known: Sequence[str], name: str) -> None:
    """Remove a scan from a store.

    Raises
    ------
    SelectionError
        If there is none of that name.
    ChangedError
        If somebody else changed the store since it was opened.
    """
    if name not in known:
        raise SelectionError(f"no scan is called {name!r}", url=locator.url)
    with _changed(locator, []) as store:
        _list(store, [other for other in known if other != name])
        scans = store.root.group("scans")
        if encode_name(name) in scans.children():
            scans.remove(encode_name(name))


@contextlib.contextmanager
def _changed(locator: Locator, added: Sequence[str]) -> Iterator[Store]:
    now = locate(locator.url, kind=locator.kind, storage_options=locator.options)
    if now.token != locator.token:
        raise ChangedError(
            "somebody else changed the store since it was opened; open it again", url=locator.url
        )
    with change_store(
        locator.url,
        storage_options=locator.options,
        check=lambda store: _check_scans(store, added),
    ) as store:
        yield store


def _list(store: Store, names: Sequence[str]) -> None:
    """Write the list that readers go by: the one step that makes a change visible."""
    attributes = store.root.read_attributes()
    store.root.write_attributes(attributes | {"scans": list(names)})


def _check_scans(store: Store, names: Sequence[str]) -> None:
    """Read all numbers of new scans once, as a reader of the store will."""
    listed = store.root.read_attributes().get("scans", [])
    for name in names:
        array = store.root.array(f"scans/{encode_name(name)}/0")
        if name not in listed:
            raise StorageError(f"scan {name!r} was written and is not in the list of scans")
        reader = ChunkReader(array, missing="error")
        for region in matrix_boxes(
            array.spec, max(_CHECK_BYTES, array.spec.chunk_nbytes), array.spec.layout.chunks
        ):
            reader.read(region)
