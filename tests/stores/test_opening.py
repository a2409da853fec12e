"""Locators travel; opened stores stay in their process and are shared."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from fmristore_stores import opening
from fmristore_stores.errors import (
    ChangedError,
    ClosedError,
    NotFoundError,
    ReadOnlyError,
    UnknownFormatError,
)
from fmristore_stores.opening import Handle, Locator, locate, open_store
from fmristore_stores.publish import create_store
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
    assert locate(url, storage_options={"skip": 1} if "://" not in url else {}).token


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
    assert one.store is two.store is three.store is four.store
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


def test_a_failed_handle_leaves_no_users(tmp_path: Path) -> None:
    before = dict(opening._open_stores._users)
    with pytest.raises(NotFoundError):
        Handle(Locator(url=str(tmp_path / "a.h5"), kind="hdf5", token="x"))
    assert dict(opening._open_stores._users) == before


def test_only_so_many_idle_stores_stay_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_IDLE_STORES", 3)
    table = opening._OpenStores()
    locators = []
    for number in range(8):
        make(tmp_path / f"{number}.h5", number)
        locators.append(locate(tmp_path / f"{number}.h5"))
    used: Any = table.join(locators[0])
    opened = [table.get(locator) for locator in locators[1:]]
    assert not used.closed
    assert [store.closed for store in opened[-3:]] == [False] * 3
    assert sum(not store.closed for store in opened) <= 4
    table.leave(locators[0])
    assert used.closed
    for store in opened:
        store.close()


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
    assert locator not in opening._open_stores._users


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
    assert [result.get(timeout=60) for _ in children] == [(1, 1)] * 2
    for process in children:
        process.join(60)
        assert process.exitcode == 0
    assert handle.store is store
    assert number_in(handle) == 1
    handle.close()


def test_a_listing_that_was_remembered_does_not_hide_a_change() -> None:
    """Object stores keep listings; what is known of a store is asked anew."""
    url = f"memory://{uuid.uuid4().hex}/a.h5"
    make(url)
    before = locate(url)
    fs = fsspec.filesystem("memory")
    fs.pipe_file(url, fs.cat_file(url) + b"x")
    assert locate(url) != before
