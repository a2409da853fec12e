"""Codec pipelines: against themselves, HDF5's own filters, Zarr's own codecs, and damage."""

from __future__ import annotations

import contextlib
import gzip
import math
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from fmristore_stores.chunks.reader import ChunkReader
from fmristore_stores.chunks.writer import write
from fmristore_stores.codecs.blosc import decode_part
from fmristore_stores.codecs.names import (
    from_hdf5_filters,
    from_zarr_codecs,
    hdf5_filters,
    zarr_codecs,
)
from fmristore_stores.codecs.pipeline import (
    PRESETS,
    check_encoded,
    decode,
    encode,
    preset,
    supported,
)
from fmristore_stores.errors import (
    CodecError,
    CorruptDataError,
    DependencyError,
    InvalidInputError,
)
from fmristore_stores.hdf5.store import HDF5Store
from fmristore_stores.opening import open_store
from fmristore_stores.protocol import AnyArray
from fmristore_stores.spec import ArraySpec, ChunkLayout, CodecSpec
from fmristore_stores.zarr.store import ZarrStore

Pipeline = tuple[CodecSpec, ...]

DTYPES = ["?", "i1", "u1", "i2", "u4", "i8", "f2", "f4", "f8", "c8", "c16"]
FLETCHER = CodecSpec.of("fletcher32")
CRC = CodecSpec.of("crc32c")
GZIP = CodecSpec.of("gzip", level=4)
ZSTD = CodecSpec.of("zstd", level=1, checksum=False)
ZSTD_CHECKED = CodecSpec.of("zstd", level=1, checksum=True)
DEFLATE = CodecSpec.of("deflate", level=1)


def blosc(width: int, **options: Any) -> CodecSpec:
    usual = {"cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
    return CodecSpec.of("blosc", typesize=width, **(usual | options))


def shuffle(width: int) -> CodecSpec:
    return CodecSpec.of("shuffle", elementsize=width)


def smooth(dtype: str, count: int = 5000) -> AnyArray:
    """Numbers that compress."""
    return (np.arange(count) // 7 % 50).astype(dtype)


PIPELINES: dict[str, Callable[[int], Pipeline]] = {
    "nothing": lambda _: (),
    "zstd": lambda _: (ZSTD,),
    "zstd with checksum": lambda _: (ZSTD_CHECKED,),
    "gzip": lambda _: (GZIP,),
    "deflate and fletcher32": lambda w: (shuffle(w), DEFLATE, FLETCHER),
    "checksum below": lambda w: (CRC, shuffle(w), ZSTD),
    "checksum around": lambda w: (blosc(w), CRC),
    "two compressors": lambda w: (blosc(w, cname="lz4"), DEFLATE),
    "fletcher32 below blosc": lambda w: (FLETCHER, blosc(w)),
    **{
        f"blosc {cname}": lambda w, c=cname: (blosc(w, cname=c, shuffle="shuffle"),)  # type: ignore[misc]
        for cname in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
    },
}


# Round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
@given(data=st.data())
def test_presets_return_every_number_bit_for_bit(name: str, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    raw = data.draw(st.binary(min_size=1, max_size=4000))
    raw = raw * math.lcm(len(raw), dtype.itemsize)
    raw = raw[: len(raw) // dtype.itemsize * dtype.itemsize][: 64 * 1024 // 16 * 16]
    pipeline = preset(name, dtype, series=data.draw(st.booleans()))
    assert supported(pipeline)
    encoded = encode(pipeline, np.frombuffer(raw, dtype))
    assert bytes(decode(pipeline, encoded, len(raw))) == raw
    assert bytes(decode(pipeline, memoryview(encoded), len(raw))) == raw


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_round_trip(name: str, dtype: str) -> None:
    values = smooth(dtype)
    pipeline = PIPELINES[name](values.itemsize)
    encoded = encode(pipeline, values)
    found = np.frombuffer(decode(pipeline, encoded, values.nbytes), dtype)
    np.testing.assert_array_equal(found, values)


@given(
    mask=st.integers(0, 7),
    raw=st.binary(min_size=8, max_size=400),
)
def test_steps_that_were_skipped_are_not_undone(mask: int, raw: bytes) -> None:
    pipeline = (shuffle(4), DEFLATE, FLETCHER)
    applied = tuple(step for k, step in enumerate(pipeline) if not mask >> k & 1)
    encoded = encode(applied, np.frombuffer(raw, np.uint8))
    assert bytes(decode(pipeline, encoded, len(raw), skip=mask)) == raw


def test_shuffle_of_a_width_that_does_not_divide() -> None:
    raw = np.arange(11, dtype=np.uint8)
    for width in (0, 1, 3, 4, 11, 12, 2**31):
        pipeline = (shuffle(width),)
        assert bytes(decode(pipeline, encode(pipeline, raw), 11)) == raw.tobytes()
    odd = (blosc(4),)
    assert bytes(decode(odd, encode(odd, raw), 11)) == raw.tobytes()


def test_many_threads_at_once() -> None:
    values = smooth("f4", 60000)
    failures: list[BaseException] = []

    def work(name: str) -> None:
        pipeline = PIPELINES[name](4)
        try:
            for _ in range(5):
                encoded = encode(pipeline, values)
                assert bytes(decode(pipeline, encoded, values.nbytes)) == values.tobytes()
        except BaseException as failure:  # noqa: BLE001
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(name,)) for name in PIPELINES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="portable"):
        preset("best", np.dtype("i2"))
    strange = (CodecSpec.of("hdf5:32000"),)
    assert not supported(strange)
    with pytest.raises(CodecError):
        decode(strange, b"abc", 3)
    with pytest.raises(CodecError):
        encode(strange, np.zeros(3, np.uint8))
    with pytest.raises(CodecError):
        hdf5_filters((CRC,), np.dtype("i2"), 100)
    with pytest.raises(CodecError):
        zarr_codecs(strange)


# HDF5's own filters ------------------------------------------------------------------------------

HDF5_WAYS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 6},
    "shuffle gzip": {"compression": "gzip", "shuffle": True},
    "shuffle gzip fletcher32": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "fletcher32": {"fletcher32": True},
    "shuffle": {"shuffle": True},
    "zstd": dict(hdf5plugin.Zstd(clevel=3)),
    **{
        f"blosc {cname} {mode}": dict(hdf5plugin.Blosc(cname=cname, clevel=5, shuffle=mode))
        for cname in ("blosclz", "lz4", "lz4hc", "zlib", "zstd")
        for mode in (0, 1, 2)
    },
}


@pytest.mark.parametrize("way", HDF5_WAYS)
@pytest.mark.parametrize("dtype", ["u1", "i2", "f8"])
def test_chunks_that_hdf5_wrote_decode_here(tmp_path: Path, way: str, dtype: str) -> None:
    # An odd number of odd bytes is where implementations of fletcher32 differ.
    values = smooth(dtype, 3 * 1237).reshape(3, 1237)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        node = file.create_dataset("a", data=values, chunks=(1, 1237), **HDF5_WAYS[way])
        plan = node.id.get_create_plist()
        listed = [plan.get_filter(i) for i in range(plan.get_nfilters())]
        pipeline = from_hdf5_filters([(n, tuple(v)) for n, _, v, _ in listed], np.dtype(dtype))
        assert supported(pipeline)
        for row in range(3):
            skip, data = node.id.read_direct_chunk((row, 0))
            found = decode(pipeline, data, values[row].nbytes, skip=skip)
            np.testing.assert_array_equal(np.frombuffer(found, dtype), values[row])


@pytest.mark.parametrize("name", ["portable", "dual", "fast", "deflate and fletcher32", "zstd"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "c16"])
def test_chunks_encoded_here_are_read_by_hdf5(tmp_path: Path, name: str, dtype: str) -> None:
    values = smooth(dtype, 1237)
    made = preset(name, values.dtype) if name in PRESETS else PIPELINES[name](values.itemsize)
    filters = hdf5_filters(made, values.dtype, values.nbytes)
    assert from_hdf5_filters(filters, values.dtype) == made
    with h5py.File(tmp_path / "f.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1237,))
        for number, parameters in filters:
            plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, parameters)
        kind = h5py.h5t.py_create(values.dtype, logical=True)
        node = h5py.h5d.create(file.id, b"a", kind, h5py.h5s.create_simple((1237,)), plan)
        node.write_direct_chunk((0,), np.frombuffer(encode(made, values), np.uint8), 0)
        np.testing.assert_array_equal(file["a"][...], values)


def test_filters_that_are_not_known_keep_their_number() -> None:
    dtype = np.dtype("i2")
    (lzf,) = from_hdf5_filters([(32000, (4, 261, 10))], dtype)
    assert lzf.name == "hdf5:32000"
    assert lzf.get("parameters") == (4, 261, 10)
    # Too few parameters, or numbers of compressors that do not exist.
    assert from_hdf5_filters([(32001, ())], dtype)[0].get("cname") == "blosclz"
    assert from_hdf5_filters([(32001, (2, 2, 2, 9, 5, 7, 99))], dtype)[0].name == "hdf5:32001"


# Zarr's own codecs -------------------------------------------------------------------------------

ZARR_PIPELINES: dict[str, Callable[[int], Pipeline]] = {
    "gzip": lambda _: (GZIP,),
    "zstd": lambda _: (ZSTD,),
    "zstd with checksum": lambda _: (ZSTD_CHECKED,),
    "crc32c": lambda _: (CRC,),
    "blosc and crc32c": lambda w: (blosc(w), CRC),
    "lz4": lambda w: (blosc(w, cname="lz4", shuffle="shuffle"),),
    "not shuffled": lambda w: (blosc(w, shuffle="noshuffle"),),
    "as in HDF5": lambda w: (shuffle(w), DEFLATE, FLETCHER),
}


@pytest.mark.filterwarnings("ignore:Numcodecs codecs:UserWarning")
@pytest.mark.parametrize("dtype", ["u1", "i2", "f8"])
@pytest.mark.parametrize("name", ZARR_PIPELINES)
def test_zarr_and_we_read_each_others_chunks(tmp_path: Path, name: str, dtype: str) -> None:
    values = smooth(dtype, 2 * 1237).reshape(2, 1237)
    pipeline = ZARR_PIPELINES[name](values.itemsize)
    written = zarr_codecs(pipeline)
    assert from_zarr_codecs(written, np.dtype("i2")) == pipeline
    array = zarr.create_array(
        tmp_path / "a", shape=values.shape, chunks=(1, 1237), dtype=dtype, compressors=written
    )
    array[...] = values
    document = array.metadata.to_dict()
    stored = [dict(codec) for codec in document["codecs"] if codec["name"] != "bytes"]  # type: ignore[union-attr, index, arg-type, call-overload]
    assert from_zarr_codecs(stored, np.dtype("i2")) == pipeline
    for row in range(2):
        data = (tmp_path / "a" / "c" / str(row) / "0").read_bytes()
        found = decode(pipeline, data, values[row].nbytes)
        np.testing.assert_array_equal(np.frombuffer(found, dtype), values[row])
        (tmp_path / "a" / "c" / str(row) / "0").write_bytes(encode(pipeline, values[1 - row]))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a")[...], values[::-1])


def test_zarr_codecs_that_are_not_known_keep_their_configuration() -> None:
    entry = {"name": "numcodecs.lzma", "configuration": {"preset": 1, "filters": [{"id": 3}]}}
    (step,) = from_zarr_codecs([entry], np.dtype("i2"))
    assert step.name == "zarr:numcodecs.lzma"
    assert '"preset": 1' in step.get("configuration")
    assert from_zarr_codecs([{"name": "crc32c"}], np.dtype("i2")) == (CRC,)
    # A known codec with a setting of an unknown kind.
    (odd,) = from_zarr_codecs([{"name": "gzip", "configuration": {"level": [1]}}], np.dtype("i2"))
    assert odd.name == "zarr:gzip"


# Pcodec ------------------------------------------------------------------------------------------


def archive(dtype: str) -> Pipeline:
    return preset("archive", np.dtype(dtype), series=True)


def series(dtype: str) -> AnyArray:
    """(2, 4000) sums of noise, as samples of a voxel may be."""
    noise = np.random.default_rng(5).normal(size=(2, 4000))
    return (1000 + 20 * np.cumsum(noise, axis=1)).astype(dtype)


def stored_series(dtype: str, shards: tuple[int, int] | None = None) -> ArraySpec:
    return ArraySpec(
        shape=(2, 4000),
        dtype=np.dtype(dtype),
        layout=ChunkLayout(chunks=(1, 4000), shards=shards),
        codecs=archive(dtype),
    )


def test_pcodec_is_for_series_of_integers_and_floats_alone() -> None:
    assert [archive(dtype)[0].name for dtype in ("i2", "u4", "f2", "f8")] == 4 * ["pcodec"]
    assert [archive(dtype)[0].name for dtype in ("?", "u1", "c8")] == 3 * ["blosc"]
    assert preset("archive", np.dtype("i2")) == preset("dual", np.dtype("i2"))
    values = series("i2")
    dual = encode(preset("dual", values.dtype, series=True), values)
    assert memoryview(encode(archive("i2"), values)).nbytes < 0.95 * memoryview(dual).nbytes


@pytest.mark.filterwarnings("ignore:Numcodecs codecs:UserWarning")
@pytest.mark.parametrize("dtype", ["i2", "u4", "f4", "f8"])
@pytest.mark.parametrize("shards", [None, (2, 4000)])
def test_zarr_and_we_read_each_others_pcodec(
    tmp_path: Path, dtype: str, shards: tuple[int, int] | None
) -> None:
    values, spec = series(dtype), stored_series(dtype, shards)
    (written,) = zarr_codecs(spec.codecs)
    assert from_zarr_codecs([written], values.dtype) == spec.codecs
    theirs = zarr.open_group(tmp_path / "theirs.zarr", mode="w").create_array(
        "0",
        shape=values.shape,
        chunks=(1, 4000),
        shards=shards,
        dtype=dtype,
        serializer=written,
        compressors=None,
    )
    theirs[...] = values
    with open_store(tmp_path / "theirs.zarr") as store:
        found = store.root.array("0")
        assert found.spec.codecs[0].name == "pcodec"
        np.testing.assert_array_equal(ChunkReader(found).read(), values)
    with ZarrStore(str(tmp_path / "ours.zarr"), mode="w") as store:
        write(store.root.create_array("0", spec), None, values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "ours.zarr/0", mode="r")[...], values)


def test_hdf5_refuses_to_read_pcodec(tmp_path: Path) -> None:
    with HDF5Store(str(tmp_path / "a.h5"), mode="w") as store:
        array = store.root.create_array("0", stored_series("i2"))
        write(array, None, series("i2"))
        with pytest.raises(CodecError, match="pcodec"):
            array.read()
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises(OSError, match="read data"):
        file["0"][...]
    with open_store(tmp_path / "a.h5") as store:
        np.testing.assert_array_equal(ChunkReader(store.root.array("0")).read(), series("i2"))


def test_a_number_that_is_not_registered_may_be_another_filter() -> None:
    filters = hdf5_filters(archive("i2"), np.dtype("i2"), 8000)
    assert from_hdf5_filters(filters, np.dtype("i2")) == archive("i2")
    ((number, parameters),) = filters
    for values, dtype in [((), "i2"), ((1, *parameters[1:]), "i2"), (parameters, "u1")]:
        assert from_hdf5_filters([(number, values)], np.dtype(dtype))[0].name == f"hdf5:{number}"
    with pytest.raises(CodecError, match="does not encode"):
        from_zarr_codecs(zarr_codecs(archive("i2")), np.dtype("c8"))


def test_pcodec_decodes_into_memory_that_is_not_aligned() -> None:
    values, pipeline = series("f8")[0], archive("f8")
    encoded = encode(pipeline, values)
    for offset in (0, 1, 4):
        room = np.zeros(values.nbytes + 8, np.uint8)[offset : offset + values.nbytes]
        found = decode(pipeline, encoded, values.nbytes, out=room)
        np.testing.assert_array_equal(np.frombuffer(found, "f8"), values)


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_damaged_pcodec_is_an_error(dtype: str) -> None:
    values, pipeline = series(dtype)[0], archive(dtype)
    encoded = bytes(encode(pipeline, values))
    random = np.random.default_rng(1)
    for length in (0, 1, 10, len(encoded) // 2, len(encoded) - 1):
        with pytest.raises(CorruptDataError):
            decode(pipeline, encoded[:length], values.nbytes)
    for count in (values.size - 1, values.size + 1):
        with pytest.raises(CorruptDataError):
            decode(pipeline, encoded, count * values.itemsize)
    with pytest.raises(CorruptDataError, match="type"):
        decode(archive("u2" if dtype == "i2" else "f8"), encoded, values.nbytes)
    for _ in range(300):
        damaged = bytearray(encoded)
        damaged[random.integers(80)] ^= 1 << int(random.integers(8))
        with contextlib.suppress(CorruptDataError):
            assert (
                memoryview(decode(pipeline, bytes(damaged), values.nbytes)).nbytes == values.nbytes
            )


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_pcodec_is_needed_to_read_it(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = tmp_path / f"a.{ending}"
    with (HDF5Store if ending == "h5" else ZarrStore)(str(url), mode="w") as store:
        write(store.root.create_array("0", stored_series("i2")), None, series("i2"))
    monkeypatch.setitem(sys.modules, "pcodec", None)
    with open_store(url) as store:
        reader = ChunkReader(store.root.array("0"), url=str(url))
        for rows in (slice(0, 1), slice(0, 2)):
            with pytest.raises(DependencyError, match=r"fmristore\[archive\]") as caught:
                reader.read((rows, slice(0, 4000)))
            assert caught.value.url == str(url)
            assert caught.value.node == "0"
    with pytest.raises(DependencyError, match=r"fmristore\[archive\]"):
        encode(archive("i2"), series("i2"))


# Parts of chunks ---------------------------------------------------------------------------------


def shuffled_blocks(frame: bytes, order: list[int]) -> bytes:
    """The same blosc frame with its blocks stored in another order, as threads leave them."""
    header, size, block = frame[:16], *struct.unpack_from("<ii", frame, 4)
    count = -(-size // block)
    starts = list(struct.unpack_from(f"<{count}i", frame, 16))
    ends = sorted([*starts, len(frame)])
    blocks = [frame[s : ends[ends.index(s) + 1]] for s in starts]
    position = 16 + 4 * count
    table = [0] * count
    body = b""
    for number in order:
        table[number] = position
        body += blocks[number]
        position += len(blocks[number])
    return header + struct.pack(f"<{count}i", *table) + body


@pytest.mark.parametrize("cname", ["blosclz", "lz4", "zstd"])
@pytest.mark.parametrize("mode", ["noshuffle", "shuffle", "bitshuffle"])
@settings(max_examples=20)
@given(data=st.data())
def test_a_part_is_the_slice_of_the_whole(cname: str, mode: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["u1", "i2", "f8"]))
    count = data.draw(st.integers(1, 3000))
    values = (np.arange(count) // 3 % 17).astype(dtype)
    block = data.draw(st.sampled_from([256, 512, 1024, 4096]))
    pipeline = (blosc(values.itemsize, cname=cname, shuffle=mode, blocksize=block),)
    frame = bytes(encode(pipeline, values))
    size, block = struct.unpack_from("<ii", frame, 4)
    blocks = -(-size // block)
    if not frame[2] & 2:
        frame = shuffled_blocks(frame, data.draw(st.permutations(range(blocks))))
    assert bytes(decode(pipeline, frame, values.nbytes)) == values.tobytes()
    start = data.draw(st.integers(0, values.nbytes - 1))
    stop = data.draw(st.integers(start + 1, values.nbytes))
    found = decode_part(pipeline, frame, values.nbytes, start, stop)
    if found is None:
        return
    part, offset = found
    assert offset <= start < stop <= offset + len(part)
    assert bytes(part) == values.tobytes()[offset : offset + len(part)]
    assert len(part) < values.nbytes


def test_a_part_is_small() -> None:
    values = smooth("i2", 500_000)
    pipeline = preset("dual", values.dtype)
    encoded = encode(pipeline, values)
    found = decode_part(pipeline, encoded, values.nbytes, 400_000, 400_002)
    assert found is not None
    assert len(found[0]) < values.nbytes // 2


@pytest.mark.parametrize("name", ["zstd", "deflate and fletcher32", "checksum around", "nothing"])
def test_there_are_no_parts_of_other_pipelines(name: str) -> None:
    values = smooth("i2")
    pipeline = PIPELINES[name](2)
    assert decode_part(pipeline, encode(pipeline, values), values.nbytes, 0, 2) is None


# Damage ------------------------------------------------------------------------------------------


def check_damaged(pipeline: Pipeline, data: bytes, nbytes: int) -> None:
    """Decoding gives the right size, which is all that some codecs can promise, or our error."""
    with contextlib.suppress(CorruptDataError):
        assert len(memoryview(decode(pipeline, data, nbytes))) == nbytes
    with contextlib.suppress(CorruptDataError):
        check_encoded(pipeline, data, nbytes)
    try:
        found = decode_part(pipeline, data, nbytes, nbytes // 2, nbytes // 2 + 1)
    except CorruptDataError:
        return
    assert found is None or 0 <= found[1] <= nbytes - len(found[0])


@pytest.mark.parametrize("name", [*PIPELINES, "small blocks"])
def test_truncated_chunks_are_noticed(name: str) -> None:
    values = smooth("i2", 2000)
    pipeline = (blosc(2, blocksize=512),) if name == "small blocks" else PIPELINES[name](2)
    encoded = bytes(encode(pipeline, values))
    for length in sorted({*range(min(40, len(encoded))), *range(0, len(encoded), 13)}):
        with pytest.raises(CorruptDataError):
            decode(pipeline, encoded[:length], values.nbytes)
        check_damaged(pipeline, encoded[:length], values.nbytes)
    for wrong in (values.nbytes - 2, values.nbytes + 2, 2 * values.nbytes, 0):
        with pytest.raises(CorruptDataError):
            decode(pipeline, encoded, wrong)


@pytest.mark.parametrize(
    ("name", "noticed"),
    [
        ("nothing", True),
        ("blosc lz4", True),
        ("checksum around", True),
        ("deflate and fletcher32", True),
        ("two compressors", False),
    ],
)
def test_some_damage_shows_without_decoding(name: str, noticed: bool) -> None:
    values = smooth("i2", 2000)
    pipeline = PIPELINES[name](2)
    encoded = bytes(encode(pipeline, values))
    check_encoded(pipeline, encoded, values.nbytes)
    with pytest.raises(CorruptDataError) if noticed else contextlib.nullcontext():
        check_encoded(pipeline, encoded[:-1], values.nbytes)
    zstd = bytes(encode((ZSTD,), values))
    check_encoded((ZSTD,), zstd, values.nbytes)
    for single in ((ZSTD,), (blosc(2),), ()):
        with pytest.raises(CorruptDataError):
            check_encoded(single, bytes(encode(single, values)), values.nbytes + 2)


@pytest.mark.parametrize("name", [*PIPELINES, "small blocks"])
@settings(max_examples=20)
@given(data=st.data())
def test_flipped_bits_never_crash(name: str, data: st.DataObject) -> None:
    values = smooth("i2", 2000)
    pipeline = (blosc(2, blocksize=512),) if name == "small blocks" else PIPELINES[name](2)
    encoded = bytearray(encode(pipeline, values))
    head = st.integers(0, min(len(encoded), 64) - 1)
    for place in data.draw(st.lists(head | st.integers(0, len(encoded) - 1), min_size=1)):
        encoded[place] ^= data.draw(st.integers(1, 255))
    check_damaged(pipeline, bytes(encoded), values.nbytes)


@pytest.mark.parametrize("name", ["checksum around", "deflate and fletcher32"])
def test_a_checksum_notices_every_flipped_bit(name: str) -> None:
    values = smooth("i2", 400)
    pipeline = PIPELINES[name](2)
    encoded = bytes(encode(pipeline, values))
    for bit in range(8 * len(encoded)):
        flipped = bytearray(encoded)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptDataError):
            decode(pipeline, bytes(flipped), values.nbytes)


@given(data=st.binary(max_size=200))
def test_garbage_is_damage(data: bytes) -> None:
    for pipeline in (
        (ZSTD,),
        (DEFLATE,),
        (GZIP,),
        (blosc(2),),
        (CRC,),
        (FLETCHER,),
        (shuffle(2), ZSTD, DEFLATE),
    ):
        check_damaged(pipeline, data, 500)


def test_a_frame_of_fewer_bytes_does_not_show_what_was_in_memory() -> None:
    short = encode((ZSTD,), np.zeros(100, np.uint8))
    for pipeline, data in (
        ((ZSTD,), short),
        ((DEFLATE, ZSTD), short),
        ((DEFLATE,), zlib.compress(bytes(100))),
        ((GZIP,), gzip.compress(bytes(100))),
        ((blosc(1),), encode((blosc(1),), np.zeros(100, np.uint8))),
    ):
        with pytest.raises(CorruptDataError):
            decode(pipeline, data, 4096)


def test_zstd_frames_without_a_size() -> None:
    frame = b"\x28\xb5\x2f\xfd" + b"\x00\x58" + (1 | 5 << 3).to_bytes(3, "little") + b"hello"
    assert bytes(decode((ZSTD,), frame, 5)) == b"hello"
    for wrong in (4, 6, 4096):
        with pytest.raises(CorruptDataError):
            decode((ZSTD,), frame, wrong)


def test_options_that_make_no_sense_are_damage() -> None:
    for step in (
        shuffle(-1),
        CodecSpec.of("shuffle", elementsize="x"),
        CodecSpec.of("shuffle", elementsize=None),
    ):
        check_damaged((step,), bytes(16), 16)


def test_bombs_do_not_go_off() -> None:
    """In a process that could not allocate what the chunks claim or hold."""
    code = """
    import gzip, resource, struct, zlib
    import numpy as np
    from fmristore_stores.codecs.pipeline import decode, encode
    from fmristore_stores.codecs.blosc import decode_part
    from fmristore_stores.errors import CorruptDataError
    from fmristore_stores.spec import CodecSpec

    def deflated(engine, count):
        block = bytes(1 << 20)
        return b"".join(engine.compress(block) for _ in range(count)) + engine.flush()

    one = CodecSpec.of("blosc", cname="lz4", clevel=5, shuffle="shuffle", typesize=2, blocksize=0)
    frame = bytes(encode((one,), np.arange(4096) // 9))
    zeros = encode((CodecSpec.of("zstd", level=1),), np.zeros(1 << 26, np.uint8))
    huge = 0x7FFFFFFF
    bombs = [
        ("deflate", deflated(zlib.compressobj(1), 200)),
        ("gzip", deflated(zlib.compressobj(1, wbits=31), 200)),
        ("zstd", zeros),
        ("zstd", b"\\x28\\xb5\\x2f\\xfd" + b"\\xe0" + struct.pack("<Q", 1 << 40) + bytes(20)),
        ("zstd", b"\\x28\\xb5\\x2f\\xfd" + b"\\x00\\xff" + bytes(20)),
        ("blosc", frame[:4] + struct.pack("<i", huge) + frame[8:]),
        ("blosc", frame[:8] + struct.pack("<i", huge) + frame[12:]),
        ("blosc", frame[:4] + struct.pack("<ii", huge, huge) + frame[12:]),
        ("blosc", frame[:12] + struct.pack("<i", huge) + frame[16:]),
        ("blosc", frame[:4] + struct.pack("<ii", 32768, 1) + frame[12:]),
    ]
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
    for name, bomb in bombs:
        for rest in ((), (CodecSpec.of("shuffle", elementsize=4),)):
            steps = (*rest, CodecSpec.of(name))
            for call in (decode, lambda *a: decode_part(*a, 10, 20)):
                try:
                    found = call(steps, bomb, 32768)
                    assert call is not decode, name
                except CorruptDataError:
                    pass
    print("calm")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    assert done.stdout == "calm\n", done.stderr
