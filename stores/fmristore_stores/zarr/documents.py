"""Metadata documents of Zarr format 3 that are read and written without zarr-python.

Those of groups, and of arrays of values as fmristore and zarr-python write them. Whatever else a
document says, or if anything is wrong with it, zarr-python is asked, and its errors are shown;
arrays of any other kind are made by it as well.

References
----------
https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html
"""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmristore_stores.codecs.names import zarr_codecs
from fmristore_stores.errors import FmristoreError
from fmristore_stores.spec import ArraySpec, Attributes, is_string
from fmristore_stores.zarr.metadata import Described, describe
from fmristore_stores.zarr.refused import is_ignorable, is_name, parsed

__all__ = [
    "COPIES_KEY",
    "ROOT",
    "Document",
    "ParsedNode",
    "array_document",
    "consolidated_document",
    "encode",
    "group_document",
    "parse_node",
    "plain_copies",
]

Document: TypeAlias = dict[str, Any]
"""Metadata of a node, as plain JSON values."""

ROOT = "zarr.json"
"""Key of the root's metadata."""
COPIES_KEY = "consolidated_metadata"
"""Key of the root's metadata under which those of all other nodes stand once more."""
_GROUP_KEYS = frozenset({"zarr_format", "node_type", "attributes", COPIES_KEY})
_NEEDED_KEYS = frozenset(
    {
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
    }
)
_ARRAY_KEYS = _NEEDED_KEYS | {"attributes", "dimension_names", "storage_transformers"}
_SHARDING_KEYS = {"chunk_shape", "codecs", "index_codecs", "index_location"}
_DTYPES = {
    name: np.dtype(name)
    for name in (
        "bool",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
        *(f"float{bits}" for bits in (16, 32, 64)),
    )
}
_SHORT = 1 << 14
"""Letters of documents of which the arrays are remembered."""
_FILL_TYPES = {"b": bool, "i": int, "u": int, "f": float}
_KEYS = [{"name": "default", "configuration": {"separator": separator}} for separator in ("/", ".")]
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_INDEX_CODECS = [_LITTLE, {"name": "crc32c"}]
_STEPS: Mapping[str, Mapping[str, tuple[type, Container[Any]]]] = {
    "blosc": {
        "typesize": (int, range(1, 256)),
        "cname": (str, {"blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd"}),
        "clevel": (int, range(10)),
        "shuffle": (str, {"noshuffle", "shuffle", "bitshuffle"}),
        "blocksize": (int, range(2**31)),
    },
    "zstd": {"level": (int, range(-(2**17), 23)), "checksum": (bool, {False, True})},
    "gzip": {"level": (int, range(10))},
    "crc32c": {},
}
"""Options of the codecs from bytes to bytes: type and values of each, none of which is left out."""


class ParsedNode(NamedTuple):
    """Node of a document.

    Parameters
    ----------
    attributes : dict
        Attributes of the node, nested as deep as they may be.
    described : Described or None
        The array; None for a group.
    """

    attributes: Attributes
    described: Described | None


def parse_node(data: bytes) -> ParsedNode | None:
    """Read the metadata document of a node.

    Parameters
    ----------
    data : bytes
        Content of ``zarr.json``.

    Returns
    -------
    ParsedNode or None
        None if zarr-python has to be asked.
    """
    try:
        return _node_of(json.loads(data))
    except (ValueError, RecursionError):
        return None


def _node_of(document: Any) -> ParsedNode | None:
    """The node of a document, which loses its attributes; None as of `parse_node`."""
    try:
        attributes = document.get("attributes", {})
        if document["zarr_format"] != 3 or not isinstance(attributes, dict):
            return None
        if document["node_type"] == "group":
            more = document.keys() - _GROUP_KEYS
            known = all(is_ignorable(document[name]) for name in more)
            return ParsedNode(attributes, None) if known else None
        document.pop("attributes", None)
        described = _array_of(document) if document["node_type"] == "array" else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, FmristoreError):
        return None
    if described is None or described.placement is None:
        return None
    return ParsedNode(attributes, described)


def plain_copies(root: bytes) -> dict[str, Document] | None:
    """Documents of all other nodes in that of the root, by path.

    Parameters
    ----------
    root : bytes
        Content of ``zarr.json`` of the root.

    Returns
    -------
    dict or None
        None if there are no such copies, or if zarr-python has to be asked for any of them: it
        uses none where it refuses one.
    """
    found = (parsed(root) or {}).get(COPIES_KEY)
    if not isinstance(found, dict) or found.keys() != {"kind", "must_understand", "metadata"}:
        return None
    plain = found["kind"] == "inline" and found["must_understand"] is False
    copies = found["metadata"]
    if not plain or not isinstance(copies, dict):
        return None
    names = {name for path in copies for name in path.split("/")}
    known = all(map(is_name, names)) and all(map(_is_plain, copies.values()))
    return copies if known else None


def _is_plain(document: Any) -> bool:
    return isinstance(document, dict) and _node_of(dict(document)) is not None


def _array_of(document: Document) -> Described | None:
    """The array of a document without attributes, as `_array`; runs are often alike in it."""
    text = json.dumps(document)
    return _array_again(text) if len(text) <= _SHORT else _array(document)


@functools.lru_cache(maxsize=64)
def _array_again(text: str) -> Described | None:
    return _array(json.loads(text))


def _array(document: Mapping[str, Any]) -> Described | None:
    """The array of a document; None, or an error, if that is not of the plain kind."""
    dtype, fill = _DTYPES[document["data_type"]], document["fill_value"]
    rank, grid = len(document["shape"]), document["chunk_grid"]
    plain = (
        _NEEDED_KEYS <= document.keys() <= _ARRAY_KEYS
        and document.get("storage_transformers", []) == []
        and type(fill) is _FILL_TYPES[dtype.kind]
        and fill == 0
        and _are_lengths(document["shape"], rank, least=0)
        and _are_names(document.get("dimension_names"), rank)
        and grid.keys() == {"name", "configuration"}
        and grid["configuration"].keys() == {"chunk_shape"}
        and _are_lengths(grid["configuration"]["chunk_shape"], rank)
        and document["chunk_key_encoding"] in _KEYS
        and _are_plain(_without_shards(document["codecs"], rank), rank, dtype)
    )
    return describe(document, dtype, dtype.type(fill)) if plain else None


def _are_lengths(values: Any, rank: int, *, least: int = 1) -> bool:
    return (
        isinstance(values, list)
        and len(values) == rank
        and all(type(n) is int and n >= least for n in values)
    )


def _are_names(names: Any, rank: int) -> bool:
    if names is None:
        return True
    texts = isinstance(names, list) and all(isinstance(name, str | None) for name in names)
    return texts and len(names) == rank


def _without_shards(codecs: Any, rank: int) -> list[Any]:
    """The codecs of a chunk; none if it lies in a shard of an unusual kind."""
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
        return list(codecs)
    configuration = codecs[0]["configuration"]
    plain = (
        codecs[0].keys() == {"name", "configuration"}
        and configuration.keys() == _SHARDING_KEYS
        and _are_lengths(configuration["chunk_shape"], rank)
        and configuration["index_codecs"] == _INDEX_CODECS
        and configuration["index_location"] in ("start", "end")
    )
    return list(configuration["codecs"]) if plain else []


def _are_plain(codecs: list[Any], rank: int, dtype: np.dtype[Any]) -> bool:
    """True if chunks are encoded by codecs that are known here, with all of their options."""
    if codecs and codecs[0]["name"] == "transpose":
        transpose = codecs.pop(0)
        if not (
            transpose.keys() == {"name", "configuration"}
            and transpose["configuration"].keys() == {"order"}
            and _are_lengths(transpose["configuration"]["order"], rank, least=0)
        ):
            return False
    if not codecs:
        return False
    first, *steps = codecs
    little = first == _LITTLE or (dtype.itemsize == 1 and first == {"name": "bytes"})
    return little and all(_is_plain_step(step) for step in steps)


def _is_plain_step(step: Mapping[str, Any]) -> bool:
    known = _STEPS[step["name"]]
    options = step.get("configuration", {})
    return (
        step.keys() <= {"name", "configuration"}
        and options.keys() == known.keys()
        and all(type(options[n]) is kind and options[n] in ok for n, (kind, ok) in known.items())
    )


def encode(document: Document) -> bytes:
    """Content of ``zarr.json``, indented as by zarr-python, but for copies of other metadata."""
    if not document.get(COPIES_KEY, {}).get("metadata"):
        return json.dumps(document, indent=2).encode()
    rest = {name: value for name, value in document.items() if name != COPIES_KEY}
    # Indenting takes ten times as long, and there may be thousands of them.
    begin, copies = json.dumps(rest, indent=2)[:-2], json.dumps(document[COPIES_KEY])
    return f'{begin},\n  "{COPIES_KEY}": {copies}\n}}'.encode()


def group_document(attributes: Attributes) -> Document:
    """Metadata of a group."""
    return {"attributes": attributes, "zarr_format": 3, "node_type": "group"}


def array_document(spec: ArraySpec, attributes: Attributes) -> Document | None:
    """Metadata of an array, as zarr-python would write them.

    Parameters
    ----------
    spec : ArraySpec
        One that can be stored in Zarr; see `fmristore_stores.zarr.metadata.creation`.
    attributes : dict
        Of the array.

    Returns
    -------
    dict or None
        None if zarr-python has to be asked: other data types than plain ones and text, fill values
        other than 0, codecs that are not all in the Zarr specification.

    Raises
    ------
    CodecError
        If a codec cannot be written in Zarr metadata.
    """
    layout, steps = spec.layout, zarr_codecs(spec.codecs)
    if is_string(spec.dtype):
        name, first, fill = "string", {"name": "vlen-utf8", "configuration": {}}, spec.fill
        plain = not steps and not layout.shards and fill == ""
    else:
        name, fill = spec.dtype.name, spec.fill.item()
        first = _LITTLE if spec.dtype.itemsize > 1 else {"name": "bytes"}
        known = name in _DTYPES and all(step["name"] in _STEPS for step in steps)
        plain = known and fill == 0 and all(_is_plain_step(step) for step in steps)
    if not plain:
        return None
    codecs: list[Any] = [first, *steps]
    if layout.order:
        codecs.insert(0, {"name": "transpose", "configuration": {"order": list(layout.order)}})
    if layout.shards:
        sharding = {
            "chunk_shape": list(layout.chunks),
            "codecs": codecs,
            "index_codecs": _INDEX_CODECS,
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    document = {
        "shape": list(spec.shape),
        "data_type": name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(layout.units)}},
        "chunk_key_encoding": _KEYS[0],
        "fill_value": fill,
        "codecs": codecs,
        "attributes": attributes,
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    if any(spec.dims):
        document["dimension_names"] = [dim or None for dim in spec.dims]
    return document


def consolidated_document(documents: Mapping[str, Document]) -> Document:
    """Metadata of the root with those of all nodes.

    Parameters
    ----------
    documents : mapping
        Metadata of all nodes by path, ``""`` for the root.
    """

    def copies(below: Mapping[str, Document]) -> Document:
        return {"kind": "inline", "must_understand": False, "metadata": below}

    nodes = sorted((path for path in documents if path), key=lambda path: (path.count("/"), path))
    below = {path: documents[path] for path in nodes}
    for path in nodes:
        if below[path]["node_type"] == "group":
            below[path] = below[path] | {COPIES_KEY: copies({})}
    return documents[""] | {COPIES_KEY: copies(below)}
