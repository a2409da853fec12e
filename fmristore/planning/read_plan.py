"""Cost of a read, known before it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmristore.planning.pictures import AxisChunks, chunk_svg, chunk_text, facts_html
from fmristore.planning.text import size_text
from fmristore_stores.io.ranges import ReadCost
from fmristore_stores.shown import shown, shown_url

__all__ = ["Planner", "ReadPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """Cost of reading a selection when nothing is cached.

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
    axes : tuple of AxisChunks
        Chunks along each axis and which of them are touched, where they are blocks of the grid.
    """

    url: str
    selection: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks_in_all: int
    cost: ReadCost
    copy: str | None = None
    axes: tuple[AxisChunks, ...] = ()

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

    @property
    def _title(self) -> str:
        return f"{shown_url(self.url)} [{_index_text(self.selection)}]"

    def _facts(self) -> dict[str, str]:
        """Facts that people want to see, by name."""
        result = " x ".join(map(str, self.shape)) or "one number"
        facts = {"result": f"{result} {self.dtype}, {size_text(self.returned_bytes)} as stored"}
        if self.copy is not None:
            facts["copy"] = f"/{self.copy}, the one with less to decode"
        facts |= {
            "chunks": f"{self.chunks} of {self.chunks_in_all}",
            "requests": _or_unknown(self.requests),
            "encoded": size_text(self.encoded_bytes),
        }
        if self.fetched_bytes != self.encoded_bytes:
            facts["fetched"] = size_text(self.fetched_bytes)
        facts["decoded"] = size_text(self.decoded_bytes)
        amplification = f"{self.amplification:.3g} bytes decoded for each byte returned"
        return facts | {"amplification": amplification}

    def explain(self, *, draw: bool = False) -> str:
        """Say it in words (and print it).

        Parameters
        ----------
        draw : bool
            Draw the chunks along each axis, ``#`` for those that are touched.

        Returns
        -------
        str
            What was printed.
        """
        lines = [self._title, *(f"  {name:<13}  {text}" for name, text in self._facts().items())]
        text = "\n".join(map(shown, lines))
        if draw:
            text += f"\n{chunk_text(self.axes) if self.axes else _NOT_DRAWN}"
        print(text)  # noqa: T201 - printing is what it is for
        return text

    def _repr_html_(self) -> str:
        return facts_html(self._title, self._facts(), chunk_svg(self.axes) if self.axes else "")


_NOT_DRAWN = "  (chunks hold some voxels, not blocks of the grid)"


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
