"""Locators travel; opened stores stay in their process and are shared."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from fmristore import NeuroVol
from fmristore_stores import opening
from fmristore_stores.chunks.cache import ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.errors import (
    ChangedError,
    ClosedError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
    UnknownFormatError,
)
from fmristore_stores.io.lifetime import close_forgotten
from fmristore_stores.io.location import filesystem
from fmristore_stores.io.stats import stats_of
from fmristore_stores.opening import Handle, Locator, locate, open_store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout

SPEC = ArraySpec(shape=(6,), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(2,)))


def make(url: Any, number: int = 1, **options: Any) -> None:
    with create_store(url, **options) as store:
        store.root.create_array("0", SPEC).write(None, number)


def number_in(handle: Handle) -> int:
    return int(handle.store.root.array("0").read()[0])


@pytest.fixture(params=["h5", "zarr", "memory h5", "memory zarr"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An existing store that holds the number 1."""
    where, _, kind = request.param.rpartition(" ")
    place = f"memory://{uuid.uuid4().hex}" if where else str(tmp_path)
    make(f"{place}/a.{kind}")
    return f"{place}/a.{kind}"


def test_a_locator_says_what_and_where(url: str) -> None:
    locator = locate(url)
    assert locator.url == url
    assert locator.kind == ("hdf5" if url.endswith("h5") else "zarr")
    assert locator.token
    again = pickle.loads(pickle.dumps(locator))
    assert again == locator
    assert hash(again) == hash(locator)
    assert locate(url, storage_options={"anon": True} if "://" not in url else {}).token


def test_missing_and_unknown_stores(tmp_path: Path) -> None:
    for place in (str(tmp_path), f"memory://{uuid.uuid4().hex}"):
        for name in ("a.h5", "a.zarr", "a"):
            with pytest.raises(NotFoundError):
                open_store(f"{place}/{name}")
            with pytest.raises(NotFoundError):
                open_store(f"{place}/{name}", kind="hdf5")
    (tmp_path / "text").write_text("text")
    with pytest.raises(UnknownFormatError):
        open_store(tmp_path / "text")
    with pytest.raises(UnknownFormatError):
        open_store(tmp_path / "text", kind="hdf5")


def test_opening_to_change(url: str) -> None:
    if url.startswith("memory") and url.endswith("h5"):
        with pytest.raises(ReadOnlyError):
            open_store(url, "r+")
        return
    with open_store(url, "r+") as store:
        store.root.write_attributes({"a": 1})
    with open_store(url) as store:
        assert store.root.read_attributes() == {"a": 1}
        with pytest.raises(ReadOnlyError):
            store.root.write_attributes({})


def test_handles_share_one_store_and_the_last_one_closes_it(url: str) -> None:
    one = Handle(locate(url))
    two = Handle(locate(url))
    three = copy.deepcopy(one)
    four = pickle.loads(pickle.dumps(one))
    five = copy.copy(one)
    assert one.store is two.store is three.store is four.store is five.store
    five.close()
    store = one.store
    for handle in (one, two, three):
        handle.close()
        handle.close()
        assert handle.closed
        assert not store.closed
        with pytest.raises(ClosedError):
            _ = handle.store
        with pytest.raises(ClosedError):
            pickle.dumps(handle)
    assert number_in(four) == 1
    four.close()
    assert store.closed


def test_a_store_that_was_closed_under_its_handle_is_opened_again(url: str) -> None:
    handle = Handle(locate(url))
    handle.store.close()
    assert number_in(handle) == 1
    handle.close()


def test_a_replaced_store_is_not_taken_for_the_old_one(url: str) -> None:
    handle = Handle(locate(url))
    text = pickle.dumps(handle)
    handle.close()
    make(url, 2, overwrite=True)
    with pytest.raises(ChangedError, match="open it again"):
        pickle.loads(text)
    fresh = Handle(locate(url))
    assert number_in(fresh) == 2
    fresh.close()


def test_a_removed_store_is_missed(tmp_path: Path) -> None:
    make(tmp_path / "a.h5")
    handle = Handle(locate(tmp_path / "a.h5"))
    text = pickle.dumps(handle)
    handle.close()
    (tmp_path / "a.h5").unlink()
    with pytest.raises(NotFoundError):
        pickle.loads(text)
    with pytest.raises(NotFoundError):
        Handle(Locator(url=str(tmp_path / "a.h5"), kind="hdf5", token="x"))


def descriptors() -> int:
    """Files that this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


linux = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


@linux
def test_a_failed_handle_leaves_nothing(tmp_path: Path) -> None:
    locator = Locator(url=str(tmp_path / "a.h5"), kind="hdf5", token="x")
    with pytest.raises(NotFoundError):
        Handle(locator)
    make(tmp_path / "a.h5")
    close_forgotten()
    before = descriptors()
    for _ in range(3):
        with pytest.raises(ChangedError):
            Handle(locator)
    assert descriptors() == before


@linux
@pytest.mark.parametrize("name", ["a.h5", "a.zarr"])
def test_a_store_has_one_descriptor(tmp_path: Path, name: str) -> None:
    make(tmp_path / name)
    handle = Handle(locate(tmp_path / name), fresh=True)
    number_in(handle)  # zarr-python may start a loop
    handle.close()
    before = descriptors()
    handle = Handle(locate(tmp_path / name), fresh=True)
    assert number_in(handle) == 1
    assert ChunkReader(handle.store.root.array("0")).read()[0] == 1
    assert descriptors() == before + 1
    handle.close()
    assert descriptors() == before


@linux
@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_a_dropped_handle_gives_its_store_back(tmp_path: Path, kind: str) -> None:
    make(tmp_path / f"0.{kind}")
    number_in(Handle(locate(tmp_path / f"0.{kind}")))
    close_forgotten()
    before = descriptors()
    for number in range(1, 4):
        make(tmp_path / f"{number}.{kind}")
        handle = Handle(locate(tmp_path / f"{number}.{kind}"), fresh=True)
        assert number_in(handle) == 1
        del handle
    assert descriptors() <= before + 1  # until the next one is opened or closed
    close_forgotten()
    assert descriptors() == before


def test_dropping_a_handle_waits_for_no_lock(tmp_path: Path) -> None:
    """Any thread may find one in a cycle, also one that holds what others wait for."""
    make(tmp_path / "a.h5")
    handle = Handle(locate(tmp_path / "a.h5"))
    handle.store.root  # noqa: B018
    opened: list[Any] = [handle]
    del handle
    with opening._open_stores._lock:
        opened.clear()
    close_forgotten()


def test_only_so_many_stores_stay_open_and_the_others_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_MOST_OPEN", 3)
    handles = []
    for number in range(8):
        make(tmp_path / f"{number}.h5", number)
        handles.append(Handle(locate(tmp_path / f"{number}.h5"), fresh=True))
    assert sum(handle._entry.opened is not None for handle in handles) <= 3
    for number, handle in enumerate(handles):
        assert number_in(handle) == number
    held = handles[0].store
    for handle in handles[1:]:
        number_in(handle)
    assert held.root.array("0").read()[0] == 0  # whoever reads it keeps it open
    for handle in handles:
        handle.close()


def test_a_store_that_comes_back_must_be_the_same(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = Handle(locate(url))
    monkeypatch.setattr(opening, "_MOST_OPEN", 1)
    make(tmp_path / "other.h5")
    other = Handle(locate(tmp_path / "other.h5"))
    make(url, 2, overwrite=True)
    with pytest.raises(ChangedError, match="open it again"):
        number_in(handle)
    other.close()


_MANY = """
import resource, sys
import fmristore as fs
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
folder, kind = sys.argv[1:]
for hold in (False, True):
    held = []
    for number in range(200):
        image = fs.open(f"{folder}/{number % 80}.{kind}")
        assert image[0, 0, 0] == number % 80, hold
        if hold:
            held.append(image)
    for number, image in enumerate(held):
        assert image[1, 1, 1] == number % 80
"""


@linux
@pytest.mark.parametrize("kind", ["h5", "ome.zarr"])
def test_more_objects_than_descriptors(tmp_path: Path, kind: str) -> None:
    first = tmp_path / f"0.{kind}"
    NeuroVol.create(np.zeros((2, 2, 2), "i2"), first, space=np.eye(4)).close()
    for number in range(1, 80):
        other = tmp_path / f"{number}.{kind}"
        (shutil.copytree if first.is_dir() else shutil.copy)(first, other)
        with open_store(other, "r+") as store:
            store.root.array("0").write(None, number)
    command = [sys.executable, "-c", _MANY, str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@linux
@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_no_descriptor_is_left(tmp_path: Path, kind: str) -> None:
    import resource

    url = str(tmp_path / f"a.{kind}")
    make(url)
    close_forgotten()
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(StorageError, match="Too many open files"):
            number_in(Handle(locate(url), fresh=True))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    handle = Handle(locate(url))
    assert number_in(handle) == 1
    handle.close()


def test_opening_a_store_lets_others_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may take its time."""
    for name in ("a.h5", "b.h5"):
        make(tmp_path / name)
    quick, slow = Handle(locate(tmp_path / "a.h5")), locate(tmp_path / "b.h5")
    opened, go_on = threading.Event(), threading.Event()
    plainly = opening._open

    def slowly(locator: Locator, *rest: Any, **options: Any) -> Any:
        if locator == slow:
            opened.set()
            assert go_on.wait(300)
        return plainly(locator, *rest, **options)

    monkeypatch.setattr(opening, "_open", slowly)
    other: list[Handle] = []
    thread = threading.Thread(target=lambda: other.append(Handle(slow)))
    thread.start()
    assert opened.wait(300)
    assert number_in(quick) == 1
    Handle(locate(tmp_path / "a.h5")).close()
    assert not other
    go_on.set()
    thread.join()
    assert number_in(other[0]) == 1
    other[0].close()
    quick.close()


def test_closing_waits_for_the_read_that_is_under_way(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = Handle(locate(url))
    store = handle.store
    reader = ChunkReader(store.root.array("0"), cache=ChunkCache(0))
    kind: Any = type(reader.array)
    plainly = kind.fetch

    def fetch(array: Any, *wanted: Any) -> Any:
        handle.close()
        assert store.closed
        with pytest.raises(ClosedError):
            array.reading().__enter__()
        return plainly(array, *wanted)

    monkeypatch.setattr(kind, "fetch", fetch)
    monkeypatch.setenv("FMRISTORE_WORKERS", "1")
    assert reader.read().tolist() == [1] * 6
    with pytest.raises(ClosedError):
        reader.read()
    with pytest.raises(ClosedError):
        _ = store.root


def test_counts_end_with_the_last_handle(url: str) -> None:
    handle = Handle(locate(url))
    stats_of(url).add(requests=1000)
    number_in(handle)
    assert stats_of(url).requests >= 1000
    handle.close()
    del handle
    gc.collect()  # zarr-python's objects refer to each other
    assert stats_of(url).requests < 1000


def test_many_threads_open_and_close(url: str) -> None:
    failures: list[BaseException] = []
    locator = locate(url)

    def work() -> None:
        try:
            for _ in range(30):
                handle = Handle(locator)
                assert number_in(handle) == 1
                handle.close()
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def child(handle: Handle, text: bytes, result: Any) -> None:
    other = pickle.loads(text)
    result.put((number_in(handle), number_in(other)))
    other.close()
    handle.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_store(url: str) -> None:
    handle = Handle(locate(url))
    store = handle.store
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    children = [
        context.Process(target=child, args=(handle, pickle.dumps(handle), result)) for _ in range(2)
    ]
    for process in children:
        process.start()
    assert [result.get(timeout=300) for _ in children] == [(1, 1)] * 2
    for process in children:
        process.join(300)
        assert process.exitcode == 0
    assert handle.store is store
    assert number_in(handle) == 1
    handle.close()


def test_a_listing_that_was_remembered_does_not_hide_a_change() -> None:
    """Object stores keep listings; what is known of a store is asked again."""
    url = f"memory://{uuid.uuid4().hex}/a.h5"
    make(url)
    before = locate(url)
    fs = fsspec.filesystem("memory")
    fs.pipe_file(url, fs.cat_file(url) + b"x")
    assert locate(url) != before


def test_a_kind_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with create_store(tmp_path / "a.h5"):
        pass
    wrong: Any = "h5"
    with pytest.raises(InvalidInputError, match="'hdf5', 'zarr', 'reference'"):
        locate(tmp_path / "a.h5", kind=wrong)


@pytest.mark.parametrize("block", [512, 8192, 1 << 20])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_user_blocks_of_any_size(tmp_path: Path, block: int, place: str) -> None:
    import h5py

    url = str(tmp_path / "a.h5")
    with h5py.File(url, "w", userblock_size=block) as file:
        file["x"] = np.arange(5)
    if place == "memory":
        remote, path = filesystem(f"memory://blocks/{block}.h5")
        remote.pipe_file(path, Path(url).read_bytes())
        url = f"memory://blocks/{block}.h5"
    with open_store(url) as store:
        np.testing.assert_array_equal(store.root.array("x").read(), np.arange(5))


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.mgz"):
        (tmp_path / name).write_bytes(bytes(100))
        with pytest.raises(UnknownFormatError, match=r"fmristore\.convert"):
            locate(tmp_path / name)
    (tmp_path / "a.txt").write_bytes(bytes(5000))
    with pytest.raises(UnknownFormatError, match="neither an HDF5 file nor a Zarr store"):
        locate(tmp_path / "a.txt")
