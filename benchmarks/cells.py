"""Cells and groups: what is compared with what, and what is measured together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.timing import Budget, Contender, Timing, measure
from fmristore_stores.protocol import AnyArray

__all__ = ["OURS", "Cell", "Group", "Result", "check_equal", "run_group"]

OURS = "fmristore"
"""Label of the contender that a cell is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One comparison.

    Parameters
    ----------
    name : str
        Such as ``read/one-back/hdf5-portable/time/voxel``.
    engines : dict
        Label to name of contender: `OURS` and its peers.
    limit : str, optional
        Name of the contender that does the least that has to be done.
    note : str
        Anything a reader should know.
    """

    name: str
    engines: dict[str, str]
    limit: str | None = None
    note: str = ""

    @property
    def contenders(self) -> set[str]:
        """Names of all contenders that the cell needs."""
        limit = {self.limit} if self.limit else set()
        return {*self.engines.values(), *limit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Cells that are measured together, their contenders taking turns.

    Parameters
    ----------
    name : str
        For messages.
    cells : tuple of Cell
        What comes out.
    make : callable
        Takes the names of contenders that are wanted and makes them; files are prepared here.
    budget : Budget
        Number of repetitions.
    """

    name: str
    cells: tuple[Cell, ...]
    make: Callable[[set[str]], Sequence[Contender]]
    budget: Budget

    def only(self, parts: Sequence[str]) -> Group:
        """Keep the cells whose names contain one of `parts`, or all if there are none."""
        cells = (c for c in self.cells if not parts or any(part in c.name for part in parts))
        return replace(self, cells=tuple(cells))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured of one cell."""

    name: str
    engines: dict[str, Timing]
    limit: Timing | None
    note: str

    @property
    def ours(self) -> Timing:
        """Times of fmristore."""
        return self.engines[OURS]

    @property
    def peers(self) -> dict[str, Timing]:
        """Times of the others on the same store."""
        return {label: timing for label, timing in self.engines.items() if label != OURS}


def check_equal(found: AnyArray, expected: AnyArray, name: str) -> None:
    """Stop if an engine returned other data than expected."""
    if not np.array_equal(found, expected):
        raise AssertionError(f"{name} returns other data than the run holds")


def run_group(group: Group) -> list[Result]:
    """Measure the cells of a group."""
    wanted = set[str]().union(*(cell.contenders for cell in group.cells))
    timings = measure(group.make(wanted), group.budget)

    return [
        Result(
            name=cell.name,
            engines={label: timings[name] for label, name in cell.engines.items()},
            limit=timings[cell.limit] if cell.limit else None,
            note=cell.note,
        )
        for cell in group.cells
    ]
