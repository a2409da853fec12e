"""All cells at a glance: fmristore beside the best of the others, and beside the limit."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.cells import Result
from benchmarks.read_cells import BESIDE
from benchmarks.report import Report, best_peer, over_limit

__all__ = ["plot"]

COLORS = {
    "hdf5-portable": "#1a6fb0",
    "hdf5-dual": "#e08a1e",
    "zarr-dual": "#2f8f5b",
    "other": "#6b6b6b",
}
MARKS = (0.1, 0.5, 1, 2, 5, 10, 20, 50, 100, 500, 1000)
ROW_INCHES = 0.34


def plot(report: Report, path: Path) -> None:
    """Draw one row for each kind of work and one dot for each cell.

    Parameters
    ----------
    report : Report
        What was measured.
    path : Path
        PNG file; none is made if nothing was compared.
    """
    rows: dict[str, list[Result]] = {}
    for result in report.results:
        if result.peers:
            rows.setdefault(_row(result), []).append(result)
    if not rows:
        return
    figure = Figure(figsize=(11, 1.9 + ROW_INCHES * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for position, chosen in enumerate(rows.values()):
        peers = [(r, peer[1].median) for r in chosen if (peer := best_peer(r))]
        limits = [(r, limit.median) for r in chosen if (limit := over_limit(r))]
        _draw(left, position, peers)
        _draw(right, position, limits)
    left.set_yticks(range(len(rows)), list(rows))
    left.set_ylim(len(rows) - 0.5, -0.5)
    _finish(left, "time of the best peer / time of fmristore", "fmristore faster \u2192", 1)
    _finish(right, "time of fmristore / least possible time", "\u2190 closer to the limit", 1.5)
    _legend(figure)
    figure.savefig(path, dpi=120)


def _row(result: Result) -> str:
    parts = result.name.split("/")
    if parts[0] == "read" and parts[2] in BESIDE:
        return f"read, beside {BESIDE[parts[2]]}"
    if parts[0] == "read":
        return f"read {parts[4]}"
    if parts[0] == "write":
        return f"write {parts[-1]}"
    return f"{parts[0]} {parts[2]}"


def _store(result: Result) -> str:
    return next((part for part in result.name.split("/") if part in COLORS), "other")


def _draw(panel: Any, position: int, cells: list[tuple[Result, float]]) -> None:
    panel.axhline(position, color="#ececec", linewidth=1, zorder=-1)
    order = list(COLORS)
    for result, value in cells:
        store = _store(result)
        shift = 0.13 * (order.index(store) - 1.5)
        panel.plot(value, position + shift, "o", color=COLORS[store], markersize=4.5, alpha=0.75)
    if cells:
        middle = statistics.median(value for _, value in cells)
        panel.plot([middle] * 2, [position - 0.36, position + 0.36], color="black", linewidth=1.6)


def _finish(panel: Any, title: str, side: str, bar: float) -> None:
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    low, high = min(low, 0.4), max(high, 4)
    panel.set_xlim(low, high)
    panel.set_xticks([m for m in MARKS if low <= m <= high])
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.axvline(bar, color="black", linewidth=1, linestyle=":")
    panel.set_title(title, fontsize=11, fontweight="bold", pad=18)
    where = {"transform": panel.get_xaxis_transform(), "fontsize": 9, "va": "bottom"}
    panel.text(bar, 1.005, side, ha="left" if side.endswith("\u2192") else "right", **where)
    panel.tick_params(axis="y", length=0)
    for name in ("top", "right", "left"):
        panel.spines[name].set_visible(False)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=color, marker="o", ls="", label=name) for name, color in COLORS.items()
    ]
    marks.append(Line2D([], [], color="black", marker="|", markersize=10, ls="", label="median"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
