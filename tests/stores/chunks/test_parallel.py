"""The pool of worker threads."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import _base as futures
from types import FrameType
from typing import Any

import pytest

from fmristore_stores.chunks import threads
from fmristore_stores.chunks.threads import (
    _Help,
    as_they_come,
    for_each,
    later,
    meanwhile,
    worker_count,
)


@pytest.fixture(autouse=True)
def _several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMRISTORE_WORKERS", "4")


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_count() == 4
    for wrong in ("0", "-3", "many", ""):
        monkeypatch.setenv("FMRISTORE_WORKERS", wrong)
        assert worker_count() >= 1


@pytest.mark.parametrize("workers", [None, 1, 3, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 500])
def test_every_item_is_taken_once(workers: int | None, count: int) -> None:
    taken: list[int] = []
    for_each(taken.append, range(count), workers=workers)
    assert sorted(taken) == list(range(count))
    taken.clear()
    for_each(taken.append, iter(range(count)), workers=workers)
    assert sorted(taken) == list(range(count))


@pytest.mark.parametrize("helped", [True, False])
def test_threads_of_the_pool_hold_on_to_nothing(helped: bool) -> None:
    """Neither what they helped with nor what was taken back before they came to it."""

    def work() -> None:
        pass

    seen, given = weakref.ref(work), _Help(work)
    del work
    if helped:
        given.run()
    else:
        given.end()
        given.run()
    assert seen() is None
    given.end()


def test_several_threads_work_at_once() -> None:
    meeting = threading.Barrier(4)
    for_each(lambda _: meeting.wait(300), range(4))


def test_a_generator_is_advanced_only_as_items_are_used_up() -> None:
    taken = 0
    done = 0
    lock = threading.Lock()
    most = 0

    def items() -> Iterator[int]:
        nonlocal taken, most
        for number in range(100):
            taken += 1
            most = max(most, taken - done)
            yield number

    def work(_: int) -> None:
        nonlocal done
        with lock:
            done += 1

    for_each(work, items())
    assert most <= 5


@pytest.mark.parametrize("error", [ValueError, StopIteration, KeyboardInterrupt])
@pytest.mark.parametrize("workers", [1, 4])
def test_the_first_failure_is_raised_and_stops_the_rest(
    error: type[BaseException], workers: int
) -> None:
    def work(number: int) -> None:
        if number == 3:
            raise error("three")

    with pytest.raises((error, RuntimeError) if error is StopIteration else error):
        for_each(work, itertools.count(), workers=workers)  # never ends by itself


def test_a_failing_generator_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        for_each(lambda _: None, items())


def test_calls_within_calls_do_not_deadlock() -> None:
    total: list[int] = []

    def outer(number: int) -> None:
        for_each(lambda k: for_each(total.append, [k] * 3), range(number))

    for_each(outer, [5] * 200, workers=64)
    assert len(total) == 200 * 5 * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    for_each(lambda _: None, range(50))
    child = os.fork()
    if child == 0:
        taken: list[int] = []
        for_each(taken.append, range(50))
        os._exit(0 if len(taken) == 50 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_interrupt_is_raised_after_all_threads_have_stopped() -> None:
    """Ctrl-C comes in the thread that asked, while others work."""
    caller = threading.get_ident()
    meeting = threading.Barrier(4)
    working: set[int] = set()

    def work(number: int) -> None:
        working.add(number)
        if number < 4:
            meeting.wait(300)
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        working.discard(number)

    with pytest.raises(KeyboardInterrupt):
        for_each(work, range(100_000))
    assert len(working) == 1
    taken: list[int] = []
    for_each(taken.append, range(50))
    assert len(taken) == 50


def test_no_lock_is_entered_by_code_that_an_interrupt_can_stop() -> None:
    """Locks of the standard library that are written in Python can be left locked."""
    entered: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename in (threading.__file__, futures.__file__):
            entered.append(frame.f_code.co_qualname)

    sys.setprofile(trace)
    try:
        for_each(lambda _: None, range(200))
    finally:
        sys.setprofile(None)
    assert entered == []


# Beside the caller -------------------------------------------------------------------------------


def test_something_is_done_while_the_block_runs() -> None:
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert done.wait(60)

    with meanwhile(work):
        assert begun.wait(60)
        done.set()


def test_without_a_free_thread_it_is_done_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_waiting", threads._Pool())
    monkeypatch.setattr(threads._Pool, "grow", lambda pool, count: None)
    order: list[str] = []
    with meanwhile(lambda: order.append("beside")):
        order.append("block")
    assert order == ["block", "beside"]


def test_its_error_is_raised_when_the_block_has_ended() -> None:
    order: list[str] = []

    def work() -> None:
        raise ValueError("beside")

    with pytest.raises(ValueError, match="beside"), meanwhile(work):
        order.append("block")
    assert order == ["block"]


def test_it_has_ended_when_the_block_raises() -> None:
    begun, going_on = threading.Event(), threading.Event()
    done: list[int] = []

    def work() -> None:
        begun.set()
        assert going_on.wait(60)
        done.append(1)

    def block() -> None:
        with meanwhile(work):
            assert begun.wait(60)
            going_on.set()
            raise ValueError("block")

    with pytest.raises(ValueError, match="block"):
        block()
    assert done == [1]


def test_what_is_never_begun_is_not_done() -> None:
    with later(lambda: 1 / 0):
        pass


def test_what_is_begun_again_is_done_once() -> None:
    done: list[int] = []
    with later(lambda: done.append(1)) as start:
        start()
        start()
    assert done == [1]


@pytest.mark.parametrize("workers", ["1", "4"])
def test_items_are_taken_as_they_come(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("FMRISTORE_WORKERS", workers)
    taken: list[int] = []
    some = threading.Event()

    def work(item: int) -> None:
        taken.append(item)
        some.set()

    with as_they_come(work) as add:
        add(range(100))
        if workers != "1":
            assert some.wait(20)  # before the block has ended
        adding = threading.Thread(target=add, args=(range(100, 200),))
        adding.start()
        adding.join()
        add([])
    assert sorted(taken) == list(range(200))


def test_the_first_failure_of_what_came_is_raised() -> None:
    def work(item: int) -> None:
        if item == 3:
            raise ValueError("three")

    with pytest.raises(ValueError, match="three"), as_they_come(work) as add:
        add(range(100))


def test_an_error_of_the_block_stops_what_came() -> None:
    taken: list[int] = []
    late: list[Any] = []
    with contextlib.suppress(KeyError), as_they_come(taken.append) as add:
        late.append(add)
        raise KeyError
    late[0](range(100))
    for_each(len, ["a"] * 100)
    assert taken == []
