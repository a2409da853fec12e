"""Memory of batches that nobody holds any more is taken again, and no other."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fmristore as fs
from fmristore.sampling import Batches, Windows
from fmristore.sampling.memory import Memory
from fmristore_stores.protocol import AnyArray
from tests.every_format import RUN, SPACE

INT16 = np.dtype(np.int16)


def _address(array: AnyArray) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


@pytest.fixture(params=[None, np.float32, "scaled"])
def windows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Windows]:
    """Windows that are read to their place, converted, or scaled."""
    options: dict[str, Any] = {}
    if request.param == "scaled":
        options = {"slope": 0.5, "inter": 3.0}
    path = tmp_path / "run.h5"
    fs.NeuroVec.create(RUN, path, space=SPACE, access="volume", **options).close()
    dtype = None if request.param == "scaled" else request.param
    with Windows([path] * 20, length=2, dtype=dtype) as made:
        yield made


def test_memory_comes_back_when_its_last_part_is_gone() -> None:
    memory = Memory()
    first = memory.empty((4, 100), INT16)
    place = _address(first)
    part = first[1:3].T
    del first
    second = memory.empty((4, 100), INT16)
    assert _address(second) != place
    part[...] = 7
    second[...] = 1
    assert (part == 7).all()
    del part
    assert _address(memory.empty((2, 100), INT16)) == place


def test_what_is_too_small_is_not_taken_again() -> None:
    memory = Memory()
    small = memory.empty((10,), INT16)
    del small
    large = memory.empty((1000,), INT16)
    large[...] = 3
    assert large.nbytes == 2000
    assert large.flags.writeable


def test_arrays_outlive_their_memory_object() -> None:
    memory = Memory()
    array = memory.empty((1000,), INT16)
    array[...] = 5
    del memory
    assert (array == 5).all()


def test_batches_that_are_kept_stay_as_they_were(windows: Windows) -> None:
    batches = Batches(windows, batch_size=3, max_memory=100 * windows.nbytes)
    expected = {n: windows[n] for n in range(len(windows))}
    kept = []
    for place, (values, numbers) in enumerate(batches):
        if place % 3 == 0:
            kept.append((values[1:], numbers[1:]))
    assert len(kept) > 10
    for values, numbers in kept:
        for value, number in zip(values, numbers.tolist(), strict=True):
            np.testing.assert_array_equal(value, expected[number])


def test_batches_that_are_dropped_take_no_more_memory(windows: Windows) -> None:
    batches = Batches(windows, batch_size=2, max_memory=16 * windows.nbytes)
    places = {_address(values) for values, _ in batches}
    assert len(batches) > 5 * len(places)


def test_an_epoch_takes_the_memory_of_the_one_before(windows: Windows) -> None:
    batches = Batches(windows, batch_size=2)
    places = [{_address(values) for values, _ in batches} for _ in range(3)]
    assert places[2] <= places[0] | places[1]


def test_another_process_begins_with_no_memory(windows: Windows) -> None:
    batches = Batches(windows, batch_size=2)
    wanted = [values.copy() for values, _ in batches]
    batches.set_epoch(0)
    twin = pickle.loads(pickle.dumps(batches))
    for (values, _), expected in zip(twin, wanted, strict=True):
        assert_array_equal(values, expected)
    twin.windows.close()


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_whole_volumes_that_are_not_encoded_are_read_batch_by_batch(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / f"run.{kind}"
    fs.NeuroVec.create(RUN, path, space=SPACE, access="volume", codec="none").close()
    with Windows([path] * 6, length=2, stride=1, raw=True) as windows:
        stored = windows.sources[0].stored
        with stored.stats.watch() as read:
            for count, (values, numbers) in enumerate(Batches(windows, batch_size=3, seed=1)):
                if count < 3:  # two volumes of each of three windows, and nothing ahead of them
                    assert read.chunks == 2 * 3 * (count + 1)
                for value, number in zip(values, numbers.tolist(), strict=True):
                    assert_array_equal(value, RUN[windows.where(number).region])
