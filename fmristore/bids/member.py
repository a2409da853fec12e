"""One store of a collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fmristore.api import open as open_store
from fmristore.bids.index import Entry
from fmristore.formats.any_format import AnyFormat
from fmristore.sources.bids_names import BidsName, long_name
from fmristore_stores.errors import ChangedError, NotFoundError
from fmristore_stores.shown import shown, shown_url

__all__ = ["Member"]


@dataclass(frozen=True, slots=True)
class Member:
    """One store of a collection, opened when it is asked for.

    Parameters
    ----------
    url : str
        Path or URL.
    entry : Entry
        What the index says of it.
    name : BidsName or None
        Its entities, suffix and extension; None if BIDS has no such names.
    storage_options : mapping, optional
        Passed to fsspec.
    """

    url: str
    entry: Entry
    name: BidsName | None
    storage_options: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown_url(self.url)!r}, {shown(self.entry.format)})"

    @property
    def path(self) -> str:
        """Path below the folder of the collection, which is its name in reports."""
        return self.entry.path

    @property
    def entities(self) -> dict[str, str]:
        """Entities by their long names, such as ``subject``."""
        found = {} if self.name is None else self.name.entities
        return {long_name(key): value for key, value in found.items()}

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Lengths of its axes, as the index has them."""
        return self.entry.shape

    def fact(self, name: str) -> str | None:
        """An entity by its name, or one of ``suffix``, ``format``, ``extension``, ``path``."""
        if name in ("format", "path"):
            return str(getattr(self.entry, name))
        if name in ("suffix", "extension"):
            return None if self.name is None else str(getattr(self.name, name))
        return self.entities.get(long_name(name))

    def open(self) -> AnyFormat:
        """Open the store.

        Returns
        -------
        NeuroVec, NeuroVol or another registered format class
            Close it, or use it in a ``with`` statement.

        Raises
        ------
        ChangedError
            If it is not what the index says: `Collection.refresh` reads it again.
        """
        try:
            stored = open_store(self.url, storage_options=self.storage_options)
        except NotFoundError as error:
            raise ChangedError(
                f"the index lists it, and it is gone ({error.message}): refresh the collection",
                url=self.url,
            ) from error
        shape = getattr(stored, "shape", None)
        if (
            stored.format_name != self.entry.format
            or (None if shape is None else tuple(shape)) != self.entry.shape
        ):
            stored.close()
            raise ChangedError(
                f"the index says {self.entry.format} of shape {self.entry.shape}, and it is "
                f"{stored.format_name} of shape {shape}: refresh the collection",
                url=self.url,
            )
        if self.entry.token and stored.token and stored.token != self.entry.token:
            stored.close()
            raise ChangedError(
                "was replaced or written to since the index was made: refresh the collection",
                url=self.url,
            )
        return stored
