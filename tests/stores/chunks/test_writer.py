"""Parallel writing, judged by plain h5py and plain zarr-python."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, cast

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fmristore_stores.chunks import writer
from fmristore_stores.chunks.writer import encode_chunk, unit_chunks, units_of, write
from fmristore_stores.codecs import pipeline as codecs
from fmristore_stores.errors import (
    ClosedError,
    InvalidInputError,
    ReadOnlyError,
    SelectionError,
    StorageError,
)
from fmristore_stores.grid import ChunkKey, chunk_region, grid_shape, parse_region
from fmristore_stores.protocol import AnyArray
from fmristore_stores.publishing.publish import create_store
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout
from fmristore_stores.testing.memory import MemoryStore
from fmristore_stores.testing.wrappers import CountingStore
from fmristore_stores.zarr.store import ZarrStore
from tests.images import PEAK, from_proc

SHAPE = (7, 9, 10)
CHUNKS = (3, 4, 5)


def numbers(dtype: str) -> AnyArray:
    rng = np.random.default_rng(3)
    if dtype == "?":
        return rng.random(SHAPE) > 0.5
    return (rng.normal(size=SHAPE) * 50).astype(dtype)


def make_spec(dtype: str = "i2", codec: str = "dual", fill: Any = None, **layout: Any) -> ArraySpec:
    kind = np.dtype(dtype)
    return ArraySpec(
        shape=SHAPE,
        dtype=kind,
        layout=ChunkLayout(chunks=CHUNKS, **layout),
        codecs=codecs.preset(codec, kind),
        fill_value=fill,
    )


LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ordered": {"order": (2, 0, 1)},
    "sharded": {"shards": (6, 8, 5)},
    "both": {"shards": (6, 4, 10), "order": (1, 2, 0)},
}


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMRISTORE_WORKERS", "3")


def plainly(path: Path) -> AnyArray:
    """The array as its own library reads it."""
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return np.asarray(file["0"][...])
    return np.asarray(zarr.open_array(path / "0", mode="r")[...])


@pytest.mark.parametrize("codec", codecs.PRESETS)
@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "f4", "c16"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "hdf5"])
def test_other_software_reads_the_same_numbers(
    tmp_path: Path, layout: str, dtype: str, codec: str
) -> None:
    path = tmp_path / ("a.h5" if layout == "hdf5" else "a.zarr")
    spec = make_spec(dtype, codec, **LAYOUTS.get(layout, {}))
    if layout != "hdf5" and codec == "portable":
        return  # HDF5's filters are not core codecs of Zarr; see the tests of codecs
    with create_store(path) as store:
        counting = CountingStore(store)
        write(counting.root.create_array("0", spec), None, numbers(dtype))
        counts = counting.counts["0"]
        assert counts.writes == 0
        assert counts.chunks_written == np.prod(grid_shape(SHAPE, CHUNKS))
    np.testing.assert_array_equal(plainly(path), numbers(dtype))


@pytest.mark.parametrize("layout", [*LAYOUTS, "hdf5"])
@settings(max_examples=15)
@given(data=st.data())
def test_any_region_may_be_written(
    tmp_path_factory: pytest.TempPathFactory, layout: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / ("a.h5" if layout == "hdf5" else "a.zarr")
    spec = make_spec(fill=9, **LAYOUTS.get(layout, {}))
    expected = np.full(SHAPE, 9, "i2")
    with create_store(path) as store:
        array = store.root.create_array("0", spec)
        for number in range(3):
            region = []
            for length, unit in zip(SHAPE, spec.layout.units, strict=True):
                edges = st.sampled_from([*range(0, length, unit), length])
                some = edges | st.integers(0, length)
                low, high = sorted((data.draw(some), data.draw(some)))
                region.append(slice(low, high, data.draw(st.sampled_from([1, 1, 2]))))
            values = numbers("i2")[tuple(region)] + number
            write(array, tuple(region), values)
            expected[tuple(region)] = values
    np.testing.assert_array_equal(plainly(path), expected)


@pytest.mark.parametrize("row_bytes", [300, 1 << 20])
@pytest.mark.parametrize("layout", [*LAYOUTS, "hdf5"])
@pytest.mark.parametrize("dtype", ["i2", "c16"])
def test_values_may_lie_in_any_order(
    tmp_path: Path, layout: str, dtype: str, row_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also backwards and with gaps; each chunk is seen and written once, with its own values."""
    monkeypatch.setattr(writer, "_ROW_BYTES", row_bytes)
    spec = make_spec(dtype, **LAYOUTS.get(layout, {}))
    with create_store(tmp_path / ("a.h5" if layout == "hdf5" else "a.zarr")) as store:
        for name, order in enumerate(itertools.permutations(range(3))):
            back = np.argsort(order)
            wide = np.repeat(numbers(dtype).transpose(order), 2, axis=2)
            for step, given_values in (
                ("even", np.ascontiguousarray(wide[..., ::2]).transpose(back)),
                ("gaps", wide[..., ::2].transpose(back)),
                ("backwards", wide[::-1, :, ::2].copy()[::-1].transpose(back)),
            ):
                counting = CountingStore(store)
                array = counting.root.create_array(f"{name}{step}", spec)
                seen: dict[ChunkKey, AnyArray] = {}

                def observe(
                    key: ChunkKey, values: AnyArray, seen: dict[ChunkKey, AnyArray] = seen
                ) -> None:
                    assert key not in seen
                    seen[key] = values.copy()

                write(array, None, given_values, observe=observe)
                np.testing.assert_array_equal(array.read(), numbers(dtype))
                assert counting.counts[f"{name}{step}"].chunks_written == len(seen)
                for key, values in seen.items():
                    inside = numbers(dtype)[chunk_region(key, SHAPE, CHUNKS)]
                    np.testing.assert_array_equal(values, inside)


def test_what_cuts_through_a_unit_goes_through_the_library(tmp_path: Path) -> None:
    with create_store(tmp_path / "a.zarr") as store:
        counting = CountingStore(store)
        array = counting.root.create_array("0", make_spec(shards=(6, 8, 5)))
        write(array, (slice(0, 6), slice(0, 8), slice(5, 10)), 1)
        assert counting.counts["0"].writes == 0
        write(array, (slice(0, 6), slice(0, 4), slice(5, 10)), 2)
        assert counting.counts["0"].writes == 1
        write(array, (slice(6, 7), slice(8, 9), slice(5, 10)), 3)
        assert counting.counts["0"].writes == 1
    found = plainly(tmp_path / "a.zarr")
    assert (found[:6, :4, 5:] == 2).all()
    assert (found[:6, 4:8, 5:] == 1).all()
    assert (found[6, 8, 5:] == 3).all()
    assert (found[..., :5] == 0).all()


@pytest.mark.parametrize("store_kind", ["memory", "h5", "zarr"])
def test_values_are_broadcast_and_converted(tmp_path: Path, store_kind: str) -> None:
    def check(root: Any) -> None:
        array = root.create_array("0", make_spec())
        write(array, None, np.float64(3.9))
        assert (array.read() == 3).all()
        row = np.arange(10, dtype=">i8")
        write(array, None, row)
        np.testing.assert_array_equal(array.read(), np.broadcast_to(row, SHAPE))
        write(array, (slice(0, 3), slice(0, 4), slice(0, 5)), [[[7]]])
        assert (array.read((slice(0, 3), slice(0, 4), slice(0, 5))) == 7).all()
        before = array.read()
        for region, values in (
            (None, np.zeros((7, 9, 11))),
            (None, np.zeros((8, 9, 10))),
            ((slice(0, 3), slice(0, 4), slice(0, 5)), numbers("i2")),
            (None, "text"),
            (None, object()),
        ):
            with pytest.raises(InvalidInputError):
                write(array, region, values)
        with pytest.raises(SelectionError):
            write(array, (slice(0, 8), slice(0, 4), slice(0, 5)), 1)
        np.testing.assert_array_equal(array.read(), before)

    if store_kind == "memory":
        check(MemoryStore().root)
        return
    with create_store(tmp_path / f"a.{store_kind}") as store:
        check(store.root)


def test_text_and_single_numbers(tmp_path: Path) -> None:
    for name in ("a.h5", "a.zarr"):
        with create_store(tmp_path / name) as store:
            text = ArraySpec(shape=(3,), dtype=STRING, layout=ChunkLayout(chunks=(3,)))
            labels = store.root.create_array("t", text)
            write(labels, None, np.array(["a", "ü", ""], STRING))
            assert labels.read().tolist() == ["a", "ü", ""]
            single = ArraySpec(shape=(), dtype=np.dtype("f8"), layout=ChunkLayout(chunks=()))
            number = store.root.create_array("n", single)
            write(number, None, np.float64(2.5))
            assert number.read()[()] == 2.5


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f4", "<c16"])
@pytest.mark.parametrize("row", [1, 3, 4, 8, 40])
def test_rows_of_any_width_are_gathered(dtype: str, row: int) -> None:
    layout = ChunkLayout(chunks=(3, 2, row))
    spec = ArraySpec(shape=(6, 8, 2 * row), dtype=np.dtype(dtype), layout=layout)
    values = np.arange(96 * row).reshape(spec.shape).astype(dtype)
    for array in (values, np.asfortranarray(values), values.astype(values.dtype.newbyteorder(">"))):
        for part in (array[3:, 2:4, row:], array[:, ::-1, ::2][:3, :2]):
            assert bytes(encode_chunk(spec, part)) == part.astype(dtype).tobytes()


def test_the_padding_of_chunks_at_the_edge_is_the_fill_value() -> None:
    spec = make_spec(codec="none", fill=-3, order=(2, 0, 1))
    inside = numbers("i2")[6:, 8:, 5:]
    chunk = np.frombuffer(encode_chunk(spec, inside), "i2").reshape(5, 3, 4).transpose(1, 2, 0)
    np.testing.assert_array_equal(chunk[:1, :1], inside)
    assert (chunk[1:] == -3).all()
    assert (chunk[:, 1:] == -3).all()


@given(
    shape=st.tuples(st.integers(0, 9), st.integers(1, 9)),
    chunks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    times=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_units_hold_every_chunk_once(
    shape: tuple[int, int], chunks: tuple[int, int], times: tuple[int, int]
) -> None:
    shards = (chunks[0] * times[0], chunks[1] * times[1])
    spec = ArraySpec(
        shape=shape, dtype=np.dtype("i2"), layout=ChunkLayout(chunks=chunks, shards=shards)
    )
    units = units_of(parse_region(None, shape), spec)
    assert units is not None
    keys = [key for unit in units for key in unit_chunks(unit, spec) if key is not None]
    assert sorted(keys) == sorted(np.ndindex(*grid_shape(shape, chunks)))
    for unit in units:
        assert len(unit_chunks(unit, spec)) == times[0] * times[1]


def test_chunks_are_encoded_on_several_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting = threading.Barrier(3)
    encode = codecs.encode
    first = threading.local()

    def together(*args: Any) -> Any:
        if not hasattr(first, "met"):
            first.met = True
            meeting.wait(300)
        return encode(*args)

    monkeypatch.setattr(codecs, "encode", together)
    for name in ("a.h5", "a.zarr"):
        meeting.reset()
        first = threading.local()
        with create_store(tmp_path / name) as store:
            write(store.root.create_array("0", make_spec()), None, numbers("i2"))
        np.testing.assert_array_equal(plainly(tmp_path / name), numbers("i2"))


def test_stores_that_cannot_be_written(tmp_path: Path) -> None:
    for name in ("a.h5", "a.zarr"):
        with create_store(tmp_path / name) as store:
            array = store.root.create_array("0", make_spec())
        with pytest.raises(ClosedError):
            write(array, None, numbers("i2"))
    with ZarrStore(str(tmp_path / "a.zarr")) as store, pytest.raises(ReadOnlyError):
        write(store.root.array("0"), None, numbers("i2"))


@pytest.mark.parametrize("call", ["os.writev", "os.replace"])
def test_a_failing_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """What is written to a new store has its name already, and is gone all the same."""
    calls = 0

    def full(*args: Any) -> None:
        nonlocal calls
        calls += 1
        raise OSError(28, "No space left on device")

    with create_store(tmp_path / "a.zarr") as store:
        store.root.create_array("0", make_spec())
        again = store if call == "os.writev" else ZarrStore(cast("Any", store).place, mode="r+")
        fails = pytest.raises(StorageError, match="the disk is full")
        monkeypatch.setattr(call, full)
        with fails:
            write(again.root.array("0"), None, numbers("i2"))
        monkeypatch.undo()
    assert 1 <= calls <= 4
    assert [path.name for path in (tmp_path / "a.zarr" / "0").rglob("*") if path.is_file()] == [
        "zarr.json"
    ]


@pytest.mark.once
@from_proc
def test_memory_stays_near_the_values(tmp_path: Path) -> None:
    """In a process of its own: 64 MiB in shards of 4 MiB, and an array of very many chunks."""
    code = """
    import sys
    import numpy as np
    from fmristore_stores.codecs import pipeline as codecs
    from fmristore_stores.publishing.publish import create_store
    from fmristore_stores.spec import ArraySpec, ChunkLayout
    from fmristore_stores.chunks.writer import write

    def store(name, shape, chunks, shards):
        layout = ChunkLayout(chunks=chunks, shards=shards)
        dtype = np.dtype("i2")
        steps = codecs.preset("fast", dtype)
        spec = ArraySpec(shape=shape, dtype=dtype, layout=layout, codecs=steps)
        with create_store(f"{sys.argv[1]}/{name}.zarr") as new:
            write(new.root.create_array("0", spec), None, np.broadcast_to(rows[:shape[1]], shape))

    rows = np.random.default_rng(0).integers(0, 30000, 1 << 15).astype("i2")
    store("warm", (8, 4096), (1, 256), (4, 4096))
    before = peak()
    store("large", (1024, 1 << 15), (8, 4096), (64, 1 << 15))
    store("many", (1024, 512), (1, 32), (1024, 512))
    print((peak() - before) >> 20)
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAK + textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "", "FMRISTORE_WORKERS": "2"},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 48
