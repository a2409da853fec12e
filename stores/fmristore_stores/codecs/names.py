"""Names of codec pipelines in HDF5 and in Zarr.

=============  ====================  ========================  ====================================
neutral name   HDF5 filter           Zarr v3 codec             options
=============  ====================  ========================  ====================================
``blosc``      32001                 ``blosc``                 cname clevel shuffle typesize
                                                               blocksize
``zstd``       32015                 ``zstd``                  level, checksum
``deflate``    1 (a zlib stream)     ``numcodecs.zlib``        level
``shuffle``    2                     ``numcodecs.shuffle``     elementsize
``gzip``                             ``gzip``                  level
``pcodec``     480, "pco1"           ``numcodecs.pcodec``      level; dtype, that of the array
``crc32c``                           ``crc32c``
``fletcher32`` 3                     ``numcodecs.fletcher32``
=============  ====================  ========================  ====================================

References
----------
HDF5 filter numbers: https://github.com/HDFGroup/hdf5_plugins/blob/master/docs/RegisteredFilterPlugins.md
Numbers from 256 to 511 are free for filters that are not registered:
https://support.hdfgroup.org/documentation/hdf5/latest/group___h5_z.html
Zarr codecs: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/index.html
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmristore_stores.codecs.pcodec import LEVEL, encodes
from fmristore_stores.codecs.pipeline import BLOSC_SHUFFLES, Pipeline
from fmristore_stores.errors import CodecError
from fmristore_stores.spec import CodecSpec

__all__ = [
    "HDF5_CORE",
    "OPTIONAL",
    "PCODEC",
    "ZARR_CORE",
    "from_hdf5_filters",
    "from_zarr_codecs",
    "hdf5_filters",
    "zarr_codecs",
]

_BLOSC_FILTER, _ZSTD_FILTER, _DEFLATE_FILTER, _SHUFFLE_FILTER, _FLETCHER_FILTER = (
    32001,
    32015,
    1,
    2,
    3,
)
_PCODEC_FILTER = 480
_PCODEC_MARK = int.from_bytes(b"pco1", "big")
"""First parameter of the filter, as its number is not registered and may be another filter's."""
_BLOSC_COMPRESSORS = ("blosclz", "lz4", "lz4hc", "snappy", "zlib", "zstd")


# Spelling in HDF5 ----------------------------------------------------------------------------


def hdf5_filters(
    codecs: Pipeline, dtype: np.dtype[Any], chunk_nbytes: int
) -> list[tuple[int, tuple[int, ...]]]:
    """HDF5 filter numbers and parameters of a pipeline, in the order of application.

    Raises
    ------
    CodecError
        If a step has no HDF5 filter.
    """
    filters: list[tuple[int, tuple[int, ...]]] = []
    for step in codecs:
        match step.name:
            case "blosc":
                parameters = (
                    2,
                    2,
                    step.get("typesize", dtype.itemsize),
                    chunk_nbytes,
                    step.get("clevel", 5),
                    BLOSC_SHUFFLES.index(step.get("shuffle", "shuffle")),
                    _BLOSC_COMPRESSORS.index(step.get("cname", "zstd")),
                )
                filters.append((_BLOSC_FILTER, parameters))
            case "pcodec":
                filters.append((_PCODEC_FILTER, (_PCODEC_MARK, step.get("level", LEVEL))))
            case "zstd":
                filters.append((_ZSTD_FILTER, (step.get("level", 3),)))
            case "deflate":
                filters.append((_DEFLATE_FILTER, (step.get("level", 4),)))
            case "shuffle":
                filters.append((_SHUFFLE_FILTER, ()))
            case "fletcher32":
                filters.append((_FLETCHER_FILTER, ()))
            case _:
                msg = f"codec {step} has no HDF5 filter"
                raise CodecError(msg)
    return filters


def from_hdf5_filters(
    filters: Sequence[tuple[int, tuple[int, ...]]], dtype: np.dtype[Any]
) -> Pipeline:
    """Pipeline of HDF5 filters; a filter that is not known becomes ``hdf5:<number>``."""
    return tuple([_from_hdf5(number, values, dtype) for number, values in filters])


@functools.lru_cache(maxsize=256)
def _from_hdf5(number: int, values: tuple[int, ...], dtype: np.dtype[Any]) -> CodecSpec:
    def value(index: int, default: int) -> int:
        return values[index] if len(values) > index else default

    if number == _BLOSC_FILTER:
        shuffle, compressor = value(5, 1), value(6, 0)
        if shuffle < len(BLOSC_SHUFFLES) and compressor < len(_BLOSC_COMPRESSORS):
            return CodecSpec.of(
                "blosc",
                cname=_BLOSC_COMPRESSORS[compressor],
                clevel=value(4, 5),
                shuffle=BLOSC_SHUFFLES[shuffle],
                typesize=value(2, dtype.itemsize),
                blocksize=0,
            )
    elif number == _PCODEC_FILTER:
        if value(0, 0) == _PCODEC_MARK and encodes(dtype):
            return CodecSpec.of("pcodec", dtype=dtype.name, level=value(1, LEVEL))
    elif number == _ZSTD_FILTER:
        return CodecSpec.of("zstd", level=value(0, 3), checksum=False)
    elif number == _DEFLATE_FILTER:
        return CodecSpec.of("deflate", level=value(0, 4))
    elif number == _SHUFFLE_FILTER:
        return CodecSpec.of("shuffle", elementsize=value(0, dtype.itemsize))
    elif number == _FLETCHER_FILTER:
        return CodecSpec.of("fletcher32")
    return CodecSpec(f"hdf5:{number}", (("parameters", values),))


# Spelling in Zarr ----------------------------------------------------------------------------

_ZARR_NAMES = {
    "blosc": "blosc",
    "zstd": "zstd",
    "gzip": "gzip",
    "crc32c": "crc32c",
    "deflate": "numcodecs.zlib",
    "shuffle": "numcodecs.shuffle",
    "fletcher32": "numcodecs.fletcher32",
    "pcodec": "numcodecs.pcodec",
}
_FROM_ZARR = {zarr: neutral for neutral, zarr in _ZARR_NAMES.items()}
PCODEC = _ZARR_NAMES["pcodec"]
"""Name of the codec that encodes arrays, in place of ``bytes``."""
ZARR_CORE = frozenset({"blosc", "zstd", "gzip", "crc32c"})
"""Neutral names of the steps that every Zarr reader knows."""
HDF5_CORE = frozenset({"blosc", "zstd", "deflate", "shuffle", "fletcher32"})
"""Neutral names of the steps that HDF5 readers know, blosc and zstd by common plugins."""
OPTIONAL = frozenset({"pcodec"})
"""Neutral names of the steps that are only there where somebody asked for them."""


def zarr_codecs(codecs: Pipeline) -> list[dict[str, Any]]:
    """Zarr v3 metadata of the codecs of a pipeline.

    They are bytes-to-bytes codecs, but for ``numcodecs.pcodec``, which encodes the array itself
    and takes the place of ``bytes``.

    Raises
    ------
    CodecError
        If a step has no Zarr codec.
    """
    written = []
    for step in codecs:
        if step.name not in _ZARR_NAMES:
            msg = f"codec {step} has no Zarr codec"
            raise CodecError(msg)
        entry: dict[str, Any] = {"name": _ZARR_NAMES[step.name]}
        if step.options or step.name not in ZARR_CORE:  # zarr-python requires it for numcodecs
            entry["configuration"] = {n: v for n, v in step.options if n != "dtype"}
        written.append(entry)
    return written


def from_zarr_codecs(codecs: Sequence[Mapping[str, Any]], dtype: np.dtype[Any]) -> Pipeline:
    """Pipeline of Zarr codecs; one that is not known becomes ``zarr:<name>``."""
    steps = []
    for entry in codecs:
        name = str(entry.get("name"))
        configuration = dict(entry.get("configuration") or {})
        if name in _FROM_ZARR and all(
            isinstance(v, str | int | bool | None) for v in configuration.values()
        ):
            configuration.pop("id", None)
            if name == PCODEC:
                if not encodes(dtype):
                    raise CodecError(f"{PCODEC} does not encode values of type {dtype}")
                configuration["dtype"] = dtype.name
            steps.append(CodecSpec.of(_FROM_ZARR[name], **configuration))
        else:
            text = json.dumps(configuration, sort_keys=True)
            steps.append(CodecSpec.of(f"zarr:{name}", configuration=text))
    return tuple(steps)
