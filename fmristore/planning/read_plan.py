"""What a read costs, known before it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmristore.planning.text import size_text
from fmristore_stores.io.ranges import ReadCost
from fmristore_stores.shown import shown

__all__ = ["Planner", "ReadPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """What a selection takes to read when nothing is cached.

    Parameters
    ----------
    url : str
        The store.
    selection : object
        The index, as it was given.
    shape : tuple of int
        Shape of the result.
    dtype : dtype
        Type of the result.
    chunks_in_all : int
        Chunks that the whole array has.
    cost : ReadCost
        Chunks, bytes and requests.
    copy : str, optional
        Path of the array that is read, where there are several copies to choose from.
    """

    url: str
    selection: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks_in_all: int
    cost: ReadCost
    copy: str | None = None

    @property
    def chunks(self) -> int:
        """Chunks to fetch and decode."""
        return self.cost.chunks

    @property
    def requests(self) -> int | None:
        """Byte ranges to ask for; None where a library reads the file by its own means."""
        return self.cost.requests

    @property
    def encoded_bytes(self) -> int | None:
        """Stored size of the chunks."""
        return self.cost.encoded_bytes

    @property
    def fetched_bytes(self) -> int | None:
        """Bytes to transfer: the chunks, and gaps between those that are fetched as one."""
        return self.cost.fetched_bytes

    @property
    def decoded_bytes(self) -> int:
        """Decoded size of the chunks."""
        return self.cost.decoded_bytes

    @property
    def returned_bytes(self) -> int:
        """Size of the result in the stored type."""
        return self.cost.returned_bytes

    @property
    def amplification(self) -> float:
        """Bytes decoded for each byte returned; 1 is perfect."""
        return self.cost.amplification

    def explain(self) -> str:
        """Say it in words (and print it)."""
        lines = [
            f"{self.url} [{_index_text(self.selection)}]",
            f"  result         {' x '.join(map(str, self.shape)) or 'one number'} {self.dtype}, "
            f"{size_text(self.returned_bytes)} as stored",
            f"  chunks         {self.chunks} of {self.chunks_in_all}",
            f"  requests       {_or_unknown(self.requests)}",
            f"  encoded        {size_text(self.encoded_bytes)}",
            f"  decoded        {size_text(self.decoded_bytes)}",
            f"  amplification  {self.amplification:.3g} bytes decoded for each byte returned",
        ]
        if self.fetched_bytes != self.encoded_bytes:
            lines.insert(5, f"  fetched        {size_text(self.fetched_bytes)}")
        if self.copy is not None:
            lines.insert(2, f"  copy           /{self.copy}, the one with less to decode")
        text = "\n".join(map(shown, lines))
        print(text)  # noqa: T201 - printing is what it is for
        return text


class Planner:
    """Index it as you would index the image, and get a `ReadPlan`."""

    def __init__(self, plan: Callable[[Any], ReadPlan]) -> None:
        self._plan = plan

    def __getitem__(self, index: Any) -> ReadPlan:
        return self._plan(index)


def _or_unknown(value: int | None) -> str:
    return "decided by the library that reads this codec" if value is None else str(value)


def _index_text(index: Any) -> str:
    entries = index if isinstance(index, tuple) else (index,)
    return ", ".join(_entry_text(entry) for entry in entries)


def _entry_text(entry: Any) -> str:
    if entry is Ellipsis:
        return "..."
    if isinstance(entry, slice):
        parts = [entry.start, entry.stop] + ([] if entry.step is None else [entry.step])
        return ":".join("" if part is None else str(part) for part in parts)
    return str(entry)
