"""Reference files: JSON that lists where in other files the chunks of Zarr arrays lie.

The layout is version 1 of kerchunk's: ``refs`` maps the keys of a Zarr store of format 2 to their
content or to ``[url, offset, length]``. What fmristore writes is such a file, in two parts:

* the first line holds all metadata, small arrays, and the member ``fmristore`` with the packed
  index of the chunks (`reference_index`), the facts by which the HDF5 file is recognised
  (`TargetFacts`), and the digest of the rest;
* each further line is one reference to a chunk.

Whoever knows kerchunk's layout reads all of it. Here only the first line is parsed, unless the
digest says that somebody changed the rest.

References
----------
https://fsspec.github.io/kerchunk/spec.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmristore_stores.errors import (
    CorruptDataError,
    FormatError,
    InvalidInputError,
    MetadataError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.grid import grid_shape
from fmristore_stores.protocol import AnyArray
from fmristore_stores.reference.index import INLINE, WHOLE, ChunkTable, unpack_rows
from fmristore_stores.reference.metadata import Form
from fmristore_stores.spec import Attributes, check_name, copy_attributes

__all__ = [
    "BASE64",
    "OWN",
    "OWN_VERSION",
    "TEMPLATE",
    "Document",
    "Listed",
    "Packed",
    "TargetFacts",
    "digest_of",
    "parse",
]

OWN = "fmristore"
"""Member of a reference file that only fmristore reads."""
OWN_VERSION = 1
TEMPLATE = "u"
"""Name that stands for the URL of the one file that is referred to."""
_USE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
BASE64 = "base64:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """By which the file that is referred to is recognised.

    Parameters
    ----------
    size : int
        Bytes.
    etag : str
        Version of an object, empty where the server tells none.
    mtime_ns : int
        Time of modification of a local file in nanoseconds, 0 elsewhere.
    place : str
        Digest of its normalised URL: tells a file that was moved.
    head : str
        Digest of its first bytes, by which one that was moved is recognised.
    """

    size: int
    etag: str = ""
    mtime_ns: int = 0
    place: str = ""
    head: str = ""


class Listed:
    """Chunks of one array as a reference file lists them.

    Parameters
    ----------
    templates : mapping
        Values of names in double braces.
    """

    def __init__(self, templates: Mapping[str, str]) -> None:
        self.entries: list[tuple[str, Any]] = []
        """The part of each key after the array's path, and the value."""
        self._templates = templates

    def table(self, form: Form) -> tuple[ChunkTable, bytes]:
        """Parse the entries; also the bytes of chunks that are part of the file.

        Raises
        ------
        CorruptDataError, MetadataError
            If an entry makes no sense.
        """
        grid = grid_shape(form.spec.shape, form.spec.layout.chunks)
        sources: dict[str, int] = {INLINE: 0}
        written: dict[str, int] = {}
        rows: list[tuple[int, int, int, int]] = []
        for key, value in self.entries:
            number = None if isinstance(value, str) else _number(key, grid, form.separator)
            if number is None:
                continue
            text, offset, length = _reference(value)
            source = written.get(text)
            if source is None:
                url = _expand(text, self._templates) if "{{" in text else text
                source = written[text] = sources.setdefault(url, len(sources))
            rows.append((number, source, offset, length))
        inline, data = self.inline_rows(form)
        table = np.concatenate([np.array(rows, np.int64).reshape(-1, 4), inline])
        return ChunkTable(grid, table, tuple(sources)), data

    def inline_rows(self, form: Form) -> tuple[AnyArray, bytes]:
        """Rows of the chunks that are part of the file, and their bytes one after the other.

        Raises
        ------
        CorruptDataError
            If an entry makes no sense.
        """
        grid = grid_shape(form.spec.shape, form.spec.layout.chunks)
        rows: list[tuple[int, int, int, int]] = []
        parts: list[bytes] = []
        position = 0
        for key, value in self.entries:
            number = _number(key, grid, form.separator) if isinstance(value, str) else None
            if number is not None:
                parts.append(_content(value))
                rows.append((number, 0, position, len(parts[-1])))
                position += len(parts[-1])
        return np.array(rows, np.int64).reshape(-1, 4), b"".join(parts)


@dataclass(frozen=True, slots=True)
class Packed:
    """Chunks of one array in the packed index of a file of fmristore.

    Parameters
    ----------
    text, count : object
        What the file has for it.
    most : int
        Number of chunks that it can have at most.
    url : str
        Of the file that they lie in.
    listed : Listed
        Chunks that are part of the reference file.
    """

    text: Any
    count: Any
    most: int
    url: str
    listed: Listed

    def table(self, form: Form) -> tuple[ChunkTable, bytes]:
        """Unpack the index.

        Raises
        ------
        CorruptDataError
            If it is damaged.
        """
        packed = unpack_rows(self.text, self.count, self.most)
        rows = np.ones((len(packed), 4), np.int64)
        rows[:, 0], rows[:, 2], rows[:, 3] = packed.T
        grid = grid_shape(form.spec.shape, form.spec.layout.chunks)
        inline, data = self.listed.inline_rows(form)
        return ChunkTable(grid, np.concatenate([rows, inline]), (INLINE, self.url)), data


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed reference file.

    Parameters
    ----------
    groups : dict of str to Attributes
        By path; the root's is empty.
    arrays : dict of str to object
        Content of ``.zarray`` by path, not checked.
    attributes : dict of str to Attributes
        Of arrays, by path.
    chunks : dict of str to Listed or Packed
        By path of the array.
    facts : TargetFacts, optional
        Of the one file that is referred to.
    target : str
        Its URL; empty where `facts` is None.
    """

    groups: dict[str, Attributes] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Attributes] = field(default_factory=dict)
    chunks: dict[str, Listed | Packed] = field(default_factory=dict)
    facts: TargetFacts | None = None
    target: str = ""


def digest_of(data: bytes) -> str:
    """Digest of the lines after the first one."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


# Reading -------------------------------------------------------------------------------------


def parse(data: bytes, *, url: str) -> Document:
    """Understand a reference file, of fmristore or of other software.

    Parameters
    ----------
    data : bytes
        All of it.
    url : str
        For messages.

    Raises
    ------
    UnknownFormatError
        If it is no reference file.
    UnsupportedVersionError
        If it is of a version that is not known.
    MetadataError
        If it is damaged, or needs a program to be run to be read.
    """
    try:
        own = _own_head(data)
        if own is not None:
            return own
        return _document(_load(data))
    except FormatError as error:
        error.url = error.url or url
        raise


def _load(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnknownFormatError(f"this is not JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise UnknownFormatError("this is JSON, but not a reference file")
    return found


def _own_head(data: bytes) -> Document | None:
    """Content of the first line, if it is one of fmristore and the rest is as it was written."""
    head, _, rest = data.partition(b"\n")
    if b'"fmristore"' not in head[:64] or not rest.endswith(b"}}\n"):
        return None
    try:
        found = _load(head + b"}}")
    except UnknownFormatError:
        return None
    own = found.get(OWN)
    if not isinstance(own, dict) or own.get("rest") != digest_of(rest):
        return None
    document = _document(found)
    index = own.get("index")
    if document.facts is None or not isinstance(index, dict):
        return None
    for path, entry in index.items():
        listed = document.chunks.get(path)
        if not isinstance(listed, Listed) or not isinstance(entry, dict):
            raise MetadataError(f"the packed index is of an array {path[:80]!r} that is not there")
        most = rest.count(b"\n")
        document.chunks[path] = Packed(
            entry.get("rows"), entry.get("count"), most, document.target, listed
        )
    return document


def _document(found: dict[str, Any]) -> Document:
    version = found.get("version", 0)
    refs = found.get("refs") if version else found
    if version not in (0, 1):
        raise UnsupportedVersionError(f"reference files of version {version!r} are not known")
    if not isinstance(refs, dict) or not _is_zarr(refs):
        raise UnknownFormatError("this is JSON, but not a reference file of Zarr format 2")
    if found.get("gen"):
        raise MetadataError("references that have to be computed (gen) are not supported")
    templates = found.get("templates", {}) if version else {}
    if not isinstance(templates, dict) or not all(
        isinstance(value, str) and "{{" not in value and "{%" not in value
        for value in templates.values()
    ):
        raise MetadataError("templates that are programs are not supported")
    facts = _facts(found.get(OWN)) if version else None
    target = templates.get(TEMPLATE, "") if facts is not None else ""
    if not target:
        facts = None
    document = Document(facts=facts, target=target)
    _fill(document, refs, templates)
    return document


def _is_zarr(refs: Mapping[str, Any]) -> bool:
    if "zarr.json" in refs:
        raise UnknownFormatError("references to Zarr format 3 are not known; make them in format 2")
    return ".zgroup" in refs or ".zarray" in refs or ".zmetadata" in refs


def _facts(own: Any) -> TargetFacts | None:
    if not isinstance(own, dict):
        return None
    if own.get("version") != OWN_VERSION:
        raise UnsupportedVersionError("this reference file is of a newer fmristore")
    try:
        facts = TargetFacts(**own["target"])
    except (KeyError, TypeError) as error:
        raise MetadataError(f"the facts about the target are not understood: {error}") from error
    texts = (facts.etag, facts.place, facts.head)
    numbers = (facts.size, facts.mtime_ns)
    if not all(isinstance(v, str) for v in texts) or not all(type(v) is int for v in numbers):
        raise MetadataError("the facts about the target are not understood")
    return facts


def _fill(document: Document, refs: Mapping[str, Any], templates: Mapping[str, str]) -> None:
    """Sort the keys into groups, arrays and chunks."""
    rest: list[tuple[str, Any]] = []
    attributes: dict[str, Any] = {}
    for key, value in refs.items():
        folder, _, name = key.rpartition("/")
        if name == ".zarray" and _is_path(folder):
            document.arrays[folder] = _json(value, key)
            document.chunks[folder] = Listed(templates)
        elif name == ".zgroup" and _is_path(folder):
            document.groups[folder] = {}
        elif name == ".zattrs":
            attributes[folder] = value
        elif not name.startswith(".z"):
            rest.append((key, value))
    for path in [*document.arrays, *document.groups]:
        while path:
            path = path.rpartition("/")[0]  # noqa: PLW2901 - upwards to the root
            document.groups.setdefault(path, {})
    document.groups.setdefault("", {})
    for path, value in attributes.items():
        found = _attributes(value, path)
        if path in document.arrays:
            document.attributes[path] = found
        elif path in document.groups:
            document.groups[path] = found
    _sort_chunks(document, rest)


def _sort_chunks(document: Document, rest: Iterable[tuple[str, Any]]) -> None:
    owners: dict[str, tuple[Listed, int] | None] = {}
    for key, value in rest:
        folder = key.rpartition("/")[0]
        if folder not in owners:
            owners[folder] = _owner(document, folder)
        owner = owners[folder]
        if owner is not None:
            owner[0].entries.append((key[owner[1] :], value))


def _owner(document: Document, folder: str) -> tuple[Listed, int] | None:
    """The array that a key below `folder` belongs to, and where in it the chunk's name begins."""
    path = folder
    while True:
        listed = document.chunks.get(path)
        if isinstance(listed, Listed):
            return listed, len(path) + 1 if path else 0
        if not path:
            return None
        path = path.rpartition("/")[0]


def _is_path(path: str) -> bool:
    try:
        for name in path.split("/") if path else ():
            check_name(name)
    except InvalidInputError:
        return False
    return True


def _attributes(value: Any, path: str) -> Attributes:
    found = _json(value, f"{path}/.zattrs")
    if not isinstance(found, dict):
        raise MetadataError("the attributes are not a JSON object", node=path)
    try:
        return copy_attributes(found)
    except MetadataError as error:
        raise MetadataError(error.message, node=path) from error


def _json(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        raise MetadataError(f"{key} is not part of the reference file")
    try:
        return json.loads(_content(value))
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{key} is not JSON: {str(error)[:200]}") from error


def _content(value: str) -> bytes:
    if not value.startswith(BASE64):
        # Bytes beyond ASCII stand there as the UTF-8 text that they happen to be.
        return value.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(value[len(BASE64) :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise CorruptDataError(f"what is stored inline is not base64: {error}") from error


def _reference(value: Any) -> tuple[str, int, int]:
    if isinstance(value, list) and value and isinstance(value[0], str):
        if len(value) == 1:
            return value[0], 0, WHOLE
        if len(value) == 3:
            url, offset, length = value
            if type(offset) is type(length) is int and 0 <= offset < 2**62 and 0 <= length < 2**62:
                return url, offset, length
    raise CorruptDataError(f"{str(value)[:80]} is no reference to a file")


def _expand(url: str, templates: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in templates:
            raise MetadataError(f"there is no template {match[1][:80]!r}")
        return templates[match[1]]

    expanded = _USE.sub(value, url)
    if "{{" in expanded or "{%" in expanded:
        raise MetadataError("references that are programs are not supported")
    return expanded


def _number(key: str, grid: tuple[int, ...], separator: str) -> int | None:
    """Number of a chunk in its grid by its key; None for a key that names no chunk of it."""
    if not grid:
        return 0 if key == "0" else None
    parts = key.split(separator)
    if len(parts) != len(grid):
        return None
    number = 0
    for part, length in zip(parts, grid, strict=True):
        if not (part.isascii() and part.isdigit() and len(part) < 20):
            return None
        position = int(part)
        if position >= length:
            return None
        number = number * length + position
    return number
