"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cells import Group, Result, run_group
from benchmarks.data import ACCESSES, Run, find_runs
from benchmarks.engines import available
from benchmarks.extraction import extraction_groups
from benchmarks.growth import growth_groups
from benchmarks.machine import machine, versions
from benchmarks.many_cells import many_groups
from benchmarks.read_cells import read_groups
from benchmarks.report import Report, markdown, write_csv, write_json
from benchmarks.sampling_cells import sampling_groups
from benchmarks.timing import Budget
from benchmarks.transcode_cells import rechunk_groups, transcode_groups
from benchmarks.write_cells import sizes, write_groups
from fmristore.planning.layout import Access

__all__ = ["main"]

QUICK_ACCESSES: tuple[Access, ...] = ("time",)


def _shape(text: str) -> tuple[int, ...]:
    lengths = tuple(int(part) for part in text.split(","))
    if len(lengths) != 4 or min(lengths) < 8:
        raise argparse.ArgumentTypeError("expected four lengths of at least 8, such as 12,10,8,20")
    return lengths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure fmristore side by side with its peers."
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one run, few repetitions: two to three minutes")
    add(
        "--cell",
        action="append",
        default=[],
        metavar="NAME",
        help="only cells whose names contain NAME, such as hdf5-dual/time or sizes; repeatable",
    )
    add("--list", action="store_true", help="print the names of the cells and stop")
    here = Path(__file__).resolve().parent
    add("--out", type=Path, default=here / "results", metavar="DIR", help="where results go")
    add("--workdir", type=Path, metavar="DIR", help="where files go; NIfTI files are kept there")
    add("--shape", type=_shape, metavar="X,Y,Z,T", help="measure a generated run of this shape")
    add("--repetitions", type=int, metavar="N", help="measure every cell N times")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write results; the exit code is 0 if all engines agreed."""
    options = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore", module="zarr")
    with tempfile.TemporaryDirectory() as scratch:
        return _run(options, options.workdir or Path(scratch))


def _run(options: argparse.Namespace, workdir: Path) -> int:
    engines, missing = available()
    if options.quick and "zarrs" in engines:
        del engines["zarrs"]
        missing["zarrs"] = "left out by --quick"
    for label, reason in missing.items():
        _say(f"not measured: {label} ({reason})")
    runs = find_runs(workdir, quick=options.quick, shape=options.shape, say=_say)
    accesses = QUICK_ACCESSES if options.quick else ACCESSES
    read, write, rechunk = _budgets(options)
    groups = [
        *read_groups(runs, engines, read),
        *write_groups(runs, engines, accesses, write),
        *transcode_groups(runs, engines, write),
        *rechunk_groups(runs, rechunk, tiles=1 if options.quick else 8),
        *extraction_groups(runs, rechunk),
        *sampling_groups(runs, read),
        *many_groups(runs[:1], rechunk),
        *_growth(runs[0], write, quick=options.quick),
    ]
    groups = [part for group in groups if (part := group.only(options.cell)).cells]
    if options.list:
        print("\n".join(cell.name for group in groups for cell in group.cells))
        return 0
    results: list[Result] = []
    found: dict[str, dict[str, int]] = {}
    try:
        for group in groups:
            results += _measure(group)
        if not options.cell or "sizes" in options.cell:
            found = sizes(runs, accesses)
    finally:  # what was measured before a failure is worth having
        report = Report(
            results=results,
            sizes=found,
            machine=machine(),
            versions=versions(),
            missing=missing,
            settings={
                "quick": options.quick,
                "cells": ", ".join(options.cell) or "all",
                "runs": ", ".join(f"{r.name} {'x'.join(map(str, r.shape))}" for r in runs),
            },
        )
        _write(report, options.out)
    return 0


def _growth(run: Run, reads: Budget, *, quick: bool) -> list[Group]:
    once = Budget(least=1, most=1, seconds=0)
    if quick:
        return growth_groups(run, (1, 2), once, once, ways=("volumes",))
    return growth_groups(run, (1, 2, 4, 8, 16), reads, once)


def _budgets(options: argparse.Namespace) -> tuple[Budget, Budget, Budget]:
    """Repetitions of reading, of writing and transcoding, and of rechunking."""
    once = Budget(least=1, most=1, seconds=0)
    if options.repetitions:
        count = options.repetitions
        return (Budget(least=count, most=count, seconds=0),) * 3
    if options.quick:
        return Budget(least=2, most=5, seconds=0.1), once, once
    write = Budget(least=5, most=9, seconds=10)
    return Budget(least=9, most=41, seconds=2), write, replace(write, least=3, most=5)


def _measure(group: Group) -> list[Result]:
    began = time.perf_counter()
    found = run_group(group)
    seconds = time.perf_counter() - began
    _say(f"{group.name}: {len(found[0].ours.seconds)} repetitions, {seconds:.0f} s")
    return found


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(report, folder / "results.json")
    write_csv(report, folder / "samples.csv")
    (folder / "results.md").write_text(markdown(report), encoding="utf-8")
    written = "results.json, samples.csv, results.md"
    try:
        from benchmarks.plot import plot
    except ImportError:
        _say("no plot: matplotlib is not installed")
    else:
        plot(report, folder / "results.png")
        written += ", results.png"
    _say(f"written: {written}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
