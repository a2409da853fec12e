"""Names from data as names of nodes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fmristore.formats.names import decode_name, encode_name
from fmristore_stores.errors import InvalidInputError, MetadataError
from fmristore_stores.spec import check_name

_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=400
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rest_run-1", "rest_run-1"),
        ("Gesichter und Häuser", "Gesichter und Häuser"),
        ("Faces > Houses", "Faces %3E Houses"),
        ("a/b", "a%2Fb"),
        ("100%", "100%25"),
        (".", "%2E"),
        ("..", ".%2E"),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"),
        ("__proto", "%5F_proto"),
        ("zarr.json", "%7Aarr.json"),
        ("line\nbreak", "line%0Abreak"),
        ("ends in a dot.", "ends in a dot%2E"),
        (" ", "%20"),
    ],
)
def test_names_stay_readable(text: str, name: str) -> None:
    assert encode_name(text) == name
    assert decode_name(name) == text


@given(_TEXT)
@example("x" * 255)
@example("x" * 256)
@example("__" + "ä" * 300)
@example("%" * 10_000)
@example("\U0001f9e0" * 200)
def test_every_text_becomes_a_valid_name(text: str) -> None:
    name = encode_name(text)
    assert check_name(name) == name
    if "%~" in name:
        assert len(name.encode()) > 215
        with pytest.raises(MetadataError, match="cut"):
            decode_name(name)
    else:
        assert decode_name(name) == text


@given(_TEXT, _TEXT)
def test_different_texts_get_different_names(one: str, other: str) -> None:
    assert (encode_name(one) == encode_name(other)) == (one == other)


def test_long_texts_that_begin_alike_get_different_names() -> None:
    assert encode_name("x" * 10_000 + "1") != encode_name("x" * 10_000 + "2")


@pytest.mark.parametrize("text", ["", "a\x00b", "\ud800", None, 3])
def test_what_cannot_be_a_name_is_refused(text: object) -> None:
    with pytest.raises(InvalidInputError):
        encode_name(text)


@pytest.mark.parametrize("name", ["100%", "%zz", "%ff", "%C3%28"])
def test_other_names_are_not_decoded(name: str) -> None:
    with pytest.raises(MetadataError):
        decode_name(name)
