"""Sizes that a store claims, refused before memory is taken for them."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest

from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.edit import edit_store
from fmristore_stores.errors import (
    CorruptDataError,
    FmristoreError,
    InvalidInputError,
    MemoryLimitError,
)
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.hdf5.text import rows_at_once
from fmristore_stores.limits import LIMITS, check_values
from fmristore_stores.opening import open_store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec

ROOM = 4 * 1024 * 1024
LARGE = (1500, 1500, 1500)


def refused(work: Callable[[], Any], kind: type[FmristoreError] = MemoryLimitError) -> str:
    """Text of the error; hardly any memory may be taken before."""
    tracemalloc.start()
    try:
        with pytest.raises(kind) as caught:
            work()
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["<i2", ">i2"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_chunk_of_gigabytes_is_refused_in_hdf5(
    tmp_path: Path, dtype: str, *, shuffle: bool
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options: Any = {"chunks": LARGE, "compression": "gzip", "shuffle": shuffle}
        file.create_dataset("0", LARGE, dtype, **options)
        file["0"].id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(1000)))
    with open_store(tmp_path / "a.h5") as store:
        reader = ChunkReader(store.root.array("0"))
        text = refused(lambda: reader.read((slice(1, 2),) * 3))
        assert str(2 * 1500**3) in text
        assert "/0" in text


def test_a_chunk_of_gigabytes_is_refused_in_zarr(tmp_path: Path) -> None:
    spec = ArraySpec(
        shape=LARGE,
        dtype=np.dtype("<i2"),
        layout=ChunkLayout(chunks=LARGE),
        codecs=codecs.preset("dual", np.dtype("<i2")),
    )
    with create_store(tmp_path / "a.zarr") as store:
        store.root.create_array("0", spec)
    (tmp_path / "a.zarr/0/c/0/0").mkdir(parents=True)
    (tmp_path / "a.zarr/0/c/0/0/0").write_bytes(bytes(100))
    with open_store(tmp_path / "a.zarr") as store:
        array = store.root.array("0")
        refused(lambda: ChunkReader(array).read((slice(1, 2),) * 3))
        refused(lambda: array.read((slice(1, 2),) * 3))


def test_the_limit_of_a_chunk_can_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ArraySpec(
        shape=(100,),
        dtype=np.dtype("<i2"),
        layout=ChunkLayout(chunks=(50,)),
        codecs=codecs.preset("portable", np.dtype("<i2")),
    )
    with create_store(tmp_path / "a.h5") as store:
        store.root.create_array("0", spec).write(None, np.arange(100))
    with open_store(tmp_path / "a.h5") as store:
        reader = ChunkReader(store.root.array("0"))
        monkeypatch.setattr(LIMITS, "chunk", 99)
        with pytest.raises(MemoryLimitError, match="100 bytes where 99 are allowed"):
            reader.read((slice(1, 2),))
        monkeypatch.setattr(LIMITS, "chunk", 100)
        assert reader.read((slice(1, 2),)).tolist() == [1]


@pytest.mark.parametrize("kind", ["h5", "zarr"])
@pytest.mark.parametrize("dtype", ["<i2", "<U1"])
def test_a_result_that_no_machine_can_hold_is_refused(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    text = dtype == "<U1"
    spec = ArraySpec(
        shape=(1 << 20, 1 << 20, 1 << 10),
        dtype=np.dtype(str) if text else np.dtype(dtype),
        layout=ChunkLayout(chunks=(8, 8, 8)),
    )
    with create_store(tmp_path / f"a.{kind}") as store:
        store.root.create_array("0", spec)
    with open_store(tmp_path / f"a.{kind}") as store:
        array = store.root.array("0")
        assert "read a smaller part" in refused(array.read)
        assert "read a smaller part" in refused(lambda: ChunkReader(array).read())


@pytest.mark.parametrize("name", ["deflate", "gzip"])
def test_a_stream_too_short_for_its_chunk_is_refused(name: str) -> None:
    pipeline = (CodecSpec.of("shuffle", elementsize=2), CodecSpec.of(name, level=4))
    values = np.zeros(20 << 20, np.uint8)
    data = codecs.encode(pipeline, values)
    assert len(bytes(codecs.decode(pipeline, data, values.nbytes))) == values.nbytes
    text = refused(lambda: codecs.decode(pipeline, data, 100 * values.nbytes), CorruptDataError)
    assert "cannot decode to" in text


# Text --------------------------------------------------------------------------------------------


def test_many_texts_that_are_one_long_text_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LIMITS, "text", 20_000)
    values = np.array([f"{n:>1000}" for n in range(60)]).reshape(30, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["names"] = values.astype(object)
    with open_store(tmp_path / "a.h5") as store:
        array = store.root.array("names")
        with pytest.raises(MemoryLimitError, match="have more than 20000 letters"):
            array.read()
        part = (slice(3, 22, 2), slice(1, 2))
        assert array.read(part).tolist() == values[part].tolist()


def test_texts_are_read_at_once_where_they_cannot_be_long() -> None:
    assert rows_at_once((400,), 10_000) >= 400
    assert rows_at_once((400,), LIMITS.text // 80) == 20
    assert rows_at_once((400, 5), LIMITS.text // 80) == 4
    assert rows_at_once((400, 100), 1 << 50) == 1
    assert rows_at_once((), 0) >= 1


# Metadata ----------------------------------------------------------------------------------------


def padded(path: Path, length: int) -> None:
    document = json.loads(path.read_text())
    document["attributes"] = {"filler": "x" * length}
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("node", ["", "0/"])
def test_long_metadata_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: str
) -> None:
    spec = ArraySpec(shape=(4,), dtype=np.dtype("<i2"), layout=ChunkLayout(chunks=(2,)))
    with create_store(tmp_path / "a.zarr") as store:
        store.root.create_array("0", spec)
    monkeypatch.setattr(LIMITS, "document", 20 << 20)
    monkeypatch.setattr(LIMITS, "consolidated", 20 << 20)
    padded(tmp_path / "a.zarr" / node / "zarr.json", 21 << 20)

    def read() -> None:
        with open_store(tmp_path / "a.zarr") as store:
            store.root.array("0")

    assert f"metadata {node}zarr.json have" in refused(read)
    monkeypatch.setattr(LIMITS, "document", 30 << 20)
    monkeypatch.setattr(LIMITS, "consolidated", 30 << 20)
    read()


def test_long_metadata_on_object_storage_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ArraySpec(shape=(4,), dtype=np.dtype("<i2"), layout=ChunkLayout(chunks=(2,)))
    with create_store("memory://limits/a.zarr") as store:
        store.root.create_array("0", spec)
    fs = fsspec.filesystem("memory")
    try:
        monkeypatch.setattr(LIMITS, "consolidated", 100_000)
        monkeypatch.setattr(LIMITS, "document", 50_000)
        document = json.loads(fs.cat_file("/limits/a.zarr/zarr.json"))
        document["attributes"] = {"filler": "x" * (20 << 20)}
        fs.pipe_file("/limits/a.zarr/zarr.json", json.dumps(document).encode())
        del document
        assert "zarr.json" in refused(lambda: open_store("memory://limits/a.zarr"))
    finally:
        fs.rm("/limits", recursive=True)


@pytest.mark.parametrize("url", ["memory://limits/b.zarr", "b.zarr"])
def test_a_store_is_not_published_if_its_metadata_are_too_long_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(LIMITS, "consolidated", 10_000)
    place = url if "://" in url else str(tmp_path / url)

    def write() -> None:
        with create_store(place) as store:
            for number in range(5):
                store.root.create_group(f"g{number}", {"filler": "x" * 4000})

    with pytest.raises(MemoryLimitError, match=r"the metadata zarr\.json have"):
        write()
    assert not fsspec.filesystem("memory").exists("/limits/b.zarr")
    assert not (tmp_path / url).exists()


def test_documents_of_far_more_values_than_letters(tmp_path: Path) -> None:
    """Four letters a value in a million of them, and one for each eight letters."""
    check_values("[" + "1," * (1 << 20) + "1]")
    with pytest.raises(MemoryLimitError, match="a document of 6291459 bytes has 4194305 values"):
        check_values(b"[" + b"[]," * (2 << 20) + b"1]")
    check_values(json.dumps([[1, 2, 3]] * 300_000, indent=2))


def test_attributes_that_could_not_be_read_are_not_written(tmp_path: Path) -> None:
    path = str(tmp_path / "a.h5")
    with HDF5Store(path, mode="w") as store:
        store.root.write_attributes({"a": 1})
        with pytest.raises(InvalidInputError, match="attribute 'b': a document of"):
            store.root.write_attributes({"b": [[0] * (1 << 20), [0] * (1 << 20)]})
        assert store.root.read_attributes() == {"a": 1}


def test_marks_within_texts_are_no_values() -> None:
    check_values(json.dumps({"design": "0,1,0,[{\\" * 1_000_000, "more": ['","'] * 100}))
    with pytest.raises(MemoryLimitError, match=r"LIMITS\.values"):
        check_values(b'{"a": "x", "b": [' + b"[]," * (2 << 20) + b"1]}")


@pytest.mark.parametrize("url", ["a.zarr", "memory://limits/changed.zarr"])
def test_a_change_that_could_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    place = url if "://" in url else str(tmp_path / url)
    monkeypatch.setattr(LIMITS, "document", 10_000)
    monkeypatch.setattr(LIMITS, "consolidated", 30_000)
    with create_store(place) as store:
        store.root.create_group("g", {"a": 1})

    def change(name: str) -> None:
        with edit_store(place) as store:
            node = store.root.group(name) if name else store.root
            node.write_attributes({"filler": "x" * 40_000})

    for name in ("", "g"):
        with pytest.raises(MemoryLimitError, match="have 40"):
            change(name)
    with open_store(place) as store:
        assert store.root.read_attributes() == {}
        assert store.root.group("g").read_attributes() == {"a": 1}


@pytest.mark.parametrize("url", ["a.zarr", "memory://limits/together.zarr"])
def test_metadata_that_are_too_long_together_stay_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    place = url if "://" in url else str(tmp_path / url)
    monkeypatch.setattr(LIMITS, "consolidated", 10_000)
    with create_store(place) as store:
        store.root.create_group("g")
    for number in range(5):
        with edit_store(place) as store:
            store.root.create_group(f"g{number}", {"filler": "x" * 4000})
    with open_store(place) as store:
        assert len(store.root.children()) == 6
        assert store.root.group("g4").read_attributes() == {"filler": "x" * 4000}
