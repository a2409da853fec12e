"""Objects that R has serialised (``serialize``, XDR, versions 2 and 3), as plain values.

Only data are read: vectors, lists and their attributes. What R would run is never made, and a
stream that needs a function or an environment is refused by name. Everything that a stream asks
for is compared with its length before memory is taken, so that a short one cannot take much: the
Python package rdata, which reads more, takes 16 GiB for 39 bytes that announce byte code.

The format is that of "R Internals", section 1.8:
https://cran.r-project.org/doc/manuals/r-release/R-ints.html#Serialization-Formats
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmristore.formats.r.missing import MISSING
from fmristore_stores.causes import naming
from fmristore_stores.errors import (
    CorruptDataError,
    LayoutNotSupportedError,
    MemoryLimitError,
)
from fmristore_stores.limits import LIMITS
from fmristore_stores.protocol import AnyArray
from fmristore_stores.shown import shown
from fmristore_stores.spec import MAX_RANK

__all__ = ["RValue", "Serialised", "parse_serialised", "plain_value"]

_DEEPEST = 100
"""Lists and attributes within each other; a call in Python takes a kilobyte of its stack."""
_HEADER = 14
_ATTRIBUTES, _TAG = 0x200, 0x400
_BYTES, _LATIN, _UTF8 = 1 << 13, 1 << 14, 1 << 15
_ASCII = (1 << 18) + 9
"""Flags of most texts."""
_FLAGS_AND_LENGTH = struct.Struct(">ii")
_SYMBOL, _PAIRS, _CALL, _CHARACTERS = 1, 2, 6, 9
_LOGICAL, _INTEGER, _REAL, _COMPLEX, _TEXT = 10, 13, 14, 15, 16
_LIST, _EXPRESSION, _RAW, _S4, _ALTERNATIVE = 19, 20, 24, 25, 238
_PACKAGE, _NAMESPACE, _NULL, _REFERENCE = 248, 249, 254, 255
_NUMBERS = {
    _LOGICAL: ("logical", ">i4"),
    _INTEGER: ("integer", ">i4"),
    _REAL: ("double", ">f8"),
    _COMPLEX: ("complex", ">c16"),
    _RAW: ("raw", "u1"),
}
_SPECIAL = {241: "an environment", 242: "an environment", 250: "a namespace"}
_SPECIAL |= {251: "a missing argument", 252: "no value", 253: "an environment"}
_REFUSED = {3: "a function", 4: "an environment", 5: "a promise", 7: "a function", 8: "a function"}
_REFUSED |= {17: "dots", 21: "byte code", 22: "an external pointer", 23: "a weak reference"}


@dataclass(slots=True)
class RValue:
    """One value of R's; NULL is None.

    Parameters
    ----------
    kind : str
        ``logical``, ``integer``, ``double``, ``complex``, ``raw``, ``text``, ``list``, ``symbol``,
        or ``other`` for what is no data.
    data : ndarray, list or str
        Logical values are int32 as integers are, with R's NA; a missing text is None; `other` has
        its name.
    attributes : dict of str to RValue or None
        Such as ``names``, ``dim``, ``class``.
    """

    kind: str
    data: Any
    attributes: dict[str, RValue | None] = field(default_factory=dict)

    def texts(self, attribute: str) -> list[str]:
        """Texts of an attribute; none if it has no such."""
        found = self.attributes.get(attribute)
        return [] if found is None or found.kind != "text" else [text or "" for text in found.data]

    def inherits(self, name: str) -> bool:
        """Return whether it is of a class of R's."""
        return name in self.texts("class")

    def members(self) -> dict[str, RValue | None]:
        """Values of a list by name; those without a name are left out."""
        return dict(zip(self.texts("names"), self.data, strict=False)) if self.is_list else {}

    @property
    def is_list(self) -> bool:
        """True if it is a list."""
        return self.kind == "list"


@dataclass(frozen=True, slots=True)
class Serialised:
    """The object of a stream, and its digests.

    Parameters
    ----------
    value : RValue or None
        The object.
    digests : tuple of str
        What the R package digest may make of the object (sha256); none where that cannot be found
        out, because the stream has sequences in short where the digest is made of all their values.
    """

    value: RValue | None
    digests: tuple[str, ...]


def parse_serialised(data: bytes, *, url: str, node: str) -> Serialised:
    """Parse one object that R serialised.

    Parameters
    ----------
    data : bytes
        All of the stream, not compressed.
    url, node : str
        Where it lies, for messages.

    Raises
    ------
    CorruptDataError
        If it is damaged.
    LayoutNotSupportedError
        If it is of another version, or holds a function, an environment or another object that is
        no data.
    MemoryLimitError
        If it has more objects than ``LIMITS.values``, or sequences of more bytes than
        ``LIMITS.consolidated``.
    """
    with naming(url, node):
        return _Stream(data).parse()


class _Stream:
    """A stream, and how far it has been read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._depth = 0
        self._references: list[RValue] = []
        self._objects = LIMITS.values
        self._expandable = LIMITS.consolidated
        self._expanded = False
        self._encoding = "utf-8"
        self._readers: dict[int, Callable[[int], RValue]] = {
            _REFERENCE: self._referred,
            _SYMBOL: self._symbol,
            _PAIRS: self._pairs,
            _CALL: self._pairs,
            _ALTERNATIVE: self._alternative,
            _CHARACTERS: lambda flags: RValue("text", [self._characters(flags)]),
            _PACKAGE: self._namespace,
            _NAMESPACE: self._namespace,
        }

    def parse(self) -> Serialised:
        if self._data[:2] != b"X\n":
            raise LayoutNotSupportedError(
                f"begins with {self._data[:2]!r}: expected an object that R serialised as XDR"
            )
        self._at = 2
        version, _, _ = (self._integer() for _ in range(3))
        if version not in (2, 3):
            raise LayoutNotSupportedError(f"is of version {version} of R's serialisation")
        starts = [_HEADER]
        if version == 3:
            name = bytes(self._take(self._integer())).decode("ascii", "replace")
            self._encoding = "latin-1" if name in ("latin1", "ISO-8859-1") else "utf-8"
            starts.append(self._at)
        value = self._item()
        if self._at != len(self._data):
            raise _damaged(f"{len(self._data) - self._at} bytes follow its end")
        hashes = (hashlib.sha256(self._data[start:]).hexdigest() for start in starts)
        return Serialised(value, () if self._expanded else tuple(hashes))

    # Bytes ----------------------------------------------------------------------------------

    def _take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._data) - self._at:
            raise _damaged(f"{count} bytes are announced where {len(self._data) - self._at} follow")
        self._at += count
        return memoryview(self._data)[self._at - count : self._at]

    def _integer(self) -> int:
        return int.from_bytes(self._take(4), "big", signed=True)

    def _length(self, width: int) -> int:
        """Length of a vector whose elements take at least `width` bytes."""
        count = self._integer()
        if count == -1:
            high, low = self._integer(), self._integer()
            count = (high << 32) + (low & 0xFFFFFFFF)
        if not 0 <= count <= (len(self._data) - self._at) // width:
            raise _damaged(f"a vector of {count} elements is announced")
        return count

    # Objects --------------------------------------------------------------------------------

    def _item(self, flags: int | None = None) -> RValue | None:
        """The next object; its flags may have been read."""
        self._objects -= 1
        if self._objects < 0:
            raise MemoryLimitError(
                f"has more than {LIMITS.values} objects; raise "
                "fmristore_stores.limits.LIMITS.values if you trust this file and have the memory"
            )
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _damaged(f"its lists are more than {_DEEPEST} deep")
        try:
            return self._object(self._integer() if flags is None else flags)
        finally:
            self._depth -= 1

    def _object(self, flags: int) -> RValue | None:
        kind = flags & 0xFF
        if kind in (0, _NULL):
            return None
        if kind in _SPECIAL:
            return RValue("other", _SPECIAL[kind])
        if kind in self._readers:
            return self._readers[kind](flags)
        found = self._vector(kind)
        if flags & _ATTRIBUTES:
            found.attributes = self._attributes()
        return found

    def _vector(self, kind: int) -> RValue:
        if kind in _NUMBERS:
            name, code = _NUMBERS[kind]
            dtype = np.dtype(code)
            raw = self._take(self._length(dtype.itemsize) * dtype.itemsize)
            return RValue(name, np.frombuffer(raw, dtype).astype(dtype.newbyteorder("=")))
        if kind == _TEXT:
            return RValue("text", self._texts(self._length(8)))
        if kind in (_LIST, _EXPRESSION):
            return RValue("list", [self._item() for _ in range(self._length(4))])
        if kind == _S4:
            return RValue("other", "an object of class S4")
        raise LayoutNotSupportedError(
            f"holds {_REFUSED.get(kind, f'an object of type {kind}')}, which is no data"
        )

    def _texts(self, count: int) -> list[str | None]:
        """Texts of a vector; there may be some hundred thousand."""
        data, end = self._data, len(self._data) - 8
        found: list[str | None] = []
        for _ in range(count):
            at = self._at
            if at <= end:
                flags, length = _FLAGS_AND_LENGTH.unpack_from(data, at)
                if flags == _ASCII and 0 <= length <= end - at:
                    self._at = at + 8 + length
                    text = data[at + 8 : self._at]
                    found.append(text.decode("ascii", "backslashreplace"))
                    continue
            found.append(self._characters(self._integer()))
        return found

    def _characters(self, flags: int) -> str | None:
        """One text; None for NA."""
        if flags & 0xFF != _CHARACTERS or flags & _ATTRIBUTES:
            raise _damaged("a text is no text")
        count = self._integer()
        if count == -1:
            return None
        latin = flags & _LATIN and not flags & _BYTES
        encoding = "latin-1" if latin else "utf-8" if flags & _UTF8 else self._encoding
        return bytes(self._take(count)).decode(encoding, "backslashreplace")

    def _symbol(self, flags: int) -> RValue:
        del flags
        self._references.append(RValue("symbol", self._characters(self._integer())))
        return self._references[-1]

    def _namespace(self, flags: int) -> RValue:
        del flags
        self._integer()
        self._texts(self._length(8))
        self._references.append(RValue("other", "a namespace"))
        return self._references[-1]

    def _referred(self, flags: int) -> RValue:
        """A symbol that was there before."""
        number = (flags & 0xFFFFFFFF) >> 8 or self._integer()
        if not 0 < number <= len(self._references):
            raise _damaged(f"refers to object {number} of {len(self._references)}")
        return self._references[number - 1]

    def _pairs(self, flags: int) -> RValue:
        """A list of pairs as a list with names; of a call only that it is one."""
        is_call = flags & 0xFF == _CALL
        names, values = [], []
        attributes: dict[str, RValue | None] = {}
        while flags & 0xFF in (_PAIRS, _CALL):
            if flags & _ATTRIBUTES:
                attributes |= self._attributes()
            tag = self._item() if flags & _TAG else None
            names.append(tag.data if tag is not None and tag.kind == "symbol" else "")
            values.append(self._item())
            flags = self._integer()
        if flags & 0xFF not in (0, _NULL):
            names.append("")
            values.append(self._item(flags))
        if is_call:
            return RValue("other", "a call", attributes)
        return RValue("list", values, {"names": RValue("text", names), **attributes})

    def _attributes(self) -> dict[str, RValue | None]:
        found = self._item()
        if found is None:
            return {}
        if not found.is_list:
            raise _damaged("its attributes are no list")
        return found.members()

    # Values that are stored in short ------------------------------------------------------------

    def _alternative(self, flags: int) -> RValue:
        """A vector that is stored as what it is made of ("ALTREP")."""
        del flags
        self._expanded = True
        about, state = self._item(), self._item()
        names = [] if about is None or not about.is_list else about.data
        name = names[0].data if names and names[0] is not None else None
        attributes = self._attributes()
        if name in ("compact_intseq", "compact_realseq"):
            found = self._sequence(state, name)
        elif isinstance(name, str) and name.startswith("wrap_"):
            found = _first(state)
        elif name == "deferred_string":
            found = self._deferred(state)
        else:
            raise LayoutNotSupportedError(f"holds a vector stored as {shown(str(name))}")
        return RValue(found.kind, found.data, {**found.attributes, **attributes})

    def _sequence(self, state: RValue | None, name: str) -> RValue:
        if state is None or state.kind != "double" or len(state.data) != 3:
            raise _damaged("a sequence has no length, start and step")
        count, start, step = state.data.tolist()
        if not (math.isfinite(count + start + step) and count >= 0 and count == int(count)):
            raise _damaged(f"a sequence of {count} elements from {start} by {step}")
        self._need(8 * count)
        values = start + step * np.arange(int(count), dtype=np.float64)
        if name == "compact_realseq":
            return RValue("double", values)
        if (
            len(values)
            and not -(2**31) < min(values[0], values[-1]) <= max(values[0], values[-1]) < 2**31
        ):
            raise _damaged(f"a sequence of integers from {start} by {step}")
        return RValue("integer", values.astype(np.int32))

    def _need(self, nbytes: float) -> None:
        self._expandable -= int(min(nbytes, 1 << 62))
        if self._expandable < 0:
            raise MemoryLimitError(
                f"has sequences of more than {LIMITS.consolidated} bytes; raise "
                "fmristore_stores.limits.LIMITS.consolidated if you trust this file and have the "
                "memory"
            )

    def _deferred(self, state: RValue | None) -> RValue:
        """Texts that R has not made of numbers yet."""
        numbers = _first(state)
        if numbers.kind not in ("integer", "double"):
            raise _damaged("texts are not made of numbers")
        self._need(64 * len(numbers.data))
        return RValue("text", [_number_text(value) for value in numbers.data.tolist()])


def _damaged(text: str) -> CorruptDataError:
    return CorruptDataError(f"the object that R serialised is damaged: {text}")


def _first(state: RValue | None) -> RValue:
    """The vector that another one stands for."""
    found = state.data[0] if state is not None and state.is_list and state.data else None
    if not isinstance(found, RValue):
        raise _damaged("a vector stands for none")
    return found


def _number_text(value: float) -> str | None:
    """A whole number as R writes it, in the shorter one of its two ways."""
    if math.isnan(value) or (isinstance(value, int) and value == MISSING["int32"]):
        return None
    if value != int(value if math.isfinite(value) else 0) or abs(value) >= 10**15:
        raise LayoutNotSupportedError("holds texts that R has not made of fractions yet")
    fixed = str(int(value))
    if isinstance(value, int):
        return fixed
    digits = fixed.strip("-").rstrip("0") or "0"
    short = f"{'-' * (value < 0)}{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}"
    short += f"e+{len(fixed.strip('-')) - 1:02d}"
    return fixed if len(fixed) <= len(short) else short


# Plain values ------------------------------------------------------------------------------------


def plain_value(value: RValue | None, lost: Callable[[str], None], path: str = "") -> Any:
    """A value as JSON has it.

    Lists with names and data frames are mappings, factors their labels, dates texts, vectors of
    one element that element; what is missing is None.

    Parameters
    ----------
    value : RValue or None
        The value.
    lost : callable
        Called with a text for each value that has no counterpart, which is left out.
    path : str
        Names that lead to it, for that text.
    """
    if value is None:
        return None
    if value.kind == "other":
        lost(f"{path or 'the value'} ({value.data})")
        return None
    if value.kind == "symbol":
        return value.data
    if not value.is_list:
        elements = _elements(value)
        if shape := _shape(value):
            return _nested(elements, shape)
        return elements[0] if len(elements) == 1 else elements
    names = value.texts("names")
    if value.inherits("data.frame"):
        return {
            name: _column(column, lost, f"{path}/{name}")
            for name, column in zip(names, value.data, strict=False)
        }
    if not value.data:
        return {}
    keys = names if len(names) == len(value.data) else [""] * len(value.data)
    labels = [key or str(number) for number, key in enumerate(keys, 1)]
    found = [
        plain_value(one, lost, f"{path}/{label}".strip("/"))
        for label, one in zip(labels, value.data, strict=True)
    ]
    named = any(keys) and len(set(labels)) == len(labels)
    return dict(zip(labels, found, strict=True)) if named else found


def _column(value: RValue | None, lost: Callable[[str], None], path: str) -> Any:
    """A column of a data frame, always a list."""
    if value is None or value.is_list or value.kind == "other" or _shape(value):
        found = plain_value(value, lost, path)
        return found if isinstance(found, list) else [found]
    return _elements(value)


def _elements(value: RValue) -> list[Any]:
    """Elements of a vector."""
    data = value.data
    if value.kind == "text":
        return list(data)
    if value.kind == "raw":
        listed: list[Any] = data.tolist()
        return listed
    if value.kind == "complex":
        return [str(one) for one in data.tolist()]
    if value.kind == "double" and value.inherits("integer64"):
        wide = data.view(np.int64).tolist()
        return [None if one == MISSING["int64"] else one for one in wide]
    if value.kind == "double":
        return _times(value) or [_number(one) for one in data.tolist()]
    missing = data == MISSING["int32"]
    if value.kind == "logical":
        return [None if no else bool(one) for one, no in zip(data, missing, strict=True)]
    levels = value.texts("levels")
    if value.inherits("factor"):
        inside = (data >= 1) & (data <= len(levels))
        return [levels[one - 1] if yes else None for one, yes in zip(data, inside, strict=True)]
    return _times(value) or [
        None if no else one for one, no in zip(data.tolist(), missing, strict=True)
    ]


def _number(value: float) -> Any:
    """A number; None for NaN, and a text for what JSON has not."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("Inf" if value > 0 else "-Inf")


def _times(value: RValue) -> list[Any]:
    """Dates as texts; none if the vector has no dates."""
    if not (value.inherits("Date") or value.inherits("POSIXct")):
        return []
    is_date = value.inherits("Date")
    unit, factor = ("D", 1) if is_date else ("us", 10**6)
    numbers = value.data.astype(np.float64)
    if value.kind == "integer":
        numbers[value.data == MISSING["int32"]] = np.nan
    safe = np.isfinite(numbers) & (np.abs(numbers) < 2**53 / 10**6)
    scaled = np.where(safe, numbers, 0) * factor
    whole = (np.floor(scaled) if is_date else np.rint(scaled)).astype(np.int64)
    texts = np.datetime_as_string(whole.astype(f"datetime64[{unit}]")).tolist()
    end = "" if is_date else "Z"
    return [text + end if good else None for text, good in zip(texts, safe.tolist(), strict=True)]


def _shape(value: RValue) -> tuple[int, ...]:
    """Lengths of the axes of a matrix or array; none of a vector."""
    dim = value.attributes.get("dim")
    if dim is None or dim.kind not in ("integer", "double"):
        return ()
    if not 0 < len(dim.data) <= MAX_RANK:
        return ()
    shape = tuple(int(n) if math.isfinite(n) else -1 for n in dim.data.tolist())
    # One axis of length zero, and the others may say anything: lists of nothing are not made.
    return shape if math.prod(shape) == len(value.data) and min(shape) > 0 else ()


def _nested(elements: Sequence[Any], shape: tuple[int, ...]) -> Any:
    array: AnyArray = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape, order="F").tolist()
