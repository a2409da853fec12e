"""Codec pipelines under neutral names: presets, and encoding and decoding chunks.

A pipeline is a tuple of `CodecSpec` steps from bytes to bytes, applied first to last when a chunk
is written. Everything here works on one whole chunk in memory, holds no lock of HDF5 and may run
in many threads at once; the codecs' C code releases Python's lock.

How the steps are called in HDF5 and in Zarr is in `fmristore_stores.codecs.names`.
"""

from __future__ import annotations

import functools
import operator
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import deflate
import google_crc32c
import numpy as np
from isal import isal_zlib

from fmristore_stores.codecs import pcodec
from fmristore_stores.codecs.blosc import blosc1, blosc_decode, blosc_header, zstd_size
from fmristore_stores.codecs.room import room_for
from fmristore_stores.errors import CodecError, CorruptDataError, InvalidInputError
from fmristore_stores.protocol import AnyArray, Buffer
from fmristore_stores.spec import CodecSpec

__all__ = [
    "BLOSC_SHUFFLES",
    "PRESETS",
    "check_encoded",
    "decode",
    "encode",
    "equivalent",
    "preset",
    "preset_name",
    "supported",
]

Pipeline = tuple[CodecSpec, ...]

_DAMAGE: tuple[Any, ...] = (
    RuntimeError,
    ValueError,
    TypeError,
    ArithmeticError,
    EOFError,
    zlib.error,
    isal_zlib.IsalError,
    deflate.DeflateError,
)
"""Errors of the codecs on damaged bytes, and on options that make no sense."""

BLOSC_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")
"""Names of blosc's shuffles; their position is their number."""


# Presets -------------------------------------------------------------------------------------


class _Preset(Protocol):
    def __call__(self, dtype: np.dtype[Any], *, series: bool) -> Pipeline: ...


def _blosc(cname: str, clevel: int) -> _Preset:
    def pipeline(dtype: np.dtype[Any], *, series: bool) -> Pipeline:
        bits = dtype.itemsize == 1 or (series and dtype.kind in "iu" and dtype.itemsize == _SHORT)
        step = CodecSpec.of(
            "blosc",
            cname=cname,
            clevel=clevel,
            shuffle="bitshuffle" if bits else "shuffle",
            typesize=dtype.itemsize,
            blocksize=_SERIES_BLOCKS[cname] if series else 0,
        )
        return (step,)

    return pipeline


def _portable(dtype: np.dtype[Any], *, series: bool) -> Pipeline:  # noqa: ARG001
    deflate = CodecSpec.of("deflate", level=4)
    if dtype.itemsize == 1:
        return (deflate,)
    return (CodecSpec.of("shuffle", elementsize=dtype.itemsize), deflate)


def _archive(dtype: np.dtype[Any], *, series: bool) -> Pipeline:
    if not series or not pcodec.encodes(dtype):  # along x it is larger than blosc
        return PRESETS["dual"](dtype, series=series)
    return (CodecSpec.of("pcodec", dtype=dtype.name, level=pcodec.LEVEL),)


_SHORT = 2
_PAIRS = np.dtype("<u2")
_SERIES_BLOCKS = {"zstd": 1 << 16, "lz4": 1 << 15}
"""Sizes to ask blosc for so that it makes blocks of 64 KiB: a voxel's series then lies in one or
two of them, which are decoded alone. Takes 0.1 to 0.7 % more space than undivided chunks."""
PRESETS: Mapping[str, _Preset] = {
    "portable": _portable,
    "dual": _blosc("zstd", 5),
    "fast": _blosc("lz4", 5),
    "archive": _archive,
    "none": lambda dtype, *, series: (),  # noqa: ARG005
}
"""Named pipelines, as functions of the array's dtype and of whether time varies fastest."""


def preset(name: str, dtype: np.dtype[Any], *, series: bool = False) -> Pipeline:
    """Pipeline of a named preset.

    Parameters
    ----------
    name : str
        Of the preset.
    dtype : dtype
        Of the data.
    series : bool
        Whether neighbouring values are successive samples of one voxel, in chunks of a multiple
        of eight values. 16-bit samples are then best shuffled by bits, all else by bytes.

    Raises
    ------
    InvalidInputError
        If there is no preset of that name.
    """
    if name not in PRESETS:
        msg = f"unknown codec preset {name!r}; there are {', '.join(PRESETS)}"
        raise InvalidInputError(msg)
    return PRESETS[name](dtype, series=series)


def preset_name(pipeline: Pipeline, dtype: np.dtype[Any]) -> str | None:
    """Name of the preset that makes a pipeline, None if none does."""
    for name, make in PRESETS.items():
        if any(equivalent(pipeline, make(dtype, series=series)) for series in (False, True)):
            return name
    return None


def equivalent(one: Pipeline, other: Pipeline) -> bool:
    """True if two pipelines decode each other's chunks: options may differ that chunks state.

    Those are blosc's block size, for which HDF5 has no place, and how pcodec found its model.
    """
    return _for_decoding(one) == _for_decoding(other)


def _for_decoding(pipeline: Pipeline) -> list[tuple[str, list[tuple[str, Any]]]]:
    return [
        (step.name, [option for option in step.options if not _only_encodes(step.name, option[0])])
        for step in pipeline
    ]


def _only_encodes(name: str, option: str) -> bool:
    return option == "blocksize" or (name == "pcodec" and option != "dtype")


# Encoding and decoding one chunk -------------------------------------------------------------


def _shuffle(data: Buffer, width: int) -> Buffer:
    """Byte transposition of HDF5's shuffle filter; a tail shorter than an element stays."""
    flat = np.frombuffer(data, np.uint8)
    if not 1 < width <= len(flat):
        return data
    body = len(flat) // width * width
    planes: bytes = flat[:body].reshape(-1, width).T.tobytes()
    return planes + flat[body:].tobytes()


def _unshuffle(data: Buffer, width: int, out: AnyArray | None = None) -> Buffer:
    flat = np.frombuffer(data, np.uint8)
    if not 1 < width <= len(flat):
        return data
    count = len(flat) // width
    room = room_for(len(flat), out)
    if width == _SHORT and 2 * count == len(flat):  # arithmetic is twice as fast as moving bytes
        numbers = room.view(_PAIRS)
        np.left_shift(flat[count:], 8, out=numbers, dtype=np.uint16)
        numbers |= flat[:count]
        return room.data
    elements = room[: count * width].reshape(count, width)
    planes = flat[: count * width].reshape(width, count)
    for byte in range(width):
        elements[:, byte] = planes[byte]
    room[count * width :] = flat[count * width :]
    return room.data


def _numcodecs() -> Any:
    import numcodecs

    return numcodecs


def _deflate(data: Buffer, level: int) -> bytes:
    """Compress to a zlib stream."""
    return bytes(deflate.zlib_compress(data, level))


def _undeflate(data: Buffer, limit: int) -> Buffer:
    """Decompress a zlib stream that must not yield more than `limit` bytes."""
    return memoryview(deflate.zlib_decompress(data, max(1, limit)))


def _ungzip(data: Buffer, limit: int) -> bytes:
    """Decompress a gzip stream that must not yield more than `limit` bytes."""
    engine = isal_zlib.decompressobj(wbits=31)
    out: bytes = engine.decompress(data, limit + 1)
    if not engine.eof and len(out) <= limit:
        raise CorruptDataError("the compressed stream of a chunk is truncated")
    return out


def _zstd_decode(data: Buffer, limit: int, out: AnyArray | None = None) -> Buffer:
    size = zstd_size(data)
    if size is not None and size > limit:
        msg = f"a zstd chunk claims {size} bytes where at most {limit} are possible"
        raise CorruptDataError(msg)
    # Without a size in the frame, numcodecs asks for a buffer of exactly the right one.
    room = room_for(limit if size is None else size, out)
    _numcodecs().Zstd().decode(data, room)
    return room.data


def _checked(data: Buffer, width: int, checksum: Callable[[Buffer], bytes], name: str) -> Buffer:
    view = memoryview(data)
    if view.nbytes <= width or checksum(view[:-width]) != bytes(view[-width:]):
        msg = f"the {name} checksum of a chunk does not match: its bytes are damaged"
        raise CorruptDataError(msg)
    return view[:-width]


def _crc32c(data: Buffer) -> bytes:
    return int(google_crc32c.value(bytes(data))).to_bytes(4, "little")


def _fletcher32(data: Buffer) -> bytes:
    return bytes(_numcodecs().Fletcher32().encode(bytes(data)))[-4:]


def _encode_step(step: CodecSpec, data: Buffer) -> Buffer:
    match step.name:
        case "blosc":
            shuffle = BLOSC_SHUFFLES.index(step.get("shuffle", "shuffle"))
            width = step.get("typesize", 1)
            elements = np.dtype(f"V{width}" if memoryview(data).nbytes % width == 0 else "u1")
            return blosc1().compress(  # type: ignore[no-any-return]
                np.frombuffer(data, elements),
                step.get("cname", "zstd").encode(),
                step.get("clevel", 5),
                shuffle,
                step.get("blocksize", 0),
            )
        case "pcodec":
            return pcodec.pcodec_encode(data, _dtype(step), step.get("level", pcodec.LEVEL))
        case "zstd":
            return _numcodecs().Zstd(step.get("level", 3), step.get("checksum", False)).encode(data)  # type: ignore[no-any-return]
        case "deflate":
            return _deflate(data, step.get("level", 4))
        case "gzip":
            engine = zlib.compressobj(step.get("level", 4), wbits=31)
            return engine.compress(data) + engine.flush()
        case "shuffle":
            return _shuffle(data, step.get("elementsize", 1))
        case "crc32c":
            return bytes(data) + _crc32c(data)
        case "fletcher32":
            return bytes(data) + _fletcher32(data)
    msg = f"codec {step} cannot be encoded here"
    raise CodecError(msg)


def _decode_step(step: CodecSpec, data: Buffer, limit: int, out: AnyArray | None = None) -> Buffer:
    match step.name:
        case "blosc":
            return blosc_decode(data, limit, out)
        case "pcodec":
            return pcodec.pcodec_decode(data, _dtype(step), limit, out)
        case "zstd":
            return _zstd_decode(data, limit, out)
        case "deflate":
            return _undeflate(data, limit)
        case "gzip":
            return _ungzip(data, limit)
        case "shuffle":
            return _unshuffle(data, step.get("elementsize", 1), out)
        case "crc32c":
            return _checked(data, 4, _crc32c, "crc32c")
        case "fletcher32":
            return _checked(data, 4, _fletcher32, "fletcher32")
    msg = f"codec {step} is not known; is its plugin installed?"
    raise CodecError(msg)


def _dtype(step: CodecSpec) -> np.dtype[Any]:
    named: np.dtype[Any] = np.dtype(step.get("dtype", ""))
    return named.newbyteorder("<")


_KNOWN = frozenset(
    {"blosc", "zstd", "deflate", "gzip", "pcodec", "shuffle", "crc32c", "fletcher32"}
)
_NAME = operator.attrgetter("name")
_SAME_SIZE = frozenset({"shuffle"})
_CHECKSUM = frozenset({"crc32c", "fletcher32"})
_LARGE = 16 * 1024 * 1024
"""Bytes of a chunk from which it is worth to find out early that it cannot be decoded."""
_DEFLATE_RATIO = 1032
"""Most bytes that one byte of a deflate stream stands for (zlib's technical details)."""


def supported(codecs: Pipeline) -> bool:
    """Return whether every step can be encoded and decoded here."""
    return all(step.name in _KNOWN for step in codecs)


def encode(codecs: Pipeline, values: AnyArray) -> Buffer:
    """Encode one whole chunk.

    Parameters
    ----------
    codecs : tuple of CodecSpec
        The pipeline.
    values : ndarray
        The chunk, C-contiguous and little-endian, axes in the order of its bytes.

    Returns
    -------
    bytes-like
        What is to be stored.
    """
    data: Buffer = values.reshape(-1).view(np.uint8).data
    for step in codecs:
        data = _encode_step(step, data)
    return data


def decode(
    codecs: Pipeline,
    data: Buffer,
    nbytes: int,
    *,
    skip: int = 0,
    out: AnyArray | None = None,
) -> Buffer:
    """Decode one whole chunk.

    Parameters
    ----------
    codecs : tuple of CodecSpec
        The pipeline, in the order in which it was applied.
    data : bytes-like
        The encoded chunk.
    nbytes : int
        Size of the decoded chunk. Nothing much larger is ever allocated, whatever `data` claims.
    skip : int
        Bit k set: step k was not applied (the filter mask of HDF5).
    out : ndarray of uint8, optional
        Where the bytes may be decoded to: memory that is used again costs half the time.

    Returns
    -------
    bytes-like
        Exactly `nbytes` bytes, in `out` or elsewhere.

    Raises
    ------
    CorruptDataError
        If the bytes are damaged or do not decode to `nbytes` bytes.
    CodecError
        If a step is not known.
    """
    steps = codecs
    if skip:
        steps = tuple(step for number, step in enumerate(codecs) if not skip >> number & 1)
    if nbytes > _LARGE:
        _check_ratio(steps, memoryview(data).nbytes, nbytes)
    limits = (nbytes,) if len(steps) == 1 else _limits(tuple(map(_NAME, steps)), nbytes)
    for step, limit in zip(reversed(steps), limits, strict=True):
        try:
            data = _decode_step(step, data, limit, out if step is steps[0] else None)
        except _DAMAGE as error:
            if isinstance(error, CorruptDataError | InvalidInputError):
                raise
            msg = f"{step.name} cannot decode a chunk: its bytes are damaged ({error})"
            raise CorruptDataError(msg) from error
    size = memoryview(data).nbytes
    if size != nbytes:
        msg = f"a chunk decodes to {size} bytes where {nbytes} were expected"
        raise CorruptDataError(msg)
    return data


def _check_ratio(steps: Sequence[CodecSpec], encoded: int, nbytes: int) -> None:
    """Refuse a chunk that is too short to be what it claims, before memory is taken for it."""
    shrinking = [step.name for step in steps if step.name not in _CHECKSUM | _SAME_SIZE]
    if shrinking in (["deflate"], ["gzip"]) and nbytes > _DEFLATE_RATIO * (encoded + 1):
        msg = f"a chunk of {encoded} bytes cannot decode to {nbytes} with {shrinking[0]}"
        raise CorruptDataError(msg)


def check_encoded(codecs: Pipeline, data: Buffer, nbytes: int) -> None:
    """Look for damage of an encoded chunk that shows without decoding it.

    Parameters
    ----------
    codecs : tuple of CodecSpec
        The pipeline, in the order in which it was applied.
    data : bytes-like
        The encoded chunk.
    nbytes : int
        Size of the decoded chunk.

    Raises
    ------
    CorruptDataError
        If a length or a checksum that the last step keeps is wrong.
    """
    last = codecs[-1].name if codecs else ""
    size: int | None = None
    if not codecs:
        size = memoryview(data).nbytes
    elif last == "blosc":
        size = blosc_header(data)[4]
    elif last == "zstd":
        size = zstd_size(data)
    elif last in _CHECKSUM:
        _decode_step(codecs[-1], data, nbytes)
    if len(codecs) <= 1 and size not in (None, nbytes):
        msg = f"a chunk is one of {size} bytes where {nbytes} were expected"
        raise CorruptDataError(msg)


@functools.lru_cache
def _limits(steps: tuple[str, ...], nbytes: int) -> tuple[int, ...]:
    """Most bytes that each step may yield when decoding, in decoding order (last step first)."""
    limits = []
    limit = nbytes
    for step in steps:
        limits.append(limit)
        if step in _CHECKSUM:
            limit += 4
        elif step not in _SAME_SIZE:
            limit += limit // 8 + 4096
    return tuple(limits[::-1])
