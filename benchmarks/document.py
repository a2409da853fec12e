"""Writes what was measured into the documentation: ``python -m benchmarks.document``.

The table comes from ``benchmarks/results/results.json`` alone, and the Markdown report and the plot
are made again from it.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.report import Report, facts, markdown, read_json, short_table

__all__ = ["documented", "main"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "reference" / "performance.md"
PLACE = re.compile(r"(<!-- measured: begin -->\n).*?(<!-- measured: end -->)", re.DOTALL)


def documented(page: str, report: Report) -> str:
    """Put the table of a report into a page, between its two marks."""
    text = f"{short_table(report)}\n\n{facts(report)}\n"
    return PLACE.sub(lambda found: found[1] + text + found[2], page)


def main() -> None:
    """Write the page, the Markdown report and the plot."""
    from benchmarks.plot import plot

    report = read_json(RESULTS / "results.json")
    PAGE.write_text(documented(PAGE.read_text(encoding="utf-8"), report), encoding="utf-8")
    (RESULTS / "results.md").write_text(markdown(report), encoding="utf-8")
    plot(report, RESULTS / "results.png")


if __name__ == "__main__":
    main()
