"""Command line of the campaigns: runs them, prints what came of it, and fails on a failure."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tests.campaigns import shim
from tests.campaigns.children import warm
from tests.campaigns.outcomes import Result, Tally, markdown
from tests.campaigns.workshop import Options

# How many trials: of a full run, and of the one that every change goes through.
CAMPAIGNS = {
    "crash": (2000, 120),
    "fuzz": (10000, 300),
    "hostile": (10**6, 10**6),
    "resources": (500, 36),
    "concurrency": (500, 28),
    "object-store": (300, 8),
}


def main() -> int:
    """Run what is asked for; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    parser.add_argument("campaign", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("--trials", type=int, help="how many, chosen by lot")
    parser.add_argument("--seed", type=int, default=1, help="of the lot")
    parser.add_argument("--quick", action="store_true", help="a few hundred trials in all")
    parser.add_argument("--only", metavar="KEY", help="one trial, as a failure names it")
    parser.add_argument("--report", type=Path, metavar="FILE", help="append the table in Markdown")
    given = parser.parse_args()
    if given.campaign in ("crash", "all"):
        shim.load()
    warm()
    names = list(CAMPAIGNS) if given.campaign == "all" else [given.campaign]
    failed = 0
    with _until_stopped() as stopped:
        for name in names:
            full, quick = CAMPAIGNS[name]
            trials = given.trials or (quick if given.quick else full)
            options = Options(trials, given.seed, only=given.only, quick=given.quick)
            failed += 0 if stopped else _run(name, options, given.report, stopped)
    return int(failed > 0)


def _run(name: str, options: Options, report: Path | None, stopped: list[int]) -> int:
    """Run one campaign, show its table, and return how many trials failed."""
    module = importlib.import_module(f"tests.campaigns.{name.replace('-', '_')}")
    command = f"python -m tests.campaigns {name} --seed {options.seed}"
    tally, start = Tally(), time.monotonic()
    with contextlib.closing(module.run(options)) as results:
        for result in results:
            _count(tally, result, command, options)
            if stopped:
                break
    whole = f"{command} --trials {options.trials}" + " --quick" * options.quick
    whole += " (ended early)" * bool(stopped)
    text = markdown(name, whole, tally, time.monotonic() - start)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    if report is not None:
        with report.open("a") as file:
            file.write(text + "\n")
    return len(tally.failures)


def _count(tally: Tally, result: Result, command: str, options: Options) -> None:
    """Count one trial, and show it where somebody wants to see it."""
    tally.add(result)
    if result.outcome.failed:
        _show_failure(result, command)
    elif options.only:
        sys.stdout.write(f"{result.outcome.value}: {result.detail}\n")
    if tally.trials % 100 == 0:
        sys.stderr.write(f"{tally.trials} trials, {len(tally.failures)} failures\n")


@contextlib.contextmanager
def _until_stopped() -> Iterator[list[int]]:
    """Take SIGTERM as a wish to end after the trial that runs, with the table of those made."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _show_failure(result: Result, command: str) -> None:
    sys.stdout.write(
        f"{result.outcome.value}: {result.group}: {result.detail}\n"
        f"    {command} --only '{result.key}'\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
