"""One call for many runs, by any executor: tasks go out, short reports come back."""

from __future__ import annotations

from fmristore.many.mapping import map_runs
from fmristore.many.report import Outcome, RunsReport
from fmristore.many.reserved import Reserved, reserve

__all__ = ["Outcome", "Reserved", "RunsReport", "map_runs", "reserve"]
