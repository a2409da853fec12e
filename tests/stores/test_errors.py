"""The error tree: as drawn, picklable, every kind once."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from fmristore_stores import errors
from fmristore_stores.causes import causes
from fmristore_stores.errors import FmristoreError, NotFoundError

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn_tree() -> dict[str, tuple[str, str]]:
    """Parent and builtin base of each class, as the docstring of the module draws them."""
    assert errors.__doc__
    drawing = errors.__doc__.split("::", 1)[1]
    drawn: dict[str, tuple[str, str]] = {}
    parents: list[str] = []
    for line in drawing.splitlines():
        found = re.match(r"^    ([ │├└─]*)(\w+Error)(?: \(also (\w+)\))?", line)
        if found:
            depth = len(found[1]) // 4
            parents[depth:] = [found[2]]
            drawn[found[2]] = (parents[depth - 1] if depth else "", found[3] or "")
    return drawn


def test_tree_is_as_drawn() -> None:
    actual = {}
    for cls in CLASSES:
        parent, *builtin = cls.__bases__
        own = issubclass(parent, FmristoreError)
        actual[cls.__name__] = (
            parent.__name__ if own else "",
            builtin[0].__name__ if builtin else "",
        )
    assert drawn_tree() == actual


def test_all_classes_are_public() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert defined == set(errors.__all__)


def test_kinds_are_unique() -> None:
    kinds = [cls.kind for cls in CLASSES]
    assert len(set(kinds)) == len(kinds)
    assert all("kind" in vars(cls) for cls in CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("where", [{}, {"url": "u.h5"}, {"url": "u.h5", "node": "a/0"}], ids=str)
def test_copies_keep_everything(cls: type[FmristoreError], where: dict[str, str]) -> None:
    error = cls("what was found", **where)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert (again.message, again.url, again.node) == (error.message, error.url, error.node)
        assert str(again) == str(error)
        assert again.kind == error.kind


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_text_says_where(cls: type[FmristoreError]) -> None:
    assert str(cls("found x")) == "found x"
    assert str(cls("found x", url="u.h5")) == "u.h5: found x"
    assert str(cls("found x", url="u.h5", node="a/0")) == "u.h5[/a/0]: found x"


def test_builtin_handlers_catch() -> None:
    with pytest.raises(FileNotFoundError):
        raise NotFoundError("gone")


def test_causes_of_an_error_end() -> None:
    first, second = ValueError("a"), OSError("b")
    second.__cause__ = first
    assert list(causes(second)) == [second, first]
    first.__cause__ = second
    assert list(causes(second)) == [second, first]
    assert list(causes(None)) == []
