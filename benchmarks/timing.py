"""Measuring contenders in turns, and what the numbers of seconds say."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Budget", "Contender", "Measured", "Ratio", "Timing", "best", "measure", "ratio"]


class Measured(NamedTuple):
    """What work returns that measures itself, such as work in another process."""

    seconds: float
    peak_bytes: int
    """Memory that the work took beyond what the interpreter and the libraries take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way of doing what a cell asks for.

    Parameters
    ----------
    name : str
        Unique among those that are measured together.
    prepare : callable
        Takes the number of the repetition and returns the work to be timed. Preparing is not.
    check : callable
        Takes the number of the repetition and the result of the work; raises if it is wrong.
    again : bool
        Do the same work a second time at once: what was read stays in a cache.
    settle : callable
        Called after each turn: leaves nothing behind that would burden the next contender.
    close : callable
        Called when all is measured.
    """

    name: str
    prepare: Callable[[int], Callable[[], Any]]
    check: Callable[[int, Any], None]
    again: bool = False
    settle: Callable[[], Any] = lambda: None
    close: Callable[[], Any] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How often to measure: at least `least` and at most `most` times, within some seconds."""

    least: int
    most: int
    seconds: float


@dataclass(slots=True)
class Timing:
    """What one contender took, repetition by repetition."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of all threads of this process."""
    again: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of `seconds`."""
        return statistics.median(self.seconds)


class Ratio(NamedTuple):
    """Median and quartiles of a ratio of times, formed within each repetition."""

    median: float
    low: float
    high: float


def measure(contenders: Sequence[Contender], budget: Budget) -> dict[str, Timing]:
    """Let contenders take turns.

    An untimed turn comes first, in which every result is checked. Within a repetition all prepare,
    then all work on the same selection; who begins changes from one to the next.

    Parameters
    ----------
    contenders : sequence of Contender
        Measured together, because they are to be compared.
    budget : Budget
        Number of repetitions.

    Returns
    -------
    dict
        Times by the names of the contenders.
    """
    timings = {contender.name: Timing() for contender in contenders}
    try:
        for contender in contenders:
            contender.check(0, contender.prepare(0)())
            contender.settle()
        began = time.perf_counter()
        gc.disable()
        for number in range(1, budget.most + 1):
            first = number % len(contenders)
            order = (*contenders[first:], *contenders[:first])
            prepared = [contender.prepare(number) for contender in order]
            gc.collect()
            for contender, work in zip(order, prepared, strict=True):
                _turn(contender, work, timings[contender.name])
            if number >= budget.least and time.perf_counter() - began > budget.seconds:
                break
    finally:
        gc.enable()
        for contender in contenders:
            contender.close()
    return timings


def _turn(contender: Contender, work: Callable[[], Any], timing: Timing) -> None:
    began = time.process_time()
    seconds, result = _timed(work)
    cpu = time.process_time() - began
    if isinstance(result, Measured):  # of another process
        seconds = result.seconds
        timing.peak_bytes.append(result.peak_bytes)
    else:
        timing.cpu.append(cpu)
    timing.seconds.append(seconds)
    if contender.again:
        timing.again.append(_timed(work)[0])
    del result
    contender.settle()


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def ratio(above: Timing, below: Timing) -> Ratio:
    """How many times as long one took as the other: median and quartiles over the repetitions."""
    values = [a / b for a, b in zip(above.seconds, below.seconds, strict=True)]
    if len(values) == 1:
        return Ratio(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(middle, low, high)


def best(timings: Mapping[str, Timing]) -> str:
    """Name of the one with the smallest median."""
    return min(timings, key=lambda name: timings[name].median)
