"""Frames of Blosc 1, decoded by C-Blosc2 where it is installed, against the Blosc in numcodecs."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import numcodecs.blosc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmristore_stores.codecs import blosc2
from fmristore_stores.codecs.blosc import blosc_decode, blosc_header, decode_part
from fmristore_stores.codecs.pipeline import preset
from fmristore_stores.errors import CorruptDataError
from fmristore_stores.protocol import AnyArray

SERIES = np.cumsum(np.random.default_rng(1).integers(-3, 4, 60_000)).astype(np.int16)


def _frame(
    values: AnyArray, cname: str = "zstd", shuffle: int = 2, blocksize: int = 1 << 15
) -> bytes:
    encoded: bytes = numcodecs.blosc.compress(values, cname.encode(), 5, shuffle, blocksize)
    return encoded


def _is_decoded_here(frame: bytes) -> bool:
    return blosc2.decodes(frame, blosc_header(frame))


def _frames() -> Iterator[tuple[int, bytes]]:
    """Frames with several blocks, and where each of their blocks begins."""
    frame = _frame(SERIES)
    count = -(-SERIES.nbytes // blosc_header(frame)[5])
    for start in struct.unpack_from(f"<{count}i", frame, 16):
        yield start, frame


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_what_is_decoded_is_what_numcodecs_decodes(data: st.DataObject) -> None:
    draw = data.draw
    width = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 16, 255]))
    count = draw(st.sampled_from([1, 7, 8, 9, 64, 65, 1000, 4096, 10_896, 40_001]))
    rng = np.random.default_rng(draw(st.integers(0, 100)))
    values = rng.integers(0, draw(st.sampled_from([1, 3, 256])), count * width).astype(np.uint8)
    frame = numcodecs.blosc.compress(
        values.view(f"V{width}"),
        draw(st.sampled_from([b"zstd", b"lz4", b"lz4hc", b"zlib", b"blosclz"])),
        draw(st.integers(0, 9)),
        draw(st.integers(0, 2)),
        draw(st.sampled_from([0, 256, 1000, 1 << 12, 1 << 15, 1 << 18])),
    )
    expected = numcodecs.blosc.decompress(frame)
    assert bytes(blosc_decode(frame, values.nbytes)) == expected == values.tobytes()


@pytest.mark.parametrize("series", [True, False])
def test_chunks_of_the_preset_dual_are_decoded_here(series: bool) -> None:
    (step,) = preset("dual", SERIES.dtype, series=series)
    shuffle = {"shuffle": 1, "bitshuffle": 2}[step.get("shuffle", "")]
    frame = _frame(SERIES, step.get("cname", ""), shuffle, step.get("blocksize", 0))
    assert _is_decoded_here(frame)
    part = decode_part((step,), frame, SERIES.nbytes, 70_000, 70_100)
    if part is not None:
        values, first = part
        assert bytes(values)[70_000 - first : 70_100 - first] == SERIES.tobytes()[70_000:70_100]


@pytest.mark.parametrize("length", [0, -1, -300, 1 << 30])
def test_a_block_whose_length_is_damaged_is_no_block_of_blosc_2(length: int) -> None:
    tried = 0
    for start, frame in _frames():
        damaged = bytearray(frame)
        struct.pack_into("<i", damaged, start, length)
        assert not _is_decoded_here(bytes(damaged))
        with pytest.raises(CorruptDataError, match="damaged"):
            blosc_decode(bytes(damaged), SERIES.nbytes)
        tried += 1
    assert tried > 2


@pytest.mark.parametrize("blocksize", [0, SERIES.nbytes + 1, 1 << 29, (1 << 31) - 1])
def test_a_block_is_no_longer_than_the_frame(blocksize: int) -> None:
    damaged = bytearray(_frame(SERIES))
    struct.pack_into("<i", damaged, 8, blocksize)
    assert not _is_decoded_here(bytes(damaged))
    with pytest.raises(CorruptDataError, match="damaged"):
        blosc_decode(bytes(damaged), SERIES.nbytes)


@pytest.mark.parametrize("start", [0, 15, 1 << 30, -4])
def test_a_damaged_table_of_blocks_is_an_error(start: int) -> None:
    damaged = bytearray(_frame(SERIES))
    struct.pack_into("<i", damaged, 20, start)
    with pytest.raises(CorruptDataError, match="damaged"):
        blosc_decode(bytes(damaged), SERIES.nbytes)


def test_bytes_of_a_stream_that_are_damaged_are_an_error() -> None:
    damaged = bytearray(_frame(SERIES))
    for start, _ in _frames():
        damaged[start + 4 : start + 12] = bytes(8)  # where a frame of zstd begins
    assert _is_decoded_here(bytes(damaged))
    with pytest.raises(CorruptDataError, match="damaged"):
        blosc_decode(bytes(damaged), SERIES.nbytes)


def test_threads_decode_side_by_side() -> None:
    frames = [_frame(SERIES + number) for number in range(4)]
    wrong: list[int] = []

    def work(number: int) -> None:
        out = np.empty(SERIES.nbytes, np.uint8)
        for _ in range(50):
            found = blosc_decode(frames[number], SERIES.nbytes, out)
            if bytes(found) != (SERIES + number).tobytes():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture(params=["absent", "without a library", "no library", "another library"])
def without(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """The package is not there, or what it has is of no use."""
    library = tmp_path / "lib" / "libblosc2.so"
    library.parent.mkdir()
    if request.param == "no library":
        library.write_text("no library")
    elif request.param == "another library":
        library.write_bytes(Path(numcodecs.blosc.__file__).read_bytes())

    def find_spec(name: str) -> ModuleSpec | None:
        assert name == "blosc2"
        origin = str(tmp_path / "__init__.py")
        return None if request.param == "absent" else ModuleSpec(name, None, origin=origin)

    monkeypatch.setattr(blosc2, "find_spec", find_spec)
    for cached in (blosc2._library, blosc2.available):
        cached.cache_clear()
    yield
    for cached in (blosc2._library, blosc2.available):
        cached.cache_clear()


@pytest.mark.usefixtures("without")
def test_numcodecs_decodes_where_the_library_is_missing() -> None:
    frame = _frame(SERIES)
    assert not _is_decoded_here(frame)
    assert bytes(blosc_decode(frame, SERIES.nbytes)) == SERIES.tobytes()
