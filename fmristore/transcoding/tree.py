"""Walking a stored tree: every group, array and link, and what cannot be read."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fmristore_stores.errors import (
    CodecError,
    FormatError,
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
    NotFoundError,
    StorageError,
)
from fmristore_stores.protocol import Array, Group
from fmristore_stores.spec import Attributes, check_name

__all__ = ["LINKS", "Tree", "Unreadable", "walk"]

LINKS = "_LINKS"
"""Attribute of a group in a store without links: what they were.

A list of ``{"name": ..., "path": ...}``; the convention of hdmf-zarr, whose entries also have a
``source``, which is always the store itself here.
"""


_DEEPEST = 64
"""Groups inside each other that are followed: each costs a look at all of those around it."""
_DAMAGE = (FormatError, NotFoundError, StorageError)
"""Errors that a damaged part of a store raises."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something in a tree that cannot be taken along."""

    kind: str
    path: str
    reason: str
    damaged: bool = False
    """True if it is not as its writer left it, as far as one can tell."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Contents of a store.

    Parameters
    ----------
    groups : dict of str to Attributes
        By path, parents before children; the root's is empty.
    arrays : dict of str to Array
        By path.
    links : dict of str to str
        Path of each link and the absolute path of its target.
    unreadable : list of Unreadable
        What could not be understood.
    """

    groups: dict[str, Attributes] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    unreadable: list[Unreadable] = field(default_factory=list)


def walk(root: Group, *, tolerant: bool = False) -> Tree:
    """Read the structure of a store, without its data.

    Parameters
    ----------
    root : Group
        Where to begin.
    tolerant : bool
        Go on past groups and arrays that are damaged; they are among the unreadable then.

    Raises
    ------
    FormatError, StorageError
        If a group or array is damaged and `tolerant` is false.
    """
    tree = Tree()
    pending = deque([root])
    while pending:
        group = pending.popleft()
        with _noting("group", group.path, tree, tolerant=tolerant):
            attributes = _attributes(group, tree)
            tree.groups[group.path] = attributes
            _add_recorded_links(group.path, attributes.pop(LINKS, []), tree)
            for name, child in group.children(tolerant=tolerant).items():
                path = _join(group.path, name)
                with _noting(child.kind, path, tree, tolerant=tolerant):
                    if not _is_name(name, path, tree):
                        continue
                    if child.kind == "link":
                        _add_link(path, child.target, tree)
                    elif child.kind == "group" and path.count("/") >= _DEEPEST:
                        reason = f"it lies in {_DEEPEST} groups or more: not followed"
                        tree.unreadable.append(Unreadable("depth", path, reason))
                    elif child.kind == "group":
                        pending.append(group.group(name))
                    else:
                        _add_array(group, name, path, tree)
    return tree


@contextlib.contextmanager
def _noting(kind: str, path: str, tree: Tree, *, tolerant: bool) -> Iterator[None]:
    """Note damage instead of raising it, if that is wanted."""
    try:
        yield
    except _DAMAGE as error:
        if not tolerant:
            raise
        tree.unreadable.append(Unreadable(kind, path, error.message, damaged=True))


def _join(group: str, name: str) -> str:
    return f"{group}/{name}" if group else name


def _is_name(name: str, path: str, tree: Tree) -> bool:
    try:
        check_name(name)
    except InvalidInputError as error:
        tree.unreadable.append(Unreadable("name", path, error.message))
        return False
    return True


def _attributes(group: Group, tree: Tree) -> dict[str, Any]:
    try:
        return dict(group.read_attributes())
    except MetadataError as error:
        tree.unreadable.append(Unreadable("attributes", group.path, error.message))
        return {}


def _add_recorded_links(group: str, entries: Any, tree: Tree) -> None:
    """Add links that are kept in an attribute; whatever else it holds is left out."""
    for entry in entries if isinstance(entries, list) else [entries]:
        name, target = (entry.get(k) if isinstance(entry, dict) else None for k in ("name", "path"))
        if not isinstance(name, str) or not isinstance(target, str):
            reason = f"attribute {LINKS!r} is no list of names and paths"
            tree.unreadable.append(Unreadable("attributes", group, reason))
        elif _is_name(name, _join(group, name), tree):
            _add_link(_join(group, name), target, tree)


def _add_link(path: str, target: str, tree: Tree) -> None:
    if target.startswith("external:"):
        reason = f"it leads to another file ({target.removeprefix('external:')})"
        tree.unreadable.append(Unreadable("external-link", path, reason))
    else:
        tree.links[path] = target.strip("/")


def _add_array(group: Group, name: str, path: str, tree: Tree) -> None:
    try:
        tree.arrays[path] = group.array(name)
    except (CodecError, LayoutNotSupportedError, MetadataError, StorageError) as error:
        damaged = isinstance(error, FormatError | StorageError)
        tree.unreadable.append(Unreadable("array", path, error.message, damaged))
