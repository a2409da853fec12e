"""Metadata of all nodes in the root of a Zarr store: whether they are those of the nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.spec import check_name

__all__ = ["contradictions"]

_COPY = "consolidated_metadata"


def contradictions(
    read: Callable[[Sequence[str]], list[bytes | None]], nodes: Iterable[str]
) -> list[tuple[str, str]]:
    """Compare the root's copy of the metadata of all nodes with what these have themselves.

    Parameters
    ----------
    read : callable
        Takes paths of nodes, and returns their metadata documents; None where there is none.
    nodes : iterable of str
        Paths of all nodes that are known to exist.

    Returns
    -------
    list of (str, str)
        Path of each node, and what is wrong; empty where there is no such copy.
    """
    (root,) = read([""])
    copies = (_parsed(root) or {}).get(_COPY)
    listed = copies.get("metadata") if isinstance(copies, dict) else None
    if not isinstance(listed, dict):
        return []
    found = [
        (node, "the root's copy of all metadata leaves this node out")
        for node in sorted({*nodes} - {*listed, ""})
    ]
    paths = sorted(path for path in listed if all(map(_is_name, path.split("/"))))
    found.extend(
        (path, "the root's copy of all metadata lists what cannot be a node")
        for path in sorted({*listed} - {*paths})
    )
    for path, document in zip(paths, read(paths), strict=True):
        own = _parsed(document)
        if document is None:
            found.append((path, "the root's copy of all metadata lists a node that is not there"))
        elif own is None:
            found.append((path, "the metadata of this node are damaged; the root has a copy"))
        elif _bare(own) != _bare(listed[path]):
            text = f"the root's copy of the metadata differs in {_what(own, listed[path])}"
            found.append((path, text))
    return found


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except InvalidInputError:
        return False
    return True


def _parsed(document: bytes | None) -> dict[str, Any] | None:
    """A metadata document; None if there is none or it is damaged."""
    if document is None:
        return None
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _bare(document: Any) -> Any:
    """Metadata without the copies of others."""
    if not isinstance(document, dict):
        return document
    return {name: value for name, value in document.items() if name != _COPY}


def _what(own: dict[str, Any], copy: Any) -> str:
    """Names of the entries that differ."""
    if not isinstance(copy, dict):
        return "all of them"
    names = {*own, *copy} - {_COPY}
    return ", ".join(sorted(n for n in names if own.get(n, n) != copy.get(n, n)))
