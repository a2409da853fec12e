"""Arrays as Zarr format 2 describes them, which is what reference files hold, and as specs.

References
----------
Zarr format 2: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np

from fmristore_stores.codecs.pipeline import BLOSC_SHUFFLES, Pipeline, supported
from fmristore_stores.errors import (
    CodecError,
    CorruptDataError,
    InvalidInputError,
    MetadataError,
)
from fmristore_stores.protocol import AnyArray, Buffer
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout, CodecSpec, is_string

__all__ = [
    "DIMENSIONS",
    "Form",
    "array_document",
    "as_text",
    "parse_array",
    "steps_of",
    "text_chunk",
    "unpack_text",
]

DIMENSIONS = "_ARRAY_DIMENSIONS"
"""Attribute of an array with the names of its axes, as xarray wants it."""
_PHONY = re.compile(r"phony_dim_\d+")
"""Name that software gives an axis without one, where there must be one."""
_TEXT_STEP = "vlen-utf8"
_LIMIT = 2**63
_SEPARATORS = (".", "/")
_NAMES = {
    "deflate": "zlib",
    "gzip": "gzip",
    "zstd": "zstd",
    "blosc": "blosc",
    "shuffle": "shuffle",
    "fletcher32": "fletcher32",
    "crc32c": "crc32c",
}
_NEUTRAL = {numcodecs: neutral for neutral, numcodecs in _NAMES.items()}
_COMPRESSORS = frozenset({"deflate", "gzip", "zstd", "blosc"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Form of an array by its metadata.

    Parameters
    ----------
    spec : ArraySpec
        As it is shown to users.
    stored : dtype
        Of the bytes of a decoded chunk: perhaps big-endian, or text of fixed length. That of
        Python objects where text is of any length.
    separator : str
        Between the data of a chunk's key.
    """

    spec: ArraySpec
    stored: np.dtype[Any]
    separator: str

    @property
    def direct(self) -> bool:
        """True if decoded chunks are the elements of the spec as they are in memory."""
        return self.stored == self.spec.dtype and supported(self.spec.codecs)


# Writing -------------------------------------------------------------------------------------


def array_document(spec: ArraySpec, *, stored: np.dtype[Any] | None = None) -> dict[str, Any]:
    """Metadata of an array for the key ``.zarray``.

    Parameters
    ----------
    spec : ArraySpec
        Without shards, axes in the order of the bytes.
    stored : dtype, optional
        Of the bytes, if not that of the spec.

    Raises
    ------
    CodecError
        If a step has no name there.
    """
    filters = [*steps_of(spec.codecs)]
    text = is_string(spec.dtype)
    if text:
        filters.insert(0, {"id": _TEXT_STEP})
    last = spec.codecs[-1].name if spec.codecs else ""
    compressor = filters.pop() if last in _COMPRESSORS else None
    return {
        "zarr_format": 2,
        "shape": list(spec.shape),
        "chunks": list(spec.layout.chunks),
        "dtype": "|O" if text else (stored or spec.dtype).str,
        # A default, xarray would take for the mark of missing values.
        "fill_value": None if spec.fill_value is None else _fill_document(spec),
        "order": "C",
        "filters": filters or None,
        "compressor": compressor,
        "dimension_separator": ".",
    }


def text_chunk(values: AnyArray) -> bytes:
    """One chunk of text: the number of texts, and each in UTF-8 with its length before it."""
    texts = np.array(values.reshape(-1).tolist(), object)
    return bytes(numcodecs.VLenUTF8().encode(texts))


def steps_of(codecs: Pipeline) -> list[dict[str, Any]]:
    """Configurations of a pipeline under the names of numcodecs.

    Raises
    ------
    CodecError
        If a step has no name there.
    """
    found = []
    for step in codecs:
        if step.name not in _NAMES:
            raise CodecError(f"codec {step} has no name in Zarr format 2")
        options = dict(step.options)
        if step.name == "blosc":
            # Older readers know no typesize; it only matters for encoding.
            options = {
                "cname": step.get("cname", "zstd"),
                "clevel": step.get("clevel", 5),
                "shuffle": BLOSC_SHUFFLES.index(step.get("shuffle", "shuffle")),
                "blocksize": step.get("blocksize", 0),
            }
        elif step.name == "zstd":
            options = {"level": step.get("level", 3)}
        found.append({"id": _NAMES[step.name], **options})
    return found


def _fill_document(spec: ArraySpec) -> Any:
    if is_string(spec.dtype):
        return spec.fill
    value = np.asarray(spec.fill).astype(spec.dtype)[()]
    if spec.dtype.kind == "c":
        return [_real_document(float(value.real)), _real_document(float(value.imag))]
    if spec.dtype.kind == "f":
        return _real_document(float(value))
    return value.item()


def _real_document(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


# Reading -------------------------------------------------------------------------------------


def parse_array(document: Any, attributes: Mapping[str, Any]) -> Form:
    """Understand the metadata of an array.

    Parameters
    ----------
    document : object
        What ``.zarray`` holds.
    attributes : mapping
        What ``.zattrs`` holds.

    Raises
    ------
    MetadataError
        If it makes no array that can be used here.
    """
    try:
        return _parse(document, attributes)
    except (InvalidInputError, MetadataError) as error:
        raise MetadataError(f"this array cannot be used: {error.message}") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise MetadataError(f"the metadata of this array is not understood: {error!r}") from error


def _parse(document: Any, attributes: Mapping[str, Any]) -> Form:
    if document["zarr_format"] != 2:
        raise MetadataError("it is not of Zarr format 2")
    shape, chunks = _lengths(document["shape"]), _lengths(document["chunks"])
    if len(shape) != len(chunks):
        raise MetadataError(f"chunks of shape {chunks} do not fit shape {shape}")
    if not isinstance(document["dtype"], str):
        raise MetadataError("structured types are not known")
    stored = np.dtype(document["dtype"])
    filters, compressor = document.get("filters") or [], document.get("compressor")
    steps = [*filters, *([compressor] if compressor else [])]
    if stored.kind == "O":
        if not steps or steps.pop(0).get("id") != _TEXT_STEP:
            raise MetadataError("objects of Python are not read, only text")
    elif stored.kind not in "biufcSU" or stored.itemsize == 0:
        raise MetadataError(f"elements of type {stored} are neither numbers nor text")
    text = stored.kind in "OSU"
    dtype = np.dtypes.StringDType() if text else stored.newbyteorder("<")
    whole = tuple(max(c, 1) for c in chunks)
    if any(math.prod(max(n, 1) for n in s) * stored.itemsize >= _LIMIT for s in (shape, whole)):
        raise MetadataError("the shape or chunk shape is absurd")
    order = tuple(reversed(range(len(shape)))) if document.get("order", "C") == "F" else ()
    separator = document.get("dimension_separator") or "."
    if separator not in _SEPARATORS:
        raise MetadataError(f"the separator {separator!r} is not known")
    spec = ArraySpec(
        shape=shape,
        dtype=dtype,
        dims=_dims(attributes.get(DIMENSIONS), len(shape)),
        layout=ChunkLayout(chunks=whole, order=order),
        codecs=tuple(_step(step, stored) for step in steps),
        fill_value=_fill_value(document.get("fill_value"), stored),
    )
    return Form(spec=spec, stored=stored, separator=separator)


def _lengths(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(n) is int and n >= 0 for n in values):
        raise MetadataError(f"{str(values)[:80]} is no list of lengths")
    return tuple(values)


def _dims(names: Any, rank: int) -> tuple[str, ...]:
    if not isinstance(names, list) or len(names) != rank:
        return ()
    given = [name if isinstance(name, str) and not _PHONY.fullmatch(name) else "" for name in names]
    return tuple(name if name not in given[:i] else "" for i, name in enumerate(given))


def _step(step: Mapping[str, Any], stored: np.dtype[Any]) -> CodecSpec:
    options = {name: value for name, value in step.items() if name != "id"}
    plain = all(value is None or isinstance(value, str | int | bool) for value in options.values())
    name = _NEUTRAL.get(step["id"]) if plain else None
    match name:
        case "blosc":
            shuffle = options.get("shuffle", 1)
            if type(shuffle) is int and -1 <= shuffle < len(BLOSC_SHUFFLES):
                # -1: as the width of the elements suggests
                options["shuffle"] = BLOSC_SHUFFLES[1 if shuffle < 0 else shuffle]
                options["typesize"] = stored.itemsize
                return CodecSpec.of(name, **options)
        case "shuffle":
            width = options.get("elementsize", 4)
            if type(width) is int and 0 < width <= 256:
                return CodecSpec.of(name, elementsize=width)
        case "crc32c" | "fletcher32":
            if not options or options == {"location": "end"}:
                return CodecSpec.of(name)
        case str():
            return CodecSpec.of(name, **options)
    text = json.dumps(dict(step), sort_keys=True)
    return CodecSpec.of(f"zarr:{str(step['id'])[:80]}", configuration=text)


_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _fill_value(value: Any, stored: np.dtype[Any]) -> Any:
    if value is None:
        return None
    if stored.kind == "S" and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True).rstrip(b"\x00").decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise MetadataError("the fill value is not base64 of UTF-8") from error
    if stored.kind in "OU":
        return value if isinstance(value, str) else None
    if stored.kind == "c" and isinstance(value, Sequence) and len(value) == 2:
        real, imaginary = (_WORDS.get(v, v) if isinstance(v, str) else v for v in value)
        return complex(float(real), float(imaginary))
    if isinstance(value, str):
        if value not in _WORDS or stored.kind != "f":
            raise MetadataError(f"the fill value {value[:80]!r} is not known")
        return _WORDS[value]
    return value


def unpack_text(data: Buffer, count: int) -> AnyArray:
    """Text of any length: the number of texts, and each with its length before it."""
    view = memoryview(data).cast("B")
    if int.from_bytes(view[:4], "little") != count or len(view) < 4 * (count + 1):
        raise CorruptDataError(f"a chunk of text does not hold {count} texts")
    try:
        return np.asarray(numcodecs.VLenUTF8().decode(bytes(view)), object)
    except (ValueError, RuntimeError) as error:
        raise CorruptDataError(f"a chunk of text is damaged: {error}") from error


def as_text(values: AnyArray) -> AnyArray:
    """Text of any kind of numpy as that of the spec."""
    try:
        if values.dtype.kind == "S":
            values = np.char.decode(values, "utf-8")
        return values.astype(STRING)
    except (UnicodeDecodeError, ValueError) as error:
        raise CorruptDataError(f"a chunk of text is damaged: {error}") from error
