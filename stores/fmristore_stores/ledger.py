"""List of what was written to a store, looked for in it before anybody else sees it.

A disk or network file system may report an error to nobody, and somebody may remove files of a
store that is being written. So every store that is written is opened again before it is published:
its nodes must be there with their attributes, small arrays must have their values, and arrays that
were written whole must have all of their chunks.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmristore_stores.errors import FmristoreError, NotFoundError, StorageError
from fmristore_stores.grid import grid_shape
from fmristore_stores.protocol import AnyArray, Capability, Group, Store, TypedAttribute
from fmristore_stores.spec import ArraySpec

__all__ = ["Ledger", "check_written"]

_SMALL = 64 * 1024
"""Bytes of an array up to which its values are compared."""


@dataclass(slots=True)
class _Array:
    """Record of an array that was written."""

    shape: tuple[int, ...]
    units: int
    """Write units that it has."""
    encoded: int = 0
    """Encoded units that were written."""
    whole: bool = False
    """True if it was written with one call."""
    digest: bytes | None = None
    """Of its values, if they are few and were written with one call."""


class Ledger:
    """Remembers what is written to one store; used from any thread."""

    def __init__(self) -> None:
        self._attributes: dict[str, frozenset[str]] = {}
        self._arrays: dict[str, _Array] = {}
        self._lock = threading.Lock()

    @property
    def attributes(self) -> dict[str, frozenset[str]]:
        """Names of the attributes of each node that was made or changed, by its path."""
        return dict(self._attributes)

    def node(self, path: str, attributes: Iterable[str]) -> None:
        """A node was made, or got other attributes."""
        self._attributes[path] = frozenset(attributes)

    def typed(self, path: str, attributes: Mapping[str, TypedAttribute]) -> None:
        """A node got more attributes; those without a JSON value are not looked for."""
        more = {name for name, attribute in attributes.items() if not attribute.reason}
        self._attributes[path] = self._attributes.get(path, frozenset()) | more

    def array(self, path: str, spec: ArraySpec) -> None:
        """An array was made."""
        units = math.prod(grid_shape(spec.shape, spec.layout.units))
        self._arrays[path] = _Array(spec.shape, units)

    def values(self, path: str, values: AnyArray, *, whole: bool) -> None:
        """Values were written through the store's library."""
        with self._lock:
            found = self._arrays.get(path)
            if found is not None:
                small = values.nbytes <= _SMALL
                found.whole = whole or found.whole
                found.digest = _digest(values) if whole and small else None

    def encoded(self, path: str) -> None:
        """An encoded unit was written that is not empty."""
        with self._lock:
            found = self._arrays.get(path)
            if found is not None:
                found.encoded += 1
                found.digest = None

    def removed(self, path: str) -> None:
        """A node was removed, with all below it."""
        for known in (self._attributes, self._arrays):
            for name in [n for n in known if n == path or n.startswith(f"{path}/")]:
                del known[name]

    def arrays(self) -> dict[str, _Array]:
        """Arrays that were made, by their paths."""
        return dict(self._arrays)


def check_written(store: Store, ledger: Ledger) -> None:
    """Check that a store holds what was written to it.

    Parameters
    ----------
    store : Store
        Opened since then; its arrays can count their stored units.
    ledger : Ledger
        Of the store while it was written.

    Raises
    ------
    StorageError
        If something of it is not there.
    """
    arrays = ledger.arrays()
    for path, names in ledger.attributes.items():
        try:
            root = store.root
            if path in arrays:
                node: Any = root.array(path)
                _check_array(node, arrays[path])
            else:
                node = _node(root, path)
            typed = Capability.TYPED_ATTRIBUTES in store.capabilities
            lost = names - set(node.readable_attributes() if typed else node.read_attributes())
            if lost:
                raise StorageError(f"attribute {min(lost)!r} is not there")
        except FmristoreError as error:
            msg = f"what was written cannot be read back: {error.message}; write it again"
            raise StorageError(msg, url=store.url, node=path) from error


def _node(root: Group, path: str) -> Any:
    """A group, or an array of which only the attributes were written."""
    if not path:
        return root
    try:
        return root.group(path)
    except NotFoundError:
        return root.array(path)


def _check_array(array: Any, written: _Array) -> None:
    if array.spec.shape != written.shape:
        raise StorageError(f"its shape is {array.spec.shape} instead of {written.shape}")
    if written.digest is not None:
        if _digest(array.read()) != written.digest:
            raise StorageError("its values are not those that were written")
    elif written.whole or written.encoded == written.units:
        found = array.stored_units()
        if found is not None and found != written.units:
            raise StorageError(f"it has {found} of its {written.units} chunks")


def _digest(values: AnyArray) -> bytes:
    digest = hashlib.sha256(str(values.shape).encode())
    if values.dtype.kind in "OT":
        for text in values.reshape(-1).tolist():
            digest.update(f"{len(text)} {text}".encode())
    else:
        digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.digest()
