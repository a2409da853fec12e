"""Names in HDF5 files: following paths one link at a time, and objects with several names.

HDF5 would follow a link into any other file on the machine. So no path is ever handed to the
library: each segment is looked at, soft links are resolved here, and links that leave the file
are refused. ``..`` has no meaning in HDF5; it is a name like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from h5py import h5, h5d, h5g, h5l, h5o, h5p

from fmristore_stores.errors import LayoutNotSupportedError, MetadataError, NotFoundError
from fmristore_stores.hdf5.attributes import decode_text
from fmristore_stores.hdf5.files import Place, Session, near_names

__all__ = [
    "Entry",
    "Facts",
    "below",
    "contains",
    "decode_name",
    "encode_name",
    "entries",
    "facts",
    "first_places",
    "join",
    "link_target",
    "locate",
    "open_child",
    "resolve",
]

_MOST_SOFT_LINKS = 64
"""Soft links followed on the way to one object; more are taken for a cycle."""


class Entry(NamedTuple):
    """A link of a group."""

    name: bytes
    link: int
    """``h5l.TYPE_HARD``, ``TYPE_SOFT`` or ``TYPE_EXTERNAL``."""


def encode_name(name: str) -> bytes:
    """Bytes of a name, also of one that is not UTF-8 in the file.

    Raises
    ------
    NotFoundError
        If no file can hold the name.
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise NotFoundError("there is no such node: its name is not text") from error


def decode_name(name: bytes) -> str:
    """Name as text; bytes that are not UTF-8 become lone surrogates, so that it can be found."""
    return name.decode("utf-8", "surrogateescape")


def join(base: str, name: str) -> str:
    """Path of a child."""
    return f"{base}/{name}" if base else name


class Facts(NamedTuple):
    """Facts of the header of an object, without a look at its contents."""

    address: int
    names: int
    """Number of hard links that lead to it."""
    is_group: bool
    is_dataset: bool


def facts(node: Any, name: bytes = b".") -> Facts:
    """Facts about an open object, or about a hard-linked child of a group.

    ``h5o.get_info`` knows them too, but walks the whole chunk table of a dataset to measure it.
    """
    found = h5g.get_objinfo(node, name)
    low, high = found.objno
    return Facts(low | high << 32, found.nlink, found.type == h5g.GROUP, found.type == h5g.DATASET)


def entries(group: Any, *, by_creation: bool = False) -> list[Entry]:
    """Links of an open group, by name, or in order of creation where the group knows it."""
    index = h5.INDEX_NAME
    if by_creation:
        tracked = group.get_create_plist().get_link_creation_order() & h5p.CRT_ORDER_TRACKED
        index = h5.INDEX_CRT_ORDER if tracked else index
    found: list[Entry] = []

    def note(name: bytes, info: Any) -> None:
        found.append(Entry(name, int(info.type)))

    group.links.iterate(note, idx_type=index, info=True)
    return found


def open_child(group: Any, name: bytes) -> Any:
    """Open a hard-linked child."""
    return h5o.open(group, name)


def link_target(group: Any, entry: Entry, base: str) -> str:
    """Target of a soft or external link, as `Child.target` has it.

    Parameters
    ----------
    group : h5py.h5g.GroupID
        The group that holds the link.
    entry : Entry
        The link.
    base : str
        Path of the group.
    """
    if entry.link not in (h5l.TYPE_SOFT, h5l.TYPE_EXTERNAL):
        return f"external:?:link of type {entry.link}"  # of a program of its own, see H5Lcreate_ud
    value = group.links.get_val(entry.name)
    if entry.link == h5l.TYPE_SOFT:
        segments = _segments(value)
        start = [] if value.startswith(b"/") else [base] if base else []
        return "/".join([*start, *(decode_name(part) for part in segments)])
    file, path = value if isinstance(value, tuple) else (b"?", b"?")
    return f"external:{decode_text(file)}:{decode_text(path)}"


def resolve(session: Session, group: Any, base: str, path: str) -> tuple[Any, str]:
    """Open the object that a path leads to.

    Parameters
    ----------
    session, group, base, path
        As of `locate`, which raises.

    Returns
    -------
    node : h5py object id
        A group, a dataset or a named datatype.
    path : str
        Where it was found, soft links resolved.
    """
    parent, name, where = locate(session, group, base, path)
    return open_child(parent, name), where


def locate(session: Session, group: Any, base: str, path: str) -> tuple[Any, bytes, str]:
    """Find the object that a path leads to, without opening it.

    Parameters
    ----------
    session : Session
        The file.
    group : h5py.h5g.GroupID
        Where the path starts.
    base : str
        Path of that group.
    path : str
        Names joined by single slashes.

    Returns
    -------
    parent : h5py.h5g.GroupID
        The group that the object is in.
    name : bytes
        Of the object there; ``b"."`` if it is that group itself.
    path : str
        Where it was found, soft links resolved.

    Raises
    ------
    NotFoundError
        If the path leads nowhere.
    LayoutNotSupportedError
        If it leads out of the file.
    MetadataError
        If its soft links do not end.
    """
    asked = join(base, path)
    pending = [encode_name(name) for name in reversed(path.split("/"))]
    node, where, followed = group, base, 0
    if not all(name not in (b"", b".") for name in pending):
        msg = "a path is made of names joined by single slashes"
        raise NotFoundError(msg, url=session.url, node=asked)
    while pending:
        name = pending.pop()
        kind = _link_type(session, node, where, name)
        if kind == h5l.TYPE_HARD:
            where = join(where, decode_name(name))
            if not pending:
                return node, name, where
            node = open_child(node, name)
            continue
        if kind != h5l.TYPE_SOFT:
            target = link_target(node, Entry(name, kind), where)
            msg = f"{decode_name(name)!r} is a link out of this file ({target}): not followed"
            raise LayoutNotSupportedError(msg, url=session.url, node=asked)
        followed += 1
        if followed > _MOST_SOFT_LINKS:
            raise MetadataError("its soft links do not end", url=session.url, node=asked)
        value = node.links.get_val(name)
        if value.startswith(b"/"):
            node, where = h5g.open(session.h5.id, b"/"), ""
        pending.extend(reversed(_segments(value)))
    return node, b".", where


def _segments(value: bytes) -> list[bytes]:
    """Names in the value of a soft link; HDF5 ignores empty ones and single dots."""
    return [name for name in value.split(b"/") if name not in (b"", b".")]


def _link_type(session: Session, node: Any, where: str, name: bytes) -> int:
    if not isinstance(node, h5g.GroupID):
        msg = f"/{where} is an array and has no children"
        raise NotFoundError(msg, url=session.url, node=join(where, decode_name(name)))
    if b"\x00" not in name:
        try:
            return int(node.links.get_info(name).type)
        except (KeyError, RuntimeError):  # it is not there, or the group is damaged
            if node.links.exists(name):
                raise
    names = [decode_text(entry.name) for entry in entries(node)]
    msg = f"there is no such node; {near_names(names)}"
    raise NotFoundError(msg, url=session.url, node=join(where, decode_name(name)))


def first_places(session: Session) -> dict[int, Place]:
    """First name of each object that has several: what its other names are links to.

    The file is walked once, children in order of creation where it is known, and the answer kept
    until a name is added or removed.

    Returns
    -------
    dict
        By address of the object.
    """
    if session.places is not None:
        return session.places
    root = h5g.open(session.h5.id, b"/")
    home = facts(root).address
    places = {home: Place(-1, b"", "")}
    stack: list[tuple[Any, int, str, Iterator[Entry]]] = [
        (root, home, "", iter(entries(root, by_creation=True)))
    ]
    while stack:
        group, here, base, links = stack[-1]
        entry = next(links, None)
        if entry is None:
            stack.pop()
            continue
        if entry.link != h5l.TYPE_HARD:
            continue
        found = facts(group, entry.name)
        path = join(base, decode_name(entry.name))
        if found.names > 1:
            if found.address in places:
                continue
            places[found.address] = Place(here, entry.name, path)
        if found.is_group:
            child = open_child(group, entry.name)
            stack.append((child, found.address, path, iter(entries(child, by_creation=True))))
    session.places = places
    return places


def contains(node: Any, wanted: int) -> bool:
    """Return whether an open object is, or holds somewhere below it, the object at an address."""
    return any(facts(found).address == wanted for found in below(node))


def below(node: Any) -> Iterator[Any]:
    """An open object and everything that hard links below it lead to, each once."""
    seen = {facts(node).address}
    stack = [node]
    while stack:
        found = stack.pop()
        yield found
        if not isinstance(found, h5g.GroupID):
            continue
        for entry in entries(found):
            if entry.link == h5l.TYPE_HARD:
                child = open_child(found, entry.name)
                place = facts(child).address
                if place not in seen and isinstance(child, h5g.GroupID | h5d.DatasetID):
                    seen.add(place)
                    stack.append(child)
