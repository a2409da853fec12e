"""All cells at a glance: how long others take, where fmristore takes 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.cells import Result
from benchmarks.report import Report, best_peer
from benchmarks.timing import Timing, ratio

__all__ = ["plot"]

FASTER, SLOWER, LIMIT, OTHERS = "#1a6fb0", "#c8372d", "#555555", "#9db8cc"
ROW_INCHES = 0.2
DECADES = (0.001, 0.01, 0.1, 1, 10, 100, 1000)
MARKS = tuple(sorted(factor * decade for decade in DECADES for factor in (1, 2, 5)))


def plot(report: Report, path: Path) -> None:
    """Draw one panel for each run and store, one row for each cell.

    Parameters
    ----------
    report : Report
        What was measured.
    path : Path
        PNG file; none is made if nothing was compared.
    """
    panels = _panels([result for result in report.results if result.peers])
    if not panels:
        return
    runs = list(dict.fromkeys(run for run, _ in panels))
    columns = list(dict.fromkeys(column for _, column in panels))
    heights = [max(len(panels.get((run, c), [])) for c in columns) + 2 for run in runs]
    figure = Figure(
        figsize=(1.0 + 4.1 * len(columns), 1.6 + ROW_INCHES * sum(heights)), layout="constrained"
    )
    axes = figure.subplots(len(runs), len(columns), squeeze=False, height_ratios=heights)
    for row, run in enumerate(runs):
        for number, column in enumerate(columns):
            panel = axes[row][number]
            results = panels.get((run, column), [])
            if results:
                _draw(panel, results, f"{run}: {column}")
            else:
                panel.set_visible(False)
    figure.suptitle("Where fmristore takes 1, the others take ...", fontsize=14, fontweight="bold")
    _legend(figure)
    figure.savefig(path, dpi=130)


def _panels(results: list[Result]) -> dict[tuple[str, str], list[Result]]:
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        parts = result.name.split("/")
        column = f"read {parts[2]}" if parts[0] == "read" else "write, move, extract"
        found.setdefault((parts[1], column), []).append(result)
    for chosen in found.values():
        order = list(dict.fromkeys(_group(r) for r in chosen))
        chosen.sort(key=lambda r, order=order: order.index(_group(r)))  # type: ignore[misc]
    return found


def _group(result: Result) -> str:
    parts = result.name.split("/")
    return parts[3] if parts[0] == "read" else "/".join((parts[0], parts[2]))


def _row_label(result: Result) -> str:
    parts = result.name.split("/")
    return parts[4] if parts[0] == "read" else ", ".join(parts[3:])


def _draw(panel: Any, results: list[Result], title: str) -> None:
    position = 0.0
    ticks: list[tuple[float, str, bool]] = []
    before = None
    for result in results:
        group = _group(result)
        if group != before:
            position += 0.9
            heading = f"{group} layout" if result.name.startswith("read/") else group
            ticks.append((position, heading.replace("/", " "), True))
            position += 1.0
            before = group
        _draw_row(panel, position, result)
        ticks.append((position, _row_label(result), False))
        position += 1.0
    panel.axvline(1, color="black", linewidth=1)
    panel.axvspan(1e-6, 1, color="#f6efe9", zorder=-2)
    _finish(panel, ticks, title)


def _draw_row(panel: Any, position: float, result: Result) -> None:
    panel.axhline(position, color="#eeeeee", linewidth=0.8, zorder=-1)
    found = best_peer(result)
    for label, timing in result.peers.items():
        if found is None or label != found[0]:
            panel.plot(_relative(timing, result), position, "o", color=OTHERS, markersize=3)
    if result.limit is not None:
        panel.plot(_relative(result.limit, result), position, "|", color=LIMIT, markersize=8)
    if found is not None:
        _, spread = found
        color = FASTER if spread.median >= 1 else SLOWER
        panel.plot([spread.low, spread.high], [position] * 2, color=color, linewidth=1.4)
        panel.plot(spread.median, position, "o", color=color, markersize=5.5)


def _relative(timing: Timing, result: Result) -> float:
    return ratio(timing, result.ours).median


def _finish(panel: Any, ticks: list[tuple[float, str, bool]], title: str) -> None:
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    low, high = min(low, 0.4), max(high, 4)
    panel.set_xlim(low, high)
    marks = [m for m in MARKS if low <= m <= high]
    panel.set_xticks(marks if len(marks) < 9 else [m for m in marks if m in DECADES])
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_yticks([at for at, _, _ in ticks], [text for _, text, _ in ticks], fontsize=8.5)
    for label, (_, _, heading) in zip(panel.get_yticklabels(), ticks, strict=True):
        label.set_fontweight("bold" if heading else "normal")
    panel.set_ylim(ticks[-1][0] + 0.9, -0.1)
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelsize=8.5)
    panel.set_title(title, fontsize=10.5, fontweight="bold", pad=18)
    above = {"transform": panel.get_xaxis_transform(), "fontsize": 8.5, "va": "bottom"}
    panel.text(1.06, 1.005, "fmristore faster", color=FASTER, ha="left", **above)
    panel.text(0.94, 1.005, "others faster", color=SLOWER, ha="right", **above)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    def mark(color: str, shape: str, size: float, label: str) -> Line2D:
        return Line2D([], [], color=color, marker=shape, markersize=size, ls="", label=label)

    figure.legend(
        handles=[
            mark(FASTER, "o", 5.5, "best peer on the same store, slower than fmristore"),
            mark(SLOWER, "o", 5.5, "best peer, faster than fmristore"),
            mark(OTHERS, "o", 3, "other peers"),
            mark(LIMIT, "|", 8, "the least that has to be done"),
        ],
        loc="outside lower center",
        ncols=4,
        fontsize=8.5,
        frameon=False,
    )
