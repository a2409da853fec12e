"""The machinery of the campaigns notices what it is there to notice."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaigns.children import Limits, in_children
from tests.campaigns.flushing import unflushed
from tests.campaigns.operations import OPERATIONS, RUN, same, values_of
from tests.campaigns.outcomes import Outcome, Result, Tally
from tests.campaigns.shim import Call
from tests.campaigns.workshop import judge
from tests.fuzz_targets import label_table, nifti_header, reference, zarr_json

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches children by /proc")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _raise() -> None:
    raise KeyError("x")


def _grow() -> int:
    return int(np.ones(200 << 17).sum())


def _hang() -> None:
    time.sleep(1000)


def test_the_end_of_every_child_is_told() -> None:
    tasks: list[Callable[[], Any]] = [lambda: 1, _die, _raise, _grow, lambda: 2]
    limits = Limits(seconds=250, growth=100 << 20)
    ended = list(in_children(tasks, limits))
    assert [one.how for one in ended] == ["returned", "signal", "raised", "memory", "returned"]
    assert ended[1].signal == signal.SIGSEGV
    assert "KeyError" in ended[2].value
    assert [ended[0].value, ended[4].value] == [1, 2]


def test_a_child_that_hangs_is_ended() -> None:
    ended = list(in_children([_hang, lambda: 3], Limits(seconds=0.1)))
    assert ended[0].how == "hang"


def test_what_an_operation_left_is_judged(tmp_path: Path) -> None:
    operation = OPERATIONS["overwrite neurovec h5"]
    operation.prepare(tmp_path)
    assert same(values_of(tmp_path / "x.h5"), {"": RUN})
    assert judge(operation, tmp_path, claimed=True)[0] is Outcome.LIE
    assert judge(operation, tmp_path)[0] is Outcome.OLD  # and it was done once more
    assert judge(operation, tmp_path)[0] is Outcome.NEW
    (tmp_path / "x.h5").unlink()
    assert judge(operation, tmp_path)[0] is Outcome.HALF
    operation.run(tmp_path)
    (tmp_path / "x.h5").write_bytes((tmp_path / "x.h5").read_bytes()[:3000])
    assert judge(operation, tmp_path)[0] is Outcome.HALF
    (tmp_path / "x.h5").unlink()
    OPERATIONS["create neurovec h5"].run(tmp_path)
    other = OPERATIONS["overwrite maskedneurovec h5"]
    assert judge(other, tmp_path)[0] is Outcome.WRONG
    pair = OPERATIONS["to_nifti x.hdr"]
    pair.prepare(tmp_path)
    (tmp_path / "x.hdr").unlink()
    assert judge(pair, tmp_path)[0] is Outcome.UNFINISHED


def test_what_was_not_flushed_is_found() -> None:
    steps = [
        Call("open", "/w/.x", ""),
        Call("write", "/w/.x", ""),
        Call("fsync", "/w/.x", ""),
        Call("rename", "/w/.x", "/w/x"),
        Call("fsync", "/w", ""),
    ]
    target = Path("/w/x")
    assert not unflushed(steps, target)
    for left_out, said in ((2, "before it was flushed"), (4, "the folder of")):
        faults = unflushed(steps[:left_out] + steps[left_out + 1 :], target)
        assert any(said in fault for fault in faults)
    late = [*steps[:2], *steps[3:], steps[2]]
    assert unflushed(late, target)


@pytest.mark.parametrize("target", [nifti_header, label_table, zarr_json, reference])
def test_targets_of_fuzzers_let_only_our_errors_through(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "FOLDER", tmp_path)
    for example in target.examples():
        target.one_input(example)
        target.one_input(example[: len(example) // 2])
    for data in (b"", b",", b"{", b"i{}", b"\xff" * 400):
        target.one_input(data)


def test_the_table_counts_failures() -> None:
    tally = Tally()
    tally.add(Result("group", "a/1", Outcome.RIGHT))
    tally.add(Result("group", "a/2", Outcome.WRONG, "detail"))
    assert [failure.key for failure in tally.failures] == ["a/2"]
    assert tally.lines()[-1] == "| **all** | 2 | 1 | 1 |"
