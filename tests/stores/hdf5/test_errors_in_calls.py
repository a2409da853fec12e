"""What is raised in a Python function that HDF5 calls comes out as it was raised.

HDF5 goes on after it for a moment, and Python makes `SystemError` of an error that is set when
another function is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import fmristore as fs
from fmristore_stores.errors import FmristoreError, StorageError
from fmristore_stores.hdf5 import files, links

DATA = np.arange(3 * 2 * 2 * 4, dtype="i2").reshape(3, 2, 2, 4)
ERRORS = [KeyboardInterrupt(), SystemExit(143), OSError(5, "no answer")]


class Striking:
    """Raise an error in one call of many.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
        Undoes it.
    error : BaseException
        What is raised.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self._monkeypatch = monkeypatch
        self._error = error
        self.calls = 0
        self.strike = -1

    def at(self, owner: Any, name: str) -> None:
        """Strike in a function."""
        plain = getattr(owner, name)

        def struck(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self.strike:
                raise self._error
            return plain(*arguments)

        self._monkeypatch.setattr(owner, name, struck)

    def each(self, count: int) -> Iterator[None]:
        """Strike in one call after the other."""
        for number in range(1, count + 1):
            self.calls, self.strike = 0, number
            yield
        self.strike = -1


def expect(error: BaseException) -> Any:
    """Expect an error, or what it is in our tree."""
    return pytest.raises(StorageError if isinstance(error, OSError) else type(error))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_reading_through_an_object(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs.NeuroVec.create(DATA, tmp_path / "a.h5", space=np.eye(4)).close()
    url = f"memory://{tmp_path.name}/a.h5"
    fsspec.filesystem("memory").pipe(url, (tmp_path / "a.h5").read_bytes())
    striking = Striking(monkeypatch, error)
    for name in ("seek", "tell", "read", "readinto"):
        striking.at(files._FileObject, name)

    def read() -> Any:
        with fs.open(url) as image:
            return np.asarray(image)

    np.testing.assert_array_equal(read(), DATA)
    assert striking.calls > 10
    for _ in striking.each(striking.calls):
        with expect(error) as found:
            read()
        if isinstance(found.value, FmristoreError):
            assert found.value.url == url
    np.testing.assert_array_equal(read(), DATA)


@pytest.mark.parametrize("error", ERRORS[:2], ids=repr)
def test_listing_links(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    striking = Striking(monkeypatch, error)
    striking.at(links, "Entry")
    fs.NeuroVec.create(DATA, path, space=np.eye(4)).close()
    count = striking.calls
    assert count > 3
    before = path.read_bytes()
    for _ in striking.each(count):
        with expect(error):
            fs.NeuroVec.create(DATA + 1, path, space=np.eye(4), overwrite=True).close()
        assert path.read_bytes() == before
