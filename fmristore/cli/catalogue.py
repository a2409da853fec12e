"""Finding in a store what a command is to work on, with errors that say what there is."""

from __future__ import annotations

from typing import Any

from fmristore.formats.base import StoredObject
from fmristore.formats.catalogue import formats
from fmristore_stores.errors import InvalidInputError

__all__ = ["able", "choose"]

_FEW = 10


def choose(stored: Any, part: str | None) -> Any:
    """The part of a stored object of that name, or all of it.

    Raises
    ------
    SelectionError
        If there is no such part.
    InvalidInputError
        If the format knows of no parts.
    """
    return stored if part is None else able(stored, "part", "take a part of")(part)


def able(chosen: Any, attribute: str, purpose: str) -> Any:
    """An attribute that not every format has.

    Parameters
    ----------
    chosen : object
        A stored object or part of one.
    attribute : str
        Its name.
    purpose : str
        What the command does, for the error.

    Raises
    ------
    InvalidInputError
        If the object has no such attribute.
    """
    found = getattr(chosen, attribute, None)
    if found is not None:
        return found
    text = f"cannot {purpose} a {type(chosen).__name__}"
    parts = chosen.part_names if isinstance(chosen, StoredObject) else ()
    names = [name for name in parts[:_FEW] if hasattr(chosen.part(name), attribute)]
    if names:
        text += f"; name one of its {len(parts)} parts by --part: {', '.join(names)}"
    else:
        known = [info.cls.__name__ for info in formats() if hasattr(info.cls, attribute)]
        text += f"; only {', '.join(known)}"
    raise InvalidInputError(text, url=getattr(chosen, "url", None))
