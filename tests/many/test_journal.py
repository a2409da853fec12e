"""Processes that keep one journal lose nothing of each other."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from fmristore.many import journal as named
from fmristore.many.journal import Journal
from fmristore_stores.errors import StorageError

A, B, C = ({"state": letter} for letter in "abc")


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "new" / "journal.jsonl")
    return f"memory://{uuid.uuid4().hex}/journal.jsonl"


def test_two_that_were_opened_at_once(url: str) -> None:
    with Journal(url) as one, Journal(url) as other:
        one.note({"a": A})
        other.note({"b": B})
        one.note({"c": C})
    assert Journal(url).entries == {"a": A, "b": B, "c": C}


def test_what_another_noted_of_a_run_that_begins_stays(url: str) -> None:
    with Journal(url) as one:
        with Journal(url) as other:
            other.note({"a": A})
        one.note({"a": B, "b": B}, new=True)
    assert Journal(url).entries == {"a": A, "b": B}


def test_what_others_note_while_the_whole_is_written(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the journal is written as a whole, that is read, changed and published in one turn."""
    if not url.startswith("memory"):
        pytest.skip("grows line by line")
    module: Any = named
    plainly = module.publish_file
    monkeypatch.setenv("FMRISTORE_WAIT", "0")

    def publish(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(module, "publish_file", plainly)
        with pytest.raises(StorageError, match=r"is changing the store|is writing this store"):
            other.__exit__()
        return plainly(*args, **options)

    other = Journal(url)
    other.note({"b": B})
    with Journal(url) as one:
        one.note({"a": A})
        monkeypatch.setattr(module, "publish_file", publish)
    other.__exit__()
    assert Journal(url).entries == {"a": A, "b": B}


@pytest.mark.parametrize("cut", ['{"r', '{"run": "c", "rec', '{"run": "c", "record": {}}'])
def test_a_line_that_another_did_not_finish(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path)
    first.note({"a": A})
    with path.open("a") as file:
        file.write(cut)
    late = Journal(path)
    first.note({"b": B})
    late.note({"d": C})
    first.note({"e": A})
    assert Journal(path).entries == {"a": A, "b": B, "d": C, "e": A}
    assert [one.name for one in tmp_path.iterdir()] == ["journal.jsonl"]
