"""HDF5 datasets in terms of `ArraySpec`, and how to create the dataset of a spec."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t, h5z

from fmristore_stores.codecs.names import from_hdf5_filters, hdf5_filters
from fmristore_stores.errors import (
    CodecError,
    InvalidInputError,
    LayoutNotSupportedError,
    MetadataError,
)
from fmristore_stores.hdf5.attributes import decode_text
from fmristore_stores.hdf5.stand_in import plain_filters
from fmristore_stores.spec import STRING, ArraySpec, ChunkLayout, is_string, parse_dtype

__all__ = [
    "ElementType",
    "check_filters",
    "check_layout",
    "create_dataset",
    "filters_of",
    "is_chunked",
    "new_spec",
    "parse_type",
    "plain_type",
    "spec_of",
    "stored_dtype",
]

_TEXT = h5py.string_dtype()
_LARGEST_CHUNK = 2**32 - 1
"""Bytes in a chunk, and elements along one of its axes, that HDF5 can count."""
_PLAIN = frozenset(
    np.dtype(name).str
    for name in ("i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8")
)
"""Types of numpy that most datasets have, in the order of bytes in which arrays are handed out."""
_POINTER = 16
"""Bytes that a variable-length text takes in a chunk: where in the file its characters lie."""

_FILTER_NAMES = {
    4: "szip",
    307: "bzip2",
    480: "pcodec of fmristore",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32026: "blosc2",
}


@dataclass(frozen=True, slots=True)
class ElementType:
    """Type of the elements of a dataset, as stored and as transferred.

    Parameters
    ----------
    dtype : dtype
        As in `ArraySpec`.
    buffer : dtype
        Of the numpy array that is handed to HDF5.
    memory : h5py.h5t.TypeID or None
        HDF5 type of that array; None lets h5py derive it, as it must for text.
    exact : bool
        Whether the bytes in the file are those of `dtype`.
    members : dict, optional
        Names and values of an enumeration.
    """

    dtype: np.dtype[Any]
    buffer: np.dtype[Any]
    memory: Any
    exact: bool
    members: dict[str, int] | None = None


def parse_type(stored: Any, space: Any) -> ElementType:
    """Element type of an open dataset.

    Parameters
    ----------
    stored : h5py.h5t.TypeID
        Type of the dataset.
    space : h5py.h5s.SpaceID
        Its dataspace.

    Raises
    ------
    LayoutNotSupportedError
        If `ArraySpec` has no counterpart for it.
    """
    if space.get_simple_extent_type() == h5s.NULL:
        raise LayoutNotSupportedError("it has no elements, not even zero (a null dataspace)")
    try:
        native = stored.dtype
    except TypeError as error:
        raise LayoutNotSupportedError(f"its type has no numpy counterpart: {error}") from error
    kind = stored.get_class()
    if kind in (h5t.INTEGER, h5t.FLOAT) and native.str in _PLAIN:
        return _plain_type(stored, native)
    if h5t.check_string_dtype(native) is not None:
        return ElementType(STRING, native, None, exact=False)
    if kind == h5t.BITFIELD and native.itemsize == 1:
        return ElementType(np.dtype(np.uint8), np.dtype(np.uint8), None, exact=False)
    numeric = {h5t.INTEGER, h5t.FLOAT, h5t.ENUM, getattr(h5t, "COMPLEX", h5t.FLOAT)}
    if kind not in numeric and not (kind == h5t.COMPOUND and native.kind == "c"):
        msg = f"elements of type {native} are neither numbers nor text"
        raise LayoutNotSupportedError(msg)
    members = h5t.check_enum_dtype(native)
    try:
        dtype = np.dtype(parse_dtype(np.dtype(native.str)).str)
    except InvalidInputError as error:
        raise LayoutNotSupportedError(error.message) from error
    buffer = h5py.enum_dtype(members, dtype) if members else dtype
    memory = h5t.py_create(buffer, logical=True)
    base = stored.get_super() if members else stored
    plain = h5t.py_create(dtype, logical=True) if members else memory
    exact = bool(base.equal(plain)) or _is_byte(base)
    return ElementType(dtype, dtype, memory, exact, members)


def _plain_type(stored: Any, native: np.dtype[Any]) -> ElementType:
    """Element type of a dataset of integers or floats, whose type in memory is made once."""
    found = plain_type(native.str)
    exact = bool(stored.equal(found.memory)) or _is_byte(stored)
    return found if exact else replace(found, exact=False)


@functools.cache
def plain_type(name: str) -> ElementType:
    """Element type of integers or floats that lie in the file as in memory, by numpy's name."""
    dtype = np.dtype(name)
    return ElementType(dtype, dtype, h5t.py_create(dtype, logical=True), exact=True)


def stored_dtype(node: Any) -> np.dtype[Any] | None:
    """Type that numpy has for the very bytes of a dataset of values; None if it has none."""
    stored = node.get_type()
    if h5t.check_string_dtype(node.dtype) is not None or node.dtype.kind not in "biufc":
        return None
    base = stored.get_super() if stored.get_class() == h5t.ENUM else stored
    plain = np.dtype(node.dtype.str)
    same = bool(base.equal(h5t.py_create(plain, logical=True))) or _is_byte(base)
    return plain if same else None


def _is_byte(stored: Any) -> bool:
    """Return whether a type is an integer of eight bits, whose byte order means nothing."""
    return bool(
        stored.get_class() == h5t.INTEGER and stored.get_size() == 1 and stored.get_precision() == 8
    )


def filters_of(plan: Any) -> list[tuple[int, tuple[int, ...]]]:
    """Filter numbers and parameters of a creation property list, in order of application."""
    found = (plan.get_filter(index) for index in range(plan.get_nfilters()))
    return [(int(number), tuple(map(int, values))) for number, _, values, _ in found]


def spec_of(
    node: Any, plan: Any, dtype: np.dtype[Any], shape: tuple[int, ...], dims: Sequence[str]
) -> ArraySpec:
    """The spec of an open dataset.

    Parameters
    ----------
    node : h5py.h5d.DatasetID
        The dataset.
    plan : h5py.h5p.PropDCID
        Its creation properties.
    dtype : dtype
        As in `ElementType`.
    shape : tuple of int
        Lengths of its axes.
    dims : sequence of str
        Names of its axes.

    Raises
    ------
    MetadataError
        If what the file says makes no array.
    """
    chunks = tuple(map(int, plan.get_chunk())) if plan.get_layout() == h5d.CHUNKED else ()
    return new_spec(shape, dtype, dims, chunks, filters_of(plan), _fill_value(node, plan, dtype))


def new_spec(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    dims: Sequence[str],
    chunks: tuple[int, ...],
    filters: Sequence[tuple[int, tuple[int, ...]]],
    fill_value: Any = None,
) -> ArraySpec:
    """The spec of a dataset, `chunks` being empty for one without; raises as `spec_of`."""
    try:
        return ArraySpec(
            shape=shape,
            dtype=dtype,
            dims=tuple(dims),
            layout=ChunkLayout(chunks=chunks or tuple(max(n, 1) for n in shape)),
            codecs=from_hdf5_filters(filters, dtype),
            fill_value=fill_value,
        )
    except InvalidInputError as error:
        raise MetadataError(error.message) from error


def _fill_value(node: Any, plan: Any, dtype: np.dtype[Any]) -> Any:
    if plan.fill_value_defined() != h5d.FILL_VALUE_USER_DEFINED:
        return None
    value = np.zeros(1, node.dtype)
    plan.get_fill_value(value)
    found: Any = value.item()
    return decode_text(found) if is_string(dtype) else found


def check_filters(plan: Any, *, writing: bool) -> None:
    """See to it that HDF5 has the filters of a dataset, loading the plugins where they are needed.

    Parameters
    ----------
    plan : h5py.h5p.PropDCID
        Creation properties of the dataset.
    writing : bool
        Whether chunks are to be encoded rather than decoded.

    Raises
    ------
    CodecError
        If a filter is missing. HDF5 itself would write unfiltered chunks then.
    """
    for number, _ in filters_of(plan):
        if _has_filter(number, writing=writing):
            continue
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")
        if not _has_filter(number, writing=writing):
            msg = (
                f"HDF5 filter {number} ({_FILTER_NAMES.get(number, 'unknown')}) is not installed; "
                'pip install "fmristore[hdf5-filters]" brings the usual ones'
            )
            raise CodecError(msg)


def _has_filter(number: int, *, writing: bool) -> bool:
    if not h5z.filter_avail(number):
        return False
    use = h5z.FILTER_CONFIG_ENCODE_ENABLED if writing else h5z.FILTER_CONFIG_DECODE_ENABLED
    return bool(h5z.get_filter_info(number) & use)


def create_dataset(group: Any, name: bytes, spec: ArraySpec) -> Any:
    """Create the dataset of a spec.

    Parameters
    ----------
    group : h5py.h5g.GroupID
        Where.
    name : bytes
        Its name, which is free.
    spec : ArraySpec
        What.

    Returns
    -------
    h5py.h5d.DatasetID

    Raises
    ------
    LayoutNotSupportedError
        If HDF5 has no such layout.
    CodecError
        If a codec has no HDF5 filter.
    """
    check_layout(spec)
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_obj_track_times(False)
    if spec.fill_value is not None:
        plan.set_fill_value(np.array(spec.fill, _TEXT if is_string(spec.dtype) else spec.dtype))
    if is_string(spec.dtype) and spec.fill:
        # HDF5 cannot make up a text in a file that it may not write to, so it is stored now.
        plan.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    space = h5s.create(h5s.SCALAR)
    if spec.shape:
        # An axis may not be shorter than its chunks unless it could grow to their length.
        limit = tuple(map(max, spec.shape, spec.layout.chunks))
        space = h5s.create_simple(spec.shape, limit if is_chunked(spec) else spec.shape)
    if is_chunked(spec):
        plan.set_chunk(spec.layout.chunks)
        nbytes = math.prod(spec.layout.chunks) * _itemsize(spec)
        for number, values in hdf5_filters(spec.codecs, spec.dtype, nbytes):
            # Optional, so that datasets can be created, and encoded chunks written, without the
            # plugin; writing through HDF5 is refused without it, see `check_filters`.
            flag = h5z.FLAG_MANDATORY if number == h5z.FILTER_FLETCHER32 else h5z.FLAG_OPTIONAL
            plan.set_filter(number, flag, values)
    stored = _TEXT if is_string(spec.dtype) else spec.dtype
    kind = h5t.py_create(stored, logical=True)
    try:
        node = h5d.create(group, name, kind, space, plan)
    except (OSError, RuntimeError, ValueError) as error:
        plugins = [number for number, _ in filters_of(plan) if number > h5z.FILTER_LZF]
        if "callback" not in str(error) or not plugins:
            raise
        with plain_filters(plugins) as found:
            if not found:
                raise _unusable(plugins) from error
            node = h5d.create(group, name, kind, space, plan)
            node.flush()
    if not all(h5z.filter_avail(number) for number, _ in filters_of(plan)):
        # HDF5 sizes the list of filters now and writes it later, with the names of those it knows
        # by then. If a plugin were loaded in between, the names would not fit and the header of
        # the dataset would be damaged.
        node.flush()
    return node


def _unusable(numbers: Sequence[int]) -> CodecError:
    names = ", ".join(f"{number} ({_FILTER_NAMES.get(number, 'unknown')})" for number in numbers)
    place = os.environ.get("HDF5_PLUGIN_PATH", "")
    return CodecError(
        f"the plugin of HDF5 filter {names} does not work with the HDF5 library of h5py "
        f"(HDF5_PLUGIN_PATH is {place!r}; netCDF4 sets it for its own): import h5py before "
        'netCDF4, set HDF5_PLUGIN_PATH to "", or write with codec="portable"'
    )


def is_chunked(spec: ArraySpec) -> bool:
    """Return whether a dataset of this spec has chunks: it has several, or codecs."""
    whole = all(c >= n for c, n in zip(spec.layout.chunks, spec.shape, strict=True))
    return bool(spec.shape) and (bool(spec.codecs) or not whole)


def check_layout(spec: ArraySpec) -> None:
    """Refuse what HDF5 cannot hold.

    Raises
    ------
    LayoutNotSupportedError
        With what to do instead.
    """
    chunks, shape = spec.layout.chunks, spec.shape
    if spec.layout.shards is not None:
        raise LayoutNotSupportedError("HDF5 has no shards: leave them out")
    if spec.layout.order:
        msg = "HDF5 keeps chunks in the order of the axes: permute the axes of the array instead"
        raise LayoutNotSupportedError(msg)
    if any(c > max(n, 1) for c, n in zip(chunks, shape, strict=True)):
        msg = f"chunk shape {chunks} is longer than an axis of {shape}: clip it to the shape"
        raise LayoutNotSupportedError(msg)
    if not shape and spec.codecs:
        raise LayoutNotSupportedError("HDF5 applies no codecs to a single number: leave them out")
    for step in spec.codecs:
        if step.name == "shuffle" and step.get("elementsize", _itemsize(spec)) != _itemsize(spec):
            msg = f"HDF5 shuffles whole elements of {_itemsize(spec)} bytes, which {step} does not"
            raise LayoutNotSupportedError(msg)
    size = math.prod(chunks) * _itemsize(spec)
    if is_chunked(spec) and (size > _LARGEST_CHUNK or max(chunks) > _LARGEST_CHUNK):
        msg = f"a chunk of {size} bytes is too large: HDF5 chunks end below 4 GiB"
        raise LayoutNotSupportedError(msg)


def _itemsize(spec: ArraySpec) -> int:
    return _POINTER if is_string(spec.dtype) else spec.dtype.itemsize
