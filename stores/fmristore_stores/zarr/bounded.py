"""Codecs of zarr-python that look at an encoded chunk before they take memory for it.

An encoded chunk says how much it decodes to. Zarr-python believes it: a chunk of 28 bytes takes
4 GiB if it claims 2**29 texts. These codecs are chosen for arrays of our stores alone, by
zarr-python's own configuration. Imported on use, as zarr-python is.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
import zarr.codecs
import zarr.codecs.numcodecs
from zarr.registry import register_codec

from fmristore_stores.zarr.frames import check_count, check_frame, most_decoded

__all__ = ["bounded"]


if TYPE_CHECKING:

    class _Codec:
        def _decode_sync(self, chunk: Any, spec: Any) -> Any: ...

        async def _decode_single(self, chunk: Any, spec: Any) -> Any: ...
else:
    _Codec = object


class _Bounded(_Codec):
    """Looks at an encoded chunk, then does what the codec does."""

    frame = ""

    def _look(self, chunk: Any, spec: Any) -> None:
        data = np.ascontiguousarray(chunk.as_numpy_array()).reshape(-1).view(np.uint8).data
        if self.frame:
            check_frame(self.frame, data, _limit(spec))
        else:
            check_count(data, math.prod(spec.shape))

    def _decode_sync(self, chunk: Any, spec: Any) -> Any:
        self._look(chunk, spec)
        return super()._decode_sync(chunk, spec)

    async def _decode_single(self, chunk: Any, spec: Any) -> Any:
        self._look(chunk, spec)
        return await super()._decode_single(chunk, spec)


def _limit(spec: Any) -> int:
    dtype = spec.dtype.to_native_dtype()
    return most_decoded(math.prod(spec.shape), None if dtype.kind in "OT" else dtype.itemsize)


def _register() -> dict[str, str]:
    """Make a bounded codec of each kind, and return their full names by that of the kind."""
    ours = zarr.codecs.numcodecs
    kinds: list[tuple[str, str, Any]] = [
        ("vlen-utf8", "", zarr.codecs.VLenUTF8Codec),
        ("vlen-bytes", "", zarr.codecs.VLenBytesCodec),
        ("zstd", "zstd", zarr.codecs.ZstdCodec),
        ("gzip", "gzip", zarr.codecs.GzipCodec),
        ("blosc", "blosc", zarr.codecs.BloscCodec),
        *(
            (f"numcodecs.{kind.__name__.lower()}", kind.__name__.lower(), kind)
            for kind in (ours.Zstd, ours.GZip, ours.Zlib, ours.Blosc, ours.BZ2, ours.LZMA, ours.LZ4)
        ),
    ]
    names = {}
    for key, frame, kind in kinds:
        name = kind.__name__  # zarr-python compares the name of the codec for text
        made = type(name, (_Bounded, kind), {"frame": frame, "__module__": __name__})
        register_codec(key, made)
        names[key] = f"{__name__}.{name}"
    return names


_NAMES = _register()


def bounded() -> AbstractContextManager[Any]:
    """While entered, arrays that zarr-python opens decode with these codecs.

    To be entered by one thread at a time: the configuration is that of the process.
    """
    entered: AbstractContextManager[Any] = zarr.config.set(
        {"codecs": {**zarr.config.get("codecs", {}), **_NAMES}}
    )
    return entered
