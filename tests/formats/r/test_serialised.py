"""Objects that R has serialised: what they hold, and what they may not ask for."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import pytest

from fmristore.formats.r.serialised import RValue, parse_serialised, plain_value
from fmristore_stores.errors import CorruptDataError, LayoutNotSupportedError, MemoryLimitError
from fmristore_stores.limits import LIMITS
from tests.r_objects import HEADER, data_frame, r_value, serialise

NULL = 254
NAMED = 0x402


def integers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def symbol(name: bytes) -> bytes:
    return integers(1, 0x40009, len(name)) + name


def alternative(name: bytes, state: bytes, attributes: bytes = b"") -> bytes:
    """A vector that R stores as what it is made of."""
    about = integers(2) + symbol(name) + integers(2) + symbol(b"base") + integers(2, 13, 1, 13)
    return HEADER + integers(238) + about + integers(NULL) + state + (attributes or integers(NULL))


def doubles(*values: float) -> bytes:
    return integers(14, len(values)) + struct.pack(f">{len(values)}d", *values)


def read(stream: bytes) -> Any:
    lost: list[str] = []
    found = plain_value(parse_serialised(stream, url="u", node="n").value, lost.append, "it")
    return (found, lost) if lost else found


def test_values_become_plain_ones() -> None:
    table = data_frame(
        {
            "n": [1, -(2**31)],
            "x": [np.nan, np.inf],
            "yes": r_value([True, False]),
            "when": r_value([0.5, np.nan], **{"class": ["POSIXct", "POSIXt"]}),
            "wide": r_value(np.array([2**60, -(2**63)]).view(np.float64), **{"class": "integer64"}),
        }
    )
    given = r_value(
        {
            "table": table,
            "matrix": np.array([[1, 2, 3], [4, 5, 6]]),
            "text": "größe",
            "texts": ["a", "b"],
            "nothing": None,
            "list": RValue("list", [r_value(1), r_value("x")]),
            "empty": {},
        }
    )
    assert read(serialise(given)) == {
        "table": {
            "n": [1, None],
            "x": [None, "Inf"],
            "yes": [True, False],
            "when": ["1970-01-01T00:00:00.500000Z", None],
            "wide": [2**60, None],
        },
        "matrix": [[1, 2, 3], [4, 5, 6]],
        "text": "größe",
        "texts": ["a", "b"],
        "nothing": None,
        "list": [1, "x"],
        "empty": {},
    }


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (alternative(b"compact_intseq", doubles(4, 3, -1)), [3, 2, 1, 0]),
        (alternative(b"compact_realseq", doubles(3, 2, 1)), [2.0, 3.0, 4.0]),
        (alternative(b"wrap_real", integers(2) + doubles(1, 5) + integers(NULL)), [1.0, 5.0]),
        (
            alternative(
                b"deferred_string", integers(2) + doubles(5, 1e5, 123456) + integers(13, 1, 0)
            ),
            ["5", "1e+05", "123456"],
        ),
        (HEADER + integers(16, 2, 9, -1, 0x4009, 1) + b"\xe4", [None, "ä"]),
        (HEADER + integers(16, 1, 0x8009, 1) + b"\xe4", "\\xe4"),
    ],
    ids=["integers", "numbers", "wrapped", "texts", "latin", "damaged-text"],
)
def test_vectors_that_are_stored_in_short(stream: bytes, expected: Any) -> None:
    assert read(stream) == expected


def test_digests_are_those_of_all_values_or_none() -> None:
    stream = serialise(r_value([1, 2]))
    found = parse_serialised(stream, url="u", node="n").digests
    assert hashlib.sha256(stream[23:]).hexdigest() in found
    short = alternative(b"compact_intseq", doubles(2, 1, 1))
    assert parse_serialised(short, url="u", node="n").digests == ()


def test_calls_are_named_and_not_made() -> None:
    call = integers(6) + symbol(b"system") + integers(2, 16, 1, 0x40009, 2) + b"ls" + integers(NULL)
    listed = HEADER + integers(19, 2) + call + integers(253)
    assert read(listed) == ([None, None], ["it/1 (a call)", "it/2 (an environment)"])


@pytest.mark.parametrize(
    ("kind", "name"),
    [(3, "a function"), (4, "an environment"), (21, "byte code"), (22, "an external pointer")],
)
def test_what_is_no_data_is_refused(kind: int, name: str) -> None:
    # Byte code that announces 2**31 - 1 repetitions.
    with pytest.raises(LayoutNotSupportedError, match=f"holds {name}") as caught:
        read(HEADER + integers(kind, 2**31 - 1, NULL, 0))
    assert (caught.value.url, caught.value.node) == ("u", "n")


@pytest.mark.parametrize(
    "stream",
    [
        HEADER + integers(13, 2**31 - 1, 5),
        HEADER + integers(13, -1, 2**31 - 1, -1),
        HEADER + integers(13, -2),
        HEADER + integers(16, 1 << 28),
        HEADER + integers(16, 1, 9, 1 << 30),
        HEADER + integers(19, 1 << 28, NULL),
        HEADER + integers(19, 1) * 150 + integers(NULL),
        HEADER + (integers(NAMED) + integers(1, 9, 0)) * 150,
        HEADER + integers((5 << 8) | 255),
        HEADER + integers(13, 1, 5, 5),
        HEADER[:20],
        alternative(b"compact_intseq", doubles(2**20, 2**31 - 5, 1)),
        alternative(b"compact_intseq", doubles(np.inf, 1, 1)),
        alternative(b"wrap_real", integers(NULL)),
        alternative(b"deferred_string", integers(NULL)),
    ],
    ids=range(15),
)
def test_streams_that_announce_more_than_there_is(stream: bytes) -> None:
    with pytest.raises(CorruptDataError, match="damaged"):
        read(stream)


def test_short_streams_take_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIMITS, "consolidated", 1 << 20)
    for name in (b"compact_intseq", b"compact_realseq"):
        with pytest.raises(MemoryLimitError, match=r"LIMITS\.consolidated"):
            read(alternative(name, doubles(1e9, 1, 1)))
    monkeypatch.setattr(LIMITS, "values", 100)
    with pytest.raises(MemoryLimitError, match=r"LIMITS\.values"):
        read(HEADER + integers(19, 200) + integers(19, 0) * 200)


def test_other_ways_of_serialising_are_named() -> None:
    with pytest.raises(LayoutNotSupportedError, match="XDR"):
        read(b"A\n3\n")
    with pytest.raises(LayoutNotSupportedError, match="version 4"):
        read(b"X\n" + integers(4, 0, 0))
    with pytest.raises(LayoutNotSupportedError, match="mmap_real"):
        read(alternative(b"mmap_real", integers(NULL)))


@pytest.mark.parametrize("dim", [[1] * 65, [10**9, 0], [0, 10**9, 10**9], [-1, -2], []])
def test_shapes_that_claim_more_than_there_is(dim: list[int]) -> None:
    """Lists of nothing would take memory, and numpy has no more than 64 axes."""
    count = 1 if len(dim) == 65 else 2 if dim == [-1, -2] else 0
    matrix = RValue("integer", np.arange(count), {"dim": r_value(np.array(dim, np.int64))})
    expected = 0 if count == 1 else list(range(count))
    assert read(serialise(matrix)) == expected


def test_the_number_of_missing_integers_is_a_number_among_doubles() -> None:
    parts = integers(2) + doubles(-(2.0**31)) + integers(13, 1, 0)
    assert read(alternative(b"deferred_string", parts)) == "-2147483648"
    parts = integers(2, 13, 1, -(2**31)) + integers(13, 1, 0)
    assert read(alternative(b"deferred_string", parts)) is None
