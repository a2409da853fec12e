"""Facts for ``fmristore info``: class, contents, layout and size of a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fmristore.api import open_handle
from fmristore.formats.base import StoredObject
from fmristore.formats.r.common import r_writer
from fmristore.formats.registry import FORMAT, VERSION, WRITER
from fmristore.sources.others import explained
from fmristore.transcoding.tree import Tree, walk
from fmristore_stores.errors import UnknownFormatError, UnsupportedVersionError
from fmristore_stores.io.location import count_files, normalise
from fmristore_stores.opening import Handle, locate
from fmristore_stores.spec import ArraySpec

__all__ = ["describe_store"]


def describe_store(url: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about a store and what it holds, as plain JSON values.

    Raises
    ------
    NotFoundError
        If there is nothing at `url`.
    FormatError
        If it is no store, or what it holds is damaged.
    """
    with explained(normalise(url), storage_options):
        locator = locate(url, storage_options=storage_options)
    handle = Handle(locator, fresh=True)
    try:
        tree = walk(handle.store.root, tolerant=True)
        attributes = tree.groups.get("", {})
        locator = handle.locator
        files, stored = count_files(locator.url, locator.kind, locator.options)
        return {
            "url": handle.locator.url,
            "container": handle.locator.kind,
            "format": attributes.get(FORMAT),
            "format_version": attributes.get(VERSION),
            "writer": attributes.get(WRITER),
            "files": files,
            "stored_bytes": stored,
            "note": None,
            "content": None,
            **_content(handle, known=FORMAT in attributes),
            "arrays": [_array_facts(path, a.spec) for path, a in tree.arrays.items()],
            "groups": list(tree.groups),
            "links": [{"path": path, "target": target} for path, target in tree.links.items()],
            "unreadable": _unreadable(tree),
        }
    finally:
        handle.close()


def _content(handle: Handle, *, known: bool) -> dict[str, Any]:
    """Description by the format of the store, if there is one."""
    try:
        content = open_handle(handle)
    except (UnknownFormatError, UnsupportedVersionError) as error:
        return {"note": error.message if known else None}
    facts = {} if known else {"format": content.format_name, "writer": r_writer(handle.store.root)}
    if isinstance(content, StoredObject):
        facts["content"] = content.describe()
    return facts


def _array_facts(path: str, spec: ArraySpec) -> dict[str, Any]:
    return {
        "path": path,
        "shape": list(spec.shape),
        "dtype": "text" if spec.dtype.kind == "T" else str(spec.dtype),
        "axes": list(spec.dims),
        "chunks": list(spec.layout.chunks),
        "shards": None if spec.layout.shards is None else list(spec.layout.shards),
        "codecs": [str(codec) for codec in spec.codecs],
    }


def _unreadable(tree: Tree) -> list[dict[str, str]]:
    return [{"path": i.path, "kind": i.kind, "reason": i.reason} for i in tree.unreadable]
