"""Attributes of nodes as documents have them, which may be nested deeper than is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fmristore_stores.errors import MetadataError
from fmristore_stores.spec import Attributes, copy_attributes

__all__ = ["AttributesView", "checked_copy"]


class AttributesView(Mapping[str, Any]):
    """Attributes of a group as they were parsed; lists and mappings are checked when asked for.

    Parameters
    ----------
    attributes : dict
        Nested as deep as they may be; not to be changed.
    url, path : str
        Store and node, for messages.
    """

    def __init__(self, attributes: Attributes, url: str, path: str) -> None:
        self._attributes = attributes
        self._place = url, path

    def __getitem__(self, name: str) -> Any:
        value = self._attributes[name]
        if not isinstance(value, dict | list):
            return value
        return checked_copy({name: value}, *self._place)[name]

    def get(self, name: str, default: Any = None) -> Any:
        """One, or the default where there is none."""
        return self[name] if name in self._attributes else default

    def __contains__(self, name: object) -> bool:
        return name in self._attributes

    def __iter__(self) -> Iterator[str]:
        return iter(self._attributes)

    def __len__(self) -> int:
        return len(self._attributes)


def checked_copy(attributes: Attributes, url: str, path: str) -> Attributes:
    """Attributes of a node, or some of them, for somebody who may change them.

    Raises
    ------
    MetadataError
        If one is nested too deep.
    """
    try:
        return copy_attributes(attributes)
    except MetadataError as error:
        error.url, error.node = url, path
        raise
