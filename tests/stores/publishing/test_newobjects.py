"""Writing to object storage: what is new stays apart, and nobody else's is touched."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from fmristore_stores.chunks.writer import write
from fmristore_stores.edit import edit_store
from fmristore_stores.errors import (
    AlreadyExistsError,
    ChangedError,
    ReadOnlyError,
    StorageError,
)
from fmristore_stores.io import conditional_put as newobjects
from fmristore_stores.io.conditional_put import NewObjects, create_object
from fmristore_stores.io.location import normalise
from fmristore_stores.io.owners import Mark
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import Capability, Store
from fmristore_stores.publishing import publish
from fmristore_stores.publishing.claims import CLAIM, Claim, claim_path
from fmristore_stores.publishing.publish import create_store, publish_file
from fmristore_stores.publishing.turns import take_turn
from fmristore_stores.spec import ArraySpec, ChunkLayout
from tests.servers.fixtures import make_place
from tests.servers.places import Place, gcs_place
from tests.servers.proxy import Proxy, Request, Rule, run_proxy

KINDS = ["h5", "zarr"]
SPEC = ArraySpec(shape=(8, 6), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(2, 3)))
SHARDED = replace(SPEC, layout=ChunkLayout(chunks=(2, 3), shards=(4, 6)))


def fill(store: Store, number: int) -> None:
    sharded = Capability.SHARDS in store.capabilities
    store.root.write_attributes({"number": number})
    array = store.root.create_group("g").create_array("a", SHARDED if sharded else SPEC)
    write(array, None, np.full((8, 6), number, "i4"))


def make(place: Place, name: str, number: int, **options: Any) -> None:
    with create_store(place / name, storage_options=place.options, **options) as store:
        fill(store, number)


def number_in(place: Place, name: str) -> int:
    with open_store(place / name, storage_options=place.options) as store:
        number = int(store.root.read_attributes()["number"])
        assert (store.root.array("g/a").read() == number).all()
        return number


def files(place: Place) -> tuple[Any, str]:
    fs, path = fsspec.core.url_to_fs(place.url, **place.options)
    fs.invalidate_cache()
    return fs, path


def listed(place: Place) -> list[str]:
    """Every object below a place."""
    fs, path = files(place)
    return sorted(name.removeprefix(path).strip("/") for name in fs.find(path))


@pytest.fixture(params=["memory", "moto", "azure", "gcs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Services that check conditions; Google's emulator does so behind a proxy."""
    if request.param == "gcs":
        return gcs_place(request.getfixturevalue("gcs_proxy").port)
    return make_place(request.param, request, tmp_path)


@pytest.fixture
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Proxy, Place]]:
    """A bucket of moto behind a proxy."""
    found = make_place("moto", request, tmp_path)
    with run_proxy(found.port) as proxy:
        yield proxy, replace(found, options={**found.options, "endpoint_url": proxy.url})


# Order -------------------------------------------------------------------------------------------


def test_a_zarr_store_is_written_in_whole_objects_and_its_root_last(
    proxied: tuple[Proxy, Place],
) -> None:
    proxy, place = proxied
    make(place, "a.zarr", 1)
    puts = [request.path.split("/", 2)[2] for request in proxy.log if request.method == "PUT"]
    assert puts[0] == f"a.zarr{CLAIM}"
    assert puts[-1] == "a.zarr/zarr.json"
    assert puts.count("a.zarr/zarr.json") == 1
    shards = [name for name in puts if "/c/" in name]
    assert sorted(shards) == ["a.zarr/g/a/c/0/0", "a.zarr/g/a/c/1/0"]
    last = [request.method for request in proxy.log][-1]
    assert last == "DELETE"
    assert listed(place) == [
        "a.zarr/g/a/c/0/0",
        "a.zarr/g/a/c/1/0",
        "a.zarr/g/a/zarr.json",
        "a.zarr/g/zarr.json",
        "a.zarr/zarr.json",
    ]


def test_a_large_file_is_sent_in_parts_and_visible_when_complete(
    proxied: tuple[Proxy, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, place = proxied
    monkeypatch.setattr(newobjects, "_PART", 5 * 2**20)
    data = np.random.default_rng(0).bytes(11 * 2**20)
    seen: list[bool] = []
    plain, path = fsspec.core.url_to_fs(place.url, **{**place.options, "skip_instance_cache": True})

    def look(request: Request) -> None:
        if "uploadId" in request.path:
            plain.invalidate_cache()
            proxy.before = None  # not for the look itself
            seen.append(plain.exists(f"{path}/a.bin"))
            proxy.before = look

    with publish_file(place / "a.bin", storage_options=place.options) as local:
        Path(local).write_bytes(data)
        proxy.before = look
    proxy.before = None
    parts = [request for request in proxy.log if "partNumber" in request.path]
    assert len(parts) == 3
    assert seen
    assert not any(seen)
    fs, path = files(place)
    assert fs.cat_file(f"{path}/a.bin") == data


# Two writers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_writers_one_wins(place: Place, kind: str) -> None:
    name = f"a.{kind}"
    barrier = threading.Barrier(2, timeout=300)
    outcomes: dict[int, str] = {}

    def attempt(number: int) -> None:
        try:
            with create_store(place / name, storage_options=place.options) as store:
                if kind == "h5":
                    barrier.wait()  # neither has seen the other's
                fill(store, number)
            outcomes[number] = "won"
        except AlreadyExistsError:
            outcomes[number] = "lost"

    threads = [threading.Thread(target=attempt, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert sorted(outcomes.values()) == ["lost", "won"]
    (winner,) = [number for number, outcome in outcomes.items() if outcome == "won"]
    assert number_in(place, name) == winner
    assert not [name for name in listed(place) if CLAIM in name or "partial" in name]


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_store_that_somebody_else_makes_meanwhile_is_not_touched(place: Place, when: str) -> None:
    """Somebody who knows nothing of claims, such as plain zarr-python."""
    fs, path = files(place)
    theirs = {"g/a/c/0/0": b"their chunk", "zarr.json": b"{}"}
    if when == "late":
        del theirs["g/a/c/0/0"]

    def intrude() -> None:
        for name, data in theirs.items():
            fs.pipe_file(f"{path}/a.zarr/{name}", data)

    def attempt() -> None:
        with create_store(place / "a.zarr", storage_options=place.options) as store:
            if when == "early":
                intrude()
            fill(store, 1)
            if when == "late":
                intrude()

    with pytest.raises(AlreadyExistsError):
        attempt()
    fs.invalidate_cache()
    for name, data in theirs.items():
        assert fs.cat_file(f"{path}/a.zarr/{name}") == data
    assert listed(place) == sorted(f"a.zarr/{name}" for name in theirs)


def test_a_file_that_somebody_else_makes_meanwhile_is_not_touched(place: Place) -> None:
    fs, path = files(place)

    def attempt() -> None:
        with publish_file(place / "a.bin", storage_options=place.options) as local:
            Path(local).write_bytes(b"ours")
            fs.pipe_file(f"{path}/a.bin", b"theirs")

    with pytest.raises(AlreadyExistsError):
        attempt()
    fs.invalidate_cache()
    assert fs.cat_file(f"{path}/a.bin") == b"theirs"


def test_between_the_last_look_and_the_request(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service itself refuses, not only our look beforehand."""
    fs, path = files(place)
    monkeypatch.setattr(publish, "_check_absent", lambda *args, **kwargs: False)
    fs.pipe_file(f"{path}/a.bin", b"theirs")
    with (
        pytest.raises(AlreadyExistsError),
        publish_file(place / "a.bin", storage_options=place.options) as local,
    ):
        Path(local).write_bytes(b"ours")
    make(place, "a.zarr", 1)
    with pytest.raises(AlreadyExistsError):
        make(place, "a.zarr", 2)
    assert number_in(place, "a.zarr") == 1
    assert fs.cat_file(f"{path}/a.bin") == b"theirs"


def test_a_writer_that_was_overruled_gives_up(place: Place) -> None:
    def attempt() -> None:
        with create_store(place / "a.zarr", storage_options=place.options) as store:
            store.root.write_attributes({"number": 1})
            with ThreadPoolExecutor(1) as another:
                another.submit(make, place, "a.zarr", 2, overwrite=True).result()

    with pytest.raises(AlreadyExistsError):
        attempt()
    assert number_in(place, "a.zarr") == 2
    assert not [name for name in listed(place) if "fmristore" in name or "partial" in name]


def left_by_another_machine(where: Place, *, age: float, **said: Any) -> None:
    """The claim of a writer of whom nothing is known but when it was last heard of."""
    fs, path = files(where)
    mark = Mark("00000000", 1, 0, int(time.time()) - 10**6, "00000001")
    claim = Claim(mark, "elsewhere", touched=time.time() - age, **said)
    fs.pipe_file(claim_path(f"{path}/a.zarr"), claim.encode())


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_a_killed_writer_left_is_cleared_away(place: Place, overwrite: bool) -> None:
    fs, path = files(place)
    NewObjects(fs, f"{path}/a.zarr", "url").put(f"{path}/a.zarr/old/zarr.json", b"{}")
    left_by_another_machine(place, age=7200, doing="create")
    make(place, "a.zarr", 1, overwrite=overwrite)
    assert number_in(place, "a.zarr") == 1
    assert not [name for name in listed(place) if "old" in name or "fmristore" in name]


def test_objects_that_nobody_claims_are_not_cleared_away(place: Place) -> None:
    fs, path = files(place)
    fs.pipe_file(f"{path}/a.zarr/notes.txt", b"mine")
    with pytest.raises(AlreadyExistsError, match="no Zarr store"):
        make(place, "a.zarr", 1)
    assert listed(place) == ["a.zarr/notes.txt"]


def test_of_a_writer_that_may_be_at_it_nothing_is_touched(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMRISTORE_WAIT", "0")
    fs, path = files(place)
    NewObjects(fs, f"{path}/a.zarr", "url").put(f"{path}/a.zarr/old/zarr.json", b"{}")
    left_by_another_machine(place, age=600, doing="create")
    before = listed(place)
    with pytest.raises(AlreadyExistsError, match="process 1 on elsewhere, since"):
        make(place, "a.zarr", 1)
    assert listed(place) == before


def test_two_writers_do_not_replace_a_store_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMRISTORE_WAIT", "0")
    make(place, "a.zarr", 1)
    left_by_another_machine(place, age=600, doing="replace")
    with pytest.raises(StorageError, match=r"process 1 on elsewhere, since .*remove .*writing"):
        make(place, "a.zarr", 2, overwrite=True)
    assert number_in(place, "a.zarr") == 1
    assert not [name for name in listed(place) if "partial" in name]
    fs, path = files(place)
    fs.pipe_file(claim_path(f"{path}/a.zarr"), b"of other software")
    with pytest.raises(StorageError, match="another writer"):
        make(place, "a.zarr", 2, overwrite=True)


def enter(url: str, options: Any) -> None:
    with take_turn(url, options, busy=StorageError):
        pass


def test_a_claim_of_somebody_gone_is_taken_over_by_one(place: Place) -> None:
    """And by the next one again, when that one is gone as well; nothing is left in the end."""
    left_by_another_machine(place, age=7200)
    url = normalise(place / "a.zarr")
    with take_turn(url, place.options) as first:
        assert first.inherited
        with ThreadPoolExecutor(1) as another, pytest.raises(StorageError, match="process"):
            another.submit(enter, url, place.options).result()
        first.abandon()
    with take_turn(url, place.options) as second:
        assert second.inherited
        with pytest.raises(ChangedError):
            first.check()
        second.check()
    assert listed(place) == []


@pytest.mark.once
def test_a_replacement_that_was_killed_is_completed(place: Place) -> None:
    """The claim says where the new store lies; it is there whole, the old one is gone."""
    make(place, "a.zarr", 1)
    make(place, "new.zarr", 2)
    fs, path = files(place)
    fs.rm_file(f"{path}/a.zarr/zarr.json")
    fs.rm_file(f"{path}/a.zarr/g/a/zarr.json")
    left_by_another_machine(place, age=600, doing="replace", place=f"{path}/new.zarr")
    with pytest.raises(StorageError, match=r"being replaced by process 1 on elsewhere.*new\.zarr"):
        open_store(place / "a.zarr", storage_options=place.options)
    left_by_another_machine(place, age=7200, doing="replace", place=f"{path}/new.zarr")
    with edit_store(place / "a.zarr", storage_options=place.options) as store:
        assert store.root.read_attributes()["number"] == 2
    assert number_in(place, "a.zarr") == 2
    assert {name.split("/")[0] for name in listed(place)} == {"a.zarr"}


# Answers that get lost ---------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "pattern", ["^PUT .*/zarr.json|^PUT .*a.h5", "^PUT .*writing", "^PUT .*/c/"]
)
def test_a_lost_answer_is_no_conflict(
    proxied: tuple[Proxy, Place], kind: str, pattern: str
) -> None:
    proxy, place = proxied
    proxy.rules.append(Rule(pattern, "lost", times=1))
    make(place, f"a.{kind}", 1)
    assert proxy.faults == (0 if kind == "h5" and "a.h5" not in pattern else 1)
    proxy.rules.clear()
    assert number_in(place, f"a.{kind}") == 1


@pytest.mark.once
def test_a_lost_answer_of_the_last_part(
    proxied: tuple[Proxy, Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, place = proxied
    monkeypatch.setattr(newobjects, "_PART", 5 * 2**20)
    data = np.random.default_rng(0).bytes(11 * 2**20)
    proxy.rules.append(Rule("^POST .*uploadId", "lost", times=1))
    with publish_file(place / "a.bin", storage_options=place.options) as local:
        Path(local).write_bytes(data)
    assert proxy.faults == 1
    fs, path = files(place)
    assert fs.cat_file(f"{path}/a.bin") == data


@pytest.mark.once
@pytest.mark.parametrize("status", [409, 501])
def test_services_that_refuse_conditions(proxied: tuple[Proxy, Place], status: int) -> None:
    """One that has another request in progress is asked again; one that knows none is not."""
    proxy, place = proxied
    fs, path = files(place)
    proxy.rules.append(Rule("^PUT .*a.bin", "status", status, times=1))
    create_object(fs, f"{path}/a.bin", b"ours", "url")
    assert proxy.faults == 1
    assert fs.cat_file(f"{path}/a.bin") == b"ours"
    proxy.rules.append(Rule("^PUT .*a.bin", "status", status))
    with pytest.raises(AlreadyExistsError):
        create_object(fs, f"{path}/a.bin", b"more", "url")
    proxy.rules.clear()
    assert fs.cat_file(f"{path}/a.bin") == b"ours"


# Failures ----------------------------------------------------------------------------------------


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_write_that_fails_in_the_middle_leaves_nothing(
    proxied: tuple[Proxy, Place], kind: str, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    proxy, place = proxied
    quick = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    place = replace(place, options={**place.options, **quick})
    if overwrite:
        make(place, f"a.{kind}", 1)
    before = listed(place)
    proxy.rules.append(Rule(r"^PUT .*(/c/1|a\.h5)", "status", 500))
    with pytest.raises(StorageError):
        make(place, f"a.{kind}", 2, overwrite=overwrite)
    proxy.rules.clear()
    assert listed(place) == before
    if overwrite:
        assert number_in(place, f"a.{kind}") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_chains_are_not_written(place: Place, kind: str) -> None:
    with (
        pytest.raises(ReadOnlyError, match="chain"),
        create_store(f"simplecache::{place / 'a'}.{kind}"),
    ):
        pass
