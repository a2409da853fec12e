"""Frames of blosc and zstd: what their headers say, and decoding a part of one.

References
----------
Blosc chunk format: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from itertools import accumulate
from typing import Any

from fmristore_stores.codecs import blosc2
from fmristore_stores.codecs.blosc2 import HEADER, integers
from fmristore_stores.codecs.room import room_for
from fmristore_stores.errors import CorruptDataError
from fmristore_stores.protocol import AnyArray, Buffer
from fmristore_stores.spec import CodecSpec

__all__ = [
    "blosc1",
    "blosc_decode",
    "blosc_header",
    "decode_part",
    "decodes_parts",
    "zstd_bound",
    "zstd_size",
]

_BLOSC_MEMCPYED = 0x02
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 128 * 1024
"""Most bytes that one block of a zstd frame decodes to (RFC 8878, 3.1.1.2.4)."""


@functools.cache
def blosc1() -> Any:
    """Blosc in numcodecs, which takes long to import; on one thread, since ours decode chunks."""
    import numcodecs.blosc

    numcodecs.blosc.use_threads = False  # as zarr-python does
    return numcodecs.blosc


def zstd_size(data: Buffer) -> int | None:
    """Content size in the header of a zstd frame, None if it has none (RFC 8878, 3.1.1.1)."""
    head = bytes(memoryview(data).cast("B")[:18])
    if len(head) < 5 or not head.startswith(_ZSTD_MAGIC):
        raise CorruptDataError("a zstd chunk does not begin as a zstd frame does")
    flags = head[4]
    single = flags >> 5 & 1
    start = 6 - single + (0, 1, 2, 4)[flags & 3]
    width = (single, 2, 4, 8)[flags >> 6]
    if len(head) < start + width:
        raise CorruptDataError("a zstd chunk is shorter than its header")
    size = int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)
    return size if width else None


def zstd_bound(data: Buffer) -> int:
    """Most bytes that a zstd frame may decode to, from its header or those of its blocks.

    Raises
    ------
    CorruptDataError
        If it is no such frame, or shorter than its blocks.
    """
    size = zstd_size(data)
    if size is not None:
        return size
    view = memoryview(data).cast("B")
    flags, total, last = view[4], 0, 0
    position = 6 - (flags >> 5 & 1) + (0, 1, 2, 4)[flags & 3]
    while not last:
        header = int.from_bytes(view[position : position + 3], "little")
        last, kind, length = header & 1, header >> 1 & 3, header >> 3
        total += min(length, _ZSTD_BLOCK) if kind < 2 else _ZSTD_BLOCK
        position += 3 + (1 if kind == 1 else length)
        if position > view.nbytes:
            raise CorruptDataError("a zstd chunk ends before its last block")
    return total


def blosc_header(data: Buffer) -> tuple[int, ...]:
    """Version, compressor, flags, type size, decoded size, block size and size of a blosc frame.

    Raises
    ------
    CorruptDataError
        If a size is negative, or not that of `data`.
    """
    view = memoryview(data)
    if view.nbytes < HEADER.size:
        raise CorruptDataError("a blosc chunk is shorter than its header")
    header = HEADER.unpack_from(view)
    if header[6] != view.nbytes or header[4] < 0 or header[5] < 0:
        msg = f"a blosc chunk of {view.nbytes} bytes claims to have {header[6]}"
        raise CorruptDataError(msg)
    return header


def blosc_decode(data: Buffer, limit: int, out: AnyArray | None = None) -> Buffer:
    """Decode a frame, with the faster of the libraries that are installed.

    Parameters
    ----------
    data : bytes-like
    limit : int
        Most bytes that it may decode to.
    out : ndarray of uint8, optional
        Where they may go, if there are enough.

    Raises
    ------
    CorruptDataError
        If it claims to be more, or is damaged.
    """
    header = blosc_header(data)
    size = header[4]
    if size > limit:
        msg = f"a blosc chunk claims {size} bytes where at most {limit} are possible"
        raise CorruptDataError(msg)
    room = room_for(size, out)
    if blosc2.decodes(data, header):
        blosc2.decompress(data, room)
        return room.data
    try:
        blosc1().decompress(data, room)
    except (RuntimeError, ValueError) as error:
        msg = f"blosc cannot decode a chunk: its bytes are damaged ({error})"
        raise CorruptDataError(msg) from error
    return room.data


def decodes_parts(codecs: tuple[CodecSpec, ...]) -> bool:
    """Return whether `decode_part` may decode less than a whole chunk."""
    return len(codecs) == 1 and codecs[0].name == "blosc"


def decode_part(
    codecs: tuple[CodecSpec, ...], data: Buffer, nbytes: int, start: int, stop: int
) -> tuple[Buffer, int] | None:
    """Decode only the part of a chunk that holds the bytes from `start` to `stop`.

    Works for a single blosc step (see `decodes_parts`) whose chunk has several blocks: a smaller
    frame made of the wanted blocks alone is handed to blosc.

    Returns
    -------
    part, offset : bytes-like, int
        Decoded bytes, and the position of their first one in the whole chunk; None where the
        whole chunk has to be decoded.
    """
    if not decodes_parts(codecs):
        return None
    version, compressor, flags, width, size, blocksize, total = blosc_header(data)
    if flags & _BLOSC_MEMCPYED or not 0 < blocksize <= size or size != nbytes:
        return None
    first, last, count = start // blocksize, -(-stop // blocksize), -(-size // blocksize)
    if last == count and first == last - 1 and size % blocksize:
        first -= 1  # blosc refuses a frame that is shorter than its block size
    if first < 0 or last - first >= count or HEADER.size + 4 * count > total:
        return None
    view = memoryview(data).cast("B")
    table = integers(count).unpack_from(view, HEADER.size)
    bounds = [*sorted(table), total]  # blocks lie in any order, each up to where the next begins
    if bounds[0] < HEADER.size + 4 * count or bounds[-2] >= total:
        raise CorruptDataError("the table of blocks of a blosc chunk is damaged")
    blocks = [view[begin : bounds[bisect_right(bounds, begin)]] for begin in table[first:last]]
    end = HEADER.size + 4 * len(blocks)
    starts = list(accumulate(map(len, blocks), initial=end))
    wanted = min(last * blocksize, size) - first * blocksize
    header = HEADER.pack(version, compressor, flags, width, wanted, blocksize, starts[-1])
    frame = b"".join((header, integers(len(blocks)).pack(*starts[:-1]), *blocks))
    part = blosc_decode(frame, wanted)
    return part, first * blocksize
