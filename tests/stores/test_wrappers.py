"""What each wrapper changes; that it changes nothing else is in the conformance suite."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fmristore_stores.errors import (
    ClosedError,
    InvalidInputError,
    LayoutNotSupportedError,
    ReadOnlyError,
)
from fmristore_stores.protocol import Array, ByteRange, Capability, Store
from fmristore_stores.testing.memory import MemoryStore
from fmristore_stores.testing.model import encoded, full, keys_of
from fmristore_stores.testing.strategies import make_spec
from fmristore_stores.testing.wrappers import CountingStore, Counts, LatencyStore, ReadOnlyStore
from fmristore_stores.zarr.store import ZarrStore

SPEC = make_spec((4, 4), chunks=(2, 2))
ROW = (slice(0, 1), slice(0, 4))


@pytest.fixture
def chunked(tmp_path: Path) -> Iterator[Store]:
    """A store whose arrays have chunk references, with the full arrays ``a`` and ``b``."""
    with ZarrStore(str(tmp_path / "s.zarr"), mode="w") as store:
        for name in "ab":
            store.root.create_array(name, SPEC).write(None, 1)
        yield store


def raw(array: Array) -> Any:
    return cast(Any, array)


def test_wrappers_are_stores() -> None:
    stores: list[Store] = [
        ReadOnlyStore(MemoryStore()),
        CountingStore(MemoryStore()),
        LatencyStore(MemoryStore(), 0),
    ]
    assert [store.root.path for store in stores] == ["", "", ""]


def test_closing_closes_the_store_inside() -> None:
    inner = MemoryStore()
    with CountingStore(LatencyStore(inner, 0)) as store:
        assert store.url == inner.url
    assert inner.closed


def test_wrappers_nest(chunked: Store) -> None:
    counting = CountingStore(chunked)
    store = ReadOnlyStore(LatencyStore(counting, 0))
    array = store.root.array("a")
    raw(array).fetch([raw(array).refs([(0, 0)])[0].range])
    assert counting.counts["a"].chunks_fetched == 1
    with pytest.raises(ReadOnlyError):
        array.write(None, 2)


def test_missing_capabilities_are_refused() -> None:
    array = raw(LatencyStore(MemoryStore(), 0).root.create_array("0", SPEC))
    asked: list[Callable[[], object]] = [
        lambda: array.refs([(0, 0)]),
        lambda: array.fetch([]),
        lambda: array.policy,
        lambda: array.write_encoded((0, 0), [None]),
    ]
    for ask in asked:
        with pytest.raises(LayoutNotSupportedError):
            ask()


def test_read_only_leaves_the_store_inside_writable(chunked: Store) -> None:
    store = ReadOnlyStore(chunked)
    array = store.root.array("a")
    writing = Capability.WRITE | Capability.RAW_WRITE | Capability.GROWTH
    assert store.capabilities == chunked.capabilities & ~writing
    assert array.capabilities == chunked.root.array("a").capabilities & ~writing
    with pytest.raises(ReadOnlyError):
        raw(array).write_encoded((0, 0), [None])
    chunked.root.array("a").write(None, 2)
    assert (array.read() == 2).all()
    store.close()
    with pytest.raises(ClosedError):
        array.write(None, 3)


def test_counts_of_reads_and_writes() -> None:
    store = CountingStore(MemoryStore())
    first = store.root.create_array("a", SPEC)
    second = store.root.create_group("g").create_array("b", SPEC)
    first.write(None, 1)
    first.read(ROW)
    first.read()
    second.read()
    counts = store.counts
    assert counts["a"] == Counts(reads=2, writes=1)
    assert counts["g/b"] == Counts(reads=1)
    assert counts["nothing"] == Counts()
    assert counts.total == Counts(reads=3, writes=1)
    assert set(counts.arrays) == {"a", "g/b"}


def test_counts_are_a_snapshot(chunked: Store) -> None:
    store = CountingStore(chunked)
    before = store.counts
    store.root.array("a").read()
    assert before.total == Counts()
    after = store.counts
    with pytest.raises(FrozenInstanceError):
        after["a"].reads = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        after.arrays["a"] = Counts()  # type: ignore[index]
    store.reset()
    assert store.counts.total == Counts()
    assert after.total == Counts(reads=1)


def test_counts_of_chunks(chunked: Store) -> None:
    store = CountingStore(chunked)
    array = raw(store.root.array("a"))
    refs = array.refs(keys_of((2, 2)))
    length = refs[0].range.length
    assert store.counts["a"] == Counts(refs=4)
    array.fetch([refs[0].range, refs[1].range])
    array.fetch([refs[0].range])
    assert store.counts["a"] == Counts(refs=4, ranges=3, bytes_fetched=3 * length, chunks_fetched=2)
    assert store.counts["b"] == Counts()
    store.reset()
    array.fetch([refs[0].range])
    assert store.counts.total == Counts(ranges=1, bytes_fetched=length)


def test_merged_and_partial_ranges_touch_chunks(tmp_path: Path) -> None:
    spec = make_spec((4, 4), chunks=(2, 2), shards=(4, 4))
    with CountingStore(ZarrStore(str(tmp_path / "s.zarr"), mode="w")) as store:
        array = raw(store.root.create_array("a", spec))
        array.write(None, 1)
        ranges = sorted(ref.range for ref in array.refs(keys_of((2, 2))))
        source, offset, length = ranges[0]
        array.fetch([ByteRange(source, offset + 1, 1)])
        assert store.counts.total.chunks_fetched == 1
        array.fetch([ByteRange(source, offset + length, 0)])
        assert store.counts.total.chunks_fetched == 1
        array.fetch([ByteRange(source, offset, ranges[2].offset + length - offset)])
        assert store.counts.total.chunks_fetched == 3


def test_counts_of_encoded_chunks_written(tmp_path: Path) -> None:
    spec = make_spec((4, 4), chunks=(2, 2), shards=(4, 2))
    chunk = encoded(spec, full(spec), (0, 0))
    with CountingStore(ZarrStore(str(tmp_path / "s.zarr"), mode="w")) as store:
        array = raw(store.root.create_array("a", spec))
        array.write_encoded((0, 0), [chunk, None])
        array.write_encoded((0, 1), [chunk, chunk])
        assert store.counts.total == Counts(chunks_written=3, bytes_written=3 * len(chunk))


def test_threads_are_counted_exactly() -> None:
    store = CountingStore(MemoryStore())
    array = store.root.create_array("a", SPEC)

    def work() -> None:
        for _ in range(200):
            array.read(ROW)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.counts.total.reads == 800


def test_latency(chunked: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("fmristore_stores.testing.wrappers.time.sleep", slept.append)
    store = LatencyStore(chunked, 0.02)
    array = raw(store.root.array("a"))
    [ref] = array.refs([(0, 0)])
    chunk = encoded(SPEC, np.ones((4, 4), np.float32), (0, 0))
    calls: list[Callable[[], object]] = [
        lambda: array.read(ROW),
        lambda: array.write(ROW, 1),
        lambda: array.fetch([ref.range, ref.range]),
        lambda: array.write_encoded((0, 0), [chunk]),
    ]
    for call in calls:
        slept.clear()
        call()
        assert slept == [0.02]
    assert store.capabilities == chunked.capabilities
    assert array.capabilities == chunked.root.array("a").capabilities


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf])
def test_impossible_latency(seconds: float) -> None:
    with pytest.raises(InvalidInputError):
        LatencyStore(MemoryStore(), seconds)
