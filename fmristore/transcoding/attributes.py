"""Attributes on their way into another store: what arrives as it was, and what is lost."""

from __future__ import annotations

from typing import Any, NamedTuple

from fmristore.formats.registry import FORMAT
from fmristore.transcoding.arrays import TargetKind
from fmristore.transcoding.tree import LINKS, Tree, Unreadable
from fmristore_stores.protocol import Capability, Store, TypedAttribute
from fmristore_stores.spec import Attributes

__all__ = ["TypedNodes", "read_typed_nodes"]


class TypedNodes(NamedTuple):
    """Attributes of which JSON values do not say all."""

    kept: dict[str, dict[str, TypedAttribute]]
    """Those that the new store gets as they were, by path of their node."""
    values: dict[str, Attributes]
    """JSON values of all attributes of each node that have one."""
    lost: list[Unreadable]
    """Losses: what the new store does not get as it was."""


def read_typed_nodes(tree: Tree, store: Store, target: TargetKind) -> TypedNodes:
    """Find attributes that have types which JSON lacks, and decide what becomes of them.

    Parameters
    ----------
    tree : Tree
        Of the source; groups of which one attribute cannot be read get the others.
    store : Store
        The source.
    target : TargetKind
        What the new store can do.
    """
    found = TypedNodes({}, {}, [])
    if Capability.TYPED_ATTRIBUTES not in store.capabilities:
        return found
    own = FORMAT in tree.groups.get("", {})
    into = Capability.TYPED_ATTRIBUTES in target.capabilities
    for path in (*tree.groups, *tree.arrays):
        node: Any = tree.arrays.get(path) or (store.root.group(path) if path else store.root)
        values = node.readable_attributes()
        for name, typed in node.read_typed().items():
            if into and typed.content is not None:
                if typed.reason or typed.what or not own:
                    found.kept.setdefault(path, {})[name] = typed
            elif typed.reason:
                found.lost.append(Unreadable("attributes", path, typed.reason))
            elif typed.what:
                reason = f"attribute {name!r} is {typed.what}, which JSON cannot say"
                found.lost.append(Unreadable("attribute-type", path, reason))
            elif typed.value is None:
                values[name] = ""  # an empty text, as netCDF writes it
        found.values[path] = {name: v for name, v in values.items() if name != LINKS}
    tree.groups.update({path: found.values[path] for path in tree.groups if path in found.values})
    whole = [item for item in tree.unreadable if item.kind == "attributes"]
    for item in whole:  # each of its attributes is looked at alone now
        if item.path in found.values:
            tree.unreadable.remove(item)
    return found
