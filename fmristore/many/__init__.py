"""One call for many runs, by any executor: tasks go out, short reports come back."""

from __future__ import annotations

from fmristore.many.mapping import map_runs
from fmristore.many.report import Outcome, RunsReport

__all__ = ["Outcome", "RunsReport", "map_runs"]
