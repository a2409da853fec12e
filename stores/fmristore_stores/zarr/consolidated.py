"""Metadata of all nodes in the root of a Zarr store: whether they are those of the nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fmristore_stores.errors import InvalidInputError
from fmristore_stores.spec import check_name
from fmristore_stores.zarr.refused import parsed

__all__ = ["contradictions", "copied_names", "is_name"]

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
    listed = _copies(root)
    if listed is None:
        return []
    found = [
        (node, "the root's copy of all metadata leaves this node out")
        for node in sorted({*nodes} - {*listed, ""})
    ]
    paths = sorted(path for path in listed if all(map(is_name, path.split("/"))))
    found.extend(
        (path, "the root's copy of all metadata lists what cannot be a node")
        for path in sorted({*listed} - {*paths})
    )
    for path, document in zip(paths, read(paths), strict=True):
        own = parsed(document)
        if document is None:
            found.append((path, "the root's copy of all metadata lists a node that is not there"))
        elif own is None:
            found.append((path, "the metadata of this node are damaged; the root has a copy"))
        elif _bare(own) != _bare(listed[path]):
            text = f"the root's copy of the metadata differs in {_what(own, listed[path])}"
            found.append((path, text))
    return found


def _copies(root: bytes | None) -> dict[str, Any] | None:
    """Documents of all nodes in that of the root, by path; None if there are no such copies."""
    found = (parsed(root) or {}).get(_COPY)
    listed = found.get("metadata") if isinstance(found, dict) else None
    return listed if isinstance(listed, dict) else None


def copied_names(root: bytes | None, path: str) -> list[str]:
    """Names of the children of a group by the copies in the document of the root, sorted."""
    start = f"{path}/" if path else ""
    below = (node[len(start) :] for node in _copies(root) or () if node.startswith(start))
    return sorted(filter(is_name, below))


def is_name(name: str) -> bool:
    """Return whether a name can be that of a node."""
    try:
        check_name(name)
    except InvalidInputError:
        return False
    return True


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
