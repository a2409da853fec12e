"""Replicas of an image's data in a transcode: which are kept, made or left out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast, get_args

from fmristore.formats.image.ome import show_array
from fmristore.formats.image.replicas import (
    COPIES,
    COPY_GROUP,
    access_attributes,
    find_replicas,
    replica_fault,
)
from fmristore.formats.registry import FORMAT
from fmristore.planning.layout import AXES, Access, Pattern, access_patterns
from fmristore.transcoding.tree import Tree
from fmristore_stores.errors import InvalidInputError
from fmristore_stores.protocol import Array
from fmristore_stores.spec import Attributes

__all__ = ["Wish", "arrange", "named_replicas"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Layout and codecs wanted for an array of the new store.

    Parameters
    ----------
    attributes : dict
        To be written.
    access : {"time", "volume", "balanced"}, optional
        To be rechunked for this; the chunks are kept otherwise.
    recorded : {"time", "volume", "balanced"}, optional
        What the present chunks were chosen for.
    """

    attributes: Attributes
    access: Pattern | None = None
    recorded: Pattern | None = None


def _is_image(tree: Tree) -> bool:
    """Return whether the root group of a tree is an image: its array ``0`` has the axes of one."""
    array = tree.arrays.get("0")
    return array is not None and {"z", "y", "x"} <= set(array.spec.dims) <= set(AXES)


def arrange(
    tree: Tree, attributes: Mapping[str, Attributes], access: Access | None
) -> tuple[Tree, dict[str, Wish]]:
    """Decide which arrays the new store has, and from which array of the source each comes.

    Parameters
    ----------
    tree : Tree
        The source.
    attributes : mapping
        Of its arrays, by path.
    access : {"time", "volume", "balanced", "both"}, optional
        Reads that an image is to be stored for; its layouts are kept otherwise.

    Returns
    -------
    tree : Tree
        The new store: its arrays are those of the source that they come from.
    wishes : dict of str to Wish
        By path in the new store.

    Raises
    ------
    InvalidInputError
        If something else than a run of this package's formats is to have two copies.
    """
    wishes = {path: Wish(attributes=attributes[path]) for path in tree.arrays}
    if not _is_image(tree):
        return tree, wishes
    stored = _stored(tree, attributes)
    if access is None:
        for path, pattern in stored.items():
            wishes[path] = replace(wishes[path], recorded=pattern)
        return tree, wishes
    patterns = access_patterns(access, tree.arrays["0"].spec.dims)
    if len(patterns) > 1 and tree.groups.get("", {}).get(FORMAT) != "neurovec":
        raise InvalidInputError("access='both' is for runs in the format neurovec of fmristore")
    group = _copy_group(tree, stored)
    axes = [d for d in tree.arrays["0"].spec.dims if _is_coordinate(tree, d)]
    left = {*stored, *(f"{path.rpartition('/')[0]}/{d}" for path in stored for d in axes)}
    arrays = {path: array for path, array in tree.arrays.items() if path not in left}
    described = access_attributes(patterns, group)
    for path, pattern, words in zip(("0", f"{group}/0"), patterns, described, strict=False):
        origin = next((known for known, found in stored.items() if found == pattern), "0")
        kept = stored[origin] == pattern and len(patterns) + len(stored) > 2
        own = {name: value for name, value in attributes["0"].items() if name != COPIES}
        arrays[path] = tree.arrays[origin]
        wishes[path] = Wish(
            attributes=own | (words if len(patterns) > 1 or "access" in own else {}),
            access=None if kept else pattern,
            recorded=pattern,
        )
        for d in axes if path != "0" else ():
            arrays[f"{group}/{d}"] = tree.arrays[d]
            wishes[f"{group}/{d}"] = Wish(attributes=attributes[d])
    dropped = [path for path in stored if path not in arrays]
    made = _rearranged(tree, arrays, dropped)
    if "ome" in made.groups[""]:
        shown = f"{group}/0" if len(patterns) > 1 else "0"
        for path in stored:
            made.groups[""]["ome"] = show_array(made.groups[""]["ome"], path, shown)
    return made, wishes


def _is_coordinate(tree: Tree, axis: str) -> bool:
    """Return whether the root group has a coordinate of that axis, which copies have too."""
    array = tree.arrays.get(axis)
    return array is not None and array.spec.dims == (axis,)


def _stored(tree: Tree, attributes: Mapping[str, Attributes]) -> dict[str, Pattern | None]:
    """The data of an image and their sound copies, and the reads that each is stored for."""
    data, own = tree.arrays["0"], attributes["0"]
    copies = [
        path
        for path in named_replicas(own, "0")
        if path in tree.arrays
        and not replica_fault(data.spec, own, tree.arrays[path].spec, attributes[path])
    ]
    patterns = {path: _pattern(attributes[path]) for path in copies}
    return {"0": "time" if own.get("access") == "both" else _pattern(own), **patterns}


def named_replicas(attributes: Attributes, data: str) -> tuple[str, ...]:
    """Replicas that an array names, as `find_replicas`; none if the attribute is damaged."""
    try:
        return find_replicas(attributes, data)
    except InvalidInputError:
        return ()


def _pattern(attributes: Attributes) -> Pattern | None:
    found = attributes.get("access")
    return cast("Pattern", found) if found in get_args(Pattern) else None


def _copy_group(tree: Tree, stored: Mapping[str, object]) -> str:
    """Name of the group of the copy: the one that there is, or one that nothing else has."""
    for path in stored:
        if path != "0":
            return path.rpartition("/")[0]
    taken = {*tree.groups, *tree.arrays, *tree.links}
    names = itertools.chain([COPY_GROUP], (f"{COPY_GROUP}-{n}" for n in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _rearranged(tree: Tree, arrays: dict[str, Array], dropped: list[str]) -> Tree:
    """The tree with other arrays; what led to a copy that is left out leads to the array ``0``."""
    groups = {path: dict(words) for path, words in tree.groups.items()}
    links = {path: "0" if target in dropped else target for path, target in tree.links.items()}
    for path in dropped:
        group = path.rpartition("/")[0]
        inside = [p for p in (*arrays, *groups, *links) if p.startswith(f"{group}/")]
        if not inside and not groups.get(group):
            groups.pop(group, None)
    for path in arrays:
        if "/" in path:
            groups.setdefault(path.rpartition("/")[0], {})
    return replace(tree, groups=groups, arrays=arrays, links=links)
