"""The parallel reader against numpy and against the stores' own libraries."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import fsspec
import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmristore_stores.chunks import loader as loading
from fmristore_stores.chunks.cache import CHUNK_CACHE, ENTRY_NBYTES, ChunkCache
from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.codecs import blosc as frames
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import (
    ChangedError,
    CorruptDataError,
    FmristoreError,
    MemoryLimitError,
    SelectionError,
)
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.io.stats import stats_of
from fmristore_stores.opening import Handle, locate, open_store
from fmristore_stores.protocol import Array, Capability, Store
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec
from fmristore_stores.testing.wrappers import CountingStore
from fmristore_stores.zarr.store import ZarrStore

SHAPE = (7, 9, 10)
VALUES = np.arange(7 * 9 * 10, dtype="<i2").reshape(SHAPE)
CHUNKS = (3, 4, 5)
DTYPE = np.dtype("<i2")
BIG = np.random.default_rng(0).integers(0, 3000, (41, 67, 300)).astype("i2")
"""More than 1 MiB, along axes of lengths that have few divisors."""
INLINE_BYTES = loading._INLINE_BYTES
"""As it is but for most tests here."""


def make_spec(codec: str = "dual", **layout: Any) -> ArraySpec:
    return ArraySpec(
        shape=SHAPE,
        dtype=DTYPE,
        layout=ChunkLayout(chunks=CHUNKS, **layout),
        codecs=codecs.preset(codec, DTYPE),
        fill_value=-7,
    )


def hdf5(folder: Path, spec: ArraySpec) -> Store:
    with HDF5Store(str(folder / "a.h5"), mode="w") as store:
        store.root.create_array("0", spec).write(None, VALUES)
    return HDF5Store(str(folder / "a.h5"), mode="r")


def local_zarr(folder: Path, spec: ArraySpec) -> Store:
    with ZarrStore(str(folder / "a.zarr"), mode="w") as store:
        store.root.create_array("0", spec).write(None, VALUES)
    return ZarrStore(str(folder / "a.zarr"))


def memory_zarr(folder: Path, spec: ArraySpec) -> Store:
    fs = fsspec.filesystem("memory")
    place = f"/{uuid.uuid4().hex}"
    with ZarrStore(place, mode="w", fs=fs) as store:
        store.root.create_array("0", spec).write(None, VALUES)
    return ZarrStore(place, fs=fs)


def memory_hdf5(folder: Path, spec: ArraySpec) -> Store:
    hdf5(folder, spec).close()
    url = f"memory://{uuid.uuid4().hex}.h5"
    fsspec.filesystem("memory").pipe_file(url, (folder / "a.h5").read_bytes())
    return open_store(url)


def foreign_hdf5(folder: Path, **options: Any) -> Store:
    """A dataset as h5py makes it."""
    with h5py.File(folder / "f.h5", "w") as file:
        file.create_dataset("0", data=VALUES, fillvalue=-7, **options)
    return HDF5Store(str(folder / "f.h5"), mode="r")


def format_2(folder: Path, order: Any) -> Store:
    root = zarr.create_group(folder / "two.zarr", zarr_format=2)
    root.create_array("0", shape=SHAPE, chunks=CHUNKS, dtype=DTYPE, order=order)[...] = VALUES
    return ZarrStore(str(folder / "two.zarr"))


Maker = Callable[[Path], Store]
DIRECT: dict[str, Maker] = {
    "hdf5": lambda f: hdf5(f, make_spec()),
    "hdf5 portable": lambda f: hdf5(f, make_spec("portable")),
    "hdf5 plain": lambda f: hdf5(f, make_spec("none")),
    "hdf5 contiguous": foreign_hdf5,
    "hdf5 fletcher32": lambda f: foreign_hdf5(f, chunks=CHUNKS, fletcher32=True),
    "hdf5 blosc": lambda f: foreign_hdf5(f, chunks=CHUNKS, **hdf5plugin.Blosc(cname="lz4")),
    "zarr": lambda f: local_zarr(f, make_spec()),
    "zarr plain": lambda f: local_zarr(f, make_spec("none")),
    "zarr transposed": lambda f: local_zarr(f, make_spec(order=(2, 0, 1))),
    "zarr sharded": lambda f: local_zarr(f, make_spec(shards=(6, 8, 10))),
    "zarr both": lambda f: local_zarr(f, make_spec(shards=(6, 4, 10), order=(1, 2, 0))),
    "remote zarr": lambda f: memory_zarr(f, make_spec(shards=(6, 8, 10), order=(1, 2, 0))),
    "remote hdf5": lambda f: memory_hdf5(f, make_spec()),
}
FALLBACK: dict[str, Maker] = {
    "hdf5 lzf": lambda f: foreign_hdf5(f, chunks=CHUNKS, compression="lzf"),
    "hdf5 scaleoffset": lambda f: foreign_hdf5(f, chunks=CHUNKS, scaleoffset=0),
    "zarr format 2": lambda f: format_2(f, "C"),
    "zarr format 2 reversed": lambda f: format_2(f, "F"),
}
ALL = DIRECT | FALLBACK


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMRISTORE_WORKERS", "3")
    monkeypatch.setattr("fmristore_stores.chunks.loader._INLINE_BYTES", 0)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    opened = {name: make(tmp_path_factory.mktemp("stores")) for name, make in ALL.items()}
    yield opened
    for store in opened.values():
        store.close()


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n, 1) for n in shape)


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, ...] = SHAPE) -> tuple[slice, ...]:
    parts = []
    for length in shape:
        start = draw(st.integers(0, length))
        stop = draw(st.integers(start, length))
        parts.append(slice(start, stop, draw(st.integers(1, length))))
    return tuple(parts)


# Right numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@given(region=regions())
def test_any_region_is_the_slice_of_the_whole(
    stores: dict[str, Store], name: str, region: tuple[slice, ...]
) -> None:
    array = stores[name].root.array("0")
    assert (Capability.CHUNK_REFS in array.capabilities) == (name in DIRECT)
    reader = ChunkReader(array, cache=ChunkCache(0))
    found = reader.read(region)
    np.testing.assert_array_equal(found, VALUES[region])
    if name in DIRECT:
        assert found.transpose(array.spec.layout.axes).flags.c_contiguous
    assert found.base is None or found.base.flags.owndata  # nothing that others will read
    np.testing.assert_array_equal(array.read(region), VALUES[region])
    out = np.zeros((*VALUES[region].shape[::-1],), DTYPE).T
    assert reader.read(region, out) is out
    np.testing.assert_array_equal(out, VALUES[region])


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=20)
@given(wanted=st.lists(regions(), max_size=4))
def test_several_regions_are_the_slices_of_the_whole(
    stores: dict[str, Store], name: str, wanted: list[tuple[slice, ...]]
) -> None:
    reader = ChunkReader(stores[name].root.array("0"), cache=ChunkCache(0))
    outs = [np.zeros(VALUES[region].shape, DTYPE) for region in wanted]
    reader.read_regions(wanted, outs)
    for out, region in zip(outs, wanted, strict=True):
        np.testing.assert_array_equal(out, VALUES[region])


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=20)
@given(data=st.data())
def test_any_points_are_those_of_the_whole(
    stores: dict[str, Store], name: str, data: st.DataObject
) -> None:
    axes = data.draw(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=3, unique=True))
    position = st.tuples(*(st.integers(0, SHAPE[a] - 1) for a in axes))
    points = np.array(data.draw(st.lists(position, max_size=30)), int).reshape(-1, len(axes))
    others = [a for a in range(3) if a not in axes]
    region = data.draw(st.none() | regions(tuple(SHAPE[a] for a in others)))
    inside = region or whole(tuple(SHAPE[a] for a in others))
    moved = VALUES.transpose([*axes, *others])
    wanted = moved[tuple(points.T)][(slice(None), *inside)]
    reader = ChunkReader(stores[name].root.array("0"), cache=ChunkCache(10_000))
    np.testing.assert_array_equal(reader.read_points(axes, points, region), wanted)
    np.testing.assert_array_equal(reader.read_points(axes, points, region), wanted)


@pytest.mark.parametrize("name", ["hdf5", "zarr both", "hdf5 lzf"])
def test_what_does_not_fit_is_refused(stores: dict[str, Store], name: str) -> None:
    reader = ChunkReader(stores[name].root.array("0"))
    for region in ((slice(0, 1),), (slice(0, 8), slice(0, 9), slice(0, 10))):
        with pytest.raises(SelectionError):
            reader.read(region)
    with pytest.raises(SelectionError):
        reader.read(None, np.zeros((7, 9, 9), DTYPE))
    with pytest.raises(SelectionError):
        reader.read(None, np.zeros(SHAPE, "f4"))
    with pytest.raises(SelectionError):
        reader.read_regions([(slice(0, 8),) * 3], [VALUES])
    with pytest.raises(SelectionError):
        reader.read_regions([whole(SHAPE)], [np.zeros(SHAPE, "f4")])
    for points in ([[7, 0]], [[0, -1]], [[0, 9]]):
        with pytest.raises(SelectionError):
            reader.read_points((0, 1), np.array(points))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,)])
@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_odd_shapes(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    values = 1 + np.arange(int(np.prod(shape)), dtype="f4").reshape(shape)
    layout = ChunkLayout(chunks=tuple(max(n, 1) for n in shape))
    with create_store(tmp_path / f"a.{'h5' if kind == 'hdf5' else 'zarr'}") as new:
        new.root.create_array("0", ArraySpec(shape=shape, dtype="f4", layout=layout)).write(  # type: ignore[arg-type]
            None, values
        )
        url = new.url
    with open_store(url) as store:
        reader = ChunkReader(store.root.array("0"))
        found = reader.read()
        assert found.shape == shape
        np.testing.assert_array_equal(found, values)
        out = np.zeros(shape, "f4")
        assert reader.read(out=out) is out
        np.testing.assert_array_equal(out, values)
        if shape:
            points = np.zeros((2, 1), int)[: shape[0] * 2]
            assert reader.read_points((0,), points).shape == (len(points), *shape[1:])
        assert reader.cost().returned_bytes == values.nbytes


def test_a_result_that_no_memory_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("0", (2**40, 2**20), "f8", chunks=(2**10, 2**10), compression="gzip")
    with open_store(tmp_path / "a.h5") as store:
        reader = ChunkReader(store.root.array("0"))
        with pytest.raises(MemoryLimitError):
            reader.read()
        assert reader.read_points((0, 1), np.array([[2**40 - 1, 2**20 - 1], [5, 5]])).sum() == 0


@pytest.mark.parametrize("error", [MemoryError("out"), MemoryLimitError("no memory to decode in")])
def test_a_chunk_that_there_is_no_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with create_store(tmp_path / "a.zarr") as new:
        new.root.create_array("0", make_spec()).write(None, VALUES)
    with open_store(tmp_path / "a.zarr") as store:
        reader = ChunkReader(store.root.array("0"), url=store.url)
        monkeypatch.setattr(codecs, "decode", fail)
        with pytest.raises(MemoryLimitError, match=r"chunk \(\d, \d, \d\) .* memory") as raised:
            reader.read()
    assert (raised.value.url, raised.value.node) == (store.url, "0")


# Chunks that are missing, partly filtered, or damaged --------------------------------------------


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "shards"])
@pytest.mark.parametrize("codec", ["dual", "none"])
def test_missing_chunks_are_fill_values_or_an_error(tmp_path: Path, kind: str, codec: str) -> None:
    spec = make_spec(codec, **({"shards": (6, 8, 10)} if kind == "shards" else {}))
    url = str(tmp_path / ("a.h5" if kind == "hdf5" else "a.zarr"))
    with create_store(url) as new:
        array = new.root.create_array("0", spec)
        array.write((slice(0, 3), slice(0, 4), slice(0, 5)), VALUES[:3, :4, :5])
    wanted = np.full(SHAPE, -7, DTYPE)
    wanted[:3, :4, :5] = VALUES[:3, :4, :5]
    with open_store(url) as store:
        array = store.root.array("0")
        filling, strict = ChunkReader(array), ChunkReader(array, missing="error")
        np.testing.assert_array_equal(filling.read(), wanted)
        points = np.array([[0, 0], [6, 8]])
        np.testing.assert_array_equal(
            filling.read_points((0, 1), points), wanted[points[:, 0], points[:, 1]]
        )
        inside = (slice(0, 3), slice(1, 2), slice(0, 5))
        np.testing.assert_array_equal(strict.read(inside), VALUES[inside])
        # The library may have written every chunk of the shard it touched.
        last = (slice(6, 7), slice(8, 9), slice(0, 10))
        with pytest.raises(CorruptDataError, match="missing"):
            strict.read(last)
        outs = [np.zeros((1, 1, 10), DTYPE) for _ in range(2)]
        with pytest.raises(CorruptDataError, match="missing"):
            strict.read_regions([last, last], outs)
        filling.read_regions([last, last], outs)
        assert (np.stack(outs) == -7).all()
        assert filling.cost(last).missing == 2


def test_chunks_that_lack_filters(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        node = file.create_dataset("0", (6,), "<i2", chunks=(3,), compression="gzip", shuffle=True)
        node.id.write_direct_chunk((0,), VALUES.reshape(-1)[:3].tobytes(), 3)
        node[3:] = VALUES.reshape(-1)[3:6]
    with open_store(tmp_path / "a.h5") as store:
        array = store.root.array("0")
        ref, _ = array.refs([(0,), (1,)])  # type: ignore[attr-defined]
        assert ref.skip == 3
        np.testing.assert_array_equal(ChunkReader(array).read(), VALUES.reshape(-1)[:6])


def damage(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.clear(),
        lambda data: data.__delitem__(slice(len(data) // 2, None)),
        lambda data: data.__setitem__(0, 255),
        lambda data: data.extend(bytes(10_000_000)),
    ],
)
@pytest.mark.parametrize("codec", ["dual", "none"])
def test_a_damaged_chunk_is_named(
    tmp_path: Path, codec: str, change: Callable[[bytearray], object]
) -> None:
    local_zarr(tmp_path, make_spec(codec)).close()
    path = tmp_path / "a.zarr/0/c/1/0/1"
    before = path.stat().st_size
    damage(path, change)
    if codec == "none" and path.stat().st_size == before:
        return  # nobody can know
    with open_store(tmp_path / "a.zarr") as store:
        reader = ChunkReader(store.root.array("0"))
        with pytest.raises(CorruptDataError, match=r"\(1, 0, 1\)"):
            reader.read()
        points = np.array([[3, 0, 5], [0, 0, 0]])
        with pytest.raises(CorruptDataError, match=r"\(1, 0, 1\)"):
            reader.read_points((0, 1, 2), points)
        ours = reader.read((slice(0, 3), slice(0, 9), slice(0, 10)))
        np.testing.assert_array_equal(ours, VALUES[:3])


def test_a_large_chunk_that_is_not_encoded_has_the_right_length(tmp_path: Path) -> None:
    spec = ArraySpec(shape=BIG.shape, dtype=DTYPE, layout=ChunkLayout(chunks=BIG.shape))
    with create_store(tmp_path / "a.zarr") as new:
        new.root.create_array("0", spec).write(None, BIG)
    damage(tmp_path / "a.zarr/0/c/0/0/0", lambda data: data.pop())
    with open_store(tmp_path / "a.zarr") as store, pytest.raises(CorruptDataError, match="bytes"):
        ChunkReader(store.root.array("0")).read((slice(0, 1),) * 3)


# What is fetched and decoded ---------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every chunk, or part of one, that is decoded during the test."""
    counts: list[int] = []
    lock = threading.Lock()
    decode, decode_part = codecs.decode, frames.decode_part

    @functools.wraps(decode)
    def counting(*args: Any, **kwargs: Any) -> Any:
        found = decode(*args, **kwargs)
        with lock:
            counts.append(memoryview(found).nbytes)
        return found

    @functools.wraps(decode_part)
    def counting_part(*args: Any, **kwargs: Any) -> Any:
        found = decode_part(*args, **kwargs)
        if found is not None:
            with lock:
                counts.append(memoryview(found[0]).nbytes)
        return found

    monkeypatch.setattr(codecs, "decode", counting)
    monkeypatch.setattr(loading, "decode_part", counting_part)
    return counts


def test_a_decoded_chunk_is_not_decoded_again(stores: dict[str, Store], decoded: list[int]) -> None:
    for name in DIRECT:
        if not stores[name].root.array("0").spec.codecs:
            continue  # there is nothing to decode
        cache = ChunkCache(1 << 20)
        reader = ChunkReader(stores[name].root.array("0"), cache=cache)
        reader.read()
        first = len(decoded)
        assert cache.nbytes == sum(decoded) + first * ENTRY_NBYTES
        reader.read()
        reader.read((slice(0, 7, 3), slice(2, 9), slice(4, 5)))
        reader.read_points((0, 2), np.array([[0, 0], [6, 9]]))
        assert len(decoded) == first, name
        other = ChunkReader(stores[name].root.array("0"), cache=cache)
        other.read((slice(0, 1),) * 3)
        assert len(decoded) == first + 1
        decoded.clear()


@pytest.mark.parametrize(("codec", "times"), [("dual", [6, 6, 0]), ("portable", [6, 0, 0])])
@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_what_a_long_read_decodes_is_kept_when_it_is_wanted_again(
    tmp_path: Path, kind: str, codec: str, times: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_LONG_BYTES", 100)
    make = hdf5 if kind == "hdf5" else local_zarr
    with make(tmp_path, make_spec(codec)) as store:
        cache = ChunkCache(1 << 20)
        reader = ChunkReader(store.root.array("0"), cache=cache, url=store.url)
        region = np.s_[0:7:1, 0:8:1, 3:4:1]
        chunks = []
        for _ in times:
            with stats_of(store.url).watch() as counted:
                np.testing.assert_array_equal(reader.read(region), VALUES[region])
            chunks.append(counted.chunks)
        assert chunks == times


@pytest.mark.parametrize("codec", ["dual", "fast", "portable", "none"])
@pytest.mark.parametrize("order", [(), (0, 2, 1)])
def test_chunks_that_lie_in_one_run_of_the_result_are_decoded_there(
    tmp_path: Path, codec: str, order: tuple[int, ...]
) -> None:
    spec = ArraySpec(
        shape=SHAPE,
        dtype=DTYPE,
        layout=ChunkLayout(chunks=(2, 9, 10), order=order),
        codecs=codecs.preset(codec, DTYPE),
    )
    with ZarrStore(str(tmp_path / "a.zarr"), mode="w") as store:
        store.root.create_array("0", spec).write(None, VALUES)
    with open_store(tmp_path / "a.zarr") as store:
        reader = ChunkReader(store.root.array("0"), cache=ChunkCache(0))
        np.testing.assert_array_equal(reader.read(), VALUES)
        for out in (np.zeros(SHAPE, DTYPE), np.zeros(SHAPE, DTYPE, order="F")):
            assert reader.read(out=out) is out
            np.testing.assert_array_equal(out, VALUES)
        part = (slice(1, 7), slice(0, 9), slice(0, 10, 3))
        np.testing.assert_array_equal(reader.read(part), VALUES[part])


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_chunks_without_codecs_that_fill_the_result_are_neither_copied_nor_kept(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(make_spec("none"), layout=ChunkLayout(chunks=(1, 9, 10)))
    made = (hdf5 if kind == "hdf5" else local_zarr)(tmp_path, spec)
    cache = ChunkCache(1 << 20)
    reader = ChunkReader(made.root.array("0"), cache=cache)
    monkeypatch.setattr(loading.ChunkLoader, "_keep", lambda *_: pytest.fail("kept"))
    monkeypatch.setattr(loading.ChunkRead, "place", None)  # nothing is copied from elsewhere
    result = reader.read()
    np.testing.assert_array_equal(result, VALUES)
    assert cache.nbytes == 0
    made.close()


@pytest.mark.parametrize("layout", [{}, {"shards": (4, 9, 10)}, {"order": (0, 2, 1)}])
def test_whole_chunks_without_codecs_that_follow_each_other(
    tmp_path: Path, layout: dict[str, Any]
) -> None:
    spec = replace(make_spec("none"), layout=ChunkLayout(chunks=(1, 9, 10), **layout))
    written = slice(2, 6)
    with create_store(tmp_path / "a.zarr") as new:
        new.root.create_array("0", spec).write((written, slice(0, 9), slice(0, 10)), VALUES[2:6])
    wanted = np.full(SHAPE, -7, DTYPE)
    wanted[written] = VALUES[written]
    with open_store(tmp_path / "a.zarr") as store:
        filling = ChunkReader(store.root.array("0"))
        strict = ChunkReader(store.root.array("0"), missing="error")
        for start, stop in ((0, 7), (1, 4), (2, 6), (5, 7)):
            region = (slice(start, stop), slice(0, 9), slice(0, 10))
            np.testing.assert_array_equal(filling.read(region), wanted[start:stop])
            out = np.zeros((stop - start, 10, 9), DTYPE).transpose(0, 2, 1)
            filling.read(region, out=out)
            np.testing.assert_array_equal(out, wanted[start:stop])
            if (start, stop) != (2, 6):
                with pytest.raises(CorruptDataError, match="missing"):
                    strict.read(region)
        np.testing.assert_array_equal(
            strict.read((written, slice(0, 9), slice(0, 10))), VALUES[written]
        )


@pytest.mark.parametrize("change", [lambda data: data.pop(), lambda data: data.extend(b"more")])
def test_a_damaged_chunk_among_whole_ones_is_named(
    tmp_path: Path, change: Callable[[bytearray], object]
) -> None:
    spec = replace(make_spec("none"), layout=ChunkLayout(chunks=(1, 9, 10)))
    local_zarr(tmp_path, spec).close()
    damage(tmp_path / "a.zarr/0/c/3/0/0", change)
    with (
        open_store(tmp_path / "a.zarr") as store,
        pytest.raises(CorruptDataError, match=r"\(3, 0, 0\)"),
    ):
        ChunkReader(store.root.array("0")).read()


def test_the_limit_of_the_cache_is_kept_by_several_readers(
    stores: dict[str, Store], decoded: list[int]
) -> None:
    chunk = 3 * 4 * 5 * 2
    cache = ChunkCache(5 * (chunk + ENTRY_NBYTES))
    readers = [ChunkReader(stores[name].root.array("0"), cache=cache) for name in DIRECT]
    for reader in readers:
        for k in range(9):
            reader.read((slice(0, 7), slice(k, k + 1), slice(0, 5)))
            assert 0 < cache.nbytes <= cache.limit
    # More than fits is not kept at all, so that one large read does not push out everything.
    before = cache.nbytes
    reader = ChunkReader(stores["zarr"].root.array("0"), cache=cache)
    reader.read()
    assert cache.nbytes == before


def test_points_in_one_chunk_decode_it_once(stores: dict[str, Store], decoded: list[int]) -> None:
    reader = ChunkReader(stores["hdf5"].root.array("0"), cache=ChunkCache(0))
    points = np.array([[0, 0], [2, 3], [1, 1], [0, 0], [3, 0]])
    reader.read_points((0, 1), points, (slice(0, 5, 1),))
    assert len(decoded) == 2


def test_several_regions_decode_each_chunk_once(
    stores: dict[str, Store], decoded: list[int]
) -> None:
    reader = ChunkReader(stores["hdf5"].root.array("0"), cache=ChunkCache(0))
    regions = [(slice(a, a + 2), slice(0, 4), slice(1, 6)) for a in (0, 1, 2, 2)]
    outs = [np.zeros((2, 4, 5), DTYPE) for _ in regions]
    reader.read_regions(regions, outs)
    for out, region in zip(outs, regions, strict=True):
        np.testing.assert_array_equal(out, VALUES[region])
    assert len(decoded) == 2 * 1 * 2


@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_a_part_of_a_large_blosc_chunk_is_decoded_alone(
    tmp_path: Path, kind: str, decoded: list[int]
) -> None:
    spec = ArraySpec(
        shape=BIG.shape,
        dtype=DTYPE,
        layout=ChunkLayout(chunks=BIG.shape),
        codecs=codecs.preset("dual", DTYPE),
    )
    url = tmp_path / ("a.h5" if kind == "hdf5" else "a.zarr")
    with create_store(url) as new:
        new.root.create_array("0", spec).write(None, BIG)
    with open_store(url) as store:
        reader = ChunkReader(store.root.array("0"), cache=ChunkCache(1 << 24))
        decoded.clear()
        region = (slice(20, 21), slice(3, 60, 7), slice(5, 300))
        np.testing.assert_array_equal(reader.read(region), BIG[region])
        assert len(decoded) == 1
        assert 2 * 67 * 300 <= decoded[0] < BIG.nbytes / 4
        # Wanted a second time, the chunk is worth keeping whole.
        np.testing.assert_array_equal(reader.read(region), BIG[region])
        assert decoded[1:] == [BIG.nbytes]
        np.testing.assert_array_equal(reader.read(region), BIG[region])
        assert len(decoded) == 2


@pytest.mark.parametrize(("codec", "alone"), [("dual", 4), ("portable", 1)])
def test_few_chunks_are_decoded_by_the_thread_that_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, alone: int
) -> None:
    monkeypatch.setattr(loading, "_INLINE_BYTES", INLINE_BYTES)
    threads: set[int] = set()
    decode = codecs.decode

    def noted(*args: Any, **kwargs: Any) -> Any:
        threads.add(threading.get_ident())
        time.sleep(0.01)  # for others to get their part
        return decode(*args, **kwargs)

    monkeypatch.setattr(codecs, "decode", noted)
    values = np.resize(BIG, (16, 256, 512))  # 4 MiB, in chunks of half a MiB
    spec = ArraySpec(
        shape=values.shape,
        dtype=DTYPE,
        layout=ChunkLayout(chunks=(2, 256, 512)),
        codecs=codecs.preset(codec, DTYPE),
    )
    with create_store(tmp_path / "a.h5") as new:
        new.root.create_array("0", spec).write(None, values)
    with open_store(tmp_path / "a.h5") as store:
        for count in range(1, 9):
            threads.clear()
            region = (slice(0, 2 * count), slice(None), slice(None))
            reader = ChunkReader(store.root.array("0"), cache=ChunkCache(0))
            np.testing.assert_array_equal(reader.read(region), values[region])
            assert (threads == {threading.get_ident()}) == (count <= alone)


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "shards"])
def test_of_chunks_that_are_not_encoded_only_what_is_wanted_is_read(
    tmp_path: Path, kind: str
) -> None:
    """And nothing is kept of them: reading them again is as cheap as a cache."""
    layout = {"shards": (6, 8, 10)} if kind == "shards" else {}
    make = hdf5 if kind == "hdf5" else local_zarr
    cache = ChunkCache(1 << 20)
    with CountingStore(make(tmp_path, make_spec("none", **layout))) as counting:
        reader = ChunkReader(counting.root.array("0"), cache=cache)
        reader.read()  # where the chunks lie is known from now on
        for region, fetched in (
            ((slice(4, 5), slice(5, 6), slice(6, 9)), 6),
            ((slice(4, 5), slice(4, 6), slice(6, 7)), 12),
            ((slice(3, 6, 2), slice(4, 8, 3), slice(5, 10, 2)), 120),
            ((slice(0, 1), slice(0, 9), slice(0, 10)), 4 * 40 + 2 * 10),
        ):
            counting.reset()
            found = reader.read(region)
            np.testing.assert_array_equal(found, VALUES[region])
            found[...] = 0  # nobody else's memory
            np.testing.assert_array_equal(reader.read(region), VALUES[region])
            assert counting.counts.total.bytes_fetched == 2 * fetched
    assert cache.nbytes == 0


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "shards"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_file_of_chunks_that_are_not_encoded_may_be_cut_off(
    tmp_path: Path, kind: str, whole: bool
) -> None:
    layout = {"shards": (6, 8, 10)} if kind == "shards" else {}
    store = (hdf5 if kind == "hdf5" else local_zarr)(tmp_path, make_spec("none", **layout))
    with store:
        array: Any = store.root.array("0")
        reader = ChunkReader(array, cache=ChunkCache(0))
        reader.read()
        key = (0, 1, 1)
        (ref,) = array.refs([key])
        with open(ref.range.source, "r+b") as file:  # noqa: PTH123
            file.truncate(ref.range.offset + 4)
        block = (slice(0, 3), slice(4, 8), slice(5, 10))
        inside = (slice(2, 3), slice(7, 8), slice(5, 10))
        with pytest.raises((CorruptDataError, ChangedError)):
            reader.read(block if whole else inside)
        with pytest.raises((CorruptDataError, ChangedError)):
            reader.read_points((0, 1), np.array([[0, 0], [2, 7]]))
        with pytest.raises((CorruptDataError, ChangedError)):
            reader.read()


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "shards", "transposed"])
@pytest.mark.parametrize("gap", [0, 30])
@pytest.mark.parametrize("most", [1, 20, 1 << 20])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_points_of_chunks_that_are_not_encoded(
    tmp_path_factory: pytest.TempPathFactory, kind: str, gap: int, most: int, data: st.DataObject
) -> None:
    """However far apart bytes are still read along, and however many at once."""
    axes = data.draw(st.permutations([0, 1, 2]))[: data.draw(st.integers(1, 3))]
    position = st.tuples(*(st.integers(0, SHAPE[a] - 1) for a in axes))
    points = np.array(data.draw(st.lists(position, max_size=30)), int).reshape(-1, len(axes))
    others = [a for a in range(3) if a not in axes]
    region = data.draw(regions(tuple(SHAPE[a] for a in others)))
    layout = {"shards": {"shards": (6, 8, 10)}, "transposed": {"order": (2, 0, 1)}}.get(kind, {})
    make = hdf5 if kind == "hdf5" else local_zarr
    wanted = VALUES.transpose([*axes, *others])[tuple(points.T)][(slice(None), *region)]
    with (
        pytest.MonkeyPatch.context() as patch,
        CountingStore(make(tmp_path_factory.mktemp("a"), make_spec("none", **layout))) as store,
    ):
        patch.setattr("fmristore_stores.chunks.points._GAP", gap)
        patch.setattr(loading, "_SCRATCH_BYTES", most)
        patch.setattr(loading, "INLINE_COPY", most)
        patch.setattr(loading, "SHORT", most)
        reader = ChunkReader(store.root.array("0"))
        cost = reader.cost_points(axes, points, region)
        store.reset()
        np.testing.assert_array_equal(reader.read_points(axes, points, region), wanted)
        seen = store.counts.total
        assert (cost.requests, cost.fetched_bytes) == (seen.ranges, seen.bytes_fetched)
        assert cost.returned_bytes == wanted.nbytes


@pytest.mark.parametrize("kind", ["hdf5", "zarr", "shards"])
@pytest.mark.parametrize("missing", ["fill", "error"])
def test_points_of_chunks_that_were_never_written(
    tmp_path: Path, kind: str, missing: Literal["fill", "error"]
) -> None:
    layout = {"shards": (6, 8, 10)} if kind == "shards" else {}
    store: Any
    with (
        HDF5Store(str(tmp_path / "a.h5"), mode="w")
        if kind == "hdf5"
        else ZarrStore(str(tmp_path / "a.zarr"), mode="w")
    ) as store:
        array = store.root.create_array("0", make_spec("none", **layout))
        array.write((slice(0, 3), slice(0, 4), slice(0, 10)), VALUES[:3, :4])
    store = (
        HDF5Store(str(tmp_path / "a.h5"), mode="r")
        if kind == "hdf5"
        else ZarrStore(str(tmp_path / "a.zarr"))
    )
    wanted = np.full_like(VALUES, -7)
    wanted[:3, :4] = VALUES[:3, :4]
    points = np.array([[0, 0], [6, 8], [2, 3], [0, 5], [1, 1]])
    with store:
        reader = ChunkReader(store.root.array("0"), missing=missing)
        cost = reader.cost_points((0, 1), points)
        assert (cost.chunks, cost.missing) == (2, 4)
        if missing == "error":
            with pytest.raises(CorruptDataError, match="missing"):
                reader.read_points((0, 1), points)
        else:
            np.testing.assert_array_equal(
                reader.read_points((0, 1), points), wanted[tuple(points.T)]
            )


@pytest.mark.parametrize("kind", ["contiguous", "hdf5", "zarr", "transposed", "remote"])
def test_large_arrays_that_are_not_encoded_are_read_in_pieces(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmristore_stores.chunks.subchunks._LARGE_BYTES", 100_000)
    store: Store
    order = (1, 2, 0) if kind == "transposed" else ()
    chunks = BIG.shape if kind in ("contiguous", "remote") else (41, 34, 300)
    if kind in ("contiguous", "remote", "hdf5"):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("0", data=BIG, chunks=None if chunks == BIG.shape else chunks)
        store = HDF5Store(str(tmp_path / "a.h5"), mode="r")
        if kind == "remote":
            url = f"memory://{uuid.uuid4().hex}.h5"
            fsspec.filesystem("memory").pipe_file(url, (tmp_path / "a.h5").read_bytes())
            store = open_store(url)
    else:
        layout = ChunkLayout(chunks=chunks, order=order)
        with create_store(tmp_path / "a.zarr") as new:
            new.root.create_array(
                "0", ArraySpec(shape=BIG.shape, dtype=DTYPE, layout=layout)
            ).write(None, BIG)
        store = ZarrStore(str(tmp_path / "a.zarr"))
    with CountingStore(store) as counting:
        reader = ChunkReader(counting.root.array("0"), cache=ChunkCache(0))
        np.testing.assert_array_equal(reader.read(), BIG)
        assert counting.counts.total.bytes_fetched >= BIG.nbytes
        for region in (
            (slice(20, 21), slice(9, 10), slice(0, 300)),
            (slice(0, 41, 10), slice(66, 67), slice(7, 8)),
            (slice(40, 41), slice(60, 67), slice(290, 300)),
        ):
            counting.reset()
            np.testing.assert_array_equal(reader.read(region), BIG[region])
            assert counting.counts.total.bytes_fetched <= BIG.nbytes / 4
            assert counting.counts.total.bytes_fetched == reader.cost(region).fetched_bytes
        points = np.array([[0, 0], [40, 66], [20, 3]])
        counting.reset()
        found = reader.read_points((0, 1), points)
        np.testing.assert_array_equal(found, BIG[points[:, 0], points[:, 1]])
        cost = reader.cost_points((0, 1), points)
        assert counting.counts.total.bytes_fetched == cost.fetched_bytes
        if kind != "transposed":
            assert cost.fetched_bytes is not None
            assert cost.fetched_bytes <= 6 * 64 * 1024


@pytest.mark.parametrize("name", DIRECT)
@settings(max_examples=20)
@given(region=regions(), points=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9))))
def test_the_cost_is_what_a_counting_store_sees(
    stores: dict[str, Store], name: str, region: tuple[slice, ...], points: list[tuple[int, int]]
) -> None:
    counting = CountingStore(stores[name])
    reader = ChunkReader(counting.root.array("0"), cache=ChunkCache(0))
    where = np.array(points, int).reshape(-1, 2)
    for cost, read, arguments in (
        (reader.cost(region), reader.read, (region,)),
        (reader.cost_points((0, 2), where), reader.read_points, ((0, 2), where)),
    ):
        counting.reset()
        found = read(*arguments)
        seen = counting.counts.total
        assert cost.returned_bytes == found.nbytes
        assert cost.requests == seen.ranges
        assert cost.fetched_bytes == seen.bytes_fetched
        if not name.startswith("remote"):
            assert cost.chunks == seen.chunks_fetched
            assert cost.encoded_bytes == seen.bytes_fetched
        assert cost.missing == 0
        assert seen.reads == 0


def test_the_cost_where_a_library_reads(stores: dict[str, Store]) -> None:
    cost = ChunkReader(stores["hdf5 lzf"].root.array("0")).cost(
        (slice(0, 4), slice(0, 4), slice(0, 5))
    )
    assert (cost.chunks, cost.requests, cost.encoded_bytes) == (2, None, None)
    assert cost.decoded_bytes == 2 * 3 * 4 * 5 * 2


def test_what_may_change_is_not_kept(tmp_path: Path) -> None:
    local_zarr(tmp_path, make_spec()).close()
    with ZarrStore(str(tmp_path / "a.zarr"), mode="r+") as store:
        array = store.root.array("0")
        assert Capability.CHUNK_REFS in array.capabilities
        reader = ChunkReader(array)
        np.testing.assert_array_equal(reader.read(), VALUES)
        array.write(None, VALUES + 1)
        np.testing.assert_array_equal(reader.read(), VALUES + 1)


# Threads, processes, replaced files --------------------------------------------------------------


def test_many_threads_share_a_reader(stores: dict[str, Store]) -> None:
    failures: list[BaseException] = []

    def work(array: Array, seed: int) -> None:
        rng = np.random.default_rng(seed)
        reader = ChunkReader(array)
        try:
            for _ in range(30):
                low = [int(rng.integers(0, n)) for n in SHAPE]
                region = tuple(
                    slice(a, int(rng.integers(a, n)) + 1, 1)
                    for a, n in zip(low, SHAPE, strict=True)
                )
                np.testing.assert_array_equal(reader.read(region), VALUES[region])
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)

    arrays = [store.root.array("0") for store in stores.values()]
    threads = [
        threading.Thread(target=work, args=(array, seed))
        for seed, array in enumerate([*arrays, *arrays])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def read_there(handle: Handle, result: Any) -> None:
    try:
        values = ChunkReader(handle.store.root.array("0")).read()
        result.put(bool((values == VALUES).all()))
    except FmristoreError as error:
        result.put(repr(error))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["hdf5", "zarr"])
def test_handles_work_in_other_processes(tmp_path: Path, kind: str, method: str) -> None:
    make = hdf5 if kind == "hdf5" else local_zarr
    make(tmp_path, make_spec()).close()
    handle = Handle(locate(tmp_path / ("a.h5" if kind == "hdf5" else "a.zarr")))
    reader = ChunkReader(handle.store.root.array("0"))
    reader.read()
    context = multiprocessing.get_context(method)
    result = context.Queue()
    children = [context.Process(target=read_there, args=(handle, result)) for _ in range(2)]  # type: ignore[attr-defined]
    for child in children:
        child.start()
    assert [result.get(timeout=300) for _ in children] == [True, True]
    for child in children:
        child.join(300)
        assert child.exitcode == 0
    np.testing.assert_array_equal(reader.read(), VALUES)
    again = pickle.loads(pickle.dumps(handle))
    np.testing.assert_array_equal(ChunkReader(again.store.root.array("0")).read(), VALUES)
    again.close()
    handle.close()


def test_an_open_hdf5_file_is_not_mixed_up_with_the_one_that_replaces_it(tmp_path: Path) -> None:
    hdf5(tmp_path, make_spec("none")).close()
    with open_store(tmp_path / "a.h5") as store:
        reader = ChunkReader(store.root.array("0"))
        np.testing.assert_array_equal(reader.read((slice(0, 1),) * 3), VALUES[:1, :1, :1])
        with create_store(tmp_path / "a.h5", overwrite=True) as new:
            array = new.root.create_array("before", make_spec("none"))
            array.write(None, VALUES * 0)
            new.root.create_array("0", make_spec("none")).write(None, VALUES + 5)
        np.testing.assert_array_equal(reader.read(), VALUES)
        (tmp_path / "a.h5").unlink()
        fresh = ChunkReader(store.root.array("0"), cache=ChunkCache(0))
        np.testing.assert_array_equal(fresh.read(), VALUES)


def test_no_descriptors_are_left_open(tmp_path: Path) -> None:
    hdf5(tmp_path, make_spec()).close()
    local_zarr(tmp_path, make_spec()).close()

    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def use() -> None:
        for name in ("a.h5", "a.zarr"):
            with open_store(tmp_path / name) as store:
                ChunkReader(store.root.array("0")).read()

    use()
    before = count()
    for _ in range(5):
        use()
    assert count() == before
    CHUNK_CACHE.clear()


def test_an_unknown_codec_does_not_reach_our_decoder(stores: dict[str, Store]) -> None:
    for name in FALLBACK:
        spec = stores[name].root.array("0").spec
        assert not codecs.supported(spec.codecs) or name.startswith("zarr")
        assert all(isinstance(step, CodecSpec) for step in spec.codecs)
