"""Report on many runs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from fmristore.planning.text import counted
from fmristore_stores.errors import NotFoundError, RunsError
from fmristore_stores.secrets import masked_url
from fmristore_stores.shown import shown

__all__ = ["Outcome", "RunsReport", "State", "run_name"]

State = Literal["done", "unchanged", "failed"]
"""Done now, done before from the same files, or not done."""

_FEW = 20


def run_name(name: str) -> str:
    """Name of a run without the secrets of a URL, which may be all that sets it apart."""
    plain = masked_url(name)
    return plain if plain == name else f"{plain} ({hashlib.sha256(name.encode()).hexdigest()[:8]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of one run.

    Parameters
    ----------
    name : str
        Of the run; one that is a URL is without passwords, tokens and signatures.
    state : {"done", "unchanged", "failed"}
        ``"unchanged"``: a journal says that it was done before, from the same files.
    result : object
        What the function returned; of a stored object its path or URL.
    error : str or None
        Cause of a failure: class and message.
    traceback : str
        Where that was, for errors that are not fmristore's own.
    seconds : float
        Time that the run took on its worker.
    record : mapping or None
        What a journal keeps of it.
    """

    name: str
    state: State
    result: Any = field(default=None, repr=False)
    error: str | None = None
    traceback: str = ""
    seconds: float = 0.0
    record: dict[str, Any] | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values; of the result only text."""
        return {
            "name": self.name,
            "state": self.state,
            "result": masked_url(self.result) if isinstance(self.result, str) else None,
            "error": self.error,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class RunsReport:
    """Outcomes of many runs, in the order in which they were given; printable.

    Parameters
    ----------
    outcomes : tuple of Outcome
    """

    outcomes: tuple[Outcome, ...]

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __getitem__(self, name: str) -> Outcome:
        for one in self.outcomes:
            if one.name in (name, run_name(name)):
                return one
        raise NotFoundError(f"there was no run {name!r:.80}")

    @property
    def ok(self) -> bool:
        """True if no run failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Runs that failed."""
        return tuple(one for one in self.outcomes if one.state == "failed")

    @property
    def results(self) -> dict[str, Any]:
        """Results of the function, by name, for the runs that did not fail."""
        return {one.name: one.result for one in self.outcomes if one.state != "failed"}

    def check(self) -> RunsReport:
        """Return the report, if no run failed.

        Raises
        ------
        RunsError
            With the names and causes of those that did.
        """
        if self.failed:
            raise RunsError(str(self))
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"ok": self.ok, "runs": [one.to_json() for one in self.outcomes]}

    def __str__(self) -> str:
        counts = Counter(one.state for one in self.outcomes)
        kinds = ", ".join(f"{counts[state]} {state}" for state in ("done", "unchanged", "failed"))
        lines = [f"{counted(len(self), 'run')}: {kinds}"]
        lines += [
            f"failed {shown(one.name, 200)}: {shown(one.error or '', 400)}"
            for one in self.failed[:_FEW]
        ]
        if (others := len(self.failed) - _FEW) > 0:
            lines.append(f"and {counted(others, 'other')}")
        return "\n".join(lines)
