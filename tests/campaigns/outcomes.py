"""Outcomes of trials, which of them are failures, and the table of all of them."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Outcome", "Result", "Tally", "markdown"]


class Outcome(enum.Enum):
    """How a trial ended; the value is the column of the table."""

    RIGHT = "right"
    OLD = "old"
    NEW = "new"
    OUR_ERROR = "our error"
    OTHER = "other values, no digest"
    NOTICED = "other values, verify sees it"
    UNFINISHED = "completed by the next run"
    WRONG = "WRONG VALUES"
    HALF = "HALF A STORE"
    LIE = "SUCCESS WITHOUT IT"
    FOREIGN = "FOREIGN EXCEPTION"
    CRASH = "CRASH"
    HANG = "HANG"
    MEMORY = "OVER MEMORY"
    FALSE_ERROR = "FALSE ERROR"
    HINDERED = "LEFTOVER HINDERS"
    NOT_FLUSHED = "NOT FLUSHED"
    ESCAPED = "ESCAPED"

    @property
    def failed(self) -> bool:
        """True if this breaks a promise."""
        return self.value.isupper()


@dataclass(frozen=True)
class Result:
    """One trial.

    Parameters
    ----------
    group : str
        Row of the table.
    key : str
        Repeats this trial when given to ``--only``.
    outcome : Outcome
        How it ended.
    detail : str
        What a person wants to know of a failure.
    leftovers : int
        Hidden files that lie about after the next run.
    """

    group: str
    key: str
    outcome: Outcome
    detail: str = ""
    leftovers: int = 0


class Tally:
    """Results of one campaign, by group."""

    def __init__(self) -> None:
        self.rows: dict[str, Counter[Outcome]] = {}
        self.leftovers: Counter[str] = Counter()
        self.failures: list[Result] = []

    def add(self, result: Result) -> None:
        """Count a trial."""
        self.rows.setdefault(result.group, Counter())[result.outcome] += 1
        self.leftovers[result.group] += result.leftovers > 0
        if result.outcome.failed:
            self.failures.append(result)

    @property
    def trials(self) -> int:
        """How many there were."""
        return sum(row.total() for row in self.rows.values())

    def lines(self) -> list[str]:
        """The table in Markdown."""
        total: Counter[Outcome] = Counter()
        for row in self.rows.values():
            total += row
        shown = [outcome for outcome in Outcome if total[outcome]]
        some = sum(self.leftovers.values())
        heads = [outcome.value for outcome in shown] + ["something left behind"] * bool(some)
        lines = [_line(["", "trials", *heads]), _line(["---", *["---:"] * (len(heads) + 1)])]
        rows = [(name, row, self.leftovers[name]) for name, row in sorted(self.rows.items())]
        for name, row, left in [*rows, ("**all**", total, some)]:
            counts = [row.total(), *(row[outcome] for outcome in shown), *([left] if some else [])]
            lines.append(_line([name, *map(str, counts)]))
        return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(title: str, command: str, tally: Tally, seconds: float) -> str:
    """A section of a report."""
    lines: Iterable[str] = [
        f"## {title}",
        "",
        f"`{command}`: {tally.trials} trials, {len(tally.failures)} failures, {seconds:.0f} s",
        "",
        *tally.lines(),
        "",
    ]
    return "\n".join(lines)
