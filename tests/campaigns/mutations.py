"""Random damage to bytes and to documents."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

__all__ = ["mutate_bytes", "mutate_json"]

_STRIKING = (0, 1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1,
             2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308),
    *("", "x", "NaN", "../..", "/etc/passwd", "\u0000", "\ud7ff" * 50, "9" * 400, "<i4", ">f8"),
    *([], {}, [[]], [0], [1, 2, 3], [-1] * 4, [10**9] * 4, [1] * 33, {"": None}, {"name": "x"}),
)


def mutate_bytes(lot: random.Random, data: bytes) -> bytes:
    """One to four changes of bytes; those near the start, where headers are, more often."""
    changed = bytearray(data)
    for _ in range(lot.choice((1, 1, 1, 2, 4))):
        lot.choice(_CHANGES)(lot, changed)
    return bytes(changed)


def _place(lot: random.Random, data: bytearray, room: int = 1) -> int:
    most = max(0, len(data) - room)
    return lot.randint(0, min(most, 400) if lot.random() < 0.3 else most)


def _flip(lot: random.Random, data: bytearray) -> None:
    if data:
        data[_place(lot, data)] ^= 1 << lot.randrange(8)


def _byte(lot: random.Random, data: bytearray) -> None:
    if data:
        data[_place(lot, data)] = lot.choice((0, 1, 255, lot.randrange(256)))


def _number(lot: random.Random, data: bytearray) -> None:
    size, code = lot.choice(((2, "H"), (4, "I"), (8, "Q")))
    if len(data) >= size:
        value = lot.choice(_STRIKING) % 2 ** (8 * size)
        struct.pack_into(lot.choice("<>") + code, data, _place(lot, data, size), value)


def _cut(lot: random.Random, data: bytearray) -> None:
    del data[_place(lot, data) :]


def _drop(lot: random.Random, data: bytearray) -> None:
    start = _place(lot, data)
    del data[start : start + lot.choice((1, 2, 8, 64))]


def _repeat(lot: random.Random, data: bytearray) -> None:
    start = _place(lot, data)
    data[start:start] = data[start : start + lot.choice((1, 8, 64))]


def _blank(lot: random.Random, data: bytearray) -> None:
    start = _place(lot, data)
    size = min(lot.choice((4, 16, 256)), len(data) - start)
    data[start : start + size] = bytes([lot.choice((0, 255))]) * size


def _swap(lot: random.Random, data: bytearray) -> None:
    if len(data) > 64:
        one, other = sorted((_place(lot, data, 32), _place(lot, data, 32)))
        data[one : one + 16], data[other : other + 16] = (
            data[other : other + 16],
            data[one : one + 16],
        )


_CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    *(_flip, _flip, _byte, _byte, _number, _number, _cut, _drop, _repeat, _blank, _swap),
)


def mutate_json(lot: random.Random, data: bytes) -> bytes:
    """Damage to the text, or a value, key or branch of the document that is another one."""
    if lot.random() < 0.25:
        return mutate_bytes(lot, data)
    document = json.loads(data)
    for _ in range(lot.choice((1, 1, 2))):
        document = _changed(lot, document)
    return json.dumps(document).encode()


def _changed(lot: random.Random, document: Any) -> Any:
    places = list(_places(document))
    if not places:
        return lot.choice(_VALUES)
    parent, key = lot.choice(places)
    match lot.randrange(5):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[lot.choice(("x", "", "..", "zarr_format", key + "/"))] = parent.pop(key)
        case 2:
            other, place = lot.choice(places)
            parent[key] = json.loads(json.dumps(other[place]))
        case 3 if isinstance(parent[key], int) and not isinstance(parent[key], bool):
            parent[key] += lot.choice((-1, 1, 2**16, -(2**33)))
        case _:
            parent[key] = lot.choice(_VALUES)
    return document


def _places(node: Any) -> Any:
    """Every place in a document, as what it is in and under which key."""
    items = list(node.items()) if isinstance(node, dict) else []
    items = list(enumerate(node)) if isinstance(node, list) else items
    for key, value in items:
        yield node, key
        yield from _places(value)
