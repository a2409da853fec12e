"""What all stored objects share: they hold a store, say what they are, and can be closed."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from fmristore_stores.errors import ClosedError
from fmristore_stores.opening import Handle
from fmristore_stores.protocol import Store

__all__ = ["BorrowedHandle", "StoredObject"]


class BorrowedHandle(Handle):
    """A hold on the store of another handle, for a part of an object: closing it closes no store.

    Copies and pickles become holds of their own.

    Parameters
    ----------
    owner : Handle
        When it is closed, the borrowed one is too.
    """

    def __init__(self, owner: Handle) -> None:
        self.locator = owner.locator
        self._owner = owner
        self._given_back = False

    @property
    def store(self) -> Store:
        """The opened store of this process.

        Raises
        ------
        ClosedError
            After `close`, of this handle or of its owner.
        """
        if self._given_back:
            raise ClosedError("this object was closed; ask for it again", url=self.locator.url)
        return self._owner.store

    @property
    def closed(self) -> bool:
        """Whether `close` was called, of this handle or of its owner."""
        return self._given_back or self._owner.closed

    def close(self) -> None:
        """Give the store back; harmless when repeated."""
        self._given_back = True

    def __reduce__(self) -> tuple[type[Handle], Any]:
        if self.closed:
            raise ClosedError("a closed object cannot be pickled", url=self.locator.url)
        return Handle, (self.locator,)


class StoredObject(ABC):
    """An object that is read from an opened store.

    It pickles, copies and survives forks, because it holds a `Handle` and no open file.

    Parameters
    ----------
    handle : Handle
        The store.
    """

    format_name: ClassVar[str]
    format_version: ClassVar[tuple[int, int]] = (1, 0)
    holds: ClassVar[str] = ""
    """What the format holds, in one line: see `fmristore.formats.chooser`."""
    use_when: ClassVar[str] = ""
    """When it is the right choice, going on from "use it when"."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    @property
    def url(self) -> str:
        """Path or URL of the store."""
        return self._handle.locator.url

    @property
    def root_attributes(self) -> dict[str, Any]:
        """Attributes of the store's root group."""
        return self._handle.store.root.read_attributes()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._handle.closed

    def close(self) -> None:
        """Release the store; the object cannot be read from then on."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was read since: equal objects pickle to equal bytes."""
        return {name: value for name, value in self.__dict__.items() if name.startswith("_")}

    @abstractmethod
    def _facts(self) -> dict[str, str]:
        """What people want to see of the object, by name."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {', '.join(self._facts().values())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td>{html.escape(text)}</td></tr>"
            for name, text in {"url": self.url, **self._facts()}.items()
        )
        return f"<b>{type(self).__name__}</b><table>{rows}</table>"
