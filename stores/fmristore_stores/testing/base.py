"""Base of the parts of the suite: how the store under test is opened."""

from __future__ import annotations

import abc
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings

from fmristore_stores.protocol import AnyArray, Store

__all__ = ["Mode", "StoreSuite", "case", "fresh_folder", "fresh_name", "scaled"]

Mode = Literal["r", "r+", "w"]
"""Open for reading, for reading and writing, or empty and for both."""

_numbers = itertools.count()


def scaled(fraction: float) -> settings:
    """Settings of a property: this fraction of the examples that the profile in force has."""
    return settings(
        max_examples=max(5, int(settings().max_examples * fraction)),
        deadline=None,
        suppress_health_check=[
            HealthCheck.differing_executors,
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
        ],
    )


@contextlib.contextmanager
def case(name: object) -> Iterator[None]:
    """Name the case of a test that failed, where one test goes through many."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the case {name!r}")
        raise


class StoreSuite(abc.ABC):
    """Base of the parts of the suite."""

    @abc.abstractmethod
    def open_store(self, folder: Path, mode: Mode) -> Store:
        """Open the one store under test that belongs to `folder`.

        Parameters
        ----------
        folder : Path
            An existing folder that is empty before the first call with mode ``"w"``; a store
            elsewhere may use it as a key.
        mode : {"r", "r+", "w"}
            ``"w"`` makes a new and empty store; it is called once for a folder. The others open
            the store that was made and closed before.
        """

    def peek(self, folder: Path, path: str) -> AnyArray | None:  # noqa: ARG002
        """Read an array of the closed store in `folder` without our code, None if impossible."""
        return None

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        """A new and empty store, closed after the test."""
        with self.open_store(tmp_path, "w") as store:
            yield store


def fresh_folder(parent: Path) -> Path:
    """A new folder inside `parent`, for one example of a property."""
    folder = parent / f"example-{next(_numbers)}"
    folder.mkdir()
    return folder


def fresh_name() -> str:
    """The name of a node that does not exist yet, for one example of a property."""
    return f"node-{next(_numbers)}"
