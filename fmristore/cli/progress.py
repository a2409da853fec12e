"""The bar that says what a command does, how far it is and how long it takes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fmristore.planning.text import size_text
from fmristore_stores.secrets import masked_url
from fmristore_stores.shown import shown

__all__ = ["Step", "count_bar", "find_step", "progress_bar"]

_LEAST_SECONDS = 2.0
_LEAST_FRACTION = 0.05


class Step(NamedTuple):
    """Step of the work that is going on.

    Parameters
    ----------
    label : str
        What is done.
    fraction : float
        How much of it is done, 0 to 1.
    size : str
        Bytes done and in all.
    left : float or None
        Seconds that everything will still take, if that can be said.
    """

    label: str
    fraction: float
    size: str
    left: float | None


def find_step(
    done: int,
    total: int,
    seconds: float,
    labels: Sequence[str],
    began: dict[str, tuple[int, float]] | None = None,
) -> Step:
    """Step that work has come to.

    Parameters
    ----------
    done, total : int
        Bytes done and in all, over all steps.
    seconds : float
        Time that it took so far.
    labels : sequence of str
        What is done with the bytes, in steps of equal size: once each.
    began : dict, optional
        Bytes and seconds when each step was first seen, which is noted there: what is read back is
        faster than what was written, so only the step that goes on says how long the rest takes.

    Returns
    -------
    Step
        Its estimate is None until enough of the step is done for one.
    """
    if total <= 0 or done >= total:
        return Step("finishing", 1.0, "", None)
    each = total / len(labels)
    number = min(int(done / each), len(labels) - 1)
    inside = done - number * each
    first = (done, seconds) if number and began is not None else (0, 0.0)
    before, start = first if began is None else began.setdefault(labels[number], first)
    left = None
    if seconds - start >= _LEAST_SECONDS and (done - before) / total >= _LEAST_FRACTION:
        left = (seconds - start) * (total - done) / (done - before)
    size = f"{size_text(round(inside))} of {size_text(round(each))}"
    return Step(labels[number], inside / each, size, left)


@contextlib.contextmanager
def progress_bar(
    *labels: str, quiet: bool, of: str | None = None
) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar on stderr while the block runs, if that is a terminal.

    Parameters
    ----------
    *labels : str
        What is done, step by step: each goes once through all bytes.
    quiet : bool
        Show nothing.
    of : str, optional
        Path or URL of what is worked on.

    Yields
    ------
    callable or None
        To be called with the bytes done and in all, over all steps.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    name = "" if of is None else " " + shown(masked_url(of).rstrip("/").rpartition("/")[2], 40)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[size]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    started = time.monotonic()
    began: dict[str, tuple[int, float]] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        # Without a total the bar pulses: nothing is known yet of how long it takes.
        task = bar.add_task(labels[0] + name, total=None, size="", left="")

        def show(done: int, total: int) -> None:
            step = find_step(done, total, time.monotonic() - started, labels, began)
            bar.update(
                task,
                description=step.label + name,
                completed=step.fraction,
                total=1.0,
                size=step.size,
                left="" if step.left is None else f"about {step.left:.0f} s left",
            )

        yield show


@contextlib.contextmanager
def count_bar(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Show on stderr how many runs are done while the block runs, if that is a terminal.

    Parameters
    ----------
    label : str
        What is done.
    quiet : bool
        Show nothing.

    Yields
    ------
    callable or None
        To be called with the number of runs done and in all.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        # Until the first one is done nothing is known, and the bar pulses without a count.
        task = bar.add_task(label, total=None, count="")

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, count=f"{done} of {total}")

        yield show
