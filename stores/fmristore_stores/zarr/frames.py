"""Encoded chunks that say how much they decode to: looked at before memory is taken for it."""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import Any

from fmristore_stores.codecs.blosc import blosc_header, zstd_bound
from fmristore_stores.errors import CorruptDataError
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import Buffer

__all__ = ["check_count", "check_format_2", "check_frame", "most_decoded"]

_COUNT = 4
_PIECE = 1024 * 1024
_SLACK = 64 * 1024
"""Bytes that an encoding may have besides twice those of a chunk, where several follow it."""


def most_decoded(count: int, itemsize: int | None) -> int:
    """Most bytes that a step of a chunk may decode to.

    Parameters
    ----------
    count : int
        Elements of a chunk.
    itemsize : int or None
        Bytes of an element; None for text.
    """
    return LIMITS.text if itemsize is None else 2 * count * itemsize + _SLACK


def check_count(data: Buffer, most: int) -> None:
    """Refuse an encoded chunk of texts that claims more of them than it can hold.

    Parameters
    ----------
    data : bytes-like
        A count in the first 4 bytes, then a length of 4 bytes and the bytes of each.
    most : int
        Elements of a chunk.

    Raises
    ------
    CorruptDataError
        If the count is larger than `most`, or the bytes are too few for it.
    """
    view = memoryview(data).cast("B")
    count = int.from_bytes(view[:_COUNT], "little")
    if view.nbytes < _COUNT or count > most or _COUNT * (count + 1) > view.nbytes:
        msg = f"a chunk of at most {most} texts claims {count} in {view.nbytes} bytes: damaged"
        raise CorruptDataError(msg)


def check_frame(name: str, data: Buffer, limit: int) -> None:
    """Refuse an encoded chunk that decodes to more than `limit` bytes, or claims to.

    Parameters
    ----------
    name : str
        Of the codec, as in numcodecs.
    data : bytes-like
        The encoded chunk.
    limit : int
        Most bytes it may decode to.

    Raises
    ------
    CorruptDataError
        If it is more, or the frame is damaged.
    """
    view = memoryview(data).cast("B")
    match name:
        case "blosc":
            size = blosc_header(view)[4]
        case "zstd":
            size = zstd_bound(view)
        case "lz4":
            size = int.from_bytes(view[:4], "little")
        case "zlib" | "gzip" | "bz2" | "lzma":
            size = _decoded_size(name, view, limit)
        case _:
            return
    if size > limit:
        msg = f"a {name} chunk decodes to {size} bytes or more where {limit} are possible"
        raise CorruptDataError(msg)


def check_format_2(metadata: Any, data: Buffer, *, count: int, itemsize: int | None) -> None:
    """Refuse an encoded chunk of Zarr format 2 that claims more than it can hold.

    Parameters
    ----------
    metadata : ArrayV2Metadata
        Of the array.
    data : bytes-like
        The encoded chunk.
    count : int
        Elements of a chunk.
    itemsize : int or None
        Bytes of an element; None for text.

    Raises
    ------
    CorruptDataError
        If it claims more.
    """
    compressor, texts = metadata.compressor, ("vlen-utf8", "vlen-bytes")
    if compressor is not None:
        check_frame(compressor.codec_id, data, most_decoded(count, itemsize))
    for step in metadata.filters or ():
        if step.codec_id in texts:
            check_count(data if compressor is None else compressor.decode(data), count)


def _decoded_size(name: str, view: memoryview, limit: int) -> int:
    """Bytes that a stream decodes to, found by decoding it in pieces; stops beyond `limit`."""
    make: dict[str, Any] = {
        "zlib": zlib.decompressobj,
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "bz2": bz2.BZ2Decompressor,
        "lzma": lzma.LZMADecompressor,
    }
    size, rest = 0, view
    try:
        while rest.nbytes and size <= limit:  # several streams may follow each other
            engine = make[name]()
            feed: Buffer = rest
            while size <= limit:
                part = engine.decompress(feed, _PIECE)
                size += len(part)
                feed = getattr(engine, "unconsumed_tail", b"")
                if engine.eof or (not part and not feed):
                    break
            rest = memoryview(engine.unused_data)
    except (zlib.error, OSError, EOFError, lzma.LZMAError) as error:
        raise CorruptDataError(f"a {name} chunk is damaged: {error}") from error
    return size
