"""Walking a stored tree: every group, array and link, and what cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fmristore_stores.errors import (
    CodecError,
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
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


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something in a tree that cannot be taken along."""

    kind: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tree:
    """What a store holds.

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


def walk(root: Group) -> Tree:
    """Read the structure of a store, without its numbers."""
    tree = Tree()
    pending = [root]
    while pending:
        group = pending.pop(0)
        tree.groups[group.path] = _attributes(group, tree)
        for entry in tree.groups[group.path].pop(LINKS, []):
            _add_link(group, str(entry.get("name")), str(entry.get("path")), tree)
        for name, child in group.children().items():
            path = f"{group.path}/{name}" if group.path else name
            try:
                check_name(name)
            except InvalidInputError as error:
                tree.unreadable.append(Unreadable("name", path, error.message))
                continue
            if child.kind == "link":
                _add_link(group, name, child.target, tree)
            elif child.kind == "group":
                pending.append(group.group(name))
            else:
                _add_array(group, name, path, tree)
    return tree


def _attributes(group: Group, tree: Tree) -> dict[str, Any]:
    try:
        return dict(group.read_attributes())
    except MetadataError as error:
        tree.unreadable.append(Unreadable("attributes", group.path, error.message))
        return {}


def _add_link(group: Group, name: str, target: str, tree: Tree) -> None:
    path = f"{group.path}/{name}" if group.path else name
    if target.startswith("external:"):
        reason = f"it leads to another file ({target.removeprefix('external:')})"
        tree.unreadable.append(Unreadable("external-link", path, reason))
    else:
        tree.links[path] = target.strip("/")


def _add_array(group: Group, name: str, path: str, tree: Tree) -> None:
    try:
        tree.arrays[path] = group.array(name)
    except (CodecError, LayoutNotSupportedError, MetadataError, StorageError) as error:
        tree.unreadable.append(Unreadable("array", path, error.message))
