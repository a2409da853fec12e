"""Chunks of pcodec, a codec for numerical series: https://github.com/pcodec/pcodec.

A chunk is one file of its standalone format. The package is imported on use.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from fmristore_stores.codecs.room import room_for
from fmristore_stores.errors import CorruptDataError, DependencyError
from fmristore_stores.protocol import AnyArray, Buffer

__all__ = ["LEVEL", "encodes", "pcodec_decode", "pcodec_encode"]

LEVEL = 8
"""Level of compression where none is given, as in numcodecs."""

_WIDTHS = {"i": (2, 4, 8), "u": (2, 4, 8), "f": (2, 4, 8)}


def encodes(dtype: np.dtype[Any]) -> bool:
    """Return whether pcodec encodes values of a type: integers and floats of 16 to 64 bits."""
    return dtype.itemsize in _WIDTHS.get(dtype.kind, ())


def pcodec_encode(data: Buffer, dtype: np.dtype[Any], level: int) -> bytes:
    """Encode the values of one chunk.

    Raises
    ------
    DependencyError
        If the package pcodec is not installed.
    """
    package = _package()
    values = np.frombuffer(data, dtype)
    encoded: bytes = package.standalone.simple_compress(
        values, package.ChunkConfig(compression_level=level)
    )
    return encoded


def pcodec_decode(
    data: Buffer, dtype: np.dtype[Any], limit: int, out: AnyArray | None = None
) -> Buffer:
    """Decode one chunk that must hold `limit` bytes, which nothing beyond is allocated for.

    Raises
    ------
    CorruptDataError
        If there are more or fewer values.
    DependencyError
        If the package pcodec is not installed.
    """
    count = limit // dtype.itemsize
    nbytes = count * dtype.itemsize
    values = room_for(nbytes, out).view(dtype)
    if not values.flags.aligned:  # which pcodec refuses
        values = np.empty(count, dtype)
    progress = _package().standalone.simple_decompress_into(bytes(data), values)
    if progress.n_processed != count or not progress.finished:
        least = "" if progress.finished else "at least "
        raise CorruptDataError(
            f"a pcodec chunk holds {least}{progress.n_processed} values where {count} were expected"
        )
    return values.view(np.uint8).data


def _package() -> ModuleType:
    try:
        import pcodec
    except ImportError as error:
        raise DependencyError(
            'chunks of the preset "archive" need pcodec: pip install "fmristore[archive]"'
        ) from error
    module: ModuleType = pcodec
    return module
