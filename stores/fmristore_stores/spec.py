"""Arrays independent of the store that holds them: shape, type, names, layout, codecs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from fmristore_stores.errors import InvalidInputError, MetadataError

__all__ = [
    "MAX_ATTRIBUTE_DEPTH",
    "MAX_NAME_BYTES",
    "MAX_NUMERIC_ATTRIBUTE",
    "MAX_RANK",
    "STRING",
    "ArraySpec",
    "Attributes",
    "ChunkLayout",
    "CodecSpec",
    "Scalar",
    "check_attributes",
    "check_name",
    "check_nesting",
    "copy_attributes",
    "is_string",
    "parse_dtype",
]

Scalar = str | int | float | bool
Attributes = dict[str, Any]
"""JSON-able values: str, int, finite float, bool, None, and lists and dicts of them."""

STRING: np.dtype[Any] = np.dtypes.StringDType()
"""The one dtype of text: variable length, UTF-8."""

MAX_RANK = 32
MAX_NUMERIC_ATTRIBUTE = 64 * 1024 - 512
"""Bytes that a list of values may take as an attribute: HDF5 object headers end at 64 KiB."""
MAX_ATTRIBUTE_DEPTH = 100
"""Lists and mappings inside of each other in an attribute, whichever Python reads or writes it."""
MAX_NAME_BYTES = 255
"""Longest node name in UTF-8 bytes: file systems refuse longer ones."""

_NUMERIC = frozenset(
    {
        "b1",
        *(f"{kind}{nbytes}" for kind in "iu" for nbytes in (1, 2, 4, 8)),
        *(f"f{nbytes}" for nbytes in (2, 4, 8)),
        *(f"c{nbytes}" for nbytes in (8, 16)),
    }
)
"""Types of values as numpy spells them, without the order of their bytes."""


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """One step of a codec pipeline, under its store-neutral name.

    Parameters
    ----------
    name : str
        Neutral name, such as ``"blosc"``, ``"zstd"``, ``"deflate"``, ``"shuffle"``; a step that
        only one library knows is called ``"hdf5:<number>"`` or ``"zarr:<name>"``.
    options : tuple of (str, value) pairs, sorted
        Parameters of the step.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, **options: Any) -> Self:
        """Make a step from keyword options."""
        return cls(name, tuple(sorted(options.items())))

    def get(self, option: str, default: Any = None) -> Any:
        """Value of an option, or `default`."""
        return dict(self.options).get(option, default)

    def __str__(self) -> str:
        inner = ", ".join(f"{k}={v}" for k, v in self.options)
        return f"{self.name}({inner})" if inner else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLayout:
    """Order of the elements of an array in chunks.

    Parameters
    ----------
    chunks : tuple of int
        Shape of a chunk, along the array's axes.
    shards : tuple of int, optional
        Shape of a shard, a multiple of `chunks`: the unit that is written as one object.
    order : tuple of int, optional
        Axes from the slowest to the fastest varying inside a chunk. Empty means the array's
        own (C) order.
    """

    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rank = len(self.chunks)
        if rank and min(self.chunks) < 1:
            msg = f"chunk shape {self.chunks}: every length must be at least 1"
            raise InvalidInputError(msg)
        if self.order == tuple(range(rank)):
            object.__setattr__(self, "order", ())
        if self.order and sorted(self.order) != list(range(rank)):
            msg = f"order {self.order} is not a permutation of {rank} axes"
            raise InvalidInputError(msg)
        if self.shards is not None and (
            len(self.shards) != rank
            or any(s < c or s % c for s, c in zip(self.shards, self.chunks, strict=True))
        ):
            msg = f"shard shape {self.shards} is not a multiple of chunk shape {self.chunks}"
            raise InvalidInputError(msg)

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes from the slowest to the fastest inside a chunk, always spelled out."""
        return self.order or tuple(range(len(self.chunks)))

    @property
    def units(self) -> tuple[int, ...]:
        """Shape of the smallest part that can be written on its own: a shard, else a chunk."""
        return self.shards or self.chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """Everything that defines an array except its data and attributes.

    Parameters
    ----------
    shape : tuple of int
        Length of each axis; zero is allowed.
    dtype : dtype
        Little-endian numbers, bool, or `STRING`.
    dims : tuple of str
        Name of each axis, empty string for none; ``()`` names none of them.
    layout : ChunkLayout
        Chunk shape, shard shape and order inside the chunk.
    codecs : tuple of CodecSpec
        Steps applied to the bytes of a chunk, first to last, when it is written.
    fill_value : scalar, optional
        What a chunk that was never written reads as. ``None`` means zero or the empty string.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...] = ()
    layout: ChunkLayout
    codecs: tuple[CodecSpec, ...] = ()
    fill_value: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", parse_dtype(self.dtype))
        rank = len(self.shape)
        if rank > MAX_RANK or (rank and min(self.shape) < 0):
            msg = f"shape {self.shape}: 0 to {MAX_RANK} axes of non-negative length are possible"
            raise InvalidInputError(msg)
        if len(self.layout.chunks) != rank:
            msg = f"chunk shape {self.layout.chunks} does not fit an array of shape {self.shape}"
            raise InvalidInputError(msg)
        if not self.dims:
            object.__setattr__(self, "dims", ("",) * rank)
        if len(self.dims) != rank:
            msg = f"{len(self.dims)} axis names {self.dims} for an array of {rank} axes"
            raise InvalidInputError(msg)
        named = [d for d in self.dims if d]
        if len(set(named)) != len(named):
            msg = f"axis names {self.dims} are not all different"
            raise InvalidInputError(msg)
        if self.fill_value is None:
            return
        try:
            scalar = np.ndim(self.fill) == 0
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"fill value {self.fill_value!r} does not fit dtype {self.dtype}"
            raise InvalidInputError(msg) from error
        if not scalar:
            msg = f"fill value {self.fill_value!r} is not a single value"
            raise InvalidInputError(msg)

    @property
    def nbytes(self) -> int:
        """Size of the decoded array in bytes (0 for text)."""
        return 0 if is_string(self.dtype) else math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_nbytes(self) -> int:
        """Size of one whole decoded chunk in bytes (0 for text)."""
        return 0 if is_string(self.dtype) else math.prod(self.layout.chunks) * self.dtype.itemsize

    @property
    def memory(self) -> ArraySpec:
        """The same array with its axes in the order of the bytes inside a chunk.

        Two arrays whose `memory` specs have equal shape, dtype, chunks and codecs hold equal
        encoded chunks for equal values, whichever store they are in.
        """
        order = self.layout.order
        return self.permuted(order) if order else self

    def permuted(self, axes: Sequence[int], *, order: tuple[int, ...] = ()) -> ArraySpec:
        """The spec with its axes rearranged as by ``numpy.transpose(array, axes)``."""
        pick = tuple(axes)
        layout = self.layout
        return replace(
            self,
            shape=tuple(self.shape[a] for a in pick),
            dims=tuple(self.dims[a] for a in pick),
            layout=ChunkLayout(
                chunks=tuple(layout.chunks[a] for a in pick),
                shards=None if layout.shards is None else tuple(layout.shards[a] for a in pick),
                order=order,
            ),
        )

    @property
    def fill(self) -> Any:
        """The fill value as a numpy scalar (or str)."""
        if is_string(self.dtype):
            return "" if self.fill_value is None else str(self.fill_value)
        return self.dtype.type(0 if self.fill_value is None else self.fill_value)


def is_string(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is the text dtype `STRING`."""
    return dtype.kind == "T"


def parse_dtype(dtype: Any) -> np.dtype[Any]:
    """Normalise a dtype to what every store can hold.

    Big-endian numbers become little-endian; any kind of text becomes `STRING`.

    Raises
    ------
    InvalidInputError
        For structured types, objects, dates, and floats wider than 8 bytes.
    """
    parsed: np.dtype[Any] = np.dtype(dtype)
    if parsed.kind in "TUO":
        return STRING
    parsed = parsed.newbyteorder("<") if parsed.byteorder == ">" else parsed
    if parsed.str[1:] not in _NUMERIC:
        msg = f"dtype {parsed} cannot be stored: expected numbers, bool or text"
        raise InvalidInputError(msg)
    return parsed


_RESERVED = frozenset({"", ".", "..", "zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"})
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f]|[\ud800-\udfff]")
_FORBIDDEN_IN_ATTRIBUTE = re.compile(r"[/\x00]|[\ud800-\udfff]")


def check_name(name: Any) -> str:
    """Check the name of a child node; the same names are allowed in every store.

    Raises
    ------
    InvalidInputError
        If the name is empty, ``.`` or ``..``, longer than 255 bytes in UTF-8, holds a slash,
        backslash, control character or lone surrogate, or collides with Zarr's own keys.
    """
    if not isinstance(name, str):
        msg = f"a node name must be text, not {type(name).__name__}"
        raise InvalidInputError(msg)
    if name in _RESERVED or name.startswith("__") or _FORBIDDEN.search(name):
        msg = f"{name[:80]!r} cannot be the name of a node"
        raise InvalidInputError(msg)
    if len(name.encode()) > MAX_NAME_BYTES:
        msg = f"node name {name[:40]!r}... is longer than {MAX_NAME_BYTES} bytes"
        raise InvalidInputError(msg)
    return name


def check_attributes(attributes: Mapping[str, Any]) -> Attributes:
    """Return attributes as plain JSON values; the same ones are allowed in every store.

    Numpy scalars and small arrays become Python numbers and lists, tuples become lists.

    Raises
    ------
    InvalidInputError
        If a name is not text, a value is not JSON-able or not finite, an integer does not fit
        64 bits, lists are nested more than `MAX_ATTRIBUTE_DEPTH` deep, or a list of values takes
        more than 64 KiB (store it as an array instead).
    """
    checked: Attributes = {}
    items: Iterable[tuple[Any, Any]] = attributes.items()
    for name, value in items:
        if not isinstance(name, str) or not name or _FORBIDDEN_IN_ATTRIBUTE.search(name):
            msg = f"{name!r} cannot be the name of an attribute"
            raise InvalidInputError(msg)
        if len(name.encode()) > MAX_NAME_BYTES:
            msg = f"attribute name {name[:40]!r}... is longer than {MAX_NAME_BYTES} bytes"
            raise InvalidInputError(msg)
        plain = _plain(value, name, MAX_ATTRIBUTE_DEPTH)
        if isinstance(plain, list) and len(plain) * 8 > MAX_NUMERIC_ATTRIBUTE:
            msg = (
                f"attribute {name!r} has {len(plain)} values: more than 64 KiB; "
                "store it as an array"
            )
            raise InvalidInputError(msg)
        checked[name] = plain
    return checked


def copy_attributes(attributes: Attributes) -> Attributes:
    """Copy attributes with the lists and mappings in them, so that the caller may change them.

    Raises
    ------
    MetadataError
        If an attribute is nested more than `MAX_ATTRIBUTE_DEPTH` deep.
    """
    copied = attributes.copy()
    for name, value in attributes.items():
        if isinstance(value, _NESTED):
            copied[name] = _copied(value, name, MAX_ATTRIBUTE_DEPTH)
    return copied


def check_nesting(attributes: Attributes) -> None:
    """Refuse attributes that `copy_attributes` could not copy.

    Raises
    ------
    MetadataError
        If an attribute is nested more than `MAX_ATTRIBUTE_DEPTH` deep.
    """
    level: list[Any] = [attributes]
    for _ in range(MAX_ATTRIBUTE_DEPTH + 1):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, _NESTED)
        ]
        if not level:
            return
    copy_attributes(attributes)  # says which one it is


_NESTED = (dict, list)


def _copied(value: dict[str, Any] | list[Any], name: str, room: int) -> Any:
    """Copy a mapping or a list that may be nested `room` deep."""
    if not room:
        raise MetadataError(_too_deep(name))
    copied: Any = value.copy()
    items = copied.items() if isinstance(copied, dict) else enumerate(copied)
    for key, item in items:
        if isinstance(item, _NESTED):
            copied[key] = _copied(item, name, room - 1)
    return copied


def _too_deep(name: str) -> str:
    return f"attribute {name!r}: lists or mappings are nested more than {MAX_ATTRIBUTE_DEPTH} deep"


def _plain(value: Any, name: str, room: int) -> Any:
    """Turn one attribute value, nested at most `room` deep, into plain JSON, or say why not."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
            msg = f"attribute {name!r}: text with NUL or lone surrogates cannot be stored"
            raise InvalidInputError(msg)
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            msg = f"attribute {name!r}: {value} does not fit 64 bits"
            raise InvalidInputError(msg)
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            msg = f"attribute {name!r}: {value} is not JSON; leave it out or store text"
            raise InvalidInputError(msg)
        return value
    if isinstance(value, list | tuple | Mapping) and not room:
        raise InvalidInputError(_too_deep(name))
    if isinstance(value, list | tuple):
        return [_plain(item, name, room - 1) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            msg = f"attribute {name!r}: keys of a nested value must be text"
            raise InvalidInputError(msg)
        return {
            _plain(key, name, room): _plain(item, name, room - 1) for key, item in value.items()
        }
    msg = f"attribute {name!r}: a {type(value).__name__} is not JSON-able"
    raise InvalidInputError(msg)
