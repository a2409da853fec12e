"""Names that R lists: it cannot list a group in which one of them is not ASCII."""

from __future__ import annotations

from urllib.parse import quote

from fmristore.formats.names import decode_name, encode_name
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.spec import check_name

__all__ = ["from_r_name", "node_name", "to_r_name"]


def node_name(name: str, what: str) -> str:
    """Check a name that R finds a node by, and return it.

    Parameters
    ----------
    name : str
        The name.
    what : str
        What it is the name of, for the message.

    Raises
    ------
    InvalidInputError
        If it cannot be that of a node as it is.
    """
    if encode_name(name) != name:
        raise InvalidInputError(f"{name!r:.80} cannot be the name of {what} in R's layout")
    return name


def to_r_name(name: str, what: str) -> str:
    """Name of a node that R is to list: what is not ASCII is percent-encoded as UTF-8.

    Raises
    ------
    InvalidInputError
        If `name` cannot be that of a node, or gets longer than 255 bytes.
    """
    return check_name(_ascii(node_name(name, what)))


def from_r_name(node: str) -> str:
    """The text that `to_r_name` made the name of a node of; other names are what they say."""
    try:
        name = decode_name(node)
        made = encode_name(name) == name and _ascii(name) == node
    except (InvalidInputError, MetadataError):
        return node
    return name if made else node


def _ascii(name: str) -> str:
    return "".join(c if c.isascii() else quote(c) for c in name)
