"""Reference files: JSON that lists where in other files the chunks of Zarr arrays lie.

The layout is version 1 of kerchunk's: ``refs`` maps the keys of a Zarr store of format 2 to their
content or to ``[url, offset, length]``. What fmristore writes is such a file; its one addition is
the member ``fmristore``, with the facts by which the files that it refers to are recognised.

References
----------
https://fsspec.github.io/kerchunk/spec.html
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fmristore_stores.errors import (
    CorruptDataError,
    FormatError,
    InvalidInputError,
    MemoryLimitError,
    MetadataError,
    NotFoundError,
    UnknownFormatError,
    UnsupportedVersionError,
)
from fmristore_stores.limits import check_values
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import Attributes, check_name, copy_attributes

__all__ = ["WHOLE", "Chunks", "Document", "Target", "TargetFacts", "compose", "parse"]

_OWN = "fmristore"
"""Member of a reference file that only fmristore reads."""
_OWN_VERSION = 2
_TEMPLATE = "u"
"""Name that stands for the URL of the first file that is referred to."""
WHOLE = -1
"""Length of a chunk that is a whole file."""
_USE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_BASE64 = "base64:"
_LEAST = 4
"""Letters that a value takes in a reference file: most are short integers, and keys of chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """Facts by which a file that is referred to is recognised.

    Parameters
    ----------
    size : int
        Bytes.
    etag : str
        Version of an object, empty where the server names none.
    mtime_ns : int
        Time of modification of a local file in nanoseconds, 0 elsewhere.
    place : str
        Digest of its normalised URL, by which a file that was moved is noticed.
    head : str
        Digest of its first bytes, by which one that was moved is recognised.
    """

    size: int
    etag: str = ""
    mtime_ns: int = 0
    place: str = ""
    head: str = ""


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
    refs : dict of str to object
        All keys of the Zarr store.
    templates : dict of str to str
        URLs by the names that stand for them in double braces.
    facts : dict of str to TargetFacts
        By URL, as it is written there.
    """

    groups: dict[str, Attributes] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Attributes] = field(default_factory=dict)
    refs: dict[str, Any] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    facts: dict[str, TargetFacts] = field(default_factory=dict)

    def chunk(self, key: str) -> bytes | tuple[str, int, int] | None:
        """Content of a chunk, or URL, offset and length of it; None if it is not listed.

        Raises
        ------
        CorruptDataError, MetadataError
            If the entry makes no sense.
        """
        value = self.refs.get(key)
        if value is None and key not in self.refs:
            return None
        if isinstance(value, str):
            return _content(value)
        if isinstance(value, list) and value and isinstance(value[0], str):
            url = _expand(value[0], self.templates) if "{{" in value[0] else value[0]
            if len(value) == 1:
                return url, 0, WHOLE
            if len(value) == 3 and _is_place(value[1]) and _is_place(value[2]):
                return url, value[1], value[2]
        raise CorruptDataError(f"{str(value)[:80]} is no reference to a file")


def _is_place(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**62


# Reading -------------------------------------------------------------------------------------


def parse(data: bytes, *, url: str, group: str = "") -> Document:
    """Parse a reference file, of fmristore or of other software.

    Parameters
    ----------
    data : bytes
        All of it.
    url : str
        For messages.
    group : str
        Path of the group that becomes the root.

    Raises
    ------
    UnknownFormatError
        If it is no reference file.
    UnsupportedVersionError
        If it is of a version that is not known.
    MetadataError
        If it is damaged, or needs a program to be run to be read.
    MemoryLimitError
        If it has more values than a document of its length can have.
    NotFoundError
        If there is no such group.
    """
    try:
        return _document(_load(data), group)
    except (FormatError, MemoryLimitError, NotFoundError) as error:
        error.url = error.url or url
        raise


def _load(text: bytes) -> dict[str, Any]:
    check_values(text, each=_LEAST)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnknownFormatError(f"this is not JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise UnknownFormatError("this is JSON, but not a reference file")
    return found


def _document(found: dict[str, Any], group: str) -> Document:
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
    facts = _all_facts(found.get(_OWN), templates) if version else {}
    if group:
        refs = _below(refs, group)
    document = Document(refs=refs, templates=templates, facts=facts)
    _fill(document)
    return document


def _is_zarr(refs: Mapping[str, Any]) -> bool:
    if "zarr.json" in refs:
        raise UnknownFormatError("references to Zarr format 3 are not known; make them in format 2")
    return ".zgroup" in refs or ".zarray" in refs or ".zmetadata" in refs


def _below(refs: Mapping[str, Any], group: str) -> dict[str, Any]:
    prefix = f"{group}/"
    found = {key[len(prefix) :]: value for key, value in refs.items() if key.startswith(prefix)}
    if ".zgroup" not in found:
        raise NotFoundError("there is no such group in the reference file", node=group)
    return found


def _all_facts(own: Any, templates: Mapping[str, str]) -> dict[str, TargetFacts]:
    if not isinstance(own, dict):
        return {}
    if own.get("version") not in (1, _OWN_VERSION):
        raise UnsupportedVersionError("this reference file is of a newer fmristore")
    try:
        named = {_TEMPLATE: own["target"]} if own["version"] == 1 else own["targets"]
        return {templates[name]: _facts(facts) for name, facts in named.items()}
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"the facts about what it refers to are not understood: {error!r}"
        raise MetadataError(msg) from error


def _facts(found: Mapping[str, Any]) -> TargetFacts:
    facts = TargetFacts(**found)
    texts, numbers = (facts.etag, facts.place, facts.head), (facts.size, facts.mtime_ns)
    if not all(isinstance(v, str) for v in texts) or not all(type(v) is int for v in numbers):
        raise MetadataError("the facts about what it refers to are not understood")
    return facts


def _fill(document: Document) -> None:
    """Sort the metadata into groups, arrays and attributes."""
    attributes: dict[str, Any] = {}
    for key in [key for key in document.refs if ".z" in key]:
        folder, _, name = key.rpartition("/")
        if name == ".zarray" and _is_path(folder):
            document.arrays[folder] = _json(document.refs[key], key)
        elif name == ".zgroup" and _is_path(folder):
            document.groups[folder] = {}
        elif name == ".zattrs":
            attributes[folder] = document.refs[key]
    for path in [*document.arrays, *document.groups]:
        while path:
            path = path.rpartition("/")[0]  # noqa: PLW2901 - upwards to the root
            document.groups.setdefault(path, {})
    document.groups.setdefault("", {})
    for path, value in attributes.items():
        if path in document.arrays:
            document.attributes[path] = _attributes(value, path)
        elif path in document.groups:
            document.groups[path] = _attributes(value, path)


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
        document = _content(value)
        check_values(document)
        return json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{key} is not JSON: {str(error)[:200]}") from error


def _content(value: str) -> bytes:
    if not value.startswith(_BASE64):
        # Bytes beyond ASCII stand there as the UTF-8 text that they happen to be.
        return value.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(value[len(_BASE64) :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise CorruptDataError(f"what is stored inline is not base64: {error}") from error


def _expand(url: str, templates: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in templates:
            raise MetadataError(f"there is no template {match[1][:80]!r}")
        return templates[match[1]]

    expanded = _USE.sub(value, url)
    if "{{" in expanded or "{%" in expanded:
        raise MetadataError("references that are programs are not supported")
    return expanded


# Writing -------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A file that is referred to."""

    url: str
    """Its URL, or its path relative to the reference file."""
    facts: TargetFacts
    """Facts by which it is recognised."""
    known_by: str = ""
    """Of a store: what follows its URL in that of the object whose facts they are."""


class Chunks(NamedTuple):
    """Chunks of one array that lie in a file that is referred to."""

    grid: tuple[int, ...]
    """Shape of the grid of chunks."""
    rows: AnyArray
    """Number, offset and length of each: int64, (chunks, 3)."""
    target: int = 0
    """Number of the file."""
    places: Sequence[str] = ()
    """Of a store: the object in it that each lies in."""


def compose(
    small: Mapping[str, Any], chunks: Mapping[str, Chunks], targets: list[Target]
) -> Iterator[bytes]:
    """Text of a reference file, a part for each array.

    Parameters
    ----------
    small : mapping of str to object
        Keys of the Zarr store: metadata as JSON values, and chunks as bytes.
    chunks : mapping of str to Chunks
        By path of the array.
    targets : list of Target
        Files and stores that are referred to.

    Raises
    ------
    InvalidInputError
        If a URL or a name has two opening braces, which readers take for a program.
    """
    names = [f"{_TEMPLATE}{i or ''}" for i in range(len(targets))]
    templates, facts = {}, {}
    for name, target in zip(names, targets, strict=True):
        if "{{" in target.url:
            raise InvalidInputError("a URL with {{ cannot be referred to", url=target.url)
        templates[name] = target.url
        known = f"{name}_known" if target.known_by else name
        templates[known] = target.url + target.known_by
        facts[known] = asdict(target.facts)
    head = {
        "version": 1,
        _OWN: {"version": _OWN_VERSION, "targets": facts},
        "templates": templates,
        "refs": {key: _text(value) for key, value in small.items()},
    }
    yield json.dumps(head, ensure_ascii=False, allow_nan=False).encode()[:-2] + b"\n"
    for path, (grid, rows, number, places) in chunks.items():
        keys = np.array(np.unravel_index(rows[:, 0], grid or (1,))).T.tolist()
        begin = json.dumps(path, ensure_ascii=False)[1:-1]
        files: Iterator[str] = itertools.repeat(f"{{{{{names[number]}}}}}")
        if any("{{" in place for place in places):
            raise InvalidInputError("a name with {{ cannot be referred to", node=path)
        if places:
            files = map(next(files).__add__, map("/{}".format, places))
        lines = [
            f',"{begin}/{".".join(map(str, key)) if grid else 0}":'
            f"[{json.dumps(file, ensure_ascii=False)},{offset},{length}]\n"
            for key, (_, offset, length), file in zip(keys, rows.tolist(), files, strict=False)
        ]
        yield "".join(lines).encode()
    yield b"}}\n"


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return _BASE64 + base64.b64encode(value).decode()
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
