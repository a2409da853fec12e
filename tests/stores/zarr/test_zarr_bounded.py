"""Encoded chunks that claim to be larger than they can be, in arrays that zarr-python decodes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from fmristore_stores.codecs.blosc import zstd_bound
from fmristore_stores.errors import CorruptDataError
from fmristore_stores.opening import open_store
from fmristore_stores.zarr.frames import check_count, check_frame

TEXTS = np.array(["left", "right", "", "über", "x" * 40], np.dtypes.StringDType())
MANY = 2**22
"""Texts that a chunk claims: 32 MiB of pointers, which would show."""
ZEROS = bytes(MANY)
ROOM = 4 * 1024 * 1024


def make(path: Path, zarr_format: Any, values: Any = TEXTS, **options: Any) -> Path:
    root = zarr.create_group(path, zarr_format=zarr_format)
    array = root.create_array("names", shape=values.shape, dtype=values.dtype, **options)
    array[...] = values
    return next(f for f in sorted((path / "names").rglob("*")) if "z" not in f.name and f.is_file())


def refused(path: Path) -> str:
    with open_store(path) as store:
        array = store.root.array("names")
        tracemalloc.start()
        try:
            with pytest.raises(CorruptDataError) as caught:
                array.read()
            assert tracemalloc.get_traced_memory()[1] < ROOM
        finally:
            tracemalloc.stop()
    return str(caught.value)


def claims(count: int) -> bytes:
    return struct.pack("<I", count) + b"\0" * 60


def compressed(name: str, data: bytes) -> bytes:
    found: bytes = numcodecs.get_codec({"id": name}).encode(data)
    return found


@pytest.mark.parametrize("shards", [None, (6,)])
@pytest.mark.parametrize("codec", ["none", "zstd", "gzip", "blosc", "zlib"])
@pytest.mark.filterwarnings("ignore")
def test_texts_are_read_as_written(tmp_path: Path, codec: str, shards: Any) -> None:
    kinds: dict[str, Any] = {
        "none": None,
        "zstd": zarr.codecs.ZstdCodec(),
        "gzip": zarr.codecs.GzipCodec(),
        "blosc": zarr.codecs.BloscCodec(),
        "zlib": zarr.codecs.numcodecs.Zlib(),
    }
    make(tmp_path / "a.zarr", 3, chunks=(2,), shards=shards, compressors=kinds[codec])
    with open_store(tmp_path / "a.zarr") as store:
        assert store.root.array("names").read().tolist() == TEXTS.tolist()


def test_more_texts_than_a_chunk_has_are_refused(tmp_path: Path) -> None:
    chunk = make(tmp_path / "a.zarr", 3, chunks=(5,), compressors=None)
    chunk.write_bytes(claims(MANY))
    assert f"claims {MANY}" in refused(tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["zstd", "gzip", "blosc"])
def test_more_texts_in_a_compressed_chunk_are_refused(tmp_path: Path, name: str) -> None:
    kinds: dict[str, Any] = {
        "zstd": zarr.codecs.ZstdCodec(),
        "gzip": zarr.codecs.GzipCodec(),
        "blosc": zarr.codecs.BloscCodec(),
    }
    chunk = make(tmp_path / "a.zarr", 3, chunks=(5,), compressors=kinds[name])
    chunk.write_bytes(compressed(name, claims(MANY)))
    assert f"claims {MANY}" in refused(tmp_path / "a.zarr")


@pytest.mark.parametrize("compressor", [None, "zstd", "zlib"])
def test_more_texts_in_a_chunk_of_format_2_are_refused(
    tmp_path: Path, compressor: str | None
) -> None:
    codec = None if compressor is None else numcodecs.get_codec({"id": compressor})
    chunk = make(tmp_path / "a.zarr", 2, chunks=(5,), compressors=codec)
    with open_store(tmp_path / "a.zarr") as store:
        assert store.root.array("names").read().tolist() == TEXTS.tolist()
    data = claims(MANY)
    chunk.write_bytes(data if compressor is None else compressed(compressor, data))
    assert f"claims {MANY}" in refused(tmp_path / "a.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["zstd", "blosc", "gzip"])
def test_a_chunk_of_numbers_that_is_longer_than_it_can_be_is_refused(
    tmp_path: Path, zarr_format: int, name: str
) -> None:
    kinds: dict[str, Any] = {
        "zstd": zarr.codecs.ZstdCodec(),
        "gzip": zarr.codecs.GzipCodec(),
        "blosc": zarr.codecs.BloscCodec(),
    }
    codec = kinds[name] if zarr_format == 3 else numcodecs.get_codec({"id": name})
    chunk = make(
        tmp_path / "a.zarr", zarr_format, np.arange(6, dtype=">i4"), chunks=(3,), compressors=codec
    )
    with open_store(tmp_path / "a.zarr") as store:
        assert store.root.array("names").read().tolist() == list(range(6))
    chunk.write_bytes(compressed(name, ZEROS))
    assert "chunk decodes to" in refused(tmp_path / "a.zarr")


STREAMS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "lzma": lzma.compress,
}


@pytest.mark.parametrize("name", list(STREAMS))
def test_streams_are_measured_in_pieces(name: str) -> None:
    data = STREAMS[name](ZEROS)
    check_frame(name, data, MANY)
    for bomb in (data, *([2 * STREAMS[name](b"12")] if name != "zlib" else [])):
        with pytest.raises(CorruptDataError, match=f"a {name} chunk decodes to"):
            check_frame(name, bomb, MANY - 1 if bomb is data else 3)
    with pytest.raises(CorruptDataError):
        check_frame(name, b"nothing of the kind" * 5, 100)


def test_the_blocks_of_a_zstd_frame_bound_what_it_decodes_to() -> None:
    raw = b"\x28\xb5\x2f\xfd\x00\x58"  # no size, window of 2 MiB
    blocks = (3 << 3 | 0).to_bytes(3, "little") + b"abc"
    run = (100_000 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"z"
    assert zstd_bound(raw + blocks + run) == 100_003
    assert bytes(numcodecs.Zstd().decode(raw + blocks + run)) == b"abc" + b"z" * 100_000
    with pytest.raises(CorruptDataError):
        zstd_bound(raw + blocks)
    assert zstd_bound(compressed("zstd", b"1234567")) == 7


@pytest.mark.parametrize("data", [b"", b"\1\0", claims(4), struct.pack("<I", 3) + b"\0" * 11])
def test_a_count_has_to_fit_the_chunk_and_its_bytes(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match="claims"):
        check_count(data, 3)
