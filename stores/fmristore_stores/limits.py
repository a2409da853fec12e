"""Limits of the memory and time that reading a store may take, checked beforehand.

The sizes that a file states may be wrong, by damage or on purpose. These limits are far above what
ordinary files need. If a file that you trust is refused, raise one: ``LIMITS.chunk = 1 << 33``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from fmristore_stores.errors import MemoryLimitError

__all__ = [
    "LIMITS",
    "MOST_ATTRIBUTES",
    "Limits",
    "check_chunk",
    "check_metadata",
    "check_result",
    "check_text",
    "check_values",
    "is_metadata",
]

MOST_ATTRIBUTES = 4096
"""Attributes that a node of an HDF5 file may get: HDF5 looks through all of them to add one."""
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ROOTS = frozenset({"zarr.json", ".zmetadata", ".zattrs"})
_NAMES = ("zarr.json", ".zmetadata", ".zattrs", ".zarray", ".zgroup")


def _machine() -> int:
    """Bytes of memory of this computer; 2**62 if they are not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 62


@dataclass(slots=True)
class Limits:
    """Largest sizes in bytes that are read; beyond them `MemoryLimitError` is raised.

    A file that cannot be parsed within `probe_seconds` and `probe_memory` is damaged:
    `CorruptDataError`.

    Parameters
    ----------
    chunk : int
        A decoded chunk.
    text : int
        A decoded chunk of text, and all texts that one read of an HDF5 dataset returns.
    result : int
        What one read returns; by default the memory of this computer.
    document : int
        A metadata document of a Zarr node.
    consolidated : int
        The metadata document at the root of a Zarr store, which may repeat those of all groups and
        arrays; an object saved by R.
    values : int
        Number of values that any JSON or XML document may have; see `check_values`.
    probe_seconds : float
        Time for parsing an HDF5 file that is not trusted, in a process of its own.
    probe_memory : int
        Memory that this process may take for it.
    """

    chunk: int
    text: int
    result: int
    document: int
    consolidated: int
    values: int = 1 << 20
    probe_seconds: float = 60.0
    probe_memory: int = 1 << 30


LIMITS = Limits(
    chunk=2 << 30, text=256 << 20, result=_machine(), document=16 << 20, consolidated=64 << 20
)
"""The limits that apply in this process."""


def check_chunk(nbytes: int, url: str | None, node: str) -> None:
    """Refuse a chunk that is too large when decoded.

    Raises
    ------
    MemoryLimitError
        If it is larger than ``LIMITS.chunk``.
    """
    _check_file("a chunk decodes to", nbytes, "chunk", url, node)


def check_text(nbytes: int, url: str | None, node: str) -> None:
    """Refuse a text, or a chunk of texts, that is too large.

    Raises
    ------
    MemoryLimitError
        If it is larger than ``LIMITS.text``.
    """
    _check_file("a chunk of text has", nbytes, "text", url, node)


def _check_file(what: str, nbytes: int, name: str, url: str | None, node: str) -> None:
    """Refuse what is larger than the limit of that name."""
    limit = getattr(LIMITS, name)
    if nbytes > limit:
        msg = (
            f"{what} {nbytes} bytes where {limit} are allowed; raise "
            f"fmristore_stores.limits.LIMITS.{name} if you trust this file and have the memory"
        )
        raise MemoryLimitError(msg, url=url, node=node)


def check_result(nbytes: int, url: str | None, node: str) -> None:
    """Refuse to read more at once than fits into memory.

    Raises
    ------
    MemoryLimitError
        If it is more than ``LIMITS.result``.
    """
    if nbytes > LIMITS.result:
        msg = (
            f"a result of {nbytes} bytes does not fit into memory ({LIMITS.result} bytes); "
            "read a smaller part"
        )
        raise MemoryLimitError(msg, url=url, node=node)


def is_metadata(key: str) -> bool:
    """Return whether a file of a Zarr store, by its name, is a metadata document."""
    return key.rpartition("/")[2] in _NAMES


def check_metadata(nbytes: int, key: str, url: str) -> None:
    """Refuse a metadata document that is too long.

    Parameters
    ----------
    nbytes : int
        Its length.
    key : str
        Its name in the store; the one of the root may be longer than others.
    url : str
        The store.

    Raises
    ------
    MemoryLimitError
        If it is.
    """
    limit = LIMITS.consolidated if key in _ROOTS else LIMITS.document
    if nbytes > limit:
        msg = (
            f"the metadata {key} have {nbytes} bytes where {limit} are allowed; raise "
            "fmristore_stores.limits.LIMITS if you trust this store and have the memory"
        )
        raise MemoryLimitError(msg, url=url)


def check_values(data: bytes | str, url: str | None = None, *, each: int = 8) -> None:
    """Refuse a JSON or XML document that would take many times its size in memory when parsed.

    An empty list is two characters long, and takes 64 bytes of memory.

    Parameters
    ----------
    data : bytes or str
        All of it.
    url : str, optional
        Where it lies.
    each : int
        Characters that a value and the comma behind it have at least in ordinary documents.

    Raises
    ------
    MemoryLimitError
        If it has more values than ``LIMITS.values`` and one for every `each` characters.
    """
    most = LIMITS.values + len(data) // each
    if len(data) <= most:
        return
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if raw.lstrip()[:1] == b"<":
        count = raw.count(b"<")
    else:
        count = _marks(raw)
        if count > most:  # texts may hold any number of them
            count = _marks(_STRINGS.sub(b"", raw))
    if count > most:
        msg = (
            f"a document of {len(data)} bytes has {count} values where {most} are allowed; raise "
            "fmristore_stores.limits.LIMITS.values if you trust it and have the memory"
        )
        raise MemoryLimitError(msg, url=url)


def _marks(document: bytes) -> int:
    """Number of commas and opening brackets, one of which stands before each value of JSON."""
    return sum(document.count(mark) for mark in (b",", b"[", b"{"))
