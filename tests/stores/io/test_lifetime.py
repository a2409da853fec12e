"""Reads keep a store open; a Ctrl-C at any point of one is neither lost nor leaves a reader."""

from __future__ import annotations

import gc
import inspect
import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import ChangedError, ClosedError
from fmristore_stores.io.lifetime import Lifetime, Version
from fmristore_stores.io.sources import LocalSource
from fmristore_stores.opening import Handle, locate
from fmristore_stores.protocol import ByteRange
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout


class Content:
    """Of a store that nothing happens to."""

    def __init__(self) -> None:
        self.released = 0
        self.changed = False

    def check(self) -> None:
        if self.changed:
            raise ChangedError("replaced")

    def release(self) -> None:
        self.released += 1


def interrupt(action: Callable[[], object], instruction: int) -> tuple[bool, bool]:
    """Interrupt something before one of its instructions: whether it had so many, and arrived."""
    left = instruction

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == -1:
                raise KeyboardInterrupt
        return trace

    before, collecting = sys.gettrace(), gc.isenabled()
    gc.disable()  # what it calls would be interrupted too
    if (here := inspect.currentframe()) is not None:
        here.f_trace_opcodes = True  # Python 3.12 counts instructions only if it knows beforehand
    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return True, True
    finally:
        sys.settrace(before)
        if collecting:
            gc.enable()
    return left < 0, False


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("closed", [False, True])
def test_an_interrupted_read_ends_and_the_store_can_be_closed(*, closed: bool) -> None:
    for instruction in itertools.count():
        content = Content()
        lifetime = Lifetime("/a.h5", content)

        def read(lifetime: Lifetime = lifetime) -> None:
            with lifetime.reading():
                if closed:
                    lifetime.close()

        came_so_far, arrived = interrupt(read, instruction)
        assert arrived == came_so_far
        lifetime.close()
        assert content.released
        if not came_so_far:
            break
    assert instruction > 10


def test_what_was_interrupted_counts_no_more_while_others_read() -> None:
    content = Content()
    lifetime = Lifetime("/a.h5", content)
    for instruction in range(40):
        interrupt(lambda: lifetime.reading().__enter__(), instruction)
    with lifetime.reading():
        lifetime.close()
        assert not content.released
        with pytest.raises(ClosedError), lifetime.reading():
            pass
        assert not content.released
    assert content.released


def test_a_read_that_fails_has_ended() -> None:
    content = Content()
    lifetime = Lifetime("/a.h5", content)
    content.changed = True
    with pytest.raises(ChangedError), lifetime.reading():
        lifetime.close()
    assert content.released


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_an_interrupt_is_not_lost_while_a_store_is_dropped(tmp_path: Path, suffix: str) -> None:
    """What is removed from tables then must not be removed by code in Python."""
    path = tmp_path / f"a.{suffix}"
    spec = ArraySpec(shape=(4,), dtype=np.dtype("i2"), layout=ChunkLayout(chunks=(2,)))
    with create_store(path) as store:
        store.root.create_array("0", spec).write(None, [1, 2, 3, 4])
    for instruction in itertools.count():
        handle = [Handle(locate(path), fresh=True)]
        owner = Content()
        opened = handle[0].opened
        if suffix == "zarr":  # what is h5py's own has such a table of its own
            array = opened.store.root.array("0")
            opened.readers.put(owner, ChunkReader(array, cache=ChunkCache(99)))
            del array
        held: list[object] = [owner, opened, *handle]
        del owner, opened
        handle.clear()
        came_so_far, arrived = interrupt(held.clear, instruction)
        assert arrived == came_so_far
        if not came_so_far:
            break


@pytest.mark.filterwarnings("error")
def test_a_read_of_one_of_many_files_can_be_interrupted(tmp_path: Path) -> None:
    (tmp_path / "chunk").write_bytes(b"0123456789")
    wanted = [ByteRange(str(tmp_path / "chunk"), 2, 3)]
    for instruction in itertools.count():
        came_so_far, arrived = interrupt(lambda: LocalSource().fetch(wanted), instruction)
        assert arrived == came_so_far
        if not came_so_far:
            break
    assert LocalSource().fetch(wanted) == [b"234"]


class TestVersion:
    """What a check of a remote store covers."""

    def test_a_version_that_was_vouched_for_needs_no_check(self) -> None:
        asked: list[int] = []

        def is_same() -> bool:
            asked.append(1)
            return True

        version = Version("s3://a", is_same)
        version.arrived({"shard": "1"})
        version.check()
        version.arrived({"shard": "1"})
        version.check()
        assert len(asked) == 1
        version.arrived({"shard": "2"})
        version.check()
        version.arrived()
        version.check()
        assert len(asked) == 3

    def test_what_arrives_of_a_version_that_is_being_checked_is_covered(self) -> None:
        asked: list[int] = []

        def is_same() -> bool:
            asked.append(1)
            version.arrived({"shard": "1"})
            version.arrived({"other": "1"})
            return True

        version = Version("s3://a", is_same)
        version.arrived({"shard": "1"})
        assert version.awaits({"shard"})
        assert not version.awaits({"shard", "other"})
        version.check()
        assert version.awaits({"shard", "other"})
        version.check()  # because of the other one alone
        assert len(asked) == 2

    def test_another_thread_does_not_take_a_check_for_done_that_is_under_way(self) -> None:
        asked: list[int] = []

        def is_same() -> bool:
            asked.append(1)
            if len(asked) == 1:
                other = threading.Thread(target=version.check)
                other.start()
                other.join()
            return True

        version = Version("s3://a", is_same)
        version.arrived({"shard": "1"})
        version.check()
        assert len(asked) == 2

    @pytest.mark.parametrize("answered", [None, {"shard": "1"}, {"shard": ""}])
    def test_a_store_that_was_replaced_stays_so(self, answered: dict[str, str] | None) -> None:
        version = Version("s3://a", lambda: False)
        version.check()  # nothing has arrived
        version.arrived(answered)
        for _ in range(2):
            with pytest.raises(ChangedError):
                version.check()
