"""Nodes that zarr-python does not open: what they are, and why they cannot be used."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fmristore_stores.errors import FmristoreError, InvalidInputError, LayoutNotSupportedError
from fmristore_stores.spec import check_name

__all__ = ["is_ignorable", "is_name", "kind_of", "kinds", "parsed", "reason"]

_ARRAY_KEYS = frozenset(
    {
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
        "attributes",
        "dimension_names",
        "storage_transformers",
    }
)
_TYPES = frozenset(
    {
        "bool",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *(f"float{bits}" for bits in (16, 32, 64)),
        *(f"complex{bits}" for bits in (64, 128)),
        "string",
        "fixed_length_utf32",
        "null_terminated_bytes",
        "variable_length_bytes",
    }
)
"""Names of the data types that hold numbers or text."""


def parsed(data: bytes | None) -> dict[str, Any] | None:
    """A metadata document; None if there is none or it is damaged."""
    if data is None:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def is_name(name: str) -> bool:
    """Return whether a name can be that of a node."""
    try:
        check_name(name)
    except InvalidInputError:
        return False
    return True


def kind_of(document: Any) -> Literal["group", "array"] | None:
    """Kind of node that a document of Zarr format 3 describes; None if it is of neither."""
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        return None
    kind = document.get("node_type")
    return kind if kind in ("group", "array") else None


def kinds(
    paths: Sequence[str], documents: Callable[[Sequence[str], str], list[bytes | None]]
) -> list[Literal["group", "array"] | None]:
    """Groups and arrays by their documents alone, of either format; None for what is neither.

    Parameters
    ----------
    paths : sequence of str
        Of the nodes.
    documents : callable
        Takes paths and the name of a document; returns content, None where there is none.
    """
    found = [kind_of(parsed(data)) for data in documents(paths, "zarr.json")]
    rest = [path for path, kind in zip(paths, found, strict=True) if kind is None]
    of_format_2 = iter(documents(rest, ".zarray"))
    return [kind or ("array" if parsed(next(of_format_2)) else None) for kind in found]


def is_ignorable(value: Any) -> bool:
    """Return whether a field that is not known may be passed over, as its writer says."""
    return isinstance(value, dict) and value.get("must_understand") is False


def reason(document: Mapping[str, Any] | None) -> FmristoreError | None:
    """Reason why an array cannot be used here although nothing is wrong with it.

    Parameters
    ----------
    document : mapping or None
        The metadata of a node, of Zarr format 3.

    Returns
    -------
    LayoutNotSupportedError or None
        None if the array is damaged, as far as one can tell.
    """
    if document is None or kind_of(document) != "array":
        return None
    grid, codecs = (document.get(name) for name in ("chunk_grid", "codecs"))
    dtype = _name(document.get("data_type"))
    unknown = [n for n in sorted({*document} - _ARRAY_KEYS) if not is_ignorable(document[n])]
    if _name(grid) not in (None, "regular"):
        found = f"the chunk grid {_name(grid)!r} is not regular"
    elif dtype is not None and dtype not in _TYPES:
        found = f"elements of the data type {dtype!r} are neither numbers nor text"
    elif document.get("storage_transformers"):
        found = "storage transformers are not known"
    elif unknown:
        found = f"the metadata say more than is known here: {', '.join(map(repr, unknown))}"
    elif isinstance(codecs, list) and any(isinstance(codec, str) for codec in codecs):
        found = "a codec is given as a name alone, which zarr-python does not read"
    else:
        return None
    return LayoutNotSupportedError(f"this array cannot be used: {found[:500]}")


def _name(value: Any) -> str | None:
    """Name of a part of an array's metadata; None if that is not of a form for names."""
    if isinstance(value, dict):
        value = value.get("name")
    return value if isinstance(value, str) else None
