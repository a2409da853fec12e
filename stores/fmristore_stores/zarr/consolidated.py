"""Metadata of all nodes in the root of a Zarr store: whether they are those of the nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from fmristore_stores.zarr.documents import COPIES_KEY
from fmristore_stores.zarr.files import Files
from fmristore_stores.zarr.refused import is_name, kind_of, parsed

__all__ = ["RootCopy", "bare", "contradictions", "copied_names"]


class RootCopy:
    """The root's copy of the metadata of all nodes, of a store that is being changed.

    Parameters
    ----------
    root : bytes or None
        Metadata document of the root, as it was before the first change.
    stamp : int
        Time at which it was written, as `Files.stamp` gives it.
    """

    def __init__(self, root: bytes | None, stamp: int) -> None:
        document = parsed(root) or {}
        listed = _copies(document)
        self.complete = listed is not None
        """True if there is such a copy."""
        self.to_drop = bare(document) if COPIES_KEY in document else None
        """Metadata of the root without a copy, if it has one, perhaps one that is damaged."""
        listed = listed or {}
        names = {name for path in listed for name in path.split("/")}
        wrong = {name for name in names if not is_name(name)}
        self.documents: dict[str, dict[str, Any]] = {
            path: bare(found)
            for path, found in listed.items()
            if wrong.isdisjoint(path.split("/")) and kind_of(found) is not None
        }
        """Metadata of nodes by path, but for those that `forget` was called for."""
        groups = (path for path, kind in self.kinds(self.documents).items() if kind == "group")
        self._groups = ["", *groups]
        self._stamp = stamp
        self._changed = {""}

    def forget(self, path: str, *, below: bool = False) -> None:
        """Leave out a node that is about to be made, changed or removed, or all `below` it too."""
        self._changed.add(path)
        self.documents.pop(path, None)
        if below:
            for other in [other for other in self.documents if other.startswith(f"{path}/")]:
                del self.documents[other]

    def kinds(self, paths: Iterable[str]) -> dict[str, Literal["group", "array"] | None]:
        """Groups and arrays among some paths, as far as `documents` say."""
        return {path: kind_of(self.documents[path]) for path in paths if path in self.documents}

    def take_changed(self, files: Files) -> set[str] | None:
        """Take out what somebody else changed since the root was written, without copying it there.

        Parameters
        ----------
        files : Files
            Objects of the store; only local files say when they were changed.

        Returns
        -------
        set of str or None
            All nodes that were changed, made or removed, by this process or another; None if
            there is no copy, or a node that it does not know.
        """
        if not self.complete:
            return None
        newer = zip(self._groups, files.changed(self._groups, self._stamp), strict=True)
        if self._have_unknown([group for group, changed in newer if changed], files):
            return None
        paths = list(self.documents)
        keys = [f"{path}/zarr.json" for path in paths]
        for path, changed in zip(paths, files.changed(keys, self._stamp), strict=True):
            if changed:
                self.forget(path)
        return self._changed

    def _have_unknown(self, groups: Iterable[str], files: Files) -> bool:
        """True if groups have a child that is neither known nor was made by this process."""
        known = self.documents.keys() | self._changed
        for group in filter(files.exists, groups):
            paths = [f"{group}/{name}" if group else name for name in files.names(group)]
            keys = [f"{path}/zarr.json" for path in paths if path not in known]
            if any(size is not None for size in files.sizes(keys, group, len(keys))):
                return True
        return False


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
    listed = _copies(parsed(root) or {})
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
        elif bare(own) != bare(listed[path]):
            text = f"the root's copy of the metadata differs in {_what(own, listed[path])}"
            found.append((path, text))
    return found


def _copies(root: dict[str, Any]) -> dict[str, Any] | None:
    """Documents of all nodes in that of the root, by path; None if there are no such copies."""
    found = root.get(COPIES_KEY)
    listed = found.get("metadata") if isinstance(found, dict) else None
    return listed if isinstance(listed, dict) else None


def copied_names(root: bytes | None, path: str) -> list[str]:
    """Names of the children of a group by the copies in the document of the root, sorted."""
    start = f"{path}/" if path else ""
    listed = _copies(parsed(root) or {}) or ()
    below = (node[len(start) :] for node in listed if node.startswith(start))
    return sorted(filter(is_name, below))


def bare(document: Any) -> Any:
    """Metadata without the copies of others."""
    if not isinstance(document, dict) or COPIES_KEY not in document:
        return document
    return {name: value for name, value in document.items() if name != COPIES_KEY}


def _what(own: dict[str, Any], copy: Any) -> str:
    """Names of the entries that differ."""
    if not isinstance(copy, dict):
        return "all of them"
    names = {*own, *copy} - {COPIES_KEY}
    return ", ".join(sorted(n for n in names if own.get(n, n) != copy.get(n, n)))
