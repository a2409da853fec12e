"""The cache of decoded chunks."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmristore_stores.chunks.cache import CHUNK_CACHE, ENTRY_NBYTES, ChunkCache
from fmristore_stores.protocol import AnyArray


def chunk(nbytes: int) -> AnyArray:
    return np.zeros(nbytes, np.uint8)


def test_the_least_recently_used_goes_first() -> None:
    full = 4 * (25 + ENTRY_NBYTES)
    cache = ChunkCache(full)
    for key in range(4):
        cache.put(1, (key,), chunk(25))
    assert cache.nbytes == full
    assert cache.get(1, (0,)) is not None
    cache.put(1, (9,), chunk(25))
    assert cache.get(1, (1,)) is None
    assert cache.get(1, (0,)) is not None
    assert cache.get(2, (0,)) is None
    assert cache.nbytes == full


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    cache = ChunkCache(100 + ENTRY_NBYTES)
    cache.put(1, (0,), chunk(60))
    cache.put(1, (1,), chunk(101))
    assert cache.get(1, (1,)) is None
    assert cache.get(1, (0,)) is not None
    nothing = ChunkCache(0)
    nothing.put(1, (0,), chunk(1))
    assert nothing.nbytes == 0


def test_owners_are_dropped_alone() -> None:
    cache = ChunkCache(100 + 2 * ENTRY_NBYTES)
    cache.put(1, (0,), chunk(10))
    cache.put(2, (0,), chunk(20))
    cache.clear(1)
    assert (cache.get(1, (0,)), cache.nbytes) == (None, 20 + ENTRY_NBYTES)
    cache.clear()
    assert cache.nbytes == 0


@given(
    calls=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 60)), max_size=60
    ),
    limit=st.integers(0, 120 + 4 * ENTRY_NBYTES),
)
def test_bytes_are_counted_right(calls: list[tuple[int, int, int]], limit: int) -> None:
    cache = ChunkCache(limit)
    for owner, key, size in calls:
        cache.put(owner, (key,), chunk(size))
        assert cache.nbytes <= limit
        kept = [cache.get(o, (k,)) for o in range(3) for k in range(5)]
        assert cache.nbytes == sum(c.nbytes + ENTRY_NBYTES for c in kept if c is not None)


def test_a_part_of_something_bigger_does_not_keep_all_of_it() -> None:
    answer = bytes(range(256)) * 100
    cache = ChunkCache(10_000)
    cache.put(1, (0,), np.frombuffer(memoryview(answer)[10:16], "u1").reshape(2, 3).T)
    cache.put(1, (1,), chunk(1000)[:10])
    for key, nbytes in ((0, 6), (1, 10)):
        kept = cache.get(1, (key,))
        assert kept is not None
        owner = kept if kept.base is None else kept.base
        assert owner.nbytes == nbytes
    first = cache.get(1, (0,))
    assert first is not None
    assert first.tolist() == [[10, 13], [11, 14], [12, 15]]
    assert first.T.flags.c_contiguous  # the order in memory stays


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_while_another_thread_works_does_not_block_the_child() -> None:
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            CHUNK_CACHE.put(-1, (number % 50,), chunk(100))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(200)  # ends it where a lock was held while it was made
                CHUNK_CACHE.put(-1, (0,), chunk(100))
                os._exit(0 if CHUNK_CACHE.get(-1, (0,)) is not None else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        CHUNK_CACHE.clear(-1)
