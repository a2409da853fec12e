"""Many runs at once: conversion, and means of parcels, one by one, with threads and with processes.

Throughput of one machine: all ways do the same runs with the same library, which uses all cores
for a single run already. What more workers gain is the part of a run that one thread does alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fmristore as fs
from benchmarks.cells import OURS, Cell, Group, check_equal
from benchmarks.data import STORES, Run, prepare_store, remove
from benchmarks.timing import Budget, Contender
from fmristore_stores.chunks.threads import worker_count

__all__ = ["many_groups"]

RUNS = 12
PARCELS = 200
SERIAL = "one by one"
WAYS = ("threads", "processes")
TASKS = ("convert", "parcels")


def many_groups(runs: Sequence[Run], budget: Budget) -> list[Group]:
    """One group for each run and task.

    Parameters
    ----------
    runs : sequence of Run
        Each is done `RUNS` times.
    budget : Budget
        Repetitions of each group.
    """
    groups = []
    for run in runs:
        for task in TASKS:
            cells = tuple(
                Cell(
                    name=f"many/{run.name}/{task}/{way}",
                    engines={OURS: way, SERIAL: SERIAL},
                    note=f"{RUNS} runs",
                )
                for way in WAYS
            )
            make = partial(_contenders, run, task)
            groups.append(
                Group(name=f"many/{run.name}/{task}", cells=cells, make=make, budget=budget)
            )
    return groups


def _contenders(run: Run, task: str, wanted: set[str]) -> list[Contender]:
    folder = run.folder / f"many-{task}"
    folder.mkdir(parents=True, exist_ok=True)
    outputs = [folder / f"run-{number}.h5" for number in range(1, RUNS + 1)]
    function: Callable[..., Any] = fs.convert
    given: tuple[Any, ...] = (run.nii_gz,)
    if task == "parcels":
        function = fs.parcellate
        given = prepare_store(run, STORES["hdf5-portable"], "time"), _labels(run)
    arguments = {path.stem: (*given, path) for path in outputs}

    def check(_: int, report: Any) -> None:
        for path in outputs:
            with fs.open(path) as stored:
                if task == "convert":
                    check_equal(stored.read(..., raw=True), run.values, task)
                else:
                    assert stored.shape == (run.shape[3], PARCELS), report

    return [
        Contender(
            name=way,
            prepare=partial(_prepare, way, function, arguments),
            check=check,
            close=partial(remove, folder),
        )
        for way in (SERIAL, *WAYS)
        if way in wanted
    ]


def _labels(run: Run) -> NDArray[np.int32]:
    """(X, Y, Z): parcels of neighbouring voxels."""
    voxels = math.prod(run.shape[:3])
    labels = np.arange(voxels, dtype=np.int64) * PARCELS // voxels + 1
    return labels.astype(np.int32).reshape(run.shape[:3])


def _prepare(
    way: str, function: Callable[..., Any], runs: dict[str, Any], _: int
) -> Callable[[], Any]:
    return partial(_do, way, function, runs)


def _do(way: str, function: Callable[..., Any], runs: dict[str, Any]) -> Any:
    with _executor(way) as executor:
        return fs.map_runs(function, runs, executor=executor, overwrite=True)


@contextmanager
def _executor(way: str) -> Iterator[Executor | None]:
    count = worker_count()
    if way == SERIAL:
        yield None
    elif way == "threads":
        with ThreadPoolExecutor(count) as threads:
            yield threads
    else:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as processes:
            yield processes
