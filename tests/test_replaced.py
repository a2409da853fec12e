"""A store that is replaced while it is copied or checked: the old one, or an error, no mixture."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import fmristore as fs
from fmristore import LabeledVolumeSet
from fmristore.transcoding import transcode
from fmristore_stores.errors import ChangedError
from fmristore_stores.hdf5.store import HDF5Array
from fmristore_stores.opening import open_store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout
from fmristore_stores.zarr.store import ZarrArray

LENGTH = 1 << 17  # too long to be read together with the metadata
SPEC = ArraySpec(shape=(LENGTH,), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(LENGTH // 2,)))
SMALL = ArraySpec(shape=(8,), dtype=np.dtype("i4"), layout=ChunkLayout(chunks=(8,)))


@pytest.fixture(params=["memory h5", "memory zarr", "local zarr"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store is that cannot be held on to."""
    where, _, kind = request.param.partition(" ")
    folder = tmp_path if where == "local" else f"memory://{uuid.uuid4().hex}"
    return f"{folder}/a.{kind}"


def make(url: str, number: int, *, overwrite: bool = False) -> None:
    with create_store(url, overwrite=overwrite) as store:
        for name in ("a", "b"):
            store.root.create_array(name, SPEC).write(None, number)
        store.root.create_array("small", SMALL).write(None, number)


@pytest.fixture
def before_fetching(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have something happen once, after chunks were located and before they are fetched."""

    def arrange(happen: Callable[[], None]) -> None:
        once = [happen]
        kinds: list[Any] = [ZarrArray, HDF5Array]
        for kind in kinds:
            for name in ("fetch", "fetch_stored"):
                if hasattr(kind, name):
                    monkeypatch.setattr(kind, name, preceded(getattr(kind, name), once))

    def preceded(plainly: Callable[..., Any], once: list[Callable[[], None]]) -> Any:
        def fetch(array: Any, *wanted: Any) -> Any:
            if once:
                once.pop()()
            return plainly(array, *wanted)

        return fetch

    return arrange


Arrange = Callable[[Callable[[], None]], None]


def test_transcoding(url: str, tmp_path: Path, before_fetching: Arrange) -> None:
    make(url, 1)
    before_fetching(lambda: make(url, 2, overwrite=True))
    target = tmp_path / f"b.{url.rpartition('.')[2]}"
    with pytest.raises(ChangedError, match="open it again"):
        transcode(url, target)
    assert not target.exists()
    transcode(url, target)
    with open_store(target) as store:
        assert store.root.array("b").read().tolist() == [2] * LENGTH


def test_transcoding_a_local_file_that_stays_the_same(
    tmp_path: Path, before_fetching: Arrange
) -> None:
    url = str(tmp_path / "a.h5")
    make(url, 1)
    before_fetching(lambda: make(url, 2, overwrite=True))
    transcode(url, tmp_path / "b.h5")
    with open_store(tmp_path / "b.h5") as store:
        assert {*store.root.array("a").read(), *store.root.array("b").read()} == {1}


def test_transcoding_a_local_file_that_is_written_over(
    tmp_path: Path, before_fetching: Arrange
) -> None:
    make(str(tmp_path / "a.h5"), 1)
    make(str(tmp_path / "other.h5"), 2)

    def write_over() -> None:
        data = (tmp_path / "other.h5").read_bytes()
        (tmp_path / "a.h5").write_bytes(data + bytes(8))

    before_fetching(write_over)
    with pytest.raises(ChangedError):
        transcode(tmp_path / "a.h5", tmp_path / "b.h5")
    assert not (tmp_path / "b.h5").exists()


def test_verifying_chunks_that_are_not_decoded(url: str, before_fetching: Arrange) -> None:
    make(url, 1)
    before_fetching(lambda: make(url, 2, overwrite=True))
    with pytest.raises(ChangedError):
        fs.verify(url, deep=True, max_memory=1 << 17)


def test_verifying_where_chunks_are(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(url, 1)
    kind: Any = HDF5Array if url.endswith("h5") else ZarrArray
    plainly, once = kind.refs, [lambda: make(url, 2, overwrite=True)]

    def refs(array: Any, keys: Any, along: Any = None) -> Any:
        found = plainly(array, keys, along)
        array.fetch([found[0].range])  # as if the table of chunks were long
        if once:
            once.pop()()
        return found

    monkeypatch.setattr(kind, "refs", refs)
    with pytest.raises(ChangedError):
        fs.verify(url)


def test_virtualizing(before_fetching: Arrange) -> None:
    url = f"memory://{uuid.uuid4().hex}/a.h5"
    make(url, 1)
    before_fetching(lambda: make(url, 2, overwrite=True))
    with pytest.raises(ChangedError):
        fs.virtualize(url)
    fs.virtualize(url)
    with open_store(f"{url}.refs.json") as store:
        assert store.root.array("a").read().tolist() == [2] * LENGTH
        assert store.root.array("small").read().tolist() == [2] * 8


@pytest.mark.parametrize("where", ["memory", "local"])
def test_changing_maps(tmp_path: Path, before_fetching: Arrange, where: str) -> None:
    """Other software replaces them, which takes no turns."""
    folder = str(tmp_path) if where == "local" else f"memory://{uuid.uuid4().hex}"

    def create(name: str, number: int) -> LabeledVolumeSet:
        values = np.arange(8 * 8 * 8 * 3, dtype="f8").reshape(8, 8, 8, 3) % 7 + number
        return LabeledVolumeSet.create(
            values, f"{folder}/{name}.zarr", labels=list("abc"), space=np.eye(4)
        )

    def replace() -> None:
        if where == "local":
            (tmp_path / "a.zarr").rename(tmp_path / "old.zarr")
            (tmp_path / "b.zarr").rename(tmp_path / "a.zarr")
        else:
            memory = fsspec.filesystem("memory")
            for path in memory.find(f"{folder}/b.zarr"):
                memory.pipe_file(path.replace("/b.zarr", "/a.zarr"), memory.cat_file(path))

    create("b", 100).close()
    with create("a", 1) as maps:
        before_fetching(replace)
        with pytest.raises(ChangedError):
            maps.remove("a")
    with fs.open(f"{folder}/a.zarr") as found:
        assert len(found.labels) == 3
        assert np.asarray(found).min() == 100


@pytest.mark.parametrize("place", ["local zarr", "local h5", "memory zarr", "memory h5"])
def test_what_is_read_late_is_of_the_same_store(tmp_path: Path, place: str) -> None:
    """Nor is it said that something of it is missing."""
    where, _, kind = place.partition(" ")
    url = f"{tmp_path if where == 'local' else f'memory://{uuid.uuid4().hex}'}/a.{kind}"

    def create(number: int, **options: Any) -> None:
        values = np.full((2, 2, 2, 3), number, "i2")
        metadata = {"number": number}
        fs.NeuroVec.create(
            values, url, space=np.eye(4), tr=1.0, metadata=metadata, **options
        ).close()

    create(1)
    run = fs.open(url)
    create(2, overwrite=True)
    for read in (lambda: dict(run.metadata)["number"], lambda: min(1, len(run.header_bytes))):
        try:
            assert read() == 1
        except ChangedError:
            continue
    run.close()
