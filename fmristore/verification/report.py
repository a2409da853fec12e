"""Report on a verification."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from fmristore.planning.pictures import report_html
from fmristore.planning.text import counted, size_text
from fmristore_stores.errors import FmristoreError
from fmristore_stores.secrets import masked_url
from fmristore_stores.shown import shown, shown_url

__all__ = ["MOST_LISTED", "Findings", "Problem", "VerifyReport"]

MOST_LISTED = 100
"""Findings of one kind about one node that are listed; the others are counted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was found.

    Parameters
    ----------
    kind : str
        Stable code: see `fmristore.verification.verify`.
    node : str
        Path of the group or array in the store; empty for the root.
    message : str
        What is wrong.
    """

    kind: str
    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind} /{shown(self.node)}: {shown(self.message)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """Outcome of a verification; printable.

    Parameters
    ----------
    url : str
        The store.
    format : str or None
        Format that it holds, in the layout of fmristore or of the R package; None for a store of
        other software.
    problems : tuple of Problem
        Damage.
    notes : tuple of Problem
        What is no damage but good to know, such as what could not be checked.
    arrays : int
        Arrays that were looked at.
    chunks : int
        Chunks of them that are in their place.
    nbytes : int
        Stored bytes of these chunks.
    deep : bool
        Whether the chunks were decoded and digests compared.
    seconds : float
        Wall time.
    """

    url: str
    format: str | None
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    arrays: int
    chunks: int
    nbytes: int
    deep: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """True if no damage was found."""
        return not self.problems

    def __repr__(self) -> str:
        counts = {"problem": len(self.problems), "note": len(self.notes), "array": self.arrays}
        found = ", ".join(counted(count, noun) for noun, count in counts.items())
        return f"<{type(self).__name__}: {shown_url(self.url)}: {found}>"

    def _repr_html_(self) -> str:
        return report_html(type(self).__name__, str(self))

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        verdict = "ok" if self.ok else counted(len(self.problems), "problem")
        facts = [
            shown(self.format or "of another writer"),
            counted(self.arrays, "array"),
            f"{counted(self.chunks, 'chunk')} in place",
            size_text(self.nbytes),
            "decoded" if self.deep else "not decoded",
        ]
        lines = [f"{shown_url(self.url)}: {verdict} ({', '.join(facts)})"]
        lines.extend(f"  {problem}" for problem in self.problems)
        lines.extend(f"  note: {note}" for note in self.notes)
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "url": masked_url(self.url),
            "format": self.format,
            "ok": self.ok,
            "deep": self.deep,
            "problems": [asdict(problem) for problem in self.problems],
            "notes": [asdict(note) for note in self.notes],
            "arrays": self.arrays,
            "chunks": self.chunks,
            "bytes": self.nbytes,
            "seconds": self.seconds,
        }


class Findings:
    """Collects findings, from any thread."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._notes: list[Problem] = []
        self._more: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self.arrays = 0
        self.chunks = 0
        self.nbytes = 0

    def problem(self, kind: str, node: str, message: str) -> None:
        """Note damage."""
        with self._lock:
            self._more[kind, node] += 1
            if self._more[kind, node] <= MOST_LISTED:
                self._problems.append(Problem(kind, node, message))

    def error(self, error: FmristoreError, node: str) -> None:
        """Note damage that was met as an error."""
        self.problem(error.kind, node if error.node is None else error.node, error.message)

    def note(self, kind: str, node: str, message: str) -> None:
        """Note what is no damage."""
        with self._lock:
            self._notes.append(Problem(kind, node, message))

    def count(self, kind: str, node: str) -> int:
        """Problems of a kind about a node."""
        return self._more[kind, node]

    def report(self, *, url: str, name: str | None, deep: bool, seconds: float) -> VerifyReport:
        """Everything that was found, problems in order of their nodes."""
        more = [
            Problem(kind, node, f"{count - MOST_LISTED} more of the same kind")
            for (kind, node), count in self._more.items()
            if count > MOST_LISTED
        ]
        ordered = sorted(self._problems, key=lambda problem: (problem.node, problem.kind))
        return VerifyReport(
            url=url,
            format=name,
            problems=(*ordered, *more),
            notes=tuple(self._notes),
            arrays=self.arrays,
            chunks=self.chunks,
            nbytes=self.nbytes,
            deep=deep,
            seconds=seconds,
        )
